"""Sweeps of a product: the micro-tile, the cache blocks, the order of three loops, the threads."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from numbaconv.bench.contender import Contender, Reference, gemm_reference, normal
from numbaconv.gemm import Blocking
from numbaconv.gemm.blocking import analytical
from numbaconv.gemm.micro import max_vectors
from numbaconv.gemm.schedule import Operands, schedule
from numbaconv.ladder.orders import ORDERS, ordered
from numbaconv.machine import default_threads, detect
from numbaconv.products import gemm
from numbaconv.teach.sweep.grid import Axis, Grid, Job, Place
from numbaconv.timing import Call

__all__ = ["block_grids", "order_grids", "thread_grids", "tile_grids"]

Sizes = tuple[int, int, int]


class Product:
    """The operands of a product of whole sizes, its result, and what that must be."""

    def __init__(self, m: int, n: int, k: int):
        self.a, self.b = normal((m, k), "float32", 0), normal((k, n), "float32", 1)
        self.out = np.empty((m, n), np.float32)

    @functools.cached_property
    def expected(self) -> Reference:
        return gemm_reference(self.a, self.b)

    def job(self, name: str, call: Call) -> Job:
        """A job whose `call` writes ``self.out``."""

        def result() -> np.ndarray:
            self.out.fill(np.nan)
            call()
            return self.out

        return Job(Contender(name, call, result), self.expected)

    def blocked(self, blocking: Blocking | None, threads: int) -> Call:
        return functools.partial(gemm, self.a, self.b, out=self.out, num_threads=threads, blocking=blocking)


def flops(m: int, n: int, k: int) -> int:
    return 2 * m * n * k


def model_blocking(m: int, n: int, k: int) -> Blocking:
    """What the model would take of all blockings that multiply as the sweeps do: A packed, vectors along n."""

    def cycles(blocking: Blocking) -> float:
        return schedule(m, n, k, np.dtype(np.float32), 1, Operands(), blocking).cycles

    widths = range(1, max_vectors(detect().vector_registers) + 1)
    return min((analytical(m, n, k, np.float32, nv) for nv in widths), key=cycles)


def _blocking_grid(
    name: str, title: str, x: Axis, y: Axis, fields: tuple[str, str], sizes: Sizes, threads: int
) -> Grid:
    """A grid whose axes are two `fields` of a blocking, all others as the model has them."""
    ready = functools.cache(lambda: Product(*sizes))
    model = model_blocking(*sizes)
    fixed = {field: value for field, value in asdict(model).items() if field not in fields}

    def configure(place: Place) -> Job:
        blocking = replace(model, **dict(zip(fields, place, strict=True))).validate()
        return ready().job(f"{name} {place.y} x {place.x}", ready().blocked(blocking, threads))

    return Grid(
        name, f"{title}: {_product_text(sizes)}, {_threads_text(threads)}; {_values_text(fixed)}", x, y,
        {"sizes": list(sizes), "threads": threads, **fixed}, configure, lambda place: flops(*sizes),
        lambda: ready().blocked(None, threads), Place(*(getattr(model, field) for field in fields)),
    )  # fmt: skip


def tile_grids(sizes: Sizes | None, threads: int, quick: bool) -> list[Grid]:
    """mr x nr, spilling ones among them."""
    m, n, k = sizes or ((240, 240, 256) if quick else (480, 480, 512))
    lanes, model = detect().lanes(np.float32), model_blocking(m, n, k)
    rows = (2, 6, 10, 14) if quick else (1, 2, 4, 6, 8, 10, 12, 14)
    vectors = range(1, 4 if quick else 5)
    x = Axis("nr, columns of the tile", _values([nv * lanes for nv in vectors], model.nr))
    y = Axis("mr, rows of the tile", _values(rows, model.mr))
    return [_blocking_grid("tile", "Micro-tile", x, y, ("nr", "mr"), (m, n, k), threads)]


def block_grids(sizes: Sizes | None, threads: int, quick: bool) -> list[Grid]:
    """kc x nc, and mc x kc."""
    m, n, k = sizes or ((512, 512, 512) if quick else (1024, 1024, 1024))
    model = model_blocking(m, n, k)
    steps = (16, 64, 256) if quick else (16, 32, 64, 128, 256, 512)
    times = (1, 4) if quick else (1, 2, 4, 8, 16)
    kc = Axis("kc, steps of k in a block", _values((depth for depth in steps if depth <= k), model.kc))
    nc = Axis("nc, columns in a block", _values((model.nr * t for t in times if model.nr * t < n), model.nc))
    mc = Axis("mc, rows in a block", _values((model.mr * t for t in times if model.mr * t < m), model.mc))
    return [
        _blocking_grid("blocks-kc-nc", "Block of B", nc, kc, ("nc", "kc"), (m, n, k), threads),
        _blocking_grid("blocks-mc-kc", "Block of A", kc, mc, ("kc", "mc"), (m, n, k), threads),
    ]


def order_grids(quick: bool) -> list[Grid]:
    """The six orders of three loops, at sizes beside powers of two and at these."""
    sizes = (64, 128, 240, 256) if quick else (32, 64, 128, 240, 256, 272, 384, 496, 512)
    product = functools.lru_cache(2)(lambda size: Product(size, size, size))

    def call(order: str, size: int) -> Call:
        return functools.partial(ordered(order), product(size).a, product(size).b, out=product(size).out)

    def configure(place: Place) -> Job:
        return product(place.y).job(f"{place.x} {place.y}", call(place.x, place.y))

    return [Grid(
        "order", "Order of the three loops: out[i, j] += a[i, p] * b[p, j], 1 thread",
        Axis("loops, the outermost first", ORDERS), Axis("m = n = k", sizes), {}, configure,
        lambda place: flops(place.y, place.y, place.y), lambda: call("ikj", 128),
    )]  # fmt: skip


def thread_grids(threads: int | None, quick: bool) -> list[Grid]:
    """Threads of a product, and its size; up to all cores unless told otherwise."""
    most = threads or default_threads()
    counts = tuple(sorted({1, *(t for t in (2, 4, 8, 16, 32, 64, 128) if t < most), most}))
    sizes = (64, 128, 256, 512) if quick else (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
    product = functools.lru_cache(len(sizes))(lambda size: Product(size, size, size))

    def configure(place: Place) -> Job:
        return product(place.x).job(f"{place.y} threads, {place.x}", product(place.x).blocked(None, place.y))

    return [Grid(
        "threads", "Threads of a product", Axis("m = n = k", sizes), Axis("threads", counts), {}, configure,
        lambda place: flops(place.x, place.x, place.x), lambda: product(256).blocked(None, 1),
    )]  # fmt: skip


def _values(values: Iterable[int], model: int) -> tuple[int, ...]:
    """In order, the model's among them."""
    return tuple(sorted({*values, model}))


def _product_text(sizes: Sizes) -> str:
    return " x ".join(map(str, sizes))


def _threads_text(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


def _values_text(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
