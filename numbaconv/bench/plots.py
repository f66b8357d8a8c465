"""Pictures of measurements; matplotlib comes from the extra ``plot`` and is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from numbaconv.bench.network import LayerTime

__all__ = ["network_plot"]

# Blue and orange shades for the two kinds that are matrix products, grey for what stands between them.
COLOURS = {
    "conv": "#2166ac", "fc": "#f4a582", "lrn": "#525252", "pool": "#8c8c8c", "relu": "#bdbdbd", "softmax": "#e0e0e0",
}  # fmt: skip
NAMES = {
    "conv": "convolution", "fc": "fully connected", "lrn": "response norm.", "pool": "max pooling", "relu": "ReLU",
    "softmax": "softmax",
}  # fmt: skip
LEAST_LABELLED = 0.03
"""Wedges below this share have no room for a number; the legend has it."""


def network_plot(path: Path, title: str, rows: Sequence[LayerTime], kinds: Mapping[str, float] | None = None) -> None:
    """Write a bar chart of the layers' times and, for a whole forward pass, a pie of its kinds of stages.

    Parameters
    ----------
    path : Path
        Ends with .png, .svg or .pdf.
    title : str
    rows : sequence of LayerTime
    kinds : mapping of str to float, optional
        Seconds for each kind of stage.
    """
    from matplotlib.figure import Figure

    height = max(4.0, 1.6 + 0.24 * len(rows))
    figure = Figure(figsize=(12 if kinds else 8, height), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, 2, width_ratios=(1, 1.25)) if kinds else [None, figure.subplots()]
    if kinds:
        _pie(panels[0], kinds)
    _bars(panels[1], rows, legend=not kinds)
    figure.savefig(path, dpi=130)


def _pie(axes, kinds: Mapping[str, float]) -> None:
    """Shares of the time, the large ones written into their wedges, all of them in the legend."""
    total = sum(kinds.values())
    shares = {kind: seconds / total for kind, seconds in kinds.items()}
    wedges, _ = axes.pie(
        list(shares.values()), colors=[COLOURS[kind] for kind in shares], startangle=90, counterclock=False,
        wedgeprops={"edgecolor": "white", "linewidth": 1}, radius=1.1,
    )  # fmt: skip
    for wedge, (kind, share) in zip(wedges, shares.items(), strict=True):
        if share >= LEAST_LABELLED:
            _label(axes, wedge, f"{share:.0%}", "white" if kind in ("conv", "lrn") else "black")
    labels = [f"{NAMES[kind]}  {share:.1%}" for kind, share in shares.items()]
    axes.legend(wedges, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, frameon=False)
    products = shares.get("conv", 0.0) + shares.get("fc", 0.0)
    axes.set_title(f"a forward pass, {total * 1e3:.1f} ms: {products:.0%} in convolution\nand fully-connected layers")


def _label(axes, wedge, text: str, colour: str) -> None:
    from math import cos, radians, sin

    middle = radians((wedge.theta1 + wedge.theta2) / 2)
    axes.text(0.7 * cos(middle), 0.7 * sin(middle), text, ha="center", va="center", color=colour)


def _bars(axes, rows: Sequence[LayerTime], legend: bool) -> None:
    """A bar a layer, as long as its median run, its speed beside it."""
    times = [row.sample.median * 1e3 for row in rows]
    bars = axes.barh([row.layer.name for row in rows], times, color=[COLOURS[row.layer.kind] for row in rows])
    axes.bar_label(bars, [f"{row.gflops:.0f}" for row in rows], padding=3, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first layer on top
    axes.margins(x=0.12)
    axes.tick_params(axis="y", labelsize=8 if len(rows) > 20 else 9)
    axes.set_xlabel("median ms (number at the bar: GFLOP/s)")
    axes.set_title("layers that are matrix products")
    if legend:
        first_of = {NAMES[row.layer.kind]: bar for row, bar in reversed([*zip(rows, bars, strict=True)])}
        axes.legend(first_of.values(), first_of, loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
