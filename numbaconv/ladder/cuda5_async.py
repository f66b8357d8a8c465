"""128 bits a load, and the next tiles on their way while these are multiplied.

Compared with the step before: every access to memory is of four floats, because an instruction of 128 bits costs no
more to issue than one of 32; and there are two slots for tiles in shared memory. While the threads multiply from one,
asynchronous copies (cp.async, sm_80 and later) fill the other, past all registers, because loads from global memory
take hundreds of cycles, in which step 4 only waits::

      slot 0   copy tile 0 │ multiply tile 0 │ copy tile 2     │ multiply tile 2 │ ...
      slot 1               │ copy tile 1     │ multiply tile 1 │ copy tile 3     │ ...
                         wait              wait              wait
                        barrier           barrier           barrier     one a tile instead of two

      a_tile: rows of bk                   four steps of q at a time:        b_tile: rows of bn
      ┌──┬──┬──┬──┐                          8 loads of a_tile, 4 q each     ┌──┬──┬──┬──┬── ·· ┬──┬──┬── ··
      │▓▓│  │  │  │ row y                    for each of the 4 q:            │▓▓│  │  │  │      │▓▓│  │       row q
      └──┴──┴──┴──┘                            2 loads of b_tile             └──┴──┴──┴──┴── ·· ┴──┴──┴── ··
       q: 0 4  8  12                           64 multiply-adds              x = 0 1  2  3 ... 15  0  1 ...

A thread's columns now come in fours, 64 apart. 16 loads of 128 bits feed 256 multiply-adds: 1/16 of a load each instead
of a quarter. Bytes are the same as before, 1/16 each; but a thread copies its share of both tiles by 4 instructions
instead of 16 loads and 16 stores, and waits less.

A 128-bit access begins at a multiple of 16 bytes, or fails. Rows of k or n floats do so where that is a multiple of
four; other matrices are first copied into rows that are. Where a row ends within four floats, the copy takes only the
first `some` of them and fills up with zeros.
"""

from numbaconv.devices.intrinsics import (
    cp_async16,
    cp_async_commit,
    cp_async_wait,
    cuda,
    float32,
    int32,
    ld4,
    st4,
    udiv32,
    umod32,
)
from numbaconv.jit_cuda import Function, Kernel
from numbaconv.ladder.device import SIGNATURE, at, multiply

bm, bn, bk = 128, 128, 16  # a block's tile of C, and how deep the tiles of A and B are
mr, nr = 8, 8  # a thread's sums
down, across = bm // mr, bn // nr  # threads along the rows and the columns of the tile
threads = down * across
vector = 4  # floats in 128 bits
a_slot, b_slot = bm * bk, bk * bn
a_size, b_size, a_part_size, sums_size = 2 * a_slot, 2 * b_slot, mr * vector, mr * nr
wait_for_copies = cp_async_wait(0)


def _start_copies(a_tile, b_tile, slot, a, b, top, left, p, m, n, k):
    """Start to copy the tiles of A and B that begin at p."""
    first = int32(vector * cuda.threadIdx.x)
    columns_a, columns_b = (k + 3) & ~3, (n + 3) & ~3  # a row in memory, with what `row=vector` below adds to it
    for e in range(0, bm * bk, vector * threads):
        y, x = udiv32(e + first, bk), umod32(e + first, bk)
        i, q = int32(top + y), int32(p + x)
        some = min(max(int32(k - q), 0), vector) if i < m else 0
        cp_async16(a_tile, slot * a_slot + at(y, x, bk), a, at(i, q, columns_a), some)
    for e in range(0, bk * bn, vector * threads):
        y, x = udiv32(e + first, bn), umod32(e + first, bn)
        q, j = int32(p + y), int32(left + x)
        some = min(max(int32(n - j), 0), vector) if q < k else 0
        cp_async16(b_tile, slot * b_slot + at(y, x, bn), b, at(q, j, columns_b), some)
    cp_async_commit()


start_copies = Function(_start_copies)


def asynchronous(a, b, c, m, n, k):
    a_tile = cuda.shared.array(a_size, float32, alignment=16)
    b_tile = cuda.shared.array(b_size, float32, alignment=16)
    sums = cuda.local.array(sums_size, float32)
    a_part = cuda.local.array(a_part_size, float32)
    b_part = cuda.local.array(nr, float32)
    y, x = udiv32(cuda.threadIdx.x, across), umod32(cuda.threadIdx.x, across)
    top, left = int32(cuda.blockIdx.y * bm), int32(cuda.blockIdx.x * bn)
    for r in range(mr * nr):
        sums[r] = float32(0)

    slot = int32(0)
    start_copies(a_tile, b_tile, slot, a, b, top, left, 0, m, n, k)
    for p in range(0, k, bk):
        wait_for_copies()
        cuda.syncthreads()  # these tiles are there for all threads, and nobody reads the other slot any more
        if p + bk < k:
            start_copies(a_tile, b_tile, 1 - slot, a, b, top, left, p + bk, m, n, k)
        a_first, b_first = int32(slot * a_slot + y * bk), int32(slot * b_slot + vector * x)
        for q in range(0, bk, vector):
            for r in range(mr):
                four = ld4(a_tile, a_first + at(r * down, q, bk))
                for t in range(vector):
                    a_part[r * vector + t] = four[t]
            for t in range(vector):
                for s in range(0, nr, vector):
                    four = ld4(b_tile, b_first + at(q + t, s * across, bn))
                    for u in range(vector):
                        b_part[s + u] = four[u]
                for r in range(mr):
                    for s in range(nr):
                        sums[r * nr + s] += a_part[r * vector + t] * b_part[s]
        slot = int32(1 - slot)
    wait_for_copies()  # where k is 0, one is under way

    for r in range(mr):
        for s in range(0, nr, vector):
            i, j = top + y + r * down, left + vector * x + s * across
            e = r * nr + s
            if i < m and j + vector <= n and n & 3 == 0:
                st4(c, at(i, j, n), sums[e], sums[e + 1], sums[e + 2], sums[e + 3])
            elif i < m:
                for u in range(vector):
                    if j + u < n:
                        c[at(i, j + u, n)] = sums[e + u]


kernel = Kernel("ladder_async", asynchronous, SIGNATURE, threads, blocks=2, least=(8, 0))


def gemm(a, b, out):
    return multiply(kernel, bm, bn, a, b, out, row=vector)
