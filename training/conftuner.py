"""`python -m training.conftuner`: ADVICE's strongest rival, the tokenized Brier score on a model's own answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from interp.cli.command import printing, run_as_command
from interp.errors import UserError
from interp.models.embedded import EMBEDDED_NAME
from interp.options import Common, Computing, Output, Prompt
from interp.pipelines.diagnosis import Chosen
from interp.run.dryrun import DryRun
from training.recipes import (
    CONFTUNER_RECIPES,
    Around,
    ConfTunerRecipe,
    Hyperparameters,
    InFormats,
    refuse_untrainable,
    training_output,
    training_prompt,
)
from training.session import Task, session
from training.triplets import GradedAnswer, in_formats, loaded_answers


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What ConfTuner's own paper has not; what is left out is the preset's."""

    likelihood: float | None = None
    """Weight of the negative log-likelihood of right answers, the mean over their tokens."""
    balanced: bool | None = None
    """Train on as many right as wrong answers; the rarer ones are repeated."""


@dataclass(frozen=True, kw_only=True)
class ConfTuner:
    """Train a ConfTuner adapter."""

    answers: Path
    """The file of answers that `python -m training.triplets` wrote beside its triplets."""
    ckpt: str = EMBEDDED_NAME
    """The model to train, or an ADVICE adapter on it: what is saved then is both in one."""
    in_formats: InFormats = field(default_factory=InFormats)
    beside: Beside = field(default_factory=Beside)
    recipe: Hyperparameters = field(default_factory=Hyperparameters)
    around: Around = field(default_factory=Around)
    instruments: Chosen = field(default_factory=Chosen)
    prompt: Prompt = field(default_factory=training_prompt)
    output: Output = field(default_factory=lambda: training_output("conftuner"))
    common: Common = field(default_factory=Common)
    computing: Computing = field(default_factory=Computing)

    def __post_init__(self) -> None:
        refuse_untrainable(self.common, self.computing, self.prompt)


def trained(options: ConfTuner, dry: DryRun | None = None) -> Path:
    """Trains a ConfTuner adapter; an unfinished run in the same directory is continued.

    Args:
        options: The command's options.
        dry: The dry run of the whole that this training is part of; by default the options say whether it is one.

    Returns:
        The adapter's directory.

    Raises:
        UserError: where the answers lack a format, or are all right or all wrong; and as `session` does.
    """
    answers = in_formats(
        loaded_answers(options.answers), options.in_formats.train_formats, f"--answers {options.answers}"
    )
    if len({answer.right for answer in answers}) < 2:
        raise UserError(f"--answers {options.answers}: all are {'right' if answers[0].right else 'wrong'}")

    from training.contrasts import in_proportion
    from training.objectives import ConfTunerObjective

    def arranged(examples: Sequence[GradedAnswer], recipe: ConfTunerRecipe) -> list[GradedAnswer]:
        rarer = 2 * sum(example.right for example in examples) < len(examples)  # whether right answers are
        share = 0.5 if recipe.balanced else None
        return in_proportion(examples, lambda example: example.right == rarer, share, options.common.seed)

    task = Task(
        "conftuner", CONFTUNER_RECIPES, answers, options.answers, ConfTunerObjective, arranged, on_adapters=True
    )
    return session(options, task, dry)


if __name__ == "__main__":
    run_as_command(ConfTuner, printing(trained), description="Train a ConfTuner adapter.")
