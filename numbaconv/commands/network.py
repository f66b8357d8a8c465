"""``numbaconv time`` and ``numbaconv warmup``: whole networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from numbaconv.bench.network import (
    LayerTime,
    StageTime,
    bytes_of,
    in_chosen_layouts,
    seconds_by_kind,
    steps,
    time_layers,
    time_stages,
)
from numbaconv.bench.place import OnDevice, Place, place_of
from numbaconv.bench.plots import network_plot
from numbaconv.calibration import calibrate
from numbaconv.commands import output
from numbaconv.commands.output import milliseconds, percent, progress, show_table, size, write_json
from numbaconv.commands.parameters import (
    NETWORK,
    NETWORK_NAMES,
    PICTURE,
    algorithm_option,
    device_option,
    fits_memory,
    iterations_option,
    json_option,
    layout_option,
    mb_option,
    threads_option,
    verbose_option,
)
from numbaconv.commands.reasons import of_layer
from numbaconv.layouts import LAYOUTS
from numbaconv.networks import layers
from numbaconv.networks.alexnet import AlexNet
from numbaconv.probes import fma_peak
from numbaconv.warmup import DEFAULT_NETWORKS, distinct_layers, warm_up

__all__ = ["time", "warmup"]

FOUNDING_TEXT = "Warden, 'Why GEMM is at the heart of deep learning' (2015): 89 % on a CPU, 95 % on a GPU"


@click.command(epilog=f"Networks: {NETWORK_NAMES}.")
@click.argument("network", type=NETWORK)
@mb_option
@iterations_option(20)
@algorithm_option
@device_option
@threads_option
@click.option("--layout", type=click.Choice(LAYOUTS), help="Memory order of all images; chosen layer by layer, else.")
@json_option
@click.option("--plot", type=PICTURE, metavar="FILE", help="Draw where the time goes (.png, .svg, .pdf).")
@verbose_option
@click.pass_obj
def time(
    verbose: bool,
    network: str,
    mb: int,
    iterations: int,
    algorithm: str,
    device: str,
    num_threads: int,
    layout: str | None,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Time every layer of NETWORK that is a matrix product, in the manner of `caffe time`.

    AlexNet (the grouped original) is then run as a whole, stage by stage: what share of its time is convolution and
    fully-connected layers? On a device only the layers are timed, and PyTorch's too where it can be used.
    """
    table = layers(network, mb, layout or "nchw")
    place = place_of(device)
    whole = network == "alexnet" and layout != "nhwc" and not place.queues
    fits_memory(bytes_of(table), "ask for fewer images with --mb")
    peak = place.peak("float32") if isinstance(place, OnDevice) else fma_peak("float32", num_threads)
    count, reads = len(table), None
    if layout is None:
        table, reads = in_chosen_layouts(table, algorithm, num_threads, device)
    with progress(f"{network}: layers", count + steps(count, iterations)) as tick:
        rows = time_layers(table, iterations, algorithm, num_threads, tick, device, reads)
    title = f"{network}, mb {mb}, {output.place_text(place, num_threads)}"
    _show_layers(f"{title}, {iterations} iterations", rows, peak, place)
    stages: list[StageTime] = []
    if whole:
        net = AlexNet(mb=mb, algorithm=algorithm, num_threads=num_threads)
        with progress(f"{network}: forward pass", steps(len(net.stages()), iterations)) as tick:
            stages = time_stages(net, iterations, tick)
        _show_stages(stages)
    elif network == "alexnet" and place.queues:
        click.echo("\nThe whole forward pass runs on the CPU only.")
    elif network == "alexnet":
        click.echo("\nThe whole forward pass runs in NCHW only: leave --layout away to see it.")
    if verbose:
        click.echo("\nwhich lowering, and why")
        for row in rows:
            click.echo(of_layer(row.layer, row.algorithm, algorithm, num_threads, device))
    kinds = seconds_by_kind(stages)
    if plot:
        network_plot(plot, title, rows, kinds)
        click.echo(f"\ndrawn: {plot}")
    write_json(
        json_file, None if place.queues else num_threads, [_layer_json(row, peak) for row in rows],
        totals=_totals(rows, peak),
        forward=[{"stage": stage.name, "kind": stage.kind, **_times(stage.sample)} for stage in stages],
        seconds_by_kind=kinds,
        run={"network": network, "mb": mb, "layout": layout, "iterations": iterations, "algorithm": algorithm,
             "fma_peak_gflops": peak},
        device=output.device_json(place),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- layers


def _show_layers(title: str, rows: Sequence[LayerTime], peak: float | None, place: Place) -> None:
    if place.emulated:
        click.echo(output.EMULATED)
    how = "FMA peak by its clock" if place.queues else "measured FMA peak"
    click.echo(f"{title}; {how} {peak:.1f} GFLOP/s\n" if peak else f"{title}\n")
    peers = list(dict.fromkeys(name for row in rows for name in row.peers))
    cells = [
        [
            row.layer.name, row.algorithm, _layout(row), milliseconds(row.sample.min), milliseconds(row.sample.median),
            *(milliseconds(row.peers[name].median) if name in row.peers else "-" for name in peers),
            f"{row.gflops:.1f}", *percent(row.gflops, peak), size(row.workspace_bytes), milliseconds(row.first),
        ]
        for row in rows
    ]  # fmt: skip
    totals = [_total_cells(label, part, peers, peak) for label, part in _parts(rows).items()]
    titles = ["layer", "lowering", "layout", "min ms", "median ms", *(f"{name} ms" for name in peers), "GFLOP/s"]
    titles += ["of peak"] if peak else []
    show_table([*titles, "workspace", "first call ms"], cells, totals, text=3)
    compiling = sum(row.prepare + row.first for row in rows)
    click.echo(
        f"\nBias and activation are in the last store. Preparing weights and first calls took {compiling:.2f} s "
        "(compilation, or loading from the cache, included) and are not in the times."
    )
    if place.queues:
        click.echo(output.BATCHES)


def _layout(row: LayerTime) -> str:
    """The memory order of a layer; of its input first, where that is another."""
    own = row.layer.problem.layout
    return "-" if row.layer.kind == "fc" else own if row.reads == own else f"{row.reads}>{own}"


def _parts(rows: Sequence[LayerTime]) -> dict[str, list[LayerTime]]:
    """The rows that are summed up: each kind where there are two, and all."""
    kinds = {"conv": "all convolutions", "fc": "all fully connected"}
    parts = {label: [row for row in rows if row.layer.kind == kind] for kind, label in kinds.items()}
    return {**(parts if all(parts.values()) else {}), "all layers": list(rows)}


def _totals(rows: Sequence[LayerTime], peak: float | None) -> dict[str, dict[str, Any]]:
    return {label: _sums(part, peak) for label, part in _parts(rows).items()}


def _sums(rows: Sequence[LayerTime], peak: float | None) -> dict[str, Any]:
    """Sums of minima and medians, GFLOP/s by the medians, and the largest workspace (it is used again)."""
    seconds = sum(row.sample.median for row in rows)
    gflops = sum(row.layer.problem.flops for row in rows) / seconds / 1e9
    return {
        "min_ms": sum(row.sample.min for row in rows) * 1e3,
        "median_ms": seconds * 1e3,
        "gflops": gflops,
        "share_of_peak": gflops / peak if peak else None,
        "workspace_bytes": max(row.workspace_bytes for row in rows),
        "prepare_ms": sum(row.prepare for row in rows) * 1e3,
        "first_call_ms": sum(row.first for row in rows) * 1e3,
    }


def _total_cells(label: str, rows: Sequence[LayerTime], peers: Sequence[str], peak: float | None) -> list[str]:
    sums = _sums(rows, peak)
    others = [
        f"{sum(row.peers[name].median for row in rows) * 1e3:.3f}" if all(name in row.peers for row in rows) else "-"
        for name in peers
    ]
    return [
        label, "", "", f"{sums['min_ms']:.3f}", f"{sums['median_ms']:.3f}", *others, f"{sums['gflops']:.1f}",
        *percent(sums["gflops"], peak), size(int(sums["workspace_bytes"])), f"{sums['first_call_ms']:.3f}",
    ]  # fmt: skip


def _layer_json(row: LayerTime, peak: float | None) -> dict[str, Any]:
    p = row.layer.problem
    return {
        "layer": row.layer.name, "kind": row.layer.kind, "problem": str(p), "flops": p.flops,
        "activation": row.layer.activation, "algorithm": row.algorithm, "layout": p.layout, "reads": row.reads,
        "prepare_ms": row.prepare * 1e3, "first_call_ms": row.first * 1e3, **_times(row.sample),
        "gflops": row.gflops, "share_of_peak": row.gflops / peak if peak else None,
        "workspace_bytes": row.workspace_bytes, "prepared_bytes": row.prepared_bytes,
        "peers": {name: _times(sample) for name, sample in row.peers.items()},
    }  # fmt: skip


def _times(sample) -> dict[str, Any]:
    return {
        "min_ms": sample.min * 1e3, "median_ms": sample.median * 1e3, "times_ms": [s * 1e3 for s in sample.times],
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------- forward pass


def _show_stages(stages: Sequence[StageTime]) -> None:
    kinds = seconds_by_kind(stages)
    total = sum(kinds.values())
    click.echo("\nThe whole forward pass, stage by stage (a ReLU is a stage of its own here)\n")
    cells = [
        [stage.name, stage.kind, milliseconds(stage.sample.min), milliseconds(stage.sample.median),
         f"{stage.sample.median / total:.1%}"]
        for stage in stages
    ]  # fmt: skip
    totals = [
        [f"all {kind}", "", "", milliseconds(seconds), f"{seconds / total:.1%}"] for kind, seconds in kinds.items()
    ]
    least = sum(stage.sample.min for stage in stages)
    totals.append(["forward pass", "", milliseconds(least), milliseconds(total), "100.0%"])
    show_table(["stage", "kind", "min ms", "median ms", "share"], cells, totals, text=2)
    share = (kinds["conv"] + kinds["fc"]) / total
    click.echo(f"\nIn convolution and fully-connected layers: {share:.1%} of the time.\n{FOUNDING_TEXT}.")


# ------------------------------------------------------------------------------------------------------ warm-up


@click.command(epilog=f"Networks: {NETWORK_NAMES}.")
@click.argument("networks", type=NETWORK, nargs=-1)
@mb_option
@threads_option
@layout_option
@click.option("--calibrate", "calibrated", is_flag=True, help="First measure this machine, for what auto predicts.")
def warmup(networks: tuple[str, ...], mb: int, num_threads: int, layout: str, calibrated: bool) -> None:
    """Compile what the layers of NETWORKS need (alexnet, vgg16 and resnet50 unless told otherwise).

    Each distinct layer is prepared and run once; other processes then load the code from the cache.
    """
    if calibrated:
        found = calibrate()
        click.echo(f"auto counts with {found.peak / 1e9:.0f} GFLOP/s a core, {found.memory / 1e9:.1f} GB/s from memory "
                   f"and {found.cache / 1e9:.1f} GB/s from the last cache")  # fmt: skip
    names = networks or DEFAULT_NETWORKS
    todo = distinct_layers(names, mb, layout)
    fits_memory(max(bytes_of([layer]) for layer in todo), "ask for fewer images with --mb")
    with progress("warming up", len(todo)) as tick:
        done = warm_up(names, mb, layout, num_threads, tick)
    click.echo(f"{done.layers} distinct layers of {', '.join(names)} ready in {done.seconds:.1f} s")
    if done.directory is None:
        click.echo("no cache directory can be written: the next process compiles again; set NUMBACONV_CACHE_DIR")
    else:
        click.echo(f"cache: {done.directory} ({done.added} files added, {done.files} in all)")
