# mypy: ignore-errors
# Kernels are typed by Numba.
"""The kernels that try the words of CUDA kernels one by one: one block each, built by cached factories."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import types

from numbaconv.devices.intrinsics import (
    cp_async1,
    cp_async16,
    cp_async_commit,
    cp_async_wait,
    cuda,
    float32,
    float64,
    int32,
    ld1_zfill,
    ldv,
    ldv_zfill,
    multiply_tile,
    multiply_tile_mma,
    shfl_down,
    shfl_xor,
    stv,
    syncwarp,
    take_row,
    udiv32,
    umod32,
)
from numbaconv.jit_cuda import Kernel, pointer, record

THREADS = 128
AMPERE = (8, 0)
BK, WM, WN = 16, 64, 32
FAR = 1 << 30
INTS = types.CPointer(types.int32)
wait_all = cp_async_wait(0)


@functools.cache
def vectors(itemsize: int) -> Kernel:
    """Each thread turns its vector round."""
    load, store, width = ldv(itemsize), stv(itemsize), 16 // itemsize
    four = width == 4

    def kernel(a, out):
        at = int32(cuda.threadIdx.x * width)
        v = load(a, at)
        if four:
            store(out, at, v[3], v[2], v[1], v[0])
        else:
            store(out, at, v[1], v[0])

    kind = pointer(itemsize)
    return Kernel(f"check_vectors_{itemsize}", kernel, types.void(kind, kind), 32)


@functools.cache
def some(itemsize: int) -> Kernel:
    """The first `counts` elements of each thread's vector."""
    load, width = ldv_zfill(itemsize), 16 // itemsize

    def kernel(a, counts, out):
        me = int32(cuda.threadIdx.x)
        v = load(a, int32(me * width), counts[me])
        for j in range(width):
            out[int32(me * width + j)] = v[j]

    kind = pointer(itemsize)
    return Kernel(f"check_some_{itemsize}", kernel, types.void(kind, INTS, kind), 32)


@functools.cache
def one(real: Any) -> Kernel:
    """An element where `counts` is 1, else one far away that must not be touched."""

    def kernel(a, counts, out):
        me = int32(cuda.threadIdx.x)
        index = int32(3 * me) if counts[me] > 0 else int32(FAR)
        out[me] = ld1_zfill(a, index, counts[me])

    kind = types.CPointer(real)
    return Kernel(f"check_one_{real}", kernel, types.void(kind, INTS, kind), 32)


@functools.cache
def copies(itemsize: int, width: int) -> Kernel:
    """A warp's copies to shared memory, of a vector each or of an element."""
    real, copy, cells = (float32 if itemsize == 4 else float64), (cp_async1 if width == 1 else cp_async16), 32 * width

    def kernel(a, counts, places, out):
        shared = cuda.shared.array(cells, real, alignment=16)
        me = int32(cuda.threadIdx.x)
        for j in range(width):
            shared[int32(me * width + j)] = real(-1)
        cuda.syncthreads()
        count = counts[me]
        index = int32(me * width) if count > 0 else int32(FAR)
        copy(shared, int32(places[me] * width), a, index, count)
        cp_async_commit()
        wait_all()
        cuda.syncthreads()
        for j in range(width):
            out[int32(me * width + j)] = shared[int32(me * width + j)]

    kind = pointer(itemsize)
    return Kernel(f"check_copies_{itemsize}x{width}", kernel, types.void(kind, INTS, INTS, kind), 32, least=AMPERE)


@functools.cache
def groups(pending: int) -> Kernel:
    """Sums over tiles of what another thread copied, `pending` tiles ahead of their use."""
    slots, wait = pending + 1, cp_async_wait(pending)
    cells = slots * THREADS

    def kernel(a, out, tiles):
        shared = cuda.shared.array(cells, float32)
        me = int32(cuda.threadIdx.x)
        total, slot, into = float32(0), int32(0), int32(0)
        for t in range(pending):
            cp_async1(shared, int32(into + me), a, int32(t * THREADS + me), int32(1) if t < tiles else int32(0))
            cp_async_commit()
            into = int32(into + THREADS)
        for t in range(tiles):
            ahead = int32(t + pending)
            cp_async1(shared, int32(into + me), a, int32(ahead * THREADS + me), int32(1) if ahead < tiles else int32(0))
            cp_async_commit()
            wait()
            cuda.syncthreads()
            total += shared[int32(slot + (me ^ 37))] * float32(t + 1)
            cuda.syncthreads()
            slot = int32(slot + THREADS) if slot + THREADS < cells else int32(0)
            into = int32(into + THREADS) if into + THREADS < cells else int32(0)
        wait_all()
        out[me] = total

    kind = pointer(4)
    return Kernel(f"check_groups_{pending}", kernel, types.void(kind, kind, types.int32), THREADS, least=AMPERE)


@functools.cache
def shuffles(real: Any) -> Kernel:
    def kernel(a, down, across, by):
        me = int32(cuda.threadIdx.x)
        down[me] = shfl_down(a[me], by)
        across[me] = shfl_xor(a[me], by)

    kind = types.CPointer(real)
    return Kernel(f"check_shuffles_{real}", kernel, types.void(kind, kind, kind, types.int32), 64)


@functools.cache
def warps() -> Kernel:
    """What the lane opposite wrote, without a barrier of the block."""

    def kernel(a, out):
        shared = cuda.shared.array(64, float32)
        me = int32(cuda.threadIdx.x)
        shared[me] = a[me]
        syncwarp()
        out[me] = shared[me ^ 31]

    return Kernel("check_syncwarp", kernel, types.void(pointer(4), pointer(4)), 64)


@functools.cache
def divisions() -> Kernel:
    def kernel(a, b, quotients, remainders):
        me = int32(cuda.threadIdx.x)
        quotients[me] = int32(udiv32(a[me], b[me]))
        remainders[me] = int32(umod32(a[me], b[me]))

    return Kernel("check_divisions", kernel, types.void(INTS, INTS, INTS, INTS), 32)


@functools.cache
def tiles(itemsize: int) -> tuple[Kernel, tuple[int, int, int], tuple[np.ndarray, np.ndarray]]:
    """A warp's product; depth and sides of its tiles; rows and columns of each lane."""
    mr, nr, vector = 8, 4, 16 // itemsize
    bk, bm, bn = 16, 8 * mr, 4 * nr
    step_m, step_n = 8 * vector, 4 * vector
    multiply, take = multiply_tile(bk, bm, bn, mr, nr, step_m, step_n, itemsize), take_row(mr, nr, itemsize)
    real, cells_a, cells_b, count = (float32 if itemsize == 4 else float64), bk * bm, bk * bn, mr * nr

    def kernel(a, b, out):
        shared_a = cuda.shared.array(cells_a, real, alignment=16)
        shared_b = cuda.shared.array(cells_b, real, alignment=16)
        sums, line = cuda.local.array(count, real), cuda.local.array(nr, real)
        me = int32(cuda.threadIdx.x)
        for i in range(me, cells_a, 32):
            shared_a[i] = a[i]
        for i in range(me, cells_b, 32):
            shared_b[i] = b[i]
        for i in range(count):
            sums[i] = real(0)
        cuda.syncthreads()
        multiply(shared_a, int32((me >> 2) * vector), shared_b, int32((me & 3) * vector), sums)
        for i in range(mr):
            take(sums, int32(i), line)
            for j in range(nr):
                out[int32(me * count + i * nr + j)] = line[j]

    kind, lanes = pointer(itemsize), np.arange(32)[:, None]
    rows = (lanes >> 2) * vector + step_m * (np.arange(mr) // vector) + np.arange(mr) % vector
    columns = (lanes & 3) * vector + step_n * (np.arange(nr) // vector) + np.arange(nr) % vector
    made = Kernel(f"check_tiles_{itemsize}", kernel, types.void(kind, kind, kind), 32)
    return made, (bk, bm, bn), (rows, columns)


@functools.cache
def fragments(terms: int) -> Kernel:
    """A warp's product on tensor cores: A (BK, WM), B (BK, WN), out (WM, WN)."""
    pitch_m, pitch_n, rows, columns = WM + 8, WN + 8, WM // 8, WN // 4
    multiply = multiply_tile_mma(BK, pitch_m, pitch_n, WM, WN, terms)
    cells_a, cells_b, count = BK * pitch_m, BK * pitch_n, rows * columns

    def kernel(a, b, out):
        shared_a, shared_b = cuda.shared.array(cells_a, float32), cuda.shared.array(cells_b, float32)
        sums = cuda.local.array(count, float32)
        me = int32(cuda.threadIdx.x)
        for p in range(BK):
            for i in range(me, WM, 32):
                shared_a[int32(p * pitch_m + i)] = a[int32(p * WM + i)]
            for j in range(me, WN, 32):
                shared_b[int32(p * pitch_n + j)] = b[int32(p * WN + j)]
        for i in range(count):
            sums[i] = float32(0)
        cuda.syncthreads()
        multiply(shared_a, int32(0), shared_b, int32(0), me, sums)
        for r in range(rows):
            for s in range(columns):
                row, column = int32(8 * r + (me >> 2)), int32(8 * (s >> 1) + 2 * (me & 3) + (s & 1))
                out[int32(row * WN + column)] = sums[r * columns + s]

    kind = pointer(4)
    return Kernel(f"check_fragments_{terms}", kernel, types.void(kind, kind, kind), 32, least=AMPERE)


class Shape(NamedTuple):
    rows: int
    columns: int
    step: int


@functools.cache
def arguments() -> Kernel:
    """Its arguments, in the order they come."""

    def kernel(out, nothing, shape, small, single, table, double, large):
        if int32(cuda.threadIdx.x) == 0:
            out[0], out[1], out[2] = float64(shape.rows), float64(shape.columns), float64(shape.step)
            out[3], out[4], out[5] = float64(small), float64(single), double
            out[6], out[7] = float64(large), float64(table[3])

    signature = types.void(pointer(8), pointer(4), record(Shape), types.int32, types.float32, INTS, types.float64,
                           types.int32)  # fmt: skip
    return Kernel("check_arguments", kernel, signature, 32)
