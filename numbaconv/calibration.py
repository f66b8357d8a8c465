"""What the cost model takes a core to do: typical figures, or what a short benchmark of this machine found.

Only their ratios matter for a choice. ``calibrate`` is asked for (``numbaconv warmup --calibrate``), never done in
passing: the choice, and with it the bits of a result, must not depend on what else ran before.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from numbaconv import probes

KEPT = "calibrated "
NEAR_BYTES = 16 << 20
"""Read over and over again, from the last cache."""


class Rates(NamedTuple):
    """Of one core: operations a second (a multiply-add is two), bytes a second from memory and from the last cache."""

    peak: float
    memory: float
    cache: float


TYPICAL = Rates(120e9, 12e9, 40e9)
SHARES = Rates(1.0, 0.44, 0.48)
"""Of what the probes measure (multiply-adds, copying, reading), what convolutions make of it: those of ``TYPICAL`` on
the core where the model's other figures come from."""


@functools.cache
def rates() -> Rates:
    """What this machine was calibrated to, or ``TYPICAL``."""
    kept = probes.kept(probes.ceilings_file())
    values = [value for name in Rates._fields if isinstance(value := kept.get(KEPT + name), float) and value > 0]
    return Rates(*values) if len(values) == len(Rates._fields) else TYPICAL


def calibrate() -> Rates:
    """Measure this machine for a few seconds and keep what was found, for choices of problems not yet planned."""
    found = Rates(
        probes.fma_peak("float32", 1, refresh=True) * 1e9 * SHARES.peak,
        probes.copy_bandwidth(1, refresh=True) * 1e9 * SHARES.memory,
        probes.read_bandwidth(1, NEAR_BYTES, refresh=True) * 1e9 * SHARES.cache,
    )
    for name, value in found._asdict().items():
        probes.keep(probes.ceilings_file(), KEPT + name, value)
    rates.cache_clear()
    return found
