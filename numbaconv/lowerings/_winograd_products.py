"""The products between the transforms: a tile of M in registers, V broadcast from where it lies.

The same loop as GEMM's micro-kernel, without its epilogue, and with a prefetch of its own: transformed weights are
larger than L2, and with few tiles they set the pace. So while the last row group uses a piece of a panel, the next one
is fetched. A sum over the channels is made in pieces, for the transforms magnify its error and short sums err less.
"""

from __future__ import annotations

import functools

from numba import types
from numba.core import cgutils

from numbaconv.jit import Native, intrinsic, native
from numbaconv.machine import detect
from numbaconv.simd import Lanes, const


@intrinsic(prefer_literal=True)
def _products(typingctx, itemsize, lanes, fused, rows, vectors, arguments):
    def codegen(context, builder, signature, args):
        depth, a, a_row, b, c, c_row, ahead, add = cgutils.unpack_tuple(builder, args[-1])
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value, bool(fused.literal_value))
        a, b, c = (v.pointer(address) for address in (a, b, c))
        across = range(vectors.literal_value)
        sums = [[v.variable(v.zero) for _ in across] for _ in range(rows.literal_value)]
        steps = [builder.mul(a_row, const(i)) for i in range(rows.literal_value)]
        a_now, b_now = v.variable(a), v.variable(b)
        with cgutils.for_range(builder, depth):
            a, b = builder.load(a_now), builder.load(b_now)
            columns = [v.load(v.at(b, j * v.bytes), align=v.bytes) for j in across]
            for j in across:
                v.prefetch(v.at(v.at(b, ahead), j * v.bytes))
            for cells, step in zip(sums, steps, strict=True):
                element = v.splat(v.load_scalar(v.at(a, step)))
                for cell, column in zip(cells, columns, strict=True):
                    builder.store(v.fma(element, column, builder.load(cell)), cell)
            builder.store(v.at(a, v.itemsize), a_now)
            builder.store(v.at(b, len(across) * v.bytes), b_now)

        def put(more):
            for i, cells in enumerate(sums):
                row = v.at(c, builder.mul(c_row, const(i)))
                for j, cell in enumerate(cells):
                    place, value = v.at(row, j * v.bytes), builder.load(cell)
                    v.store(builder.fadd(v.load(place, align=v.bytes), value) if more else value, place, align=v.bytes)

        with builder.if_else(builder.icmp_signed("!=", add, const(0))) as (then, otherwise):
            with then:
                put(True)
            with otherwise:
                put(False)
        return context.get_dummy_value()

    return types.void(itemsize, lanes, fused, rows, vectors, arguments), codegen


@functools.cache
def products_kernel(itemsize: int, lanes: int, rows: int, vectors: int) -> Native:
    """``kernel(depth, a, a_row, b, c, c_row, ahead, add)``: C = A · B, or C += A · B if `add`.

    A has `rows` rows, `a_row` bytes apart, of `depth` elements. B is a packed panel of as many `vectors`, and what lies
    `ahead` bytes behind is fetched. Rows of C are `c_row` bytes apart. B and C are aligned to vectors.
    """
    fused = int(detect().fma)

    @native
    def kernel(depth, a, a_row, b, c, c_row, ahead, add):
        _products(itemsize, lanes, fused, rows, vectors, (depth, a, a_row, b, c, c_row, ahead, add))

    return kernel
