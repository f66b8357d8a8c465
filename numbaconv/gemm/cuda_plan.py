"""A product on a GPU: which tile, in how many parts of k, with how much scratch; and its launches."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from numbaconv.gemm.cuda import Place, Sizes, gemm_kernel
from numbaconv.gemm.cuda_loaders import Kind
from numbaconv.gemm.cuda_reduce import reduce_grid, reduce_kernel
from numbaconv.gemm.cuda_tile import (
    DOUBLE,
    LARGE,
    SMALL,
    TENSOR3_LARGE,
    TENSOR3_SMALL,
    TENSOR_LARGE,
    TENSOR_SMALL,
    Tile,
    grid_of,
)

TILES = {("fma", 4): (LARGE, SMALL), ("fma", 8): (DOUBLE,), ("tf32", 4): (TENSOR_LARGE, TENSOR_SMALL),
         ("tf32x3", 4): (TENSOR3_LARGE, TENSOR3_SMALL)}  # fmt: skip
RATE = {("fma", 4): 128, ("fma", 8): 64, ("tf32", 4): 640, ("tf32x3", 4): 215}
"""Multiply-adds that a multiprocessor finishes in a cycle (of TF32: what mma.sync reaches of Hopper's); only their
ratios matter, to each other and to the two below."""
BYTES_A_CYCLE = 2500  # of the whole GPU's memory
LAUNCH_CYCLES = 5000
SMALL_TILE = 0.8  # of the rate: more loads a multiply-add
LEAST_DEPTH = 8  # tiles of k in a part
MOST_PARTS = 32


@dataclass(frozen=True)
class CudaPlan:
    """How C (m x n) = A (m x k) · B (k x n), `batch` times, is computed."""

    m: int
    n: int
    k: int
    batch: int
    tile: Tile
    parts: int
    cycles: float

    @property
    def k_part(self) -> int:
        """Terms in a part, a whole number of tiles."""
        tiles = -(-self.k // self.tile.bk)
        return max(1, -(-tiles // self.parts)) * self.tile.bk

    @property
    def panel_bytes(self) -> int:
        """Scratch: the parts' sums, where there are several."""
        return self.parts * self.batch * self.m * self.n * self.tile.itemsize if self.parts > 1 else 0


def arithmetic_for(precision: str, itemsize: int, cc: tuple[int, int]) -> str:
    """What multiplies: tensor cores where the precision asked for allows and the GPU has them, or multiply-adds."""
    if itemsize != 4 or cc < (8, 0):
        return "fma"
    return {"highest": "fma", "high": "tf32x3", "medium": "tf32"}[precision]


@functools.lru_cache(4096)
def cuda_plan(
    m: int, n: int, k: int, batch: int, itemsize: int, arithmetic: str, processors: int, split: bool = True
) -> CudaPlan:
    """The tile and the split that should be fastest, from the sizes and the number of multiprocessors alone.

    A few large tiles leave multiprocessors idle: smaller ones, or parts of k that are added up afterwards, fill them.
    """

    def cycles(tile: Tile, parts: int) -> float:
        blocks = grid_of(tile, m, n, batch, parts)
        turns = -(-blocks[0] * batch * parts // processors)
        tiles = -(-(-(-k // tile.bk)) // parts)
        rate = RATE[arithmetic, itemsize] * (1 if tile.bm * tile.bn >= LARGE.bm * LARGE.bn or len(tiles_) == 1
                                             else SMALL_TILE)  # fmt: skip
        time = turns * tile.bm * tile.bn * (tiles + 4) * tile.bk / rate + LAUNCH_CYCLES
        if parts > 1:
            time += (2 * parts + 1) * batch * m * n * itemsize / BYTES_A_CYCLE + LAUNCH_CYCLES
        return time

    tiles_ = TILES[arithmetic, itemsize]
    ways = [
        (cycles(tile, parts), number, parts)
        for number, tile in enumerate(tiles_)
        for parts in (1, 2, 4, 8, 16, MOST_PARTS)
        if parts == 1 or (split and parts * LEAST_DEPTH * tile.bk <= k)
    ]
    best, number, parts = min(ways)
    return CudaPlan(m, n, k, batch, tiles_[number], parts, best)


class Operand(NamedTuple):
    """A or B on the device: how it is loaded, the record that says where it lies, its memory; a table to look up."""

    kind: Kind
    record: Any
    memory: Any
    table: Any = None


class Result(NamedTuple):
    """C on the device, or what is added to it."""

    memory: Any
    place: Place


@dataclass(frozen=True)
class CudaFinish:
    """What the last store does: clamp(alpha · product + beta · C + bias + residual) to [low, high]."""

    bias: Any = None
    along: str = "row"
    residual: Result | None = None
    alpha: float = 1.0
    beta: float = 0.0
    low: float = -np.inf
    high: float = np.inf


def run_product(
    runtime, stream, plan: CudaPlan, a: Operand, b: Operand, c: Result, pixels: str, finish: CudaFinish, scratch=None
):
    """Launch a product.

    Parameters
    ----------
    runtime, stream
        Of ``devices.cuda``.
    plan : CudaPlan
    a, b : Operand
        k rows of m, and of n columns.
    c : Result
    pixels : {"rows", "columns"}
        The side of C that ``Place`` lays out as images.
    finish : CudaFinish
    scratch : DeviceArray, optional
        Of ``plan.panel_bytes``; needed where there are several parts.
    """
    tile = plan.tile
    if a.kind.along_k or b.kind.along_k:
        tile = tile.padded()
    if runtime.cc < (8, 0):
        tile = tile.staged()
    table = next((operand.table for operand in (a, b) if operand.table is not None), None)
    grid = grid_of(tile, plan.m, plan.n, plan.batch, plan.parts)
    added = finish.residual or Result(None, c.place)
    if plan.parts == 1:
        bias = None if finish.bias is None else finish.along
        kernel = gemm_kernel(tile, a.kind, b.kind, pixels, bias, finish.residual is not None)
        sizes = Sizes(plan.m, plan.n, plan.k, plan.k_part, _aligned(c.memory))
        runtime.launch(
            kernel, grid,
            (a.memory, b.memory, c.memory, finish.bias, added.memory, table, a.record, b.record, c.place, added.place,
             sizes, finish.alpha, finish.beta, finish.low, finish.high), stream,
        )  # fmt: skip
        return
    m, n, area = plan.m, plan.n, plan.m * plan.n
    line, step = (n, 1) if pixels == "columns" else (1, n)
    partial = Place(1, n if pixels == "columns" else m, line, 0, 0, step, area, 0, plan.batch * area)
    kernel = gemm_kernel(tile, a.kind, b.kind, pixels)
    sizes = Sizes(m, n, plan.k, plan.k_part, _aligned(scratch))
    runtime.launch(
        kernel, grid,
        (a.memory, b.memory, scratch, None, None, table, a.record, b.record, partial, partial, sizes, 1.0, 0.0, -np.inf,
         np.inf), stream,
    )  # fmt: skip
    kernel = reduce_kernel(
        tile.itemsize, pixels, None if finish.bias is None else finish.along, finish.residual is not None
    )
    runtime.launch(
        kernel, reduce_grid(m, n, plan.batch),
        (scratch, c.memory, finish.bias, added.memory, c.place, added.place,
         Sizes(m, n, plan.parts, plan.batch * area, 0), finish.alpha, finish.beta, finish.low, finish.high), stream,
    )  # fmt: skip


def _aligned(memory) -> int:
    return int(memory.pointer % 16 == 0)
