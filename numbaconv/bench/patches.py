"""How fast im2col writes: bytes of patches a second into a warm buffer, beside the machine's measured copy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from numbaconv import api, probes
from numbaconv.bench.contender import normal
from numbaconv.problem import ConvProblem

__all__ = ["LAYERS", "Written", "measure"]

LAYERS = (
    'mb1ic64ih224oc64oh224kh3ph1n"vgg16:features.2"',
    'mb1ic128ih112oc128oh112kh3ph1_nhwcn"vgg16:features.7"',
    'mb1ic128ih112oc128oh112kh3ph1n"vgg16:features.7"',
    'mb8ic3ih224oc64oh112kh7sh2ph3n"resnet50:conv1"',
)
"""Layers whose patches are 32 MB or more."""


@dataclass(frozen=True)
class Written:
    """One layer's lower stage: bytes written, gigabytes a second, and their share of the copy bandwidth.

    A copy's bandwidth counts bytes read and bytes written; writing patches at half of it is as fast as copying.
    """

    layer: str
    size: int
    gigabytes: float
    share: float


def measure(num_threads: int, calls: int = 12) -> list[Written]:
    """Time the lower stage of each layer, the best of so many calls on the same arena."""
    copy = probes.copy_bandwidth(num_threads, refresh=True)
    found = []
    for text in LAYERS:
        problem = ConvProblem.parse(text)
        algorithm = "im2row" if problem.layout == "nhwc" else "im2col:batching=whole"
        handle = api.plan(problem, algorithm, layout="nchw", num_threads=num_threads)
        handle.prepare(normal(problem.weight_shape, problem.dtype, 1))
        x = normal(problem.input_shape, problem.dtype, 0)
        if problem.layout == "nhwc":
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        out = handle(x)
        best = min(_lower_seconds(handle, x, out) for _ in range(calls))
        speed = handle.lowering_bytes / best / 1e9
        found.append(Written(f"{replace(problem, name='')} {algorithm}", handle.lowering_bytes, speed, speed / copy))
    return found


def _lower_seconds(handle, x, out) -> float:
    handle(x, out=out)
    return handle.stage_times["lower"]
