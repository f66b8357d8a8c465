"""README's tables that are made from the package say what the package says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import numbaconv as nc

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("readme_script", ROOT / "scripts" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_lowerings_is_current(script):
    assert script.main(["--check"]) == 0


def test_every_lowering_is_in_it_with_its_bytes(script):
    rows = {line.split("`")[1]: line for line in script.catalogue().splitlines()[2:]}
    assert list(rows) == nc.list_lowerings()
    assert f"| {128 * 9 * 56 * 56 * 4 // 1024:,} | 1.000 |" in rows["im2col"]
    assert "| 0 | 0.988 | 12 of 256 x 128 x 1568, 6 of 256 x 128 x 1512 |" in rows["kn2row-aa"]


def test_a_table_that_is_not_is_found_and_written_anew(script, tmp_path, capsys):
    right = (ROOT / "README.md").read_text(encoding="utf-8")
    copy = tmp_path / "README.md"
    for wrong in (right.replace("| `mec` |", "| `mec` | more"), right.replace("14,112", "14,113")):
        assert wrong != right
        copy.write_text(wrong, encoding="utf-8")
        assert script.main(["--check", "--readme", str(copy)]) == 1
        assert "scripts/readme.py" in capsys.readouterr().out
        assert script.main(["--readme", str(copy)]) == 0
        assert copy.read_text(encoding="utf-8") == right
    copy.write_text(right.replace("<!-- lowerings -->", ""), encoding="utf-8")
    with pytest.raises(SystemExit, match="lowerings"):
        script.main(["--readme", str(copy)])
