"""Arrays for a problem and the answers to them, computed once for all the lowerings that are checked on it."""

from __future__ import annotations

import functools

import numpy as np

from numbaconv.lazy import cached_property
from numbaconv.problem import ConvProblem
from numbaconv.testing.oracle import convolve, sizes_of

__all__ = ["Sample", "sample"]


class Sample:
    """Numbers of a kind: "whole" (so small that every sum of products is exact), "normal", "non-negative" inputs.

    Attributes
    ----------
    x, w, bias, residual : ndarray
        In the problem's dtype; read-only.
    """

    def __init__(self, problem: ConvProblem, seed: int, kind: str):
        self.problem, self.kind = problem, kind
        rng = np.random.default_rng(seed)
        shapes = problem.input_shape, problem.weight_shape, (problem.oc,), problem.output_shape
        self.x, self.w, self.bias, self.residual = (self._draw(rng, shape) for shape in shapes)
        if kind == "non-negative":
            self.x = np.maximum(self.x, 0)
        for array in (self.x, self.w, self.bias, self.residual):
            array.flags.writeable = False

    def _draw(self, rng: np.random.Generator, shape) -> np.ndarray:
        drawn = rng.integers(-3, 4, shape) if self.kind == "whole" else rng.standard_normal(shape)
        return drawn.astype(self.problem.dtype)

    @cached_property
    def product(self) -> np.ndarray:
        """The convolution in float64, without an epilogue."""
        return convolve(self.x, self.w, **sizes_of(self.problem))

    @cached_property
    def direct(self) -> np.ndarray:
        """One running sum in float32: the yardstick of accuracy."""
        return convolve(self.x, self.w, **sizes_of(self.problem), dtype=np.float32)

    @cached_property
    def magnitude(self) -> float:
        """The largest sum of the magnitudes of products."""
        return float(convolve(np.abs(self.x), np.abs(self.w), **sizes_of(self.problem)).max(initial=0.0))


@functools.lru_cache(512)
def sample(problem: ConvProblem, seed: int, kind: str) -> Sample:
    """The arrays of that kind for a problem, the same ones for the same seed."""
    return Sample(problem, seed, kind)
