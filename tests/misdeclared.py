"""Lowerings that compute what they should and say something wrong about it: bytes, products, support, errors."""

from __future__ import annotations

import dataclasses

from planted import Taps

from numbaconv.lowering import YES, GemmCall, Support
from numbaconv.lowerings._template import Template


class NearlyDeclaredScratch(Taps):
    """It forgets one element, which the arena's slack hides."""

    name = "nearly-declared-scratch"

    def lowering_bytes(self, problem, request):
        return super().lowering_bytes(problem, request) - problem.itemsize


class UndeclaredScratch(Taps):
    name = "undeclared-scratch"

    def lowering_bytes(self, problem, request):
        return 0


class Raises(Taps):
    name = "raises"

    def run(self, ctx, x, prepared, out):
        raise IndexError("list index out of range")


class RaisesWhenAsked(Taps):
    name = "raises-when-asked"

    def supports(self, problem, request):
        return YES if problem.pad_top / problem.mb < 9 else Support("too much padding")


class NoReason(Taps):
    name = "no-reason"

    def supports(self, problem, request):
        return Support(" ") if problem.g > 1 else YES


class PlainFalse(Taps):
    name = "plain-false"

    def supports(self, problem, request):
        return problem.g == 1


class RefusesEverything(Taps):
    name = "refuses-everything"

    def supports(self, problem, request):
        return Support("not today")


class Unlisted(Template):
    """A product larger than any that it lists."""

    name = "unlisted-product"

    def gemm_calls(self, problem, request):
        return [GemmCall(1, 1, 1)]


class ListsTooFew(Template):
    name = "lists-too-few"

    def gemm_calls(self, problem, request):
        return [dataclasses.replace(call, count=1) for call in super().gemm_calls(problem, request)]


class ListsTooMany(Template):
    name = "lists-too-many"

    def gemm_calls(self, problem, request):
        return [*super().gemm_calls(problem, request), GemmCall(70, 80, 90)]


class FloatBytes(Taps):
    name = "float-bytes"

    def lowering_bytes(self, problem, request):
        return super().lowering_bytes(problem, request) / 1


class SpoilsWeights(Taps):
    name = "spoils-weights"

    def prepare_weights(self, problem, request, w):
        w += 1
        return w - 1


class CannotPrepare(Taps):
    name = "cannot-prepare"

    def prepare_weights(self, problem, request, w):
        return w.reshape(7, -1, 11)


class CannotPlan(Taps):
    name = "cannot-plan"

    def lowering_bytes(self, problem, request):
        raise KeyError("tile")
