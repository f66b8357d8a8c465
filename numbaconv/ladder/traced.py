"""A matrix, to compiled code, that tells a simulation of caches about every access.

Numba compiles a step's own source once more for these in place of arrays: ``a[i, p]``, ``.shape`` and
``words.buffer`` mean what they meant, so the arithmetic still runs, and each access is also sent to ``caches.touch``
with the address that ``book.py`` made up for it. So the picture cannot drift from the code.
"""

from __future__ import annotations

import operator

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.errors import NumbaTypeError
from numba.extending import (
    NativeValue,
    box,
    make_attribute_wrapper,
    models,
    overload_attribute,
    register_model,
    typeof_impl,
    unbox,
)

from numbaconv.errors import NumbaconvError
from numbaconv.jit import compiled, intrinsic, overload
from numbaconv.ladder.book import BASE, Book, access, entry_of
from numbaconv.ladder.caches import Simulation
from numbaconv.ladder.words import buffer

__all__ = ["FOLLOWED", "OutsideMatrix", "Traced"]

FOLLOWED = "only elements (a[i, p]) and .shape of a matrix can be followed"
"""Begins what the compiler is told of any other index."""


class OutsideMatrix(NumbaconvError, IndexError):
    """An index lies outside of its matrix."""

    def __str__(self) -> str:
        index, extent = self.args
        return f"the function uses index {index} of an axis that has {extent} elements; correct its loops' ends"


# -------------------------------------------------------------------------------------------------- the new type


class Traced:
    """A matrix as the traced function receives it.

    Parameters
    ----------
    data : np.ndarray
        C-contiguous.
    entry : int
        Where the book has it.
    strides : tuple of int
        Bytes, by address, from one index to the next on each axis.
    simulation : caches.Simulation
    book : Book
        Whose states the compiled code writes to.
    """

    def __init__(self, data: np.ndarray, entry: int, strides: tuple[int, ...], simulation: Simulation, book: Book):
        self.data, self.entry, self.strides = data, entry, strides
        self.base = int(book.state[entry + BASE])
        self.simulation, self.book = simulation, book
        self.counts, self.places = simulation.state.ctypes.data, book.state.ctypes.data


STATE = types.CPointer(types.int64)
"""A state, without the counting of references that an array would cost at every access."""


class TracedType(types.Type):
    """The type of a ``Traced``."""

    def __init__(self, array):
        self.array = array
        super().__init__(f"Traced({array})")

    @property
    def key(self):
        return self.array

    @property
    def members(self):
        strides = types.UniTuple(types.int64, self.array.ndim)
        numbers = [("entry", types.int64), ("base", types.int64), ("strides", strides)]
        return [("data", self.array), *numbers, ("counts", STATE), ("places", STATE)]


@typeof_impl.register(Traced)
def _typeof_traced(value, context):
    return TracedType(types.Array(typeof_impl(value.data, context).dtype, value.data.ndim, "C"))


@register_model(TracedType)
class _TracedModel(models.StructModel):
    def __init__(self, manager, traced):
        super().__init__(manager, traced, traced.members)


for _member in ("data", "entry", "base", "strides", "counts", "places"):
    make_attribute_wrapper(TracedType, _member, f"_{_member}")


@unbox(TracedType)
def _unbox_traced(traced, value, c):
    struct = cgutils.create_struct_proxy(traced)(c.context, c.builder)
    failed = cgutils.false_bit
    for name, kind in traced.members:
        member = c.pyapi.object_getattr_string(value, name)
        native = c.unbox(types.intp if kind == STATE else kind, member)
        found = native.value
        setattr(struct, name, c.builder.inttoptr(found, c.context.get_value_type(STATE)) if kind == STATE else found)
        failed = c.builder.or_(failed, native.is_error)
        c.pyapi.decref(member)
    return NativeValue(struct._getvalue(), is_error=failed)


@box(TracedType)
def _box_traced(traced, value, c):
    """Back in Python it is an array again."""
    struct = cgutils.create_struct_proxy(traced)(c.context, c.builder, value)
    return c.box(traced.array, struct.data)


# ------------------------------------------------------------------------------------------ what it is used for


@overload_attribute(TracedType, "shape")
def _shape(matrix):
    return lambda matrix: matrix._data.shape


@overload(operator.getitem)
def _read(matrix, index):
    if isinstance(matrix, TracedType):
        size = _element(matrix, index)

        def read(matrix, index):
            offset, left = _offset(index, matrix._data.shape, matrix._strides)
            access(matrix._counts, matrix._places, matrix._entry, matrix._base + offset, size, left, 0)
            return matrix._data[index]

        return read


@overload(operator.setitem)
def _write(matrix, index, value):
    if isinstance(matrix, TracedType):
        size = _element(matrix, index)

        def write(matrix, index, value):
            offset, left = _offset(index, matrix._data.shape, matrix._strides)
            access(matrix._counts, matrix._places, matrix._entry, matrix._base + offset, size, left, 1)
            matrix._data[index] = value

        return write


@overload(buffer)
def _buffer(like, rows, columns):
    if isinstance(like, TracedType):
        dtype = like.array.dtype
        size = dtype.bitwidth // 8

        def traced_buffer(like, rows, columns):
            data = np.empty((rows, columns), dtype)
            entry = entry_of(like._places, data.ctypes.data, rows, columns, size)
            return _another(like, data, entry, like._places[entry + BASE], (columns * size, size))

        return traced_buffer


@intrinsic
def _another(context, like, data, entry, base, strides):
    """A matrix with data of its own, in the simulation of another."""
    made = TracedType(data)

    def build(context, builder, signature, arguments):
        old = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        new = cgutils.create_struct_proxy(signature.return_type)(context, builder)
        new.data, new.entry, new.base, new.strides = arguments[1:]
        new.counts, new.places = old.counts, old.places
        context.nrt.incref(builder, signature.return_type, new._getvalue())
        return new._getvalue()

    return made(like, data, entry, base, strides), build


def _element(matrix, index):
    """Bytes of an element, after a look at whether `index` names one."""
    indices = tuple(index) if isinstance(index, types.BaseTuple) else (index,)
    if len(indices) != matrix.array.ndim or not all(isinstance(one, types.Integer) for one in indices):
        names = ", ".join("a slice" if isinstance(one, types.SliceType) else str(one) for one in indices)
        raise NumbaTypeError(f"{FOLLOWED}; here the index of {matrix.array.ndim} axes is [{names}].")
    return matrix.array.dtype.bitwidth // 8


def _offset(index, shape, strides):
    """(bytes from the first element to the one at `index`, elements from there to the end of its row)."""


@overload(_offset)
def _compiled_offset(index, shape, strides):
    if isinstance(index, types.Integer):
        return lambda index, shape, strides: _offset((index,), shape, strides)

    if len(index) == 1:

        def last(index, shape, strides):
            place = _within(index[0], shape[0])
            return place * strides[0], shape[0] - place

        return last

    def one_more(index, shape, strides):
        beyond, left = _offset(index[1:], shape[1:], strides[1:])
        return _within(index[0], shape[0]) * strides[0] + beyond, left

    return one_more


@compiled
def _within(index, extent):
    """The index counted from the first element, if there is one."""
    position = np.int64(index)
    if position < 0:
        position += extent
    if position < 0 or position >= extent:
        raise OutsideMatrix(index, extent)
    return position
