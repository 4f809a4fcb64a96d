"""The summary of a run as a table on the terminal, and its figures."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from figures import attribution, calibration, compare, jsd, likelihood, masking, rollout, tokens
from figures.captions import Page, Subject, subject_of
from figures.dryrun import printed_dry_run
from figures.style import paper, saved
from figures.table import printed, printed_grid, table_of
from figures.training import reported_ablation, reported_curve
from interp.errors import UserError
from interp.run.dryrun import DryRun
from interp.run.runs import Record, read_records, read_run

Pages = Callable[[Sequence[Record], Subject], Iterator[Page]]
"""What a run's records give to look at; nothing where they lack the instrument."""
PAGES_OF: dict[str, Pages] = {
    "jsd": jsd.pages,
    "likelihood": likelihood.pages,
    "rollout": rollout.pages,
    "attribution": attribution.pages,
    "masking": masking.pages,
    "tokens": tokens.pages,
}
"""Each instrument's figures, that of JSD against likelihood, and prompts shaded token by token."""


def reported(folder: Path, questions: Sequence[str] = (), dry: DryRun | None = None) -> None:
    """Prints the summary of a finished run as a table and draws its figures into `folder`/figures.

    questions: ids of those whose tokens are shown, by default the first few that were attributed. dry: of a dry run,
    of which there are no numbers yet, what it foresees is printed alone. Errors: UserError where the folder is no
    finished run, or a question was not measured."""
    if dry:
        printed_dry_run(dry, folder)
        return
    config, summary, records = read_run(folder)
    kinds = ("training", "ablation", "comparison", "calibration", "model")
    if "identity" not in config or not any(isinstance(summary.get(kind), dict) for kind in kinds):
        raise UserError(f"{folder}: holds no numbers of a finished run")
    if "training" in summary:
        reported_curve(folder)
        _said_where(folder)
        return
    if "ablation" in summary:
        reported_ablation(folder)
        return
    if "comparison" in summary:
        _reported_comparison(folder, summary, questions)
        return
    if "calibration" in summary:
        _reported_calibration(folder, summary, records)
        return
    subject = subject_of(config, summary)
    printed(table_of(summary), subject)
    with paper():
        drawn = [pages(records, subject) for name, pages in PAGES_OF.items() if name != "tokens"]
        for page in chain(*drawn, tokens.pages(records, subject, questions)):
            saved(page.figure, folder / "figures", page.name, page.caption)
    _said_where(folder)


def _reported_calibration(folder: Path, summary: Record, records: Sequence[Record]) -> None:
    printed_grid(calibration.grid(summary, calibration.SHORT), calibration.subject(summary))
    if any("worst" in numbers for _, numbers in calibration.cells(summary)):
        worst = calibration.grid(summary, calibration.SHORT, worst=True)
        printed_grid(worst, "With unparsed replies as wrong answers of the highest confidence:")
        worst.written(folder, "table_worst_case")
    calibration.grid(summary).written(folder, "table")
    if any("shot_sets" in numbers for _, numbers in calibration.cells(summary)):
        words = "Means over sets of worked examples, least and largest in brackets (the tables above: the first set):"
        printed_grid(calibration.spread(summary, calibration.SHORT), words)
        calibration.spread(summary).written(folder, "shot_sets")
    if summary["differences"]:
        printed_grid(calibration.differences(summary, calibration.SHORT), "Differences on the same questions:")
        calibration.differences(summary).written(folder, "differences")
    print(f"the whole table: {folder / 'table'}.csv, .md, .tex")
    with paper():
        for page in calibration.pages(records, summary):
            saved(page.figure, folder / "figures", page.name, page.caption)
    _said_where(folder)


def _reported_comparison(folder: Path, summary: Record, questions: Sequence[str]) -> None:
    printed_grid(compare.instruments_grid(summary), compare.sentence(summary))
    compare.instruments_grid(summary).written(folder, "instruments")
    if "calibration" in summary:
        printed_grid(compare.calibration_grid(summary), "Calibration, each with its own answers:")
        compare.calibration_grid(summary).written(folder, "calibration")
    print("Effect size: the difference over its standard error and the square root of n (Cohen's d_z, for means).")
    before, after = (list(read_records(folder / side)) for side in compare.SIDE_TITLES)
    with paper():
        for page in compare.pages((before, after), summary, questions):
            saved(page.figure, folder / "figures", page.name, page.caption)
    _said_where(folder)


def _said_where(folder: Path) -> None:
    print(f"figures, each with its caption: {folder / 'figures'}")
