"""Packing: an operand, whatever its strides, becomes panels that the micro-kernel reads in order.

    operand, axis x against k            panel of `width`            A panel holds mr rows of A, or nr columns of B,
    ┌───────────────┐                    ┌────┐ k = p0              one step of k after the other. The last panel
    │     x ····    │  first, count      │ x →│   p0 + 1            of B is filled with zeros up to whole vectors.
    │     k ····    │        ──►         │    │   ...
    └───────────────┘                    └────┘   p0 + kc - 1

Packing is pluggable. A packer is a ``native`` function

    pack(source, first, count, p0, kc, target, width)

that writes elements first ... first + count of the axis, steps p0 ... p0 + kc of k, as panels of `width` one after
another at `target` (several at a time, so that a row of the operand is read in long runs). `source` is the address of
whatever record it understands. ``strided_packer`` understands a ``STRIDED`` record, whose two axes may each have two
levels (a convolution's pixels: a step inside a row, another between rows).
"""

from __future__ import annotations

import functools

import numpy as np

from numbaconv.gemm.axes import UNBROKEN, offset, run_left, within
from numbaconv.gemm.copying import copy_panels, copy_rows, copy_strided, fill_zero, transpose_block
from numbaconv.jit import Native, native
from numbaconv.machine import detect
from numbaconv.simd import record_at

STRIDED_FIELDS = ("base", "x_step", "x_inner", "x_outer", "k_step", "k_inner", "k_outer")
STRIDED = np.dtype([(name, np.int64) for name in STRIDED_FIELDS])
"""An operand in memory: element (x, k) is at base + (x // x_inner)·x_outer + (x % x_inner)·x_step + the same for k."""


@functools.cache
def strided_packer(itemsize: int) -> Native:
    """The packer of operands in memory, for floats of `itemsize` bytes."""
    lanes = detect().vector_bits // (8 * itemsize)

    @native
    def pack(source, first, count, p0, kc, target, width):
        operand = record_at(source, STRIDED)
        rows = operand.x_step == itemsize and width % lanes == 0 and operand.k_inner >= UNBROKEN
        if rows and within(first, count, operand.x_inner):
            place = operand.base + offset(first, operand.x_inner, operand.x_step, operand.x_outer) + p0 * operand.k_step
            copy_panels(itemsize, lanes, kc, count, place, operand.k_step, target, width)
            return
        if count % width:
            fill_zero(itemsize, lanes, kc * width, target + count // width * width * kc * itemsize)
        x = first
        while x < first + count:
            panel = (x - first) // width * width
            x_run = min(first + min(panel + width, count) - x, run_left(x, operand.x_inner))
            x_place = operand.base + offset(x, operand.x_inner, operand.x_step, operand.x_outer)
            to_x = target + (panel * kc + x - first - panel) * itemsize
            k = p0
            while k < p0 + kc:
                k_run = min(p0 + kc - k, run_left(k, operand.k_inner))
                place = x_place + offset(k, operand.k_inner, operand.k_step, operand.k_outer)
                to = to_x + (k - p0) * width * itemsize
                if operand.x_step == itemsize:
                    copy_rows(itemsize, lanes, k_run, x_run, place, operand.k_step, to, width * itemsize)
                elif operand.k_step == itemsize:
                    for xb in range(0, x_run, lanes):
                        for kb in range(0, k_run, lanes):
                            transpose_block(itemsize, lanes, min(lanes, x_run - xb), min(lanes, k_run - kb),
                                            place + xb * operand.x_step + kb * itemsize, operand.x_step,
                                            to + (kb * width + xb) * itemsize, width * itemsize)  # fmt: skip
                else:
                    for i in range(x_run):
                        copy_strided(itemsize, k_run, place + i * operand.x_step, operand.k_step,
                                     to + i * itemsize, width * itemsize)  # fmt: skip
                k += k_run
            x += x_run

    return pack
