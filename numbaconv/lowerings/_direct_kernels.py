"""The kernels of the direct convolution: products added to a tile, and a finished tile written out.

A tile is [pixels][vectors][lanes] in memory; its sums are in registers while a kernel runs.
"""

from __future__ import annotations

import functools

import numpy as np
from numba import types
from numba.core import cgutils

from numbaconv.jit import Native, compiled, intrinsic, native
from numbaconv.machine import detect
from numbaconv.simd import Lanes, array_at, const, load_i32, load_i64, store_i32, store_i64


@compiled
def block_weights(itemsize, w, target, channels, lanes, n1, n2, n3, oc, s1, s2, s3):
    """A group's weights as [vector of output channels][n1][n2][n3][lanes], zeros beyond the last channel.

    Addresses, and steps of `w` in bytes: from output channel to output channel, and along the three axes.
    """
    for first in range(0, channels, lanes):
        for i in range(n1):
            for j in range(n2):
                for k in range(n3):
                    place = w + first * oc + i * s1 + j * s2 + k * s3
                    for lane in range(lanes):
                        inside = first + lane < channels
                        if itemsize == 4:
                            store_i32(target + 4 * lane, load_i32(place + lane * oc) if inside else np.int32(0))
                        else:
                            store_i64(target + 8 * lane, load_i64(place + lane * oc) if inside else 0)
                    target += lanes * itemsize


@intrinsic(prefer_literal=True)
def _steps(typingctx, itemsize, lanes, fused, pixels, vectors, arguments):
    """Add three nested loops of products to a tile, or begin one if `fresh`; strides in bytes, the innermost last."""
    rows, columns = pixels.literal_value, vectors.literal_value

    def codegen(context, builder, signature, args):
        n1, n2, n3, x, x1, x2, x3, x_pixel, w, w1, w2, w3, w_vector, tile, fresh = cgutils.unpack_tuple(
            builder, args[-1]
        )
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value, bool(fused.literal_value))
        x, w, tile = (v.pointer(address) for address in (x, w, tile))
        places = [[v.at(tile, (i * columns + j) * v.bytes) for j in range(columns)] for i in range(rows)]
        sums = [[v.variable(v.zero) for _ in range(columns)] for _ in range(rows)]
        with builder.if_then(builder.icmp_signed("==", fresh, const(0))):
            for cells, row in zip(sums, places):
                for cell, place in zip(cells, row):
                    builder.store(v.load(place, align=v.bytes), cell)
        pixel_steps = [builder.mul(x_pixel, const(i)) for i in range(rows)]
        vector_steps = [builder.mul(w_vector, const(j)) for j in range(columns)]

        def nest(x, w, loops):
            (count, x_step, w_step), *inside = loops
            x_now, w_now = v.variable(x), v.variable(w)
            with cgutils.for_range(builder, count):
                x, w = builder.load(x_now), builder.load(w_now)
                if inside:
                    nest(x, w, inside)
                else:
                    factors = [v.load(v.at(w, step), align=v.bytes) for step in vector_steps]
                    for cells, step in zip(sums, pixel_steps):
                        element = v.splat(v.load_scalar(v.at(x, step)))
                        for cell, factor in zip(cells, factors):
                            builder.store(v.fma(element, factor, builder.load(cell)), cell)
                builder.store(v.at(x, x_step), x_now)
                builder.store(v.at(w, w_step), w_now)

        nest(x, w, [(n1, x1, w1), (n2, x2, w2), (n3, x3, w3)])
        for cells, row in zip(sums, places):
            for cell, place in zip(cells, row):
                v.store(builder.load(cell), place, align=v.bytes)
        return context.get_dummy_value()

    return types.void(itemsize, lanes, fused, pixels, vectors, arguments), codegen


@functools.cache
def steps_kernel(itemsize: int, lanes: int, pixels: int, vectors: int) -> Native:
    """``kernel(n1, n2, n3, x, x1, x2, x3, x_pixel, w, w1, w2, w3, w_vector, tile, fresh)``: see ``_steps``."""
    fused = int(detect().fma)

    @native
    def kernel(n1, n2, n3, x, x1, x2, x3, x_pixel, w, w1, w2, w3, w_vector, tile, fresh):
        _steps(itemsize, lanes, fused, pixels, vectors,
               (n1, n2, n3, x, x1, x2, x3, x_pixel, w, w1, w2, w3, w_vector, tile, fresh))  # fmt: skip

    return kernel


@intrinsic(prefer_literal=True)
def _put_channels(typingctx, itemsize, lanes, tile, step, pixels, width, bias, limits, out, out_pixel):
    """One vector of each pixel of a tile, `step` bytes apart, to `out`: channels side by side, `width` of them."""

    def codegen(context, builder, signature, args):
        tile, step, pixels, width, bias, limits, out, out_pixel = args[2:]
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        tile, bias, limits, out = (v.pointer(address) for address in (tile, bias, limits, out))
        low, high = (v.splat(v.load_scalar(v.at(limits, i * v.itemsize))) for i in range(2))
        mask = v.first(width)
        added = v.masked_load(bias, mask)
        with cgutils.for_range(builder, pixels) as loop:
            value = v.load(v.at(tile, builder.mul(loop.index, step)), align=v.bytes)
            value = v.clamp(builder.fadd(value, added), low, high)
            v.masked_store(value, v.at(out, builder.mul(loop.index, out_pixel)), mask)
        return context.get_dummy_value()

    return types.void(itemsize, lanes, *[types.int64] * 8), codegen


@intrinsic(prefer_literal=True)
def _put_pixels(typingctx, itemsize, lanes, tile, step, pixels, width, bias, limits, out, out_channel):
    """The same to an output whose pixels lie side by side: transposed, `lanes` pixels at most."""

    def codegen(context, builder, signature, args):
        tile, step, pixels, width, bias, limits, out, out_channel = args[2:]
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        tile, bias, limits, out = (v.pointer(address) for address in (tile, bias, limits, out))
        low, high = (v.splat(v.load_scalar(v.at(limits, i * v.itemsize))) for i in range(2))
        added = v.masked_load(bias, v.first(width))
        mask = v.first(pixels)
        rows = []
        for i in range(v.lanes):  # a pixel that does not exist repeats the first: its lane is not written
            exists = builder.icmp_signed("<", const(i), pixels)
            place = builder.select(exists, builder.mul(step, const(i)), const(0))
            rows.append(v.clamp(builder.fadd(v.load(v.at(tile, place), align=v.bytes), added), low, high))
        for j, value in enumerate(v.transpose(rows)):
            with builder.if_then(builder.icmp_signed("<", const(j), width)):
                v.masked_store(value, v.at(out, builder.mul(out_channel, const(j))), mask)
        return context.get_dummy_value()

    return types.void(itemsize, lanes, *[types.int64] * 8), codegen


@functools.cache
def put_kernel(itemsize: int, lanes: int, way: str) -> Native:
    """Write a tile to an output whose "channels" or "pixels" lie side by side, or "anyhow"."""

    @native
    def by_channels(tile, pixels, vectors, channels, bias, limits, out, o_c, o_w):
        for j in range(vectors):
            shift = j * lanes * itemsize
            _put_channels(itemsize, lanes, tile + shift, vectors * lanes * itemsize, pixels,
                          min(lanes, channels - j * lanes), bias + shift, limits,
                          out + j * lanes * o_c, o_w)  # fmt: skip

    @native
    def by_pixels(tile, pixels, vectors, channels, bias, limits, out, o_c, o_w):
        step = vectors * lanes * itemsize
        for j in range(vectors):
            for i in range(0, pixels, lanes):
                shift = j * lanes * itemsize
                _put_pixels(itemsize, lanes, tile + i * step + shift, step, min(lanes, pixels - i),
                            min(lanes, channels - j * lanes), bias + shift, limits,
                            out + j * lanes * o_c + i * o_w, o_c)  # fmt: skip

    @native
    def anyhow(tile, pixels, vectors, channels, bias, limits, out, o_c, o_w):
        sums = array_at(itemsize, tile, pixels * vectors * lanes)
        low, high = array_at(itemsize, limits, 2)
        offsets = array_at(itemsize, bias, channels)
        for i in range(pixels):
            for k in range(channels):
                value = sums[i * vectors * lanes + k] + offsets[k]
                value = low if value < low else value
                value = high if value > high else value
                array_at(itemsize, out + k * o_c + i * o_w, 1)[0] = value

    return {"channels": by_channels, "pixels": by_pixels, "anyhow": anyhow}[way]
