"""The transforms of Winograd's tiles as straight-line vector code: lanes are channels, constants are in the code.

A matrix times a vector of LLVM vectors is written out with what its rows have in common computed once:

    B^T: rows of +p and -p agree in even places and differ in sign in odd ones     E, O  ->  E + pO, E - pO
    A^T: columns of +p and -p do so down their rows                         a, b  ->  a + b, a - b, then the rows

A tile's places are found in a table of addresses, so tiles inside, at the edge, and in a strip of turned pixels are
read and written by the same code.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction

from llvmlite import ir
from numba import types
from numba.core import cgutils

from numbaconv.jit import Native, intrinsic, native
from numbaconv.lowerings._winograd_points import Rows, minimal_filter
from numbaconv.machine import detect
from numbaconv.simd import BYTES, Lanes, const

# ------------------------------------------------------------------------------------------- a matrix times a vector


def _constant(v: Lanes, value: Fraction):
    return ir.Constant(v.vector, [float(value)] * v.lanes)


def _combine(v: Lanes, factors: Sequence[Fraction], values):
    """The sum of factor times value, with as few operations as that takes."""
    terms = sorted(((f, x) for f, x in zip(factors, values) if f), key=lambda term: (term[0] != 1, abs(term[0]) != 1))
    (first, total), *rest = terms
    if first != 1:
        total = v.builder.fmul(total, _constant(v, first))
    for factor, value in rest:
        if factor == 1:
            total = v.builder.fadd(total, value)
        elif factor == -1:
            total = v.builder.fsub(total, value)
        else:
            total = v.fma(_constant(v, factor), value, total)
    return total


def opposed(one: Sequence[Fraction], other: Sequence[Fraction]) -> tuple[list[int], list[int]] | None:
    """Places where two vectors agree and where they differ in sign only, if there are both and nothing else."""
    same = [k for k, (a, b) in enumerate(zip(one, other)) if a == b and a]
    signs = [k for k, (a, b) in enumerate(zip(one, other)) if a == -b and a]
    nothing = sum(not a and not b for a, b in zip(one, other))
    return (same, signs) if same and signs and len(same) + len(signs) + nothing == len(one) else None


def _pairs(vectors: Sequence[Sequence[Fraction]]) -> dict[int, int]:
    """Each vector's opposed partner, under the first of the two."""
    found: dict[int, int] = {}
    for i, one in enumerate(vectors):
        for j in range(i + 1, len(vectors)):
            if i not in found.values() and j not in found.values() and opposed(one, vectors[j]):
                found[i] = j
                break
    return found


def times_rows(v: Lanes, matrix: Rows, values):
    """`matrix` times `values`; opposed rows share their parts."""
    pairs, result = _pairs(matrix), [None] * len(matrix)
    for i, row in enumerate(matrix):
        if i in pairs:
            same, signs = opposed(row, matrix[pairs[i]])
            even = _combine(v, [row[k] for k in same], [values[k] for k in same])
            factor = row[signs[-1]]
            odd = _combine(v, [row[k] / factor for k in signs], [values[k] for k in signs])
            result[i] = _combine(v, [Fraction(1), factor], [even, odd])
            result[pairs[i]] = _combine(v, [Fraction(1), -factor], [even, odd])
        elif i not in pairs.values():
            result[i] = _combine(v, row, values)
    return result


def times_columns(v: Lanes, matrix: Rows, values):
    """`matrix` times `values`; opposed columns share sum and difference."""
    columns = list(zip(*matrix))
    pairs, kept, shared = _pairs(columns), [], []
    for j, column in enumerate(columns):
        if j in pairs:
            same, signs = opposed(column, columns[pairs[j]])
            for places, join in ((same, v.builder.fadd), (signs, v.builder.fsub)):
                kept.append([factor if i in places else Fraction(0) for i, factor in enumerate(column)])
                shared.append(join(values[j], values[pairs[j]]))
        elif j not in pairs.values():
            kept.append(column)
            shared.append(values[j])
    return [_combine(v, row, shared) for row in zip(*kept)]


def both_sides(v: Lanes, apply, of_rows: Rows, of_columns: Rows, values):
    """A transform along the columns of a tile, then along its rows; `values` by rows."""
    turned = [apply(v, of_rows, [row[j] for row in values]) for j in range(len(values[0]))]
    return [apply(v, of_columns, [column[i] for column in turned]) for i in range(len(of_rows))]


# --------------------------------------------------------------------------------------------------- the two kernels


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
            for value in sum(both_sides(v, times_rows, rows, columns, values), []):
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
            results = sum(both_sides(v, times_columns, rows, columns, values), [])
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
