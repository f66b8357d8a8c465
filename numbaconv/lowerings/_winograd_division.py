"""How a Winograd convolution is cut: weights into chunks and panels, tiles into blocks and row groups, scratch.

scratch         V [product][tile][input channel] · M [product][tile][chunk] · strip [row][pixel][lanes]
"""

from __future__ import annotations

from typing import NamedTuple

from numbaconv.gemm.micro import max_rows
from numbaconv.lowerings._tile_blocks import TileBlocks, Vectors, odd_lines
from numbaconv.machine import detect

FEWEST_TILES, MOST_TILES = {"nhwc": 14, "nchw": 28}, 112
"""Of a block, about: as many as a quarter of L2 holds. NCHW is read by strips, which should not be short."""
ENOUGH_TILES = 42
"""Not to read weights too often from beyond the last cache."""
CHUNK = 64
"""Output channels multiplied before they are transformed, about."""


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


class Shape(Vectors):
    """Vectors of output channels, of a chunk and of a panel."""

    @classmethod
    def of(cls, problem) -> Shape:
        return cls.cut(problem, CHUNK)


class Blocks(TileBlocks):
    """How the tiles are cut."""

    @classmethod
    def of(cls, problem, filters: Filters, threads: int) -> Blocks:
        rows, columns = filters.tiles(problem)
        machine, shape = detect(), Shape.of(problem)
        a_tile = filters.products * (problem.icg + shape.chunk * shape.lanes) * problem.itemsize
        weights = filters.products * problem.icg * problem.oc * problem.itemsize
        fewest = FEWEST_TILES[problem.layout] if weights <= machine.l3_bytes // 2 else ENOUGH_TILES
        a_block = min(max(machine.l2_bytes // 4 // a_tile, fewest), MOST_TILES)
        return cls.cut(problem, problem.mb * rows * columns, a_block, shape, max_rows, threads)


def scratch_of(problem, filters: Filters, blocks: Blocks) -> dict[str, int]:
    """A worker's scratch: steps and beginnings in bytes, and the size of it all."""
    shape = Shape.of(problem)
    tiles, vector = blocks.groups_a_block * blocks.most_rows, shape.lanes * problem.itemsize
    v_row, m_row = odd_lines(-(-problem.icg // shape.lanes) * vector), odd_lines(shape.chunk * vector)
    v_step, m_step = odd_lines(tiles * v_row), odd_lines(tiles * m_row)
    strip_row = odd_lines((min(tiles, filters.tiles(problem)[1]) * filters.m_w + filters.r_w - 1) * vector)
    m_at = filters.products * v_step
    strip = m_at + filters.products * m_step
    size = strip + max(filters.n_h * strip_row, shape.chunk * vector)
    return {"v_row": v_row, "v_step": v_step, "m_at": m_at, "m_row": m_row, "m_step": m_step, "strip": strip,
            "strip_row": strip_row, "scratch_step": odd_lines(size)}  # fmt: skip
