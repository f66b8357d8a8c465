"""A step of a ladder: a file whose docstring says what is new, and one function.

A file ``cpu3_blocked.py`` has

* a docstring: a title in one line, and "Compared with the step before: ... because ...";
* the function, with the signature of its ladder:

  ========  ===============================================  ==========================================
  ladder    signature                                        computes
  ========  ===============================================  ==========================================
  ``cpu``   ``gemm(a, b, out)``                              out[i, j] = sum over p of a[i, p] * b[p, j]
  ``cuda``  ``gemm(a, b, out)``                              the same on a device (or in the emulator)
  ``conv``  ``conv(x, w, stride, padding, out)``             a convolution in NCHW, one stride, one padding
  ========  ===============================================  ==========================================

  which returns `out`. Callers write ``out=`` by name, as for ``numbaconv.gemm``, the last step;
* optionally ``kernel``, the compiled function with the inner loop, where that is not the function itself.

A new step is a new file: pages, tests and sweeps find it by its name.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from numbaconv.errors import NumbaconvError

__all__ = ["LADDERS", "Step", "UnknownStep", "step", "steps"]

LADDERS = {"cpu": "gemm", "cuda": "gemm", "conv": "conv"}
"""The ladders, and what the function of each of their steps is called."""


class UnknownStep(NumbaconvError, LookupError):
    """There is no such ladder, or no such step on it."""

    def __init__(self, kind: str, name: str, known: list[str]):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        super().__init__(f"there is no {kind} {name!r}{hint} There are: {', '.join(known)}")


@dataclass(frozen=True)
class Step:
    """One step of a ladder.

    Parameters
    ----------
    ladder : {"cpu", "cuda", "conv"}
    number : int
        Its place, from 1.
    name : str
        What it adds, as in the file's name: "blocked".
    module : module
    """

    ladder: str
    number: int
    name: str
    module: ModuleType

    @property
    def title(self) -> str:
        """The first line of the file's docstring, without the full stop."""
        return self._docstring.partition("\n")[0].rstrip(".")

    @property
    def idea(self) -> str:
        """The rest of it: what is new compared with the step before, and why that is faster."""
        return self._docstring.partition("\n")[2].strip()

    @property
    def _docstring(self) -> str:
        return inspect.getdoc(self.module) or ""

    @property
    def function(self) -> Callable[..., Any]:
        """``gemm(a, b, out)`` or ``conv(x, w, stride, padding, out)``."""
        return getattr(self.module, LADDERS[self.ladder])

    @property
    def kernel(self) -> Any:
        """The compiled function that has the inner loop."""
        return getattr(self.module, "kernel", self.function)

    @property
    def source(self) -> str:
        """The file's code, without its docstring."""
        text = inspect.getsource(self.module)
        first = ast.parse(text).body[0]
        return "\n".join(text.splitlines()[first.end_lineno :]).strip("\n") + "\n"

    def __repr__(self) -> str:
        return f"<step {self.ladder} {self.number}: {self.name}>"


@functools.cache
def steps(ladder: str = "cpu") -> tuple[Step, ...]:
    """The steps of a ladder, the naive one first, the production kernel last.

    Parameters
    ----------
    ladder : {"cpu", "cuda", "conv"}

    Raises
    ------
    UnknownStep
        When there is no such ladder.
    """
    if ladder not in LADDERS:
        raise UnknownStep("ladder", ladder, list(LADDERS))
    found = []
    for entry in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if named := re.fullmatch(rf"{ladder}(\d+)_(\w+)", entry.name):
            module = importlib.import_module(f"numbaconv.ladder.{entry.name}")
            found.append(Step(ladder, int(named[1]), named[2].replace("_", "-"), module))
    return tuple(sorted(found, key=lambda step: step.number))


def step(name: str, ladder: str = "cpu") -> Step:
    """The step of that name, or of that number.

    Raises
    ------
    UnknownStep
        With close matches.
    """
    for candidate in steps(ladder):
        if name in (candidate.name, str(candidate.number)):
            return candidate
    raise UnknownStep(f"step of the ladder {ladder!r}", name, [candidate.name for candidate in steps(ladder)])
