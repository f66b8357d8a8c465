"""Sweeps: one thing is varied at a time, every configuration checked and timed, the library's own choice marked.

=============  ======================================================================================
``tile``       the micro-tile in registers, mr x nr
``blocks``     the cache blocks, kc x nc and mc x kc
``order``      the six orders of three plain loops, at several sizes
``threads``    threads of a product, at several sizes
``conv-tile``  the register tile of a convolution without lowering: pixels x output channels
``conv-block`` how many output rows are lowered at a time
``gpu-tile``   the tiles of a GPU's block and of its thread (in the emulator checked, not timed)
=============  ======================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from numbaconv.devices import cuda
from numbaconv.devices.cuda import runtime
from numbaconv.errors import UnknownName
from numbaconv.problem import ConvProblem
from numbaconv.teach.sweep import convolutions, products, tiles_cuda
from numbaconv.teach.sweep.grid import Cell, Grid, Place, Sweep
from numbaconv.teach.sweep.measuring import Tick, sweep
from numbaconv.teach.sweep.store import Store

__all__ = [
    "WHAT", "Cell", "Grid", "Options", "Place", "Store", "Sweep", "UnknownSweep", "grids", "here", "measure", "run",
    "run_grids", "units",
]  # fmt: skip

SECONDS, QUICK_SECONDS = 12.0, 1.2
"""Of timing, for one grid."""
LINES = "sweep.jsonl"


class UnknownSweep(UnknownName):
    """There is no sweep of this name."""

    what = "sweep"


class Options(NamedTuple):
    """What a sweep is of.

    Parameters
    ----------
    sizes : (m, n, k), optional
        Of the product, for ``tile``, ``blocks`` and ``gpu-tile``.
    problem : ConvProblem, optional
        For ``conv-tile`` and ``conv-block``.
    num_threads : int, optional
        Of each run, one by default; of ``threads`` the most, all cores by default.
    device : str
        For ``gpu-tile``.
    quick : bool
        Fewer configurations of smaller problems.
    """

    sizes: tuple[int, int, int] | None = None
    problem: ConvProblem | None = None
    num_threads: int | None = None
    device: str = "cuda"
    quick: bool = False

    @property
    def threads(self) -> int:
        return self.num_threads or 1


GRIDS: dict[str, Callable[[Options], list[Grid]]] = {
    "tile": lambda o: products.tile_grids(o.sizes, o.threads, o.quick),
    "blocks": lambda o: products.block_grids(o.sizes, o.threads, o.quick),
    "order": lambda o: products.order_grids(o.quick),
    "threads": lambda o: products.thread_grids(o.num_threads, o.quick),
    "conv-tile": lambda o: convolutions.tile_grids(o.problem, o.threads, o.quick),
    "conv-block": lambda o: convolutions.row_grids(o.problem, o.threads, o.quick),
    "gpu-tile": lambda o: tiles_cuda.tile_grids(o.sizes, o.device, o.quick),
}
WHAT = tuple(GRIDS)


def here() -> tuple[str, ...]:
    """The sweeps that this machine can time."""
    gpu = cuda.reason("cuda") is None and not runtime("cuda").emulated
    return tuple(name for name in WHAT if gpu or name != "gpu-tile")


def grids(what: str, options: Options = Options()) -> list[Grid]:  # noqa: B008 - immutable
    """The grids of a sweep, not yet measured.

    Raises
    ------
    UnknownSweep
    DeviceUnavailable
        For ``gpu-tile`` without a GPU.
    UnsupportedProblem
        For a convolution of nothing.
    """
    if what not in GRIDS:
        raise UnknownSweep(what, WHAT)
    return GRIDS[what](options)


def run(
    what: str,
    options: Options = Options(),  # noqa: B008 - immutable
    *,
    seconds: float | None = None,
    out: Path | None = None,
    fresh: bool = False,
    tick: Tick | None = None,
) -> list[Sweep]:
    """Measure a sweep: one or two grids.

    Parameters
    ----------
    what : str
        One of ``WHAT``.
    options : Options
    seconds : float, optional
        Of timing, for each grid.
    out : Path, optional
        A directory that keeps each time as it is measured, and whose times are not measured again.
    fresh : bool
        Forget what it keeps.
    tick : callable, optional
        Told in words of each configuration that is done.

    Raises
    ------
    UnknownSweep, DeviceUnavailable, UnsupportedProblem
    """
    store = Store(out and out / LINES, fresh)
    return run_grids(grids(what, options), seconds or (QUICK_SECONDS if options.quick else SECONDS), store, tick)


def run_grids(found: Iterable[Grid], seconds: float, store: Store, tick: Tick | None = None) -> list[Sweep]:
    """Measure grids, one after another."""
    return [sweep(grid, seconds, store, tick) for grid in found]


# ----------------------------------------------------------------------------------------------- for the page


def units(quick: bool) -> int:
    """How often ``measure`` will tick: once a configuration."""
    return sum(len(grid) for what in here() for grid in grids(what, Options(quick=quick)))


def measure(quick: bool, tick: Tick) -> list[dict[str, Any]]:
    """Every sweep that this machine can time, as the page takes them."""
    return [found.as_json() for what in here() for found in run(what, Options(quick=quick), tick=tick)]
