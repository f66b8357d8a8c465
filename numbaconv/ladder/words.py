"""The words of a step's compiled code that Numba does not have.

A step uses these, scalar indexing ``a[i, p]`` and ``.shape``, and nothing else of an array: so it runs unchanged on
arrays that record what is touched.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from numbaconv.errors import ShapeError
from numbaconv.jit import compiled, intrinsic, overload
from numbaconv.simd import ELEMENTS, const

__all__ = ["LINE", "buffer", "index", "registers", "sizes"]

LINE = 64
"""Bytes of a cache line."""

index = np.uintp
"""A number as an index that is not negative.

Numba reads a negative index from the end, as Python does. Where LLVM cannot see that an index is not negative, there is
a test for it in the inner loop, and LLVM makes no vectors of that loop: it becomes 5 times slower.
"""


@compiled
def sizes(a, b, out):
    """m, n and k of out = a · b."""
    m, k = a.shape
    n = b.shape[1]
    if b.shape[0] != k:
        raise ShapeError("a has another number of columns than b has rows; a step takes a (m, k), b (k, n), out (m, n)")
    if out.shape[0] != m or out.shape[1] != n:
        raise ShapeError("out is of another shape than the product; a step takes a (m, k), b (k, n), out (m, n)")
    return m, n, k


def buffer(like, rows, columns):
    """An array of `rows` x `columns` elements like those of `like`, which holds nothing yet.

    It begins with a cache line, so that vectors of it do not lie on two.
    """
    return _buffer(like, rows, columns)


def _buffer(like, rows, columns):
    whole = np.empty(rows * columns + LINE // like.itemsize, like.dtype)
    first = -whole.ctypes.data % LINE // like.itemsize
    return whole[first : first + rows * columns].reshape(rows, columns)


@overload(buffer)
def _compiled_buffer(like, rows, columns):
    return _buffer if isinstance(like, types.Array) else None


def registers(rows, columns):
    """A tile of `rows` x `columns` float32 for sums; in compiled code, constants.

    There it lies in the function's own frame, where no array can reach it: so LLVM may keep it in registers, and does
    if they suffice.
    """
    return np.empty((rows, columns), np.float32)


@overload(registers, prefer_literal=True)
def _compiled_registers(rows, columns):
    return lambda rows, columns: _frame(rows, columns)


@intrinsic(prefer_literal=True)
def _frame(typingctx, rows, columns):
    tile_type = types.Array(types.float32, 2, "C")

    def codegen(context, builder, signature, args):
        shape, element = (rows.literal_value, columns.literal_value), ELEMENTS[4]
        memory = cgutils.alloca_once(builder, ir.ArrayType(element, shape[0] * shape[1]))
        memory.align = LINE
        tile = context.make_array(tile_type)(context, builder)
        context.populate_array(
            tile,
            data=builder.bitcast(memory, element.as_pointer()),
            shape=[const(size) for size in shape],
            strides=[const(4 * shape[1]), const(4)],
            itemsize=const(4),
            meminfo=None,
        )
        return tile._getvalue()

    return tile_type(rows, columns), codegen
