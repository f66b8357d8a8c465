"""Winograd's transforms written out in additions, for LLVM's vectors, for a CUDA thread, and for NumPy alike.

What a matrix's rows have in common is computed once:

    B^T, G: rows of +p and -p agree in even places and differ in sign in odd ones     E, O  ->  E + pO, E - pO
    A^T:    columns of +p and -p do so down their rows                        a, b  ->  a + b, a - b, then the rows
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Protocol

from numbaconv.lowerings._winograd_points import Rows


class Arithmetic(Protocol):
    """What is done with values, whatever they are; factors are constants."""

    def add(self, a: Any, b: Any) -> Any: ...

    def subtract(self, a: Any, b: Any) -> Any: ...

    def scaled(self, factor: Fraction, x: Any) -> Any: ...

    def fused(self, factor: Fraction, x: Any, total: Any) -> Any:
        """factor · x + total."""


def _combine(do: Arithmetic, factors: Sequence[Fraction], values):
    """The sum of factor times value, with as few operations as that takes."""
    terms = sorted(((f, x) for f, x in zip(factors, values) if f), key=lambda term: (term[0] != 1, abs(term[0]) != 1))
    (first, total), *rest = terms
    if first != 1:
        total = do.scaled(first, total)
    for factor, value in rest:
        if factor == 1:
            total = do.add(total, value)
        elif factor == -1:
            total = do.subtract(total, value)
        else:
            total = do.fused(factor, value, total)
    return total


def opposed(one: Sequence[Fraction], other: Sequence[Fraction]) -> tuple[list[int], list[int]] | None:
    """Places where two vectors agree and where they differ in sign only, if there are both and nothing else."""
    same = [k for k, (a, b) in enumerate(zip(one, other)) if a == b and a]
    signs = [k for k, (a, b) in enumerate(zip(one, other)) if a == -b and a]
    nothing = sum(not a and not b for a, b in zip(one, other))
    return (same, signs) if same and signs and len(same) + len(signs) + nothing == len(one) else None


def _pairs(vectors: Sequence[Sequence[Fraction]]) -> dict[int, int]:
    """Each vector's opposed partner, under the first of the two."""
    found: dict[int, int] = {}
    for i, one in enumerate(vectors):
        for j in range(i + 1, len(vectors)):
            if i not in found.values() and j not in found.values() and opposed(one, vectors[j]):
                found[i] = j
                break
    return found


def times_rows(do: Arithmetic, matrix: Rows, values):
    """`matrix` times `values`; opposed rows share their parts."""
    pairs, result = _pairs(matrix), [None] * len(matrix)
    for i, row in enumerate(matrix):
        if i in pairs:
            same, signs = opposed(row, matrix[pairs[i]])
            even = _combine(do, [row[k] for k in same], [values[k] for k in same])
            factor = row[signs[-1]]
            odd = _combine(do, [row[k] / factor for k in signs], [values[k] for k in signs])
            result[i] = _combine(do, [Fraction(1), factor], [even, odd])
            result[pairs[i]] = _combine(do, [Fraction(1), -factor], [even, odd])
        elif i not in pairs.values():
            result[i] = _combine(do, row, values)
    return result


def times_columns(do: Arithmetic, matrix: Rows, values):
    """`matrix` times `values`; opposed columns share sum and difference."""
    columns = list(zip(*matrix))
    pairs, kept, shared = _pairs(columns), [], []
    for j, column in enumerate(columns):
        if j in pairs:
            same, signs = opposed(column, columns[pairs[j]])
            for places, join in ((same, do.add), (signs, do.subtract)):
                kept.append([factor if i in places else Fraction(0) for i, factor in enumerate(column)])
                shared.append(join(values[j], values[pairs[j]]))
        elif j not in pairs.values():
            kept.append(column)
            shared.append(values[j])
    return [_combine(do, row, shared) for row in zip(*kept)]


def both_sides(do: Arithmetic, apply, of_rows: Rows, of_columns: Rows, values):
    """A transform along the columns of a tile, then along its rows; `values` by rows."""
    turned = [apply(do, of_rows, [row[j] for row in values]) for j in range(len(values[0]))]
    return [apply(do, of_columns, [column[i] for column in turned]) for i in range(len(of_rows))]
