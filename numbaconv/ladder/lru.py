"""Sets of lines, the one used last in front: the rules of ``caches``, compiled.

All of a simulation is one array of int64, so that compiled code can hand it from function to function as one thing: a
header, six numbers a level, the lines of each set, and perhaps a log.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from numbaconv.jit import compiled

__all__ = ["counted", "empty", "logged", "replay", "touch"]

LEVELS, SHIFT, READS, WRITES, LOG, LOG_END, HEADER = range(7)
TAGS, SETS, WAYS, HITS, MISSES, WRITTEN, FIELDS = range(7)
EMPTY = -2
"""A place in a set is (line << 1) + dirty; this is the line before the first, and clean."""


# ------------------------------------------------------------------------------------------- before, and afterwards


def empty(shapes: Sequence[tuple[int, int]], line: int, log: int) -> NDArray[np.int64]:
    """The state of caches of so many (sets, ways), with a log of so many accesses."""
    first = HEADER + FIELDS * len(shapes)
    ends = first + np.cumsum([0, *(sets * ways for sets, ways in shapes)])
    state = np.zeros(ends[-1] + log, np.int64)
    state[first : ends[-1]] = EMPTY
    state[LEVELS], state[SHIFT], state[LOG], state[LOG_END] = len(shapes), line.bit_length() - 1, ends[-1], state.size
    for number, (sets, ways) in enumerate(shapes):
        place = HEADER + FIELDS * number
        state[place : place + 3] = ends[number], sets, ways
    return state


def counted(state: NDArray[np.int64]) -> tuple[int, int, list[list[int]]]:
    """Reads, writes, and for each level hits, misses and lines written back."""
    fields = state[HEADER : HEADER + FIELDS * state[LEVELS]].reshape(-1, FIELDS)
    return int(state[READS]), int(state[WRITES]), fields[:, HITS:].tolist()


def logged(state: NDArray[np.int64]) -> NDArray[np.int64]:
    """A row (address, 1 for a write, level) an access."""
    last = HEADER + FIELDS * (state[LEVELS] - 1)
    first = state[last + TAGS] + state[last + SETS] * state[last + WAYS]
    entries = state[first : state[LOG]]
    return np.stack([entries >> 8, entries & 1, (entries >> 1) & 127], axis=1)


# ------------------------------------------------------------------------------------------------------ the rules


@compiled
def replay(state, addresses, sizes, writes):
    """Access them all in turn."""
    for number in range(addresses.size):
        touch(state, addresses[number], sizes[number], writes[number])


@compiled
def touch(state, address, size, write):
    """Access `size` bytes, and return the level (0, 1, ...) that had the farthest of their lines."""
    shift = state[SHIFT]
    farthest = 0
    for line in range(address >> shift, ((address + size - 1) >> shift) + 1):
        farthest = max(farthest, _fetch(state, line, write))
    state[READS + write] += 1
    if state[LOG] < state[LOG_END]:
        state[state[LOG]] = (address << 8) | (farthest << 1) | write
        state[LOG] += 1
    return farthest


@compiled
def _fetch(state, line, write):
    """Bring a line to the first level; return the level that had it."""
    level = 0
    levels = state[LEVELS]
    while level < levels and not _find(state, level, line, write if level == 0 else 0):
        state[HEADER + FIELDS * level + MISSES] += 1
        level += 1
    if level < levels:
        state[HEADER + FIELDS * level + HITS] += 1
    for nearer in range(level - 1, -1, -1):
        _fill(state, nearer, line, write if nearer == 0 else 0)
    return level


@compiled
def _first_way(state, level, line):
    """Where the set of a line begins."""
    place = HEADER + FIELDS * level
    sets = state[place + SETS]
    number = line & (sets - 1) if sets & (sets - 1) == 0 else line % sets
    return state[place + TAGS] + number * state[place + WAYS]


@compiled
def _find(state, level, line, dirty):
    """Whether a level has a line; if so, it is now the one used last."""
    first = _first_way(state, level, line)
    for way in range(first, first + state[HEADER + FIELDS * level + WAYS]):
        if state[way] >> 1 == line:
            entry = state[way] | dirty
            while way > first:
                state[way] = state[way - 1]
                way -= 1
            state[first] = entry
            return True
    return False


@compiled
def _fill(state, level, line, dirty):
    """Put a line into a level; whom it drives out dirty goes to the next level, and so on."""
    while True:
        first = _first_way(state, level, line)
        last = first + state[HEADER + FIELDS * level + WAYS] - 1
        victim = state[last]
        for place in range(last, first, -1):
            state[place] = state[place - 1]
        state[first] = (line << 1) | dirty
        if victim & 1 == 0:
            return
        state[HEADER + FIELDS * level + WRITTEN] += 1
        line, dirty, level = victim >> 1, 1, level + 1
        if level == state[LEVELS] or _find(state, level, line, 1):
            return
