"""Sweeps of a GPU's tiles: what a block computes, and what a thread of it does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from numbaconv.bench.contender import Contender, Reference, gemm_reference, normal
from numbaconv.bench.place import OnDevice
from numbaconv.gemm.cuda import Place as Where
from numbaconv.gemm.cuda_loaders import ROWS, Rows
from numbaconv.gemm.cuda_plan import CudaFinish, CudaPlan, Operand, Result, cuda_plan, run_product
from numbaconv.gemm.cuda_tile import LARGE, Tile
from numbaconv.teach.sweep.grid import Axis, Grid, Job, Place
from numbaconv.timing import Call

__all__ = ["tile_grids"]

SIZES, QUICK_SIZES, EMULATED_SIZES = (4096, 4096, 4096), (2048, 2048, 2048), (40, 30, 20)
THREADS = 512
"""That a multiprocessor should have at least, in one block or several: it bounds a thread's registers."""
PITCH = 4  # elements that a row is a multiple of: 128 bits


class Product:
    """A product's operands on the device, k rows each, and its result."""

    def __init__(self, place: OnDevice, m: int, n: int, k: int):
        self.place, self.sizes = place, (m, n, k)
        self.a, self.b = normal((m, k), "float32", 0), normal((k, n), "float32", 1)
        self.out = place.put(np.empty((m, n), np.float32))
        self.left, self.right = self._rows(self.a.T), self._rows(self.b)

    def _rows(self, matrix: np.ndarray) -> Operand:
        pitch = -(-matrix.shape[1] // PITCH) * PITCH
        padded = np.zeros((len(matrix), pitch), np.float32)
        padded[:, : matrix.shape[1]] = matrix
        return Operand(ROWS, Rows(pitch, 0), self.place.put(padded))

    @functools.cached_property
    def expected(self) -> Reference:
        return gemm_reference(self.a, self.b)

    def call(self, tile: Tile) -> Call:
        m, n, k = self.sizes
        made, result = CudaPlan(m, n, k, 1, tile, 1, 0.0), Result(self.out, Where(1, n, n, 0, 0, 1))
        device, finish = self.place.runtime, CudaFinish()
        return lambda: run_product(device, None, made, self.left, self.right, result, "columns", finish)

    def job(self, tile: Tile) -> Job:
        call = self.call(tile)

        def result() -> np.ndarray:
            self.place.blank(self.out)
            call()
            return self.place.get(self.out)

        return Job(Contender(tile.name, call, result), self.expected)


def tile_grids(sizes: tuple[int, int, int] | None, device: str, quick: bool) -> list[Grid]:
    """bm x bn of a block, and mr x nr of a thread, around the large tile.

    Raises
    ------
    DeviceUnavailable
        Where there is no such GPU, with the reason.
    """
    place = OnDevice(device)
    sizes = sizes or (EMULATED_SIZES if place.emulated else QUICK_SIZES if quick else SIZES)
    few = quick or place.emulated
    wide, small = ((64, 128), (4, 8)) if few else ((32, 64, 128, 256), (4, 8, 16))
    ready = functools.cache(lambda: Product(place, *sizes))
    return [
        _grid("gpu-tile-block", "Tile of a block", Axis("bn, columns of a block", wide),
              Axis("bm, rows of a block", wide), ("bn", "bm"), ready, place, sizes),
        _grid("gpu-tile-thread", "Tile of a thread", Axis("nr, columns of a thread", small),
              Axis("mr, rows of a thread", small), ("nr", "mr"), ready, place, sizes),
    ]  # fmt: skip


def _tile(fields: tuple[str, str], at: Place) -> Tile:
    """The large tile with two of its fields changed, and as many blocks on a multiprocessor as make THREADS."""
    tile = replace(LARGE, **dict(zip(fields, at, strict=True)))
    return replace(tile, blocks=max(1, THREADS // tile.threads))


def _grid(name: str, title: str, x: Axis, y: Axis, fields: tuple[str, str], ready: Callable[[], Product],
          place: OnDevice, sizes: tuple[int, int, int]) -> Grid:  # fmt: skip
    m, n, k = sizes
    chosen = cuda_plan(m, n, k, 1, 4, "fma", place.runtime.multiprocessors).tile

    def configure(at: Place) -> Job:
        return ready().job(_tile(fields, at))

    def chosen_at() -> Place | None:
        """Where on the grid the plan's own tile is."""
        own = Place(*(getattr(chosen, field) for field in fields))
        return own if own.x in x.values and own.y in y.values and _tile(fields, own) == chosen else None

    return Grid(
        name, f"{title}: {m} x {n} x {k} on {place.runtime.name}", x, y,
        {"sizes": list(sizes), "device": place.runtime.name}, configure, lambda at: 2 * m * n * k,
        lambda: ready().call(LARGE), chosen_at(), None if place.emulated else place.timer,
    )  # fmt: skip
