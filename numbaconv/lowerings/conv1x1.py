"""1x1 convolutions: the input already is the patch matrix. No copy.

    NCHW    out (oc x pixels)  =  W (oc x ic) · in (ic x pixels)          the packing reads the input where it lies,
    NHWC    out (pixels x oc)  =  in (pixels x ic) · Wᵀ (ic x oc)         whatever the stride

Paper: Lin, Chen, Yan, "Network in Network" (2013); Caffe skips im2col for them.
Memory: 0.    Cost: mb·oc·ic/g·oh·ow multiply-adds.
"""

from __future__ import annotations

from numbaconv.lowering import THREADS, YES, Lowering, Support
from numbaconv.lowerings._matrices import (
    channels_by_pixels,
    group,
    multiply_weights,
    pack_weights,
    tap_major,
    weights_call,
)  # fmt: skip


class Conv1x1(Lowering):
    """GEMM on the input as it lies."""

    name = "conv1x1"
    family = "1x1"
    paper = "Lin, Chen, Yan: Network in Network, arXiv 1312.4400 (2013)"
    parameters = {"threads": THREADS}

    def supports(self, problem, request):
        if (problem.kh, problem.kw) != (1, 1):
            return Support(f"the kernel is {problem.kh}x{problem.kw}, not 1x1")
        if problem.pad_top or problem.pad_left or problem.pad_bottom > 0 or problem.pad_right > 0:
            return Support("it has padding")
        return YES

    def gemm_calls(self, problem, request):
        return [weights_call(problem, problem.oh * problem.ow, problem.icg, problem.mb * problem.g)]

    def prepare_weights(self, problem, request, w):
        return pack_weights(problem, request, tap_major(problem, w), self.gemm_calls)

    def run(self, ctx, x, prepared, out):
        p = ctx.problem
        read = x[:, :, : (p.oh - 1) * p.sh + 1 : p.sh, : (p.ow - 1) * p.sw + 1 : p.sw]
        for n in range(p.mb):
            residual = None if ctx.residual is None else ctx.residual[n]
            for g, weights in enumerate(prepared):
                source = channels_by_pixels(group(p, read, g)[n])
                multiply_weights(ctx, weights, source, g, out[n], residual)
