"""CUDA blocks on the CPU: the kernels themselves, as Python, one greenlet a thread, at their real tile sizes.

What a GPU leaves undefined is an error here, or NaN: shared and local memory start as NaN; an asynchronous copy lands
only when its thread waits for it; threads run in shuffled order; reads and writes outside an array, 128-bit accesses
that are not aligned, int32 overflow, races in shared memory (a word that one thread writes and another touches with no
barrier between), barriers that not all threads reach and barriers that they reach in different places all raise
``EmulationError``. What it cannot show: whether PTX means what the twins in ``intrinsics`` say, and how fast it is.
"""

from __future__ import annotations

import itertools
import random
import sys
from types import SimpleNamespace

import numpy as np
from numba import types

from numbaconv.devices.intrinsics import cuda
from numbaconv.jit_cuda import Word, rebound

SHARED_BYTES = 48 * 1024
NOBODY, MANY, COPYING = -1, -2, -3


class EmulationError(Exception):
    """What on a GPU would have been undefined."""


def within(value, low: int, high: int) -> int:
    """`value` as an int; an error unless low <= value <= high."""
    if not low <= value <= high:
        raise EmulationError(f"{value} is not between {low} and {high}: it does not fit its 32 bits")
    return int(value)


def int32(value) -> int:
    return within(value, -(2**31), 2**31 - 1)


class Memory:
    """A flat array with every access checked. `base` is how many elements past a 16-byte boundary it begins."""

    def __init__(self, name: str, values: np.ndarray, base: int = 0):
        self.name, self.values, self.base = name, values, base

    def _place(self, index, count: int, aligned: bool = False) -> int:
        index = int32(index)
        if aligned and (self.base + index) % 4:
            raise EmulationError(f"128-bit access to {self.name}[{index}] is misaligned")
        if count and not 0 <= index <= len(self.values) - count:
            raise EmulationError(f"{self.name}[{index}:{index + count}] is outside its {len(self.values)} elements")
        return index

    def touch(self, where, writes: bool):
        """Told of every access, as a slice or an array of indices."""

    def __getitem__(self, index):
        index = self._place(index, 1)
        self.touch(slice(index, index + 1), writes=False)
        return self.values[index]

    def __setitem__(self, index, value):
        index = self._place(index, 1)
        self.touch(slice(index, index + 1), writes=True)
        self.values[index] = value

    def read4(self, index, count: int = 4):
        """`count` elements from a multiple of four."""
        if not 0 <= count <= 4:
            raise EmulationError(f"{count} of four elements of {self.name}")
        index = self._place(index, count, aligned=True)
        self.touch(slice(index, index + count), writes=False)
        return self.values[index : index + count]

    def write4(self, index, values):
        index = self._place(index, 4, aligned=True)
        self.touch(slice(index, index + 4), writes=True)
        self.values[index : index + 4] = values

    def gather4(self, index, pitch: int, rows: int, columns: list[int]):
        """``[row, column]`` of a matrix of rows `pitch` apart at `index`; each four columns are one access."""
        for column in columns[::4]:
            for row in (0, rows - 1):
                self._place(index + row * pitch + column, 4, aligned=True)
        if pitch % 4:
            raise EmulationError(f"rows of {pitch} elements in {self.name}: 128-bit access is misaligned")
        where = int(index) + pitch * np.arange(rows)[:, None] + np.array(columns)
        self.touch(where, writes=False)
        return self.values[where]


class SharedMemory(Memory):
    """A block's, with who touched what since the last barrier."""

    def __init__(self, name, values, base, block):
        super().__init__(name, values, base)
        self.block = block
        self.writer, self.written = np.full(len(values), NOBODY), np.full(len(values), -1)
        self.reader, self.seen = np.full(len(values), NOBODY), np.full(len(values), -1)

    def touch(self, where, writes: bool):
        me, now = self.block.current.number, self.block.barriers
        writer = self.writer[where]
        if (writer == COPYING).any():
            raise EmulationError(f"thread {me} touches {self.name} where an asynchronous copy is under way")
        fresh = self.written[where] == now
        if (fresh & (writer != me)).any():
            raise EmulationError(
                f"race: thread {me} touches what another wrote to {self.name}, with no barrier between"
            )
        seen = self.seen[where] == now
        reader = self.reader[where]
        if not writes:
            self.reader[where] = np.where(seen & (reader != me), MANY, me)
            self.seen[where] = now
            return
        if (seen & (reader != me)).any():
            raise EmulationError(f"race: thread {me} writes what another read of {self.name}, with no barrier between")
        self.writer[where], self.written[where] = me, now


class Thread:
    """One thread of a block, and its asynchronous copies."""

    within = staticmethod(within)

    def __init__(self, block, number: int, place):
        self.block, self.number, self.place = block, number, place
        self.shared_arrays = 0
        self.copies: list = []
        self.groups: list = []
        self.site: str | None = None
        self.greenlet = None

    def start_copy(self, shared, into, source, index, count):
        source.read4(index, count)
        shared.write4(into, np.nan)
        shared.writer[into : into + 4] = COPYING
        self.copies.append((shared, into, source, index, count))

    def commit_copies(self):
        self.groups.append(self.copies)
        self.copies = []

    def wait_copies(self, pending: int):
        while len(self.groups) > pending:
            for shared, into, source, index, count in self.groups.pop(0):
                shared.writer[into : into + 4] = self.number
                shared.write4(into, [*source.read4(index, count), 0, 0, 0, 0][:4])


class Block:
    """What ``numba.cuda`` is to the kernel: one block of threads, of which `current` runs."""

    def __init__(self, index, grid, size, rng):
        self.blockIdx, self.gridDim, self.blockDim, self.rng = index, grid, size, rng
        self.shared = SimpleNamespace(array=self._shared_array)
        self.local = SimpleNamespace(array=self._local_array)
        self.arrays: list[SharedMemory] = []
        self.barriers = 0
        places = itertools.product(range(size.z), range(size.y), range(size.x))
        self.threads = [Thread(self, number, axes(x, y, z)) for number, (z, y, x) in enumerate(places)]
        self.current = self.threads[0]

    threadIdx = property(lambda self: self.current.place)
    laneid = property(lambda self: self.current.number % 32)

    def _shared_array(self, shape, dtype, alignment=None):
        number = self.current.shared_arrays
        self.current.shared_arrays += 1
        if number == len(self.arrays):
            values = poisoned(shape, dtype)
            used = values.nbytes + sum(memory.values.nbytes for memory in self.arrays)
            if used > SHARED_BYTES:
                raise EmulationError(f"{used} bytes of shared memory, more than {SHARED_BYTES}")
            # An array that does not ask for it is aligned to its elements only.
            base = 0 if alignment and alignment % 16 == 0 else 1
            self.arrays.append(SharedMemory(f"shared array {number}", values, base, self))
        return self.arrays[number]

    def _local_array(self, shape, dtype, alignment=None):
        return Memory("a local array", poisoned(shape, dtype))

    def syncthreads(self):
        frame = sys._getframe(1)
        self.current.site = f"line {frame.f_lineno} of {frame.f_code.co_name}"
        self.current.greenlet.parent.switch()

    def word(self, value):
        """What a name of the kernel means here."""
        if value is cuda:
            return self
        if isinstance(value, Word):
            return lambda *operands: value.twin(self.current, *operands)
        return NUMBERS.get(value, value) if isinstance(value, types.Type) else value

    def run(self, kernel, arguments):
        from greenlet import greenlet

        function = rebound(kernel, self.word)
        for thread in self.threads:
            thread.greenlet = greenlet(function)
        waiting = self.threads
        while waiting:
            order = list(waiting)
            self.rng.shuffle(order)
            for thread in order:
                self.current = thread
                thread.greenlet.switch(*(() if thread.site else arguments))
            waiting = [thread for thread in self.threads if not thread.greenlet.dead]
            if waiting and len(waiting) < len(self.threads):
                raise EmulationError(
                    f"a barrier ({waiting[0].site}) after {len(self.threads) - len(waiting)} threads left"
                )
            sites = {thread.site for thread in waiting}
            if len(sites) > 1:
                raise EmulationError(f"divergent barriers: {', '.join(sorted(sites))}")
            self.barriers += 1
        if any(thread.copies or any(thread.groups) for thread in self.threads):
            raise EmulationError("a thread left with asynchronous copies under way")


NUMBERS = {types.int32: int32, types.float32: np.float32}


def axes(x: int = 1, y: int = 1, z: int = 1):
    return SimpleNamespace(x=x, y=y, z=z)


def poisoned(shape: int, dtype) -> np.ndarray:
    """NaN, or -1 for whole numbers."""
    values = np.empty(shape, np.int32 if dtype is int32 else dtype)
    values.view(np.uint8)[:] = 0xFF
    return values


def launch(kernel, grid: tuple[int, ...], block: int, *arguments, seed: int = 0):
    """Run `kernel`, block after block, on `arguments`.

    Parameters
    ----------
    kernel : function
        What ``jit_cuda.cuda_compile`` takes.
    grid, block
        Blocks in x, y, z; threads in a block.
    arguments
        NumPy arrays (contiguous, seen as flat, written in place, as if aligned to 16 bytes), ``Memory``, and numbers:
        an int is an int32, a float a float32.
    seed
        Of the order in which threads run.
    """
    rng = random.Random(seed)
    taken = [_argument(number, value) for number, value in enumerate(arguments)]
    extent = axes(*grid)
    for z, y, x in itertools.product(range(extent.z), range(extent.y), range(extent.x)):
        Block(axes(x, y, z), extent, axes(block), rng).run(kernel, taken)


def _argument(number: int, value):
    if isinstance(value, np.ndarray):
        if not value.flags.c_contiguous:
            raise ValueError(f"argument {number} is not contiguous")
        return Memory(f"argument {number}", value.reshape(-1))
    if isinstance(value, Memory):
        return value
    return np.float32(value) if isinstance(value, float | np.floating) else int32(value)
