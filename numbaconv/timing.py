"""The one place that times.

Several libraries in one process disturb each other: after a call, thread pools keep spinning for tens of
milliseconds and starve whoever comes next. So candidates take turns in bursts: a pause in which the others' pools
go to sleep, a few calls that do not count, then the calls that do. Everyone gets the same number of rounds and is
judged by the same statistic.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Sample", "burst", "time_call"]

Call = Callable[[], object]

LEAST_SECONDS = 20e-6
"""What is timed lasts at least this long: shorter functions are called in a loop, so that the clock costs < 1 %."""
MOST_CALLS = 1 << 20


@dataclass(frozen=True)
class Sample:
    """Times of one function.

    Parameters
    ----------
    times : tuple of float
        Seconds of each counted call, in the order they were made; a call that was timed in a loop stands with the
        loop's mean.
    first : float
        Seconds of the very first call, which may compile.
    """

    times: tuple[float, ...]
    first: float

    @property
    def min(self) -> float:
        """Seconds of the fastest call."""
        return min(self.times)

    @property
    def median(self) -> float:
        """Seconds."""
        return self.quartile(2)

    @property
    def lower_quartile(self) -> float:
        """Seconds under which a quarter of the calls stayed: for machines whose neighbours disturb half of them."""
        return self.quartile(1)

    def quartile(self, q: int) -> float:
        """Seconds under which q quarters of the calls stayed, interpolated between calls; q is 0 to 4."""
        if not 0 <= q <= 4:
            raise ValueError(f"q must be 0 to 4; got {q}")
        ordered = sorted(self.times)
        place = (len(ordered) - 1) * q / 4
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        return low + (high - low) * (place - math.floor(place))


def burst(
    functions: Mapping[str, Call],
    rounds: int = 5,
    *,
    pause: float = 0.06,
    drop: int = 2,
    calls: int = 9,
    budget_s: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Sample]:
    """Time functions against each other, in turns.

    In every round each function has one burst: `pause` seconds of silence, `drop` calls that do not count, `calls`
    that do. The order is turned by one from round to round, so that nobody always follows the same neighbour.

    Parameters
    ----------
    functions : mapping of str to callable
        Called without arguments; each is called once, outside the rounds, to compile what it must.
    rounds : int
    pause : float
        Seconds.
    drop, calls : int
    budget_s : float, optional
        Seconds for everything. Functions too slow for it get fewer calls in a burst (at least one, and then at
        most one that does not count), and no round starts after the budget is spent. There is always one round.
    clock, sleep : callable
        Replaced in tests.

    Returns
    -------
    dict of str to Sample
        In the order of `functions`.
    """
    if rounds < 1 or calls < 1 or drop < 0:
        raise ValueError(f"rounds and calls must be at least 1 and drop at least 0; got {rounds}, {calls}, {drop}")
    with _no_garbage_collection():
        start = clock()
        first, loops = {}, {}
        for name, function in functions.items():
            sleep(pause)
            first[name] = _seconds(function, 1, clock)
            loops[name] = _calibrate(function, clock)
        left = math.inf if budget_s is None else start + budget_s - clock()
        share = left / (rounds * max(len(functions), 1)) - pause
        times: dict[str, list[float]] = {name: [] for name in functions}
        order = list(functions)
        for number in range(rounds):
            if number and budget_s is not None and clock() - start >= budget_s:
                break
            for name in order:
                repeat, seconds = loops[name]
                dropped, counted = _fit(share / seconds, drop, calls)
                sleep(pause)
                for _ in range(dropped):
                    _seconds(functions[name], repeat, clock)
                times[name] += [_seconds(functions[name], repeat, clock) / repeat for _ in range(counted)]
            order.append(order.pop(0))
    return {name: Sample(tuple(times[name]), first[name]) for name in functions}


def time_call(function: Call, rounds: int = 5, **options: Any) -> Sample:
    """Time one function; parameters as for ``burst``."""
    return burst({"": function}, rounds, **options)[""]


def _seconds(function: Call, repeat: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeat):
        function()
    return clock() - start


def _calibrate(function: Call, clock: Callable[[], float]) -> tuple[int, float]:
    """(calls that together last ``LEAST_SECONDS``, their seconds)."""
    repeat = 1
    while (seconds := _seconds(function, repeat, clock)) < LEAST_SECONDS and repeat < MOST_CALLS:
        repeat *= 2
    return repeat, max(seconds, 1e-9)


def _fit(affordable: float, drop: int, calls: int) -> tuple[int, int]:
    """(calls that do not count, calls that do) in one burst that has time for `affordable` calls."""
    if affordable >= drop + calls:
        return drop, calls
    drop = min(drop, 1)
    return drop, max(1, min(calls, int(affordable) - drop))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
