"""Which plan computes a product of these arrays, and the short way to it for the plainest of calls."""

from __future__ import annotations

import functools

import numpy as np

from numbaconv.errors import ShapeError
from numbaconv.gemm import Axis, GemmPlan, Matrix, Operands, PackedMatrix, gemm_plan
from numbaconv.gemm.arithmetic import FMA, Arithmetic
from numbaconv.gemm.bound import BoundGemm
from numbaconv.gemm.dot import DotPlan
from numbaconv.workspace import address_of, checked_out

NATIVE = (np.dtype(np.float32), np.dtype(np.float64))


def run_bound(a, b, out, threads: int, arithmetic: Arithmetic = FMA) -> bool:
    """The short way for matrices that ask for no more than C = A · B; False when anything is out of the ordinary."""
    if type(out) is not np.ndarray or not out.flags.carray or out.ndim != 2 or out.dtype not in NATIVE:
        return False
    signature: list[tuple] = []
    addresses: list[int] = []
    for operand in (a, b):
        if type(operand) is PackedMatrix:
            packed = admitted(operand, arithmetic)
            signature.append(packed.kind)
            addresses.append(packed.address)
        elif type(operand) is np.ndarray and operand.ndim == 2 and operand.flags.aligned and operand.dtype == out.dtype:
            if np.may_share_memory(operand, out):
                return False
            signature.append((operand.shape, operand.strides))
            addresses.append(address_of(operand))
        else:
            return False
    bound = _bound(signature[0], signature[1], out.shape, out.dtype, threads, arithmetic)
    if bound is None:
        return False
    with checked_out(bound.panel_bytes) as arena:
        bound(addresses[0], addresses[1], address_of(out), arena.address)
    return True


@functools.lru_cache(1024)
def _bound(a, b, shape, dtype, threads: int, arithmetic: Arithmetic) -> BoundGemm | None:
    """The bound product of operands that are described by shape and strides, or packed; None: not by this way."""
    (m, k), (k_of_b, n) = a[0], b[0]
    if k != k_of_b or (m, n) != shape or 0 in (m, n, k):
        return None
    left, right = _described(a), _described(b)
    for side, operand in (("a", left), ("b", right)):
        if isinstance(operand, PackedMatrix) and (operand.operand, operand.dtype) != (side, dtype):
            return None
    c = Matrix(0, Axis(n * dtype.itemsize), Axis(dtype.itemsize))
    plan = plan_for(m, n, k, dtype, threads, left, right, c, None, arithmetic)
    return BoundGemm(plan, left, right, c) if isinstance(plan, GemmPlan) else None


def _described(signature) -> Matrix | PackedMatrix:
    """An operand of that description, without memory."""
    if len(signature) == 2:
        rows, columns = signature[1]
        return Matrix(0, Axis(rows), Axis(columns))
    shape, operand, dtype, schedule = signature
    return PackedMatrix(operand, shape, dtype, np.empty(0, np.uint8), schedule)


def admitted(packed: PackedMatrix, arithmetic: Arithmetic) -> PackedMatrix:
    """A packed operand as an arithmetic may use it: its float32 panels, where it was split for a coarser one."""
    coarser = packed.schedule.arithmetic.split and packed.schedule.arithmetic != arithmetic
    return packed.plain if coarser and packed.plain else packed


def plan_for(m, n, k, dtype, threads, a, b, c, blocking, arithmetic: Arithmetic = FMA):
    """The plan for these operands: inner products for few columns, panels otherwise."""
    size = dtype.itemsize
    if blocking is not None and PackedMatrix in (type(a), type(b)):
        raise ShapeError("blocking: a prepacked operand keeps the blocks it was packed for; pass the plain array")
    if type(a) is PackedMatrix:
        if type(b) is PackedMatrix:
            raise ShapeError("gemm: only one operand may be prepacked")
        kinds, fixed = (True, False, True, b.columns.step == size, False, b.rows.step == size), a.schedule
    elif type(b) is PackedMatrix:
        kinds, fixed = (False, True, a.columns.step == size, True, a.columns.step == size, False), b.schedule
    elif blocking is None and DotPlan.fits(m, n, a, b, size):
        return _dot_plan(m, n, k, dtype, threads)
    else:
        a_direct, b_direct = a.columns.step == size, b.rows.step == size
        kinds, fixed = (False, False, a_direct, b.columns.step == size, a_direct, b_direct), None
    return _gemm_plan(m, n, k, dtype, threads, *kinds, c.columns.step == size, blocking, fixed, arithmetic)


@functools.lru_cache(1024)
def _gemm_plan(
    m, n, k, dtype, threads, a_packed, b_packed, a_rows, b_rows, a_direct, b_direct, c_rows, blocking, fixed, arithmetic
):
    operands = Operands(a_packed, b_packed, a_rows, b_rows, c_rows, a_direct, b_direct)
    return gemm_plan(m, n, k, dtype, threads, operands, blocking, fixed, arithmetic)


_dot_plan = functools.lru_cache(256)(DotPlan)
