"""``algorithm="auto"``: predict each lowering's time from its products and bytes, take the fastest that is allowed.

time  =  products, as their schedules count cycles; or multiply-adds over the share of the peak that a lowering's own
         loops reach  +  rearranged data written and read, and operands once, over bandwidth  +  hand-overs
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from numbaconv.accounts import GemmCall, plan_of
from numbaconv.calibration import rates
from numbaconv.devices.cuda import runtime
from numbaconv.division import Division, divide, image_elements, undivided
from numbaconv.errors import UnsupportedProblem, WorkspaceExceeded
from numbaconv.gemm.cuda_plan import BYTES_A_CYCLE as DEVICE_BYTES
from numbaconv.gemm.cuda_plan import LAUNCH_CYCLES as DEVICE_LAUNCH
from numbaconv.lazy import cached_property
from numbaconv.lowering import YES, Lowering, Support
from numbaconv.lowering_cuda import MOST_ELEMENTS
from numbaconv.lowering_cuda import plan_of as device_plan
from numbaconv.machine import detect
from numbaconv.problem import ConvProblem
from numbaconv.registry import lowerings
from numbaconv.request import ADMITTED, Request

MOST_CACHED = 32 << 20  # bytes; a virtual machine may see a cache that it shares with many others
DEVICE_MACS, DEVICE_HERTZ = 128, 1.7e9  # multiply-adds of a multiprocessor a cycle, cycles a second
DEVICE_THREADS = 1024  # of a multiprocessor, to keep it busy while others wait for memory
MOST_BYTES = 1 << 42  # of an input or an output
CALL_SECONDS = 4e-6  # one product or task on its way through Python and the pool


@dataclass(frozen=True)
class Candidate:
    """One lowering's answers about a problem."""

    lowering: Lowering
    support: Support
    division: Division
    lowering_bytes: int = 0
    macs: int = 0
    bytes_moved: int = 0
    seconds: float = float("inf")
    admitted: bool = True
    """By the accuracy asked for; else only by name."""

    @cached_property
    def panel_bytes(self) -> int:
        return self.division.panel_bytes(self.lowering) if self.support else 0

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
    if max(problem.input_bytes, problem.output_bytes) > MOST_BYTES:
        return Support(f"input or output is larger than {MOST_BYTES >> 40} TiB (is a pad or a size mistyped?)")
    if device == "cuda" and image_elements(problem) >= MOST_ELEMENTS:
        return Support("an image has more elements than 32 bits count, which GPU kernels do")
    answer = lowering.form(request.device).supports(problem, request)
    return answer if isinstance(answer, Support) else YES if answer else Support("it gives no reason")


def admits(lowering: Lowering, problem: ConvProblem, request: Request) -> bool:
    """Whether `auto` may take a lowering under the request's accuracy; sums of products it always may.

    On a GPU it takes nothing else: what other lowerings gain there has not been measured.
    """
    bound = lowering.error_bound(problem, request)
    return isinstance(bound, str) or (request.device == "cpu" and bound <= ADMITTED[request.accuracy])


def candidate(lowering: Lowering, problem: ConvProblem, request: Request) -> Candidate:
    """What a lowering would need for a problem, and how long it should take."""
    support = check(lowering, problem, request)
    if not support:
        return Candidate(lowering, support, undivided(problem, request))
    division = divide(problem, lowering, request)
    macs, moved = _work(lowering, problem, division)
    seconds = (_host_seconds if request.device == "cpu" else _device_seconds)(lowering, problem, request)
    return Candidate(lowering, support, division, division.lowering_bytes(lowering), macs, moved, seconds,
                     admits(lowering, problem, request))  # fmt: skip


def _work(lowering: Lowering, problem: ConvProblem, division: Division) -> tuple[int, int]:
    """(multiply-adds, bytes moved) of all parts."""
    form, parts = lowering.form(division.request.device), division.problems.items()
    macs = sum(call.macs for call in division.gemm_calls(lowering))
    rearranged = sum(form.rearranged_bytes(part, division.request) * count for part, count in parts)
    moved = problem.input_bytes + problem.weight_bytes + problem.output_bytes + rearranged
    return macs or sum(lowering.multiply_adds(part) * count for part, count in parts), moved


def _host_seconds(lowering: Lowering, problem: ConvProblem, request: Request) -> float:
    """The time on the CPU: that of one thread, shared out, so that the choice is the same for any number of them."""
    alone = replace(request, num_threads=1)
    division, rate = divide(problem, lowering, alone), rates()
    calls, (macs, moved) = division.gemm_calls(lowering), _work(lowering, problem, division)
    if calls:
        seconds = sum(_slots(call, problem, division.request) * call.count for call in calls if call.macs) / rate.peak
    else:
        seconds = 2 * macs / lowering.share_of_peak(problem) / rate.peak
    preparing = 0 if request.prepared else lowering.preparing_bytes(problem)
    in_cache = moved <= min(detect().l3_bytes, MOST_CACHED)
    seconds += moved / (rate.cache if in_cache else rate.memory) + preparing / rate.memory
    return (seconds + CALL_SECONDS * max(1, sum(call.count for call in calls))) / request.num_threads


def _device_seconds(lowering: Lowering, problem: ConvProblem, request: Request) -> float:
    """The time on a GPU: products as their plans count cycles, or multiply-adds over a share of the peak; bytes."""
    device, form, division = runtime(request.device), lowering.form(request.device), divide(problem, lowering, request)
    request, calls = division.request, division.gemm_calls(lowering)
    macs, moved = _work(lowering, problem, division)
    if calls:
        cycles = sum(device_plan(call, problem.dtype, request).cycles * call.count for call in calls if call.macs)
    else:
        rate = DEVICE_MACS * device.multiprocessors / (problem.itemsize // 4)
        fill = min(1.0, max(1, form.threads(problem)) / (DEVICE_THREADS * device.multiprocessors))
        cycles = macs / (rate * form.share_of_peak(problem) * fill) + DEVICE_LAUNCH if macs else 0.0
    return (cycles + moved / DEVICE_BYTES) / DEVICE_HERTZ


def _slots(call: GemmCall, problem: ConvProblem, request: Request) -> float:
    """Operations that one core could do in the time of a product, as its schedule counts cycles."""
    plan = plan_of(replace(call, count=1), problem, request)
    return plan.schedule.cycles * 4 * plan.lanes


def candidates(problem: ConvProblem, request: Request) -> list[Candidate]:
    """Every lowering's answers, the fastest first, then ``reference``, then what `auto` may not take, refusals last."""

    def rank(answer: Candidate):
        return not answer.support, not answer.admitted, answer.lowering.name == "reference", answer.seconds

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
    able = [answer for answer in answers if answer.support and answer.admitted]
    if not able:
        raise UnsupportedProblem({answer.lowering.name: answer.support.reason for answer in answers})
    limit = request.max_workspace
    if limit is None:
        return able[0].lowering
    for answer in able:
        if answer.workspace_bytes <= limit:
            return answer.lowering
    raise WorkspaceExceeded(min(answer.workspace_bytes for answer in able), limit)
