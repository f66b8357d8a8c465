"""kn2row-as, kn2row-aa and their columns on a GPU: a product for each tap, all images at once (``kn2_accumulate``)."""

from __future__ import annotations

from numbaconv.accounts import GemmCall
from numbaconv.lift_cuda import Share
from numbaconv.lowering_cuda import CudaForm
from numbaconv.lowerings._cuda_gather import patches
from numbaconv.lowerings._cuda_matrices import (
    channels_times_pixels,
    image_call,
    keep_weights,
    lift,
    multiply_image,
    weights_operand,
)


class CudaTapByTap(CudaForm):
    """What both forms share: each tap's weights, ic/g rows of oc/g; an input seen as the tap sees it."""

    def prepare_weights(self, ctx, w):
        p = ctx.problem
        rows = p.kh * p.kw * p.icg
        return keep_weights(ctx, w, rows, p.ocg, oc=(0, 1), c=(1, 0), r=(p.kw * p.icg, 0), s=(p.icg, 0))

    def weights_of(self, problem, prepared, tap):
        """A tap's rows of every group's weights."""
        return weights_operand(prepared, (tap.r * problem.kw + tap.s) * problem.icg)

    def seen(self, problem, x, tap):
        """The pixels that a tap reads for its rectangle of the output; zeros outside the image."""
        p = problem
        return patches(p, x, kh=1, kw=1, oh=tap.height, ow=tap.width, pad_top=-(tap.rows[0] * p.sh + tap.down),
                       pad_left=-(tap.columns[0] * p.sw + tap.right))  # fmt: skip


class CudaShiftAdd(CudaTapByTap):
    """as: a tap's product goes to the buffer and from there, shifted, into the output."""

    def lowering_bytes(self, problem, request):
        return self.lowering.lowering_bytes(problem, request)

    def rearranged_bytes(self, problem, request):
        return self.lowering.rearranged_bytes(problem, request)

    def call(self, problem, tap) -> GemmCall:
        sides = (problem.ocg, problem.mb * tap.pixels)[:: 1 if self.lowering.side == "a" else -1]
        return GemmCall(*sides, problem.icg, batch=problem.g)

    def gemm_calls(self, problem, request):
        return [self.call(problem, tap) for tap in self.lowering.rectangles(problem)]

    def run(self, ctx, x, prepared, out):
        p, rectangles = ctx.problem, self.lowering.rectangles(ctx.problem)
        buffer = ctx.take("buffer", (self.lowering_bytes(p, ctx.request) // p.itemsize,))
        for tap in rectangles:
            pixels = p.mb * tap.pixels
            k_step, step = (pixels, 1) if self.lowering.side == "a" else (1, p.ocg)
            weights, source = self.weights_of(p, prepared, tap), self.seen(p, x, tap)
            channels_times_pixels(ctx, self.call(p, tap), weights, source, buffer, k_step, step, p.ocg * pixels,
                                  self.lowering.side == "a")  # fmt: skip
            terms = [Share(g * p.ocg * pixels, tap.pixels * step, k_step, tap.width * step, step,
                           g * p.ocg, (g + 1) * p.ocg, *tap.rows, *tap.columns) for g in range(p.g)]  # fmt: skip
            lift(ctx, out, buffer, terms, ctx.residual, tap is rectangles[0], tap is rectangles[-1])
        if not rectangles:
            lift(ctx, out, x, [], ctx.residual)


class CudaAccumulate(CudaTapByTap):
    """aa: every product is added to the output's rectangle that its tap reaches; no scratch at all."""

    def gemm_calls(self, problem, request):
        p, rows = problem, self.lowering.side == "a"
        return [image_call(p, p.mb * tap.pixels, p.icg, p.g, rows, split=False) for tap in self.lowering.rectangles(p)]

    def run(self, ctx, x, prepared, out):
        p, rectangles = ctx.problem, self.lowering.rectangles(ctx.problem)
        whole = [tap.pixels == p.oh * p.ow for tap in rectangles]
        stores, finishes = whole[:1] == [True], whole[-1:] == [True]
        if not stores:
            lift(ctx, out, x, [], finish=False)
        for call, tap in zip(self.gemm_calls(p, ctx.request), rectangles, strict=True):
            part = (slice(None), slice(None), slice(*tap.rows), slice(*tap.columns))
            last = finishes and tap is rectangles[-1]
            residual = ctx.residual[part] if last and ctx.residual is not None else None
            multiply_image(ctx, call, self.weights_of(p, prepared, tap), self.seen(p, x, tap), out[part], residual,
                           rows=self.lowering.side == "a", plain=not last,
                           beta=0.0 if stores and tap is rectangles[0] else 1.0)  # fmt: skip
        if not finishes and (ctx.request.epilogue or not rectangles):
            lift(ctx, out, x, [], ctx.residual, begin=False)
