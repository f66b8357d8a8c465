"""The convolution ladder: every step by the same test, and that test sees faults."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import oracles
import pytest
from numpy.testing import assert_array_equal

import numbaconv as nc
from numbaconv.errors import ShapeError, UnsupportedProblem
from numbaconv.ladder import steps
from numbaconv.registry import make_lowering
from numbaconv.request import Request

STEPS = steps("conv")
NAMES = ["loops", "im2col", "implicit", "kn2row-aa", "direct", "winograd"]

CASES = {  # mb, ic, ih, iw, oc, kh, kw, stride, padding
    "plain": (1, 3, 11, 11, 5, 3, 3, 1, 0),
    "same, primes": (2, 7, 13, 17, 37, 3, 3, 1, 1),
    "one pixel": (1, 1, 1, 1, 1, 3, 3, 1, 1),
    "one input channel, many output channels": (1, 1, 6, 31, 67, 3, 3, 1, 2),
    "padding beyond the kernel": (1, 2, 3, 4, 2, 3, 3, 1, 5),
    "padding as wide as the kernel, stride 2": (1, 2, 5, 4, 3, 2, 2, 2, 2),
    "1x1": (2, 4, 5, 6, 3, 1, 1, 1, 0),
    "1x1, stride 3": (1, 4, 10, 8, 3, 1, 1, 3, 0),
    "1x1 on one pixel": (2, 5, 1, 1, 4, 1, 1, 1, 0),
    "stride beyond the kernel": (1, 2, 17, 13, 3, 2, 3, 5, 1),
    "5x2 kernel, stride 2": (2, 3, 12, 15, 33, 5, 2, 2, 1),
    "kernel as large as the input": (1, 3, 4, 7, 2, 4, 7, 1, 0),
    "a tile and a pixel": (1, 2, 4, 31, 3, 3, 3, 1, 0),
    "no images": (0, 3, 6, 6, 4, 3, 3, 1, 1),
}


def whole(rng, *shape):
    return rng.integers(-3, 4, shape).astype(np.float32)


def problem(mb, ic, ih, iw, oc, kh, kw, stride, padding):
    pads = dict.fromkeys(("pad_top", "pad_left", "pad_bottom", "pad_right"), padding)
    return nc.ConvProblem(mb, ic, ih, iw, oc, kh, kw, stride, stride, **pads)


def runs(step, p):
    return step.name != "winograd" or (p.kh, p.kw, p.sh) == (3, 3, 1)


def judge(conv, rng, case):
    """Whole numbers, so the result is to be equal; what it overwrites is NaN."""
    p = problem(*case)
    x, w = whole(rng, *p.input_shape), whole(rng, *p.weight_shape)
    given = x.copy(), w.copy()
    out = np.full(p.output_shape, np.nan, np.float32)
    assert conv(x, w, p.sh, p.pad_top, out=out) is out
    assert_array_equal(out, oracles.conv2d(x, w, None, (p.sh, p.sw), (p.pad_top,) * 4))
    assert_array_equal(x, given[0])
    assert_array_equal(w, given[1])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("step", STEPS, ids=NAMES)
def test_every_step_computes_the_convolution(rng, step, case):
    if runs(step, problem(*case)):
        judge(step.function, rng, case)
    else:
        with pytest.raises(UnsupportedProblem, match=r"takes kernels of 3x3 at stride 1, not \dx\d at stride \d; use"):
            judge(step.function, rng, case)


@pytest.mark.parametrize("rows", [1, 4])
def test_blocks_of_rows_that_do_not_divide_the_output(rng, monkeypatch, rows):
    implicit = STEPS[2]
    monkeypatch.setattr(implicit.module, "block_rows", lambda elements: rows)
    for kind in ("same, primes", "5x2 kernel, stride 2", "1x1 on one pixel"):
        judge(implicit.function, rng, CASES[kind])


FAULTS = {
    "loops": ("r - padding, z", "r - padding, 1 + z"),
    "im2col": ("0 <= row < ih", "0 <= row <= ih - 2"),
    "implicit": ("(first + y) * stride", "y * stride"),
    "kn2row-aa": ("end = min(outputs, ", "end = min(outputs - 1, "),
    "direct": ("range(min(pixels, ow - z))", "range(min(pixels - 1, ow - z))"),
    "winograd": ("= a - d, b + d, d - b, b - e", "= a - d, b + d, b - d, b - e"),
}


@pytest.mark.parametrize("step", STEPS, ids=NAMES)
def test_the_test_sees_faults(rng, mutant, step):
    wrong = mutant(step.module, *FAULTS[step.name])
    wrong.block_rows = lambda elements: 4
    with pytest.raises(AssertionError, match="not equal"):
        judge(wrong.conv, rng, CASES["same, primes"])


WIDTHS = """
import numpy as np, oracles
from numbaconv.ladder import step
rng = np.random.default_rng(3)
x, w = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((1, 3, 6, 17), (37, 3, 3, 3)))
wanted = oracles.conv2d(x, w, pads=(1, 1, 1, 1))
np.testing.assert_array_equal(step("direct", "conv").function(x, w, 1, 1, out=np.empty(wanted.shape, "f4")), wanted)
print("right")
"""


@pytest.mark.parametrize("bits", [128, 256])
def test_narrower_vectors(python, bits):
    assert python(WIDTHS, env={"NUMBACONV_VECTOR_BITS": str(bits)}).strip() == "right"


def test_floats_are_as_exact_as_float32_sums_are(rng):
    p = problem(1, 24, 14, 14, 16, 3, 3, 1, 1)
    x, w = (rng.standard_normal(shape, dtype=np.float32) for shape in (p.input_shape, p.weight_shape))
    wanted = oracles.conv2d(x, w, pads=(1, 1, 1, 1))
    size = np.linalg.norm(wanted)
    for step in STEPS:
        out = step.function(x, w, 1, 1, out=np.empty(p.output_shape, np.float32))
        assert np.linalg.norm(out - wanted) <= 4e-7 * size, step


# ----------------------------------------------------------------------------------------------------------- the steps


def test_the_steps_and_what_they_say():
    assert [step.name for step in STEPS] == NAMES
    for step in STEPS:
        assert re.search(r"Compared with the step before: .*because ", step.idea, re.DOTALL), step
        assert "Memory: " in step.idea
        assert make_lowering(step.module.production)
        assert f"``{step.module.production}``" in step.idea


RESNET = problem(1, 64, 56, 56, 64, 3, 3, 1, 1)


def test_the_numbers_in_their_words_are_those_of_the_layer():
    p = RESNET
    of = {step.name: step.module.lowering_bytes(p) for step in STEPS}
    said = {step.name: step.idea for step in STEPS}
    assert (of["loops"], of["kn2row-aa"]) == (0, 0)
    assert of["im2col"] == 7_225_344 == make_lowering("im2col").lowering_bytes(p, Request())
    assert "7.2 MB for an input of 0.80 MB" in said["im2col"]
    assert p.input_bytes == p.output_bytes == 802_816
    assert p.macs == 115_605_504
    assert "115.6 million" in said["loops"]
    assert 9 * 2 * p.output_bytes == 14_450_688
    assert "14.5 MB" in said["kn2row-aa"]
    assert 58 * 58 * 64 * 4 == 861_184
    assert "0.86 MB" in said["direct"]
    assert 16 * (64 + 64) * 28 * 28 * 4 == 6_422_528 == of["winograd"] - 861_184
    assert "6.4 MB" in said["winograd"]
    assert 16 * 64 * 64 * 28 * 28 == 51_380_224 == p.macs * 16 // 36
    assert "51.4 million" in said["winograd"]


def test_they_take_the_memory_they_say():
    p = problem(1, 32, 30, 30, 32, 3, 3, 1, 1)
    x, w = np.ones(p.input_shape, np.float32), np.ones(p.weight_shape, np.float32)
    out = np.empty(p.output_shape, np.float32)
    for step in STEPS:
        step.function(x, w, 1, 1, out=out)  # what GEMM keeps from call to call
        tracemalloc.start()
        step.function(x, w, 1, 1, out=out)
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        declared = step.module.lowering_bytes(p)
        assert declared <= taken <= declared + 16 * p.weight_bytes // 9 + 16_000, step  # and the weights, packed


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": np.zeros((1, 2, 5, 5))}, r"x \(mb, ic, ih, iw\) must be a float32 array of four axes; got float64"),
        ({"w": np.zeros((3, 2, 3), np.float32)}, r"w \(oc, ic, kh, kw\) must be .* got float32 of shape \(3, 2, 3\)"),
        ({"x": [[1.0]]}, "x .* got 'list'"),
        ({"x": np.zeros((1, 5, 5, 2), np.float32).transpose(0, 3, 1, 2)}, "x .* numpy.ascontiguousarray"),
        ({"w": np.zeros((3, 4, 3, 3), np.float32)}, "2 channels"),
        ({"out": np.zeros((1, 3, 5, 5), np.float32)}, r"out must have shape \(1, 3, 3, 3\) for mb1ic2ih5"),
        ({"padding": (1, 2)}, r"padding must be one int, for both directions; got \(1, 2\)"),
        ({"padding": -1}, "padding must not be negative"),
        ({"stride": 0}, "stride .* must be at least 1"),
        ({"w": np.zeros((3, 2, 7, 7), np.float32)}, "the kernel 7x7 .* is larger than the input"),
    ],
)
def test_bad_arguments_are_named(changes, words):
    x, w, out = (np.zeros(shape, np.float32) for shape in ((1, 2, 5, 5), (3, 2, 3, 3), (1, 3, 3, 3)))
    given = {"x": x, "w": w, "stride": 1, "padding": 0, "out": out} | changes
    for step in STEPS:
        with pytest.raises(ShapeError, match=words):
            step.function(**given)


def test_the_result_does_not_overwrite_what_it_is_made_of():
    x, w = np.zeros((1, 2, 5, 5), np.float32), np.zeros((2, 2, 1, 1), np.float32)
    with pytest.raises(ShapeError, match="out must not share memory"):
        STEPS[0].function(x, w, 1, 0, out=x)
