"""The CPU ladder on this machine: what each step reaches, what its inner loop looks like, and curves over the size.

The steps are timed on one product whose B, 4 bytes for each of k x n elements, is larger than most caches, because
that is where blocks begin to matter. Steps that read all of B for every row of A get few rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numbaconv.ladder.assembly import assembly
from numbaconv.ladder.step import Step, steps
from numbaconv.machine import default_threads, detect
from numbaconv.probes import fma_peak
from numbaconv.timing import burst

__all__ = ["measure", "units"]

WIDE = 4096
"""n and k: B has 64 MiB."""
ROWS, QUICK_ROWS = 512, 256
FEWER_ROWS = {"ijk": 2, "ikj": 32}
"""Of the steps that read all of B for every row: their rate is that of one row."""
SIZES = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
QUICK_SIZES = (32, 64, 128, 256, 512, 1024)
SLOWEST, SLOWEST_SIDE = "ijk", 512
SECONDS, QUICK_SECONDS = 30.0, 6.0
"""For the steps; each size of the curves has a twelfth of it."""


def units(quick: bool) -> int:
    """How many ticks ``measure`` makes."""
    return len(steps("cpu")) + 1 + len(QUICK_SIZES if quick else SIZES)


def measure(quick: bool, tick: Callable[[str], object]) -> dict[str, Any]:
    """Measure the ladder; a plain dict, ready for JSON.

    Parameters
    ----------
    quick : bool
        Fewer rows, sizes and seconds.
    tick : callable
        Called with a few words after each unit of work.
    """
    ladder, threads = steps("cpu"), default_threads()
    m = QUICK_ROWS if quick else ROWS
    loops = {}
    for step in ladder:
        loops[step.name] = assembly(step)
        tick(f"assembly: {step.name}")
    seconds = QUICK_SECONDS if quick else SECONDS
    gflops, times = _rates(ladder, {step.name: _shape(step, m) for step in ladder}, seconds)
    tick(f"ladder: {m} x {WIDE} x {WIDE}")
    return {
        "m": m,
        "n": WIDE,
        "k": WIDE,
        "peak_gflops": fma_peak("float32", 1),
        "peak_gflops_all_threads": fma_peak("float32", threads),
        "threads": threads,
        "vector_bits": detect().vector_bits,
        "steps": [
            {
                "number": step.number,
                "name": step.name,
                "title": step.title,
                "idea": step.idea,
                "source": step.source,
                "rows": _shape(step, m)[0],
                "seconds": times[step.name],
                "gflops": gflops[step.name],
                "threads": threads if _is_parallel(step) else 1,
                "assembly": _counts(loops[step.name]),
                "loads_per_fma": loops[step.name].loads_per_fma if loops[step.name].counted else None,
            }
            for step in ladder
        ],
        "curves": _curves(ladder, QUICK_SIZES if quick else SIZES, seconds / 12, tick),
    }


def _shape(step: Step, m: int) -> tuple[int, int, int]:
    return FEWER_ROWS.get(step.name, m), WIDE, WIDE


def _is_parallel(step: Step) -> bool:
    """The steps from the one named so on use all threads."""
    return step.number >= next(one.number for one in steps("cpu") if one.name == "parallel")


def _counts(loop) -> dict[str, Any]:
    counts = {name: getattr(loop, name) if loop.counted else None for name in COUNTED}
    return {"text": loop.text, **counts}


COUNTED = ("instructions", "loads", "stores", "fmas", "multiplies", "adds", "multiply_adds", "spills", "lanes", "flops")


def _curves(ladder, sizes, seconds: float, tick) -> list[dict[str, Any]]:
    curves: dict[str, dict[str, Any]] = {step.name: {"name": step.name, "sizes": [], "gflops": []} for step in ladder}
    for size in sizes:
        taking_part = [step for step in ladder if step.name != SLOWEST or size <= SLOWEST_SIDE]
        gflops, _ = _rates(taking_part, {step.name: (size, size, size) for step in taking_part}, seconds)
        for name, rate in gflops.items():
            curves[name]["sizes"].append(size)
            curves[name]["gflops"].append(rate)
        tick(f"ladder: {size} x {size} x {size}")
    return list(curves.values())


def _rates(ladder, shapes: dict[str, tuple[int, int, int]], seconds: float):
    """GFLOP/s and seconds of every step on its shape, in turns; the lower quartile, for neighbours disturb."""
    rng = np.random.default_rng(0)
    m, n, k = (max(shape[axis] for shape in shapes.values()) for axis in range(3))
    a, b = rng.standard_normal((m, k), dtype=np.float32), rng.standard_normal((k, n), dtype=np.float32)
    out = np.empty((m, n), np.float32)
    calls = {step.name: _call(step, a, b, out, shapes[step.name][0]) for step in ladder}
    samples = burst(calls, rounds=3, calls=3, drop=1, pause=0.01, budget_s=seconds)
    times = {name: sample.lower_quartile for name, sample in samples.items()}
    return {name: 2e-9 * np.prod(shapes[name], dtype=float) / times[name] for name in times}, times


def _call(step: Step, a, b, out, rows: int) -> Callable[[], object]:
    return lambda: step.function(a[:rows], b, out=out[:rows])
