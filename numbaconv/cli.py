"""``numbaconv``, the console script. The commands themselves are in ``numbaconv.commands``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

__all__ = ["main"]

NEEDED = ("click", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        0; 1 when a run failed; 2 for wrong input, or where the libraries of the extra ``cli`` are missing.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"numbaconv: the command line needs {' and '.join(missing)}; pip install 'numbaconv[cli]'", file=sys.stderr
        )
        return 2
    from numbaconv.commands.group import numbaconv

    try:
        return numbaconv.main(args=None if arguments is None else list(arguments), prog_name="numbaconv") or 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
