"""The patch matrix on a GPU: written out (im2col, im2row), written out slowly, or as a table of offsets.

    out (depth x pixels)                 depth = (r·kw + s)·ic + c, as ``geometry.tap_of``; pixel = (n·oh + y)·ow + z
    ┌─────────────────────────┐
    │ x[n, c, row_of, column_of]       by pixels: neighbouring threads write neighbouring pixels, a thread RUN rows
    │   0 outside the image   │        by depth:  neighbouring threads write neighbouring depths, a thread RUN pixels
    └─────────────────────────┘

Divisions: a thread of ``patch_writer`` finds its place with five and then steps on, 5 / RUN an element;
``scalar_writer`` has five an element, ``offset_writer`` three an offset.
"""

from __future__ import annotations

import functools

from numba import types

from numbaconv.devices.copying import blocks_of
from numbaconv.devices.intrinsics import cuda, float32, float64, int32, udiv32
from numbaconv.geometry import Window, column_of, row_of, tap_of
from numbaconv.jit_cuda import Function, Kernel, pointer, record

THREADS = 256
RUN = 16
"""Elements that a thread of ``patch_writer`` writes."""
BATCH = 4  # loads on their way at once: a store may alias the next load, so the compiler keeps them in order
BATCHES = RUN // BATCH


@Function
def place_of(pixel, g):
    """(image, output row, output column) of a pixel, counted from image 0."""
    line = int32(udiv32(pixel, g.ow))
    n = int32(udiv32(line, g.oh))
    return n, int32(line - n * g.oh), int32(pixel - line * g.ow)


def patch_grid(g: Window, depth: int, pixels: int, by_pixels: bool) -> tuple[int, ...] | None:
    """Blocks of ``patch_writer``; None where the matrix is empty."""
    along, across = (pixels, depth) if by_pixels else (depth, pixels)
    blocks_of(depth * pixels, THREADS)
    return (blocks_of(along * -(-across // RUN), THREADS),) if depth and pixels else None


@functools.cache
def patch_writer(itemsize: int, by_pixels: bool) -> Kernel:
    """The kernel that writes the patch matrix.

    Its arguments: x, out (pointers); g (``Window`` of the channels lowered: ``oh``, ``ow`` the output's sizes, steps
    those of x); depth = kh·kw·ic; pixels = images·oh·ow; step_k, step (elements of `out` from one depth and from one
    pixel to the next). Write `by_pixels` where step is 1, otherwise where step_k is. The grid is ``patch_grid``'s.
    """
    real = float32 if itemsize == 4 else float64

    def kernel(x, out, g, depth, pixels, step_k, step):
        values = cuda.local.array(BATCH, real)
        number = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        along, across = (pixels, depth) if by_pixels else (depth, pixels)
        run = int32(udiv32(number, along))
        mine, first = int32(number - run * along), int32(run * RUN)
        if first < across:
            line, pixel = (first, mine) if by_pixels else (mine, first)
            kernel_row, kernel_column, channel = tap_of(line, g)
            r, s, c = int32(kernel_row), int32(kernel_column), int32(channel)
            n, y, z = place_of(pixel, g)
            left, at, jump = int32(across - first), int32(line * step_k + pixel * step), step_k if by_pixels else step
            for _ in range(BATCHES):
                if left > 0:
                    for i in range(BATCH):
                        ih, iw = int32(row_of(y, r, g)), int32(column_of(z, s, g))
                        values[i] = real(0)
                        if i < left and ih >= 0 and ih < g.ih and iw >= 0 and iw < g.iw:
                            values[i] = x[int32(n * g.x_n + c * g.x_c + ih * g.x_h + iw * g.x_w)]
                        if by_pixels:
                            c = int32(c + 1)
                            if c == g.ic:
                                c, s = int32(0), int32(s + 1)
                                if s == g.kw:
                                    s, r = int32(0), int32(r + 1)
                        else:
                            z = int32(z + 1)
                            if z == g.ow:
                                z, y = int32(0), int32(y + 1)
                                if y == g.oh:
                                    y, n = int32(0), int32(n + 1)
                    for i in range(BATCH):
                        if i < left:
                            out[int32(at + i * jump)] = values[i]
                    left, at = int32(left - BATCH), int32(at + BATCH * jump)

    memory, integers = pointer(itemsize), [types.int32] * 4
    name = f"{'im2col' if by_pixels else 'im2row'}_{itemsize}"
    return Kernel(name, kernel, types.void(memory, memory, record(Window), *integers), THREADS, 4)


def scalar_grid(g: Window, depth: int, pixels: int) -> tuple[int, ...] | None:
    """Blocks of ``scalar_writer``; None where the matrix is empty."""
    return (blocks_of(depth * pixels, THREADS),) if depth and pixels else None


@functools.cache
def scalar_writer(itemsize: int) -> Kernel:
    """The same as ``patch_writer`` with one element a thread, whose place is divided out anew; threads along pixels."""
    real = float32 if itemsize == 4 else float64

    def kernel(x, out, g, depth, pixels, step_k, step):
        number = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        line = int32(udiv32(number, pixels))
        pixel = int32(number - line * pixels)
        if line < depth:
            r, s, c = tap_of(line, g)
            n, y, z = place_of(pixel, g)
            ih, iw = int32(row_of(y, int32(r), g)), int32(column_of(z, int32(s), g))
            value = real(0)
            if ih >= 0 and ih < g.ih and iw >= 0 and iw < g.iw:
                value = x[int32(n * g.x_n + int32(c) * g.x_c + ih * g.x_h + iw * g.x_w)]
            out[int32(line * step_k + pixel * step)] = value

    memory, integers = pointer(itemsize), [types.int32] * 4
    signature = types.void(memory, memory, record(Window), *integers)
    return Kernel(f"im2col_scan_{itemsize}", kernel, signature, THREADS, 4)


def offset_grid(g: Window) -> tuple[int, ...] | None:
    """Blocks of ``offset_writer``; None where the table is empty."""
    total = g.oh * g.ow * g.kh * g.kw
    return (blocks_of(total, THREADS),) if total else None


@functools.cache
def offset_writer() -> Kernel:
    """The kernel that writes the table of the indirect convolution, the same for every image and channel.

    Its arguments: table (pointer to int32, pixels of one image x taps), g (``Window``). An entry is where the pixel
    that the tap reads lies, ih·x_h + iw·x_w, or -1 outside the image. The grid is ``offset_grid``'s.
    """

    def kernel(table, g):
        number = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        taps = int32(g.kh * g.kw)
        pixel = int32(udiv32(number, taps))
        tap = int32(number - pixel * taps)
        y = int32(udiv32(pixel, g.ow))
        if y < g.oh:
            r = int32(udiv32(tap, g.kw))
            ih = int32(row_of(y, r, g))
            iw = int32(column_of(int32(pixel - y * g.ow), int32(tap - r * g.kw), g))
            offset = int32(-1)
            if ih >= 0 and ih < g.ih and iw >= 0 and iw < g.iw:
                offset = int32(ih * g.x_h + iw * g.x_w)
            table[number] = offset

    return Kernel("offsets", kernel, types.void(types.CPointer(types.int32), record(Window)), THREADS, 4)
