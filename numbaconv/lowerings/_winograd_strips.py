"""Strips: a run of pixels with one vector of channels each, for images whose channels do not lie side by side.

    image, pixels side by side                strip in L1
    c0  ▒▒▒▒▒▒▒▒▒▒▒▒▒▒  ─┐                    pixel 0  ▒ ▒ ▒ ▒      lanes = channels;
    c1  ▒▒▒▒▒▒▒▒▒▒▒▒▒▒   ├─ turned  ◄──────►  pixel 1  ▒ ▒ ▒ ▒      padding is there as zeros
    c2  ▒▒▒▒▒▒▒▒▒▒▒▒▒▒  ─┘                    pixel 2  ▒ ▒ ▒ ▒

Tiles are read from strips and written to strips where the image cannot be read or written by vectors of channels: in
NCHW, and in NHWC where channels do not fill their last vector (a lane too many would read what is not ours).
"""

from __future__ import annotations

import functools

from numba import types
from numba.core import cgutils

from numbaconv.jit import Native, intrinsic, native
from numbaconv.simd import Lanes, array_at, const

WAYS = ("channels", "pixels", "anyhow")
"""What lies side by side in an image."""


def way_of(strides, itemsize: int) -> str:
    """Which of ``WAYS`` an image (n, c, h, w) with these strides lies."""
    return "channels" if strides[1] == itemsize else "pixels" if strides[3] == itemsize else "anyhow"


@intrinsic(prefer_literal=True)
def _take_channels(typingctx, itemsize, lanes, channels, low, high, count, source, step, strip):
    def codegen(context, builder, signature, args):
        channels, low, high, count, source, step, strip = args[2:]
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        source, strip, mask = v.pointer(source), v.pointer(strip), v.first(channels)
        with cgutils.for_range(builder, count) as loop:
            to = v.at(strip, builder.mul(loop.index, const(v.bytes)))
            inside = builder.and_(
                builder.icmp_signed(">=", loop.index, low), builder.icmp_signed("<", loop.index, high)
            )
            with builder.if_else(inside) as (there, padding):
                with there:
                    place = v.at(source, builder.mul(loop.index, step))
                    v.store(v.masked_load(place, mask), to, align=v.bytes)
                with padding:
                    v.store(v.zero, to, align=v.bytes)
        return context.get_dummy_value()

    return types.void(itemsize, lanes, *[types.int64] * 7), codegen


@intrinsic(prefer_literal=True)
def _take_pixels(typingctx, itemsize, lanes, channels, low, high, count, source, step, strip):
    def codegen(context, builder, signature, args):
        channels, low, high, count, source, step, strip = args[2:]
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        source, strip = v.pointer(source), v.pointer(strip)
        blocks = builder.sdiv(builder.add(count, const(v.lanes - 1)), const(v.lanes))
        # A channel that does not exist repeats the first: its lane is never used.
        exists = [builder.icmp_signed("<", const(i), channels) for i in range(v.lanes)]
        rows = [v.at(source, builder.select(exists[i], builder.mul(step, const(i)), const(0))) for i in range(v.lanes)]
        with cgutils.for_range(builder, blocks) as loop:
            first = builder.mul(loop.index, const(v.lanes))
            here, there = builder.sub(low, first), builder.sub(high, first)
            offset = builder.mul(first, const(v.itemsize))
            to = v.at(strip, builder.mul(first, const(v.bytes)))
            left = builder.sub(count, first)

            def turn(read, to=to, left=left):
                values = v.transpose([read(row) for row in rows])
                whole = builder.icmp_signed(">=", left, const(v.lanes))
                with builder.if_else(whole) as (all_of_them, some):
                    with all_of_them:
                        for i, value in enumerate(values):
                            v.store(value, v.at(to, i * v.bytes), align=v.bytes)
                    with some:
                        for i, value in enumerate(values):
                            with builder.if_then(builder.icmp_signed("<", const(i), left)):
                                v.store(value, v.at(to, i * v.bytes), align=v.bytes)

            inside = builder.and_(
                builder.icmp_signed("<=", here, const(0)), builder.icmp_signed(">=", there, const(v.lanes))
            )
            with builder.if_else(inside) as (plain, edge):
                with plain:
                    turn(lambda row, offset=offset: v.load(v.at(row, offset)))
                with edge:
                    mask = v.between(here, there)
                    turn(lambda row, offset=offset, mask=mask: v.masked_load(v.at(row, offset), mask))
        return context.get_dummy_value()

    return types.void(itemsize, lanes, *[types.int64] * 7), codegen


@functools.cache
def taking_kernel(itemsize: int, lanes: int, way: str) -> Native:
    """``kernel(channels, low, high, count, source, x_c, x_w, strip)``: `count` pixels of a row to a strip.

    Pixels outside [low, high) are padding; their memory is not read. Of each pixel `channels` are taken, at most a
    vector; lanes beyond are left undefined.
    """

    @native
    def by_channels(channels, low, high, count, source, x_c, x_w, strip):
        _take_channels(itemsize, lanes, channels, low, high, count, source, x_w, strip)

    @native
    def by_pixels(channels, low, high, count, source, x_c, x_w, strip):
        _take_pixels(itemsize, lanes, channels, low, high, count, source, x_c, strip)

    @native
    def anyhow(channels, low, high, count, source, x_c, x_w, strip):
        target = array_at(itemsize, strip, count * lanes)
        for i in range(count):
            for c in range(channels):
                inside = low <= i and i < high
                target[i * lanes + c] = array_at(itemsize, source + i * x_w + c * x_c, 1)[0] if inside else 0

    return {"channels": by_channels, "pixels": by_pixels, "anyhow": anyhow}[way]


@intrinsic(prefer_literal=True)
def _put_channels(typingctx, itemsize, lanes, strip, count, channels, bias, limits, out, step, residual, r_step):
    def codegen(context, builder, signature, args):
        strip, count, channels, bias, limits, out, step, residual, r_step = args[2:]
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        adding = builder.icmp_signed("!=", residual, const(0))
        strip, bias, limits, out, residual = (v.pointer(a) for a in (strip, bias, limits, out, residual))
        low, high = (v.splat(v.load_scalar(v.at(limits, i * v.itemsize))) for i in range(2))
        mask = v.first(channels)
        added = v.masked_load(bias, mask)
        with cgutils.for_range(builder, count) as loop:
            value = v.load(v.at(strip, builder.mul(loop.index, const(v.bytes))), align=v.bytes)
            cell = v.variable(builder.fadd(value, added))
            with builder.if_then(adding):
                extra = v.masked_load(v.at(residual, builder.mul(loop.index, r_step)), mask)
                builder.store(builder.fadd(builder.load(cell), extra), cell)
            value = v.clamp(builder.load(cell), low, high)
            v.masked_store(value, v.at(out, builder.mul(loop.index, step)), mask)
        return context.get_dummy_value()

    return types.void(itemsize, lanes, *[types.int64] * 9), codegen


@intrinsic(prefer_literal=True)
def _put_pixels(typingctx, itemsize, lanes, strip, count, channels, bias, limits, out, step, residual, r_step):
    def codegen(context, builder, signature, args):
        strip, count, channels, bias, limits, out, step, residual, r_step = args[2:]
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        adding = builder.icmp_signed("!=", residual, const(0))
        strip, bias, limits, out, residual = (v.pointer(a) for a in (strip, bias, limits, out, residual))
        low, high = (v.splat(v.load_scalar(v.at(limits, i * v.itemsize))) for i in range(2))
        added = v.masked_load(bias, v.first(channels))
        blocks = builder.sdiv(builder.add(count, const(v.lanes - 1)), const(v.lanes))
        with cgutils.for_range(builder, blocks) as loop:
            first = builder.mul(loop.index, const(v.lanes))
            left = builder.sub(count, first)
            mask = v.first(left)
            rows = []
            for i in range(v.lanes):  # a pixel that does not exist repeats the first: its lane is not written
                exists = builder.icmp_signed("<", const(i), left)
                place = builder.select(exists, builder.add(first, const(i)), first)
                value = v.load(v.at(strip, builder.mul(place, const(v.bytes))), align=v.bytes)
                rows.append(builder.fadd(value, added))
            offset = builder.mul(first, const(v.itemsize))
            to, extra = v.at(out, offset), v.at(residual, offset)
            for j, value in enumerate(v.transpose(rows)):
                with builder.if_then(builder.icmp_signed("<", const(j), channels)):
                    cell = v.variable(value)
                    with builder.if_then(adding):
                        more = v.masked_load(v.at(extra, builder.mul(r_step, const(j))), mask)
                        builder.store(builder.fadd(builder.load(cell), more), cell)
                    v.masked_store(v.clamp(builder.load(cell), low, high), v.at(to, builder.mul(step, const(j))), mask)
        return context.get_dummy_value()

    return types.void(itemsize, lanes, *[types.int64] * 9), codegen


@functools.cache
def putting_kernel(itemsize: int, lanes: int, way: str) -> Native:
    """``kernel(strip, count, channels, bias, limits, out, o_c, o_w, residual, r_c, r_w)``: a strip to a row of pixels.

    Bias, residual (0: none), which lies side by side as the output does, and the two limits on the way.
    """

    @native
    def by_channels(strip, count, channels, bias, limits, out, o_c, o_w, residual, r_c, r_w):
        _put_channels(itemsize, lanes, strip, count, channels, bias, limits, out, o_w, residual, r_w)

    @native
    def by_pixels(strip, count, channels, bias, limits, out, o_c, o_w, residual, r_c, r_w):
        _put_pixels(itemsize, lanes, strip, count, channels, bias, limits, out, o_c, residual, r_c)

    @native
    def anyhow(strip, count, channels, bias, limits, out, o_c, o_w, residual, r_c, r_w):
        sums = array_at(itemsize, strip, count * lanes)
        low, high = array_at(itemsize, limits, 2)
        offsets = array_at(itemsize, bias, channels)
        for i in range(count):
            for k in range(channels):
                value = sums[i * lanes + k] + offsets[k]
                if residual:
                    value += array_at(itemsize, residual + k * r_c + i * r_w, 1)[0]
                value = low if value < low else value
                value = high if value > high else value
                array_at(itemsize, out + k * o_c + i * o_w, 1)[0] = value

    return {"channels": by_channels, "pixels": by_pixels, "anyhow": anyhow}[way]
