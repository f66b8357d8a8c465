"""1x1 convolutions: the input already is the patch matrix. No copy.

    NCHW    out (oc x pixels)  =  W (oc x ic) · in (ic x pixels)          packing reads the input where it lies,
    NHWC    out (pixels x oc)  =  in (pixels x ic) · Wᵀ (ic x oc)         whatever the stride, a whole batch at once

Paper: Lin, Chen, Yan, "Network in Network" (2013); Caffe skips im2col for them.
Memory: 0.    Cost: mb·oc·ic/g·oh·ow multiply-adds.
"""

from __future__ import annotations

from numbaconv.gemm.axes import UNBROKEN
from numbaconv.gemm.cuda_loaders import ROWS, Rows
from numbaconv.gemm.cuda_plan import Operand
from numbaconv.lowering import YES, Lowering, Support, recorded
from numbaconv.lowering_cuda import CudaForm
from numbaconv.lowerings._cuda_gather import patches
from numbaconv.lowerings._cuda_matrices import image_call, multiply_image, vector_of, weights_operand
from numbaconv.lowerings._cuda_matrices import tap_major as keep_tap_major
from numbaconv.lowerings._matrices import (
    channels_by_pixels,
    group,
    multiply_weights,
    pack_weights,
    pixel_axis,
    tap_major,
    weights_call,
)
from numbaconv.lowerings._patches import patch_source

LEAST_PIXELS = 1024  # of an image that is a product of its own on a GPU: smaller ones leave tiles half empty


class CudaConv1x1(CudaForm):
    """NCHW: an image's channels are the rows of B and copied by 128 bits, images are the products of a batch."""

    def by_images(self, problem) -> bool:
        p = problem
        pixels = p.oh * p.ow
        plain = p.layout == "nchw" and p.g == 1 and (p.sh, p.sw, p.oh, p.ow) == (1, 1, p.ih, p.iw)
        return plain and pixels >= LEAST_PIXELS and pixels % vector_of(p.itemsize) == 0

    def gemm_calls(self, problem, request):
        p = problem
        if self.by_images(p):
            return [image_call(p, p.oh * p.ow, p.ic, p.mb)]
        return [image_call(p, p.mb * p.oh * p.ow, p.icg, p.g)]

    def prepare_weights(self, ctx, w):
        return keep_tap_major(ctx, w, ctx.problem.icg)

    def run(self, ctx, x, prepared, out):
        p, size = ctx.problem, ctx.problem.itemsize
        (call,) = self.gemm_calls(p, ctx.request)
        if not self.by_images(p):
            multiply_image(ctx, call, weights_operand(prepared), patches(p, x), out, ctx.residual)
            return
        images, channels, rows, _ = (step // size for step in x.strides)
        aligned = images % vector_of(size) == channels % vector_of(size) == x.pointer % 16 == 0
        if aligned and rows == p.iw:
            source = Operand(ROWS, Rows(channels, images), x)
        else:
            source = patches(p, x, batch=images)
        weights = Operand(ROWS, Rows(prepared.shape[2], 0), prepared)
        multiply_image(ctx, call, weights, source, out, ctx.residual, by_images=True)


class Conv1x1(Lowering):
    """GEMM on the input as it lies."""

    name = "conv1x1"
    family = "1x1"
    devices = ("cpu", "cuda")
    cuda = CudaConv1x1
    paper = "Lin, Chen, Yan: Network in Network, arXiv 1312.4400 (2013)"
    parameters = {
        "batching": ("whole", "image", int),
        "threads": ("inner", "images", "auto"),
    }  # no buffer grows with it

    def supports(self, problem, request):
        if (problem.kh, problem.kw) != (1, 1):
            return Support(f"the kernel is {problem.kh}x{problem.kw}, not 1x1")
        if problem.pad_top or problem.pad_left or problem.pad_bottom > 0 or problem.pad_right > 0:
            return Support("it has padding")
        return YES

    def gemm_calls(self, problem, request):
        return [weights_call(problem, problem.mb * problem.oh * problem.ow, problem.icg, problem.g)]

    def prepare_weights(self, problem, request, w):
        return pack_weights(problem, request, tap_major(problem, w), self.gemm_calls)

    @recorded
    def run(self, ctx, x, prepared, out):
        p = ctx.problem
        for g, weights in enumerate(prepared):
            multiply_weights(ctx, weights, self._pixels(p, group(p, x, g)), g, out, ctx.residual)

    @staticmethod
    def _pixels(p, x):
        """The pixels that are read, channels x pixels: a view where two levels describe them."""
        if (p.sh, p.sw) == (1, 1):
            read = x[:, :, : p.oh, : p.ow]
            if p.mb == 1 or pixel_axis(read).inner == UNBROKEN:
                return channels_by_pixels(read)
        return patch_source(p, x)
