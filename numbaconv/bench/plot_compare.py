"""Lowerings as points, time against scratch; matplotlib, of the extra ``plot``, is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Point", "compare_plot", "pareto"]

FRONT, BEATEN = "#2166ac", "#8c8c8c"
EDGE = 8.0
"""Where no scratch at all is drawn: so many times left of the least there is."""
LOG_SPREAD = 4.0
"""Times further apart than this stand on a logarithmic axis."""


class Point(NamedTuple):
    """A lowering's name, its workspace in bytes and its time in seconds."""

    name: str
    bytes: int
    seconds: float


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in one and equals in the other, by their bytes."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bytes, p.seconds)):
        if not front or point.seconds < front[-1].seconds:
            front.append(point)
    return front


def compare_plot(path: Path, title: str, points: Sequence[Point]) -> None:
    """Draw time against workspace, the points on the Pareto front joined by a line of steps.

    Parameters
    ----------
    path : Path
        Ends with .png, .svg or .pdf.
    title : str
    points : sequence of Point
        At least one.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    most = max(point.bytes for point in points)
    edge = min((point.bytes for point in points if point.bytes), default=EDGE) / EDGE
    front = pareto(points)
    places = {point: (point.bytes or edge, point.seconds * 1e3) for point in points}
    axes.set_xscale("log")
    axes.set_xlim(edge, max(most, edge * EDGE) * 2.5)
    slowest, fastest = (choose(point.seconds for point in points) * 1e3 for choose in (max, min))
    if slowest > LOG_SPREAD * fastest:
        axes.set_yscale("log")
        axes.set_ylim(fastest / 1.3, slowest * 1.3)
        for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    else:
        axes.set_ylim(0, slowest * 1.15)
    decades = [10.0**n for n in range(15) if edge * 2 < 10.0**n <= max(most, edge * EDGE) * 2.5]
    byte = EngFormatter(unit="B")
    axes.xaxis.set_major_locator(FixedLocator([edge, *decades]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if value == edge else byte(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.step(
        [places[point][0] for point in front] + [axes.get_xlim()[1]],
        [places[point][1] for point in front] + [places[front[-1]][1]],
        where="post", color=FRONT, linewidth=1, label="Pareto front: nothing is faster with as little",
    )  # fmt: skip
    for point, place in places.items():
        colour = FRONT if point in front else BEATEN
        axes.plot(*place, "o", color=colour, markersize=8 if point in front else 6, clip_on=False, zorder=3)
    _annotate(figure, axes, places, front)
    axes.set_xlabel("workspace: lowered data and panels")
    axes.set_ylabel("median ms")
    axes.set_title(title)
    axes.legend(loc="best", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _annotate(figure, axes, places: dict[Point, tuple[float, float]], front: Sequence[Point]) -> None:
    """Names beside their points, moved up or down where they would lie on another name."""
    figure.canvas.draw()
    height, letter, gap = 11.0, 5.2, 7.0  # points
    scale = 72 / figure.dpi
    right = axes.bbox.x1 * scale
    spots = {point: axes.transData.transform(place) * scale for point, place in places.items()}
    taken = [(x - gap / 2, x + gap / 2, y) for x, y in spots.values()]  # left, right, middle
    for point, place in sorted(places.items(), key=lambda item: item[1][1]):
        x, y = spots[point]
        width = letter * len(point.name)
        start = x + gap if x + gap + width < right else x - gap - width
        above = 0.8 * height * (point in front)  # the line of the front runs to the right
        shifts = [above + sign * step * height / 2 for step in range(80) for sign in (1, -1)]
        free = (
            shift for shift in shifts
            if all(end <= start or first >= start + width or abs(y + shift - middle) >= height
                   for first, end, middle in taken)
        )  # fmt: skip
        shift = next(free, 0.0)
        taken.append((start, start + width, y + shift))
        far = abs(shift - above) > height
        axes.annotate(
            point.name, place, (start - x, shift), textcoords="offset points", va="center", fontsize=9,
            color=FRONT if point in front else "#404040", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#b0b0b0", "linewidth": 0.6} if far else None,
        )  # fmt: skip
