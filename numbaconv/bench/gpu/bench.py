"""The bench at which the cases of a GPU's check work: the device, its arrays, verdicts and times.

A case (``case``) is a small piece with a name: it returns figures, or fails by itself. ``run`` runs cases one
after another in a process of their own, ``gpu_cases`` lists them, ``scripts/gpu_check.py`` is the command.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbaconv.bench.contender import WrongResult
from numbaconv.bench.gpu.case import Skip
from numbaconv.devices import cuda as cuda_devices
from numbaconv.lazy import cached_property
from numbaconv.timing import DeviceTimer, burst

__all__ = ["Bench"]

Call = Callable[[], object]

AHEAD_BYTES = 1 << 28
"""Filled again and again while the host queues calls."""
HIDDEN_CALLS = 8
DRAWN = 1 << 22
"""Numbers that NumPy draws; longer arrays repeat them."""


class Bench:
    """The device, its arrays and its clock, and torch where that is there.

    Parameters
    ----------
    quick : bool
        Tiny sizes, and few of them: for the emulator.
    recording : bool
        Nothing is computed (``gpu_cubins``): results say nothing and are not judged.
    device : str
    """

    def __init__(self, quick: bool = False, recording: bool = False, device: str = "cuda"):
        self.quick, self.recording, self.device = quick, recording, device

    @cached_property
    def runtime(self) -> Any:
        return cuda_devices.runtime(self.device)

    @cached_property
    def real(self) -> bool:
        """Whether there is a GPU."""
        return not self.runtime.emulated

    @cached_property
    def torch(self) -> Any:
        """PyTorch, where it works on this device; else None, and ``torch_reason`` says why."""
        self.torch_reason = ""
        if not self.real:
            self.torch_reason = "torch is left away: its tensors are not on an emulated device"
            return None
        try:
            import torch
        except Exception as error:
            self.torch_reason = f"torch is left away: {type(error).__name__}: {error}"
            return None
        if not torch.cuda.is_available():
            self.torch_reason = "torch is left away: it is built without CUDA, or finds no device"
            return None
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        return torch

    @property
    def home(self) -> str:
        """What torch calls the device."""
        return self.runtime.device

    def need_torch(self) -> Any:
        """PyTorch, or ``Skip``."""
        if self.torch is None:
            raise Skip(self.torch_reason)
        return self.torch

    # ---------------------------------------------------------------------------------------------------- arrays

    def put(self, array: Any) -> Any:
        return self.runtime.to_device(np.asarray(array))

    def get(self, array: Any) -> NDArray:
        return self.runtime.to_host(array)

    def empty(self, shape: tuple[int, ...], dtype: Any = "float32", layout: str = "nchw") -> Any:
        """Uninitialised; of four axes (n, c, h, w) in memory as `layout` says."""
        if len(shape) == 4 and layout == "nhwc":
            n, c, h, w = shape
            return self.runtime.empty((n, h, w, c), dtype).transpose(0, 3, 1, 2)
        return self.runtime.empty(shape, dtype)

    def blank(self, array: Any) -> None:
        """Fill with NaN."""
        self.runtime.fill(array, 0xFF)

    def normal(self, shape: tuple[int, ...], seed: int = 0, layout: str = "nchw", positive: bool = False) -> Any:
        """Random normal float32, or their magnitudes."""
        made = self.empty(shape, "float32", layout)
        if self.recording:
            return made
        if self.torch is not None:
            tensor = self.tensor(made)
            generator = self.torch.Generator(device=tensor.device).manual_seed(seed)
            tensor.normal_(generator=generator)
            return self._positive(made, tensor.abs_) if positive else made
        few = np.random.default_rng(seed).standard_normal(min(DRAWN, math.prod(shape)), dtype=np.float32)
        drawn = np.resize(few, shape)
        drawn = np.abs(drawn) if positive else drawn
        if layout == "nhwc":
            return self.put(np.ascontiguousarray(drawn.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
        return self.put(drawn)

    @staticmethod
    def _positive(made: Any, make: Call) -> Any:
        make()
        return made

    def tensor(self, array: Any) -> Any:
        """torch's view of an array of ours."""
        return self.need_torch().from_dlpack(array)

    # -------------------------------------------------------------------------------------------------- verdicts

    def wrong(self, what: str, figures: dict[str, Any] | None = None) -> None:
        """Raise WrongResult, with figures that are right all the same."""
        if not self.recording:
            failure: Any = WrongResult(what)
            failure.figures = figures or {}
            raise failure

    def equal(self, got: Any, want: Any, what: str = "the result") -> None:
        """Every element the same; a NaN equals a NaN.

        Raises
        ------
        WrongResult
            With the first place that differs.
        """
        got, want = np.asarray(got), np.asarray(want)
        if got.shape != want.shape:
            return self.wrong(f"{what}: shape {got.shape}, expected {want.shape}")
        differs = ~((got == want) | (np.isnan(got) & np.isnan(want)))
        if differs.any():
            first = tuple(int(place) for place in np.argwhere(differs)[0])
            self.wrong(f"{what}: {int(differs.sum())} of {differs.size} elements differ, the first at {first}: "
                       f"{got[first]!r}, expected {want[first]!r}")  # fmt: skip
        return None

    def error(self, got: NDArray, want: NDArray) -> float:
        """||got - want|| / ||want||, in float64."""
        norm = float(np.linalg.norm(want)) or 1.0
        return float(np.linalg.norm(np.asarray(got, np.float64) - want)) / norm

    def within(self, found: float, most: float, what: str, least: float = 0.0) -> float:
        """`found`, if it is from `least` to `most`; WrongResult otherwise, also for NaN."""
        if not least <= found <= most:
            self.wrong(f"{what}: {found:.3g}, expected {least:.3g} to {most:.3g}")
        return found

    # --------------------------------------------------------------------------------------------------- seconds

    def race(self, functions: Mapping[str, Call], seconds: float, rounds: int = 5) -> dict[str, dict[str, float]]:
        """Calls in turns, in bursts with pauses between.

        Returns
        -------
        dict
            Of each its "median" and "min", seconds of a call as it comes, its "host", the host's seconds to queue one,
            and its "device", the device's when all is queued beforehand.
        """
        if self.recording:
            for function in functions.values():
                function()
            return {name: dict.fromkeys(("median", "min", "host", "device"), 1.0) for name in functions}
        if not functions:
            return {}
        timer = DeviceTimer(self.runtime)
        if self.quick:
            samples = burst(functions, 1, pause=0, drop=0, calls=1, budget_s=0.01, timer=timer)
        else:
            samples = burst(functions, rounds, pause=0.01, drop=1, calls=3, budget_s=seconds, timer=timer)
        found = {}
        for name, sample in samples.items():
            host, device = self.hidden(functions[name], sample.min)
            found[name] = {"median": sample.median, "min": sample.min, "host": host, "device": device}
        return found

    def hidden(self, function: Call, expected: float) -> tuple[float, float]:
        """The host's seconds to queue a call; the device's for it, when the host is ahead of it."""
        if self.recording:
            return 1.0, 1.0
        calls = 1 if self.quick or expected > 0.02 else HIDDEN_CALLS
        self.runtime.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            function()
        host = (time.perf_counter() - start) / calls
        if not self.real:
            return host, host
        self.runtime.synchronize()
        buffer, once = self._ahead
        for _ in range(min(400, math.ceil(2 * calls * min(host, 0.002) / once))):
            self.runtime.fill(buffer, 0)
        begin = self.runtime.record()
        for _ in range(calls):
            function()
        return host, self.runtime.record().seconds_since(begin) / calls

    @cached_property
    def _ahead(self) -> tuple[Any, float]:
        """Memory to fill, and the seconds that it takes."""
        buffer = self.runtime.empty((AHEAD_BYTES,), np.uint8)
        self.runtime.fill(buffer, 0)
        begin = self.runtime.record()
        for _ in range(8):
            self.runtime.fill(buffer, 0)
        return buffer, max(1e-6, self.runtime.record().seconds_since(begin) / 8)

    @contextmanager
    def allocated(self) -> Iterator[list[int]]:
        """The bytes of each block that we take from the driver in the block of code."""
        taken: list[int] = []
        runtime = self.runtime
        kept = runtime._allocate

        def allocate(size: int) -> Any:
            made = kept(size)
            taken.append(size)
            return made

        runtime.release()
        runtime._allocate = allocate
        try:
            yield taken
        finally:
            runtime._allocate = kept

    def free(self) -> None:
        """Give back memory that nobody uses, ours and torch's."""
        gc.collect()
        self.runtime.release()
        if self.torch is not None:
            self.torch.cuda.empty_cache()
