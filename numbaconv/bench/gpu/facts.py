"""Cases: what is installed and what the device is, and what the compiled kernels take of it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from typing import Any

from numbaconv import jit_cuda
from numbaconv.bench.gpu.bench import Bench
from numbaconv.bench.gpu.case import Case, Skip
from numbaconv.devices import cubins, driver
from numbaconv.devices import cuda as cuda_devices

__all__ = ["DISTRIBUTIONS", "cases", "installed"]

DISTRIBUTIONS = (
    "numbaconv", "numba", "llvmlite", "numpy", "numba-cuda", "cuda-bindings", "cuda-core", "cuda-pathfinder",
    "cuda-toolkit", "nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12", "nvidia-nvvm", "nvidia-cuda-nvcc-cu12",
    "nvidia-nvjitlink", "nvidia-nvjitlink-cu12", "torch", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12",
    "cupy-cuda13x", "cupy-cuda12x", "greenlet",
)  # fmt: skip
TOLD = (
    "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu,memory.total,"
    "memory.used"
)
PROGRAMS = ("nvidia-smi", "nvcc", "ptxas", "nvdisasm", "ncu", "compute-sanitizer")
ATTRIBUTES = {"registers": "NUM_REGS", "local": "LOCAL_SIZE_BYTES", "shared": "SHARED_SIZE_BYTES"}


def installed() -> dict[str, str]:
    """Versions of all that may be there."""
    found = {"python": sys.version.split()[0], "system": platform.platform()}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def told_by_smi() -> str:
    """One line of nvidia-smi's, which changes nothing; empty where there is none."""
    path = shutil.which("nvidia-smi")
    if path is None:
        return ""
    command = [path, f"--query-gpu={TOLD}", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    return ""


def versions(bench: Bench) -> dict[str, Any]:
    """Everything that helps to read the rest; a device that cannot be used is an error with its reason."""
    facts: dict[str, Any] = {"installed": installed(), "smi": told_by_smi(), "cores": os.cpu_count()}
    facts["programs"] = {name: path for name in PROGRAMS if (path := shutil.which(name))}
    facts["compiler"] = jit_cuda.cuda_missing() or "there"
    with contextlib.suppress(Exception):
        facts["architectures"] = [f"{major}.{minor}" for major, minor in cubins.supported()]
    facts["tools"] = cubins.tools()
    reason = cuda_devices.reason(bench.device)
    if reason is not None:
        raise RuntimeError(f"{reason}; {facts}")
    runtime = bench.runtime
    facts["device"] = {"name": runtime.name, "cc": list(runtime.cc), "multiprocessors": runtime.multiprocessors,
                       "memory": runtime.memory_bytes, "emulated": runtime.emulated}  # fmt: skip
    if bench.real:
        version = driver.call("cuDriverGetVersion")
        facts["driver"] = f"{version // 1000}.{version % 1000 // 10}"
        facts["free"] = int(driver.call("cuMemGetInfo"))
    if bench.torch is not None:
        torch = bench.torch
        facts["torch"] = {"version": torch.__version__, "cuda": torch.version.cuda,
                          "cudnn": torch.backends.cudnn.version()}  # fmt: skip
    else:
        facts["torch"] = bench.torch_reason
    short = facts["installed"]
    names = ("numba", "numba-cuda", "cuda-bindings", "cuda-core", "nvidia-nvjitlink", "torch")
    return facts | {
        "note": f"{runtime.name}, {'.'.join(map(str, runtime.cc))}, {runtime.multiprocessors} multiprocessors, driver "
        f"{facts.get('driver', 'none')}, python {short['python']}, "
        + ", ".join(f"{name} {short[name]}" for name in names if name in short)
        + f", compiler {facts['compiler']}"
    }


def resources(bench: Bench) -> dict[str, Any]:
    """Registers, local and shared memory of the kernels that this process has loaded, and how many blocks fit."""
    if not bench.real:
        raise Skip("nothing is compiled for an emulated device")
    runtime, found = bench.runtime, {}
    names = driver.bindings().CUfunction_attribute
    with runtime.context():
        for key, function in runtime.functions.items():
            kernel = runtime._kernels[key][0]
            facts = {
                name: int(driver.call("cuFuncGetAttribute", getattr(names, f"CU_FUNC_ATTRIBUTE_{attribute}"), function))
                for name, attribute in ATTRIBUTES.items()
            }
            facts["blocks"] = int(
                driver.call("cuOccupancyMaxActiveBlocksPerMultiprocessor", function, kernel.threads, 0)
            )
            found[kernel.name] = facts | {"threads": kernel.threads, "wanted": kernel.blocks}
    spilled = {name: facts["local"] for name, facts in found.items() if facts["local"]}
    fewer = [name for name, facts in found.items() if facts["blocks"] < facts["wanted"]]
    note = f"{len(found)} kernels; {len(spilled)} with local memory; {len(fewer)} of fewer blocks than wanted"
    worst = ", ".join([f"{name} {size} bytes" for name, size in spilled.items()][:5] + fewer[:5])
    return {"kernels": found, "spilled": spilled, "fewer": fewer, "note": f"{note}{': ' if worst else ''}{worst}"}


def clocks(bench: Bench) -> dict[str, Any]:
    """What nvidia-smi says now, in the midst of work."""
    told = told_by_smi()
    if not told:
        raise Skip("there is no nvidia-smi")
    return {"smi": told, "note": told}


def first() -> Case:
    return Case("device", "versions", versions, limit=180.0)


def cases(quick: bool) -> list[Case]:
    return [Case("device", "clocks", clocks), Case("device", "compiled kernels", resources)]
