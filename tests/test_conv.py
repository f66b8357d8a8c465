"""Every lowering on every kind of convolution: equal to the oracle, whatever the arrays."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import oracles
import pytest
from cases import KINDS, SPECS, arguments, in_memory, oracle, pairs, problem, runs, whole
from numpy.testing import assert_array_equal

import numbaconv as nc

# ------------------------------------------------------------------------------------------------------ every problem


@pytest.mark.parametrize("kind", KINDS)
def test_every_lowering_on_every_kind_of_problem(rng, kind):
    ran = set()
    for dtype in ("float32", "float64"):
        p = problem(**KINDS[kind], dtype=dtype)
        x, w, bias = (whole(rng, *shape, dtype=dtype) for shape in (p.input_shape, p.weight_shape, (p.oc,)))
        residual = whole(rng, *p.output_shape, dtype=dtype)
        plain, finished = oracle(p, x, w), oracle(p, x, w, bias, residual, "relu6")
        for spec, layout in itertools.product(SPECS, ("nchw", "nhwc")):
            if not runs(spec, dataclasses.replace(p, layout=layout)):
                continue
            ran.add(spec)
            image, extra = in_memory(x, layout), in_memory(residual, layout)
            got = nc.conv2d(image, w, **arguments(p), algorithm=spec)
            assert got.dtype == dtype
            assert got.shape == p.output_shape
            assert_array_equal(got, plain, f"{spec} {layout} {dtype}")
            got = nc.conv2d(
                image, w, bias, **arguments(p), algorithm=spec, residual=extra, activation="relu6", num_threads=2
            )
            assert_array_equal(got, finished, f"{spec} {layout} {dtype}, epilogue")
    assert {"reference", "im2col"} <= ran
    assert ("conv1x1" in ran) == (kind.startswith("1x1") and "pad" not in kind)
    assert ("patchify" in ran) == kind.startswith(("patches", "1x1 on one pixel", "1x1 groups")) or kind == "1x1"


def random_problem(rng):
    g = int(rng.choice([1, 1, 1, 2, 3]))
    kh, kw, dh, dw = (int(v) for v in rng.integers(1, [6, 6, 4, 4]))
    p = {
        "mb": int(rng.integers(0, 4)), "ic": g * int(rng.integers(1, 9)), "oc": g * int(rng.integers(1, 12)), "g": g,
        "kh": kh, "kw": kw, "dh": dh, "dw": dw, "sh": int(rng.integers(1, 5)), "sw": int(rng.integers(1, 5)),
    }  # fmt: skip
    pads = dict(zip(("pad_top", "pad_left", "pad_bottom", "pad_right"), map(int, rng.integers(0, 6, 4)), strict=True))
    least_h = (kh - 1) * dh + 1 - pads["pad_top"] - pads["pad_bottom"]
    least_w = (kw - 1) * dw + 1 - pads["pad_left"] - pads["pad_right"]
    p["ih"], p["iw"] = max(1, least_h) + int(rng.integers(0, 12)), max(1, least_w) + int(rng.integers(0, 12))
    return nc.ConvProblem(**p, **pads, dtype=str(rng.choice(["float32", "float64"])))


def test_random_problems(rng):
    for _ in range(150):
        p = random_problem(rng)
        x, w, bias = (whole(rng, *shape, dtype=p.dtype) for shape in (p.input_shape, p.weight_shape, (p.oc,)))
        wanted = oracle(p, x, w, bias, activation="relu")
        layout, threads = rng.choice(["nchw", "nhwc"]), int(rng.integers(1, 4))
        for spec in SPECS:
            if runs(spec, dataclasses.replace(p, layout=layout)):
                got = nc.conv2d(
                    in_memory(x, layout),
                    w,
                    bias,
                    **arguments(p),
                    algorithm=spec,
                    activation="relu",
                    num_threads=threads,
                )
                assert_array_equal(got, wanted, f"{spec}, {p}, {layout}")


@pytest.mark.parametrize("text", ["mb2ic6ih150oc70oh150kh3ph1", "mb1ic4ih200oc60oh100kh5sh2ph2_nhwc"])
@pytest.mark.parametrize("spec", ["kn2row-aa", "kn2col-aa"])
def test_large_outputs_are_made_strip_by_strip(rng, spec, text):
    p = nc.ConvProblem.parse(text)
    assert p.output_bytes > p.mb * (2 << 20)
    x, w, bias = whole(rng, *p.input_shape), whole(rng, *p.weight_shape), whole(rng, p.oc)
    residual = in_memory(whole(rng, *p.output_shape), p.layout)
    padded = np.pad(x.astype("f8"), ((0, 0), (0, 0), (p.pad_top, p.pad_bottom), (p.pad_left, p.pad_right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (p.kh, p.kw), axis=(2, 3))[:, :, :: p.sh, :: p.sw]
    wanted = np.maximum(np.einsum("ncyzrs,kcrs->nkyz", windows, w) + bias[:, None, None] + residual, 0)
    terms = {**arguments(p), "algorithm": spec, "activation": "relu", "residual": residual}
    for limit in (None, 100_000):
        got = nc.conv2d(in_memory(x, p.layout), w, bias, **terms, num_threads=2, max_workspace=limit)
        assert_array_equal(got, wanted, f"max_workspace={limit}")


# ------------------------------------------------------------------------------------------------------------- arrays

MEMORY = {
    "plain": lambda x: x.copy(),
    "channels last": lambda x: in_memory(x, "nhwc"),
    "every other column": lambda x: x.repeat(2, 3)[..., ::2],
    "every third row": lambda x: x.repeat(3, 2)[:, :, ::3],
    "every other channel": lambda x: x.repeat(2, 1)[:, ::2],
    "backwards": lambda x: x[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1],
    "channels backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "transposed images": lambda x: x.swapaxes(2, 3).copy().swapaxes(2, 3),
    "inside a frame": lambda x: framed(x)[1:-1, 2:-1, 1:-3, 2:-2],
    "channels last inside a frame": lambda x: in_memory(framed(x), "nhwc")[1:-1, 2:-1, 1:-3, 2:-2],
    "images innermost": lambda x: x.transpose(1, 2, 3, 0).copy().transpose(3, 0, 1, 2),
    "Fortran": np.asfortranarray,
}  # fmt: skip


def framed(x):
    """`x` with something on every side that must not be read."""
    return np.pad(x, ((1, 1), (2, 1), (1, 3), (2, 2)), constant_values=np.nan)


ARRAYS = [
    problem(mb=2, pad_top=1, pad_left=2, sh=2),
    problem(mb=2, ic=6, oc=4, g=2, kh=1, kw=1),
    problem(mb=2, ic=4, oc=8, kh=1, kw=1, sw=2),
]


def frozen(x):
    x.flags.writeable = False
    return x


@pytest.mark.parametrize(("spec", "p"), pairs(ARRAYS), ids=str)
def test_inputs_in_any_memory_are_read_and_left_alone(rng, spec, p):
    x, w = whole(rng, *p.input_shape), whole(rng, *p.weight_shape)
    wanted = oracle(p, x, w)
    for name, laid in MEMORY.items():
        image, weights = laid(x), laid(w)
        assert_array_equal(nc.conv2d(frozen(image), frozen(weights), **arguments(p), algorithm=spec), wanted, name)
        assert_array_equal(image, x)
        assert_array_equal(weights, w)


@pytest.mark.parametrize("spec", ["im2col", "reference"])
def test_a_broadcast_input(rng, spec):
    p = problem(mb=3, pad_top=1)
    w = whole(rng, *p.weight_shape)
    for shape in ((1, 3, 11, 13), (3, 1, 11, 13), (3, 3, 1, 13), (3, 3, 11, 1), (1, 1, 1, 1)):
        x = np.broadcast_to(whole(rng, *shape), p.input_shape)
        assert_array_equal(nc.conv2d(x, w, **arguments(p), algorithm=spec), oracle(p, x, w))
    one = problem(mb=3, kh=1, kw=1)
    x, w = np.broadcast_to(whole(rng, 1, 1, 1, 13), one.input_shape), whole(rng, *one.weight_shape)
    assert_array_equal(nc.conv2d(x, w, algorithm="conv1x1"), oracle(one, x, w))


@pytest.mark.parametrize(("spec", "p"), pairs(ARRAYS), ids=str)
def test_results_go_where_they_are_wanted_and_nowhere_else(rng, spec, p):
    x, w, bias = whole(rng, *p.input_shape), whole(rng, *p.weight_shape), whole(rng, p.oc)
    residual = whole(rng, *p.output_shape)
    wanted = oracle(p, x, w, bias, residual, "relu")
    mb, oc, oh, ow = p.output_shape
    room = np.full((2 * mb, 2 * oc, 2 * oh, 2 * ow + 3), np.nan, np.float32)
    windows = [
        np.s_[:mb, :oc, :oh, :ow], np.s_[:mb, 1 : oc + 1, :oh, 3 : ow + 3], np.s_[::2, ::2, ::2, 0 : 2 * ow : 2],
        np.s_[mb - 1 :: -1, oc - 1 :: -1, oh - 1 :: -1, ow - 1 :: -1],
    ]  # fmt: skip
    for order, window, extra in itertools.product(("nchw", "nhwc", "whcn"), windows, MEMORY):
        rooms = room.transpose(*("nchw".index(letter) for letter in order)).copy()
        rooms = rooms.transpose(*(order.index(letter) for letter in "nchw"))
        out = rooms[window]
        added = MEMORY[extra](residual)
        got = nc.conv2d(x, w, bias, **arguments(p), algorithm=spec, residual=added, activation="relu", out=out)
        assert got is out
        assert_array_equal(out, wanted, f"{order} {window} {extra}")
        assert_array_equal(added, residual)
        out[...] = np.nan
        assert np.isnan(rooms).all()


@pytest.mark.parametrize("spec", SPECS)
def test_a_result_over_the_input_or_the_residual(rng, spec):
    framed = {"ic": 5, "oc": 5, "pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1}
    same_size = problem(**framed), problem(ic=5, oc=5, kh=1, kw=1), problem(**framed, g=5)
    p = next(p for p in same_size if runs(spec, p))
    w, bias = whole(rng, *p.weight_shape), whole(rng, 5)
    x, residual = whole(rng, *p.input_shape), whole(rng, *p.output_shape)
    wanted = oracle(p, x, w, bias, residual, "relu")
    terms = {**arguments(p), "algorithm": spec, "activation": "relu"}
    both = x.copy()
    assert_array_equal(nc.conv2d(both, w, bias, residual=residual, out=both, **terms), wanted)
    both = residual.copy()
    assert_array_equal(nc.conv2d(x, w, bias, residual=both, out=both, **terms), wanted)
    crossed = np.stack([residual[0], x[0]])[::-1]
    got = nc.conv2d(crossed[:1], w, bias, residual=crossed[1:], out=crossed[1:, :, ::-1], **terms)
    assert_array_equal(got, wanted)
    everything = x.copy()
    wanted = oracle(p, x, w, bias, x, "relu")
    assert_array_equal(nc.conv2d(everything, w, bias, residual=everything, out=everything, **terms), wanted)


@pytest.mark.parametrize(
    ("spec", "shared"), [("im2col", "bias"), ("conv1x1", "bias"), ("reference", "bias"), ("reference", "w")]
)
def test_a_result_over_the_bias_or_the_weights(rng, spec, shared):
    p = problem(ic=5, kh=1, kw=1)
    x, w, bias = whole(rng, *p.input_shape), whole(rng, *p.weight_shape), whole(rng, p.oc)
    wanted = oracle(p, x, w, bias)
    out = np.zeros(p.output_shape, np.float32)
    if shared == "bias":
        place = out.reshape(-1)[: p.oc]
        place[...], bias = bias, place
    else:
        place = out.reshape(-1)[: w.size].reshape(w.shape)
        place[...], w = w, place
    assert_array_equal(nc.conv2d(x, w, bias, algorithm=spec, out=out), wanted)


def test_a_result_off_its_own_grid(rng):
    p = problem()
    x, w = whole(rng, *p.input_shape), whole(rng, *p.weight_shape)
    size = int(np.prod(p.output_shape))
    out = np.zeros(4 * size + 1, np.uint8)[1:].view(np.float32).reshape(p.output_shape)
    assert nc.conv2d(x, w, out=out) is out
    assert_array_equal(out, oracle(p, x, w))


@pytest.mark.parametrize("spec", ["im2col", "reference"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_axes_as_the_layout_says_and_one_image_without_a_batch(rng, layout, spec):
    p = problem(mb=2, pad_top=1, sw=2)
    order = {"nchw": (0, 1, 2, 3), "nhwc": (0, 2, 3, 1)}[layout]
    back = np.argsort(order)
    x, w, residual = whole(rng, *p.input_shape), whole(rng, *p.weight_shape), whole(rng, *p.output_shape)
    wanted = oracle(p, x, w, residual=residual).transpose(order)
    terms = {**arguments(p), "algorithm": spec, "layout": layout}
    for memory in ("nchw", "nhwc"):  # of either memory order
        image, extra = (in_memory(v, memory).transpose(order) for v in (x, residual))
        got = nc.conv2d(image, w, residual=extra, **terms)
        assert_array_equal(got, wanted)
        assert in_memory(got.transpose(back), memory).strides == got.transpose(back).strides
        out = np.full_like(wanted, np.nan, np.float32)
        assert nc.conv2d(image, w, residual=extra, out=out, **terms) is out
        assert_array_equal(out, wanted)
        single = nc.conv2d(image[1], w, residual=extra[1], **terms)
        assert single.ndim == 3
        assert_array_equal(single, wanted[1])
        out = np.full(single.shape, np.nan, np.float32)
        assert nc.conv2d(image[1], w, residual=extra[1:], out=out, **terms) is out
        assert_array_equal(out, wanted[1])


@pytest.mark.parametrize(
    ("words", "pads"),
    [
        ("valid", (0, 0, 0, 0)),
        ("same", (0, 1, 1, 1)),
        ("same_upper", (0, 1, 1, 1)),
        ("same_lower", (1, 1, 0, 1)),
        (1, (1, 1, 1, 1)),
        ((2, 1), (2, 1, 2, 1)),
    ],
)
def test_padding_in_words_and_numbers(rng, words, pads):
    x, w = whole(rng, 1, 3, 10, 13), whole(rng, 4, 3, 3, 3)
    wanted = oracles.conv2d(x, w, stride=(2, 2), pads=pads)
    assert_array_equal(nc.conv2d(x, w, None, 2, words), wanted)
    assert_array_equal(nc.Conv2d.from_arrays(w, None, 2, words)(x), wanted)


def test_nan_and_inf_reach_the_outputs_whose_patches_hold_them(rng):
    p = problem(pad_top=1, pad_left=1)
    w = whole(rng, *p.weight_shape)
    for value in (np.nan, np.inf):
        x = whole(rng, *p.input_shape)
        x[0, 1, 5, 6] = value
        with np.errstate(invalid="ignore"):
            wanted = oracle(p, x, w, activation="relu")
        for spec in ("im2col", "reference"):
            assert_array_equal(nc.conv2d(x, w, **arguments(p), algorithm=spec, activation="relu"), wanted)
