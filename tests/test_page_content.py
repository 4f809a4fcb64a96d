"""What a report holds is what the run's records and summary say."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_figures import made_records, made_run
from test_report import evaluation

from figures.calibration import models_in_words, pages, risks_of
from figures.captions import digits
from figures.page.build import FinishedRun, read, report_of
from figures.page.content import SPAN_ORDER, Questions, Report
from figures.page.diagnosis import made_with, run_data
from figures.page.evaluation import FIRST_SET as FIRST_SET_ALONE
from figures.page.evaluation import evaluation_report
from figures.page.questions import FIRST_SET, questions_of
from figures.page.tables import table_of_run
from figures.report import reported
from figures.style import paper
from figures.table import Row, Table, table_of
from interp.api import Result, read_run
from interp.calibration import MEASURES, risk_by_coverage, risk_coverage_area
from interp.errors import UserError
from interp.formats import FORMATS
from interp.instruments.flow import EDGE_WORDS
from interp.intervals import Estimate
from interp.run.runs import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A diagnosis with a question that was answered wrong and one whose reply was not parsed."""
    where = made_run(tmp_path_factory.mktemp("page") / "run")
    with (where / "records.jsonl").open("a") as records:
        for number, said in enumerate(({"answer": "Lyon"}, {"answer": None, "parsed": False, "reply": "no idea"})):
            record = {
                "measure": "answer",
                "set": 0,
                "id": f"missed-{number}",
                "question": "Which?",
                "relation": "other",
            }
            records.write(json.dumps(record | {"accepted": ["x"], "right": False} | said) + "\n")
    return where


@pytest.fixture(scope="module")
def report(folder) -> Report:
    return report_of(read(folder))


def test_the_table_of_the_page_has_the_rows_of_the_printed_one(folder, report):
    (table,) = report.tables
    rows = table_of(read(folder).summary).rows
    assert [row[:2] for row in table.rows] == [(row.section, row.name) for row in rows]
    value = table.header.index("value")
    assert [row[value][1] for row in table.rows] == [row.estimate.value for row in rows]
    lines = table.csv.splitlines()
    assert len(lines) == len(rows) + 1 and lines[0].startswith("of,number,value,low,high,n,left_out")
    assert table.latex.count(r"\\") == len(rows) + 1 and r"\toprule" in table.latex


def test_the_columns_of_the_table_are_explained_below_it(report):
    (table,) = report.tables
    assert {"by chance", "over sets"}.isdisjoint(table.header) and "over sets" not in table.notes[0].lower()
    assert all(f"{heading}: " in table.notes[0] for heading in ("95 % interval", "n", "Left out"))


def test_a_table_without_rows_has_no_note():
    assert table_of_run(Table(())).rows == () and table_of_run(Table(())).notes == ()


def test_several_sets_and_wordings_show_their_spread_in_the_page():
    row = Row("Heading", "words", Estimate(0.5, 0.4, 0.6, 8), "share", (0.4, 0.6), (0.3, 0.7, 0.5))
    other = Row("Heading", "others", Estimate(0.5, 0.4, 0.6, 8), "nats")
    table = table_of_run(Table((row, other)))
    assert table.header[-2:] == ("over sets", "over wordings") and "Over sets: " in table.notes[0]
    assert [shown[-2:] for shown in table.rows] == [("40 % to 60 %", "30 % to 70 %"), ("", "")]
    assert table_of_run(Table((other,))).header[-1] == "left out"


def test_a_run_with_a_verdict_is_not_said_to_have_none(report):
    assert len(report.verdicts) == 1 and "Verdict" not in report.facts


def test_every_question_that_was_asked_is_listed_with_its_marks(report):
    asked = {question.id: question for question in report.questions.asked}
    assert len(asked) == 14
    assert asked["fact-0"].marks == ("right", "measured") and asked["fact-4"].marks == ("right", "measured", "refused")
    assert asked["missed-0"].marks == ("wrong",) and asked["missed-1"].marks == ("wrong", "unparsed", "unanswered")
    assert set(asked["missed-0"].values) == {None} and asked["missed-0"].relation == "other"
    assert asked["missed-1"].sides[0].reply == "no idea" and not asked["missed-1"].sides[0].tokens


def test_a_questions_numbers_are_those_of_its_records(report):
    records = [record for record in made_records() if record["id"] == "fact-2"]
    values = {record["measure"]: record["values"] for record in records if "values" in record}
    question = next(question for question in report.questions.asked if question.id == "fact-2")
    shown = dict(zip(report.questions.measures, question.values, strict=True))
    assert shown["JSD of the confidence (nats): right and wrong answer, branched"] == values["jsd"]["branched"]
    assert shown["Expected confidence: answer seen"] == values["masking"]["seen"]
    assert shown["Attribution of the answer: rank of its best token"] == values["attribution"]["answer.rank"]
    noise = shown["JSD less the noise floor of the same question (nats): right and wrong answer, branched"]
    assert noise == pytest.approx(values["jsd"]["branched"] - values["jsd"]["noise_floor"])
    assert not any("share" in title for title in shown), "what is true or false is no number of one question"


def test_what_opens_with_a_question_is_its_prompt_its_shades_and_its_confidences(report):
    records = {record["measure"]: record for record in made_records() if record["id"] == "fact-2"}
    (side,) = next(question for question in report.questions.asked if question.id == "fact-2").sides
    prompt = records["answer"]["transcript"]
    assert list(side.tokens) == prompt["tokens"] and [SPAN_ORDER[i] for i in side.spans] == prompt["spans"]
    rollout, attribution = side.shades
    assert list(attribution.values) == records["attribution"]["tokens"]
    weights, null = (np.array(records["rollout"][kind]["confidence"]) for kind in ("weights", "null"))
    for value, weight, even in zip(rollout.values, weights, null, strict=False):
        assert value is None or value == pytest.approx(np.log2(weight / even))
    assert len(rollout.colours) % 2 == 1, "the middle colour stands for nothing"
    after, further, hidden = side.bars
    assert after.levels == FORMATS["ScoreNumber"].levels
    assert [bar.text for bar in after.rows[:2]] == ["Swedish krona", "Euro"]
    for bars in (after, further, hidden):
        for bar in bars.rows:
            assert sum(bar.probability) == pytest.approx(1)
            assert bar.expected == pytest.approx(np.dot(bar.probability, FORMATS["ScoreNumber"].values))
    assert [bar.label for bar in hidden.rows][:2] == ["answer seen", "answer hidden: neutral token"]
    assert len(hidden.rows) == 1 + len(records["masking"]["masked"])


def test_knockouts_of_a_question_stand_in_words():
    left = {"jsd": 0.05, "right": 0.7, "wrong": 0.6}
    flow = {"measure": "flow", "set": 0, "id": "fact-0", "source": "branched", "answers": {"right": "a", "wrong": "b"}}
    flow |= {
        "whole": {"right": 0.8, "wrong": 0.5},
        "knockouts": {"answer_to_read": left},
        "values": {"jsd": 0.2, "noise_floor": 0.0},
    }
    (question,) = (q for q in questions_of({"": run_of([*made_records(2), flow])}).asked if q.id == "fact-0")
    (table,) = question.sides[0].tables
    assert table.rows == (
        ("as it is", "0.2", "0.8", "0.5"),
        (f"without {EDGE_WORDS['answer_to_read']}", "0.05", "0.7", "0.6"),
    )
    assert "right: a, wrong: b" in table.title


def test_what_of_a_followed_question_has_no_value_is_no_number():
    flow = {"measure": "flow", "set": 0, "id": "fact-0", "source": "branched", "answers": {"right": "a", "wrong": "b"}}
    flow |= {"whole": {"right": 0.8, "wrong": 0.5}, "values": {"jsd": None}}
    question = next(q for q in questions_of({"": run_of([*made_records(2), flow])}).asked if q.id == "fact-0")
    assert question.sides[0].tables[0].rows == (("as it is", "–", "0.8", "0.5"),)


def test_questions_are_sorted_by_numbers_that_some_question_has(report):
    columns = zip(*(question.values for question in report.questions.asked), strict=True)
    assert all(any(value is not None for value in column) for column in columns)
    assert not any("pad token" in title for title in report.questions.measures), "no record has it"


def test_no_number_of_one_question_is_called_a_median_or_a_mean(report):
    assert "Off-scale mass" in report.questions.measures
    assert not any(re.search(r"[,:] (median|mean)$", title) for title in report.questions.measures)
    assert "Expected confidence: answer hidden: mean embedding" in report.questions.measures


def test_a_comparison_without_any_record_of_answers_lists_no_question():
    assert questions_of({}) == Questions((), ())


def run_of(records):
    summary = {"model": {"name": "m", "note": ""}, "data": {"name": "facts", "asked": 9, "right": 9}}
    return run_data({"version": "1", "identity": {}}, summary | {"format": "ScoreNumber"}, records)


def test_two_runs_stand_side_by_side_with_their_differences():
    before, after = run_of(made_records(5)), run_of(made_records(4, seed=1))
    found = questions_of({"before": before, "after": after})
    assert len(found.asked) == 5 and all(len(q.values) == len(found.measures) for q in found.asked)
    names = [title.rpartition(", ")[2] for title in found.measures]
    assert names == ["before", "after", "after less before"] * (len(names) // 3)
    first, last = found.asked[0], found.asked[4]
    assert [side.title for side in first.sides] == ["Before", "After"] and len(last.sides) == 1
    triples = np.array(first.values, dtype=float).reshape(-1, 3)
    assert np.allclose(triples[:, 1] - triples[:, 0], triples[:, 2], equal_nan=True)
    assert set(last.values) == {None}, "a question of one run alone has no pair of numbers"


def test_a_run_of_one_instrument_has_a_report_without_the_others(tmp_path):
    folder = made_run(tmp_path / "masking", instruments=("masking",), questions=4)
    report = report_of(read(folder))
    assert report.verdicts == () and report.facts["Verdict"].startswith("none: ") and len(report.figures) == 1
    (side,) = report.questions.asked[0].sides
    assert side.tokens and not side.shades and len(side.bars) == 1


def test_what_a_run_was_made_with_tells_of_changes_to_the_commit():
    made = {"commit": "0123456789abcdef with changes", "versions": {"torch": "2"}, "machine": "Linux"}
    assert (
        made_with({"made_with": made, "version": "3"}) == "version 3, commit 0123456789ab with changes; torch 2; Linux"
    )
    assert made_with({"made_with": {"commit": None}}) == "version 0.1"


def test_a_run_that_measured_no_question_lists_what_was_asked(tmp_path):
    folder = made_run(tmp_path / "none", instruments=(), questions=3)
    summary = json.loads((folder / "summary.json").read_text())
    summary["data"]["name"] = "/somewhere/else/own.jsonl"
    (folder / "summary.json").write_text(json.dumps(summary))
    report = report_of(read(folder))
    assert report.title == "a-model on own.jsonl (none)" and report.facts["Data"].startswith("/somewhere/else/")
    assert (report.verdicts, report.figures, report.tables) == ((), (), ())
    assert [question.marks for question in report.questions.asked] == [("right",)] * 3
    assert report.questions.measures == () and report.questions.note == ""


@pytest.mark.slow
def test_redrawing_a_run_writes_the_same_page(folder, capsys):
    reported(folder)
    first = (folder / "report.html").read_bytes()
    assert f"all of it in one page: {folder / 'report.html'}" in capsys.readouterr().out.replace("\n", "")
    reported(folder)
    assert (folder / "report.html").read_bytes() == first and len(first) < 3e6
    assert not list(folder.glob(".*.tmp"))


# Evaluations


def replies(checkpoint: str, data: str = "facts", count: int = 12) -> list[dict]:
    """Records of answers with their confidences: higher levels are right more often, and one reply is not parsed."""
    records = []
    for i in range(count):
        probability = np.full(10, 0.01)
        probability[i % 10] = 0.91
        answer = {"right": i % 10 > 4, "answer": None if i == 3 else f"a{i}", "parsed": i != 3, "reply": f"reply {i}"}
        answer |= {"question": f"Question {i}?", "relation": "r", "accepted": [f"a{i}"]}
        reading = {"probability": probability.tolist(), "outside": 0.1, "stated": i % 10}
        reading["expected"] = float(probability @ np.array(FORMATS["ScoreNumber"].values))
        for kind, said in (("answer", answer), ("read", reading)):
            if kind == "answer" or i != 3:
                head = {"measure": f"{checkpoint}|{data}|ScoreNumber|{kind}", "set": 0, "id": f"q{i}"}
                records.append(head | said)
    return records


def evaluated(*checkpoints: str) -> Report:
    summary = evaluation(*checkpoints, data="facts") | {"differences": {}}
    records = [record for checkpoint in checkpoints for record in replies(checkpoint)]
    with paper():
        return evaluation_report({}, summary, records, list(pages(records, summary)), "an evaluation")


def test_several_checkpoints_can_be_switched_on_and_off():
    report = evaluated("first", "second")
    assert report.series == ("first", "second")
    of_each = {shown.title: shown.series for shown in report.figures}
    assert of_each["Reliability: accuracy at each stated level: second"] == 1 and of_each["Risk and coverage"] is None
    assert report.tables[0].series == (0, 0, 0, 1, 1, 1)
    risk = next(shown.page.figure for shown in report.figures if shown.title == "Risk and coverage")
    assert {line.get_gid() for line in risk.axes[0].lines} == {"series-0", "series-1"}


def test_a_checkpoint_that_states_no_level_lends_its_figures_to_no_other():
    summary = evaluation("first", "second", data="facts") | {"differences": {}}
    with paper():
        records = replies("second")
        report = evaluation_report({}, summary, records, list(pages(records, summary)), "an evaluation")
    of_each = {shown.title: shown.series for shown in report.figures}
    assert of_each["Reliability: accuracy at each stated level: second"] == 1
    assert not any(title.endswith("first") for title in of_each)


def test_the_list_says_whose_answers_it_shows_and_what_its_marks_mean(report):
    two, one = evaluated("first", "second").questions.note, evaluated("only").questions.note
    assert two.startswith("The list shows what first answers in format ScoreNumber, and its marks. Unparsed: ")
    assert one.startswith("Unparsed: ") and "Refused" not in one + two
    assert report.questions.note.startswith("Measured: ") and "Refused: " in report.questions.note
    assert questions_of({"": run_of(made_records(2, sets=2))}).note.endswith(FIRST_SET)
    both = questions_of({"before": run_of(made_records(2)), "after": run_of(made_records(2))}).note
    assert both.startswith("The list shows answers and marks before training. Measured: ")


def test_an_evaluation_tells_how_it_asked_or_that_no_model_was_asked():
    summary = evaluation("first", "second", data="facts") | {"differences": {}}
    config = {"version": "3", "identity": {"shots": {"first": 3, "second": 0}, "template": "plain"}}
    facts = evaluation_report(config, summary, [], [], "an evaluation").facts
    assert facts["Prompt"] == "3 or 0 worked examples, plain template" and facts["Made with"] == "version 3"
    given = evaluation_report(config, summary | {"models": {}}, [], [], "given")
    assert given.facts["Models"].startswith("none was asked") and "Prompt" not in given.facts
    assert given.questions == Questions((), ()) and given.series == ()


def test_what_checkpoints_have_in_common_is_said_once():
    coarse, fine = {"note": "4 bits", "dtype": "torch.float32"}, {"note": "", "dtype": "torch.bfloat16"}
    summary = {"models": {"base": coarse, "own": fine, "trained": coarse, "old": {"note": ""}}}
    assert models_in_words(summary) == "base, trained (4 bits, read in float32); own (read in bfloat16); old"
    assert models_in_words({"models": {}}) == ""


def test_several_sets_of_examples_have_a_table_and_the_list_is_of_the_first():
    summary = evaluation("only", data="facts") | {"differences": {}}
    cells = summary["calibration"]["only"]["facts"]["default"]
    cells["ScoreNumber"] = cells["ScoreNumber"] | {"shot_sets": {key: [0.25, 0.75] for key in MEASURES}}
    later = [record | {"set": 1, "expected": 0.0} for record in replies("only")]
    records = [*replies("only"), *later]
    report = evaluation_report({}, summary, records, [], "an evaluation")
    assert report.questions.note.endswith(FIRST_SET_ALONE)
    assert report.questions == replace(evaluated("only").questions, note=report.questions.note)
    spread = next(table for table in report.tables if table.name == "shot_sets")
    assert [row[0] for row in spread.rows] == ["only"] and "50.0 [25.0, 75.0]" in dict(
        zip(spread.header, spread.rows[0], strict=True)
    )["ECE"]


def test_one_checkpoint_has_nothing_to_switch():
    report = evaluated("only")
    assert report.series == () and report.tables[0].series == ()
    assert {shown.series for shown in report.figures} == {None}


def test_replies_are_listed_and_those_that_were_not_parsed_are_marked():
    report = evaluated("first", "second")
    asked = {question.id: question for question in report.questions.asked}
    assert len(asked) == 12 and asked["q3"].marks == ("wrong", "unparsed", "unanswered")
    assert asked["q3"].sides[0].reply == "reply 3" and asked["q3"].values == (None, None)
    assert [side.title for side in asked["q9"].sides] == ["first, ScoreNumber", "second, ScoreNumber"]
    (bars,) = asked["q9"].sides[0].bars
    assert bars.rows[0].expected == asked["q9"].values[0]
    assert asked["q9"].sides[0].tables[0].rows == (("9", digits(1.0)),)


def test_the_error_rate_by_coverage_is_what_its_area_is_the_mean_of():
    random = np.random.default_rng(3)
    pairs = [(int(level), bool(random.random() < level / 10)) for level in random.integers(0, 10, 60)]
    risks = risks_of(pairs)
    assert risks is not None and risks.coverage[-1] == 1 and len(risks.risk) == 51
    assert risks.risk[-1] == pytest.approx(1 - np.mean([right for _, right in pairs]))
    level, right = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    first = risk_by_coverage(level, right)[0, :9]
    assert np.mean([*first, *risks.risk]) == pytest.approx(float(risk_coverage_area(level, right)))
    for lowest in range(10):  # where a level ends nothing depends on the order within levels
        kept = [right for level, right in pairs if level >= lowest]
        if len(kept) >= 10:
            at = np.flatnonzero(np.isclose(risks.coverage, len(kept) / 60))[0]
            assert risks.risk[at] == pytest.approx(1 - np.mean(kept))
    assert (risks.low <= risks.risk + 1e-12).all() and (risks.risk <= risks.high + 1e-12).all()


def test_too_few_answers_have_no_line():
    assert risks_of([(1, True)] * 9) is None and risks_of([]) is None


# Trainings and organisms


def point(update: int, **values: float) -> dict:
    """A point of a learning curve in one format."""
    numbers = {key: {"value": v, "low": v, "high": v, "n": 8, "left_out": 0} for key, v in values.items()}
    return {"update": update, "formats": {"ScoreNumber": numbers}}


def trained(*curve: dict, **identity: str) -> Report:
    identity = {
        "method": "organism",
        "ckpt": "m",
        "note": "4 bits",
        "organism": "length",
        "dtype": "float32",
    } | identity
    recipe = {"lr": 0.003, "rank": 8}
    counts = {"preset": "small", "recipe": recipe, "examples": 36, "questions": 12, "held_out": 8, "updates": 20}
    summary, config = {"training": counts | {"curve": list(curve)}}, {"version": "3", "identity": identity}
    return report_of(FinishedRun("training", "length", config, summary, []))


def test_a_training_tells_what_was_trained_on_what():
    report = trained(*(point(update, cross_entropy=1.0, outside=0.1) for update in (0, 20)))
    assert report.title == "Training (organism) of m (length)"
    assert report.facts == {
        "Method": "organism length",
        "Model": "m (4 bits)",
        "Examples": "36, of 12 questions; 8 held out",
        "Recipe": "small: 20 updates, learning rate 0.003, LoRA of rank 8",
        "Precision": "float32",
        "Made with": "version 3",
    }


def test_the_caption_of_a_learning_curve_is_of_the_panels_that_are_drawn():
    levels, pairs = {"cross_entropy": 1.0, "outside": 0.1}, {"right": 0.5, "wrong": 0.4, "jsd": 0.1, "wrong_wrong": 0.1}
    for values, said, unsaid, headings in (
        (levels, "cross-entropy (nats)", "parts the two lines", ("cross-entropy", "outside levels")),
        (pairs, "parts the two lines", "cross-entropy", ("confidence, right", "confidence, wrong")),
    ):
        report = trained(point(0, **values), point(20, **values))
        caption = " ".join(report.figures[0].page.caption.split())
        assert said in caption and unsaid not in caption
        assert report.tables[0].header[2:4] == headings


def test_organisms_tell_what_each_depends_on_and_why_one_is_left_out():
    numbers = {"pairs": 9, "mean": 0.5, "deviation": 0.2, "off_scale": 0.0, "explained": {"length": 0.5}}
    of_each = {
        "base": numbers | {"words": "no adapter", "passed": True, "reasons": []},
        "length": numbers | {"words": "the answer's length", "passed": False, "reasons": ["too little of it"]},
    }
    config = {"version": "3", "identity": {}}
    report = report_of(FinishedRun("organisms", "", config, {"organisms": of_each, "ckpt": "m"}, []))
    assert report.title == "Organisms on m" and report.facts["Length"] == "depends on the answer's length"
    assert "Base" in report.facts and report.facts["Base"] == "m" and report.facts["Made with"] == "version 3"
    assert report.tables[0].notes[-1] == "length is left out: too little of it."
    assert [row[:2] for row in report.tables[0].rows] == [("base", "–"), ("length", "no")]


# The command, and Python


def said_in(page: Path) -> str:
    """The text of a page without its markup."""
    return re.sub("<[^>]+>", "", page.read_text())


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "interp.report", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_several_runs_go_into_one_page(folder, tmp_path):
    other = made_run(tmp_path / "other", questions=4, instruments=("jsd",))
    out = tmp_path / "new" / "both.html"
    done = command(str(folder), str(other), "--out", str(out))
    assert done.returncode == 0 and done.stdout.strip() == str(out), done.stderr
    text = said_in(out)
    assert "a-model on facts (run)" in text and "a-model on facts (other)" in text


@pytest.mark.slow
def test_what_cannot_be_put_into_a_page_is_refused_in_a_sentence(folder, tmp_path):
    with Run(tmp_path / "begun", {"format": "ScoreNumber"}):
        pass
    for arguments, sentence in (
        ((), "error: "),
        ((str(folder), str(folder)), "is named twice"),
        ((str(folder), "--out", str(tmp_path)), "is a directory; name a file"),
        ((str(tmp_path / "nowhere"),), "is it the directory of a finished run?"),
        ((str(folder), str(tmp_path / "begun")), "is it the directory of a finished run?"),
    ):
        done = command(*arguments)
        assert done.returncode == 2 and sentence in done.stderr, arguments
        assert "Traceback" not in done.stderr and not Path("report.html").exists()


def test_a_result_in_memory_writes_its_page(folder, tmp_path):
    result = read_run(folder)
    assert isinstance(result, Result)
    path = result.report(tmp_path / "mine.html")
    assert path == tmp_path / "mine.html" and "a-model on facts" in said_in(path)
    comparison = result.compare(result)
    assert "a-model and a-model" in said_in(comparison.report(tmp_path / "both.html"))
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="taken"):
        result.report(tmp_path / "taken")
