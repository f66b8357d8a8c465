"""The scratch that calls take, watched from outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from numbaconv.lowering_cuda import CudaContext
from numbaconv.workspace import Arena

__all__ = ["taken"]


@contextmanager
def taken() -> Iterator[dict[int, int]]:
    """What calls in the block take from their arenas: by an arena's address, which each worker has of its own, the most
    bytes that were taken for one part.

    ``Arena.take`` and ``CudaContext.take`` are others while the block runs: calls which nobody watches pay nothing.
    """
    record: dict[int, int] = {}
    kept = Arena.take, CudaContext.take

    def note(address: int, slices: Mapping[str, int]) -> None:
        record[address] = max(record.get(address, 0), sum(slices.values()))

    def from_arena(self: Arena, name: str, size: int) -> NDArray:
        part = kept[0](self, name, size)
        note(self.address, self.slices)
        return part

    def on_device(self: CudaContext, *arguments: Any) -> Any:
        part = kept[1](self, *arguments)
        note(self.memory.pointer, self.slices)
        return part

    Arena.take, CudaContext.take = from_arena, on_device  # type: ignore[method-assign, assignment]
    try:
        yield record
    finally:
        Arena.take, CudaContext.take = kept  # type: ignore[method-assign]
