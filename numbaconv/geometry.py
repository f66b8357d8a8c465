"""Index arithmetic of a convolution, written once for the CPU and for CUDA: 32-bit, no arrays, no state."""

from __future__ import annotations

import numpy as np

from numbaconv.jit import compiled
from numbaconv.problem import ConvProblem

SIZES = ("ic", "ih", "iw", "kh", "kw", "sh", "sw", "pad_top", "pad_left", "dh", "dw", "oh", "ow")
STEPS = ("x_n", "x_c", "x_h", "x_w")
GEOMETRY = np.dtype([(name, np.int32) for name in SIZES] + [(name, np.int64) for name in STEPS])
"""A problem's sizes, and the steps of its input in elements."""


def geometry_of(problem: ConvProblem, x: np.ndarray) -> np.ndarray:
    """The ``GEOMETRY`` record of a problem and its input, seen as (mb, ic, ih, iw)."""
    steps = [step // x.itemsize for step in x.strides]
    sizes = [getattr(problem, name) for name in SIZES]
    return np.array([(*sizes, *steps)], GEOMETRY)


def copy_records(records: np.ndarray) -> np.ndarray:
    """A copy of contiguous records, made as bytes: NumPy copies structured arrays field by field."""
    return records.view(np.uint8).copy().view(records.dtype)


@compiled
def reached(outputs, stride, tap, size):
    """The outputs [low, high) along one axis whose tap lies in the input.

    `tap` is where output 0's tap falls (kernel index times dilation, less the pad), `size` the input's length.
    """
    low = np.int32(0)
    if tap < 0:
        low = (stride - 1 - tap) // stride
    high = outputs
    if tap + (outputs - 1) * stride >= size:
        high = (size - 1 - tap) // stride + 1 if tap < size else np.int32(0)
    low = min(low, outputs)
    return low, max(low, high)


@compiled
def tap_of(line, g):
    """(kernel row, kernel column, channel) of row `line` of the patch matrix: all channels of a tap, then the next."""
    tap = line // g.ic
    r = tap // g.kw
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
    z = line % g.ow
    rest = line // g.ow
    return rest // g.rows, rest % g.rows, z


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
