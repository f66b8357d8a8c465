"""``check_lowering`` and ``check_problem``: every rule of a lowering's contract, one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from numbaconv.errors import WorkspaceExceeded
from numbaconv.lowering import Lowering
from numbaconv.plan import Plan
from numbaconv.problem import ConvProblem
from numbaconv.request import ACTIVATIONS, Epilogue, Request
from numbaconv.select import check
from numbaconv.testing.failures import ConformanceError, difference
from numbaconv.testing.grid import grid, large, refusable, sketch, sketch_large
from numbaconv.testing.memory import JUNK, NAN
from numbaconv.testing.places import Host, place_of
from numbaconv.testing.trial import Trial

__all__ = ["Report", "check_lowering", "check_problem"]

EVERYTHING = Epilogue(bias=True, residual=True, activation="relu6")
EXACT_FACTOR = 2.5
"""How much larger than the direct method's the error of another order of summation may be."""


@dataclass
class Report:
    """What a check covered: descriptors of the problems that ran, and the reasons for those that were refused."""

    lowerings: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        reasons = sorted(set(self.refused.values()))
        because = f" ({'; '.join(reasons)})" if reasons else ""
        return f"{', '.join(self.lowerings)}: {len(self.ran)} problems right, {len(self.refused)} refused{because}"


def check_problem(
    lowering: Lowering | type[Lowering],
    problem: ConvProblem,
    *,
    num_threads: int = 2,
    seed: int = 0,
    label: str = "",
    device: str = "cpu",
) -> bool:
    """Check a lowering on one problem: results, memory, epilogue, or the refusal.

    Parameters
    ----------
    lowering : Lowering, or a class of them
    problem : ConvProblem
        Small: the oracle is a loop in NumPy.
    num_threads : int
        Of the run with an epilogue; the one without has one thread.
    seed : int
        Of the whole numbers that the arrays hold.
    label : str
        What is special about the problem, for the message.
    device : str
        "cpu", "cuda" or "cuda:1".

    Returns
    -------
    bool
        Whether the lowering runs the problem; False: it refuses, with a reason.

    Raises
    ------
    ConformanceError
        Naming the lowering, the problem, the rule and the first difference.
    DeviceUnavailable
        Where there is no such device here.
    """
    one = lowering if isinstance(lowering, Lowering) else lowering()
    return check_trial(Trial(one, problem, label, seed, place_of(device)), num_threads)


def check_trial(trial: Trial, num_threads: int = 2, turn: int | None = None) -> bool:
    """Without an epilogue and with all of it, each twice; with a `turn`, one of the two once."""
    plain = turn != 1 and _run(trial, {}, framed=False, again=turn is None)
    options = {"num_threads": num_threads, "epilogue": EVERYTHING}
    finished = turn != 0 and _run(trial, options, framed=True, again=turn is None)
    return plain or finished


def _run(trial: Trial, options: dict[str, Any], framed: bool, again: bool = True) -> bool:
    """Plan, prepare, run, twice unless told otherwise; False when refused."""
    plan = trial.plan(trial.request(**options))
    if plan is None:
        return False
    if trial.problem.mb:  # else there is nothing to compute, only to plan
        _check_runs(trial, plan, framed, again)
    return True


def _check_runs(trial: Trial, plan: Plan, framed: bool, again: bool = True) -> None:
    prepared = trial.prepare(plan, trial.sample().w)
    first = trial.run(plan, prepared, trial.sample().x, framed=framed, scratch=JUNK if framed and not again else NAN)
    trial.judge(plan, prepared, first.out, framed)
    trial.count(plan, first)
    if not again:
        return
    if not framed and (repeated := trial.recorded(plan, prepared)) is not None:
        different = first.out.view(f"u{first.out.itemsize}") != repeated.view(f"u{first.out.itemsize}")
        if different.any():
            trial.fail("recorded", "a call that was recorded on other arrays gives other bits: "
                                   + difference(repeated, first.out, different))  # fmt: skip
    # An emulated device launches anew at first, and then launches again what it recorded.
    for fill in (JUNK, NAN) if trial.place.emulated else (JUNK,):
        second = trial.run(plan, prepared, trial.sample().x, framed=framed, scratch=fill, as_users=True)
        different = first.out.view(f"u{first.out.itemsize}") != second.out.view(f"u{first.out.itemsize}")
        if different.any():
            trial.fail("repeatable", "a second run, on scratch that holds other numbers, gives other bits: "
                                     + difference(second.out, first.out, different))  # fmt: skip


def _check_epilogues(trial: Trial) -> None:
    """Every part of an epilogue by itself, and a few together; in emulation two of them."""
    if trial.place.emulated:
        _run(trial, {"epilogue": Epilogue(bias=True, activation="relu")}, framed=False)
        _run(trial, {"epilogue": Epilogue(residual=True)}, framed=False, again=False)
        return
    alone = [Epilogue(bias=True), Epilogue(residual=True), *(Epilogue(activation=word) for word in ACTIVATIONS[1:])]
    for epilogue in (*alone, Epilogue(bias=True, activation="relu"), Epilogue(bias=True, residual=True)):
        _run(trial, {"num_threads": 2, "epilogue": epilogue}, framed=False)


def _check_threads(trial: Trial) -> None:
    """The same bits for any number of threads, and twice on the same number, on numbers whose sums are rounded.

    A device has no number of threads to vary; it runs twice, an emulated one with its threads in another order.
    """
    numbers = trial.sample("normal")
    results: dict[str, np.ndarray] = {}
    on_cpu = trial.place.name == "cpu"
    for turn, threads in enumerate((1, 2, 3, 2) if on_cpu else (1, 1)):
        plan = trial.plan(trial.request(num_threads=threads))
        if plan is None:
            return
        scratch = JUNK if turn and not on_cpu else NAN
        out = trial.run(plan, trial.prepare(plan, numbers.w), numbers.x, scratch=scratch).out
        for before, wanted in results.items():
            different = out.view(f"u{out.itemsize}") != wanted.view(f"u{out.itemsize}")
            if different.any():
                trial.fail("the same bits for any threads" if on_cpu else "repeatable",
                           f"differ from those {before}: {difference(out, wanted, different)}")  # fmt: skip
        results[f"on {threads} thread(s)" + (" in an earlier run" if turn else "")] = out


def _check_accuracy(trial: Trial) -> None:
    """The error against float64 is within its bound, in units of direct float32's, on normal and ReLU'd inputs."""
    plan = trial.plan(trial.request(num_threads=2))
    if plan is None or trial.problem.dtype != "float32":
        return
    factor = trial.factor(plan.request) or EXACT_FACTOR
    for kind in ("normal", "non-negative"):
        numbers = trial.sample(kind)
        got = trial.run(plan, trial.prepare(plan, numbers.w), numbers.x).out
        size = np.linalg.norm(numbers.product)
        off, off_directly = got - numbers.product, numbers.direct - numbers.product
        error, yardstick = np.linalg.norm(off) / size, np.linalg.norm(off_directly) / size
        if not error <= factor * yardstick:
            trial.fail("accuracy", f"relative error {error:.2e} on {kind} inputs, allowed {factor:g} times direct "
                                   f"float32's {yardstick:.2e}")  # fmt: skip
        allowed = 2 * factor * np.abs(off_directly).max()  # a bad corner does not show in a norm
        wrong = ~(np.abs(off) <= allowed)
        if wrong.any():
            trial.fail("accuracy", f"an element is off by more than {allowed:.2e} ({2 * factor:g} times direct "
                                   f"float32's worst) on {kind} inputs: "
                                   + difference(got, numbers.product, wrong))  # fmt: skip


def _check_limit(trial: Trial) -> None:
    """With half the memory: smaller blocks and equal results, or a refusal that says how much is enough."""
    free = trial.plan(trial.request(num_threads=2))
    if free is None or not free.workspace_bytes:
        return
    limit = free.workspace_bytes // 2
    for turn in ("half", "least"):
        request = trial.request(num_threads=2, max_workspace=limit)
        try:
            plan = trial.plan(request)
        except WorkspaceExceeded as error:
            if turn == "least":
                trial.fail("max_workspace", f"{limit:,} bytes were said to be enough and are refused: {error}", error)
            if error.allowed != limit or not error.needed > limit:
                trial.fail("max_workspace", f"WorkspaceExceeded says needed={error.needed}, allowed={error.allowed}")
            limit = error.needed
            continue
        if plan is None:
            return
        if plan.workspace_bytes > limit:
            trial.fail("max_workspace", f"the plan takes {plan.workspace_bytes:,} of {limit:,} bytes allowed")
        _check_runs(trial, plan, framed=False, again=not trial.place.emulated)
        return


def _variants(lowering: Lowering | type[Lowering], on_cpu: bool) -> list[Lowering]:
    """An instance as it is; of a class the default, then each value of each parameter that a device heeds."""
    if isinstance(lowering, Lowering):
        return [lowering]
    if not (isinstance(lowering, type) and issubclass(lowering, Lowering)):
        raise TypeError(f"check_lowering: expected a Lowering, class or instance, got {lowering!r}")
    variants = [lowering()]
    for name, allowed in lowering.parameters.items():
        if name == "threads" and not on_cpu:
            continue
        variants += [lowering(**{name: 2 if value is int else value}) for value in allowed[1:]]
    return variants


def check_lowering(
    cls: type[Lowering] | Lowering,
    *,
    quick: bool = False,
    seed: int = 0,
    problems: Iterable[ConvProblem] | None = None,
    device: str = "cpu",
) -> Report:
    """Check a lowering against every rule of its contract.

    Results equal to an oracle's on a grid of problems, in both layouts and element types; nothing read or written
    outside the arrays; nothing read from scratch that was not written; bias, residual and activation honoured; memory
    as declared, to the byte, and within ``max_workspace``; the same bits for any number of threads; the error within
    its bound; refusals with reasons.

    Parameters
    ----------
    cls : class or instance of Lowering
        A class is checked with every value of its parameters, an instance as it is.
    quick : bool
        A smaller grid: seconds instead of a minute.
    seed : int
        Of the numbers and of the random problems.
    problems : iterable of ConvProblem, optional
        Checked besides the grid, for a lowering whose ground the grid does not reach.
    device : str
        "cpu", "cuda" or "cuda:1". On an emulated device (NUMBACONV_CUDA=emulate) problems are smaller, and every
        other one has an epilogue; `quick`, in tens of seconds a lowering, most kinds of problems come in one layout and
        element type, otherwise in all.

    Returns
    -------
    Report
        What ran and what was refused: everything, where a device's form says what it is ``lacking``.

    Raises
    ------
    ConformanceError
        For the first rule that is broken, naming the lowering, the problem, the rule and the first difference. (A
        lowering that goes astray beyond the guarded zones may end the process instead.)
    DeviceUnavailable
        Where there is no such device here.
    """
    place = place_of(device)
    report, more = Report(), [("given", problem) for problem in problems or ()]
    for number, lowering in enumerate(_variants(cls, device == "cpu")):
        report.lowerings.append(lowering.spec)
        usual, extended = _problems(place, quick, seed, number)
        finishing: set[tuple[str, str]] = set()
        for turn, (label, problem) in enumerate([*usual, *more]):
            trial = Trial(lowering, problem, label, seed, place)
            if not check_trial(trial, turn=turn % 2 if place.emulated else None):
                report.refused[str(problem)] = check(lowering, problem, trial.request()).reason
                continue
            report.ran.append(str(problem))
            kind = (problem.layout, problem.dtype)
            if kind not in finishing and problem.mb and not (place.emulated and number):
                finishing.add(kind)
                _check_epilogues(trial)
        for label, problem in [*extended, *(pair for pair in more if pair[1].mb)]:
            trial = Trial(lowering, problem, label, seed, place)
            _check_threads(trial)
            _check_accuracy(trial)
            _check_limit(trial)
        for label, problem in refusable():
            trial = Trial(lowering, problem, label, seed, place)
            trial.runs(trial.request())
    if not report.ran and device.partition(":")[0] in cls.devices and not _lacking(cls, device):
        raise ConformanceError(
            report.lowerings[0], "every problem", "coverage",
            "all of the grid was refused, nothing was checked; pass problems=[...] that it runs",
        )  # fmt: skip
    return report


def _lacking(cls, device: str) -> bool:
    """Whether a lowering's form on a GPU misses what it needs, so that there is nothing to check."""
    request = Request(device=device)
    return device != "cpu" and all(lowering.form(device).lacking(request) for lowering in _variants(cls, False))


def _problems(place: Host, quick: bool, seed: int, number: int) -> tuple[list, list]:
    """The grid, and the larger problems, for a lowering's variant.

    Other parameters change how a problem is divided more than what is computed: a quick check takes fewer for them.
    """
    if place.emulated:
        usual, extended, apart = list(sketch(not quick)), list(sketch_large()), 7
    else:
        usual, extended, apart = list(grid(quick, seed)), list(large(quick)), 3
    some = slice(number % apart, None, apart) if quick and number else slice(None)
    return usual[some], extended if place.emulated and not number else extended[some]
