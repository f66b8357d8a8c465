"""The ladders' steps: all by the same test, and what their files say."""

from __future__ import annotations

import json

import numpy as np
import oracles
import pytest

import numbaconv as nc
from numbaconv.ladder import LADDERS, step, steps
from numbaconv.ladder.assembly import Assembly
from numbaconv.ladder.step import UnknownStep
from numbaconv.ladder.words import buffer
from numbaconv.timing import Sample

NAMES = ["ijk", "ikj", "blocked", "packed", "register-tile", "vector", "parallel", "production"]
GEMMS = [one for one in steps("cpu") if LADDERS["cpu"] == "gemm"]


GUARD = 256


def edges() -> list[tuple[int, int, int]]:
    """(m, n, k): single rows, columns and products, nothing at all, primes, and one around every block and tile."""
    tiles = {(one.module.MR, one.module.NR) for one in (step("register-tile"), step("vector"))}
    around = [(size + d, width - d, 3) for size, width in tiles for d in (-1, 0, 1)]
    blocks = step("vector").module
    return [
        (1, 1, 1), (1, 29, 7), (31, 1, 7), (7, 11, 1), (0, 5, 3), (5, 0, 3), (4, 5, 0),
        (13, 17, 19), (97, 101, 103), *around,
        (blocks.MC + 1, 5, blocks.KC + 1), (3, blocks.NC + 1, blocks.KC - 1), (2, step("blocked").module.NC + 3, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("one", GEMMS, ids=lambda one: one.name)
def test_every_step_is_exact(one, rng):
    a, b = (rng.integers(-4, 5, (1200, 1200)).astype("f4") for _ in range(2))
    for m, n, k in edges():
        left, right = a[:m, :k].copy(), b[:k, :n].copy()
        memory = np.full(m * n + 2 * GUARD, -0.0, "f4")  # where even an added zero is seen
        out = memory[GUARD : GUARD + m * n].reshape(m, n)
        out[...] = np.nan
        result = one.function(left, right, out=out)
        assert np.signbit(memory[:GUARD]).all(), (m, n, k)
        assert np.signbit(memory[GUARD + m * n :]).all(), (m, n, k)
        assert np.array_equal(out, oracles.matmul(left, right)), (m, n, k)
        assert result.shape == out.shape
        assert np.shares_memory(result, out) or not out.size
        assert np.array_equal(left, a[:m, :k])
        assert np.array_equal(right, b[:k, :n])


@pytest.mark.parametrize("name", ["blocked", "packed", "register-tile", "vector"])
def test_blocks_may_be_of_any_size(name, rng):
    """As recordings of small matrices want them: several of each, and panels beside each other."""
    a, b = rng.integers(-4, 5, (23, 37)).astype("f4"), rng.integers(-4, 5, (37, 61)).astype("f4")
    sizes = {"mc": 8, "kc": 16, "nc": 24} | ({"mr": 4, "nr": 8} if name == "packed" else {})
    got = step(name).function(a, b, np.full((23, 61), np.nan, "f4"), **sizes)
    assert np.array_equal(got, oracles.matmul(a, b))


@pytest.mark.parametrize("one", GEMMS, ids=lambda one: one.name)
def test_every_step_sums_as_well_as_one_running_sum(one, rng):
    a, b = (rng.standard_normal(shape, dtype="f4") for shape in ((37, 600), (600, 53)))
    error = np.abs(one.function(a, b, out=np.empty((37, 53), "f4")) - oracles.matmul(a, b))
    bound = np.finfo("f4").eps * 600**0.5 * 4 * oracles.matmul(a, b, magnitudes=True)
    assert (error <= bound).all()


@pytest.mark.parametrize("one", GEMMS, ids=lambda one: one.name)
def test_every_step_refuses_shapes_that_do_not_match(one):
    a, b, out = (np.zeros(shape, "f4") for shape in ((40, 3), (3, 5), (40, 5)))
    for wrong in ((a, b[:2].copy(), out), (a, b, out[:, :4].copy()), (a[:39].copy(), b, out)):
        with pytest.raises(nc.ShapeError):
            one.function(wrong[0], wrong[1], out=wrong[2])


def test_the_vector_step_writes_every_other_column_too(rng):
    """Which vectors cannot: it does so in scalars."""
    a, b = rng.integers(-4, 5, (20, 9)).astype("f4"), rng.integers(-4, 5, (9, 40)).astype("f4")
    wide = np.full((20, 80), np.nan, "f4")
    step("vector").function(a, b, out=wide[:, ::2])
    assert np.array_equal(wide[:, ::2], oracles.matmul(a, b))
    assert np.isnan(wide[:, 1::2]).all()


def test_the_ladder_ends_at_the_library():
    assert [one.name for one in steps("cpu")] == NAMES
    assert [one.number for one in steps("cpu")] == list(range(1, len(NAMES) + 1))
    assert steps("cpu")[-1].function is nc.gemm


@pytest.mark.parametrize("one", [one for ladder in LADDERS for one in steps(ladder)], ids=repr)
def test_every_step_says_what_is_new(one):
    assert one.title
    assert one.title[-1] != "."
    assert one.number == 1 or "Compared with the step before" in one.idea, one.idea[:200]
    assert one.source
    assert '"""' not in one.source.splitlines()[0]


def test_a_buffer_begins_with_a_cache_line():
    like = np.empty((1, 1), "f4")
    for rows, columns in ((3, 5), (0, 5), (1, 1)):
        made = buffer(like, rows, columns)
        assert made.shape == (rows, columns)
        assert made.dtype == like.dtype
        assert made.ctypes.data % 64 == 0 or not made.size


def test_an_unknown_step_is_an_error_of_ours():
    with pytest.raises(UnknownStep, match="packed"):
        step("paked")
    with pytest.raises(UnknownStep, match="cuda"):
        steps("gpu")


def test_the_section_of_the_page_has_what_the_page_reads(monkeypatch):
    """Without its measurements: nothing is timed or compiled here."""
    from numbaconv.teach import ladder

    def burst(functions, **_):
        for call in (*functions.values(),)[:2]:
            call()
        return {name: Sample((0.5, 0.5), 1.0) for name in functions}

    loop = Assembly("one", ".L1:", True, loads=3, fmas=2, lanes=8)
    for name, value in {
        "burst": burst, "fma_peak": lambda *_: 50.0, "assembly": lambda _: loop, "WIDE": 64, "QUICK_ROWS": 32
    }.items():  # fmt: skip
        monkeypatch.setattr(ladder, name, value)
    said = []
    section = json.loads(json.dumps(ladder.measure(True, said.append)))
    assert len(said) == ladder.units(True)
    assert {"m", "n", "k", "peak_gflops", "threads", "steps", "curves"} <= section.keys()
    assert [one["name"] for one in section["steps"]] == NAMES
    for one in section["steps"]:
        assert one["gflops"] == pytest.approx(2 * one["rows"] * 64 * 64 / 0.5 / 1e9)
        counts = {"text": ".L1:", "loads": 3, "stores": 0, "fmas": 2, "spills": 0, "lanes": 8}
        assert counts.items() <= one["assembly"].items()
        assert one["loads_per_fma"] == 1.5
        assert one["source"]
        assert one["idea"]
    curves = {curve["name"]: curve for curve in section["curves"]}
    assert list(curves) == NAMES
    assert curves["production"]["sizes"] == list(ladder.QUICK_SIZES)
    assert max(curves["ijk"]["sizes"]) == 512
    assert all(len(curve["sizes"]) == len(curve["gflops"]) for curve in curves.values())


NARROW = """
import numpy as np, oracles
from numbaconv.ladder import step
from numbaconv.machine import detect

rng = np.random.default_rng(3)
a, b = (rng.integers(-4, 5, shape).astype("f4") for shape in ((37, 19), (19, 83)))
out = np.full((37, 83), np.nan, "f4")
for name in ("register-tile", "vector"):
    assert np.array_equal(step(name).function(a, b, out), oracles.matmul(a, b)), name
    apart = np.repeat(a, 2, axis=1)[:, ::2]  # for which the loops are compiled anew, but not the tile
    assert np.array_equal(step(name).function(apart, b, out), oracles.matmul(a, b)), name
print(step("vector").module.LANES, detect().vector_bits)
"""


def test_tiles_kept_for_one_width_are_not_taken_for_another(python):
    """The cache is the same, the constants are not."""
    for name in ("register-tile", "vector"):
        step(name).function(*(np.ones((4, 4), "f4") for _ in range(3)))
    assert python(NARROW, env={"NUMBACONV_VECTOR_BITS": "128"}).split() == ["4", "128"]
