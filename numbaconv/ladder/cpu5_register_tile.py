"""A tile of C in registers.

Compared with the step before: mr x nr sums stay in registers while p runs over kc, because a register costs no access.
A step of p loads mr elements of A and nr of B and does mr·nr multiply-adds: for 8 x 16 that is 24 elements for 128
multiply-adds, 0.19 each, where there were 3. C is loaded and stored once in kc steps. The panels are now as narrow as
the tile; A's block stays in L2 beside B's.

What is left: Numba's a * b + c is two instructions, a product that is rounded and a sum. The processor can do both in
one, but then rounds once instead of twice, so LLVM may not decide that.
"""

from numbaconv.jit import compiled
from numbaconv.ladder.cpu4_packed import pack_a, pack_b
from numbaconv.ladder.words import buffer, index, registers, sizes
from numbaconv.machine import detect

# 512 bits: 8 accumulators of 32 registers (16 where LLVM prefers 256 bits for loops of its own); 256 bits: 8 of 16.
MR, NR = 8 if detect().vector_bits == 512 else 4, 16
NC = 512
KC = max(32, detect().l2_bytes // 2 // (4 * NC))  # half of L2 as before, but deeper: C is touched once in kc steps
MC = 16 * MR


@compiled
def micro_tile(a_pack, a_row, b_pack, b_row, kc_cur, out, i_first, j_first, mr_cur, nr_cur):
    c = registers(MR, NR)
    for i in range(MR):
        for j in range(NR):
            c[i, j] = 0
    for p in range(kc_cur):
        for j in range(NR):  # vectors; the loop over i is unrolled
            for i in range(MR):
                c[i, j] += a_pack[a_row + p, i] * b_pack[b_row + p, j]
    for i in range(mr_cur):
        for j in range(index(nr_cur)):
            out[i_first + i, index(j_first) + j] += c[i, j]


@compiled
def kernel(a, b, out, mc, kc, nc):
    m, n, k = sizes(a, b, out)
    a_pack = buffer(a, -(-min(mc, m) // MR) * min(kc, k), MR)
    b_pack = buffer(b, -(-min(nc, n) // NR) * min(kc, k), NR)
    for i in range(m):
        for j in range(n):
            out[i, j] = 0
    for jc in range(0, n, nc):
        nc_cur = min(nc, n - jc)
        for pc in range(0, k, kc):
            kc_cur = min(kc, k - pc)
            pack_b(b, pc, jc, kc_cur, nc_cur, NR, b_pack)
            for ic in range(0, m, mc):
                mc_cur = min(mc, m - ic)
                pack_a(a, ic, pc, mc_cur, kc_cur, MR, a_pack)
                for jr in range(0, nc_cur, NR):
                    for ir in range(0, mc_cur, MR):
                        a_row, b_row = ir // MR * kc_cur, jr // NR * kc_cur
                        mr_cur, nr_cur = min(MR, mc_cur - ir), min(NR, nc_cur - jr)
                        micro_tile(a_pack, a_row, b_pack, b_row, kc_cur, out, ic + ir, jc + jr, mr_cur, nr_cur)


def gemm(a, b, out, mc=MC, kc=KC, nc=NC):
    kernel(a, b, out, mc, kc, nc)
    return out
