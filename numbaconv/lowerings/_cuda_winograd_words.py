"""The words that transform a Winograd tile in a thread's registers: B^T x B, A^T m A and G w G^T, written out."""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
from llvmlite import ir
from numba import types

from numbaconv.devices.emit import MEMORY, instruction
from numbaconv.jit_cuda import Word
from numbaconv.lowerings._winograd_additions import both_sides, times_columns, times_rows
from numbaconv.lowerings._winograd_points import minimal_filter

APPLIED = {"bt": times_rows, "at": times_columns, "g": times_rows}


class Scalars:
    """``Arithmetic`` with LLVM's floats or doubles."""

    def __init__(self, builder, kind: ir.Type):
        self.builder, self.kind, self.add, self.subtract = builder, kind, builder.fadd, builder.fsub

    def scaled(self, factor: Fraction, x):
        return self.builder.fmul(x, ir.Constant(self.kind, float(factor)))

    def fused(self, factor: Fraction, x, total):
        return self.builder.fma(ir.Constant(self.kind, float(factor)), x, total)


class Rounded:
    """``Arithmetic`` with NumPy's arrays; of float32, a product and its sum are rounded once, as the device does."""

    add, subtract = np.add, np.subtract

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype

    def scaled(self, factor: Fraction, x):
        return self.dtype.type(factor) * x

    def fused(self, factor: Fraction, x, total):
        return (float(factor) * x.astype(np.float64) + total).astype(self.dtype)


@functools.cache
def transform(which: str, filters: tuple[int, int, int, int], itemsize: int) -> Word:
    """The word ``transform(values)``: a matrix from the left and its like from the right, by rows, in place.

    `which` names the matrix of ``minimal_filter``, "bt", "at" or "g"; `filters` are m and r down a column, then along a
    row. `values` is a local array as long as its inputs, or its results where there are more; it stays in registers, as
    every index is a constant.
    """
    of_rows, of_columns = (getattr(minimal_filter(m, r), which) for m, r in (filters[:2], filters[2:]))
    height, width, apply = len(of_rows[0]), len(of_columns[0]), APPLIED[which]

    def twin(thread, values):
        do = Rounded(values.values.dtype)
        tile = values.values[: height * width].reshape(height, width)
        turned = np.array(apply(do, of_rows, list(tile)))
        results = np.array(apply(do, of_columns, list(turned.T))).T
        values.values[: results.size] = results.reshape(-1)

    @instruction(types.void, MEMORY, twin=twin, itemsize=itemsize)
    def transformed(emit, values):
        tile = [
            [emit.builder.load(emit.at(values, row * width + column)) for column in range(width)]
            for row in range(height)
        ]
        do = Scalars(emit.builder, values.type.pointee)
        for number, value in enumerate(sum(both_sides(do, apply, of_rows, of_columns, tile), [])):
            emit.builder.store(value, emit.at(values, number))

    return transformed
