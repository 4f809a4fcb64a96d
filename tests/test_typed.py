"""Records as dataclasses: nothing that is on record is lost, and what does not fit is named."""

import json
from dataclasses import asdict, fields

import pytest
from test_figures import made_records, run_of

from interp.errors import UserError
from interp.measures import (
    AnswerRecord,
    AttributionRecord,
    DivergenceRecord,
    FloorRecord,
    FlowRecord,
    MaskingRecord,
    ProbeRecord,
    QuestionRecord,
    RolloutRecord,
    SampleRecord,
    SteeringRecord,
)
from interp.run.typed import typed

KINDS = (
    AnswerRecord,
    SampleRecord,
    DivergenceRecord,
    RolloutRecord,
    MaskingRecord,
    AttributionRecord,
    FlowRecord,
    ProbeRecord,
    SteeringRecord,
    FloorRecord,
)
FLOOR = {"measure": "floor", "set": 0, "id": "fact-0"} | {
    "readings": [[0.25, 0.75], [0.5, 0.5]],
    "values": {"jsd": 0.03, "expected": -0.25, "stated": 1.0},
}
PROBE = {"measure": "probe", "set": 0, "id": "fact-0", "place": "answer", "layers": [0, 3], "layer": 3} | {
    "penalty": 0.1,
    "scores": {"question": [0.5, None], "answer": [-0.25, 1.5]},
    "values": {"right": 1.0, "group": 0.0, "probe": 1.5, "agreement": None},
}

STEERING = {"measure": "steering", "set": 0, "id": "fact-0", "layer": 3, "place": "read", "direction": "stated"} | {
    "doses": [-2.0, 0.0, 2.0],
    "values": {"right": 1.0, "group": 0.0, "steered.expected.2": 0.75, "dose": None},
}

FLOW = {"measure": "flow", "set": 0, "id": "fact-0", "source": "sampled"} | {
    "answers": {"right": "Kid", "wrong": None},
    "whole": {"right": 0.75, "wrong": 0.25},
    "knockouts": {"answer_to_read": {"jsd": 0.125, "right": 0.5, "wrong": 0.25, "outside": 0.125}},
    "windows": {"answer_to_read": {"0-4": {"jsd": 0.25, "right": 0.5, "wrong": 0.25, "outside": 0.125}}},
    "swaps": {"read": {"30": {"right": 0.25, "wrong": 0.75}}},
    "swap_controls": {"read": {"itself": 0.0}},
    "values": {"jsd": 0.25, "answer_to_read.jsd": None},
}


def made(kind: type[QuestionRecord]) -> list[dict]:
    """Records of one measure, as they are read from disk."""
    records = [
        record
        for record in [*made_records(5, sets=2), FLOOR, FLOW, PROBE, STEERING]
        if record["measure"] == kind.measure
    ]
    return json.loads(json.dumps(records))


def plain(kind: type[QuestionRecord], record: dict) -> dict:
    """The record once it was typed, in plain JSON again."""
    return json.loads(json.dumps(asdict(typed(kind, record))))


def at(record: dict, *path: str | int) -> dict:
    """What lies at the path within a record."""
    for key in path:
        record = record[key]
    return record


def test_every_measure_has_one_dataclass_under_its_name():
    assert {kind.measure for kind in KINDS} == {
        record["measure"] for record in [*made_records(1), FLOOR, FLOW, PROBE, STEERING]
    }
    assert set(KINDS) == set(QuestionRecord.__subclasses__())


@pytest.mark.parametrize("kind", KINDS)
def test_no_key_and_no_number_of_a_record_is_lost(kind):
    records = made(kind)
    assert records
    for record in records:
        back = plain(kind, record)
        assert record.keys() - {"measure"} <= back.keys() == {field.name for field in fields(kind)}
        assert {"measure": kind.measure} | {key: back[key] for key in record if key in back} == record


@pytest.mark.parametrize("kind", KINDS)
def test_keys_that_a_dataclass_does_not_have_are_ignored(kind):
    for record in made(kind):
        assert typed(kind, record | {"later": [1]}) == typed(kind, record)


def test_what_a_run_of_version_0_1_does_not_have_has_a_default():
    sample = {"id": "a", "set": 0, "wrong": ["b"], "distinct": ["a", "b"], "tries": 9, "vetoed": 1}
    assert typed(SampleRecord, sample) == SampleRecord(
        id="a", wrong=("b",), distinct=("a", "b"), tries=9, vetoed=1, sources=(), branched=()
    )
    (record, *_) = made(AttributionRecord)
    del record["answer"]["mean"]["floor"]
    assert typed(AttributionRecord, record).answer["mean"].floor == 0


def test_lists_become_tuples_and_a_number_that_is_missing_stays_missing():
    record = typed(AttributionRecord, made(AttributionRecord)[0] | {"tokens": [1, None, 0.5]})
    assert record.tokens == (1.0, None, 0.5) and isinstance(record.answer["mean"].attribution, tuple)
    assert typed(DivergenceRecord, {"id": "a", "values": {"jsd": None, "pairs": 3}}).values == {"jsd": None, "pairs": 3}


@pytest.mark.parametrize(
    ("kind", "path", "wrong", "said"),
    (
        (DivergenceRecord, ("answers", "right", 0, "expected"), "high", "answers.right.0.expected: input should be"),
        (RolloutRecord, ("layers",), 1.5, "layers: input should be a valid integer"),
        (RolloutRecord, ("spans", 0), "nowhere", "spans.0: input should be 'special'"),
        (MaskingRecord, ("masked", "mean", "probability"), None, "masked.mean.probability: input should be"),
        (AttributionRecord, ("score",), "other", "score: input should be 'expected' or 'stated'"),
        (AnswerRecord, ("right",), None, "right: input should be a valid boolean"),
        (AnswerRecord, ("transcript", "ids"), 7, "transcript.ids: input should be a valid tuple"),
        (SampleRecord, ("wrong",), ..., "wrong: field required"),
        (FloorRecord, ("values", "jsd"), "none", "values.jsd: input should be a valid number"),
    ),
)
def test_a_record_that_does_not_fit_is_one_sentence_with_measure_id_and_field(kind, path, wrong, said):
    record = made(kind)[0]
    *inner, last = path
    if wrong is ...:
        del at(record, *inner)[last]
    else:
        at(record, *inner)[last] = wrong
    with pytest.raises(UserError) as raised:
        typed(kind, record)
    sentence = str(raised.value)
    assert sentence.startswith(f"the {kind.measure} record of question 'fact-0' does not fit at {said}")
    assert "\n" not in sentence and "pydantic" not in sentence


def test_an_answer_without_its_transcript_is_named_where_the_transcript_is_needed():
    record = made(AnswerRecord)[0]
    del record["transcript"]
    with pytest.raises(UserError, match="question 'fact-0' holds no transcript"):
        _ = typed(AnswerRecord, record).prompt


def test_a_run_reads_each_measure_once_and_knows_measures_that_have_no_dataclass():
    theirs = {"measure": "length", "set": 0, "id": "fact-0", "values": {"letters": 5}}
    run = run_of(made_records(3, sets=2), [theirs])
    assert run.of(MaskingRecord) is run.of(MaskingRecord)
    assert [(record.id, record.set) for record in run.of(MaskingRecord)] == [
        (f"fact-{i}", number) for i in range(3) for number in range(2)
    ]
    assert [*run.first_set(MaskingRecord)] == ["fact-0", "fact-1", "fact-2"]
    assert all(record.set == 0 for record in run.first_set(MaskingRecord).values())
    assert run.has("length") and run.has("masking") and not run.has("floor") and run.of(FloorRecord) == ()
