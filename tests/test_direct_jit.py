"""The direct convolution compiled for its problem: runs of tiles, loops made one, rows made one, and last stores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import in_memory, oracle, problem, whole
from numpy.testing import assert_array_equal

import numbaconv as nc
from numbaconv.lowerings import direct_jit
from numbaconv.lowerings.direct_jit import _loops, _parts, _runs, flat

PADS = {"pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1}
KINDS = {
    "a first layer": {"ic": 3, "oc": 37, "ih": 11, "iw": 61} | PADS,
    "a first layer with strides": {"ic": 3, "oc": 32, "ih": 23, "iw": 47, "kh": 7, "kw": 7, "sh": 2, "sw": 2} | PADS,
    "one long row": {"mb": 3, "ic": 20, "oc": 70, "ih": 7, "iw": 9, "kh": 1, "kw": 1},
    "1x1 with strides": {"mb": 2, "ic": 18, "oc": 33, "ih": 9, "iw": 31, "kh": 1, "kw": 1, "sh": 2, "sw": 2},
    "1x1 with pads": {"ic": 6, "oc": 8, "ih": 4, "iw": 9, "kh": 1, "kw": 1, "pad_left": 5, "pad_bottom": 2},
    "groups": {"mb": 2, "ic": 12, "oc": 57, "g": 3, "ih": 9, "iw": 35} | PADS,
    "dilation": {"ic": 5, "oc": 16, "ih": 13, "iw": 40, "dh": 2, "dw": 3, "pad_top": 2},
    "tall kernel": {"ic": 5, "oc": 16, "ih": 13, "iw": 9, "kh": 7, "kw": 1, "pad_top": 3, "pad_bottom": 3},
    "all edge": {"ic": 4, "oc": 18, "ih": 5, "iw": 6, "kh": 5, "kw": 5, "pad_top": 2, "pad_left": 9, "pad_right": 9},
}


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_exact_with_everything_in_the_last_store(rng, kind, layout):
    for dtype in ("float32", "float64") if kind == "one long row" else ("float32",):
        p = replace(problem(**KINDS[kind]), dtype=dtype, layout=layout)
        x, w, bias, residual = (
            whole(rng, *shape, dtype=dtype) for shape in (p.input_shape, p.weight_shape, (p.oc,), p.output_shape)
        )
        terms = {"stride": (p.sh, p.sw), "dilation": (p.dh, p.dw), "groups": p.g, "algorithm": "direct-jit",
                 "padding": (p.pad_top, p.pad_left, p.pad_bottom, p.pad_right), "activation": "relu"}  # fmt: skip
        for added in (None, residual):
            wanted = oracle(p, x, w, bias, residual=added, activation="relu")
            for order in ("nchw", "nhwc"):  # of the residual: where it differs it is added in a pass of its own
                more = None if added is None else in_memory(added, order)
                for threads in (1, 3):
                    got = nc.conv2d(in_memory(x, layout), w, bias, residual=more, num_threads=threads, **terms)
                    assert_array_equal(got, wanted)


@pytest.mark.parametrize("kind", ["one long row", "a first layer"])
def test_outputs_that_are_slices(rng, kind):
    p = problem(**KINDS[kind])
    x, w = whole(rng, *p.input_shape), whole(rng, *p.weight_shape)
    wanted = oracle(p, x, w)
    room = np.full((p.mb, p.oc + 1, p.oh + 2, p.ow + 3), np.nan, "f4")
    for out in (room[:, 1:, 1:-1, 2:-1], np.full((*p.output_shape, 2), np.nan, "f4")[..., 0]):
        padding = p.pad_top, p.pad_left, p.pad_bottom, p.pad_right
        nc.conv2d(x, w, padding=padding, algorithm="direct-jit", out=out)
        assert_array_equal(out, wanted)
    assert np.isnan(room).sum() == room.size - wanted.size


def test_rows_are_made_one_only_where_memory_lets_them():
    p = problem(mb=3, ic=4, oc=8, ih=5, iw=6, kh=1, kw=1)
    whole_batch, images = (120 * 4, 4, 24 * 4, 16), (1000, 4, 24 * 4, 16)
    assert flat(p, whole_batch).input_shape == (1, 4, 1, 90)
    assert flat(p, images).input_shape == (3, 4, 1, 30)
    assert flat(p, whole_batch, images).input_shape == (3, 4, 1, 30)
    assert flat(p, (120 * 4, 4, 30 * 4, 16)) is p
    for change in ({"sw": 2}, {"kw": 2}, {"pad_right": 1}, {"pad_top": 1, "pad_bottom": 1}):
        assert flat(replace(p, **change), whole_batch).ih == 5


def test_runs_cover_a_row_once():
    for sizes in KINDS.values():
        p = problem(**sizes)
        for tiles in range(1, p.ow + 1):
            for most in (1, 2, 100):
                runs = _runs(p, 2, tiles, most, True)
                ends = [z + pixels * count for z, pixels, count, _ in runs]
                assert [z for z, *_ in runs] == [0, *ends[:-1]]
                assert ends[-1] == p.ow
                assert max(width for _, width, *_ in runs) <= -(-p.ow // tiles)
                assert all(count <= most and (inside or count == 1) for _, _, count, inside in runs)
                for z, pixels, count, inside in runs:
                    first = z * p.sw - p.pad_left
                    last = first + (pixels * count - 1) * p.sw + (p.kw - 1) * p.dw
                    assert inside == (first >= 0 and last < p.iw)
    p = problem(**KINDS["a first layer"])
    assert not any(inside for *_, inside in _runs(p, 2, 5, 9, False))
    assert _parts(p, [(0, 14, 1, False), (14, 14, 3, True)]) == {13, 14}
    assert _runs(p, 2, 5, 9, True) == [(0, 1, 1, False), (1, 12, 4, True), (49, 11, 1, True), (60, 1, 1, False)]
    deep = replace(p, ic=300, oc=300)
    assert _runs(deep, 2, 5, 9, True) == [(0, 13, 1, False), (13, 12, 3, True), (49, 12, 1, False)]


def test_loops_are_made_one_where_that_is_the_same():
    def loops(layout, x_strides, **sizes):
        vector, p = 64, replace(problem(ic=3, **sizes), layout=layout)
        steps = (64, 64 * 3 * p.kw, 64 * 3) if layout == "nhwc" else (64 * p.kh, 64, 64 * 3 * p.kh)
        found = _loops(p, x_strides, steps)
        assert found[2].w == vector
        return [(loop.count, loop.x) for loop in found]

    tall, wide = {"kh": 7, "kw": 1, "ih": 9}, {"kh": 3, "kw": 7, "iw": 9}
    assert loops("nhwc", (0, 4, 500, 12), **wide) == [(0, 500), (1, 0), (21, 4)]
    assert loops("nhwc", (0, 4, 500, 16), **wide) == [(0, 500), (7, 16), (3, 4)]
    assert loops("nhwc", (0, 4, 500, 12), dw=2, **wide | {"iw": 20}) == [(0, 500), (7, 24), (3, 4)]
    assert loops("nchw", (0, 900, 500, 4), **wide) == [(7, 4), (3, 900), (0, 500)]
    assert loops("nchw", (0, 900, 500, 4), **tall) == [(1, 4), (3, 900), (0, 500)]
    assert loops("nchw", (0, 900, 500, 4), kh=1, kw=2) == [(0, 500), (2, 4), (3, 900)]


def test_a_row_of_tiles_alike_is_one_call(monkeypatch):
    """The table of runs is what the task walks: one entry for nearly all of a long row, on one thread."""
    direct_jit._setup.cache_clear()
    seen = []
    found = direct_jit._runs
    monkeypatch.setattr(direct_jit, "_runs", lambda *arguments: seen.append(found(*arguments)) or seen[-1])
    p = problem(ic=4, oc=32, ih=20, iw=21, kh=1, kw=1)
    nc.conv2d(np.ones(p.input_shape, "f4"), np.ones(p.weight_shape, "f4"), algorithm="direct-jit", num_threads=1)
    assert [run[1:] for run in seen[0]] == [(14, 30, True)]
    direct_jit._setup.cache_clear()
