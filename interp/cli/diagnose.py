"""The commands of the instruments: all of them, or one on its own."""

import importlib
from pathlib import Path

from interp.cli.command import drawing, run_as_command
from interp.pipelines.diagnose import Diagnose, InstrumentName, diagnosed
from interp.run.dryrun import DryRun

ALL: tuple[InstrumentName, ...] = ("jsd", "rollout", "masking", "attribution")
ABOUT = "Measure answer-independence with four instruments and draw Figures 2 and 3."


def run(command: str) -> None:
    """Runs `python -m interp.COMMAND`: diagnose, or the name of an instrument."""
    instruments = ALL if command == "diagnose" else tuple(name for name in ALL if name == command)

    def work(options: Diagnose, dry: DryRun | None) -> Path:
        return diagnosed(options, instruments, command, dry=dry)

    description = ABOUT if command == "diagnose" else importlib.import_module(f"interp.instruments.{command}").__doc__
    run_as_command(Diagnose, drawing(work), description=str(description))
