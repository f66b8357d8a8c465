"""Winograd's minimal filtering: its matrices, the transforms as they are written out, and tiles of every kind."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import oracles
import pytest
from cases import in_memory, oracle, problem, whole
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import numbaconv as nc
from numbaconv.lowerings._winograd_additions import times_columns, times_rows
from numbaconv.lowerings._winograd_division import Blocks, Filters, Shape
from numbaconv.lowerings._winograd_points import PAIRS, finite_points, minimal_filter
from numbaconv.lowerings._winograd_weights import transformed_weights
from numbaconv.plan import make_plan
from numbaconv.registry import lowerings, make_lowering
from numbaconv.request import ADMITTED, Epilogue, Request
from numbaconv.testing.oracle import convolve, sizes_of

FILTERS = [(1, 1), (1, 3), (2, 3), (4, 3), (2, 5), (4, 5), (2, 7), (3, 4), (6, 3), (5, 1), (3, 2)]
NAMES = [cls.name for cls in lowerings("winograd*")]
CLASSES = {cls.name: cls for cls in lowerings("winograd*")}

# ------------------------------------------------------------------------------------------------------- the matrices


def times(matrix, vector):
    return [sum((a * b for a, b in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]


@pytest.mark.parametrize(("m", "r"), FILTERS)
@given(data=st.data())
def test_the_matrices_give_the_correlation_exactly(m, r, data):
    numbers = st.fractions(-9, 9, max_denominator=7)
    x = data.draw(st.lists(numbers, min_size=m + r - 1, max_size=m + r - 1))
    w = data.draw(st.lists(numbers, min_size=r, max_size=r))
    at, g, bt = minimal_filter(m, r)
    products = [a * b for a, b in zip(times(g, w), times(bt, x), strict=True)]
    assert times(at, products) == [sum(w[k] * x[i + k] for k in range(r)) for i in range(m)]


@pytest.mark.parametrize(("m", "r"), FILTERS)
def test_no_entry_of_the_transforms_is_rounded(m, r):
    at, _, bt = minimal_filter(m, r)
    assert all(Fraction(float(np.float32(entry))) == entry for row in (*at, *bt) for entry in row)


def test_points_are_zero_and_pairs_and_only_those_chosen():
    for count in PAIRS:
        points = finite_points(count)
        assert len(set(points)) == count
        assert {-p for p in points} == set(points)
    with pytest.raises(ValueError, match="no 4 points have been chosen, only 3, 5, 7"):
        minimal_filter(3, 3)


class Exact:
    """``Arithmetic`` with fractions, counted."""

    operations = 0

    def _count(self, value):
        self.operations += 1
        return value

    def add(self, a, b):
        return self._count(a + b)

    def subtract(self, a, b):
        return self._count(a - b)

    def scaled(self, factor, x):
        return self._count(factor * x)

    def fused(self, factor, x, total):
        return self._count(factor * x + total)


@pytest.mark.parametrize(("m", "r"), FILTERS)
def test_the_code_written_out_is_the_matrix(m, r):
    at, g, bt = minimal_filter(m, r)
    for matrix, apply in ((bt, times_rows), (g, times_rows), (at, times_columns)):
        values = [Fraction(3 * i * i + 1, i + 2) for i in range(len(matrix[0]))]
        assert apply(Exact(), matrix, values) == times(matrix, values)


def test_pairs_share_their_parts():
    counted = {}
    for m, r in ((2, 3), (4, 3), (4, 5)):
        at, _, bt = minimal_filter(m, r)
        counted[m, r] = []
        for matrix, apply in ((bt, times_rows), (at, times_columns)):
            exact = Exact()
            apply(exact, matrix, [Fraction(i + 1) for i in range(len(matrix[0]))])
            counted[m, r].append(exact.operations)
    assert counted == {(2, 3): [4, 4], (4, 3): [12, 12], (4, 5): [24, 16]}


# ----------------------------------------------------------------------------------------------------------- the tiles

PADS = {"pad_top": 1, "pad_left": 2, "pad_bottom": 2, "pad_right": 0}
KINDS = {
    "ragged tiles, odd channels": {"mb": 2, "ic": 5, "oc": 37, "ih": 13, "iw": 21} | PADS,
    "whole vectors of channels": {"mb": 2, "ic": 32, "oc": 96, "ih": 17, "iw": 13} | PADS,
    "chunks with a rest": {"ic": 16, "oc": 150, "ih": 9, "iw": 10} | PADS,
    "groups": {"mb": 2, "ic": 48, "oc": 96, "g": 3, "ih": 11, "iw": 12} | PADS,
    "pads beyond the input": {"ic": 3, "oc": 4, "ih": 2, "iw": 7, "pad_top": 9, "pad_left": 8, "pad_right": 11},
    "rows of several blocks": {"ic": 2, "oc": 3, "ih": 9, "iw": 150} | PADS,
}
LAYOUTS = ("nchw", "nhwc")


def made(name, kind="ragged tiles, odd channels", kernel=None, **changes):
    kh, kw = kernel or CLASSES[name].kernels[0]
    return problem(**KINDS[kind] | {"kh": kh, "kw": kw} | changes)


def normal(rng, p):
    shapes = p.input_shape, p.weight_shape, (p.oc,), p.output_shape
    return [rng.standard_normal(shape).astype(p.dtype) for shape in shapes]


def close(got, wanted, p, name, x, w):
    """Within the lowering's bound, by the magnitudes of what is summed."""
    factor = make_lowering(name).error_bound(p, Request())
    magnitudes = oracles.conv2d(np.abs(x), np.abs(w), pads=pads_of(p), groups=p.g)
    return (np.abs(got - wanted) <= factor * np.finfo(p.dtype).eps * p.K**0.5 * magnitudes.max()).all()


def pads_of(p):
    return p.pad_top, p.pad_left, p.pad_bottom, p.pad_right


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tiles(rng, name, kind):
    for kernel in CLASSES[name].kernels:
        for dtype in ("float32", "float64") if kind == "groups" else ("float32",):
            p = made(name, kind, kernel, dtype=dtype)
            x, w, bias, residual = normal(rng, p)
            wanted = oracles.conv2d(x, w, bias, pads=pads_of(p), groups=p.g, residual=residual, activation="relu")
            results = [
                nc.conv2d(
                    in_memory(x, layout), w, bias, padding=pads_of(p), groups=p.g, algorithm=name, activation="relu",
                    residual=in_memory(residual, layout), num_threads=2,
                )
                for layout in LAYOUTS
            ]  # fmt: skip
            assert close(results[0], wanted, p, name, x, w), (kernel, dtype)
            assert_array_equal(*results)  # turned pixels are the same pixels


def framed(shape, layout, dtype):
    """NaNs in memory of a layout, and an array of `shape` among them whose rows do not follow one another."""
    room = np.full([shape[i] + 3 for i in {"nchw": (0, 1, 2, 3), "nhwc": (0, 2, 3, 1)}[layout]], np.nan, dtype)
    axes = room if layout == "nchw" else room.transpose(0, 3, 1, 2)
    return room, axes[tuple(slice(1, 1 + size) for size in shape)]


@pytest.mark.parametrize("kind", ["ragged tiles, odd channels", "whole vectors of channels"])
def test_slices_of_larger_arrays_in_any_order(rng, kind):
    p = made("winograd-f4", kind)
    image, w, bias, residual = normal(rng, p)
    wanted = np.full(p.output_shape, np.nan, p.dtype)
    run(p, "winograd-f4", image, w, bias, residual, wanted)
    assert close(wanted, oracle(p, image, w, bias, residual, "relu6"), p, "winograd-f4", image, w)
    for source in LAYOUTS:
        _, x = framed(p.input_shape, source, p.dtype)
        x[...] = image
        for target in LAYOUTS:
            room, out = framed(p.output_shape, target, p.dtype)
            _, added = framed(p.output_shape, source, p.dtype)
            added[...] = residual
            run(p, "winograd-f4", x, w, bias, added, out)
            assert_array_equal(out, wanted, f"{source} to {target}")
            out[...] = np.nan
            assert np.isnan(room).all()
    scattered, sparse = (np.full((*shape, 2), np.nan, p.dtype) for shape in (p.output_shape, p.input_shape))
    sparse[..., 0] = image
    run(p, "winograd-f4", sparse[..., 0], w, bias, residual, scattered[..., 0])
    assert_array_equal(scattered[..., 0], wanted)
    assert np.isnan(scattered[..., 1]).all()


def run(p, name, x, w, bias, residual, out):
    """Straight through the lowering, whose arrays may have any strides."""
    plan = make_plan(p, name, Request(num_threads=2, epilogue=Epilogue(True, True, "relu6")))
    plan.run(x, plan.prepare(w), out, bias, residual)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["chunks with a rest", "whole vectors of channels", "groups"])
def test_the_same_bits_for_any_number_of_threads(rng, kind, layout):
    for name in ("winograd-f4", "winograd-f1x4"):
        p = made(name, kind)
        x, w, *_ = normal(rng, p)
        terms = {"padding": pads_of(p), "groups": p.g, "algorithm": name}
        one, *others = (nc.conv2d(in_memory(x, layout), w, num_threads=n, **terms) for n in (1, 2, 3, 7))
        for other in others:
            assert_array_equal(one, other)


def test_few_tiles_are_shared_out_by_output_channels():
    p = problem(ic=512, oc=512, ih=7, iw=7, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
    filters = Filters(2, 3, 2, 3)
    few = Blocks.of(p, filters, 4)
    assert (few.tiles, few.blocks, few.parts) == (16, 1, 4)
    many = Blocks.of(replace(p, ih=56, iw=56), filters, 4)
    assert many.parts == 1
    assert many.blocks * many.groups_a_block == many.groups


def test_f2_has_halves_and_quarters_only_and_is_exact_on_whole_numbers(rng):
    p = made("winograd-f2", "groups")
    x, w = whole(rng, *p.input_shape), whole(rng, *p.weight_shape)
    got = nc.conv2d(x, w, padding=pads_of(p), groups=p.g, algorithm="winograd-f2")
    assert_array_equal(got, oracle(p, x, w))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 6, 64])
def test_the_error_is_within_its_bound_with_few_channels_too(rng, name, channels):
    for kernel in CLASSES[name].kernels[::2]:
        p = problem(ic=channels, oc=8, ih=17, iw=18, kh=kernel[0], kw=kernel[1])
        x, w, *_ = normal(rng, p)
        for image in (x, np.maximum(x, 0)):
            exact = convolve(image, w, **sizes_of(p))
            direct = convolve(image, w, **sizes_of(p), dtype=np.float32) - exact
            off = nc.conv2d(image, w, algorithm=name) - exact
            factor = make_lowering(name).error_bound(p, Request())
            assert np.linalg.norm(off) <= factor * np.linalg.norm(direct)
            assert np.abs(off).max() <= 2 * factor * np.abs(direct).max()


@pytest.mark.parametrize(("accuracy", "deepest"), [("float32", 64), ("strict", 16)])
def test_sums_are_cut_as_far_as_the_accuracy_asks(accuracy, deepest):
    f4, p = make_lowering("winograd-f4"), problem(ic=256, kh=3, kw=3)
    assert f4.pieces(p, Request(accuracy=accuracy)) == 256 // deepest
    assert f4.error_bound(p, Request(accuracy=accuracy)) <= ADMITTED[accuracy]
    assert f4.error_of(p, 1) > 2 * f4.error_of(p, 8)


def test_sums_in_pieces_err_less(rng):
    p = made("winograd-f4", mb=1, ic=160, oc=8)
    x, w, *_ = normal(rng, p)
    exact = convolve(x, w, **sizes_of(p))
    off = [
        np.linalg.norm(nc.conv2d(x, w, padding=pads_of(p), algorithm="winograd-f4", accuracy=accuracy) - exact)
        for accuracy in ("float32", "strict")
    ]
    assert off[1] < 0.85 * off[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_are_transformed_and_packed(rng, name, dtype):
    """Every element of U is where the task looks for it, and rounded once."""
    cls, kernel = CLASSES[name], CLASSES[name].kernels[-1]
    p = problem(ic=6, oc=2 * 83, g=2, kh=kernel[0], kw=kernel[1], ih=9, iw=9, dtype=dtype)
    w, filters, shape = rng.standard_normal(p.weight_shape).astype(dtype), cls().filters(p), Shape.of(p)
    u = transformed_weights(p, filters, w, 2)
    down, along = (np.array(minimal_filter(m, r).g, float) for m, r in (filters[:2], filters[2:]))
    wanted = np.einsum("ir,ocrs,js->ijoc", down, w.astype(float), along).reshape(-1, p.g, p.ocg, p.icg)
    for group, there in enumerate(u):
        for first in range(0, shape.vectors, shape.chunk):
            of_chunk = min(shape.chunk, shape.vectors - first)
            begin, size = (count * filters.products * p.icg * shape.lanes for count in (first, of_chunk))
            chunk = there[begin : begin + size].reshape(filters.products, -1)
            for panel in range(0, of_chunk, shape.panel):
                wide = min(shape.panel, of_chunk - panel) * shape.lanes
                got = chunk[:, panel * p.icg * shape.lanes :][:, : p.icg * wide].reshape(-1, p.icg, wide)
                low = (first + panel) * shape.lanes
                expected = wanted[:, group, low : low + wide].transpose(0, 2, 1)
                assert_allclose(got[..., : expected.shape[2]], expected, rtol=2 * np.finfo(dtype).eps, atol=1e-12)
                assert not got[..., expected.shape[2] :].any()


# ------------------------------------------------------------------------------------------------------------ the rest


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"kh": 2}, "kernels of 3x3, not 2x3"), ({"sw": 2}, "stride 1 only, not 1x2"), ({"dh": 2}, "dilation 1 only")],
)
def test_refusals_say_why(changes, reason):
    with pytest.raises(nc.UnsupportedProblem, match=reason):
        nc.plan(problem(**changes), algorithm="winograd-f4")


def test_multiply_adds_are_fewer():
    p = problem(mb=2, ic=64, oc=32, ih=58, iw=58)
    share = {name: CLASSES[name]().multiply_adds(p) / p.macs for name in NAMES if (3, 3) in CLASSES[name].kernels}
    assert share == {"winograd-f1x4": 0.5, "winograd-f2": 4 / 9, "winograd-f2x4": 1 / 3, "winograd-f4": 0.25}
    five, seven = problem(kh=5, kw=5, ih=12, iw=12), problem(kh=7, kw=1, ih=14, iw=3)
    assert CLASSES["winograd-f4-5"]().multiply_adds(five) / five.macs == 64 / 400
    assert CLASSES["winograd-1d"]().multiply_adds(seven) / seven.macs == 8 / 14


def test_scratch_is_a_few_blocks_however_large_the_image():
    p = problem(ic=64, oc=64, ih=58, iw=58)
    sizes = {side: nc.plan(replace(p, ih=side, iw=side), "winograd-f4", num_threads=2).lowering_bytes
             for side in (58, 226, 1026)}  # fmt: skip
    assert max(sizes.values()) < 1.2 * min(sizes.values())
    one = nc.plan(p, "winograd-f4", num_threads=1)
    assert 2 * one.lowering_bytes >= sizes[58] > one.lowering_bytes
    assert one.panel_bytes == 0


def test_auto_takes_what_the_accuracy_admits():
    text, small = "mb1ic128ih56oc256kh3ph1_nhwc", "mb1ic8ih56oc64kh3ph1_nhwc"
    assert nc.plan(text).algorithm == "winograd-f4"
    assert nc.plan(text, accuracy="strict").algorithm == "winograd-f2x4"
    assert not nc.plan(text, accuracy="fma").algorithm.startswith("winograd")
    assert not nc.plan(small, accuracy="strict").algorithm.startswith("winograd")
    rows = {row.name: row for row in nc.explain(text, accuracy="strict").rows}
    assert rows["winograd-f4"].waste == 36 / 144 - 1
    assert (rows["winograd-f2x4"].admitted, rows["winograd-f4"].admitted) == (True, False)
    told = " ".join(str(nc.explain(text, accuracy="strict")).split())
    assert f"none, error {rows['winograd-f2x4'].error:.2f} times direct's fft-tiled " in told
    assert f"none, error {rows['winograd-f4'].error:.2f} times direct's: by name only" in told
    assert rows["direct-jit"].accuracy == ""


WIDTHS = """
import numpy as np, oracles
import numbaconv as nc
rng = np.random.default_rng(3)
for dtype in ("f4", "f8"):
    x, w, bias = (rng.standard_normal(shape).astype(dtype) for shape in ((1, 9, 10, 19), (21, 9, 3, 3), 21))
    wanted = oracles.conv2d(x, w, bias, pads=(1, 1, 1, 1), activation="relu")
    for image in (x, x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)):
        for name in ("winograd-f2", "winograd-f4"):
            got = nc.conv2d(image, w, bias, padding=1, algorithm=name, activation="relu", num_threads=2)
            assert np.abs(got - wanted).max() < 400 * np.finfo(dtype).eps, (dtype, name)
print("right")
"""


@pytest.mark.parametrize("bits", [128, 256])
def test_narrower_vectors(python, bits):
    assert python(WIDTHS, env={"NUMBACONV_VECTOR_BITS": str(bits)}).strip() == "right"
