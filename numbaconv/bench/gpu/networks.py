"""Cases: the convolutions of networks, every plausible lowering in both layouts against cuDNN without TF32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from numbaconv.api import plan
from numbaconv.bench.contender import conv_reference
from numbaconv.bench.conv_peers import torch_sizes
from numbaconv.bench.gpu.bench import Bench
from numbaconv.bench.gpu.case import Case
from numbaconv.bench.suites import conv_problems
from numbaconv.devices.driver import DriverError
from numbaconv.errors import UnsupportedProblem
from numbaconv.problem import ConvProblem

__all__ = ["PLAUSIBLE", "cases"]

PLAUSIBLE = ("implicit-gemm", "conv1x1", "im2col", "im2row", "kn2row-aa", "kn2col-aa", "mec", "indirect", "direct",
             "direct-jit", "depthwise", "patchify", "winograd-f2", "winograd-f4")  # fmt: skip
GROUPED = ("depthwise", "direct", "implicit-gemm")
"""The others launch something for every group."""
IMAGES = 32
NETWORKS = {"resnet50": 2.5, "vgg16": 3.5}
"""Seconds for the turns of a layer."""
DEPTHWISE = ("mobilenet_v2", 1.5)
HOPELESS = 4.0
"""Who needs so many times the best one's time is not timed in turns."""
MOST_ERROR, MOST_APART = 1e-5, 1e-4
TINY = 'mb2ic3ih5oc4oh5kh3ph1n"tiny"'


def specs(problem: ConvProblem, device: str) -> dict[str, Any]:
    """Handles of who runs a problem; "auto" too, as who it is."""
    found: dict[str, Any] = {}
    for spec in ("auto", *(PLAUSIBLE if problem.g == 1 else GROUPED)):
        try:
            handle = plan(problem, spec, device, layout="nchw")
        except UnsupportedProblem:
            continue
        found.setdefault(handle.algorithm, handle)
        if spec == "auto":
            found = {"auto": handle, handle.algorithm: handle}
    return found


def layer(problem: ConvProblem, count: int, seconds: float, bench: Bench) -> dict[str, Any]:
    """Each lowering checked, then timed in turns with cuDNN."""
    p = replace(ConvProblem.parse(TINY), layout=problem.layout) if bench.quick else problem
    contenders: dict[str, Callable[[], object]] = {}
    errors: dict[str, float] = {}
    wrong: dict[str, str] = {}
    ran: dict[str, dict[str, Any]] = {}
    wide = bench.normal(p.weight_shape, 2)
    rivals, whole = {}, None
    first = bench.normal(p.input_shape, 1)
    truth = sampled_truth(bench, p, first, wide)
    for layout in ("nchw", "nhwc"):
        own = replace(p, layout=layout)
        x = first if layout == "nchw" else in_layout(bench, first, own)
        out = bench.empty(p.output_shape, "float32", layout)
        if bench.torch is not None:
            rivals[f"cuDNN {layout}"] = cudnn(bench, own, x, wide)
            whole = rivals[f"cuDNN {layout}"]()  # and it chooses its algorithm
        handles = specs(own, bench.device)
        ran[layout] = {"auto": handles.pop("auto").algorithm} if "auto" in handles else {}
        for spec, handle in handles.items():
            name = f"{spec} {layout}"
            try:
                handle.prepare(wide)
                bench.blank(out)
                handle(x, out=out)
                errors[name] = judged(bench, out, truth, whole)
                contenders[name] = functools.partial(handle, x, out=out)
                ran[layout][spec] = {"lowering_bytes": handle.lowering_bytes, "workspace_bytes": handle.workspace_bytes,
                                     "stages": stages(bench, handle, x, out)}  # fmt: skip
            except DriverError:
                raise
            except Exception as failure:
                wrong[name] = f"{type(failure).__name__}: {failure}"
    alone = {name: bench.hidden(call, 1.0)[1] for name, call in (contenders | rivals).items()}
    best = min(alone.values(), default=0.0)
    in_turn = {name: call for name, call in (contenders | rivals).items() if alone[name] <= HOPELESS * best}
    times = bench.race(in_turn, seconds)
    for name, spent in alone.items():
        times.setdefault(name, {"median": spent, "min": spent, "device": spent, "alone": 1.0})
    ours = {name: t["median"] for name, t in times.items() if not name.startswith("cuDNN")}
    theirs = {name: t["median"] for name, t in times.items() if name.startswith("cuDNN")}
    if not ours:
        bench.wrong(f"all wrong: {wrong}")
    fastest = min(ours, key=lambda name: ours[name])
    note = f"{fastest} {ours[fastest] * 1e6:.0f} us ({2 * p.macs / ours[fastest] / 1e12:.1f} TFLOP/s)"
    if theirs:
        quick_one = min(theirs, key=lambda name: theirs[name])
        note += f", {quick_one} {theirs[quick_one] * 1e6:.0f} us: {theirs[quick_one] / ours[fastest]:.2f} of its speed"
    found = {"problem": str(problem), "count": count, "flops": 2 * p.macs, "times": times, "errors": errors, "ran": ran,
             "tiny": bench.quick, "note": note}  # fmt: skip
    if wrong:
        bench.wrong(f"{len(wrong)} wrong: {wrong}; of the others {note}", found)
    return found


def in_layout(bench: Bench, x: Any, problem: ConvProblem) -> Any:
    """The same image in the problem's memory order."""
    if bench.recording:
        return bench.empty(x.shape, "float32", problem.layout)
    if bench.torch is not None:
        made = bench.empty(x.shape, "float32", problem.layout)
        bench.tensor(made).copy_(bench.tensor(x))
        return made
    host = bench.get(x)
    return bench.put(np.ascontiguousarray(host.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)


def cudnn(bench: Bench, p: ConvProblem, x: Any, w: Any) -> Callable[[], Any]:
    torch = bench.need_torch()
    order = torch.channels_last if p.layout == "nhwc" else torch.contiguous_format
    image, weights = bench.tensor(x), bench.tensor(w).contiguous(memory_format=order)
    sizes = torch_sizes(p)

    def call() -> Any:
        with torch.inference_mode():
            return torch.nn.functional.conv2d(image, weights, None, *sizes)

    return call


def sampled_truth(bench: Bench, p: ConvProblem, x: Any, w: Any) -> Any:
    """The first and the last image's results in float64."""
    if bench.recording:
        return None
    ends = [0, p.mb - 1]
    host = np.stack([bench.get(x[image]) for image in ends])
    if bench.torch is not None:
        torch = bench.torch
        image = torch.from_numpy(host).to(bench.home).double()
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
            made = torch.nn.functional.conv2d(image, bench.tensor(w).double(), None, *torch_sizes(p))
        return made
    return conv_reference(replace(p, mb=2), host, bench.get(w), np.zeros(p.oc, "float32")).value


def judged(bench: Bench, out: Any, truth: Any, whole: Any) -> float:
    """The relative error of the first and last image; all images are held against torch's.

    Raises
    ------
    WrongResult
    """
    if bench.recording:
        return 0.0
    if whole is None:
        got = np.stack([bench.get(out[image]) for image in (0, out.shape[0] - 1)])
        return bench.within(bench.error(got, truth), MOST_ERROR, "the relative error")
    ours = bench.tensor(out)
    bench.within(float((ours - whole).norm() / whole.norm()), MOST_APART, "the distance from torch's result")
    error = (ours[:: max(1, len(ours) - 1)].double() - truth).norm() / truth.norm()
    return bench.within(float(error), MOST_ERROR, "the relative error")


def stages(bench: Bench, handle: Any, x: Any, out: Any) -> dict[str, float]:
    """Seconds of the stages of one more run."""
    if bench.recording:
        return {}
    handle(x, out=out)
    return dict(handle.stage_times)


def cases(quick: bool) -> list[Case]:
    """Layers of both networks, then depthwise ones; the costly ones first, so that a short time says most."""
    found = []
    for network, seconds in NETWORKS.items():
        problems = sorted(conv_problems([network], IMAGES), key=lambda item: -item[0].macs * item[1])
        for problem, count in problems[:1] if quick else problems:
            run = functools.partial(layer, problem, count, seconds)
            found.append(Case(network, str(problem), run, limit=180.0))
    if not quick:
        network, seconds = DEPTHWISE
        some = [(problem, count) for problem, count in conv_problems([network], IMAGES) if problem.g == problem.ic > 1][
            ::3
        ]
        found += [
            Case(network, str(problem), functools.partial(layer, problem, count, seconds)) for problem, count in some
        ]
    return found
