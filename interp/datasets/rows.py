"""Questions from rows as people have them: our own fields, and those of TriviaQA, SQuAD, MMLU, ARC, LogiQA and SciQ.

What is unambiguous is read; what is not is refused with what to write. The module knows one row, no files."""

import hashlib
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

from interp.datasets.choices import LETTERS, choice_index
from interp.datasets.replies import answer_in
from interp.datasets.words import normalised
from interp.plain import compatible
from interp.records import Question

MISSING = frozenset(("", "n/a", "na", "nan", "none", "null", "-"))
"""Texts that say that a question has no relation."""
DISTRACTORS = ("distractor1", "distractor2", "distractor3")


def question_of_record(record: object) -> Question:
    """A question from one row.

    Args:
        record: a mapping with `question` (or `query`), and either `answers`, a list of texts, or `choices` (or
            `options`) with `answer` (or `answerKey`, `correct_option`): an index from 0, a letter, a label of the
            choices, or a choice's text. Optional are id (or question_id), context, relation or subject, response, and
            confidence, from 0 to 1 or as in "85%". Without an id, one is made from the question's contents.

    Raises:
        ValueError: saying which field is missing, malformed or ambiguous, and what to write.
    """
    if not isinstance(record, Mapping):
        raise ValueError("not a JSON object")
    text = _first(record, "question", "query")
    if not isinstance(text, str) or not text.strip():
        raise ValueError('no "question"')
    choices, labels = _choices(record)
    answers = _right_choice(record, choices, labels) if choices else _answers(record)
    context, relation = record.get("context") or "", _first(record, "relation", "subject") or ""
    if not isinstance(context, str) or not isinstance(relation, str):
        raise ValueError('"context", "relation" and "subject" must be texts')
    identity = _first(record, "id", "question_id")
    if isinstance(identity, bool | list | dict):
        raise ValueError('"id" must be a text or a number')
    made = "q-" + hashlib.sha256(f"{text}|{choices or ()}|{context}".encode()).hexdigest()[:10]
    return Question(
        id=made if identity is None or identity == "" else str(identity),
        text=text.strip(),
        answers=tuple(a for a in answers if a.strip()),
        choices=tuple(choices),
        context=context,
        relation="" if relation.strip().casefold() in MISSING else relation,
        response=_response(record.get("response")),
        confidence=_confidence(record.get("confidence")),
    )


def has_id(record: object) -> bool:
    """Whether a row names its question, so that its id is not made from its contents."""
    return isinstance(record, Mapping) and _first(record, "id", "question_id") not in (None, "")


def numbered(questions: Iterable[Question], named: Iterable[bool]) -> list[Question]:
    """The questions; one without an id of its own and with the contents of an earlier one has a number behind its id.

    named: for each question whether its row held an id."""
    seen: dict[str, int] = {}
    told_apart = []
    for question, has_its_own in zip(questions, named, strict=True):
        count = seen[question.id] = seen.get(question.id, 0) + 1
        apart = count > 1 and not has_its_own
        told_apart.append(replace(question, id=f"{question.id}-{count}") if apart else question)
    return told_apart


def _first(record: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that holds anything; None where none does."""
    return next((record[name] for name in names if record.get(name) not in (None, "")), None)


def _choices(record: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
    """The texts of the choices, none for an open question, and the labels that the data give them, mostly none."""
    if _is_sciq(record):
        # the right choice comes first in SciQ; the order is the question's own
        choices = [record["correct_answer"], *(record[name] for name in DISTRACTORS)]
        random.Random(str(_first(record, "id", "question"))).shuffle(choices)
        return _texts(choices, "choices"), ()
    given = _first(record, "choices", "options")
    if isinstance(given, Mapping) and "text" in given:
        labels = _texts(given.get("label") or (), "choices")
        texts = _texts(given["text"], "choices")
        if labels and len(labels) != len(texts):
            raise ValueError(f'"choices" has {len(texts)} texts and {len(labels)} labels')
        return texts, labels
    return _texts(given or (), "choices"), ()


def _texts(values: Any, field: str) -> Sequence[str]:
    """A list of texts, numbers among them as they are written."""
    if not isinstance(values, list | tuple):
        raise ValueError(f'"{field}" must be a list of texts')
    texts = [str(value) if isinstance(value, int) and not isinstance(value, bool) else value for value in values]
    if not all(isinstance(text, str) and (text.strip() or field == "answers") for text in texts):
        raise ValueError(f'"{field}" must be a list of texts')
    return texts


def _right_choice(record: Mapping[str, Any], choices: Sequence[str], labels: Sequence[str]) -> Sequence[str]:
    """The letter and the text of the right choice."""
    answer = _first(record, "answer", "answerKey", "correct_option")
    if _is_sciq(record):  # by its text, whatever that text is
        index: int | None = list(choices).index(str(record["correct_answer"]))
    else:
        index = _index_of(answer, choices, [label.strip().casefold() for label in labels])
    if index is None or not 0 <= index < len(choices) <= len(LETTERS):
        raise ValueError(
            f'"answer" {answer!r} must be the index of one of {len(choices)} choices, its letter or its text'
        )
    return [LETTERS[index], choices[index]]


def _index_of(answer: object, choices: Sequence[str], labels: Sequence[str]) -> int | None:
    """The index of the right choice; None where the answer names none. labels: the choices' own, mostly none.

    Raises:
        ValueError: where the answer is one choice's index or letter and another's text.
    """
    written = _written(answer) if _number(answer) else answer
    if isinstance(written, str) and (label := written.strip().strip("()").casefold()) in labels:
        return labels.index(label)
    if not isinstance(written, str):
        return None
    digits = re.fullmatch(r"\s*(\d{1,2})(?:\.0)?\s*", written)
    index = int(digits[1]) if digits else choice_index(written, choices)
    if not isinstance(answer, str):
        return index
    same = [i for i, choice in enumerate(choices) if choice.strip() == written.strip()]
    if digits and index is not None and index >= len(choices):
        return same[0] if len(same) == 1 else None
    if same and index not in (None, *same):
        raise ValueError(f"\"answer\" {answer!r} is one choice's index or letter and another's text; write an index")
    return index


def _is_sciq(record: Mapping[str, Any]) -> bool:
    """Whether a row has the right choice and three distractors, as SciQ's do."""
    return "correct_answer" in record and all(name in record for name in DISTRACTORS)


def _answers(record: Mapping[str, Any]) -> Sequence[str]:
    """The accepted answers to an open question, the canonical one first."""
    accepted = _first(record, "answers", "answer")
    if isinstance(accepted, Mapping) and isinstance(accepted.get("text"), list):  # SQuAD
        accepted = accepted["text"]
    elif isinstance(accepted, Mapping) and "value" in accepted:  # TriviaQA
        accepted = [accepted["value"], *_texts(accepted.get("aliases") or (), "answers")]
    if isinstance(accepted, str) or (_number(accepted) and accepted == int(accepted)):
        accepted = [accepted]
    if "answer" in record and len(lettered := [name for name in "ABCD" if record.get(name)]) == 4:
        raise ValueError(f'the columns {", ".join(lettered)} look like choices; write "choices" as a list')
    texts = _texts(accepted or (), "answers")
    if not any(normalised(text) for text in texts):
        raise ValueError('no "answers" (or "choices" and "answer")')
    return list(dict.fromkeys(texts))


def _number(value: object) -> TypeGuard[int | float]:
    """Whether the value is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _written(number: int | float) -> str:
    """A number as a text; a whole one without a point."""
    return str(int(number)) if number == int(number) else str(number)


def _response(response: object) -> str | None:
    """The answer in a response, "" where it holds none; None where there is no response.

    A whole reply is read as one: the answer stands behind its label, or in its first line outside of thoughts."""
    if response is None:
        return None
    if _number(response):
        response = _written(response)
    if not isinstance(response, str):
        raise ValueError('"response" must be a text')
    return answer_in(response) or ""


def _confidence(confidence: object) -> float | None:
    """A confidence in [0, 1]: a number in that range, or a percentage that is written as one."""
    if confidence is None or (isinstance(confidence, str) and confidence.strip().casefold() in MISSING):
        return None
    value: object = compatible(confidence) if isinstance(confidence, str) else confidence
    if isinstance(value, str) and (percentage := re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*%\s*", value)):
        value = float(percentage[1]) / 100
    elif isinstance(value, str) and re.fullmatch(r"\s*(\d{1,3}(\.\d+)?|\.\d+)\s*", value):
        value = float(value)
    number = float(value) if _number(value) else None
    if number is None:
        raise ValueError(f'"confidence" {confidence!r} must be a number from 0 to 1, or a percentage such as "85%"')
    if not 0 <= number <= 1:
        percentage_meant = 1 < number <= 100 and "%" not in str(confidence)
        meant = f': write {number / 100:g} or "{number:g}%" if it is a percentage' if percentage_meant else ""
        raise ValueError(f'"confidence" {confidence!r} must be a number from 0 to 1{meant}')
    return number
