"""Scratch memory: aligned, counted to the byte, handed out for one call and kept for the next.

Fresh memory costs page faults that can exceed the arithmetic of a layer, so buffers go back to a small shelf
instead of to the system. A buffer belongs to one call at a time: plans and layers hold none.
"""

from __future__ import annotations

import ctypes
import os
import threading

import numpy as np

ALIGNMENT = 64
SHELF_BYTES = 1 << 30
"""The most that is kept for later calls."""


def round_up(size: int) -> int:
    """`size` bytes, in whole cache lines."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _data_pointer(array: np.ndarray) -> int:
    return ctypes.c_void_p.from_address(id(array) + object.__basicsize__).value or 0


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


_probe = np.zeros(3)
address_of = _data_pointer if _data_pointer(_probe) == _address(_probe) else _address
"""The address of an array's first element. NumPy's own way builds an object and takes 1.5 us; the pointer is the first
field of its C structure, a fixed part of its binary interface (looked at here, in case an interpreter differs)."""


def aligned(size: int) -> np.ndarray:
    """`size` uninitialised bytes that begin on a cache line."""
    return aligned_array((size,), np.uint8, None, size)


def aligned_array(shape, dtype, strides: tuple[int, ...] | None, size: int) -> np.ndarray:
    """An uninitialised array over `size` bytes that begin on a cache line; in C order, unless given strides."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    return np.ndarray(shape, dtype, memory, -address_of(memory) % ALIGNMENT, strides)


class Arena:
    """One call's scratch: named slices of a buffer, counted."""

    def __init__(self, memory: np.ndarray, address: int):
        self.memory = memory
        self.address = address
        self.used = 0
        self.slices: dict[str, int] = {}

    def take(self, name: str, size: int) -> np.ndarray:
        """`size` bytes, aligned; each slice is taken once and lives as long as the call.

        Raises
        ------
        MemoryError
            When the arena is smaller than what is taken: the declaration of a lowering was wrong.
        """
        start = self.used
        if start + round_up(size) > len(self.memory):
            raise MemoryError(
                f"workspace: {name} needs {size} bytes but {len(self.memory) - start} of the {len(self.memory)} "
                f"declared are left (taken: {self.slices}); declare more in lowering_bytes or panel_bytes"
            )
        self.used += round_up(size)
        self.slices[name] = self.slices.get(name, 0) + size
        return self.memory[start : start + size]


class _Shelf:
    """Buffers between calls with their addresses, largest last."""

    def __init__(self):
        self.lock = threading.Lock()
        self.buffers: list[tuple[int, int, np.ndarray]] = []

    def get(self, size: int) -> tuple[int, int, np.ndarray]:
        with self.lock:
            for place, buffer in enumerate(self.buffers):
                if buffer[0] >= size:
                    return self.buffers.pop(place)
            if self.buffers:
                self.buffers.pop()  # too small: the larger one that replaces it will serve both
        memory = aligned(size)
        return size, address_of(memory), memory

    def put(self, buffer: tuple[int, int, np.ndarray]):
        with self.lock:
            if not self.buffers:
                self.buffers.append(buffer)
            elif sum(kept[0] for kept in self.buffers) + buffer[0] <= SHELF_BYTES:
                self.buffers.append(buffer)
                self.buffers.sort(key=lambda kept: kept[0])


_shelf = _Shelf()


def _reset():
    global _shelf
    _shelf = _Shelf()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)  # the lock may have been held by a thread that the child lacks


class checked_out:
    """An ``Arena`` of exactly `size` bytes, for the duration of the block."""

    __slots__ = ("buffer", "shelf", "size")

    def __init__(self, size: int):
        self.shelf, self.size = _shelf, round_up(size)

    def __enter__(self) -> Arena:
        self.buffer = self.shelf.get(self.size)
        return Arena(self.buffer[2][: self.size], self.buffer[1])

    def __exit__(self, *error):
        self.shelf.put(self.buffer)


def borrow(size: int) -> tuple[int, int, np.ndarray]:
    """A buffer of at least `size` bytes for one call: (its size, its address, itself); it is to be given back."""
    return _shelf.get(size)


def give_back(buffer: tuple[int, int, np.ndarray]) -> None:
    """Return a buffer for the next call."""
    _shelf.put(buffer)


def release_workspaces() -> int:
    """Give the scratch that is kept for later calls back to the system.

    Returns
    -------
    int
        Bytes given back.
    """
    with _shelf.lock:
        freed = sum(kept[0] for kept in _shelf.buffers)
        _shelf.buffers.clear()
    return freed
