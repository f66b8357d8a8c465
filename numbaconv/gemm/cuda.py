"""GEMM for NVIDIA GPUs: C = clamp(alpha · A · B + beta · C + bias + residual), in tiles of shared memory and registers.

::

      operands, both with k down:      a block's tile of C, in warps:      a warp's, in lanes:

        A (k, m)      B (k, n)             bn                              8 x 4 lanes; a lane has mr x nr sums
       ┌──bm──┐      ┌──bn──┐         ┌────────┬────────┐                  in fours: rows r .. r+3 and r+32 .. r+35,
     bk│ tile │    bk│ tile │         │ warp 0 │ warp 1 │ bm               columns s .. s+3 and s+16 .. s+19, so
       └──────┘      └──────┘         ├────────┼────────┤                  that a warp's 128-bit loads lie side by side
          bk rows of each are copied  │ warp 2 │ warp 3 │                  (tensor cores: as their fragments lie)
          to shared memory, ahead     └────────┴────────┘

How the tiles get into shared memory is the operands' own affair (``cuda_loaders``): rows of contiguous memory by 128
bits, any strides element by element, or patches of an image that exist nowhere else. What lies beyond m, n or k is zero
in shared memory, and not stored. Index arithmetic is 32 bits wide. Kernels are plain functions:
``jit_cuda.cuda_compile`` compiles them, ``devices.emulator.launch`` runs them. Shape and lane order are those of
CUTLASS's SIMT kernels (https://github.com/NVIDIA/cutlass).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from numba import types

from numbaconv.devices.intrinsics import (
    cp_async_commit,
    cp_async_wait,
    cuda,
    float32,
    float64,
    int32,
    multiply_tile,
    multiply_tile_mma,
    stv,
    take_row,
    udiv32,
    umod32,
)
from numbaconv.gemm.cuda_loaders import Kind, Share
from numbaconv.gemm.cuda_tile import ARITHMETIC, GROUP, LANES_M, LANES_N, Tile
from numbaconv.jit_cuda import Function, Kernel, pointer, record

BIASES = (None, "row", "column")
PACK = 32  # side of pack's tile


class Sizes(NamedTuple):
    """Of a product: its sides, how much of k a block sums up (blockIdx.z says which part), whether C is aligned."""

    m: int
    n: int
    k: int
    k_part: int
    aligned: int


class Place(NamedTuple):
    """Where C is, or what is added to it: one side counts lines, the other pixels of images of rows x columns.

    Steps in elements from line to line, from image to image, row to row and column to column; of a batch's products,
    and of their biases; and from a part of k to the next. A plain matrix is one row of pixels.
    """

    rows: int
    columns: int
    line: int
    n: int
    h: int
    w: int
    batch: int = 0
    bias: int = 0
    part: int = 0


def _pixel(place, q):
    """Where pixel q is."""
    rest = int32(udiv32(q, place.columns))
    n = int32(udiv32(rest, place.rows))
    return int32(n * place.n + (rest - n * place.rows) * place.h + (q - rest * place.columns) * place.w)


pixel_at = Function(_pixel)


@functools.cache
def gemm_kernel(
    tile: Tile, a: Kind, b: Kind, pixels: str = "columns", bias: str | None = None, residual: bool = False
) -> Kernel:
    """The kernel for `tile` and ways to load A and B.

    `pixels` says which side of C ("rows" or "columns") is laid out as images, `bias` whether each "row" of C has one,
    or each "column". Its arguments: a, b, c, bias, residual, table (pointers), records of A and B, the ``Place`` of C
    and of the residual, ``Sizes``, alpha, beta, low, high. With ``beta = 0`` C is not read. Results are limited to
    [low, high] (relu: 0 and infinity). k may be 0. The grid is ``cuda_tile.grid_of``'s.
    """
    if bias not in BIASES or pixels not in ("rows", "columns"):
        raise ValueError(f"bias {bias!r} is none of {BIASES}, or pixels {pixels!r} neither 'rows' nor 'columns'")
    bm, bn, bk, mr, nr, threads, itemsize = tile.bm, tile.bn, tile.bk, tile.mr, tile.nr, tile.threads, tile.itemsize
    (pitch_a, pitch_b), slots, vector = tile.pitches, tile.slots, tile.vector
    real = float32 if itemsize == 4 else float64
    loader_a = a.make(Share(itemsize, bm, pitch_a, bk, threads))
    loader_b = b.make(Share(itemsize, bn, pitch_b, bk, threads))
    begin_a, start_a, fetch_a = loader_a.begin, loader_a.start, loader_a.fetch
    begin_b, start_b, fetch_b = loader_b.begin, loader_b.start, loader_b.fetch
    put_a, advance_a, put_b, advance_b = loader_a.put, loader_a.advance, loader_b.put, loader_b.advance
    registers_a, registers_b, count_a, count_b = loader_a.registers, loader_b.registers, loader_a.held, loader_b.held
    slot_a, slot_b, asynchronous = bk * pitch_a, bk * pitch_b, tile.stages > 0
    copies, all_a, all_b = slots - 1, slots * slot_a, slots * slot_b
    last_a, last_b = copies * slot_a, copies * slot_b
    warps_n, warp_m, warp_n, sums_count = bn // (LANES_N * nr), LANES_M * mr, LANES_N * nr, mr * nr
    tensor, by_row, by_column, along_columns = tile.tensor, bias == "row", bias == "column", pixels == "columns"
    # A lane's rows come in groups of `group_m` neighbours, `step_m` apart; its columns likewise.
    group_m, group_n = (1, 2) if tensor else (vector, vector)
    step_m, step_n = (8, 8) if tensor else (LANES_M * vector, LANES_N * vector)
    groups_n, whole = nr // group_n, group_n == vector
    four = vector == 4
    if tensor:
        multiply = multiply_tile_mma(bk, pitch_a, pitch_b, warp_m, warp_n, ARITHMETIC[tile.arithmetic])
    else:
        multiply = multiply_tile(bk, pitch_a, pitch_b, mr, nr, step_m, step_n, itemsize)
    take, store = take_row(mr, nr, itemsize), stv(itemsize)
    wait, wait_all = cp_async_wait(slots - 2), cp_async_wait(0)

    def kernel(a, b, c, bias, residual_at, table, ga, gb, place, added, sizes, alpha, beta, low, high):
        shared_a = cuda.shared.array(all_a, real, alignment=16)
        shared_b = cuda.shared.array(all_b, real, alignment=16)
        sums = cuda.local.array(sums_count, real)
        line = cuda.local.array(nr, real)
        state_a, state_b = cuda.local.array(registers_a, int32), cuda.local.array(registers_b, int32)
        held_a, held_b = cuda.local.array(count_a, real), cuda.local.array(count_b, real)
        thread = int32(cuda.threadIdx.x)
        m, n = sizes.m, sizes.n
        batch, part = int32(cuda.blockIdx.y), int32(cuda.blockIdx.z)

        # This block's tile of C: GROUP rows of tiles at a time, column after column.
        tiles_m, tiles_n = int32(udiv32(m + bm - 1, bm)), int32(udiv32(n + bn - 1, bn))
        number = int32(cuda.blockIdx.x)
        group = int32(GROUP * tiles_n)
        first = int32(int32(udiv32(number, group)) * GROUP)
        height = int32(tiles_m - first) if tiles_m - first < GROUP else int32(GROUP)
        within = umod32(number, group)
        top = int32((first + int32(umod32(within, height))) * bm)
        left = int32(int32(udiv32(within, height)) * bn)

        # Its share of k.
        k = int32(part * sizes.k_part)
        k_end = int32(k + sizes.k_part)
        k_end = sizes.k if k_end > sizes.k else k_end
        k = k_end if k > k_end else k  # the last parts may have nothing to do
        begin_a(state_a, ga, thread, top, m, k, k_end, batch)
        begin_b(state_b, gb, thread, left, n, k, k_end, batch)

        # Where a thread's sums are: by warp, then lane. Eight lanes that read at once are two down and four across.
        warp, lane = int32(thread >> 5), int32(thread & 31)
        corner_a, corner_b = int32(int32(udiv32(warp, warps_n)) * warp_m), int32(int32(umod32(warp, warps_n)) * warp_n)
        if tensor:
            offset_a, offset_b = int32(corner_a + (lane >> 2)), int32(corner_b + (lane & 3) * 2)
        else:
            offset_a = int32(corner_a + (lane >> 3) * 2 * vector + (lane & 1) * vector)
            offset_b = int32(corner_b + ((lane >> 1) & 3) * vector)

        for i in range(sums_count):
            sums[i] = real(0)
        if asynchronous:
            for slot in range(copies):
                start_a(shared_a, int32(slot * slot_a), a, table, state_a, ga)
                start_b(shared_b, int32(slot * slot_b), b, table, state_b, gb)
                cp_async_commit()
                advance_a(state_a, ga)
                advance_b(state_b, gb)
        else:
            fetch_a(held_a, a, table, state_a, ga)
            fetch_b(held_b, b, table, state_b, gb)
            put_a(shared_a, int32(0), held_a, state_a)
            put_b(shared_b, int32(0), held_b, state_b)
            advance_a(state_a, ga)
            advance_b(state_b, gb)
            cuda.syncthreads()

        at_a, at_b = int32(0), int32(0)  # the slots to multiply
        next_a, next_b = int32(last_a), int32(last_b)  # the slots to fill
        for _ in range(int32(udiv32(k_end - k + bk - 1, bk))):
            if asynchronous:
                wait()
                cuda.syncthreads()  # this tile is there for all, and no one reads the slot to fill any more
                start_a(shared_a, next_a, a, table, state_a, ga)
                start_b(shared_b, next_b, b, table, state_b, gb)
                cp_async_commit()
            else:
                fetch_a(held_a, a, table, state_a, ga)
                fetch_b(held_b, b, table, state_b, gb)
            if tensor:
                multiply(shared_a, at_a + corner_a, shared_b, at_b + corner_b, lane, sums)
            else:
                multiply(shared_a, at_a + offset_a, shared_b, at_b + offset_b, sums)
            if not asynchronous:
                put_a(shared_a, next_a, held_a, state_a)
                put_b(shared_b, next_b, held_b, state_b)
                cuda.syncthreads()
            advance_a(state_a, ga)
            advance_b(state_b, gb)
            at_a = int32(at_a + slot_a) if at_a < last_a else int32(0)
            at_b = int32(at_b + slot_b) if at_b < last_b else int32(0)
            next_a = int32(next_a + slot_a) if next_a < last_a else int32(0)
            next_b = int32(next_b + slot_b) if next_b < last_b else int32(0)
        if asynchronous:
            wait_all()

        # The addresses of a thread's columns; those of its rows are found one by one.
        base, extra = int32(batch * place.batch + part * place.part), int32(batch * added.batch)
        biases = int32(batch * place.bias)
        across, across_added = cuda.local.array(nr, int32), cuda.local.array(nr, int32)
        for q in range(groups_n):
            for j in range(group_n):
                x = int32(left + offset_b + q * step_n + j)
                at = q * group_n + j
                across[at] = pixel_at(place, x) if along_columns else int32(x * place.line)
                if residual:
                    across_added[at] = pixel_at(added, x) if along_columns else int32(x * added.line)
        for i in range(mr):
            y = int32(top + offset_a + int32(udiv32(i, group_m)) * step_m + int32(umod32(i, group_m)))
            if y < m:
                take(sums, i, line)
                shift = bias[biases + y] if by_row else real(0)
                down = int32(base + (y * place.line if along_columns else pixel_at(place, y)))
                down_added = extra
                if residual:
                    down_added = int32(extra + (y * added.line if along_columns else pixel_at(added, y)))
                for q in range(groups_n):
                    x = int32(left + offset_b + q * step_n)
                    g = q * group_n
                    for j in range(group_n):
                        value = alpha * line[g + j] + shift
                        if x + j < n:
                            if beta != 0:
                                value += beta * c[int32(down + across[g + j])]
                            if by_column:
                                value += bias[int32(biases + x + j)]
                            if residual:
                                value += residual_at[int32(down_added + across_added[g + j])]
                        value = low if value < low else value  # a NaN stays one
                        line[g + j] = high if value > high else value
                    at = int32(down + across[g])
                    neighbours = x + group_n <= n and across[g + group_n - 1] - across[g] == group_n - 1
                    if whole and neighbours and sizes.aligned > 0 and at & (vector - 1) == 0:
                        if four:
                            store(c, at, line[g], line[g + 1], line[g + 2], line[g + 3])
                        else:
                            store(c, at, line[g], line[g + 1])
                    else:
                        for j in range(group_n):
                            if x + j < n:
                                c[int32(down + across[g + j])] = line[g + j]

    kind = pointer(itemsize)
    ends = "" if not (bias or residual) else f"_{bias or 'none'}{'_residual' if residual else ''}"
    return Kernel(
        f"gemm_{tile.name}_{a.name}_{b.name}_{pixels}{ends}",
        kernel,
        types.void(
            *[kind] * 5, types.CPointer(types.int32), record(loader_a.record), record(loader_b.record), record(Place),
            record(Place), record(Sizes), *[kind.dtype] * 4,
        ),
        threads,
        tile.blocks,
        tile.least,
    )  # fmt: skip


def pack_grid(width: int, k: int) -> tuple[int, int]:
    """Blocks for packing k rows of `width`."""
    return -(-width // PACK), -(-k // PACK)


@functools.cache
def pack(itemsize: int = 4) -> Kernel:
    """The kernel that makes any matrix an operand: k rows of `width`, then zeros up to a row's `pitch`.

    Its arguments: source, out (pointers); width, k, step, step_k, pitch. Element (p, i) is ``source[p * step_k + i *
    step]``; `pitch` is a multiple of 128 bits. The grid is ``pack_grid``'s.
    """
    pad = PACK + 1  # neighbours in a column lie in different banks
    cells, threads = PACK * pad, 256
    down = threads // PACK
    real = float32 if itemsize == 4 else float64

    def kernel(source, out, width, k, step, step_k, pitch):
        square = cuda.shared.array(cells, real)
        fast, slow = int32(cuda.threadIdx.x & 31), int32(cuda.threadIdx.x >> 5)
        left, top = int32(cuda.blockIdx.x * PACK), int32(cuda.blockIdx.y * PACK)
        for d in range(0, PACK, down):
            # Neighbouring threads read along k where that is the way the source is contiguous.
            i, p = (int32(slow + d), fast) if step_k == 1 else (fast, int32(slow + d))
            value = real(0)
            if left + i < width and top + p < k:
                value = source[int32((top + p) * step_k + (left + i) * step)]
            square[p * pad + i] = value
        cuda.syncthreads()
        for d in range(0, PACK, down):
            p = int32(slow + d)
            if left + fast < pitch and top + p < k:
                out[int32((top + p) * pitch + left + fast)] = square[p * pad + fast]

    kind = pointer(itemsize)
    return Kernel(f"pack_f{8 * itemsize}", kernel, types.void(kind, kind, *[types.int32] * 5), threads, 4)
