"""The definition of a convolution as seven plain loops: what all others are compared with.

    out[n, k, y, x] = sum over c, r, s of in[n, c, y·sh + r·dh - pad_top, x·sw + s·dw - pad_left] · w[k, c, r, s]

Every sum is one running chain in the problem's own precision ("direct float32", the accuracy yardstick).

Memory: none.    Cost: mb·oc·oh·ow·ic/g·kh·kw multiply-adds, one at a time.
"""

from __future__ import annotations

from numbaconv.geometry import geometry_of, window_of
from numbaconv.jit import compiled
from numbaconv.lift import LIMITS
from numbaconv.lowering import Lowering
from numbaconv.lowering_cuda import CudaForm
from numbaconv.lowerings._cuda_direct import NO_IMAGE, Task, image_of, reference_grid, reference_kernel
from numbaconv.lowerings._cuda_matrices import keep_copy


@compiled
def _convolve(x, w, out, geometry, groups):
    g = geometry[0]
    channels_in, channels_out = w.shape[1], out.shape[1] // groups
    for n in range(out.shape[0]):
        for k in range(out.shape[1]):
            first = k // channels_out * channels_in
            for y in range(g.oh):
                for z in range(g.ow):
                    total = out.dtype.type(0)
                    for c in range(channels_in):
                        for r in range(g.kh):
                            ih = y * g.sh + r * g.dh - g.pad_top
                            if ih < 0 or ih >= g.ih:
                                continue
                            for s in range(g.kw):
                                iw = z * g.sw + s * g.dw - g.pad_left
                                if 0 <= iw < g.iw:
                                    total += x[n, first + c, ih, iw] * w[k, c, r, s]
                    out[n, k, y, z] = total


class CudaReference(CudaForm):
    """The same loops, a thread an output."""

    def share_of_peak(self, problem):
        return 0.001

    def prepare_weights(self, ctx, w):
        return keep_copy(ctx, w)

    def run(self, ctx, x, prepared, out):
        p, residual = ctx.problem, ctx.residual
        task = Task(p.mb, p.ocg, int(ctx.bias is not None), int(residual is not None))
        window = window_of(p, x, ic=p.icg)
        images = image_of(out), NO_IMAGE if residual is None else image_of(residual)
        grid, limits = reference_grid(images[0], task), LIMITS[ctx.request.epilogue.activation]
        ctx.launch("multiply", reference_kernel(x.itemsize), grid, x, prepared, out, ctx.bias, residual, window,
                   *images, task, *limits)  # fmt: skip


class Reference(Lowering):
    """Plain loops: slow, certain, always last."""

    name = "reference"
    family = "direct"
    devices = ("cpu", "cuda")
    cuda = CudaReference
    paper = "the definition"

    def run(self, ctx, x, prepared, out):
        ctx.multiply_by(_convolve, x, prepared, out, geometry_of(ctx.problem, x), ctx.problem.g)
        ctx.epilogue(out)
