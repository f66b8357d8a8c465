"""Direct, compiled for the problem: the kernels know the steps between pixels and between the terms of a sum.

What ``direct`` does with any problem's numbers, with three gains: the sums of a tile inside the input never leave their
registers before the last store, which adds bias and residual and limits them (with pads a residual has a pass of its
own); tiles alike are one call; and a kernel of 1x1 without pads is one long row, of several images where those follow
one another.

    weights [vector of oc][r][s][c][lanes]       (NCHW: [s][c][r])
    tile    up to 14 pixels of a row by a few vectors of output channels; a task has some tiles and some vectors.
            Where taps leave the input (pads), a tile's sums rest in memory between taps, as in ``direct``.

Paper: Georganas et al., "Anatomy of high-performance deep learning convolutions", arXiv 1808.05567 (2018): the same,
with a code generator of its own.
Memory: 0.    Cost: the multiply-adds of taps inside the input, at most mb·oc·ic/g·kh·kw·oh·ow.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from numbaconv.geometry import GEOMETRY, SIZES, STEPS, reached
from numbaconv.jit import Native, native
from numbaconv.lowering import LIMITS, recorded
from numbaconv.lowerings._cuda_direct_jit import CudaDirectJit
from numbaconv.lowerings._direct_jit_kernels import tiles_kernel
from numbaconv.lowerings._direct_kernels import put_kernel, steps_kernel
from numbaconv.lowerings.direct import MOST_PIXELS, PAGE, TASKS_A_THREAD, TILE_VECTORS, WAYS, Direct, lanes_of, tiles_of
from numbaconv.machine import detect
from numbaconv.simd import array_at, invoke, load_i64, record_at, stack

FIELDS = (
    "x", "out", "w", "bias", "limits", "residual", "whole", "parts", "runs", "runs_a_row", "vectors", "channels",
    "inner", "groups", "bands", "chunks", "vectors_a_chunk", "w_group", "w_vector", "w_r", "w_s", "w_c", "rows_inside",
    "n1", "n2", "n3", "x1", "x2", "w1", "w2", "o_n", "o_c", "o_h", "o_w", "o_step",
    "r_n", "r_c", "r_h", "r_w", "r_step",
)  # fmt: skip
DIRECT_JIT = np.dtype([(name, np.int64) for name in FIELDS] + [(name, GEOMETRY[name]) for name in GEOMETRY.names])
"""Addresses, those of the kernels for whole tiles and for parts of tiles too; the runs of a row; vectors of a tile; a
group's output and input channels; the division into tasks; steps of the weights; whether the loop over kernel rows is
inside that over channels; the loops of whole tiles (a count of 0: the kernel rows inside the input); steps of output
and residual, all in bytes but the geometry's."""
LATENCY, EDGE = 8, 150  # cycles of a term that waits for the one before; of a tile at an edge, besides its pixels
RUN = 3  # numbers of a run of tiles: first pixel, pixels of a tile, tiles, of which those at an edge are a run each


def flat(problem, *strides):
    """The problem as one long row, where kernel and memory (steps n, c, h, w of each array) let it be, or itself."""
    p = problem
    if (p.kh, p.kw, p.sh, p.sw) != (1, 1, 1, 1) or p.oh != p.ih or p.ow != p.iw or p.pad_top or p.pad_left:
        return p
    if any(h != p.ow * w for _, _, h, w in strides):
        return p
    images = p.mb if all(n == p.oh * h for n, _, h, _ in strides) else 1
    length = p.oh * p.ow * images
    return replace(p, mb=p.mb // images, ih=1, iw=length)


@functools.cache
def _task(itemsize: int, lanes: int) -> Native:
    """A task: an image, a group, a band of tiles and a chunk of the vectors of output channels."""
    vector = lanes * itemsize
    room = TILE_VECTORS * vector

    @native
    def task(number, worker, address):
        g = record_at(address, DIRECT_JIT)
        tile = stack(room)
        chunk = number % g.chunks
        band = number // g.chunks % g.bands
        group = number // g.chunks // g.bands % g.groups
        n = number // g.chunks // g.bands // g.groups
        x_c, x_h, x_w = g.x_c * itemsize, g.x_h * itemsize, g.x_w * itemsize
        image = g.x + n * g.x_n * itemsize + group * g.inner * x_c
        target = g.out + n * g.o_n + group * g.channels * g.o_c
        added = g.residual + n * g.r_n + group * g.channels * g.r_c
        put, most = load_i64(g.parts), MOST_PIXELS + 1
        first_low = reached(g.ow, g.sw, -g.pad_left, g.iw)[0]
        last_high = reached(g.ow, g.sw, (g.kw - 1) * g.dw - g.pad_left, g.iw)[1]
        last_vector = min((chunk + 1) * g.vectors_a_chunk, (g.channels + lanes - 1) // lanes)
        units = g.oh * g.runs_a_row
        for first in range(chunk * g.vectors_a_chunk, last_vector, g.vectors):
            vectors = min(g.vectors, last_vector - first)
            kernels = 0 if vectors == g.vectors else 8 * most
            channels = min(vectors * lanes, g.channels - first * lanes)
            bias = g.bias + (group * g.channels + first * lanes) * itemsize
            for unit in range(band * units // g.bands, (band + 1) * units // g.bands):
                y, run = unit // g.runs_a_row, g.runs + 8 * RUN * (unit % g.runs_a_row)
                z, pixels, tiles = load_i64(run), load_i64(run + 8), load_i64(run + 16)
                top = y * g.sh - g.pad_top
                r, r_end = reached(g.kh, g.dh, top, g.ih)
                taps = np.int64(r_end - r)
                row = image + (top + r * g.dh) * x_h
                weights = g.w + group * g.w_group + first * g.w_vector + r * g.w_r
                out = target + first * lanes * g.o_c + y * g.o_h + z * g.o_w
                whole = load_i64(g.whole + kernels + 8 * pixels)
                if whole and first_low <= z and z + pixels * tiles <= last_high:
                    extra = added + first * lanes * g.r_c + y * g.r_h + z * g.r_w if g.residual else 0
                    invoke(whole, (tiles, g.n1 or taps, g.n2 or taps, g.n3 or taps, row + (z * g.sw - g.pad_left) * x_w,
                                   g.x1, g.x2, weights, g.w1, g.w2, g.w_vector, bias, g.limits, out, g.o_step, extra,
                                   g.r_step, channels))  # fmt: skip
                    continue
                array_at(itemsize, tile, pixels * vectors * lanes)[:] = 0
                for s in range(g.kw):
                    tap = s * g.dw - g.pad_left
                    low, high = reached(g.ow, g.sw, tap, g.iw)
                    a, b = max(z, np.int64(low)), min(z + pixels, np.int64(high))
                    if a >= b:
                        continue
                    kernel, there = load_i64(g.parts + kernels + 8 * (b - a)), tile + (a - z) * vectors * vector
                    x, w = row + (a * g.sw + tap) * x_w, weights + s * g.w_s
                    if g.rows_inside:
                        invoke(kernel, (1, g.inner, taps, x, 0, x_c, g.dh * x_h, g.sw * x_w,
                                        w, 0, g.w_c, g.w_r, g.w_vector, there, 0))  # fmt: skip
                    else:
                        invoke(kernel, (1, taps, g.inner, x, 0, g.dh * x_h, x_c, g.sw * x_w,
                                        w, 0, g.w_r, g.w_c, g.w_vector, there, 0))  # fmt: skip
                invoke(put, (tile, pixels, vectors, channels, bias, g.limits, out, g.o_c, g.o_w))

    return task


def _runs(problem, vectors: int, tiles: int, most: int, whole: bool) -> list[tuple[int, int, int, bool]]:
    """A row's tiles: (first pixel, pixels, tiles, inside); at most so many in a run, those at an edge by themselves.

    The row is cut into `tiles` alike, or into those inside and the few pixels at its edges: as it takes fewer cycles.
    Not `whole`: none counts as inside.
    """
    p = problem
    low, high = reached(p.ow, p.sw, -p.pad_left, p.iw)[0], reached(p.ow, p.sw, _last_tap(p), p.iw)[1]
    widest = -(-p.ow // tiles)

    def runs_of(stretches: list[tuple[int, int, int]]) -> list[tuple[int, int, int, bool]]:
        runs: list[tuple[int, int, int, bool]] = []
        for z, pixels, count in stretches:
            for number in range(count):
                width = (pixels + count - 1 - number) // count  # the wider ones first
                inside = whole and low <= z and z + width <= high
                begin, before, alike, there = runs[-1] if runs else (0, 0, 0, False)
                if inside and there and before == width and alike < most:
                    runs[-1] = (begin, width, alike + 1, True)
                else:
                    runs.append((z, width, 1, inside))
                z += width
        return runs

    def cycles(runs) -> int:
        """Sums of few pixels wait for one another; at an edge a tile rests in memory between taps, and is copied."""
        return sum(
            count * (p.K * max(width * vectors, LATENCY) + (0 if inside else (2 * p.kw + 6) * width * vectors + EDGE))
            for _, width, count, inside in runs
        )

    parts = [(0, low), (low, high - low), (high, p.ow - high)] if whole and low < high else []
    apart = [(z, pixels, -(-pixels // widest)) for z, pixels in parts if pixels]
    return min([runs_of(choice) for choice in ([(0, p.ow, tiles)], apart) if choice], key=cycles)


def _last_tap(problem) -> int:
    """Where output 0's last tap of a row falls."""
    return (problem.kw - 1) * problem.dw - problem.pad_left


def _parts(problem, runs) -> set[int]:
    """The pixels that single taps reach of tiles at an edge."""
    p, found = problem, set()
    for z, pixels, _, inside in runs:
        if not inside:
            reach = (reached(p.ow, p.sw, s * p.dw - p.pad_left, p.iw) for s in range(p.kw))
            found |= {min(z + pixels, high) - max(z, low) for low, high in reach}
    return {pixels for pixels in found if pixels > 0}


def _division(problem, threads: int, units: int, groups: int) -> tuple[int, int]:
    """(bands, chunks of groups of vectors): a task's input stays in L2, and there are enough for all threads."""
    p = problem
    half = detect().l2_bytes // 2
    wanted = -(-TASKS_A_THREAD * threads // (p.mb * p.g)) if threads > 1 else 1
    bands = min(units, -(-p.icg * p.ih * p.iw * p.itemsize // half))
    chunks = 1
    if p.K * p.ocg * p.itemsize > half:  # rather read the input several times than the weights
        chunks = min(groups, -(-wanted // bands))
    return min(units, max(bands, -(-wanted // chunks))), chunks


class Loop(NamedTuple):
    """A loop over terms: how many, and the steps of the input and of the weights in bytes."""

    count: int
    x: int
    w: int


def _loops(problem, x_strides, w_steps) -> tuple[Loop, Loop, Loop]:
    """The loops of a whole tile, the innermost last and with a vector of weights a term; kernel rows have a count of 0.

    In NHWC kernel rows, columns, channels: the last two are one loop where they follow one another. In NCHW columns,
    channels, rows, as the taps of an edge are read; without rows the channels are innermost.
    """
    p, (_, x_c, x_h, x_w), (w_c, w_r, w_s) = problem, x_strides, w_steps
    once, rows = Loop(1, 0, 0), Loop(0, p.dh * x_h, w_r)
    columns, channels = Loop(p.kw, p.dw * x_w, w_s), Loop(p.icg, x_c, w_c)
    if p.layout == "nchw":
        return (columns, channels, rows) if p.kh > 1 else (rows, columns, channels)
    if p.icg == 1:
        return rows, once, columns
    if columns.x == channels.count * channels.x:
        return rows, once, Loop(columns.count * channels.count, channels.x, w_c)
    return rows, columns, channels


@functools.lru_cache(1024)
def _setup(problem, threads: int, x_strides, o_strides, r_strides, tile):
    """(task, number of tasks, record without addresses, whether it adds the residual, tables for it, a bias of 0)."""
    p = flat(problem, x_strides, o_strides, *([r_strides] if r_strides else []))
    size, lanes = p.itemsize, lanes_of(p)
    blocks, vector, pixel = -(-p.ocg // lanes), lanes * size, p.sw * x_strides[3]
    vectors, tiles = tiles_of(p.ow, blocks, WAYS if pixel % PAGE == 0 else MOST_PIXELS, tile)
    way = "channels" if o_strides[1] == size else "pixels" if o_strides[3] == size else "anyhow"
    across, along = (3, 1) if way == "channels" else (1, 3)
    fits = way != "anyhow" and (r_strides is None or r_strides[along] == size)
    bands, chunks = _division(p, threads, p.oh * tiles, -(-blocks // vectors))
    runs = _runs(p, vectors, tiles, max(1, p.oh * tiles // bands), fits)
    bands = min(bands, p.oh * len(runs))
    weights = (p.kw * p.icg, p.icg, 1) if p.layout == "nhwc" else (1, p.kh * p.icg, p.kh)
    w_r, w_s, w_c = (step * vector for step in weights)
    loops = _loops(p, x_strides, (w_c, w_r, w_s))
    term = loops[2].x
    whole, parts = np.zeros((2, MOST_PIXELS + 1), np.int64), np.zeros((2, MOST_PIXELS + 1), np.int64)
    for row, width in enumerate((vectors, blocks % vectors)):
        for pixels in {run[1] for run in runs if run[3]} if width else ():
            whole[row, pixels] = tiles_kernel(size, lanes, way == "pixels", pixels, width, pixel, term).address
        for pixels in _parts(p, runs) if width else ():
            parts[row, pixels] = steps_kernel(size, lanes, pixels, width).address
    everywhere = all(run[3] for run in runs)
    if not everywhere:
        parts[:, 0] = put_kernel(size, lanes, way).address
    vectors_a_chunk = -(-(-(-blocks // vectors)) // chunks) * vectors
    chunks = -(-blocks // vectors_a_chunk)
    added = r_strides if r_strides and everywhere else (0,) * 4
    values = {
        "runs_a_row": len(runs), "vectors": vectors, "channels": p.ocg, "inner": p.icg, "groups": p.g, "bands": bands,
        "chunks": chunks,
        "vectors_a_chunk": vectors_a_chunk, "w_group": blocks * p.K * vector, "w_vector": p.K * vector,
        "w_r": w_r, "w_s": w_s, "w_c": w_c, "rows_inside": p.layout == "nchw",
        **{name: loop.count for name, loop in zip(("n1", "n2", "n3"), loops)},
        **{name: loop.x for name, loop in zip(("x1", "x2"), loops)},
        **{name: loop.w for name, loop in zip(("w1", "w2"), loops)},
        "o_step": o_strides[across], "r_step": added[across],
        **dict(zip(("o_n", "o_c", "o_h", "o_w"), o_strides)), **dict(zip(("r_n", "r_c", "r_h", "r_w"), added)),
        **dict(zip(STEPS, (stride // size for stride in x_strides))), **{name: getattr(p, name) for name in SIZES},
    }  # fmt: skip
    record = np.zeros(1, DIRECT_JIT)
    for name, value in values.items():
        record[name] = value
    tables = {"whole": whole, "parts": parts, "runs": np.array([run[:3] for run in runs], np.int64)}
    return _task(size, lanes), p.mb * p.g * bands * chunks, record, everywhere, tables, np.zeros(p.oc, p.dtype)


class DirectJit(Direct):
    """``direct`` with kernels compiled for the problem."""

    name = "direct-jit"
    cuda = CudaDirectJit

    def share_of_peak(self, problem):
        """Little with few terms a sum, where stores (in NCHW transposed) take their time, and in narrow groups."""
        lanes, stores = lanes_of(problem), 4 if problem.layout == "nhwc" else 20
        filled = problem.ocg / (-(-problem.ocg // lanes) * lanes)
        return 0.97 * problem.K / (problem.K + stores) * filled * lanes / detect().lanes(problem.dtype)

    @recorded
    def run(self, ctx, x, prepared, out):
        p, residual = ctx.problem, ctx.residual
        if not out.size:
            return
        r_strides = None if residual is None else residual.strides
        known = _setup(p, ctx.threads, x.strides, out.strides, r_strides, self.tile)
        task, tasks, record, adds, tables, zeros = known
        last = residual is None or adds  # bias, residual and limits go into the last store
        limits = np.array(LIMITS[ctx.request.epilogue.activation if last else None], p.dtype)
        bias = ctx.bias if last and ctx.bias is not None else zeros
        ctx.multiply_by(task, tasks, record, x=x, out=out, w=prepared, bias=bias, limits=limits,
                        residual=residual if last else None, **tables)  # fmt: skip
        if not last:
            ctx.epilogue(out)
