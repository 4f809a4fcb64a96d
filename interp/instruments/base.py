"""What an instrument declares: its name, its measurement, its numbers and their words, its options, its figures.

Commands, options, summary, table, captions, model card, comparison and figures follow from the declaration, for the
package's own instruments and for those that another package registers under the entry-point group `GROUP`. The module
knows no single instrument."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from interp.intervals import LEVEL, Bounds, Columns, Estimate, IntervalName, Null, Statistic, Value, estimated
from interp.run.runs import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from peft import PeftModel
    from transformers import PreTrainedModel

    from figures.captions import Page, RunData
    from interp.models.setting import Case, Setting

GROUP = "advice.instruments"
Unit = Literal["nats", "share", "confidence", "mass", "score", "correlation", "count", "rank", "AUROC", "nats or score"]
"""share: a fraction, printed in per cent. confidence: expected confidence in [0, 1], or a difference of two. mass: mass
of attention rollout, in [0, 1]. score: the score that is attributed. count: a number of pairs. rank: 1 is the first.
AUROC: an AUROC in [0, 1], or a difference of two."""
Place = Literal["headline", "listed", "kept"]
"""headline: in the printed table and in the model card. listed: in the table. kept: in summary.json alone."""
Values = Mapping[str, Any]
"""The plain values of one question, as they stand in its record; None for a value that could not be computed."""


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
    """It stands in summary.json even where no question has a value."""
    needs: str = ""
    """It stands in summary.json where some question has a value of this name, even if none has the metric's own."""
    old: str = ""
    """Its key in version 0.1, under which it stands in summary.json as well until version 0.3."""
    floor: str | None = None
    """The key of its numerical floor; None where repeated readings do not measure it."""
    interval: IntervalName | None = None
    """How its interval is made: "wilson" for the share of questions of which something is true, "fisher" for a
    correlation. None: what suits the statistic, between ordered values for a median, by the jackknife for others."""
    bounds: Bounds | None = None
    """The least and the largest value that it can have, where its intervals end. None: what suits its interval: [0, 1]
    for a share of questions, no bounds for a mean."""
    null: Callable[[Sequence[Values]], Sequence[float]] | None = None
    """The questions' values -> what the statistic is where nothing is to be found, once for each time that chance was
    drawn; empty where it is not known. None: the number has no null."""

    @property
    def title(self) -> str:
        """Heading and words, for a line of its own."""
        return f"{self.section}: {self.words}"

    def values(self, questions: Sequence[Record]) -> list[Value]:
        """One value for each record, taken from its "values"; None where the question has none."""
        if isinstance(self.of, str):
            return [question["values"].get(self.of) for question in questions]
        return [self.of(question["values"]) for question in questions]


def columns(metrics: Sequence[Metric], questions: Sequence[Record]) -> Columns:
    """The values and the statistic behind each number.

    Args:
        metrics: the numbers.
        questions: one record for each question, its numbers under "values".

    Returns:
        By the metric's key, one value for each question, the statistic, its interval and its bounds. A metric is
        absent where no question has a value of its `needs` or, if it has none, names its own; one that is `always`
        there never is.
    """
    occurring = {name for question in questions for name, value in question["values"].items() if value is not None}
    named = {name for question in questions for name in question["values"]}
    by_key: Columns = {}
    for metric in metrics:
        values = metric.values(questions)
        if metric.needs:
            occurs = metric.needs in occurring
        elif isinstance(metric.of, str):
            occurs = metric.of in named  # also where all were left out, so that their count is told
        else:
            occurs = any(value is not None for value in values)
        if metric.always or occurs:
            by_key[metric.key] = values, metric.statistic, metric.interval, metric.bounds
    return by_key


def estimates(
    metrics: Sequence[Metric], questions: Sequence[Record], floors: Mapping[str, Estimate] | None = None
) -> dict[str, Estimate]:
    """Each number with its interval, and the size of its numerical floor where it has one.

    Args:
        metrics: the numbers.
        questions: one record for each question, its numbers under "values" and its relation under "relation".
        floors: the numerical floors of the run, by their keys; None or empty: no number gets one.

    Returns:
        The estimates by the keys of `columns`.
    """
    limits = {metric.key: _size(floors.get(metric.floor or "")) for metric in metrics} if floors else {}
    groups = relations_of(questions)
    by_key = {
        key: estimated(values, statistic, interval, groups, bounds=bounds)
        for key, (values, statistic, interval, bounds) in columns(metrics, questions).items()
    }
    nulls = {metric.key: metric.null([q["values"] for q in questions]) for metric in metrics if metric.null}
    return {
        key: replace(estimate, floor=limits.get(key), null=_null(estimate, nulls.get(key, ())))
        for key, estimate in by_key.items()
    }


def _null(estimate: Estimate, drawn: Sequence[float]) -> Null | None:
    """The null of an estimate. drawn: what the statistic is by chance, NaN where it was not defined."""
    known = np.array([value for value in drawn if math.isfinite(value)])
    if estimate.value is None or not len(known):
        return None
    low, middle, high = np.quantile(known, (1 - LEVEL, 0.5, LEVEL))
    p = (1 + (known >= estimate.value - 1e-12).sum()) / (1 + len(known))
    return Null(float(middle), float(low), float(high), float(p))


def relations_of(questions: Sequence[Record]) -> list[str]:
    """Each question's relation; empty where none has one. questions: one record each."""
    relations = [question.get("relation") or "" for question in questions]
    return relations if any(relations) else []


def _size(floor: Estimate | None) -> float | None:
    """The largest absolute value among a floor's estimate and the ends of its interval; None where it was not measured.

    The mean of few signed differences alone may be 0 by chance."""
    if floor is None or floor.value is None:
        return None
    return max(abs(end) for end in (floor.value, floor.low, floor.high) if end is not None)


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """A reading that is taken twice, in different packings, to measure the numerical floor of its numbers."""

    name: str
    """The measure of its records."""
    label: str
    """What it is called where progress is shown."""
    measure: "Callable[[Setting, Sequence[Case]], list[Record]]"
    """Gives the differences between both readings, one record for each case."""
    metrics: tuple[Metric, ...]
    """The numerical floors that are computed from these records."""
    most: int
    """How many questions are read again, at most."""
    chunk: int
    """How many questions are read at a time."""


@dataclass(frozen=True)
class NoOptions:
    """The options of an instrument that has none of its own."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a run has put on record before an instrument measures."""

    folder: Path
    """The run's directory; what is too large for records is kept in files there."""
    number: int = 0
    """The number of the set of worked examples and wording of the instruction."""
    repeated: Sequence[Record] = ()
    """The records of the instrument's repeated reading."""
    readings: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    """The records of the readings that it needs, by their names, of this set of worked examples."""
    prepared: Any = None
    """What the instrument's `prepare` has returned."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What is read of every case before an instrument measures; several instruments may need the same."""

    name: str
    """The measure of its records."""
    label: str
    """What it is called where progress is shown."""
    measure: "Callable[[Setting, Sequence[Case], Kept], list[Record]]"
    """Gives one record for each case."""
    chunk: int = 8
    """How many questions are read at a time."""


Measure = Callable[["Setting", Sequence["Case"], Any, Kept], list[Record]]
"""(setting, cases, the instrument's own options, what is on record) -> one record for each case, its plain numbers
under "values"."""


def without_options(measured: "Callable[[Setting, Sequence[Case]], list[Record]]") -> Measure:
    """The measure of an instrument that has no options of its own and does not look at its repeated readings."""
    return lambda setting, cases, options, kept: measured(setting, cases)


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """One way to measure how a stated confidence depends on the answer."""

    name: str
    """Its command, the measure of its records, and the first part of its keys in summary.json."""
    about: str
    """What it measures, in one sentence."""
    metrics: tuple[Metric, ...]
    """Its numbers, in the order in which they are read."""
    measure: Measure
    """Takes the measurements."""
    chunk: int = 8
    """How many questions it takes at a time: at most so many are measured again after a run that died."""
    on_request: bool = False
    """It runs only where it is named: by its own command, by --also, or from Python."""
    needs_wrong_answers: bool = False
    """The model is first asked for wrong answers to each question."""
    of_all_answers: bool = False
    """It measures every question that the model was asked with the model's own answer, right or wrong."""
    needs: tuple[Reading, ...] = ()
    """What is read of its cases first."""
    prepare: "Callable[[Setting, Sequence[Case], Any, Kept], Any] | None" = None
    """(setting, all cases, options, what is on record) -> what `measure` then finds as `Kept.prepared`: for numbers of
    one question that depend on all of them. It is computed anew where a run is continued, so it must not be random."""
    options: type = NoOptions
    """A frozen dataclass; its fields are options of every command that runs the instrument."""
    most: Callable[[Any], int | None] = lambda options: None
    """The options -> how many questions it measures at most; None: all."""
    check: "Callable[[PreTrainedModel | PeftModel], None]" = lambda model: None
    """Raises UserError where it cannot run on a model; called before anything is measured."""
    repeated: Repeated | None = None
    """The reading that measures its numerical floors; None where they are not known."""
    has_floor: Callable[[Record], bool] = lambda record: True
    """Whether the repeated reading measures the floors of the numbers in a record."""
    pages: "Callable[[RunData], Iterator[Page]] | None" = None
    """Its figures of one run; None: a forest plot of its listed numbers."""
    compared: "Callable[[RunData, RunData], tuple[Figure, str]] | None" = None
    """Its figure of two runs side by side and how to read it; None: a forest plot of both."""

    def estimates(
        self, records: Sequence[Record], floors: Mapping[str, Estimate], *, floored: bool = True
    ) -> dict[str, Estimate]:
        """`estimates` of its metrics, from one record for each question.

        floored: False where its numbers have no numerical floors."""
        return estimates(self.metrics, records, floors if floored else None)

    def columns(self, questions: Sequence[Record]) -> Columns:
        """`columns` of its metrics."""
        return columns(self.metrics, questions)
