"""`python -m training.ablation`: ADVICE with some of its terms switched off, the seven rows of the paper's grid."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import tyro

from interp.cli.command import run_as_command
from interp.formats import FormatName
from interp.options import at_least
from interp.pipelines.diagnose import InstrumentName
from interp.pipelines.evaluate import Evaluate, evaluated
from interp.run.dryrun import DryRun, dry_run_of
from interp.run.processes import launched
from interp.run.runs import Record, Run, read_run
from training.advice import Advice, trained

ROWS: dict[str, tuple[str, ...]] = {
    "lm": ("jsd", "margin", "sum"),
    "lm_jsd": ("margin", "sum"),
    "lm_margin": ("jsd", "sum"),
    "lm_sum": ("jsd", "margin"),
    "lm_jsd_margin": ("sum",),
    "lm_jsd_sum": ("margin",),
    "all": (),
}
"""The terms that each row switches off; the others count what the recipe gives them."""


@dataclass(frozen=True, kw_only=True)
class Ablation(Advice):
    """Train and evaluate the ablation grid."""

    out: Path = Path("runs/ablation")
    """Where the rows go, each an adapter of its own. An unfinished grid there is continued."""
    updates: int | None = 50
    """Updates of each row."""
    diagnose: tyro.conf.Suppress[int] = 0
    diagnose_data: tyro.conf.Suppress[str] = "facts:test"
    leave_out: tyro.conf.Suppress[tuple[InstrumentName, ...]] = ()
    data: tuple[str, ...] = ("facts:test",)
    """What the rows are evaluated on; training must not have seen it."""
    n: int = 200
    """How many questions of each data set."""
    formats: tuple[FormatName, ...] = ("ScoreLetter", "ScoreNumber")
    """The formats that they are asked in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, "n", self.n)

    def row(self, name: str) -> Advice:
        """The training of one row."""
        shared = {one.name: getattr(self, one.name) for one in fields(Advice)}
        return Advice(**shared | dict.fromkeys(ROWS[name], 0.0) | {"out": self.out / name, "diagnose": 0})


MACHINE_ONLY = ("out", "device", "trust_remote_code", "report_to", "leave_out", "dry_run")
"""Options that may change while a grid is continued."""


def ablated(options: Ablation, dry: DryRun | None = None) -> Path:
    """Trains and evaluates every row, or what an earlier run has left, and returns the grid's directory."""
    dry = dry or dry_run_of(options)
    kept = {name: value for name, value in asdict(options).items() if name not in MACHINE_ONLY}
    rows = {name: options.row(name).out for name in ROWS}
    evaluation = Evaluate(
        ckpt=(options.ckpt, *map(str, rows.values())),
        data=options.data,
        formats=options.formats,
        n=options.n,
        shots=options.shots,
        seed=options.seed,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
        out=options.out / "calibration",
    )
    with Run(options.out, kept | {"triplets": str(options.triplets)}, launched(options.device), dry) as run:
        if dry:
            _foreseen(options, evaluation, dry)
            return options.out
        for name in ROWS:
            trained(options.row(name))
        found = evaluated(evaluation)
        last = {name: read_run(folder)[1]["training"]["curve"][-1] for name, folder in rows.items()}
        run.write_summary({"ablation": last, **_calibration(found)})
    return options.out


def _foreseen(options: Ablation, evaluation: Evaluate, dry: DryRun) -> None:
    """Measures what a dry run has to: a training and an evaluation, to which the others are taken to be alike."""
    for ckpt in evaluation.ckpt[1:]:
        Path(ckpt).mkdir(exist_ok=True)  # as a directory it is called in the evaluation what it will be called there
    with dry.within("", len(ROWS)):
        trained(options.row(next(iter(ROWS))), dry)
    dry.disk = {what: held * (len(ROWS) if "adapter" in what else 1) for what, held in dry.disk.items()}
    evaluated(evaluation, dry, to_come=evaluation.ckpt[1:])


def _calibration(folder: Path) -> Record:
    summary = read_run(folder)[1]
    return {"base": next(iter(summary["calibration"])), "calibration": summary["calibration"]}


def _body(options: Ablation) -> None:
    dry = dry_run_of(options)
    folder = ablated(options, dry)
    if launched(options.device).first:
        from figures.report import reported

        reported(folder, dry=dry)


if __name__ == "__main__":
    run_as_command(Ablation, _body, description="Train and evaluate ADVICE with some of its terms switched off.")
