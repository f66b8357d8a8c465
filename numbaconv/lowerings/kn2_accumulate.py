"""kn2row-as, kn2row-aa (and kn2col-...): one product a tap, added up at once. The low-memory family.

    as (shift-add)   for each tap:  buffer = W[tap] · in            then out, shifted, += buffer
    aa (accumulate)  for each tap:  out, shifted, += W[tap] · in    no buffer at all

    in  ┌───────────┐ tap (r,s) reads the input shifted     out ┌───────────┐ rows that the tap reaches;
        │  ┌────────┼─┐ by its place in the kernel;             │▒▒▒▒▒▒▒▒▒▒▒│ GEMM adds to them in place
        │  │▒▒▒▒▒▒▒▒│0│ a zero column comes from packing        │▒▒▒▒▒▒▒▒▒▒▒│
        └──┼────────┘ │                                         └───────────┘

Paper: Anderson, Vasudevan, Keane, Gregg, "Low-memory GEMM-based convolution algorithms for deep neural networks",
arXiv 1709.03395 (2017).
Memory: as: oc·(pixels of the largest rectangle) elements for the images together, O(M·H·W); aa: 0, where the paper's is
O(K·W).    Cost: mb·oc·ic/g·pixels multiply-adds a tap; as: an addition a tap and output besides.

Where we leave the paper: unit stride, "same" padding and one group become any. The paper's aa displaces the whole image
against the output and has to punch holes into the input (write zeros over its border, and put it back) where rows wrap
around. Ours restricts a tap's product to the output rows that it reaches, and the zeros of the columns that it does not
are written by the packing, into the panel: the input stays as it is. The multiply-adds with those zeros are the only
ones wasted (``explain`` counts them); where they would be more than a quarter, the columns are cut as well.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from numbaconv.gemm import Axis, Matrix, Operands, Source
from numbaconv.lift import Term, lift
from numbaconv.lowering import PARTS, THREADS, GemmCall, Lowering
from numbaconv.lowerings._matrices import channels_by_pixels, group, operands, pack_weights
from numbaconv.lowerings._patches import patch_records, place_sources
from numbaconv.lowerings._taps import Tap, taps
from numbaconv.workspace import address_of

PAPER = "Anderson, Vasudevan, Keane, Gregg: arXiv 1709.03395 (2017)"
WASTE = 4  # one multiply-add in so many may be with a zero column


class TapByTap(Lowering, abstract=True):
    """A product for each tap; `side` says which operand the weights are."""

    family = "kn2"
    paper = PAPER
    side: str

    def rectangles(self, problem) -> tuple[Tap, ...]:
        """The taps, each with the rectangle that its product computes."""
        raise NotImplementedError

    def kind(self, problem) -> Operands:
        """How the operands of a product lie."""
        raise NotImplementedError

    def call(self, problem, pixels: int, count: int) -> GemmCall:
        sides = (problem.ocg, pixels)[:: 1 if self.side == "a" else -1]
        return GemmCall(*sides, problem.icg, count, self.kind(problem))

    def calls_of(self, problem, images: int, times: int) -> list[GemmCall]:
        """The products, the largest first: weights are packed for it."""
        sizes: dict[int, int] = {}
        for tap in self.rectangles(problem):
            sizes[tap.pixels] = sizes.get(tap.pixels, 0) + 1
        found = [self.call(problem, images * n, count * times) for n, count in sorted(sizes.items(), reverse=True)]
        return found or [self.call(problem, 1, 0)]

    def prepare_weights(self, problem, request, w):
        p = problem
        matrices = [w[g * p.ocg : (g + 1) * p.ocg, :, r, s]
                    for r in range(p.kh) for s in range(p.kw) for g in range(p.g)]  # fmt: skip
        return pack_weights(p, request, matrices, self.gemm_calls)

    def sources(self, problem, x: np.ndarray) -> list[list[Source]]:
        """For each group, what each rectangle reads of its channels."""
        records = _records(self, problem)
        return [place_sources(records, group(problem, x, g)) for g in range(problem.g)]

    def multiply(self, ctx, source, packed, target: Matrix, pixels: int, accumulate=False, finish=None):
        """`target` (channels x pixels) = or += a tap's weights · its rectangle of a group's channels."""
        p = ctx.problem
        if self.side == "a":
            ctx.multiply_as(p.ocg, pixels, p.icg, packed, source, target, self.kind(p), accumulate, finish)
        else:
            ctx.multiply_as(pixels, p.ocg, p.icg, source, packed, target.transposed, self.kind(p), accumulate, finish)

    def weights_of(self, problem, prepared, tap: Tap, g: int):
        return prepared[(tap.r * problem.kw + tap.s) * problem.g + g]


@functools.lru_cache(1024)
def _records(lowering: TapByTap, problem) -> np.ndarray:
    """The patches of each rectangle: a kernel of one tap with pads of its own."""
    p = problem
    return patch_records(p, p.icg, [
        {"kh": 1, "kw": 1, "oh": tap.height, "ow": tap.width, "pad_top": -(tap.rows[0] * p.sh + tap.down),
         "pad_left": -(tap.columns[0] * p.sw + tap.right)} for tap in lowering.rectangles(p)
    ])  # fmt: skip


class ShiftAdd(TapByTap, abstract=True):
    """as: every tap's product goes into the same buffer, and from there, shifted, into the output."""

    parameters = PARTS

    def rectangles(self, problem):
        return tuple(taps(problem))

    def kind(self, problem):
        return operands(self.side, problem.layout == "nchw")

    def lowering_bytes(self, problem, request):
        return problem.mb * problem.oc * max((t.pixels for t in self.rectangles(problem)), default=0) * problem.itemsize

    def rearranged_bytes(self, problem, request):
        """Every tap's product goes through the buffer, and is added to what the output holds."""
        return 4 * problem.mb * problem.oc * sum(tap.pixels for tap in self.rectangles(problem)) * problem.itemsize

    def gemm_calls(self, problem, request):
        return self.calls_of(problem, problem.mb, problem.g)

    def run(self, ctx, x, prepared, out):
        p, size = ctx.problem, ctx.problem.itemsize
        buffer = ctx.take("buffer", self.lowering_bytes(p, ctx.request) // size)
        rectangles, sources = self.rectangles(p), self.sources(p, x)
        for number, tap in enumerate(rectangles):
            pixels = p.mb * tap.pixels
            k_step, step = (pixels * size, size) if self.side == "a" else (size, p.ocg * size)
            terms: list[list[Term]] = [[] for _ in range(p.mb)]
            for g in range(p.g):
                place = address_of(buffer) + g * p.ocg * pixels * size
                target = Matrix(place, Axis(k_step), Axis(step), buffer)
                self.multiply(ctx, sources[g][number], self.weights_of(p, prepared, tap, g), target, pixels)
                for n in range(p.mb):
                    terms[n].append(Term(place + n * tap.pixels * step, k_step, tap.width * step, step,
                                         g * p.ocg, (g + 1) * p.ocg, *tap.rows, *tap.columns))  # fmt: skip
            for n in range(p.mb):
                residual = None if ctx.residual is None else ctx.residual[n]
                lift(ctx, out[n], terms[n], residual, begin=number == 0, finish=tap is rectangles[-1])
        if not rectangles:
            for n in range(p.mb):
                lift(ctx, out[n], [], None if ctx.residual is None else ctx.residual[n])


@functools.lru_cache(1024)
def _bands(problem) -> tuple[Tap, ...]:
    """The taps, widened to whole rows where that wastes little; those that reach every output are first and last."""
    p = problem
    found = []
    for tap in taps(p):
        wide = (p.ow - tap.width) * WASTE <= p.ow
        found.append(replace(tap, columns=(0, p.ow)) if wide else tap)
    whole = [tap for tap in found if tap.pixels == p.oh * p.ow]
    rest = [tap for tap in found if tap.pixels != p.oh * p.ow]
    return (*whole[:1], *rest, *whole[1:])


class Accumulate(TapByTap, abstract=True):
    """aa: every tap's product is added to the output by the product itself."""

    parameters = {"threads": THREADS}

    def rectangles(self, problem):
        return _bands(problem)

    def kind(self, problem):
        nchw = problem.layout == "nchw"
        return operands(self.side, nchw, c_rows=nchw == (self.side == "a"))

    def gemm_calls(self, problem, request):
        return self.calls_of(problem, 1, problem.g * problem.mb)

    def run(self, ctx, x, prepared, out):
        p = ctx.problem
        rectangles = self.rectangles(p)
        reach = [tap.pixels == p.oh * p.ow for tap in rectangles]
        # A first product that reaches every output stores, the others add; a last one that does finishes.
        stores, finishes = reach[:1] == [True], reach[-1:] == [True]
        for n in range(p.mb):
            residual = None if ctx.residual is None else ctx.residual[n]
            sources = self.sources(p, x[n : n + 1])
            if not stores:
                lift(ctx, out[n], [], begin=True, finish=False)
            for number, tap in enumerate(rectangles):
                part = out[n, :, slice(*tap.rows), slice(*tap.columns)]
                for g in range(p.g):
                    finish = self._finish(ctx, residual, g) if finishes and tap is rectangles[-1] else None
                    self.multiply(
                        ctx, sources[g][number], self.weights_of(p, prepared, tap, g),
                        channels_by_pixels(part[g * p.ocg : (g + 1) * p.ocg]), tap.pixels,
                        not (stores and number == 0), finish,
                    )  # fmt: skip
            if not finishes and (ctx.request.epilogue or not rectangles):
                lift(ctx, out[n], [], residual, begin=False)

    def _finish(self, ctx, residual, g: int):
        channels = slice(g * ctx.problem.ocg, (g + 1) * ctx.problem.ocg)
        extra = None if residual is None else channels_by_pixels(residual[channels])
        if self.side == "a":
            return ctx.finish("rows", channels, extra)
        return ctx.finish("columns", channels, extra.transposed if extra else None)


class Kn2rowAs(ShiftAdd):
    """Shift-add, channels x pixels."""

    name, side = "kn2row-as", "a"


class Kn2colAs(ShiftAdd):
    """Shift-add, pixels x channels."""

    name, side = "kn2col-as", "b"


class Kn2rowAa(Accumulate):
    """Accumulating products, channels x pixels."""

    name, side = "kn2row-aa", "a"


class Kn2colAa(Accumulate):
    """Accumulating products, pixels x channels."""

    name, side = "kn2col-aa", "b"
