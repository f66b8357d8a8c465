"""What no kernel can be faster than: multiply-adds in registers, and bytes from each cache and from memory, measured.

A cache is read over and over by the kernel that measures memory bandwidth (a sum by whole vectors), from an array well
inside it. A ceiling is the best of many short runs: neighbours slow some of them down, and speed none of them up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import NamedTuple

import numpy as np

from numbaconv.jit import compiled
from numbaconv.machine import Machine, detect
from numbaconv.probes import CHUNK_SECONDS, best_seconds, fma_kernel, fma_peak, read_bandwidth, sum_streams
from numbaconv.workspace import address_of, aligned

__all__ = ["Bandwidth", "Peak", "bandwidths", "levels", "peaks"]

SPELLS = 3
ACCUMULATORS = 12
"""Independent sums: enough to hide an addition's latency, few enough for 16 registers."""


class Peak(NamedTuple):
    """Operations a second of arithmetic that needs no memory."""

    name: str
    gflops: float
    threads: int


class Bandwidth(NamedTuple):
    """Bytes a second that are read from a level: "L1", "L2", "L3", "memory"."""

    name: str
    gb_s: float
    threads: int


def peaks(threads: int) -> list[Callable[[], Peak]]:
    """What measures each ceiling: one number at a time, and whole vectors, of one thread and of all."""
    vectors = [functools.partial(_vectors, count) for count in sorted({1, threads})]
    return [lambda: Peak("one number at a time", _single(), 1), *vectors]


def _vectors(threads: int) -> Peak:
    return Peak("vectors", fma_peak("float32", threads), threads)


def _single() -> float:
    """GFLOP/s of multiply-adds that take one number at a time."""
    kernel = fma_kernel(4, 1, int(detect().fma), ACCUMULATORS)
    x, y = 0.9999, 0.001  # converges to 10: no overflow, no denormals
    rounds = _repeats(lambda count: kernel(count, x, y))
    return 2 * rounds * ACCUMULATORS / best_seconds(1, lambda _: kernel(rounds, x, y)) / 1e9


def levels(machine: Machine | None = None) -> Iterator[tuple[str, int]]:
    """(cache, bytes that lie well inside it and far outside the one before), for one core.

    Of the L3 it is the core's share, where that is larger than the L2 by enough to be told from it.
    """
    machine = machine or detect()
    yield "L1", machine.l1d_bytes // 2
    if machine.l2_bytes >= 4 * machine.l1d_bytes:
        yield "L2", machine.l2_bytes // 2
    if machine.l3_share >= 2 * machine.l2_bytes:
        yield "L3", machine.l3_share


def bandwidths(threads: int) -> list[Callable[[], Bandwidth]]:
    """What measures each level, the nearest first: for one thread, and for all, each with an array of its own."""
    counts = sorted({1, threads})
    near = [functools.partial(_cache, name, size, count) for name, size in levels() for count in counts]
    return [*near, *(functools.partial(_memory, count) for count in counts)]


def _memory(threads: int) -> Bandwidth:
    return Bandwidth("memory", read_bandwidth(threads), threads)


def _cache(name: str, size: int, threads: int) -> Bandwidth:
    arrays = [aligned(size) for _ in range(threads)]
    for array in arrays:
        array.fill(0)
    kernel, addresses = _passes(detect().lanes(np.float32)), [address_of(array) for array in arrays]
    times = _repeats(lambda count: kernel(addresses[0], size, count))
    seconds = min(best_seconds(threads, lambda index: kernel(addresses[index], size, times)) for _ in range(SPELLS))
    return Bandwidth(name, threads * size * times / seconds / 1e9, threads)


@functools.cache
def _passes(lanes: int) -> Callable[[int, int, int], float]:
    """Reads `size` bytes at an address `times` times; returns a number that depends on all of them."""

    @compiled
    def passes(address, size, times):
        total = 0.0
        for _ in range(times):
            total += sum_streams(lanes, address, size)
        return total

    return passes


def _repeats(run: Callable[[int], object]) -> int:
    """How many repetitions take about a millisecond."""
    count, seconds = 1, 0.0
    run(count)
    while seconds < CHUNK_SECONDS:
        count *= 2
        start = perf_counter()
        run(count)
        seconds = perf_counter() - start
    return count
