"""Random data in a problem's own dtype, and results checked at some elements: for layers too large to check whole."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbaconv.bench.contender import Contender, Reference, WrongResult
from numbaconv.lift import LIMITS
from numbaconv.problem import ConvProblem

__all__ = ["SAMPLES", "random_normal", "reference_of", "spot_check"]

SAMPLES = 64
"""Elements of a result that are looked at."""


def random_normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> NDArray:
    """Normally distributed numbers, made in `dtype`: a network's weights in float64 would not fit everywhere."""
    return rng.standard_normal(shape, dtype=dtype)


def reference_of(exact: NDArray, dtype: str, activation: str | None = None) -> Reference:
    """What a result is held against: errors in root mean squares of `exact` (before the activation).

    1e-4 is allowed (float64: 1.9e-13): Winograd's larger tiles pass, and nothing that is wrong.
    """
    scale = float(np.sqrt(np.mean(exact**2))) or 1.0
    limit = 1e-4 * float(np.finfo(dtype).eps / np.finfo(np.float32).eps)
    return Reference(np.clip(exact, *LIMITS[activation]), scale, limit)


def spot_check(
    problem: ConvProblem,
    x: NDArray,
    w: NDArray,
    bias: NDArray | None,
    activation: str | None,
    out: NDArray,
    samples: int = SAMPLES,
    name: str = "",
) -> float:
    """Compare some elements of a result, first and last among them, with float64 sums; no element may be NaN.

    Parameters
    ----------
    problem : ConvProblem
    x, w, out : array
        (mb, ic, ih, iw), (oc, ic/g, kh, kw), (mb, oc, oh, ow).
    bias : array (oc,), optional
    activation : {None, "relu", "relu6"}
    samples : int
    name : str
        Of whose result it is, for the message; the problem's text unless given.

    Returns
    -------
    float
        The worst error, in the unit of ``reference_of``.

    Raises
    ------
    WrongResult
    """
    if not np.isfinite(out).all():
        raise WrongResult(f"{name or problem}: the result has elements that were not written, or are not finite")
    rng = np.random.default_rng(0)
    places = [tuple(int(rng.integers(n)) for n in out.shape) for _ in range(samples)]
    places[:2] = [(0,) * 4, tuple(n - 1 for n in out.shape)]
    exact = np.array([_element(problem, x, w, place) for place in places])
    if bias is not None:
        exact += bias[[place[1] for place in places]]
    got = np.array([out[place] for place in places])
    result = Contender(name or str(problem), lambda: None, lambda: got)
    return reference_of(exact, problem.dtype, activation).check(result)


def _element(p: ConvProblem, x: NDArray, w: NDArray, place: tuple[int, ...]) -> float:
    """One element of the convolution, in float64."""
    n, o, i, j = place
    rows = i * p.sh - p.pad_top + p.dh * np.arange(p.kh)
    columns = j * p.sw - p.pad_left + p.dw * np.arange(p.kw)
    r, s = (np.flatnonzero((at >= 0) & (at < most)) for at, most in ((rows, p.ih), (columns, p.iw)))
    first = o // p.ocg * p.icg
    patch = x[n, first : first + p.icg][:, rows[r][:, None], columns[s]]
    return float(np.sum(patch.astype(np.float64) * w[o][:, r[:, None], s]))
