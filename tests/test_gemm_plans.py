"""``GemmPlan``: every micro-kernel, axes of two levels, operands of one's own, scratch to the byte, and rounding."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import oracles
import pytest
from numpy.testing import assert_array_equal

import numbaconv as nc
from numbaconv.gemm import Axis, Blocking, Finish, GemmPlan, Matrix, Operands, Source
from numbaconv.gemm import plan as plan_module
from numbaconv.gemm import schedule as schedule_module
from numbaconv.gemm.axes import UNBROKEN
from numbaconv.gemm.micro import max_rows, max_vectors
from numbaconv.gemm.pack import strided_packer
from numbaconv.machine import detect
from numbaconv.workspace import ALIGNMENT, aligned

DTYPES = [np.float32, np.float64]
GUARD = 4096
POISON = 0xFF  # 0xFFFFFFFF is a NaN, in either size


def whole(rng, *shape, dtype=np.float32):
    return rng.integers(-3, 4, shape).astype(dtype)


def run(plan, a, b, c, accumulate=False, finish=None):
    """Run a plan in a workspace of exactly `panel_bytes`, poisoned before, with guards on both sides."""
    memory = aligned(plan.panel_bytes + 2 * GUARD)
    memory[:] = POISON
    a, b, c = (Matrix.of(x) if isinstance(x, np.ndarray) else x for x in (a, b, c))
    plan.run(a, b, c, memory.ctypes.data + GUARD, accumulate, finish)
    assert (memory[:GUARD] == POISON).all(), "written before the workspace"
    assert (memory[GUARD + plan.panel_bytes :] == POISON).all(), "written behind the workspace"


def poisoned(*shape, dtype):
    return np.full(shape, np.nan, dtype)


def on_a_schedule_of_the_transposed(m, n, k, dtype, blocking, threads=1):
    """The plan that computes C transposed with `blocking`'s tiles."""
    turned = dataclasses.replace(GemmPlan(n, m, k, dtype, threads, Operands(), blocking).schedule, swap=True)
    return GemmPlan(m, n, k, dtype, threads, Operands(), None, turned)


# ------------------------------------------------------------------------------------------------- every micro-kernel


def tiles():
    """All (mr, vectors) that fit into the registers of this machine."""
    registers = detect().vector_registers
    return [(mr, nv) for nv in range(1, max_vectors(registers) + 1) for mr in range(1, max_rows(nv, registers) + 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", range(1, max_vectors(detect().vector_registers) + 1))
def test_every_micro_kernel_that_can_be_chosen(rng, dtype, vectors):
    """On whole numbers and on random ones, both ways round: a kernel that lost an accumulator has been seen."""
    lanes, eps = detect().lanes(dtype), np.finfo(dtype).eps
    for mr, nv in tiles():
        if nv != vectors:
            continue
        m, n, k = mr, nv * lanes, 21
        blocking = Blocking(mr, n, 8, mr, n)
        for rows, columns in ((m, n), (2 * m - 1, n + lanes - 1)):  # one full tile; two heights, and a ragged end
            bias, low, high = whole(rng, columns, dtype=dtype), -20, 30
            for exact in (True, False):
                make = whole if exact else lambda rng, *s, dtype: rng.standard_normal(s).astype(dtype)
                a, b = make(rng, rows, k, dtype=dtype), make(rng, k, columns, dtype=dtype)
                wanted, scale = oracles.matmul(a, b, precision=np.longdouble), oracles.matmul(a, b, magnitudes=True)
                for swap, finishing in itertools.product((False, True), (False, True)):
                    if swap:
                        c = poisoned(columns, rows, dtype=dtype).T
                        plan = on_a_schedule_of_the_transposed(columns, rows, k, dtype, blocking)
                        left, right, out = b.T, a.T, c.T
                    else:
                        c = poisoned(rows, columns, dtype=dtype)
                        plan = GemmPlan(rows, columns, k, dtype, 1, Operands(), blocking)
                        left, right, out = a, b, c
                    finish = Finish(low=low, high=high) if finishing else None
                    if finishing:
                        setattr(finish, "row_bias" if swap else "col_bias", bias)
                    run(plan, left, right, out, finish=finish)
                    target = np.clip(wanted + bias, low, high) if finishing else wanted
                    bound = 0 if exact else eps * k * (scale + np.abs(bias) if finishing else scale)
                    where = f"{mr} x {nv} vectors, {rows} x {columns}, {exact=} {swap=} {finishing=}"
                    assert (np.abs(c - target) <= bound).all(), where


def that_reads_a_where_it_lies(m, n, k, dtype, blocking, swap, threads=1):
    """The plan on `blocking`'s tiles whose A (B, if `swap`) is not packed, however the costs are counted."""
    sizes = (n, m, k) if swap else (m, n, k)
    fixed = dataclasses.replace(GemmPlan(*sizes, dtype, threads, Operands(), blocking).schedule, swap=swap)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule_module, "DIRECT", 0.0)
        plan = GemmPlan(m, n, k, dtype, threads, Operands(a_direct=not swap, b_direct=swap), None, fixed)
    assert plan.schedule.direct
    return plan


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", range(1, max_vectors(detect().vector_registers) + 1))
def test_every_micro_kernel_that_reads_a_where_it_lies(rng, dtype, vectors):
    lanes, eps = detect().lanes(dtype), np.finfo(dtype).eps
    for mr in range(1, max_rows(vectors, detect().vector_registers, direct=True) + 1):
        blocking = Blocking(mr, vectors * lanes, 8, mr, vectors * lanes)
        for rows, columns in ((mr, vectors * lanes), (2 * mr - 1, (vectors + 1) * lanes - 1)):
            for exact, k in ((True, 21), (False, 21), (False, 8), (True, 1)):
                make = whole if exact else lambda rng, *s, dtype: rng.standard_normal(s).astype(dtype)
                a, b = make(rng, rows, k, dtype=dtype), make(rng, k, columns, dtype=dtype)
                wanted, scale = oracles.matmul(a, b, precision=np.longdouble), oracles.matmul(a, b, magnitudes=True)
                bound = 0 if exact else eps * k * scale
                wide = np.full((rows, 3 * k), np.nan, dtype)
                wide[:, k : 2 * k] = a
                for left in (a, wide[:, k : 2 * k], a[::-1].copy()[::-1]):
                    c = poisoned(rows, columns, dtype=dtype)
                    run(that_reads_a_where_it_lies(rows, columns, k, dtype, blocking, False), left, b, c)
                    assert (np.abs(c - wanted) <= bound).all(), f"{mr} x {vectors}, {exact=} {k=}"
                    c = poisoned(columns, rows, dtype=dtype)
                    run(that_reads_a_where_it_lies(columns, rows, k, dtype, blocking, True), b.T, left.T, c)
                    assert (np.abs(c.T - wanted) <= bound).all(), (
                        f"{mr} x {vectors}, {exact=}, {k=}, the other way round"
                    )


def test_a_plan_that_was_promised_contiguous_rows_refuses_others(rng):
    a, b, c = whole(rng, 40, 60), whole(rng, 60, 50), poisoned(40, 50, dtype=np.float32)
    blocking = Blocking(4, detect().lanes(np.float32), 16, 8, 64)
    plan = that_reads_a_where_it_lies(40, 50, 60, np.float32, blocking, False)
    run(plan, a, b, c)
    assert_array_equal(c, oracles.matmul(a, b))
    broken = Matrix(a.ctypes.data, Axis(240, 10, 2400), Axis(4), a)
    record = np.array([a.ctypes.data, 240, UNBROKEN, 0, 4, UNBROKEN, 0], np.int64)
    packer = Source(strided_packer(4), record.ctypes.data, record)
    for other in (Matrix.of(np.asfortranarray(a)), Matrix.of(a.repeat(2, 1)[:, ::2]), broken, packer):
        with pytest.raises(ValueError, match="promised"):
            run(plan, other, b, c)
    run(plan, a, b, c)
    assert_array_equal(c, oracles.matmul(a, b))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_model_chooses_only_tiles_that_fit(dtype):
    lanes, allowed = detect().lanes(dtype), set(tiles())
    for m, n, k in itertools.product((1, 5, 14, 64, 1000), (1, 7, 49, 300, 5000), (1, 100, 5000)):
        chosen = GemmPlan(m, n, k, dtype).blocking
        assert (chosen.mr, chosen.nr // lanes) in allowed
        assert chosen.validate(dtype) is chosen


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mr": 0}, "mr"),
        ({"nr": -16}, "nr"),
        ({"kc": 0}, "kc"),
        ({"mc": 0}, "mc"),
        ({"nc": 0}, "nc"),
        ({"nr": 17}, "multiple"),
        ({"mr": 50}, "spills"),
    ],
)
def test_blockings_that_cannot_be_are_refused(change, words):
    lanes = detect().lanes(np.float32)
    good = {"mr": 4, "nr": lanes, "kc": 8, "mc": 8, "nc": 2 * lanes}
    assert Blocking(**good).validate()
    with pytest.raises(ValueError, match=words):
        Blocking(**(good | change)).validate()
    with pytest.raises(ValueError, match=words):
        GemmPlan(10, 20, 30, np.float32, 1, Operands(), Blocking(**(good | change)))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_blocking_of_ones_own_is_kept_and_right(rng, threads):
    lanes = detect().lanes(np.float32)
    a, b = whole(rng, 75, 200), whole(rng, 200, 130)
    wanted = oracles.matmul(a, b)
    for kc, mc, nc_ in itertools.product((1, 3, 64, 1000), (1, 10, 1000), (1, 50, 1000)):
        blocking = Blocking(5, 2 * lanes, kc, mc, nc_)
        plan = GemmPlan(75, 130, 200, np.float32, threads, Operands(), blocking)
        assert plan.blocking == blocking
        c = poisoned(75, 130, dtype=np.float32)
        run(plan, a, b, c)
        assert_array_equal(c, wanted)
    assert_array_equal(nc.gemm(a, b, blocking=blocking, num_threads=threads), wanted)


# ------------------------------------------------------------------------------------------------- axes of two levels


class Laid:
    """An m x n matrix somewhere in a poisoned buffer: both axes of two levels, steps of any size and sign."""

    def __init__(self, rng, m, n, dtype, inners=None):
        inner_r, inner_c = inners or (int(rng.integers(1, m + 3)), int(rng.integers(1, n + 3)))
        levels = [inner_r, -(-m // inner_r), inner_c, -(-n // inner_c)]
        size, steps = np.dtype(dtype).itemsize, [0] * 4
        room = 1
        for level in rng.permutation(4):
            steps[level] = room * int(rng.choice([-1, 1, 1, 1]))
            room = room * levels[level] + int(rng.choice([0, 0, 0, 1, 5]))
        self.dtype, self.buffer = dtype, poisoned(room + 2 * GUARD, dtype=dtype)
        base = GUARD + sum((count - 1) * -step for count, step in zip(levels, steps, strict=True) if step < 0)
        i, j = np.arange(m)[:, None], np.arange(n)[None]
        self.places = (
            base + i % inner_r * steps[0] + i // inner_r * steps[1] + j % inner_c * steps[2] + j // inner_c * steps[3]
        )
        rows, columns = Axis(steps[0] * size, inner_r, steps[1] * size), Axis(steps[2] * size, inner_c, steps[3] * size)
        self.matrix = Matrix(self.buffer.ctypes.data + base * size, rows, columns, self.buffer)

    def put(self, values):
        self.buffer[self.places] = values
        return self

    def get(self):
        return self.buffer[self.places]

    def assert_nothing_else_written(self):
        others = np.delete(self.buffer, self.places.ravel())
        assert np.isnan(others).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_levels_on_every_axis_of_operands_and_result(rng, dtype):
    for case in range(150):
        m, n, k = (int(size) for size in rng.integers(1, [60, 90, 50]))
        a, b = whole(rng, m, k, dtype=dtype), whole(rng, k, n, dtype=dtype)
        laid_a, laid_b, laid_c = Laid(rng, m, k, dtype).put(a), Laid(rng, k, n, dtype).put(b), Laid(rng, m, n, dtype)
        before = whole(rng, m, n, dtype=dtype)
        accumulate, finish = bool(rng.integers(2)), None
        if accumulate:
            laid_c.put(before)
        wanted = oracles.gemm(a, b, before, beta=int(accumulate))
        if rng.integers(2):
            row_bias, col_bias = whole(rng, m, dtype=dtype), whole(rng, n, dtype=dtype)
            extra = whole(rng, m, n, dtype=dtype)
            inners = laid_c.matrix.rows.inner, laid_c.matrix.columns.inner
            residual = Laid(rng, m, n, dtype, inners).put(extra).matrix
            finish = Finish(1.0, row_bias, col_bias, residual, 0.0, 40.0)
            wanted = np.clip(wanted + row_bias[:, None] + col_bias + extra, 0, 40)
        operands = Operands(a_rows=bool(rng.integers(2)), b_rows=bool(rng.integers(2)), c_rows=bool(rng.integers(2)))
        plan = GemmPlan(m, n, k, dtype, int(rng.integers(1, 3)), operands)
        run(plan, laid_a.matrix, laid_b.matrix, laid_c.matrix, accumulate, finish)
        assert_array_equal(laid_c.get(), wanted, f"case {case}: {m} x {n} x {k}")
        laid_c.assert_nothing_else_written()


def test_a_residual_whose_axes_break_elsewhere_than_the_result_s(rng):
    a, b, extra = whole(rng, 20, 10), whole(rng, 10, 33), whole(rng, 20, 33)
    plan, c = GemmPlan(20, 33, 10, np.float32), poisoned(20, 33, dtype=np.float32)
    residual = Laid(rng, 20, 33, np.float32, (3, 7)).put(extra).matrix
    run(plan, a, b, c, finish=Finish(residual=residual))
    assert_array_equal(c, oracles.matmul(a, b) + extra)


def test_pixels_of_a_part_of_an_image_as_columns(rng):
    """What convolutions need: every other pixel of a window of an image, channels as rows."""
    image = whole(rng, 5, 20, 30)
    window = image[:, 3:17:2, 4:28:3]
    _, height, width = window.shape
    step_c, step_y, step_x = window.strides
    b = Matrix(window.ctypes.data, Axis(step_c), Axis(step_x, width, step_y))
    out = np.full((9, 12, 40), np.nan, np.float32)
    target = out[:, 2 : 2 + height, 5 : 5 + width]
    c = Matrix(target.ctypes.data, Axis(target.strides[0]), Axis(4, width, target.strides[1]))
    w = whole(rng, 9, 5)
    for plan_b, plan_c, left, right, result in (
        (b, c, Matrix.of(w), b, c),
        (b, c, b.transposed, Matrix.of(w.T), c.transposed),
    ):
        del plan_b, plan_c
        out[...] = np.nan
        sizes = (9, height * width) if right is b else (height * width, 9)
        run(GemmPlan(*sizes, 5, np.float32), left, right, result)
        assert_array_equal(target, oracles.matmul(w, window.reshape(5, -1)).reshape(target.shape))
        assert np.isnan(out).sum() == out.size - target.size


# ------------------------------------------------------------------------------------------------------------ scratch


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_workspace_is_panel_bytes_and_not_a_byte_more(rng, dtype, threads):
    for m, n, k in [(1, 1, 1), (13, 17, 3), (200, 300, 150), (30, 2000, 40), (2000, 30, 40), (60, 60, 3000)]:
        a, b = whole(rng, m, k, dtype=dtype), whole(rng, k, n, dtype=dtype)
        wanted = oracles.matmul(a, b)
        for operands in (Operands(), Operands(a_packed=True), Operands(b_packed=True), Operands(c_rows=False)):
            plan = GemmPlan(m, n, k, dtype, threads, operands)
            assert plan.panel_bytes % ALIGNMENT == 0
            left = plan.pack("a", Matrix.of(a), threads) if operands.a_packed else a
            right = plan.pack("b", Matrix.of(b), threads) if operands.b_packed else b
            c = poisoned(m, n, dtype=dtype)
            for _ in range(2):  # the second time with everything that the first left behind
                run(plan, left, right, c)
                assert_array_equal(c, wanted)


def test_bytes_are_plain_ints():
    for sizes in ((1, 1, 1), (30, 40, 50), (1000, 900, 800)):
        plan = GemmPlan(*sizes, np.float32, 2)
        assert type(plan.panel_bytes) is int
        assert type(plan.packed_bytes("a")) is int


def test_a_product_too_deep_to_be_packed_at_once_is_done_in_rounds(rng, monkeypatch):
    a, b = whole(rng, 60, 700), whole(rng, 700, 90)
    wanted = oracles.gemm(a, b, bias=np.ones(90), activation="relu")
    blocking = Blocking(4, 2 * detect().lanes(np.float32), 16, 20, 64)
    for threads in (1, 2):
        whole_plan = GemmPlan(60, 90, 700, np.float32, 2, Operands(), blocking)
        with monkeypatch.context() as patch:
            patch.setattr(plan_module, "SHARED_LIMIT", 40_000)
            plan = GemmPlan(60, 90, 700, np.float32, threads, Operands(), blocking)
        if threads == 2:
            assert plan.panel_bytes < whole_plan.panel_bytes
        c = poisoned(60, 90, dtype=np.float32)
        run(plan, a, b, c, finish=Finish(col_bias=np.ones(90, np.float32), low=0.0))
        assert_array_equal(c, wanted)


# ----------------------------------------------------------------------------------------------------------- rounding

DEPTHS = [1, 7, 64, 576, 2304, 4608]


def errors_of(a, b, got):
    """(worst element in units of eps·(|A||B|), Frobenius norm, Frobenius norm of one running sum)."""
    precise = np.float64 if a.dtype == np.float32 else np.longdouble
    wanted, scale = oracles.matmul(a, b, precision=precise), oracles.matmul(a, b, magnitudes=True)
    error = np.abs(got.astype(precise) - wanted)
    direct = np.abs(oracles.running_matmul(a, b).astype(precise) - wanted)
    assert (error[scale == 0] == 0).all()
    worst = np.max(error / np.where(scale == 0, 1, scale)) / np.finfo(a.dtype).eps
    return float(worst), math.sqrt(float((error**2).sum())), math.sqrt(float((direct**2).sum()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", DEPTHS)
@pytest.mark.parametrize(("m", "n"), [(45, 67), (60, 1), (3, 50)])
def test_the_error_on_random_signs_and_against_one_running_sum(rng, dtype, k, m, n):
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    for left, right in ((a, b), (a, np.asfortranarray(b)), (nc.prepack_a(a, n), b)):
        worst, norm, direct = errors_of(a, b, nc.gemm(left, right))
        assert worst <= 4 * math.sqrt(k)
        assert norm <= 1.5 * direct or k == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", DEPTHS)
@pytest.mark.parametrize("kind", ["positive", "constant", "growing", "wide", "cancelling"])
def test_the_error_on_any_data(rng, dtype, k, kind):
    m, n = 33, 50
    a, b = np.abs(rng.standard_normal((m, k))), np.abs(rng.standard_normal((k, n)))
    if kind == "constant":
        a, b = np.full((m, k), 0.1), np.full((k, n), 1 / 3)
    elif kind == "growing":
        a *= np.linspace(1, 1000, k)
    elif kind == "wide":
        a, b = a * 10.0 ** rng.integers(-12, 12, (m, k)), b * 10.0 ** rng.integers(-12, 12, (k, n))
    elif kind == "cancelling":
        a, b = a + 1e3, b * (-1) ** np.arange(k)[:, None]
    a, b = a.astype(dtype), b.astype(dtype)
    for right in (b, np.asfortranarray(b[:, :2])):
        worst, norm, direct = errors_of(a, right, nc.gemm(a, right))
        assert worst <= k
        if kind == "positive":
            assert norm <= 1.5 * direct or k == 1
