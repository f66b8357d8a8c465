"""Packing: the same panels from any memory, panels of one's own making, and operands packed once for many products."""

from __future__ import annotations

import itertools

import numpy as np
import oracles
import pytest
from numpy.testing import assert_array_equal

import numbaconv as nc
from numbaconv.gemm import Axis, Blocking, GemmPlan, Matrix, Operands, PackedMatrix, Source
from numbaconv.gemm import plan as plan_module
from numbaconv.jit import native
from numbaconv.machine import detect
from numbaconv.simd import load_i64, store_f32, store_f64
from numbaconv.workspace import aligned

DTYPES = [np.float32, np.float64]


def whole(rng, *shape, dtype=np.float32):
    return rng.integers(-3, 4, shape).astype(dtype)


def poisoned(*shape, dtype=np.float32):
    return np.full(shape, np.nan, dtype)


def run(plan, a, b, c):
    a, b, c = (Matrix.of(x) if isinstance(x, np.ndarray) else x for x in (a, b, c))
    workspace = aligned(plan.panel_bytes)
    workspace[:] = 0xFF
    plan.run(a, b, c, workspace.ctypes.data)


# ------------------------------------------------------------------------------------------------- from any memory


def forms(x):
    """The same matrix in other memory, some with axes of two levels."""
    size = x.itemsize
    m, n = x.shape
    yield "Fortran", Matrix.of(np.asfortranarray(x))
    yield "backwards", Matrix.of(x[::-1, ::-1].copy()[::-1, ::-1])
    yield "every other", Matrix.of(x.repeat(2, 0).repeat(2, 1)[::2, ::2])
    yield "Fortran, every other", Matrix.of(np.asfortranarray(x.repeat(2, 0).repeat(2, 1))[::2, ::2])
    for inner_r, inner_c in ((4, 5), (1, 7), (7, 1), (m, 16), (16, n), (1, 1)):
        blocks_r, blocks_c = -(-m // inner_r), -(-n // inner_c)
        padded = np.pad(x, ((0, blocks_r * inner_r - m), (0, blocks_c * inner_c - n)))
        parts = padded.reshape(blocks_r, inner_r, blocks_c, inner_c)
        for order in ((0, 2, 1, 3), (2, 0, 3, 1), (3, 2, 1, 0), (1, 3, 0, 2)):
            laid = np.ascontiguousarray(parts.transpose(order))
            outer_r, step_r, outer_c, step_c = (laid.strides[order.index(axis)] for axis in range(4))
            assert step_c % size == 0
            rows, columns = Axis(step_r, inner_r, outer_r), Axis(step_c, inner_c, outer_c)
            yield f"two levels {inner_r} {inner_c} {order}", Matrix(laid.ctypes.data, rows, columns, laid)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operand", ["a", "b"])
def test_panels_do_not_depend_on_where_the_matrix_lies(rng, dtype, operand):
    lanes = detect().lanes(dtype)
    for rows, k in [(1, 1), (23, 37), (5 * lanes + 3, 40), (40, 3 * lanes + 1)]:
        x = rng.standard_normal((rows, k) if operand == "a" else (k, rows)).astype(dtype)
        sizes = (rows, 30, k) if operand == "a" else (30, rows, k)
        for blocking in (None, Blocking(5, 2 * lanes, 16, 10, 4 * lanes)):
            plan = GemmPlan(*sizes, dtype, 1, Operands(a_packed=operand == "a", b_packed=operand == "b"), blocking)
            wanted = plan.pack(operand, Matrix.of(x))
            assert wanted.nbytes == plan.packed_bytes(operand)
            for name, form in forms(x):
                for threads in (1, 2):
                    assert_array_equal(plan.pack(operand, form, threads).data, wanted.data, f"{name}, {threads=}")


def test_packing_writes_every_byte_and_no_other(rng, monkeypatch):
    """The panels of a ragged matrix are whole: what is not matrix is zero, not what was there before."""
    kept = []

    def guarded(size):
        memory = aligned(size + 128)
        memory[:] = 0xFF
        kept.append((memory, size))
        return memory[64 : 64 + size]

    monkeypatch.setattr(plan_module, "aligned", guarded)
    for dtype in DTYPES:
        for operand, sizes in (("a", (23, 30, 17)), ("b", (30, 23, 17)), ("b", (30, 81, 90)), ("a", (300, 5, 9))):
            plan = GemmPlan(*sizes, dtype, 1, Operands(a_packed=operand == "a", b_packed=operand == "b"))
            shape = (sizes[0], sizes[2]) if operand == "a" else (sizes[2], sizes[1])
            plan.pack(operand, Matrix.of(whole(rng, *shape, dtype=dtype)), 2)
            memory, size = kept.pop()
            assert np.isfinite(memory[64 : 64 + size].view(dtype)).all()
            assert (memory[:64] == 0xFF).all()
            assert (memory[64 + size :] == 0xFF).all()


# ------------------------------------------------------------------------------------------ a packer of one's own


@native
def made_up(source, first, count, p0, kc, target, width):
    """Panels of a matrix that exists nowhere: element (x, k) is (x·7 + k·3) % 11 - 5, as floats of source[0] bytes."""
    size = load_i64(source)
    for panel in range(-(-count // width)):
        for p in range(kc):
            for lane in range(width):
                x = panel * width + lane
                value = ((first + x) * 7 + (p0 + p) * 3) % 11 - 5 if x < count else 0
                if size == 4:
                    store_f32(target, value)
                else:
                    store_f64(target, value)
                target += size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (37, 90, 50), (300, 20, 700), (20, 1000, 33)])
def test_a_packer_of_ones_own_can_stand_for_either_operand(rng, dtype, m, n, k):
    record = np.array([np.dtype(dtype).itemsize], np.int64)
    source = Source(made_up, record.ctypes.data, record)
    x, p = np.arange(max(m, n)), np.arange(k)
    virtual = (x[:, None] * 7 + p * 3) % 11 - 5
    a, b = whole(rng, m, k, dtype=dtype), whole(rng, k, n, dtype=dtype)
    for threads, c_rows in itertools.product((1, 2, 3), (True, False)):
        c = poisoned(m, n, dtype=dtype)
        run(GemmPlan(m, n, k, dtype, threads, Operands(c_rows=c_rows)), source, b, c)
        assert_array_equal(c, oracles.matmul(virtual[:m], b))
        run(GemmPlan(m, n, k, dtype, threads, Operands(c_rows=c_rows)), a, source, c)
        assert_array_equal(c, oracles.matmul(a, virtual[:n].T))
        plan = GemmPlan(m, n, k, dtype, threads, Operands(a_packed=True))
        run(plan, plan.pack("a", source, threads), b, c)
        assert_array_equal(c, oracles.matmul(virtual[:m], b))


# -------------------------------------------------------------------------------------- packed once, used many times


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hint", [1, 7, 49, 256, 5000])
def test_prepacked_operands_meet_sizes_other_than_hinted(rng, dtype, hint):
    for m, k in [(64, 147), (9, 30), (300, 500)]:
        w = whole(rng, m, k, dtype=dtype)
        packed_a, packed_b = nc.prepack_a(w, hint), nc.prepack_b(w.T, hint)
        assert packed_a.shape == (m, k)
        assert packed_b.shape == (k, m)
        for n in (0, 1, 2, 5, 49, 300):
            x = whole(rng, k, n, dtype=dtype)
            wanted = oracles.matmul(w, x)
            for threads in (1, 2):
                assert_array_equal(nc.gemm(packed_a, x, num_threads=threads), wanted)
                assert_array_equal(nc.gemm(x.T, packed_b, num_threads=threads), wanted.T)
                out = np.asfortranarray(np.full((m, n), np.nan, dtype))
                nc.gemm(packed_a, np.asfortranarray(x), out=out, num_threads=threads, activation="relu")
                assert_array_equal(out, np.maximum(wanted, 0))


def packed_for(m, n, k, dtype=np.float32, kc=None, operand="a", vectors=1):
    blocking = kc and Blocking(4, vectors * detect().lanes(dtype), kc, 64, 64)
    plan = GemmPlan(m, n, k, dtype, 1, Operands(a_packed=operand == "a", b_packed=operand == "b"), blocking)
    shape = (m, k) if operand == "a" else (k, n)
    return plan, plan.pack(operand, Matrix.of(np.ones(shape, dtype)))


@pytest.mark.parametrize(
    "other",
    [
        lambda: packed_for(40, 30, 50, kc=8),
        lambda: packed_for(40, 30, 60, kc=16),
        lambda: packed_for(44, 30, 50, kc=16),
        lambda: packed_for(40, 30, 50, np.float64, kc=16),
        lambda: packed_for(40, 30, 50, kc=16, operand="b"),
    ],
    ids=["depth of block", "k", "m", "dtype", "side"],
)
def test_panels_cut_for_another_plan_are_refused(other):
    plan, _ = packed_for(40, 30, 50, kc=16)
    _, packed = other()
    b, c = np.ones((50, 30), np.float32), poisoned(40, 30, dtype=np.float32)
    with pytest.raises((ValueError, TypeError), match="packed"):
        run(plan, packed, b, c)


@pytest.mark.parametrize("hint", [4, 50, 3000])
def test_a_blocking_beside_a_prepacked_operand_is_refused_or_does_no_harm(rng, hint):
    a, b = whole(rng, 300, 64), whole(rng, 64, 50)
    try:
        got = nc.gemm(nc.prepack_a(a, hint), b, blocking=Blocking(4, detect().lanes(np.float32), 16, 64, 64))
    except nc.ShapeError as error:
        assert "blocking" in str(error)  # noqa: PT017 - either is fine
    else:
        assert_array_equal(got, oracles.matmul(a, b))


def test_a_prepacked_operand_counts_its_bytes(rng):
    packed = nc.prepack_a(whole(rng, 100, 200))
    assert isinstance(packed, PackedMatrix)
    assert 100 * 200 * 4 <= packed.nbytes <= 2 * 100 * 200 * 4
    assert packed.nbytes == packed.data.nbytes
