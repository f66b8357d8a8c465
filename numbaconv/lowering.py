"""The contract of a lowering: the one file to read before writing one (its ``run`` works with a ``context.Context``).

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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from numbaconv.accounts import GemmCall, operands_of, panels_of
from numbaconv.context import STAGES, Context
from numbaconv.lift import LIMITS
from numbaconv.problem import ConvProblem
from numbaconv.request import Request

__all__ = ["LIMITS", "PARTS", "STAGES", "THREADS", "YES", "Context", "GemmCall", "Lowering", "Support", "operands_of",
           "recorded"]  # fmt: skip


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
