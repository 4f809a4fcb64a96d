"""`python -m training.examine`: every instrument on every organism, to learn which sees what and which is fooled."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from interp.cli.command import run_as_command
from interp.errors import UserError
from interp.instruments.registry import INSTRUMENTS
from interp.options import Common, Computing, Engine, Output, Positional, at_least, composed, name_of, refuse_unknown
from interp.pipelines.diagnosis import Diagnose
from interp.run.processes import launched
from interp.run.runs import kind_of, read_run
from training.organisms import BASE, QUESTIONS

RUNS = "runs"
"""Where in the directory of the organisms the diagnoses are."""


@dataclass(frozen=True, kw_only=True)
class Examine:
    """Run every instrument on organisms and on their base."""

    folder: Positional[Path]
    """The directory that `python -m training.organisms` wrote. Organisms that did not pass their check are left out."""
    instruments: Annotated[tuple[str, ...], name_of(INSTRUMENTS, several=True)] = ()
    """The instruments that run; by default all that there are."""
    n: int = 48
    """How many questions that the base answers right are measured, at most."""
    common: Common = field(default_factory=Common)
    computing: Computing = field(default_factory=Computing)
    engine: Engine = field(default_factory=Engine)

    def __post_init__(self) -> None:
        at_least(1, "n", self.n)
        for name in self.instruments:
            refuse_unknown("instruments", name, INSTRUMENTS)

    @property
    def names(self) -> list[str]:
        """The instruments that run, in the order of the registry."""
        return [name for name in INSTRUMENTS if not self.instruments or name in self.instruments]


def subjects(folder: Path) -> dict[str, str]:
    """The checkpoints that are examined by their names: the base, and every organism that passed its check.

    Args:
        folder: The directory of the organisms.

    Raises:
        UserError: where it is none, or no organism in it has passed.
    """
    config, summary, _ = read_run(folder)
    if kind_of(config, summary) != "organisms":
        raise UserError(f"{folder}: holds no organisms; python -m training.organisms makes them")
    passed = [name for name, numbers in summary["organisms"].items() if name != BASE and numbers["passed"]]
    if not passed:
        raise UserError(f"{folder}: no organism there has passed its check; its summary.json says why")
    return {BASE: summary["ckpt"], **{name: str(folder / name) for name in passed}}


def source() -> str:
    """The instrument whose run on the base has the questions and answers of all other runs."""
    return next((name for name, instrument in INSTRUMENTS.items() if instrument.needs_wrong_answers), "jsd")


def diagnosis_of(options: Examine, name: str, ckpt: str, instrument: str) -> Diagnose:
    """The diagnosis of one checkpoint by one instrument. All measure the questions and answers of the base.

    Each instrument has a run of its own, so that one that comes later needs no other to run again.

    Args:
        options: The command's options.
        name: What the checkpoint is called among the organisms.
        ckpt: The checkpoint.
        instrument: The instrument's name.
    """
    runs = options.folder / RUNS
    first = (name, instrument) == (BASE, source())
    diagnosis = composed(
        Diagnose,
        ckpt=ckpt,
        cases=None if first else runs / BASE / source(),
        data=str(options.folder / QUESTIONS),
        n=options.n,
    )
    return replace(
        diagnosis,
        output=Output(out=runs / name / instrument),
        common=options.common,
        computing=options.computing,
        engine=options.engine,
    )


def examined(options: Examine) -> Path:
    """Runs the instruments on every checkpoint and writes their tables; what is finished is not done again.

    Args:
        options: The command's options.

    Returns:
        The file of the tables.

    Raises:
        UserError: where the directory holds no organisms, and as a diagnosis does.
    """
    from interp.pipelines.diagnose import diagnosed

    checkpoints = subjects(options.folder)
    diagnosed(diagnosis_of(options, BASE, checkpoints[BASE], source()), [source()], "diagnose")
    runs: dict[str, list[Path]] = {}
    for name, ckpt in checkpoints.items():
        for instrument in options.names:
            print(f"{instrument} on {name}", flush=True)
            diagnosis = diagnosis_of(options, name, ckpt, instrument)
            runs.setdefault(name, []).append(diagnosed(diagnosis, [instrument], "diagnose"))
    from figures.organisms import SEEN, reported_seen

    if launched(options.computing.device).first:
        return reported_seen(options.folder, runs, options.names)
    return options.folder / f"{SEEN}.md"


def _body(options: Examine) -> None:
    print(examined(options))


if __name__ == "__main__":
    run_as_command(Examine, _body, description="Run every instrument on organisms: which sees what.")
