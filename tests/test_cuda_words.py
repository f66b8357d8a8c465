"""The words of CUDA kernels, emulated: element types, copies of one element, and what a warp does together."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets: pip install greenlet")

from numbaconv.devices.emulator import EmulationError, Memory, launch
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
    stv,
    take_row,
)
from numbaconv.jit import intrinsic
from numbaconv.jit_cuda import rebound

TYPES = {4: np.float32, 8: np.float64}
WORD_TYPES = {4: float32, 8: float64}
both = pytest.mark.parametrize("itemsize", [4, 8])
wait_all, wait_one = cp_async_wait(0), cp_async_wait(1)


def shows(error, kernel, *arguments, block=32, **options):
    with pytest.raises(EmulationError, match=error):
        launch(kernel, (1,), block, *arguments, **options)


def same_as_twin(word, run, *arrays):
    """`run` compiled for the CPU with the word's IR, and as Python with its twin, leave the same in `arrays`."""
    mine, theirs = ([array.copy() for array in arrays] for _ in range(2))
    numba.njit(rebound(run, lambda value: intrinsic(word.typing) if value is word else value))(*mine)
    launch(run, (1,), 1, *theirs)
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not all(np.array_equal(one, before) for one, before in zip(mine, arrays, strict=True))


# ------------------------------------------------------------------------------------------------- element types


@both
def test_the_code_of_vectors_does_what_the_twins_do(rng, itemsize):
    load, store, width = ldv(itemsize), stv(itemsize), 16 // itemsize

    def copy_back(a, out):
        v = load(a, 2 * width)
        for j in range(width):
            out[j] = v[width - 1 - j]

    def store_four(a, out):
        store(out, 4, a[0], a[1], a[2], a[3])

    def store_two(a, out):
        store(out, 4, a[0], a[1])

    arrays = [rng.standard_normal(12).astype(TYPES[itemsize]) for _ in range(2)]
    same_as_twin(load, copy_back, *arrays)
    same_as_twin(store, store_four if width == 4 else store_two, *arrays)


@both
def test_vectors_are_as_wide_as_their_type_says_and_aligned(itemsize):
    load, load_some, width = ldv(itemsize), ldv_zfill(itemsize), 16 // itemsize
    dtype, other = TYPES[itemsize], TYPES[12 - itemsize]

    def read(a, out, index):
        out[0] = load(a, index)[1]

    def some(a, out, index, count):
        v = load_some(a, index, count)
        for j in range(width):
            out[j] = v[j]

    a, out = np.arange(1, 9, dtype=dtype), np.full(4, np.nan, dtype)
    launch(read, (1,), 1, a, out, width)
    assert out[0] == width + 2
    shows("misaligned", read, a, out, 1)
    shows("outside", read, a, out, 8)
    shows("misaligned", read, Memory("a", a, base=1), out, 0)
    for count in range(width + 1):  # the last are there, and nothing behind them is touched
        out[:] = np.nan
        launch(some, (1,), 1, a[: width + count].copy(), out, width, count)
        np.testing.assert_array_equal(out[:width], [*a[width : width + count], *[0] * (width - count)])
        assert out.dtype == dtype
    shows("outside", some, a[: 2 * width - 1].copy(), out, width, width)
    shows(f"{width + 1} of {width}", some, a, out, 0, width + 1)
    if itemsize == 4:  # four float64 are 32 bytes
        shows("more than 16 bytes", read, np.arange(8, dtype=other), out, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_one_element_or_zero(dtype):
    def read(a, out, index, count):
        out[0] = ld1_zfill(a, index, count)

    a, out = np.arange(1, 6, dtype=dtype), np.full(1, 77, dtype)
    for index, count, want in (3, 1, 4), (3, 0, 0), (99, 0, 0), (-5, 0, 0):
        out[:] = 77
        launch(read, (1,), 1, a, out, index, count)
        assert out[0] == want
    shows("outside", read, a, out, 5, 1)
    shows("outside", read, a, out, -1, 1)
    shows("not between 0 and 1", read, a, out, 0, 2)

    def far(a, out, half):
        out[0] = ld1_zfill(a, half + half, 0)

    shows("32 bits", far, a, out, 2**30)


class Sizes(NamedTuple):
    width: int
    height: int


def test_records_and_integers_and_wide_reals_are_what_they_are():
    def kernel(table, sizes, out, factor):
        shared, local = cuda.shared.array(4, int32), cuda.local.array(2, float64)
        local[0] = float64(1) / 3
        shared[1] = table[1] * sizes.width - sizes.height
        out[0], out[1], out[2] = shared[1], shared[2], local[0] * factor

    out = np.zeros(3)
    launch(kernel, (1,), 1, np.array([5, 2**30], np.int32), Sizes(2, 1), out, np.float64(0.1))
    np.testing.assert_array_equal(out, [2**31 - 1, -1, 1 / 3 * 0.1])  # -1: integers' memory is not set, either
    shows("32 bits", kernel, np.zeros(2, "i4"), Sizes(2**31, 1), out, 1)

    def much(out):
        cuda.shared.array(6145, float64)

    shows("49160 bytes", much, out)


@both
@pytest.mark.parametrize(("group_m", "group_n"), [(None, None), (4, 1), (2, 4), (1, 2)])
def test_tiles_in_shared_memory_may_have_longer_rows(rng, itemsize, group_m, group_n):
    bk, pitch_m, pitch_n, mr, nr, step_m, step_n, i, j = 3, 96, 40, 8, 4, 12, 8, 4, 8
    multiply = multiply_tile(bk, pitch_m, pitch_n, mr, nr, step_m, step_n, itemsize, group_m, group_n)

    def run(a, b, sums):
        multiply(a, i, b, j, sums)

    shapes = (bk, pitch_m), (bk, pitch_n), (mr, nr)
    a, b, sums = (rng.integers(-9, 9, shape).astype(TYPES[itemsize]) for shape in shapes)
    group_m, group_n = group_m or 16 // itemsize, group_n or 16 // itemsize
    rows = [i + step_m * (r // group_m) + r % group_m for r in range(mr)]
    columns = [j + step_n * (s // group_n) + s % group_n for s in range(nr)]
    got = sums.copy()
    launch(run, (1,), 1, a, b, got)
    np.testing.assert_array_equal(got, sums + a[:, rows].T @ b[:, columns])
    same_as_twin(multiply, run, a.reshape(-1), b.reshape(-1), sums.reshape(-1))


def test_rows_and_groups_that_do_not_fit_vectors_are_refused():
    multiply, floats = multiply_tile(2, 35, 32, 4, 4, 16, 16), np.zeros(70, "f4")

    def run(a, b, sums):
        multiply(a, 0, b, 0, sums)

    shows("rows of 35", run, floats, floats, np.zeros(16, "f4"))
    for group in 3, 8:
        with pytest.raises(ValueError, match="in groups"):
            multiply_tile(2, 36, 32, 4, 4, 16, 16, 4, group)


def test_the_code_of_take_row_does_what_its_twin_does_in_float64(rng):
    take = take_row(4, 2, 8)

    def run(sums, line, out):
        for i in range(4):
            take(sums, i, line)
            for j in range(2):
                out[2 * i + 1 - j] = line[j]

    same_as_twin(take, run, *(rng.standard_normal(size) for size in (8, 2, 8)))


# -------------------------------------------------------------------------------------------- asynchronous copies


@both
def test_copies_of_one_element_and_of_vectors(itemsize):
    kind, width = WORD_TYPES[itemsize], 16 // itemsize

    def kernel(a, out):
        shared = cuda.shared.array(12, kind, alignment=16)
        me = int32(cuda.threadIdx.x)
        if me < 7:  # odd places, from odd places
            cp_async1(shared, me, a, int32(3 * me + 1), int32(1) if me != 5 else int32(0))
        if me == 9:
            cp_async16(shared, 8, a, width, width - 1)
        cp_async_commit()
        wait_all()
        cuda.syncthreads()
        out[me] = shared[me] if me < 7 or 8 <= me < 8 + width else kind(-1)

    a, out = np.arange(32, dtype=TYPES[itemsize]), np.full(32, np.nan, TYPES[itemsize])
    launch(kernel, (1,), 32, a, out)
    vector = [*a[width : 2 * width - 1], 0]
    np.testing.assert_array_equal(out, [1, 4, 7, 10, 13, 0, 19, -1, *vector, *[-1] * (24 - width)])
    shows("outside", kernel, a[:19].copy(), out)


def test_a_copy_of_one_element_lands_when_it_is_waited_for():
    def kernel(a, out, early, place, index, count):
        shared = cuda.shared.array(4, float32)
        cp_async1(shared, 0, a, 1, 1)
        cp_async_commit()
        cp_async1(shared, place, a, index, count)
        cp_async_commit()
        wait_one()
        out[0] = shared[0]
        if early:
            out[1] = shared[1]
        wait_all()
        out[1] = shared[1]

    a, out = np.arange(1, 4, dtype="f4"), np.zeros(2, "f4")
    launch(kernel, (1,), 1, a, out, 0, 1, 2, 1)
    np.testing.assert_array_equal(out, [2, 3])
    launch(kernel, (1,), 1, a, out, 0, 1, 2**31 - 1, 0)
    np.testing.assert_array_equal(out, [2, 0])
    for error, *how in [
        ("under way", 1, 1, 2, 1),
        ("under way", 0, 0, 2, 1),  # over the first, which is not there yet
        ("outside", 0, 4, 2, 1),
        ("outside", 0, -1, 2, 1),
        ("outside", 0, 1, 3, 1),
        ("outside", 0, 1, -1, 1),
        ("2 of 1 elements", 0, 1, 0, 2),
    ]:
        shows(error, kernel, a, out, *how, block=1)
    shows("asynchronous copy from argument 0", kernel, np.arange(3.0), out, 0, 1, 2, 1, block=1)

    def far(a, half):
        cp_async1(cuda.shared.array(1, float32), 0, a, half + half, 0)

    shows("32 bits", far, a, 2**30)

    def misplaced(a, out):
        cp_async1(out, 0, a, 0, 1)

    shows("not shared memory", misplaced, a, out)
