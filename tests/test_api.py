"""The package from Python: a model in memory is asked, contrasted and diagnosed, and leaves nothing on disk."""

import copy
import dataclasses

import numpy as np
import pandas
import pytest
import torch
from matplotlib.figure import Figure

import interp
from interp.errors import UserError
from interp.formats import FORMATS
from interp.instruments.jsd import divergence, surface_variants
from interp.models.setting import prepared
from interp.pipelines.compare import paired_records

RIVERS = [{"question": f"Which river is number {i}?", "answers": [str(i)], "response": str(i)} for i in range(5)]


@pytest.fixture(scope="module")
def asked(taught_setting):
    """A model in memory whose confidence depends on its answer."""
    checkpoint = taught_setting.checkpoint
    return interp.load(checkpoint.model, checkpoint.tokenizer, shots=0)


def test_what_the_package_promises_is_there_and_nothing_else():
    assert set(interp.__all__) == {"Contrast", "Model", "Result", "load", "questions", "read_run"}
    assert all(getattr(interp, name) for name in interp.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        interp.lod  # noqa: B018


def test_the_confidence_in_an_answer_is_what_the_commands_read(asked, open_questions):
    checkpoint = asked.checkpoint
    setting = prepared(checkpoint, FORMATS["ScoreNumber"])
    for answer in ("Kitten", "Rome"):
        (reading,) = setting.reader.readings([setting.prompter.transcript(open_questions[0], answer)])
        assert asked.confidence(open_questions[0], answer) == reading.distribution
        assert asked.confidence(open_questions[0].text, answer) == reading.distribution, "a text will do"


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
    with pytest.raises(UserError, match="an empty answer has no confidence"):
        asked.confidence("Who?", "")


def test_a_model_in_memory_is_diagnosed_and_stays_as_it_was(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = asked.checkpoint.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = asked.diagnose(RIVERS, instruments=("jsd", "masking"), n=4, wrong="foil")
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


def test_two_results_are_compared_question_by_question(asked):
    one = asked.diagnose(RIVERS, instruments=("masking",), n=4)
    other = interp.load(asked.checkpoint.model, asked.checkpoint.tokenizer, shots=2).diagnose(
        RIVERS, instruments=("masking",), n=4
    )
    change = one.compare(other)
    expected = paired_records([one.all_records, other.all_records], "masking")["masking.seen"]
    assert change.loc["masking.seen", "difference"] == expected["difference"]["value"]
    assert change.loc["masking.seen", "n"] == 4
    assert one.compare(one).loc["masking.seen", "difference"] == 0
    with pytest.raises(UserError, match="share no instrument"):
        one.compare(dataclasses.replace(other, summary={}))


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
