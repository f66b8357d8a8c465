"""Vector code of the operators between the matrix products: response normalisation and max pooling.

Both are tasks for ``devices.threads.parallel``: a task normalises a run of pixels of one image through all channels, or
pools one plane. NaN goes through both.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from numbaconv.jit import Native, intrinsic, native
from numbaconv.machine import detect
from numbaconv.simd import I32, Lanes, const, record_at

NORM = np.dtype([(name, np.int64) for name in ("source", "target", "scale", "channels", "pixels", "runs", "run")])
"""Images of `channels` planes of `pixels` floats, each cut into `runs` runs of at most `run` pixels (a task each).
`scale` is the address of one float."""

POOL = np.dtype([(name, np.int64) for name in ("source", "target", "height", "width", "rows", "columns")])
"""Planes of height x width floats and the rows x columns windows of each, none of which leaves its plane."""

FOURTH_ROOT = 1331193446
"""(5/4)·(127 − 0.0475)·2²³: subtracting a quarter of a float's bits from it gives the inverse fourth root to 3 %."""

HUGE = float(np.float32(3e38))


@functools.cache
def norm_task() -> Native:
    """The task of a ``NORM`` record."""
    machine = detect()
    lanes, fused = machine.lanes("float32"), int(machine.fma)
    # Several vectors side by side, as many as there are registers for: one alone is a long chain of instructions.
    abreast = machine.vector_registers // 8

    @native
    def task(number, worker, arguments):
        call = record_at(arguments, NORM)
        plane = 4 * call.pixels
        first = number % call.runs * call.run
        place = number // call.runs * call.channels * plane + 4 * first
        count = min(call.run, call.pixels - first)
        for done in range(0, count, abreast * lanes):
            at = place + 4 * done
            _normalize(lanes, abreast, fused, count - done, call.source + at, call.target + at,
                       plane, call.channels, call.scale)  # fmt: skip

    return task


@intrinsic(prefer_literal=True)
def _normalize(typingctx, lanes, abreast, fused, count, source, target, plane, channels, scale):
    """Normalise `abreast` vectors of pixels (`count` pixels, if that is fewer) through channels `plane` bytes apart."""

    def codegen(context, builder, signature, args):
        count, source, target, plane, channels, scale = args[3:]
        parts = range(abreast.literal_value)
        v = Lanes(builder, 4, lanes.literal_value, bool(fused.literal_value))
        source, target = v.pointer(source), v.pointer(target)
        scale = v.splat(v.load_scalar(v.pointer(scale)))
        masks = [v.first(builder.sub(count, const(part * v.lanes))) for part in parts]

        def places(base, channel):
            row = v.at(base, builder.mul(channel, plane))
            return [v.at(row, part * v.bytes) for part in parts]

        def read(channel):
            """The pixels of a channel; zeros beyond the last one."""
            exists = builder.icmp_signed("<", channel, channels)
            rows = places(source, builder.select(exists, channel, const(0)))
            loads = [v.masked_load(row, mask) for row, mask in zip(rows, masks, strict=True)]
            return [builder.select(exists, load, v.zero) for load in loads]

        def square(values):
            return [builder.fmul(value, value) for value in values]

        def cells(values):
            return [v.variable(value) for value in values]

        def load(cells):
            return [builder.load(cell) for cell in cells]

        start, after = read(const(0)), read(const(1))
        nothing = [v.zero for _ in parts]
        pixels = [cells(start), cells(after)]
        squares = [cells(values) for values in (nothing, nothing, square(start), square(after))]
        with cgutils.for_range(builder, channels) as loop:
            coming = read(builder.add(loop.index, const(2)))
            values = [*map(load, pixels), coming]
            window = [*map(load, squares), square(coming)]
            sums = window[0]
            for term in window[1:]:
                sums = [builder.fadd(*pair) for pair in zip(sums, term, strict=True)]
            powers = _power(v, [v.fma(scale, total, _all(v, 1.0)) for total in sums])
            for value, power, place, mask in zip(values[0], powers, places(target, loop.index), masks, strict=True):
                v.masked_store(builder.fmul(value, power), place, mask)
            for old, new in zip([*pixels, *squares], [*values[1:], *window[1:]], strict=True):
                for cell, value in zip(old, new, strict=True):
                    builder.store(value, cell)
        return context.get_dummy_value()

    return types.void(lanes, abreast, fused, count, source, target, plane, channels, scale), codegen


def _all(v: Lanes, number: float) -> ir.Constant:
    return ir.Constant(v.vector, [number] * v.lanes)


def _power(v: Lanes, norms: list[Any]) -> list[Any]:
    """norm ** -0.75 for each norm >= 1: Newton's steps from the exponent's bits, faster than square roots."""
    builder = v.builder
    bits = ir.VectorType(I32, v.lanes)
    huge, magic, two = _all(v, HUGE), ir.Constant(bits, [FOURTH_ROOT] * v.lanes), ir.Constant(bits, [2] * v.lanes)
    norms = [builder.select(builder.fcmp_ordered(">", norm, huge), huge, norm) for norm in norms]
    roots = [
        builder.bitcast(builder.sub(magic, builder.ashr(builder.bitcast(norm, bits), two)), v.vector) for norm in norms
    ]
    quarters = [builder.fmul(norm, _all(v, -0.25)) for norm in norms]
    for _ in range(3):
        squares = [builder.fmul(root, root) for root in roots]
        steps = [builder.fmul(quarter, square) for quarter, square in zip(quarters, squares, strict=True)]
        steps = [v.fma(step, square, _all(v, 1.25)) for step, square in zip(steps, squares, strict=True)]
        roots = [builder.fmul(root, step) for root, step in zip(roots, steps, strict=True)]
    return [builder.fmul(root, builder.fmul(root, root)) for root in roots]


@functools.cache
def pool_task(size: int, stride: int) -> Native:
    """The task of a ``POOL`` record with size x size windows every `stride` pixels."""
    lanes = detect().lanes("float32") if stride <= 2 else 1  # a wider stride has no vector code: nobody uses one

    @native
    def task(number, worker, arguments):
        call = record_at(arguments, POOL)
        plane = call.source + number * 4 * call.height * call.width
        target = call.target + number * 4 * call.rows * call.columns
        for row in range(call.rows):
            for done in range(0, call.columns, lanes):
                start = plane + 4 * (row * stride * call.width + done * stride)
                _largest(lanes, size, stride, call.columns - done, start, 4 * call.width, target + 4 * done)
            target += 4 * call.columns

    return task


@intrinsic(prefer_literal=True)
def _largest(typingctx, lanes, size, stride, count, source, width, target):
    """The maxima of a vector of windows (`count` of them, if they are fewer); rows lie `width` bytes apart.

    Stride 2 looks at the windows of all pixels, two vectors of them, and keeps every other one.
    """

    def codegen(context, builder, signature, args):
        count, source, width, target = args[3:]
        v = Lanes(builder, 4, lanes.literal_value)
        source, target = v.pointer(source), v.pointer(target)
        step = stride.literal_value if v.lanes > 1 else 1
        pixels = builder.add(builder.mul(builder.sub(count, const(1)), const(step)), const(1))
        parts = []
        for part in range(step):
            mask = v.first(builder.sub(pixels, const(part * v.lanes)))
            largest = spoilt = None
            for row in range(size.literal_value):
                line = v.at(source, builder.mul(width, const(row)))
                for column in range(size.literal_value):
                    value = v.masked_load(v.at(line, part * v.bytes + 4 * column), mask)
                    nan = builder.fcmp_unordered("uno", value, value)
                    spoilt = nan if spoilt is None else builder.or_(spoilt, nan)
                    larger = value if largest is None else builder.fcmp_ordered(">", value, largest)
                    largest = value if largest is None else builder.select(larger, value, largest)
            parts.append(builder.select(spoilt, _all(v, float("nan")), largest))
        if step == 2:
            even = ir.Constant(ir.VectorType(I32, v.lanes), list(range(0, 2 * v.lanes, 2)))
            parts = [builder.shuffle_vector(*parts, even)]
        v.masked_store(parts[0], target, v.first(count))
        return context.get_dummy_value()

    return types.void(lanes, size, stride, count, source, width, target), codegen
