"""The check at the start: does the engine read this model as the model's own forward pass does?

Two answers to one long question are read as branches of one tree, and one of them again with attention to the answer
knocked out. The model reads the same texts one by one, from the first token on. The difference allowed between the two
follows from the model's own noise: how much it differs when the same texts are read as one padded batch, or in two
halves. The check knows one made-up question. It must not know about data sets or instruments."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from interp.errors import UserError, ran_out_of_memory
from interp.models.checkpoints import Checkpoint
from interp.models.head import NextToken, following, hidden_kept, refuse_unlike_head
from interp.models.prefix import SharedPrefix
from interp.models.prompts import Prompter
from interp.models.readout import ConfidenceReader
from interp.models.tree import TokenTree, common_length
from interp.plain import reason
from interp.records import Question, Transcript

REACH = 512
"""About how many tokens the texts have, where the model's context is long enough."""
BEYOND = 64
"""How many tokens the texts have beyond the widest window with --check long."""
ANSWERS = ("Yes", "Nobody can tell")
FILLING = "Nothing in this passage has to do with the question that follows it. "
NOISES = 3
"""The engine may be off by so many times the model's own noise."""
LEAST = {torch.float32: 1e-4, torch.float64: 1e-4}
"""By how much the engine may be off in any case, in probability: kernels sum in another order, and two passes that
happen to be alike show no noise."""
LEAST_HALF = 0.05
"""The same in half precision."""


@runtime_checkable
class CheckedSetting(Protocol):
    """The parts of a setting that the check compares: the model, and what reads it with a shared prefix."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The model under study."""

    @property
    def prompter(self) -> Prompter:
        """Renders the model's prompts."""

    @property
    def prefix(self) -> SharedPrefix:
        """The model after it has read the shared prefix of all prompts."""

    @property
    def reader(self) -> ConfidenceReader:
        """Reads the model's confidence."""


@dataclass(frozen=True)
class EngineCheck:
    """The result of the check."""

    tokens: int
    """How many tokens the longest text had."""
    window: int | None
    """The widest sliding window of a layer; None where all layers see everything."""
    difference: float
    """The largest difference of a level's probability between the engine and the model's own pass."""
    noise: float
    """The largest difference between the model's own passes: a text alone, in a batch, in two halves."""
    allowed: float
    """The largest difference that passes."""

    @property
    def beyond(self) -> bool:
        """Whether the texts were longer than every layer's window."""
        return self.window is None or self.tokens > self.window

    @property
    def sentence(self) -> str:
        """What was compared, in words."""
        text = (
            f"the engine reads as the model does: level probabilities to {self.difference:.1g} on {self.tokens} tokens"
        )
        text += f" (the model's own noise is {self.noise:.1g}, {self.allowed:.1g} is allowed)"
        if not self.beyond:
            text += f"; its window of {self.window} tokens was not reached, --check long does"
        return text


def engine_checked(setting: CheckedSetting, *, long: bool = False) -> EngineCheck:
    """The check of the setting's checkpoint: the engine is the same for all formats and questions.

    Args:
        setting: The checkpoint with its prompts and readers.
        long: The texts must be longer than the checkpoint's widest window.

    Returns:
        The result, which the first process also prints.

    Raises:
        UserError: where the engine differs by more than the model's own noise allows.
    """
    checkpoint = setting.checkpoint
    window = max((width or 0 for width in setting.prefix.windows.values()), default=0)
    with readable(checkpoint.model):
        result = _within_memory(setting, window, max(REACH, window + BEYOND) if long else REACH)
    if not result.difference <= result.allowed:  # so written, NaN is refused as well
        raise UserError(
            f"{type(checkpoint.model).__name__}: level probabilities read with a shared prefix are off by "
            f"{result.difference:.3g} on {result.tokens} tokens, {result.allowed:.3g} is allowed"
        )
    if os.environ.get("RANK", "0") == "0":
        print(result.sentence, file=sys.stderr)
    return result


@contextmanager
def readable(model: torch.nn.Module) -> Iterator[None]:
    """While open, an exception from the model's code becomes one sentence: the engine cannot read this architecture.

    Raises:
        UserError: in place of these exceptions; running out of memory passes as it is.
    """
    try:
        yield
    except (TypeError, ValueError, AttributeError, RuntimeError, LookupError) as error:
        if ran_out_of_memory(error):
            raise
        raise UserError(f"{type(model).__name__} cannot be read with a shared prefix: {reason(error)}") from error


def _within_memory(setting: CheckedSetting, window: int, reach: int) -> EngineCheck:
    """The comparison on texts of `reach` tokens, or on shorter ones where memory runs out."""
    try:
        return _compared(setting, window, reach)
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error) or reach <= BEYOND:
            raise
    return _within_memory(setting, window, reach // 2)


def _compared(setting: CheckedSetting, window: int, reach: int) -> EngineCheck:
    """The comparison on texts of about `reach` tokens; window: the widest one, 0 for none."""
    model = setting.checkpoint.model
    first, second = _texts(setting, reach)
    refuse_unlike_head(model, torch.tensor([first.ids[:BEYOND]], device=model.device))
    with torch.no_grad():
        # rows [levels + 1]: the first text, the second one, the first one without attention to its answer
        engine = _by_engine(setting, first, second)
        knocked_out = _by_model(setting, [first], first.positions("answer"))
        alone = torch.cat([_by_model(setting, [first]), _by_model(setting, [second]), knocked_out])
        # the first two rows again, and the first row again
        repeats = [_by_model(setting, [first, second]), _by_model(setting, [first], halves=True)]
    noise = max((repeat - alone[: len(repeat)]).abs().max().item() for repeat in repeats)
    difference = (engine - alone).abs().max().item()
    allowed = max(NOISES * noise, LEAST.get(model.dtype, LEAST_HALF))
    return EngineCheck(max(len(text.ids) for text in (first, second)), window or None, difference, noise, allowed)


def _texts(setting: CheckedSetting, tokens: int) -> tuple[Transcript, Transcript]:
    """The same question with two answers, about so many tokens long or a little less than the model's context."""
    prompter = setting.prompter
    # the levels' tokens still come after the texts
    most_tokens = min(tokens, prompter.max_length - BEYOND if prompter.max_length else tokens)

    def asked(sentences: int) -> Question:
        choices = ("Yes", "No", "Perhaps", "Never") if prompter.choices else ()
        return Question("check", "Is this a question?", ("Yes",), choices, FILLING * sentences)

    without_filling = len(prompter.transcript(asked(0), ANSWERS[1]).ids)
    tokens_per_sentence = (len(prompter.transcript(asked(2), ANSWERS[1]).ids) - without_filling) / 2
    question = asked(max(0, int((most_tokens - without_filling) / tokens_per_sentence)))
    first, second = (prompter.transcript(question, answer) for answer in ANSWERS)
    return first, second


@dataclass(frozen=True)
class _Level:
    """The tokens by which the levels are told apart after one text."""

    lowest: tuple[int, ...]
    """The lowest level's tokens."""
    shared: int
    """How many tokens all levels have in common at their beginning (a blank, in some vocabularies)."""
    parting: Tensor
    """The token of each level after these, [levels]."""


def _levels(setting: CheckedSetting, text: Transcript) -> _Level:
    suffixes = setting.prompter.level_suffixes(text)
    shared = min(common_length(suffixes), min(map(len, suffixes)) - 1)  # leaves each level a token
    device = setting.checkpoint.model.device
    return _Level(suffixes[0], shared, torch.tensor([suffix[shared] for suffix in suffixes], device=device))


def _probabilities(setting: CheckedSetting, levels: _Level, after: NextToken, parting: int, last: int) -> Tensor:
    """The probability of each level's parting token among these tokens, and of the end after the lowest level.

    parting, last: the places, among the nodes read, after which the parting tokens and the end come. [levels + 1]."""
    reads = torch.tensor([parting] * len(levels.parting) + [last], device=after.hidden.device)
    steps = after.logprobs(reads[:-1], levels.parting).softmax(-1)  # renormalised over the levels, as distributions are
    return torch.cat([steps, after.logprobs_of_any(reads[-1:], setting.reader.stops).exp()])


def _by_engine(setting: CheckedSetting, first: Transcript, second: Transcript) -> Tensor:
    """Both texts as branches of one tree, then the first one with attention to its answer knocked out.

    Gives [3, levels + 1], as `_probabilities`. The trees below the tokens that both texts begin with:

        both:   -+- first answer ...  lowest level
                 +- second answer ... lowest level
        alone:  --- first answer ...  lowest level     (the nodes after the answer do not see it)
    """
    levels, prefix = _levels(setting, first), setting.prefix
    length = prefix.shared_length([first.ids, second.ids])
    both, alone = TokenTree(), TokenTree()
    reads: list[list[int]] = [[], []]
    for tree, text, read in ((both, first, reads[0]), (both, second, reads[0]), (alone, first, reads[1])):
        path = tree.insert(text.ids[length:])
        path += tree.insert(levels.lowest, path[-1])
        # the node before the parting token of the lowest level, and the level's last node
        read += [path[levels.shared - len(levels.lowest) - 1], path[-1]]
    answer = [position - length for position in first.positions("answer")]  # `alone` is a path: node = place in it
    alone.knockouts.append((tuple(range(answer[-1] + 1, len(alone.tokens))), tuple(answer)))
    predictions = dict(prefix.logits(length, [both, alone], reads))
    rows = [
        _probabilities(setting, levels, predictions[tree], parting, parting + 1)
        for tree, parting in ((0, 0), (0, 2), (1, 0))
    ]
    return torch.stack(rows)


def _by_model(
    setting: CheckedSetting, texts: Sequence[Transcript], hidden: Sequence[int] = (), *, halves: bool = False
) -> Tensor:
    """`_probabilities` by the model's own forward pass over whole texts, padded on the right, [texts, levels + 1].

    hidden: positions that no token sees. halves: the second half of each text is read on the model's own cache of the
    first half."""
    levels, device = _levels(setting, texts[0]), setting.checkpoint.model.device
    whole = [(*text.ids, *levels.lowest) for text in texts]
    width = max(map(len, whole))
    # ids, seen, positions: [texts, width]
    ids = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens in whole], device=device)
    seen = torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens in whole], device=device)
    seen[:, list(hidden)] = 0
    positions = torch.arange(width, device=device).expand(len(texts), -1)
    start = width // 2 if halves else 0
    with hidden_kept(setting.checkpoint.model) as kept:
        cache = None
        for part in (slice(0, start), slice(start, width)) if halves else (slice(0, width),):
            cache = setting.checkpoint.model(
                input_ids=ids[:, part],
                attention_mask=seen[:, : part.stop],
                position_ids=positions[:, part],
                past_key_values=cache,
                use_cache=halves,
            ).past_key_values
    prediction = following(setting.checkpoint.model, kept[-1])  # [texts, width - start], of the last part
    # for each text the position before the parting token of the lowest level, and the level's last position
    read = [(len(tokens) - len(levels.lowest) - 1 + levels.shared, len(tokens) - 1) for tokens in whole]
    rows = [
        _probabilities(setting, levels, prediction.of_row(row).of_reads([place - start for place in places]), 0, 1)
        for row, places in enumerate(read)
    ]
    return torch.stack(rows)
