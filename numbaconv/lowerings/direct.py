"""Direct: the loop nest itself, blocked for registers; nothing is rearranged but the weights, once.

A tile is up to 14 pixels of an output row by a few vectors of output channels. A step of (s, c, r) loads those vectors
of weights, which lie side by side, and one input element a pixel, broadcast from wherever it lies: so any memory
order, stride and dilation is read in place, and both layouts share the kernel. NCHW transposes the finished tile.

    weights [vector of oc][s][c][r][lanes]       (NHWC: [r][s][c])
        w0 w1 │ ▒▒▒▒▒▒▒▒ ▒▒▒▒▒▒▒▒    step k              ┌ z z+1 …   tap s reaches pixels low ... high only: at the edge
    x(z)   ─► │ ▓▓▓▓▓▓▓▓ ▓▓▓▓▓▓▓▓  ─┐                   │           of a row each s runs on those that it reaches,
    x(z+1) ─► │ ▓▓▓▓▓▓▓▓ ▓▓▓▓▓▓▓▓   ├► bias, clamp, out │           the sums resting in a tile of L1 in between
      ...     │ sums: pixels x oc  ─┘                   └

Paper: Georganas et al., "Anatomy of high-performance deep learning convolutions", arXiv 1808.05567 (2018); Zhang,
Franchetti, Low, "High performance zero-memory overhead direct convolutions", arXiv 1809.10170 (2018).
Memory: 0.    Cost: the multiply-adds of taps inside the input, at most mb·oc·ic/g·kh·kw·oh·ow.
"""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy as np

from numbaconv.geometry import GEOMETRY, SIZES, STEPS, Window, reached, window_of
from numbaconv.jit import Native, native
from numbaconv.lowering import LIMITS, Lowering, recorded
from numbaconv.lowering_cuda import CudaForm
from numbaconv.lowerings._cuda_direct import (
    NO_IMAGE,
    NOTHING_KNOWN,
    Known,
    Task,
    direct_grid,
    direct_kernel,
    direct_task,
    image_of,
)
from numbaconv.lowerings._cuda_matrices import keep_weights
from numbaconv.lowerings._direct_kernels import block_weights, put_kernel, steps_kernel
from numbaconv.machine import detect
from numbaconv.simd import array_at, invoke, load_i64, record_at, stack
from numbaconv.workspace import address_of, aligned

MOST_PIXELS, MOST_VECTORS = 14, 3
TILE_VECTORS = 32  # vectors of a tile in memory, at least pixels · vectors of any
PAGE, WAYS = 4096, 8  # pixels a multiple of a page apart share one set of L1: no more than its ways
TASKS_A_THREAD = 4

FIELDS = ("x", "out", "w", "bias", "limits", "kernels", "vectors", "tiles", "channels", "inner", "groups", "bands",
          "rows_a_band", "chunks", "vectors_a_chunk", "w_group", "w_vector", "w_c", "w_r", "w_s",
          "o_n", "o_c", "o_h", "o_w")  # fmt: skip
DIRECT = np.dtype([(name, np.int64) for name in FIELDS] + [(name, GEOMETRY[name]) for name in GEOMETRY.names])
"""Addresses; vectors and tiles of a row; a group's output and input channels; the division into tasks; the steps of the
weights in bytes and of the output in elements; the problem's geometry."""


class CudaDirect(CudaForm):
    """A thread has a pixel's sums of some output channels in registers; the input is read where it lies."""

    channels = 8  # a thread's

    def share_of_peak(self, problem):
        return 0.35

    def threads(self, problem):
        return super().threads(problem) // self.channels

    def prepare_weights(self, ctx, w):
        p = ctx.problem
        return keep_weights(ctx, w, p.kh * p.kw * p.icg, p.ocg, oc=(0, 1), c=(1, 0), r=(p.kw * p.icg, 0), s=(p.icg, 0),
                            multiple=self.channels)  # fmt: skip

    def known(self, g: Window, t: Task) -> Known:
        """What the kernel is compiled for."""
        return NOTHING_KNOWN

    def run(self, ctx, x, prepared, out):
        p, residual = ctx.problem, ctx.residual
        pixels_fast = out.strides[3] < out.strides[1] or p.oc == 1
        g, o, r = window_of(p, x, ic=p.icg), image_of(out), NO_IMAGE if residual is None else image_of(residual)
        t = direct_task(p.mb, p.g, p.oc, self.channels, pixels_fast, ctx.bias is not None, residual is not None)
        kernel = direct_kernel(x.itemsize, self.channels, pixels_fast, self.known(g, t))
        ctx.launch("multiply", kernel, direct_grid(o, t, self.channels), x, prepared, out, ctx.bias, residual,
                   g, o, r, t, *LIMITS[ctx.request.epilogue.activation])  # fmt: skip


@functools.cache
def _task(itemsize: int, lanes: int, tap_major: bool) -> Native:
    """A task: an image, a group, a band of rows and a chunk of the vectors of output channels.

    `tap_major` (NHWC): the loops run over (r, s, c), otherwise over (s, c, r).
    """
    vector = lanes * itemsize
    room = TILE_VECTORS * vector

    @native
    def task(number, worker, address):
        g = record_at(address, DIRECT)
        tile = stack(room)
        chunk = number % g.chunks
        band = number // g.chunks % g.bands
        group = number // g.chunks // g.bands % g.groups
        n = number // g.chunks // g.bands // g.groups
        x_c, x_h, x_w = g.x_c * itemsize, g.x_h * itemsize, g.x_w * itemsize
        o_c, o_h, o_w = g.o_c * itemsize, g.o_h * itemsize, g.o_w * itemsize
        image = g.x + n * g.x_n * itemsize + group * g.inner * x_c
        target = g.out + n * g.o_n * itemsize + group * g.channels * o_c
        put, most = load_i64(g.kernels), MOST_PIXELS + 1
        first_low = reached(g.ow, g.sw, -g.pad_left, g.iw)[0]
        last_high = reached(g.ow, g.sw, (g.kw - 1) * g.dw - g.pad_left, g.iw)[1]
        last_vector = min((chunk + 1) * g.vectors_a_chunk, (g.channels + lanes - 1) // lanes)
        for first in range(chunk * g.vectors_a_chunk, last_vector, g.vectors):
            vectors = min(g.vectors, last_vector - first)
            kernels = g.kernels + (0 if vectors == g.vectors else 8 * most)
            channels = min(vectors * lanes, g.channels - first * lanes)
            bias = g.bias + (group * g.channels + first * lanes) * itemsize
            for y in range(band * g.rows_a_band, min((band + 1) * g.rows_a_band, g.oh)):
                top = y * g.sh - g.pad_top
                r, r_end = reached(g.kh, g.dh, top, g.ih)
                taps = np.int64(r_end - r)
                row = image + (top + r * g.dh) * x_h
                weights = g.w + group * g.w_group + first * g.w_vector + r * g.w_r
                for t in range(g.tiles):
                    z, end = t * g.ow // g.tiles, (t + 1) * g.ow // g.tiles
                    inside = first_low <= z and end <= last_high
                    taps_a_step = np.int64(g.kw)
                    if not inside:
                        taps_a_step = 1
                        array_at(itemsize, tile, (end - z) * vectors * lanes)[:] = 0
                    for s in range(0, g.kw, taps_a_step):
                        a, b = z, end
                        tap = s * g.dw - g.pad_left
                        if not inside:
                            low, high = reached(g.ow, g.sw, tap, g.iw)
                            a, b = max(z, np.int64(low)), min(end, np.int64(high))
                        if a >= b:
                            continue
                        x, w = row + (a * g.sw + tap) * x_w, weights + s * g.w_s
                        kernel, there = load_i64(kernels + 8 * (b - a)), tile + (a - z) * vectors * vector
                        if tap_major:
                            invoke(kernel, (taps, taps_a_step, g.inner, x, g.dh * x_h, g.dw * x_w, x_c, g.sw * x_w,
                                            w, g.w_r, g.w_s, g.w_c, g.w_vector, there, np.int64(inside)))  # fmt: skip
                        else:
                            invoke(kernel, (taps_a_step, g.inner, taps, x, g.dw * x_w, x_c, g.dh * x_h, g.sw * x_w,
                                            w, g.w_s, g.w_c, g.w_r, g.w_vector, there, np.int64(inside)))  # fmt: skip
                    invoke(put, (tile, end - z, vectors, channels, bias, g.limits,
                                 target + first * lanes * o_c + y * o_h + z * o_w, o_c, o_w))  # fmt: skip

    return task


def lanes_of(problem) -> int:
    """Lanes of a vector: all there are, or 128 bits and up where a group has fewer output channels."""
    lanes = detect().lanes(problem.dtype)
    while lanes * problem.itemsize > 16 and lanes // 2 >= problem.ocg:
        lanes //= 2
    return lanes


def pixels_beside(vectors: int) -> int:
    """Pixels of the largest tile of so many vectors: its sums, the vectors of weights and a broadcast in registers."""
    return min(MOST_PIXELS, (detect().vector_registers - vectors - 1) // vectors)


@functools.lru_cache(4096)
def tiles_of(ow: int, blocks: int, most_pixels: int, tile: tuple[int, int] | None = None) -> tuple[int, int]:
    """(vectors, tiles of a row) for which a row takes the fewest cycles; or those of a `tile` of (vectors, pixels)."""
    if tile is not None:
        return tile[0], -(-ow // tile[1])

    def choice(vectors):
        return vectors, -(-ow // min(most_pixels, pixels_beside(vectors)))

    def cycles(chosen):
        vectors, tiles = chosen
        widths = [vectors] * (blocks // vectors) + [blocks % vectors] * (blocks % vectors > 0)
        pixels = ow / tiles  # below: some multiply-adds are in flight at least; weights come from L2
        return sum(tiles * (max(pixels * width, 8) + pixels / 4 + width) for width in widths)

    return min(map(choice, range(1, min(MOST_VECTORS, blocks) + 1)), key=cycles)


def _widths(problem, tiles: int) -> set[int]:
    """Pixels that kernels are needed for: of whole tiles, and of what single taps reach of those at the edge."""
    p, found = problem, set()
    reach = [reached(p.ow, p.sw, s * p.dw - p.pad_left, p.iw) for s in range(p.kw)]
    for t in range(tiles):
        z, end = t * p.ow // tiles, (t + 1) * p.ow // tiles
        inside = reach[0][0] <= z and end <= reach[-1][1]
        for low, high in reach:
            found.add(end - z if inside else min(end, high) - max(z, low))
    return {width for width in found if width > 0}


def _division(problem, threads: int, vectors: int, blocks: int) -> tuple[int, int]:
    """(bands of rows, chunks of blocks): each task's input stays in L2, and there are enough for all threads."""
    p = problem
    half = detect().l2_bytes // 2
    wanted = -(-TASKS_A_THREAD * threads // (p.mb * p.g)) if threads > 1 else 1
    bands = min(p.oh, -(-p.icg * p.ih * p.iw * p.itemsize // half))
    chunks = 1
    if p.K * p.ocg * p.itemsize > half:  # rather read the input several times than the weights
        chunks = min(-(-blocks // vectors), -(-wanted // bands))
    bands = min(p.oh, max(bands, -(-wanted // chunks)))
    return bands, chunks


@functools.lru_cache(1024)
def _setup(problem, threads: int, x_strides, o_strides, tile):
    """(task, number of tasks, record without addresses, table of kernels, a bias of zeros)."""
    p, size, lanes = problem, problem.itemsize, lanes_of(problem)
    blocks = -(-p.ocg // lanes)
    vectors, tiles = tiles_of(p.ow, blocks, WAYS if p.sw * x_strides[3] % PAGE == 0 else MOST_PIXELS, tile)
    tap_major = p.layout == "nhwc"
    way = "channels" if o_strides[1] == size else "pixels" if o_strides[3] == size else "anyhow"
    kernels = np.zeros((2, MOST_PIXELS + 1), np.int64)
    kernels[:, 0] = put_kernel(size, lanes, way).address
    for row, width in enumerate((vectors, blocks % vectors)):
        for pixels in _widths(p, tiles) if width else ():
            kernels[row, pixels] = steps_kernel(size, lanes, pixels, width).address
    bands, chunks = _division(p, threads, vectors, blocks)
    rows_a_band = -(-p.oh // bands)
    vectors_a_chunk = -(-(-(-blocks // vectors)) // chunks) * vectors
    bands, chunks = -(-p.oh // rows_a_band), -(-blocks // vectors_a_chunk)
    vector = lanes * size
    w_vector = p.K * vector
    steps = (
        (p.kw * vector * p.icg, vector * p.icg, vector) if tap_major else (vector, p.icg * p.kh * vector, p.kh * vector)
    )
    record = np.zeros(1, DIRECT)
    values = {
        "vectors": vectors, "tiles": tiles, "channels": p.ocg, "inner": p.icg, "groups": p.g, "bands": bands,
        "rows_a_band": rows_a_band, "chunks": chunks, "vectors_a_chunk": vectors_a_chunk, "w_group": blocks * w_vector,
        "w_vector": w_vector, **dict(zip(("w_r", "w_s", "w_c"), steps)),
        **dict(zip(("o_n", "o_c", "o_h", "o_w"), (stride // size for stride in o_strides))),
        **dict(zip(STEPS, (stride // size for stride in x_strides))), **{name: getattr(p, name) for name in SIZES},
    }  # fmt: skip
    for name, value in values.items():
        record[name] = value
    return _task(size, lanes, tap_major), p.mb * p.g * bands * chunks, record, kernels, np.zeros(p.oc, p.dtype)


class Direct(Lowering):
    """The loop nest, vectorised along the output channels."""

    name = "direct"
    family = "direct"
    devices = ("cpu", "cuda")
    cuda = CudaDirect
    tile: ClassVar[tuple[int, int] | None] = None
    """Vectors of output channels and pixels of a tile on the CPU, in place of the choice; for who studies it."""
    paper = "Georganas et al.: Anatomy of high-performance deep learning convolutions, arXiv 1808.05567 (2018)"

    def share_of_peak(self, problem):
        """Little with few terms a sum, where stores (in NCHW transposed) take their time, and in narrow groups."""
        lanes, stores = lanes_of(problem), 14 if problem.layout == "nhwc" else 28
        filled = problem.ocg / (-(-problem.ocg // lanes) * lanes)
        return 0.97 * problem.K / (problem.K + stores) * filled * lanes / detect().lanes(problem.dtype)

    def prepare_weights(self, problem, request, w):
        p, lanes = problem, lanes_of(problem)
        channels, size = p.ocg, p.itemsize
        (_, c, r, s), (oc_step, c_step, r_step, s_step) = w.shape, w.strides
        axes = (r, s, c, oc_step, r_step, s_step, c_step)
        if p.layout != "nhwc":
            axes = (s, c, r, oc_step, s_step, c_step, r_step)
        group = -(-channels // lanes) * lanes * c * r * s * size
        prepared = aligned(p.g * group)
        source, target = address_of(w), address_of(prepared)
        for g in range(p.g):
            block_weights(size, source + g * channels * oc_step, target + g * group, channels, lanes, *axes)
        return prepared

    @recorded
    def run(self, ctx, x, prepared, out):
        p = ctx.problem
        if not out.size:
            return
        last = ctx.residual is None  # bias and limits go into the store unless something is added in between
        task, tasks, record, kernels, zeros = _setup(p, ctx.threads, x.strides, out.strides, self.tile)
        bias = ctx.bias if last and ctx.bias is not None else zeros
        limits = np.array(LIMITS[ctx.request.epilogue.activation if last else None], p.dtype)
        ctx.multiply_by(task, tasks, record, x=x, out=out, w=prepared, bias=bias, limits=limits, kernels=kernels)
        if not last:
            ctx.epilogue(out)
