"""The roofline as a picture; matplotlib, of the extra ``plot``, is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numbaconv.teach.roofline import Roofline
from numbaconv.teach.roofs import Bandwidth

__all__ = ["figure_of", "roofline_plot"]

COLOURS = {"L1": "#4477aa", "L2": "#228833", "L3": "#aa7700", "memory": "#cc3311"}
"""Told apart by those who see fewer colours too; each line bears its name as well."""
PEAK, POINT, LEADER = "#404040", "#222222", "#b0b0b0"
GAP = 0.042  # of a panel's height, between two labels
ROOM = 3.0  # times, around the points
LABELS_AT = 1.02


class Dot(NamedTuple):
    """A point of one panel."""

    name: str
    intensity: float
    gflops: float
    threads: int


def roofline_plot(path: Path, found: Roofline) -> None:
    """Draw the roofs twice: over the ladder's steps, by the bytes that enter the L1, and over the layer's lowerings.

    Parameters
    ----------
    path : Path
        Ends with .png, .svg or .pdf.
    found : Roofline
    """
    figure_of(found).savefig(path, dpi=130)


def figure_of(found: Roofline) -> Any:
    """The picture as a figure of matplotlib's."""
    from matplotlib.figure import Figure

    ladder = [Dot(p.name, p.l1 or p.intensity, p.gflops, p.threads) for p in found.points if p.group == "ladder"]
    layer = [Dot(p.name, p.intensity, p.gflops, p.threads) for p in found.points if p.group == "lowering"]
    panels = [
        (f"the ladder, {found.size} x {found.size} x {found.size}", "operations a byte that enters or leaves an L1",
         ladder),
        (str(found.problem), "direct operations a byte that must be moved", layer),
    ]  # fmt: skip
    panels = [panel for panel in panels if panel[2]]
    figure = Figure(figsize=(7.2 * max(1, len(panels)), 6.2), layout="constrained")
    figure.suptitle("Speed over the work done for each byte, and measured roofs (dashed and hollow: all threads)")
    for axes, (title, words, dots) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _roofs(axes, found, dots)
        _points(axes, dots)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(words)
        axes.set_ylabel("GFLOP/s")
    _legend(figure, found)
    return figure


def _roofs(axes: Any, found: Roofline, dots: Sequence[Dot]) -> None:
    """The measured ceilings over the range of the dots."""
    from matplotlib.ticker import FuncFormatter

    counts = {dot.threads for dot in dots}
    flats = [peak for peak in found.peaks if peak.threads in counts]
    slopes = [line for line in found.bandwidths if line.threads in counts]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    top = max(peak.gflops for peak in flats)
    ridge = top / min(line.gb_s for line in slopes)
    low = min([ridge, *(dot.intensity for dot in dots)]) / ROOM
    high = max([ridge, *(dot.intensity for dot in dots)]) * ROOM
    axes.set_xlim(low, high)
    slowest = min(dot.gflops for dot in dots)
    axes.set_ylim(min(slowest, *(peak.gflops for peak in flats)) / 2, max(top, *(d.gflops for d in dots)) * 2)
    for line in slopes:
        peak = max(p.gflops for p in flats if p.threads == line.threads)
        _slope(axes, line, peak, low)
    for flat in flats:
        axes.plot([low, high], [flat.gflops] * 2, color=PEAK, linewidth=1.3, dashes=_dashes(flat.threads), zorder=1)
        words = f"{flat.name}, {flat.threads} thread{'s' * (flat.threads > 1)}: {flat.gflops:.0f} GFLOP/s"
        axes.annotate(
            words, (high, flat.gflops), (-4, 3), textcoords="offset points", ha="right", fontsize=8, color=PEAK
        )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _dashes(threads: int) -> tuple[float, ...]:
    return (1, 0) if threads == 1 else (4, 2)


def _slope(axes: Any, line: Bandwidth, peak: float, low: float) -> None:
    """A level's bandwidth up to the peak."""
    across, rising = [low, peak / line.gb_s], [low * line.gb_s, peak]
    if across[1] > low:
        colour = COLOURS.get(line.name, PEAK)
        axes.plot(across, rising, color=colour, linewidth=1.6, dashes=_dashes(line.threads), zorder=1)


def _legend(figure: Any, found: Roofline) -> None:
    """The levels below both panels: their lines lie too close to bear names."""
    from matplotlib.lines import Line2D

    lines = []
    for name in dict.fromkeys(line.name for line in found.bandwidths):
        speeds = [f"{line.gb_s:.0f} GB/s{_by(line.threads)}" for line in found.bandwidths if line.name == name]
        lines.append(Line2D([], [], color=COLOURS.get(name, PEAK), linewidth=2, label=f"{name}: {', '.join(speeds)}"))
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False, fontsize=9)


def _by(threads: int) -> str:
    return f" by {threads} threads" if threads > 1 else ""


def _points(axes: Any, dots: Sequence[Dot]) -> None:
    """Every dot, its name and speed in a column beside the panel, the fastest on top."""
    for dot in dots:
        face = POINT if dot.threads == 1 else "white"
        axes.plot(dot.intensity, dot.gflops, "o", color=POINT, markerfacecolor=face, markersize=6, zorder=3)
    ordered = sorted(dots, key=lambda dot: dot.gflops)
    heights = spread([_height(axes, dot.gflops) for dot in ordered], GAP)
    for dot, height in zip(ordered, heights, strict=True):
        axes.annotate(
            f"{dot.name}  {dot.gflops:.3g}", (dot.intensity, dot.gflops), (LABELS_AT, height),
            textcoords="axes fraction", va="center", fontsize=8, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": LEADER, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip


def _height(axes: Any, gflops: float) -> float:
    """Where in the panel a speed lies, from 0 to 1."""
    from math import log

    low, high = axes.get_ylim()
    return log(gflops / low) / log(high / low)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights moved as little as possible (in squares), so that `gap` lies between any two; within 0 to 1.

    Less as many gaps as there are below them, heights need only not fall: neighbours that would are put at their mean.
    """
    runs: list[tuple[float, int]] = []  # (mean, how many)
    for number, height in enumerate(heights):
        mean, count = height - number * gap, 1
        while runs and runs[-1][0] > mean:
            before, many = runs.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        runs.append((mean, count))
    room = 1 - gap * (len(heights) - 1)
    means = [min(max(mean, 0.0), max(room, 0.0)) for mean, count in runs for _ in range(count)]
    return [mean + number * gap for number, mean in enumerate(means)]
