"""``numbaconv compare``: every lowering at one convolution, or at those of a network."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from numbaconv.bench.compare import SLOW, bytes_needed, specs_of, steps
from numbaconv.bench.compare import compare as compare_lowerings
from numbaconv.bench.comparison import Comparison, Measurement, Total, distinct_convolutions, totals
from numbaconv.bench.place import place_of
from numbaconv.bench.plot_compare import Point, compare_plot
from numbaconv.commands import output
from numbaconv.commands.output import milliseconds, show_table, size
from numbaconv.commands.parameters import (
    NETWORK,
    NETWORK_NAMES,
    PICTURE,
    Parsed,
    device_option,
    fits_memory,
    json_option,
    threads_option,
)
from numbaconv.errors import ShapeError, UnsupportedProblem
from numbaconv.lowering import STAGES
from numbaconv.networks import UnknownNetwork
from numbaconv.problem import ConvProblem

__all__ = ["compare"]

PLAIN_COLUMNS = 120
MARKS = f"* the fastest; ~ one run alone, {SLOW:g} times the fastest's or more"


def _subject(text: str) -> ConvProblem | str:
    """A problem, or the name of a network."""
    try:
        return NETWORK.parse(text)
    except UnknownNetwork as unknown:
        try:
            return ConvProblem.parse(text)
        except ShapeError as error:
            raise ShapeError(f"{unknown}; and as a convolution: {error}") from None


def _pattern(text: str) -> str:
    specs_of([text])
    return text


@click.command(epilog=f"Networks: {NETWORK_NAMES}.")
@click.argument("subject", metavar="DESCRIPTOR|NETWORK", type=Parsed("descriptor", _subject))
@click.option("--mb", type=click.IntRange(min=1), help="Images; 1, or as the descriptor says.")
@device_option
@threads_option
@click.option(
    "--algorithm", "patterns", multiple=True, type=Parsed("pattern", _pattern), metavar="A",
    help="Only lowerings that match, such as 'kn2*' or im2col:batching=whole; may be given several times.",
)  # fmt: skip
@click.option("--max-workspace", type=click.IntRange(min=0), metavar="BYTES", help="Scratch that each may use.")
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), metavar="S", default=4.0, show_default=True,
    help="For the timing of each convolution.",
)  # fmt: skip
@click.option("--plot", type=PICTURE, metavar="FILE", help="Draw time against workspace (.png, .svg, .pdf).")
@json_option
def compare(
    subject: ConvProblem | str,
    mb: int | None,
    device: str,
    num_threads: int,
    patterns: tuple[str, ...],
    max_workspace: int | None,
    seconds: float,
    plot: Path | None,
    json_file: Path | None,
) -> None:
    """Check every lowering at a convolution, or at every distinct one of a network, then time them in turns.

    Each result is compared with float64 sums; one that is wrong is not timed, and the exit code is 1. `reference` is
    left out unless it is asked for by name. Times are of runs without a bias; GFLOP/s count the direct computation. On
    a device, everything lies there beforehand, and PyTorch is timed with the lowerings where it can be used.
    """
    place = place_of(device)
    specs = specs_of(patterns)
    network = subject if isinstance(subject, str) else None
    if isinstance(subject, str):
        problems = distinct_convolutions(subject, mb or 1)
        title = f"{subject}, mb {mb or 1}, {output.place_text(place, num_threads)}"
    else:
        problem = subject if mb is None else replace(subject, mb=mb)
        if not problem.macs:
            raise click.UsageError(f"{problem} has no multiply-adds: nothing to compare")
        problems = {problem: ()}
        title = f"{problem}, {output.place_text(place, num_threads)}"
    fits_memory(max(bytes_needed(p, len(specs)) for p in problems), "choose fewer images or a smaller problem")
    found = []
    with output.progress("comparing", len(problems) if network else steps(len(specs))) as tick:
        for problem, layers in problems.items():
            inner = (lambda: None) if network else tick
            found.append(compare_lowerings(problem, specs, num_threads, max_workspace, seconds, inner, layers, device))
            if network:
                tick()
    if not any(one.timed or one.wrong for one in found):
        raise UnsupportedProblem(found[0].refused)
    sums = totals(found)
    if place.emulated:
        click.echo(output.EMULATED)
    (_show_network if network else _show_problem)(title, found, sums)
    if place.queues:
        click.echo(output.BATCHES)
    _show_reasons(found)
    if plot:
        _draw(plot, title, found, sums)
    output.write_json(
        json_file, None if place.queues else num_threads, [_row_json(one, row) for one in found for row in one.timed],
        problems=[_problem_json(one) for one in found],
        totals={spec: {"layers": total.layers, "median_ms": total.seconds * 1e3,
                       "workspace_bytes": total.workspace_bytes} for spec, total in sums.items()},
        run={"network": network, "lowerings": specs, "seconds": seconds, "max_workspace": max_workspace},
        device=output.device_json(place),
    )  # fmt: skip
    wrong = sorted({spec for one in found for spec in one.wrong})
    if wrong:
        raise click.ClickException(f"wrong results, not timed: {', '.join(wrong)}")


# ------------------------------------------------------------------------------------------------------------ tables


def _show_problem(title: str, found: Sequence[Comparison], sums: Mapping[str, Total]) -> None:
    (one,) = found
    click.echo(f"{title}, {one.problem.macs / 1e6:.1f} M multiply-adds; auto takes {one.auto or 'none'}\n")
    cells = [
        [
            row.spec, milliseconds(row.min), milliseconds(row.median) + ("~" if row.alone else ""),
            *("-" if row.peer else milliseconds(row.stages[stage]) for stage in STAGES),
            f"{one.problem.flops / row.median / 1e9:.1f}",
            *("-" if row.peer else size(n) for n in (row.lowering_bytes, row.panel_bytes, row.taken_bytes)),
            f"{row.error:.1e}",
        ]
        for row in one.timed
    ]  # fmt: skip
    cells += [[spec, "WRONG", *9 * ["-"]] for spec in one.wrong]
    stages = [f"{stage} ms" for stage in STAGES]
    show_table(
        ["lowering", "best ms", "median ms", *stages, "GFLOP/s", "lowered", "panels", "taken", "error"], cells
    )  # fmt: skip
    click.echo(
        "\nGFLOP/s: by the median. Lowered and panels: as declared; taken: what a run took of its arena.\n"
        "Error: the worst element's, over the result's root mean square."
    )
    if any(row.alone for row in one.timed):
        click.echo(f"~ one run alone, {SLOW:g} times the fastest's or more")
    for row in one.timed:
        if row.taken_bytes != row.workspace_bytes:
            click.echo(f"{row.spec} took {row.taken_bytes:,} of the {row.workspace_bytes:,} bytes it declares")


def _show_network(title: str, found: Sequence[Comparison], sums: Mapping[str, Total]) -> None:
    """Tables of as many lowerings side by side as there is room for."""
    click.echo(f"{title}: median ms of every distinct convolution\n")
    count = sum(one.count for one in found)
    columns = {spec: _column(spec, found, total, count) for spec, total in sums.items()}
    columns |= {spec: _column(spec, found, None, count) for one in found for spec in one.wrong if spec not in sums}
    best = [one.best.median if one.best else 0.0 for one in found]
    total_best = sum(one.count * seconds for one, seconds in zip(found, best, strict=True))
    first = [
        ["layer", *(one.layers[0] for one in found), f"all {count} layers", "layers run"],
        ["times", *(str(one.count) for one in found), "", ""],
        ["best ms", *map(milliseconds, best), milliseconds(total_best), ""],
    ]
    for block in _blocks(first, list(columns.items())):
        sides = [*first, *([spec, *cells] for spec, cells in block)]
        titles, *rows = map(list, zip(*sides, strict=True))
        show_table(titles, rows[:-2], rows[-2:])
        click.echo()
    click.echo(f"Each row's time is of one layer; totals count them all. {MARKS}.")
    if peers := _peers(found):
        click.echo(f"Best: of the lowerings, not of {', '.join(sorted(peers))}.")
    chosen = [one.of(one.auto) for one in found]
    if all(chosen) and total_best:
        seconds = sum(one.count * row.median for one, row in zip(found, chosen, strict=True) if row)
        share = seconds / total_best - 1
        click.echo(
            f"The best of each layer: {milliseconds(total_best)} ms. What auto takes: {milliseconds(seconds)} ms "
            f"({share:+.1%})."
        )


def _column(spec: str, found: Sequence[Comparison], total: Total | None, count: int) -> list[str]:
    """A lowering's cells: a time a layer, the sum where it runs them all, how many it runs."""
    cells = []
    for one in found:
        row = one.of(spec)
        mark = "" if row is None else "*" if row is one.timed[0] else "~" if row.alone else " "
        cells.append("WRONG" if spec in one.wrong else "-" if row is None else milliseconds(row.median) + mark)
    complete = total is not None and total.layers == count
    return [
        *cells,
        milliseconds(total.seconds) + " " if total is not None and complete else "-",
        f"{total.layers if total else 0}",
    ]


Column = tuple[str, list[str]]


def _blocks(first: Sequence[Sequence[str]], columns: Sequence[Column]) -> Iterator[list[Column]]:
    """The columns that stand beside the `first` ones in one table; at least one."""

    def width(cells: Iterable[str]) -> int:
        return max(map(len, cells)) + 4  # a framed table's distance

    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_COLUMNS
    room -= sum(map(width, first))
    block: list[Column] = []
    left = room
    for spec, cells in columns:
        needed = width([spec, *cells])
        if block and needed > left:
            yield block
            block, left = [], room
        block.append((spec, cells))
        left -= needed
    yield block


def _show_reasons(found: Sequence[Comparison]) -> None:
    """Whose results are wrong, and who refuses; a reason that several layers share once."""
    for title, answers in (
        ("WRONG, and not timed", [(one, one.wrong) for one in found]),
        ("refused", [(one, one.refused) for one in found]),
    ):
        where: dict[tuple[str, str], list[str]] = {}
        for one, reasons in answers:
            for pair in reasons.items():
                where.setdefault(pair, []).extend(one.layers)
        if where:
            click.echo(f"\n{title}")
        for (spec, reason), layers in sorted(where.items()):
            names = f" ({layers[0]})" if len(layers) == 1 else f" ({len(layers)} layers)" if layers else ""
            click.echo(f"  {spec}{names}: {reason}")


# -------------------------------------------------------------------------------------------------- picture and JSON


def _draw(path: Path, title: str, found: Sequence[Comparison], sums: Mapping[str, Total]) -> None:
    count = sum(one.count for one in found)
    drawn = {spec: total for spec, total in sums.items() if total.layers == count and spec not in _peers(found)}
    points = [Point(spec, total.workspace_bytes, total.seconds) for spec, total in drawn.items()]
    if not points:
        click.echo("\nnot drawn: no lowering runs every layer")
        return
    compare_plot(path, title if count == 1 else f"{title}: all {count} convolutions, largest workspace", points)
    click.echo(f"\ndrawn: {path}")


def _peers(found: Sequence[Comparison]) -> set[str]:
    """The other libraries; nothing is known of their memory."""
    return set().union(*(one.peers for one in found))


def _row_json(one: Comparison, row: Measurement) -> dict[str, Any]:
    p = one.problem
    counts = ("lowering_bytes", "panel_bytes", "workspace_bytes", "taken_bytes", "prepared_bytes")
    return {
        "problem": str(p), "layers": list(one.layers), "lowering": row.spec, "flops": p.flops,
        "min_ms": row.min * 1e3, "median_ms": row.median * 1e3, "times_ms": [s * 1e3 for s in row.times],
        "stage_ms": {stage: seconds * 1e3 for stage, seconds in row.stages.items()},
        "gflops": p.flops / row.median / 1e9, "one_run": row.alone, "fastest": row is one.timed[0],
        **{name: None if row.peer else getattr(row, name) for name in counts}, "error": row.error, "peer": row.peer,
    }  # fmt: skip


def _problem_json(one: Comparison) -> dict[str, Any]:
    return {
        "problem": str(one.problem), "layers": list(one.layers), "count": one.count, "macs": one.problem.macs,
        "auto": one.auto, "wrong": one.wrong, "refused": one.refused,
    }  # fmt: skip
