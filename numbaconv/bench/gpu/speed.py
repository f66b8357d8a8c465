"""Cases: what the device can do, products against cuBLAS, and what small calls cost the host."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from numbaconv.api import conv2d, plan
from numbaconv.bench.gpu.bench import Bench
from numbaconv.bench.gpu.case import Case
from numbaconv.bench.place import FLOAT32_UNITS, USUAL_UNITS, OnDevice
from numbaconv.devices.copying import copy4, copy4_launch
from numbaconv.errors import UnsupportedProblem
from numbaconv.layers import Conv2d
from numbaconv.problem import ConvProblem
from numbaconv.products import gemm

__all__ = ["LEAN", "SQUARES", "cases", "name_of"]

SQUARES = [(size, size, size) for size in (4096, 8192, 2048, 1024)]
LEAN = [
    (64, 576, 100352), (128, 1152, 25088), (256, 2304, 6272), (512, 4608, 1568),  # ResNet's 3x3 layers, 32 images
    (256, 64, 100352), (64, 256, 100352), (2048, 512, 1568), (512, 2048, 1568),  # and its 1x1 layers
    (64, 147, 401408), (1000, 2048, 32), (4096, 25088, 32), (4095, 4097, 4099),
]  # fmt: skip
"""(m, k, n)"""
OURS = {"ours float32": "highest", "ours high": "high", "ours medium": "medium"}
SAMPLED = 16  # rows that are held against float64
COPIED = 1 << 30
SMALL = "mb1ic16ih8oc16oh8kh3ph1"
CALLS = 300
MEMORY = 'mb8ic256ih56oc256oh56kh3ph1n"vgg16:features.12"'


def name_of(shape: tuple[int, int, int]) -> str:
    return "{} x {} x {}".format(*shape)


def ceilings(bench: Bench) -> dict[str, Any]:
    """Bandwidth of a copy and of a fill, the multiply-add peak at the highest clock, a launch."""
    runtime, size = bench.runtime, 1 << 12 if bench.quick else COPIED
    source, target = (bench.empty((size // 4,)) for _ in range(2))
    runtime.fill(source, 0)
    grid, records = copy4_launch(source.shape, (1,), (1,))
    functions: dict[str, Callable[[], object]] = {
        "our copy": lambda: runtime.launch(copy4(4), grid, (source, target, *records)),
        "fill": lambda: runtime.fill(target, 0),
    }
    if bench.torch is not None:
        from_, to = bench.tensor(source), bench.tensor(target)
        functions["torch copy"] = lambda: to.copy_(from_)
    times = bench.race(functions, 2.0)
    rates = {name: (1 if name == "fill" else 2) * size / found["min"] / 1e9 for name, found in times.items()}
    tiny = bench.empty((64,))
    grid, records = copy4_launch(tiny.shape, (1,), (1,))
    launch = bench.race({"launch": lambda: runtime.launch(copy4(4), grid, (tiny, tiny, *records))}, 1.0)["launch"]
    peak = None
    if bench.real:
        place = OnDevice(bench.device)
        peak = place.peak("float32")
        units = FLOAT32_UNITS.get(runtime.cc, USUAL_UNITS) * runtime.multiprocessors
        rates |= {"units": units, "clock MHz": (place.hertz or 0) / 1e6}
    note = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    note = f"GB/s: {note}; float32 peak {peak or 0:,.0f} GFLOP/s; a launch {launch['host'] * 1e6:.1f} us of the host"
    return {"rates": rates, "peak_gflops": peak, "launch": launch, "note": note}


def square_or_lean(shape: tuple[int, int, int], seconds: float, bench: Bench) -> dict[str, Any]:
    """Ours in three precisions, cuBLAS in two, in turns; errors against float64."""
    m, k, n = (40, 24, 50) if bench.quick else shape
    a, b = bench.normal((m, k), 1), bench.normal((k, n), 2)
    outs = {name: bench.empty((m, n)) for name in OURS}
    functions: dict[str, Callable[[], object]] = {
        name: functools.partial(gemm, a, b, out=outs[name], precision=precision) for name, precision in OURS.items()
    }
    torch = bench.torch
    if torch is not None:
        ta, tb = bench.tensor(a), bench.tensor(b)
        for name, tf32 in (("cuBLAS float32", False), ("cuBLAS TF32", True)):
            outs[name] = torch.empty((m, n), device=ta.device)
            functions[name] = functools.partial(_multiplied, torch, tf32, ta, tb, outs[name])
    for name in OURS:
        bench.blank(outs[name])
    for function in functions.values():
        function()
    errors = {} if bench.recording else sampled_errors(bench, a, b, outs)
    limits = {"ours float32": 1e-5, "ours high": 1e-5, "ours medium": 1e-3}
    wrong = {name: error for name, error in errors.items() if not error <= limits.get(name, 1e-2)}
    times = bench.race({name: call for name, call in functions.items() if name not in wrong}, seconds)
    flops = 2.0 * m * k * n
    for found in times.values():
        found["tflops"], found["best_tflops"] = flops / found["median"] / 1e12, flops / found["min"] / 1e12
    note = ", ".join(f"{name} {found['tflops']:.1f}" for name, found in times.items())
    data = {"shape": [m, k, n], "times": times, "errors": errors, "note": f"TFLOP/s: {note}"}
    if wrong:
        bench.wrong(f"errors {wrong}; TFLOP/s of the others: {note}", data)
    return data


def _multiplied(torch: Any, tf32: bool, a: Any, b: Any, out: Any) -> None:
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.mm(a, b, out=out)
    torch.backends.cuda.matmul.allow_tf32 = False


def sampled_errors(bench: Bench, a: Any, b: Any, outs: dict[str, Any]) -> dict[str, float]:
    """The relative errors of some rows of each result, the first and the last among them."""
    m = a.shape[0]
    rows = sorted({0, m - 1, *(int(row) for row in np.random.default_rng(3).integers(0, m, SAMPLED))})
    wide = bench.get(b).astype(np.float64)
    want = np.stack([bench.get(a[row]) for row in rows]).astype(np.float64) @ wide
    found = {}
    for name, out in outs.items():
        ours = name in OURS
        got = np.stack([bench.get(out[row]) if ours else out[row].cpu().numpy() for row in rows])
        found[name] = bench.error(got, want)
    return found


# ------------------------------------------------------------------------------------------------- small calls, memory


def overhead(bench: Bench) -> dict[str, Any]:
    """Microseconds that the host needs to queue a small call, ours and torch's."""
    p = ConvProblem.parse(SMALL)
    rng = np.random.default_rng(0)
    x, w = (bench.put(rng.standard_normal(shape, dtype=np.float32)) for shape in (p.input_shape, p.weight_shape))
    handle = plan(p, "auto", bench.device).prepare(w)
    layer = Conv2d.from_arrays(bench.get(w), None, padding=1, device=bench.device)
    out, square = bench.empty(p.output_shape), bench.put(rng.standard_normal((64, 64), dtype=np.float32))
    result = bench.empty((64, 64))
    functions: dict[str, Callable[[], object]] = {
        "conv2d": lambda: conv2d(x, w, padding=1),
        "a plan's handle": lambda: handle(x),
        "a plan's handle, out=": lambda: handle(x, out=out),
        "Conv2d": lambda: layer(x),
        "gemm, out=": lambda: gemm(square, square, out=result),
    }
    if bench.torch is not None:
        torch = bench.torch
        tx, tw, ts, to = (bench.tensor(array) for array in (x, w, square, result))
        bare = torch.nn.Conv2d(16, 16, 3, padding=1, bias=False).to(tx.device).requires_grad_(False)
        functions |= {
            "torch conv2d": lambda: torch.nn.functional.conv2d(tx, tw, padding=1),
            "torch Conv2d": lambda: bare(tx),
            "torch mm, out=": lambda: torch.mm(ts, ts, out=to),
            "conv2d of tensors": lambda: conv2d(tx, tw, padding=1),
        }
    found, calls = {}, 1 if bench.quick or bench.recording else CALLS
    for name, function in functions.items():
        for _ in range(1 if calls == 1 else 30):
            function()
        bench.runtime.synchronize()
        best = []
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(calls):
                function()
            queued = time.perf_counter()
            bench.runtime.synchronize()
            best.append(((queued - start) / calls * 1e6, (time.perf_counter() - start) / calls * 1e6))
        found[name] = {"host_us": min(host for host, _ in best), "total_us": min(total for _, total in best)}
    note = ", ".join(f"{name} {cost['host_us']:.0f}" for name, cost in found.items())
    return {"calls": found, "note": f"us to queue: {note}"}


def memory(bench: Bench) -> dict[str, Any]:
    """Bytes that a call takes beside its arrays: declared, taken from the driver, and torch's peak."""
    p = ConvProblem.parse(SMALL if bench.quick else MEMORY)
    x, w = bench.normal(p.input_shape, 1), bench.normal(p.weight_shape, 2)
    out, found = bench.empty(p.output_shape), {}
    for spec in ("implicit-gemm", "im2col", "kn2row-aa", "mec"):
        try:
            handle = plan(p, spec, bench.device).prepare(w)
        except UnsupportedProblem:
            continue
        with bench.allocated() as taken:
            handle(x, out=out)
            bench.runtime.synchronize()
        found[spec] = {"declared": handle.workspace_bytes, "taken": sum(taken), "prepared": handle.prepared_bytes}
        spare = sum(taken) - handle.workspace_bytes
        if not 0 <= spare <= handle.workspace_bytes / 8 + 4096:  # of the pool's rounding, and of parts' alignment
            bench.wrong(f"{spec} declares {handle.workspace_bytes:,} bytes of scratch and takes {sum(taken):,}")
    if bench.torch is not None:
        cuda, tx, tw = bench.torch.cuda, bench.tensor(x), bench.tensor(w)
        for name, order in (
            ("torch", bench.torch.contiguous_format),
            ("torch channels_last", bench.torch.channels_last),
        ):
            image, weights = tx.contiguous(memory_format=order), tw.contiguous(memory_format=order)
            for _ in range(2):  # the first tries algorithms
                cuda.synchronize()
                cuda.empty_cache()
                cuda.reset_peak_memory_stats()
                before = cuda.memory_allocated()
                y = bench.torch.nn.functional.conv2d(image, weights, padding=1)
                cuda.synchronize()
                found[name] = {"taken": cuda.max_memory_allocated() - before - y.numel() * y.element_size()}
                del y
    note = ", ".join(f"{name} {bytes_['taken'] >> 10:,}" for name, bytes_ in found.items())
    return {"problem": str(p), "output": p.output_bytes, "bytes": found, "note": f"KiB beside the arrays: {note}"}


def cases(quick: bool) -> list[Case]:
    found = [Case("device", "ceilings", ceilings)]
    shapes = (SQUARES[:1] + LEAN[:1]) if quick else SQUARES + LEAN
    for shape in shapes:
        seconds = 4.0 if shape in SQUARES else 2.0
        found.append(Case("gemm", name_of(shape), functools.partial(square_or_lean, shape, seconds)))
    return [*found, Case("calls", "overhead", overhead), Case("calls", "memory", memory)]
