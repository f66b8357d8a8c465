"""Indirect convolution: a table of where each patch's pixels lie, in place of the pixels.

    table (pixels x taps)            for each output pixel and tap the place of an input pixel, -1 where it is padding
    ┌────┬────┬────┬───┐
    │ -1 │ -1 │  0 │...│  pixel 0   ──►  packing follows the offsets and copies runs of channels into panels
    │ -1 │  0 │  1 │...│  pixel 1
    └────┴────┴────┴───┘

Paper: Dukhan, "The Indirect Convolution Algorithm", arXiv 1907.02129 (2019).
Memory: oh·ow·kh·kw offsets of 4 bytes, the same for every image; an NCHW input is turned first, so that channels lie
side by side: ic·ih·iw elements for the images lowered together.
Cost: mb·oc·ic/g·kh·kw·oh·ow multiply-adds.

Where we leave the paper: its table holds pointers, and those into the padding point at a row of zeros; our offsets
outlive the image's address, and packing writes the zeros. Not for depthwise convolutions: an offset an element.
"""

from __future__ import annotations

import functools

import numpy as np

from numbaconv.gemm import Source
from numbaconv.gemm.copying import copy_strided, fill_zero
from numbaconv.gemm.cuda_tile import DEPTH
from numbaconv.geometry import GEOMETRY, column_of, geometry_of, row_of, window_of
from numbaconv.jit import Native, native
from numbaconv.lowering import PARTS, YES, Lowering, Support
from numbaconv.lowering_cuda import CudaForm
from numbaconv.lowerings._cuda_gather import patches
from numbaconv.lowerings._cuda_matrices import image_call, multiply_image, round_to, weights_operand
from numbaconv.lowerings._cuda_matrices import tap_major as keep_tap_major
from numbaconv.lowerings._cuda_patches import offset_grid, offset_writer
from numbaconv.lowerings._lower import lower_pixels
from numbaconv.lowerings._matrices import group, multiply_weights, pack_weights, tap_major, weights_call
from numbaconv.lowerings._patches import patch_source
from numbaconv.lowerings._runs import PLACE, places, turn_pixels
from numbaconv.machine import detect
from numbaconv.simd import load_i32, record_at, store_i32, store_i64
from numbaconv.workspace import address_of

MOST_ELEMENTS = 1 << 31
OFFSETS = np.dtype([(name, np.int64) for name in ("x", "table", "taps", "channels", "image", "x_n", "x_c")]
                   + [(name, GEOMETRY[name]) for name in GEOMETRY.names if name not in ("x_n", "x_c")])  # fmt: skip
"""A group's first channel, the table, its sides (`taps` by `image` pixels), steps of x, and the problem's geometry."""


class CudaIndirect(CudaForm):
    """The table is followed while tiles are copied to shared memory; the input stays as it lies, in either layout."""

    def lowering_bytes(self, problem, request):
        return 4 * problem.oh * problem.ow * problem.kh * problem.kw

    def gemm_calls(self, problem, request):
        p = problem
        return [image_call(p, p.mb * p.oh * p.ow, p.kh * p.kw * round_to(p.icg, DEPTH), p.g)]

    def prepare_weights(self, ctx, w):
        return keep_tap_major(ctx, w, round_to(ctx.problem.icg, DEPTH))

    def run(self, ctx, x, prepared, out):
        p = ctx.problem
        table = ctx.take("offsets", (p.oh * p.ow * p.kh * p.kw,), np.int32)
        window = window_of(p, x)
        ctx.launch("lower", offset_writer(), offset_grid(window), table, window)
        (call,) = self.gemm_calls(p, ctx.request)
        source = patches(p, x, table, round_to(p.icg, DEPTH))
        multiply_image(ctx, call, weights_operand(prepared), source, out, ctx.residual)


class Indirect(Lowering):
    """Offsets in place of patches."""

    name = "indirect"
    family = "indirect"
    devices = ("cpu", "cuda")
    cuda = CudaIndirect
    paper = "Dukhan: The Indirect Convolution Algorithm, arXiv 1907.02129 (2019)"
    parameters = PARTS

    def supports(self, problem, request):
        if problem.g > 1 and problem.icg == 1:
            return Support("the convolution is depthwise: an offset for every element")
        if problem.ic * problem.ih * problem.iw >= MOST_ELEMENTS:
            return Support("an image has more elements than an offset of 32 bits can count")
        return YES

    def lowering_bytes(self, problem, request):
        p = problem
        turned = p.mb * p.ic * p.ih * p.iw * p.itemsize if p.layout == "nchw" else 0
        return 4 * p.oh * p.ow * p.kh * p.kw + turned

    def gemm_calls(self, problem, request):
        return [weights_call(problem, problem.mb * problem.oh * problem.ow, problem.K, problem.g, False)]

    def prepare_weights(self, problem, request, w):
        return pack_weights(problem, request, tap_major(problem, w), self.gemm_calls)

    def run(self, ctx, x, prepared, out):
        p = ctx.problem
        table = ctx.take("offsets", (p.oh * p.ow, p.kh * p.kw), np.int32)
        if p.layout == "nchw":
            turned = ctx.take("turned", (p.mb, p.ih, p.iw, p.ic))
            whole = patch_source(p, x, kh=1, kw=1, sh=1, sw=1, pad_top=0, pad_left=0, oh=p.ih, ow=p.iw)
            lower_pixels(ctx, [whole], p.ic, p.mb * p.ih * p.iw, turned.reshape(-1))
            x = turned.transpose(0, 3, 1, 2)
        record = self._record(p, x, table)
        ctx.lower(_write_offsets, p.oh, address_of(record))
        for g, weights in enumerate(prepared):
            record = self._record(p, group(p, x, g), table)
            source = Source(offset_packer(p.itemsize), address_of(record), (record, x, table))
            multiply_weights(ctx, weights, source, g, out, ctx.residual, False)

    @staticmethod
    def _record(p, x, table) -> np.ndarray:
        record = np.zeros(1, OFFSETS)
        geometry = geometry_of(p, x)
        for name in GEOMETRY.names:
            record[name] = geometry[name]
        record["x"], record["table"] = address_of(x), address_of(table)
        record["taps"], record["channels"], record["image"] = p.kh * p.kw, x.shape[1], p.oh * p.ow
        return record


@native
def _write_offsets(y, worker, address):
    """The table's part of an output row."""
    g = record_at(address, OFFSETS)
    taps = g.kh * g.kw
    for z in range(g.ow):
        row = g.table + (y * g.ow + z) * taps * 4
        for tap in range(taps):
            ih, iw = row_of(y, tap // g.kw, g), column_of(z, tap % g.kw, g)
            inside = 0 <= ih < g.ih and 0 <= iw < g.iw
            store_i32(row + 4 * tap, np.int32(ih * g.x_h + iw * g.x_w) if inside else np.int32(-1))


@functools.cache
def offset_packer(itemsize: int) -> Native:
    """The packer that follows a table of offsets; signature as in ``gemm.pack``."""
    lanes = detect().vector_bits // (8 * itemsize)

    @native
    def pack(source, first, count, p0, kc, target, width):
        g = record_at(source, OFFSETS)
        if count % width:
            fill_zero(itemsize, lanes, kc * width, target + count // width * width * kc * itemsize)
        table = places(lanes)
        x = 0
        while x < count:
            panel = x // width * width
            pixels = min(lanes, count - x, panel + width - x)
            to_x = target + (panel * kc + x - panel) * itemsize
            k = p0
            while k < p0 + kc:
                tap = k // g.channels
                c = k - tap * g.channels
                channels = min(g.channels - c, p0 + kc - k)
                to = to_x + (k - p0) * width * itemsize
                for i in range(pixels):
                    n, pixel = (first + x + i) // g.image, (first + x + i) % g.image
                    offset = load_i32(g.table + (pixel * g.taps + tap) * 4)
                    place = g.x + (n * g.x_n + offset + c * g.x_c) * itemsize
                    store_i64(table + PLACE * i, place)
                    store_i64(table + PLACE * i + 8, 0)
                    store_i64(table + PLACE * i + 16, channels if offset >= 0 else 0)
                    if g.x_c != 1:
                        for b in range(channels):
                            there = to + (b * width + i) * itemsize
                            if offset >= 0:
                                copy_strided(itemsize, 1, place + b * g.x_c * itemsize, 0, there, 0)
                            else:
                                fill_zero(itemsize, lanes, 1, there)
                if g.x_c == 1:
                    for b in range(0, channels, lanes):
                        turn_pixels(itemsize, lanes, pixels, b, min(lanes, channels - b), table,
                                    to + b * width * itemsize, width * itemsize)  # fmt: skip
                k += channels
            x += pixels

    return pack
