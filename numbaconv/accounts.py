"""The products of a lowering: which plans run them, and what scratch they need; declared and run from one place."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from numbaconv.gemm import GemmPlan, Operands, PackedMatrix, Schedule, Source, gemm_plan
from numbaconv.gemm.arithmetic import FMA, Arithmetic, arithmetic_for
from numbaconv.problem import ConvProblem
from numbaconv.request import Request
from numbaconv.workspace import ALIGNMENT, round_up


@dataclass(frozen=True)
class GemmCall:
    """One product that a lowering issues: C (m x n) += A (m x k) · B (k x n), `count` times.

    On a GPU each of them is `batch` products in one launch, and `split` says whether parts of k may be added up apart.
    """

    m: int
    n: int
    k: int
    count: int = 1
    operands: Operands = Operands()  # noqa: RUF009 - frozen
    batch: int = 1
    split: bool = True

    @property
    def macs(self) -> int:
        return self.m * self.n * self.k * self.batch * self.count

    @property
    def weights(self) -> tuple[int, int] | None:
        """(output channels, terms of a sum) of the operand that is packed before; None where none is."""
        if self.operands.a_packed:
            return self.m, self.k
        return (self.n, self.k) if self.operands.b_packed else None


@functools.lru_cache(4096)
def product_plan(m, n, k, dtype: str, threads: int, operands: Operands, fixed: Schedule | None,
                 arithmetic: Arithmetic = FMA) -> GemmPlan:  # fmt: skip
    return gemm_plan(m, n, k, np.dtype(dtype), threads, operands, None, fixed, arithmetic)


def operands_of(a, b, c) -> Operands:
    """How operands lie: packed or not, contiguous along which axis."""

    def contiguous_rows(x):
        return x.strides[1] == x.itemsize or x.strides[0] != x.itemsize

    return Operands(
        isinstance(a, PackedMatrix),
        isinstance(b, PackedMatrix),
        isinstance(a, PackedMatrix | Source) or contiguous_rows(a),
        isinstance(b, PackedMatrix | Source) or contiguous_rows(b),
        contiguous_rows(c),
    )


def plan_of(call: GemmCall, problem: ConvProblem, request: Request, fixed: Schedule | None = None) -> GemmPlan:
    """The plan of a product; where an operand is packed, it keeps to what that was packed for, `fixed`."""
    packed = call.operands.a_packed or call.operands.b_packed
    kept = fixed if packed else None
    arithmetic = arithmetic_for(request.precision, problem.dtype)
    return product_plan(call.m, call.n, call.k, problem.dtype, request.num_threads, call.operands, kept, arithmetic)


def panels_of(calls: list[GemmCall], problem: ConvProblem | None, request: Request) -> int:
    """Bytes of panels of the largest of some products; weights are packed for the first that uses their like."""
    most = 0
    for call in calls:
        if call.macs and problem:
            fixed = weights_plan(calls, *call.weights, problem, request).schedule if call.weights else None
            most = max(most, plan_of(call, problem, request, fixed).panel_bytes)
    return most


def weights_plan(calls: list[GemmCall], channels: int, k: int, problem: ConvProblem, request: Request) -> GemmPlan:
    """The plan that weights of so many output channels and so many terms are packed for: the first product's.

    `calls` hold such a product, if only with a count of 0.
    """
    return plan_of(next(call for call in calls if call.weights == (channels, k)), problem, request)


def arena_bytes(lowering_bytes: int, panel_bytes: int, slices: int = 8) -> int:
    """What an arena must hold for both, each slice on a cache line of its own."""
    return round_up(lowering_bytes + panel_bytes) + slices * ALIGNMENT


def count_bytes(prepared: Any) -> int:
    """Bytes kept by prepared weights: arrays, packed matrices, and lists of them."""
    if isinstance(prepared, list | tuple):
        return sum(map(count_bytes, prepared))
    if isinstance(prepared, dict):
        return sum(map(count_bytes, prepared.values()))
    return int(getattr(prepared, "nbytes", 0))
