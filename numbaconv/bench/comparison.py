"""What a comparison of lowerings is made of: measurements, one problem's comparison, a network's totals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from numbaconv.networks import layers
from numbaconv.problem import ConvProblem

__all__ = ["Comparison", "Measurement", "Total", "distinct_convolutions", "totals"]


@dataclass(frozen=True)
class Measurement:
    """One lowering at one problem.

    Attributes
    ----------
    spec : str
        The lowering with its parameters.
    times : tuple of float
        Seconds of the counted calls.
    stages : dict of str to float
        Median seconds of each stage.
    lowering_bytes, panel_bytes, taken_bytes, prepared_bytes : int
        Scratch as declared, scratch that was taken, and what the prepared weights keep.
    error : float
        The worst element's, over the result's root mean square.
    alone : bool
        It was too slow to be timed in turns; there is one time, of a run alone.
    peer : bool
        It is another library: there are no stages, and of its memory nothing is known.
    """

    spec: str
    times: tuple[float, ...]
    stages: dict[str, float]
    lowering_bytes: int
    panel_bytes: int
    taken_bytes: int
    prepared_bytes: int
    error: float
    alone: bool = False
    peer: bool = False

    min = property(lambda self: min(self.times))
    median = property(lambda self: median(self.times))
    workspace_bytes = property(lambda self: self.lowering_bytes + self.panel_bytes)


@dataclass
class Comparison:
    """All lowerings at one problem.

    Attributes
    ----------
    problem : ConvProblem
    timed : list of Measurement
        By the median, the fastest first.
    wrong, refused : dict of str to str
        Who computed something else, or failed; who does not run it; and why.
    auto : str
        What ``algorithm="auto"`` takes; empty where that fails.
    layers : tuple of str
        The layers that are this problem, if it comes from a network.
    """

    problem: ConvProblem
    timed: list[Measurement] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    auto: str = ""
    layers: tuple[str, ...] = ()

    count = property(lambda self: max(1, len(self.layers)))

    @property
    def best(self) -> Measurement | None:
        """The fastest lowering."""
        return next((found for found in self.timed if not found.peer), None)

    @property
    def peers(self) -> set[str]:
        """The names of the other libraries that were timed."""
        return {found.spec for found in self.timed if found.peer}

    def of(self, spec: str) -> Measurement | None:
        """The figures of one lowering, if it was timed."""
        return next((found for found in self.timed if found.spec == spec), None)


def distinct_convolutions(network: str, mb: int = 1) -> dict[ConvProblem, tuple[str, ...]]:
    """The convolutions of a network in the order they are met, each with the names of the layers that are this one."""
    found: dict[ConvProblem, tuple[str, ...]] = {}
    for layer in layers(network, mb):
        if layer.kind == "conv":
            found[layer.problem] = (*found.get(layer.problem, ()), layer.name)
    return found


@dataclass(frozen=True)
class Total:
    """One lowering over the layers of a network that it runs.

    Attributes
    ----------
    layers : int
        How many it runs.
    seconds : float
        The sum of their medians.
    workspace_bytes : int
        The largest: it is used again.
    """

    layers: int
    seconds: float
    workspace_bytes: int


def totals(comparisons: Sequence[Comparison]) -> dict[str, Total]:
    """Every lowering's sum, those that run most layers first, the fastest of them first."""
    runs: dict[str, list[tuple[int, Measurement]]] = {}
    for comparison in comparisons:
        for one in comparison.timed:
            runs.setdefault(one.spec, []).append((comparison.count, one))
    found = {
        spec: Total(
            sum(count for count, _ in parts),
            sum(count * one.median for count, one in parts),
            max(one.workspace_bytes for _, one in parts),
        )
        for spec, parts in runs.items()
    }
    return dict(sorted(found.items(), key=lambda item: (-item[1].layers, item[1].seconds)))
