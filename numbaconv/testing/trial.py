"""One lowering on one problem: run it in memory that tells, judge the result, and find out why it is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from numbaconv.errors import UnsupportedProblem, WorkspaceExceeded
from numbaconv.lowering import Lowering, Support
from numbaconv.plan import Plan, make_plan
from numbaconv.problem import ConvProblem
from numbaconv.request import Request
from numbaconv.select import check
from numbaconv.testing.failures import ConformanceError, difference
from numbaconv.testing.memory import JUNK, NAN, ZONE, Guarded, Seen
from numbaconv.testing.oracle import finish, forgotten_terms, mistakes
from numbaconv.testing.places import Host, place_of
from numbaconv.testing.samples import Sample, sample

__all__ = ["Trial"]

AROUND_INPUT, AROUND_OUTPUT = (1, 1, 2, 3), (1, 2, 0, 0)  # rows of an output follow one another (`Lowering.run`)


@dataclass
class Run:
    """What came of one run: the result, and what was seen meanwhile."""

    out: np.ndarray
    seen: Seen


class Trial:
    """A lowering on a problem; `label` says what is special about that, `seed` fixes the numbers in its arrays."""

    def __init__(
        self, lowering: Lowering, problem: ConvProblem, label: str = "", seed: int = 0, place: Host | None = None
    ):
        self.lowering, self.problem, self.label, self.seed = lowering, problem, label, seed
        self.place = place or place_of("cpu")
        self.where = ""

    def request(self, **options: Any) -> Request:
        """A request for this trial's device; a device takes no number of threads."""
        if self.place.name != "cpu":
            options.pop("num_threads", None)
        return Request(device=self.place.name, **options)

    def sample(self, kind: str = "whole") -> Sample:
        return sample(self.problem, self.seed, kind)

    def fail(self, rule: str, what: str, cause: BaseException | None = None) -> NoReturn:
        about = ", ".join(filter(None, (self.label, self.where)))
        raise ConformanceError(
            self.lowering.spec, f"{self.problem}" + (f" ({about})" if about else ""), rule, what
        ) from cause

    # ------------------------------------------------------------------------------------------------ questions

    def runs(self, request: Request) -> bool:
        """Whether the lowering runs the problem; when not, that it refuses it as it should."""
        epilogue = request.epilogue
        self.where = f"{request.num_threads} thread(s)" if request.device == "cpu" else request.device
        self.where += f", {epilogue}" if epilogue else ""
        self.where += f", max_workspace={request.max_workspace}" if request.max_workspace is not None else ""
        try:
            answer = self.lowering.supports(self.problem, request)
            support = check(self.lowering, self.problem, request)
        except Exception as error:
            self.fail("supports", f"must answer, not raise {type(error).__name__}: {error}", error)
        if not isinstance(answer, Support):
            self.fail("supports", f"must return YES or Support('why not'), got {answer!r}")
        if not support:
            self._is_refused(support.reason, request)
        return bool(support)

    def plan(self, request: Request) -> Plan | None:
        """The plan, its declarations looked at; None when the lowering refuses the problem."""
        if not self.runs(request):
            return None
        try:
            plan = make_plan(self.problem, self.lowering, request)
        except WorkspaceExceeded:
            raise
        except Exception as error:
            self.fail("plan", f"no plan can be made: {type(error).__name__}: {error}", error)
        for name in ("lowering_bytes", "panel_bytes"):
            value = getattr(plan, name)
            if type(value) is not int or value < 0:
                self.fail(name, f"must be a whole number of bytes, got {value!r}")
        return plan

    def _is_refused(self, reason: str, request: Request) -> None:
        if not reason.strip():
            self.fail("supports", "refuses without a reason")
        try:
            make_plan(self.problem, self.lowering, request)
        except UnsupportedProblem as error:
            if reason not in str(error):
                self.fail("supports", f"the reason {reason!r} is not in the error {str(error)!r}", error)
        else:
            self.fail("supports", "a problem that it refuses can be planned")

    def factor(self, request: Request) -> float | None:
        """The bound of its error in units of the direct method's; None for plain sums of products."""
        bound = self.lowering.error_bound(self.problem, request)
        if bound == "exact":
            return None
        if isinstance(bound, str) or not bound > 0:
            self.fail("error_bound", f"must be 'exact' or a positive factor, got {bound!r}")
        return float(bound)

    # ------------------------------------------------------------------------------------------------------ runs

    def terms(self, plan: Plan) -> tuple[np.ndarray | None, np.ndarray | None]:
        epilogue = plan.request.epilogue
        numbers = self.sample()
        return numbers.bias if epilogue.bias else None, numbers.residual if epilogue.residual else None

    def prepare(self, plan: Plan, w: np.ndarray) -> Any:
        """The weights, prepared; the array they came from is spoiled: what a lowering keeps must be its own."""
        try:
            prepared, amiss = self.place.prepare(plan, w)
        except Exception as error:
            self.fail("prepare_weights", f"raised {type(error).__name__}: {error}", error)
        if amiss:
            self.fail("prepare_weights", amiss)
        return prepared

    def run(self, plan, prepared, x, framed=False, scratch=NAN, outside=NAN, unwritten=np.nan, as_users=False) -> Run:
        """One run; `framed`: the arrays are windows of larger ones, else they are whole, between two zones.

        `scratch` and `outside` are the bytes that scratch and the memory around the input hold, `unwritten` is what
        the output holds; `as_users` as the place's ``run``.
        """
        source = self._guarded(x, AROUND_INPUT if framed else None, outside)
        target = self._guarded(np.full(self.problem.output_shape, unwritten), AROUND_OUTPUT if framed else None)
        bias, residual = self.terms(plan)
        own_bias = None if bias is None else self._guarded(bias.reshape(1, 1, 1, -1), layout="nchw")
        extra = None if residual is None else self._guarded(residual)
        try:
            seen = self.place.run(plan, prepared, [source, target, own_bias, extra], scratch, as_users)
        except MemoryError as error:
            self.fail("memory", f"takes more scratch than it declares: {error}", error)
        except Exception as error:
            self.fail("run", f"raised {type(error).__name__}: {error}", error)
        inputs = [("the input", x, source), ("the bias", bias, own_bias), ("the residual", residual, extra)]
        for name, guarded in (("the output", target), *((name, guarded) for name, _, guarded in inputs)):
            if guarded is not None and (stray := guarded.written_outside()):
                self.fail("writes outside", f"something was written around {name}, {stray}")
        for taken in seen.scratch:
            if stray := taken.written_outside():
                self.fail("writes outside", f"something was written in the scratch, {stray}")
        for name, before, after in inputs:
            if after is not None and not np.array_equal(before.reshape(after.shape), after.array):
                self.fail("inputs are left alone", f"{name} was changed")
        return Run(np.array(target.array), seen)

    def recorded(self, plan, prepared) -> np.ndarray | None:
        """The result of a call that was recorded on other arrays; None where the plan records none."""
        if not getattr(plan, "recorded", False):
            return None
        bias, residual = self.terms(plan)
        plan.known.clear()
        for factor in (-3, 1):
            x = self._guarded(factor * self.sample().x).array
            shift = None if bias is None else factor * bias
            added = None if residual is None else self._guarded(factor * residual).array
            try:
                result, _ = plan.compute(x, prepared, shift, added, None, "nchw")
            except Exception as error:
                self.fail("recorded", f"raised {type(error).__name__}: {error}", error)
        return np.array(result)

    def _guarded(self, values, margins=None, fill=NAN, layout: str | None = None) -> Guarded:
        """Values in memory that tells, as a window of other memory where there are `margins`."""
        zone = ZONE if margins else self.place.zone
        guarded = Guarded(
            values.shape, self.problem.dtype, layout or self.problem.layout, margins or (0,) * 4, fill, zone
        )  # fmt: skip
        guarded.array[...] = values
        return guarded

    def count(self, plan: Plan, run: Run) -> None:
        """Hold what was declared against what was taken and issued; each worker has scratch for its largest part."""
        workers = getattr(plan, "workers", 1)
        for name in ("lowering_bytes", "panel_bytes"):
            taken = workers * max((getattr(scratch, name) for scratch in run.seen.scratch), default=0)
            declared = getattr(plan, name)
            if taken != declared:
                slices = [scratch.arena.slices for scratch in run.seen.scratch if scratch.arena.slices]
                self.fail("memory", f"{name} declares {declared:,} bytes, {taken:,} were taken by {workers} "
                                    f"worker(s): {slices[:3]}")  # fmt: skip

        declared_calls: Counter = Counter()
        for call in plan.division.gemm_calls(self.lowering):
            if call.macs:
                declared_calls[self.place.product_of(call)] += call.count
        for words, more, less in (
            ("issued and not declared", run.seen.products, declared_calls),
            ("declared and not issued", declared_calls, run.seen.products),
        ):
            for product, count in (more - less).items():
                self.fail("gemm_calls", f"{count} product(s) {self.place.words(product)} were {words}")

    # -------------------------------------------------------------------------------------------------- verdicts

    def judge(self, plan: Plan, prepared: Any, got: np.ndarray, framed: bool) -> None:
        """The result of a run on this trial's numbers is right, or the failure says why not."""
        activation = plan.request.epilogue.activation
        numbers = self.sample()
        wanted = finish(numbers.product, *self.terms(plan), activation)
        factor = self.factor(plan.request)
        if factor is None:
            wrong = ~(got == wanted)
        else:  # a lowering with fractions in its transforms: far below the least difference of two whole numbers
            scale = np.finfo(self.problem.dtype).eps * self.problem.K * factor
            wrong = ~(np.abs(got - wanted) <= min(scale * numbers.magnitude, 0.4))
        if wrong.any():
            why = self._why(plan, prepared, got, wanted, wrong, framed)
            self.fail("result", difference(got, wanted, wrong) + (f"; {why}" if why else ""))

    def _why(self, plan: Plan, prepared: Any, got, wanted, wrong, framed: bool) -> str:
        """Run again with one thing changed: what changes the result is the reason; else look for a known mistake."""

        numbers = self.sample()

        def bits(weights=prepared, **conditions) -> np.ndarray:
            again = self.run(plan, weights, numbers.x, **({"framed": framed} | conditions)).out
            return again.view(f"u{again.itemsize}")

        plain = bits()
        if (plain != got.view(plain.dtype)).any():
            return "the same run again gives something else"
        unwritten = wrong & (plain != bits(unwritten=7.0))
        if unwritten.any():
            share = f"{np.count_nonzero(unwritten):,} of {unwritten.size:,} elements"
            return f"{share} were never written, or read before they were written"
        if (plain != bits(plan.prepare(numbers.w.copy()))).any():
            return "prepare_weights keeps the caller's array instead of a copy"
        if (plain != bits(scratch=JUNK)).any():
            return "uninitialised scratch reaches the result"
        if (bits(framed=True) != bits(framed=True, outside=JUNK)).any():
            return "it reads outside the input"
        found = mistakes(self.problem, numbers.x, numbers.w)
        if plan.request.epilogue:
            found = forgotten_terms(numbers.product, *self.terms(plan), plan.request.epilogue.activation)
        for words, result in found:
            if (np.abs(got - result) < 0.4).all() and (result != wanted).any():
                return f"this is what comes out when {words}"
        return ""
