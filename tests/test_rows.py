"""Questions from the files and rows that people have: what is unambiguous is read, what is not is refused."""

import csv
import importlib.util
import json

import pandas as pd
import pytest

import interp
from interp.datasets.questions import loaded_questions
from interp.datasets.rows import question_of_record
from interp.errors import UserError

RIVERS = [
    {"question": "Which river runs through Cologne?", "answers": ["Rhine", "the Rhine"], "response": "Rhine"},
    {"question": "How many banks has a river?", "answers": ["2", "two"], "response": "3"},
]
RIVERS = [row | {"confidence": c} for row, c in zip(RIVERS, (0.9, 0.6), strict=True)]


def saved(path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def of(record: dict):
    return question_of_record({"question": "Which?", **record})


def test_one_set_of_questions_is_the_same_in_every_form(tmp_path):
    table = pd.DataFrame(RIVERS)
    forms = {
        "lines.jsonl": "\n".join(map(json.dumps, RIVERS)),
        "array.json": json.dumps(RIVERS, indent=1),
        "columns.json": table.to_json(),
        "lists.json": json.dumps(table.to_dict("list")),
        "records.json": table.to_json(orient="records"),
        "no_ending": json.dumps(RIVERS),
    }
    read = [loaded_questions(saved(tmp_path / name, text)) for name, text in forms.items()]
    for name, delimiter in (("table.csv", ","), ("table.tsv", "\t")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(RIVERS[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(RIVERS)
        read.append(loaded_questions(str(tmp_path / name)))
    read.append(interp.questions(table))
    first = read[0]
    assert [q.answers for q in first] == [("Rhine", "the Rhine"), ("2", "two")]
    assert [(q.response, q.confidence) for q in first] == [("Rhine", 0.9), ("3", 0.6)]
    assert all(questions == first for questions in read)


@pytest.mark.parametrize(
    ("row", "answers", "choices"),
    [
        ({"answer": {"value": "Mercury", "aliases": ["Mercury", "Hg"], "normalized_value": "x"}}, ("Mercury", "Hg"), 0),
        ({"answers": {"text": ["the Alps", "Alps"], "answer_start": [3, 7]}}, ("the Alps", "Alps"), 0),
        ({"answer": "Paris"}, ("Paris",), 0),
        ({"answers": [1914, "nineteen fourteen"]}, ("1914", "nineteen fourteen"), 0),
        ({"choices": ["Tin", "Iron"], "answer": "B"}, ("B", "Iron"), 2),
        ({"choices": ["Tin", "Iron"], "answer": 1.0}, ("B", "Iron"), 2),
        ({"choices": ["Tin", "Iron"], "answer": "1"}, ("B", "Iron"), 2),
        ({"choices": ["Tin", "Iron"], "answer": "iron"}, ("B", "Iron"), 2),
        ({"choices": {"text": ["Tin", "Iron"], "label": ["A", "B"]}, "answerKey": "B"}, ("B", "Iron"), 2),
        ({"choices": {"text": ["Tin", "Iron"], "label": ["1", "2"]}, "answerKey": "2"}, ("B", "Iron"), 2),
        ({"choices": {"text": ["Tin", "Iron"], "label": ["1", "2"]}, "answerKey": 1}, ("A", "Tin"), 2),
        ({"choices": ["23", "46", "92"], "answer": "46"}, ("B", "46"), 3),
        ({"choices": ["+", "-", "*"], "answer": "*"}, ("C", "*"), 3),
        ({"answer": 1914}, ("1914",), 0),
        ({"question": None, "query": "Who?", "options": ["Ada", "Ben"], "correct_option": 1}, ("B", "Ben"), 2),
    ],
)
def test_rows_of_well_known_data_sets_are_read_as_they_are(row, answers, choices):
    question = of(row)
    assert (question.answers, len(question.choices)) == (answers, choices)


def test_confidences_and_relations_are_read_where_they_say_something():
    for written in (0.85, "85%", " 85 % ", "0.85"):
        assert of({"answers": ["x"], "confidence": written}).confidence == pytest.approx(0.85)
    for nothing in (None, ""):
        assert of({"answers": ["x"], "confidence": nothing}).confidence is None
    relations = [of({"answers": ["x"], "relation": r}).relation for r in (None, "n/a", "NaN", "capital")]
    assert relations == ["", "", "", "capital"]


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Answer: Lima\nConfidence: 9", "Lima"),
        ("Lima\nIt lies at the sea.", "Lima"),
        ("<think>Lima", ""),
        ("", ""),
        (3, "3"),
    ],
)
def test_a_response_is_read_as_a_reply(response, answer):
    assert of({"answers": ["x"], "response": response}).response == answer


def test_the_same_question_twice_without_ids_is_numbered_and_with_ids_refused(tmp_path):
    rows = [RIVERS[0] | {"response": answer} for answer in ("Rhine", "Elbe", "Main")]
    questions = loaded_questions(saved(tmp_path / "samples.jsonl", "\n".join(map(json.dumps, rows))))
    first = questions[0].id
    assert [q.id for q in questions] == [first, f"{first}-2", f"{first}-3"]
    assert [q.response for q in questions] == ["Rhine", "Elbe", "Main"]
    assert interp.questions(rows) == questions
    with pytest.raises(UserError, match="the id '7' stands there twice"):
        loaded_questions(saved(tmp_path / "ids.json", json.dumps([row | {"id": 7} for row in rows])))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", '[{"question": "Q?"\n, ]', "its JSON array is malformed"),
        ("a.json", '[{"question": "Q?", "answers": ["x"]}, {"answers": 1}]', "item 2 of its JSON array"),
        ("a.json", '{"question": {"0": "Q?", "1": "R?"}, "answers": {"0": ["x"]}}', "row 2 of its columns: no"),
        ("a.json", '{"question": ["Q?"], "answers": 1}', "'answers' is neither"),
        ("a.csv", "question,answers\nQ?,x,y\n", "line 2: more cells"),
        ("a.csv", "question,answers\nQ?,\n", 'line 2: no "answers"'),
        ("a.csv", "question,answers\n", "no questions in it"),
        ("a.csv", "a\0b", "null character"),
        ("a.csv", "question,answers,answers\nQ?,x,y\n", "'answers' stands there twice"),
        ("a.csv", "question,answers\nQ?,['Rhine' 'the Rhine']\n", "line 2: a list without commas"),
        ("a.csv", "question,A,B,C,D,answer\nQ?,Tin,Iron,Lead,Zinc,B\n", "look like choices"),
        ("a.jsonl", '{"question": "Q?", "choices": ["O", "A", "B"], "answer": "A"}', "write an index"),
        ("a.jsonl", '{"question": "Q?", "answers": ["x"], "confidence": "150%"}', "number from 0 to 1$"),
    ],
)
def test_a_malformed_file_is_one_sentence_that_names_the_place(tmp_path, name, text, reason):
    path = saved(tmp_path / name, text)
    with pytest.raises(UserError, match=reason) as raised:
        loaded_questions(path)
    assert path in str(raised.value)


def test_fields_say_where_a_row_holds_what_a_question_needs(tmp_path):
    path = saved(tmp_path / "own.jsonl", json.dumps({"prompt": "Q?", "gold": {"all": ["x", "y"]}, "answers": [""]}))
    (question,) = loaded_questions(path, ["question=prompt", "answers=gold.all"])
    assert (question.text, question.answers) == ("Q?", ("x", "y"))
    with pytest.raises(UserError, match=r"no 'gold\.none', which --fields names for 'answers'"):
        loaded_questions(path, ["question=prompt", "answers=gold.none"])
    for wrong in ("question", "colour=red", "question="):
        with pytest.raises(UserError, match="write FIELD=NAME"):
            loaded_questions(path, [wrong])


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="the extra `hub` is not installed")
def test_any_data_set_is_read_from_disk_by_its_split(tmp_path):
    import datasets

    rows = datasets.Dataset.from_list([{"q": row["question"], "gold": row["answers"]} for row in RIVERS])
    fields = ["question=q", "answers=gold"]
    rows.save_to_disk(tmp_path / "one")
    parts = datasets.DatasetDict({"train": rows.select([0]), "validation": rows})
    parts.save_to_disk(tmp_path / "parts")
    whole = loaded_questions(f"hf:{tmp_path / 'one'}", fields)
    assert [q.answers for q in whole] == [("Rhine", "the Rhine"), ("2", "two")]
    assert loaded_questions(f"hf:{tmp_path / 'parts'}", fields) == whole, "the validation split by itself"
    assert loaded_questions(f"hf:{tmp_path / 'parts'}:train", fields) == whole[:1]
    with pytest.raises(UserError, match="it has no split 'test', but train, validation"):
        loaded_questions(f"hf:{tmp_path / 'parts'}:test", fields)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.jsonl").write_text("\n".join(map(json.dumps, RIVERS)))
    assert [q.text for q in loaded_questions(f"hf:{tmp_path / 'files'}")] == [row["question"] for row in RIVERS]
    with pytest.raises(UserError, match="could not be loaded"):
        loaded_questions(f"hf:{tmp_path / 'nothing' / 'here'}")
    with pytest.raises(UserError, match="write hf:NAME"):
        loaded_questions("hf:a:b:c:d")


def test_a_table_of_arrays_and_mappings_is_read_as_its_rows():
    import numpy as np

    arc = {
        "question": "Metal?",
        "choices": {"text": np.array(["Oak", "Tin"]), "label": np.array(["A", "B"])},
        "answerKey": "B",
    }
    squad = {"question": "Where?", "answers": {"text": np.array(["Alps"]), "answer_start": np.array([3])}}
    trivia = {"question": "Who?", "answer": {"value": "Ada", "aliases": np.array(["Ada L."])}}
    read = [interp.questions(pd.DataFrame([row]))[0] for row in (arc, squad, trivia)]
    assert [q.answers for q in read] == [("B", "Tin"), ("Alps",), ("Ada", "Ada L.")]


def test_a_mapped_field_hides_what_the_row_calls_so(tmp_path):
    path = saved(tmp_path / "own.jsonl", json.dumps({"question": "Q?", "answers": ["old"], "gold": "new"}))
    assert loaded_questions(path, ["answer=gold"])[0].answers == ("new",)
