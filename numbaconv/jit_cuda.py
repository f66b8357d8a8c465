"""What ``jit`` is to the CPU, for CUDA: kernels are plain Python functions that name ``Word``s, compiled by numba-cuda.

Nothing of numba.cuda is imported before a kernel is compiled: kernels are written, read and emulated without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any

from numba import types

__all__ = ["Word", "cuda_compile", "cuda_intrinsic", "cuda_missing", "cuda_module", "rebound"]


class Word:
    """A name in a CUDA kernel that means one thing on the device (`device`) and another in the emulator (`twin`)."""

    def __init__(self, name: str, device: Callable[[], Any], twin: Callable | None = None, doc: str | None = None):
        self.__name__, self.__doc__, self.twin, self._device = name, doc, twin, device

    @functools.cached_property
    def device(self):
        """What numba-cuda compiles."""
        return self._device()

    def __repr__(self):
        return f"<CUDA word {self.__name__}>"


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
    kernel = rebound(function, lambda value: value.device if isinstance(value, Word) else value)
    bounds = (threads, blocks)
    compiler = cuda_module().compile
    return compiler(kernel, signature, device=False, abi="numba", cc=cc, output=output, launch_bounds=bounds)[0]
