"""The names of the lowerings: discovery in ``lowerings/``, entry points of other distributions, ``register``."""

from __future__ import annotations

import fnmatch
import functools
import importlib
import importlib.metadata
import pkgutil

from numbaconv.errors import UnknownLowering
from numbaconv.jit import not_while_forking
from numbaconv.lowering import Lowering

ENTRY_POINTS = "numbaconv.lowerings"

_classes: dict[str, type[Lowering]] = {}
broken: dict[str, str] = {}
"""Plug-ins that could not be loaded, with the reason."""


def register(cls: type[Lowering]) -> type[Lowering]:
    """Make a lowering known under its name; usable as a decorator.

    Raises
    ------
    TypeError
        When `cls` is no ``Lowering``.
    ValueError
        When another class has the name. A class of the same name and module (a notebook cell run again) replaces
        its forerunner.
    """
    if not (isinstance(cls, type) and issubclass(cls, Lowering)) or cls.abstract:
        raise TypeError(f"register: expected a subclass of numbaconv.Lowering that is not abstract, got {cls!r}")
    known = _classes.get(cls.name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"register: the name {cls.name!r} belongs to {known.__module__}.{known.__qualname__}")
    _classes[cls.name] = cls
    return cls


def _own_classes(module):
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Lowering) and value.__module__ == module.__name__
        and not value.abstract
    ]  # fmt: skip


@functools.cache
def _discover() -> None:
    with not_while_forking:
        _import_all()


def _import_all() -> None:
    package = importlib.import_module("numbaconv.lowerings")
    for found in pkgutil.iter_modules(package.__path__):
        if not found.name.startswith("_"):
            for cls in _own_classes(importlib.import_module(f"numbaconv.lowerings.{found.name}")):
                register(cls)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            register(entry.load())
        except Exception as error:
            broken[entry.name] = f"{type(error).__name__}: {error}"


def lowerings(pattern: str = "*", device: str | None = None) -> list[type[Lowering]]:
    """The classes whose names match, in order of family and name, ``reference`` last."""
    _discover()
    chosen = [
        cls
        for name, cls in _classes.items()
        if fnmatch.fnmatchcase(name, pattern) and (device is None or device.split(":")[0] in cls.devices)
    ]
    return sorted(chosen, key=lambda cls: (cls.name == "reference", cls.family, cls.name))


def list_lowerings(pattern: str = "*", device: str | None = None) -> list[str]:
    """Names of the lowerings that match a pattern such as ``"kn2*"``, on any device or on one.

    Parameters
    ----------
    pattern : str
        Shell-style.
    device : {"cpu", "cuda"}, optional
        Only those that run there.
    """
    return [cls.name for cls in lowerings(pattern, device)]


def make_lowering(spec: str | Lowering) -> Lowering:
    """A lowering from its text form (``"im2col"``, ``"im2col:batching=image,threads=inner"``), or as it is.

    Raises
    ------
    UnknownLowering
        With the names that come close.
    ValueError
        For a parameter it has not, or a value it does not take.
    """
    if isinstance(spec, Lowering):
        return spec
    if not isinstance(spec, str):
        raise TypeError(f"algorithm: expected a name or a Lowering instance, got {spec!r}")
    name, _, rest = spec.partition(":")
    _discover()
    if name not in _classes:
        raise UnknownLowering(name, [*_classes, "auto", "measure"])
    parameters = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"algorithm {spec!r}: expected name=value after the colon, got {part!r}")
        parameters[key.strip()] = value.strip()
    return _classes[name](**parameters)
