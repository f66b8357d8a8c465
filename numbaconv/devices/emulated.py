"""The CPU in the place of a GPU, for tests and for those who have none: ``NUMBACONV_CUDA=emulate``.

Arrays are NumPy's memory, poisoned where nothing has been written; kernels run in ``devices.emulator``, as slowly as
that is; all is done when a call returns. ``NUMBACONV_CUDA_CC`` is the compute capability it plays (8.0).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import time

import numpy as np
from numba import types

from numbaconv.devices.array import DeviceArray
from numbaconv.devices.pool import ALIGNMENT
from numbaconv.devices.runtime import Event, Runtime
from numbaconv.errors import DeviceUnavailable
from numbaconv.workspace import address_of

REALS = {types.float32: np.float32, types.float64: np.float64}
VECTOR_BYTES = 16


def capability() -> tuple[int, int]:
    """The compute capability to play."""
    text = os.environ.get("NUMBACONV_CUDA_CC") or "8.0"
    major, point, minor = text.partition(".")
    if not (point and major.isdigit() and minor.isdigit()):
        raise ValueError(f"NUMBACONV_CUDA_CC={text!r}: expected a compute capability such as 8.0")
    return int(major), int(minor)


class EmulatedEvent(Event):
    def __init__(self):
        self.time = time.perf_counter()

    def seconds_since(self, earlier: Event) -> float:
        return self.time - earlier.time


class EmulatedRuntime(Runtime):
    """The emulated device, "cuda:0"."""

    emulated = True

    def __init__(self):
        if importlib.util.find_spec("greenlet") is None:
            raise DeviceUnavailable("NUMBACONV_CUDA=emulate needs greenlet: pip install greenlet")
        super().__init__(0, "emulated on the CPU", capability(), multiprocessors=4, memory_bytes=8 << 30)

    def record(self, stream=None) -> Event:
        self.stream(stream)
        return EmulatedEvent()

    def wait(self, stream, event: Event):
        self.stream(stream)

    def synchronize(self, stream=None):
        self.stream(stream)

    def device_of(self, pointer: int) -> str:
        return self.device

    def _allocate(self, size: int):
        memory = np.empty(size + ALIGNMENT, np.uint8)
        start = -address_of(memory) % ALIGNMENT
        return address_of(memory) + start, memory[start : start + size]

    def _free(self, pointer: int):
        """The block's NumPy array goes with it."""

    def _host_memory(self, block, nbytes: int):
        memory = block.keep[:nbytes]
        memory.fill(0xFF)  # NaN, or -1
        return memory

    def _host_view(self, pointer: int, nbytes: int):
        if nbytes == 0:
            return np.empty(0, np.uint8)
        return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(pointer), np.uint8)

    def _upload(self, pointer: int, host: int, nbytes: int, stream: int):
        ctypes.memmove(pointer, host, nbytes)

    def _download(self, host: int, pointer: int, nbytes: int, stream: int):
        ctypes.memmove(host, pointer, nbytes)

    def _set(self, pointer: int, byte: int, nbytes: int, stream: int):
        ctypes.memset(pointer, byte, nbytes)

    def _run(self, kernel, parameters, grid, values, stream: int):
        from numbaconv.devices.emulator import launch

        taken = [
            self._argument(f"argument {number} of {kernel.name}", kind, value)
            for number, (kind, value) in enumerate(zip(parameters.kinds, values, strict=True))
        ]
        launch(kernel.function, grid, kernel.threads, *taken)

    @staticmethod
    def _argument(name: str, kind, value):
        """What the emulator takes: for an array all of its buffer from its first element on."""
        from numbaconv.devices.emulator import Memory

        if value is None:
            return Memory(f"{name}, which is None,", np.empty(0, np.dtype(str(kind.dtype))))
        if not isinstance(value, DeviceArray):
            return REALS[kind](value) if kind in REALS else value
        if value.size == 0:
            return Memory(name, np.empty(0, value.dtype))
        memory = value.buffer.memory[value.pointer - value.buffer.pointer :]
        values = memory[: len(memory) // value.itemsize * value.itemsize].view(value.dtype)
        if not value.flags.writeable:
            values.flags.writeable = False
        return Memory(name, values, value.pointer % VECTOR_BYTES // value.itemsize)
