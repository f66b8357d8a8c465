"""Vector copies out of an image: runs of pixels whose ends may be padding, and pixels turned into channels' rows."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

from numbaconv.jit import intrinsic
from numbaconv.simd import I32, I64, Lanes, const

MOST_STRIDE = 4
"""The largest stride that is read by whole vectors; beyond it, element by element."""


def _clip(builder, value, low, high):
    value = builder.select(builder.icmp_signed("<", value, low), low, value)
    return builder.select(builder.icmp_signed(">", value, high), high, value)


def _pick(v: Lanes, parts, stride: int):
    """Every `stride`-th element of `stride` vectors in a row."""
    kind = ir.VectorType(I32, v.lanes)
    picked = parts[0]
    for number, part in enumerate(parts[1:], 1):
        lanes = []
        for lane in range(v.lanes):
            vector, place = divmod(lane * stride, v.lanes)
            mine = place if number == 1 else lane  # of the first vector nothing has been moved yet
            lanes.append(v.lanes + place if vector == number else mine if vector < number else 0)
        picked = v.builder.shuffle_vector(picked, part, ir.Constant(kind, lanes))
    return picked


@intrinsic(prefer_literal=True)
def copy_pixels(
    typingctx, itemsize, lanes, stride, rows, low, high, count, source, source_step, target, target_step
):  # fmt: skip
    """Copy a run of `count` pixels of each of `rows` channels; pixels outside [low, high) are padding.

    Pixel i of a channel is element i·stride at `source`, the next channel `source_step` bytes on. Padding becomes zeros
    and its memory, which need not exist, is not read. A channel's run goes to `target`, the next one's `target_step`
    bytes on, and no byte outside the runs is written.
    """

    def codegen(context, builder, signature, args):
        rows, low, high, count, source, source_step, target, target_step = args[3:]
        step = stride.literal_value
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        source, target = v.pointer(source), v.pointer(target)
        size = const(v.lanes)
        high = builder.select(builder.icmp_signed("<", high, count), high, count)
        vectors = builder.sdiv(builder.add(count, const(v.lanes - 1)), size)

        with cgutils.for_range(builder, vectors) as vector:
            first = builder.mul(vector.index, size)
            here, there = builder.sub(low, first), builder.sub(high, first)
            left = builder.sub(count, first)
            from_ = v.at(source, builder.mul(first, const(step * v.itemsize)))
            to = v.at(target, builder.mul(first, const(v.itemsize)))
            # Whole vectors are read plainly; with a stride, where another pixel follows: they reach almost up to it.
            inside = builder.and_(
                builder.icmp_signed("<=", here, const(0)),
                builder.icmp_signed(">=", there, const(v.lanes + (step > 1))),
            )

            def each_channel(read, write):
                with cgutils.for_range(builder, rows) as row:
                    value = read(v.at(from_, builder.mul(row.index, source_step)))
                    write(value, v.at(to, builder.mul(row.index, target_step)))

            def strided(place, masks=None):
                places = [v.at(place, i * v.bytes) for i in range(step)]
                if masks is None:
                    return _pick(v, [v.load(part) for part in places], step)
                return _pick(v, [v.masked_load(part, mask) for part, mask in zip(places, masks, strict=True)], step)

            def masks(begin, end):
                """Which elements of `step` vectors hold the pixels begin ... end."""
                begin = builder.mul(_clip(builder, begin, const(0), size), const(step))
                end = builder.mul(_clip(builder, end, const(0), size), const(step))
                if step > 1:  # nothing is read behind the last pixel
                    some = builder.icmp_signed(">", end, begin)
                    end = builder.select(some, builder.sub(end, const(step - 1)), end)
                offsets = [const(i * v.lanes) for i in range(step)]
                return [v.between(builder.sub(begin, o), builder.sub(end, o)) for o in offsets]

            with builder.if_else(inside) as (whole, ragged):
                with whole:
                    each_channel(strided, v.store)
                with ragged:
                    reading, writing = masks(here, there), v.first(left)
                    each_channel(
                        lambda place: strided(place, reading),
                        lambda value, place: v.masked_store(value, place, writing),
                    )
        return context.get_dummy_value()

    return types.void(
        itemsize, lanes, stride, rows, low, high, count, source, source_step, target, target_step
    ), codegen  # fmt: skip


PLACE = 24
"""Bytes of a pixel in the table of ``turn_pixels``: an address, and the elements [low, high) that exist there."""


@intrinsic(prefer_literal=True)
def places(typingctx, lanes):
    """Room on the stack for a table of `lanes` pixels; its address."""

    def codegen(context, builder, signature, args):
        cells = cgutils.alloca_once(builder, I64, size=lanes.literal_value * PLACE // 8)
        return builder.ptrtoint(cells, I64)

    return types.int64(lanes), codegen


@intrinsic(prefer_literal=True)
def turn_pixels(typingctx, itemsize, lanes, pixels, first, count, table, target, target_step):
    """Transpose: `count` elements, from the `first` on, of at most `lanes` pixels become `count` rows of `pixels`.

    `table` says of each pixel where its elements lie, one after another, and which of them exist; the others are
    padding, become zeros and are not read. At most `lanes` elements at a time.
    """

    def codegen(context, builder, signature, args):
        pixels, first, count, table, target, target_step = args[2:]
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        table = builder.inttoptr(table, I64.as_pointer())
        target = v.pointer(target)
        nothing = ir.Constant(v.mask, [0] * v.lanes)
        offset = builder.mul(first, const(v.itemsize))
        values = []
        for i in range(v.lanes):
            place, low, high = (builder.load(builder.gep(table, [const(3 * i + j)])) for j in range(3))
            high = builder.sub(high, first)
            high = builder.select(builder.icmp_signed("<", high, count), high, count)
            low = builder.sub(low, first)
            exists = builder.and_(builder.icmp_signed("<", const(i), pixels), builder.icmp_signed("<", low, high))
            # A load of no lanes is slow where the address is not mapped: the table always is.
            at = builder.select(exists, v.at(v.pointer(place), offset), v.pointer(args[5]))
            values.append(v.masked_load(at, builder.select(exists, v.between(low, high), nothing)))
        rows, writing = v.transpose(values), v.first(pixels)
        whole = builder.icmp_signed("==", count, const(v.lanes))
        rows_to = [v.at(target, builder.mul(target_step, const(i))) for i in range(v.lanes)]
        with builder.if_else(whole) as (all_rows, some_rows):
            with all_rows:
                for value, to in zip(rows, rows_to, strict=True):
                    v.masked_store(value, to, writing)
            with some_rows:
                for i, (value, to) in enumerate(zip(rows, rows_to, strict=True)):
                    exists = builder.icmp_signed("<", const(i), count)
                    v.masked_store(value, to, builder.select(exists, writing, nothing))
        return context.get_dummy_value()

    return types.void(itemsize, lanes, pixels, first, count, table, target, target_step), codegen
