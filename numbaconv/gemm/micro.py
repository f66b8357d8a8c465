"""The micro-kernel: a tile of C in registers, one step of k at a time.

              b panel  [kc][nv vectors]                 mr x nv accumulators stay in registers for all of kc.
              ┌──────────────┐                          A step loads nv vectors of b and, one by one, mr elements
              │ → → → → → →  │ k                        of a, each broadcast and used nv times:
              └──────────────┘                          mr·nv fused multiply-adds for mr + nv loads.
    a panel   ┌──────────────┐
    [kc][mr]  │ c  mr x nr   │                          Both panels are read in order, and fetched PREFETCH
      k →     │              │                          steps ahead: panels that outgrow L1 stream from L2.
              └──────────────┘

A may also be read where it lies, if its rows are contiguous: `mr` streams that the hardware fetches ahead by itself.
That costs a few percent in the loop and saves packing A altogether.

Contract of the C function (every argument int64; addresses and strides in bytes):

    kernel(kc, a, rs_a, b, c, rs_c, last, accumulate, finish, scalars, row_bias, row_bias_step, col_bias,
           residual, rs_residual)

* c[i, j] = sum over kc of a[i, p] * b[p, j]; plus what c holds if `accumulate`. `a` is a packed panel (`rs_a` unused),
  or, for a *direct* kernel, the first of mr rows `rs_a` apart.
* the last vector of each row has `last` valid lanes; nothing beyond them is read or written.
* if `finish`: c = clamp(alpha * c + row_bias[i] + col_bias[j] + residual[i, j], low, high), with
  scalars = alpha, low, high. An absent term points at zeros (its step is 0), so there is nothing to branch on.

With bf16 arithmetic a step is one of pairs (``pairs.py``): both panels hold, for every step, each part of the operand
in turn, 4 bytes for every row or column, and a fused multiply-add gives way to the chain of the parts' products.

Two steps of k are emitted at a time only where registers are left: otherwise LLVM hoists broadcasts until accumulators
spill.
"""

from __future__ import annotations

import functools

from numba import types
from numba.core import cgutils

from numbaconv.gemm.arithmetic import FMA, Arithmetic
from numbaconv.gemm.pairs import Pairs
from numbaconv.gemm.tiles import EmulatedTiles, Tiles, multiply_tiles
from numbaconv.jit import Native, intrinsic, native
from numbaconv.machine import detect
from numbaconv.simd import Lanes, const

DIRECT_ROWS = 8
ROOMY = 24  # accumulators that leave registers for a second step of k in flight
PREFETCH = 16  # steps of k; 8 ... 16 measured alike, 0 costs 4-10 % once a panel is larger than L1


def max_rows(nv: int, registers: int, direct: bool = False) -> int:
    """The most rows whose accumulators, with nv vectors of b and one broadcast, fit into `registers`.

    Rows read where they lie may be a multiple of 4 KiB apart and then share one set of L1: no more than its 8 ways.
    """
    return min(DIRECT_ROWS if direct else 14, (registers - nv - 1) // nv)


def max_vectors(registers: int) -> int:
    """The widest tile worth having, in vectors: beyond it too few rows are left to hide a load."""
    return 4 if registers >= 32 else 3


@intrinsic(prefer_literal=True)
def _tile(typingctx, itemsize, lanes, fused, arithmetic, mr, nv, direct, arguments):
    rows, vectors = mr.literal_value, nv.literal_value
    chosen = Arithmetic.of(arithmetic.literal_value)

    def codegen(context, builder, signature, args):
        (kc, a, rs_a, b, c, rs_c, last, accumulate, finish, scalars, row_bias, row_bias_step, col_bias, residual,
         rs_residual) = cgutils.unpack_tuple(builder, args[-1])  # fmt: skip
        v = _words(builder, chosen, itemsize.literal_value, lanes.literal_value, bool(fused.literal_value))
        a, b, c, scalars, row_bias, col_bias, residual = (
            v.pointer(address) for address in (a, b, c, scalars, row_bias, col_bias, residual)
        )
        mask = v.first(last)
        c_rows = [v.at(c, builder.mul(rs_c, const(i))) for i in range(rows)]
        for row in c_rows:
            for j in range(vectors):
                v.prefetch(v.at(row, j * v.bytes))

        if chosen.tiles:
            words = (Tiles if chosen.native else EmulatedTiles)(v)
            tile = multiply_tiles(v, words, rows, vectors, chosen.chain, kc, a, b)
        elif chosen.split:
            tile = _multiply_pairs(v, rows, vectors, chosen, kc, a, b)
        else:
            tile = _multiply(v, rows, vectors, kc, a, b, rs_a if direct.literal_value else None)

        def read(row, j):
            place = v.at(row, j * v.bytes)
            return v.masked_load(place, mask) if j == vectors - 1 else v.load(place)

        def write(adding: bool, finishing: bool):
            if finishing:
                alpha, low, high = (v.splat(v.load_scalar(v.at(scalars, i * v.itemsize))) for i in range(3))
                columns = [read(col_bias, j) for j in range(vectors)]
            for i, row in enumerate(c_rows):
                if finishing:
                    bias = v.splat(v.load_scalar(v.at(row_bias, builder.mul(row_bias_step, const(i)))))
                    extra = v.at(residual, builder.mul(rs_residual, const(i)))
                for j in range(vectors):
                    value = builder.load(tile[i][j])
                    if adding:
                        value = builder.fadd(value, read(row, j))
                    if finishing:
                        value = v.fma(value, alpha, builder.fadd(bias, columns[j]))
                        value = v.clamp(builder.fadd(value, read(extra, j)), low, high)
                    if j == vectors - 1:
                        v.masked_store(value, v.at(row, j * v.bytes), mask)
                    else:
                        v.store(value, v.at(row, j * v.bytes))

        with builder.if_else(builder.icmp_signed("!=", finish, const(0))) as (then, otherwise):
            for branch, finishing in ((then, True), (otherwise, False)):
                with branch, builder.if_else(builder.icmp_signed("!=", accumulate, const(0))) as (add, overwrite):
                    with add:
                        write(True, finishing)
                    with overwrite:
                        write(False, finishing)
        return context.get_dummy_value()

    return types.void(itemsize, lanes, fused, arithmetic, mr, nv, direct, arguments), codegen


def _words(builder, arithmetic: Arithmetic, itemsize: int, lanes: int, fused: bool) -> Lanes:
    if arithmetic.split:
        return Pairs(builder, lanes, fused, arithmetic.native)
    return Lanes(builder, itemsize, lanes, fused)


def _multiply(v: Lanes, rows: int, vectors: int, kc, a, b, rs_a):
    """Emit the loop over k; the accumulators, one cell a vector. `rs_a`: between A's rows, None for a packed panel."""
    builder = v.builder
    tile = [[v.variable(v.zero) for _ in range(vectors)] for _ in range(rows)]
    a_now, b_now = v.variable(a), v.variable(b)
    packed = rs_a is None
    a_step, b_step = (rows if packed else 1) * v.itemsize, vectors * v.bytes
    row_offsets = _row_offsets(builder, rows, const(v.itemsize) if packed else rs_a)

    def steps(count):
        a, b = builder.load(a_now), builder.load(b_now)
        if packed:
            v.prefetch(v.at(a, PREFETCH * a_step))
        for step in range(count):
            columns = []
            for j in range(vectors):
                place = step * b_step + j * v.bytes
                columns.append(v.load(v.at(b, place)))
                v.prefetch(v.at(b, PREFETCH * b_step + place))
            for i in range(rows):
                element = v.splat(v.load_scalar(v.at(v.at(a, row_offsets[i]()), step * a_step)))
                for j in range(vectors):
                    builder.store(v.fma(element, columns[j], builder.load(tile[i][j])), tile[i][j])
        builder.store(v.at(a, count * a_step), a_now)
        builder.store(v.at(b, count * b_step), b_now)

    at_once = 2 if vectors > 2 and rows * vectors <= ROOMY else 1
    with cgutils.for_range(builder, builder.sdiv(kc, const(at_once))):
        steps(at_once)
    if at_once > 1:
        with cgutils.for_range(builder, builder.srem(kc, const(at_once))):
            steps(1)
    return tile


def _multiply_pairs(v: Pairs, rows: int, vectors: int, arithmetic: Arithmetic, kc, a, b):
    """As ``_multiply``, over steps of pairs."""
    builder, parts = v.builder, range(arithmetic.parts)
    tile = [[v.variable(v.zero) for _ in range(vectors)] for _ in range(rows)]
    a_now, b_now = v.variable(a), v.variable(b)
    a_part, b_part = rows * v.itemsize, vectors * v.bytes
    a_step, b_step = arithmetic.parts * a_part, arithmetic.parts * b_part
    with cgutils.for_range(builder, kc):
        a, b = builder.load(a_now), builder.load(b_now)
        v.prefetch(v.at(a, PREFETCH * a_step))
        columns = {}
        for part in parts:
            for j in range(vectors):
                place = part * b_part + j * v.bytes
                columns[part, j] = v.bits(v.load(v.at(b, place)))
                v.prefetch(v.at(b, PREFETCH * b_step + place))
        for i in range(rows):
            places = [v.at(a, part * a_part + i * v.itemsize) for part in parts]
            elements = [v.bits(v.splat(v.load_scalar(place))) for place in places]
            for j in range(vectors):
                total = builder.load(tile[i][j])
                for of_a, of_b in arithmetic.chain:
                    total = v.dot(total, elements[of_a], columns[of_b, j])
                builder.store(total, tile[i][j])
        builder.store(v.at(a, a_step), a_now)
        builder.store(v.at(b, b_step), b_now)
    return tile


def _row_offsets(builder, rows: int, rs_a):
    """Functions that emit i·rs_a: odd multiples are kept in registers, x86 addressing doubles them for free."""
    odd = {i: builder.mul(rs_a, const(i)) for i in range(1, rows, 2)}

    def offset(i):
        if i == 0:
            return lambda: const(0)
        shift = (i & -i).bit_length() - 1
        return lambda: builder.shl(odd[i >> shift], const(shift))

    return [offset(i) for i in range(rows)]


@functools.cache
def micro_kernel(itemsize: int, mr: int, nv: int, direct: bool = False, arithmetic: Arithmetic = FMA) -> Native:
    """The micro-kernel for a tile of `mr` rows and `nv` vectors of `itemsize`-byte floats on this machine."""
    code = arithmetic.code
    lanes, fused = detect().vector_bits // (8 * itemsize), int(detect().fma)
    in_place = int(direct)

    @native
    def kernel(kc, a, rs_a, b, c, rs_c, last, accumulate, finish, scalars, row_bias, row_bias_step, col_bias,
               residual, rs_residual):  # fmt: skip
        _tile(itemsize, lanes, fused, code, mr, nv, in_place, (kc, a, rs_a, b, c, rs_c, last, accumulate, finish,
              scalars, row_bias, row_bias_step, col_bias, residual, rs_residual))  # fmt: skip

    return kernel


@intrinsic(prefer_literal=True)
def _tiles_for(typingctx, on):
    """Configure this thread's tiles, or give them back."""

    def codegen(context, builder, signature, args):
        words = Tiles(Pairs(builder, 16, True, True))
        (words.configure if on.literal_value else words.release)()
        return context.get_dummy_value()

    return types.void(on), codegen


@functools.cache
def tiles_for_a_task(on: int) -> Native:
    """The C function without arguments that a task calls before its kernels, and after them."""

    @native
    def switch():
        _tiles_for(on)

    return switch
