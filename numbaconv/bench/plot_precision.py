"""The picture of ``bench.precision``: error against the length of the sum, a panel for each kind of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from numbaconv.bench.precision import ARITHMETICS, Row

__all__ = ["precision_plot"]

STYLES = {"bf16": ("#b2182b", "-"), "TF32": ("#8c8c8c", "--"), "bf16x3": ("#ef8a62", "-"), "float32": ("#525252", "--"),
          "bf16x6": ("#2166ac", "-")}  # fmt: skip


def precision_plot(path: Path, rows: Sequence[Row]) -> None:
    """Write it; `path` ends with .png, .svg or .pdf."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(row.data for row in rows))
    figure = Figure(figsize=(3.2 * len(kinds), 3.6), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], kinds, strict=True):
        for name in ARITHMETICS:
            of = [row for row in rows if (row.data, row.arithmetic) == (kind, name)]
            colour, line = STYLES[name]
            axes.loglog([row.k for row in of], [row.norm for row in of], line, color=colour, label=name, marker=".")
        axes.set_title(kind, fontsize=10)
        axes.set_xlabel("terms of a sum")
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("error against float64, relative norm")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=130)
