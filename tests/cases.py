"""Convolutions of every kind, and how the tests say them: shared by the tests of convolution."""

from __future__ import annotations

import numpy as np
import oracles

import numbaconv as nc
from numbaconv.registry import lowerings, make_lowering
from numbaconv.request import Request
from numbaconv.select import check

ROUNDING = [cls.name for cls in lowerings() if cls.family in ("winograd", "fft") and cls.name != "winograd-f2"]
"""Lowerings whose transforms have fractions: right within a bound, not equal (test_winograd.py, test_fft.py)."""
SPECS = [cls.name for cls in lowerings() if cls.name not in ROUNDING] + [
    "im2col:batching=whole", "im2col:batching=2", "im2col:batching=block", "im2row:threads=images",
    "mec:batching=whole",
    "implicit-gemm:batching=image,threads=images", "kn2col:batching=whole", "kn2row-as:batching=2,threads=images",
    "cct-type2:lower=kh,batching=whole", "conv1x1:batching=image", "indirect:batching=whole,threads=inner",
]  # fmt: skip
"""Every lowering that is exact on whole numbers, and those of its parameters that change what it does."""


def whole(rng, *shape, dtype=np.float32):
    """Whole numbers so small that every sum of their products is exact, in any order, in float32."""
    return rng.integers(-3, 4, shape).astype(dtype)


def problem(**sizes):
    return nc.ConvProblem(**({"mb": 1, "ic": 3, "ih": 11, "iw": 13, "oc": 5, "kh": 3, "kw": 3} | sizes))


KINDS = {
    "plain": {},
    "primes": {"mb": 3, "ic": 7, "ih": 17, "iw": 19, "oc": 13, "kh": 5, "kw": 3},
    "1x1": {"mb": 2, "ic": 19, "oc": 23, "kh": 1, "kw": 1},
    "1x1, stride 2": {"ic": 8, "kh": 1, "kw": 1, "sh": 2, "sw": 2},
    "1x1, strides 3 and 1": {"ic": 8, "kh": 1, "kw": 1, "sh": 3},
    "1x1 on one pixel": {"mb": 3, "ic": 8, "ih": 1, "iw": 1, "kh": 1, "kw": 1},
    "1x1 with padding": {"ic": 4, "kh": 1, "kw": 1, "pad_top": 1, "pad_left": 2, "pad_bottom": 3},
    "1x1, end pads no output reads": {"ic": 4, "kh": 1, "kw": 1, "pad_bottom": 1, "pad_right": 1, "sh": 4, "sw": 5},
    "1x1 groups": {"mb": 2, "ic": 12, "oc": 9, "g": 3, "kh": 1, "kw": 1},
    "11x11, stride 4": {"ih": 31, "iw": 31, "oc": 9, "kh": 11, "kw": 11, "sh": 4, "sw": 4},
    "stride beyond the kernel": {"kh": 2, "kw": 3, "sh": 5, "sw": 4},
    "stride beyond the input": {"sh": 50, "sw": 60},
    "pads": {"pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1},
    "four pads": {"pad_top": 2, "pad_left": 0, "pad_bottom": 1, "pad_right": 3, "sh": 2},
    "pads beyond the kernel": {"ih": 4, "iw": 5, "pad_top": 4, "pad_left": 7, "pad_bottom": 5, "pad_right": 3},
    "pads larger than the input": {"ih": 1, "iw": 2, "pad_top": 9, "pad_left": 9, "pad_bottom": 9, "pad_right": 9},
    "dilation": {"dh": 2, "dw": 3, "pad_top": 2, "pad_left": 3},
    "dilation, stride, pads": {"dh": 3, "dw": 2, "sh": 2, "sw": 3, "pad_top": 1, "pad_left": 4, "pad_bottom": 3},
    "groups": {"mb": 2, "ic": 6, "oc": 9, "g": 3},
    "groups, strides, pads": {"ic": 4, "oc": 6, "g": 2, "sh": 2, "pad_top": 1, "pad_right": 2},
    "depthwise": {"mb": 2, "ic": 7, "oc": 7, "g": 7, "pad_top": 1, "pad_left": 1},
    "depthwise, two outputs a channel": {"ic": 5, "oc": 10, "g": 5, "sw": 2},
    "kernel as large as the input": {"kh": 11, "kw": 13},
    "one row": {"ih": 1, "iw": 40, "kh": 1, "kw": 7, "pad_left": 3},
    "one column": {"ih": 40, "iw": 1, "kh": 7, "kw": 1, "pad_top": 3, "mb": 2},
    "one channel in": {"ic": 1, "mb": 2},
    "one channel out": {"oc": 1, "mb": 2},
    "one channel in and out": {"ic": 1, "oc": 1},
    "even kernel": {"kh": 4, "kw": 2, "pad_top": 1, "pad_left": 1},
    "no images": {"mb": 0, "pad_top": 1},
    "deep": {"ic": 160, "ih": 7, "iw": 7, "oc": 40, "pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1},
    "patches": {"mb": 2, "ic": 6, "g": 2, "oc": 4, "kh": 3, "kw": 2, "sh": 3, "sw": 2},
    "patches of sixteen columns": {"mb": 2, "ic": 5, "ih": 9, "iw": 50, "kh": 4, "kw": 16, "sh": 4, "sw": 16},
    "bands of padding": {"ih": 2, "iw": 6, "pad_top": 7, "pad_bottom": 8, "mb": 2},
    "many pixels": {"ic": 2, "ih": 61, "iw": 67, "oc": 4, "mb": 2},
}  # fmt: skip


def oracle(p, x, w, bias=None, residual=None, activation=None):
    pads = p.pad_top, p.pad_left, p.pad_bottom, p.pad_right
    return oracles.conv2d(x, w, bias, (p.sh, p.sw), pads, (p.dh, p.dw), p.g, residual, activation)


def arguments(p):
    """A problem as the keyword arguments of conv2d."""
    pads = p.pad_top, p.pad_left, p.pad_bottom, p.pad_right
    return {"stride": (p.sh, p.sw), "padding": pads, "dilation": (p.dh, p.dw), "groups": p.g}


def runs(spec, p):
    return bool(check(make_lowering(spec), p, Request()))


def pairs(problems):
    """(spec, problem) for every problem and lowering that runs it."""
    return [(spec, p) for p in problems for spec in SPECS if runs(spec, p)]


def in_memory(x, layout):
    """The same (n, c, h, w) axes over memory in that order."""
    return (
        np.ascontiguousarray(x)
        if layout == "nchw"
        else np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    )
