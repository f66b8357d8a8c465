"""Check and measure everything that needs an NVIDIA GPU, in one command, on any machine that has one.

    pip install '.[cuda13]' && python scripts/gpu_check.py --out .

For comparisons with cuBLAS and cuDNN install torch, built for CUDA, beside it; CuPy's arrays are tried where it is
there. Whatever is absent is left away with a line that says so. Without an installation the package beside this
script is used.

The check goes from what must work first to what is nice to know: versions; each word of CUDA kernels; products of every
tile; precision; torch's arrays and streams; cuBLAS; every lowering; ResNet-50 and VGG-16 against cuDNN; the ladder;
other tiles.
Nothing stops the rest: cases run in a process of their own, which is replaced when it dies or hangs. After --minutes no
case begins any more. Files in --out, written as it goes: gpu_check.txt, gpu_check.json, gpu_check.md (tables for the
README), with --profile and --sanitize gpu_check_tools.txt.

    NUMBACONV_CUDA=emulate python scripts/gpu_check.py --quick            # every step, tiny, without a GPU
    python scripts/gpu_check.py --export-cubins DIR --cc 9.0              # kernels for a machine without a compiler,
    python scripts/gpu_check.py --cubins DIR                              # and there
    python scripts/gpu_check.py --only 'gemm: 4096*' 'words: *'           # some cases

Ends with 1 if anything was wrong, failed, crashed or hung; figures that are missed are said, and no failure.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if importlib.util.find_spec("numbaconv") is None:
    sys.path.insert(0, str(ROOT))

MULTIPROCESSORS = {(7, 5): 72, (8, 0): 108, (8, 6): 84, (8, 9): 142, (9, 0): 132}
MOST_JOBS = 14
COMPILE_SHARE = 0.25  # of the time, at most, for compiling beforehand
TOOL_SECONDS = 75.0
MOST_SANITIZED = 3
SANITIZER = ("compute-sanitizer", "--print-limit", "8")
PROFILER = ("ncu", "--clock-control", "none", "--set", "detailed", "--kernel-name-base", "mangled", "-k",
            "regex:numbaconv", "--launch-count", "8")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    begun = time.time()
    try:
        from numbaconv.bench.gpu import cases as gpu_cases
        from numbaconv.bench.gpu import report as gpu_report
        from numbaconv.bench.gpu import run as gpu_run
    except Exception:
        traceback.print_exc()
        print(f"the package cannot be imported; python {sys.version}")
        for name in ("numba", "llvmlite", "numpy", "numba-cuda", "cuda-bindings", "cuda-core", "torch"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                print(name, importlib.metadata.version(name))
        return 1
    cases = gpu_cases.chosen(gpu_cases.all_cases(options.quick), options.only)
    if options.list:
        print(*(case.key for case in cases), sep="\n")
        return 0
    told = gpu_run.Options(options.quick, options.device, options.cubins, begun + 60 * options.minutes)
    if options.export_cubins:
        return export(options, cases, told)
    journal = gpu_report.Journal(options.out, sys.stdout)
    versions = next(case for case in cases if case.key == gpu_cases.VERSIONS)
    gpu_run.run_cases([versions], told, journal.add)
    facts = journal.records[0]
    device = facts["data"].get("device")
    if facts["status"] == "ok" and device:
        say_absent(journal, facts["data"])
        rest = [case for case in cases if case is not versions]
        jobs = min(MOST_JOBS, os.cpu_count() or 1) if options.jobs is None else options.jobs
        if jobs > 1 and not device["emulated"]:
            seconds = 60 * options.minutes * COMPILE_SHARE
            journal.note(gpu_run.compile_beforehand([case.key for case in rest], told, device, jobs, seconds))
        gpu_run.run_cases(rest, told, journal.add)
        if not device["emulated"]:
            use_tools(options, journal, told)
    journal.write()
    journal.say(gpu_report.summary(journal.records))
    journal.say(f"{time.time() - begun:.0f} s; files in {options.out}")
    return int(journal.bad > 0)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="tiny sizes, and few of them")
    made.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "."), metavar="DIR",
                      help="where files go; default: the variable OUT, else here")  # fmt: skip
    made.add_argument("--minutes", type=float, default=7.0, help="after so many no case begins (default 7)")
    made.add_argument("--only", nargs="+", default=(), metavar="PATTERN", help="cases whose name fits one of these")
    made.add_argument("--list", action="store_true", help="print the names of the cases")
    made.add_argument("--device", default="cuda", help="cuda (default), cuda:1, ...")
    made.add_argument(
        "--jobs", type=int, help="processes that compile kernels beforehand (default: the cores; 1: none)"
    )
    made.add_argument("--cubins", type=Path, metavar="DIR", help="take kernels from here that --export-cubins wrote")
    made.add_argument(
        "--export-cubins", type=Path, metavar="DIR", help="compile all kernels for another machine, and end"
    )
    made.add_argument("--cc", type=capability, default=(9, 0), help="that machine's compute capability (default 9.0)")
    made.add_argument("--multiprocessors", type=int, help="and how many it has: kernels are chosen by it")
    made.add_argument("--profile", action="store_true", help="afterwards look at the products with ncu")
    made.add_argument("--sanitize", action="store_true", help="afterwards run what failed under compute-sanitizer")
    return made


def capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise argparse.ArgumentTypeError(f"must be a compute capability such as 9.0; got {text}")
    return int(major), int(minor)


def say_absent(journal: Any, facts: dict[str, Any]) -> None:
    if isinstance(facts.get("torch"), str):
        journal.note(facts["torch"])
    if facts.get("smi"):
        journal.note(facts["smi"])


def export(options: argparse.Namespace, cases: Sequence[Any], told: Any) -> int:
    """Compile everything that the cases would launch for another machine."""
    from numbaconv.bench.gpu import run as gpu_run

    count = options.multiprocessors or MULTIPROCESSORS.get(options.cc, 100)
    jobs = options.jobs or os.cpu_count() or 1
    device = {"cc": options.cc, "multiprocessors": count}
    print(gpu_run.compile_beforehand([case.key for case in cases], told, device, jobs, 3600.0, options.export_cubins))
    written = list(options.export_cubins.glob("*.cubin"))
    print(
        f"{len(written)} files, {sum(path.stat().st_size for path in written) >> 10:,} KiB in {options.export_cubins}"
    )
    return int(not written)


def use_tools(options: argparse.Namespace, journal: Any, told: Any) -> None:
    """What NVIDIA's tools say of what failed, and of the products."""
    from numbaconv.bench.gpu import run as gpu_run

    said = []
    if options.sanitize:
        bad = [f"{r['step']}: {r['name']}" for r in journal.records if r["status"] in gpu_run.BAD]
        said += [gpu_run.under_tool(SANITIZER, [key], told, TOOL_SECONDS) for key in bad[:MOST_SANITIZED]]
    if options.profile:
        said.append(gpu_run.under_tool(PROFILER, ["tiles: profiled"], told, 2 * TOOL_SECONDS))
    if said:
        (options.out / "gpu_check_tools.txt").write_text("\n".join(said), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
