"""Seven loops.

Convolution as it is defined: every output pixel of every output channel is the sum, over the input channels and the
kernel's rows and columns, of an input pixel times a weight.

       x[n]  ic planes             w[o]  ic planes           out[n]  plane o
    ┌ ─ ─ ─ ─ ─ ─ ─ ─ ┐
      ┌─────────────┐
    │ │  ┌───────┐  │ │  times,     ┌───────┐     summed      ┌──────────┐
      │  │window │  │    one by    │kh x kw│   ───────────►  │    ▪     │
    │ │  └───────┘  │ │  one        └───────┘                 │  (y, z)  │
      └─────────────┘                                         └──────────┘
    └ ─ ─ ─ ─ ─ ─ ─ ─ ┘ padding: zeros, of which none is stored

Compared with the step before: there is none; this is what the others have to agree with, and it is slow because each
multiply-add costs two loads and the question whether the tap lies inside, and waits for the sum of the one before
(float32 sums may not be reordered, so the compiler makes no vectors of them). A 3x3 layer of 64 channels at 56 x 56
has mb·oc·oh·ow·ic·kh·kw = 115.6 million multiply-adds on 0.80 MB of input and 0.15 MB of weights: each number could be
used a thousand times when it is once loaded, and is loaded anew every time.

Memory: nothing but the arrays.    The production lowering that stayed this plain: ``reference``.
"""

import numpy as np

from numbaconv.jit import compiled
from numbaconv.ladder.conv_sizes import problem_of

production = "reference"


def lowering_bytes(p):
    """Of rearranged input: nothing is."""
    return 0


def conv(x, w, stride, padding, out):
    """Convolve x (mb, ic, ih, iw) with w (oc, ic, kh, kw) into out (mb, oc, oh, ow)."""
    problem_of(x, w, stride, padding, out)
    kernel(x, w, stride, padding, out)
    return out


@compiled
def kernel(x, w, stride, padding, out):
    mb, ic, ih, iw = x.shape
    mb, oc, oh, ow = out.shape
    kh, kw = w.shape[2:]
    for n in range(mb):
        for o in range(oc):
            for y in range(oh):
                for z in range(ow):
                    total = np.float32(0)
                    for c in range(ic):
                        for r in range(kh):
                            for s in range(kw):
                                row, column = y * stride + r - padding, z * stride + s - padding
                                if 0 <= row < ih and 0 <= column < iw:
                                    total += x[n, c, row, column] * w[o, c, r, s]
                    out[n, o, y, z] = total
