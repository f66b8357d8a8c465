"""The way into the result for tiles that are not a plain block of it.

A result may have any strides, with two levels on each axis (the pixels of a partial output rectangle). Such a tile
is computed into a small buffer and goes from there in contiguous runs, or transposed first when it is the
result's columns that are contiguous, with the same accumulation and epilogue as the micro-kernel's own stores.
"""

from __future__ import annotations

import functools

from numbaconv.gemm.axes import offset, run_left
from numbaconv.gemm.call import CALL
from numbaconv.gemm.copying import finish_run, transpose_block
from numbaconv.jit import Native, native
from numbaconv.machine import detect
from numbaconv.simd import record_at


@functools.cache
def tile_store(itemsize: int) -> Native:
    """The C function ``store(call, tile, tile_step, i, rows, j, columns, accumulate, finish)``.

    `tile` holds `rows` x `columns` sums, rows `tile_step` bytes apart, and behind them has room for its transpose.
    """
    lanes, fused = detect().vector_bits // (8 * itemsize), int(detect().fma)

    @native
    def store(address, tile, tile_step, i, rows, j, columns, accumulate, finish):
        call = record_at(address, CALL)
        along = call.cs_c == itemsize or call.rs_c != itemsize  # runs go along the result's rows
        if along:
            lines, first, inner, step, outer = rows, i, call.row_inner, call.rs_c, call.rs_outer_c
            length, start, run_inner, run_step, run_outer = columns, j, call.col_inner, call.cs_c, call.cs_outer_c
            r_step, r_outer, r_run_step, r_run_outer = call.rs_r, call.rs_outer_r, call.cs_r, call.cs_outer_r
            bias, bias_step, biases, biases_step = call.row_bias, call.row_bias_step, call.col_bias, call.col_bias_step
            source, source_step = tile, tile_step
        else:
            lines, first, inner, step, outer = columns, j, call.col_inner, call.cs_c, call.cs_outer_c
            length, start, run_inner, run_step, run_outer = rows, i, call.row_inner, call.rs_c, call.rs_outer_c
            r_step, r_outer, r_run_step, r_run_outer = call.cs_r, call.cs_outer_r, call.rs_r, call.rs_outer_r
            bias, bias_step, biases, biases_step = call.col_bias, call.col_bias_step, call.row_bias, call.row_bias_step
            source, source_step = tile + rows * tile_step, -(-rows // lanes) * lanes * itemsize
            for ib in range(0, rows, lanes):
                for jb in range(0, columns, lanes):
                    transpose_block(itemsize, lanes, min(lanes, rows - ib), min(lanes, columns - jb),
                                    tile + ib * tile_step + jb * itemsize, tile_step,
                                    source + jb * source_step + ib * itemsize, source_step)  # fmt: skip
        for line in range(lines):
            to_line = call.c + offset(first + line, inner, step, outer)
            residual_line = call.residual + offset(first + line, inner, r_step, r_outer)
            x = start
            while x < start + length:
                run = min(start + length - x, run_left(x, run_inner))
                if run_step != itemsize or (r_run_step != itemsize and r_run_step != 0):
                    run = 1
                finish_run(itemsize, lanes, fused, run, source + line * source_step + (x - start) * itemsize,
                           to_line + offset(x, run_inner, run_step, run_outer), accumulate, finish, call.scalars,
                           bias + (first + line) * bias_step, biases + x * biases_step,
                           residual_line + offset(x, run_inner, r_run_step, r_run_outer))  # fmt: skip
                x += run

    return store
