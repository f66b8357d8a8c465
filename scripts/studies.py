"""Repeat the papers' claims on our code, and keep the README's tables of them.

    python scripts/studies.py --write README.md
    python scripts/studies.py --study cct --num-threads 2 --seconds 10 --json results.json
    python scripts/studies.py --check README.md

Every result is checked before anything is timed; all lowerings and thread counts of a row take turns in bursts, on
random normal data, with weights prepared beforehand. Tables show the best call; the JSON file has the median too.

Ends with 1 if a result was wrong, or a README says something else than --check finds, timings apart.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from numbaconv.bench import report, studies
from numbaconv.bench.studies import Group, Measured
from numbaconv.bench.studies_page import block, differences, replaced
from numbaconv.bench.studies_tables import tables
from numbaconv.errors import NumbaconvError
from numbaconv.machine import detect


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    chosen = {name: studies.STUDIES[name]() for name in options.study}
    try:
        return check(options, chosen) if options.check else run(options, chosen)
    except (NumbaconvError, OSError, ValueError) as error:
        print(f"studies: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(studies.STUDIES)
    top.add_argument("--study", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}")
    top.add_argument("--num-threads", type=positive, nargs="+", default=[1, 2], metavar="T", help="default: 1 2")
    top.add_argument(
        "--seconds", type=float, default=4.0, help="time for a row (default 4); slow rows have three calls each"
    )
    top.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    action = top.add_mutually_exclusive_group()
    action.add_argument(
        "--write", type=Path, metavar="README", help="replace what is between <!-- study:NAME --> marks"
    )
    action.add_argument("--check", type=Path, metavar="README", help="measure nothing, compare all but the timings")
    return top


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {text}")
    return number


def check(options: argparse.Namespace, chosen: dict[str, list[Group]]) -> int:
    """Compare a README with the tables as they are without timings."""
    text = options.check.read_text(encoding="utf-8")
    wrong = [
        difference
        for name, groups in chosen.items()
        for difference in differences(text, name, tables(name, groups, options.num_threads))
    ]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    print(f"{options.check}: {len(wrong)} differences in the tables of {', '.join(chosen)}")
    return int(bool(wrong))


def run(options: argparse.Namespace, chosen: dict[str, list[Group]]) -> int:
    """Measure, print the tables, and write them where they are wanted."""
    if options.write:
        for name in chosen:
            block(options.write.read_text(encoding="utf-8"), name)  # missing marks are told before minutes of measuring
    machine = detect()
    found: dict[str, dict[tuple[str, str], Measured]] = {}
    for name, groups in chosen.items():
        found[name] = {}
        for group in groups:
            for row in studies.measure(group, options.num_threads, options.seconds):
                found[name][group.name, row.layer.label] = row
                progress(name, group, row, options.num_threads)
        about = (
            f"with `python scripts/studies.py --study {name} --num-threads {' '.join(map(str, options.num_threads))} "
            f"--seconds {options.seconds:g}` on {machine.cpu_name} ({machine.llvm_name}, {machine.cores} cores), "
            f"{time.strftime('%Y-%m-%d')}."
        )
        content = tables(name, groups, options.num_threads, found[name], about)
        print(f"\n{content}\n", flush=True)
        if options.write:
            text = options.write.read_text(encoding="utf-8")
            options.write.write_text(replaced(text, name, content), encoding="utf-8")
    if options.json:
        written = {**report.environment([]), "seconds": options.seconds, "rows": studies.as_json(found)}
        options.json.write_text(json.dumps(written, indent=1), encoding="utf-8")
    return int(any(row.wrong for rows in found.values() for row in rows.values()))


def progress(study: str, group: Group, row: Measured, num_threads: Sequence[int]) -> None:
    """A row's GFLOP/s, as they are measured, for who waits."""
    cells = [f"{spec} {'/'.join(f'{row.gflops(spec, t):.0f}' for t in num_threads)}" for spec in group.specs]
    print(f"{study} {group.name} {row.layer.label}: {', '.join(cells)}", file=sys.stderr, flush=True)
    for (spec, threads), reason in row.wrong.items():
        print(f"    WRONG: {spec}, {report.threads(threads)}: {reason}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
