"""What the steps of the ladder touch: bytes through the caches of this machine, and every access of a small product.

The first four steps do the same multiply-adds and differ in the order of their accesses; the model of caches follows
their own source. Steps that run on several threads are left out: the model has the caches of one core, and each thread
does what the step before does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from numbaconv.ladder import Step, step, steps
from numbaconv.ladder.caches import Hierarchy, Level
from numbaconv.ladder.cliff import LEADING, cliff
from numbaconv.ladder.trace import record, traffic

__all__ = ["THREADED", "followed", "measure", "units"]

THREADED = ("parallel", "production")

SHAPE, QUICK_SHAPE = (98, 1160, 1160), (28, 1160, 1160)
"""m, n and k. B is 5.4 MB: more than a core counts on in any cache; rows of 72.5 lines are in all sets."""

SMALL = (8, 8, 8)
LINE_ELEMENTS = 4
TOY = Hierarchy([Level("L1", 128, 4, 4 * LINE_ELEMENTS), Level("L2", 256, 4, 4 * LINE_ELEMENTS)])
"""8 and 16 lines: two, and four, of 48 rows' halves that three matrices of 8 x 8 have."""
DRAWN: dict[str, dict[str, Any]] = {
    "ijk": {},
    "ikj": {},
    "blocked": {"kc": 4, "nc": 4},
    "packed": {"mc": 4, "kc": 4, "nc": 4, "mr": 2, "nr": 4},
}
"""Steps that are drawn, and blocks small enough that there are several."""

CLIFF = ("ijk", "ikj", "packed")

Tick = Callable[[str], object]


def followed() -> list[Step]:
    """The steps of the ladder "cpu" whose accesses are counted."""
    return [one for one in steps("cpu") if one.name not in THREADED]


def units(quick: bool) -> int:
    """How often ``measure`` will tick."""
    return len(followed()) + len(DRAWN) + len(CLIFF) * len(_leading(quick))


def measure(quick: bool, tick: Tick) -> dict[str, Any]:
    """Count, record and time.

    Parameters
    ----------
    quick : bool
        Fewer rows of A, and the cliff at one power of two.
    tick : callable
        Called once a unit of work, with its name.

    Returns
    -------
    dict
        `hierarchy`, the levels; `traffic`, a step's hits, misses and bytes in each; `animation`, every access of a
        small product as [matrix, row, column, write, level]; `cliff`, speed and misses at leading dimensions around a
        power of two.
    """
    hierarchy = Hierarchy.of()
    return {
        "hierarchy": [asdict(level) for level in hierarchy.levels],
        "traffic": [_traffic(one, QUICK_SHAPE if quick else SHAPE, hierarchy, tick) for one in followed()],
        "animation": _animation(tick),
        "cliff": {"steps": [_cliff(name, _leading(quick), hierarchy, tick) for name in CLIFF]},
    }


def _leading(quick: bool) -> tuple[int, ...]:
    return LEADING[: len(LEADING) // 2] if quick else LEADING


def _traffic(one: Step, shape: tuple[int, int, int], hierarchy: Hierarchy, tick: Tick) -> dict[str, Any]:
    m, n, k = shape
    counted = traffic(one.function, (m, k), (k, n), (m, n), hierarchy=hierarchy)
    tick(f"counted the accesses of {one.name}")
    levels = [asdict(level) for level in counted.levels]
    return {"step": one.name, "m": m, "n": n, "k": k, "accesses": counted.accesses, "levels": levels}


def _animation(tick: Tick) -> dict[str, Any]:
    m, n, k = SMALL
    drawn = []
    for name, blocks in DRAWN.items():
        recording = record(step(name).function, (m, k), (k, n), (m, n), hierarchy=TOY, **blocks)
        matrices = [asdict(matrix) for matrix in recording.matrices]
        drawn.append({"name": name, "matrices": matrices, "events": recording.events.tolist()})
        tick(f"recorded {name}")
    return {
        "m": m,
        "n": n,
        "k": k,
        "line_elements": LINE_ELEMENTS,
        "levels": [level.name for level in TOY.levels],
        "steps": drawn,
    }


def _cliff(name: str, leading: tuple[int, ...], hierarchy: Hierarchy, tick: Tick) -> dict[str, Any]:
    found = cliff(step(name).function, leading, hierarchy=hierarchy, tick=lambda text: tick(f"{name}, {text}"))
    return {"name": name, **{key: list(values) for key, values in asdict(found).items()}}
