"""``functools.cached_property`` without a lock: up to Python 3.11 that has one, for all instances of a class.

A process that is forked while another thread holds it would wait for it for ever. Here two threads may both compute a
value; both get the one that was there first, whose memory may be in use by then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

__all__ = ["cached_property"]

Value = TypeVar("Value")


class cached_property(Generic[Value]):
    """A property that is computed once an instance, and kept in its ``__dict__``."""

    def __init__(self, compute: Callable[[Any], Value]):
        self.compute, self.name, self.__doc__ = compute, compute.__name__, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> cached_property[Value]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        return instance.__dict__.setdefault(self.name, self.compute(instance))
