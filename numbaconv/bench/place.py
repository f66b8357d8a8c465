"""Where a benchmark's arrays live and how calls are timed there: in the CPU's memory, or on a CUDA device."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbaconv.devices import driver
from numbaconv.devices.cuda import runtime
from numbaconv.lazy import cached_property
from numbaconv.products import check_device
from numbaconv.timing import Call, DeviceTimer, HostTimer, Timer
from numbaconv.workspace import release_workspaces

__all__ = ["HOST", "OnDevice", "Place", "place_of"]

FLOAT32_UNITS = {(7, 5): 64, (8, 0): 64}
"""Multiply-adds of a multiprocessor in a cycle, by compute capability; ``USUAL_UNITS`` elsewhere."""
USUAL_UNITS = 128
FLOAT64_UNITS = {(8, 0): 32, (9, 0): 64}
"""Elsewhere they are few, and counted by nobody here."""


class Place:
    """The CPU: arrays are NumPy's, and a call has done its work when it returns.

    Attributes
    ----------
    device : str
        For ``plan``.
    timer : Timer
        Of calls on arrays that live here.
    queues : bool
        Whether calls return before their work is done.
    emulated : bool
        Whether times say nothing.
    """

    device = "cpu"
    queues = emulated = False
    timer: Timer = HostTimer()

    def put(self, array: NDArray) -> Any:
        """A host array's values here, its axes in the same order in memory."""
        return array

    def get(self, array: Any) -> NDArray:
        """The values of an array here, as a host array; waits for who computes them."""
        return array

    def blank(self, array: Any) -> None:
        """Fill an array without gaps with NaN."""
        array.fill(np.nan)

    def once(self, function: Call) -> float:
        """Seconds of one call by the host's clock, compilation and waiting for the result included."""
        start = perf_counter()
        function()
        self.wait()
        return perf_counter() - start

    def wait(self) -> None:
        """Return when all calls have done their work."""

    def release(self) -> None:
        """Give back the memory that is kept for later calls."""
        release_workspaces()


HOST = Place()


class OnDevice(Place):
    """A CUDA device: calls queue work on the legacy stream, torch's own, and are timed by events on it.

    Parameters
    ----------
    device : str
        "cuda" or "cuda:1".

    Raises
    ------
    DeviceUnavailable
    """

    queues = True

    def __init__(self, device: str):
        check_device(device)
        self.device = device
        self.runtime = runtime(device)
        self.emulated = self.runtime.emulated
        self.timer = DeviceTimer(self.runtime)

    def put(self, array: NDArray) -> Any:
        return self.runtime.to_device(array)

    def get(self, array: Any) -> NDArray:
        return self.runtime.to_host(array)

    def blank(self, array: Any) -> None:
        self.runtime.fill(array, 0xFF)  # the bytes of a NaN

    def wait(self) -> None:
        self.runtime.synchronize()

    def release(self) -> None:
        self.runtime.release()

    @cached_property
    def hertz(self) -> float | None:
        """The multiprocessors' highest clock; None where the driver does not tell."""
        if self.emulated:
            return None
        try:
            name = driver.bindings().CUdevice_attribute.CU_DEVICE_ATTRIBUTE_CLOCK_RATE
            return driver.call("cuDeviceGetAttribute", name, self.runtime.index) * 1e3
        except (AttributeError, driver.DriverError):
            return None

    def peak(self, dtype: str) -> float | None:
        """GFLOP/s of multiply-adds at the highest clock; None where that, or their number, is not known."""
        cc = self.runtime.cc
        units = FLOAT32_UNITS.get(cc, USUAL_UNITS) if dtype == "float32" else FLOAT64_UNITS.get(cc)
        return 2 * units * self.runtime.multiprocessors * self.hertz / 1e9 if units and self.hertz else None


def place_of(device: str) -> Place:
    """The place that a device's name means.

    Raises
    ------
    DeviceUnavailable
    """
    return HOST if device == "cpu" else OnDevice(device)
