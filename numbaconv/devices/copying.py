"""Strided copies on a GPU, and how many blocks a kernel needs that hands one thread after another its work."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from numba import types

from numbaconv.devices.intrinsics import cuda, int32, udiv32
from numbaconv.jit_cuda import Kernel, pointer, record

THREADS = 256
MOST_BLOCKS = 4096
"""Of a kernel whose threads go on to further work: enough to fill any GPU."""
MOST_DOWN = 65535
"""Blocks along a grid's y."""
NUMBERS = 2**31 - MOST_BLOCKS * 1024
"""So many threads or elements can be counted in 32 bits, however far the last block reaches beyond them."""


class Four(NamedTuple):
    """Sizes or element steps of an array's axes, the one that threads run along last."""

    a: int
    b: int
    c: int
    d: int


def blocks_of(total: int, threads: int) -> int:
    """Blocks of `threads` for `total` threads; ValueError where 32 bits do not count them."""
    if total > NUMBERS:
        raise ValueError(f"{total} elements are more than a kernel can number ({NUMBERS}): divide the problem")
    return -(-total // threads)


def reach_of(shape: Sequence[int], steps: Sequence[int]) -> int:
    """How far an array's last element is from its first, all steps taken as positive."""
    return sum((size - 1) * abs(step) for size, step in zip(shape, steps, strict=True))


@functools.cache
def copy4(itemsize: int) -> Kernel:
    """The kernel that copies an array of four axes to another of the same sizes, both with any steps.

    Its arguments: source, target (pointers to the first elements); sizes, source steps, target steps (``Four``). Grid
    and records are ``copy4_launch``'s. Three divisions an element.
    """

    def kernel(source, target, sizes, steps, into):
        total = int32(sizes.a * sizes.b * sizes.c * sizes.d)
        first = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        for number in range(first, total, int32(cuda.gridDim.x * THREADS)):
            rest = int32(udiv32(number, sizes.d))
            d = int32(number - rest * sizes.d)
            outer = int32(udiv32(rest, sizes.c))
            c = int32(rest - outer * sizes.c)
            a = int32(udiv32(outer, sizes.b))
            b = int32(outer - a * sizes.b)
            value = source[int32(a * steps.a + b * steps.b + c * steps.c + d * steps.d)]
            target[int32(a * into.a + b * into.b + c * into.c + d * into.d)] = value

    memory, four = pointer(itemsize), record(Four)
    return Kernel(f"copy4_{itemsize}", kernel, types.void(memory, memory, four, four, four), THREADS, 4)


def copy4_launch(
    shape: Sequence[int], source_steps: Sequence[int], target_steps: Sequence[int]
) -> tuple[tuple[int, ...] | None, tuple[Four, Four, Four]]:
    """Grid and records of a ``copy4``: neighbouring threads write neighbouring elements of the target.

    Parameters
    ----------
    shape : four ints at most
    source_steps, target_steps : ints
        In elements, one for each axis. A step of 0 in the source repeats it.

    Returns
    -------
    grid : tuple of int, or None
        None where there is nothing to copy.
    records : (Four, Four, Four)
        Sizes and both arrays' steps: axes by falling step of the target, and those that follow one another in both
        arrays made one.

    Raises
    ------
    ValueError
        Where 32 bits do not count the elements.
    """
    axes = [axis for axis in zip(shape, source_steps, target_steps, strict=True) if axis[0] != 1]
    axes.sort(key=lambda axis: abs(axis[2]), reverse=True)
    merged: list[tuple[int, int, int]] = []
    for size, step, into in axes:
        if merged and merged[-1][1:] == (step * size, into * size):
            merged[-1] = (merged[-1][0] * size, step, into)
        else:
            merged.append((size, step, into))
    merged = [(1, 0, 0)] * (4 - len(merged)) + merged
    sizes, steps, into_steps = (Four(*column) for column in zip(*merged, strict=True))
    total = sizes.a * sizes.b * sizes.c * sizes.d
    if not total:
        return None, (sizes, steps, into_steps)
    blocks_of(max(reach_of(sizes, steps), reach_of(sizes, into_steps)), THREADS)  # the offsets must be countable, too
    return (min(MOST_BLOCKS, blocks_of(total, THREADS)),), (sizes, steps, into_steps)
