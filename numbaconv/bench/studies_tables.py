"""The tables of ``studies`` and what they say, as Markdown. Every conclusion is computed from the figures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import mean, stdev

from numbaconv.bench.report import threads as in_words
from numbaconv.bench.studies import (
    EXPLICIT,
    IMPLICIT,
    ONE_BY_ONE,
    SHARED,
    TOGETHER,
    Findings,
    Group,
    Layer,
    patch_bytes,
)
from numbaconv.bench.studies_fourier import fourier
from numbaconv.bench.studies_page import NAME, View, geomean, kib, shape, shown, table

__all__ = ["tables"]

PATCHES, LOW = ("im2col", "im2row"), ("kn2row-as", "kn2row-aa")
DEEP = 64
TYPES = ("im2col", "cct-type2", "kn2row")


def tables(
    study: str, groups: Sequence[Group], num_threads: Sequence[int], found: Findings | None = None, about: str = ""
) -> str:
    """A study's Markdown.

    Parameters
    ----------
    groups : sequence of Group
        What ``STUDIES[study]()`` gave.
    num_threads : sequence of int
    found : mapping, optional
        What was measured; without it the figures are blanks.
    about : str
        Where and when it was measured.
    """
    view = View(tuple(num_threads), found)
    parts = [*TABLES[study](view, groups), f"Measured {view.sentence(lambda: about)}"]
    return "\n\n".join(
        part if part.startswith("|") else textwrap.fill(part, 120, break_on_hyphens=False, break_long_words=False)
        for part in parts
    )


# -------------------------------------------------------------------------------------------------------- anderson


def anderson(view: View, groups: Sequence[Group]) -> list[str]:
    parts = [
        "**Anderson et al.** (arXiv 1709.03395): the low-memory lowerings are as fast as the best patch builder, with "
        "a fraction of its memory. Columns kn2row-as and kn2row-aa: their time, of the time of the best patch builder "
        f"(im2col or im2row, a whole image's patches; below 1 is faster). {view.caption} Memory: KiB of rearranged "
        "data (in brackets: so many times less than the patches). One image; kernels of 1x1 are left out; (x2): so "
        "many layers are this one; means are geometric."
    ]
    for group in groups:
        rows = [anderson_row(view, group, layer) for layer in group.layers]
        unit = [layer for layer in group.layers if layer.problem.sh == layer.problem.sw == 1]
        deep = [layer for layer in unit if layer.problem.ic >= DEEP]
        for layers, title in ((unit, "stride 1"), (deep, f"stride 1, from {DEEP} channels")):
            if layers:
                rows.append(["**mean**", f"{title} ({len(layers)})", "", *anderson_mean(view, group, layers)])
        titles = [group.name, "ic → oc, kernel, input", "best patch builder", "its GFLOP/s", *LOW, "patches, KiB"]
        parts.append(table([*titles, *(f"{spec}, KiB" for spec in LOW)], rows))
    answer = view.sentence(lambda: gains(view, groups))
    return [*parts, f"Does the low-memory family gain with the second thread? {answer}"]


def best_patches(view: View, group: Group, layer: Layer, threads: int) -> tuple[float, str]:
    """(seconds, lowering) of the fastest builder of patches."""
    known = [(view.seconds(group, layer, spec, threads), spec) for spec in PATCHES]
    return min((pair for pair in known if not math.isnan(pair[0])), default=(math.nan, "-"))


def patch_speed(view: View, group: Group, layer: Layer, threads: int) -> float:
    return layer.problem.flops / best_patches(view, group, layer, threads)[0] / 1e9


def relative(view: View, group: Group, layer: Layer, spec: str, threads: int) -> float:
    """A lowering's time, of the best patch builder's."""
    return view.seconds(group, layer, spec, threads) / best_patches(view, group, layer, threads)[0]


def anderson_row(view: View, group: Group, layer: Layer) -> list[str]:
    size = max(patch_bytes(layer.problem, spec) for spec in PATCHES)

    def memory(spec: str) -> str:
        low = patch_bytes(layer.problem, spec)
        return f"{kib(low)} ({size / low:.1f})" if low else "0"

    def cell(spec: str) -> str:
        return view.cell(lambda threads: relative(view, group, layer, spec, threads))

    builder = view.cell(lambda threads: best_patches(view, group, layer, threads)[1], blank=NAME)
    speed = view.cell(lambda threads: patch_speed(view, group, layer, threads), 0)
    return [layer.label, shape(layer), builder, speed, *map(cell, LOW), kib(size), *map(memory, LOW)]


def anderson_mean(view: View, group: Group, layers: Sequence[Layer]) -> list[str]:
    def memory(spec: str) -> str:
        pairs = [(patch_bytes(layer.problem, PATCHES[0]), patch_bytes(layer.problem, spec)) for layer in layers]
        return f"({geomean([size / low for size, low in pairs]):.1f})" if all(low for _, low in pairs) else ""

    def cell(spec: str) -> str:
        return view.cell(lambda threads: geomean([relative(view, group, layer, spec, threads) for layer in layers]))

    speed = view.cell(lambda threads: geomean([patch_speed(view, group, layer, threads) for layer in layers]), 0)
    return [speed, *map(cell, LOW), "", *map(memory, LOW)]


def gains(view: View, groups: Sequence[Group]) -> str:
    """Who comes nearer to the best patch builder with more threads, layer by layer."""
    few, many = min(view.num_threads), max(view.num_threads)
    if few == many:
        return "Only one thread count was measured."
    unit = [(g, layer) for g in groups for layer in g.layers if layer.problem.sh == layer.problem.sw == 1]
    deep = [(group, layer) for group, layer in unit if layer.problem.ic >= DEEP]

    def ratios(of: View, layers: list[tuple[Group, Layer]], spec: str, threads: int) -> list[float]:
        return [relative(of, group, layer, spec, threads) for group, layer in layers]

    def answers(of: View, layers: list[tuple[Group, Layer]]) -> str:
        parts = []
        for spec in LOW:
            before, after = ratios(of, layers, spec, few), ratios(of, layers, spec, many)
            parts.append(
                f"{spec}: {verdict(before, after)} (times: {shown(geomean(before))} → {shown(geomean(after))})"
            )
        return "; ".join(parts)

    medians = replace(view, statistic="median")
    return (
        f"From {in_words(few)} to {many}, time against that of the best patch builder, over the {len(unit)} layers of "
        f"stride 1: {answers(view, unit)}. Over the {len(deep)} of them from {DEEP} channels: {answers(view, deep)}. "
        f"By the median call, all {len(unit)}: {answers(medians, unit)}. ± is twice the standard error over the layers."
    )


def verdict(before: Sequence[float], after: Sequence[float]) -> str:
    """Whether ratios fell, by more than their scatter explains."""
    falls = [math.log(a / b) for a, b in zip(before, after, strict=True) if not math.isnan(a / b)]
    if len(falls) < 2:
        return "too few layers to tell"
    fall, doubt = mean(falls), 2 * stdev(falls) / math.sqrt(len(falls))
    size = f"{abs(math.expm1(-fall)):.1%} ± {doubt:.1%}"
    if abs(fall) <= doubt:
        return f"no difference beyond the scatter ({size})"
    return f"yes, it gains {size}" if fall > 0 else f"no, it loses {size}"


# ------------------------------------------------------------------------------------------------------------- cct


def cct(view: View, groups: Sequence[Group]) -> list[str]:
    ratio, batching = groups
    rows = [
        [
            layer.label,
            f"{layer.problem.ic} → {layer.problem.oc}",
            *(view.speed(ratio, layer, spec) for spec in TYPES),
            view.quotient(ratio, layer, TYPES[2], TYPES[0]),
            *(kib(patch_bytes(layer.problem, spec)) for spec in TYPES),
        ]
        for layer in ratio.layers
    ]
    titles = ["ic/oc", "ic → oc", *(f"type {n} ({spec})" for n, spec in enumerate(TYPES, 1)), "type 1 / type 3"]
    p = ratio.layers[0].problem
    return [
        "**Hadjis et al., Caffe con Troll** (arXiv 1504.04343): type 1 replicates while lowering, type 3 while "
        "lifting, type 2 does a little of both; type 1 wins where there are fewer input than output channels. On the "
        "authors' chart type 1 has 13 times the throughput of type 3 at ic/oc = 0.03 and a tenth of it at 30; they "
        f"meet between 1.5 and 2. Here: {p.kh}x{p.kw} on {p.ih}x{p.iw} pixels, one image; GFLOP/s, and the quotient of "
        f"type 1's and type 3's. {view.caption}",
        table([*titles, *(f"KiB, type {n}" for n in (1, 2, 3))], rows),
        f"Type 1 and type 3 are equally fast: {view.each(lambda threads: cross_over(view, ratio, threads))}",
        *batches(view, batching),
    ]


def cross_over(view: View, group: Group, threads: int) -> str:
    """The ratios of channels where type 1 and type 3 change places, on straight lines between logarithms."""
    points, fastest = [], dict.fromkeys(TYPES, 0)
    for layer in group.layers:
        times = {spec: view.seconds(group, layer, spec, threads) for spec in TYPES}
        if not any(map(math.isnan, times.values())):
            points.append((math.log(layer.problem.ic / layer.problem.oc), math.log(times[TYPES[2]] / times[TYPES[0]])))
            fastest[min(TYPES, key=times.__getitem__)] += 1
    places = [
        f"{math.exp(x + (next_x - x) * y / (y - next_y)):.2g}"
        for (x, y), (next_x, next_y) in pairwise(sorted(points))
        if (y > 0) != (next_y > 0)
    ]
    wins = ", ".join(f"type {n} at {count}" for n, count in enumerate(fastest.values(), 1))
    where = f"at ic/oc = {' and '.join(places)}" if places else "nowhere in this range"
    return f"{where} (the fastest of the three: {wins} of {len(points)} ratios)"


def batches(view: View, group: Group) -> list[str]:
    def brings(threads: int) -> str:
        def speed(spec: str, of: str = "") -> str:
            layer = group.layers[-1]
            one, other = (view.seconds(group, layer, s, threads, of) for s in (ONE_BY_ONE, spec))
            return f"{shown(one / other)} times"

        return (
            f"together {speed(TOGETHER)} as fast as one by one (the products alone {speed(TOGETHER, 'multiply')}), "
            f"a thread an image {speed(SHARED)}"
        )

    rows = [
        [
            layer.label,
            *(view.speed(group, layer, spec) for spec in (TOGETHER, ONE_BY_ONE, SHARED)),
            view.quotient(group, layer, ONE_BY_ONE, TOGETHER),
            view.quotient(group, layer, ONE_BY_ONE, TOGETHER, "multiply"),
            *(kib(patch_bytes(layer.problem, spec)) for spec in (TOGETHER, ONE_BY_ONE)),
        ]
        for layer in group.layers
    ]
    titles = ["images", "together", "one by one", "a thread an image", "together / one by one", "products alone"]
    return [
        "Batching: im2col lowers all images together and multiplies once, or lowers and multiplies one by one (as "
        "Caffe did), or each thread takes images of its own (the paper's partitions). The authors' chart gives "
        "their product on 8 threads a speed-up of about 0.5 for one image and of 4.0 for 256 together. Here: "
        f"{shape(group.layers[0])}; GFLOP/s, their quotient, and the quotient of the products alone. {view.caption}",
        table([*titles, "KiB together", "KiB one by one"], rows),
        f"{group.layers[-1].problem.mb} images: {view.each(brings)}",
    ]


# ----------------------------------------------------------------------------------------------------------- cudnn


def cudnn(view: View, groups: Sequence[Group]) -> list[str]:
    (group,) = groups

    def faster(layer: Layer, threads: int, others: Sequence[str]) -> float:
        """How many times as fast implicit GEMM is as the best of others."""
        known = [view.seconds(group, layer, spec, threads) for spec in others]
        known = [seconds for seconds in known if not math.isnan(seconds)]
        return min(known, default=math.nan) / view.seconds(group, layer, IMPLICIT, threads)

    def means(threads: int) -> str:
        best, caffe = (
            shown(geomean([faster(layer, threads, others) for layer in group.layers]))
            for others in (EXPLICIT, (ONE_BY_ONE,))
        )
        return f"{best} times as fast as the best of the three, {caffe} times as im2col one by one"

    def row(layer: Layer) -> list[str]:
        return [
            layer.label,
            shape(layer),
            *(view.speed(group, layer, spec) for spec in (*EXPLICIT, IMPLICIT)),
            view.cell(lambda threads: faster(layer, threads, EXPLICIT)),
            view.cell(lambda threads: faster(layer, threads, (ONE_BY_ONE,))),
            *(kib(patch_bytes(layer.problem, spec)) for spec in (EXPLICIT[0], ONE_BY_ONE, IMPLICIT)),
        ]

    titles = ["layer", "ic → oc, kernel, input", "im2col", "im2row", "im2col one by one", IMPLICIT]
    titles += ["over the best", "over one by one", "KiB of all patches", "KiB one by one", "KiB implicit"]
    return [
        "**Chetlur et al., cuDNN** (arXiv 1410.0759): patches that only the packing sees against patches written "
        "down. On GPUs the paper has 1.0 to 1.41 times the speed of Caffe (explicit im2col, one image at a time) and "
        f"0.8 to 2.25 times that of cuda-convnet2. Its five layers, {group.layers[0].problem.mb} images; GFLOP/s of "
        f"im2col and im2row with all images' patches, of im2col one by one (all threads on one image, like Caffe; the "
        f"others' threads have images of their own), and of {IMPLICIT}; {IMPLICIT}'s speed over that of "
        f"the best of the three, and over that of im2col one by one. {view.caption}",
        table(titles, [row(layer) for layer in group.layers]),
        f"{IMPLICIT} in the geometric mean: {view.each(means)}",
    ]


TABLES: dict[str, Callable[[View, Sequence[Group]], list[str]]] = {
    "anderson": anderson,
    "cct": cct,
    "cudnn": cudnn,
    "fft": fourier,
}
