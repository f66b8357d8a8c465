"""Arrays as CUDA kernels see them in the emulator: in memory of a layout, with gaps that nothing may touch."""

from __future__ import annotations

import numpy as np

from numbaconv.devices.emulator import launch

NOTHING = {size: np.full(1, np.nan, f"f{size}") for size in (4, 8)}
"""In place of a bias or a residual that is not there."""


def held(values, layout):
    """Memory in that order, with NaN between rows, and where the (n, c, h, w) values lie in it."""
    values = values if layout == "nchw" else values.transpose(0, 2, 3, 1)
    memory = np.full((*values.shape[:-1], values.shape[-1] + 1), np.nan, values.dtype)
    inside = memory[..., :-1]
    inside[...] = values
    return memory, inside if layout == "nchw" else inside.transpose(0, 3, 1, 2)


def steps_of(array):
    return tuple(step // array.itemsize for step in array.strides)


def start(kernel, grid, *arguments):
    if grid is not None:
        launch(kernel.function, grid, kernel.threads, *arguments)


def untouched(memory, inside):
    """Nothing was written between the rows of what ``held`` gave."""
    assert np.isnan(memory).sum() == memory.size - inside.size + np.isnan(inside).sum(), "wrote between the rows"
