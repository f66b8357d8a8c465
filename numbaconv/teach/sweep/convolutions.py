"""Sweeps of a convolution: the register tile of direct, and how many rows of an image are lowered at a time."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from numbaconv.api import plan
from numbaconv.arrays import FROM_NCHW, TO_NCHW
from numbaconv.bench.contender import Contender, Reference, conv_reference, normal
from numbaconv.errors import UnsupportedProblem
from numbaconv.lowering import Lowering
from numbaconv.lowerings.direct import MOST_PIXELS, Direct, lanes_of, pixels_beside, tiles_of
from numbaconv.lowerings.direct_jit import DirectJit
from numbaconv.plan import Handle
from numbaconv.problem import ConvProblem
from numbaconv.registry import make_lowering
from numbaconv.select import candidate
from numbaconv.teach.sweep.grid import Axis, Grid, Job, Place

__all__ = ["LAYER", "QUICK_LAYER", "row_grids", "tile_grids"]

LAYER, QUICK_LAYER = "mb1ic64ih56oc64oh56kh3ph1", "mb1ic32ih28oc64oh28kh3ph1"
LOWERED = ("im2col", "im2row", "mec")
"""Lowerings whose rearranged input can be made some output rows at a time."""


class Layer:
    """The arrays of a convolution, and what its output must be."""

    def __init__(self, problem: ConvProblem):
        self.problem = p = problem
        self.x, self.out = self._image(p.input_shape), self._image(p.output_shape)
        self.x[...] = normal(p.input_shape, p.dtype, 0)
        self.w = normal(p.weight_shape, p.dtype, 1)

    def _image(self, shape: tuple[int, ...]) -> np.ndarray:
        """Axes in the order N, C, H, W, in memory as the problem's layout has them."""
        layout = self.problem.layout
        return np.empty([shape[axis] for axis in FROM_NCHW[layout]], self.problem.dtype).transpose(TO_NCHW[layout])

    @functools.cached_property
    def expected(self) -> Reference:
        return conv_reference(self.problem, self.x, self.w, np.zeros(self.problem.oc, self.problem.dtype))

    def handle(self, algorithm: str | Lowering, threads: int, max_workspace: int | None = None) -> Handle:
        made = plan(self.problem, algorithm, layout="nchw", num_threads=threads, max_workspace=max_workspace)
        return made.prepare(self.w)

    def job(self, name: str, handle: Handle) -> Job:
        call = functools.partial(handle, self.x, out=self.out)

        def result() -> np.ndarray:
            self.out.fill(np.nan)
            call()
            return self.out

        return Job(Contender(name, call, result), self.expected)


def layer_of(problem: ConvProblem | None, quick: bool) -> ConvProblem:
    """The one asked for, or a usual one."""
    found = problem or ConvProblem.parse(QUICK_LAYER if quick else LAYER)
    if not found.macs:
        raise UnsupportedProblem(f"{found} has no multiply-adds: there is nothing to time")
    return found


# ---------------------------------------------------------------------------------------------- direct's tile


def tiled(cls: type[Direct], vectors: int, pixels: int) -> Direct:
    """A direct convolution whose tiles are of that size."""
    return type(cls.__name__, (cls,), {"tile": (vectors, pixels)})()


def tile_grids(problem: ConvProblem | None, threads: int, quick: bool) -> list[Grid]:
    """Pixels x output channels of a tile in registers, of ``direct`` and of ``direct-jit``."""
    p = layer_of(problem, quick)
    kinds: tuple[type[Direct], ...] = (DirectJit,) if quick else (Direct, DirectJit)
    return [_tile_grid(cls, p, threads, quick) for cls in kinds]


def _tile_grid(cls: type[Direct], p: ConvProblem, threads: int, quick: bool) -> Grid:
    ready, lanes = functools.cache(lambda: Layer(p)), lanes_of(p)
    blocks = -(-p.ocg // lanes)
    vectors, tiles = tiles_of(p.ow, blocks, MOST_PIXELS)
    model = Place(-(-p.ow // tiles), vectors * lanes)
    pixels = (2, 7, 14) if quick else (1, 2, 4, 6, 7, 8, 10, 12, 14)
    counts = (1, 2) if quick else (1, 2, 3, 4)

    def configure(place: Place) -> Job:
        width = place.y // lanes
        if width > blocks:
            raise ValueError(f"the layer has {p.ocg} output channels a group, the tile {place.y}")
        if place.x > pixels_beside(width):
            fits = f"{pixels_beside(width)} pixels fit beside as many channels"
            raise ValueError(f"a tile of {place.x} pixels x {place.y} channels spills; {fits}")
        handle = ready().handle(tiled(cls, width, place.x), threads)
        return ready().job(f"{cls.name} {place.x} x {place.y}", handle)

    return Grid(
        f"conv-tile-{cls.name}", f"Register tile of {cls.name}: {p}, {threads} thread{'s' * (threads > 1)}",
        Axis("pixels of the tile", tuple(sorted({*(z for z in pixels if z <= p.ow), model.x}))),
        Axis("output channels of the tile", tuple(sorted({*(c * lanes for c in counts), model.y}))),
        {"problem": str(p), "threads": threads}, configure, lambda place: p.flops,
        lambda: functools.partial(ready().handle(cls(), threads), ready().x, out=ready().out), model,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- rows at a time


def row_grids(problem: ConvProblem | None, threads: int, quick: bool) -> list[Grid]:
    """Output rows that are lowered at a time: what `max_workspace` makes of a lowering."""
    p = layer_of(problem, quick)
    ready = functools.cache(lambda: Layer(p))
    limits = {name: dict(_limits(p, name, threads)) for name in LOWERED}
    rows = sorted({count for found in limits.values() for count in found}, reverse=True)[:: 2 if quick else 1]
    names = LOWERED[:1] if quick else LOWERED
    own = {name: _own_rows(p, name, threads) for name in names}
    fastest = min(names, key=lambda name: _predicted(p, name, threads))

    def configure(place: Place) -> Job:
        reached = limits[place.y]
        if place.x not in reached:
            raise ValueError(f"{place.y} does not cut this layer into blocks of {place.x} rows")
        handle = ready().handle(f"{place.y}:batching=image", threads, reached[place.x])
        return ready().job(f"{place.y}, {place.x} rows", handle)

    values = tuple(sorted({*rows, *own.values()}, reverse=True))
    return [Grid(
        "conv-block", f"Output rows lowered at a time: {p}, {threads} thread{'s' * (threads > 1)}",
        Axis("output rows in a block", values), Axis("lowering", names), {"problem": str(p), "threads": threads},
        configure, lambda place: p.flops,
        lambda: functools.partial(ready().handle("im2col", threads), ready().x, out=ready().out),
        Place(own[fastest], fastest),
    )]  # fmt: skip


def _limits(p: ConvProblem, name: str, threads: int) -> Iterator[tuple[int, int]]:
    """(output rows of a block, workspace that makes the plan cut the image so), from the whole image down."""
    limit: int | None = None
    while True:
        try:
            found = plan(p, f"{name}:batching=image", num_threads=threads, max_workspace=limit)
        except (UnsupportedProblem, MemoryError):
            return
        yield _rows(found), found.workspace_bytes
        limit = found.workspace_bytes - 1


def _rows(handle: Handle) -> int:
    """Output rows of a plan's largest part."""
    return max(part.problem.oh for part in handle.plan.division.parts)


def _own_rows(p: ConvProblem, name: str, threads: int) -> int:
    """What a plan takes that is asked for nothing."""
    return _rows(plan(p, name, num_threads=threads))


def _predicted(p: ConvProblem, name: str, threads: int) -> float:
    request: Any = plan(p, name, num_threads=threads).plan.request
    return candidate(make_lowering(name), p, request).seconds
