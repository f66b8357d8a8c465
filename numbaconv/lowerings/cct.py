"""Caffe con Troll's type 2: lower one axis of the kernel, lift the other. A little of both.

    image ──lower kw──► (kw·ic) x (ih·ow) ──multiply──► (kh·oc) x (ih·ow) ──lift kh──► out
                                                        ┌ kernel row 0 ┐
                                                        ├ kernel row 1 ┤  out row y = sum over r of
                                                        └ kernel row 2 ┘  row y·sh + r·dh - pad_top of part r

Type 1 (im2col) replicates while lowering, type 3 (kn2row) while lifting; this one replicates kw times before and kh
times after the product. `lower` says which axis goes first.

Paper: Hadjis, Abuzaid, Zhang, Re, "Caffe con Troll: Shallow Ideas to Speed Up Deep Learning", arXiv 1504.04343 (2015).
Memory: kw·ic·ih·ow + kh·oc·ih·ow elements for the images lowered together (lower=kh: kh·ic·oh·iw + kw·oc·oh·iw).
Cost: mb·oc·ic/g·kh·kw·ih·ow multiply-adds (with a stride sh, sh times the direct count: rows between are computed too).
"""

from __future__ import annotations

import numpy as np

from numbaconv.gemm import Axis, Matrix
from numbaconv.gemm.cuda import Place
from numbaconv.gemm.cuda_plan import Result
from numbaconv.geometry import window_of
from numbaconv.lift import Term, lift
from numbaconv.lift_cuda import Share
from numbaconv.lowering import PARTS, GemmCall, Lowering
from numbaconv.lowering_cuda import CudaForm
from numbaconv.lowerings._cuda_matrices import keep_weights, matrix_operand, weights_operand
from numbaconv.lowerings._cuda_matrices import lift as device_lift
from numbaconv.lowerings._cuda_patches import patch_grid, patch_writer
from numbaconv.lowerings._lower import lower_taps, patch_sources
from numbaconv.lowerings._matrices import group, operands, pack_weights
from numbaconv.lowerings._taps import reach
from numbaconv.workspace import address_of


class CudaCctType2(CudaForm):
    """The same three stages: patches of one axis, a product, the other axis lifted."""

    def lowering_bytes(self, problem, request):
        return self.lowering.lowering_bytes(problem, request)

    def gemm_calls(self, problem, request):
        p = problem
        lowered, lifted, rows, columns = self.lowering.sizes(p)
        return [GemmCall(lifted * p.ocg, p.mb * rows * columns, lowered * p.icg, batch=p.g)]

    def prepare_weights(self, ctx, w):
        p = ctx.problem
        lowered, lifted, _, _ = self.lowering.sizes(p)
        first, last = (p.icg, 0), (0, p.ocg)  # how a lowered tap moves on, and a lifted one
        r, s = (last, first) if self.values["lower"] == "kw" else (first, last)
        return keep_weights(ctx, w, lowered * p.icg, lifted * p.ocg, oc=(0, 1), c=(1, 0), r=r, s=s)

    def run(self, ctx, x, prepared, out):
        p = ctx.problem
        lowered, lifted, rows, columns = self.lowering.sizes(p)
        pixels, depth, channels = p.mb * rows * columns, lowered * p.icg, lifted * p.ocg
        patches = ctx.take("lowered", (p.g, depth * pixels))
        product = ctx.take("product", (p.g * channels * pixels,))
        changes = self.lowering.lowered_axis(p)
        for g in range(p.g):
            window = window_of(p, group(p, x, g), **changes)
            ctx.launch("lower", patch_writer(x.itemsize, True), patch_grid(window, depth, pixels, True),
                       group(p, x, g), patches[g], window, depth, pixels, pixels, 1)  # fmt: skip
        (call,) = self.gemm_calls(p, ctx.request)
        place = Place(1, pixels, pixels, 0, 0, 1, channels * pixels)
        matrix = matrix_operand(patches, pixels, 1, depth * pixels)
        finish = ctx.finish("row", plain=True)
        ctx.multiply(call, weights_operand(prepared), matrix, Result(product, place), "columns", finish)
        terms = []
        for g in range(p.g):
            for tap in range(lifted):
                for t in self.lowering.terms(p, tap, (g * channels + tap * p.ocg) * pixels, pixels, columns, g, 1):
                    terms.append(Share(t.place, rows * columns, *t[1:]))
        device_lift(ctx, out, product, terms, ctx.residual)


class CctType2(Lowering):
    """Balanced lowering."""

    name = "cct-type2"
    family = "cct"
    devices = ("cpu", "cuda")
    cuda = CudaCctType2
    paper = "Hadjis, Abuzaid, Zhang, Re: Caffe con Troll, arXiv 1504.04343 (2015)"
    parameters = {"lower": ("kw", "kh"), **PARTS}

    def sizes(self, problem) -> tuple[int, int, int, int]:
        """(taps lowered, taps lifted, rows, columns): of the kernel, and of an image between."""
        p = problem
        if self.values["lower"] == "kw":
            return p.kw, p.kh, p.ih, p.ow
        return p.kh, p.kw, p.oh, p.iw

    def lowered_axis(self, problem) -> dict[str, int]:
        """The sizes by which lowering one axis differs from lowering both."""
        if self.values["lower"] == "kw":
            return {"kh": 1, "sh": 1, "pad_top": 0, "oh": problem.ih}
        return {"kw": 1, "sw": 1, "pad_left": 0, "ow": problem.iw}

    def lowering_bytes(self, problem, request):
        lowered, lifted, rows, columns = self.sizes(problem)
        return problem.mb * (lowered * problem.ic + lifted * problem.oc) * rows * columns * problem.itemsize

    def gemm_calls(self, problem, request) -> list[GemmCall]:
        lowered, lifted, rows, columns = self.sizes(problem)
        p = problem
        return [GemmCall(lifted * p.ocg, p.mb * rows * columns, lowered * p.icg, p.g, operands("a", True))]

    def prepare_weights(self, problem, request, w):
        p = problem
        by_group = w.reshape(p.g, p.ocg, p.icg, p.kh, p.kw)
        order = (0, 3, 1, 4, 2) if self.values["lower"] == "kw" else (0, 4, 1, 3, 2)
        lowered, lifted, _, _ = self.sizes(p)
        matrices = by_group.transpose(order).reshape(p.g, lifted * p.ocg, lowered * p.icg)
        return pack_weights(p, request, np.ascontiguousarray(matrices), self.gemm_calls)

    def run(self, ctx, x, prepared, out):
        p, size = ctx.problem, ctx.problem.itemsize
        lowered, lifted, rows, columns = self.sizes(p)
        pixels, depth, channels = p.mb * rows * columns, lowered * p.icg, lifted * p.ocg
        patches = ctx.take("lowered", p.g * depth * pixels)
        product = ctx.take("product", p.g * channels * pixels)
        matrices = lower_taps(ctx, patch_sources(p, x, **self.lowered_axis(p)), depth, pixels, patches)
        terms: list[list[Term]] = [[] for _ in range(p.mb)]
        for g, (weights, matrix) in enumerate(zip(prepared, matrices, strict=True)):
            place = address_of(product) + g * channels * pixels * size
            target = Matrix(place, Axis(pixels * size), Axis(size), product)
            ctx.multiply_as(channels, pixels, depth, weights, matrix, target, operands("a", True))
            for tap in range(lifted):
                for n in range(p.mb):
                    first = place + (tap * p.ocg * pixels + n * rows * columns) * size
                    terms[n] += self.terms(p, tap, first, pixels * size, columns * size, g, size)
        for n in range(p.mb):
            lift(ctx, out[n], terms[n], None if ctx.residual is None else ctx.residual[n])

    def terms(self, p, tap: int, place: int, k_step: int, row_step: int, g: int, size: int) -> list[Term]:
        """A lifted tap's share of an image, steps in units of which an element takes `size`; none where it reaches
        nothing."""
        channels = g * p.ocg, (g + 1) * p.ocg
        if self.values["lower"] == "kw":
            shift = tap * p.dh - p.pad_top
            y, y_end = reach(p.oh, p.sh, shift, p.ih)
            place += (y * p.sh + shift) * row_step
            term = Term(place, k_step, p.sh * row_step, size, *channels, y, y_end, 0, p.ow)
        else:
            shift = tap * p.dw - p.pad_left
            z, z_end = reach(p.ow, p.sw, shift, p.iw)
            place += (z * p.sw + shift) * size
            term = Term(place, k_step, row_step, p.sw * size, *channels, 0, p.oh, z, z_end)
        return [term] if term.y_first < term.y_end and term.z_first < term.z_end else []
