"""The second half of a product whose k is split among blocks: partial sums are added up, in order, and finished.

    part 0 │ part 1 │ ...  of k, each an m x n matrix of sums     ──►    C = clamp(alpha · sum + beta · C + bias + ...)

The order is that of k, so the result has the same bits whatever the blocks do.
"""

from __future__ import annotations

import functools

from numba import types

from numbaconv.devices.intrinsics import cuda, float32, float64, int32, udiv32
from numbaconv.gemm.cuda import Place, Sizes, pixel_at
from numbaconv.jit_cuda import Kernel, pointer, record

THREADS = 256


def reduce_grid(m: int, n: int, batch: int) -> tuple[int, int]:
    """Blocks: one thread an element."""
    return -(-m * n // THREADS), batch


@functools.cache
def reduce_kernel(itemsize: int, pixels: str, bias: str | None, residual: bool) -> Kernel:
    """The kernel; `pixels`, `bias` and `residual` as ``cuda.gemm_kernel``'s.

    Its arguments: partial sums, c, bias, residual (pointers), the ``Place`` of C and of the residual, ``Sizes`` (k: how
    many parts, k_part: elements from one to the next), alpha, beta, low, high.
    """
    real = float32 if itemsize == 4 else float64
    by_row, by_column, along_columns = bias == "row", bias == "column", pixels == "columns"

    def kernel(partial, c, bias, residual_at, place, added, sizes, alpha, beta, low, high):
        number = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        batch = int32(cuda.blockIdx.y)
        area = int32(sizes.m * sizes.n)
        if number < area:
            first = int32(batch * area + number)
            total = real(0)
            for part in range(sizes.k):
                total += partial[int32(first + part * sizes.k_part)]
            y = int32(udiv32(number, sizes.n))
            x = int32(number - y * sizes.n)
            line, pixel = (y, x) if along_columns else (x, y)
            at = int32(batch * place.batch + line * place.line + pixel_at(place, pixel))
            value = alpha * total
            if beta != 0:
                value += beta * c[at]
            if by_row:
                value += bias[int32(batch * place.bias + y)]
            if by_column:
                value += bias[int32(batch * place.bias + x)]
            if residual:
                value += residual_at[int32(batch * added.batch + line * added.line + pixel_at(added, pixel))]
            value = low if value < low else value  # a NaN stays one
            c[at] = high if value > high else value

    kind = pointer(itemsize)
    name = f"reduce_f{8 * itemsize}_{pixels}_{bias or 'none'}{'_residual' if residual else ''}"
    signature = types.void(*[kind] * 4, record(Place), record(Place), record(Sizes), *[kind.dtype] * 4)
    return Kernel(name, kernel, signature, THREADS, 4)
