"""Implicit GEMM: im2col done inside GEMM's packing. The patch matrix never exists.

    image ──────────────► panels of patches (in L2) ──► micro-kernel ──► output
             packing finds each patch in the image

GEMM copies its operand into panels anyway; here the copy starts from the image (``_patches.py``), so one write and one
read of the patch matrix, and all of its memory, are saved.

Paper: Chetlur et al., "cuDNN: Efficient Primitives for Deep Learning", arXiv 1410.0759 (2014), on a GPU's on-chip
memory; San Juan et al., "High Performance and Portable Convolution Operators", arXiv 2005.06410 (2020), inside BLIS.
Memory: 0 (GEMM's panels only).    Cost: mb·oc·ic/g·kh·kw·oh·ow multiply-adds.
"""

from __future__ import annotations

from numbaconv.lowering import Lowering, recorded
from numbaconv.lowering_cuda import CudaForm
from numbaconv.lowerings._cuda_gather import padded_channels, patches
from numbaconv.lowerings._cuda_matrices import image_call, multiply_image, weights_operand
from numbaconv.lowerings._cuda_matrices import tap_major as keep_tap_major
from numbaconv.lowerings._matrices import group, multiply_weights, pack_weights, tap_major, weights_call
from numbaconv.lowerings._patches import patch_source


class CudaImplicitGemm(CudaForm):
    """Patches are found while tiles are copied to shared memory, as in cuDNN."""

    def gemm_calls(self, problem, request):
        p = problem
        depth = p.kh * p.kw * padded_channels(p.icg, p.kh * p.kw)
        return [image_call(p, p.mb * p.oh * p.ow, depth, p.g)]

    def prepare_weights(self, ctx, w):
        return keep_tap_major(ctx, w)

    def run(self, ctx, x, prepared, out):
        (call,) = self.gemm_calls(ctx.problem, ctx.request)
        multiply_image(ctx, call, weights_operand(prepared), patches(ctx.problem, x), out, ctx.residual)


class ImplicitGemm(Lowering):
    """The patch matrix exists panel by panel."""

    name = "implicit-gemm"
    family = "im2col"
    devices = ("cpu", "cuda")
    cuda = CudaImplicitGemm
    paper = "Chetlur et al.: cuDNN, arXiv 1410.0759 (2014); San Juan et al., arXiv 2005.06410 (2020)"
    parameters = {
        "batching": ("whole", "image", int),
        "threads": ("inner", "images", "auto"),
    }  # no buffer grows with it

    def gemm_calls(self, problem, request):
        return [weights_call(problem, problem.mb * problem.oh * problem.ow, problem.K, problem.g)]

    def prepare_weights(self, problem, request, w):
        return pack_weights(problem, request, tap_major(problem, w), self.gemm_calls)

    @recorded
    def run(self, ctx, x, prepared, out):
        p = ctx.problem
        for g, weights in enumerate(prepared):
            multiply_weights(ctx, weights, patch_source(p, group(p, x, g)), g, out, ctx.residual)
