"""Products on tensor cores, emulated lane by lane and compiled: layout, rounding, bank conflicts, instructions."""

from __future__ import annotations

from contextlib import contextmanager

import numba
import numpy as np
import pytest
from llvmlite import ir
from numba import types

pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets: pip install greenlet")

from cuda_code import compiled

from numbaconv.devices import emit, tensor_cores
from numbaconv.devices.emulated_memory import SharedMemory
from numbaconv.devices.emulator import EmulationError, launch
from numbaconv.devices.intrinsics import cuda, float32, int32, multiply_tile_mma
from numbaconv.devices.tensor_cores import fragment_places, rounded, split
from numbaconv.jit import intrinsic
from numbaconv.jit_cuda import rebound

F32 = types.CPointer(types.float32)
SIGNATURE = types.void(F32, F32, F32, *[types.int32] * 4)


def block(bk, wm, wn, terms, warps_m=1, warps_n=1, more_m=8, more_n=8, lanes=31):
    """A block's kernel: k-tiles of A (k, bm) and B (k, bn) to shared memory, and C (bm, bn) out of `sums`."""
    bm, bn = wm * warps_m, wn * warps_n
    pitch_m, pitch_n, threads = bm + more_m, bn + more_n, 32 * warps_m * warps_n
    cells_a, cells_b, rows, columns = bk * pitch_m, bk * pitch_n, wm // 8, wn // 4
    count = rows * columns
    multiply = multiply_tile_mma(bk, pitch_m, pitch_n, wm, wn, terms)

    def kernel(a, b, c, k, step_a, step_b, step_c):
        shared_a, shared_b = cuda.shared.array(cells_a, float32), cuda.shared.array(cells_b, float32)
        sums = cuda.local.array(count, float32)
        me = int32(cuda.threadIdx.x)
        lane, warp = int32(me & lanes), int32(me >> 5)
        down, across = int32(warp & (warps_m - 1)), int32(warp >> (warps_m - 1))
        for i in range(count):
            sums[i] = float32(0)
        for first in range(0, k, bk):
            for p in range(bk):
                for i in range(me, bm, threads):
                    shared_a[p * pitch_m + int32(i)] = a[int32((first + p) * step_a + i)]
                for j in range(me, bn, threads):
                    shared_b[p * pitch_n + int32(j)] = b[int32((first + p) * step_b + j)]
            cuda.syncthreads()
            multiply(shared_a, int32(down * wm), shared_b, int32(across * wn), lane, sums)
            cuda.syncthreads()
        for r in range(rows):
            for s in range(columns):
                row = int32(down * wm + 8 * r + (lane >> 2))
                column = int32(across * wn + 8 * (s >> 1) + 2 * (lane & 3) + (s & 1))
                c[int32(row * step_c + column)] = sums[r * columns + s]

    return kernel, (bm, bn), threads


def multiplied(a, b, bk, wm, wn, terms, **options):
    """``a.T @ b`` by one block."""
    kernel, (bm, bn), threads = block(bk, wm, wn, terms, **options)
    c = np.full((bm, bn), np.nan, np.float32)
    launch(kernel, (1,), threads, a, b, c, len(a), bm, bn, bn)
    return c


@pytest.mark.parametrize("terms", [1, 3])
@pytest.mark.parametrize(
    ("bk", "wm", "wn", "warps"),
    [(8, 16, 8, (1, 1)), (16, 32, 24, (1, 1)), (8, 16, 16, (2, 2)), (16, 64, 32, (2, 2)), (24, 48, 8, (2, 1))],
    ids=str,
)
def test_whole_numbers_are_multiplied_exactly(rng, terms, bk, wm, wn, warps):
    bm, bn = wm * warps[0], wn * warps[1]
    a, b = (rng.integers(-99, 99, (2 * bk, width)).astype(np.float32) for width in (bm, bn))
    got = multiplied(a, b, bk, wm, wn, terms, warps_m=warps[0], warps_n=warps[1])
    np.testing.assert_array_equal(got, a.T @ b)


@pytest.mark.parametrize("k", [16, 256, 1024])
@pytest.mark.parametrize("positive", [False, True])
def test_errors_are_those_of_one_and_of_three_products(rng, k, positive):
    a, b = rng.standard_normal((2, k, 32), dtype=np.float32)
    if positive:
        a, b = abs(a), abs(b)
    want = a.T.astype(np.float64) @ b
    one, three = (np.linalg.norm(multiplied(a, b, 16, 32, 32, terms) - want) / np.linalg.norm(want) for terms in (1, 3))
    assert three < 2e-6
    assert (1e-6 if positive else 1e-4) < one < 5e-4


def test_splitting_loses_nothing_that_a_float32_product_would_show(rng):
    x = (rng.standard_normal(4096) * 2.0 ** rng.integers(-60, 60, 4096)).astype(np.float32)
    hi, finite, lo = split(x)
    np.testing.assert_array_equal(hi, finite)
    assert (abs((hi.astype(np.float64) + lo) - x) <= abs(x) * 2.0**-21).all()
    assert (abs(rounded(x).astype(np.float64) - x) <= abs(x) * 2.0**-11).all()
    for part in hi, lo, rounded(x):
        assert not (part.view(np.uint32) & 0x1FFF).any()
    big = np.array([3.4028235e38, -3.4028235e38, 3.4e38], np.float32)
    assert np.isfinite(split(big)).all()


@pytest.mark.parametrize("terms", [1, 3])
def test_infinities_and_nans_go_where_float32_takes_them(rng, terms):
    a, b = (rng.standard_normal((16, width), dtype=np.float32) + np.float32(3) for width in (16, 8))
    a[3, 5], a[4, 6], b[9, 2], b[:, 4], a[:, 7] = np.inf, -np.inf, np.inf, 1.0, 2.0  # times 1 and 2: lo is 0
    a[7:9, 9] = np.inf, -np.inf
    a[2, 11], a[5, 12] = np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)  # a GPU's NaN, and the other
    b[6, 6] = np.float32("nan")
    a[3, 13], b[10, 3] = np.inf, 0.0
    with np.errstate(invalid="ignore"):
        want = a.T @ b
    got = multiplied(a, b, 16, 16, 8, terms)
    special = ~np.isfinite(want)
    assert special.any()
    assert np.isposinf(want).any()
    np.testing.assert_array_equal(got[special], want[special])
    np.testing.assert_allclose(got[~special], want[~special], rtol=2e-3)
    huge = np.full((8, 16), 3.4028235e38, np.float32)
    assert (multiplied(huge, huge[:, :8].copy(), 8, 16, 8, terms) == np.inf).all()


def conflicts(monkeypatch, more):
    """How often a load of the kernel must be repeated because lanes want different places of a bank."""
    repeated, gather = [], SharedMemory.gather_lanes

    def counted(memory, threads, where):
        for places in where.reshape(32, -1).T:
            banks = [set() for _ in range(32)]
            for place in places.tolist():
                banks[place % 32].add(place)
            repeated.append(max(map(len, banks)) - 1)
        return gather(memory, threads, where)

    monkeypatch.setattr(SharedMemory, "gather_lanes", counted)
    zeros = np.zeros((16, 64), np.float32)
    multiplied(zeros, zeros, 16, 32, 64, 3, warps_m=2, more_m=more, more_n=more)
    assert len(repeated) == 2 * 2 * (2 * 4 + 8 * 2)  # warps, steps of 8, loads
    return sum(repeated)


def test_loads_are_free_of_bank_conflicts_where_rows_are_8_longer_than_a_multiple_of_32(monkeypatch):
    assert conflicts(monkeypatch, 8) == 0
    assert conflicts(monkeypatch, 24) == 0
    assert conflicts(monkeypatch, 0) == 3 * 96
    assert conflicts(monkeypatch, 4) > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("A_ROWS", (8, 0, 8, 0)), ("A_DEPTHS", (0, 4, 0, 4)), ("B_DEPTHS", (4, 0)), ("C_ROWS", (0, 8, 0, 8)),
     ("C_COLUMNS", (1, 0, 1, 0)), ("KEPT", 0xFFFF0000)],
)  # fmt: skip
def test_a_planted_fault_is_caught(rng, monkeypatch, name, value):
    monkeypatch.setattr(tensor_cores, name, value)
    monkeypatch.setattr(tensor_cores, "multiply_tile_mma", tensor_cores.multiply_tile_mma.__wrapped__)
    monkeypatch.setitem(globals(), "multiply_tile_mma", tensor_cores.multiply_tile_mma)
    a, b = (rng.integers(256, 512, (16, width)).astype(np.float32) for width in (32, 16))
    assert not np.array_equal(multiplied(a, b, 8, 32, 16, 1), a.T @ b)


def test_lanes_race_and_leave_the_tile_like_any_threads():
    floats = np.zeros((16, 64), np.float32)
    assert np.isfinite(multiplied(floats, floats, 16, 64, 64, 1)).all()
    multiply = multiply_tile_mma(8, 16, 16, 16, 8, 1)

    def kernel(a, early, corner, some):
        shared, sums = cuda.shared.array(128, float32), cuda.local.array(4, float32)
        me = int32(cuda.threadIdx.x)
        for i in range(4):
            shared[me + 32 * i] = sums[i] = float32(0)
        if early == 0:
            cuda.syncthreads()
        if me < some:
            multiply(shared, corner, shared, 0, me, sums)
        a[me] = sums[0]

    for error, *how in [("race", 1, 0, 32), ("outside", 0, 1, 32), ("outside", 0, -1, 32), ("not all lanes", 0, 0, 31)]:
        with pytest.raises(EmulationError, match=error):
            launch(kernel, (1,), 32, np.zeros(32, "f4"), *how)
    launch(kernel, (1,), 32, np.zeros(32, "f4"), 0, 0, 32)


def test_who_alone_has_read_a_place_may_write_it():
    multiply = multiply_tile_mma(8, 16, 8, 16, 8, 1)

    def kernel(out, mine, writer):
        a, b = cuda.shared.array(128, float32), cuda.shared.array(64, float32)
        sums = cuda.local.array(4, float32)
        me = int32(cuda.threadIdx.x)
        for i in range(4):
            a[me + 32 * i] = sums[i] = b[me + 32 * (i & 1)] = float32(0)
        cuda.syncthreads()
        lane = me if mine else int32(0)
        multiply(a, 0, b, 0, lane, sums)
        if mine or me == writer:
            a[(lane & 3) * 16 + (lane >> 2)] = float32(1)

    out = np.zeros(32, "f4")
    launch(kernel, (1,), 32, out, 1, 0)
    for writer in range(32):
        with pytest.raises(EmulationError, match="race"):
            launch(kernel, (1,), 32, out, 0, writer)


@pytest.mark.parametrize("sizes", [(4, 16, 8, 1), (8, 8, 8, 1), (8, 16, 4, 1), (8, 16, 8, 2), (8, 0, 8, 1)])
def test_other_sizes_are_refused(sizes):
    bk, wm, wn, terms = sizes
    with pytest.raises(ValueError, match=r"a warp's tile|products for one"):
        multiply_tile_mma(bk, 24, 24, wm, wn, terms)


# ------------------------------------------------------------------------------------------------- the code itself


class Stand(emit.Emit):
    """Code for a CPU, where d[r] = c[r] + a[r] * b[r / 2] stands for the products of a warp: one lane's addresses."""

    def fabs(self, x):
        return self.builder.call(self.builder.module.declare_intrinsic("llvm.fabs", [emit.FLOAT]), [x])

    def ptx(self, text, constraints, result, values, pure):
        assert text == tensor_cores.MMA
        assert pure
        a, b, c = (list(values[part]) for part in (slice(0, 4), slice(4, 6), slice(6, 10)))
        after = ir.Constant(result, ir.Undefined)
        for r in range(4):
            x, y = (self.builder.bitcast(value, emit.FLOAT) for value in (a[r], b[r // 2]))
            after = self.builder.insert_value(after, self.builder.fadd(c[r], self.builder.fmul(x, y)), r)
        return after


@contextmanager
def on_cpu(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(emit, "Emit", Stand)
        yield


@pytest.mark.parametrize("terms", [1, 3])
@pytest.mark.parametrize("lane", [0, 1, 6, 31])
def test_the_code_loads_splits_and_stores_what_a_lane_has_to(rng, monkeypatch, terms, lane):
    bk, pitch_m, pitch_n, wm, wn, i, j = 16, 40, 24, 32, 24, 3, 5
    multiply = multiply_tile_mma.__wrapped__(bk, pitch_m, pitch_n, wm, wn, terms)

    def run(a, b, sums, lane):
        multiply(a, i, b, j, lane, sums)

    a, b = (rng.standard_normal(bk * pitch + 32).astype(np.float32) for pitch in (pitch_m, pitch_n))
    own = lane % 4 * pitch_m + lane // 4 + i, lane % 4 * pitch_n + lane // 4 + j
    places_a, places_b = fragment_places(bk, pitch_m, pitch_n, wm, wn)
    a[own[0] + places_a[0, 1, 2]], b[own[1] + places_b[1, 2, 0]] = np.inf, np.uint32(0x7FFFFFFF).view(np.float32)
    sums = rng.standard_normal((wm // 8, wn // 4)).astype(np.float32)
    got = sums.copy()
    with on_cpu(monkeypatch), np.errstate(invalid="ignore"):
        form = rebound(run, lambda value: intrinsic(multiply.typing) if value is multiply else value)
        numba.njit(form)(a, b, got.reshape(-1), lane)
        parts = [(rounded(x),) if terms == 1 else split(x) for x in (a[own[0] + places_a], b[own[1] + places_b])]
        order = [(0, 0)] if terms == 1 else [(2, 1), (1, 2), (0, 0)]
        for p in range(bk // 8):
            for x, y in order:
                for m in range(wm // 16):
                    for n in range(wn // 8):
                        for r in range(4):
                            row, column = 2 * m + r // 2, 2 * n + r % 2
                            sums[row, column] += parts[0][x][p, m, r] * parts[1][y][p, n, r // 2]
    np.testing.assert_array_equal(got, sums)
    assert np.isinf(got).any()
    assert np.isnan(got).any()


@pytest.mark.compiler
@pytest.mark.parametrize("cc", [(8, 0), (9, 0)], ids=str)
@pytest.mark.parametrize("terms", [1, 3])
@pytest.mark.parametrize(("wm", "wn"), [(64, 32), (32, 32), (32, 16)])
def test_it_compiles_to_one_instruction_a_product_and_no_local_memory(cc, terms, wm, wn):
    bk, blocks = 16, 2
    kernel, _, threads = block(bk, wm, wn, terms, 2, 2, lanes=31)
    code = compiled(kernel, SIGNATURE, cc, threads, blocks)
    seen = code.seen
    assert code.spilled == (0, 0, 0)
    assert sum(count for name, count in seen.items() if name.startswith("HMMA.1688.F32.TF32")) == (
        terms * bk // 8 * wm // 16 * wn // 8
    )
    shared = {name: count for name, count in seen.items() if name.startswith("LDS")}
    assert shared == {"LDS": bk // 8 * (wm // 16 * 4 + wn // 8 * 2)}  # each element once, whatever the terms
    print(cc, terms, (wm, wn), code.used)
