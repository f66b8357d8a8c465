"""How a workspace is divided: panels that all threads share, and each thread's own blocks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Where in a workspace the panels of a plan lie."""

    a_shared: int
    b_shared: int
    a_block: int
    b_block: int
    tile: int
    scan: int
    workers: int

    @property
    def worker_bytes(self) -> int:
        return self.a_block + self.b_block + self.tile + self.scan

    @property
    def scan_offset(self) -> int:
        return self.worker_bytes - self.scan

    @property
    def total(self) -> int:
        return self.a_shared + self.b_shared + self.workers * self.worker_bytes
