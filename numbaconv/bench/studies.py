"""The papers' claims as measurements on our code: which layers, which lowerings, and how a row is timed.

* ``anderson``: Anderson et al., arXiv 1709.03395: the low-memory lowerings against the best builder of patches.
* ``cct``: Hadjis et al., "Caffe con Troll", arXiv 1504.04343: lowering types against the ratio of channels; batching.
* ``cudnn``: Chetlur et al., arXiv 1410.0759: patches written down against patches that only the packing sees.
* ``fft``: Warden, "Why GEMM is at the heart of deep learning": where Fourier transforms win, and that strides kill it.

``studies_tables`` prints them. Everyone is checked before anything is timed, and takes turns with the others: all
lowerings and all thread counts of a row in one run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbaconv.api import plan
from numbaconv.bench.comparison import distinct_convolutions
from numbaconv.bench.contender import Contender, Reference, WrongResult, conv_reference, normal
from numbaconv.bench.ours import in_order
from numbaconv.errors import UnsupportedProblem
from numbaconv.plan import Handle
from numbaconv.problem import ConvProblem
from numbaconv.timing import burst
from numbaconv.workspace import release_workspaces

__all__ = ["STUDIES", "Figures", "Findings", "Group", "Layer", "Measured", "as_json", "measure", "patch_bytes"]

ROUNDS, DROP, CALLS = 7, 1, 9
FEW_ROUNDS = 3
PAUSE = 0.002  # all are ours: our idle threads spin for 0.1 ms, and there are no others


@dataclass(frozen=True)
class Layer:
    """One row: what it is called, and its convolution."""

    label: str
    problem: ConvProblem


@dataclass(frozen=True)
class Group:
    """Rows of one table, and the lowerings that run each."""

    name: str
    specs: tuple[str, ...]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Figures:
    """One lowering at one layer with one thread count.

    Attributes
    ----------
    best, median : float
        Seconds of a call.
    multiply : float
        Seconds of the fastest multiply stage.
    calls : int
        Calls that count.
    lowering_bytes, panel_bytes : int
    error : float
        The worst element's, over the result's root mean square.
    """

    best: float
    median: float
    multiply: float
    calls: int
    lowering_bytes: int
    panel_bytes: int
    error: float


@dataclass
class Measured:
    """One layer.

    Attributes
    ----------
    figures : dict
        By lowering and thread count.
    absent, wrong : dict
        Who does not run it, who computed something else; and why.
    """

    layer: Layer
    figures: dict[tuple[str, int], Figures] = field(default_factory=dict)
    absent: dict[tuple[str, int], str] = field(default_factory=dict)
    wrong: dict[tuple[str, int], str] = field(default_factory=dict)

    def gflops(self, spec: str, num_threads: int) -> float:
        """By the best call; NaN for who was not timed."""
        found = self.figures.get((spec, num_threads))
        return self.layer.problem.flops / found.best / 1e9 if found else math.nan


Findings = Mapping[tuple[str, str], Measured]
"""What was measured, by the names of group and layer."""


# ----------------------------------------------------------------------------------------------------- the studies


def anderson() -> list[Group]:
    """The distinct layers of three networks whose kernel is more than a pixel."""
    specs = ("im2col", "im2row", "kn2row-as", "kn2row-aa")
    groups = []
    for title, network in (("AlexNet", "alexnet_ungrouped"), ("VGG-16", "vgg16"), ("GoogLeNet", "googlenet")):
        layers = [
            Layer(f"{names[0]}{f' (x{len(names)})' if len(names) > 1 else ''}", problem)
            for problem, names in distinct_convolutions(network).items()
            if (problem.kh, problem.kw) != (1, 1)
        ]
        groups.append(Group(title, specs, tuple(layers)))
    return groups


CHANNELS = {
    "1/32": (24, 768), "1/16": (32, 512), "1/8": (48, 384), "1/4": (64, 256), "1/2": (96, 192), "1": (128, 128),
    "2": (192, 96), "4": (256, 64), "8": (384, 48), "16": (512, 32), "32": (768, 24),
}  # fmt: skip
"""Input and output channels of about the same work: their product is 16384 or 18432."""

TOGETHER, ONE_BY_ONE, SHARED = (
    "im2col:batching=whole,threads=inner",  # all images' patches, then one product by all threads
    "im2col:batching=image,threads=inner",  # an image's patches, its product by all threads; then the next image
    "im2col:batching=image,threads=images",  # each thread has an image of its own
)


def cct() -> list[Group]:
    """3x3 on 28x28 pixels for the ratios of channels; AlexNet's conv2, as in the paper, for the batches."""
    ratios = tuple(Layer(name, _square(1, ic, 28, oc, 3, 1)) for name, (ic, oc) in CHANNELS.items())
    batches = tuple(Layer(str(mb), _square(mb, 96, 27, 256, 5, 2)) for mb in (1, 4, 16, 64, 256))
    return [
        Group("ratio", ("im2col", "cct-type2", "kn2row"), ratios),
        Group("batching", (TOGETHER, ONE_BY_ONE, SHARED), batches),
    ]


EXPLICIT, IMPLICIT = ("im2col:batching=whole", "im2row:batching=whole", ONE_BY_ONE), "implicit-gemm"
CUDNN_LAYERS = ((3, 128, 96, 11), (96, 64, 128, 9), (128, 32, 128, 9), (128, 16, 128, 7), (128, 13, 384, 3))
"""Input channels, size, output channels and kernel of the paper's five layers; no padding, unit stride."""


def cudnn() -> list[Group]:
    """The paper's five layers with 16 images (with its 128 the second layer's patches would be 12 GB)."""
    layers = [Layer(str(n), _square(16, *sizes)) for n, sizes in enumerate(CUDNN_LAYERS, 1)]
    return [Group("layers", (*EXPLICIT, IMPLICIT), tuple(layers))]


FOURIER, TAP_BY_TAP, WINOGRAD = ("fft", "fft-tiled"), ("direct", "implicit-gemm"), ("winograd-f4", "winograd-f4-5")


def fft() -> list[Group]:
    """A layer whose kernel grows, and three of its kernels with strides."""
    specs = (*FOURIER, *TAP_BY_TAP, *WINOGRAD)
    kernels = {k: _square(1, 64, 56, 64, k, k // 2) for k in range(3, 32, 2)}
    grown = tuple(Layer(f"{k}x{k}", problem) for k, problem in kernels.items())
    pairs = ((k, stride) for k in (5, 11, 21) for stride in (1, 2, 4))
    strided = tuple(Layer(f"{k}x{k} stride {s}", replace(kernels[k], sh=s, sw=s)) for k, s in pairs)
    return [Group("kernels", specs, grown), Group("strides", specs[:-2], strided)]


def _square(mb: int, ic: int, size: int, oc: int, k: int, pad: int = 0) -> ConvProblem:
    return ConvProblem(mb, ic, size, size, oc, k, k, pad_top=pad, pad_left=pad, pad_bottom=pad, pad_right=pad)


STUDIES: dict[str, Callable[[], list[Group]]] = {"anderson": anderson, "cct": cct, "cudnn": cudnn, "fft": fft}


def patch_bytes(problem: ConvProblem, spec: str) -> int:
    """Bytes of what a lowering rearranges; in these studies the same for every thread count, or asked of one thread."""
    return plan(problem, spec, num_threads=1).lowering_bytes


# ------------------------------------------------------------------------------------------------------- measuring


def measure(group: Group, num_threads: Sequence[int], seconds: float) -> Iterator[Measured]:
    """Check and time the layers of a group, one after another.

    Parameters
    ----------
    group : Group
    num_threads : sequence of int
        All are timed in turns.
    seconds : float
        For the timing of a layer. Where they are too few for a round of everyone's calls, everyone has three calls.
    """
    for layer in group.layers:
        yield _measured(layer, group.specs, num_threads, seconds)
        release_workspaces()


def _measured(layer: Layer, specs: Sequence[str], num_threads: Sequence[int], seconds: float) -> Measured:
    p, found = layer.problem, Measured(layer)
    handles: dict[tuple[str, int], Handle] = {}
    for key in ((spec, threads) for threads in num_threads for spec in specs):
        try:
            handles[key] = plan(p, key[0], layout="nchw", num_threads=key[1])
        except UnsupportedProblem as refusal:
            found.absent[key] = str(refusal)
    x, w = normal(p.input_shape, p.dtype, seed=0), normal(p.weight_shape, p.dtype, seed=1)
    judge = _Judge(p, x, w)
    image, out = in_order(x, p.layout), in_order(np.empty(p.output_shape, p.dtype), p.layout)
    errors: dict[tuple[str, int], float] = {}
    stages: dict[tuple[str, int], list[float]] = {key: [] for key in handles}

    def call(key: tuple[str, int]) -> None:
        handles[key](image, out=out)
        stages[key].append(handles[key].stage_times["multiply"])

    for key, handle in handles.items():
        handle.prepare(w)
        out.fill(np.nan)
        call(key)
        try:
            errors[key] = judge.error(key[0], out)
        except WrongResult as failure:
            found.wrong[key] = str(failure)
        stages[key].clear()  # the first call compiles
    alone = sum(_seconds(partial(call, key)) for key in errors)
    names = {f"{spec} x{threads}": (spec, threads) for spec, threads in errors}
    calls = {name: partial(call, key) for name, key in names.items()}
    if alone * ROUNDS * (DROP + 1) <= seconds:
        samples = burst(calls, ROUNDS, pause=PAUSE, drop=DROP, calls=CALLS, budget_s=seconds)
    else:  # long calls: none need be dropped, and one would be too few to tell the best
        samples = burst(calls, max(FEW_ROUNDS, int(seconds / alone)), pause=PAUSE, drop=0, calls=1)
    for name, key in names.items():
        sample, handle = samples[name], handles[key]
        found.figures[key] = Figures(
            sample.min, sample.median, min(stages[key]), len(sample.times), handle.lowering_bytes, handle.panel_bytes,
            errors[key],
        )  # fmt: skip
    return found


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class _Judge:
    """Float64 sums for the first and the last image; all images against whoever was right first."""

    def __init__(self, problem: ConvProblem, x: NDArray, w: NDArray):
        self.ends = sorted({0, problem.mb - 1})
        few = replace(problem, mb=len(self.ends))
        self.truth = conv_reference(few, x[self.ends], w, np.zeros(problem.oc, problem.dtype))
        self.all: Reference | None = None

    def error(self, name: str, result: NDArray) -> float:
        """The worst element's.

        Raises
        ------
        WrongResult
        """
        error = self.truth.check(Contender(name, lambda: None, lambda: result[self.ends]))
        if self.all is None:
            self.all = Reference(result.copy(), self.truth.scale, 2 * self.truth.limit)
        self.all.check(Contender(name, lambda: None, lambda: result))
        return error


# ------------------------------------------------------------------------------------------------------------ JSON


def as_json(found: Mapping[str, Findings]) -> list[dict[str, Any]]:
    """Every figure of some studies, for ``json.dump``."""
    rows: list[dict[str, Any]] = []
    for study, findings in found.items():
        for (group, label), row in findings.items():
            where = {"study": study, "group": group, "layer": label, "problem": str(row.layer.problem)}
            rows += [
                {**where, "algorithm": spec, "num_threads": threads, "gflops": row.gflops(spec, threads)}
                | asdict(figures)
                for (spec, threads), figures in row.figures.items()
            ]
            for verdict, reasons in (("absent", row.absent), ("wrong", row.wrong)):
                rows += [
                    {**where, "algorithm": spec, "num_threads": threads, verdict: reason}
                    for (spec, threads), reason in reasons.items()
                ]
    return rows
