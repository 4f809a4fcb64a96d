"""`python -m training.ablation`: ADVICE with some of its terms switched off, the seven rows of the paper's grid."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from interp.cli.command import drawing, run_as_command
from interp.models.embedded import EMBEDDED_NAME
from interp.options import Common, Computing, Output, Prompt, Tested, changed, dry_run_of, identity_of
from interp.pipelines.evaluate import evaluated
from interp.pipelines.evaluation import Evaluate
from interp.run.dryrun import DryRun
from interp.run.processes import launched
from interp.run.runs import Record, Run, read_run
from training.advice import Advice, Terms, trained
from training.recipes import Around, Hyperparameters, refuse_untrainable, training_output, training_prompt
from training.session import MACHINE_ONLY

ROWS: dict[str, tuple[str, ...]] = {
    "lm": ("jsd", "margin", "sum"),
    "lm_jsd": ("margin", "sum"),
    "lm_margin": ("jsd", "sum"),
    "lm_sum": ("jsd", "margin"),
    "lm_jsd_margin": ("sum",),
    "lm_jsd_sum": ("margin",),
    "all": (),
}
"""The terms that each row switches off; the others have the recipe's weights."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Train and evaluate the ablation grid."""

    triplets: Path
    """The file that `python -m training.triplets` wrote."""
    ckpt: str = EMBEDDED_NAME
    """The model to train: the embedded one, a directory, a .gguf file or a hub id (name@revision)."""
    tested: Tested = field(default_factory=lambda: Tested(data=("facts:test",), formats=("ScoreLetter", "ScoreNumber")))
    terms: Terms = field(default_factory=Terms)
    recipe: Hyperparameters = field(default_factory=lambda: Hyperparameters(updates=50))
    prompt: Prompt = field(default_factory=training_prompt)
    output: Output = field(default_factory=lambda: training_output("ablation"))
    common: Common = field(default_factory=Common)
    computing: Computing = field(default_factory=Computing)

    def __post_init__(self) -> None:
        refuse_untrainable(self.common, self.computing, self.prompt)

    @property
    def folder(self) -> Path:
        """Where the rows go, each an adapter of its own."""
        return self.output.out or Path("runs/ablation")

    def row(self, name: str) -> Advice:
        """The training of one row."""
        return Advice(
            triplets=self.triplets,
            ckpt=self.ckpt,
            terms=changed(self.terms, **dict.fromkeys(ROWS[name], 0.0)),
            recipe=self.recipe,
            around=Around(diagnose=0),
            prompt=self.prompt,
            output=replace(self.output, out=self.folder / name),
            common=self.common,
            computing=self.computing,
        )


def ablated(options: Ablation, dry: DryRun | None = None) -> Path:
    """Trains and evaluates every row; an unfinished grid in the same directory is continued.

    Args:
        options: The command's options.
        dry: The dry run to measure for; by default the options say whether it is one.

    Returns:
        The grid's directory.

    Raises:
        UserError: as the trainings and the evaluation do.
    """
    dry = dry or dry_run_of(options)
    rows = {name: options.folder / name for name in ROWS}
    evaluation = Evaluate(
        ckpt=(options.ckpt, *map(str, rows.values())),
        tested=options.tested,
        prompt=Prompt(shots=options.prompt.shots),
        output=Output(out=options.folder / "calibration"),
        common=options.common,
        computing=Computing(device=options.computing.device),
    )
    processes = launched(options.computing.device)
    with Run(options.folder, identity_of(options, MACHINE_ONLY), processes, dry, kind="ablation") as run:
        if dry:
            _foreseen(options, evaluation, dry)
            return options.folder
        for name in ROWS:
            trained(options.row(name))
        evaluated_in = evaluated(evaluation)
        last_points = {name: read_run(folder)[1]["training"]["curve"][-1] for name, folder in rows.items()}
        run.write_summary({"ablation": last_points, **_calibration(evaluated_in)})
    return options.folder


def _foreseen(options: Ablation, evaluation: Evaluate, dry: DryRun) -> None:
    """Measures one training and one evaluation for a dry run; the others are assumed to take as long."""
    for ckpt in evaluation.ckpt[1:]:
        Path(ckpt).mkdir(exist_ok=True)  # so that this evaluation names it as the real one will, by its directory
    with dry.within("", len(ROWS)):
        trained(options.row(next(iter(ROWS))), dry)
    dry.disk = {content: size * (len(ROWS) if "adapter" in content else 1) for content, size in dry.disk.items()}
    evaluated(evaluation, dry, to_come=evaluation.ckpt[1:])


def _calibration(folder: Path) -> Record:
    summary = read_run(folder)[1]
    return {"base": next(iter(summary["calibration"])), "calibration": summary["calibration"]}


if __name__ == "__main__":
    run_as_command(
        Ablation, drawing(ablated), description="Train and evaluate ADVICE with some of its terms switched off."
    )
