"""Blocks copied in the order of their use.

Compared with the step before: both blocks are first copied into panels, because then the inner loops read memory from
front to back. Rows of B's block lay 4·n bytes apart: each on a page of its own, and where 4·n is a power of two, all in
a few sets of the cache, which hold far less of the block than its size says. The copy fills every set, begins with a
cache line (a vector that lies on two lines costs two loads), and is paid by the m uses of each element: 8·k·n bytes
moved for 2·m·k·n operations. A's copy, panels of mr rows, is small; it is there for the tiles to come.

The accesses of a multiply-add are still three: load b, load c, store c.

    b_pack  nc / nr panels, one below the other, each [kc][nr]: row jr / nr · kc + p holds b[p, jr : jr + nr]
    a_pack  mc / mr panels, one below the other, each [kc][mr]: row ir / mr · kc + p holds a[ir : ir + mr, p]

Panels that hang over are filled with zeros.
"""

from numbaconv.jit import compiled
from numbaconv.ladder.cpu3_blocked import KC, MC, NC
from numbaconv.ladder.words import buffer, index, sizes

MR, NR = 4, NC  # as the loops of the step before want it: few rows, each as long as may be


@compiled
def pack_a(a, ic, pc, mc_cur, kc_cur, mr, a_pack):
    for ir in range(0, mc_cur, mr):
        row, mr_cur = ir // mr * kc_cur, min(mr, mc_cur - ir)
        for i in range(mr_cur):
            for p in range(index(kc_cur)):
                a_pack[index(row) + p, i] = a[ic + ir + i, index(pc) + p]
        for i in range(mr_cur, mr):
            for p in range(kc_cur):
                a_pack[row + p, i] = 0


@compiled
def pack_b(b, pc, jc, kc_cur, nc_cur, nr, b_pack):
    for jr in range(0, nc_cur, nr):
        row, nr_cur = jr // nr * kc_cur, min(nr, nc_cur - jr)
        for p in range(kc_cur):
            for j in range(index(nr_cur)):
                b_pack[row + p, j] = b[pc + p, index(jc + jr) + j]
            for j in range(nr_cur, nr):
                b_pack[row + p, j] = 0


@compiled
def micro_tile(a_pack, a_row, b_pack, b_row, kc_cur, out, i_first, j_first, mr_cur, nr_cur):
    for i in range(mr_cur):
        for p in range(kc_cur):
            a_ip = a_pack[a_row + p, i]
            for j in range(index(nr_cur)):
                out[i_first + i, index(j_first) + j] += a_ip * b_pack[b_row + p, j]


@compiled
def kernel(a, b, out, mc, kc, nc, mr, nr):
    m, n, k = sizes(a, b, out)
    a_pack = buffer(a, -(-min(mc, m) // mr) * min(kc, k), mr)
    b_pack = buffer(b, -(-min(nc, n) // nr) * min(kc, k), nr)
    for i in range(m):
        for j in range(n):
            out[i, j] = 0
    for jc in range(0, n, nc):
        nc_cur = min(nc, n - jc)
        for pc in range(0, k, kc):
            kc_cur = min(kc, k - pc)
            pack_b(b, pc, jc, kc_cur, nc_cur, nr, b_pack)
            for ic in range(0, m, mc):
                mc_cur = min(mc, m - ic)
                pack_a(a, ic, pc, mc_cur, kc_cur, mr, a_pack)
                for jr in range(0, nc_cur, nr):
                    for ir in range(0, mc_cur, mr):
                        a_row, b_row = ir // mr * kc_cur, jr // nr * kc_cur
                        mr_cur, nr_cur = min(mr, mc_cur - ir), min(nr, nc_cur - jr)
                        micro_tile(a_pack, a_row, b_pack, b_row, kc_cur, out, ic + ir, jc + jr, mr_cur, nr_cur)


def gemm(a, b, out, mc=MC, kc=KC, nc=NC, mr=MR, nr=NR):
    kernel(a, b, out, mc, kc, nc, mr, min(nr, nc))
    return out
