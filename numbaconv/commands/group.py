"""The group of all commands: version, ``-v``, and how errors reach the user."""

from __future__ import annotations

from typing import Any

import click

import numbaconv as package
from numbaconv.bench.contender import WrongResult
from numbaconv.commands.about import explain, info, list_
from numbaconv.commands.check import check
from numbaconv.commands.compare import compare
from numbaconv.commands.filter import filter_
from numbaconv.commands.network import time, warmup
from numbaconv.commands.parameters import Refusal, verbose_option
from numbaconv.commands.single import conv, gemm
from numbaconv.commands.teach import teach
from numbaconv.errors import NumbaconvError

__all__ = ["numbaconv"]


class Guarded(click.Group):
    """Turns the errors that a user can cause into a message and an exit code: 2 for wrong input, 1 for what failed."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NumbaconvError as error:
            raise Refusal(str(error)) from error
        except WrongResult as error:
            raise click.ClickException(f"{error}; nothing was timed") from error
        except MemoryError as error:
            raise click.ClickException(f"out of memory: {error}") from error


@click.group(cls=Guarded, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package.__version__, prog_name="numbaconv")
@verbose_option
def numbaconv() -> None:
    """Convolution as matrix multiplication, in every way the literature knows.

    A DESCRIPTOR is benchdnn's text for a convolution, such as mb1ic64ih56oc64oh56kh3sh1ph1 (2 images where mb is
    left out). Times are of this machine: forward passes, random normal data, weights prepared before.
    """


for command in (time, warmup, conv, compare, gemm, filter_, check, explain, list_, info, teach):
    numbaconv.add_command(command)
