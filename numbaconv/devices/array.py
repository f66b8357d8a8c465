"""Arrays in device memory, and how other libraries' arrays become ours and ours theirs, without a copy."""

from __future__ import annotations

import operator
from types import EllipsisType
from typing import Any

import numpy as np

from numbaconv.devices import dlpack
from numbaconv.devices.pool import Buffer
from numbaconv.errors import DeviceUnavailable
from numbaconv.workspace import address_of

__all__ = ["DeviceArray", "as_device_array", "contiguous", "may_share_memory", "shadow_of"]

_ORIGIN = np.zeros(64, np.uint8)
"""Where the shadows of memory that the host cannot read begin; never read, whatever they seem to span."""
_COPY_NEVER = {"copy": False} if np.lib.NumpyVersion(np.__version__) >= "2.1.0" else None


def shadow_of(buffer: Buffer, pointer: int, shape, strides, dtype, readonly: bool = False) -> np.ndarray:
    """A NumPy array of this layout, as far from ``buffer.origin`` as `pointer` is from ``buffer.pointer``.

    Where the host can read the buffer (emulation) it is that memory. Otherwise it is a shadow: NumPy does a device
    array's index arithmetic on it, and nobody reads or writes it.
    """
    dtype = np.dtype(dtype)
    offset = pointer - buffer.pointer
    if buffer.memory is not None and 0 not in shape:
        shadow = np.ndarray(shape, dtype, buffer.memory, offset, strides)
        buffer.origin = address_of(buffer.memory)
    else:
        start = _ORIGIN[: dtype.itemsize].view(dtype)
        steps = contiguous(shape, dtype.itemsize) if strides is None else strides
        shadow = np.lib.stride_tricks.as_strided(start, shape, steps)
        buffer.origin = address_of(_ORIGIN) - offset
    if readonly:
        shadow.flags.writeable = False
    return shadow


def contiguous(shape, itemsize: int) -> tuple[int, ...]:
    """The strides of an array without gaps, the last axis the closest."""
    steps, step = [], itemsize
    for size in reversed(shape):
        steps.append(step)
        step *= max(size, 1)
    return tuple(reversed(steps))


class DeviceArray:
    """An array in the memory of a CUDA device, as ``numbaconv.conv2d`` and its kin return for arrays that live there.

    Shapes, strides (bytes) and dtypes are NumPy's, and so are views: ``x[1:, ..., None]``, ``x.transpose(0, 2, 3, 1)``,
    ``x.T``, and ``x.reshape(shape)`` where that needs no copy. ``x.copy_to_host()`` is a NumPy array;
    ``torch.from_dlpack(x)``, ``cupy.from_dlpack(x)`` and whatever reads ``__cuda_array_interface__`` share its memory.
    Arrays are made by a runtime (``devices.cuda.runtime().to_device(array)``).
    """

    __slots__ = ("__weakref__", "_shadow", "buffer")
    __array_ufunc__ = None

    def __init__(self, buffer: Buffer, shadow: np.ndarray):
        self.buffer = buffer
        self._shadow = shadow

    shape = property(lambda self: self._shadow.shape)
    strides = property(lambda self: self._shadow.strides, doc="Bytes from one element to the next, for each axis.")
    dtype = property(lambda self: self._shadow.dtype)
    itemsize = property(lambda self: self._shadow.itemsize)
    ndim = property(lambda self: self._shadow.ndim)
    size = property(lambda self: self._shadow.size)
    nbytes = property(lambda self: self._shadow.nbytes)
    flags = property(lambda self: self._shadow.flags, doc="NumPy's, such as ``flags.c_contiguous``.")
    T = property(lambda self: DeviceArray(self.buffer, self._shadow.T))

    @property
    def pointer(self) -> int:
        """The address of the first element."""
        return self.buffer.pointer + address_of(self._shadow) - self.buffer.origin

    @property
    def device(self) -> str:
        """Where it lives, such as "cuda:0"."""
        return self.buffer.runtime.device

    @property
    def span(self) -> tuple[int, int]:
        """The addresses [low, high) between which all elements lie."""
        if self.size == 0:
            return self.pointer, self.pointer
        reach = [(size - 1) * step for size, step in zip(self.shape, self.strides, strict=True)]
        low = self.pointer + sum(step for step in reach if step < 0)
        return low, self.pointer + sum(step for step in reach if step > 0) + self.itemsize

    def __getitem__(self, index) -> DeviceArray:
        index = index if isinstance(index, tuple) else (index,)
        taken = [_basic(part) for part in index]
        if not any(part is Ellipsis for part in taken):
            taken.append(Ellipsis)  # with it even a single element is a view; NumPy would read it otherwise
        return DeviceArray(self.buffer, self._shadow[tuple(taken)])

    def transpose(self, *axes) -> DeviceArray:
        """The same memory with its axes permuted, as NumPy's."""
        return DeviceArray(self.buffer, self._shadow.transpose(*axes))

    def view(self, dtype) -> DeviceArray:
        """The same memory as elements of another type; the last axis must be contiguous, as for NumPy's."""
        return DeviceArray(self.buffer, self._shadow.view(dtype))

    def reshape(self, *shape) -> DeviceArray:
        """The same memory in another shape.

        Raises
        ------
        ValueError
            Where the elements are another number, or where only a copy could have this shape.
        """
        wanted = shape[0] if len(shape) == 1 and not hasattr(shape[0], "__index__") else shape
        if _COPY_NEVER is not None:
            return DeviceArray(self.buffer, self._shadow.reshape(wanted, **_COPY_NEVER))
        view = self._shadow.view()
        try:
            view.shape = wanted
        except AttributeError as error:
            raise ValueError(f"an array with strides {self.strides} takes a copy to be {wanted}") from error
        return DeviceArray(self.buffer, view)

    def copy_to_host(self, stream=None) -> np.ndarray:
        """A NumPy array of its values, its axes in the same order in memory; waits for `stream`."""
        return self.buffer.runtime.to_host(self, stream=stream)

    def __len__(self) -> int:
        return len(self._shadow)

    def __bool__(self):
        raise TypeError("a device array has no truth value; use copy_to_host()")

    def __array__(self, *args, **kwargs):
        raise TypeError("this array lives on a device; copy_to_host() makes it a NumPy array")

    def __reduce_ex__(self, protocol):
        raise TypeError("a device array is neither pickled nor copied; use copy_to_host()")

    def __repr__(self) -> str:
        order = "" if self.flags.c_contiguous else f", strides={self.strides}"
        return f"DeviceArray({self.shape}, {self.dtype}{order}, device={self.device!r})"

    @property
    def __cuda_array_interface__(self) -> dict:
        buffer = self.buffer
        buffer.exported = True
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, not self.flags.writeable),
            "strides": None if self.flags.c_contiguous else self.strides,
            "version": 3,
            "stream": buffer.stream or 1,  # the interface's number for the legacy stream
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        runtime = self.buffer.runtime
        return (dlpack.CPU, 0) if runtime.emulated else (dlpack.CUDA, runtime.index)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        runtime, buffer = self.buffer.runtime, self.buffer
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("a device array is shared where it lives; use copy_to_host() for a copy")
        if not self.flags.writeable:
            raise BufferError("this device array is read-only, which a DLPack capsule cannot say")
        if not runtime.emulated and stream != -1:  # -1: the consumer sees to it
            if stream == 0:
                raise ValueError("stream 0 is ambiguous; pass 1 for the legacy default stream")
            consumer = runtime.stream(stream)
            runtime.order(buffer.stream, consumer)
            buffer.exported |= consumer != buffer.home
        elif stream == -1:
            buffer.exported = True
        return dlpack.export(self, self.pointer, self.shape, self.strides, self.dtype, self.__dlpack_device__())


def _basic(part: Any) -> int | slice | EllipsisType | None:
    """One part of an index that makes a view."""
    if part is None or part is Ellipsis or isinstance(part, slice):
        return part
    if not isinstance(part, bool | np.bool_ | np.ndarray):
        try:
            return operator.index(part)
        except TypeError:
            pass
    raise IndexError(f"device arrays take whole numbers, slices, None and ..., not {type(part).__name__}")


def may_share_memory(a: DeviceArray, b: DeviceArray) -> bool:
    """Whether two arrays lie in overlapping stretches of memory, as ``numpy.may_share_memory``."""
    (low_a, high_a), (low_b, high_b) = a.span, b.span
    return a.device == b.device and max(low_a, low_b) < min(high_a, high_b)


def as_device_array(value: Any, runtime, stream=None) -> DeviceArray | None:
    """`value` as an array of ours, without a copy; None where it does not live on a CUDA device.

    Parameters
    ----------
    value
        A ``DeviceArray``, or an object with ``__dlpack__`` on a CUDA device or with ``__cuda_array_interface__``.
    runtime : Runtime
        Of the device where it must live.
    stream
        Where it is going to be used: that stream waits for the one on which it was made.

    Returns
    -------
    DeviceArray or None
        Of any dtype; holds on to `value`.

    Raises
    ------
    TypeError
        Where its memory cannot be shared, or it has a mask.
    DeviceUnavailable
        Where it lives on another device than `runtime`'s.
    """
    if isinstance(value, DeviceArray):
        _at_home(value.device, runtime)
        if value.buffer.stream != (handle := runtime.stream(stream)):
            runtime.order(value.buffer.stream, handle)
        return value
    handle = runtime.stream(stream)
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        kind, index = value.__dlpack_device__()
        if kind == dlpack.CUDA:
            _at_home(f"cuda:{index}", runtime)
            try:
                capsule = value.__dlpack__(stream=handle or 1)
            except (BufferError, RuntimeError, TypeError) as error:
                raise TypeError(f"cannot share its memory ({error}); pass a detached tensor") from error
            return _from_capsule(capsule, runtime, handle)
    interface = getattr(value, "__cuda_array_interface__", None)
    return None if interface is None else _from_interface(value, interface, runtime, handle)


def _at_home(device: str, runtime):
    if device != runtime.device:
        raise DeviceUnavailable(f"the array lives on {device}, and this runs on {runtime.device}; move one of them")


def _from_capsule(capsule, runtime, stream: int) -> DeviceArray:
    found = dlpack.read(capsule)
    if runtime.emulated and found.device[0] != dlpack.CPU:
        raise DeviceUnavailable("CUDA is emulated (NUMBACONV_CUDA) and cannot read the memory of a real device")
    # The capsule itself is the owner: as no one has taken its tensor, it frees that when it goes.
    return runtime.wrap(found.pointer, found.shape, found.strides, found.dtype, owner=capsule, stream=stream)


def _from_interface(value, interface, runtime, stream: int) -> DeviceArray:
    if interface.get("mask") is not None:
        raise TypeError("arrays with a mask are not supported")
    shape, strides, dtype = tuple(interface["shape"]), interface.get("strides"), np.dtype(interface["typestr"])
    pointer, readonly = interface["data"]
    producer = interface.get("stream")
    if producer == 0:
        raise TypeError("stream 0 in __cuda_array_interface__ is ambiguous: 1 is the legacy default stream")
    if 0 not in shape:
        _at_home(runtime.device_of(pointer), runtime)
    array = runtime.wrap(pointer, shape, strides, dtype, owner=value, stream=stream, readonly=bool(readonly))
    if producer is not None:
        runtime.order(runtime.stream(producer), stream)
    return array
