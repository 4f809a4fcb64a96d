"""Reads questions, and decides which answers are right, wrong, or too close to right to be used as wrong ones.

Answers are compared as texts; no model is asked. The module knows nothing of prompts and confidence."""

import hashlib
import random
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from importlib.resources import files
from pathlib import Path

from interp.errors import UserError
from interp.plain import plain_json
from interp.records import Question
from interp.run.runs import Record

LETTERS = string.ascii_uppercase
NAMED_DATA = ("facts", "triviaqa", "mmlu", "logiqa", "sciq")
SIMILAR = 0.8
"""Two answers more alike than this (Ratcliff and Obershelp) may be spellings of one answer: "Belgrad", "Belgrade"."""
SHORT_FORM = 5
"""An abbreviation in capitals or with a full stop ("PA", "Calif.") has at most this many letters."""
SMALL_WORDS = frozenset(
    ("of", "and", "the", "de", "la", "le", "du", "da", "do", "di", "del", "der", "von", "for", "in")
)
"""Words that abbreviations mostly leave out: "USA" for "United States of America"."""


def normalised(answer: str) -> str:
    """The form of an answer that exact match compares: no letter case, accents, punctuation, articles, doubled blanks.

    Single letters in a row are one word: "U.S." is "US", "J. K. Rowling" is "J.K. Rowling". A minus sign before a digit
    stays, unless it joins two words: "-5" is not "5", "1914-18" is "1914 18"."""
    return re.sub(r"(?<=\b[^\W\d_]) (?=[^\W\d_]\b)", "", _words(answer))


def _words(answer: str) -> str:
    """`normalised` with single letters left apart."""
    # combining marks go first: normalisation sorts them pair by pair, which takes minutes for 100,000 of them.
    # U+0345 stays, since case folding turns it into a letter.
    few = "".join(c for c in answer if c == "\u0345" or not unicodedata.combining(c))
    folded = unicodedata.normalize("NFKD", few).casefold()
    plain = "".join(c for c in folded if not unicodedata.combining(c))
    # what is neither word nor blank becomes a blank, but for a minus sign that precedes a digit and follows no word
    words = re.sub(r"(?!(?<!\w)-\d)[^\w\s]|_", " ", plain.replace("\u2212", "-")).split()
    # an answer of articles alone ("A") keeps them
    return " ".join(word for word in words if word not in ("a", "an", "the")) or " ".join(words)


def choice_index(reply: str, choices: Sequence[str]) -> int | None:
    """Index of the choice that `reply` names by letter ("B", "b.", "B. text") or by its whole text; None if neither."""
    text = reply.strip()
    lettered = re.fullmatch(r"\(?([A-Za-z])(?:[).:]\s*(.*))?", text, re.DOTALL)
    if lettered and (index := LETTERS.find(lettered[1].upper())) < len(choices):
        rest = normalised(lettered[2] or "")  # the text after the letter, which must not name another choice
        if not rest or rest == normalised(choices[index]):
            return index
    matches = [i for i, choice in enumerate(choices) if choice.strip() == text]  # signs tell "x + 1" from "x - 1"
    matches = matches or [i for i, choice in enumerate(choices) if normalised(choice) == normalised(text)]
    return matches[0] if text and len(matches) == 1 else None


def is_right(question: Question, reply: str) -> bool:
    """Whether the reply equals an accepted answer after normalisation. A substring is not enough ("Not Paris")."""
    if question.choices:
        named = choice_index(reply, question.choices)
        return named is not None and named == choice_index(question.answers[0], question.choices)
    given = normalised(reply)
    return bool(given) and any(given == normalised(answer) for answer in question.answers)


def may_be_right(question: Question, reply: str) -> bool:
    """Whether the reply is right, or so close to an accepted answer that it must not serve as a wrong one.

    It is close where one of the two contains the other as whole words ("Nashville, Tennessee"), where the reply begins
    with the answer ("African continent"), where one may be short for the other ("PA" for Pennsylvania), or where they
    are more than `SIMILAR` alike."""
    if question.choices or is_right(question, reply):
        return is_right(question, reply)
    given = normalised(reply)
    for text in question.answers:
        answer = normalised(text)
        if not answer:
            continue
        contained = given and (_holds(_words(reply), _words(text)) or _holds(_words(text), _words(reply)))
        # the reply is longer than the answer here, for equal ones are right; a further digit makes another number
        begins = len(answer) > 3 and given.startswith(answer) and not given.removeprefix(answer)[0].isdigit()
        numbers = given.isdigit() and answer.isdigit()  # 1914 and 1915 look alike and are different answers
        if contained or begins or (not numbers and SequenceMatcher(None, given, answer).ratio() > SIMILAR):
            return True
    return _short_for_one(question, reply)


def _holds(longer: str, shorter: str) -> bool:
    """Whether a text of words contains another as whole words."""
    return f" {shorter} " in f" {longer} "


def _short_for_one(question: Question, reply: str) -> bool:
    """Whether the reply may be short for an accepted answer, or an accepted answer for the reply.

    The second is asked only where all accepted answers are as short as abbreviations, since "CA" beside "California"
    must not make "Canada" right. Initials of the reply count in any case."""
    only_short = all(len(normalised(answer)) <= SHORT_FORM for answer in question.answers)
    return any(
        is_short_for(reply, answer)
        or normalised(answer) in _initials(reply)
        or (only_short and is_short_for(answer, reply))
        for answer in question.answers
    )


def is_short_for(short: str, long: str) -> bool:
    """Whether `short` may be an abbreviation of `long`.

    An abbreviation is the initials ("usa") or words cut short ("St. Paul"). Where `short` looks like an abbreviation,
    it may also be some of the letters, in their order, from the beginning of a word on ("PA", "Pa", "Calif."). It looks
    like one where it has at most two letters, or at most `SHORT_FORM` in capitals or before a full stop."""
    letters, words = normalised(short).replace(" ", ""), _words(long).split()
    if not letters.isalpha() or not words:
        return False
    if letters in _initials(long) or letters in normalised(long).split():  # "DC" in "Washington, D.C."
        return True
    pairs = list(zip(_words(short).split(), words, strict=False))
    if len(pairs) == len(words) == len(_words(short).split()) > 1:  # several words each, as many in both
        return all(word == long_word or _cut_short(word, long_word) for word, long_word in pairs)
    bare = short.strip()
    capitals = "".join(c for c in bare if c.isalpha()).isupper()
    dotted = bare.endswith(".") and " " not in bare
    looks_short = len(letters) <= 2 or (len(letters) <= SHORT_FORM and (capitals or dotted))
    # from each word on: the rest must be clearly longer, begin with the same letter, and hold all letters in order
    return looks_short and any(
        len(rest := "".join(words[i:])) > max(len(letters) + 1, 3)
        and rest[0] == letters[0]
        and _in_order(letters, rest)
        for i in range(len(words))
    )


def _initials(text: str) -> set[str]:
    """The first letters of a text's words, with and without `SMALL_WORDS`; none of a single word."""
    words = _words(text).split()
    large = [word for word in words if word not in SMALL_WORDS]
    return {"".join(word[0] for word in kept) for kept in (words, large) if len(kept) > 1}


def _cut_short(word: str, other_word: str) -> bool:
    """Whether the shorter of two words is one to three letters of the longer, in their order: "St" and "Saint"."""
    short, long = sorted((word, other_word), key=len)
    return short.isalpha() and len(short) <= 3 and short[0] == long[0] and _in_order(short, long)


def _in_order(letters: str, text: str) -> bool:
    """Whether the letters occur in the text in this order, possibly with others between them."""
    rest = iter(text)
    return all(letter in rest for letter in letters)  # `in` consumes the iterator up to the letter


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
