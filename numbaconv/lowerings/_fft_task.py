"""The stages of a convolution by Fourier transforms, and the tasks that are made of them.

    tiled, a task is a block of tiles, group, part of the output channels, and stays in one core's cache:
        tiles of the input ──► V;  for each chunk of output channels:  M = V · U, frequency by frequency;  M ──► tiles
    whole, three times tasks for all threads:
        an image's pair of vectors ──► V;      some frequencies: M = V · U;      M ──► an image's pair of vectors

Every sum over the channels is one running sum, whatever the division into tasks: so are the bits.
"""

from __future__ import annotations

import functools

import numpy as np

from numbaconv.jit import Native, compiled, native
from numbaconv.lowerings._fft_codelets import pass_kernel
from numbaconv.lowerings._fft_tiles import tangling, transform, untangling
from numbaconv.simd import array_at, invoke, load_i64, record_at

AHEAD = 16
"""Terms of a sum: weights are fetched so far ahead."""

SIZES = ("pad_top", "pad_left", "sh", "sw")
STEPS = ("x_n", "x_c", "x_h", "x_w", "o_n", "o_c", "o_h", "o_w", "r_n", "r_c", "r_h", "r_w")
FIELDS = (
    "x", "out", "w", "bias", "limits", "residual", "v", "m", "work", "scratch_step",
    "stages", "transform", "untangle", "tangle", "move", "take", "put", "kernels", "fewest_rows",
    "n_h", "m_h", "n_w", "m_w", "table_h", "table_w", "outputs_h", "outputs_w", "tiles_h", "tiles_w",
    "tiles", "row_groups", "groups_a_block", "blocks", "parts", "groups", "pieces",
    "inner", "channels", "pairs_in", "pairs_out", "vector", "vectors", "chunk", "panel", "products",
    "w_group", "ih", "iw",
    "v_imaginary", "v_row", "v_step", "v_bytes", "m_imaginary", "m_row", "m_step", "m_bytes",
    "row", "lines", "line", "pixels", "pixels_step", "work_step",
    *SIZES, *STEPS,
)  # fmt: skip
FFT = np.dtype([(name, np.int64) for name in FIELDS])
"""Addresses of arrays, of V, M and the work space (tiled: of the first worker's); of kernels; a tile's transform and
outputs, the tables of its sides, outputs at stride 1, tiles; their division into row groups, blocks, parts; the groups,
pieces of the frequencies; a group's input and output channels, pairs of vectors of them, bytes of a vector, output
vectors, of a chunk, of a panel, frequencies, a group's weights in bytes, the input that is read; ``spectra_of``,
``work_of``; the problem; strides in bytes."""


@compiled
def _place_of(g, tile):
    """(image, first row, first column at stride 1) of a tile."""
    n, place = tile // (g.tiles_h * g.tiles_w), tile % (g.tiles_h * g.tiles_w)
    return n, place // g.tiles_w * g.m_h, place % g.tiles_w * g.m_w


@compiled
def _kept(first, count, outputs, stride):
    """(the first place of a tile that is kept, how many are, the output of the first)."""
    skipped = -first % stride
    count = min(count, outputs - first) - skipped
    return skipped, (count + stride - 1) // stride if count > 0 else 0, (first + skipped) // stride


@functools.cache
def _stages(itemsize: int, lanes: int) -> tuple[Native, Native, Native]:
    """The three stages, as C functions."""
    vector = lanes * itemsize

    @native
    def read(address, group, tile, pair, v, work):
        """A tile's pair of vectors of input channels into V."""
        g = record_at(address, FFT)
        n, top, left = _place_of(g, tile)
        top, left = top - g.pad_top, left - g.pad_left
        first = 2 * pair * lanes
        image = g.x + n * g.x_n + (group * g.inner + first) * g.x_c + left * g.x_w
        low, high = max(-left, 0), min(g.iw - left, g.n_w)
        one, other = work + g.pixels, work + g.pixels + g.pixels_step
        if g.inner - first <= lanes:
            array_at(itemsize, other, g.n_w * lanes)[:] = 0
        for i in range(g.n_h):
            y = top + i
            target = work + i * g.row
            if y < 0 or y >= g.ih or low >= high:
                array_at(itemsize, target, 2 * g.n_w * lanes)[:] = 0
                continue
            source = image + y * g.x_h
            invoke(g.take, (min(lanes, g.inner - first), low, high, g.n_w, source, g.x_c, g.x_w, one))
            if g.inner - first > lanes:
                invoke(g.take, (min(lanes, g.inner - first - lanes), low, high, g.n_w, source + lanes * g.x_c, g.x_c,
                                g.x_w, other))  # fmt: skip
            invoke(g.transform, (g.table_w, one, other, vector, target, target + vector, 2 * vector, vector,
                                 work + g.lines, g.line))  # fmt: skip
        if g.n_h > 1:
            for j in range(g.n_w):
                column = work + 2 * j * vector
                invoke(g.transform, (g.table_h, column, column + vector, g.row, column, column + vector, g.row, vector,
                                     work + g.lines, g.line))  # fmt: skip
        invoke(g.untangle, (g.n_h, g.n_w, work, g.row, v, g.v_imaginary, g.v_step))

    @native
    def multiply(address, group, first_frequency, end_frequency, first_group, end_group, chunk, v, m):
        """V times a chunk of the weights into M, of some frequencies and row groups of tiles."""
        g = record_at(address, FFT)
        vectors = min(g.chunk, g.vectors - chunk * g.chunk)
        term = 2 * vector * g.inner
        weights = g.w + group * g.w_group + (chunk * g.chunk * g.products + first_frequency * vectors) * term
        first_tile = first_group * g.tiles // g.row_groups
        for f in range(first_frequency, end_frequency):
            for p in range(0, vectors, g.panel):
                wide = min(g.panel, vectors - p)
                kernels = g.kernels + 16 * (wide - 1)
                for number in range(first_group, end_group):
                    row = number * g.tiles // g.row_groups
                    rows = (number + 1) * g.tiles // g.row_groups - row
                    invoke(load_i64(kernels + 8 * (rows - g.fewest_rows)),
                           (g.inner, v + f * g.v_step + (row - first_tile) * g.v_row, g.v_row, g.v_imaginary, weights,
                            m + f * g.m_step + (row - first_tile) * g.m_row + p * vector, g.m_row, g.m_imaginary,
                            2 * AHEAD * wide * vector))  # fmt: skip
                weights += wide * term

    @native
    def write(address, group, tile, first, m, work):
        """A tile's pair of vectors of M to the output, from vector `first` of the group on."""
        g = record_at(address, FFT)
        n, top, left = _place_of(g, tile)
        there = min(2, g.vectors - first)
        invoke(g.tangle, (g.n_h, g.n_w, work, g.row, m, g.m_imaginary, g.m_step, there - 1))
        if g.n_h > 1:
            for j in range(g.n_w):
                column = work + 2 * j * vector
                invoke(g.transform, (g.table_h, column + vector, column, g.row, column + vector, column, g.row, vector,
                                     work + g.lines, g.line))  # fmt: skip
        one, other = work + g.pixels, work + g.pixels + g.pixels_step
        channel = group * g.channels + first * lanes
        i, rows, y = _kept(top, g.m_h, g.outputs_h, g.sh)
        j, columns, z = _kept(left, g.m_w, g.outputs_w, g.sw)
        for _ in range(rows if columns else 0):
            source = work + i * g.row
            invoke(g.transform, (g.table_w, source + vector, source, 2 * vector, other, one, vector, vector,
                                 work + g.lines, g.line))  # fmt: skip
            if g.sw > 1 and columns > 1:
                step = j * vector
                invoke(g.move, (1, columns, one + step, other + step, g.sw * vector, one + step, other + step, vector,
                                0))  # fmt: skip
            for k in range(there):
                c = channel + k * lanes
                place = g.out + n * g.o_n + c * g.o_c + y * g.o_h + z * g.o_w
                extra = g.residual + n * g.r_n + c * g.r_c + y * g.r_h + z * g.r_w
                invoke(g.put, ((other if k else one) + j * vector, columns,
                               min(lanes, g.channels - (first + k) * lanes), g.bias + c * itemsize, g.limits,
                               place, g.o_c, g.o_w, extra if g.residual else 0, g.r_c, g.r_w))  # fmt: skip
            i += g.sh
            y += 1

    return read, multiply, write


@functools.cache
def kernels_of(itemsize: int, lanes: int) -> tuple[dict[str, int], np.ndarray]:
    """Addresses that a record holds of what does not depend on the problem, and the stages' in an array."""
    stages = np.array([stage.address for stage in _stages(itemsize, lanes)], np.int64)
    return {
        "transform": transform.address, "untangle": untangling(itemsize, lanes).address,
        "tangle": tangling(itemsize, lanes).address, "move": pass_kernel(itemsize, lanes, 1, False).address,
    }, stages  # fmt: skip


@native
def tiled_task(number, worker, address):
    """A block of tiles, a part of a group's output channels."""
    g = record_at(address, FFT)
    block = number % g.blocks
    part = number // g.blocks % g.parts
    group = number // g.blocks // g.parts
    v = g.v + worker * g.scratch_step
    m, work = v + g.v_bytes, v + g.v_bytes + g.m_bytes
    first_group = block * g.groups_a_block
    end_group = min(first_group + g.groups_a_block, g.row_groups)
    first, end = first_group * g.tiles // g.row_groups, end_group * g.tiles // g.row_groups
    for tile in range(first, end):
        for pair in range(g.pairs_in):
            place = v + (tile - first) * g.v_row + 2 * pair * g.vector
            invoke(load_i64(g.stages), (address, group, tile, pair, place, work))
    chunks = (g.vectors + g.chunk - 1) // g.chunk
    for chunk in range(part * chunks // g.parts, (part + 1) * chunks // g.parts):
        invoke(load_i64(g.stages + 8), (address, group, 0, g.products, first_group, end_group, chunk, v, m))
        vectors = min(g.chunk, g.vectors - chunk * g.chunk)
        for tile in range(first, end):
            for k in range(0, vectors, 2):
                place = m + (tile - first) * g.m_row + k * g.vector
                invoke(load_i64(g.stages + 16), (address, group, tile, chunk * g.chunk + k, place, work))


@native
def lower_task(number, worker, address):
    """A pair of vectors of an image's input channels."""
    g = record_at(address, FFT)
    pair = number % g.pairs_in
    group = number // g.pairs_in % g.groups
    image = number // g.pairs_in // g.groups
    place = g.v + group * g.v_bytes + image * g.v_row + 2 * pair * g.vector
    invoke(load_i64(g.stages), (address, group, image, pair, place, g.work + worker * g.work_step))


@native
def multiply_task(number, worker, address):
    """A piece of the frequencies of a group."""
    g = record_at(address, FFT)
    piece, group = number % g.pieces, number // g.pieces
    invoke(load_i64(g.stages + 8), (address, group, piece * g.products // g.pieces,
                                    (piece + 1) * g.products // g.pieces, 0, g.row_groups, 0,
                                    g.v + group * g.v_bytes, g.m + group * g.m_bytes))  # fmt: skip


@native
def lift_task(number, worker, address):
    """A pair of vectors of an image's output channels."""
    g = record_at(address, FFT)
    pair = number % g.pairs_out
    group = number // g.pairs_out % g.groups
    image = number // g.pairs_out // g.groups
    place = g.m + group * g.m_bytes + image * g.m_row + 2 * pair * g.vector
    invoke(load_i64(g.stages + 16), (address, group, image, 2 * pair, place, g.work + worker * g.work_step))
