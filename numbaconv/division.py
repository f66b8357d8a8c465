"""How a convolution is cut into parts that are computed one after another, or by several threads at a time.

A part is some images and a band of output rows, and it is a convolution itself: the same weights on a piece of the
input, with what is left of the pads. So a lowering is written for one whole problem, and every lowering lowers image by
image or many together, runs on one thread an image, and keeps to a limit of memory.

    output rows 0 1 2 3 | 4 5 6      3x3, pad 1: the first band reads input rows 0 ... 4 with one row of zeros above,
    input    . 0 1 2 3 4             the second reads 3 ... 6 with one below
                   3 4 5 6 .

Images together: Caffe con Troll's batching (Hadjis et al., 2015). Its finding: a product of one small image is too thin
for several threads, so either lower more images together or give each thread an image of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from numbaconv.accounts import GemmCall, panels_of
from numbaconv.lazy import cached_property
from numbaconv.lowering import Lowering
from numbaconv.lowering_cuda import MOST_ELEMENTS
from numbaconv.machine import detect
from numbaconv.problem import ConvProblem
from numbaconv.request import Request

MOST_BANDS = 4096
"""Of an image, so that planning takes no longer than running."""
DEVICE_L2_BYTES = 32 << 20


@dataclass(frozen=True)
class Part:
    """Some images and output rows of a problem, the input rows they read, and the problem they are."""

    images: slice
    rows: slice
    input_rows: slice
    problem: ConvProblem


@dataclass(frozen=True)
class Division:
    """A problem's parts, the largest first, and how many of them run at a time.

    Attributes
    ----------
    parts : tuple of Part
    workers : int
        Threads that take parts, each with scratch of its own; 1: a part has all of the call's threads.
    request : Request
        How each part is run.
    """

    parts: tuple[Part, ...]
    workers: int
    request: Request

    @cached_property
    def problems(self) -> dict[ConvProblem, int]:
        """The different problems among the parts, the first part's first, with how often they occur."""
        counts: dict[ConvProblem, int] = {}
        for part in self.parts:
            counts[part.problem] = counts.get(part.problem, 0) + 1
        return counts

    def lowering_bytes(self, lowering: Lowering) -> int:
        """Rearranged data of all workers."""
        form = lowering.form(self.request.device)
        return self.workers * max((form.lowering_bytes(p, self.request) for p in self.problems), default=0)

    def panel_bytes(self, lowering: Lowering) -> int:
        """GEMM's panels of all workers; the weights are packed for the first part."""
        form = lowering.form(self.request.device)
        if form is not lowering or type(lowering).panel_bytes is not Lowering.panel_bytes:
            return self.workers * max((form.panel_bytes(p, self.request) for p in self.problems), default=0)
        return self.workers * panels_of(self.gemm_calls(lowering), next(iter(self.problems), None), self.request)

    def gemm_calls(self, lowering: Lowering) -> list[GemmCall]:
        """The products of all parts."""
        total: dict[GemmCall, int] = {}
        for problem, count in self.problems.items():
            for call in lowering.form(self.request.device).gemm_calls(problem, self.request):
                kind = replace(call, count=1)
                total[kind] = total.get(kind, 0) + call.count * count
        return [replace(kind, count=count) for kind, count in total.items()]

    def workspace_bytes(self, lowering: Lowering) -> int:
        return self.lowering_bytes(lowering) + self.panel_bytes(lowering)


def cuts(length: int, parts: int) -> list[tuple[int, int]]:
    """(first, count) of `parts` parts of `length`, the longer first."""
    low, longer = divmod(length, parts)
    starts = [part * low + min(part, longer) for part in range(parts + 1)]
    return [(start, end - start) for start, end in pairwise(starts)]


def band(problem: ConvProblem, row: int, rows: int) -> tuple[slice, ConvProblem]:
    """Output rows `row` ... `row + rows`: the input rows they read, and the problem they are."""
    p = problem
    if rows == p.oh:
        return slice(0, p.ih), p
    reach = (p.kh - 1) * p.dh + 1
    top = row * p.sh - p.pad_top
    end = top + (rows - 1) * p.sh + reach
    low, high = max(top, 0), min(end, p.ih)
    pad_top = low - top
    if low >= high:  # nothing but padding: any row will do, placed behind the last
        low, high, pad_top = 0, 1, end - top
    height = high - low
    return slice(low, high), replace(p, ih=height, pad_top=pad_top, pad_bottom=end - top - pad_top - height)


def part_of(problem: ConvProblem, first: int, images: int, row: int, rows: int) -> Part:
    """The part with those images and output rows."""
    input_rows, banded = band(problem, row, rows)
    whole = images == problem.mb
    return Part(
        slice(first, first + images), slice(row, row + rows), input_rows,
        banded if whole else replace(banded, mb=images),
    )  # fmt: skip


def image_elements(problem: ConvProblem) -> int:
    """Of an input image or an output image, whichever has more."""
    return max(problem.input_bytes, problem.output_bytes) // max(1, problem.mb) // problem.itemsize


def undivided(problem: ConvProblem, request: Request) -> Division:
    """The problem as one part (none, where the batch is empty)."""
    parts = (part_of(problem, 0, problem.mb, 0, problem.oh),) if problem.mb else ()
    return Division(parts, 1, request)


def _worker_counts(problem: ConvProblem, lowering: Lowering, request: Request) -> list[int]:
    """Numbers of threads with an image each, the best first."""
    if request.device != "cpu":  # a GPU's threads are not ours to hand out
        return [1]
    threads = min(request.num_threads, problem.mb)
    way = lowering.values.get("threads", "inner")
    if way == "auto":
        # Unless an image is left over, threads that share nothing waste nothing.
        way = "images" if threads > 1 and (problem.mb % threads == 0 or problem.mb >= 4 * threads) else "inner"
    return [threads, 1] if way == "images" and threads > 1 else [1]


def _batches(problem: ConvProblem, batching, workers: int) -> Iterator[int]:
    """Into how many parts the images are cut: as asked, then more and more."""
    parts = problem.mb
    if batching == "whole":
        parts = workers
    elif isinstance(batching, int):
        parts = max(min(batching, problem.mb), workers)
    while parts < problem.mb:
        yield parts
        parts = min(2 * parts, problem.mb)
    yield problem.mb


def _bands(problem: ConvProblem, lowering: Lowering, request: Request, batching) -> Iterator[int]:
    """Into how many bands of rows an image is cut: as asked, then more and more."""
    bands, most = 1, min(problem.oh, MOST_BANDS) if lowering.bands else 1
    if batching == "block":  # what is lowered stays in the L2 caches
        one = lowering.form(request.device).lowering_bytes(replace(problem, mb=1), request)
        cache = detect().l2_bytes * request.num_threads if request.device == "cpu" else DEVICE_L2_BYTES
        bands = min(most, max(1, -(-2 * one // cache)))
    while bands < most:
        yield bands
        bands *= 2
    yield most


def _ways(problem: ConvProblem, lowering: Lowering, request: Request) -> Iterator[Division]:
    """Divisions of a problem, from the one asked for to the one that needs the least."""
    batching = lowering.values.get("batching", "whole")
    for workers in _worker_counts(problem, lowering, request):
        each = replace(request, num_threads=1) if workers > 1 else request
        for parts in _batches(problem, batching, workers):
            bands = _bands(problem, lowering, each, batching) if parts == problem.mb else (1,)
            for number in bands:
                cut = tuple(
                    part_of(problem, first, images, row, rows)
                    for first, images in cuts(problem.mb, parts)
                    for row, rows in cuts(problem.oh, number)
                )
                yield Division(cut, workers, each)
                if workers > 1:
                    break  # bands only when one image at a time is still too much


def _countable(problem: ConvProblem, division: Division, lowering: Lowering) -> bool:
    """Whether 32 bits count the elements of every part's scratch and arrays; a band lies within its whole images."""
    images = max(part.mb for part in division.problems)
    largest = images * max(image_elements(problem), problem.K * problem.g)
    scratch = max(division.lowering_bytes(lowering), division.panel_bytes(lowering)) // 4
    return max(largest, scratch) < MOST_ELEMENTS


@functools.lru_cache(4096)
def divide(problem: ConvProblem, lowering: Lowering, request: Request) -> Division:
    """The largest parts, as the lowering's parameters ask, within ``request.max_workspace``; else the smallest.

    Parameters of a lowering that are heeded: `batching` ("image", "whole", "block", or into how many parts the batch is
    cut) and `threads` ("inner": a part has all threads, "images": a thread has a part, "auto").
    """
    limit = request.max_workspace
    plain = replace(request, max_workspace=None)
    if not problem.mb:
        return undivided(problem, plain)
    found = None
    for found in _ways(problem, lowering, plain):
        if request.device != "cpu" and not _countable(problem, found, lowering):
            continue
        if limit is None or found.workspace_bytes(lowering) <= limit:
            break
    assert found is not None
    return found
