"""Arrays of other libraries and of odd kinds: shared where that can be, refused with words where it cannot."""

from __future__ import annotations

import os

import numpy as np
import oracles
import pytest
from cases import in_memory, whole
from numpy.testing import assert_array_equal

import numbaconv as nc
from numbaconv.arrays import host_array


class Foreign:
    """Another library's array: it offers its memory through DLPack and nothing else."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device, self.asked = array, device, 0

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **options):
        self.asked += 1
        return self.array.__dlpack__(**options)


class OnAGpu:
    __cuda_array_interface__ = {"shape": (1, 3, 8, 8), "typestr": "<f4", "data": (4096, False), "version": 3}  # noqa: RUF012


@pytest.fixture
def arrays(rng):
    x, w, bias = whole(rng, 2, 3, 9, 10), whole(rng, 4, 3, 3, 3), whole(rng, 4)
    return x, w, bias, oracles.conv2d(x, w, bias)


# ------------------------------------------------------------------------------------------------------------ DLPack


def test_anything_with_dlpack_is_taken_without_a_copy(rng, arrays):
    x, w, bias, wanted = arrays
    assert_array_equal(nc.conv2d(Foreign(x), Foreign(w), Foreign(bias)), wanted)
    assert_array_equal(nc.Conv2d.from_arrays(Foreign(w), Foreign(bias))(Foreign(x)), wanted)
    a, b, row = whole(rng, 20, 30), whole(rng, 30, 25), whole(rng, 25)
    got = nc.gemm(Foreign(a), Foreign(b.T), transpose_b=True, bias=Foreign(row))
    assert type(got) is np.ndarray
    assert_array_equal(got, oracles.gemm(a, b, bias=row))
    assert_array_equal(nc.gemm(nc.prepack_a(Foreign(a)), b), oracles.matmul(a, b))
    assert_array_equal(nc.linear(Foreign(a), Foreign(b.T)), oracles.matmul(a, b))
    foreign = Foreign(x)
    shared = host_array(foreign, "x")
    assert np.shares_memory(shared, x)
    assert shared.strides == x.strides
    assert foreign.asked == 1


@pytest.mark.parametrize("device", [(2, 0), (2, 1), (13, 0), (10, 0)])
def test_memory_of_a_device_is_refused_not_copied(arrays, device):
    x, w, bias, _ = arrays
    for name in ("x", "w", "bias"):
        arguments = [Foreign(v, device) if name == here else v for here, v in (("x", x), ("w", w), ("bias", bias))]
        with pytest.raises(nc.DeviceUnavailable, match=f"{name} lives on"):
            nc.conv2d(*arguments)
    with pytest.raises(nc.DeviceUnavailable, match="b lives on"):
        nc.gemm(whole(np.random.default_rng(0), 3, 3), Foreign(x[0, 0], device))


def test_an_array_on_a_gpu_is_refused(arrays):
    _, w, _, _ = arrays
    with pytest.raises(nc.DeviceUnavailable, match=r"x lives on cuda: .*copy it to the host"):
        nc.conv2d(OnAGpu(), w)


class Stubborn(Foreign):
    def __dlpack__(self, **options):
        raise BufferError("this one is lent to nobody")


def test_an_array_that_cannot_be_shared_says_why(arrays):
    x, w, _, _ = arrays
    with pytest.raises(TypeError, match=r"x: cannot share its memory .*lent to nobody"):
        nc.conv2d(Stubborn(x), w)


@pytest.mark.parametrize("thing", [3.5, "x", None, [[1.0, 2.0]], np.float32(2), {"a": 1}], ids=repr)
def test_things_that_are_no_arrays(arrays, thing):
    x, w, _, _ = arrays
    with pytest.raises(TypeError, match=f"x: expected an array.*{type(thing).__name__}"):
        nc.conv2d(thing, w)
    with pytest.raises(TypeError, match="w: expected an array"):
        nc.conv2d(x, thing)
    with pytest.raises(TypeError, match="b: expected an array"):
        nc.gemm(w[0, 0], thing)
    with pytest.raises(TypeError, match="x: expected an array"):
        nc.linear(thing, w[0, 0])
    with pytest.raises(TypeError, match="x: expected an array"):
        nc.Conv2d.from_arrays(w)(thing)


# ------------------------------------------------------------------------------------------------------------- NumPy


@pytest.mark.parametrize("dtype", [">f4", ">f8"])
def test_elements_in_the_other_byte_order_are_refused(dtype):
    foreign = np.ones((4, 4), dtype)
    with pytest.raises(nc.ShapeError, match="a: expected float32 or float64"):
        nc.gemm(foreign, foreign)
    with pytest.raises(nc.ShapeError, match="expected float32 or float64"):
        nc.gemm(foreign, foreign, out=np.zeros((4, 4), dtype))
    native = foreign.astype(dtype[1:])
    with pytest.raises(nc.ShapeError, match="out: expected"):
        nc.gemm(native, native, out=np.zeros((4, 4), dtype))
    with pytest.raises(nc.ShapeError, match="out: expected"):
        nc.conv2d(native[None, None], native[None, None], out=np.zeros((1, 1, 1, 1), dtype))


def test_subclasses_and_files_of_numpy(rng, tmp_path):
    a, b = whole(rng, 20, 30), whole(rng, 30, 25)
    wanted = oracles.matmul(a, b)
    a.tofile(tmp_path / "a")
    mapped = np.memmap(tmp_path / "a", np.float32, "r", shape=(20, 30))
    assert_array_equal(nc.gemm(mapped, b), wanted)

    class Named(np.ndarray):
        pass

    got = nc.gemm(a.view(Named), b.view(Named))
    assert type(got) is np.ndarray
    assert_array_equal(got, wanted)
    out = np.full((20, 25), np.nan, np.float32).view(Named)
    assert nc.gemm(a, b, out=out) is out
    assert_array_equal(out, wanted)
    kept = np.memmap(tmp_path / "out", np.float32, "w+", shape=(20, 25))
    nc.gemm(a, b, out=kept)
    assert_array_equal(kept, wanted)


# ------------------------------------------------------------------------------------------------------------- torch


@pytest.fixture
def torch():
    if os.environ.get("NUMBACONV_REQUIRE_PEERS"):
        import torch
    else:
        torch = pytest.importorskip("torch")
    return torch


@pytest.mark.peers
def test_tensors_of_torch_in_any_memory_format(torch, arrays):
    x, w, bias, wanted = arrays
    weights = torch.from_numpy(w), torch.from_numpy(bias)
    tensor = torch.from_numpy(x)
    assert np.shares_memory(host_array(tensor, "x"), x)
    got = nc.conv2d(tensor, *weights)
    assert type(got) is np.ndarray
    assert_array_equal(got, wanted)
    last = tensor.to(memory_format=torch.channels_last)
    got = nc.conv2d(last, *weights)
    assert_array_equal(got, wanted)
    assert in_memory(got, "nhwc").strides == got.strides  # the result keeps the memory order
    for other in (tensor[:, :, 1:, ::2], tensor.transpose(2, 3), tensor.expand(2, 3, 9, 10)):
        assert_array_equal(nc.conv2d(other, *weights), oracles.conv2d(other.numpy(), w, bias))
    assert_array_equal(nc.conv2d(tensor.double(), weights[0].double(), weights[1].double()), wanted)
    assert_array_equal(nc.Conv2d.from_arrays(*weights)(last), wanted)
    one = torch.ones(1, 3, 9, 10)[:, :1].expand(1, 3, 9, 10)
    assert_array_equal(nc.conv2d(one, *weights), oracles.conv2d(np.ones((1, 3, 9, 10)), w, bias))


@pytest.mark.peers
def test_the_same_arguments_as_torch_give_the_same_convolution(torch, rng):
    x, w, bias = whole(rng, 2, 6, 12, 13), whole(rng, 8, 3, 3, 2), whole(rng, 8)
    functional = torch.nn.functional
    for arguments in ((1, 0, 1), (2, 1, 1), ((2, 1), (1, 2), (2, 3)), (3, (2, 0), 1), (1, "valid", 1), (1, "same", 2)):
        tensors = (torch.from_numpy(value) for value in (x, w, bias))
        wanted = functional.conv2d(*tensors, *arguments, groups=2).numpy()
        assert_array_equal(nc.conv2d(x, w, bias, *arguments, groups=2), wanted)
        layer = torch.nn.Conv2d(6, 8, (3, 2), *arguments, groups=2)
        ours = nc.Conv2d(6, 8, (3, 2), *arguments, groups=2)
        assert ours.weight.shape == tuple(layer.weight.shape)
        ours.set_weights(layer.weight.detach(), layer.bias.detach())
        difference = ours(x) - layer(torch.from_numpy(x)).detach().numpy()
        assert np.abs(difference).max() < 1e-5
    rows = whole(rng, 5, 7, 40), whole(rng, 30, 40), whole(rng, 30)
    wanted = functional.linear(*(torch.from_numpy(value) for value in rows)).numpy()
    assert_array_equal(nc.linear(*rows), wanted)


@pytest.mark.peers
def test_tensors_that_are_refused(torch, arrays):
    x, w, _, _ = arrays
    tensor = torch.from_numpy(x)
    with pytest.raises(TypeError, match=r"x: cannot share its memory.*detached"):
        nc.conv2d(tensor.clone().requires_grad_(), w)
    for dtype in ("float16", "int32", "int64", "uint8", "bool"):
        with pytest.raises(nc.ShapeError, match=f"x: expected float32 or float64, got {dtype}"):
            nc.conv2d(tensor.to(getattr(torch, dtype)), w)
    with pytest.raises((TypeError, nc.ShapeError), match="x"):
        nc.conv2d(tensor.to(torch.bfloat16), w)
    with pytest.raises((TypeError, nc.ShapeError, nc.DeviceUnavailable), match="x"):
        nc.conv2d(torch.empty(1, 3, 9, 10, device="meta"), w)
