"""Images as matrices, for the lowerings whose operands are the input or the output as they lie in memory."""

from __future__ import annotations

import numpy as np

from numbaconv.gemm import Axis, Matrix, Operands, PackedMatrix, Source
from numbaconv.gemm.axes import UNBROKEN
from numbaconv.lowering import weights_plan
from numbaconv.workspace import address_of

A_PACKED, B_PACKED = Operands(a_packed=True), Operands(b_packed=True)
"""The products of prepared weights: A in NCHW, B in NHWC."""


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


def pack_weights(problem, request, matrices, gemm_calls) -> list[PackedMatrix]:
    """Pack each group's weights, (oc/g x k) matrices, as A (NCHW) or, transposed, as B (NHWC) of the first product."""
    calls = [call for call in gemm_calls(problem, request) if call.macs]
    if not calls:
        return []
    plan = weights_plan(calls[0], problem, request)
    operand = "a" if calls[0].operands.a_packed else "b"
    return [
        plan.pack(operand, Matrix.of(w if operand == "a" else w.T), request.num_threads)
        for w in np.asarray(matrices)
    ]  # fmt: skip


def products(ctx, x: np.ndarray, packed: list[PackedMatrix], out: np.ndarray) -> None:
    """out = W · x for every image and group, where x (mb, channels, rows, columns) has one pixel for each of out's."""
    problem = ctx.problem
    for n in range(out.shape[0]):
        for g, weights in enumerate(packed):
            source = channels_by_pixels(x[n, g * problem.icg : (g + 1) * problem.icg])
            multiply_weights(ctx, weights, source, g, out[n], None if ctx.residual is None else ctx.residual[n])


def multiply_weights(ctx, weights: PackedMatrix, source: Matrix | Source, g: int, out, residual) -> None:
    """Group `g`'s channels of `out` = weights · source (k x pixels) + `residual`, epilogue included.

    `out` and `residual` are the same part of the output and of what is added to it, all channels. A ``Source`` packs
    the pixels in the role that the layout gives them: as B in NCHW, as A in NHWC.
    """
    ocg = ctx.problem.ocg
    channels = slice(g * ocg, (g + 1) * ocg)
    part = out[..., channels, :, :]
    pixels = part.size // ocg
    target = channels_by_pixels(part)
    extra = None if residual is None else channels_by_pixels(residual[..., channels, :, :])
    if weights.operand == "a":
        finish = ctx.finish("rows", channels, extra)
        ctx.multiply_as(ocg, pixels, weights.shape[1], weights, source, target, A_PACKED, finish=finish)
        return
    finish = ctx.finish("columns", channels, extra.transposed if extra else None)
    source = source.transposed if isinstance(source, Matrix) else source
    ctx.multiply_as(pixels, ocg, weights.shape[0], source, weights, target.transposed, B_PACKED, finish=finish)
