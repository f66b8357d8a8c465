"""What a benchmark row is made of: contenders, and the check each must pass before it is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from numbaconv.problem import ConvProblem

__all__ = ["Contender", "Reference", "WrongResult", "conv_reference", "gemm_reference", "normal"]


@dataclass(frozen=True)
class Contender:
    """One library's way to compute a row.

    Parameters
    ----------
    name : str
    call : callable
        What is timed: everything converted and allocated beforehand that a careful user would.
    result : callable
        Computes once more, and returns the result as a NumPy array in the order of the reference.
    stages : dict of str to list of float
        Seconds of each stage of each call, for who keeps a record.
    """

    name: str
    call: Callable[[], object]
    result: Callable[[], NDArray]
    stages: dict[str, list[float]] = field(default_factory=dict)


class WrongResult(ArithmeticError):
    """A contender's result is too far from the reference; the row is not timed."""


@dataclass(frozen=True)
class Reference:
    """The result in float64, and how far a contender may be from it.

    Parameters
    ----------
    value : array
    scale : array or float
        What an error is measured against, element by element.
    limit : float
        The largest quotient of the two allowed in any element.
    """

    value: NDArray
    scale: NDArray | float
    limit: float

    def check(self, contender: Contender) -> float:
        """The worst element's error over its scale.

        Raises
        ------
        WrongResult
            When it is above the limit, or not a number.
        """
        result = contender.result()
        if result.shape != self.value.shape:
            raise WrongResult(f"{contender.name} returned shape {result.shape}, expected {self.value.shape}")
        error = float(np.max(np.abs(result - self.value) / self.scale, initial=0.0))
        if not error <= self.limit:
            raise WrongResult(f"{contender.name} is wrong: error {error:.3g}, allowed {self.limit:.3g}")
        return error


def normal(shape: tuple[int, ...], dtype: str, seed: int) -> NDArray:
    """Random normal numbers (some units are faster on zeros)."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def gemm_reference(a: NDArray, b: NDArray) -> Reference:
    """a @ b. An element may be off by 4 eps sqrt(k) times the same sum of absolute values."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    unit = np.finfo(a.dtype).eps * np.sqrt(max(a.shape[1], 1))
    return Reference(wide_a @ wide_b, unit * (np.abs(wide_a) @ np.abs(wide_b)) + np.finfo(np.float64).tiny, 4.0)


def conv_reference(problem: ConvProblem, x: NDArray, w: NDArray, bias: NDArray) -> Reference:
    """The convolution, one tap of the kernel at a time.

    An element may be off by 1e-4 (float32) of the result's root mean square: this lets Winograd's larger tiles
    pass and nothing that is wrong.
    """
    p = problem
    pads = ((0, 0), (0, 0), (p.pad_top, p.pad_bottom), (p.pad_left, p.pad_right))
    padded = np.pad(x.astype(np.float64), pads)
    padded = padded.reshape(p.mb, p.g, p.icg, *padded.shape[2:])
    taps = w.astype(np.float64).reshape(p.g, p.ocg, p.icg, p.kh, p.kw)
    out = np.zeros((p.mb, p.g, p.ocg, p.oh * p.ow))
    for r in range(p.kh):
        for s in range(p.kw):
            top, left = r * p.dh, s * p.dw
            rows = slice(top, top + (p.oh - 1) * p.sh + 1, p.sh)
            columns = slice(left, left + (p.ow - 1) * p.sw + 1, p.sw)
            out += taps[..., r, s] @ padded[..., rows, columns].reshape(p.mb, p.g, p.icg, -1)
    value = out.reshape(p.output_shape) + bias.astype(np.float64)[:, None, None]
    rms = float(np.sqrt(np.mean(value**2))) if value.size else 1.0
    return Reference(value, rms, 1e-4 * float(np.finfo(x.dtype).eps / np.finfo(np.float32).eps))
