"""The roofline: how fast may a kernel be that computes so much with each byte it moves, and how fast is it?

Roofs are measured (``roofs.py``): the multiply-add peak, and for each cache and the memory its bandwidth times the
operations a byte. A point's operations are those of the direct computation, so what multiplies less may lie above the
peak. Its bytes are

ladder      what the cache model counts for the step's own source: lines moved into the L1 (``l1``), and into the last
            cache from memory and back (``intensity``). Steps whose accesses cannot be followed (threads, the library's
            own kernel) move what the step before them does.
lowerings   input, weights and output once, and what is rearranged on the way: the bytes moved of ``numbaconv explain``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from numbaconv.api import make_request
from numbaconv.bench.contender import Contender, gemm_reference, normal
from numbaconv.ladder import Step, steps
from numbaconv.ladder.trace import CannotTrace, traffic
from numbaconv.machine import default_threads
from numbaconv.problem import ConvProblem
from numbaconv.request import Epilogue
from numbaconv.select import Candidate, candidates
from numbaconv.teach.roofs import Bandwidth, Peak, bandwidths, peaks
from numbaconv.teach.sweep.convolutions import Layer, layer_of
from numbaconv.timing import Call, burst

__all__ = ["Options", "Point", "Roofline", "measure", "roofline", "units"]

QUICK_LOWERINGS = ("im2col", "im2row", "implicit-gemm", "kn2row-aa", "direct", "winograd-f4")
SIZE, QUICK_SIZE = 320, 192
SECONDS, QUICK_SECONDS = 8.0, 1.5
"""Of timing, for the ladder and for the lowerings each."""
ROUNDS, PAUSE, DROP, CALLS = 4, 0.002, 1, 7
MANY = ("parallel", "production")
"""Steps that use all threads; the cache model follows one."""

Tick = Callable[[str], object]
Name = TypeVar("Name", bound=Hashable)


class Options(NamedTuple):
    """What is placed under the roofs.

    Parameters
    ----------
    size : int, optional
        m = n = k of the ladder's products.
    problem : ConvProblem, optional
        The layer.
    quick : bool
        Smaller products, fewer lowerings.
    """

    size: int | None = None
    problem: ConvProblem | None = None
    quick: bool = False

    @property
    def order(self) -> int:
        return self.size or (QUICK_SIZE if self.quick else SIZE)

    @property
    def layer(self) -> ConvProblem:
        return layer_of(self.problem, quick=False)

    @property
    def units(self) -> int:
        """How often ``roofline`` will tick."""
        threads = default_threads()
        return len(peaks(threads)) + len(bandwidths(threads)) + len(steps("cpu")) + len(_chosen(self))


@dataclass(frozen=True)
class Point:
    """A kernel under the roofs.

    Parameters
    ----------
    name : str
    group : {"ladder", "lowering"}
    intensity : float
        Operations for each byte that memory gave or took.
    gflops : float
    threads : int
    l1 : float or None
        Operations for each byte that came into an L1 or left it, where the cache model counted them.
    """

    name: str
    group: str
    intensity: float
    gflops: float
    threads: int
    l1: float | None = None


@dataclass(frozen=True)
class Roofline:
    """The roofs of this machine, and what was measured under them."""

    size: int
    problem: ConvProblem
    peaks: tuple[Peak, ...]
    bandwidths: tuple[Bandwidth, ...]
    points: tuple[Point, ...]

    def as_json(self) -> dict[str, Any]:
        """The dict that the page and the JSON file take."""
        return {
            "size": self.size, "problem": str(self.problem),
            "peaks": [peak._asdict() for peak in self.peaks],
            "bandwidths": [bandwidth._asdict() for bandwidth in self.bandwidths],
            "points": [asdict(point) for point in self.points],
        }  # fmt: skip


def roofline(options: Options = Options(), tick: Tick = lambda text: None) -> Roofline:  # noqa: B008 - immutable
    """Measure roofs and points.

    Parameters
    ----------
    options : Options
    tick : callable
        Told in words of each thing that is done.

    Raises
    ------
    WrongResult
        When a step or a lowering computes something else; nothing of it is timed.
    """
    threads = default_threads()

    def told(measured: Iterable[Callable[[], Any]]) -> Iterator[Any]:
        for measure_one in measured:
            roof = measure_one()
            tick(f"{roof.name}, {roof.threads} thread{'s' * (roof.threads > 1)}")
            yield roof

    flat, rising = tuple(told(peaks(threads))), tuple(told(bandwidths(threads)))
    points = [*_ladder(options, threads, tick), *_lowerings(options, tick)]
    return Roofline(options.order, options.layer, flat, rising, tuple(points))


# --------------------------------------------------------------------------------------------------- the ladder


def _ladder(options: Options, threads: int, tick: Tick) -> Iterator[Point]:
    """Every step of the CPU's ladder."""
    size = options.order
    a, b, flops = normal((size, size), "float32", 0), normal((size, size), "float32", 1), 2 * size**3
    expected = gemm_reference(a, b)
    calls: dict[Step, Call] = {}
    intensities: dict[Step, tuple[float, float | None]] = {}
    counted: tuple[float, float | None] = flops / _least_bytes(size), None
    for step in steps("cpu"):
        out = np.full((size, size), np.nan, np.float32)
        calls[step] = functools.partial(step.function, a, b, out=out)
        calls[step]()
        expected.check(Contender(step.name, calls[step], functools.partial(np.asarray, out)))
        counted = _intensities(step, size) or counted
        intensities[step] = counted
        tick(f"step {step.name}")
    for step, seconds in _timed(calls, options).items():
        memory, l1 = intensities[step]
        yield Point(step.name, "ladder", memory, flops / seconds / 1e9, threads if step.name in MANY else 1, l1)


def _least_bytes(size: int) -> int:
    """A and B read, C written."""
    return 3 * size * size * 4


def _intensities(step: Step, size: int) -> tuple[float, float] | None:
    """Operations for each byte of memory, and of what lies beyond the L1; None where nobody can count."""
    if step.name in MANY:
        return None
    try:
        counted = traffic(step.function, *[(size, size)] * 3)
    except CannotTrace:
        return None
    near, far = counted[0], counted[len(counted.levels) - 1]
    moved = max(far.bytes + far.written, _least_bytes(size))  # what is dirty at the end has yet to be written
    return 2 * size**3 / moved, 2 * size**3 / max(near.bytes + near.written, moved)


def _timed(calls: dict[Name, Call], options: Options) -> dict[Name, float]:
    seconds = QUICK_SECONDS if options.quick else SECONDS
    samples = burst(calls, ROUNDS, pause=PAUSE, drop=DROP, calls=CALLS, budget_s=seconds)
    return {name: sample.lower_quartile for name, sample in samples.items()}


# ---------------------------------------------------------------------------------------------------- the layer


def _chosen(options: Options) -> list[Candidate]:
    """The lowerings that run the layer, but for the plain loops that check the others."""
    request = make_request("cpu", 1, "highest", "float32", None, None, Epilogue())
    found = [answer for answer in candidates(options.layer, request) if answer.support]
    return [
        answer for answer in found
        if answer.lowering.name != "reference" and (not options.quick or answer.lowering.name in QUICK_LOWERINGS)
    ]  # fmt: skip


def _lowerings(options: Options, tick: Tick) -> Iterator[Point]:
    """Every lowering of the layer, on one thread."""
    p, layer = options.layer, Layer(options.layer)
    calls: dict[str, Call] = {}
    moved: dict[str, int] = {}
    for answer in _chosen(options):
        name = answer.lowering.name
        job = layer.job(name, layer.handle(name, 1))
        job.reference.check(job.contender)
        calls[name], moved[name] = job.contender.call, answer.bytes_moved
        tick(name)
    for name, seconds in _timed(calls, options).items():
        yield Point(name, "lowering", p.flops / moved[name], p.flops / seconds / 1e9, 1)


# --------------------------------------------------------------------------------------------------- for the page


def units(quick: bool) -> int:
    """How often ``measure`` will tick."""
    return Options(quick=quick).units


def measure(quick: bool, tick: Tick) -> dict[str, Any]:
    """Roofs and points as the page takes them."""
    return roofline(Options(quick=quick), tick).as_json()
