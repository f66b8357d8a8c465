"""kn2row-aa: a product for every tap, added up in place.

Turn the sum inside out: a convolution is the sum of kh·kw convolutions by 1x1, one for each tap, and a 1x1 convolution
is a product of matrices that lie in memory already. A tap reads the image shifted by its place in the kernel; GEMM adds
to the rectangle of the output that it reaches.

    for each tap (r, s):   out  ┌───────────┐     += w[r, s] (oc x ic)  ·   x  ┌───────────┐
                                │▓▓▓▓▓▓▓▓▓  │                                  │           │
                                │▓▓▓▓▓▓▓▓▓  │                                  │  ▒▒▒▒▒▒▒▒▒│
                                │           │                                  │  ▒▒▒▒▒▒▒▒▒│
                                └───────────┘      channels x pixels           └───────────┘

Compared with the step before: no patch is ever written, not even a block of them, because GEMM reads the pixels of a
rectangle where they lie (a matrix whose columns have two steps: to the next pixel, and to the next row). Taps that lie
in the padding are not multiplied: 2 % fewer multiply-adds. But it is no faster, and with few channels up to a quarter
slower: k, the depth of a product, is ic instead of ic·kh·kw, so the output is read and written kh·kw times, 14.5 MB
instead of 0.8 (64 channels, 3x3, 56 x 56). From 256 channels on it is within a tenth. What it buys is memory: it takes
none.

Paper: Anderson, Vasudevan, Keane, Gregg, "Low-memory GEMM-based convolution algorithms for deep neural networks",
arXiv 1709.03395 (2017); there the whole image is shifted and what wraps around its edges is undone ("hole punching").
Memory: 0.    The production lowering: ``kn2row-aa``, which keeps strips of the output in cache from tap to tap.
"""

import numpy as np

from numbaconv.gemm import Axis, Matrix
from numbaconv.ladder.conv_sizes import problem_of
from numbaconv.product_plans import plan_for
from numbaconv.workspace import address_of, checked_out

production = "kn2row-aa"


def lowering_bytes(p):
    """Of rearranged input: nothing is."""
    return 0


def conv(x, w, stride, padding, out):
    """Convolve x (mb, ic, ih, iw) with w (oc, ic, kh, kw) into out (mb, oc, oh, ow)."""
    p = problem_of(x, w, stride, padding, out)
    taps = np.ascontiguousarray(w.transpose(2, 3, 0, 1))  # (kh, kw, oc, ic)
    out[...] = 0
    for r in range(p.kh):
        top, rows = reached(p.ih, p.oh, r, stride, padding)
        for s in range(p.kw):
            left, columns = reached(p.iw, p.ow, s, stride, padding)
            if rows and columns:
                for n in range(p.mb):
                    seen = x[n, :, top * stride + r - padding :, left * stride + s - padding :]
                    add_product(taps[r, s], pixels(seen, columns, stride), pixels(out[n, :, top:, left:], columns, 1),
                                rows * columns)  # fmt: skip
    return out


def reached(size, outputs, tap, stride, padding):
    """(first, count) of the outputs whose tap lies inside the input: 0 <= output·stride + tap - padding < size."""
    first = max(0, -((tap - padding) // stride))
    end = min(outputs, (size - 1 - tap + padding) // stride + 1)
    return first, max(0, end - first)


def pixels(picture, columns, stride):
    """The pixels of (channels, rows, columns), every `stride`-th, as a matrix: channels by pixels, nothing copied."""
    channel, row, column = picture.strides
    return Matrix(address_of(picture), Axis(channel), Axis(column * stride, columns, row * stride), picture)


def add_product(a, b, c, n):
    """c += a · b, where b and c have n columns."""
    (m, k), a = a.shape, Matrix.of(a)
    plan = plan_for(m, n, k, np.dtype(np.float32), 1, a, b, c, None)
    with checked_out(plan.panel_bytes) as arena:
        plan.run(a, b, c, arena.address, accumulate=True)
