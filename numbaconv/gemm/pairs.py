"""Words for kernels that compute with pairs: two bf16 in 4 bytes, the earlier along k in the lower half.

A bf16 is the upper half of a float32, so either half of a pair, moved up and with zeros below, is a float32. That is
all that the emulation needs; where there is AVX512-BF16, one instruction splits and one multiplies.
"""

from __future__ import annotations

from llvmlite import ir

from numbaconv.simd import I16, I32, Lanes

UPPER = -0x10000  # the upper half of 32 bits


class Pairs(Lanes):
    """Vectors of float32, and vectors of as many pairs."""

    def __init__(self, builder, lanes: int, fma: bool, native: bool):
        super().__init__(builder, 4, lanes, fma)
        self.native = native
        self.whole = ir.VectorType(I32, lanes)

    def constant(self, value: int):
        return ir.Constant(self.whole, [value] * self.lanes)

    def bits(self, value):
        return self.builder.bitcast(value, self.whole)

    def floats(self, bits):
        return self.builder.bitcast(bits, self.vector)

    def lower(self, pairs):
        """The earlier numbers of pairs, as float32."""
        return self.floats(self.builder.shl(pairs, self.constant(16)))

    def upper(self, pairs):
        """The later numbers."""
        return self.floats(self.builder.and_(pairs, self.constant(UPPER)))

    def pair(self, x, y):
        """Two vectors of float32, rounded to the nearest bf16 (ties to even), as pairs."""
        if self.native:
            return self._pair_natively(x, y)
        low = self.builder.lshr(self._rounded(x), self.constant(16))
        return self.builder.or_(low, self.builder.and_(self._rounded(y), self.constant(UPPER)))

    def _rounded(self, x):
        """The bits of a number whose upper half is its bf16."""
        builder, bits = self.builder, self.bits(x)
        odd = builder.and_(builder.lshr(bits, self.constant(16)), self.constant(1))
        return builder.add(builder.add(bits, self.constant(0x7FFF)), odd)

    def _pair_natively(self, x, y):
        halves = ir.VectorType(I16, 2 * self.lanes)
        kind = ir.FunctionType(halves, [self.vector, self.vector])
        convert = self._function("llvm.x86.avx512bf16.cvtne2ps2bf16.512", kind)
        apart = self.builder.call(convert, [y, x])  # the first 16 are x's
        order = [i for lane in range(self.lanes) for i in (lane, self.lanes + lane)]
        mixed = self.builder.shuffle_vector(apart, apart, ir.Constant(ir.VectorType(I32, 2 * self.lanes), order))
        return self.bits(mixed)

    def split(self, x, y, parts: int):
        """The parts of two vectors of float32, each as pairs."""
        for part in range(parts):
            pairs = self.pair(x, y)
            yield pairs
            if part + 1 < parts:
                x = self.builder.fsub(x, self.lower(pairs))
                y = self.builder.fsub(y, self.upper(pairs))

    def dot(self, total, a, b):
        """total + a's earlier numbers times b's + a's later numbers times b's."""
        if self.native:
            kind = ir.FunctionType(self.vector, [self.vector, self.whole, self.whole])
            return self.builder.call(self._function("llvm.x86.avx512bf16.dpbf16ps.512", kind), [total, a, b])
        return self.fma(self.upper(a), self.upper(b), self.fma(self.lower(a), self.lower(b), total))
