"""The summary of a run in plain words: one row for each number that a reader asks for first.

Which numbers these are, the instruments declare; this module only lays them out."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from figures.captions import WITHIN_FLOOR, Number, Subject, digits, interval, marked, null_in_words, percent, relations
from figures.grid import Grid
from interp.instruments.base import Metric, Unit
from interp.instruments.registry import INSTRUMENTS, by_new_keys, repeated_by
from interp.intervals import Estimate, of_record
from interp.plain import visible
from interp.run.runs import Record

WIDTH = 140
"""Columns where the output is not a terminal, so that a log holds whole rows."""


@dataclass(frozen=True)
class Row:
    """One number."""

    section: str
    """The heading that it stands under."""
    name: str
    """What it is, in plain words."""
    estimate: Estimate
    """Value, interval, count, left out."""
    unit: Unit
    """share: a fraction that is printed in per cent."""
    sets: tuple[float, ...] = ()
    """Its value under each set of worked examples, where there are several."""
    wordings: tuple[float, ...] = ()
    """Its value under each wording of the instruction, where there are several."""


@dataclass(frozen=True)
class Table:
    """The rows of a run's summary, in the order in which they are read."""

    rows: tuple[Row, ...]
    """The rows; only of numbers that the run has measured."""
    notes: tuple[str, ...] = ()
    """Sentences that stand below the table: whom selection has left out."""

    def __post_init__(self) -> None:
        names = [(row.section, row.name) for row in self.rows]
        if len(set(names)) != len(names):
            raise ValueError("two rows of one section have one name")


def metrics() -> list[Metric]:
    """Every number that is printed, in the table's order: the instruments' numbers, then their numerical floors."""
    declared = [metric for instrument in INSTRUMENTS.values() for metric in instrument.metrics]
    declared += [metric for repeated in repeated_by(INSTRUMENTS) for metric in repeated.metrics]
    return [metric for metric in declared if metric.place != "kept"]


SPREADS = ("shot_sets", "wordings")
"""Where a summary holds the values under each set of worked examples, and under each wording of the instruction."""


def table_of(summary: Record) -> Table:
    """The table of a run's summary; rows of instruments that it does not hold are absent."""
    estimates = estimates_of(summary)
    spreads = [by_new_keys(summary.get(source, {})) for source in SPREADS]
    rows: dict[str, list[Row]] = {}
    for metric in metrics():
        if metric.key in estimates:
            values = [spread.get(metric.key, {}).get("values", ()) for spread in spreads]
            sets, wordings = (tuple(value for value in member if value is not None) for member in values)
            row = Row(metric.section, metric.words, estimates[metric.key], metric.unit, sets, wordings)
            rows.setdefault(metric.section, []).append(row)
    return Table(tuple(row for section_rows in rows.values() for row in section_rows), tuple(selection_notes(summary)))


SOURCES = {"sampled": "sampled", "branched": "branched", "same_relation": "same-relation"}
"""The sources of wrong answers in words, by their names under "selection" in a summary."""


def selection_notes(summary: Record) -> Iterator[str]:
    """For each source of wrong answers that some questions lack, how those differ from the others."""
    for source, sides in summary["data"].get("selection", {}).items() if "data" in summary else ():
        dropped, kept = sides["dropped"], sides["kept"]
        count, asked = dropped["count"], dropped["count"] + kept["count"]
        words = f"{count} of {asked} questions {'has' if count == 1 else 'have'} no {SOURCES[source]} wrong answer"
        gone, left = (side["logprob"]["value"] if "logprob" in side else None for side in (dropped, kept))
        if gone is None or left is None:
            yield f"{words}."
            continue
        likelier = "likelier" if gone > left else "less likely" if gone < left else "as likely"
        yield f"{words}: their right answers are {likelier} ({digits(gone)} nats, kept {digits(left)})."


def estimates_of(summary: Record) -> dict[str, Estimate]:
    """Every number of a run's summary by its dotted key, such as "jsd.median"; keys of version 0.1 by those of now."""
    return by_new_keys(dict(_estimates(summary, "")))


def _estimates(node: Record, above: str) -> Iterator[tuple[str, Estimate]]:
    for name, below in node.items():
        if isinstance(below, dict) and name not in SPREADS:
            key = f"{above}{name}"
            if {"value", "low", "high", "n"} <= below.keys():
                yield key, of_record(below)
            yield from _estimates(below, f"{key}.")


def compared_numbers(summary: Record) -> dict[str, Record]:
    """Every number of a comparison by its key; keys of version 0.1 by those of now."""
    return by_new_keys(summary["comparison"])


def console(width: int = WIDTH) -> Console:
    """Standard output for tables. width: columns where it is not a terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else width)


def printed(table: Table, subject: Subject) -> None:
    """Prints the table under a sentence that says whose numbers they are."""
    out = console()
    out.print()
    out.print(literal(subject.sentence))
    spreads = {"sets": any(row.sets for row in table.rows), "wordings": any(row.wordings for row in table.rows)}
    several = [name for name, shown_spread in spreads.items() if shown_spread]
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    shown.add_column("", no_wrap=True)
    across = any(row.estimate.relations for row in table.rows)
    by_chance = any(row.estimate.null for row in table.rows)
    wide = [name for name, present in (("relations like these", across), ("by chance", by_chance)) if present]
    names = ("value", "95 % interval", *wide, "n", "left out")
    for name in (*names, *(f"over {spread}" for spread in several)):
        shown.add_column(name, justify="right", no_wrap=True)
    section = ""
    for row in table.rows:
        if row.section != section:
            section = row.section
            shown.add_row(f"[bold]{section}[/bold]")
        shown.add_row(*_cells(row, several, across=across, by_chance=by_chance))
    out.print(shown)
    if any(not row.estimate.measurable for row in table.rows):
        out.print(WITHIN_FLOOR, markup=False)
    for note in table.notes:
        out.print(literal(note))
    more = " In braces: for other relations like these." if across else ""
    more += " By chance: the median of the null, its 95 % band, and p." if by_chance else ""
    out.print(f"Intervals: for other questions of these relations.{more} All numbers: summary.json.", markup=False)


def printed_grid(grid: Grid, title: str) -> None:
    """Prints a wide table under its title."""
    out = console(2 * WIDTH)
    out.print()
    out.print(literal(title))
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, name in enumerate(grid.header):
        shown.add_column(literal(name), justify="left" if number < len(grid.labels) else "right")
    for row in grid.shown():
        shown.add_row(*map(literal, row))
    out.print(shown)


def literal(text: str) -> Text:
    """The text without interpretation: no markup, no emoji for :names:, nothing that moves the cursor."""
    return Text(visible(text))


def _cells(row: Row, several: Sequence[str], *, across: bool, by_chance: bool) -> tuple[str, ...]:
    """The cells of a row.

    Args:
        row: The number.
        several: The fields of the row whose spread is shown, each in a column of its own.
        across: Whether there is a column of intervals for relations like these.
        by_chance: Whether there is a column of nulls.
    """
    number, estimate = percent if row.unit == "share" else digits, row.estimate
    value = "none" if estimate.value is None else marked(estimate, number(estimate.value))
    wide: tuple[str, ...] = (relations(estimate, number),) if across else ()
    wide += (null_in_words(estimate.null, number),) if by_chance else ()
    cells = (f"  {row.name}", value, interval(estimate, number), *wide, str(estimate.n), str(estimate.left_out))
    return (*cells, *(spread_in_words(getattr(row, name), number) for name in several))


def spread_in_words(values: Sequence[float], number: Number) -> str:
    """The least and the largest of several values; empty where there are none."""
    return f"{number(min(values))} to {number(max(values))}" if values else ""
