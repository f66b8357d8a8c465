"""One thread for each element of C, with threadIdx.x along the rows.

The formula as it stands: the thread of (i, j) walks along row i of A and down column j of B and adds up k products.

Who computes what: a block is 256 threads, numbered threadIdx.x = 0 ... 255 in one line. A 2-D block would only be
another name for them: its (x, y) is (threadIdx.x % 32, threadIdx.x // 32). The GPU cuts the line into *warps* of 32
threads that run in step, so that one load instruction asks for 32 addresses at once. Here x counts rows::

              j = 0    1    2  ...  7
      i = 0     t0   t32  t64 ... t224          one load of a warp:   a[i, p]           b[p, j]
      i = 1     t1   t33  t65 ... t225                                ▓ · · · · ·       · · · · ·
      i = 2     t2   t34  t66 ... t226                                ▓ · · · · ·       · ▓ · · ·  the same
       ...                                                            ▓ · · · · ·       · · · · ·  for all
      i = 31   t31   t63  t95 ... t255                                ▓ · · · · ·
              warp 0 warp 1  ...  warp 7                              32 rows, 32 places far apart

Rows of A, B and C follow one another in memory: a[i, p] is element i * k + p, so one step in i is k floats away, one in
p is next door. Memory is read in sectors of 32 bytes (8 floats). A warp's load of A touches 32 sectors, 1024 bytes,
and uses 128 of them; with the one sector of B that is 33 sectors for the warp's 32 multiply-adds: 33 bytes and two
loads for each. The store to C is as scattered.

It is what almost everybody writes first: x is the first number of a thread, the row the first index of a matrix.
"""

from numbaconv.devices.intrinsics import cuda, float32, udiv32, umod32
from numbaconv.jit_cuda import Kernel
from numbaconv.ladder.device import SIGNATURE, at, multiply

bm, bn = 32, 8  # rows and columns of C that a block computes


def naive(a, b, c, m, n, k):
    i = cuda.blockIdx.x * bm + umod32(cuda.threadIdx.x, bm)
    j = cuda.blockIdx.y * bn + udiv32(cuda.threadIdx.x, bm)
    if i < m and j < n:
        total = float32(0)
        for p in range(k):
            total += a[at(i, p, k)] * b[at(p, j, n)]
        c[at(i, j, n)] = total


kernel = Kernel("ladder_naive", naive, SIGNATURE, threads=bm * bn)


def gemm(a, b, out):
    return multiply(kernel, bm, bn, a, b, out, down="x")
