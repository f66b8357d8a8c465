"""How a convolution by Fourier transforms is cut: tiles and their frequencies, blocks of tiles, scratch.

frequencies     of a real tile half are the conjugates of the others: column j of the transform says what -j is, and
                within columns 0 and n/2 row i says what -i is; the rest, n_h·n_w/2 or a few more, are multiplied
V               [frequency][tile][real, imaginary][input channel]
M               [frequency][tile][real, imaginary][output channel of a chunk]
work            of a thread: a complex tile for one pair of vectors, two lines of it, two rows of pixels
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from numbaconv.lowerings._fft_codelets import RADICES
from numbaconv.lowerings._fft_products import max_rows
from numbaconv.lowerings._tile_blocks import TileBlocks, Vectors, odd_lines
from numbaconv.machine import detect

CHUNK = 32
"""Output channels of tiles that are multiplied before they are transformed, about."""
FEWEST_TILES, MOST_TILES = 12, 48
"""Of a block, about: as many as L2 holds, but not so few that the weights' way from beyond it sets the pace."""


@functools.cache
def passes(length: int) -> tuple[int, ...] | None:
    """The radices of a transform, as few as there are; None where other primes than 2, 3 and 5 divide its length."""
    if length in RADICES:
        return (length,)
    found = None
    for radix in reversed(RADICES[1:]):
        rest = passes(length // radix) if length % radix == 0 else None
        if rest and (found is None or (len(rest), max(radix, *rest)) < (len(found) - 1, max(found))):
            found = (radix, *rest)
    return found


def next_length(least: int) -> int:
    """The least length from `least` on that there are passes for."""
    return next(length for length in range(least, 2 * least + 1) if passes(length))


class Tiles(NamedTuple):
    """Sizes of a tile's transform, and its outputs at stride 1: the rest of the circle is spoiled by its wrapping."""

    n_h: int
    m_h: int
    n_w: int
    m_w: int

    @property
    def products(self) -> int:
        """Frequencies to multiply."""
        return sum(count for _, count in self.columns())

    def columns(self) -> Iterator[tuple[int, int]]:
        """(column of the transform, how many of its rows are multiplied)."""
        for j in range(self.n_w // 2 + 1):
            yield j, self.n_h // 2 + 1 if 2 * j % self.n_w == 0 else self.n_h

    def counts(self, problem) -> tuple[int, int]:
        """Rows and columns of tiles of an image."""
        return tuple(-(-outputs // m) for outputs, m in zip(outputs_of(problem), (self.m_h, self.m_w)))


def outputs_of(problem) -> tuple[int, int]:
    """Rows and columns at stride 1, of which every sh-th and sw-th are kept."""
    return (problem.oh - 1) * problem.sh + 1, (problem.ow - 1) * problem.sw + 1


def reach_of(problem) -> tuple[int, int]:
    """Rows and columns that a dilated kernel spans."""
    return (problem.kh - 1) * problem.dh + 1, (problem.kw - 1) * problem.dw + 1


def read_of(problem) -> tuple[int, int]:
    """Rows and columns of the input that are read, those that lie behind the last output's window left out."""
    ends = (outputs + reach - 1 for outputs, reach in zip(outputs_of(problem), reach_of(problem)))
    pads, sizes = (problem.pad_top, problem.pad_left), (problem.ih, problem.iw)
    return tuple(max(0, min(size, end - pad)) for size, end, pad in zip(sizes, ends, pads))


def whole_image(problem) -> Tiles:
    """One tile for an image; where the circle closes, the pads on both sides are the same zeros."""
    sides = []
    pads = problem.pad_top, problem.pad_left
    for read, pad, outputs, reach in zip(read_of(problem), pads, outputs_of(problem), reach_of(problem)):
        behind = outputs + reach - 1 - pad
        sides += [next_length(max(pad + read if read else 1, behind, outputs)), outputs]
    return Tiles(*sides)


class Shape(Vectors):
    """Vectors of output channels, of a chunk and of a panel."""

    @classmethod
    def of(cls, problem, chunked: bool) -> Shape:
        return cls.cut(problem, CHUNK if chunked else None)


class Blocks(TileBlocks):
    """How the tiles are cut."""

    @classmethod
    def of(cls, problem, tiles: Tiles, threads: int) -> Blocks:
        rows, columns = tiles.counts(problem)
        count, shape = problem.mb * rows * columns, Shape.of(problem, True)
        return cls.cut(problem, count, tiles_a_block(problem, tiles), shape, max_rows, threads)

    @classmethod
    def whole(cls, problem) -> Blocks:
        """One block of whole images."""
        groups = -(-problem.mb // max_rows(Shape.of(problem, False).panel, detect().vector_registers))
        return cls(problem.mb, groups, groups, 1, 1)

    @property
    def together(self) -> int:
        """Tiles of the largest block."""
        return min(self.tiles, self.groups_a_block * self.most_rows)


def tile_bytes(problem, tiles: Tiles) -> int:
    """Of V and M for a tile, about."""
    shape = Shape.of(problem, True)
    return 2 * tiles.products * (problem.icg + shape.chunk * shape.lanes) * problem.itemsize


def tiles_a_block(problem, tiles: Tiles) -> int:
    """As many as L2 holds, within limits."""
    return min(max(detect().l2_bytes // tile_bytes(problem, tiles), FEWEST_TILES), MOST_TILES)


def work_of(problem, tiles: Tiles) -> dict[str, int]:
    """A thread's work space: where its parts begin, its steps, its size; in bytes."""
    vector = detect().lanes(problem.dtype) * problem.itemsize
    row = odd_lines(2 * tiles.n_w * vector)
    line = odd_lines(2 * max(tiles.n_h, tiles.n_w) * vector)
    pixels = odd_lines(tiles.n_w * vector)
    lines = tiles.n_h * row
    return {"row": row, "lines": lines, "line": line, "pixels": lines + 2 * line, "pixels_step": pixels,
            "work_step": lines + 2 * line + 2 * pixels}  # fmt: skip


def spectra_of(problem, tiles: Tiles, shape: Shape, together: int) -> dict[str, int]:
    """V and M of so many tiles together: steps, how far on the imaginary parts are, sizes; in bytes."""
    vector = shape.lanes * problem.itemsize
    v_imaginary = 2 * -(-problem.icg // shape.lanes // 2) * vector  # channels come in pairs of vectors
    m_imaginary = shape.chunk * vector
    v_row, m_row = odd_lines(2 * v_imaginary), odd_lines(2 * m_imaginary)
    v_step, m_step = odd_lines(together * v_row), odd_lines(together * m_row)
    return {"v_imaginary": v_imaginary, "v_row": v_row, "v_step": v_step, "v_bytes": tiles.products * v_step,
            "m_imaginary": m_imaginary, "m_row": m_row, "m_step": m_step,
            "m_bytes": tiles.products * m_step}  # fmt: skip
