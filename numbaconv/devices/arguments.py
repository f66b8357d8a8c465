"""The arguments of a kernel: checked against its signature, and packed as a launch takes them."""

from __future__ import annotations

import functools
import math
import operator
import struct

import numpy as np
from numba import types

from numbaconv.devices.array import DeviceArray
from numbaconv.jit_cuda import Kernel

INT32 = range(-(2**31), 2**31)
LIMITS = (2**31 - 1, 65535, 65535)
"""Blocks in a grid."""
LARGEST = float(np.finfo(np.float32).max)
LETTERS = {types.int32: "i", types.float32: "f", types.float64: "d"}


def extents(kernel: Kernel, grid) -> tuple[int, int, int]:
    """A grid of one to three whole numbers, as three.

    Raises
    ------
    ValueError
        Where it has none or more than three, a negative one, or one that is too large for the hardware.
    """
    given = tuple(operator.index(blocks) for blocks in (grid if isinstance(grid, tuple | list) else (grid,)))
    full = given + (1,) * (3 - len(given))
    if not given or len(full) != 3 or not all(0 <= blocks <= most for blocks, most in zip(full, LIMITS, strict=True)):
        raise ValueError(f"{kernel.name}: a grid of {grid} blocks; one to three whole numbers up to {LIMITS}")
    return full  # type: ignore[return-value]


class Parameters:
    """What a kernel's signature asks for.

    Attributes
    ----------
    layout : struct.Struct
        Of the packed arguments; the fields of a record are parameters of their own.
    offsets : tuple of int
        Where each parameter begins.
    """

    def __init__(self, kernel: Kernel):
        self.name = kernel.name
        self.kinds = kernel.signature.args
        letters = "".join(self._letters(kind) for kind in self.kinds)
        self.layout = struct.Struct("@" + letters)
        # Fields are aligned to their size, as PTX parameters are; the last one's size is its alignment.
        self.offsets = tuple(
            struct.calcsize("@" + letters[: n + 1]) - struct.calcsize("@" + letters[n]) for n in range(len(letters))
        )

    def _letters(self, kind) -> str:
        if isinstance(kind, types.CPointer):
            return "Q"
        if isinstance(kind, types.NamedUniTuple) and kind.dtype is types.int32:
            return "i" * kind.count
        if kind not in LETTERS:
            raise TypeError(f"{self.name}: a parameter of type {kind}; pointers, records, int32 and reals are known")
        return LETTERS[kind]

    def take(self, arguments) -> list:
        """The arguments in the form that both devices share: arrays or None, tuples of ints, ints, floats.

        Raises
        ------
        TypeError
            Where there are too many, too few, or one is of another kind than the signature's.
        OverflowError
            Where a number does not fit its 32 bits.
        ValueError
            Where an array runs backwards along an axis, or begins between two elements.
        """
        arguments = tuple(arguments)
        if len(arguments) != len(self.kinds):
            raise TypeError(f"{self.name} takes {len(self.kinds)} arguments, got {len(arguments)}")
        return [self._one(n, kind, value) for n, (kind, value) in enumerate(zip(self.kinds, arguments, strict=True))]

    def _one(self, number: int, kind, value):
        if isinstance(kind, types.CPointer):
            return value if value is None else self._array(number, kind, value)
        if isinstance(kind, types.NamedUniTuple):
            if not isinstance(value, tuple) or getattr(value, "_fields", None) != kind.instance_class._fields:
                raise TypeError(f"{self._at(number)}: expected a {kind.instance_class.__name__}, got {value!r}")
            return kind.instance_class(*(self._integer(number, field) for field in value))
        return self._integer(number, value) if kind is types.int32 else self._real(number, kind, value)

    def _at(self, number: int) -> str:
        return f"{self.name}: argument {number}"

    def _array(self, number: int, kind, value) -> DeviceArray:
        if not isinstance(value, DeviceArray):
            raise TypeError(f"{self._at(number)}: expected a DeviceArray or None, got {type(value).__name__}")
        if value.dtype != _pointee(kind.dtype):
            raise TypeError(f"{self._at(number)}: expected {kind.dtype}, got an array of {value.dtype}")
        if value.size and min(value.strides, default=0) < 0:
            raise ValueError(f"{self._at(number)}: strides {value.strides} run backwards")
        if value.pointer % value.itemsize:
            raise ValueError(f"{self._at(number)}: its address is no multiple of {value.itemsize} bytes")
        return value

    def _integer(self, number: int, value) -> int:
        try:
            value = operator.index(value)
        except TypeError:
            raise TypeError(f"{self._at(number)}: expected a whole number, got {value!r}") from None
        if value not in INT32:
            raise OverflowError(f"{self._at(number)}: {value} does not fit in 32 bits")
        return value

    def _real(self, number: int, kind, value) -> float:
        if not isinstance(value, int | float | np.floating | np.integer):
            raise TypeError(f"{self._at(number)}: expected a real number, got {value!r}")
        value = float(value)
        if kind is types.float32 and math.isfinite(value) and abs(value) > LARGEST:
            raise OverflowError(f"{self._at(number)}: {value} does not fit in float32")
        return value

    def pack(self, values: list) -> bytes:
        """What ``take`` gave, as the bytes of the parameters, each at its offset."""
        flat: list = []
        for value in values:
            if isinstance(value, tuple):
                flat += value
            else:
                flat.append(value.pointer if isinstance(value, DeviceArray) else 0 if value is None else value)
        return self.layout.pack(*flat)


@functools.cache
def _pointee(kind) -> np.dtype:
    return np.dtype(str(kind))
