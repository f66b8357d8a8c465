"""Cases: every tile and number of parts beside what ``gemm.cuda_plan`` chooses, and tiles that it does not know yet."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from numbaconv.api import plan
from numbaconv.bench.gpu.bench import Bench
from numbaconv.bench.gpu.case import Case, Skip
from numbaconv.devices.driver import DriverError
from numbaconv.gemm.cuda import Place
from numbaconv.gemm.cuda_loaders import ROWS, Rows
from numbaconv.gemm.cuda_plan import LEAST_DEPTH, TILES, CudaFinish, CudaPlan, Operand, Result, cuda_plan, run_product
from numbaconv.gemm.cuda_tile import LARGE, TENSOR3_LARGE, TENSOR_LARGE, Tile
from numbaconv.problem import ConvProblem
from numbaconv.timing import DeviceTimer

__all__ = ["EXPLORED", "cases"]

PARTS = (1, 2, 4, 8, 16, 32)
SIZES = [(256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (3000, 3000, 3000),
         (4096, 4096, 4096), (256, 12544, 64), (64, 100352, 576), (128, 25088, 1152), (256, 6272, 2304),
         (512, 1568, 4608), (2048, 1568, 512), (64, 64, 8192), (1000, 32, 2048), (4096, 32, 25088),
         (128, 784, 1152), (512, 49, 4608), (64, 3136, 147)]  # fmt: skip
"""(m, n, k)"""
FEW = [(1024, 1024, 1024), (4096, 4096, 4096), (128, 25088, 1152), (512, 1568, 4608), (512, 49, 4608)]


class Explored(Tile):
    """A tile whose kernels' names tell the bound on registers, too: here it is varied."""

    @property
    def name(self) -> str:
        return f"{super().name}_b{self.blocks}"


EXPLORED: dict[str, tuple[Tile, list[dict[str, int]]]] = {
    "fma": (LARGE, [
        {}, {"stages": 0}, {"stages": 2}, {"blocks": 1}, {"bn": 64, "blocks": 4}, {"bm": 64, "blocks": 4},
        {"bm": 64, "nr": 4}, {"bm": 256, "mr": 16, "stages": 2, "blocks": 1},
        {"bn": 256, "nr": 16, "stages": 2, "blocks": 1}, {"mr": 16},
    ]),
    "tf32x3": (TENSOR3_LARGE, [
        {"blocks": 2}, {"blocks": 1}, {"nr": 16, "blocks": 1}, {"bn": 64, "nr": 8, "stages": 3, "blocks": 2},
        {"bm": 64, "mr": 4, "nr": 16, "blocks": 2}, {"mr": 4, "nr": 16, "blocks": 1},
    ]),
    "tf32": (TENSOR_LARGE, [
        {"blocks": 2}, {"blocks": 1}, {"nr": 8, "blocks": 2}, {"mr": 4, "blocks": 2},
        {"bn": 64, "stages": 3, "blocks": 2}, {"bn": 64, "nr": 8, "stages": 3, "blocks": 2},
    ]),
}  # fmt: skip
"""A tile, and what is changed in it."""
PROFILED = 'mb32ic256ih56oc256oh56kh3ph1n"vgg16:features.12"'
EXPLORED_SIZES = [(4096, 4096, 4096), (128, 25088, 1152)]


class Prepared:
    """A product's operands as they are when they are packed, and its result."""

    def __init__(self, bench: Bench, m: int, n: int, k: int):
        self.bench, self.sizes = bench, (m, n, k)
        pitches = [-(-width // 4) * 4 for width in (m, n)]
        self.a, self.b = (Operand(ROWS, Rows(pitch, 0), bench.normal((k, pitch), seed))
                          for seed, pitch in enumerate(pitches))  # fmt: skip
        self.out = bench.empty((m, n))

    def call(self, tile: Tile, parts: int) -> Callable[[], None]:
        m, n, k = self.sizes
        plan = CudaPlan(m, n, k, 1, tile, parts, 0.0)
        scratch = self.bench.empty((plan.panel_bytes // 4,)) if plan.panel_bytes else None
        place = Result(self.out, Place(1, n, n, 0, 0, 1))
        return lambda: run_product(
            self.bench.runtime, None, plan, self.a, self.b, place, "columns", CudaFinish(), scratch
        )

    def seconds(self, tile: Tile, parts: int) -> float:
        """The best of a few batches of calls."""
        call, timer = self.call(tile, parts), DeviceTimer(self.bench.runtime)
        call()
        if self.bench.recording:
            return 1.0
        once = max(1e-6, timer.seconds(call))
        repeat = 1 if self.bench.quick else max(1, min(200, int(3e-3 / once)))
        return min(timer.seconds(call, repeat) / repeat for _ in range(1 if self.bench.quick else 4))


def ways(tiles: Iterable[Tile], k: int) -> list[tuple[Tile, int]]:
    return [(tile, parts) for tile in tiles for parts in PARTS if parts == 1 or parts * LEAST_DEPTH * tile.bk <= k]


def choice(arithmetic: str, sizes: tuple[int, int, int], bench: Bench) -> dict[str, Any]:
    """Seconds of every way, and how far the chosen one is from the best."""
    need(bench, arithmetic)
    m, n, k = (40, 30, 300) if bench.quick else sizes
    ready = Prepared(bench, m, n, k)
    all_ways = ways(TILES[arithmetic, 4], k)
    found = {
        f"{tile.name} /{parts}": ready.seconds(tile, parts) for tile, parts in all_ways[: 2 if bench.quick else None]
    }
    chosen = cuda_plan(m, n, k, 1, 4, arithmetic, bench.runtime.multiprocessors)
    name, best = f"{chosen.tile.name} /{chosen.parts}", min(found, key=lambda way: found[way])
    regret = ready.seconds(chosen.tile, chosen.parts) / found[best] if name not in found else found[name] / found[best]
    rate = 2e-12 * m * n * k / found[best]
    return {"m": m, "n": n, "k": k, "arithmetic": arithmetic, "chosen": name, "best": best, "regret": regret,
            "cycles": chosen.cycles, "seconds": found,
            "note": f"chosen {name}: {regret:.2f} x the best, {best} ({rate:.1f} TFLOP/s)"}  # fmt: skip


def explored(arithmetic: str, sizes: tuple[int, int, int], bench: Bench) -> dict[str, Any]:
    """TFLOP/s of other tiles."""
    need(bench, arithmetic)
    m, n, k = (40, 30, 20) if bench.quick else sizes
    ready, found, failed = Prepared(bench, m, n, k), {}, {}
    base, changes = EXPLORED[arithmetic]
    for change in changes[: 2 if bench.quick else None]:
        try:
            tile = Explored(**asdict(replace(base, **change)))  # type: ignore[arg-type]
            found[tile.name] = 2e-12 * m * n * k / ready.seconds(tile, 1)
        except DriverError:
            raise
        except Exception as failure:
            failed[str(change)] = f"{type(failure).__name__}: {failure}"
    note = ", ".join(f"{name} {rate:.1f}" for name, rate in sorted(found.items(), key=lambda item: -item[1])[:4])
    return {"tflops": found, "failed": failed, "note": f"TFLOP/s: {note}"}


def profiled(bench: Bench) -> dict[str, Any]:
    """One launch of each kernel that a profiler is to look at."""
    m, n, k = (40, 30, 20) if bench.quick else EXPLORED_SIZES[0]
    ready, names = Prepared(bench, m, n, k), []
    for arithmetic in EXPLORED:
        if arithmetic == "fma" or bench.runtime.cc >= (8, 0):
            tile = TILES[arithmetic, 4][0]
            ready.call(tile, 1)()
            names.append(tile.name)
    problem = ConvProblem.parse(PROFILED)
    if not bench.quick:
        w = np.random.default_rng(0).standard_normal(problem.weight_shape, dtype=np.float32)
        plan(problem, "implicit-gemm", bench.device).prepare(w)(bench.normal(problem.input_shape))
    return {"kernels": names}


def need(bench: Bench, arithmetic: str) -> None:
    if arithmetic != "fma" and bench.runtime.cc < (8, 0):
        raise Skip("there are no TF32 tensor cores")


def cases(quick: bool) -> list[Case]:
    found = [Case("tiles", "profiled", profiled)]
    for arithmetic in EXPLORED:
        for sizes in EXPLORED_SIZES[:1] if quick else EXPLORED_SIZES:
            name = f"{arithmetic}, other tiles, {' x '.join(map(str, sizes))}"
            found.append(Case("tiles", name, functools.partial(explored, arithmetic, sizes)))
        for sizes in SIZES[:1] if quick else SIZES if arithmetic == "fma" else FEW:
            name = f"{arithmetic}, choice, {' x '.join(map(str, sizes))}"
            found.append(Case("tiles", name, functools.partial(choice, arithmetic, sizes)))
    return found
