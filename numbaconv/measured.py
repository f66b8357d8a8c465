"""``algorithm="measure"``: which lowerings are worth timing."""

from __future__ import annotations

from numbaconv.problem import ConvProblem
from numbaconv.request import Request
from numbaconv.select import Candidate, candidates

__all__ = ["plausible"]


def plausible(problem: ConvProblem, request: Request, factor: float, most: int | None = None) -> list[Candidate]:
    """The candidates that may be the fastest: allowed, and predicted within a factor of the best prediction.

    Parameters
    ----------
    factor : float
    most : int, optional
        How many at most.

    Returns
    -------
    list of Candidate
        By prediction; ``reference`` only where nothing else runs. Empty where nothing does.
    """
    limit = request.max_workspace
    able = [
        answer
        for answer in candidates(problem, request)
        if answer.support and getattr(answer, "admitted", True) and (limit is None or answer.workspace_bytes <= limit)
    ]
    fast = [answer for answer in able if answer.lowering.name != "reference"] or able
    return [answer for answer in fast if answer.seconds <= factor * fast[0].seconds][:most]
