"""numbaconv: convolution as matrix multiplication, in every way the literature knows, in Numba."""

from typing import TYPE_CHECKING

from numbaconv import errors
from numbaconv.api import conv2d, cuda_available, plan, show_config
from numbaconv.dense import linear, prepack_a, prepack_b
from numbaconv.errors import (
    DeviceUnavailable,
    NumbaconvError,
    ShapeError,
    UnknownLowering,
    UnsupportedProblem,
    WorkspaceExceeded,
)
from numbaconv.explanation import explain
from numbaconv.gemm import Blocking, PackedMatrix
from numbaconv.layers import Conv2d, Linear
from numbaconv.lowering import Lowering
from numbaconv.network_plan import plan_network
from numbaconv.problem import ConvProblem
from numbaconv.products import gemm
from numbaconv.registry import list_lowerings, register
from numbaconv.request import Epilogue, Request
from numbaconv.workspace import release_workspaces

if TYPE_CHECKING:
    from numbaconv import ladder, testing

__version__ = "0.1.0"

__all__ = [
    "Blocking",
    "Conv2d",
    "ConvProblem",
    "DeviceUnavailable",
    "Epilogue",
    "Linear",
    "Lowering",
    "NumbaconvError",
    "PackedMatrix",
    "Request",
    "ShapeError",
    "UnknownLowering",
    "UnsupportedProblem",
    "WorkspaceExceeded",
    "conv2d",
    "cuda_available",
    "errors",
    "explain",
    "gemm",
    "ladder",
    "linear",
    "list_lowerings",
    "plan",
    "plan_network",
    "prepack_a",
    "prepack_b",
    "register",
    "release_workspaces",
    "show_config",
    "testing",
]


def __getattr__(name: str):
    """``numbaconv.ladder`` and ``numbaconv.testing``, imported when they are first asked for."""
    if name in ("ladder", "testing"):
        import importlib

        return importlib.import_module(f"numbaconv.{name}")
    raise AttributeError(f"module 'numbaconv' has no attribute {name!r}")
