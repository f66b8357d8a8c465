"""Cases: arrays of other libraries without a copy, streams, threads, layers, memory kept and given back."""

from __future__ import annotations

import importlib
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbaconv.api import conv2d, plan
from numbaconv.bench.gpu.bench import Bench
from numbaconv.bench.gpu.case import Case, Skip
from numbaconv.bench.gpu.products import whole
from numbaconv.devices.array import DeviceArray, as_device_array
from numbaconv.layers import Conv2d
from numbaconv.problem import ConvProblem
from numbaconv.products import gemm
from numbaconv.testing.oracle import convolve

__all__ = ["cases"]

TURNS = 20


def sizes(bench: Bench) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of an image and of weights."""
    return ((2, 3, 5, 4), (4, 3, 2, 2)) if bench.quick else ((4, 19, 23, 21), (37, 19, 3, 3))


def turns(bench: Bench) -> int:
    return 2 if bench.quick else TURNS


def busy_size(bench: Bench) -> int:
    """Of matrices whose product takes a while."""
    return 16 if bench.quick else 2048


def convolved(x: NDArray, w: NDArray) -> NDArray:
    """The convolution with a pad of 1."""
    size = x.shape[2] + 3 - w.shape[2], x.shape[3] + 3 - w.shape[3]
    return convolve(x, w, size, (1, 1), (1, 1), (1, 1), 1)


def drawn(bench: Bench, seed: int = 0) -> tuple[NDArray, NDArray, NDArray]:
    """Whole numbers: an image, weights, and the answer."""
    rng = np.random.default_rng(seed)
    x, w = (whole(rng, shape) for shape in sizes(bench))
    return x, w, convolved(x, w)


def host_arrays(bench: Bench) -> Any:
    """Host arrays in, a host array out; device arrays in, one of the device out."""
    x, w, want = drawn(bench)
    got = conv2d(x, w, padding=1, device=bench.device)
    if not isinstance(got, np.ndarray):
        bench.wrong(f"host arrays gave a {type(got).__name__}")
    bench.equal(got, want, "host arrays")
    there: Any = conv2d(bench.put(x), w, padding=1)
    if not isinstance(there, DeviceArray):
        bench.wrong(f"device arrays gave a {type(there).__name__}")
    bench.equal(bench.get(there), want, "device arrays")
    return {}


def layers(bench: Bench) -> Any:
    """``Conv2d`` there and back, weights replaced between."""
    x, w, want = drawn(bench)
    layer = Conv2d.from_arrays(w, None, padding=1)
    layer.to(bench.device)
    bench.equal(layer(x), want, "on the device")
    bench.equal(bench.get(layer(bench.put(x))), want, "from a device array")
    ran = layer.algorithm
    layer.set_weights(-w)
    bench.equal(bench.get(layer(bench.put(x))), -want, "other weights")
    if not bench.quick and not bench.recording:
        bench.equal(layer.to("cpu")(x), -want, "back on the CPU")
    seconds = dict(layer.stage_times)
    return {"stages": seconds, "note": f"ran {ran}"}


def both_devices(bench: Bench) -> Any:
    """``device="cpu+cuda"``."""
    if bench.recording:
        raise Skip("it would measure the CPU")
    x, w, want = drawn(bench)
    bench.equal(conv2d(x, w, padding=1, device="cpu+cuda"), want)
    handle = plan(ConvProblem.from_arrays(x, w, 1, 1, 1, 1), "auto", "cpu+cuda")
    bench.equal(handle.prepare(w)(x), want, "a plan")
    return {"note": handle.algorithm}


def threads(bench: Bench) -> Any:
    """Several Python threads, each on a stream of its own, with one handle."""
    x, w, want = drawn(bench)
    torch = bench.torch
    handle = plan(ConvProblem.from_arrays(x, w, 1, 1, 1, 1), "auto", bench.device)
    handle.prepare(w)
    bench.runtime.synchronize()
    wrong: list[str] = []

    def work(number: int) -> None:
        try:
            stream = torch.cuda.Stream() if torch is not None else None
            for turn in range(turns(bench)):
                factor = np.float32(1 + (number + turn) % 3)
                got = conv2d(x * factor, w, padding=1, device=bench.device, stream=stream)
                bench.equal(got, want * factor, f"thread {number}, turn {turn}, conv2d")
                bench.equal(handle(x * factor), want * factor, f"thread {number}, turn {turn}, a handle")
        except Exception as failure:
            wrong.append(f"{type(failure).__name__}: {failure}")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(1 if not bench.real else 4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if wrong:
        bench.wrong(f"{len(wrong)} of {len(workers)} threads: {wrong[0]}")
    return {}


def kept_memory(bench: Bench) -> Any:
    """The same calls again take no new memory, and ``release`` gives all of it back."""
    x, w, want = drawn(bench)
    given = bench.put(x), bench.put(w)
    with bench.allocated() as first:
        bench.equal(bench.get(conv2d(*given, padding=1)), want)
    with bench.allocated() as taken:
        conv2d(*given, padding=1)
        count = len(taken)
        for _ in range(2 if bench.quick else 10):
            again = conv2d(*given, padding=1)
        bench.equal(bench.get(again), want)
    if len(taken) > count + 1:  # one more: the result of the call before lives until the next one's is there
        bench.wrong(f"{len(taken) - count} new blocks in the later calls")
    del again
    return {"first_bytes": sum(first), "idle_bytes": bench.runtime.pool.idle}


# --------------------------------------------------------------------------------------------------- other libraries


def tensors(bench: Bench) -> Any:
    """torch's tensors in and out, in both memory orders, and nothing copied."""
    torch = bench.need_torch()
    x, w, want = drawn(bench)
    tx, tw = (torch.from_numpy(array).to(bench.home) for array in (x, w))
    if as_device_array(tx, bench.runtime).pointer != tx.data_ptr():  # type: ignore[union-attr]
        bench.wrong("a tensor was copied on its way in")
    for order in (torch.contiguous_format, torch.channels_last):
        there = tx.contiguous(memory_format=order)
        got: Any = conv2d(there, tw, padding=1)
        seen = torch.from_dlpack(got)
        if seen.data_ptr() != got.pointer:
            bench.wrong("a result was copied on its way out")
        if not seen.is_contiguous(memory_format=order):
            bench.wrong(f"a tensor in {order} gave one with strides {seen.stride()}")
        bench.equal(seen.cpu().numpy(), want, f"conv2d in {order}")
        out = torch.full(want.shape, float("nan"), device=tx.device).contiguous(memory_format=order)
        if conv2d(there, tw, padding=1, out=out) is not out:
            bench.wrong("out was not returned")
        bench.equal(out.cpu().numpy(), want, f"out= in {order}")
    with bench_raises(TypeError, bench):
        conv2d(tx, tw.requires_grad_(), padding=1)
    a, b = torch.ones((70, 50), device=tx.device), torch.ones((50, 60), device=tx.device)
    bench.equal(torch.from_dlpack(gemm(a, b)).cpu().numpy(), np.full((70, 60), 50.0), "gemm")
    if bench.real:  # through __cuda_array_interface__
        seen = torch.as_tensor(gemm(a, b), device=tx.device)
        bench.equal(seen.cpu().numpy(), np.full((70, 60), 50.0), "as_tensor")
    return {}


class bench_raises:
    """A block that must raise."""

    def __init__(self, kind: type, bench: Bench):
        self.kind, self.bench = kind, bench

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if kind is None:
            self.bench.wrong(f"no {self.kind.__name__} was raised")
        return kind is not None and issubclass(kind, self.kind)


def streams(bench: Bench) -> Any:
    """Work on torch's streams: what is made late there must be waited for, what is read there must be there."""
    torch = bench.need_torch()
    x, w, want = drawn(bench)
    tw, ones = torch.from_numpy(w).to(bench.home), torch.ones(busy_size(bench), busy_size(bench), device=bench.home)
    for name in ("named", "current", "handle"):
        for _ in range(turns(bench)):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                busy = ones
                for _ in range(20):
                    busy = busy @ ones / len(ones)  # the tensor below is made after some ms
                late = torch.from_numpy(x).to(ones.device, non_blocking=False) * busy[0, 0]
                how = {"named": stream, "current": None, "handle": stream.cuda_stream}[name]
                got = torch.from_dlpack(conv2d(late, tw, padding=1, stream=how))
                copy = got.clone()
            stream.synchronize()
            bench.equal(copy.cpu().numpy(), want, f"a stream that is {name}")
            torch.cuda.synchronize()
    return {}


def temporaries(bench: Bench) -> Any:
    """An image that torch frees, and fills with something else, as soon as the call returns.

    On the default stream that is in order. On another one it is only where the call is told of the stream: a call
    without it works on the default one, and must not read what torch hands out anew there.
    """
    torch = bench.need_torch()
    x, w, want = drawn(bench)
    tx, tw = (torch.from_numpy(array).to(bench.home) for array in (x, w))
    torch.cuda.synchronize()
    wrong = {}
    for name in ("default", "told", "not told"):
        stream = torch.cuda.default_stream() if name == "default" else torch.cuda.Stream()
        right = 0
        for _ in range(turns(bench)):
            with torch.cuda.stream(stream):
                got: Any = conv2d(tx * 1, tw, padding=1, stream=stream if name == "told" else None)
                for _ in range(4):
                    torch.full_like(tx, float("nan"))
                copy = torch.from_dlpack(got).clone()
            torch.cuda.synchronize()
            right += bool(np.array_equal(copy.cpu().numpy(), want))
        if right < turns(bench):
            wrong[name] = f"{right} of {turns(bench)} right"
    if wrong:
        bench.wrong(f"the image was read too late: {wrong}")
    return {}


def cupy_arrays(bench: Bench) -> Any:
    """CuPy's arrays in and out."""
    if not bench.real:
        raise Skip("cupy is left away: its arrays are not on an emulated device")
    try:
        cupy: Any = importlib.import_module("cupy")
    except ImportError as error:
        raise Skip(f"cupy is left away: {error}") from None
    x, w, want = drawn(bench)
    there = cupy.asarray(x), cupy.asarray(w)
    got: Any = conv2d(*there, padding=1)
    seen = cupy.from_dlpack(got)
    if seen.data.ptr != got.pointer:
        bench.wrong("a result was copied on its way out")
    bench.equal(cupy.asnumpy(seen), want, "from_dlpack")
    bench.equal(cupy.asnumpy(cupy.asarray(got)), want, "asarray")
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        late = cupy.asarray(x) * 1
        again = conv2d(late, there[1], padding=1, stream=stream)
    stream.synchronize()
    bench.equal(bench.get(again), want, "on a stream")
    return {}


def cases(quick: bool) -> list[Case]:
    found = {
        "host and device arrays": host_arrays, "Conv2d": layers, "torch tensors": tensors, "torch streams": streams,
        "torch temporaries": temporaries, "CuPy arrays": cupy_arrays, "threads": threads,
        "memory that is kept": kept_memory, "cpu+cuda": both_devices,
    }  # fmt: skip
    return [Case("sharing", name, run) for name, run in found.items()]
