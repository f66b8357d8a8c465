"""What each lowering writes down besides input, weights and output, for a grid of layers: the sliders' numbers.

The numbers come from where ``explain`` takes them: a lowering is asked whether it runs the problem, the problem is cut
as a plan would cut it, and the lowering counts the bytes of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from numbaconv.api import make_request
from numbaconv.division import divide
from numbaconv.lowering import Lowering
from numbaconv.problem import ConvProblem
from numbaconv.registry import lowerings
from numbaconv.request import Epilogue, Request
from numbaconv.select import check

__all__ = ["axes", "grid", "layer"]

TEMPLATE = "mb1ic{channels}ih{size}oc{channels}kh{kernel}sh{stride}ph{padding}"
"""The layer at a place of the grid; the padding is half the kernel, rounded down."""


def axes(quick: bool) -> dict[str, list[int]]:
    """The sliders and their positions."""
    if quick:
        return {
            "kernel": [1, 3, 5, 7, 11],
            "stride": [1, 2, 4],
            "channels": [3, 16, 64, 256],
            "size": [14, 28, 56, 224],
        }
    return {
        "kernel": [1, 3, 5, 7, 11],
        "stride": [1, 2, 3, 4],
        "channels": [3, 16, 64, 256],
        "size": [14, 28, 56, 112, 224],
    }


def layer(kernel: int, stride: int, channels: int, size: int) -> ConvProblem:
    """The layer at a place of the grid."""
    text = TEMPLATE.format(channels=channels, size=size, kernel=kernel, stride=stride, padding=kernel // 2)
    return ConvProblem.parse(text)


def grid(quick: bool, tick: Callable[[str], None]) -> dict[str, Any]:
    """Bytes of every lowering at every place.

    Returns
    -------
    dict
        ``axes``; ``lowerings``, the names of those that run somewhere on the grid;
        ``bytes[kernel][stride][channels][size][lowering]``, keyed by the axes' values as text, None where refused;
        ``refusals``, keyed likewise, has for those their number in ``reasons``; ``descriptor``, the template of the
        layers; ``threads`` that the bytes hold for.
    """
    along, request = axes(quick), make_request(None, None, "highest", "float32", None, None, Epilogue())
    known = [cls() for cls in lowerings(device="cpu")]
    cells: dict[tuple[int, ...], dict[str, int | str]] = {}
    for kernel in along["kernel"]:
        for rest in product(along["stride"], along["channels"], along["size"]):
            cells[kernel, *rest] = _asked(known, layer(kernel, *rest), request)
        tick(f"bytes of {len(known)} lowerings, kernel {kernel}x{kernel}")
    run = [lowering.name for lowering in known if any(type(cell[lowering.name]) is int for cell in cells.values())]
    reasons = sorted({str(cell[name]) for cell in cells.values() for name in run if type(cell[name]) is str})
    counts: dict[str, Any] = {}
    refusals: dict[str, Any] = {}
    for place, cell in cells.items():
        refused = {name: reasons.index(str(cell[name])) for name in run if type(cell[name]) is str}
        _put(counts, place, {name: None if name in refused else cell[name] for name in run})
        _put(refusals, place, refused)
    return {
        "axes": along, "lowerings": run, "bytes": counts, "refusals": refusals, "reasons": reasons,
        "descriptor": TEMPLATE, "threads": request.num_threads,
    }  # fmt: skip


def _asked(known: Sequence[Lowering], problem: ConvProblem, request: Request) -> dict[str, int | str]:
    """Each lowering's bytes, or why it refuses."""
    answers: dict[str, int | str] = {}
    for lowering in known:
        support = check(lowering, problem, request)
        if support:
            answers[lowering.name] = divide(problem, lowering, request).lowering_bytes(lowering)
        else:
            answers[lowering.name] = support.reason
    return answers


def _put(table: dict[str, Any], place: Sequence[int], value: dict[str, Any]) -> None:
    """Hang `value` into nested tables."""
    for at in place[:-1]:
        table = table.setdefault(str(at), {})
    table[str(place[-1])] = value
