"""What a call costs beyond its kernel: small convolutions by plan, layer and function, and by PyTorch's function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from numbaconv import api, layers
from numbaconv.arrays import new_output
from numbaconv.bench.contender import Contender, conv_reference, normal
from numbaconv.bench.conv_peers import torch_sizes
from numbaconv.devices.threads import pool_for
from numbaconv.jit import compiled
from numbaconv.plan import Handle
from numbaconv.recording import Kept, play
from numbaconv.timing import burst
from numbaconv.workspace import address_of, aligned

__all__ = ["CALLS", "CASES", "Row", "measure"]

CASES = (
    ("auto", "mb1ic1ih8oc1kh3ph1"), ("direct", "mb1ic1ih8oc1kh3ph1"), ("depthwise", "g8mb1ic8ih8oc8kh3ph1"),
    ("conv1x1", "mb1ic8ih8oc8kh1ph0"), ("implicit-gemm", "mb1ic1ih8oc1kh3ph1"), ("winograd-f2", "mb1ic16ih8oc16kh3ph1"),
)  # fmt: skip
CALLS = ("kernel", "plan", "plan, out=", "Conv2d", "conv2d", "torch")
REPEATS = 64


class Row(NamedTuple):
    """Median seconds of a convolution's ways, by their names in ``CALLS``; torch only where it is installed."""

    algorithm: str
    problem: str
    seconds: dict[str, float]


@compiled
def _repeat(times, tape, steps, pool, threads, x, out, scratch, kept):
    for _ in range(times):
        play(tape, steps, pool, threads, x, out, 0, scratch, kept)


def measure(threads: int, rounds: int = 5) -> Iterator[Row]:
    """Time the cases, one call after another from one thread; "kernel" is the compiled tasks without Python.

    Raises
    ------
    WrongResult
    """
    for algorithm, text in CASES:
        handle = api.plan(text, algorithm, num_threads=threads)
        p = handle.problem
        x, w = normal(p.input_shape, p.dtype, 0), normal(p.weight_shape, p.dtype, 1)
        out = new_output(p)
        sizes: dict[str, Any] = {"padding": p.pad_top, "groups": p.g}
        options: dict[str, Any] = {"algorithm": algorithm, "num_threads": threads}
        handle.prepare(w).plan.known.clear()
        handle(x, out)
        calls: dict[str, Callable[[], Any]] = {
            "kernel": _kernel(handle, x, out),
            "plan": partial(handle, x),
            "plan, out=": partial(handle, x, out),
            "Conv2d": partial(layers.Conv2d.from_arrays(w, **sizes, **options), x),
            "conv2d": partial(api.conv2d, x, w, **sizes, **options),
        }
        calls |= _torch(p, x, w, threads)
        reference = conv_reference(p, x, w, np.zeros(p.oc))
        for name, call in calls.items():
            out.fill(np.nan)
            reference.check(Contender(name, call, partial(_result, call)))
        samples = burst(calls, rounds)
        seconds = {name: sample.median for name, sample in samples.items()}
        seconds["kernel"] /= REPEATS
        yield Row(handle.algorithm, text, seconds)


def _result(call: Callable[[], Any]) -> np.ndarray:
    return np.asarray(call()).copy()


def _kernel(handle: Handle, x: np.ndarray, out: np.ndarray) -> Callable[[], Any]:
    """The tasks of a call that has been made, repeated by compiled code."""
    recording, scratch = next((known.recording, aligned(known.scratch)) for known in handle.plan.known.values())
    assert recording is not None
    ((_, tape, steps),) = recording.parts
    kept, (pool, threads) = Kept(handle.prepared, None), pool_for(recording.threads)

    def call() -> np.ndarray:
        _repeat(REPEATS, tape, steps, pool, threads, address_of(x), address_of(out), address_of(scratch), kept.address)
        return out

    return call


def _torch(problem, x: np.ndarray, w: np.ndarray, threads: int) -> dict[str, Callable[[], Any]]:
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(threads)
    image, weights, sizes = torch.from_numpy(x), torch.from_numpy(w), torch_sizes(problem)

    def call() -> Any:
        with torch.inference_mode():
            return torch.nn.functional.conv2d(image, weights, None, *sizes)

    return {"torch": call}
