"""What is timed, and how a row comes about: check everyone, then let them take turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

from numbaconv.bench import ours
from numbaconv.bench.contender import Contender, Reference, WrongResult, conv_reference, gemm_reference, normal
from numbaconv.bench.peers import ConvPeer, GemmPeer
from numbaconv.bench.report import Row, is_ours
from numbaconv.errors import NumbaconvError, UnsupportedProblem
from numbaconv.networks import layers
from numbaconv.problem import ConvProblem
from numbaconv.timing import burst

__all__ = ["GEMM_SHAPES", "conv_problems", "conv_row", "gemm_row"]

Maker = Callable[[], Contender]
PAUSE, OWN_PAUSE = 0.06, 0.002
"""Seconds until other libraries' idle threads sleep; ours spin for 0.1 ms only."""

GEMM_SHAPES = [
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    # the products of convolution layers: m = output channels, k = input channels times kernel, n = output pixels
    (256, 1152, 192),
    (64, 576, 3136),
    (96, 363, 3025),
    (256, 2304, 169),
    (128, 1152, 784),
    (512, 4608, 196),
    (512, 4608, 49),
    (64, 147, 12544),
    # fully-connected layers
    (1000, 4096, 32),
    (4096, 9216, 1),
]
"""(m, k, n)"""


def conv_problems(networks: Sequence[str], mb: int = 1, layout: str = "nchw") -> list[tuple[ConvProblem, int]]:
    """The convolutions of some networks and how many layers share each, in the order they are met."""
    found: list[tuple[ConvProblem, int]] = []
    for name in networks:
        convolutions = [layer.problem for layer in layers(name, mb=mb, layout=layout) if layer.kind == "conv"]
        found += Counter(convolutions).items()
    return found


def gemm_row(
    shape: tuple[int, int, int],
    peers: Sequence[GemmPeer],
    num_threads: int,
    prepacked: Sequence[bool] = (False,),
    dtype: str = "float32",
    statistic: str = "median",
    rounds: int = 5,
    seconds: float = 8.0,
) -> Row:
    """Time one product.

    Parameters
    ----------
    shape : (m, k, n)
    peers : sequence of GemmPeer
    num_threads : int
        Of everyone.
    prepacked : sequence of bool
        The variants of ours to time.
    dtype : {"float32", "float64"}
    statistic : {"median", "lower_quartile", "min"}
    rounds, seconds
        As for ``timing.burst``.
    """
    m, k, n = shape
    a, b = normal((m, k), dtype, seed=0), normal((k, n), dtype, seed=1)
    row = Row(f"{m} {k} {n}", num_threads, 2 * m * k * n, (m * k + k * n + m * n) * a.itemsize, 1, statistic)
    makers: dict[str, Maker] = {
        ours.PREPACKED if packed else ours.NAME: partial(ours.gemm, a, b, num_threads, packed) for packed in prepacked
    }
    makers |= {peer.name: partial(peer.gemm, a, b, num_threads) for peer in peers}
    return _contest(row, gemm_reference(a, b), makers, rounds, seconds)


def conv_row(
    problem: ConvProblem,
    peers: Sequence[ConvPeer],
    num_threads: int,
    algorithms: Sequence[str] = ("auto",),
    accuracies: Sequence[str] = ("float32",),
    count: int = 1,
    statistic: str = "median",
    rounds: int = 5,
    seconds: float = 8.0,
) -> Row:
    """Time one convolution with a bias; parameters as for ``gemm_row``, and

    Parameters
    ----------
    algorithms, accuracies : sequence of str
        The variants of ours to time, each of these with each of those.
    count : int
        Layers that this row stands for.
    """
    x, w = normal(problem.input_shape, problem.dtype, seed=0), normal(problem.weight_shape, problem.dtype, seed=1)
    bias = normal((problem.oc,), problem.dtype, seed=2)
    moved = problem.input_bytes + problem.weight_bytes + problem.output_bytes
    row = Row(str(problem), num_threads, problem.flops, moved, count, statistic, problem.name.partition(":")[0])
    data = (problem, x, w, bias, num_threads)
    makers: dict[str, Maker] = {
        ours.conv_name(algorithm, accuracy): partial(ours.conv, *data, algorithm, accuracy)
        for algorithm in algorithms
        for accuracy in accuracies
    }
    makers |= {peer.name: partial(peer.conv, *data) for peer in peers}
    return _contest(row, conv_reference(problem, x, w, bias), makers, rounds, seconds)


def _contest(row: Row, reference: Reference, makers: dict[str, Maker], rounds: int, seconds: float) -> Row:
    """Check every contender, then time those that are right; the row keeps why others are not in it."""
    ready = {}
    for name, make in makers.items():
        try:
            contender = make()
            row.errors[name] = reference.check(contender)
            ready[name] = contender
        except UnsupportedProblem as refusal:
            row.absent[name] = str(refusal)
        except (WrongResult, NumbaconvError) as failure:
            row.wrong[name] = str(failure)
    pause = OWN_PAUSE if all(map(is_ours, ready)) else PAUSE
    calls = {name: contender.call for name, contender in ready.items()}
    row.samples |= burst(calls, rounds, pause=pause, budget_s=seconds)
    for name, contender in ready.items():
        row.stages |= {name: {stage: median(times) for stage, times in contender.stages.items()}}
    return row
