"""The transforms of Winograd's tiles as straight-line vector code: lanes are channels, constants are in the code.

A tile's places are found in a table of addresses, so tiles inside, at the edge, and in a strip of turned pixels are
read and written by the same code.
"""

from __future__ import annotations

import functools
from fractions import Fraction

from llvmlite import ir
from numba import types
from numba.core import cgutils

from numbaconv.jit import Native, intrinsic, native
from numbaconv.lowerings._winograd_additions import both_sides, times_columns, times_rows
from numbaconv.lowerings._winograd_points import minimal_filter
from numbaconv.machine import detect
from numbaconv.simd import BYTES, Lanes, const


class Vectors:
    """``Arithmetic`` with LLVM vectors; a constant is in every lane."""

    def __init__(self, v: Lanes):
        self.v, self.add, self.subtract = v, v.builder.fadd, v.builder.fsub

    def _constant(self, factor: Fraction):
        return ir.Constant(self.v.vector, [float(factor)] * self.v.lanes)

    def scaled(self, factor: Fraction, x):
        return self.v.builder.fmul(x, self._constant(factor))

    def fused(self, factor: Fraction, x, total):
        return self.v.fma(self._constant(factor), x, total)


def _entry(builder, table, number: int):
    """An address out of a table of int64."""
    place = builder.gep(table, [const(8 * number)])
    return builder.inttoptr(builder.load(builder.bitcast(place, const(0).type.as_pointer())), BYTES)


@intrinsic(prefer_literal=True)
def _read_tiles(typingctx, itemsize, lanes, fused, tile, arguments):
    rows, columns = (minimal_filter(*pair).bt for pair in _sides(tile.literal_value))

    def codegen(context, builder, signature, args):
        table, shift, vectors, step, target, apart = cgutils.unpack_tuple(builder, args[-1])
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value, bool(fused.literal_value))
        table, target = v.pointer(table), v.pointer(target)
        with cgutils.for_range(builder, vectors) as loop:
            offset = builder.add(shift, builder.mul(loop.index, step))
            values = [
                [v.load(v.at(_entry(builder, table, i * len(columns) + j), offset)) for j in range(len(columns))]
                for i in range(len(rows))
            ]
            to = v.at(target, builder.mul(loop.index, const(v.bytes)))
            for value in sum(both_sides(Vectors(v), times_rows, rows, columns, values), []):
                v.store(value, to, align=v.bytes)
                to = v.at(to, apart)
        return context.get_dummy_value()

    return types.void(itemsize, lanes, fused, tile, arguments), codegen


@intrinsic(prefer_literal=True)
def _write_tiles(typingctx, itemsize, lanes, fused, tile, arguments):
    rows, columns = (minimal_filter(*pair).at for pair in _sides(tile.literal_value))

    def codegen(context, builder, signature, args):
        source, apart, vectors, bias, limits, table, shift, residual, r_shift = cgutils.unpack_tuple(builder, args[-1])
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value, bool(fused.literal_value))
        has_residual = builder.icmp_signed("!=", residual, const(0))
        source, bias, limits, table, residual = (v.pointer(a) for a in (source, bias, limits, table, residual))
        low, high = (v.splat(v.load_scalar(v.at(limits, i * v.itemsize))) for i in range(2))
        with cgutils.for_range(builder, vectors) as loop:
            step = builder.mul(loop.index, const(v.bytes))
            place, values = v.at(source, step), []
            for _ in rows[0]:
                values.append([])
                for _ in columns[0]:
                    values[-1].append(v.load(place, align=v.bytes))
                    place = v.at(place, apart)
            added = v.load(v.at(bias, step))
            results = sum(both_sides(Vectors(v), times_columns, rows, columns, values), [])
            results = [builder.fadd(value, added) for value in results]
            offset, r_offset = builder.add(shift, step), builder.add(r_shift, step)

            def put(extra, results=results, offset=offset, r_offset=r_offset):
                for number, value in enumerate(results):
                    if extra:
                        value = builder.fadd(value, v.load(v.at(_entry(builder, residual, number), r_offset)))
                    v.store(v.clamp(value, low, high), v.at(_entry(builder, table, number), offset))

            with builder.if_else(has_residual) as (then, otherwise):
                with then:
                    put(True)
                with otherwise:
                    put(False)
        return context.get_dummy_value()

    return types.void(itemsize, lanes, fused, tile, arguments), codegen


def _code(m_h: int, r_h: int, m_w: int, r_w: int) -> int:
    """The two filters as one integer, for a closure."""
    return ((m_h * 16 + r_h) * 16 + m_w) * 16 + r_w


def _sides(code: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (code >> 12, code >> 8 & 15), (code >> 4 & 15, code & 15)


@functools.cache
def reading_kernel(itemsize: int, lanes: int, *tile: int) -> Native:
    """``kernel(table, shift, vectors, step, target, apart)``: B^T x B of some vectors of channels of a tile.

    The pixels' addresses are in `table`, row by row, and `shift` bytes are added to each; vectors are `step` bytes
    apart. Result number i goes to `target` + i·`apart`, vectors one after another.
    """
    fused, code = int(detect().fma), _code(*tile)

    @native
    def kernel(table, shift, vectors, step, target, apart):
        _read_tiles(itemsize, lanes, fused, code, (table, shift, vectors, step, target, apart))

    return kernel


@functools.cache
def writing_kernel(itemsize: int, lanes: int, *tile: int) -> Native:
    """``kernel(source, apart, vectors, bias, limits, table, shift, residual, r_shift)``: A^T m A of some vectors.

    Product number i is at `source` + i·`apart`. Sums get their bias, what lies at the addresses in the table `residual`
    (0: nothing) plus `r_shift`, and the two limits, and go to the addresses in `table` plus `shift`.
    """
    fused, code = int(detect().fma), _code(*tile)

    @native
    def kernel(source, apart, vectors, bias, limits, table, shift, residual, r_shift):
        _write_tiles(itemsize, lanes, fused, code,
                     (source, apart, vectors, bias, limits, table, shift, residual, r_shift))  # fmt: skip

    return kernel
