"""One checkpoint in one format with one set of shots, ready to be asked; and the cases that it is asked about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.check import engine_checked, readable
from interp.checkpoints import Checkpoint
from interp.elicitation import Generator
from interp.formats import ConfidenceFormat
from interp.prefix import SharedPrefix
from interp.prompts import Prompter, shot_set
from interp.readout import ConfidenceReader
from interp.records import Question

if TYPE_CHECKING:
    from interp.candidates import Source


@dataclass(frozen=True)
class Case:
    """A question that the model answers right, with the answers that are put to it."""

    question: Question
    """The question."""
    answer: str
    """The right answer: the model's own greedy one, or the user's response."""
    wrong: tuple[str, ...] = ()
    """Wrong answers sampled from the model, in the order in which they came; of multiple choice the other letters."""
    branched: tuple[str, ...] = ()
    """Wrong answers found by branching, likeliest first; some of them may have been sampled as well."""
    candidates: tuple[str, ...] = ()
    """Distinct answers of the model, right or wrong, for the divergence over all pairs."""
    sources: "tuple[Source, ...]" = ()
    """How each candidate came about."""


@dataclass(frozen=True, eq=False)
class Setting:
    """Everything that an instrument needs to measure a case."""

    checkpoint: Checkpoint
    """The model under study."""
    prompter: Prompter
    """Renders its prompts."""
    prefix: SharedPrefix
    """The model, having read what all prompts begin with."""
    reader: ConfidenceReader
    """Reads its confidence."""
    generator: Generator
    """Writes its answers."""
    pool: tuple[Question, ...] = ()
    """All questions of the data, from which other questions' answers are taken."""
    seed: int = 0
    """Where an instrument draws by chance."""


def prepared(
    checkpoint: Checkpoint,
    confidence: ConfidenceFormat,
    *,
    shots: int = 0,
    shot_seed: int = 0,
    choices: bool = False,
    template: str = "chat",
    template_args: dict[str, object] | None = None,
    pool: Sequence[Question] = (),
    seed: int = 0,
    batch_tokens: int = 2048,
    read_opening: bool = True,
    check_long: bool = False,
) -> Setting:
    """A setting whose model has read the opening of its prompts. shot_seed: which set of examples. check_long: the
    engine is checked on texts longer than the model's window.

    read_opening: False for training, where what was read before a step is worth nothing after it."""
    prompter = Prompter(
        checkpoint.tokenizer,
        confidence,
        shot_set(shots, confidence, seed=shot_seed, choices=choices),
        choices,
        template,
        template_args or {},
        checkpoint.context,
    )
    opening = prompter.opening if read_opening else ()
    with readable(checkpoint.model):
        prefix = SharedPrefix(checkpoint.model, opening, batch_tokens=batch_tokens)
    setting = Setting(
        checkpoint,
        prompter,
        prefix,
        ConfidenceReader(prefix, prompter, checkpoint.stops),
        Generator(prefix, prompter, checkpoint.stops, checkpoint.turn_ends),
        tuple(pool),
        seed,
    )
    if read_opening:
        engine_checked(setting, long=check_long)
    return setting
