"""Where matrices lie, in addresses that are made up: so a leading dimension can be chosen, and a run repeats exactly.

A buffer that the function makes lies where the last one lay, if its memory is that of the last one.
"""

from __future__ import annotations

import numpy as np

from numbaconv.errors import NumbaconvError
from numbaconv.jit import compiled
from numbaconv.ladder.lru import touch

__all__ = ["Book", "CannotTrace", "access", "entry_of"]

PAGE = 4096
"""Every matrix and every buffer begins on a page of its own, as large ones do."""


class CannotTrace(NumbaconvError, TypeError):
    """The function does what cannot be followed."""


NEXT, VECTOR, COUNT, FIRST = range(4)
POINTER, ROWS, COLUMNS, SIZE, BASE, READING, READ_LEFT, WRITING, WRITE_LEFT, ENTRY = range(10)
MATRICES = 64
"""A run may have so many matrices, those counted that the function makes."""


class Book:
    """Who lies where: gives out addresses, to matrices before the run and to buffers during it.

    Parameters
    ----------
    vector : int
        Bytes that a walk along a row takes at once; 0 where each element is an access of its own.
    """

    def __init__(self, vector: int = 0):
        self.state = np.zeros(FIRST + ENTRY * MATRICES, np.int64)
        self.state[NEXT], self.state[VECTOR] = PAGE, vector

    def enter(self, rows: int, columns: int, size: int, nbytes: int, offset: int) -> int:
        """Give a matrix a place, `offset` bytes beyond a page's beginning; returns where the book has it."""
        return int(_enter(self.state, 0, rows, columns, size, nbytes, offset))

    @property
    def matrices(self) -> list[tuple[int, int, int, int]]:
        """(rows, columns, bytes of an element, address) of all matrices, in the order of their making."""
        made = self.state[FIRST:].reshape(-1, ENTRY)[: self.state[COUNT], ROWS : BASE + 1]
        return [(rows, columns, size, base) for rows, columns, size, base in made.tolist()]


@compiled
def _enter(book, pointer, rows, columns, size, nbytes, offset):
    if book[COUNT] == MATRICES:
        raise CannotTrace("the function has more than 64 different matrices; make buffers once, before its loops")
    entry = FIRST + ENTRY * book[COUNT]
    book[COUNT] += 1
    book[entry + POINTER], book[entry + ROWS], book[entry + COLUMNS] = pointer, rows, columns
    book[entry + SIZE], book[entry + BASE] = size, book[NEXT] + offset
    book[NEXT] = (book[NEXT] + offset + nbytes + 2 * PAGE - 1) // PAGE * PAGE  # and a page between neighbours
    return entry


@compiled
def entry_of(book, pointer, rows, columns, size):
    """Where the book has a buffer: as the last one that lay there, if memory given back is used for it again."""
    for entry in range(FIRST, FIRST + ENTRY * book[COUNT], ENTRY):
        if book[entry + POINTER] == pointer and book[entry + ROWS] == rows and book[entry + COLUMNS] == columns:
            return entry
    return _enter(book, pointer, rows, columns, size, rows * columns * size, 0)


@compiled
def access(counts, book, entry, address, size, left, write):
    """Send an access on, unless the vector that began before it has brought it; `left` elements end its row."""
    if book[VECTOR] == 0:
        touch(counts, address, size, write)
        return
    run = entry + (WRITING if write else READING)
    if book[run] == address and book[run + 1] > 0:
        book[run + 1] -= size
    else:
        whole = min(book[VECTOR], left * size)
        touch(counts, address, whole, write)
        book[run + 1] = whole - size
    book[run] = address + size
