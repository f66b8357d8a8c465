"""Time numbaconv against its peers on this machine.

    python scripts/bench.py gemm --both --num-threads 1 2
    python scripts/bench.py micro
    python scripts/bench.py overhead --num-threads 1 2
    python scripts/bench.py patches --num-threads 1 2
    python scripts/bench.py conv --networks resnet50 --peers torch-cl ncnn --json results.json
    python scripts/bench.py conv --networks resnet50 --match kh3sh1 --algorithms im2col --peers
    python scripts/bench.py regret --networks alexnet vgg16 resnet50 --num-threads 1 2 --json regret.json

Every result is checked before anything is timed. The contenders of a row take turns in bursts, with equal threads, on
random normal data; speeds are by the median call unless told otherwise, with the fastest call's in brackets. Ends
with 1 if a result was wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numba

from numbaconv import probes
from numbaconv.bench import micro, ours, overhead, patches, regret, report, suites
from numbaconv.bench.contender import WrongResult
from numbaconv.bench.conv_peers import CONV_PEERS
from numbaconv.bench.peers import GEMM_PEERS, Peer, choose
from numbaconv.errors import NumbaconvError
from numbaconv.layouts import LAYOUTS
from numbaconv.machine import default_threads, detect
from numbaconv.problem import ConvProblem
from numbaconv.request import ACCURACIES


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    options.timing = {name: getattr(options, name) for name in ("statistic", "rounds", "seconds")}
    try:
        return options.run(options)
    except NumbaconvError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    timing = argparse.ArgumentParser(add_help=False)
    timing.add_argument("--num-threads", type=positive, nargs="+", metavar="T", help="one table for each; default: all")
    timing.add_argument("--rounds", type=positive, default=5, help="bursts of each contender in a row (default 5)")
    timing.add_argument("--seconds", type=float, default=8.0, help="time for a row (default 8)")
    timing.add_argument("--statistic", choices=["median", "lower_quartile", "min"], default="median")
    timing.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    common = argparse.ArgumentParser(add_help=False, parents=[timing])
    common.add_argument("--peers", nargs="*", metavar="NAME", help="default: all that can be imported")
    layers = argparse.ArgumentParser(add_help=False)
    layers.add_argument("--networks", nargs="+", metavar="NAME", default=["alexnet", "vgg16", "resnet50"])
    layers.add_argument("--problems", nargs="+", metavar="DESCRIPTOR", help="these convolutions instead of networks")
    layers.add_argument(
        "--match", type=re.compile, default="", metavar="REGEX", help="those whose descriptor contains it"
    )
    layers.add_argument("--mb", type=positive, default=1, help="images (default 1)")
    layers.add_argument("--layout", choices=LAYOUTS, default="nchw", help="memory order of ours (default nchw)")
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True)

    gemm = commands.add_parser("gemm", parents=[common], help="matrix products")
    variant = gemm.add_mutually_exclusive_group()
    variant.add_argument("--prepacked", action="store_true", help="with our left operand packed beforehand")
    variant.add_argument("--both", action="store_true", help="ours as it comes, and prepacked")
    gemm.add_argument("--shapes", type=shape, nargs="+", metavar="M,K,N", default=suites.GEMM_SHAPES)
    gemm.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    gemm.set_defaults(run=run_gemm)

    kernels = commands.add_parser(
        "micro", parents=[common], help="the micro-kernels alone, one core, against the FMA peak"
    )
    kernels.set_defaults(run=run_micro)

    copies = commands.add_parser("patches", parents=[common], help="im2col's copying, against the machine's")
    copies.set_defaults(run=run_patches)

    small = commands.add_parser(
        "overhead", parents=[common], help="what calls of tiny convolutions cost over the kernel"
    )
    small.set_defaults(run=run_overhead)

    conv = commands.add_parser("conv", parents=[common, layers], help="convolutions")
    conv.add_argument("--algorithms", nargs="+", metavar="NAME", default=["auto"], help="ours to time (default auto)")
    conv.add_argument("--accuracy", nargs="+", choices=ACCURACIES, default=["float32"], help="(default float32)")
    conv.set_defaults(run=run_conv)

    choices = commands.add_parser(
        "regret", parents=[timing, layers], help="what auto's choices cost against the best that is measured"
    )
    choices.add_argument(
        "--factor", type=float, default=3.0, help="time those predicted within this factor of the best (default 3)"
    )
    choices.set_defaults(run=run_regret)
    return top


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {text}")
    return number


def shape(text: str) -> tuple[int, int, int]:
    sizes = [positive(size) for size in text.replace("x", ",").split(",")]
    if len(sizes) != 3:
        raise argparse.ArgumentTypeError(f"must be three numbers M,K,N; got {text}")
    return sizes[0], sizes[1], sizes[2]


def run_micro(options: argparse.Namespace) -> int:
    print(f"{'tile':<10} {'GFLOP/s, kc 128 in L1':>22} {'kc 384 from L2':>18} {'its share of the peak':>22}")
    for tile, shallow, deep, share in micro.measure():
        print(f"{tile:<10} {shallow:>22.1f} {deep:>18.1f} {share:>22.1%}")
    return 0


def run_patches(options: argparse.Namespace) -> int:
    print(f"{'layer':<58} {'threads':>7} {'MB':>6} {'GB/s written':>13} {'of copy bandwidth':>18}")
    for threads in options.num_threads or [default_threads()]:
        for row in patches.measure(threads):
            print(f"{row.layer:<58} {threads:>7} {row.size / 1e6:>6.0f} {row.gigabytes:>13.1f} {row.share:>18.1%}")
    return 0


def run_overhead(options: argparse.Namespace) -> int:
    print(
        f"microseconds, median call\n{'convolution':<36} {'threads':>7}" + "".join(f"{n:>12}" for n in overhead.CALLS)
    )
    try:
        for threads in options.num_threads or [default_threads()]:
            for row in overhead.measure(threads, options.rounds):
                cells = "".join(f"{1e6 * row.seconds.get(name, math.nan):>12.2f}" for name in overhead.CALLS)
                print(f"{row.algorithm + ' ' + row.problem:<36} {threads:>7}{cells}", flush=True)
    except WrongResult as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def run_gemm(options: argparse.Namespace) -> int:
    peers, missing = choose(GEMM_PEERS, options.peers)
    prepacked = [False, True] if options.both else [options.prepacked]
    contenders = [*(ours.PREPACKED if packed else ours.NAME for packed in prepacked), *(peer.name for peer in peers)]

    def rows(threads: int) -> Iterator[report.Row]:
        for sizes in options.shapes:
            yield suites.gemm_row(sizes, peers, threads, prepacked, options.dtype, **options.timing)

    return run(options, peers, missing, contenders, rows, width=22)


def run_conv(options: argparse.Namespace) -> int:
    peers, missing = choose(CONV_PEERS, options.peers)
    problems = chosen_problems(options)

    def rows(threads: int) -> Iterator[report.Row]:
        for problem, count in problems:
            yield suites.conv_row(
                problem, peers, threads, options.algorithms, options.accuracy, count, **options.timing
            )

    variants = itertools.product(options.algorithms, options.accuracy)
    contenders = [*itertools.starmap(ours.conv_name, variants), *(peer.name for peer in peers)]
    width = max((len(str(problem)) for problem, _ in problems), default=0)
    return run(options, peers, missing, contenders, rows, width)


def chosen_problems(options: argparse.Namespace) -> list[tuple[ConvProblem, int]]:
    """The convolutions asked for, and how many layers each stands for."""
    if options.problems:
        problems = [(ConvProblem.parse(text), 1) for text in options.problems]
    else:
        problems = suites.conv_problems(options.networks, options.mb, options.layout)
    return [(problem, count) for problem, count in problems if re.search(options.match, str(problem))]


def run_regret(options: argparse.Namespace) -> int:
    problems = chosen_problems(options)
    width = max((len(str(problem)) for problem, _ in problems), default=0)
    describe_machine()
    print(f"\n{regret.header(width)}")
    layers = []
    for threads in options.num_threads or [default_threads()]:
        for problem, count in problems:
            layers.append(regret.measure(problem, threads, count, options.factor, **options.timing))
            print(regret.line(layers[-1], width), flush=True)
    print(f"\n{regret.text(layers)}")
    if options.json:
        options.json.write_text(json.dumps(regret.as_json(layers, [f"numba {numba.__version__}"]), indent=1))
    return int(any(layer.wrong for layer in layers))


def describe_machine(versions: Sequence[str] = ()) -> None:
    machine = detect()
    print(f"{machine.cpu_name} ({machine.llvm_name}), {machine.cores} cores, {machine.vector_bits}-bit vectors")
    print(", ".join([f"Python {platform.python_version()}", *dict.fromkeys(versions)]))
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 0.5:
        print(f"other processes keep {load:.1f} cores busy: expect low figures, and lowest for who waits by spinning")


def run(
    options: argparse.Namespace,
    peers: Sequence[Peer],
    missing: dict[str, str],
    contenders: Sequence[str],
    rows_for: Callable[[int], Iterator[report.Row]],
    width: int,
) -> int:
    """Print rows as they are measured, then summaries; write the JSON file."""
    versions = [peer.version() for peer in peers]
    describe_machine(versions)
    for name, reason in missing.items():
        print(f"{name} is not timed: {reason}")
    rows, ceilings = [], {}
    for threads in options.num_threads or [default_threads()]:
        peak = ceilings[f"fma float32 x{threads}"] = probes.fma_peak("float32", threads)
        print(f"\n{report.threads(threads)}; FMA peak {peak:.0f} GFLOP/s (float32)\n{report.header(contenders, width)}")
        for row in rows_for(threads):
            rows.append(row)
            print(report.line(row, contenders, width), flush=True)
            if row.flops < row.bytes:
                read = ceilings[f"read x{threads}"] = probes.read_bandwidth(threads, refresh=True)
                print(report.bandwidth_line(row, read), flush=True)
    print()
    print(*report.summaries(rows), *report.totals(rows), *report.lowering_shares(rows), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(rows, versions, ceilings), indent=1))
    return int(any(row.wrong for row in rows))


if __name__ == "__main__":
    sys.exit(main())
