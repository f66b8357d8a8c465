"""A grid measured: each configuration is made, its result is checked, and only then is it timed.

A machine's speed drifts while a sweep runs (neighbours, clocks, temperature). So configurations are timed a handful at
a time, in turns with one reference call that is the same throughout: what counts of a configuration is the quotient of
its time and the reference's in the same turns. At the end quotients become seconds by the reference's median time.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from numbaconv.bench.contender import WrongResult
from numbaconv.errors import NumbaconvError
from numbaconv.teach.sweep.grid import Cell, Grid, Job, Place, Sweep
from numbaconv.teach.sweep.store import Store, Times
from numbaconv.timing import Call, Timer, burst

__all__ = ["Tick", "sweep"]

Tick = Callable[[str], object]

HANDFUL = 5
ROUNDS, DROP, CALLS = 4, 1, 7
PAUSE = 0.002  # between bursts: our idle threads spin for 0.1 ms
NOT_TIMED = "right, but emulated: not timed"


def sweep(grid: Grid, seconds: float, store: Store | None = None, tick: Tick | None = None) -> Sweep:
    """Measure a grid.

    Parameters
    ----------
    grid : Grid
    seconds : float
        Of timing for the whole grid; compilation and checks come on top.
    store : Store, optional
        What it holds is not measured again, and what is measured is put there at once.
    tick : callable, optional
        Told in words of each place that is done.

    Returns
    -------
    Sweep
        With a cell for each place: a wrong result, or a configuration that is none, stays in it with the reason.
    """
    store, tick = store or Store(), tick or (lambda text: None)
    share, reference = seconds / len(grid), None
    times: dict[Place, Times] = {}
    without: dict[Place, Cell] = {}
    waiting: dict[Place, Job] = {}
    last = None
    for last in grid.places:
        if kept := store.find(grid, last, seconds):
            times[last] = kept
            tick(f"{_name(grid, last)}: known")
            continue
        made = _checked(grid, last)
        if isinstance(made, Cell):
            without[last] = made
            tick(f"{_name(grid, last)}: {made.reason}")
            continue
        waiting[last] = made
        if len(waiting) == HANDFUL:
            reference = reference or grid.reference()
            _time(grid, waiting, reference, share, seconds, store, times, tick)
    if waiting:
        _time(grid, waiting, reference or grid.reference(), share, seconds, store, times, tick)
    usual = median(found.reference for found in times.values()) if times else 0.0
    cells = {
        place: Cell(place, grid.flops(place) * found.reference / (found.seconds * usual) / 1e9)
        for place, found in times.items()
    }  # fmt: skip
    return Sweep(grid, tuple((cells | without)[place] for place in grid.places))


def _name(grid: Grid, place: Place) -> str:
    return f"{grid.name} {place.y} x {place.x}"


def _checked(grid: Grid, place: Place) -> Job | Cell:
    """A job whose result is right, or the cell of what is none."""
    try:
        job = grid.configure(place)
    except (NumbaconvError, ValueError) as error:
        return Cell(place, reason=str(error))
    try:
        job.reference.check(job.contender)
    except WrongResult as error:
        return Cell(place, reason=f"WRONG: {error}", wrong=True)
    return job if grid.timer else Cell(place, reason=NOT_TIMED)


def _time(grid: Grid, waiting: dict[Place, Job], reference: Call, share: float, seconds: float, store: Store,
          times: dict[Place, Times], tick: Tick) -> None:  # fmt: skip
    """Time the jobs that wait, and wait for none any longer."""
    timer: Timer | None = grid.timer
    calls: dict[Place | None, Call] = {None: reference}
    calls |= {place: job.contender.call for place, job in waiting.items()}
    samples = burst(calls, ROUNDS, pause=PAUSE, drop=DROP, calls=CALLS, budget_s=share * len(waiting), timer=timer)
    for place in waiting:
        found = times[place] = Times(samples[place].lower_quartile, samples[None].lower_quartile)
        store.add(grid, place, seconds, found)
        tick(f"{_name(grid, place)}: {grid.flops(place) / found.seconds / 1e9:.1f} GFLOP/s")
    waiting.clear()
