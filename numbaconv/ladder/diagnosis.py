"""What is wrong with a result, and a guess at why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from numbaconv.ladder.check_calls import Outcome, Student

__all__ = ["Failure", "diagnose"]

SENTINEL = 12345.0
PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class Failure:
    """Where a function goes wrong first.

    Parameters
    ----------
    problem : str
        The shape.
    numbers : str
        What the inputs were: whole numbers, or normal ones.
    said : str
        What happened, in a sentence.
    place : tuple of int, optional
        The first wrong element.
    got, expected : float, optional
    guesses : tuple of str
        At the cause.
    """

    problem: str
    numbers: str
    said: str
    place: tuple[int, ...] | None
    got: float | None
    expected: float | None
    guesses: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.problem} ({self.numbers}): {self.said}"]
        if self.place is not None:
            lines.append(f"  first at {list(self.place)}: got {self.got:.6g}, expected {self.expected:.6g}")
        return "\n".join(lines + [f"  perhaps: {guess}" for guess in self.guesses])


def diagnose(student: Student, problem, kind: str, inputs: tuple, outcome: Outcome, wanted, wrong) -> Failure:
    """The failure that an outcome is.

    Parameters
    ----------
    problem : Product or Convolution
    wanted : ndarray
    wrong : ndarray of bool
        The elements that are wrong.
    """
    place = got = expected = None
    if outcome.error:
        said, guesses = outcome.error, []
    elif outcome.result.shape != wanted.shape:
        said = f"the result has the shape {outcome.result.shape}, not {wanted.shape}"
        guesses = ["the result is transposed"] if outcome.result.shape == wanted.shape[::-1] else []
    elif wrong.any():
        place = tuple(int(index) for index in np.argwhere(wrong)[0])
        got, expected = float(outcome.result[place]), float(wanted[place])
        said = f"{int(wrong.sum())} of {wrong.size} elements are wrong"
        if kind == "normal numbers":
            said = f"the error is too large; {int(wrong.sum())} of {wrong.size} elements have the most of it"
        guesses = list(_guesses(student, problem, kind, inputs, outcome, wanted, wrong, place))
    else:
        said, guesses = "all elements are right, but something else is not", []
    guesses += [f"input {'ab'[i] if problem.axes[0] == 'row' else 'xw'[i]} is modified" for i in outcome.changed]
    if outcome.beyond:
        guesses.append("it writes before or behind out: some index is too large or too small")
    return Failure(problem.words, kind, said, place, got, expected, tuple(guesses))


def _guesses(student, problem, kind, inputs, outcome, wanted, wrong, place) -> Iterator[str]:
    """Guesses at the cause, the likeliest first."""
    result = outcome.result
    again = student(inputs, problem.shape)
    if again.result is not None and not np.array_equal(again.result, result, equal_nan=True):
        yield "a second call gives another result: threads that write to the same elements, or memory never set"
        return
    if student.style != "returns":
        marked = student(inputs, problem.shape, fill=SENTINEL)
        unwritten = marked.result == SENTINEL
        if unwritten.all():
            more = "; it returns another array instead" if outcome.returned else ""
            yield f"out is never written{more}"
            return
        if unwritten.any():
            yield f"{int(unwritten.sum())} elements of out are never written: {_where(unwritten, problem.axes)}"
            return
        zeroed = student(inputs, problem.shape, fill=0.0).result
        if not np.array_equal(zeroed, marked.result, equal_nan=True):
            yield "it adds to what out held: set it to zero first"
            result, wrong = zeroed, ~np.isclose(zeroed, wanted)
            if not wrong.any():
                return
            place = tuple(np.argwhere(wrong)[0])
    if np.isnan(result).any():
        yield "it reads outside of its operands, where there is NaN: some index is too large or too small"
    if np.allclose(result, np.trunc(wanted)) and kind == "normal numbers":
        yield "the result is cut to whole numbers"
    named = [words for words, values in problem.mistakes(inputs) if _same(result, values, wanted)]
    yield from named
    if not named and again.seconds * inputs[0].shape[1] < PROBE_SECONDS:
        yield from problem.probe(student, place)
    pattern = _where(wrong, problem.axes)
    if pattern and kind == "whole numbers":
        yield f"wrong {pattern}"
    if kind == "normal numbers" and not named:
        yield "sums are rounded more coarsely than in float32, or differences of large numbers are taken"


def _same(result, values, wanted) -> bool:
    """Whether a result is what a mistake computes, and not the right one."""
    return values.shape == result.shape and np.allclose(result, values, 1e-4) and not np.allclose(values, wanted, 1e-4)


def _where(mask: np.ndarray, axes: tuple[str, ...]) -> str:
    """In words, where the elements of a mask are, if that is a pattern."""
    parts = []
    for axis, name in enumerate(axes):
        some = mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis))
        if not some.all():
            parts.append(_which(np.flatnonzero(some), len(some), name))
    if parts:
        return "in " + ", and there in ".join(parts)
    if mask.ndim == 2 and not mask.all():
        rows, columns = mask.all(axis=1), mask.all(axis=0)
        if np.array_equal(mask, rows[:, None] | columns):
            pairs = zip((rows, columns), axes, strict=True)
            return "in " + " and in ".join(_which(np.flatnonzero(some), len(some), name) for some, name in pairs)
    return ""


def _which(found: np.ndarray, length: int, name: str) -> str:
    """'the last 3 rows of 7 (a tile that hangs over the edge?)'."""
    if found[0] == length - len(found):
        last = f"the last {len(found)} {name}s" if len(found) > 1 else f"the last {name}"
        return f"{last} of {length} (a tile that hangs over the edge?)"
    return f"{name} {', '.join(map(str, found[:4]))}{' ...' if len(found) > 4 else ''} of {length}"
