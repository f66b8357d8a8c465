"""A convolution chosen once, prepared once, run many times: ``Plan`` and the handle that users hold."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from numbaconv.arrays import bias_array, host_array, run_plan
from numbaconv.errors import ShapeError, UnsupportedProblem, WorkspaceExceeded
from numbaconv.lowering import Context, Lowering, arena_bytes
from numbaconv.problem import ConvProblem
from numbaconv.registry import make_lowering
from numbaconv.request import Request
from numbaconv.select import check, choose
from numbaconv.workspace import checked_out


@dataclass(frozen=True)
class Plan:
    """The immutable choice for (problem, lowering, request). It holds no weights and no memory.

    Attributes
    ----------
    lowering_bytes, panel_bytes, workspace_bytes : int
        Scratch of a run: rearranged data, GEMM's packed panels, and their sum.
    """

    problem: ConvProblem
    lowering: Lowering
    request: Request
    lowering_bytes: int
    panel_bytes: int

    @property
    def workspace_bytes(self) -> int:
        return self.lowering_bytes + self.panel_bytes

    def prepare(self, w: np.ndarray) -> Any:
        """The weights as the lowering wants them."""
        return self.lowering.prepare_weights(self.problem, self.request, w)

    def run(self, x, prepared, out, bias=None, residual=None) -> dict[str, float]:
        """Compute into `out`; returns the seconds of each stage. All arrays as `Lowering.run` takes them."""
        with checked_out(arena_bytes(self.lowering_bytes, self.panel_bytes)) as arena:
            ctx = Context(self.problem, self.request, arena, self.panel_bytes, bias, residual)
            self.lowering.run(ctx, x, prepared, out)
        return ctx.stage_times


@functools.lru_cache(4096)
def _planned(problem: ConvProblem, lowering: Lowering | None, request: Request) -> Plan:
    if lowering is None:
        lowering = choose(problem, request)
    support = check(lowering, problem, request)
    if not support:
        raise UnsupportedProblem({lowering.name: support.reason})
    plan = Plan(
        problem, lowering, request, lowering.lowering_bytes(problem, request), lowering.panel_bytes(problem, request)
    )
    if request.max_workspace is not None and plan.workspace_bytes > request.max_workspace:
        raise WorkspaceExceeded(plan.workspace_bytes, request.max_workspace)
    return plan


def make_plan(problem: ConvProblem, algorithm: str | Lowering, request: Request) -> Plan:
    """The plan for a problem, from the cache if it was made before.

    Raises
    ------
    UnknownLowering, UnsupportedProblem, WorkspaceExceeded
    """
    automatic = algorithm in ("auto", "measure") if isinstance(algorithm, str) else False
    return _planned(problem, None if automatic else make_lowering(algorithm), request)


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

    def __init__(self, plan: Plan, layout: str | None = None):
        self.plan = plan
        self.layout = layout or plan.problem.layout
        self.stage_times: dict[str, float] = {}
        self._prepared: Any = None
        self._bias: np.ndarray | None = None

    problem = property(lambda self: self.plan.problem)
    algorithm = property(lambda self: self.plan.lowering.spec)
    workspace_bytes = property(lambda self: self.plan.workspace_bytes)
    lowering_bytes = property(lambda self: self.plan.lowering_bytes)
    panel_bytes = property(lambda self: self.plan.panel_bytes)

    @property
    def prepared_bytes(self) -> int:
        return count_bytes(self._prepared)

    def prepare(self, w, bias=None) -> Handle:
        """Pack or transform the weights; returns self.

        Parameters
        ----------
        w : array (oc, ic/g, kh, kw)
        bias : array (oc,), optional
            Must be there exactly if the plan was made with ``bias=True``.
        """
        problem = self.problem
        w = host_array(w, "w")
        if w.shape != problem.weight_shape or w.dtype != problem.dtype:
            raise ShapeError(
                f"w: expected {problem.weight_shape} of {problem.dtype} for {problem}, got {w.shape} of {w.dtype}"
            )
        if (bias is not None) != self.plan.request.epilogue.bias:
            wanted = "a" if self.plan.request.epilogue.bias else "no"
            raise ShapeError(
                f"bias: the plan was made for {wanted} bias; make it with plan(..., bias={bias is not None})"
            )
        self._bias = bias_array(bias, problem.oc, w.dtype)
        self._prepared = self.plan.prepare(w)
        return self

    def __call__(self, x, out=None, residual=None):
        """Run on `x`, whose axes are in the handle's `layout`; returns the output, or `out` filled."""
        if self._prepared is None:
            raise RuntimeError("plan: call prepare(w, bias) before the first run")
        result, self.stage_times = run_plan(self.plan, x, self._prepared, self._bias, residual, out, self.layout)
        return result


def count_bytes(prepared: Any) -> int:
    """Bytes kept by prepared weights: arrays, packed matrices, and lists of them."""
    if isinstance(prepared, list | tuple):
        return sum(map(count_bytes, prepared))
    if isinstance(prepared, dict):
        return sum(map(count_bytes, prepared.values()))
    return int(getattr(prepared, "nbytes", 0))
