"""`python -m figures RUN`: the table, all figures and the page of a run again, from its records alone."""

from dataclasses import dataclass
from pathlib import Path

from interp.cli.command import run_as_command
from interp.options import Positional


@dataclass(frozen=True)
class Redraw:
    """Redraw all figures of a run, and write its page again."""

    run: Positional[Path]
    """The run's directory, as written by interp.diagnose."""
    questions: tuple[str, ...] = ()
    """Ids of the questions whose tokens are shown; by default the first few that were attributed."""


def body(options: Redraw) -> None:
    """Prints, draws and writes; matplotlib is imported only here, so that --help is quick."""
    from figures.report import reported

    reported(options.run, options.questions)


if __name__ == "__main__":
    run_as_command(Redraw, body, description=__doc__)
