"""The same loops in another order.

Compared with the step before: the loop over j is the inner one, because it walks along rows of B and of C. All 64 bytes
of a line are used, 16 times fewer lines are fetched, and the processor fetches the next ones ahead. What is added up in
the inner loop goes to n different sums that do not wait for each other: LLVM makes vectors of it, 16 elements in 512
bits.

The price: the sum is no longer in a register. A multiply-add loads b and c and stores c: 3 accesses for 2 operations.
And B, 4·k·n bytes, passes by once for every row of A.
"""

from numbaconv.jit import compiled
from numbaconv.ladder.words import sizes


@compiled
def gemm(a, b, out):
    m, n, k = sizes(a, b, out)
    for i in range(m):
        for j in range(n):
            out[i, j] = 0
        for p in range(k):
            a_ip = a[i, p]
            for j in range(n):
                out[i, j] += a_ip * b[p, j]
    return out
