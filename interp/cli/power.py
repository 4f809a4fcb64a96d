"""The command that plans a run: how many questions an interval of a wished width needs, from a pilot run."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from interp.cli.command import run_as_command
from interp.errors import UserError
from interp.options import Positional


@dataclass(frozen=True, kw_only=True)
class Power:
    """Plan a run: how many questions an interval of a wished width needs, from a finished pilot run."""

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The pilot's directory: a finished run of interp.diagnose, or of interp.compare for the paired differences."""
    key: str | None = None
    """One number by its key in summary.json, such as jsd.near_zero_share; by default all headline numbers."""
    width: float | None = None
    """The wished width of the 95 % interval, in the number's unit (0.1 is 10 points of a share); by default half of the
    pilot's, for each number and kind of interval."""

    def __post_init__(self) -> None:
        if self.width is not None and not (math.isfinite(self.width) and self.width > 0):
            raise UserError(f"--width {self.width}: must be a number above 0")


def body(options: Power) -> None:
    """Prints the table; what draws it is imported only here, so that --help is quick."""
    from figures.power import printed_power

    printed_power(options.run, key=options.key, width=options.width)


def run() -> None:
    """Runs `python -m interp.power`."""
    run_as_command(Power, body, description=str(Power.__doc__))
