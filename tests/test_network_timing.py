"""Timing of whole networks: what is run, checked, counted and drawn; warm-up. No wall-clock is judged."""

from __future__ import annotations

import numpy as np
import oracles
import pytest

from numbaconv import ConvProblem, Linear, UnsupportedProblem, networks, plan, release_workspaces, warmup
from numbaconv.bench import network
from numbaconv.bench.contender import WrongResult
from numbaconv.bench.network import StageTime, seconds_by_kind, steps, time_layers, time_stages
from numbaconv.bench.spot import reference_of, spot_check
from numbaconv.networks.table import Layer, Walk
from numbaconv.timing import Sample


def tiny(walk: Walk) -> None:
    """A plain, a grouped, a 1x1 and a fully-connected layer."""
    walk.image(9)
    walk.conv("first", 8, 3, stride=2)
    walk.conv("grouped", 12, 3, groups=2, bias=False, activation=None)
    walk.conv("point", 10, 1, activation="relu6")
    walk.fc("last", 7, activation=None)


def table(mb=2, layout="nchw", dtype="float32") -> list[Layer]:
    walk = Walk("tiny", mb=mb, layout=layout, dtype=dtype)
    tiny(walk)
    return walk.layers


class Ticks:
    """Counts its calls."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1


# ------------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_layer_is_timed_with_its_own_accounts(layout, dtype):
    layers, ticks = table(layout=layout, dtype=dtype), Ticks()
    rows = time_layers(layers, 3, "im2col:batching=2", num_threads=1, tick=ticks)
    assert [row.layer for row in rows] == layers
    assert ticks.count == len(layers) + steps(len(layers), 3)
    assert [row.algorithm for row in rows] == [*["im2col:batching=2"] * 3, "dot"]
    for row in rows:
        assert len(row.sample.times) == 3
        assert row.first > 0
        assert row.prepare > 0
        assert row.gflops == pytest.approx(row.layer.problem.flops / row.sample.median / 1e9)
    for row in rows[:3]:
        p = row.layer.problem
        handle = plan(p, row.algorithm, bias=row.layer.bias, activation=row.layer.activation, num_threads=1)
        assert row.workspace_bytes == handle.workspace_bytes
        assert row.prepared_bytes >= p.weight_bytes


def test_a_fully_connected_layer_packs_its_weights_for_many_images():
    few, many = (time_layers(table(mb)[-1:], 1, num_threads=1)[0] for mb in (1, 9))
    assert (few.algorithm, many.algorithm) == ("dot", "gemm")
    assert few.prepared_bytes == 0
    assert many.prepared_bytes >= many.layer.problem.weight_bytes
    assert few.workspace_bytes > 0
    assert many.workspace_bytes > 0


def test_scratch_of_other_layers_is_not_counted_twice():
    *_, after_others = time_layers(table(), 1, "im2col", num_threads=1)
    release_workspaces()
    (alone,) = time_layers(table()[-1:], 1, num_threads=1)
    assert after_others.workspace_bytes == alone.workspace_bytes


def test_iterations_are_passes_over_all_layers(monkeypatch):
    order = []

    def prepare(layer, *arguments):
        ready = real(layer, *arguments)
        call = ready.call

        class Recorded:
            prepared_bytes = 0

            def __call__(self, x, out):
                order.append(layer.name)
                return call(x, out=out)

        ready.call = Recorded()
        return ready

    real = network.prepare_layer
    monkeypatch.setattr(network, "prepare_layer", prepare)
    monkeypatch.setattr("numbaconv.timing.LEAST_SECONDS", 0.0)  # these layers are too short to be called one by one
    time_layers(table(), 3, num_threads=1)
    names = [layer.name for layer in table()]
    turned = [names[i:] + names[:i] for i in range(3)]
    assert order[:4] == names
    assert order[-12:] == [name for names in turned for name in names]


@pytest.mark.parametrize("own", ["nchw", "nhwc"])
def test_an_input_lies_as_it_was_made(monkeypatch, own):
    """In the order that is given; the layer's own order says how its result lies."""
    seen = []

    def call(self, x, out):
        seen.append((x.strides, out.strides))
        return real(self, x, out=out)

    real = network.Handle.__call__
    monkeypatch.setattr(network.Handle, "__call__", call)
    (layer,) = table(mb=1, layout=own)[:1]
    (row,) = time_layers([layer], 1, "im2col", num_threads=1, reads=["nhwc"])
    p = layer.problem
    taken = {"nchw": (1, p.iw * p.ic, p.ic), "nhwc": (p.iw * p.ic, p.ic, 1)}[own]  # elements, by its own axes
    made = {"nchw": (p.oc, p.oh, p.ow), "nhwc": (p.oh, p.ow, p.oc)}[own]
    assert {tuple(step // p.itemsize for step in x[1:]) for x, _ in seen} == {taken}
    assert {out[1:] for _, out in seen} == {np.empty(made, p.dtype).strides}
    assert row.reads == "nhwc"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda out: np.multiply(out, 1.001, out=out),
        lambda out: out.reshape(-1)[-1:].fill(np.nan),
        lambda out: out.reshape(-1)[:1].__iadd__(0.5),
    ],
)
@pytest.mark.parametrize("kind", ["conv", "fc"])
def test_a_wrong_result_is_not_timed(monkeypatch, spoil, kind):
    owner = network.Handle if kind == "conv" else Linear
    real = owner.__call__

    def call(self, x, out=None):
        real(self, x, out=out)
        spoil(out)

    monkeypatch.setattr(owner, "__call__", call)
    monkeypatch.setattr(network, "burst", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(WrongResult, match="tiny:last" if kind == "fc" else "tiny:first"):
        time_layers(table(), 1, num_threads=1)


def test_what_is_not_written_is_noticed(monkeypatch):
    monkeypatch.setattr(network.Handle, "__call__", lambda self, x, out: None)
    with pytest.raises(WrongResult, match="not written"):
        time_layers(table(), 1, num_threads=1)


def test_a_lowering_that_refuses_a_layer_ends_it_before_the_work(monkeypatch):
    monkeypatch.setattr(network, "prepare_layer", lambda *_: pytest.fail("worked"))
    with pytest.raises(UnsupportedProblem, match=r"conv1x1 \(first\): the kernel is 3x3"):
        time_layers(table(), 1, "conv1x1")


# --------------------------------------------------------------------------------------------------- spot checks


PROBLEMS = [
    ConvProblem(2, 4, 7, 6, 6, 3, 2, sh=2, pad_top=1, pad_left=2, pad_bottom=0, pad_right=1, g=2),
    ConvProblem(1, 3, 9, 8, 4, 3, 3, dh=2, dw=3, pad_top=2, pad_left=3, pad_bottom=2, pad_right=3),
    ConvProblem(3, 5, 1, 1, 2, 1, 1, dtype="float64"),
]


def case(problem, rng, activation):
    p = problem
    x, w, bias = (rng.standard_normal(shape).astype(p.dtype) for shape in (p.input_shape, p.weight_shape, (p.oc,)))
    exact = oracles.conv2d(
        x, w, bias, (p.sh, p.sw), (p.pad_top, p.pad_left, p.pad_bottom, p.pad_right), (p.dh, p.dw), p.g,
        activation=activation,
    )  # fmt: skip
    return x, w, bias, activation, exact.astype(p.dtype)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_spot_check_agrees_with_the_oracle(problem, activation, rng):
    *arguments, right = case(problem, rng, activation)
    assert spot_check(problem, *arguments, right, samples=500) < 1e-6
    for place in ((0,) * 4, (-1,) * 4):
        wrong = right.copy()
        wrong[place] += 0.01
        with pytest.raises(WrongResult, match="error"):
            spot_check(problem, *arguments, wrong, samples=2)


def test_spot_check_sees_a_bias_that_is_missing(rng):
    x, w, bias, activation, right = case(PROBLEMS[0], rng, None)
    with pytest.raises(WrongResult):
        spot_check(PROBLEMS[0], x, w, None, activation, right)
    with pytest.raises(WrongResult, match="not finite"):
        spot_check(PROBLEMS[0], x, w, bias, activation, np.where(right == right.max(), np.nan, right))


def test_the_limit_follows_the_dtype():
    exact = np.array([3.0, -4.0])
    single, double = reference_of(exact, "float32", "relu"), reference_of(exact, "float64")
    assert single.limit == pytest.approx(1e-4)
    assert double.limit == pytest.approx(1.86e-13, rel=0.01)
    assert single.scale == double.scale == pytest.approx(12.5**0.5)
    assert single.value.tolist() == [3.0, 0.0]


# -------------------------------------------------------------------------------------------------- forward pass


class Chain:
    """A made-up network: each stage doubles what it gets, and wants it from the one before it."""

    def __init__(self):
        self.seen = []

    def random_input(self):
        return 1

    def stages(self):
        def stage(number):
            def run(x):
                assert x == 2**number
                self.seen.append(number)
                return 2 * x

            return run

        return [("conv1", "conv", stage(0)), ("relu1", "relu", stage(1)), ("fc2", "fc", stage(2))]


def test_stages_run_on_what_the_one_before_made():
    net, ticks = Chain(), Ticks()
    stages = time_stages(net, 5, ticks)
    assert [(stage.name, stage.kind, len(stage.sample.times)) for stage in stages] == [
        ("conv1", "conv", 5), ("relu1", "relu", 5), ("fc2", "fc", 5),
    ]  # fmt: skip
    assert ticks.count == steps(3, 5)
    assert set(net.seen) == {0, 1, 2}


def stage(name, kind, *times):
    return StageTime(name, kind, Sample(times, first=9.0))


def test_seconds_by_kind_sums_medians():
    stages = [stage("a", "relu", 1, 2, 6), stage("b", "conv", 3, 4, 5), stage("c", "relu", 0.5), stage("d", "fc", 9)]
    assert list(seconds_by_kind(stages).items()) == [("fc", 9), ("conv", 4), ("relu", 2.5)]


# -------------------------------------------------------------------------------------------------------- plots


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn, as matplotlib's figures."""
    figure = pytest.importorskip("matplotlib.figure")
    figures = []
    real = figure.Figure.savefig

    def savefig(self, *arguments, **options):
        figures.append(self)
        return real(self, *arguments, **options)

    monkeypatch.setattr(figure.Figure, "savefig", savefig)
    return figures


def rows_of(*medians):
    layers = table()
    return [
        network.LayerTime(layer, "im2col", 0.0, 0.0, Sample((seconds,), 0.0), 0, 0)
        for layer, seconds in zip(layers, medians, strict=True)
    ]


@pytest.mark.teach
def test_plot_of_layers(drawn, tmp_path):
    from numbaconv.bench.plots import network_plot

    network_plot(tmp_path / "layers.png", "tiny, mb 2", rows_of(0.004, 0.003, 0.002, 0.001))
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn[0].axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([4, 3, 2, 1])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "grouped", "point", "last"]
    low, high = axes.get_ylim()
    assert low > high  # the first layer on top
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["fully connected", "convolution"]
    assert len({bar.get_facecolor() for bar in axes.patches}) == 2


@pytest.mark.teach
def test_plot_of_a_forward_pass(drawn, tmp_path):
    from numbaconv.bench.plots import network_plot

    kinds = {"conv": 0.006, "fc": 0.003, "lrn": 0.0008, "softmax": 0.0002}
    network_plot(tmp_path / "pass.svg", "tiny", rows_of(1, 1, 1, 1), kinds)
    assert "<svg" in (tmp_path / "pass.svg").read_text()
    pie = drawn[0].axes[0]
    assert [wedge.theta1 - wedge.theta2 for wedge in pie.patches] == pytest.approx([-216, -108, -28.8, -7.2], abs=1e-3)
    legend = [text.get_text() for text in pie.get_legend().get_texts()]
    assert legend == ["convolution  60.0%", "fully connected  30.0%", "response norm.  8.0%", "softmax  2.0%"]
    assert {text.get_text() for text in pie.texts} >= {"60%", "30%", "8%"}
    assert "2%" not in {text.get_text() for text in pie.texts}
    assert "10.0 ms: 90% in convolution" in pie.get_title()


# ------------------------------------------------------------------------------------------------------ warm-up


@pytest.fixture
def tiny_network(monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "tiny", tiny)


def test_layers_that_compile_the_same_run_once(tiny_network):
    assert len(warmup.distinct_layers(["tiny", "tiny"])) == 4
    vgg = warmup.distinct_layers(["vgg16"])
    assert len(vgg) == 9 + 3
    assert len(warmup.distinct_layers(["vgg16", "vgg19"])) == len(vgg)
    assert len(warmup.distinct_layers(["tiny"], mb=2, layout="nhwc")) == 4
    assert warmup.distinct_layers(["tiny"], mb=2, layout="nhwc")[0].problem.layout == "nhwc"


def test_warm_up_runs_every_layer(tiny_network, monkeypatch):
    ran = []
    real = network.Handle.__call__
    monkeypatch.setattr(network.Handle, "__call__", lambda self, x, out: ran.append(self.problem) or real(self, x, out))
    ticks = Ticks()
    done = warmup.warm_up(["tiny"], mb=2, num_threads=1, tick=ticks)
    assert ran == [layer.problem for layer in table()[:3]]
    assert (done.layers, ticks.count) == (4, 4)


def test_warm_up_without_a_cache_directory(tiny_network, monkeypatch):
    monkeypatch.setattr(warmup, "cache_directory", lambda: None)
    done = warmup.warm_up(["tiny"])
    assert (done.directory, done.added, done.files) == (None, 0, 0)


def test_a_warm_process_compiles_nothing(python, tmp_path):
    code = """
        import sys
        from numbaconv import networks, warmup

        def tiny(walk):
            walk.image(9)
            walk.conv("first", 8, 3)
            walk.fc("last", 7)

        networks.NETWORKS["tiny"] = tiny
        done = warmup.warm_up(["tiny"], num_threads=1)
        print(done.added, done.files, done.directory)
    """
    environment = {"NUMBACONV_CACHE_DIR": str(tmp_path)}
    first, second = (python(code, env=environment).split(maxsplit=2) for _ in range(2))
    assert int(first[0]) == int(first[1]) > 0
    assert second == ["0", *first[1:]]
    assert first[2].startswith(str(tmp_path))
