"""AlexNet's whole forward pass, stage by stage as Caffe's bvlc_alexnet runs it (dropout does nothing then).

    conv1 relu1 norm1 pool1  conv2 relu2 norm2 pool2  conv3 relu3  conv4 relu4  conv5 relu5 pool5
    fc6 relu6  fc7 relu7  fc8  prob

It exists to be timed: what share of a network is matrix products? Weights are random.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbaconv.errors import ShapeError
from numbaconv.layers import Conv2d, Linear
from numbaconv.networks import Layer, layers
from numbaconv.networks.operators import local_response_norm, max_pool, relu, softmax

__all__ = ["AlexNet"]

Stage = tuple[str, str, Callable[[Any], Any]]

# What follows a layer and its ReLU.
AFTER = {"conv1": ("norm1", "pool1"), "conv2": ("norm2", "pool2"), "conv5": ("pool5",)}


class AlexNet:
    """The grouped original with seeded random weights (He's scale), float32, on the CPU.

    Parameters
    ----------
    seed : int
        Of the weights.
    mb : int
        Images of a forward pass.
    fused : bool
        Put each ReLU into the last store of its layer; otherwise it is a stage of its own, as Caffe times it.
    algorithm : str, optional
        For every convolution.
    **options
        For every ``Conv2d`` and ``Linear``, such as ``num_threads=1``.

    Attributes
    ----------
    input_shape : tuple of int
        (mb, 3, 227, 227).
    layers : list of Layer
        The table the network is built from.
    weights : dict of str to (array, array)
        Each layer's weights and bias by its name.
    """

    def __init__(
        self, seed: int = 0, mb: int = 1, *, fused: bool = False, algorithm: str | None = None, **options: Any
    ) -> None:
        self.fused = fused
        self.layers = layers("alexnet", mb=mb)
        self.input_shape = self.layers[0].problem.input_shape
        self.weights: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        self._stages: list[Stage] = []
        rng = np.random.default_rng(seed)
        conv_options = options if algorithm is None else {"algorithm": algorithm, **options}
        for layer in self.layers:
            activation = layer.activation if fused else None
            w, b = self.weights[layer.name] = _random_weights(layer, rng)
            if layer.kind == "conv":
                call = _conv(layer, w, b, activation, conv_options)
            else:
                call = _linear(w, b, activation, options)
            self._stages.append((layer.name, layer.kind, call))
            if layer.activation and not fused:
                self._stages.append((f"relu{layer.name[-1]}", "relu", _relu_in_place))
            for name in AFTER.get(layer.name, ()):
                kind, operator = ("lrn", local_response_norm) if name.startswith("norm") else ("pool", max_pool)
                self._stages.append((name, kind, partial(operator, num_threads=options.get("num_threads"))))
        self._stages.append(("prob", "softmax", softmax))

    def stages(self) -> list[Stage]:
        """The forward pass in pieces, for a timer.

        Returns
        -------
        list of (str, str, callable)
            Name; kind ("conv", "relu", "lrn", "pool", "fc" or "softmax"); what makes the stage's output from the one
            before. A ReLU works in place.
        """
        return list(self._stages)

    def random_input(self, seed: int = 0) -> NDArray[np.float32]:
        """Normally distributed images."""
        return np.random.default_rng(seed).standard_normal(self.input_shape, dtype=np.float32)

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Class probabilities of images.

        Parameters
        ----------
        x : float32 array of shape `input_shape`

        Returns
        -------
        float32 array (mb, 1000)

        Raises
        ------
        ShapeError
        """
        if x.shape != self.input_shape:
            raise ShapeError(f"x must have shape {self.input_shape}; got {x.shape}")
        for _, _, stage in self._stages:
            x = stage(x)
        return x


def _random_weights(layer: Layer, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights of variance 2 / K, so that a ReLU network keeps the variance of its input, and small biases."""
    problem = layer.problem
    shape = problem.weight_shape if layer.kind == "conv" else problem.weight_shape[:2]
    w = rng.standard_normal(shape, dtype=np.float32)
    w *= np.float32(np.sqrt(2 / problem.K))
    return w, np.float32(0.1) * rng.standard_normal(problem.oc, dtype=np.float32)


def _conv(layer: Layer, w: Any, b: Any, activation: str | None, options: dict[str, Any]) -> Callable[[Any], Any]:
    p = layer.problem
    pads = (p.pad_top, p.pad_left, p.pad_bottom, p.pad_right)
    return Conv2d.from_arrays(w, b, stride=(p.sh, p.sw), padding=pads, groups=p.g, activation=activation, **options)


def _linear(w: Any, b: Any, activation: str | None, options: dict[str, Any]) -> Callable[[Any], Any]:
    layer = Linear.from_arrays(w, b, activation=activation, **options)
    return lambda x: layer(x.reshape(len(x), -1))


def _relu_in_place(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return relu(x, out=x)
