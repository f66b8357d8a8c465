"""SGEMM for NVIDIA GPUs: C = clamp(alpha · A · B + beta · C + bias), in tiles of shared memory and of registers.

::

      operands, both with k down:      a block's tile of C, in warps:      a warp's, in lanes:

        A (k, m)      B (k, n)             bn                              8 x 4 lanes; a lane has mr x nr sums
       ┌──bm──┐      ┌──bn──┐         ┌────────┬────────┐                  in fours: rows r .. r+3 and r+32 .. r+35,
     bk│ tile │    bk│ tile │         │ warp 0 │ warp 1 │ bm               columns s .. s+3 and s+16 .. s+19, so
       └──────┘      └──────┘         ├────────┼────────┤                  that a warp's 128-bit loads lie side by side
          bk rows of each are copied  │ warp 2 │ warp 3 │
          to shared memory, ahead     └────────┴────────┘

Each operand is k rows of contiguous memory, row stride a multiple of four, 16-byte aligned: row-major B and
column-major A as they are, anything else after ``pack``. C is aligned likewise where its stride is such a multiple.
Edges: what lies beyond m, n or k is zero in shared memory, and not stored. Index arithmetic is 32 bits wide
(``cuda_tile.check_sizes``). Kernels are plain functions: ``jit_cuda.cuda_compile`` compiles them,
``devices.emulator.launch`` runs them. Shape and lane order are those of CUTLASS's SIMT kernels
(https://github.com/NVIDIA/cutlass).
"""

from __future__ import annotations

import functools

from numba import types

from numbaconv.devices.intrinsics import (
    cp_async16,
    cp_async_commit,
    cp_async_wait,
    cuda,
    float32,
    int32,
    ld4_zfill,
    multiply_tile,
    st4,
    take_row,
    udiv32,
    umod32,
)
from numbaconv.gemm.cuda_tile import GROUP, LANES_M, LANES_N, Kernel, Tile

FLOATS = types.CPointer(types.float32)
BIASES = (None, "row", "column")
PACK = 32  # side of pack's tile


@functools.cache
def sgemm(tile: Tile, bias: str | None = None) -> Kernel:
    """The kernel for `tile`, with a bias for each "row" of C, each "column", or none.

    Its arguments: a, b, c, bias (pointers); m, n, k, lda, ldb, ldc; alpha, beta, low, high. A and B are k rows with
    strides lda and ldb, C is m rows with stride ldc; with ``beta = 0`` C is not read. Results are limited to
    [low, high] (relu: 0 and infinity). k may be 0. The grid is ``cuda_tile.sgemm_grid``'s.
    """
    bm, bn, bk, mr, nr = tile.bm, tile.bn, tile.bk, tile.mr, tile.nr
    slots, slot_a, slot_b = tile.slots, bk * bm, bk * bn
    copies, all_a, all_b = slots - 1, slots * slot_a, slots * slot_b
    asynchronous = tile.stages > 0
    quads_a, quads_b = bm // 4, bn // 4
    down_a, down_b = tile.threads // quads_a, tile.threads // quads_b  # rows that all threads copy at once
    steps_a, steps_b = bk // down_a, bk // down_b
    count_a, count_b, pitch_a, pitch_b = 4 * steps_a, 4 * steps_b, down_a * bm, down_b * bn
    last_a, last_b = copies * slot_a, copies * slot_b
    warps_n, warp_m, warp_n = bn // (LANES_N * nr), LANES_M * mr, LANES_N * nr
    step_m, step_n, fours_n, sums_count = LANES_M * 4, LANES_N * 4, nr // 4, mr * nr
    by_row, by_column = bias == "row", bias == "column"
    if bias not in BIASES:
        raise ValueError(f"bias {bias!r} is none of {BIASES}")
    multiply = multiply_tile(bk, bm, bn, mr, nr, step_m, step_n)
    take = take_row(mr, nr)
    wait, wait_all = cp_async_wait(slots - 2), cp_async_wait(0)

    def kernel(a, b, c, bias, m, n, k, lda, ldb, ldc, alpha, beta, low, high):
        shared_a = cuda.shared.array(all_a, float32, alignment=16)
        shared_b = cuda.shared.array(all_b, float32, alignment=16)
        sums = cuda.local.array(sums_count, float32)
        line = cuda.local.array(nr, float32)
        held_a, held_b = cuda.local.array(count_a, float32), cuda.local.array(count_b, float32)
        thread = int32(cuda.threadIdx.x)

        # This block's tile of C: GROUP rows of tiles at a time, column after column.
        tiles_m, tiles_n = int32(udiv32(m + bm - 1, bm)), int32(udiv32(n + bn - 1, bn))
        number = int32(cuda.blockIdx.x)
        group = int32(GROUP * tiles_n)
        first = int32(int32(udiv32(number, group)) * GROUP)
        height = int32(tiles_m - first) if tiles_m - first < GROUP else int32(GROUP)
        within = umod32(number, group)
        top = int32((first + int32(umod32(within, height))) * bm)
        left = int32(int32(udiv32(within, height)) * bn)

        # What this thread copies of each tile of A and B: four floats of every down-th row.
        row_a, col_a = int32(udiv32(thread, quads_a)), int32(umod32(thread, quads_a) * 4)
        row_b, col_b = int32(udiv32(thread, quads_b)), int32(umod32(thread, quads_b) * 4)
        some_a, some_b = int32(m - top - col_a), int32(n - left - col_b)
        some_a = int32(0) if some_a < 0 else int32(4) if some_a > 4 else some_a
        some_b = int32(0) if some_b < 0 else int32(4) if some_b > 4 else some_b
        from_a, from_b = int32(row_a * lda + top + col_a), int32(row_b * ldb + left + col_b)
        jump_a, jump_b = int32(down_a * lda), int32(down_b * ldb)
        tile_a, tile_b = int32(bk * lda), int32(bk * ldb)
        into_a, into_b = int32(row_a * bm + col_a), int32(row_b * bn + col_b)

        # Where its sums are: by warp, then lane. Eight lanes that read at once are two down and four across.
        warp, lane = int32(thread >> 5), int32(thread & 31)
        offset_a = int32(int32(udiv32(warp, warps_n)) * warp_m + (lane >> 3) * 8 + (lane & 1) * 4)
        offset_b = int32(int32(umod32(warp, warps_n)) * warp_n + ((lane >> 1) & 3) * 4)

        for i in range(sums_count):
            sums[i] = float32(0)
        rows_a, rows_b = int32(k - row_a), int32(k - row_b)  # of this thread's, not yet copied
        if asynchronous:
            for slot in range(copies):
                for i in range(steps_a):
                    count = some_a if rows_a > i * down_a else int32(0)
                    cp_async16(shared_a, slot * slot_a + into_a + i * pitch_a, a, from_a + i * jump_a, count)
                for i in range(steps_b):
                    count = some_b if rows_b > i * down_b else int32(0)
                    cp_async16(shared_b, slot * slot_b + into_b + i * pitch_b, b, from_b + i * jump_b, count)
                cp_async_commit()
                from_a, from_b = int32(from_a + tile_a), int32(from_b + tile_b)
                rows_a, rows_b = int32(rows_a - bk), int32(rows_b - bk)
        else:
            for i in range(steps_a):
                v = ld4_zfill(a, from_a + i * jump_a, some_a if rows_a > i * down_a else int32(0))
                st4(shared_a, into_a + i * pitch_a, v[0], v[1], v[2], v[3])
            for i in range(steps_b):
                v = ld4_zfill(b, from_b + i * jump_b, some_b if rows_b > i * down_b else int32(0))
                st4(shared_b, into_b + i * pitch_b, v[0], v[1], v[2], v[3])
            from_a, from_b = int32(from_a + tile_a), int32(from_b + tile_b)
            rows_a, rows_b = int32(rows_a - bk), int32(rows_b - bk)
            cuda.syncthreads()

        at_a, at_b = int32(0), int32(0)  # the slots to multiply
        next_a, next_b = int32(copies * slot_a), int32(copies * slot_b)  # the slots to fill
        for _ in range(int32(udiv32(k + bk - 1, bk))):
            if asynchronous:
                wait()
                cuda.syncthreads()  # this tile is there for all, and no one reads the slot to fill any more
                for i in range(steps_a):
                    count = some_a if rows_a > i * down_a else int32(0)
                    cp_async16(shared_a, next_a + into_a + i * pitch_a, a, from_a + i * jump_a, count)
                for i in range(steps_b):
                    count = some_b if rows_b > i * down_b else int32(0)
                    cp_async16(shared_b, next_b + into_b + i * pitch_b, b, from_b + i * jump_b, count)
                cp_async_commit()
                multiply(shared_a, at_a + offset_a, shared_b, at_b + offset_b, sums)
            else:
                for i in range(steps_a):
                    v = ld4_zfill(a, from_a + i * jump_a, some_a if rows_a > i * down_a else int32(0))
                    for j in range(4):
                        held_a[i * 4 + j] = v[j]
                for i in range(steps_b):
                    v = ld4_zfill(b, from_b + i * jump_b, some_b if rows_b > i * down_b else int32(0))
                    for j in range(4):
                        held_b[i * 4 + j] = v[j]
                multiply(shared_a, at_a + offset_a, shared_b, at_b + offset_b, sums)
                for i in range(steps_a):
                    h = i * 4
                    st4(shared_a, next_a + into_a + i * pitch_a, held_a[h], held_a[h + 1], held_a[h + 2], held_a[h + 3])
                for i in range(steps_b):
                    h = i * 4
                    st4(shared_b, next_b + into_b + i * pitch_b, held_b[h], held_b[h + 1], held_b[h + 2], held_b[h + 3])
                cuda.syncthreads()
            from_a, from_b = int32(from_a + tile_a), int32(from_b + tile_b)
            rows_a, rows_b = int32(rows_a - bk), int32(rows_b - bk)
            at_a = int32(at_a + slot_a) if at_a < last_a else int32(0)
            at_b = int32(at_b + slot_b) if at_b < last_b else int32(0)
            next_a = int32(next_a + slot_a) if next_a < last_a else int32(0)
            next_b = int32(next_b + slot_b) if next_b < last_b else int32(0)
        if asynchronous:
            wait_all()

        for i in range(mr):
            y = int32(top + offset_a + (i >> 2) * step_m + (i & 3))
            if y < m:
                take(sums, i, line)
                shift = bias[y] if by_row else float32(0)
                for q in range(fours_n):
                    x = int32(left + offset_b + q * step_n)
                    at = int32(y * ldc + x)
                    for j in range(4):
                        value = alpha * line[q * 4 + j] + shift
                        if x + j < n:
                            if beta != 0:
                                value += beta * c[at + j]
                            if by_column:
                                value += bias[x + j]
                        value = low if value < low else value  # a NaN stays one
                        line[q * 4 + j] = high if value > high else value
                    if x + 4 <= n and ldc & 3 == 0:
                        st4(c, at, line[q * 4], line[q * 4 + 1], line[q * 4 + 2], line[q * 4 + 3])
                    else:
                        for j in range(4):
                            if x + j < n:
                                c[at + j] = line[q * 4 + j]

    integers, reals = [types.int32] * 6, [types.float32] * 4
    return Kernel(kernel, types.void(*[FLOATS] * 4, *integers, *reals), tile.threads, tile.blocks)


def pack_grid(width: int, k: int) -> tuple[int, int]:
    """Blocks for packing k rows of `width`."""
    return -(-width // PACK), -(-k // PACK)


@functools.cache
def pack() -> Kernel:
    """The kernel that makes any matrix an operand: k rows of `width`, then zeros up to a row's `pitch`.

    Its arguments: source, out (pointers); width, k, step, step_k, pitch. Element (p, i) is ``source[p * step_k + i *
    step]``; `pitch` is a multiple of four. The grid is ``pack_grid``'s.
    """
    pad = PACK + 1  # neighbours in a column lie in different banks
    cells, threads = PACK * pad, 256
    down = threads // PACK

    def kernel(source, out, width, k, step, step_k, pitch):
        square = cuda.shared.array(cells, float32)
        fast, slow = int32(cuda.threadIdx.x & 31), int32(cuda.threadIdx.x >> 5)
        left, top = int32(cuda.blockIdx.x * PACK), int32(cuda.blockIdx.y * PACK)
        for d in range(0, PACK, down):
            # Neighbouring threads read along k where that is the way the source is contiguous.
            i, p = (int32(slow + d), fast) if step_k == 1 else (fast, int32(slow + d))
            value = float32(0)
            if left + i < width and top + p < k:
                value = source[int32((top + p) * step_k + (left + i) * step)]
            square[p * pad + i] = value
        cuda.syncthreads()
        for d in range(0, PACK, down):
            p = int32(slow + d)
            if left + fast < pitch and top + p < k:
                out[int32((top + p) * pitch + left + fast)] = square[p * pad + fast]

    return Kernel(kernel, types.void(FLOATS, FLOATS, *[types.int32] * 5), threads, 4)
