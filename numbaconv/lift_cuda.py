"""The lift stage on a GPU: shifted products added up into the output.

``lift_kernel`` is ``lift.lift`` with a thread for a few elements of the output; terms are added in the order given, so
the bits do not depend on the grid. Offsets are in elements.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import types

from numbaconv.devices.copying import MOST_DOWN, blocks_of
from numbaconv.devices.intrinsics import cuda, float32, float64, int32, udiv32
from numbaconv.jit_cuda import Function, Kernel, pointer, record

THREADS = 128
ITEMS = 4
"""Elements of a thread, so that what a term says is read once for all of them."""


class Share(NamedTuple):
    """A product's share of every image: ``lift.Term`` in elements, and with a step from image to image.

    Element (k, y, z) of image n takes the one at `place` + n·`n_step` + (k - k_first)·`k_step` +
    (y - y_first)·`row_step` + (z - z_first)·`step` of the products, where all three lie within [first, end).
    """

    place: int
    n_step: int
    k_step: int
    row_step: int
    step: int
    k_first: int
    k_end: int
    y_first: int
    y_end: int
    z_first: int
    z_end: int


FIELDS = len(Share._fields)


class Lift(NamedTuple):
    """Terms; the output's sizes; whether neighbouring threads take neighbouring channels, or columns; and what is done:
    `begin` at zero (or from what the output holds), `finish` with bias, residual and limits."""

    count: int
    images: int
    channels: int
    rows: int
    columns: int
    channels_fast: int
    begin: int
    finish: int
    has_bias: int
    has_residual: int


class Steps(NamedTuple):
    """Element steps of an output or a residual: image, channel, row, column."""

    n: int
    k: int
    row: int
    step: int


NOWHERE = Steps(0, 0, 0, 0)


@Function
def limited(value, low, high):
    """Within [low, high]; a NaN stays one."""
    if value < low:
        value = low
    if value > high:
        value = high
    return value


@functools.cache
def lift_kernel(itemsize: int) -> Kernel:
    """The kernel that adds terms up; with no terms it is the epilogue in a pass of its own.

    Its arguments: table (pointer to int32), products, out, bias, residual (pointers); w (``Lift``), o, r (``Steps``);
    low, high. ``lift_launch`` makes them. A `bias` or `residual` that w has not is not read.
    """
    real = float32 if itemsize == 4 else float64

    def kernel(table, products, out, bias, residual, w, o, r, low, high):
        ks, ys, zs = cuda.local.array(ITEMS, int32), cuda.local.array(ITEMS, int32), cuda.local.array(ITEMS, int32)
        sums = cuda.local.array(ITEMS, real)
        size = int32(w.channels * w.rows * w.columns)
        first = int32(cuda.blockIdx.x * (THREADS * ITEMS) + cuda.threadIdx.x)
        fast, middle = (w.channels, w.columns) if w.channels_fast else (w.columns, w.rows)
        for i in range(ITEMS):
            number = int32(first + i * THREADS)
            rest = int32(udiv32(number, fast))
            inner = int32(number - rest * fast)
            outer = int32(udiv32(rest, middle))
            between = int32(rest - outer * middle)
            ks[i], ys[i], zs[i] = (inner, outer, between) if w.channels_fast else (outer, between, inner)
        for n in range(int32(cuda.blockIdx.y), w.images, int32(cuda.gridDim.y)):
            for i in range(ITEMS):
                sums[i] = real(0)
                if not w.begin and first + i * THREADS < size:
                    sums[i] = out[int32(n * o.n + ks[i] * o.k + ys[i] * o.row + zs[i] * o.step)]
            for term in range(w.count):
                t = int32(term * FIELDS)
                place = int32(table[t] + n * table[t + 1])
                k_step, row_step, step = table[t + 2], table[t + 3], table[t + 4]
                k_first, k_end, y_first, y_end = table[t + 5], table[t + 6], table[t + 7], table[t + 8]
                z_first, z_end = table[t + 9], table[t + 10]
                for i in range(ITEMS):
                    k, y, z = ks[i], ys[i], zs[i]
                    if k >= k_first and k < k_end and y >= y_first and y < y_end and z >= z_first and z < z_end:
                        k, y, z = int32(k - k_first), int32(y - y_first), int32(z - z_first)
                        sums[i] += products[int32(place + k * k_step + y * row_step + z * step)]
            for i in range(ITEMS):
                if first + i * THREADS < size:
                    value = sums[i]
                    if w.finish:
                        if w.has_bias:
                            value += bias[ks[i]]
                        if w.has_residual:
                            value += residual[int32(n * r.n + ks[i] * r.k + ys[i] * r.row + zs[i] * r.step)]
                        value = limited(value, low, high)
                    out[int32(n * o.n + ks[i] * o.k + ys[i] * o.row + zs[i] * o.step)] = value

    memory, steps = pointer(itemsize), record(Steps)
    reals = [memory.dtype] * 2
    integers = types.CPointer(types.int32)
    signature = types.void(integers, *[memory] * 4, record(Lift), steps, steps, *reals)
    return Kernel(f"lift_{itemsize}", kernel, signature, THREADS, 4)


def lift_launch(
    shape: Sequence[int],
    steps: Sequence[int],
    terms: Sequence[Share],
    residual_steps: Sequence[int] | None = None,
    has_bias: bool = False,
    begin: bool = True,
    finish: bool = True,
) -> tuple[tuple[int, int] | None, np.ndarray, tuple[Lift, Steps, Steps]]:
    """What a ``lift_kernel`` is launched with.

    Parameters
    ----------
    shape, steps : four ints
        Images, channels, rows, columns of the output, and its steps in elements.
    terms : sequence of Share
    residual_steps : four ints, optional
        Those of a residual, which is added with the bias, when it finishes.
    has_bias, begin, finish : bool
        There is a bias; start from zero, not from what the output holds; the epilogue after the last term.

    Returns
    -------
    grid : (int, int), or None
        None where the output is empty.
    table : ndarray of int32
        The terms, to be copied to the device.
    records : (Lift, Steps, Steps)
        What follows the pointers in the kernel's arguments, before the limits.
    """
    images, channels, rows, columns = shape
    table = np.array([tuple(term) for term in terms] or [(0,) * FIELDS], np.int32)
    channels_fast = channels > 1 and abs(steps[1]) < abs(steps[3])
    residual = NOWHERE if residual_steps is None else Steps(*residual_steps)
    flags = (channels_fast, begin, finish, has_bias, residual_steps is not None)
    lift = Lift(len(terms), images, channels, rows, columns, *map(int, flags))
    size = channels * rows * columns
    grid = (blocks_of(size, THREADS * ITEMS), min(images, MOST_DOWN)) if size * images else None
    return grid, table, (lift, Steps(*steps), residual)
