"""A wide table, a row for each setting and a column for each measure, as text, CSV, Markdown and LaTeX.

It holds finished estimates and knows neither measures nor runs."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from figures.captions import digits, marked
from interp.intervals import Estimate
from interp.plain import visible

UNSEEN = "unseen"
"""Stands in the name of data whose relations were not trained on."""
LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "≈": r"$\approx$",
}


@dataclass(frozen=True)
class Column:
    """One measure."""

    key: str
    """Its key in summary.json."""
    title: str
    """Its heading."""
    scale: float = 100.0
    """Factor by which values are multiplied when they are shown: 100 for fractions, shown in per cent."""
    places: int | None = 1
    """Digits after the point when they are shown; None: two or three significant ones, for measures of many sizes."""


@dataclass(frozen=True)
class Grid:
    """Rows of estimates under headings."""

    labels: tuple[str, ...]
    """Headings of the columns that name a row."""
    columns: tuple[Column, ...]
    """The measures."""
    rows: tuple[tuple[tuple[str, ...], tuple[Estimate, ...]], ...]
    """For each row its names and its estimates."""
    across: bool = False
    """Whether all rows make a claim about other relations, and have that interval in braces."""

    def __post_init__(self) -> None:
        for names, cells in self.rows:
            if len(names) != len(self.labels) or len(cells) != len(self.columns):
                raise ValueError(f"row {names}: {len(names)} names and {len(cells)} cells")

    @property
    def header(self) -> tuple[str, ...]:
        """All headings."""
        return (*self.labels, *(column.title for column in self.columns))

    def shown(self, *, dash: str = "–") -> list[tuple[str, ...]]:
        """Every row as text: value and interval, `dash` where there is no value.

        Rows of data that are called unseen make such a claim as well."""
        return [
            (
                *names,
                *(
                    _cell(estimate, column, dash, self.across or any(UNSEEN in name for name in names))
                    for estimate, column in zip(cells, self.columns, strict=True)
                ),
            )
            for names, cells in self.rows
        ]

    def csv(self) -> str:
        """Full precision; interval, count and number left out of each measure have columns of their own.

        A name that a spreadsheet would read as a formula is preceded by an apostrophe."""
        names = (c.key if f == "value" else f"{c.key}_{f}" for c in self.columns for f in FIELDS)
        rows = (
            (*labels, *(field for estimate in cells for field in fields_of(estimate))) for labels, cells in self.rows
        )
        return csv_of((*self.labels, *names), rows)

    def markdown(self) -> str:
        """A pipe table."""
        lines = [self.header, ("---",) * len(self.labels) + ("---:",) * len(self.columns), *self.shown()]
        return "".join(f"| {' | '.join(map(for_markdown, line))} |\n" for line in lines)

    def latex(self) -> str:
        """A booktabs tabular."""
        return latex_of(self.header, self.shown(dash="--"), len(self.labels))

    def written(self, folder: Path, name: str) -> None:
        """Writes `name`.csv, `name`.md and `name`.tex."""
        for ending, text in (("csv", self.csv()), ("md", self.markdown()), ("tex", self.latex())):
            (folder / f"{name}.{ending}").write_text(text, encoding="utf-8")


FIELDS = ("value", "low", "high", "n", "left_out", "relations_low", "relations_high")
"""The columns that an estimate has in CSV."""


def fields_of(estimate: Estimate) -> Iterator[float | int | None]:
    """What stands in an estimate's columns of CSV."""
    return (_field(estimate, name) for name in FIELDS)


def csv_of(header: Sequence[str], rows: Iterable[Sequence[str | float | int | None]]) -> str:
    """A table as CSV. A text that a spreadsheet would read as a formula is preceded by an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_for_csv(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return out.getvalue()


def latex_of(header: Sequence[str], rows: Iterable[Sequence[str]], labels: int) -> str:
    """A table as a booktabs tabular. labels: how many columns at the left are texts."""
    head, *body = (" & ".join(map(_for_latex, line)) + r" \\" for line in (header, *rows))
    spec = "l" * labels + "r" * (len(header) - labels)
    lines = (rf"\begin{{tabular}}{{{spec}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}")
    return "\n".join((*lines, ""))


def _field(estimate: Estimate, name: str) -> float | int | None:
    """A number of an estimate; "relations_low" is the lower end for relations like these."""
    if name.startswith("relations_"):
        return getattr(estimate.relations, name.removeprefix("relations_"), None)
    number: float | int | None = getattr(estimate, name)
    return number


def _cell(estimate: Estimate, column: Column, dash: str, across: bool) -> str:
    """Value and interval. across: with the interval for relations like these in braces."""
    if estimate.value is None:
        return dash
    value, low, high = (_written(v, column) for v in (estimate.value, estimate.low, estimate.high))
    text = f"{value}" if low is None else f"{value} [{low}, {high}]"
    if across and estimate.relations:
        ends = (_written(v, column) for v in (estimate.relations.low, estimate.relations.high))
        text += f" {{{', '.join(map(str, ends))}}}"
    return marked(estimate, text)


def _written(value: float | None, column: Column) -> str | None:
    if value is None:
        return None
    scaled = column.scale * value
    return digits(scaled) if column.places is None else f"{scaled:.{column.places}f}"


def for_markdown(text: str) -> str:
    """Markdown that renders as this text literally, in a cell or a line: no markup, link, entity or formula."""
    return re.sub(r"([\\`*_|<>&~$]|\](?=[(\[:]))", r"\\\1", visible(text.replace("\n", " ")))


def _for_latex(text: str) -> str:
    """LaTeX that renders as this text literally.

    A cell that begins with [ or * would be read as an argument of the `\\\\` before it, and is preceded by {}."""
    plain = "".join(LATEX.get(c, c) for c in visible(text.replace("\n", " ")))
    return f"{{}}{plain}" if plain.lstrip()[:1] in ("[", "*") else plain


def _for_csv(text: str) -> str:
    plain = text.replace("\r", r"\r")  # Python's writer does not quote it, and readers end the row there
    return f"'{plain}" if plain[:1] in ("=", "+", "-", "@", "\t") else plain
