"""`python -m training.advice`: the contrastive LoRA fine-tuning that makes a stated confidence look at its answer."""

from dataclasses import dataclass, field
from pathlib import Path

from interp.cli.command import printing, run_as_command
from interp.errors import UserError
from interp.models.embedded import EMBEDDED_NAME
from interp.options import Common, Computing, Output, Prompt
from interp.pipelines.diagnosis import Chosen
from interp.run.dryrun import DryRun
from training.recipes import (
    ADVICE_RECIPES,
    Around,
    Hyperparameters,
    refuse_untrainable,
    training_output,
    training_prompt,
)
from training.session import Task, session
from training.triplets import FORMATS_TRAINED, loaded_triplets


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What each term of the objective counts; what is left out is the preset's."""

    lm: float | None = None
    """Weight of the negative log-likelihood of the right answer; 0 switches a term off."""
    lm_mean: bool = False
    """Take the mean over the answer's tokens, the end of its line among them, in place of their sum. The paper does not
    say which; trainers of language models mostly take the mean."""
    jsd: float | None = None
    """Weight of how far the two distributions are short of --jsd-wanted."""
    margin: float | None = None
    """Weight of how far the two means are short of lying --margin-wanted apart."""
    sum: float | None = None
    """Weight of how far the two means are from adding up to 1."""
    jsd_wanted: float | None = None
    """In nats; at most ln 2."""
    margin_wanted: float | None = None
    """On the scale of the levels' values; out of reach where those span less, as in ScoreLetter."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Train an ADVICE adapter."""

    triplets: Path
    """The file that `python -m training.triplets` wrote."""
    ckpt: str = EMBEDDED_NAME
    """The model to train: the embedded one, a directory, a .gguf file or a hub id (name@revision)."""
    terms: Terms = field(default_factory=Terms)
    recipe: Hyperparameters = field(default_factory=Hyperparameters)
    around: Around = field(default_factory=Around)
    instruments: Chosen = field(default_factory=Chosen)
    prompt: Prompt = field(default_factory=training_prompt)
    output: Output = field(default_factory=lambda: training_output("advice"))
    common: Common = field(default_factory=Common)
    computing: Computing = field(default_factory=Computing)

    def __post_init__(self) -> None:
        refuse_untrainable(self.common, self.computing, self.prompt)


def trained(options: Advice, dry: DryRun | None = None) -> Path:
    """Trains an ADVICE adapter; an unfinished run in the same directory is continued.

    Args:
        options: The command's options.
        dry: The dry run of the whole that this training is part of; by default the options say whether it is one.

    Returns:
        The adapter's directory.

    Raises:
        UserError: where the triplets lack a format; and as `session` does.
    """
    triplets = loaded_triplets(options.triplets)
    missing = [form for form in FORMATS_TRAINED if form not in {triplet.format for triplet in triplets}]
    if missing:
        raise UserError(f"--triplets {options.triplets}: none is in {', '.join(missing)}; training takes both formats")

    from training.objectives import AdviceObjective

    return session(options, Task("advice", ADVICE_RECIPES, triplets, options.triplets, AdviceObjective), dry)


if __name__ == "__main__":
    run_as_command(Advice, printing(trained), description="Train an ADVICE adapter.")
