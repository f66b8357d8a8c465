"""What a product is made of: matrices in memory, packed matrices, sources of one's own, and the epilogue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from numbaconv.errors import ShapeError
from numbaconv.gemm.axes import UNBROKEN
from numbaconv.gemm.schedule import Schedule
from numbaconv.jit import Native
from numbaconv.workspace import address_of


class Axis(NamedTuple):
    """Bytes between neighbours of a matrix's axis; with `inner`, a break after every `inner` elements.

    Element i is ``i // inner * outer + i % inner * step`` bytes after the first.
    """

    step: int
    inner: int = UNBROKEN
    outer: int = 0

    def extent(self, length: int) -> int:
        """Bytes from the first to the last of `length` elements (positive steps)."""
        last = length - 1
        return last // self.inner * self.outer + min(last, self.inner - 1) * self.step


def same_breaks(c: Axis, r: Axis) -> tuple[Axis, Axis]:
    """An axis of the result and of what is added to it, broken at the same elements.

    Raises
    ------
    ShapeError
        When both are broken, and differently.
    """
    if c.inner == r.inner:
        return c, r
    if r.inner >= UNBROKEN:
        return c, Axis(r.step, c.inner, c.inner * r.step)
    if c.inner >= UNBROKEN:
        return Axis(c.step, r.inner, r.inner * c.step), r
    raise ShapeError(f"residual: its axis breaks every {r.inner} elements, the result's every {c.inner}")


@dataclass(slots=True)
class Matrix:
    """A matrix in memory: `address` of its first element, its two axes, and what keeps the memory alive."""

    address: int
    rows: Axis
    columns: Axis
    keep: Any = None

    @classmethod
    def of(cls, array: np.ndarray) -> Matrix:
        """A 2-D array with any strides."""
        rows, columns = array.strides
        return cls(address_of(array), Axis(rows), Axis(columns), array)

    @property
    def transposed(self) -> Matrix:
        return Matrix(self.address, self.columns, self.rows, self.keep)


@dataclass(slots=True)
class Source:
    """An operand that its own packer produces (``gemm.pack`` has the signature): it need never exist in memory.

    `address` is handed to the packer as it is; `keep` is what lives there. Where that is a record that holds one
    address, of an image, in its first eight bytes, then `record` may say so: the product can be recorded then.
    """

    packer: Native
    address: int
    keep: Any = None
    record: np.ndarray | None = None


def strided(matrix: Matrix, is_a: bool) -> tuple[int, ...]:
    """The ``pack.STRIDED`` record of a matrix in memory, as A (rows against columns) or B (columns against rows)."""
    x, k = (matrix.rows, matrix.columns) if is_a else (matrix.columns, matrix.rows)
    return matrix.address, x.step, x.inner, x.outer, k.step, k.inner, k.outer


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """An operand packed once for many products: weights.

    Parameters
    ----------
    operand : {"a", "b"}
        Which side of the product it is.
    shape : tuple of int
        Rows and columns of the matrix that was packed.
    data : ndarray
        Its panels; `nbytes` of memory are kept. Behind those in bf16 lie its float32 panels.
    schedule : Schedule
        What it was packed for: give it as `fixed` to the plan of another product.
    plain : PackedMatrix, optional
        Its float32 panels, where it was split into bf16.
    """

    operand: str
    shape: tuple[int, int]
    dtype: np.dtype
    data: np.ndarray
    schedule: Schedule
    plain: PackedMatrix | None = field(default=None, compare=False)
    address: int = field(init=False)
    kind: tuple = field(init=False)
    tag: tuple = field(init=False)
    """Orientation, panels, depth of block, k and dtype: what a product checks."""

    def __post_init__(self):
        tag = tag_of(self.operand, self.schedule, self.shape[self.operand == "a"], self.dtype)
        object.__setattr__(self, "tag", tag)
        object.__setattr__(self, "address", address_of(self.data))
        object.__setattr__(self, "kind", (self.shape, self.operand, self.dtype, self.schedule))

    @property
    def nbytes(self) -> int:
        return self.data.nbytes


def tag_of(operand: str, schedule: Schedule, k: int, dtype: np.dtype) -> tuple:
    """What a packed operand must have been cut for to be of use in a product."""
    cut = schedule.a_cut if (operand == "a") != schedule.swap else schedule.b_cut
    return operand, schedule.swap, cut, schedule.blocking.kc, k, dtype, schedule.arithmetic


@dataclass(slots=True)
class Finish:
    """What happens to the sums in the last store: clamp(alpha·c + row_bias + col_bias + residual, low, high).

    Biases are contiguous 1-D arrays of the product's dtype, one element a row or a column.
    """

    alpha: float = 1.0
    row_bias: np.ndarray | None = None
    col_bias: np.ndarray | None = None
    residual: Matrix | None = None
    low: float = -np.inf
    high: float = np.inf
    keep: Any = field(default=None)

    @property
    def trivial(self) -> bool:
        absent = self.row_bias is None and self.col_bias is None and self.residual is None
        return absent and self.alpha == 1.0 and self.low == -np.inf and self.high == np.inf

    @property
    def transposed(self) -> Finish:
        residual = self.residual.transposed if self.residual else None
        return Finish(self.alpha, self.col_bias, self.row_bias, residual, self.low, self.high)
