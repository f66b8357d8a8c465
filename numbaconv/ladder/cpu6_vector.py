"""Vectors written by hand.

Compared with the step before: the tile's vectors are written out instead of left to LLVM, because a fused multiply-add
does 2 operations a lane in one instruction, where Numba's a * b + c takes two; and because the tile then fills the
registers: with 32 of them 14 rows of 2 vectors, 28 accumulators, 2 vectors of B and one broadcast element of A. A step
of p is 16 loads for 28 vector multiply-adds, 0.57 each. C's tile is fetched while they are made.

How much that gains depends on the processor: one that multiplies and adds in separate units, as AMD's Zen 4 does,
loses less by the two instructions than one that does both in the same unit, as Intel's do.
"""

from numba import types
from numba.core import cgutils

from numbaconv.jit import compiled, intrinsic, overload
from numbaconv.ladder.cpu4_packed import pack_a, pack_b
from numbaconv.ladder.cpu5_register_tile import KC, NC
from numbaconv.ladder.words import buffer, index, registers, sizes
from numbaconv.machine import detect
from numbaconv.simd import BYTES, Lanes, const

LANES, REGISTERS = detect().lanes("float32"), detect().vector_registers
VECTORS = 2
MR, NR = (REGISTERS - VECTORS - 1) // VECTORS, VECTORS * LANES  # all but those for a row of B and an element of A
FUSED = detect().fma
MC = 16 * MR


def vectors(mr, nr, lanes, a_pack, a_row, b_pack, b_row, kc_cur, out, i_first, j_first, mr_cur, nr_cur):
    """The step before's tile, in scalars: for matrices that do not lie row after row. The first three are constants."""
    c = registers(mr, nr)
    for i in range(mr):
        for j in range(nr):
            c[i, j] = 0
    for p in range(kc_cur):
        for j in range(nr):
            for i in range(mr):
                c[i, j] += a_pack[a_row + p, i] * b_pack[b_row + p, j]
    for i in range(mr_cur):
        for j in range(index(nr_cur)):
            out[i_first + i, index(j_first) + j] += c[i, j]


@overload(vectors, prefer_literal=True)
def _compiled(mr, nr, lanes, a_pack, a_row, b_pack, b_row, kc_cur, out, i_first, j_first, mr_cur, nr_cur):
    if not a_pack == b_pack == out == types.Array(types.float32, 2, "C"):
        return vectors

    def written(mr, nr, lanes, a_pack, a_row, b_pack, b_row, kc_cur, out, i_first, j_first, mr_cur, nr_cur):
        _vectors(mr, nr, lanes, a_pack, a_row, b_pack, b_row, kc_cur, out, i_first, j_first, mr_cur, nr_cur)

    return written


@intrinsic(prefer_literal=True)
def _vectors(typingctx, mr, nr, lanes, a_pack, a_row, b_pack, b_row, kc_cur, out, i_first, j_first, mr_cur, nr_cur):
    rows, width, vector = mr.literal_value, nr.literal_value, lanes.literal_value
    columns = range(width // vector)

    def codegen(context, builder, signature, args):
        _, _, _, _, a_row, _, b_row, kc_cur, _, i_first, j_first, mr_cur, nr_cur = args
        v = Lanes(builder, 4, vector, FUSED)

        def element(matrix, row, column):
            """The address of an element of the matrix that is argument number `matrix`."""
            array = context.make_array(signature.args[matrix])(context, builder, args[matrix])
            stride = cgutils.unpack_tuple(builder, array.shape)[1]
            place = builder.add(builder.mul(row, stride), column)
            return v.at(builder.bitcast(array.data, BYTES), builder.mul(place, const(4)))

        a, b = element(3, a_row, const(0)), element(5, b_row, const(0))
        c = [[v.variable(v.zero) for _ in columns] for _ in range(rows)]
        c_rows = [element(8, builder.add(i_first, const(i)), j_first) for i in range(rows)]
        for row in c_rows:  # it is far away: what is asked for now is here when it is added to
            for j in columns:
                v.prefetch(v.at(row, j * v.bytes))
        with cgutils.for_range(builder, kc_cur) as loop:
            a_p = v.at(a, builder.mul(loop.index, const(4 * rows)))
            b_p = v.at(b, builder.mul(loop.index, const(4 * width)))
            b_pj = [v.load(v.at(b_p, j * v.bytes)) for j in columns]
            for i in range(rows):
                a_ip = v.splat(v.load_scalar(v.at(a_p, 4 * i)))
                for j in columns:
                    builder.store(v.fma(a_ip, b_pj[j], builder.load(c[i][j])), c[i][j])
        for i in range(rows):
            with builder.if_then(builder.icmp_signed("<", const(i), mr_cur)):
                for j in columns:
                    place = v.at(c_rows[i], j * v.bytes)
                    inside = v.first(builder.sub(nr_cur, const(j * vector)))
                    total = builder.fadd(v.masked_load(place, inside), builder.load(c[i][j]))
                    v.masked_store(total, place, inside)
        return context.get_dummy_value()

    matrices = a_pack, a_row, b_pack, b_row, kc_cur, out
    return types.void(mr, nr, lanes, *matrices, i_first, j_first, mr_cur, nr_cur), codegen


@compiled
def micro_tile(a_pack, a_row, b_pack, b_row, kc_cur, out, i_first, j_first, mr_cur, nr_cur):
    vectors(MR, NR, LANES, a_pack, a_row, b_pack, b_row, kc_cur, out, i_first, j_first, mr_cur, nr_cur)


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
