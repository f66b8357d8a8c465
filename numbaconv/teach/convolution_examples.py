"""Two examples with all their numbers: a layer as a matrix product, and what a stride does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numbaconv.lowering import Lowering
from numbaconv.machine import default_threads
from numbaconv.probes import fma_peak, read_bandwidth
from numbaconv.problem import ConvProblem
from numbaconv.products import gemm
from numbaconv.registry import make_lowering
from numbaconv.request import Request
from numbaconv.timing import burst

__all__ = ["blog", "strides"]

LAYER = ConvProblem.parse("mb1ic128ih16oc192kh3ph1")
"""The layer whose product is 256 x 1152 x 192: 16·16 pixels, 128·3·3 numbers a patch, 192 kernels."""
SMALL, CONV1 = "mb1ic1ih7oc1kh3", "mb1ic3ih227oc96kh11"


def blog(quick: bool, tick: Callable[[str], None]) -> dict[str, Any]:
    """The product of Warden's "Why GEMM is at the heart of deep learning", 256 x 1152 by 1152 x 192, worked through.

    Returns
    -------
    dict
        ``m k n``, ``macs``, ``flops``, ``bytes`` of A, B, C and together, ``intensity`` (operations a byte), ``layer``,
        ``machine`` (threads, peak, bandwidth), ``ceiling`` (the least seconds for operations and for bytes),
        ``measured`` (``name``, ``seconds``, ``gflops``, ``share_of_peak`` of us and of NumPy), ``seconds`` and
        ``gflops`` (ours), and ``steps``: all of it in words, each with a ``title`` and a ``text``.
    """
    p = LAYER
    m, k, n = p.oh * p.ow, p.K, p.oc
    size = {"a": 4 * m * k, "b": 4 * k * n, "c": 4 * m * n}
    size["total"] = sum(size.values())
    threads = default_threads()
    peak, read = fma_peak("float32", threads), read_bandwidth(threads)
    compute, memory = p.flops / peak / 1e9, size["total"] / read / 1e9
    found: dict[str, Any] = {
        "m": m, "k": k, "n": n, "macs": m * k * n, "flops": 2 * m * k * n, "bytes": size,
        "intensity": 2 * m * k * n / size["total"],
        "layer": {"descriptor": str(p), "ic": p.ic, "oc": p.oc, "kh": p.kh, "kw": p.kw, "oh": p.oh, "ow": p.ow},
        "machine": {"threads": threads, "peak_gflops": peak, "read_gb_s": read},
        "ceiling": {"compute_seconds": compute, "memory_seconds": memory,
                    "bound": "operations" if compute > memory else "bytes"},
        "measured": [
            {"name": name, "seconds": seconds, "gflops": p.flops / seconds / 1e9,
             "share_of_peak": p.flops / seconds / 1e9 / peak}
            for name, seconds in _products(m, k, n, quick).items()
        ],
    }  # fmt: skip
    ours = found["measured"][0]
    tick(f"{m} x {k} x {n}: {ours['gflops']:.0f} GFLOP/s")
    return found | {"seconds": ours["seconds"], "gflops": ours["gflops"], "steps": _words(found)}


def _products(m: int, k: int, n: int, quick: bool) -> dict[str, float]:
    """Seconds of our product and of NumPy's, by their best calls."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    c = np.empty((m, n), np.float32)
    calls = {"numbaconv.gemm": lambda: gemm(a, b, out=c), "numpy.matmul": lambda: np.matmul(a, b, out=c)}
    return {name: sample.min for name, sample in burst(calls, 3 if quick else 9).items()}


def _words(x: dict[str, Any]) -> list[dict[str, str]]:
    """The example step by step."""
    m, k, n, size, layer, machine, least = (x[w] for w in ("m", "k", "n", "bytes", "layer", "machine", "ceiling"))
    times = [
        f"{who['name']} takes {_time(who['seconds'])}: {who['gflops']:.0f} GFLOP/s, "
        f"{who['share_of_peak']:.0%} of the peak"
        for who in x["measured"]
    ]
    steps = {
        "The layer":
            f"A 3x3 convolution, {layer['ic']} channels to {layer['oc']}, with {layer['oh']} x {layer['ow']} outputs, "
            f"{layer['descriptor']}.",
        "A: the patches":
            f"One row for each output pixel: {layer['oh']} · {layer['ow']} = {m}. One column for each number of its "
            f"patch: {layer['ic']} · {layer['kh']} · {layer['kw']} = {k:,}. {_kib(size['a'])} in float32.",
        "B: the kernels":
            f"One column for each output channel: {n}. Its {k:,} rows are in the patch's order. {_kib(size['b'])}.",
        "C: the outputs":
            f"{m} x {n}: every patch with every kernel. {_kib(size['c'])}. (Where the pixels of a channel lie side by "
            "side, as in NCHW, the transpose is computed: kernels times patches. It is the same work.)",
        "How much work":
            f"{m} · {k:,} · {n} = {x['macs']:,} multiply-adds, the text's 57 million. Each is two operations: "
            f"{x['flops'] / 1e6:.0f} MFLOP.",
        "How much data":
            f"A, B and C together are {_kib(size['total'])}: {x['intensity']:.0f} operations for each byte. A number "
            f"of A is used {n} times, a number of B {m} times.",
        "What this machine could do":
            f"Its {machine['threads']} thread{'s' * (machine['threads'] > 1)} can do {machine['peak_gflops']:.0f} "
            f"GFLOP/s in registers and read {machine['read_gb_s']:.0f} GB/s from memory. The operations take at least "
            f"{_time(least['compute_seconds'])}, and to move each byte once takes {_time(least['memory_seconds'])}: "
            f"{least['bound']} are the limit, as long as tiling keeps what is loaded near until it is used up.",
        "What was measured": "; ".join(times) + ".",
    }  # fmt: skip
    return [{"title": title, "text": text} for title, text in steps.items()]


def _kib(size: int) -> str:
    return f"{size / 1024:,.0f} KiB"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


# ------------------------------------------------------------------------------------------------------------- strides


def strides(tick: Callable[[str], None]) -> dict[str, Any]:
    """What the stride does to a small image that can be drawn, and to AlexNet's first layer.

    Returns
    -------
    dict
        ``rule``, the formula, and two examples, ``small`` and ``layer``. Each has a ``title`` and ``rows``, one a
        stride: ``stride``, ``descriptor``, ``worked`` (the formula with its numbers), ``oh``, ``ow``, ``patches``,
        ``macs``, ``im2col_bytes``, ``copies`` (how often an input pixel is written down, on average),
        ``columns_shared`` (by neighbouring patches) and ``rows_reached`` (of the input, from the first to the last
        that a patch holds).
    """
    im2col = make_lowering("im2col")
    found = {
        "rule": "oh = (ih + 2·padding - kh) // stride + 1, and ow likewise: the window's first place and its steps",
        "small": {
            "title": "7 x 7 pixels, a 3x3 kernel",
            "rows": [_strided(SMALL, stride, im2col) for stride in (1, 2, 3, 4, 5)],
        },
        "layer": {
            "title": "AlexNet's first layer: 3 x 227 x 227, 96 kernels of 11x11",
            "rows": [_strided(CONV1, stride, im2col) for stride in (1, 2, 4, 8, 11, 16)],
        },
    }
    tick("what the stride does")
    return found


def _strided(text: str, stride: int, im2col: Lowering) -> dict[str, Any]:
    p = ConvProblem.parse(f"{text}sh{stride}ph0")
    lowered = im2col.lowering_bytes(p, Request())
    return {
        "stride": stride, "descriptor": str(p), "worked": f"({p.ih} + 2·0 - {p.kh}) // {stride} + 1 = {p.oh}",
        "oh": p.oh, "ow": p.ow, "patches": p.oh * p.ow, "macs": p.macs, "im2col_bytes": lowered,
        "copies": lowered / p.input_bytes, "columns_shared": max(0, p.kw - stride),
        "rows_reached": (p.oh - 1) * stride + p.kh,
    }  # fmt: skip
