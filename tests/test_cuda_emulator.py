"""What the CUDA emulator promises: it does what a GPU does, and catches what a GPU leaves undefined."""

from __future__ import annotations

import numba
import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets: pip install greenlet")

from numbaconv.devices.emulator import EmulationError, Memory, Thread, launch
from numbaconv.devices.intrinsics import (
    cp_async16,
    cp_async_commit,
    cp_async_wait,
    cuda,
    float32,
    int32,
    ld4,
    multiply_tile,
    st4,
    take_row,
    udiv32,
    umod32,
)
from numbaconv.jit import intrinsic
from numbaconv.jit_cuda import rebound


def shows(error, kernel, *arguments, block=32, **options):
    with pytest.raises(EmulationError, match=error):
        launch(kernel, (1,), block, *arguments, **options)


def test_int32_overflow_and_places_outside_are_errors():
    def sums(out, big):
        out[0] = int32(big + big)

    def behind(out, where):
        out[where] = 1

    shows("32 bits", sums, np.zeros(1, "f4"), 2**30)
    launch(sums, (1,), 1, np.zeros(1, "f4"), 2**30 - 1)
    shows("32 bits", behind, np.zeros(1, "f4"), 2**31)
    for where in -1, 4:
        shows("outside", behind, np.zeros(4, "f4"), where)


def test_memory_starts_as_nan():
    def copy(out):
        shared = cuda.shared.array(2, float32)
        local = cuda.local.array(1, float32)
        out[0], out[1] = shared[1], local[0]

    out = np.zeros(2, np.float32)
    launch(copy, (1,), 1, out)
    assert np.isnan(out).all()


def test_shared_memory_is_limited():
    def much(out):
        cuda.shared.array(12288, float32)
        cuda.shared.array(1, float32)

    shows("49156 bytes", much, np.zeros(1, "f4"))


def test_a_pointer_between_four_floats_is_misaligned():
    def read(a, out):
        out[0] = ld4(a, 0)[3]

    out = np.zeros(1, np.float32)
    launch(read, (1,), 1, Memory("a", np.arange(8, dtype="f4")), out)
    assert out[0] == 3
    shows("misaligned", read, Memory("a", np.arange(8, dtype="f4"), base=1), out)
    with pytest.raises(ValueError, match="contiguous"):
        launch(read, (1,), 1, np.zeros((4, 8), "f4")[:, ::2], out)


wait_one, wait_none = cp_async_wait(1), cp_async_wait(0)


def test_a_copy_lands_when_it_is_waited_for_and_for_others_after_a_barrier():
    def mine(a, out):
        shared = cuda.shared.array(8, float32, alignment=16)
        for half in range(2):
            cp_async16(shared, 4 * half, a, 4 * half, 3)
            cp_async_commit()
        wait_one()
        out[0] = ld4(shared, 0)[2]
        out[1] = ld4(shared, 0)[3]
        wait_none()
        out[2] = shared[6]

    def early(a, out):
        shared = cuda.shared.array(8, float32, alignment=16)
        for half in range(2):
            cp_async16(shared, 4 * half, a, 4 * half, 4)
            cp_async_commit()
        wait_one()
        out[0] = shared[4]

    def anothers(a, out):
        shared = cuda.shared.array(4, float32, alignment=16)
        if cuda.threadIdx.x == 0:
            cp_async16(shared, 0, a, 0, 4)
        cp_async_commit()
        wait_none()
        if cuda.threadIdx.x == 1:
            out[0] = shared[0]

    a, out = np.arange(1, 9, dtype=np.float32), np.zeros(3, np.float32)
    launch(mine, (1,), 1, a, out)
    np.testing.assert_array_equal(out, [3, 0, 7])
    shows("under way", early, a, out, block=1)
    for seed in range(4):  # whoever comes first
        if seed_runs_first(0, seed):
            shows("race", anothers, a, out, block=2, seed=seed)


def seed_runs_first(thread, seed):
    order = []

    def note(out):
        order.append(cuda.threadIdx.x)

    launch(note, (1,), 2, np.zeros(1, "f4"), seed=seed)
    return order[0] == thread


def test_the_order_of_threads_comes_from_the_seed():
    assert {seed_runs_first(0, seed) for seed in range(8)} == {True, False}
    assert len({seed_runs_first(0, 3) for _ in range(3)}) == 1


def test_races_are_seen_in_any_order():
    def shifted(out):
        shared = cuda.shared.array(32, float32)
        me = cuda.threadIdx.x
        shared[me] = me
        out[me] = shared[(me + 1) % 32]

    def both(out):
        shared = cuda.shared.array(1, float32)
        shared[0] = 1

    def read_then_written(out):
        shared = cuda.shared.array(32, float32)
        me = cuda.threadIdx.x
        shared[me] = me
        cuda.syncthreads()
        out[me] = shared[31 - me]
        shared[me] = 0

    out = np.zeros(32, np.float32)
    for seed in range(5):
        for kernel in shifted, both, read_then_written:
            shows("race", kernel, out, seed=seed)


@pytest.mark.parametrize(("a", "b"), [(0, 1), (7, 2), (2**32 - 1, 3), (12, 12)])
def test_unsigned_division(a, b):
    thread = Thread(None, 0, None)
    assert (udiv32.twin(thread, a, b), umod32.twin(thread, a, b)) == divmod(a, b)
    with pytest.raises(EmulationError, match="32 bits"):
        udiv32.twin(thread, -1, b)


def on_cpu(word):
    """A word as Numba compiles it for the CPU: LLVM IR is the same everywhere."""
    return intrinsic(word.typing)


def same_as_twin(word, run, *arrays):
    """`run` compiled with the word's IR, and as Python with its twin, leave the same in `arrays`."""
    mine, theirs = ([array.copy() for array in arrays] for _ in range(2))
    numba.njit(rebound(run, lambda value: on_cpu(value) if value is word else value))(*mine)
    launch(run, (1,), 1, *theirs)
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not all(np.array_equal(one, before) for one, before in zip(mine, arrays, strict=True))


def test_the_code_of_multiply_tile_does_what_its_twin_does(rng):
    multiply = multiply_tile(3, 64, 32, 8, 4, 32, 16)

    def run(a, b, sums):
        multiply(a, 20, b, 12, sums)

    same_as_twin(multiply, run, *(rng.standard_normal(size, dtype=np.float32) for size in (192, 96, 32)))


def test_the_code_of_take_row_does_what_its_twin_does(rng):
    take = take_row(8, 4)

    def run(sums, line, out):
        for i in range(8):
            take(sums, i, line)
            for j in range(4):
                out[4 * i + 3 - j] = line[j]

    same_as_twin(take, run, *(rng.standard_normal(size, dtype=np.float32) for size in (32, 4, 32)))


def test_the_code_of_ld4_and_st4_does_what_their_twins_do(rng):
    def load(a, out):
        v = ld4(a, 4)
        for j in range(4):
            out[j] = v[3 - j]

    def store(a, out):
        st4(out, 8, a[0], a[1], a[2], a[3])

    arrays = [rng.standard_normal(size, dtype=np.float32) for size in (8, 12)]
    same_as_twin(ld4, load, *arrays)
    same_as_twin(st4, store, *arrays)


@pytest.mark.parametrize("word", [udiv32, umod32], ids=lambda word: word.__name__)
def test_the_code_of_division_does_what_its_twin_does(word):
    def run(out):
        for i in range(9):
            out[i] = word(2**31 + 7 * i, i + 1) & 0xFFFFFF

    same_as_twin(word, run, np.zeros(9, np.float32))


def test_nothing_of_cuda_is_imported_before_it_is_used(python):
    said = python("""
        import sys
        import numbaconv
        from numbaconv.devices import emulator
        from numbaconv.gemm.cuda import gemm_kernel
        from numbaconv.gemm.cuda_loaders import ROWS
        from numbaconv.gemm.cuda_tile import LARGE
        gemm_kernel(LARGE, ROWS, ROWS)
        print([name for name in ("greenlet", "numba.cuda") if name in sys.modules])
    """)
    assert said.strip() == "[]"
