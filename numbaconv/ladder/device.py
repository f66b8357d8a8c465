"""What every CUDA step of the ladder has around its kernel: matrices brought to a device, and the result back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from numbaconv.arrays import any_array, device_of, writable
from numbaconv.devices.array import DeviceArray, may_share_memory
from numbaconv.devices.cuda import runtime
from numbaconv.devices.intrinsics import uint32
from numbaconv.errors import DeviceUnavailable, ShapeError
from numbaconv.jit_cuda import Function, Kernel, pointer
from numbaconv.lowering_cuda import copy_array

__all__ = ["SIGNATURE", "at", "device_for", "multiply"]

SIGNATURE = types.void(*[pointer(4)] * 3, *[types.int32] * 3)
"""A step's kernel takes a, b, c (pointers to float32) and m, n, k."""
ALIGNED = 16  # bytes: where a 128-bit access may begin
MOST_ELEMENTS = 1 << 31  # that 32-bit indices reach


def _at(row, column, columns):
    """Where element (row, column) of a matrix of so many columns lies: rows follow one another.

    32 bits and unsigned: Numba's own integers have 64, which a GPU computes with in pairs of instructions, and a signed
    index is tested for being negative at every use.
    """
    return uint32(uint32(row * columns) + uint32(column))


at = Function(_at)


def device_for(*arrays: Any):
    """The runtime of the device where the first of `arrays` on a device lives, or of "cuda" where all are the host's.

    Raises
    ------
    DeviceUnavailable
        With what is missing and what to do about it.
    """
    homes = [home for home in map(device_of, arrays) if home != "cpu"]
    try:
        return runtime(homes[0] if homes else "cuda")
    except DeviceUnavailable as error:
        raise DeviceUnavailable(
            f"a CUDA step of the ladder needs a GPU: {error.reason}; or set NUMBACONV_CUDA=emulate, which runs its "
            "kernel on the CPU, slowly (pip install greenlet)"
        ) from error


def multiply(kernel: Kernel, bm: int, bn: int, a: Any, b: Any, out: Any, down: str = "y", row: int = 1) -> Any:
    """Launch a step's kernel, blocks of `bm` x `bn` elements of C, on matrices of any home; returns `out`.

    Parameters
    ----------
    kernel : Kernel
        Of ``SIGNATURE``.
    bm, bn : int
    a, b, out : array (m, k), (k, n), (m, n)
        float32: the host's (copied to the device, and the result back), or row-major ones on a device.
    down : {"y", "x"}
        The axis of the grid along which blocks follow one another down the rows of C.
    row : int
        The rows of A and B that the kernel sees begin at multiples of so many elements, and all three matrices, where
        it is not 1, at a multiple of 16 bytes.

    Raises
    ------
    ShapeError
        Where shapes or dtypes do not go together.
    DeviceUnavailable
    """
    home = device_for(a, b, out)
    a, b = _matrix(a, "a", home), _matrix(b, "b", home)
    (m, k), (k_of_b, n) = a.shape, b.shape
    if k != k_of_b:
        raise ShapeError(f"a of shape {a.shape} has {k} columns but b of shape {b.shape} has {k_of_b} rows")
    target = _result(out, (m, n), home)
    if max(a.size, b.size, m * n) >= MOST_ELEMENTS:
        raise ShapeError(f"m, n, k = {m}, {n}, {k}: the ladder counts elements in 32 bits; use numbaconv.gemm")
    given = isinstance(target, DeviceArray)
    if given and any(may_share_memory(target, x) for x in (a, b)):
        raise ShapeError("out: it shares memory with a or b, which are still read while it is written; pass another")
    in_place = given and (row == 1 or target.pointer % ALIGNED == 0)
    c = target if in_place else home.empty((m, n), np.float32)
    blocks = -(-m // bm), -(-n // bn)
    grid = blocks if down == "x" else blocks[::-1]
    home.launch(kernel, grid, (_spaced(home, a, row), _spaced(home, b, row), c, m, n, k))
    if not given:
        target[...] = home.to_host(c)
    elif not in_place:
        copy_array(home, c, target)
    return out


def _matrix(value: Any, name: str, home) -> DeviceArray:
    """An operand on the device, its rows one after the other."""
    array = any_array(value, name, home.device)
    _check(array, name)
    return array if isinstance(array, DeviceArray) else home.to_device(np.ascontiguousarray(array))


def _result(out: Any, shape: tuple[int, int], home) -> Any:
    """`out`, as an array of the device's or of the host's."""
    target = any_array(out, "out", home.device)
    if isinstance(target, DeviceArray) and not target.flags.writeable:
        raise ShapeError("out: the array is read-only; pass a writable one")
    target = target if isinstance(target, DeviceArray) else writable(target)
    _check(target, "out")
    if target.shape != shape:
        raise ShapeError(f"out: expected shape {shape}, got {target.shape}")
    return target


def _check(array: Any, name: str) -> None:
    if array.ndim != 2 or array.dtype != np.float32:
        raise ShapeError(f"{name}: the ladder takes matrices of float32, got {array.shape} of {array.dtype}")
    if isinstance(array, DeviceArray) and not array.flags.c_contiguous:
        raise ShapeError(
            f"{name}: on a device the ladder takes matrices whose rows follow one another, got strides "
            f"{array.strides} for {array.shape}; copy it first, or use numbaconv.gemm, which takes any"
        )


def _spaced(home, array: DeviceArray, row: int) -> DeviceArray:
    """`array`, or where its rows do not begin at multiples of `row` elements a copy whose rows do."""
    rows, columns = array.shape
    if row == 1 or (columns % row == 0 and array.pointer % ALIGNED == 0):
        return array
    room = home.empty((rows, -(-columns // row) * row), array.dtype)
    copy_array(home, array, room[:, :columns])
    return room
