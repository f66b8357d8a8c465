"""Cases: every lowering on the device, on whole numbers exact, on normal ones within float32's error."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbaconv.api import plan
from numbaconv.bench.gpu.bench import Bench
from numbaconv.bench.gpu.case import Case, Skip, Tally
from numbaconv.bench.ours import in_order
from numbaconv.errors import UnsupportedProblem
from numbaconv.problem import ConvProblem
from numbaconv.registry import list_lowerings, make_lowering
from numbaconv.request import Request
from numbaconv.testing import grid
from numbaconv.testing.oracle import finish
from numbaconv.testing.samples import sample

__all__ = ["cases"]

PATCHES: dict[str, int] = {"mb": 2, "ic": 6, "ih": 9, "iw": 8, "g": 2, "oc": 4, "kh": 3, "kw": 2, "sh": 3, "sw": 2}
TINY: tuple[dict[str, int], ...] = (
    {"ic": 3, "oc": 4, "kh": 2, "kw": 2, "pad_top": 1, "pad_right": 1},
    {"ic": 3, "oc": 5, "kh": 1, "kw": 1},
    {"ic": 3, "oc": 3, "g": 3, "kh": 2, "kw": 1},
    {"ic": 2, "oc": 3, "kh": 2, "kw": 2, "sh": 2, "sw": 2},
)
TINY_POINTWISE = 'mb1ic20ih4oc9kh1n"accuracy"'
ACCURACY = 'mb2ic96ih28oc64oh28kh3ph1n"accuracy"'
POINTWISE = 'mb2ic96ih28oc64oh28kh1n"accuracy, 1x1"'
DEEPWISE = 'g96mb2ic96ih28oc96oh28kh3ph1n"accuracy, depthwise"'
PATCHED = 'mb2ic96ih28oc64oh7kh4sh4n"accuracy, patches"'
MOST_ERROR = 2e-6


def problems(quick: bool, kind: str) -> Iterator[tuple[str, ConvProblem]]:
    """(what is special, problem): of one dtype in both layouts, or "random" ones of both."""
    if quick:
        for number, given in enumerate(TINY):
            layout = ("nchw", "nhwc")[number % 2]
            yield layout, ConvProblem(**given, mb=1, ih=4, iw=4, dtype=kind, layout=layout)  # type: ignore[arg-type]
        return
    if kind != "random":
        yield "patches", ConvProblem(**PATCHES, dtype=kind)  # type: ignore[arg-type]
    for label, problem in [*grid.grid(False, 0), *grid.large(True)]:
        if ("random" if label.startswith("random") else problem.dtype) == kind:
            yield f"{label} {problem.layout}", problem


def exact(spec: str, kind: str, bench: Bench) -> Any:
    """A lowering on all problems that it runs, with bias, residual and activation by turns."""
    lowering = make_lowering(spec)
    if "cuda" in lowering.devices and (reason := lowering.form(bench.device).lacking(Request(device=bench.device))):
        raise Skip(f"{spec} is left away: {reason}")
    tally = Tally()
    for number, (label, problem) in enumerate(problems(bench.quick, kind)):
        has_bias, has_residual = number % 2 == 0, number % 3 == 0
        activation = (None, "relu", "relu6")[number % 3]
        with tally.of(f"{label}: {problem}"):
            try:
                handle = plan(problem, spec, bench.device, layout="nchw", bias=has_bias, residual=has_residual,
                              activation=activation)  # fmt: skip
            except UnsupportedProblem:
                tally.refused += 1
                tally.right -= 1
                continue
            given = sample(problem, number, "whole")
            bias = given.bias if has_bias else None
            extra = given.residual if has_residual else None
            handle.prepare(given.w, bias)
            there = None if extra is None else bench.put(in_order(extra, problem.layout))
            x, before = (bench.put(in_order(image, problem.layout)) for image in (given.x, -given.x))
            blank = in_order(np.full(problem.output_shape, np.nan, problem.dtype), problem.layout)
            other, out = bench.put(blank), bench.put(blank)
            handle(before, out=other, residual=there)  # a second call launches again what the first one did
            handle(x, out=out, residual=there)
            if not bench.recording:
                judged(bench, handle, bench.get(out), finish(given.product, bias, extra, activation))
    note = f"{tally.right} problems, {tally.refused} refused"
    return tally.figures(bench) | {"note": note}


def judged(bench: Bench, handle: Any, got: NDArray, want: NDArray) -> None:
    """Exact; where a lowering does not claim that, near enough."""
    claimed = handle.plan.lowering.error_bound(handle.problem, handle.plan.request)
    if claimed == "exact":
        bench.equal(got, want)
    else:
        bench.within(bench.error(got, want), MOST_ERROR * float(claimed), "the relative error")


def accuracy(bench: Bench) -> Any:
    """The relative error of each lowering in each precision, on a layer of its kind."""
    found: dict[str, dict[str, float]] = {}
    tally = Tally()
    for text in (TINY_POINTWISE,) if bench.quick else (ACCURACY, POINTWISE, DEEPWISE, PATCHED):
        problem = ConvProblem.parse(text)
        given = sample(problem, 0, "normal")
        for spec in ("conv1x1",) if bench.quick else list_lowerings():
            for precision, most in (("highest", MOST_ERROR), ("high", 1e-5), ("medium", 1e-3)):
                with tally.of(f"{spec} {precision} {problem}"):
                    try:
                        handle = plan(problem, spec, bench.device, precision=precision)
                    except UnsupportedProblem:
                        tally.right -= 1
                        continue
                    got = handle.prepare(given.w)(given.x)
                    if bench.recording:
                        continue
                    error = bench.error(got, given.product)
                    best = found.setdefault(spec, {})
                    best[precision] = max(error, best.get(precision, 0.0))
                    claimed = handle.plan.lowering.error_bound(problem, handle.plan.request)
                    factor = 1.0 if claimed == "exact" else float(claimed)
                    bench.within(error, most * factor, "the relative error")
    worst = max((errors["highest"] for errors in found.values() if "highest" in errors), default=0.0)
    return tally.figures(bench) | {"errors": found, "note": f"largest in float32 {worst:.1e}"}


def cases(quick: bool) -> list[Case]:
    """Lowerings in float32, the error, then float64 and random problems."""
    names = list_lowerings()
    found = [Case("lowerings", f"{name} float32", functools.partial(exact, name, "float32")) for name in names]
    found.append(Case("lowerings", "accuracy", accuracy))
    if not quick:
        found += [Case("lowerings", f"{name} {kind}", functools.partial(exact, name, kind))
                  for kind in ("random", "float64") for name in names]  # fmt: skip
    return found
