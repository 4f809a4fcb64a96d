"""The command that puts finished runs into one page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from interp.cli.command import run_as_command
from interp.errors import UserError
from interp.options import Positional


@dataclass(frozen=True, kw_only=True)
class PageOfRuns:
    """Put finished runs into one page that needs no server and no network."""

    runs: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """The directories of finished runs: diagnoses, evaluations, comparisons, trainings, in the order of the page."""
    out: Path = Path("report.html")
    """The file that is written; one that is there is replaced."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise UserError("no run is named: python -m interp.report RUN [RUN ...]")
        if twice := next((run for run in self.runs if self.runs.count(run) > 1), None):
            raise UserError(f"{twice} is named twice")
        if self.out.is_dir():
            raise UserError(f"--out {self.out}: is a directory; name a file")


def body(options: PageOfRuns) -> None:
    """Writes the page; what draws it is imported only here, so that --help is quick."""
    from figures.page.build import read, report_of
    from figures.page.write import written

    runs = [read(folder) for folder in options.runs]  # all before any is drawn, so that a wrong name is told at once
    print(written(options.out, [report_of(run) for run in runs]))


def run() -> None:
    """Runs `python -m interp.report`."""
    run_as_command(PageOfRuns, body, description=str(PageOfRuns.__doc__))
