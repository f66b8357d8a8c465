"""How a Winograd convolution is cut: weights into chunks and panels, tiles into blocks and row groups, scratch.

tiles           blocks of row groups; row groups differ by one tile at most, so two micro-kernels do for all
scratch         V [product][tile][input channel] · M [product][tile][chunk] · strip [row][pixel][lanes]
"""

from __future__ import annotations

from typing import NamedTuple

from numbaconv.gemm.micro import max_rows
from numbaconv.machine import detect
from numbaconv.workspace import ALIGNMENT

FEWEST_TILES, MOST_TILES = {"nhwc": 14, "nchw": 28}, 112
"""Of a block, about: as many as a quarter of L2 holds. NCHW is read by strips, which should not be short."""
ENOUGH_TILES = 42
"""Not to read weights too often from beyond the last cache."""
CHUNK = 64
"""Output channels multiplied before they are transformed, about."""
TASKS_A_THREAD = 4


class Filters(NamedTuple):
    """F(m, r) down a column and along a row."""

    m_h: int
    r_h: int
    m_w: int
    r_w: int

    @property
    def n_h(self) -> int:
        return self.m_h + self.r_h - 1

    @property
    def n_w(self) -> int:
        return self.m_w + self.r_w - 1

    @property
    def products(self) -> int:
        """Of a tile."""
        return self.n_h * self.n_w

    def tiles(self, problem) -> tuple[int, int]:
        """Rows and columns of tiles of an image."""
        return -(-problem.oh // self.m_h), -(-problem.ow // self.m_w)


class Shape(NamedTuple):
    """Lanes of a vector; vectors of a group's output channels, of a chunk of them, and of a panel."""

    lanes: int
    vectors: int
    chunk: int
    panel: int

    @classmethod
    def of(cls, problem) -> Shape:
        """It depends on channels and element type alone: prepared weights serve every part of a problem."""
        lanes = detect().lanes(problem.dtype)
        vectors = -(-problem.ocg // lanes)
        panel = min(2, vectors)
        chunks = -(-vectors // max(panel, CHUNK // lanes))
        return cls(lanes, vectors, -(-vectors // chunks // panel) * panel, panel)

    @property
    def chunks(self) -> int:
        return -(-self.vectors // self.chunk)


class Blocks(NamedTuple):
    """Tiles; row groups, those of a block; blocks, and parts of the output channels: a task has one of each."""

    tiles: int
    groups: int
    groups_a_block: int
    blocks: int
    parts: int

    @classmethod
    def of(cls, problem, filters: Filters, threads: int) -> Blocks:
        rows, columns = filters.tiles(problem)
        tiles, shape = problem.mb * rows * columns, Shape.of(problem)
        a_tile = filters.products * (problem.icg + shape.chunk * shape.lanes) * problem.itemsize
        machine, weights = detect(), filters.products * problem.icg * problem.oc * problem.itemsize
        fewest = FEWEST_TILES[problem.layout] if weights <= machine.l3_bytes // 2 else ENOUGH_TILES
        blocks = -(-tiles // min(max(machine.l2_bytes // 4 // a_tile, fewest), MOST_TILES))
        if 1 < blocks < TASKS_A_THREAD * threads:  # as many for each thread
            blocks = min(-(-blocks // threads) * threads, tiles)
        groups_a_block = -(-tiles // blocks // max_rows(shape.panel, detect().vector_registers))
        groups = min(blocks * groups_a_block, tiles)
        blocks = -(-groups // groups_a_block)
        parts = min(shape.chunks, -(-threads // (blocks * problem.g)))
        return cls(tiles, groups, groups_a_block, blocks, parts)

    @property
    def fewest_rows(self) -> int:
        """Tiles of the smaller row groups."""
        return self.tiles // self.groups

    @property
    def most_rows(self) -> int:
        return -(-self.tiles // self.groups)


def _odd_lines(size: int) -> int:
    """Bytes in an odd number of cache lines: neighbours so far apart do not share a set of the cache."""
    return (-(-size // ALIGNMENT) | 1) * ALIGNMENT


def scratch_of(problem, filters: Filters, blocks: Blocks) -> dict[str, int]:
    """A worker's scratch: steps and beginnings in bytes, and the size of it all."""
    shape = Shape.of(problem)
    tiles, vector = blocks.groups_a_block * blocks.most_rows, shape.lanes * problem.itemsize
    v_row, m_row = _odd_lines(-(-problem.icg // shape.lanes) * vector), _odd_lines(shape.chunk * vector)
    v_step, m_step = _odd_lines(tiles * v_row), _odd_lines(tiles * m_row)
    strip_row = _odd_lines((min(tiles, filters.tiles(problem)[1]) * filters.m_w + filters.r_w - 1) * vector)
    m_at = filters.products * v_step
    strip = m_at + filters.products * m_step
    size = strip + max(filters.n_h * strip_row, shape.chunk * vector)
    return {"v_row": v_row, "v_step": v_step, "m_at": m_at, "m_row": m_row, "m_step": m_step, "strip": strip,
            "strip_row": strip_row, "scratch_step": _odd_lines(size)}  # fmt: skip
