"""The libraries numbaconv is timed against, and the two that multiply matrices.

Each is used at its best: everything converted beforehand that can be, outputs kept, equal threads.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from numbaconv.bench.contender import Contender
from numbaconv.errors import UnknownName, UnsupportedProblem
from numbaconv.problem import ConvProblem

__all__ = ["GEMM_PEERS", "ConvPeer", "GemmPeer", "Peer", "UnknownPeer", "choose"]


class UnknownPeer(UnknownName):
    """There is no peer of this name."""

    what = "peer"


class Peer(ABC):
    """A library, used in one way.

    Attributes
    ----------
    name : str
    modules : tuple of str
        What must be importable; the first is the library itself.
    """

    name: str
    modules: tuple[str, ...]

    def reason(self) -> str:
        """Why it cannot run here; empty if it can."""
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                return f"{module} cannot be imported ({error}); pip install 'numbaconv[peers]'"
        return ""

    def version(self) -> str:
        """The library's name and version."""
        return f"{self.modules[0]} {importlib.import_module(self.modules[0]).__version__}"


class GemmPeer(Peer):
    """A library that multiplies matrices."""

    @abstractmethod
    def gemm(self, a: NDArray, b: NDArray, num_threads: int) -> Contender:
        """Ready to multiply the row-major (m, k) and (k, n) into an output it keeps."""


class ConvPeer(Peer):
    """A library that convolves."""

    @abstractmethod
    def conv(self, problem: ConvProblem, x: NDArray, w: NDArray, bias: NDArray, num_threads: int) -> Contender:
        """Ready to convolve.

        Raises
        ------
        UnsupportedProblem
            When the library cannot, with the reason.
        """


# --------------------------------------------------------------------------------------------------------- GEMM


class OpenBLAS(GemmPeer):
    """NumPy's matmul."""

    name = "openblas"
    modules = ("numpy", "threadpoolctl")

    def version(self) -> str:
        import threadpoolctl

        found = [f"{pool['internal_api']} {pool['version']}" for pool in threadpoolctl.threadpool_info()]
        return f"numpy {np.__version__} ({', '.join(found)})"

    def gemm(self, a: NDArray, b: NDArray, num_threads: int) -> Contender:
        import threadpoolctl

        threadpoolctl.threadpool_limits(num_threads, user_api="blas")
        out = np.empty((a.shape[0], b.shape[1]), a.dtype)
        call = partial(np.matmul, a, b, out=out)
        return Contender(self.name, call, lambda: call().copy())


class MKL(GemmPeer):
    """torch.mm, which is MKL in PyTorch's x86 builds."""

    name = "mkl"
    modules = ("torch",)

    def version(self) -> str:
        import torch

        blas = [
            line.strip(" -") for line in torch.__config__.show().splitlines() if "Math Kernel Library Version" in line
        ]
        return f"torch {torch.__version__} ({blas[0] if blas else 'no MKL: whatever BLAS it was built with'})"

    def gemm(self, a: NDArray, b: NDArray, num_threads: int) -> Contender:
        import torch

        torch.set_num_threads(num_threads)
        left, right = torch.from_numpy(a), torch.from_numpy(b)
        out = torch.empty((a.shape[0], b.shape[1]), dtype=left.dtype)
        call = partial(torch.mm, left, right, out=out)
        return Contender(self.name, call, lambda: call().numpy().copy())


GEMM_PEERS: tuple[GemmPeer, ...] = (OpenBLAS(), MKL())


P = TypeVar("P", bound=Peer)


def choose(peers: Sequence[P], names: Sequence[str] | None) -> tuple[list[P], dict[str, str]]:
    """(the peers to time, why the others are not).

    Parameters
    ----------
    peers : sequence of Peer
    names : sequence of str, optional
        All that can run, by default. A peer asked for by name must be able to.

    Raises
    ------
    UnknownPeer
    UnsupportedProblem
        When a named peer cannot run here.
    """
    known = {peer.name: peer for peer in peers}
    for name in names or ():
        if name not in known:
            raise UnknownPeer(name, known)
    reasons = {peer.name: peer.reason() for peer in peers if names is None or peer.name in names}
    missing = {name: reason for name, reason in reasons.items() if reason}
    if names and missing:
        raise UnsupportedProblem("; ".join(f"{name}: {reason}" for name, reason in missing.items()))
    return [known[name] for name in reasons if name not in missing], missing
