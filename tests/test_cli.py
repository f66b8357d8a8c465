"""The command line: what each command prints and writes, and what it says to wrong input."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rich")
testing = pytest.importorskip("click.testing")

import numbaconv as package  # noqa: E402
from numbaconv import cli, networks  # noqa: E402
from numbaconv.bench.network import StageTime  # noqa: E402
from numbaconv.calibration import Rates  # noqa: E402
from numbaconv.commands import about, check, network, output, parameters, single  # noqa: E402
from numbaconv.commands.group import numbaconv  # noqa: E402
from numbaconv.plan import Handle  # noqa: E402
from numbaconv.probes import Ceilings  # noqa: E402
from numbaconv.registry import make_lowering  # noqa: E402
from numbaconv.timing import Sample  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SMALL = "mb1ic4ih9oc8oh7kh3ph0"


def tiny(walk) -> None:
    walk.image(9)
    walk.conv("conv1", 8, 3)
    walk.conv("conv2", 4, 1, bias=False, activation=None)
    walk.fc("fc3", 7)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A small network by the name of "tiny", and ceilings that are known."""
    monkeypatch.setitem(networks.NETWORKS, "tiny", tiny)
    monkeypatch.setattr(network, "fma_peak", lambda dtype, threads: 100.0 * threads)
    monkeypatch.setattr(single, "fma_peak", lambda dtype, threads: 100.0 * threads)
    monkeypatch.setattr(single, "read_bandwidth", lambda threads: 20.0)


def call(*arguments: str):
    """The result of a command, run in this process."""
    return testing.CliRunner().invoke(numbaconv, [str(argument) for argument in arguments])


def works(*arguments: str) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def table_of(printed: str, first: str) -> list[list[str]]:
    """The cells of the plain table whose first title is `first`, without titles and rules."""
    lines = printed.splitlines()
    start = next(number for number, line in enumerate(lines) if line.split()[:1] == [first])
    rows = []
    for line in lines[start + 1 :]:
        if not line:
            break
        if set(line) - set("- "):
            rows.append([cell.strip() for cell in line.split("  ") if cell.strip()])
    return rows


# ----------------------------------------------------------------------------------------------------- processes


def process(*arguments: object, timeout: int = 240):
    command = [sys.executable, "-m", "numbaconv", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def test_alexnet_in_a_process_of_its_own(tmp_path):
    options = ["--iterations", 2, "--json", tmp_path / "a.json", "--num-threads", 2]
    picture = tmp_path / "a.png"
    if not (no_picture := parameters.importlib.util.find_spec("matplotlib") is None):
        options += ["--plot", picture]
    run = process("-v", "time", "alexnet", *options)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""  # no progress bar, no warning
    assert no_picture or picture.read_bytes().startswith(b"\x89PNG")
    names = [f"conv{n}" for n in range(1, 6)] + [f"fc{n}" for n in range(6, 9)]
    rows = table_of(run.stdout, "layer")
    assert [row[0] for row in rows] == [*names, "all convolutions", "all fully connected", "all layers"]
    assert "conv1: direct-jit without products" in run.stdout
    assert "89 % on a CPU, 95 % on a GPU" in run.stdout
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["context"]["threads"] == 2
    assert {"machine", "versions", "date"} <= written["context"].keys()
    assert [row["layer"] for row in written["rows"]] == names
    for row in written["rows"]:
        assert len(row["times_ms"]) == 2
        assert row["gflops"] == pytest.approx(row["flops"] / row["median_ms"] / 1e6)
        assert row["share_of_peak"] == pytest.approx(row["gflops"] / written["run"]["fma_peak_gflops"])
    total = written["totals"]["all layers"]
    assert total["median_ms"] == pytest.approx(sum(row["median_ms"] for row in written["rows"]))
    assert total["gflops"] == pytest.approx(2 * (665_784_864 + 58_621_952) / total["median_ms"] / 1e6)
    forward = written["forward"]
    assert [stage["stage"] for stage in forward if stage["kind"] in ("conv", "fc")] == names
    kinds = written["seconds_by_kind"]
    assert set(kinds) == {"conv", "relu", "lrn", "pool", "fc", "softmax"}
    assert sum(kinds.values()) == pytest.approx(sum(stage["median_ms"] for stage in forward) / 1e3)
    share = (kinds["conv"] + kinds["fc"]) / sum(kinds.values())
    assert f"In convolution and fully-connected layers: {share:.1%} of the time." in run.stdout


def test_wrong_input_in_a_process_of_its_own():
    run = process("time", "alexnt")
    assert run.returncode == 2
    assert "did you mean 'alexnet'" in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_without_the_libraries_of_the_extra(python):
    code = """
        import sys
        sys.modules["rich"] = sys.modules["click"] = None
        from numbaconv.cli import main
        sys.exit(main(["list"]))
    """
    _, said = python(code, code_wanted=2, stderr=True)
    assert said == "numbaconv: the command line needs click and rich; pip install 'numbaconv[cli]'\n"


def test_main_returns_the_exit_code(capsys):
    assert cli.main(["--version"]) == 0
    assert package.__version__ in capsys.readouterr().out
    assert cli.main(["list", "im2col"]) == 0
    assert cli.main(["nonsense"]) == 2
    assert "No such command 'nonsense'" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("frobnicate", "No such command"),
        ("time", "Missing argument 'NETWORK'"),
        ("time tinny", "did you mean 'tiny'"),
        ("time tiny --mb 0", "'--mb': 0"),
        ("time tiny --mb many", "'many' is not a valid integer"),
        ("time tiny --mb 1000000000", "ask for fewer images with --mb"),
        ("time tiny --iterations 0", "'--iterations': 0"),
        ("time tiny --num-threads 0", "'--num-threads': 0"),
        ("time tiny --num-threads 1000000", "'--num-threads': 1000000"),
        ("time tiny --layout nchwc", "'--layout': 'nchwc'"),
        ("time tiny --algorithm im2cl", "did you mean 'im2col'"),
        ("time tiny --algorithm im2col:batching=some", "batching must be one of"),
        ("time tiny --algorithm im2col:batch", "expected name=value"),
        ("time tiny --algorithm conv1x1", "conv1x1 (conv1): the kernel is 3x3"),
        ("time tiny --json no/such/place.json", "there is no directory"),
        ("time tiny --json .", ". is a directory"),
        ("time tiny --plot picture.doc", "ends with .png, .svg or .pdf"),
        ("warmup tiny nonet", "unknown network 'nonet'"),
        ("warmup tiny --mb 1000000000", "ask for fewer images with --mb"),
        ("conv", "Missing argument 'DESCRIPTOR'"),
        ("conv something", "unknown token 'something'"),
        ("conv mb1ic4ih3oc8kh5", "kernel 5x5"),
        ("conv mb0ic4ih9oc8kh3", "has no multiply-adds"),
        (f"conv {SMALL}_bwd_d", "only forward"),
        (f"conv {SMALL} --algorithm conv1x1", "the kernel is 3x3, not 1x1"),
        (f"conv {SMALL} --iterations -1", "'--iterations': -1"),
        ("conv mb1000000ic1000ih1000oc1kh1", "choose a smaller problem"),
        ("gemm --m 3 --n 4", "Missing option '--k'"),
        ("gemm --m 0 --n 4 --k 5", "'--m': 0"),
        ("gemm --m 3 --n 4 --k 5 --dtype float16", "'--dtype': 'float16'"),
        ("gemm --m 10000000 --n 10000000 --k 1", "choose smaller sizes"),
        ("explain ic4", "lacks"),
        (f"explain {SMALL} --max-workspace -1", "'--max-workspace': -1"),
        (f"explain {SMALL} --precision lowest", "'--precision': 'lowest'"),
        ("list im2cl", "did you mean 'im2col'"),
        ("list zz*", "unknown lowering 'zz*'; known: "),
        ("list --device tpu", "'--device': 'tpu'"),
        ("info --num-threads none", "'none' is not a valid integer"),
    ],
)
def test_wrong_input_gets_a_message_and_exit_code_2(arguments, message):
    result = call(*arguments.split())
    assert message in result.output
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)


def test_a_wrong_environment_gets_a_message(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "all")
    result = call("time", "tiny")
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    assert "OMP_NUM_THREADS must be a positive number; got 'all'" in result.output


def test_a_picture_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = call("time", "tiny", "--plot", "picture.png")
    assert result.exit_code == 2
    assert "pip install 'numbaconv[plot]'" in result.output


def test_a_file_that_may_not_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(parameters.os, "access", lambda path, mode: False)
    result = call("list", "--json", tmp_path / "l.json")
    assert result.exit_code == 2
    assert "l.json cannot be written" in result.output


def test_a_disk_that_fills_up_in_the_end(monkeypatch, tmp_path):
    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    result = call("list", "--json", tmp_path / "l.json")
    assert result.exit_code == 1
    assert "No space left on device" in result.output


def test_memory_that_runs_out(monkeypatch):
    def none_left(*_):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(network, "time_layers", none_left)
    result = call("time", "tiny")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert "out of memory: Unable to allocate 9 TiB" in result.output


# ------------------------------------------------------------------------------------------------------------ time


def test_time(tmp_path):
    options = ["--iterations", 3, "--num-threads", 1, "--mb", 2, "--algorithm", "im2col"]
    printed = works("time", "Tiny", *options, "--json", tmp_path / "t.json")
    assert printed.startswith("tiny, mb 2, 1 thread, 3 iterations; measured FMA peak 100.0 GFLOP/s\n")
    rows = table_of(printed, "layer")
    assert [row[0] for row in rows] == [
        "conv1",
        "conv2",
        "fc3",
        "all convolutions",
        "all fully connected",
        "all layers",
    ]
    written = json.loads((tmp_path / "t.json").read_text())
    for row, kept in zip(rows, written["rows"], strict=False):
        shown = [
            kept["layer"], kept["algorithm"], _layout(kept), f"{kept['min_ms']:.3f}", f"{kept['median_ms']:.3f}",
            f"{kept['gflops']:.1f}", f"{kept['gflops'] / 100:.1%}", output.size(kept["workspace_bytes"]),
            f"{kept['first_call_ms']:.3f}",
        ]  # fmt: skip
        assert row == shown
    sums = written["totals"]["all convolutions"]
    assert sums["workspace_bytes"] == max(row["workspace_bytes"] for row in written["rows"][:2])
    assert all(row["workspace_bytes"] > 0 for row in written["rows"])
    flops = sum(row["flops"] for row in written["rows"][:2])
    assert sums["gflops"] == pytest.approx(flops / sums["median_ms"] / 1e6)
    assert written["context"]["threads"] == 1
    assert sums["min_ms"] == pytest.approx(sum(row["min_ms"] for row in written["rows"][:2]))
    assert written["run"]["network"] == "tiny"
    assert written["forward"] == []
    assert "forward pass" not in printed


def _layout(kept) -> str:
    if kept["kind"] == "fc":
        return "-"
    return kept["layout"] if kept["reads"] == kept["layout"] else f"{kept['reads']}>{kept['layout']}"


def test_time_in_layouts_chosen_layer_by_layer(tmp_path, monkeypatch):
    """The second layer reads what the first one made across; both are checked as ever."""
    chosen = {"conv1": ("nchw", "nhwc"), "conv2": ("nhwc", "nchw")}

    def shortest(costs, starts, ends):
        assert (list(starts), ends) == (["nchw"], {"nchw": 0.0, "nhwc": 0.0})  # whatever the last one makes
        return ["nchw", *(own for _, own in chosen.values())]

    monkeypatch.setattr("numbaconv.network_plan.shortest", shortest)
    options = ["--iterations", 1, "--algorithm", "im2col", "--json", tmp_path / "t.json"]
    rows = {row[0]: row for row in table_of(works("time", "tiny", *options), "layer")}
    assert [rows[name][2] for name in ("conv1", "conv2", "fc3")] == ["nchw>nhwc", "nhwc>nchw", "-"]
    written = json.loads((tmp_path / "t.json").read_text())
    assert {row["layer"]: (row["reads"], row["layout"]) for row in written["rows"][:2]} == chosen
    assert written["run"]["layout"] is None
    rows = {row[0]: row for row in table_of(works("time", "tiny", "--layout", "nhwc", *options), "layer")}
    assert [rows[name][2] for name in ("conv1", "conv2", "fc3")] == ["nhwc", "nhwc", "-"]


@pytest.mark.parametrize("place", ["before", "behind"])
def test_time_says_why(place):
    arguments = ["time", "tiny", "--iterations", 1]
    printed = works(*(["-v", *arguments] if place == "before" else [*arguments, "-v"]))
    assert "predicted" in printed
    assert "conv1x1 refused: the kernel is 3x3, not 1x1" in printed
    assert "fc3: dot; 1 of at most 4 images" in printed
    assert "predicted" not in works(*arguments)


def test_time_with_an_algorithm_and_another_layout():
    printed = works("time", "tiny", "--algorithm", "im2col", "--layout", "nhwc", "--iterations", 1, "-v", "--mb", 6)
    assert "conv1: im2col by " in printed
    assert "(m x k x n; tiles of " in printed
    assert "asked for as 'im2col'" in printed
    assert "fc3: gemm; 6 images are more than 4: weights are packed once" in printed
    assert [row[1] for row in table_of(printed, "layer")[:3]] == ["im2col", "im2col", "gemm"]


def test_time_prints_the_shares_of_a_forward_pass(monkeypatch):
    stages = [
        StageTime(name, kind, Sample((ms / 1e3,), 0.0))
        for name, kind, ms in [("conv1", "conv", 6), ("relu1", "relu", 1.5), ("fc2", "fc", 2), ("relu2", "relu", 0.5)]
    ]
    monkeypatch.setattr(network, "layers", lambda name, mb, layout: real("tiny", mb, layout))
    monkeypatch.setattr(network, "time_stages", lambda net, iterations, tick: stages)
    monkeypatch.setattr(network, "AlexNet", lambda **options: seen.append(options) or FakeNet())
    real, seen = networks.layers, []
    printed = works("time", "alexnet", "--iterations", 1, "--mb", 2, "--num-threads", 1, "--algorithm", "im2col")
    assert seen == [{"mb": 2, "algorithm": "im2col", "num_threads": 1}]
    assert table_of(printed, "stage") == [
        ["conv1", "conv", "6.000", "6.000", "60.0%"],
        ["relu1", "relu", "1.500", "1.500", "15.0%"],
        ["fc2", "fc", "2.000", "2.000", "20.0%"],
        ["relu2", "relu", "0.500", "0.500", "5.0%"],
        ["all conv", "6.000", "60.0%"],
        ["all relu", "2.000", "20.0%"],
        ["all fc", "2.000", "20.0%"],
        ["forward pass", "10.000", "10.000", "100.0%"],
    ]
    assert "In convolution and fully-connected layers: 80.0% of the time." in printed
    printed = works("time", "alexnet", "--iterations", 1, "--layout", "nhwc")
    assert "runs in NCHW only" in printed
    assert len(seen) == 1


class FakeNet:
    def stages(self):
        return [("conv1", "conv", None)]


# ------------------------------------------------------------------------------------------------- one convolution


@pytest.mark.parametrize("suffix", ["", "_nhwc", "_f64", "_f64_nhwc"])
def test_conv(tmp_path, suffix):
    descriptor = "g2" + SMALL + suffix
    options = ["--iterations", 4, "--num-threads", 1, "--algorithm", "im2col", "--json", tmp_path / "c.json"]
    printed = works("conv", descriptor, *options, "-v")
    (row,) = table_of(printed, "lowering")
    document = json.loads((tmp_path / "c.json").read_text())
    (kept,) = document["rows"]
    assert row[:3] == ["im2col", f"{kept['min_ms']:.3f}", f"{kept['median_ms']:.3f}"]
    assert row[3:6] == [f"{kept['stage_ms'][stage]:.3f}" for stage in ("lower", "multiply", "lift")]
    assert kept["stage_ms"]["multiply"] > 0
    assert len(kept["times_ms"]) == 4
    handle = package.plan(kept["problem"], "im2col", num_threads=1)
    for name in ("lowering_bytes", "panel_bytes", "workspace_bytes"):
        assert kept[name] == getattr(handle, name)
    assert kept["prepared_bytes"] > 0
    assert kept["checked"] == "every element against `reference` in float64"
    assert 0 < kept["error"] < (1e-14 if "f64" in suffix else 1e-6)
    assert "\nim2col by 2 of " in printed
    assert "asked for as 'im2col'" in printed
    assert document["fma_peak_gflops"] == 100


def test_conv_checks_some_elements_of_what_is_large(monkeypatch):
    monkeypatch.setattr(single, "AFFORDABLE_MACS", 0)
    assert "(64 elements against float64)" in works("conv", SMALL, "--iterations", 1)


@pytest.mark.parametrize("affordable", [0, 10**9])
def test_conv_does_not_time_what_is_wrong(monkeypatch, affordable):
    real = Handle.__call__

    def wrong(self, x, out=None):
        result = real(self, x, out=out)
        if self.algorithm != "reference":
            result[0, 0, 0, 0] += 1
        return result

    monkeypatch.setattr(single, "AFFORDABLE_MACS", affordable)
    monkeypatch.setattr(Handle, "__call__", wrong)
    monkeypatch.setattr(single, "_time", lambda *_: pytest.fail("timed"))
    result = call("conv", SMALL, "--algorithm", "im2col")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert "is wrong: error" in result.output
    assert "nothing was timed" in result.output


# ------------------------------------------------------------------------------------------------------ one product


@pytest.mark.parametrize("options", [[], ["--prepacked"], ["--dtype", "float64"]])
def test_gemm(tmp_path, options, monkeypatch):
    packed = []
    real = single.prepack_a
    monkeypatch.setattr(single, "prepack_a", lambda a, **hints: packed.append(hints) or real(a, **hints))
    sizes = ["--m", 70, "--n", 33, "--k", 40, "--iterations", 3, "--num-threads", 1]
    printed = works("gemm", *sizes, *options, "--json", tmp_path / "g.json")
    (kept,) = json.loads((tmp_path / "g.json").read_text())["rows"]
    (row,) = table_of(printed, "product")
    assert row[0] == ("gemm, A prepacked" if "--prepacked" in options else "gemm")
    assert packed == ([{"n": 33, "num_threads": 1}] if "--prepacked" in options else [])
    assert row[2] == f"{kept['median_ms']:.3f}"
    assert (kept["flops"], len(kept["times_ms"])) == (2 * 70 * 33 * 40, 3)
    assert kept["bytes"] == (70 * 40 + 40 * 33 + 70 * 33) * (8 if "float64" in options else 4)
    assert 0 < kept["error"] < 4
    assert "moves more bytes" not in printed


def test_gemm_by_the_bandwidth():
    printed = works("gemm", "--m", 64, "--n", 1, "--k", 64, "--iterations", 1)
    assert "it moves more bytes than it computes: " in printed
    assert "of the 20.0 GB/s of a parallel sum" in printed


def test_gemm_does_not_time_what_is_wrong(monkeypatch):
    monkeypatch.setattr(single, "multiply", lambda a, b, out, num_threads: out.fill(1))
    monkeypatch.setattr(single, "_time", lambda *_: pytest.fail("timed"))
    result = call("gemm", "--m", 4, "--n", 4, "--k", 4)
    assert result.exit_code == 1
    assert "gemm is wrong: error" in result.output


# ----------------------------------------------------------------------------------------------- what there is


def test_list(tmp_path):
    rows = table_of(works("list"), "name")
    assert [row[0] for row in rows] == package.list_lowerings()
    assert [row[0] for row in table_of(works("list", "im2*"), "name")] == package.list_lowerings("im2*")
    works("list", "im2col", "--json", tmp_path / "l.json")
    (kept,) = json.loads((tmp_path / "l.json").read_text())["rows"]
    options = make_lowering("im2col").parameters["batching"]
    assert kept["parameters"]["batching"] == ["<int>" if option is int else option for option in options]
    assert "<int>" in kept["parameters"]["batching"]
    assert kept["devices"] == ["cpu", "cuda"]


def test_check(monkeypatch, tmp_path):
    """The conformance suite itself has tests of its own; here a report stands in for it."""
    asked = []

    def checked(cls, *, quick, seed, device):
        asked.append((cls.name, quick, seed, device))
        if cls.name == "im2col-scan":
            return check.Report([cls.name], [], {"mb1...": "it needs a library", "mb2...": "it needs a library",
                                                      "mb3...": "a stride of 2"})  # fmt: skip
        if cls.name == "im2row":
            raise check.ConformanceError("im2row", "mb1...", "memory", "declares 3 bytes, 4 were taken")
        return check.Report([cls.name], ["mb1..."] * 3, {"mb2...": "why"})

    monkeypatch.setattr(check, "check_lowering", checked)
    assert table_of(works("check", "im2col", "--quick", "--seed", "5"), "lowering")[0][:3] == ["im2col", "3", "1"]
    assert asked == [("im2col", True, 5, "cpu")]
    result = call("check", "im2*", "--json", tmp_path / "c.json")
    assert result.exit_code == 1
    assert "declares 3 bytes" in result.output
    assert "im2col-scan was not checked, it refuses everything here: it needs a library\n" in result.output
    assert [row[-1] for row in table_of(result.output, "lowering") if row[0] == "im2col-scan"] == ["skipped"]
    rows = {row["name"]: row for row in json.loads((tmp_path / "c.json").read_text())["rows"]}
    assert set(rows) == set(package.list_lowerings("im2*"))
    assert [name for name, row in rows.items() if row["error"]] == ["im2row"]
    assert call("check", "nothing").exit_code == 2


def test_check_really_checks():
    assert "ok" in works("check", "reference", "--quick")


def test_list_names_plug_ins_that_are_broken(monkeypatch):
    monkeypatch.setitem(about.broken, "theirs", "ImportError: no torch")
    assert "plug-in theirs is broken: ImportError: no torch" in works("list")


def test_explain(tmp_path):
    printed = works("explain", SMALL, "--num-threads", 1, "--json", tmp_path / "e.json")
    assert printed.startswith(str(package.explain(SMALL, num_threads=1)))
    written = json.loads((tmp_path / "e.json").read_text())
    rows = {row["name"]: row for row in written["rows"]}
    assert rows["conv1x1"]["reason"] == "the kernel is 3x3, not 1x1"
    assert rows["conv1x1"]["seconds"] is None
    assert rows["im2col"]["gemm_calls"] == [{"m": 8, "n": 49, "k": 36, "count": 1}]
    assert written["chosen"] in rows
    assert "auto: direct" in works("explain", SMALL, "--max-workspace", 0)


def test_info(monkeypatch, tmp_path):
    asked = []
    for name in ("fma_peak", "read_bandwidth", "copy_bandwidth"):
        monkeypatch.setattr(
            about, name, lambda *arguments, refresh, name=name: asked.append((name, *arguments, refresh))
        )
    monkeypatch.setattr(
        about, "measure", lambda threads: Ceilings(threads, 200.0 * threads, 100.0 * threads, 30.0, 25.0)
    )
    printed = works("info", "--num-threads", 2, "--refresh", "--json", tmp_path / "i.json")
    assert "numba " in printed
    assert "cache: " in printed
    assert table_of(printed, "threads") == [
        ["1", "200.0", "100.0", "30.0", "25.0"],
        ["2", "400.0", "200.0", "30.0", "25.0"],
    ]
    assert len(asked) == 8
    assert all(refresh is True for *_, refresh in asked)
    assert [row["float32"] for row in json.loads((tmp_path / "i.json").read_text())["rows"]] == [200.0, 400.0]


# --------------------------------------------------------------------------------------------------------- warm-up


def test_warmup(monkeypatch):
    printed = works("warmup", "tiny")
    assert printed.startswith("3 distinct layers of tiny ready in ")
    assert "cache: " in printed
    monkeypatch.setattr("numbaconv.warmup.cache_directory", lambda: None)
    assert "the next process compiles again; set NUMBACONV_CACHE_DIR" in works("warmup", "tiny")


def test_warmup_calibrates_on_request(monkeypatch):
    monkeypatch.setattr("numbaconv.commands.network.calibrate", lambda: Rates(5e9, 2e9, 3.25e9))
    assert "auto counts with" not in works("warmup", "tiny")
    assert "with 5 GFLOP/s a core, 2.0 GB/s from memory and 3.2 GB/s from" in works("warmup", "tiny", "--calibrate")


def test_warmup_of_nothing_in_particular(monkeypatch):
    seen = []

    def warm_up(names, *_):
        seen.append(names)
        return package.warmup.WarmUp(1, 1.0, None, 0, 0)

    monkeypatch.setattr(network, "warm_up", warm_up)
    assert "of alexnet, vgg16, resnet50 ready" in works("warmup")
    assert seen == [("alexnet", "vgg16", "resnet50")]


# ------------------------------------------------------------------------------------------- tables and progress bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch) -> Terminal:
    """Standard output and error become a terminal of 60 columns (in the test itself: pytest sets its own before)."""
    for name, value in {"TERM": "xterm", "COLUMNS": "60", "LINES": "20"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


TITLES, ROWS, TOTALS = (
    ["layer", "how", "ms"],
    [["a", "[b]im2col", "1.0"], ["longer", "", "10.0"]],
    [["all", "", "11.0"]],
)
PLAIN = """\
layer   how          ms
------  ---------  ----
a       [b]im2col   1.0
longer             10.0
------  ---------  ----
all                11.0
"""


def test_a_plain_table(capsys):
    output.show_table(TITLES, ROWS, TOTALS, text=2)
    assert capsys.readouterr().out == PLAIN


def test_a_table_on_a_terminal(monkeypatch):
    stream = terminal(monkeypatch)
    output.show_table(TITLES, ROWS, TOTALS, text=2)
    shown = stream.getvalue()
    assert "─" in shown
    assert "\x1b[" in shown
    assert "[b]im2col" in shown  # no markup
    assert [line.split()[-1] for line in shown.splitlines() if "longer" in line] == ["10.0"]


def test_a_table_too_wide_for_the_terminal_is_plain(monkeypatch):
    stream = terminal(monkeypatch)
    wide = [["a" * 60, "im2col", "1.0"]]
    output.show_table(TITLES, wide, text=2)
    assert "a" * 60 + "  im2col  1.0" in stream.getvalue()


def test_a_progress_bar_on_a_terminal(monkeypatch):
    stream = terminal(monkeypatch)
    monkeypatch.setattr(output, "REFRESH_SECONDS", 0.0)
    with output.progress("layers", 4) as step:
        step()
        step()
        assert "50%" in stream.getvalue()
    assert "layers" in stream.getvalue()


def test_no_progress_bar_elsewhere(capsys):
    with output.progress("layers", 2) as step:
        step()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 30, "3.0 GiB")]
)
def test_sizes(count, text):
    assert output.size(count) == text


def test_milliseconds():
    assert output.milliseconds(0.0123456) == "12.346"
