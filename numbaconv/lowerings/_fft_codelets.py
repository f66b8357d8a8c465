"""Small discrete Fourier transforms as straight-line vector code: lanes are channels, constants are in the code.

One generator writes them all: Cooley and Tukey's way splits a length into interleaved parts, down to 4, to 2 and to odd
primes, whose symmetric pairs x_j + x_-j and x_j - x_-j share their products:

    X_k = x_0 + sum of cos(jk) (x_j + x_-j)  -  i · sum of sin(jk) (x_j - x_-j)         X_-k: with + i

A longer transform is made of passes (Stockham's): each is one codelet over all its places, and the last one leaves the
frequencies in order. A complex vector is two real ones, whose addresses are given apart: to exchange the two on the way
in and on the way out is the inverse transform.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from numbaconv.jit import Native, intrinsic, native
from numbaconv.machine import detect
from numbaconv.simd import Lanes, const

RADICES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
"""Lengths of the codelets: those that need few more than 32 registers."""

Complex = tuple[Any, Any]
"""A complex vector: its real and its imaginary parts."""


def turn(number: int, length: int) -> tuple[float, float]:
    """Cosine and sine of -2·pi·number/length, from an angle of the first eighth of the circle, so exact on the axes."""
    number %= length
    below = 2 * number <= length  # the sine's sign
    if not below:
        number = length - number
    right = 4 * number <= length  # the cosine's
    if not right:
        number, length = length - 2 * number, 2 * length
    steep = 8 * number > length
    if steep:
        number, length = length - 4 * number, 4 * length
    angle = 2 * math.pi * number / length
    cosine, sine = (math.sin(angle), math.cos(angle)) if steep else (math.cos(angle), math.sin(angle))
    return cosine if right else -cosine, -sine if below else sine


class Algebra:
    """Complex arithmetic on vectors, with as few operations as a constant allows."""

    def __init__(self, lanes: Lanes):
        self.lanes, self.builder = lanes, lanes.builder

    def add(self, x: Complex, y: Complex) -> Complex:
        return self.builder.fadd(x[0], y[0]), self.builder.fadd(x[1], y[1])

    def sub(self, x: Complex, y: Complex) -> Complex:
        return self.builder.fsub(x[0], y[0]), self.builder.fsub(x[1], y[1])

    def less_i_times(self, x: Complex, y: Complex) -> Complex:
        """x - i·y."""
        return self.builder.fadd(x[0], y[1]), self.builder.fsub(x[1], y[0])

    def plus_i_times(self, x: Complex, y: Complex) -> Complex:
        """x + i·y."""
        return self.builder.fsub(x[0], y[1]), self.builder.fadd(x[1], y[0])

    def constant(self, value: float):
        return ir.Constant(self.lanes.vector, [value] * self.lanes.lanes)

    def negative(self, x):
        return self.builder.fneg(x)

    def scale(self, x: Complex, factor: float) -> Complex:
        return tuple(self.builder.fmul(part, self.constant(factor)) for part in x)

    def scale_and_add(self, x: Complex, factor: float, to: Complex) -> Complex:
        """to + factor·x."""
        return tuple(self.lanes.fma(part, self.constant(factor), sum_) for part, sum_ in zip(x, to))

    def times(self, x: Complex, cosine, sine) -> Complex:
        """x · (cosine + i·sine), of two vectors."""
        real = self.lanes.fma(x[0], cosine, self.negative(self.builder.fmul(x[1], sine)))
        return real, self.lanes.fma(x[0], sine, self.builder.fmul(x[1], cosine))

    def turned(self, x: Complex, number: int, length: int) -> Complex:
        """x · exp(-2·pi·i·number/length)."""
        number %= length
        real, imaginary = x
        if number == 0:
            return x
        if 4 * number == length:
            return imaginary, self.negative(real)
        if 2 * number == length:
            return self.negative(real), self.negative(imaginary)
        if 4 * number == 3 * length:
            return self.negative(imaginary), real
        if 8 * number == length:
            both = self.builder.fadd(real, imaginary), self.builder.fsub(imaginary, real)
            return self.scale(both, math.sqrt(0.5))
        if 8 * number == 3 * length:
            both = self.builder.fsub(imaginary, real), self.builder.fadd(real, imaginary)
            return self.scale((both[0], self.negative(both[1])), math.sqrt(0.5))
        cosine, sine = turn(number, length)
        return self.times(x, self.constant(cosine), self.constant(sine))


def transform(algebra: Algebra, values: Sequence[Complex]) -> list[Complex]:
    """The discrete Fourier transform of some complex values."""
    length = len(values)
    if length == 1:
        return list(values)
    if length == 2:
        return [algebra.add(*values), algebra.sub(*values)]
    if length == 4:
        even = transform(algebra, values[::2])
        odd = transform(algebra, values[1::2])
        return [algebra.add(even[0], odd[0]), algebra.less_i_times(even[1], odd[1]),
                algebra.sub(even[0], odd[0]), algebra.plus_i_times(even[1], odd[1])]  # fmt: skip
    parts = 4 if length % 4 == 0 else next(p for p in range(2, length + 1) if length % p == 0)
    if parts == length:
        return _prime(algebra, values)
    rest = length // parts
    inner = [transform(algebra, values[part::parts]) for part in range(parts)]
    result: list[Any] = [None] * length
    for k in range(rest):
        across = transform(algebra, [algebra.turned(inner[part][k], part * k, length) for part in range(parts)])
        result[k::rest] = across
    return result


def _prime(algebra: Algebra, values: Sequence[Complex]) -> list[Complex]:
    """Of an odd prime length."""
    length = len(values)
    pairs = [(values[j], values[length - j]) for j in range(1, length // 2 + 1)]
    sums, differences = ([join(*pair) for pair in pairs] for join in (algebra.add, algebra.sub))
    result: list[Any] = [functools.reduce(algebra.add, sums, values[0])] + [None] * (length - 1)
    for k in range(1, length // 2 + 1):
        even, odd = values[0], None
        for j, (total, difference) in enumerate(zip(sums, differences), 1):
            cosine, sine = turn(j * k, length)
            even = algebra.scale_and_add(total, cosine, even)
            odd = algebra.scale(difference, -sine) if odd is None else algebra.scale_and_add(difference, -sine, odd)
        result[k], result[length - k] = algebra.less_i_times(even, odd), algebra.plus_i_times(even, odd)
    return result


@intrinsic(prefer_literal=True)
def _pass(typingctx, itemsize, lanes, fused, radix, turning, arguments):
    def codegen(context, builder, signature, args):
        blocks, width, in_real, in_imaginary, in_step, *outputs = cgutils.unpack_tuple(builder, args[-1])
        out_real, out_imaginary, out_step, turns = outputs
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value, bool(fused.literal_value))
        algebra, length = Algebra(v), radix.literal_value
        sources = v.pointer(in_real), v.pointer(in_imaginary)
        targets = v.pointer(out_real), v.pointer(out_imaginary)
        turns = v.pointer(turns)
        apart_in = builder.mul(in_step, builder.mul(blocks, width))
        apart_out = builder.mul(out_step, width)
        with cgutils.for_range(builder, blocks) as block:
            first_in = builder.mul(builder.mul(block.index, width), in_step)
            first_out = builder.mul(builder.mul(block.index, builder.mul(width, const(length))), out_step)
            table = v.at(turns, builder.mul(block.index, const(2 * (length - 1) * v.itemsize)))
            with cgutils.for_range(builder, width) as place:
                here = builder.add(first_in, builder.mul(place.index, in_step))
                there = builder.add(first_out, builder.mul(place.index, out_step))
                values = []
                for i in range(length):
                    offset = builder.add(here, builder.mul(apart_in, const(i)))
                    values.append(tuple(v.load(v.at(source, offset)) for source in sources))
                for k, value in enumerate(transform(algebra, values)):
                    if turning.literal_value and k:
                        factors = [v.splat(v.load_scalar(v.at(table, (2 * k - 2 + i) * v.itemsize))) for i in range(2)]
                        value = algebra.times(value, *factors)
                    offset = builder.add(there, builder.mul(apart_out, const(k)))
                    for part, target in zip(value, targets):
                        v.store(part, v.at(target, offset))
        return context.get_dummy_value()

    return types.void(itemsize, lanes, fused, radix, turning, arguments), codegen


@functools.cache
def pass_kernel(itemsize: int, lanes: int, radix: int, turning: bool) -> Native:
    """``kernel(blocks, width, in_real, in_imaginary, in_step, out_real, out_imaginary, out_step, turns)``: one pass.

    Inputs and outputs are ``radix`` · `blocks` · `width` complex vectors, `in_step` and `out_step` bytes apart. Each
    codelet reads every `blocks` · `width`-th of them and writes every `width`-th. Where it turns, result k of block b
    is multiplied by the complex number k - 1 of row b at `turns`. A pass of radix 1 moves vectors.
    """
    fused, turns_too = int(detect().fma), int(turning)

    @native
    def kernel(blocks, width, in_real, in_imaginary, in_step, out_real, out_imaginary, out_step, turns):
        _pass(itemsize, lanes, fused, radix, turns_too,
              (blocks, width, in_real, in_imaginary, in_step, out_real, out_imaginary, out_step, turns))  # fmt: skip

    return kernel
