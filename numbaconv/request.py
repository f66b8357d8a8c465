"""How a problem is to be run: device, threads, accuracy, memory, and what happens in the last store."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ACCURACIES", "ACTIVATIONS", "ADMITTED", "PRECISIONS", "Epilogue", "Request"]

ACTIVATIONS = (None, "relu", "relu6")
PRECISIONS = ("highest", "high", "medium")
ADMITTED = {"float32": 2.5, "strict": 1.0, "fma": 0.0}
"""How many times the direct method's error a lowering may make for ``auto`` to take it, by accuracy."""
ACCURACIES = tuple(ADMITTED)
DEVICES = re.compile(r"cpu|cuda(:\d+)?|cpu\+cuda(:\d+)?")


def _one_of(name: str, value: Any, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def _integer(name: str, value: Any, least: int, unit: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an int ({unit}); got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least} ({unit}); got {number}")
    return number


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What the last store of a run does to each element: activation(product + bias + residual).

    Parameters
    ----------
    bias, residual : bool
        Whether one is added; the arrays themselves come with the call.
    activation : None, "relu" or "relu6"

    Raises
    ------
    ValueError
        For an unknown activation.
    """

    bias: bool = False
    residual: bool = False
    activation: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "bias", bool(self.bias))
        object.__setattr__(self, "residual", bool(self.residual))
        _one_of("activation", self.activation, ACTIVATIONS)

    def __bool__(self) -> bool:
        return self.bias or self.residual or self.activation is not None


@dataclass(frozen=True, slots=True)
class Request:
    """How to run a problem; with the problem and the lowering it makes the key of a plan.

    Parameters
    ----------
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"cpu+cuda"``.
    num_threads : int
        CPU threads the run may use.
    precision : {"highest", "high", "medium"}
        The least accuracy accepted of the arithmetic. On the CPU "medium" takes one bf16 product (relative error 2e-3)
        where there is AMX or AVX512-BF16, "high" three (5e-6) where there is AMX, for products that are predicted to
        gain by it; all else is float32. ``explain`` says what runs.
    accuracy : {"float32", "strict", "fma"}
        What ``auto`` may choose under ``"highest"``: whose error is within 2.5 times that of one running sum, or no
        more, or plain sums of products only. But for the last, an infinity or a NaN of the input may spoil neighbouring
        pixels: those of its tile.
    max_workspace : int or None
        Bytes of scratch memory allowed; None for no limit.
    epilogue : Epilogue
    prepared : bool
        Whether weights are prepared once for many runs, or for each run anew: then ``auto`` counts that time too.

    Raises
    ------
    ValueError
        Naming the argument and what it accepts.
    """

    device: str = "cpu"
    num_threads: int = 1
    precision: str = "highest"
    accuracy: str = "float32"
    max_workspace: int | None = None
    epilogue: Epilogue = field(default_factory=Epilogue)
    prepared: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.device, str) or not DEVICES.fullmatch(self.device):
            raise ValueError(f"device must be 'cpu', 'cuda', 'cuda:<index>' or 'cpu+cuda'; got {self.device!r}")
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("accuracy", self.accuracy, ACCURACIES)
        object.__setattr__(self, "num_threads", _integer("num_threads", self.num_threads, 1, "threads"))
        if self.max_workspace is not None:
            object.__setattr__(self, "max_workspace", _integer("max_workspace", self.max_workspace, 0, "bytes"))
        if not isinstance(self.epilogue, Epilogue):
            raise ValueError(f"epilogue must be an Epilogue; got {self.epilogue!r}")
