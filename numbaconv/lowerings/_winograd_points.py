"""The matrices of Winograd's minimal filtering F(m, r): m outputs of r taps from n = m + r - 1 products.

    y = A^T [ (G w) * (B^T x) ]         x: n inputs, w: r taps, y: m outputs, *: element by element

Toom and Cook's way: a product of polynomials is found from its values at n points, here n - 1 small fractions and
infinity; F(m, r) is the transpose of that. Row j of G evaluates the taps at point j, row j of B^T is the product of
(t - p) over all other points. Points come as zero and pairs +p, -p, whose rows share their even and odd parts; powers
of two in all denominators, so no entry of B^T and A^T is rounded. Which points: those that lose least accuracy
(Alam et al., arXiv 2201.10369, search for them likewise), not the customary 0, 1, 2, which lose twice as much.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

Rows = tuple[tuple[Fraction, ...], ...]

PAIRS: dict[int, tuple[Fraction, ...]] = {
    3: (Fraction(1),),
    5: (Fraction(3, 4), Fraction(3, 2)),
    7: (Fraction(1, 2), Fraction(1), Fraction(7, 4)),
}
"""The points p of the pairs +p, -p beside zero, by the number of finite points."""


class Matrices(NamedTuple):
    """A^T (m x n), G (n x r) and B^T (n x n), by rows."""

    at: Rows
    g: Rows
    bt: Rows


def finite_points(count: int) -> tuple[Fraction, ...]:
    """Zero and pairs.

    Raises
    ------
    ValueError
        For a number of points that none have been chosen for.
    """
    if count not in PAIRS:
        raise ValueError(f"no {count} points have been chosen, only {', '.join(map(str, PAIRS))}")
    return Fraction(0), *(sign * p for p in PAIRS[count] for sign in (1, -1))


def _times(polynomial: Sequence[Fraction], root: Fraction) -> list[Fraction]:
    """polynomial · (t - root), coefficients from the lowest."""
    return [low - root * high for low, high in zip([Fraction(0), *polynomial], [*polynomial, Fraction(0)])]


@functools.cache
def minimal_filter(m: int, r: int) -> Matrices:
    """The matrices of F(m, r); a side of one output or one tap is not transformed."""
    if m == 1 or r == 1:
        n = m + r - 1
        one = tuple(tuple(Fraction(int(i == j)) for j in range(n)) for i in range(n))
        row, column = (tuple(Fraction(1) for _ in range(n)),), tuple((Fraction(1),) for _ in range(n))
        return Matrices(row, one, one) if m == 1 else Matrices(one, column, one)
    n = m + r - 1
    points = finite_points(n - 1)
    at = [[point**i for point in points] + [Fraction(int(i == m - 1))] for i in range(m)]
    g, bt = [], []
    for j, point in enumerate(points):
        others, scale = [Fraction(1)], Fraction(1)
        for other in points[:j] + points[j + 1 :]:
            others, scale = _times(others, other), scale * (point - other)
        bt.append([*others, Fraction(0)])
        g.append([point**k / scale for k in range(r)])
    everything = [Fraction(1)]
    for point in points:
        everything = _times(everything, point)
    bt.append(everything)
    g.append([Fraction(int(k == r - 1)) for k in range(r)])
    return Matrices(*(tuple(map(tuple, rows)) for rows in (at, g, bt)))
