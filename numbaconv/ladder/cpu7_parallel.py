"""A band of rows for every thread.

Compared with the step before: C is cut into bands of rows, one a thread, because each core has multipliers, registers
and inner caches of its own, and no band needs another's result. Compiled code runs without Python's lock, so ordinary
threads do. Every thread packs its band of A and all of B, 8·k·n bytes moved, for 2·m·k·n operations divided by the
threads. That is little while m is large; a product of few rows has few bands, and gains little or nothing.
"""

from concurrent.futures import ThreadPoolExecutor

from numbaconv.ladder import cpu6_vector
from numbaconv.ladder.words import sizes
from numbaconv.machine import default_threads


def gemm(a, b, out):
    m, _, _ = sizes(a, b, out)
    threads = default_threads()
    rows = max(1, -(-m // (threads * cpu6_vector.MR))) * cpu6_vector.MR  # whole tiles

    def band(first):
        cpu6_vector.gemm(a[first : first + rows], b, out[first : first + rows])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(band, range(0, m, rows)))
    return out


kernel = cpu6_vector.kernel
