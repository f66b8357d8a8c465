"""Packing for bf16 arithmetic: any packer's float32 panels, split into parts and joined in pairs on their way.

    packer ──► float32, STEPS x COLUMNS ──► part 0 of two steps as pairs, then part 1 ... ──► panel
               (on the stack, stays in L1)

A splitter is a ``native`` function

    split(packer, source, first, count, p0, end, target, width, scan)

that packs terms p0 ... end of k like ``gemm.pack``'s packers do, in panels of `width` with as many steps as an
arithmetic needs (the last is filled with zeros). For tiles, a row of A has its 16 pairs of a step side by side. On the
way it notes the largest and the smallest magnitude but zero in `scan`, which ``guard.py`` reads; with a target of 0 it
does nothing else.
"""

from __future__ import annotations

import functools

from numba import types
from numba.core import cgutils

from numbaconv.gemm.arithmetic import Arithmetic
from numbaconv.gemm.copying import fill_zero, transpose_block
from numbaconv.gemm.pairs import Pairs
from numbaconv.jit import Native, intrinsic, native
from numbaconv.machine import detect
from numbaconv.simd import const, invoke, room

STEPS, COLUMNS = 16, 256  # runs long enough along either axis for the packer, 16 KiB in L1
MOST_WIDTH = 256
DEEP = 32  # terms of a step of tiles
ROOM = STEPS * MOST_WIDTH * 4
MAGNITUDE = 0x7FFFFFFF
SCAN_HALF = 64
"""Bytes of the scan's vector of largest magnitudes; that of the smallest follows."""


@intrinsic(prefer_literal=True)
def _split_panel(typingctx, lanes, arithmetic, steps, width, source, target, scan):
    """Split `steps` x `width` floats into pairs at `target`, if that is not 0; and scan them."""
    chosen = Arithmetic.of(arithmetic.literal_value)

    def codegen(context, builder, signature, args):
        steps, width, source, target, scan = args[2:]
        v = Pairs(builder, lanes.literal_value, True, chosen.native)
        source, target, scan = v.pointer(source), v.pointer(target), v.pointer(scan)
        writing = builder.icmp_unsigned("!=", builder.ptrtoint(target, width.type), const(0))
        most_at, least_at = scan, v.at(scan, SCAN_HALF)
        most, least = (v.variable(v.bits(v.load(place))) for place in (most_at, least_at))
        row_bytes = builder.mul(width, const(v.itemsize))

        def look(x):
            """Note magnitudes; zero, less one, is the largest of all and hides no other."""
            magnitude = builder.and_(v.bits(x), v.constant(MAGNITUDE))
            rest = builder.sub(magnitude, v.constant(1))
            for cell, value, order in ((most, magnitude, ">"), (least, rest, "<")):
                known = builder.load(cell)
                builder.store(builder.select(builder.icmp_unsigned(order, value, known), value, known), cell)

        def columns(first, two: bool, offset, mask):
            """One vector of each of two steps; of one step, and zeros."""

            def read(row):
                place = v.at(row, offset)
                return v.load(place) if mask is None else v.masked_load(place, mask)

            here = v.at(source, builder.mul(first, row_bytes))
            x, y = read(here), read(v.at(here, row_bytes)) if two else v.zero
            look(x)
            if two:
                look(y)
            with builder.if_then(writing):
                step = builder.mul(builder.lshr(first, const(1)), builder.mul(row_bytes, const(chosen.parts)))
                to = v.at(v.at(target, step), offset)
                for pairs in v.split(x, y, chosen.parts):
                    value = v.floats(pairs)
                    if mask is None:
                        v.store(value, to)
                    else:
                        v.masked_store(value, to, mask)
                    to = v.at(to, row_bytes)

        def row(first, two: bool):
            whole = builder.sdiv(width, const(v.lanes))
            with cgutils.for_range(builder, whole) as loop:
                columns(first, two, builder.mul(loop.index, const(v.bytes)), None)
            rest = builder.sub(width, builder.mul(whole, const(v.lanes)))
            with builder.if_then(builder.icmp_signed(">", rest, const(0))):
                columns(first, two, builder.mul(whole, const(v.bytes)), v.first(rest))

        with cgutils.for_range(builder, builder.sdiv(steps, const(2))) as loop:
            row(builder.mul(loop.index, const(2)), True)
        odd = builder.and_(steps, const(1))
        with builder.if_then(builder.icmp_signed("!=", odd, const(0))):
            row(builder.sub(steps, const(1)), False)
        for cell, place in ((most, most_at), (least, least_at)):
            v.store(v.floats(builder.load(cell)), place)
        return context.get_dummy_value()

    return types.void(lanes, arithmetic, *[types.int64] * 5), codegen


@functools.cache
def splitter(arithmetic: Arithmetic, rows: bool = False) -> Native:
    """The splitter for an arithmetic; `rows`: for the A of tiles."""
    lanes, code, step_bytes = detect().vector_bits // 32, arithmetic.code, arithmetic.step_bytes(4)
    depth, parts = arithmetic.depth, arithmetic.parts
    pair_bytes = 4 * parts
    if rows:
        return _row_splitter(code, step_bytes, parts)

    @native
    def split(packer, source, first, count, p0, end, target, width, scan):
        floats = room(ROOM)
        whole = (end - p0 + depth - 1) // depth
        panel_bytes = whole * width * step_bytes
        at_once = max(1, COLUMNS // width) * width
        for x in range(0, count, at_once):
            columns = min(at_once, count - x)
            panels = (columns + width - 1) // width
            for k in range(p0, end, STEPS):
                steps = min(STEPS, end - k)
                invoke(packer, (source, first + x, columns, k, steps, floats, width))
                for panel in range(panels):
                    to = target + (x // width + panel) * panel_bytes + (k - p0) // 2 * width * pair_bytes
                    _split_panel(lanes, code, steps, width, floats + panel * steps * width * 4, to if target else 0,
                                 scan)  # fmt: skip
            if target:
                pairs = (end - p0 + 1) // 2
                for panel in range(panels):
                    to = target + (x // width + panel) * panel_bytes + pairs * width * pair_bytes
                    fill_zero(4, lanes, (whole * (depth // 2) - pairs) * width * parts, to)

    return split


def _row_splitter(code: int, step_bytes: int, parts: int) -> Native:
    """Pairs as for B, of a step and a panel at a time; then each part is turned."""
    lanes = detect().vector_bits // 32

    @native
    def split(packer, source, first, count, p0, end, target, width, scan):
        floats, turned = room(ROOM), room(ROOM)
        panel_bytes = (end - p0 + DEEP - 1) // DEEP * width * step_bytes
        for x in range(0, count, width):
            columns = min(width, count - x)
            for k in range(p0, end, DEEP):
                steps = min(DEEP, end - k)
                invoke(packer, (source, first + x, columns, k, steps, floats, width))
                pairs = (steps + 1) // 2
                _split_panel(lanes, code, steps, width, floats, turned if target else 0, scan)
                if target:
                    row = width * 4 * parts
                    fill_zero(4, lanes, (DEEP // 2 - pairs) * width * parts, turned + pairs * row)
                    to = target + x // width * panel_bytes + (k - p0) // DEEP * width * step_bytes
                    for part in range(parts):
                        for c in range(0, width, lanes):
                            for p in range(0, DEEP // 2, lanes):
                                transpose_block(4, lanes, min(lanes, DEEP // 2 - p), min(lanes, width - c),
                                                turned + p * row + (part * width + c) * 4, row,
                                                to + (part * width + c) * 64 + p * 4, 64)  # fmt: skip

    return split
