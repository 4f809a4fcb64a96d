"""What an instrument declares: its name, what it measures, its numbers in words, its options, its figures.

Commands, options, summary, table, captions, model card, comparison and figures follow from the declaration, for the
package's own instruments and for those that another package registers under the entry-point group `GROUP`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from interp.intervals import Columns, Estimate, Statistic, Value, estimated
from interp.run.runs import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from peft import PeftModel
    from transformers import PreTrainedModel

    from figures.captions import Page, RunData
    from interp.models.setting import Case, Setting

GROUP = "advice.instruments"
Unit = Literal["nats", "share", "confidence", "mass", "score", "correlation", "count", "rank", "nats or score"]
"""share: a fraction, printed in per cent. confidence: expected confidence in [0, 1], or a difference of two. mass: of
attention rollout, in [0, 1]. score: what is attributed. count: of pairs. rank: 1 is the first."""
Place = Literal["headline", "listed", "kept"]
"""headline: in the printed table and in the model card. listed: in the table. kept: in summary.json alone."""
Values = Mapping[str, Any]
"""The plain values of one question, as they stand in its record; None for what could not be had."""


@dataclass(frozen=True)
class Metric:
    """One number of a run: where it stands, what it is called, and how it comes from the questions' values."""

    key: str
    """Its key in summary.json, which begins with the instrument's name."""
    section: str
    """The heading that it stands under in tables."""
    words: str
    """What it is, in plain words, under its heading."""
    unit: Unit
    """What it is measured in."""
    of: str | Callable[[Values], Value]
    """The value of one question: its name among the record's values, or a function of them; None where it has none."""
    statistic: Statistic = np.mean
    """What is taken over the questions' values."""
    place: Place = "listed"
    """Where a reader finds it."""
    always: bool = False
    """It stands in summary.json also where no question has a value."""
    needs: str = ""
    """It stands there where some question has a value of this name, whether or not one has a value of its own."""
    floor: str | None = None
    """The key of its numerical floor; None where the repeated readings say nothing about it."""

    @property
    def title(self) -> str:
        """Heading and words, for a line of its own."""
        return f"{self.section}: {self.words}"

    def values(self, questions: Sequence[Record]) -> list[Value]:
        """One value per question, None for those that have none."""
        if isinstance(self.of, str):
            return [question["values"].get(self.of) for question in questions]
        return [self.of(question["values"]) for question in questions]


def columns(metrics: Sequence[Metric], questions: Sequence[Record]) -> Columns:
    """The values and the statistic behind each number, by its key; what no question has is absent.

    questions: records with one entry per question, under "values"."""
    there = {name for question in questions for name, value in question["values"].items() if value is not None}
    found: Columns = {}
    for metric in metrics:
        values = metric.values(questions)
        occurs = metric.needs in there if metric.needs else any(value is not None for value in values)
        if metric.always or occurs:
            found[metric.key] = values, metric.statistic
    return found


def estimates(
    metrics: Sequence[Metric], questions: Sequence[Record], floors: Mapping[str, Estimate] | None = None
) -> dict[str, Estimate]:
    """Each number with its interval, and the size of its numerical floor where it has one, by its key.

    floors: the numerical floors of the run, by their keys."""
    limits = {metric.key: _size(floors.get(metric.floor or "")) for metric in metrics} if floors else {}
    found = {key: estimated(values, statistic) for key, (values, statistic) in columns(metrics, questions).items()}
    return {key: replace(estimate, floor=limits.get(key)) for key, estimate in found.items()}


def _size(floor: Estimate | None) -> float | None:
    """The larger end of a floor's interval: the mean of few signed differences may be 0 by chance."""
    if floor is None or floor.value is None:
        return None
    return max(abs(end) for end in (floor.value, floor.low, floor.high) if end is not None)


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """A reading that is taken twice, in different packings, to know what its numbers are rounded by."""

    name: str
    """The measure of its records."""
    label: str
    """What it is called where progress is shown."""
    measure: "Callable[[Setting, Sequence[Case]], list[Record]]"
    """The differences of both readings, one record for each case."""
    metrics: tuple[Metric, ...]
    """The numerical floors that come of them."""
    most: int
    """How many questions are read again, at most."""
    chunk: int
    """How many at a time."""


@dataclass(frozen=True)
class NoOptions:
    """The options of an instrument that has none of its own."""


Measure = Callable[["Setting", Sequence["Case"], Any, Sequence[Record]], list[Record]]
"""(setting, cases, the instrument's own options, the records of its repeated reading) -> one record for each case, its
plain numbers under "values"."""


def without_options(measured: "Callable[[Setting, Sequence[Case]], list[Record]]") -> Measure:
    """The measure of an instrument that has no options of its own and needs no floor to measure."""
    return lambda setting, cases, options, repeated: measured(setting, cases)


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """One way to measure how a stated confidence depends on the answer."""

    name: str
    """Its command, the measure of its records, and what its keys in summary.json begin with."""
    about: str
    """What it measures, in one sentence."""
    metrics: tuple[Metric, ...]
    """Its numbers, in the order in which they are read."""
    measure: Measure
    """Takes the measurements."""
    chunk: int = 8
    """How many questions it takes at a time, and so how many are measured again after a run that died."""
    needs_wrong_answers: bool = False
    """The model is first asked for wrong answers to each question."""
    options: type = NoOptions
    """A frozen dataclass, whose fields are options of every command that runs it."""
    most: Callable[[Any], int | None] = lambda options: None
    """How many questions it measures at most, by its options; None: all."""
    check: "Callable[[PreTrainedModel | PeftModel], None]" = lambda model: None
    """Raises UserError where it cannot run on a model, before anything is measured."""
    repeated: Repeated | None = None
    """The reading that tells its numerical floors; None where they are not known."""
    has_floor: Callable[[Record], bool] = lambda record: True
    """Whether the repeated reading speaks of the numbers in a record."""
    pages: "Callable[[RunData], Iterator[Page]] | None" = None
    """Its figures of one run; None: a forest plot of its listed numbers."""
    compared: "Callable[[RunData, RunData], tuple[Figure, str]] | None" = None
    """Its figure of two runs side by side and how to read it; None: a forest plot of both."""

    def estimates(
        self, records: Sequence[Record], floors: Mapping[str, Estimate], *, floored: bool = True
    ) -> dict[str, Estimate]:
        """Its numbers with their intervals, from records with one entry per question."""
        return estimates(self.metrics, records, floors if floored else None)

    def columns(self, questions: Sequence[Record]) -> Columns:
        """`columns` of its metrics."""
        return columns(self.metrics, questions)
