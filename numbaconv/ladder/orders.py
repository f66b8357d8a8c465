"""One statement in three loops, and the six orders to write them in.

``out[i, j] += a[i, p] * b[p, j]`` gives the same numbers in any order. What differs is the innermost step: along i it
goes down a column of `a` and of `out`, along j along a row of `b` and of `out`, along p along a row of `a` and down a
column of `b`. Rows lie in one piece; a step down a column is a new cache line.

    innermost   reads and writes                a cache line of 16 floats serves
    j           b[p, j], out[i, j]  rows        16 steps of both: ikj, kij
    p (k)       a[i, p] row, b[p, j] column     16 steps of `a`, one of `b`: ijk, jik
    i           a[i, p], out[i, j]  columns     one step of either: jki, kji
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numbaconv.jit import compiled

__all__ = ["ORDERS", "ordered"]

ORDERS = ("ijk", "ikj", "jik", "jki", "kij", "kji")
"""The loops from the outermost to the innermost; the letter k is the loop whose index is called p in the code."""


@functools.cache
def ordered(order: str) -> Callable[..., Any]:
    """``gemm(a, b, out)`` with its three loops in one of ``ORDERS``.

    The places of i, j and p among the loops are constants of the compiled code: nothing is looked up when it runs.
    """
    outer, middle, inner = ("ijk".index(letter) for letter in order)
    at_i, at_j, at_p = (order.index(letter) for letter in "ijk")

    @compiled
    def gemm(a, b, out):
        m, k = a.shape
        n = b.shape[1]
        for i in range(m):
            for j in range(n):
                out[i, j] = 0
        lengths = (m, n, k)
        for x in range(lengths[outer]):
            for y in range(lengths[middle]):
                for z in range(lengths[inner]):
                    at = (x, y, z)
                    i, j, p = at[at_i], at[at_j], at[at_p]
                    out[i, j] += a[i, p] * b[p, j]
        return out

    return gemm
