"""The lift stage: shifted products are added up into the output; bias, residual and activation in the same pass.

    out[k, y, z]  (+)=  sum over terms t of  product_t[k, y, z]      where t's channels and rectangle reach (k, y, z)

    product of tap (0,0)        ┌───────┐  out
         ┌──────┐    shifted    │┌──────┤
         │      │  ───────────► ││      │   +  the next tap's, shifted otherwise  +  ...
         └──────┘               └┴──────┘

Terms are added in the order given, whatever the threads. One image at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from numbaconv.geometry import place_record
from numbaconv.jit import Native, compiled, native
from numbaconv.simd import array_at, record_at
from numbaconv.workspace import address_of

LIMITS = {None: (-np.inf, np.inf), "relu": (0.0, np.inf), "relu6": (0.0, 6.0)}
"""Of the activations."""

SERIAL_ELEMENTS = 16 << 10  # additions that one thread has done before another has begun


class Term(NamedTuple):
    """A product's share of an image.

    Element (k, y, z) of the output takes the one at `place` + (k - k_first)·`k_step` + (y - y_first)·`row_step` +
    (z - z_first)·`step`, where all three lie within [first, end). Addresses and steps in bytes.
    """

    place: int
    k_step: int
    row_step: int
    step: int
    k_first: int
    k_end: int
    y_first: int
    y_end: int
    z_first: int
    z_end: int


TERM = np.dtype([(name, np.int64) for name in Term._fields])
TERM_BYTES = TERM.itemsize
LIFT = np.dtype([(name, np.int64) for name in (
    "terms", "count", "channels", "rows", "columns", "lines", "lines_a_task", "begin", "finish", "limits", "bias",
    "out", "o_k", "o_row", "o_step", "residual", "r_k", "r_row", "r_step")])  # fmt: skip
"""An image's lift: its terms; sizes and tasks; whether it begins at zero and ends with the epilogue; where all lies.
A `bias` or `residual` of 0 is none."""


@compiled
def _finish(sums, step, count, limits, has_bias, biases, bias_step, has_residual, added, added_step):
    """The epilogue of `count` elements; a bias step of 0 is one bias for all."""
    low, high = limits[0], limits[1]
    for i in range(count):
        value = sums[i * step]
        if has_bias:
            value += biases[i * bias_step]
        if has_residual:
            value += added[i * added_step]
        if value < low:
            value = low
        if value > high:
            value = high
        sums[i * step] = value


@functools.cache
def _lift_rows(itemsize: int) -> Native:
    """Channel by channel, row by row: runs of pixels."""

    @native
    def task(number, worker, address):
        w = record_at(address, LIFT)
        start = number * w.lines_a_task
        for line in range(start, min(start + w.lines_a_task, w.lines)):
            k, y = line // w.rows, line % w.rows
            to = w.out + k * w.o_k + y * w.o_row
            step = w.o_step // itemsize
            sums = array_at(itemsize, to, w.columns * step)
            if w.begin:
                for z in range(w.columns):
                    sums[z * step] = 0
            for number in range(w.count):
                t = record_at(w.terms + number * TERM_BYTES, TERM)
                if k < t.k_first or k >= t.k_end or y < t.y_first or y >= t.y_end:
                    continue
                count, t_step = t.z_end - t.z_first, t.step // itemsize
                products = array_at(itemsize, t.place + (k - t.k_first) * t.k_step + (y - t.y_first) * t.row_step, 1)
                part = array_at(itemsize, to + t.z_first * w.o_step, 1)
                if step == 1 and t_step == 1:
                    for i in range(count):
                        part[i] += products[i]
                else:
                    for i in range(count):
                        part[i * step] += products[i * t_step]
            if w.finish:
                biases = array_at(itemsize, w.bias + k * itemsize, 1)
                added = array_at(itemsize, w.residual + k * w.r_k + y * w.r_row, 1)
                _finish(sums, step, w.columns, array_at(itemsize, w.limits, 2), w.bias, biases, 0,
                        w.residual, added, w.r_step // itemsize)  # fmt: skip

    return task


@functools.cache
def _lift_pixels(itemsize: int) -> Native:
    """Pixel by pixel: runs of channels, contiguous in the output and in every product."""

    @native
    def task(number, worker, address):
        w = record_at(address, LIFT)
        start = number * w.lines_a_task
        for line in range(start, min(start + w.lines_a_task, w.lines)):
            y, z = line // w.columns, line % w.columns
            to = w.out + y * w.o_row + z * w.o_step
            sums = array_at(itemsize, to, w.channels)
            if w.begin:
                for k in range(w.channels):
                    sums[k] = 0
            for number in range(w.count):
                t = record_at(w.terms + number * TERM_BYTES, TERM)
                if y < t.y_first or y >= t.y_end or z < t.z_first or z >= t.z_end:
                    continue
                products = array_at(itemsize, t.place + (y - t.y_first) * t.row_step + (z - t.z_first) * t.step, 1)
                part = array_at(itemsize, to + t.k_first * itemsize, 1)
                for i in range(t.k_end - t.k_first):
                    part[i] += products[i]
            if w.finish:
                biases = array_at(itemsize, w.bias, 1)
                added = array_at(itemsize, w.residual + y * w.r_row + z * w.r_step, 1)
                _finish(sums, 1, w.channels, array_at(itemsize, w.limits, 2), w.bias, biases, 1,
                        w.residual, added, w.r_k // itemsize)  # fmt: skip

    return task


def lift(ctx, out: np.ndarray, terms: Sequence[Term], residual=None, begin: bool = True, finish: bool = True) -> None:
    """Add terms up into an image of the output, in the context's lift stage.

    Parameters
    ----------
    ctx : Context
    out : ndarray (oc, oh, ow)
    terms : sequence of Term
    residual : ndarray of out's shape, optional
        Added with the bias, when it finishes.
    begin : bool
        Start from zero; otherwise from what `out` holds.
    finish : bool
        Bias, residual and activation after the last term.
    """
    channels, rows, columns = out.shape
    size = out.itemsize
    table = np.array([tuple(term) for term in terms], TERM) if terms else np.zeros(1, TERM)
    limits = np.array(LIMITS[ctx.request.epilogue.activation], out.dtype)
    pixels = (
        out.strides[0] == size and channels > 1 and all(t.k_step == size or t.k_end - t.k_first == 1 for t in terms)
    )
    lines = rows * columns if pixels else channels * rows
    tasks = 4 * ctx.threads if ctx.threads > 1 and out.size * max(1, len(terms)) > SERIAL_ELEMENTS else 1
    lines_a_task = max(1, -(-lines // tasks))
    steps = (0, 0, 0) if residual is None else residual.strides
    record = np.array([(0, len(terms), channels, rows, columns, lines, lines_a_task, begin, finish, 0, 0,
                        0, *out.strides, 0, *steps)], LIFT)  # fmt: skip
    arrays = {"terms": table, "limits": limits, "bias": ctx.bias, "out": out, "residual": residual}
    work, tasks = (_lift_pixels if pixels else _lift_rows)(size), -(-lines // lines_a_task)
    if terms:  # addresses themselves: not to be run again on other arrays
        placed = place_record(record, arrays)
        ctx.lift(work, tasks, address_of(placed))
    else:
        ctx.lift(work, tasks, record, **arrays)
