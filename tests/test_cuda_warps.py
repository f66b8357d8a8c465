"""What the lanes of a warp do together, emulated: shuffles, ``syncwarp``, and what the emulator must catch."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets: pip install greenlet")

from numbaconv.devices.emulator import EmulationError, launch
from numbaconv.devices.intrinsics import cuda, float32, int32, shfl_down, shfl_xor, syncwarp


def shows(error, kernel, *arguments, block=32, **options):
    with pytest.raises(EmulationError, match=error):
        launch(kernel, (1,), block, *arguments, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_shuffles(dtype):
    def kernel(a, down, across, by):
        me = int32(cuda.threadIdx.x)
        down[me] = shfl_down(a[me], by)
        across[me] = shfl_xor(a[me], by)

    a = np.arange(64, dtype=dtype)
    for by in 0, 1, 5, 16, 31:
        down, across = np.zeros_like(a), np.zeros_like(a)
        launch(kernel, (1,), 64, a, down, across, by, seed=by)
        np.testing.assert_array_equal(down, [i + by if i % 32 + by < 32 else i for i in range(64)])
        np.testing.assert_array_equal(across, [i ^ by for i in range(64)])
        assert down.dtype == dtype
    shows("not between 0 and 31", kernel, a, down, across, 32)


def test_warps_that_add_up_in_their_own_time():
    def kernel(a, out):
        me = int32(cuda.threadIdx.x)
        value = a[me]
        for _ in range(1 + int32(me >> 5)):  # more rounds in each further warp
            for by in (16, 8, 4, 2, 1):
                value = value + shfl_xor(value, by)
        cuda.syncthreads()
        out[me] = value

    a, out = np.arange(96, dtype="f4"), np.zeros(96, "f4")
    launch(kernel, (1,), 96, a, out)
    sums = a.reshape(3, 32).sum(1)
    np.testing.assert_array_equal(out.reshape(3, 32)[:, 7], [sums[0], sums[1] * 32, sums[2] * 1024])


def test_syncwarp_orders_a_warp_and_nothing_else():
    def kernel(out, together, partner, again):
        shared = cuda.shared.array(64, float32)
        me = int32(cuda.threadIdx.x)
        shared[me] = float32(me)
        if together:
            syncwarp()
        value = shared[me ^ partner]
        if again:
            syncwarp()
        shared[me] = value
        out[me] = value

    out = np.zeros(64, "f4")
    for seed in range(3):
        launch(kernel, (1,), 64, out, 1, 3, 1, seed=seed)
        np.testing.assert_array_equal(out, np.arange(64) ^ 3)
        launch(kernel, (1,), 64, out, 0, 0, 0, seed=seed)  # each its own: nothing to order
        shows("race", kernel, out, 0, 3, 1, block=64, seed=seed)
        shows("race", kernel, out, 1, 3, 0, block=64, seed=seed)
        shows("race", kernel, out, 1, 32, 1, block=64, seed=seed)  # between warps


def test_what_several_lanes_read_is_written_after_syncwarp_by_their_own_warp_only():
    def kernel(out, readers, writer):
        shared = cuda.shared.array(1, float32)
        me = int32(cuda.threadIdx.x)
        if me == 0:
            shared[0] = float32(5)
        cuda.syncthreads()
        if me < readers:
            out[me] = shared[0]
        syncwarp()
        if me == writer:
            shared[0] = float32(6)

    out = np.zeros(64, "f4")
    for seed in range(3):
        launch(kernel, (1,), 64, out, 32, 9, seed=seed)
        for readers, writer in (1, 40), (32, 40), (33, 9), (64, 9):  # whoever comes first
            shows("race", kernel, out, readers, writer, block=64, seed=seed)


def test_a_shuffle_orders_nothing():
    def kernel(out, writer):
        shared = cuda.shared.array(1, float32)
        me = int32(cuda.threadIdx.x)
        if me == 0:
            shared[0] = float32(5)
        cuda.syncthreads()
        value = shfl_xor(shared[0], 1)
        if me == writer:
            shared[0] = value

    for writer in range(32):  # one of them is the last to read
        shows("race", kernel, np.zeros(1, "f4"), writer)


def line_of(function, text):
    """``line N of name``, of the line of `function` that has `text`."""
    lines, first = inspect.getsourcelines(function)
    return f"line {first + next(n for n, line in enumerate(lines) if text in line)} of {function.__name__}"


def test_a_lane_that_is_not_there_is_an_error_that_names_both_places():
    def left(out):
        if cuda.threadIdx.x == 9:
            return
        syncwarp()

    def barred(out):
        if cuda.threadIdx.x == 9:
            cuda.syncthreads()
        shfl_down(out[0], 1)

    def elsewhere(out):
        if cuda.threadIdx.x < 9:
            shfl_down(out[0], 1)
        else:
            shfl_xor(out[0], 1)

    def twice(out):
        if cuda.threadIdx.x < 9:
            syncwarp()  # here
        else:
            syncwarp()  # there

    def aline(out):
        shfl_down(out[0], 1) if cuda.threadIdx.x < 9 else shfl_xor(out[0], 1)

    out = np.zeros(1, "f4")
    for kernel, words, here, there in [
        (aline, "shfl_xor", "shfl_down", "shfl_down"),
        (left, "syncwarp", "syncwarp", None),
        (barred, "a barrier", "shfl_down", "syncthreads"),
        (elsewhere, "shfl_xor", "shfl_down", "shfl_xor"),
        (twice, "syncwarp", "# here", "# there"),
    ]:
        with pytest.raises(EmulationError, match="not all lanes of a warp reach") as error:
            launch(kernel, (1,), 64, out)
        said = str(error.value)
        assert line_of(kernel, here) in said
        assert "has left" in said if there is None else line_of(kernel, there) in said
        assert words in said
    shows("in a warp of 31 lanes", twice, out, block=31)
