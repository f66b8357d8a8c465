"""What the check of a GPU found, as tables: for the terminal, as JSON, and for a README."""

from __future__ import annotations

import datetime
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from numbaconv.bench.gpu.figures import Figure, figures, layers, networks
from numbaconv.bench.gpu.run import BAD

__all__ = ["Journal", "markdown", "summary"]

NAME = "gpu_check"
SHOWN = 110  # characters of a line's note
WRITE_EVERY = 5.0  # seconds


class Journal:
    """Writes down each record as it comes: a line to the terminal and to a text file, all to JSON and Markdown.

    Parameters
    ----------
    folder : Path
    say : file
    """

    def __init__(self, folder: Path, say: TextIO):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.screen = folder, say
        self.records: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.text = (folder / f"{NAME}.txt").open("w", encoding="utf-8")
        self.begun = datetime.datetime.now(datetime.UTC)
        self._written = 0.0

    def say(self, line: str) -> None:
        for file in (self.screen, self.text):
            print(line, file=file, flush=True)

    def note(self, line: str) -> None:
        """A line that is kept in the JSON file, too."""
        self.notes.append(line)
        self.say(line)

    def add(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        note = record["note"] if record["status"] != "late" else ""
        if record["status"] != "late":
            self.say(f"{record['status']:<6} {record['seconds']:6.1f} s  {record['step']}: {record['name']}"
                     f"{'  ' + note if note else ''}")  # fmt: skip
        if record["status"] in BAD and record.get("trace"):
            print(record["trace"], file=self.text, flush=True)
        now = datetime.datetime.now(datetime.UTC).timestamp()
        if now - self._written > WRITE_EVERY:
            self.write()
            self._written = now

    def write(self) -> None:
        """Both files anew."""
        found = {
            "begun": self.begun.isoformat(timespec="seconds"), "notes": self.notes,
            "figures": [figure._asdict() for figure in figures(self.records)], "records": self.records,
        }  # fmt: skip
        for name, content in ((f"{NAME}.json", json.dumps(found, indent=0, default=str)),
                              (f"{NAME}.md", markdown(self.records, self.begun))):  # fmt: skip
            path = self.folder / name
            part = path.with_suffix(path.suffix + ".part")
            part.write_text(content, encoding="utf-8")
            os.replace(part, path)

    @property
    def bad(self) -> int:
        return sum(record["status"] in BAD for record in self.records)


def summary(records: Sequence[dict[str, Any]]) -> str:
    """What matters most, last."""
    lines = []
    slow = [record for record in records if record["step"] == "tiles" and record["data"].get("regret", 0) > 1.05]
    if slow:
        lines += ["", "Products whose chosen tile is not the best:"]
        lines += [f"  {r['name']}: {r['note']}" for r in sorted(slow, key=lambda r: -r["data"]["regret"])[:15]]
    for table in (_gemm_lines(records), _ladder_lines(records), _layer_lines(records), _network_lines(records)):
        lines += ["", *table] if table else []
    bad = [record for record in records if record["status"] in BAD]
    if bad:
        lines += ["", f"{len(bad)} cases went wrong:"]
        lines += [f"  {r['status']} {r['step']}: {r['name']}: {r['note'][: SHOWN * 3]}" for r in bad[:40]]
    counts = Counter(record["status"] for record in records)
    lines += ["", ", ".join(f"{count} {status}" for status, count in counts.items()), "", *_figure_lines(records)]
    return "\n".join(lines)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        first, *others = zip(row, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])

    return [line(row) for row in rows]


def _figure_lines(records: Sequence[dict[str, Any]]) -> list[str]:
    rows = [[figure.what, figure.wanted, figure.found, verdict(figure)] for figure in figures(records)]
    return _columns([["figure", "wanted", "found", ""], *rows])


def verdict(figure: Figure) -> str:
    return {True: "reached", False: "MISSED", None: "not measured"}[figure.reached]


def gemm_rows(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    """m x k x n, then median TFLOP/s of each contender and quotients, with errors."""
    rows = []
    for record in records:
        times = record["data"].get("times") if record["step"] == "gemm" else None
        if not times:
            continue
        rate = {name: found["tflops"] for name, found in times.items()}
        errors, base = record["data"].get("errors", {}), rate.get("cuBLAS float32")
        row = [record["name"]]
        row += [f"{rate[name]:.1f}" if name in rate else "-"
                for name in ("cuBLAS float32", "ours float32", "ours high", "cuBLAS TF32", "ours medium")]  # fmt: skip
        row += [f"{rate[name] / base:.2f}" if base and name in rate else "-" for name in ("ours float32", "ours high")]
        tf32 = rate.get("cuBLAS TF32")
        row.append(f"{rate['ours medium'] / tf32:.2f}" if tf32 and "ours medium" in rate else "-")
        row.append(f"{errors['ours high']:.0e}" if "ours high" in errors else "-")
        rows.append(row)
    return rows


GEMM_HEAD = ["TFLOP/s, m x k x n", "cuBLAS", "float32", "high", "cuBLAS TF32", "medium", "float32 / cuBLAS",
             "high / cuBLAS", "medium / TF32", "error of high"]  # fmt: skip


def _gemm_lines(records: Sequence[dict[str, Any]]) -> list[str]:
    rows = gemm_rows(records)
    return _columns([GEMM_HEAD, *rows]) if rows else []


LADDER_HEAD = ["GFLOP/s, step of the ladder", "found", "of production"]


def ladder_rows(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    rates: dict[str, float] = next(
        (r["data"]["gflops"] for r in records if r["step"] == "ladder" and "gflops" in r["data"]), {}
    )
    return [[name, f"{rate:,.0f}", f"{rate / rates['production']:.3f}"] for name, rate in rates.items()]


def _ladder_lines(records: Sequence[dict[str, Any]]) -> list[str]:
    rows = ladder_rows(records)
    return _columns([LADDER_HEAD, *rows]) if rows else []


LAYER_HEAD = ["us, layer", "x", "cuDNN", "ours", "of cuDNN's speed", "who", "auto", "auto's"]


def layer_rows(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    return [[one.name, str(one.count), f"{one.cudnn * 1e6:.0f}" if one.cudnn else "-", f"{one.best * 1e6:.0f}",
             f"{one.cudnn / one.best:.2f}" if one.cudnn else "-", one.who, f"{one.auto * 1e6:.0f}", one.auto_who]
            for one in layers(records)]  # fmt: skip


def _layer_lines(records: Sequence[dict[str, Any]]) -> list[str]:
    rows = layer_rows(records)
    return _columns([LAYER_HEAD, *rows]) if rows else []


NETWORK_HEAD = ["network, 32 images", "layers", "cuDNN, ms", "best lowerings, ms", "auto, ms", "best of cuDNN's speed",
                "auto of cuDNN's speed", "layers ahead"]  # fmt: skip


def network_rows(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for name, total in networks(records).items():
        theirs = total.cudnn
        rows.append([
            name, str(total.layers), f"{theirs * 1e3:.2f}" if theirs else "-", f"{total.best * 1e3:.2f}",
            f"{total.auto * 1e3:.2f}", f"{theirs / total.best:.2f}" if theirs else "-",
            f"{theirs / total.auto:.2f}" if theirs else "-", f"{total.ahead} of {total.distinct}" if theirs else "-",
        ])  # fmt: skip
    return rows


def _network_lines(records: Sequence[dict[str, Any]]) -> list[str]:
    rows = network_rows(records)
    return _columns([NETWORK_HEAD, *rows]) if rows else []


def memory_rows(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Layer; time and lowered bytes of the lowerings that the papers compare."""
    rows = []
    for one in layers(records):
        cells = []
        for spec in MEMORY_SPECS:
            spent, ran = one.times.get(f"{spec} nchw"), one.ran.get("nchw", {}).get(spec)
            cells.append(f"{spent * 1e6:,.0f} us, {ran['lowering_bytes'] >> 10:,} KiB" if spent and ran else "-")
        if cells[0] != "-" and cells[1] != "-":
            rows.append([one.name, *cells])
    return rows


MEMORY_SPECS = ("im2col", "kn2row-aa", "mec", "implicit-gemm")


def markdown(records: Sequence[dict[str, Any]], begun: datetime.datetime) -> str:
    """The tables for a README, with machine and date."""
    machine = next((r["note"] for r in records if r["name"] == "versions"), "no device")
    parts = [f"{machine}; {begun.date().isoformat()}.", _table(["figure", "wanted", "found", ""],
             [[f.what, f.wanted, f.found, verdict(f)] for f in figures(records)])]  # fmt: skip
    for title, head, rows in (
        ("Products: median TFLOP/s, contenders in turns in one run.", GEMM_HEAD, gemm_rows(records)),
        ("The ladder: median GFLOP/s at 4096 x 4096 x 4096, in turns in one run.", LADDER_HEAD, ladder_rows(records)),
        ("Networks: sums of median times.", NETWORK_HEAD, network_rows(records)),
        ("Layers: median microseconds, both memory orders, the better one of each.", LAYER_HEAD, layer_rows(records)),
        ("Time and lowered data, NCHW.", ["layer", *MEMORY_SPECS], memory_rows(records)),
    ):
        if rows:
            parts += [title, _table(head, rows)]
    told = [r for r in records if (r["step"], r["name"]) in {("calls", "overhead"), ("calls", "memory"),
                                                             ("device", "ceilings")}]  # fmt: skip
    parts += [f"{r['name'].capitalize()}: {r['note']}." for r in told if r["status"] == "ok"]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
