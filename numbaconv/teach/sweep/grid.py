"""What is varied: a grid of configurations along two axes; and what was found of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numbaconv.bench.contender import Contender, Reference
from numbaconv.timing import Call, HostTimer, Timer

__all__ = ["Axis", "Cell", "Grid", "Job", "Place", "Sweep"]


class Axis(NamedTuple):
    """What is varied, in words, and its values: numbers or names."""

    name: str
    values: tuple[Any, ...]


class Place(NamedTuple):
    """A configuration: its value on each axis."""

    x: Any
    y: Any


class Job(NamedTuple):
    """A configuration made ready: what is timed, and what its result must be."""

    contender: Contender
    reference: Reference


@dataclass(frozen=True)
class Grid:
    """A family of configurations.

    Parameters
    ----------
    name : str
        For files: "tile".
    title : str
    x, y : Axis
    settings : mapping
        All else that a time depends on, but for machine, build and budget.
    configure : callable
        Makes a place's job, or raises ValueError (NumbaconvError, MemoryError) with the reason why it is none.
    flops : callable
        Floating-point operations of a place's job.
    reference : callable
        Gives a call that is timed beside every handful of jobs, always the same one.
    model : Place, optional
        What the library would choose by itself.
    timer : Timer or None
        None: times say nothing here (an emulated device), results are checked all the same.
    """

    name: str
    title: str
    x: Axis
    y: Axis
    settings: Mapping[str, Any]
    configure: Callable[[Place], Job]
    flops: Callable[[Place], int]
    reference: Callable[[], Call]
    model: Place | None = None
    timer: Timer | None = field(default_factory=HostTimer)

    @property
    def places(self) -> Iterator[Place]:
        """Row by row."""
        return (Place(x, y) for y in self.y.values for x in self.x.values)

    def __len__(self) -> int:
        return len(self.x.values) * len(self.y.values)


@dataclass(frozen=True)
class Cell:
    """What became of a configuration: a speed, or the reason why there is none."""

    place: Place
    gflops: float | None = None
    reason: str | None = None
    wrong: bool = False


@dataclass(frozen=True)
class Sweep:
    """A grid and what was found at each of its places."""

    grid: Grid
    cells: tuple[Cell, ...]

    def __getitem__(self, place: Place) -> Cell:
        return next(cell for cell in self.cells if cell.place == place)

    @property
    def best(self) -> Cell | None:
        """The fastest; None where nothing was timed."""
        timed = [cell for cell in self.cells if cell.gflops is not None]
        return max(timed, key=lambda cell: cell.gflops or 0.0, default=None)

    @property
    def wrong(self) -> list[Cell]:
        """Those whose result was wrong."""
        return [cell for cell in self.cells if cell.wrong]

    @property
    def model_share(self) -> float | None:
        """The speed of the library's own choice as a part of the best; None where either is not known."""
        if self.grid.model is None or self.best is None:
            return None
        speed = self[self.grid.model].gflops
        return None if speed is None or not self.best.gflops else speed / self.best.gflops

    def as_json(self) -> dict[str, Any]:
        """The dict that the page and the JSON file take."""
        grid, best, model = self.grid, self.best, self.grid.model
        return {
            "name": grid.name, "title": grid.title, "settings": dict(grid.settings),
            "x": {"name": grid.x.name, "values": list(grid.x.values)},
            "y": {"name": grid.y.name, "values": list(grid.y.values)},
            "cells": [{"x": cell.place.x, "y": cell.place.y, "gflops": cell.gflops, "reason": cell.reason}
                      for cell in self.cells],
            "model": None if model is None else model._asdict(),
            "best": None if best is None else best.place._asdict(),
        }  # fmt: skip
