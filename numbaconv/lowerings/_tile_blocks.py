"""How tiles and output channels are shared out, by whatever transforms tiles: Winograd's filters, Fourier's.

tiles       blocks of row groups; row groups differ by one tile at most, so two micro-kernels do for all
channels    chunks of panels of vectors
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

from numbaconv.machine import detect
from numbaconv.workspace import ALIGNMENT

TASKS_A_THREAD = 4


class Vectors(NamedTuple):
    """Lanes of a vector; vectors of a group's output channels, of a chunk of them, and of a panel."""

    lanes: int
    vectors: int
    chunk: int
    panel: int

    @classmethod
    def cut(cls, problem, channels: int | None) -> Self:
        """Chunks of so many channels, about, or one chunk.

        It depends on channels and element type alone: prepared weights serve every part of a problem.
        """
        lanes = detect().lanes(problem.dtype)
        vectors = -(-problem.ocg // lanes)
        panel = min(2, vectors)
        chunks = -(-vectors // max(panel, channels // lanes)) if channels else 1
        return cls(lanes, vectors, -(-vectors // chunks // panel) * panel, panel)

    @property
    def chunks(self) -> int:
        return -(-self.vectors // self.chunk)


class TileBlocks(NamedTuple):
    """Tiles; row groups, those of a block; blocks, and parts of the output channels: a task has one of each."""

    tiles: int
    groups: int
    groups_a_block: int
    blocks: int
    parts: int

    @classmethod
    def cut(cls, problem, tiles: int, a_block: int, shape: Vectors, max_rows: Callable, threads: int) -> Self:
        """Blocks of `a_block` tiles, about; row groups of as many as `max_rows` has registers for."""
        blocks = -(-tiles // a_block)
        if 1 < blocks < TASKS_A_THREAD * threads:  # as many for each thread
            blocks = min(-(-blocks // threads) * threads, tiles)
        groups_a_block = -(-tiles // blocks // max_rows(shape.panel, detect().vector_registers))
        groups = min(blocks * groups_a_block, tiles)
        blocks = -(-groups // groups_a_block)
        return cls(tiles, groups, groups_a_block, blocks, min(shape.chunks, -(-threads // (blocks * problem.g))))

    @property
    def fewest_rows(self) -> int:
        """Tiles of the smaller row groups."""
        return self.tiles // self.groups

    @property
    def most_rows(self) -> int:
        return -(-self.tiles // self.groups)


def odd_lines(size: int) -> int:
    """Bytes in an odd number of cache lines: neighbours so far apart do not share a set of the cache."""
    return (-(-size // ALIGNMENT) | 1) * ALIGNMENT
