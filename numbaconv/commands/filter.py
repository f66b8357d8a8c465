"""``numbaconv filter``: a photograph through a bank of kernels, and a picture of it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import click
import numpy as np

from numbaconv import ConvProblem, plan
from numbaconv.bench.place import place_of
from numbaconv.commands import output
from numbaconv.commands.output import milliseconds, show_table, size
from numbaconv.commands.parameters import (
    Parsed,
    Refusal,
    algorithm_option,
    device_option,
    fits_memory,
    threads_option,
    writable,
)
from numbaconv.padding import resolve_padding
from numbaconv.teach.filters import bank, pixels_for
from numbaconv.teach.photo import MissingLibrary, photograph_path, read_photograph
from numbaconv.teach.plot_filters import draw, write
from numbaconv.timing import time_call

__all__ = ["filter_"]

KINDS = (".png", ".svg", ".pdf")


def _out(text: str) -> Path:
    path = writable(text)
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"{path}: a picture's name ends with {', '.join(KINDS)}")
    if not os.access(path.resolve().parent, os.W_OK):  # a file is replaced, not written over
        raise ValueError(f"{path}: its directory cannot be written")
    return path


def _padding(text: str) -> str | int | tuple[int, ...]:
    """A word, a number, or numbers with commas."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        padding: str | tuple[int, ...] = text
    else:
        padding = numbers
    resolve_padding(padding, (1, 1), (1, 1), (1, 1), (1, 1))
    return padding


@click.command(
    "filter",
    epilog="Banks: sobel, differences to the right and downwards; gabor, 96 patches of stripes in 8 orientations, 6 "
    "wavelengths and 2 phases; blur, Gaussians and boxes; FILE.npy, an array (oc, kh, kw) or (oc, 1 or 3, kh, kw).",
)
@click.argument("photo", type=click.Path(path_type=Path), required=False)
@click.option("--bank", "bank_name", metavar="BANK", default="sobel", show_default=True, help="The kernels, see below.")
@click.option(
    "--out", "out_file", type=Parsed("file", _out), metavar="FILE", required=True, help="The picture: .png, .svg, .pdf."
)
@click.option("--kernel-size", type=int, metavar="K", help="Rows and columns of the kernels of gabor and blur.")
@click.option(
    "--stride", type=click.IntRange(min=1), default=1, show_default=True, help="Pixels from window to window."
)
@click.option(
    "--padding",
    type=Parsed("padding", _padding),
    metavar="P",
    default="same",
    show_default=True,
    help="Zeros around: same, valid, or pixels.",
)
@click.option(
    "--size",
    "longest",
    type=click.IntRange(min=1),
    metavar="N",
    default=640,
    show_default=True,
    help="A larger photograph is scaled until its longer side has N pixels.",
)
@click.option(
    "--maps",
    type=click.IntRange(min=1),
    metavar="N",
    default=12,
    show_default=True,
    help="Response maps to draw at most.",
)
@algorithm_option
@device_option
@threads_option
def filter_(
    photo: Path | None,
    bank_name: str,
    out_file: Path,
    kernel_size: int | None,
    stride: int,
    padding: str | int | tuple[int, ...],
    longest: int,
    maps: int,
    algorithm: str,
    device: str,
    num_threads: int,
) -> None:
    """Run PHOTO through a bank of kernels, as a network's first layer does, and draw input, kernels and responses.

    PHOTO is whatever Pillow reads; left out, it is the cat that ships with the package. The picture is 0 to 1, black
    to white; kernels of one channel see its grey levels. The convolution is timed alone, its weights prepared before.
    """
    for library, name in (("PIL", "Pillow"), ("matplotlib", "matplotlib")):
        if importlib.util.find_spec(library) is None:
            raise MissingLibrary(name, "numbaconv filter")
    source = photo or photograph_path()
    if photo is not None and out_file.exists() and photo.exists() and out_file.samefile(photo):
        raise Refusal(f"--out {out_file} is the photograph itself")
    chosen = bank(bank_name, kernel_size)
    x = pixels_for(chosen.kernels, read_photograph(source, longest))
    problem = ConvProblem.from_arrays(x, chosen.kernels, stride, padding)
    fits_memory(problem.input_bytes + 4 * problem.output_bytes, "choose a smaller --size or a larger --stride")
    place = place_of(device)
    handle = plan(problem, algorithm, device, num_threads=num_threads)
    handle.prepare(chosen.kernels)
    image, out = place.put(x), place.put(np.empty(problem.output_shape, np.float32))
    sample = time_call(lambda: handle(image, out=out), 1, budget_s=1.0, timer=place.timer)
    click.echo(f"{problem}   {problem.macs / 1e6:.1f} M multiply-adds, {output.place_text(place, num_threads)}\n")
    if place.emulated:
        click.echo(output.EMULATED)
    show_table(
        ["lowering", "median ms", "GFLOP/s", "picture", "kernels", "maps", "workspace"],
        [[handle.algorithm, milliseconds(sample.median), f"{problem.flops / sample.median / 1e9:.1f}",
          *map(size, (problem.input_bytes, problem.weight_bytes, problem.output_bytes, handle.workspace_bytes))]],
    )  # fmt: skip
    title = f"{click.format_filename(photo.name) if photo else 'the cat that ships with numbaconv'}, bank {chosen.name}"
    try:
        write(draw(problem, x, chosen, place.get(out)[0], maps, title), out_file)
    except OSError as error:
        raise click.ClickException(f"cannot write {out_file}: {error.strerror}") from error
    click.echo(f"\ndrawn: {out_file}")
