"""``device="cpu+cuda"``: a batch divided between CPU and GPU, in proportion to what each gets done.

    images 0 ... a-1  ──►  GPU (copied there, computed, copied back, on a thread of its own)  ┐
    images a ... mb-1 ──►  CPU (its threads as usual)                                         ┴──► one output

The share is measured, copies included: both devices run a part of the batch a few times when a problem is first seen.

Paper: Hadjis, Abuzaid, Zhang, Re, "Caffe con Troll: Shallow Ideas to Speed Up Deep Learning", arXiv 1504.04343 (2015),
section 2.3: "scheduling by FLOPS", here by seconds.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from numbaconv.arrays import FROM_NCHW, as_nchw, checked_image, host_array, new_output, writable
from numbaconv.devices.crew import together
from numbaconv.lowering import STAGES, Lowering
from numbaconv.plan import Plan, make_plan
from numbaconv.problem import ConvProblem
from numbaconv.request import Request

PROBE_SHARE = 4  # a fourth of the batch is timed on each device
PROBE_RUNS = 3


@dataclass(frozen=True)
class HybridPlan:
    """Two plans and how many images the GPU's has; either may be missing.

    Attributes
    ----------
    images : int
        The batch's first images, which the GPU computes.
    """

    problem: ConvProblem
    request: Request
    images: int
    cuda: Plan | None
    cpu: Plan | None

    on_cpu = False

    @property
    def plans(self) -> list[Plan]:
        return [plan for plan in (self.cuda, self.cpu) if plan is not None]

    @property
    def spec(self) -> str:
        """Such as ``"implicit-gemm (cuda, 6 of 8 images) + direct (cpu)"``."""
        names = {"cuda": self.cuda, "cpu": self.cpu}
        share = {"cuda": f"cuda, {self.images} of {self.problem.mb} images", "cpu": "cpu"}
        return " + ".join(f"{plan.spec} ({share[name]})" for name, plan in names.items() if plan is not None)

    @property
    def lowering_bytes(self) -> int:
        return sum(plan.lowering_bytes for plan in self.plans)

    @property
    def panel_bytes(self) -> int:
        return sum(plan.panel_bytes for plan in self.plans)

    @property
    def workspace_bytes(self) -> int:
        """Scratch on both devices together."""
        return self.lowering_bytes + self.panel_bytes

    def prepare(self, w: Any, stream: Any = None) -> dict[str, Any]:
        """The weights as each device's lowering wants them."""
        w = host_array(w, "w")
        prepared = {"cuda": None if self.cuda is None else self.cuda.prepare(w, stream)}
        return prepared | {"cpu": None if self.cpu is None else self.cpu.prepare(w)}

    def compute(self, x, prepared, bias=None, residual=None, out=None, layout=None, stream=None, timed=True, kept=None):
        """Run on host arrays of the caller; returns (result, stage times)."""
        return run_hybrid(self, x, prepared, bias, residual, out, layout, stream)

    def kept(self, prepared: Any, bias: Any) -> None:
        """Nothing: the CPU's part looks at its weights in every call."""

    def keep_bias(self, bias: Any, stream: Any = None) -> Any:
        """A checked bias; the GPU's part copies it with its images."""
        return bias


def _parts_of(request: Request) -> tuple[Request, Request]:
    """The requests of the GPU's part and of the CPU's."""
    return replace(request, device=request.device.removeprefix("cpu+")), replace(request, device="cpu")


def divided(problem: ConvProblem, algorithm: str | Lowering, request: Request, images: int) -> HybridPlan:
    """The plan that gives the GPU so many images."""
    on_gpu, on_cpu = _parts_of(request)

    def part(count: int, own: Request) -> Plan | None:
        return make_plan(replace(problem, mb=count), algorithm, own) if count or not problem.mb else None

    return HybridPlan(problem, request, images, part(images, on_gpu), part(problem.mb - images, on_cpu))


@functools.lru_cache(256)
def hybrid_plan(problem: ConvProblem, algorithm: str | Lowering, request: Request) -> HybridPlan:
    """The plan whose two parts should end at the same time."""
    if problem.mb < 2:  # nothing to divide: whoever is faster
        ways = [divided(problem, algorithm, request, images) for images in range(problem.mb + 1)]
        return min(ways, key=_seconds) if len(ways) > 1 else ways[0]
    count = max(1, problem.mb // PROBE_SHARE)
    probe = replace(problem, mb=count)
    seconds = [_seconds(divided(probe, algorithm, request, images)) for images in (count, 0)]
    return divided(problem, algorithm, request, share_of(problem.mb, *seconds))


def share_of(images: int, gpu_seconds: float, cpu_seconds: float) -> int:
    """The GPU's images, when it takes `gpu_seconds` for as many images as the CPU takes `cpu_seconds` for."""
    return min(range(images + 1), key=lambda own: (max(own * gpu_seconds, (images - own) * cpu_seconds), own))


def _seconds(plan: HybridPlan) -> float:
    """The fastest of a few runs on random numbers."""
    p, rng = plan.problem, np.random.default_rng(0)
    x = new_output(replace(p, oc=p.ic, kh=1, kw=1, sh=1, sw=1, pad_top=0, pad_left=0, pad_bottom=0, pad_right=0))
    x[...] = rng.standard_normal(x.shape, dtype=np.float32)
    epilogue = plan.request.epilogue
    prepared = plan.prepare(rng.standard_normal(p.weight_shape, dtype=np.float32).astype(p.dtype))
    bias = np.zeros(p.oc, p.dtype) if epilogue.bias else None
    residual = new_output(p) if epilogue.residual else None
    if residual is not None:
        residual[...] = 0
    times = []
    for _ in range(PROBE_RUNS + 1):
        start = time.perf_counter()
        run_hybrid(plan, x, prepared, bias, residual, None, "nchw")
        times.append(time.perf_counter() - start)
    return min(times[1:])


def run_hybrid(plan: HybridPlan, x, prepared, bias, residual=None, out=None, layout=None, stream=None):
    """``arrays.run_plan`` for two devices: host arrays in, a host array out.

    Returns
    -------
    (result, seconds of the stages on both devices together)
    """
    problem, layout = plan.problem, layout or plan.problem.layout
    x = host_array(x, "x")
    source = checked_image(x, "x", problem.input_shape, problem.dtype, layout)
    added = None
    if residual is not None:
        residual = host_array(residual, "residual")
        added = checked_image(residual, "residual", problem.output_shape, problem.dtype, layout)
    if out is not None:
        checked_image(writable(out), "out", problem.output_shape, problem.dtype, layout)
    target = new_output(problem)
    ways = {"cuda": (plan.cuda, slice(0, plan.images)), "cpu": (plan.cpu, slice(plan.images, None))}
    seconds = dict.fromkeys(STAGES, 0.0)
    lock = threading.Lock()

    def run(name: str, part: Plan, images: slice) -> None:
        extra = None if added is None else added[images]
        own = (source[images], prepared[name], bias, extra, target[images], "nchw")
        times: Mapping[str, float] = part.compute(*own, stream if name == "cuda" else None)[1]
        with lock:
            for stage, spent in times.items():
                seconds[stage] += spent

    work = [(name, part, images) for name, (part, images) in ways.items() if part is not None and target[images].size]
    if len(work) > 1:
        together(lambda number: run(*work[number]), len(work))
    elif work:
        run(*work[0])
    if out is not None:
        as_nchw(out, layout)[...] = target
        return out, seconds
    result = target.transpose(FROM_NCHW[layout])
    return (result[0] if x.ndim == 3 else result), seconds
