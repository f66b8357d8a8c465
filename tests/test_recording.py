"""Calls that are run again from tape: right on any arrays, every refusal still there, nothing kept alive."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
from cases import in_memory, oracle, whole
from numpy.testing import assert_array_equal

import numbaconv as nc
from numbaconv import api, arrays
from numbaconv.known import MOST_KNOWN
from numbaconv.lowering import recorded
from numbaconv.lowerings._template import Template
from numbaconv.lowerings.direct import Direct
from numbaconv.plan import make_plan

RECORDED = [
    ("direct", "mb2ic3ih9oc5kh3ph1"), ("direct", "g2mb1ic4ih8oc6kh3ph1_nhwc"), ("depthwise", "g6mb2ic6ih9oc6kh3ph1"),
    ("depthwise", "g6mb1ic6ih9oc6kh3ph1_nhwc"), ("conv1x1", "g2mb2ic6ih8oc10kh1ph0"),
    ("conv1x1", "mb1ic6ih8oc9kh1_nhwc"),
    ("implicit-gemm", "g2mb2ic6ih9oc8kh3ph1"), ("implicit-gemm:batching=image", "mb3ic5ih9oc8kh3ph1"),
    ("patchify", "mb1ic3ih8oc4kh2sh2"), ("winograd-f2", "mb1ic5ih9oc6kh3ph1"),
]  # fmt: skip


@pytest.fixture
def long_ways(monkeypatch):
    """How many calls went the long way."""
    counted, plain = [], arrays._run_checked

    def count(*arguments):
        counted.append(arguments)
        return plain(*arguments)

    monkeypatch.setattr(arrays, "_run_checked", count)
    return counted


def numbers(rng, p, bias=True, residual=False):
    x, w = in_memory(whole(rng, *p.input_shape), p.layout), whole(rng, *p.weight_shape)
    b = whole(rng, p.oc) if bias else None
    return x, w, b, in_memory(whole(rng, *p.output_shape), p.layout) if residual else None


def handle_for(text, algorithm="direct", **options):
    """A handle whose plan has seen no arrays yet."""
    made = nc.plan(text, algorithm, layout="nchw", **options)
    made.plan.known.clear()
    return made


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("algorithm", "text"), RECORDED)
def test_the_second_call_runs_from_tape_on_other_arrays(rng, long_ways, algorithm, text, residual, threads):
    handle = handle_for(text, algorithm, bias=True, residual=residual, activation="relu", num_threads=threads)
    p = handle.problem
    for turn in range(3):  # the weights are others as well
        x, w, bias, added = numbers(rng, p, residual=residual)
        wanted = oracle(p, x, w, bias, added, "relu")
        handle.prepare(w, bias)
        result = handle(x, residual=added)
        assert_array_equal(result, wanted)
        assert len(long_ways) == 1, turn
        assert result.strides == in_memory(result, p.layout).strides
        assert set(handle.stage_times) == {"lower", "multiply", "lift"}
        assert handle.stage_times["multiply"] > 0
        assert (handle.stage_times["lift"] > 0) == (residual and algorithm in ("direct", "depthwise"))
    out = in_memory(np.full(p.output_shape, np.nan, "f4"), p.layout)
    for _ in range(2):
        out[...] = np.nan
        assert handle(x, out, added) is out
        assert_array_equal(out, wanted)
    assert len(long_ways) == 2


def test_functions_and_layers_run_from_tape(rng, long_ways):
    p = nc.ConvProblem.parse("mb2ic3ih9oc5kh3ph1")
    x, w, bias, _ = numbers(rng, p)
    make_plan(
        p, "direct", api.make_request(None, 1, "highest", "float32", None, None, nc.request.Epilogue(True))
    ).known.clear()
    layer = nc.Conv2d.from_arrays(w, bias, padding=1, algorithm="direct", num_threads=1)
    for _ in range(3):
        x, w = whole(rng, *p.input_shape), whole(rng, *p.weight_shape)
        assert_array_equal(nc.conv2d(x, w, bias, padding=1, algorithm="direct", num_threads=1), oracle(p, x, w, bias))
        w[0] += 1  # in place: what was prepared before is of no use
        assert_array_equal(nc.conv2d(x, w, bias, padding=1, algorithm="direct", num_threads=1), oracle(p, x, w, bias))
        assert_array_equal(layer(x), oracle(p, x, layer.weight, bias))
    assert len(long_ways) == 2  # a layer's plan is another than that of a function, which prepares weights itself


def test_one_image_without_the_axis_of_images(rng, long_ways):
    handle = handle_for("mb1ic3ih9oc5kh3ph1")
    x, w, _, _ = numbers(rng, handle.problem)
    handle.prepare(w)
    for _ in range(2):
        assert_array_equal(handle(x[0]), oracle(handle.problem, x, w)[0])
        assert_array_equal(handle(x), oracle(handle.problem, x, w))
    assert len(long_ways) == 2


# ------------------------------------------------------------------------------------- what differs in every call


def test_every_refusal_comes_after_the_call_is_known(rng):
    handle = handle_for("mb1ic3ih9oc5kh3ph1")
    p = handle.problem
    x, w, _, added = numbers(rng, p, residual=True)
    handle.prepare(w)
    out = np.empty(p.output_shape, "f4")
    for _ in range(2):
        handle(x)
        handle(x, out)
    locked = np.empty(p.output_shape, "f4")
    locked.flags.writeable = False
    for arguments, error, words in [
        ((x, locked), nc.ShapeError, "read-only"),
        ((x, out[:, :4]), nc.ShapeError, "out: expected"),
        ((x, out.astype("f8")), nc.ShapeError, "out: expected"),
        ((x, out.astype(">f4")), nc.ShapeError, "out: expected"),
        ((x, out.tolist()), TypeError, "out: expected a NumPy array"),
        ((x.astype("f8"),), nc.ShapeError, "x: expected"),
        ((x.astype(">f4"),), nc.ShapeError, "x: expected float32"),
        ((x[:, :, 1:],), nc.ShapeError, "x: expected"),
        ((x.tolist(),), TypeError, "x: expected an array"),
        ((x, None, added), nc.ShapeError, "made for no residual"),
    ]:
        with pytest.raises(error, match=words):
            handle(*arguments)
    assert_array_equal(handle(x, out), oracle(p, x, w))


def test_arrays_that_lie_badly_take_the_long_way_and_are_right(rng, long_ways):
    handle = handle_for("mb1ic5ih9oc5kh3ph1", residual=True)
    p = handle.problem
    x, w, _, added = numbers(rng, p, residual=True)
    wanted, copied = oracle(p, x, w, None, added), oracle(p, x, w, None, x)
    handle.prepare(w)
    handle(x, None, added)
    handle(x, np.empty(p.output_shape, "f4"), added)
    assert len(long_ways) == 2

    def odd(array):
        """The same array one byte off its elements' grid."""
        memory = np.empty(array.nbytes + 1, np.uint8)
        moved = np.ndarray(array.shape, array.dtype, memory, 1, array.strides)
        moved[...] = array
        return moved

    together = np.empty(2 * x.size, "f4")  # an output that begins in the middle of the input
    inside, overlapping = together[: x.size].reshape(x.shape), together[100 : 100 + x.size].reshape(x.shape)
    inside[...] = x
    for arguments, right in [
        ((odd(x), None, added), wanted),
        ((x, odd(np.zeros_like(x)), added), wanted),
        ((x, None, odd(added)), wanted),
        ((x.copy(), "itself", added), wanted),
        ((x, "the residual", added.copy()), wanted),
        ((inside, overlapping, added), wanted),
        ((x[..., ::-1].copy()[..., ::-1], None, added), wanted),
    ]:
        source, out, extra = arguments
        out = source if isinstance(out, str) and out == "itself" else extra if isinstance(out, str) else out
        before = len(long_ways)
        assert_array_equal(handle(source, out, extra), right)
        assert len(long_ways) == before + 1
    assert_array_equal(handle(x, None, x), copied)  # two views of one array are told apart by the tape
    assert len(long_ways) == before + 1


def test_a_call_is_not_recorded_on_arrays_that_overlap(rng, long_ways):
    handle = handle_for("mb1ic5ih9oc5kh3ph1", residual=True)
    x, w, _, added = numbers(rng, handle.problem, residual=True)
    handle.prepare(w)
    for _ in range(2):
        assert_array_equal(handle(x, None, x), oracle(handle.problem, x, w, None, x))
    assert len(long_ways) == 2
    for _ in range(2):
        assert_array_equal(handle(x, None, added), oracle(handle.problem, x, w, None, added))
    assert len(long_ways) == 3


# ------------------------------------------------------------------------------------------------- who may be kept


def test_a_lowering_that_does_not_say_so_is_not_recorded(rng, long_ways):
    class Doubles(Direct):
        """Its run is its own, though it inherits from one that is recorded."""

        def run(self, ctx, x, prepared, out):
            super().run(ctx, x, prepared, out)
            out *= 2

    for algorithm, factor in ((Doubles(), 2), (Template(), 1)):
        handle = handle_for("mb1ic3ih9oc5kh3ph1", algorithm)
        x, w, _, _ = numbers(rng, handle.problem)
        handle.prepare(w)
        before = len(long_ways)
        for _ in range(3):
            assert_array_equal(handle(x), factor * oracle(handle.problem, x, w))
        assert len(long_ways) == before + 3


def test_what_cannot_be_recorded_is_tried_once(rng, monkeypatch):
    class ByHand(Template):
        """It computes by functions of Python."""

        @recorded
        def run(self, ctx, x, prepared, out):
            super().run(ctx, x, prepared, out)

    made, plain = [], arrays.Recorder
    monkeypatch.setattr(arrays, "Recorder", lambda *arguments: made.append(1) or plain(*arguments))
    handle = handle_for("mb1ic3ih9oc5kh3ph1", ByHand())
    x, w, _, _ = numbers(rng, handle.problem)
    handle.prepare(w)
    for _ in range(3):
        assert_array_equal(handle(x), oracle(handle.problem, x, w))
    assert len(made) == 1


def test_a_plan_keeps_no_arrays_and_few_descriptions(rng):
    handle = handle_for("mb1ic3ih9oc5kh3ph1", "implicit-gemm", bias=True, residual=True)
    x, w, bias, added = numbers(rng, handle.problem, residual=True)
    handle.prepare(w, bias)
    out = np.empty(handle.problem.output_shape, "f4")
    for _ in range(2):
        handle(x, out, added)
    kept = [weakref.ref(array) for array in (x, out, added, handle.prepared[0].data, handle._weights.bias)]
    plan = handle.plan
    del x, out, added, handle
    gc.collect()
    assert [reference() for reference in kept] == [None] * len(kept)
    assert plan.known
    handle = nc.plan(plan.problem, "implicit-gemm", layout="nchw", bias=True, residual=True).prepare(w, bias)
    added = np.zeros(plan.problem.output_shape, "f4")
    for step in range(4 * MOST_KNOWN):  # columns further and further apart
        wide = np.zeros((1, 3, 9, 9 + step), "f4")
        handle(wide[..., :9], residual=added)
    assert len(plan.known) <= MOST_KNOWN


def test_threads_share_a_handle(rng):
    handle = handle_for("mb2ic16ih9oc16kh3ph1", "winograd-f2", num_threads=2)
    p = handle.problem
    w, failures = whole(rng, *p.weight_shape), []
    handle.prepare(w)
    samples = [(x, oracle(p, x, w)) for x in (whole(rng, *p.input_shape) for _ in range(4))]

    def caller(number):
        for turn in range(150):
            x, wanted = samples[(number + turn) % 4]
            if not np.array_equal(handle(x), wanted):
                failures.append((number, turn))

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert not failures


def test_weights_are_replaced_while_others_call(rng):
    handle = handle_for("mb1ic3ih9oc5kh3ph1", bias=True)
    p = handle.problem
    x, w, bias, _ = numbers(rng, p)
    ways = [(factor * w, factor * bias) for factor in (1, 2)]
    wanted = [oracle(p, x, *way) for way in ways]
    handle.prepare(*ways[0])
    stop, failures = threading.Event(), []

    def caller():
        while not stop.is_set():
            result = handle(x)
            if not any(np.array_equal(result, each) for each in wanted):
                failures.append(result)

    each = threading.Thread(target=caller)
    each.start()
    for turn in range(300):
        handle.prepare(*ways[turn % 2])
    stop.set()
    each.join()
    assert not failures


# ------------------------------------------------------------------------------------------------- the arguments


def test_arguments_are_read_once(rng, monkeypatch):
    made, plain = [], nc.ConvProblem.from_arrays
    monkeypatch.setattr(nc.ConvProblem, "from_arrays", lambda *a: made.append(1) or plain(*a))
    x, w = whole(rng, 1, 3, 9, 9), whole(rng, 4, 3, 3, 3)
    api._posed.cache_clear()
    for padding in (1, (1, 1), "same"):
        for _ in range(3):
            nc.conv2d(x, w, padding=padding, algorithm="direct")
    assert len(made) == 3
    nc.conv2d(x, w, padding=[1, 1], algorithm="direct")  # may change: not remembered
    nc.conv2d(x, w, padding=np.int64(1), algorithm="direct")
    assert len(made) == 5


def test_arguments_that_equal_good_ones_are_still_refused(rng):
    x, w = whole(rng, 1, 3, 9, 9), whole(rng, 4, 3, 3, 3)
    nc.conv2d(x, w, None, 1, 1, 1, 1, max_workspace=10**9, num_threads=1)
    nc.conv2d(x, w, None, (1, 1), (1, 1), (1, 1), 1)
    for arguments in [
        (1.0, 1, 1, 1),
        (1, 1.0, 1, 1),
        (1, 1, 1.0, 1),
        (1, 1, 1, 1.0),
        ((1.0, 1), 1, 1, 1),
        (1, (1, 1.0), 1, 1),
    ]:
        with pytest.raises(nc.ShapeError, match="must be"):
            nc.conv2d(x, w, None, *arguments)
    for name, value in [("num_threads", 1.0), ("max_workspace", 1e9), ("activation", ["relu"]), ("precision", {})]:
        with pytest.raises(ValueError, match=name):
            nc.conv2d(x, w, padding=1, **{name: value})
