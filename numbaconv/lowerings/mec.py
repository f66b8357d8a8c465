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
from numbaconv.lowering import PARTS, Lowering
from numbaconv.lowerings._lower import lower_pixels, lower_taps, patch_sources
from numbaconv.lowerings._matrices import multiply_weights, pack_weights, weights_call
from numbaconv.workspace import address_of


def _axis(inner: int, step: int, outer: int) -> Axis:
    """Runs of `inner` elements; of one level where the runs follow one another."""
    return Axis(step) if outer == inner * step else Axis(step, inner, outer)


class OneAxis(Lowering, abstract=True):
    """A convolution with a kernel of one row (or column) is lowered; the other axis is a view of the result."""

    family = "mec"
    parameters = PARTS
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
