"""Every lowering's form on a GPU, emulated: its contract, its parameters, and what the suite must reject."""

from __future__ import annotations

import functools

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets: pip install greenlet")

import fake_cupy
import oracles
from numba import types

import numbaconv as nc
from numbaconv import division
from numbaconv.devices.copying import copy4, copy4_launch
from numbaconv.devices.cuda import runtime
from numbaconv.devices.emulated import EmulatedRuntime
from numbaconv.devices.intrinsics import cuda, float32
from numbaconv.jit_cuda import Kernel, pointer
from numbaconv.lowering import GemmCall
from numbaconv.lowerings.im2col import Im2col
from numbaconv.lowerings.reference import Reference
from numbaconv.plan import _planned
from numbaconv.registry import lowerings, make_lowering
from numbaconv.request import Request
from numbaconv.select import check
from numbaconv.testing import ConformanceError, check_lowering, check_problem, conformance
from numbaconv.testing.grid import sketch, sketch_large
from numbaconv.testing.places import place_of
from numbaconv.testing.trial import Trial

NAMES = nc.list_lowerings(device="cuda")
# One in so many problems of the grid is run here for each lowering.
SHARE, MANY_PRODUCTS_SHARE, FREQUENCIES_SHARE = 5, 10, 30
MANY_PRODUCTS = ("kn2row-a", "kn2col-a", "winograd")
PARAMETERS = [
    cls(**{name: 2 if value is int else value}).spec
    for cls in lowerings(device="cuda")
    for name, allowed in cls.parameters.items()
    for value in allowed[1:]
    if name != "threads"
]
MULTIPLYING = [
    name for name in NAMES if make_lowering(name).form("cuda").gemm_calls.__qualname__ != "CudaForm.gemm_calls"
]


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    monkeypatch.delenv("NUMBACONV_CUDA_CC", raising=False)
    fake_cupy.install(monkeypatch)  # else those that transform with cuFFT refuse everything: test_cuda_fft.py
    yield runtime()
    forget_plans()


def play(monkeypatch, capability):
    """Have the emulator play a compute capability; plans are made anew, as no device ever changes its own."""
    monkeypatch.setenv("NUMBACONV_CUDA_CC", capability)
    forget_plans()


def forget_plans():
    _planned.cache_clear()
    division.divide.cache_clear()


@pytest.fixture
def zoned(monkeypatch, emulated):
    """The emulated device watched as a real one is: by what lies in the zones around its arrays."""
    monkeypatch.setattr(EmulatedRuntime, "emulated", False)


def problem(**sizes):
    return nc.ConvProblem(**({"mb": 1, "ic": 3, "ih": 6, "iw": 5, "oc": 4, "kh": 3, "kw": 3} | sizes))


def trial(spec, posed, label="", device="cuda"):
    return Trial(make_lowering(spec), posed, label, place=place_of(device))


@functools.cache
def ground(name):
    """The problems of the emulator's grid that a lowering runs."""
    lowering, request = make_lowering(name), Request(device="cuda")
    return [(label, posed) for label, posed in sketch() if check(lowering, posed, request)]


# ------------------------------------------------------------------------------------------- every lowering there is


@pytest.mark.parametrize("name", NAMES)
def test_a_lowering_keeps_its_contract_on_a_share_of_the_grid(name):
    runs = ground(name)
    share = MANY_PRODUCTS_SHARE if name.startswith(MANY_PRODUCTS) else SHARE
    share = FREQUENCIES_SHARE if name.startswith("fft") else share
    for turn, (label, posed) in enumerate(runs[NAMES.index(name) % min(share, len(runs)) :: share]):
        assert conformance.check_trial(trial(name, posed, label), turn=turn % 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["conv1x1", "cct-type2", "depthwise", "direct", "im2row", "implicit-gemm", "mec", "winograd-f2"]
)
def test_a_lowering_keeps_its_contract(name):
    """The whole suite, for one lowering of a kind; above, all of them on a share of its problems."""
    report = check_lowering(lowerings(name)[0], quick=True, device="cuda")
    assert report.ran
    assert report.lowerings[0] == name


ALIKE = [name for name in NAMES if name.startswith("winograd") and name not in ("winograd-1d", "winograd-f2")]
"""Forms that are another's with more products."""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ALIKE])
def test_memory_is_limited_and_runs_are_repeatable(name):
    sizes = {"mb": 2, "ic": 2, "oc": 2, "ih": 4, "iw": 3}
    ways = ({"kh": 2, "kw": 2}, {"kh": 1, "kw": 1}, {"kh": 2, "kw": 2, "g": 2}, {"kh": 1, "kw": 3}, {"kh": 3, "kw": 3})
    posed = (problem(**sizes, **way) for way in ways)
    looked_at = trial(name, next(p for p in posed if check(make_lowering(name), p, Request(device="cuda"))))
    conformance._check_limit(looked_at)
    conformance._check_threads(looked_at)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_errors_are_within_their_bounds(name):
    for label, posed in sketch_large():
        if check(make_lowering(name), posed, Request(device="cuda")):
            conformance._check_accuracy(trial(name, posed, label))


@pytest.mark.parametrize("spec", PARAMETERS)
def test_parameters_are_heeded(spec):
    side = 1 if spec.startswith(("conv1x1", "patchify")) else 2
    posed = problem(mb=3, ic=2, ih=4, iw=3, kh=side, kw=side, layout="nhwc")
    assert conformance.check_trial(trial(spec, posed), turn=1)
    divided = nc.plan(posed, algorithm=spec, device="cuda").plan.division.parts
    parts = {"image": 3, "block": 3, "whole": 1, "2": 2}.get(spec.rpartition("=")[2], len(divided))
    assert len(divided) == parts


@pytest.mark.parametrize("name", ["implicit-gemm", "im2row", "indirect", "kn2row-aa", "conv1x1", "direct"])
def test_on_a_gpu_without_asynchronous_copies(name, monkeypatch):
    play(monkeypatch, "7.5")
    staged, launch = [], EmulatedRuntime.launch

    def note(self, kernel, *arguments, **named):
        staged.append(kernel.name.startswith("gemm") and "_staged_" in kernel.name)
        return launch(self, kernel, *arguments, **named)

    monkeypatch.setattr(EmulatedRuntime, "launch", note)
    side = 1 if name == "conv1x1" else 3
    for turn, posed in enumerate((problem(mb=2, kh=side, kw=side, layout="nhwc"),
                                  problem(ic=18, kh=side, kw=side, dtype="float64"))):  # fmt: skip
        assert conformance.check_trial(trial(name, posed), turn=turn)
    assert any(staged) == (name in MULTIPLYING)


@pytest.mark.parametrize("name", MULTIPLYING)
def test_sums_split_among_blocks(name):
    deep = [posed for label, posed in ground(name) if label.startswith("a deep sum")]
    plans = {posed: nc.plan(posed, algorithm=name, device="cuda") for posed in deep}
    split = [posed for posed, plan in plans.items() if plan.panel_bytes]
    # Some add to the output, which takes its sums in order; sums over the channels alone are short here, or so many
    # products of their own, one for each frequency, that the GPU is full.
    if name.endswith("-aa") or name.startswith("winograd") or name == "fft" or not deep:
        assert not split
        return
    assert split
    assert conformance.check_trial(trial(name, split[-1]), turn=1)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_no_images(layout):
    x, w = np.zeros((0, 4, 5, 3) if layout == "nhwc" else (0, 3, 4, 5), "f4"), np.ones((2, 3, 3, 3), "f4")
    assert nc.conv2d(x, w, device="cuda", layout=layout, algorithm="im2col").size == 0


@pytest.mark.parametrize("name", ["implicit-gemm", "im2row"])
def test_precision(name, rng, monkeypatch):
    x, w = rng.standard_normal((1, 40, 4, 4), "f4"), rng.standard_normal((6, 40, 3, 3), "f4")
    want = oracles.conv2d(x, w, None, (1, 1), (0, 0, 0, 0), (1, 1), 1)
    errors = {}
    for precision in ("highest", "high", "medium"):
        got = nc.conv2d(x, w, device="cuda", algorithm=name, precision=precision)
        errors[precision] = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert errors["highest"] < 5e-7
    assert errors["high"] < 5e-6
    assert 5e-5 < errors["medium"] < 1e-3  # really one product of fewer bits
    play(monkeypatch, "7.5")
    got = nc.conv2d(x, w, device="cuda", algorithm=name, precision="medium")
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 5e-7


# ------------------------------------------------------------------------------------------- forms that are wrong


def planted(base, **methods):
    """A lowering whose form on a GPU differs by some methods."""
    form = type("Planted", (base.cuda,), methods)
    return type("Wrong", (base,), {"name": "wrong", "cuda": form, "__module__": __name__})


def right(self):
    """The form as it was before it was spoiled."""
    return type(self).__mro__[1](self.lowering)


def spoiled(before=None, after=None):
    """A run with something done before or after."""

    def run(self, ctx, x, prepared, out):
        for work in (before, lambda *given: right(self).run(*given), after):
            if work is not None:
                work(ctx, x, prepared, out)

    return run


def written(**changes):
    """The lower stage of im2col with changed numbers."""

    def write(self, ctx, source, target, window, depth, pixels, step_k, step):
        given = {name: change(window) for name, change in changes.items()}
        depth += given.pop("depth", 0)
        right(self).write(ctx, source, target, window._replace(**given), depth, pixels, step_k, step)

    return write


def beyond(ctx, source, target, count):
    """Copy a row of `count` elements, which may be longer than the arrays are."""
    grid, records = copy4_launch((1, 1, 1, count), (0, 0, 0, source.strides[3] // 4), (0, 0, 0, target.strides[3] // 4))
    ctx.launch("lift", copy4(4), grid, source, target, *records)


def overrun(ctx, x, prepared, out):
    if ctx.bias is not None:  # then the output is a window of a larger one
        beyond(ctx, x, out[-1:, -1:, -1:], out.shape[3] + 1)


def overreach(ctx, x, prepared, out):
    spare = ctx.device.empty(x.shape, x.dtype)
    beyond(ctx, x[-1:, -1:, -1:], spare, x.shape[3] + 1)


def forget(*names):
    return lambda ctx, *rest: [setattr(ctx, name, None) for name in names]


def declares(more):
    return lambda self, p, r: more + right(self).lowering_bytes(p, r)


def one_more(self, p, r):
    return [*right(self).gemm_calls(p, r), GemmCall(7, 8, 9)]


def clear_weights(self, ctx, w):
    ctx.device.fill(w, 0)
    return ctx.keep(w.shape)


def change_input(ctx, x, *rest):
    ctx.device.fill(x[:1, :1, :1, :1], 0x40)


def last_thread(x, out):
    number = int(cuda.threadIdx.x)
    if x[0] != 0 and x[0] != 1 and x[0] != 2 and x[0] != 3 and x[0] != -1 and x[0] != -2 and x[0] != -3:
        out[0] = float32(number)


UNORDERED = Kernel("last_thread", last_thread, types.void(pointer(4), pointer(4)), 64, 1)


WRONG = {
    "one element too many declared": (Im2col, {"lowering_bytes": declares(4)}, "memory",
                                      r"lowering_bytes declares 2,164 bytes, 2,160 were taken.*'patches': 2160"),
    "nothing declared": (Im2col, {"lowering_bytes": lambda self, p, r: 0}, "memory",
                         "takes more scratch than it declares"),
    "panels declared that are not used": (Im2col, {"panel_bytes": lambda self, p, r: 512}, "memory",
                                          "panel_bytes declares 512 bytes, 0 were taken"),
    "a product not declared": (Im2col, {"gemm_calls": lambda self, p, r: [], "run": spoiled()}, "gemm_calls",
                               r"1 product\(s\) m=4 n=20 k=27, batch 1, split=True were issued and not declared"),
    "a product not issued": (Im2col, {"gemm_calls": one_more, "run": spoiled()}, "gemm_calls",
                             "m=7 n=8 k=9.*declared and not issued"),
    "no bias": (Im2col, {"run": spoiled(forget("bias"))}, "result",
                "this is what comes out when the bias is not added"),
    "no residual": (Reference, {"run": spoiled(forget("residual"))}, "result", "when the residual is not added"),
    "writes outside": (Reference, {"run": spoiled(None, overrun)}, "writes outside", r"around the output, at index"),
    "reads what it does not use outside": (Reference, {"run": spoiled(overreach)}, "run",
                                           "EmulationError.*is outside its"),
    "reads the row below": (Im2col, {"write": written(ih=lambda g: g.ih + 1)}, "run", "EmulationError.*is outside its"),
    "scratch half written": (Im2col, {"write": written(depth=lambda g: -1)}, "result",
                             "got nan.*uninitialised scratch reaches the result"),
    "strides swapped": (Im2col, {"write": written(sh=lambda g: g.sw, sw=lambda g: g.sh)}, "result",
                        "when the strides sh and sw are swapped"),
    "pads off by one": (Im2col, {"write": written(pad_top=lambda g: g.pad_top - 1)}, "result", "pads are off by one"),
    "weights not copied": (Reference, {"prepare_weights": lambda self, ctx, w: w}, "result",
                           "prepare_weights keeps the caller's array"),
    "weights changed": (Reference, {"prepare_weights": clear_weights}, "prepare_weights", "wrote into the weights"),
    "the input changed": (Reference, {"run": spoiled(None, change_input)},
                          "inputs are left alone", "the input was changed"),
}  # fmt: skip
POSED = {"sh": 2, "sw": 1, "pad_top": 1, "pad_left": 2, "pad_bottom": 1, "ih": 7}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_is_named(fault):
    base, methods, rule, words = WRONG[fault]
    with pytest.raises(ConformanceError, match=words) as error:
        check_problem(planted(base, **methods), problem(**POSED), device="cuda")
    assert error.value.check == rule


def test_what_depends_on_the_order_of_threads_is_seen():
    wrong = planted(Reference, run=spoiled(None, lambda ctx, x, _, out: ctx.launch("lift", UNORDERED, (1,), x, out)))
    assert check_problem(wrong, problem(), device="cuda")
    with pytest.raises(ConformanceError, match="repeatable: differ from those"):
        conformance._check_threads(trial(wrong(), problem()))


def counter(kept, out):
    if cuda.threadIdx.x == 0:
        out[0] += kept[0]
        kept[0] += float32(1)


COUNTER = Kernel("counter", counter, types.void(pointer(4), pointer(4)), 32, 1)


def test_what_a_recorded_run_leaves_behind_is_seen():
    run = spoiled(None, lambda ctx, x, _, out: ctx.launch("lift", COUNTER, (1,), ctx.keep((1,)), out))
    with pytest.raises(ConformanceError, match="repeatable: a second run"):
        check_problem(planted(Reference, run=run), problem(), device="cuda")


def beyond_scratch(ctx, x, *rest):
    spare = ctx.take("spare", (8,))
    beyond(ctx, x, spare.reshape(1, 1, 1, 8), 9)


def beyond_kept(self, ctx, w):
    kept = right(self).prepare_weights(ctx, w)
    beyond(ctx, w, kept[-1:, -1:, -1:], w.shape[3] + 1)
    return kept


def beyond_weights(self, ctx, w):
    pair = ctx.keep((1, 1, 1, 2))
    beyond(ctx, w[-1:, -1:, -1:, -1:], pair, 1)
    beyond(ctx, pair, w[-1:, -1:, -1:, -1:], 2)
    return right(self).prepare_weights(ctx, w)


@pytest.mark.parametrize(
    ("base", "methods", "rule", "words"),
    [
        (Reference, {"run": spoiled(beyond_scratch), "lowering_bytes": lambda self, p, r: 32}, "writes outside",
         "in the scratch, 1 bytes behind its slice 'spare'"),
        (Reference, {"prepare_weights": beyond_kept}, "prepare_weights",
         "around what it keeps, 1 bytes behind its slice"),
        (Reference, {"prepare_weights": beyond_weights}, "prepare_weights",
         "around the weights it was given, 1 elements after"),
        (Reference, {"run": spoiled(None, overrun)}, "writes outside", "around the output"),
        (Im2col, {"write": written(ih=lambda g: g.ih + 1)}, "result", "it reads outside the input"),
    ],
)  # fmt: skip
def test_memory_around_the_arrays_of_a_real_device(zoned, base, methods, rule, words):
    with pytest.raises(ConformanceError, match=words) as error:
        check_problem(planted(base, **methods), problem(pad_bottom=1), device="cuda")
    assert error.value.check == rule


def test_the_zones_of_a_real_device_let_what_is_right_pass(zoned):
    for lowering, channels in ((Reference, 3), (Im2col, 36), (make_lowering("cct-type2"), 3)):
        assert check_problem(lowering, problem(ic=channels, ih=4, oc=3), device="cuda")
    assert check_problem(planted(Reference, run=spoiled(overreach)), problem(), device="cuda"), "which a GPU hides"


def test_a_device_that_is_not_there():
    with pytest.raises(nc.DeviceUnavailable, match="cuda:1 does not exist"):
        check_lowering(Reference, device="cuda:1")


def test_a_lowering_without_a_form_has_nothing_to_show_on_a_device():
    plain = type("Plain", (Reference,), {"name": "plain", "devices": ("cpu",), "cuda": None})
    report = check_lowering(plain, quick=True, device="cuda")
    assert not report.ran
    assert "no form for device 'cuda'" in next(iter(report.refused.values()))


def test_the_emulators_grid_holds_every_kind_of_the_grid():
    labels = {label for label, _ in conformance.grid(True, 0)}
    assert labels <= {label for label, _ in sketch()}
    assert {(p.layout, p.dtype) for _, p in sketch() if p.kh > 1} == {(p.layout, p.dtype) for _, p in sketch(True)}
    assert len(list(sketch(True))) == 4 * len({label for label, _ in sketch()})
