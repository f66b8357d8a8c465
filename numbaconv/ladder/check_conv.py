"""Convolutions to check a step of the conv ladder with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from numbaconv.problem import ConvProblem
from numbaconv.testing.oracle import convolve, mistakes, sizes_of

__all__ = ["Convolution", "Convolutions"]

SIZES = [
    (1, 1, 4, 4, 1, 3, 3, 1, 0), (1, 2, 5, 6, 3, 3, 3, 1, 1), (2, 3, 6, 5, 4, 1, 1, 1, 0), (1, 1, 1, 1, 1, 1, 1, 1, 0),
    (1, 2, 7, 6, 3, 3, 3, 2, 1), (2, 3, 8, 9, 5, 2, 3, 1, 1), (1, 3, 9, 11, 2, 5, 5, 2, 2),
    (1, 4, 11, 7, 3, 3, 3, 3, 0), (1, 5, 3, 3, 7, 3, 3, 1, 0), (3, 1, 13, 5, 2, 3, 1, 1, 2),
    (1, 8, 17, 19, 9, 3, 3, 1, 1), (1, 3, 23, 25, 8, 7, 7, 4, 3), (2, 16, 14, 14, 17, 3, 3, 1, 1),
    (1, 33, 14, 15, 35, 3, 3, 1, 1),
]  # fmt: skip
"""(mb, ic, ih, iw, oc, kh, kw, stride, padding)."""
TO_TIME = [(1, 64, 56, 56, 64, 3, 3, 1, 1), (1, 16, 28, 28, 16, 3, 3, 1, 1), (1, 4, 14, 14, 4, 3, 3, 1, 1)]


@dataclass(frozen=True)
class Convolution:
    """out (mb, oc, oh, ow) of x (mb, ic, ih, iw) and w (oc, ic, kh, kw)."""

    mb: int
    ic: int
    ih: int
    iw: int
    oc: int
    kh: int
    kw: int
    stride: int
    padding: int

    axes = ("image", "output channel", "row", "column")

    def __str__(self) -> str:
        return str(self.problem)

    @property
    def words(self) -> str:
        x, w = self._shapes
        return f"x {x}, w {w}, stride {self.stride}, padding {self.padding}"

    @property
    def _shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.mb, self.ic, self.ih, self.iw), (self.oc, self.ic, self.kh, self.kw)

    @property
    def problem(self) -> ConvProblem:
        return ConvProblem.from_arrays(
            *(np.empty(shape, np.float32) for shape in self._shapes), self.stride, self.padding
        )

    @property
    def macs(self) -> int:
        return self.problem.macs

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mb, self.oc, self.problem.oh, self.problem.ow

    def operands(self, rng: np.random.Generator, kind: str) -> tuple:
        """Whole numbers are positive, so that no mistake cancels out."""
        if kind == "whole numbers":
            x, w = (rng.integers(1, 9, shape).astype(np.float32) for shape in self._shapes)
        else:
            x, w = (rng.standard_normal(shape, dtype=np.float32) for shape in self._shapes)
        return x, w, self.stride, self.padding

    def wanted(self, inputs: tuple, kind: str) -> tuple[np.ndarray, float, float]:
        """The result in float64, and how far off an element, and all of them together, may be.

        Winograd's transforms divide, so sums of whole numbers need only be nearer to the right one than to the next;
        and their error is several times that of a plain sum.
        """
        x, w = inputs[:2]
        result = convolve(x, w, **sizes_of(self.problem))
        if kind == "whole numbers":
            return result, 0.25, np.inf
        terms = np.linalg.norm(convolve(np.abs(x), np.abs(w), **sizes_of(self.problem)))
        return result, np.inf, float(16 * np.finfo(np.float32).eps * (self.ic * self.kh * self.kw) ** 0.5 * terms)

    def mistakes(self, inputs: tuple) -> Iterator[tuple[str, np.ndarray]]:
        """What common mistakes compute."""
        return mistakes(self.problem, *inputs[:2])

    def probe(self, student, place) -> Iterator[str]:
        return iter(())


class Convolutions:
    """What a convolution is checked on."""

    inputs = 4

    def problems(self) -> Iterator[Convolution]:
        return (Convolution(*sizes) for sizes in SIZES)

    def to_time(self, macs: float) -> list[Convolution]:
        """The largest of at most so many multiply-adds, or the smallest."""
        candidates = [Convolution(*sizes) for sizes in TO_TIME]
        return [one for one in candidates if one.macs <= macs][:1] or candidates[-1:]
