"""Finds the answer and the confidence in the text of a reply, by their labels, outside of thoughts.

The module works on plain text. It knows no model, and not which answers are right."""

import re
from typing import Literal

from interp.datasets.thoughts import opens_thought, without_thoughts

Label = Literal["answer", "confidence"]
LABELLED = re.compile(
    r"[\s*_#>-]*(?:\d{1,2}[.)]\s+[*_]*)?(answer|confidence)[*_]*\s*[:=\uff1a\uff1d][*_]*\s*(.*)", re.I
)
"""A line with a label, before which a number or Markdown may stand: "**Answer:** Paris", "- Confidence = 7",
"1. Answer: Paris"."""
INLINE = re.compile(r"(?<![\w-])confidence[*_]*\s*[:=\uff1a\uff1d][*_]*\s*", re.I)
"""The second label in the line of the first: "Answer: Paris. Confidence: 9"."""
BETWEEN = " \t.,;|/([*_"
"""What may stand between an answer and a second label in its line, and a dash behind a blank ("O-" is an answer)."""
WIDE = {code: code - 0xFEE0 for code in (*range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))}
"""Full-width letters, by which a label may be written."""


def labelled(text: str, *, finished: bool = True, opened: bool = False) -> dict[Label, str]:
    """What a reply states under its first labels "Answer:" and "Confidence:", in the same line or in two.

    Args:
        text: the reply as it was written.
        finished: False where it was cut off; its last line is then left out.
        opened: whether the reply begins within a thought, which its prompt has opened.

    Returns:
        The text after each label. A label that is missing, or has nothing behind it, is missing here.
    """
    values: dict[Label, str] = {}
    for line in (without_thoughts(text, opened=opened) or "").splitlines()[: None if finished else -1]:
        found = LABELLED.fullmatch(line.translate(WIDE))
        if not found:
            continue
        label: Label = "answer" if found[1].casefold() == "answer" else "confidence"
        value = line[found.start(2) :]  # as it was written: translation keeps every character's place
        if label == "answer" and (second := INLINE.search(found[2])):
            values.setdefault("confidence", _closed(_bare(value[second.end() :])))
            value = _before(value[: second.start()])
        if value := _bare(value):
            values.setdefault(label, value)
    return {label: value for label, value in values.items() if value}


def _before(value: str) -> str:
    """The value without what stands between it and a second label."""
    value = value.rstrip(BETWEEN)
    while value and value[-1] in "-\u2013\u2014" and not value[-2:-1].strip():
        value = value[:-1].rstrip(BETWEEN)
    return value


def _closed(value: str) -> str:
    """The value without a closing bracket that it does not open."""
    return value[:-1] if value[-1:] in (")", "]") and not {"(", "["} & set(value) else value


def _bare(value: str) -> str:
    """The value without the end of bold text: two or more marks; a single one may belong to the answer."""
    value = value.strip()
    bare = value.rstrip("*_")
    return bare.strip() if len(value) - len(bare) > 1 else value


def answer_in(text: str) -> str | None:
    """The answer in a reply that was to hold nothing else: what stands after its label, or else its first line.

    Returns:
        None where the reply holds no answer: it is empty, a thought that goes on, or a label without an answer.
    """
    if opens_thought(text):
        return None
    rest = without_thoughts(text) or ""
    values = labelled(rest)
    if values or any(LABELLED.fullmatch(line.translate(WIDE)) for line in rest.splitlines()):
        return values.get("answer")
    first = rest.splitlines()[0].strip() if rest else ""
    if inline := INLINE.search(first.translate(WIDE)):
        first = _before(first[: inline.start()])
    return first or None
