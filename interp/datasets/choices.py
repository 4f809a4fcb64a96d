"""Which choice of a question a reply names: by its letter, however decorated, by its text, or by both where they agree.

A reply that names none or several names nothing: it is never guessed at. The module knows texts, and no model."""

import re
import string
from collections.abc import Sequence

from interp.datasets.words import normalised
from interp.plain import compatible

LETTERS = string.ascii_uppercase
LEAD = re.compile(
    r"(?:(?:so|therefore|thus|hence|final|my|the|correct|right|best|most likely|answer|choice|option|letter|response"
    r"|is|it's|it|that's|must|would|should|be|i'd|i(?=\s+(?:would|choose|pick|select|say|think|believe|go))|choose|pick|select|say|think|believe|go|with)\b[\s,:=]*)+",
    re.IGNORECASE,
)
"""Words that may stand before the choice that a reply names: "The correct answer is", "Option", "I choose"."""
VERDICT = re.compile(r"(?:is|would be)(?: the)?(?: (?:correct|right|best|answer|choice|option))+\W*", re.IGNORECASE)
"""What may stand after it: "B is the correct answer"."""
REASON = re.compile(r"[\s,;:-]*(?:because|since|as)\b", re.IGNORECASE)
TAGS = (
    re.compile(r"</?[A-Za-z]+>(?=.)|(?<=.)</?[A-Za-z]+>"),
    re.compile(r"<([A-Za-z]+)>(?=.*</\1>)|</[A-Za-z]+>"),
)
"""Tags of HTML: all of them, or those that are closed; what is neither may be a letter in pointed brackets."""
MARKUP = re.compile(
    r"\\(?:boxed|text|textbf|mathrm|mathbf)\b"  # LaTeX
    r"|[*_`$\\{}\"\u201c\u201d\u201e\u2018\u201a<>\u00ab\u00bb\u2039\u203a\u3008-\u3011]"  # emphasis, quotes, brackets
    r"|(?<![^\W_])'|'(?![^\W_])"  # no apostrophe
)
"""Markdown, LaTeX, quotes and brackets around a letter or a text, but for round and square brackets."""
AHEAD = r"[\s(\[\u00bf\u00a1\u2022]*"
"""What may stand before a letter in spite of that: brackets, inverted marks, bullets; no minus."""
ALONE = re.compile(AHEAD + r"([A-Za-z])[\s)\].,:;!?\u3002]*")
"""A letter and its decoration."""


def choice_index(reply: str, choices: Sequence[str]) -> int | None:
    """The number of the one choice that a reply names, from 0.

    Args:
        reply: a letter, alone or decorated ("**B**", "[[b]]", "\\boxed{B}", "The answer is 'B'!"), a choice's whole
            text, or both, of which the text may be cut off; a reason may follow ("B, because ...").
        choices: the texts of the choices.

    Returns:
        None where the reply names none or more than one, and where letter and text name different ones.
    """
    text = reply.strip()
    exact = [i for i, choice in enumerate(choices) if choice.strip() == text]  # signs tell "x + 1" from "x - 1"
    if exact and text.upper() not in LETTERS:
        return exact[0] if len(exact) == 1 else None
    for tags in TAGS:
        untagged = tags.sub(" ", compatible(text).replace("\u2019", "'"))
        if (index := _named(" ".join(MARKUP.sub(" ", untagged).split()), choices)) is not None:
            return index
    return None


def _named(plain: str, choices: Sequence[str]) -> int | None:
    """The choice that a text without markup names, also behind words that may stand before it."""
    bare = re.sub(AHEAD, "", plain, count=1)
    for candidate in dict.fromkeys((plain, LEAD.sub("", bare, count=1) if LEAD.match(bare) else plain)):
        if (alone := ALONE.fullmatch(candidate)) and (letter := LETTERS.find(alone[1].upper())) < len(choices):
            return letter
        if (index := _lettered(candidate, choices)) is not None:
            return index
        if (index := _by_text(candidate, choices)) is not None:
            return index
    return None


def _lettered(text: str, choices: Sequence[str]) -> int | None:
    """The choice whose letter the text begins with, unless what follows is neither its text nor a verdict or reason."""
    begins = re.match(r"[(\[]*\s*([A-Za-z])\s*(?:[)\].:,;!?/|\u2013\u2014-]+|$|(?=\s))\s*", text)
    if not begins or (index := LETTERS.find(begins[1].upper())) >= len(choices):
        return None
    rest, marked = text[begins.end() :], bool(begins[0].strip("()[] \t")[1:].strip() or begins[0][:1] in "([")
    if not normalised(rest) or VERDICT.fullmatch(rest):
        return index
    if reason := REASON.match(rest):
        # "I, as ..." begins a sentence
        word = begins[1] in "AI" and reason[0].casefold().endswith("as")
        named = (begins[1].isupper() and not word) or (marked and not begins[0].rstrip().endswith((",", ";")))
        return index if named and not _others(rest, index, choices) else None
    if not marked and begins[1] in "aI":
        return None
    return index if _agrees(rest, index, choices, marked) and (marked or begins[1].isupper()) else None


def _agrees(rest: str, index: int, choices: Sequence[str], marked: bool) -> bool:
    """Whether a text is the choice's, cut off or with more behind it, and no other choice's.

    marked: a mark stands between letter and text, so that the text may be cut within a word."""
    given, own = normalised(rest), normalised(choices[index])
    others = [normalised(choice) for i, choice in enumerate(choices) if i != index]
    if given == own:
        return True
    if given in others or (len(given) == 1 and LETTERS.find(given.upper()) < len(choices)):
        return False
    if own and given.startswith(f"{own} "):
        longer = any(other.startswith(f"{own} ") and given.startswith(other) for other in others)
        behind = re.sub(re.escape(choices[index].strip()), " ", rest, count=1, flags=re.IGNORECASE)
        return not longer and not _others(behind, index, choices)
    return own.startswith(given if marked else f"{given} ")


def _others(text: str, index: int, choices: Sequence[str]) -> bool:
    """Whether a text holds the text of another choice, or the letter of one in capitals."""
    given = f" {normalised(text)} "
    texts = [normalised(choice) for i, choice in enumerate(choices) if i != index]
    letters = {LETTERS.find(letter) for letter in re.findall(r"\b[B-HJ-Z]\b", text)} - {index}
    return any(other and f" {other} " in given for other in texts) or any(i < len(choices) for i in letters)


def _by_text(text: str, choices: Sequence[str]) -> int | None:
    """The one choice with this text, behind which its own letter may stand: "Water", "Water (B)"."""
    ends = re.fullmatch(r"(.+?)\s*[(\[]\s*([A-Za-z])\s*[)\]]\W*", text)
    given = normalised(ends[1] if ends else text)
    begins = re.match(r"[(\[]?\s*[Aa]\s*[)\].:,;/|\u2013\u2014-]", text)  # a letter, which is no article
    matches = [
        i for i, choice in enumerate(choices) if given and normalised(choice) == given and (i == 0 or not begins)
    ]
    if len(matches) != 1 or (ends and LETTERS.find(ends[2].upper()) != matches[0]):
        return None
    return matches[0]
