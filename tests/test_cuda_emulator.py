"""The CUDA kernels themselves, emulated block by block at their real sizes; and what the emulator must catch."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numba
import numpy as np
import oracles
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
from numbaconv.gemm import cuda as kernels
from numbaconv.gemm import cuda_tile
from numbaconv.gemm.cuda_tile import LARGE, LARGE_STAGED, SMALL, SMALL_STAGED, Tile
from numbaconv.jit import intrinsic
from numbaconv.jit_cuda import rebound

TINY, TINY_DEEP, TINY_FLAT, TINY_STAGED = (Tile(32, 16, 8, 4, 4, stages, 1) for stages in (3, 4, 2, 0))


def whole(rng, *shape):
    return rng.integers(-4, 5, shape).astype(np.float32)


def product(rng, tile, m, n, k, bias=None, activation=None, alpha=1.0, beta=0.0, gap=1, seed=0, builder=kernels):
    """Run the kernel on whole numbers, with NaN around operands and result, and compare with the oracle."""
    lda, ldb, ldc = -(-m // 4) * 4 + 4 * gap, -(-n // 4) * 4 + 4 * gap, n + gap
    cuda_tile.check_sizes(tile, m, n, k, lda, ldb, ldc)
    a, b, c = (np.full(shape, np.nan, np.float32) for shape in ((k, lda), (k, ldb), (m, ldc)))
    a[:, :m], b[:, :n] = whole(rng, k, m), whole(rng, k, n)
    if beta:
        c[:, :n] = whole(rng, m, n)
    added = whole(rng, {None: 1, "row": m, "column": n}[bias])
    want = oracles.gemm(
        a[:, :m].T, b[:, :n], c[:, :n].copy(), alpha, beta, activation=activation,
        bias={None: None, "row": added[:, None], "column": added}[bias],
    )  # fmt: skip
    # The last row of an operand ends with its values, and so does the result: what lies behind is another array.
    flat_a, flat_b, flat_c = (
        array.reshape(-1)[: max(array.size - (array.shape[1] - width), 0)] for array, width in ((a, m), (b, n), (c, n))
    )
    kernel = builder.sgemm(tile, bias)
    low, high = oracles.ACTIVATIONS[activation]
    launch(
        kernel.function, cuda_tile.sgemm_grid(tile, m, n), kernel.threads, flat_a, flat_b, flat_c, added,
        m, n, k, lda, ldb, ldc, alpha, beta, low, high, seed=seed,
    )  # fmt: skip
    np.testing.assert_array_equal(c[:, :n], want)
    assert np.isnan(c[:, n:]).all(), "wrote between the rows of the result"


AROUND = [(0, 0, 0), (-1, 0, 1), (0, 1, -1), (1, -1, 0), (3, -3, 3), (-4, 4, 2)]


@pytest.mark.parametrize("tile", [SMALL, SMALL_STAGED, TINY, TINY_STAGED], ids=str)
@pytest.mark.parametrize("off", AROUND, ids=str)
def test_products_around_the_edges_of_a_tile(rng, tile, off):
    product(rng, tile, tile.bm + off[0], tile.bn + off[1], 2 * tile.bk + off[2], gap=abs(off[0]))


@pytest.mark.parametrize("tile", [LARGE, LARGE_STAGED], ids=str)
@pytest.mark.parametrize("off", AROUND[:4:3], ids=str)
def test_products_around_the_edges_of_the_large_tile(rng, tile, off):
    product(rng, tile, tile.bm + off[0], tile.bn + off[1], tile.bk + off[2], "row", "relu6", 2.0, gap=off[0])


@pytest.mark.parametrize("tile", [TINY, TINY_FLAT, TINY_DEEP, TINY_STAGED], ids=str)
@pytest.mark.parametrize("k", [0, 1, 7, 8, 9, 16, 17, 40])
def test_any_depth(rng, tile, k):
    product(rng, tile, 5, 3, k, seed=k)
    product(rng, tile, 32, 16, k, gap=0, seed=k + 1)


@pytest.mark.parametrize("bias", kernels.BIASES)
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (-2.0, 3.0)])
def test_the_store_adds_and_limits(rng, bias, activation, alpha, beta):
    product(rng, TINY, 33, 18, 5, bias, activation, alpha, beta)
    product(rng, TINY, 8, 16, 5, bias, activation, alpha, beta, gap=0)  # 128-bit stores


@pytest.mark.parametrize("tile", [TINY, TINY_STAGED], ids=str)
def test_more_rows_of_tiles_than_a_group(rng, tile):
    product(rng, tile, 32 * (cuda_tile.GROUP + 2) - 3, 16 * 3 - 1, 3)


@pytest.mark.parametrize("tile", [TINY, TINY_STAGED], ids=str)
def test_rounding_is_that_of_one_running_sum_of_fused_multiply_adds(rng, tile):
    a, b = (rng.standard_normal((37, width), dtype=np.float32) for width in (32, 16))
    c, kernel = np.full((32, 16), np.nan, np.float32), kernels.sgemm(tile)
    launch(
        kernel.function, (1,), 32, a, b, c, np.zeros(1, "f4"), 32, 16, 37, 32, 16, 16, 1.0, 0.0, -np.inf, np.inf
    )  # fmt: skip
    np.testing.assert_array_equal(c, oracles.running_matmul(a.T, b))


def test_a_nan_stays_one_in_its_row_and_column(rng):
    a, b, c = whole(rng, 8, 32), whole(rng, 8, 16), np.zeros((32, 16), np.float32)
    a[3, 5], b[2, 7] = np.nan, np.inf
    want = oracles.gemm(a.T, b, activation="relu6")
    kernel = kernels.sgemm(TINY)
    launch(kernel.function, (1,), 32, a, b, c, np.zeros(1, "f4"), 32, 16, 8, 32, 16, 16, 1.0, 0.0, 0.0, 6.0)
    np.testing.assert_array_equal(c, want)
    assert np.isnan(c[5]).all()


@pytest.mark.parametrize("tile", [SMALL, LARGE, TINY], ids=str)
def test_all_sums_of_a_tile_have_a_thread_of_their_own(rng, tile):
    """A tile whose every element differs: no two threads may swap theirs."""
    m, n = tile.bm, tile.bn
    a, b, c = np.zeros((1, m), "f4"), np.zeros((1, n), "f4"), np.full((m, n), np.nan, "f4")
    a[0], b[0] = np.arange(m) * 1024, np.ones(n)
    bias = np.arange(n, dtype=np.float32)
    kernel = kernels.sgemm(tile, "column")
    launch(kernel.function, (1,), kernel.threads, a, b, c, bias, m, n, 1, m, n, n, 1.0, 0.0, -np.inf, np.inf)
    np.testing.assert_array_equal(c, np.arange(m)[:, None] * 1024 + np.arange(n))


@pytest.mark.parametrize(
    ("width", "k", "step", "step_k"), [(33, 31, 1, 40), (31, 65, 70, 1), (5, 40, 3, 17), (4, 1, 1, 4)]
)
def test_pack(rng, width, k, step, step_k):
    source = whole(rng, (k - 1) * step_k + (width - 1) * step + 1)
    pitch = -(-width // 4) * 4
    out = np.full((k, pitch), np.nan, np.float32)
    kernel = kernels.pack()
    launch(kernel.function, kernels.pack_grid(width, k), kernel.threads, source, out, width, k, step, step_k, pitch)
    want = np.zeros_like(out)
    for p in range(k):
        for i in range(width):
            want[p, i] = source[p * step_k + i * step]
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize(
    "tile", [(100, 128, 8, 8, 8, 3, 1), (128, 128, 8, 6, 8, 3, 1), (128, 128, 8, 8, 8, 1, 1),
             (128, 128, 16, 8, 8, 4, 1), (32, 16, 2, 4, 4, 2, 1)]
)  # fmt: skip
def test_tiles_that_cannot_be(tile):
    with pytest.raises(ValueError, match="Tile"):
        Tile(*tile)


@pytest.mark.parametrize(
    "sizes", [(64, 64, 8, 66, 64, 64), (64, 64, 8, 60, 64, 64), (64, 64, 8, 64, 64, 63), (4, 4, 2**29, 4, 4, 4),
              (2**16, 2**15, 4, 2**16, 2**15, 2**15)]
)  # fmt: skip
def test_sizes_that_32_bits_do_not_hold(sizes):
    with pytest.raises(ValueError, match=r"strides"):
        cuda_tile.check_sizes(SMALL, *sizes)


# ------------------------------------------------------------------------------------------- faults in the kernel


@pytest.fixture
def mutant(monkeypatch):
    """``mutant(old, new)``: gemm.cuda with that replaced, wherever it stands."""

    def build(old, new):
        source = Path(kernels.__file__).read_text(encoding="utf-8")
        assert old in source
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader("mutant", None))
        monkeypatch.setitem(sys.modules, "mutant", module)
        exec(compile(source.replace(old, new), "mutant", "exec"), module.__dict__)
        return module

    return build


def edges(rng, tile, builder):
    for n in tile.bn + 3, tile.bn + 2:
        product(rng, tile, tile.bm - 1, n, 4 * tile.bk, builder=builder)


BARRIER = "                cuda.syncthreads()  # this tile"
THREAD = "        thread = int32(cuda.threadIdx.x)\n"


@pytest.mark.parametrize(
    ("tile", "old", "new", "error"),
    [
        (SMALL, "cp_async_wait(slots - 2)", "cp_async_wait(slots - 1)", "asynchronous copy is under way"),
        (SMALL, BARRIER, "                # this tile", "race|under way"),
        (SMALL_STAGED, "                cuda.syncthreads()\n            from_a", "            from_a", "race"),
        (SMALL, BARRIER, "                if warp > 0:\n                    cuda.syncthreads()\n"
         "                else:\n                    cuda.syncthreads()  #", "divergent barriers"),
        (SMALL, THREAD, f"{THREAD}        if thread == 9:\n            return\n", "after 1 threads left"),
        (SMALL, "            wait_all()", "            pass", "copies under way"),
        (SMALL, "rows_a > i * down_a", "rows_a >= i * down_a", "outside"),
        (SMALL, "int32(4) if some_b > 4", "int32(4) if some_b > 0", "outside"),
        (SMALL_STAGED, "rows_b > i * down_b", "rows_b >= i * down_b", "outside"),
        (SMALL, "if y < m:", "if y <= m:", "outside"),
        (SMALL, "if x + j < n:\n                                c", "if x + j <= n:\n                                c",
         "between the rows|outside"),
        (SMALL, "if x + 4 <= n and", "if x + 3 <= n and", "between the rows|outside"),
        (SMALL, "if x + 4 <= n and ldc & 3 == 0", "if x + 4 <= n", "misaligned"),
        (SMALL, "umod32(thread, quads_b) * 4)", "umod32(thread, quads_b) * 4 + 1)", "misaligned"),
        (SMALL, "shared.array(all_b, float32, alignment=16)", "shared.array(all_b, float32)", "misaligned"),
        (SMALL, "(lane >> 3) * 8", "(lane >> 3) * 4", "Arrays are not equal"),
        (SMALL, "next_b < last_b else int32(0)", "next_b < last_b else int32(slot_b)", "under way|race|Arrays"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_caught(rng, mutant, tile, old, new, error):
    with pytest.raises((EmulationError, AssertionError), match=error):
        edges(rng, tile, mutant(old, new))


def test_the_unplanted_kernel_passes_what_the_faults_are_shown(rng, mutant):
    for tile in SMALL, SMALL_STAGED:
        edges(rng, tile, mutant(BARRIER, BARRIER))


# -------------------------------------------------------------------------------------- the emulator's own promises


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
        assert "numbaconv.gemm.cuda" not in sys.modules
        from numbaconv.devices import emulator
        from numbaconv.gemm.cuda import sgemm
        from numbaconv.gemm.cuda_tile import LARGE
        sgemm(LARGE)
        print([name for name in ("greenlet", "numba.cuda") if name in sys.modules])
    """)
    assert said.strip() == "[]"
