"""``Conv2d`` and ``Linear``: the functions' results, with weights kept, prepared, and forgotten when replaced."""

from __future__ import annotations

import threading

import numpy as np
import oracles
import pytest
from cases import whole
from numpy.testing import assert_array_equal

import numbaconv as nc
from numbaconv.layers import KEPT_PLANS
from numbaconv.lowerings.im2col import Im2col


def wanted(x, w, bias=None, residual=None, activation=None):
    return oracles.conv2d(x, w, bias, (2, 1), (1, 1, 1, 1), residual=residual, activation=activation)


@pytest.fixture
def arrays(rng):
    return whole(rng, 2, 4, 9, 11), whole(rng, 6, 4, 3, 3), whole(rng, 6)


# ------------------------------------------------------------------------------------------------------------ Conv2d


@pytest.mark.parametrize("algorithm", ["auto", "im2col", "reference", "im2col:batching=whole"])
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_a_convolution_layer(rng, arrays, algorithm, activation):
    x, w, bias = arrays
    layer = nc.Conv2d.from_arrays(w, bias, (2, 1), 1, algorithm=algorithm, activation=activation, num_threads=2)
    residual = whole(rng, 2, 6, 5, 11)
    assert_array_equal(layer(x), wanted(x, w, bias, None, activation))
    assert_array_equal(layer(x, residual=residual), wanted(x, w, bias, residual, activation))
    assert_array_equal(layer(x), wanted(x, w, bias, None, activation))
    out = np.full((2, 6, 5, 11), np.nan, np.float32)
    assert layer(x, out=out) is out
    assert_array_equal(out, wanted(x, w, bias, None, activation))
    assert_array_equal(layer(x[0]), wanted(x[:1], w, bias, None, activation)[0])
    layer = nc.Conv2d.from_arrays(w, None, (2, 1), 1, algorithm=algorithm, activation=activation)
    assert layer.bias is None
    assert_array_equal(layer(x), wanted(x, w, None, None, activation))


def test_what_a_layer_says_of_itself(arrays):
    x, w, bias = arrays
    layer = nc.Conv2d.from_arrays(w, bias, (2, 1), 1, algorithm="im2col")
    assert layer.algorithm is None
    assert layer.workspace_bytes == layer.prepared_bytes == 0
    assert layer.stage_times == {}
    layer(x)
    handle = nc.plan(nc.ConvProblem.from_arrays(x, w, (2, 1), 1), "im2col", bias=True)
    assert layer.algorithm == handle.algorithm
    assert layer.workspace_bytes == handle.workspace_bytes > 0
    assert layer.prepared_bytes == handle.prepare(w, bias).prepared_bytes >= w.nbytes
    assert set(layer.stage_times) == {"lower", "multiply", "lift"}
    assert layer.stage_times["multiply"] > 0
    chosen = nc.Conv2d(24, 144, 1)
    chosen(np.zeros((1, 24, 56, 56), np.float32))
    assert chosen.algorithm == "conv1x1"


def test_new_weights_replace_the_prepared_ones(rng, arrays):
    x, w, bias = arrays
    for algorithm in ("im2col", "reference"):
        layer = nc.Conv2d.from_arrays(w, bias, (2, 1), 1, algorithm=algorithm)
        layer(x)
        other, other_bias = whole(rng, *w.shape), whole(rng, 6)
        layer.set_weights(other, other_bias)
        assert layer.prepared_bytes == 0
        assert_array_equal(layer.weight, other)
        assert_array_equal(layer(x), wanted(x, other, other_bias))
        layer.set_weights(other)
        assert layer.bias is None
        assert_array_equal(layer(x), wanted(x, other))
        layer.set_weights(w, bias)
        assert_array_equal(layer(x), wanted(x, w, bias))


@pytest.mark.parametrize("algorithm", ["im2col", "reference"])
def test_a_layer_does_not_notice_when_the_arrays_it_was_given_change(arrays, algorithm):
    x, w, bias = arrays
    expected = wanted(x, w, bias)
    layer = nc.Conv2d.from_arrays(w, bias, (2, 1), 1, algorithm=algorithm)
    layer(x)
    w[...], bias[...] = np.nan, np.nan
    assert_array_equal(layer(x), expected)
    assert_array_equal(layer(x[:1]), expected[:1])
    plan = nc.plan(nc.ConvProblem.from_arrays(x, layer.weight, (2, 1), 1), algorithm, bias=True)
    w[...], bias[...] = layer.weight, layer.bias
    plan.prepare(w, bias)
    w[...], bias[...] = np.nan, np.nan
    assert_array_equal(plan(x), expected)


def test_weights_of_other_shapes_are_refused_and_change_nothing(arrays):
    x, w, bias = arrays
    layer = nc.Conv2d.from_arrays(w, bias, (2, 1), 1)
    for bad, words in ((w[:5], r"\(6, 4, 3, 3\).*\(5, 4, 3, 3\)"), (w[0], "shape"), (w.astype("f8"), None)):
        if words:
            with pytest.raises(nc.ShapeError, match=words):
                layer.set_weights(bad, bias)
    with pytest.raises(nc.ShapeError, match=r"bias.*\(6,\).*\(5,\)"):
        layer.set_weights(w, bias[:5])
    assert_array_equal(layer(x), wanted(x, w, bias))


def test_inputs_of_many_shapes_memory_orders_and_axes(rng, arrays):
    _, w, bias = arrays
    layer = nc.Conv2d.from_arrays(w, bias, (2, 1), 1)
    for turn in range(3):
        for size in range(3, 3 + KEPT_PLANS + 3):
            x = whole(rng, 1 + turn, 4, size, size + 2)
            assert_array_equal(layer(x), wanted(x, w, bias))
            assert_array_equal(layer(np.asfortranarray(x)), wanted(x, w, bias))
            last = x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
            assert_array_equal(layer(last), wanted(x, w, bias))
    assert len(layer._state.prepared) <= KEPT_PLANS
    assert layer(whole(rng, 0, 4, 9, 9)).shape == (0, 6, 5, 9)
    nhwc = nc.Conv2d.from_arrays(w, bias, (2, 1), 1, layout="nhwc")
    x = whole(rng, 2, 7, 8, 4)
    assert_array_equal(nhwc(x).transpose(0, 3, 1, 2), wanted(x.transpose(0, 3, 1, 2), w, bias))


def test_weights_replaced_while_another_thread_prepares_the_old_ones(arrays, monkeypatch):
    x, w, bias = arrays
    preparing, go_on = threading.Event(), threading.Event()
    prepare = Im2col.prepare_weights

    def slowly(self, problem, request, weights):
        prepared = prepare(self, problem, request, weights)
        preparing.set()
        assert go_on.wait(60)
        return prepared

    monkeypatch.setattr(Im2col, "prepare_weights", slowly)
    layer, results = nc.Conv2d.from_arrays(w, bias, (2, 1), 1, algorithm="im2col"), []
    caller = threading.Thread(target=lambda: results.append(layer(x)))
    caller.start()
    assert preparing.wait(60)
    layer.set_weights(-w, None)
    go_on.set()
    caller.join()
    assert_array_equal(results[0], wanted(x, w, bias))  # the weights and the bias that were there when it began
    assert_array_equal(layer(x), wanted(x, -w))


def test_threads_share_a_layer_of_many_input_shapes(rng, arrays):
    _, w, bias = arrays
    layer, failures = nc.Conv2d.from_arrays(w, bias, (2, 1), 1, num_threads=2), []
    images = [whole(rng, 1, 4, size, 9) for size in range(5, 5 + KEPT_PLANS + 4)]
    expected = [wanted(x, w, bias) for x in images]

    def caller(number):
        try:
            for turn in range(100):
                place = (number + 3 * turn) % len(images)
                if not np.array_equal(layer(images[place]), expected[place]):
                    failures.append("wrong")
        except Exception as error:
            failures.append(repr(error))

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(6)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert not failures


def test_random_weights_come_from_the_seed():
    one, same, other = (nc.Conv2d(3, 8, (3, 5), seed=seed) for seed in (1, 1, 2))
    assert one.weight.shape == (8, 3, 3, 5)
    assert one.weight.dtype == np.float32
    assert one.bias.shape == (8,)
    assert_array_equal(one.weight, same.weight)
    assert_array_equal(one.bias, same.bias)
    assert not np.array_equal(one.weight, other.weight)
    bound = 1 / np.sqrt(3 * 3 * 5)
    assert 0.5 * bound < np.abs(one.weight).max() <= bound
    grouped = nc.Conv2d(6, 8, 3, groups=2, bias=False, dtype="float64")
    assert grouped.weight.shape == (8, 3, 3, 3)
    assert grouped.weight.dtype == np.float64
    assert grouped.bias is None
    assert not np.array_equal(nc.Conv2d(3, 8, 3).weight, nc.Conv2d(3, 8, 3).weight)


def test_a_layer_stays_where_it_is():
    layer = nc.Conv2d(3, 4, 3)
    assert layer.to("cpu") is layer
    with pytest.raises(nc.DeviceUnavailable, match="cuda"):
        layer.to("cuda")


def test_the_workspace_of_a_layer_is_limited(arrays):
    x, w, _ = arrays
    layer = nc.Conv2d.from_arrays(w, None, (2, 1), 1, max_workspace=0)
    layer(x)
    assert layer.workspace_bytes == 0
    with pytest.raises(nc.WorkspaceExceeded):
        nc.Conv2d.from_arrays(w, None, (2, 1), 1, max_workspace=10, algorithm="im2col")(x)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((3, 4, 3), {"groups": 2}, nc.ShapeError, "groups=2 must divide in_channels=3"),
        ((4, 3, 3), {"groups": 2}, nc.ShapeError, "out_channels=3"),
        ((4, 4, 3), {"groups": 0}, nc.ShapeError, "groups=0"),
        ((0, 4, 3), {}, nc.ShapeError, "in_channels"),
        ((3, -1, 3), {}, nc.ShapeError, "out_channels"),
        ((3, 4, 0), {}, nc.ShapeError, "kernel_size"),
        ((3, 4, (3, 3, 3)), {}, nc.ShapeError, "kernel_size"),
        ((3, 4, "3"), {}, nc.ShapeError, "kernel_size"),
        ((3, 4, 3), {"algorithm": "im2cool"}, nc.UnknownLowering, "did you mean 'im2col'"),
        ((3, 4, 3), {"activation": "gelu"}, ValueError, "activation.*'gelu'"),
        ((3, 4, 3), {"layout": "chwn"}, nc.ShapeError, "layout.*'chwn'"),
        ((3, 4, 3), {"dtype": "float16"}, nc.ShapeError, "float16"),
        ((3, 4, 3), {"num_threads": 0}, ValueError, "num_threads"),
        ((3, 4, 3), {"max_workspace": -1}, ValueError, "max_workspace"),
        ((3, 4, 3), {"device": "cuda"}, nc.DeviceUnavailable, "cuda"),
        ((3, 4, 3), {"device": "tpu"}, ValueError, "device.*'tpu'"),
        ((3, 4, 3), {"stirde": 2}, TypeError, "stirde"),
    ],
)
def test_wrong_words_fail_when_a_layer_is_made(arguments, options, error, words):
    with pytest.raises(error, match=words):
        nc.Conv2d(*arguments, **options)


def test_inputs_that_do_not_fit_a_layer(arrays):
    x, w, bias = arrays
    layer = nc.Conv2d.from_arrays(w, bias)
    for bad, words in (
        (x[:, :3], "3 channels"),
        (x.astype("f8"), "float64"),
        (x[0, 0], "4 axes"),
        (x[:, :, :2], "larger than"),
    ):
        with pytest.raises(nc.ShapeError, match=words):
            layer(bad)


# ------------------------------------------------------------------------------------------------------------ Linear


@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_fully_connected_layer(rng, activation):
    w, bias = whole(rng, 50, 70), whole(rng, 50)
    layer = nc.Linear.from_arrays(w, bias, activation=activation, num_threads=2)
    assert layer.prepared_bytes == 0
    for shape in ((), (1,), (2,), (5,), (33,), (2, 3), (0,), (4, 0), (64,), (130,)):
        x = whole(rng, *shape, 70)
        expected = oracles.gemm(x.reshape(-1, 70), w.T, bias=bias, activation=activation).reshape(*shape, 50)
        assert_array_equal(layer(x), expected)
        out = np.full((*shape, 50), np.nan, np.float32)
        assert layer(x, out=out) is out
        assert_array_equal(out, expected)
    assert w.nbytes <= layer.prepared_bytes <= 3 * w.nbytes


def test_weights_of_a_fully_connected_layer_are_replaced(rng):
    w, bias, x = whole(rng, 50, 70), whole(rng, 50), whole(rng, 20, 70)
    layer = nc.Linear.from_arrays(w, bias)
    layer(x)
    layer(x[:1])
    other = whole(rng, 50, 70)
    layer.set_weights(other)
    for rows in (20, 1):
        assert_array_equal(layer(x[:rows]), oracles.matmul(x[:rows], other.T))
    expected = oracles.matmul(x, other.T)
    other[...] = np.nan
    assert_array_equal(layer(x), expected)
    assert_array_equal(layer(x[:1]), expected[:1])
    with pytest.raises(nc.ShapeError, match=r"\(50, 70\)"):
        layer.set_weights(w.T)


def test_a_fully_connected_layer_of_random_weights():
    layer, same = nc.Linear(30, 20, seed=3), nc.Linear(30, 20, seed=3)
    assert layer.weight.shape == (20, 30)
    assert layer.bias.shape == (20,)
    assert_array_equal(layer.weight, same.weight)
    assert nc.Linear(30, 20, False).bias is None
    assert layer(np.zeros((3, 30), np.float32)).shape == (3, 20)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"activation": "gelu"}, ValueError, "activation.*'gelu'"),
        ({"device": "cuda"}, nc.DeviceUnavailable, "cuda"),
        ({"num_threads": 0}, ValueError, "num_threads"),
        ({"precision": "low"}, ValueError, "precision"),
        ({"activatoin": "relu"}, TypeError, "activatoin"),
    ],
)
def test_wrong_words_fail_when_a_fully_connected_layer_is_made(options, error, words):
    with pytest.raises(error, match=words):
        nc.Linear(3, 4, **options)
    with pytest.raises(error, match=words):
        nc.Linear.from_arrays(np.zeros((4, 3), np.float32), **options)
