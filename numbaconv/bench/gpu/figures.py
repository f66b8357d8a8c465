"""The figures that the GPU side is to reach, from the records of a check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from numbaconv.bench.gpu.networks import NETWORKS

__all__ = ["Figure", "LayerTimes", "Total", "figures", "layers", "networks"]

Records = Sequence[dict[str, Any]]

SQUARE_SHARE, HIGH_GAIN, HIGH_ERROR, MEDIUM_SHARE, NETWORK_SHARE, AHEAD_SHARE = 0.90, 1.3, 1e-5, 0.55, 0.90, 1 / 3


class Figure(NamedTuple):
    """One figure; `reached` is None where it was not measured."""

    what: str
    wanted: str
    found: str
    reached: bool | None


@dataclass(frozen=True)
class LayerTimes:
    """A layer's median seconds: cuDNN's better memory order (0: not measured), ours by the best and by ``auto``."""

    network: str
    name: str
    count: int
    cudnn: float
    best: float
    who: str
    auto: float
    auto_who: str
    times: dict[str, float]
    ran: dict[str, Any]


@dataclass
class Total:
    """A network's sums; `ahead` of its `distinct` kinds of layers some lowering is faster than cuDNN."""

    layers: int = 0
    distinct: int = 0
    ahead: int = 0
    cudnn: float = 0.0
    best: float = 0.0
    auto: float = 0.0


def layers(records: Records) -> list[LayerTimes]:
    """The layers that were timed, in the order they came."""
    found = []
    for record in records:
        data = record["data"]
        if "ran" not in data:
            continue
        times = {name: one["median"] for name, one in data["times"].items()}
        ours = {name: spent for name, spent in times.items() if not name.startswith("cuDNN")}
        theirs = [spent for name, spent in times.items() if name.startswith("cuDNN")]
        automatic = {f"{ran['auto']} {layout}" for layout, ran in data["ran"].items() if "auto" in ran}
        chosen = {name: ours[name] for name in automatic if name in ours}
        if not ours or not chosen:
            continue
        who, own = min(ours, key=lambda name: ours[name]), min(chosen, key=lambda name: chosen[name])
        found.append(LayerTimes(record["step"], record["name"], data["count"], min(theirs, default=0.0), ours[who], who,
                                ours[own], own, times, data["ran"]))  # fmt: skip
    return found


def networks(records: Records) -> dict[str, Total]:
    """The sums over the layers that were timed."""
    found: dict[str, Total] = {}
    for one in layers(records):
        total = found.setdefault(one.network, Total())
        total.layers += one.count
        total.distinct += 1
        total.ahead += bool(one.cudnn) and one.best < one.cudnn
        total.cudnn += one.count * one.cudnn
        total.best += one.count * one.best
        total.auto += one.count * one.auto
    return found


def figures(records: Records) -> list[Figure]:
    """All figures, measured or not."""
    shapes = {tuple(record["data"].get("shape", ())): record["data"] for record in records if record["step"] == "gemm"}
    found = []
    for size in (4096, 8192):
        data = shapes.get((size, size, size), {})
        found.append(_quotient(f"{size}³ in float32, of cuBLAS", data, "ours float32", "cuBLAS float32", SQUARE_SHARE))
        error = data.get("errors", {}).get("ours high")
        gain = _quotient(f'{size}³ in "high", of cuBLAS float32', data, "ours high", "cuBLAS float32", HIGH_GAIN)
        if error is not None and gain.reached is not None:
            gain = gain._replace(wanted=f"{gain.wanted}, error <= {HIGH_ERROR:.0e}",
                                 found=f"{gain.found}, error {error:.1e}",
                                 reached=gain.reached and error <= HIGH_ERROR)  # fmt: skip
        found.append(gain)
        found.append(_quotient(f"{size}³ in \"medium\", of cuBLAS TF32", data, "ours medium", "cuBLAS TF32",
                               MEDIUM_SHARE))  # fmt: skip
    sums = networks([record for record in records if not record["data"].get("tiny")])
    late = {record["step"] for record in records if record["status"] != "ok"}
    for name in NETWORKS:
        total = sums.get(name)
        partial = f" ({total.distinct} kinds of layers only)" if total and name in late else ""
        for way, spent in (("best lowerings", total and total.best), ("auto", total and total.auto)):
            share = total.cudnn / spent if total and spent and total.cudnn else None
            found.append(_share(f"{name}, {way}, of cuDNN's speed", share, NETWORK_SHARE, partial))
    kinds = sum(total.distinct for total in sums.values() if total.cudnn)
    ahead = sum(total.ahead for total in sums.values() if total.cudnn)
    what = "layers where some lowering is ahead of cuDNN"
    if kinds:
        found.append(Figure(what, f">= {AHEAD_SHARE:.0%}", f"{ahead} of {kinds} ({ahead / kinds:.0%})",
                            ahead >= AHEAD_SHARE * kinds))  # fmt: skip
    else:
        found.append(Figure(what, f">= {AHEAD_SHARE:.0%}", "", None))
    return found


def _quotient(what: str, data: dict[str, Any], ours: str, theirs: str, wanted: float) -> Figure:
    times = data.get("times", {})
    share = times[ours]["tflops"] / times[theirs]["tflops"] if ours in times and theirs in times else None
    return _share(what, share, wanted)


def _share(what: str, share: float | None, wanted: float, more: str = "") -> Figure:
    if share is None:
        return Figure(what, f">= {wanted:.2f}", "", None)
    return Figure(what, f">= {wanted:.2f}", f"{share:.2f}{more}", share >= wanted)
