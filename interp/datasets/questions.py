"""Loads questions from files, from named data sets and from the hub, and puts them in a reproducible order.

The module knows where questions come from, and nothing of prompts and models."""

import hashlib
import importlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from interp.datasets.files import Row, rows_of
from interp.datasets.rows import has_id, numbered, question_of_record
from interp.errors import UserError
from interp.plain import plain_json
from interp.records import Question

NAMED_DATA = ("facts", "triviaqa", "mmlu", "logiqa", "sciq")
QUESTION_FIELDS = ("id", "question", "answers", "choices", "answer", "context", "relation", "response", "confidence")


def loaded_questions(data: str, fields: Sequence[str] = ()) -> list[Question]:
    """The questions of a data set, in its order.

    Args:
        data: `facts[:SPLIT]`, another name of `NAMED_DATA` with or without a split, a file (JSON lines, a
            JSON array, columns, CSV), or `hf:NAME[:configuration][:split]`.
        fields: where a row holds what a question needs, as in "question=query", "answers=answer.aliases".

    Raises:
        UserError: naming the file and line that is malformed, the name that is unknown, or an id that stands twice; and
            for data without questions.
    """
    name, _, split = data.partition(":")
    if name == "facts":
        return _facts(split)
    if name == "hf" and not Path(data).exists():
        rows = _from_any(data)
    elif name in NAMED_DATA and not Path(data).exists():
        rows = _from_hub(name, split)
    elif Path(data).is_file():
        rows = rows_of(Path(data))
    else:
        raise UserError(f"--data {data}: neither a file nor one of {', '.join(NAMED_DATA)}, hf:NAME")
    return questions_of(rows, f"--data {data}", fields)


def questions_of(rows: Iterable[Row], where: str, fields: Sequence[str] = ()) -> list[Question]:
    """The questions of rows, their ids made where the rows have none.

    Args:
        rows: where each stands, and the row itself: a mapping, or a Question.
        where: what they are called in errors.
        fields: as in `loaded_questions`.

    Raises:
        UserError: for a row that is no question, an id that stands twice, and where there are none.
    """
    paths = field_paths(fields)
    questions, named = [], []
    for place, row in rows:
        if isinstance(row, Question):
            questions.append(row)
            named.append(True)
            continue
        try:
            record = _renamed(row, paths) if paths else row
            questions.append(question_of_record(record))
            named.append(has_id(record))
        except ValueError as error:
            raise UserError(f"{place}: {error}") from None
    if not questions:
        raise UserError(f"{where}: no questions in it")
    apart = numbered(questions, named)
    identity, count = Counter(question.id for question in apart).most_common(1)[0]
    if count > 1:
        raise UserError(f"{where}: the id {identity!r} stands there twice; ids must differ")
    return apart


def field_paths(fields: Sequence[str]) -> dict[str, list[str]]:
    """Where a row holds each field: "answers=answer.aliases" gives {"answers": ["answer", "aliases"]}.

    Raises:
        UserError: for what is not written so, and a field that no question has.
    """
    paths = {}
    for given in fields:
        field, equal, path = given.partition("=")
        if not equal or field not in QUESTION_FIELDS or not path:
            raise UserError(f"--fields {given}: write FIELD=NAME, FIELD being one of {', '.join(QUESTION_FIELDS)}")
        paths[field] = path.split(".")
    return paths


def _renamed(row: Any, paths: Mapping[str, list[str]]) -> dict[str, Any]:
    """The row with its fields under the names that a question has. Raises ValueError for a field that it lacks."""
    if not isinstance(row, Mapping):
        raise ValueError("not a JSON object")
    others = {"answer": ("answers", "answerKey", "correct_option"), "answers": ("answer",), "question": ("query",)}
    hidden = {name for field in paths for name in (field, *others.get(field, ()))}
    record = {name: value for name, value in row.items() if name not in hidden}
    for field, path in paths.items():
        value: Any = row
        for name in path:
            if not isinstance(value, Mapping) or name not in value:
                raise ValueError(f"no {'.'.join(path)!r}, which --fields names for {field!r}")
            value = value[name]
        record[field] = value
    return record


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


def _facts(split: str) -> list[Question]:
    """The embedded questions of a split; where it is empty of all but `final`, which is looked at once, at the end."""
    records = map(plain_json, files("interp").joinpath("data/facts.jsonl").read_text(encoding="utf-8").splitlines())
    asked = (split,) if split else ("train", "test", "unseen")
    kept = [question_of_record(record) for record in records if record["split"] in asked]
    if not kept:
        raise UserError(f"--data facts:{split}: the splits are train, test, unseen and final")
    return kept


HUB = {
    "triviaqa": ("mandarjoshi/trivia_qa", "rc.nocontext", "validation", None),
    "mmlu": ("cais/mmlu", "all", "test", None),
    "logiqa": ("lucasmccabe/logiqa", "default", "test", "refs/convert/parquet"),
    "sciq": ("allenai/sciq", "default", "test", None),
}
"""Named data sets: (repository, configuration, split, revision)."""


def _from_hub(name: str, split: str) -> Iterator[Row]:
    """The rows of a named data set, each with an id, once however many kinds of evidence TriviaQA has for it."""
    repository, configuration, default, revision = HUB[name]
    part = split or default
    seen: set[str] = set()
    for number, row in enumerate(_downloaded(name, repository, configuration, part, revision)):
        identity = f"{name}-{row.get('question_id') or f'{part}-{number:05d}'}"
        if identity not in seen:
            seen.add(identity)
            yield f"--data {name}: row {number} of {repository}", {**row, "id": identity}


def _from_any(data: str) -> Iterator[Row]:
    """The rows of `hf:NAME[:configuration][:split]`: any data set of the hub, or a directory of one.

    What stands behind the name is a split where it is no configuration; without a split, `test`, `validation` or the
    first one is taken."""
    name, *more = data.removeprefix("hf:").split(":")
    if not name or len(more) > 2:
        raise UserError(f"--data {data}: write hf:NAME[:configuration][:split]")
    sets = _saved(name, data) if Path(name).is_dir() else None
    if sets is None:
        known = _configurations(data, name) if len(more) == 1 else []
        configuration = more[0] if len(more) == 2 or (more and more[0] in known) else None
        part = more[-1] if more and (len(more) == 2 or configuration is None) else None
        sets = _downloaded(data, name, configuration, None, None)
    else:
        part = more[-1] if more else None
    if not hasattr(sets, "keys"):  # one split, saved by itself
        parts, part = {part or "all": sets}, part or "all"
    else:
        parts = dict(sets)
        part = part or next((split for split in ("test", "validation") if split in parts), next(iter(parts)))
    if part not in parts:
        raise UserError(f"--data {data}: it has no split {part!r}, but {', '.join(parts)}")
    for number, row in enumerate(parts[part]):
        yield f"--data {data}: row {number}", row


def _datasets(data: str) -> Any:
    """The package datasets. Raises UserError where it is not installed."""
    try:
        return importlib.import_module("datasets")
    except ImportError:
        raise UserError(f"--data {data} needs the package datasets: pip install 'advice-calibration[hub]'") from None


def _saved(name: str, data: str) -> Any:
    """A data set that `save_to_disk` wrote; None for a directory of other files."""
    marks = ("dataset_dict.json", "state.json")
    return _datasets(data).load_from_disk(name) if any((Path(name) / mark).exists() for mark in marks) else None


def _configurations(data: str, name: str) -> list[str]:
    try:
        return list(_datasets(data).get_dataset_config_names(name))
    except Exception:  # the library raises many types; loading it says what is wrong
        return []


def _downloaded(data: str, name: str, configuration: str | None, split: str | None, revision: str | None) -> Any:
    """What `datasets.load_dataset` gives; UserError with its reason where it gives nothing."""
    load = _datasets(data).load_dataset
    try:
        return load(name, configuration, split=split, revision=revision)
    except Exception as error:  # the library raises many types: offline, unknown split, gated data
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"--data {data}: {name} could not be loaded ({reason}); give a JSONL file") from error
