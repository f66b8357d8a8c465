"""Device memory between calls: freed blocks wait here for the next array of their size, on the same stream."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import numpy as np

ALIGNMENT = 256
"""Of every block, as the driver gives them."""


def size_class(nbytes: int) -> int:
    """The size of the block that holds `nbytes`: multiples of 256, above 2 KiB of an eighth of a power of two."""
    step = max(ALIGNMENT, 1 << max((nbytes - 1).bit_length() - 4, 0))
    return max(1, -(-nbytes // step)) * step


class Block:
    """What the driver gave: `nbytes` at `pointer`, used in turn by buffers on the stream `home`."""

    __slots__ = ("home", "keep", "nbytes", "pending", "pointer")

    def __init__(self, pointer: int, nbytes: int, home: int, keep: Any):
        self.pointer, self.nbytes, self.home, self.keep = pointer, nbytes, home, keep
        self.pending: dict[int, Any] = {}  # the last event of each other stream that it was used on


class Buffer:
    """The memory of an array and its views: of a block, or of somebody else's (`owner`).

    Attributes
    ----------
    pointer, nbytes : int
        Where it begins, and how much of it there is.
    memory : ndarray of uint8, or None
        The same as the host sees it, in emulation.
    origin : int
        The address of a shadow whose array begins at `pointer`.
    stream : int
        The stream that used it last.
    exported : bool
        Others may use it on streams unknown to us: then it is freed, and not kept for a later array.
    """

    __slots__ = ("block", "exported", "memory", "nbytes", "origin", "owner", "pointer", "runtime", "stream")

    def __init__(self, runtime, pointer: int, nbytes: int, stream: int, block: Block | None = None, owner: Any = None):
        self.runtime, self.pointer, self.nbytes, self.stream = runtime, pointer, nbytes, stream
        self.block, self.owner = block, owner
        self.memory: np.ndarray | None = None
        self.origin, self.exported = pointer, False

    @property
    def home(self) -> int:
        """The stream on which it will be reused."""
        return self.stream if self.block is None else self.block.home

    def used_on(self, stream: int):
        """Work with this memory has just been given to `stream`."""
        self.stream = stream
        if self.block is not None and stream != self.block.home:
            self.block.pending[stream] = self.runtime.record(stream)

    def __del__(self):
        # No call of the driver: this may run at any time, in any thread, while another call is under way.
        if self.block is not None:
            self.runtime.pool.returned.append((self.block, self.exported))


class Pool:
    """The blocks of one device that no array uses.

    Parameters
    ----------
    runtime : Runtime
        Whose ``_allocate`` and ``_free`` it calls.
    limit : int
        The most bytes that wait.
    """

    def __init__(self, runtime, limit: int):
        self.runtime, self.limit = runtime, limit
        self.lock = threading.RLock()
        self.returned: deque[tuple[Block, bool]] = deque()  # appended to without the lock
        self.free: dict[tuple[int, int], list[Block]] = {}
        self.idle = 0

    def get(self, nbytes: int, stream: int) -> Block:
        """A block of at least `nbytes` for work on `stream`."""
        size = size_class(nbytes)
        with self.lock:
            self._collect()
            waiting = self.free.get((stream, size))
            if waiting:
                block = waiting.pop()
                self.idle -= size
                for event in block.pending.values():
                    self.runtime.wait(stream, event)
                block.pending.clear()
                return block
        try:
            pointer, keep = self.runtime._allocate(size)
        except MemoryError:
            self.release()
            pointer, keep = self.runtime._allocate(size)
        return Block(pointer, size, stream, keep)

    def _collect(self):
        while self.returned:
            block, exported = self.returned.popleft()
            if self.idle + block.nbytes > self.limit:
                self._free_all()  # what is in use now is likelier to be wanted again than what has waited
            if exported or block.nbytes > self.limit:
                self._free(block)
            else:
                self.free.setdefault((block.home, block.nbytes), []).append(block)
                self.idle += block.nbytes

    def _free(self, block: Block):
        self.runtime._free(block.pointer)  # waits for all work of the device
        block.keep = None

    def _free_all(self) -> int:
        freed, self.idle = self.idle, 0
        for blocks in self.free.values():
            for block in blocks:
                self._free(block)
        self.free.clear()
        return freed

    def release(self) -> int:
        """Free all blocks that wait; returns their bytes."""
        with self.lock:
            self._collect()
            return self._free_all()
