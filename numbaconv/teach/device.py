"""The page's section on the GPU: what each CUDA step asks of memory, from its own kernel, run in the emulator.

No times: those take a GPU (``scripts/gpu_check.py`` has the ladder among its cases).
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from numbaconv.devices.cuda import runtime
from numbaconv.errors import DeviceUnavailable
from numbaconv.ladder.step import Step, steps
from numbaconv.ladder.warps import Traffic, traffic

__all__ = ["emulation", "measure", "units"]

M, N, K = 256, 256, 32
"""Whole tiles of every step, and enough of them for production to take its large ones."""
SHOWN = 8
"""Loads of each matrix in a picture; stores are all shown, since they say who computes what."""
MATRICES = ("a", "b", "c")


def units(quick: bool) -> int:
    """How often ``measure`` calls `tick`."""
    return len(steps("cuda"))


def measure(quick: bool, tick: Callable[[str], Any]) -> dict[str, Any]:
    """What the first block of each step's kernel asks of memory, for one product.

    Parameters
    ----------
    quick : bool
        Takes seconds either way.
    tick : callable
        Told of each step.

    Returns
    -------
    dict
        "m", "n", "k"; "reason": why there are no counts, or None; "steps", each with "number", "name", "title", "idea",
        "source" and, of the first block (all blocks do the like),

        * "macs", its multiply-adds; "global_loads" and "shared_loads", load instructions of its threads;
          "transactions", sectors of 32 bytes that the loads from global memory take; "bytes_per_mac", 32 of those for
          each multiply-add;
        * "sectors", of the first warp's first access to a, b, c; "bank_conflicts", turns of the shared memory that
          its loads and stores take beyond those needed by their width alone;
        * "picture": "matrices", as much of A, B, C as the block touches, and "warp", one [matrix, row, column, lane,
          load_index] for every element that the first warp touches at its first loads, and at its stores.

        Where there is a reason, these are None.
    """
    found: list[dict[str, Any]] = []
    reason = None
    with emulation():
        for step in steps("cuda"):
            tick(f"memory accesses of {step.name}")
            counts = dict.fromkeys((*COUNTS, "picture"))
            if reason is None:
                try:
                    counts = _counts(step)
                except DeviceUnavailable as error:
                    reason = error.reason
            found.append({**{name: getattr(step, name) for name in ("number", "name", "title", "idea", "source")},
                          **counts})  # fmt: skip
    return {"m": M, "n": N, "k": K, "reason": reason, "steps": found}


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


COUNTS = ("macs", "global_loads", "shared_loads", "transactions", "bytes_per_mac", "sectors", "bank_conflicts")


def _counts(step: Step) -> dict[str, Any]:
    home = runtime("cuda")
    rng = np.random.default_rng(0)
    a, b = (home.to_device(rng.standard_normal(shape, dtype=np.float32)) for shape in ((M, K), (K, N)))
    asked = traffic(step.function, a, b, home.empty((M, N), np.float32), blocks=1)
    shared = asked.shared_loads.moved + asked.shared_stores.moved
    needed = asked.shared_loads.least + asked.shared_stores.least
    firsts: dict[str, int] = {}
    for instruction in asked.warp:
        firsts.setdefault(instruction.matrix, instruction.sectors)
    values = (asked.macs, asked.global_loads.accesses, asked.shared_loads.accesses, asked.global_loads.moved,
              asked.bytes_per_mac, firsts, shared - needed)  # fmt: skip
    return {**dict(zip(COUNTS, values, strict=True)), "picture": _picture(asked)}


def _picture(asked: Traffic) -> dict[str, Any]:
    """What the first warp touches, instruction after instruction."""
    warp, loads, number = [], Counter[str](), 0
    for instruction in asked.warp:
        if not instruction.writes:
            loads[instruction.matrix] += 1
            if loads[instruction.matrix] > SHOWN:
                continue
        matrix = MATRICES.index(instruction.matrix)
        warp += [[matrix, row, column, lane, number] for lane, row, column in instruction.elements]
        number += 1
    matrices = [
        {"name": name.upper(), "rows": asked.reach[name][0], "columns": asked.reach[name][1]} for name in MATRICES
    ]
    return {"matrices": matrices, "warp": warp}
