"""kn2row, kn2col: multiply first, shift afterwards. One product computes every tap at every input pixel.

    product ((taps·oc) x pixels) = W ((taps·oc) x ic) · in (ic x pixels)

    ┌─ tap (0,0) ─┐ ┌─ tap (0,1) ─┐       out: each tap's oc planes, shifted by its place in the kernel, added up
    │ oc planes   │ │ oc planes   │  ...  (the lift stage, bias and activation in the same pass)
    └─────────────┘ └─────────────┘

Paper: Vasudevan, Anderson, Gregg, "Parallel Multi Channel Convolution using General Matrix Multiplication",
arXiv 1704.04428 (2017); the same as type 3 of Hadjis et al., "Caffe con Troll", arXiv 1504.04343 (2015).
Memory: kh·kw·oc·pixels elements for the images lowered together; pixels: those of the input that a class's taps read.
Cost: mb·oc·ic/g·kh·kw·pixels multiply-adds, and as many additions as products.

Where we leave the papers: they know unit stride, one group and "same" padding. Here taps whose places are equal modulo
the stride make a class, which reads one lattice of input pixels, every sh-th row and sw-th column: a product for each
class, and no multiply-add is spent on pixels between. Rows and columns that no tap of a class reads are left out.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from numbaconv.gemm import Axis, Matrix
from numbaconv.lift import Term, lift
from numbaconv.lift_cuda import Share
from numbaconv.lowering import PARTS, GemmCall, Lowering
from numbaconv.lowering_cuda import CudaForm
from numbaconv.lowerings._cuda_gather import patches
from numbaconv.lowerings._cuda_matrices import channels_times_pixels, keep_weights, weights_operand
from numbaconv.lowerings._cuda_matrices import lift as device_lift
from numbaconv.lowerings._matrices import group, operands, pack_weights
from numbaconv.lowerings._patches import patch_source
from numbaconv.lowerings._taps import Tap, taps
from numbaconv.workspace import address_of


@dataclass(frozen=True)
class TapClass:
    """Taps that read the same lattice of input pixels: rows `top`, top + sh, ..., columns `left`, left + sw, ..."""

    places: tuple[tuple[int, int], ...]  # (r, s) of all, in the order of their weights
    reaching: tuple[Tap, ...]  # those that reach an output
    top: int = 0
    left: int = 0
    rows: int = 0
    columns: int = 0

    @property
    def pixels(self) -> int:
        return self.rows * self.columns


@functools.lru_cache(1024)
def classes(problem) -> tuple[TapClass, ...]:
    """The taps in classes modulo the strides; which they are does not depend on the pads."""
    p = problem
    reaching = {(tap.r, tap.s): tap for tap in taps(p)}
    places: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for r in range(p.kh):
        for s in range(p.kw):
            places.setdefault((r * p.dh % p.sh, s * p.dw % p.sw), []).append((r, s))
    found = []
    for members in places.values():
        some = tuple(reaching[place] for place in members if place in reaching)
        if not some:
            found.append(TapClass(tuple(members), ()))
            continue
        top = min(tap.rows[0] * p.sh + tap.down for tap in some)
        left = min(tap.columns[0] * p.sw + tap.right for tap in some)
        bottom = max((tap.rows[1] - 1) * p.sh + tap.down for tap in some)
        right = max((tap.columns[1] - 1) * p.sw + tap.right for tap in some)
        rows, columns = (bottom - top) // p.sh + 1, (right - left) // p.sw + 1
        found.append(TapClass(tuple(members), some, top, left, rows, columns))
    return tuple(found)


class CudaKn2(CudaForm):
    """A product for each class, then one lift of all images."""

    def lowering_bytes(self, problem, request):
        return self.lowering.lowering_bytes(problem, request)

    def gemm_calls(self, problem, request):
        p, turn = problem, 1 if self.lowering.side == "a" else -1
        return [GemmCall(*(len(c.places) * p.ocg, p.mb * c.pixels)[::turn], p.icg, batch=p.g)
                for c in classes(p) if c.reaching]  # fmt: skip

    def prepare_weights(self, ctx, w):
        """Of each class ic/g rows, its taps' output channels side by side."""
        p, kept = ctx.problem, []
        for c in classes(p):
            rows, columns = sorted({r for r, _ in c.places}), sorted({s for _, s in c.places})
            part = w[:, :, steps_of(rows), steps_of(columns)]
            r, s = (0, len(columns) * p.ocg), (0, p.ocg)
            kept.append(keep_weights(ctx, part, p.icg, len(c.places) * p.ocg, oc=(0, 1), c=(1, 0), r=r, s=s))
        return kept

    def run(self, ctx, x, prepared, out):
        p, terms, first = ctx.problem, [], 0
        product = ctx.take("products", (self.lowering_bytes(p, ctx.request) // p.itemsize,))
        calls = iter(self.gemm_calls(p, ctx.request))
        for c, weights in zip(classes(p), prepared, strict=True):
            if not c.reaching:
                continue
            channels, pixels = len(c.places) * p.ocg, p.mb * c.pixels
            source = patches(p, x, kh=1, kw=1, pad_top=-c.top, pad_left=-c.left, oh=c.rows, ow=c.columns)
            k_step, step = (pixels, 1) if self.lowering.side == "a" else (1, channels)
            channels_times_pixels(ctx, next(calls), weights_operand(weights), source, product[first:], k_step, step,
                                  channels * pixels, self.lowering.side == "a")  # fmt: skip
            for g in range(p.g):
                for tap in c.reaching:
                    row = (tap.rows[0] * p.sh + tap.down - c.top) // p.sh
                    column = (tap.columns[0] * p.sw + tap.right - c.left) // p.sw
                    place = first + c.places.index((tap.r, tap.s)) * p.ocg * k_step + (row * c.columns + column) * step
                    terms.append(Share(place, c.pixels * step, k_step, c.columns * step, step,
                                       g * p.ocg, (g + 1) * p.ocg, *tap.rows, *tap.columns))  # fmt: skip
                first += channels * pixels
        device_lift(ctx, out, product, terms, ctx.residual)


def steps_of(places: list[int]) -> slice:
    """Evenly spaced places as a slice."""
    return slice(places[0], places[-1] + 1, places[1] - places[0] if len(places) > 1 else 1)


class Kn2(Lowering, abstract=True):
    """One product of all taps of a class; `side` says which operand the weights are."""

    family = "kn2"
    paper = (
        "Vasudevan, Anderson, Gregg: arXiv 1704.04428 (2017); Hadjis et al.: Caffe con Troll, arXiv 1504.04343 (2015)"
    )
    parameters = PARTS
    devices = ("cpu", "cuda")
    cuda = CudaKn2
    side: str

    def lowering_bytes(self, problem, request):
        p = problem
        return sum(len(c.places) * c.pixels for c in classes(p)) * p.oc * p.mb * p.itemsize

    def gemm_calls(self, problem, request) -> list[GemmCall]:
        p = problem
        kind = operands(self.side, p.layout == "nchw")
        calls = []
        for c in classes(p):
            sides = len(c.places) * p.ocg, max(1, p.mb * c.pixels)
            calls.append(GemmCall(*sides[:: 1 if self.side == "a" else -1], p.icg, p.g if c.reaching else 0, kind))
        return calls

    def prepare_weights(self, problem, request, w):
        p = problem
        matrices = [
            np.concatenate([w[g * p.ocg : (g + 1) * p.ocg, :, r, s] for r, s in c.places])
            for c in classes(p) for g in range(p.g)
        ]  # fmt: skip
        return pack_weights(p, request, matrices, self.gemm_calls)

    def run(self, ctx, x, prepared, out):
        p, size = ctx.problem, ctx.problem.itemsize
        kind = operands(self.side, p.layout == "nchw")
        terms: list[list[Term]] = [[] for _ in range(p.mb)]
        product = ctx.take("products", self.lowering_bytes(p, ctx.request) // size)
        place, weights = address_of(product), iter(prepared)
        for c in classes(p):
            channels, pixels = len(c.places) * p.ocg, p.mb * c.pixels
            for g in range(p.g):
                packed = next(weights)
                if not c.reaching:
                    continue
                source = patch_source(p, group(p, x, g), kh=1, kw=1, pad_top=-c.top, pad_left=-c.left,
                                      oh=c.rows, ow=c.columns)  # fmt: skip
                k_step, step = (pixels * size, size) if self.side == "a" else (size, channels * size)
                target = Matrix(place, Axis(k_step), Axis(step), product)
                if self.side == "a":
                    ctx.multiply_as(channels, pixels, p.icg, packed, source, target, kind)
                else:
                    ctx.multiply_as(pixels, channels, p.icg, source, packed, target.transposed, kind)
                for n in range(p.mb):
                    for tap in c.reaching:
                        row = (tap.rows[0] * p.sh + tap.down - c.top) // p.sh
                        column = (tap.columns[0] * p.sw + tap.right - c.left) // p.sw
                        first = c.places.index((tap.r, tap.s)) * p.ocg
                        pixel = n * c.pixels + row * c.columns + column
                        terms[n].append(Term(place + first * k_step + pixel * step, k_step, c.columns * step, step,
                                             g * p.ocg, (g + 1) * p.ocg, *tap.rows, *tap.columns))  # fmt: skip
                place += channels * pixels * size
        for n in range(p.mb):
            lift(ctx, out[n], terms[n], None if ctx.residual is None else ctx.residual[n])


class Kn2row(Kn2):
    """Products are planes: channels x pixels."""

    name, side = "kn2row", "a"


class Kn2col(Kn2):
    """Products are pixels with their channels side by side: pixels x channels."""

    name, side = "kn2col", "b"
