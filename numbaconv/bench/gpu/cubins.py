"""The kernels that a check needs, compiled beforehand: by several processes at once, or on another machine.

A ``Witness`` stands in for a device: it has no memory and runs nothing, but sees every kernel that would be launched.
So the check itself says which kernels it needs, at its real sizes, without a GPU.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numbaconv.bench.gpu.bench import Bench
from numbaconv.bench.gpu.case import Case, attempt
from numbaconv.devices import cubins
from numbaconv.devices import cuda as cuda_devices
from numbaconv.devices.runtime import Event, Runtime
from numbaconv.jit import PACKAGE
from numbaconv.jit_cuda import Kernel

__all__ = ["Witness", "compile_all", "export", "record", "source_key", "use"]

ROOMS = {
    "devices",
    "gemm",
    "lowerings",
    "ladder",
    "geometry.py",
    "jit_cuda.py",
    "lift.py",
    "lift_cuda.py",
    "lowering_cuda.py",
}
"""Where kernels are made, but for the check's own."""
OWN = "gpu_word_kernels.py"


class NoTime(Event):
    def seconds_since(self, earlier: Event) -> float:
        return 1e-3


class Witness(Runtime):
    """A device that only looks at what is launched.

    Parameters
    ----------
    cc : (int, int)
        The compute capability that it plays.
    multiprocessors : int
    see : callable
        Called with each kernel, once.
    """

    emulated = True

    def __init__(self, cc: tuple[int, int], multiprocessors: int, see: Callable[[Kernel], None]):
        super().__init__(0, "a witness of launches", cc, multiprocessors, 1 << 40)
        self.see, self.seen = see, {}  # type: Callable[[Kernel], None], dict[int, Kernel]
        self.addresses = itertools.count(1 << 40, 1 << 40)

    def record(self, stream: Any = None) -> Event:
        return NoTime()

    def wait(self, stream: Any, event: Event) -> None: ...

    def synchronize(self, stream: Any = None) -> None: ...

    def device_of(self, pointer: int) -> str:
        return self.device

    def _allocate(self, size: int) -> tuple[int, Any]:
        return next(self.addresses) % (1 << 62), None

    def _free(self, pointer: int) -> None: ...

    def _upload(self, pointer: int, host: int, nbytes: int, stream: int) -> None: ...

    def _download(self, host: int, pointer: int, nbytes: int, stream: int) -> None: ...

    def _set(self, pointer: int, byte: int, nbytes: int, stream: int) -> None: ...

    def launch(self, kernel: Kernel, grid: Any, arguments: Any, stream: Any = None) -> None:
        if id(kernel) not in self.seen:
            self.seen[id(kernel)] = kernel
            self.see(kernel)

    def repeat(self, step: Any, bases: Any, stream: int) -> None: ...

    def _run(self, *launch: Any) -> None: ...


def record(
    cases: Sequence[Case], cc: tuple[int, int], multiprocessors: int, see: Callable[[Kernel], None],
    say: Callable[[str], None] = print,
) -> list[Kernel]:  # fmt: skip
    """The kernels that `cases` launch, each handed to `see` when it is first met.

    The process is of no use for anything else afterwards; ``NUMBACONV_CUDA=emulate`` must be set.
    """
    witness = Witness(cc, multiprocessors, see)
    cuda_devices._runtimes["emulated", 0, os.environ.get("NUMBACONV_CUDA_CC")] = witness
    bench = Bench(recording=True)
    for case in cases:
        found = attempt(bench, case)
        if found["status"] == "error":
            say(f"{case.key}: {found['note']}")
    return list(witness.seen.values())


def compile_all(cases: Sequence[Case], cc: tuple[int, int], multiprocessors: int, part: int, parts: int) -> int:
    """Compile this process's `part` of `parts` of the kernels into the package's cache; returns how many."""
    count = 0

    def see(kernel: Kernel) -> None:
        nonlocal count
        if int(hashlib.sha256(kernel.name.encode()).hexdigest(), 16) % parts == part:
            try:
                cubins.build(kernel, cc)
                count += 1
            except Exception as error:
                print(f"{kernel.name}: {type(error).__name__}: {error}")

    record(cases, cc, multiprocessors, see)
    return count


# ------------------------------------------------------------------------------------- from one machine to another


@functools.cache
def source_key() -> str:
    """A hash of the sources that kernels are made of; the same on every machine and for every Python."""
    digest = hashlib.sha256()
    for source in sorted(PACKAGE.rglob("*.py")):
        place = source.relative_to(PACKAGE)
        if place.parts[0] in ROOMS or place.name == OWN:
            digest.update(place.as_posix().encode())
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def file_name(kernel: Kernel, cc: tuple[int, int]) -> str:
    """Of the machine code of a kernel: its name is its own, and with the sources says all about it."""
    name = re.sub(r"[^\w.-]+", "_", kernel.name)[:80]
    key = hashlib.sha256(f"{kernel.name}\n{source_key()}".encode()).hexdigest()[:16]
    return f"{name}-sm_{cc[0]}{cc[1]}-{key}.cubin"


def export(
    cases: Sequence[Case], cc: tuple[int, int], multiprocessors: int, folder: Path, part: int = 0, parts: int = 1
) -> int:  # fmt: skip
    """Write the machine code of all kernels that `cases` launch (or a part of them) to a folder; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0

    def see(kernel: Kernel) -> None:
        nonlocal count
        path = folder / file_name(kernel, cc)
        mine = int(hashlib.sha256(kernel.name.encode()).hexdigest(), 16) % parts == part
        if mine and not path.exists():
            try:
                path.write_bytes(cubins.build(kernel, cc).code)
            except Exception as error:
                print(f"{kernel.name}: {type(error).__name__}: {error}")
                return
        count += mine

    record(cases, cc, multiprocessors, see)
    return count


def use(folder: Path) -> None:
    """Take kernels from a folder that ``export`` filled; what is not there is compiled as ever."""
    compiled = cubins._compile

    def take(kernel: Kernel, cc: tuple[int, int]) -> bytes:
        path = folder / file_name(kernel, cc)
        return path.read_bytes() if path.exists() else compiled(kernel, cc)

    cubins._compile = take
