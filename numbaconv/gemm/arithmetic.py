"""What multiplies: float32 multiply-adds, or bf16 products of float32 numbers that were split into parts.

    x = part 0 + part 1 (+ part 2)        part 0 = bf16(x), part 1 = bf16(x - part 0), each part of what is left

    bf16      one product, part 0 · part 0                            error 2e-3     precision "medium"
    bf16x3    three: all but part 1 · part 1 of two parts             error 4e-6     precision "high"
    bf16x6    six: those of three parts whose numbers add up to 2     as float32     precision "highest"

Sums are float32. Products follow one another in the order of ``CHAINS``: neighbours share an operand, which is loaded
once for both. Processors with bf16 products take two neighbours along k at a time, as two bf16 in 4 bytes: a *pair*.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

import numpy as np

from numbaconv.devices.amx import has_tiles, permitted
from numbaconv.errors import DeviceUnavailable
from numbaconv.machine import Machine, detect

CHAINS = {1: ((0, 0),), 3: ((0, 1), (0, 0), (1, 0)), 6: ((2, 0), (1, 0), (1, 1), (0, 1), (0, 2), (0, 0))}
"""(part of A, part of B) of each product, in order."""
BACKENDS = ("fma", "avx512bf16", "emulated", "amx", "amx-emulated")
FORCED = "NUMBACONV_BF16"
"""The variable that makes every precision run on a backend of that name, as tests do; "off" is none."""


@dataclass(frozen=True)
class Arithmetic:
    """Products for each product of float32, and what computes them.

    Parameters
    ----------
    products : {0, 1, 3, 6}
        Of bf16; 0 are float32 multiply-adds.
    backend : str
        One of ``BACKENDS``: "avx512bf16" is the instruction ``vdpbf16ps``, "amx" are the tiles of ``tdpbf16ps``; what
        is "emulated" does the same in float32.
    forced : bool
        Whether it was asked for by name, and is taken where it is slower, too.
    """

    products: int = 0
    backend: str = "fma"
    forced: bool = False

    @property
    def split(self) -> bool:
        """Whether operands are split into bf16."""
        return self.products > 0

    @property
    def chain(self) -> tuple[tuple[int, int], ...]:
        return CHAINS[self.products]

    @property
    def parts(self) -> int:
        """Parts of a number."""
        return 1 + max(part for part, _ in self.chain) if self.split else 1

    @property
    def tiles(self) -> bool:
        """Whether the kernel computes with tiles, of 16 rows and 16 pairs."""
        return self.backend.startswith("amx")

    @property
    def native(self) -> bool:
        """Whether AVX512-BF16 splits; every CPU with AMX has it."""
        return self.backend in ("avx512bf16", "amx")

    @property
    def depth(self) -> int:
        """Neighbours along k that a panel holds together: a step of the kernel's loop."""
        return 32 if self.tiles else 2 if self.split else 1

    def step_bytes(self, itemsize: int) -> int:
        """Bytes of one row's, or column's, step in a panel."""
        return 2 * self.depth * self.parts if self.split else itemsize

    @property
    def code(self) -> int:
        """All of it in one number, for the factories of kernels."""
        return 10 * BACKENDS.index(self.backend) + self.products

    @classmethod
    def of(cls, code: int) -> Arithmetic:
        return cls(code % 10, BACKENDS[code // 10])

    def __str__(self) -> str:
        name = f"bf16x{self.products}" if self.products > 1 else "bf16"
        return f"{name} ({self.backend})" if self.split else "float32"


FMA = Arithmetic()
PRODUCTS = {"medium": 1, "high": 3, "highest": 6}


def arithmetic_for(precision: str, dtype: np.typing.DTypeLike) -> Arithmetic:
    """The fastest arithmetic that a precision admits on this machine; which products gain by it is another matter."""
    forced = os.environ.get(FORCED) if precision != "highest" else None
    return _arithmetic(precision, np.dtype(dtype), forced)


@functools.cache
def _arithmetic(precision: str, dtype: np.dtype, forced: str | None) -> Arithmetic:
    if precision == "highest" or dtype != np.float32 or forced == "off":
        return FMA
    products = PRODUCTS[precision]
    if forced:
        if forced == "amx" and not (has_tiles(detect()) and permitted()):
            raise DeviceUnavailable(f"{FORCED}={forced}: {_without_tiles(detect())}; unset it")
        if forced == "amx-emulated" and detect().vector_bits != 512:
            raise DeviceUnavailable(f"{FORCED}={forced}: it takes vectors as long as a tile's rows, 512 bits; unset it")
        if forced not in BACKENDS[1:]:
            raise ValueError(f"{FORCED} must be 'off' or one of {', '.join(BACKENDS[1:])}; got {forced!r}")
        return Arithmetic(products, forced, forced=True)
    if has_tiles(detect()) and permitted():
        return Arithmetic(products, "amx")
    # vdpbf16ps does two multiply-adds in the time of one: three products for one would be slower than float32.
    return Arithmetic(products, "avx512bf16") if products == 1 and has_avx512bf16(detect()) else FMA


def has_avx512bf16(machine: Machine) -> bool:
    """Whether kernels may use ``vdpbf16ps``, on whole vectors."""
    return "avx512bf16" in machine.features and machine.vector_bits == 512


def in_words(precision: str, dtype: np.typing.DTypeLike) -> str:
    """What multiplies under a precision on this machine, and why nothing faster does."""
    chosen, machine = arithmetic_for(precision, dtype), detect()
    if chosen.split:
        count = {1: "one bf16 product", 3: "three bf16 products", 6: "six bf16 products"}[chosen.products]
        instruction = {"avx512bf16": "AVX512-BF16", "amx": "AMX"}.get(chosen.backend, chosen.backend)
        return (
            f"{instruction}, {count} for each of float32 where that is predicted to be faster; products of numbers "
            "that bf16 would not treat like float32 run again in float32, and so does what issues no products"
        )
    if np.dtype(dtype) != np.float32:
        return f"{np.dtype(dtype)} has no faster arithmetic than its own"
    less = "AVX512-BF16 would be no faster with three products" if has_avx512bf16(machine) else "nor AVX512-BF16"
    return f"{_without_tiles(machine)}, {less}: float32 runs"


def _without_tiles(machine: Machine) -> str:
    """Why AMX is not used."""
    return "the kernel does not permit the use of AMX" if has_tiles(machine) else "this CPU has no AMX"
