"""The CUDA product, emulated block by block: every way to load operands, every tile, every store; planted faults."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import oracles
import pytest
from cases import oracle, problem

pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets: pip install greenlet")

from numbaconv.devices.emulated import EmulatedRuntime
from numbaconv.devices.emulator import EmulationError, Memory, launch
from numbaconv.gemm import cuda as products
from numbaconv.gemm import cuda_loaders as loaders
from numbaconv.gemm import cuda_plan as plans
from numbaconv.gemm import cuda_tile as tiles
from numbaconv.gemm.cuda import Place, Sizes
from numbaconv.gemm.cuda_plan import CudaFinish, Operand, Result, cuda_plan, run_product
from numbaconv.gemm.cuda_reduce import reduce_grid, reduce_kernel
from numbaconv.gemm.cuda_tile import (
    DOUBLE,
    GROUP,
    LARGE,
    LARGE_STAGED,
    SMALL,
    SMALL_STAGED,
    TENSOR3_LARGE,
    TENSOR3_SMALL,
    TENSOR_LARGE,
    TENSOR_SMALL,
    Tile,
    grid_of,
)
from numbaconv.geometry import window_of
from numbaconv.lowerings import _cuda_gather as gather
from numbaconv.lowerings import _cuda_patches as patches

TINY, TINY_DEEP, TINY_FLAT, TINY_STAGED = (Tile(32, 16, 8, 4, 4, stages, 1) for stages in (3, 4, 2, 0))
TINY_PADDED, TINY_PADDED_STAGED = TINY.padded(), TINY_STAGED.padded()
TINY_DOUBLE = Tile(32, 16, 8, 4, 4, 3, 1, itemsize=8)
TINY_TENSOR, TINY_TENSOR3 = (Tile(32, 16, 8, 4, 4, 2, 1, pad=8, arithmetic=way) for way in ("tf32", "tf32x3"))
PAIR, PAIR_STAGED = Tile(32, 32, 8, 4, 4, 3, 1), Tile(32, 32, 8, 4, 4, 0, 1)  # of warps
MATRICES = ("rows", "strided", "stridedk")
NO_INTS = Memory("no table", np.empty(0, np.int32))


def name(tile):
    return tile.name


def real(tile):
    return np.float32 if tile.itemsize == 4 else np.float64


def whole(rng, tile, *shape):
    """Whole numbers that sums of TF32 products keep exact, too."""
    return rng.integers(-4, 5, shape).astype(real(tile))


def nothing(tile):
    return Memory("what was not given", np.empty(0, real(tile)))


def kind_of(way, builder=loaders):
    return {"rows": builder.ROWS, "strided": builder.STRIDED, "stridedk": builder.STRIDED_ALONG_K}[way]


def operand(way, values, gap, builder=loaders):
    """(memory, record) of matrices (batch, k, width) with NaN between rows and columns, and none behind the last."""
    batch, k, width = values.shape
    vector = 16 // values.itemsize
    if way == "rows":
        memory = np.full((batch, k, -(-width // vector) * vector + vector * gap), np.nan, values.dtype)
        inside = memory[..., :width]
        told = builder.Rows(memory.shape[2], k * memory.shape[2])
    elif way == "strided":
        memory = np.full((batch, k, width + gap, 1 + gap), np.nan, values.dtype)
        inside = memory[..., :width, 0]
        told = builder.Strided(*(step // values.itemsize for step in (inside.strides[1], *inside.strides[:0:-2],
                                                                      inside.strides[0])))  # fmt: skip
    else:
        memory = np.full((batch, width, k + gap), np.nan, values.dtype)
        inside = memory[..., :k].transpose(0, 2, 1)
        told = builder.Strided(1, k + gap, width * (k + gap))
    inside[...] = values
    last = sum((size - 1) * step for size, step in zip(inside.shape, inside.strides, strict=True)) // values.itemsize
    flat = memory.reshape(-1)[: last + 1 if values.size else 0]
    return Memory(f"an operand in {way}", flat), told


def held(values, layout, gap):
    """Memory with NaN after its innermost axis, and (batch, lines, images, rows, columns) in it.

    "lines": images, lines, rows, columns; "pixels": images, rows, columns, lines.
    """
    order = (2, 0, 1, 3, 4) if layout == "lines" else (2, 3, 4, 0, 1)
    turned = values.transpose(order)
    memory = np.full((*turned.shape[:-1], turned.shape[-1] + gap), np.nan, values.dtype)
    inside = memory[..., : turned.shape[-1]]
    inside[...] = turned
    return memory.reshape(-1), inside.transpose(np.argsort(order))


def place_of(view, bias=0, part=0):
    batch, line, n, h, w = (step // view.itemsize for step in view.strides)
    return Place(*view.shape[3:], line, n, h, w, batch, bias, part)


def product(
    rng, tile, m, n, k, ways=("rows", "rows"), bias=None, activation=None, alpha=1.0, beta=0.0, gap=1, residual=False,
    pixels="columns", images=None, layout="lines", batch=1, base=0, parts=1, seed=0, builder=products, load=loaders,
):  # fmt: skip
    """Run the kernel on whole numbers, with NaN around operands and result, and compare with the oracle.

    C's pixels are `images` (images, rows, columns); `base`: elements that C begins past an aligned address; `parts`:
    of k, then added up by the kernel for that.
    """
    lines, count = (m, n) if pixels == "columns" else (n, m)
    images = images or (1, 1, count)
    a, b = whole(rng, tile, batch, k, m), whole(rng, tile, batch, k, n)
    shape = (batch, lines, *images)
    before = whole(rng, tile, *shape) if beta else np.full(shape, np.nan, real(tile))
    extra = whole(rng, tile, *shape)
    shift = whole(rng, tile, batch, {None: 0, "row": m, "column": n}[bias])

    def matrix(values):
        values = values.reshape(batch, lines, count)
        return values if pixels == "columns" else values.swapaxes(1, 2)

    want = oracles.gemm(
        a.swapaxes(1, 2), b, matrix(before), alpha, beta, activation=activation,
        bias={None: None, "row": shift[:, :, None], "column": shift[:, None, :]}[bias],
        residual=matrix(extra) if residual else None,
    )  # fmt: skip
    (memory_a, record_a), (memory_b, record_b) = operand(ways[0], a, gap, load), operand(ways[1], b, gap, load)
    flat, inside = held(before, layout, gap)
    added, added_inside = held(extra, layout, 2 * gap)
    place, place_added = place_of(inside, shift.shape[1]), place_of(added_inside)
    low, high = oracles.ACTIVATIONS[activation]
    c = Memory("C", flat, base)
    finish = (Memory("bias", shift.reshape(-1)) if bias else nothing(tile),
              Memory("residual", added) if residual else nothing(tile))  # fmt: skip
    k_part = -(-max(1, -(-k // tile.bk)) // parts) * tile.bk
    kinds = kind_of(ways[0], load), kind_of(ways[1], load)
    if parts == 1:
        kernel = builder.gemm_kernel(tile, *kinds, pixels, bias, residual)
        launch(
            kernel.function, grid_of(tile, m, n, batch), kernel.threads, memory_a, memory_b, c, *finish, NO_INTS,
            record_a, record_b, place, place_added, Sizes(m, n, k, k_part, int(base == 0)), *map(real(tile), (
            alpha, beta, low, high)), seed=seed,
        )  # fmt: skip
    else:
        partial = np.full((parts, batch, m, n), np.nan, real(tile))
        kernel = builder.gemm_kernel(tile, *kinds, pixels)
        line, step = (n, 1) if pixels == "columns" else (1, n)
        whole_place = Place(1, count, line, 0, 0, step, m * n, 0, batch * m * n)
        launch(
            kernel.function, grid_of(tile, m, n, batch, parts), kernel.threads, memory_a, memory_b, partial,
            nothing(tile), nothing(tile), NO_INTS, record_a, record_b, whole_place, whole_place,
            Sizes(m, n, k, k_part, 1), *map(real(tile), (1, 0, -np.inf, np.inf)), seed=seed,
        )  # fmt: skip
        kernel = reduce_kernel(tile.itemsize, pixels, bias, residual)
        launch(
            kernel.function, (*reduce_grid(m, n, batch), 1), kernel.threads, partial, c, *finish, place, place_added,
            Sizes(m, n, parts, batch * m * n, 0), *map(real(tile), (alpha, beta, low, high)), seed=seed,
        )  # fmt: skip
    np.testing.assert_array_equal(matrix(np.array(inside)), want)
    assert np.isnan(flat).sum() == flat.size - inside.size, "wrote between the rows of the result"


# ------------------------------------------------------------------------------------------------ tiles and edges

AROUND = [(0, 0, 0), (-1, 0, 1), (0, 1, -1), (1, -1, 0), (3, -3, 3), (-4, 4, 2)]


@pytest.mark.parametrize("tile", [TINY, TINY_STAGED, TINY_PADDED, TINY_DOUBLE, TINY_TENSOR, PAIR], ids=name)
@pytest.mark.parametrize("off", AROUND, ids=str)
def test_products_around_the_edges_of_a_tile(rng, tile, off):
    product(rng, tile, tile.bm + off[0], tile.bn + off[1], 2 * tile.bk + off[2], gap=abs(off[0]))


@pytest.mark.parametrize(
    "tile", [SMALL, SMALL_STAGED, LARGE, LARGE_STAGED, LARGE.padded(), DOUBLE, DOUBLE.padded(), DOUBLE.staged(),
             TENSOR_SMALL, TENSOR_LARGE, TENSOR3_SMALL, TENSOR3_LARGE], ids=name
)  # fmt: skip
def test_the_tiles_that_plans_choose(rng, tile):
    for n, ways in ((tile.bn + 3, ("rows", "rows")), (tile.bn // 2 - 2, ("stridedk", "strided"))):
        product(rng, tile, tile.bm - 1, n, tile.bk + 1, ways, "row", "relu6", 2.0, residual=True)


@pytest.mark.parametrize("tile", [TINY, TINY_FLAT, TINY_DEEP, TINY_STAGED, TINY_DOUBLE, TINY_TENSOR3], ids=name)
@pytest.mark.parametrize("k", [0, 1, 7, 8, 9, 16, 17, 40])
def test_any_depth(rng, tile, k):
    product(rng, tile, 5, 3, k, seed=k)
    product(rng, tile, 32, 16, k, gap=0, seed=k + 1)


@pytest.mark.parametrize("tile", [TINY, TINY_STAGED], ids=name)
def test_more_rows_of_tiles_than_a_group(rng, tile):
    product(rng, tile, 32 * (GROUP + 2) - 3, 16 * 3 - 1, 3)


@pytest.mark.parametrize("tile", [TINY, TINY_PADDED, TINY_PADDED_STAGED, TINY_DOUBLE, TINY_TENSOR], ids=name)
@pytest.mark.parametrize("first", MATRICES)
@pytest.mark.parametrize("second", MATRICES)
def test_every_way_to_load_a_matrix(rng, tile, first, second):
    product(rng, tile, 29, 11, 13, (first, second), batch=2)
    product(rng, tile, 32, 16, 16, (first, second), gap=0, pixels="rows")


# ------------------------------------------------------------------------------------------------------ the store


@pytest.mark.parametrize("bias", products.BIASES)
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (-2.0, 3.0)])
@pytest.mark.parametrize("pixels", ["rows", "columns"])
def test_the_store_adds_and_limits(rng, bias, activation, alpha, beta, pixels):
    product(rng, TINY, 33, 18, 5, bias=bias, activation=activation, alpha=alpha, beta=beta, pixels=pixels)
    product(rng, TINY, 8, 16, 5, bias=bias, activation=activation, alpha=alpha, beta=beta, gap=0, pixels=pixels,
            residual=True)  # fmt: skip


@pytest.mark.parametrize("tile", [TINY, TINY_STAGED, TINY_DOUBLE, TINY_TENSOR], ids=name)
@pytest.mark.parametrize("pixels", ["rows", "columns"])
@pytest.mark.parametrize("layout", ["lines", "pixels"])
@pytest.mark.parametrize("gap", [0, 1])
def test_pixels_of_images(rng, tile, pixels, layout, gap):
    """Rows of five columns, two rows an image: four neighbours are in different rows and images."""
    sizes = (13, 30) if pixels == "columns" else (30, 13)
    product(rng, tile, *sizes, 9, bias="row", residual=True, pixels=pixels, images=(3, 2, 5), layout=layout, gap=gap,
            batch=2)  # fmt: skip
    sizes = (16, 32) if pixels == "columns" else (32, 16)
    product(rng, tile, *sizes, 9, bias="column", beta=2.0, pixels=pixels, images=(2, 4, 4), layout=layout, gap=4 * gap)


@pytest.mark.parametrize("base", [1, 2, 3])
@pytest.mark.parametrize("tile", [TINY, TINY_STAGED], ids=name)
def test_a_result_that_is_not_aligned(rng, tile, base):
    product(rng, tile, 32, 16, 8, gap=0, base=base)
    product(rng, tile, 32, 32, 8, gap=4, base=base, images=(2, 4, 4), residual=True)


@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize("tile", [TINY, TINY_PADDED_STAGED, TINY_DOUBLE, TINY_TENSOR], ids=name)
@pytest.mark.parametrize("pixels", ["rows", "columns"])
def test_parts_of_k_are_added_up(rng, tile, parts, pixels):
    """The last part is shorter, and of five there are parts with nothing to do."""
    images = (2, 3, 3) if parts == 3 else None
    product(rng, tile, 18, 18, 27, ("rows", "stridedk"), "row", "relu6", 2.0, residual=True, pixels=pixels,
            images=images, parts=parts, batch=2)  # fmt: skip
    product(rng, tile, 5, 18, 3, bias="column", beta=-1.0, pixels=pixels, parts=parts)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_has_its_own_operands_and_biases(rng, batch):
    for way in MATRICES:
        product(rng, TINY, 9, 11, 5, (way, "rows"), "row", batch=batch, images=(1, 1, 11))
        product(
            rng, TINY, 12, 11, 5, ("rows", way), "column", batch=batch, images=(2, 3, 2), pixels="rows", residual=True
        )


# -------------------------------------------------------------------------------------------------------- numbers


def square(tile, a, b, activation=None, bias=None, along=None):
    """A plain product in one block; operands as k rows."""
    (k, m), n = a.shape, b.shape[1]
    c = np.full((m, n), np.nan, a.dtype)
    kernel, place = products.gemm_kernel(tile, loaders.ROWS, loaders.ROWS, "columns", along), Place(1, n, n, 0, 0, 1)
    launch(
        kernel.function, (1,), kernel.threads, a, b, c, nothing(tile) if bias is None else bias, nothing(tile), NO_INTS,
        loaders.Rows(m, 0), loaders.Rows(n, 0), place, place, Sizes(m, n, k, -(-k // tile.bk) * tile.bk, 1),
        *map(real(tile), (1, 0, *oracles.ACTIVATIONS[activation])),
    )  # fmt: skip
    return c


@pytest.mark.parametrize("tile", [TINY, TINY_STAGED], ids=name)
def test_rounding_is_that_of_one_running_sum_of_fused_multiply_adds(rng, tile):
    a, b = (rng.standard_normal((37, width), dtype=np.float32) for width in (32, 16))
    np.testing.assert_array_equal(square(tile, a, b), oracles.running_matmul(a.T, b))


def test_a_nan_stays_one_in_its_row_and_column(rng):
    a, b = whole(rng, TINY, 8, 32), whole(rng, TINY, 8, 16)
    a[3, 5], b[2, 7] = np.nan, np.inf
    c = square(TINY, a, b, "relu6")
    np.testing.assert_array_equal(c, oracles.gemm(a.T, b, activation="relu6"))
    assert np.isnan(c[5]).all()


@pytest.mark.parametrize("tile", [SMALL, LARGE, DOUBLE, TINY, TENSOR_SMALL, TENSOR_LARGE, TENSOR3_LARGE], ids=name)
def test_all_sums_of_a_tile_have_a_thread_of_their_own(tile):
    """A tile whose every element differs: no two threads may swap theirs."""
    m, n = tile.bm, tile.bn
    a, b = np.arange(m, dtype=real(tile))[None] * 1024, np.ones((1, n), real(tile))
    c = square(tile, a, b, bias=np.arange(n, dtype=real(tile)), along="column")
    np.testing.assert_array_equal(c, np.arange(m)[:, None] * 1024 + np.arange(n))


# ------------------------------------------------------------------------------------------- patches of an image

KINDS = {
    "plain": {"ic": 3, "ih": 6, "iw": 5, "oc": 5},
    "1x1": {"mb": 2, "ic": 9, "ih": 3, "iw": 5, "oc": 6, "kh": 1, "kw": 1},
    "strides and four pads": {"mb": 2, "ic": 2, "ih": 7, "iw": 8, "oc": 3, "sh": 2, "sw": 3, "pad_top": 2,
                              "pad_left": 1, "pad_bottom": 1, "pad_right": 3},
    "dilation": {"ic": 2, "ih": 9, "iw": 10, "oc": 3, "dh": 2, "dw": 3, "pad_top": 2, "pad_left": 3},
    "groups": {"mb": 2, "ic": 4, "ih": 3, "iw": 4, "oc": 6, "g": 2, "kh": 2, "pad_top": 1},
    "stride beyond the kernel": {"ic": 2, "ih": 9, "iw": 10, "oc": 3, "kh": 2, "kw": 1, "sh": 3, "sw": 4},
    "pads beyond the kernel": {"ic": 2, "ih": 2, "iw": 3, "oc": 3, "kh": 2, "kw": 1, "pad_top": 3, "pad_left": 2,
                               "pad_bottom": 2, "pad_right": 1},
    "deep": {"ic": 21, "ih": 4, "iw": 4, "oc": 4, "kh": 2, "kw": 2, "pad_top": 1},
}  # fmt: skip
WAYS = ("deep", "shallow", "followed")


def image(values, layout):
    """An image's memory, with NaN between rows, and where (n, c, h, w) lie in it."""
    values = values if layout == "nchw" else values.transpose(0, 2, 3, 1)
    memory = np.full((*values.shape[:-1], values.shape[-1] + 1), np.nan, values.dtype)
    inside = memory[..., :-1]
    inside[...] = values
    return memory, inside if layout == "nchw" else inside.transpose(0, 3, 1, 2)


def convolve(rng, tile, p, layout="nchw", way="deep", rows=None, gatherer=gather):
    """A convolution as one product; weights of channels that there are not are no zeros, the loader's must be."""
    rows = layout == "nchw" if rows is None else rows  # channels are C's rows
    x, w = whole(rng, tile, p.mb, p.ic, p.ih, p.iw), whole(rng, tile, p.oc, p.ic // p.g, p.kh, p.kw)
    icg, ocg, taps = p.ic // p.g, p.oc // p.g, p.kh * p.kw
    padded = icg if way == "shallow" else -(-icg // tiles.DEPTH) * tiles.DEPTH
    memory_x, inside_x = image(x, layout)
    table = None
    if way == "followed":
        table, g = np.full(p.oh * p.ow * taps, -7, np.int32), window_of(p, inside_x)
        kernel = patches.offset_writer()
        launch(kernel.function, patches.offset_grid(g), kernel.threads, table, g)
    source = gatherer.patches(p, inside_x, table, padded)
    assert source.kind.name == way + ("k" if source.kind.along_k else "")
    if source.kind.along_k:
        tile = tile.padded()
    pitch = -(-ocg // tile.vector) * tile.vector
    weights = whole(rng, tile, p.g, taps, padded, pitch)
    weights[:, :, :icg, :ocg] = w.reshape(p.g, ocg, icg, taps).transpose(0, 3, 2, 1)
    (memory, out), (added, residual) = (image(v, layout) for v in (
        np.full((p.mb, p.oc, p.oh, p.ow), np.nan, real(tile)), whole(rng, tile, p.mb, p.oc, p.oh, p.ow)))  # fmt: skip
    places = []
    for each in (out, residual):
        view = np.lib.stride_tricks.as_strided(
            each, (p.g, ocg, p.mb, p.oh, p.ow), (ocg * each.strides[1], *(each.strides[axis] for axis in (1, 0, 2, 3)))
        )
        places.append(place_of(view, ocg))
    biases, count, k = whole(rng, tile, p.oc), p.mb * p.oh * p.ow, taps * padded
    own = Operand(loaders.ROWS, loaders.Rows(pitch, taps * padded * pitch), weights), source._replace(memory=memory_x)
    (a, b), (m, n) = (own, (ocg, count)) if rows else (own[::-1], (count, ocg))
    pixels, along = ("columns", "row") if rows else ("rows", "column")
    kernel = products.gemm_kernel(tile, a.kind, b.kind, pixels, along, True)
    launch(
        kernel.function, grid_of(tile, m, n, p.g), kernel.threads, a.memory, b.memory, memory, biases, added,
        NO_INTS if table is None else table, a.record, b.record, *places,
        Sizes(m, n, k, -(-k // tile.bk) * tile.bk, 1), *map(real(tile), (1, 0, 0, 6)),
    )  # fmt: skip
    np.testing.assert_array_equal(out, oracle(p, x, w, biases, residual, "relu6"))
    assert np.isnan(memory).sum() == memory.size - out.size, "wrote between the rows of the result"


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_patches_are_found_while_tiles_are_copied(rng, kind, way, layout):
    convolve(rng, TINY, problem(**KINDS[kind]), layout, way)


@pytest.mark.parametrize("tile", [TINY_STAGED, TINY_DOUBLE, TINY_TENSOR], ids=name)
@pytest.mark.parametrize("way", WAYS)
def test_patches_through_registers_and_of_other_types(rng, tile, way):
    for layout, rows in (("nchw", False), ("nhwc", True)):  # the other operand than usual
        convolve(rng, tile, problem(**KINDS["strides and four pads"]), layout, way, rows)


@pytest.mark.parametrize(
    ("tile", "way", "layout"), [(SMALL, "deep", "nchw"), (SMALL_STAGED, "followed", "nhwc"), (LARGE, "deep", "nhwc"),
                                (TENSOR_SMALL, "shallow", "nchw")],
)  # fmt: skip
def test_patches_at_real_sizes(rng, tile, way, layout):
    convolve(rng, tile, problem(mb=1, ic=5, ih=9, iw=8, oc=7, kh=2, kw=3, pad_top=1, pad_left=1), layout, way)


def test_channels_are_padded_where_that_is_little():
    assert gather.padded_channels(64, 9) == 64
    assert gather.padded_channels(60, 9) == 64
    assert gather.padded_channels(3, 9) == 3
    assert gather.padded_channels(3, 1) == 16


# ------------------------------------------------------------------------------------------------------ packing


@pytest.mark.parametrize(
    ("width", "k", "step", "step_k"), [(33, 31, 1, 40), (31, 65, 70, 1), (5, 40, 3, 17), (4, 1, 1, 4)]
)
@pytest.mark.parametrize("itemsize", [4, 8])
def test_pack(rng, width, k, step, step_k, itemsize):
    source = rng.integers(-4, 5, (k - 1) * step_k + (width - 1) * step + 1).astype(f"f{itemsize}")
    pitch = -(-width // 4) * 4
    out = np.full((k, pitch), np.nan, source.dtype)
    kernel = products.pack(itemsize)
    launch(kernel.function, products.pack_grid(width, k), kernel.threads, source, out, width, k, step, step_k, pitch)
    want = np.zeros_like(out)
    for p in range(k):
        for i in range(width):
            want[p, i] = source[p * step_k + i * step]
    np.testing.assert_array_equal(out, want)


# ---------------------------------------------------------------------------------------------- tiles and plans


@pytest.mark.parametrize(
    ("sizes", "changes", "why"),
    [((100, 128, 8, 8, 8, 3, 1), {}, "no whole number of warps"), ((128, 128, 8, 6, 8, 3, 1), {}, "whole number"),
     ((128, 128, 8, 8, 8, 1, 1), {}, "stages"), ((128, 128, 8, 8, 8, -1, 1), {}, "stages"),
     ((128, 128, 16, 8, 8, 4, 1), {}, "bytes of shared memory"), ((32, 16, 2, 4, 4, 2, 1), {}, "cannot copy"),
     ((32, 16, 8, 4, 4, 2, 1), {"pad": 2}, "not aligned"),
     ((32, 16, 8, 4, 4, 2, 1), {"arithmetic": "bf16"}, "arithmetic"),
     ((32, 16, 4, 4, 4, 2, 1), {"arithmetic": "tf32"}, "tensor cores"),
     ((32, 16, 8, 4, 4, 2, 1), {"arithmetic": "tf32", "itemsize": 8}, "tensor cores")],
)  # fmt: skip
def test_tiles_that_cannot_be(sizes, changes, why):
    with pytest.raises(ValueError, match=why):
        Tile(*sizes, **changes)


def test_threads_that_cannot_gather():
    with pytest.raises(ValueError, match="cannot gather"):
        loaders.STRIDED.make(loaders.Share(4, 16, 16, 1, 64))


def test_a_kernel_needs_a_side_for_pixels_and_for_the_bias():
    for pixels, bias in (("both", None), ("rows", "both")):
        with pytest.raises(ValueError, match=r"none of|neither"):
            products.gemm_kernel(TINY, loaders.ROWS, loaders.ROWS, pixels, bias)


@pytest.mark.parametrize("tile", [LARGE, SMALL, DOUBLE, TENSOR_LARGE, TENSOR3_SMALL], ids=name)
def test_tiles_for_older_gpus_and_for_rows_along_k(tile):
    assert tile.least == (8, 0)
    padded = tile.padded()
    assert padded.pad >= 4
    assert padded.padded() is padded
    assert padded.shared_bytes <= tiles.SHARED_BYTES
    if not tile.tensor:
        for staged in (tile.staged(), padded.staged()):
            assert (staged.stages, staged.slots, staged.least) == (0, 2, (7, 5))
        assert len({t.name for t in (tile, padded, tile.staged(), padded.staged())}) == 4


SHAPES = [(1, 1, 1, 1), (64, 64, 64, 1), (30, 40, 2048, 1), (4096, 4096, 4096, 1), (64, 3136, 576, 1), (5, 7, 0, 1),
          (17, 19, 100_003, 1), (256, 196, 2304, 32), (1, 1000, 25088, 1), (8, 49, 4608, 2)]  # fmt: skip


@pytest.mark.parametrize("processors", [1, 4, 132])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_plans_cover_k_exactly_and_are_the_same_every_time(shape, processors):
    m, n, k, batch = shape
    for (arithmetic, itemsize), choice in plans.TILES.items():
        for split in (True, False):
            plan = cuda_plan(m, n, k, batch, itemsize, arithmetic, processors, split)
            cuda_plan.cache_clear()
            assert cuda_plan(m, n, k, batch, itemsize, arithmetic, processors, split) == plan
            assert plan.tile in choice
            assert 1 <= plan.parts <= (plans.MOST_PARTS if split else 1)
            assert plan.k_part % plan.tile.bk == 0
            assert plan.k_part >= 1
            assert plan.parts * plan.k_part >= k
            assert plan.parts == 1 or (plan.k_part >= plans.LEAST_DEPTH * plan.tile.bk)
            assert plan.panel_bytes == (plan.parts * batch * m * n * itemsize if plan.parts > 1 else 0)


# ------------------------------------------------------------------------------------------------- whole launches


class Recorder(EmulatedRuntime):
    """The emulated device, and the kernels that it ran."""

    def __init__(self, cc):
        super().__init__()
        self.cc, self.names = cc, []

    def _run(self, kernel, *arguments):
        self.names.append(kernel.name)
        super()._run(kernel, *arguments)


@pytest.mark.parametrize("cc", [(7, 5), (8, 0)], ids=str)
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("way", ["rows", "strided", "stridedk"])
@pytest.mark.parametrize("pixels", ["rows", "columns"])
def test_a_planned_product(rng, cc, parts, way, pixels):
    runtime = Recorder(cc)
    m, n, k, images = (20, 18, 40, (3, 2, 3)) if pixels == "columns" else (18, 20, 40, (3, 2, 3))
    lines, along = (m, "row") if pixels == "columns" else (n, "column")
    a, b, shift = whole(rng, SMALL, k, m), whole(rng, SMALL, k, n), whole(rng, SMALL, lines)
    extra = whole(rng, SMALL, 1, lines, *images)
    (memory, record), (flat, inside) = operand(way, a[None], 1), held(np.full_like(extra, np.nan), "lines", 1)
    added, added_inside = held(extra, "lines", 3)
    sources = [runtime.to_device(np.ascontiguousarray(each)) for each in (memory.values, b, flat, added, shift)]
    scratch = runtime.empty((parts * m * n,), np.float32)
    plan = replace(cuda_plan(m, n, k, 1, 4, "fma", 4), tile=SMALL, parts=parts)
    run_product(
        runtime, None, plan, Operand(kind_of(way), record, sources[0]),
        Operand(loaders.ROWS if n % 4 == 0 else loaders.STRIDED, loaders.Rows(n, 0) if n % 4 == 0 else
                loaders.Strided(n, 1, 0), sources[1]),
        Result(sources[2], place_of(inside)), pixels,
        CudaFinish(sources[4], along, Result(sources[3], place_of(added_inside)), alpha=2.0, low=0.0, high=60.0),
        scratch if parts > 1 else None,
    )  # fmt: skip
    flat[:] = runtime.to_host(sources[2])
    want = 2 * oracles.matmul(a.T, b)
    want = want if pixels == "columns" else want.T
    want = np.clip(want.reshape(extra.shape) + shift[None, :, None, None, None] + extra, 0, 60)
    np.testing.assert_array_equal(inside, want)
    assert np.isnan(flat).sum() == flat.size - inside.size
    assert [each.startswith("reduce_f32_" + pixels) for each in runtime.names] == [False, True][:parts]
    assert ("staged" in runtime.names[0]) == (cc < (8, 0))
    assert ("_p4_" in runtime.names[0]) == (way == "stridedk")


# ------------------------------------------------------------------------------------------- faults in the kernel


@functools.cache
def edges(tile, ways=("rows", "rows"), **changes):
    def run(rng, **modules):
        for n in tile.bn + 3, tile.bn - 2:
            product(rng, tile, tile.bm - 1, n, 3 * tile.bk + 5, ways, **changes, **modules)

    return run


@functools.cache
def one(m, n, **changes):
    return lambda rng, **modules: product(rng, TINY, m, n, 5, **changes, **modules)


@functools.cache
def stored(**changes):
    return one(13, 30, images=(3, 2, 5), batch=2, **changes)


@functools.cache
def gathers(kind, way, layout="nchw"):
    return lambda rng, gatherer=gather: convolve(rng, TINY, problem(**KINDS[kind]), layout, way, gatherer=gatherer)


BARRIER = "                cuda.syncthreads()  # this tile"
THREAD = "        thread = int32(cuda.threadIdx.x)\n"
PUT = "put_b(shared_b, next_b, held_b, state_b)\n"
ALONG_K = ("stridedk", "strided")
FAULTS = [
    (products, edges(PAIR), "cp_async_wait(slots - 2)", "cp_async_wait(slots - 1)", "asynchronous copy is under way"),
    (products, edges(PAIR), BARRIER, "                # this tile", "race|under way"),
    (products, edges(PAIR_STAGED), f"{PUT}                cuda.syncthreads()\n", PUT, "race"),
    (products, edges(PAIR), BARRIER, "                if thread > 31:\n                    cuda.syncthreads()\n"
     "                else:\n                    cuda.syncthreads()  #", "divergent barriers"),
    (products, edges(PAIR), THREAD, f"{THREAD}        if thread == 9:\n            return\n", "after 1 threads left"),
    (products, edges(PAIR), "            wait_all()", "            pass", "copies under way"),
    (products, edges(TINY), "if y < m:", "if y <= m:", "between the rows|outside"),
    (products, edges(TINY), "if x + j < n:\n                                c[", "if x + j <= n:\n"
     "                                c[", "between the rows|outside"),
    (products, edges(TINY, bias="column"), "if x + j < n:\n                            if beta", "if x + j <= n:\n"
     "                            if beta", "outside"),
    (products, one(8, 19, pixels="rows", layout="pixels"), "x + group_n <= n and", "x + group_n - 1 <= n and",
     "between the rows|outside"),
    (products, edges(TINY), " and at & (vector - 1) == 0:", ":", "misaligned"),
    (products, one(8, 16, gap=0, base=1), "sizes.aligned > 0 and ", "", "misaligned"),
    (products, stored(gap=0), "across[g + group_n - 1] - across[g] == group_n - 1", "True",
     "Arrays|between the rows|outside"),
    (products, edges(PAIR), "shared.array(all_b, real, alignment=16)", "shared.array(all_b, real)", "misaligned"),
    (products, edges(PAIR), "(lane >> 3) * 2 * vector", "(lane >> 3) * vector", "Arrays are not equal"),
    (products, edges(TINY_TENSOR), "(lane & 3) * 2)", "(lane & 3))", "Arrays are not equal"),
    (products, edges(PAIR), "next_b < last_b else int32(0)", "next_b < last_b else int32(slot_b)",
     "under way|race|Arrays"),
    (products, edges(TINY, parts=3), "k_end = sizes.k if k_end > sizes.k else k_end", "pass", "outside|Arrays"),
    (products, edges(TINY, parts=3), "part * place.part", "0", "Arrays"),
    (products, stored(bias="row"), "batch * place.bias)", "0)", "Arrays"),
    (products, stored(residual=True), "int32(batch * added.batch)", "int32(0)", "Arrays"),
    (products, stored(residual=True), "pixel_at(added, x)", "pixel_at(place, x)", "Arrays"),
    (products, stored(), "(rest - n * place.rows)", "rest", "Arrays|outside"),
    (products, edges(TINY, beta=1.0), "value += beta * c[int32(down + across[g + j])]", "value += beta", "Arrays"),
    (loaders, edges(PAIR), "if left > i * down", "if left >= i * down", "outside"),
    (loaders, edges(PAIR_STAGED), "if left > i * down", "if left >= i * down", "outside"),
    (loaders, edges(PAIR), "int32(vector) if some > vector", "int32(vector) if some > 0", "outside|Arrays"),
    (loaders, edges(PAIR), "umod32(thread, vectors) * vector)", "umod32(thread, vectors) * vector + 1)", "misaligned"),
    (loaders, one(8, 16, batch=2), "batch * g.batch + (k + row)", "(k + row)", "Arrays"),
    (loaders, edges(TINY_PADDED, ALONG_K), "x if x < limit else int32(-1)", "x", "outside|Arrays"),
    (loaders, edges(TINY_PADDED, ALONG_K), "int32(rows - down)", "rows", "outside|Arrays"),
    (loaders, edges(TINY_PADDED, ALONG_K), "int32(state[0] - bk)", "state[0]", "outside|Arrays"),
    (loaders, edges(TINY_PADDED_STAGED, ALONG_K), "held[i * steps + p] = ld1", "held[i * steps] = ld1", "Arrays"),
    (loaders, edges(TINY_PADDED, ALONG_K), "i * apart + down * pitch", "i * apart", "race|under way|Arrays"),
    (loaders, edges(TINY_PADDED, ALONG_K, batch=2), "batch * g.batch + j * g.step", "j * g.step", "Arrays"),
    (gather, gathers("plain", "deep"), "rows = rows if rows < left else left", "rows = left",
     "Arrays|outside"),
    (gather, gathers("pads beyond the kernel", "deep"), "y >= 0 and ", "", "Arrays|outside"),
    (gather, gathers("pads beyond the kernel", "shallow"), "z < g.iw", "z <= g.iw", "Arrays|outside"),
    (gather, gathers("deep", "deep"), "if state[3] >= g.padded:", "if state[3] > g.padded:", "Arrays|outside"),
    (gather, gathers("deep", "deep"), "if state[5] == g.kw * g.dw:", "if state[5] > g.kw * g.dw:", "Arrays|outside"),
    (gather, gathers("plain", "shallow"), "state[3] + row", "state[3]", "Arrays|outside"),
    (gather, gathers("groups", "followed"), "batch * g.batch + n * g.x_n", "n * g.x_n", "Arrays|outside"),
    (gather, gathers("pads beyond the kernel", "followed", "nhwc"), "if offset >= 0", "if offset >= -1",
     "Arrays|outside"),
    (gather, gathers("dilation", "deep"), "int32(state[5] + g.dw)", "int32(state[5] + 1)", "Arrays|outside"),
]  # fmt: skip
MODULE = {products: "builder", loaders: "load", gather: "gatherer"}


@pytest.mark.parametrize(
    ("module", "run", "old", "new", "error"), FAULTS, ids=[f"{fault[3].strip()}" for fault in FAULTS]
)
def test_a_planted_fault_is_caught(rng, mutant, module, run, old, new, error):
    with pytest.raises((EmulationError, AssertionError), match=error):
        run(rng, **{MODULE[module]: mutant(module, old, new)})


def test_the_unplanted_kernel_passes_what_the_faults_are_shown(rng, mutant):
    built = {module: mutant(module, "import", "import") for module in MODULE}
    for module, run in dict.fromkeys((module, run) for module, run, *_ in FAULTS):
        run(rng, **{MODULE[module]: built[module]})


def test_parts_cover_every_term(rng):
    """A part more, or one k-tile less a part, would lose or add terms: all ones add up to k."""
    ones = np.ones((1, 40, 4), np.float32)
    for parts in (1, 2, 4):
        tile, k_part = TINY, math.ceil(5 / parts) * 8
        memory, record = operand("rows", ones, 0)
        partial = np.full((parts, 4, 4), np.nan, np.float32)
        kernel, place = products.gemm_kernel(tile, loaders.ROWS, loaders.ROWS), Place(1, 4, 4, 0, 0, 1, 0, 0, 16)
        launch(
            kernel.function, grid_of(tile, 4, 4, 1, parts), kernel.threads, memory, memory, partial, nothing(tile),
            nothing(tile), NO_INTS, record, record, place, place, Sizes(4, 4, 40, k_part, 1), 1.0, 0.0, -np.inf, np.inf,
        )  # fmt: skip
        np.testing.assert_array_equal(
            partial[:, 0, 0], [min(40, (p + 1) * k_part) - min(40, p * k_part) for p in range(parts)]
        )
