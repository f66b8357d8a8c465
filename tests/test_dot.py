"""Products with very few columns or rows: inner products where the matrix lies, equal to the oracle and as exact."""

from __future__ import annotations

import itertools
import math

import numpy as np
import oracles
import pytest
from numpy.testing import assert_array_equal

import numbaconv as nc
from numbaconv.gemm import Matrix
from numbaconv.gemm.dot import MOST_COLUMNS, DotPlan
from numbaconv.machine import detect
from numbaconv.workspace import aligned

DTYPES = [np.float32, np.float64]


def whole(rng, *shape, dtype=np.float32):
    return rng.integers(-3, 4, shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("few", range(MOST_COLUMNS + 2))
def test_few_columns_and_few_rows(rng, dtype, few):
    lanes = detect().lanes(dtype)
    depths = sorted({0, 1, 2, lanes - 1, lanes, lanes + 1, 2 * lanes, 2 * lanes + 1, 4 * lanes - 1, 301})
    matrix, vectors = whole(rng, 131, depths[-1], dtype=dtype), whole(rng, depths[-1], few, dtype=dtype)
    for k in depths:
        wanted = oracles.matmul(matrix[:, :k], vectors[:k])
        for rows in (0, 1, 2, 3, 4, 5, 7, 63, 64, 65, 131):
            a = matrix[:rows, :k]  # its rows are further apart than they are long
            for b in (np.asfortranarray(vectors[:k]), vectors[:k]):
                assert_array_equal(nc.gemm(a, b), wanted[:rows])
                assert_array_equal(nc.gemm(b.T, a.T), wanted[:rows].T)


def test_which_products_these_are():
    """Few columns, A's rows and B's columns contiguous: nothing is packed."""
    a, b = np.zeros((50, 70), np.float32), np.zeros((70, 3), np.float32)

    def fits(a, b):
        return DotPlan.fits(a.shape[0], b.shape[1], Matrix.of(a), Matrix.of(b), a.itemsize)

    assert fits(a, np.asfortranarray(b))
    assert fits(a, b[:, :1].copy())
    assert fits(b.T.copy(), a.T)
    assert fits(a[::2], np.asfortranarray(b))
    assert not fits(a, b)
    assert not fits(a[:, ::2], np.asfortranarray(b[::2]))
    assert not fits(np.asfortranarray(a), np.asfortranarray(b))
    assert not fits(a, np.zeros((MOST_COLUMNS + 1, 70), np.float32).T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(150, 1), (150, 4), (1, 150), (3, 150), (2, 2), (1, 1)])
def test_the_epilogue_and_any_result(rng, dtype, m, n):
    a, b = whole(rng, m, 77, dtype=dtype), np.asfortranarray(whole(rng, 77, n, dtype=dtype))
    residual, before = whole(rng, m, n, dtype=dtype), whole(rng, m, n, dtype=dtype)
    product = oracles.matmul(a, b)
    places = {
        "C": lambda room: room[:m, :n].copy(), "Fortran": lambda room: np.asfortranarray(room[:m, :n]),
        "every other": lambda room: room[: 2 * m : 2, : 2 * n : 2], "backwards": lambda room: room[:m, :n][::-1, ::-1],
    }  # fmt: skip
    for place, bias, beta, activation in itertools.product(places, ("row", "column", None), (0, 1), (None, "relu6")):
        room = np.full((2 * m, 2 * n), np.nan, dtype)
        out = places[place](room)
        if beta:
            out[...] = before
        terms = {
            "bias": {"row": whole(rng, m, 1, dtype=dtype), "column": whole(rng, n, dtype=dtype), None: None}[bias],
            "residual": residual, "alpha": 2, "beta": beta, "activation": activation,
        }  # fmt: skip
        wanted = oracles.gemm(a, b, before, product=product, **terms)
        nc.gemm(a, b, out=out, **terms)
        assert_array_equal(out, wanted, f"{place} {bias=} {beta=} {activation=}")
        out[...] = np.nan
        assert np.isnan(room).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_workspace_is_as_declared(rng, dtype, threads):
    guard = 1024
    for m, n, k in [(1, 1, 1), (5, 4, 9), (3000, 1, 500), (4, 2000, 300), (1001, 3, 640)]:
        plan = DotPlan(m, n, k, np.dtype(dtype), threads)
        memory = aligned(plan.panel_bytes + 2 * guard)
        memory[:] = 0xFF
        a, b = whole(rng, m, k, dtype=dtype), np.asfortranarray(whole(rng, k, n, dtype=dtype))
        c = np.full((m, n), np.nan, dtype)
        plan.run(Matrix.of(a), Matrix.of(b), Matrix.of(c), memory.ctypes.data + guard)
        assert_array_equal(c, oracles.matmul(a, b))
        assert (memory[:guard] == 0xFF).all()
        assert (memory[guard + plan.panel_bytes :] == 0xFF).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", range(1, MOST_COLUMNS + 1))
def test_a_row_has_the_same_bits_whoever_else_is_computed(rng, dtype, n):
    """Rows are taken four at a time and one by one: which is which must not show, nor how many threads there are."""
    a, b = (
        rng.standard_normal((2999, 333)).astype(dtype),
        np.asfortranarray(rng.standard_normal((333, n)).astype(dtype)),
    )
    every = nc.gemm(a, b, num_threads=1)
    for threads in (2, 3, 4):
        assert nc.gemm(a, b, num_threads=threads).tobytes() == every.tobytes()
    for first, end in ((0, 5), (5, 11), (1998, 2998), (2992, 2999)):
        assert nc.gemm(a[first:end], b).tobytes() == every[first:end].tobytes()


def test_linear_with_a_single_row_reads_the_weights_where_they_lie(rng):
    x, w, bias = whole(rng, 300), whole(rng, 100, 300), whole(rng, 100)
    wanted = oracles.gemm(x[None], w.T, bias=bias, activation="relu")[0]
    assert_array_equal(nc.linear(x, w, bias, activation="relu"), wanted)
    assert_array_equal(nc.linear(x[None], w, bias, activation="relu"), wanted[None])
    assert_array_equal(nc.linear(x[None, None], w[::-1], bias, activation="relu").shape, (1, 1, 100))
    for rows in (2, 4, 5, 33):
        several = whole(rng, 2, rows, 300)
        assert_array_equal(nc.linear(several, w, bias), oracles.gemm(several, w.T, bias=bias))
        assert_array_equal(nc.linear(several, nc.prepack_b(w.T), bias), oracles.gemm(several, w.T, bias=bias))


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_inner_products_are_as_exact_as_short_ones(rng, dtype):
    for k in (1000, 25088):
        for make in (rng.standard_normal, lambda shape: np.abs(rng.standard_normal(shape))):
            a, b = make((16, k)).astype(dtype), make((k, 1)).astype(dtype)
            precise = oracles.matmul(a, b, precision=np.longdouble)
            scale = oracles.matmul(a, b, magnitudes=True)
            error = np.abs(nc.gemm(a, b) - precise) / scale / np.finfo(dtype).eps
            assert error.max() <= 4 * math.sqrt(k)
