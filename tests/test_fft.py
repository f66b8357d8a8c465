"""Convolution by Fourier transforms: the small transforms as they are written out, spectra, and tiles of every kind."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
from cases import arguments, in_memory, oracle, problem
from numpy.testing import assert_allclose, assert_array_equal

import numbaconv as nc
from numbaconv.lowerings import fft
from numbaconv.lowerings._fft_codelets import RADICES, Algebra, transform, turn
from numbaconv.lowerings._fft_cost import chosen_tiles
from numbaconv.lowerings._fft_division import Blocks, Shape, Tiles, next_length, passes, whole_image
from numbaconv.lowerings._fft_tiles import transform as passes_in_code
from numbaconv.lowerings._fft_tiles import transform_table
from numbaconv.lowerings._fft_weights import transformed_weights
from numbaconv.machine import detect
from numbaconv.plan import make_plan
from numbaconv.registry import make_lowering
from numbaconv.request import Epilogue, Request
from numbaconv.testing.oracle import convolve, sizes_of
from numbaconv.workspace import address_of, aligned

NAMES = ("fft", "fft-tiled")
LAYOUTS = ("nchw", "nhwc")
PADS = {"pad_top": 1, "pad_left": 2, "pad_bottom": 2, "pad_right": 0}
PAD_NAMES = tuple(PADS)

# ------------------------------------------------------------------------------------------------------ the transforms


class Counting(Algebra):
    """Computes with Python's floats, and counts."""

    def __init__(self):
        self.builder = self.lanes = self
        self.operations = 0

    def _count(self, value):
        self.operations += 1
        return value

    def constant(self, value):
        return value

    def fadd(self, a, b):
        return self._count(a + b)

    def fsub(self, a, b):
        return self._count(a - b)

    def fmul(self, a, b):
        return self._count(a * b)

    def fma(self, a, b, c):
        return self._count(a * b + c)

    def fneg(self, a):
        return -a


def test_points_of_the_circle_are_exact_on_its_axes_and_near_elsewhere():
    assert [turn(k, 4) for k in range(4)] == [(1, 0), (0, -1), (-1, 0), (0, 1)]
    for length in (3, 8, 10, 60, 128):
        there = np.exp(-2j * np.pi * np.arange(-length, length) / length)
        assert_allclose([complex(*turn(k, length)) for k in range(-length, length)], there, atol=2e-15)


@pytest.mark.parametrize("length", [*RADICES, 7, 9, 15])
def test_the_code_written_out_is_the_transform(rng, length):
    values = rng.standard_normal(length) + 1j * rng.standard_normal(length)
    found = transform(Counting(), [(value.real, value.imag) for value in values])
    assert_allclose([complex(*value) for value in found], np.fft.fft(values), atol=1e-13)


def test_constants_that_are_simple_cost_little():
    counted = {}
    for length in (2, 4, 8, 16):
        algebra = Counting()
        transform(algebra, [(float(k), 1.0) for k in range(length)])
        counted[length] = algebra.operations
    assert counted == {2: 4, 4: 16, 8: 56, 16: 160}


def test_lengths_have_few_passes():
    assert [passes(n) for n in (1, 8, 16, 60)] == [(1,), (8,), (16,), (10, 6)]
    assert [passes(n) for n in (7, 14, 22)] == [None] * 3
    for n in (32, 135, 240, 1000):
        assert np.prod(passes(n)) == n
    assert [len(passes(n)) for n in (120, 144, 240)] == [2, 2, 3]
    assert [next_length(n) for n in (1, 7, 11, 13, 61, 227)] == [1, 8, 12, 15, 64, 240]


def as_function(native, count):
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * count)(native.address)


@pytest.mark.parametrize(("length", "dtype"), [(1, "f4"), (12, "f4"), (20, "f8"), (27, "f4"), (128, "f4")])
def test_passes_give_the_transform_in_order_and_back(rng, length, dtype):
    itemsize, lanes = np.dtype(dtype).itemsize, detect().lanes(dtype)
    vector, line = lanes * itemsize, 2 * length * lanes * itemsize
    values = aligned(line).view(dtype).reshape(length, 2, lanes)
    values[...] = rng.standard_normal(values.shape)
    wanted = np.fft.fft(values[:, 0] + 1j * values[:, 1].astype("f8"), axis=0)
    result, lines = np.full_like(values, np.nan), aligned(2 * line)
    table, _kept = transform_table(itemsize, lanes, length)
    run = as_function(passes_in_code, 10)
    x, y = address_of(values), address_of(result)
    run(address_of(table), x, x + vector, 2 * vector, y, y + vector, 2 * vector, vector, address_of(lines), line)
    close = 40 * np.finfo(dtype).eps * length**0.5
    assert_allclose(result[:, 0] + 1j * result[:, 1], wanted, atol=close)
    before = values.copy()  # the two parts exchanged: the inverse, here in place where it came from
    run(address_of(table), y + vector, y, 2 * vector, x + vector, x, 2 * vector, vector, address_of(lines), line)
    assert_allclose(values / length, before, atol=close)


def test_frequencies_are_those_that_no_other_has_the_conjugate_of():
    for n_h, n_w in ((1, 1), (1, 8), (8, 8), (5, 6), (6, 5), (9, 15), (16, 1)):
        tiles = Tiles(n_h, n_h, n_w, n_w)
        kept = {(i, j) for j, count in tiles.columns() for i in range(count)}
        assert len(kept) == tiles.products
        opposite = {(-i % n_h, -j % n_w) for i, j in kept}
        assert kept | opposite == {(i, j) for i in range(n_h) for j in range(n_w)}
        assert kept & opposite == {(i, j) for i, j in kept if (-i % n_h, -j % n_w) == (i, j)}


def test_weights_are_their_conjugate_spectra(rng):
    p = problem(ic=6, oc=50, g=2, kh=3, kw=2, dh=2, dw=3, ih=20, iw=21)
    tiles, shape = Tiles(10, 6, 12, 9), Shape.of(problem(oc=25), True)
    w = rng.standard_normal(p.weight_shape).astype("f4")
    packed = transformed_weights(p, tiles, shape, w)
    spread = np.zeros((p.oc, p.icg, 10, 12))
    spread[:, :, :5:2, :4:3] = w
    spectra = np.conj(np.fft.fft2(spread)) / (2 * 10 * 12)
    places = [(i, j) for j, count in tiles.columns() for i in range(count)]
    for group in range(2):
        start = 0
        for first in range(0, shape.vectors, shape.chunk):
            end = min(first + shape.chunk, shape.vectors)
            for i, j in places:
                for panel in range(first, end, shape.panel):
                    wide = min(shape.panel, end - panel) * shape.lanes
                    part = packed[group, start : start + 2 * p.icg * wide].reshape(p.icg, 2, wide)
                    low = group * p.ocg + panel * shape.lanes
                    wanted = spectra[low : min(low + wide, (group + 1) * p.ocg), :, i, j].T
                    assert_allclose(part[:, 0, : wanted.shape[1]], wanted.real, atol=1e-7)
                    assert_allclose(part[:, 1, : wanted.shape[1]], wanted.imag, atol=1e-7)
                    assert not part[..., wanted.shape[1] :].any()
                    start += 2 * p.icg * wide
        assert start == packed.shape[1]


# ----------------------------------------------------------------------------------------------------------- the tiles

KINDS = {
    "ragged tiles, odd channels": {"mb": 2, "ic": 5, "oc": 37, "ih": 23, "iw": 41} | PADS,
    "whole vectors of channels": {"mb": 2, "ic": 32, "oc": 96, "ih": 17, "iw": 13} | PADS,
    "vectors without a partner": {"ic": 48, "oc": 80, "ih": 9, "iw": 10, "kh": 2} | PADS,
    "groups": {"mb": 2, "ic": 48, "oc": 96, "g": 3, "ih": 11, "iw": 12, "kw": 5} | PADS,
    "pads beyond the input": {"ic": 3, "oc": 4, "ih": 2, "iw": 7, "pad_top": 9, "pad_left": 8, "pad_right": 11},
    "rows of several blocks": {"mb": 3, "ic": 2, "oc": 3, "ih": 9, "iw": 300, "kh": 4} | PADS,
    "strides": {"mb": 2, "ic": 5, "oc": 7, "ih": 40, "iw": 43, "kh": 7, "kw": 5, "sh": 3, "sw": 2} | PADS,
    "strides and dilation": {"ic": 3, "oc": 20, "ih": 30, "iw": 31, "kh": 3, "kw": 4, "sh": 2, "dh": 3, "dw": 2} | PADS,
    "a large kernel": {"ic": 3, "oc": 4, "ih": 20, "iw": 36, "kh": 19, "kw": 31, "pad_top": 9, "pad_left": 15},
    "a kernel of one row": {"ic": 4, "oc": 3, "ih": 5, "iw": 70, "kh": 1, "kw": 9, "pad_left": 4},
    "a kernel of one column": {"mb": 2, "ic": 4, "oc": 3, "ih": 33, "iw": 5, "kh": 9, "kw": 1, "pad_bottom": 4},
}


def normal(rng, p):
    shapes = p.input_shape, p.weight_shape, (p.oc,), p.output_shape
    return [rng.standard_normal(shape).astype(p.dtype) for shape in shapes]


def close(got, wanted, p, name, x, w):
    """Within the lowering's bound, by the magnitudes of what is summed."""
    factor = make_lowering(name).error_bound(p, Request())
    magnitudes = oracle(p, np.abs(x), np.abs(w))
    return (np.abs(got - wanted) <= factor * np.finfo(p.dtype).eps * p.K**0.5 * magnitudes.max()).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tiles(rng, name, kind):
    for dtype in ("float32", "float64") if kind == "groups" else ("float32",):
        p = problem(**KINDS[kind], dtype=dtype)
        x, w, bias, residual = normal(rng, p)
        wanted = oracle(p, x, w, bias, residual, "relu")
        results = [
            nc.conv2d(
                in_memory(x, layout), w, bias, **arguments(p), algorithm=name, activation="relu",
                residual=in_memory(residual, layout), num_threads=2,
            )
            for layout in LAYOUTS
        ]  # fmt: skip
        assert close(results[0], wanted, p, name, x, w), dtype
        assert_array_equal(*results)  # turned pixels are the same pixels


@pytest.mark.parametrize("sizes", [
    {"kh": 5, "kw": 4, "sh": 3, "sw": 2}, {"kh": 4, "kw": 5, "sw": 4, "dh": 2}, {"kh": 3, "kw": 5, "sw": 5, "sh": 2},
], ids=str)  # fmt: skip
def test_strides_across_several_tiles(rng, monkeypatch, sizes):
    p = problem(**{"mb": 2, "ic": 7, "oc": 33, "ih": 37, "iw": 41} | PADS | sizes)
    reach = (p.kh - 1) * p.dh, p.kw - 1
    monkeypatch.setattr(fft, "chosen_tiles", lambda problem: Tiles(12, 12 - reach[0], 8, 8 - reach[1]))
    x, w, bias, residual = normal(rng, p)
    terms = {"algorithm": "fft-tiled", "residual": residual, "activation": "relu", "num_threads": 2}
    assert min(make_lowering("fft-tiled").tiles(p).counts(p)) > 3
    wanted = oracle(p, x, w, bias, residual, "relu")
    assert close(nc.conv2d(x, w, bias, **arguments(p), **terms), wanted, p, "fft-tiled", x, w)


@pytest.mark.parametrize("name", NAMES)
def test_a_residual_in_another_order_is_added(rng, name):
    p = problem(**KINDS["ragged tiles, odd channels"])
    x, w, bias, residual = normal(rng, p)
    plan = make_plan(p, name, Request(num_threads=2, epilogue=Epilogue(True, True, "relu6")))
    out = np.full(p.output_shape, np.nan, p.dtype)
    plan.run(x, plan.prepare(w), out, bias, in_memory(residual, "nhwc"))
    assert close(out, oracle(p, x, w, bias, residual, "relu6"), p, name, x, w)


@pytest.mark.parametrize("name", NAMES)
def test_arrays_of_any_strides(rng, name):
    p = problem(**KINDS["strides"])
    x, w, bias, residual = normal(rng, p)
    plan = make_plan(p, name, Request(num_threads=2, epilogue=Epilogue(True, True, None)))
    sparse, scattered = (np.full((*shape, 2), np.nan, p.dtype) for shape in (p.input_shape, p.output_shape))
    sparse[..., 0] = x
    plan.run(sparse[..., 0], plan.prepare(w), scattered[..., 0], bias, residual)
    assert close(scattered[..., 0], oracle(p, x, w, bias, residual), p, name, x, w)
    assert np.isnan(scattered[..., 1]).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["rows of several blocks", "whole vectors of channels", "groups"])
def test_the_same_bits_for_any_number_of_threads(rng, name, kind):
    p = problem(**KINDS[kind])
    x, w, *_ = normal(rng, p)
    one, *others = (nc.conv2d(x, w, **arguments(p), algorithm=name, num_threads=n) for n in (1, 2, 3, 7))
    for other in others:
        assert_array_equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_pixels_that_no_output_reads_spoil_none(rng, name):
    p = problem(ih=12, iw=15, kh=5, kw=4, sh=3, sw=4)
    x, w, *_ = normal(rng, p)
    wanted = oracle(p, x, w)
    x[:, :, 11:], x[..., 12:] = np.nan, np.nan
    assert close(nc.conv2d(x, w, **arguments(p), algorithm=name), wanted, p, name, np.nan_to_num(x), w)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sizes", [
    {"ic": 1, "kh": 3, "kw": 3}, {"ic": 64, "kh": 3, "kw": 3}, {"ic": 3, "kh": 11, "kw": 11},
    {"ic": 2, "kh": 1, "kw": 2}, {"ic": 6, "ih": 101, "iw": 101, "kh": 5, "kw": 5},
], ids=str)  # fmt: skip
def test_the_error_is_within_its_bound(rng, name, sizes):
    p = problem(**{"ih": 30, "iw": 30, "oc": 8} | sizes)
    x, w, *_ = normal(rng, p)
    factor = make_lowering(name).error_bound(p, Request())
    for image in (x, np.maximum(x, 0)):
        exact = convolve(image, w, **sizes_of(p))
        direct = convolve(image, w, **sizes_of(p), dtype=np.float32) - exact
        off = nc.conv2d(image, w, algorithm=name) - exact
        assert np.linalg.norm(off) <= factor * np.linalg.norm(direct)
        assert np.abs(off).max() <= 2 * factor * np.abs(direct).max()


# ------------------------------------------------------------------------------------------------------------ the rest


@pytest.mark.parametrize("name", NAMES)
def test_refusals_say_why(name):
    for changes in ({"kh": 1, "sh": 2}, {"kw": 3, "dw": 2, "sw": 2}):
        with pytest.raises(nc.UnsupportedProblem, match="stride 2 leaves out pixels"):
            nc.plan(problem(**changes), algorithm=name)
    with pytest.raises(nc.UnsupportedProblem, match=r"its transformed weights would take \d+ GiB"):
        nc.plan(problem(ic=1 << 13, oc=1 << 13, kh=2, kw=2), algorithm=name)


def test_multiply_adds_hardly_grow_with_the_kernel_and_do_not_shrink_with_strides():
    def adds(name, kernel, stride=1):
        pad = kernel // 2
        p = problem(ic=64, oc=64, ih=56, iw=56, kh=kernel, kw=kernel, sh=stride, sw=stride,
                    **dict.fromkeys(PAD_NAMES, pad))  # fmt: skip
        return make_lowering(name).multiply_adds(p) / p.macs

    assert adds("fft", 3) == 4 * (60 * 60 / 2 + 2) / (9 * 56 * 56)
    assert adds("fft", 31) == 4 * (72 * 72 / 2 + 2) / (31 * 31 * 56 * 56)
    for name in NAMES:
        assert adds(name, 15) < adds(name, 7) < adds(name, 3)
        assert 3.5 * adds(name, 7) < adds(name, 7, 2) < 4.5 * adds(name, 7)


def test_where_the_circle_closes_the_pads_are_the_same_zeros():
    same = problem(ih=56, iw=56, kh=31, kw=31, **dict.fromkeys(PAD_NAMES, 15))
    assert whole_image(same) == (72, 56, 72, 56)  # 56 + 15, not 56 + 30
    assert whole_image(problem(ih=56, iw=57)) == (60, 54, 60, 55)


def test_the_tile_depends_on_nothing_that_differs_between_parts():
    p = problem(mb=4, ic=64, oc=64, ih=56, iw=56, kh=5, kw=5)
    assert chosen_tiles(p) == chosen_tiles(replace(p, mb=1, ih=9, pad_top=2)) != chosen_tiles(replace(p, iw=9))


def test_only_the_whole_image_is_never_cut_into_bands(rng):
    p = problem(mb=2, ic=8, oc=8, ih=90, iw=90)
    for name in NAMES:
        free = nc.plan(p, name, num_threads=1)
        single = nc.plan(replace(p, mb=1), name, num_threads=1)
        if name == "fft":
            assert nc.plan(p, name, num_threads=1, max_workspace=free.workspace_bytes - 1).lowering_bytes \
                == single.lowering_bytes  # fmt: skip
            with pytest.raises(nc.WorkspaceExceeded):
                nc.plan(p, name, num_threads=1, max_workspace=single.workspace_bytes - 1)
        else:
            bands = nc.plan(p, name, num_threads=1, max_workspace=single.workspace_bytes - 1)
            assert len(bands.plan.division.parts) > p.mb
            x, w, *_ = normal(rng, p)
            assert_array_equal(bands.prepare(w)(x).shape, p.output_shape)
            assert close(bands(x), oracle(p, x, w), p, name, x, w)


def test_scratch_of_tiles_is_a_few_blocks_however_large_the_image():
    p = problem(ic=64, oc=64, ih=130, iw=130)
    sizes = [nc.plan(replace(p, ih=side), "fft-tiled", num_threads=2).lowering_bytes for side in (130, 1026)]
    assert max(sizes) < 1.2 * min(sizes)
    assert nc.plan(p, "fft-tiled").panel_bytes == nc.plan(p, "fft").panel_bytes == 0
    few = Blocks.of(problem(ic=64, oc=128, ih=8, iw=8), Tiles(12, 10, 12, 10), 2)
    assert (few.tiles, few.blocks, few.parts) == (1, 1, 2)  # few tiles are shared out by output channels


WIDTHS = """
import numpy as np, oracles
import numbaconv as nc
rng = np.random.default_rng(3)
for dtype in ("f4", "f8"):
    x, w, bias = (rng.standard_normal(shape).astype(dtype) for shape in ((1, 9, 10, 19), (21, 9, 3, 3), 21))
    wanted = oracles.conv2d(x, w, bias, pads=(1, 1, 1, 1), activation="relu")
    for image in (x, x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)):
        for name in ("fft", "fft-tiled"):
            got = nc.conv2d(image, w, bias, padding=1, algorithm=name, activation="relu", num_threads=2)
            assert np.abs(got - wanted).max() < 100 * np.finfo(dtype).eps, (dtype, name)
print("right")
"""


@pytest.mark.parametrize("bits", [128, 256])
def test_narrower_vectors(python, bits):
    assert python(WIDTHS, env={"NUMBACONV_VECTOR_BITS": str(bits)}).strip() == "right"
