"""What CPU this is: vector width, registers, caches, cores, as the kernels that will be compiled may use them.

Vector facts are not read off a list of flags: a few lines of LLVM IR are compiled for the processor and features
that Numba will compile for, and the registers in the assembly are the answer. So they hold under
``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES``, for AVX-512 processors on which LLVM prefers 256 bits for its own
loops (explicit 512-bit vectors stay whole there), and on aarch64. Caches and cores come from the operating
system, with affinity masks and cgroup quotas respected.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
from numba.core import codegen, config

from numbaconv.errors import DeviceUnavailable

__all__ = ["Machine", "default_threads", "detect"]

KIB, MIB = 1 << 10, 1 << 20
L3_SHARE_LIMIT = 4 * MIB
"""No core counts on more of the L3 than this: on shared hosts most of what the system reports is others'."""


@dataclass(frozen=True)
class Machine:
    """One CPU as numbaconv sees it.

    Parameters
    ----------
    cpu_name : str
        The processor's name as the operating system tells it (virtual machines make them up).
    llvm_name : str
        The processor LLVM compiles for, such as ``skylake-avx512``.
    features : frozenset of str
        LLVM's names of the instruction sets that compiled code may use.
    vector_bits : {128, 256, 512}
        Width of the vectors the kernels use.
    vector_registers : {16, 32}
        Vector registers of that width.
    fma : bool
        Whether a * b + c is one instruction.
    bf16 : bool
        Whether there are bfloat16 dot products in the vector unit.
    amx : frozenset of str
        The AMX features present (Linux still has to be asked for permission before their use).
    l1d_bytes, l2_bytes : int
        Caches of one core.
    l3_bytes : int
        The last-level cache; `l2_bytes` where nothing lies beyond it.
    l3_share : int
        Bytes of it that one core may count on, at most ``L3_SHARE_LIMIT``.
    cores : int
        Logical processors this process may keep busy: its affinity mask, cut by the cgroups' quotas.
    """

    cpu_name: str
    llvm_name: str
    features: frozenset[str]
    vector_bits: int
    vector_registers: int
    fma: bool
    bf16: bool
    amx: frozenset[str]
    l1d_bytes: int
    l2_bytes: int
    l3_bytes: int
    l3_share: int
    cores: int

    def lanes(self, dtype: np.typing.DTypeLike) -> int:
        """Elements of `dtype` in a vector."""
        return self.vector_bits // (8 * np.dtype(dtype).itemsize)


@functools.cache
def detect() -> Machine:
    """The machine this process runs on; looked at once.

    ``NUMBACONV_VECTOR_BITS`` (128, 256 or 512) makes the kernels use narrower vectors than the CPU has.

    Raises
    ------
    DeviceUnavailable
        When ``NUMBACONV_VECTOR_BITS`` asks for wider vectors than there are.
    ValueError
        When it is no width.
    """
    name = config.CPU_NAME or llvm.get_host_cpu_name()
    flags = codegen.get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    bits, fma = _emitted(name, flags)
    features = frozenset(flag[1:] for flag in flags.split(",") if flag.startswith("+"))
    if config.CPU_NAME and config.CPU_FEATURES is None:
        # Numba adds this processor's own features to those of the one it was told to compile for. Whoever names an
        # older processor wants to see what it would do.
        named_bits, named_fma = _emitted(name, "")
        bits, fma = min(bits, named_bits), fma and named_fma
    features = frozenset(flag for flag in features if not _beyond(flag, bits, fma))
    l1d, l2, l3, share = _caches()
    return Machine(
        cpu_name=_cpu_name() or name,
        llvm_name=name,
        features=features,
        vector_bits=_forced_bits(bits),
        vector_registers=32 if bits == 512 or _is_arm64() else 16,
        fma=fma,
        bf16=not features.isdisjoint({"avx512bf16", "bf16"}),
        amx=frozenset(flag for flag in features if flag.startswith("amx-")),
        l1d_bytes=l1d,
        l2_bytes=l2,
        l3_bytes=l3,
        l3_share=share,
        cores=_cores(),
    )


def default_threads() -> int:
    """Threads a call uses unless told otherwise: the cores, cut by ``NUMBA_NUM_THREADS`` and ``OMP_NUM_THREADS``.

    Raises
    ------
    ValueError
        When one of the two is set to something that is not a positive number.
    """
    limits = [detect().cores]
    for variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        first = os.environ.get(variable, "").split(",")[0].strip()  # OpenMP: one number for each level of nesting
        if first:
            if not first.isdecimal() or int(first) < 1:
                raise ValueError(f"{variable} must be a positive number; got {os.environ[variable]!r}")
            limits.append(int(first))
    return min(limits)


# ------------------------------------------------------------------------------------------------ vector facts

_PROBE = """
define <16 x float> @sum(<16 x float> %x, <16 x float> %y) {
  %r = fadd <16 x float> %x, %y
  ret <16 x float> %r
}
define <16 x float> @fused(<16 x float> %x, <16 x float> %y) {
  %r = call <16 x float> @llvm.fma.v16f32(<16 x float> %x, <16 x float> %y, <16 x float> %x)
  ret <16 x float> %r
}
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
"""


def _emitted(name: str, flags: str) -> tuple[int, bool]:
    """(vector bits, has FMA) in the assembly that LLVM writes for a processor and feature flags."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine(cpu=name, features=flags, opt=2)
    assembly = target.emit_assembly(llvm.parse_assembly(_PROBE))
    bits = 512 if "zmm" in assembly else 256 if "ymm" in assembly else 128
    return bits, "vfmadd" in assembly or "fmla" in assembly


def _beyond(flag: str, bits: int, fma: bool) -> bool:
    """Whether a processor with such vectors cannot have the feature `flag`."""
    if flag.startswith(("avx512", "avx10", "amx")):
        return bits < 512
    return (flag.startswith("avx") and bits < 256) or (flag == "fma" and not fma)


def _forced_bits(available: int) -> int:
    wanted = os.environ.get("NUMBACONV_VECTOR_BITS")
    if not wanted:
        return available
    if wanted not in ("128", "256", "512"):
        raise ValueError(f"NUMBACONV_VECTOR_BITS must be 128, 256 or 512; got {wanted!r}")
    if int(wanted) > available:
        raise DeviceUnavailable(
            f"NUMBACONV_VECTOR_BITS={wanted}, and this CPU has vectors of {available} bits; "
            f"set it to at most {available}, or unset it"
        )
    return int(wanted)


def _is_arm64() -> bool:
    return platform.machine().lower() in ("aarch64", "arm64")


# --------------------------------------------------------------------------------- the operating system's facts


def _cpu_name() -> str:
    try:
        if sys.platform == "darwin":
            return _sysctl("machdep.cpu.brand_string")
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() in ("model name", "hardware", "cpu model"):
                return value.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return platform.processor()


def _sysctl(name: str) -> str:
    return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True, timeout=5).stdout.strip()


def _caches(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> tuple[int, int, int, int]:
    """(L1d and L2 of one core, the last level, a core's share of it) in bytes; 32 KiB, 512 KiB, 2 MiB if unknown."""
    found = _caches_of_macos() if sys.platform == "darwin" else _caches_of_linux(root)
    l1d, threads = found.get(1, (32 * KIB, 1))  # who shares an L1 are the threads of one core
    l2, l2_sharers = found.get(2, (512 * KIB, threads))
    beyond = found.get(4) or found.get(3)
    if beyond is None:  # a machine whose caches we know, and that has no L3, has none to count on
        beyond = (l2, l2_sharers) if 2 in found else (2 * MIB, threads)
    l2 = l2 * threads // max(threads, l2_sharers)
    last, sharers = beyond
    return l1d, l2, max(last, l2), min(max(last * threads // max(threads, sharers), l2), L3_SHARE_LIMIT)


def _caches_of_linux(root: Path) -> dict[int, tuple[int, int]]:
    """Level -> (bytes, logical processors sharing it), of the caches that hold data."""
    found = {}
    for index in sorted(root.glob("index[0-9]*")):
        try:
            kind, level, size, sharers = (
                (index / name).read_text().strip() for name in ("type", "level", "size", "shared_cpu_list")
            )
            if kind in ("Data", "Unified"):
                unit = {"K": KIB, "M": MIB, "G": KIB * MIB}.get(size[-1:])
                found[int(level)] = (int(size[:-1]) * unit if unit else int(size), _count(sharers))
        except (OSError, ValueError):  # the kernels of some virtual machines and boards leave files out
            continue
    return {level: cache for level, cache in found.items() if cache[0] > 0}


def _count(cpu_list: str) -> int:
    """How many processors '0-3,8' names."""
    total = 0
    for part in filter(None, cpu_list.split(",")):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return max(total, 1)


def _caches_of_macos() -> dict[int, tuple[int, int]]:
    found = {}
    for level, name in ((1, "l1d"), (2, "l2"), (3, "l3")):
        for prefix in ("hw.perflevel0.", "hw."):  # the performance cores first
            try:
                size = int(_sysctl(f"{prefix}{name}cachesize"))
                sharers = int(_sysctl("hw.perflevel0.cpusperl2")) if name == "l2" and prefix != "hw." else 1
            except (OSError, ValueError, subprocess.SubprocessError):
                continue
            if size > 0:
                found[level] = (size, sharers)
                break
    return found


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min(_quotas(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")), default=float(cores))
    return max(1, min(cores, int(quota)))


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """Processors that each cgroup above this process grants, for those that set a limit (versions 1 and 2)."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            mounts, files = (root, root / "unified"), ["cpu.max"]
        elif "cpu" in controllers.split(","):
            mounts, files = (root / controllers, root / "cpu"), ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        group = Path(path.lstrip("/"))
        for mount in mounts:
            for place in (group, *group.parents):  # in a container the path may be the host's: its root is still there
                try:
                    words = " ".join((mount / place / name).read_text() for name in files).split()
                    if words[0] not in ("max", "-1"):
                        yield int(words[0]) / int(words[1])
                except (OSError, ValueError, IndexError, ZeroDivisionError):
                    continue
