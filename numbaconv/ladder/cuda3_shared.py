"""Tiles of A and B in shared memory: what one thread loads, 32 use.

Compared with the step before: the 1024 threads of a block, which compute 32 x 32 elements of C, first copy the tiles of
A and B that they need into the block's shared memory, one element of each a thread, and multiply from there, because
all 32 columns of the block need the same row of A and all 32 rows the same column of B::

                          b_tile (bk x bn)
                          ┌──│────┐             for p = 0, 32, 64, ... < k:
                        q │  │    │               every thread copies a[i, p + x] and b[p + y, j] into the tiles
                        ↓ │  │    │               barrier: the tiles are complete
                          └──│────┘               32 multiply-adds from them
         a_tile (bm x bk)    ↓                    barrier: nobody reads them any more, they may be overwritten
         ┌────────┐       ┌───────┐
         │────────│──────→│  ▓    │             thread (y, x) = divmod(threadIdx.x, 32) has one element of C, as
         │ q →    │       │       │             before; a warp is one row of it: it reads one word of a_tile, the
         └────────┘       └───────┘             same for all lanes, and 32 in a row of b_tile, each in a bank of its own

A block loads 2 * 32 * 32 floats for 32 * 32 * 32 multiply-adds: a quarter of a byte each instead of 5, and 1/16 of a
load from global memory instead of two. What limits it now are the two loads from shared memory for every multiply-add.

Both barriers are needed: without the first a thread reads what nobody has written yet, without the second a fast warp
overwrites what a slow one still reads. Beyond the ends of A and B the tiles get zeros, which add nothing; so no thread
leaves early, and all reach every barrier, as they must.
"""

from numbaconv.devices.intrinsics import cuda, float32, udiv32, umod32
from numbaconv.jit_cuda import Kernel
from numbaconv.ladder.device import SIGNATURE, at, multiply

bm, bn, bk = 32, 32, 32  # a block's tile of C, and how deep the tiles of A and B are
a_size, b_size = bm * bk, bk * bn


def shared(a, b, c, m, n, k):
    a_tile = cuda.shared.array(a_size, float32, alignment=16)
    b_tile = cuda.shared.array(b_size, float32, alignment=16)
    y, x = udiv32(cuda.threadIdx.x, bn), umod32(cuda.threadIdx.x, bn)
    i, j = cuda.blockIdx.y * bm + y, cuda.blockIdx.x * bn + x
    total = float32(0)
    for p in range(0, k, bk):
        a_tile[at(y, x, bk)] = a[at(i, p + x, k)] if i < m and p + x < k else float32(0)
        b_tile[at(y, x, bn)] = b[at(p + y, j, n)] if p + y < k and j < n else float32(0)
        cuda.syncthreads()
        for q in range(bk):
            total += a_tile[at(y, q, bk)] * b_tile[at(q, x, bn)]
        cuda.syncthreads()
    if i < m and j < n:
        c[at(i, j, n)] = total


kernel = Kernel("ladder_shared", shared, SIGNATURE, threads=bm * bn, blocks=2)


def gemm(a, b, out):
    return multiply(kernel, bm, bn, a, b, out)
