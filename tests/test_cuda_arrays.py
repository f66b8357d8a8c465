"""Arrays in device memory against NumPy's, and shared with other libraries: emulated, and on a fake driver."""

from __future__ import annotations

import copy
import pickle
import sys

import numpy as np
import pytest
from fake_driver import Capsule, Shared, device, emulate, fake, fresh, numbers  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

from numbaconv.devices import cuda, dlpack
from numbaconv.devices.array import DeviceArray, as_device_array, may_share_memory
from numbaconv.errors import DeviceUnavailable, ShapeError

# ruff: noqa: F811 (fixtures are imported)


def test_an_array_has_numpys_attributes(device):
    host = numbers(2, 3, 5)
    array = device.to_device(host)
    for name in ("shape", "strides", "dtype", "itemsize", "ndim", "size", "nbytes"):
        assert getattr(array, name) == getattr(host, name)
    assert array.device == "cuda:0"
    assert array.pointer % 256 == 0
    assert array.span == (array.pointer, array.pointer + array.nbytes)
    assert len(array) == 2
    assert repr(array) == "DeviceArray((2, 3, 5), float32, device='cuda:0')"
    assert "strides=(4, 20, 60)" in repr(array.T)
    np.testing.assert_array_equal(array.copy_to_host(), host)


part = st.one_of(
    st.integers(-3, 2), st.none(), st.just(Ellipsis),
    st.builds(slice, *[st.none() | st.integers(-7, 7)] * 2, st.none() | st.integers(1, 3) | st.integers(-3, -1)),
)  # fmt: skip


@given(index=st.lists(part, max_size=5).map(tuple), order=st.permutations(range(3)))
def test_indexing_is_numpys(device, index, order):
    host = numbers(3, 5, 7).transpose(order)
    array = device.to_device(numbers(3, 5, 7)).transpose(order)
    try:
        want = host[index]
    except IndexError:
        with pytest.raises(IndexError):
            array[index]
        return
    got = array[index]
    assert isinstance(got, DeviceArray)
    np.testing.assert_array_equal(got.copy_to_host(), want)
    if np.ndim(want):
        assert got.strides == want.strides
    low, high = got.span
    assert array.span[0] <= low <= high <= array.span[1] or got.size == 0


@pytest.mark.parametrize("index", [True, np.array([0, 1]), [0], 1.0, "a", np.bool_(True)], ids=repr)
def test_what_would_copy_is_no_index(device, index):
    with pytest.raises(IndexError, match="whole numbers, slices"):
        device.empty((3, 4), "f")[index]


@given(shape=st.lists(st.integers(0, 12), max_size=4), cut=st.booleans(), back=st.booleans())
def test_reshape_copies_never(device, shape, cut, back):
    host = numbers(4, 6)
    array = device.to_device(host)
    if cut:
        host, array = host[:, ::2], array[:, ::2]
    try:
        want = host.reshape(shape[::-1] if back else shape)
        copied = not np.shares_memory(want, host) and want.size
    except ValueError:
        copied = True
    if copied:
        with pytest.raises(ValueError, match=r"."):
            array.reshape(*(shape[::-1] if back else shape))
    else:
        np.testing.assert_array_equal(array.reshape(shape[::-1] if back else shape).copy_to_host(), want)
    np.testing.assert_array_equal(array.reshape(-1, 3).copy_to_host(), host.reshape(-1, 3)) if not cut else None


def test_views_share_their_memory(device):
    array = device.empty((4, 3), "f")
    device.fill(array, 0)
    device.fill(array[1:2], 0xFF)
    assert np.isnan(array.copy_to_host()).sum() == 3
    assert not array.T.copy_to_host()[:, 0].any()
    assert array.view(np.uint8).shape == (4, 12)
    np.testing.assert_array_equal(array.view(np.int32)[1].copy_to_host(), [-1] * 3)
    with pytest.raises(ValueError, match="without gaps"):
        device.fill(array[:, ::2], 0)
    assert may_share_memory(array[::2], array[1::2])
    assert not may_share_memory(array[:2], array[2:])
    assert not may_share_memory(array[:0], array)


def test_the_host_cannot_take_it_by_mistake(device):
    array = device.to_device(numbers(3))
    for attempt in (np.asarray, np.array, copy.copy, copy.deepcopy, pickle.dumps, bool):
        with pytest.raises(TypeError, match="copy_to_host"):
            attempt(array)
    with pytest.raises(TypeError):
        np.add(np.ones(3), array)


ORDERS = [(0, 1, 2, 3), (0, 3, 1, 2), (3, 2, 1, 0)]


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u1"])
def test_copies_keep_the_order_of_memory(device, order, dtype):
    host = numbers(2, 3, 5, 7, dtype=dtype).transpose(order)
    array = device.to_device(host)
    assert array.strides == host.strides
    back = array.copy_to_host()
    assert back.strides == host.strides
    np.testing.assert_array_equal(back, host)
    out = np.zeros(host.shape, dtype)
    assert device.to_host(array, out) is out
    np.testing.assert_array_equal(out, host)


@pytest.mark.parametrize(
    "view",
    [lambda x: x[:, ::2], lambda x: x[::-1, :, ::-2], lambda x: x.transpose(2, 0, 1)[1:], lambda x: x[0, 0, 0],
     lambda x: x[:, :0], lambda x: x[1:1], lambda x: x[None, 1, ..., 3]],
    ids=["steps", "back", "permuted", "one", "none", "empty", "axis"],
)  # fmt: skip
def test_any_strides_go_and_come(device, view):
    host = numbers(3, 5, 7)
    np.testing.assert_array_equal(device.to_device(view(host)).copy_to_host(), view(host))
    np.testing.assert_array_equal(view(device.to_device(host)).copy_to_host(), view(host))
    assert device.to_device(host.T[::2, ::-1]).strides == (4, 16, 80), "without gaps, in the order of memory"
    sent = device.to_device(np.broadcast_to(host[0], (2, 5, 7)))
    np.testing.assert_array_equal(sent.copy_to_host()[1], host[0])


def test_a_copy_of_a_few_far_elements_leaves_the_rest(device, monkeypatch):
    monkeypatch.setattr("numbaconv.devices.runtime.SPAN_BYTES", 16)
    host = numbers(6, 8, 9)
    fetched = []
    keep = type(device)._download
    monkeypatch.setattr(type(device), "_download", lambda self, *a: fetched.append(a[2]) or keep(self, *a))
    view = device.to_device(host).transpose(2, 0, 1)[::4, :, 1]
    np.testing.assert_array_equal(view.copy_to_host(), host.transpose(2, 0, 1)[::4, :, 1])
    assert sum(fetched) <= 4 * view.nbytes


def test_wrong_arrays_are_refused(device):
    with pytest.raises(ShapeError, match="negative"):
        device.empty((2, -1), "f")
    with pytest.raises(TypeError, match="object"):
        device.to_device(np.array([None]))
    with pytest.raises(ShapeError, match="out"):
        device.to_host(device.empty(3, "f"), np.empty(3))
    assert device.empty((0, 3), "f").copy_to_host().shape == (0, 3)
    assert device.empty((), "d").nbytes == 8


def test_emulated_memory_is_poisoned(emulate):
    assert np.isnan(emulate.empty((2, 3), "f").copy_to_host()).all()
    emulate.to_device(numbers(6))
    assert np.isnan(emulate.empty((2, 3), "f").copy_to_host()).all(), "a block that was used before"


# -------------------------------------------------------------------------------------------------------- sharing
def test_dlpack_shares_and_lets_go(emulate):
    held = len(dlpack._exported)
    array = emulate.to_device(numbers(2, 3, 5)).transpose(2, 0, 1)
    seen = np.from_dlpack(array)
    np.testing.assert_array_equal(seen, numbers(2, 3, 5).transpose(2, 0, 1))
    assert (seen.ctypes.data, seen.strides) == (array.pointer, array.strides)
    place = array.pointer
    del array
    assert emulate.empty((2, 3, 5), "f").pointer != place, "NumPy still looks at it"
    del seen
    assert len(dlpack._exported) == held
    unused = emulate.empty(3, "f").__dlpack__()
    assert len(dlpack._exported) == held + 1
    del unused
    assert len(dlpack._exported) == held


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u1", "c8", "?"])
def test_dlpack_knows_dtypes(emulate, dtype):
    host = np.ones((2, 3), dtype)
    seen = np.from_dlpack(emulate.to_device(host))
    assert seen.dtype == host.dtype
    np.testing.assert_array_equal(seen, host)


def test_torch_reads_it(emulate):
    torch = pytest.importorskip("torch")
    array = emulate.to_device(numbers(2, 3, 5, 7).transpose(0, 3, 1, 2))
    tensor = torch.from_dlpack(array)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    tensor.zero_()
    assert not array.copy_to_host().any()


def test_dlpack_refuses(fake):
    array = cuda.runtime().empty((2, 3), "f")
    assert array.__dlpack_device__() == (2, 0)
    for wrong in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError, match="copy_to_host"):
            array.__dlpack__(**wrong)
    with pytest.raises(ValueError, match="ambiguous"):
        array.__dlpack__(stream=0)
    with pytest.raises(BufferError, match="DLPack has no"):
        cuda.runtime().empty(3, "M8[s]").__dlpack__()


def test_a_consumers_stream_waits(fake):
    device = cuda.runtime()
    array = device.empty(3, "f", stream=7)
    fake.log.clear()
    array.__dlpack__(stream=7)
    assert fake.names() == []
    array.__dlpack__(stream=1)
    assert [entry for entry in fake.log if entry[0] in ("cuEventRecord", "cuStreamWaitEvent")] == [
        ("cuEventRecord", 1001, 7), ("cuStreamWaitEvent", 0, 1001, 0)]  # fmt: skip
    assert array.__cuda_array_interface__["stream"] == 7
    assert device.empty(3, "f").__cuda_array_interface__["stream"] == 1


@pytest.mark.parametrize("form", [Shared, Capsule])
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[::-1, 1:], lambda x: x[:0]], ids=range(4))
def test_others_arrays_are_taken_as_they_are(device, form, view):
    host = numbers(4, 6)
    array = as_device_array(form(view(host)), device)
    assert array.shape == view(host).shape
    assert array.size == 0 or (array.pointer, array.strides) == (view(host).ctypes.data, view(host).strides)
    np.testing.assert_array_equal(array.copy_to_host(), view(host))
    np.testing.assert_array_equal(array.T[1:].copy_to_host(), view(host).T[1:])
    assert cuda.home(form(host)) == cuda.home(array) == "cuda:0"


@pytest.mark.parametrize("form", [Shared, Capsule])
def test_an_owner_lives_as_long_as_its_array(device, form):
    host = numbers(7)
    before = sys.getrefcount(host)
    array = as_device_array(form(host), device)[2:]
    assert sys.getrefcount(host) > before
    host[2] = 99
    assert array.copy_to_host()[0] == 99
    del array
    assert sys.getrefcount(host) == before


def test_what_is_no_device_array_is_none(device):
    for value in (numbers(3), [1], 3.0, None):
        assert as_device_array(value, device) is None
        assert cuda.home(value) is None
    own = device.empty(3, "f")
    assert as_device_array(own, device) is own


def test_others_arrays_are_refused_with_a_reason(device):
    with pytest.raises(TypeError, match="mask"):
        as_device_array(Shared(numbers(3), mask=Shared(numbers(3))), device)
    with pytest.raises(TypeError, match="stream 0"):
        as_device_array(Shared(numbers(3), stream=0), device)
    with pytest.raises(DeviceUnavailable, match=r"lives on cuda:1, and this runs on cuda:0"):
        as_device_array(Capsule(numbers(3), (2, 1)), device)
    shut = Capsule(numbers(3))
    shut.host = type("Shut", (), {"__dlpack__": lambda self: numbers(3).__dlpack__(stream=3)})()
    with pytest.raises(TypeError, match="detached"):
        as_device_array(shut, device)
    with pytest.raises(TypeError, match="not a DLPack capsule"):
        dlpack.read(numbers(3))


def test_read_only_stays_so(device):
    host = numbers(3)
    array = as_device_array(Shared(host, data=(host.ctypes.data, True)), device)[1:]
    assert not array.flags.writeable
    assert array.__cuda_array_interface__["data"] == (host.ctypes.data + 4, True)
    with pytest.raises(BufferError, match="read-only"):
        array.__dlpack__()


def test_our_stream_waits_for_a_producers(fake):
    device = cuda.runtime()
    as_device_array(Shared(numbers(3), stream=5), device, stream=9)
    assert [entry for entry in fake.log if entry[0] in ("cuEventRecord", "cuStreamWaitEvent")] == [
        ("cuEventRecord", 1001, 5), ("cuStreamWaitEvent", 9, 1001, 0)]  # fmt: skip
    fake.log.clear()
    as_device_array(Shared(numbers(3), stream=1), device)
    assert "cuEventRecord" not in fake.names()
    capsule = Capsule(numbers(3))
    as_device_array(capsule, device)
    as_device_array(capsule, device, stream=9)
    assert capsule.streams == [1, 9]
    ours = device.empty(3, "f", stream=9)
    fake.log.clear()
    as_device_array(ours, device, stream=4)
    assert "cuStreamWaitEvent" in fake.names()


def test_the_emulator_does_not_read_a_real_devices_memory(emulate):
    far = dlpack.export(None, 64, (3,), (4,), np.dtype("f"), (dlpack.CUDA, 0))
    tensor = Capsule(type("Far", (), {"__dlpack__": lambda self: far})())
    with pytest.raises(DeviceUnavailable, match=r"emulated .* cannot read the memory of a real device"):
        as_device_array(tensor, emulate)
