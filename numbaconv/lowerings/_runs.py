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
            inside = builder.and_(
                builder.icmp_signed("<=", here, const(0)), builder.icmp_signed(">=", there, size)
            )  # fmt: skip

            def each_channel(read, write):
                with cgutils.for_range(builder, rows) as row:
                    value = read(v.at(from_, builder.mul(row.index, source_step)))
                    write(value, v.at(to, builder.mul(row.index, target_step)))

            def strided(place, masks):
                parts = [v.masked_load(v.at(place, i * v.bytes), mask) for i, mask in enumerate(masks)]
                return _pick(v, parts, step)

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
                    if step == 1:
                        each_channel(v.load, v.store)
                    else:
                        reading = masks(const(0), size)
                        each_channel(lambda place: strided(place, reading), v.store)
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


@intrinsic(prefer_literal=True)
def pointers(typingctx, lanes):
    """Room for `lanes` addresses on the stack; the address of the first."""

    def codegen(context, builder, signature, args):
        cells = cgutils.alloca_once(builder, I64, size=lanes.literal_value)
        return builder.ptrtoint(cells, I64)

    return types.int64(lanes), codegen


@intrinsic(prefer_literal=True)
def turn_pixels(typingctx, itemsize, lanes, pixels, count, places, offset, target, target_step):
    """Transpose: `count` channels of at most `lanes` pixels become `count` rows of `pixels` elements.

    `places` is the address of a table of `lanes` addresses, one a pixel; the channels of a pixel are contiguous from
    `offset` bytes on. A pixel whose address is 0 is padding: zeros. At most `lanes` channels at a time.
    """

    def codegen(context, builder, signature, args):
        pixels, count, places, offset, target, target_step = args[2:]
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        table = builder.inttoptr(places, I64.as_pointer())
        target = v.pointer(target)
        nothing = ir.Constant(v.mask, [0] * v.lanes)
        reading, writing = v.first(count), v.first(pixels)
        values = []
        for i in range(v.lanes):
            place = builder.load(builder.gep(table, [const(i)]))
            exists = builder.and_(
                builder.icmp_signed("<", const(i), pixels), builder.icmp_signed("!=", place, const(0))
            )  # fmt: skip
            at = v.at(v.pointer(place), offset)
            values.append(v.masked_load(at, builder.select(exists, reading, nothing)))
        rows = v.transpose(values)
        whole = builder.icmp_signed("==", count, const(v.lanes))
        places_to = [v.at(target, builder.mul(target_step, const(i))) for i in range(v.lanes)]
        with builder.if_else(whole) as (all_rows, some_rows):
            with all_rows:
                for value, to in zip(rows, places_to, strict=True):
                    v.masked_store(value, to, writing)
            with some_rows:
                for i, (value, to) in enumerate(zip(rows, places_to, strict=True)):
                    exists = builder.icmp_signed("<", const(i), count)
                    v.masked_store(value, to, builder.select(exists, writing, nothing))
        return context.get_dummy_value()

    return types.void(itemsize, lanes, pixels, count, places, offset, target, target_step), codegen
