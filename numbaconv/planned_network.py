"""What ``plan_network`` chose: a table, handles, and a chain that runs.

Layers hand on what they made as it lies: whoever was planned for another memory order reads it in place, through its
strides, and the last one writes it in the order that was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from numbaconv.arrays import FROM_NCHW, any_array, as_nchw, checked_image, lives_on_device
from numbaconv.devices.cuda import runtime
from numbaconv.errors import ShapeError
from numbaconv.plan import Handle, make_plan
from numbaconv.problem import ConvProblem
from numbaconv.request import Request
from numbaconv.workspace import aligned, checked_out, round_up

__all__ = ["NetworkPlan", "PlannedLayer"]


@dataclass(frozen=True)
class PlannedLayer:
    """What was chosen for a layer.

    Attributes
    ----------
    name : str
    problem : ConvProblem
        With the memory order chosen, which is that of the layer's output.
    algorithm : str
        The lowering.
    reads : str
        The memory order in which its input lies.
    seconds : float
        Predicted or measured, with the input in the layer's own order.
    reorder_bytes, reorder_seconds : int, float
        What is read across, where `reads` is another order, and the time that it adds; likewise what the last layer
        writes across.
    """

    name: str
    problem: ConvProblem
    request: Request
    algorithm: str
    reads: str
    seconds: float
    reorder_bytes: int = 0
    reorder_seconds: float = 0.0

    @property
    def layout(self) -> str:
        """The memory order chosen."""
        return self.problem.layout

    @property
    def workspace_bytes(self) -> int:
        """Scratch of a run."""
        return make_plan(self.problem, self.algorithm, self.request).workspace_bytes


class NetworkPlan:
    """The layers of a network as they were chosen; ``str()`` prints a table.

    Where they chain, the plan runs them all: ``prepare(weights, biases)``, then call it with the network's input.

    Attributes
    ----------
    layers : tuple of PlannedLayer
    algorithm : str
        "auto", "measure" or what was named.
    input_layout, output_layout : str
        Memory order, and order of the axes, of the network's input and output.
    single : dict of str to float
        Seconds of all layers in one memory order throughout.
    """

    def __init__(self, layers: Sequence[PlannedLayer], algorithm: str, output_layout: str, single: dict[str, float]):
        self.layers, self.algorithm, self.single = tuple(layers), algorithm, single
        self.input_layout, self.output_layout = self.layers[0].reads, output_layout
        self._handles: list[Handle] = []

    layouts = property(lambda self: tuple(layer.layout for layer in self.layers))
    workspace_bytes = property(lambda self: max(layer.workspace_bytes for layer in self.layers))

    @property
    def seconds(self) -> float:
        """Of all layers, reading and writing across included."""
        return sum(layer.seconds + layer.reorder_seconds for layer in self.layers)

    @property
    def reorder_bytes(self) -> int:
        """Read or written across in all."""
        return sum(layer.reorder_bytes for layer in self.layers)

    @property
    def prepared_bytes(self) -> int:
        """Memory that the prepared weights keep; 0 before ``prepare``."""
        return sum(handle.prepared_bytes for handle in self._handles)

    @property
    def chains(self) -> bool:
        """Whether the output of each layer is the input of the next."""
        return self._gap() is None

    def _gap(self) -> tuple[PlannedLayer, PlannedLayer] | None:
        pairs = zip(self.layers, self.layers[1:], strict=False)
        return next((pair for pair in pairs if pair[0].problem.output_shape != pair[1].problem.input_shape), None)

    def handles(self) -> list[Handle]:
        """A handle for each layer, for arrays (mb, c, h, w) in any memory order; the results' is the layer's."""
        return [Handle(make_plan(layer.problem, layer.algorithm, layer.request), "nchw") for layer in self.layers]

    def prepare(self, weights: Sequence[Any], biases: Sequence[Any] | None = None) -> NetworkPlan:
        """Prepare the weights (oc, ic/g, kh, kw) and biases, in the order of the layers; returns self.

        Raises
        ------
        ShapeError
            When their number or their shapes are not the layers'.
        """
        biases = [None] * len(weights) if biases is None else biases
        if not len(weights) == len(biases) == len(self.layers):
            raise ShapeError(f"{len(self.layers)} layers take as many weights and biases; "
                             f"got {len(weights)} and {len(biases)}")  # fmt: skip
        handles = zip(self.handles(), weights, biases, strict=True)
        self._handles = [handle.prepare(w, bias) for handle, w, bias in handles]
        return self

    def __call__(self, x: Any) -> Any:
        """Run the chain on `x`, axes as `input_layout` says; the result's are as `output_layout` says.

        Raises
        ------
        ShapeError
            When the layers do not chain: run their ``handles()`` yourself, with what lies between them.
        """
        gap = self._gap()
        if gap is not None:
            first, second = gap
            raise ShapeError(
                f"the layers do not chain: {first.name} makes {first.problem.output_shape} and {second.name} takes "
                f"{second.problem.input_shape}; run handles() one by one, with what lies between"
            )
        if not self._handles:
            raise RuntimeError("plan_network: call prepare(weights, biases) before the first run")
        device, problem = self.layers[0].request.device, self.layers[0].problem
        x = any_array(x, "x", device)
        image = checked_image(x, "x", problem.input_shape, problem.dtype, self.input_layout)
        result = self._run(image) if device == "cpu" else self._run_device(image, lives_on_device(x))
        result = result.transpose(FROM_NCHW[self.output_layout])
        return result[0] if x.ndim == 3 else result

    def _run(self, image: np.ndarray) -> np.ndarray:
        """What lies between two layers lies in one of two pieces of scratch, in turns."""
        *before, last = self.layers
        most = round_up(max((layer.problem.output_bytes for layer in before), default=0))
        with checked_out(2 * most) as arena:
            memory = arena.take("between", 2 * most)
            for number, (layer, handle) in enumerate(zip(before, self._handles, strict=False)):
                piece = memory[number % 2 * most :][: layer.problem.output_bytes]
                image = handle(image, out=_image(piece.view(layer.problem.dtype), layer.problem, layer.layout))
            out = aligned(last.problem.output_bytes).view(last.problem.dtype)
            return self._handles[-1](image, out=_image(out, last.problem, self.output_layout))

    def _run_device(self, image: Any, stays: bool) -> Any:
        """On a GPU; host arrays are copied there once and back once."""
        device, last = runtime(self.layers[0].request.device), self.layers[-1].problem
        image = image if stays else device.to_device(image)
        for handle in self._handles[:-1]:
            image = handle(image)
        out = _image(device.empty((last.output_bytes // last.itemsize,), last.dtype), last, self.output_layout)
        image = self._handles[-1](image, out=out)
        return image if stays else device.to_host(image)

    def __str__(self) -> str:
        first = self.layers[0]
        where = f"{first.request.num_threads} thread(s)" if first.request.device == "cpu" else first.request.device
        width = max(len(layer.name) for layer in self.layers)
        spec = max(8, *(len(layer.algorithm) for layer in self.layers))
        how = "measured" if self.algorithm == "measure" else "predicted"
        lines = [
            f"{len(self.layers)} layers, {where}, input {self.input_layout}, output {self.output_layout}, "
            f"algorithm {self.algorithm}",
            f"{'layer':<{width}} {'lowering':<{spec}} {'layout':<6} {'reads':<5} {'ms ' + how:>13} {'across':>13} "
            f"{'ms':>8} {'workspace':>13}",
        ]
        lines += [
            f"{layer.name:<{width}} {layer.algorithm:<{spec}} {layer.layout:<6} {layer.reads:<5} "
            f"{layer.seconds * 1e3:>13.3f} {layer.reorder_bytes:>13,} {layer.reorder_seconds * 1e3:>8.3f} "
            f"{layer.workspace_bytes:>13,}"
            for layer in self.layers
        ]
        single = ", ".join(f"{layout} {seconds * 1e3:.3f} ms" for layout, seconds in self.single.items())
        lines.append(f"{self.seconds * 1e3:.3f} ms {how} in all; in one layout throughout: {single}")
        return "\n".join(lines)


def _image(memory: Any, problem: ConvProblem, order: str) -> Any:
    """A layer's output (mb, oc, oh, ow) in memory without gaps, in a memory order."""
    return as_nchw(memory.reshape(tuple(problem.output_shape[axis] for axis in FROM_NCHW[order])), order)
