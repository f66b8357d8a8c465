"""What an array's strides and dtype say, for arrays of any library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["LAYOUTS", "dtype_name", "memory_order"]

LAYOUTS = ("nchw", "nhwc")


def dtype_name(array: Any) -> str:
    """NumPy's name of an array's dtype: torch.float32 is "float32" too."""
    return str(array.dtype).rpartition(".")[2]


def _strides(array: Any) -> tuple[int, ...]:
    """Strides in whatever unit the array's library counts; only their proportions matter here."""
    strides: Any = array.stride() if callable(getattr(array, "stride", None)) else getattr(array, "strides", None)
    if strides is None:  # C order, in the array interface protocols
        strides = [1] * len(array.shape)
        for axis in range(len(strides) - 2, -1, -1):
            strides[axis] = strides[axis + 1] * array.shape[axis + 1]
    return tuple(strides)


def memory_order(array: Any, layout: str) -> str:
    """The order in which the pixels of an array of images lie in memory.

    Parameters
    ----------
    array : array of 4 axes, or 3 (one image)
        Anything with `shape` and `strides` (or torch's `stride()`).
    layout : {"nchw", "nhwc"}
        The order of its axes.

    Returns
    -------
    str
        The layout from whose last axis to whose first the strides grow; `layout` where that is both (a map of one
        pixel, or one channel) or neither.
    """
    axes = [layout.index(letter) + len(array.shape) - 4 for letter in "nchw"]
    sizes: Sequence[int] = [array.shape[axis] if axis >= 0 else 1 for axis in axes]
    strides = _strides(array)

    def grows(order: str) -> bool:
        least = 1
        for letter in reversed(order):
            place = "nchw".index(letter)
            if sizes[place] > 1:
                stride = strides[axes[place]]
                if stride < least:
                    return False
                least = stride
        return True

    other = "nhwc" if layout == "nchw" else "nchw"
    return other if grows(other) and not grows(layout) else layout
