"""Whole networks on the clock, in the manner of ``caffe time``: pass after pass, every layer in its place.

A layer's weights have left the caches by the time its turn comes again, as they have in use. Images lie in one piece of
memory that all layers read, results in another that all write. On a device calls are timed in batches instead: those of
one layer follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbaconv.api import plan
from numbaconv.arrays import FROM_NCHW, TO_NCHW
from numbaconv.bench.device_peers import device_peers
from numbaconv.bench.place import Place, place_of
from numbaconv.bench.spot import random_normal, spot_check
from numbaconv.errors import UnsupportedProblem
from numbaconv.layers import Linear
from numbaconv.network_plan import plan_network, refusals_of
from numbaconv.networks import Layer
from numbaconv.networks.alexnet import AlexNet
from numbaconv.plan import Handle
from numbaconv.problem import ConvProblem
from numbaconv.timing import Sample, burst
from numbaconv.workspace import release_workspaces

__all__ = [
    "LayerTime",
    "PreparedLayer",
    "StageTime",
    "bytes_of",
    "in_chosen_layouts",
    "prepare_layer",
    "seconds_by_kind",
    "steps",
    "time_layers",
    "time_stages",
]

Tick = Callable[[], None]


@dataclass(frozen=True)
class LayerTime:
    """What was measured of one layer.

    Parameters
    ----------
    layer : Layer
    algorithm : str
        The lowering that ran; for a fully-connected layer "dot" (weights read where they lie) or "gemm" (packed), on a
        device the lowering that runs it as a 1x1 convolution.
    prepare, first : float
        Seconds of choosing and of preparing the weights, and of the first run: compilation or loading included.
    sample : Sample
        The timed runs.
    workspace_bytes, prepared_bytes : int
        Scratch of a run; memory that prepared weights keep besides the weights.
    peers : dict of str to Sample
        Other libraries' runs, in the same passes.
    reads : str
        The memory order in which the input lay; the output lay in the problem's.
    """

    layer: Layer
    algorithm: str
    prepare: float
    first: float
    sample: Sample
    workspace_bytes: int
    prepared_bytes: int
    peers: dict[str, Sample] = field(default_factory=dict)
    reads: str = ""

    @property
    def gflops(self) -> float:
        """GFLOP/s of the median run, by the direct computation's count."""
        return self.layer.problem.flops / self.sample.median / 1e9


@dataclass(frozen=True)
class StageTime:
    """A stage of a whole forward pass: name, kind ("conv", "relu", "lrn", "pool", "fc", "softmax"), timed runs."""

    name: str
    kind: str
    sample: Sample


# ----------------------------------------------------------------------------------------------------- one layer


@dataclass
class PreparedLayer:
    """One layer, ready to run: ``call(x, out=out)`` on arrays of these shapes, in the problem's memory order."""

    layer: Layer
    algorithm: str
    call: Callable[..., Any]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    workspace_bytes: int | None = None

    @property
    def prepared_bytes(self) -> int:
        owner: Any = self.call
        return owner.prepared_bytes


def prepare_layer(
    layer: Layer, w: NDArray, bias: NDArray | None, algorithm: str = "auto", num_threads: int | None = None,
    device: str = "cpu",
) -> PreparedLayer:  # fmt: skip
    """A layer with its weights (oc, ic/g, kh, kw) prepared: a plan's handle, or a ``Linear``.

    On a device a fully-connected layer is a 1x1 convolution of one pixel, whatever `algorithm` says.

    Raises
    ------
    UnsupportedProblem
        Where a lowering is named that does not run this layer.
    """
    p = layer.problem
    if layer.kind == "fc" and device == "cpu":
        linear = Linear.from_arrays(w.reshape(p.oc, p.ic), bias, activation=layer.activation, num_threads=num_threads)
        return PreparedLayer(layer, "", linear, (p.mb, p.ic), (p.mb, p.oc))
    handle = _handle(layer, algorithm, num_threads, device).prepare(w, bias)
    taken, made = (tuple(shape[axis] for axis in FROM_NCHW[p.layout]) for shape in (p.input_shape, p.output_shape))
    return PreparedLayer(layer, handle.algorithm, handle, taken, made, handle.workspace_bytes)


def _handle(layer: Layer, algorithm: str, num_threads: int | None, device: str) -> Handle:
    algorithm = algorithm if layer.kind == "conv" else "auto"
    return plan(
        layer.problem, algorithm, device, bias=layer.bias, activation=layer.activation, num_threads=num_threads
    )  # fmt: skip


def bytes_of(layers: Sequence[Layer]) -> int:
    """Memory that timing these layers takes at least: all weights as prepared, the largest image and result."""
    problems = [layer.problem for layer in layers]
    return (
        sum(p.weight_bytes for p in problems)
        + max(p.input_bytes for p in problems)
        + max(p.output_bytes for p in problems)
    )


# ------------------------------------------------------------------------------------------------ all the layers


def steps(count: int, iterations: int) -> int:
    """How often ``time_layers`` (with one more time per layer) and ``time_stages`` tick for `count` functions."""
    return count * (iterations + 1)


def time_layers(
    layers: Sequence[Layer],
    iterations: int = 20,
    algorithm: str = "auto",
    num_threads: int | None = None,
    tick: Tick = lambda: None,
    device: str = "cpu",
    reads: Sequence[str] | None = None,
) -> list[LayerTime]:
    """Time layers on random normal data, each checked at some elements first; bias and ReLU are in the last store.

    Parameters
    ----------
    layers : sequence of Layer
        Of one dtype.
    iterations : int
        Timed passes over all layers.
    algorithm : str
        For the convolutions.
    num_threads : int, optional
    tick : callable
        Called without arguments, `len(layers)` times while weights are prepared and ``steps(...)`` times after that,
        never inside what is timed; oftener where peers take part.
    device : str
        "cpu", "cuda" or "cuda:1".
    reads : sequence of str, optional
        The memory order in which each layer's input lies; the layer's own, unless given.

    Raises
    ------
    DeviceUnavailable
    UnsupportedProblem
        Where `algorithm` does not run one of the layers; before anything is computed.
    WrongResult
        When a checked element is wrong.
    """
    place = place_of(device)
    rivals = device_peers(place)
    for layer in layers:
        if layer.kind == "conv":
            with refusals_of(layer):  # before anything is computed
                _handle(layer, algorithm, num_threads, device)
    rng = np.random.default_rng(0)
    dtype = layers[0].problem.dtype
    itemsize = np.dtype(dtype).itemsize
    images = random_normal(rng, (max(layer.problem.input_bytes for layer in layers) // itemsize,), dtype)
    results = np.empty(max(layer.problem.output_bytes for layer in layers) // itemsize, dtype)
    there, made = place.put(images), place.put(results)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    kept: list[tuple[PreparedLayer, float, float, str]] = []
    for layer, order in zip(layers, reads or [layer.problem.layout for layer in layers], strict=True):
        tick()
        p = layer.problem
        w = random_normal(rng, p.weight_shape, dtype)
        bias = random_normal(rng, (p.oc,), dtype) if layer.bias else None
        start = perf_counter()
        ready = prepare_layer(layer, w, bias, algorithm, num_threads, device)
        place.wait()
        prepare = perf_counter() - start
        x, out = _input(there, ready, order), _view(made, ready.output_shape)
        kept.append((ready, prepare, _first_run(place, ready, x, out), order))
        image = _images(_input(images, ready, order), p)
        spot_check(p, image, w, bias, layer.activation, _images(place.get(out), p))
        calls[layer.name, ""] = partial(ready.call, x, out=out)
        for peer in rivals:
            with suppress(UnsupportedProblem):
                rival = peer.conv(p, image, w, bias, layer.activation)
                spot_check(p, image, w, bias, layer.activation, rival.result(), name=f"{peer.name} at {layer.name}")
                calls[layer.name, peer.name] = rival.call
    samples = burst(calls, iterations, pause=0, drop=0, calls=1, timer=place.timer, sleep=lambda _: tick())
    rows = []
    for ready, prepare, first, order in kept:
        name = ready.layer.name
        peers = {peer.name: samples[name, peer.name] for peer in rivals if (name, peer.name) in samples}
        rows.append(LayerTime(ready.layer, ready.algorithm, prepare, first, samples[name, ""],
                              ready.workspace_bytes or 0, ready.prepared_bytes, peers, order))  # fmt: skip
    return rows


def in_chosen_layouts(
    layers: Sequence[Layer], algorithm: str = "auto", num_threads: int | None = None, device: str = "cpu"
) -> tuple[list[Layer], list[str]]:
    """The layers in the memory orders that ``plan_network`` chooses, and the order in which each finds its input.

    What a fully-connected layer takes and makes has no order. Parameters and errors as for ``time_layers``.
    """
    convolutions = [layer for layer in layers if layer.kind == "conv"]
    if not convolutions:
        return list(layers), [layer.problem.layout for layer in layers]
    chosen_of = plan_network(convolutions, algorithm, device, num_threads=num_threads, output_layout=None)
    planned = iter(chosen_of.layers)
    found, reads = [], []
    for layer in layers:
        chosen = next(planned) if layer.kind == "conv" else None
        found.append(replace(layer, problem=chosen.problem) if chosen else layer)
        reads.append(chosen.reads if chosen else layer.problem.layout)
    return found, reads


def _view(memory: Any, shape: tuple[int, ...]) -> Any:
    return memory[: int(np.prod(shape))].reshape(shape)


def _input(memory: Any, ready: PreparedLayer, order: str) -> Any:
    """A layer's input with the axes that it takes, in a memory order."""
    p, own = ready.layer.problem, ready.input_shape
    if order == p.layout or len(own) < 4:
        return _view(memory, own)
    lying = _view(memory, tuple(p.input_shape[axis] for axis in FROM_NCHW[order]))
    return lying.transpose(TO_NCHW[order]).transpose(FROM_NCHW[p.layout])


def _images(array: NDArray, problem: ConvProblem) -> NDArray:
    """Logical (mb, c, h, w) of an array as the layer takes it."""
    return array[:, :, None, None] if array.ndim == 2 else array.transpose(TO_NCHW[problem.layout])


def _first_run(place: Place, ready: PreparedLayer, x: Any, out: Any) -> float:
    """Seconds of the first run; what a fully-connected layer reveals only then is noted."""
    place.blank(out)
    if ready.workspace_bytes is None:
        release_workspaces()
    seconds = place.once(partial(ready.call, x, out=out))
    if ready.workspace_bytes is None:
        ready.workspace_bytes = release_workspaces()  # what the run left on the shelf is what it took
        ready.algorithm = "gemm" if ready.prepared_bytes else "dot"
    return seconds


# ------------------------------------------------------------------------------------------- a whole forward pass


def time_stages(net: AlexNet, iterations: int = 20, tick: Tick = lambda: None) -> list[StageTime]:
    """Time the stages of a forward pass in their places, each on what the one before it made.

    Parameters
    ----------
    net : AlexNet
    iterations : int
        Timed passes.
    tick : callable
        Called ``steps(...)`` times, never inside what is timed.
    """
    stages = net.stages()
    made: list[Any] = [net.random_input(), *(None for _ in stages)]

    def run(number: int) -> None:
        made[number + 1] = stages[number][2](made[number])

    calls = {name: partial(run, number) for number, (name, _, _) in enumerate(stages)}
    samples = burst(calls, iterations, pause=0, drop=0, calls=1, sleep=lambda _: tick())
    return [StageTime(name, kind, samples[name]) for name, kind, _ in stages]


def seconds_by_kind(stages: Sequence[StageTime]) -> dict[str, float]:
    """The sum of the medians for each kind of stage, the longest first."""
    sums: dict[str, float] = {}
    for stage in stages:
        sums[stage.kind] = sums.get(stage.kind, 0.0) + stage.sample.median
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
