"""The picture of a bank of kernels at work: what went in, the kernels, and what came out."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbaconv.problem import ConvProblem
from numbaconv.teach.filters import Bank

__all__ = ["draw", "interior", "scale_of", "shown", "write"]

WIDTH = 12.0
"""Inches."""
MAP_COLUMNS = 4
WIDEST, FLATTEST, STEEPEST = 4.2, 0.3, 1.6
"""A map's place: its width at most, in inches, and its height over its width."""
MARKED, FRAME = "#d95f02", "#b0b0b0"
KERNEL_PIXELS, GAP = 36, 3
"""A kernel is enlarged to at least so many pixels, and so many are between two."""
FEW, WRITTEN = 6, 5
"""So many kernels, and no larger, have their elements written into them."""
ENOUGH = 99.0
"""Per cent of the responses that the scale of the maps does not clip."""


def draw(problem: ConvProblem, x: NDArray, bank: Bank, maps: NDArray, count: int, title: str) -> Any:
    """Input, kernels and response maps, as a matplotlib figure.

    Parameters
    ----------
    problem : ConvProblem
        The convolution that was run.
    x : array (1, ic, rows, columns)
    bank : Bank
    maps : array (oc, oh, ow)
    count : int
        Maps to draw at most; they are spread evenly over the bank.
    title : str
    """
    from matplotlib.figure import Figure

    numbers = shown(len(bank), count)
    cells = len(numbers) + bank.strength
    columns = cells if cells <= MAP_COLUMNS else min((MAP_COLUMNS, MAP_COLUMNS - 1), key=lambda some: -cells % some)
    rows = -(-cells // columns)
    aspect = float(np.clip(maps.shape[1] / maps.shape[2], FLATTEST, STEEPEST))
    top = float(np.clip(0.41 * WIDTH * x.shape[2] / x.shape[3], 3.0, 5.0)) + 0.3
    bottom = rows * (min(WIDTH / columns, WIDEST) * aspect + 0.3) + 0.7
    figure = Figure(figsize=(WIDTH, top + bottom + 0.5), layout="constrained")
    figure.suptitle(f"{title}\n{problem}", fontsize=11, parse_math=False)
    above, below = figure.subfigures(2, 1, height_ratios=(top, bottom))
    picture, kernels = above.subplots(1, 2, width_ratios=(1, 1.35))
    _picture(picture, x)
    _kernels(kernels, bank, numbers)
    _maps(below, below.subplots(rows, columns, squeeze=False), problem, bank, maps, numbers)
    return figure


def write(figure: Any, path: Path) -> None:
    """Write a figure; a file that was there is replaced as a whole, or left as it was.

    Raises
    ------
    OSError
    """
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a file's name has letters that fonts may lack
        figure.savefig(drawn, format=path.suffix[1:].lower(), dpi=130)
    path = path.resolve()
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(drawn.getvalue())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def shown(kernels: int, count: int) -> list[int]:
    """Which of so many kernels get their map drawn: `count`, spread evenly."""
    return [round(number) for number in np.linspace(0, kernels - 1, min(kernels, count))]


def interior(p: ConvProblem) -> tuple[slice, slice]:
    """Rows and columns of the output whose windows lie inside the picture: at its edges they see padding, too."""

    def inside(outputs: int, size: int, kernel: int, stride: int, pad: int) -> slice:
        starts = np.arange(outputs) * stride - pad
        whole = np.flatnonzero((starts >= 0) & (starts + kernel <= size))
        return slice(int(whole[0]), int(whole[-1]) + 1) if whole.size else slice(None)

    return inside(p.oh, p.ih, p.kh, p.sh, p.pad_top), inside(p.ow, p.iw, p.kw, p.sw, p.pad_left)


def scale_of(maps: NDArray) -> float:
    """The magnitude that nearly all responses stay below; 1 where all are zero."""
    return float(np.percentile(np.abs(maps), ENOUGH)) or float(np.abs(maps).max()) or 1.0


# --------------------------------------------------------------------------------------------------------- the parts


def _bare(axes: Any, title: str, size: float = 9) -> None:
    axes.set_title(title, fontsize=size)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FRAME)


def _picture(axes: Any, x: NDArray) -> None:
    _, channels, rows, columns = x.shape
    if channels == 1:
        axes.imshow(x[0, 0], cmap="gray", vmin=0, vmax=1)
    else:
        axes.imshow(x[0].transpose(1, 2, 0))
    kind = "grey levels" if channels == 1 else "red, green, blue"
    _bare(axes, f"input: {columns} x {rows} pixels, {kind}", 10)


def _kernels(axes: Any, bank: Bank, numbers: Sequence[int]) -> None:
    """All kernels in a grid, those whose maps are drawn in frames."""
    from matplotlib.patches import Rectangle

    count, _, height, width = bank.kernels.shape
    zoom = max(1, -(-KERNEL_PIXELS // max(height, width)))
    step_y, step_x = height * zoom + GAP, width * zoom + GAP
    grid = np.ones((-(-count // bank.columns) * step_y + GAP, bank.columns * step_x + GAP, 3))
    for number in range(count):
        top, left = (GAP + place * step for place, step in zip(divmod(number, bank.columns), (step_y, step_x),
                                                              strict=True))  # fmt: skip
        tile = _pixels(bank.kernels[number]).repeat(zoom, axis=0).repeat(zoom, axis=1)
        grid[top : top + height * zoom, left : left + width * zoom] = tile
        marked = number in numbers and len(numbers) < count
        frame = {"edgecolor": MARKED, "linewidth": 1.8} if marked else {"edgecolor": FRAME, "linewidth": 0.6}
        corner, across, down = (left - 1.5, top - 1.5), step_x - GAP + 2, step_y - GAP + 2
        axes.add_patch(Rectangle(corner, across, down, fill=False, zorder=2 + marked, **frame))
        if count <= FEW and max(height, width) <= WRITTEN and bank.kernels.shape[1] == 1:
            _write_elements(axes, bank.kernels[number, 0], top, left, zoom)
    axes.imshow(grid, interpolation="nearest")
    zero = "grey is 0, white positive, black negative" if bank.signed else "black is 0"
    more = "; in frames: those shown below" if len(numbers) < count else ""
    kernels = "1 kernel" if count == 1 else f"{count} kernels"
    _bare(axes, f"{kernels} of {height} x {width}: {zero}{more}", 10)
    axes.set_frame_on(False)


def _pixels(kernel: NDArray) -> NDArray:
    """(ic, kh, kw) as colours: 0 is mid-grey, or black where nothing is negative."""
    most = float(np.abs(kernel).max()) or 1.0
    signed = bool((kernel < 0).any())
    levels = 0.5 + kernel / (2 * most) if signed else kernel / most
    return np.broadcast_to(levels.transpose(1, 2, 0), (*kernel.shape[1:], 3))


def _write_elements(axes: Any, kernel: NDArray, top: int, left: int, zoom: int) -> None:
    shade = _pixels(kernel[None])[..., 0]
    for (row, column), value in np.ndenumerate(kernel):
        place = left + (column + 0.5) * zoom - 0.5, top + (row + 0.5) * zoom - 0.5
        ink = "white" if shade[row, column] < 0.45 else "black"
        axes.text(*place, f"{value:.3g}", ha="center", va="center", fontsize=9, color=ink)


def _maps(
    figure: Any, places: NDArray, problem: ConvProblem, bank: Bank, maps: NDArray, numbers: Sequence[int]
) -> None:
    """The maps on one scale, each with its kernel in a corner."""
    inside = (slice(None), *interior(problem))
    signed = bank.signed
    means = not signed and np.allclose(bank.kernels.sum(axis=(1, 2, 3)), 1)
    most = 1.0 if means else scale_of(maps[inside])  # a mean of the picture has the picture's levels
    low, colours = (-most, "RdBu_r") if signed else (0.0, "gray")
    cells = iter(places.flat)
    image = None
    for number in numbers:
        axes = next(cells)
        image = axes.imshow(maps[number], cmap=colours, vmin=low, vmax=most, interpolation="nearest")
        _bare(axes, bank.labels[number])
        corner = axes.inset_axes((0.015, 0.02, 0.17, 0.17 * maps.shape[2] / maps.shape[1]))
        corner.imshow(_pixels(bank.kernels[number]), interpolation="nearest")
        _bare(corner, "")
        for spine in corner.spines.values():
            spine.set_color(MARKED)
    if bank.strength:
        strength = np.sqrt((maps**2).sum(axis=0))
        axes = next(cells)
        axes.imshow(strength, cmap="gray", vmin=0, vmax=scale_of(strength[inside[1:]]), interpolation="nearest")
        _bare(axes, "edge strength: root of the sum of squares")
    for axes in cells:
        axes.set_visible(False)
    bar = figure.colorbar(image, ax=list(places.flat), location="bottom", fraction=0.05, aspect=60, pad=0.02,
                          extend="neither" if means else "both" if signed else "max")  # fmt: skip
    bar.ax.tick_params(labelsize=8)
    words = ["response"]
    if signed:
        words.append(": red where the picture looks like the kernel, blue where it looks like its negative")
        words.append("; the zeros around the picture are an edge, too" * any((problem.pad_top, problem.pad_left)))
    bar.set_label("".join(words), fontsize=9)
