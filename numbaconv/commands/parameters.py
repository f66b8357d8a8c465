"""Arguments and options that several commands share; each is checked before any work begins."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from numbaconv.devices import cuda
from numbaconv.devices.threads import MAX_THREADS
from numbaconv.errors import DeviceUnavailable, NumbaconvError
from numbaconv.machine import default_threads
from numbaconv.networks import NETWORKS, layers
from numbaconv.problem import ConvProblem
from numbaconv.registry import make_lowering

__all__ = [
    "DESCRIPTOR",
    "DEVICE",
    "FILE",
    "NETWORK",
    "PICTURE",
    "Parsed",
    "Refusal",
    "algorithm_option",
    "can_draw",
    "device_option",
    "fits_memory",
    "iterations_option",
    "json_option",
    "layout_option",
    "mb_option",
    "threads_option",
    "verbose_option",
    "writable",
]

Command = TypeVar("Command", bound=Callable[..., Any])


class Refusal(click.ClickException):
    """Wrong input: a message, and exit code 2."""

    exit_code = 2


class Parsed(click.ParamType):
    """A parameter whose text is checked by a function of the package; its error is the message.

    Parameters
    ----------
    name : str
        Shown in the help.
    parse : callable
        Text to value; raises NumbaconvError or ValueError.
    """

    def __init__(self, name: str, parse: Callable[[str], Any]):
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except (NumbaconvError, ValueError) as error:
            self.fail(str(error), param, ctx)


def _network(text: str) -> str:
    """The table's own name of a network."""
    layers(text)
    return text.lower().replace("-", "_")


def _algorithm(text: str) -> str:
    if text not in ("auto", "measure"):
        make_lowering(text)
    return text


def writable(text: str) -> Path:
    """A file that can be written once the work is done."""
    path = Path(text)
    if path.is_dir():
        raise ValueError(f"{path} is a directory")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"there is no directory {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ValueError(f"{path} cannot be written")
    return path


def _picture(text: str) -> Path:
    path = writable(text)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"{path}: a picture's name ends with .png, .svg or .pdf")
    can_draw()
    return path


def can_draw() -> None:
    """Refuse where the library that draws is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("pictures need matplotlib; pip install 'numbaconv[plot]'")


def _device(text: str) -> str:
    """ "cpu", or the name of a CUDA device, whether it is there or not."""
    if text == "cpu":
        return text
    try:
        cuda.number(text)
    except ValueError:
        raise ValueError(f"{text!r} is not one of cpu, cuda, cuda:0, cuda:1, ...") from None
    return text


DEVICE = Parsed("device", _device)
DESCRIPTOR = Parsed("descriptor", ConvProblem.parse)
FILE = Parsed("file", writable)
NETWORK = Parsed("network", _network)
PICTURE = Parsed("file", _picture)
NETWORK_NAMES = ", ".join(NETWORKS)


def _threads(ctx: click.Context, param: click.Parameter, value: int | None) -> int:
    try:
        return value or default_threads()
    except ValueError as error:
        raise Refusal(str(error)) from error


def _usable(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """The device; refused where it cannot be used here, before any work begins."""
    try:
        reason = None if value == "cpu" else cuda.reason(value)
    except ValueError as error:  # a variable of the emulator's
        raise Refusal(str(error)) from error
    if reason is not None:
        raise Refusal(str(DeviceUnavailable(f"device {value!r}: {reason}")))
    return value


def _verbose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.obj = bool(ctx.obj) or value


threads_option = click.option(
    "--num-threads", type=click.IntRange(1, MAX_THREADS), metavar="T", callback=_threads, help="Default: all cores."
)
device_option = click.option(
    "--device", type=DEVICE, metavar="D", default="cpu", show_default=True, callback=_usable,
    help="Where to run: cpu, cuda, cuda:1, ...",
)  # fmt: skip
algorithm_option = click.option(
    "--algorithm",
    type=Parsed("name", _algorithm),
    metavar="A",
    default="auto",
    show_default=True,
    help="auto, measure, or a lowering (see `numbaconv list`), with parameters if wanted: im2col:batching=image.",
)
json_option = click.option("--json", "json_file", type=FILE, metavar="FILE", help="Write everything measured to FILE.")
mb_option = click.option("--mb", type=click.IntRange(min=1), default=1, show_default=True, help="Images.")
layout_option = click.option(
    "--layout",
    type=click.Choice(["nchw", "nhwc"]),
    default="nchw",
    show_default=True,
    help="Memory order of the images.",
)
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, expose_value=False, callback=_verbose, help="Say which lowering ran and why."
)
"""``click.pass_obj`` hands the command whether it was given, before or behind the command's name."""


def iterations_option(default: int) -> Callable[[Command], Command]:
    """``--iterations``: timed runs."""
    return click.option(
        "--iterations", type=click.IntRange(min=1), metavar="K", default=default, show_default=True, help="Timed runs."
    )


def fits_memory(needed: int, remedy: str) -> None:
    """Refuse what is larger than the machine's memory: Linux would promise it, and end the process later.

    Parameters
    ----------
    needed : int
        Bytes.
    remedy : str
        What to ask for instead.
    """
    try:
        present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return
    if needed > present:
        raise Refusal(f"this needs {needed / 1e9:.1f} GB of memory and the machine has {present / 1e9:.1f}; {remedy}")
