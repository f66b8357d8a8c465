"""What a CUDA device can do for the rest of the package: memory, copies, launches, events. Knows no convolution.

Two classes implement it: ``driver.DriverRuntime`` on a GPU, ``emulated.EmulatedRuntime`` on the CPU
(``NUMBACONV_CUDA=emulate``). ``cuda.runtime`` hands them out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from numbaconv.devices import cubins
from numbaconv.devices.arguments import Parameters, extents
from numbaconv.devices.array import DeviceArray, contiguous, shadow_of
from numbaconv.devices.pool import Buffer, Pool
from numbaconv.errors import DeviceUnavailable, ShapeError
from numbaconv.jit_cuda import Kernel
from numbaconv.workspace import address_of

LEGACY = 0
"""The stream that all use who name none, torch among them; 1 is another name for it."""
SPAN_BYTES, SPAN_FACTOR = 1 << 20, 4
"""An array with gaps comes to the host in one copy where that is at most so many bytes, or so many times its own."""


class Event(ABC):
    """A point in a stream."""

    @abstractmethod
    def seconds_since(self, earlier: Event) -> float:
        """Device time from `earlier` to this event; waits for this event."""


class Runtime(ABC):
    """One device.

    Attributes
    ----------
    device : str
        "cuda:0".
    index : int
        Its number.
    name : str
        The maker's.
    cc : tuple of int
        Compute capability, (9, 0).
    multiprocessors, memory_bytes : int
        What it has.
    shared_bytes : int
        Shared memory that a block may have.
    emulated : bool
        Whether it is the CPU.
    """

    emulated = False
    shared_bytes = 48 * 1024

    def __init__(self, index: int, name: str, cc: tuple[int, int], multiprocessors: int, memory_bytes: int):
        self.index, self.device = index, f"cuda:{index}"
        self.name, self.cc, self.multiprocessors, self.memory_bytes = name, cc, multiprocessors, memory_bytes
        self.pool = Pool(self, memory_bytes // 8)
        self._kernels: dict[int, tuple[Kernel, Parameters]] = {}  # with the kernel, so that its id stays its own

    def __repr__(self) -> str:
        return f"<{self.device}: {self.name}, compute capability {self.cc[0]}.{self.cc[1]}>"

    # ------------------------------------------------------------------------------------------------- arrays

    def empty(self, shape, dtype, stream=None) -> DeviceArray:
        """An uninitialised C-contiguous array, aligned to 256 bytes, first used on `stream`."""
        shape, dtype, handle = _sizes(shape), np.dtype(dtype), self.stream(stream)
        nbytes = dtype.itemsize
        for size in shape:
            nbytes *= size
        block = self.pool.get(nbytes, handle)
        buffer = Buffer(self, block.pointer, nbytes, handle, block)
        buffer.memory = self._host_memory(block, nbytes)
        return DeviceArray(buffer, shadow_of(buffer, buffer.pointer, shape, None, dtype))

    def wrap(self, pointer: int, shape, strides, dtype, owner: Any, stream=None, readonly: bool = False) -> DeviceArray:
        """An array in memory that `owner` keeps; strides in bytes, None: C-contiguous. No copy."""
        shape, dtype = _sizes(shape), np.dtype(dtype)
        low, high = pointer, pointer + (0 if 0 in shape else dtype.itemsize)
        if 0 not in shape:
            steps = contiguous(shape, dtype.itemsize) if strides is None else strides
            for size, step in zip(shape, steps, strict=True):
                low, high = min(low, low + (size - 1) * step), max(high, high + (size - 1) * step)
        buffer = Buffer(self, low, high - low, self.stream(stream), owner=owner)
        buffer.memory = self._host_view(low, high - low)
        return DeviceArray(buffer, shadow_of(buffer, pointer, shape, strides, dtype, readonly))

    def to_device(self, host: np.ndarray, stream=None) -> DeviceArray:
        """A copy of a NumPy array: without gaps, its axes in the same order in memory; `host` may change afterwards."""
        host = np.asarray(host)
        if host.dtype.hasobject:
            raise TypeError(f"arrays of {host.dtype} stay on the host")
        axes = by_stride(host)
        if not host.transpose(axes).flags.c_contiguous:
            host = np.array(host, order="K")
            axes = by_stride(host)
        flat, handle = host.transpose(axes), self.stream(stream)
        array = self.empty(flat.shape, flat.dtype, handle)
        if flat.size:
            self._upload(array.pointer, address_of(flat), flat.nbytes, handle)
        return array.transpose(np.argsort(axes).tolist())

    def to_host(self, array: DeviceArray, out: np.ndarray | None = None, stream=None) -> np.ndarray:
        """The values of an array, its axes in the same order in memory unless `out` says otherwise.

        Waits for `stream`, which waits for the one that used the array last; None is that one.

        Raises
        ------
        ShapeError
            Where `out` has another shape or dtype.
        """
        handle = array.buffer.stream if stream is None else self.stream(stream)
        self.order(array.buffer.stream, handle)
        if out is None:
            axes = by_stride(array)
            out = np.empty([array.shape[axis] for axis in axes], array.dtype).transpose(np.argsort(axes).tolist())
        elif out.shape != array.shape or out.dtype != array.dtype:
            raise ShapeError(f"out: expected {array.shape} of {array.dtype}, got {out.shape} of {out.dtype}")
        self._fetch(array, out, handle)
        return out

    def _fetch(self, array: DeviceArray, out: np.ndarray, stream: int):
        if array.size == 0:
            return
        low, high = array.span
        axes = by_stride(array)
        target = out.transpose(axes)
        if array.transpose(axes).flags.c_contiguous and target.flags.c_contiguous:
            self._download(address_of(target), low, high - low, stream)
        elif high - low <= max(SPAN_BYTES, SPAN_FACTOR * array.nbytes):
            bytes_ = np.empty(high - low, np.uint8)
            self._download(address_of(bytes_), low, high - low, stream)
            out[...] = np.ndarray(array.shape, array.dtype, bytes_, array.pointer - low, array.strides)
        else:
            outermost = axes[0]
            for place in range(array.shape[outermost]):
                part = (slice(None),) * outermost + (place, ...)
                self._fetch(array[part], out[part], stream)

    def fill(self, array: DeviceArray, byte: int, stream=None):
        """Set every byte of an array without gaps.

        Raises
        ------
        ValueError
            Where it has gaps.
        """
        if not array.transpose(by_stride(array)).flags.c_contiguous:
            raise ValueError(f"only an array without gaps can be filled; this one has strides {array.strides}")
        handle = self.stream(stream)
        if array.size:
            self._set(array.pointer, byte, array.nbytes, handle)
            array.buffer.used_on(handle)

    def release(self) -> int:
        """Give the memory that is kept for later arrays back to the driver; returns its bytes."""
        self.synchronize()
        return self.pool.release()

    # ----------------------------------------------------------------------------------------------- launches

    def launch(self, kernel: Kernel, grid, arguments, stream=None):
        """Run a kernel; returns at once.

        Parameters
        ----------
        kernel : Kernel
            From a cached factory: it is compiled on its first launch.
        grid : tuple of int
            Blocks in x, y, z, one to three; a grid without blocks launches nothing.
        arguments : iterable
            What the signature says: ``DeviceArray`` (or None) for a pointer, a named tuple for a record, whole and real
            numbers.

        Raises
        ------
        TypeError, ValueError, OverflowError
            Where arguments or grid are not what the kernel takes.
        DeviceUnavailable
            Where the device lacks the kernel's instructions, or nothing can compile it.
        """
        handle, parameters = self.stream(stream), self.parameters(kernel)
        values = parameters.take(arguments)
        arrays = [value for value in values if isinstance(value, DeviceArray)]
        for array in arrays:
            if array.buffer.runtime is not self:
                raise ValueError(f"{kernel.name}: an array on {array.device}, launched on {self.device}")
        full = extents(kernel, grid)
        if 0 in full:
            return
        if kernel.least > self.cc:
            raise DeviceUnavailable(
                f"{kernel.name} needs compute capability {'.'.join(map(str, kernel.least))}; {self.device} "
                f"({self.name}) has {'.'.join(map(str, self.cc))}"
            )
        self._run(kernel, parameters, full, values, handle)
        for array in arrays:
            array.buffer.used_on(handle)

    def parameters(self, kernel: Kernel) -> Parameters:
        """What a kernel's signature asks for."""
        known = self._kernels.get(id(kernel))
        if known is None:
            cubins.identity(kernel)
            known = self._kernels[id(kernel)] = (kernel, Parameters(kernel))
        return known[1]

    def repeat(self, step, bases, stream: int):
        """Launch a ``replay.Step`` again, for the arrays `bases` of this call."""
        from numbaconv.devices.replay import placed

        values = [placed(value, bases) for value in step.values]
        self._run(step.kernel, step.parameters, step.grid, values, stream)

    # ------------------------------------------------------------------------------------------------ streams

    def stream(self, value) -> int:
        """The handle of a stream: an int, an object of torch's, CuPy's or any with ``__cuda_stream__``; None: legacy.

        Raises
        ------
        TypeError
            Where it is something else.
        """
        if value is None:
            return LEGACY
        if hasattr(value, "__cuda_stream__"):
            told = value.__cuda_stream__
            value = (told() if callable(told) else told)[1]
        for name in ("cuda_stream", "ptr"):
            value = getattr(value, name, value)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise TypeError(f"stream: expected a CUDA stream or its handle, got {value!r}")
        return LEGACY if value == 1 else int(value)

    def order(self, producer: int, consumer: int):
        """Make what comes next on one stream wait for what is on the other now."""
        if producer != consumer:
            self.wait(consumer, self.record(producer))

    @abstractmethod
    def record(self, stream=None) -> Event:
        """An event after all that is on the stream now."""

    @abstractmethod
    def wait(self, stream, event: Event):
        """Make what comes next on the stream wait for an event."""

    @abstractmethod
    def synchronize(self, stream=None):
        """Wait for all work on a stream; None: on the device."""

    @abstractmethod
    def device_of(self, pointer: int) -> str:
        """The device that an address belongs to, such as "cuda:1"; TypeError for none."""

    # ------------------------------------------------------------------------------ addresses, handles, bytes

    @abstractmethod
    def _allocate(self, size: int) -> tuple[int, Any]:
        """(address of `size` new bytes, what keeps them); MemoryError where there are none."""

    @abstractmethod
    def _free(self, pointer: int):
        """Free them, once all work that may use them is done."""

    def _host_memory(self, block, nbytes: int) -> np.ndarray | None:
        """A block's bytes, where the host can read them."""
        return None

    def _host_view(self, pointer: int, nbytes: int) -> np.ndarray | None:
        """Somebody else's bytes, where the host can read them."""
        return None

    @abstractmethod
    def _upload(self, pointer: int, host: int, nbytes: int, stream: int):
        """Copy from the host; returns when `host` may change."""

    @abstractmethod
    def _download(self, host: int, pointer: int, nbytes: int, stream: int):
        """Copy to the host; returns when it is there."""

    @abstractmethod
    def _set(self, pointer: int, byte: int, nbytes: int, stream: int):
        """Set bytes."""

    @abstractmethod
    def _run(self, kernel: Kernel, parameters: Parameters, grid: tuple[int, int, int], values: list, stream: int):
        """Launch, with all arguments checked."""


def _sizes(shape) -> tuple[int, ...]:
    shape = tuple(int(size) for size in (shape if isinstance(shape, tuple | list) else (shape,)))
    if min(shape, default=0) < 0:
        raise ShapeError(f"an array of {shape} has a negative size")
    return shape


def by_stride(array) -> list[int]:
    """Axes from the longest stride to the shortest."""
    return sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
