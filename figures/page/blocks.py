"""Data in the page: JSON that is never markup, and which questions' details there is room for."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from figures.page.content import AskedQuestion, Report
from interp.plain import visible

DIGITS = 5
"""Significant digits of the numbers in the details."""
_ESCAPES = str.maketrans({"<": r"\u003c", ">": r"\u003e", "&": r"\u0026"})


def plain(text: str) -> str:
    """The text with its lines as they are, each other control character as its escape."""
    return "\n".join(map(visible, text.split("\n")))


def json_block(name: str, value: object) -> str:
    """A script element that holds data.

    Args:
        name: Its id.
        value: Plain data; `<`, `>`, `&` and all that is not ASCII are written as escapes.

    Raises:
        ValueError: for a number that is not finite.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def compact(value: object) -> object:
    """Plain data of a dataclass: texts by `plain`, numbers to `DIGITS` significant digits."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if dataclasses.is_dataclass(value):
        return {field.name: compact(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Sequence):
        return [compact(member) for member in value]
    return value


def list_block(run: str, report: Report) -> str:
    """What the list of a run's questions shows and is searched, filtered and sorted by. run: the prefix of ids."""
    shown = [field.name for field in dataclasses.fields(AskedQuestion) if field.name != "sides"]
    asked = [{name: compact(getattr(question, name)) for name in shown} for question in report.questions.asked]
    return json_block(f"{run}-questions", {"measures": compact(report.questions.measures), "asked": asked})


def copies_block(run: str, report: Report) -> str:
    """The tables of a run as they are copied, to the letter. run: the prefix of ids."""
    copies: Mapping[str, Mapping[str, str]] = {
        f"{run}-t{number}": {"csv": table.csv, "latex": table.latex} for number, table in enumerate(report.tables)
    }
    return json_block(f"{run}-copies", copies)


@dataclass(frozen=True)
class Detail:
    """What opens with one question."""

    run: int
    """The index of its run."""
    question: int
    """The index of the question within its run."""
    whole: str
    """The script element with all of it."""
    short: str
    """The same without the prompts."""


def details_of(run: int, prefix: str, report: Report) -> list[Detail]:
    """The details of a run's questions. run: the run's index; prefix: of ids."""
    return [_detail(run, number, prefix, question) for number, question in enumerate(report.questions.asked)]


def _detail(run: int, number: int, prefix: str, question: AskedQuestion) -> Detail:
    name, sides = f"{prefix}-q{number}", question.sides
    whole = json_block(name, {"sides": compact(sides)})
    if not any(side.tokens for side in sides):
        return Detail(run, number, whole, whole)
    bare = [dataclasses.replace(side, tokens=(), spans=(), shades=()) for side in sides]
    return Detail(run, number, whole, json_block(name, {"sides": compact(bare), "short": True}))


def fitting(details: Sequence[Detail], room: int) -> list[str]:
    """What the page holds of each question's details, in their order: `whole`, `short`, or "" for nothing.

    The prompts of the last questions are left out first, then all that opens with the last ones.

    Args:
        details: The details of all runs.
        room: How many bytes there are for them.
    """
    last_first = sorted(
        range(len(details)), key=lambda number: (details[number].question, details[number].run), reverse=True
    )
    kept = [detail.whole for detail in details]
    size = sum(map(len, kept))
    for smaller in ([detail.short for detail in details], [""] * len(details)):
        for number in last_first:
            if size <= room:
                return kept
            size += len(smaller[number]) - len(kept[number])
            kept[number] = smaller[number]
    return kept
