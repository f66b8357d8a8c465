"""Where a lowering is tried: on the CPU, or on a CUDA device, whose memory is looked at after each run.

On a device arrays are cut out of larger ones as on the CPU: all of that memory is copied there, full of NaN, and back.
In emulation, where every access is checked, scratch and arrays that are no windows of others have memory of their own
instead, unless a run is to be as a user's: there even a stray read whose value nobody uses raises.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from numbaconv import plan_cuda
from numbaconv.accounts import GemmCall
from numbaconv.devices.cuda import runtime
from numbaconv.lowering_cuda import CudaContext
from numbaconv.plan import Plan
from numbaconv.testing.memory import NAN, ZONE, Guarded, Scratch, Seen, become, observed, one_at_a_time

__all__ = ["Device", "Host", "place_of"]

NOTHING = np.empty(0, np.uint8)
LAUNCH_SEEDS = 7, 8  # of the order in which an emulator's threads run, in a first run and in another


class Host:
    """The CPU."""

    name = "cpu"
    emulated = False
    zone = ZONE  # around arrays that are no windows of others

    def prepare(self, plan: Plan, w: np.ndarray) -> tuple[Any, str]:
        """Prepared weights, and what was done amiss meanwhile; what they were made from is overwritten afterwards."""
        given = w.copy()
        prepared = plan.prepare(given)
        amiss = "" if given.tobytes() == w.tobytes() else "wrote into the weights it was given"
        given[...] = np.nan
        return prepared, amiss

    def run(self, plan: Plan, prepared: Any, arrays: list[Guarded | None], fill: int, as_users: bool = False) -> Seen:
        """Run on [input, output, bias, residual], on scratch full of the byte `fill`.

        `as_users`: nothing stands between an emulated device and the plan, so a second run replays the first.
        """
        x, out, bias, residual = (None if part is None else part.array for part in arrays)
        with observed(fill) as seen:
            plan.run(x, prepared, out, _line(bias), residual)
        return seen

    @staticmethod
    def product_of(call: GemmCall) -> Any:
        """What tells products apart in the accounts."""
        return call.m, call.n, call.k, call.operands

    @staticmethod
    def words(product) -> str:
        """A product for a message."""
        m, n, k, operands = product
        return f"m={m} n={n} k={k} of {operands}"


class Device(Host):
    """A CUDA device by name."""

    def __init__(self, name: str):
        self.name, self.runtime = name, runtime(name)
        self.emulated = self.runtime.emulated
        self.zone = 0 if self.emulated else ZONE

    def prepare(self, plan, w):
        given = Guarded(w.shape, w.dtype, "nchw", zone=self.zone)
        given.array[...] = w
        memory = self.runtime.to_device(given.memory)
        with _watched(self.runtime, NAN, self.emulated) as watch:
            prepared = plan.prepare(given.cut(memory))
        self.runtime.to_host(memory, given.memory)
        amiss = "" if given.array.tobytes() == w.tobytes() else "wrote into the weights it was given"
        if stray := given.written_outside():
            amiss = amiss or f"wrote around the weights it was given, {stray}"
        for kept in watch.blocks:
            if stray := kept.written_outside():
                amiss = amiss or f"wrote around what it keeps, {stray}"
        self.runtime.fill(memory, NAN)
        return prepared, amiss

    def run(self, plan, prepared, arrays, fill, as_users=False):
        memories = [None if part is None else self.runtime.to_device(part.memory) for part in arrays]
        x, out, bias, residual = (
            None if part is None else part.cut(memory) for part, memory in zip(arrays, memories, strict=True)
        )
        apart = self.emulated and not as_users
        if apart:
            prepared.recordings.clear()
        with _watched(self.runtime, fill, apart) as watch:
            plan_cuda.run_parts(plan, x, prepared, out, _line(bias), residual)
            self.runtime.synchronize()
        if apart:  # what was recorded has scratch of its own
            prepared.recordings.clear()
        for part, memory in zip(arrays, memories, strict=True):
            if part is not None and memory is not None:
                self.runtime.to_host(memory, part.memory)
        seen = Seen([*watch.blocks, *(Scratch(context, NOTHING, fill) for context in watch.contexts)])
        for call in (call for context in watch.contexts for call in context.products if call.macs):
            seen.products[self.product_of(call)] += call.count
        return seen

    @staticmethod
    def product_of(call):
        return replace(call, count=1)

    @staticmethod
    def words(product):
        return f"m={product.m} n={product.n} k={product.k}, batch {product.batch}, split={product.split}"


def place_of(device: str) -> Host:
    """The place that a device's name means.

    Raises
    ------
    DeviceUnavailable
        Where there is no such device here.
    """
    return Host() if device == "cpu" else Device(device)


def _line(bias):
    return None if bias is None else bias[0, 0, 0]


@dataclass
class _Watch:
    """The contexts of a call, and the memory that was allocated meanwhile, on the host once the call is over."""

    contexts: list[CudaContext]
    blocks: list[Scratch]
    slices: ClassVar[dict[str, int]] = {}  # blocks as such count for nothing: contexts say what they take


@contextlib.contextmanager
def _watched(device, fill: int, apart: bool) -> Iterator[_Watch]:
    """Watch every context made and all of a device's memory that is allocated in the block, full of the byte `fill`.

    Allocated memory lies between zones, or `apart`: then so does each slice of scratch, where an emulator raises for an
    access beyond its end. An emulator runs its threads in an order that depends on `fill`.
    """
    watch, allocate = _Watch([], []), device.empty
    on_device: list[tuple[Any, int, list]] = []
    plain = {name: getattr(CudaContext, name) for name in ("__init__", "take")}

    def init(self, *arguments, **named):
        plain["__init__"](self, *arguments, **named)
        watch.contexts.append(self)

    def take(self, name, shape, dtype=None):
        part = plain["take"](self, name, shape, dtype)
        if apart:
            own = allocate(part.shape, part.dtype)
            device.fill(own, fill)
            return own
        for memory, _, spans in on_device:
            if memory.buffer is part.buffer:
                spans.append((name, part.pointer - memory.pointer - ZONE, part.nbytes))
        return part

    def empty(shape, dtype, stream=None):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = allocate((size + 2 * ZONE,), np.uint8, stream)
        device.fill(memory, fill, stream)
        on_device.append((memory, size, []))
        return memory[ZONE : ZONE + size].view(dtype).reshape(shape)

    seeded = _threads_in_order(LAUNCH_SEEDS[fill != NAN]) if device.emulated else contextlib.nullcontext()
    with one_at_a_time, seeded:
        become(CudaContext, __init__=init, take=take)
        if not apart:
            device.empty = empty
        try:
            yield watch
        finally:
            become(CudaContext, **plain)
            vars(device).pop("empty", None)
    for memory, size, spans in on_device:
        watch.blocks.append(Scratch(watch, device.to_host(memory), fill, spans or [("memory", 0, size)]))


@contextlib.contextmanager
def _threads_in_order(seed: int) -> Iterator[None]:
    """Have the emulator's threads run in the order that a seed gives."""
    from numbaconv.devices import emulator

    plain: Callable = emulator.launch
    emulator.launch = functools.partial(plain, seed=seed)
    try:
        yield
    finally:
        emulator.launch = plain
