"""The supervisor of the GPU's check: workers, what they say, and what is done when one falls silent."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from numbaconv.bench.gpu.case import Case
from numbaconv.jit import PACKAGE

__all__ = ["BAD", "Options", "compile_beforehand", "run_cases", "under_tool"]

BAD = ("wrong", "error", "crash", "hang")
START_SECONDS = 150.0
"""Until a worker has begun its first case: libraries are imported from a cold disk."""
TAIL = 3000
MOST_DEATHS = 3
"""Workers that die before they begin anything."""

Add = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Options:
    """What all workers are told.

    Attributes
    ----------
    quick : bool
    device : str
    cubins : Path or None
        Where kernels lie that were compiled elsewhere.
    until : float
        The time (``time.time``) after which no case begins.
    command : sequence of str
        Of a worker.
    """

    quick: bool = False
    device: str = "cuda"
    cubins: Path | None = None
    until: float = float("inf")
    command: Sequence[str] = field(default_factory=lambda: (sys.executable, "-m", "numbaconv.bench.gpu.worker"))

    def orders(self, keys: Sequence[str], **more: Any) -> str:
        """For a worker's stdin."""
        until = min(self.until, time.time() + 1e6)
        said = {"quick": self.quick, "device": self.device, "until": until, "keys": list(keys)}
        return json.dumps(said | {"cubins": self.cubins and str(self.cubins)} | more)


def environment(**more: str) -> dict[str, str]:
    """A worker's: it finds this package wherever it lies."""
    path = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONFAULTHANDLER": "1", **more}


def failure(case: Case, status: str, note: str, trace: str, seconds: float) -> dict[str, Any]:
    return {"step": case.step, "name": case.name, "status": status, "note": note, "data": {}, "trace": trace,
            "seconds": seconds}  # fmt: skip


def run_cases(cases: Sequence[Case], options: Options, add: Add) -> None:
    """Run cases, each to its record, which is handed to `add`; workers are replaced when they die or hang."""
    left = {case.key: case for case in cases}
    deaths = 0
    while left:
        before = len(left)
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
            _one_worker(left, options, add, errors)
            deaths = deaths + 1 if len(left) == before else 0
            if deaths == MOST_DEATHS:
                case = next(iter(left.values()))
                note = f"{deaths} workers died before they began anything; {len(left)} cases are not tried"
                add(failure(case, "crash", note, _tail(errors), 0.0))
                return


def _one_worker(left: dict[str, Case], options: Options, add: Add, errors: IO[str]) -> None:
    """Start a worker and listen until it ends; what is done is taken from `left`."""
    worker = subprocess.Popen(options.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                              env=environment(), encoding="utf-8")  # fmt: skip
    lines: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=listen, daemon=True).start()
    begun: Case | None = None
    start = time.perf_counter()
    try:
        assert worker.stdin is not None
        try:
            worker.stdin.write(options.orders(list(left)))
            worker.stdin.close()
        except OSError:  # it is dead already; its end is seen below
            pass
        while True:
            try:
                line = lines.get(timeout=begun.limit if begun else START_SECONDS)
            except queue.Empty:
                worker.kill()
                if begun is not None:
                    note = f"still running after {begun.limit:.0f} s, or the device hangs"
                    add(failure(left.pop(begun.key), "hang", note, _tail(errors), time.perf_counter() - start))
                return
            if not line:
                break
            said = json.loads(line)
            if "begin" in said:
                begun, start = left[said["begin"]], time.perf_counter()
            elif "record" in said:
                assert begun is not None
                del left[begun.key]
                begun = None
                add(said["record"])
            elif "late" in said:
                add(failure(left.pop(said["late"]), "late", "no time was left", "", 0.0))
        code = worker.wait(timeout=60)
        if begun is not None:
            note = f"its process ended with {code}"
            add(failure(left.pop(begun.key), "crash", note, _tail(errors), time.perf_counter() - start))
    finally:
        worker.kill()
        worker.wait()


def _tail(errors: IO[str]) -> str:
    """The end of what a worker wrote to stderr."""
    errors.seek(0)
    return errors.read()[-TAIL:]


def compile_beforehand(
    keys: Sequence[str], options: Options, device: Mapping[str, Any], jobs: int, seconds: float,
    export: Path | None = None,
) -> str:  # fmt: skip
    """Compile the kernels that the cases `keys` need, by `jobs` processes at once; returns what came of it.

    Parameters
    ----------
    device : mapping
        "cc" and "multiprocessors", for which kernels are chosen.
    seconds : float
        After so many the processes are ended: what is missing is compiled when it is met.
    export : Path, optional
        Where machine code is written for another machine; otherwise it goes to the package's cache.
    """
    start = time.perf_counter()
    told = {"cc": list(device["cc"]), "multiprocessors": device["multiprocessors"], "export": export and str(export)}
    workers = []
    for part in range(jobs):
        worker = subprocess.Popen(
            options.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment(NUMBACONV_CUDA="emulate"),
        )  # fmt: skip
        assert worker.stdin is not None
        worker.stdin.write(options.orders(keys, part=[part, jobs], **told))
        worker.stdin.close()
        worker.stdin = None
        workers.append(worker)
    count, troubles, ended = 0, [], 0
    for worker in workers:
        try:
            said = worker.communicate(timeout=max(0.1, start + seconds - time.perf_counter()))[0] or ""
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.communicate()
            ended += 1
            continue
        for line in said.splitlines():
            if line.startswith('{"kernels"'):
                count += json.loads(line)["kernels"]
            elif line.strip():
                troubles.append(line)
        if worker.returncode:
            troubles.append(f"a process ended with {worker.returncode}")
    spent = time.perf_counter() - start
    late = f", {ended} processes were ended after {seconds:.0f} s" if ended else ""
    trouble = "".join(f"\n  {line}" for line in troubles[-12:])
    return f"{count} kernels for {'.'.join(map(str, device['cc']))} by {jobs} processes in {spent:.0f} s{late}{trouble}"


def under_tool(tool: Sequence[str], keys: Sequence[str], options: Options, seconds: float) -> str:
    """What a tool of NVIDIA's, wrapped round a worker, says of some cases."""
    command = [*tool, *options.command]
    try:
        done = subprocess.run(command, input=options.orders(keys), capture_output=True, text=True, timeout=seconds,
                              env=environment(), check=False)  # fmt: skip
        said = f"{done.stdout}\n{done.stderr}"
    except subprocess.TimeoutExpired as late:
        parts = [part.decode(errors="replace") if isinstance(part, bytes) else part or "" for part in
                 (late.stdout, late.stderr)]  # fmt: skip
        said = "\n".join([*parts, f"ended after {seconds:.0f} s"])
    except OSError as error:
        said = f"{command[0]}: {error}"
    return f"$ {' '.join(command)}  # {', '.join(keys)}\n{said}\n"
