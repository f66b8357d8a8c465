"""Cases: memory, launches, and each word of CUDA kernels on the device, against what its twin says.

Small kernels, one for each word, with the answer from NumPy: the emulator gives the same (the tests see to that), so
that here nothing of it is needed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from numbaconv.bench.gpu import word_kernels as kernels
from numbaconv.bench.gpu.bench import Bench
from numbaconv.bench.gpu.case import Case, Skip
from numbaconv.devices.copying import copy4, copy4_launch
from numbaconv.jit_cuda import Kernel

__all__ = ["cases"]

REALS = {4: np.float32, 8: np.float64}
LETTERS: dict[Any, Any] = {np.float32: types.float32, np.float64: types.float64, np.int32: types.int32}


class Trial(NamedTuple):
    """A launch of one block: arrays and numbers in, and what some of the arrays must be afterwards."""

    kernel: Kernel
    arguments: list[Any]
    want: dict[int, Any]


def launched(bench: Bench, trial: Trial) -> list[NDArray | None]:
    """The arrays of a trial after its launch; None for numbers and for no array."""
    if trial.kernel.least > bench.runtime.cc:
        raise Skip(f"needs compute capability {'.'.join(map(str, trial.kernel.least))}")
    given = [bench.put(value) if isinstance(value, np.ndarray) else value for value in trial.arguments]
    bench.runtime.launch(trial.kernel, (1,), given)
    return [bench.get(x) if isinstance(value, np.ndarray) else None
            for x, value in zip(given, trial.arguments, strict=True)]  # fmt: skip


def tried(make: Callable[[np.random.Generator], Trial]) -> Callable[[Bench], Any]:
    """The case of a trial: exact, twice with other numbers."""

    def run(bench: Bench) -> dict[str, Any]:
        for seed in (0, 1):
            trial = make(np.random.default_rng(seed))
            after = launched(bench, trial)
            for number, want in trial.want.items():
                bench.equal(after[number], want, f"argument {number}")
        return {}

    return run


# ------------------------------------------------------------------------------------------------------- the words


def vectors(itemsize: int, rng: np.random.Generator) -> Trial:
    width = 16 // itemsize
    a = rng.standard_normal(32 * width).astype(REALS[itemsize])
    return Trial(
        kernels.vectors(itemsize), [a, np.full_like(a, np.nan)], {1: a.reshape(32, width)[:, ::-1].reshape(-1)}
    )


def some(itemsize: int, rng: np.random.Generator) -> Trial:
    """Counts of 0 to V, the last thread's elements the array's last."""
    width = 16 // itemsize
    a = rng.standard_normal(32 * width).astype(REALS[itemsize])
    counts = rng.integers(0, width + 1, 32).astype(np.int32)
    want = np.where(np.arange(width) < counts[:, None], a.reshape(32, width), 0).reshape(-1)
    return Trial(kernels.some(itemsize), [a, counts, np.full_like(a, np.nan)], {2: want})


def one(dtype: Any, rng: np.random.Generator) -> Trial:
    """A count of 0 goes with an index that is nowhere."""
    a = rng.integers(-99, 99, 96).astype(dtype)
    counts = rng.integers(0, 2, 32).astype(np.int32)
    want = np.where(counts > 0, a[3 * np.arange(32)], 0)
    return Trial(kernels.one(LETTERS[dtype]), [a, counts, np.full(32, 7, dtype)], {2: want})


def copies(itemsize: int, width: int, rng: np.random.Generator) -> Trial:
    """Asynchronous copies of `width` elements to places out of order, over what was there."""
    a = rng.standard_normal(40 * width).astype(REALS[itemsize])
    counts, places = rng.integers(0, width + 1, 32).astype(np.int32), rng.permutation(32).astype(np.int32)
    want = np.empty((32, width), a.dtype)
    want[places] = np.where(np.arange(width) < counts[:, None], a.reshape(40, width)[:32], 0)
    return Trial(kernels.copies(itemsize, width), [a, counts, places, np.full(32 * width, np.nan, a.dtype)],
                 {3: want.reshape(-1)})  # fmt: skip


def groups(pending: int, rng: np.random.Generator) -> Trial:
    """Tiles that come in while others are read, as in the product's loop."""
    tiles, threads = 9, kernels.THREADS
    a = rng.integers(-99, 99, (tiles, threads)).astype(np.float32)
    weights = (1 + np.arange(tiles))[:, None]
    want = (a[:, np.arange(threads) ^ 37] * weights).sum(0).astype(np.float32)
    return Trial(kernels.groups(pending), [a.reshape(-1), np.full(threads, np.nan, np.float32), tiles], {1: want})


def shuffles(dtype: Any, rng: np.random.Generator) -> Trial:
    a = rng.integers(-99, 99, 64).astype(dtype)
    by = int(rng.integers(1, 32))
    lanes = np.arange(64)
    down = np.where(lanes % 32 + by < 32, a[np.minimum(lanes + by, 63)], a)
    return Trial(kernels.shuffles(LETTERS[dtype]), [a, np.zeros_like(a), np.zeros_like(a), by],
                 {1: down, 2: a[lanes ^ by]})  # fmt: skip


def warps(rng: np.random.Generator) -> Trial:
    a = rng.standard_normal(64).astype(np.float32)
    lanes = np.arange(64)
    return Trial(kernels.warps(), [a, np.zeros_like(a)], {1: a[lanes // 32 * 32 + 31 - lanes % 32]})


def divisions(rng: np.random.Generator) -> Trial:
    a = rng.integers(0, 2**31, 32).astype(np.int32)
    b = (rng.integers(1, 2**31, 32) >> rng.integers(0, 31, 32)).clip(1).astype(np.int32)
    a[:4], b[:4] = (2**31 - 1, 0, 7, 2**31 - 1), (1, 9, 7, 2**31 - 1)
    return Trial(kernels.divisions(), [a, b, np.zeros_like(a), np.zeros_like(a)], {2: a // b, 3: a % b})


def tiles(itemsize: int, rng: np.random.Generator) -> Trial:
    kernel, (bk, bm, bn), (rows, columns) = kernels.tiles(itemsize)
    a, b = (rng.integers(-9, 10, (bk, width)).astype(REALS[itemsize]) for width in (bm, bn))
    product = a.T @ b
    want = product[rows[:, :, None], columns[:, None, :]].reshape(-1)
    return Trial(kernel, [a.reshape(-1), b.reshape(-1), np.full(want.size, np.nan, a.dtype)], {2: want})


def fragments(terms: int, rng: np.random.Generator) -> Trial:
    """Whole numbers, of more bits than TF32 has where three products are to make up for that."""
    most = 1000 if terms == 1 else 100_000
    a = rng.integers(-most, most + 1, (kernels.BK, kernels.WM)).astype(np.float32)
    b = rng.integers(-7, 8, (kernels.BK, kernels.WN)).astype(np.float32)
    return _fragments(terms, a, b, a.T @ b)


def specials(terms: int, rng: np.random.Generator) -> Trial:
    """Infinities and NaN where float32 would have them, and nowhere else."""
    a, b = (rng.integers(1, 5, (kernels.BK, width)).astype(np.float32) for width in (kernels.WM, kernels.WN))
    a[3, 5], a[4, 6], b[9, 2], a[7:9, 9], a[2, 11], b[6, 7] = np.inf, -np.inf, np.inf, (np.inf, -np.inf), np.nan, np.nan
    with np.errstate(invalid="ignore"):
        return _fragments(terms, a, b, a.T @ b)


def _fragments(terms: int, a: NDArray, b: NDArray, want: NDArray) -> Trial:
    out = np.full(want.size, np.nan, np.float32)
    return Trial(kernels.fragments(terms), [a.reshape(-1), b.reshape(-1), out], {2: want.reshape(-1)})


def rounding(terms: int, bench: Bench) -> dict[str, Any]:
    """The error of products on tensor cores, and of sums that they truncate."""
    found = {}
    for kind in ("normal", "positive"):
        rng = np.random.default_rng(2)
        a, b = (rng.standard_normal((kernels.BK, width), dtype=np.float32) for width in (kernels.WM, kernels.WN))
        if kind == "positive":
            a, b = np.abs(a), np.abs(b)
        want = a.T.astype(np.float64) @ b
        got = launched(bench, _fragments(terms, a, b, want))[2]
        error = bench.error(got.reshape(want.shape), want)  # type: ignore[union-attr]
        found[kind] = bench.within(error, 2e-6 if terms == 3 else 1e-3, kind, 0 if terms == 3 else 1e-6)
    return {"errors": found, "note": ", ".join(f"{kind} {error:.1e}" for kind, error in found.items())}


# ------------------------------------------------------------------------------------------------------ the device


def arguments(rng: np.random.Generator) -> Trial:
    """Every kind of argument, of each size, one after the other."""
    shape = kernels.Shape(*(int(number) for number in rng.integers(-(2**31), 2**31, 3)))
    table = rng.integers(-9, 9, 4).astype(np.int32)
    numbers = [-5, float(np.float32(0.1)), 0.1, 2**31 - 1]
    want = [*shape, numbers[0], np.float32(0.1), 0.1, numbers[3], table[3]]
    return Trial(
        kernels.arguments(), [np.zeros(8), None, shape, numbers[0], numbers[1], table, *numbers[2:]], {0: want}
    )


def memory(bench: Bench) -> dict[str, Any]:
    """There and back again in every layout; bytes; events."""
    runtime, base = bench.runtime, np.arange(2 * 3 * 4 * 5, dtype=np.float64).reshape(2, 3, 4, 5)
    for dtype in (np.float32, np.float64, np.int32):
        host = base.astype(dtype)
        for name, view in {"whole": host, "transposed": host.transpose(2, 0, 3, 1), "gaps": host[:, 1:, ::2, ::3],
                           "one": host[0, 0, 0, :1], "none": host[:0]}.items():  # fmt: skip
            bench.equal(bench.get(bench.put(view)), view, f"{name} of {dtype.__name__}")
        bench.equal(bench.get(bench.put(host)[:, 1:, ::2].transpose(1, 0, 3, 2)),
                    host[:, 1:, ::2].transpose(1, 0, 3, 2), f"a view of {dtype.__name__}")  # fmt: skip
    filled = bench.put(np.zeros(1000, np.float32))
    bench.blank(filled[100:200])
    bench.equal(np.isnan(bench.get(filled)), (np.arange(1000) // 100) == 1, "the bytes of a NaN")
    begin = runtime.record()
    seconds = runtime.record().seconds_since(begin)
    if not bench.recording:
        bench.within(seconds, 1.0, "seconds between two events")
    return {"event_gap": seconds}


def strided_copies(bench: Bench) -> dict[str, Any]:
    for dtype in (np.float32, np.float64):
        source = bench.put(np.arange(3 * 5 * 7 * 9, dtype=dtype).reshape(3, 5, 7, 9)).transpose(0, 2, 3, 1)
        target = bench.put(np.zeros(source.shape, dtype))
        steps = [[step // x.itemsize for step in x.strides] for x in (source, target)]
        grid, records = copy4_launch(source.shape, *steps)
        bench.runtime.launch(copy4(source.itemsize), grid, (source, target, *records))
        bench.equal(bench.get(target), bench.get(source), dtype.__name__)
    return {}


def cases(quick: bool) -> list[Case]:
    """All words; they are few and small, whatever is asked for."""
    found = [Case("device", "memory and events", memory), Case("device", "arguments of kernels", tried(arguments)),
             Case("device", "strided copies", strided_copies)]  # fmt: skip

    def word(name: str, make: Callable[..., Trial], *how: Any) -> None:
        found.append(Case("words", name, tried(functools.partial(make, *how))))

    for itemsize in (4, 8):
        bits = f"f{8 * itemsize}"
        word(f"ldv, stv {bits}", vectors, itemsize)
        word(f"ldv_zfill {bits}", some, itemsize)
        word(f"cp_async16 {bits}", copies, itemsize, 16 // itemsize)
        word(f"cp_async1 {bits}", copies, itemsize, 1)
        word(f"multiply_tile, take_row {bits}", tiles, itemsize)
    for dtype in (np.float32, np.float64, np.int32):
        word(f"ld1_zfill {dtype.__name__}", one, dtype)
        word(f"shfl_down, shfl_xor {dtype.__name__}", shuffles, dtype)
    for pending in (0, 1, 2):
        word(f"cp_async_commit, cp_async_wait({pending})", groups, pending)
    word("syncwarp", warps)
    word("udiv32, umod32", divisions)
    for terms in (1, 3):
        word(f"multiply_tile_mma x{terms}, whole numbers", fragments, terms)
        word(f"multiply_tile_mma x{terms}, infinities and NaN", specials, terms)
        found.append(Case("words", f"multiply_tile_mma x{terms}, rounding", functools.partial(rounding, terms)))
    return found
