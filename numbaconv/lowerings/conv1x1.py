"""1x1 convolutions: the input already is the patch matrix. No copy.

    NCHW    out (oc x pixels)  =  W (oc x ic) · in (ic x pixels)          the packing reads the input where it lies,
    NHWC    out (pixels x oc)  =  in (pixels x ic) · Wᵀ (ic x oc)         whatever the stride

Paper: Lin, Chen, Yan, "Network in Network" (2013); Caffe skips im2col for them.
Memory: 0.    Cost: mb·oc·ic/g·oh·ow multiply-adds.
"""

from __future__ import annotations

from numbaconv.lowering import YES, GemmCall, Lowering, Support
from numbaconv.lowerings._matrices import A_PACKED, B_PACKED, pack_weights, products


class Conv1x1(Lowering):
    """GEMM on the input as it lies."""

    name = "conv1x1"
    family = "1x1"
    paper = "Lin, Chen, Yan: Network in Network, arXiv 1312.4400 (2013)"

    def supports(self, problem, request):
        if (problem.kh, problem.kw) != (1, 1):
            return Support(f"the kernel is {problem.kh}x{problem.kw}, not 1x1")
        if problem.pad_top or problem.pad_left or problem.pad_bottom > 0 or problem.pad_right > 0:
            return Support("it has padding")
        return YES

    def gemm_calls(self, problem, request):
        p, pixels = problem, problem.oh * problem.ow
        if p.layout == "nchw":
            return [GemmCall(p.ocg, pixels, p.icg, p.mb * p.g, A_PACKED)]
        return [GemmCall(pixels, p.ocg, p.icg, p.mb * p.g, B_PACKED)]

    def prepare_weights(self, problem, request, w):
        return pack_weights(problem, request, w.reshape(problem.g, problem.ocg, problem.icg), self.gemm_calls)

    def run(self, ctx, x, prepared, out):
        products(
            ctx, x[:, :, :: ctx.problem.sh, :: ctx.problem.sw][:, :, : out.shape[2], : out.shape[3]], prepared, out
        )
