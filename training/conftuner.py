"""`python -m training.conftuner`: ADVICE's strongest rival, the tokenized Brier score on a model's own answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from interp.cli.command import printing, run_as_command
from interp.errors import UserError
from interp.formats import FORMATS
from interp.models.embedded import EMBEDDED_NAME
from interp.options import Common, Computing, FormatNames, Output, Prompt, names_each_once, refuse_unknown
from interp.pipelines.diagnosis import Chosen
from interp.run.dryrun import DryRun
from training.recipes import (
    CONFTUNER_RECIPES,
    Around,
    Hyperparameters,
    refuse_untrainable,
    training_output,
    training_prompt,
)
from training.session import Task, session
from training.triplets import FORMATS_TRAINED, GradedAnswer, loaded_answers


@dataclass(frozen=True, kw_only=True)
class ConfTuner:
    """Train a ConfTuner adapter."""

    answers: Path
    """The file of answers that `python -m training.triplets` wrote beside its triplets."""
    ckpt: str = EMBEDDED_NAME
    """The model to train, or an ADVICE adapter on it: what is saved then is both in one."""
    train_formats: FormatNames = ()
    """The formats that the answers are trained in; by default both of the file, as ADVICE. ScorePercent is the scale of
    ConfTuner's own paper, 0 to 100."""
    recipe: Hyperparameters = field(default_factory=Hyperparameters)
    around: Around = field(default_factory=Around)
    instruments: Chosen = field(default_factory=Chosen)
    prompt: Prompt = field(default_factory=training_prompt)
    output: Output = field(default_factory=lambda: training_output("conftuner"))
    common: Common = field(default_factory=Common)
    computing: Computing = field(default_factory=Computing)

    def __post_init__(self) -> None:
        refuse_untrainable(self.common, self.computing, self.prompt)
        if self.train_formats:
            names_each_once("train-formats", self.train_formats)
            for name in self.train_formats:
                refuse_unknown("train-formats", name, FORMATS)


def in_formats(answers: Sequence[GradedAnswer], formats: Sequence[str]) -> list[GradedAnswer]:
    """Each graded answer once in each of the formats; an answer does not depend on the format of its confidence."""
    once = dict.fromkeys(replace(answer, format=formats[0]) for answer in answers)
    return [replace(answer, format=form) for form in formats for answer in once]


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
    answers = loaded_answers(options.answers)
    if options.train_formats:
        answers = in_formats(answers, options.train_formats)
    elif missing := [form for form in FORMATS_TRAINED if form not in {answer.format for answer in answers}]:
        raise UserError(f"--answers {options.answers}: none is in {', '.join(missing)}; training takes both formats")
    if len({answer.right for answer in answers}) < 2:
        raise UserError(f"--answers {options.answers}: all are {'right' if answers[0].right else 'wrong'}")

    from training.objectives import ConfTunerObjective

    task = Task("conftuner", CONFTUNER_RECIPES, answers, options.answers, ConfTunerObjective, on_adapters=True)
    return session(options, task, dry)


if __name__ == "__main__":
    run_as_command(ConfTuner, printing(trained), description="Train a ConfTuner adapter.")
