"""What one leg of ``.ci/run`` skips, because a library is not installed there, another runs."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

LEGS = {
    "PIL": {"teach", "notebook", "browser"},
    "matplotlib": {"teach", "notebook", "browser"},
    "playwright": {"browser"},
    "nbclient": {"notebook"},
    "ipykernel": {"notebook"},
}
"""The marks of the legs that have a library which the first leg has not."""


def wanted(node: ast.AST) -> set[str]:
    """The libraries that ``importorskip`` asks for here, functions inside left out."""
    found = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            continue
        if isinstance(child, ast.Call) and ast.unparse(child.func).endswith("importorskip") and child.args:
            found.add(str(ast.literal_eval(child.args[0])).partition(".")[0])
        found |= wanted(child)
    return found & set(LEGS)


def marks(nodes: list[ast.expr]) -> set[str]:
    return {mark for node in nodes for mark in re.findall(r"pytest\.mark\.(\w+)", ast.unparse(node))}


def unmarked(source: str) -> Iterator[str]:
    """Tests that are skipped for want of a library, and that no leg with that library selects."""
    module = ast.parse(source)
    assigned = [node for node in module.body if isinstance(node, ast.Assign)]
    everywhere = marks([node.value for node in assigned if ast.unparse(node.targets[0]) == "pytestmark"])
    functions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}

    def needs(name: str, seen: frozenset[str] = frozenset()) -> set[str]:
        """A function's own libraries, and those of the fixtures and helpers that it names."""
        inner = functions[name]
        named = {node.id for node in ast.walk(inner) if isinstance(node, ast.Name)} | {a.arg for a in inner.args.args}
        found = set().union(*(wanted(node) for node in ast.walk(inner) if isinstance(node, ast.FunctionDef)))
        return found.union(*(needs(other, seen | {name}) for other in named & set(functions) - seen - {name}))

    for name, function in functions.items():
        if name.startswith("test_"):
            has = everywhere | marks(function.decorator_list)
            for library in sorted(wanted(module) | needs(name)):
                if not has & LEGS[library]:
                    yield f"{name}: {library}"


def test_whoever_needs_a_library_has_its_mark():
    found = {path.name: [*unmarked(path.read_text(encoding="utf-8"))] for path in sorted(TESTS.glob("test_*.py"))}
    assert {name: tests for name, tests in found.items() if tests} == {}


def test_every_mark_has_a_leg():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = {line.partition(":")[0] for line in project["tool"]["pytest"]["ini_options"]["markers"]}
    legs = re.findall(r"^(?:\w+=\S+ )*complete (.*)$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert names - {"slow"} <= set(re.findall(r"\w+", " ".join(legs)))


@pytest.mark.parametrize(
    ("source", "tests"),
    [
        ("pytest.importorskip('PIL.Image')\ndef test_a(): pass", ["test_a: PIL"]),
        ("pytestmark = pytest.mark.teach\npytest.importorskip('PIL.Image')\ndef test_a(): pass", []),
        ("pytestmark = [pytest.mark.slow, pytest.mark.browser]\npytest.importorskip('PIL')\ndef test_a(): pass", []),
        ("def test_a():\n    x = pytest.importorskip('matplotlib')", ["test_a: matplotlib"]),
        ("@pytest.mark.teach\ndef test_a():\n    pytest.importorskip('matplotlib')\ndef test_b(): pass", []),
        ("@pytest.mark.teach\ndef test_a():\n    pytest.importorskip('nbclient')", ["test_a: nbclient"]),
        (
            "@pytest.fixture\ndef f():\n    def g(): pytest.importorskip('PIL')\n    return g\n"
            "def test_a(f): pass\ndef test_b(): f()\ndef test_c(): pass",
            ["test_a: PIL", "test_b: PIL"],
        ),
        ("def test_a():\n    pytest.importorskip('click.testing')", []),
    ],
)
def test_the_rule_sees(source, tests):
    assert [*unmarked(source)] == tests
