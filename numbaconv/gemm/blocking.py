"""Block sizes: which part of a product is held in registers, in L1, in L2 and in L3.

After the analytical model of Low et al., "Analytical Modeling Is Enough for High-Performance BLIS" (TOMS 2016),
with two changes. Our micro-kernel fetches both panels ahead, so only the narrow panel of A (mr x kc) has to stay in L1
while the wide panel of B streams from L2. And B's block stays in L2 beside A's: each thread packs its own, there is no
barrier, and the A that is read again for every block of B costs little (4 bytes for 2·nc operations).

    mr x nr    registers    accumulators + one row of B + one broadcast
    mr x kc    L1           two thirds of it
    mc x kc    L2           an eighth of it: A streams, B is what is used again
    kc x nc    L2           half of it, and never more than a core's share of L3
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from numbaconv.gemm.micro import max_rows, max_vectors
from numbaconv.machine import Machine, detect

KC_MOST = 512
L1_FOR_A, L2_FOR_A, L2_FOR_B = 2 / 3, 1 / 8, 1 / 2


@dataclass(frozen=True)
class Blocking:
    """Block sizes of a GEMM, in elements.

    Parameters
    ----------
    mr, nr : int
        The largest micro-tile: rows, and columns (a multiple of the vector length). Panels are cut as evenly as
        possible, so most tiles are this large or one row, or one vector, smaller.
    kc : int
        Steps of k between two looks at C.
    mc, nc : int
        Rows of A and columns of B that stay in cache together.
    """

    mr: int
    nr: int
    kc: int
    mc: int
    nc: int

    def validate(self, dtype: np.typing.DTypeLike = np.float32, machine: Machine | None = None) -> Blocking:
        """Return self.

        Raises
        ------
        ValueError
            When a size is not positive, `nr` is no whole number of vectors, or the tile does not fit into registers.
        """
        machine = machine or detect()
        lanes = machine.lanes(dtype)
        for name in ("mr", "nr", "kc", "mc", "nc"):
            if getattr(self, name) < 1:
                raise ValueError(f"blocking: {name} must be at least 1, got {getattr(self, name)}")
        if self.nr % lanes:
            raise ValueError(f"blocking: nr must be a multiple of the {lanes} lanes of a vector, got {self.nr}")
        nv, registers = self.nr // lanes, machine.vector_registers
        if nv > max_vectors(registers) or self.mr > max_rows(nv, registers):
            fits = ", ".join(f"{max_rows(v, registers)} x {v * lanes}" for v in range(1, max_vectors(registers) + 1))
            raise ValueError(f"blocking: a tile of {self.mr} x {self.nr} spills; the largest that fit are {fits}")
        return self


def even(length: int, most: int) -> int:
    """The smallest size of equal parts, none above `most`, that `length` can be cut into with so few of them."""
    parts = -(-length // most)
    return -(-length // parts) if length else most


def block_depth(k: int, size: int, machine: Machine, rows: int | None = None) -> int:
    """kc: as deep as A's panel, `size` bytes a row, may be in L1, cut evenly; from the shape and the machine alone.

    It decides the bits of the result.
    """
    least = 4 if rows else 16
    rows = rows or max_rows(3, machine.vector_registers)
    most = min(KC_MOST, int(L1_FOR_A * machine.l1d_bytes) // (rows * size) // least * least)
    return -(-even(k, max(least, most)) // 4) * 4


def analytical(
    m: int, n: int, k: int, dtype: np.typing.DTypeLike, nv: int, machine: Machine | None = None, direct: bool = False,
    step_bytes: int | None = None, most_rows: int | None = None,
) -> Blocking:  # fmt: skip
    """The model's blocking for a product of m x k by k x n whose tile is `nv` vectors wide.

    Parameters
    ----------
    m, n, k : int
        Sizes of the product.
    dtype : dtype
        float32 or float64.
    nv : int
        Vectors in a row of the micro-tile.
    machine : Machine, optional
        This one, unless given.
    direct : bool
        Whether A is read where it lies.
    step_bytes : int, optional
        Bytes of one row's step in a panel; those of an element, unless given.
    most_rows : int, optional
        Of a micro-tile of tile registers; what fits into registers, unless given.
    """
    machine = machine or detect()
    size, lanes = step_bytes or np.dtype(dtype).itemsize, machine.lanes(dtype)
    mr = even(m, most_rows or max_rows(nv, machine.vector_registers, direct))
    nr = even(-(-n // lanes), nv) * lanes
    kc = block_depth(k, size, machine, most_rows)
    mc = max(mr, int(L2_FOR_A * machine.l2_bytes) // (kc * size))
    nc = max(nr, min(int(L2_FOR_B * machine.l2_bytes), machine.l3_share) // (kc * size))
    return Blocking(mr, nr, kc, even(m, mc) if m else mc, even(n, nc) if n else nc)
