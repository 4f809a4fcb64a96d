"""`python -m training.advice`: the contrastive LoRA fine-tuning that makes a stated confidence look at its answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from interp.cli.command import printing, run_as_command
from interp.models.embedded import EMBEDDED_NAME
from interp.options import Common, Computing, Output, Prompt
from interp.pipelines.diagnosis import Chosen
from interp.run.dryrun import DryRun
from training.recipes import (
    ADVICE_RECIPES,
    AdviceRecipe,
    Around,
    Hyperparameters,
    InFormats,
    refuse_untrainable,
    training_output,
    training_prompt,
)
from training.session import Task, session
from training.triplets import Triplet, in_formats, loaded_triplets


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
    invariance: float | None = None
    """Weight of the divergence between the confidences after an answer and after a surface-form variant of it (letter
    case, quotation marks); it reads twice as many answers."""


@dataclass(frozen=True, kw_only=True)
class Contrasts:
    """Which answers are set against each other; what is left out is the preset's."""

    variants: float | None = None
    """The share of answers, right and wrong alike, that are written in another letter case or in quotation marks."""
    same_relation: float | None = None
    """The share of wrong answers that are right answers to other questions of the relation."""
    greedy_wrong_share: float | None = None
    """The share of triplets whose wrong answer is the model's likeliest one (--greedy-wrong of training.triplets)."""
    equal_length: bool | None = None
    """Take the wrong answers that are nearest to the right one in number of tokens."""
    margin_from: float | None = None
    """The margin wanted at first, from which it grows evenly to --margin-wanted."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Train an ADVICE adapter."""

    triplets: Path
    """The file that `python -m training.triplets` wrote."""
    ckpt: str = EMBEDDED_NAME
    """The model to train: the embedded one, a directory, a .gguf file or a hub id (name@revision)."""
    in_formats: InFormats = field(default_factory=InFormats)
    terms: Terms = field(default_factory=Terms)
    contrasts: Contrasts = field(default_factory=Contrasts)
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
    where, formats = f"--triplets {options.triplets}", options.in_formats.train_formats
    triplets = in_formats(loaded_triplets(options.triplets), formats, where)

    from training.contrasts import in_proportion, with_distractors
    from training.objectives import AdviceObjective

    seed = options.common.seed

    def arranged(examples: Sequence[Triplet], recipe: AdviceRecipe) -> list[Triplet]:
        return in_proportion(examples, lambda triplet: triplet.greedy_wrong, recipe.greedy_wrong_share, seed)

    examples = with_distractors(triplets, seed)
    return session(options, Task("advice", ADVICE_RECIPES, examples, options.triplets, AdviceObjective, arranged), dry)


if __name__ == "__main__":
    run_as_command(Advice, printing(trained), description="Train an ADVICE adapter.")
