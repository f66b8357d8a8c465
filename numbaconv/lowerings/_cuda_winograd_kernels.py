"""Winograd's transforms as CUDA kernels: a thread has a tile of one channel in registers.

    taking   x[n, c, ·, ·]  n_h x n_w inputs, zeros outside    ──B^T x B──►  V [product][group][channel][tile]
    giving   M [product][group][channel][tile]                 ──A^T m A──►  out[n, k, ·, ·], m_h x m_w and fewer at the
                                                                             edge, with bias, residual and limits
    keeping  w[k, c, ·, ·]  (once)                             ──G w G^T──►  U [product][group][c][k], in float64

Neighbouring threads have neighbouring tiles, or where channels lie side by side (NHWC) neighbouring channels; V and M
then end in [tile][channel]. Divisions: four a thread.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from numba import types

from numbaconv.devices.copying import Four, blocks_of
from numbaconv.devices.intrinsics import cuda, float32, float64, int32, ld1_zfill, udiv32
from numbaconv.geometry import Window
from numbaconv.jit_cuda import REGISTERS, Function, Kernel, pointer, record
from numbaconv.lowerings._cuda_direct import Image, finished
from numbaconv.lowerings._cuda_winograd_words import transform
from numbaconv.lowerings._winograd_division import Filters

THREADS = 128
OTHERS = 56
"""Registers of a thread beside its tile's."""
MOST_BLOCKS = 8


class Tiles(NamedTuple):
    """Tiles of all images, rows and columns of them in one; channels, and those of a group; V's or M's steps in
    elements, from group to group, channel to channel, tile to tile, product to product; what comes with the store (0 or
    1 each)."""

    tiles: int
    rows: int
    columns: int
    channels: int
    group: int
    step_g: int
    step_c: int
    step_t: int
    step_p: int
    has_bias: int = 0
    has_residual: int = 0


def _blocks(products: int, itemsize: int) -> int:
    """How many blocks shall fit on a multiprocessor, so that a tile fits in a thread's registers."""
    return min(MOST_BLOCKS, REGISTERS // (THREADS * (products * itemsize // 4 + OTHERS)))


def _name(stage: str, filters: Filters, itemsize: int, tiles_fast: bool) -> str:
    return f"winograd_{stage}_{itemsize}_{'x'.join(map(str, filters))}_{'tiles' if tiles_fast else 'channels'}"


def grid(t: Tiles) -> tuple[int, ...] | None:
    """Blocks of ``taking_kernel`` and ``giving_kernel``; None where there is nothing to do."""
    total = t.tiles * t.channels
    return (blocks_of(total, THREADS),) if total else None


@Function
def _place(number, t, tiles_fast):
    """(image, row of tiles, column of tiles, channel, where its first product is) of a thread."""
    if tiles_fast:
        channel = int32(udiv32(number, t.tiles))
        tile = int32(number - channel * t.tiles)
    else:
        tile = int32(udiv32(number, t.channels))
        channel = int32(number - tile * t.channels)
    line = int32(udiv32(tile, t.columns))
    n = int32(udiv32(line, t.rows))
    group = int32(udiv32(channel, t.group))
    at = int32(group * t.step_g + (channel - group * t.group) * t.step_c + tile * t.step_t)
    return n, int32(line - n * t.rows), int32(tile - line * t.columns), channel, at


@functools.cache
def taking_kernel(itemsize: int, filters: Filters, tiles_fast: bool) -> Kernel:
    """B^T x B of all tiles.

    Its arguments: x, v (pointers), g (``Window`` of all channels), t (``Tiles`` of V). The grid is ``grid``'s.
    """
    real = float32 if itemsize == 4 else float64
    m_h, m_w, n_h, n_w, products = filters.m_h, filters.m_w, filters.n_h, filters.n_w, filters.products
    transformed = transform("bt", filters, itemsize)

    def kernel(x, v, g, t):
        values = cuda.local.array(products, real)
        number = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        n, row, column, c, to = _place(number, t, tiles_fast)
        if number < t.tiles * t.channels:
            top, left = int32(row * m_h - g.pad_top), int32(column * m_w - g.pad_left)
            at = int32(n * g.x_n + c * g.x_c + top * g.x_h + left * g.x_w)
            for i in range(n_h):
                inside = top + i >= 0 and top + i < g.ih
                for j in range(n_w):
                    some = inside and left + j >= 0 and left + j < g.iw
                    count = int32(1) if some else int32(0)
                    values[i * n_w + j] = ld1_zfill(x, int32(at + i * g.x_h + j * g.x_w), count)
            transformed(values)
            for p in range(products):
                v[int32(to + p * t.step_p)] = values[p]

    memory = pointer(itemsize)
    signature = types.void(memory, memory, record(Window), record(Tiles))
    name = _name("taking", filters, itemsize, tiles_fast)
    return Kernel(name, kernel, signature, THREADS, _blocks(products, itemsize))


@functools.cache
def giving_kernel(itemsize: int, filters: Filters, tiles_fast: bool) -> Kernel:
    """A^T m A of all tiles, and the epilogue.

    Its arguments: m, out, bias, residual (pointers), t (``Tiles`` of M), o, r (``Image`` of out and of the residual),
    low, high. A bias or residual that t has not is not read. The grid is ``grid``'s.
    """
    real = float32 if itemsize == 4 else float64
    m_h, m_w, products = filters.m_h, filters.m_w, filters.products
    transformed = transform("at", filters, itemsize)

    def kernel(m, out, bias, residual, t, o, r, low, high):
        values = cuda.local.array(products, real)
        number = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        n, row, column, k, at = _place(number, t, tiles_fast)
        if number < t.tiles * t.channels:
            for p in range(products):
                values[p] = m[int32(at + p * t.step_p)]
            transformed(values)
            for i in range(m_h):
                y = int32(row * m_h + i)
                for j in range(m_w):
                    z = int32(column * m_w + j)
                    if y < o.rows and z < o.columns:
                        value = finished(values[i * m_w + j], k, n, y, z, bias, residual, t, r, low, high)
                        out[int32(n * o.n + k * o.c + y * o.h + z * o.w)] = value

    memory, image = pointer(itemsize), record(Image)
    signature = types.void(*[memory] * 4, record(Tiles), image, image, *[memory.dtype] * 2)
    name = _name("giving", filters, itemsize, tiles_fast)
    return Kernel(name, kernel, signature, THREADS, _blocks(products, itemsize))


class Weights(NamedTuple):
    """Groups, their output and input channels; U's steps in elements from input channel to input channel and from
    product to product, groups following one another."""

    groups: int
    channels: int
    inner: int
    step_c: int
    step_p: int


def weights_grid(s: Weights) -> tuple[int, ...] | None:
    """Blocks of ``keeping_kernel``; None where there are no weights."""
    total = s.groups * s.channels * s.inner
    return (blocks_of(total, THREADS),) if total else None


@functools.cache
def keeping_kernel(itemsize: int, filters: Filters) -> Kernel:
    """G w G^T of all weights, computed in float64 and rounded once.

    Its arguments: w, u (pointers), steps of w in elements (``Four``: output channel, channel, row, column), s
    (``Weights``). The grid is ``weights_grid``'s.
    """
    real = float32 if itemsize == 4 else float64
    r_h, r_w, products = filters.r_h, filters.r_w, filters.products
    transformed = transform("g", filters, 8)

    def kernel(w, u, steps, s):
        values = cuda.local.array(products, float64)
        number = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        row = int32(udiv32(number, s.channels))  # of U: an input channel of a group
        k = int32(number - row * s.channels)
        group = int32(udiv32(row, s.inner))
        if group < s.groups:
            at = int32((group * s.channels + k) * steps.a + (row - group * s.inner) * steps.b)
            for i in range(r_h):
                for j in range(r_w):
                    values[i * r_w + j] = float64(w[int32(at + i * steps.c + j * steps.d)])
            transformed(values)
            for p in range(products):
                u[int32(row * s.step_c + k + p * s.step_p)] = real(values[p])

    memory = pointer(itemsize)
    signature = types.void(memory, memory, record(Four), record(Weights))
    name = f"winograd_keeping_{itemsize}_{'x'.join(map(str, filters))}"
    return Kernel(name, kernel, signature, THREADS, _blocks(products, 8))
