"""Patches that do not overlap: the kernel is as large as the stride. Nothing is copied twice, so nothing is copied.

    ┌──┬──┬──┐          every pixel of the input is in one patch: NHWC, a patch's row of kw·ic is one run, and the
    │  │  │  │          patch matrix is a view of the input; NCHW, the packing reads patches where they lie
    ├──┼──┼──┤
    └──┴──┴──┘          the first layer of vision transformers and of ConvNeXt, and its downsampling

Paper: Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929 (2020): there a fully-connected layer.
Memory: 0.    Cost: mb·oc·ic/g·kh·kw·oh·ow multiply-adds.
"""

from __future__ import annotations

from numbaconv.gemm import Axis, Matrix
from numbaconv.lowering import YES, Lowering, Support, recorded
from numbaconv.lowerings._matrices import group, multiply_weights, pack_weights, tap_major, weights_call
from numbaconv.lowerings._patches import patch_source
from numbaconv.lowerings.implicit import CudaImplicitGemm
from numbaconv.workspace import address_of


class Patchify(Lowering):
    """GEMM on the input as it lies, patch by patch."""

    name = "patchify"
    family = "1x1"
    devices = ("cpu", "cuda")
    cuda = CudaImplicitGemm  # where no patch overlaps another, what it gathers is the input, once
    paper = "Dosovitskiy et al.: arXiv 2010.11929 (2020)"
    parameters = {
        "batching": ("whole", "image", int),
        "threads": ("inner", "images", "auto"),
    }  # no buffer grows with it

    def supports(self, problem, request):
        p = problem
        if (p.kh, p.kw) != (p.sh, p.sw):
            return Support(f"the kernel {p.kh}x{p.kw} is not the stride {p.sh}x{p.sw}")
        if (p.kh > 1 and p.dh > 1) or (p.kw > 1 and p.dw > 1):
            return Support("the kernel is dilated")
        if p.pad_top or p.pad_left or p.pad_bottom > 0 or p.pad_right > 0:
            return Support("it has padding")
        return YES

    def gemm_calls(self, problem, request):
        return [weights_call(problem, problem.mb * problem.oh * problem.ow, problem.K, problem.g)]

    def prepare_weights(self, problem, request, w):
        return pack_weights(problem, request, tap_major(problem, w), self.gemm_calls)

    @recorded
    def run(self, ctx, x, prepared, out):
        p = ctx.problem
        for g, weights in enumerate(prepared):
            multiply_weights(ctx, weights, self._patches(p, group(p, x, g)), g, out, ctx.residual)

    @staticmethod
    def _patches(p, x):
        """The patches, K x P: of one image a view, where channels are the innermost axis and follow one another."""
        _, x_c, x_h, x_w = x.strides
        size = p.itemsize
        if p.mb == p.g == 1 and (x_c, x_w) == (size, p.ic * size):
            terms = Axis(size, p.kw * p.ic, x_h) if p.kh > 1 else Axis(size)
            pixels = Axis(p.sw * x_w, p.ow, p.sh * x_h) if p.oh > 1 else Axis(p.sw * x_w)
            return Matrix(address_of(x), terms, pixels, x)
        return patch_source(p, x)
