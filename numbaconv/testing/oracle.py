"""What the answers are: plain loops over channels and taps in NumPy, sharing no code with any lowering.

Also what the answers would be under common mistakes, so that a failure can be given its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["convolve", "finish", "forgotten_terms", "mistakes", "sizes_of"]

LIMITS = {None: (-np.inf, np.inf), "relu": (0.0, np.inf), "relu6": (0.0, 6.0)}


def sizes_of(problem) -> dict[str, Any]:
    """A problem as keyword arguments of ``convolve``."""
    return {
        "size": (problem.oh, problem.ow),
        "stride": (problem.sh, problem.sw),
        "pads": (problem.pad_top, problem.pad_left),
        "dilation": (problem.dh, problem.dw),
        "groups": problem.g,
    }


def convolve(x, w, size, stride, pads, dilation, groups, dtype=np.float64) -> np.ndarray:
    """The (mb, oc, *size) convolution, one tap of one channel after the other; zeros lie around the input.

    Products are taken and added in float64, and every sum is rounded to `dtype`: float32 gives one running sum of
    fused multiply-adds, the yardstick of accuracy.
    """
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    mb, ic, ih, iw = x.shape
    oc, icg, kh, kw = w.shape
    ocg = oc // groups
    out = np.zeros((mb, oc, *size), dtype)
    for c in range(ic):
        of_group = slice(c // icg * ocg, (c // icg + 1) * ocg)
        for r in range(kh):
            for s in range(kw):
                rows = np.arange(size[0]) * stride[0] + r * dilation[0] - pads[0]
                columns = np.arange(size[1]) * stride[1] + s * dilation[1] - pads[1]
                y, z = np.flatnonzero((rows >= 0) & (rows < ih)), np.flatnonzero((columns >= 0) & (columns < iw))
                seen = np.zeros((mb, 1, *size))
                seen[:, 0, y[:, None], z] = x[:, c, rows[y][:, None], columns[z]]
                out[:, of_group] = out[:, of_group] + w[of_group, c % icg, r, s][:, None, None] * seen
    return out


def finish(product, bias=None, residual=None, activation=None) -> np.ndarray:
    """activation(product + bias + residual)."""
    total = np.array(product, np.float64)
    if bias is not None:
        total += np.asarray(bias, np.float64)[:, None, None]
    if residual is not None:
        total += np.asarray(residual, np.float64)
    low, high = LIMITS[activation]
    return np.minimum(np.maximum(total, low), high)


def mistakes(problem, x, w) -> Iterator[tuple[str, np.ndarray]]:
    """What common mistakes compute, by name."""
    right = sizes_of(problem)
    (sh, sw), (top, left), (dh, dw) = right["stride"], right["pads"], right["dilation"]
    changed: list[tuple[str, dict[str, Any]]] = [
        ("the dilation is forgotten", {"dilation": (1, 1)}),
        ("the dilations dh and dw are swapped", {"dilation": (dw, dh)}),
        ("the strides sh and sw are swapped", {"stride": (sw, sh)}),
        ("the stride is forgotten", {"stride": (1, 1)}),
        ("sh is used for both strides", {"stride": (sh, sh)}),
        ("sw is used for both strides", {"stride": (sw, sw)}),
        ("the padding is forgotten", {"pads": (0, 0)}),
        ("the top and left pads are swapped", {"pads": (left, top)}),
        ("the bottom and right pads are used at the top and left", {"pads": (problem.pad_bottom, problem.pad_right)}),
    ]
    for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1)):
        changed.append((f"the pads are off by one (top {top + dy}, left {left + dx})", {"pads": (top + dy, left + dx)}))
    for words, change in changed:
        if any(right[name] != value for name, value in change.items()):
            yield words, convolve(x, w, **{**right, **change})
    if problem.g > 1:
        first = x[:, : problem.icg]
        yield (
            "the groups are ignored (all read the first group's channels)",
            convolve(first, w, **right | {"groups": 1}),
        )
        by_group = w.reshape(problem.g, -1, *w.shape[1:])
        yield (
            "every group uses the first group's kernels",
            convolve(x, np.tile(by_group[0], (problem.g, 1, 1, 1)), **right),
        )
    yield "the kernel is flipped", convolve(x, w[:, :, ::-1, ::-1], **right)
    if w.shape[2] == w.shape[3]:
        yield "the kernel's rows and columns are swapped", convolve(x, w.swapaxes(2, 3), **right)


def forgotten_terms(product, bias, residual, activation) -> Iterator[tuple[str, np.ndarray]]:
    """What comes of leaving out a part of the epilogue, by name."""
    if bias is not None:
        yield "the bias is not added", finish(product, None, residual, activation)
        yield "the bias is added twice", finish(finish(product, bias), bias, residual, activation)
    if residual is not None:
        yield "the residual is not added", finish(product, bias, None, activation)
        yield "the residual is added twice", finish(finish(product, None, residual), bias, residual, activation)
    if activation is not None:
        yield "the activation is left out", finish(product, bias, residual)
        if bias is not None or residual is not None:
            early = finish(finish(product, None, None, activation), bias, residual)
            yield "the activation comes before bias and residual", early
    yield "the epilogue is left out", finish(product)
