"""Each thread keeps 8 x 8 sums in registers: a load from shared memory feeds four multiply-adds.

Compared with the step before: a thread computes mr x nr elements of C instead of one, and a block of 256 threads 128 x
128, because mr elements of A and nr of B, once loaded into registers, are good for mr * nr multiply-adds (tile algebra:
loads grow like the sides of the tile, work like its area)::

                        b_part: nr values of row q         a thread's rows are 16 apart (y, y + 16, y + 32, ...), and
                        ┌─┬───┬───┬───┐                    so are its columns: then the 32 lanes of a warp, which are
                        └─┴───┴───┴───┘                    two y and sixteen x, read neighbours in shared memory, and
      a_part: mr    ┌┐  ┌─────────────┐                    store neighbours to C
      values of     ├┤  │▓   ▓   ▓   ▓│
      column q      ├┤  │             │ 128 rows              for q in range(bk):
                    ├┤  │▓   ▓   ▓   ▓│                           load a_part (mr) and b_part (nr)
                    └┘  │             │                           sums[r, s] += a_part[r] * b_part[s]   (mr * nr)
                        └─────────────┘
                          128 columns

For 64 multiply-adds a thread loads 8 + 8 floats from shared memory: a quarter of a load each instead of two. From
global memory a block loads 2 * 128 * 16 floats for 128 * 128 * 16 multiply-adds: 1/16 byte each instead of a quarter.

`sums` is no array on the GPU: every loop over it has a constant length and is unrolled, so each element is a register
(64 for the sums, about 120 in all). An index that is known only when the kernel runs would put it into slow local
memory.
"""

from numbaconv.devices.intrinsics import cuda, float32, udiv32, uint32, umod32
from numbaconv.jit_cuda import Kernel
from numbaconv.ladder.device import SIGNATURE, at, multiply

bm, bn, bk = 128, 128, 16  # a block's tile of C, and how deep the tiles of A and B are
mr, nr = 8, 8  # a thread's sums
down, across = bm // mr, bn // nr  # threads along the rows and the columns of the tile
threads = down * across
a_size, b_size, sums_size = bm * bk, bk * bn, mr * nr


def register_tile(a, b, c, m, n, k):
    a_tile = cuda.shared.array(a_size, float32, alignment=16)
    b_tile = cuda.shared.array(b_size, float32, alignment=16)
    sums = cuda.local.array(sums_size, float32)
    a_part = cuda.local.array(mr, float32)
    b_part = cuda.local.array(nr, float32)
    thread = cuda.threadIdx.x
    y, x = udiv32(thread, across), umod32(thread, across)
    top, left = cuda.blockIdx.y * bm, cuda.blockIdx.x * bn
    for r in range(mr * nr):
        sums[r] = float32(0)

    for p in range(0, k, bk):
        for e in range(0, bm * bk, threads):  # the threads copy so many elements at once, side by side
            i, q = top + udiv32(e + thread, bk), p + umod32(e + thread, bk)
            a_tile[uint32(e + thread)] = a[at(i, q, k)] if i < m and q < k else float32(0)
        for e in range(0, bk * bn, threads):
            q, j = p + udiv32(e + thread, bn), left + umod32(e + thread, bn)
            b_tile[uint32(e + thread)] = b[at(q, j, n)] if q < k and j < n else float32(0)
        cuda.syncthreads()
        for q in range(bk):
            for r in range(mr):
                a_part[r] = a_tile[at(y + r * down, q, bk)]
            for s in range(nr):
                b_part[s] = b_tile[at(q, x + s * across, bn)]
            for r in range(mr):
                for s in range(nr):
                    sums[r * nr + s] += a_part[r] * b_part[s]
        cuda.syncthreads()

    for r in range(mr):
        for s in range(nr):
            i, j = top + y + r * down, left + x + s * across
            if i < m and j < n:
                c[at(i, j, n)] = sums[r * nr + s]


kernel = Kernel("ladder_register_tile", register_tile, SIGNATURE, threads, blocks=2)


def gemm(a, b, out):
    return multiply(kernel, bm, bn, a, b, out)
