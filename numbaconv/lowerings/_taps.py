"""Taps of a kernel: which output rectangle each reaches, and which input pixels it reads there."""

from __future__ import annotations

from dataclasses import dataclass

from numbaconv.geometry import plain, reached
from numbaconv.lazy import cached_property


@dataclass(frozen=True)
class Tap:
    """Kernel element (r, s): the output rectangle whose sums it takes part in, and where it reads.

    Output pixel (y, z) of the rectangle reads input pixel (y·sh + `down`, z·sw + `right`).
    """

    r: int
    s: int
    down: int
    right: int
    rows: tuple[int, int]
    columns: tuple[int, int]

    @cached_property
    def height(self) -> int:
        return self.rows[1] - self.rows[0]

    @cached_property
    def width(self) -> int:
        return self.columns[1] - self.columns[0]

    @cached_property
    def pixels(self) -> int:
        return self.height * self.width


_reached = plain(reached)


def reach(outputs: int, stride: int, shift: int, size: int) -> tuple[int, int]:
    """The outputs [first, end) along an axis that read input 0 ... size - 1 when output 0 reads `shift`."""
    low, high = _reached(outputs, stride, shift, size)
    return int(low), int(high)


def taps(problem) -> list[Tap]:
    """The taps that reach any output, row by row of the kernel."""
    p, found = problem, []
    for r in range(p.kh):
        down = r * p.dh - p.pad_top
        rows = reach(p.oh, p.sh, down, p.ih)
        for s in range(p.kw):
            right = s * p.dw - p.pad_left
            columns = reach(p.ow, p.sw, right, p.iw)
            if rows[0] < rows[1] and columns[0] < columns[1]:
                found.append(Tap(r, s, down, right, rows, columns))
    return found
