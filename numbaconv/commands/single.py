"""``numbaconv conv`` and ``numbaconv gemm``: one problem, checked, then timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from numbaconv import ConvProblem, plan, prepack_a
from numbaconv import gemm as multiply
from numbaconv.arrays import FROM_NCHW, TO_NCHW
from numbaconv.bench.contender import Contender, gemm_reference
from numbaconv.bench.place import HOST, OnDevice, Place, place_of
from numbaconv.bench.spot import SAMPLES, random_normal, reference_of, spot_check
from numbaconv.commands import output
from numbaconv.commands.output import milliseconds, percent, progress, show_table, size, threads_text, write_json
from numbaconv.commands.parameters import (
    DESCRIPTOR,
    algorithm_option,
    device_option,
    fits_memory,
    iterations_option,
    json_option,
    threads_option,
    verbose_option,
)
from numbaconv.commands.reasons import of_problem
from numbaconv.lowering import STAGES
from numbaconv.probes import fma_peak, read_bandwidth
from numbaconv.timing import Sample, burst

__all__ = ["conv", "gemm"]

AFFORDABLE_MACS = 300_000_000
"""``reference`` does so many multiply-adds in about a second; beyond, only some elements are checked."""
CHECKED_ROWS = 64
DROP = 2
STAGE_RUNS = 9


def _time(call, iterations: int, title: str, place: Place = HOST) -> Sample:
    with progress(title, 2) as tick:
        return burst({"": call}, 1, drop=DROP, calls=iterations, timer=place.timer, sleep=lambda _: tick())[""]


@click.command()
@click.argument("problem", metavar="DESCRIPTOR", type=DESCRIPTOR)
@algorithm_option
@device_option
@threads_option
@iterations_option(20)
@json_option
@verbose_option
@click.pass_obj
def conv(
    verbose: bool,
    problem: ConvProblem,
    algorithm: str,
    device: str,
    num_threads: int,
    iterations: int,
    json_file: Path | None,
) -> None:
    """Check one convolution, then time it and its stages.

    Checked against the plain loops of `reference` in float64; where these would take more than about a second, some
    elements are.
    """
    p = problem
    if not p.macs:
        raise click.UsageError(f"{p} has no multiply-adds: nothing to time")
    fits_memory(p.input_bytes + 2 * p.weight_bytes + p.output_bytes, "choose a smaller problem")
    place = place_of(device)
    handle = plan(p, algorithm, device, num_threads=num_threads)
    rng = np.random.default_rng(0)
    x, w = (random_normal(rng, shape, p.dtype) for shape in (p.input_shape, p.weight_shape))
    handle.prepare(w)
    axes = FROM_NCHW[p.layout]
    image = place.put(np.ascontiguousarray(x.transpose(axes)))
    out = place.put(np.full([p.output_shape[axis] for axis in axes], np.nan, p.dtype))
    handle(image, out=out)
    checked, error = _check(p, x, w, place.get(out).transpose(TO_NCHW[p.layout]))
    stages: list[Mapping[str, float]] = []

    def call() -> None:
        handle(image, out=out)
        if not place.queues:
            stages.append(handle.stage_times)

    sample = _time(call, iterations, handle.algorithm, place)
    for _ in range(min(iterations, STAGE_RUNS) * place.queues):  # to look at them would wait for each call
        handle(image, out=out)
        stages.append(handle.stage_times)
    peak = place.peak(p.dtype) if isinstance(place, OnDevice) else fma_peak(p.dtype, num_threads)
    medians = {stage: float(np.median([run[stage] for run in stages[-iterations:]])) for stage in STAGES}
    gflops = p.flops / sample.median / 1e9
    row = {
        "problem": str(p), "algorithm": handle.algorithm, "flops": p.flops,
        "min_ms": sample.min * 1e3, "median_ms": sample.median * 1e3, "times_ms": [s * 1e3 for s in sample.times],
        "stage_ms": {stage: seconds * 1e3 for stage, seconds in medians.items()},
        "gflops": gflops, "share_of_peak": gflops / peak if peak else None,
        "lowering_bytes": handle.lowering_bytes, "panel_bytes": handle.panel_bytes,
        "workspace_bytes": handle.workspace_bytes, "prepared_bytes": handle.prepared_bytes,
        "checked": checked, "error": error,
    }  # fmt: skip
    if place.emulated:
        click.echo(output.EMULATED)
    click.echo(f"{p}   {p.macs / 1e6:.1f} M multiply-adds, {output.place_text(place, num_threads)}\n")
    of_peak = ["of peak"] if peak else []
    show_table(
        ["lowering", "min ms", "median ms", *(f"{stage} ms" for stage in STAGES), "GFLOP/s", *of_peak],
        [[handle.algorithm, milliseconds(sample.min), milliseconds(sample.median),
          *(milliseconds(medians[stage]) for stage in STAGES), f"{gflops:.1f}", *percent(gflops, peak)]],
    )  # fmt: skip
    click.echo(
        f"\nworkspace: {size(handle.workspace_bytes)} (lowered {size(handle.lowering_bytes)}, panels "
        f"{size(handle.panel_bytes)}); prepared weights: {size(handle.prepared_bytes)}\n"
        f"worst error: {error:.2g} of the result's root mean square ({checked})"
        + (f"; FMA peak {peak:.1f} GFLOP/s" if peak else "")
    )
    if verbose:
        click.echo(f"\n{of_problem(p, handle.algorithm, algorithm, num_threads, device)}")
    write_json(json_file, None if place.queues else num_threads, [row], fma_peak_gflops=peak,
               device=output.device_json(place))  # fmt: skip


def _check(p: ConvProblem, x: NDArray, w: NDArray, out: NDArray) -> tuple[str, float]:
    """(what was compared, the worst element's error over the result's root mean square).

    Raises
    ------
    WrongResult
    """
    if p.macs > AFFORDABLE_MACS:
        return f"{SAMPLES} elements against float64", spot_check(p, x, w, None, None, out)
    wide = replace(p, dtype="float64", layout="nchw")
    exact = plan(wide, "reference").prepare(w.astype(np.float64))(x.astype(np.float64))
    error = reference_of(exact, p.dtype).check(Contender(str(p), lambda: None, lambda: out))
    return "every element against `reference` in float64", error


@click.command()
@click.option("--m", type=click.IntRange(min=1), required=True, help="Rows of A and C.")
@click.option("--n", type=click.IntRange(min=1), required=True, help="Columns of B and C.")
@click.option("--k", type=click.IntRange(min=1), required=True, help="Columns of A, rows of B.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@threads_option
@click.option("--prepacked", is_flag=True, help="Pack A beforehand, as a layer packs its weights.")
@iterations_option(20)
@json_option
def gemm(
    m: int, n: int, k: int, dtype: str, num_threads: int, prepacked: bool, iterations: int, json_file: Path | None
) -> None:
    """Check one product C (m x n) = A (m x k) B (k x n), then time it."""
    flops, itemsize = 2 * m * n * k, np.dtype(dtype).itemsize
    moved = (m * k + k * n + m * n) * itemsize
    fits_memory(moved + m * k * itemsize * prepacked, "choose smaller sizes")
    rng = np.random.default_rng(0)
    a, b = random_normal(rng, (m, k), dtype), random_normal(rng, (k, n), dtype)
    out = np.full((m, n), np.nan, dtype)
    left: Any = prepack_a(a, n=n, num_threads=num_threads) if prepacked else a
    call = partial(multiply, left, b, out=out, num_threads=num_threads)
    call()
    name = "gemm, A prepacked" if prepacked else "gemm"
    rows = np.linspace(0, m - 1, min(m, CHECKED_ROWS), dtype=int)
    error = gemm_reference(a[rows], b).check(Contender(name, call, lambda: out[rows]))
    sample = _time(call, iterations, name)
    peak = fma_peak(dtype, num_threads)
    gflops, bandwidth = flops / sample.median / 1e9, moved / sample.median / 1e9
    click.echo(f"m {m}, n {n}, k {k}, {dtype}, {threads_text(num_threads)}\n")
    show_table(
        ["product", "min ms", "median ms", "GFLOP/s", "of peak", "GB/s"],
        [[name, milliseconds(sample.min), milliseconds(sample.median), f"{gflops:.1f}", f"{gflops / peak:.1%}",
          f"{bandwidth:.1f}"]],
    )  # fmt: skip
    row = {
        "m": m, "n": n, "k": k, "dtype": dtype, "prepacked": prepacked, "flops": flops, "bytes": moved,
        "min_ms": sample.min * 1e3, "median_ms": sample.median * 1e3, "times_ms": [s * 1e3 for s in sample.times],
        "gflops": gflops, "share_of_peak": gflops / peak, "gigabytes_per_second": bandwidth, "error": error,
    }  # fmt: skip
    click.echo(f"\nFMA peak {peak:.1f} GFLOP/s; worst error: {error:.2g} eps sqrt(k) |A||B| (4 is allowed)")
    if flops < moved:
        read = row["read_gigabytes_per_second"] = read_bandwidth(num_threads)
        click.echo(
            f"it moves more bytes than it computes: {bandwidth / read:.1%} of the {read:.1f} GB/s of a parallel sum"
        )
    write_json(json_file, num_threads, [row], fma_peak_gflops=peak)
