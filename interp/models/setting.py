"""One checkpoint in one format with one set of shots, ready to be asked; and the cases that it is asked about."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from interp.formats import ConfidenceFormat
from interp.models.check import engine_checked, readable
from interp.models.checkpoints import Checkpoint
from interp.models.elicitation import Generator
from interp.models.prefix import SharedPrefix
from interp.models.prompts import PROBE, Prompter, Prompting, shot_set
from interp.models.readout import ConfidenceReader
from interp.plain import visible
from interp.records import Question, Source


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
    sources: tuple[Source, ...] = ()
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

    @property
    def turn_ends(self) -> tuple[int, ...]:
        """Token ids that end a turn."""
        return turn_ends(self.checkpoint, self.prompter)

    @property
    def stops(self) -> tuple[int, ...]:
        """Token ids that end a turn or a line."""
        return stops(self.checkpoint, self.prompter)


def turn_ends(checkpoint: Checkpoint, prompter: Prompter) -> tuple[int, ...]:
    """Token ids that end a turn: by the chat template, the generation configuration or the tokenizer."""
    size = checkpoint.model.config.get_text_config().vocab_size
    return tuple(sorted({*checkpoint.eos_ids, *(end for end in prompter.turn_ends if end < size)}))


def stops(checkpoint: Checkpoint, prompter: Prompter) -> tuple[int, ...]:
    """Token ids that end a turn or a line."""
    return tuple(sorted({*turn_ends(checkpoint, prompter), *checkpoint.line_ends}))


def prompter_for(
    checkpoint: Checkpoint,
    confidence: ConfidenceFormat,
    prompting: Prompting,
    *,
    shots: int = 0,
    shot_seed: int = 0,
    choices: bool = False,
) -> Prompter:
    """What renders a setting's prompts. shot_seed: which set of examples."""
    return Prompter(
        checkpoint.tokenizer,
        confidence,
        shot_set(shots, confidence, seed=shot_seed, choices=choices),
        choices,
        prompting.template,
        prompting.template_args,
        checkpoint.context,
        prompting.date,
    )


def notes(checkpoint: Checkpoint, prompter: Prompter) -> tuple[str, ...]:
    """What the user should know of a chat template and its ends of turns, a sentence each."""
    if prompter.template == "plain":
        return ()
    beyond = sorted({*prompter.turn_ends} - {*checkpoint.eos_ids})
    if not beyond:
        return prompter.chat.notes
    ours, theirs = (
        " and ".join(map(repr, checkpoint.tokenizer.convert_ids_to_tokens(ids))) or "nothing"
        for ids in (beyond, list(checkpoint.eos_ids))
    )
    said = f"{checkpoint.name}: its chat template ends turns with {ours}, its configuration with {theirs}; all count"
    return (*prompter.chat.notes, said)


@cache
def _say(note: str) -> None:
    """Once, by the first of several processes."""
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {visible(note)}", file=sys.stderr)


def prepared(
    checkpoint: Checkpoint,
    confidence: ConfidenceFormat,
    *,
    shots: int = 0,
    shot_seed: int = 0,
    choices: bool = False,
    prompting: Prompting | None = None,
    pool: Sequence[Question] = (),
    seed: int = 0,
    batch_tokens: int = 2048,
    read_shared_prefix: bool = True,
    check_long: bool = False,
) -> Setting:
    """A setting whose model has read the shared prefix of its prompts. shot_seed: which set of examples. check_long: it
    is checked on texts longer than the model's window.

    read_opening: False for training, where what was read before a step is worth nothing after it."""
    prompting = prompting or Prompting()
    prompter = prompter_for(checkpoint, confidence, prompting, shots=shots, shot_seed=shot_seed, choices=choices)
    for note in notes(checkpoint, prompter):
        _say(note)
    shared_prefix, ends = prompter.shared_prefix if read_shared_prefix else (), stops(checkpoint, prompter)
    with readable(checkpoint.model):
        prefix = SharedPrefix(checkpoint.model, shared_prefix, batch_tokens=batch_tokens)
    reader = ConfidenceReader(prefix, prompter, ends, prompting.levels)
    reader.levels_of(prompter.transcript(PROBE, "x"))  # what cannot be told apart is said before anything is measured
    setting = Setting(
        checkpoint,
        prompter,
        prefix,
        reader,
        Generator(
            prefix,
            prompter,
            ends,
            turn_ends(checkpoint, prompter),
            checkpoint.eos_ids,
            reply_tokens=prompting.reply_tokens,
        ),
        tuple(pool),
        seed,
    )
    if read_shared_prefix:
        engine_checked(setting, long=check_long)
    return setting
