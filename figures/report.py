"""The summary of a run as a table on the terminal, its figures and its page, whatever command the run is of.

It prints and saves what is made elsewhere, and measures nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path

from figures import calibration, compare
from figures.captions import subject_of
from figures.dryrun import printed_dry_run
from figures.organisms import printed_check
from figures.page.build import FinishedRun, read, report_of
from figures.page.write import REPORT, written
from figures.style import saved
from figures.table import console, literal, printed, printed_grid, table_of
from figures.training import ablation_grid
from interp.run.dryrun import DryRun
from interp.run.runs import RunKind


def reported(folder: Path, questions: Sequence[str] = (), dry: DryRun | None = None) -> None:
    """Prints the summary of a finished run as a table, draws its figures into `folder`/figures, and writes its page.

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
    run = read(folder)
    if run.kind in PRINTED:
        PRINTED[run.kind](folder, run)
    report = report_of(run, questions)
    for shown in report.figures:
        saved(shown.page.figure, folder / "figures", shown.page.name, shown.page.caption)
    page = written(folder / REPORT, [report])
    if report.figures:
        print(f"figures, each with its caption: {folder / 'figures'}")
    print(f"all of it in one page: {page}")


def _printed_diagnosis(folder: Path, run: FinishedRun) -> None:
    printed(table_of(run.summary), subject_of(run.config, run.summary))


def _printed_calibration(folder: Path, run: FinishedRun) -> None:
    summary = run.summary
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
    if (by_relation := calibration.relations(summary)).rows:
        by_relation.written(folder, "relations")
        print(f"each relation by itself: {folder / 'relations'}.csv, .md, .tex")
    print(f"the whole table: {folder / 'table'}.csv, .md, .tex")


def _printed_comparison(folder: Path, run: FinishedRun) -> None:
    summary = run.summary
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
    for line in compare.TESTS:
        print(line)


def _printed_ablation(folder: Path, run: FinishedRun) -> None:
    grid = ablation_grid(run.summary)
    printed_grid(grid, "ADVICE with the terms that each row names:")
    grid.written(folder, "ablation")
    print(f"table: {folder / 'ablation'}.csv, .md, .tex")


PRINTED: dict[RunKind, Callable[[Path, FinishedRun], None]] = {
    "diagnose": _printed_diagnosis,
    "evaluate": _printed_calibration,
    "compare": _printed_comparison,
    "ablation": _printed_ablation,
    "organisms": lambda folder, run: printed_check(folder, run.summary),
}
"""How the table of a run is printed, and written where it is wide; a training has none."""
