"""``numbaconv info``, ``list`` and ``explain``: what there is, and what it would do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from numbaconv import ConvProblem, UnknownLowering, list_lowerings, show_config
from numbaconv import explain as explain_problem
from numbaconv.bench.place import place_of
from numbaconv.commands.output import EMULATED, device_json, progress, show_table, write_json
from numbaconv.commands.parameters import DESCRIPTOR, DEVICE, device_option, json_option, threads_option
from numbaconv.probes import Ceilings, copy_bandwidth, fma_peak, measure, read_bandwidth
from numbaconv.registry import broken, lowerings
from numbaconv.request import ACCURACIES, PRECISIONS

__all__ = ["explain", "info", "list_"]


@click.command()
@click.option("--refresh", is_flag=True, help="Measure the ceilings again, even if the disk knows them.")
@threads_option
@json_option
def info(refresh: bool, num_threads: int, json_file: Path | None) -> None:
    """Versions, machine, cache, and the machine's measured ceilings (for one thread and for all)."""
    show_config()
    counts = sorted({1, num_threads})
    probes: list[Callable[[int], object]] = [
        lambda threads: fma_peak("float32", threads, refresh=refresh),
        lambda threads: fma_peak("float64", threads, refresh=refresh),
        lambda threads: read_bandwidth(threads, refresh=refresh),
        lambda threads: copy_bandwidth(threads, refresh=refresh),
    ]
    with progress("measuring ceilings", len(counts) * len(probes)) as tick:
        for threads in counts:
            for probe in probes:
                probe(threads)
                tick()
    found: list[Ceilings] = [measure(threads) for threads in counts]
    click.echo()
    show_table(
        ["threads", "float32 GFLOP/s", "float64 GFLOP/s", "read GB/s", "copy GB/s"],
        [[str(c.num_threads), *(f"{speed:.1f}" for speed in (c.float32, c.float64, c.read, c.copy))] for c in found],
        text=0,
    )
    click.echo("\nMultiply-adds in registers; a parallel sum; a parallel copy (bytes read and written).")
    write_json(json_file, num_threads, [asdict(ceilings) for ceilings in found])


@click.command(name="list")
@click.argument("pattern", default="*")
@click.option("--device", type=DEVICE, metavar="D", help="Only those that run there: cpu, cuda, cuda:1, ...")
@json_option
def list_(pattern: str, device: str | None, json_file: Path | None) -> None:
    """The lowerings whose names match PATTERN, such as 'im2*'."""
    found = lowerings(pattern, device)
    if not found:
        raise UnknownLowering(pattern, list_lowerings(device=device))
    rows = [
        {"name": cls.name, "family": cls.family, "devices": list(cls.devices), "paper": cls.paper,
         "parameters": {name: [_option(value) for value in allowed] for name, allowed in cls.parameters.items()}}
        for cls in found
    ]  # fmt: skip
    cells = [
        [cls.name, cls.family, ", ".join(cls.devices),
         " ".join(f"{name}={'|'.join(map(_option, allowed))}" for name, allowed in cls.parameters.items()), cls.paper]
        for cls in found
    ]  # fmt: skip
    show_table(["name", "family", "devices", "parameters (default first)", "paper"], cells, text=5)
    for name, reason in broken.items():
        click.echo(f"plug-in {name} is broken: {reason}", err=True)
    write_json(json_file, None, rows)


def _option(value: object) -> str:
    """A value that a parameter takes, as text."""
    return "<int>" if value is int else str(value)


@click.command()
@click.argument("problem", metavar="DESCRIPTOR", type=DESCRIPTOR)
@device_option
@threads_option
@click.option("--precision", type=click.Choice(PRECISIONS), default="highest", show_default=True)
@click.option("--accuracy", type=click.Choice(ACCURACIES), default="float32", show_default=True)
@click.option("--max-workspace", type=click.IntRange(min=0), metavar="BYTES", help="Scratch that `auto` may use.")
@json_option
def explain(
    problem: ConvProblem,
    device: str,
    num_threads: int,
    precision: str,
    accuracy: str,
    max_workspace: int | None,
    json_file: Path | None,
) -> None:
    """What every lowering would do with a convolution: runs or is refused, bytes, products, predicted time."""
    place = place_of(device)
    found = explain_problem(
        problem, device=device, num_threads=num_threads, precision=precision, accuracy=accuracy,
        max_workspace=max_workspace,
    )  # fmt: skip
    click.echo(str(found))
    if place.emulated:
        click.echo(EMULATED)
    rows = []
    for row in found.rows:
        kept = asdict(row)
        kept["seconds"] = row.seconds if row.runs else None
        kept["gemm_calls"] = [{"m": c.m, "n": c.n, "k": c.k, "count": c.count * c.batch} for c in row.gemm_calls]
        rows.append(kept)
    write_json(json_file, num_threads, rows, problem=str(problem), chosen=found.chosen, notes=list(found.notes),
               device=device_json(place))  # fmt: skip
