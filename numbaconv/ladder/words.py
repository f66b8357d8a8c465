"""The words of a step's compiled code that Numba does not have.

A step uses these, scalar indexing ``a[i, p]`` and ``.shape``, and nothing else of an array: so it runs unchanged on
arrays that record what is touched.
"""

from __future__ import annotations

import numpy as np
from numba import types

from numbaconv.errors import ShapeError
from numbaconv.jit import compiled, overload

__all__ = ["LINE", "buffer", "sizes"]

LINE = 64
"""Bytes of a cache line."""


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
