"""The machine's measured ceilings: FMA peak, read and copy bandwidth.

Kept on disk by machine and thread count, since they take seconds to measure. A ceiling is the best of many short
runs: a shared host slows some of them down and speeds none of them up.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numba import types
from numba.core import cgutils

from numbaconv.jit import cache_directory, compiled, intrinsic
from numbaconv.machine import default_threads, detect
from numbaconv.simd import Lanes, const

__all__ = ["Ceilings", "copy_bandwidth", "fma_peak", "measure", "read_bandwidth"]

GIB = 1 << 30
CHUNK_SECONDS = 1e-3
"""A run this short often escapes the neighbours altogether, and still hides the call around it."""
SPELL_SECONDS = 0.12
SPELLS = 5
PASSES = 20


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do with `num_threads` threads.

    Parameters
    ----------
    num_threads : int
    float32, float64 : float
        Multiply-adds in registers, in GFLOP/s (an FMA counts two).
    read, copy : float
        Memory bandwidth in GB/s of a sum over, and a copy of, an array far larger than the caches. The copy
        counts the bytes read and the bytes written.
    """

    num_threads: int
    float32: float
    float64: float
    read: float
    copy: float


def measure(num_threads: int | None = None, refresh: bool = False) -> Ceilings:
    """All ceilings for a thread count: from disk, or measured now (some seconds).

    Parameters
    ----------
    num_threads : int, optional
        ``machine.default_threads()`` by default.
    refresh : bool
        Measure again even if the disk knows.
    """
    threads = num_threads or default_threads()
    return Ceilings(
        threads,
        fma_peak("float32", threads, refresh=refresh),
        fma_peak("float64", threads, refresh=refresh),
        read_bandwidth(threads, refresh=refresh),
        copy_bandwidth(threads, refresh=refresh),
    )


def fma_peak(dtype: str = "float32", num_threads: int | None = None, *, refresh: bool = False) -> float:
    """GFLOP/s of multiply-adds whose operands never leave the registers (multiply and add where there is no FMA).

    Each thread times chunks of about a millisecond; the peak is the sum of every thread's best chunk among those
    during which all threads were running.

    Parameters
    ----------
    dtype : {"float32", "float64"}
    num_threads : int, optional
        ``machine.default_threads()`` by default.
    refresh : bool
        Measure again even if the disk knows.
    """
    name = np.dtype(dtype).name
    threads = num_threads or default_threads()
    return _remembered(f"fma {name} x{threads}", refresh, lambda: _measure_fma(name, threads))


def read_bandwidth(num_threads: int | None = None, size: int = GIB, *, refresh: bool = False) -> float:
    """GB/s of a parallel sum.

    Parameters
    ----------
    num_threads : int, optional
        ``machine.default_threads()`` by default.
    size : int
        Bytes to sum; no more than a quarter of the free memory is taken.
    refresh : bool
        Measure again even if the disk knows.
    """
    threads = num_threads or default_threads()
    return _remembered(f"read {size} x{threads}", refresh, lambda: _measure_read(threads, _affordable(size)))


def copy_bandwidth(num_threads: int | None = None, size: int = GIB, *, refresh: bool = False) -> float:
    """GB/s of a parallel copy, reads and writes counted; parameters as for ``read_bandwidth``."""
    threads = num_threads or default_threads()
    return _remembered(f"copy {size} x{threads}", refresh, lambda: _measure_copy(threads, _affordable(size)))


# ------------------------------------------------------------------------------------------------- kept on disk


def ceilings_file() -> Path | None:
    """The file of this machine's ceilings; None where nothing can be written."""
    facts = {name: sorted(value) if isinstance(value, frozenset) else value for name, value in asdict(detect()).items()}
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    directory = cache_directory()
    return directory and directory / f"ceilings-{key}.json"


def kept(store: Path | None) -> dict[str, float]:
    """What a file of ceilings holds."""
    try:
        return json.loads(store.read_text()) if store else {}
    except (OSError, ValueError):
        return {}


_this_process: dict[str, float] = {}
_lock = threading.RLock()


def _remembered(key: str, refresh: bool, measure_now: Callable[[], float]) -> float:
    """The value of `key`: from this process, from the disk, or measured and written there."""
    with _lock:
        if refresh or key not in _this_process:
            store = ceilings_file()
            value = None if refresh else kept(store).get(key)
            if value is None:
                value = measure_now()
                keep(store, key, value)
            _this_process[key] = value
        return _this_process[key]


def keep(store: Path | None, key: str, value: float) -> None:
    """Put one value among those that other processes may be adding; a disk that refuses costs the next process time."""
    if store is None:
        return
    fresh = store.with_suffix(f".{os.getpid()}")
    try:
        fresh.write_text(json.dumps(kept(store) | {key: value}, indent=1, sort_keys=True))
        fresh.replace(store)
    except OSError:
        fresh.unlink(missing_ok=True)


def _affordable(size: int) -> int:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return size
    return min(size, free // 4)


# ------------------------------------------------------------------------------------------------------ kernels


@intrinsic(prefer_literal=True)
def _fma_rounds(typingctx, itemsize, lanes, fma, accumulators, rounds, x, y):
    """`rounds` times acc = acc * x + y in every accumulator; returns a number that depends on all of them."""
    size, width, fused, count = (value.literal_value for value in (itemsize, lanes, fma, accumulators))
    kind = types.float32 if size == 4 else types.float64

    def codegen(context, builder, signature, args):
        vectors = Lanes(builder, size, width, bool(fused))
        x, y = (vectors.splat(context.cast(builder, value, types.float64, kind)) for value in args[5:])
        cells = [vectors.variable(builder.fmul(x, vectors.splat(vectors.element(float(i))))) for i in range(count)]
        with cgutils.for_range(builder, args[4]):
            for cell in cells:
                builder.store(vectors.fma(builder.load(cell), x, y), cell)
        total = functools.reduce(builder.fadd, [builder.load(cell) for cell in cells])
        return context.cast(builder, vectors.sum(total), kind, types.float64)

    return types.float64(itemsize, lanes, fma, accumulators, rounds, x, y), codegen


@functools.cache
def fma_kernel(itemsize: int, lanes: int, fma: int, accumulators: int) -> Callable[..., float]:
    # The operands are arguments: sums of constants would be folded away.
    @compiled
    def kernel(rounds, x, y):
        return _fma_rounds(itemsize, lanes, fma, accumulators, rounds, x, y)

    return kernel


@intrinsic(prefer_literal=True)
def sum_streams(typingctx, lanes, address, size):
    """The sum of `size` bytes of float32 at `address`, read in STREAMS runs side by side."""
    width = lanes.literal_value
    signature = types.float32(lanes, address, size)

    def codegen(context, builder, signature, args):
        vectors = Lanes(builder, 4, width)
        base, step = vectors.pointer(args[1]), const(ACCUMULATORS * vectors.bytes)
        each = builder.sdiv(args[2], const(STREAMS))
        cells = [[vectors.variable(vectors.zero) for _ in range(ACCUMULATORS)] for _ in range(STREAMS)]
        with cgutils.for_range(builder, builder.sdiv(each, step)) as loop:
            for stream, accumulators in enumerate(cells):
                here = vectors.at(base, builder.add(builder.mul(each, const(stream)), builder.mul(loop.index, step)))
                for i, cell in enumerate(accumulators):
                    value = vectors.load(vectors.at(here, i * vectors.bytes))
                    builder.store(builder.fadd(builder.load(cell), value), cell)
        return vectors.sum(functools.reduce(builder.fadd, [builder.load(cell) for row in cells for cell in row]))

    return signature, codegen


STREAMS = 2
"""Measured: one run of addresses is a tenth slower, more than two gain nothing."""
ACCUMULATORS = 4


@functools.cache
def _sum_kernel(lanes: int) -> Callable[..., float]:
    @compiled
    def sum_kernel(address, size):
        return sum_streams(lanes, address, size)

    return sum_kernel


@compiled
def _copy(source, target):
    for i in range(source.size):
        target[i] = source[i]


# -------------------------------------------------------------------------------------------------- measurements


def _together(threads: int, task: Callable[[int], object]) -> list:
    """The results of task(0) ... task(threads - 1), run at the same time."""
    if threads == 1:
        return [task(0)]
    barrier = threading.Barrier(threads)

    def start(index: int) -> object:
        barrier.wait()
        return task(index)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(start, range(threads)))


def _measure_fma(dtype: str, threads: int) -> float:
    machine = detect()
    accumulators = 20 if machine.vector_registers == 32 else 12  # latency times pipes is 8 to 16; two hold x and y
    itemsize, lanes = np.dtype(dtype).itemsize, machine.lanes(dtype)
    kernel = fma_kernel(itemsize, lanes, int(machine.fma), accumulators)
    x, y = 0.9999, 0.001  # converges to 10: no overflow, no denormals
    rounds, seconds = 1000, 0.0
    kernel(rounds, x, y)
    while seconds < CHUNK_SECONDS / 2:
        rounds *= 2
        start = perf_counter()
        kernel(rounds, x, y)
        seconds = perf_counter() - start

    def chunks(_: int) -> list[tuple[float, float]]:
        times, now = [], perf_counter()
        end = now + SPELL_SECONDS
        while now < end:
            start = perf_counter()
            kernel(rounds, x, y)
            now = perf_counter()
            times.append((start, now))
        return times

    def chunks_per_second(runs: list[list[tuple[float, float]]]) -> float:
        first, last = max(times[0][0] for times in runs), min(times[-1][1] for times in runs)
        shared = [[end - start for start, end in times if start >= first and end <= last] for times in runs]
        return sum(1 / min(seconds, default=np.inf) for seconds in shared)

    flops = 2 * rounds * accumulators * lanes
    return flops * max(chunks_per_second(_together(threads, chunks)) for _ in range(SPELLS)) / 1e9


def _measure_read(threads: int, size: int) -> float:
    share = size // threads // 4096 * 4096
    values = np.ones(share * threads // 4, np.float32)
    kernel, base = _sum_kernel(detect().lanes(np.float32)), values.ctypes.data
    kernel(base, 4096)
    return values.nbytes / best_seconds(threads, lambda i: kernel(base + i * share, share)) / 1e9


def _measure_copy(threads: int, size: int) -> float:
    source = np.ones(size // 16, np.int64)
    target = np.zeros_like(source)
    sources, targets = np.array_split(source, threads), np.array_split(target, threads)
    _copy(source[:8], target[:8])
    return 2 * source.nbytes / best_seconds(threads, lambda i: _copy(sources[i], targets[i])) / 1e9


def best_seconds(threads: int, task: Callable[[int], object]) -> float:
    """Seconds of the fastest of some passes, from the first thread's start to the last one's end."""

    def timed(index: int) -> tuple[float, float]:
        start = perf_counter()
        task(index)
        return start, perf_counter()

    best = np.inf
    for _ in range(PASSES):
        runs = _together(threads, timed)
        best = min(best, max(end for _, end in runs) - min(start for start, _ in runs))
    return best
