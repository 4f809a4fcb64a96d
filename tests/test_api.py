"""The package from Python: a model in memory is asked, contrasted and diagnosed, and leaves nothing on disk."""

import copy
import dataclasses
import subprocess
import sys

import numpy as np
import pandas
import pytest
import torch
from matplotlib.figure import Figure

import interp
from interp.divergence import divergence
from interp.errors import UserError
from interp.formats import FORMATS
from interp.instruments.jsd import surface_variants
from interp.models.setting import prepared
from interp.options import composed
from interp.pipelines.compare import paired_records
from interp.pipelines.evaluate import evaluated
from interp.pipelines.evaluation import Evaluate

RIVERS = [{"question": f"Which river is number {i}?", "answers": [str(i)], "response": str(i)} for i in range(5)]


@pytest.fixture(scope="module")
def asked(taught_setting):
    """A model in memory whose confidence depends on its answer."""
    checkpoint = taught_setting.checkpoint
    return interp.load(checkpoint.model, checkpoint.tokenizer, shots=0)


def test_what_the_package_promises_is_there_and_nothing_else():
    assert set(interp.PUBLIC) == {
        "Calibration",
        "Comparison",
        "Contrast",
        "Model",
        "Result",
        "load",
        "questions",
        "read_run",
    }
    assert all(getattr(interp, name) for name in interp.PUBLIC) and {*interp.PUBLIC} <= {*dir(interp)}
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        interp.lod  # noqa: B018


@pytest.mark.slow
def test_the_confidence_in_an_answer_is_what_the_commands_read(asked, open_questions):
    checkpoint = asked.checkpoint
    setting = prepared(checkpoint, FORMATS["ScoreNumber"])
    for answer in ("Kitten", "Rome"):
        (reading,) = setting.reader.readings([setting.prompter.transcript(open_questions[0], answer)])
        assert asked.confidence(open_questions[0], answer) == reading.distribution
        assert asked.confidence(open_questions[0].text, answer) == reading.distribution, "a text will do"


@pytest.mark.slow
def test_a_contrast_is_the_divergence_of_two_confidences_beside_that_of_looks(asked):
    found = asked.contrast("What do we call a young cat?", "Kitten", "a very long answer 12345")
    one, other = (asked.confidence(found.question, answer) for answer in found.answers)
    for together, alone in zip(found.confidences, (one, other), strict=True):
        assert together.probability == pytest.approx(alone.probability, abs=1e-5)
    assert found.jsd == pytest.approx(divergence(one, other), abs=1e-5)
    looks = [asked.confidence(found.question, variant) for variant in surface_variants("Kitten")]
    assert found.noise_floor == pytest.approx(np.mean([divergence(one, look) for look in looks]), abs=1e-5)
    assert found.jsd > 0.01, "positive control"
    assert asked.contrast(found.question, "Kitten", "Kitten").jsd == pytest.approx(0, abs=1e-12)
    assert repr(found).startswith("Contrast('Kitten' 0.") and "noise floor" in repr(found)


def test_a_contrast_shows_itself_and_what_others_wrote_is_no_markup(asked):
    found = dataclasses.replace(asked.contrast("Who?", "Ada", "Ben"), question="<script>", answers=("<b>", "Ben"))
    page = found._repr_html_()
    assert "&lt;script&gt;" in page and "&lt;b&gt;" in page and "<script>" not in page and "<b>" not in page
    figure = found.plot()
    assert [len(ax.patches) for ax in figure.axes] == [10, 10] and "JSD" in figure.get_suptitle()
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == pytest.approx(list(found.confidences[0].probability))


def test_an_answer_of_its_own_is_none_where_it_could_not_be_put_again(asked, open_questions):
    assert asked.answer(dataclasses.replace(open_questions[0], response="Rome")) == "Rome"
    with pytest.raises(UserError, match="cannot be put into the prompt"):
        asked.confidence("Who?", "two\nlines")
    for nothing in ("", None):
        with pytest.raises(UserError, match="must be one line of text"):
            asked.contrast("Who?", nothing, "Ben")
    with pytest.raises(UserError, match="the question has no text"):
        asked.confidence(" ", "Ben")


@pytest.mark.slow
def test_a_model_in_memory_is_diagnosed_and_stays_as_it_was(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = asked.checkpoint.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = asked.diagnose(RIVERS, instruments=("jsd", "masking"), n=4, wrong="distractor")
    assert not [*tmp_path.iterdir()], "nothing is left on disk"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    table = result.table()
    assert [*table.columns] == ["value", "low", "high", "n", "left out", "numerical floor"]
    assert table.loc[("Expected confidence", "answer seen"), "value"] == result.summary["masking"]["seen"]["value"]
    records = result.records("masking")
    assert len(records) == 4 and records["seen"].mean() == pytest.approx(result.summary["masking"]["seen"]["value"])
    assert isinstance(result.plot("masking"), Figure) and isinstance(result.plot(), Figure)
    with pytest.raises(UserError, match="rollout was not measured"):
        result.plot("rollout")
    with pytest.raises(UserError, match="no records of 'probe'; it has answer"):
        result.records("probe")
    assert repr(result).startswith("Result(") and "<table" in result._repr_html_()


def test_a_run_on_disk_is_continued_by_the_same_weights_alone_and_read_again(asked, tmp_path):
    given = {"instruments": ("masking",), "n": 3, "out": tmp_path / "run"}
    result = asked.diagnose(RIVERS, **given)
    assert interp.read_run(tmp_path / "run").summary == result.summary
    assert asked.diagnose(RIVERS, **given).summary["masking"] == result.summary["masking"]
    other = copy.deepcopy(asked.checkpoint.model)
    next(other.parameters()).data += 1
    with pytest.raises(UserError, match="another configuration"):
        interp.load(other, asked.checkpoint.tokenizer, shots=0).diagnose(RIVERS, **given)
    with pytest.raises(UserError, match="is it the directory of a finished run"):
        interp.read_run(tmp_path)


@pytest.mark.slow
def test_two_results_are_compared_question_by_question(asked):
    one = asked.diagnose(RIVERS, instruments=("masking",), n=4)
    other = interp.load(asked.checkpoint.model, asked.checkpoint.tokenizer, shots=2).diagnose(
        RIVERS, instruments=("masking",), n=4
    )
    change = one.compare(other).table().set_index("key")
    expected = paired_records([one.all_records, other.all_records], "masking")["masking.seen"]
    assert change.loc["masking.seen", "difference"] == expected["difference"]["value"]
    assert change.loc["masking.seen", "n"] == 4
    assert one.compare(one).table().set_index("key").loc["masking.seen", "difference"] == 0
    assert isinstance(one.compare(other).plot("masking"), Figure) and "Comparison(" in repr(one.compare(other))
    assert one.compare(other).summary["answered_by"] is None, "each run may have answers of its own"
    with pytest.raises(UserError, match="jsd was not measured in both runs"):
        one.compare(other).plot()
    with pytest.raises(UserError, match="share no instrument"):
        one.compare(dataclasses.replace(other, summary={}))


@pytest.mark.slow
def test_a_second_model_is_given_the_first_ones_answers_from_memory_and_from_disk(asked, tmp_path):
    plain = [
        {name: row[name] for name in ("question", "answers")} | {"response": f"{i}"} for i, row in enumerate(RIVERS)
    ]
    before = asked.diagnose(plain, instruments="jsd", n=3, candidates=2, out=tmp_path / "before")
    other = interp.load(copy.deepcopy(asked.checkpoint.model), asked.checkpoint.tokenizer, shots=0)
    after = other.diagnose(plain, instruments="jsd", n=3, candidates=2, cases=before)
    again = other.diagnose(plain, instruments="jsd", n=3, candidates=2, cases=tmp_path / "before")
    samples = [[r for r in side.all_records if r["measure"] == "sample"] for side in (before, after, again)]
    assert samples[0] == samples[1] == samples[2] and len(samples[0]) == 3
    assert (before.compare(after).table()["difference"].dropna().abs() < 1e-6).all()
    kept = [other.diagnose(plain, instruments="jsd", n=3, candidates=2, cases=before, out=tmp_path / "x") for _ in "ab"]
    assert kept[0].summary == kept[1].summary, "the second goes on from the first"
    with pytest.raises(UserError, match="its n: 3, here: 2"):
        other.diagnose(plain, instruments="jsd", n=2, candidates=2, cases=before)


@pytest.mark.slow
def test_what_a_loaded_model_has_decided_is_no_option_of_a_run(asked):
    for name in ("dtype", "device", "quantization", "dry_run", "format"):
        with pytest.raises(TypeError, match=f"'{name}' is decided when the model is loaded"):
            asked.diagnose(RIVERS, **{name: "x"})
        with pytest.raises(TypeError, match=f"'{name}' is decided"):
            asked.evaluate(RIVERS, **{name: "x"})


def test_a_model_in_memory_is_checked_once(taught_setting, capfd):
    checkpoint = taught_setting.checkpoint
    model = interp.load(checkpoint.model, checkpoint.tokenizer, shots=0)
    for answer in ("Paris", "Lyon"):
        model.confidence("What is the capital of France?", answer)
    assert capfd.readouterr().err.count("the engine reads as the model does") == 1


@pytest.mark.slow
def test_calibration_of_a_model_in_memory_is_that_of_the_command(asked, own_data, taught_checkpoint, tmp_path):
    file = own_data / "open.jsonl"
    found = asked.evaluate(file, methods=("default", "sequence", "question-only"), n=8)
    command = composed(
        Evaluate, ckpt=(str(taught_checkpoint),), data=(str(file),), n=8, shots=0, device="cpu",
        methods=("default", "sequence", "question-only"), out=tmp_path / "run",
    )  # fmt: skip
    theirs = interp.read_run(evaluated(command))
    numbers = [side.table()["value"].drop("seconds", level="measure").to_numpy(float) for side in (found, theirs)]
    assert np.allclose(*numbers, equal_nan=True, atol=1e-5) and len(numbers[0]) > 20
    assert isinstance(found.plot(), Figure) and isinstance(found.plot("cost"), Figure)
    assert "Default" in repr(found) and "<table" in found._repr_html_()
    with pytest.raises(UserError, match="figure 'colour' is none of confidence"):
        found.plot("colour")
    own = asked.evaluate(RIVERS, n=2)
    assert own.summary["models"] and len([r for r in own.all_records if r["measure"].endswith("answer")]) == 2


def test_questions_come_from_lists_frames_and_names():
    listed = interp.questions(RIVERS, n=2)
    assert [question.text for question in listed] == ["Which river is number 0?", "Which river is number 1?"]
    assert interp.questions(pandas.DataFrame(RIVERS), n=2) == listed == interp.questions(listed)
    assert len(interp.questions("facts:test", n=3)) == 3
    with pytest.raises(UserError, match='question 1: no "answers"'):
        interp.questions([RIVERS[0], {"question": "Who?"}])


def test_a_model_without_a_tokenizer_or_in_training_mode_is_refused(asked):
    with pytest.raises(UserError, match="needs its tokenizer"):
        interp.load(asked.checkpoint.model)
    training = copy.deepcopy(asked.checkpoint.model).train()
    with pytest.raises(UserError, match=r"call model\.eval"):
        interp.load(training, asked.checkpoint.tokenizer)
    with pytest.raises(UserError, match="no questions"):
        asked.diagnose([])


def test_a_choice_named_in_words_is_put_as_its_letter(asked, choice_questions):
    question = choice_questions[0]
    letter = question.answers[0]
    assert asked.confidence(question, f" {letter}. {question.answers[1]} ") == asked.confidence(question, letter)


@pytest.mark.slow
def test_all_instruments_run_on_a_model_whose_weights_have_gradients(asked, tmp_path):
    model = copy.deepcopy(asked.checkpoint.model).requires_grad_(True)
    result = interp.load(model, asked.checkpoint.tokenizer, shots=0).diagnose(
        RIVERS, n=2, n_attribution=1, candidates=2
    )
    assert {"jsd", "rollout", "masking", "attribution"} <= result.summary.keys()
    assert all(
        isinstance(result.plot(name), Figure)
        for name in ("jsd", "rollout", "attribution", "tokens_1", "jsd_likelihood")
    )
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_a_model_that_changes_between_two_questions_is_read_anew(asked):
    model = copy.deepcopy(asked.checkpoint.model)
    held = interp.load(model, asked.checkpoint.tokenizer, shots=2)
    before = held.confidence("Who?", "Ada")
    with torch.no_grad():
        model.get_input_embeddings().weight += 0.3 * torch.randn_like(model.get_input_embeddings().weight)
    after = interp.load(model, asked.checkpoint.tokenizer, shots=2).confidence("Who?", "Ada")
    assert held.confidence("Who?", "Ada") == after != before
    with pytest.raises(UserError, match=r"call model\.eval"):
        model.train() and held.confidence("Who?", "Ada")


def test_what_is_missing_in_a_frame_is_left_out_and_ids_must_differ():
    frame = pandas.DataFrame(RIVERS)
    frame["confidence"], frame["context"] = np.nan, [None, "Here.", None, None, None]
    frame["answers"] = frame["answers"].map(np.array)
    frame["id"] = np.nan
    read = interp.questions(frame)
    assert [question.context for question in read] == ["", "Here.", "", "", ""]
    assert len({question.id for question in read}) == 5 and read[0].confidence is None
    with pytest.raises(UserError, match="stands there twice"):
        interp.questions([{"id": 1, **RIVERS[0]}, {"id": 1, **RIVERS[1]}])
    assert len({question.id for question in interp.questions([RIVERS[0], RIVERS[0]])}) == 2
    assert interp.questions("facts:test", n=3, seed=1) != interp.questions("facts:test", n=3)


def test_a_name_that_is_unknown_is_refused_before_anything_is_asked():
    code = """
import interp
from types import SimpleNamespace
from interp.errors import UserError
model = interp.Model(SimpleNamespace(fingerprint="x", shots=0, name="m"), "ScoreNumber", None)
for given in ({"instruments": "jds"}, {"instruments": ("jsd", "probes")}, {"wrong": "branch"}):
    try:
        model.diagnose([], **given)
    except UserError as error:
        print(error)
try:
    interp.load("smollm2-135m-instruct", format="scorenumber")
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    starts = (
        "instrument 'jds' is none of jsd,",
        "instrument 'probes'",
        "wrong 'branch' is none of",
        "format 'scorenumber'",
    )
    assert [line.startswith(start) for line, start in zip(done.stdout.splitlines(), starts, strict=True)] == [True] * 4


@pytest.mark.slow
def test_runs_that_cannot_be_compared_are_refused(asked):
    one = asked.diagnose(RIVERS, instruments="masking", n=2)
    other = interp.load(asked.checkpoint.model, asked.checkpoint.tokenizer, shots=0, format="ScoreLetter")
    with pytest.raises(UserError, match="formats differ"):
        one.compare(other.diagnose(RIVERS, instruments="masking", n=2))
    with pytest.raises(UserError, match="share no question"):
        one.compare(asked.diagnose(RIVERS[3:], instruments="masking", n=2))
    renamed = [{**row, "id": f"q{number}"} for number, row in enumerate(RIVERS)]
    swapped = [{**row, "id": f"q{number}"} for number, row in enumerate(RIVERS[::-1])]
    sides = [asked.diagnose(rows, instruments="masking", n=4) for rows in (renamed, swapped)]
    with pytest.raises(UserError, match="stands for two questions"):
        sides[0].compare(sides[1])


def test_an_answer_with_a_formula_is_drawn_as_it_stands(asked):
    figure = asked.contrast("How much?", "costs $5_$", "$6").plot()
    figure.canvas.draw()
    assert "costs" in figure.axes[0].get_title(loc="left")
