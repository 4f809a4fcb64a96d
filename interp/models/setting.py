"""One checkpoint in one confidence format with one instruction and set of examples, ready to be asked; and the cases.

Instruments take a `Setting` and cases. The module knows nothing of instruments, records on disk and figures."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from interp.errors import UserError
from interp.formats import ConfidenceFormat
from interp.models.check import EngineCheck, engine_checked, readable
from interp.models.checkpoints import Checkpoint
from interp.models.elicitation import Generator
from interp.models.prefix import SharedPrefix
from interp.models.prompts import PROBE, Prompter, Prompting
from interp.models.readout import ConfidenceReader
from interp.models.residual import Steering
from interp.models.shots import shot_set
from interp.plain import visible
from interp.records import Question, Source


@dataclass(frozen=True)
class Case:
    """A question with the answers whose confidence the model is asked for."""

    question: Question
    """The question that is asked."""
    answer: str
    """The model's own greedy answer, or the user's response; right unless `right` says otherwise."""
    wrong: tuple[str, ...] = ()
    """Wrong answers sampled from the model, in the order of sampling; for multiple choice, the other letters."""
    branched: tuple[str, ...] = ()
    """Wrong answers found by branching, likeliest first; some may have been sampled as well."""
    candidates: tuple[str, ...] = ()
    """Distinct answers of the model, right or wrong, between all pairs of which the divergence is measured."""
    sources: tuple[Source, ...] = ()
    """The source of each candidate, in their order."""
    right: bool = True
    """Whether it is right; instruments of all answers have cases in which it is not."""


@dataclass(frozen=True, eq=False)
class Setting:
    """Everything that an instrument needs to measure a case."""

    checkpoint: Checkpoint
    """The model under study."""
    prompter: Prompter
    """Renders the model's prompts."""
    prefix: SharedPrefix
    """The model after it has read the shared prefix of all prompts."""
    reader: ConfidenceReader
    """Reads the model's confidence."""
    generator: Generator
    """Generates the model's answers."""
    pool: tuple[Question, ...] = ()
    """All questions of the data: the source of answers to other questions."""
    seed: int = 0
    """The seed of everything that an instrument draws by chance."""
    filler: int | None = None
    """The token that stands in for the pad token among replacements; None: the tokenizer's own, where it has one."""
    check: EngineCheck | None = None
    """How far the engine agrees with the model's own pass; None for training, which does not check it."""

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


def named_token(checkpoint: Checkpoint, name: str) -> int:
    """The token that is named to stand in for the pad token.

    It may mean something else as well, such as the end of the text: the user has chosen it.

    Args:
        checkpoint: the model with its vocabulary.
        name: the token as the vocabulary writes it, such as `<|finetune_right_pad_id|>`.

    Returns:
        Its id.

    Raises:
        UserError: where the vocabulary has no such token, or the model no embedding for it.
    """
    token: int | None = checkpoint.tokenizer.get_vocab().get(name)
    if token is None:
        raise UserError(f"--filler {name}: the vocabulary of {checkpoint.name} has no such token")
    if token >= (size := checkpoint.model.config.get_text_config().vocab_size):
        raise UserError(f"--filler {name}: token {token} has no embedding in {checkpoint.name}, which has {size}")
    return token


def prompter_for(
    checkpoint: Checkpoint,
    confidence: ConfidenceFormat,
    prompting: Prompting,
    *,
    shots: int = 0,
    shot_seed: int = 0,
    choices: bool = False,
) -> Prompter:
    """The prompter of a setting.

    Args:
        checkpoint: the model, of which tokenizer and context are used.
        confidence: the confidence format.
        prompting: template, its arguments and date, and the wording of the instruction.
        shots: how many worked examples.
        shot_seed: decides which set of worked examples is drawn.
        choices: whether the questions are multiple choice.

    Raises:
        UserError: where there are fewer worked examples, or the tokenizer has no offsets or no chat template.
    """
    return Prompter(
        checkpoint.tokenizer,
        confidence,
        shot_set(shots, confidence, seed=shot_seed, choices=choices),
        choices,
        prompting.template,
        prompting.template_args,
        checkpoint.context,
        prompting.date,
        prompting.wording,
    )


def notes(checkpoint: Checkpoint, prompter: Prompter) -> tuple[str, ...]:
    """What the user should know about the chat template and the tokens that end turns, a sentence each."""
    if prompter.template == "plain":
        return ()
    template_only = sorted({*prompter.turn_ends} - {*checkpoint.eos_ids})
    if not template_only:
        return prompter.chat.notes
    by_template, by_config = (
        " and ".join(map(repr, checkpoint.tokenizer.convert_ids_to_tokens(ids))) or "nothing"
        for ids in (template_only, list(checkpoint.eos_ids))
    )
    note = (
        f"{checkpoint.name}: its chat template ends turns with {by_template}, "
        f"its configuration with {by_config}; all count"
    )
    return (*prompter.chat.notes, note)


@cache
def _say(note: str) -> None:
    """Prints a note once; of several processes the first one prints it."""
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
    check: EngineCheck | None = None,
    steering: Steering | None = None,
) -> Setting:
    """A setting whose model has read the shared prefix of its prompts.

    Args:
        checkpoint: the model under study.
        confidence: the confidence format.
        shots: how many worked examples a prompt holds.
        shot_seed: decides which set of worked examples is drawn.
        choices: whether the questions are multiple choice.
        prompting: template, wording of the instruction and reading of the levels; by default `Prompting()`.
        pool: all questions of the data; see `Setting.pool`.
        seed: the seed of everything that an instrument draws by chance.
        batch_tokens: the most tokens in a batch.
        read_shared_prefix: False for training, where a step invalidates what was read before it. The check of the
            engine is then left out as well.
        check_long: whether the check uses texts longer than the model's window.
        check: of another setting of this checkpoint, which is then not made again.
        steering: what is added to the residual stream wherever a confidence is read; the check is made without it.

    Raises:
        UserError: where the prompts cannot be rendered, two levels cannot be told apart, or the check fails.
    """
    prompting = prompting or Prompting()
    prompter = prompter_for(checkpoint, confidence, prompting, shots=shots, shot_seed=shot_seed, choices=choices)
    for note in notes(checkpoint, prompter):
        _say(note)
    shared_prefix = prompter.shared_prefix if read_shared_prefix else ()
    setting = _unchecked(checkpoint, prompter, prompting, shared_prefix, batch_tokens)
    setting = replace(setting, pool=tuple(pool), seed=seed)
    if not read_shared_prefix:
        return setting
    reader = ConfidenceReader(setting.prefix, prompter, setting.stops, prompting.levels, steering)
    return replace(setting, check=check or engine_checked(setting, long=check_long), reader=reader)


def _unchecked(
    checkpoint: Checkpoint, prompter: Prompter, prompting: Prompting, shared_prefix: Sequence[int], batch_tokens: int
) -> Setting:
    """A setting whose model has read a shared prefix; whether the engine agrees with the model is not known yet.

    Raises:
        UserError: where the architecture cannot be read with a shared prefix, or two levels cannot be told apart.
    """
    ends = stops(checkpoint, prompter)
    with readable(checkpoint.model):
        prefix = SharedPrefix(checkpoint.model, shared_prefix, batch_tokens=batch_tokens)
    reader = ConfidenceReader(prefix, prompter, ends, prompting.levels)
    reader.levels_of(prompter.transcript(PROBE, "x"))  # refuses indistinguishable levels before anything is measured
    generator = Generator(
        prefix,
        prompter,
        ends,
        turn_ends(checkpoint, prompter),
        checkpoint.eos_ids,
        reply_tokens=prompting.reply_tokens,
    )
    return Setting(checkpoint, prompter, prefix, reader, generator)
