"""Winograd's convolution on a GPU: tiles transformed, a product for each of a tile's elements, and transformed back.

    x ──B^T x B──►  V [product][group]  ─┐
                                         ├─ n_h · n_w products a group, in one launch ─►  M  ──A^T m A──►  out
    w ──G w G^T──►  U [product][group]  ─┘

NCHW: V is channels x tiles, M = U · V. NHWC: V is tiles x channels, M = V · U. A CPU's core keeps its V and M in L2, a
block of tiles at a time; a GPU has too many threads for that, so both are written out for all tiles of a part.

Memory: n_h·n_w·tiles·(ic + oc) elements, in NCHW the tiles made a whole number of 128 bits.
Precision: products of fewer bits err by as much as any, and A^T makes more of it: F(4x4, 3x3) five times.
"""

from __future__ import annotations

from numbaconv.accounts import GemmCall
from numbaconv.devices.copying import MOST_DOWN, Four
from numbaconv.geometry import window_of
from numbaconv.lift import LIMITS
from numbaconv.lowering import Support
from numbaconv.lowering_cuda import MOST_ELEMENTS, CudaForm
from numbaconv.lowerings._cuda_direct import NO_IMAGE, image_of
from numbaconv.lowerings._cuda_matrices import (
    channels_times_pixels,
    matrix_operand,
    round_to,
    vector_of,
    weights_operand,
)
from numbaconv.lowerings._cuda_winograd_kernels import (
    Tiles,
    Weights,
    giving_kernel,
    grid,
    keeping_kernel,
    taking_kernel,
    weights_grid,
)

MOST_BATCH = MOST_DOWN
"""Products in a launch."""


class CudaWinograd(CudaForm):
    """Three launches: lower, multiply, lift."""

    def supports(self, problem, request):
        answer = self.lowering.supports(problem, request)
        if answer and self._products(problem) * problem.icg * self._pitch(problem, problem.ocg) >= MOST_ELEMENTS:
            return Support("its transformed weights have more elements than 32 bits count, which GPU kernels do")
        return answer

    def lowering_bytes(self, problem, request):
        p = problem
        return self._products(p) * (self._side(p, p.ic).step_g + self._side(p, p.oc).step_g) * p.itemsize

    def gemm_calls(self, problem, request):
        p = problem
        sides = (p.ocg, self._tiles(p))[:: 1 if p.layout == "nchw" else -1]
        return [GemmCall(*sides, p.icg, batch=min(MOST_BATCH, self._products(p) - first))
                for first in range(0, self._products(p), MOST_BATCH)]  # fmt: skip

    def prepare_weights(self, ctx, w):
        p, filters = ctx.problem, self.lowering.filters(ctx.problem)
        kept = ctx.keep((self._products(p), p.icg, self._pitch(p, p.ocg)))
        steps = Four(*(step // w.itemsize for step in w.strides))
        sizes = Weights(p.g, p.ocg, p.icg, kept.shape[2], p.g * p.icg * kept.shape[2])
        if blocks := weights_grid(sizes):
            ctx.device.launch(keeping_kernel(w.itemsize, filters), blocks, (w, kept, steps, sizes), ctx.stream)
        return kept

    def run(self, ctx, x, prepared, out):
        p, filters, residual = ctx.problem, self.lowering.filters(ctx.problem), ctx.residual
        rows = p.layout == "nchw"  # channels are rows
        v, m = self._side(p, p.ic), self._side(p, p.oc, int(ctx.bias is not None), int(residual is not None))
        lowered = ctx.take("lowered", (self._products(p), v.step_g))
        products = ctx.take("products", (self._products(p), m.step_g))
        ctx.launch("lower", taking_kernel(x.itemsize, filters, rows), grid(v), x, lowered, window_of(p, x), v)
        first = 0
        for call in self.gemm_calls(p, ctx.request):
            source = matrix_operand(lowered[first:], v.step_c, v.step_t, v.step_g)
            channels_times_pixels(ctx, call, weights_operand(prepared[first:]), source, products[first:], m.step_c,
                                  m.step_t, m.step_g, rows)  # fmt: skip
            first += call.batch
        images = image_of(out), NO_IMAGE if residual is None else image_of(residual)
        ctx.launch("lift", giving_kernel(x.itemsize, filters, rows), grid(m), products, out, ctx.bias, residual, m,
                   *images, *LIMITS[ctx.request.epilogue.activation])  # fmt: skip

    def _products(self, problem) -> int:
        """Of a tile, in all groups."""
        return self.lowering.filters(problem).products * problem.g

    def _tiles(self, problem) -> int:
        """Of all images."""
        rows, columns = self.lowering.filters(problem).tiles(problem)
        return problem.mb * rows * columns

    @staticmethod
    def _pitch(problem, columns: int) -> int:
        """Elements from row to row of a matrix, a whole number of 128 bits."""
        return round_to(columns, vector_of(problem.itemsize))

    def _side(self, problem, channels: int, *with_store: int) -> Tiles:
        """V or M: a matrix for each product, group by group."""
        tiles, group = self._tiles(problem), channels // problem.g
        pitch = self._pitch(problem, tiles) if problem.layout == "nchw" else tiles
        steps = (pitch, 1) if problem.layout == "nchw" else (1, group)
        rows, columns = self.lowering.filters(problem).tiles(problem)
        return Tiles(tiles, rows, columns, channels, group, group * pitch, *steps, channels * pitch, *with_store)
