"""The plan of a run as a table on the terminal: how many questions its numbers need, by a pilot run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table as RichTable

from figures import compare
from figures.captions import Number, digits, percent, subject_of
from figures.table import compared_numbers, console, estimates_of, literal, metrics
from interp.errors import UserError
from interp.instruments.base import Metric
from interp.instruments.registry import INSTRUMENTS
from interp.intervals import BY_STATISTIC, UNBOUNDED, Estimate, of_difference, of_record
from interp.options import refuse_unknown
from interp.pipelines.power import Needed, ShrinkName, questions_needed, relations_needed, uncut
from interp.run.runs import Record, kind_of, read_run

ASSUMED = (
    "Assumed: independent questions, mixed over the relations as in the pilot, and the pilot's spread. That spread is",
    "itself uncertain: its 95 % interval gives the range. Counts are of questions that have a value of the number.",
)
ACROSS = (
    "Relations like these: the number of relations decides, with as many questions in each as in the pilot. More",
    "questions of the same relations narrow the first interval, and soon no longer this one.",
)


@dataclass(frozen=True)
class Plan:
    """What one number needs."""

    metric: Metric
    """The number."""
    pilot: Estimate
    """Its estimate in the pilot run; in a pair of checkpoints that of the paired difference."""
    questions: Needed | None
    """For these relations; None where the pilot's interval tells nothing."""
    relations: Needed | None
    """For relations like these; likewise."""


def plans(estimates: Mapping[str, Estimate], *, paired: bool, key: str | None, width: float | None) -> list[Plan]:
    """What each number needs, in the table's order.

    Args:
        estimates: those of the pilot run, by their keys in summary.json.
        paired: they are paired differences of two checkpoints.
        key: the number that is wanted; None: all headline numbers.
        width: the wished width of both intervals; None: half of each.

    Raises:
        UserError: where the pilot has no such number, or none of which an interval tells anything.
    """
    known = {metric.key: metric for instrument in INSTRUMENTS.values() for metric in instrument.metrics}
    known = {name: metric for name, metric in known.items() if name in estimates}
    if key is not None:
        refuse_unknown("key", key, known)
    wanted = [known[key]] if key else [m for m in metrics() if m.place == "headline" and m.key in known]
    made = []
    for metric in wanted:
        pilot, shrinks = estimates[metric.key], _shrinks(metric, paired=paired)
        bounds = metric.bounds or UNBOUNDED
        whole = uncut(pilot, of_difference(bounds) if paired else bounds)
        within = whole.high - whole.low if whole.low is not None and whole.high is not None else 0.0
        across = whole.relations.high - whole.relations.low if whole.relations else 0.0
        questions = questions_needed(whole, shrinks, width or within / 2)
        made.append(Plan(metric, pilot, questions, relations_needed(whole, shrinks, width or across / 2)))
    if not any(plan.questions or plan.relations for plan in made):
        raise UserError(f"{key or 'the pilot'}: no interval with a width to plan from; measure more questions first")
    return made


def _shrinks(metric: Metric, *, paired: bool) -> ShrinkName:
    """How the interval of a number shrinks."""
    if metric.interval == "wilson":
        return "share" if not paired else "pairs" if metric.statistic is np.mean else "mean"
    return "median" if (metric.interval or BY_STATISTIC.get(metric.statistic)) == "order" else "mean"


def printed_power(folder: Path, *, key: str | None = None, width: float | None = None) -> None:
    """Prints how many questions the numbers of a pilot run need.

    Args:
        folder: The pilot's directory.
        key: The number that is wanted; None: all headline numbers.
        width: The wished width of both intervals, in the number's unit; None: half of each.

    Raises:
        UserError: where the folder holds no finished run of a diagnosis or comparison, or no such number.
    """
    config, summary, _ = read_run(folder)
    kind = kind_of(config, summary)
    if kind == "diagnose":
        estimates, sentence = estimates_of(summary), subject_of(config, summary).sentence
    elif kind == "compare":
        estimates, sentence = _differences(summary), compare.sentence(summary)
    else:
        raise UserError(f"{folder}: holds no finished run of interp.diagnose or interp.compare to plan from")
    made = plans(estimates, paired=kind == "compare", key=key, width=width)
    out = console()
    out.print()
    out.print(literal(sentence))
    out.print(_laid_out(made))
    for line in (*ASSUMED, *(ACROSS if any(plan.relations for plan in made) else ())):
        out.print(line, markup=False)
    if kind == "compare":
        out.print("Numbers are paired differences, after less before, on the same questions.", markup=False)


def _differences(summary: Record) -> dict[str, Estimate]:
    """The paired difference of every number of a comparison, by its key."""
    return {key: of_record(row["difference"]) for key, row in compared_numbers(summary).items()}


def _laid_out(made: Sequence[Plan]) -> RichTable:
    """The table: a row for the questions of each number, and one below it for relations like these."""
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("value", "width", "wished", "in the pilot", "needed", "range"):
        table.add_column(name, justify="right", no_wrap=True)
    section = ""
    for plan in made:
        if plan.metric.section != section:
            section = plan.metric.section
            table.add_row(f"[bold]{section}[/bold]")
        number = percent if plan.metric.unit == "share" else digits
        value = "none" if plan.pilot.value is None else number(plan.pilot.value)
        table.add_row(literal(f"  {plan.metric.words}"), value, *_cells(plan.questions, "questions", number))
        if plan.relations:
            table.add_row("    relations like these", "", *_cells(plan.relations, "relations", number))
    return table


def _cells(needed: Needed | None, counted: str, number: Number) -> tuple[str, ...]:
    """The widths and counts of one interval; dashes where the pilot's tells nothing."""
    if needed is None:
        return ("–",) * 5
    ends = "–" if needed.low is None or needed.high is None else f"{needed.low} to {needed.high}"
    widths = number(needed.width), number(needed.wished)
    return (*widths, f"{needed.n} {counted}", f"{needed.number} {counted}", ends)
