"""The notebooks run as they are committed, on fewer questions."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
FIGURES = {"01_one_question": 2, "02_figures_2_3": 3, "03_calibration": 3, "04_before_after": 5}
"""How many figures come out of each."""
MOST_BYTES = 300_000


@pytest.mark.real_model
@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_and_tables_come_out_of_their_notebook(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ADVICE_N", "3")
    monkeypatch.setenv("ADVICE_OUT", str(tmp_path / "run"))
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in data for data in shown) == FIGURES[name]
    assert any("<table" in data.get("text/html", "") for data in shown)


def test_there_are_four_notebooks():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_notebook_starts_from_a_model_defines_nothing_and_is_committed_with_its_figures(name):
    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "import interp\n" in code[0].source and "interp.load(" in code[0].source
    assert not any(line.startswith(("def ", "class ")) for cell in code for line in cell.source.split("\n"))
    assert all(cell.execution_count for cell in code)
    assert not any(output.get("name") == "stderr" for cell in code for output in cell.outputs)
    shown = [output.get("data", {}) for cell in code for output in cell.outputs]
    assert sum("image/png" in data for data in shown) == FIGURES[name] and path.stat().st_size < MOST_BYTES
