"""DLPack capsules by ctypes: how arrays of different libraries share device memory (https://dmlc.github.io/dlpack)."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

CPU, CUDA = 1, 2
NAME, USED = b"dltensor", b"used_dltensor"
CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
KINDS = {code: kind for kind, code in CODES.items()}


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        # From here on the "managed" tensor.
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


class Found(NamedTuple):
    """What a capsule says of an array: strides in bytes, device as (type, number)."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: np.dtype
    device: tuple[int, int]


_api = ctypes.pythonapi
# Prototypes of our own: ctypes.pythonapi's are everybody's.
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(("PyCapsule_New", _api))
_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
# For a capsule on its way out, which must not become an object again.
_dying_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_dying_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))

_exported: dict[int, tuple] = {}
"""What consumers still use, by the address of its tensor: the tensor, its sizes, and the array."""


def _released(address):
    _exported.pop(address, None)


def _destroyed(capsule):
    if _dying_valid(capsule, NAME):  # nobody took it
        _released(_dying_pointer(capsule, NAME))


_released_c = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_released)
_destroyed_c = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_destroyed)


def export(owner: Any, pointer: int, shape, strides, dtype: np.dtype, device: tuple[int, int]):
    """A capsule for an array; `owner` lives until its consumer, or else the capsule, is gone.

    Parameters
    ----------
    strides : tuple of int
        Bytes.
    device : tuple of int
        DLPack's type and number.

    Raises
    ------
    BufferError
        Where DLPack has no such dtype, or a stride is no whole number of elements.
    """
    if dtype.kind not in CODES or not dtype.isnative:
        raise BufferError(f"DLPack has no {dtype}")
    if any(step % dtype.itemsize for step in strides):
        raise BufferError(f"strides of {strides} bytes are not whole elements of {dtype}")
    sizes = (ctypes.c_int64 * max(len(shape), 1))(*shape)
    steps = (ctypes.c_int64 * max(len(shape), 1))(*(step // dtype.itemsize for step in strides))
    tensor = _Tensor(
        pointer, *device, len(shape), CODES[dtype.kind], 8 * dtype.itemsize, 1,
        ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64)), ctypes.cast(steps, ctypes.POINTER(ctypes.c_int64)),
        0, None, ctypes.cast(_released_c, ctypes.c_void_p).value,
    )  # fmt: skip
    address = ctypes.addressof(tensor)
    _exported[address] = (tensor, sizes, steps, owner)
    return _new(address, NAME, ctypes.cast(_destroyed_c, ctypes.c_void_p))


def read(capsule) -> Found:
    """What a capsule holds; the capsule keeps it.

    Raises
    ------
    TypeError
        Where it is no DLPack capsule, has been consumed, or has a dtype that NumPy lacks.
    """
    if not _valid(capsule, NAME):
        raise TypeError("not a DLPack capsule, or one that has been consumed")
    tensor = _Tensor.from_address(_pointer(capsule, NAME))
    kind, bits = KINDS.get(tensor.code), tensor.bits
    if kind is None or tensor.lanes != 1 or bits % 8:
        raise TypeError(f"a DLPack dtype that NumPy lacks: code {tensor.code}, {bits} bits, {tensor.lanes} lanes")
    dtype = np.dtype(f"{kind}{bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(step * dtype.itemsize for step in tensor.strides[: tensor.ndim]) if tensor.strides else None
    pointer = (tensor.data or 0) + tensor.byte_offset
    return Found(pointer, shape, strides, dtype, (tensor.device_type, tensor.device_id))
