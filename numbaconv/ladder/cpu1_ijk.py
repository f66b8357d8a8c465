"""Three loops.

Compared with the step before: there is none; this is the definition. Every element of C is the inner product of a row
of A and a column of B, 2·k operations.

It is slow for two reasons. A column of B lies n elements apart: of every line of 64 bytes that the cache fetches, 4
bytes are used, and by the time the next column needs the line's next element, k other lines have passed. So B crosses
from the far cache 16 times as often as it would have to: 64 bytes for 2 operations. And all sums go into one scalar:
each addition waits 3 or 4 cycles for the one before, and since LLVM may not reorder floating-point sums, it makes no
vectors of them.
"""

import numpy as np

from numbaconv.jit import compiled
from numbaconv.ladder.words import sizes


@compiled
def gemm(a, b, out):
    m, n, k = sizes(a, b, out)
    for i in range(m):
        for j in range(n):
            total = np.float32(0)
            for p in range(k):
                total += a[i, p] * b[p, j]
            out[i, j] = total
    return out
