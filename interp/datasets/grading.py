"""What counts as a right answer: texts compared by their words, abbreviations, the letters of choices.

It knows questions and replies, and nothing of models or files."""

from collections.abc import Callable
from difflib import SequenceMatcher
from typing import Literal

from interp.datasets.choices import choice_index
from interp.datasets.words import normalised, official, words_of
from interp.records import Question

MatchName = Literal["words", "official"]
FORMS: dict[MatchName, Callable[[str], str]] = {"words": normalised, "official": official}
"""The form of an answer that is compared, by the rule's name."""
SIMILAR = 0.8
"""Two answers more alike than this (Ratcliff and Obershelp) may be spellings of one answer: "Belgrad", "Belgrade"."""
SHORT_FORM = 5
"""An abbreviation in capitals or with a full stop ("PA", "Calif.") has at most this many letters."""
SMALL_WORDS = frozenset(
    ("of", "and", "the", "de", "la", "le", "du", "da", "do", "di", "del", "der", "von", "for", "in")
)
"""Words that abbreviations mostly leave out: "USA" for "United States of America"."""


def is_right(question: Question, reply: str, match: MatchName = "words") -> bool:
    """Whether the reply equals an accepted answer in the form that is compared. A substring is not enough: "Not Paris".

    match: words: as `normalised` says; official: in TriviaQA's own form, for an accuracy that stands beside others'. A
    choice is named by its letter or text in either case."""
    if question.choices:
        named = choice_index(reply, question.choices)
        return named is not None and named == choice_index(question.answers[0], question.choices)
    form = FORMS[match]
    given = form(reply)
    return bool(given) and any(given == form(answer) for answer in question.answers)


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
        contained = given and (_holds(words_of(reply), words_of(text)) or _holds(words_of(text), words_of(reply)))
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
    letters, words = normalised(short).replace(" ", ""), words_of(long).split()
    if not letters.isalpha() or not words:
        return False
    if letters in _initials(long) or letters in normalised(long).split():  # "DC" in "Washington, D.C."
        return True
    pairs = list(zip(words_of(short).split(), words, strict=False))
    if len(pairs) == len(words) == len(words_of(short).split()) > 1:  # several words each, as many in both
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
    words = words_of(text).split()
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
