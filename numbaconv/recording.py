"""A call's compiled tasks, kept to be run again on other arrays: what a call decides, it decides once.

Small convolutions are over in microseconds; choosing tiles, filling records and calling task by task from Python takes
longer. All of that depends on shapes and strides alone, and what else a task is told are addresses. So a
``RecordingContext`` notes what a call runs, and ``Recording.run`` does it again in one compiled call, the same numbers
and addresses counted from wherever the arrays are now. ``devices/replay.py`` is the same idea on a GPU.

    tape    body, tasks, threads, moves, words │ moves: place, base, offset ... │ words of the record ... next step
            copied to the stack, word[place] = address of base + offset, then run: any number of callers share a tape
"""

from __future__ import annotations

import functools
import time
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from numbaconv.devices.threads import fork_join, pool_for
from numbaconv.gemm import GemmPlan, PackedMatrix
from numbaconv.gemm.loops import run_rounds
from numbaconv.jit import Native, compiled
from numbaconv.lowering import STAGES, Context
from numbaconv.simd import load_i64, stack, store_i64
from numbaconv.workspace import address_of

ROOM = 4096
"""Bytes of the largest record."""
MOST_WORDS = 1 << 13
"""Of a tape: calls with more tasks are not worth it."""
HEAD = 5
SELF, X, OUT, RESIDUAL, SCRATCH, KEPT = range(6)
"""What an address is counted from: its own record, an array of the call, or one that is kept from call to call."""


@compiled
def play(tape, steps, pool, threads, x, out, residual, scratch, kept):
    """Run steps of a tape; the bias and the arrays of prepared weights have their addresses in a table, `kept`."""
    bases, room = stack(8 * 5), stack(ROOM)
    store_i64(bases + 8 * SELF, room)
    store_i64(bases + 8 * X, x)
    store_i64(bases + 8 * OUT, out)
    store_i64(bases + 8 * RESIDUAL, residual)
    store_i64(bases + 8 * SCRATCH, scratch)
    for _ in range(steps):
        body, tasks, most = load_i64(tape), load_i64(tape + 8), load_i64(tape + 16)
        moves, words = load_i64(tape + 24), load_i64(tape + 32)
        move = tape + 8 * HEAD
        record = move + 24 * moves
        for word in range(words):
            store_i64(room + 8 * word, load_i64(record + 8 * word))
        for _ in range(moves):
            base = load_i64(move + 8)
            table, place = (bases, base) if base < KEPT else (kept, base - KEPT)
            store_i64(room + load_i64(move), load_i64(table + 8 * place) + load_i64(move + 16))
            move += 24
        if body:
            fork_join(pool, body, tasks, room, min(most, threads))
        else:
            run_rounds(pool, min(most, threads), room)
        tape = record + 8 * words


@functools.cache
def _player():
    """``play``, compiled before anything is timed."""
    play(0, 0, 0, 1, 0, 0, 0, 0, 0)
    return play


class Recording:
    """What a call ran.

    Attributes
    ----------
    parts : list of (stage, address of its first step on tape, number of steps)
    threads : int
        The most that a step uses.
    keep : list
        What its records point at that is the same in every call: tables, limits. No array of a call is among them.
    """

    def __init__(self, tape: list[int], parts: list[tuple[str, int, int]], threads: int, keep: list):
        self._tape = np.array(tape, np.int64)
        self.parts = [(stage, address_of(self._tape) + 8 * place, steps) for stage, place, steps in parts]
        self.threads, self.keep = threads, keep

    def run(self, x: int, out: int, residual: int, scratch: int, kept: int) -> dict[str, float]:
        """Run it on arrays at these addresses; returns the seconds of each stage."""
        seconds = dict.fromkeys(STAGES, 0.0)
        run, (pool, threads) = _player(), pool_for(self.threads)
        for stage, tape, steps in self.parts:
            start = time.perf_counter()
            run(tape, steps, pool, threads, x, out, residual, scratch, kept)
            seconds[stage] += time.perf_counter() - start
        return seconds


class Span(NamedTuple):
    """Memory of the call: its base on tape, and where it begins and ends."""

    base: int
    begin: int
    end: int

    @classmethod
    def of(cls, base: int, array: np.ndarray) -> Span:
        """Of an array whose steps all run forward."""
        begin = address_of(array)
        return cls(base, begin, begin + extent(array.shape, array.strides, array.itemsize))


def extent(shape, strides, itemsize: int) -> int:
    """Bytes from the first of an array's elements to the end of the last."""
    return sum((size - 1) * step for size, step in zip(shape, strides, strict=True)) + itemsize if 0 not in shape else 0


def weights_in(prepared: Any) -> list[np.ndarray]:
    """The arrays that prepared weights consist of, always in the same order.

    Raises
    ------
    TypeError
        When they hold anything else.
    """
    if isinstance(prepared, np.ndarray):
        return [prepared]
    if isinstance(prepared, PackedMatrix):
        return [prepared.data]
    if isinstance(prepared, list | tuple):
        return [array for part in prepared for array in weights_in(part)]
    raise TypeError(f"prepared weights: expected arrays, packed matrices or lists of them, got {prepared!r}")


class Kept:
    """Where prepared weights and a bias lie, as ``Recording.run`` takes it; they must outlive it."""

    __slots__ = ("address", "table")

    def __init__(self, prepared: Any, bias: np.ndarray | None):
        places = [0 if bias is None else address_of(bias)]
        places += [address_of(prepared)] if type(prepared) is np.ndarray else map(address_of, weights_in(prepared))
        self.table = np.array(places, np.int64)
        self.address = address_of(self.table)


class Recorder:
    """Notes what a call runs; `usable` as long as that can be run again on other arrays."""

    def __init__(self, x, out, residual, prepared, bias):
        self.usable, self.keep = True, []
        self._spans = [Span.of(X, x), Span.of(OUT, out)]
        self._tape: list[int] = []
        self._parts: list[tuple[str, int, int]] = []
        self._threads = 1
        if residual is not None:
            self._spans.append(Span.of(RESIDUAL, residual))
        if bias is not None:
            self._spans.append(Span.of(KEPT, bias))
        self._spans += [Span.of(KEPT + 1 + number, array) for number, array in enumerate(weights_in(prepared))]
        ordered = sorted(self._spans, key=lambda span: span.begin)
        if any(before.end > after.begin for before, after in pairwise(ordered)):
            self.usable = False  # an address in two arrays: nobody knows which was meant

    def scratch(self, memory: np.ndarray, address: int) -> None:
        """From now on this is the call's scratch."""
        spans = [span for span in self._spans if span.base != SCRATCH]
        self._spans = [*spans, Span(SCRATCH, address, address + len(memory))]

    def note(self, stage: str, body: int, tasks: int, threads: int, records: list[np.ndarray], pointers) -> None:
        """One more step.

        Parameters
        ----------
        body : int
            Of the task; 0 for a product's rounds.
        records : list of ndarray
            The record that is handed to the task, and others that it or they point at: they move with it.
        pointers : list of (record's number, offset in bytes)
            Where in them are addresses.
        """
        starts: list[int] = []
        words: list[int] = []
        for record in records:
            data = record.tobytes()
            starts.append(8 * len(words))
            words += np.frombuffer(data + bytes(-len(data) % 8), np.int64).tolist()
        own = [(address_of(record), record.nbytes, start) for record, start in zip(records, starts, strict=True)]
        moves: list[int] = []
        for number, offset in pointers:
            place = starts[number] + offset
            value = words[place // 8]
            found = self._moving(value, own)
            self.usable = self.usable and place % 8 == 0
            if found:
                moves += place, *found
        step = [body, tasks, threads, len(moves) // 3, len(words), *moves, *words]
        self.usable = self.usable and 8 * len(words) <= ROOM and len(self._tape) + len(step) <= MOST_WORDS
        if not self.usable:
            return
        if self._parts and self._parts[-1][0] == stage:
            _, place, steps = self._parts.pop()
            self._parts.append((stage, place, steps + 1))
        else:
            self._parts.append((stage, len(self._tape), 1))
        self._tape += step
        self._threads = max(self._threads, threads)

    def _moving(self, value: int, own) -> tuple[int, int] | None:
        """(base, offset) of an address that is another in other calls; None of one that stays, or of none."""
        for begin, size, start in own:
            if begin <= value < begin + size:
                return SELF, start + value - begin
        for span in self._spans:
            if span.begin <= value < span.end:
                return span.base, value - span.begin
        return None

    @property
    def recording(self) -> Recording | None:
        """All that was noted; None where something could not be, or nothing was."""
        usable = self.usable and self._parts
        return Recording(self._tape, self._parts, self._threads, self.keep) if usable else None


class RecordingContext(Context):
    """A context that also notes what is run, and gives up where it cannot see all of it."""

    def __init__(self, recorder: Recorder, *arguments):
        super().__init__(*arguments)
        self._recorder = recorder
        recorder.scratch(self.arena.memory, self.arena.address)

    def _run_stage(self, stage, work, arguments, arrays):
        placed = super()._run_stage(stage, work, arguments, arrays)
        if placed is None or not isinstance(work, Native):
            self._recorder.usable = False
            return placed
        tasks, record = arguments
        offsets = [(0, record.dtype.fields[name][1]) for name in arrays]
        self._recorder.keep += [work, record]
        self._recorder.keep += [array for array in arrays.values() if array is not None and self._stays(array)]
        self._recorder.note(stage, work.address, tasks, self.threads if tasks > 1 else 1, [placed], offsets)
        return placed

    def _stays(self, array: np.ndarray) -> bool:
        return self._recorder._moving(address_of(array), ()) is None

    def _product(self, plan: GemmPlan, a, b, c, workspace, accumulate, finish):
        records, pointers, keep = plan.described(a, b, c, workspace, accumulate, finish)
        if records:
            self._recorder.keep.append(keep)
            self._recorder.note("multiply", 0, 0, plan.schedule.threads, records, pointers)
        else:
            self._recorder.usable = False
        super()._product(plan, a, b, c, workspace, accumulate, finish)

    def multiply_chain(self, *arguments):
        self._recorder.usable = False
        super().multiply_chain(*arguments)
