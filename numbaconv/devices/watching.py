"""Watching the emulator: told of every access that kernels make to global and shared memory.

::

    def touched(thread, memory, index, count, writes): ...

    with watched(touched):
        gemm(a, b, device="cuda")  # NUMBACONV_CUDA=emulate

`thread` is the ``emulator.Thread`` (its `number`, its `block`), `memory` an ``emulated_memory.Memory`` (its `name`;
`shared`), and elements ``memory[index : index + count]`` are read or written in one instruction. An asynchronous copy
is told of when it starts: it reads global memory, and writes shared. Local memory is registers: nobody is told. Where
all blocks of a launch do the like, ``watched(touched, blocks=1)`` saves the time of running the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from numbaconv.devices.emulated_memory import Memory, SharedMemory

__all__ = ["Watch", "watch", "watched"]

Touched = Callable[[Any, Memory, int, int, bool], None]

_watching: ContextVar[tuple[Touched, int | None] | None] = ContextVar("watching", default=None)


@contextmanager
def watched(touched: Touched, blocks: int | None = None) -> Iterator[None]:
    """Call `touched` at every access of the kernels that the emulator runs in the block of code.

    Parameters
    ----------
    touched : callable
    blocks : int, optional
        Only so many blocks of each launch are run, the first ones: what they would have written is missing then.
    """
    token = _watching.set((touched, blocks))
    try:
        yield
    finally:
        _watching.reset(token)


def watch() -> Watch | None:
    """Who watches the launch that begins now; None: nobody."""
    told = _watching.get()
    return None if told is None else Watch(*told)


class Watch:
    """Whom a launch tells, how many of its blocks run (None: all), and which one does."""

    def __init__(self, touched: Touched, blocks: int | None):
        self.touched, self.blocks = touched, blocks
        self.block: Any = None

    def of(self, memory: Memory) -> Memory:
        """The same memory, which tells of every access."""
        if isinstance(memory, SharedMemory):
            made: Any = WatchedSharedMemory(memory.name, memory.values, memory.base, memory.block)
        else:
            made = WatchedMemory(memory.name, memory.values, memory.base)
        made.watch = self
        return made


class _Watched:
    """Memory that does as its kind does, and tells."""

    watch: Watch

    def _tell(self, index, count: int, writes: bool, thread=None):
        self.watch.touched(thread or self.watch.block.current, self, int(index), count, writes)

    def __getitem__(self, index):
        value = super().__getitem__(index)
        self._tell(index, 1, False)
        return value

    def __setitem__(self, index, value):
        super().__setitem__(index, value)
        self._tell(index, 1, True)

    def read(self, index, count, width):
        values = super().read(index, count, width)
        if count:
            self._tell(index, count, False)
        return values

    def write(self, index, values, width):
        super().write(index, values, width)
        self._tell(index, width, True)

    def gather(self, index, pitch, rows, columns, width):
        values = super().gather(index, pitch, rows, columns, width)
        for row in range(rows):
            for column in columns[::width]:
                self._tell(index + row * pitch + column, width, False)
        return values


class WatchedMemory(_Watched, Memory):
    """An array in global memory."""


class WatchedSharedMemory(_Watched, SharedMemory):
    """A block's."""

    def gather_lanes(self, threads, where):
        values = super().gather_lanes(threads, where)
        for thread, places in zip(threads, where, strict=True):
            for place in places.ravel():
                self._tell(place, 1, False, thread)
        return values

    def start_copy(self, thread, into, source, index, count, width):
        super().start_copy(thread, into, source, index, count, width)
        if count:
            source._tell(index, count, False)
        self._tell(into, width, True)
