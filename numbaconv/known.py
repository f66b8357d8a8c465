"""Arrays that a plan has seen the like of: all that can be known about them is known, and the call runs from tape.

What is checked of arrays, and what is decided because of them, depends on their dtypes, shapes and strides. A plan
keeps that for a few such descriptions, and never an array; what may differ between arrays of one description
(alignment, a read-only output, shared memory) is looked at in every call. Anything unusual goes the long way.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

from numbaconv.jit import not_while_forking
from numbaconv.recording import Kept, Recording, extent
from numbaconv.workspace import address_of, aligned_array, borrow, give_back

if TYPE_CHECKING:
    from numbaconv.plan import Plan

MOST_KNOWN = 32
"""Descriptions that a plan keeps."""


def likeness(x: Any, out: Any, residual: Any, layout: str) -> Hashable | None:
    """What arrays have in common that a recording serves; None where one is no plain NumPy array."""
    if type(x) is not np.ndarray:
        return None
    if out is None and residual is None:
        return layout, x.dtype, x.shape, x.strides
    described: list[Any] = [layout, x.dtype, x.shape, x.strides]
    for array in (out, residual):
        if array is None:
            described.append(None)
        elif type(array) is np.ndarray:
            described += array.dtype, array.shape, array.strides
        else:
            return None
    return tuple(described)


class Known:
    """A call on arrays of one description: the result's shape and strides, the arrays' extents, and the recording.

    Where no recording could be made there is none, so that it is not tried again.
    """

    __slots__ = ("_dtype", "_extents", "_itemsize", "_result_bytes", "_shape", "_strides", "recording", "scratch")

    def __init__(self, recording: Recording | None, scratch: int, x, result, residual):
        self.recording, self.scratch = recording, scratch
        self._shape, self._strides, self._dtype = result.shape, result.strides, result.dtype
        self._itemsize = result.itemsize
        self._extents = [
            0 if array is None else extent(array.shape, array.strides, array.itemsize)
            for array in (x, result, residual)
        ]  # fmt: skip
        self._result_bytes = self._extents[1]

    def run(self, x, prepared, bias, residual, out, kept: Kept | None) -> tuple[np.ndarray, dict[str, float]] | None:
        """(result, stage times); None where something is in the way, and the long way says or does what is needed."""
        if self.recording is None:
            return None
        x_place = address_of(x)
        misplaced = x_place
        residual_place = 0
        if residual is not None:
            residual_place = address_of(residual)
            misplaced |= residual_place
        if out is None:
            result = aligned_array(self._shape, self._dtype, self._strides, self._result_bytes)
            place = address_of(result)
        else:
            result, place = out, address_of(out)
            misplaced |= place
            if not out.flags.writeable:
                return None
            of_x, of_out, of_residual = self._extents
            end = place + of_out
            if place < x_place + of_x and x_place < end:
                return None
            if residual is not None and place < residual_place + of_residual and residual_place < end:
                return None
        if misplaced % self._itemsize:
            return None
        if kept is None:
            kept = Kept(prepared, bias)
        if not self.scratch:
            return result, self.recording.run(x_place, place, residual_place, 0, kept.address)
        buffer = borrow(self.scratch)
        try:
            return result, self.recording.run(x_place, place, residual_place, buffer[1], kept.address)
        finally:
            give_back(buffer)


def remember(plan: Plan, key: Hashable, known: Known) -> None:
    """Keep what is known for later calls, and forget the oldest where that is too much."""
    with not_while_forking:
        while len(plan.known) >= MOST_KNOWN:
            del plan.known[next(iter(plan.known))]
        plan.known[key] = known
