"""Lowerings made to be checked: right ones, and many that are wrong in one way each."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.lib.stride_tricks import as_strided

import numbaconv as nc
from numbaconv.lowering import YES, Support, recorded
from numbaconv.lowerings._template import meets


class Taps(nc.Lowering, abstract=True):
    """Tap after tap in NumPy, right in every way; the wrong ones below each change one thing."""

    name, family, paper = "taps", "planted", "none"

    def lowering_bytes(self, problem, request):
        return problem.ocg * problem.oh * problem.ow * problem.itemsize

    def prepare_weights(self, problem, request, w):
        return np.array(w)

    def steps(self, p):
        """Pads, strides, dilations."""
        return (p.pad_top, p.pad_left), (p.sh, p.sw), (p.dh, p.dw)

    def first_channel(self, p, g):
        return g * p.icg

    def total(self, ctx):
        p = ctx.problem
        total = ctx.take("total", (p.ocg, p.oh, p.ow))
        total[...] = 0
        return total

    def add(self, total, image, w, p):
        (top, left), (sh, sw), (dh, dw) = self.steps(p)
        for r, s in np.ndindex(p.kh, p.kw):
            rows, from_rows = meets(r * dh - top, sh, p.oh, p.ih)
            columns, from_columns = meets(s * dw - left, sw, p.ow, p.iw)
            total[:, rows, columns] += np.tensordot(w[:, :, r, s], image[:, from_rows, from_columns], 1)

    def run(self, ctx, x, prepared, out):
        p = ctx.problem
        total = self.total(ctx) if p.mb else None
        for n, g in np.ndindex(p.mb, p.g):
            total[...] = 0
            first, channels = self.first_channel(p, g), slice(g * p.ocg, (g + 1) * p.ocg)
            self.add(total, x[n, first : first + p.icg], prepared[channels], p)
            out[n, channels] = total
        ctx.epilogue(out)


class Right(Taps):
    name = "right"
    parameters: ClassVar = {"batching": ("whole", "image"), "threads": ("auto", "inner", "images")}


class Refusing(Taps):
    name = "refusing"

    def supports(self, problem, request):
        if request.epilogue.residual:
            return Support("it adds no residual")
        return Support("it has groups") if problem.g > 1 else YES


class Fractions(Taps):
    """Transforms whose sums are rounded, as Winograd's: the factor says by how much."""

    name = "fractions"
    off = 3e-6

    def error_bound(self, problem, request):
        return 100.0

    def total(self, ctx):
        self.scale = np.finfo(ctx.problem.dtype).eps / np.finfo(np.float32).eps * self.off
        return super().total(ctx)

    def add(self, total, image, w, p):
        super().add(total, image, w, p)
        total *= 1 + self.scale


class TooRough(Fractions):
    name = "too-rough"
    off = 2e-5


class OffByOnePad(Taps):
    name = "off-by-one-pad"

    def steps(self, p):
        (top, left), strides, dilations = super().steps(p)
        return (max(top - 1, 0), left), strides, dilations


class ForgottenDilation(Taps):
    name = "forgotten-dilation"

    def steps(self, p):
        return *super().steps(p)[:2], (1, 1)


class SwappedStrides(Taps):
    name = "swapped-strides"

    def steps(self, p):
        pads, strides, dilations = super().steps(p)
        return pads, strides[::-1], dilations


class IgnoresGroups(Taps):
    name = "ignores-groups"

    def first_channel(self, p, g):
        return 0


class ReadsOutside(Taps):
    """It reads a vector beyond the last row, and multiplies what it finds there by zero."""

    name = "reads-outside"

    def add(self, total, image, w, p):
        super().add(total, image, w, p)
        beyond = as_strided(image, (p.ih + 1, p.iw), image.strides[1:])[p.ih]
        total[0, 0, 0] += 0 * beyond[-1]


class WritesOutside(Taps):
    """It writes one column too many in the last row."""

    name = "writes-outside"

    def run(self, ctx, x, prepared, out):
        super().run(ctx, x, prepared, out)
        last = out[-1, -1, -1]
        as_strided(last, (len(last) + 1,), last.strides)[-1] = 0


class DependsOnThreads(Taps):
    """As many partial sums as threads."""

    name = "depends-on-threads"

    def run(self, ctx, x, prepared, out):
        self.threads = ctx.threads
        super().run(ctx, x, prepared, out)

    def add(self, total, image, w, p):
        parts = np.array_split(np.arange(len(image)), self.threads)
        for channels in parts:
            part = np.zeros_like(total)
            super().add(part, image[channels], w[:, channels], p)
            total += part


class HalfWritten(Taps):
    name = "half-written"

    def run(self, ctx, x, prepared, out):
        whole = np.zeros_like(out)
        super().run(ctx, x, prepared, whole)
        half = -(-out.shape[3] // 2)
        out[..., :half] = whole[..., :half]


class Uninitialised(Taps):
    """Its scratch is taken for zeros."""

    name = "uninitialised"

    def run(self, ctx, x, prepared, out):
        p = ctx.problem
        total = ctx.take("total", (p.ocg, p.oh, p.ow))
        for n, g in np.ndindex(p.mb, p.g):
            channels = slice(g * p.ocg, (g + 1) * p.ocg)
            self.add(total, x[n, g * p.icg : (g + 1) * p.icg], prepared[channels], p)
            out[n, channels] = total
            total[...] = 0
        ctx.epilogue(out)


class HiddenUninitialised(Uninitialised):
    """As before, but NaN is put away: only numbers that lie there show."""

    name = "hidden-uninitialised"

    def add(self, total, image, w, p):
        np.nan_to_num(total, copy=False)
        super().add(total, image, w, p)


class NoResidual(Taps):
    name = "no-residual"

    def run(self, ctx, x, prepared, out):
        ctx.residual = None
        super().run(ctx, x, prepared, out)


class OverflowsScratch(Taps):
    name = "overflows-scratch"

    def total(self, ctx):
        total = super().total(ctx)
        as_strided(total.reshape(-1), (total.size + 1,), (total.itemsize,))[-1] = 0
        return total


class ChangesInput(Taps):
    name = "changes-input"

    def run(self, ctx, x, prepared, out):
        super().run(ctx, x, prepared, out)
        x[0, 0, 0, 0] += 1


class KeepsWeights(Taps):
    name = "keeps-weights"

    def prepare_weights(self, problem, request, w):
        return w


class BakesInPads(Taps):
    """What it prepares is for the pads of the first part: wrong for the other bands of a divided problem."""

    name = "bakes-in-pads"

    def prepare_weights(self, problem, request, w):
        return np.array(w), problem.pad_top

    def run(self, ctx, x, prepared, out):
        self.top = prepared[1]
        super().run(ctx, x, prepared[0], out)

    def steps(self, p):
        return (self.top, p.pad_left), (p.sh, p.sw), (p.dh, p.dw)


class Imprecise(Taps):
    """Half precision, in which small whole numbers are exact."""

    name = "imprecise"

    def add(self, total, image, w, p):
        super().add(total, image.astype(np.float16), w.astype(np.float16).astype(total.dtype), p)


class OneBadElement(Taps):
    """The norm does not see it."""

    name = "one-bad-element"

    def run(self, ctx, x, prepared, out):
        super().run(ctx, x, prepared, out)
        out[-1, -1, -1, -1] += 5e-4 * np.any(x % 1)


class LateActivation(Taps):
    """Its own epilogue, in the wrong order."""

    name = "late-activation"

    def run(self, ctx, x, prepared, out):
        bias, residual = ctx.bias, ctx.residual
        ctx.bias = ctx.residual = None
        super().run(ctx, x, prepared, out)
        if bias is not None:
            out += bias[:, None, None]
        if residual is not None:
            out += residual


class RecordsTooLittle(Taps):
    """Marked as recorded, though most of what it computes does not go through the context."""

    name = "records-too-little"

    @recorded
    def run(self, ctx, x, prepared, out):
        super().run(ctx, x, prepared, out)


class ForgetsBiasAlone(Taps):
    """A bias counts only beside a residual."""

    name = "forgets-bias-alone"

    def run(self, ctx, x, prepared, out):
        if ctx.residual is None:
            ctx.bias = None
        super().run(ctx, x, prepared, out)
