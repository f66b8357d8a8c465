"""The check of a GPU, in the emulator and with made-up devices: that it runs, and that it sees what is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.util
import io
import itertools
import json
import sys
import types as kinds
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets: pip install greenlet")

from fake_driver import FakeDriver, emulate, fake, fresh  # noqa: F401

from numbaconv.bench.contender import WrongResult
from numbaconv.bench.gpu import (
    cases as gpu_cases,
)
from numbaconv.bench.gpu import (
    convs as gpu_convs,
)
from numbaconv.bench.gpu import (
    cubins as gpu_cubins,
)
from numbaconv.bench.gpu import (
    facts as gpu_facts,
)
from numbaconv.bench.gpu import (
    figures as gpu_figures,
)
from numbaconv.bench.gpu import (
    networks as gpu_networks,
)
from numbaconv.bench.gpu import (
    products as gpu_products,
)
from numbaconv.bench.gpu import (
    report as gpu_report,
)
from numbaconv.bench.gpu import (
    run as gpu_run,
)
from numbaconv.bench.gpu import (
    sharing as gpu_sharing,
)
from numbaconv.bench.gpu import (
    speed as gpu_speed,
)
from numbaconv.bench.gpu import (
    tiles as gpu_tiles,
)
from numbaconv.bench.gpu import (
    word_kernels as gpu_word_kernels,
)
from numbaconv.bench.gpu import (
    words as gpu_words,
)
from numbaconv.bench.gpu.bench import Bench
from numbaconv.bench.gpu.case import Case, Skip, Tally, attempt
from numbaconv.devices import cubins, driver, intrinsics
from numbaconv.devices import cuda as cuda_devices
from numbaconv.jit_cuda import Kernel
from numbaconv.lowerings import _cuda_matrices

# ruff: noqa: F811 (fixtures are imported)

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "gpu_check.py"
WORDS = gpu_words.cases(True)
SOME = [
    "products: 64x64x16_8x4_b4_s3_f32_p0_fma, rows x rows", "products: 64x64x16_4x8_b4_s2_f32_p8_tf32x3, all loaders",
    "products: precision medium", "products: epilogues*", "sharing: host*", "sharing: Conv2d", "sharing: threads",
    "sharing: memory*", "lowerings: im2col float32", "lowerings: accuracy", "device: ceilings", "gemm: 4096*",
    "calls: memory", "ladder: 1*", "ladder: G*", "tiles: *tf32,*", "tiles: profiled", "device: compiled*",
]  # fmt: skip


@pytest.fixture(autouse=True)
def unprepared():
    """Tables that lowerings keep on a device belong to the device of one test."""
    yield
    _cuda_matrices._kept_table.cache_clear()


def by_name(*patterns, quick=True):
    return [case for case in gpu_cases.chosen(gpu_cases.all_cases(quick), patterns) if case.key != gpu_cases.VERSIONS]


def ran(case, bench=None):
    return attempt(bench or Bench(quick=True), case)


# --------------------------------------------------------------------------------------------------------- the cases


@pytest.mark.parametrize("case", WORDS, ids=lambda case: case.key)
def test_twins_say_what_the_cases_expect_of_the_device(emulate, case):
    record = ran(case)
    assert record["status"] == "ok", record["trace"]


@pytest.mark.parametrize("case", by_name(*SOME), ids=lambda case: case.key)
def test_cases_run_in_the_emulator(emulate, case):
    record = ran(case)
    assert record["status"] in ("ok", "absent"), record["trace"]
    json.dumps(record)


def test_every_case_is_there_once_and_the_first_is_about_versions():
    for quick in False, True:
        cases = gpu_cases.all_cases(quick)
        assert cases[0].key == gpu_cases.VERSIONS
        assert len({case.key for case in cases}) == len(cases)
        assert max(map(gpu_cases.rank, cases)) < len(gpu_cases.ORDER)  # none is forgotten
    steps = {
        "device",
        "words",
        "products",
        "sharing",
        "gemm",
        "lowerings",
        "resnet50",
        "vgg16",
        "calls",
        "ladder",
        "tiles",
    }
    assert {case.step for case in cases} == steps


def test_versions_tell_the_device_or_why_there_is_none(emulate, monkeypatch):
    record = ran(gpu_facts.first())
    assert record["data"]["device"] == {"name": "emulated on the CPU", "cc": [8, 0], "multiprocessors": 4,
                                        "memory": 8 << 30, "emulated": True}  # fmt: skip
    assert "numba " in record["note"]
    monkeypatch.delenv("NUMBACONV_CUDA")
    monkeypatch.setattr(cuda_devices, "installed", lambda module: False)
    record = ran(gpu_facts.first())
    assert record["status"] == "error"
    assert "numba-cuda is not installed" in record["note"]


WORD_FAULTS = {
    "udiv32, umod32": (intrinsics.udiv32, lambda thread, a, b: -(-a // b)),
    "shfl_down, shfl_xor float32": (intrinsics.shfl_xor, lambda threads, given: [value for value, _ in given]),
    "syncwarp": (intrinsics.syncwarp, lambda threads, given: None),
    "ld1_zfill float64": (intrinsics.ld1_zfill, lambda thread, memory, index, count: memory[index % 96]),
    "ldv_zfill f32": (intrinsics.ldv_zfill(4), lambda thread, memory, index, count: tuple(memory.read(index, 4, 4))),
    "cp_async1 f64": (intrinsics.cp_async1, lambda thread, shared, into, *_: shared.write(into, [0.0], 1)),
    "cp_async_commit, cp_async_wait(1)": (intrinsics.cp_async_wait(1), lambda thread: thread.wait_copies(2)),
    "multiply_tile_mma x1, whole numbers": (
        intrinsics.multiply_tile_mma(
            gpu_word_kernels.BK, gpu_word_kernels.WM + 8, gpu_word_kernels.WN + 8, gpu_word_kernels.WM,
            gpu_word_kernels.WN, 1,
        ),
        lambda threads, given: None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WORD_FAULTS)
def test_a_word_that_does_something_else_is_seen(emulate, monkeypatch, name):
    word, twin = WORD_FAULTS[name]
    monkeypatch.setattr(word, "twin", twin)
    case = next(case for case in WORDS if case.name == name)
    assert ran(case)["status"] in ("wrong", "error")


def test_a_wrong_product_and_a_write_beside_it_are_seen(emulate, monkeypatch):
    right = gpu_products.run_product

    def faulty(place):
        def run(runtime, stream, plan, a, b, c, *more):
            right(runtime, stream, plan, a, b, c, *more)
            c.memory.buffer.memory.view(np.float32)[place] += 1

        return run

    case = by_name("products: 64x64x16_8x4_b4_s3_f32_p0_fma, rows x rows")[0]
    for place in 0, 46, 48 * 70 + 5:  # a result, the gap behind a row, the row behind the last
        monkeypatch.setattr(gpu_products, "run_product", faulty(place))
        record = ran(case)
        assert record["status"] == "wrong", place
        assert "2 of 2 wrong" in record["note"]


def test_a_wrong_lowering_is_seen(emulate, monkeypatch):
    case = by_name("lowerings: implicit-gemm float32")[0]
    assert ran(case)["data"]["right"] == 4
    right = gpu_convs.finish
    monkeypatch.setattr(gpu_convs, "finish", lambda *given: right(*given) + 1)
    record = ran(case)
    assert record["status"] == "wrong"
    assert record["note"].startswith("4 of 4 wrong")


def test_arithmetic_of_another_precision_is_seen(emulate, monkeypatch):
    right = gpu_products.gemm

    def instead(**always):
        def gemm(*given, precision, **more):
            return right(*given, **more, **always)

        monkeypatch.setattr(gpu_products, "gemm", gemm)

    instead(precision="medium")
    assert ran(by_name("products: precision medium")[0])["status"] == "ok"
    assert ran(by_name("products: precision high")[0])["status"] == "wrong"
    instead()
    assert ran(by_name("products: precision medium")[0])["status"] == "wrong"  # too right: something else ran


def test_memory_that_is_not_declared_is_seen(emulate, monkeypatch):
    case = by_name("calls: memory")[0]
    assert ran(case)["status"] == "ok"
    monkeypatch.setattr(gpu_speed.plan.__globals__["Handle"], "workspace_bytes", property(lambda self: 0))
    record = ran(case)
    assert record["status"] == "wrong"
    assert "declares 0 bytes" in record["note"]


def test_the_other_figures_of_a_layer_with_a_wrong_lowering_are_kept(emulate, monkeypatch):
    monkeypatch.setattr(gpu_networks, "PLAUSIBLE", ("implicit-gemm", "direct"))
    right = gpu_networks.judged
    turn = itertools.count()

    def judged(bench, *given):
        if next(turn) == 1:
            bench.wrong("made up")
        return right(bench, *given)

    monkeypatch.setattr(gpu_networks, "judged", judged)
    record = ran(by_name("vgg16: *")[0])
    assert record["status"] == "wrong"
    assert "1 wrong" in record["note"]
    assert len(record["data"]["times"]) == 3
    assert gpu_figures.layers([record])[0].count == 2


# ---------------------------------------------------------------------------------- devices and libraries made up


class MoreDriver(FakeDriver):
    """What the check asks of a driver beyond what the package does."""

    CUfunction_attribute = kinds.SimpleNamespace(
        CU_FUNC_ATTRIBUTE_NUM_REGS="r", CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES="l", CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES="s"
    )

    def __init__(self):
        super().__init__(cc=(9, 0))
        self.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_CLOCK_RATE = "clock"

    def cuDeviceTotalMem(self, device):
        return 8 << 30

    def cuMemGetInfo(self):
        return 1 << 30

    def cuFuncGetAttribute(self, name, function):
        return 8 if name == "l" else 64

    def cuOccupancyMaxActiveBlocksPerMultiprocessor(self, function, threads, shared):
        return 1

    def cuEventElapsedTime(self, start, end):
        return 2.0


SILENT = (
    "device: *", "words: *f32", "products: 64*f32*rows", "products: pre*", "products: epi*", "sharing: [!c]*",
    "gemm: 4096*", "lowerings: i*2* *", "lowerings: mec *", "lowerings: acc*", "vgg16: *", "calls: *", "ladder: *",
    "tiles: fma*",
)  # fmt: skip


@pytest.mark.parametrize("case", by_name(*SILENT), ids=lambda case: case.key)
def test_nothing_fails_on_a_driver_that_computes_nothing(fake, monkeypatch, case):
    """Whatever a case asks of the driver exists; its results are wrong, and that is said."""
    made = MoreDriver()
    monkeypatch.setattr(driver, "bindings", lambda: made)
    monkeypatch.setattr(gpu_facts, "told_by_smi", lambda: "smi")
    bench = Bench(quick=True)
    bench.__dict__["torch"], bench.torch_reason = None, "no torch"
    record = ran(case, bench)
    assert record["status"] in ("ok", "wrong", "absent"), record.get("trace")
    if case.step in ("words", "products", "lowerings") and not record["note"].startswith("0 problems"):
        assert record["status"] == "wrong"


def test_kernels_that_spill_or_fit_too_seldom_are_named(fake, monkeypatch):
    made = MoreDriver()
    monkeypatch.setattr(driver, "bindings", lambda: made)
    bench = Bench(quick=True)
    bench.__dict__["torch"] = None
    ran(by_name("device: ceilings")[0], bench)
    record = ran(by_name("device: compiled kernels")[0], bench)
    assert record["data"]["spilled"] == {"copy4_4": 8}
    assert record["data"]["fewer"] == ["copy4_4"]


def test_a_device_that_answers_no_more_is_fatal(fake, monkeypatch):
    bench = Bench(quick=True)
    bench.__dict__["torch"] = None

    def poison(bench):
        fake.fail["cuCtxSynchronize"] = [type(fake.cuInit(0)[0])(700)] * 3
        bench.runtime.synchronize()

    record = ran(Case("made", "up", poison), bench)
    assert record["status"] == "error"
    assert record["fatal"]
    tally = Tally()
    with pytest.raises(RuntimeError, match="this one: cuInit failed"), tally.of("this one"):
        raise driver.DriverError("cuInit", 700, "made up")


class Tensors:
    """torch with tensors that say they are on a GPU, and streams that are none."""

    def __init__(self, torch):
        class OnDevice(torch.Tensor):
            def __dlpack_device__(self):
                return 2, 0

            def __dlpack__(self, *, stream=None, **more):
                return self.detach().as_subclass(torch.Tensor).__dlpack__() if not self.requires_grad else self._no()

            def _no(self):
                raise BufferError("it wants a gradient")

        class Stream(contextlib.AbstractContextManager):
            cuda_stream = 7

            def wait_stream(self, other): ...

            def synchronize(self): ...

            def __exit__(self, *error): ...

        self.torch, self.kind = torch, OnDevice
        nothing = lambda *given: 0  # noqa: E731
        self.cuda = kinds.SimpleNamespace(
            Stream=Stream, stream=lambda stream: stream, current_stream=Stream, default_stream=Stream,
            synchronize=nothing, empty_cache=nothing, reset_peak_memory_stats=nothing, memory_allocated=nothing,
            max_memory_allocated=lambda: 1 << 20,
        )  # fmt: skip

    def __getattr__(self, name):
        found = getattr(self.torch, name)
        if name in ("from_numpy", "full", "ones", "empty"):
            return lambda *given, **more: found(*given, **more).as_subclass(self.kind)
        return found


@pytest.fixture
def tensors(emulate, monkeypatch):
    torch = pytest.importorskip("torch")
    bench = Bench(quick=True)
    bench.__dict__["torch"], bench.__dict__["real"] = Tensors(torch), False
    monkeypatch.setattr(Bench, "home", "cpu")
    return bench


@pytest.mark.peers
@pytest.mark.parametrize(
    "case",
    by_name("sharing: torch*", "sharing: threads", "gemm: 4096*", "calls: *", "device: ceilings", "resnet50: *"),
    ids=lambda case: case.key,
)
def test_what_is_done_with_torch_runs(tensors, monkeypatch, case):
    monkeypatch.setattr(gpu_networks, "PLAUSIBLE", ("implicit-gemm", "direct"))
    record = ran(case, tensors)
    assert record["status"] == "ok", record["trace"]
    if case.step == "gemm":
        assert set(record["data"]["times"]) == {*gpu_speed.OURS, "cuBLAS float32", "cuBLAS TF32"}
    if case.step == "resnet50":
        assert {"cuDNN nchw", "cuDNN nhwc"} < set(record["data"]["times"])
        assert gpu_figures.layers([record])[0].cudnn > 0


@pytest.mark.peers
def test_a_result_that_is_not_shared_or_too_early_is_seen(tensors, monkeypatch):
    right = gpu_sharing.conv2d
    monkeypatch.setattr(gpu_sharing, "conv2d", lambda *given, **more: right(*given, **more).copy_to_host())
    assert ran(by_name("sharing: torch tensors")[0], tensors)["status"] in ("wrong", "error")
    monkeypatch.setattr(gpu_sharing, "convolved", lambda x, w: right(x, w, padding=1) + 1)
    for case in by_name("sharing: torch streams", "sharing: torch temporaries", "sharing: threads", "sharing: Conv2d"):
        monkeypatch.setattr(gpu_sharing, "conv2d", right)
        assert ran(case, tensors)["status"] == "wrong"


def test_a_lowering_that_lacks_a_library_is_left_away(emulate, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(Skip, match=r"fft-tiled is left away: .*pip install cupy-cuda13x"):
        gpu_convs.exact("fft-tiled", "float32", Bench(quick=True))


# ------------------------------------------------------------------------------------------------- records, verdicts


def test_what_comes_of_a_case_is_written_down():
    def failing(error):
        def run(bench):
            raise error

        return run

    def status(run):
        record = attempt(Bench(), Case("made", "up", run))
        return record["status"], record["note"]

    assert status(lambda bench: {"note": "said", "x": 1}) == ("ok", "said")
    assert status(lambda bench: None) == ("ok", "")
    assert status(failing(Skip("why"))) == ("absent", "why")
    assert status(failing(WrongResult("how"))) == ("wrong", "how")
    assert status(failing(KeyError("k"))) == ("error", "KeyError: 'k'")
    record = attempt(Bench(), Case("made", "up", failing(OSError("disk"))))
    assert "OSError: disk" in record["trace"]


def test_verdicts():
    bench = Bench()
    bench.equal([1.0, np.nan], [1.0, np.nan])
    for got, want in ([1.0], [2.0]), ([np.nan], [0.0]), ([1.0, 2.0], [1.0]):
        with pytest.raises(WrongResult):
            bench.equal(got, want)
    assert bench.within(0.5, 1.0, "x") == 0.5
    for found in 2.0, float("nan"), -1.0:
        with pytest.raises(WrongResult, match="x"):
            bench.within(found, 1.0, "x")
    Bench(recording=True).wrong("not judged")
    tally = Tally()
    with tally.of("good"):
        pass
    with tally.of("bad"):
        raise ValueError("made up")
    with pytest.raises(WrongResult, match="1 of 2 wrong; bad: ValueError: made up"):
        tally.figures(bench)


def record_of(step, name, data, status="ok", note=""):
    return {"step": step, "name": name, "status": status, "note": note, "seconds": 1.0, "data": data}


def gemm_record(size, **rates):
    times = {name.replace("_", " "): {"tflops": rate, "median": 1.0} for name, rate in rates.items()}
    data = {"shape": [size] * 3, "times": times, "errors": {"ours high": 2e-7}}
    return record_of("gemm", f"{size} x {size} x {size}", data)


def layer_record(network, name, count, cudnn, **ours):
    times = {f"{spec.replace('_', '-')} nchw": {"median": spent} for spec, spent in ours.items()}
    times |= {"cuDNN nchw": {"median": cudnn}, "cuDNN nhwc": {"median": 2 * cudnn}}
    who = {"auto": "implicit-gemm"} | {spec.replace("_", "-"): {"lowering_bytes": 2048} for spec in ours}
    return record_of(network, name, {"count": count, "times": times, "ran": {"nchw": who}, "tiny": False})


RECORDS = [
    gemm_record(4096, ours_float32=45.0, ours_high=70.0, ours_medium=200.0, cuBLAS_float32=50.0, cuBLAS_TF32=400.0),
    gemm_record(8192, ours_float32=44.0, cuBLAS_float32=50.0),
    layer_record("resnet50", "a", 3, 1.0, implicit_gemm=2.0, direct=0.5),
    layer_record("resnet50", "b", 1, 1.0, implicit_gemm=1.5, im2col=1.4, kn2row_aa=3.0),
    record_of("ladder", "GFLOP/s", {"gflops": {"naive": 500.0, "production": 40000.0}}),
]


def test_figures_are_reached_missed_or_not_measured():
    found = {figure.what: (figure.found, figure.reached) for figure in gpu_figures.figures(RECORDS)}
    assert found["4096³ in float32, of cuBLAS"] == ("0.90", True)
    assert found["8192³ in float32, of cuBLAS"] == ("0.88", False)
    assert found['4096³ in "high", of cuBLAS float32'] == ("1.40, error 2.0e-07", True)
    assert found['8192³ in "high", of cuBLAS float32'] == ("", None)
    assert found['4096³ in "medium", of cuBLAS TF32'] == ("0.50", False)
    assert found["resnet50, best lowerings, of cuDNN's speed"] == (f"{4 / 2.9:.2f}", True)
    assert found["resnet50, auto, of cuDNN's speed"] == (f"{4 / 7.5:.2f}", False)
    assert found["vgg16, auto, of cuDNN's speed"] == ("", None)
    assert found["layers where some lowering is ahead of cuDNN"] == ("1 of 2 (50%)", True)
    inexact = [RECORDS[0] | {"data": RECORDS[0]["data"] | {"errors": {"ours high": 3e-5}}}]
    assert not next(f for f in gpu_figures.figures(inexact) if "high" in f.what).reached
    tiny = [record | {"data": record["data"] | {"tiny": True, "shape": [40, 24, 50]}} for record in RECORDS]
    assert all(figure.reached is None for figure in gpu_figures.figures(tiny))
    late = record_of("resnet50", "c", {}, "late")
    assert "(2 kinds of layers only)" in str(gpu_figures.figures([*RECORDS, late]))


def test_tables():
    text = gpu_report.markdown(RECORDS, datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC))
    assert "2026-01-02" in text
    assert "| 4096 x 4096 x 4096 | 50.0 | 45.0 | 70.0 | 400.0 | 200.0 | 0.90 | 1.40 | 0.50 | 2e-07 |" in text
    assert "| a | 3 | 1000000 | 500000 | 2.00 | direct nchw | 2000000 | implicit-gemm nchw |" in text
    assert "| b | 1,400,000 us, 2 KiB | 3,000,000 us, 2 KiB | - | 1,500,000 us, 2 KiB |" in text
    assert "| resnet50 | 4 | 4000.00 | 2900.00 | 7500.00 | 1.38 | 0.53 | 1 of 2 |" in text
    assert "| naive | 500 | 0.013 |" in text
    assert "| vgg16, auto, of cuDNN's speed | >= 0.90 |  | not measured |" in text
    wrong = record_of("words", "w", {}, "wrong", "how")
    regret = record_of("tiles", "t", {"regret": 1.5}, "ok", "far")
    said = gpu_report.summary([*RECORDS, wrong, regret])
    assert "wrong words: w: how" in said
    assert "t: far" in said
    assert "6 ok, 1 wrong" in said
    assert "MISSED" in said


def test_the_journal_writes_as_it_goes(tmp_path):
    screen = io.StringIO()
    journal = gpu_report.Journal(tmp_path / "out", screen)
    journal.note("nothing is there")
    for record in RECORDS:
        journal.add(record)
    journal.add(record_of("s", "n", {}, "crash", "x") | {"trace": "the end of it"})
    assert (tmp_path / "out" / "gpu_check.json").exists()  # before the end
    journal.write()
    assert journal.bad == 1
    found = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert [record["status"] for record in found["records"]] == ["ok"] * 5 + ["crash"]
    assert found["notes"] == ["nothing is there"]
    assert len(found["figures"]) == 11
    text = (tmp_path / "out" / "gpu_check.txt").read_text()
    assert "the end of it" in text
    assert "crash" in screen.getvalue()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"gpu_check.{end}" for end in ("txt", "json", "md")}


# --------------------------------------------------------------------------------------------- workers, the script

WORKER = """
import json, os, sys, time
orders = json.load(sys.stdin)
def say(**words):
    print(json.dumps(words), flush=True)
for key in orders["keys"]:
    if time.time() > orders["until"]:
        say(late=key)
        continue
    say(begin=key)
    step, name = key.split(": ")
    print("on the way to", name, file=sys.stderr, flush=True)
    if name == "crash":
        os._exit(9)
    if name == "hang":
        time.sleep(100)
    say(record={"step": step, "name": name, "status": "ok", "note": "", "data": {}, "seconds": 0.0})
    if name == "last":
        os._exit(3)
"""


def made_up(*names, limit=30.0):
    return [Case("s", name, lambda bench: None, limit=3.0 if name == "hang" else limit) for name in names]


def supervised(cases, code=WORKER, **more):
    found = []
    gpu_run.run_cases(cases, gpu_run.Options(command=(sys.executable, "-c", code), **more), found.append)
    return {record["name"]: (record["status"], record["note"], record.get("trace", "")) for record in found}


def test_workers_that_die_or_hang_are_replaced():
    found = supervised(made_up("a", "crash", "b", "hang", "last", "c"))
    assert [status for status, *_ in found.values()] == ["ok", "crash", "ok", "hang", "ok", "ok"]
    assert list(found) == ["a", "crash", "b", "hang", "last", "c"]
    assert found["crash"][1:] == ("its process ended with 9", "on the way to a\non the way to crash\n")
    assert "still running after 3 s" in found["hang"][1]


def test_workers_that_never_begin_are_given_up():
    found = supervised(made_up("a", "b"), "import sys; sys.exit('no such thing')")
    assert list(found) == ["a"]
    assert found["a"][0] == "crash"
    assert "no such thing" in found["a"][2]


def test_no_case_begins_when_time_is_over():
    found = supervised(made_up("a", "b"), until=0.0)
    assert {status for status, *_ in found.values()} == {"late"}


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("gpu_check_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_in_the_emulator(script, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    patterns = ["words: shfl*", "sharing: torch tensors", "gemm: 4096*", "products: precision highest"]
    assert script.main(["--quick", "--out", str(tmp_path), "--only", *patterns]) == 0
    printed = capsys.readouterr().out
    assert "torch is left away: its tensors are not on an emulated device" in printed
    assert "not measured" in printed
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [record["status"] for record in found["records"]] == ["ok", "ok", "ok", "ok", "ok", "absent", "ok"]


def test_the_command_where_there_is_no_device(script, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("NUMBACONV_CUDA", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert script.main(["--out", str(tmp_path)]) == 1
    assert "error" in capsys.readouterr().out
    assert "numba" in (tmp_path / "gpu_check.txt").read_text()
    assert script.main(["--list", "--only", "vgg16: *"]) == 0
    assert capsys.readouterr().out.count("vgg16") >= 9


# ------------------------------------------------------------------------------------------------ kernels beforehand


def test_a_witness_sees_the_kernels_that_the_emulator_runs(emulate, monkeypatch):
    cases = by_name("words: *", "products: precision high", "lowerings: direct *", "gemm: 4096*", "tiles: profiled")
    run, seen = type(emulate)._run, set()

    def noted(self, kernel, *more):
        seen.add(kernel.name)
        run(self, kernel, *more)

    monkeypatch.setattr(type(emulate), "_run", noted)
    for case in cases:
        assert ran(case)["status"] == "ok"
    known = dict(cuda_devices._runtimes)
    witnessed: list[Kernel] = []
    troubles: list[str] = []
    monkeypatch.setattr(gpu_cubins, "Bench", lambda recording: Bench(quick=True, recording=recording))
    kernels = gpu_cubins.record(cases, (8, 0), 4, witnessed.append, troubles.append)
    assert not troubles
    assert {kernel.name for kernel in witnessed} == seen
    assert kernels == witnessed
    cuda_devices._runtimes.clear()
    cuda_devices._runtimes.update(known)


def test_a_witness_can_stand_in_for_every_case(fresh, monkeypatch):
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    wanted = "words: *", "sharing: *", "gemm: *", "calls: *", "vgg16: *", "mobilenet*", "tiles: *other*"
    cases = by_name(*wanted, quick=False)
    troubles: list[str] = []
    assert len(gpu_cubins.record(cases, (9, 0), 132, lambda kernel: None, troubles.append)) > 60
    assert not troubles


def test_kernels_travel_in_a_folder(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    built: list[str] = []

    def build(kernel, cc):
        built.append(kernel.name)
        return cubins.Cubin(f"code of {kernel.name}".encode(), "entry")

    monkeypatch.setattr(cubins, "build", build)
    cases = by_name("words: ld*")
    counts = [gpu_cubins.export(cases, (9, 0), 132, tmp_path, part, 2) for part in range(2)]
    assert sum(counts) == len(built) == len(list(tmp_path.iterdir())) == 7
    monkeypatch.setattr(cubins, "_compile", lambda kernel, cc: b"compiled")
    gpu_cubins.use(tmp_path)
    kernel = gpu_word_kernels.vectors(4)
    assert cubins._compile(kernel, (9, 0)) == b"code of check_vectors_4"
    assert cubins._compile(kernel, (8, 0)) == b"compiled"
    assert cubins._compile(gpu_word_kernels.warps(), (9, 0)) == b"compiled"


def test_explored_tiles_have_names_of_their_own():
    for tiles in gpu_tiles.EXPLORED.values():
        base, changes = tiles
        names = {
            gpu_tiles.Explored(**dataclasses.asdict(dataclasses.replace(base, **change))).name for change in changes
        }
        assert len(names) == len(changes)
