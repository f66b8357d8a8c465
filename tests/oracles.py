"""What the answers are: plain loops in float64, sharing no code with the package and calling no BLAS.

Each function takes arrays of any dtype and strides and returns float64. With small whole numbers as inputs every sum is
exact in float32 too, so a result can be asked to be *equal*.
"""

from __future__ import annotations

import numpy as np

ACTIVATIONS = {None: (-np.inf, np.inf), "relu": (0.0, np.inf), "relu6": (0.0, 6.0)}


def limit(values, activation):
    """relu(v) = v if v > 0 else 0, relu6 also at most 6; a NaN stays one."""
    low, high = ACTIVATIONS[activation]
    values = np.where(values < low, low, values)
    return np.where(values > high, high, values)


def matmul(a, b, magnitudes: bool = False, precision=np.float64):
    """(..., m, k) x (..., k, n), one outer product after the other; or the product of the magnitudes.

    To judge float64 itself, `precision` is numpy.longdouble.
    """
    a, b = np.asarray(a, precision), np.asarray(b, precision)
    if magnitudes:
        a, b = np.abs(a), np.abs(b)
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    total = np.zeros(shape, precision)
    with np.errstate(invalid="ignore"):  # infinity times zero, infinity less infinity: NaN, as it should be
        for p in range(a.shape[-1]):
            total += a[..., :, p, None] * b[..., None, p, :]
    return total


def running_matmul(a, b):
    """The product as one running sum of fused multiply-adds in the operands' precision: "direct float32".

    A product is taken in the next wider format, where that of two float32 is exact, and rounded once, with the sum.
    """
    wide = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}[a.dtype]
    total = np.zeros((a.shape[0], b.shape[1]), a.dtype)
    for p in range(a.shape[1]):
        total = (total.astype(wide) + a[:, p, None].astype(wide) * b[None, p, :].astype(wide)).astype(a.dtype)
    return total


def gemm(a, b, out=None, alpha=1.0, beta=0.0, bias=None, residual=None, activation=None, product=None):
    """activation(alpha · a · b + beta · out + bias + residual); `out` is not read when beta is 0.

    `product` is ``matmul(a, b)``, where it is known already.
    """
    product = matmul(a, b) if product is None else product
    total = alpha * product if alpha else np.zeros(product.shape)
    if beta:
        total = total + beta * np.asarray(out, np.float64)
    for term in (bias, residual):
        if term is not None:
            total = total + np.asarray(term, np.float64)
    return limit(total, activation)


def conv2d(
    x, w, bias=None, stride=(1, 1), pads=(0, 0, 0, 0), dilation=(1, 1), groups=1, residual=None, activation=None
):
    """x (mb, ic, ih, iw) by w (oc, ic/groups, kh, kw); pads are (top, left, bottom, right)."""
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    (mb, ic, ih, iw), (oc, icg, kh, kw) = x.shape, w.shape
    (sh, sw), (dh, dw), (top, left, bottom, right) = stride, dilation, pads
    assert icg * groups == ic
    framed = np.zeros((mb, ic, top + ih + bottom, left + iw + right))
    framed[:, :, top : top + ih, left : left + iw] = x
    oh = (framed.shape[2] - (kh - 1) * dh - 1) // sh + 1
    ow = (framed.shape[3] - (kw - 1) * dw - 1) // sw + 1
    out = np.zeros((mb, oc, oh, ow))
    for g in range(groups):
        kernels = slice(g * oc // groups, (g + 1) * oc // groups)
        channels = framed[:, g * icg : (g + 1) * icg]
        for r in range(kh):
            for s in range(kw):
                for c in range(icg):
                    shifted = np.empty((mb, oh, ow))
                    for y in range(oh):
                        for z in range(ow):
                            shifted[:, y, z] = channels[:, c, y * sh + r * dh, z * sw + s * dw]
                    out[:, kernels] += w[kernels, c, r, s][None, :, None, None] * shifted[:, None]
    if bias is not None:
        out += np.asarray(bias, np.float64)[None, :, None, None]
    if residual is not None:
        out += np.asarray(residual, np.float64)
    return limit(out, activation)
