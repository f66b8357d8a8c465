"""What commands print: tables, progress bars, bytes; and the JSON file."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import click
import llvmlite
import numba
import numpy as np

import numbaconv
from numbaconv.bench.place import OnDevice, Place
from numbaconv.bench.report import environment

__all__ = [
    "BATCHES",
    "EMULATED",
    "device_json",
    "milliseconds",
    "percent",
    "place_text",
    "progress",
    "show_table",
    "size",
    "threads_text",
    "versions",
    "write_json",
]

BATCHES = (
    "A device's time is that of a batch of calls between two events: weights may stay in its caches, and where\n"
    "the host queues calls more slowly than the device computes them, that is what is seen."
)
EMULATED = "emulated: times say nothing about a GPU"

REFRESH_SECONDS = 0.1

Row = Sequence[str]


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds, with a microsecond's digits."""
    return f"{seconds * 1e3:.3f}"


def size(count: int) -> str:
    """Bytes, in the largest unit of which there is one."""
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def threads_text(count: int) -> str:
    """ "1 thread", "2 threads"."""
    return f"{count} thread{'s' * (count > 1)}"


def place_text(place: Place, num_threads: int) -> str:
    """Who computed: "2 threads", or "cuda:0 (NVIDIA H200)"."""
    if isinstance(place, OnDevice):
        return f"{place.runtime.device} ({place.runtime.name})"
    return threads_text(num_threads)


def device_json(place: Place) -> dict[str, Any]:
    """The device in the JSON file."""
    if not isinstance(place, OnDevice):
        return {"device": "cpu"}
    device = place.runtime
    return {
        "device": device.device, "name": device.name, "cc": list(device.cc), "multiprocessors": device.multiprocessors,
        "emulated": device.emulated,
    }  # fmt: skip


def percent(gflops: float, peak: float | None) -> list[str]:
    """The cell of a speed's share of the peak; no cell where the peak is not known."""
    return [] if peak is None else [f"{gflops / peak:.1%}"]


# ------------------------------------------------------------------------------------------------------- tables


def show_table(titles: Row, rows: Sequence[Row], totals: Sequence[Row] = (), text: int = 1) -> None:
    """Print a table: a framed one where a terminal is wide enough for it, plain text elsewhere.

    Parameters
    ----------
    titles : sequence of str
    rows, totals : sequence of sequence of str
        The totals stand below a line.
    text : int
        How many columns from the left are words; the others are numbers, set to the right.
    """
    if not sys.stdout.isatty() or not _show_framed(titles, rows, totals, text):
        click.echo("\n".join(_plain(titles, rows, totals, text)))


def _plain(titles: Row, rows: Sequence[Row], totals: Sequence[Row], text: int) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(titles, *rows, *totals, strict=True)]

    def line(cells: Row) -> str:
        padded = [f"{cell:{'<' if i < text else '>'}{widths[i]}}" for i, cell in enumerate(cells)]
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    yield from (line(titles), rule, *map(line, rows))
    if totals:
        yield from (rule, *map(line, totals))


def _show_framed(titles: Row, rows: Sequence[Row], totals: Sequence[Row], text: int) -> bool:
    """Whether it was printed; a table that would have to be folded is not."""
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(box=box.SIMPLE_HEAD)
    for number, title in enumerate(titles):
        table.add_column(title, justify="left" if number < text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    if totals:
        table.add_section()
        for row in totals:
            table.add_row(*map(Text, row), style="bold")
    unlimited = console.options.update(max_width=10_000)
    if Measurement.get(console, unlimited, table).maximum > console.width:
        return False
    console.print(table)
    return True


# ----------------------------------------------------------------------------------------------------- progress


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, where that is a terminal; the block calls what it gets once a step.

    It is drawn only then, never by a thread of its own: that would disturb what is being timed.
    """
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), auto_refresh=False, transient=True) as bar:
        task = bar.add_task(title, total=total)
        bar.refresh()
        drawn = monotonic()

        def step() -> None:
            nonlocal drawn
            bar.advance(task)
            if monotonic() - drawn >= REFRESH_SECONDS:
                bar.refresh()
                drawn = monotonic()

        yield step


# --------------------------------------------------------------------------------------------------------- JSON


def versions() -> list[str]:
    """What computes, each with its version."""
    return [
        f"numbaconv {numbaconv.__version__}", f"numba {numba.__version__}", f"llvmlite {llvmlite.__version__}",
        f"numpy {np.__version__}", f"python {platform.python_version()}",
    ]  # fmt: skip


def write_json(path: Path | None, threads: int | None, rows: Sequence[dict[str, Any]], **more: Any) -> None:
    """Write rows and the context they were measured in, if there is a `path`.

    Parameters
    ----------
    path : Path or None
    threads : int or None
        None where nothing was run.
    rows : sequence of dict
    **more
        Further sections.
    """
    if path is None:
        return
    date = datetime.now(UTC).isoformat(timespec="seconds")
    document = {"context": {**environment(versions()), "threads": threads, "date": date}, "rows": list(rows), **more}
    try:
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from error
    click.echo(f"\nwritten: {path}")
