"""Times: the steps of the convolution ladder with what grew from them, and Fourier transforms against products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from numbaconv.api import plan
from numbaconv.errors import NumbaconvError
from numbaconv.ladder import Step, steps
from numbaconv.machine import default_threads
from numbaconv.problem import ConvProblem
from numbaconv.registry import make_lowering
from numbaconv.request import Request
from numbaconv.select import check
from numbaconv.timing import burst

__all__ = ["fourier", "ladder", "layers", "places"]

Tick = Callable[[str], None]

PAUSE = 0.002
"""Seconds before a burst: all calls are ours, and our idle threads sleep sooner."""
PRODUCTS, TRANSFORMS = ("implicit-gemm", "direct"), ("fft", "fft-tiled")
MOST_ERROR = 1e-5
GROWING = "mb1ic64ih56oc64kh{kernel}sh{stride}ph{padding}"
"""The layer that transforms and products are timed on."""


def layers(quick: bool) -> list[ConvProblem]:
    """Those that the ladder is timed on; all of its steps run them."""
    texts = ['mb1ic64ih56oc64kh3ph1n"ResNet, 64 channels at 56 x 56"']
    if not quick:
        texts.append('mb1ic256ih28oc512kh3ph1n"VGG-16, 256 to 512 channels at 28 x 28"')
    return [ConvProblem.parse(text) for text in texts]


def arrays(problem: ConvProblem) -> tuple[np.ndarray, np.ndarray]:
    """(input, weights), the same ones every time."""
    rng = np.random.default_rng(20061)
    x, w = (rng.standard_normal(shape, np.float32) for shape in (problem.input_shape, problem.weight_shape))
    return x, w


# ---------------------------------------------------------------------------------------------------------- the ladder


def ladder(quick: bool, tick: Tick) -> list[dict[str, Any]]:
    """Each step on the first layer, and the production lowering it grew into, on one thread.

    Production's weights are prepared once; a step's call prepares its own.

    Returns
    -------
    list of dict
        ``number name title idea source``; ``descriptor``, ``layer`` in words, ``macs``; ``seconds`` of the best call,
        ``gflops`` at the operations of the definition, ``lowering_bytes``; ``production``: its ``name`` and the same
        three numbers; ``others``: the same on the other layers.
    """
    found = []
    for problem in layers(quick):
        found.append(_timed_layer(problem, 5.0 if quick else 12.0))
        tick(f"{problem.name}: up to {max(row['gflops'] for row in found[-1]):.0f} GFLOP/s")
    words = [
        {key: getattr(step, key) for key in ("number", "name", "title", "idea", "source")} for step in steps("conv")
    ]
    return [{**said, **row, "others": others} for said, row, *others in zip(words, *found, strict=True)]


def _timed_layer(problem: ConvProblem, budget_s: float) -> list[dict[str, Any]]:
    """One layer's rows, a step each."""
    x, w = arrays(problem)
    calls: dict[tuple[str, str], Callable[[], np.ndarray]] = {}
    for step in steps("conv"):
        calls["step", step.name] = _call_of(step, problem, x, w)
        calls["production", step.module.production] = _handle(problem, step.module.production, 1, x, w)
    seconds = _raced(calls, budget_s)
    return [_row(step, problem, seconds) for step in steps("conv")]


def _raced(calls: dict[Any, Callable[[], np.ndarray]], budget_s: float) -> dict[Any, float]:
    """Seconds of each call at its best, after all have been seen to compute the same."""
    wanted = next(iter(calls.values()))()
    for name, call in calls.items():
        off = np.linalg.norm(call() - wanted) / np.linalg.norm(wanted)
        if not off <= MOST_ERROR:
            raise NumbaconvError(f"{name} is not timed: it is off by {off:.1e} of the convolution's norm")
    times = burst(calls, 5, pause=PAUSE, drop=1, calls=5, budget_s=budget_s)
    return {name: sample.min for name, sample in times.items()}


def _call_of(step: Step, problem: ConvProblem, x: np.ndarray, w: np.ndarray) -> Callable[[], np.ndarray]:
    out = np.empty(problem.output_shape, np.float32)
    return lambda: step.function(x, w, problem.sh, problem.pad_top, out=out)


def _handle(problem: ConvProblem, name: str, threads: int | None, x: np.ndarray, w: np.ndarray) -> Callable[[], Any]:
    """A call of a lowering with its weights prepared."""
    handle, out = plan(problem, name, num_threads=threads).prepare(w), np.empty(problem.output_shape, np.float32)
    return lambda: handle(x, out=out)


def _row(step: Step, problem: ConvProblem, seconds: dict[tuple[str, str], float]) -> dict[str, Any]:
    name = step.module.production
    declared = plan(problem, name, num_threads=1).lowering_bytes
    return {
        "descriptor": str(replace(problem, name="")), "layer": problem.name, "macs": problem.macs,
        **_speed(problem, seconds["step", step.name], step.module.lowering_bytes(problem)),
        "production": {"name": name, **_speed(problem, seconds["production", name], declared)},
    }  # fmt: skip


def _speed(problem: ConvProblem, seconds: float, lowering_bytes: int) -> dict[str, Any]:
    return {"seconds": seconds, "gflops": problem.flops / seconds / 1e9, "lowering_bytes": lowering_bytes}


# ------------------------------------------------------------------------------------------------------------- fourier


def places(quick: bool) -> list[tuple[int, int]]:
    """(kernel, stride) of what transforms and products are timed on."""
    kernels = (3, 5, 9, 15) if quick else (3, 5, 7, 9, 11, 15, 21)
    return [(kernel, stride) for stride in (1, 2, 4) for kernel in kernels]


def fourier(quick: bool, tick: Tick) -> dict[str, Any]:
    """Transforms against products (or the same multiply-adds without a matrix), as kernel and stride grow.

    Returns
    -------
    dict
        ``kernels``, ``strides``, ``layer`` in words, ``threads``, and ``cells``: ``kernel``, ``stride``,
        ``descriptor``; ``gemm`` and ``fft``, the fastest of their kind; ``gemm_seconds`` and ``fft_seconds`` of their
        best calls; ``gemm_macs`` and ``fft_macs`` (those between the transforms). Where transforms refuse, theirs are
        None and ``reason`` says why.
    """
    cells = []
    for kernel, stride in places(quick):
        problem = ConvProblem.parse(GROWING.format(kernel=kernel, stride=stride, padding=kernel // 2))
        cells.append({"kernel": kernel, "stride": stride, **_contest(problem, 0.4 if quick else 1.0)})
        tick(f"kernel {kernel}x{kernel}, stride {stride}: {cells[-1]['fft'] or cells[-1]['reason']}")
    return {
        "kernels": sorted({kernel for kernel, _ in places(quick)}),
        "strides": sorted({stride for _, stride in places(quick)}),
        "layer": "64 channels to 64, 56 x 56, padded by half the kernel",
        "threads": default_threads(),
        "cells": cells,
    }


def _contest(problem: ConvProblem, budget_s: float) -> dict[str, Any]:
    x, w = arrays(problem)
    request = Request(num_threads=default_threads())
    refusals = {name: check(make_lowering(name), problem, request).reason for name in TRANSFORMS}
    running = [*PRODUCTS, *(name for name in TRANSFORMS if not refusals[name])]
    seconds = _raced({name: _handle(problem, name, None, x, w) for name in running}, budget_s)
    found: dict[str, Any] = {"descriptor": str(problem)}
    for kind, names in (("gemm", PRODUCTS), ("fft", TRANSFORMS)):
        best = min((name for name in names if name in seconds), key=lambda name: seconds[name], default=None)
        found |= {
            kind: best,
            f"{kind}_seconds": seconds[best] if best else None,
            f"{kind}_macs": make_lowering(best).multiply_adds(problem) if best else None,
        }
    return found | {"reason": None if found["fft"] else refusals[TRANSFORMS[0]]}
