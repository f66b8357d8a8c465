"""``algorithm="measure"``: who is timed, who wins, what is remembered; by made-up clocks, and once by the real one."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from dataclasses import replace

import oracles
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import numbaconv as nc
from numbaconv import find_database, measured, registry
from numbaconv.find_database import Entry
from numbaconv.lowerings._template import Template
from numbaconv.request import Epilogue, Request
from numbaconv.timing import Sample

PROBLEM = nc.ConvProblem.parse("mb1ic8ih9oc16kh3ph1")
REQUEST = Request()


def fresh():
    find_database.database.cache_clear()
    measured.fastest.cache_clear()
    measured._reset()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A find-database of the test's own; returns its file."""
    monkeypatch.setattr(find_database, "cache_directory", lambda: tmp_path)
    monkeypatch.setattr(measured, "QUIET", 0.0)
    monkeypatch.setattr(measured.plausible, "__defaults__", (1e9, measured.MOST))  # whatever the model predicts
    fresh()
    yield tmp_path / find_database.NAME
    fresh()


@pytest.fixture
def clock(monkeypatch):
    """Made-up times: the i-th plausible lowering takes `times[i]` alone, and the reciprocal in turns; none runs."""
    seen = {"alone": [], "turns": []}
    times = [3.0, 5.0, 4.0, 9.0, 9.0, 9.0]

    def alone(call, timer):
        seen["alone"].append(timer)
        return [times[len(seen["alone"]) - 1]]

    def burst(functions, rounds, **options):
        seen["turns"].append(list(functions))
        return {spec: Sample((1 / (1 + number),), 9.0) for number, spec in enumerate(functions)}

    monkeypatch.setattr(measured, "SECONDS", 100.0)
    monkeypatch.setattr(measured, "_alone", alone)
    monkeypatch.setattr(measured, "burst", burst)
    monkeypatch.setattr(measured, "_arrays", lambda *_: lambda spec: lambda: None)
    return seen


def specs(problem=PROBLEM, request=REQUEST):
    return [answer.lowering.spec for answer in measured.plausible(problem, request)]


def refuses_to_time(monkeypatch):
    monkeypatch.setattr(measured, "_measured", lambda *_: pytest.fail("it was timed again"))


# ------------------------------------------------------------------------------------------------------ who wins


def test_those_near_the_best_take_turns_and_the_turns_decide(clock):
    found = measured.measure(PROBLEM, REQUEST)
    names = specs()
    assert len(names) == measured.MOST
    assert clock["turns"] == [[names[0], names[2]]]  # 5 is more than 1.5 times 3
    assert found.chosen == names[2]
    assert found.times == {names[0]: 1.0, names[2]: 0.5, names[1]: 5.0} | dict.fromkeys(names[3:], 9.0)


def test_a_run_from_tape_is_compiled_before_any_is_timed(clock, monkeypatch):
    """A call is recorded; the next one, the first from tape, may compile for seconds."""
    calls = []
    monkeypatch.setattr(measured, "_arrays", lambda *_: lambda spec: lambda: calls.append(spec))
    measured.measure(PROBLEM, REQUEST)
    assert calls == [name for name in specs() for _ in range(2)]


def test_time_that_is_up(clock, monkeypatch):
    monkeypatch.setattr(measured, "SECONDS", 7.5)
    found = measured.measure(PROBLEM, REQUEST)
    names = specs()
    assert clock["turns"] == []
    assert found.chosen == names[0]
    assert found.times == {names[0]: 3.0, names[1]: 5.0} | dict.fromkeys(names[2:])


def test_large_weights_are_not_kept_for_turns(clock, monkeypatch):
    monkeypatch.setattr(measured, "MOST_BYTES", PROBLEM.weight_bytes)
    assert measured.measure(PROBLEM, REQUEST).chosen == specs()[0]
    assert clock["turns"] == []


def test_who_fails_is_left_out(clock, monkeypatch):
    first, *others = specs()

    def call_of(spec):
        if spec == first:
            raise MemoryError("too little")
        return lambda: None

    monkeypatch.setattr(measured, "_arrays", lambda *_: call_of)
    with pytest.warns(RuntimeWarning, match=rf"leaves {first} out .* \(MemoryError: too little\)"):
        found = measured.measure(PROBLEM, REQUEST)
    assert found.times[first] is None
    assert found.chosen in others


@pytest.mark.filterwarnings("ignore:numbaconv. measure leaves")
def test_all_failing_is_an_error(monkeypatch):
    monkeypatch.setattr(measured, "_arrays", lambda *_: None)
    with pytest.raises(RuntimeError, match="every lowering failed"):
        measured.measure(PROBLEM, REQUEST)


def test_a_single_candidate_is_taken_without_timing(monkeypatch):
    refuses_to_time(monkeypatch)
    monkeypatch.setattr(measured.plausible, "__defaults__", (measured.FACTOR, 1))
    assert nc.plan(PROBLEM, "measure").algorithm == nc.plan(PROBLEM).algorithm
    assert nc.plan(replace(PROBLEM, mb=0), "measure").algorithm


def test_refusals_are_those_of_auto():
    with pytest.raises(nc.UnsupportedProblem, match="direction"):
        nc.plan(replace(PROBLEM, direction="backward-data"), "measure")


# -------------------------------------------------------------------------------------------- what is remembered


def test_the_winner_is_remembered(clock, monkeypatch, cache):
    winner = nc.plan(PROBLEM, "measure", num_threads=1).algorithm
    assert winner == specs()[2] != nc.plan(PROBLEM, num_threads=1).algorithm
    (line,) = cache.read_text().splitlines()
    kept = json.loads(line)
    assert kept["chosen"] == winner
    assert kept["key"]["problem"] == str(PROBLEM)
    assert kept["key"]["request"]["num_threads"] == 1
    assert kept["key"]["machine"]["cores"] >= 1
    assert set(kept["key"]["versions"]) == {"source", "numba", "llvmlite", "numpy"}
    fresh()  # as another process
    refuses_to_time(monkeypatch)
    assert nc.plan(replace(PROBLEM, name="by another name"), "measure", num_threads=1).algorithm == winner


@pytest.mark.parametrize(
    "change",
    [
        lambda monkeypatch: (PROBLEM, replace(REQUEST, num_threads=2)),
        lambda monkeypatch: (PROBLEM, replace(REQUEST, epilogue=Epilogue(bias=True))),
        lambda monkeypatch: (replace(PROBLEM, layout="nhwc"), REQUEST),
        lambda monkeypatch: (replace(PROBLEM, dtype="float64"), REQUEST),
        lambda monkeypatch: monkeypatch.setattr(measured, "source_key", lambda: "another") or (PROBLEM, REQUEST),
        lambda monkeypatch: monkeypatch.setattr(measured, "_machine", lambda: {"cores": 99}) or (PROBLEM, REQUEST),
    ],
)
def test_what_times_depend_on_is_in_the_key(monkeypatch, change):
    timed = []

    def times(problem, request, names, orders):
        timed.append(problem)
        return Entry(names[0], dict.fromkeys(names, 1.0))

    monkeypatch.setattr(measured, "_measured", times)
    measured.measure(PROBLEM, REQUEST)
    measured.measure(PROBLEM, REQUEST)
    assert len(timed) == 1
    measured.measure(*change(monkeypatch))
    assert len(timed) == 2


def test_memory_orders_are_in_the_key(clock, cache):
    measured.measure(PROBLEM, REQUEST)
    clock["alone"].clear()
    measured.measure(PROBLEM, REQUEST, orders=("nhwc", "nchw"))
    assert [json.loads(line)["key"].get("orders") for line in cache.read_text().splitlines()] == [
        None, ["nhwc", "nchw"]
    ]  # fmt: skip


def test_a_users_lowering_is_kept_in_memory_only(clock, cache, monkeypatch):
    before = measured.measure(PROBLEM, REQUEST)
    written = cache.read_text()
    clock["alone"].clear()
    kept = dict(registry._classes)
    try:
        nc.register(type("Mine", (Template,), {
            "name": "mine", "share_of_peak": lambda *_: 1e6, "gemm_calls": lambda *_: [], "__module__": __name__,
        }))  # fmt: skip
        assert "mine" in specs()
        found = measured.measure(PROBLEM, REQUEST)
        refuses_to_time(monkeypatch)
        assert measured.measure(PROBLEM, REQUEST) == found
    finally:
        registry._classes.clear()
        registry._classes.update(kept)
    assert "mine" in found.times
    assert "mine" not in before.times
    assert cache.read_text() == written


def test_one_measurement_at_a_time(monkeypatch):
    problems = [replace(PROBLEM, mb=1 + number % 3) for number in range(9)]
    running, together, timed = [], [], []

    def times(problem, request, names, orders):
        running.append(problem)
        together.append(len(running))
        time.sleep(0.02)
        running.pop()
        timed.append(problem)
        return Entry(names[0], dict.fromkeys(names, 1.0))

    monkeypatch.setattr(measured, "_measured", times)
    threads = [threading.Thread(target=measured.fastest, args=(problem, REQUEST)) for problem in problems]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(together) == {1}
    assert sorted(problem.mb for problem in timed) == [1, 2, 3]


# ------------------------------------------------------------------------------------------- the public names


def test_it_computes(rng, monkeypatch):
    """The real clock: whoever wins, results are right, everywhere the word is taken."""
    monkeypatch.setattr(measured, "SECONDS", 0.05)
    x, w, bias = (rng.integers(-3, 4, shape).astype("f4") for shape in ((1, 8, 9, 9), (16, 8, 3, 3), (16,)))
    wanted = oracles.conv2d(x, w, bias, (1, 1), (1, 1, 1, 1), activation="relu")
    terms = {"padding": 1, "activation": "relu", "algorithm": "measure"}
    near = {"rtol": 0, "atol": 1e-4}  # Winograd's transforms round, where one wins
    assert_allclose(nc.conv2d(x, w, bias, **terms), wanted, **near)
    layer = nc.Conv2d.from_arrays(w, bias, **terms)
    assert_allclose(layer(x), wanted, **near)
    entry = measured.known(PROBLEM, Request(num_threads=measured.detect().cores))
    assert entry.times[layer.algorithm] == min(filter(None, entry.times.values()))
    assert 0 < min(filter(None, entry.times.values())) < 1
    handle = nc.plan(PROBLEM, "measure", bias=True, activation="relu").prepare(w, bias)
    assert handle.algorithm == layer.algorithm
    assert_allclose(handle(x), wanted, **near)


def test_explain_shows_what_was_measured(clock):
    assert "measured" not in str(nc.explain(PROBLEM, num_threads=1))
    nc.plan(PROBLEM, "measure", num_threads=1, bias=True)
    explanation = nc.explain(PROBLEM, num_threads=1)
    rows = {row.name: row for row in explanation.rows}
    names = specs()
    assert [rows[name].measured for name in names] == [1.0, 5.0, 0.5, 9.0, 9.0, 9.0]
    assert rows["reference"].measured is None
    assert f"* measured, not predicted; measure: {names[2]}" in str(explanation)
    assert " 500.00 ms*" in str(explanation)


@pytest.mark.skipif(importlib.util.find_spec("click") is None, reason="the command line needs click")
def test_the_commands_take_it(clock):
    from click.testing import CliRunner

    from numbaconv.commands.group import numbaconv

    result = CliRunner().invoke(
        numbaconv, ["conv", str(PROBLEM), "--algorithm", "measure", "--num-threads", "1", "--iterations", "1", "-v"]
    )
    assert result.exit_code == 0, result.output
    assert f"{specs()[2]} 500.00 ms measured" in result.output


@pytest.mark.parametrize("device", ["cuda", "cpu+cuda"])
def test_devices(rng, monkeypatch, device):
    pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets")
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    monkeypatch.setattr(measured.plausible, "__defaults__", (measured.FACTOR, 2))
    monkeypatch.setattr(measured, "SECONDS", 0.01)
    x, w = (rng.integers(-3, 4, shape).astype("f4") for shape in ((2, 3, 5, 5), (4, 3, 3, 3)))
    problem = nc.ConvProblem.from_arrays(x, w, padding=1)
    handle = nc.plan(problem, "measure", device, num_threads=1).prepare(w)
    assert_array_equal(handle(x), oracles.conv2d(x, w, None, (1, 1), (1, 1, 1, 1)))
    if device == "cuda":
        entry = measured.known(problem, Request("cuda"))
        assert handle.algorithm == entry.chosen
        assert len(entry.times) == 2
