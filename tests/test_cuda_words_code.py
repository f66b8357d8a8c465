"""What the words of CUDA kernels compile to, read off the machine code: no GPU is needed for that."""

from __future__ import annotations

import re

import numba
import pytest
from cuda_code import compiled
from numba import types

from numbaconv import jit_cuda
from numbaconv.devices.intrinsics import (
    cp_async1,
    cp_async16,
    cp_async_commit,
    cp_async_wait,
    cuda,
    float32,
    float64,
    int32,
    ld1_zfill,
    ldv,
    ldv_zfill,
    multiply_tile,
    shfl_down,
    shfl_xor,
    stv,
    syncwarp,
)

POINTERS = [types.CPointer(types.float32), types.CPointer(types.float64), types.CPointer(types.int32)]
wait_all = cp_async_wait(0)
quad, pair, pair_zfill, quad_store, pair_store = ldv(4), ldv(8), ldv_zfill(8), stv(4), stv(8)
multiply8 = multiply_tile(2, 36, 36, 2, 4, 8, 8, 8, 2, 1)


def copies(a, b, c):
    floats = cuda.shared.array(8, float32, alignment=16)
    doubles = cuda.shared.array(8, float64, alignment=16)
    me = int32(cuda.threadIdx.x)
    cp_async16(floats, 0, a, 4, me & 3)
    cp_async16(doubles, 0, b, 2, me & 1)
    cp_async1(floats, me, a, me, me & 1)
    cp_async1(doubles, me, b, me, me & 1)
    cp_async_commit()
    wait_all()
    cuda.syncthreads()
    a[me], b[me] = floats[7 - me], doubles[7 - me]


def loads(a, b, c):
    me = int32(cuda.threadIdx.x)
    u, v, w = quad(a, 4 * me), pair(b, 2 * me), pair_zfill(b, 2 * me + 64, me & 3)
    quad_store(a, 4 * me, u[3], u[2], u[1], u[0])
    pair_store(b, 2 * me, v[1] + w[0], v[0] + w[1])
    x, y, z = ld1_zfill(a, me + 192, me & 1), ld1_zfill(b, me + 192, (me >> 1) & 1), ld1_zfill(c, me, (me >> 2) & 1)
    a[me + 128], b[me + 128], c[me] = x, y, z


def warps(a, b, c):
    me = int32(cuda.threadIdx.x)
    shared = cuda.shared.array(32, float32)
    shared[me] = shfl_down(a[me], 1)
    syncwarp()
    a[me], b[me], c[me] = shared[31 - me], shfl_xor(b[me], 16), shfl_down(c[me], 4)


def doubles(a, b, c):
    tile, sums = cuda.shared.array(144, float64, alignment=16), cuda.local.array(8, float64)
    me = int32(cuda.threadIdx.x)
    tile[me] = b[me]
    for i in range(8):
        sums[i] = 0.0
    cuda.syncthreads()
    multiply8(tile, 2 * (me & 1), tile, me >> 2, sums)
    for i in range(8):
        b[8 * me + i] = sums[i]


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("kernel", "least", "operations"),
    [
        (copies, 80, {r"LDGSTS\.E\.BYPASS.*128": 2, r"LDGSTS\.E(?!.*(128|64))": 1, r"LDGSTS\.E.*\.64": 1}),
        (loads, 75, {r"LDG.*\.128": 3, r"STG.*\.128": 2, r"LDG(?!.*128).*\.64": 2, r"LDG(?!.*(128|64))": 2,
                     "BSSY": 0}),
        (warps, 75, {r"SHFL\.DOWN": 2, r"SHFL\.BFLY": 2}),
        (doubles, 75, {r"DFMA": 16, r"LDS.*\.128": 2, r"LDS(?!.*128).*\.64": 8}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_words_are_the_instructions_that_they_name(kernel, least, operations):
    for cc in (7, 5), (8, 0), (9, 0):
        if 10 * cc[0] + cc[1] >= least:
            code = compiled(kernel, types.void(*POINTERS), cc, 32)
            assert code.spilled == (0, 0, 0)
            for name, count in operations.items():
                found = sum(number for operation, number in code.seen.items() if re.match(name, operation))
                assert found == count, (cc, name, code.seen)


@pytest.mark.compiler
def test_memory_of_another_type_is_refused_by_the_compiler():
    def wrong(a, b, c):
        a[0] = pair(a, 0)[0]

    with pytest.raises(numba.core.errors.TypingError):
        jit_cuda.cuda_compile(wrong, types.void(*POINTERS), (8, 0), 32)
