"""The report: the table says what the summary holds, and a run is redrawn from disk alone."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_figures import made_run

from figures.calibration import pages as calibration_pages
from figures.captions import Subject, digits, interval, percent, subject_of, written_caption
from figures.grid import Column, Grid
from figures.report import reported
from figures.style import paper
from figures.table import Row, Table, printed, printed_grid, table_of
from figures.training import COLUMNS, ablation_page
from interp.errors import UserError
from interp.intervals import Estimate, Null
from interp.plain import visible
from interp.run.runs import Run, read_run
from interp.version import VERSION


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "figures", *arguments], capture_output=True, text=True, check=False
    )


def rows(folder: Path) -> dict[tuple[str, str], Row]:
    _, summary, _ = read_run(folder)
    return {(row.section, row.name): row for row in table_of(summary).rows}


@pytest.mark.slow
def test_a_row_holds_the_summarys_number_interval_and_counts(tmp_path):
    _, summary, _ = read_run(made_run(tmp_path))
    found, medians = rows(tmp_path), "JSD of the confidence, median (nats)"
    row = found[medians, "right and wrong answer, sampled (the paper's)"]
    assert row.estimate == Estimate(**summary["jsd"]["median"])
    assert (row.estimate.n, row.estimate.left_out) == (9, 3)
    branched = found[medians, "right and wrong answer, branched"]
    assert branched.estimate == Estimate(**summary["jsd"]["branched"]["median"]) and branched.estimate.n == 12
    pairs = found["JSD at most 0.1, share", "pairs of sampled answers (the paper's)"]
    assert pairs.estimate == Estimate(**summary["jsd"]["pairs"]["near_zero_share"]) and pairs.unit == "share"
    assert row.sets == ()


def test_several_sets_of_examples_show_their_spread(tmp_path):
    _, summary, _ = read_run(made_run(tmp_path, sets=2, questions=4, instruments=("masking",)))
    row = rows(tmp_path)["Expected confidence", "answer seen"]
    assert list(row.sets) == summary["shot_sets"]["masking.seen"]["values"]
    assert len(row.sets) == 2


def test_several_wordings_show_their_spread_beside_that_of_sets_of_examples(tmp_path, capsys):
    folder = made_run(tmp_path, sets=2, wordings=2, questions=4, instruments=("masking",))
    config, summary, _ = read_run(folder)
    row = rows(folder)["Expected confidence", "answer seen"]
    assert list(row.wordings) == summary["wordings"]["masking.seen"]["values"] and len(row.wordings) == 2
    assert list(row.sets) == summary["shot_sets"]["masking.seen"]["values"] and len(row.sets) == 2
    printed(table_of(summary), subject_of(config, summary))
    lines = capsys.readouterr().out.splitlines()
    heading = next(line for line in lines if "over sets" in line)
    assert heading.rstrip().endswith("over wordings")
    (line,) = (line for line in lines if line.strip().startswith("answer seen"))
    assert line.rstrip().endswith(f"{digits(min(row.wordings))} to {digits(max(row.wordings))}")
    alone = table_of(summary | {"shot_sets": {}})
    printed(alone, subject_of(config, summary))
    shown = capsys.readouterr().out
    assert "over wordings" in shown and "over sets " not in shown


def test_rows_of_an_instrument_that_did_not_run_are_absent(tmp_path):
    made_run(tmp_path, instruments=("jsd",), questions=4)
    assert {section for section, _ in rows(tmp_path)} == {
        "JSD of the confidence, median (nats)",
        "JSD less the noise floor of the same question, median (nats)",
        "JSD at most 0.1, share",
        "JSD, number of pairs",
        "JSD and likelihood of the wrong answer, rank correlation",
        "Direction, wrong answer sampled (the paper's)",
        "Direction, wrong answer branched",
        "Direction, wrong answer of the same relation",
        "Off-scale mass",
    }


def test_a_number_without_an_interval_shows_a_dash_instead_of_one():
    assert interval(Estimate(0.5, None, None, 1)) == "–"
    assert interval(Estimate(0.5, 0.25, 0.75, 4), percent) == "[25 %, 75 %]"


def test_a_number_with_a_null_shows_it_beside(capsys):
    probed = Estimate(0.72, 0.7, 0.74, 48, null=Null(0.5, 0.42, 0.58, 0.001))
    rows = (Row("AUROC", "the probe", probed, "AUROC"), Row("AUROC", "stated", Estimate(0.6, 0.5, 0.7, 48), "AUROC"))
    printed(Table(rows), Subject("m", None, "d", 48, 40, "ScoreNumber"))
    shown = capsys.readouterr().out
    assert "by chance" in shown and "0.5 [0.42, 0.58], p = 0.001" in shown and "the median of the null" in shown
    printed(Table(rows[1:]), Subject("m", None, "d", 48, 40, "ScoreNumber"))
    assert "by chance" not in capsys.readouterr().out.lower()


@pytest.mark.slow
def test_the_printed_table_says_whose_numbers_they_are(tmp_path, capsys):
    folder = made_run(tmp_path, instruments=("jsd",), questions=4)
    reported(folder)
    printed = " ".join(capsys.readouterr().out.split())
    config, summary, _ = read_run(folder)
    assert subject_of(config, summary).sentence in printed
    assert "weights were quantised to 4 bits" in printed
    assert "4 asked, 4 answered right" in printed
    assert "hint that it is wrong (positive control)" in printed


@pytest.mark.slow
def test_a_folder_that_is_no_run_is_one_sentence_and_exit_code_2(tmp_path):
    found = command(str(tmp_path))
    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr.startswith("error: ")
    assert len(found.stderr.splitlines()) == 1
    with pytest.raises(UserError, match="is it the directory of a finished run"):
        reported(tmp_path)


@pytest.mark.slow
def test_a_run_of_version_0_1_is_redrawn_and_goes_on_only_where_nothing_differs(tmp_path, capsys):
    made_run(tmp_path, questions=8)
    reported(tmp_path)
    now, captions = capsys.readouterr().out, {path.name: path.read_text() for path in tmp_path.glob("figures/*.txt")}
    config, summary, _ = read_run(tmp_path)
    older = {name: config[name] for name in ("identity", "made_with")}
    for key in summary.pop("renamed").values():
        *above, last = key.split(".")
        node = summary
        for name in above:
            node = node[name]
        del node[last]
    (tmp_path / "config.json").write_text(json.dumps(older))
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    reported(tmp_path)
    assert capsys.readouterr().out == now and len(captions) > 5
    assert captions == {path.name: path.read_text() for path in tmp_path.glob("figures/*.txt")}
    for reading in summary["rollout"].values():
        reading.pop("per_token_null", None)  # which the figure shows and a summary of 0.1 does not hold
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    reported(tmp_path)
    assert captions == {path.name: path.read_text() for path in tmp_path.glob("figures/*.txt")}
    with Run(tmp_path, config["identity"]):
        pass
    with pytest.raises(
        UserError, match=r"a run of version 0\.1 or of another configuration \(shot_sets: 1 there, 2 now\)"
    ):
        Run(tmp_path, config["identity"] | {"shot_sets": 2}).__enter__()


def test_a_run_of_another_kind_is_not_continued(tmp_path):
    made_run(tmp_path, instruments=("jsd",), questions=4)
    config, _, _ = read_run(tmp_path)
    assert config["kind"] == "diagnose" and config["version"] == VERSION
    with pytest.raises(UserError, match="holds a run of another kind, diagnose; give another --out"):
        Run(tmp_path, config["identity"], kind="evaluate").__enter__()


@pytest.mark.parametrize(
    ("config", "summary"), [("{}", "{}"), ('{"identity": {}}', '{"a": 1}'), ("{}", '{"model": {}}')]
)
def test_a_run_without_numbers_is_one_error(tmp_path, config, summary):
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "summary.json").write_text(summary)
    with pytest.raises(UserError, match="holds no numbers of a finished run"):
        reported(tmp_path)


@pytest.mark.slow
def test_a_whole_run_is_redrawn_and_eight_times_the_questions_cost_no_twice_the_time(tmp_path):
    def spent(questions: int) -> float:
        folder = made_run(tmp_path / str(questions), questions=questions)
        start = time.process_time()
        reported(folder)
        return time.process_time() - start

    few = spent(6)
    assert spent(48) < 2 * few
    found = command(str(tmp_path / "48"))
    assert (found.returncode, found.stderr) == (0, "")
    names = {path.stem for path in (tmp_path / "48" / "figures").iterdir()}
    assert names == {
        "figure_2_jsd",
        "jsd_likelihood",
        "figure_3_rollout",
        "attribution",
        "masking",
        "tokens_1",
        "tokens_2",
    }
    for name in names:
        assert {path.suffix for path in (tmp_path / "48" / "figures").glob(f"{name}.*")} == {".png", ".pdf", ".txt"}


@pytest.mark.slow
def test_the_questions_whose_tokens_are_shown_can_be_chosen(tmp_path):
    made_run(tmp_path, questions=4, instruments=("rollout", "attribution"))
    reported(tmp_path, ("fact-3",))
    assert "fact-3" in (tmp_path / "figures" / "tokens_1.txt").read_text(encoding="utf-8")
    assert not (tmp_path / "figures" / "tokens_2.txt").exists()


HOSTILE = (
    *("[red]x[/red]", "[/]", "[link=http://x.y]z", ":x: :warning:", "a\\", "\x1b[31mred\x1b[0m", "\x9b31m", "\x07\b\r"),
    *(r"$\frac{1}$", "$", "$$", r"a\$b$", "x^2_3", "_begins", "\u202eabc", "日本", "&amp;<b>", "a|b|c", "{0.x}", "%s"),
)
"""Names that terminals, markup, formulas or a legend would act on."""


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_the_terminal_shows_a_name_as_it_is(name, capsys):
    value = Estimate(0.5, 0.25, 0.75, 4)
    printed_grid(Grid(("model",), (Column(name, name),), (((name,), (value,)),)), f"title {name}")
    printed(Table((Row("section", "row", value, "nats"),)), Subject(name, None, name, 1, 1, "ScoreNumber"))
    shown = capsys.readouterr().out
    assert f"title {visible(name)}" in shown and f"Model: {visible(name)}. Data: {visible(name)}," in shown
    assert shown.count(visible(name)) == 5
    assert not {"\x1b", "\x9b", "\x07", "\b", "\r", "\u202e"} & set(shown)
    caption = written_caption("How.", {name: name}, name)
    assert caption.count(visible(" ".join(name.split()))) == 3 and "\x1b" not in caption


def evaluation(*checkpoints: str, data: str) -> dict:
    """A summary of an evaluation of these checkpoints by three methods."""
    numbers = {key: Estimate(0.5, 0.25, 0.75, 4).as_record() for key in {column.key for column in COLUMNS} | {"tokens"}}
    cell = numbers | {"n": 4, "unparsed": 0}
    methods = {name: {"ScoreNumber": cell} for name in ("default", "sequence", "p_true")}
    told = {"note": "", "name": "x"}
    return {
        "calibration": {name: {data: methods} for name in checkpoints},
        "models": dict.fromkeys(checkpoints, told),
        "base": checkpoints[0],
        "rule": "levels",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_figures_write_a_name_as_it_is(name):
    """matplotlib takes a text between dollars for a formula, and leaves out of a legend what begins with a line."""
    with paper():
        page = ablation_page(evaluation(name, f"{name}2", data=name))
        page.figure.draw_without_rendering()
        (label,) = page.figure.legends[0].get_texts()
        said = label.get_text().replace(r"\$", "$")
        assert said.endswith(", ScoreNumber") and len(said) == len(f"{name}, ScoreNumber")
        for page in calibration_pages(reads(name, name), evaluation(name, data=name)):
            page.figure.draw_without_rendering()


def reads(checkpoint: str, data: str) -> list[dict]:
    """Records of two answers with their confidences."""
    return [
        {"measure": f"{checkpoint}|{data}|ScoreNumber|{kind}", "set": 0, "id": str(i)} | said
        for i in range(2)
        for kind, said in (("answer", {"right": i == 0, "answer": "x"}), ("read", {"stated": 3 * i}))
    ]


def test_two_checkpoints_whose_names_differ_in_signs_only_have_figures_of_their_own():
    records = [*reads("a b", "d"), *reads("a+b", "d")]
    with paper():
        found = [page.name for page in calibration_pages(records, evaluation("a b", "a+b", data="d"))]
    assert len(set(found)) == len(found) >= 4
    assert {f"figure_{figure}_a-b_{number}" for figure in ("1_confidence", "5_reliability") for number in (1, 2)} <= {
        *found
    }
