"""``plan_network``: the lowering and the memory order of every layer of a chain, chosen together.

Lowerings read an input of either memory order in place, through its strides, so no layer needs a pass of its own that
reorders: a layer planned for one order and handed the other reads its input *across*, a second time as far as memory
is concerned. The cheapest chain is a shortest path; an edge is a layer's time, given the order in which its input lies.

    input ──► layer 1 ──► layer 2 ──► ... ──► output        states: the memory order of what lies between
      nchw ●────●───────────●──────────────────● nchw       ─ the layer's time in its own order
            ╲  ╱ ╲         ╱ ╲                ╱             ╲╱ and that of reading across:
      nhwc   ●────●───────●───●──────────────●               bytes over the cost model's bandwidth, or measured

Paper: Anderson, Gregg, "Optimal DNN primitive selection with partitioned boolean quadratic programming", CGO 2018,
arXiv 1710.01079; on a chain the quadratic program is a shortest path, and dynamic programming solves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

from numbaconv.api import as_problem, make_request
from numbaconv.calibration import rates
from numbaconv.errors import DeviceUnavailable, ShapeError, UnsupportedProblem
from numbaconv.gemm.cuda_plan import BYTES_A_CYCLE as DEVICE_BYTES
from numbaconv.layouts import LAYOUTS
from numbaconv.lowering import Lowering
from numbaconv.measured import measure, plausible
from numbaconv.networks import layers as table_of
from numbaconv.networks.table import Layer, Walk
from numbaconv.plan import make_plan
from numbaconv.planned_network import NetworkPlan, PlannedLayer
from numbaconv.problem import ConvProblem
from numbaconv.registry import make_lowering
from numbaconv.request import Epilogue, Request
from numbaconv.select import DEVICE_HERTZ, candidate, choose

__all__ = ["length", "plan_network", "refusals_of", "shortest"]

Costs = Mapping[tuple[str, str], float]
"""Seconds of a layer by (memory order of its input, its own order)."""


def plan_network(
    layers: str | Callable[[Walk], None] | Sequence[ConvProblem | str | Layer],
    algorithm: str | Lowering = "auto",
    device: str | None = None,
    *,
    mb: int = 1,
    input_layout: str | None = "nchw",
    output_layout: str | None = "nchw",
    precision: str = "highest",
    accuracy: str = "float32",
    bias: bool = False,
    activation: str | None = None,
    max_workspace: int | None = None,
    num_threads: int | None = None,
) -> NetworkPlan:
    """Choose the lowerings and the memory orders of a chain of layers together.

    Parameters
    ----------
    layers : str, callable, or sequence of ConvProblem, str or Layer
        A network's name (see ``networks``), a function that walks one (as in ``networks.chains``), or its layers,
        descriptors among them. Of a problem's own layout no notice is taken. The layers are taken as one chain, with
        poolings and the like between them; where a network forks, as the order in which they are listed.
    algorithm : str or Lowering
        ``"auto"``; ``"measure"``, which times the plausible lowerings in either order, on inputs in either, and
        remembers that; or what all convolutions shall use.
    mb : int
        Images, for a network that is not a list of problems.
    input_layout, output_layout : {"nchw", "nhwc", None}
        Memory order of the network's input and output; None: whichever is best.
    bias, activation
        Of all layers that are problems; those of a network have their own.
    device, precision, accuracy, max_workspace, num_threads
        As in ``conv2d``. A fully-connected layer is a 1x1 convolution here.

    Returns
    -------
    NetworkPlan

    Raises
    ------
    ShapeError, UnknownNetwork, UnknownLowering, UnsupportedProblem, WorkspaceExceeded, DeviceUnavailable
    """
    for name, layout in (("input_layout", input_layout), ("output_layout", output_layout)):
        if layout not in (*LAYOUTS, None):
            raise ShapeError(f"{name} must be 'nchw', 'nhwc' or None; got {layout!r}")
    found = _layers(layers, mb, bias, activation)

    def request_of(layer: Layer) -> Request:
        epilogue = Epilogue(layer.bias, False, layer.activation)
        return make_request(device, num_threads, precision, accuracy, max_workspace, None, epilogue)

    if "+" in request_of(found[0]).device:
        raise DeviceUnavailable("plan_network: a network is planned for 'cpu' or for 'cuda', not for both")
    ways = _Ways(algorithm)
    choices = []
    for layer in found:
        with refusals_of(layer):
            choices.append(ways.of(layer, request_of(layer)))
    lasts = {order: ways.writing(found[-1], request_of(found[-1]), order, output_layout or order) for order in LAYOUTS}
    costs = [{orders: way.seconds + way.reorder_seconds for orders, way in choice.items()} for choice in choices]
    ends = {order: seconds for order, (_, seconds) in lasts.items()}
    starts = LAYOUTS if input_layout is None else (input_layout,)
    orders = shortest(costs, starts, ends)
    chosen = [choice[pair] for choice, pair in zip(choices, pairwise(orders), strict=True)]
    across, seconds = lasts[orders[-1]]
    last = chosen[-1]
    chosen[-1] = replace(
        last, reorder_bytes=last.reorder_bytes + across, reorder_seconds=last.reorder_seconds + seconds
    )  # fmt: skip
    single = {order: min(length(costs, [start] + [order] * len(costs), ends) for start in starts) for order in LAYOUTS}
    text = algorithm if isinstance(algorithm, str) else algorithm.spec
    return NetworkPlan(chosen, text, output_layout or orders[-1], single)


@contextmanager
def refusals_of(layer: Layer) -> Iterator[None]:
    """A refusal in the block says which layer it is about."""
    try:
        yield
    except UnsupportedProblem as refusal:
        if isinstance(refusal.reasons, str):
            raise
        reasons = {f"{name} ({layer.name})": reason for name, reason in refusal.reasons.items()}
        raise UnsupportedProblem(reasons) from None


def _layers(layers: Any, mb: int, bias: bool, activation: str | None) -> list[Layer]:
    if isinstance(layers, str):
        return table_of(layers, mb)
    if callable(layers):
        walk = Walk(getattr(layers, "__name__", "network"), mb=mb, layout="nchw", dtype="float32")
        layers(walk)
        return walk.layers
    found = [layer if isinstance(layer, Layer) else _conv(as_problem(layer), bias, activation) for layer in layers]
    if not found:
        raise ShapeError("plan_network: there are no layers")
    return found


def _conv(problem: ConvProblem, bias: bool, activation: str | None) -> Layer:
    return Layer(problem.name or str(problem), "conv", problem, bias, activation)


def length(costs: Sequence[Costs], orders: Sequence[str], ends: Mapping[str, float]) -> float:
    """Seconds along a path: the orders of the input and of every layer."""
    return sum(cost[pair] for cost, pair in zip(costs, pairwise(orders), strict=True)) + ends[orders[-1]]


def shortest(costs: Sequence[Costs], starts: Sequence[str], ends: Mapping[str, float]) -> list[str]:
    """The orders of the input and of every layer along the cheapest path; of several, one with the fewest changes.

    Parameters
    ----------
    costs : sequence of mappings
        Of each layer, by (order of its input, its own).
    starts : sequence of str
        Orders that the input may have.
    ends : mapping of str to float
        What each order of the last layer costs then.
    """
    paths: dict[str, tuple[float, int, list[str]]] = {start: (0.0, 0, [start]) for start in starts}
    for cost in costs:
        paths = {
            own: min(
                (seconds + cost[before, own], changes + (before != own), [*path, own])
                for before, (seconds, changes, path) in paths.items()
            )
            for own in dict.fromkeys(own for _, own in cost)
        }
    return min((seconds + ends[own], changes, path) for own, (seconds, changes, path) in paths.items())[2]


class _Ways:
    """What layers cost: by the cost model or by the clock, each distinct one asked about once."""

    def __init__(self, algorithm: str | Lowering):
        self.algorithm = algorithm
        self.known: dict[Any, tuple[str, float]] = {}

    def of(self, layer: Layer, request: Request) -> dict[tuple[str, str], PlannedLayer]:
        """A layer by (order of its input, its own)."""
        found = {}
        for reads, own in product(LAYOUTS, LAYOUTS):
            problem = replace(layer.problem, layout=own)
            spec, seconds = self._best(layer, request, own, own, own)
            across, added = 0, 0.0
            if reads != own and not same_memory(problem.input_shape):
                spec, whole = self._best(layer, request, own, reads, own)
                across, added = problem.input_bytes, whole - seconds
            found[reads, own] = PlannedLayer(layer.name, problem, request, spec, reads, seconds, across, added)
        return found

    def writing(self, layer: Layer, request: Request, own: str, order: str) -> tuple[int, float]:
        """(bytes, seconds) of writing a layer's output across, in `order`."""
        if order == own or same_memory(layer.problem.output_shape):
            return 0, 0.0
        straight, across = (self._best(layer, request, own, own, target)[1] for target in (own, order))
        return layer.problem.output_bytes, across - straight

    def _best(self, layer: Layer, request: Request, own: str, reads: str, writes: str) -> tuple[str, float]:
        """The lowering to take and its seconds, where input and output lie in these orders."""
        algorithm = "auto" if layer.kind == "fc" and self.algorithm != "measure" else self.algorithm
        key = algorithm, replace(layer.problem, layout=own), request, reads, writes
        if key not in self.known:
            self.known[key] = self._measured(*key[1:]) if algorithm == "measure" else self._predicted(*key)
        return self.known[key]

    @staticmethod
    def _measured(problem: ConvProblem, request: Request, reads: str, writes: str) -> tuple[str, float]:
        entry = measure(problem, request, None, (reads, writes))
        return entry.chosen, entry.times[entry.chosen] or 0.0

    @staticmethod
    def _predicted(algorithm: Any, problem: ConvProblem, request: Request, reads: str, writes: str):
        if algorithm == "auto":
            best = plausible(problem, request, 1.0, 1)
            if not best:
                choose(problem, request)  # says why
            answer = best[0]
        else:
            plan = make_plan(problem, make_lowering(algorithm), request)  # refuses with the reason
            answer = candidate(plan.lowering, problem, request)
        across = problem.input_bytes * (reads != problem.layout) + problem.output_bytes * (writes != problem.layout)
        return answer.lowering.spec, answer.seconds + across / bandwidth(request)


def same_memory(shape: Sequence[int]) -> bool:
    """Whether an image of this shape lies the same in either order: one channel, or one pixel."""
    _, channels, *size = shape
    return channels == 1 or set(size) == {1}


def bandwidth(request: Request) -> float:
    """Bytes a second, as the cost model has them."""
    return rates().memory * request.num_threads if request.device == "cpu" else DEVICE_BYTES * DEVICE_HERTZ
