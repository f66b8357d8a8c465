"""Convolutions on a GPU without a product: the definition, the direct convolution, the depthwise one.

A thread has its sums in registers and reads the input where it lies, with any steps; nothing is rearranged but the
weights. Bias, residual and limits come with the store.

    direct:      one pixel, a block of channels                depthwise:     one column of one channel, some rows
        x[c, ·, ·] ──►  1 value                                    column s of the window, read once:
        w[r, s, c] ──►  8 weights side by side,                      │x│    ┐ w[·, s]
                        the same for neighbouring pixels             │x│ ┐  ┘   ──►  row 0
        8 sums    +=  value · weights                                │x│ │  w[·, s]
                                                                     │x│ ┘      ──►  row 1 ...
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from numba import types

from numbaconv.devices.copying import MOST_DOWN, blocks_of
from numbaconv.devices.intrinsics import cuda, float32, float64, int32, ldv, udiv32, umod32
from numbaconv.geometry import Window, column_of, row_of
from numbaconv.jit_cuda import Function, Kernel, pointer, record
from numbaconv.lift_cuda import limited
from numbaconv.lowerings._cuda_patches import place_of

THREADS = 128
VECTOR_BYTES = 16
SPAN = 4
"""Blocks of channels that neighbouring threads take where channels lie side by side."""
MOST_TAPS = 49
"""Of a depthwise kernel that is written out for its sizes."""
MOST_COLUMN = 24
"""Values of an input column that a thread of a depthwise kernel holds; the compiler unrolls no longer loops."""


class Image(NamedTuple):
    """An output or a residual (images, channels, rows, columns): sizes, and steps in elements."""

    channels: int
    rows: int
    columns: int
    n: int
    c: int
    h: int
    w: int


class Task(NamedTuple):
    """Images; output channels a group; what comes with the store (0 or 1 each); from ``direct_task``: output channels
    in packed weights, blocks of channels of neighbouring threads; depthwise weights' steps by channel and by tap."""

    images: int
    ocg: int
    has_bias: int = 0
    has_residual: int = 0
    padded: int = 0
    span: int = 1
    w_k: int = 0
    w_tap: int = 0


NO_IMAGE = Image(0, 0, 0, 0, 0, 0, 0)


@Function
def same(given):
    """What was given."""
    return given


class Known(NamedTuple):
    """What a ``direct_kernel`` is compiled for: words that put constants into its g and t; whether no tap leaves the
    input, wherever it is asked; and a name for all that."""

    window: Function = same
    task: Function = same
    inside: bool = False
    name: str = ""


NOTHING_KNOWN = Known()


def image_of(array) -> Image:
    """The ``Image`` of an array (images, channels, rows, columns)."""
    return Image(*array.shape[1:], *(step // array.itemsize for step in array.strides))


@Function
def finished(total, k, n, y, z, bias, residual, t, r, low, high):
    """A sum with the epilogue."""
    if t.has_bias:
        total += bias[k]
    if t.has_residual:
        total += residual[int32(n * r.n + k * r.c + y * r.h + z * r.w)]
    return limited(total, low, high)


def _signature(itemsize: int):
    """x, w, out, bias, residual; g, o, r, t; low, high."""
    reals = [pointer(itemsize).dtype] * 2
    images = [record(Image)] * 2
    return types.void(*[pointer(itemsize)] * 5, record(Window), *images, record(Task), *reals)


def reference_grid(o: Image, t: Task) -> tuple[int, ...] | None:
    """Blocks of ``reference_kernel``; None where the output is empty."""
    total = t.images * o.channels * o.rows * o.columns
    return (blocks_of(total, THREADS),) if total else None


@functools.cache
def reference_kernel(itemsize: int) -> Kernel:
    """The definition, an output a thread: one running sum of fused multiply-adds over c, r, s ("direct float32").

    Its arguments: x, w, out, bias, residual (pointers; w contiguous as (oc, ic/g, kh, kw)); g (``Window`` whose ``ic``
    is a group's), o, r (``Image`` of out and of the residual), t (``Task``); low, high. The grid is
    ``reference_grid``'s.
    """
    real = float32 if itemsize == 4 else float64

    def kernel(x, w, out, bias, residual, g, o, r, t, low, high):
        number = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        channel, y, z = place_of(number, g)
        n = int32(udiv32(channel, o.channels))
        k = int32(channel - n * o.channels)
        if n < t.images:
            total = real(0)
            at = int32(n * g.x_n + int32(udiv32(k, t.ocg)) * g.ic * g.x_c)
            tap = int32(k * g.ic * g.kh * g.kw)
            for _ in range(g.ic):
                for row in range(g.kh):
                    ih = int32(row_of(y, row, g))
                    for column in range(g.kw):
                        iw = int32(column_of(z, column, g))
                        if ih >= 0 and ih < g.ih and iw >= 0 and iw < g.iw:
                            total += x[int32(at + ih * g.x_h + iw * g.x_w)] * w[tap]
                        tap = int32(tap + 1)
                at = int32(at + g.x_c)
            value = finished(total, k, n, y, z, bias, residual, t, r, low, high)
            out[int32(n * o.n + k * o.c + y * o.h + z * o.w)] = value

    return Kernel(f"reference_{itemsize}", kernel, _signature(itemsize), THREADS, 4)


def direct_task(
    images: int, groups: int, oc: int, channels: int, pixels_fast: bool, has_bias: bool, has_residual: bool
) -> Task:
    """The ``Task`` of a ``direct_kernel`` with `oc` output channels, `channels` a thread."""
    ocg = oc // groups
    blocks = -(-ocg // channels)
    return Task(images, ocg, int(has_bias), int(has_residual), blocks * channels,
                1 if pixels_fast else min(SPAN, blocks))  # fmt: skip


def direct_grid(o: Image, t: Task, channels: int) -> tuple[int, int] | None:
    """Blocks of ``direct_kernel``; None where the output is empty."""
    pixels = t.images * o.rows * o.columns
    if not pixels or not o.channels:
        return None
    down = o.channels // t.ocg * -(-t.padded // (channels * t.span))
    if down > MOST_DOWN:
        raise ValueError(f"{o.channels} channels in {down} blocks: a grid has {MOST_DOWN}")
    return blocks_of(pixels * t.span, THREADS), down


@functools.cache
def direct_kernel(itemsize: int, channels: int = 8, pixels_fast: bool = True, known: Known = NOTHING_KNOWN) -> Kernel:
    """The direct convolution: a thread has one pixel's sums of `channels` (a multiple of four) output channels.

    Its arguments are ``reference_kernel``'s, with w as (groups, taps, ic/g, oc/g padded to a multiple of `channels`),
    16-byte aligned, and t from ``direct_task``. With `pixels_fast` (NCHW) a warp's threads take neighbouring pixels:
    loads of x and stores lie side by side, and all threads load the same weights. Otherwise (NHWC) each SPAN neighbours
    take blocks of channels of one pixel: they write SPAN · `channels` elements in a row and share their loads of x,
    while a warp's loads of weights still lie within two lines. The grid is ``direct_grid``'s. What is `known` may not
    differ in the arguments (``_cuda_direct_jit``).
    """
    real = float32 if itemsize == 4 else float64
    load, vector = ldv(itemsize), VECTOR_BYTES // itemsize
    vectors = channels // vector
    if channels % vector:
        raise ValueError(f"{channels} channels a thread are no multiple of {vector}")
    window, task, inside = known.window, known.task, known.inside

    def kernel(x, w, out, bias, residual, g, o, r, t, low, high):
        g, t = window(g), task(t)
        sums = cuda.local.array(channels, real)
        number = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        pixel, lane = number, int32(0)
        if not pixels_fast:
            pixel = int32(udiv32(number, t.span))
            lane = int32(number - pixel * t.span)
        spans = int32(udiv32(int32(t.padded + channels * t.span - 1), int32(channels * t.span)))
        group = int32(udiv32(int32(cuda.blockIdx.y), spans))
        first = int32(((cuda.blockIdx.y - group * spans) * t.span + lane) * channels)
        n, y, z = place_of(pixel, g)
        if n < t.images and first < t.ocg:
            for j in range(channels):
                sums[j] = real(0)
            for row in range(g.kh):
                ih = int32(row_of(y, row, g))
                if inside or (ih >= 0 and ih < g.ih):
                    for column in range(g.kw):
                        iw = int32(column_of(z, column, g))
                        if inside or (iw >= 0 and iw < g.iw):
                            at = int32(n * g.x_n + group * g.ic * g.x_c + ih * g.x_h + iw * g.x_w)
                            weight = int32(((group * g.kh + row) * g.kw + column) * g.ic * t.padded + first)
                            for _ in range(g.ic):
                                value = x[at]
                                for q in range(vectors):
                                    factors = load(w, int32(weight + vector * q))
                                    for j in range(vector):
                                        sums[vector * q + j] += value * factors[j]
                                at, weight = int32(at + g.x_c), int32(weight + t.padded)
            for j in range(channels):
                if first + j < t.ocg:
                    k = int32(group * t.ocg + first + j)
                    value = finished(sums[j], k, n, y, z, bias, residual, t, r, low, high)
                    out[int32(n * o.n + k * o.c + y * o.h + z * o.w)] = value

    name = f"direct_{itemsize}_{channels}_{'pixels' if pixels_fast else 'channels'}{known.name}"
    return Kernel(name, kernel, _signature(itemsize), THREADS, 4)


def depthwise_grid(o: Image, t: Task, sh: int, dh: int, rows: int) -> tuple[int, int] | None:
    """Blocks of ``depthwise_kernel``; None where the output is empty."""
    apart = dh // math.gcd(sh, dh)
    total = o.channels * o.columns * -(-o.rows // (apart * rows)) * apart
    return (blocks_of(total, THREADS), min(t.images, MOST_DOWN)) if total * t.images else None


def depthwise_fits(kh: int, kw: int, sh: int, dh: int, rows: int) -> str:
    """Why there is no ``depthwise_kernel`` of such sizes (``direct_kernel`` runs them); empty where there is."""
    if kh * kw > MOST_TAPS:
        return f"{kh} x {kw} taps are more than {MOST_TAPS}"
    column = (rows - 1) * min(sh // math.gcd(sh, dh), kh) + kh
    return f"{rows} rows read {column} values of a column, more than {MOST_COLUMN}" if column > MOST_COLUMN else ""


@functools.cache
def depthwise_kernel(
    itemsize: int, kh: int, kw: int, sh: int, sw: int, dh: int, dw: int, rows: int = 4, channels_fast: bool = False
) -> Kernel:
    """The convolution of groups of one input channel, for a kernel's sizes: a thread has `rows` outputs of a column.

    Its arguments are ``reference_kernel``'s, with w in the steps that t says. Neighbouring threads take neighbouring
    columns (NCHW), or channels (NHWC: `channels_fast`; then w is best (taps, oc)). A thread loads a weight once, and an
    input value once for each column of the kernel: with dilation its rows are those that share inputs, dh / gcd(sh, dh)
    apart. The grid is ``depthwise_grid``'s. ValueError where ``depthwise_fits`` says why.
    """
    if reason := depthwise_fits(kh, kw, sh, dh, rows):
        raise ValueError(reason)
    real = float32 if itemsize == 4 else float64
    apart, leap = dh // math.gcd(sh, dh), sh // math.gcd(sh, dh)  # in outputs; in dilated inputs
    pitch = min(leap, kh)  # beyond the kernel, a leap skips inputs that nothing reads
    held, tile = (rows - 1) * pitch + kh, apart * rows

    def kernel(x, w, out, bias, residual, g, o, r, t, low, high):
        column, weights = cuda.local.array(held, real), cuda.local.array(kh, real)
        sums = cuda.local.array(rows, real)
        number = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        lines = int32(udiv32(int32(g.oh + tile - 1), tile) * apart)
        if channels_fast:
            rest = int32(udiv32(number, o.channels))
            k = int32(number - rest * o.channels)
            line = int32(udiv32(rest, g.ow))
            z = int32(rest - line * g.ow)
            inside = line < lines
        else:
            rest = int32(udiv32(number, g.ow))
            z = int32(number - rest * g.ow)
            k = int32(udiv32(rest, lines))
            line = int32(rest - k * lines)
            inside = k < o.channels
        top = int32(udiv32(line, apart) * tile + umod32(line, apart))
        channel = int32(udiv32(k, t.ocg))
        if inside:
            for n in range(int32(cuda.blockIdx.y), t.images, int32(cuda.gridDim.y)):
                for j in range(rows):
                    sums[j] = real(0)
                ih_0, iw = int32(top * sh - g.pad_top), int32(z * sw - g.pad_left)
                at_0, at_w = int32(n * g.x_n + channel * g.x_c), int32(k * t.w_k)
                for s in range(kw):
                    if iw >= 0 and iw < g.iw:
                        for i in range(held):
                            ih = int32(ih_0 + (int32(udiv32(i, pitch)) * leap + int32(umod32(i, pitch))) * dh)
                            column[i] = real(0)
                            if ih >= 0 and ih < g.ih:
                                column[i] = x[int32(at_0 + ih * g.x_h + iw * g.x_w)]
                        for i in range(kh):
                            weights[i] = w[int32(at_w + (i * kw + s) * t.w_tap)]
                        for j in range(rows):
                            for i in range(kh):
                                sums[j] += column[j * pitch + i] * weights[i]
                    iw = int32(iw + dw)
                for j in range(rows):
                    y = int32(top + j * apart)
                    if y < g.oh:
                        value = finished(sums[j], k, n, y, z, bias, residual, t, r, low, high)
                        out[int32(n * o.n + k * o.c + y * o.h + z * o.w)] = value

    name = f"depthwise_{itemsize}_{kh}x{kw}_s{sh}x{sw}_d{dh}x{dw}_{rows}_{'channels' if channels_fast else 'columns'}"
    return Kernel(name, kernel, _signature(itemsize), THREADS, 4)
