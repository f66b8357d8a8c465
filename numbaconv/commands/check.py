"""``numbaconv check``: the conformance suite, on the CPU or on a GPU."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from numbaconv import UnknownLowering, list_lowerings
from numbaconv.commands.output import progress, show_table, write_json
from numbaconv.commands.parameters import device_option, json_option
from numbaconv.registry import lowerings
from numbaconv.testing import ConformanceError, Report, check_lowering

__all__ = ["check"]


@click.command()
@click.argument("pattern", default="*")
@device_option
@click.option("--quick", is_flag=True, help="A smaller grid of problems.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the numbers and of the random problems.")
@json_option
def check(pattern: str, device: str, quick: bool, seed: int, json_file: Path | None) -> None:
    """Check the lowerings whose names match PATTERN against every rule of their contract.

    Results against float64 sums, memory as declared, nothing read or written outside: see
    numbaconv.testing.check_lowering. Ends with 1 when any lowering breaks a rule.
    """
    found = lowerings(pattern, device)
    if not found:
        raise UnknownLowering(pattern, list_lowerings(device=device))
    rows, failures = [], []
    with progress("checking", len(found)) as tick:
        for cls in found:
            start = time.perf_counter()
            row: dict[str, Any] = {"name": cls.name, "ran": 0, "refused": 0, "error": "", "skipped": ""}
            try:
                report: Report = check_lowering(cls, quick=quick, seed=seed, device=device)
                reasons = Counter(report.refused.values()).most_common(1)
                skipped = "" if report.ran or not reasons else reasons[0][0]
                row |= {"ran": len(report.ran), "refused": len(report.refused), "skipped": skipped}
            except ConformanceError as error:
                row["error"] = str(error)
                failures.append(error)
            rows.append(row | {"seconds": time.perf_counter() - start})
            tick()
    show_table(
        ["lowering", "problems right", "refused", "s", "verdict"],
        [[row["name"], str(row["ran"]), str(row["refused"]), f"{row['seconds']:.1f}", _verdict(row)]
         for row in rows],
        text=1,
    )  # fmt: skip
    for row in rows:
        if row["skipped"]:
            click.echo(f"{row['name']} was not checked, it refuses everything here: {row['skipped']}")
    for failure in failures:
        click.echo(f"\n{failure}", err=True)
    write_json(json_file, None, rows)
    if failures:
        sys.exit(1)


def _verdict(row: dict[str, Any]) -> str:
    return "WRONG" if row["error"] else "skipped" if row["skipped"] else "ok"
