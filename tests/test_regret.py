"""bench.regret: what the cost model's choices cost, with made-up times."""

from __future__ import annotations

import json
import math

import pytest

from numbaconv.bench import contender, ours, regret, suites
from numbaconv.bench.contender import Contender
from numbaconv.bench.regret import Layer, Timed
from numbaconv.measured import plausible
from numbaconv.problem import ConvProblem
from numbaconv.request import Epilogue, Request
from numbaconv.select import candidates, choose
from numbaconv.timing import Sample

PROBLEM = ConvProblem(1, 16, 8, 8, 16, 3, 3, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
REQUEST = Request(epilogue=Epilogue(bias=True))


def layer(count, chosen, seconds, threads=1):
    """A layer whose lowerings were all predicted to take a second."""
    timed = [Timed(spec, spec[:1], 1.0, spent) for spec, spent in seconds.items()]
    return Layer(PROBLEM, threads, count, chosen, timed)


LAYERS = [
    layer(3, "b1", {"a": 1.0, "b1": 4.0, "b2": 2.0}),
    layer(1, "a", {"a": 2.0, "b2": 8.0}),
    layer(1, "a", {"a": 5.0, "b2": 5.0}, threads=2),
]


def test_regret_is_against_the_fastest():
    assert [one.regret for one in LAYERS] == [4.0, 1.0, 1.0]
    wrong = layer(1, "z", {"a": 1.0})
    assert math.isnan(wrong.regret)
    assert regret.summaries([wrong]) == []


def test_summaries():
    one, two = regret.summaries(LAYERS)
    assert (one["num_threads"], one["rows"], one["right"]) == (1, 2, 1)
    assert one["geometric_mean"] == pytest.approx(2.0)
    assert one["worst"] == 4.0
    assert (one["chosen_s"], one["best_s"]) == (3 * 4.0 + 2.0, 3 * 1.0 + 2.0)  # a layer counts as often as it occurs
    assert (two["num_threads"], two["in_all"]) == (2, 1.0)


def test_calibrations():
    found = {(one.spec, one.num_threads): one for one in regret.calibrations(LAYERS)}
    assert list(found) == [("a", 1), ("all", 1), ("b1", 1), ("b2", 1), ("a", 2), ("b2", 2)]
    assert found["a", 1].won == 2
    assert found["b2", 1].ratio == pytest.approx(4.0)
    assert (found["b2", 1].least, found["b2", 1].most) == (2.0, 8.0)
    assert found["b2", 1].spread == pytest.approx(2.0)
    assert (found["all", 1].layers, found["all", 1].family) == (2, "b")
    assert found["all", 1].ratio == pytest.approx(4.0)


@pytest.fixture
def made_up(monkeypatch):
    """Every lowering computes the right thing and takes twice as long as the one before it; one is wrong."""

    def conv(problem, x, w, bias, num_threads, algorithm, accuracy):
        value = contender.conv_reference(problem, x, w, bias).value
        return Contender(algorithm, lambda: None, lambda: value + (algorithm == "direct"))

    def burst(calls, rounds, **options):
        assert rounds == 2
        return {name: Sample((2.0**number,), 9.0) for number, name in enumerate(reversed(calls))}

    monkeypatch.setattr(ours, "conv", conv)
    monkeypatch.setattr(suites, "burst", burst)


def test_measure_times_what_may_be_the_fastest(made_up):
    found = regret.measure(PROBLEM, 1, count=2, factor=3.0, rounds=2)
    worth = plausible(PROBLEM, REQUEST, 3.0)
    assert [one.spec for one in found.timed] == [
        answer.lowering.spec for answer in worth if answer.lowering.name != "direct"
    ]
    assert list(found.wrong) == ["numbaconv direct"]
    assert found.chosen == found.timed[0].spec == choose(PROBLEM, REQUEST).spec
    assert found.best is found.timed[-1]
    assert found.regret == 2.0 ** (len(found.timed) - 1)
    assert [one.predicted for one in found.timed] == sorted(one.predicted for one in found.timed)
    assert "WRONG: direct is wrong" in regret.line(found, 10)
    written = json.loads(json.dumps(regret.as_json([found], ["x 1"])))
    assert written["rows"][0]["regret"] == found.regret
    assert written["calibration"]


def test_plausible_is_what_is_allowed_and_predicted_close():
    best, *others = worth = plausible(PROBLEM, REQUEST, 3.0)
    assert all(best.seconds <= one.seconds <= 3.0 * best.seconds for one in others)
    assert len(plausible(PROBLEM, REQUEST, 3.0, most=2)) == 2
    assert "reference" not in {one.lowering.name for one in plausible(PROBLEM, REQUEST, 1e9)}
    hungry = max(worth, key=lambda one: one.workspace_bytes)
    limited = Request(max_workspace=hungry.workspace_bytes - 1, epilogue=REQUEST.epilogue)
    left = plausible(PROBLEM, limited, 1e9)
    assert all(one.workspace_bytes < hungry.workspace_bytes for one in left)
    assert {one.lowering.name for one in left} < {one.lowering.name for one in candidates(PROBLEM, REQUEST)}
