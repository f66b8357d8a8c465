"""Index arithmetic of a convolution, written once for the CPU and for CUDA: no arrays, no state.

`g` is anything with a convolution's sizes by name: a record of ``GEOMETRY`` on the CPU, a ``Window`` in a CUDA kernel.
Counts are not negative and fit 32 bits on a GPU, where division is as wide as its operands (``quotient``).
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numba import types

from numbaconv.devices.intrinsics import udiv32, umod32
from numbaconv.jit import compiled, intrinsic
from numbaconv.jit_cuda import meaning, rebound
from numbaconv.problem import ConvProblem
from numbaconv.workspace import address_of

SIZES = ("ic", "ih", "iw", "kh", "kw", "sh", "sw", "pad_top", "pad_left", "dh", "dw", "oh", "ow")
STEPS = ("x_n", "x_c", "x_h", "x_w")
GEOMETRY = np.dtype([(name, np.int32) for name in SIZES] + [(name, np.int64) for name in STEPS])
"""A problem's sizes, and the steps of its input in elements."""


class Window(NamedTuple):
    """``GEOMETRY`` as a CUDA kernel takes it; all in 32 bits."""

    ic: int
    ih: int
    iw: int
    kh: int
    kw: int
    sh: int
    sw: int
    pad_top: int
    pad_left: int
    dh: int
    dw: int
    oh: int
    ow: int
    x_n: int
    x_c: int
    x_h: int
    x_w: int


def window_of(problem: ConvProblem, x, **changes: int) -> Window:
    """The ``Window`` of a problem and its input (mb, channels, ih, iw), some sizes changed."""
    sizes = {name: getattr(problem, name) for name in SIZES} | {"ic": x.shape[1]} | changes
    steps = (step // x.itemsize for step in x.strides)
    return Window(**sizes, **dict(zip(STEPS, steps, strict=True)))


def geometry_of(problem: ConvProblem, x: np.ndarray) -> np.ndarray:
    """The ``GEOMETRY`` record of a problem and its input, seen as (mb, ic, ih, iw)."""
    steps = [step // x.itemsize for step in x.strides]
    sizes = [getattr(problem, name) for name in SIZES]
    return np.array([(*sizes, *steps)], GEOMETRY)


def copy_records(records: np.ndarray) -> np.ndarray:
    """A copy of contiguous records, made as bytes: NumPy copies structured arrays field by field."""
    return records.view(np.uint8).copy().view(records.dtype)


def place_record(record: np.ndarray, arrays: Mapping[str, np.ndarray | None]) -> np.ndarray:
    """A copy of a record with the addresses of arrays, 0 for None, in the fields of their names."""
    placed = copy_records(record)
    for name, array in arrays.items():
        placed[name] = 0 if array is None else address_of(array)
    return placed


def _division(name: str):
    """A division of non-negative integers as wide as the wider one; Numba's // is always 64 bits wide, and signed."""

    def typing(typingctx, a, b):
        result = types.int64 if max(a.bitwidth, b.bitwidth) == 64 else types.int32

        def codegen(context, builder, signature, values):
            a, b = (
                context.cast(builder, value, kind, result) for value, kind in zip(values, signature.args, strict=True)
            )
            return getattr(builder, name)(a, b)

        return result(a, b), codegen

    typing.__name__ = name
    return intrinsic(typing)


quotient, remainder = _division("udiv"), _division("urem")
meaning(quotient, udiv32)
meaning(remainder, umod32)


def plain(function):
    """One of the functions below, for Python's own integers."""
    ways = ((quotient, operator.floordiv), (remainder, operator.mod))
    return rebound(function.py_func, lambda value: next((way for known, way in ways if value is known), value))


@compiled
def reached(outputs, stride, tap, size):
    """The outputs [low, high) along one axis whose tap lies in the input.

    `tap` is where output 0's tap falls (kernel index times dilation, less the pad), `size` the input's length.
    """
    low = np.int32(0)
    if tap < 0:
        low = quotient(stride - 1 - tap, stride)
    high = outputs
    if tap + (outputs - 1) * stride >= size:
        high = quotient(size - 1 - tap, stride) + 1 if tap < size else np.int32(0)
    low = min(low, outputs)
    return low, max(low, high)


@compiled
def tap_of(line, g):
    """(kernel row, kernel column, channel) of row `line` of the patch matrix: all channels of a tap, then the next."""
    tap = quotient(line, g.ic)
    r = quotient(tap, g.kw)
    return r, tap - r * g.kw, line - tap * g.ic


@compiled
def row_of(y, r, g):
    """The input row that output row `y` reads through kernel row `r`; outside 0 ... ih - 1 is padding."""
    return y * g.sh + r * g.dh - g.pad_top


@compiled
def column_of(z, s, g):
    """The input column that output column `z` reads through kernel column `s`; outside 0 ... iw - 1 is padding."""
    return z * g.sw + s * g.dw - g.pad_left


@compiled
def pixel_of(line, g):
    """(image, output row, output column) of column `line` of the patch matrix, counted from a chunk's first."""
    rest = quotient(line, g.ow)
    n = quotient(rest, g.rows)
    return n, rest - n * g.rows, line - rest * g.ow


@compiled
def forward(n, y, z, pixels, g):
    """The pixel so many further on, at most at the beginning of the next row."""
    z += pixels
    if z == g.ow:
        z = 0
        y += 1
        if y == g.rows:
            y = 0
            n += 1
    return n, y, z
