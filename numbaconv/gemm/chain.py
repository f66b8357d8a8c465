"""Products one after another, bound to how their operands lie: one call of compiled code runs them all.

A convolution tap by tap is a dozen small products. Describing each anew takes about as long as a small one computes,
and the second thread waits meanwhile; here all that stays the same is written down once, and a run fills in addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from numbaconv.devices.threads import pool_for
from numbaconv.gemm.call import FIELD
from numbaconv.gemm.loops import run_chain
from numbaconv.gemm.operands import Finish, Matrix, PackedMatrix, Source
from numbaconv.gemm.plan import GemmPlan
from numbaconv.gemm.record import Record, fill_result
from numbaconv.workspace import address_of


class Link(NamedTuple):
    """A product of packed weights and a source: where its result lies in the chain's, and whether it adds to it.

    The source's packer counts, its address does not; nor does that of the weights.
    """

    plan: GemmPlan
    a: PackedMatrix | Source
    b: PackedMatrix | Source
    c: Matrix
    accumulate: bool


class Chain:
    """A sequence of products into parts of one result.

    Attributes
    ----------
    panel_bytes : int
        Scratch that a run needs.
    """

    def __init__(self, links: Sequence[Link]):
        self.links = tuple(links)
        self.panel_bytes = max((link.plan.panel_bytes for link in links), default=0)
        self.threads = max((link.plan.schedule.threads for link in links), default=1)
        self._template = np.empty((len(links), len(FIELD)), np.int64)
        self._weights, self._sources = (np.empty(len(links), np.int64) for _ in range(2))
        scratch = np.zeros((len(links), 3), np.int64)
        used = np.ones((len(links), 3), np.int64)
        for number, (plan, a, b, c, accumulate) in enumerate(links):
            plan.check_tags(a, b)
            record = Record(plan)
            for operand, is_a in ((a, True), (b, False)):
                side = "ab"[is_a == plan.schedule.swap]
                record.set_operand(side, operand, is_a)
                field, columns = ("panels", self._weights) if isinstance(operand, PackedMatrix) else (
                    "source", self._sources)  # fmt: skip
                columns[number] = FIELD[f"{side}_{field}"]
            fill_result(record.call, c.transposed if plan.schedule.swap else c, None, plan.dtype)
            record.call[FIELD["accumulate"]] = accumulate
            layout = plan.layout
            scratch[number] = 0, layout.a_shared, layout.a_shared + layout.b_shared
            used[number, :2] = layout.a_shared > 0, layout.b_shared > 0
            self._template[number] = record.call
        self._scratch, self._used, self._numbers = scratch, used, np.arange(len(links))

    def run(
        self, weights: np.ndarray, sources: np.ndarray, c: int, workspace: int, finishes: dict[int, Finish | None]
    ) -> None:
        """Compute every product in order.

        Parameters
        ----------
        weights, sources : int64 arrays
            The addresses of each link's operands.
        c : int
            The result's address.
        workspace : int
            That of `panel_bytes` bytes.
        finishes : dict
            The epilogues of some links, by number.
        """
        calls = self._template.copy()
        calls[self._numbers, self._weights] = weights
        calls[self._numbers, self._sources] = sources
        calls[:, FIELD["c"]] += c
        calls[:, SCRATCH] = (self._scratch + workspace) * self._used
        keep = [self._fill(calls[number], number, c, finish) for number, finish in finishes.items() if finish]
        run_chain(*pool_for(self.threads), address_of(calls), len(calls), calls.strides[0])
        del keep

    def _fill(self, call: np.ndarray, number: int, c: int, finish: Finish):
        plan, _, _, result, _ = self.links[number]
        target = Matrix(result.address + c, result.rows, result.columns)
        if plan.schedule.swap:
            target, finish = target.transposed, finish.transposed
        return fill_result(call, target, finish, plan.dtype)


SCRATCH = [FIELD[name] for name in ("a_place", "b_place", "scratch")]
