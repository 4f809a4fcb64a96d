"""The summary of a run in plain words: one row for each number that a reader asks for first."""

import sys
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from figures.captions import WITHIN_FLOOR, Subject, digits, interval, marked, percent
from figures.grid import Grid
from interp.intervals import Estimate
from interp.plain import visible
from interp.records import READ_SPANS
from interp.run.runs import Record

WIDTH = 120
"""Columns where the output is no terminal, so that a log holds whole rows."""
Unit = Literal["number", "share"]


@dataclass(frozen=True)
class Row:
    """One number."""

    section: str
    """The heading that it stands under."""
    name: str
    """What it is, in plain words."""
    estimate: Estimate
    """Value, interval, count, left out."""
    unit: Unit = "number"
    """number, or share: a fraction that is printed in per cent."""
    sets: tuple[float, ...] = ()
    """Its value under each set of worked examples, where there are several."""


@dataclass(frozen=True)
class Table:
    """The rows of a run's summary, in the order in which they are read."""

    rows: tuple[Row, ...]
    """Only what the run has measured."""

    def __post_init__(self) -> None:
        names = [(row.section, row.name) for row in self.rows]
        if len(set(names)) != len(names):
            raise ValueError("two rows of one section have one name")


FILLERS = {
    "neutral": "neutral filler",
    "mean": "mean embedding",
    "pad": "pad",
    "confidence_to_answer": "cut, confidence to answer",
    "later_to_answer": "cut, all later to answer",
}
SOURCES = {
    "jsd": "sampled (the paper's)",
    "jsd.branched": "branched",
    "jsd.same_relation": "of the same relation",
}
"""Where wrong answers come from, by how their keys in summary.json begin."""
SECTIONS: dict[str, dict[str, str]] = {
    "JSD of the confidence, median (nats)": {
        "jsd.median": "right and wrong answer, sampled (the paper's)",
        "jsd.branched.median": "right and wrong answer, branched",
        "jsd.foil": "right and wrong answer, same relation",
        "jsd.wrong_wrong": "two wrong answers, sampled",
        "jsd.branched.wrong_wrong": "two wrong answers, branched",
        "jsd.candidates": "all pairs of sampled answers (the paper's)",
        "jsd.filled.candidates": "all pairs, sampled and branched",
        "jsd.foreign": "answer to another question",
        "jsd.noise_floor": "same answer, other looks (noise)",
        "jsd.hint": "hint that it is wrong (control)",
    },
    "JSD at most 0.1, share": {
        "jsd.near_zero_share": "questions, wrong answer sampled",
        "jsd.branched.near_zero_share": "questions, wrong answer branched",
        "jsd.same_relation.near_zero_share": "questions, wrong answer of the same relation",
        "jsd.pairs.near_zero_share": "pairs of sampled answers (the paper's)",
        "jsd.filled.pairs.near_zero_share": "pairs, sampled and branched",
    },
    "JSD, number of pairs": {
        "jsd.pairs.number": "of sampled answers",
        "jsd.filled.pairs.number": "of sampled and branched answers",
    },
    "JSD and likelihood of the wrong answer, rank correlation": {
        f"{key}.likelihood_correlation": words for key, words in SOURCES.items()
    },
}
SECTIONS |= {
    f"Direction, wrong answer {words}": {
        f"{key}.direction.mean": "confidence, right minus wrong",
        f"{key}.direction.share_positive": "higher after the right answer",
        f"{key}.direction.share_likelier": "right answer likelier",
        f"{key}.direction.share_shorter": "right answer shorter",
    }
    for key, words in SOURCES.items()
}
SECTIONS |= {
    "Numerical floor: the same answer read twice": {
        "floor.jsd": "JSD, median (nats)",
        "floor.jsd_largest": "JSD, largest (nats)",
        "floor.expected": "expected confidence, mean difference",
        "floor.expected_largest": "expected confidence, largest difference",
        "floor.rollout.answer.mass": "rollout, confidence to answer, mean difference",
    },
    "Probability outside the levels": {
        "jsd.outside": "mean",
        "jsd.flagged_share": "questions with more than half",
    },
    "Rollout mass": {
        f"rollout.{span}.{reading}": f"confidence to {span}{words}"
        for span in READ_SPANS
        for reading, words in (("mass", ""), ("null", ", uniform"))
    }
    | {
        "rollout.sink.mass": "confidence to learned sinks",
        "rollout.from_answer.question.mass": "answer to question",
        "rollout.from_answer.question.null": "answer to question, uniform",
    },
    "Rollout mass, first token left out": {
        f"rollout.{span}.{reading}": f"confidence to {span}{words}"
        for span in ("question", "answer")
        for reading, words in (("without_first", ""), ("without_first_null", ", uniform"))
    },
    "Rollout mass per token": {f"rollout.{span}.per_token": f"confidence to {span}" for span in ("question", "answer")},
    "Expected confidence": {"masking.seen": "answer seen"}
    | {f"masking.{name}.masked": f"hidden: {words}" for name, words in FILLERS.items()},
    "Its drop when the answer is hidden": {f"masking.{name}.drop": words for name, words in FILLERS.items()},
    "Effect on the score at the confidence": {f"attribution.{span}.effect": span for span in READ_SPANS},
    "The same with the other filler": {
        f"attribution.{span}.effect_{name}": f"{span}, {FILLERS[name]}"
        for span in READ_SPANS
        for name in ("neutral", "mean")
    },
    "Attribution of the answer": {
        "attribution.answer.rank": "rank of its best token, median",
        "attribution.answer.completeness_gap": "completeness gap",
        "attribution.refused_share": "refused, gap too large",
    },
}
"""What is printed, in this order: section, key in summary.json, plain words. "uniform": if every token attended equally
to all before it."""
SHARES = ("near_zero_share", "direction.share_", "jsd.outside", "jsd.flagged_share", "attribution.refused_share")
"""What the keys of fractions hold, which are printed in per cent."""


def table_of(summary: Record) -> Table:
    """The table of a run's summary; rows of instruments that it does not hold are absent."""
    sets = summary.get("shot_sets", {})
    rows = []
    for section, names in SECTIONS.items():
        for key, words in names.items():
            if node := _at(summary, key):
                spread = tuple(v for v in sets.get(key, {}).get("values", ()) if v is not None)
                unit: Unit = "share" if any(part in key for part in SHARES) else "number"
                rows.append(Row(section, words, Estimate(**node), unit, spread))
    return Table(tuple(rows))


def _at(summary: Record, key: str) -> Record | None:
    *above, last = key.split(".")
    for name in above:
        summary = summary.get(name) or {}
    return summary.get(last)


def printed(table: Table, subject: Subject) -> None:
    """Prints the table under a header that says whose numbers they are."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print()
    console.print(_literal(subject.sentence))
    several = any(row.sets for row in table.rows)
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    shown.add_column("", no_wrap=True)
    for name in ("value", "95 % interval", "n", "left out", *(("over sets",) if several else ())):
        shown.add_column(name, justify="right", no_wrap=True)
    section = ""
    for row in table.rows:
        if row.section != section:
            section = row.section
            shown.add_row(f"[bold]{section}[/bold]")
        shown.add_row(*_cells(row, several))
    console.print(shown)
    if any(not row.estimate.measurable for row in table.rows):
        console.print(WITHIN_FLOOR, markup=False)
    console.print("Intervals: bootstrap over questions. All other numbers: summary.json.", markup=False)


def printed_grid(grid: Grid, title: str) -> None:
    """Prints a wide table under its title."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 2 * WIDTH)
    console.print()
    console.print(_literal(title))
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, name in enumerate(grid.header):
        shown.add_column(_literal(name), justify="left" if number < len(grid.labels) else "right")
    for row in grid.shown():
        shown.add_row(*map(_literal, row))
    console.print(shown)


def _literal(text: str) -> Text:
    """The text as it is: no markup, no emoji in place of :names:, nothing that moves the cursor."""
    return Text(visible(text))


def _cells(row: Row, several: bool) -> tuple[str, ...]:
    number, one = percent if row.unit == "share" else digits, row.estimate
    value = "none" if one.value is None else marked(one, number(one.value))
    cells = (f"  {row.name}", value, interval(one, number), str(one.n), str(one.left_out))
    spread = f"{number(min(row.sets))} to {number(max(row.sets))}" if row.sets else ""
    return (*cells, spread) if several else cells
