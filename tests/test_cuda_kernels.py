"""The CUDA kernels that are no product, emulated against the oracles."""

from __future__ import annotations

import itertools

import numpy as np
import oracles
import pytest
from cases import oracle, problem, whole

pytest.importorskip("greenlet", reason="the CUDA emulator runs on greenlets: pip install greenlet")

from cuda_memory import NOTHING, held, start, steps_of, untouched

from numbaconv import lift_cuda
from numbaconv.devices import copying
from numbaconv.devices.emulator import EmulationError
from numbaconv.division import band, cuts
from numbaconv.geometry import window_of
from numbaconv.lowerings import _cuda_direct as direct
from numbaconv.lowerings import _cuda_direct_jit as direct_jit
from numbaconv.lowerings import _cuda_patches as patches
from numbaconv.lowerings._taps import taps

LAYOUTS = ["nchw", "nhwc"]
NONE = -np.inf, np.inf

KINDS = {
    "primes": {"mb": 2, "ic": 3, "ih": 7, "iw": 5, "oc": 5, "kh": 3, "kw": 2},
    "1x1": {"mb": 2, "ic": 5, "ih": 3, "iw": 5, "oc": 11, "kh": 1, "kw": 1},
    "stride beyond the kernel": {"ic": 2, "ih": 9, "iw": 10, "oc": 3, "kh": 2, "kw": 1, "sh": 3, "sw": 4},
    "stride beyond the input": {"ic": 2, "oc": 3, "sh": 50, "sw": 60},
    "pads beyond the kernel": {"ic": 2, "ih": 3, "iw": 4, "oc": 3, "kh": 2, "kw": 3, "pad_top": 4, "pad_left": 3,
                               "pad_bottom": 5, "pad_right": 4},
    "taps that reach nothing": {"mb": 2, "ic": 2, "ih": 1, "iw": 2, "oc": 3, "pad_top": 2, "pad_left": 1, "sw": 2,
                                "pad_bottom": 1, "pad_right": 2},
    "dilation": {"ic": 2, "ih": 9, "iw": 10, "oc": 3, "dh": 2, "dw": 3, "pad_top": 2, "pad_left": 3},
    "dilation, stride": {"ic": 2, "ih": 11, "iw": 9, "oc": 3, "sh": 2, "sw": 3, "dh": 4, "dw": 2, "pad_top": 1},
    "groups": {"mb": 2, "ic": 4, "ih": 5, "iw": 4, "oc": 22, "g": 2, "kh": 2, "pad_top": 1, "pad_right": 2},
    "many blocks of channels": {"ic": 2, "ih": 3, "iw": 4, "oc": 43, "kh": 2, "kw": 2},
}  # fmt: skip
DEPTHWISE = {
    "3x3": {"mb": 2, "ic": 3, "ih": 9, "iw": 7, "oc": 3, "g": 3, "pad_top": 1, "pad_left": 1, "pad_right": 1},
    "two outputs a channel, strides": {"ic": 3, "ih": 11, "iw": 8, "oc": 6, "g": 3, "sh": 2, "sw": 3, "pad_left": 2},
    "7x7": {"ic": 2, "ih": 9, "iw": 5, "oc": 2, "g": 2, "kh": 7, "kw": 7, "pad_top": 3, "pad_left": 3, "pad_bottom": 4,
            "pad_right": 3},
    "1x1": {"ic": 5, "ih": 5, "iw": 3, "oc": 5, "g": 5, "kh": 1, "kw": 1},
    "stride beyond the kernel": {"ic": 2, "ih": 17, "iw": 9, "oc": 2, "g": 2, "kh": 2, "kw": 1, "sh": 5, "sw": 2},
    "stride beyond the input": {"ic": 2, "oc": 2, "g": 2, "sh": 50, "sw": 60},
    "dilation": {"ic": 2, "ih": 23, "iw": 9, "oc": 4, "g": 2, "dh": 3, "dw": 2, "pad_top": 3, "pad_left": 2},
    "dilation, strides": {"ic": 2, "ih": 27, "iw": 9, "oc": 2, "g": 2, "sh": 2, "dh": 3, "pad_top": 4, "kw": 2},
    "common factor": {"ic": 2, "ih": 33, "iw": 5, "oc": 2, "g": 2, "sh": 4, "dh": 6, "pad_top": 5, "kw": 1},
    "pads beyond the kernel": {"ic": 2, "ih": 2, "iw": 3, "oc": 2, "g": 2, "kh": 2, "pad_top": 5, "pad_bottom": 4,
                               "pad_left": 3, "pad_right": 4},
}  # fmt: skip


def check(memory, inside, want):
    np.testing.assert_array_equal(inside, want)
    untouched(memory, inside)


# --------------------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 1, 1), (3, 1, 4, 1), (2, 0, 3, 4), (13, 11, 3, 2)], ids=str)
@pytest.mark.parametrize(("source", "target"), [("nchw", "nhwc"), ("nhwc", "nchw"), ("nhwc", "nhwc")])
def test_copies_turn_one_memory_order_into_another(rng, itemsize, shape, source, target):
    values = whole(rng, *shape, dtype=f"f{itemsize}")
    (source_memory, x), (memory, out) = held(values, source), held(np.full_like(values, np.nan), target)
    grid, records = copying.copy4_launch(shape, steps_of(x), steps_of(out))
    assert (grid is None) == (values.size == 0)
    start(copying.copy4(itemsize), grid, source_memory, memory, *records)
    check(memory, out, values)


def test_a_few_blocks_copy_all_elements(rng, monkeypatch):
    monkeypatch.setattr(copying, "MOST_BLOCKS", 2)
    values, out = whole(rng, 5, 7, 11, 5), np.full((5, 7, 11, 5), np.nan, "f4")
    grid, records = copying.copy4_launch(values.shape, steps_of(values), steps_of(out))
    assert grid == (2,)
    assert records[0] == (1, 1, 1, values.size)  # one run
    start(copying.copy4(4), grid, values, out, *records)
    np.testing.assert_array_equal(out, values)


def test_neighbouring_threads_write_neighbouring_elements():
    sizes, steps, into = copying.copy4_launch((2, 3, 5, 7), (105, 35, 7, 1), (105, 1, 21, 3))[1]  # to channels last
    assert (sizes, steps, into) == ((1, 2, 35, 3), (0, 105, 1, 35), (0, 105, 3, 1))


def test_a_step_of_zero_repeats(rng):
    value, out = np.array([3.0], "f4"), np.full((2, 5), np.nan, "f4")
    grid, records = copying.copy4_launch((2, 5), (0, 0), (5, 1))
    start(copying.copy4(4), grid, value, out, *records)
    np.testing.assert_array_equal(out, np.full((2, 5), 3))


def test_what_32_bits_do_not_count_is_refused():
    with pytest.raises(ValueError, match="divide the problem"):
        copying.copy4_launch((1, 1, 1 << 16, 1 << 15), (0, 0, 1 << 15, 1), (0, 0, 1 << 15, 1))
    with pytest.raises(ValueError, match="divide the problem"):
        copying.copy4_launch((2, 2), (1 << 31, 1), (2, 1))


# -------------------------------------------------------------------------------------------------------- patches


def places(p):
    """(row of the patch matrix, its column, image, channel, input row, input column) of every element."""
    for n, y, z, r, s, c in np.ndindex(p.mb, p.oh, p.ow, p.kh, p.kw, p.ic):
        ih, iw = y * p.sh + r * p.dh - p.pad_top, z * p.sw + s * p.dw - p.pad_left
        yield (r * p.kw + s) * p.ic + c, (n * p.oh + y) * p.ow + z, n, c, ih, iw


def patch_matrix(p, x):
    """The definition: depth x pixels."""
    matrix = np.zeros((p.kh * p.kw * p.ic, p.mb * p.oh * p.ow), x.dtype)
    for k, pixel, n, c, ih, iw in places(p):
        if 0 <= ih < p.ih and 0 <= iw < p.iw:
            matrix[k, pixel] = x[n, c, ih, iw]
    return matrix


def write_patches(rng, p, layout, itemsize, form, builder=patches):
    memory, x = held(whole(rng, p.mb, p.ic, p.ih, p.iw, dtype=f"f{itemsize}"), layout)
    want, g = patch_matrix(p, x), window_of(p, x)
    depth, pixels = want.shape
    rows, columns = (depth, pixels) if form != "im2row" else (pixels, depth)
    out = np.full((rows, columns + 1), np.nan, x.dtype)
    step_k, step = (columns + 1, 1) if form != "im2row" else (1, columns + 1)
    if form == "scan":
        kernel, grid = builder.scalar_writer(itemsize), builder.scalar_grid(g, depth, pixels)
    else:
        kernel = builder.patch_writer(itemsize, form == "im2col")
        grid = builder.patch_grid(g, depth, pixels, form == "im2col")
    start(kernel, grid, memory, out, g, depth, pixels, step_k, step)
    check(out, out[:, :-1], want if form != "im2row" else want.T)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["im2col", "im2row", "scan"])
@pytest.mark.parametrize("kind", KINDS)
def test_patches(rng, kind, form, layout):
    write_patches(rng, problem(**KINDS[kind]), layout, 4 if layout == "nchw" else 8, form)


@pytest.mark.parametrize("form", ["im2col", "im2row"])
def test_patches_longer_than_a_run_and_deeper_than_a_block(rng, form):
    write_patches(rng, problem(mb=1, ic=37, ih=5, iw=7, kh=2, kw=3, pad_left=1), "nhwc", 4, form)


def test_no_images_have_no_patches(rng):
    p = problem(mb=0)
    g = window_of(p, np.zeros((0, p.ic, p.ih, p.iw), "f4"))
    assert patches.patch_grid(g, 27, 0, True) is None
    assert patches.scalar_grid(g, 27, 0) is None


def write_offsets(p, layout, builder=patches):
    x = held(np.zeros((p.mb, p.ic, p.ih, p.iw), "f4"), layout)[1]
    g = window_of(p, x)
    table, want = np.full((p.oh * p.ow, p.kh * p.kw), -7, np.int32), np.full((p.oh * p.ow, p.kh * p.kw), -1, np.int32)
    for k, pixel, n, c, ih, iw in places(p):
        if n == 0 and c == 0 and 0 <= ih < p.ih and 0 <= iw < p.iw:
            want[pixel, k // p.ic] = ih * g.x_h + iw * g.x_w
    start(builder.offset_writer(), builder.offset_grid(g), table, g)
    np.testing.assert_array_equal(table, want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_offsets(kind, layout):
    write_offsets(problem(**KINDS[kind]), layout)


# ----------------------------------------------------------------------------------------------------------- lift


def lifted(rng, p, layout, itemsize, begin=True, finish=True, has_bias=True, has_residual=True, activation=None,
           builder=lift_cuda):  # fmt: skip
    """A convolution as kn2row does it: a product for each tap, in rectangles, added up shifted."""
    dtype = f"f{itemsize}"
    x, w = whole(rng, p.mb, p.ic, p.ih, p.iw, dtype=dtype), whole(rng, p.oc, p.ic, p.kh, p.kw, dtype=dtype)
    biases, residual = whole(rng, p.oc, dtype=dtype), whole(rng, p.mb, p.oc, p.oh, p.ow, dtype=dtype)
    held_before = whole(rng, p.mb, p.oc, p.oh, p.ow, dtype=dtype) if not begin else np.full(residual.shape, np.nan)
    want = oracle(p, x, w) + (0 if begin else held_before)
    if finish:
        want = want + (biases[None, :, None, None] if has_bias else 0) + (residual if has_residual else 0)
        want = oracles.limit(want, activation)
    pieces, terms, place = [], [], 0
    for tap in taps(p):
        (y_0, y_1), (z_0, z_1) = tap.rows, tap.columns
        rows = slice(y_0 * p.sh + tap.down, (y_1 - 1) * p.sh + tap.down + 1, p.sh)
        columns = slice(z_0 * p.sw + tap.right, (z_1 - 1) * p.sw + tap.right + 1, p.sw)
        product = np.einsum("kc,nchw->nkhw", w[:, :, tap.r, tap.s], x[:, :, rows, columns])
        memory, inside = held(product, layout)
        terms.append(builder.Share(place, *steps_of(inside), 0, p.oc, y_0, y_1, z_0, z_1))
        pieces.append(memory.reshape(-1))
        place += memory.size
    (memory, out), (added_memory, added) = held(held_before.astype(dtype), layout), held(residual, layout)
    grid, table, records = builder.lift_launch(
        out.shape, steps_of(out), terms, steps_of(added) if has_residual else None, has_bias, begin, finish
    )
    start(builder.lift_kernel(itemsize), grid, table, np.concatenate([*pieces, NOTHING[itemsize]]), memory,
          biases if has_bias else NOTHING[itemsize], added_memory if has_residual else NOTHING[itemsize], *records,
          *oracles.ACTIVATIONS[activation])  # fmt: skip
    check(memory, out, want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "groups"])
def test_shifted_products_make_a_convolution(rng, kind, layout):
    lifted(rng, problem(**KINDS[kind]), layout, 8 if layout == "nchw" else 4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("begin", [False, True])
@pytest.mark.parametrize("finish", [False, True])
@pytest.mark.parametrize(("has_bias", "has_residual", "activation"), [(0, 0, "relu"), (1, 0, "relu6"), (0, 1, None)])
def test_lifting_in_pieces(rng, layout, begin, finish, has_bias, has_residual, activation):
    p = problem(mb=2, ic=2, ih=5, iw=13, oc=7, pad_top=1)
    lifted(rng, p, layout, 4, begin, finish, has_bias, has_residual, activation)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_terms_of_some_channels_are_added_in_their_order(layout):
    memory, out = held(np.full((1, 5, 2, 3), np.nan, "f4"), layout)
    big, products = 2.0**24, np.array([2.0**24, 1.0, -(2.0**24), 1.0], "f4")
    terms = [lift_cuda.Share(place, 0, 0, 0, 0, 1, 4, 0, 2, 1, 3) for place in range(4)]
    grid, table, records = lift_cuda.lift_launch(out.shape, steps_of(out), terms)
    kernel, nothing = lift_cuda.lift_kernel(4), NOTHING[4]
    start(kernel, grid, table, products, memory, nothing, nothing, *records, *NONE)
    want = np.zeros(out.shape)
    want[:, 1:4, :, 1:3] = np.float32(np.float32(np.float32(big) + np.float32(1)) - np.float32(big)) + 1
    check(memory, out, want)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_epilogue_alone_keeps_a_nan(rng, layout):
    values, biases = whole(rng, 2, 3, 4, 5), whole(rng, 3)
    values[1, 2, 3, 4] = np.nan
    memory, out = held(values, layout)
    grid, table, records = lift_cuda.lift_launch(out.shape, steps_of(out), [], None, True, begin=False)
    start(lift_cuda.lift_kernel(4), grid, table, NOTHING[4], memory, biases, NOTHING[4], *records, 0.0, 6.0)
    np.testing.assert_array_equal(out, oracles.limit(values + biases[:, None, None], "relu6"))
    assert np.isnan(out[1, 2, 3, 4])


def test_nothing_to_lift():
    assert lift_cuda.lift_launch((0, 3, 4, 5), (60, 20, 5, 1), [])[0] is None


# ---------------------------------------------------------------------------------------- convolutions at once


def direct_weights(oc: int, icg: int, taps: int, groups: int, channels: int):
    """Shape of the packed weights, and the arguments of ``copy4_launch`` that pack (oc, icg, kh, kw) into zeros.

    They are (groups, taps, icg, oc / groups padded to a multiple of `channels`).
    """
    ocg = oc // groups
    shape = (groups, taps, icg, -(-ocg // channels) * channels)
    into = (taps * icg * shape[3], icg * shape[3], shape[3], 1)
    return shape, ((groups, taps, icg, ocg), (ocg * icg * taps, 1, taps, icg * taps), into)


def convolve(rng, p, layout, form, itemsize=4, has_bias=True, has_residual=True, activation=None, rows=4,
             builder=direct, w=None, knowing=direct_jit):  # fmt: skip
    dtype = f"f{itemsize}"
    (memory_x, x), fast = held(whole(rng, p.mb, p.ic, p.ih, p.iw, dtype=dtype), layout), layout == "nchw"
    w = whole(rng, p.oc, p.ic // p.g, p.kh, p.kw, dtype=dtype) if w is None else w
    biases, residual = whole(rng, p.oc, dtype=dtype), whole(rng, p.mb, p.oc, p.oh, p.ow, dtype=dtype)
    want = oracle(p, x, w, biases if has_bias else None, residual if has_residual else None, activation)
    memory, out = held(np.full(residual.shape, np.nan, dtype), layout)
    added_memory, added = held(residual, layout)
    g, o = window_of(p, x, ic=p.ic // p.g), builder.image_of(out)
    r = builder.image_of(added) if has_residual else builder.NO_IMAGE
    flags = int(has_bias), int(has_residual)
    if form == "reference":
        t = builder.Task(p.mb, p.oc // p.g, *flags)
        kernel, grid, weights = builder.reference_kernel(itemsize), builder.reference_grid(o, t), w
    elif form in ("direct", "direct-jit"):
        t = builder.direct_task(p.mb, p.g, p.oc, 8, fast, *flags)
        known = builder.NOTHING_KNOWN if form == "direct" else knowing.known_of(g, t)
        kernel, grid = builder.direct_kernel(itemsize, 8, fast, known), builder.direct_grid(o, t, 8)
        shape, sides = direct_weights(p.oc, p.ic // p.g, p.kh * p.kw, p.g, 8)
        weights, (copies, records) = np.zeros(shape, dtype), copying.copy4_launch(*sides)
        start(copying.copy4(itemsize), copies, w, weights, *records)
    else:
        steps = (p.kh * p.kw, 1) if fast else (1, p.oc)
        t = builder.Task(p.mb, p.oc // p.g, *flags, w_k=steps[0], w_tap=steps[1])
        kernel = builder.depthwise_kernel(itemsize, p.kh, p.kw, p.sh, p.sw, p.dh, p.dw, rows, not fast)
        grid = builder.depthwise_grid(o, t, p.sh, p.dh, rows)
        flat = w.reshape(p.oc, -1)
        weights = flat if fast else np.ascontiguousarray(flat.T)
    epilogue = biases if has_bias else NOTHING[itemsize], added_memory if has_residual else NOTHING[itemsize]
    start(kernel, grid, memory_x, weights, memory, *epilogue, g, o, r, t, *oracles.ACTIVATIONS[activation])
    check(memory, out, want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["reference", "direct", "direct-jit"])
@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_without_a_product(rng, kind, form, layout):
    convolve(rng, problem(**KINDS[kind]), layout, form, itemsize=4 if form != "reference" or layout == "nchw" else 8)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [1, 3, 4])
@pytest.mark.parametrize("kind", DEPTHWISE)
def test_depthwise(rng, kind, rows, layout):
    convolve(rng, problem(**DEPTHWISE[kind]), layout, "depthwise", itemsize=8 if rows == 3 else 4, rows=rows)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["reference", "direct", "direct-jit", "depthwise"])
@pytest.mark.parametrize(("has_bias", "has_residual", "activation"), [(0, 0, "relu"), (1, 0, "relu6"), (0, 1, None)])
def test_the_store_of_a_convolution(rng, form, layout, has_bias, has_residual, activation):
    p = problem(mb=2, ic=3, ih=5, iw=6, oc=6, g=3, pad_top=1)
    convolve(rng, p, layout, form, 8, has_bias, has_residual, activation)


@pytest.mark.parametrize("form", ["reference", "direct", "depthwise"])
def test_a_nan_goes_where_its_weight_goes(rng, form):
    w = np.ones((4, 1, 3, 3), np.float32)
    w[2, 0, 1, 1] = np.nan
    convolve(rng, problem(ic=4, ih=4, iw=5, oc=4, g=4), "nchw", form, activation="relu6", w=w)


@pytest.mark.parametrize(("pads", "kernels"), [({}, 1), ({"pad_top": 1, "pad_bottom": 1}, 2), ({"pad_right": 1}, 1)])
def test_parts_of_a_problem_share_their_kernels(pads, kernels):
    p = problem(mb=7, ih=20, iw=6, **pads)
    x, made = np.zeros((p.mb, p.ic, p.ih, p.iw), "f4"), set()
    for images, (row, rows) in itertools.product((2, 1), cuts(p.oh, 4)):
        input_rows, part = band(p, row, rows)
        g, t = window_of(part, x[:images, :, input_rows]), direct.direct_task(images, 1, 4, 8, True, True, False)
        made.add(direct.direct_kernel(4, 8, True, direct_jit.known_of(g, t)))
    assert len({kernel.name for kernel in made}) == len(made) == kernels


def test_no_images_and_no_kernel():
    o = direct.Image(4, 5, 6, 120, 30, 6, 1)
    assert direct.reference_grid(o, direct.Task(0, 4)) is None
    assert direct.direct_grid(o, direct.direct_task(0, 1, 4, 8, True, False, False), 8) is None
    assert direct.depthwise_grid(o, direct.Task(0, 1), 1, 1, 4) is None
    with pytest.raises(ValueError, match="8 x 11 taps"):
        direct.depthwise_kernel(4, 8, 11, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="read 25 values"):
        direct.depthwise_kernel(4, 13, 1, 3, 1, 1, 1, 5)


# ------------------------------------------------------------------------------------------------- planted faults


def depthwise_of(kind):
    return lambda rng, builder: convolve(rng, problem(**DEPTHWISE[kind]), "nchw", "depthwise", builder=builder)


def convolution_of(kind, layout="nchw", form="direct"):
    return lambda rng, builder: convolve(rng, problem(**KINDS[kind]), layout, form, builder=builder)


def known_of(kind):
    return lambda rng, knowing: convolve(rng, problem(**KINDS[kind]), "nchw", "direct-jit", knowing=knowing)


def patches_of(kind, form):
    return lambda rng, builder: write_patches(rng, problem(**KINDS[kind]), "nchw", 4, form, builder)


def lift_of(kind, **changes):
    return lambda rng, builder: lifted(rng, problem(**KINDS[kind]), "nchw", 4, builder=builder, **changes)


def copy_of(rng, builder):
    (source, x), (target, out) = held(whole(rng, 2, 3, 5, 7), "nchw"), held(np.full((2, 3, 5, 7), np.nan, "f4"), "nhwc")
    grid, records = builder.copy4_launch(x.shape, steps_of(x), steps_of(out))
    start(builder.copy4(4), grid, source, target, *records)
    check(target, out, x)
    x, out = whole(rng, 4, 5), np.full((4, 5), np.nan, "f4")
    grid, records = builder.copy4_launch(x.shape, (5, 1), (5, 1))
    start(builder.copy4(4), grid, x, out, *records)
    np.testing.assert_array_equal(out, x)


def epilogue_of(rng, builder):
    values = whole(rng, 2, 3, 4, 5)
    values[1, 2, 3, 4] = np.nan
    grid, table, records = builder.lift_launch(values.shape, steps_of(values), [], begin=False)
    want = oracles.limit(values, "relu6")
    start(builder.lift_kernel(4), grid, table, NOTHING[4], values, NOTHING[4], NOTHING[4], *records, 0.0, 6.0)
    np.testing.assert_array_equal(values, want)


FAULTS = [
    (copying, "target[int32(a * into.a", "target[int32(a * steps.a", copy_of),
    (copying, "(merged[-1][0] * size, step, into)", "(merged[-1][0] * size, *merged[-1][1:])", copy_of),
    (patches, "c, s = int32(0), int32(s + 1)", "s = int32(s + 1)", patches_of("primes", "im2col")),
    (patches, "if y == g.oh:", "if y > g.oh:", patches_of("primes", "im2row")),
    (patches, "if i < left and ih >= 0", "if ih >= 0", patches_of("1x1", "im2row")),
    (patches, "value = real(0)\n            if ih >= 0 and", "value = real(0)\n            if",
     patches_of("pads beyond the kernel", "scan")),
    (patches, "offset = int32(-1)", "offset = int32(0)",
     lambda rng, builder: write_offsets(problem(**KINDS["dilation"]), "nhwc", builder)),
    (lift_cuda, "z < z_end", "z <= z_end", lift_of("taps that reach nothing")),
    (lift_cuda, "+ n * table[t + 1]", "", lift_of("primes")),
    (lift_cuda, "if value < low:", "if not value >= low:", epilogue_of),
    (direct, "int32(udiv32(k, t.ocg)) * g.ic", "int32(0)", convolution_of("groups", form="reference")),
    (direct, "(group * t.ocg + first + j)", "(group * t.padded + first + j)", convolution_of("groups")),
    (direct, "* t.span + lane) * channels", "+ lane) * channels", convolution_of("many blocks of channels", "nhwc")),
    (direct_jit, "int32(sh), int32(sw)", "int32(sw), int32(sh)", known_of("dilation, stride")),
    (direct_jit, "rows and columns", "rows or columns", known_of("dilation, stride")),
    (direct, "ih_0 + (int32(udiv32(i, pitch)) * leap", "ih_0 + (int32(udiv32(i, pitch)) * pitch",
     depthwise_of("stride beyond the kernel")),
    (direct, "int32(top + j * apart)", "int32(top + j)", depthwise_of("dilation")),
    (direct, "if y < g.oh:", "if True:", depthwise_of("two outputs a channel, strides")),
]  # fmt: skip


@pytest.mark.parametrize(("module", "old", "new", "run"), FAULTS, ids=[f"{new.strip()}" for _, _, new, _ in FAULTS])
def test_a_planted_fault_is_seen(rng, mutant, module, old, new, run):
    with pytest.raises((AssertionError, EmulationError)):
        run(rng, mutant(module, old, new))


def test_without_a_fault_the_same_checks_pass(rng, mutant):
    for module, old, _, run in FAULTS:
        run(rng, mutant(module, old, old))
