"""Whether AMX's tiles may be used: the CPU must have them, and Linux must be asked before their first use."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

from numbaconv.machine import Machine

ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18


@functools.cache
def permitted() -> bool:
    """Whether the kernel lets this process use tiles; asked once.

    The answer holds for all threads, those that exist already too, and for children after a fork.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    try:
        return ctypes.CDLL(None, use_errno=True).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0
    except (OSError, AttributeError):
        return False


def has_tiles(machine: Machine) -> bool:
    """Whether the CPU multiplies tiles of bf16, whatever the kernel says."""
    return {"amx-tile", "amx-bf16"} <= machine.amx and machine.vector_bits == 512
