"""A sweep as a heat map; matplotlib, of the extra ``plot``, is imported when one is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numbaconv.teach.sweep.grid import Cell, Place, Sweep

__all__ = ["figure_of", "heat_map"]

COLOURS = "cividis"
"""Told apart whatever colours one sees, and in grey."""
BEST, WRONG, NOTHING = "#b2182b", "#b2182b", "#dddddd"
CELL_WIDTH, CELL_HEIGHT, MARGIN, HEAD = 0.82, 0.5, 2.6, 1.9  # inches
TITLE_LETTERS = 13  # an inch
SHORT = {"WRONG": "WRONG", "spills": "spills", "emulated": "right"}
"""Words of a reason that fit into a cell, in the place of a dash."""


def heat_map(path: Path, sweep: Sweep) -> None:
    """Draw GFLOP/s over both axes, the library's own choice and the best marked.

    Parameters
    ----------
    path : Path
        Ends with .png, .svg or .pdf.
    sweep : Sweep
    """
    figure_of(sweep).savefig(path, dpi=130)


def figure_of(sweep: Sweep) -> Any:
    """The heat map as a figure of matplotlib's."""
    import numpy as np
    from matplotlib.figure import Figure

    xs, ys = sweep.grid.x.values, sweep.grid.y.values
    size = max(5.6, MARGIN + CELL_WIDTH * len(xs)), HEAD + CELL_HEIGHT * len(ys)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor(NOTHING)
    speeds = np.array([[sweep[Place(x, y)].gflops or np.nan for x in xs] for y in ys])
    top = 1.0 if sweep.best is None else sweep.best.gflops
    picture = axes.imshow(speeds, cmap=COLOURS, aspect="auto", vmin=0, vmax=top)
    figure.colorbar(picture, ax=axes, label="GFLOP/s")
    for row, y in enumerate(ys):
        for column, x in enumerate(xs):
            text, colour = _label(sweep[Place(x, y)], picture.norm, picture.cmap)
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(xs)), list(map(str, xs)))
    axes.set_yticks(range(len(ys)), list(map(str, ys)))
    axes.tick_params(length=0)
    axes.set_xlabel(sweep.grid.x.name)
    axes.set_ylabel(sweep.grid.y.name)
    axes.set_title("\n".join(textwrap.wrap(sweep.grid.title, int(TITLE_LETTERS * size[0]))), fontsize=10)
    marks = [_mark(axes, sweep, *mark) for mark in _marks(sweep)]
    if marks:
        figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False, fontsize=9, handlelength=3)
    return figure


def _label(cell: Cell, norm: Any, colours: Any) -> tuple[str, str]:
    """What stands in a cell, and in which colour it can be read."""
    if cell.gflops is None:
        found = (short for word, short in SHORT.items() if word in (cell.reason or ""))
        return next(found, "–"), WRONG if cell.wrong else "#404040"
    red, green, blue, _ = colours(norm(cell.gflops))
    dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45
    return f"{cell.gflops:.0f}" if cell.gflops >= 9.95 else f"{cell.gflops:.1f}", "white" if dark else "black"


def _marks(sweep: Sweep) -> Iterator[tuple[Place, str, dict[str, Any]]]:
    """(place, words, how its frame is drawn); the model's frame lies inside the best one's."""
    best, model, share = sweep.best, sweep.grid.model, sweep.model_share
    if best is not None:
        yield best.place, f"the best: {best.gflops:.1f} GFLOP/s", {"edgecolor": BEST, "linewidth": 3, "inset": 0.03}
    if model is not None:
        words = "the library's own choice" + (f": {share:.0%} of the best" if share is not None else "")
        yield model, words, {"edgecolor": "white", "linewidth": 2, "linestyle": (0, (2.5, 1.5)), "inset": 0.13}


def _mark(axes: Any, sweep: Sweep, place: Place, words: str, style: dict[str, Any]) -> Any:
    """Frame a cell; returns what the legend shows."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    inset = style.pop("inset")
    column, row = sweep.grid.x.values.index(place.x), sweep.grid.y.values.index(place.y)
    side = 1 - 2 * inset
    frame = Rectangle((column - side / 2, row - side / 2), side, side, fill=False, label=words, **style)
    frame.set_path_effects([withStroke(linewidth=style["linewidth"] + 1.5, foreground="black")])
    return axes.add_patch(frame)
