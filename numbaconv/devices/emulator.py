"""CUDA blocks on the CPU: the kernels themselves, as Python, one greenlet a thread, at their real tile sizes.

What a GPU leaves undefined is an error here, or NaN: shared and local memory start as NaN (-1 where it is of integers);
an asynchronous copy lands only when its thread waits for it; threads run in shuffled order; reads and writes outside an
array, wide accesses that are not aligned, int32 overflow, races in shared memory (an element that one thread writes and
another touches with no barrier, or ``syncwarp`` within a warp, between), barriers that not all threads reach, and
barriers or instructions of a whole warp that its threads reach in different places all raise ``EmulationError``. What
it cannot show: whether PTX means what the twins in ``intrinsics`` say, and how fast it is.
"""

from __future__ import annotations

import itertools
import random
import sys
from types import SimpleNamespace

import numpy as np
from numba import types

from numbaconv.devices.emulated_memory import EPOCH, SYNCS, WARP, EmulationError, Memory, SharedMemory, int32, within
from numbaconv.devices.intrinsics import cuda
from numbaconv.devices.watching import Watch, watch
from numbaconv.jit_cuda import Function, rebound, word_of

__all__ = ["EmulationError", "Memory", "launch"]

SHARED_BYTES = 48 * 1024
LANES = 32


class Thread:
    """One thread of a block, its asynchronous copies, and where it waits."""

    within = staticmethod(within)

    def __init__(self, block, number: int, place):
        self.block, self.number, self.place = block, number, place
        self.shared_arrays = 0
        self.copies: list = []
        self.groups: list = []
        self.site: str | None = None
        self.word = None  # of the whole warp, that it waits for
        self.operands: tuple = ()
        self.result = None
        self.greenlet = None

    def commit_copies(self):
        self.groups.append(self.copies)
        self.copies = []

    def wait_copies(self, pending: int):
        while len(self.groups) > pending:
            for shared, *copy in self.groups.pop(0):
                shared.end_copy(*copy)

    def where(self) -> str:
        """Where it is, for a message."""
        if self.greenlet.dead:
            return "has left"
        return f"is at {self.word.__name__ if self.word else 'a barrier'} ({self.site})"


class Block:
    """What ``numba.cuda`` is to the kernel: one block of threads, of which `current` runs."""

    def __init__(self, index, grid, size, rng, watch: Watch | None = None):
        self.watch = watch
        self.blockIdx, self.gridDim, self.blockDim, self.rng = index, grid, size, rng
        self.shared = SimpleNamespace(array=self._shared_array)
        self.local = SimpleNamespace(array=self._local_array)
        self.arrays: list[SharedMemory] = []
        self.functions: dict[Function, object] = {}
        self.barriers = 0
        places = itertools.product(range(size.z), range(size.y), range(size.x))
        self.threads = [Thread(self, number, axes(x, y, z)) for number, (z, y, x) in enumerate(places)]
        self.warps = [self.threads[first : first + LANES] for first in range(0, len(self.threads), LANES)]
        self.syncs = [0] * len(self.warps)
        self._run_as(self.threads[0])

    threadIdx = property(lambda self: self.current.place)
    laneid = property(lambda self: self.current.number % LANES)

    def stamp_of(self, thread) -> int:
        """What it marks shared memory with, until the next barrier or ``syncwarp``."""
        warp, lane = divmod(thread.number, LANES)
        return self.base | self.syncs[warp] << SYNCS | warp << WARP | lane

    def _run_as(self, thread):
        self.current, self.base = thread, self.barriers << EPOCH
        self.stamp = self.stamp_of(thread)

    def sync_warp(self, warp: int):
        self.syncs[warp] += 1

    def _shared_array(self, shape, dtype, alignment=None):
        number = self.current.shared_arrays
        self.current.shared_arrays += 1
        if number == len(self.arrays):
            values = poisoned(shape, dtype)
            used = values.nbytes + sum(memory.values.nbytes for memory in self.arrays)
            if used > SHARED_BYTES:
                raise EmulationError(f"{used} bytes of shared memory, more than {SHARED_BYTES}")
            # An array that does not ask for it is aligned to its elements only.
            base = (alignment or 0) // values.itemsize % (16 // values.itemsize) if alignment else 1
            memory = SharedMemory(f"shared array {number}", values, base, self)
            self.arrays.append(self.watch.of(memory) if self.watch else memory)
        return self.arrays[number]

    def _local_array(self, shape, dtype, alignment=None):
        return Memory("a local array", poisoned(shape, dtype))

    def _park(self, frame):
        """Let others run until this thread may go on."""
        thread = self.current
        thread.site = f"line {frame.f_lineno} of {frame.f_code.co_name}"
        thread.greenlet.parent.switch()
        return thread.result

    def syncthreads(self):
        self._park(sys._getframe(1))

    def word(self, value):
        """What a name of the kernel means here."""
        if value is cuda:
            return self
        word = word_of(value)
        if isinstance(word, Function):
            if word not in self.functions:
                self.functions[word] = rebound(word.function, self.word)
            return self.functions[word]
        if word is None:
            return NUMBERS.get(value, value) if isinstance(value, types.Type) else value
        twin = word.twin
        if not getattr(word, "collective", False):
            return lambda *operands: twin(self.current, *operands)

        def collective(*operands):
            self.current.word, self.current.operands = word, operands
            return self._park(sys._getframe(1))

        return collective

    def run(self, kernel, arguments):
        from greenlet import greenlet

        if self.watch:
            self.watch.block = self
        function = rebound(kernel, self.word)
        for thread in self.threads:
            thread.greenlet = greenlet(function)
        ready = list(self.threads)
        while ready:
            self.rng.shuffle(ready)
            for thread in ready:
                self._run_as(thread)
                thread.greenlet.switch(*(() if thread.site else arguments))
            ready = self._released()
        if any(thread.copies or any(thread.groups) for thread in self.threads):
            raise EmulationError("a thread left with asynchronous copies under way")

    def _released(self) -> list[Thread]:
        """The threads that may go on, now that all wait or have left."""
        done = [thread for warp in self.warps if any(thread.word for thread in warp) for thread in self._together(warp)]
        if done:
            return done
        waiting = [thread for thread in self.threads if not thread.greenlet.dead]
        if waiting and len(waiting) < len(self.threads):
            raise EmulationError(f"a barrier ({waiting[0].site}) after {len(self.threads) - len(waiting)} threads left")
        sites = {thread.site for thread in waiting}
        if len(sites) > 1:
            raise EmulationError(f"divergent barriers: {', '.join(sorted(sites))}")
        self.barriers += 1
        return waiting

    def _together(self, warp: list[Thread]) -> list[Thread]:
        """Do for a warp what its lanes wait for."""
        first = next(thread for thread in warp if thread.word)
        if len(warp) < LANES:
            raise EmulationError(f"{first.word.__name__} ({first.site}) in a warp of {len(warp)} lanes")
        for thread in warp:
            if thread.word is not first.word or thread.site != first.site or thread.greenlet.dead:
                raise EmulationError(
                    f"not all lanes of a warp reach {first.word.__name__} ({first.site}): thread {thread.number} "
                    f"{thread.where()}"
                )
        results = first.word.twin(warp, [thread.operands for thread in warp]) or [None] * LANES
        for thread, result in zip(warp, results, strict=True):
            thread.word, thread.operands, thread.result = None, (), result
        return warp


NUMBERS = {
    types.int32: int32,
    types.uint32: lambda value: within(value, 0, 2**32 - 1),
    types.int64: int,
    types.float32: np.float32,
    types.float64: np.float64,
}


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
        NumPy arrays of float32, float64 or int32 (contiguous, seen as flat, written in place, as if aligned to 16
        bytes), ``Memory``, named tuples of ints, and numbers: an int is an int32, a float a float32, a NumPy real what
        it is.
    seed
        Of the order in which threads run.
    """
    rng = random.Random(seed)
    taken = [_argument(number, value) for number, value in enumerate(arguments)]
    watching = watch()
    if watching:
        taken = [watching.of(value) if isinstance(value, Memory) else value for value in taken]
    extent = axes(*grid)
    places = itertools.product(range(extent.z), range(extent.y), range(extent.x))
    for z, y, x in itertools.islice(places, watching.blocks if watching else None):
        Block(axes(x, y, z), extent, axes(block), rng, watching).run(kernel, taken)


def _argument(number: int, value):
    if isinstance(value, np.ndarray):
        if not value.flags.c_contiguous:
            raise ValueError(f"argument {number} is not contiguous")
        return Memory(f"argument {number}", value.reshape(-1))
    if isinstance(value, Memory):
        return value
    if isinstance(value, tuple):
        return type(value)(*map(int32, value))
    if isinstance(value, np.floating):
        return value
    return np.float32(value) if isinstance(value, float) else int32(value)
