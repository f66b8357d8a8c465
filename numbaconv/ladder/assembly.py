"""A step's inner loop in machine code, with its loads, multiply-adds and spills counted.

Where is the inner loop? A loop is what lies between a label and a later jump back to it; of those that hold no other
loop, the one that has the most operations (a vector's lanes counted) an instruction is where the time goes. So what
LLVM unrolled or made vectors of is found, and the remainder loops beside it, which do the same one by one, are not.

Counted is what the loop's instructions name, on x86-64:

* *loads* and *stores*: operands in memory, also within an arithmetic instruction; not addresses that are only computed
  or prefetched;
* *spills*: those of them that are on the stack: values for which the registers did not suffice;
* *multiply-adds*: fused instructions, and pairs of a multiplication and an addition.
"""

from __future__ import annotations

import inspect
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher

from numbaconv.errors import NumbaconvError
from numbaconv.gemm.micro import micro_kernel
from numbaconv.gemm.plan import GemmPlan
from numbaconv.jit import Native, machine_code
from numbaconv.ladder.step import Step
from numbaconv.products import gemm

__all__ = ["Assembly", "NoAssembly", "assembly", "count"]


class NoAssembly(NumbaconvError, TypeError):
    """There is no machine code to look at."""


@dataclass(frozen=True)
class Assembly:
    """The inner loop of a compiled function.

    Parameters
    ----------
    name : str
    text : str
        The loop's lines, from its label to the jump back.
    counted : bool
        Whether there are counts: only on x86-64.
    instructions, loads, stores, spills : int
        Of one pass. Spills are among the loads and stores.
    fmas, multiplies, adds : int
        Instructions: fused multiply-adds, and those that do one of the two.
    lanes : int
        Elements in the widest of these.
    flops : int
        Operations of one pass, a fused multiply-add as two.
    """

    name: str
    text: str
    counted: bool
    instructions: int = 0
    loads: int = 0
    stores: int = 0
    spills: int = 0
    fmas: int = 0
    multiplies: int = 0
    adds: int = 0
    lanes: int = 0
    flops: int = 0

    @property
    def multiply_adds(self) -> int:
        """Fused ones, and pairs of a multiplication and an addition."""
        return self.fmas + min(self.multiplies, self.adds)

    @property
    def loads_per_fma(self) -> float:
        """Loads for each multiply-add."""
        return self.loads / self.multiply_adds if self.multiply_adds else float("nan")

    def __str__(self) -> str:
        if not self.counted:
            return f"{self.name}: counted only on x86-64, this is {platform.machine()}\n{self.text}"
        how = "fused" if self.fmas else "each a multiplication and an addition"
        return (
            f"{self.name}: {self.instructions} instructions, {self.multiply_adds} multiply-adds of {self.lanes} lanes "
            f"({how}), {self.loads} loads ({self.loads_per_fma:.2f} a multiply-add), {self.stores} stores, "
            f"{self.spills} spills, {self.flops} operations\n{self.text}"
        )


def assembly(function: Step | Callable[..., Any] | Native, *arguments: Any) -> Assembly:
    """The inner loop of a step of a ladder, or of any compiled function.

    Parameters
    ----------
    function : Step, or function compiled by numba
    *arguments
        Examples, of whose types the code is; three matrices of float32, and whole numbers, unless given.

    Raises
    ------
    NoAssembly
        When it is not compiled, or has no loop that computes.
    """
    name = function.name if isinstance(function, Step) else getattr(function, "__name__", repr(function))
    if isinstance(function, Step):
        function = function.kernel
    if function is gemm:
        function = _production_kernel(*arguments)
    if not isinstance(function, Dispatcher | Native):
        raise NoAssembly(
            f"{name} is no function compiled by numba; decorate it with numba.njit, or pass the one that is"
        )
    if isinstance(function, Dispatcher) and not arguments:
        sizes = len(inspect.signature(function.py_func).parameters) - 3
        arguments = (*(np.empty((1024, 1024), np.float32) for _ in range(3)), *[64] * sizes)
    return count(name, machine_code(function, *arguments))


def _production_kernel(a=None, b=None, *_) -> Native:
    """The micro-kernel that ``gemm`` takes for such matrices."""
    m, k = (1024, 1024) if a is None else a.shape
    n = 1024 if b is None else b.shape[1]
    chosen = GemmPlan(m, n, k, np.float32).schedule
    return micro_kernel(4, chosen.a_cut.longest, chosen.b_cut.longest, chosen.direct)


# ---------------------------------------------------------------------------------------------------- the parser

JUMP = re.compile(r"(?:j\w+|b\.\w+|b|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#?\w+,)\s+(\.?\w+)$")
ARITHMETIC = re.compile(r"v?(?P<kind>fn?m(?:add|sub)\d{3}|mul|add|sub)(?P<form>[ps])(?P<size>[sd])$")
PRODUCT_ON_ARM = re.compile(r"fn?m(la|ls|ul|add|sub)\b")
REGISTER_BITS = {"z": 512, "y": 256, "x": 128}
NO_ACCESS = ("lea", "prefetch", "nop", "call", "j")
ONLY_READ = ("cmp", "test", "ucomis", "comis", "vucomis", "vcomis", "bt")


def count(name: str, text: str) -> Assembly:
    """Find the inner loop in the assembly of a function, in AT&T's syntax, and count its instructions.

    Raises
    ------
    NoAssembly
        When nothing is multiplied in any loop.
    """
    lines = [re.split(r"\s*(?:#|//)\s", line.strip(), maxsplit=1)[0].rstrip() for line in text.splitlines()]
    loops = _innermost(lines)
    if platform.machine().lower() not in ("x86_64", "amd64"):
        multiplying = [loop for loop in loops if any(PRODUCT_ON_ARM.match(line) for line in lines[slice(*loop)])]
        if not multiplying:
            raise NoAssembly(f"{name}: no loop of its machine code multiplies")
        longest = max(multiplying, key=lambda loop: loop[1] - loop[0])
        return Assembly(name, _text(lines[slice(*longest)]), counted=False)
    counted = [_count(name, lines[slice(*loop)], _has_frame(lines, loop[0])) for loop in loops]
    counted = [loop for loop in counted if loop.fmas or loop.multiplies]
    if not counted:
        raise NoAssembly(f"{name}: no loop of its machine code multiplies")
    return max(counted, key=lambda loop: loop.flops / loop.instructions)


def _innermost(lines: list[str]) -> list[tuple[int, int]]:
    """(first line, line after the jump back) of every loop that holds no other."""
    labels = {line[:-1]: number for number, line in enumerate(lines) if line.endswith(":")}
    loops = []
    for number, line in enumerate(lines):
        jump = JUMP.match(line)
        if jump and labels.get(jump[1], number) < number:
            loops.append((labels[jump[1]], number + 1))
    return [
        one for one in loops if not any(other != one and one[0] <= other[0] and other[1] <= one[1] for other in loops)
    ]


def _has_frame(lines: list[str], position: int) -> bool:
    """Whether the function around a line has %rbp point at its frame; otherwise that is a register like others."""
    begin = max((n for n in range(position) if lines[n].endswith(":") and lines[n][0] != "."), default=0)
    return any(re.match(r"movq\s+%rsp, %rbp", line) for line in lines[begin:position])


def _count(name: str, lines: list[str], frame: bool) -> Assembly:
    instructions = [line for line in lines if not line.endswith(":") and not line.startswith(".")]
    instructions = [line for line in instructions if line]
    loads = stores = spills = flops = lanes = 0
    kinds = {"f": 0, "m": 0, "a": 0, "s": 0}
    for line in instructions:
        mnemonic, _, operands = line.partition("\t") if "\t" in line else line.partition(" ")
        read, written = _accesses(mnemonic, operands.strip())
        loads, stores = loads + read, stores + written
        if re.search(r"\(%rsp|\(%rbp" if frame else r"\(%rsp", operands):
            spills += read + written
        if done := ARITHMETIC.match(mnemonic):
            width = 1
            if done["form"] == "p":
                bits = REGISTER_BITS[re.findall(r"%([xyz])mm", operands)[-1]]
                width = bits // (32 if done["size"] == "s" else 64)
            kinds[done["kind"][0]] += 1
            flops += width * (2 if done["kind"][0] == "f" else 1)
            lanes = max(lanes, width)
    return Assembly(
        name, _text(lines), True, len(instructions), loads, stores, spills,
        kinds["f"], kinds["m"], kinds["a"] + kinds["s"], lanes, flops,
    )  # fmt: skip


def _accesses(mnemonic: str, operands: str) -> tuple[int, int]:
    """(loads, stores) of an instruction; AT&T's last operand is where the result goes."""
    if "(" not in operands or mnemonic.startswith(NO_ACCESS):
        return 0, 0
    last = re.split(r",\s*(?![^(]*\))", operands)[-1]
    if "(" not in last or mnemonic.startswith(ONLY_READ):
        return 1, 0
    moves = re.match(r"v?(mov|pmov|extract|pextr|maskmov|compress|p?scatter|set|pop)", mnemonic)
    return (0, 1) if moves else (1, 1)


def _text(lines: list[str]) -> str:
    return "\n".join(line if line.endswith(":") else f"    {' '.join(line.split())}" for line in lines if line)
