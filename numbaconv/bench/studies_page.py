"""What ``studies_tables`` is written with: a view of the figures, cells, and Markdown between marks.

Tables are written by the same lines with figures and without: what only a run can tell is then a blank (one of three
characters below), and a table in a README is right when it matches the one with blanks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import geometric_mean

from numbaconv.bench.report import threads as in_words
from numbaconv.bench.studies import Figures, Findings, Group, Layer

__all__ = ["NAME", "View", "block", "differences", "geomean", "kib", "replaced", "shape", "shown", "table"]

FIGURE, NAME, SENTENCE = "¤", "§", "¶"
BLANKS = {FIGURE: r"(?:\d+(?:\.\d+)?|-)", NAME: r"(?:[a-z][\w-]*|-)", SENTENCE: r"\S.*"}
"""What stands for a figure, for a lowering and for the rest of a paragraph; and what may stand in their place."""


@dataclass(frozen=True)
class View:
    """Thread counts, and what was measured with them; None: nothing, every figure is a blank."""

    num_threads: tuple[int, ...]
    found: Findings | None = None
    statistic: str = "best"

    def figures(self, group: Group, layer: Layer, spec: str, threads: int) -> Figures | None:
        row = (self.found or {}).get((group.name, layer.label))
        return row.figures.get((spec, threads)) if row else None

    def seconds(self, group: Group, layer: Layer, spec: str, threads: int, of: str = "") -> float:
        """Of the call that counts, or of another attribute of ``Figures``; NaN for who was not timed."""
        figures = self.figures(group, layer, spec, threads)
        return getattr(figures, of or self.statistic) if figures else math.nan

    def gflops(self, group: Group, layer: Layer, spec: str, threads: int) -> float:
        return layer.problem.flops / self.seconds(group, layer, spec, threads) / 1e9

    def cell(self, value: Callable[[int], float | str], decimals: int = 2, blank: str = FIGURE) -> str:
        """A figure for each thread count."""
        if self.found is None:
            return " / ".join(blank for _ in self.num_threads)
        return " / ".join(shown(value(threads), decimals) for threads in self.num_threads)

    def speed(self, group: Group, layer: Layer, spec: str) -> str:
        """A cell of GFLOP/s."""
        return self.cell(lambda threads: self.gflops(group, layer, spec, threads), 0)

    def quotient(self, group: Group, layer: Layer, slow: str, fast: str, of: str = "") -> str:
        """A cell: how many times as fast one is as another."""
        return self.cell(lambda t: self.seconds(group, layer, slow, t, of) / self.seconds(group, layer, fast, t, of))

    def sentence(self, text: Callable[[], str]) -> str:
        return SENTENCE if self.found is None else text()

    def each(self, text: Callable[[int], str]) -> str:
        """A sentence with a part for each thread count."""
        return self.sentence(lambda: "; ".join(f"with {in_words(t)} {text(t)}" for t in self.num_threads) + ".")

    @property
    def caption(self) -> str:
        counts = " / ".join(map(str, self.num_threads))
        return f"Figures of {counts} {'thread' if self.num_threads == (1,) else 'threads'}, by the best call."


def shown(value: float | str, decimals: int = 2) -> str:
    return value if isinstance(value, str) else "-" if math.isnan(value) else f"{value:.{decimals}f}"


def kib(size: int) -> str:
    """Bytes in KiB, to a tenth."""
    return f"{size / 1024:.{1 if size % 1024 else 0}f}"


def geomean(values: Sequence[float]) -> float:
    """Of those that are numbers; NaN of none."""
    known = [value for value in values if not math.isnan(value)]
    return geometric_mean(known) if known else math.nan


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [titles, ["---"] * len(titles), *rows])


def shape(layer: Layer) -> str:
    """A problem's sizes but for its images: channels, kernel, pixels."""
    p = layer.problem
    stride = f", stride {p.sh}" if p.sh > 1 else ""
    return f"{p.ic} → {p.oc}, {p.kh}x{p.kw}, {p.ih}x{p.iw}{stride}"


# ---------------------------------------------------------------------------------------------------------- a README


def marks(study: str) -> tuple[str, str]:
    return f"<!-- study:{study} -->", f"<!-- /study:{study} -->"


def block(text: str, study: str) -> str:
    """What is between a study's marks.

    Raises
    ------
    ValueError
        When the marks are not there, or not once.
    """
    begin, end = marks(study)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{study}: expected {begin} ... {end}, once")
    return text[text.index(begin) + len(begin) : text.index(end)]


def replaced(text: str, study: str, content: str) -> str:
    """The text with other content between a study's marks."""
    old, (begin, end) = block(text, study), marks(study)
    return text.replace(f"{begin}{old}{end}", f"{begin}\n{content}\n{end}")


def differences(text: str, study: str, blanks: str) -> list[str]:
    """Where a README says something else than the content with blanks."""
    try:
        found = _lines(block(text, study))
    except ValueError as missing:
        return [str(missing)]
    return [
        f"{study}: expected {wanted or 'nothing'}\n{' ' * len(study)}     found {got or 'nothing'}"
        for wanted, got in zip_longest(_lines(blanks), found, fillvalue="")
        if not re.fullmatch(_pattern(wanted), got)
    ]


def _lines(content: str) -> list[str]:
    """Rows of tables, and paragraphs, however they are broken into lines."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", content.strip()):
        lines += paragraph.splitlines() if paragraph.startswith("|") else [" ".join(paragraph.split())]
    return lines


def _pattern(line: str) -> str:
    pattern = re.escape(line)
    for blank, allowed in BLANKS.items():
        pattern = pattern.replace(blank, allowed)
    return pattern
