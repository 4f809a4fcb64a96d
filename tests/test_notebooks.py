"""The notebooks run as they are committed, on fewer questions."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


FIGURES = {
    "figures_2_3": ("figure_2_jsd", "figure_3_rollout"),
    "before_after": (
        "compare_jsd",
        "compare_confidence",
        "compare_rollout",
        "compare_attribution",
        "compare_tokens_1",
    ),
    "calibration": ("figure_1_confidence", "figure_5_reliability", "ece_tokens"),
}


@pytest.mark.real_model
def test_one_question_is_asked_contrasted_and_shaded_in_its_notebook():
    notebook = nbformat.read(NOTEBOOKS / "one_question.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in data for data in shown) == 2 and sum("text/html" in data for data in shown) == 2
    assert any("Contrast('Paris'" in data.get("text/plain", "") for data in shown)


@pytest.mark.real_model
@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_come_out_of_their_notebook(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ADVICE_N", "3")
    monkeypatch.setenv("ADVICE_OUT", str(tmp_path / "run"))
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    drawn = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(drawn) == len(FIGURES[name])
    for figure in FIGURES[name]:
        assert (tmp_path / "run" / "figures" / f"{figure}.pdf").stat().st_size > 1000


def test_a_notebook_defines_nothing_and_is_committed_with_its_figures():
    for path in NOTEBOOKS.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert not any(line.startswith(("def ", "class ")) for cell in code for line in cell.source.split("\n")), path
        assert all(cell.execution_count for cell in code), path
        assert not any(output.get("name") == "stderr" for cell in code for output in cell.outputs), path
        assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs), path
