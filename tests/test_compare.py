"""``numbaconv compare``: who is checked, timed, left out and drawn; and what ``explain`` says of products and waste."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

testing = pytest.importorskip("click.testing")
pytest.importorskip("rich")

import numbaconv as nc  # noqa: E402
from numbaconv import networks, registry  # noqa: E402
from numbaconv.bench import compare as comparing  # noqa: E402
from numbaconv.bench.comparison import Comparison, Measurement, distinct_convolutions, totals  # noqa: E402
from numbaconv.bench.plot_compare import Point, compare_plot, pareto  # noqa: E402
from numbaconv.commands import output  # noqa: E402
from numbaconv.commands.group import numbaconv  # noqa: E402
from numbaconv.explanation import Explanation, Row  # noqa: E402
from numbaconv.lowering import GemmCall  # noqa: E402
from numbaconv.lowerings.reference import Reference  # noqa: E402
from numbaconv.timing import Sample  # noqa: E402
from numbaconv.workspace import Arena, address_of, aligned  # noqa: E402

SMALL = "mb1ic4ih9oc8oh7kh3ph0"
ONE_PIXEL = "mb2ic4ih9oc8kh1"


class Wrong(nc.Lowering):
    """Right but for one element, from the run `at` on."""

    name, family, paper = "wrong", "test", "none"
    at, runs = 1, 0

    def run(self, ctx, x, prepared, out):
        Reference().run(ctx, x, prepared, out)
        type(self).runs += 1
        if type(self).runs >= self.at:
            out[0, -1, -1, -1] += 0.01


class WrongLater(Wrong):
    name, at = "wrong-later", 2


class WrongAtOnePixel(nc.Lowering):
    name, family, paper = "wrong-1x1", "test", "none"

    def run(self, ctx, x, prepared, out):
        Reference().run(ctx, x, prepared, out)
        if ctx.problem.kh == 1:
            out[0, 0, 0, 0] = np.nan


class Failing(nc.Lowering):
    name, family, paper = "failing", "test", "none"

    def run(self, ctx, x, prepared, out):
        ctx.take("more than declared", (1000,))


class Slow(nc.Lowering):
    """`reference`, with scratch that it declares and does not take."""

    name, family, paper = "slow", "test", "none"

    def lowering_bytes(self, problem, request):
        return 640

    def run(self, ctx, x, prepared, out):
        Reference().run(ctx, x, prepared, out)


def tiny(walk):
    walk.image(9, 4)
    walk.conv("a", 4, 3)
    walk.conv("b", 4, 3)
    walk.conv("c", 6, 1)
    walk.fc("d", 7)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What a test registers is forgotten after it; a network by the name of "tiny"."""
    nc.list_lowerings()
    monkeypatch.setattr(registry, "_classes", {
        name: cls for name, cls in registry._classes.items() if name in ("im2col", "conv1x1", "reference")
    })  # fmt: skip
    monkeypatch.setitem(networks.NETWORKS, "tiny", tiny)
    Wrong.runs = WrongLater.runs = 0


@pytest.fixture
def clocked(monkeypatch):
    """Times in ms that are known: of runs alone, and of the counted calls."""
    times = {"im2col": (4.0, 2.0, 3.0), "conv1x1": (1.25,), "slow": (60.0, 61.0), "reference": (5.0, 5.0),
             "wrong-later": (1.0, 1.0)}  # fmt: skip

    def burst(functions, *_, sleep, **__):
        for function in functions.values():
            sleep(0)
            function()
        return {spec: Sample(tuple(t / 1e3 for t in times[spec.partition(":")[0]]), 0.0) for spec in functions}

    alone = comparing._Ready._alone

    def known(self):
        alone(self)
        return min(times[self.handle.algorithm.partition(":")[0]]) / 1e3

    monkeypatch.setattr(comparing, "burst", burst)
    monkeypatch.setattr(comparing._Ready, "_alone", known)
    return times


def call(*arguments):
    return testing.CliRunner().invoke(numbaconv, ["compare", *map(str, arguments), "--num-threads", "1"])


def works(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def cells(printed, title):
    """The plain table whose first title is `title`: cells by the first of each row."""
    lines = printed.splitlines()
    start = next(number for number, line in enumerate(lines) if line.split()[:1] == [title])
    rows = [[part.strip() for part in line.split("  ") if part.strip()] for line in lines[start:]]
    end = rows.index([])
    return {row[0]: row[1:] for row in rows[:end] if not row[0].startswith("--")}


# ------------------------------------------------------------------------------------------------ who takes part


def test_a_run_from_tape_is_compiled_before_any_is_timed(monkeypatch):
    """A call is recorded; the next one, the first from tape, may compile for seconds."""
    runs, before = [], []

    class Counting(nc.Lowering):
        name, family, paper = "counting", "test", "none"

        def run(self, ctx, x, prepared, out):
            Reference().run(ctx, x, prepared, out)
            runs.append(self.name)

    nc.register(Counting)
    alone = comparing._Ready._alone
    monkeypatch.setattr(comparing._Ready, "_alone", lambda self: before.append(len(runs)) or alone(self))
    found = comparing.compare(nc.ConvProblem.parse(SMALL), ["counting"], 1, seconds=0.01)
    assert before == [2]
    assert [one.spec for one in found.timed] == ["counting"]


def test_where_all_are_wrong_nothing_is_timed():
    nc.register(Wrong)
    found = comparing.compare(nc.ConvProblem.parse(SMALL), ["wrong"], 1, seconds=0.01)
    assert set(found.wrong) == {"wrong"}
    assert found.timed == []


def test_patterns_name_lowerings():
    assert comparing.specs_of() == ["conv1x1", "im2col"]
    assert comparing.specs_of(["*", "reference"]) == ["conv1x1", "im2col", "reference"]
    assert comparing.specs_of(["ref*"]) == ["reference"]
    assert comparing.specs_of(["im2*:batching=whole", "im2col", "im*"]) == ["im2col:batching=whole", "im2col"]
    with pytest.raises(nc.UnknownLowering, match="did you mean 'im2col'"):
        comparing.specs_of(["im2cl"])
    with pytest.raises(nc.UnknownLowering, match=r"'kn2\*'; known: "):
        comparing.specs_of(["kn2*"])
    with pytest.raises(ValueError, match="no parameter 'batches'"):
        comparing.specs_of(["im2*:batches=2"])


def test_layers_that_are_one_problem_are_compared_once():
    found = distinct_convolutions("tiny", mb=3)
    assert list(found.values()) == [("a", "b"), ("c",)]
    assert [p.mb for p in found] == [3, 3]


# ------------------------------------------------------------------------------------------------------ measuring


def test_scratch_is_counted_by_worker_and_part():
    memory = aligned(4096)

    def part(start, *sizes):
        piece = memory[start:]
        arena = Arena(piece, address_of(piece))
        for number, size in enumerate(sizes):
            arena.take(str(number), size)

    with comparing.taken() as record:
        part(0, 100, 50)
        part(0, 30)  # the same worker's next part
        part(2048, 7)
    part(0, 1000)  # nobody watches
    assert sorted(record.values()) == [7, 150]


@pytest.mark.parametrize("text", [SMALL, ONE_PIXEL + "_nhwc", "g2" + SMALL + "_f64"])
def test_what_is_measured_is_what_the_plan_declares(text, clocked):
    found = comparing.compare(nc.ConvProblem.parse(text), ["im2col", "im2col:batching=block"], 1)
    assert not found.wrong
    for row in found.timed:
        handle = nc.plan(text, row.spec, num_threads=1)
        assert (row.lowering_bytes, row.panel_bytes) == (handle.lowering_bytes, handle.panel_bytes)
        assert row.taken_bytes == row.workspace_bytes == handle.workspace_bytes > 0
        assert row.prepared_bytes > 0
        assert set(row.stages) == {"lower", "multiply", "lift"}
        assert min(row.stages["lower"], row.stages["multiply"]) > 0
        assert 0 < row.error < 1e-5


def test_wrong_results_are_not_timed_and_refusals_kept(clocked):
    for cls in (Wrong, WrongLater, Failing, Slow):
        nc.register(cls)
    problem = nc.ConvProblem.parse(SMALL)
    ticks = []
    specs = [*comparing.specs_of(), "reference"]
    found = comparing.compare(problem, specs, 1, tick=lambda: ticks.append(1))
    assert set(found.wrong) == {"wrong", "wrong-later", "failing"}
    assert all(f"{spec} is wrong: error" in found.wrong[spec] for spec in ("wrong", "wrong-later"))
    assert WrongLater.runs > 1
    assert found.wrong["failing"].startswith("MemoryError: workspace: more than declared needs 4000 bytes")
    assert found.refused == {"conv1x1": "the kernel is 3x3, not 1x1"}
    assert [row.spec for row in found.timed] == ["im2col", "reference", "slow"]
    assert [row.median for row in found.timed] == [3e-3, 5e-3, 60e-3]
    assert [row.alone for row in found.timed] == [False, False, True]
    assert found.timed[0].min == 2e-3
    assert found.of("slow").workspace_bytes == 640
    assert found.of("slow").taken_bytes == 0
    assert found.of("conv1x1") is None
    assert found.auto == nc.explain(problem, num_threads=1).chosen
    assert 0 < len(ticks) <= comparing.steps(len(specs))
    limited = comparing.compare(problem, ["im2col"], 1, max_workspace=0)
    assert "max_workspace allows 0" in limited.refused["im2col"]
    assert not limited.timed


def test_an_unpatched_clock_times_everyone_in_turns():
    found = comparing.compare(nc.ConvProblem.parse(ONE_PIXEL), ["im2col", "conv1x1"], 1, seconds=0.1)
    assert {row.spec for row in found.timed} == {"im2col", "conv1x1"}
    for row in found.timed:
        assert 0 < row.min <= row.median
        assert row.min == min(row.times)
    assert [row.median for row in found.timed] == sorted(row.median for row in found.timed)


def test_totals():
    def one(spec, seconds, scratch):
        return Measurement(spec, (seconds,), {}, scratch, 1, 0, 0, 0.0)

    p = nc.ConvProblem.parse(SMALL)
    found = totals([
        Comparison(p, [one("a", 1.0, 10), one("b", 2.0, 20)], layers=("x", "y")),
        Comparison(p, [one("b", 3.0, 5), one("c", 9.0, 0), one("a", 9.0, 7)], layers=("z",)),
    ])  # fmt: skip
    assert list(found) == ["b", "a", "c"]
    assert (found["b"].layers, found["b"].seconds, found["b"].workspace_bytes) == (3, 7.0, 21)
    assert (found["c"].layers, found["c"].seconds, found["c"].workspace_bytes) == (1, 9.0, 1)


# --------------------------------------------------------------------------------------------------------- command


def test_one_problem(clocked, tmp_path):
    nc.register(Slow)
    printed = works(SMALL, "--mb", 3, "--json", tmp_path / "c.json")
    p = nc.ConvProblem.parse(SMALL.replace("mb1", "mb3"))
    chosen = nc.explain(p, num_threads=1).chosen
    assert printed.startswith(f"{p}, 1 thread, {p.macs / 1e6:.1f} M multiply-adds; auto takes {chosen}\n")
    rows = cells(printed, "lowering")
    assert list(rows) == ["lowering", "im2col", "slow"]
    handle = nc.plan(p, "im2col", num_threads=1)
    titles = rows["lowering"]
    shown = dict(zip(titles, rows["im2col"], strict=True))
    assert (shown["best ms"], shown["median ms"]) == ("2.000", "3.000")
    assert shown["GFLOP/s"] == f"{p.flops / 3e-3 / 1e9:.1f}"
    assert shown["lowered"] == output.size(handle.lowering_bytes)
    assert shown["panels"] == output.size(handle.panel_bytes)
    assert shown["taken"] == output.size(handle.workspace_bytes)
    assert rows["slow"][1] == "60.000~"
    assert "one run alone" in printed
    assert "slow took 0 of the 640 bytes it declares" in printed
    assert printed.index("refused\n  conv1x1: the kernel is 3x3") > printed.index("slow took")
    written = json.loads((tmp_path / "c.json").read_text())
    first, second = written["rows"]
    assert (first["lowering"], first["fastest"], first["one_run"]) == ("im2col", True, False)
    assert (second["lowering"], second["fastest"], second["one_run"]) == ("slow", False, True)
    assert first["times_ms"] == [4.0, 2.0, 3.0]
    assert first["taken_bytes"] == first["workspace_bytes"] == handle.workspace_bytes
    assert first["gflops"] == pytest.approx(p.flops / 3e-3 / 1e9)
    (about,) = written["problems"]
    assert about["refused"] == {"conv1x1": "the kernel is 3x3, not 1x1"}
    assert about["auto"] == chosen
    assert {"machine", "versions", "date"} <= written["context"].keys()
    assert written["context"]["threads"] == 1
    assert written["run"]["lowerings"] == ["conv1x1", "im2col", "slow"]


def test_a_wrong_result_is_shown_and_ends_with_1(clocked, tmp_path):
    nc.register(Wrong)
    result = call(SMALL, "--json", tmp_path / "c.json")
    assert result.exit_code == 1
    assert cells(result.output, "lowering")["wrong"][0] == "WRONG"
    assert "WRONG, and not timed\n  wrong: wrong is wrong: error" in result.output
    assert "Error: wrong results, not timed: wrong" in result.output
    written = json.loads((tmp_path / "c.json").read_text())
    assert [row["lowering"] for row in written["rows"]] == ["im2col"]
    assert "wrong" in written["problems"][0]["wrong"]


def test_a_network(clocked, tmp_path, monkeypatch):
    nc.register(Slow)
    printed = works("Tiny", "--mb", 2, "--json", tmp_path / "c.json")
    assert printed.startswith("tiny, mb 2, 1 thread: median ms of every distinct convolution\n")
    assert cells(printed, "layer") == {
        "layer": ["times", "best ms", "im2col", "slow", "conv1x1"],
        "a": ["2", "3.000", "3.000*", "60.000~", "-"],
        "c": ["1", "1.250", "3.000", "60.000~", "1.250*"],
        "all 3 layers": ["7.250", "9.000", "180.000", "-"],
        "layers run": ["3", "3", "1"],
    }
    assert "The best of each layer: 7.250 ms. What auto takes: " in printed
    assert "conv1x1 (2 layers): the kernel is 3x3, not 1x1" in printed
    written = json.loads((tmp_path / "c.json").read_text())
    assert [(row["lowering"], row["layers"]) for row in written["rows"]] == [
        ("im2col", ["a", "b"]), ("slow", ["a", "b"]), ("conv1x1", ["c"]), ("im2col", ["c"]), ("slow", ["c"]),
    ]  # fmt: skip
    assert written["totals"]["conv1x1"]["layers"] == 1
    assert written["totals"]["im2col"]["median_ms"] == pytest.approx(9)
    assert [one["count"] for one in written["problems"]] == [2, 1]
    monkeypatch.setattr("numbaconv.commands.compare.PLAIN_COLUMNS", 30)
    folded = works("tiny")
    assert folded.count("\nlayer ") == 3
    assert max(len(line) for line in folded.splitlines() if "all 3 layers" in line) < 50


def test_a_network_with_a_wrong_lowering(clocked):
    nc.register(WrongAtOnePixel)
    clocked["wrong-1x1"] = (1.0,)
    result = call("tiny", "--algorithm", "wrong*", "--algorithm", "im2col")
    assert result.exit_code == 1
    assert cells(result.output, "layer") == {
        "layer": ["times", "best ms", "im2col", "wrong-1x1"],
        "a": ["2", "1.000", "3.000", "1.000*"],
        "c": ["1", "3.000", "3.000*", "WRONG"],
        "all 3 layers": ["5.000", "9.000", "-"],
        "layers run": ["3", "2"],
    }
    assert "\n  wrong-1x1 (c): wrong-1x1 is wrong: error nan" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Missing argument 'DESCRIPTOR|NETWORK'"),
        ("tinny", "did you mean 'tiny'"),
        ("ic4", "lacks oc"),
        ("mb0ic4ih9oc8kh3", "has no multiply-adds"),
        (f"{SMALL}_bwd_d", "only forward"),
        (f"{SMALL} --algorithm kn2x*", "unknown lowering 'kn2x*'"),
        (f"{SMALL} --algorithm auto", "unknown lowering 'auto'"),
        (f"{SMALL} --algorithm im2col:batching=some", "batching must be one of"),
        (f"{SMALL} --algorithm conv1x1", "the kernel is 3x3, not 1x1"),
        (f"{SMALL} --max-workspace 0", "max_workspace allows 0"),
        (f"{SMALL} --max-workspace -1", "'--max-workspace': -1"),
        (f"{SMALL} --seconds 0", "'--seconds'"),
        (f"{SMALL} --mb 0", "'--mb': 0"),
        (f"{SMALL} --plot picture.doc", "ends with .png, .svg or .pdf"),
        (f"{SMALL} --json no/such/place.json", "there is no directory"),
        ("tiny --mb 1000000000", "choose fewer images"),
    ],
)
def test_wrong_input_gets_a_message_and_exit_code_2(arguments, message):
    result = call(*arguments.split())
    assert message in result.output
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)


def test_a_picture_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = call(SMALL, "--plot", "picture.png")
    assert result.exit_code == 2
    assert "pip install 'numbaconv[plot]'" in result.output


# --------------------------------------------------------------------------------------------------------- picture


def test_the_pareto_front():
    a, b, c, d, e = (
        Point("a", 0, 9.0), Point("b", 10, 5.0), Point("c", 10, 4.0), Point("d", 20, 4.0), Point("e", 30, 1.0)
    )  # fmt: skip
    assert pareto([e, d, c, b, a]) == [a, c, e]
    assert pareto([b]) == [b]


@pytest.mark.teach
@pytest.mark.parametrize("seconds", [(1e-3, 2e-3), (1e-3, 0.1)])
def test_a_picture_has_every_name_and_no_scratch_at_its_edge(monkeypatch, tmp_path, seconds):
    figures = pytest.importorskip("matplotlib.figure")
    kept = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda self, path, **_: kept.append(self))
    points = [Point("none", 0, seconds[1]), Point("im2col", 1 << 20, seconds[0]), Point("im2row", 1 << 20, seconds[1])]
    compare_plot(tmp_path / "p.png", "title", points)
    (axes,) = kept[0].axes
    assert {text.get_text() for text in axes.texts} == {"none", "im2col", "im2row"}
    assert axes.get_xscale() == "log"
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    places = sorted(float(line.get_xdata()[0]) for line in marks)
    assert places[0] == axes.get_xlim()[0] < places[1]
    assert axes.xaxis.get_major_formatter()(places[0]) == "0"
    assert [line.get_color() for line in marks].count("#2166ac") == 2  # the front


@pytest.mark.teach
def test_pictures_are_written(clocked, tmp_path):
    pytest.importorskip("matplotlib")
    assert "drawn: " in works(SMALL, "--plot", tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert "drawn: " in works("tiny", "--plot", tmp_path / "network.svg")
    assert "<svg" in (tmp_path / "network.svg").read_text()
    assert "no lowering runs every layer" in works(
        "tiny", "--algorithm", "conv1x1", "--plot", tmp_path / "n.png"
    )  # fmt: skip
    assert not (tmp_path / "n.png").exists()


# --------------------------------------------------------------------------------------------------------- explain


class Wasteful(nc.Lowering):
    """Five kinds of products, half as many multiply-adds again as the direct method has."""

    name, family, paper = "wasteful", "test", "none"

    def gemm_calls(self, problem, request):
        rest = 3 * problem.macs // 2 - 4 * (1 + 2 + 3 + 4)
        return [GemmCall(2, 2, n, 1) for n in (1, 2, 3, 4)] + [GemmCall(1, 1, rest, 1)]

    def run(self, ctx, x, prepared, out):
        raise AssertionError


def test_explain_counts_waste_bytes_and_products():
    nc.register(Wasteful)
    told = nc.explain(SMALL, num_threads=1)
    rows = {row.name: row for row in told.rows}
    assert rows["wasteful"].waste == pytest.approx(0.5)
    assert rows["wasteful"].macs == 3 * told.problem.macs // 2
    assert rows["im2col"].waste == 0
    assert rows["conv1x1"].waste == rows["conv1x1"].bytes_moved == 0
    least = told.problem.input_bytes + told.problem.weight_bytes + told.problem.output_bytes
    assert rows["im2col"].bytes_moved > rows["reference"].bytes_moved >= least
    assert rows["wasteful"].products == "1 of 2 x 1 x 2, 1 of 2 x 2 x 2, 1 of 2 x 3 x 2, ... 2 more"
    assert rows["im2col"].products == "1 of 8 x 36 x 49"
    assert rows["reference"].products == "none"
    line = next(line for line in str(told).splitlines() if line.startswith("wasteful"))
    assert " 50.0% " in line
    parted = next(row for row in nc.explain("mb4" + SMALL[3:], num_threads=1).rows if row.name == "im2col")
    assert parted.products == "4 of 8 x 36 x 49"  # an image each, as it is run


def test_an_explanation_is_as_wide_as_a_page():
    calls = tuple(GemmCall(512, 100352 + n, 4608, 16) for n in range(9))
    p = nc.ConvProblem.parse(SMALL)
    rows = (
        Row("winograd", True, "", 10**9, 10**8, 10**11, 1.5, calls, 10**10, -0.55),
        Row("refusing", False, "it is " + "very " * 50 + "shy", 0, 0, 0, np.inf),
    )
    lines = str(Explanation(p, nc.Request(), "none", rows)).splitlines()
    assert max(map(len, lines)) <= 120
    assert "-55.0%" in lines[2]
    text = " ".join(" ".join(lines).split())
    assert "16 of 512 x 4608 x 100352, 16 of 512 x 4608 x 100353, 16 of 512 x 4608 x 100354, ... 6 more" in text
    assert "very shy" in text
    for end in ("100352", "100353", "100354"):
        assert any(f"16 of 512 x 4608 x {end}, " in line + " " for line in lines)
