"""Which way round, how wide, cut into which tasks: the choices of one GEMM, from its shape.

Everything is decided by counting. A tile step costs as many cycles as its busiest unit needs: two multiply-adds,
two loads and four micro-operations fit into one. Packing costs about a cycle for every few elements. The sums are
compared for vectors along n and along m (the product computed transposed) and every tile width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import numpy as np

from numbaconv.gemm.arithmetic import FMA, Arithmetic
from numbaconv.gemm.blocking import Blocking, analytical
from numbaconv.gemm.micro import max_rows, max_vectors
from numbaconv.machine import Machine, detect

PARALLEL_FLOPS = 1_500_000  # below this a second thread costs more than it brings (4 us of hand-over, 140 GF/s a core)
TURNS = 8  # the most tasks a thread does
FETCH_CYCLES = 0.04  # a byte of an operand from beyond L2, the part that prefetching does not hide
UNEVEN = 0.03  # what a busy neighbour costs a thread with a single task
TILE_CYCLES = 60.0  # loop, call and prefetch around one micro-kernel
STORE_CYCLES = {"straight": 4.0, "transposed": 90.0}  # a vector of the tile, into C
COPY_CYCLES, TRANSPOSE_CYCLES = 0.5, 1.2  # an element, packed along the vectors or across
SPLIT_CYCLES = 0.25  # an element, split into parts and scanned
SHARED_CORE = 0.02  # cycles an operation costs beyond its slot: on many machines another thread shares the core
TILE_ROWS, TILE_VECTORS = 32, 2  # of C, in four of the eight tile registers
TILE_PRODUCT = 28.0  # cycles of a product of tiles whose operands are loaded from L2 (16 where they need not be)
DIRECT = 1.10  # what rows of A that lie apart cost the kernel


class Cut(NamedTuple):
    """`length` in so many parts, as equal as can be, the longer first."""

    length: int
    parts: int

    @classmethod
    def of(cls, length: int, most: int) -> Cut:
        """The fewest parts that are at most `most` long."""
        return cls(length, -(-length // most))

    @property
    def longest(self) -> int:
        return -(-self.length // self.parts) if self.parts else 0

    @property
    def shortest(self) -> int:
        return self.length // self.parts if self.parts else 0

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(length, how many parts have it), at most two."""
        if not self.parts:
            return []
        low, longer = divmod(self.length, self.parts)
        found = [(low + 1, longer), (low, self.parts - longer)]
        return [(size, count) for size, count in found if count]

    @property
    def starts(self) -> np.ndarray:
        """Where each part begins, and the length."""
        if not self.parts:
            return np.zeros(1, np.int64)
        low, longer = divmod(self.length, self.parts)
        numbers = np.arange(self.parts + 1, dtype=np.int64)
        return numbers * low + np.minimum(numbers, longer)


@dataclass(frozen=True)
class Schedule:
    """The choices for one product, in the kernel's orientation (`swap`: the transposed product is computed)."""

    swap: bool
    blocking: Blocking
    a_cut: Cut  # A's rows into panels
    b_cut: Cut  # B's vectors of columns into panels
    m_tasks: int
    n_tasks: int
    share_a: bool
    share_b: bool
    threads: int
    lanes: int
    direct: bool = False  # the kernel's A is read where it lies
    cycles: float = field(default=0.0, compare=False)  # what one core should take
    arithmetic: Arithmetic = FMA
    plain: Schedule | None = None  # of the same product in float32, where `arithmetic` is another

    def __post_init__(self):
        # Computed once: schedules are part of the key of every call's plan.
        object.__setattr__(
            self, "_hash", hash(tuple(getattr(self, part.name) for part in fields(self) if part.compare))
        )

    def __hash__(self) -> int:
        return self._hash


def tile_cycles(mr: int, nv: int) -> float:
    """Cycles of one step of k of a tile."""
    operations = mr * nv + mr + 2 * nv + 4
    return max(mr * nv / 2, (mr + nv) / 2, operations / 4) + operations * SHARED_CORE


def _step_cycles(mr: int, nv: int, arithmetic: Arithmetic) -> float:
    """Cycles of one step, whatever the arithmetic."""
    if arithmetic.tiles:
        return -(-mr // 16) * nv * arithmetic.products * TILE_PRODUCT
    return max(1, arithmetic.products) * tile_cycles(mr, nv)


def _compute_cycles(a_cut: Cut, b_cut: Cut, k, kc, transposed, arithmetic: Arithmetic) -> float:
    """Cycles of all tiles of a product on one core."""
    blocks = -(-k // kc)
    total = 0.0
    for mr, rows in a_cut.sizes:
        for nv, panels in b_cut.sizes:
            store = mr * nv * STORE_CYCLES["transposed" if transposed else "straight"]
            total += rows * panels * (k * _step_cycles(mr, nv, arithmetic) + blocks * (TILE_CYCLES + store))
    return total


@dataclass(frozen=True)
class Operands:
    """What the choice depends on besides the sizes.

    ``a_packed``/``b_packed``: packed before, costs nothing now. ``a_rows``/``b_rows``: the operand's elements are
    contiguous along k (A) or along n (B), as in a row-major matrix. ``c_rows``: so are those of C's rows.
    ``a_direct``/``b_direct``: a promise that the operand is a matrix in memory, contiguous along k, with axes of one
    level, which may be read where it lies instead of being packed.
    """

    a_packed: bool = False
    b_packed: bool = False
    a_rows: bool = True
    b_rows: bool = True
    c_rows: bool = True
    a_direct: bool = False
    b_direct: bool = False


def schedule(
    m: int,
    n: int,
    k: int,
    dtype: np.dtype,
    threads: int,
    operands: Operands,
    blocking: Blocking | None = None,
    fixed: Schedule | None = None,
    arithmetic: Arithmetic = FMA,
    swap: bool | None = None,
) -> Schedule:
    """Choose for a product of m x k by k x n on at most `threads` threads.

    `blocking` overrides the model (and computes the product as it stands, not transposed); `fixed` is the schedule
    that an operand was packed for, whose orientation and panels hold; `swap` is the orientation, where that is settled.
    """
    machine, size = detect(), arithmetic.step_bytes(dtype.itemsize)
    steps, splitting = -(-k // arithmetic.depth), SPLIT_CYCLES * arithmetic.parts if arithmetic.split else 0.0
    threads = 1 if 2.0 * m * n * k < PARALLEL_FLOPS else threads
    best, best_cycles = None, np.inf
    for swapped, nv, given, direct in _candidates(machine, dtype, blocking, fixed, operands):
        if swapped != (swapped if swap is None else swap) or (direct and arithmetic.split):
            continue
        if arithmetic.tiles and nv > TILE_VECTORS:
            continue
        rows, columns = (n, m) if swapped else (m, n)
        a, b = _sides(operands)[:: -1 if swapped else 1]
        tall = TILE_ROWS if arithmetic.tiles else None
        chosen = given or analytical(rows, columns, steps, dtype, nv, machine, direct, size, tall)
        lanes = machine.lanes(dtype)
        height = min(chosen.mr, tall or max_rows(nv, machine.vector_registers, direct))
        a_cut, b_cut = Cut.of(rows, height), Cut.of(-(-columns // lanes), chosen.nr // lanes)
        if fixed:
            a_cut, b_cut = (fixed.a_cut, b_cut) if a.packed else (a_cut, fixed.b_cut)
        cycles = _compute_cycles(a_cut, b_cut, steps, chosen.kc, swapped == operands.c_rows, arithmetic)
        cycles *= DIRECT if direct else 1.0
        for side, length in ((a, 0 if direct else rows), (b, columns)):
            copying = (TRANSPOSE_CYCLES if side.along_k else COPY_CYCLES) + splitting
            cycles += 0 if side.packed else length * k * copying
        if cycles < best_cycles:
            best = Schedule(swapped, chosen, a_cut, b_cut, 1, 1, a.packed, b.packed, threads, lanes, direct, cycles,
                            arithmetic)  # fmt: skip
            best_cycles = cycles
    return _with_tasks(best, size)


class _Side(NamedTuple):
    """An operand, as the kernel's A or B alike."""

    packed: bool
    along_k: bool
    direct: bool


def _sides(operands: Operands) -> tuple[_Side, _Side]:
    return (
        _Side(operands.a_packed, operands.a_rows, operands.a_direct and not operands.a_packed),
        _Side(operands.b_packed, not operands.b_rows, operands.b_direct and not operands.b_packed),
    )


def _candidates(machine: Machine, dtype, blocking, fixed, operands):
    """(swap, vectors, blocking or None, whether A is read where it lies) of everything worth counting."""
    if blocking:
        yield False, blocking.nr // machine.lanes(dtype), blocking.validate(dtype, machine), False
        return
    for swap in (fixed.swap,) if fixed else (False, True):
        a = _sides(operands)[swap]
        for direct in (False, True) if a.direct else (False,):
            if fixed:
                yield swap, fixed.blocking.nr // machine.lanes(dtype), fixed.blocking, direct
                continue
            for nv in range(1, max_vectors(machine.vector_registers) + 1):
                yield swap, nv, None, direct


def _with_tasks(plan: Schedule, itemsize: int) -> Schedule:
    """Cut the product into tasks: balanced over the threads, with nothing packed twice."""
    m_tasks, n_tasks = _grid(plan, itemsize)
    # An axis that is cut has its operand packed by its tasks; what is needed more than once is packed before, by all.
    columns = -(-plan.b_cut.parts // n_tasks) * max(1, plan.b_cut.longest)
    b_blocks = -(-columns // max(1, plan.blocking.nc // plan.lanes))
    return replace(
        plan,
        threads=1 if m_tasks * n_tasks == 1 else plan.threads,
        m_tasks=m_tasks,
        n_tasks=n_tasks,
        share_a=not plan.direct and (plan.share_a or n_tasks > 1 or b_blocks > 1),
        share_b=plan.share_b or m_tasks > 1,
    )


def _grid(plan: Schedule, itemsize: int) -> tuple[int, int]:
    """Into how many tasks m and n are cut: the shortest time for the slowest thread.

    A task fetches its part of both operands, so square parts are best; several turns a thread even out neighbours.
    """
    rows, panels, threads = plan.a_cut.parts, plan.b_cut.parts, plan.threads
    if threads == 1:
        return 1, 1
    height, width = plan.a_cut.length / rows, plan.b_cut.length * plan.lanes / panels
    best, least = (1, 1), np.inf
    for m_tasks in range(1, min(rows, threads * TURNS) + 1):
        for n_tasks in range(1, min(panels, threads * TURNS) + 1):
            turns = -(-m_tasks * n_tasks // threads)
            if turns > TURNS:
                break
            m, n = -(-rows // m_tasks) * height, -(-panels // n_tasks) * width
            step = m * n / (2 * plan.lanes) + (m + n) * itemsize * FETCH_CYCLES
            cost = turns * step * (1 + UNEVEN / turns)
            if cost < least:
                best, least = (m_tasks, n_tasks), cost
    return best
