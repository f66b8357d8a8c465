"""``plan_network``: the cheapest path against all paths, what it costs to read across, and chains that run."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from types import SimpleNamespace

import numpy as np
import oracles
import pytest
from numpy.testing import assert_array_equal

import numbaconv as nc
from numbaconv import network_plan
from numbaconv.calibration import TYPICAL
from numbaconv.find_database import Entry
from numbaconv.layouts import LAYOUTS
from numbaconv.network_plan import length, shortest
from numbaconv.networks import layers

CHAIN = ["mb2ic3ih9oc8kh3ph1", "mb2ic8ih9oc12kh3", "mb2ic12ih7oc6kh1", "mb2ic6ih7oc4kh3sh2ph1"]


# --------------------------------------------------------------------------------------------------- the shortest path


@pytest.mark.parametrize("count", [1, 2, 3, 6])
@pytest.mark.parametrize("starts", [("nchw",), ("nhwc",), LAYOUTS])
def test_the_path_is_the_shortest_of_all(rng, count, starts):
    for _ in range(20):
        costs = [{pair: float(rng.integers(-5, 9)) for pair in product(LAYOUTS, LAYOUTS)} for _ in range(count)]
        ends = {layout: float(rng.integers(0, 9)) for layout in LAYOUTS}
        every = [path for path in product(LAYOUTS, repeat=count + 1) if path[0] in starts]
        best = shortest(costs, starts, ends)
        assert tuple(best) in every
        assert length(costs, best, ends) == min(length(costs, path, ends) for path in every)


def test_of_equal_paths_the_one_with_fewer_changes():
    costs = [dict.fromkeys(product(LAYOUTS, LAYOUTS), 1.0)] * 5
    ends = dict.fromkeys(LAYOUTS, 0.0)
    assert shortest(costs, ["nhwc"], ends) == ["nhwc"] * 6
    assert shortest(costs, ["nhwc"], {"nchw": 0.0, "nhwc": 1.0}).count("nhwc") in range(1, 6)


def preferring(monkeypatch, *orders, slow=2.0, fast=1.0):
    """Made-up predictions: the i-th layer is fast in the order given."""
    wanted = dict(zip([nc.ConvProblem.parse(text).ic for text in CHAIN], orders, strict=True))
    lowering = SimpleNamespace(spec="direct")

    def plausible(problem, request, factor, most):
        return [SimpleNamespace(lowering=lowering, seconds=fast if wanted[problem.ic] == problem.layout else slow)]

    monkeypatch.setattr(network_plan, "plausible", plausible)


def bytes_a_second(monkeypatch, speed):
    monkeypatch.setattr(network_plan, "bandwidth", lambda request: speed)


def test_mixed_orders_win_where_reading_across_is_cheap(monkeypatch):
    preferring(monkeypatch, "nhwc", "nchw", "nchw", "nhwc")
    bytes_a_second(monkeypatch, 1e6)
    plan = nc.plan_network(CHAIN)
    assert plan.layouts == ("nhwc", "nchw", "nchw", "nhwc")
    assert [layer.reads for layer in plan.layers] == ["nchw", "nhwc", "nchw", "nchw"]
    sizes = [nc.ConvProblem.parse(text) for text in CHAIN]
    across = [sizes[0].input_bytes, sizes[1].input_bytes, 0, sizes[3].input_bytes + sizes[3].output_bytes]
    assert [layer.reorder_bytes for layer in plan.layers] == across
    assert plan.seconds == pytest.approx(4 * 1.0 + sum(across) / 1e6)
    ends = (sizes[0].input_bytes + sizes[3].output_bytes) / 1e6
    assert plan.single == {"nchw": pytest.approx(6.0), "nhwc": pytest.approx(6.0 + ends)}
    assert plan.seconds < min(plan.single.values())


def test_one_order_wins_where_reading_across_is_dear(monkeypatch):
    preferring(monkeypatch, "nhwc", "nchw", "nchw", "nhwc")
    bytes_a_second(monkeypatch, 1e3)
    plan = nc.plan_network(CHAIN)
    assert plan.layouts == ("nchw",) * 4
    assert plan.seconds == min(plan.single.values()) == 6.0
    assert plan.reorder_bytes == 0
    free = nc.plan_network(CHAIN, input_layout=None, output_layout=None)
    assert free.seconds == 6.0
    assert free.input_layout == free.layers[0].layout
    assert free.output_layout == free.layers[-1].layout


@pytest.mark.parametrize(("start", "end"), [("nchw", "nchw"), ("nhwc", "nchw"), (None, None)])
def test_predictions_add_up_to_the_best_of_all_orders(start, end):
    """The same sum from ``explain`` alone, for every assignment of orders."""
    problems = [nc.ConvProblem.parse(text) for text in CHAIN]
    plan = nc.plan_network(CHAIN, num_threads=1, input_layout=start, output_layout=end)

    def predicted(problem):
        return min(
            row.seconds
            for row in nc.explain(problem, num_threads=1).rows
            if row.runs and getattr(row, "admitted", True)
        )

    def total(orders):
        seconds = 0.0
        for problem, (reads, own) in zip(problems, pairwise(orders), strict=True):
            seconds += predicted(replace(problem, layout=own)) + (reads != own) * problem.input_bytes / TYPICAL.memory
        return seconds + (end not in (None, orders[-1])) * problems[-1].output_bytes / TYPICAL.memory

    every = [path for path in product(LAYOUTS, repeat=5) if start in (None, path[0])]
    assert plan.seconds == pytest.approx(min(map(total, every)))
    assert plan.seconds == pytest.approx(total((plan.input_layout, *plan.layouts)))
    for order, seconds in plan.single.items():
        assert seconds == pytest.approx(min(total(path) for path in every if set(path[1:]) == {order}))


def test_one_channel_or_one_pixel_lies_the_same_in_either_order():
    plan = nc.plan_network(["ic1ih5oc4kh5", "ic4ih1oc6kh1"], input_layout="nhwc", output_layout="nchw")
    assert plan.reorder_bytes == 0


def test_measured_times_take_the_place_of_predictions(monkeypatch):
    asked = []
    times = {("nchw", "nchw"): 5.0, ("nhwc", "nhwc"): 4.0, ("nchw", "nhwc"): 4.5, ("nhwc", "nchw"): 9.0}

    def measure(problem, request, worth, orders):
        name = f"reads {orders[0]}"
        asked.append((problem.layout, orders))
        writes_across = 0.25 * (problem.layout != orders[1])
        return Entry(name, {name: times[orders[0], problem.layout] + writes_across, "slow": 99.0})

    monkeypatch.setattr(network_plan, "measure", measure)
    plan = nc.plan_network([CHAIN[1], CHAIN[1]], "measure")
    assert plan.layouts == ("nhwc", "nhwc")
    assert [layer.algorithm for layer in plan.layers] == ["reads nchw", "reads nhwc"]
    assert [layer.reorder_seconds for layer in plan.layers] == [0.5, 0.25]
    assert plan.seconds == 4.5 + 4.0 + 0.25
    assert len(asked) == len(set(asked))  # the same layer twice, asked about once
    asked.clear()
    nc.plan_network(["ic16ih1oc8kh1"], "measure")
    assert set(asked) == {(layout, (layout, layout)) for layout in LAYOUTS}


# --------------------------------------------------------------------------------------------------- what runs


def whole(rng, *shape):
    return rng.integers(-2, 3, shape).astype("f4")


@pytest.fixture
def data(rng):
    problems = [nc.ConvProblem.parse(text) for text in CHAIN]
    weights = [whole(rng, *problem.weight_shape) for problem in problems]
    biases = [whole(rng, problem.oc) for problem in problems]
    x = whole(rng, *problems[0].input_shape)
    wanted = x
    for p, w, bias in zip(problems, weights, biases, strict=True):
        pads = p.pad_top, p.pad_left, p.pad_bottom, p.pad_right
        wanted = oracles.conv2d(wanted, w, bias, (p.sh, p.sw), pads, activation="relu6")
    assert wanted.max() == 6
    assert 0 < np.count_nonzero(wanted) < wanted.size
    return x, weights, biases, wanted


def axes(array, layout):
    return array if layout == "nchw" else np.ascontiguousarray(array.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    "orders", [("nchw",) * 5, ("nchw", "nhwc", "nchw", "nhwc", "nhwc"), ("nhwc", "nchw") * 2 + ("nhwc",)]
)
@pytest.mark.parametrize("output", LAYOUTS)
def test_a_chain_runs_in_any_orders(monkeypatch, data, orders, output):
    x, weights, biases, wanted = data
    monkeypatch.setattr(network_plan, "shortest", lambda *_: list(orders))
    options = {"input_layout": orders[0], "output_layout": output, "num_threads": 1}
    plan = nc.plan_network(CHAIN, "im2col", bias=True, activation="relu6", **options)
    assert plan.layouts == orders[1:]
    assert plan.prepared_bytes == 0
    plan.prepare(weights, biases)
    for _ in range(2):
        got = plan(axes(x, orders[0]))
        assert_array_equal(got, axes(wanted, output))
        assert got.flags.c_contiguous
    assert plan.prepared_bytes >= sum(w.nbytes for w in weights)
    assert plan.workspace_bytes == max(handle.workspace_bytes for handle in plan.handles()) > 0


def test_one_image_and_one_layer(data):
    x, weights, biases, _ = data
    plan = nc.plan_network([CHAIN[0].replace("mb2", "mb1")], bias=True, input_layout="nhwc", output_layout="nhwc")
    image = axes(x[:1], "nhwc")[0]
    got = plan.prepare(weights[:1], biases[:1])(image)
    assert_array_equal(got[None], axes(oracles.conv2d(x[:1], weights[0], biases[0], pads=(1, 1, 1, 1)), "nhwc"))


def test_handles_run_layers_by_themselves(data):
    x, weights, biases, wanted = data
    plan = nc.plan_network(CHAIN, bias=True, activation="relu6")
    for handle, w, bias in zip(plan.handles(), weights, biases, strict=True):
        x = handle.prepare(w, bias)(x)
    assert_array_equal(x, wanted)


@pytest.mark.parametrize("output", LAYOUTS)
def test_on_a_gpu(monkeypatch, rng, output):
    pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets")
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    chain = ["mb1ic3ih5oc4kh3ph1", "mb1ic4ih5oc2kh1"]
    monkeypatch.setattr(network_plan, "shortest", lambda *_: ["nchw", "nhwc", "nchw"])
    plan = nc.plan_network(chain, "direct", "cuda", output_layout=output)
    x, weights = whole(rng, 1, 3, 5, 5), [whole(rng, 4, 3, 3, 3), whole(rng, 2, 4, 1, 1)]
    got = plan.prepare(weights)(x)
    assert type(got) is np.ndarray
    wanted = oracles.conv2d(oracles.conv2d(x, weights[0], pads=(1, 1, 1, 1)), weights[1])
    assert_array_equal(got, axes(wanted, output))
    assert "cuda" in str(plan)


# --------------------------------------------------------------------------------------------------- what is asked for


def test_networks_by_name_and_by_their_walk():
    def walk(walk):
        walk.image(9)
        walk.conv("first", 8, 3)
        walk.pool(3, 2)
        walk.conv("second", 4, 1, bias=False, activation=None)
        walk.fc("third", 7)

    plan = nc.plan_network(walk, "im2col", mb=3, num_threads=1)
    assert [layer.name for layer in plan.layers] == ["first", "second", "third"]
    assert [layer.algorithm for layer in plan.layers[:2]] == ["im2col", "im2col"]  # the last one is not a convolution
    assert [layer.request.epilogue.activation for layer in plan.layers] == ["relu", None, "relu"]
    assert [layer.request.epilogue.bias for layer in plan.layers] == [True, False, True]
    assert {layer.problem.mb for layer in plan.layers} == {3}
    assert not plan.chains  # there is a pooling between them
    named = nc.plan_network("AlexNet", num_threads=1)
    assert [layer.name for layer in named.layers] == [layer.name for layer in layers("alexnet")]
    listed = nc.plan_network(layers("alexnet"), num_threads=1)
    assert str(listed) == str(named)
    assert len(str(named).splitlines()) == 2 + len(named.layers) + 1


def test_memory_is_limited_layer_by_layer():
    roomy = nc.plan_network(CHAIN, "im2col")
    limit = roomy.workspace_bytes // 4
    tight = nc.plan_network(CHAIN, "im2col", max_workspace=limit)
    assert tight.workspace_bytes <= limit
    with pytest.raises(nc.WorkspaceExceeded):
        nc.plan_network(CHAIN, "im2col", max_workspace=16)


def test_refusals_name_the_layer():
    with pytest.raises(nc.UnsupportedProblem, match=r"conv1x1 \(.*kh3.*\): the kernel is 3x3"):
        nc.plan_network(CHAIN, "conv1x1")
    with pytest.raises(nc.ShapeError, match="input_layout must be"):
        nc.plan_network(CHAIN, input_layout="nhw")
    with pytest.raises(nc.ShapeError, match="there are no layers"):
        nc.plan_network([])
    with pytest.raises(nc.errors.UnknownName, match="alexnet"):
        nc.plan_network("alxnet")
    with pytest.raises(TypeError, match="expected a ConvProblem or a descriptor"):
        nc.plan_network([3])
    with pytest.raises(ValueError, match="activation"):
        nc.plan_network(CHAIN, activation="tanh")


def test_a_batch_is_not_divided(monkeypatch):
    pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets")
    monkeypatch.setenv("NUMBACONV_CUDA", "emulate")
    with pytest.raises(nc.DeviceUnavailable, match="not for both"):
        nc.plan_network(CHAIN, device="cpu+cuda")


def test_what_does_not_chain_is_not_run(data):
    x, weights, _, _ = data
    plan = nc.plan_network([CHAIN[0], CHAIN[2]])
    with pytest.raises(nc.ShapeError, match=r"do not chain: .* makes \(2, 8, 9, 9\)"):
        plan.prepare([weights[0], weights[2]])(x)
    with pytest.raises(nc.ShapeError, match="2 layers take as many weights and biases; got 1 and 1"):
        plan.prepare(weights[:1])
    chain = nc.plan_network(CHAIN)
    assert chain.chains
    with pytest.raises(RuntimeError, match="call prepare"):
        chain(x)
    with pytest.raises(nc.ShapeError, match="x: expected"):
        chain.prepare(weights)(x[:, :2])
