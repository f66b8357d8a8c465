"""The page's section on the GPU: what each CUDA step asks of memory, from its own kernel, run in the emulator.

No times: those take a GPU (``scripts/gpu_check.py`` has the ladder among its cases).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from numbaconv.devices.cuda import runtime
from numbaconv.ladder.step import Step, steps
from numbaconv.ladder.warps import Instruction, Traffic, traffic

__all__ = ["emulation", "measure", "units"]

M, N, K = 256, 256, 32
"""Whole tiles of every step, and enough of them for production to take its large ones."""
SHOWN = 8
"""Loads of each matrix that a picture has."""
MATRICES = ("a", "b", "c")


def units(quick: bool) -> int:
    """How often ``measure`` calls `tick`."""
    return len(steps("cuda"))


def measure(quick: bool, tick: Callable[[str], Any]) -> dict[str, Any]:
    """What each step's kernel asks of memory, for one product: its first block's, times the number of blocks.

    Parameters
    ----------
    quick : bool
        Takes seconds either way.
    tick : callable
        Told of each step.

    Returns
    -------
    dict
        "m", "n", "k", and "steps", each with "number", "name", "title", "idea", "source" and

        * "macs", multiply-adds; "global_loads" and "shared_loads", load instructions of all threads; "transactions",
          sectors of 32 bytes that the loads from global memory take; "bytes_per_mac", 32 of those for each
          multiply-add;
        * "sectors", of a warp's first load of a and of b and of its first store to c; "bank_conflicts", turns of the
          banks that accesses to shared memory take because lanes meet in one;
        * "picture": "matrices", as much of A, B, C as the first block touches, and "warp", one [matrix, row, column,
          lane, load_index] for every element that its first warp touches at its first loads; with the last load_index,
          all that it stores to C: who computes what.

    Raises
    ------
    DeviceUnavailable
        Where the emulator cannot run.
    """
    found = []
    with emulation():
        for step in steps("cuda"):
            tick(f"memory accesses of {step.name}")
            about = {name: getattr(step, name) for name in ("number", "name", "title", "idea", "source")}
            found.append(about | _counted(step))
    return {"m": M, "n": N, "k": K, "steps": found}


@contextlib.contextmanager
def emulation() -> Iterator[None]:
    """Put the emulator in the place of a GPU, whether there is one or not."""
    wanted = {"NUMBACONV_CUDA": "emulate", "NUMBACONV_CUDA_CC": "8.0"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _counted(step: Step) -> dict[str, Any]:
    home = runtime("cuda")
    rng = np.random.default_rng(0)
    a, b = (home.to_device(rng.standard_normal(shape, dtype=np.float32)) for shape in ((M, K), (K, N)))
    asked = traffic(step.function, a, b, home.empty((M, N), np.float32), blocks=1)
    blocks, shared = M * N * K // asked.macs, (asked.shared_loads, asked.shared_stores)
    firsts: dict[str, int] = {}
    for instruction in asked.warp:
        firsts.setdefault(instruction.matrix, instruction.sectors)
    return {
        "macs": blocks * asked.macs,
        "global_loads": blocks * asked.global_loads.accesses,
        "shared_loads": blocks * asked.shared_loads.accesses,
        "transactions": blocks * asked.global_loads.moved,
        "bytes_per_mac": asked.bytes_per_mac,
        "sectors": firsts,
        "bank_conflicts": blocks * sum(tally.moved - tally.least for tally in shared),
        "picture": _picture(asked),
    }


def _picture(asked: Traffic) -> dict[str, Any]:
    """What the first warp touches, load after load; then, as one picture, all that it stores."""
    loads: list[Instruction] = []
    for one in asked.warp:
        if not one.writes and sum(other.matrix == one.matrix for other in loads) < SHOWN:
            loads.append(one)
    stores = [one for one in asked.warp if one.writes]
    numbered = [*enumerate(loads), *((len(loads), one) for one in stores)]
    return {
        "matrices": [dict(zip(("name", "rows", "columns"), (name.upper(), *asked.reach[name]), strict=True))
                     for name in MATRICES],
        "warp": [[MATRICES.index(one.matrix), row, column, lane, number]
                 for number, one in numbered for lane, row, column in one.elements],
    }  # fmt: skip
