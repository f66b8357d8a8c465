"""MEC, and im2win: lower along one axis only. The products read overlapping views of what was lowered.

    image             lowered along the width (MEC)                  patches of output row y are rows y·sh ... of the
    ┌──────────┐      every row h:  ow patches of 1 x kw             lowered matrix: those of row y + 1 begin sh rows
    │          │  ─►  ┌───────────────┐ h = 0  ┐ output row 0      later and share the rest
    │          │      ├───────────────┤ h = 1  │ ┐ output row 1
    └──────────┘      ├───────────────┤ h = 2  ┘ │                 im2win lowers along the height instead: every output
                      └───────────────┘ ...      ┘                 row is a strip of iw + pads columns of kh·ic

Paper: Cho, Brand, "MEC: Memory-efficient Convolution for Deep Neural Network", arXiv 1706.06873 (2017);
Lu et al., "Im2win: Memory Efficient Convolution on SIMD Architectures", arXiv 2306.14320 (2023).
Memory: MEC kw·ic·(ih + pads)·ow, im2win kh·ic·oh·(iw + pads) elements for the images lowered together.
Cost: mb·oc·ic/g·kh·kw·oh·ow multiply-adds, and a write of the lowered matrix.

Where we leave the papers: they issue a product for each output row, over a view with a leading dimension. An axis of
ours has two levels, so all rows of an image are one product. ``mec`` and ``im2win`` keep pixels as rows with their
channels side by side, as the papers do; ``mec-row`` keeps taps as rows.
"""

from __future__ import annotations

from numbaconv.gemm import Axis, Matrix
from numbaconv.gemm.axes import UNBROKEN
from numbaconv.geometry import window_of
from numbaconv.lowering import PARTS, Lowering
from numbaconv.lowering_cuda import CudaForm
from numbaconv.lowerings._cuda_gather import padded_channels, patches
from numbaconv.lowerings._cuda_matrices import image_call, keep_weights, multiply_image, weights_operand
from numbaconv.lowerings._cuda_patches import patch_grid, patch_writer
from numbaconv.lowerings._lower import lower_pixels, lower_taps, patch_sources
from numbaconv.lowerings._matrices import group, multiply_weights, pack_weights, weights_call
from numbaconv.workspace import address_of


def _axis(inner: int, step: int, outer: int) -> Axis:
    """Runs of `inner` elements; of one level where the runs follow one another."""
    return Axis(step) if outer == inner * step else Axis(step, inner, outer)


class CudaOneAxis(CudaForm):
    """One axis is written down; the other is found like a patch, in an image whose channels are the terms written."""

    def lowering_bytes(self, problem, request):
        return self.lowering.lowering_bytes(problem, request)

    def taps(self, problem) -> tuple[int, int]:
        """(taps that are found, rows of weights for each)."""
        terms, _, _ = self.lowering.sizes(problem)
        taps = problem.kh if self.lowering.across == "kw" else problem.kw
        return taps, padded_channels(terms, taps)

    def gemm_calls(self, problem, request):
        p = problem
        taps, padded = self.taps(p)
        return [image_call(p, p.mb * p.oh * p.ow, taps * padded, p.g)]

    def prepare_weights(self, ctx, w):
        p = ctx.problem
        taps, padded = self.taps(p)
        found, written = (padded, 0), (p.icg, 0)
        r, s = (found, written) if self.lowering.across == "kw" else (written, found)
        return keep_weights(ctx, w, taps * padded, p.ocg, oc=(0, 1), c=(1, 0), r=r, s=s)

    def run(self, ctx, x, prepared, out):
        p = ctx.problem
        terms, rows, columns = self.lowering.sizes(p)
        pixels, by_pixels = p.mb * rows * columns, self.lowering.by_pixels
        changes, found = {"kh": 1, "sh": 1, "oh": rows}, {"kw": 1, "sw": 1, "dw": 1}
        if self.lowering.across == "kh":
            changes, found = {"kw": 1, "sw": 1, "ow": columns}, {"kh": 1, "sh": 1, "dh": 1}
        steps = (pixels, 1) if by_pixels else (1, terms)
        lowered = ctx.take("lowered", (p.g, terms * pixels))
        for g in range(p.g):
            window = window_of(p, group(p, x, g), **changes)
            ctx.launch("lower", patch_writer(x.itemsize, by_pixels), patch_grid(window, terms, pixels, by_pixels),
                       group(p, x, g), lowered[g], window, terms, pixels, *steps)  # fmt: skip
        axes = (0, 1, 2, 3, 4) if by_pixels else (0, 4, 1, 2, 3)
        shape = (terms, p.mb, rows, columns) if by_pixels else (p.mb, rows, columns, terms)
        image = lowered.reshape(p.g, *shape).transpose(axes)  # groups, terms, images, rows, columns
        source = patches(p, image[0].transpose(1, 0, 2, 3), batch=terms * pixels, ic=terms, ih=rows, iw=columns,
                         pad_top=0, pad_left=0, **found)  # fmt: skip
        (call,) = self.gemm_calls(p, ctx.request)
        multiply_image(ctx, call, weights_operand(prepared), source, out, ctx.residual)


class OneAxis(Lowering, abstract=True):
    """A convolution with a kernel of one row (or column) is lowered; the other axis is a view of the result."""

    family = "mec"
    parameters = PARTS
    devices = ("cpu", "cuda")
    cuda = CudaOneAxis
    by_pixels = False
    across = "kw"  # which side of the kernel is lowered

    def sizes(self, problem) -> tuple[int, int, int]:
        """(terms, rows, columns) of a group's lowered image: of what lies at a position, and of positions."""
        p = problem
        if self.across == "kw":
            return p.kw * p.icg, p.ih + p.pad_top + p.pad_bottom, p.ow
        return p.kh * p.icg, p.oh, p.iw + p.pad_left + p.pad_right

    def lowering_bytes(self, problem, request):
        terms, rows, columns = self.sizes(problem)
        return problem.mb * problem.g * terms * rows * columns * problem.itemsize

    def gemm_calls(self, problem, request):
        p = problem
        return [weights_call(p, p.oh * p.ow, p.K, p.g * p.mb, self.by_pixels)]

    def prepare_weights(self, problem, request, w):
        p = problem
        by_group = w.reshape(p.g, p.ocg, p.icg, p.kh, p.kw)
        order = (0, 1, 3, 4, 2) if self.across == "kw" else (0, 1, 4, 3, 2)
        return pack_weights(p, request, by_group.transpose(order).reshape(p.g, p.ocg, p.K), self.gemm_calls)

    def run(self, ctx, x, prepared, out):
        p, size = ctx.problem, ctx.problem.itemsize
        terms, rows, columns = self.sizes(p)
        pixels = p.mb * rows * columns
        lowered = ctx.take("lowered", p.g * terms * pixels)
        if self.across == "kw":
            changes = {"kh": 1, "sh": 1, "oh": rows}
        else:
            changes = {"kw": 1, "sw": 1, "ow": columns}
        write = lower_taps if self.by_pixels else lower_pixels
        write(ctx, patch_sources(p, x, **changes), terms, pixels, lowered)
        step, term = (size, pixels * size) if self.by_pixels else (terms * size, size)
        row, column = columns * step, step
        if self.across == "kw":
            taps = _axis(terms, term, p.dh * row) if p.kh > 1 else Axis(term)
            place = _axis(p.ow, column, p.sh * row)
        else:
            taps = _axis(terms, term, p.dw * column) if p.kw > 1 else Axis(term)
            place = _axis(p.ow, p.sw * column, row)
        place = Axis(place.step, place.inner if p.oh > 1 else UNBROKEN, place.outer)
        for n in range(p.mb):
            residual = None if ctx.residual is None else ctx.residual[n]
            for g, weights in enumerate(prepared):
                first = address_of(lowered) + g * terms * pixels * size + n * rows * columns * step
                multiply_weights(
                    ctx, weights, Matrix(first, taps, place, lowered), g, out[n], residual, self.by_pixels
                )  # fmt: skip


class Mec(OneAxis):
    """Lowered along the width; pixels as rows."""

    name = "mec"
    paper = "Cho, Brand: MEC, arXiv 1706.06873 (2017)"


class MecRow(OneAxis):
    """Lowered along the width; taps as rows."""

    name = "mec-row"
    paper = "Cho, Brand: MEC, arXiv 1706.06873 (2017)"
    by_pixels = True


class Im2win(OneAxis):
    """Lowered along the height: the windows of an output row overlap in one strip."""

    name = "im2win"
    paper = "Lu et al.: Im2win, arXiv 2306.14320 (2023)"
    across = "kh"
