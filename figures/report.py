"""The summary of a run as a table on the terminal, and its figures, whatever command the run is of.

It chooses and saves drawings that are made elsewhere, and measures nothing."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from figures import calibration, compare, forest, tokens
from figures.captions import Page, RunData, caption, subject_of
from figures.dryrun import printed_dry_run
from figures.organisms import reported_organisms
from figures.style import SIDE_TITLES, paper, saved
from figures.table import console, estimates_of, literal, printed, printed_grid, table_of
from figures.training import reported_ablation, reported_curve
from interp.errors import UserError
from interp.instruments.base import Instrument
from interp.instruments.registry import INSTRUMENTS
from interp.intervals import Estimate
from interp.run.dryrun import DryRun
from interp.run.runs import Record, averaged, kind_of, read_records, read_run


def pages_of(instrument: Instrument, run: RunData) -> Iterator[Page]:
    """An instrument's figures.

    Args:
        instrument: The instrument.
        run: The run's records and estimates.

    Yields:
        Its own pages, or a forest plot of its listed numbers where it draws none; nothing where it did not run.
    """
    if not run.has(instrument.name):
        return
    if instrument.pages:
        yield from instrument.pages(run)
        return
    by_unit: dict[str, dict[str, Estimate]] = {}
    for metric in instrument.metrics:
        if metric.place != "kept" and metric.key in run.estimates:
            by_unit.setdefault(metric.unit, {})[metric.title] = run.estimates[metric.key]
    if not by_unit:
        return
    how = f"{instrument.about} {forest.HOW_TO_READ}"
    text = caption(how, forest.numbers_of(by_unit), run.subject)
    yield Page(instrument.name, forest.forest(by_unit), text)


def run_data(config: Record, summary: Record, records: Sequence[Record]) -> RunData:
    """The data from which the figures of a run of `interp.diagnose` are drawn.

    Figures show some numbers that summaries of version 0.1 do not hold: they are estimated from its records."""
    estimates = estimates_of(summary)
    if "version" not in config:
        for name, instrument in INSTRUMENTS.items():
            if measured := [_with_effects(record) for record in records if record["measure"] == name]:
                floored = all(map(instrument.has_floor, measured))
                estimates = instrument.estimates(averaged(measured), estimates, floored=floored) | estimates
    return RunData(records, estimates, subject_of(config, summary))


def _with_effects(record: Record) -> Record:
    """A record with the effects of all replacements among its values, as attributions of today have them."""
    effects = {
        f"{span}.effect_{name}": effect
        for span, by_name in record.get("effects", {}).items()
        for name, effect in by_name.items()
    }
    return {**record, "values": effects | record["values"]}


def reported(folder: Path, questions: Sequence[str] = (), dry: DryRun | None = None) -> None:
    """Prints the summary of a finished run as a table and draws its figures into `folder`/figures.

    Args:
        folder: The run's directory.
        questions: Ids of the questions whose tokens are shown; by default the first few that were attributed.
        dry: A dry run, which has no numbers yet: only its estimate of time, memory and disk is printed.

    Raises:
        UserError: where the folder holds no finished run, or a question was not measured.
    """
    if dry:
        printed_dry_run(dry, folder)
        return
    config, summary, records = read_run(folder)
    kind = kind_of(config, summary)
    if kind is None or kind == "triplets":
        raise UserError(f"{folder}: holds no numbers of a finished run that are drawn")
    if kind == "training":
        reported_curve(folder)
    elif kind == "ablation":
        reported_ablation(folder)
    elif kind == "organisms":
        reported_organisms(folder)
    elif kind == "compare":
        _reported_comparison(folder, summary, questions)
    elif kind == "evaluate":
        _reported_calibration(folder, summary, records)
    else:
        _reported_diagnosis(folder, run_data(config, summary, records), summary, questions)
    if kind not in ("ablation", "organisms"):
        _said_where(folder)


def _reported_diagnosis(folder: Path, run: RunData, summary: Record, questions: Sequence[str]) -> None:
    printed(table_of(summary), run.subject)
    with paper():
        drawn = (pages_of(instrument, run) for instrument in INSTRUMENTS.values())
        for page in chain(*drawn, tokens.pages(run, questions)):
            saved(page.figure, folder / "figures", page.name, page.caption)


def _reported_calibration(folder: Path, summary: Record, records: Sequence[Record]) -> None:
    printed_grid(calibration.grid(summary, calibration.SHORT), calibration.subject(summary))
    if any("worst" in numbers for _, numbers in calibration.cells(summary)):
        worst = calibration.grid(summary, calibration.SHORT, worst=True)
        printed_grid(worst, "With unparsed replies as wrong answers of the highest confidence:")
        worst.written(folder, "table_worst_case")
    calibration.grid(summary).written(folder, "table")
    for source in calibration.spreads(summary):
        short, words = calibration.SPREADS[source]
        first = f"the tables above: the first {short.removesuffix('s')}"
        title = f"Means over {words}, least and largest in brackets ({first}):"
        printed_grid(calibration.spread(summary, source, calibration.SHORT), title)
        calibration.spread(summary, source).written(folder, source)
    if summary["differences"]:
        printed_grid(calibration.differences(summary, calibration.SHORT), "Differences on the same questions:")
        calibration.differences(summary).written(folder, "differences")
    print(f"the whole table: {folder / 'table'}.csv, .md, .tex")
    with paper():
        for page in calibration.pages(records, summary):
            saved(page.figure, folder / "figures", page.name, page.caption)


def _reported_comparison(folder: Path, summary: Record, questions: Sequence[str]) -> None:
    printed_grid(compare.instruments_grid(summary), compare.sentence(summary))
    compare.instruments_grid(summary).written(folder, "instruments")
    if "calibration" in summary:
        printed_grid(compare.calibration_grid(summary), "Calibration, each with its own answers:")
        compare.calibration_grid(summary).written(folder, "calibration")
    for part in compare.parts(summary):  # the questions are those that one checkpoint answers right, which favours it
        if part.grid:
            printed_grid(part.grid, part.title)
            part.grid.written(folder, part.name)
        else:
            console().print(literal(part.title))
    print("Effect size: of means, the mean difference over its standard deviation (Cohen's d_z).")
    print("p: exact McNemar for shares, exchanged sides for others; Holm's correction, but for the primary number.")
    before, after = (list(read_records(folder / side)) for side in SIDE_TITLES)
    with paper():
        for page in compare.pages((before, after), summary, questions):
            saved(page.figure, folder / "figures", page.name, page.caption)


def _said_where(folder: Path) -> None:
    print(f"figures, each with its caption: {folder / 'figures'}")
