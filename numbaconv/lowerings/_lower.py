"""The lower stage of whatever writes patches down: as rows of taps, or as rows of pixels.

    K x P   row k = (r·kw + s)·channels + c is tap (r, s) of channel c at every pixel     (one panel as wide as P)
    P x K   row p is the patch of pixel p

Every group has its matrix; they follow one another. A convolution with a kernel of one row, or of one column, gives the
smaller matrices of MEC, im2win and Caffe con Troll's type 2.
"""

from __future__ import annotations

import functools

import numpy as np

from numbaconv.gemm import Axis, Matrix, Source
from numbaconv.gemm.copying import copy_run, copy_strided, fill_zero, transpose_block
from numbaconv.geometry import column_of, pixel_of, reached, row_of
from numbaconv.jit import Native, native
from numbaconv.lowerings._matrices import group
from numbaconv.lowerings._patches import PATCHES, patch_source
from numbaconv.machine import detect
from numbaconv.simd import invoke, load_i64, record_at
from numbaconv.workspace import address_of

ROWS_AT_ONCE = 4  # rows of taps written side by side: as many streams as a core's write buffers serve
SERIAL_BYTES = 128 << 10  # patches that one thread has written before another has begun

WORK = np.dtype([(name, np.int64) for name in ("packer", "sources", "target", "size", "depth", "pixels", "lines",
                                               "lines_a_task")])  # fmt: skip
"""Each group's source, where the matrices go, bytes of one, its sides, and rows in all and of a task."""


def patch_sources(problem, x: np.ndarray, **changes) -> list[Source]:
    """Each group's patches; `changes` as in ``patch_source``."""
    return [patch_source(problem, group(problem, x, g), **changes) for g in range(problem.g)]


def _run(ctx, body: Native, sources: list[Source], depth: int, pixels: int, lines: int, target: np.ndarray, packer=0):
    itemsize = target.itemsize
    addresses = np.array([source.address for source in sources], np.int64)
    total = lines * len(sources)
    tasks = 4 * ctx.threads if ctx.threads > 1 and target.nbytes > SERIAL_BYTES else 1
    lines_a_task = max(1, -(-total // tasks))
    work = np.array([(packer, address_of(addresses), address_of(target), depth * pixels * itemsize, depth, pixels,
                      total, lines_a_task)], WORK)  # fmt: skip
    ctx.lower(body, -(-total // lines_a_task), address_of(work))


def lower_taps(ctx, sources: list[Source], depth: int, pixels: int, target: np.ndarray, packer: Native | None = None):
    """Write each group's K x P matrix (`depth` x `pixels`) into `target`; returns them.

    `packer` takes the place of the sources' own.
    """
    chosen = packer or sources[0].packer
    _run(ctx, _write_taps(target.itemsize), sources, depth, pixels, depth, target, chosen.address)
    return [rows_of(target, g, depth, pixels) for g in range(len(sources))]


def rows_of(target: np.ndarray, g: int, depth: int, pixels: int) -> Matrix:
    """Group `g`'s matrix of taps in rows, K x P."""
    size = target.itemsize
    return Matrix(address_of(target) + g * depth * pixels * size, Axis(pixels * size), Axis(size), target)


@functools.cache
def _write_taps(itemsize: int) -> Native:
    @native
    def task(number, worker, address):
        work = record_at(address, WORK)
        line = number * work.lines_a_task
        end = min(line + work.lines_a_task, work.lines)
        while line < end:
            g, k = line // work.depth, line % work.depth
            rows = min(ROWS_AT_ONCE, end - line, work.depth - k)
            target = work.target + g * work.size + k * work.pixels * itemsize
            source = load_i64(work.sources + 8 * g)
            invoke(work.packer, (source, 0, work.pixels, k, rows, target, work.pixels))
            line += rows

    return task


def lower_pixels(ctx, sources: list[Source], depth: int, pixels: int, target: np.ndarray):
    """Write each group's P x K matrix (`pixels` x `depth`) into `target`; returns them as K x P."""
    record = sources[0].keep[0]
    writer = _write_channels if record["x_c"] == 1 else _write_runs
    _run(ctx, writer(target.itemsize), sources, depth, pixels, pixels, target)
    return [columns_of(target, g, depth, pixels) for g in range(len(sources))]


def columns_of(target: np.ndarray, g: int, depth: int, pixels: int) -> Matrix:
    """Group `g`'s matrix of pixels in rows, seen as K x P."""
    size = target.itemsize
    return Matrix(address_of(target) + g * depth * pixels * size, Axis(size), Axis(depth * size), target)


@functools.cache
def _write_channels(itemsize: int) -> Native:
    """Where a pixel's channels are contiguous: a patch is a run for each tap."""
    lanes = detect().vector_bits // (8 * itemsize)

    @native
    def task(number, worker, address):
        work = record_at(address, WORK)
        start = number * work.lines_a_task
        for line in range(start, min(start + work.lines_a_task, work.lines)):
            g = record_at(load_i64(work.sources + 8 * (line // work.pixels)), PATCHES)
            n, y, z = pixel_of(line % work.pixels, g)
            to = work.target + line * work.depth * itemsize
            for r in range(g.kh):
                ih = row_of(y, r, g)
                for s in range(g.kw):
                    iw = column_of(z, s, g)
                    if 0 <= ih < g.ih and 0 <= iw < g.iw:
                        place = g.x + (n * g.x_n + ih * g.x_h + iw * g.x_w) * itemsize
                        copy_run(itemsize, lanes, g.ic, place, to)
                    else:
                        fill_zero(itemsize, lanes, g.ic, to)
                    to += g.ic * itemsize

    return task


@functools.cache
def _write_runs(itemsize: int) -> Native:
    """Where a row's pixels are contiguous: blocks of pixels by channels are transposed; else, element by element."""
    lanes = detect().vector_bits // (8 * itemsize)

    @native
    def task(number, worker, address):
        work = record_at(address, WORK)
        step = work.depth * itemsize
        line = number * work.lines_a_task
        end = min(line + work.lines_a_task, work.lines)
        while line < end:
            g = record_at(load_i64(work.sources + 8 * (line // work.pixels)), PATCHES)
            n, y, z = pixel_of(line % work.pixels, g)
            run = min(end - line, g.ow - z)
            for tap in range(g.kh * g.kw):
                r, s = tap // g.kw, tap % g.kw
                ih, shift = row_of(y, r, g), column_of(0, s, g)
                low, high = reached(g.ow, g.sw, shift, g.iw)
                low, high = min(max(low - z, 0), run), min(max(high - z, 0), run)
                if ih < 0 or ih >= g.ih or low >= high:
                    low, high = run, run
                to = work.target + line * step + tap * g.ic * itemsize
                for i in range(low):
                    fill_zero(itemsize, lanes, g.ic, to + i * step)
                for i in range(high, run):
                    fill_zero(itemsize, lanes, g.ic, to + i * step)
                place = g.x + (n * g.x_n + ih * g.x_h + (z * g.sw + shift) * g.x_w) * itemsize
                if g.x_w == 1 and g.sw == 1:
                    for i in range(low, high, lanes):
                        for c in range(0, g.ic, lanes):
                            transpose_block(itemsize, lanes, min(lanes, g.ic - c), min(lanes, high - i),
                                            place + (c * g.x_c + i) * itemsize, g.x_c * itemsize,
                                            to + i * step + c * itemsize, step)  # fmt: skip
                else:
                    for i in range(low, high):
                        copy_strided(itemsize, g.ic, place + i * g.sw * g.x_w * itemsize, g.x_c * itemsize,
                                     to + i * step, itemsize)  # fmt: skip
            line += run

    return task
