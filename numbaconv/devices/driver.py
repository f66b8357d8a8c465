"""NVIDIA GPUs through the CUDA driver (cuda-bindings, which numba-cuda brings along)."""

from __future__ import annotations

import ctypes
import functools
import struct
import threading
from typing import Any

from numbaconv.devices import cubins
from numbaconv.devices.arguments import Parameters
from numbaconv.devices.replay import Moving, Step
from numbaconv.devices.runtime import Event, Runtime

OUT_OF_MEMORY = 2
DISABLE_TIMING = 2


@functools.cache
def bindings():
    """``cuda.bindings.driver``."""
    from cuda.bindings import driver

    return driver


class DriverError(RuntimeError):
    """A call of the CUDA driver failed.

    Attributes
    ----------
    call : str
        Its name.
    code : int
        The driver's result.
    """

    def __init__(self, call: str, code: int, text: str):
        self.call, self.code = call, code
        super().__init__(f"{call} failed: {text}")


def call(name: str, *arguments) -> Any:
    """Call the driver; its result, checked."""
    driver = bindings()
    code, *values = getattr(driver, name)(*arguments)
    if int(code) != 0:
        said = driver.cuGetErrorString(code)[1]
        said = said.decode() if isinstance(said, bytes) else "unknown to this driver"
        raise DriverError(name, int(code), f"{getattr(code, 'name', 'error')} ({int(code)}), {said}")
    return values[0] if values else None


class _Context:
    """The device's primary context, current for the duration of a block; another that was is so again afterwards."""

    __slots__ = ("handle", "ours", "previous")

    def __init__(self, handle, ours: int):
        self.handle, self.ours = handle, ours

    def __enter__(self):
        self.previous = call("cuCtxGetCurrent")
        if int(self.previous) != self.ours:
            call("cuCtxSetCurrent", self.handle)

    def __exit__(self, *error):
        if int(self.previous) not in (0, self.ours):
            call("cuCtxSetCurrent", self.previous)


class DriverEvent(Event):
    def __init__(self, runtime: DriverRuntime, handle):
        self.runtime, self.handle = runtime, handle

    def seconds_since(self, earlier: Event) -> float:
        with self.runtime.context():
            call("cuEventSynchronize", self.handle)
            return call("cuEventElapsedTime", earlier.handle, self.handle) * 1e-3

    def __del__(self):
        self.runtime.events.append(self.handle)  # for another; what waits for it has taken note of its time


class Packed:
    """A launch's parameters as the driver takes them: their bytes, and a table of where each of them begins.

    Parameters
    ----------
    parameters : Parameters
    data : bytes
        Packed, each at its offset.
    moving : list of (int, int, int)
        Pointers that change from launch to launch: their place, the array of the call, bytes into that.
    """

    def __init__(self, parameters: Parameters, data: bytes, moving: list[tuple[int, int, int]]):
        self.data = ctypes.create_string_buffer(data, max(parameters.layout.size, 1))
        begin, count = ctypes.addressof(self.data), len(parameters.offsets)
        places = [begin + offset for offset in parameters.offsets]
        self.table = ctypes.create_string_buffer(struct.pack(f"{count}P", *places), 8 * max(count, 1))
        self.pointers, self.moving = ctypes.addressof(self.table), moving

    @classmethod
    def of(cls, step: Step) -> Packed:
        moving, fixed, number = [], [], 0
        for value in step.values:
            if isinstance(value, Moving):
                moving.append((step.parameters.offsets[number], value.base, value.offset))
                value = None
            fixed.append(value)
            number += len(value) if isinstance(value, tuple) else 1
        return cls(step.parameters, step.parameters.pack(fixed), moving)

    def move(self, bases) -> None:
        """Point to the arrays of this call."""
        for place, base, offset in self.moving:
            struct.pack_into("@Q", self.data, place, bases[base].pointer + offset)


class DriverRuntime(Runtime):
    """A GPU.

    Parameters
    ----------
    index : int
        Its number.
    """

    def __init__(self, index: int):
        attributes = bindings().CUdevice_attribute
        place = call("cuDeviceGet", index)

        def fact(name: str) -> int:
            return call("cuDeviceGetAttribute", getattr(attributes, f"CU_DEVICE_ATTRIBUTE_{name}"), place)

        cc = fact("COMPUTE_CAPABILITY_MAJOR"), fact("COMPUTE_CAPABILITY_MINOR")
        name = call("cuDeviceGetName", 256, place).split(b"\0")[0].decode()
        super().__init__(index, name, cc, fact("MULTIPROCESSOR_COUNT"), call("cuDeviceTotalMem", place))
        self.primary = call("cuDevicePrimaryCtxRetain", place)
        self._primary = int(self.primary)
        self.events: list = []  # that nobody uses
        self.functions: dict[int, Any] = {}
        self.lock = threading.Lock()
        self.modules: list = []

    def context(self) -> _Context:
        """``with runtime.context(): ...``: in which the driver is called."""
        return _Context(self.primary, self._primary)

    def record(self, stream=None) -> Event:
        handle = self.stream(stream)
        with self.context():
            try:
                event = self.events.pop()
            except IndexError:
                event = call("cuEventCreate", 0)
            call("cuEventRecord", event, handle)
        return DriverEvent(self, event)

    def wait(self, stream, event: Event):
        handle = self.stream(stream)
        with self.context():
            call("cuStreamWaitEvent", handle, event.handle, 0)

    def synchronize(self, stream=None):
        handle = None if stream is None else self.stream(stream)
        with self.context():
            if handle is None:
                call("cuCtxSynchronize")
            else:
                call("cuStreamSynchronize", handle)

    def device_of(self, pointer: int) -> str:
        return pointer_device(pointer)

    def _allocate(self, size: int):
        try:
            with self.context():
                return int(call("cuMemAlloc", size)), None
        except DriverError as error:
            if error.code != OUT_OF_MEMORY:
                raise
            raise MemoryError(f"{self.device} ({self.name}) has no room for {size:,} bytes") from error

    def _free(self, pointer: int):
        with self.context():
            call("cuMemFree", pointer)

    def _upload(self, pointer: int, host: int, nbytes: int, stream: int):
        with self.context():
            call("cuMemcpyHtoDAsync", pointer, host, nbytes, stream)
            call("cuStreamSynchronize", stream)  # pinned memory is read later

    def _download(self, host: int, pointer: int, nbytes: int, stream: int):
        with self.context():
            call("cuMemcpyDtoHAsync", host, pointer, nbytes, stream)
            call("cuStreamSynchronize", stream)

    def _set(self, pointer: int, byte: int, nbytes: int, stream: int):
        with self.context():
            call("cuMemsetD8Async", pointer, byte, nbytes, stream)

    def _run(self, kernel, parameters, grid, values, stream: int):
        self._launch(kernel, grid, Packed(parameters, parameters.pack(values), []), stream)

    def repeat(self, step, bases, stream: int):
        if step.own is None:
            step.own = Packed.of(step)
        with self.lock:  # until the driver has copied them, the parameters are this thread's
            step.own.move(bases)
            self._launch(step.kernel, step.grid, step.own, stream)

    def _launch(self, kernel, grid, packed: Packed, stream: int):
        with self.context():
            function = self.functions.get(id(kernel)) or self._load(kernel)
            call("cuLaunchKernel", function, *grid, kernel.threads, 1, 1, 0, stream, packed.pointers, 0)

    def _load(self, kernel):
        cubin = cubins.build(kernel, self.cc)
        module = call("cuModuleLoadData", cubin.code)
        self.modules.append(module)
        function = self.functions[id(kernel)] = call("cuModuleGetFunction", module, cubin.entry.encode())
        return function


def pointer_device(pointer: int) -> str:
    """The device that an address belongs to.

    Raises
    ------
    TypeError
        Where it is unknown to CUDA.
    """
    try:
        attribute = bindings().CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        return f"cuda:{int(call('cuPointerGetAttribute', attribute, pointer))}"
    except DriverError as error:
        raise TypeError(f"the address {pointer:#x} is not that of device memory ({error})") from error
