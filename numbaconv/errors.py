"""The errors numbaconv raises, once: each is ours, says what to do, and is also the built-in a caller would catch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

__all__ = [
    "DeviceUnavailable",
    "NumbaconvError",
    "ShapeError",
    "UnknownLowering",
    "UnknownName",
    "UnsupportedProblem",
    "WorkspaceExceeded",
]


class NumbaconvError(Exception):
    """Base of every error numbaconv raises on purpose."""


class ShapeError(NumbaconvError, ValueError):
    """Sizes, dtypes or a descriptor that do not describe a convolution or a product."""


class UnsupportedProblem(NumbaconvError, ValueError):
    """No lowering that was allowed to run can run this problem.

    Parameters
    ----------
    reasons : mapping of str to str, or str
        For each lowering asked, why it refused; or one reason for all.
    """

    def __init__(self, reasons: Mapping[str, str] | str):
        self.reasons = reasons if isinstance(reasons, str) else dict(reasons)
        super().__init__(self.reasons)

    def __str__(self) -> str:
        if isinstance(self.reasons, str):
            return self.reasons
        lines = [f"  {name}: {reason}" for name, reason in self.reasons.items()]
        return "\n".join(["no lowering runs this problem as asked:", *lines])


class UnknownName(NumbaconvError, LookupError):
    """A name that is in no table of ours; the message lists close matches, or all names where nothing is close.

    Parameters
    ----------
    name : str
        What was asked for.
    known : iterable of str
        What there is.
    """

    what = "name"

    def __init__(self, name: str, known: Iterable[str]):
        self.name = name
        self.known = tuple(known)
        self.matches = tuple(difflib.get_close_matches(str(name), self.known))
        super().__init__(name, self.known)

    def __str__(self) -> str:
        if self.matches:
            return f"unknown {self.what} {self.name!r}; did you mean {' or '.join(map(repr, self.matches))}?"
        return f"unknown {self.what} {self.name!r}; known: {', '.join(self.known) or 'none'}"


class UnknownLowering(UnknownName):
    """No lowering of this name is registered."""

    what = "lowering"


class WorkspaceExceeded(NumbaconvError, MemoryError):
    """A run needs more scratch memory than `max_workspace` allows, even with its smallest blocks.

    Parameters
    ----------
    needed, allowed : int
        Bytes.
    """

    def __init__(self, needed: int, allowed: int):
        self.needed = needed
        self.allowed = allowed
        super().__init__(needed, allowed)

    def __str__(self) -> str:
        return (
            f"the smallest workspace this run can do with is {self.needed:,} bytes and max_workspace allows "
            f"{self.allowed:,}; raise max_workspace or choose another algorithm"
        )


class DeviceUnavailable(NumbaconvError, RuntimeError):
    """The device asked for cannot be used here.

    Parameters
    ----------
    reason : str
        What is missing and what to do about it.
    """

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(reason)
