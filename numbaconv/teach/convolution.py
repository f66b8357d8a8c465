"""The page's section on convolution: what lowering costs, measured and counted on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numbaconv.teach import convolution_examples as examples
from numbaconv.teach import convolution_memory as memory
from numbaconv.teach import convolution_times as times

__all__ = ["measure", "units"]


def units(quick: bool) -> int:
    """How many times ``measure`` ticks."""
    return len(times.layers(quick)) + len(memory.axes(quick)["kernel"]) + len(times.places(quick)) + 2


def measure(quick: bool, tick: Callable[[str], None]) -> dict[str, Any]:
    """All of the section, as it goes into the page.

    Parameters
    ----------
    quick : bool
        Fewer layers, sizes and calls.
    tick : callable
        Told in words what has just been done, ``units(quick)`` times.

    Returns
    -------
    dict
        ``ladder``: the steps and what grew from them, timed. ``memory``: bytes of every lowering over a grid of layers.
        ``blog``: one matrix product worked through. ``stride``: what it does to sizes. ``fourier``: transforms against
        products over kernel and stride.
    """
    return {
        "ladder": times.ladder(quick, tick),
        "memory": memory.grid(quick, tick),
        "blog": examples.blog(quick, tick),
        "stride": examples.strides(tick),
        "fourier": times.fourier(quick, tick),
    }
