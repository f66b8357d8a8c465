"""The launches of a call, kept to be made again with other arrays: what a call decides, it decides once.

Working out tiles, records and grids in Python takes longer than many a kernel runs. They depend on shapes, strides and
alignment alone; so a ``Recorder`` notes what a call launches, and ``Recording.replay`` does it again with the same
numbers, and addresses counted from wherever the call's arrays are now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from numbaconv.devices.arguments import Parameters, extents
from numbaconv.devices.array import DeviceArray, shadow_of
from numbaconv.devices.runtime import Event, Runtime
from numbaconv.jit_cuda import Kernel

ALIGNMENT = 16
"""Of addresses, as far as kernels are chosen by it."""


class Moving(NamedTuple):
    """A pointer `offset` bytes into array number `base` of the call."""

    base: int
    offset: int
    dtype: np.dtype


@dataclass(slots=True)
class Step:
    """A launch: `values` as ``Parameters.take`` gives them, ``Moving`` for arrays of the call; its stage; and what a
    runtime makes of it the first time."""

    stage: str
    kernel: Kernel
    parameters: Parameters
    grid: tuple[int, int, int]
    values: list
    own: Any = None


def likeness(array: DeviceArray | None) -> tuple | None:
    """What of an array launches depend on."""
    return None if array is None else (array.shape, array.strides, array.dtype, array.pointer % ALIGNMENT)


class Recording:
    """What a call launched, step by step."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def replay(self, runtime: Runtime, bases: Sequence[DeviceArray | None], stream: int, marks: list | None) -> None:
        """Launch it all again on arrays that are like those of the first time; events of stages go to `marks`."""
        for step in self.steps:
            begin = runtime.record(stream) if marks is not None else None
            runtime.repeat(step, bases, stream)
            if marks is not None:
                marks.append((step.stage, begin, runtime.record(stream)))
        for base in bases:
            if base is not None:
                base.buffer.used_on(stream)


class Recorder:
    """A runtime that also notes what is launched: takes the runtime's place during a call.

    Parameters
    ----------
    runtime : Runtime
    bases : sequence of DeviceArray or None
        The arrays of the call: all others that it uses stay the same from call to call.
    """

    def __init__(self, runtime: Runtime, bases: Sequence[DeviceArray | None]):
        self.runtime, self.stage = runtime, ""
        self.recording = Recording()
        self._bases: dict[int, tuple[int, int]] = {}
        for number, base in enumerate(bases):
            if base is not None:
                self._bases[id(base.buffer)] = number, base.pointer
        shared = len(self._bases) < sum(base is not None for base in bases)
        self.usable = not shared  # of two views of one buffer nobody knows which was meant

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runtime, name)

    def record(self, stream=None) -> Event:
        return self.runtime.record(stream)

    def launch(self, kernel: Kernel, grid, arguments, stream=None) -> None:
        """Launch, and note it."""
        arguments = tuple(arguments)
        self.runtime.launch(kernel, grid, arguments, stream)
        full = extents(kernel, grid)
        if 0 in full:
            return
        parameters = self.runtime.parameters(kernel)
        values = [self._moving(value) for value in parameters.take(arguments)]
        self.recording.steps.append(Step(self.stage, kernel, parameters, full, values))

    def _moving(self, value: Any) -> Any:
        if not isinstance(value, DeviceArray) or id(value.buffer) not in self._bases:
            return value  # a number; or an array that is kept, and kept alive by this recording
        number, begin = self._bases[id(value.buffer)]
        return Moving(number, value.pointer - begin, value.dtype)


def placed(value: Any, bases: Sequence[DeviceArray | None]) -> Any:
    """A value of a step for the arrays of this call."""
    if not isinstance(value, Moving):
        return value
    base = bases[value.base]
    assert base is not None
    buffer = base.buffer
    return DeviceArray(buffer, shadow_of(buffer, base.pointer + value.offset, (1,), None, value.dtype))
