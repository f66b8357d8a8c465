"""The task of a Winograd convolution: a block of tiles from the input to the output, in one core's cache.

    for each block of tiles, group, part of the output channels:
        tiles of the input ──B^T x B──► V [product][tile][channel]
        for each chunk of output channels:
            for each product, panel of weights, piece of the sum, row group of tiles:
                M [product][tile][chunk] += V · U, as a GEMM's tile
            M ──A^T m A──► tiles of the output, with bias, residual and activation

Every sum over the channels is made of the same pieces, whatever the division into tasks: so are the bits.
"""

from __future__ import annotations

import functools

import numpy as np

from numbaconv.jit import Native, compiled, native
from numbaconv.simd import invoke, load_i64, record_at, stack, store_i64

TABLE_BYTES = 8 * 64
"""Of the addresses of a tile of at most 8 x 8."""

AHEAD = 24
"""Terms of a sum: weights are fetched so far ahead; in the last of several uses of a panel, those of the next one."""

SIZES = ("mb", "ih", "iw", "oh", "ow", "pad_top", "pad_left")
STEPS = ("x_n", "x_c", "x_h", "x_w", "o_n", "o_c", "o_h", "o_w", "r_n", "r_c", "r_h", "r_w")
FIELDS = (
    "x", "out", "w", "bias", "limits", "residual", "scratch", "scratch_step",
    "stages", "read", "write", "take", "put", "kernels", "fewest_rows", "zeros", "no_limits", "whole_in", "whole_out",
    "m_h", "m_w", "n_h", "n_w", "tiles_h", "tiles_w", "tiles", "row_groups", "groups_a_block", "blocks", "parts",
    "inner", "pieces", "channels", "vectors", "chunk", "panel", "w_group",
    "v_row", "v_step", "m_at", "m_row", "m_step", "products", "strip", "strip_row",
    *SIZES, *STEPS,
)  # fmt: skip
WINOGRAD = np.dtype([(name, np.int64) for name in FIELDS])
"""Addresses; of the kernels too (`kernels`: of one row of weights' vectors, then of two ...); where no strips are
needed; outputs and inputs of a tile's sides; tiles and their division into row groups, blocks and parts; a group's
input channels, pieces of the sum over them, output channels, output vectors, of a chunk, of a panel; a group's
weights in bytes; steps of V and M, where M and a worker's strip begin in its scratch, a row of a strip; the problem;
strides in bytes."""


@compiled
def _run(g, tile, end):
    """(image, tile row, tile column, tiles) of the tiles from `tile` on that lie in one row, up to `end`."""
    n, place = tile // (g.tiles_h * g.tiles_w), tile % (g.tiles_h * g.tiles_w)
    row, column = place // g.tiles_w, place % g.tiles_w
    return n, row, column, min(end - tile, g.tiles_w - column)


@compiled
def _places(table, address, rows, columns, row_step, step):
    """The table of a tile's addresses whose first pixel is at `address`."""
    for i in range(rows):
        for j in range(columns):
            store_i64(table + 8 * (i * columns + j), address + i * row_step + j * step)


@compiled
def _existing(edge, table, shift, nowhere, rows, columns, top, left, height, width):
    """A table for a tile at row `top`, column `left` that lies partly outside: there its addresses are `nowhere`."""
    for i in range(rows):
        there = 0 <= top + i and top + i < height
        for j in range(columns):
            place = 8 * (i * columns + j)
            inside = there and 0 <= left + j and left + j < width
            store_i64(edge + place, load_i64(table + place) + shift if inside else nowhere)


@functools.cache
def _stages(itemsize: int, lanes: int) -> tuple[Native, Native, Native]:
    """The three stages of a task, as C functions."""
    vector = lanes * itemsize

    @native
    def read(address, group, first, end, scratch):
        """Tiles `first` ... `end` of the input into V."""
        g = record_at(address, WINOGRAD)
        table, edge = stack(TABLE_BYTES), stack(TABLE_BYTES)
        strip = scratch + g.strip
        vectors = (g.inner + lanes - 1) // lanes
        if g.whole_in:
            _places(table, g.x + group * g.inner * g.x_c, g.n_h, g.n_w, g.x_h, g.x_w)
        else:
            _places(table, strip, g.n_h, g.n_w, g.strip_row, vector)
        tile = first
        while tile < end:
            n, row, column, tiles = _run(g, tile, end)
            top, left = row * g.m_h - g.pad_top, column * g.m_w - g.pad_left
            image = g.x + n * g.x_n + group * g.inner * g.x_c
            target = scratch + (tile - first) * g.v_row
            if g.whole_in:
                for t in range(tiles):
                    z, to = left + t * g.m_w, target + t * g.v_row
                    shift = n * g.x_n + top * g.x_h + z * g.x_w
                    if top >= 0 and top + g.n_h <= g.ih and z >= 0 and z + g.n_w <= g.iw:
                        invoke(g.read, (table, shift, vectors, vector, to, g.v_step))
                    else:
                        _existing(edge, table, shift, g.zeros, g.n_h, g.n_w, top, z, g.ih, g.iw)
                        invoke(g.read, (edge, 0, vectors, vector, to, g.v_step))
            else:
                count = (tiles - 1) * g.m_w + g.n_w
                low, high = max(-left, 0), min(g.iw - left, count)
                for c in range(vectors):
                    for i in range(g.n_h):
                        y = top + i
                        outside = y < 0 or y >= g.ih or low >= high
                        source = g.x if outside else image + c * lanes * g.x_c + y * g.x_h + left * g.x_w
                        invoke(g.take, (min(lanes, g.inner - c * lanes), count if outside else low,
                                        0 if outside else high, count, source, g.x_c, g.x_w,
                                        strip + i * g.strip_row))  # fmt: skip
                    for t in range(tiles):
                        invoke(g.read, (table, t * g.m_w * vector, 1, 0, target + t * g.v_row + c * vector, g.v_step))
            tile += tiles

    @native
    def multiply(address, group, first_group, end_group, first_tile, chunk, scratch):
        """V times a chunk of the weights into M."""
        g = record_at(address, WINOGRAD)
        vectors = min(g.chunk, g.vectors - chunk * g.chunk)
        weights = g.w + group * g.w_group + chunk * g.chunk * vector * g.products * g.inner
        for product in range(g.products):
            for p in range(0, vectors, g.panel):
                wide = min(g.panel, vectors - p)
                kernels = g.kernels + 16 * (wide - 1)
                for piece in range(g.pieces):
                    c = piece * g.inner // g.pieces
                    depth = (piece + 1) * g.inner // g.pieces - c
                    for number in range(first_group, end_group):
                        row = number * g.tiles // g.row_groups
                        rows = (number + 1) * g.tiles // g.row_groups - row
                        v = scratch + product * g.v_step + (row - first_tile) * g.v_row + c * itemsize
                        m = scratch + g.m_at + product * g.m_step + (row - first_tile) * g.m_row + p * vector
                        last = first_group < number and number + 1 == end_group
                        ahead = wide * vector * (max(AHEAD, depth) if last else AHEAD)
                        invoke(load_i64(kernels + 8 * (rows - g.fewest_rows)),
                               (depth, v, g.v_row, weights, m, g.m_row, ahead, piece))  # fmt: skip
                    weights += wide * vector * depth

    @native
    def write(address, group, first, end, chunk, scratch):
        """M into tiles `first` ... `end` of a chunk of the output channels."""
        g = record_at(address, WINOGRAD)
        table, edge, extra, extra_edge = stack(TABLE_BYTES), stack(TABLE_BYTES), stack(TABLE_BYTES), stack(TABLE_BYTES)
        strip, products = scratch + g.strip, scratch + g.m_at
        vectors = min(g.chunk, g.vectors - chunk * g.chunk)
        k = chunk * g.chunk * lanes
        channel = group * g.channels + k
        bias = g.bias + channel * itemsize
        if g.whole_out:
            _places(table, g.out + channel * g.o_c, g.m_h, g.m_w, g.o_h, g.o_w)
            _places(extra, g.residual + channel * g.r_c, g.m_h, g.m_w, g.r_h, g.r_w)
        else:
            _places(table, strip, g.m_h, g.m_w, g.strip_row, vector)
        tile = first
        while tile < end:
            n, row, column, tiles = _run(g, tile, end)
            top, left = row * g.m_h, column * g.m_w
            image = g.out + n * g.o_n + channel * g.o_c
            added = g.residual + n * g.r_n + channel * g.r_c
            source = products + (tile - first) * g.m_row
            if g.whole_out:
                for t in range(tiles):
                    z, m = left + t * g.m_w, source + t * g.m_row
                    shift = n * g.o_n + top * g.o_h + z * g.o_w
                    r_shift = n * g.r_n + top * g.r_h + z * g.r_w
                    if top + g.m_h <= g.oh and z + g.m_w <= g.ow:
                        invoke(g.write, (m, g.m_step, vectors, bias, g.limits, table, shift,
                                         extra if g.residual else 0, r_shift))  # fmt: skip
                    else:
                        _existing(edge, table, shift, strip, g.m_h, g.m_w, top, z, g.oh, g.ow)
                        _existing(extra_edge, extra, r_shift, strip, g.m_h, g.m_w, top, z, g.oh, g.ow)
                        invoke(g.write, (m, g.m_step, vectors, bias, g.limits, edge, 0,
                                         extra_edge if g.residual else 0, 0))  # fmt: skip
            else:
                count = min(tiles * g.m_w, g.ow - left)
                for v in range(vectors):
                    for t in range(tiles):
                        invoke(g.write, (source + t * g.m_row + v * vector, g.m_step, 1, g.zeros, g.no_limits, table,
                                         t * g.m_w * vector, 0, 0))  # fmt: skip
                    shift = v * lanes
                    for i in range(min(g.m_h, g.oh - top)):
                        more = added + shift * g.r_c + (top + i) * g.r_h + left * g.r_w
                        invoke(g.put, (strip + i * g.strip_row, count, min(lanes, g.channels - k - shift),
                                       bias + shift * itemsize, g.limits,
                                       image + shift * g.o_c + (top + i) * g.o_h + left * g.o_w, g.o_c, g.o_w,
                                       more if g.residual else 0, g.r_c, g.r_w))  # fmt: skip
            tile += tiles

    return read, multiply, write


@functools.cache
def stage_addresses(itemsize: int, lanes: int) -> np.ndarray:
    """Where the three stages are."""
    return np.array([stage.address for stage in _stages(itemsize, lanes)], np.int64)


@native
def winograd_task(number, worker, address):
    """A block of tiles, a part of a group's output channels."""
    g = record_at(address, WINOGRAD)
    block = number % g.blocks
    part = number // g.blocks % g.parts
    group = number // g.blocks // g.parts
    scratch = g.scratch + worker * g.scratch_step
    first_group = block * g.groups_a_block
    end_group = min(first_group + g.groups_a_block, g.row_groups)
    first, end = first_group * g.tiles // g.row_groups, end_group * g.tiles // g.row_groups
    chunks = (g.vectors + g.chunk - 1) // g.chunk
    invoke(load_i64(g.stages), (address, group, first, end, scratch))
    for chunk in range(part * chunks // g.parts, (part + 1) * chunks // g.parts):
        invoke(load_i64(g.stages + 8), (address, group, first_group, end_group, first, chunk, scratch))
        invoke(load_i64(g.stages + 16), (address, group, first, end, chunk, scratch))
