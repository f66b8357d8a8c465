"""Patches of an image as an operand of a CUDA product: they exist only in shared memory.

    image in global memory ── each thread copies the elements that its part of a tile needs ──► tile (bk x width)

Rows of the operand are the terms of a sum, a tap's channels side by side; columns are output pixels. A tile's rows lie
in one tap where the channels of a tap are padded to whole tiles (``deep``): then a thread looks once a tile whether its
pixel's tap lies in the image. A few channels would make too much padding: each element is then looked up by itself
(``shallow``). ``followed``: a table says where each tap of each pixel lies.
"""

from __future__ import annotations

import functools
from collections import namedtuple

from numbaconv.devices.intrinsics import int32, udiv32
from numbaconv.gemm.cuda_loaders import Kind, Runs, gathered
from numbaconv.gemm.cuda_plan import Operand
from numbaconv.gemm.cuda_tile import DEPTH
from numbaconv.geometry import Window, column_of, pixel_of, row_of, tap_of, window_of
from numbaconv.jit_cuda import Function

MOST_PADDING = 4  # a quarter of the channels
NOWHERE = -(1 << 30)


Patches = namedtuple("Patches", (*Window._fields, "padded", "step_k", "batch", "rows"))
"""A ``Window``'s fields; channels of a tap, padding included; a channel's step and a group's; rows of an image."""


def padded_channels(channels: int, taps: int) -> int:
    """The channels of a tap in the weights' rows: padded to whole tiles, unless that is too much."""
    padded = -(-channels // DEPTH) * DEPTH
    return padded if taps == 1 or (padded - channels) * MOST_PADDING <= channels else channels


def _pixel(state, at, g, j, batch):
    """Keep where pixel j's patch begins: its element, row and column in the image."""
    if j >= 0:
        n, y, z = pixel_of(j, g)
        top, left = int32(row_of(y, 0, g)), int32(column_of(z, 0, g))
        state[at] = int32(batch * g.batch + n * g.x_n + top * g.x_h + left * g.x_w)
        state[at + 1], state[at + 2] = top, left
    else:
        state[at], state[at + 1], state[at + 2] = int32(0), int32(NOWHERE), int32(0)


@functools.cache
def _deep(bk: int) -> Runs:
    def along(state, g, k):
        tap = int32(udiv32(k, g.padded))
        r = int32(udiv32(tap, g.kw))
        state[3], state[4] = int32(k - tap * g.padded), int32(r * g.dh)
        state[5] = int32((tap - r * g.kw) * g.dw)

    def step(state, g):
        state[3] = int32(state[3] + bk)
        if state[3] >= g.padded:
            state[3] = int32(0)
            state[5] = int32(state[5] + g.dw)
            if state[5] == g.kw * g.dw:
                state[5] = int32(0)
                state[4] = int32(state[4] + g.dh)

    def place(state, at, g, table, row, left):
        down, right, c = state[4], state[5], int32(state[3] + row)
        y, z = int32(state[at + 1] + down), int32(state[at + 2] + right)
        inside = y >= 0 and y < g.ih and z >= 0 and z < g.iw
        rows = int32(g.ic - c)
        rows = rows if rows < left else left
        return int32(state[at] + down * g.x_h + right * g.x_w + c * g.x_c), rows if inside else int32(0)

    return Runs("deep", Patches, 3, 3, Function(along), Function(step), Function(_pixel), Function(place))


@functools.cache
def _shallow(bk: int) -> Runs:
    def along(state, g, k):
        state[3] = k

    def step(state, g):
        state[3] = int32(state[3] + bk)

    def place(state, at, g, table, row, left):
        r, s, c = tap_of(int32(state[3] + row), g)
        down, right = int32(r * g.dh), int32(s * g.dw)
        y, z = int32(state[at + 1] + down), int32(state[at + 2] + right)
        inside = y >= 0 and y < g.ih and z >= 0 and z < g.iw
        return int32(state[at] + down * g.x_h + right * g.x_w + c * g.x_c), left if inside else int32(0)

    return Runs("shallow", Patches, 1, 3, Function(along), Function(step), Function(_pixel), Function(place), True)


@functools.cache
def _followed(bk: int) -> Runs:
    def along(state, g, k):
        tap = int32(udiv32(k, g.padded))
        state[3], state[4] = int32(k - tap * g.padded), tap

    def step(state, g):
        state[3] = int32(state[3] + bk)
        if state[3] >= g.padded:
            state[3] = int32(0)
            state[4] = int32(state[4] + 1)

    def column(state, at, g, j, batch):
        if j >= 0:
            image = int32(g.oh * g.ow)
            n = int32(udiv32(j, image))
            state[at] = int32(batch * g.batch + n * g.x_n)
            state[at + 1] = int32((j - n * image) * g.kh * g.kw)
        else:
            state[at], state[at + 1] = int32(0), int32(-1)

    def place(state, at, g, table, row, left):
        c = int32(state[3] + row)
        rows = int32(g.ic - c)
        rows = rows if rows < left else left
        offset = int32(-1)
        if state[at + 1] >= 0 and rows > 0:
            offset = table[int32(state[at + 1] + state[4])]
        return int32(state[at] + offset + c * g.x_c), rows if offset >= 0 else int32(0)

    return Runs("followed", Patches, 2, 2, Function(along), Function(step), Function(column), Function(place))


@functools.cache
def _kind(runs, along_k: bool) -> Kind:
    return Kind(runs.__name__.strip("_") + ("k" if along_k else ""), gathered(runs, along_k), along_k)


def patches(problem, x, table=None, padded: int | None = None, batch: int | None = None, **changes: int) -> Operand:
    """The patches of an input (mb, ic, ih, iw), all groups, as an operand: K x pixels.

    Parameters
    ----------
    problem : ConvProblem
    x : DeviceArray
    table : DeviceArray of int32, optional
        Where each tap of each pixel of an image lies (``_cuda_patches.offset_writer``).
    padded : int, optional
        Rows of the weights a tap: as ``padded_channels`` says, unless given.
    batch : int, optional
        Elements from one product's input to the next's: a group's, unless given.
    changes
        Sizes that differ from the problem's.
    """
    channels = changes.pop("ic", problem.icg)
    window = window_of(problem, x, ic=channels, **changes)
    batch = problem.icg * window.x_c if batch is None else batch
    padded = padded or padded_channels(channels, window.kh * window.kw)
    runs = _followed if table is not None else _shallow if padded % DEPTH else _deep
    along_k = window.x_c == 1 and window.x_w != 1
    return Operand(_kind(runs, along_k), Patches(*window, padded, window.x_c, batch, window.oh), x, table)
