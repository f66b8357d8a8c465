"""A new lowering is one file and no other edit: in the catalogue, in a notebook's cell, in another distribution."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import oracles
import pytest
from conftest import HERE, ROOT
from numpy.testing import assert_array_equal

import numbaconv as nc
from numbaconv import registry
from numbaconv.lowerings import _template


@pytest.fixture
def as_before():
    """What a test registers is forgotten after it."""
    nc.list_lowerings()
    kept, modules = dict(registry._classes), set(sys.modules)
    yield
    registry._classes.clear()
    registry._classes.update(kept)
    for name in set(sys.modules) - modules:
        if name.startswith("numbaconv.lowerings."):
            del sys.modules[name]


def is_known_everywhere(name, rng):
    """Listing, explain, conv2d and layers know a lowering; nothing else was edited."""
    assert name in nc.list_lowerings()
    x, w, bias = (rng.integers(-3, 4, shape).astype("f4") for shape in ((2, 4, 9, 10), (6, 2, 3, 3), (6,)))
    wanted = oracles.conv2d(x, w, bias, (2, 1), (1, 1, 1, 1), groups=2, activation="relu")
    terms = {"algorithm": name, "activation": "relu", "groups": 2}
    assert_array_equal(nc.conv2d(x, w, bias, (2, 1), 1, **terms), wanted)
    layer = nc.Conv2d.from_arrays(w, bias, (2, 1), 1, **terms)
    assert_array_equal(layer(x), wanted)
    assert layer.algorithm == name
    problem = nc.ConvProblem.from_arrays(x, w, (2, 1), 1, groups=2)
    row = next(row for row in nc.explain(problem).rows if row.name == name)
    assert row.runs
    assert row.macs == problem.macs
    assert row.lowering_bytes == nc.plan(problem, name).lowering_bytes == 5 * 5 * 10 * 4


def generated(name):
    """The template with another name: a lowering in a file."""
    text = Path(_template.__file__).read_text(encoding="utf-8").replace('name = "template"', f'name = "{name}"')
    text = text.replace("class Template", "class Generated")
    assert len(text.splitlines()) <= 80
    return text


def test_a_new_lowering_is_one_file_in_the_catalogue(tmp_path, monkeypatch, as_before, rng):
    (tmp_path / "generated.py").write_text(generated("one-file"), encoding="utf-8")
    package = sys.modules["numbaconv.lowerings"]
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    registry._discover.cache_clear()
    is_known_everywhere("one-file", rng)


def test_a_new_lowering_is_a_cell_and_register(as_before, rng):
    cell: dict = {"__name__": "a_notebook"}
    exec(generated("one-cell"), cell)
    nc.register(cell["Generated"])
    is_known_everywhere("one-cell", rng)


# -------------------------------------------------------------------------------------------- another distribution

NAME, VERSION = "numbaconv_elsewhere", "1.0"
ENTRY_POINTS = """\
[numbaconv.lowerings]
good = numbaconv_elsewhere.good:Elsewhere
needs_what_is_not_there = numbaconv_elsewhere.bad:Bad
no_such_class = numbaconv_elsewhere.good:Missing
no_lowering = numbaconv_elsewhere.good:shift
takes_a_name = numbaconv_elsewhere.thief:Thief
"""


def wheel(folder: Path) -> Path:
    """The distribution as a wheel, written by hand: no build backend has to be there."""
    text = Path(_template.__file__).read_text(encoding="utf-8")
    text = text.replace("class Template", "class Elsewhere").replace('name = "template"', 'name = "from-elsewhere"')
    info = f"{NAME}-{VERSION}.dist-info"
    files = {
        f"{NAME}/__init__.py": "",
        f"{NAME}/good.py": text,
        f"{NAME}/bad.py": "import a_library_that_is_not_there\n",
        f"{NAME}/thief.py": text.replace('name = "from-elsewhere"', 'name = "im2col"').replace("Elsewhere", "Thief"),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\nRequires-Dist: numbaconv\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: by-hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": ENTRY_POINTS,
    }
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).decode().rstrip("=")
        lines.append(f"{name},sha256={digest},{len(content.encode())}")
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""])
    path = folder / f"{NAME}-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of a process that finds the distribution."""
    pytest.importorskip("pip", reason="pip is not installed here")
    folder = tmp_path_factory.mktemp("elsewhere")
    target = folder / "site"
    command = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--quiet",
               "--no-index", "--no-deps", "--no-cache-dir", "--target", str(target), str(wheel(folder))]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, HERE, target)))}


def test_a_lowering_of_another_distribution_runs_and_a_broken_one_harms_nobody(python, installed):
    said = python("""
        import json
        import numpy as np
        import oracles
        import numbaconv as nc
        from numbaconv import registry

        rng = np.random.default_rng(5)
        x, w = rng.integers(-3, 4, (2, 3, 9, 8)).astype("f4"), rng.integers(-3, 4, (5, 3, 3, 3)).astype("f4")
        wanted = oracles.conv2d(x, w, pads=(1, 1, 1, 1))
        p = nc.ConvProblem.from_arrays(x, w, padding=1)
        found = nc.explain(p)
        right = {name: bool((nc.conv2d(x, w, None, 1, 1, algorithm=name) == wanted).all())
                 for name in ("from-elsewhere", "im2col", "reference", "auto")}
        layer = nc.Conv2d.from_arrays(w, None, 1, 1, algorithm="from-elsewhere")
        print(json.dumps({
            "listed": nc.list_lowerings(), "broken": registry.broken, "right": right, "notes": found.notes,
            "row": [row.runs for row in found.rows if row.name == "from-elsewhere"],
            "layer": bool((layer(x) == wanted).all()) and layer.algorithm,
            "im2col": registry.make_lowering("im2col").__module__,
            "checked": nc.testing.check_problem(registry.make_lowering("from-elsewhere"), p),
        }))
    """, env=installed)  # fmt: skip
    found = json.loads(said)
    assert "from-elsewhere" in found["listed"]
    assert found["listed"][-1] == "reference"
    assert found["right"] == {"from-elsewhere": True, "im2col": True, "reference": True, "auto": True}
    assert found["row"] == [True]
    assert found["layer"] == "from-elsewhere"
    assert found["checked"] is True
    assert found["im2col"] == "numbaconv.lowerings.im2col"
    reasons = {
        "needs_what_is_not_there": "ModuleNotFoundError: No module named 'a_library_that_is_not_there'",
        "no_such_class": "AttributeError: module 'numbaconv_elsewhere.good' has no attribute 'Missing'",
        "no_lowering": "TypeError: register: expected a subclass of numbaconv.Lowering",
        "takes_a_name": "ValueError: register: the name 'im2col' belongs to numbaconv.lowerings.im2col.Im2col",
    }
    assert set(found["broken"]) == set(reasons)
    for name, reason in reasons.items():
        assert found["broken"][name].startswith(reason)
        assert any(note.startswith(f"plug-in {name} is broken: {reason}") for note in found["notes"])


def test_the_command_line_shows_it_and_says_what_is_broken(python, installed):
    command = """
        import sys
        from numbaconv.cli import main
        sys.argv = ["numbaconv", *sys.argv[1:]]
        main()
    """
    listed, warned = python(command, "list", env=installed, stderr=True)
    assert "from-elsewhere" in listed
    assert "im2col" in listed
    broken = "plug-in needs_what_is_not_there is broken: ModuleNotFoundError"
    assert broken in warned
    assert "Traceback" not in warned
    explained = python(command, "explain", "mb1ic3ih9oc4oh7kh3ph0", env=installed)
    assert any(line.startswith("from-elsewhere") and "refused" not in line for line in explained.splitlines())
    assert broken in explained


def test_without_the_distribution_nothing_is_left_of_it(python):
    said = python("import numbaconv as nc; from numbaconv import registry; print(nc.list_lowerings(), registry.broken)")
    assert "from-elsewhere" not in said
    assert said.rstrip().endswith("{}")
