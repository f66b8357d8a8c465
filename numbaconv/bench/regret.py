"""What the cost model's choices cost: each layer's chosen lowering against the best that was measured.

    regret of a layer  =  time of the lowering that ``auto`` takes  /  time of the fastest one timed  (1: the right one)

Timed are the lowerings that the model predicts within a factor of its favourite. Predicted and measured times of each
are kept side by side: where their quotient is the same for all layers a constant of the model is off, where it
scatters the model misses something.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from numbaconv.bench import ours, suites
from numbaconv.bench.report import environment, threads
from numbaconv.measured import plausible
from numbaconv.problem import ConvProblem
from numbaconv.request import Epilogue, Request
from numbaconv.select import choose

__all__ = ["Calibration", "Layer", "Timed", "as_json", "calibrations", "header", "line", "measure", "summaries", "text"]


@dataclass(frozen=True)
class Timed:
    """One lowering at one layer: predicted and measured seconds."""

    spec: str
    family: str
    predicted: float
    seconds: float


@dataclass(frozen=True)
class Layer:
    """One problem and the lowerings that were timed at it.

    Attributes
    ----------
    count : int
        Layers that it stands for.
    chosen : str
        What ``auto`` takes.
    timed : list of Timed
        By prediction.
    wrong : dict of str to str
        Who computed something else; not timed.
    """

    problem: ConvProblem
    num_threads: int
    count: int
    chosen: str
    timed: list[Timed]
    wrong: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Timed:
        """The fastest."""
        return min(self.timed, key=lambda one: one.seconds)

    @property
    def seconds(self) -> float:
        """Of the lowering that was chosen; NaN where its result was wrong."""
        return next((one.seconds for one in self.timed if one.spec == self.chosen), math.nan)

    @property
    def regret(self) -> float:
        """How many times as long the chosen lowering takes as the best."""
        return self.seconds / self.best.seconds if self.timed else math.nan


def measure(
    problem: ConvProblem,
    num_threads: int,
    count: int = 1,
    factor: float = 3.0,
    statistic: str = "median",
    rounds: int = 5,
    seconds: float = 8.0,
) -> Layer:
    """Check and time the lowerings predicted within `factor` of the best; the rest as for ``suites.conv_row``."""
    request = Request(num_threads=num_threads, epilogue=Epilogue(bias=True))
    predicted = {answer.lowering.spec: answer for answer in plausible(problem, request, factor)}
    row = suites.conv_row(
        problem, [], num_threads, list(predicted), count=count, statistic=statistic, rounds=rounds, seconds=seconds
    )
    timed = [
        Timed(spec, answer.lowering.family, answer.seconds, row.seconds(ours.conv_name(spec)))
        for spec, answer in predicted.items()
        if ours.conv_name(spec) in row.samples
    ]
    return Layer(problem, num_threads, count, choose(problem, request).spec, timed, row.wrong)


# ------------------------------------------------------------------------------------------------------ summaries


@dataclass(frozen=True)
class Calibration:
    """How measured times of a lowering compare with predicted ones, over the layers at which it was timed.

    Attributes
    ----------
    ratio, least, most : float
        Measured over predicted: geometric mean, smallest, largest.
    spread : float
        The geometric standard deviation of the quotients: 1 where a constant would make all predictions right.
    won : int
        Layers at which it was the fastest.
    """

    family: str
    spec: str
    num_threads: int
    layers: int
    ratio: float
    least: float
    most: float
    spread: float
    won: int


def calibrations(layers: Sequence[Layer]) -> list[Calibration]:
    """For each thread count every lowering, family by family; a family of several has a line of its own before them."""
    found = []
    for count in sorted({layer.num_threads for layer in layers}):
        here = [(layer, one) for layer in layers if layer.num_threads == count for one in layer.timed]
        for family in sorted({one.family for _, one in here}):
            members = [(layer, one) for layer, one in here if one.family == family]
            specs = sorted({one.spec for _, one in members})
            if len(specs) > 1:
                found.append(_calibration(family, "all", count, members))
            found += [
                _calibration(family, spec, count, [(layer, one) for layer, one in members if one.spec == spec])
                for spec in specs
            ]
    return found


def _calibration(family: str, spec: str, num_threads: int, pairs: list[tuple[Layer, Timed]]) -> Calibration:
    ratios = [one.seconds / one.predicted for _, one in pairs]
    mean = geometric_mean(ratios)
    spread = math.exp(math.sqrt(sum(math.log(ratio / mean) ** 2 for ratio in ratios) / len(ratios)))
    won = sum(layer.best is one for layer, one in pairs)
    layers = len({id(layer) for layer, _ in pairs})
    return Calibration(family, spec, num_threads, layers, mean, min(ratios), max(ratios), spread, won)


def geometric_mean(values: Iterable[float]) -> float:
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms))


def summaries(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """For each thread count: the regret's geometric mean and worst layer, and of the layers' times together."""
    found: list[dict[str, Any]] = []
    for count in sorted({layer.num_threads for layer in layers}):
        here = [layer for layer in layers if layer.num_threads == count and not math.isnan(layer.regret)]
        if here:
            worst = max(here, key=lambda layer: layer.regret)
            total = sum(layer.count * layer.seconds for layer in here)
            best = sum(layer.count * layer.best.seconds for layer in here)
            found.append({
                "num_threads": count, "rows": len(here), "right": sum(layer.regret == 1 for layer in here),
                "geometric_mean": geometric_mean(layer.regret for layer in here), "worst": worst.regret,
                "worst_row": str(worst.problem), "chosen_s": total, "best_s": best, "in_all": total / best,
            })  # fmt: skip
    return found


# ------------------------------------------------------------------------------------------------------------ text


def header(width: int) -> str:
    """Column titles for ``line``."""
    return (f"{'layer':<{width}}  threads  {'chosen':<16} {'ms':>9}  {'best':<16} {'ms':>9}  regret"
            "  others: ms, measured over predicted")  # fmt: skip


def line(layer: Layer, width: int) -> str:
    """One layer: what was chosen, what was best, and how far off each prediction was."""
    lines = [f"    WRONG: {reason}" for reason in layer.wrong.values()]
    if layer.timed:
        best = layer.best
        others = ", ".join(
            f"{one.spec} {one.seconds * 1e3:.3f} ({one.seconds / one.predicted:.2f})" for one in layer.timed
        )
        lines.insert(0, f"{layer.problem!s:<{width}}  {layer.num_threads:>7}  {layer.chosen:<16} "
                        f"{layer.seconds * 1e3:>9.3f}  {best.spec:<16} {best.seconds * 1e3:>9.3f}  "
                        f"{layer.regret:>6.3f}  {others}")  # fmt: skip
    return "\n".join(lines)


def text(layers: Sequence[Layer]) -> str:
    """The summaries and the calibrations, to print behind the layers."""
    lines = [
        f"{threads(found['num_threads'])}: regret {found['geometric_mean']:.3f} (geometric mean over {found['rows']} "
        f"rows, {found['right']} chosen right), worst {found['worst']:.3f} ({found['worst_row']}); all layers "
        f"{found['chosen_s'] * 1e3:.2f} ms as chosen, {found['best_s'] * 1e3:.2f} ms at best: {found['in_all']:.3f}"
        for found in summaries(layers)
    ]
    lines += ["", f"{'family':<10} {'lowering':<18} threads layers  won  measured / predicted   least    most  spread"]
    lines += [
        f"{one.family:<10} {one.spec:<18} {one.num_threads:>7} {one.layers:>6} {one.won:>4}  {one.ratio:>20.2f} "
        f"{one.least:>7.2f} {one.most:>7.2f} {one.spread:>7.2f}"
        for one in calibrations(layers)
    ]
    return "\n".join(lines)


def as_json(layers: Sequence[Layer], versions: Sequence[str]) -> dict[str, object]:
    """Everything that was measured, for ``json.dump``."""
    return {
        **environment(versions),
        "rows": [
            {
                "problem": str(layer.problem), "num_threads": layer.num_threads, "count": layer.count,
                "chosen": layer.chosen, "best": layer.best.spec if layer.timed else None,
                "regret": None if math.isnan(layer.regret) else layer.regret,
                "timed": [asdict(one) for one in layer.timed], "wrong": layer.wrong,
            }
            for layer in layers
        ],
        "summary": summaries(layers),
        "calibration": [asdict(one) for one in calibrations(layers)],
    }  # fmt: skip
