"""Vector copies that packing and storing are made of: runs, rows, transposed blocks."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

from numbaconv.jit import intrinsic
from numbaconv.simd import Lanes, const


def _vectors(v: Lanes, count, body):
    """Emit ``body(byte offset, mask or None)`` for every whole vector of `count` elements, then for the rest."""
    builder = v.builder
    whole = builder.sdiv(count, const(v.lanes))
    with cgutils.for_range(builder, whole) as loop:
        body(builder.mul(loop.index, const(v.bytes)), None)
    rest = builder.sub(count, builder.mul(whole, const(v.lanes)))
    with builder.if_then(builder.icmp_signed(">", rest, const(0))):
        body(builder.mul(whole, const(v.bytes)), v.first(rest))


def _read(v: Lanes, address, mask):
    return v.load(address) if mask is None else v.masked_load(address, mask)


def _write(v: Lanes, value, address, mask):
    if mask is None:
        v.store(value, address)
    else:
        v.masked_store(value, address, mask)


@intrinsic(prefer_literal=True)
def copy_rows(typingctx, itemsize, lanes, rows, count, source, source_step, target, target_step):
    """Copy `rows` rows of `count` elements; each source row is fetched eight rows ahead."""

    def codegen(context, builder, signature, args):
        rows, count, source, source_step, target, target_step = args[2:]
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        source, target = v.pointer(source), v.pointer(target)
        with cgutils.for_range(builder, rows) as loop:
            row = v.at(source, builder.mul(loop.index, source_step))
            ahead = v.at(row, builder.mul(source_step, const(8)))
            to = v.at(target, builder.mul(loop.index, target_step))

            def body(offset, mask):
                v.prefetch(v.at(ahead, offset))
                _write(v, _read(v, v.at(row, offset), mask), v.at(to, offset), mask)

            _vectors(v, count, body)
        return context.get_dummy_value()

    return types.void(itemsize, lanes, rows, count, source, source_step, target, target_step), codegen


@intrinsic(prefer_literal=True)
def copy_run(typingctx, itemsize, lanes, count, source, target):
    """Copy `count` contiguous elements."""

    def codegen(context, builder, signature, args):
        count, source, target = args[2:]
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        source, target = v.pointer(source), v.pointer(target)
        _vectors(
            v, count, lambda offset, mask: _write(v, _read(v, v.at(source, offset), mask), v.at(target, offset), mask)
        )
        return context.get_dummy_value()

    return types.void(itemsize, lanes, types.int64, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def copy_panels(typingctx, itemsize, lanes, rows, count, source, source_step, target, width):
    """Copy `rows` rows of `count` elements into panels: `width` of a row, a whole number of vectors, go to each.

    Panels are rows x width elements, one after another; the last is filled with zeros.
    """

    def codegen(context, builder, signature, args):
        rows, count, source, source_step, target, width = args[2:]
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        source, target = v.pointer(source), v.pointer(target)
        width_bytes = builder.mul(width, const(v.itemsize))
        panel_bytes = builder.mul(rows, width_bytes)
        whole, vectors = builder.sdiv(count, width), builder.sdiv(width, const(v.lanes))
        rest = builder.sub(count, builder.mul(whole, width))
        with cgutils.for_range(builder, rows) as loop:
            row = v.at(source, builder.mul(loop.index, source_step))
            to = v.at(target, builder.mul(loop.index, width_bytes))
            with cgutils.for_range(builder, whole) as panels:
                here = v.at(row, builder.mul(panels.index, width_bytes))
                there = v.at(to, builder.mul(panels.index, panel_bytes))
                with cgutils.for_range(builder, vectors) as inner:
                    offset = builder.mul(inner.index, const(v.bytes))
                    v.prefetch(v.at(v.at(here, source_step), offset))
                    v.store(v.load(v.at(here, offset)), v.at(there, offset))
            with builder.if_then(builder.icmp_signed(">", rest, const(0))):
                here = v.at(row, builder.mul(whole, width_bytes))
                there = v.at(to, builder.mul(whole, panel_bytes))
                with cgutils.for_range(builder, vectors) as inner:
                    offset = builder.mul(inner.index, const(v.bytes))
                    mask = v.first(builder.sub(rest, builder.mul(inner.index, const(v.lanes))))
                    v.store(v.masked_load(v.at(here, offset), mask), v.at(there, offset))
        return context.get_dummy_value()

    return types.void(itemsize, lanes, rows, count, source, source_step, target, width), codegen


@intrinsic(prefer_literal=True)
def fill_zero(typingctx, itemsize, lanes, count, target):
    """Write `count` zeros."""

    def codegen(context, builder, signature, args):
        count, target = args[2:]
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        target = v.pointer(target)
        _vectors(v, count, lambda offset, mask: _write(v, v.zero, v.at(target, offset), mask))
        return context.get_dummy_value()

    return types.void(itemsize, lanes, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def copy_strided(typingctx, itemsize, count, source, source_step, target, target_step):
    """Copy `count` elements, each so many bytes after the last."""

    def codegen(context, builder, signature, args):
        count, source, source_step, target, target_step = args[1:]
        v = Lanes(builder, itemsize.literal_value, 1)
        source, target = v.pointer(source), v.pointer(target)
        with cgutils.for_range(builder, count) as loop:
            value = v.load_scalar(v.at(source, builder.mul(loop.index, source_step)))
            v.store_scalar(value, v.at(target, builder.mul(loop.index, target_step)))
        return context.get_dummy_value()

    return types.void(itemsize, *[types.int64] * 5), codegen


@intrinsic(prefer_literal=True)
def transpose_block(typingctx, itemsize, lanes, rows, count, source, source_step, target, target_step):
    """Write the transpose of a block of at most lanes x lanes elements.

    `rows` source rows of `count` elements become `count` target rows of `rows` elements; nothing else is touched.
    """

    def codegen(context, builder, signature, args):
        rows, count, source, source_step, target, target_step = args[2:]
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        source, target = v.pointer(source), v.pointer(target)
        size = v.lanes
        from_rows = [v.at(source, builder.mul(source_step, const(i))) for i in range(size)]
        to_rows = [v.at(target, builder.mul(target_step, const(i))) for i in range(size)]
        wide = builder.icmp_signed("==", count, const(size))
        nothing = ir.Constant(v.mask, [0] * size)
        writing = v.first(rows)

        with builder.if_else(wide) as (whole, ragged):
            with whole:
                # A row that does not exist is read from the first: its lanes are never written.
                values = []
                for i, row in enumerate(from_rows):
                    exists = builder.icmp_signed("<", const(i), rows)
                    place = builder.select(exists, row, source)
                    v.prefetch(v.at(place, 4 * v.bytes))
                    values.append(v.load(place))
                for value, to in zip(v.transpose(values), to_rows, strict=True):
                    v.masked_store(value, to, writing)
            with ragged:
                reading = v.first(count)
                values = []
                for i, row in enumerate(from_rows):
                    exists = builder.icmp_signed("<", const(i), rows)
                    values.append(v.masked_load(row, builder.select(exists, reading, nothing)))
                for i, (value, to) in enumerate(zip(v.transpose(values), to_rows, strict=True)):
                    exists = builder.icmp_signed("<", const(i), count)
                    v.masked_store(value, to, builder.select(exists, writing, nothing))
        return context.get_dummy_value()

    return types.void(itemsize, lanes, rows, count, source, source_step, target, target_step), codegen


@intrinsic(prefer_literal=True)
def finish_run(
    typingctx, itemsize, lanes, fused, count, source, target, accumulate, finish, scalars, bias, biases, residual
):
    """Put `count` contiguous sums into the result, as the micro-kernel's contract says.

    `bias` is the address of one element (for the whole run), `biases` and `residual` of `count` elements.
    """

    def codegen(context, builder, signature, args):
        count, source, target, accumulate, finish, scalars, bias, biases, residual = args[3:]
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value, bool(fused.literal_value))
        source, target, scalars, bias, biases, residual = (
            v.pointer(address) for address in (source, target, scalars, bias, biases, residual)
        )
        adding = builder.icmp_signed("!=", accumulate, const(0))
        finishing = builder.icmp_signed("!=", finish, const(0))

        def body(offset, mask):
            cell = v.variable(_read(v, v.at(source, offset), mask))
            with builder.if_then(adding):
                builder.store(builder.fadd(builder.load(cell), _read(v, v.at(target, offset), mask)), cell)
            with builder.if_then(finishing):
                alpha, low, high = (v.splat(v.load_scalar(v.at(scalars, i * v.itemsize))) for i in range(3))
                offsets = builder.fadd(v.splat(v.load_scalar(bias)), _read(v, v.at(biases, offset), mask))
                value = v.fma(builder.load(cell), alpha, offsets)
                value = builder.fadd(value, _read(v, v.at(residual, offset), mask))
                builder.store(v.clamp(value, low, high), cell)
            _write(v, builder.load(cell), v.at(target, offset), mask)

        _vectors(v, count, body)
        return context.get_dummy_value()

    return types.void(
        itemsize, lanes, fused, count, source, target, accumulate, finish, scalars, bias, biases, residual
    ), codegen
