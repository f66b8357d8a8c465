"""Products with very few columns: inner products at the speed of memory.

A fully-connected layer at batch 1 reads every weight once. Packing would read it, write it and read it again, so A
stays as it lies: ROWS rows of A run along k together, each element of a vector of B serving all of them.

    A (m x k), rows contiguous, is read once at full bandwidth     C (m x n) = A · B,  n <= MOST_COLUMNS
    B (k x n), columns contiguous, stays in L1                      sums: LANES partial sums, added as a tree
"""

from __future__ import annotations

import functools

import numpy as np
from numba import types
from numba.core import cgutils

from numbaconv.devices.threads import parallel
from numbaconv.gemm.call import CALL, FIELD
from numbaconv.gemm.operands import Finish, Matrix
from numbaconv.gemm.record import fill_result
from numbaconv.gemm.schedule import PARALLEL_FLOPS
from numbaconv.gemm.store import tile_store
from numbaconv.jit import Native, intrinsic, native
from numbaconv.machine import detect
from numbaconv.simd import Lanes, const, invoke, load_i64, record_at
from numbaconv.workspace import address_of, round_up

ROWS = 4
MOST_COLUMNS = 4
TASKS_A_THREAD = 4
ROWS_A_TILE = 64
AHEAD = 512  # bytes by which rows are fetched ahead

DOT = np.dtype([(name, np.int64) for name in ("call", "a", "a_step", "b", "b_step", "kernels", "rows_a_task")])
"""A product's record, where A's rows and B's columns lie, and the kernels for ROWS rows and for one."""


@intrinsic(prefer_literal=True)
def _dots(typingctx, itemsize, lanes, fused, rows, columns, k, a, a_step, b, b_step, out, out_step):
    m, n = rows.literal_value, columns.literal_value

    def codegen(context, builder, signature, args):
        k, a, a_step, b, b_step, out, out_step = args[5:]
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value, bool(fused.literal_value))
        unroll = 2 if n == 1 else 1
        a_rows = [v.at(v.pointer(a), builder.mul(a_step, const(i))) for i in range(m)]
        b_columns = [v.at(v.pointer(b), builder.mul(b_step, const(j))) for j in range(n)]
        sums = {(i, j, u): v.variable(v.zero) for i in range(m) for j in range(n) for u in range(unroll)}

        def step(offset, u, read):
            columns = [read(v.at(column, offset)) for column in b_columns]
            for i, row in enumerate(a_rows):
                place = v.at(row, offset)
                v.prefetch(v.at(place, AHEAD))
                values = read(place)
                for j in range(n):
                    cell = sums[i, j, u]
                    builder.store(v.fma(values, columns[j], builder.load(cell)), cell)

        whole = builder.sdiv(k, const(v.lanes * unroll))
        with cgutils.for_range(builder, whole) as loop:
            start = builder.mul(loop.index, const(v.bytes * unroll))
            for u in range(unroll):
                step(builder.add(start, const(u * v.bytes)), u, v.load)
        done = builder.mul(whole, const(v.lanes * unroll))
        for u in range(unroll):
            left = builder.sub(k, builder.add(done, const(u * v.lanes)))
            with builder.if_then(builder.icmp_signed(">", left, const(0))):
                mask = v.first(left)
                place = builder.add(builder.mul(done, const(v.itemsize)), const(u * v.bytes))
                step(place, u, lambda address, mask=mask: v.masked_load(address, mask))
        for i in range(m):
            to = v.at(v.pointer(out), builder.mul(out_step, const(i)))
            for j in range(n):
                total = builder.load(sums[i, j, 0])
                for u in range(1, unroll):
                    total = builder.fadd(total, builder.load(sums[i, j, u]))
                v.store_scalar(v.sum(total), v.at(to, j * v.itemsize))
        return context.get_dummy_value()

    return types.void(itemsize, lanes, fused, rows, columns, k, a, a_step, b, b_step, out, out_step), codegen


@functools.cache
def dot_kernel(itemsize: int, rows: int, columns: int) -> Native:
    """``kernel(k, a, a_step, b, b_step, out, out_step)``: rows x columns inner products of length k."""
    lanes, fused = detect().vector_bits // (8 * itemsize), int(detect().fma)

    @native
    def kernel(k, a, a_step, b, b_step, out, out_step):
        _dots(itemsize, lanes, fused, rows, columns, k, a, a_step, b, b_step, out, out_step)

    return kernel


@native
def dot_task(task, worker, address):
    """Compute the rows of one task, ROWS_A_TILE at a time."""
    dot = record_at(address, DOT)
    call = record_at(dot.call, CALL)
    tile = call.scratch + worker * call.scratch_step
    step = call.n * call.itemsize
    end = min((task + 1) * dot.rows_a_task, call.m)
    for first in range(task * dot.rows_a_task, end, ROWS_A_TILE):
        rows = min(ROWS_A_TILE, end - first)
        i = 0
        while i < rows:
            at_once = ROWS if i + ROWS <= rows else 1
            kernel = load_i64(dot.kernels + 8 * (at_once == 1))
            invoke(
                kernel, (call.k, dot.a + (first + i) * dot.a_step, dot.a_step, dot.b, dot.b_step, tile + i * step, step)
            )
            i += at_once
        invoke(call.store, (dot.call, tile, step, first, rows, 0, call.n, call.accumulate, call.finish))


class DotPlan:
    """C (m x n) = A (m x k) · B (k x n) for n <= MOST_COLUMNS, A's rows and B's columns contiguous.

    With ``swap`` it is the other way round: few rows, and the transposed product is computed.
    """

    def __init__(self, m: int, n: int, k: int, dtype: np.dtype, threads: int):
        self.swap = m < n
        self.rows, self.columns = (n, m) if self.swap else (m, n)
        self.k, self.dtype, self.itemsize = k, np.dtype(dtype), np.dtype(dtype).itemsize
        self.threads = threads if 2.0 * m * n * k >= PARALLEL_FLOPS / 4 else 1
        tasks = self.threads * TASKS_A_THREAD if self.threads > 1 else 1
        self.rows_a_task = -(-(-(-self.rows // tasks)) // ROWS) * ROWS
        self.tasks = -(-self.rows // self.rows_a_task)
        tile = ROWS_A_TILE * self.columns * self.itemsize
        self.tile_bytes = round_up(2 * tile + 8 * 64)
        self.panel_bytes = self.tile_bytes * self.threads
        self._kernels = np.array(
            [dot_kernel(self.itemsize, rows, self.columns).address for rows in (ROWS, 1)], np.int64
        )

    @staticmethod
    def fits(m: int, n: int, a: Matrix, b: Matrix, itemsize: int) -> bool:
        """Whether operands and sizes are of this kind."""
        return min(m, n) <= MOST_COLUMNS and a.columns.step == itemsize and b.rows.step == itemsize

    def run(self, a: Matrix, b: Matrix, c: Matrix, workspace: int, accumulate=False, finish: Finish | None = None):
        """As ``GemmPlan.run``."""
        if self.swap:
            a, b, c, finish = b.transposed, a.transposed, c.transposed, finish.transposed if finish else None
        call = np.zeros(len(FIELD), np.int64)
        for name, value in (("m", self.rows), ("n", self.columns), ("k", self.k), ("itemsize", self.itemsize),
                            ("store", tile_store(self.itemsize).address), ("scratch", workspace),
                            ("scratch_step", self.tile_bytes)):  # fmt: skip
            call[FIELD[name]] = value
        keep = fill_result(call, c, finish, self.dtype)
        call[FIELD["accumulate"]] = accumulate
        dot = np.array([address_of(call), a.address, a.rows.step, b.address, b.columns.step,
                        address_of(self._kernels), self.rows_a_task], np.int64)  # fmt: skip
        parallel(dot_task, self.tasks, address_of(dot), self.threads)
        del keep
