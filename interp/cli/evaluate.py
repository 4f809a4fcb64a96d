"""The command that measures calibration."""

from interp.cli.command import drawing, run_as_command
from interp.pipelines.evaluate import evaluated
from interp.pipelines.evaluation import Evaluate


def run() -> None:
    """Runs `python -m interp.evaluate`."""
    run_as_command(Evaluate, drawing(evaluated), description="Measure calibration and draw Figures 1 and 5.")
