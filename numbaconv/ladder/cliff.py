"""The power-of-two cliff: nearly the same product, and one is four times slower.

Where the rows of B lie 2048 or 4096 bytes apart, a column of B is in one or two sets of the first level, however empty
the others are: a walk down the column drives each line out before its neighbours are used. At any other distance the
column is in all sets, and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from numbaconv.ladder.caches import Hierarchy
from numbaconv.ladder.trace import traffic
from numbaconv.timing import burst

__all__ = ["LEADING", "Cliff", "cliff", "column_sets"]

LEADING = tuple(middle + step for middle in (512, 1024) for step in (-32, -16, -8, 0, 8, 16, 32))
"""Columns of B: elements from one row to the next."""
M, K = 16, 192
"""A column of 192 elements, each in a line of its own, is less than half of a first level: it stays, if it may."""


@dataclass(frozen=True)
class Cliff:
    """A step at several leading dimensions.

    Parameters
    ----------
    leading : tuple of int
        Elements from one row of B to the next.
    gflops, misses_per_mac : tuple of float
        What the clock says; and lines that the first level of the model misses, for each multiply-add.
    """

    leading: tuple[int, ...]
    gflops: tuple[float, ...]
    misses_per_mac: tuple[float, ...]


def cliff(
    function: Callable[..., Any],
    leading: Sequence[int] = LEADING,
    m: int = M,
    k: int = K,
    hierarchy: Hierarchy | None = None,
    tick: Callable[[str], object] = lambda text: None,
) -> Cliff:
    """Time a step of the ladder "cpu" and count its misses, for B of k rows and so many columns.

    Parameters
    ----------
    function : callable
        ``gemm(a, b, out)``.
    leading : sequence of int
        Columns of B.
    m, k : int
    hierarchy : Hierarchy, optional
        This machine's by default.
    tick : callable
        Told of each leading dimension when it is done.
    """
    gflops, misses = [], []
    for n in leading:
        a, b, out = np.ones((m, k), np.float32), np.ones((k, n), np.float32), np.empty((m, n), np.float32)
        sample = burst({n: lambda a=a, b=b, out=out: function(a, b, out=out)}, 2, pause=0.0, calls=5)[n]
        gflops.append(2 * m * n * k / sample.min / 1e9)
        misses.append(traffic(function, a, b, out, hierarchy=hierarchy)[0].misses / (m * n * k))
        tick(f"rows of {n} numbers")
    return Cliff(tuple(leading), tuple(gflops), tuple(misses))


def column_sets(leading: int, rows: int = K, hierarchy: Hierarchy | None = None, itemsize: int = 4) -> int:
    """How many sets of the first level a column of so many rows lies in."""
    level = (hierarchy or Hierarchy.of()).levels[0]
    return len({row * leading * itemsize // level.line % level.sets for row in range(rows)})
