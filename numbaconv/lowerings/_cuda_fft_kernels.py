"""What comes before and after a GPU's Fourier transforms: tiles taken out of images, outputs put together from tiles.

    cutting    x[n, c, ·, ·]  ──►  tiles [channel][tile][n_h][n_w], zeros outside the image and behind what is read
    joining    tiles [channel][tile][n_h][n_w]  ──►  out[n, k, ·, ·]: the unspoiled part, of strides every s-th row and
                                                     column, with bias, residual and limits

A thread has one element; neighbouring threads have neighbouring columns. Divisions: five and six a thread.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from numba import types

from numbaconv.devices.copying import blocks_of
from numbaconv.devices.intrinsics import cuda, int32, ld1_zfill, udiv32
from numbaconv.geometry import Window
from numbaconv.jit_cuda import Kernel, pointer, record
from numbaconv.lowerings._cuda_direct import Image, finished

THREADS = 128


class Cut(NamedTuple):
    """Tiles of all images, rows and columns of them in one; channels; a tile's sides, and its outputs at stride 1; the
    strides; what comes with the store (0 or 1 each)."""

    tiles: int
    rows: int
    columns: int
    channels: int
    n_h: int
    n_w: int
    m_h: int
    m_w: int
    sh: int
    sw: int
    has_bias: int = 0
    has_residual: int = 0


def cutting_grid(t: Cut) -> tuple[int, ...] | None:
    """Blocks of ``cutting_kernel``; None where there is nothing to do."""
    total = t.channels * t.tiles * t.n_h * t.n_w
    return (blocks_of(total, THREADS),) if total else None


@functools.cache
def cutting_kernel(itemsize: int) -> Kernel:
    """Its arguments: x, tiles (pointers), g (``Window`` of all channels), t (``Cut``); its grid: ``cutting_grid``'s."""

    def kernel(x, tiles, g, t):
        number = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        if number < t.channels * t.tiles * t.n_h * t.n_w:
            rest = int32(udiv32(number, t.n_w))
            j = int32(number - rest * t.n_w)
            line = int32(udiv32(rest, t.n_h))
            i = int32(rest - line * t.n_h)
            c = int32(udiv32(line, t.tiles))
            tile = int32(line - c * t.tiles)
            above = int32(udiv32(tile, t.columns))
            n = int32(udiv32(above, t.rows))
            y = int32((above - n * t.rows) * t.m_h + i - g.pad_top)
            z = int32((tile - above * t.columns) * t.m_w + j - g.pad_left)
            inside = y >= 0 and y < g.ih and z >= 0 and z < g.iw
            count = int32(1) if inside else int32(0)
            tiles[number] = ld1_zfill(x, int32(n * g.x_n + c * g.x_c + y * g.x_h + z * g.x_w), count)

    memory = pointer(itemsize)
    signature = types.void(memory, memory, record(Window), record(Cut))
    return Kernel(f"fft_cutting_{itemsize}", kernel, signature, THREADS, 8)


def joining_grid(t: Cut, o: Image) -> tuple[int, ...] | None:
    """Blocks of ``joining_kernel``; None where the output is empty."""
    total = t.tiles // max(t.rows * t.columns, 1) * o.channels * o.rows * o.columns
    return (blocks_of(total, THREADS),) if total else None


@functools.cache
def joining_kernel(itemsize: int) -> Kernel:
    """Its arguments: tiles, out, bias, residual (pointers), t (``Cut``), o, r (``Image`` of out and of the residual),
    low, high. A bias or residual that t has not is not read. The grid is ``joining_grid``'s."""

    def kernel(tiles, out, bias, residual, t, o, r, low, high):
        number = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        rest = int32(udiv32(number, o.columns))
        z = int32(number - rest * o.columns)
        line = int32(udiv32(rest, o.rows))
        y = int32(rest - line * o.rows)
        n = int32(udiv32(line, o.channels))
        k = int32(line - n * o.channels)
        if n * t.rows * t.columns < t.tiles:
            row, column = int32(udiv32(y * t.sh, t.m_h)), int32(udiv32(z * t.sw, t.m_w))
            tile = int32((n * t.rows + row) * t.columns + column)
            i, j = int32(y * t.sh - row * t.m_h), int32(z * t.sw - column * t.m_w)
            total = tiles[int32(((k * t.tiles + tile) * t.n_h + i) * t.n_w + j)]
            value = finished(total, k, n, y, z, bias, residual, t, r, low, high)
            out[int32(n * o.n + k * o.c + y * o.h + z * o.w)] = value

    memory, image = pointer(itemsize), record(Image)
    signature = types.void(*[memory] * 4, record(Cut), image, image, *[memory.dtype] * 2)
    return Kernel(f"fft_joining_{itemsize}", kernel, signature, THREADS, 8)
