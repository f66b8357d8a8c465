"""bench: references, the contest, reports and the script, with made-up contenders; then with the real peers."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from numbaconv.bench import contender, ours, overhead, report, suites
from numbaconv.bench.contender import Contender, WrongResult
from numbaconv.bench.conv_peers import CONV_PEERS
from numbaconv.bench.peers import GEMM_PEERS, Peer, UnknownPeer, choose
from numbaconv.bench.report import Row
from numbaconv.errors import UnsupportedProblem
from numbaconv.problem import ConvProblem
from numbaconv.timing import Sample

PROBLEMS = [
    ConvProblem(2, 3, 7, 6, 4, 3, 2, name="plain"),
    ConvProblem(1, 4, 8, 9, 6, 3, 3, sh=2, sw=1, pad_top=1, pad_left=2, pad_bottom=1, pad_right=2, g=2, name="strided"),
    ConvProblem(1, 16, 9, 9, 16, 3, 3, pad_top=2, pad_left=2, pad_bottom=2, pad_right=2, dh=2, dw=2, name="dilated"),
    ConvProblem(1, 16, 6, 6, 16, 3, 3, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1, g=16, name="depthwise"),
    ConvProblem(1, 3, 6, 6, 2, 3, 3, pad_bottom=1, pad_right=2, name="lopsided"),
]


def data(problem, dtype="float32"):
    return [
        contender.normal(shape, dtype, seed)
        for seed, shape in enumerate([problem.input_shape, problem.weight_shape, (problem.oc,)])
    ]


def convolved(problem, x, w, bias):
    """The definition, element by element."""
    p = problem
    out = np.zeros(p.output_shape)
    for n, o, i, j in product(*map(range, p.output_shape)):
        total = float(bias[o])
        for c, r, s in product(range(p.icg), range(p.kh), range(p.kw)):
            y, z = i * p.sh + r * p.dh - p.pad_top, j * p.sw + s * p.dw - p.pad_left
            if 0 <= y < p.ih and 0 <= z < p.iw:
                total += float(x[n, o // p.ocg * p.icg + c, y, z]) * float(w[o, c, r, s])
        out[n, o, i, j] = total
    return out


# ---------------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_conv_reference_is_the_definition(problem):
    arrays = data(problem)
    value = contender.conv_reference(problem, *arrays).value
    np.testing.assert_allclose(value, convolved(problem, *arrays), rtol=1e-12, atol=1e-12)


def answer(value):
    return Contender("made-up", lambda: None, lambda: value)


def test_gemm_reference_accepts_what_rounding_explains_and_no_more():
    a, b = contender.normal((5, 300), "float32", 0), contender.normal((300, 4), "float32", 1)
    reference = contender.gemm_reference(a, b)
    right = a @ b
    assert reference.check(answer(right)) < 1
    wrong = right.copy()
    wrong[4, 3] += 1e-2 * np.abs(right).max()
    with pytest.raises(WrongResult, match="made-up is wrong: error"):
        reference.check(answer(wrong))


def test_reference_refuses_nan_and_other_shapes():
    a, b = contender.normal((2, 3), "float64", 0), contender.normal((3, 4), "float64", 1)
    reference = contender.gemm_reference(a, b)
    spoilt = a @ b
    spoilt[0, 0] = np.nan
    with pytest.raises(WrongResult, match="error nan"):
        reference.check(answer(spoilt))
    with pytest.raises(WrongResult, match=r"returned shape \(4, 2\), expected \(2, 4\)"):
        reference.check(answer((a @ b).T))


def test_conv_reference_limit_follows_the_dtype():
    problem = PROBLEMS[0]
    loose, tight = (contender.conv_reference(problem, *data(problem, dtype)) for dtype in ("float32", "float64"))
    loose.check(answer(loose.value * (1 + 1e-5)))
    with pytest.raises(WrongResult):
        loose.check(answer(loose.value * (1 + 1e-3)))
    tight.check(answer(tight.value * (1 + 1e-14)))
    with pytest.raises(WrongResult):
        tight.check(answer(tight.value * (1 + 1e-11)))


# ----------------------------------------------------------------------------------------------------- the contest


class MadeUp(Peer):
    """A peer whose result is off by `error`, or that refuses."""

    modules = ("json",)
    stages = {"lower": [1.0, 3.0, 2.0]}  # noqa: RUF012 - nobody writes to it

    def __init__(self, name, error=0.0, refusal=""):
        self.name, self.error, self.refusal = name, error, refusal
        self.threads = None

    def version(self):
        return self.name

    def gemm(self, a, b, num_threads):
        self.threads = num_threads
        return Contender(self.name, lambda: self.name, lambda: a @ b + self.error)

    def conv(self, problem, x, w, bias, num_threads):
        if self.refusal:
            raise UnsupportedProblem(self.refusal)
        self.threads = num_threads
        value = contender.conv_reference(problem, x, w, bias).value
        return Contender(self.name, lambda: self.name, lambda: value + self.error, self.stages)


@pytest.fixture
def timed(monkeypatch):
    """No time passes: every contender takes a second; the calls that were to be timed are kept."""
    seen = {}

    def burst(calls, rounds, pause, budget_s):
        seen.update(calls=calls, rounds=rounds, pause=pause, budget=budget_s)
        return {name: Sample((1.0, 2.0, 3.0), 9.0) for name in calls}

    monkeypatch.setattr(suites, "burst", burst)
    return seen


def test_gemm_row(timed, monkeypatch):
    monkeypatch.setattr(ours, "gemm", lambda a, b, threads, packed: Contender("x", lambda: packed, lambda: a @ b))
    right, wrong = MadeUp("right"), MadeUp("wrong", error=1.0)
    row = suites.gemm_row((4, 8, 2), [right, wrong], 3, [False, True], rounds=7, seconds=5.0, statistic="min")
    assert (row.label, row.num_threads, row.flops, row.bytes) == ("4 8 2", 3, 128, 4 * (32 + 16 + 8))
    assert list(row.samples) == [ours.NAME, ours.PREPACKED, "right"]
    assert [timed["calls"][name]() for name in row.samples] == [False, True, "right"]
    assert (timed["rounds"], timed["budget"]) == (7, 5.0)
    assert right.threads == wrong.threads == 3
    assert list(row.wrong) == ["wrong"]
    assert row.seconds("right") == 1.0
    assert math.isnan(row.ratio("wrong"))


def test_conv_row(timed, monkeypatch):
    def conv(problem, x, w, bias, num_threads, algorithm, accuracy):
        return MadeUp(f"{algorithm} {accuracy}").conv(problem, x, w, bias, num_threads)

    monkeypatch.setattr(ours, "conv", conv)
    peers = [MadeUp("right"), MadeUp("wrong", error=np.nan), MadeUp("absent", refusal="does not pad")]
    row = suites.conv_row(PROBLEMS[0], peers, 1, ["auto", "im2col"], ["float32", "strict"], count=4)
    assert row.label == str(PROBLEMS[0])
    assert (row.flops, row.count) == (PROBLEMS[0].flops, 4)
    assert list(row.samples) == [
        "numbaconv",
        "numbaconv strict",
        "numbaconv im2col",
        "numbaconv im2col strict",
        "right",
    ]
    assert row.absent == {"absent": "does not pad"}
    assert timed["pause"] == suites.PAUSE
    suites.conv_row(PROBLEMS[0], [], 1)
    assert timed["pause"] == suites.OWN_PAUSE  # nobody else's threads to wait for
    assert row.stages["right"] == {"lower": 2.0}
    assert list(row.wrong) == ["wrong"]


def test_conv_problems_are_counted_once():
    problems = suites.conv_problems(["resnet18"], mb=2, layout="nhwc")
    assert sum(count for _, count in problems) == 20
    assert len(set(problems)) == len(problems) == 11
    assert {(problem.mb, problem.layout) for problem, _ in problems} == {(2, "nhwc")}


# ---------------------------------------------------------------------------------------------------------- report


def rows():
    def sample(median):
        return Sample((0.5 * median, median, 4 * median), 9.0)

    first = Row("first", 2, 8_000_000_000, 10, samples={"slow": sample(4.0), "fast": sample(2.0)})
    second = Row("second", 2, 1_000_000_000, 10, samples={"slow": sample(1.0), "fast": sample(4.0)})
    for row, median in ((first, 1.0), (second, 2.0)):
        row.samples["numbaconv"] = sample(median)
    alone = Row("alone", 1, 1_000_000_000, 10, samples={"numbaconv": sample(1.0)}, wrong={"fast": "fast is wrong"})
    return [first, second, alone]


def test_ratios_are_against_the_best_peer_of_the_row():
    first, second, alone = rows()
    assert first.gflops("numbaconv") == 8.0
    assert first.gflops("numbaconv", "min") == 16.0
    assert (first.ratio("numbaconv"), second.ratio("numbaconv")) == (2.0, 0.5)
    assert (first.ratio("numbaconv", "slow"), second.ratio("numbaconv", "fast")) == (4.0, 2.0)
    assert math.isnan(alone.ratio("numbaconv"))
    assert math.isnan(first.ratio("nobody"))
    assert math.isnan(first.gflops("nobody"))


def test_summaries():
    best = [summary for summary in report.summaries(rows()) if summary.peer == "the best peer"]
    assert best == [report.Summary("numbaconv", "the best peer", 2, 2, 1.0, 0.5, "second")]
    (slow,) = [summary for summary in report.summaries(rows()) if summary.peer == "slow"]
    assert (slow.geometric_mean, slow.worst, slow.worst_row) == (pytest.approx(2**0.5), 0.5, "second")
    assert str(slow) == ("numbaconv against slow, 2 threads: geometric mean 1.414 over 2 rows, worst 0.500 (second)")


def test_totals_are_of_whole_networks():
    def row(network, count, **seconds):
        samples = {name.replace("_", " "): Sample((one,), 1.0) for name, one in seconds.items()}
        return Row("r", 1, 1, 1, count, network=network, samples=samples)

    lines = report.totals(
        [
            row("a", 2, numbaconv=0.5, numbaconv_strict=1.0, fast=0.25, slow=2.0),
            row("a", 1, numbaconv=1.0, numbaconv_strict=1.0, fast=6.0, slow=3.0),
            row("b", 1, numbaconv=2.0, fast=3.0),
            row("b", 1, numbaconv=2.0, slow=1.0),
            row("", 1, numbaconv=1.0, fast=1.0),
        ]
    )
    assert lines == [
        "a, 1 thread: numbaconv 2000.0 ms; 3.25 x fast (6500.0), 3.50 x slow (7000.0), 1.75 x the best of each layer "
        "(3500.0)",
        "a, 1 thread: numbaconv strict 3000.0 ms; 2.17 x fast (6500.0), 2.33 x slow (7000.0), 1.17 x the best of each "
        "layer (3500.0)",
        "b, 1 thread: numbaconv 4000.0 ms; 1.00 x the best of each layer (4000.0)",
    ]


def test_lowering_shares():
    stages = {"numbaconv": {"lower": 0.001, "multiply": 0.004}}
    twice, once = Row("a", 2, 1, 1, count=2, stages=stages), Row("b", 2, 1, 1, stages=stages)
    other = Row("c", 1, 1, 1, stages={"numbaconv": {"multiply": 1.0}, "numbaconv im2col": {}})
    once.stages = {"numbaconv": {"lower": 0.002, "multiply": 0.002}}
    assert report.lowering_shares([twice, once, other]) == [
        "numbaconv, 2 threads: lowering takes 4.00 ms, 40.0% of the products' 10.00 ms"
    ]


def test_lines_fit_under_their_header():
    first, _, alone = rows()
    contenders = ["numbaconv", "slow", "fast"]
    header, line = report.header(contenders, 30), report.line(first, contenders, 30)
    assert len(header) == len(line)
    assert line.split() == ["first", "2", "8.0", "(16)", "2.0", "(4)", "4.0", "(8)", "2.000"]
    alone_line, wrong = report.line(alone, contenders, 30).splitlines()
    assert alone_line.split() == ["alone", "1", "1.0", "(2)", "-", "-", "nan"]
    assert wrong == "    WRONG: fast is wrong"


def test_bandwidth_line():
    row = Row("r", 1, 1, 3_000_000_000, samples={"numbaconv": Sample((2.0,), 2.0)})
    assert report.bandwidth_line(row, 2.0) == "    of 2.0 GB/s read: numbaconv 1.5 GB/s = 75.0%"


def test_json():
    written = json.loads(json.dumps(report.as_json(rows(), ["library 1"], {"read x1": 2.0})))
    assert written["versions"] == ["library 1"]
    assert written["ceilings"] == {"read x1": 2.0}
    assert written["machine"]["cores"] >= 1
    first = written["rows"][0]
    assert first["results"]["fast"]["times"] == [1.0, 2.0, 8.0]
    assert first["results"]["fast"]["lower_quartile"] == 1.5
    assert first["ratios"] == {"numbaconv": 2.0}
    assert len(written["summary"]) == 3


# ------------------------------------------------------------------------------------------------- choosing peers


def test_choose():
    here, gone = MadeUp("here"), MadeUp("gone")
    gone.modules = ("no_such_module",)
    everyone = (here, gone)
    chosen, missing = choose(everyone, None)
    assert chosen == [here]
    assert "pip install 'numbaconv[peers]'" in missing["gone"]
    assert choose(everyone, ["here"]) == ([here], {})
    assert choose(everyone, []) == ([], {})
    with pytest.raises(UnsupportedProblem, match="gone: no_such_module cannot be imported"):
        choose(everyone, ["gone"])
    with pytest.raises(UnknownPeer, match="did you mean 'here'"):
        choose(everyone, ["her"])


# ----------------------------------------------------------------------------------------------------- the script


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("bench", Path(__file__).parent.parent / "scripts" / "bench.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.probes, "fma_peak", lambda dtype, threads: 100.0 * threads)
    monkeypatch.setattr(module.probes, "read_bandwidth", lambda threads, refresh: 10.0 * threads)
    return module


def test_script_times_gemm(script, timed, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(script, "GEMM_PEERS", (MadeUp("right"), MadeUp("wrong", error=1.0)))
    monkeypatch.setattr(ours, "gemm", lambda a, b, threads, packed: Contender("x", lambda: None, lambda: a @ b))
    shapes = ["--shapes", "64,64,64", "8x100x1"]
    assert script.main(["gemm", "--both", "--num-threads", "1", "2", *shapes, "--json", str(tmp_path / "j")]) == 1
    printed = capsys.readouterr().out
    assert "2 threads; FMA peak 200 GFLOP/s" in printed
    assert "WRONG: wrong is wrong" in printed
    assert printed.count("of 20.0 GB/s read") == 1  # the product that moves more than it computes
    written = json.loads((tmp_path / "j").read_text())
    assert [row["label"] for row in written["rows"]] == ["64 64 64", "8 100 1"] * 2
    assert list(written["rows"][0]["results"]) == [ours.NAME, ours.PREPACKED, "right"]
    assert script.main(["gemm", "--peers", "right", "--prepacked", "--shapes", "4,8,2"]) == 0
    assert f"{ours.NAME} against" not in capsys.readouterr().out


def test_script_times_conv(script, timed, monkeypatch, capsys):
    monkeypatch.setattr(script, "CONV_PEERS", (MadeUp("right"),))
    monkeypatch.setattr(ours, "conv", lambda *arguments: MadeUp("x").conv(*arguments[:-2]))
    problem = PROBLEMS[0]
    problems = ["--problems", str(problem), str(PROBLEMS[2]), "--match", "ic3i"]
    assert script.main(["conv", *problems, "--num-threads", "1", "--algorithms", "im2col"]) == 0
    printed = capsys.readouterr().out
    assert str(problem) in printed
    assert str(PROBLEMS[2]) not in printed
    assert ["threads", "numbaconv", "im2col", "right", "ratio", "im2col"] in [
        line.split()[-6:] for line in printed.splitlines()
    ]
    assert "numbaconv im2col against right, 1 thread: geometric mean 1.000 over 1 rows" in printed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["gemm", "--peers", "opnblas"], "unknown peer 'opnblas'; did you mean 'openblas'?"),
        (["conv", "--networks", "alxnet"], "unknown network 'alxnet'"),
        (["conv", "--problems", "rubbish"], "rubbish"),
    ],
)
def test_script_explains_wrong_names(script, capsys, arguments, complaint):
    assert script.main(arguments) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["gemm", "--shapes", "4,8"], ["gemm", "--num-threads", "0"], []])
def test_script_refuses_wrong_numbers(script, arguments):
    with pytest.raises(SystemExit) as exit_:
        script.main(arguments)
    assert exit_.value.code == 2


# -------------------------------------------------------------------------------------------------- the real peers


def ready(peer):
    """Skip where the peer's library is missing, unless this run was meant to have it."""
    reason = peer.reason()
    if reason and os.environ.get("NUMBACONV_REQUIRE_PEERS"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    return peer


@pytest.mark.peers
@pytest.mark.parametrize("peer", GEMM_PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gemm_peers_are_right(peer, dtype):
    a, b = contender.normal((33, 65), dtype, 0), contender.normal((65, 17), dtype, 1)
    made = ready(peer).gemm(a, b, 1)
    made.call()
    assert contender.gemm_reference(a, b).check(made) < 4
    assert any(character.isdigit() for character in peer.version())


@pytest.mark.peers
@pytest.mark.parametrize("peer", CONV_PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_conv_peers_are_right_or_refuse(peer, problem, dtype):
    problem = ConvProblem(**{name: getattr(problem, name) for name in problem.__slots__} | {"dtype": dtype})
    arrays = data(problem, dtype)
    floats_only = peer.name in ("ncnn", "onnxruntime") and dtype == "float64"
    even_only = peer.name.startswith("torch") and problem.name == "lopsided"
    if floats_only or even_only:
        with pytest.raises(UnsupportedProblem):
            ready(peer).conv(problem, *arrays, 1)
        return
    made = ready(peer).conv(problem, *arrays, 1)
    made.call()
    contender.conv_reference(problem, *arrays).check(made)


@pytest.mark.peers
def test_threads_are_set():
    torch, pools = pytest.importorskip("torch"), pytest.importorskip("threadpoolctl")
    a = np.ones((2, 2), np.float32)
    for threads in (1, 2):
        for peer in CONV_PEERS[:2]:
            torch.set_num_threads(1)
            peer.conv(PROBLEMS[0], *data(PROBLEMS[0]), 3)
            assert torch.get_num_threads() == 3
        for peer in GEMM_PEERS:
            peer.gemm(a, a, threads)
        assert torch.get_num_threads() == threads
        openblas = [pool["num_threads"] for pool in pools.threadpool_info() if pool["internal_api"] == "openblas"]
        assert openblas
        assert set(openblas) == {threads}


# ------------------------------------------------------------------------------------------------------------ ours


@pytest.mark.parametrize("prepacked", [False, True])
def test_our_gemm_is_a_contender(prepacked):
    a, b = contender.normal((33, 65), "float32", 0), contender.normal((65, 17), "float32", 1)
    made = ours.gemm(a, b, 2, prepacked)
    contender.gemm_reference(a, b).check(made)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_our_conv_is_a_contender(layout):
    problem = ConvProblem(2, 3, 7, 6, 4, 3, 2, layout=layout)
    arrays = data(problem)
    for algorithm in ("auto", "im2col"):
        made = ours.conv(problem, *arrays, 2, algorithm)
        contender.conv_reference(problem, *arrays).check(made)
        made.call()
        made.call()
        assert len(made.stages["multiply"]) == 3  # the check's, and two


def test_overhead_is_timed_for_every_way_to_call(script, monkeypatch, capsys):
    asked = []

    def burst(functions, rounds):
        asked.append((list(functions), rounds))
        return {name: Sample((function() is None or 1e-6,), 1.0) for name, function in functions.items()}

    monkeypatch.setattr(overhead, "burst", burst)
    monkeypatch.setattr(overhead, "CASES", (("auto", "mb1ic1ih8oc1kh3ph1"), ("conv1x1", "mb1ic8ih8oc8kh1ph0")))
    assert script.main(["overhead", "--num-threads", "1", "2", "--rounds", "3"]) == 0
    assert [rounds for _, rounds in asked] == [3] * 4
    assert asked[0][0][:5] == list(overhead.CALLS[:5])
    printed = capsys.readouterr().out
    assert printed.count("conv1x1 mb1ic8ih8oc8kh1ph0") == printed.count("depthwise mb1ic1ih8oc1kh3ph1") == 2
    assert "0.02" in printed  # a kernel's share of a microsecond for all repeats
    monkeypatch.setattr(overhead.api, "conv2d", lambda x, w, **options: np.zeros((1, 1, 8, 8), "f4"))
    with pytest.raises(WrongResult, match="conv2d is wrong"):
        next(overhead.measure(1))
    assert script.main(["overhead"]) == 1
