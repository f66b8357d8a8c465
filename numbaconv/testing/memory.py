"""Memory that tells: arrays cut out of larger ones full of NaN; and a watch on a run's scratch and products."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from numbaconv.gemm import Chain, GemmPlan
from numbaconv.workspace import Arena, address_of, aligned

__all__ = ["JUNK", "NAN", "ZONE", "Guarded", "Scratch", "Seen", "become", "observed", "one_at_a_time"]

NAN, JUNK = 0xFF, 0x3F
"""Bytes to fill memory with: of NaN in both element types, and of numbers (0.747 in float32, 4.8e-4 in float64)."""
ZONE = 4096  # elements, or bytes of scratch, on each side
AXES = {"nchw": (0, 1, 2, 3), "nhwc": (0, 2, 3, 1)}


class Guarded:
    """An array with axes (n, c, h, w), in memory as `layout` says, inside of memory that is not its own.

    Parameters
    ----------
    shape, dtype, layout
        Of the array.
    margins : tuple of int
        Foreign elements on both sides of each axis, besides the zones before and after everything.
    fill : int
        The byte that all memory holds.
    zone : int
        Elements before and after everything.
    """

    def __init__(self, shape, dtype, layout: str, margins=(0, 0, 0, 0), fill: int = NAN, zone: int = ZONE):
        self.shape, self.dtype, self.margins, self.fill = tuple(shape), np.dtype(dtype), margins, fill
        self.zone = zone
        self.axes = AXES[layout]
        self.outer = [self.shape[axis] + 2 * margins[axis] for axis in self.axes]
        self.memory = aligned((int(np.prod(self.outer)) + 2 * zone) * self.dtype.itemsize)
        self.memory[:] = fill
        self.array = self.cut(self.memory)

    def cut(self, memory: Any) -> Any:
        """The array in other memory of the same bytes, a NumPy array or a ``DeviceArray``."""
        inner = slice(self.zone, self.zone + int(np.prod(self.outer)))
        whole = memory.view(self.dtype)[inner].reshape(self.outer).transpose(np.argsort(self.axes).tolist())
        return whole[tuple(slice(m, m + length) for m, length in zip(self.margins, self.shape, strict=True))]

    def written_outside(self) -> str:
        """Where something else than the array was written; empty when nowhere."""
        rest = self.memory.copy()
        inside = self.cut(rest).view(f"u{self.dtype.itemsize}")
        inside[...] = np.full(self.dtype.itemsize, self.fill, np.uint8).view(inside.dtype)[0]
        changed = np.flatnonzero(rest != self.fill)
        if not changed.size:
            return ""
        place, size = int(changed[0]) // self.dtype.itemsize - self.zone, int(np.prod(self.outer))
        if place < 0:
            return f"{-place} elements before the array"
        if place >= size:
            return f"{place - size + 1} elements after the array"
        index = np.unravel_index(place, self.outer)
        by_axis = [int(index[self.axes.index(axis)]) - self.margins[axis] for axis in range(4)]
        return f"at index {by_axis} of an array of shape {list(self.shape)}"


@dataclass
class Scratch:
    """What one ``Arena`` gave, or one context of a device."""

    arena: Any
    memory: np.ndarray
    fill: int
    spans: list[tuple[str, int, int]] = field(default_factory=list)  # name, start, bytes

    @property
    def panel_bytes(self) -> int:
        return self.arena.slices.get("panels", 0)

    @property
    def lowering_bytes(self) -> int:
        return sum(self.arena.slices.values()) - self.panel_bytes

    def written_outside(self) -> str:
        """The slice behind which something was written; empty when none."""
        rest = self.memory.copy()
        for _, start, size in self.spans:
            rest[ZONE + start : ZONE + start + size] = self.fill
        changed = np.flatnonzero(rest != self.fill)
        if not changed.size:
            return ""
        place = int(changed[0]) - ZONE
        before = [span for span in self.spans if span[1] + span[2] <= place]
        if not before:
            return "before its first slice"
        name, start, size = before[-1]
        return f"{place - start - size + 1} bytes behind its slice {name!r}"


@dataclass
class Seen:
    """What a run took and issued: one ``Scratch`` an arena, and how often each product (as ``product_of`` counts)."""

    scratch: list[Scratch] = field(default_factory=list)
    products: Counter = field(default_factory=Counter)


one_at_a_time = threading.Lock()


def become(cls: type, **methods: Any) -> None:
    """Change methods of a class."""
    for name, method in methods.items():
        setattr(cls, name, method)


@contextlib.contextmanager
def observed(fill: int) -> Iterator[Seen]:
    """Watch every ``Arena`` made and every product issued in the block, on any thread.

    Each arena gets memory of its own, full of the byte `fill`. Classes are changed while the block runs, so that runs
    that nobody watches pay nothing.
    """
    seen = Seen()
    by_arena: dict[int, Scratch] = {}
    initialise, give, multiply, follow = Arena.__init__, Arena.take, GemmPlan.run, Chain.run

    def init(self, memory, address):
        guarded = aligned(len(memory) + 2 * ZONE)
        guarded[:] = fill
        own = guarded[ZONE : ZONE + len(memory)]
        initialise(self, own, address_of(own))
        by_arena[id(self)] = scratch = Scratch(self, guarded, fill)
        seen.scratch.append(scratch)

    def take(self, name, size):
        part = give(self, name, size)
        if id(self) in by_arena:  # else it is of a run that began before the block
            by_arena[id(self)].spans.append((name, address_of(part) - self.address, size))
        return part

    def run(self, *arguments, **named):
        with counting:
            seen.products[self.m, self.n, self.k, self.operands] += 1
        multiply(self, *arguments, **named)

    def run_chain(self, *arguments, **named):
        with counting:
            for plan, *_ in self.links:
                seen.products[plan.m, plan.n, plan.k, plan.operands] += 1
        follow(self, *arguments, **named)

    counting = threading.Lock()
    with one_at_a_time:
        become(Arena, __init__=init, take=take)
        become(GemmPlan, run=run)
        become(Chain, run=run_chain)
        try:
            yield seen
        finally:
            become(Arena, __init__=initialise, take=give)
            become(GemmPlan, run=multiply)
            become(Chain, run=follow)
