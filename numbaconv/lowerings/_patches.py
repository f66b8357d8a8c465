"""The patch matrix that need not exist: a packer that finds every patch in the image while GEMM packs its panels.

    panel (k x pixels)        k = (r·kw + s)·channels + c: all channels of one tap, then the next tap
    ┌──────────────┐
    │ tap r,s  c=0 │ ◄──── row y·sh + r·dh - pad_top of channel c, from column z·sw + s·dw - pad_left on;
    │          c=1 │       what lies outside the image becomes zeros in the panel
    │   ...        │
    └──────────────┘       the columns of a panel are pixels (n, y, z) in a row: a few runs, each of one output row

For all channels of a tap a run has the same length and the same padding, so the inner loop is over channels: a masked
load and a store each. With channels last, pixels are rows in memory: sixteen at a time are transposed in registers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from numbaconv.gemm import Source
from numbaconv.gemm.copying import copy_strided, fill_zero
from numbaconv.geometry import (
    GEOMETRY,
    SIZES,
    STEPS,
    column_of,
    copy_records,
    forward,
    pixel_of,
    reached,
    row_of,
    tap_of,
)
from numbaconv.jit import Native, native
from numbaconv.lowerings._runs import MOST_STRIDE, PLACE, copy_pixels, places, turn_pixels
from numbaconv.machine import detect
from numbaconv.simd import record_at, store_i64
from numbaconv.workspace import address_of

PATCHES = np.dtype([("x", np.int64), ("rows", np.int32), ("unused", np.int32)]
                   + [(name, GEOMETRY[name]) for name in GEOMETRY.names])  # fmt: skip
"""Where a group's first channel is, output rows an image (`rows`, for ``pixel_of``), and the geometry of the group."""


def patch_source(problem, x: np.ndarray, **changes) -> Source:
    """The patches of an input (mb, channels, ih, iw) of one group, as an operand of a product (K x pixels).

    Parameters
    ----------
    problem : ConvProblem
    x : ndarray
        The group's channels; any positive strides.
    **changes : int
        Fields of ``GEOMETRY`` in place of the problem's: a single tap is a 1x1 kernel with other pads.
    """
    return place_sources(_one_record(problem, x.shape[1], tuple(changes.items())), x)[0]


@functools.lru_cache(4096)
def _one_record(problem, channels: int, changes) -> np.ndarray:
    return patch_records(problem, channels, [dict(changes)])


def patch_records(problem, channels: int, changes: Sequence[dict[str, int]]) -> np.ndarray:
    """Records of several patch matrices of the same input, to be placed by ``place_sources``."""
    records = np.zeros(len(changes), PATCHES)
    for name in SIZES:
        records[name] = getattr(problem, name)
    records["ic"] = channels
    for record, changed in zip(records, changes, strict=True):
        for name, value in changed.items():
            record[name] = value
    records["rows"] = records["oh"]
    return records


def place_records(records: np.ndarray, x: np.ndarray, groups: int = 1) -> np.ndarray:
    """``patch_records`` for an input (mb, channels, ih, iw) that lies there; each for every group in turn."""
    placed = copy_records(records) if groups == 1 else records.repeat(groups)
    for name, step in zip(STEPS, x.strides, strict=True):
        placed[name] = step // x.itemsize
    placed["x"] = address_of(x)
    if groups > 1:
        placed["x"] += np.tile(np.arange(groups) * (x.shape[1] // groups * x.strides[1]), len(records))
    return placed


def place_sources(records: np.ndarray, x: np.ndarray) -> list[Source]:
    """Sources of an input (mb, channels, ih, iw), one for each of ``patch_records``."""
    if not len(records):
        return []
    placed = place_records(records, x)
    packer = packer_for(x.itemsize, placed[0])
    first = address_of(placed)
    return [Source(packer, first + i * PATCHES.itemsize, (placed, x), placed[i : i + 1]) for i in range(len(placed))]


def packer_for(itemsize: int, record) -> Native:
    """The packer for an input with such steps."""
    stride = int(record["sw"])
    if record["x_w"] == 1 and stride <= MOST_STRIDE:
        return run_packer(itemsize, stride)
    if record["x_c"] == 1 or record["ic"] == 1:
        return channel_packer(itemsize)
    return scalar_packer(itemsize)


@functools.cache
def run_packer(itemsize: int, stride: int) -> Native:
    """For images whose pixels of a row are contiguous."""
    lanes = detect().vector_bits // (8 * itemsize)

    @native
    def pack(source, first, count, p0, kc, target, width):
        g = record_at(source, PATCHES)
        if count % width:
            fill_zero(itemsize, lanes, kc * width, target + count // width * width * kc * itemsize)
        n_0, y_0, z_0 = pixel_of(first, g)
        k = p0
        while k < p0 + kc:
            r, s, c = tap_of(k, g)
            channels = min(g.ic - c, p0 + kc - k)
            shift = column_of(0, s, g)
            low, high = reached(g.ow, g.sw, shift, g.iw)
            to_k = target + (k - p0) * width * itemsize
            n, y, z, x = n_0, y_0, z_0, 0
            while x < count:
                panel = x // width * width
                run = min(g.ow - z, count - x, panel + width - x)
                ih = row_of(y, r, g)
                begin, end = low - z, high - z
                place = g.x + (n * g.x_n + c * g.x_c + ih * g.x_h + z * g.sw + shift) * itemsize
                if ih < 0 or ih >= g.ih:
                    begin, end, place = 0, 0, g.x
                to = to_k + (panel * kc + x - panel) * itemsize
                copy_pixels(itemsize, lanes, stride, channels, begin, end, run, place, g.x_c * itemsize,
                            to, width * itemsize)  # fmt: skip
                n, y, z = forward(n, y, z, run, g)
                x += run
            k += channels

    return pack


@functools.cache
def channel_packer(itemsize: int) -> Native:
    """For images whose channels of a pixel are contiguous; where pixels follow one another, whole kernel rows are."""
    lanes = detect().vector_bits // (8 * itemsize)

    @native
    def pack(source, first, count, p0, kc, target, width):
        g = record_at(source, PATCHES)
        if count % width:
            fill_zero(itemsize, lanes, kc * width, target + count // width * width * kc * itemsize)
        taps = g.kw if g.dw == 1 and g.x_w == g.ic else 1  # side by side in memory
        span = taps * g.ic
        table = places(lanes)
        n, y, z = pixel_of(first, g)
        x = 0
        while x < count:
            panel = x // width * width
            pixels = min(lanes, count - x, panel + width - x)
            to_x = target + (panel * kc + x - panel) * itemsize
            k = p0
            while k < p0 + kc:
                r, s, c = tap_of(k, g)
                s -= s % taps
                begin = k - (r * g.kw + s) * g.ic
                run = min(span - begin, p0 + kc - k)
                m, v, u = n, y, z
                for i in range(pixels):
                    ih, iw = row_of(v, r, g), column_of(u, s, g)
                    low, high = max(0, -iw), min(taps, g.iw - iw)
                    if ih < 0 or ih >= g.ih:
                        low, high = 0, 0
                    store_i64(table + PLACE * i, g.x + (m * g.x_n + ih * g.x_h + iw * g.x_w) * itemsize)
                    store_i64(table + PLACE * i + 8, low * g.ic)
                    store_i64(table + PLACE * i + 16, high * g.ic)
                    m, v, u = forward(m, v, u, 1, g)
                to = to_x + (k - p0) * width * itemsize
                for b in range(0, run, lanes):
                    turn_pixels(itemsize, lanes, pixels, begin + b, min(lanes, run - b), table,
                                to + b * width * itemsize, width * itemsize)  # fmt: skip
                k += run
            for _ in range(pixels):
                n, y, z = forward(n, y, z, 1, g)
            x += pixels

    return pack


@functools.cache
def scalar_packer(itemsize: int) -> Native:
    """For images of any strides, and strides beyond ``MOST_STRIDE``."""
    lanes = detect().vector_bits // (8 * itemsize)

    @native
    def pack(source, first, count, p0, kc, target, width):
        g = record_at(source, PATCHES)
        if count % width:
            fill_zero(itemsize, lanes, kc * width, target + count // width * width * kc * itemsize)
        for k in range(p0, p0 + kc):
            r, s, c = tap_of(k, g)
            n, y, z = pixel_of(first, g)
            for x in range(count):
                panel = x // width * width
                ih, iw = row_of(y, r, g), column_of(z, s, g)
                to = target + (panel * kc + (k - p0) * width + x - panel) * itemsize
                if 0 <= ih < g.ih and 0 <= iw < g.iw:
                    place = g.x + (n * g.x_n + c * g.x_c + ih * g.x_h + iw * g.x_w) * itemsize
                    copy_strided(itemsize, 1, place, 0, to, 0)
                else:
                    fill_zero(itemsize, lanes, 1, to)
                n, y, z = forward(n, y, z, 1, g)

    return pack
