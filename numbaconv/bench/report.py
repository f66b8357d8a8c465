"""Rows of a benchmark as text and as JSON: GFLOP/s, the ratio to the best peer, geometric mean and worst row."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from numbaconv.machine import detect
from numbaconv.timing import Sample

__all__ = [
    "OURS",
    "Row",
    "Summary",
    "as_json",
    "bandwidth_line",
    "environment",
    "header",
    "line",
    "lowering_shares",
    "summaries",
    "totals",
]

OURS = "numbaconv"


@dataclass
class Row:
    """One problem, and everyone's times at it.

    Parameters
    ----------
    label : str
    num_threads : int
    flops : int
        Of the direct computation, whatever an algorithm saves.
    bytes : int
        Operands and result, once each.
    count : int
        Layers the row stands for.
    statistic : {"median", "lower_quartile", "min"}
        By which everyone is judged.
    network : str
        That the layers belong to, if any.
    samples : dict of str to Sample
    errors : dict of str to float
        Worst element, in units of the suite's reference.
    absent : dict of str to str
        Who does not take part, and why.
    wrong : dict of str to str
        Whose result was wrong; not timed.
    stages : dict of str to dict of str to float
        Median seconds of the stages of a call, for who keeps a record.
    """

    label: str
    num_threads: int
    flops: int
    bytes: int
    count: int = 1
    statistic: str = "median"
    network: str = ""
    samples: dict[str, Sample] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)

    def seconds(self, name: str, statistic: str = "") -> float:
        """Seconds of a call, by the row's statistic unless told another; NaN for who was not timed."""
        return getattr(self.samples[name], statistic or self.statistic) if name in self.samples else math.nan

    def gflops(self, name: str, statistic: str = "") -> float:
        """GFLOP/s, as for ``seconds``."""
        return self.flops / self.seconds(name, statistic) / 1e9

    def ratio(self, name: str, peer: str | None = None) -> float:
        """How many times as fast `name` is as `peer`, or as the best peer; NaN where one of them was not timed."""
        rivals = [other for other in self.samples if not is_ours(other) and peer in (None, other)]
        return min(map(self.seconds, rivals), default=math.nan) / self.seconds(name)


def is_ours(name: str) -> bool:
    """Whether a contender is a variant of numbaconv."""
    return name.startswith(OURS)


def threads(count: int) -> str:
    """A thread count in words."""
    return f"{count} thread" if count == 1 else f"{count} threads"


def names(rows: Iterable[Row]) -> list[str]:
    """Everyone timed in some row, in the order met."""
    return list(dict.fromkeys(name for row in rows for name in row.samples))


@dataclass(frozen=True)
class Summary:
    """A variant of ours against one peer, or the best one, over the rows both are in.

    Parameters
    ----------
    name, peer : str
    num_threads, rows : int
    geometric_mean : float
        Of the ratios: above 1 is faster than the peer.
    worst : float
    worst_row : str
    """

    name: str
    peer: str
    num_threads: int
    rows: int
    geometric_mean: float
    worst: float
    worst_row: str

    def __str__(self) -> str:
        return (
            f"{self.name} against {self.peer}, {threads(self.num_threads)}: geometric mean {self.geometric_mean:.3f} "
            f"over {self.rows} rows, worst {self.worst:.3f} ({self.worst_row})"
        )


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """For each thread count, every variant of ours against each peer and against the best one of each row."""
    found = []
    for count in sorted({row.num_threads for row in rows}):
        here = [row for row in rows if row.num_threads == count]
        everyone = names(here)
        for name in filter(is_ours, everyone):
            for peer in [*(other for other in everyone if not is_ours(other)), None]:
                ratios = {row.label: row.ratio(name, peer) for row in here}
                ratios = {label: ratio for label, ratio in ratios.items() if not math.isnan(ratio)}
                if ratios:
                    mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
                    worst = min(ratios, key=lambda label: ratios[label])
                    peer_name = peer or "the best peer"
                    found.append(Summary(name, peer_name, count, len(ratios), mean, ratios[worst], worst))
    return found


def totals(rows: Sequence[Row], statistic: str = "") -> list[str]:
    """For each network and thread count, the milliseconds of all its layers, and how many times as fast ours are.

    Against every peer that took part in all layers, and against the best peer of each layer.
    """
    lines = []
    for network, count in dict.fromkeys((row.network, row.num_threads) for row in rows if row.network):
        here = [row for row in rows if (row.network, row.num_threads) == (network, count)]
        sums = {name: 1e3 * sum(row.count * row.seconds(name, statistic) for row in here) for name in names(here)}
        best = [min((row.seconds(name, statistic) for name in row.samples if not is_ours(name)), default=math.nan)
                for row in here]  # fmt: skip
        rivals = {name: total for name, total in sums.items() if not is_ours(name)}
        rivals["the best of each layer"] = 1e3 * sum(row.count * one for row, one in zip(here, best, strict=True))
        for name, ours in sums.items():
            if is_ours(name) and not math.isnan(ours):
                against = ", ".join(f"{total / ours:.2f} x {peer} ({total:.1f})"
                                    for peer, total in rivals.items() if not math.isnan(total))  # fmt: skip
                lines.append(f"{network}, {threads(count)}: {name} {ours:.1f} ms; {against}")
    return lines


def lowering_shares(rows: Sequence[Row]) -> list[str]:
    """For every variant of ours that lowers, what that costs next to the products, all layers of all rows together."""
    lines = []
    for count, name in dict.fromkeys((row.num_threads, name) for row in rows for name in row.stages):
        here = [row for row in rows if row.num_threads == count and row.stages.get(name)]
        lower, multiply = (
            sum(row.count * row.stages[name].get(stage, 0.0) for row in here) for stage in ("lower", "multiply")
        )
        if lower and multiply:
            share = f"{lower * 1e3:.2f} ms, {lower / multiply:.1%} of the products' {multiply * 1e3:.2f} ms"
            lines.append(f"{name}, {threads(count)}: lowering takes {share}")
    return lines


# --------------------------------------------------------------------------------------------------------- text


def header(contenders: Sequence[str], width: int) -> str:
    """Column titles for ``line``: GFLOP/s (by the fastest call), ratios to the best peer."""
    titles = [f"{name:>{_column(name)}}" for name in contenders]
    ratios = [f"{'ratio ' + name.removeprefix(OURS).strip(' ,'):>14}" for name in filter(is_ours, contenders)]
    return "  ".join([f"{'GFLOP/s (of the best call)':<{width}}", "threads", *titles, *ratios])


def line(row: Row, contenders: Sequence[str], width: int) -> str:
    """One row of the table, and a line for each contender whose result was wrong."""
    cells = []
    for name in contenders:
        speed = f"{row.gflops(name):.1f} ({row.gflops(name, 'min'):.0f})" if name in row.samples else "-"
        cells.append(f"{speed:>{_column(name)}}")
    ratios = [f"{row.ratio(name):>14.3f}" for name in filter(is_ours, contenders)]
    first = "  ".join([f"{row.label:<{width}}", f"{row.num_threads:>7}", *cells, *ratios])
    return "\n".join([first, *(f"    WRONG: {reason}" for reason in row.wrong.values())])


def bandwidth_line(row: Row, gigabytes: float) -> str:
    """What a row that moves more bytes than it computes makes of a read bandwidth in GB/s."""
    shares = [
        f"{name} {speed:.1f} GB/s = {speed / gigabytes:.1%}"
        for name in row.samples
        for speed in [row.bytes / row.seconds(name) / 1e9]
    ]
    return f"    of {gigabytes:.1f} GB/s read: {', '.join(shares)}"


def _column(name: str) -> int:
    return max(len(name), 14)


# --------------------------------------------------------------------------------------------------------- JSON


def environment(versions: Sequence[str]) -> dict[str, object]:
    """Machine and software of a run."""
    machine = asdict(detect())
    machine["features"], machine["amx"] = sorted(machine["features"]), sorted(machine["amx"])
    return {
        "machine": machine,
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
    }


def as_json(rows: Sequence[Row], versions: Sequence[str], ceilings: Mapping[str, float]) -> dict[str, object]:
    """Everything that was measured, for ``json.dump``: seconds, GFLOP/s, GB/s."""
    return {
        **environment(versions),
        "ceilings": dict(ceilings),
        "rows": [
            {
                **{
                    name: getattr(row, name)
                    for name in ("label", "num_threads", "flops", "bytes", "count", "statistic")
                },
                **{name: getattr(row, name) for name in ("errors", "absent", "wrong", "stages")},
                "results": {
                    name: {
                        "min": sample.min,
                        "median": sample.median,
                        "lower_quartile": sample.lower_quartile,
                        "upper_quartile": sample.quartile(3),
                        "gflops": row.gflops(name),
                        "times": sample.times,
                    }
                    for name, sample in row.samples.items()
                },
                "ratios": {name: row.ratio(name) for name in row.samples if is_ours(name)},
            }
            for row in rows
        ],
        "summary": [asdict(summary) for summary in summaries(rows)],
    }
