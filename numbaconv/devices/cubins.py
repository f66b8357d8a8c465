"""Compiled kernels on disk: machine code for one compute capability, loaded without a compiler the next time.

LTO-IR from numba-cuda, linked by nvJitLink. Files lie beside the CPU's (``jit.cache_directory``), in the folder of this
build of the package. A kernel is known by its name: that must be unique for each specialisation, which ``identity``
sees to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import re
import struct
import tempfile
import threading
import warnings
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numba import types

from numbaconv import jit, jit_cuda
from numbaconv.errors import DeviceUnavailable
from numbaconv.jit_cuda import Kernel, Word, word_of

WHAT_TO_INSTALL = "pip install 'numbaconv[cuda13]', or 'numbaconv[cuda12]' for a driver older than 580"
TOOLS = (
    "numba", "numba-cuda", "cuda-bindings", "cuda-core", "nvidia-nvjitlink", "nvidia-nvjitlink-cu12", "nvidia-nvvm",
    "nvidia-cuda-nvcc-cu12", "nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12",
)  # fmt: skip
"""Distributions whose versions machine code depends on."""
PLAIN = (int, float, complex, str, bytes, bool, type(None), range, np.generic, np.dtype, types.Type)
DIGEST_BYTES = 32
ELF_FUNCTION, GLOBAL, CUDA_ENTRY = 2, 1, 0x10
SYMBOL_TABLE = 2


class Cubin(NamedTuple):
    """Machine code (an ELF file) and the name of the kernel in it."""

    code: bytes
    entry: str


# ------------------------------------------------------------------------------------------- what a kernel is

_digests: dict[str, bytes] = {}
_lock = threading.RLock()


def identity(kernel: Kernel) -> str:
    """A hash of all that a kernel's code depends on, but for the tools.

    Raises
    ------
    ValueError
        Where another kernel of this process has its name: two would share a file.
    """
    digest = hashlib.sha256()
    _put(digest, (kernel.name, str(kernel.signature), kernel.threads, kernel.blocks), set())
    _put(digest, kernel.function, set())
    if _digests.setdefault(kernel.name, digest.digest()) != digest.digest():
        raise ValueError(f"two different kernels are called {kernel.name!r}; its name must say what it was built for")
    return digest.hexdigest()


def _put(digest, value: Any, seen: set[int]):
    """Hash a value of a kernel: constants, words, and functions with the constants and words that they name."""
    word = value if isinstance(value, Word) else word_of(value) if callable(value) else None
    if isinstance(value, PLAIN):
        digest.update(f"{type(value).__name__} {value!r};".encode())
    elif isinstance(value, tuple | list):
        digest.update(f"{len(value)} of".encode())
        for item in value:
            _put(digest, item, seen)
    elif isinstance(value, frozenset | set | dict):
        _put(digest, sorted(value.items() if isinstance(value, dict) else value, key=repr), seen)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _put(digest, [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)], seen)
    elif word is not None:
        digest.update(f"word {word.__name__};".encode())
        for part in (word.twin, word._device, getattr(word, "function", None)):
            _put(digest, part, seen)
    elif isinstance(value, FunctionType) and id(value) not in seen:
        seen.add(id(value))
        _put_function(digest, value, seen)
    else:
        digest.update(f"{type(value).__name__} {getattr(value, '__qualname__', '')};".encode())


def _put_function(digest, function: FunctionType, seen: set[int]):
    digest.update(f"function {function.__qualname__};".encode())
    if (function.__module__ or "").partition(".")[0] in ("numpy", "numba", "llvmlite"):
        return
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        digest.update(code.co_code)
        codes += [constant for constant in code.co_consts if hasattr(constant, "co_code")]
        _put(
            digest, [constant for constant in code.co_consts if isinstance(constant, (*PLAIN, tuple, frozenset))], seen
        )
        _put(digest, code.co_names, seen)
        _put(digest, [function.__globals__[name] for name in code.co_names if name in function.__globals__], seen)
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty one
            _put(digest, cell.cell_contents, seen)


# ------------------------------------------------------------------------------------------------------ building

_built: dict[tuple[str, str, tuple[int, int]], Cubin] = {}


def build(kernel: Kernel, cc: tuple[int, int]) -> Cubin:
    """The machine code of a kernel for a device of compute capability `cc`: from memory, from disk, or compiled.

    Raises
    ------
    DeviceUnavailable
        Where it has to be compiled and nothing here can.
    """
    key = (kernel.name, identity(kernel), cc)
    with _lock:
        if key not in _built:
            path = _path(kernel, key[1], cc)
            found = _read(path)
            if found is None:
                found = Cubin(code := _compile(kernel, cc), entry_name(code))
                _write(path, code)
            _built[key] = found
        return _built[key]


def _compile(kernel: Kernel, cc: tuple[int, int]) -> bytes:
    try:
        target = architecture(cc, supported())
        code = jit_cuda.cuda_compile(
            kernel.function, kernel.signature, target, kernel.threads, kernel.blocks, output="ltoir"
        )
        return _link(code, target)
    except DeviceUnavailable:
        raise
    except Exception as error:
        missing = jit_cuda.cuda_missing()
        if missing is None:
            raise
        raise DeviceUnavailable(f"{kernel.name} has to be compiled: {missing}; {WHAT_TO_INSTALL}") from error


def _link(code: bytes, cc: tuple[int, int]) -> bytes:
    """LTO-IR to machine code; its registers are bounded by what it was compiled with."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    options = LinkerOptions(arch=f"sm_{cc[0]}{cc[1]}", link_time_optimization=True)
    return bytes(Linker(ObjectCode.from_ltoir(code), options=options).link("cubin").code)


def supported() -> list[tuple[int, int]]:
    """The compute capabilities that the compiler here knows."""
    from cuda.bindings import nvrtc

    result, known = nvrtc.nvrtcGetSupportedArchs()
    if int(result) != 0:
        raise RuntimeError(f"nvrtcGetSupportedArchs failed: {result}")
    return [divmod(int(number), 10) for number in known]


def architecture(cc: tuple[int, int], known: list[tuple[int, int]]) -> tuple[int, int]:
    """The newest known architecture whose machine code runs on `cc`: not newer, and of the same major version.

    Raises
    ------
    DeviceUnavailable
        Where there is none.
    """
    fitting = [one for one in known if one[0] == cc[0] and one <= cc]
    if not fitting:
        raise DeviceUnavailable(
            f"the CUDA toolkit here has no code for compute capability {cc[0]}.{cc[1]} (it knows "
            f"{', '.join(f'{major}.{minor}' for major, minor in known)}); {WHAT_TO_INSTALL}"
        )
    return max(fitting)


def entry_name(code: bytes) -> str:
    """The name of the one kernel in a cubin, from its table of symbols.

    Raises
    ------
    ValueError
        Where `code` is no cubin, or one of several kernels or none.
    """
    try:
        if code[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian
            raise ValueError("not an ELF file")
        (start,) = struct.unpack_from("<Q", code, 0x28)
        size, count = struct.unpack_from("<HH", code, 0x3A)
        sections = [struct.unpack_from("<IIQQQQIIQQ", code, start + number * size) for number in range(count)]
        names = []
        for _, kind, _, _, offset, length, link, _, _, step in sections:
            if kind == SYMBOL_TABLE:
                strings = sections[link][4]
                for place in range(offset, offset + length, step):
                    name, info, other = struct.unpack_from("<IBB", code, place)
                    if info == GLOBAL << 4 | ELF_FUNCTION and other & CUDA_ENTRY:
                        begin = strings + name
                        names.append(code[begin : code.index(b"\0", begin)].decode())
    except (struct.error, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"a damaged ELF file ({error})") from error
    if len(names) != 1:
        raise ValueError(f"{len(names)} kernels in a cubin, expected one: {names}")
    return names[0]


# -------------------------------------------------------------------------------------------------------- on disk


@functools.cache
def tools() -> str:
    """Versions of all that makes machine code."""
    found = []
    for name in TOOLS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    if not any(entry.startswith("nvidia-nvjitlink") for entry in found):  # the system's
        with contextlib.suppress(Exception):
            from cuda.bindings import nvjitlink

            found.append(f"nvJitLink {nvjitlink.version()}")
    return ", ".join(found)


def _path(kernel: Kernel, code: str, cc: tuple[int, int]) -> Path | None:
    folder = jit.cache_directory()
    if folder is None:
        return None
    name = re.sub(r"[^\w.-]+", "_", kernel.name)[:80]
    key = hashlib.sha256(f"{kernel.name}\n{code}\n{jit.source_key()}\n{tools()}".encode()).hexdigest()[:16]
    return folder / "cubins" / f"{name}-sm_{cc[0]}{cc[1]}-{key}.cubin"


def _read(path: Path | None) -> Cubin | None:
    """What a file holds: a digest and the code; None where there is no file, or a damaged one."""
    try:
        data = path.read_bytes() if path else b""
    except OSError:
        return None
    if not data:
        return None
    code = data[DIGEST_BYTES:]
    try:
        if hashlib.sha256(code).digest() != data[:DIGEST_BYTES]:
            raise ValueError("its digest is not that of its content")
        return Cubin(code, entry_name(code))
    except ValueError as error:
        warnings.warn(f"numbaconv: {path} is damaged and will be replaced ({error})", RuntimeWarning, stacklevel=2)
        return None


def _write(path: Path | None, code: bytes):
    """All at once: many processes may write, and read, at the same time."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(code).digest() + code)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        warnings.warn(f"numbaconv: could not cache {path} ({error})", RuntimeWarning, stacklevel=2)
