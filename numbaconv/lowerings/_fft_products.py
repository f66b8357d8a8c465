"""The products between the transforms: one frequency's complex product of matrices, a tile of it in registers.

    (a + ib)(u + iw) = (au - bw) + i(aw + bu)      four multiply-adds for two loads of weights and two broadcasts

Gauss's way with three products would need half as many weights again, and their traffic is what limits: so found
Zlateski, Jia, Li and Durand too (arXiv 1809.07851).
"""

from __future__ import annotations

import functools

from numba import types
from numba.core import cgutils

from numbaconv.jit import Native, intrinsic, native
from numbaconv.machine import detect
from numbaconv.simd import Lanes, const


def max_rows(vectors: int, registers: int) -> int:
    """The most rows whose sums fit, beside the weights and two broadcasts."""
    return max(1, (registers - 2 * vectors - 2) // (2 * vectors))


@intrinsic(prefer_literal=True)
def _products(typingctx, itemsize, lanes, fused, rows, vectors, arguments):
    def codegen(context, builder, signature, args):
        depth, a, a_row, a_imaginary, b, c, c_row, c_imaginary, ahead = cgutils.unpack_tuple(builder, args[-1])
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value, bool(fused.literal_value))
        a, b, c = (v.pointer(address) for address in (a, b, c))
        down, across = range(rows.literal_value), range(vectors.literal_value)
        sums = [[[v.variable(v.zero) for _ in range(2)] for _ in across] for _ in down]
        steps = [builder.mul(a_row, const(i)) for i in down]
        a_now, b_now = v.variable(a), v.variable(b)
        with cgutils.for_range(builder, depth):
            a, b = builder.load(a_now), builder.load(b_now)
            places = [v.at(b, j * v.bytes) for j in range(2 * len(across))]
            weights = [v.load(place, align=v.bytes) for place in places]
            for place in places:
                v.prefetch(v.at(place, ahead))
            for cells, step in zip(sums, steps):
                real = v.splat(v.load_scalar(v.at(a, step)))
                imaginary = v.splat(v.load_scalar(v.at(v.at(a, step), a_imaginary)))
                for j, cell in enumerate(cells):
                    there = weights[j], weights[len(across) + j]
                    values = [v.fma(real, weight, builder.load(part)) for weight, part in zip(there, cell)]
                    builder.store(v.fma(builder.fneg(imaginary), there[1], values[0]), cell[0])
                    builder.store(v.fma(imaginary, there[0], values[1]), cell[1])
            builder.store(v.at(a, v.itemsize), a_now)
            builder.store(v.at(b, len(places) * v.bytes), b_now)
        for i, cells in enumerate(sums):
            row = v.at(c, builder.mul(c_row, const(i)))
            for j, (real, imaginary) in enumerate(cells):
                v.store(builder.load(real), v.at(row, j * v.bytes), align=v.bytes)
                v.store(builder.load(imaginary), v.at(v.at(row, c_imaginary), j * v.bytes), align=v.bytes)
        return context.get_dummy_value()

    return types.void(itemsize, lanes, fused, rows, vectors, arguments), codegen


@functools.cache
def products_kernel(itemsize: int, lanes: int, rows: int, vectors: int) -> Native:
    """``kernel(depth, a, a_row, a_imaginary, b, c, c_row, c_imaginary, ahead)``: C = A · B, complex.

    A has `rows` rows of `depth` elements, `a_row` bytes apart; their imaginary parts are `a_imaginary` bytes further
    on. B is a packed panel: for each term real and imaginary parts of `vectors` vectors; what lies `ahead` bytes behind
    is fetched. C's rows are `c_row` bytes apart, their imaginary parts `c_imaginary` further on, aligned to vectors.
    """
    fused = int(detect().fma)

    @native
    def kernel(depth, a, a_row, a_imaginary, b, c, c_row, c_imaginary, ahead):
        _products(itemsize, lanes, fused, rows, vectors,
                  (depth, a, a_row, a_imaginary, b, c, c_row, c_imaginary, ahead))  # fmt: skip

    return kernel
