"""Depthwise: every channel is filtered by itself, so there is nothing to multiply as matrices and memory sets the pace.

A tile is a few vectors in registers: `size` rows of a vector of columns (NCHW) or `size` pixels of a vector of channels
(NHWC). An input vector is read once a tap across the tile and used for every output of the tile that it reaches.

    NCHW   lanes = columns                    NHWC   lanes = channels
      input rows q   outputs i                  input pixels q     outputs i         out[i] += w[t] · in[q],
      ░░░░░░░░ 0 ─┬─► ▓▓▓▓▓▓▓▓ 0                  ░ ░ ░ ░ ░ ░  ─┬─►  ▓ ▓ ▓ ▓              t = q - i·stride:
      ░░░░░░░░ 1 ─┼─► ▓▓▓▓▓▓▓▓ 1                  0 1 2 3 4 5   │   0 1 2 3           rows of the kernel in NCHW,
      ░░░░░░░░ 2 ─┘   (for each column s)                       (for each row r)       its columns in NHWC

Padding is lanes masked off, rows and pixels jumped over. A stride of 2 along a row is two loads and a shuffle; larger
ones, odd memory, and NHWC with several outputs a channel are gathered.

Paper: Zhang, Lo, Lu, "High performance depthwise and pointwise convolutions on mobile devices", arXiv 2001.02504.
Memory: 0.    Cost: mb·oc·oh·ow·kh·kw multiply-adds; about 1/kh (NCHW) or 1/kw (NHWC) as many loads.
"""

from __future__ import annotations

import functools

import numpy as np

from numbaconv.geometry import GEOMETRY, SIZES, reached, window_of
from numbaconv.jit import Native, native
from numbaconv.lowering import LIMITS, YES, Lowering, Support, recorded
from numbaconv.lowering_cuda import CudaForm
from numbaconv.lowerings._cuda_direct import (
    NO_IMAGE,
    Task,
    depthwise_fits,
    depthwise_grid,
    depthwise_kernel,
    image_of,
)
from numbaconv.lowerings._cuda_matrices import keep_copy
from numbaconv.lowerings._depthwise_tile import GATHER, PAIRS, UNIT, tile
from numbaconv.machine import detect
from numbaconv.simd import record_at

TILES = (8, 7, 4)  # outputs of a tile across its lanes; layers' sides are multiples of 7 or of 8
MOST_TAPS, MOST_STRIDE = 7, 2  # across the tile: kernels beyond run a loop over their taps, and share no vectors
TASKS_A_THREAD = 4

FIELDS = ("x", "out", "w", "bias", "limits", "oc", "multiplier", "units", "units_a_task", "parts", "lanes_a_part",
          "o_n", "o_c", "o_h", "o_w")  # fmt: skip
DEPTHWISE = np.dtype([(name, np.int64) for name in FIELDS] + [(name, GEOMETRY[name]) for name in GEOMETRY.names])
"""Addresses, the division into tasks, the steps of the output in elements, and the problem's geometry."""


class CudaDepthwise(CudaForm):
    """A thread has some rows of a column of one channel; an input value is read once for all of them."""

    def supports(self, problem, request):
        p = problem
        reason = depthwise_fits(p.kh, p.kw, p.sh, p.dh, self.rows(p))
        answer = self.lowering.supports(problem, request)
        return Support(f"its CUDA form is written out for the kernel, and {reason}") if answer and reason else answer

    def rows(self, problem) -> int:
        """Output rows of a thread: as many as its registers hold."""
        p = problem
        return next((rows for rows in (4, 2) if not depthwise_fits(p.kh, p.kw, p.sh, p.dh, rows)), 1)

    def share_of_peak(self, problem):
        return 0.2

    def threads(self, problem):
        return super().threads(problem) // self.rows(problem)

    def prepare_weights(self, ctx, w):
        p = ctx.problem
        taps = w.reshape(p.oc, p.kh * p.kw)
        return keep_copy(ctx, taps.T if p.layout == "nhwc" else taps)

    def run(self, ctx, x, prepared, out):
        p, residual, nhwc = ctx.problem, ctx.residual, ctx.problem.layout == "nhwc"
        rows = self.rows(p)
        steps = (1, p.oc) if nhwc else (p.kh * p.kw, 1)
        task = Task(p.mb, p.ocg, int(ctx.bias is not None), int(residual is not None), w_k=steps[0], w_tap=steps[1])
        images = image_of(out), NO_IMAGE if residual is None else image_of(residual)
        kernel = depthwise_kernel(x.itemsize, p.kh, p.kw, p.sh, p.sw, p.dh, p.dw, rows, nhwc)
        grid, limits = depthwise_grid(images[0], task, p.sh, p.dh, rows), LIMITS[ctx.request.epilogue.activation]
        ctx.launch("multiply", kernel, grid, x, prepared, out, ctx.bias, residual, window_of(p, x, ic=1), *images, task,
                   *limits)  # fmt: skip


@functools.cache
def _by_columns(itemsize: int, lanes: int, reading: int, writing: int, taps: int, stride: int, size: int) -> Native:
    """Lanes along a row: units are (image, output channel, `size` output rows)."""
    fused = int(detect().fma)

    @native
    def task(number, worker, address):
        g = record_at(address, DEPTHWISE)
        tiles = (g.oh + size - 1) // size
        reach = (size - 1) * g.sh + (g.kh - 1) * g.dh + 1
        x_c, x_h, x_w = g.x_c * itemsize, g.x_h * itemsize, g.x_w * itemsize
        for unit in range(number * g.units_a_task, min((number + 1) * g.units_a_task, g.units)):
            y = unit % tiles * size
            k = unit // tiles % g.oc
            n = unit // tiles // g.oc
            count = min(size, g.oh - y)
            top = y * g.sh - g.pad_top
            low, high = max(-top, 0), min(g.ih - top, reach - (size - count) * g.sh)
            whole = count == size and low == 0 and high == reach
            rows = g.x + n * g.x_n * itemsize + k // g.multiplier * x_c + top * x_h
            out = g.out + (n * g.o_n + k * g.o_c + y * g.o_h) * itemsize
            w, bias = g.w + k * g.kh * g.kw * itemsize, g.bias + k * itemsize
            for z in range(0, g.ow, lanes):
                column = z * g.sw - g.pad_left
                arguments = (
                    g.kw, g.dw * x_w, g.kh * itemsize, g.kh, g.dh, itemsize, rows + column * x_w, x_h, g.sw * x_w,
                    g.sh, low, high, column, g.iw, g.dw, g.sw, w, bias, g.limits,
                    out + z * g.o_w * itemsize, g.o_h * itemsize, g.o_w * itemsize, count, min(lanes, g.ow - z),
                )  # fmt: skip
                if whole:
                    tile(itemsize, lanes, fused, reading, writing, 0, taps, stride, size, 0, arguments)
                else:
                    tile(itemsize, lanes, fused, reading, writing, 0, taps, stride, size, 1, arguments)

    return task


@functools.cache
def _by_channels(itemsize: int, lanes: int, reading: int, writing: int, taps: int, stride: int, size: int) -> Native:
    """Lanes along the channels: units are (image, output row, part of the channels)."""
    fused = int(detect().fma)

    @native
    def task(number, worker, address):
        g = record_at(address, DEPTHWISE)
        reach = (size - 1) * g.sw + (g.kw - 1) * g.dw + 1
        x_c, x_h, x_w = g.x_c * itemsize, g.x_h * itemsize, g.x_w * itemsize
        block = g.kh * g.kw * lanes * itemsize
        for unit in range(number * g.units_a_task, min((number + 1) * g.units_a_task, g.units)):
            first = unit % g.parts * g.lanes_a_part
            y = unit // g.parts % g.oh
            n = unit // g.parts // g.oh
            top = y * g.sh - g.pad_top
            r, end = reached(g.kh, g.dh, top, g.ih)
            row = g.x + n * g.x_n * itemsize + (top + r * g.dh) * x_h
            for z in range(0, g.ow, size):
                count = min(size, g.ow - z)
                column = z * g.sw - g.pad_left
                low, high = max(-column, 0), min(g.iw - column, reach - (size - count) * g.sw)
                whole = count == size and low == 0 and high == reach
                pixel = row + column * x_w
                out = g.out + (n * g.o_n + y * g.o_h + z * g.o_w) * itemsize
                for c in range(first, min(first + g.lanes_a_part, g.oc), lanes):
                    width = min(lanes, g.oc - c)
                    w = g.w + c // lanes * block + r * g.kw * lanes * itemsize
                    arguments = (
                        end - r, g.dh * x_h, g.kw * lanes * itemsize, g.kw, g.dw, lanes * itemsize,
                        pixel + c * x_c, x_w, x_c, g.sw, low, high, 0, width, 0, 1, w, g.bias + c * itemsize, g.limits,
                        out + c * g.o_c * itemsize, g.o_w * itemsize, g.o_c * itemsize, count, width,
                    )  # fmt: skip
                    if whole:
                        tile(itemsize, lanes, fused, reading, writing, 1, taps, stride, size, 0, arguments)
                    else:
                        tile(itemsize, lanes, fused, reading, writing, 1, taps, stride, size, 1, arguments)

    return task


def _along_channels(problem) -> bool:
    return problem.layout == "nhwc" and problem.oc == problem.ic


def _size(outputs: int) -> int:
    """The tile that wastes least, the larger of equals."""
    return min(TILES, key=lambda size: (-(-outputs // size) * size, -size))


def _lanes(problem) -> int:
    """Lanes of a vector: half of what there are where a row is that short."""
    lanes = detect().lanes(problem.dtype)
    short = not _along_channels(problem) and problem.ow <= lanes // 2 and lanes * problem.itemsize > 16
    return lanes // 2 if short else lanes


@functools.lru_cache(1024)
def _setup(problem, threads: int, x_strides, o_strides):
    """(task, number of tasks, record without addresses, a bias of zeros)."""
    p, itemsize, lanes = problem, problem.itemsize, _lanes(problem)
    tasks = TASKS_A_THREAD * threads if threads > 1 else 1
    x_steps, o_steps = ([stride // itemsize for stride in strides] for strides in (x_strides, o_strides))
    parts, lanes_a_part = 1, p.oc
    if _along_channels(p):
        blocks = -(-p.oc // lanes)
        lanes_a_part = -(-blocks // min(blocks, -(-tasks // (p.mb * p.oh)))) * lanes
        parts = -(-p.oc // lanes_a_part)
        reading, writing = (UNIT if steps[1] == 1 else GATHER for steps in (x_steps, o_steps))
        make, outputs, taps, dilation, stride = _by_channels, p.ow, p.kw, p.dw, p.sw
        units = p.mb * p.oh * parts
    else:
        reading = GATHER if x_steps[3] != 1 or p.sw > 2 else UNIT if p.sw == 1 else PAIRS
        writing = UNIT if o_steps[3] == 1 else GATHER
        make, outputs, taps, dilation, stride = _by_columns, p.oh, p.kh, p.dh, p.sh
        units = p.mb * p.oc * -(-p.oh // _size(p.oh))
    if dilation > 1 or stride > MOST_STRIDE or taps > MOST_TAPS:
        taps = stride = 0
    if reading == PAIRS and (p.dw > 1 or not taps):  # the pair's second value is the next tap's
        reading = GATHER
    units_a_task = -(-units // tasks)
    record = np.array(
        [(0, 0, 0, 0, 0, p.oc, p.oc // p.ic, units, units_a_task, parts, lanes_a_part, *o_steps,
          *(getattr(p, name) for name in SIZES), *x_steps)], DEPTHWISE
    )  # fmt: skip
    kernel = make(itemsize, lanes, reading, writing, taps, stride, _size(outputs))
    return kernel, -(-units // units_a_task), record, np.zeros(p.oc, p.dtype)


class Depthwise(Lowering):
    """Vectors of one channel's columns (NCHW) or of one pixel's channels (NHWC)."""

    name = "depthwise"
    family = "direct"
    devices = ("cpu", "cuda")
    cuda = CudaDepthwise
    paper = "Zhang, Lo, Lu: High performance depthwise and pointwise convolutions on mobile devices, arXiv 2001.02504"

    def supports(self, problem, request):
        if problem.g != problem.ic:
            return Support(f"the groups have {problem.icg} input channels each, depthwise takes one")
        return YES

    def share_of_peak(self, problem):
        return 0.4

    def prepare_weights(self, problem, request, w):
        p = problem
        if not _along_channels(p):
            return np.array(w.reshape(p.oc, p.kh, p.kw).transpose(0, 2, 1), order="C")
        lanes = detect().lanes(p.dtype)
        blocks = -(-p.oc // lanes)
        padded = np.zeros((blocks * lanes, p.kh, p.kw), p.dtype)
        padded[: p.oc] = w[:, 0]
        return np.ascontiguousarray(padded.reshape(blocks, lanes, p.kh, p.kw).transpose(0, 2, 3, 1))

    @recorded
    def run(self, ctx, x, prepared, out):
        if not out.size:
            return
        last = ctx.residual is None  # bias and limits go into the store unless something is added in between
        kernel, tasks, record, zeros = _setup(ctx.problem, ctx.threads, x.strides, out.strides)
        bias = ctx.bias if last and ctx.bias is not None else zeros
        limits = np.array(LIMITS[ctx.request.epilogue.activation if last else None], ctx.problem.dtype)
        ctx.multiply_by(kernel, tasks, record, x=x, out=out, w=prepared, bias=bias, limits=limits)
        if not last:
            ctx.epilogue(out)
