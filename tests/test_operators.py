"""The operators between the products against float64 plain NumPy, at every vector width."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from numbaconv.errors import ShapeError
from numbaconv.machine import detect
from numbaconv.networks.operators import local_response_norm, max_pool, relu, softmax

ROOT = Path(__file__).resolve().parents[1]


def lrn_oracle(x, alpha):
    """Channel by channel, float64."""
    x = x.astype(np.float64)
    out = np.empty_like(x)
    for c in range(x.shape[1]):
        window = x[:, max(c - 2, 0) : c + 3]
        out[:, c] = x[:, c] / (1 + alpha / 5 * (window**2).sum(axis=1)) ** 0.75
    return out


def pool_oracle(x, size, stride):
    """Window by window; the last may hang over the edge."""
    mb, channels, ih, iw = x.shape
    rows, columns = (-(-(pixels - size) // stride) + 1 for pixels in (ih, iw))
    out = np.empty((mb, channels, rows, columns))
    for i in range(rows):
        for j in range(columns):
            out[:, :, i, j] = x[:, :, i * stride : i * stride + size, j * stride : j * stride + size].max(axis=(2, 3))
    return out


def random(*shape, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


# --------------------------------------------------------------------------------------- response normalisation


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "shape", [(1, 96, 55, 55), (2, 7, 5, 3), (1, 1, 4, 4), (1, 2, 3, 3), (3, 5, 1, 1), (1, 4, 1, 257), (0, 3, 2, 2)]
)
def test_lrn(shape, threads):
    x = random(*shape, scale=30)
    out = local_response_norm(x, num_threads=threads)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, lrn_oracle(x, 1e-4), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e3, 1e6, 1e15])
@pytest.mark.parametrize("alpha", [0.0, 1e-4, 5.0])
def test_lrn_of_any_size_of_numbers(scale, alpha):
    x = random(2, 9, 6, 7, scale=scale)
    np.testing.assert_allclose(local_response_norm(x, alpha), lrn_oracle(x, alpha), rtol=2e-6)


def test_lrn_survives_squares_that_overflow():
    x = random(1, 7, 3, 20, scale=1e25)
    out = local_response_norm(x)
    assert np.isfinite(out).all()
    assert (np.abs(out) < 1e-20 * np.abs(x)).all()


def test_lrn_keeps_nan_and_its_window():
    x = random(1, 9, 2, 20)
    x[0, 4, 1, 3] = np.nan
    wrong = np.zeros(x.shape, bool)
    wrong[0, 2:7, 1, 3] = True
    np.testing.assert_array_equal(np.isnan(local_response_norm(x)), wrong)


def test_lrn_takes_any_strides_and_leaves_its_input():
    x = random(2, 6, 7, 8)
    kept = x.copy()
    strided = x.transpose(0, 1, 3, 2)[:, ::-1]
    np.testing.assert_allclose(local_response_norm(strided), lrn_oracle(strided, 1e-4), rtol=1e-6)
    np.testing.assert_array_equal(x, kept)


# -------------------------------------------------------------------------------------------------- max pooling


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("shape", "size", "stride"),
    [
        ((1, 96, 55, 55), 3, 2),
        ((2, 5, 13, 13), 3, 2),
        ((1, 3, 3, 3), 3, 2),
        ((1, 3, 14, 112), 3, 2),
        ((1, 3, 8, 65), 3, 2),
        ((2, 3, 8, 34), 2, 2),
        ((2, 3, 9, 35), 2, 2),
        ((2, 3, 7, 40), 3, 1),
        ((1, 2, 4, 5), 1, 1),
        ((1, 2, 17, 19), 4, 3),
        ((1, 2, 17, 19), 3, 3),
        ((0, 2, 9, 9), 3, 2),
    ],
)
def test_max_pool(shape, size, stride, threads):
    x = random(*shape)
    out = max_pool(x, size, stride, num_threads=threads)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, pool_oracle(x, size, stride))


def test_max_pool_of_negative_numbers_at_the_edge():
    x = -1 - np.abs(random(1, 2, 6, 6))
    np.testing.assert_array_equal(max_pool(x), pool_oracle(x, 3, 2))


@pytest.mark.parametrize("place", [(0, 0), (2, 2), (3, 4), (8, 8)])
def test_max_pool_keeps_nan(place):
    x = random(1, 2, 9, 9)
    x[0, 1][place] = np.nan
    np.testing.assert_array_equal(max_pool(x), pool_oracle(x, 3, 2))
    assert np.isnan(max_pool(x)).any()


def test_max_pool_takes_any_strides():
    x = random(2, 6, 9, 11).transpose(0, 1, 3, 2)[:, :, ::-1]
    np.testing.assert_array_equal(max_pool(x), pool_oracle(x, 3, 2))


@pytest.mark.parametrize(("size", "stride"), [(3, 0), (2, 3), (6, 2), (0, 1)])
def test_max_pool_refuses_windows_that_do_not_fit(size, stride):
    with pytest.raises(ShapeError, match=f"size={size}, stride={stride}"):
        max_pool(random(1, 1, 5, 7), size, stride)


# --------------------------------------------------------------------------------------------- ReLU and softmax


def test_relu():
    x = random(3, 5, 7)
    x.flat[:3] = np.nan, -np.inf, -0.0
    expected = np.where(x < 0, 0, x)
    np.testing.assert_array_equal(relu(x), expected)
    np.testing.assert_array_equal(relu(x.T), expected.T)
    out = np.full_like(x, 7)
    assert relu(x, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert relu(x, out=x) is x
    np.testing.assert_array_equal(x, expected)


def test_softmax():
    x = random(4, 1000, scale=20)
    x[1] += 1e4
    wide = x.astype(np.float64)
    expected = np.exp(wide - wide.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(x), expected, rtol=2e-6, atol=1e-30)
    x[2, 5] = np.nan
    assert np.isnan(softmax(x)).any(axis=1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("operator", [local_response_norm, max_pool, relu, softmax])
def test_other_dtypes_are_refused(operator):
    with pytest.raises(ShapeError, match="float32; got float64"):
        operator(np.zeros((1, 1) if operator is softmax else (1, 1, 5, 5)))


def test_other_shapes_are_refused():
    for operator in (local_response_norm, max_pool):
        with pytest.raises(ShapeError, match=r"4 axes; got shape \(5, 5\)"):
            operator(np.zeros((5, 5), np.float32))
    with pytest.raises(ShapeError, match="2 axes"):
        softmax(np.zeros(5, np.float32))
    with pytest.raises(ShapeError, match="alpha"):
        local_response_norm(np.zeros((1, 1, 2, 2), np.float32), alpha=-1)
    with pytest.raises(ShapeError, match=r"out must be .* shape \(3,\)"):
        relu(np.zeros(3, np.float32), out=np.zeros(4, np.float32))


@pytest.mark.parametrize("bits", [128, 256])
def test_narrower_vectors(bits):
    if detect().vector_bits <= bits:
        pytest.skip(f"this machine's vectors are no wider than {bits} bits")
    selected = "test_lrn or test_max_pool"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", selected],
        env=os.environ | {"NUMBACONV_VECTOR_BITS": str(bits)}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
