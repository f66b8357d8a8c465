"""A convolution chosen once, prepared once, run many times: ``Plan`` and the handle that users hold."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from numbaconv import plan_cuda
from numbaconv.accounts import arena_bytes, count_bytes
from numbaconv.arrays import any_array, bias_array, run_plan
from numbaconv.devices.crew import together
from numbaconv.division import Division, Part, divide
from numbaconv.errors import ShapeError, UnsupportedProblem, WorkspaceExceeded
from numbaconv.known import Known
from numbaconv.lazy import cached_property
from numbaconv.lowering import STAGES, Context, Lowering
from numbaconv.problem import ConvProblem
from numbaconv.recording import Kept, Recorder, RecordingContext
from numbaconv.registry import make_lowering
from numbaconv.request import Request
from numbaconv.select import check, choose
from numbaconv.workspace import Arena, address_of, checked_out, round_up


@dataclass(frozen=True)
class Plan:
    """The immutable choice for (problem, lowering, request). It holds no weights and no memory.

    Attributes
    ----------
    division : Division
        The parts that are run one after another, or by several threads at a time.
    lowering_bytes, panel_bytes, workspace_bytes : int
        Scratch of a run: rearranged data, GEMM's packed panels, and their sum.
    """

    problem: ConvProblem
    lowering: Lowering
    request: Request
    division: Division
    lowering_bytes: int
    panel_bytes: int

    @property
    def workspace_bytes(self) -> int:
        return self.lowering_bytes + self.panel_bytes

    @cached_property
    def form(self) -> Any:
        """What answers for the lowering on the request's device."""
        return self.lowering.form(self.request.device)

    @property
    def on_cpu(self) -> bool:
        return self.request.device == "cpu"

    @property
    def spec(self) -> str:
        """The lowering with its parameters."""
        return self.lowering.spec

    @property
    def workers(self) -> int:
        """Threads that run parts of their own, each with its share of the scratch."""
        return self.division.workers

    def prepare(self, w: Any, stream: Any = None) -> Any:
        """The weights as the lowering wants them, on the device of the request."""
        if not self.on_cpu:
            return plan_cuda.prepare(self, w, stream)
        if not self.division.parts:  # no images: nothing will run, and no product could be planned
            return ()
        return self.lowering.prepare_weights(self.division.parts[0].problem, self.division.request, w)

    @cached_property
    def recorded(self) -> bool:
        """Whether a call may be kept and run on other arrays, on one thread of Python."""
        return self.on_cpu and self.workers == 1 and getattr(type(self.lowering).run, "recorded", False)

    @cached_property
    def known(self) -> dict[Hashable, Known]:
        """Calls that were kept, by the likeness of their arrays."""
        return {}

    @cached_property
    def arena_bytes(self) -> int:
        """The scratch of a worker, each slice on a cache line of its own."""
        if not self.workspace_bytes:
            return 0
        return round_up(arena_bytes(self.lowering_bytes // self.workers, self.panel_bytes // self.workers))

    def keep_bias(self, bias: Any, stream: Any = None) -> Any:
        """A checked bias, on the device of the request."""
        return bias if self.on_cpu else plan_cuda.keep_bias(self, bias, stream)

    def kept(self, prepared: Any, bias: Any) -> Kept | None:
        """What ``compute`` takes as `kept`, from who keeps prepared weights and bias: it spares each call a look."""
        return Kept(prepared, bias) if self.recorded and prepared is not None else None

    def compute(self, x, prepared, bias=None, residual=None, out=None, layout=None, stream=None, timed=True, kept=None):
        """Run on arrays of the caller, checked; returns (result, stage times, on a GPU if `timed`).

        As ``arrays.run_plan``.
        """
        if self.on_cpu:
            return run_plan(self, x, prepared, bias, residual, out, layout, kept)
        return plan_cuda.run_plan(self, x, prepared, bias, residual, out, layout, stream, timed)

    def run(self, x, prepared, out, bias=None, residual=None, recorder: Recorder | None = None) -> dict[str, float]:
        """Compute into `out`; returns the seconds of each stage. All arrays as `Lowering.run` takes them.

        `recorder` notes what is run, where that is ``recorded``.
        """
        division, workers = self.division, self.workers
        size = arena_bytes(self.lowering_bytes // workers, self.panel_bytes // workers)
        panels = self.panel_bytes // workers
        with checked_out(workers * size) as arena:

            def run_parts(parts: Iterable[Part], memory: np.ndarray) -> dict[str, float]:
                seconds = dict.fromkeys(STAGES, 0.0)
                for part in parts:
                    added = None if residual is None else residual[part.images, :, part.rows]
                    scratch = Arena(memory, address_of(memory))
                    needed = part.problem, division.request, scratch, panels, bias, added
                    ctx = Context(*needed) if recorder is None else RecordingContext(recorder, *needed)
                    self.lowering.run(
                        ctx, x[part.images, :, part.input_rows], prepared, out[part.images, :, part.rows]
                    )  # fmt: skip
                    for stage, spent in ctx.stage_times.items():
                        seconds[stage] += spent
                return seconds

            if workers == 1:
                return run_parts(division.parts, arena.memory)
            left = iter(division.parts)  # taken by whoever is free; next() on it is one step of the interpreter
            spent = together(lambda number: run_parts(left, arena.memory[number * size :][:size]), workers)
        return {stage: sum(seconds[stage] for seconds in spent) / workers for stage in STAGES}


@functools.lru_cache(4096)
def _planned(problem: ConvProblem, lowering: Lowering | None, request: Request) -> Plan:
    if lowering is None:
        lowering = choose(problem, request)
    support = check(lowering, problem, request)
    if not support:
        raise UnsupportedProblem({lowering.name: support.reason})
    division = divide(problem, lowering, request)
    plan = Plan(
        problem, lowering, request, division, division.lowering_bytes(lowering), division.panel_bytes(lowering)
    )  # fmt: skip
    if request.max_workspace is not None and plan.workspace_bytes > request.max_workspace:
        raise WorkspaceExceeded(plan.workspace_bytes, request.max_workspace)
    return plan


def make_plan(problem: ConvProblem, algorithm: str | Lowering, request: Request) -> Any:
    """The plan for a problem, from the cache if it was made before: a ``Plan``, or a ``HybridPlan`` for "cpu+cuda".

    Raises
    ------
    UnknownLowering, UnsupportedProblem, WorkspaceExceeded
    """
    if "+" in request.device:
        from numbaconv.plan_hybrid import hybrid_plan

        return hybrid_plan(problem, algorithm, request)
    if algorithm == "measure":
        from numbaconv.measured import fastest

        algorithm = fastest(problem, request)
    return _planned(problem, None if algorithm == "auto" else make_lowering(algorithm), request)


class _Weights(NamedTuple):
    """What a handle keeps between calls; replaced as one, read once a call."""

    prepared: Any = None
    bias: Any = None
    kept: Kept | None = None


class Handle:
    """What ``numbaconv.plan`` gives: a plan with prepared weights, called like a function.

    Attributes
    ----------
    problem : ConvProblem
    algorithm : str
        The lowering that runs.
    workspace_bytes, lowering_bytes, panel_bytes : int
        Scratch of one call.
    prepared_bytes : int
        Memory that the prepared weights keep.
    stage_times : dict
        Seconds of the last call in "lower", "multiply" and "lift".
    """

    def __init__(self, plan: Plan, layout: str | None = None, stream: Any = None):
        self.plan, self.stream = plan, stream
        self.layout = layout or plan.problem.layout
        self.stage_times: Mapping[str, float] = {}
        self._weights = _Weights()

    problem = property(lambda self: self.plan.problem)
    algorithm = property(lambda self: self.plan.spec)
    workspace_bytes = property(lambda self: self.plan.workspace_bytes)
    lowering_bytes = property(lambda self: self.plan.lowering_bytes)
    panel_bytes = property(lambda self: self.plan.panel_bytes)

    @property
    def prepared(self) -> Any:
        """The weights as the lowering wants them; None before ``prepare``."""
        return self._weights.prepared

    @property
    def prepared_bytes(self) -> int:
        return count_bytes(self.prepared)

    def prepare(self, w, bias=None) -> Handle:
        """Pack or transform the weights; returns self.

        Parameters
        ----------
        w : array (oc, ic/g, kh, kw)
        bias : array (oc,), optional
            Must be there exactly if the plan was made with ``bias=True``.
        """
        problem = self.problem
        w = any_array(w, "w", self.plan.request.device, self.stream)
        if w.shape != problem.weight_shape or w.dtype != problem.dtype:
            raise ShapeError(
                f"w: expected {problem.weight_shape} of {problem.dtype} for {problem}, got {w.shape} of {w.dtype}"
            )
        if (bias is not None) != self.plan.request.epilogue.bias:
            wanted = "a" if self.plan.request.epilogue.bias else "no"
            raise ShapeError(
                f"bias: the plan was made for {wanted} bias; make it with plan(..., bias={bias is not None})"
            )
        bias = bias_array(bias, problem.oc, w.dtype, self.plan.request.device, self.stream)
        bias = self.plan.keep_bias(bias, self.stream)
        prepared = self.plan.prepare(w, self.stream)
        self._weights = _Weights(prepared, bias, self.plan.kept(prepared, bias))
        return self

    def __call__(self, x, out=None, residual=None):
        """Run on `x`, whose axes are in the handle's `layout`; returns the output, or `out` filled."""
        prepared, bias, kept = self._weights
        if prepared is None:
            raise RuntimeError("plan: call prepare(w, bias) before the first run")
        result, self.stage_times = self.plan.compute(
            x, prepared, bias, residual, out, self.layout, self.stream, kept=kept
        )  # fmt: skip
        return result
