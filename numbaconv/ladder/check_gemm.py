"""Products to check a GEMM with, and what common mistakes compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["Product", "Products"]

SHAPES = [
    (4, 4, 4), (16, 16, 16), (9, 10, 11), (17, 19, 18), (33, 35, 34), (64, 64, 64), (65, 67, 66), (97, 101, 89),
    (2, 3, 4), (4, 2, 3), (1, 1, 1), (1, 7, 3), (7, 1, 3), (5, 6, 1), (7, 8, 5), (31, 29, 30), (63, 61, 62), (9, 33, 5),
    (33, 9, 5), (3, 200, 5), (200, 3, 5), (3, 5, 200), (0, 3, 2), (3, 0, 2), (3, 2, 0), (2, 1030, 3), (1, 300, 260),
    (300, 1, 260), (128, 128, 128), (129, 131, 127), (257, 263, 269),
]  # fmt: skip
"""(m, n, k): first those that show a mistake best, a square and some that no tile divides; then what tiles and blocks
find hard: 1, primes, one more or less than a power of two, nothing at all."""
SIDES_TO_TIME = (512, 256, 128, 64, 32)


@dataclass(frozen=True)
class Product:
    """out (m, n) = a (m, k) · b (k, n)."""

    m: int
    n: int
    k: int

    axes = ("row", "column")

    def __str__(self) -> str:
        return f"{self.m} x {self.n} x {self.k}"

    @property
    def words(self) -> str:
        return f"m = {self.m}, n = {self.n}, k = {self.k}"

    @property
    def macs(self) -> int:
        return self.m * self.n * self.k

    @property
    def shape(self) -> tuple[int, int]:
        return self.m, self.n

    def operands(self, rng: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Whole numbers are positive, so that no mistake cancels out."""
        shapes = (self.m, self.k), (self.k, self.n)
        if kind == "whole numbers":
            return tuple(rng.integers(1, 9, shape).astype(np.float32) for shape in shapes)
        return tuple(rng.standard_normal(shape, dtype=np.float32) for shape in shapes)

    def wanted(self, inputs: tuple, kind: str) -> tuple[np.ndarray, float, float]:
        """The result in float64, and how far off an element, and all of them together, may be.

        Sums of whole numbers are exact in any order.
        """
        a, b = (matrix.astype(np.float64) for matrix in inputs)
        result = _sum_of_products(a, b)
        if kind == "whole numbers":
            return result, 0.0, np.inf
        terms = np.linalg.norm(_sum_of_products(np.abs(a), np.abs(b)))
        return result, np.inf, float(4 * np.finfo(np.float32).eps * max(self.k, 1) ** 0.5 * terms)

    def mistakes(self, inputs: tuple) -> Iterator[tuple[str, np.ndarray]]:
        """What common mistakes compute."""
        a, b = (matrix.astype(np.float64) for matrix in inputs)
        m, n, k = self.m, self.n, self.k
        right = _sum_of_products(a, b)
        if m == n:
            yield "the result is transposed: out[j, i] is written where out[i, j] is meant", right.T
        if m == k:
            yield "A is read transposed: a[p, i] where a[i, p] is meant", _sum_of_products(a.T, b)
        if n == k:
            yield "B is read transposed: b[j, p] where b[p, j] is meant", _sum_of_products(a, b.T)
        if m == n == k:
            yield "A and B are exchanged: this is b · a", _sum_of_products(b, a)
        if k:
            yield "only the last p counts: out[i, j] = ... where out[i, j] += ... is meant", a[:, -1:] * b[-1:]
            yield "every sum is there twice", 2 * right

    def probe(self, student, place: tuple[int, int]) -> Iterator[str]:
        """Which p are missing from the sum of one element, or are in it twice: each p is tried alone."""
        weights = np.full(self.k, np.nan)
        for p in range(self.k):
            a, b = np.zeros((self.m, self.k), np.float32), np.zeros((self.k, self.n), np.float32)
            a[:, p] = b[p] = 1
            outcome = student((a, b), self.shape, fill=0)
            if outcome.result is None:
                return
            weights[p] = outcome.result[place]
        if self.k and not weights.any():
            yield f"nothing is added up at {list(map(int, place))}: no loop comes there"
            return
        for weight, words in ((0, "missing from"), (2, "twice in")):
            found = np.flatnonzero(weights == weight)
            if len(found):
                end = (
                    " (the end of it: the loop over p stops too early)"
                    if weight == 0 and _is_tail(found, self.k)
                    else ""
                )
                yield f"p = {_list(found)} {_is(found)} {words} the sum over k = {self.k}{end}"


class Products:
    """What a GEMM is checked on."""

    inputs = 2

    def problems(self) -> Iterator[Product]:
        return (Product(*shape) for shape in SHAPES)

    def to_time(self, macs: float) -> list[Product]:
        """Two squares of at most so many multiply-adds, or the smallest there is."""
        return [Product(side, side, side) for side in SIDES_TO_TIME if side**3 <= macs][:2] or [Product(16, 16, 16)]


def _sum_of_products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a · b, one outer product after the other."""
    total = np.zeros((a.shape[0], b.shape[1]))
    for p in range(a.shape[1]):
        total += a[:, p, None] * b[p]
    return total


def _is_tail(found: np.ndarray, length: int) -> bool:
    return len(found) < length and np.array_equal(found, np.arange(length - len(found), length))


def _is(found: np.ndarray) -> str:
    return "is" if len(found) == 1 else "are"


def _list(numbers: np.ndarray) -> str:
    """'3', '4 ... 9', '0, 4, 8 and 5 others'."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} ... {numbers[-1]}"
    first = ", ".join(str(number) for number in numbers[:3])
    return first if len(numbers) <= 3 else f"{first} and {len(numbers) - 3} others"
