"""What ``-v`` says: which lowering and which product ran, and why."""

from __future__ import annotations

from numbaconv import Epilogue, Request
from numbaconv.accounts import plan_of
from numbaconv.api import explain
from numbaconv.gemm.dot import MOST_COLUMNS
from numbaconv.networks import Layer
from numbaconv.plan import make_plan
from numbaconv.problem import ConvProblem

__all__ = ["of_layer", "of_problem"]


def of_layer(layer: Layer, algorithm: str, asked: str, num_threads: int) -> str:
    """Why a layer of a network ran as it did.

    Parameters
    ----------
    layer : Layer
    algorithm : str
        What ran.
    asked : str
        The user's ``--algorithm``.
    num_threads : int
    """
    if layer.kind == "conv":
        return of_problem(layer.problem, algorithm, asked, num_threads, f"{layer.name}: ")
    mb = layer.problem.mb
    if algorithm == "dot":
        return f"{layer.name}: dot; {mb} of at most {MOST_COLUMNS} images: weights are read once, where they lie"
    return f"{layer.name}: gemm; {mb} images are more than {MOST_COLUMNS}: weights are packed once"


def of_problem(problem: ConvProblem, algorithm: str, asked: str, num_threads: int, name: str = "") -> str:
    """Why a convolution ran as it did; parameters as for ``of_layer``."""
    if asked == "auto":
        reason = "; ".join(
            f"{row.name} {row.seconds * 1e3:.2f} ms predicted" if row.runs else f"{row.name} refused: {row.reason}"
            for row in explain(problem, num_threads=num_threads).rows
        )
    else:
        reason = f"asked for as {asked!r}"
    return f"{name}{algorithm}{_products(problem, algorithm, num_threads)}; {reason}"


def _products(problem: ConvProblem, algorithm: str, num_threads: int) -> str:
    """The products that the lowering issues, and the micro-tile of the first."""
    request = Request(num_threads=num_threads, epilogue=Epilogue(bias=True))
    plan = make_plan(problem, algorithm, request)
    calls = [call for call in plan.division.gemm_calls(plan.lowering) if call.macs]
    if not calls:
        return " without products"
    first = plan_of(calls[0], problem, plan.division.request)
    block, turned = first.blocking, ", transposed" * first.schedule.swap
    tile = f"tiles of {block.mr} x {block.nr}{turned}, kc {block.kc}"
    return f" by {', '.join(f'{c.count} of {c.m} x {c.k} x {c.n}' for c in calls)} (m x k x n; {tile})"
