"""Machine code of CUDA kernels, made as the package makes it (LTO-IR through nvJitLink), and what it says of itself."""

from __future__ import annotations

import functools
import gc
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass

from numbaconv import jit_cuda
from numbaconv.devices import cubins

ARCHITECTURES = [(7, 5), (8, 0), (9, 0)]
WIDE = re.compile(r"(I2F|F2I).*\.[US]64\b")
"""A division begins with a reciprocal in floating point: what is converted shows how wide it is."""
LOCAL = re.compile(r"(LDL|STL)\b")
FIGURES = {
    "registers": r"Used (\d+) registers",
    "stack": r"(\d+) bytes stack frame",
    "stores": r"(\d+) bytes spill stores",
    "loads": r"(\d+) bytes spill loads",
    "shared": r"(\d+) bytes smem",
}


@functools.cache
def missing() -> str | None:
    """What is not here that compiling kernels and reading their code needs; None where all is."""
    if reason := jit_cuda.cuda_missing():
        return f"no CUDA compiler: {reason}"
    try:
        cubins.supported()
        found = importlib.util.find_spec("cuda.core") and nvdisasm()
    except Exception as error:  # each missing library has an exception of its own
        return f"no CUDA compiler: {type(error).__name__}: {error}"
    return None if found else "no CUDA disassembler: pip install nvidia-cuda-nvdisasm, or put nvdisasm on the path"


@functools.cache
def nvdisasm() -> str | None:
    """The program, from the path or from a wheel."""
    from cuda.pathfinder import find_nvidia_binary_utility

    return shutil.which("nvdisasm") or find_nvidia_binary_utility("nvdisasm")


def figures(said: str) -> dict[str, int]:
    """Registers, and bytes of stack, spills and shared memory, from what the assembler said."""
    found = {name: re.search(pattern, said) for name, pattern in FIGURES.items()}
    assert found["registers"], said
    assert found["stack"], said
    return {name: int(match[1]) if match else 0 for name, match in found.items()}


@dataclass(frozen=True)
class Code:
    """A kernel's machine code for one architecture, and what the linker said of it."""

    cubin: bytes
    said: str

    @property
    def used(self) -> dict[str, int]:
        return figures(self.said)

    @property
    def spilled(self) -> tuple[int, int, int]:
        """Bytes of stack, of spills written and read."""
        return tuple(self.used[name] for name in ("stack", "stores", "loads"))

    @functools.cached_property
    def lines(self) -> list[tuple[str, str, str]]:
        """(label, operation, operands); a label stands alone."""
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.cubin)
            file.flush()
            done = subprocess.run([nvdisasm(), "-c", file.name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        lines = []
        for line in done.stdout.splitlines():
            if label := re.match(r"\s*(\.L_x_\d+):", line):
                lines.append((label[1], "", ""))
            elif code := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?);", line):
                lines.append(("", code[1], code[2]))
        return lines

    @property
    def operations(self) -> list[str]:
        return [operation for _, operation, _ in self.lines if operation]

    @property
    def seen(self) -> Counter[str]:
        """How often each operation is there."""
        return Counter(self.operations)

    def hot_loop(self, name: str) -> list[str]:
        """Operations from the target of a backward branch to the branch, of the loop with the most that begin so."""
        places = {label: place for place, (label, _, _) in enumerate(self.lines) if label}
        loops = []
        for place, (_, _, operands) in enumerate(self.lines):
            target = re.search(r"\.L_x_\d+", operands)
            if target and places.get(target[0], place) < place:
                loops.append([operation for _, operation, _ in self.lines[places[target[0]] : place + 1] if operation])
        return max(loops, key=lambda loop: sum(operation.startswith(name) for operation in loop))


def link(code: bytes, cc: tuple[int, int]) -> Code:
    """LTO-IR to machine code: ``cubins._link``, and asked for figures."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    options = LinkerOptions(arch=f"sm_{cc[0]}{cc[1]}", link_time_optimization=True, ptxas_options=["-v"])
    linker = Linker(ObjectCode.from_ltoir(code), options=options)
    cubin = bytes(linker.link("cubin").code)
    return Code(cubin, linker.get_info_log())


def intermediate(kernel: jit_cuda.Kernel, cc: tuple[int, int]) -> bytes:
    """A kernel's LTO-IR."""
    gc.disable()  # a tenth of the time
    try:
        return jit_cuda.cuda_compile(
            kernel.function, kernel.signature, cc, kernel.threads, kernel.blocks, output="ltoir"
        )  # fmt: skip
    finally:
        gc.enable()


def compiled(function, signature, cc: tuple[int, int], threads: int, blocks: int = 1) -> Code:
    """Machine code of a function as a kernel."""
    return link(intermediate(jit_cuda.Kernel("kernel", function, signature, threads, blocks), cc), cc)
