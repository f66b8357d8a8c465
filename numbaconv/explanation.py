"""``explain``: what every lowering would do with a problem, and what that would cost."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace

from numbaconv.api import as_problem, make_request
from numbaconv.devices import cuda as cuda_devices
from numbaconv.errors import DeviceUnavailable
from numbaconv.gemm.arithmetic import in_words
from numbaconv.gemm.cuda_plan import arithmetic_for
from numbaconv.lowering import GemmCall
from numbaconv.measured import known
from numbaconv.problem import ConvProblem
from numbaconv.registry import broken
from numbaconv.request import Epilogue, Request
from numbaconv.select import Candidate, candidates

LINE = 120
"""Columns of an explanation's table, as far as names allow."""
SHOWN_PRODUCTS = 3


@dataclass(frozen=True)
class Row:
    """What ``explain`` says of one lowering: ``runs``, ``reason`` when not, bytes, multiply-adds, predicted seconds.

    ``waste`` is its multiply-adds beyond the direct method's, as a part of those; negative where some are saved.
    ``measured`` are the seconds that ``algorithm="measure"`` remembers, if it does.
    """

    name: str
    runs: bool
    reason: str
    lowering_bytes: int
    panel_bytes: int
    macs: int
    seconds: float
    gemm_calls: tuple[GemmCall, ...] = ()
    bytes_moved: int = 0
    waste: float = 0.0
    admitted: bool = True
    error: str | float = "exact"
    measured: float | None = None

    @property
    def workspace_bytes(self) -> int:
        return self.lowering_bytes + self.panel_bytes

    @property
    def products(self) -> str:
        """Its products in words: the first three, and how many other kinds there are."""
        kinds = [f"{c.count * c.batch} of {c.m} x {c.k} x {c.n}" for c in self.gemm_calls]
        more = [f"... {len(kinds) - SHOWN_PRODUCTS} more"] if len(kinds) > SHOWN_PRODUCTS else []
        return ", ".join([*kinds[:SHOWN_PRODUCTS], *more]) or "none"

    @property
    def accuracy(self) -> str:
        """Its error in words, where it is not that of sums of products."""
        if isinstance(self.error, str):
            return ""
        return f", error {self.error:.2f} times direct's" + ("" if self.admitted else ": by name only")


@dataclass(frozen=True)
class Explanation:
    """Every lowering's answers about a problem, best first; ``str()`` prints a table."""

    problem: ConvProblem
    request: Request
    chosen: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The threads or the device."""
        device = self.request.device
        return f"{self.request.num_threads} thread(s)" if device == "cpu" else f"device {device}"

    def __str__(self) -> str:
        p = self.problem
        width = max(len(name) for name in ("lowering", *(row.name for row in self.rows)))
        lines = [
            f"{p}   {p.macs / 1e6:.1f} M multiply-adds, {self.where}, auto: {self.chosen}",
            f"{'lowering':<{width}} {'lowered':>12} {'panels':>11} {'moved':>13} {'M macs':>9} {'waste':>7} "
            f"{'predicted':>11}  products m x k x n",
        ]
        for row in self.rows:
            if not row.runs:
                lines += _folded(f"{row.name:<{width}} refused: ", row.reason)
                continue
            numbers = (f"{row.name:<{width}} {row.lowering_bytes:>12,} {row.panel_bytes:>11,} {row.bytes_moved:>13,} "
                       f"{row.macs / 1e6:>9.1f} {row.waste:>7.1%} {_milliseconds(row)} ")  # fmt: skip
            words = row.products + row.accuracy
            lines += _folded(numbers, words.replace(" ", "\xa0").replace(",\xa0", ", "))
        return "\n".join([*lines, *self.notes])


def _milliseconds(row: Row) -> str:
    """The time of a lowering, with a star where it was measured."""
    return f"{row.seconds * 1e3:>8.2f} ms " if row.measured is None else f"{row.measured * 1e3:>8.2f} ms*"


def _folded(first: str, text: str) -> list[str]:
    """`text` behind `first`, in lines of at most ``LINE`` characters; no-break spaces hold words together."""
    indent = " " * len(first)
    lines = textwrap.wrap(text, LINE, initial_indent=first, subsequent_indent=indent, break_long_words=False)
    return [line.replace("\xa0", " ") for line in lines]


def explain(
    problem: ConvProblem | str,
    *,
    device: str | None = None,
    num_threads: int | None = None,
    precision: str = "highest",
    accuracy: str = "float32",
    max_workspace: int | None = None,
) -> Explanation:
    """What every lowering would do with a problem: runs or refused because ..., bytes, multiply-adds, predicted time.

    A time that ``algorithm="measure"`` remembers stands in the place of the predicted one.

    Parameters
    ----------
    problem : ConvProblem or str
    device, num_threads, precision, accuracy, max_workspace
        As in ``conv2d``.
    """
    problem = as_problem(problem)
    request = make_request(device, num_threads, precision, accuracy, max_workspace, None, Epilogue())
    if "+" in request.device:
        raise DeviceUnavailable("explain: ask for 'cpu' and 'cuda' apart; 'cpu+cuda' gives each its best lowering")
    answers = candidates(problem, request)
    remembered = known(problem, request)
    times = remembered.times if remembered else {}
    rows = tuple(
        replace(_row(answer, problem, request), measured=times.get(answer.lowering.spec)) for answer in answers
    )
    able = [row for row in rows if row.runs and row.admitted]
    fitting = [row for row in able if max_workspace is None or row.workspace_bytes <= max_workspace]
    notes = [f"plug-in {name} is broken: {error}" for name, error in broken.items()]
    notes += _precision_notes(problem, request)
    notes += [f"* measured, not predicted; measure: {remembered.chosen}"] if remembered else []
    return Explanation(problem, request, fitting[0].name if fitting else "none", rows, tuple(notes))


def _precision_notes(problem: ConvProblem, request: Request) -> list[str]:
    """What multiplies, where less than float32 was accepted."""
    if request.precision == "highest":
        return []
    if request.device == "cpu":
        return [f"precision={request.precision!r}: {in_words(request.precision, problem.dtype)}"]
    words = {"fma": "no faster arithmetic than float32, float32 runs", "tf32": "tensor cores, one TF32 product each",
             "tf32x3": "tensor cores, three TF32 products for each of float32"}  # fmt: skip
    device = cuda_devices.runtime(request.device)
    chosen = arithmetic_for(request.precision, problem.itemsize, device.cc)
    have = f"{device.name} has " if chosen == "fma" else ""
    return [f"precision={request.precision!r}: {have}{words[chosen]} (lowerings without products: float32)"]


def _row(answer: Candidate, problem: ConvProblem, request: Request) -> Row:
    error = answer.lowering.error_bound(problem, request) if answer.support else "exact"
    calls = tuple(answer.division.gemm_calls(answer.lowering)) if answer.support else ()
    waste = answer.macs / problem.macs - 1 if answer.macs and problem.macs else 0.0
    return Row(answer.lowering.name, bool(answer.support), answer.support.reason, answer.lowering_bytes,
               answer.panel_bytes, answer.macs, answer.seconds, calls, answer.bytes_moved, waste,
               answer.admitted, error)  # fmt: skip
