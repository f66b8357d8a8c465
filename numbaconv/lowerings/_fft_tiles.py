"""A tile there and back: two vectors of channels at a time, one as the real, one as the imaginary part.

    strips   ▒▒▒▒ c     ──rows──►  A  n_h x n_w  ──columns──►  A  ──untangled──►  V[frequency] of c and of c'
             ░░░░ c'               complex vectors

The transform Z of x + iy has both transforms in it: X(f) = (Z(f) + Z(-f)*)/2, Y(f) = (Z(f) - Z(-f)*)/2i; the halves are
in the weights. Backwards Z(f) = X(f) + iY(f), Z(-f) = X(f)* + iY(f)*, and rows come last, only those that are wanted.
"""

from __future__ import annotations

import functools

import numpy as np
from numba import types
from numba.core import cgutils

from numbaconv.jit import Native, intrinsic, native
from numbaconv.lowerings._fft_codelets import pass_kernel, turn
from numbaconv.lowerings._fft_division import passes
from numbaconv.simd import Lanes, const, invoke, load_i64
from numbaconv.workspace import address_of

PASS_WORDS = 4


@functools.cache
def transform_table(itemsize: int, lanes: int, length: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """What ``transform`` is told of a length: passes, and of each kernel, blocks, width, factors; and the factors."""
    radices = passes(length) or ()
    words, kept, blocks, width = [len(radices)], [], length, 1
    for radix in radices:
        blocks //= radix
        factors = [turn(p * k, radix * blocks) for p in range(blocks) for k in range(1, radix)]
        kept.append(np.array(factors, f"f{itemsize}").reshape(-1))
        words += [pass_kernel(itemsize, lanes, radix, blocks > 1).address, blocks, width, address_of(kept[-1])]
        width *= radix
    return np.array(words, np.int64), kept


@native
def transform(table, in_real, in_imaginary, in_step, out_real, out_imaginary, out_step, vector, lines, line):
    """The passes of `table` from complex vectors `in_step` bytes apart to others `out_step` apart, or back to there.

    What lies between two passes is in one of two lines of complex vectors, at `lines` and `line` bytes behind.
    """
    count = load_i64(table)
    real, imaginary, step = in_real, in_imaginary, in_step
    for number in range(count):
        words = table + 8 + 8 * PASS_WORDS * number
        to_real = lines + number % 2 * line
        to_imaginary, to_step = to_real + vector, 2 * vector
        if number + 1 == count:
            to_real, to_imaginary, to_step = out_real, out_imaginary, out_step
        invoke(load_i64(words), (load_i64(words + 8), load_i64(words + 16), real, imaginary, step,
                                 to_real, to_imaginary, to_step, load_i64(words + 24)))  # fmt: skip
        real, imaginary, step = to_real, to_imaginary, to_step


@intrinsic(prefer_literal=True)
def _untangle(typingctx, itemsize, lanes, arguments):
    def codegen(context, builder, signature, args):
        count, z, opposite, step, opposite_step, v_place, v_imaginary, v_step = cgutils.unpack_tuple(builder, args[-1])
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        z, opposite, v_place = (v.pointer(address) for address in (z, opposite, v_place))
        with cgutils.for_range(builder, count) as loop:
            here = v.at(z, builder.mul(loop.index, step))
            there = v.at(opposite, builder.mul(loop.index, opposite_step))
            to = v.at(v_place, builder.mul(loop.index, v_step))
            (a, b), (c, d) = ([v.load(v.at(p, i * v.bytes), align=v.bytes) for i in range(2)] for p in (here, there))
            v.store(builder.fadd(a, c), to, align=v.bytes)
            v.store(builder.fadd(b, d), v.at(to, v.bytes), align=v.bytes)
            to = v.at(to, v_imaginary)
            v.store(builder.fsub(b, d), to, align=v.bytes)
            v.store(builder.fsub(c, a), v.at(to, v.bytes), align=v.bytes)
        return context.get_dummy_value()

    return types.void(itemsize, lanes, arguments), codegen


@intrinsic(prefer_literal=True)
def _tangle(typingctx, itemsize, lanes, arguments):
    def codegen(context, builder, signature, args):
        count, z, opposite, step, opposite_step, m, m_imaginary, m_step, both = cgutils.unpack_tuple(builder, args[-1])
        v = Lanes(builder, itemsize.literal_value, lanes.literal_value)
        z, opposite, m = (v.pointer(address) for address in (z, opposite, m))
        second = builder.mul(both, const(v.bytes))  # one without a partner is its own: that part is not written
        with cgutils.for_range(builder, count) as loop:
            source = v.at(m, builder.mul(loop.index, m_step))
            here = v.at(z, builder.mul(loop.index, step))
            there = v.at(opposite, builder.mul(loop.index, opposite_step))
            x, xi = (v.load(place, align=v.bytes) for place in (source, v.at(source, m_imaginary)))
            source = v.at(source, second)
            y, yi = (v.load(place, align=v.bytes) for place in (source, v.at(source, m_imaginary)))
            v.store(builder.fadd(x, yi), there, align=v.bytes)
            v.store(builder.fsub(y, xi), v.at(there, v.bytes), align=v.bytes)
            v.store(builder.fsub(x, yi), here, align=v.bytes)
            v.store(builder.fadd(xi, y), v.at(here, v.bytes), align=v.bytes)
        return context.get_dummy_value()

    return types.void(itemsize, lanes, arguments), codegen


@functools.cache
def untangling(itemsize: int, lanes: int) -> Native:
    """``kernel(n_h, n_w, a, row, v_place, v_imaginary, v_step)``: A's frequencies into V, two vectors of channels."""
    vector = lanes * itemsize

    @native
    def kernel(n_h, n_w, a, row, v_place, v_imaginary, v_step):
        for j in range(n_w // 2 + 1):
            z, opposite = a + 2 * j * vector, a + 2 * ((n_w - j) % n_w) * vector
            rows = n_h // 2 + 1 if 2 * j % n_w == 0 else n_h
            _untangle(itemsize, lanes, (1, z, opposite, 0, 0, v_place, v_imaginary, v_step))
            _untangle(itemsize, lanes, (rows - 1, z + row, opposite + (n_h - 1) * row, row, -row, v_place + v_step,
                                        v_imaginary, v_step))  # fmt: skip
            v_place += rows * v_step

    return kernel


@functools.cache
def tangling(itemsize: int, lanes: int) -> Native:
    """``kernel(n_h, n_w, a, row, m, m_imaginary, m_step, both)``: M's frequencies into A; of one vector, or `both`."""
    vector = lanes * itemsize

    @native
    def kernel(n_h, n_w, a, row, m, m_imaginary, m_step, both):
        for j in range(n_w // 2 + 1):
            z, opposite = a + 2 * j * vector, a + 2 * ((n_w - j) % n_w) * vector
            rows = n_h // 2 + 1 if 2 * j % n_w == 0 else n_h
            _tangle(itemsize, lanes, (1, z, opposite, 0, 0, m, m_imaginary, m_step, both))
            _tangle(itemsize, lanes, (rows - 1, z + row, opposite + (n_h - 1) * row, row, -row, m + m_step,
                                      m_imaginary, m_step, both))  # fmt: skip
            m += rows * m_step

    return kernel
