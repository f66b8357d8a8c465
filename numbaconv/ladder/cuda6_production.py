"""Production: what nc.gemm(a, b, device="cuda") runs.

Compared with the step before: the same loop, with what a library needs around it, because a kernel for all shapes must
not stand still for any of them.

* A lies with k downwards, as B does (packed once where enough columns meet it): the fragments of a step of k are 2 + 2
  loads of 128 bits, and a warp's lanes lie 8 x 4, not 2 x 16. For its 64 x 32 sums a warp then reads 64 + 32 different
  floats a step of k instead of 16 + 128.
* Three slots instead of two: copies have the time of two tiles to arrive.
* All multiply-adds of a tile are written out as one word (``devices.register_tile``), which neither Numba nor NVVM does
  by itself: no index arithmetic is left between them.
* The tile, 128 x 128 or 64 x 64, and the parts into which k is cut are chosen by the product's shape
  (``gemm.cuda_plan``), so that small products fill the GPU, too: counted on a small product, its loads for each
  multiply-add may be more than the step before has.
* Any strides, batches, bias, residual and activation in the last store, TF32 on tensor cores where asked for.

``kernel`` is the one for large matrices; ``gemm/cuda.py`` is where it is written.
"""

from numbaconv import products
from numbaconv.gemm.cuda import gemm_kernel
from numbaconv.gemm.cuda_loaders import ROWS
from numbaconv.gemm.cuda_tile import LARGE

kernel = gemm_kernel(LARGE, ROWS, ROWS, "columns", None, False)  # the tile, how A and B lie, nothing added


def gemm(a, b, out):
    return products.gemm(a, b, out=out, device="cuda")
