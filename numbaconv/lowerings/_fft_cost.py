"""What a convolution by Fourier transforms costs, and which tile makes it cheapest.

A larger tile spoils a smaller share of itself, but has more weights to read and leaves room for fewer tiles in L2.
Figures were measured on one Zen 4 core, in cycles; only their ratios matter for the choice.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from numbaconv.lowerings._fft_division import (
    Shape,
    Tiles,
    next_length,
    outputs_of,
    passes,
    reach_of,
    tile_bytes,
    tiles_a_block,
    work_of,
)
from numbaconv.machine import detect

TILE_SIZES = (8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128)
"""Of sides of tiles, besides the one that an image needs."""
MULTIPLY = 0.85
"""Of the multiply-add peak, what the products reach."""
VECTOR_CYCLES = 46.0, 4.0, 60.0
"""Of a complex vector on its way through a tile: always, for each pass, and where a tile is too large for L2."""
FAR_BYTES, NEAR_BYTES = 7.0, 16.0
"""A cycle, from memory and from the last cache."""
SERIAL = 0.4
"""Of the shorter of arithmetic and the weights' way, what does not hide behind the longer."""
MOST_CACHED = 32 << 20
"""Bytes of the last cache; a virtual machine may see one that it shares with many others."""


def cycles(problem, tiles: Tiles, chunked: bool) -> float:
    """What a core takes for a problem, about: products and transforms of all tiles, weights from memory for each block.

    `chunked`, as in ``Shape.of``: blocks of tiles, whose V and M go to memory and back where L2 is too small for them.
    """
    p, shape = problem, Shape.of(problem, chunked)
    rows, columns = tiles.counts(p)
    count = p.mb * rows * columns
    together = min(count, tiles_a_block(p, tiles)) if chunked else count
    pairs = -(-p.icg // shape.lanes // 2) + -(-shape.vectors // 2)
    once, each, far = VECTOR_CYCLES
    if not chunked or 4 * work_of(p, tiles)["work_step"] < 3 * detect().l2_bytes:
        far = 0.0
    steps = sum(len(passes(n) or ()) for n in (tiles.n_h, tiles.n_w))
    transforms = pairs * tiles.n_h * tiles.n_w * (once + each * steps + far)
    if chunked and together * tile_bytes(p, tiles) > 2 * detect().l2_bytes:
        transforms += 2 * tile_bytes(p, tiles) / FAR_BYTES
    products = p.g * count * 4 * tiles.products * p.icg * shape.vectors / MULTIPLY
    size = weight_bytes(p, tiles, shape)
    rate = NEAR_BYTES if size <= min(detect().l3_bytes, MOST_CACHED) // 2 else FAR_BYTES
    weights = -(-count // max(together, 1)) * size / rate
    return p.g * count * transforms + max(products, weights) + SERIAL * min(products, weights)


def weight_bytes(problem, tiles: Tiles, shape: Shape) -> int:
    """Of the transformed weights."""
    return 2 * problem.g * tiles.products * problem.icg * shape.vectors * shape.lanes * problem.itemsize


@functools.lru_cache(1024)
def chosen_tiles(problem) -> Tiles:
    """The tile that should take the least time for one square image as wide as a problem's: parts have that width."""
    p = problem
    outputs, reach = outputs_of(p)[1], reach_of(p)
    image = replace(p, mb=1, oc=p.ocg, ic=p.icg, g=1, ih=outputs, iw=outputs, kh=1, kw=1, sh=1, sw=1, dh=1, dw=1,
                    **dict.fromkeys(("pad_top", "pad_left", "pad_bottom", "pad_right"), 0))  # fmt: skip
    sides = []
    for taps in reach:
        fits = next_length(outputs + taps - 1)
        sides.append([1] if taps == 1 else [size for size in TILE_SIZES if taps < size < fits] + [fits])
    choice = [Tiles(h, h - reach[0] + 1, w, w - reach[1] + 1) for h in sides[0] for w in sides[1]]
    return min(choice, key=lambda tiles: cycles(image, tiles, True))
