"""Implicit GEMM: patches a block at a time.

GEMM never needs all patches at once. So lower a few rows of output, multiply them while they are still in the cache,
and write the next ones over them.

     image               patches of some rows                  out
    ┌──────────┐        (ic·kh·kw x rows·ow), in L2           ┌───────────┐
    │▒▒▒▒▒▒▒▒▒▒│ lower  ┌─────────┐    w  (packed once)       │▓▓▓▓▓▓▓▓▓▓▓│
    │░░░░░░░░░░│ ─────► │▒▒▒▒▒▒▒▒▒│  · ┌──────────────┐  ───► │           │ then the same
    │          │        └─────────┘    └──────────────┘       │           │ for the next rows
    └──────────┘                                              └───────────┘

Compared with the step before: the memory is gone, because the 7.2 MB of patches (64 channels, 3x3, 56 x 56) become a
block of 1.0 MB that is used seven times (with an L2 cache of 1 MB): no larger, however large the image. The
multiply-adds are the same. On one thread the time is about the same as well, within a seventh either way: building
patches is but a tenth of it, and what the cache gives the thinner products take back. What is gained is the room, and
14 MB less of traffic to a memory that all threads share.

Paper: Chetlur et al., "cuDNN: Efficient Primitives for Deep Learning", arXiv 1410.0759 (2014).
Memory: 4·ic·kh·kw·rows·ow bytes, rows so that it fits.    The production lowering: ``implicit-gemm``, which finds the
patches inside GEMM's own packing (packed panels are copies anyway), so it needs no block of its own: that is faster.
"""

import numpy as np

from numbaconv.dense import prepack_a
from numbaconv.jit import compiled
from numbaconv.ladder.conv_sizes import problem_of
from numbaconv.machine import detect
from numbaconv.products import gemm

production = "implicit-gemm"


def lowering_bytes(p):
    """The patches of a block of rows."""
    depth = p.ic * p.kh * p.kw
    return 4 * depth * p.ow * min(block_rows(depth * p.ow), p.oh)


def conv(x, w, stride, padding, out):
    """Convolve x (mb, ic, ih, iw) with w (oc, ic, kh, kw) into out (mb, oc, oh, ow)."""
    p = problem_of(x, w, stride, padding, out)
    depth = p.ic * p.kh * p.kw
    rows = min(block_rows(depth * p.ow), p.oh)
    patches = np.empty((depth, rows * p.ow), np.float32)
    weights = prepack_a(w.reshape(p.oc, depth), rows * p.ow, num_threads=1)
    for n in range(p.mb):
        for y in range(0, p.oh, rows):
            block = patches[:, : min(rows, p.oh - y) * p.ow]
            kernel(x[n], p.kh, p.kw, stride, padding, p.ow, y, block)
            gemm(weights, block, out=out[n].reshape(p.oc, -1)[:, y * p.ow :][:, : block.shape[1]], num_threads=1)
    return out


def block_rows(row_elements):
    """As many rows of output as have patches no larger than the L2 cache; GEMM goes through them piece by piece."""
    return max(1, detect().l2_bytes // (4 * row_elements))


@compiled
def kernel(image, kh, kw, stride, padding, ow, first, patches):
    """Row k = (c, r, s) of `patches`: the input pixel under that tap, for the output pixels from row `first` on."""
    ic, ih, iw = image.shape
    oh = patches.shape[1] // ow
    for c in range(ic):
        for r in range(kh):
            for s in range(kw):
                k = (c * kh + r) * kw + s
                for y in range(oh):
                    row = (first + y) * stride + r - padding
                    for z in range(ow):
                        column = z * stride + s - padding
                        inside = 0 <= row < ih and 0 <= column < iw
                        patches[k, y * ow + z] = image[c, row, column] if inside else 0
