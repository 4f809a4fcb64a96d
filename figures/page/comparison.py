"""A comparison in the page: both verdicts, the paired differences, and every question side by side."""

from collections.abc import Iterator, Mapping, Sequence

from figures import compare
from figures.captions import Page, RunData
from figures.page.content import Report, Shown, SortedTable
from figures.page.diagnosis import verdict_on
from figures.page.questions import questions_of
from figures.page.tables import table_of_grid
from figures.style import SIDE_TITLES
from interp.instruments.registry import INSTRUMENTS
from interp.run.runs import Record


def comparison_report(
    records: tuple[Sequence[Record], Sequence[Record]], summary: Record, figures: Sequence[Page], title: str
) -> Report:
    """The report of a run of `interp.compare`.

    Args:
        records: The records of the run before and of the run after training.
        summary: The comparison's summary.
        figures: Its figures, in their order.
        title: What the run is called.
    """
    sides = compare.sides_of(records, summary)
    verdicts = [(name, verdict_on(side.estimates)) for name, side in sides.items()]
    return Report(
        "compare",
        title,
        facts_of(summary),
        tuple((name, verdict) for name, verdict in verdicts if verdict),
        tuple(map(_shown, figures)),
        tuple(_tables(summary)),
        questions_of(_with_answers(sides)),
    )


def _with_answers(sides: Mapping[str, RunData]) -> Mapping[str, RunData]:
    """Both sides where both have records of their answers; a comparison of results in memory may have them too."""
    return {name: side for name, side in sides.items() if side.has("answer")}


def facts_of(summary: Record) -> dict[str, str]:
    """What was compared."""
    models, data = summary["models"], summary["data"]
    names = {side: ", ".join(filter(None, (models[side]["name"], models[side].get("note")))) for side in SIDE_TITLES}
    facts = {"Before": names["before"], "After": names["after"]}
    facts["Data"] = f"{data['name']}: {data['asked']} asked, {data['right']} answered right{compare.when(summary)}"
    facts["Questions"] = compare.whose(summary)
    facts |= {"Format": summary["format"], "Precision": models["before"].get("dtype") or ""}
    return {name: text for name, text in facts.items() if text}


def _tables(summary: Record) -> Iterator[SortedTable]:
    grid = compare.instruments_grid(summary)
    yield table_of_grid(grid, "instruments", "Instruments, before and after", notes=compare.TESTS)
    if "calibration" in summary:
        title = "Calibration, each with its own answers"
        yield table_of_grid(compare.calibration_grid(summary), "calibration", title)
    for part in compare.parts(summary):
        if part.grid:
            yield table_of_grid(part.grid, part.name, part.title.rstrip(":"))


def _shown(page: Page) -> Shown:
    """A figure with its heading: what the instrument measures."""
    name = page.name.removeprefix("compare_")
    instrument = INSTRUMENTS.get(name)
    title = instrument.about.rstrip(".") if instrument else name.replace("_", " ").capitalize()
    return Shown(page, title, headline=instrument is not None)
