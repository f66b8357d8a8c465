"""``numbaconv teach``: a page of what tiling does to speed here; ``sweep`` and ``roofline`` are parts of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import click

from numbaconv.commands.output import progress, show_table, threads_text, versions, write_json
from numbaconv.commands.parameters import DESCRIPTOR, DEVICE, FILE, PICTURE, Parsed, Refusal, can_draw, json_option
from numbaconv.devices.threads import MAX_THREADS
from numbaconv.machine import default_threads
from numbaconv.problem import ConvProblem
from numbaconv.teach import page
from numbaconv.teach import roofline as roofs
from numbaconv.teach import sweep as sweeping
from numbaconv.teach.document import build

__all__ = ["teach", "telling"]

PAGE = "numbaconv-teach.html"
NUMBERS = re.compile(r"[\d.]+")
SAID_SECONDS = 5.0
"""Where no bar can be drawn, a line so often."""


@click.group(invoke_without_command=True)
@click.option("--out", type=FILE, metavar="FILE", help=f"The page.  [default: {PAGE}]")
@click.option("--quick", is_flag=True, help="Smaller sizes, shorter samples: 3 minutes at most instead of 15.")
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="FILE", help="Measure nothing: a file that --json wrote."
)
@json_option
@click.pass_context
def teach(ctx: click.Context, out: Path | None, quick: bool, data: Path | None, json_file: Path | None) -> None:
    """How tiling makes a product fast, and what lowering a convolution costs: a page, measured on this machine.

    One HTML file that asks nothing of any network: the ladder from three loops to the production GEMM, an animation
    of every access, sweeps of tile sizes, the roofline, the ladder on a GPU, and what lowering costs. What cannot be
    measured here says why.
    """
    if ctx.invoked_subcommand is not None:
        return
    out = out or FILE.convert(PAGE, None, ctx)
    if data is not None:
        page.save(out, build(page.read(data)))
    else:
        found = page.write(out, quick, telling, json_file, versions())
        for name, section in found["sections"].items():
            if isinstance(section, dict) and section.get("reason"):
                click.echo(f"not measured: {name}: {section['reason']}")
        if json_file is not None:
            click.echo(f"written: {json_file}")
    click.echo(f"written: {out}")


@contextmanager
def telling(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar; where stderr is no terminal, a line now and then. The block calls what it gets with words."""
    done, said = 0, monotonic()
    with progress(title, total) as step:

        def tick(text: str) -> None:
            nonlocal done, said
            done += 1
            step()
            if not sys.stderr.isatty() and monotonic() - said >= SAID_SECONDS:
                click.echo(f"{title}: {done} of {total}, {text}", err=True)
                said = monotonic()

        yield tick


# -------------------------------------------------------------------------------------------------------- sweep


def _directory(text: str) -> Path:
    """A directory for pictures, made if its parent is there."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is no directory")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"there is no directory {path.absolute().parent}")
    can_draw()
    return path


@teach.command()
@click.argument("problem", metavar="[DESCRIPTOR]", type=DESCRIPTOR, required=False)
@click.option("--what", multiple=True, type=click.Choice(sweeping.WHAT), help="May be given again. Default: all.")
@click.option("--m", type=click.IntRange(min=1), help="Rows of A and C.")
@click.option("--n", type=click.IntRange(min=1), help="Columns of B and C.")
@click.option("--k", type=click.IntRange(min=1), help="Columns of A, rows of B.")
@click.option("--quick", is_flag=True, help="Fewer configurations of smaller problems.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help=f"Of timing, for each map.  [default: {sweeping.SECONDS:g}, quick {sweeping.QUICK_SECONDS:g}]",
)
@click.option(
    "--num-threads",
    type=click.IntRange(1, MAX_THREADS),
    metavar="T",
    help="Of each run; of `threads` the most.  [default: 1; all cores]",
)
@click.option("--device", type=DEVICE, metavar="D", default="cuda", show_default=True, help="Of `gpu-tile`.")
@click.option(
    "--out",
    type=Parsed("directory", _directory),
    metavar="DIR",
    help="Pictures (PNG), all figures (JSON), and each time as soon as it is known: a sweep that was "
    "interrupted goes on there.",
)
@click.option("--fresh", is_flag=True, help="Forget the times that DIR keeps.")
def sweep(
    problem: ConvProblem | None,
    what: tuple[str, ...],
    m: int | None,
    n: int | None,
    k: int | None,
    quick: bool,
    seconds: float | None,
    num_threads: int | None,
    device: str,
    out: Path | None,
    fresh: bool,
) -> None:
    """Vary one thing at a time; heat maps of GFLOP/s, the library's own choice and the best marked.

    tile: the micro-tile, mr x nr. blocks: the cache blocks, kc x nc and mc x kc. order: the six orders of three plain
    loops. threads. conv-tile: the register tile of `direct` and `direct-jit` at DESCRIPTOR. conv-block: how many rows
    are lowered at a time. gpu-tile: the tiles of a GPU's kernel.

    Each configuration is checked against float64, then timed in turns with a reference. A wrong one is shown as WRONG,
    never timed, and ends with 1.
    """
    if len({m is None, n is None, k is None}) > 1:
        raise click.UsageError("--m, --n and --k go together")
    if fresh and out is None:
        raise click.UsageError("--fresh forgets what --out DIR keeps: name the directory")
    sizes = (m, n, k) if m and n and k else None
    options = sweeping.Options(sizes, problem, num_threads, device, quick)
    grids = [grid for name in dict.fromkeys(what or sweeping.here()) for grid in sweeping.grids(name, options)]
    if out is not None:
        try:
            out.mkdir(exist_ok=True)
        except OSError as error:
            raise Refusal(f"cannot make {out}: {error.strerror}") from error
    seconds = seconds or (sweeping.QUICK_SECONDS if quick else sweeping.SECONDS)
    store = sweeping.Store(out and out / sweeping.LINES, fresh)
    with telling("sweeping", sum(map(len, grids))) as tick:
        found = sweeping.run_grids(grids, seconds, store, tick)
    for one in found:
        _show(one)
    if out is not None:
        from numbaconv.teach.sweep.plot import heat_map

        for one in found:
            picture = out / f"sweep-{one.grid.name}.png"
            heat_map(picture, one)
            write_json(picture.with_suffix(".json"), num_threads or 1, [one.as_json()])
            click.echo(f"written: {picture}")
    if any(one.wrong for one in found):
        sys.exit(1)


def _show(found: sweeping.Sweep) -> None:
    """A sweep as a table, its marks and reasons below."""
    grid, best = found.grid, found.best
    click.echo(f"\n{grid.title}\nGFLOP/s; across: {grid.x.name}; down: {grid.y.name}\n")
    rows = [[str(y), *(_cell(found[sweeping.Place(x, y)]) for x in grid.x.values)] for y in grid.y.values]
    show_table(["", *map(str, grid.x.values)], rows)
    if best is not None:
        click.echo(f"\nbest: {_at(best.place)}, {best.gflops:.1f} GFLOP/s")
    if grid.model is not None:
        share = "" if found.model_share is None else f", {found.model_share:.0%} of the best"
        click.echo(f"the library's own choice: {_at(grid.model)}{share}")
    for text in _reasons(found.cells):
        click.echo(text)


def _cell(cell: sweeping.Cell) -> str:
    if cell.gflops is not None:
        return f"{cell.gflops:.1f}"
    return "WRONG" if cell.wrong else "-"


def _at(place: sweeping.Place) -> str:
    return f"{place.y} x {place.x}"


def _reasons(cells: Iterable[sweeping.Cell]) -> Iterator[str]:
    """Why there is no speed: the first of reasons that differ in their numbers only, and what else they hold for."""
    alike: dict[str, list[sweeping.Cell]] = {}
    for cell in cells:
        if cell.reason is not None:
            alike.setdefault(NUMBERS.sub("", cell.reason), []).append(cell)
    for first, *others in alike.values():
        more = f" (likewise {', '.join(_at(cell.place) for cell in others)})" if others else ""
        yield f"{_at(first.place)}: {first.reason}{more}"


# ----------------------------------------------------------------------------------------------------- roofline


@teach.command()
@click.argument("problem", metavar="[DESCRIPTOR]", type=DESCRIPTOR, required=False)
@click.option("--size", type=click.IntRange(min=1), metavar="N", help="m = n = k of the ladder's products.")
@click.option("--quick", is_flag=True, help="A smaller product, fewer lowerings.")
@click.option("--out", type=PICTURE, metavar="FILE", help="A picture: .png, .svg or .pdf.")
@json_option
def roofline(
    problem: ConvProblem | None, size: int | None, quick: bool, out: Path | None, json_file: Path | None
) -> None:
    """Measured roofs: the multiply-add peak, the bandwidth of each cache and of memory; and what lies under them.

    That is every step of the ladder and every lowering of DESCRIPTOR, by the bytes they move. Each is checked before it
    is timed.
    """
    options = roofs.Options(size, problem, quick)
    with telling("measuring", options.units) as tick:
        found = roofs.roofline(options, tick)
    show_table(
        ["roof", "threads", "GFLOP/s", "GB/s"],
        [[peak.name, str(peak.threads), f"{peak.gflops:.1f}", ""] for peak in found.peaks]
        + [[line.name, str(line.threads), "", f"{line.gb_s:.1f}"] for line in found.bandwidths],
    )
    for group, title in (("ladder", f"step, {found.size} x {found.size} x {found.size}"), ("lowering", "lowering")):
        rows = [
            [point.name, threads_text(point.threads), f"{point.gflops:.1f}", _number(point.l1),
             _number(point.intensity)]
            for point in found.points if point.group == group
        ]  # fmt: skip
        click.echo()
        if rows:
            show_table([title, "by", "GFLOP/s", "FLOP/byte of L1", "FLOP/byte of memory"], rows, text=2)
    click.echo(f"\nlowerings of {found.problem}; bytes as the cache model counts them, and as explain does")
    if out is not None:
        from numbaconv.teach.roofline_plot import roofline_plot

        roofline_plot(out, found)
        click.echo(f"\nwritten: {out}")
    write_json(json_file, default_threads(), [], roofline=found.as_json())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
