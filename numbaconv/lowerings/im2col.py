"""im2col: write every patch of the input down as a column (im2row: as a row), then one product does the convolution.

    image                    patch matrix K x P            K = kh·kw·ic rows, one a tap and channel; P = oh·ow columns
    ┌─┬─┬─┬─┐                ┌───────────┐
    │a│b│c│d│   2x2 kernel   │a b c e f g│ tap (0,0)     out (oc x P)  =  W (oc x K) · patches
    │e│f│g│h│  ───────────►  │b c d f g h│ tap (0,1)
    │i│j│k│l│                │e f g i j k│ tap (1,0)     im2col keeps the matrix row by row, im2row pixel by pixel
    └─┴─┴─┴─┘                │f g h j k l│ tap (1,1)     (each patch in one piece)
                             └───────────┘

Paper: Chellapilla, Puri, Simard (2006); batching: Hadjis et al., "Caffe con Troll" (2015).
Memory: kh·kw·ic·oh·ow elements for as many images as are lowered together (`batching`: "image" takes one, "whole" the
batch, a number that many parts of the batch, "block" as many output rows of an image as stay in L2).
Cost: mb·oc·ic/g·kh·kw·oh·ow multiply-adds, and one write and read of the patches.
"""

from __future__ import annotations

from numbaconv.geometry import window_of
from numbaconv.lowering import THREADS, GemmCall, Lowering
from numbaconv.lowering_cuda import CudaForm
from numbaconv.lowerings._cuda_matrices import image_call, matrix_operand, multiply_image, weights_operand
from numbaconv.lowerings._cuda_matrices import tap_major as keep_tap_major
from numbaconv.lowerings._cuda_patches import patch_grid, patch_writer, scalar_grid, scalar_writer
from numbaconv.lowerings._lower import lower_pixels, lower_taps, patch_sources
from numbaconv.lowerings._matrices import group, multiply_weights, pack_weights, tap_major, weights_call
from numbaconv.lowerings._patches import scalar_packer


class CudaPatchMatrix(CudaForm):
    """The same matrices in a GPU's memory, written by a kernel of their own."""

    def lowering_bytes(self, problem, request):
        return self.lowering.lowering_bytes(problem, request)

    def gemm_calls(self, problem, request):
        p = problem
        return [image_call(p, p.mb * p.oh * p.ow, p.K, p.g)]

    def prepare_weights(self, ctx, w):
        return keep_tap_major(ctx, w, ctx.problem.icg)

    def run(self, ctx, x, prepared, out):
        p, by_pixels = ctx.problem, self.lowering.by_pixels
        pixels = p.mb * p.oh * p.ow
        steps = (pixels, 1) if by_pixels else (1, p.K)
        target = ctx.take("patches", (p.g, p.K * pixels))
        for g in range(p.g):
            source = group(p, x, g)
            self.write(ctx, source, target[g], window_of(p, source), p.K, pixels, *steps)
        patches = matrix_operand(target, *steps, p.K * pixels)
        (call,) = self.gemm_calls(p, ctx.request)
        multiply_image(ctx, call, weights_operand(prepared), patches, out, ctx.residual)

    def write(self, ctx, source, target, window, depth, pixels, step_k, step):
        """The lower stage of a group."""
        if self.lowering.scans:
            kernel, grid = scalar_writer(source.itemsize), scalar_grid(window, depth, pixels)
        else:
            by_pixels = self.lowering.by_pixels
            kernel, grid = patch_writer(source.itemsize, by_pixels), patch_grid(window, depth, pixels, by_pixels)
        ctx.launch("lower", kernel, grid, source, target, window, depth, pixels, step_k, step)


class PatchMatrix(Lowering, abstract=True):
    """What the explicit patch matrices share: all but the way they are written."""

    family = "im2col"
    paper = "Chellapilla, Puri, Simard: High Performance Convolutional Neural Networks for Document Processing (2006)"
    parameters = {"batching": ("image", "block", "whole", int), "threads": THREADS}
    devices = ("cpu", "cuda")
    cuda = CudaPatchMatrix
    by_pixels = True  # a row of the matrix is a tap at every pixel
    scans = False

    def lowering_bytes(self, problem, request):
        p = problem
        return p.g * p.K * p.mb * p.oh * p.ow * p.itemsize

    def gemm_calls(self, problem, request) -> list[GemmCall]:
        p = problem
        return [weights_call(p, p.mb * p.oh * p.ow, p.K, p.g, self.by_pixels)]

    def prepare_weights(self, problem, request, w):
        return pack_weights(problem, request, tap_major(problem, w), self.gemm_calls)

    def run(self, ctx, x, prepared, out):
        p = ctx.problem
        pixels = p.mb * p.oh * p.ow
        target = ctx.take("patches", p.g * p.K * pixels)
        matrices = self.write(ctx, patch_sources(p, x), p.K, pixels, target)
        for g, (weights, patches) in enumerate(zip(prepared, matrices, strict=True)):
            multiply_weights(ctx, weights, patches, g, out, ctx.residual, self.by_pixels)

    @staticmethod
    def write(ctx, sources, depth, pixels, target):
        """The lower stage: each group's matrix, as K x P."""
        raise NotImplementedError


class Im2col(PatchMatrix):
    """Patches as columns; runs of pixels are copied by whole vectors."""

    name = "im2col"
    write = staticmethod(lower_taps)


class Im2row(PatchMatrix):
    """Patches as rows."""

    name = "im2row"
    by_pixels = False
    write = staticmethod(lower_pixels)


class Im2colScan(PatchMatrix):
    """Patches as columns, each element looked up and tested by itself: the slow one, for teaching."""

    name = "im2col-scan"
    scans = True

    @staticmethod
    def write(ctx, sources, depth, pixels, target):
        return lower_taps(ctx, sources, depth, pixels, target, scalar_packer(ctx.problem.itemsize))
