"""What ``jit`` is to the CPU, for CUDA: kernels are plain Python functions that name ``Word``s, compiled by numba-cuda.

Nothing of numba.cuda is imported before a kernel is compiled: kernels are written, read and emulated without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import CellType, FunctionType
from typing import Any

from numba import types

from numbaconv.lazy import cached_property

__all__ = ["Function", "Kernel", "Word", "cuda_compile", "cuda_intrinsic", "cuda_missing", "cuda_module", "meaning",
           "pointer", "rebound", "record"]  # fmt: skip

REGISTERS = 65536
"""Of a multiprocessor, for all threads on it."""


class Word:
    """A name in a CUDA kernel that means one thing on the device (`device`) and another in the emulator (`twin`)."""

    def __init__(self, name: str, device: Callable[[], Any], twin: Callable | None = None, doc: str | None = None):
        self.__name__, self.__doc__, self.twin, self._device = name, doc, twin, device

    @cached_property
    def device(self):
        """What numba-cuda compiles."""
        return self._device()

    def __repr__(self):
        return f"<CUDA word {self.__name__}>"


class Function(Word):
    """A plain function that kernels call: written out where it is called, on the device as in the emulator."""

    def __init__(self, function: FunctionType):
        super().__init__(function.__name__, self._compiled, doc=function.__doc__)
        self.function = function

    def _compiled(self):
        # Into the caller before types are inferred: so it may fill the caller's arrays, and no register is moved.
        return cuda_module().jit(device=True, inline="always")(rebound(self.function, device_form))


_meanings: dict[int, Word] = {}


def meaning(compiled: Any, word: Word) -> None:
    """Make `word` stand for a function of the CPU's, where a function that names that is used in a CUDA kernel."""
    _meanings[id(compiled)] = word


def word_of(value: Any) -> Word | None:
    """The word that a value of a kernel is, or stands for: functions compiled for the CPU serve kernels as well."""
    if isinstance(value, Word):
        return value
    if id(value) not in _meanings and isinstance(getattr(value, "py_func", None), FunctionType):
        _meanings[id(value)] = Function(value.py_func)
    return _meanings.get(id(value))


def device_form(value: Any) -> Any:
    """What numba-cuda is given for a value that a kernel names."""
    word = word_of(value)
    return value if word is None else word.device


def record(kind: Any) -> types.Type:
    """The type of a named tuple of 32-bit integers, a kernel's argument."""
    return types.NamedUniTuple(types.int32, len(kind._fields), kind)


def pointer(itemsize: int) -> types.Type:
    """The type of a pointer to float32 or float64 in global memory."""
    return types.CPointer(types.float32 if itemsize == 4 else types.float64)


@dataclass(frozen=True)
class Kernel:
    """A kernel as it is compiled, emulated and launched.

    Attributes
    ----------
    name : str
        What files of compiled code and messages call it.
    function : function
        Plain Python, of words.
    signature : numba signature
        Pointers, ``record``s, 32-bit integers and reals.
    threads, blocks : int
        `blocks` of its blocks of `threads` threads fit on a multiprocessor.
    least : tuple
        The first compute capability that has its instructions.
    """

    name: str
    function: FunctionType
    signature: Any
    threads: int
    blocks: int = 1
    least: tuple[int, int] = (7, 5)

    @property
    def registers(self) -> int:
        """The most that a thread may have."""
        return min(255, REGISTERS // (self.threads * self.blocks))


def rebound(function: FunctionType, form: Callable[[Any], Any]) -> FunctionType:
    """`function` with each global and closure value that it names replaced by ``form(value)``."""
    known = function.__globals__
    names = {name: form(known[name]) for name in function.__code__.co_names if name in known}
    cells = tuple(CellType(form(cell.cell_contents)) for cell in function.__closure__ or ())
    return FunctionType(function.__code__, known | names, function.__name__, function.__defaults__, cells or None)


def cuda_module():
    """numba-cuda's ``numba.cuda``."""
    from numba import cuda

    return cuda


def cuda_intrinsic(typing):
    """numba-cuda's ``intrinsic``."""
    from numba.cuda.extending import intrinsic as decorate

    return decorate(typing)


@functools.cache
def cuda_missing() -> str | None:
    """Why CUDA kernels cannot be compiled here, or None where they can (no GPU is needed for that)."""
    try:
        cuda = cuda_module()
    except ImportError as error:
        return f"numba.cuda cannot be imported ({error})"
    if getattr(cuda, "implementation", "Built-in") != "NVIDIA":
        return "numba-cuda is not installed"
    try:
        cuda_compile(lambda: None, types.void(), (8, 0), 32)
    except Exception as error:  # each missing library has an exception of its own
        return f"numba-cuda cannot compile: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return None


def cuda_compile(function, signature, cc: tuple[int, int], threads: int, blocks: int = 1, output: str = "ptx"):
    """PTX (text) or LTO-IR (bytes) of a kernel for blocks of `threads`, `blocks` of which fit on a multiprocessor."""
    kernel = rebound(function, device_form)
    bounds = (threads, blocks)
    compiler = cuda_module().compile
    return compiler(kernel, signature, device=False, abi="numba", cc=cc, output=output, launch_bounds=bounds)[0]
