"""The roofline: roofs that are roofs, points where they belong, and a picture of both."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from numbaconv.bench.contender import WrongResult
from numbaconv.commands.group import numbaconv
from numbaconv.ladder.orders import ordered
from numbaconv.machine import detect
from numbaconv.problem import ConvProblem
from numbaconv.teach import roofline as module
from numbaconv.teach import roofs
from numbaconv.teach.roofline import Options, Point, Roofline, roofline
from numbaconv.teach.roofs import Bandwidth, Peak
from numbaconv.workspace import address_of, aligned

LAYER = ConvProblem.parse("mb1ic3ih9oc5oh9kh3ph1")
CHOSEN = ("im2col", "direct")


class Written:
    """A step of a ladder made for a test."""

    def __init__(self, name, function):
        self.name, self.function = name, function


def library(a, b, out):
    """What nobody can follow: it makes an array of its own."""
    out[...] = np.dot(a, b)
    return out


@pytest.fixture
def small(monkeypatch):
    """Three steps, two lowerings, roofs that are known."""
    steps = (Written("ijk", ordered("ijk")), Written("ikj", ordered("ikj")), Written("production", library))
    monkeypatch.setattr(module, "steps", lambda ladder: steps)
    monkeypatch.setattr(module, "peaks", lambda threads: [lambda: Peak("vectors", 100.0, 1)])
    monkeypatch.setattr(module, "bandwidths", lambda threads: [lambda: Bandwidth("memory", 10.0, 1)])
    monkeypatch.setattr(module, "QUICK_SECONDS", 0.02)
    monkeypatch.setattr(module, "QUICK_LOWERINGS", CHOSEN)
    monkeypatch.setattr(module, "default_threads", lambda: 2)
    return SimpleNamespace(options=Options(24, LAYER, quick=True))


def test_everything_has_its_place(small):
    ticks = []
    found = roofline(small.options, ticks.append)
    assert len(ticks) == small.options.units == 2 + 3 + 2
    ladder = {point.name: point for point in found.points if point.group == "ladder"}
    assert list(ladder) == ["ijk", "ikj", "production"]
    flops, least = 2 * 24**3, 3 * 24 * 24 * 4
    for point in ladder.values():
        assert point.intensity == flops / least  # all three matrices fit into any cache
        assert point.l1 == flops / least
        assert point.gflops > 0
    assert [point.threads for point in ladder.values()] == [1, 1, 2]
    lowerings = {point.name: point for point in found.points if point.group == "lowering"}
    assert lowerings.keys() == set(CHOSEN)
    once = LAYER.input_bytes + LAYER.weight_bytes + LAYER.output_bytes
    assert lowerings["direct"].intensity == LAYER.flops / once
    assert lowerings["im2col"].intensity == LAYER.flops / (once + 2 * 27 * 81 * 4)


def test_the_bytes_of_a_step_are_those_its_accesses_move():
    """Down a column of b every access is another line, and 16 KiB of b alone are 256 lines that L1's sets share."""
    ijk = module._intensities(Written("ijk", ordered("ijk")), 128)
    ikj = module._intensities(Written("ikj", ordered("ikj")), 128)
    flops = 2 * 128**3
    assert ijk[0] == ikj[0] == flops / (3 * 128 * 128 * 4)
    if detect().l1d_bytes <= 128 * 128 * 4:  # else b stays there, whatever the order
        assert ijk[1] <= flops / (128**3 * 16)
        assert ikj[1] > 4 * ijk[1]
    assert module._intensities(Written("of its own", library), 8) is None


def test_a_wrong_step_and_a_wrong_lowering_are_not_placed(small, monkeypatch):
    def late(a, b, out):
        np.dot(a, b, out=out)
        out[-1, -1] += 1
        return out

    with monkeypatch.context() as other:
        other.setattr(module, "steps", lambda ladder: (Written("late", late),))
        with pytest.raises(WrongResult, match="late is wrong"):
            roofline(small.options)
        result = CliRunner().invoke(numbaconv, ["teach", "roofline", "--quick", "--size", "8", str(LAYER)])
        assert result.exit_code == 1, result.output
        assert "late is wrong" in result.output
    monkeypatch.setattr(module.Layer, "expected", property(_off))
    with pytest.raises(WrongResult, match=f"({'|'.join(CHOSEN)}) is wrong"):
        roofline(small.options)


def _off(layer):
    from numbaconv.bench.contender import conv_reference

    true = conv_reference(layer.problem, layer.x, layer.w, np.zeros(layer.problem.oc, np.float32))
    return replace(true, value=true.value + 1)


def test_units_are_those_of_the_page(small, monkeypatch):
    monkeypatch.setattr(module, "layer_of", lambda problem, quick: LAYER)
    monkeypatch.setattr(module, "QUICK_SIZE", 8)
    ticks = []
    found = json.loads(json.dumps(module.measure(True, ticks.append)))
    assert len(ticks) == module.units(True)
    assert found["peaks"] == [{"name": "vectors", "gflops": 100.0, "threads": 1}]
    assert found["bandwidths"] == [{"name": "memory", "gb_s": 10.0, "threads": 1}]
    assert {"name", "group", "intensity", "gflops"} <= found["points"][0].keys()


# -------------------------------------------------------------------------------------------------- the roofs


def test_the_levels_lie_well_inside_their_caches():
    KIB, MIB = 1 << 10, 1 << 20
    big = replace(detect(), l1d_bytes=32 * KIB, l2_bytes=MIB, l3_bytes=32 * MIB, l3_share=4 * MIB)
    assert list(roofs.levels(big)) == [("L1", 16 * KIB), ("L2", MIB // 2), ("L3", 4 * MIB)]
    no_l3 = replace(big, l3_bytes=MIB, l3_share=MIB)
    assert [name for name, _ in roofs.levels(no_l3)] == ["L1", "L2"]
    near = replace(big, l2_bytes=64 * KIB, l3_share=64 * KIB)
    assert [name for name, _ in roofs.levels(near)] == ["L1"]


def test_a_pass_reads_every_element():
    """Each element once a pass: the sum says so."""
    values = aligned(1 << 14).view(np.float32)
    values[:] = 1
    kernel = roofs._passes(detect().lanes(np.float32))
    assert kernel(address_of(values), values.nbytes, 3) == 3 * values.size
    values[-1] = 5
    assert kernel(address_of(values), values.nbytes, 1) == values.size + 4


def test_a_bandwidth_counts_all_threads_and_passes(monkeypatch):
    seen = []

    def seconds(threads, task):
        for index in range(threads):
            task(index)
        seen.append(threads)
        return 1e-3

    monkeypatch.setattr(roofs, "best_seconds", seconds)
    monkeypatch.setattr(roofs, "_repeats", lambda run: 5)
    found = roofs._cache("L1", 1 << 14, 3)
    assert set(seen) == {3}
    assert found == Bandwidth("L1", pytest.approx(3 * 5 * (1 << 14) / 1e-3 / 1e9), 3)


def test_one_number_at_a_time_is_slower_than_vectors(monkeypatch):
    monkeypatch.setattr(roofs, "best_seconds", lambda threads, task: 1e-3)
    monkeypatch.setattr(roofs, "_repeats", lambda run: run(10) and 10)
    assert roofs._single() == pytest.approx(2 * 10 * roofs.ACCUMULATORS / 1e-3 / 1e9)


# ------------------------------------------------------------------------------------------------ the picture

FOUND = Roofline(
    256, LAYER, (Peak("one number at a time", 15.0, 1), Peak("vectors", 118.0, 1), Peak("vectors", 236.0, 2)),
    (Bandwidth("L1", 222.0, 1), Bandwidth("memory", 22.0, 1), Bandwidth("memory", 31.0, 2)),
    (Point("ijk", "ladder", 32.0, 2.9, 1, 0.03), Point("ikj", "ladder", 32.0, 24.5, 1, 0.49),
     Point("production", "ladder", 32.0, 150.0, 2, None), Point("im2col", "lowering", 14.0, 85.0, 1),
     Point("im2row", "lowering", 14.0, 84.0, 1), Point("direct", "lowering", 131.0, 112.0, 1)),
)  # fmt: skip


@pytest.mark.teach
def test_dots_and_roofs_are_where_they_were_measured(tmp_path):
    pytest.importorskip("matplotlib")
    from numbaconv.teach.roofline_plot import figure_of, roofline_plot

    ladder, layer = figure_of(FOUND).axes
    dots = [tuple(line.get_xydata()[0]) for line in ladder.lines if len(line.get_xydata()) == 1]
    assert dots == [(0.03, 2.9), (0.49, 24.5), (32.0, 150.0)]
    slopes = [line.get_xydata() for line in ladder.lines if len(set(line.get_ydata())) == 2]
    assert [round(y / x) for (x, y), _ in slopes] == [222, 22, 31]
    assert [tuple(end) for _, end in slopes] == [(118 / 222, 118), (118 / 22, 118), (236 / 31, 236)]
    assert {text.get_text() for text in layer.texts} >= {"im2col  85", "im2row  84", "direct  112"}
    roofline_plot(tmp_path / "roofline.png", FOUND)
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.teach
def test_without_a_ladder_there_is_one_panel():
    pytest.importorskip("matplotlib")
    from numbaconv.teach.roofline_plot import figure_of

    only = replace(FOUND, points=tuple(point for point in FOUND.points if point.group == "lowering"))
    assert len(figure_of(only).axes) == 1


@pytest.mark.teach
def test_labels_are_moved_apart_and_stay_inside():
    pytest.importorskip("matplotlib")
    from numbaconv.teach.roofline_plot import spread

    assert spread([0.1, 0.5, 0.9], 0.05) == [0.1, 0.5, 0.9]
    assert spread([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    assert spread([0.1, 0.5, 0.52], 0.1) == pytest.approx([0.1, 0.46, 0.56])
    assert spread([0.97, 0.98, 0.99], 0.1) == pytest.approx([0.8, 0.9, 1.0])
    assert spread([], 0.1) == []


@pytest.mark.teach
def test_the_command_shows_and_writes_everything(small, tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ["--quick", "--size", "16", "--out", tmp_path / "a.png", "--json", tmp_path / "a.json", LAYER]
    result = CliRunner().invoke(numbaconv, ["teach", "roofline", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    for word in ("vectors", "memory", "ikj", "im2col", "written"):
        assert word in result.output
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n")
    found = json.loads((tmp_path / "a.json").read_text())["roofline"]
    assert [point["name"] for point in found["points"]][:3] == ["ijk", "ikj", "production"]
