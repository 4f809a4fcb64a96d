"""What a method declares: what is asked of the model, and which confidences are computed from the replies.

An asking puts questions to a model and gives one record for each; a method computes confidences from those records.
Several methods may share an asking: the stated confidence and the answer's own probability come from one pass. Other
packages register their methods under the entry-point group `GROUP`. The module knows no single method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from interp.formats import ConfidenceFormat
from interp.records import Question
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.setting import Setting

GROUP = "advice.methods"


@dataclass(frozen=True)
class Answered:
    """A question with the answer whose confidence is asked for."""

    question: Question
    """The question."""
    answer: str
    """The model's greedy answer, or the user's response."""


@dataclass(frozen=True)
class Draws:
    """How self-consistency samples."""

    samples: int = 5
    """How many answers are sampled for each question; 5 in the paper."""
    top_p: float = 1.0
    """The probability mass of the nucleus; 1: samples from the model's own distribution."""
    seed: int = 0
    """The seed of the samples."""


@dataclass(frozen=True)
class Verdict:
    """The answer and the confidence that a method gives for one question."""

    answer: str
    """The answer."""
    confidence: float
    """Its confidence in that answer, in [0, 1]."""
    fold: int = 0
    """The fold of its question, where the confidence is cross-fitted: pairs of verdicts are compared within one."""


Fitted = Callable[[Sequence[Verdict], Sequence[bool], Sequence[str]], Sequence[Verdict | None]]
"""(all verdicts of a cell, which of them are right, their questions' relations) -> new verdicts, in the same order."""


Put = Callable[["Setting", Sequence[Answered], Draws], list[Record]]
"""(setting, questions with answers, draws) -> one record for each."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What is put to a model, for one method or several."""

    name: str
    """The measure of its records."""
    put: Put
    """Puts questions and answers to a model in one setting, and returns one record for each."""
    chunk: int = 32
    """How many questions are put at a time: at most so many are put again after a run that died."""
    format: ConfidenceFormat | None = None
    """The format of its setting; None: the format of the run."""
    added: str = ""
    """A sentence, without its full stop, that the instruction of its prompts has after the scale."""
    needs: "Asking | None" = None
    """Another asking, which is put to all questions of the cell before this one."""
    prepared: "Callable[[Setting, Sequence[Answered], Sequence[Record], Draws], Put] | None" = None
    """(setting, all questions of the cell, their records of `needs`, draws) -> what is used as `put`: for confidences
    that depend on all questions. It is called anew where a run is continued, so it must not be random."""
    answers_itself: bool = False
    """It brings its own answers, so that the greedy answer is not needed."""

    def format_in(self, confidence: ConfidenceFormat) -> ConfidenceFormat:
        """The format of its setting, with the sentence that is added, in a run with this format."""
        chosen = self.format or confidence
        return replace(chosen, wording=f"{chosen.wording}. {self.added}") if self.added else chosen


@dataclass(frozen=True)
class Score:
    """One confidence that can be computed from an asking's records: a row of the calibration table."""

    key: str
    """Its key in summary.json."""
    words: str
    """What it is called in tables and figures."""
    verdict: Callable[[Record, ConfidenceFormat, str | None], Verdict | None]
    """(record, format, greedy answer or None) -> verdict; None where the record gives none."""
    speaks: bool = True
    """The model writes a confidence, whose tokens count as its costs."""
    fitted: Fitted | None = None
    """Makes new verdicts of all those of a cell, where one question's record is not enough; None: they stay."""
    within_levels: bool = False
    """Its confidences lie between the format's lowest and highest value: they are levels, or means over levels. In a
    format that does not reach 0 or 1 such confidences have a lowest possible calibration error."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to obtain a confidence from a model."""

    name: str
    """Its name on the command line."""
    about: str
    """What it does, in one sentence."""
    asking: Asking | None
    """What is asked of the model; None where the data bring the confidences."""
    scores: tuple[Score, ...]
    """The rows that it adds to the table."""


def stated(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    """The value of the stated level; a verdict as in `Score`."""
    if answer is None or record["stated"] is None:
        return None
    return Verdict(answer, confidence.values[record["stated"]])


def expected(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    """The expected confidence; a verdict as in `Score`."""
    return None if answer is None else Verdict(answer, record["expected"])


def tokens_written(asking: Asking, score: Score, record: Record, answer_tokens: int) -> int:
    """How many tokens the model wrote for one question, ends of lines included.

    Args:
        asking: what was asked.
        score: the row of the table.
        record: the asking's record of the question.
        answer_tokens: how many tokens the greedy answer took, its end included.
    """
    if asking.answers_itself:
        return int(record["tokens"])
    return answer_tokens + (record["level_tokens"] if score.speaks else 0)
