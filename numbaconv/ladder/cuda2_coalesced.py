"""Neighbouring threads on neighbouring columns, so that their loads coalesce.

Compared with the step before: x and y change places, and that is all. A warp has 32 neighbouring columns of one row of
C, because j is the index whose elements lie side by side in memory (b[p, j] is element p * n + j)::

              j = 0    1    2  ...  31
      i = 0     t0   t1   t2  ...  t31  warp 0      one load of a warp:   a[i, p]           b[p, j]
      i = 1    t32  t33  t34  ...  t63  warp 1                            · · · · · ·       · · · · ·
       ...                                                                · · ▓ · · ·       ▓ ▓ ▓ ▓ ▓  32 in a row
      i = 7   t224 t225 t226  ... t255  warp 7                            · · · · · ·       · · · · ·
                                                                          the same for all

All lanes want the same element of A: one sector, handed to everyone. The 32 elements of B are 128 bytes in a row: four
sectors, and every byte of them is used. 5 sectors for 32 multiply-adds are 5 bytes each instead of 33, and C is stored
in 4 sectors instead of 32. Each multiply-add still takes two loads, because nobody keeps what a neighbour loaded: all
of B is read again for every row of C.
"""

from numbaconv.devices.intrinsics import cuda, float32, udiv32, umod32
from numbaconv.jit_cuda import Kernel
from numbaconv.ladder.device import SIGNATURE, at, multiply

bm, bn = 8, 32  # rows and columns of C that a block computes


def coalesced(a, b, c, m, n, k):
    i = cuda.blockIdx.y * bm + udiv32(cuda.threadIdx.x, bn)
    j = cuda.blockIdx.x * bn + umod32(cuda.threadIdx.x, bn)
    if i < m and j < n:
        total = float32(0)
        for p in range(k):
            total += a[at(i, p, k)] * b[at(p, j, n)]
        c[at(i, j, n)] = total


kernel = Kernel("ladder_coalesced", coalesced, SIGNATURE, threads=bm * bn)


def gemm(a, b, out):
    return multiply(kernel, bm, bn, a, b, out)
