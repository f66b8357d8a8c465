"""Axes of two levels: runs of `inner` elements, `step` bytes apart, that begin every `outer` bytes.

The pixels of a part of an image are one such axis: a step within a row, another from row to row.
"""

from __future__ import annotations

from numbaconv.jit import compiled

UNBROKEN = 1 << 62
"""The inner length of an axis of one level."""


@compiled
def offset(index, inner, step, outer):
    """Bytes from the first to the `index`-th element of a two-level axis (no division while on its first run)."""
    if index < inner:
        return index * step
    return index // inner * outer + index % inner * step


@compiled
def run_left(index, inner):
    """Elements from the `index`-th to the end of its run."""
    if index < inner:
        return inner - index
    return inner - index % inner


@compiled
def within(first, count, inner):
    """Whether `count` elements from `first` on lie in one run."""
    return count <= run_left(first, inner)
