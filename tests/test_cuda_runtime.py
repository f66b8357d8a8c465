"""Memory, streams, launches and the reasons why not: emulated, and on a driver that is a fake."""

from __future__ import annotations

import ctypes
import math
import struct

import numpy as np
import pytest
from fake_driver import Code, Shared, Sizes, Torchs, device, emulate, fake, fresh, numbers, scale_kernel  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from numba import types

from numbaconv.devices import cubins, cuda, driver, emulated
from numbaconv.devices.arguments import Parameters, extents
from numbaconv.devices.array import as_device_array
from numbaconv.devices.driver import DriverError, DriverRuntime
from numbaconv.devices.intrinsics import int32, ld4, st4
from numbaconv.devices.pool import size_class
from numbaconv.devices.replay import Recorder
from numbaconv.errors import DeviceUnavailable
from numbaconv.jit_cuda import Kernel, pointer, record

# ruff: noqa: F811 (fixtures are imported)


@given(st.integers(0, 2**40))
def test_blocks_are_not_much_larger_than_arrays(nbytes):
    size = size_class(nbytes)
    assert size % 256 == 0
    assert max(nbytes, 1) <= size <= max(256, nbytes + 255, nbytes * 9 / 8 + 1)
    assert size_class(size) == size


def test_a_block_serves_the_next_array_of_its_stream(fake):
    device = cuda.runtime()
    first = device.empty(100, "f")
    view, place = first[50:], first.pointer
    del first
    assert device.empty(100, "f").pointer != place, "a view still holds it"
    del view
    other = device.empty(100, "f", stream=7)
    assert other.pointer != place
    again = device.empty((5, 20), "f")
    assert again.pointer == place
    assert fake.names().count("cuMemAlloc") == 3
    del again, other
    assert device.release() == 3 * 512
    assert not fake.blocks
    assert device.release() == 0


def test_a_block_waits_for_the_other_streams_that_used_it(fake):
    device = cuda.runtime()
    array = device.empty(64, "f", stream=7)
    device.fill(array, 0, stream=9)
    del array
    fake.log.clear()
    device.empty(64, "f", stream=7)
    assert [entry for entry in fake.log if entry[0] == "cuStreamWaitEvent"] == [("cuStreamWaitEvent", 7, 1001, 0)]
    fake.log.clear()
    device.empty(64, "f", stream=7)
    assert "cuStreamWaitEvent" not in fake.names()


def test_a_block_that_others_know_is_not_used_again(fake):
    device = cuda.runtime()
    for export in (lambda array: array.__cuda_array_interface__, lambda array: array.__dlpack__(stream=-1),
                   lambda array: array.__dlpack__(stream=5)):  # fmt: skip
        array = device.empty(100, "f")
        export(array)
        del array
        device.empty(1, "f")
        assert "cuMemFree" in fake.names()
        device.release()
        fake.log.clear()
    array = device.empty(100, "f")
    array.__dlpack__(stream=1)  # the stream it is on: in order with its next use
    del array
    device.empty(1, "f")
    assert "cuMemFree" not in fake.names()


def test_the_pool_has_a_limit_and_gives_way(fake):
    device = cuda.runtime()  # of 1 MiB
    arrays = [device.empty(32 << 10, "u1") for _ in range(6)]
    del arrays
    device.empty(1, "u1")
    assert device.pool.idle == 2 * (32 << 10), "four filled it, and gave way to the fifth"
    fake.fail["cuMemAlloc"] = [Code.CUDA_ERROR_OUT_OF_MEMORY]
    device.empty(64 << 10, "u1")
    assert device.pool.idle == 0, "freed, so that there was room at last"
    fake.fail["cuMemAlloc"] = [Code.CUDA_ERROR_OUT_OF_MEMORY] * 2
    with pytest.raises(MemoryError, match=r"cuda:0 \(Fake GPU\) has no room for 131,072 bytes"):
        device.empty(128 << 10, "u1")


# ------------------------------------------------------------------------------------------------------- streams


class Cupys:
    ptr = 42


class Standard:
    def __cuda_stream__(self):
        return 0, 43


@pytest.mark.parametrize(
    ("value", "handle"),
    [(None, 0), (0, 0), (1, 0), (2, 2), (np.int64(77), 77), (Torchs(), 41), (Cupys(), 42), (Standard(), 43)],
)
def test_streams_of_all_kinds(device, value, handle):
    assert device.stream(value) == handle


@pytest.mark.parametrize("value", ["0", 1.0, True, -1, object()], ids=["text", "real", "bool", "negative", "object"])
def test_no_streams(device, value):
    with pytest.raises(TypeError, match="stream: expected a CUDA stream"):
        device.stream(value)


# ------------------------------------------------------------------------------------------------------ launches


@pytest.mark.parametrize("itemsize", [4, 8])
def test_a_kernel_runs_emulated(emulate, itemsize):
    kernel = scale_kernel(itemsize, f"scale{itemsize}")
    source, target = emulate.to_device(numbers(20, dtype=f"f{itemsize}")), emulate.empty(12, f"f{itemsize}")
    emulate.launch(kernel, (3,), (source[2:], target[1:], Sizes(9, 2), 3, 0.5))
    got = target.copy_to_host()
    np.testing.assert_array_equal(got[1:10], numbers(20)[2::2] * 0.5 + 3)
    assert np.isnan(got[[0, 10, 11]]).all()
    third = 1 / 3
    emulate.launch(kernel, 3, (source[1:], target, Sizes(1, 1), 0, third))
    assert target.copy_to_host()[0] == (third if itemsize == 8 else np.float32(third))


def test_the_emulator_sees_where_a_buffer_ends_and_how_it_is_aligned(emulate):
    from numbaconv.devices.emulator import EmulationError

    def move(source, target):
        v = ld4(source, int32(0))
        st4(target, int32(0), v[0], v[1], v[2], v[3])

    kernel = Kernel("move", move, types.void(pointer(4), pointer(4)), 1)
    source, target = emulate.to_device(numbers(12)), emulate.empty(12, "f")
    emulate.launch(kernel, 1, (source[4:], target[8:]))
    np.testing.assert_array_equal(target.copy_to_host()[8:], numbers(12)[4:8])
    with pytest.raises(EmulationError, match="misaligned"):
        emulate.launch(kernel, 1, (source[2:], target))
    with pytest.raises(EmulationError, match="outside"):
        emulate.launch(kernel, 1, (source[12:], target))
    with pytest.raises(EmulationError, match="outside"):
        emulate.launch(scale_kernel(), 3, (source[4:], target, Sizes(9, 1), 0, 1))
    with pytest.raises((EmulationError, TypeError)):
        emulate.launch(scale_kernel(), 3, (None, target, Sizes(9, 1), 0, 1))
    locked = numbers(12)
    locked = as_device_array(Shared(locked, data=(locked.ctypes.data, True)), emulate)
    with pytest.raises((ValueError, TypeError), match=r"read-?only"):
        emulate.launch(scale_kernel(), 3, (source, locked, Sizes(9, 1), 0, 1))


def test_arguments_are_checked_alike(device):
    kernel, array = scale_kernel(), device.empty(8, "f")
    good = [array, array, Sizes(0, 1), 0, 1.0]
    wrong = [
        (0, device.empty(8, "d"), TypeError, "argument 0: expected float32, got an array of float64"),
        (1, np.empty(8, "f"), TypeError, "argument 1: expected a DeviceArray or None, got ndarray"),
        (0, array[::-1], ValueError, "argument 0: strides .* run backwards"),
        (2, (0, 1), TypeError, "argument 2: expected a Sizes"),
        (2, Sizes(2**31, 0), OverflowError, "argument 2: 2147483648 does not fit in 32 bits"),
        (3, -(2**31) - 1, OverflowError, "argument 3"),
        (3, 1.0, TypeError, "argument 3: expected a whole number"),
        (4, "1", TypeError, "argument 4: expected a real number"),
        (4, 1e39, OverflowError, "argument 4: 1e\\+39 does not fit in float32"),
    ]
    device.launch(kernel, 1, good)
    for place, value, error, text in wrong:
        with pytest.raises(error, match=f"scale: {text}"):
            device.launch(kernel, 1, [*good[:place], value, *good[place + 1 :]])
    with pytest.raises(TypeError, match="scale takes 5 arguments, got 4"):
        device.launch(kernel, 1, good[:4])
    odd = device.empty(9, "u1")[1:].view("f")
    with pytest.raises(ValueError, match="no multiple of 4 bytes"):
        device.launch(kernel, 1, [odd, *good[1:]])


@pytest.mark.parametrize("grid", [(), (1, 1, 1, 1), (-1,), (1, 65536), (2**31,), (0, -1)], ids=str)
def test_wrong_grids(grid):
    with pytest.raises(ValueError, match="scale: a grid"):
        extents(scale_kernel(), grid)


def test_a_grid_without_blocks_launches_nothing(fake):
    device = cuda.runtime()
    array = device.empty(8, "f")
    fake.log.clear()
    for grid in ((0,), (3, 0), (1, 1, 0)):
        device.launch(scale_kernel(), grid, (array, array, Sizes(0, 1), 0, 1.0))
    assert fake.names() == []


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_packing(fake, kind):
    array = cuda.runtime().empty(8, "f")[3:]
    real = getattr(types, kind)
    signature = types.void(types.int32, pointer(4), real, record(Sizes), pointer(4), real)
    parameters = Parameters(Kernel("k", lambda: None, signature, 32))
    values = parameters.take((-5, array, 0.1, Sizes(3, -4), None, math.inf))
    packed = parameters.pack(values)
    letter, width = ("f", 4) if kind == "float32" else ("d", 8)
    want = [("i", -5), ("Q", array.pointer), (letter, 0.1), ("i", 3), ("i", -4), ("Q", 0), (letter, math.inf)]
    assert len(parameters.offsets) == len(want)
    for offset, (code, value) in zip(parameters.offsets, want, strict=True):
        assert offset % struct.calcsize(code) == 0
        assert packed[offset : offset + struct.calcsize(code)] == struct.pack(code, value)
    assert parameters.offsets == ((0, 8, 16, 20, 24, 32, 40) if width == 4 else (0, 8, 16, 24, 28, 32, 40))
    with pytest.raises(TypeError, match="complex64"):
        Parameters(Kernel("k", lambda: None, types.void(types.complex64), 32))


def test_a_launch_on_the_driver(fake):
    device, kernel, got = cuda.runtime(), scale_kernel(), []

    def launched(function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        places = (ctypes.c_void_p * 6).from_address(parameters)
        kinds = [ctypes.c_uint64] * 2 + [ctypes.c_int32] * 3 + [ctypes.c_float]
        read = [kind.from_address(place).value for kind, place in zip(kinds, places, strict=True)]
        got.append((function, (gx, gy, gz), (bx, by, bz), shared, stream, read, extra))

    fake.cuLaunchKernel = launched
    array = device.empty(8, "f")
    fake.log.clear()
    for _ in range(2):
        device.launch(kernel, (3, 2), (array, array[4:], Sizes(5, -6), 7, 0.5), stream=Torchs())
    read = [array.pointer, array.pointer + 16, 5, -6, 7, 0.5]
    assert got == [(b"entry of scale", (3, 2, 1), (4, 1, 1), 0, 41, read, 0)] * 2
    assert fake.names("cuEventCreate", "cuEventRecord") == [
        "cuModuleLoadData", "cuModuleGetFunction", "cuLaunchKernel", "cuLaunchKernel"]  # fmt: skip
    assert array.buffer.stream == 41


def test_a_recording_is_launched_again_for_other_arrays(fake):
    device, kernel, got = cuda.runtime(), scale_kernel(), []

    def launched(function, gx, gy, gz, bx, by, bz, shared, stream, pointers, extra):
        places = (ctypes.c_uint64 * 6).from_address(pointers)
        kinds = (ctypes.c_uint64, ctypes.c_uint64, *[ctypes.c_int32] * 3, ctypes.c_float)
        got.append((stream, [kind.from_address(place).value for kind, place in zip(kinds, places, strict=True)]))

    fake.cuLaunchKernel = launched
    first, second, kept = (device.empty(8, "f") for _ in range(3))
    recorder = Recorder(device, (None, first))
    recorder.stage = "lower"
    recorder.launch(kernel, (3, 2), (first[2:], kept, Sizes(5, -6), 7, 0.5), 0)
    recorder.launch(kernel, (0, 2), (first, kept, Sizes(5, -6), 7, 0.5), 0)
    assert recorder.usable
    for array, stream in ((second, 9), (first, 0)):
        marks = []
        recorder.recording.replay(device, (None, array), stream, marks)
        assert got[-1] == (stream, [array.pointer + 8, kept.pointer, 5, -6, 7, 0.5])
        assert [stage for stage, _, _ in marks] == ["lower"]
        assert array.buffer.stream == stream
    assert len(got) == 3
    assert not Recorder(device, (first, first[1:])).usable


def test_a_kernel_that_is_too_new_for_the_device(emulate, monkeypatch):
    newer = Kernel("newer", lambda: None, types.void(), 1, least=(8, 0))
    emulate.launch(newer, 1, ())
    monkeypatch.setenv("NUMBACONV_CUDA_CC", "7.5")
    assert cuda.runtime().cc == (7, 5)
    with pytest.raises(DeviceUnavailable, match=r"newer needs compute capability 8\.0; cuda:0 .* has 7\.5"):
        cuda.runtime().launch(newer, 1, ())
    monkeypatch.setenv("NUMBACONV_CUDA_CC", "8")
    with pytest.raises(ValueError, match="NUMBACONV_CUDA_CC='8'"):
        cuda.runtime()


def test_an_array_of_another_device(fake):
    fake.devices = 2
    one, two = cuda.runtime("cuda:0"), cuda.runtime("cuda:1")
    array = one.empty(3, "f")
    with pytest.raises(ValueError, match="scale: an array on cuda:0, launched on cuda:1"):
        two.launch(scale_kernel(), 1, (array, array, Sizes(0, 0), 0, 0.0))


# -------------------------------------------------------------------------------------------------------- driver


def test_every_result_is_looked_at(fake):
    device = cuda.runtime()
    array = device.empty(3, "f")
    fake.fail["cuMemcpyDtoHAsync"] = [Code.CUDA_ERROR_ILLEGAL_ADDRESS]
    with pytest.raises(DriverError, match=r"cuMemcpyDtoHAsync failed: CUDA_ERROR_ILLEGAL_ADDRESS \(700\), said of 700"):
        array.copy_to_host()
    for name, act in {
        "cuMemsetD8Async": lambda: device.fill(array, 0),
        "cuMemcpyHtoDAsync": lambda: device.to_device(numbers(3)),
        "cuStreamSynchronize": lambda: device.synchronize(3),
        "cuCtxSynchronize": device.synchronize,
        "cuEventRecord": device.record,
        "cuLaunchKernel": lambda: device.launch(scale_kernel(), 1, (array, array, Sizes(0, 0), 0, 0.0)),
        "cuCtxSetCurrent": lambda: (setattr(fake, "current", 9), device.synchronize()),
    }.items():
        fake.fail = {name: [Code.CUDA_ERROR_INVALID_VALUE]}
        with pytest.raises(RuntimeError, match=rf"{name} failed: CUDA_ERROR_INVALID_VALUE \(1\)"):
            act()


def test_another_context_is_current_again_afterwards(fake):
    device = cuda.runtime()
    fake.current = 0
    device.synchronize()
    assert fake.current == 500
    fake.log.clear()
    device.synchronize()
    assert "cuCtxSetCurrent" not in fake.names()
    fake.current = 77
    fake.log.clear()
    fake.fail["cuStreamSynchronize"] = [Code.CUDA_ERROR_ILLEGAL_ADDRESS]
    with pytest.raises(DriverError):
        device.synchronize(3)
    assert fake.current == 77
    assert fake.names() == ["cuCtxSetCurrent", "cuStreamSynchronize", "cuGetErrorString", "cuCtxSetCurrent"]


def test_events_measure_and_are_used_again(fake):
    device = cuda.runtime()
    first = device.record(5)
    second = device.record(5)
    assert second.seconds_since(first) == 0.25
    assert "cuEventSynchronize" in fake.names()
    device.wait(6, first)
    assert ("cuStreamWaitEvent", 6, first.handle, 0) in fake.log
    handle = first.handle
    del first
    assert device.record(5).handle == handle


def test_emulated_events_measure(emulate):
    first = emulate.record()
    emulate.wait(5, first)
    emulate.synchronize()
    assert 0 <= emulate.record().seconds_since(first) < 60


def test_what_a_device_is(fake):
    device = cuda.runtime()
    assert isinstance(device, DriverRuntime)
    assert (device.device, device.name, device.cc, device.multiprocessors) == ("cuda:0", "Fake GPU", (8, 6), 7)
    assert (device.memory_bytes, device.shared_bytes, device.emulated) == (1 << 20, 48 << 10, False)
    assert repr(device) == "<cuda:0: Fake GPU, compute capability 8.6>"
    assert cuda.runtime("cuda:0") is device
    fake.fail["cuPointerGetAttribute"] = [Code.CUDA_ERROR_INVALID_VALUE]
    with pytest.raises(TypeError, match="not that of device memory"):
        as_device_array(Shared(numbers(3)), device)


# ------------------------------------------------------------------------------------------------------- reasons


@pytest.mark.parametrize("missing", ["numba_cuda", "cuda.bindings", "cuda.core"])
def test_what_is_not_installed(fake, monkeypatch, missing):
    monkeypatch.setattr(cuda, "installed", lambda module: module != missing)
    name = missing.replace(".", "-").replace("_", "-")
    assert cuda.reason() == f"{name} is not installed: {cubins.WHAT_TO_INSTALL}"
    assert not cuda.available()
    with pytest.raises(DeviceUnavailable, match="pip install 'numbaconv"):
        cuda.runtime()


def test_installed():
    assert cuda.installed("numbaconv.jit")
    assert not cuda.installed("numbaconv_lacks.this")


def test_no_driver_no_device_an_old_driver(fake, monkeypatch):
    fake.cuInit = lambda flags: (_ for _ in ()).throw(RuntimeError("Failed to dlopen libcuda.so.1"))
    assert "driver library was not found (Failed to dlopen libcuda.so.1): install" in cuda.reason()
    del fake.cuInit
    fake.fail["cuInit"] = [Code.CUDA_ERROR_NO_DEVICE]
    assert cuda.reason() == "the CUDA driver finds no device"
    fake.fail["cuInit"] = [Code.CUDA_ERROR_INVALID_VALUE]
    assert "does not start: cuInit failed: CUDA_ERROR_INVALID_VALUE (1)" in cuda.reason()
    fake.devices = 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cuda.reason() == "the CUDA driver finds no device (CUDA_VISIBLE_DEVICES='' may hide them)"
    fake.devices = 1
    assert cuda.reason("cuda:1") == "cuda:1 does not exist: there is 1, from cuda:0 on"
    fake.version = 12080
    assert cuda.reason() == (
        "the NVIDIA driver is too old: it runs CUDA 12.8, and the libraries here make code for CUDA 13; install driver "
        "580 or later, or libraries that fit: pip install 'numbaconv[cuda12]'"
    )
    fake.version, fake.cc = 13010, (7, 0)
    assert "compute capability 7.0; 7.5 (Turing) is the least" in cuda.reason()
    fake.cc = (7, 5)
    assert cuda.reason() is None
    assert cuda.available()


def test_the_real_state_has_a_reason_or_a_device(monkeypatch):
    monkeypatch.delenv("NUMBACONV_CUDA", raising=False)
    driver.bindings.cache_clear()
    assert cuda.available() == (cuda.reason() is None)
    if cuda.available():
        np.testing.assert_array_equal(cuda.runtime().to_device(numbers(5)).copy_to_host(), numbers(5))


@pytest.mark.parametrize("device", ["cpu", "cuda:", "cuda:-1", "gpu", 0, None])
def test_names_of_no_device(device):
    with pytest.raises(ValueError, match="is no CUDA device"):
        cuda.runtime(device)


def test_the_emulator_has_its_reasons(monkeypatch):
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    assert "emulates cuda:0 only" in cuda.reason("cuda:1")
    monkeypatch.setattr(emulated.importlib.util, "find_spec", lambda name: None)
    assert cuda.reason() == "NUMBACONV_CUDA=emulate needs greenlet: pip install greenlet"
    monkeypatch.setenv("NUMBACONV_CUDA", "1")
    assert "the only value it takes is emulate" in cuda.reason()
