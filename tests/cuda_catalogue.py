"""Every CUDA kernel that the package launches, for every GPU that it launches it on."""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

from cuda_code import ARCHITECTURES

from numbaconv import lift_cuda
from numbaconv.devices import copying
from numbaconv.gemm.cuda import gemm_kernel, pack
from numbaconv.gemm.cuda_loaders import ROWS, STRIDED, STRIDED_ALONG_K, Kind
from numbaconv.gemm.cuda_plan import TILES
from numbaconv.gemm.cuda_reduce import reduce_kernel
from numbaconv.gemm.cuda_tile import Tile
from numbaconv.geometry import Window
from numbaconv.jit_cuda import Kernel
from numbaconv.lowerings import _cuda_direct as direct
from numbaconv.lowerings import _cuda_direct_jit as direct_jit
from numbaconv.lowerings import _cuda_fft_kernels as fft
from numbaconv.lowerings import _cuda_gather as gather
from numbaconv.lowerings import _cuda_patches as patches
from numbaconv.lowerings import _cuda_winograd_kernels as winograd
from numbaconv.problem import ConvProblem
from numbaconv.registry import lowerings

MATRICES = [ROWS, STRIDED, STRIDED_ALONG_K]
RUNS = [gather._deep, gather._shallow, gather._followed]
IMAGES = [gather._kind(runs, along_k) for runs, along_k in itertools.product(RUNS, (False, True))]
PAIRS = [(a, b, "columns") for a in MATRICES for b in MATRICES]  # gemm, linear, and products of lowered matrices
PAIRS += [(ROWS, image, "columns") for image in IMAGES]  # weights, and an image's channels as rows ...
PAIRS += [(kind, ROWS, "rows") for kind in MATRICES + IMAGES]  # ... or as columns
FIRST = {("rows", "rows", "columns"), ("rows", "deep", "columns"), ("deepk", "rows", "rows")}
"""Kinds of the products that must be fast, whose kernels are compiled in every run of the tests."""


class Entry(NamedTuple):
    """A kernel, and the compute capabilities that launch it."""

    kernel: Kernel
    architectures: list[tuple[int, int]]
    tile: Tile | None = None
    first: bool = True


def tile_for(tile: Tile, a: Kind, b: Kind, staged: bool) -> Tile:
    """As ``cuda_plan.run_product`` changes a plan's."""
    tile = tile.padded() if a.along_k or b.along_k else tile
    return tile.staged() if staged else tile


def products(plain: bool = False) -> list[Entry]:
    """The product's kernels with all that their store can do, or as parts of k need them, with nothing of it."""
    entries = []
    for (arithmetic, _), tiles in TILES.items():
        for tile, (a, b, pixels), staged in itertools.product(tiles, PAIRS, (False, True)):
            if staged and arithmetic != "fma":
                continue  # GPUs that old have no such tensor cores
            form = tile_for(tile, a, b, staged)
            finish = (None, False) if plain else ("row" if pixels == "columns" else "column", True)
            kernel = gemm_kernel(form, a, b, pixels, *finish)
            known = [cc for cc in ARCHITECTURES if (cc < (8, 0)) == staged]
            entries.append(Entry(kernel, known, form, (a.name, b.name, pixels) in FIRST))
    return entries


def fixed(size: int) -> list[Kernel]:
    """Of the direct convolution compiled for a problem, two: taps that leave the input, and taps that do not."""
    edges = Window(3, 224, 224, 7, 7, 2, 2, 3, 3, 1, 1, 112, 112, 3 * 224 * 224, 224 * 224, 224, 1)
    inside = Window(64, 56, 56, 3, 2, 1, 1, 0, 0, 1, 3, 54, 53, 64 * 56 * 56, 1, 56 * 64, 64)
    return [
        direct.direct_kernel(
            size, 8, fast, direct_jit.known_of(g, direct.direct_task(1, 1, oc, 8, fast, has_bias, not has_bias))
        )
        for g, oc, fast, has_bias in ((edges, 64, True, True), (inside, 60, False, False))
    ]


def others() -> list[Entry]:
    """All but products and ``tiles``; of the convolutions that are made for a kernel's or a problem's sizes, some."""
    kernels = [patches.offset_writer()]
    for size in (4, 8):
        kernels += [
            copying.copy4(size), pack(size), lift_cuda.lift_kernel(size), patches.scalar_writer(size),
            patches.patch_writer(size, True), patches.patch_writer(size, False), direct.reference_kernel(size),
            direct.direct_kernel(size, 8, True), direct.direct_kernel(size, 8, False), *fixed(size),
            fft.cutting_kernel(size), fft.joining_kernel(size),
            direct.depthwise_kernel(size, 3, 3, 1, 1, 1, 1), direct.depthwise_kernel(size, 7, 7, 4, 4, 1, 1, 4, True),
            direct.depthwise_kernel(size, 5, 5, 2, 2, 3, 3, 4), direct.depthwise_kernel(size, 24, 2, 1, 1, 1, 1, 1),
        ]  # fmt: skip
        kernels += [
            reduce_kernel(size, *way, True) for way in itertools.product(("rows", "columns"), ("row", "column"))
        ]
    return [Entry(kernel, ARCHITECTURES) for kernel in kernels]


def tiles() -> list[Entry]:
    """Winograd's transforms; in every run of the tests F4's, and in float64 those that take the most registers."""
    entries = []
    for cls, size in itertools.product(lowerings("winograd*"), (4, 8)):
        for kh, kw in cls.kernels:
            filters = cls().filters(ConvProblem(mb=1, ic=1, ih=kh, iw=kw, oc=1, kh=kh, kw=kw))
            kernels = [winograd.keeping_kernel(size, filters)]
            for tiles_fast in (True, False):
                kernels += [winograd.taking_kernel(size, filters, tiles_fast),
                            winograd.giving_kernel(size, filters, tiles_fast)]  # fmt: skip
            first = filters == ((4, 3, 4, 3) if size == 4 else (4, 5, 4, 5))
            entries += [Entry(kernel, ARCHITECTURES, first=first) for kernel in kernels]
    return entries


def everything() -> list[Entry]:
    return products() + others() + tiles()


def family(name: str) -> str:
    """A kernel's name but for what its store adds, and for the sizes that it is made for."""
    if name.startswith("depthwise"):
        return re.sub(r"_\d+x\d+_s\d+x\d+_d\d+x\d+_\d+_", "_", name)
    if name.startswith("direct"):
        return re.sub(r"_ic\d+_.*", "_fixed", name)
    return re.sub(r"_(none|row|column)(_residual)?$", "", name) if name.startswith(("gemm", "reduce")) else name
