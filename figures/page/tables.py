"""The tables of a run as a page shows them: sorted by their numbers, copied as CSV and LaTeX."""

from collections.abc import Sequence

from figures.captions import WITHIN_FLOOR, digits, interval, marked, null_in_words, percent, relations
from figures.grid import FIELDS, Grid, csv_of, fields_of, latex_of
from figures.page.content import Cell, SortedTable
from figures.table import Row, Table, spread_in_words
from interp.intervals import Estimate

LABELS = ("of", "number")
ABOUT = {
    "value": "",
    "95 % interval": "95 % interval: for other questions of these relations.",
    "relations like these": "Relations like these: the 95 % interval for other relations of this kind; empty where "
    "it is not known.",
    "by chance": "By chance: the value where there is nothing to be found, its 95 % band, and p.",
    "numerical floor": "Numerical floor: how far the value moves when the same text is read twice.",
    "n": "n: questions with a value.",
    "left out": "Left out: questions that were measured and have none.",
    "over sets": "Over sets: the least and the largest value under a set of worked examples.",
    "over wordings": "Over wordings: the least and the largest value under a wording of the instruction.",
}
"""The columns of the table of a single run after its labels, and what they hold."""
HEADER = (*LABELS, *ABOUT)


def table_of_grid(
    grid: Grid, name: str, title: str, *, notes: Sequence[str] = (), series: Sequence[int] = ()
) -> SortedTable:
    """A wide table. notes, series: as in `SortedTable`."""
    rows: list[tuple[Cell, ...]] = []
    for shown, (labels, cells) in zip(grid.shown(), grid.rows, strict=True):
        numbers = zip(shown[len(labels) :], cells, strict=True)
        rows.append((*labels, *((text, estimate.value) for text, estimate in numbers)))
    return SortedTable(name, title, grid.header, tuple(rows), grid.csv(), grid.latex(), tuple(notes), tuple(series))


def table_of_run(table: Table) -> SortedTable:
    """Every number of a diagnosis with its interval, its null, its numerical floor, and its counts."""
    rows = [_cells(row) for row in table.rows]
    used = [i for i, name in enumerate(HEADER) if name in LABELS or any(_text(row[i]) for row in rows)]
    header = tuple(HEADER[i] for i in used)
    shown: list[tuple[Cell, ...]] = [tuple(row[i] for i in used) for row in rows]
    plain = [(row.section, row.name, *fields_of(row.estimate), *_more(row.estimate)) for row in table.rows]
    names = (*LABELS, *FIELDS, "floor", "null", "null_low", "null_high", "null_p")
    about = " ".join(filter(None, (ABOUT[HEADER[i]] for i in used[len(LABELS) :])))
    within = (WITHIN_FLOOR,) if any(not row.estimate.measurable for row in table.rows) else ()
    notes = (*filter(None, (about,)), *within, *table.notes)
    latex = latex_of(header, [tuple(map(_text, row)) for row in shown], len(LABELS))
    return SortedTable("numbers", "All numbers", header, tuple(shown), csv_of(names, plain), latex, notes)


def _cells(row: Row) -> tuple[Cell, ...]:
    """The cells of a row under `HEADER`."""
    number, estimate = percent if row.unit == "share" else digits, row.estimate
    value = "none" if estimate.value is None else marked(estimate, number(estimate.value))
    across = relations(estimate, number) if estimate.relations else ""
    floor = "" if estimate.floor is None else digits(estimate.floor)
    return (
        row.section,
        row.name,
        (value, estimate.value),
        interval(estimate, number),
        across,
        null_in_words(estimate.null, number),
        (floor, estimate.floor),
        (str(estimate.n), estimate.n),
        (str(estimate.left_out), estimate.left_out),
        *(spread_in_words(values, number) for values in (row.sets, row.wordings)),
    )


def _more(estimate: Estimate) -> tuple[float | None, ...]:
    """The numerical floor and the null, for CSV."""
    null = estimate.null
    return (estimate.floor, *((null.value, null.low, null.high, null.p) if null else (None,) * 4))


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]
