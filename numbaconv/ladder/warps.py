"""What the warps of a CUDA step ask of memory, counted while the emulator runs the step's own kernel.

A warp's 32 lanes run in step: what they do at the same place of the code, the same time around, is one instruction.
From global memory it takes so many *sectors* of 32 bytes, whatever it uses of them; from shared memory so many
*wavefronts*, in each of which the 32 banks give one word of 4 bytes apiece (lanes that want the same word share it).
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from numbaconv.devices import watching
from numbaconv.devices.array import DeviceArray
from numbaconv.errors import DeviceUnavailable
from numbaconv.workspace import address_of

__all__ = ["Instruction", "Tally", "Traffic", "traffic"]

LANES, BANKS, WORD, SECTOR = 32, 32, 4, 32


@dataclass
class Instruction:
    """A load or a store of one warp.

    Attributes
    ----------
    matrix : str
        "a", "b", "c", "shared", or "other" (global memory that is none of the three).
    writes : bool
    base : int
        Address of the memory.
    columns : int
        Of the matrix; 0 where it is none of the three.
    lanes : list of (lane, index, count)
        Each lane's elements, from `index` on.
    """

    matrix: str
    writes: bool
    base: int
    columns: int
    lanes: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def elements(self) -> list[tuple[int, int, int]]:
        """(lane, row, column) of every element of one of the matrices."""
        return [
            (lane, *divmod(at, self.columns)) for lane, index, count in self.lanes for at in range(index, index + count)
        ]

    @property
    def sectors(self) -> int:
        """Sectors of global memory that it takes."""
        touched: set[int] = set()
        for _, index, count in self.lanes:
            first = self.base + WORD * index
            touched.update(range(first // SECTOR, (first + WORD * count - 1) // SECTOR + 1))
        return len(touched)

    @property
    def wavefronts(self) -> tuple[int, int]:
        """Turns of the 32 banks that it takes, and how many if no two lanes met in a bank.

        At most: wide accesses are taken to go by so many lanes as ask for 128 bytes.
        """
        together = LANES // max(count for _, _, count in self.lanes)
        groups: dict[int, set[int]] = {}
        for lane, index, count in self.lanes:
            groups.setdefault(lane // together, set()).update(range(index, index + count))
        turns = (max(Counter(word % BANKS for word in words).values()) for words in groups.values())
        return sum(turns), len(groups)


@dataclass
class Tally:
    """Sums over all warps.

    Attributes
    ----------
    instructions : int
        Of warps.
    accesses : int
        The same, counted for each thread that takes part.
    moved : int
        Sectors of global memory, or wavefronts of shared memory.
    least : int
        Wavefronts of shared memory, if no two lanes of one met in a bank.
    """

    instructions: int = 0
    accesses: int = 0
    moved: int = 0
    least: int = 0


@dataclass
class Traffic:
    """What a product asked of memory.

    Attributes
    ----------
    macs : int
        Multiply-adds: the elements of C that were stored, times k.
    global_loads, global_stores, shared_loads, shared_stores : Tally
    warp : list of Instruction
        What the first warp of the first block asked of global memory, in order.
    reach : dict
        Rows and columns of "a", "b" and "c" as far as the first block went.
    """

    macs: int = 0
    global_loads: Tally = field(default_factory=Tally)
    global_stores: Tally = field(default_factory=Tally)
    shared_loads: Tally = field(default_factory=Tally)
    shared_stores: Tally = field(default_factory=Tally)
    warp: list[Instruction] = field(default_factory=list)
    reach: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def bytes_per_mac(self) -> float:
        """Bytes that loads take from global memory (the sectors, before any cache) for each multiply-add."""
        return SECTOR * self.global_loads.moved / self.macs if self.macs else 0.0


def traffic(function: Any, a: DeviceArray, b: DeviceArray, out: DeviceArray, blocks: int | None = None) -> Traffic:
    """Run ``function(a, b, out=out)`` on the emulated device and count.

    Parameters
    ----------
    function : callable
        A step's, which stores each element of C once.
    a, b, out : DeviceArray
    blocks : int, optional
        Only so many blocks of each launch are run and counted, the first ones; `out` is not complete then.

    Raises
    ------
    DeviceUnavailable
        Where the arrays are not on the emulated device: a GPU tells nobody what it reads.
    """
    if not all(isinstance(x, DeviceArray) and x.buffer.runtime.emulated for x in (a, b, out)):
        raise DeviceUnavailable("accesses are counted in the emulator only: set NUMBACONV_CUDA=emulate")
    watcher = _Watcher({x.pointer: (name, x.shape[1]) for name, x in (("a", a), ("b", b), ("c", out)) if x.size})
    with watching.watched(watcher.touched, blocks):
        function(a, b, out=out)
    watcher.close()
    watcher.found.macs = watcher.stored * a.shape[1]
    return watcher.found


class _Watcher:
    """Puts the accesses of a block's threads together to instructions of its warps."""

    def __init__(self, matrices: dict[int, tuple[str, int]]):
        self.matrices = matrices
        self.found = Traffic()
        self.stored = 0
        self.block: Any = None
        self.times: Counter[Any] = Counter()
        self.open: dict[Any, Instruction] = {}

    def touched(self, thread, memory, index: int, count: int, writes: bool):
        if thread.block is not self.block:
            self.close()
            self.block = thread.block
        warp, lane = divmod(thread.number, LANES)
        place = memory, writes, _site()
        self.times[warp, lane, place] += 1
        key = warp, place, self.times[warp, lane, place]
        instruction = self.open.get(key)
        if instruction is None:
            instruction = self.open[key] = self._begun(memory, writes)
        instruction.lanes.append((lane, index, count))

    def _begun(self, memory, writes: bool) -> Instruction:
        base = address_of(memory.values)
        name, columns = ("shared", 0) if memory.shared else self.matrices.get(base, ("other", 0))
        return Instruction(name, writes, base, columns)

    def close(self):
        """Count what the block that has ended asked for."""
        found, first = self.found, not self.found.warp
        for (warp, *_), instruction in self.open.items():
            shared, writes = instruction.matrix == "shared", instruction.writes
            if shared:
                tally = found.shared_stores if writes else found.shared_loads
            else:
                tally = found.global_stores if writes else found.global_loads
            tally.instructions += 1
            tally.accesses += len(instruction.lanes)
            moved, least = instruction.wavefronts if shared else (instruction.sectors, 0)
            tally.moved += moved
            tally.least += least
            if instruction.matrix == "c" and writes:
                self.stored += sum(count for _, _, count in instruction.lanes)
            if first and instruction.columns:
                self._reach(instruction)
                if warp == 0:
                    found.warp.append(instruction)
        self.open.clear()
        self.times.clear()

    def _reach(self, instruction: Instruction):
        rows, columns = self.found.reach.get(instruction.matrix, (0, 0))
        for _, row, column in instruction.elements:
            rows, columns = max(rows, row + 1), max(columns, column + 1)
        self.found.reach[instruction.matrix] = rows, columns


def _site() -> tuple[int, ...]:
    """Where in the kernel, and in the functions that it calls, the access is that is being told of."""
    frame: Any = sys._getframe(2)
    site = []  # of lines: Python rewrites the instructions within one as it goes
    while frame is not None:
        site += [id(frame.f_code), frame.f_lineno]
        frame = frame.f_back
    return tuple(site)
