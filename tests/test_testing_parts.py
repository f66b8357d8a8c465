"""What the conformance suite stands on: its oracle, its grid of problems, its memory that tells."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from numpy.lib.stride_tricks import as_strided
from numpy.testing import assert_array_equal

from numbaconv.testing.conformance import Report
from numbaconv.testing.grid import grid, large
from numbaconv.testing.memory import NAN, Guarded, observed
from numbaconv.testing.oracle import convolve, sizes_of
from numbaconv.workspace import Arena, checked_out


def test_the_oracle_agrees_with_the_tests_own(rng):
    for _, p in grid(True, 0):
        x, w = (rng.integers(-3, 4, shape).astype(p.dtype) for shape in (p.input_shape, p.weight_shape))
        pads = p.pad_top, p.pad_left, p.pad_bottom, p.pad_right
        wanted = oracles.conv2d(x, w, None, (p.sh, p.sw), pads, (p.dh, p.dw), p.g)
        assert_array_equal(convolve(x, w, **sizes_of(p)), wanted)


def test_the_yardstick_is_one_running_sum(rng):
    x, w = rng.standard_normal((1, 300, 1, 20), "f4"), rng.standard_normal((9, 300, 1, 1), "f4")
    wanted = oracles.running_matmul(w[:, :, 0, 0], x[0, :, 0])
    got = convolve(x, w, (1, 20), (1, 1), (0, 0), (1, 1), 1, np.float32)
    assert got.dtype == np.float32
    assert_array_equal(got[0, :, 0], wanted)


def test_the_grid_holds_what_a_lowering_can_get_wrong():
    problems = [p for _, p in grid(True, 0)]
    wanted = {
        "three channels in": lambda p: p.ic == 3, "1x1": lambda p: p.kh == p.kw == 1,
        "3x3": lambda p: p.kh == p.kw == 3,
        "5x5": lambda p: p.kh == p.kw == 5, "11x11 stride 4": lambda p: (p.kh, p.sh) == (11, 4),
        "pad beyond the kernel": lambda p: p.pad_top >= p.kh and p.pad_left >= p.kw,
        "four pads": lambda p: len({p.pad_top, p.pad_left, p.pad_bottom, p.pad_right}) == 4,
        "grouped": lambda p: 1 < p.g < p.ic, "depthwise": lambda p: p.g == p.ic > 1, "dilated": lambda p: p.dh != p.dw,
        "a tail": lambda p: (p.oh - 1) * p.sh + (p.kh - 1) * p.dh + 1 < p.ih + p.pad_top,
        "stride beyond the kernel": lambda p: p.sh > p.kh, "primes": lambda p: (p.ih, p.iw) == (17, 19),
        "strides apart": lambda p: p.sh != p.sw, "no images": lambda p: p.mb == 0, "three images": lambda p: p.mb == 3,
    }  # fmt: skip
    for words, holds in wanted.items():
        found = {(p.layout, p.dtype) for p in problems if holds(p)}
        assert {("nchw", "float32"), ("nhwc", "float32")} <= found, words
    assert {p.dtype for p in problems} == {"float32", "float64"}
    whole = [str(p) for _, p in grid(False, 0)]
    assert set(map(str, problems)) < set(whole)
    assert whole == [str(p) for _, p in grid(False, 0)] != [str(p) for _, p in grid(False, 1)]
    assert all(p.flops > 1.3e6 for _, p in large(True))  # several threads share them


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (1, 1, 2, 3)])
def test_guarded_memory_tells_what_was_written_around(layout, margins):
    guarded = Guarded((2, 3, 4, 5), "float32", layout, margins)
    array = guarded.array
    assert array.shape == (2, 3, 4, 5)
    assert np.isnan(array).all()
    array[...] = 7
    assert guarded.written_outside() == ""
    step = array.strides[3]
    as_strided(array[-1, -1, -1], (6,), (step,))[5] = 0
    said = guarded.written_outside()
    if not any(margins):
        assert said == f"{1 if layout == 'nchw' else 3} elements after the array"
    else:
        assert said == "at index [1, 2, 3, 5] of an array of shape [2, 3, 4, 5]"
    before = Guarded((2, 3, 4, 5), "float64", layout)
    as_strided(before.array[0, 0, 0, ::-1], (8,), (-before.array.strides[3],))[-1] = 0
    assert before.written_outside().endswith("elements before the array")


def test_scratch_is_watched_only_inside_of_the_block():
    plain = Arena.__init__, Arena.take
    with observed(NAN) as seen, checked_out(1000) as arena:
        part = arena.take("a", 100)
        arena.take("panels", 64)
        assert (part == 0xFF).all()
        assert len(arena.memory) == 1024
        part[...] = 0
        assert (seen.scratch[0].lowering_bytes, seen.scratch[0].panel_bytes) == (100, 64)
        assert seen.scratch[0].written_outside() == ""
        arena.memory[100] = 0
        assert seen.scratch[0].written_outside() == "1 bytes behind its slice 'a'"
    assert (Arena.__init__, Arena.take) == plain
    with pytest.raises(RuntimeError), observed(NAN):
        raise RuntimeError
    assert (Arena.__init__, Arena.take) == plain
    with checked_out(1000) as arena, observed(NAN) as seen:
        arena.take("of a run that began before", 10)
    assert seen.scratch == []


def test_the_suite_is_imported_when_it_is_asked_for(python):
    said = python("""
        import sys
        import numbaconv as nc
        before = "numbaconv.testing" in sys.modules
        print(before, nc.testing.check_lowering.__name__, "hypothesis" in sys.modules, "pytest" in sys.modules)
        try:
            nc.tasting
        except AttributeError as error:
            print(error)
    """)
    assert said.splitlines() == ["False check_lowering False False", "module 'numbaconv' has no attribute 'tasting'"]


def test_a_report_in_a_line():
    report = Report(["mine"], ["a", "b"], {"c": "too wide", "d": "too wide", "e": "dilated"})
    assert str(report) == "mine: 2 problems right, 3 refused (dilated; too wide)"
    assert str(Report(["mine"], ["a"])) == "mine: 1 problems right, 0 refused"


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_an_array_without_zones_is_its_memory(layout):
    guarded = Guarded((2, 3, 4, 5), "float32", layout, zone=0)
    assert guarded.memory.nbytes == guarded.array.nbytes
    guarded.array[...] = 7
    assert guarded.written_outside() == ""
    copy = guarded.memory.copy()
    assert_array_equal(guarded.cut(copy), guarded.array)
    assert np.shares_memory(guarded.cut(copy), copy)
