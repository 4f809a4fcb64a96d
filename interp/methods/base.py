"""What a method of having a confidence declares: what is asked of the model, and which numbers that gives.

An asking puts questions to a model and leaves one record each; a method reads confidences off those records. Several
methods share an asking: the stated confidence and the answer's own probability come out of one pass. Other packages
register theirs under the entry-point group `GROUP`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.formats import ConfidenceFormat
from interp.records import Question
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.setting import Setting

GROUP = "advice.methods"


@dataclass(frozen=True)
class Answered:
    """A question with the answer that is judged."""

    question: Question
    """The question."""
    answer: str
    """The model's greedy answer, or the user's response."""


@dataclass(frozen=True)
class Draws:
    """How self-consistency samples."""

    samples: int = 5
    """Answers to a question; 5 in the paper."""
    top_p: float = 1.0
    """The nucleus; 1: the model as it is."""
    seed: int = 0
    """The source of chance."""


@dataclass(frozen=True)
class Verdict:
    """What a method makes of one question."""

    answer: str
    """The answer that it gives."""
    confidence: float
    """Its confidence in that answer, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What is put to a model, for one method or several."""

    name: str
    """What its records are called."""
    put: "Callable[[Setting, Sequence[Answered], Draws], list[Record]]"
    """Puts questions and answers to a model in one setting, and leaves one record for each."""
    chunk: int = 32
    """How many questions at a time, and so how many are asked again after a run that died."""
    format: ConfidenceFormat | None = None
    """The format of its setting, where that is not the one that was asked for."""
    answers_itself: bool = False
    """Its answers are its own: the greedy one is not needed."""


@dataclass(frozen=True)
class Score:
    """One confidence that can be read off an asking's records: a row of the calibration table."""

    key: str
    """Its key in summary.json."""
    words: str
    """What it is called in tables and figures."""
    verdict: Callable[[Record, ConfidenceFormat, str | None], Verdict | None]
    """(record, format, greedy answer) -> verdict; None where there is none to be had."""
    speaks: bool = True
    """The model writes a confidence, which costs tokens."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to have a confidence from a model."""

    name: str
    """Its name on the command line."""
    about: str
    """What it does, in one sentence."""
    asking: Asking | None
    """What it asks; None where the data bring the confidences."""
    scores: tuple[Score, ...]
    """The rows that it puts into the table."""


def stated(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    """The value of the level that is stated."""
    if answer is None or record["stated"] is None:
        return None
    return Verdict(answer, confidence.values[record["stated"]])


def expected(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    """The expected confidence."""
    return None if answer is None else Verdict(answer, record["expected"])


def tokens_written(asking: Asking, score: Score, record: Record, answer_tokens: int) -> int:
    """How many tokens the model wrote for one question, ends of lines included."""
    if asking.answers_itself:
        return int(record["tokens"])
    return answer_tokens + (record["level_tokens"] if score.speaks else 0)
