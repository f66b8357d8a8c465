"""The page's section on convolution: its counts are explain's and a hand's, and what is timed is right."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

import numbaconv as nc
from numbaconv.errors import NumbaconvError
from numbaconv.teach import convolution, convolution_examples, convolution_memory, convolution_times
from numbaconv.timing import Sample


def silent(text):
    """A tick that nobody hears."""


def one_millisecond(functions, rounds=0, **options):
    """In the place of ``timing.burst``."""
    return {name: Sample((1e-3, 2e-3), 1.0) for name in functions}


@pytest.fixture
def no_clock(monkeypatch):
    """Nothing is timed, and the machine's ceilings are invented."""
    for module in (convolution_examples, convolution_times):
        monkeypatch.setattr(module, "burst", one_millisecond)
    monkeypatch.setattr(convolution_examples, "fma_peak", lambda dtype, threads: 200.0)
    monkeypatch.setattr(convolution_examples, "read_bandwidth", lambda threads: 10.0)


# ---------------------------------------------------------------------------------------------------------- the whole


def test_the_section_as_the_page_reads_it(monkeypatch, no_clock):
    small = nc.ConvProblem.parse('mb1ic64ih8oc64kh3ph1n"small"')
    monkeypatch.setattr(convolution_times, "layers", lambda quick: [small, nc.ConvProblem.parse("mb1ic64ih9oc64kh3")])
    monkeypatch.setattr(convolution_times, "places", lambda quick: [(3, 1), (3, 4)])
    monkeypatch.setattr(convolution_times, "GROWING", "mb1ic64ih8oc64kh{kernel}sh{stride}ph{padding}")
    monkeypatch.setattr(convolution_times, "TRANSFORMS", ("fft-tiled",))
    said = []
    found = convolution.measure(True, said.append)
    assert len(said) == convolution.units(True)
    assert json.loads(json.dumps(found, allow_nan=False)) == found

    assert [step["name"] for step in found["ladder"]] == [
        "loops",
        "im2col",
        "implicit",
        "kn2row-aa",
        "direct",
        "winograd",
    ]
    for number, step in enumerate(found["ladder"], 1):
        assert step["number"] == number
        assert step["descriptor"] == "mb1ic64ih8oc64oh8kh3sh1ph1"
        assert step["seconds"] == 1e-3
        assert step["gflops"] == pytest.approx(2 * 64 * 64 * 9 * 64 / 1e-3 / 1e9)
        assert [other["macs"] for other in step["others"]] == [64 * 49 * 64 * 9]
    im2col = found["ladder"][1]
    assert im2col["lowering_bytes"] == im2col["production"]["lowering_bytes"] == 4 * 64 * 9 * 64
    assert "def kernel" in im2col["source"]
    assert "Compared with the step before" in im2col["idea"]

    runs, refused = found["fourier"]["cells"]
    assert (runs["kernel"], runs["stride"], runs["gemm_seconds"], runs["fft_seconds"]) == (3, 1, 1e-3, 1e-3)
    assert (refused["fft"], refused["fft_seconds"], refused["fft_macs"]) == (None, None, None)
    assert refused["gemm_seconds"] == 1e-3
    assert refused["reason"] == "stride 4 leaves out pixels that its transforms would mix with the others"
    assert (found["fourier"]["kernels"], found["fourier"]["strides"]) == ([3], [1, 4])


@pytest.mark.parametrize("quick", [True, False])
def test_layers_and_places_are_some_that_run(quick):
    for problem in convolution_times.layers(quick):
        assert (problem.kh, problem.sh, problem.mb) == (3, 1, 1)
    kernels, strides = map(set, zip(*convolution_times.places(quick), strict=True))
    assert {3, 5, 9} <= kernels
    assert {1, 2} <= strides
    assert convolution.units(quick) >= 10


def test_a_wrong_result_is_not_timed():
    right, wrong, nothing = np.ones(4, np.float32), np.full(4, 1.001, np.float32), np.full(4, np.nan, np.float32)
    for other in (wrong, nothing):
        with pytest.raises(NumbaconvError, match=r"^other is not timed: it is off by (1.0e-03|nan) of the"):
            convolution_times._raced({"first": lambda: right, "other": lambda other=other: other}, 0.0)


# ------------------------------------------------------------------------------------------------------------ the bytes

PLACES = [(1, 1, 3, 14), (1, 2, 64, 28), (3, 1, 64, 56), (3, 1, 256, 224), (3, 4, 16, 14), (5, 1, 64, 28),
          (5, 2, 256, 56), (7, 4, 3, 224), (11, 1, 256, 14), (11, 4, 3, 224)]  # fmt: skip


def differences(grid):
    """Where a grid's bytes and reasons are not those that ``explain`` gives."""
    found = []
    for kernel, stride, channels, size in PLACES:
        problem = f"mb1ic{channels}ih{size}oc{channels}kh{kernel}sh{stride}ph{kernel // 2}"
        rows = {row.name: row for row in nc.explain(problem).rows}
        cell, why = (grid[table][str(kernel)][str(stride)][str(channels)][str(size)] for table in ("bytes", "refusals"))
        assert list(cell) == grid["lowerings"]
        for name, count in cell.items():
            said = grid["reasons"][why[name]] if name in why else ""
            if (count, said) != (rows[name].lowering_bytes if rows[name].runs else None, rows[name].reason):
                found.append((problem, name))
    return found


def test_every_number_of_the_sliders_is_explains():
    said = []
    grid = convolution_memory.grid(True, said.append)
    assert len(said) == len(grid["axes"]["kernel"])
    assert differences(grid) == []
    assert set(nc.list_lowerings(device="cpu")) - set(grid["lowerings"]) == {"depthwise", "winograd-1d"}  # run nowhere
    cell = grid["bytes"]["3"]["1"]["64"]["56"]
    assert (cell["im2col"], cell["kn2row-aa"], cell["conv1x1"]) == (7_225_344, 0, None)
    keys = itertools.product(*(map(str, values) for values in grid["axes"].values()))
    assert all(grid["bytes"][k][s][c][z] for k, s, c, z in keys)
    assert grid["descriptor"].format(kernel=3, stride=2, channels=16, size=28, padding=1) == "mb1ic16ih28oc16kh3sh2ph1"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("padding=kernel // 2", "padding=0"),
        ("lowering_bytes(lowering)", "workspace_bytes(lowering)"),
        ("reasons.index(str(cell[name]))", "0"),
    ],
)
def test_other_numbers_are_seen(mutant, old, new):
    wrong = mutant(convolution_memory, old, new)
    axes = {"kernel": [1, 3, 5, 7, 11], "stride": [1, 2, 4], "channels": [3, 16, 64, 256], "size": [14, 28, 56, 224]}
    wrong.axes = lambda quick: axes
    assert differences(wrong.grid(True, silent))


# ------------------------------------------------------------------------------------------------------------- examples


def test_the_product_of_the_article(no_clock):
    x = convolution_examples.blog(True, silent)
    assert (x["m"], x["k"], x["n"], x["macs"], x["flops"]) == (256, 1152, 192, 56_623_104, 113_246_208)
    assert x["bytes"] == {"a": 1_179_648, "b": 884_736, "c": 196_608, "total": 2_260_992}
    assert x["intensity"] == pytest.approx(50.087, abs=1e-3)
    layer = x["layer"]
    assert nc.ConvProblem.parse(layer["descriptor"]).macs == x["macs"]
    assert (layer["oh"] * layer["ow"], layer["ic"] * layer["kh"] * layer["kw"], layer["oc"]) == (256, 1152, 192)
    ceiling = x["ceiling"]
    assert ceiling["compute_seconds"] == pytest.approx(113_246_208 / 200e9)
    assert ceiling["memory_seconds"] == pytest.approx(2_260_992 / 10e9)
    assert ceiling["bound"] == "operations"
    ours, numpy = x["measured"]
    assert (ours["name"], numpy["name"]) == ("numbaconv.gemm", "numpy.matmul")
    assert ours["gflops"] == x["gflops"] == pytest.approx(113.246208)
    assert ours["share_of_peak"] == pytest.approx(0.56623104)
    words = " ".join(step["text"] for step in x["steps"])
    for part in ("256 · 1,152 · 192 = 56,623,104", "1,152 KiB", "2,208 KiB", "50 operations", "566 µs", "226 µs",
                 "1.00 ms: 113 GFLOP/s, 57% of the peak", "operations are the limit"):  # fmt: skip
        assert part in words


def windows(size, kernel, stride):
    """Every pixel of every patch, by walking the window over one row or column."""
    found, first = [], 0
    while first + kernel <= size:
        found.append(range(first, first + kernel))
        first += stride
    return found


def test_strides_count_what_a_walking_window_meets():
    found = convolution_examples.strides(silent)
    for name, channels in (("small", 1), ("layer", 3)):
        for row in found[name]["rows"]:
            p = nc.ConvProblem.parse(row["descriptor"])
            steps = windows(p.ih, p.kh, row["stride"])
            assert row["oh"] == row["ow"] == len(steps)
            assert row["patches"] == len(steps) ** 2
            written = sum(map(len, steps)) ** 2 * channels
            assert row["im2col_bytes"] == 4 * written
            assert row["copies"] == pytest.approx(written / (channels * p.ih * p.iw))
            assert row["macs"] == written * p.oc
            assert row["rows_reached"] == max(steps[-1]) + 1
            if len(steps) > 1:
                assert row["columns_shared"] == len(set(steps[0]) & set(steps[1]))
            assert row["worked"] == f"({p.ih} + 2·0 - {p.kh}) // {row['stride']} + 1 = {len(steps)}"
