"""``algorithm="auto"``: predict each lowering's time from its products and bytes, take the fastest that is allowed.

time  =  multiply-adds / peak  +  (lowered bytes written and read, operands once) / bandwidth  +  hand-overs
"""

from __future__ import annotations

from dataclasses import dataclass

from numbaconv.errors import UnsupportedProblem, WorkspaceExceeded
from numbaconv.lowering import Lowering, Support
from numbaconv.problem import ConvProblem
from numbaconv.registry import lowerings
from numbaconv.request import Request

PEAK = 120e9  # multiply-adds in flops/s a core, a typical vector core: only ratios matter for the choice
BANDWIDTH = 12e9  # bytes/s
SCALAR_PEAK = 0.8e9  # plain loops
CALL_SECONDS = 10e-6  # one product's way through Python and the pool


@dataclass(frozen=True)
class Candidate:
    """One lowering's answers about a problem."""

    lowering: Lowering
    support: Support
    lowering_bytes: int = 0
    panel_bytes: int = 0
    macs: int = 0
    seconds: float = float("inf")

    @property
    def workspace_bytes(self) -> int:
        return self.lowering_bytes + self.panel_bytes


def check(lowering: Lowering, problem: ConvProblem, request: Request) -> Support:
    """Whether a lowering runs a problem: its own answer, and what none runs."""
    device = request.device.split(":")[0]
    if device not in lowering.devices:
        return Support(f"it has no form for device {request.device!r} (it runs on {', '.join(lowering.devices)})")
    if problem.direction != "forward":
        return Support(f"direction {problem.direction!r} is not built, only forward")
    if problem.is_3d:
        return Support("the depth axis is not built, only two dimensions")
    return lowering.supports(problem, request)


def candidate(lowering: Lowering, problem: ConvProblem, request: Request) -> Candidate:
    """What a lowering would need for a problem, and how long it should take."""
    support = check(lowering, problem, request)
    if not support:
        return Candidate(lowering, support)
    lowered, panels = lowering.lowering_bytes(problem, request), lowering.panel_bytes(problem, request)
    calls = lowering.gemm_calls(problem, request)
    macs = sum(call.macs for call in calls) or problem.macs
    flops = (PEAK if calls else SCALAR_PEAK) * request.num_threads
    moved = problem.input_bytes + problem.weight_bytes + problem.output_bytes
    written = sum(call.k * call.n * call.count for call in calls) * problem.itemsize if lowered else 0
    seconds = 2 * macs / flops + (moved + 2 * written) / (BANDWIDTH * request.num_threads)
    seconds += CALL_SECONDS * sum(call.count for call in calls)
    return Candidate(lowering, support, lowered, panels, macs, seconds)


def candidates(problem: ConvProblem, request: Request) -> list[Candidate]:
    """Every lowering's answers, the fastest first, then ``reference``, those that refuse last."""

    def rank(answer: Candidate):
        return not answer.support, answer.lowering.name == "reference", answer.seconds

    return sorted((candidate(cls(), problem, request) for cls in lowerings()), key=rank)


def choose(problem: ConvProblem, request: Request) -> Lowering:
    """The lowering that ``auto`` takes.

    Raises
    ------
    UnsupportedProblem
        When none runs the problem, with every reason.
    WorkspaceExceeded
        When some would, but none within ``request.max_workspace``.
    """
    answers = candidates(problem, request)
    able = [answer for answer in answers if answer.support]
    if not able:
        raise UnsupportedProblem({answer.lowering.name: answer.support.reason for answer in answers})
    limit = request.max_workspace
    if limit is None:
        return able[0].lowering
    fitting = [answer for answer in able if answer.workspace_bytes <= limit]
    if not fitting:
        raise WorkspaceExceeded(min(answer.workspace_bytes for answer in able), limit)
    return fitting[0].lowering
