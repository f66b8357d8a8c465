"""Calls of a function nobody knows: its operands lie among NaN, its result is NaN before, its exceptions are caught."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

__all__ = ["Outcome", "Student"]

GUARD = 1 << 13
"""Elements before and behind every matrix: NaN around what is read, and around what is written"""
UNTOUCHED = -0.0
"""this, which changes even when nothing is added to it."""


@dataclass(frozen=True)
class Outcome:
    """What a call did.

    Parameters
    ----------
    result : ndarray or None
    error : str
        Of the exception, if there was one.
    seconds : float
    beyond : bool
        Whether something was written before or behind `out`.
    changed : tuple of int
        The inputs that are not what they were.
    returned : bool
        Whether, having been given `out`, it returned another array.
    """

    result: np.ndarray | None
    error: str
    seconds: float
    beyond: bool
    changed: tuple[int, ...]
    returned: bool

    def wrong(self, wanted: np.ndarray, each: float, together: float) -> np.ndarray | None:
        """The elements that are wrong, as a mask (none of them, if something else is); None if all is right.

        No element may be further off than `each`, nor the Frobenius norm of all errors be above `together`.
        """
        if self.result is None or self.result.shape != wanted.shape:
            return np.zeros(wanted.shape, bool)
        with np.errstate(invalid="ignore"):
            error = np.nan_to_num(np.abs(self.result - wanted), nan=np.inf)
        mask = (error > each) | ~np.isfinite(error)
        if not mask.any() and np.linalg.norm(error) > together:
            mask = error >= 0.5 * error.max()
        return mask if mask.any() or self.beyond or self.changed else None


class Student:
    """A function that is to be checked.

    Parameters
    ----------
    function : callable
    inputs : int
        Arguments before `out`.
    """

    def __init__(self, function: Callable[..., Any], inputs: int):
        self.function, self.inputs = function, inputs
        self.style, self.refusal = _style(function, inputs)

    def ready(self, inputs: tuple, shape: tuple[int, ...]) -> Callable[[], Any]:
        """The call, to be timed."""
        placed, named = self._arguments(inputs, np.full(shape, np.nan, np.float32))
        return partial(self.function, *placed, **named)

    def _arguments(self, inputs: tuple, out: np.ndarray) -> tuple[tuple, dict]:
        return {"place": ((*inputs, out), {}), "name": (inputs, {"out": out}), "returns": (inputs, {})}[self.style]

    def __call__(self, inputs: tuple, shape: tuple[int, ...], fill: float = np.nan) -> Outcome:
        """Call it with copies of `inputs`, and with an `out` that holds `fill`."""
        copies = tuple(_among(np.nan, value)[0] if isinstance(value, np.ndarray) else value for value in inputs)
        out, memory = _among(UNTOUCHED, np.full(shape, fill, np.float32))
        placed, named = self._arguments(copies, out)
        start = time.perf_counter()
        try:
            answer = self.function(*placed, **named)
        except Exception as error:
            return Outcome(None, _short(error), time.perf_counter() - start, False, (), False)
        seconds = time.perf_counter() - start
        returns = self.style == "returns"
        result = answer if returns else out
        if returns and not isinstance(answer, np.ndarray):
            said = "None: it should return the result, or take out" if answer is None else type(answer).__name__
            return Outcome(None, f"it returned {said}", seconds, False, (), False)
        changed = tuple(
            position
            for position, (value, copy) in enumerate(zip(inputs, copies, strict=True))
            if isinstance(value, np.ndarray) and not np.array_equal(value, copy)
        )
        another = not returns and isinstance(answer, np.ndarray) and not np.may_share_memory(answer, out)
        outside = np.concatenate([memory[:GUARD], memory[GUARD + out.size :]])
        beyond = bool((outside != 0).any() or not np.signbit(outside).all())
        return Outcome(np.array(result), "", seconds, beyond, changed, another)


def _style(function: Callable[..., Any], inputs: int) -> tuple[str, str]:
    """How it takes `out`, "place", "name" or "returns"; and why it cannot be called, if so."""
    try:
        parameters = list(inspect.signature(getattr(function, "py_func", function)).parameters.values())
    except (TypeError, ValueError):  # a built-in that does not say
        return "returns", ""
    placed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    several = any(p.kind == p.VAR_POSITIONAL for p in parameters)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    wanted = "(a, b, out) or (a, b)" if inputs == 2 else "(x, w, stride, padding, out) or (x, w, stride, padding)"
    if len(placed) < inputs and not several:
        return "", f"takes {len(placed)} arguments by place; a step takes {wanted}"
    third = placed[inputs] if len(placed) > inputs else None
    by_place = third is not None and (third.name == "out" or third.default is third.empty)
    by_name = any(p.name == "out" for p in parameters) and not by_place
    more = [name for name in needed if name not in [p.name for p in placed[: inputs + by_place]] and name != "out"]
    if more:
        return (
            "",
            f"also needs {', '.join(more)}; a step takes {wanted}: check a function of these that passes the rest on",
        )
    return "place" if by_place else "name" if by_name else "returns", ""


def _among(value: float, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A copy in C order with `value` all around it, and the memory that holds both."""
    memory = np.full(array.size + 2 * GUARD, value, array.dtype)
    copy = memory[GUARD : GUARD + array.size].reshape(array.shape)
    copy[...] = array
    return copy, memory


def _short(error: Exception) -> str:
    """An exception in one line: Numba's are pages long, and begin with the stage that failed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Failed in", "- Resolution", "During:", "File "))]
    return f"{type(error).__name__}: {' '.join(said[:2])[:300]}"
