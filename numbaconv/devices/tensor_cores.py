"""Tensor cores (sm_80 and later) for float32: TF32 products, one or three for each of float32.

TF32 has float32's exponent and 10 of its 23 bits after the point. One product of numbers rounded to it errs by 3e-4.
Three give float32's accuracy, nearly: x = hi + lo, both TF32, and a * b = lo * hi + hi * lo + hi * hi, less
lo * lo, which is as small as float32's own rounding (Markidis et al., arXiv 1803.04014; Ootomo and Yokota, arXiv
2203.03341). Sums are float32, but hardware truncates them where it would have to round.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from llvmlite import ir
from numba import types

from numbaconv.devices.emit import FLOAT, I32, MEMORY, instruction
from numbaconv.jit_cuda import Word

HALF, KEPT = 0x1000, 0xFFFFE000  # half of TF32's last place; the bits that it keeps
MMA = (
    "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, "
    "{$10, $11, $12, $13};"
)
LANES = np.arange(32)
G, T = LANES >> 2, LANES & 3
# Of m16n8k8 a lane g, t = divmod(lane, 4) has, register by register, A[row g +, k t +], B[k t +, column g] and
# C[row g +, column 2 t +]:
A_ROWS, A_DEPTHS = (0, 8, 0, 8), (0, 0, 4, 4)
B_DEPTHS = (0, 4)
C_ROWS, C_COLUMNS = (0, 0, 8, 8), (0, 1, 0, 1)

int32, void = types.int32, types.void


def fragment_places(bk: int, pitch_m: int, pitch_n: int, wm: int, wn: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a lane's operands lie, after its own ``t * pitch + g``: [k / 8, m / 16, 4] of A and [k / 8, n / 8, 2] of B.

    In shared memory's 32 banks no two lanes of a load meet where ``pitch % 32 == 8`` (or 24): 8 t + g are 32 banks.
    """
    k = 8 * np.arange(bk // 8)[:, None, None]
    rows, columns = 16 * np.arange(wm // 16)[:, None], 8 * np.arange(wn // 8)[:, None]
    return (k + A_DEPTHS) * pitch_m + rows + A_ROWS, (k + B_DEPTHS) * pitch_n + columns


def rounded(x: np.ndarray) -> np.ndarray:
    """float32 rounded to TF32, halves away from zero; infinities and NaN stay."""
    bits = x.view(np.uint32)
    return (np.where(np.isfinite(x), bits + np.uint32(HALF), bits) & np.uint32(KEPT)).view(np.float32)


def split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``hi, finite, lo``: TF32 parts of float32; ``finite`` is ``hi``, but 0, as ``lo`` is, where x is not finite."""
    known = np.where(np.isfinite(x), x, np.float32(0))
    hi, finite = ((part.view(np.uint32) & np.uint32(KEPT)).view(np.float32) for part in (x, known))
    return hi, finite, rounded(known - finite)


def _terms(a, b, terms: int) -> list[tuple]:
    """The products whose sum is a * b, small ones first; `a` and `b` are parts as ``split`` or ``rounded`` gives.

    An infinity's own parts would be infinity and NaN, and its product with a `lo` of 0 NaN too: it is only in hi * hi.
    """
    return [(a[0], b[0])] if terms == 1 else [(a[2], b[1]), (a[1], b[2]), (a[0], b[0])]


@functools.cache
def multiply_tile_mma(bk: int, pitch_m: int, pitch_n: int, wm: int, wn: int, terms: int) -> Word:
    """The word ``multiply(shared_a, i, shared_b, j, lane, sums)``: one warp's share of one k-tile, on tensor cores.

    The tiles lie in shared memory as bk rows of float32, `pitch_m` and `pitch_n` apart; the corners of the warp's own
    tile are elements `i` and `j` of them. All 32 lanes call it together. A `lane` = 4 g + t has rows g + 8 r and
    columns 8 c + 2 t + {0, 1} of the wm x wn results: `sums` is its ``(wm / 8, wn / 4)``, row after row.

    ::

        for p in range(0, bk, 8):  # mma.sync m16n8k8 by mma.sync, operands split in registers
            sums[wm x wn] += A[p : p + 8, i : i + wm].T @ B[p : p + 8, j : j + wn]

    `terms` is 1 (TF32) or 3 (3xTF32). Pitches of 8 or 24 more than a multiple of 32 keep loads free of bank conflicts.
    """
    if bk % 8 or wm % 16 or wn % 8 or min(bk, wm, wn) < 1:
        raise ValueError(f"a warp's tile of {wm} x {wn} x {bk}: not in units of 16 x 8 x 8")
    if terms not in (1, 3):
        raise ValueError(f"{terms} products for one: 1 or 3")
    places_a, places_b = fragment_places(bk, pitch_m, pitch_n, wm, wn)
    steps, tiles_m, tiles_n, width = bk // 8, wm // 16, wn // 8, wn // 4

    def cells(m, n) -> list[int]:
        """The four sums of a tile of the warp's."""
        return [(2 * m + row // 8) * width + 2 * n + column for row, column in zip(C_ROWS, C_COLUMNS, strict=True)]

    tiles = [(m, n) for m in range(tiles_m) for n in range(tiles_n)]
    results = np.array([cells(m, n) for m, n in tiles]).reshape(tiles_m, tiles_n, 4)
    # The twin puts fragments together by PTX ISA's own formulas, not by the tables that say what to load.
    register = np.arange(4)
    result_rows = G[:, None, None, None] + 16 * np.arange(tiles_m)[:, None, None] + 8 * (register // 2)
    result_columns = 2 * T[:, None, None, None] + 8 * np.arange(tiles_n)[:, None] + register % 2

    def twin(threads, operands):
        shared_a, shared_b = operands[0][0], operands[0][2]
        i, j, lane = (np.array([operand[number] for operand in operands]) for number in (1, 3, 4))
        g, t = lane >> 2, lane & 3
        own_a, own_b = i + t * pitch_m + g, j + t * pitch_n + g
        loaded_a = shared_a.gather_lanes(threads, own_a[:, None, None, None] + places_a)
        loaded_b = shared_b.gather_lanes(threads, own_b[:, None, None, None] + places_b)
        a, b = np.empty((steps, wm, 8), np.float32), np.empty((steps, 8, wn), np.float32)
        for r in range(4):
            for m in range(tiles_m):
                a[:, 16 * m + G + 8 * (r % 2), T + 4 * (r // 2)] = loaded_a[:, :, m, r].T
        for r in range(2):
            for n in range(tiles_n):
                b[:, T + 4 * r, 8 * n + G] = loaded_b[:, :, n, r].T
        sums = [operand[5].values for operand in operands]
        total = np.empty((wm, wn), np.float32)
        total[result_rows, result_columns] = np.array(sums)[:, results]
        parts = (rounded(a)[None], rounded(b)[None]) if terms == 1 else (split(a), split(b))
        with np.errstate(invalid="ignore", over="ignore"):
            products = [x.astype(np.float64) @ y.astype(np.float64) for x, y in _terms(*parts, terms)]
            for p in range(steps):
                for product in products:
                    total = (total + product[p]).astype(np.float32)
        for own, values in zip(sums, total[result_rows, result_columns], strict=True):
            own[results] = values

    @instruction(void, MEMORY, int32, MEMORY, int32, int32, MEMORY, twin=twin, collective=True, itemsize=4)
    def multiply(emit, shared_a, i, shared_b, j, lane, sums):
        builder, mma = emit.builder, ir.LiteralStructType([FLOAT] * 4)
        zero, kept, infinity = ir.Constant(FLOAT, 0.0), ir.Constant(I32, KEPT), ir.Constant(FLOAT, math.inf)
        g, t = builder.lshr(lane, ir.Constant(I32, 2)), builder.and_(lane, ir.Constant(I32, 3))

        def own(memory, corner, pitch):
            across = builder.mul(t, ir.Constant(I32, pitch))
            return emit.at(memory, builder.add(corner, builder.add(across, g)))

        def cut(x):
            return builder.and_(builder.bitcast(x, I32), kept)

        def half_up(x):
            return builder.add(builder.bitcast(x, I32), ir.Constant(I32, HALF))

        def parts(x) -> tuple:
            finite = builder.fcmp_ordered("<", emit.fabs(x), infinity)
            if terms == 1:
                return (builder.and_(builder.select(finite, half_up(x), builder.bitcast(x, I32)), kept),)
            known = builder.select(finite, x, zero)
            high = cut(known)
            low = builder.fsub(known, builder.bitcast(high, FLOAT))
            return cut(x), high, builder.and_(half_up(low), kept)

        def load(memory, places):
            return [[emit.load(emit.at(memory, int(place)), 1)[0] for place in tile] for tile in places]

        corner_a, corner_b = own(shared_a, i, pitch_m), own(shared_b, j, pitch_n)
        places = [emit.at(sums, number) for number in range(results.size)]
        total = [builder.load(place) for place in places]
        coming = load(corner_a, places_a[0]), load(corner_b, places_b[0])
        for p in range(steps):
            a, b = ([list(zip(*map(parts, tile), strict=True)) for tile in fragment] for fragment in coming)
            if p + 1 < steps:  # loads run one step ahead of their use
                coming = load(corner_a, places_a[p + 1]), load(corner_b, places_b[p + 1])
            for term in range(terms):  # neighbouring instructions add to different sums
                for m, n in tiles:
                    x, y = _terms(a[m], b[n], terms)[term]
                    at = results[m, n]
                    before = [total[cell] for cell in at]
                    after = emit.ptx(MMA, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", mma, [*x, *y, *before], pure=True)
                    for lane_sum, cell in enumerate(at):
                        total[cell] = builder.extract_value(after, lane_sum)
        for value, place in zip(total, places, strict=True):
            builder.store(value, place)

    return multiply
