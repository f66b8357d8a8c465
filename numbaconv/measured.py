"""``algorithm="measure"``: lowerings timed against each other once, and the times remembered.

The candidates that the cost model thinks plausible run on random normal numbers, their weights prepared beforehand,
with the threads and the epilogue of the request. Each is run alone first; those that come near the fastest then take
turns in bursts (``timing.burst``). The find-database keeps the times of all of them, under everything they depend on:
problem, request, machine, versions.

Unlike ``auto``, ``measure`` looks at the thread count, and may choose differently on another machine or another day.
"""

from __future__ import annotations

import functools
import os
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import llvmlite
import numba
import numpy as np

from numbaconv.arrays import FROM_NCHW, TO_NCHW
from numbaconv.devices.cuda import runtime
from numbaconv.find_database import Entry, FindDatabase, database
from numbaconv.jit import source_key
from numbaconv.lowering import Lowering
from numbaconv.machine import detect
from numbaconv.plan import Handle, make_plan
from numbaconv.problem import ConvProblem
from numbaconv.registry import make_lowering
from numbaconv.request import ACTIVATIONS, Epilogue, Request
from numbaconv.select import Candidate, candidates, choose
from numbaconv.timing import DeviceTimer, HostTimer, Timer, burst

__all__ = ["fastest", "known", "measure", "plausible"]

FACTOR, MOST = 2.5, 6
"""How much slower than the best prediction a candidate may be predicted, and how many are timed."""
ROUNDS, DROP, CALLS, SECONDS = 5, 1, 5, 2.0
QUIET = 0.06  # until other libraries' idle threads sleep, once
PAUSE = 0.002  # between ours, which spin for 0.1 ms
FEW_RUNS, SINGLE_SECONDS = 3, 0.1
NEAR = 1.5
"""Who alone takes so many times the best one's time takes no part in the turns."""
MOST_BYTES = 1 << 28
"""Of prepared weights at a time; where they are larger, nobody's are kept for the turns."""


def plausible(
    problem: ConvProblem, request: Request, factor: float = FACTOR, most: int | None = MOST
) -> list[Candidate]:
    """The candidates that may be the fastest: allowed, and predicted within a factor of the best prediction.

    Parameters
    ----------
    factor : float
    most : int, optional
        How many at most.

    Returns
    -------
    list of Candidate
        By prediction; ``reference`` only where nothing else runs. Empty where nothing does.
    """
    limit = request.max_workspace
    able = [
        answer
        for answer in candidates(problem, request)
        if answer.support and answer.admitted and (limit is None or answer.workspace_bytes <= limit)
    ]
    fast = [answer for answer in able if answer.lowering.name != "reference"] or able
    return [answer for answer in fast if answer.seconds <= factor * fast[0].seconds][:most]


# ---------------------------------------------------------------------------------------------------- the choice


@functools.lru_cache(4096)
def fastest(problem: ConvProblem, request: Request) -> Lowering:
    """The lowering that ``measure`` takes; a single plausible one is taken without timing it.

    Raises
    ------
    UnsupportedProblem, WorkspaceExceeded
        As ``select.choose``.
    """
    worth = plausible(problem, request)
    if len(worth) < 2 or not problem.mb:
        return choose(problem, request)
    return make_lowering(measure(problem, request, worth).chosen)


def measure(
    problem: ConvProblem, request: Request, worth: list[Candidate] | None = None, orders: tuple[str, str] | None = None
) -> Entry:
    """The times of the plausible lowerings: remembered ones, or measured now, by one thread of a process at a time.

    Parameters
    ----------
    worth : list of Candidate, optional
        ``plausible(problem, request)``.
    orders : (str, str), optional
        Memory orders of the input and of the output; the problem's layout, unless given.

    Raises
    ------
    UnsupportedProblem, WorkspaceExceeded
        As ``select.choose``.
    RuntimeError
        When every lowering failed.
    """
    worth = plausible(problem, request) if worth is None else worth
    if not worth:
        choose(problem, request)  # says why
    specs = [answer.lowering.spec for answer in worth]
    orders = orders or (problem.layout, problem.layout)
    key, store = _key(problem, request, orders), _store(worth)
    with _turn.lock:
        entry = store.find(key)
        if entry is None or set(entry.times) != set(specs):
            entry = _measured(problem, request, specs, orders)
            store.add(key, entry)
    return entry


def known(problem: ConvProblem, request: Request) -> Entry | None:
    """What is remembered of a problem, with the request's epilogue or, failing that, another; measures nothing."""
    others = (Epilogue(*way) for way in product((True, False), (False, True), ACTIVATIONS))
    for epilogue in (request.epilogue, *others):
        key = _key(problem, replace(request, epilogue=epilogue), (problem.layout, problem.layout))
        entry = _own_store.find(key) or database().find(key)
        if entry is not None:
            return entry
    return None


_own_store = FindDatabase(None)
"""Choices in which a lowering of the user's takes part: its code may change without notice, so no file keeps them."""


def _store(worth: list[Candidate]) -> FindDatabase:
    ours = all(type(answer.lowering).__module__.startswith("numbaconv.") for answer in worth)
    return database() if ours else _own_store


class _Turn:
    """One measurement at a time: two would disturb each other, and often be of the same problem."""

    def __init__(self):
        self.lock = threading.Lock()


_turn = _Turn()


def _reset() -> None:
    global _turn, _own_store
    _turn, _own_store = _Turn(), FindDatabase(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)  # a thread that the child lacks may have held the locks


# ------------------------------------------------------------------------------------------------------- the key


def _key(problem: ConvProblem, request: Request, orders: tuple[str, str]) -> dict[str, Any]:
    key: dict[str, Any] = {
        "problem": str(replace(problem, name="")),
        "request": asdict(request),
        "machine": _machine(),
        "versions": {
            "source": source_key(), "numba": numba.__version__, "llvmlite": llvmlite.__version__,
            "numpy": np.__version__,
        },
    }  # fmt: skip
    if request.device != "cpu":
        device = runtime(request.device)
        key["device"] = {"name": device.name, "cc": list(device.cc), "multiprocessors": device.multiprocessors}
    if orders != (problem.layout, problem.layout):
        key["orders"] = list(orders)
    return key


@functools.cache
def _machine() -> dict[str, Any]:
    facts = asdict(detect())
    names = ("cpu_name", "llvm_name", "vector_bits", "l1d_bytes", "l2_bytes", "l3_bytes", "cores")
    return {name: facts[name] for name in names}


# ------------------------------------------------------------------------------------------------------ the clock


def _measured(problem: ConvProblem, request: Request, specs: list[str], orders: tuple[str, str]) -> Entry:
    """Everyone alone, to compile and to see who comes near the fastest; then these in turns."""
    timer: Timer = HostTimer() if request.device == "cpu" else DeviceTimer(runtime(request.device))
    call_of = _arrays(problem, request, orders)
    times: dict[str, float | None] = dict.fromkeys(specs)
    kept: dict[str, Callable[[], object]] = {}
    time.sleep(QUIET)
    spent = 0.0
    for spec in specs:
        if spent > SECONDS:
            break
        try:
            call = call_of(spec)
            call()
            call()  # the first one that runs from tape (``recording``) compiles what does so
            runs = _alone(call, timer)
        except Exception as error:
            warnings.warn(f"numbaconv: measure leaves {spec} out at {problem}, it failed ({type(error).__name__}: "
                          f"{error})", RuntimeWarning, stacklevel=2)  # fmt: skip
            continue
        spent += sum(runs)
        times[spec] = min(runs)
        if problem.weight_bytes * len(specs) <= MOST_BYTES:
            kept[spec] = call
    alone = {spec: seconds for spec, seconds in times.items() if seconds is not None}
    if not alone:
        raise RuntimeError(f"measure: every lowering failed at {problem}; the warnings say how")
    near = {spec: call for spec, call in kept.items() if alone[spec] <= NEAR * min(alone.values())}
    if len(near) < 2 or spent > SECONDS:
        return Entry(min(alone, key=alone.__getitem__), times)
    samples = burst(near, ROUNDS, pause=PAUSE, drop=DROP, calls=CALLS, budget_s=SECONDS - spent, timer=timer)
    turns = {spec: sample.lower_quartile for spec, sample in samples.items()}
    return Entry(min(turns, key=turns.__getitem__), times | turns)


def _alone(call: Callable[[], object], timer: Timer) -> list[float]:
    """Seconds of a run, or of a few where they are short: a hiccup must not put anyone out of the race."""
    runs: list[float] = []
    while not runs or (len(runs) < FEW_RUNS and sum(runs) < SINGLE_SECONDS):
        runs.append(timer.seconds(call))
    return runs


def _arrays(problem: ConvProblem, request: Request, orders: tuple[str, str]) -> Callable[[str], Callable[[], object]]:
    """Random numbers where the request runs, in these memory orders; gives a lowering's run on them."""
    p, rng = problem, np.random.default_rng(0)
    dtype: Any = p.dtype
    put = (lambda array: array) if request.device == "cpu" else runtime(request.device).to_device

    def normal(shape: tuple[int, ...]) -> Any:
        return put(rng.standard_normal(shape, dtype=dtype))

    def image(shape: tuple[int, ...], order: str) -> Any:
        return normal(tuple(shape[axis] for axis in FROM_NCHW[order])).transpose(TO_NCHW[order])

    epilogue = request.epilogue
    x, out, w = image(p.input_shape, orders[0]), image(p.output_shape, orders[1]), normal(p.weight_shape)
    residual = image(p.output_shape, orders[1]) if epilogue.residual else None
    bias = normal((p.oc,)) if epilogue.bias else None

    def call_of(spec: str) -> Callable[[], object]:
        handle = Handle(make_plan(p, spec, request), "nchw").prepare(w, bias)
        if request.prepared:
            return lambda: handle(x, out=out, residual=residual)
        return lambda: handle.prepare(w, bias)(x, out=out, residual=residual)

    return call_of
