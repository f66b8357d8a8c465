"""The public names with ``device="cuda"``, in the emulator: what goes in, what comes out, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import numbaconv as nc

pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets: pip install greenlet")

from numbaconv import plan_hybrid
from numbaconv.devices import cuda as cuda_devices
from numbaconv.devices.array import DeviceArray
from numbaconv.lowering_cuda import CudaContext, StageTimes
from numbaconv.plan import make_plan
from numbaconv.plan_cuda import run_parts
from numbaconv.registry import make_lowering

SIZES = {"mb": 2, "ic": 5, "oc": 7, "ih": 8, "iw": 9}


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    return cuda_devices.runtime()


def whole(rng, *shape, dtype=np.float32):
    return rng.integers(-4, 5, shape).astype(dtype)


@pytest.fixture
def arrays(rng):
    """x, w, bias, residual; and what comes out with padding 1 and relu."""
    x, w, bias = whole(rng, 2, 5, 8, 9), whole(rng, 7, 5, 3, 3), whole(rng, 7)
    residual = whole(rng, 2, 7, 8, 9)
    return x, w, bias, residual, nc.conv2d(x, w, bias, padding=1, residual=residual, activation="relu")


def launches(monkeypatch, emulated):
    """The names of the kernels that run from now on."""
    names, launch = [], type(emulated).launch

    def note(self, kernel, grid, arguments, stream=None):
        names.append(kernel.name)
        launch(self, kernel, grid, arguments, stream)

    monkeypatch.setattr(type(emulated), "launch", note)
    return names


def test_host_arrays_in_host_array_out(arrays, monkeypatch, emulated):
    x, w, bias, residual, want = arrays
    ran = launches(monkeypatch, emulated)
    got = nc.conv2d(x, w, bias, padding=1, residual=residual, activation="relu", device="cuda")
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, want)
    assert ran, "it ran somewhere else"
    out = np.full_like(want, np.nan)
    assert nc.conv2d(x, w, bias, padding=1, residual=residual, activation="relu", device="cuda:0", out=out) is out
    np.testing.assert_array_equal(out, want)


def test_device_arrays_stay_where_they_are(arrays, emulated):
    x, w, bias, residual, want = arrays
    on_device = [emulated.to_device(array) for array in (x, w, bias, residual)]
    got = nc.conv2d(*on_device[:3], padding=1, residual=on_device[3], activation="relu")
    assert isinstance(got, DeviceArray)
    assert got.device == "cuda:0"
    np.testing.assert_array_equal(got.copy_to_host(), want)
    mixed = nc.conv2d(on_device[0], w, bias, padding=1, residual=residual, activation="relu")
    np.testing.assert_array_equal(mixed.copy_to_host(), want)


@pytest.mark.parametrize("way", ["plain", "gaps", "overlaps"])
def test_a_device_array_takes_the_result(rng, emulated, way):
    x, w = whole(rng, 2, 6, 8, 8), whole(rng, 6, 6, 3, 3)
    want = nc.conv2d(x, w, padding=1)
    moved = emulated.to_device(x)
    room = emulated.to_device(np.full((2, 6, 8, 17), np.nan, np.float32))
    out = {"plain": emulated.empty((2, 6, 8, 8), np.float32), "gaps": room[..., 1::2], "overlaps": moved}[way]
    assert nc.conv2d(moved, w, padding=1, out=out) is out
    np.testing.assert_array_equal(out.copy_to_host(), want)
    if way == "gaps":
        assert np.isnan(room.copy_to_host()[..., ::2]).all(), "wrote between the elements"


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("order", ["nchw", "nhwc"])
def test_the_result_keeps_the_memory_order(rng, emulated, layout, order):
    x, w = whole(rng, 2, 6, 8, 7), whole(rng, 4, 6, 3, 3)
    want = nc.conv2d(x, w)
    axes = {"nchw": (0, 1, 2, 3), "nhwc": (0, 2, 3, 1)}
    lying = np.ascontiguousarray(x.transpose(axes[order])).transpose(np.argsort(axes[order]))
    given = emulated.to_device(lying.transpose(axes[layout]))
    got = nc.conv2d(given, w, layout=layout)
    np.testing.assert_array_equal(got.copy_to_host(), want.transpose(axes[layout]))
    channels = axes[layout].index(1)
    assert (got.strides[channels] == 4) == (order == "nhwc")


def test_one_image_and_none(rng, emulated):
    x, w = whole(rng, 5, 8, 9), whole(rng, 7, 5, 3, 3)
    np.testing.assert_array_equal(nc.conv2d(x, w, device="cuda"), nc.conv2d(x, w))
    assert nc.conv2d(emulated.to_device(x), w).shape == (7, 6, 7)
    assert nc.conv2d(x[None][:0], w, device="cuda").shape == (0, 7, 6, 7)
    assert nc.conv2d(emulated.to_device(x[None][:0]), w).shape == (0, 7, 6, 7)


def test_views_of_device_arrays(rng, emulated):
    x, w = whole(rng, 4, 9, 11, 12), whole(rng, 6, 4, 3, 3)
    view = (slice(1, 3), slice(2, 6), slice(1, None, 2), slice(None, None, 3))
    np.testing.assert_array_equal(nc.conv2d(emulated.to_device(x)[view], w).copy_to_host(), nc.conv2d(x[view], w))
    with pytest.raises(nc.ShapeError, match=r"x: strides .* backwards"):
        nc.conv2d(emulated.to_device(x)[:, :4, ::-1], w)


def test_a_torch_tensor_takes_part_without_a_copy(arrays, emulated):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, w, bias, residual, want = arrays
    got = nc.conv2d(emulated.to_device(x), w, bias, padding=1, residual=residual, activation="relu")
    shared = torch.from_dlpack(got)
    np.testing.assert_array_equal(shared.numpy(), want)
    shared += 1
    np.testing.assert_array_equal(got.copy_to_host(), want + 1)


def test_a_layer_keeps_its_weights_there(arrays, emulated, monkeypatch):
    x, w, bias, residual, want = arrays
    layer = nc.Conv2d.from_arrays(w, bias, padding=1, activation="relu")
    np.testing.assert_array_equal(layer(x, residual=residual), want)
    assert layer.to("cuda") is layer
    np.testing.assert_array_equal(layer(x, residual=residual), want)
    assert "gemm" in layer.algorithm or layer.algorithm in nc.list_lowerings(device="cuda")
    assert layer.prepared_bytes > 0
    assert layer.stage_times["multiply"] > 0
    ran = launches(monkeypatch, emulated)
    moved = layer(emulated.to_device(x), residual=emulated.to_device(residual))
    first = list(ran)
    ran.clear()
    moved = layer(emulated.to_device(x), residual=emulated.to_device(residual))
    np.testing.assert_array_equal(moved.copy_to_host(), want)
    assert len(ran) <= len(first)
    assert not any(name.startswith("copy4") for name in ran), "weights were prepared again"
    layer.to("cpu")
    np.testing.assert_array_equal(layer(x, residual=residual), want)
    other = whole(np.random.default_rng(5), *w.shape)
    layer.to("cuda").set_weights(other, bias)
    np.testing.assert_array_equal(layer(x), nc.conv2d(x, other, bias, padding=1, activation="relu"))


def test_a_layer_without_a_device_goes_where_its_input_is(arrays, emulated):
    x, w, bias, _, _ = arrays
    layer = nc.Conv2d.from_arrays(w, bias)
    assert isinstance(layer(emulated.to_device(x)), DeviceArray)
    assert isinstance(layer(x), np.ndarray)


def test_a_handle(arrays, emulated):
    x, w, bias, residual, want = arrays
    problem = nc.ConvProblem.from_arrays(x, w, padding=1)
    handle = nc.plan(problem, "im2col", "cuda", bias=True, residual=True, activation="relu").prepare(w, bias)
    np.testing.assert_array_equal(handle(x, residual=residual), want)
    moved = handle(emulated.to_device(x), residual=emulated.to_device(residual))
    np.testing.assert_array_equal(moved.copy_to_host(), want)
    assert handle.algorithm == "im2col"
    assert handle.lowering_bytes == 5 * 9 * 8 * 9 * 4  # image by image
    assert handle.prepared_bytes >= w.nbytes
    assert set(handle.stage_times) == {"lower", "multiply", "lift"}
    assert handle.stage_times["lower"] > 0
    assert handle.stage_times["lift"] == 0
    assert isinstance(handle.stage_times, StageTimes)
    moved_weights = nc.plan(problem, "im2col", "cuda").prepare(emulated.to_device(w))
    np.testing.assert_array_equal(moved_weights(x), nc.conv2d(x, w, padding=1))


def test_workspace_is_limited_on_a_device(rng):
    problem = nc.ConvProblem(mb=4, ic=4, ih=16, iw=16, oc=4, kh=3, kw=3)
    x, w = whole(rng, 4, 4, 16, 16), whole(rng, 4, 4, 3, 3)
    free = nc.plan(problem, "im2col:batching=whole", "cuda")
    tight = nc.plan(problem, "im2col:batching=whole", "cuda", max_workspace=free.workspace_bytes // 10)
    assert tight.workspace_bytes <= free.workspace_bytes // 10
    np.testing.assert_array_equal(tight.prepare(w)(x), nc.conv2d(x, w))
    with pytest.raises(nc.WorkspaceExceeded):
        nc.plan(problem, "im2col", "cuda", max_workspace=100)


def test_scratch_beyond_what_was_declared_is_an_error(emulated):
    problem = nc.ConvProblem(mb=1, ic=1, ih=3, iw=3, oc=1, kh=3, kw=3)
    ctx = CudaContext(problem, nc.Request(device="cuda"), memory=emulated.empty((64,), np.uint8))
    with pytest.raises(MemoryError, match="declare more in lowering_bytes"):
        ctx.take("much", (17,))


def test_arrays_of_more_than_32_bits_are_cut(emulated):
    """Every part's arrays can be counted by the kernels; an image that cannot be is refused in words."""
    problem = nc.ConvProblem(mb=64, ic=64, ih=1024, iw=1024, oc=64, kh=3, kw=3, pad_top=1, pad_left=1, pad_bottom=1,
                             pad_right=1)  # fmt: skip
    for name in ("implicit-gemm", "im2col", "kn2row", "direct"):
        division = make_plan(problem, name, nc.Request(device="cuda")).division
        assert len(division.parts) > 1
        for part in division.parts:
            p = part.problem
            assert max(p.input_bytes, p.output_bytes) // 4 < 2**31
        assert division.lowering_bytes(nc.plan(problem, name, "cuda").plan.lowering) // 4 < 2**31
    huge = nc.ConvProblem(mb=1, ic=1024, ih=4096, iw=1024, oc=1, kh=1, kw=1)
    with pytest.raises(nc.UnsupportedProblem, match="more elements than 32 bits"):
        nc.plan(huge, "implicit-gemm", "cuda")


def test_parts_run_on_the_stream_they_are_given(arrays, emulated, monkeypatch):
    x, w, bias, _, _ = arrays
    seen, launch = [], type(emulated).launch

    def note(self, kernel, grid, arguments, stream=None):
        seen.append(stream)
        launch(self, kernel, grid, arguments, stream)

    monkeypatch.setattr(type(emulated), "launch", note)
    nc.conv2d(x, w, bias, device="cuda", stream=7)
    assert set(seen) == {7}
    with pytest.raises(nc.DeviceUnavailable, match="stream"):
        nc.conv2d(x, w, stream=7)
    with pytest.raises(TypeError, match="stream"):
        nc.conv2d(x, w, device="cuda", stream="fast")


def test_timing_is_optional(arrays, emulated):
    x, w, _, _, _ = arrays
    plan = nc.plan(nc.ConvProblem.from_arrays(x, w), "im2col", "cuda").plan
    prepared = plan.prepare(w)
    out = emulated.empty(plan.problem.output_shape, np.float32)
    assert sum(run_parts(plan, emulated.to_device(x), prepared, out, None, None, timed=False).values()) == 0
    np.testing.assert_array_equal(out.copy_to_host(), nc.conv2d(x, w))


@pytest.mark.parametrize(("precision", "most"), [("highest", 1e-6), ("high", 1e-5), ("medium", 1e-3)])
def test_precision_of_a_convolution(rng, precision, most):
    x, w = rng.standard_normal((1, 24, 9, 9), dtype=np.float32), rng.standard_normal((8, 24, 3, 3), dtype=np.float32)
    want = nc.conv2d(x.astype(np.float64), w.astype(np.float64))
    got = nc.conv2d(x, w, device="cuda", algorithm="implicit-gemm", precision=precision)
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert error <= most
    assert (error > 1e-5) == (precision == "medium")


# --------------------------------------------------------------------------------------------------- explanations


def test_explain_and_config(monkeypatch, capsys):
    text = "mb2ic16ih14oc16oh14kh3ph1"
    told = nc.explain(text, device="cuda")
    assert {row.name for row in told.rows if row.runs} <= set(nc.list_lowerings(device="cuda"))
    assert {row.name for row in told.rows} == set(nc.list_lowerings())
    assert "device cuda" in str(told)
    assert told.chosen in nc.list_lowerings(device="cuda")
    assert "three TF32 products" in str(nc.explain(text, device="cuda", precision="high"))
    assert "one TF32 product" in str(nc.explain(text, device="cuda", precision="medium"))
    assert "float32 runs" in str(nc.explain(f"{text}_f64", device="cuda", precision="high"))
    assert "float32 runs" in str(nc.explain(text, precision="high"))
    assert nc.cuda_available()
    assert "compute capability 8.0" in nc.show_config()
    monkeypatch.setenv("NUMBACONV_CUDA_CC", "7.5")
    assert "float32 runs" in str(nc.explain(text, device="cuda", precision="medium"))


def test_without_a_gpu_the_reason_is_told(monkeypatch, rng):
    monkeypatch.delenv("NUMBACONV_CUDA")
    if nc.cuda_available():
        pytest.skip("there is a GPU")
    x, w = whole(rng, 1, 1, 4, 4), whole(rng, 1, 1, 3, 3)
    for call in (
        lambda: nc.conv2d(x, w, device="cuda"),
        lambda: nc.gemm(x[0, 0], x[0, 0], device="cuda"),
        lambda: nc.Conv2d(1, 1, 3).to("cuda"),
        lambda: nc.plan("mb1ic1ih4oc1oh2kh3", device="cuda"),
    ):
        with pytest.raises(nc.DeviceUnavailable, match=r"(install|driver|device).*use device='cpu'"):
            call()
    assert "not available" in nc.show_config()


def test_importing_asks_for_nothing_of_cuda():
    code = "import sys, numbaconv; print([m for m in sys.modules if m.startswith(('cu', 'greenlet', 'numba_cuda'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --------------------------------------------------------------------------------------------------------- hybrid


@pytest.mark.parametrize("images", range(5))
def test_a_batch_is_divided_between_both(rng, monkeypatch, images):
    monkeypatch.setattr(plan_hybrid, "share_of", lambda *_: images)
    plan_hybrid.hybrid_plan.cache_clear()
    x, w, bias = whole(rng, 4, 5, 8, 9), whole(rng, 6, 5, 3, 3), whole(rng, 6)
    residual = whole(rng, 4, 6, 8, 9)
    want = nc.conv2d(x, w, bias, padding=1, residual=residual, activation="relu")
    layer = nc.Conv2d.from_arrays(w, bias, padding=1, activation="relu", device="cpu+cuda")
    np.testing.assert_array_equal(layer(x, residual=residual), want)
    assert (f"cuda, {images} of 4 images" in layer.algorithm) == (images > 0)
    assert ("(cpu)" in layer.algorithm) == (images < 4)
    out = np.full_like(want, np.nan)
    got = nc.conv2d(x, w, bias, padding=1, residual=residual, activation="relu", device="cpu+cuda", out=out)
    assert got is out
    np.testing.assert_array_equal(out, want)
    plan_hybrid.hybrid_plan.cache_clear()


def test_the_share_is_what_ends_both_at_the_same_time():
    assert plan_hybrid.share_of(8, 1.0, 3.0) == 6
    assert plan_hybrid.share_of(8, 3.0, 1.0) == 2
    assert plan_hybrid.share_of(4, 1.0, 100.0) == 4
    assert plan_hybrid.share_of(4, 100.0, 1.0) == 0
    assert plan_hybrid.share_of(10, 1.0, 1.0) == 5


def test_the_share_is_measured(rng):
    """In emulation the CPU wins by far."""
    plan_hybrid.hybrid_plan.cache_clear()
    handle = nc.plan("mb5ic3ih6oc4oh4kh3", "im2col", "cpu+cuda")
    assert handle.algorithm.endswith("(cpu)")
    x, w = whole(rng, 5, 3, 6, 6), whole(rng, 4, 3, 3, 3)
    np.testing.assert_array_equal(handle.prepare(w)(x), nc.conv2d(x, w))
    assert nc.conv2d(x[:1], w, device="cpu+cuda").shape == (1, 4, 4, 4)
    assert nc.conv2d(x[:0], w, device="cpu+cuda").shape == (0, 4, 4, 4)


def test_what_both_devices_cannot_share(rng, emulated):
    x, w = whole(rng, 2, 3, 6, 6), whole(rng, 4, 3, 3, 3)
    with pytest.raises(nc.DeviceUnavailable, match="x lives on a GPU and this runs on both"):
        nc.conv2d(emulated.to_device(x), w, device="cpu+cuda")
    with pytest.raises(nc.DeviceUnavailable, match="images of a convolution"):
        nc.gemm(w[0, 0], w[0, 0], device="cpu+cuda")
    with pytest.raises(nc.DeviceUnavailable, match="images of a convolution"):
        nc.Linear(3, 2).to("cpu+cuda")
    with pytest.raises(nc.DeviceUnavailable, match="apart"):
        nc.explain("mb2ic3ih6oc4oh4kh3", device="cpu+cuda")


# --------------------------------------------------------------------------------------------------------- replay


def test_a_second_call_replays_what_the_first_launched(rng, emulated, monkeypatch):
    """On other arrays, other results; with other strides or alignment everything is worked out anew."""
    w, bias = whole(rng, 6, 5, 3, 3), whole(rng, 6)
    layer = nc.Conv2d.from_arrays(w, bias, padding=1, algorithm="im2col", device="cuda")
    layer(whole(rng, 3, 5, 7, 8))
    runs = []
    form = make_lowering("im2col").cuda
    run = form.run
    monkeypatch.setattr(form, "run", lambda self, *arguments: (runs.append(1), run(self, *arguments)))
    for _ in range(3):
        x = whole(rng, 3, 5, 7, 8)
        np.testing.assert_array_equal(layer(x), nc.conv2d(x, w, bias, padding=1))
        assert layer.stage_times["lower"] > 0
        assert layer.stage_times["multiply"] > 0
    assert not runs
    wide = whole(rng, 3, 5, 7, 9)
    for view in (slice(0, 8), slice(1, 9)):  # the second begins four bytes later
        got = layer(emulated.to_device(wide)[..., view]).copy_to_host()
        np.testing.assert_array_equal(got, nc.conv2d(wide[..., view], w, bias, padding=1))
    assert len(runs) == 2 * 3  # a part an image


def test_views_of_one_buffer_are_not_confused(rng, emulated):
    w = whole(rng, 5, 5, 3, 3)
    layer = nc.Conv2d.from_arrays(w, None, padding=1, device="cuda")
    room = emulated.to_device(whole(rng, 2, 2, 5, 6, 7))
    for x, residual in ((0, 1), (1, 0), (0, 0)):
        got = layer(room[x], residual=room[residual]).copy_to_host()
        host = room.copy_to_host()
        np.testing.assert_array_equal(got, nc.conv2d(host[x], w, padding=1, residual=host[residual]))


def test_recordings_are_few(rng, monkeypatch):
    monkeypatch.setattr("numbaconv.plan_cuda.KEPT_RECORDINGS", 2)
    w = whole(rng, 3, 2, 1, 1)
    handle = nc.plan(nc.ConvProblem(mb=1, ic=2, ih=4, iw=9, oc=3, kh=1, kw=1), device="cuda").prepare(w)
    home = cuda_devices.runtime()
    room = home.to_device(whole(rng, 1, 2, 4, 12))
    for first in range(4):
        view = room[..., first : first + 9]
        np.testing.assert_array_equal(handle(view).copy_to_host(), nc.conv2d(view.copy_to_host(), w))
    assert len(handle.prepared.recordings) == 2
