"""The process in which cases of the GPU's check run: ``python -m numbaconv.bench.gpu.worker``, its orders on stdin.

A kernel that goes wrong takes all later calls of its process with it, a crash the process itself. So cases run in a
child: it says which case it begins and what came of it, line by line, and ends when it is of no more use; ``run``
starts another for the cases that are left.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from numbaconv.bench.gpu.bench import Bench
from numbaconv.bench.gpu.case import attempt
from numbaconv.bench.gpu.cases import all_cases
from numbaconv.bench.gpu.cubins import compile_all, export, use

__all__ = ["FATAL", "main"]

FATAL = 3
"""The exit code of a process whose device answers no more."""


def main() -> int:
    orders = json.load(sys.stdin)
    # Whatever else prints to stdout, libraries included, goes to stderr.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**words: Any) -> None:
        channel.write(json.dumps(words, default=str) + "\n")
        channel.flush()

    cases = {case.key: case for case in all_cases(orders["quick"])}
    wanted = [cases[key] for key in orders["keys"]]
    if orders.get("cubins"):
        use(Path(orders["cubins"]))
    if "part" in orders:
        part, parts = orders["part"]
        cc, multiprocessors = tuple(orders["cc"]), orders["multiprocessors"]
        if orders.get("export"):
            say(kernels=export(wanted, cc, multiprocessors, Path(orders["export"]), part, parts))
        else:
            say(kernels=compile_all(wanted, cc, multiprocessors, part, parts))
        return 0
    bench = Bench(quick=orders["quick"], device=orders["device"])
    for case in wanted:
        if time.time() > orders["until"]:
            say(late=case.key)
            continue
        say(begin=case.key)
        record = attempt(bench, case)
        say(record=record)
        if record.get("fatal"):
            channel.flush()
            os._exit(FATAL)  # without the destructors, which would call the device
    return 0


if __name__ == "__main__":
    sys.exit(main())
