"""Commands and benchmarks on a device: emulated, with tiny problems; and the refusal where there is no device."""

from __future__ import annotations

import importlib.util
import json
import re

import numpy as np
import pytest
from fake_driver import FakeDriver, emulate, fake, fresh  # noqa: F401

testing = pytest.importorskip("click.testing")
pytest.importorskip("rich")

import numbaconv as nc  # noqa: E402
from numbaconv import networks, registry  # noqa: E402
from numbaconv.bench import compare as comparing  # noqa: E402
from numbaconv.bench import network as layered  # noqa: E402
from numbaconv.bench.contender import Contender, WrongResult, conv_reference, normal  # noqa: E402
from numbaconv.bench.device_peers import TorchCuda, device_peers  # noqa: E402
from numbaconv.bench.place import HOST, OnDevice, place_of  # noqa: E402
from numbaconv.commands import about, network, output, single  # noqa: E402
from numbaconv.commands import compare as command  # noqa: E402
from numbaconv.commands.group import numbaconv  # noqa: E402
from numbaconv.devices import cuda  # noqa: E402
from numbaconv.lowering_cuda import CudaForm  # noqa: E402
from numbaconv.timing import DeviceTimer  # noqa: E402

# ruff: noqa: F811 (fixtures are imported)

SMALL = "mb1ic2ih4oc3kh3ph1"
NOTE = "emulated: times say nothing about a GPU\n"
WHERE = "cuda:0 (emulated on the CPU)"


class IdleForm(CudaForm):
    def prepare_weights(self, ctx, w):
        return w

    def run(self, ctx, x, prepared, out):
        ctx.take("nothing to put there", (4,))

    def lowering_bytes(self, problem, request):
        return 64


class Idle(nc.Lowering):
    """Computes nothing."""

    name, family, paper, devices, cuda = "idle", "test", "none", ("cuda",), IdleForm

    def run(self, ctx, x, prepared, out):
        raise AssertionError


class Peer:
    """Another library, as far as a table can tell; `off`: how wrong it is."""

    name = "torch (cuDNN)"

    def __init__(self, off=0.0):
        self.off, self.made = off, []

    def conv(self, problem, x, w, bias, activation=None):
        if problem.kh == 1:
            raise nc.UnsupportedProblem("no kernels of one pixel")
        self.made.append((bias is None, activation))
        value = conv_reference(problem, x, w, np.zeros(problem.oc) if bias is None else bias).value
        value = np.maximum(value, 0) if activation else value
        return Contender(self.name, lambda: None, lambda: value + self.off)


def tiny(walk):
    walk.image(4, 2)
    walk.conv("first", 3, 3)
    walk.conv("second", 2, 1, bias=False, activation=None)
    walk.fc("third", 5)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What a test registers is forgotten after it; a network by the name of "tiny"; one round of a call each."""
    nc.list_lowerings()
    monkeypatch.setattr(registry, "_classes", {
        name: cls for name, cls in registry._classes.items() if name in ("im2col", "conv1x1", "direct", "reference")
    })  # fmt: skip
    monkeypatch.setitem(networks.NETWORKS, "tiny", tiny)
    for name, value in {"ROUNDS": 1, "DROP": 0, "CALLS": 2, "STAGE_RUNS": 1, "FEW_RUNS": 1}.items():
        monkeypatch.setattr(comparing, name, value)
    monkeypatch.setattr("numbaconv.timing.DEVICE_SECONDS", 0.0)


def call(*arguments):
    return testing.CliRunner().invoke(numbaconv, [*map(str, arguments)])


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


# ----------------------------------------------------------------------------------------------- where arrays live


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_place_takes_arrays_and_gives_them_back(emulate, dtype):
    place = place_of("cuda")
    assert (place.device, place.queues, place.emulated) == ("cuda", True, True)
    host = np.arange(24, dtype=dtype).reshape(2, 3, 4).transpose(0, 2, 1)
    there = place.put(host)
    assert there.strides == host.strides
    assert cuda.home(there) == "cuda:0"
    np.testing.assert_array_equal(place.get(there), host)
    place.blank(there)
    assert np.isnan(place.get(there)).all()
    assert place_of("cpu") is HOST
    assert HOST.put(host) is HOST.get(host) is host
    assert HOST.queues is HOST.emulated is False


def test_the_first_call_is_waited_for(emulate, monkeypatch):
    place, seen = place_of("cuda:0"), []
    monkeypatch.setattr(place.runtime, "synchronize", lambda stream=None: seen.append("waited"))
    assert place.once(lambda: seen.append("called")) >= 0
    assert seen == ["called", "waited"]


def test_the_peak_is_counted_where_the_clock_is_known(fake, monkeypatch):
    assert OnDevice("cuda").peak("float32") is None  # the driver tells no clock
    known = FakeDriver.cuDeviceGetAttribute

    def fact(self, name, device):
        return 1_500_000 if name == "CLOCK" else known(self, name, device)  # kHz

    monkeypatch.setattr(FakeDriver, "cuDeviceGetAttribute", fact)
    fake.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_CLOCK_RATE = "CLOCK"
    place = OnDevice("cuda")
    assert place.peak("float32") == pytest.approx(2 * 128 * 7 * 1.5)
    assert place.peak("float64") is None
    for cc, units in (((8, 0), (64, 32)), ((7, 5), (64, 0)), ((9, 0), (128, 64))):
        place.runtime.cc = cc
        assert place.peak("float32") == pytest.approx(2 * units[0] * 7 * 1.5)
        assert (place.peak("float64") or 0) == pytest.approx(2 * units[1] * 7 * 1.5)


def test_an_emulated_device_has_no_peak_and_no_peer(emulate):
    place = place_of("cuda")
    assert place.peak("float32") is None
    assert device_peers(place) == device_peers(HOST) == []


# ------------------------------------------------------------------------------------------------------------ peers


@pytest.mark.parametrize("text", [SMALL + "sh2", "g2" + SMALL.replace("oc3", "oc4") + "_nhwc", "mb3ic5ih1oc7kh1"])
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_torch_computes_what_we_do(text, activation):
    pytest.importorskip("torch")
    p = nc.ConvProblem.parse(text)
    x, w, bias = (10 * normal(shape, p.dtype, n) for n, shape in enumerate((p.input_shape, p.weight_shape, (p.oc,))))
    truth = conv_reference(p, x, w, bias).value
    low, high = {None: (-np.inf, np.inf), "relu": (0, np.inf), "relu6": (0, 6)}[activation]
    found = TorchCuda("cpu").conv(p, x, w, bias, activation).result()
    np.testing.assert_allclose(found, np.clip(truth, low, high), rtol=1e-4, atol=1e-3)
    plain = TorchCuda("cpu").conv(p, x, w, None)
    plain.call()
    np.testing.assert_allclose(plain.result(), truth - bias[:, None, None], rtol=1e-4, atol=1e-3)


def test_torch_refuses_pads_that_differ_and_needs_a_device(monkeypatch):
    torch = pytest.importorskip("torch")
    p = nc.ConvProblem(1, 2, 4, 4, 3, 3, 3, pad_top=1)
    with pytest.raises(nc.UnsupportedProblem, match="different pads"):
        TorchCuda("cpu").conv(p, normal(p.input_shape, p.dtype, 0), normal(p.weight_shape, p.dtype, 1), None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "without CUDA" in TorchCuda("cuda:0").reason()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert TorchCuda("cuda:0").reason() == ""


# ---------------------------------------------------------------------------------------------------------- compare


def test_compare(emulate, tmp_path):
    nc.register(Idle)
    result = call("compare", SMALL, "--device", "cuda", "--seconds", 0.01, "--json", tmp_path / "c.json")
    assert result.exit_code == 1
    p = nc.ConvProblem.parse(SMALL)
    auto = nc.explain(p, device="cuda").chosen
    assert result.output.startswith(f"{NOTE}{p}, {WHERE}, 0.0 M multiply-adds; auto takes {auto}\n")
    assert "between two events" in result.output
    assert "thread" not in result.output
    rows = cells(result.output, "lowering")
    assert set(rows) == {"lowering", "direct", "im2col", "idle"}
    assert rows["idle"][0] == "WRONG"
    assert "idle: idle is wrong: error nan" in result.output
    assert "conv1x1: the kernel is 3x3" in result.output
    written = json.loads((tmp_path / "c.json").read_text())
    assert written["context"]["threads"] is None
    assert written["device"]["device"] == "cuda:0"
    assert written["device"]["emulated"] is True
    assert {row["lowering"] for row in written["rows"]} == {"direct", "im2col"}
    for row in written["rows"]:
        handle = nc.plan(p, row["lowering"], "cuda")
        assert row["taken_bytes"] == row["workspace_bytes"] == handle.workspace_bytes
        assert row["prepared_bytes"] >= p.weight_bytes
        assert row["stage_ms"]["multiply"] > 0
        assert (row["stage_ms"]["lower"] > 0) == (row["lowering"] == "im2col")
        assert 0 < row["error"] < 1e-5
        assert not row["peer"]


@pytest.mark.parametrize("text", [SMALL + "_nhwc", "g2" + SMALL.replace("oc3", "oc4") + "_f64"])
def test_what_is_taken_on_a_device_is_what_the_plan_declares(emulate, text):
    found = comparing.compare(nc.ConvProblem.parse(text), ["im2col"], seconds=0.01, device="cuda")
    assert not found.wrong
    (row,) = found.timed
    handle = nc.plan(text, "im2col", "cuda")
    assert row.taken_bytes == row.workspace_bytes == handle.workspace_bytes > 0
    assert set(row.stages) == {"lower", "multiply", "lift"}


def test_arrays_are_on_the_device_and_events_tell_the_time(emulate, monkeypatch):
    def run(self, x, out=None, residual=None):
        seen.append(cuda.home(x) == cuda.home(out) == "cuda:0")
        return real(self, x, out, residual)

    def burst(functions, *arguments, timer, **options):
        assert isinstance(timer, DeviceTimer)
        assert timer.device is emulate
        return timed(functions, *arguments, timer=timer, **options)

    seen, real, timed = [], nc.plan(SMALL).__class__.__call__, comparing.burst
    monkeypatch.setattr(comparing.Handle, "__call__", run)
    monkeypatch.setattr(comparing, "burst", burst)
    comparing.compare(nc.ConvProblem.parse(SMALL), ["direct"], seconds=0.01, device="cuda")
    assert len(seen) > 4
    assert all(seen)


def test_compare_with_a_peer(emulate, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(command, "compare_plot", lambda path, title, points: drawn.extend(points))
    monkeypatch.setattr(comparing, "device_peers", lambda place: [Peer()])
    arguments = ["--algorithm", "direct", "--seconds", 0.01, "--device", "cuda"]
    pictures = importlib.util.find_spec("matplotlib") is not None
    more = [*(["--plot", tmp_path / "p.png"] if pictures else []), "--json", tmp_path / "c.json"]
    printed = works("compare", SMALL, *arguments, *more)
    rows = cells(printed, "lowering")
    assert list(rows) == ["lowering", "torch (cuDNN)", "direct"]
    shown = dict(zip(rows["lowering"], rows["torch (cuDNN)"], strict=True))
    assert [title for title, cell in shown.items() if cell == "-"] == [
        "lower ms", "multiply ms", "lift ms", "lowered", "panels", "taken",
    ]  # fmt: skip
    assert [point.name for point in drawn] == (["direct"] if pictures else [])
    peer, ours = json.loads((tmp_path / "c.json").read_text())["rows"]
    assert (peer["peer"], peer["taken_bytes"], peer["workspace_bytes"], peer["stage_ms"]) == (True, None, None, {})
    assert (ours["peer"], ours["workspace_bytes"]) == (False, 0)
    printed = works("compare", "tiny", *arguments)
    table = cells(printed, "layer")
    assert table["layer"] == ["times", "best ms", "direct", "torch (cuDNN)"]
    assert table["first"][1] == table["first"][2]  # the best lowering, though the peer is faster
    assert table["first"][3].endswith("*")
    assert table["second"][3] == "-"
    assert "torch (cuDNN) (second): no kernels of one pixel" in printed
    assert "Best: of the lowerings, not of torch (cuDNN)." in printed


def test_a_peer_that_is_wrong_is_not_timed(emulate, monkeypatch):
    monkeypatch.setattr(comparing, "device_peers", lambda place: [Peer(off=0.1)])
    found = comparing.compare(nc.ConvProblem.parse(SMALL), ["direct"], seconds=0.01, device="cuda")
    assert "torch (cuDNN) is wrong: error" in found.wrong["torch (cuDNN)"]
    assert [row.spec for row in found.timed] == ["direct"]


# ------------------------------------------------------------------------------------------------------------- time


def test_time(emulate, tmp_path):
    printed = works("-v", "time", "tiny", "--device", "cuda", "--iterations", 2, "--algorithm", "direct",
                    "--json", tmp_path / "t.json")  # fmt: skip
    assert printed.startswith(f"{NOTE}tiny, mb 1, {WHERE}, 2 iterations\n")
    rows = cells(printed, "layer")
    assert rows["layer"] == ["lowering", "layout", "min ms", "median ms", "GFLOP/s", "workspace", "first call ms"]
    assert [rows[name][0] for name in ("first", "second")] == ["direct", "direct"]
    assert "first: direct without products; asked for as 'direct'" in printed
    assert "third: " in printed
    assert "third: dot" not in printed
    assert "thread" not in printed
    written = json.loads((tmp_path / "t.json").read_text())
    assert written["context"]["threads"] is None
    assert written["run"]["fma_peak_gflops"] is None
    assert written["totals"]["all layers"]["share_of_peak"] is None
    for row in written["rows"]:
        assert len(row["times_ms"]) == 2
        assert row["share_of_peak"] is None
        assert row["first_call_ms"] > 0
        assert row["peers"] == {}


def test_a_known_peak_has_its_column(emulate, monkeypatch):
    monkeypatch.setattr(OnDevice, "peak", lambda self, dtype: 1e-3)
    printed = works("time", "tiny", "--device", "cuda", "--iterations", 1, "--algorithm", "direct")
    assert "FMA peak by its clock 0.0 GFLOP/s" in printed
    assert "of peak" in cells(printed, "layer")["layer"]


def test_time_with_a_peer(emulate, monkeypatch, tmp_path):
    peer = Peer()
    monkeypatch.setattr(layered, "device_peers", lambda place: [peer])
    printed = works("time", "tiny", "--device", "cuda", "--iterations", 2, "--algorithm", "direct",
                    "--json", tmp_path / "t.json")  # fmt: skip
    rows = cells(printed, "layer")
    place = rows["layer"].index("torch (cuDNN) ms")
    assert place == 4
    assert rows["first"][place] != "-"
    assert rows["second"][place] == "-"
    assert peer.made == [(False, "relu")]
    first, second, _ = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert len(first["peers"]["torch (cuDNN)"]["times_ms"]) == 2
    assert second["peers"] == {}
    peer.off = 0.1
    with pytest.raises(WrongResult, match=r"torch \(cuDNN\) at first is wrong"):
        layered.time_layers(networks.layers("tiny"), 1, "direct", device="cuda")


def test_a_whole_forward_pass_stays_on_the_cpu(emulate, monkeypatch):
    real = networks.layers
    monkeypatch.setattr(network, "layers", lambda name, mb, layout: real("tiny", mb, layout))
    monkeypatch.setattr(network, "AlexNet", lambda **_: pytest.fail("built"))
    printed = works("time", "alexnet", "--device", "cuda", "--iterations", 1, "--algorithm", "direct")
    assert "The whole forward pass runs on the CPU only." in printed


# ------------------------------------------------------------------------------------------------- conv and explain


@pytest.mark.parametrize("suffix", ["", "_nhwc", "_f64"])
def test_conv(emulate, tmp_path, suffix):
    options = ["--device", "cuda:0", "--iterations", 2, "--algorithm", "im2col", "--json", tmp_path / "c.json"]
    printed = works("conv", SMALL + suffix, *options, "-v")
    assert printed.startswith(f"{NOTE}{nc.ConvProblem.parse(SMALL + suffix)}   0.0 M multiply-adds, {WHERE}\n")
    table = cells(printed, "lowering")
    assert table["lowering"] == ["min ms", "median ms", "lower ms", "multiply ms", "lift ms", "GFLOP/s"]
    assert re.search(r"im2col by 1 of (3 x 18 x 16|16 x 18 x 3) \(m x k x n; tiles of \d+ x \d+, ", printed)
    assert "terms at a time); asked for as 'im2col'" in printed
    written = json.loads((tmp_path / "c.json").read_text())
    (row,) = written["rows"]
    assert row["checked"] == "every element against `reference` in float64"
    assert row["error"] < 1e-5
    assert min(row["stage_ms"]["lower"], row["stage_ms"]["multiply"]) > 0
    assert row["share_of_peak"] is written["fma_peak_gflops"] is written["context"]["threads"] is None


def test_a_wrong_result_on_a_device_is_not_timed(emulate, monkeypatch):
    nc.register(Idle)
    monkeypatch.setattr(single, "burst", lambda *_, **__: pytest.fail("timed"))
    result = call("conv", SMALL, "--device", "cuda", "--algorithm", "idle")
    assert result.exit_code == 1
    assert "nothing was timed" in result.output


def test_explain(emulate, tmp_path):
    printed = works("explain", SMALL, "--device", "cuda", "--json", tmp_path / "e.json")
    assert printed.startswith(str(nc.explain(SMALL, device="cuda")))
    assert NOTE in printed
    assert json.loads((tmp_path / "e.json").read_text())["device"]["name"] == "emulated on the CPU"
    assert NOTE not in works("explain", SMALL)


def test_list_needs_no_device(monkeypatch):
    nc.register(Idle)
    monkeypatch.setattr(cuda, "runtime", lambda *_: pytest.fail("looked for"))
    assert set(cells(works("list", "--device", "cuda:7") + "\n", "name")) >= {"idle", "im2col"}
    assert "idle" not in works("list", "--device", "cpu")


# ------------------------------------------------------------------------------------------------- without a device


COMMANDS = (("compare", SMALL), ("compare", "tiny"), ("time", "tiny"), ("conv", SMALL), ("explain", SMALL))


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_without_a_device_nothing_begins(fresh, monkeypatch, arguments):
    for module in (about, command, network, single):
        monkeypatch.setattr(module, "place_of", lambda *_: pytest.fail("began"))
    monkeypatch.delenv("NUMBACONV_CUDA", raising=False)
    monkeypatch.setattr(cuda, "installed", lambda module: False)
    result = call(*arguments, "--device", "cuda")
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    assert result.output.startswith("Error: device 'cuda': numba-cuda is not installed: pip install")
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    result = call(*arguments, "--device", "cuda:3")
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    assert "device 'cuda:3': cuda:3 does not exist" in result.output
    monkeypatch.setenv("NUMBACONV_CUDA", "sometimes")
    assert "NUMBACONV_CUDA='sometimes'" in call(*arguments, "--device", "cuda").output
    result = call(*arguments, "--device", "cpu+cuda")
    assert result.exit_code == 2
    assert "'cpu+cuda' is not one of cpu, cuda, cuda:0, cuda:1, ..." in result.output


def test_a_wrong_capability_to_emulate_gets_a_message(emulate, monkeypatch):
    monkeypatch.setenv("NUMBACONV_CUDA_CC", "new")
    result = call("explain", SMALL, "--device", "cuda")
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    assert "NUMBACONV_CUDA_CC='new'" in result.output


def test_notes_fit_a_page():
    assert max(map(len, output.BATCHES.splitlines())) <= 120
