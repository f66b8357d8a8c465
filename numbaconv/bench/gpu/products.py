"""Cases: products on the device. Every tile with every way to load, epilogues, parts of k, far offsets, precision."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbaconv.bench.gpu.bench import Bench
from numbaconv.bench.gpu.case import Case, Skip, Tally
from numbaconv.gemm.cuda import Place
from numbaconv.gemm.cuda_loaders import ROWS, STRIDED, STRIDED_ALONG_K, Kind, Rows, Strided
from numbaconv.gemm.cuda_plan import TILES, CudaFinish, CudaPlan, Operand, Result, run_product
from numbaconv.gemm.cuda_tile import Tile
from numbaconv.products import gemm

__all__ = ["cases", "operand", "whole"]

SENTINEL = 77.0
KINDS = (ROWS, STRIDED, STRIDED_ALONG_K)
SIZES = [(300, 217, 131, 2), (129, 66, 16, 1), (64, 256, 8, 3), (1, 1, 1, 1), (5, 300, 0, 1), (257, 3, 1030, 1)]
QUICK_SIZES = [(70, 45, 37, 1)]
LIMITS = {"highest": (0.0, 2e-6), "high": (0.0, 1e-5), "medium": (1e-6, 1e-3)}
"""The relative error that a precision may have; less than that would mean that something else ran."""
FAR = 24_000  # its square is 2.3 GB of float32
LONG = 131_075


def whole(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray:
    """Whole numbers so small that every sum of products is exact."""
    return rng.integers(-3, 4, shape).astype(dtype)


def operand(bench: Bench, values: NDArray, kind: Kind) -> Operand:
    """(batch, k, width) on the device as `kind` loads it, NaN around it."""
    batch, k, width = values.shape
    vector = 16 // values.itemsize
    if kind is ROWS:
        pitch = -(-width // vector) * vector + vector
        room = np.full((batch, max(k, 1), pitch), np.nan, values.dtype)
        view, record = room[:, :k, :width], Rows(pitch, max(k, 1) * pitch)
        view[...] = values
        return Operand(kind, record, bench.put(room))
    if kind is STRIDED:
        step = 2 * width + 1
        room = np.full((batch, k + 1, step), np.nan, values.dtype)
        room[:, :k, : 2 * width : 2] = values
        return Operand(kind, Strided(step, 2, (k + 1) * step), bench.put(room))
    room = np.full((batch, width, k + 3), np.nan, values.dtype)
    room[:, :, :k] = values.swapaxes(1, 2)
    return Operand(kind, Strided(1, k + 3, width * (k + 3)), bench.put(room))


def product(bench: Bench, tile: Tile, a: Kind, b: Kind, sizes: tuple[int, int, int, int], parts: int) -> None:
    """One product of whole numbers: exact, and nothing written beside it."""
    m, n, k, batch = sizes
    rng = np.random.default_rng(m + n + k)
    dtype = np.dtype(f"f{tile.itemsize}")
    left, right = whole(rng, (batch, k, m), dtype), whole(rng, (batch, k, n), dtype)
    room = np.full((batch, m + 1, n + 3), SENTINEL, dtype)
    out = bench.put(room)
    plan = CudaPlan(m, n, k, batch, tile, parts, 0.0)
    scratch = bench.empty((plan.panel_bytes // tile.itemsize,), dtype) if plan.panel_bytes else None
    place = Place(1, n, n + 3, 0, 0, 1, (m + 1) * (n + 3))
    run_product(bench.runtime, None, plan, operand(bench, left, a), operand(bench, right, b), Result(out, place),
                "columns", CudaFinish(), scratch)  # fmt: skip
    room[:, :m, :n] = left.swapaxes(1, 2) @ right
    bench.equal(bench.get(out), room)


def tile_and_loaders(tile: Tile, kinds: list[tuple[Kind, Kind]], parts: tuple[int, ...], bench: Bench) -> Any:
    if tile.least > bench.runtime.cc:
        raise Skip(f"needs compute capability {'.'.join(map(str, tile.least))}")
    tally = Tally()
    for a, b in kinds:
        used = tile.padded() if a.along_k or b.along_k else tile
        for sizes, count in itertools.product(QUICK_SIZES if bench.quick else SIZES, parts):
            with tally.of(f"{a.name} x {b.name}, m n k batch = {sizes}, {count} parts"):
                product(bench, used, a, b, sizes, count)
                bench.runtime.synchronize()
    return tally.figures(bench)


def tiles() -> dict[str, Tile]:
    """All tiles by name, with those of GPUs without asynchronous copies: any GPU runs them."""
    found = {tile.name: tile for family in TILES.values() for tile in family}
    staged = [tile.staged() for tile in TILES["fma", 4] + TILES["fma", 8]]
    return found | {tile.name: tile for tile in staged}


def epilogues(bench: Bench) -> Any:
    """``gemm`` with everything that it takes, drawn at random, against NumPy."""
    rng, tally = np.random.default_rng(5), Tally()
    for number in range(3 if bench.quick else 40):
        dtype = (np.float32, np.float64)[number % 2]
        most = 30 if bench.quick else 200
        m, n, k = (int(size) for size in rng.integers(1, most, 3))
        batch = ((), (2,), (3, 2))[number % 3]
        turn_a, turn_b = bool(rng.integers(2)), bool(rng.integers(2))
        a = whole(rng, (*batch, k, m) if turn_a else (*batch, m, k), dtype)
        b = whole(rng, (n, k) if turn_b else (k, n), dtype)
        bias = (None, whole(rng, (n,), dtype), whole(rng, (m, 1), dtype))[number % 3]
        extra = whole(rng, (*batch, m, n), dtype) if number % 4 == 0 else None
        activation = (None, "relu", "relu6")[number % 3]
        out = whole(rng, (*batch, m, n), dtype)
        beta = float(number % 2)
        want = 2 * ((a.swapaxes(-1, -2) if turn_a else a) @ (b.T if turn_b else b)) + beta * out
        want = want + (0 if bias is None else bias) + (0 if extra is None else extra)
        want = (
            np.clip(want, *{None: (None, None), "relu": (0, None), "relu6": (0, 6)}[activation]) if activation else want
        )
        with tally.of(f"{m} x {k} x {n}, batch {batch}, turned {turn_a} {turn_b}, {activation}, beta {beta}"):
            target = bench.put(out)
            a_there = bench.put(a) if number % 5 else a
            gemm(a_there, bench.put(b), out=target, alpha=2.0, beta=beta, transpose_a=turn_a, transpose_b=turn_b,
                 bias=bias, residual=extra, activation=activation, device=bench.device)  # fmt: skip
            bench.equal(bench.get(target), want)
    return tally.figures(bench)


def precision(name: str, bench: Bench) -> Any:
    """The relative error against float64, on normal and on positive numbers, short sums and long."""
    if bench.runtime.cc < (8, 0) and name != "highest":
        raise Skip("there are no TF32 tensor cores")
    found, tally = {}, Tally()
    for k in (96,) if bench.quick else (64, 1024, 16384):
        for positive in (False, True):
            rng = np.random.default_rng(k)
            a, b = (rng.standard_normal(shape, dtype=np.float32) for shape in ((72, k), (k, 80)))
            a, b = (np.abs(a), np.abs(b)) if positive else (a, b)
            want = a.astype(np.float64) @ b
            what = f"k={k} {'positive' if positive else 'normal'}"
            with tally.of(what):
                error = bench.error(gemm(a, b, device=bench.device, precision=name), want)
                found[what] = error
                least, most = LIMITS[name]
                bench.within(error, most, what, 0 if positive else least)
    worst = max(found.values(), default=0.0)
    return tally.figures(bench) | {"errors": found, "note": f"largest {worst:.1e}"}


def many_blocks(bench: Bench) -> Any:
    """Many blocks along each axis of a grid, tall, wide and in a batch; and k in many parts."""
    tally, rng = Tally(), np.random.default_rng(6)
    for batch, m, n, k in ((), LONG, 9, 17), ((), 9, LONG, 17), ((3000,), 3, 5, 4), ((), 20, 30, LONG):
        with tally.of(f"{batch} {m} x {k} x {n}"):
            a, b = whole(rng, (*batch, m, k)), whole(rng, (*batch, k, n))
            want = a.astype(np.float64) @ b
            got = gemm(a, b, device=bench.device)
            bench.equal(got, want)
    return tally.figures(bench)


def far_offsets(bench: Bench) -> Any:
    """An output of more than 2^31 bytes: its corners and a row in the middle."""
    if not bench.recording and bench.runtime.memory_bytes < 8 * FAR * FAR:
        raise Skip("it needs 5 GB of memory")
    rng = np.random.default_rng(7)
    a, b = whole(rng, (FAR, 32)), whole(rng, (32, FAR))
    out = bench.empty((FAR, FAR))
    bench.blank(out)
    gemm(bench.put(a), bench.put(b), out=out, device=bench.device)
    for row in (0, 1, FAR // 2 - 1, 22_369, 22_370, FAR - 2, FAR - 1):
        bench.equal(bench.get(out[row]), a[row].astype(np.float64) @ b, f"row {row}")
    return {}


def cases(quick: bool) -> list[Case]:
    """The usual way to load first, of every tile; then all others."""
    plain, others = [(ROWS, ROWS)], [pair for pair in itertools.product(KINDS, KINDS) if pair != (ROWS, ROWS)]
    others = others[3:5] if quick else others
    found = []
    for name, tile in tiles().items():
        run = functools.partial(tile_and_loaders, tile, plain, (1, 2))
        found.append(Case("products", f"{name}, rows x rows", run))
    found += [Case("products", f"precision {name}", functools.partial(precision, name)) for name in LIMITS]
    found.append(Case("products", "epilogues of gemm", epilogues))
    for name, tile in tiles().items():
        run = functools.partial(tile_and_loaders, tile, others, (1,))
        found.append(Case("products", f"{name}, all loaders", run))
    if not quick:
        found += [Case("products", "many blocks", many_blocks), Case("products", "far offsets", far_offsets)]
    return found
