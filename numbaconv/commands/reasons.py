"""What ``-v`` says: which lowering and which product ran, and why."""

from __future__ import annotations

from numbaconv import Epilogue, Request
from numbaconv.accounts import GemmCall, plan_of
from numbaconv.explanation import explain
from numbaconv.gemm.dot import MOST_COLUMNS
from numbaconv.lowering_cuda import plan_of as device_plan
from numbaconv.measured import known
from numbaconv.networks import Layer
from numbaconv.plan import make_plan
from numbaconv.problem import ConvProblem

__all__ = ["of_layer", "of_problem"]


def of_layer(layer: Layer, algorithm: str, asked: str, num_threads: int, device: str = "cpu") -> str:
    """Why a layer of a network ran as it did.

    Parameters
    ----------
    layer : Layer
    algorithm : str
        What ran.
    asked : str
        The user's ``--algorithm``.
    num_threads : int
    device : str
    """
    if layer.kind == "conv" or device != "cpu":
        asked = asked if layer.kind == "conv" else "auto"
        return of_problem(layer.problem, algorithm, asked, num_threads, device, f"{layer.name}: ")
    mb = layer.problem.mb
    if algorithm == "dot":
        return f"{layer.name}: dot; {mb} of at most {MOST_COLUMNS} images: weights are read once, where they lie"
    return f"{layer.name}: gemm; {mb} images are more than {MOST_COLUMNS}: weights are packed once"


def of_problem(
    problem: ConvProblem, algorithm: str, asked: str, num_threads: int, device: str = "cpu", name: str = ""
) -> str:
    """Why a convolution ran as it did; parameters as for ``of_layer``."""
    if asked == "auto":
        reason = "; ".join(
            f"{row.name} {row.seconds * 1e3:.2f} ms predicted" if row.runs else f"{row.name} refused: {row.reason}"
            for row in explain(problem, device=device, num_threads=num_threads).rows
        )
    elif asked == "measure":
        found = known(problem, Request(device, num_threads, epilogue=Epilogue(bias=True)))
        times = found.times if found else {}
        measured = [f"{spec} {seconds * 1e3:.2f} ms measured" for spec, seconds in times.items() if seconds is not None]
        reason = "; ".join(measured) or "nothing else is predicted to come near it"
    else:
        reason = f"asked for as {asked!r}"
    return f"{name}{algorithm}{_products(problem, algorithm, num_threads, device)}; {reason}"


def _products(problem: ConvProblem, algorithm: str, num_threads: int, device: str) -> str:
    """The products that the lowering issues, and the tile of the first."""
    request = Request(device, num_threads, epilogue=Epilogue(bias=True))
    plan = make_plan(problem, algorithm, request)
    calls = [call for call in plan.division.gemm_calls(plan.lowering) if call.macs]
    if not calls:
        return " without products"
    shapes = ", ".join(f"{c.count * c.batch} of {c.m} x {c.k} x {c.n}" for c in calls)
    return f" by {shapes} (m x k x n; {_tile(calls[0], problem, plan.division.request)})"


def _tile(call: GemmCall, problem: ConvProblem, request: Request) -> str:
    """What a product is computed in."""
    if request.device != "cpu":
        chosen = device_plan(call, problem.dtype, request)
        tile, parts = chosen.tile, f", {chosen.parts} parts of k" * (chosen.parts > 1)
        return f"tiles of {tile.bm} x {tile.bn}, {tile.bk} terms at a time{parts}"
    first = plan_of(call, problem, request)
    block, turned = first.blocking, ", transposed" * first.schedule.swap
    return f"tiles of {block.mr} x {block.nr}{turned}, kc {block.kc}"
