"""Winograd F(2x2, 3x3): 16 products for 36.

Four neighbouring outputs of a 3x3 kernel read the same 4 x 4 pixels. One by one they take 4 · 9 = 36 multiply-adds for
each channel; transformed, 16 suffice, one for each of the 16 numbers of a tile.

    tile d, 4 x 4       v = Bᵀ·d·B         16 products            m, 4 x 4        2 x 2 outputs
    ┌─────────┐         ┌─────────┐   m[i,j] = u[i,j] · v[i,j]   ┌─────────┐        ┌────┐
    │▒▒▒▒░░   │  lower  │         │  (oc x ic) · (ic x tiles)    │         │  lift  │▓▓▓▓│ = Aᵀ·m·A
    │▒▒▒▒░░   │ ──────► │         │ ───────────────────────────► │         │ ─────► │▓▓▓▓│
    │▒▒▒▒░░   │         └─────────┘   u = G·w·Gᵀ of the weights  └─────────┘        └────┘
    └─────────┘ tiles overlap by two pixels

Compared with the step before: 51.4 million multiply-adds instead of 115.6 (64 channels, 3x3, 56 x 56), because 16 stand
for 36. The transforms only add and subtract, and need nothing of each other's channels, so they are few: 32 + 24
additions a tile and channel. That gains not 2.25 times, but a tenth to two fifths: v and m are four times the input
and four times the output, 6.4 MB, written and read again, and the transforms run for so many bytes. For one small image
with many channels it gains least: u is 16/9 of the weights, transformed in every call.

Sums of transformed numbers round differently; F(2x2) stays as exact as the definition, larger tiles do not.

Paper: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308 (2015).
Memory: 4·16·(ic + oc)·tiles bytes, and the image in a frame.    The production lowering: ``winograd-f2``, which
transforms some tiles, multiplies and lifts them before they leave the cache: that is about twice as fast as this step.
"""

import numpy as np

from numbaconv.errors import UnsupportedProblem
from numbaconv.jit import compiled
from numbaconv.ladder.conv_sizes import framed, problem_of
from numbaconv.products import gemm

production = "winograd-f2"


def lowering_bytes(p):
    """The image in its frame, its transformed tiles and their products."""
    rows, columns = -(-p.oh // 2), -(-p.ow // 2)
    return 4 * (p.ic * (2 * rows + 2) * (2 * columns + 2) + 16 * (p.ic + p.oc) * rows * columns)


def conv(x, w, stride, padding, out):
    """Convolve x (mb, ic, ih, iw) with w (oc, ic, 3, 3) into out (mb, oc, oh, ow), at stride 1."""
    p = problem_of(x, w, stride, padding, out)
    if (p.kh, p.kw, stride) != (3, 3, 1):
        raise UnsupportedProblem(
            f"winograd: F(2x2, 3x3) takes kernels of 3x3 at stride 1, not {p.kh}x{p.kw} at stride {stride}; use "
            "another step, such as direct"
        )
    rows, columns = -(-p.oh // 2), -(-p.ow // 2)
    u = np.empty((4, 4, p.oc, p.ic), np.float32)
    v = np.empty((4, 4, p.ic, rows, columns), np.float32)
    m = np.empty((4, 4, p.oc, rows, columns), np.float32)
    transform_weights(w, u)
    for n in range(p.mb):
        kernel(framed(x[n], padding, 2 * rows + 2, 2 * columns + 2), v)
        for i in range(4):
            for j in range(4):
                gemm(u[i, j], v[i, j].reshape(p.ic, -1), out=m[i, j].reshape(p.oc, -1), num_threads=1)
        lift(m, out[n])
    return out


@compiled
def transform_weights(w, u):
    """u = G·w·Gᵀ, where G = [1 0 0; ½ ½ ½; ½ -½ ½; 0 0 1]."""
    oc, ic = w.shape[:2]
    half = np.float32(0.5)
    t = np.empty((4, 3, ic), np.float32)
    for o in range(oc):
        for s in range(3):
            for c in range(ic):
                a, b, d = w[o, c, 0, s], w[o, c, 1, s], w[o, c, 2, s]
                t[0, s, c], t[1, s, c], t[2, s, c], t[3, s, c] = a, half * (a + b + d), half * (a - b + d), d
        for i in range(4):
            for c in range(ic):
                a, b, d = t[i, 0, c], t[i, 1, c], t[i, 2, c]
                u[i, 0, o, c], u[i, 1, o, c] = a, half * (a + b + d)
                u[i, 2, o, c], u[i, 3, o, c] = half * (a - b + d), d


@compiled
def kernel(frame, v):
    """v = Bᵀ·d·B of every tile d, 4 x 4 pixels, two pixels apart; Bᵀ = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1]."""
    ic, rows, columns = v.shape[2:]
    width = frame.shape[2]
    t = np.empty((4, width), np.float32)
    for c in range(ic):
        for y in range(rows):
            for z in range(width):
                a, b = frame[c, 2 * y, z], frame[c, 2 * y + 1, z]
                d, e = frame[c, 2 * y + 2, z], frame[c, 2 * y + 3, z]
                t[0, z], t[1, z], t[2, z], t[3, z] = a - d, b + d, d - b, b - e
            for i in range(4):
                for z in range(columns):
                    a, b, d, e = t[i, 2 * z], t[i, 2 * z + 1], t[i, 2 * z + 2], t[i, 2 * z + 3]
                    v[i, 0, c, y, z], v[i, 1, c, y, z], v[i, 2, c, y, z], v[i, 3, c, y, z] = a - d, b + d, d - b, b - e


@compiled
def lift(m, out):
    """out = Aᵀ·m·A, two by two pixels a tile; Aᵀ = [1 1 1 0; 0 1 -1 -1]."""
    oc, rows, columns = m.shape[2:]
    oh, ow = out.shape[1:]
    t = np.empty((4, columns), np.float32)
    for o in range(oc):
        for y in range(rows):
            for i in range(min(2, oh - 2 * y)):
                for j in range(4):
                    for z in range(columns):
                        b, d = m[1, j, o, y, z], m[2, j, o, y, z]
                        t[j, z] = m[0, j, o, y, z] + b + d if i == 0 else b - d - m[3, j, o, y, z]
                for z in range(columns):
                    b, d = t[1, z], t[2, z]
                    out[o, 2 * y + i, 2 * z] = t[0, z] + b + d
                    if 2 * z + 1 < ow:
                        out[o, 2 * y + i, 2 * z + 1] = b - d - t[3, z]
