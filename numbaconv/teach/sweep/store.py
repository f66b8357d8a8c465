"""Times that were measured, kept line by line, so that a sweep that was interrupted goes on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from numbaconv.find_database import Entry, FindDatabase
from numbaconv.jit import build_key
from numbaconv.machine import default_threads, detect
from numbaconv.teach.sweep.grid import Grid, Place

__all__ = ["Store", "Times"]

MACHINE = ("cpu_name", "llvm_name", "vector_bits", "l1d_bytes", "l2_bytes", "l3_bytes", "cores")
CELL, REFERENCE = "configuration", "reference"


class Times(NamedTuple):
    """Seconds of a call of a configuration, and of the reference that was timed in turns with it."""

    seconds: float
    reference: float


class Store:
    """The times of a directory, or of this process alone.

    Lines are those of the find-database: appended in one write, a damaged one skipped, the last one of a key counts.

    Parameters
    ----------
    path : Path or None
        The file of JSON lines; None: nothing is kept.
    fresh : bool
        Forget what the file holds.
    """

    def __init__(self, path: Path | None = None, fresh: bool = False):
        if path is not None and fresh:
            path.unlink(missing_ok=True)
        self._lines = FindDatabase(path)

    def find(self, grid: Grid, place: Place, seconds: float) -> Times | None:
        """What was measured here, with this build and these settings."""
        entry = self._lines.find(_key(grid, place, seconds))
        times = entry.times if entry else {}
        cell, reference = times.get(CELL), times.get(REFERENCE)
        return Times(cell, reference) if cell is not None and reference is not None else None

    def add(self, grid: Grid, place: Place, seconds: float, times: Times) -> None:
        entry = Entry(CELL, {CELL: times.seconds, REFERENCE: times.reference})
        self._lines.add(_key(grid, place, seconds), entry)


def _key(grid: Grid, place: Place, seconds: float) -> Mapping[str, Any]:
    facts = asdict(detect())
    return {
        "sweep": grid.name, "settings": dict(grid.settings), "x": place.x, "y": place.y, "seconds": seconds,
        "machine": {name: facts[name] for name in MACHINE}, "threads": default_threads(), "build": build_key(),
    }  # fmt: skip
