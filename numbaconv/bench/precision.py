"""How large the errors of bf16's arithmetics are: against float64, beside float32 and TF32, for several kinds of data.

All of it is computed by our GEMM: x1, x3 and x6 by the emulation (``gemm/arithmetic.py``), whose roundings are those of
the instructions; TF32 as float32 products of numbers rounded to 10 bits behind the point. No figure depends on a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbaconv.gemm import Matrix, Operands, gemm_plan
from numbaconv.gemm.arithmetic import FMA, Arithmetic
from numbaconv.teach.photo import photograph
from numbaconv.workspace import checked_out

__all__ = ["ARITHMETICS", "DATA", "DEPTHS", "Row", "measure", "table"]

DEPTHS = (27, 64, 147, 576, 1152, 2304, 4608, 9216)
"""Terms of a sum: from a first layer's 3 x 3 x 3 to AlexNet's first fully-connected layer's."""
SIDE = 96  # rows of A and columns of B


def _tf32(x: NDArray) -> NDArray:
    """The nearest number with 10 bits behind the point, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0xFFF + (bits >> 13 & 1)) & np.uint32(0xFFFFE000)).view(np.float32)


def _product(a: NDArray, b: NDArray, arithmetic: Arithmetic) -> NDArray:
    (m, k), n = a.shape, b.shape[1]
    plan = gemm_plan(m, n, k, a.dtype, 1, Operands(), arithmetic=arithmetic)
    c = np.full((m, n), np.nan, np.float32)
    with checked_out(plan.panel_bytes) as arena:
        plan.run(Matrix.of(a), Matrix.of(b), Matrix.of(c), arena.address)
    return c


def _emulated(products: int) -> Callable[[NDArray, NDArray], NDArray]:
    return lambda a, b: _product(a, b, Arithmetic(products, "emulated", forced=True))


ARITHMETICS: dict[str, Callable[[NDArray, NDArray], NDArray]] = {
    "bf16": _emulated(1), "TF32": lambda a, b: _product(_tf32(a), _tf32(b), FMA), "bf16x3": _emulated(3),
    "float32": lambda a, b: _product(a, b, FMA), "bf16x6": _emulated(6),
}  # fmt: skip


def _log_uniform(rng, shape) -> NDArray:
    return rng.choice([-1.0, 1.0], shape) * 10 ** rng.uniform(-9, 9, shape)


def _image(rng, shape) -> NDArray:
    """Rows of so many neighbouring values of a photograph."""
    values = photograph().reshape(-1) / 255.0
    starts = rng.integers(0, len(values) - shape[1], shape[0])
    return np.stack([values[start : start + shape[1]] for start in starts])


def _normal(rng, shape) -> NDArray:
    return rng.standard_normal(shape)


DATA: dict[str, tuple[Callable, Callable]] = {
    "normal": (_normal, _normal),
    "non-negative": (lambda rng, shape: abs(_normal(rng, shape)),) * 2,
    "log-uniform, 1e-9 to 1e9": (_log_uniform, _log_uniform),
    "a photograph, normal weights": (_image, _normal),
}
"""What A and B hold."""


class Row(NamedTuple):
    """Errors of one arithmetic: in the norm, relative; and of the worst element, relative to its sum of magnitudes."""

    data: str
    k: int
    arithmetic: str
    norm: float
    worst: float


def measure(depths: Sequence[int] = DEPTHS, data: Sequence[str] = tuple(DATA), seed: int = 0) -> Iterator[Row]:
    """Every arithmetic's errors, on the same numbers."""
    for kind in data:
        for k in depths:
            rng = np.random.default_rng(seed)
            make_a, make_b = DATA[kind]
            a = make_a(rng, (SIDE, k)).astype(np.float32)
            b = np.ascontiguousarray(make_b(rng, (SIDE, k)).astype(np.float32).T)
            exact = a.astype(float) @ b.astype(float)
            magnitudes = abs(a).astype(float) @ abs(b).astype(float)
            for name, multiply in ARITHMETICS.items():
                error = abs(multiply(a, b) - exact)
                norm = float(np.linalg.norm(error) / np.linalg.norm(exact))
                yield Row(kind, k, name, norm, float((error / magnitudes).max()))


def table(rows: Sequence[Row]) -> str:
    """Markdown: for each kind of data the largest errors over all depths, in the norm and of the worst element."""
    lines = ["| numbers | " + " | ".join(ARITHMETICS) + " |", "|---" * (1 + len(ARITHMETICS)) + "|"]
    for kind in dict.fromkeys(row.data for row in rows):
        cells = []
        for name in ARITHMETICS:
            of = [row for row in rows if (row.data, row.arithmetic) == (kind, name)]
            cells.append(f"{max(row.norm for row in of):.1e} / {max(row.worst for row in of):.1e}")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
