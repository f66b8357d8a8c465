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
A large output is made strip by strip, so that what tap after tap is added to stays in cache.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from numbaconv.accounts import product_plan
from numbaconv.division import Part, cuts, part_of
from numbaconv.gemm import Axis, Chain, Link, Matrix, Operands, PackedMatrix
from numbaconv.lift import Term, lift
from numbaconv.lowering import PARTS, THREADS, GemmCall, Lowering
from numbaconv.lowerings._cuda_kn2 import CudaAccumulate, CudaShiftAdd
from numbaconv.lowerings._matrices import channels_by_pixels, group, operands, pack_weights
from numbaconv.lowerings._patches import patch_records, place_records, place_sources
from numbaconv.lowerings._taps import Tap, taps
from numbaconv.workspace import address_of

PAPER = "Anderson, Vasudevan, Keane, Gregg: arXiv 1709.03395 (2017)"
STRIP_BYTES = 2 << 20  # of output: L2 and a little; smaller ones make thin products
MOST_STRIPS = 256
WASTE = 4  # one multiply-add in so many may be with a zero column


class TapByTap(Lowering, abstract=True):
    """A product for each tap; `side` says which operand the weights are."""

    family = "kn2"
    paper = PAPER
    devices = ("cpu", "cuda")
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

    def calls_of(self, problem, rectangles: Iterable[Tap], images: int, times: int) -> list[GemmCall]:
        """The products of some rectangles, the largest first: weights are packed for it."""
        sizes: dict[int, int] = {}
        for tap in rectangles:
            sizes[tap.pixels] = sizes.get(tap.pixels, 0) + 1
        found = [self.call(problem, images * n, count * times) for n, count in sorted(sizes.items(), reverse=True)]
        return found or [self.call(problem, 1, 0)]

    def prepare_weights(self, problem, request, w):
        p = problem
        matrices = [w[g * p.ocg : (g + 1) * p.ocg, :, r, s]
                    for r in range(p.kh) for s in range(p.kw) for g in range(p.g)]  # fmt: skip
        return pack_weights(p, request, matrices, self.gemm_calls)

    def weights_of(self, problem, prepared, tap: Tap) -> list[PackedMatrix]:
        """Each group's weights of a tap."""
        first = (tap.r * problem.kw + tap.s) * problem.g
        return prepared[first : first + problem.g]


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
    cuda = CudaShiftAdd

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
        return self.calls_of(problem, self.rectangles(problem), problem.mb, problem.g)

    def run(self, ctx, x, prepared, out):
        p, size = ctx.problem, ctx.problem.itemsize
        buffer = ctx.take("buffer", self.lowering_bytes(p, ctx.request) // size)
        rectangles, records = self.rectangles(p), _records(self, p)
        sources = [place_sources(records, group(p, x, g)) for g in range(p.g)]
        for number, tap in enumerate(rectangles):
            pixels = p.mb * tap.pixels
            k_step, step = (pixels * size, size) if self.side == "a" else (size, p.ocg * size)
            terms: list[list[Term]] = [[] for _ in range(p.mb)]
            for g in range(p.g):
                place = address_of(buffer) + g * p.ocg * pixels * size
                target = Matrix(place, Axis(k_step), Axis(step), buffer)
                weights = self.weights_of(p, prepared, tap)[g]
                if self.side == "a":
                    ctx.multiply_as(p.ocg, pixels, p.icg, weights, sources[g][number], target, self.kind(p))
                else:
                    ctx.multiply_as(pixels, p.ocg, p.icg, sources[g][number], weights, target.transposed, self.kind(p))
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


@functools.lru_cache(1024)
def _strips(problem) -> tuple[Part, ...]:
    """An image in strips of output rows that stay in cache while tap after tap is added to them."""
    p = replace(problem, mb=1)
    strips = -(-p.oc * p.oh * p.ow * p.itemsize // STRIP_BYTES)
    return tuple(part_of(p, 0, 1, row, rows) for row, rows in cuts(p.oh, max(1, min(p.oh, strips, MOST_STRIPS))))


class Accumulate(TapByTap, abstract=True):
    """aa: every tap's product is added to the output by the product itself."""

    parameters = {"threads": THREADS}
    cuda = CudaAccumulate

    def rectangles(self, problem):
        return _bands(problem)

    def kind(self, problem):
        nchw = problem.layout == "nchw"
        return operands(self.side, nchw, c_rows=nchw == (self.side == "a"))

    def gemm_calls(self, problem, request):
        every = [tap for strip in _strips(problem) for tap in self.rectangles(strip.problem)]
        return self.calls_of(problem, every, 1, problem.g * problem.mb)

    def run(self, ctx, x, prepared, out):
        for n in range(ctx.problem.mb):
            for strip in _strips(ctx.problem):
                residual = None if ctx.residual is None else ctx.residual[n, :, strip.rows]
                self._run_strip(ctx, strip.problem, x[n : n + 1, :, strip.input_rows], prepared,
                                out[n, :, strip.rows], residual)  # fmt: skip

    def _run_strip(self, ctx, p, x, prepared, out, residual):
        """Every tap of some rows of an image."""
        rectangles, records = self.rectangles(p), _records(self, p)
        reach = [tap.pixels == p.oh * p.ow for tap in rectangles]
        # A first product that reaches every output stores, the others add; a last one that does finishes.
        stores, finishes = reach[:1] == [True], reach[-1:] == [True]
        if not stores:
            lift(ctx, out, [], begin=True, finish=False)
        if rectangles:
            chain = _chain(self, p, ctx.threads, x.strides, out.strides, prepared[0].schedule)
            weights = np.array([w.address for tap in rectangles for w in self.weights_of(p, prepared, tap)], np.int64)
            placed = place_records(records, x, p.g)
            sources = address_of(placed) + placed.itemsize * np.arange(len(placed))
            last = len(weights) - p.g
            finish = {last + g: self._finish(ctx, residual, g) for g in range(p.g)} if finishes else {}
            ctx.multiply_chain(chain, weights, sources, address_of(out), finish)
        if not finishes and (ctx.request.epilogue or not rectangles):
            lift(ctx, out, [], residual, begin=False)

    def _finish(self, ctx, residual, g: int):
        channels = slice(g * ctx.problem.ocg, (g + 1) * ctx.problem.ocg)
        extra = None if residual is None else channels_by_pixels(residual[channels])
        if self.side == "a":
            return ctx.finish("rows", channels, extra)
        return ctx.finish("columns", channels, extra.transposed if extra else None)


@functools.lru_cache(1024)
def _chain(lowering: Accumulate, problem, threads: int, x_strides, out_strides, schedule) -> Chain:
    """The products of an image, tap by tap and group by group, for arrays with such strides."""
    p = problem
    o_c, o_h, o_w = out_strides
    rectangles = lowering.rectangles(p)
    example = np.lib.stride_tricks.as_strided(np.empty(1, p.dtype), p.input_shape, x_strides)
    sources = place_sources(_records(lowering, p), group(p, example, 0))
    operand, shape = lowering.side, (p.ocg, p.icg)[:: 1 if lowering.side == "a" else -1]
    weights = PackedMatrix(operand, shape, np.dtype(p.dtype), np.empty(0, np.uint8), schedule)
    links = []
    for number, (tap, source) in enumerate(zip(rectangles, sources, strict=True)):
        call = lowering.call(p, tap.pixels, 1)
        plan = product_plan(call.m, call.n, call.k, p.dtype, threads, call.operands, schedule)
        pixels = Axis(o_w) if o_h == tap.width * o_w or tap.height == 1 else Axis(o_w, tap.width, o_h)
        adds = number > 0 or tap.pixels < p.oh * p.ow
        for g in range(p.g):
            c = Matrix(tap.rows[0] * o_h + tap.columns[0] * o_w + g * p.ocg * o_c, Axis(o_c), pixels)
            links.append(
                Link(plan, weights, source, c, adds) if operand == "a" else
                Link(plan, source, weights, c.transposed, adds)
            )  # fmt: skip
    return Chain(links)


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
