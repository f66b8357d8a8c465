"""im2col: one matrix product.

Write down, for each output pixel, the patch of the input that it sees, as a column: ic·kh·kw numbers. All outputs of
all channels are then one product, and a GEMM exists.

     image                    patches  (ic·kh·kw x oh·ow)
    ┌──────────────┐          pixel: 0  1  2 ...
    │ ▒▒▒▒         │   copy  tap 0 │▒  ░        │       w (oc x ic·kh·kw)      out (oc x oh·ow)
    │ ▒▒▒▒░░       │  ─────►     1 │▒  ░        │      ┌──────────────┐        ┌─────────────┐
    │ ▒▒▒▒░░       │             2 │▒  ░        │      │              │  ·  =  │             │
    │              │           ... │▒  ░        │      └──────────────┘        └─────────────┘
    └──────────────┘       neighbours' patches overlap: each pixel is written kh·kw times

Compared with the step before: fifty times as fast and more, because the same 115.6 million multiply-adds (64 channels,
3x3, 56 x 56) now run in GEMM's register tile, which uses each number it loads a dozen times and more, in vectors. The
question whether a tap lies inside is asked 1.8 million times, once for each number copied, instead of 115.6 million.
The price is memory: kh·kw times the input at stride 1, here 7.2 MB for an input of 0.80 MB, written and read again.

Paper: Chellapilla, Puri, Simard, "High performance convolutional neural networks for document processing" (2006).
Memory: 4·ic·kh·kw·oh·ow bytes, for an image at a time.    The production lowering: ``im2col``, which also copies in
parallel, in vectors and for any strides. Here and on all further steps one thread works, so that only lowering differs.
"""

import numpy as np

from numbaconv.jit import compiled
from numbaconv.ladder.conv_sizes import problem_of
from numbaconv.products import gemm

production = "im2col"


def lowering_bytes(p):
    """The patches of an image."""
    return 4 * p.ic * p.kh * p.kw * p.oh * p.ow


def conv(x, w, stride, padding, out):
    """Convolve x (mb, ic, ih, iw) with w (oc, ic, kh, kw) into out (mb, oc, oh, ow)."""
    p = problem_of(x, w, stride, padding, out)
    patches = np.empty((p.ic * p.kh * p.kw, p.oh * p.ow), np.float32)
    for n in range(p.mb):
        kernel(x[n], p.kh, p.kw, stride, padding, p.ow, patches)
        gemm(w.reshape(p.oc, -1), patches, out=out[n].reshape(p.oc, -1), num_threads=1)
    return out


@compiled
def kernel(image, kh, kw, stride, padding, ow, patches):
    """Row k = (c, r, s) of `patches`: the input pixel under that tap, for every output pixel."""
    ic, ih, iw = image.shape
    oh = patches.shape[1] // ow
    for c in range(ic):
        for r in range(kh):
            for s in range(kw):
                k = (c * kh + r) * kw + s
                for y in range(oh):
                    row = y * stride + r - padding
                    for z in range(ow):
                        column = z * stride + s - padding
                        inside = 0 <= row < ih and 0 <= column < iw
                        patches[k, y * ow + z] = image[c, row, column] if inside else 0
