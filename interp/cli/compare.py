"""The command that sets two checkpoints side by side."""

from interp.cli.command import drawing, run_as_command
from interp.pipelines.compare import Compare, compared


def run() -> None:
    """Runs `python -m interp.compare`."""
    run_as_command(Compare, drawing(compared), description="Compare before and after training.")
