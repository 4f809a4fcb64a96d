"""`python -m training.ablation`: ADVICE with some of its terms switched off, the seven rows of the paper's grid."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import tyro

from interp.commands import at_least, run_as_command
from interp.diagnose import InstrumentName
from interp.evaluate import Evaluate, evaluated
from interp.formats import FormatName
from interp.processes import launched
from interp.runs import Record, Run, read_run
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


def ablated(options: Ablation) -> Path:
    """Trains and evaluates every row, or what an earlier run has left, and returns the grid's directory."""
    machine_only = ("out", "device", "trust_remote_code", "report_to", "leave_out")
    kept = {k: v for k, v in asdict(options).items() if k not in machine_only}
    with Run(options.out, kept | {"triplets": str(options.triplets)}, launched(options.device)) as run:
        rows = {name: trained(options.row(name)) for name in ROWS}
        found = evaluated(
            Evaluate(
                ckpt=(options.ckpt, *(str(folder) for folder in rows.values())),
                data=options.data,
                formats=options.formats,
                n=options.n,
                shots=options.shots,
                seed=options.seed,
                device=options.device,
                trust_remote_code=options.trust_remote_code,
                out=options.out / "calibration",
            )
        )
        last = {name: read_run(folder)[1]["training"]["curve"][-1] for name, folder in rows.items()}
        run.write_summary({"ablation": last, **_calibration(found)})
    return options.out


def _calibration(folder: Path) -> Record:
    summary = read_run(folder)[1]
    return {"base": next(iter(summary["calibration"])), "calibration": summary["calibration"]}


def _body(options: Ablation) -> None:
    folder = ablated(options)
    if launched(options.device).first:
        from figures.training import reported_ablation

        reported_ablation(folder)


if __name__ == "__main__":
    run_as_command(Ablation, _body, description="Train and evaluate ADVICE with some of its terms switched off.")
