"""The smallest lowering that works: copy this file to ``lowerings/yours.py``, change the names, then the idea.

One product a tap of the kernel: the input, shifted as the tap sees it, times the tap's weights, all taps summed.

    for each tap (r, s)      shifted (ic x P)   =  the input moved by (r, s), every stride-th pixel, 0 for padding
                             product (oc x P)  +=  W[:, :, r, s] (oc x ic) · shifted          P = oh·ow pixels

Paper: Anderson et al., arXiv 1709.03395 (kn2row, with the shift before the product).
Memory: (ic + oc)/g · oh·ow elements.    Cost: mb·oc·ic/g·kh·kw·oh·ow multiply-adds, kh·kw·g·mb products.
"""

from __future__ import annotations

import numpy as np

from numbaconv.lowering import YES, GemmCall, Lowering, Support


class Template(Lowering):
    """One product a tap, on a shifted copy."""

    name = "template"
    family = "experiments"
    paper = "this file"

    def supports(self, problem, request):
        if problem.kh * problem.kw > 1000:
            return Support(f"the kernel has {problem.kh * problem.kw} taps, a product for each is too many")
        return YES

    def lowering_bytes(self, problem, request):
        return (problem.icg + problem.ocg) * problem.oh * problem.ow * problem.itemsize

    def gemm_calls(self, problem, request):
        p = problem
        return [GemmCall(p.ocg, p.oh * p.ow, p.icg, p.mb * p.g * p.kh * p.kw)]

    def prepare_weights(self, problem, request, w):
        p = problem  # a matrix (oc/g x ic/g) for each tap and group
        return np.array(w.reshape(p.g, p.ocg, p.icg, p.kh, p.kw).transpose(3, 4, 0, 1, 2), order="C")

    def run(self, ctx, x, prepared, out):
        p = ctx.problem
        shifted = ctx.take("shifted", (p.icg, p.oh, p.ow))
        product = ctx.take("product", (p.ocg, p.oh * p.ow))
        for n, g in np.ndindex(p.mb, p.g):
            image = x[n, g * p.icg : (g + 1) * p.icg]
            for r, s in np.ndindex(p.kh, p.kw):
                ctx.lower(shift, image, shifted, r, s, p)
                ctx.multiply(prepared[r, s, g], shifted.reshape(p.icg, -1), product, accumulate=(r, s) != (0, 0))
            ctx.lift(np.copyto, out[n, g * p.ocg : (g + 1) * p.ocg], product.reshape(p.ocg, p.oh, p.ow))
        ctx.epilogue(out)


def shift(image, shifted, r, s, p):
    """The pixels of `image` (channels, ih, iw) that tap (r, s) meets, one for each output; 0 where it meets padding."""
    rows, from_rows = meets(r * p.dh - p.pad_top, p.sh, p.oh, p.ih)
    columns, from_columns = meets(s * p.dw - p.pad_left, p.sw, p.ow, p.iw)
    shifted[...] = 0
    shifted[:, rows, columns] = image[:, from_rows, from_columns]


def meets(start, stride, outputs, size):
    """Along an axis: the outputs whose tap lies inside of the input, and the pixels there."""
    low = min(max(0, -(start // stride)), outputs)
    high = max(low, min(outputs, (size - 1 - start) // stride + 1))
    return slice(low, high), slice(start + low * stride, start + high * stride, stride)
