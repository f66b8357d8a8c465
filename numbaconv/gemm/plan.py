"""A GEMM chosen once and run many times: ``GemmPlan``."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from numbaconv.devices.threads import parallel, pool_for
from numbaconv.errors import ShapeError
from numbaconv.gemm import loops
from numbaconv.gemm.arithmetic import FMA, Arithmetic
from numbaconv.gemm.blocking import Blocking
from numbaconv.gemm.call import FIELD, POINTERS
from numbaconv.gemm.guard import SCANS, SEAL, Scans
from numbaconv.gemm.layout import Layout
from numbaconv.gemm.micro import micro_kernel, tiles_for_a_task
from numbaconv.gemm.operands import Finish, Matrix, PackedMatrix, Source, tag_of
from numbaconv.gemm.pack import strided_packer
from numbaconv.gemm.record import Record, fill_result
from numbaconv.gemm.schedule import Operands, Schedule, schedule
from numbaconv.gemm.split import splitter
from numbaconv.gemm.store import tile_store
from numbaconv.jit import not_while_forking
from numbaconv.machine import detect
from numbaconv.workspace import address_of, aligned, round_up

SHARED_LIMIT = 32 << 20
"""Bytes of panels that are packed together before a product; more of k than that is done in several rounds."""


class GemmPlan:
    """The choices for C (m x n) = A (m x k) · B (k x n), ready to run.

    Parameters
    ----------
    m, n, k : int
        Sizes, all at least 1.
    dtype : dtype
        float32 or float64.
    threads : int
        The most threads to use; the result has the same bits for any number.
    operands : Operands, optional
        What is packed before, and how the matrices lie in memory.
    blocking : Blocking, optional
        In place of the analytical model's.
    fixed : Schedule, optional
        What an operand was packed for, to whose panels the plan must keep.
    arithmetic : Arithmetic, optional
        What multiplies; a product that is not fit for bf16 runs in float32 all the same (``guard.py``).
    swap : bool, optional
        The orientation, where it is settled.

    Attributes
    ----------
    panel_bytes : int
        Scratch that a run needs.
    """

    def __init__(
        self,
        m,
        n,
        k,
        dtype,
        threads=1,
        operands=Operands(),
        blocking: Blocking | None = None,
        fixed: Schedule | None = None,
        arithmetic: Arithmetic = FMA,
        swap: bool | None = None,
    ):  # noqa: B008
        self.m, self.n, self.k, self.dtype, self.operands = m, n, k, np.dtype(dtype), operands
        self.arithmetic = arithmetic
        self.steps = -(-k // arithmetic.depth)
        chosen = schedule(m, n, k, self.dtype, threads, operands, blocking, fixed, arithmetic, swap)
        self.plain: GemmPlan | None = None
        if arithmetic.split:
            in_panels = replace(operands, a_direct=False, b_direct=False)
            kept = fixed.plain if fixed else None
            self.plain = GemmPlan(m, n, k, dtype, threads, in_panels, None, kept, FMA, chosen.swap)
            chosen = replace(chosen, plain=self.plain.schedule)
        self.schedule: Schedule = chosen
        self.blocking = chosen.blocking
        self.itemsize, self.lanes = self.dtype.itemsize, detect().lanes(self.dtype)
        self.step_bytes = arithmetic.step_bytes(self.itemsize)
        self.rows, self.columns = (n, m) if chosen.swap else (m, n)
        self._padded = self.rows, chosen.b_cut.length * self.lanes
        self._before = (operands.a_packed, operands.b_packed)[:: -1 if chosen.swap else 1]
        self._tags = [tag_of(operand, chosen, k, self.dtype) for operand in "ab"]
        self.layout = self._layout()
        self.panel_bytes = max(self.layout.total, self.plain.panel_bytes if self.plain else 0)
        self._records: list[Record] = []
        self._template: np.ndarray | None = None

    def _find_kernels(self):
        """The addresses of the micro-kernels for every tile size in use."""
        chosen = self.schedule
        a, b = chosen.a_cut, chosen.b_cut
        self._mr_low, self._nv_low = a.shortest, b.shortest
        self._kernels = np.zeros((2, 2), np.int64)
        for nv in range(self._nv_low, b.longest + 1):
            for mr in range(self._mr_low, a.longest + 1):
                kernel = micro_kernel(self.itemsize, mr, nv, chosen.direct, self.arithmetic)
                self._kernels[nv - self._nv_low, mr - self._mr_low] = kernel.address

    def _layout(self) -> Layout:
        chosen, size = self.schedule, self.step_bytes
        block = chosen.blocking
        height, width = chosen.a_cut.longest, chosen.b_cut.longest * self.lanes
        self._mc_groups = max(1, block.mc // height)
        self._nc_groups = max(1, block.nc // width)
        rows_a_task = -(-chosen.a_cut.parts // chosen.m_tasks)
        columns_a_task = -(-chosen.b_cut.parts // chosen.n_tasks)
        kc = min(block.kc, self.steps)
        a_block = 0 if chosen.share_a or chosen.direct else min(self._mc_groups, rows_a_task) * height * kc * size
        b_block = 0 if chosen.share_b else min(self._nc_groups, columns_a_task) * width * kc * size
        tile = height * width * self.itemsize
        tile += width * -(-height // self.lanes) * self.lanes * self.itemsize
        shared = [self._padded[i] * size * (yes and not before) for i, (yes, before) in enumerate(
            zip((chosen.share_a, chosen.share_b), self._before, strict=True))]  # fmt: skip
        depth = max(1, SHARED_LIMIT // max(1, sum(shared)) // block.kc) * block.kc
        self._round = min(depth, self.steps)
        scan = SCANS if self.arithmetic.split else 0
        parts = *(bytes_a_step * self._round for bytes_a_step in shared), a_block, b_block, tile, scan
        return Layout(*(round_up(int(part)) for part in parts), chosen.threads)

    @property
    def template(self) -> np.ndarray:
        """The call record with all that a run does not change; made, with the kernels compiled, on first use."""
        made = self._template
        if made is None:
            with not_while_forking:  # once: it holds the addresses of tables that this plan keeps
                made = self._template
                if made is None:
                    made = self._template = self._make_template()
        return made

    def _make_template(self) -> np.ndarray:
        self._find_kernels()
        self._a_starts, self._b_starts = self.schedule.a_cut.starts, self.schedule.b_cut.starts
        call = np.zeros(len(FIELD), np.int64)
        chosen, layout = self.schedule, self.layout
        values = {
            "m": self.rows, "n": self.columns, "k": self.steps, "kc": chosen.blocking.kc,
            "itemsize": self.itemsize, "lanes": self.lanes, "step_bytes": self.step_bytes,
            "depth": self.arithmetic.depth, "terms": self.k,
            "a_padded": self._padded[0], "a_starts": address_of(self._a_starts), "a_groups": chosen.a_cut.parts,
            "b_padded": self._padded[1], "b_starts": address_of(self._b_starts), "b_groups": chosen.b_cut.parts,
            "kernels": address_of(self._kernels), "mr_low": self._mr_low, "nv_low": self._nv_low,
            "store": tile_store(self.itemsize).address,
            "m_tasks": chosen.m_tasks, "n_tasks": chosen.n_tasks,
            "mc_groups": self._mc_groups, "nc_groups": self._nc_groups,
            "scratch_step": layout.worker_bytes, "b_offset": layout.a_block,
            "tile_offset": layout.a_block + layout.b_block, "round": self._round,
            "a_shared": layout.a_shared, "b_shared": layout.b_shared, "workers": layout.workers,
            "a_packer": strided_packer(self.itemsize).address, "b_packer": strided_packer(self.itemsize).address,
            "pack_a_task": loops.pack_a_task.address, "pack_b_task": loops.pack_b_task.address,
            "multiply_task": loops.multiply_task.address,
        }  # fmt: skip
        for name, value in values.items():
            call[FIELD[name]] = value
        if self.plain:
            for name, value in self._splitting(self.plain).items():
                call[FIELD[name]] = value
        return call

    def _splitting(self, plain: GemmPlan) -> dict[str, int]:
        """The fields of a call record whose operands are split."""
        before, tiles, configured = self._before, self.arithmetic.tiles, self.arithmetic.backend == "amx"
        packed = next((name for name, is_packed in zip("ab", self._before, strict=True) if is_packed), None)
        return {
            "a_splitter": splitter(self.arithmetic, tiles).address, "b_splitter": splitter(self.arithmetic).address,
            "enter": tiles_for_a_task(1).address if configured else 0,
            "leave": tiles_for_a_task(0).address if configured else 0,
            "plain": address_of(plain.template),
            "a_before": before[0], "b_before": before[1],
            "scan_offset": self.layout.scan_offset,
            "scan_a_task": loops.scan_a_task.address, "scan_b_task": loops.scan_b_task.address,
            "runner": loops.run_split.address, "check": loops.check_fit.address,
            "plain_offset": self.split_bytes("ab"[(packed == "a") == self.schedule.swap]) if packed else 0,
        }  # fmt: skip

    # ------------------------------------------------------------------------------------------------------ packing

    def packed_bytes(self, operand: str) -> int:
        """Bytes of operand "a" or "b" once packed."""
        if self.plain:
            return self.split_bytes(operand) + self.plain.packed_bytes(operand)
        return self._panels_bytes(operand)

    def _panels_bytes(self, operand: str) -> int:
        as_a = (operand == "a") != self.schedule.swap
        return self._padded[0 if as_a else 1] * self.steps * self.step_bytes

    def split_bytes(self, operand: str) -> int:
        """Bytes of an operand's panels in bf16 and of their seal; the float32 panels follow."""
        return round_up(self._panels_bytes(operand)) + SEAL

    def check_tags(self, a, b) -> None:
        """Refuse an operand that was packed for other panels."""
        for operand, tag in ((a, self._tags[0]), (b, self._tags[1])):
            if isinstance(operand, PackedMatrix) and operand.tag != tag:
                raise ShapeError(
                    f"{operand.operand}: it was packed for other panels (shape {operand.shape}, {operand.dtype}) than "
                    f"this product of {self.m} x {self.k} by {self.k} x {self.n} uses; make the plan with "
                    "fixed=packed.schedule"
                )

    def pack(self, operand: str, matrix: Matrix | Source, threads: int = 1) -> PackedMatrix:
        """Pack operand "a" or "b" once, for any number of runs."""
        data = aligned(self.packed_bytes(operand))
        self._pack_into(data, operand, matrix, threads)
        shape = (self.m, self.k) if operand == "a" else (self.k, self.n)
        if not self.plain:
            return PackedMatrix(operand, shape, self.dtype, data, self.schedule)
        panels = data[self.split_bytes(operand) :]
        self.plain._pack_into(panels, operand, matrix, threads)
        plain = PackedMatrix(operand, shape, self.dtype, panels, self.plain.schedule)
        return PackedMatrix(operand, shape, self.dtype, data, self.schedule, plain)

    def _pack_into(self, data: np.ndarray, operand: str, matrix: Matrix | Source, threads: int) -> None:
        """Write an operand's panels, and behind those in bf16 what was seen of it."""
        as_a = (operand == "a") != self.schedule.swap
        record = self._record()
        call = record.call
        record.set_operand("a" if as_a else "b", matrix, operand == "a")
        call[FIELD["k_first"]], call[FIELD["k_end"]] = 0, self.steps
        call[FIELD["a_panels" if as_a else "b_panels"]] = address_of(data)
        cut, groups = (self.schedule.a_cut, self._mc_groups) if as_a else (self.schedule.b_cut, self._nc_groups)
        scans = Scans(self.layout.worker_bytes, self.layout.scan_offset, threads if self.plain else 0)
        call[FIELD["scratch"]] = scans.address
        parallel(loops.pack_a_task if as_a else loops.pack_b_task, -(-cut.parts // groups), record.address, threads)
        if self.plain:
            scans.seal(as_a, address_of(data) + self.split_bytes(operand) - SEAL)
        self._records.append(record)

    # ---------------------------------------------------------------------------------------------------------- run

    def run(self, a, b, c: Matrix, workspace: int, accumulate: bool = False, finish: Finish | None = None) -> None:
        """Compute C.

        Parameters
        ----------
        a, b : Matrix, Source or PackedMatrix
            The operands; packed exactly if the plan was made for that.
        c : Matrix
            The result.
        workspace : int
            Address of `panel_bytes` bytes, aligned to ``workspace.ALIGNMENT``.
        accumulate : bool
            Add to what C holds.
        finish : Finish, optional
            Scale, biases, residual and limits, applied in the last store.
        """
        self.check_tags(a, b)
        record = self._record()
        keep = self._describe(record, a, b, c, workspace, accumulate, finish)
        loops.run_rounds(*pool_for(self.schedule.threads), record.address)
        del keep
        self._records.append(record)

    def _record(self) -> Record:
        """A call record that nobody uses; it goes back to the others afterwards."""
        try:
            return self._records.pop()
        except IndexError:
            return Record(self)

    def _describe(self, record: Record, a, b, c: Matrix, workspace: int, accumulate: bool, finish: Finish | None):
        """Write all of a run into a record; returns what must stay alive."""
        if self.schedule.swap:
            c, finish = c.transposed, finish.transposed if finish else None
            record.set_operand("a", b, False)
            record.set_operand("b", a, True)
        else:
            record.set_operand("a", a, True)
            record.set_operand("b", b, False)
        record.set_workspace(workspace, accumulate)
        return fill_result(record.call, c, finish, self.dtype)

    def described(self, a, b, c: Matrix, workspace: int, accumulate: bool = False, finish: Finish | None = None):
        """What ``run`` would hand to ``loops.run_rounds``.

        Returns
        -------
        records : list of ndarray
            The call record and others that it points at; empty where a source does not say what its record is.
        pointers : list of (record's number, offset)
            Where in them are addresses.
        keep : object
            What they point at that is no array of the run.
        """
        record = Record(self)
        keep = self._describe(record, a, b, c, workspace, accumulate, finish)
        sources = [operand for operand in (a, b) if isinstance(operand, Source)]
        if any(source.record is None for source in sources):
            return [], [], None
        records = [record.call, record.sources, *(source.record for source in sources)]
        bases = [(1, 0), (1, record.sources.strides[0])]
        pointers = [(0, 8 * FIELD[name]) for name in POINTERS] + bases + [(2 + i, 0) for i in range(len(sources))]
        finishing = keep[0]
        return records, pointers, (self, finishing)


@functools.lru_cache(1024)
def gemm_plan(
    m: int,
    n: int,
    k: int,
    dtype: np.dtype,
    threads: int,
    operands: Operands,
    blocking: Blocking | None = None,
    fixed: Schedule | None = None,
    arithmetic: Arithmetic = FMA,
) -> GemmPlan:
    """A ``GemmPlan``, remembered.

    It has the arithmetic that `fixed` has; or else the one given, if its schedule counts fewer cycles than that of
    float32, or if that was asked for by name.
    """
    if fixed:
        return GemmPlan(m, n, k, dtype, threads, operands, blocking, fixed, fixed.arithmetic)
    plain = GemmPlan(m, n, k, dtype, threads, operands, blocking)
    if not arithmetic.split or blocking or np.dtype(dtype) != np.float32:
        return plain
    split = GemmPlan(m, n, k, dtype, threads, operands, None, None, arithmetic)
    return split if arithmetic.forced or split.schedule.cycles < plain.schedule.cycles else plain
