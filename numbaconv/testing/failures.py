"""What the conformance suite says when a lowering fails."""

from __future__ import annotations

import numpy as np

__all__ = ["ConformanceError", "difference"]


class ConformanceError(AssertionError):
    """A lowering broke its contract.

    Parameters
    ----------
    lowering : str
        Its spec.
    problem : str
        The descriptor, with what is special about the problem.
    check : str
        The rule that was broken.
    what : str
        What differed.
    """

    def __init__(self, lowering: str, problem: str, check: str, what: str):
        self.lowering, self.problem, self.check, self.what = lowering, problem, check, what
        super().__init__(lowering, problem, check, what)

    def __str__(self) -> str:
        return f"lowering {self.lowering} on {self.problem}\n  {self.check}: {self.what}"


def difference(got: np.ndarray, wanted: np.ndarray, wrong: np.ndarray) -> str:
    """The first of the elements marked `wrong`, and how many there are."""
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"out{list(index)}: expected {wanted[index]}, got {got[index]} "
        f"({np.count_nonzero(wrong):,} of {wrong.size:,} elements differ)"
    )
