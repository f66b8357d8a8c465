"""``numbaconv.gemm``: equal to the oracle on whole numbers, whatever the sizes, strides, batch and epilogue."""

from __future__ import annotations

import itertools

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from numpy.testing import assert_array_equal

import numbaconv as nc
from numbaconv.gemm import GemmPlan
from numbaconv.gemm.micro import max_rows, max_vectors
from numbaconv.machine import detect

DTYPES = [np.float32, np.float64]


def whole(rng, *shape, dtype=np.float32, least=-3, most=3):
    """Whole numbers so small that every sum of their products is exact, in any order, in float32."""
    return rng.integers(least, most + 1, shape).astype(dtype)


def edges(*tiles):
    """0, 1 and everything next to the edge of a tile."""
    around = {size for tile in tiles for size in (tile - 1, tile, tile + 1, 2 * tile + 3)}
    return sorted({0, 1, 2, 5, *around})


# ------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_size_around_the_edges_of_tiles(rng, dtype):
    machine = detect()
    lanes, registers = machine.lanes(dtype), machine.vector_registers
    kc = GemmPlan(100, 100, 10_000, dtype).blocking.kc
    rows = edges(max_rows(2, registers), 3 * max_rows(1, registers))
    columns = edges(lanes, 2 * lanes, max_vectors(registers) * lanes)
    depths = sorted({0, 1, 7, kc - 1, kc, kc + 1, 2 * kc + 3})
    a, b = whole(rng, rows[-1], depths[-1], dtype=dtype), whole(rng, depths[-1], columns[-1], dtype=dtype)
    for k in depths:
        wanted = oracles.matmul(a[:, :k], b[:k])
        for m, n in itertools.product(rows, columns):
            got = nc.gemm(a[:m, :k], b[:k, :n])
            assert got.dtype == dtype
            assert_array_equal(got, wanted[:m, :n], f"{m} x {k} x {n}")


@pytest.mark.parametrize(
    ("m", "n", "k"), [(97, 211, 1021), (509, 37, 131), (23, 601, 67), (1, 997, 313), (331, 2, 773)]
)
def test_prime_sizes(rng, m, n, k):
    a, b = whole(rng, m, k), whole(rng, k, n)
    assert_array_equal(nc.gemm(a, b), oracles.matmul(a, b))


# ----------------------------------------------------------------------------------------------------------- strides

FORMS = {
    "C": lambda x: x.copy(),
    "Fortran": np.asfortranarray,
    "rows backwards": lambda x: x[::-1].copy()[::-1],
    "columns backwards": lambda x: x[:, ::-1].copy()[:, ::-1],
    "all backwards, Fortran": lambda x: np.asfortranarray(x[::-1, ::-1])[::-1, ::-1],
    "every third": lambda x: x.repeat(3, 0).repeat(2, 1)[::3, ::2],
    "part of rows": lambda x: np.pad(x, ((2, 1), (3, 4)))[2:-1, 3:-4],
    "part of columns": lambda x: np.asfortranarray(np.pad(x, ((2, 1), (3, 4))))[2:-1, 3:-4],
    "read-only": lambda x: read_only(x.copy()),
    "one long step": lambda x: np.ascontiguousarray(x.T.repeat(5, 1)).T[::5],
}


def read_only(x):
    x.flags.writeable = False
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "k"), [(33, 47, 29), (70, 3, 41), (2, 90, 35), (1, 1, 17)])
def test_operands_and_result_in_any_strides(rng, dtype, m, n, k):
    a, b = whole(rng, m, k, dtype=dtype), whole(rng, k, n, dtype=dtype)
    wanted = oracles.matmul(a, b)
    for form_a, form_b, form_c in itertools.product(FORMS, FORMS, FORMS):
        if form_c == "read-only":
            continue
        left, right = FORMS[form_a](a), FORMS[form_b](b)
        out = FORMS[form_c](np.full((m, n), np.nan, dtype))
        assert nc.gemm(left, right, out=out) is out
        assert_array_equal(out, wanted, f"{form_a}, {form_b}, {form_c}")
        assert_array_equal(left, a)
        assert_array_equal(right, b)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_transposes(rng, transpose_a, transpose_b):
    for m, n, k in [(31, 45, 70), (1, 60, 40), (50, 1, 40)]:
        a, b = whole(rng, *((k, m) if transpose_a else (m, k))), whole(rng, *((n, k) if transpose_b else (k, n)))
        got = nc.gemm(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
        assert_array_equal(got, oracles.matmul(a.T if transpose_a else a, b.T if transpose_b else b))


def test_broadcast_operands_whose_strides_are_zero(rng):
    row, column, one = whole(rng, 40), whole(rng, 30, 1), whole(rng, 1, 1)
    for a in (np.broadcast_to(row, (30, 40)), np.broadcast_to(column, (30, 40)), np.broadcast_to(one, (30, 40))):
        for b in (
            np.broadcast_to(whole(rng, 25), (40, 25)),
            np.broadcast_to(whole(rng, 40, 1), (40, 25)),
            whole(rng, 40, 2),
        ):
            assert_array_equal(nc.gemm(a, b), oracles.matmul(a, b))


def off_its_grid(x):
    """The same elements, each a byte off the multiples of its size."""
    view = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


@pytest.mark.parametrize("dtype", DTYPES)
def test_operands_off_their_own_grid(rng, dtype):
    a, b = whole(rng, 20, 30, dtype=dtype), whole(rng, 30, 25, dtype=dtype)
    assert_array_equal(nc.gemm(off_its_grid(a), off_its_grid(b)), oracles.matmul(a, b))
    fields = np.zeros((20, 30), np.dtype([("tag", np.uint8), ("value", dtype)]))
    fields["value"] = a
    assert_array_equal(nc.gemm(fields["value"], b), oracles.matmul(a, b))


def test_a_result_off_its_own_grid(rng):
    a, b = whole(rng, 20, 30), whole(rng, 30, 25)
    out = off_its_grid(np.full((20, 25), np.nan, np.float32))
    assert nc.gemm(a, b, out=out) is out
    assert_array_equal(out, oracles.matmul(a, b))


# ---------------------------------------------------------------------------------------------------------- epilogue


def biases(rng, m, n, dtype):
    return {
        "none": None, "(n,)": whole(rng, n, dtype=dtype), "(1, n)": whole(rng, 1, n, dtype=dtype),
        "(m, 1)": whole(rng, m, 1, dtype=dtype), "backwards": whole(rng, 2 * n, dtype=dtype)[::-2],
    }  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "k"), [(37, 50, 700), (19, 130, 5), (150, 2, 33), (3, 70, 33), (1, 1, 9)])
def test_epilogue_terms_in_every_combination(rng, dtype, m, n, k):
    a, b = whole(rng, m, k, dtype=dtype, least=-1, most=1), whole(rng, k, n, dtype=dtype, least=-1, most=1)
    before, extra = whole(rng, m, n, dtype=dtype), whole(rng, m, n, dtype=dtype)
    residuals = {
        "none": None,
        "C": extra,
        "Fortran": np.asfortranarray(extra),
        "row": np.broadcast_to(extra[0], (m, n)),
    }
    offered, product = biases(rng, m, n, dtype), oracles.matmul(a, b)
    for alpha, beta, bias, residual, activation, order in itertools.product(
        (1, -2, 0.5, 0), (0, 1, -0.5), offered, residuals, (None, "relu", "relu6"), "CF"
    ):
        out = np.array(before if beta else np.full((m, n), np.nan, dtype), order=order)
        terms = {"alpha": alpha, "beta": beta, "bias": offered[bias], "residual": residuals[residual]}
        wanted = oracles.gemm(a, b, before, activation=activation, product=product, **terms)
        assert nc.gemm(a, b, out=out, activation=activation, **terms) is out
        assert_array_equal(out, wanted, f"{alpha=} {beta=} {bias=} {residual=} {activation=} {order=}")


def test_a_bias_that_could_be_either_is_one_element_of_the_one_row_or_column(rng):
    a, b = whole(rng, 1, 8), whole(rng, 8, 5)
    assert_array_equal(nc.gemm(a, b, bias=np.float32([[4]])), oracles.matmul(a, b) + 4)
    assert_array_equal(nc.gemm(b.T, a.T, bias=np.float32([[4]])), oracles.matmul(b.T, a.T) + 4)
    square, five = whole(rng, 5, 8), whole(rng, 5)
    assert_array_equal(nc.gemm(square, b, bias=five), oracles.matmul(square, b) + five[None, :])


# ------------------------------------------------------------------------------------------------------------- batch

BATCHES = [
    ((4,), ()), ((), (4,)), ((4,), (4,)), ((1,), (3,)), ((3, 1), (1, 2)), ((2, 3), (3,)), ((2, 1, 2), (3, 1)),
    ((0,), ()), ((0,), (1,)), ((3, 0), (3, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("batch_a", "batch_b"), BATCHES)
@pytest.mark.parametrize(("m", "n", "k"), [(9, 21, 14), (30, 2, 40), (1, 33, 20)])
def test_batches_broadcast(rng, batch_a, batch_b, m, n, k):
    a, b = whole(rng, *batch_a, m, k), whole(rng, *batch_b, k, n)
    batch = np.broadcast_shapes(batch_a, batch_b)
    bias, column, residual = whole(rng, n), whole(rng, m, 1), whole(rng, *batch, m, n)
    assert_array_equal(nc.gemm(a, b), oracles.matmul(a, b))
    got = nc.gemm(a, b, bias=column, activation="relu")
    assert_array_equal(got, oracles.gemm(a, b, bias=column, activation="relu"))
    out = residual.copy()
    nc.gemm(a, b, out=out, alpha=2, beta=1, bias=bias, residual=residual)
    assert_array_equal(out, oracles.gemm(a, b, residual, 2, 1, bias, residual))


def test_batches_of_any_strides(rng):
    a, b = whole(rng, 3, 10, 12), whole(rng, 3, 12, 17)
    wanted = oracles.matmul(a, b)
    for left in (a, a[::-1].copy()[::-1], a.transpose(1, 2, 0).copy().transpose(2, 0, 1), np.asfortranarray(a)):
        for right in (b, b.transpose(2, 0, 1).copy().transpose(1, 2, 0)):
            for out in (
                np.empty((3, 10, 17), "f4"),
                np.empty((10, 3, 17), "f4").swapaxes(0, 1),
                np.empty((3, 20, 17), "f4")[:, ::2],
            ):
                assert_array_equal(nc.gemm(left, right, out=out), wanted)
    one = whole(rng, 10, 12)
    repeated = np.broadcast_to(one, (3, 10, 12))
    assert_array_equal(nc.gemm(repeated, b[0]), oracles.matmul(repeated, b[0]))
    for matrix_of_all in (nc.prepack_b(b[0]), b[0]):
        for stack in (a, a[:, ::2], a[::2], a[:, :1]):
            assert_array_equal(nc.gemm(stack, matrix_of_all), oracles.matmul(stack, b[0]))
    packed = nc.prepack_a(one)
    assert_array_equal(nc.gemm(packed, b), oracles.matmul(one, b))


# ---------------------------------------------------------------------------------------------- a bit of everything


@st.composite
def products(draw):
    batch = draw(st.sampled_from([(), (), (2,), (1, 3)]))
    return {
        "sizes": tuple(draw(st.integers(0, 80)) for _ in range(3)),
        "batch": batch,
        "dtype": draw(st.sampled_from(DTYPES)),
        "forms": tuple(draw(st.sampled_from(sorted(FORMS))) for _ in range(3)),
        "transposes": (draw(st.booleans()), draw(st.booleans())),
        "alpha": draw(st.sampled_from([1, 1, 0, -1, 0.5])),
        "beta": draw(st.sampled_from([0, 0, 1, 2])),
        "bias": draw(st.sampled_from(["none", "(n,)", "(m, 1)"])),
        "residual": draw(st.booleans()),
        "activation": draw(st.sampled_from([None, "relu", "relu6"])),
        "threads": draw(st.integers(1, 3)),
        "packed": draw(st.sampled_from(["", "", "a", "b"])),
        "seed": draw(st.integers(0, 9)),
    }


@settings(max_examples=300)
@given(products())
def test_anything_at_once(case):
    rng = np.random.default_rng(case["seed"])
    (m, n, k), dtype = case["sizes"], case["dtype"]
    a, b = whole(rng, m, k, dtype=dtype), whole(rng, k, n, dtype=dtype)
    forms = [FORMS[form] if 0 not in case["sizes"] else np.copy for form in case["forms"]]
    flip_a, flip_b = case["transposes"]
    left, right = forms[0](a.T if flip_a else a), forms[1](b.T if flip_b else b)
    left, right = (left.T if flip_a else left), (right.T if flip_b else right)
    if case["batch"]:
        right = right + np.arange(np.prod(case["batch"])).reshape(*case["batch"], 1, 1).astype(dtype)
    before = whole(rng, *case["batch"], m, n, dtype=dtype)
    residual = whole(rng, *case["batch"], m, n, dtype=dtype) if case["residual"] else None
    bias = biases(rng, m, n, dtype)[case["bias"]]
    out = before.copy() if case["batch"] else forms[2](before).copy(order="K")
    terms = {name: case[name] for name in ("alpha", "beta", "activation")} | {"bias": bias, "residual": residual}
    wanted = oracles.gemm(left, right, before, **terms)
    threads = case["threads"]
    if left.size and case["packed"] == "a":
        left = nc.prepack_a(left, num_threads=threads)
    elif right.size and case["packed"] == "b" and not case["batch"]:
        right = nc.prepack_b(right, num_threads=threads)
    assert_array_equal(nc.gemm(left, right, out=out, num_threads=threads, **terms), wanted)


# ---------------------------------------------------------------------------------------------- memory that is shared


@pytest.mark.parametrize("beta", [0, 1, 0.5])
@pytest.mark.parametrize("size", [30, 300])
def test_a_result_that_shares_memory_with_an_operand(rng, size, beta):
    square, other = whole(rng, size, size, least=-1, most=1), whole(rng, size, size, least=-1, most=1)
    for place in "ab":
        both = square.copy()
        operands = (both, other) if place == "a" else (other, both)
        wanted = oracles.gemm(*operands, both, beta=beta)
        assert nc.gemm(*operands, out=both, beta=beta) is both
        assert_array_equal(both, wanted, place)
    both = square.copy()
    wanted = oracles.gemm(both, both.T, both, beta=beta)
    assert_array_equal(nc.gemm(both, both.T, out=both, beta=beta), wanted)
    tall = whole(rng, size + 1, size, least=-1, most=1)
    wanted = oracles.gemm(tall[:-1], other, tall[1:], beta=beta)
    assert_array_equal(nc.gemm(tall[:-1], other, out=tall[1:], beta=beta), wanted)


@pytest.mark.parametrize("beta", [0, 1])
@pytest.mark.parametrize(
    ("term", "part"),
    [
        ("residual", lambda out: out),
        ("residual", lambda out: out.T),
        ("residual", lambda out: out[::-1]),
        ("bias", lambda out: out[0]),
        ("bias", lambda out: out[:, :1]),
    ],
)
def test_a_result_that_shares_memory_with_what_is_added(rng, term, part, beta):
    a, b, out = whole(rng, 40, 60), whole(rng, 60, 40), whole(rng, 40, 40)
    terms = {term: part(out)}
    wanted = oracles.gemm(a, b, out, 1, beta, **terms)
    assert_array_equal(nc.gemm(a, b, out=out, beta=beta, **terms), wanted)


# ------------------------------------------------------------------------------------------------ NaN, inf, emptiness


@pytest.mark.parametrize(("m", "n", "k"), [(40, 50, 300), (90, 1, 70), (2, 60, 70)])
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_nan_and_inf_reach_the_result_and_nothing_but_their_row_and_column(rng, m, n, k, activation):
    a, b = whole(rng, m, k), whole(rng, k, n)
    for value in (np.nan, np.inf, -np.inf):
        for row, column, depth in ((0, 0, 0), (m - 1, n - 1, k - 1), (m // 2, n // 2, k // 2)):
            left, right = a.copy(), b.copy()
            left[row, depth], right[depth] = value, 2
            got = nc.gemm(left, right, activation=activation)
            wanted = oracles.gemm(left, right, activation=activation)
            assert_array_equal(got, wanted)
            left[row, depth], right[depth, column] = 2, value
            wanted = oracles.gemm(left, right, activation=activation)
            assert_array_equal(nc.gemm(left, right, activation=activation), wanted)


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_an_activation_keeps_nan(activation):
    nan = np.full((20, 20), np.nan, np.float32)
    for bias in (None, np.ones(20, np.float32)):
        assert np.isnan(nc.gemm(nan, nan, bias=bias, activation=activation)).all()
    assert np.isnan(nc.gemm(nan, nan[:, :1], activation=activation)).all()
    assert np.isnan(nc.gemm(nan[:, :0], nan[:0], residual=nan, activation=activation)).all()


def test_what_beta_and_alpha_of_zero_switch_off_is_not_read(rng):
    a, b = whole(rng, 20, 30), whole(rng, 30, 40)
    for n in (40, 1):
        out = np.full((20, n), np.nan, np.float32)
        assert_array_equal(nc.gemm(a, b[:, :n], out=out), oracles.matmul(a, b[:, :n]))
    nan = np.full((20, 30), np.nan, np.float32)
    assert_array_equal(nc.gemm(nan, b, alpha=0, bias=b[0]), np.broadcast_to(b[0], (20, 40)))
    assert np.isnan(nc.gemm(a, b, out=np.full((20, 40), np.nan, np.float32), beta=1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "k"), [(0, 5, 4), (5, 0, 4), (0, 0, 0), (5, 7, 0), (0, 7, 0), (1, 1, 0)])
def test_emptiness(rng, dtype, m, n, k):
    a, b = np.empty((m, k), dtype), np.empty((k, n), dtype)
    assert_array_equal(nc.gemm(a, b), np.zeros((m, n), dtype))
    row, residual, before = whole(rng, n, dtype=dtype), whole(rng, m, n, dtype=dtype), whole(rng, m, n, dtype=dtype)
    out = before.copy()
    got = nc.gemm(a, b, out=out, beta=2, bias=row, residual=residual, activation="relu")
    assert got is out
    assert_array_equal(got, oracles.gemm(a, b, before, 1, 2, row, residual, "relu"))


# ------------------------------------------------------------------------------------------------- nothing else touched


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_around_the_result_is_written(rng, dtype):
    lanes = detect().lanes(dtype)
    for m, n, k in [(1, 1, 3), (5, lanes - 1, 20), (29, 2 * lanes + 1, 300), (100, 3, 50), (14, 4 * lanes, 8)]:
        a, b = whole(rng, m, k, dtype=dtype), whole(rng, k, n, dtype=dtype)
        wanted = oracles.gemm(a, b, bias=np.ones(n), activation="relu")
        for step in (1, 2):
            for order in "CF":
                room = np.full((m + 4, step * n + 2 * lanes), np.nan, dtype, order=order)
                out = room[2 : m + 2, lanes : lanes + step * n : step]
                nc.gemm(a, b, out=out, bias=np.ones(n, dtype), activation="relu")
                assert_array_equal(out, wanted)
                out[...] = np.nan
                assert np.isnan(room).all()


def test_a_result_whose_rows_overlap_the_neighbours_gap(rng):
    """Rows of 5 that begin every 7 elements: the last vector of a row must not reach into the next row's elements."""
    room = np.full(7 * 30, np.nan, np.float32)
    out = as_strided(room, (30, 5), (28, 4))
    a, b = whole(rng, 30, 10), whole(rng, 10, 5)
    nc.gemm(a, b, out=out)
    assert_array_equal(out, oracles.matmul(a, b))
    assert np.isnan(room.reshape(30, 7)[:, 5:]).all()


# ----------------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(300, 310, 320), (37, 5000, 64), (5000, 37, 64), (64, 64, 9000), (3000, 1, 700), (2, 3000, 700), (700, 49, 900)],
)
def test_the_same_bits_for_any_number_of_threads(rng, dtype, m, n, k):
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    bias, residual = rng.standard_normal(n).astype(dtype), rng.standard_normal((m, n)).astype(dtype)
    for left, right in ((a, b), (np.asfortranarray(a), b), (a, np.asfortranarray(b)), (nc.prepack_a(a, n), b)):
        bits = [
            nc.gemm(left, right, bias=bias, residual=residual, activation="relu", num_threads=threads).tobytes()
            for threads in (1, 2, 3, 4, 1)
        ]
        assert all(other == bits[0] for other in bits)
        plain = nc.gemm(left, right, num_threads=1).tobytes()
        for threads in (1, 2, 3, 4):  # a place for the result and nothing else: a shorter way, the same sums
            out = np.full((m, n), np.nan, dtype)
            assert nc.gemm(left, right, out=out, num_threads=threads).tobytes() == plain


@pytest.mark.parametrize(
    ("m", "n", "k"), [(256, 192, 1152), (64, 3136, 576), (512, 49, 460), (4096, 1, 1000), (31, 1000, 900)]
)
@pytest.mark.parametrize("threads", [2, 4])
def test_products_on_several_threads_are_exact(rng, m, n, k, threads):
    a, b = whole(rng, m, k, least=-1, most=1), whole(rng, k, n, least=-1, most=1)
    residual = whole(rng, m, n)
    wanted = oracles.gemm(a, b, residual=residual, activation="relu")
    for left, right in ((a, b), (nc.prepack_a(a, n, threads), b), (a, nc.prepack_b(b, m, threads))):
        assert_array_equal(nc.gemm(left, right, residual=residual, activation="relu", num_threads=threads), wanted)
