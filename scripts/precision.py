"""Study the errors of bf16's arithmetics against float64, beside float32 and TF32: a table, and a plot.

    python scripts/precision.py --plot precision.png

Every figure is the same on every machine whose vectors are as wide.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from numbaconv.bench.plot_precision import precision_plot
from numbaconv.bench.precision import DATA, DEPTHS, measure, table


def main(arguments: Sequence[str] | None = None) -> int:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--depths", type=int, nargs="+", default=DEPTHS, metavar="K", help="terms of a sum")
    top.add_argument("--data", nargs="+", choices=DATA, default=list(DATA), metavar="KIND")
    top.add_argument("--plot", type=Path, metavar="FILE", help="draw error against terms (needs matplotlib)")
    options = top.parse_args(arguments)
    rows = []
    for row in measure(options.depths, options.data):
        rows.append(row)
        print(f"{row.data}, {row.k} terms, {row.arithmetic}: {row.norm:.1e}, {row.worst:.1e}", file=sys.stderr)
    print(table(rows))
    if options.plot:
        precision_plot(options.plot, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
