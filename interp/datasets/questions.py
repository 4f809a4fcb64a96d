"""Reads questions, and decides which answers are right, wrong, or too close to right to be used as wrong ones.

Answers are compared as texts; no model is asked. The module knows nothing of prompts and confidence."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from interp.datasets.choices import LETTERS
from interp.datasets.words import normalised
from interp.errors import UserError
from interp.plain import plain_json
from interp.records import Question
from interp.run.runs import Record

NAMED_DATA = ("facts", "triviaqa", "mmlu", "logiqa", "sciq")


def loaded_questions(data: str) -> list[Question]:
    """The questions of a data set, in its order.

    Args:
        data: `facts[:train|test|unseen]`, another name of `NAMED_DATA` with or without a split, or a JSONL file.

    Raises:
        UserError: naming the file and line that is malformed, the name that is unknown, or an id that stands twice; and
            for data without questions.
    """
    name, _, split = data.partition(":")
    if name == "facts":
        questions = _facts(split)
    elif name in NAMED_DATA and not Path(data).exists():
        questions = list(_from_hub(name, split))
    elif Path(data).is_file():
        questions = list(_from_jsonl(Path(data)))
    else:
        raise UserError(f"--data {data}: neither a file nor one of {', '.join(NAMED_DATA)}")
    if not questions:
        raise UserError(f"--data {data}: no questions in it")
    identity, count = Counter(question.id for question in questions).most_common(1)[0]
    if count > 1:
        raise UserError(f"--data {data}: the id {identity!r} stands there twice; ids must differ")
    return questions


def refuse_mixed(questions: Sequence[Question], data: str) -> None:
    """Refuses data in which open questions and multiple choice are mixed.

    Raises:
        UserError: where some questions have choices and some have none.
    """
    lettered = bool(questions[0].choices)
    if deviating := next((q.id for q in questions if bool(q.choices) != lettered), None):
        raise UserError(f"--data {data}: open questions and multiple choice are mixed (from {deviating!r})")


def shuffled(questions: Sequence[Question], seed: int) -> list[Question]:
    """The questions in an order that depends on their ids and the seed alone."""
    order = sorted(questions, key=lambda question: question.id)
    random.Random(seed).shuffle(order)
    return order


def fingerprint(items: Iterable[object]) -> str:
    """Twelve hex digits that change with every field of the items, but not with their order.

    The items are questions, or other objects whose `repr` shows plain fields."""
    digest = hashlib.sha256()
    for text in sorted(map(repr, items)):
        digest.update(text.encode())
    return digest.hexdigest()[:12]


def question_of_record(record: object) -> Question:
    """A question from one JSON object.

    Args:
        record: holds `question`, and either `answers[]` or `choices[]` with `answer` (an index). Optional are id,
            context, relation or subject, response, and confidence (from 0 to 1). Without an id, one is made from the
            question's contents.

    Raises:
        ValueError: saying which field is missing or malformed.
    """
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    text = record.get("question")
    if not isinstance(text, str) or not text.strip():
        raise ValueError('no "question"')
    choices = record.get("choices") or ()
    if not isinstance(choices, list | tuple) or not all(isinstance(c, str) and c.strip() for c in choices):
        raise ValueError('"choices" must be a list of texts')
    if choices:
        answer = record.get("answer")
        if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices) <= len(LETTERS):
            raise ValueError(f'"answer" must be the index of one of {len(choices)} choices')
        answers: Sequence[str] = [LETTERS[answer], choices[answer]]
    else:
        accepted = record.get("answers") or ()
        answers = [accepted] if isinstance(accepted, str) else accepted
        if not isinstance(answers, list | tuple) or not all(isinstance(a, str) for a in answers):
            raise ValueError('"answers" must be a list of texts')
        if not any(normalised(a) for a in answers):
            raise ValueError('no "answers" (or "choices" and "answer")')
    response, confidence = record.get("response"), record.get("confidence")
    if response is not None and (not isinstance(response, str) or not response.strip()):
        raise ValueError('"response" must be a text with something in it')
    is_number = isinstance(confidence, int | float) and not isinstance(confidence, bool)
    if confidence is not None and not (is_number and 0 <= confidence <= 1):
        raise ValueError('"confidence" must be a number from 0 to 1')
    context, relation = record.get("context") or "", record.get("relation") or record.get("subject") or ""
    if not isinstance(context, str) or not isinstance(relation, str):
        raise ValueError('"context", "relation" and "subject" must be texts')
    identity = record.get("id")
    if isinstance(identity, bool | list | dict):
        raise ValueError('"id" must be a text or a number')
    if identity is None or identity == "":
        identity = "q-" + hashlib.sha256(f"{text}|{choices}|{context}".encode()).hexdigest()[:10]
    return Question(
        id=str(identity),
        text=text.strip(),
        answers=tuple(a for a in answers if a.strip()),
        choices=tuple(choices),
        context=context,
        relation=relation,
        response=response,
        confidence=None if confidence is None else float(confidence),
    )


def _from_jsonl(path: Path) -> Iterator[Question]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield question_of_record(plain_json(line))
            except ValueError as error:
                raise UserError(f"{path}, line {number}: {error}") from None


def _facts(split: str) -> list[Question]:
    """The embedded questions of a split, of all splits where it is empty."""
    records = map(plain_json, files("interp").joinpath("data/facts.jsonl").read_text(encoding="utf-8").splitlines())
    kept = [question_of_record(record) for record in records if not split or record["split"] == split]
    if not kept:
        raise UserError(f"--data facts:{split}: the splits are train, test and unseen")
    return kept


def _from_hub(name: str, split: str) -> Iterator[Question]:
    """The original data through `datasets`: TriviaQA (rc.nocontext, validation), the tests of MMLU, LogiQA and SciQ.

    Raises:
        UserError: where the package is missing, the data cannot be loaded, or a row is no question.
    """
    # name: (repository, configuration, split, revision)
    sources = {
        "triviaqa": ("mandarjoshi/trivia_qa", "rc.nocontext", split or "validation", None),
        "mmlu": ("cais/mmlu", "all", split or "test", None),
        "logiqa": ("lucasmccabe/logiqa", "default", split or "test", "refs/convert/parquet"),
        "sciq": ("allenai/sciq", "default", split or "test", None),
    }
    repository, configuration, part, revision = sources[name]
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(f"--data {name} needs the package datasets: pip install 'advice-calibration[hub]'") from None
    try:
        rows = load_dataset(repository, configuration, split=part, revision=revision)
    except Exception as error:  # the library raises many types: offline, unknown split, gated data
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"--data {name}: {repository} could not be loaded ({reason}); give a JSONL file") from error
    seen: set[str] = set()
    for number, row in enumerate(rows):
        identity = f"{name}-{row.get('question_id') or f'{part}-{number:05d}'}"
        if identity not in seen:  # TriviaQA repeats a question for each kind of evidence
            seen.add(identity)
            try:
                yield question_of_record(_hub_record(name, identity, row))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"--data {name}: row {number} of {repository} is not a question ({error})") from None


def _hub_record(name: str, identity: str, row: Record) -> Record:
    """One row of a hub data set in the fields that `question_of_record` reads."""
    if name == "triviaqa":
        answer = row["answer"]
        return {"id": identity, "question": row["question"], "answers": [answer["value"], *answer["aliases"]]}
    if name == "mmlu":
        keys = ("question", "choices", "answer", "subject")
        return {"id": identity, **{key: row[key] for key in keys}}
    if name == "sciq":
        choices = [row["correct_answer"], *(row[f"distractor{i}"] for i in (1, 2, 3))]
        random.Random(identity).shuffle(choices)  # the right choice comes first in the data; the order is the id's
        answer = choices.index(row["correct_answer"])
        return {"id": identity, "question": row["question"], "choices": choices, "answer": answer}
    return {
        "id": identity,
        "context": row["context"],
        "question": row["query"],
        "choices": row["options"],
        "answer": row["correct_option"],
    }
