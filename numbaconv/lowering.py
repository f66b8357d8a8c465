"""The contract of a lowering: the one file to read before writing one.

A lowering turns a convolution into matrix products in up to three stages, in Caffe con Troll's words: **lower** (write
the input down again so that a product can read it), **multiply** (GEMM), **lift** (put the product where the output
wants it). Write a class with the attributes below, in a file of ``lowerings/`` or in a notebook, and ``register`` it:
listing, checking, timing, memory accounts and layers then know it.

A plan may cut a problem into parts, images or bands of output rows, to save memory or to give each thread one of its
own (``numbaconv.division``). A part is a smaller convolution, so write for one whole problem: all methods are asked
about the part that is run.

``lowerings/_template.py`` is the smallest one that works; ``numbaconv.testing.check_lowering`` looks for mistakes.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from numbaconv.accounts import GemmCall, operands_of, panels_of, product_plan
from numbaconv.devices.threads import parallel
from numbaconv.gemm import Chain, Finish, GemmPlan, Matrix, Operands, PackedMatrix
from numbaconv.geometry import place_record
from numbaconv.jit import Native
from numbaconv.lift import LIMITS, lift
from numbaconv.problem import ConvProblem
from numbaconv.request import Request
from numbaconv.workspace import Arena, address_of

__all__ = ["PARTS", "STAGES", "THREADS", "YES", "Context", "GemmCall", "Lowering", "Support", "operands_of", "recorded"]

STAGES = ("lower", "multiply", "lift")


@dataclass(frozen=True)
class Support:
    """Whether a lowering runs a problem; when not, ``reason`` says why."""

    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason


YES = Support()

THREADS = ("auto", "inner", "images")
PARTS = {"batching": ("image", "whole", int), "threads": THREADS}
"""Parameters of a lowering that builds a buffer: how many images are lowered together, and whether all threads work on
one part or each on a part of its own. The plan heeds them (``numbaconv.division``); a lowering only lists them."""


def recorded(run: Callable) -> Callable:
    """Mark a lowering's ``run`` as one whose tasks and products may be kept, and run on other arrays without it.

    It promises that all it computes goes through the context, as a ``Native`` with a record whose addresses are all
    given as `arrays`, or as a product; and that what it does so depends on shapes and strides alone, not on addresses
    or numbers. Optional: it spares small convolutions most of the time that Python takes (``numbaconv.recording``).
    """
    run.recorded = True  # type: ignore[attr-defined]
    return run


class Lowering:
    """A way to compute a convolution. Subclass, name, implement ``run``.

    Attributes
    ----------
    name : str
        What users call it, such as ``"im2col"``.
    family : str
        The group it is listed with.
    paper : str
        Where it comes from.
    devices : tuple of str
        ``"cpu"``, ``"cuda"``.
    cuda : class, optional
        Its form on a GPU, a ``lowering_cuda.CudaForm``; goes with ``"cuda"`` among the devices.
    bands : bool
        Whether a part may be a band of rows. Otherwise a plan only cuts images apart, and prepared weights may depend
        on the height.
    parameters : dict
        Parameters by name with their allowed values, the default first; ``int`` among them allows positive integers.
        ``Im2col(batching="image")`` and ``"im2col:batching=image"`` set them.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    paper: ClassVar[str]
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    cuda: ClassVar[Any] = None
    bands: ClassVar[bool] = True
    parameters: ClassVar[dict[str, tuple]] = {}
    abstract: ClassVar[bool] = (
        True  # said of a class that only others derive from: ``class Mine(Lowering, abstract=True)``
    )

    def __init_subclass__(cls, abstract: bool = False, **options):
        super().__init_subclass__(**options)
        cls.abstract = abstract
        if abstract:
            return
        for attribute in ("name", "family", "paper"):
            value = getattr(cls, attribute, None)
            if not isinstance(value, str) or not value.strip():
                raise TypeError(f"lowering {cls.__name__}: needs the class attribute `{attribute}`, a non-empty string")
        if cls.name in ("auto", "measure"):
            raise TypeError(
                f"lowering {cls.__name__}: the name {cls.name!r} asks for a choice and cannot name a lowering"
            )
        if set(cls.name) & set(":,= *?"):
            raise TypeError(f"lowering {cls.__name__}: the name {cls.name!r} must not contain any of ':,= *?'")
        if ("cuda" in cls.devices) != (cls.cuda is not None):
            raise TypeError(f'lowering {cls.__name__}: `devices` lists "cuda" exactly if `cuda` names its form there')
        if cls.run is Lowering.run and "cpu" in cls.devices:
            raise TypeError(f"lowering {cls.__name__}: needs a method `run(self, ctx, x, prepared, out)`")

    def __init__(self, **parameters):
        self.values = {name: allowed[0] for name, allowed in self.parameters.items()}
        for name, value in parameters.items():
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise ValueError(f"{self.name}: no parameter {name!r} (it has: {known})")
            self.values[name] = self._checked(name, value)

    def _checked(self, name: str, value: Any):
        allowed = self.parameters[name]
        if int in allowed and not isinstance(value, bool):
            try:
                number = int(value) if isinstance(value, str) else operator.index(value)
            except (TypeError, ValueError):
                number = 0
            if number >= 1:
                return number
        if value in [option for option in allowed if option is not int]:
            return value
        options = ", ".join("a positive integer" if option is int else repr(option) for option in allowed)
        raise ValueError(f"{self.name}: {name} must be one of {options}, got {value!r}")

    @property
    def spec(self) -> str:
        """The text that names this lowering with its parameters, as ``algorithm=`` takes it."""
        changed = [f"{n}={v}" for n, v in self.values.items() if v != self.parameters[n][0]]
        return self.name + (":" + ",".join(changed) if changed else "")

    def __repr__(self) -> str:
        return f"<lowering {self.spec}>"

    def __eq__(self, other) -> bool:
        return type(self) is type(other) and self.values == other.values

    def __hash__(self) -> int:
        return hash((type(self), tuple(self.values.items())))

    def form(self, device: str) -> Any:
        """What answers for this lowering on a device: itself, or its form on a GPU."""
        return self if device == "cpu" else self.cuda(self)

    # ----------------------------------------------------------------------------- what an author answers

    def supports(self, problem: ConvProblem, request: Request) -> Support:
        """Whether it runs this problem; each constraint is written here and nowhere else."""
        return YES

    def lowering_bytes(self, problem: ConvProblem, request: Request) -> int:
        """Bytes of rearranged data that ``run`` takes from the arena: the papers' memory formula. Exact."""
        return 0

    def gemm_calls(self, problem: ConvProblem, request: Request) -> list[GemmCall]:
        """The products that ``run`` issues; the cost model and ``explain`` read them."""
        return []

    def rearranged_bytes(self, problem: ConvProblem, request: Request) -> int:
        """Bytes written and read again on the way, for ``explain`` and the cost model."""
        return 2 * self.lowering_bytes(problem, request)

    def share_of_peak(self, problem: ConvProblem) -> float:
        """Of the multiply-add peak, for the cost model: what its own loops reach, where it issues no products."""
        return 0.01

    def multiply_adds(self, problem: ConvProblem) -> int:
        """Of its own loops, where it issues no products."""
        return problem.macs

    def preparing_bytes(self, problem: ConvProblem) -> int:
        """Bytes read and written to prepare the weights, for the cost model of a call that prepares them itself."""
        return 2 * problem.weight_bytes

    def panel_bytes(self, problem: ConvProblem, request: Request) -> int:
        """Bytes of GEMM's packed panels during ``run``: those of the largest of ``gemm_calls``."""
        return panels_of(self.gemm_calls(problem, request), problem, request)

    def error_bound(self, problem: ConvProblem, request: Request) -> str | float:
        """``"exact"`` (sums of products, in some order) or a factor on the direct method's relative error."""
        return "exact"

    def prepare_weights(self, problem: ConvProblem, request: Request, w: np.ndarray) -> Any:
        """Pack or transform the weights (oc, ic/g, kh, kw) once; what comes back is handed to every ``run``.

        It serves every part of a problem, so it may depend on kernel, strides, groups, layout and width, but not on
        images, nor, unless `bands` is False, on height and the pads above and below. The caller may change its array
        afterwards, so what is kept is a copy.
        """
        return np.array(w, order="C")

    def run(self, ctx: Context, x: np.ndarray, prepared: Any, out: np.ndarray) -> None:
        """Compute.

        Parameters
        ----------
        ctx : Context
            Scratch, stages and the epilogue of this call; ``ctx.problem`` is the part's.
        x : ndarray
            (mb, ic, ih, iw), any strides, not to be written.
        prepared : object
            What ``prepare_weights`` gave.
        out : ndarray
            (mb, oc, oh, ow), in memory as ``problem.layout`` says; every element is to be written.
        """
        raise NotImplementedError


class Context:
    """What a lowering works with during one call: ``lower``, ``multiply``, ``lift``, ``take`` and ``finish``."""

    def __init__(self, problem: ConvProblem, request: Request, arena: Arena, panel_bytes: int, bias, residual):
        self.problem, self.request, self.arena = problem, request, arena
        self.threads = request.num_threads
        self.bias, self.residual = bias, residual
        self.stage_times = dict.fromkeys(STAGES, 0.0)
        self._panel_bytes = panel_bytes
        self._panels: np.ndarray | None = None

    def take(self, name: str, shape, dtype=None) -> np.ndarray:
        """An array in the call's scratch, uninitialised; its bytes count towards ``lowering_bytes``."""
        dtype = np.dtype(dtype or self.problem.dtype)
        return self.arena.take(name, int(np.prod(shape)) * dtype.itemsize).view(dtype).reshape(shape)

    def lower(self, work, *arguments, **arrays):
        """Run a piece of the lower stage: any callable with its arguments, or a ``Native`` with (tasks, record).

        A record is a NumPy record, of which each call gets a copy with the addresses of `arrays` (0 for None) in the
        fields of those names; or the address of one.
        """
        self._run_stage("lower", work, arguments, arrays)

    def lift(self, work, *arguments, **arrays):
        """Run a piece of the lift stage, as ``lower``."""
        self._run_stage("lift", work, arguments, arrays)

    def multiply_by(self, work, *arguments, **arrays):
        """Run a multiply stage that is no GEMM, as ``lower``."""
        self._run_stage("multiply", work, arguments, arrays)

    def _run_stage(self, stage: str, work, arguments, arrays) -> np.ndarray | None:
        """Run a piece of a stage; returns the record that a task was given, if it was given as such."""
        start, placed = time.perf_counter(), None
        if isinstance(work, Native):
            tasks, record = arguments
            if isinstance(record, np.ndarray):
                placed = place_record(record, arrays)
                record = address_of(placed)
            parallel(work, tasks, record, self.threads)
        else:
            work(*arguments, **arrays)
        self.stage_times[stage] += time.perf_counter() - start
        return placed

    def multiply(self, a, b, c, accumulate: bool = False, finish: Finish | None = None):
        """C = A · B, or C += A · B, on all of this call's threads.

        Parameters
        ----------
        a, b : 2-D ndarray, Matrix, Source or PackedMatrix
            Operands; with a ``Matrix`` or ``Source`` the sizes come from the other operands, so pass ``c`` as an array
            or use ``multiply_as``.
        c : 2-D ndarray
            The result.
        accumulate : bool
            Add to what `c` holds.
        finish : Finish, optional
            The epilogue, from ``ctx.finish``.
        """
        (m, n), k = c.shape, a.shape[1]
        self.multiply_as(
            m, n, k, self._operand(a), self._operand(b), Matrix.of(c), operands_of(a, b, c), accumulate, finish
        )

    @staticmethod
    def _operand(x):
        return Matrix.of(x) if isinstance(x, np.ndarray) else x

    def multiply_as(self, m, n, k, a, b, c: Matrix, operands: Operands, accumulate=False, finish=None):
        """``multiply`` for operands that know no sizes; `operands` as declared in ``gemm_calls``."""
        start = time.perf_counter()
        fixed = next((x.schedule for x in (a, b) if isinstance(x, PackedMatrix)), None)
        plan = product_plan(m, n, k, self.problem.dtype, self.threads, operands, fixed)
        panels = self._panel_address(plan.panel_bytes, f"multiply {m} x {k} x {n}")
        self._product(plan, a, b, c, panels, accumulate, finish)
        self.stage_times["multiply"] += time.perf_counter() - start

    def _product(self, plan: GemmPlan, a, b, c: Matrix, panels: int, accumulate: bool, finish: Finish | None) -> None:
        plan.run(a, b, c, panels, accumulate, finish)

    def multiply_chain(self, chain: Chain, weights, sources, c: int, finishes: dict[int, Finish | None]) -> None:
        """Run a chain of products, as ``Chain.run``."""
        start = time.perf_counter()
        chain.run(weights, sources, c, self._panel_address(chain.panel_bytes, "a chain of products"), finishes)
        self.stage_times["multiply"] += time.perf_counter() - start

    def _panel_address(self, needed: int, what: str) -> int:
        if self._panels is None:
            self._panels = self.arena.take("panels", self._panel_bytes)
        if needed > self._panel_bytes:
            raise MemoryError(
                f"{what} needs {needed} bytes of panels, {self._panel_bytes} are declared: gemm_calls does not list it"
            )
        return address_of(self._panels)

    def finish(self, along: str, channels: slice = slice(None), residual: Matrix | None = None) -> Finish | None:
        """The epilogue for a product whose "rows" or "columns" are the output channels `channels`."""
        low, high = LIMITS[self.request.epilogue.activation]
        bias = None if self.bias is None else self.bias[channels]
        finish = Finish(residual=residual, low=low, high=high)
        if along == "rows":
            finish.row_bias = bias
        else:
            finish.col_bias = bias
        return None if finish.trivial else finish

    def epilogue(self, out: np.ndarray) -> None:
        """Bias, residual and activation in a pass of their own, for a lowering whose last store is not a product's."""
        if self.request.epilogue:
            for n in range(len(out)):
                lift(self, out[n], [], None if self.residual is None else self.residual[n], begin=False)
