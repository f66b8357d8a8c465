"""The direct and the depthwise convolution: blocks, edges, strides and threads that the general tests do not reach."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import oracles
import pytest
from cases import in_memory, oracle, problem, whole
from numpy.testing import assert_array_equal

import numbaconv as nc
from numbaconv.lowering import Context
from numbaconv.registry import make_lowering
from numbaconv.request import Epilogue, Request
from numbaconv.workspace import Arena

PADS = {"pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1}
DIRECT = {
    "tiles of two widths, blocks with a rest": {"ic": 5, "oc": 85, "ih": 6, "iw": 33} | PADS,
    "one tile that is all edge": {"ic": 6, "oc": 40, "ih": 7, "iw": 7, "kh": 5, "kw": 5, "pad_top": 2, "pad_left": 2},
    "columns that no tap reaches": {"ih": 3, "iw": 4, "kw": 2, "kh": 1, "pad_left": 9, "pad_right": 20, "dw": 3},
    "groups narrower than a vector": {"ic": 8, "oc": 12, "g": 4, "sh": 2} | PADS,
    "pixels a page apart": {"ic": 1024, "oc": 3, "ih": 2, "iw": 12, "kh": 2, "kw": 1},
}
DEPTHWISE = {
    "rows of several vectors": {"ic": 3, "oc": 3, "g": 3, "ih": 9, "iw": 40} | PADS,
    "short rows": {"ic": 35, "oc": 35, "g": 35, "ih": 7, "iw": 7} | PADS,
    "stride 2": {"ic": 19, "oc": 19, "g": 19, "ih": 16, "iw": 37, "sh": 2, "sw": 2} | PADS,
    "stride 2, even kernel": {"ic": 2, "oc": 2, "g": 2, "kh": 2, "kw": 4, "sh": 2, "sw": 2, "iw": 41, "pad_left": 3},
    "stride 2 with dilation": {"ic": 2, "oc": 2, "g": 2, "sw": 2, "dw": 2, "dh": 2, "ih": 19, "iw": 37} | PADS,
    "stride 3": {"ic": 17, "oc": 17, "g": 17, "sh": 3, "sw": 3, "ih": 26, "iw": 60, "pad_left": 2, "pad_top": 2},
    "large kernel": {"ic": 4, "oc": 4, "g": 4, "kh": 9, "kw": 8, "ih": 12, "iw": 20, "pad_top": 4, "pad_left": 12},
    "several outputs a channel": {"ic": 4, "oc": 12, "g": 4, "ih": 8} | PADS,
}
CASES = [("direct", kind) for kind in DIRECT] + [("depthwise", kind) for kind in DEPTHWISE]


def made(spec, kind, layout="nchw", dtype="float32"):
    sizes = DIRECT[kind] if spec == "direct" else DEPTHWISE[kind]
    return replace(problem(**sizes), layout=layout, dtype=dtype)


def arrays(rng, p):
    shapes = p.input_shape, p.weight_shape, (p.oc,)
    return tuple(whole(rng, *shape, dtype=p.dtype) for shape in shapes)


def run(spec, p, x, prepared, out, bias=None, threads=1, activation=None):
    request = Request(num_threads=threads, epilogue=Epilogue(bias=bias is not None, activation=activation))
    context = Context(p, request, Arena(np.empty(0, np.uint8), 0), 0, bias, None)
    make_lowering(spec).run(context, x, prepared, out)


def framed(shape, layout, dtype):
    """NaNs in memory of a layout, and an array of `shape` among them whose rows do not follow one another."""
    room = np.full([shape[i] + 3 for i in {"nchw": (0, 1, 2, 3), "nhwc": (0, 2, 3, 1)}[layout]], np.nan, dtype)
    axes = room if layout == "nchw" else room.transpose(0, 3, 1, 2)
    return room, axes[tuple(slice(1, 1 + size) for size in shape)]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(("spec", "kind"), CASES)
def test_slices_of_larger_arrays(rng, spec, kind, layout):
    for dtype in ("float32", "float64") if kind in ("short rows", "one tile that is all edge") else ("float32",):
        p = made(spec, kind, layout, dtype)
        image, w, bias = arrays(rng, p)
        wanted = oracle(p, image, w, bias, activation="relu")
        prepared = make_lowering(spec).prepare_weights(p, Request(), w)
        _, x = framed(p.input_shape, layout, dtype)
        x[...] = image
        for memory in (layout, {"nchw": "nhwc", "nhwc": "nchw"}[layout]):
            room, out = framed(p.output_shape, memory, dtype)
            run(spec, p, x, prepared, out, bias, threads=2, activation="relu")
            assert_array_equal(out, wanted, f"{dtype}, to {memory}")
            out[...] = np.nan
            assert np.isnan(room).all()
        scattered = np.full((*p.output_shape, 2), np.nan, dtype)  # neither axis is contiguous
        run(spec, p, x, prepared, scattered[..., 0], bias, activation="relu")
        assert_array_equal(scattered[..., 0], wanted)
        assert np.isnan(scattered[..., 1]).all()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("spec", "kind"), [("direct", "tiles of two widths, blocks with a rest"), ("depthwise", "stride 2")]
)
def test_bands_of_rows_with_the_weights_of_the_whole(rng, spec, kind, layout):
    p = replace(made(spec, kind, layout), mb=2)
    x, w, _ = arrays(rng, p)
    wanted, x = oracle(p, x, w), in_memory(x, layout)
    prepared = make_lowering(spec).prepare_weights(p, Request(), w)
    for rows in (1, 3):
        out = in_memory(np.full(p.output_shape, np.nan, np.float32), layout)
        for row in range(0, p.oh, rows):
            end = min(row + rows, p.oh)
            top, bottom = row * p.sh - p.pad_top, (end - 1) * p.sh - p.pad_top + (p.kh - 1) * p.dh + 1
            low, high = max(top, 0), min(bottom, p.ih)
            band = replace(p, mb=1, ih=high - low, pad_top=low - top, pad_bottom=bottom - high)
            assert band.oh == end - row
            for n in range(p.mb):
                run(spec, band, x[n : n + 1, :, low:high], prepared, out[n : n + 1, :, row:end])
        assert_array_equal(out, wanted)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(("spec", "groups"), [("direct", 1), ("depthwise", 6)])
def test_outputs_cut_off_by_end_pads_below_zero(rng, spec, groups, layout):
    p = problem(ic=6, oc=6, g=groups, ih=12, iw=21, sh=1, sw=2, pad_top=1, pad_left=1)
    x, w, _ = arrays(rng, p)
    cut = replace(p, layout=layout, pad_bottom=-1, pad_right=-1)
    wanted = oracle(p, x, w)[:, :, : cut.oh, : cut.ow]
    assert wanted.shape != p.output_shape
    out = in_memory(np.full(cut.output_shape, np.nan, np.float32), layout)
    run(spec, cut, in_memory(x, layout), make_lowering(spec).prepare_weights(cut, Request(), w), out)
    assert_array_equal(out, wanted)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("spec", "kind"), [("direct", "tiles of two widths, blocks with a rest"), ("depthwise", "short rows")]
)
def test_the_same_bits_for_any_number_of_threads(rng, spec, kind, layout):
    p = replace(made(spec, kind), mb=2)
    x = in_memory(rng.standard_normal(p.input_shape, np.float32), layout)
    w = rng.standard_normal(p.weight_shape, np.float32)
    terms = {"padding": 1, "groups": p.g, "algorithm": spec}
    one, *others = (nc.conv2d(x, w, num_threads=threads, **terms) for threads in (1, 2, 3, 7))
    for other in others:
        assert_array_equal(one, other)
    magnitudes = oracles.conv2d(np.abs(x), np.abs(w), pads=(1, 1, 1, 1), groups=p.g)
    assert (np.abs(one - oracle(p, x, w)) <= 4 * np.finfo(np.float32).eps * p.K**0.5 * magnitudes).all()


def test_weights_too_large_for_l2_are_cut_into_chunks(rng):
    p = replace(made("direct", "pixels a page apart"), kh=2, kw=3, oc=200, ih=2, iw=4, pad_right=1)
    x, w, bias = arrays(rng, p)
    for layout, threads in itertools.product(("nchw", "nhwc"), (1, 3)):
        got = nc.conv2d(
            in_memory(x, layout), w, bias, padding=(0, 0, 0, 1), algorithm="direct", num_threads=threads
        )  # fmt: skip
        assert_array_equal(got, oracle(p, x, w, bias))


@pytest.mark.parametrize("spec", ["direct", "depthwise"])
def test_no_scratch_and_no_products(spec):
    p = problem(ic=4, oc=4, g=4)
    plan = nc.plan(p, algorithm=spec)
    assert (plan.lowering_bytes, plan.panel_bytes, make_lowering(spec).gemm_calls(p, Request())) == (0, 0, [])


def test_depthwise_refuses_groups_of_several_channels():
    with pytest.raises(nc.UnsupportedProblem, match="2 input channels each"):
        nc.plan(problem(ic=6, oc=6, g=3), algorithm="depthwise")


def test_a_nan_stays_in_the_outputs_that_read_it(rng):
    for spec, groups in (("direct", 1), ("depthwise", 3)):
        p = problem(oc=3, g=groups, **PADS)
        x, w, _ = arrays(rng, p)
        x[0, 1, 5, 6] = np.nan
        wanted = oracle(p, x, w, activation="relu")
        for layout in ("nchw", "nhwc"):
            got = nc.conv2d(
                in_memory(x, layout), w, padding=1, groups=groups, algorithm=spec, activation="relu"
            )  # fmt: skip
            assert_array_equal(got, wanted)
