"""im2col: write every patch of the input down as a column, then one product does the convolution.

    image                    patch matrix K x P            K = ic·kh·kw rows, one a tap; P = oh·ow columns, one a pixel
    ┌─┬─┬─┬─┐                ┌───────────┐
    │a│b│c│d│   2x2 kernel   │a b c e f g│ tap (0,0)     out (oc x P)  =  W (oc x K) · patches
    │e│f│g│h│  ───────────►  │b c d f g h│ tap (0,1)
    │i│j│k│l│                │e f g i j k│ tap (1,0)     NCHW stores the matrix row by row, NHWC pixel by pixel
    └─┴─┴─┴─┘                │f g h j k l│ tap (1,1)     (each patch as it lies: kh runs of kw·ic)
                             └───────────┘

Paper: Chellapilla, Puri, Simard (2006); batching: Hadjis et al., "Caffe con Troll" (2015).
Memory: kh·kw·ic·oh·ow elements for as many images as are lowered together (`batching`: "image" takes one, "whole" the
batch, a number that many parts of the batch, "block" as many output rows of an image as stay in L2).
Cost: mb·oc·ic/g·kh·kw·oh·ow multiply-adds, and one write and read of the patches.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from numbaconv.gemm import Axis, Matrix
from numbaconv.gemm.copying import copy_run, copy_strided, fill_zero
from numbaconv.geometry import GEOMETRY, geometry_of, pixel_of, reached, tap_of
from numbaconv.jit import native
from numbaconv.lowering import GemmCall, Lowering, panels_of
from numbaconv.lowerings._matrices import A_PACKED, B_PACKED, multiply_weights, pack_weights
from numbaconv.machine import detect
from numbaconv.simd import record_at
from numbaconv.workspace import address_of

SERIAL_BYTES = 128 << 10  # patches that one thread has written before another has begun
CHUNK = np.dtype([("x", np.int64), ("patches", np.int64), ("image", np.int32), ("images", np.int32), ("row", np.int32),
                  ("rows", np.int32), ("lines_a_task", np.int32), ("lines", np.int32)]
                 + [(name, GEOMETRY[name]) for name in GEOMETRY.names])  # fmt: skip
"""The images and output rows lowered together, where they come from and go to, and the problem's geometry."""


@functools.cache
def _tap_rows(itemsize: int):
    """Write rows of the patch matrix: row (c, r, s) is a shifted, padded copy of channel c, one run a row of pixels."""
    lanes = detect().vector_bits // (8 * itemsize)

    @native
    def task(number, worker, address):
        g = record_at(address, CHUNK)
        start = number * g.lines_a_task
        for line in range(start, min(start + g.lines_a_task, g.lines)):
            c, r, s = tap_of(line, g)
            tap = s * g.dw - g.pad_left
            low, high = reached(g.ow, g.sw, tap, g.iw)
            to = g.patches + line * g.images * g.rows * g.ow * itemsize
            for n in range(g.image, g.image + g.images):
                for y in range(g.row, g.row + g.rows):
                    ih = y * g.sh + r * g.dh - g.pad_top
                    if 0 <= ih < g.ih and low < high:
                        iw = low * g.sw + tap
                        place = g.x + (n * g.x_n + c * g.x_c + ih * g.x_h + iw * g.x_w) * itemsize
                        fill_zero(itemsize, lanes, low, to)
                        step = g.sw * g.x_w
                        if step == 1:
                            copy_run(itemsize, lanes, high - low, place, to + low * itemsize)
                        else:
                            copy_strided(itemsize, high - low, place, step * itemsize, to + low * itemsize, itemsize)
                        fill_zero(itemsize, lanes, g.ow - high, to + high * itemsize)
                    else:
                        fill_zero(itemsize, lanes, g.ow, to)
                    to += g.ow * itemsize

    return task


@functools.cache
def _pixel_rows(itemsize: int):
    """Write columns of the patch matrix, as rows: a pixel's patch, all channels of a tap in a run."""
    lanes = detect().vector_bits // (8 * itemsize)

    @native
    def task(number, worker, address):
        g = record_at(address, CHUNK)
        start = number * g.lines_a_task
        for line in range(start, min(start + g.lines_a_task, g.lines)):
            n, y, z = pixel_of(line, g)
            to = g.patches + line * g.kh * g.kw * g.ic * itemsize
            for r in range(g.kh):
                ih = (g.row + y) * g.sh + r * g.dh - g.pad_top
                for s in range(g.kw):
                    iw = z * g.sw + s * g.dw - g.pad_left
                    if 0 <= ih < g.ih and 0 <= iw < g.iw:
                        place = g.x + ((g.image + n) * g.x_n + ih * g.x_h + iw * g.x_w) * itemsize
                        if g.x_c == 1:
                            copy_run(itemsize, lanes, g.ic, place, to)
                        else:
                            copy_strided(itemsize, g.ic, place, g.x_c * itemsize, to, itemsize)
                    else:
                        fill_zero(itemsize, lanes, g.ic, to)
                    to += g.ic * itemsize

    return task


Block = tuple[int, int, int, int]  # first image, images, first output row, rows


def _cuts(length: int, parts: int) -> list[tuple[int, int]]:
    """(first, count) of `parts` parts of `length`."""
    bounds = [part * length // parts for part in range(parts + 1)]
    return [(first, end - first) for first, end in zip(bounds, bounds[1:], strict=False)]


def _ways(problem, request, batching) -> Iterator[list[Block]]:
    """The ways to cut a batch into blocks that are lowered together: as asked, then smaller and smaller."""
    p = problem
    if batching == "whole" or isinstance(batching, int):
        parts = 1 if batching == "whole" else min(batching, p.mb)
        while parts < p.mb:
            yield [(first, count, 0, p.oh) for first, count in _cuts(p.mb, parts)]
            parts *= 2
    parts = 1
    if batching == "block":
        row_bytes = p.K * p.g * p.ow * p.itemsize
        rows = max(1, detect().l2_bytes * request.num_threads // 2 // row_bytes)
        parts = -(-p.oh // rows)
    while True:
        parts = min(parts, p.oh)
        yield [(n, 1, first, count) for n in range(p.mb) for first, count in _cuts(p.oh, parts)]
        if parts == p.oh:
            return
        parts *= 2


@functools.lru_cache(4096)
def blocks(problem, request, batching) -> tuple[Block, ...]:
    """The largest blocks that fit into ``request.max_workspace``, or the smallest there are."""
    way: list[Block] = []
    for way in _ways(problem, request, batching) if problem.mb else ():
        needed = patch_bytes(problem, way) + panels_of(products(problem, way), problem, request)
        if request.max_workspace is None or needed <= request.max_workspace:
            break
    return tuple(way)


def patch_bytes(problem, way) -> int:
    """Bytes of the patch matrix of the largest block."""
    largest = max((images * rows for _, images, _, rows in way), default=0)
    return problem.K * problem.g * largest * problem.ow * problem.itemsize


def products(problem, way) -> list[GemmCall]:
    """The products of all blocks, the largest first."""
    p, sizes = problem, {}
    for _, images, _, rows in way:
        pixels = images * rows * p.ow
        sizes[pixels] = sizes.get(pixels, 0) + p.g
    if p.layout == "nchw":
        return [GemmCall(p.ocg, pixels, p.K, count, A_PACKED) for pixels, count in sorted(sizes.items(), reverse=True)]
    return [GemmCall(pixels, p.ocg, p.K, count, B_PACKED) for pixels, count in sorted(sizes.items(), reverse=True)]


class Im2col(Lowering):
    """The explicit patch matrix."""

    name = "im2col"
    family = "im2col"
    paper = "Chellapilla, Puri, Simard: High Performance Convolutional Neural Networks for Document Processing (2006)"
    parameters = {"batching": ("image", "block", "whole", int), "threads": ("inner",)}

    def _blocks(self, problem, request):
        return blocks(problem, request, self.values["batching"])

    def lowering_bytes(self, problem, request):
        return patch_bytes(problem, self._blocks(problem, request))

    def gemm_calls(self, problem, request):
        return products(problem, self._blocks(problem, request))

    def prepare_weights(self, problem, request, w):
        p = problem
        by_group = w.reshape(p.g, p.ocg, p.icg, p.kh, p.kw)
        if p.layout == "nhwc":
            by_group = by_group.transpose(0, 1, 3, 4, 2)
        return pack_weights(p, request, by_group.reshape(p.g, p.ocg, p.K), self.gemm_calls)

    def run(self, ctx, x, prepared, out):
        p = ctx.problem
        patches = ctx.take("patches", self.lowering_bytes(p, ctx.request) // p.itemsize)
        for block in self._blocks(p, ctx.request):
            self._lower(ctx, x, patches, block)
            for g, weights in enumerate(prepared):
                source = self._patches_of_group(patches, g, block, p)
                residual = None if ctx.residual is None else _part(ctx.residual, block)
                multiply_weights(ctx, weights, source, g, _part(out, block), residual)

    @staticmethod
    def _lower(ctx, x, patches, block):
        p = ctx.problem
        _, images, _, rows = block
        by_tap = p.layout == "nchw"
        lines = p.ic * p.kh * p.kw if by_tap else images * rows * p.ow
        tasks = 4 * ctx.threads if patch_bytes(p, [block]) > SERIAL_BYTES else 1
        lines_a_task = -(-lines // tasks)
        chunk = np.array(
            [(address_of(x), address_of(patches), *block, lines_a_task, lines, *geometry_of(p, x)[0])], CHUNK
        )
        rows = (_tap_rows if by_tap else _pixel_rows)(p.itemsize)
        ctx.lower(rows, -(-lines // lines_a_task), address_of(chunk))

    @staticmethod
    def _patches_of_group(patches, g, block, p):
        """Group g's part of the patch matrix, K x P."""
        size = p.itemsize
        if p.layout == "nchw":
            pixels = block[1] * block[3] * p.ow
            return Matrix(address_of(patches) + g * p.K * pixels * size, Axis(pixels * size), Axis(size), patches)
        taps = Axis(size, p.icg, p.ic * size) if p.g > 1 else Axis(size)
        return Matrix(address_of(patches) + g * p.icg * size, taps, Axis(p.kh * p.kw * p.ic * size), patches)


def _part(image, block):
    """A block's images and rows of an output: three dimensions when it is of one image."""
    first, images, row, rows = block
    part = image[first : first + images, :, row : row + rows]
    return part[0] if images == 1 else part
