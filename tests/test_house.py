"""The house rules of the package, read off its sources: import order, decorators, file length, dependencies."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "numbaconv"

LEVELS = [
    "problem request errors padding descriptor layouts shapes lazy",
    "jit jit_cuda machine probes calibration timing simd",
    "geometry devices workspace",
    "gemm",
    "accounts context lowering lowering_cuda recording registry lift lift_cuda division",
    "lowerings",
    "known arrays product_plans products products_cuda dense select find_database measured plan plan_cuda plan_hybrid",
    "api layers explanation",
    "networks network_plan planned_network bench ladder testing teach warmup",
    "numbaconv",  # the public names
    "cli commands",
]
"""Rooms of the package, from the ground up: a room imports from its own level and from those below."""

FREE = {"__init__", "__main__"}
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms.split()}
RUNTIME = {"numba", "numpy", "llvmlite", "numbaconv"}
EXTRAS = {"cli", "commands", "bench", "teach"}
"""Rooms that may use the libraries of an extra; so may files named plot*."""
OPTIONAL = {
    "devices/emulator.py": {"greenlet"},
    "devices/emulated.py": {"greenlet"},
    "devices/cubins.py": {"cuda"},
    "devices/driver.py": {"cuda"},
}
"""What a file may import of an extra, inside a function."""
DECORATORS = {"njit", "jit", "cfunc", "vectorize", "guvectorize", "stencil"}
LONGEST = 330


def sources(package: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(package.rglob("*.py")):
        yield path.relative_to(package), ast.parse(path.read_text(encoding="utf-8"), str(path))


def room(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        yield node
        yield from nodes(node)


def imports(path: Path, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything imported, inside functions too."""
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = ("numbaconv", *path.parent.parts)
            base = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            if module == "numbaconv":  # the names are rooms, or public names that only __init__ has
                yield from ((node.lineno, f"numbaconv.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def back_arrows(package: Path) -> list[str]:
    found = []
    for path, tree in sources(package):
        if room(path) in FREE:
            continue
        if room(path) not in LEVEL:
            found.append(f"{path}: is on no level")
            continue
        for line, name in imports(path, tree):
            first, target, *_ = [*name.split("."), "numbaconv"]
            if first == "numbaconv" and LEVEL.get(target, LEVEL["numbaconv"]) > LEVEL[room(path)]:
                found.append(f"{path}:{line}: imports {name}")
    return found


def decorators(package: Path) -> list[str]:
    found = []
    for path, tree in sources(package):
        if path in (Path("jit.py"), Path("jit_cuda.py")):
            continue
        for node in nodes(tree):
            used: list[ast.expr] = []
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                used = list(node.decorator_list)
            elif isinstance(node, ast.Call):
                used = [node.func]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "numba":
                used = [ast.Name(alias.name) for alias in node.names]
            found += [f"{path}: {ast.unparse(name)}" for name in used if terminal(name) in DECORATORS]
    return found


def terminal(name: ast.expr) -> str:
    return name.attr if isinstance(name, ast.Attribute) else name.id if isinstance(name, ast.Name) else ""


def foreign(package: Path) -> list[str]:
    """Imports that a plain installation could not satisfy."""
    return [
        f"{path}:{line}: imports {name}"
        for path, tree in sources(package)
        if room(path) not in EXTRAS and not path.name.startswith("plot")
        for line, name in imports(path, tree)
        if name.partition(".")[0] not in RUNTIME | OPTIONAL.get(path.as_posix(), set()) | sys.stdlib_module_names
    ]


def long_files(package: Path) -> list[str]:
    lengths = {path: len((package / path).read_text(encoding="utf-8").splitlines()) for path, _ in sources(package)}
    return [f"{path}: {length} lines" for path, length in lengths.items() if length > LONGEST]


@pytest.mark.parametrize("rule", [back_arrows, decorators, foreign, long_files])
def test_the_package_keeps_the_rule(rule):
    assert rule(PACKAGE) == []


# --------------------------------------------------------------------------------------- the rules see what is wrong


@pytest.mark.parametrize(
    ("rule", "file", "source", "verdicts"),
    [
        (back_arrows, "problem.py", "from numbaconv.plan import Plan", 1),
        (back_arrows, "problem.py", "def f():\n    import numbaconv.jit", 1),
        (back_arrows, "gemm/cpu.py", "from numbaconv import api", 1),
        (back_arrows, "gemm/cpu.py", "from numbaconv import conv2d", 1),
        (back_arrows, "gemm/cpu.py", "import numbaconv", 1),
        (back_arrows, "gemm/cpu.py", "from ..lowering import Lowering", 1),
        (back_arrows, "gemm/cpu.py", "from .. import lowering", 1),
        (back_arrows, "gemm/cpu.py", "try:\n    from numbaconv.lowerings.im2col import x\nexcept E:\n    pass", 1),
        (back_arrows, "gemm/cpu.py", "from . import pack\nfrom .micro import tile\nfrom numbaconv.jit import x", 0),
        (back_arrows, "gemm/cpu.py", "if TYPE_CHECKING:\n    import numbaconv.api", 0),
        (back_arrows, "gemm/cpu.py", "if typing.TYPE_CHECKING:\n    import numbaconv.api\nimport numbaconv.plan", 1),
        (back_arrows, "plan.py", "from numbaconv.select import choose\nfrom numbaconv import lowerings", 0),
        (back_arrows, "bench/peers.py", "import numbaconv\nfrom numbaconv import conv2d", 2),
        (back_arrows, "bench/peers.py", "from numbaconv.api import conv2d", 0),
        (back_arrows, "bench/peers.py", "import numbaconv.cli", 1),
        (back_arrows, "cli.py", "import numbaconv\nfrom numbaconv import conv2d", 0),
        (back_arrows, "__init__.py", "from numbaconv.cli import main", 0),
        (back_arrows, "attic.py", "", 1),
        (decorators, "gemm/cpu.py", "@njit\ndef f(): pass", 1),
        (decorators, "gemm/cpu.py", "@numba.njit(cache=True)\ndef f(): pass", 1),
        (decorators, "gemm/cpu.py", "@cuda.jit('void()')\ndef f(): pass", 1),
        (decorators, "gemm/cpu.py", "@jit\ndef f(): pass", 1),
        (decorators, "gemm/cpu.py", "f = nb.njit(g)", 1),
        (decorators, "gemm/cpu.py", "from numba import njit as quietly", 1),
        (decorators, "gemm/cpu.py", "from numba.core.decorators import jit", 1),
        (decorators, "gemm/cpu.py", "from numbaconv import jit\n@jit.compiled\ndef f(): return jit.native(f)", 0),
        (decorators, "jit.py", "from numba import njit\n@njit(nogil=True)\ndef f(): pass", 0),
        (foreign, "plan.py", "import scipy.signal", 1),
        (foreign, "plan.py", "def f():\n    from torch import nn", 1),
        (foreign, "plan.py", "import json, numpy, numba.cuda\nfrom llvmlite import ir\nfrom . import api", 0),
        (foreign, "bench/peers.py", "import torch", 0),
        (foreign, "ladder/plots.py", "import matplotlib", 0),
        (long_files, "plan.py", "\n" * 331, 1),
        (long_files, "plan.py", "\n" * 330, 0),
    ],
)
def test_the_rule_sees(tmp_path, rule, file, source, verdicts):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    assert len(rule(tmp_path)) == verdicts


def test_a_lazy_property_is_the_same_for_all_threads():
    """Whoever computes it a second time gets what is there: its memory may be in use."""
    from numbaconv.lazy import cached_property

    class Thing:
        made = 0

        @cached_property
        def value(self):
            """Said."""
            Thing.made += 1
            if Thing.made == 1:
                assert self.value == [2]  # as if another thread had been faster
            return [Thing.made]

    thing = Thing()
    assert thing.value == [2]
    assert thing.value is thing.value
    assert Thing.made == 2
    assert Thing.value.__doc__ == "Said."
