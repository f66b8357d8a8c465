"""How a block's tiles of A and B get into shared memory: ``rows`` by 128 bits, ``strided`` element by element.

A loader is a few functions that the GEMM kernel calls (``cuda.gemm_kernel``); every thread keeps its place in an array
`state` of 32-bit registers. Others than these two are written where they belong: a lowering's finds patches of images.

    begin(state, g, thread, first, limit, k, k_end, batch)    where this thread's share of the first tile lies
    start(shared, slot, memory, table, state, g)              asynchronous copies of its share of a tile
    fetch(held, memory, table, state, g)                      the same through registers, first half ...
    put(shared, slot, held, state)                            ... and second
    advance(state, g)                                         a tile further along k

`g` is the operand's record, `first` the block's first column and `limit` the operand's number of columns, [k, k_end)
the rows that the block sums up, `table` a further array that a loader may look things up in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from numbaconv.devices.intrinsics import cp_async1, cp_async16, cuda, int32, ld1_zfill, ldv_zfill, stv, udiv32, umod32
from numbaconv.jit_cuda import Function

ALONG_K = 8
"""Neighbouring threads that read along k: with four columns a warp, 32 bytes of each, and 32 different banks."""


@dataclass(frozen=True)
class Share:
    """The part of an operand's tile that each thread copies: a tile of bk rows of `width`, `pitch` apart in memory."""

    itemsize: int
    width: int
    pitch: int
    bk: int
    threads: int


@dataclass(frozen=True)
class Loader:
    """The functions of a loader (see above), its operand's record, and the registers it needs."""

    record: type
    registers: int
    held: int
    begin: Function
    start: Function
    fetch: Function
    put: Function
    advance: Function


@dataclass(frozen=True)
class Kind:
    """A way to load, of which each tile has its ``Loader``: ``make(share)``.

    Attributes
    ----------
    name : str
    make : callable
    along_k : bool
        Whether neighbouring threads read along k (and shared memory wants padded rows).
    """

    name: str
    make: Callable[[Share], Loader]
    along_k: bool = False


class Rows(NamedTuple):
    """k rows of contiguous columns: row and batch steps in elements, multiples of 128 bits."""

    step_k: int
    batch: int


@functools.cache
def _rows(share: Share) -> Loader:
    vector = 16 // share.itemsize
    vectors = share.width // vector
    down = share.threads // vectors  # rows that all threads copy at once
    steps, bk, pitch, below = share.bk // down, share.bk, share.pitch, down * share.pitch
    load, store, held_count = ldv_zfill(share.itemsize), stv(share.itemsize), steps * vector
    four = vector == 4

    def begin(state, g, thread, first, limit, k, k_end, batch):
        row, column = int32(udiv32(thread, vectors)), int32(umod32(thread, vectors) * vector)
        some = int32(limit - first - column)
        state[0] = int32(batch * g.batch + (k + row) * g.step_k + first + column)
        state[1] = int32(k_end - k)  # the same for all threads: it takes no register of theirs
        state[2] = int32(0) if some < 0 else int32(vector) if some > vector else some
        state[3] = int32(row * pitch + column)

    def start(shared, slot, memory, table, state, g):
        left = int32(state[1] - int32(udiv32(cuda.threadIdx.x, vectors)))
        for i in range(steps):
            count = state[2] if left > i * down else int32(0)
            cp_async16(shared, int32(slot + state[3] + i * below), memory, int32(state[0] + i * down * g.step_k), count)

    def fetch(held, memory, table, state, g):
        left = int32(state[1] - int32(udiv32(cuda.threadIdx.x, vectors)))
        for i in range(steps):
            count = state[2] if left > i * down else int32(0)
            values = load(memory, int32(state[0] + i * down * g.step_k), count)
            for j in range(vector):
                held[i * vector + j] = values[j]

    def put(shared, slot, held, state):
        for i in range(steps):
            to, h = int32(slot + state[3] + i * below), i * vector
            if four:
                store(shared, to, held[h], held[h + 1], held[h + 2], held[h + 3])
            else:
                store(shared, to, held[h], held[h + 1])

    def advance(state, g):
        state[0] = int32(state[0] + bk * g.step_k)
        state[1] = int32(state[1] - bk)

    return Loader(Rows, 4, held_count, *map(Function, (begin, start, fetch, put, advance)))


class Strided(NamedTuple):
    """Any matrix: element (k, column) is at k·step_k + column·step, in elements; and the step from batch to batch."""

    step_k: int
    step: int
    batch: int


@dataclass(frozen=True)
class Runs:
    """What a gathering loader is told of its operand: where a column's run of rows begins and how long it is.

    ``along(state, g, k)`` and ``step(state, g)`` keep `registers` of state about k, before and after a tile's rows;
    ``column(state, at, g, j, batch)`` keeps `each` registers about column `j` (-1: there is none) from `at` on;
    ``place(state, at, g, table, row, left)`` gives (index, rows) of the run from the tile's row `row` on: elements
    ``index + i·step_k`` while i < rows, of which `left` at most count. `single`: runs are of one element.
    """

    name: str
    record: type
    registers: int
    each: int
    along: Function
    step: Function
    column: Function
    place: Function
    single: bool = False


def gathered(runs: Callable[[int], Runs], along_k: bool) -> Callable[[Share], Loader]:
    """Loaders that copy element by element what `runs`, made for a tile's depth, finds."""

    @functools.cache
    def make(share: Share) -> Loader:
        told = runs(share.bk)
        across = ALONG_K if along_k else share.threads // share.width
        columns = share.width * across // share.threads  # of a thread
        steps, bk, pitch, width = share.bk // across, share.bk, share.pitch, share.width
        apart = share.threads // across if along_k else 0  # from one of its columns to the next
        if columns < 1 or share.bk % across or share.threads % across:
            raise ValueError(f"{share}: {share.threads} threads cannot gather {share.bk} x {share.width}")
        head, each = 3 + told.registers, told.each
        along, step, column, place, single = told.along, told.step, told.column, told.place, told.single

        def begin(state, g, thread, first, limit, k, k_end, batch):
            if along_k:
                row, j = int32(thread & (across - 1)), int32(udiv32(thread, across))
            else:
                row, j = int32(udiv32(thread, width)), int32(umod32(thread, width))
            state[0] = int32(k_end - k - row)
            state[1] = row
            state[2] = int32(row * pitch + j)
            along(state, g, k)
            for i in range(columns):
                x = int32(first + j + i * apart)
                column(state, head + i * each, g, x if x < limit else int32(-1), batch)

        def start(shared, slot, memory, table, state, g):
            for i in range(columns):
                index, rows = place(state, head + i * each, g, table, state[1], state[0])
                for p in range(steps):
                    down = p * across
                    if single and p > 0:
                        index, rows = place(state, head + i * each, g, table, state[1] + down, state[0] - down)
                    at, some = (index, rows) if single else (int32(index + down * g.step_k), int32(rows - down))
                    to = int32(slot + state[2] + i * apart + down * pitch)
                    cp_async1(shared, to, memory, at, int32(1) if some > 0 else int32(0))

        def fetch(held, memory, table, state, g):
            for i in range(columns):
                index, rows = place(state, head + i * each, g, table, state[1], state[0])
                for p in range(steps):
                    down = p * across
                    if single and p > 0:
                        index, rows = place(state, head + i * each, g, table, state[1] + down, state[0] - down)
                    at, some = (index, rows) if single else (int32(index + down * g.step_k), int32(rows - down))
                    held[i * steps + p] = ld1_zfill(memory, at, int32(1) if some > 0 else int32(0))

        def put(shared, slot, held, state):
            for i in range(columns):
                for p in range(steps):
                    shared[int32(slot + state[2] + i * apart + p * across * pitch)] = held[i * steps + p]

        def advance(state, g):
            state[0] = int32(state[0] - bk)
            step(state, g)

        functions = map(Function, (begin, start, fetch, put, advance))
        return Loader(told.record, head + columns * each, columns * steps, *functions)

    return make


@functools.cache
def _matrix(bk: int) -> Runs:
    def along(state, g, k):
        state[3] = int32((k + state[1]) * g.step_k)

    def step(state, g):
        state[3] = int32(state[3] + bk * g.step_k)

    def column(state, at, g, j, batch):
        state[at] = int32(batch * g.batch + j * g.step) if j >= 0 else int32(-1)

    def place(state, at, g, table, row, left):
        return int32(state[at] + state[3]), left if state[at] >= 0 else int32(0)

    return Runs("matrix", Strided, 1, 1, *map(Function, (along, step, column, place)))


ROWS = Kind("rows", _rows)
STRIDED = Kind("strided", gathered(_matrix, along_k=False))
STRIDED_ALONG_K = Kind("stridedk", gathered(_matrix, along_k=True), along_k=True)
