"""numbaconv as a contender."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import numpy as np
from numpy.typing import NDArray

from numbaconv import api, dense, products
from numbaconv.bench.contender import Contender
from numbaconv.problem import ConvProblem

__all__ = ["NAME", "PREPACKED", "conv", "conv_name", "gemm"]

NAME = "numbaconv"
PREPACKED = "numbaconv, prepacked"


def gemm(a: NDArray, b: NDArray, num_threads: int, prepacked: bool) -> Contender:
    """Ready to multiply (m, k) by (k, n); `prepacked`: with the left operand (the weights) packed beforehand."""
    out = np.empty((a.shape[0], b.shape[1]), a.dtype)
    left = dense.prepack_a(a, n=b.shape[1], num_threads=num_threads) if prepacked else a
    call = partial(products.gemm, left, b, out=out, num_threads=num_threads)

    def result() -> NDArray:
        out.fill(np.nan)
        call()
        return out.copy()

    return Contender(PREPACKED if prepacked else NAME, call, result)


def conv(
    problem: ConvProblem,
    x: NDArray,
    w: NDArray,
    bias: NDArray,
    num_threads: int,
    algorithm: str = "auto",
    accuracy: str = "float32",
) -> Contender:
    """Ready to convolve with weights prepared beforehand, in the memory order of the problem; keeps stage times."""
    chosen = api.plan(problem, algorithm, layout="nchw", bias=True, num_threads=num_threads, accuracy=accuracy)
    chosen.prepare(w, bias)
    image = in_order(x, problem.layout)
    out = in_order(np.empty(problem.output_shape, problem.dtype), problem.layout)
    stages: dict[str, list[float]] = defaultdict(list)

    def call() -> None:
        chosen(image, out=out)
        for stage, seconds in chosen.stage_times.items():
            stages[stage].append(seconds)

    def result() -> NDArray:
        out.fill(np.nan)
        call()
        return np.ascontiguousarray(out)

    return Contender(conv_name(algorithm, accuracy), call, result, stages)


def conv_name(algorithm: str, accuracy: str = "float32") -> str:
    """What a variant of ours is called in a table."""
    words = [NAME] + [algorithm] * (algorithm != "auto") + [accuracy] * (accuracy != "float32")
    return " ".join(words)


def in_order(array: NDArray, layout: str) -> NDArray:
    """The same (mb, c, h, w) array, its pixels in the memory order `layout`."""
    if layout == "nchw":
        return np.ascontiguousarray(array)
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
