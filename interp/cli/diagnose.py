"""The commands of the instruments: all of them, or one on its own."""

from pathlib import Path

from interp.cli.command import drawing, run_as_command
from interp.instruments.registry import INSTRUMENTS, by_default
from interp.pipelines.diagnose import diagnosed
from interp.pipelines.diagnosis import Diagnose
from interp.run.dryrun import DryRun

ABOUT = "Measure answer-independence with the usual instruments and draw Figures 2 and 3."


def run(command: str) -> None:
    """Runs `python -m interp.COMMAND`: diagnose, or the name of an instrument."""

    def work(options: Diagnose, dry: DryRun | None) -> Path:
        return diagnosed(options, by_default() if command == "diagnose" else [command], command, dry=dry)

    def about() -> str:
        return ABOUT if command == "diagnose" else INSTRUMENTS[command].about

    run_as_command(Diagnose, drawing(work), description=about)
