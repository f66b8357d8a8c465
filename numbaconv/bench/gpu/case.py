"""A check of a GPU in cases: what a case is, what it runs with, and what is kept of it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numbaconv.bench.contender import WrongResult
from numbaconv.devices.driver import DriverError

if TYPE_CHECKING:
    from numbaconv.bench.gpu.bench import Bench

__all__ = ["Case", "Skip", "Tally", "attempt"]


class Skip(Exception):
    """A case that cannot be here, and why."""


@dataclass(frozen=True)
class Case:
    """A piece of the check.

    Attributes
    ----------
    step, name : str
        Together they are unique.
    run : callable
        Takes the bench, returns figures that JSON can hold; raises ``WrongResult``, ``Skip`` or anything else.
    limit : float
        Seconds after which it counts as hanging.
    """

    step: str
    name: str
    run: Callable[[Bench], Any]
    limit: float = 90.0

    @property
    def key(self) -> str:
        return f"{self.step}: {self.name}"


class Tally:
    """Several verdicts of one case: the others are still asked for when one is wrong."""

    def __init__(self) -> None:
        self.right, self.wrong, self.refused = 0, {}, 0  # type: int, dict[str, str], int

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """What is wrong in the block is noted, but for a failure of the driver, after which nothing works."""
        try:
            yield
            self.right += 1
        except DriverError as failure:
            raise RuntimeError(f"{what}: {failure}") from failure
        except Exception as failure:
            place = traceback.extract_tb(failure.__traceback__)[-1]
            where = "" if isinstance(failure, WrongResult) else f" ({place.name}, line {place.lineno})"
            self.wrong[what] = f"{type(failure).__name__}: {failure}{where}"

    def figures(self, bench: Bench) -> dict[str, Any]:
        """For the case to return; WrongResult where something was wrong."""
        if self.wrong:
            first = next(iter(self.wrong.items()))
            bench.wrong(f"{len(self.wrong)} of {len(self.wrong) + self.right} wrong; {first[0]}: {first[1]}")
        return {"right": self.right, "wrong": self.wrong, "refused": self.refused}


def attempt(bench: Bench, case: Case) -> dict[str, Any]:
    """Run a case: what came of it, as JSON can hold it. ``fatal`` there says that the process is of no more use."""
    start = time.perf_counter()
    record: dict[str, Any] = {"step": case.step, "name": case.name, "status": "ok", "note": "", "data": {}}
    try:
        record["data"] = case.run(bench) or {}
        record["note"] = record["data"].pop("note", "")
    except Skip as reason:
        record |= {"status": "absent", "note": str(reason)}
    except WrongResult as failure:
        record |= {"status": "wrong", "note": str(failure), "trace": traceback.format_exc(limit=-4)}
        record["data"] = getattr(failure, "figures", {})
    except Exception as failure:
        record |= {"status": "error", "note": f"{type(failure).__name__}: {failure}", "trace": traceback.format_exc()}
    if "runtime" in bench.__dict__ and not bench.recording:
        try:
            bench.runtime.synchronize()
            bench.free()
        except Exception as failure:
            known = "" if record["status"] == "ok" else f"{record['note']}; "
            record |= {"status": "error", "note": f"{known}afterwards {failure}", "fatal": True}
    record["seconds"] = time.perf_counter() - start
    return record
