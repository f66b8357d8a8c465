"""The notebooks of ``scripts/``: kept without outputs, and run from the first cell to the last."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "scripts").glob("*.ipynb"))
TIMEOUT = 300


def test_there_is_a_notebook():
    assert [path.name for path in NOTEBOOKS] == ["prototype_a_lowering.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_is_kept_without_outputs(path):
    """Figures belong to a machine: whoever opens it measures their own."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        assert "".join(cell["source"]).strip()
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}


@pytest.fixture(scope="module")
def executed():
    """``executed(path)``: the notebook with its outputs, run where no numbaconv is but this one."""
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    import nbformat

    def run(path):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("MPLBACKEND", None)
        client.NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3").execute(env=environment)
        return notebook

    return run


@pytest.mark.notebook
def test_a_lowering_is_prototyped(executed):
    """Any cell that fails ends this; that the lowering is right, ``check_lowering`` in the notebook says."""
    notebook = executed(ROOT / "scripts" / "prototype_a_lowering.ipynb")
    said = {cell.id: "".join(output.get("text", "") for output in cell.get("outputs", ())) for cell in notebook.cells}
    assert "im2col-slices, im2col-slices:channels=2: " in said["check"]
    assert said["check"].endswith("problems right, 0 refused\n")
    assert "forgetful" in said["mistake"]
    assert "takes more scratch than it declares" in said["mistake"]
    rows = said["compare"].splitlines()
    assert len(rows) == 11
    assert sum(row.startswith("im2col-slices") for row in rows) == 6
    kinds = {kind for cell in notebook.cells if cell.id == "plot" for output in cell.outputs for kind in output.data}
    assert "image/png" in kinds
    assert said["step-wrong"].startswith("two_terms is wrong at")
    assert said["step-right"].startswith("two_terms is right")
    assert not any(output.get("name") == "stderr" for cell in notebook.cells for output in cell.get("outputs", ()))
