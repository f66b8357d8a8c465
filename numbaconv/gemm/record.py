"""A call record being filled: where the operands of a product lie, and what becomes of its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from numbaconv.errors import ShapeError
from numbaconv.gemm.axes import UNBROKEN
from numbaconv.gemm.call import FIELD, RESULT, fields
from numbaconv.gemm.operands import Axis, Finish, Matrix, PackedMatrix, Source, same_breaks, strided
from numbaconv.gemm.pack import STRIDED
from numbaconv.workspace import address_of

if TYPE_CHECKING:
    from numbaconv.gemm.plan import GemmPlan

RESULT_FIELDS = fields(RESULT)
OPERAND_FIELDS = {side: fields((side + "_packer", side + "_panels")) for side in "ab"}
DIRECT_FIELDS = fields(("a", "rs_a"))
WORKSPACE_FIELDS = fields(("a_place", "accumulate"))
ZEROS = np.zeros(128)  # what an absent bias or residual points at
ZEROS_ADDRESS = address_of(ZEROS)


class Record:
    """A call record of one plan, with room for the descriptions of two matrices; used by one run at a time."""

    def __init__(self, plan: GemmPlan):
        self.direct, self.itemsize, self.layout = plan.schedule.direct, plan.itemsize, plan.layout
        self.call = plan.template.copy()
        self.address = address_of(self.call)
        self.sources = np.zeros((2, len(STRIDED.names)), np.int64)
        self.packers = {side: self.call[FIELD[side + "_packer"]] for side in "ab"}
        self.source_addresses = {"a": address_of(self.sources[0]), "b": address_of(self.sources[1])}

    def set_operand(self, side: str, operand: Matrix | Source | PackedMatrix, is_a: bool):
        """Write where the kernel's A or B comes from; `is_a`: it is the left operand of the product as asked."""
        if isinstance(operand, PackedMatrix):
            self.call[FIELD[side + "_panels"]] = operand.address
            return
        if isinstance(operand, Source):
            if side == "a" and self.direct:
                raise ShapeError("gemm: the plan was promised a matrix in memory, not a source that packs itself")
            packer, source = operand.packer.address, operand.address
        else:
            rows, k = (operand.rows, operand.columns) if is_a else (operand.columns, operand.rows)
            if side == "a" and self.direct:
                if k.step != self.itemsize or min(k.inner, rows.inner) < UNBROKEN:
                    raise ShapeError("gemm: the plan was promised an operand that is contiguous along k")
                self.call[DIRECT_FIELDS] = operand.address, rows.step
                return
            self.sources[0 if side == "a" else 1] = strided(operand, is_a)
            packer, source = self.packers[side], self.source_addresses[side]
        # Panels packed in an earlier run are gone: 0 until this one's are there.
        self.call[OPERAND_FIELDS[side]] = (packer, source, 0)

    def set_workspace(self, workspace: int, accumulate: bool):
        """Write where this run packs, and whether it adds to the result."""
        a_shared, b_shared = self.layout.a_shared, self.layout.b_shared
        b_place = workspace + a_shared
        self.call[WORKSPACE_FIELDS] = (
            workspace if a_shared else 0, b_place if b_shared else 0, b_place + b_shared, accumulate
        )  # fmt: skip


def fill_result(call: np.ndarray, c: Matrix, finish: Finish | None, dtype: np.dtype):
    """Write a call record's fields of the result, in their order in ``call.RESULT``; returns what must stay alive."""
    rows, columns = c.rows, c.columns
    if finish and finish.residual is not None:
        rows, r = same_breaks(rows, finish.residual.rows)
        columns, s = same_breaks(columns, finish.residual.columns)
    place = (c.address, rows.step, rows.outer, columns.step, columns.outer, rows.inner, columns.inner)
    scalars = row_bias = col_bias = residual = ZEROS_ADDRESS
    row_step = col_step = finishing = 0
    in_place, residual_steps = False, (0, 0, 0, 0)
    numbers = None
    if finish and not finish.trivial:
        finishing = 1
        numbers = np.array([finish.alpha, finish.low, finish.high], dtype)
        scalars = address_of(numbers)
        if finish.row_bias is not None:
            row_bias, row_step = address_of(finish.row_bias), dtype.itemsize
        if finish.col_bias is not None:
            col_bias, col_step = address_of(finish.col_bias), dtype.itemsize
        if finish.residual is not None:
            residual, residual_steps = finish.residual.address, (r.step, r.outer, s.step, s.outer)
            in_place = _meet(call, c, finish.residual, dtype.itemsize)
    call[RESULT_FIELDS] = (*place, finishing, scalars, row_bias, row_step, col_bias, col_step, residual,
                           *residual_steps, in_place)  # fmt: skip
    return numbers, finish


def _meet(call: np.ndarray, c: Matrix, residual: Matrix, itemsize: int) -> bool:
    """Whether two matrices of the result's size may share memory; axes that run backwards may be anywhere."""

    def extent(axis: Axis, length: int) -> int:
        return axis.extent(length) if min(axis.step, axis.outer) >= 0 else UNBROKEN

    m, n = int(call[FIELD["m"]]), int(call[FIELD["n"]])
    c_end, r_end = (
        matrix.address + extent(matrix.rows, m) + extent(matrix.columns, n) + itemsize for matrix in (c, residual)
    )
    backwards = max(c_end - c.address, r_end - residual.address) >= UNBROKEN
    return backwards or (c.address < r_end and residual.address < c_end)
