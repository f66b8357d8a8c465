"""The only module that names Numba's decorators and flags, and the on-disk cache.

Two kinds of compiled function exist in numbaconv:

``compiled``
    an ordinary jitted function, called from Python or from other jitted code;
``native``
    a C function of int64 arguments, compiled when its ``address`` is first asked for. Drivers receive
    such addresses at run time and call them with ``simd.invoke``. This is what keeps compile times low:
    a driver is compiled once, whatever micro-kernel, packing or row function it is handed.

Both run without the GIL, divide without Python's zero check, and are kept on disk in a directory of ours,
named after a hash of this package's sources, Numba and the CPU (Numba's own key does not see edits in
helpers imported from other files). Each specialisation of a factory has a file of its own, so processes that
compile at the same time can only write the same thing twice.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import os
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import ClassVar

import llvmlite.binding
import numba
from numba import types
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic, overload

__all__ = [
    "Native",
    "cache_directory",
    "compiled",
    "intrinsic",
    "machine_code",
    "native",
    "not_while_forking",
    "overload",
]

PACKAGE = Path(__file__).resolve().parent
FLAGS = {"nogil": True, "error_model": "numpy"}


# ---------------------------------------------------------------------------------------------- cache directory


def _user_cache() -> Path:
    """The platform's cache directory for this user."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _writable(path: Path) -> bool:
    """Whether `path` is, or could be made, a directory of ours that takes files."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=path):
            pass
        return not hasattr(os, "getuid") or path.stat().st_uid == os.getuid()
    except OSError:
        return False


@functools.cache
def cache_directory() -> Path | None:
    """Where compiled code and measurements are kept, or None where nothing can be written.

    ``NUMBACONV_CACHE_DIR`` comes first, then the platform's cache directory, then a private directory in the
    temporary one (with one warning).
    """
    override = os.environ.get("NUMBACONV_CACHE_DIR")
    wanted = Path(override) if override else _user_cache() / "numbaconv"
    if _writable(wanted):
        return wanted
    user = os.getuid() if hasattr(os, "getuid") else "user"
    fallback = Path(tempfile.gettempdir()) / f"numbaconv-{user}"
    usable = _writable(fallback)
    instead = f"using {fallback}" if usable else "compiling anew in every process"
    warnings.warn(
        f"numbaconv: cannot write the cache directory {wanted}; {instead}. Set NUMBACONV_CACHE_DIR to a writable one.",
        RuntimeWarning,
        stacklevel=2,
    )
    return fallback if usable else None


@functools.cache
def source_key() -> str:
    """Hash of our sources alone: the same on every machine."""
    digest = hashlib.sha256()
    for source in sorted(PACKAGE.rglob("*.py")):
        digest.update(source.relative_to(PACKAGE).as_posix().encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def build_key() -> str:
    """Hash of all that compiled code depends on: our sources, Numba, LLVM, Python and the CPU."""
    digest = hashlib.sha256(source_key().encode())
    cpu = numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name()
    features = numba.config.CPU_FEATURES or llvmlite.binding.get_host_cpu_features().flatten()
    for fact in (numba.__version__, llvmlite.__version__, sys.version, cpu, features):
        digest.update(str(fact).encode())
    return digest.hexdigest()[:16]


def _constants(function) -> str:
    """The numbers that `function` reads from its module: they are compiled in, and the environment may decide them."""
    numbers = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    found = {name: value for name, value in numbers.items() if isinstance(value, int | float)}
    return repr(found) if found else ""


class _Locator(_CacheLocator):
    """Puts a function's files into ``cache_directory()/build_key()``, one file a specialisation."""

    def __init__(self, py_func, py_file):
        self._py_file = py_file
        cells = tuple(cell.cell_contents for cell in py_func.__closure__ or ())
        place = f"{py_file}:{py_func.__code__.co_firstlineno}:{cells!r}{_constants(py_func)}"
        self._disambiguator = hashlib.sha256(place.encode()).hexdigest()[:12]

    @classmethod
    def from_function(cls, py_func, py_file):
        return cls(py_func, py_file)

    def get_cache_path(self):
        return str((cache_directory() or Path(tempfile.gettempdir())) / build_key())

    def get_source_stamp(self):
        if Path(self._py_file).is_relative_to(PACKAGE):
            return build_key()
        stat = os.stat(self._py_file)
        return build_key(), stat.st_mtime_ns, stat.st_size

    def get_disambiguator(self):
        return self._disambiguator


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes: ClassVar = [_Locator]


class _Cache(FunctionCache):
    _impl_class = _CacheImpl

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:
            self._say(f"a file of {self._name} is damaged and will be replaced ({type(error).__name__}: {error})")
            self._forget()
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception as error:
            self._say(f"could not cache {self._name} ({type(error).__name__}: {error})")
            self._forget()

    def _forget(self):
        """Remove the index, so that the next save begins a new one."""
        with contextlib.suppress(OSError):
            os.unlink(self._cache_file._index_path)

    @staticmethod
    def _say(text: str):
        warnings.warn(f"numbaconv: {text}; the cache is {cache_directory()}", RuntimeWarning, stacklevel=3)


def _cacheable(function) -> bool:
    return os.path.isfile(inspect.getfile(function)) and cache_directory() is not None


# ------------------------------------------------------------------------------------------------------ forking

not_while_forking = threading.RLock()
"""Held by whoever compiles or imports at run time; a fork waits for it, so that no child inherits what is half done."""


def _hold_compiler():
    """Before a fork: wait for whoever compiles, so that the child does not inherit a lock without its owner."""
    not_while_forking.acquire()
    global_compiler_lock.acquire()
    llvmlite.binding.ffi.lib._lock.__enter__()


def _release_compiler():
    llvmlite.binding.ffi.lib._lock.__exit__(None, None, None)
    global_compiler_lock.release()
    not_while_forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_compiler, after_in_parent=_release_compiler, after_in_child=_release_compiler)


# ------------------------------------------------------------------------------------------------- decorators


def compiled(function):
    """Jit `function` (lazily, per argument types), without the GIL, cached on disk."""
    dispatcher = numba.njit(**FLAGS)(function)
    if _cacheable(function):
        dispatcher._cache = _Cache(function)
    return dispatcher


class Native:
    """A C function of int64 arguments that returns nothing, compiled when `address` is first read."""

    def __init__(self, function):
        self.function = function
        self._code: CFunc | None = None
        self.__doc__, self.__name__ = function.__doc__, function.__name__

    @property
    def code(self) -> CFunc:
        """The compiled function."""
        if self._code is None:
            with not_while_forking:
                if self._code is None:
                    self._code = self._compile()
        return self._code

    def _compile(self, cached: bool = True) -> CFunc:
        count = len(inspect.signature(self.function).parameters)
        signature = types.void(*[types.int64] * count)
        code = CFunc(self.function, (signature.args, signature.return_type), {}, {"error_model": "numpy"})
        if cached and _cacheable(self.function):
            code._cache = _Cache(self.function)
        code.compile()
        return code

    @property
    def address(self) -> int:
        """Where it is, as an int64 that compiled code can call."""
        return (self._code or self.code).address

    def __repr__(self):
        return f"<native {self.__name__}>"


def native(function) -> Native:
    """Make `function`, all of whose arguments are int64, a ``Native``: addressable from jitted code."""
    return Native(function)


def machine_code(function, *arguments) -> str:
    """The assembly of a jitted function for such arguments, or of a ``Native``.

    Compiled anew, since code from the cache has no text.
    """
    with not_while_forking:
        if isinstance(function, Native):
            return function._compile(cached=False)._library.get_asm_str()
        pipeline = function._compiler.pipeline_class
        fresh = type(function)(function.py_func, targetoptions=function.targetoptions, pipeline_class=pipeline)
        fresh.get_call_template([numba.typeof(argument) for argument in arguments], {})  # knows what may be left out
        return fresh.inspect_asm(fresh.signatures[0])
