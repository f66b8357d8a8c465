"""Every lowering at one problem: each checked, then all timed in turns, with the memory that each took.

The truth is `conv_reference`, float64 sums in NumPy, one tap of the kernel at a time, for small problems and large: it
shares no code with any lowering, `reference` among them. The worst element is judged, by its error over the result's
root mean square, which is never less than the relative error in Frobenius norm and sees a bad corner too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import numpy as np
from numpy.typing import NDArray

from numbaconv.api import explain, plan
from numbaconv.bench.comparison import Comparison, Measurement
from numbaconv.bench.contender import Contender, Reference, WrongResult, conv_reference, normal
from numbaconv.bench.ours import in_order
from numbaconv.errors import UnknownLowering, UnsupportedProblem, WorkspaceExceeded
from numbaconv.lowering import STAGES
from numbaconv.plan import Handle
from numbaconv.problem import ConvProblem
from numbaconv.registry import list_lowerings, make_lowering
from numbaconv.timing import burst
from numbaconv.workspace import Arena, release_workspaces

__all__ = ["SLOW", "bytes_needed", "compare", "specs_of", "steps", "taken"]

Tick = Callable[[], None]

SLOW = 20.0
"""Who needs so many times the best one's time is run alone and not again."""
ROUNDS, DROP, CALLS = 7, 1, 9
PAUSE = 0.002  # all are ours: our idle threads spin for 0.1 ms, and there are no others
FEW_RUNS, SINGLE_SECONDS = 3, 0.1


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
    """
    p, found = problem, Comparison(problem, layers=layers)
    handles: dict[str, Handle] = {}
    for spec in specs:
        try:
            handles[spec] = plan(p, spec, layout="nchw", max_workspace=max_workspace, num_threads=num_threads)
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
    image, out = in_order(x, p.layout), in_order(np.empty(p.output_shape, p.dtype), p.layout)
    ready: dict[str, _Ready] = {}
    for spec, handle in handles.items():
        tick()
        try:
            ready[spec] = _Ready(handle.prepare(w), image, out, truth)
        except WrongResult as failure:
            found.wrong[spec] = str(failure)
        except Exception as failure:
            found.wrong[spec] = f"{type(failure).__name__}: {failure}"
    found.auto = _automatic(p, num_threads, max_workspace)
    best = min((one.alone for one in ready.values()), default=0.0)
    slow = {spec for spec, one in ready.items() if one.alone > SLOW * best}
    times = _time({spec: one for spec, one in ready.items() if spec not in slow}, seconds, tick)
    found.timed = sorted((one.measured(times.get(spec)) for spec, one in ready.items()), key=lambda one: one.median)
    release_workspaces()
    return found


class _Ready:
    """A lowering with its weights prepared, its result found right twice: scratch is not new the second time.

    Raises
    ------
    WrongResult
    """

    def __init__(self, handle: Handle, image: NDArray, out: NDArray, truth: Reference):
        self.handle, self.image, self.out = handle, image, out
        self.stages: list[dict[str, float]] = []
        result = Contender(handle.algorithm, self.call, lambda: out)
        out.fill(np.nan)
        with taken() as record:
            self.call()
        self.taken_bytes = sum(record.values())
        truth.check(result)
        self.stages.clear()
        out.fill(np.nan)
        self.alone = self._alone()
        self.error = truth.check(result)

    def call(self) -> None:
        self.handle(self.image, out=self.out)
        self.stages.append(self.handle.stage_times)

    def _alone(self) -> float:
        """Seconds of a run; the best of a few where they are short, for a hiccup must not make anyone slow."""
        spent: list[float] = []
        while not spent or (len(spent) < FEW_RUNS and sum(spent) < SINGLE_SECONDS):
            start = time.perf_counter()
            self.call()
            spent.append(time.perf_counter() - start)
        return min(spent)

    def measured(self, times: tuple[float, ...] | None) -> Measurement:
        """With the times of the counted calls; of the run alone, where there are none."""
        handle = self.handle
        stages = {stage: median(run.get(stage, 0.0) for run in self.stages) for stage in STAGES}
        return Measurement(
            handle.algorithm, times or (self.alone,), stages, handle.lowering_bytes, handle.panel_bytes,
            self.taken_bytes, handle.prepared_bytes, self.error, times is None,
        )  # fmt: skip


def _time(ready: dict[str, _Ready], seconds: float, tick: Tick) -> dict[str, tuple[float, ...]]:
    """Seconds of the counted calls of each, in turns."""
    for one in ready.values():
        one.stages.clear()

    def sleep(pause: float) -> None:
        tick()
        time.sleep(pause)

    calls = {spec: one.call for spec, one in ready.items()}
    samples = burst(calls, ROUNDS, pause=PAUSE, drop=DROP, calls=CALLS, budget_s=seconds, sleep=sleep)
    return {spec: sample.times for spec, sample in samples.items()}


def _automatic(problem: ConvProblem, num_threads: int | None, max_workspace: int | None) -> str:
    try:
        return explain(problem, num_threads=num_threads, max_workspace=max_workspace).chosen
    except Exception:  # an experiment that cannot say what it needs; it is among the wrong ones
        return ""


def _reason(refusal: UnsupportedProblem) -> str:
    return refusal.reasons if isinstance(refusal.reasons, str) else "; ".join(refusal.reasons.values())


@contextmanager
def taken() -> Iterator[dict[int, int]]:
    """What calls in the block take from their arenas: by an arena's address, which each worker has of its own, the most
    bytes that were taken for one part.

    ``Arena.take`` is another function while the block runs, so that calls which nobody watches pay nothing.
    """
    record: dict[int, int] = {}
    take = Arena.take

    def noted(self: Arena, name: str, size: int) -> NDArray:
        part = take(self, name, size)
        record[self.address] = max(record.get(self.address, 0), sum(self.slices.values()))
        return part

    Arena.take = noted  # type: ignore[method-assign]
    try:
        yield record
    finally:
        Arena.take = take  # type: ignore[method-assign]
