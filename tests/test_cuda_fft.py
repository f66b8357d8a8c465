"""Fourier transforms on a GPU, emulated: NumPy's transforms in the place of cuFFT's, all the rest as it is.

test_cuda_lowerings.py has their contract: memory and products as declared, nothing read or written outside.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from cases import in_memory, oracle, problem

pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets: pip install greenlet")

import fake_cupy

import numbaconv as nc
from numbaconv import division
from numbaconv.devices.cuda import runtime
from numbaconv.lowerings import _cuda_fft, fft
from numbaconv.lowerings._fft_division import Tiles
from numbaconv.plan import _planned
from numbaconv.registry import lowerings, make_lowering
from numbaconv.request import Request
from numbaconv.select import check
from numbaconv.testing import ConformanceError, check_lowering

NAMES = ("fft", "fft-tiled")
LAYOUTS = ("nchw", "nhwc")
ON_CUDA = Request(device="cuda")
PADS = {"pad_top": 1, "pad_left": 2, "pad_bottom": 2}
SMALL = {"mb": 2, "ic": 3, "oc": 2, "ih": 5, "iw": 4} | PADS

KINDS = {
    "pads": SMALL,
    "groups": SMALL | {"ic": 4, "oc": 2, "g": 2, "kw": 2, "ih": 4},
    "strides": SMALL | {"ih": 8, "iw": 9, "kw": 4, "sh": 2, "sw": 3},
    "strides and dilation": SMALL | {"ih": 9, "kw": 2, "sh": 2, "dh": 3, "dw": 2},
    "pads beyond the input": {"ic": 2, "oc": 2, "ih": 2, "iw": 3, "pad_top": 4, "pad_left": 3, "pad_right": 5},
    "taps that would share a place on the circle": {"ic": 1, "oc": 2, "ih": 1, "iw": 1, "kh": 5, "kw": 5}
    | dict.fromkeys(("pad_top", "pad_left", "pad_bottom", "pad_right"), 3),
    "a kernel of one row": {"ic": 2, "oc": 3, "ih": 3, "iw": 9, "kh": 1},
    "a kernel of one column": {"mb": 2, "ic": 2, "oc": 3, "ih": 9, "iw": 3, "kw": 1, "pad_left": 1},
}


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    _planned.cache_clear()
    yield runtime()
    _planned.cache_clear()
    division.divide.cache_clear()


@pytest.fixture
def cupy(monkeypatch):
    return fake_cupy.install(monkeypatch)


def normal(rng, p):
    shapes = p.input_shape, p.weight_shape, (p.oc,), p.output_shape
    return [rng.standard_normal(shape).astype(p.dtype) for shape in shapes]


def close(got, wanted, p, name, x, w):
    """Within the lowering's bound, by the magnitudes of what is summed."""
    factor = make_lowering(name).error_bound(p, ON_CUDA)
    magnitudes = oracle(p, np.abs(x), np.abs(w))
    return (np.abs(got - wanted) <= factor * np.finfo(p.dtype).eps * p.K**0.5 * magnitudes.max()).all()


def pads_of(p):
    return p.pad_top, p.pad_left, p.pad_bottom, p.pad_right


def convolve(p, x, w, *rest, **named):
    return nc.conv2d(x, w, *rest, stride=(p.sh, p.sw), padding=pads_of(p), dilation=(p.dh, p.dw), groups=p.g,
                     device="cuda", **named)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ results


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_problem(rng, cupy, kind):
    """Layout and element type by turns: the suite of the contract has them all."""
    for turn, name in enumerate(NAMES, list(KINDS).index(kind)):
        layout, dtype = LAYOUTS[turn % 2], ("float32", "float64")[turn // 2 % 2]
        p = problem(**KINDS[kind], dtype=dtype)
        x, w, bias, residual = normal(rng, p)
        got = convolve(p, in_memory(x, layout), w, bias, algorithm=name, activation="relu",
                       residual=in_memory(residual, layout))  # fmt: skip
        assert got.dtype == dtype
        assert close(got, oracle(p, x, w, bias, residual, "relu"), p, name, x, w)


@pytest.mark.parametrize("sizes", [{"sh": 2, "sw": 3}, {"sh": 3, "dw": 2}], ids=str)
def test_several_tiles(rng, monkeypatch, cupy, sizes):
    p = problem(**SMALL | {"mb": 1, "ic": 2, "ih": 9, "iw": 11} | sizes)
    monkeypatch.setattr(fft, "chosen_tiles", lambda problem: Tiles(6, 4, 8, 8 - 2 * p.dw))
    x, w, bias, residual = normal(rng, p)
    assert min(make_lowering("fft-tiled").form("cuda").tiles(p).counts(p)) > 1
    got = convolve(p, x, w, bias, algorithm="fft-tiled", residual=residual)
    assert close(got, oracle(p, x, w, bias, residual), p, "fft-tiled", x, w)


@pytest.mark.parametrize("name", NAMES)
def test_no_images(cupy, name):
    p = problem(**SMALL | {"mb": 0})
    x, w = np.zeros(p.input_shape, "f4"), np.ones(p.weight_shape, "f4")
    assert convolve(p, x, w, algorithm=name).shape == p.output_shape
    assert nc.plan(p, name, "cuda").lowering_bytes == 0


@pytest.mark.parametrize("name", NAMES)
def test_pixels_that_no_output_reads_spoil_none(rng, cupy, name):
    p = problem(ic=1, oc=2, ih=8, iw=9, kh=4, kw=4, sh=3, sw=3)
    assert make_lowering(name).form("cuda").tiles(p)[::2] == (8, 8)  # tiles reach beyond the 7 rows and columns read
    x, w, *_ = normal(rng, p)
    wanted = oracle(p, x, w)
    x[:, :, 7:], x[..., 7:] = np.nan, np.nan
    assert close(convolve(p, x, w, algorithm=name), wanted, p, name, np.nan_to_num(x), w)


def test_more_frequencies_than_one_launch_takes(rng, monkeypatch, cupy):
    monkeypatch.setattr(_cuda_fft, "MOST_DOWN", 4)
    p = problem(mb=2, ic=2, oc=2, ih=3, iw=4, kh=2, kw=2)
    x, w, *_ = normal(rng, p)
    assert len(make_lowering("fft").form("cuda").gemm_calls(p, ON_CUDA)) > 2
    assert close(convolve(p, x, w, algorithm="fft"), oracle(p, x, w), p, "fft", x, w)


# ---------------------------------------------------------------------------------------------------- CuPy's part in it


def test_transforms_are_queued_on_the_stream_of_the_call_every_time(rng, emulated, cupy):
    p = problem(ic=1, oc=2, ih=3, iw=4, kh=2, kw=2)
    x, w, *_ = normal(rng, p)
    layer = nc.Conv2d.from_arrays(w, padding=pads_of(p), algorithm="fft", device="cuda")
    wanted = oracle(p, x, w)
    for stream in (None, 7, 7):
        assert close(layer(emulated.to_device(x), stream=stream).copy_to_host(), wanted, p, "fft", x, w)
        if stream is None:
            assert set(cupy.streams) == {0}
            cupy.streams.clear()
    assert cupy.streams == [7] * 4  # a recording would have left them out
    assert not cupy._current
    assert min(layer.stage_times[stage] for stage in ("lower", "multiply", "lift")) > 0


def test_memory_is_tiles_and_matrices():
    p = problem(mb=2, ic=4, ih=8, iw=8, oc=6, kh=3, kw=3, g=2)
    form = make_lowering("fft").form("cuda")
    assert form.tiles(p) == (8, 6, 8, 6)
    frequencies, pitch = 8 * 5, 4
    assert form.lowering_bytes(p, ON_CUDA) == 4 * (2 * 6 * 2 * frequencies + 2 * (4 + 6) * frequencies * pitch)
    (call,) = form.gemm_calls(p, ON_CUDA)
    assert (call.m, call.n, call.k, call.batch) == (2 * 3, 2, 2 * 2, 2 * frequencies)


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("name", NAMES)
def test_without_cupy_it_is_refused_in_words(rng, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "cupy", None)
    p = problem(**SMALL)
    x, w, *_ = normal(rng, p)
    reason = r"cuFFT through CuPy, which is not installed here: pip install cupy-cuda13x \(or cupy-cuda12x\)"
    with pytest.raises(nc.UnsupportedProblem, match=reason):
        convolve(p, x, w, algorithm=name)
    told = nc.explain(p, device="cuda")
    (row,) = (row for row in told.rows if row.name == name)
    assert not row.runs
    assert "pip install cupy-cuda13x" in str(told)
    assert not told.chosen.startswith("fft")
    stride = problem(kh=1, sh=2)
    assert "stride 2 leaves out pixels" in check(make_lowering(name), stride, ON_CUDA).reason  # the CPU's comes first
    assert check(make_lowering(name), p, Request())


def test_an_emulated_device_has_no_cufft(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.FakeCupy())
    assert "not run on an emulated device" in check(make_lowering("fft"), problem(), ON_CUDA).reason


def test_a_broken_cupy_is_told(rng, monkeypatch, cupy, tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('libcufft.so.12 is not there')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy")
    p = problem(**SMALL)
    x, w, *_ = normal(rng, p)
    with pytest.raises(nc.DeviceUnavailable, match="cannot be imported: libcufft"):
        convolve(p, x, w, algorithm="fft")


def test_auto_never_takes_it(cupy):
    p = problem(mb=2, ic=16, oc=16, ih=56, iw=56, kh=31, kw=31)
    told = nc.explain(p, device="cuda")
    assert {row.name for row in told.rows if row.runs} >= set(NAMES)
    assert told.chosen not in NAMES


def test_weights_that_32_bits_do_not_count_are_refused(cupy):
    huge = problem(ic=1 << 12, oc=1 << 11, ih=12, iw=12)
    assert "more elements than 32 bits count" in check(make_lowering("fft"), huge, ON_CUDA).reason


def test_a_form_that_lacks_something_is_left_out_of_a_check(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    (cls,) = (cls for cls in lowerings("fft") if cls.name == "fft")
    report = check_lowering(cls, quick=True, device="cuda")
    assert not report.ran
    assert _cuda_fft.MISSING in report.refused.values()
    monkeypatch.setattr(_cuda_fft.CudaFFT, "supports", lambda self, p, r: _cuda_fft.Support("I do not like it"))
    monkeypatch.setattr(_cuda_fft.CudaFFT, "lacking", lambda self, r: "")
    with pytest.raises(ConformanceError, match="all of the grid was refused"):
        check_lowering(cls, quick=True, device="cuda")
