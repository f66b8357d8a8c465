"""Blocks that stay in the cache.

Compared with the step before: the same three loops run over blocks, because a block of B, kc x nc, stays in L2 and
serves all m rows of A before the next one comes. B is read from memory once, 4·k·n bytes, where it was read m times,
4·m·k·n bytes; C passes k / kc times, 8·m·n·k / kc bytes. The accesses of a multiply-add are the same three, but they
are of L1 and L2.

That pays where B is larger than the last cache. Where it is not, lines are fetched ahead fast enough, and blocks gain
little or nothing. mc does nothing yet: A's elements are used once a block. It is for A's block when that is packed.
"""

from numbaconv.jit import compiled
from numbaconv.ladder.words import index, sizes
from numbaconv.machine import detect

NC = 1024  # long inner loops: a shorter one ends before its vectors have paid for their beginning
KC = max(32, detect().l2_bytes // 2 // (4 * NC))  # so that kc x nc elements of 4 bytes fill half of L2
MC = 96


@compiled
def kernel(a, b, out, mc, kc, nc):
    m, n, k = sizes(a, b, out)
    for i in range(m):
        for j in range(n):
            out[i, j] = 0
    for jc in range(0, n, nc):
        j_first, j_last = index(jc), index(min(jc + nc, n))
        for pc in range(0, k, kc):
            p_last = min(pc + kc, k)
            for ic in range(0, m, mc):
                for i in range(ic, min(ic + mc, m)):
                    for p in range(pc, p_last):
                        a_ip = a[i, p]
                        for j in range(j_first, j_last):
                            out[i, j] += a_ip * b[p, j]


def gemm(a, b, out, mc=MC, kc=KC, nc=NC):
    kernel(a, b, out, mc, kc, nc)
    return out
