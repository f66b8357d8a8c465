"""Kernels of the direct convolution that know their problem: steps from pixel to pixel and from term to term are
constants of the code. A tile stays in registers:

    sums = 0; sums += weights · pixels over three loops; sums + bias (+ residual), limited, to the output

The loops are not written out even for few terms: LLVM then gathers loads and shuffles, at half the speed.
"""

from __future__ import annotations

import functools

from numba import types
from numba.core import cgutils

from numbaconv.jit import Native, intrinsic, native
from numbaconv.machine import detect
from numbaconv.simd import Lanes, const


@intrinsic(prefer_literal=True)
def _tiles(typingctx, itemsize, lanes, fused, transposed, pixels, vectors, pixel, term, arguments):
    """See ``tiles_kernel``."""
    rows, columns = pixels.literal_value, vectors.literal_value

    def codegen(context, builder, signature, args):
        count, n1, n2, n3, x, x1, x2, w, w1, w2, w_vector, *last = cgutils.unpack_tuple(builder, args[-1])
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value, bool(fused.literal_value))
        x, w = v.pointer(x), v.pointer(w)
        vector_steps = [builder.mul(w_vector, const(j)) for j in range(columns)]

        def terms(x, w, sums, loops):
            (loop_count, x_step, w_step), *inside = loops
            x_now, w_now = v.variable(x), v.variable(w)
            with cgutils.for_range(builder, loop_count):
                x, w = builder.load(x_now), builder.load(w_now)
                if inside:
                    terms(x, w, sums, inside)
                else:
                    factors = [v.load(v.at(w, step), align=v.bytes) for step in vector_steps]
                    for i, cells in enumerate(sums):
                        element = v.splat(v.load_scalar(v.at(x, i * pixel.literal_value)))
                        for cell, factor in zip(cells, factors):
                            builder.store(v.fma(element, factor, builder.load(cell)), cell)
                builder.store(v.at(x, x_step), x_now)
                builder.store(v.at(w, w_step), w_now)

        with cgutils.for_range(builder, count) as tile:
            sums = [[v.variable(v.zero) for _ in range(columns)] for _ in range(rows)]
            place = v.at(x, builder.mul(tile.index, const(rows * pixel.literal_value)))
            terms(place, w, sums, [(n1, x1, w1), (n2, x2, w2), (n3, term.literal_value, v.bytes)])
            _finish(v, sums, bool(transposed.literal_value), tile.index, *last)
        return context.get_dummy_value()

    return types.void(itemsize, lanes, fused, transposed, pixels, vectors, pixel, term, arguments), codegen


def _finish(v: Lanes, sums, transposed: bool, tile, bias, limits, out, out_step, residual, r_step, width):
    """Sums of tile number `tile`, by pixels and vectors of channels, with bias and residual, limited and stored."""
    builder = v.builder
    added = builder.icmp_signed("!=", residual, const(0))
    whole = builder.icmp_signed(">=", width, const(len(sums[0]) * v.lanes))
    bias, limits, out, residual = (v.pointer(address) for address in (bias, limits, out, residual))
    low, high = (v.splat(v.load_scalar(v.at(limits, i * v.itemsize))) for i in range(2))

    def store(value, place, there, mask, extra):
        if extra:
            value = builder.fadd(value, v.load(there) if mask is None else v.masked_load(there, mask))
        value = v.clamp(value, low, high)
        if mask is None:
            v.store(value, place)
        else:
            v.masked_store(value, place, mask)

    first_pixel = builder.mul(tile, const(len(sums)))

    def places(number, offset=0):
        for base, step in ((out, out_step), (residual, r_step)):
            begin = v.at(base, builder.mul(first_pixel, const(v.itemsize) if transposed else step))
            yield v.at(v.at(begin, builder.mul(step, const(number))), offset)

    def put_channels(extra: bool, cut: bool):
        for j in range(len(sums[0])):
            mask = v.first(builder.sub(width, const(j * v.lanes))) if cut else None
            shift = v.masked_load(v.at(bias, j * v.bytes), mask) if cut else v.load(v.at(bias, j * v.bytes))
            for i, cells in enumerate(sums):
                store(builder.fadd(builder.load(cells[j]), shift), *places(i, j * v.bytes), mask, extra)

    def put_pixels(extra: bool, cut: bool):
        for j in range(len(sums[0])):
            mask = v.first(builder.sub(width, const(j * v.lanes)))
            shift = v.masked_load(v.at(bias, j * v.bytes), mask) if cut else v.load(v.at(bias, j * v.bytes))
            for first in range(0, len(sums), v.lanes):
                some = [builder.fadd(builder.load(cells[j]), shift) for cells in sums[first : first + v.lanes]]
                there = None if len(some) == v.lanes else v.first(const(len(some)))
                for k, value in enumerate(v.transpose(some + [v.zero] * (v.lanes - len(some)))):
                    number = j * v.lanes + k
                    if cut:
                        with builder.if_then(builder.icmp_signed("<", const(number), width)):
                            store(value, *places(number, first * v.itemsize), there, extra)
                    else:
                        store(value, *places(number, first * v.itemsize), there, extra)

    put = put_pixels if transposed else put_channels
    with builder.if_else(added) as (then, otherwise):
        for branch, extra in ((then, True), (otherwise, False)):
            with branch, builder.if_else(whole) as (all_there, some):
                with all_there:
                    put(extra, False)
                with some:
                    put(extra, True)


@functools.cache
def tiles_kernel(
    itemsize: int, lanes: int, transposed: bool, pixels: int, vectors: int, pixel: int, term: int
) -> Native:
    """Tiles side by side, of `pixels` of a row by `vectors` of channels, each from its first term to its last store.

    ``kernel(count, n1, n2, n3, x, x1, x2, w, w1, w2, w_vector, bias, limits, out, out_step, residual, r_step, width)``:
    `count` tiles of n1 · n2 · n3 terms. Steps in bytes: of the input `pixel` from pixel to pixel and `term` in the
    innermost loop, x1 and x2 in the others; of the weights w1, w2 and one vector, and `w_vector` to other channels'. Of
    the channels `width` are written to `out`, where pixels are `out_step` apart and channels side by side, or if
    `transposed` channels `out_step` apart and pixels side by side; likewise the residual, unless its address is 0.
    """
    fused, transposed = int(detect().fma), int(transposed)

    @native
    def kernel(count, n1, n2, n3, x, x1, x2, w, w1, w2, w_vector, bias, limits, out, out_step, residual, r_step, width):
        _tiles(itemsize, lanes, fused, transposed, pixels, vectors, pixel, term,
               (count, n1, n2, n3, x, x1, x2, w, w1, w2, w_vector,
                bias, limits, out, out_step, residual, r_step, width))  # fmt: skip

    return kernel
