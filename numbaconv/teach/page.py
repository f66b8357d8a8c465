"""``numbaconv teach``: measures what the page shows, and writes it as one file that asks nothing of any network."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from numbaconv.bench.report import environment
from numbaconv.errors import NumbaconvError
from numbaconv.machine import default_threads
from numbaconv.teach.document import build
from numbaconv.teach.photo import photograph

__all__ = ["SECTIONS", "PageError", "gather", "read", "save", "write"]

SECTIONS = ("ladder", "accesses", "sweep", "roofline", "device", "convolution")
"""Modules of this folder with ``units(quick)``, how often they will tick, and ``measure(quick, tick)``."""

FORMAT = 1
"""Of the JSON file; a page is built from files of this one only."""

Tick = Callable[[str], None]
"""Called once a step, with what was done."""

Progress = Callable[[str, int], AbstractContextManager[Tick]]
"""A progress bar with a title and so many steps."""


class PageError(NumbaconvError, ValueError):
    """A file that cannot be written, or is not what a page is built from."""


@contextlib.contextmanager
def silent(title: str, total: int) -> Iterator[Tick]:
    """No progress bar."""
    yield lambda text: None


def write(
    out: str | os.PathLike[str],
    quick: bool = False,
    progress: Progress = silent,
    json_file: str | os.PathLike[str] | None = None,
    versions: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure, and write the page.

    Parameters
    ----------
    out : path
        The page.
    quick : bool
        Smaller sizes and shorter samples: under three minutes instead of fifteen.
    progress : callable
    json_file : path, optional
        Where to keep what was measured; ``read`` takes it again.
    versions : sequence of str
        Of what measured, for the page's foot.

    Returns
    -------
    dict
        What was measured.
    """
    photograph()  # without the library that reads it there would be no page at the end either
    document = gather(quick, progress, versions)
    if json_file is not None:
        save(json_file, json.dumps(document, indent=1, allow_nan=False) + "\n")
    save(out, build(document))
    return document


# ------------------------------------------------------------------------------------------------------ measuring


def gather(quick: bool = False, progress: Progress = silent, versions: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that the page shows, measured on this machine, as plain data.

    A section that cannot be measured here (its extra is not installed, its device is missing) says why instead.
    """
    start = datetime.now(UTC)
    modules = {name: _module(name) for name in SECTIONS}
    total = sum(module.units(quick) for module in modules.values() if isinstance(module, ModuleType))
    found: dict[str, Any] = {}
    with progress("measuring", total) as tick:
        for name, module in modules.items():
            found[name] = _measured(module, quick, tick) if isinstance(module, ModuleType) else {"reason": module}
    about = {
        **environment(versions), "threads": default_threads(), "date": start.isoformat(timespec="seconds"),
        "seconds": (datetime.now(UTC) - start).total_seconds(), "quick": quick,
    }  # fmt: skip
    return plain({"format": FORMAT, "about": about, "sections": found})


def _module(name: str) -> ModuleType | str:
    """The section's module, or why there is none."""
    try:
        return importlib.import_module(f"numbaconv.teach.{name}")
    except ImportError as error:
        return str(error)


def _measured(module: ModuleType, quick: bool, tick: Tick) -> Any:
    try:
        return module.measure(quick, tick)
    except (NumbaconvError, ImportError) as error:
        return {"reason": str(error)}


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NumPy's numbers become Python's, what is no number becomes None."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------------------------------------------------- files


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``write`` kept in its `json_file`.

    Raises
    ------
    PageError
        When it is no such file.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise PageError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT or "sections" not in document:
        raise PageError(f"{path} was not written by `numbaconv teach --json` of this version (format {FORMAT})")
    return document


def save(path: str | os.PathLike[str], text: str) -> None:
    """Write a file whole or not at all: whoever has the old one open keeps a page that works.

    Raises
    ------
    PageError
        When it cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            part.write_text(text, encoding="utf-8", newline="\n")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise PageError(f"cannot write {path}: {error.strerror}") from error
