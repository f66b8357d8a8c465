"""The study ``fft`` as tables: Fourier transforms against taps one by one, for growing kernels and for strides."""

from __future__ import annotations

import math
from collections.abc import Sequence

from numbaconv.bench.studies import FOURIER, TAP_BY_TAP, WINOGRAD, Group, Layer
from numbaconv.bench.studies_page import View, shape, shown, table
from numbaconv.registry import make_lowering

__all__ = ["fourier"]


def fourier(view: View, groups: Sequence[Group]) -> list[str]:
    """The paragraphs and tables."""
    kernels, strides = groups
    titles = ["kernel", *FOURIER, *TAP_BY_TAP]
    return [
        '**Fourier transforms** are what GEMM competes with, says the text that this package starts from (Warden, "Why '
        'GEMM is at the heart of deep learning"), but large strides make them inefficient. Here: '
        f"{shape(kernels.layers[0]).replace(kernels.layers[0].label, 'kernels that grow')}, padded so that the output "
        f"is as large; milliseconds. Multiply-adds: fft's, of the direct ones. {view.caption}",
        table(
            [*titles, "winograd-f4, -f4-5", "the best fft over the best of direct and implicit-gemm", "multiply-adds"],
            [
                [*times(view, kernels, layer), winograd(view, kernels, layer), *verdict(view, kernels, layer)]
                for layer in kernels.layers
            ],
        ),
        "The same with strides, where all but every second or fourth row and column is computed in vain: "
        f"{view.sentence(lambda: reach(view, strides))}",
        table(
            [*titles, "the best fft over the best of both", "multiply-adds"],
            [[*times(view, strides, layer), *verdict(view, strides, layer)] for layer in strides.layers],
        ),
    ]


def times(view: View, group: Group, layer: Layer) -> list[str]:
    """A row's label and milliseconds."""
    return [layer.label, *(milliseconds(view, group, layer, (spec,)) for spec in (*FOURIER, *TAP_BY_TAP))]


def winograd(view: View, group: Group, layer: Layer) -> str:
    """A cell: whichever of the two runs."""
    return milliseconds(view, group, layer, WINOGRAD)


def milliseconds(view: View, group: Group, layer: Layer, specs: Sequence[str]) -> str:
    """A cell: of the fastest."""
    return view.cell(lambda threads: 1e3 * fastest(view, group, layer, specs, threads))


def verdict(view: View, group: Group, layer: Layer) -> list[str]:
    """A row's gain, and the multiply-adds of a whole image's transforms, which no machine changes."""
    adds = make_lowering(FOURIER[0]).multiply_adds(layer.problem) / layer.problem.macs
    return [view.cell(lambda threads: gain(view, group, layer, threads)), shown(adds, 3)]


def fastest(view: View, group: Group, layer: Layer, specs: Sequence[str], threads: int) -> float:
    """Seconds of the fastest of some lowerings; NaN where none runs."""
    known = [view.seconds(group, layer, spec, threads) for spec in specs]
    return min((seconds for seconds in known if not math.isnan(seconds)), default=math.nan)


def gain(view: View, group: Group, layer: Layer, threads: int) -> float:
    """How many times as fast as the best lowering that goes tap by tap the best transform is."""
    return fastest(view, group, layer, TAP_BY_TAP, threads) / fastest(view, group, layer, FOURIER, threads)


def reach(view: View, group: Group) -> str:
    """Where transforms win, by stride."""
    parts = []
    for threads in view.num_threads:
        won = [layer.label for layer in group.layers if gain(view, group, layer, threads) > 1]
        parts.append(f"with {threads} thread{'s' * (threads > 1)} they win at {', '.join(won) or 'none of these'}")
    return "; ".join(parts) + "."
