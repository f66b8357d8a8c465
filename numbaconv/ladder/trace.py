"""What a step touches, from the step's own source.

``traffic`` counts: every access of a run at a realistic size goes through a model of caches, as it happens.
``record`` remembers: at a size that can be drawn, which element each access was of, and which level had it.

Both follow any compiled or plain function whose matrices are arguments, and the functions it calls. What they can see
are elements (``a[i, p]``), ``.shape``, and buffers made by ``words.buffer``. They refuse slices, NumPy functions of a
matrix, and functions that make arrays of their own, which nobody would see. An access is what the source says: one a
scalar. What the compiler then keeps in a register, or loads as a vector, changes how many accesses there are, but not
which lines are missed.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from types import FunctionType
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError, UnsupportedBytecodeError

from numbaconv.errors import ShapeError
from numbaconv.jit import compiled
from numbaconv.ladder.book import Book, CannotTrace
from numbaconv.ladder.caches import Hierarchy, Simulation, Traffic
from numbaconv.ladder.traced import FOLLOWED, OutsideMatrix, Traced

__all__ = ["CannotTrace", "Matrix", "OutsideMatrix", "Recording", "record", "traffic"]

MOST_EVENTS = 1 << 20


# --------------------------------------------------------------------------------------------------- two questions


def traffic(
    function: Callable[..., Any],
    *operands: Any,
    hierarchy: Hierarchy | None = None,
    leading: Mapping[str, int] | None = None,
    vector: int = 0,
    offset: int = 0,
    **options: Any,
) -> Traffic:
    """Run `function`, and count what its accesses do to caches that begin empty.

    Parameters
    ----------
    function : callable
        Compiled or not.
    *operands
        Its arguments in order. An array, C-contiguous, is followed and computed with; a tuple stands for a float32
        matrix of that shape with small whole numbers in it. Anything else is handed on.
    hierarchy : Hierarchy, optional
        This machine's by default.
    leading : mapping of str to int, optional
        For matrices that lie inside wider ones, by parameter: elements from one row to the next.
    vector : int
        Bytes that walks along rows take at once, where the compiler makes vectors of them; 0 where it does not.
    offset : int
        Bytes from a page's beginning to each operand's. (NumPy's large arrays: 16.)
    **options
        Further arguments of `function`, by name.

    Raises
    ------
    CannotTrace
        Where an access could not be followed; says which, and what to do.

    Examples
    --------
    >>> from numbaconv.ladder import step
    >>> counted = traffic(step("ijk").function, (64, 64), (64, 64), (64, 64))
    >>> print(counted["L1"].misses)  # doctest: +SKIP
    """
    simulation = Simulation(hierarchy)
    _run(function, operands, options, leading or {}, simulation, Book(vector), offset)
    return simulation.traffic


@dataclass(frozen=True)
class Matrix:
    """A matrix in a recording; of more axes than two, all but the last are its rows."""

    name: str
    rows: int
    columns: int


@dataclass(frozen=True)
class Recording:
    """Every access of a run.

    Parameters
    ----------
    matrices : tuple of Matrix
        The operands, then the buffers in the order in which they were made.
    events : np.ndarray
        A row (matrix, row, column, 1 for a write, level that had it) an access; the level that lies beyond all
        caches is the memory.
    traffic : Traffic
        The same, counted.
    """

    matrices: tuple[Matrix, ...]
    events: np.ndarray
    traffic: Traffic


def record(
    function: Callable[..., Any],
    *operands: Any,
    hierarchy: Hierarchy | None = None,
    leading: Mapping[str, int] | None = None,
    **options: Any,
) -> Recording:
    """Run `function`, as ``traffic`` does, and remember every access.

    Raises
    ------
    CannotTrace
        Also where there are more than a million accesses.
    """
    simulation = Simulation(hierarchy, log=MOST_EVENTS)
    book = Book()
    followed = _run(function, operands, options, leading or {}, simulation, book)
    counted = simulation.traffic
    if counted.accesses > MOST_EVENTS:
        raise CannotTrace(
            f"{counted.accesses:,} accesses are more than can be recorded ({MOST_EVENTS:,}); "
            "record smaller matrices, or ask for their traffic"
        )
    names = [*followed, *_buffer_names(_python(function), len(book.matrices) - len(followed))]
    strides = [one.strides[0] if one.data.ndim == 2 else None for one in followed.values()]
    places = [_Place(name, *matrix, stride) for name, matrix, stride in zip_longest(names, book.matrices, strides)]
    return Recording(
        tuple(Matrix(one.name, one.rows, one.columns) for one in places),
        _events(simulation.log, places),
        counted,
    )


# ----------------------------------------------------------------------------------------------------- the run


def _run(function, operands, options, leading, simulation, book, offset=0) -> dict[str, Traced]:
    """Run it on traced operands, and return those by name."""
    code = _python(function)
    _refuse_unseen(code)
    try:
        given = inspect.signature(code).bind(*operands, **options).arguments
    except TypeError as error:
        raise ShapeError(f"{code.__name__}{inspect.signature(code)}: {error}") from None
    handed = {
        name: _traced(name, value, leading.get(name), simulation, book, offset)
        if isinstance(value, np.ndarray | tuple)
        else value
        for name, value in given.items()
    }
    followed = {name: value for name, value in handed.items() if isinstance(value, Traced)}
    if unknown := set(leading) - set(followed):
        raise ShapeError(f"leading names {sorted(unknown)}, and the matrices are {', '.join(followed)}")
    try:
        _compiled(code)(**handed)
    except (NumbaError, UnsupportedBytecodeError) as error:
        raise CannotTrace(f"{code.__name__} cannot be followed: {_reason(str(error))}") from error
    return followed


def _python(function) -> FunctionType:
    code = function.py_func if isinstance(function, Dispatcher) else function
    if not isinstance(code, FunctionType):
        raise CannotTrace(f"only a function written in Python, or compiled from one, can be followed; got {function!r}")
    return code


_compiled = functools.lru_cache(maxsize=64)(compiled)


def _traced(name, value, leading, simulation, book, offset) -> Traced:
    """A matrix at an address of its own."""
    if isinstance(value, tuple):
        value = np.random.default_rng(len(name)).integers(-3, 4, value).astype(np.float32)
    if not value.flags.c_contiguous or not value.flags.writeable or value.ndim == 0:
        raise ShapeError(f"{name} must be a writable, C-contiguous array; hand over np.ascontiguousarray({name})")
    columns, strides = value.shape[-1], value.strides
    if leading is not None:
        if value.ndim != 2 or leading < columns:
            raise ShapeError(
                f"leading of {name} must be at least the columns of a matrix; got {leading}, {value.shape}"
            )
        strides = leading * value.itemsize, value.itemsize
    nbytes = strides[0] * value.shape[0]
    entry = book.enter(value.size // max(1, columns), columns, value.itemsize, nbytes, offset)
    return Traced(value, entry, strides, simulation, book)


# ------------------------------------------------------------------------------------ what cannot be followed

MAKERS = {f"{name}{like}" for name in ("empty", "zeros", "ones", "full") for like in ("", "_like")} | {
    "array",
    "arange",
}


def _refuse_unseen(code: FunctionType):
    """Refuse arrays that a function makes of its own: they would be used and not be seen."""
    for function in _reached(code):
        makers = [name for name in function.__code__.co_names if name in MAKERS and name not in function.__globals__]
        if makers:
            raise CannotTrace(
                f"{function.__name__} makes an array by np.{makers[0]}, whose accesses would not be seen; "
                "make it by numbaconv.ladder.words.buffer(a, rows, columns), or hand it over as an argument"
            )


def _reached(code: FunctionType) -> list[FunctionType]:
    """The function and all compiled ones that it calls, the callers first."""
    found = [code]
    for function in found:  # which grows meanwhile
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        named = [function.__globals__.get(name) for name in function.__code__.co_names]
        called = [value.py_func for value in named + cells if isinstance(value, Dispatcher)]
        found += [one for one in dict.fromkeys(called) if one not in found]
    return found


def _reason(text: str) -> str:
    """The sentence of a compiler's error that a reader can use."""
    if found := re.search(rf"{re.escape(FOLLOWED)}.*", text):
        return found[0]
    words = re.search(r"Unknown attribute .*|>>> .*|Untyped global name .*", text)
    said = words[0] if words else text[:300].replace(". Raised from None", "")
    return f"{FOLLOWED}. Numba says: {said}"


# --------------------------------------------------------------------------------------------- whose address it is


@dataclass(frozen=True)
class _Place:
    """Where a matrix lies."""

    name: str
    rows: int
    columns: int
    size: int
    base: int
    stride: int | None = None

    def element(self, addresses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows, columns) of what lies at these addresses."""
        row, rest = np.divmod(addresses - self.base, self.stride or self.columns * self.size)
        return row, rest // self.size


def _events(log: np.ndarray, places: list[_Place]) -> np.ndarray:
    addresses, written, level = log.T
    order = np.argsort([place.base for place in places])
    matrix = order[np.searchsorted([places[one].base for one in order], addresses, side="right") - 1]
    events = np.stack([matrix, matrix, matrix, written, level], axis=1)
    for number, place in enumerate(places):
        mine = matrix == number
        events[mine, 1], events[mine, 2] = place.element(addresses[mine])
    return events


def _buffer_names(code: FunctionType, count: int) -> list[str]:
    """What the source calls its buffers, in order, if they are as many as it made."""
    names = [name for function in _reached(code) for name in _buffers_of(function)]
    return names if len(names) == count else [f"buffer {number + 1}" for number in range(count)]


def _buffers_of(function: FunctionType) -> Iterator[str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):  # typed in, or a lambda in the middle of a line
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target, value in zip(_several(node.targets[0]), _several(node.value)):
                if isinstance(value, ast.Call) and isinstance(target, ast.Name) and _called(value) == "buffer":
                    yield target.id


def _several(node: ast.expr) -> list[ast.expr]:
    """The parts of ``x, y``, or x alone."""
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))
