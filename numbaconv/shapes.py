"""Files of descriptors, as benchdnn's shape files are written."""

from __future__ import annotations

import os
import re
from pathlib import Path

from numbaconv.errors import ShapeError
from numbaconv.problem import ConvProblem

__all__ = ["read_shapes"]

# What stands between blanks; a name in quotes may hold some.
WORD = re.compile(r'(?:"[^"]*"|\S)+')
COUNT = re.compile(r'\*([0-9]+)("?)$')


def read_shapes(path: str | os.PathLike[str]) -> list[tuple[ConvProblem, int]]:
    """Read a file of descriptors.

    Descriptors stand between blanks, their names ending in ``*count`` (inside the quotes or behind them) where a layer
    occurs several times; a word beginning with ``#`` starts a comment, words beginning with ``--`` are options and
    skipped.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    list of (ConvProblem, int)
        Problems and how often each occurs.

    Raises
    ------
    ShapeError
        Naming the file, the line and the token.
    """
    found = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        for word in WORD.findall(line):
            if word.startswith("#"):
                break
            if word.startswith("--"):
                continue
            count = COUNT.search(word)
            text = word[: count.start()] + count[2] if count else word
            try:
                found.append((ConvProblem.parse(text), int(count[1]) if count else 1))
            except ShapeError as error:
                raise ShapeError(f"{path}, line {number}: {error}") from None
    return found
