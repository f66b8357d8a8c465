"""The library's own.

Compared with the step before: this is ``numbaconv.gemm`` itself, because the ladder ends at the real thing. The loops
are the same five; what is added takes a few percent each: block sizes from a model of the caches, tiles cut evenly so
that none is a sliver, panels fetched ahead of their use, operands read in place where packing them would not pay, any
strides, bias and activation in the last store, a pool of threads that take tasks as they come free, and products of few
columns as inner products at the memory's speed.
"""

from numbaconv.products import gemm

__all__ = ["gemm"]
