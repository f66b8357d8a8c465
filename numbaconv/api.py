"""``conv2d``, ``plan``, ``explain``: one call from arrays to result, and what stands behind it."""

from __future__ import annotations

import platform
import textwrap
from dataclasses import dataclass
from typing import Any

import llvmlite
import numba
import numpy as np

from numbaconv.arrays import bias_array, host_array, run_plan
from numbaconv.errors import DeviceUnavailable, ShapeError
from numbaconv.jit import build_key, cache_directory
from numbaconv.layouts import LAYOUTS
from numbaconv.lowering import GemmCall, Lowering
from numbaconv.machine import default_threads, detect
from numbaconv.plan import Handle, Plan, make_plan
from numbaconv.problem import ConvProblem
from numbaconv.products import check_device, threads_for
from numbaconv.registry import broken
from numbaconv.request import Epilogue, Request
from numbaconv.select import Candidate, candidates

LINE = 120
"""Columns of an explanation's table, as far as names allow."""
SHOWN_PRODUCTS = 3


def conv2d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    algorithm: str | Lowering = "auto",
    device: str | None = None,
    layout: str = "nchw",
    precision: str = "highest",
    accuracy: str = "float32",
    activation: str | None = None,
    residual: Any = None,
    max_workspace: int | None = None,
    out: np.ndarray | None = None,
    num_threads: int | None = None,
    stream: Any = None,
) -> np.ndarray:
    """Two-dimensional convolution (cross-correlation, as in every neural-network library).

    Parameters
    ----------
    x : array (mb, ic, ih, iw) or (ic, ih, iw)
        float32 or float64, any strides; NumPy's, or any with ``__dlpack__`` on the CPU. With ``layout="nhwc"``
        (mb, ih, iw, ic). The result keeps x's memory order.
    w : array (oc, ic/groups, kh, kw)
        Of x's dtype.
    bias : array (oc,), optional
    stride, dilation : int or pair
        Dilation 1 is dense.
    padding : int, pair, four ints, "valid", "same" (= "same_upper") or "same_lower"
        Four are (top, left, bottom, right).
    groups : int
    algorithm : str or Lowering
        ``"auto"``, a name (``list_lowerings()``), a name with parameters (``"im2col:batching=image"``), an instance.
    device : {None, "cpu"}
        None: where x lives.
    layout : {"nchw", "nhwc"}
        Order of x's, residual's, out's and the result's axes.
    precision, accuracy : str
        See ``Request``.
    activation : {None, "relu", "relu6"}
        Applied last, in the same store as bias and residual.
    residual : array of the output's shape, optional
        Added before the activation.
    max_workspace : int, optional
        Bytes of scratch that may be used.
    out : ndarray, optional
        Where the result goes.
    num_threads : int, optional
        The result has the same bits for any number.
    stream : None
        CUDA only.

    Returns
    -------
    ndarray (mb, oc, oh, ow), or as `layout` says
        `out`, if it was given.

    Raises
    ------
    ShapeError
        When shapes, dtypes or sizes do not describe a convolution.
    UnknownLowering, UnsupportedProblem, WorkspaceExceeded, DeviceUnavailable
    """
    x, w = host_array(x, "x"), host_array(w, "w")
    problem = ConvProblem.from_arrays(x, w, stride, padding, dilation, groups, layout)
    bias = bias_array(bias, problem.oc, x.dtype)
    request = make_request(device, num_threads, precision, accuracy, max_workspace, stream,
                           Epilogue(bias is not None, residual is not None, activation))  # fmt: skip
    chosen = make_plan(problem, algorithm, request)
    prepared = chosen.prepare(w) if problem.mb else None
    return run_plan(chosen, x, prepared, bias, residual, out, layout)[0]


def make_request(device, num_threads, precision, accuracy, max_workspace, stream, epilogue: Epilogue) -> Request:
    """The request that the arguments of a call make.

    Raises
    ------
    ValueError
        Naming the argument.
    DeviceUnavailable
    """
    if stream is not None:
        raise DeviceUnavailable("stream: only a CUDA device has streams")
    return Request(check_device(device), threads_for(num_threads), precision, accuracy, max_workspace, epilogue)


def plan(
    problem: ConvProblem | str,
    algorithm: str | Lowering = "auto",
    device: str | None = None,
    *,
    layout: str | None = None,
    precision: str = "highest",
    accuracy: str = "float32",
    bias: bool = False,
    residual: bool = False,
    activation: str | None = None,
    max_workspace: int | None = None,
    num_threads: int | None = None,
    stream: Any = None,
) -> Handle:
    """Choose once, prepare once, run many times.

    Parameters
    ----------
    problem : ConvProblem or str
        Or its descriptor.
    layout : {"nchw", "nhwc"}, optional
        Order of the axes of the arrays to come; the problem's memory order, unless given.
    bias, residual : bool
        Whether the runs will have them.
    algorithm, device, precision, accuracy, activation, max_workspace, num_threads, stream
        As in ``conv2d``.

    Returns
    -------
    Handle
        ``prepare(w, bias)``, then call it with x. Several threads may call one handle.
    """
    problem = as_problem(problem)
    if layout not in (None, *LAYOUTS):
        raise ShapeError(f"layout must be one of {', '.join(map(repr, LAYOUTS))}; got {layout!r}")
    request = make_request(device, num_threads, precision, accuracy, max_workspace, stream,
                           Epilogue(bias, residual, activation))  # fmt: skip
    return Handle(make_plan(problem, algorithm, request), layout)


def as_problem(problem: ConvProblem | str) -> ConvProblem:
    """A problem, from itself or its descriptor.

    Raises
    ------
    TypeError, ShapeError
    """
    if isinstance(problem, ConvProblem):
        return problem
    if isinstance(problem, str):
        return ConvProblem.parse(problem)
    raise TypeError(f"problem: expected a ConvProblem or a descriptor, got {problem!r}")


@dataclass(frozen=True)
class Row:
    """What ``explain`` says of one lowering: ``runs``, ``reason`` when not, bytes, multiply-adds, predicted seconds.

    ``waste`` is its multiply-adds beyond the direct method's, as a part of those; negative where some are saved.
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

    @property
    def workspace_bytes(self) -> int:
        return self.lowering_bytes + self.panel_bytes

    @property
    def products(self) -> str:
        """Its products in words: the first three, and how many other kinds there are."""
        kinds = [f"{c.count} of {c.m} x {c.k} x {c.n}" for c in self.gemm_calls]
        more = [f"... {len(kinds) - SHOWN_PRODUCTS} more"] if len(kinds) > SHOWN_PRODUCTS else []
        return ", ".join([*kinds[:SHOWN_PRODUCTS], *more]) or "none"


@dataclass(frozen=True)
class Explanation:
    """Every lowering's answers about a problem, best first; ``str()`` prints a table."""

    problem: ConvProblem
    request: Request
    chosen: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        p = self.problem
        width = max(len(name) for name in ("lowering", *(row.name for row in self.rows)))
        lines = [
            f"{p}   {p.macs / 1e6:.1f} M multiply-adds, {self.request.num_threads} thread(s), auto: {self.chosen}",
            f"{'lowering':<{width}} {'lowered':>12} {'panels':>11} {'moved':>13} {'M macs':>9} {'waste':>7} "
            f"{'predicted':>11}  products m x k x n",
        ]
        for row in self.rows:
            if not row.runs:
                lines += _folded(f"{row.name:<{width}} refused: ", row.reason)
                continue
            numbers = (f"{row.name:<{width}} {row.lowering_bytes:>12,} {row.panel_bytes:>11,} {row.bytes_moved:>13,} "
                       f"{row.macs / 1e6:>9.1f} {row.waste:>7.1%} {row.seconds * 1e3:>8.2f} ms  ")  # fmt: skip
            lines += _folded(numbers, row.products.replace(" ", "\xa0").replace(",\xa0", ", "))
        return "\n".join([*lines, *self.notes])


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

    Parameters
    ----------
    problem : ConvProblem or str
    device, num_threads, precision, accuracy, max_workspace
        As in ``conv2d``.
    """
    problem = as_problem(problem)
    request = make_request(device, num_threads, precision, accuracy, max_workspace, None, Epilogue())
    answers = candidates(problem, request)
    rows = tuple(_row(answer, problem) for answer in answers)
    fitting = [r for r in rows if r.runs and (max_workspace is None or r.workspace_bytes <= max_workspace)]
    notes = [f"plug-in {name} is broken: {error}" for name, error in broken.items()]
    if precision != "highest":
        notes.append(f"precision={precision!r}: this version has no faster arithmetic than float32, float32 runs")
    return Explanation(problem, request, fitting[0].name if fitting else "none", rows, tuple(notes))


def _row(answer: Candidate, problem: ConvProblem) -> Row:
    calls = tuple(answer.division.gemm_calls(answer.lowering)) if answer.support else ()
    waste = answer.macs / problem.macs - 1 if answer.macs and problem.macs else 0.0
    return Row(answer.lowering.name, bool(answer.support), answer.support.reason, answer.lowering_bytes,
               answer.panel_bytes, answer.macs, answer.seconds, calls, answer.bytes_moved, waste)  # fmt: skip


def cuda_available() -> bool:
    """Whether ``device="cuda"`` can be used. The CUDA forms are not built yet: never."""
    return False


def show_config() -> str:
    """Versions, machine, threads and cache, as text; printed and returned."""
    machine = detect()
    text = "\n".join(
        [
            f"numba {numba.__version__}, llvmlite {llvmlite.__version__}, numpy {np.__version__}, "
            f"python {platform.python_version()}",
            f"cpu: {machine.cpu_name} ({machine.llvm_name}), {machine.vector_bits}-bit vectors, "
            f"{machine.vector_registers} registers, fma {'yes' if machine.fma else 'no'}",
            f"caches in KiB: L1d {machine.l1d_bytes >> 10}, L2 {machine.l2_bytes >> 10}, L3 {machine.l3_bytes >> 10}",
            f"threads: {default_threads()} of {machine.cores} cores",
            f"cache: {cache_directory() or 'none writable'} ({build_key()})",
            "cuda: not built yet",
        ]
    )
    print(text)
    return text


__all__ = ["Explanation", "Plan", "Row", "ShapeError", "conv2d", "cuda_available", "explain", "plan", "show_config"]
