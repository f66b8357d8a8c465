"""Every lowering at one problem: each checked, then all timed in turns, with the memory that each took.

The truth is `conv_reference`, float64 sums in NumPy, one tap of the kernel at a time, for small problems and large: it
shares no code with any lowering, `reference` among them. The worst element is judged, by its error over the result's
root mean square, which is never less than the relative error in Frobenius norm and sees a bad corner too.

On a device arrays lie there beforehand, and another library takes part where there is one.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np

from numbaconv.api import plan
from numbaconv.bench.comparison import Comparison, Measurement
from numbaconv.bench.contender import Contender, Reference, WrongResult, conv_reference, normal
from numbaconv.bench.device_peers import device_peers
from numbaconv.bench.ours import in_order
from numbaconv.bench.place import Place, place_of
from numbaconv.bench.scratch import taken
from numbaconv.errors import UnknownLowering, UnsupportedProblem, WorkspaceExceeded
from numbaconv.explanation import explain
from numbaconv.lowering import STAGES
from numbaconv.plan import Handle
from numbaconv.problem import ConvProblem
from numbaconv.registry import list_lowerings, make_lowering
from numbaconv.timing import burst

__all__ = ["SLOW", "bytes_needed", "compare", "specs_of", "steps", "taken"]

Tick = Callable[[], None]

SLOW = 20.0
"""Who needs so many times the best one's time is run alone and not again."""
ROUNDS, DROP, CALLS = 7, 1, 9
PAUSE = 0.002  # all are ours: our idle threads spin for 0.1 ms, and there are no others
FEW_RUNS, SINGLE_SECONDS = 3, 0.1
STAGE_RUNS = 9


def specs_of(patterns: Sequence[str] = ()) -> list[str]:
    """The lowerings that match one of some patterns, each with its parameters: "kn2*", "im2col:batching=whole".

    Without patterns all; `reference` is among them only where nothing else matches.

    Raises
    ------
    UnknownLowering, ValueError
    """
    found = []
    for pattern in patterns or ["*"]:
        name, colon, parameters = pattern.partition(":")
        names = list_lowerings(name)
        if not names:
            raise UnknownLowering(name, list_lowerings())
        names = [other for other in names if other != "reference"] or names
        found += [make_lowering(other + colon + parameters).spec for other in names]
    return list(dict.fromkeys(found))


def bytes_needed(problem: ConvProblem, count: int) -> int:
    """Memory that comparing `count` lowerings takes about: the float64 convolution, and everyone's weights."""
    p = problem
    return 6 * p.input_bytes + 10 * p.output_bytes + (3 + count) * p.weight_bytes


def steps(count: int) -> int:
    """How often ``compare`` ticks at most for `count` lowerings."""
    return count * (2 + ROUNDS)


def compare(
    problem: ConvProblem,
    specs: Sequence[str],
    num_threads: int | None = None,
    max_workspace: int | None = None,
    seconds: float = 4.0,
    tick: Tick = lambda: None,
    layers: tuple[str, ...] = (),
    device: str = "cpu",
) -> Comparison:
    """Check lowerings, then time those that are right; without a bias, weights prepared before.

    Parameters
    ----------
    problem : ConvProblem
    specs : sequence of str
        From ``specs_of``.
    num_threads, max_workspace : int, optional
        As in ``plan``.
    seconds : float
        For the timing in turns.
    tick : callable
        Called without arguments, never inside what is timed.
    layers : tuple of str
        Kept in the result.
    device : str
        "cpu", "cuda" or "cuda:1".

    Raises
    ------
    DeviceUnavailable
    """
    p, found, place = problem, Comparison(problem, layers=layers), place_of(device)
    handles: dict[str, Handle] = {}
    for spec in specs:
        try:
            handles[spec] = plan(
                p, spec, device, layout="nchw", max_workspace=max_workspace, num_threads=num_threads
            )  # fmt: skip
        except UnsupportedProblem as refusal:
            found.refused[spec] = _reason(refusal)
        except WorkspaceExceeded as refusal:
            found.refused[spec] = str(refusal)
        except Exception as failure:  # an experiment may fail in any way: the others are compared all the same
            found.wrong[spec] = f"{type(failure).__name__}: {failure}"
    if not handles:
        return found
    x, w = normal(p.input_shape, p.dtype, seed=0), normal(p.weight_shape, p.dtype, seed=1)
    truth = conv_reference(p, x, w, np.zeros(p.oc, p.dtype))
    image, out = (place.put(in_order(array, p.layout)) for array in (x, np.empty(p.output_shape, p.dtype)))
    ready: dict[str, _Contestant] = {}
    for spec, handle in handles.items():
        tick()
        with _failures(spec, found):
            ready[spec] = _Ready(place, handle.prepare(w), image, out, truth)
    for peer in device_peers(place):
        with _failures(peer.name, found):
            ready[peer.name] = _Rival(place, peer.conv(p, x, w, None), truth)
    found.auto = _automatic(p, num_threads, max_workspace, device)
    best = min((ready[spec].alone for spec in handles if spec in ready), default=0.0)
    slow = {spec for spec, one in ready.items() if one.alone > SLOW * best}
    times = _time({spec: one for spec, one in ready.items() if spec not in slow}, place, seconds, tick)
    found.timed = sorted((one.measured(times.get(spec)) for spec, one in ready.items()), key=lambda one: one.median)
    place.release()
    return found


@contextmanager
def _failures(name: str, found: Comparison) -> Iterator[None]:
    """Who fails in the block is written down; the others are compared all the same."""
    try:
        yield
    except UnsupportedProblem as refusal:
        found.refused[name] = _reason(refusal)
    except WrongResult as failure:
        found.wrong[name] = str(failure)
    except Exception as failure:
        found.wrong[name] = f"{type(failure).__name__}: {failure}"


class _Contestant(ABC):
    """Who is timed; its result was right."""

    place: Place
    alone: float
    stages: list[Mapping[str, float]]
    """Of the calls that count; where these are queued, of some before them: to watch the stages costs time."""

    @abstractmethod
    def call(self) -> object:
        """What is timed."""

    @abstractmethod
    def measured(self, times: tuple[float, ...] | None) -> Measurement:
        """With the times of the counted calls; of the run alone, where there are none."""

    def _alone(self) -> float:
        """Seconds of a run; the best of a few where they are short, for a hiccup must not make anyone slow."""
        spent: list[float] = []
        while not spent or (len(spent) < FEW_RUNS and sum(spent) < SINGLE_SECONDS):
            spent.append(self.place.timer.seconds(self.call))
        return min(spent)


class _Ready(_Contestant):
    """A lowering with its weights prepared, its result found right twice: scratch is not new the second time.

    Raises
    ------
    WrongResult
    """

    def __init__(self, place: Place, handle: Handle, image: Any, out: Any, truth: Reference):
        self.place, self.handle, self.image, self.out = place, handle, image, out
        self.stages = []
        result = Contender(handle.algorithm, self.call, lambda: place.get(out))
        place.blank(out)
        with taken() as record:
            self.call()
        self.taken_bytes = sum(record.values())
        truth.check(result)
        self.call()  # the first one that runs from tape (``recording``) compiles what does so
        place.blank(out)
        self.alone = self._alone()
        if place.queues:
            self._watch()
        self.error = truth.check(result)

    def call(self) -> None:
        self.handle(self.image, out=self.out)
        if not self.place.queues:
            self.stages.append(self.handle.stage_times)

    def _watch(self) -> None:
        start = time.perf_counter()
        while not self.stages or (len(self.stages) < STAGE_RUNS and time.perf_counter() - start < SINGLE_SECONDS):
            self.handle(self.image, out=self.out)
            self.stages.append(self.handle.stage_times)

    def measured(self, times: tuple[float, ...] | None) -> Measurement:
        handle = self.handle
        stages = {stage: median(run.get(stage, 0.0) for run in self.stages) for stage in STAGES}
        return Measurement(
            handle.algorithm, times or (self.alone,), stages, handle.lowering_bytes, handle.panel_bytes,
            self.taken_bytes, handle.prepared_bytes, self.error, times is None,
        )  # fmt: skip


class _Rival(_Contestant):
    """Another library, its result found right.

    Raises
    ------
    WrongResult
    """

    def __init__(self, place: Place, contender: Contender, truth: Reference):
        self.place, self.contender, self.stages = place, contender, []
        self.error = truth.check(contender)
        self.alone = self._alone()

    def call(self) -> object:
        return self.contender.call()

    def measured(self, times: tuple[float, ...] | None) -> Measurement:
        return Measurement(
            self.contender.name, times or (self.alone,), {}, 0, 0, 0, 0, self.error, times is None, peer=True
        )  # fmt: skip


def _time(
    ready: Mapping[str, _Contestant], place: Place, seconds: float, tick: Tick
) -> dict[str, tuple[float, ...]]:  # fmt: skip
    """Seconds of the counted calls of each, in turns."""
    for one in ready.values():
        if not place.queues:
            one.stages.clear()

    def sleep(pause: float) -> None:
        tick()
        time.sleep(pause)

    calls = {spec: one.call for spec, one in ready.items()}
    samples = burst(calls, ROUNDS, pause=PAUSE, drop=DROP, calls=CALLS, budget_s=seconds, timer=place.timer,
                    sleep=sleep)  # fmt: skip
    return {spec: sample.times for spec, sample in samples.items()}


def _automatic(problem: ConvProblem, num_threads: int | None, max_workspace: int | None, device: str) -> str:
    try:
        return explain(problem, device=device, num_threads=num_threads, max_workspace=max_workspace).chosen
    except Exception:  # an experiment that cannot say what it needs; it is among the wrong ones
        return ""


def _reason(refusal: UnsupportedProblem) -> str:
    return refusal.reasons if isinstance(refusal.reasons, str) else "; ".join(refusal.reasons.values())
