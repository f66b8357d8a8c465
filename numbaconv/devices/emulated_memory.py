"""The emulator's memory: flat arrays with every access checked, and in shared memory every race.

Single elements go through memoryviews of the same bytes, which are several times quicker than NumPy's indexing: a
gathered tile is thousands of them.
"""

from __future__ import annotations

import functools

import numpy as np

# Who touched an element, as one number: barriers of the block, syncwarps of the warp, warp, lane.
EPOCH, SYNCS, WARP = 40, 12, 6
SEVERAL = 32
"""In place of the lane: several lanes of the warp."""
MANY = 4095
"""In place of warp and lane: several warps."""
NEVER, COPYING = -1, 2**62


class EmulationError(Exception):
    """What on a GPU would have been undefined."""


def within(value, low: int, high: int) -> int:
    """`value` as an int; an error unless low <= value <= high."""
    if low <= value <= high:
        return int(value)
    raise EmulationError(f"{value} is not between {low} and {high}: it does not fit its 32 bits")


def int32(value) -> int:
    if -0x80000000 <= value <= 0x7FFFFFFF:
        return int(value)
    return within(value, -(2**31), 2**31 - 1)


@functools.cache
def pattern(pitch: int, rows: int, columns: tuple[int, ...]) -> np.ndarray:
    """Places of a matrix of rows `pitch` apart."""
    return pitch * np.arange(rows)[:, None] + np.array(columns)


class Memory:
    """A flat array with every access checked. `base` is how many elements past a 16-byte boundary it begins."""

    shared = False

    def __init__(self, name: str, values: np.ndarray, base: int = 0):
        self.name, self.values, self.base = name, values, base
        self.size, self.vector = len(values), 16 // values.itemsize
        self.cells = memoryview(values)
        self.zero = values.dtype.type(0) if values.dtype.kind == "f" else 0
        # Python's own numbers for integers, which overflow nowhere; NumPy's for reals, which round as they should.
        self.read_from = values if values.dtype.kind == "f" else self.cells

    def outside(self, index, count: int):
        """Raise what is wrong with `count` elements at `index`."""
        index = int32(index)
        raise EmulationError(f"{self.name}[{index}:{index + count}] is outside its {self.size} elements")

    def _place(self, index, count: int, width: int) -> int:
        """`index`, of an access of `count` elements that is aligned to `width`."""
        index = int32(index)
        if self.vector % width:
            raise EmulationError(f"{width} elements of {self.name} at a time: more than 16 bytes")
        if (self.base + index) % width:
            raise EmulationError(f"{8 * width * self.values.itemsize}-bit access to {self.name}[{index}] is misaligned")
        if count and not 0 <= index <= self.size - count:
            self.outside(index, count)
        return index

    def touch(self, where, writes: bool):
        """Told of every access of several elements, as a slice or an array of indices."""

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            self.outside(index, 1)
        return self.read_from[index]

    def __setitem__(self, index, value):
        if not 0 <= index < self.size:
            self.outside(index, 1)
        self.values[index] = value

    def read(self, index, count: int, width: int):
        """The first `count` of `width` elements, in one access."""
        if not 0 <= count <= width:
            raise EmulationError(f"{count} of {width} elements of {self.name}")
        index = self._place(index, count, width)
        self.touch(slice(index, index + count), writes=False)
        return self.values[index : index + count]

    def write(self, index, values, width: int):
        """`width` elements, in one access."""
        index = self._place(index, width, width)
        self.touch(slice(index, index + width), writes=True)
        self.values[index : index + width] = values

    def gather(self, index, pitch: int, rows: int, columns: list[int], width: int):
        """``[row, column]`` of a matrix of rows `pitch` apart at `index`; each `width` columns are one access."""
        if pitch % width and rows > 1:
            raise EmulationError(f"rows of {pitch} elements in {self.name}: accesses of {width} are misaligned")
        for column in columns[::width]:
            self._place(index + column, width, width)
            self._place(index + (rows - 1) * pitch + column, width, width)
        where = int(index) + pattern(pitch, rows, tuple(columns))
        self.touch(where, writes=False)
        return self.values[where]

    def start_copy(self, thread, into, source, index, count, width):
        raise EmulationError(f"an asynchronous copy to {self.name}, which is not shared memory")


class SharedMemory(Memory):
    """A block's, with who touched what since the last barrier."""

    shared = True

    def __init__(self, name, values, base, block):
        super().__init__(name, values, base)
        self.block = block
        self.written, self.seen = np.full(len(values), NEVER), np.full(len(values), NEVER)
        self.writers, self.readers = memoryview(self.written), memoryview(self.seen)

    def _check(self, mark: int, stamp: int, how: str):
        """Raise if `mark`, of this epoch, is another's and nothing orders it before `stamp`."""
        lane = stamp & 4095
        if mark == COPYING:
            raise EmulationError(
                f"thread {self._number(stamp)} touches {self.name} where an asynchronous copy is under way"
            )
        mine = mark & 4095 == lane
        same_warp = mark >> WARP & 63 == lane >> WARP
        if not mine and not (same_warp and mark >> SYNCS < stamp >> SYNCS):
            raise EmulationError(f"race: thread {self._number(stamp)} {how} {self.name}, with no barrier between")

    @staticmethod
    def _number(stamp: int) -> int:
        return (stamp >> WARP & 63) * 32 + (stamp & 31)

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            self.outside(index, 1)
        block = self.block
        stamp, base = block.stamp, block.base
        mark = self.writers[index]
        if mark >= base and mark != stamp:
            self._check(mark, stamp, "touches what another wrote to")
        mark = self.readers[index]
        if mark != stamp:
            self.readers[index] = stamp if mark < base else int(self._merged(np.int64(mark), stamp))
        return self.read_from[index]

    def _claim(self, index, stamp, base):
        """Check that one element may be written."""
        mark = self.writers[index]
        if mark >= base and mark != stamp:
            self._check(mark, stamp, "touches what another wrote to")
        mark = self.readers[index]
        if mark >= base and mark != stamp:
            self._check(mark, stamp, "writes what another read of")

    def __setitem__(self, index, value):
        if not 0 <= index < self.size:
            self.outside(index, 1)
        block = self.block
        self._claim(index, block.stamp, block.base)
        self.writers[index] = block.stamp
        self.values[index] = value

    def _merged(self, marks, stamp):
        """The marks of elements that `stamp` reads after those that left `marks`."""
        same_warp = (marks >> WARP & 63) == (stamp >> WARP & 63)
        several = np.where(marks == stamp, stamp, (stamp >> WARP << WARP) | SEVERAL)
        within_warp = np.where(marks >> WARP == stamp >> WARP, several, stamp)
        return np.where(marks < self.block.base, stamp, np.where(same_warp, within_warp, self.block.base | MANY))

    def touch(self, where, writes: bool, stamp=None):
        stamp, base = self.block.stamp if stamp is None else stamp, self.block.base
        written = self.written[where]
        self._check_all(written, stamp, "touches what another wrote to")
        seen = self.seen[where]
        if writes:
            self._check_all(seen, stamp, "writes what another read of")
            self.written[where] = stamp
        elif seen.size and seen.max() >= base:
            self.seen[where] = self._merged(seen, stamp)
        else:
            self.seen[where] = stamp

    def _check_all(self, marks, stamp, how):
        if marks.size and marks.max() >= self.block.base:
            others = (marks >= self.block.base) & (marks != stamp)
            stamps = np.broadcast_to(stamp, marks.shape)[others]
            for pair in set(zip(marks[others].tolist(), stamps.tolist(), strict=True)):
                self._check(*pair, how)

    def gather_lanes(self, threads, where):
        """``values[where]``, the first axis a lane of a warp, every element an access of its own."""
        low, high = int(where.min()), int(where.max())
        if low < 0 or high >= self.size:
            self.outside(low if low < 0 else high, 1)
        stamps = np.array([self.block.stamp_of(thread) for thread in threads]).reshape(-1, *[1] * (where.ndim - 1))
        self.touch(where, False, stamps)
        stamps = np.broadcast_to(stamps, where.shape)
        kept = self.seen[where]
        lost = (kept != stamps) & (kept >> WARP == stamps >> WARP)  # to another lane, which came later
        self.seen[where[lost]] = kept[lost] >> WARP << WARP | SEVERAL
        return self.values[where]

    def start_copy(self, thread, into, source, index, count, width):
        """Start copying `count` of `width` elements, and zeros; `source` is read when the thread waits for it."""
        if not 0 <= count <= width:
            raise EmulationError(f"{count} of {width} elements of {source.name}")
        if source.shared or source.values.itemsize != self.values.itemsize:
            raise EmulationError(f"an asynchronous copy from {source.name} to {self.name}")
        if width > 1:
            source._place(index, count, width)
            self._place(into, width, width)
        if count:
            if not 0 <= index <= source.size - count:
                source.outside(index, count)
        else:
            int32(index)
        if not 0 <= into <= self.size - width:
            self.outside(into, width)
        block = self.block
        stamp, base, writers = block.stamp, block.base, self.writers
        for place in range(into, into + width):
            self._claim(place, stamp, base)
            writers[place] = COPYING
        thread.copies.append((self, into, source, index, count, width))

    def end_copy(self, into, source, index, count, width):
        """Let a copy land: from here on it is as if its thread had written."""
        stamp = self.block.stamp
        if width == 1:
            self.writers[into] = stamp
            self.cells[into] = source.cells[index] if count else 0
        else:
            self.written[into : into + width] = stamp
            self.values[into : into + count] = source.values[index : index + count]
            self.values[into + count : into + width] = 0
