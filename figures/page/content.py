"""What a report holds, whatever run it is of: facts, verdict, figures, tables, questions.

The page is rendered from these alone; no part of it knows a measure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from figures.captions import Page
from figures.style import SPAN_COLOURS
from interp.records import MassSpan

SPAN_ORDER: tuple[MassSpan, ...] = tuple(SPAN_COLOURS)
"""The spans by the index that tokens have them by; their colours are those of every figure."""
Cell = str | tuple[str, int | float | None]
"""A text, or a number as it is shown and as it is sorted; None for one without a value."""


@dataclass(frozen=True)
class SortedTable:
    """A table that is sorted and searched in the page, and copied as CSV or LaTeX."""

    name: str
    """Its name in links."""
    title: str
    """What it shows."""
    header: tuple[str, ...]
    """The headings of its columns."""
    rows: tuple[tuple[Cell, ...], ...]
    """A cell for each heading."""
    csv: str
    """The whole table as CSV, at full precision."""
    latex: str
    """The table as a booktabs tabular."""
    notes: tuple[str, ...] = ()
    """Sentences that stand below it."""
    series: tuple[int, ...] = ()
    """For each row the index of its checkpoint in `Report.series`; empty where rows are not switched on and off."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"{self.name}: a row of {len(row)} cells under {len(self.header)} headings")
        if self.series and len(self.series) != len(self.rows):
            raise ValueError(f"{self.name}: {len(self.series)} checkpoints for {len(self.rows)} rows")


@dataclass(frozen=True)
class Shown:
    """A figure in the page."""

    page: Page
    """The figure with its name and caption."""
    title: str
    """Its heading in the page."""
    headline: bool = False
    """Whether it stands at the top."""
    series: int | None = None
    """The index of the checkpoint that it shows alone; None for one that shows all, or where there is only one."""


@dataclass(frozen=True)
class TokenShades:
    """One number for each token of a prompt, as colours."""

    title: str
    """What the number is."""
    low: str
    """The number where the first colour stands, in words."""
    high: str
    """The number where the last colour stands."""
    limit: float
    """The absolute value at which colours saturate: the first colour stands for -limit, the last one for +limit."""
    colours: tuple[str, ...]
    """Colours as #rrggbb at equal steps from -limit to +limit."""
    values: tuple[float | None, ...]
    """The numbers, [tokens]; None for a token without one."""


@dataclass(frozen=True)
class Bars:
    """Distributions over the confidence levels, one below another."""

    title: str
    """What they show."""
    levels: tuple[str, ...]
    """The levels, as the model writes them."""
    rows: tuple["Bar", ...]
    """The distributions."""


@dataclass(frozen=True)
class Bar:
    """One distribution over the levels."""

    label: str
    """What it is after: the kind of answer, or the way in which the answer is hidden."""
    text: str
    """The answer itself; empty where the label says all."""
    probability: tuple[float, ...]
    """The probability of each level, [levels]; sums to 1."""
    expected: float
    """The expected confidence, in [0, 1]."""
    outside: float
    """The off-scale mass, in [0, 1]."""


@dataclass(frozen=True)
class SmallTable:
    """A few numbers of one question."""

    title: str
    """What they are."""
    header: tuple[str, ...]
    """The headings."""
    rows: tuple[tuple[str, ...], ...]
    """The cells as they are shown."""


@dataclass(frozen=True)
class Side:
    """One question before a training, after it, in the only run, or as one checkpoint answers it in one format."""

    title: str
    """Before, After, or the checkpoint and format; empty in the only run."""
    answer: str
    """The model's answer."""
    right: bool
    """Whether it is right."""
    reply: str = ""
    """The reply as it was written, where the answer is not all of it."""
    tokens: tuple[str, ...] = ()
    """The text of each token of the prompt, [tokens]; empty where it was not kept."""
    spans: tuple[int, ...] = ()
    """For each token the index of its span in `SPAN_ORDER`, [tokens]."""
    shades: tuple[TokenShades, ...] = ()
    """What the tokens can be shaded by, beside their spans."""
    bars: tuple[Bars, ...] = ()
    """Its confidences."""
    tables: tuple[SmallTable, ...] = ()
    """Its other numbers."""


@dataclass(frozen=True)
class AskedQuestion:
    """A question of the list."""

    id: str
    """Its id."""
    text: str
    """Its text."""
    relation: str
    """Its relation or subject; empty where the data has none."""
    accepted: tuple[str, ...]
    """The answers that count as right."""
    answer: str
    """What the list shows as the model's answer: that of the only run, or of the run before."""
    marks: tuple[str, ...]
    """What the list is filtered by beside the relation, such as right, wrong and measured."""
    values: tuple[float | None, ...]
    """Its value of each of `Questions.measures`."""
    sides: tuple[Side, ...]
    """What opens with it."""


@dataclass(frozen=True)
class Questions:
    """All questions of a run, in the order in which they were asked."""

    measures: tuple[str, ...]
    """The headings of the values by which the list is sorted."""
    asked: tuple[AskedQuestion, ...]
    """The questions."""
    note: str = ""
    """Whose answers the list shows, and what its marks mean."""


@dataclass(frozen=True)
class Verdict:
    """What a run says in one of a few words, by rule."""

    name: str
    """The rule that holds, such as "answer-independent"."""
    sentences: tuple[str, str, str]
    """What is said, on what numbers, and what is not said."""


@dataclass(frozen=True)
class Report:
    """One run in the page."""

    kind: str
    """The command: diagnose, evaluate, compare, training, ablation or organisms."""
    title: str
    """What it is called in the page's navigation."""
    facts: Mapping[str, str]
    """What was measured: model, adapter, data, format, precision, numerical floor."""
    verdicts: tuple[tuple[str, Verdict], ...] = ()
    """Whom it is about ("", or before and after), and what is said."""
    figures: tuple[Shown, ...] = ()
    """The figures, headlines first."""
    tables: tuple[SortedTable, ...] = ()
    """The tables."""
    questions: Questions = field(default_factory=lambda: Questions((), ()))
    """The questions."""
    series: tuple[str, ...] = ()
    """Checkpoints that are switched on and off; empty where there is only one."""
