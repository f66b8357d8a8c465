"""The one place that times.

Several libraries in one process disturb each other: after a call, thread pools keep spinning for tens of
milliseconds and starve whoever comes next. So candidates take turns in bursts: a pause in which the others' pools
go to sleep, a few calls that do not count, then the calls that do. Everyone gets the same number of rounds and is
judged by the same statistic.

What queues work on a GPU and returns is timed by events on the GPU's stream, in batches (``DeviceTimer``).
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

__all__ = ["DeviceTimer", "HostTimer", "Sample", "Timer", "burst", "time_call"]

Call = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)

LEAST_SECONDS = 20e-6
"""What is timed lasts at least this long: shorter functions are called in a loop, so that the clock costs < 1 %."""
DEVICE_SECONDS = 1e-3
"""On a device a batch of calls lasts at least this long, so that events and gaps at its ends cost < 1 %."""
MOST_CALLS = 1 << 20


class Timer(Protocol):
    """How calls are timed, and how long they last together at least."""

    @property
    def least(self) -> float: ...

    def seconds(self, function: Call, repeat: int = 1) -> float:
        """Seconds of `repeat` calls, one after the other."""
        ...


@dataclass(frozen=True)
class HostTimer:
    """Calls by a clock: what is timed has done its work when it returns."""

    clock: Callable[[], float] = time.perf_counter

    @property
    def least(self) -> float:
        return LEAST_SECONDS

    def seconds(self, function: Call, repeat: int = 1) -> float:
        start = self.clock()
        for _ in range(repeat):
            function()
        return self.clock() - start


@dataclass(frozen=True)
class DeviceTimer:
    """Calls that queue work on a stream, by the device's time between an event before them and one behind.

    One call more goes before a batch and does not count: the device is busy with it while the host queues the others.
    Where the host needs longer to queue a call than the device to compute it, that is what is seen.

    Parameters
    ----------
    device : devices.runtime.Runtime
    stream : optional
        The one that the calls use.
    """

    device: Any
    stream: Any = None

    @property
    def least(self) -> float:
        return DEVICE_SECONDS

    def seconds(self, function: Call, repeat: int = 1) -> float:
        if repeat > 1:
            function()
        begin = self.device.record(self.stream)
        for _ in range(repeat):
            function()
        return self.device.record(self.stream).seconds_since(begin)


@dataclass(frozen=True)
class Sample:
    """Times of one function.

    Parameters
    ----------
    times : tuple of float
        Seconds of each counted call, in the order they were made; a call that was timed in a loop, or in a batch on a
        device, stands with the mean.
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
    functions: Mapping[Name, Call],
    rounds: int = 5,
    *,
    pause: float = 0.06,
    drop: int = 2,
    calls: int = 9,
    budget_s: float | None = None,
    timer: Timer | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[Name, Sample]:
    """Time functions against each other, in turns.

    In every round each function has one burst: `pause` seconds of silence, `drop` calls that do not count, `calls`
    that do. The order is turned by one from round to round, so that nobody always follows the same neighbour.

    Parameters
    ----------
    functions : mapping of names to callables
        Called without arguments; each is called once, outside the rounds, to compile what it must.
    rounds : int
    pause : float
        Seconds.
    drop, calls : int
    budget_s : float, optional
        Seconds for everything. Functions too slow for it get fewer calls in a burst (at least one, and then at
        most one that does not count), and no round starts after the budget is spent. There is always one round.
    timer : Timer, optional
        Of the calls; by default the clock around them.
    clock, sleep : callable
        Replaced in tests.

    Returns
    -------
    dict of names to Sample
        In the order of `functions`.
    """
    if rounds < 1 or calls < 1 or drop < 0:
        raise ValueError(f"rounds and calls must be at least 1 and drop at least 0; got {rounds}, {calls}, {drop}")
    timer = timer or HostTimer(clock)
    with _no_garbage_collection():
        start = clock()
        first, loops = {}, {}
        for name, function in functions.items():
            sleep(pause)
            first[name] = timer.seconds(function)
            loops[name] = _calibrate(function, timer)
        left = math.inf if budget_s is None else start + budget_s - clock()
        share = left / (rounds * max(len(functions), 1)) - pause
        times: dict[Name, list[float]] = {name: [] for name in functions}
        order = list(functions)
        for number in range(rounds):
            if number and budget_s is not None and clock() - start >= budget_s:
                break
            for name in order:
                repeat, seconds = loops[name]
                dropped, counted = _fit(share / seconds, drop, calls)
                sleep(pause)
                for _ in range(dropped):
                    timer.seconds(functions[name], repeat)
                times[name] += [timer.seconds(functions[name], repeat) / repeat for _ in range(counted)]
            order = order[1:] + order[:1]
    return {name: Sample(tuple(times[name]), first[name]) for name in functions}


def time_call(function: Call, rounds: int = 5, **options: Any) -> Sample:
    """Time one function; parameters as for ``burst``."""
    return burst({"": function}, rounds, **options)[""]


def _calibrate(function: Call, timer: Timer) -> tuple[int, float]:
    """(calls that together last as long as the timer wants, their seconds)."""
    repeat = 1
    while (seconds := timer.seconds(function, repeat)) < timer.least and repeat < MOST_CALLS:
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
