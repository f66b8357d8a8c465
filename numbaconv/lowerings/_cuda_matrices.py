"""Weights and images as operands and results of CUDA products; and the lift stage on a GPU."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from numbaconv.accounts import GemmCall
from numbaconv.devices.copying import copy4, copy4_launch
from numbaconv.devices.cuda import runtime
from numbaconv.gemm.cuda import Place
from numbaconv.gemm.cuda_loaders import ROWS, STRIDED, STRIDED_ALONG_K, Rows, Strided
from numbaconv.gemm.cuda_plan import Operand, Result
from numbaconv.lift import LIMITS
from numbaconv.lift_cuda import Share, lift_kernel, lift_launch
from numbaconv.lowering_cuda import copy_array, image_place
from numbaconv.lowerings._cuda_gather import padded_channels


def vector_of(itemsize: int) -> int:
    """Elements in 128 bits."""
    return 16 // itemsize


def round_to(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def keep_weights(ctx, w, rows: int, columns: int, oc, c, r, s, multiple: int | None = None):
    """Weights (oc, icg, kh, kw) as each group's matrix of k rows, in zeros: (groups, rows, columns padded to 128 bits).

    `oc`, `c`, `r`, `s` say how far an output channel of the group, an input channel, a kernel row and a kernel column
    move on: (rows, columns).
    """
    p = ctx.problem
    pitch = round_to(columns, multiple or vector_of(w.itemsize))
    kept = ctx.keep((p.g, rows, pitch))
    into = [step[0] * pitch + step[1] for step in (oc, c, r, s)]
    ocg = w.shape[0] // p.g
    shape = (ocg, *w.shape[1:])
    steps = [step // w.itemsize for step in w.strides]
    for g in range(p.g if w.size else 0):
        grid, records = copy4_launch(shape, steps, into)
        part = w[g * ocg : (g + 1) * ocg]
        ctx.device.launch(copy4(w.itemsize), grid, (part, kept[g], *records), ctx.stream)
    return kept


def keep_copy(ctx, w):
    """Weights as they are, contiguous."""
    kept = ctx.keep(w.shape)
    copy_array(ctx.device, w, kept, ctx.stream)
    return kept


def tap_major(ctx, w, padded: int | None = None):
    """Weights as K x oc/g, a tap's channels side by side, `padded` of them (as ``padded_channels`` says)."""
    p = ctx.problem
    padded = padded or padded_channels(p.icg, p.kh * p.kw)
    return keep_weights(
        ctx, w, p.kh * p.kw * padded, p.ocg, oc=(0, 1), c=(1, 0), r=(p.kw * padded, 0), s=(padded, 0)
    )  # fmt: skip


def weights_operand(weights, first: int = 0) -> Operand:
    """Prepared weights (groups, rows, pitch) as an operand, from row `first` on."""
    _, rows, pitch = weights.shape
    return Operand(ROWS, Rows(pitch, rows * pitch), weights[:, first:] if first else weights)


def matrix_operand(memory, step_k: int, step: int, batch: int = 0) -> Operand:
    """A matrix in scratch as an operand: element (k, column) is at k·step_k + column·step."""
    vector = vector_of(memory.itemsize)
    if step == 1 and step_k % vector == 0 and batch % vector == 0 and memory.pointer % 16 == 0:
        return Operand(ROWS, Rows(step_k, batch), memory)
    return Operand(STRIDED_ALONG_K if step_k == 1 else STRIDED, Strided(step_k, step, batch), memory)


def image_call(problem, pixels: int, k: int, batch: int, rows: bool | None = None, split: bool = True) -> GemmCall:
    """A launch of `batch` products of weights, oc/g channels of k terms, with pixels, into the output.

    NCHW makes channels x pixels, NHWC pixels x channels, unless `rows` says whether channels are C's rows.
    """
    rows = problem.layout == "nchw" if rows is None else rows
    sides = (problem.ocg, pixels) if rows else (pixels, problem.ocg)
    return GemmCall(*sides, k, batch=batch, split=split)


def multiply_image(
    ctx,
    call: GemmCall,
    weights: Operand,
    source: Operand,
    out,
    residual,
    by_images: bool = False,
    rows: bool | None = None,
    **finish,
) -> None:
    """`out` (images, channels, rows, columns) = weights · source + epilogue in one launch.

    The products of its batch are groups, or `by_images` images. `rows` as ``image_call``'s, `finish` as
    ``CudaContext.finish``'s.
    """
    ocg = ctx.problem.ocg
    rows = ctx.problem.layout == "nchw" if rows is None else rows

    def placed(image) -> Result:
        images, channels, _, _ = (step // image.itemsize for step in image.strides)
        return Result(image, image_place(image, *((0, images) if by_images else (ocg, ocg * channels))))

    target, added = placed(out), None if residual is None else placed(residual)
    if rows:
        ctx.multiply(call, weights, source, target, "columns", ctx.finish("row", added, **finish))
    else:
        ctx.multiply(call, source, weights, target, "rows", ctx.finish("column", added, **finish))


def channels_times_pixels(
    ctx, call: GemmCall, weights, source: Operand, product, k_step: int, step: int, batch: int, rows: bool
):
    """`product` = weights · source without an epilogue: channels `k_step` and pixels `step` elements apart, groups
    `batch`; `rows`: channels are C's rows, else its columns."""
    if rows:
        place = Place(1, call.n, k_step, 0, 0, step, batch)
        ctx.multiply(call, weights, source, Result(product, place), "columns", ctx.finish("row", plain=True))
    else:
        place = Place(1, call.m, k_step, 0, 0, step, batch)
        ctx.multiply(call, source, weights, Result(product, place), "rows", ctx.finish("column", plain=True))


@functools.lru_cache(256)
def _kept_table(home, terms: tuple[Share, ...]):
    """Terms on a device, as ``lift_launch`` lays them out."""
    table = lift_launch((1, 1, 1, 1), (1, 1, 1, 1), terms)[1]
    kept = home.to_device(np.ascontiguousarray(table), None)
    home.synchronize(None)  # other streams will read it
    return kept


def lift(ctx, out, products, terms: Sequence[Share], residual=None, begin: bool = True, finish: bool = True) -> None:
    """``lift.lift`` on a GPU, all images at once: `terms` of `products` are added up into `out`."""
    steps = [step // out.itemsize for step in out.strides]
    added = None if residual is None or not finish else [step // out.itemsize for step in residual.strides]
    grid, _, records = lift_launch(out.shape, steps, terms, added, ctx.bias is not None, begin, finish)
    if grid is None:
        return
    low, high = LIMITS[ctx.request.epilogue.activation]
    table = _kept_table(runtime(ctx.device.device), tuple(terms))
    ctx.launch("lift", lift_kernel(out.itemsize), grid, table, products, out, ctx.bias, residual, *records, low, high)
