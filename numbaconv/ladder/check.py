"""Is a step of your own right, where does it go wrong first, and how fast is it?

>>> import numbaconv as nc
>>> print(nc.ladder.check(my_gemm))  # doctest: +SKIP
my_gemm is right: 36 shapes, whole numbers exactly, normal ones within the bound.
  512 x 512 x 512: 24.1 GFLOP/s, 20 % of a core's peak; between 'ijk' (0.9) and 'ikj' (29.9).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from numbaconv.errors import NumbaconvError
from numbaconv.ladder.check_calls import Student
from numbaconv.ladder.check_conv import Convolutions
from numbaconv.ladder.check_gemm import Products
from numbaconv.ladder.diagnosis import Failure, diagnose
from numbaconv.ladder.step import LADDERS, Step, UnknownStep, steps
from numbaconv.probes import fma_peak
from numbaconv.timing import burst

__all__ = ["CannotCheck", "Failure", "Report", "Speed", "check"]

SUBJECTS = {"cpu": Products, "conv": Convolutions}
MACS_TO_TIME_PACE = 500
"""Below so many multiply-adds the call itself is what takes the time."""


class CannotCheck(NumbaconvError, ValueError):
    """Functions of this ladder cannot be checked."""


@dataclass(frozen=True)
class Speed:
    """How fast the function is on one problem, and where on the ladder that is.

    Parameters
    ----------
    problem : str
    seconds, gflops : float
        Of the median call.
    share : float
        Of a core's measured peak of multiply-adds.
    ladder : tuple of (str, float)
        The ladder's steps on the same problem, in the same minute, and their GFLOP/s.
    """

    problem: str
    seconds: float
    gflops: float
    share: float
    ladder: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        slower = max((one for one in self.ladder if one[1] <= self.gflops), key=lambda one: one[1], default=None)
        faster = min((one for one in self.ladder if one[1] > self.gflops), key=lambda one: one[1], default=None)
        named = [f"{name!r} ({gflops:.3g})" for name, gflops in filter(None, (slower, faster))]
        stands = f"between {named[0]} and {named[1]}" if len(named) == 2 else f"beyond {named[0]}" if named else ""
        if named and not slower:
            stands = f"slower than {named[0]}"
        return f"{self.problem}: {self.gflops:.3g} GFLOP/s, {100 * self.share:.2g} % of a core's peak; {stands}."


@dataclass(frozen=True)
class Report:
    """What ``check`` found; true if the function is right, and as text for reading.

    Parameters
    ----------
    name : str
        The function's.
    shapes : int
        Problems on which it is right, before the failure if there is one.
    skipped : tuple of str
        Problems that would have taken too long.
    failure : Failure, optional
        Where it goes wrong first.
    speeds : tuple of Speed
        None where it is wrong.
    """

    name: str
    shapes: int
    skipped: tuple[str, ...]
    failure: Failure | None
    speeds: tuple[Speed, ...]

    def __bool__(self) -> bool:
        return self.failure is None

    def __str__(self) -> str:
        if self.failure:
            return f"{self.name} is wrong at {self.failure}\nBefore that it was right on {self.shapes} shapes."
        lines = [f"{self.name} is right: {self.shapes} shapes, whole numbers exactly, normal ones within the bound."]
        if self.skipped:
            lines.append(f"  Not tried, since it would take too long: {', '.join(self.skipped)}.")
        return "\n".join(lines + [f"  {speed}" for speed in self.speeds])


def check(
    function: Step | Callable[..., Any], ladder: str = "cpu", *, speed: bool = True, budget_s: float = 10.0
) -> Report:
    """Check a function against plain sums in float64 over odd shapes; if it is right, time it.

    Parameters
    ----------
    function : callable, or Step
        Plain Python or compiled. For "cpu" ``f(a, b, out)``, with `out` by place or by name, or ``f(a, b)`` that
        returns the result; for "conv" ``f(x, w, stride, padding, out)`` or ``f(x, w, stride, padding)``, NCHW, one
        stride and one padding.
    ladder : {"cpu", "conv"}
    speed : bool
        Whether to time it, beside the ladder's steps.
    budget_s : float
        Seconds for the checks, and again for the times; problems too large for it are left out. There is no limit to a
        single call.

    Returns
    -------
    Report
        Exceptions of the function are in it, and not raised.

    Raises
    ------
    UnknownStep
        When there is no such ladder.
    CannotCheck
        When its functions cannot be checked, or `function` does not take what a step takes.
    """
    if ladder not in LADDERS:
        raise UnknownStep("ladder", ladder, list(LADDERS))
    if ladder not in SUBJECTS:
        raise CannotCheck(
            f"check takes functions for the ladders {' and '.join(map(repr, SUBJECTS))}, not for {ladder!r}: compare "
            "the result of a kernel on a device with nc.gemm's, on odd shapes"
        )
    name = getattr(function, "name" if isinstance(function, Step) else "__name__", repr(function))
    if isinstance(function, Step):
        function = function.function
    subject = SUBJECTS[ladder]()
    student = Student(function, subject.inputs)
    if student.refusal:
        raise CannotCheck(f"{name} {student.refusal}")
    shapes, skipped, pace, failure = _verify(student, subject, budget_s)
    speeds = () if failure or not speed else _speeds(student, subject, ladder, pace, budget_s)
    return Report(name, shapes, tuple(skipped), failure, speeds)


def _verify(student, subject, budget_s: float):
    """(problems it is right on, those left out, seconds a multiply-add, the first failure)."""
    shapes, skipped, pace, spent = 0, [], 0.0, 0.0
    for problem in subject.problems():
        if spent + 2 * pace * problem.macs > budget_s:
            skipped.append(str(problem))
            continue
        for kind in ("whole numbers", "normal numbers"):
            inputs = problem.operands(np.random.default_rng(problem.macs), kind)
            outcome = student(inputs, problem.shape)
            wanted, *bounds = problem.wanted(inputs, kind)
            wrong = outcome.wrong(wanted, *bounds)
            if wrong is not None:
                return shapes, skipped, pace, diagnose(student, problem, kind, inputs, outcome, wanted, wrong)
        shapes += 1
        spent += 2 * outcome.seconds  # of the second call, which does not compile
        if problem.macs >= MACS_TO_TIME_PACE:
            pace = outcome.seconds / problem.macs
    return shapes, skipped, pace, None


def _speeds(student, subject, ladder: str, pace: float, budget_s: float) -> tuple[Speed, ...]:
    found = []
    for problem in subject.to_time(budget_s / 32 / max(pace, 1e-12)):
        inputs = problem.operands(np.random.default_rng(0), "normal numbers")
        calls = {"": student.ready(inputs, problem.shape)}
        for step in steps(ladder):
            calls[step.name] = Student(step.function, subject.inputs).ready(inputs, problem.shape)
        samples = burst(calls, rounds=3, calls=3, drop=1, pause=0.01, budget_s=budget_s / 2)
        gflops = {name: 2e-9 * problem.macs / sample.median for name, sample in samples.items()}
        own = gflops.pop("")
        share = own / fma_peak("float32", 1)
        found.append(Speed(str(problem), samples[""].median, own, share, tuple(gflops.items())))
    return tuple(found)
