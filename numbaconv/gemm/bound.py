"""A plan bound to the strides of its operands: what remains to be said in a run is four addresses.

Small products are over in microseconds; describing their operands anew each time would take longer.
"""

from __future__ import annotations

from numbaconv.devices.threads import pool_for
from numbaconv.gemm.call import FIELD
from numbaconv.gemm.loops import run_rounds
from numbaconv.gemm.operands import Matrix, PackedMatrix
from numbaconv.gemm.plan import GemmPlan
from numbaconv.gemm.record import Record, fill_result


class BoundGemm:
    """C = A · B for operands that lie like the given ones, without epilogue.

    Parameters
    ----------
    plan : GemmPlan
    a, b : Matrix or PackedMatrix
        Their addresses do not matter.
    c : Matrix
    """

    def __init__(self, plan: GemmPlan, a: Matrix | PackedMatrix, b: Matrix | PackedMatrix, c: Matrix):
        plan.check_tags(a, b)
        self.panel_bytes, self.threads = plan.panel_bytes, plan.schedule.threads
        self._plan, self._like = plan, (a, b, c)
        self._free: list[tuple] = []

    def _record(self) -> tuple:
        """A filled call record and the places where its addresses go."""
        plan, (a, b, c) = self._plan, self._like
        record = Record(plan)
        places = {}
        for name, operand, is_a in (("a", a, True), ("b", b, False)):
            side = name if not plan.schedule.swap else "ba"["ab".index(name)]
            record.set_operand(side, operand, is_a)
            if isinstance(operand, PackedMatrix):
                places[name] = record.call, FIELD[side + "_panels"]
            elif side == "a" and plan.schedule.direct:
                places[name] = record.call, FIELD["a"]
            else:
                places[name] = record.sources[0 if side == "a" else 1], 0
        fill_result(record.call, c.transposed if plan.schedule.swap else c, None, plan.dtype)
        return record, *places["a"], *places["b"]

    def __call__(self, a: int, b: int, c: int, workspace: int) -> None:
        """Run on these addresses; `workspace` has `panel_bytes` bytes."""
        filled = self._free.pop() if self._free else self._record()
        record, a_array, a_place, b_array, b_place = filled
        a_array[a_place] = a
        b_array[b_place] = b
        record.call[C_PLACE] = c
        record.set_workspace(workspace, False)
        run_rounds(*pool_for(self.threads), record.address)
        self._free.append(filled)


C_PLACE = FIELD["c"]
