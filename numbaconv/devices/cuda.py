"""CUDA devices by name: ``runtime("cuda:1")``, and why there is none.

``NUMBACONV_CUDA=emulate`` puts the CPU in their place.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import threading
from typing import Any

from numbaconv.devices import dlpack, driver
from numbaconv.devices.array import DeviceArray
from numbaconv.devices.cubins import WHAT_TO_INSTALL
from numbaconv.devices.runtime import Runtime
from numbaconv.errors import DeviceUnavailable

__all__ = ["available", "home", "reason", "runtime"]

NO_DEVICE = 100  # the driver's result
LEAST = (7, 5)
DRIVERS = {12: "525", 13: "580"}
"""The first driver of each CUDA version."""

_runtimes: dict[tuple, Runtime] = {}
_lock = threading.RLock()


def emulating() -> bool:
    """Whether the environment asks for the emulator."""
    value = os.environ.get("NUMBACONV_CUDA", "")
    if value not in ("", "emulate"):
        raise DeviceUnavailable(f"NUMBACONV_CUDA={value!r}: the only value it takes is emulate")
    return value == "emulate"


def number(device: str) -> int:
    """The number of "cuda" (0) or "cuda:1"; ValueError for anything else."""
    found = re.fullmatch(r"cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if found is None:
        raise ValueError(f"device {device!r} is no CUDA device; they are called cuda, cuda:0, cuda:1, ...")
    return int(found[1] or 0)


def runtime(device: str = "cuda") -> Runtime:
    """What runs things on a device; always the same one for a device.

    Parameters
    ----------
    device : str
        "cuda" (which is "cuda:0") or "cuda:1".

    Raises
    ------
    DeviceUnavailable
        With what is missing and what to do about it.
    ValueError
        Where `device` is not the name of a CUDA device.
    """
    index = number(device)
    key: tuple = ("emulated", index, os.environ.get("NUMBACONV_CUDA_CC")) if emulating() else ("cuda", index)
    found = _runtimes.get(key)
    if found is None:
        with _lock:
            if key not in _runtimes:
                _runtimes[key] = _new(index)
            found = _runtimes[key]
    return found


def _new(index: int) -> Runtime:
    why = _reason(index)
    if why is not None:
        raise DeviceUnavailable(why)
    if emulating():
        from numbaconv.devices.emulated import EmulatedRuntime

        return EmulatedRuntime()
    return driver.DriverRuntime(index)


def reason(device: str = "cuda") -> str | None:
    """Why a device cannot be used here, and what to do about it; None where it can."""
    try:
        runtime(device)
    except DeviceUnavailable as error:
        return error.reason
    return None


def available(device: str = "cuda") -> bool:
    """Whether a device can be used here."""
    return reason(device) is None


def home(value: Any) -> str | None:
    """The device that an array of ours or of another library lives on, such as "cuda:1"; None: no CUDA device."""
    if isinstance(value, DeviceArray):
        return value.device
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        kind, index = value.__dlpack_device__()
        if kind == dlpack.CUDA:
            return f"cuda:{index}"
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        return None
    if 0 in interface["shape"] or emulating():
        return "cuda:0"
    return driver.pointer_device(interface["data"][0])


def installed(module: str) -> bool:
    """Whether a module is there, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is what it is a part of
        return False


def toolkit() -> int:
    """The CUDA version, 12 or 13, that machine code is made with here."""
    return int(importlib.metadata.version("cuda-bindings").partition(".")[0])


def _reason(index: int) -> str | None:
    if emulating():
        return None if index == 0 else f"cuda:{index} does not exist: NUMBACONV_CUDA=emulate emulates cuda:0 only"
    for module, name in (("numba_cuda", "numba-cuda"), ("cuda.bindings", "cuda-bindings"), ("cuda.core", "cuda-core")):
        if not installed(module):
            return f"{name} is not installed: {WHAT_TO_INSTALL}"
    try:
        driver.call("cuInit", 0)
        version, count = driver.call("cuDriverGetVersion"), driver.call("cuDeviceGetCount")
    except driver.DriverError as error:
        if error.code == NO_DEVICE:
            return _none()
        return f"the CUDA driver does not start: {error} (it cannot be used in a forked process; start one by spawn)"
    except Exception as error:  # of several kinds, from the bindings
        return (
            f"the CUDA driver library was not found ({str(error).strip().partition(chr(10))[0]}): install NVIDIA's "
            "driver, or where it is a container start that with its GPUs"
        )
    if version // 1000 < toolkit():
        return (
            f"the NVIDIA driver is too old: it runs CUDA {version // 1000}.{version % 1000 // 10}, and the libraries "
            f"here make code for CUDA {toolkit()}; install driver {DRIVERS.get(toolkit(), 'a newer one')} or later, or "
            f"libraries that fit: pip install 'numbaconv[cuda{version // 1000}]'"
        )
    if count == 0:
        return _none()
    if index >= count:
        return f"cuda:{index} does not exist: there {'is' if count == 1 else 'are'} {count}, from cuda:0 on"
    attributes = driver.bindings().CUdevice_attribute
    cc = tuple(
        driver.call(
            "cuDeviceGetAttribute", getattr(attributes, f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{part}"), index
        )
        for part in ("MAJOR", "MINOR")
    )
    if cc < LEAST:
        return f"cuda:{index} has compute capability {cc[0]}.{cc[1]}; {LEAST[0]}.{LEAST[1]} (Turing) is the least"
    return None


def _none() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible!r} may hide them)"
    return f"the CUDA driver finds no device{hidden}"
