"""A CUDA driver of this process's own memory, arrays and streams of other libraries, and devices made of them.

Tests import the fixtures by name, ``fresh`` among them.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
from enum import IntEnum
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from numba import types

from numbaconv.devices import cubins, cuda, driver
from numbaconv.devices.intrinsics import cuda as words
from numbaconv.devices.intrinsics import int32
from numbaconv.jit_cuda import Kernel, pointer, record


class Code(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_ILLEGAL_ADDRESS = 700


class FakeDriver:
    """Stands in for ``cuda.bindings.driver``. `fail` maps a call to the code it gives, once for each in a list."""

    def __init__(self, version=13000, devices=1, cc=(8, 6)):
        self.version, self.devices, self.cc = version, devices, cc
        self.log: list[tuple] = []
        self.fail: dict[str, list[Code]] = {}
        self.blocks: dict[int, np.ndarray] = {}
        self.current, self.made, self.clock = 0, 1000, 0
        self.times: dict[int, int] = {}
        self.kernels: dict[str, object] = {}
        names = ("MULTIPROCESSOR_COUNT", "COMPUTE_CAPABILITY_MAJOR", "COMPUTE_CAPABILITY_MINOR")
        self.CUdevice_attribute = SimpleNamespace(**{f"CU_DEVICE_ATTRIBUTE_{name}": name for name in names})
        self.CUpointer_attribute = SimpleNamespace(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL="ordinal")

    def __getattribute__(self, name):
        found = object.__getattribute__(self, name)
        if not (name.startswith("cu") and name[2].isupper()):
            return found

        def called(*arguments):
            self.log.append((name, *arguments))
            codes = self.fail.get(name)
            if codes:
                return (codes.pop(0), None)
            result = found(*arguments)
            return (Code(0),) if result is None else (Code(0), result)

        return called

    def names(self, *without):
        return [entry[0] for entry in self.log if entry[0] not in ("cuCtxGetCurrent", *without)]

    def new(self):
        self.made += 1
        return self.made

    def cuInit(self, flags): ...

    def cuDriverGetVersion(self):
        return self.version

    def cuDeviceGetCount(self):
        return self.devices

    def cuDeviceGet(self, index):
        return index

    def cuDeviceGetAttribute(self, name, device):
        return {"MULTIPROCESSOR_COUNT": 7, "COMPUTE_CAPABILITY_MAJOR": self.cc[0]}.get(name, self.cc[1])

    def cuDeviceGetName(self, length, device):
        return b"Fake GPU\0\0\0"

    def cuDeviceTotalMem(self, device):
        return 1 << 20

    def cuDevicePrimaryCtxRetain(self, device):
        return 500 + device

    def cuCtxGetCurrent(self):
        return self.current

    def cuCtxSetCurrent(self, context):
        self.current = context

    def cuCtxSynchronize(self): ...

    def cuStreamSynchronize(self, stream): ...

    def cuMemAlloc(self, size):
        memory = np.full(size + 256, 0xAB, np.uint8)
        address = memory.ctypes.data + -memory.ctypes.data % 256
        self.blocks[address] = memory
        return address

    def cuMemFree(self, pointer):
        del self.blocks[pointer]

    def cuMemcpyHtoDAsync(self, pointer, host, nbytes, stream):
        ctypes.memmove(pointer, host, nbytes)

    def cuMemcpyDtoHAsync(self, host, pointer, nbytes, stream):
        ctypes.memmove(host, pointer, nbytes)

    def cuMemsetD8Async(self, pointer, byte, nbytes, stream):
        ctypes.memset(pointer, byte, nbytes)

    def cuEventCreate(self, flags):
        return self.new()

    def cuEventRecord(self, event, stream):
        self.clock += 250
        self.times[event] = self.clock

    def cuEventSynchronize(self, event): ...

    def cuEventElapsedTime(self, start, end):
        return float(self.times[end] - self.times[start])

    def cuStreamWaitEvent(self, stream, event, flags): ...

    def cuModuleLoadData(self, image):
        return self.new()

    def cuModuleGetFunction(self, module, name):
        return name

    def cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra): ...

    def cuPointerGetAttribute(self, attribute, pointer):
        return 0

    def cuGetErrorString(self, code):
        return f"said of {int(code)}".encode()


class Shared:
    """Somebody else's array, of host memory."""

    def __init__(self, host, **changes):
        self.host = host
        self.__cuda_array_interface__ = {
            "shape": host.shape, "typestr": host.dtype.str, "data": (host.ctypes.data, False), "strides": host.strides,
            "version": 3, "stream": None, **changes,
        }  # fmt: skip


class Capsule:
    def __init__(self, host, device=(2, 0)):
        self.host, self.device, self.streams = host, device, []

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        return self.host.__dlpack__()


class Torchs:
    cuda_stream = 41


GREENLET = importlib.util.find_spec("greenlet") is not None


class Sizes(NamedTuple):
    n: int
    step: int


def scale_kernel(itemsize=4, name="scale", times=2):
    def scale(source, target, sizes, add, factor):
        i = int32(words.blockIdx.x * 4 + words.threadIdx.x)
        if i < sizes.n:
            target[i] = source[int32(i * sizes.step)] * factor + add + (times - 2)

    memory, real = pointer(itemsize), types.float32 if itemsize == 4 else types.float64
    return Kernel(name, scale, types.void(memory, memory, record(Sizes), types.int32, real), 4)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No device, and no kernel, is known yet."""
    monkeypatch.setattr(cuda, "_runtimes", {})
    monkeypatch.setattr(cubins, "_digests", {})
    monkeypatch.setattr(cubins, "_built", {})
    monkeypatch.delenv("NUMBACONV_CUDA_CC", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def fake(monkeypatch):
    """A driver with one device, and all that has to be installed."""
    monkeypatch.delenv("NUMBACONV_CUDA", raising=False)
    monkeypatch.setattr(cuda, "installed", lambda module: True)
    monkeypatch.setattr(cuda, "toolkit", lambda: 13)
    monkeypatch.setattr(cubins, "build", lambda kernel, cc: cubins.Cubin(b"code", f"entry of {kernel.name}"))
    made = FakeDriver()
    monkeypatch.setattr(driver, "bindings", lambda: made)
    return made


@pytest.fixture
def emulate(monkeypatch):
    if not GREENLET:
        pytest.skip("the CUDA emulator runs on greenlets: pip install greenlet")
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    return cuda.runtime()


@pytest.fixture(params=["emulated", "driver"])
def device(request):
    """Either runtime: the fake driver's arrays have shadows, the emulator's have memory."""
    if request.param == "emulated":
        return request.getfixturevalue("emulate")
    request.getfixturevalue("fake")
    return cuda.runtime()


def numbers(*shape, dtype=np.float32):
    return np.arange(math.prod(shape), dtype=dtype).reshape(shape)
