"""Images as matrices, for the lowerings whose operands are the input or the output as they lie in memory."""

from __future__ import annotations

import functools

import numpy as np

from numbaconv.accounts import GemmCall, weights_plan
from numbaconv.gemm import Axis, Matrix, Operands, PackedMatrix, Source
from numbaconv.gemm.axes import UNBROKEN
from numbaconv.workspace import address_of


@functools.cache
def operands(side: str, by_pixels: bool, c_rows: bool = True) -> Operands:
    """The operands of a product whose operand `side` is packed weights.

    `by_pixels`: the other operand's pixels are contiguous, or else its terms; `c_rows`: so are the result's rows.
    """
    if side == "a":
        return Operands(a_packed=True, b_rows=by_pixels, c_rows=c_rows)
    return Operands(b_packed=True, a_rows=not by_pixels, c_rows=c_rows)


def pixel_axis(image: np.ndarray) -> Axis:
    """The pixels of an image (…, rows, columns) as one axis."""
    rows, columns = image.shape[-2:]
    step_row, step = image.strides[-2:]
    if columns == 1:
        return Axis(step_row)
    return Axis(step, UNBROKEN if rows == 1 or step_row == columns * step else columns, step_row)


def channels_by_pixels(image: np.ndarray) -> Matrix:
    """An image (channels, rows, columns), or several (images, channels, rows, columns), as channels x pixels.

    Several images need their rows to follow one another in memory: an axis has two levels, no third.
    """
    pixels = pixel_axis(image)
    if image.ndim == 4 and len(image) > 1:
        pixels = Axis(pixels.step, image.shape[2] * image.shape[3], image.strides[0])
    return Matrix(address_of(image), Axis(image.strides[-3]), pixels, image)


def weights_call(problem, pixels: int, k: int, count: int, by_pixels: bool | None = None) -> GemmCall:
    """`count` products of a group's weights, oc/g channels with k terms each, with so many pixels, into the output.

    NCHW makes channels x pixels, NHWC pixels x channels. `by_pixels` as in ``operands``; the layout's, unless given.
    """
    nchw = problem.layout == "nchw"
    by_pixels = nchw if by_pixels is None else by_pixels
    sides = (problem.ocg, pixels) if nchw else (pixels, problem.ocg)
    return GemmCall(*sides, k, count, operands("ba"[nchw], by_pixels))


def pack_weights(problem, request, matrices, gemm_calls) -> list[PackedMatrix]:
    """Pack weights, each a matrix (channels x terms), as the operand of the first product that takes its like."""
    packed = []
    for w in matrices:
        plan = _plan_to_pack_for(gemm_calls, *w.shape, problem, request)
        operand = "a" if plan.operands.a_packed else "b"
        packed.append(plan.pack(operand, Matrix.of(w if operand == "a" else w.T), request.num_threads))
    return packed


@functools.lru_cache(1024)
def _plan_to_pack_for(gemm_calls, channels: int, k: int, problem, request):
    return weights_plan(gemm_calls(problem, request), channels, k, problem, request)


def group(problem, x: np.ndarray, g: int) -> np.ndarray:
    """Group `g`'s channels of an input (mb, ic, ih, iw)."""
    return x[:, g * problem.icg : (g + 1) * problem.icg]


def tap_major(problem, w: np.ndarray) -> np.ndarray:
    """Weights (oc, ic/g, kh, kw) as each group's matrix (oc/g x K), a tap's channels side by side."""
    p = problem
    by_group = w.reshape(p.g, p.ocg, p.icg, p.kh, p.kw).transpose(0, 1, 3, 4, 2)
    return by_group.reshape(p.g, p.ocg, p.K)


def multiply_weights(
    ctx, weights: PackedMatrix, source: Matrix | Source, g: int, out, residual, by_pixels: bool | None = None
) -> None:
    """Group `g`'s channels of `out` = weights · source (k x pixels) + `residual`, epilogue included.

    `out` and `residual` are the same part of the output and of what is added to it, all channels. A ``Source`` packs
    the pixels in the role that the layout gives them: as B in NCHW, as A in NHWC. `by_pixels` as in ``weights_call``.
    """
    ocg = ctx.problem.ocg
    channels = slice(g * ocg, (g + 1) * ocg)
    part = out[..., channels, :, :]
    call = weights_call(ctx.problem, part.size // ocg, weights.shape[weights.operand == "a"], 1, by_pixels)
    target = channels_by_pixels(part)
    extra = None if residual is None else channels_by_pixels(residual[..., channels, :, :])
    if weights.operand == "a":
        left, right, finish = weights, source, ctx.finish("rows", channels, extra)
    else:
        left = source.transposed if isinstance(source, Matrix) else source
        right, target = weights, target.transposed
        finish = ctx.finish("columns", channels, extra.transposed if extra else None)
    ctx.multiply_as(call.m, call.n, call.k, left, right, target, call.operands, finish=finish)
