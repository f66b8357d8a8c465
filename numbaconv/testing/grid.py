"""The problems that the conformance suite poses."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from numbaconv.problem import ConvProblem

__all__ = ["grid", "large", "random_problem", "refusable", "sketch", "sketch_large"]

PADS = ("pad_top", "pad_left", "pad_bottom", "pad_right")


def _pads(*values: int) -> dict[str, int]:
    return dict(zip(PADS, values if len(values) == 4 else values * 4, strict=True))


KINDS: dict[str, dict] = {
    "3x3": {},
    "1x1": {"mb": 3, "ic": 19, "oc": 23, "kh": 1, "kw": 1},
    "1x1, stride 2": {"ic": 8, "kh": 1, "kw": 1, "sh": 2, "sw": 2},
    "first layer, 11x11, stride 4": {"ih": 31, "iw": 35, "oc": 9, "kh": 11, "kw": 11, "sh": 4, "sw": 4},
    "5x5, padded": {"ic": 4, "kh": 5, "kw": 5, **_pads(2)},
    "3x3, padded, several images": {"mb": 3, "ic": 6, **_pads(1)},
    "3x3, padded, stride 2": {"ic": 6, "sh": 2, "sw": 2, **_pads(1)},
    "four different pads": _pads(2, 0, 1, 3),
    "pads beyond the kernel": {"mb": 3, "ih": 4, "iw": 5, **_pads(4, 7, 5, 3)},
    "different strides": {"sh": 1, "sw": 3, **_pads(1)},
    "stride beyond the kernel": {"kh": 2, "kw": 3, "sh": 5, "sw": 4},
    "rows and columns that no output reads": {"ih": 12, "iw": 14, "sh": 4, "sw": 5},
    "dilated": {"dh": 2, "dw": 3, **_pads(2, 3, 2, 3)},
    "dilated, strided, padded": {"mb": 3, "dh": 3, "dw": 2, "sh": 2, "sw": 3, **_pads(1, 4, 3, 0)},
    "grouped": {"mb": 3, "ic": 6, "oc": 9, "g": 3, **_pads(1)},
    "grouped 1x1": {"ic": 12, "oc": 8, "g": 4, "kh": 1, "kw": 1},
    "depthwise": {"mb": 3, "ic": 7, "oc": 7, "g": 7, **_pads(1)},
    "depthwise, two outputs a channel, strided": {"ic": 5, "oc": 10, "g": 5, "sh": 2, "sw": 2},
    "prime sizes": {"mb": 3, "ic": 7, "ih": 17, "iw": 19, "oc": 13, "kh": 5, "kw": 3},
    "even kernel": {"kh": 4, "kw": 2, **_pads(1, 1, 2, 0)},
    "kernel as large as the input": {"kh": 11, "kw": 13},
    "one channel in and out": {"ic": 1, "oc": 1, **_pads(1)},
    "one row": {"ih": 1, "iw": 40, "kh": 1, "kw": 7, **_pads(0, 3, 0, 3)},
    "one pixel": {"mb": 3, "ic": 8, "ih": 1, "iw": 1, "kh": 1, "kw": 1},
    "no images": {"mb": 0, **_pads(1)},
}  # fmt: skip
MORE: dict[str, dict] = {
    "one column": {"mb": 3, "ih": 40, "iw": 1, "kh": 7, "kw": 1, **_pads(3, 0, 3, 0)},
    "1x1 with padding": {"ic": 4, "kh": 1, "kw": 1, **_pads(1, 2, 3, 0)},
    "1x1, stride 2, several images": {"mb": 3, "ic": 8, "ih": 13, "iw": 11, "kh": 1, "kw": 1, "sh": 2, "sw": 2},
    "stride beyond the input": {"sh": 50, "sw": 60},
    "the input's end is cut off": {"ic": 4, **_pads(1, 1, -2, -3)},
    "mostly padding": {"ih": 1, "iw": 2, **_pads(9)},
    "11x11, padded, stride 4": {"mb": 3, "ih": 27, "iw": 29, "kh": 11, "kw": 11, "sh": 4, "sw": 4, **_pads(5)},
    "7x7, stride 2": {"ih": 29, "iw": 31, "oc": 16, "kh": 7, "kw": 7, "sh": 2, "sw": 2, **_pads(3)},
    "many channels": {"ic": 160, "ih": 7, "iw": 7, "oc": 40, **_pads(1)},
    "many pixels": {"mb": 3, "ic": 2, "ih": 61, "iw": 67, "oc": 4},
    "grouped, dilated, strided": {"ic": 8, "oc": 12, "g": 4, "dh": 2, "sh": 2, **_pads(2, 1, 0, 3)},
    "depthwise 5x5": {"mb": 3, "ic": 16, "oc": 16, "g": 16, "kh": 5, "kw": 5, **_pads(2)},
}  # fmt: skip
LARGE: dict[str, dict] = {
    "3x3, large": {"mb": 2, "ic": 32, "ih": 20, "iw": 20, "oc": 40, **_pads(1)},
    "1x1, large": {"ic": 64, "ih": 28, "iw": 28, "oc": 48, "kh": 1, "kw": 1},
    "11x11, stride 4, large": {"ih": 67, "iw": 67, "oc": 32, "kh": 11, "kw": 11, "sh": 4, "sw": 4},
    "5x5, large": {"ic": 24, "ih": 14, "iw": 14, "oc": 24, "kh": 5, "kw": 5, **_pads(2)},
    "many channels, large": {"ic": 200, "ih": 9, "iw": 9, "oc": 36},
    "grouped, large": {"ic": 32, "ih": 24, "iw": 24, "oc": 32, "g": 4, **_pads(1)},
    "depthwise, large": {"ic": 48, "ih": 40, "iw": 40, "oc": 48, "g": 48, **_pads(1)},
}  # fmt: skip
"""Large enough for several threads, for sums whose order matters, and for memory to be worth limiting."""

SKETCH: dict[str, dict] = {
    "1x1": {"mb": 2, "ic": 7, "oc": 6},
    "first layer, 11x11, stride 4": {"ic": 2, "ih": 15, "iw": 19},
    "5x5, padded": {"ic": 3},
    "3x3, padded, several images": {"ic": 5},
    "3x3, padded, stride 2": {"ic": 5},
    "pads beyond the kernel": {"mb": 2, "ih": 2, "iw": 3, "kh": 2, **_pads(3, 4, 2, 3)},
    "stride beyond the kernel": {"mb": 2},
    "rows and columns that no output reads": {"ih": 8, "iw": 9},
    "dilated, strided, padded": {"mb": 2},
    "grouped": {"mb": 2, "ic": 4, "oc": 6, "g": 2},
    "grouped 1x1": {"ic": 6, "oc": 4, "g": 2},
    "depthwise": {"mb": 2, "ic": 3, "oc": 3, "g": 3},
    "depthwise, two outputs a channel, strided": {"ic": 2, "oc": 4, "g": 2},
    "prime sizes": {"mb": 2, "ih": 11, "iw": 7},
    "kernel as large as the input": {"ih": 5, "iw": 4, "kh": 5, "kw": 4},
    "one row": {"iw": 20},
    "one pixel": {"mb": 2},
}  # fmt: skip
"""How the kinds are made smaller where every access takes a microsecond."""
SKETCH_MORE: dict[str, dict] = {
    "a deep sum": {"ic": 36, "ih": 4, "iw": 5, "oc": 6, **_pads(1, 0, 0, 1)},
    "a deep sum, 1x1": {"ic": 330, "ih": 4, "iw": 3, "kh": 1, "kw": 1},
    "channels that fill no tile": {"ic": 21, "ih": 4, "iw": 3, "oc": 67, "kh": 2, "kw": 2},
}  # fmt: skip
"""For a GPU's tiles: sums that are split among blocks, and a tile of channels that is followed by another."""
SKETCH_LARGE: dict[str, dict] = {
    "2x3, of several parts": {"mb": 2, "ic": 4, "ih": 3, "iw": 5, "oc": 4, "kh": 2, **_pads(1)},
    "1x1, of several parts": {"mb": 2, "ic": 300, "ih": 3, "iw": 4, "oc": 4, "kh": 1, "kw": 1},
    "depthwise, of several parts": {"mb": 2, "ic": 2, "ih": 5, "iw": 5, "oc": 2, "g": 2, "kh": 2},
}  # fmt: skip


def _problem(sizes: dict, **more) -> ConvProblem:
    return ConvProblem(**({"mb": 1, "ic": 3, "ih": 11, "iw": 13, "oc": 5, "kh": 3, "kw": 3} | sizes | more))


def random_problem(draw: Callable[[int, int], int]) -> ConvProblem:
    """Any convolution that takes a millisecond; `draw` gives an integer from the first to the last, both included."""
    g = max(1, draw(-1, 3))
    sizes: dict[str, Any] = {name: draw(1, 5) for name in ("kh", "kw", "sh", "sw")}
    sizes |= {"dh": draw(1, 3), "dw": draw(1, 3), "g": g, "mb": draw(0, 3)}
    sizes |= {"ic": g * draw(1, 8), "oc": g * draw(1, 11)} | {pad: draw(0, 5) for pad in PADS}
    for size, kernel, dilation, before, after in (
        ("ih", "kh", "dh", "pad_top", "pad_bottom"), ("iw", "kw", "dw", "pad_left", "pad_right")
    ):  # fmt: skip
        least = (sizes[kernel] - 1) * sizes[dilation] + 1 - sizes[before] - sizes[after]
        sizes[size] = max(1, least) + draw(0, 11)
    return ConvProblem(**sizes, layout=("nchw", "nhwc")[draw(0, 1)], dtype=("float32", "float64")[draw(0, 1)])


def grid(quick: bool, seed: int) -> Iterator[tuple[str, ConvProblem]]:
    """(what is special, problem), the plain ones first; a quick one takes every third in float64 instead of all."""
    for number, (label, sizes) in enumerate((KINDS if quick else KINDS | MORE).items()):
        for layout, dtype in itertools.product(("nchw", "nhwc"), ("float32", "float64")):
            if not quick or dtype == "float32" or number % 3 == 0:
                yield label, _problem(sizes, layout=layout, dtype=dtype)
    rng = np.random.default_rng(seed)
    for number in range(0 if quick else 100):
        yield f"random {number}", random_problem(lambda low, high: int(rng.integers(low, high + 1)))


def sketch(full: bool = False) -> Iterator[tuple[str, ConvProblem]]:
    """The grid for an emulated device: all kinds, smaller, each in one layout and element type in turn.

    Kinds that only some lowerings run, of one tap or one channel a group, come in more of them; `full`: all in all.
    """
    ways = list(itertools.product(("nchw", "nhwc"), ("float32", "float64")))
    for number, (label, sizes) in enumerate((KINDS | SKETCH_MORE).items()):
        taken = {"ih": 7, "iw": 6} | sizes | SKETCH.get(label, {})
        opposite = 3 - number % 4  # the other layout and the other element type
        chosen = {number % 4, opposite} if taken.get("g", 1) == taken.get("ic", 3) else {number % 4}
        if full or (taken.get("kh", 3) == taken.get("kw", 3) == 1 and taken.get("ic", 3) < 100):
            chosen = set(range(4))
        for layout, dtype in (ways[way] for way in sorted(chosen)):
            yield label, _problem(taken, layout=layout, dtype=dtype)


def sketch_large() -> Iterator[tuple[str, ConvProblem]]:
    """In place of ``large`` for an emulated device: limits of memory and accuracy, not size."""
    for number, (label, sizes) in enumerate(SKETCH_LARGE.items()):
        yield label, _problem(sizes, layout=("nchw", "nhwc")[number % 2])


def large(quick: bool) -> Iterator[tuple[str, ConvProblem]]:
    """(what is special, problem) for threads, accuracy and limits of memory; a quick one alternates the layouts."""
    for number, (label, sizes) in enumerate(LARGE.items()):
        for turn, layout in enumerate(("nchw", "nhwc")):
            if not quick or number == 0 or number % 2 == turn:
                yield label, _problem(sizes, layout=layout)


def refusable() -> Iterator[tuple[str, ConvProblem]]:
    """Problems that are only asked about, not run."""
    base = _problem({})
    for label, change in (
        ("backward data", {"direction": "backward-data"}), ("backward weights", {"direction": "backward-weights"}),
        ("a depth axis", {"id": 4, "kd": 2}), ("a very large image", {"ih": 1 << 15, "iw": 1 << 15}),
        ("a kernel larger than the input", {"ih": 2, "iw": 2, "kh": 7, "kw": 7, **_pads(5)}),
        ("very many channels", {"ic": 1 << 14, "oc": 1 << 14}), ("no images", {"mb": 0}),
    ):  # fmt: skip
        yield label, dataclasses.replace(base, **change)
