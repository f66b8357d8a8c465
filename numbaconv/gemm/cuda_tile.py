"""How a CUDA block divides a product among its threads, and what follows for grids, memory and sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

LANES_M, LANES_N = 8, 4
GROUP = 8  # rows of tiles that are worked on together, so that they find B in L2
REGISTERS, SHARED_BYTES = 65536, 48 * 1024


@dataclass(frozen=True)
class Tile:
    """How a block works.

    Attributes
    ----------
    bm, bn, bk : int
        The block's tile of C, and the depth of the tiles of A and B in shared memory.
    mr, nr : int
        The sums of one thread.
    stages : int
        Tiles in shared memory, of which all but one are being copied (cp.async, sm_80 and later); 0: two, the next one
        on its way through registers.
    blocks : int
        Blocks that shall fit on a multiprocessor: bounds a thread's registers.
    """

    bm: int
    bn: int
    bk: int
    mr: int
    nr: int
    stages: int
    blocks: int

    def __post_init__(self):
        warp_m, warp_n = LANES_M * self.mr, LANES_N * self.nr
        if self.mr % 4 or self.nr % 4 or self.bm % warp_m or self.bn % warp_n:
            raise ValueError(f"{self}: no whole number of warps of {warp_m} x {warp_n}")
        if self.stages == 1 or self.stages < 0:
            raise ValueError(f"{self}: stages must be 0 or at least 2")
        for width in (self.bm, self.bn):
            if self.threads % (width // 4) or self.bk % (self.threads // (width // 4)):
                raise ValueError(f"{self}: {self.threads} threads cannot copy {self.bk} x {width} in whole steps")
        if self.shared_bytes > SHARED_BYTES:
            raise ValueError(f"{self}: {self.shared_bytes} bytes of shared memory, at most {SHARED_BYTES}")

    @property
    def threads(self) -> int:
        return self.bm * self.bn // (self.mr * self.nr)

    @property
    def slots(self) -> int:
        return self.stages or 2

    @property
    def shared_bytes(self) -> int:
        return 4 * self.slots * self.bk * (self.bm + self.bn)


LARGE, LARGE_STAGED = Tile(128, 128, 16, 8, 8, 3, 2), Tile(128, 128, 16, 8, 8, 0, 2)
SMALL, SMALL_STAGED = Tile(64, 64, 16, 8, 4, 3, 4), Tile(64, 64, 16, 8, 4, 0, 4)


@dataclass(frozen=True)
class Kernel:
    """A kernel as it is compiled, emulated and launched.

    `blocks` of its blocks of `threads` threads fit on a multiprocessor: at most REGISTERS / (threads * blocks) each.
    """

    function: Callable
    signature: object
    threads: int
    blocks: int

    @property
    def registers(self) -> int:
        """The most that a thread may have."""
        return min(255, REGISTERS // (self.threads * self.blocks))


def sgemm_grid(tile: Tile, m: int, n: int) -> tuple[int]:
    """Blocks for an m x n result."""
    return (-(-m // tile.bm) * -(-n // tile.bn),)


def check_sizes(tile: Tile, m: int, n: int, k: int, lda: int, ldb: int, ldc: int):
    """Raise ValueError unless every index of the product fits into 32 bits and 128-bit copies are aligned."""
    if lda % 4 or ldb % 4 or lda < m or ldb < n or ldc < n:
        raise ValueError(f"strides {lda}, {ldb}, {ldc} of operands {k} x {m}, {k} x {n} and {m} x {n}")
    rows = k + (tile.slots + 1) * tile.bk  # copies of nothing are started beyond k
    if max(rows * max(lda + tile.bm, ldb + tile.bn), (m + tile.bm) * (ldc + tile.bn)) >= 2**31:
        raise ValueError(f"{m} x {k} x {n} with strides {lda}, {ldb}, {ldc} is too large for 32-bit indices")
