"""Packed-panel matrix multiplication. Knows nothing of convolution."""

from numbaconv.gemm.blocking import Blocking
from numbaconv.gemm.chain import Chain, Link
from numbaconv.gemm.operands import Axis, Finish, Matrix, PackedMatrix, Source
from numbaconv.gemm.plan import GemmPlan, gemm_plan
from numbaconv.gemm.schedule import Operands, Schedule

__all__ = [
    "Axis",
    "Blocking",
    "Chain",
    "Finish",
    "GemmPlan",
    "Link",
    "Matrix",
    "Operands",
    "PackedMatrix",
    "Schedule",
    "Source",
    "gemm_plan",
]
