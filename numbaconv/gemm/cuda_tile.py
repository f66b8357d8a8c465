"""How a CUDA block divides a product among its threads, and what follows for shared memory and grids."""

from __future__ import annotations

from dataclasses import dataclass, replace

LANES_M, LANES_N = 8, 4
GROUP = 8  # rows of tiles that are worked on together, so that they find B in L2
SHARED_BYTES = 48 * 1024
VECTOR_BYTES = 16
DEPTH = 16  # bk of every tile below: what is laid out for a tile's depth fits all
ARITHMETIC = {"fma": 1, "tf32": 1, "tf32x3": 3}
"""Multiply-adds, or tensor-core products of operands rounded to TF32, one or three for each product."""


@dataclass(frozen=True)
class Tile:
    """How a block works.

    Attributes
    ----------
    bm, bn, bk : int
        The block's tile of C, and the depth of the tiles of A and B in shared memory.
    mr, nr : int
        The sums of one thread; a warp's tile is 8·mr x 4·nr.
    stages : int
        Tiles in shared memory, of which all but one are being copied (cp.async, sm_80 and later); 0: two, the next one
        on its way through registers.
    blocks : int
        Blocks that shall fit on a multiprocessor: bounds a thread's registers.
    itemsize : int
        4: float32, 8: float64.
    pad : int
        Elements between the rows of a tile in shared memory: 4 where rows are written element by element along k, 8
        where tensor cores read them, so that neighbours lie in different banks.
    arithmetic : {"fma", "tf32", "tf32x3"}
    """

    bm: int
    bn: int
    bk: int
    mr: int
    nr: int
    stages: int
    blocks: int
    itemsize: int = 4
    pad: int = 0
    arithmetic: str = "fma"

    def __post_init__(self):
        warp_m, warp_n = LANES_M * self.mr, LANES_N * self.nr
        group = 2 if self.tensor else self.vector
        if self.mr % group or self.nr % group or self.bm % warp_m or self.bn % warp_n:
            raise ValueError(f"{self}: no whole number of warps of {warp_m} x {warp_n}")
        if self.stages == 1 or self.stages < 0:
            raise ValueError(f"{self}: stages must be 0 or at least 2")
        if self.arithmetic not in ARITHMETIC or (self.tensor and (self.itemsize != 4 or self.bk % 8)):
            raise ValueError(f"{self}: tensor cores take float32, eight deep; arithmetic is one of {list(ARITHMETIC)}")
        if self.pad % self.vector:
            raise ValueError(f"{self}: rows padded by {self.pad} elements are not aligned to {VECTOR_BYTES} bytes")
        for width in (self.bm, self.bn):
            vectors = width // self.vector
            if self.threads % vectors or self.bk % (self.threads // vectors):
                raise ValueError(f"{self}: {self.threads} threads cannot copy {self.bk} x {width} in whole steps")
        if self.shared_bytes > SHARED_BYTES:
            raise ValueError(f"{self}: {self.shared_bytes} bytes of shared memory, at most {SHARED_BYTES}")

    @property
    def tensor(self) -> bool:
        """Whether tensor cores multiply."""
        return self.arithmetic != "fma"

    @property
    def vector(self) -> int:
        """Elements in 128 bits."""
        return VECTOR_BYTES // self.itemsize

    @property
    def threads(self) -> int:
        return self.bm * self.bn // (self.mr * self.nr)

    @property
    def slots(self) -> int:
        return self.stages or 2

    @property
    def pitches(self) -> tuple[int, int]:
        """From row to row of the tiles of A and B in shared memory, in elements."""
        return self.bm + self.pad, self.bn + self.pad

    @property
    def shared_bytes(self) -> int:
        return self.itemsize * self.slots * self.bk * sum(self.pitches)

    @property
    def least(self) -> tuple[int, int]:
        """The first compute capability that runs it."""
        return (8, 0) if self.stages or self.tensor else (7, 5)

    @property
    def name(self) -> str:
        depth = f"s{self.stages}" if self.stages else "staged"
        block = f"{self.bm}x{self.bn}x{self.bk}_{self.mr}x{self.nr}_b{self.blocks}"
        return f"{block}_{depth}_f{8 * self.itemsize}_p{self.pad}_{self.arithmetic}"

    def staged(self) -> Tile:
        """Through registers, for GPUs without asynchronous copies."""
        blocks = max(1, self.blocks - 1) if self.pad else self.blocks  # element by element takes more registers
        return replace(self, stages=0, blocks=blocks)

    def padded(self) -> Tile:
        """With rows that are written along k without two threads meeting in a bank; two stages, to fit."""
        return self if self.pad else replace(self, pad=4, stages=min(self.stages, 2))


LARGE = Tile(128, 128, DEPTH, 8, 8, 3, 2)
SMALL = Tile(64, 64, DEPTH, 8, 4, 3, 4)
LARGE_STAGED, SMALL_STAGED = LARGE.staged(), SMALL.staged()
DOUBLE = Tile(64, 64, DEPTH, 8, 4, 3, 3, itemsize=8)
TENSOR_LARGE = Tile(128, 128, DEPTH, 8, 16, 2, 2, pad=8, arithmetic="tf32")
TENSOR_SMALL = Tile(64, 64, DEPTH, 4, 8, 2, 4, pad=8, arithmetic="tf32")
# Both parts of operands take registers: fewer blocks.
TENSOR3_LARGE = Tile(128, 128, DEPTH, 8, 8, 2, 1, pad=8, arithmetic="tf32x3")
TENSOR3_SMALL = replace(TENSOR_SMALL, blocks=3, arithmetic="tf32x3")


def grid_of(tile: Tile, m: int, n: int, batch: int = 1, parts: int = 1) -> tuple[int, int, int]:
    """Blocks for `batch` results of m x n, each in `parts` parts of k."""
    return -(-m // tile.bm) * -(-n // tile.bn), batch, parts
