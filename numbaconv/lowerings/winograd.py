"""Winograd's minimal filtering: fewer multiplications for more additions, F(m x m, r x r) by the name of the lowering.

A tile of the output and the inputs it reads are transformed; between the two, every element of the transformed tile is
a product of matrices of its own, over the channels: n·n = (m + r - 1)^2 products for m·m outputs instead of r·r·m·m.

    x   ▒▒▒▒ tile n x n  ──B^T x B──►  V [n·n][tiles][ic]        one block of tiles at a time, whose V and M stay
                                         │ · U [n·n][ic][oc]     in L2; U, the transformed weights, is made once
    out   ▓▓ tile m x m  ◄──A^T m A──  M [n·n][tiles][oc]        and read once a block

Paper: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308 (2015).
Memory: a worker's n·n·tiles·(ic/g + some oc), and a strip of pixels.
Cost: n·n/(m·m·r·r) of the direct multiply-adds, on whole tiles; the transforms are a tenth more.
"""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy as np

from numbaconv.lowering import LIMITS, YES, Lowering, Support, recorded
from numbaconv.lowerings._cuda_winograd import CudaWinograd
from numbaconv.lowerings._winograd_division import Blocks, Filters, Shape, scratch_of
from numbaconv.lowerings._winograd_products import products_kernel
from numbaconv.lowerings._winograd_strips import putting_kernel, taking_kernel, way_of
from numbaconv.lowerings._winograd_task import SIZES, WINOGRAD, stage_addresses, winograd_task
from numbaconv.lowerings._winograd_transform import reading_kernel, writing_kernel
from numbaconv.lowerings._winograd_weights import transformed_weights
from numbaconv.request import ADMITTED

PIECES = (64, 32, 16)
"""Terms of a sum before it is added to the others; shorter ones err less and cost more."""
TRANSFORMS = 8
"""Their error is that of so many terms of a sum."""


class Winograd(Lowering, abstract=True):
    """Derive from it, and name the kernels and the tile of outputs, all of them rows by columns."""

    kernels: ClassVar[tuple[tuple[int, int], ...]] = ((3, 3),)
    tile: ClassVar[tuple[int, int]]
    error: ClassVar[float]
    family = "winograd"
    devices = ("cpu", "cuda")
    cuda = CudaWinograd
    paper = "Lavin, Gray: Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308 (2015)"

    def filters(self, problem) -> Filters:
        """The filters of a problem's kernel."""
        return Filters(self.tile[0], problem.kh, self.tile[1], problem.kw)

    def supports(self, problem, request):
        p = problem
        if (p.kh, p.kw) not in self.kernels:
            known = ", ".join(f"{rows}x{columns}" for rows, columns in self.kernels)
            return Support(f"its tiles are made for kernels of {known}, not {p.kh}x{p.kw}")
        if (p.sh, p.sw) != (1, 1):
            return Support(f"it shares products between neighbouring outputs: stride 1 only, not {p.sh}x{p.sw}")
        if (p.dh, p.dw) != (1, 1):
            return Support(f"it shares products between neighbouring taps: dilation 1 only, not {p.dh}x{p.dw}")
        return YES

    def pieces(self, problem, request) -> int:
        """Of a sum over the channels: the fewest whose error the accuracy admits, or else the most."""
        counts = [-(-problem.icg // depth) for depth in PIECES]
        limit = ADMITTED[request.accuracy]
        return next((count for count in counts if self.error_of(problem, count) <= limit), counts[-1])

    def error_of(self, problem, pieces: int) -> float:
        """Errors grow with the root of a running sum's terms: here a piece's, and then the pieces."""
        terms = problem.icg / pieces + pieces + TRANSFORMS
        return self.magnified(problem) * (terms / problem.icg) ** 0.5

    def magnified(self, problem) -> float:
        """How many times the transforms magnify an error, measured, and a tenth more."""
        return self.error

    def error_bound(self, problem, request):
        """On a GPU sums are not cut."""
        return self.error_of(problem, self.pieces(problem, request) if request.device == "cpu" else 1)

    def share_of_peak(self, problem):
        """The transforms cost a tile's element as much as so many multiply-adds of vectors."""
        p, shape = problem, Shape.of(problem)
        transform = 10 if p.layout == "nhwc" else 15
        filled = p.ocg / (shape.vectors * shape.lanes)
        return filled / (1.07 + transform * (1 / p.ocg + 1 / p.icg))

    def multiply_adds(self, problem) -> int:
        """Of the products between the transforms."""
        filters = self.filters(problem)
        rows, columns = filters.tiles(problem)
        return problem.mb * rows * columns * filters.products * problem.icg * problem.oc

    def preparing_bytes(self, problem):
        """New memory is several times as slow to write as old."""
        return problem.weight_bytes * (1 + 4 * self.filters(problem).products // (problem.kh * problem.kw))

    def lowering_bytes(self, problem, request):
        return _sizes(self.filters(problem), problem, request.num_threads)[1] if problem.mb else 0

    def rearranged_bytes(self, problem, request):
        """What the weights have grown by: V and M stay in a core's cache, the transformed weights come from beyond."""
        grown = self.filters(problem).products - problem.kh * problem.kw
        return grown * problem.oc * problem.icg * problem.itemsize

    def prepare_weights(self, problem, request, w):
        return transformed_weights(problem, self.filters(problem), w, request.num_threads)

    @recorded
    def run(self, ctx, x, prepared, out):
        p, residual = ctx.problem, ctx.residual
        if not out.size:
            return
        apart = residual is not None and way_of(residual.strides, p.itemsize) != way_of(out.strides, p.itemsize)
        last = not apart  # bias, residual and limits go into the last store
        added = residual if last else None
        strides = x.strides, out.strides, (0,) * 4 if added is None else added.strides
        pieces = self.pieces(p, ctx.request)
        tasks, size, record, constants = _setup(self.filters(p), pieces, p, ctx.threads, *strides)
        scratch = ctx.take("blocks of tiles", (size,), np.uint8)
        limits = np.array(LIMITS[ctx.request.epilogue.activation if last else None], p.dtype)
        bias = ctx.bias if last and ctx.bias is not None else constants["zeros"]
        ctx.multiply_by(winograd_task, tasks, record, x=x, out=out, w=prepared, bias=bias, limits=limits,
                        residual=added, scratch=scratch, **constants)  # fmt: skip
        if not last:
            ctx.epilogue(out)


def _sizes(filters: Filters, problem, threads: int) -> tuple[int, int]:
    """(number of tasks, bytes of scratch of all workers)."""
    blocks = Blocks.of(problem, filters, threads)
    tasks = blocks.blocks * blocks.parts * problem.g
    return tasks, min(threads, tasks) * scratch_of(problem, filters, blocks)["scratch_step"]


@functools.lru_cache(1024)
def _setup(filters: Filters, pieces: int, problem, threads: int, x_strides, o_strides, r_strides):
    """(number of tasks, bytes of scratch, record without addresses, tables that belong into its fields)."""
    p, size, shape, blocks = problem, problem.itemsize, Shape.of(problem), Blocks.of(problem, filters, threads)
    way_in, way_out = way_of(x_strides, size), way_of(o_strides, size)
    kernels = np.zeros((shape.panel, 2), np.int64)
    for vectors in {shape.panel, shape.vectors % shape.panel or shape.panel}:
        for rows in {blocks.fewest_rows, blocks.most_rows}:
            kernels[vectors - 1, rows - blocks.fewest_rows] = products_kernel(size, shape.lanes, rows, vectors).address
    zeros = np.zeros(max(p.oc, p.icg) + shape.lanes, p.dtype)
    no_limits = np.array(LIMITS[None], p.dtype)
    stages = stage_addresses(size, shape.lanes)
    rows, columns = filters.tiles(p)
    values = {
        "read": reading_kernel(size, shape.lanes, *filters).address,
        "write": writing_kernel(size, shape.lanes, *filters).address, "fewest_rows": blocks.fewest_rows,
        "whole_in": way_in == "channels" and p.icg % shape.lanes == 0,
        "whole_out": way_out == "channels" and p.ocg % shape.lanes == 0,
        "m_h": filters.m_h, "m_w": filters.m_w, "n_h": filters.n_h, "n_w": filters.n_w, "tiles_h": rows,
        "tiles_w": columns, "tiles": blocks.tiles, "row_groups": blocks.groups,
        "groups_a_block": blocks.groups_a_block, "blocks": blocks.blocks, "parts": blocks.parts, "inner": p.icg,
        "pieces": pieces, "channels": p.ocg, "vectors": shape.vectors, "chunk": shape.chunk, "panel": shape.panel,
        "w_group": shape.vectors * shape.lanes * p.icg * filters.products * size, "products": filters.products,
        **scratch_of(p, filters, blocks), **{name: getattr(p, name) for name in SIZES},
    }  # fmt: skip
    for letter, strides in (("x", x_strides), ("o", o_strides), ("r", r_strides)):
        values |= {f"{letter}_{axis}": step for axis, step in zip("nchw", strides)}
    if not values["whole_in"]:
        values["take"] = taking_kernel(size, shape.lanes, way_in).address
    if not values["whole_out"]:
        values["put"] = putting_kernel(size, shape.lanes, way_out).address
    record = np.zeros(1, WINOGRAD)
    for name, value in values.items():
        record[name] = value
    constants = {"zeros": zeros, "no_limits": no_limits, "kernels": kernels, "stages": stages}
    return *_sizes(filters, p, threads), record, constants


class WinogradF2(Winograd):
    """16 products for 36."""

    name, tile, error = "winograd-f2", (2, 2), 0.82


class WinogradF4(Winograd):
    """36 products for 144."""

    name, tile, error = "winograd-f4", (4, 4), 2.4


class WinogradF2x4(Winograd):
    """24 products for 72; fewer weights than for F4, and tiles that waste less on small maps."""

    name, tile, error = "winograd-f2x4", (2, 4), 1.42


class WinogradF1x4(Winograd):
    """18 products for 36; for maps as small as 7x7 with very many channels."""

    name, tile, error = "winograd-f1x4", (1, 4), 1.1


class WinogradF2For5(Winograd):
    """36 products for 100."""

    name, kernels, tile, error = "winograd-f2-5", ((5, 5),), (2, 2), 1.65


class WinogradF4For5(Winograd):
    """64 products for 400."""

    name, kernels, tile, error = "winograd-f4-5", ((5, 5),), (4, 4), 6.0


class Winograd1D(Winograd):
    """F(4, 3), F(2, 5) and F(2, 7) along kernels of one row or one column: 6 for 12, 6 for 10, 8 for 14."""

    name = "winograd-1d"
    kernels = ((1, 3), (3, 1), (1, 5), (5, 1), (1, 7), (7, 1))
    outputs: ClassVar[dict[int, int]] = {3: 4, 5: 2, 7: 2}
    errors: ClassVar[dict[int, float]] = {3: 1.8, 5: 1.55, 7: 2.8}

    def filters(self, problem):
        p, m = problem, self.outputs[max(problem.kh, problem.kw)]
        return Filters(1, 1, m, p.kw) if p.kh == 1 else Filters(m, p.kh, 1, 1)

    def magnified(self, problem):
        return self.errors[max(problem.kh, problem.kw)]
