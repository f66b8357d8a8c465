"""A model of caches: which accesses hit, and how many bytes each level moves.

Every level is set-associative and forgets what was used least recently. A miss brings the whole line into every level
on its way (write-allocate); a written line is dirty in the first level and goes down, to the next one, when it is
driven out (write-back). The levels are neither inclusive nor exclusive: what a level drives out stays where else it
is. What is still dirty at the end is written by nobody. There is no prefetching, and an address is its own physical
address: so the model counts what must move, and the clock says how much of the waiting the machine hides.

The rules are in ``lru.py``; here are the numbers that go in, and those that come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from numbaconv.errors import NumbaconvError
from numbaconv.ladder import lru
from numbaconv.machine import Machine, detect

__all__ = ["BadCache", "Hierarchy", "Level", "LevelTraffic", "Simulation", "Traffic", "simulate"]


class BadCache(NumbaconvError, ValueError):
    """Numbers that no cache can have, or addresses that no memory has."""


# ----------------------------------------------------------------------------------------------- what is modelled


@dataclass(frozen=True)
class Level:
    """One cache.

    Parameters
    ----------
    name : str
        "L1".
    size : int
        Bytes; a whole number of sets of `ways` lines.
    ways : int
        Lines that a set holds: 1 is direct-mapped, ``size // line`` fully associative.
    line : int
        Bytes of a line, a power of two.
    """

    name: str
    size: int
    ways: int
    line: int = 64

    def __post_init__(self):
        if self.line < 1 or self.line & (self.line - 1):
            raise BadCache(f"{self.name}: line must be a power of two; got {self.line}")
        if self.ways < 1 or self.size < 1 or self.size % (self.ways * self.line):
            raise BadCache(
                f"{self.name}: size must be a multiple of ways x line = {self.ways * self.line}; got {self.size}"
            )

    @property
    def sets(self) -> int:
        return self.size // (self.ways * self.line)


@dataclass(frozen=True)
class Hierarchy:
    """Caches one behind the other, the nearest first; all with lines of one length."""

    levels: tuple[Level, ...]

    def __init__(self, levels: Sequence[Level]):
        object.__setattr__(self, "levels", tuple(levels))
        if len({level.line for level in self.levels}) != 1:
            raise BadCache("a hierarchy needs at least one level, and the same line in all of them")

    @classmethod
    def of(cls, machine: Machine | None = None, root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> Hierarchy:
        """The caches that one core may count on.

        Parameters
        ----------
        machine : Machine, optional
            Whose sizes; this one's by default. Of the L3 it is the core's share.
        root : Path
            Where Linux says the ways of each cache; 8, 8 and 16 where it does not.
        """
        machine = machine or detect()
        sizes = {1: machine.l1d_bytes, 2: machine.l2_bytes, 3: machine.l3_share}
        if sizes[3] <= sizes[2]:  # no L3, or none to count on
            del sizes[3]
        found = _ways(root)
        line = found[1][1] if 1 in found else 64
        levels = []
        for number, size in sizes.items():
            ways = found.get(number, ({1: 8, 2: 8, 3: 16}[number], line))[0]
            ways = min(ways, max(1, size // line))
            levels.append(Level(f"L{number}", max(1, size // (ways * line)) * ways * line, ways, line))
        return cls(levels)


def _ways(root: Path) -> dict[int, tuple[int, int]]:
    """Level -> (ways, bytes of a line), of the caches that hold data."""
    found = {}
    for index in sorted(root.glob("index[0-9]*")):
        try:
            if (index / "type").read_text().strip() in ("Data", "Unified"):
                files = ("level", "ways_of_associativity", "coherency_line_size")
                level, ways, line = (int((index / name).read_text()) for name in files)
                if ways > 0 and line > 0:
                    found[level] = ways, line
        except (OSError, ValueError):  # virtual machines leave files out
            continue
    return found


# ---------------------------------------------------------------------------------------------- what is counted


@dataclass(frozen=True)
class LevelTraffic:
    """What one level saw.

    Parameters
    ----------
    name : str
    hits, misses : int
        Lines asked of it that were there, and that were not. An access that crosses a line asks for two.
    bytes : int
        Moved into it because of the misses.
    written : int
        Bytes of dirty lines that it wrote back to what lies beyond it.
    """

    name: str
    hits: int
    misses: int
    bytes: int
    written: int


@dataclass(frozen=True)
class Traffic:
    """What a stream of accesses costs: `levels` in order, by number or by name (``traffic["L1"].misses``)."""

    reads: int
    writes: int
    levels: tuple[LevelTraffic, ...]

    @property
    def accesses(self) -> int:
        return self.reads + self.writes

    def __getitem__(self, name: str | int) -> LevelTraffic:
        if isinstance(name, int):
            return self.levels[name]
        return {level.name: level for level in self.levels}[name]

    def __str__(self) -> str:
        lines = [f"{self.accesses:,} accesses: {self.reads:,} reads, {self.writes:,} writes"]
        lines += [
            f"{level.name:>6}: {level.hits:,} hits, {level.misses:,} misses, "
            f"{level.bytes:,} bytes in, {level.written:,} written back"
            for level in self.levels
        ]
        return "\n".join(lines)


class Simulation:
    """Caches that begin empty, and what has happened to them.

    Parameters
    ----------
    hierarchy : Hierarchy, optional
        This machine's by default.
    log : int
        Remember the level that served each access, for as many accesses.
    """

    def __init__(self, hierarchy: Hierarchy | None = None, log: int = 0):
        self.hierarchy = hierarchy or Hierarchy.of()
        levels = self.hierarchy.levels
        self.state = lru.empty([(level.sets, level.ways) for level in levels], levels[0].line, log)

    @property
    def traffic(self) -> Traffic:
        """What has been counted so far."""
        reads, writes, counts = lru.counted(self.state)
        return Traffic(
            reads,
            writes,
            tuple(
                LevelTraffic(level.name, hits, misses, misses * level.line, written * level.line)
                for level, (hits, misses, written) in zip(self.hierarchy.levels, counts, strict=True)
            ),
        )

    @property
    def log(self) -> np.ndarray:
        """A row (address, 1 for a write, level) an access; 0 is the first level, their number the memory."""
        return lru.logged(self.state)


def simulate(addresses, sizes=None, writes=None, hierarchy: Hierarchy | None = None) -> Traffic:
    """Send accesses through caches that begin empty.

    Parameters
    ----------
    addresses : array_like of int
        The first byte of each access.
    sizes : array_like of int, optional
        How many bytes each touches, or all of them; 1 by default.
    writes : array_like of bool, optional
        Which are writes; none by default.
    hierarchy : Hierarchy, optional
        This machine's by default.
    """
    simulation = Simulation(hierarchy)
    stream = np.ascontiguousarray(addresses, np.int64).reshape(-1)
    lengths = np.broadcast_to(np.asarray(1 if sizes is None else sizes, np.int64), stream.shape)
    written = np.broadcast_to(np.asarray(False if writes is None else writes, np.int64), stream.shape)
    if stream.size and (stream.min() < 0 or lengths.min() < 1):
        raise BadCache("addresses must not be negative, and sizes at least 1")
    lru.replay(simulation.state, stream, np.ascontiguousarray(lengths), np.ascontiguousarray(written))
    return simulation.traffic
