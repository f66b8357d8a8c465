"""Compile now what networks need later: every distinct layer is prepared and run once, on zeros."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from numbaconv.bench.network import prepare_layer
from numbaconv.jit import build_key, cache_directory
from numbaconv.networks import Layer, layers
from numbaconv.networks.operators import local_response_norm, max_pool, relu, softmax

__all__ = ["DEFAULT_NETWORKS", "WarmUp", "distinct_layers", "warm_up"]

DEFAULT_NETWORKS = ("alexnet", "vgg16", "resnet50")


@dataclass(frozen=True)
class WarmUp:
    """What a warm-up did.

    Parameters
    ----------
    layers : int
        Distinct ones that ran.
    seconds : float
    directory : Path or None
        Where compiled code is kept; None where no directory can be written.
    added, files : int
        Files that this run added to it, and all there are.
    """

    layers: int
    seconds: float
    directory: Path | None
    added: int
    files: int


def distinct_layers(networks: Sequence[str], mb: int = 1, layout: str = "nchw") -> list[Layer]:
    """The layers of some networks without those that compile the same code; in the order met.

    Raises
    ------
    UnknownNetwork
    """
    found: dict[tuple, Layer] = {}
    for name in networks:
        for layer in layers(name, mb, layout):
            found.setdefault((layer.kind, layer.problem, layer.bias, layer.activation), layer)
    return list(found.values())


def warm_up(
    networks: Sequence[str] = DEFAULT_NETWORKS,
    mb: int = 1,
    layout: str = "nchw",
    num_threads: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> WarmUp:
    """Run every distinct layer of some networks once, so that all compiled code is in the cache.

    Parameters
    ----------
    networks : sequence of str
    mb, layout
        As in ``networks.layers``.
    num_threads : int, optional
    tick : callable
        Called without arguments before each layer.
    """
    directory = cache_directory()
    kept = directory and directory / build_key()
    before, start = _files(kept), perf_counter()
    todo = distinct_layers(networks, mb, layout)
    for layer in todo:
        tick()
        p = layer.problem
        # Weights of zeros cost no memory until something is written there.
        weights, bias = np.zeros(p.weight_shape, p.dtype), np.zeros(p.oc, p.dtype) if layer.bias else None
        ready = prepare_layer(layer, weights, bias, num_threads=num_threads)
        ready.call(np.zeros(ready.input_shape, p.dtype), out=np.empty(ready.output_shape, p.dtype))
    if "alexnet" in networks:
        _run_operators(num_threads)
    files = _files(kept)
    return WarmUp(len(todo), perf_counter() - start, kept, len(files - before), len(files))


def _run_operators(num_threads: int | None) -> None:
    """What stands between the products of AlexNet, the only network with a whole forward pass."""
    x = np.zeros((1, 5, 9, 9), np.float32)
    relu(x)
    relu(x, out=x)
    local_response_norm(x, num_threads=num_threads)
    max_pool(x, num_threads=num_threads)
    softmax(x.reshape(1, -1))


def _files(directory: Path | None) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory and directory.is_dir() else set()
