"""The report of a finished run, whatever command it is of: what it says, with its figures drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from figures import calibration, compare, tokens
from figures.captions import Page, RunData
from figures.page.comparison import comparison_report
from figures.page.content import Report
from figures.page.diagnosis import diagnosis_report, pages_of, run_data
from figures.page.evaluation import evaluation_report
from figures.page.training import ablation_report, organisms_report, training_report
from figures.style import SIDE_TITLES, paper
from figures.training import ablation_page, curve_page
from interp.errors import UserError
from interp.instruments.registry import INSTRUMENTS
from interp.run.runs import Record, RunKind, kind_of, read_records, read_run


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, read from disk or still in memory."""

    kind: RunKind
    """The command that it is of."""
    name: str
    """The name of its directory; empty for one in memory."""
    config: Record
    """Its config.json; that of a comparison is not looked at."""
    summary: Record
    """Its summary.json."""
    records: Sequence[Record]
    """Its records; of a comparison none."""
    sides: tuple[Sequence[Record], Sequence[Record]] = ((), ())
    """Of a comparison the records before and after."""


def read(folder: Path) -> FinishedRun:
    """A finished run on disk.

    Raises:
        UserError: where the folder holds none, or one without numbers that are drawn.
    """
    config, summary, records = read_run(folder)
    kind = kind_of(config, summary)
    if kind is None or kind == "triplets":
        raise UserError(f"{folder}: holds no numbers of a finished run that are drawn")
    name = folder.resolve().name
    if kind != "compare":
        return FinishedRun(kind, name, config, summary, records)
    before, after = (list(read_records(folder / side)) for side in SIDE_TITLES)
    return FinishedRun(kind, name, config, summary, records, (before, after))


def report_of(run: FinishedRun, questions: Sequence[str] = ()) -> Report:
    """What a run says, with its figures drawn.

    Args:
        run: The run.
        questions: Ids of the questions whose tokens are drawn; by default the first few that were attributed.

    Raises:
        UserError: where a question was not measured.
    """
    summary, title = run.summary, title_of(run)
    with paper():
        if run.kind == "training":
            return training_report(run.config, summary, [_curve(run)], title)
        if run.kind == "ablation":
            return ablation_report(summary, [ablation_page(summary)], title)
        if run.kind == "organisms":
            return organisms_report(run.config, summary, title)
        if run.kind == "compare":
            figures = list(compare.pages(run.sides, summary, questions))
            return comparison_report(run.sides, summary, figures, title)
        if run.kind == "evaluate":
            figures = list(calibration.pages(run.records, summary))
            return evaluation_report(run.config, summary, run.records, figures, title)
        data = run_data(run.config, summary, run.records)
        return diagnosis_report(data, run.config, summary, list(_drawn(data, questions)), title)


def title_of(run: FinishedRun) -> str:
    """What a run is called in a page: what it is about, and its directory's name in parentheses."""
    summary, identity = run.summary, run.config.get("identity", {})
    if run.kind == "compare":
        about = " and ".join(summary["models"][side]["name"] for side in SIDE_TITLES) + f" on {_data(summary)}"
    elif run.kind == "diagnose":
        about = f"{summary['model']['name']} on {_data(summary)}"
    elif run.kind == "evaluate":
        about = "Calibration on " + ", ".join({data: "" for by in summary["calibration"].values() for data in by})
    elif run.kind == "training":
        about = f"Training ({identity['method']}) of {identity['ckpt']}"
    else:
        about = f"{run.kind.capitalize()} on {summary.get('base') or summary['ckpt']}"
    return f"{about} ({run.name})" if run.name else about


def _data(summary: Record) -> str:
    """What the data are called in a title: of a file its name alone, since its whole path stands below."""
    path = PurePath(summary["data"]["name"])
    return path.name if path.is_absolute() else str(summary["data"]["name"])


def _curve(run: FinishedRun) -> Page:
    identity = run.config["identity"]
    note = f" ({identity['note']})" if identity["note"] else ""
    return curve_page(run.summary["training"], f"{identity['method']} on {identity['ckpt']}{note}.")


def _drawn(run: RunData, questions: Sequence[str]) -> Iterator[tuple[str | None, Page]]:
    """Each figure of a diagnosis with the name of its instrument; those of single questions have none."""
    for name, instrument in INSTRUMENTS.items():
        yield from ((name, page) for page in pages_of(instrument, run))
    yield from ((None, page) for page in tokens.pages(run, questions))
