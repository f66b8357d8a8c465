"""When a product is not left to bf16: numbers that it would not treat like float32.

Splitting makes NaN of infinity (infinity less itself), rounds numbers above 3.396e38 to infinity, and the hardware
takes everything below the smallest normal number, 2^-126, for zero: denormals, small parts of small numbers, small
products. So the splitter notes each operand's largest and smallest magnitude, zeros apart, and bf16's result stands if

    each operand lies within 2^-100 ... 2^127,         and its parts within float32's normal numbers
    least of A · least of B >= 2^-100                   what is lost of a product is 2^-26 of it
    k · largest of A · largest of B < 2^127             nothing overflows that would not in float32

Otherwise the product is computed again, in float32. Where the result is also an input (it is added to, or is its own
residual) a second computation would add twice: there operands are scanned before anything is written.
"""

from __future__ import annotations

import numpy as np

from numbaconv.gemm.call import CALL
from numbaconv.gemm.split import SCAN_HALF
from numbaconv.jit import compiled
from numbaconv.simd import load_i32, load_i64, record_at, store_i64
from numbaconv.workspace import address_of, aligned

SCAN_BYTES = 2 * SCAN_HALF
SCANS = 2 * SCAN_BYTES
"""Bytes of a thread's scans of A and of B."""
SEAL = 1024
"""Bytes behind panels that were packed before, for their largest magnitude and their smallest less one; a last tile may
be read beyond its panel, so far."""
NOTHING = 0xFFFFFFFF
LEAST, MOST = -100, 127


@compiled
def clear_scan(scan):
    """Nothing seen yet, of A and of B."""
    for side in range(2):
        for word in range(0, SCAN_HALF, 8):
            store_i64(scan + side * SCAN_BYTES + word, 0)
            store_i64(scan + side * SCAN_BYTES + SCAN_HALF + word, -1)


@compiled
def read_scan(scan):
    """(largest magnitude, smallest less one) of one operand, as one thread saw them: the bits of float32."""
    most, least = 0, NOTHING
    for lane in range(0, SCAN_HALF, 4):
        most = max(most, load_i32(scan + lane) & NOTHING)
        least = min(least, load_i32(scan + SCAN_HALF + lane) & NOTHING)
    return most, least


@compiled
def _seen(call, side, threads):
    panels, before = (call.a_panels, call.a_before) if side == 0 else (call.b_panels, call.b_before)
    if before:
        sealed = panels + call.plain_offset - SEAL
        return load_i64(sealed), load_i64(sealed + 8)
    most, least = 0, NOTHING
    for worker in range(threads):
        high, low = read_scan(call.scratch + worker * call.scratch_step + call.scan_offset + side * SCAN_BYTES)
        most, least = max(most, high), min(least, low)
    return most, least


@compiled
def _exponent(bits):
    return (bits >> 23) - 127


@compiled
def fit(address, threads):
    """Whether all that was seen so far may be left to bf16."""
    call = record_at(address, CALL)
    a_most, a_least = _seen(call, 0, threads)
    b_most, b_least = _seen(call, 1, threads)
    for most, least in ((a_most, a_least), (b_most, b_least)):
        if most and (_exponent(most) >= MOST or _exponent(least + 1) < LEAST):
            return False
    if a_most == 0 or b_most == 0:
        return True
    terms, doublings = call.terms, 0
    while terms:
        terms, doublings = terms >> 1, doublings + 1
    if _exponent(a_most) + _exponent(b_most) + 2 + doublings > MOST:
        return False
    return _exponent(a_least + 1) + _exponent(b_least + 1) >= LEAST


class Scans:
    """What threads see of one operand while it is packed, without a product."""

    def __init__(self, step: int, offset: int, threads: int):
        self._memory = aligned(step * threads)
        self.address = address_of(self._memory)
        self._scans = [self.address + thread * step + offset for thread in range(threads)]
        for scan in self._scans:
            clear_scan(scan)

    def seal(self, is_a: bool, place: int) -> None:
        """Keep it at an address, as ``fit`` looks for it there."""
        seen = np.array([read_scan(scan + (0 if is_a else SCAN_BYTES)) for scan in self._scans], np.int64)
        _write(place, seen[:, 0].max(), seen[:, 1].min())


@compiled
def _write(place, most, least):
    store_i64(place, most)
    store_i64(place + 8, least)
