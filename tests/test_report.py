"""The report: the table says what the summary holds, and a run is redrawn from disk alone."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_figures import made_run

from figures.captions import interval, percent, subject_of
from figures.report import reported
from figures.table import Row, table_of
from interp.errors import UserError
from interp.intervals import Estimate
from interp.runs import read_run


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "figures", *arguments], capture_output=True, text=True, check=False
    )


def rows(folder: Path) -> dict[tuple[str, str], Row]:
    _, summary, _ = read_run(folder)
    return {(row.section, row.name): row for row in table_of(summary).rows}


def test_a_row_holds_the_summarys_number_interval_and_counts(tmp_path):
    _, summary, _ = read_run(made_run(tmp_path))
    row = rows(tmp_path)["JSD of the confidence, median (nats)", "right and wrong answer"]
    assert row.estimate == Estimate(**summary["jsd"]["median"])
    assert (row.estimate.n, row.estimate.left_out) == (9, 3)
    assert row.sets == ()


def test_several_sets_of_examples_show_their_spread(tmp_path):
    _, summary, _ = read_run(made_run(tmp_path, sets=2, questions=4, instruments=("masking",)))
    row = rows(tmp_path)["Expected confidence", "answer seen"]
    assert list(row.sets) == summary["shot_sets"]["masking.seen"]["values"]
    assert len(row.sets) == 2


def test_rows_of_an_instrument_that_did_not_run_are_absent(tmp_path):
    made_run(tmp_path, instruments=("jsd",), questions=4)
    assert {section for section, _ in rows(tmp_path)} == {
        "JSD of the confidence, median (nats)",
        "JSD of right and wrong answer",
        "Direction",
        "Probability outside the levels",
    }


def test_a_number_without_an_interval_shows_a_dash_instead_of_one():
    assert interval(Estimate(0.5, None, None, 1)) == "–"
    assert interval(Estimate(0.5, 0.25, 0.75, 4), percent) == "[25 %, 75 %]"


def test_the_printed_table_says_whose_numbers_they_are(tmp_path, capsys):
    folder = made_run(tmp_path, instruments=("jsd",), questions=4)
    reported(folder)
    printed = " ".join(capsys.readouterr().out.split())
    config, summary, _ = read_run(folder)
    assert subject_of(config, summary).sentence in printed
    assert "weights were quantised to 4 bits" in printed
    assert "4 asked, 4 answered right" in printed
    assert "hint that it is wrong (control)" in printed


def test_a_folder_that_is_no_run_is_one_sentence_and_exit_code_2(tmp_path):
    found = command(str(tmp_path))
    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr.startswith("error: ")
    assert len(found.stderr.splitlines()) == 1
    with pytest.raises(UserError, match="is it the directory of a finished run"):
        reported(tmp_path)


def test_a_whole_run_is_redrawn_within_fifteen_seconds(tmp_path):
    made_run(tmp_path, questions=48)
    start = time.perf_counter()
    found = command(str(tmp_path))
    assert time.perf_counter() - start < 15
    assert (found.returncode, found.stderr) == (0, "")
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == {"figure_2_jsd", "figure_3_rollout", "attribution", "masking", "tokens_1", "tokens_2"}
    for name in names:
        assert {path.suffix for path in (tmp_path / "figures").glob(f"{name}.*")} == {".png", ".pdf", ".txt"}


def test_the_questions_whose_tokens_are_shown_can_be_chosen(tmp_path):
    made_run(tmp_path, questions=4, instruments=("rollout", "attribution"))
    reported(tmp_path, ("fact-3",))
    assert "fact-3" in (tmp_path / "figures" / "tokens_1.txt").read_text(encoding="utf-8")
    assert not (tmp_path / "figures" / "tokens_2.txt").exists()
