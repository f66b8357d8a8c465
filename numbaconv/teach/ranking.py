"""``python -m numbaconv.teach.ranking``: does the model of caches rank the steps as the clock does?

The steps are those that differ in the order of their accesses alone. B, 36 MB, is larger than what a core has of any
cache. The model's time of a multiply-add is that of its scarcest resource: the lines that the first level is asked for,
at one vector's time each, or the lines that a level must fetch, at the measured bandwidth of the level they come from.

    python -m numbaconv.teach.ranking [m n k]

Three loops (ijk) are taken at an access for each element, for LLVM makes no vectors of a sum; the others in vectors.
Operands lie where NumPy puts large arrays, 16 bytes beyond a page: there each vector of 64 bytes lies on two lines.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from numbaconv.ladder import step
from numbaconv.ladder.caches import Hierarchy, Traffic
from numbaconv.ladder.trace import traffic
from numbaconv.machine import detect
from numbaconv.teach.roofs import bandwidths
from numbaconv.timing import burst

__all__ = ["ORDERS", "Row", "counted", "model_ns", "ranking"]

ORDERS = ("ijk", "ikj", "blocked", "packed")
SHAPE = (24, 3000, 3000)


class Row(NamedTuple):
    """A step; all but the name for one multiply-add.

    Parameters
    ----------
    name : str
    clock_ns, model_ns : float
    lookups : float
        Lines that the first level is asked for.
    misses : tuple of float
        Lines that each level fetches.
    """

    name: str
    clock_ns: float
    model_ns: float
    lookups: float
    misses: tuple[float, ...]


def counted(
    name: str, shape: tuple[int, int, int], offset: int, hierarchy: Hierarchy | None = None, **blocks: Any
) -> Traffic:
    """What the model counts of a step whose accesses are vectors where the compiler makes them."""
    m, n, k = shape
    vector = 0 if name == "ijk" else detect().vector_bits // 8
    operands = (m, k), (k, n), (m, n)
    return traffic(step(name).function, *operands, hierarchy=hierarchy, vector=vector, offset=offset, **blocks)


def model_ns(lookups: float, misses: Sequence[float], gb_s: Sequence[float], line: int = 64) -> float:
    """Nanoseconds of the scarcest: look-ups of the first level, or lines from the next, the one after, memory.

    Parameters
    ----------
    lookups : float
    misses : sequence of float
        A level each.
    gb_s : sequence of float
        Bandwidth of each level, and of the memory.
    """
    lines = [lookups * detect().vector_bits / 8 / line, *misses]
    return max(count * line / bandwidth for count, bandwidth in zip(lines, gb_s, strict=True))


def ranking(shape: tuple[int, int, int] = SHAPE) -> Iterator[Row]:
    """Time the steps in turns, then count what each does."""
    m, n, k = shape
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal(size, np.float32) for size in ((m, k), (k, n)))
    out = np.empty((m, n), np.float32)
    functions = {name: step(name).function for name in ORDERS}
    calls = {name: functools.partial(function, a, b, out=out) for name, function in functions.items()}
    samples = burst(calls, 3, drop=1, calls=3)
    hierarchy = Hierarchy.of()
    measured = {one.name: one.gb_s for one in (measure() for measure in bandwidths(1))}
    gb_s = [measured.get(level.name, measured["memory"]) for level in hierarchy.levels] + [measured["memory"]]
    for name in ORDERS:
        found = counted(name, shape, b.ctypes.data % 64, hierarchy)
        lookups = (found[0].hits + found[0].misses) / (m * n * k)
        misses = tuple(level.misses / (m * n * k) for level in found.levels)
        yield Row(name, samples[name].min / (m * n * k) * 1e9, model_ns(lookups, misses, gb_s), lookups, misses)


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    shape = tuple(map(int, arguments)) or SHAPE
    names = [level.name for level in Hierarchy.of().levels]
    print(f"{shape[0]} x {shape[2]} times {shape[2]} x {shape[1]}, one thread; for one multiply-add:")
    print(
        f"{'step':10}{'clock ns':>10}{'model ns':>10}{'lines asked':>13}",
        *(f"{name + ' misses':>11}" for name in names),
    )
    for row in ranking(shape):  # type: ignore[arg-type]
        misses = "".join(f"{count:12.4f}" for count in row.misses)
        print(f"{row.name:10}{row.clock_ns:10.4f}{row.model_ns:10.4f}{row.lookups:13.4f}{misses}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
