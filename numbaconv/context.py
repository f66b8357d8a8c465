"""What a lowering's ``run`` works with: scratch, the three stages with their times, and the epilogue of one call."""

from __future__ import annotations

import time

import numpy as np

from numbaconv.accounts import operands_of, product_plan
from numbaconv.devices.threads import parallel
from numbaconv.gemm import Chain, Finish, GemmPlan, Matrix, Operands, PackedMatrix
from numbaconv.gemm.arithmetic import arithmetic_for
from numbaconv.geometry import place_record
from numbaconv.jit import Native
from numbaconv.lift import LIMITS, lift
from numbaconv.problem import ConvProblem
from numbaconv.request import Request
from numbaconv.workspace import Arena, address_of

STAGES = ("lower", "multiply", "lift")


class Context:
    """What a lowering works with during one call: ``lower``, ``multiply``, ``lift``, ``take`` and ``finish``."""

    def __init__(self, problem: ConvProblem, request: Request, arena: Arena, panel_bytes: int, bias, residual):
        self.problem, self.request, self.arena = problem, request, arena
        self.threads = request.num_threads
        self.bias, self.residual = bias, residual
        self.stage_times = dict.fromkeys(STAGES, 0.0)
        self._panel_bytes = panel_bytes
        self._panels: np.ndarray | None = None

    def take(self, name: str, shape, dtype=None) -> np.ndarray:
        """An array in the call's scratch, uninitialised; its bytes count towards ``lowering_bytes``."""
        dtype = np.dtype(dtype or self.problem.dtype)
        return self.arena.take(name, int(np.prod(shape)) * dtype.itemsize).view(dtype).reshape(shape)

    def lower(self, work, /, *arguments, **arrays):
        """Run a piece of the lower stage: any callable with its arguments, or a ``Native`` with (tasks, record).

        A record is a NumPy record, of which each call gets a copy with the addresses of `arrays` (0 for None) in the
        fields of those names; or the address of one.
        """
        self._run_stage("lower", work, arguments, arrays)

    def lift(self, work, /, *arguments, **arrays):
        """Run a piece of the lift stage, as ``lower``."""
        self._run_stage("lift", work, arguments, arrays)

    def multiply_by(self, work, /, *arguments, **arrays):
        """Run a multiply stage that is no GEMM, as ``lower``."""
        self._run_stage("multiply", work, arguments, arrays)

    def _run_stage(self, stage: str, work, arguments, arrays) -> np.ndarray | None:
        """Run a piece of a stage; returns the record that a task was given, if it was given as such."""
        start, placed = time.perf_counter(), None
        if isinstance(work, Native):
            tasks, record = arguments
            if isinstance(record, np.ndarray):
                placed = place_record(record, arrays)
                record = address_of(placed)
            parallel(work, tasks, record, self.threads)
        else:
            work(*arguments, **arrays)
        self.stage_times[stage] += time.perf_counter() - start
        return placed

    def multiply(self, a, b, c, accumulate: bool = False, finish: Finish | None = None):
        """C = A · B, or C += A · B, on all of this call's threads.

        Parameters
        ----------
        a, b : 2-D ndarray, Matrix, Source or PackedMatrix
            Operands; with a ``Matrix`` or ``Source`` the sizes come from the other operands, so pass ``c`` as an array
            or use ``multiply_as``.
        c : 2-D ndarray
            The result.
        accumulate : bool
            Add to what `c` holds.
        finish : Finish, optional
            The epilogue, from ``ctx.finish``.
        """
        (m, n), k = c.shape, a.shape[1]
        self.multiply_as(
            m, n, k, self._operand(a), self._operand(b), Matrix.of(c), operands_of(a, b, c), accumulate, finish
        )

    @staticmethod
    def _operand(x):
        return Matrix.of(x) if isinstance(x, np.ndarray) else x

    def multiply_as(self, m, n, k, a, b, c: Matrix, operands: Operands, accumulate=False, finish=None):
        """``multiply`` for operands that know no sizes; `operands` as declared in ``gemm_calls``."""
        start = time.perf_counter()
        fixed = next((x.schedule for x in (a, b) if isinstance(x, PackedMatrix)), None)
        arithmetic = arithmetic_for(self.request.precision, self.problem.dtype)
        plan = product_plan(m, n, k, self.problem.dtype, self.threads, operands, fixed, arithmetic)
        panels = self._panel_address(plan.panel_bytes, f"multiply {m} x {k} x {n}")
        self._product(plan, a, b, c, panels, accumulate, finish)
        self.stage_times["multiply"] += time.perf_counter() - start

    def _product(self, plan: GemmPlan, a, b, c: Matrix, panels: int, accumulate: bool, finish: Finish | None) -> None:
        plan.run(a, b, c, panels, accumulate, finish)

    def multiply_chain(self, chain: Chain, weights, sources, c: int, finishes: dict[int, Finish | None]) -> None:
        """Run a chain of products, as ``Chain.run``."""
        start = time.perf_counter()
        chain.run(weights, sources, c, self._panel_address(chain.panel_bytes, "a chain of products"), finishes)
        self.stage_times["multiply"] += time.perf_counter() - start

    def _panel_address(self, needed: int, what: str) -> int:
        if self._panels is None:
            self._panels = self.arena.take("panels", self._panel_bytes)
        if needed > self._panel_bytes:
            raise MemoryError(
                f"{what} needs {needed} bytes of panels, {self._panel_bytes} are declared: gemm_calls does not list it"
            )
        return address_of(self._panels)

    def finish(self, along: str, channels: slice = slice(None), residual: Matrix | None = None) -> Finish | None:
        """The epilogue for a product whose "rows" or "columns" are the output channels `channels`."""
        low, high = LIMITS[self.request.epilogue.activation]
        bias = None if self.bias is None else self.bias[channels]
        finish = Finish(residual=residual, low=low, high=high)
        if along == "rows":
            finish.row_bias = bias
        else:
            finish.col_bias = bias
        return None if finish.trivial else finish

    def epilogue(self, out: np.ndarray) -> None:
        """Bias, residual and activation in a pass of their own, for a lowering whose last store is not a product's."""
        if self.request.epilogue:
            for n in range(len(out)):
                lift(self, out[n], [], None if self.residual is None else self.residual[n], begin=False)
