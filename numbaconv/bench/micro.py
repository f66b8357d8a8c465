"""The micro-kernels alone on one core, beside the peak of multiply-adds measured just before and after."""

from __future__ import annotations

from functools import partial

import numpy as np

from numbaconv import probes
from numbaconv.gemm.micro import max_rows, max_vectors, micro_kernel
from numbaconv.jit import compiled
from numbaconv.machine import detect
from numbaconv.simd import invoke
from numbaconv.timing import burst
from numbaconv.workspace import address_of, aligned

__all__ = ["measure"]

SHALLOW, DEEP = 128, 384  # steps of k: panels in L1; panels that stream from L2, as in a large product
TILES = 20


@compiled
def _repeat(kernel, times, tiles, kc, a, a_panel, b, c, rs_c, lanes):
    for _ in range(times):
        for tile in range(tiles):
            invoke(kernel, (kc, a + tile * a_panel, 0, b, c, rs_c, lanes, 0, 0, c, 0, 0, 0, 0, 0))


def measure(rounds: int = 20) -> list[tuple[str, float, float, float]]:
    """Time the largest tile of every width.

    Returns
    -------
    list of (tile, GFLOP/s with 128 steps in L1, GFLOP/s with 384 steps from L2, share of the peak of the latter)
        Best of many short calls, as the peak is.
    """
    machine = detect()
    lanes, registers = machine.lanes(np.float32), machine.vector_registers
    rng = np.random.default_rng(0)
    work, flops, keep = {}, {}, []
    for nv in range(2, max_vectors(registers) + 1):
        mr = max_rows(nv, registers)
        for kc, tiles in ((SHALLOW, 1), (DEEP, TILES)):
            a, b, c = (
                aligned(4 * size).view(np.float32)
                for size in (tiles * mr * kc, (kc + 32) * nv * lanes, mr * nv * lanes)
            )
            a[:], b[:] = rng.standard_normal(a.size), rng.standard_normal(b.size)
            keep.append((a, b, c))
            times = max(1, 200_000 // (kc * tiles))
            name = f"{mr} x {nv * lanes}, kc {kc}"
            work[name] = partial(_repeat, micro_kernel(4, mr, nv).address, times, tiles, kc, address_of(a), 4 * mr * kc,
                                 address_of(b), address_of(c), 4 * nv * lanes, lanes)  # fmt: skip
            flops[name] = 2.0 * mr * nv * lanes * kc * tiles * times
    before = probes.fma_peak("float32", 1, refresh=True)
    samples = burst(work, rounds=rounds, pause=0.0, drop=1, calls=5, budget_s=60.0)
    peak = max(before, probes.fma_peak("float32", 1, refresh=True))
    speeds = {name: flops[name] / min(samples[name].times) / 1e9 for name in work}
    rows = []
    for shallow in [name for name in work if name.endswith(f"kc {SHALLOW}")]:
        deep = shallow.replace(f"kc {SHALLOW}", f"kc {DEEP}")
        rows.append((shallow.split(",")[0], speeds[shallow], speeds[deep], speeds[deep] / peak))
    return rows
