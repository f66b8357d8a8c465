"""A thread's tile of sums in registers: the words that multiply into it and read it. ``intrinsics`` hands them out."""

from __future__ import annotations

import functools

import numpy as np
from llvmlite import ir
from numba import types

from numbaconv.devices.emit import I32, MEMORY, instruction, vector_of
from numbaconv.jit_cuda import Word

int32, void = types.int32, types.void


def _spread(count: int, group: int, step: int) -> list[int]:
    """Where `count` rows are that come in groups, `step` apart."""
    return [step * (i // group) + i % group for i in range(count)]


@functools.cache
def multiply_tile(
    bk: int,
    pitch_m: int,
    pitch_n: int,
    mr: int,
    nr: int,
    step_m: int,
    step_n: int,
    itemsize: int = 4,
    group_m: int | None = None,
    group_n: int | None = None,
) -> Word:
    """The word ``multiply(shared_a, i, shared_b, j, sums)``: one thread's share of one k-tile.

    ::

        for p in range(bk):  # outer products, all in registers
            sums[mr x nr] += column p of A's tile (mr values) x row p of B's tile (nr values)

    The tiles lie in shared memory as bk rows of bm and of bn elements, `pitch_m` and `pitch_n` apart. Of its `mr` rows
    a thread has `group_m` (V = ``16 // itemsize`` unless told) in a row at `i`, as many at ``i + step_m``, and so on,
    and likewise for its columns. Each V are one 128-bit load; smaller groups, which divide V, are one shorter load.
    Written out as a whole because neither Numba nor NVVM unrolls a loop nest of this size, and `sums` must stay in
    registers. float32's twin rounds once, as the device does; float64's rounds products, too.
    """
    group_m, group_n = group_m or vector_of(itemsize), group_n or vector_of(itemsize)
    width_m, width_n = min(group_m, vector_of(itemsize)), min(group_n, vector_of(itemsize))
    if mr % group_m or nr % group_n or group_m % width_m or group_n % width_n:
        raise ValueError(f"{mr} x {nr} sums in groups of {group_m} x {group_n}")
    rows, columns = _spread(mr, group_m, step_m), _spread(nr, group_n, step_n)

    def twin(thread, shared_a, i, shared_b, j, sums):
        # In float64 products of float32 are exact: one rounding.
        a = shared_a.gather(i, pitch_m, bk, rows, width_m).astype(np.float64)
        b = shared_b.gather(j, pitch_n, bk, columns, width_n).astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            products = (a[:, :, None] * b[:, None, :]).reshape(bk, -1)
            total = sums.values
            for p in range(bk):
                np.add(total, products[p], out=total, casting="same_kind")

    @instruction(void, MEMORY, int32, MEMORY, int32, MEMORY, twin=twin, itemsize=itemsize)
    def multiply(emit, shared_a, i, shared_b, j, sums):
        column, row = emit.at(shared_a, i), emit.at(shared_b, j)

        def fragments(p):
            a = [v for q in rows[::width_m] for v in emit.load(emit.at(column, p * pitch_m + q), width_m)]
            b = [v for q in columns[::width_n] for v in emit.load(emit.at(row, p * pitch_n + q), width_n)]
            return a, b

        cells = [emit.at(sums, number) for number in range(mr * nr)]
        total = [emit.builder.load(cell) for cell in cells]
        coming = fragments(0)
        for p in range(bk):
            a, b = coming
            if p + 1 < bk:  # loads run one step ahead of their use
                coming = fragments(p + 1)
            for r in range(mr):
                # To and fro, so that neighbouring instructions share operands (the register file's reuse cache).
                for s in range(nr) if r % 2 == 0 else reversed(range(nr)):
                    total[r * nr + s] = emit.builder.fma(a[r], b[s], total[r * nr + s])
        for value, cell in zip(total, cells, strict=True):
            emit.builder.store(value, cell)

    return multiply


@functools.cache
def take_row(mr: int, nr: int, itemsize: int = 4) -> Word:
    """The word ``take(sums, i, line)``: ``line[:] = sums[i * nr : (i + 1) * nr]``, for an `i` known only at run time.

    An array that is indexed by a variable lies in memory; here a jump picks the registers.
    """

    def twin(thread, sums, i, line):
        line.values[:] = sums.values[thread.within(i, 0, mr - 1) * nr :][:nr]

    @instruction(void, MEMORY, int32, MEMORY, twin=twin, itemsize=itemsize)
    def take(emit, sums, i, line):
        builder = emit.builder
        end = builder.append_basic_block("taken")
        jump = builder.switch(i, end)
        for row in range(mr):
            case = builder.append_basic_block(f"row{row}")
            jump.add_case(ir.Constant(I32, row), case)
            builder.position_at_end(case)
            for column in range(nr):
                builder.store(builder.load(emit.at(sums, row * nr + column)), emit.at(line, column))
            builder.branch(end)
        builder.position_at_end(end)

    return take
