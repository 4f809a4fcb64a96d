"""The text below a figure: how to read it, its numbers with intervals, what was left out, and whose they are.

It holds the types that all drawings share, and knows no single figure."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from matplotlib.figure import Figure

from interp.intervals import Estimate, Null
from interp.measures import QuestionRecord
from interp.plain import visible
from interp.run.runs import Record
from interp.run.typed import typed

Number = Callable[[float], str]
"""How a value is written."""
T = TypeVar("T", bound=QuestionRecord)


LETTERS_SAID = "Where a wrong answer is said to be sampled, it is another letter of the multiple-choice question."


@dataclass(frozen=True)
class Subject:
    """What a run's numbers are about."""

    model: str
    """The checkpoint's name."""
    note: str | None
    """What must be said with every number about it, such as that its weights were quantised."""
    data: str
    """The questions' name."""
    asked: int
    """How many questions the model was asked."""
    right: int
    """How many of them it answered right; only those are measured."""
    format: str
    """The confidence format."""
    sets: int = 1
    """Over how many sets of worked examples each question's values are averaged."""
    dtype: str = ""
    """The precision in which the model was read; empty where a run does not name it."""
    levels: str = "whole"
    """How levels were read: whole, or token, by the first token on which they part."""
    chosen: bool = False
    """The questions have choices, whose other letters are the wrong answers."""
    wordings: int = 1
    """Over how many wordings of the instruction each question's values are averaged."""

    @property
    def sentence(self) -> str:
        """The subject in words."""
        name = f"{self.model} ({self.note})" if self.note else self.model
        name += f", read in {self.dtype}" if self.dtype else ""
        text = (
            f"Model: {name}. Data: {self.data}, {self.asked} asked, {self.right} answered right. Format: {self.format}."
        )
        text += " Only the first token on which levels part is read." if self.levels == "token" else ""
        if self.chosen:
            text += f" {LETTERS_SAID}"
        return text + (f" Values are averaged over {self._repeated}." if self._repeated else "")

    @property
    def _repeated(self) -> str:
        """What each question's values are averaged over, in words; empty where every reading is taken once."""
        sets = f"{self.sets} sets of worked examples" if self.sets > 1 else ""
        wordings = f"{self.wordings} wordings of the instruction" if self.wordings > 1 else ""
        return f"{sets} under each of {wordings}" if sets and wordings else sets or wordings


@dataclass(frozen=True)
class RunData:
    """What the figures of a run are drawn from: nothing is estimated again."""

    records: Sequence[Record]
    """All of the run's records."""
    estimates: Mapping[str, Estimate]
    """Every number of the run, by its key in summary.json."""
    subject: Subject
    """Whose numbers they are."""
    _typed: dict[type[QuestionRecord], tuple[Any, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """The records that were read as dataclasses so far, by their dataclass."""

    def has(self, measure: str) -> bool:
        """Whether the run has records of a measure, which may be that of another package's instrument."""
        return any(record["measure"] == measure for record in self.records)

    def of(self, kind: type[T]) -> tuple[T, ...]:
        """The records of one measure, in the order in which they were measured.

        Args:
            kind: The dataclass of the measure.

        Raises:
            UserError: where a record does not fit the dataclass.
        """
        if kind not in self._typed:
            ours = (record for record in self.records if record["measure"] == kind.measure)
            self._typed[kind] = tuple(typed(kind, record) for record in ours)
        return self._typed[kind]

    def first_set(self, kind: type[T]) -> dict[str, T]:
        """The records of one measure under the first set of worked examples and wording, by the question's id."""
        return {record.id: record for record in self.of(kind) if record.set == 0}

    def estimate(self, key: str) -> Estimate:
        """One number by its key; an estimate without a value where the run does not have it."""
        return self.estimates.get(key, Estimate(None, None, None, 0))


@dataclass(frozen=True)
class Page:
    """A drawn figure with its file name and caption."""

    name: str
    """File name without its ending."""
    figure: Figure
    """The figure, not yet saved."""
    caption: str
    """How to read it, and its numbers."""


def subject_of(config: Record, summary: Record) -> Subject:
    """The subject of a run on disk."""
    model, data = summary["model"], summary["data"]
    return Subject(
        model["name"],
        model["note"],
        data["name"],
        data["asked"],
        data["right"],
        summary["format"],
        config["identity"].get("shot_sets", 1),
        model.get("dtype") or config["identity"].get("dtype", ""),
        config["identity"].get("levels", "whole"),
        data.get("wrong_answers") == "choice",
        config["identity"].get("wordings", 1),
    )


def digits(value: float) -> str:
    """Two significant digits below 0.1, three above, and four places next to 1, so that 0.9996 is not called 1."""
    size = abs(value)
    if size < 1e-4:
        return f"{value:.1e}" if value else "0"
    if 0.999 < size < 1:
        return f"{value:.4f}"
    return f"{value:.2g}" if size < 0.1 else f"{value:.3g}" if size < 1000 else f"{value:.0f}"


def percent(value: float) -> str:
    """A fraction in per cent."""
    return f"{100 * value:z.0f} %"  # z: a small negative one is no "-0 %"


def relations(estimate: Estimate, number: Number = digits) -> str:
    """The 95 % interval for relations like these, in braces; a dash where there are too few relations for one."""
    return (
        "–"
        if estimate.relations is None
        else f"{{{number(estimate.relations.low)}, {number(estimate.relations.high)}}}"
    )


def null_in_words(null: Null | None, number: Number = digits) -> str:
    """The median of a null, its 95 % band in brackets, and p; empty where there is none."""
    if null is None:
        return ""
    return f"{number(null.value)} [{number(null.low)}, {number(null.high)}], p = {digits(null.p)}"


def interval(estimate: Estimate, number: Number = digits) -> str:
    """The 95 % interval in brackets; a dash where there are too few questions for one."""
    if estimate.low is None or estimate.high is None:
        return "–"
    return f"[{number(estimate.low)}, {number(estimate.high)}]"


def in_words(estimate: Estimate, number: Number = digits) -> str:
    """Value, interval, count and what was left out."""
    if estimate.value is None:
        return f"no value (n = 0, {estimate.left_out} left out)"
    text = f"{number(estimate.value)} {interval(estimate, number)} (n = {estimate.n}, {estimate.left_out} left out)"
    if estimate.measurable or estimate.floor is None:
        return text
    return f"{text}, not measurable at this precision (numerical floor {digits(estimate.floor)})"


NOT_MEASURABLE = "≈"
"""Marks a number in a table that is within its numerical floor."""
WITHIN_FLOOR = (
    f"{NOT_MEASURABLE}: within the numerical floor, the same text read twice: not measurable at this precision."
)
"""The line below a table that explains the mark."""


def marked(estimate: Estimate, shown: str) -> str:
    """A value as it is shown, marked where it is within its numerical floor."""
    return shown if estimate.measurable else f"{NOT_MEASURABLE} {shown}"


def caption(how_to_read: str, numbers: Mapping[str, str], subject: Subject) -> str:
    """The caption's text, wrapped for a terminal.

    Args:
        how_to_read: How to read the figure.
        numbers: Its numbers in words, by name.
        subject: What the numbers are about.
    """
    return written_caption(how_to_read, numbers, subject.sentence)


def written_caption(how_to_read: str, numbers: Mapping[str, str], subject: str) -> str:
    """`caption` with the subject in words."""
    listed = [_filled(f"{name}: {words}", "  ") for name, words in numbers.items()]
    return "\n".join(
        (
            _filled(f"How to read it. {how_to_read}"),
            "",
            "Numbers, with 95 % intervals for these relations:",
            *listed,
            "",
            _filled(subject),
        )
    )


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(visible(" ".join(text.split())), 100, subsequent_indent=indent)
