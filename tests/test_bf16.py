"""Products through bf16: exact where the parts are, as accurate as promised, and float32 wherever bf16 would not do."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import oracles
import pytest
from numpy.testing import assert_array_equal

import numbaconv as nc
from numbaconv.devices.amx import has_tiles, permitted
from numbaconv.errors import ShapeError
from numbaconv.gemm import Finish, Matrix, Operands, PackedMatrix, gemm_plan
from numbaconv.gemm.arithmetic import CHAINS, FMA, Arithmetic, arithmetic_for, has_avx512bf16
from numbaconv.machine import detect
from numbaconv.workspace import checked_out

BACKENDS = [
    "emulated",
    pytest.param("avx512bf16", marks=pytest.mark.skipif(not has_avx512bf16(detect()), reason="no AVX512-BF16")),
    pytest.param("amx-emulated", marks=pytest.mark.skipif(detect().vector_bits != 512, reason="vectors too short")),
    pytest.param("amx", marks=pytest.mark.skipif(not (has_tiles(detect()) and permitted()), reason="no AMX")),
]
SIZES = [(1, 1, 1), (5, 33, 2), (17, 16, 31), (29, 7, 33), (29, 65, 301), (48, 130, 64)]


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def multiply(arithmetic, a, b, c=None, accumulate=False, finish=None, threads=1, pack=None):
    """A · B by a plan of that arithmetic, into NaN; `pack`: the operand that is packed before."""
    m, k, n = *a.shape, b.shape[1]
    kinds = Operands(pack == "a", pack == "b", a.strides[1] == 4, b.strides[1] == 4)
    plan = gemm_plan(m, n, k, a.dtype, threads, kinds, arithmetic=arithmetic)
    left, right = Matrix.of(a), Matrix.of(b)
    left = plan.pack("a", left, threads) if pack == "a" else left
    right = plan.pack("b", right, threads) if pack == "b" else right
    c = np.full((m, n), np.nan, np.float32) if c is None else c
    with checked_out(plan.panel_bytes) as arena:
        arena.memory.view(np.uint8)[...] = 255
        plan.run(left, right, Matrix.of(c), arena.address, accumulate, finish)
    return c


def whole(rng, *shape, most=127):
    return rng.integers(-most, most + 1, shape).astype(np.float32)


def scattered(rng, products, m, n, k):
    """Whole numbers with more digits than a bf16 has, so few that every sum is exact; each chain's product counts."""
    wide = {1: 127, 3: (1 << 12) - 1, 6: (1 << 20) - 1}[products]
    a, b = np.zeros((m, k), np.float32), np.zeros((k, n), np.float32)
    row, column = rng.integers(0, k, m), rng.integers(0, k, n)
    for p in range(k):  # in each step one operand is wide, the other small; or both have two parts
        wide_a = p % 3 < 2
        a[row == p, p] = rng.integers(wide // 2, wide, (row == p).sum()) if wide_a else 5
        b[p, column == p] = 7 if wide_a else rng.integers(wide // 2, wide, (column == p).sum())
        if products == 6 and p % 3 == 1:
            a[row == p, p], b[p, column == p] = 2049, 4095
    return a, b


def parts_of(x, count):
    """The parts of float32 numbers, by another way than the package's."""
    for _ in range(count):
        scale = 2.0 ** (np.frexp(x)[1].astype(float) - 8)
        part = np.round(x.astype(float) / scale) * scale
        yield part
        x = (x - part).astype(np.float32)


@pytest.mark.parametrize("products", CHAINS)
def test_exact_numbers_take_every_product_of_the_chain(rng, products):
    """So an arithmetic that lacks one fails the tests below."""
    chain, (a, b) = CHAINS[products], scattered(rng, products, 29, 65, 30)
    wanted = oracles.matmul(a, b)
    left, right = (list(parts_of(x, 1 + max(p for p, _ in chain))) for x in (a, b))
    sums = {pair: left[pair[0]] @ right[pair[1]] for pair in chain}
    assert wanted.max() < 1 << 24
    assert_array_equal(sum(sums.values()), wanted)
    for missing in chain:
        assert (sum(value for pair, value in sums.items() if pair != missing) != wanted).any(), missing


@pytest.mark.parametrize("products", CHAINS)
@pytest.mark.parametrize("pack", [None, "a", "b"])
def test_exact_at_every_edge(rng, backend, products, pack):
    arithmetic = Arithmetic(products, backend, forced=True)
    for m, n, k in SIZES:
        for a, b in (scattered(rng, products, m, n, k), (whole(rng, m, k), whole(rng, k, n, most=3))):
            for left, right in ((a, b), (np.asfortranarray(a), np.asfortranarray(b)), (a.repeat(2, 1)[:, ::2], b)):
                got = multiply(arithmetic, left, right, pack=pack)
                assert_array_equal(got, oracles.matmul(a, b), f"{m} x {k} x {n}")


def test_the_same_bits_emulated_and_by_the_instruction(rng):
    if not has_avx512bf16(detect()):
        pytest.skip("this CPU has no AVX512-BF16")
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((14, 64), (64, 32)))
    b[0::2] = 0  # one product a pair: what is left to the instruction is how it rounds a sum of two
    for products in CHAINS:  # tiles differ: they sum blocks of another depth
        by = [multiply(Arithmetic(products, name, forced=True), a, b) for name in ("emulated", "avx512bf16")]
        assert by[0].tobytes() == by[1].tobytes()


BOUND = {1: 4e-3, 3: 1e-5, 6: 1e-6}


@pytest.mark.parametrize("products", CHAINS)
def test_accuracy(rng, backend, products):
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((29, 700), (700, 65)))
    for scale in (1.0, 1e-9, 1e9):
        for left, right in ((a * np.float32(scale), b), (abs(a), abs(b) * np.float32(scale))):
            got, exact = multiply(Arithmetic(products, backend, forced=True), left, right), oracles.matmul(left, right)
            assert np.linalg.norm(got - exact) <= BOUND[products] * np.linalg.norm(exact)
            assert (abs(got - exact) <= 2 * BOUND[products] * oracles.matmul(left, right, magnitudes=True)).all()


# -------------------------------------------------------------------------------------------------- through the front


@pytest.fixture
def forced(monkeypatch, backend):
    monkeypatch.setenv("NUMBACONV_BF16", backend)
    return backend


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_gemm_and_linear_with_everything(rng, forced, precision):
    m, n, k = 29, 65, 77
    a, b = whole(rng, m, k), whole(rng, k, n, most=3)
    row, residual, before = whole(rng, n), whole(rng, m, n), whole(rng, m, n)
    terms = {"alpha": 2.0, "bias": row, "residual": residual, "activation": "relu"}
    assert arithmetic_for(precision, np.float32).backend == forced
    packed_a, packed_b = nc.prepack_a(a, n, precision=precision), nc.prepack_b(b, m, precision=precision)
    for left, right in ((a, b), (packed_a, b), (a, packed_b)):
        for beta in (0.0, 0.5, 1.0):
            out = before.copy()
            got = nc.gemm(left, right, out=out, beta=beta, precision=precision, **terms)
            wanted = oracles.gemm(a, b, before, 2.0, beta, row, residual, "relu")
            assert_array_equal(got, wanted)
        out = before.copy()
        assert_array_equal(nc.gemm(left, right, out=out, beta=1, precision=precision), oracles.matmul(a, b) + before)
        assert_array_equal(nc.gemm(left, right, out=out, precision=precision), oracles.matmul(a, b))
        assert_array_equal(nc.gemm(left, right), oracles.matmul(a, b))
    wide = np.full((m, 2 * n), np.nan, np.float32)
    nc.gemm(a, b, out=wide[:, ::2], precision=precision)
    assert_array_equal(wide[:, ::2], oracles.matmul(a, b))
    assert np.isnan(wide[:, 1::2]).all()
    got = nc.linear(a, np.ascontiguousarray(b.T), row, activation="relu", precision=precision)
    assert_array_equal(got, oracles.gemm(a, b, bias=row, activation="relu"))
    both = np.stack([a, 2 * a])
    assert_array_equal(nc.gemm(both, b, precision=precision), oracles.matmul(both, b))


def test_a_packed_operand_serves_the_precision_that_is_asked_for(rng, forced):
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((29, 301), (301, 65)))
    packed = nc.prepack_a(a, 65, precision="medium")
    assert packed.schedule.arithmetic.products == 1
    for out in (None, np.empty((29, 65), np.float32)):
        fine, coarse = (nc.gemm(packed, b, precision=word, out=out).copy() for word in ("highest", "medium"))
        exact = oracles.matmul(a, b)
        assert np.linalg.norm(fine - exact) < 1e-6 * np.linalg.norm(exact)
        assert 1e-4 < np.linalg.norm(coarse - exact) / np.linalg.norm(exact) < 4e-3
    plan = gemm_plan(29, 65, 301, np.dtype(np.float32), 1, Operands(a_packed=True), fixed=packed.plain.schedule)
    with pytest.raises(ShapeError, match="packed"):
        plan.run(packed, Matrix.of(b), Matrix.of(np.empty((29, 65), np.float32)), 0)
    assert isinstance(packed.plain, PackedMatrix)


def test_double_precision_and_highest_are_left_alone(rng, forced):
    a, b = rng.standard_normal((29, 301)), rng.standard_normal((301, 65))
    assert nc.gemm(a, b, precision="medium").tobytes() == nc.gemm(a, b).tobytes()
    assert arithmetic_for("highest", np.float32) == arithmetic_for("medium", np.float64) == FMA


@pytest.mark.parametrize("products", [1, 3])
def test_the_same_bits_for_any_number_of_threads(rng, backend, products):
    arithmetic = Arithmetic(products, backend, forced=True)
    for m, n, k in ((300, 310, 320), (37, 2500, 65)):
        a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n)))
        for pack in (None, "a"):
            bits = [multiply(arithmetic, a, b, threads=threads, pack=pack).tobytes() for threads in (1, 2, 3, 1)]
            assert all(other == bits[0] for other in bits)


def test_an_unknown_backend_is_named(monkeypatch):
    monkeypatch.setenv("NUMBACONV_BF16", "abacus")
    with pytest.raises(ValueError, match=r"NUMBACONV_BF16.*avx512bf16.*abacus"):
        nc.gemm(np.ones((3, 3), np.float32), np.ones((3, 3), np.float32), precision="medium")


# --------------------------------------------------------------------------------------------------------- the guard

SPECIAL = [np.inf, -np.inf, np.nan, 3.4e38, -3.39e38, 1e-40, 1e-36]


def alike(got, wanted, magnitudes):
    """The same class of number everywhere, and close to it where it is finite."""
    assert_array_equal(np.isnan(got), np.isnan(wanted))
    finite = np.isfinite(wanted)
    assert_array_equal(got[~finite], wanted[~finite])
    assert (abs(got - wanted)[finite] <= 1e-6 * magnitudes[finite]).all()


@pytest.mark.parametrize("products", CHAINS)
def test_special_values_have_the_class_and_the_accuracy_of_float32(rng, backend, products):
    arithmetic, (m, n, k) = Arithmetic(products, backend, forced=True), (29, 65, 301)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n)))
    before = rng.standard_normal((m, n)).astype(np.float32)
    places = [(0, 0, 0), (m - 1, k - 1, n - 1), (13, 151, 32)]  # either half of a pair, and the odd last step
    with np.errstate(all="ignore"):
        for value, (i, p, j), pack, side in itertools.product(SPECIAL, places, (None, "a", "b"), "ab"):
            left, right = a.copy(), b.copy()
            if side == "a":
                left[i, p] = value
                right[p] *= np.float32(1e-3 if abs(value) > 1 else 1e30)
            else:
                right[p, j] = value
                left[:, p] *= np.float32(1e-3 if abs(value) > 1 else 1e30)
            wanted = oracles.matmul(left, right).astype(np.float32)
            magnitudes = oracles.matmul(left, right, magnitudes=True)
            alike(multiply(arithmetic, left, right, pack=pack), wanted, magnitudes)
            if (i, p, j) == places[2]:  # nothing is added twice where the result is an input
                added = multiply(arithmetic, left, right, before.copy(), accumulate=True, pack=pack)
                alike(added, (oracles.matmul(left, right) + before).astype(np.float32), magnitudes + abs(before))
                c = before.copy()
                multiply(arithmetic, left, right, c, finish=Finish(residual=Matrix.of(c)), pack=pack)
                alike(c, (oracles.matmul(left, right) + before).astype(np.float32), magnitudes + abs(before))


@pytest.mark.parametrize("scale", [1e-15, 1e-18, 1e-20, 1e18])
def test_products_near_the_ends_of_float32(rng, backend, scale):
    a, b = (rng.uniform(0.5, 1, shape).astype(np.float32) * np.float32(scale) for shape in ((29, 301), (301, 65)))
    exact, magnitudes = oracles.matmul(a, b), oracles.matmul(a, b, magnitudes=True)
    for products in (3, 6):
        got = multiply(Arithmetic(products, backend, forced=True), a, b)
        assert (abs(got - exact) <= 1e-5 * magnitudes + 301 * 2.0**-149).all()


def test_zeros_are_nothing_special(rng, backend):
    arithmetic = Arithmetic(3, backend, forced=True)
    zeros, b = np.zeros((29, 301), np.float32), rng.standard_normal((301, 65)).astype(np.float32)
    assert_array_equal(multiply(arithmetic, zeros, b), np.zeros((29, 65)))
    b[7, 9] = np.inf
    assert_array_equal(np.isnan(multiply(arithmetic, zeros, b)), np.isinf(b).any(0) & np.ones((29, 1), bool))


def test_a_product_in_several_rounds(rng, backend, monkeypatch):
    """Some of C is written before all of k was seen: then it is computed anew; what is added to is looked at first."""
    monkeypatch.setattr(sys.modules["numbaconv.gemm.plan"], "SHARED_LIMIT", 1 << 14)
    gemm_plan.cache_clear()
    try:
        arithmetic = Arithmetic(1, backend, forced=True)
        a, b = whole(rng, 60, 3000, most=1), whole(rng, 3000, 200, most=1)
        assert gemm_plan(60, 200, 3000, a.dtype, 3, Operands(), arithmetic=arithmetic)._round < 1500
        before, b[2999, 199] = whole(rng, 60, 200), np.inf
        a[:, 2999] = 1
        wanted = oracles.matmul(a, b)
        for threads in (1, 3):
            assert_array_equal(multiply(arithmetic, a, b, threads=threads), wanted)
            added = multiply(arithmetic, a, b, before.copy(), accumulate=True, threads=threads)
            assert_array_equal(added, wanted + before)
    finally:
        gemm_plan.cache_clear()


# --------------------------------------------------------------------------------------------------------- lowerings

CATALOGUE = """
import itertools
import numpy as np, oracles
import numbaconv as nc
from numbaconv.registry import make_lowering
from numbaconv.request import Request
from numbaconv.select import check

rng = np.random.default_rng(6)
whole = lambda *shape: rng.integers(-3, 4, shape).astype("f4")
ran, differ = set(), set()
for g, kernel, stride, pads in (
    (2, (3, 2), (2, 1), (1, 2, 0, 3)), (1, (3, 3), (1, 1), (1, 1, 1, 1)), (1, (1, 1), (1, 1), (0, 0, 0, 0)),
    (1, (2, 2), (2, 2), (0, 0, 0, 0)),
):
    x, w, bias = whole(2, 6, 11, 41), whole(12, 6 // g, *kernel), whole(12)
    wanted = oracles.conv2d(x, w, bias, stride, pads, groups=g, activation="relu")
    weird = x.copy()
    weird[0, 1, 4, 5], weird[1, 5, 10, 40] = np.inf, 3.4e38
    fine = rng.standard_normal(x.shape).astype("f4")
    for layout, name in itertools.product(("nchw", "nhwc"), nc.list_lowerings()):
        order = (lambda a: a) if layout == "nchw" else lambda a: a.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
        p = nc.ConvProblem.from_arrays(order(x), w, stride, pads, 1, g)
        lowering = make_lowering(name)
        if "winograd" in name or "fft" in name or name == "reference" or not check(lowering, p, Request()):
            continue
        terms = dict(stride=stride, padding=pads, groups=g, algorithm=name, activation="relu", num_threads=2)
        for _ in range(2):  # the second may run from tape
            got = nc.conv2d(order(x), w, bias, precision="medium", **terms)
            assert np.array_equal(got, wanted), (name, p)
        got = nc.conv2d(order(x), w, precision="medium", residual=order(wanted.astype("f4")), **terms)
        assert np.array_equal(got, oracles.conv2d(x, w, None, stride, pads, (1, 1), g, wanted, "relu")), name
        words = ("medium", "highest")
        with np.errstate(all="ignore"):
            strange, plain = (nc.conv2d(order(weird), w, bias, precision=word, **terms) for word in words)
        assert np.array_equal(np.isnan(strange), np.isnan(plain)) and np.array_equal(np.isinf(strange), np.isinf(plain))
        kept = np.isfinite(plain)
        assert np.allclose(strange[kept], plain[kept], rtol=1e-5, atol=1e-5), name
        ran.add(name)
        if not np.array_equal(*(nc.conv2d(order(fine), w, precision=word, **terms) for word in words)):
            differ.add(name)
print(sorted(ran), sorted(ran - differ), sep="\\n")
"""


def test_every_lowering_that_multiplies_is_exact(python, backend):
    ran, alike = map(eval, python(CATALOGUE, env={"NUMBACONV_BF16": backend}).splitlines())
    assert {"im2col", "implicit-gemm", "conv1x1", "patchify", "kn2row-aa", "kn2row-as", "mec", "indirect"} <= set(ran)
    assert set(alike) <= {"direct", "direct-jit", "depthwise"}  # they issue no products


def test_explain_says_what_multiplies(monkeypatch):
    problem = "mb1ic64ih28oc64oh28kh3ph1"
    monkeypatch.setenv("NUMBACONV_BF16", "emulated")
    assert "emulated, three bf16 products" in str(nc.explain(problem, precision="high"))
    monkeypatch.setenv("NUMBACONV_BF16", "off")
    assert "float32 runs" in str(nc.explain(problem, precision="medium"))
    monkeypatch.delenv("NUMBACONV_BF16")
    said = str(nc.explain(problem, precision="high"))
    if has_avx512bf16(detect()):
        assert "no AMX, AVX512-BF16 would be no faster" in said or "AMX, three bf16 products" in said
        assert ", one bf16 product" in str(nc.explain(problem, precision="medium"))
    assert "bf16" not in str(nc.explain(problem))
