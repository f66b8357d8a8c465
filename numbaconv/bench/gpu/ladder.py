"""Cases: the steps of the CUDA ladder, exact on whole numbers, and their GFLOP/s in turns."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from numbaconv.bench.gpu.bench import Bench
from numbaconv.bench.gpu.case import Case, Skip, Tally
from numbaconv.bench.gpu.products import whole
from numbaconv.ladder.step import Step, steps

__all__ = ["cases"]

SIZES = [(5, 7, 3), (1, 1, 1), (33, 31, 35), (129, 127, 17), (64, 260, 48), (1000, 1003, 515), (0, 3, 2), (3, 2, 0)]
QUICK_SIZES = SIZES[:1]
"""(m, n, k)"""
TIMED = 4096
SAMPLED, MOST_ERROR = 16, 1e-5
SECONDS, ROUNDS = 8.0, 3


def exact(step: Step, bench: Bench) -> Any:
    """Products of odd sizes, on the device and of the host's arrays."""
    if not runs(step, bench):
        raise Skip(f"needs compute capability {'.'.join(map(str, step.kernel.least))}")
    tally, rng = Tally(), np.random.default_rng(11)
    for m, n, k in QUICK_SIZES if bench.quick else SIZES:
        with tally.of(f"m n k = {m}, {n}, {k}"):
            a, b, room = whole(rng, (m, k)), whole(rng, (k, n)), np.full((m, n), np.nan, np.float32)
            out = bench.put(room)
            step.function(bench.put(a), bench.put(b), out=out)
            bench.equal(bench.get(out), a @ b)
            bench.equal(step.function(a, b, out=room), a @ b)
    return tally.figures(bench)


def climb(bench: Bench) -> dict[str, Any]:
    """GFLOP/s of every step, one large product, in turns."""
    size = 4 if bench.quick else TIMED
    a, b = bench.normal((size, size), 1), bench.normal((size, size), 2)
    able = [step for step in steps("cuda") if runs(step, bench)]
    outs = {step.name: bench.empty((size, size)) for step in able}
    functions = {step.name: functools.partial(step.function, a, b, out=outs[step.name]) for step in able}
    for name, function in functions.items():
        bench.blank(outs[name])
        function()
    if not bench.recording:
        rows = np.linspace(0, size - 1, SAMPLED, dtype=int)
        want = bench.get(a)[rows].astype(np.float64) @ bench.get(b)
        for name, out in outs.items():
            bench.within(bench.error(bench.get(out)[rows], want), MOST_ERROR, f"{name}: the error")
    times = bench.race(functions, SECONDS, ROUNDS)
    rates = {name: 2e-9 * size**3 / found["median"] for name, found in times.items()}
    note = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    return {"size": size, "gflops": rates, "times": times, "note": f"GFLOP/s: {note}"}


def runs(step: Step, bench: Bench) -> bool:
    """Whether the device has a step's instructions; production has kernels for all."""
    return step.name == "production" or step.kernel.least <= bench.runtime.cc


def cases(quick: bool) -> list[Case]:
    found = [Case("ladder", f"{step.number} {step.name}", functools.partial(exact, step)) for step in steps("cuda")]
    return [*found, Case("ladder", "GFLOP/s", climb)]
