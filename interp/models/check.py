"""The check at the start: does the engine read this model as the model's own forward pass does?

Two answers to one long question are read as branches of one tree, and once without attention to the answer; the
model reads the same texts one by one, from the first token on. How far the two may differ is not guessed: it depends on
what the model itself differs by when the same texts are read as one padded batch, or in two halves."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from interp.errors import UserError, ran_out_of_memory
from interp.models.head import NextToken, following, hidden_kept, refuse_unlike_head
from interp.models.prefix import TokenTree
from interp.models.prompts import common_length
from interp.plain import reason
from interp.records import Question, Transcript

if TYPE_CHECKING:
    from interp.models.checkpoints import Checkpoint
    from interp.models.setting import Setting

REACH = 512
"""About how many tokens the texts have, where the model reads as many."""
BEYOND = 64
"""How many tokens more than the widest window they have with --check long."""
ANSWERS = ("Yes", "Nobody can tell")
FILLING = "Nothing in this passage has to do with the question that follows it. "
NOISES = 3
"""How many times the model's own noise the engine may be off."""
LEAST = {torch.float32: 1e-4, torch.float64: 1e-4}
LEAST_HALF = 0.05
"""What it may be off in any case, in probability: kernels sum in another order, and two passes that happen to be alike
show no noise."""


@dataclass(frozen=True)
class EngineCheck:
    """What the check saw."""

    tokens: int
    """How many tokens the longest text had."""
    window: int | None
    """The widest sliding window of a layer; None where all layers see everything."""
    difference: float
    """The largest difference of a level's probability between the engine and the model's own pass."""
    noise: float
    """The largest difference between the model's own passes: a text alone, in a batch, in two halves."""
    allowed: float
    """The largest difference that is let pass."""

    @property
    def beyond(self) -> bool:
        """The texts were longer than every layer's window."""
        return self.window is None or self.tokens > self.window

    @property
    def sentence(self) -> str:
        """What was compared, in words."""
        said = (
            f"the engine reads as the model does: level probabilities to {self.difference:.1g} on {self.tokens} tokens"
        )
        said += f" (the model's own noise is {self.noise:.1g}, {self.allowed:.1g} is allowed)"
        if not self.beyond:
            said += f"; its window of {self.window} tokens was not reached, --check long does"
        return said


_CHECKED: "WeakKeyDictionary[Checkpoint, EngineCheck]" = WeakKeyDictionary()
"""What was seen of each checkpoint that is still there: the engine is the same for all formats and questions."""


def engine_checked(setting: "Setting", *, long: bool = False) -> EngineCheck:
    """The check of the setting's checkpoint, made once. long: texts longer than its widest window.

    Errors: UserError where the architecture cannot be read this way, or reads otherwise."""
    checkpoint = setting.checkpoint
    if checkpoint not in _CHECKED or (long and not _CHECKED[checkpoint].beyond):
        window = max((width or 0 for width in setting.prefix.windows.values()), default=0)
        with readable(checkpoint.model):
            found = _within_memory(setting, window, max(REACH, window + BEYOND) if long else REACH)
        if not found.difference <= found.allowed:
            raise UserError(
                f"{type(checkpoint.model).__name__}: level probabilities read with a shared prefix are off by "
                f"{found.difference:.3g} on {found.tokens} tokens, {found.allowed:.3g} is allowed"
            )
        _CHECKED[checkpoint] = found
        if os.environ.get("RANK", "0") == "0":
            print(found.sentence, file=sys.stderr)
    return _CHECKED[checkpoint]


@contextmanager
def readable(model: torch.nn.Module) -> Iterator[None]:
    """Says in one sentence that an architecture does not take what the engine gives it."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, RuntimeError, LookupError) as error:
        if ran_out_of_memory(error):
            raise
        raise UserError(f"{type(model).__name__} cannot be read with a shared prefix: {reason(error)}") from error


def _within_memory(setting: "Setting", window: int, reach: int) -> EngineCheck:
    """The comparison on texts of `reach` tokens, or on shorter ones where memory runs out."""
    try:
        return _compared(setting, window, reach)
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error) or reach <= BEYOND:
            raise
    return _within_memory(setting, window, reach // 2)


def _compared(setting: "Setting", window: int, reach: int) -> EngineCheck:
    model = setting.checkpoint.model
    one, other = _texts(setting, reach)
    refuse_unlike_head(model, torch.tensor([one.ids[:BEYOND]], device=model.device))
    with torch.no_grad():
        engine = _by_engine(setting, one, other)
        cut = _by_model(setting, [one], one.positions("answer"))
        alone = torch.cat([_by_model(setting, [one]), _by_model(setting, [other]), cut])
        others = [_by_model(setting, [one, other]), _by_model(setting, [one], halves=True)]
    noise = max((ways - alone[: len(ways)]).abs().max().item() for ways in others)
    difference = (engine - alone).abs().max().item()
    allowed = max(NOISES * noise, LEAST.get(model.dtype, LEAST_HALF))
    return EngineCheck(max(len(text.ids) for text in (one, other)), window or None, difference, noise, allowed)


def _texts(setting: "Setting", tokens: int) -> tuple[Transcript, Transcript]:
    """The same question with two answers, about so many tokens long or as long as the model reads."""
    prompter = setting.prompter
    most = min(tokens, prompter.max_length - BEYOND if prompter.max_length else tokens)

    def asked(sentences: int) -> Question:
        choices = ("Yes", "No", "Perhaps", "Never") if prompter.choices else ()
        return Question("check", "Is this a question?", ("Yes",), choices, FILLING * sentences)

    bare = len(prompter.transcript(asked(0), ANSWERS[1]).ids)
    each = (len(prompter.transcript(asked(2), ANSWERS[1]).ids) - bare) / 2
    question = asked(max(0, int((most - bare) / each)))
    one, other = (prompter.transcript(question, answer) for answer in ANSWERS)
    return one, other


@dataclass(frozen=True)
class _Level:
    """What the levels begin with behind one text."""

    lowest: tuple[int, ...]
    """The lowest level's tokens."""
    shared: int
    """How many tokens all levels begin with (a blank, in some vocabularies)."""
    parting: Tensor
    """The token of each level with which it parts from the others or goes on."""


def _levels(setting: "Setting", text: Transcript) -> _Level:
    suffixes = setting.prompter.level_suffixes(text)
    shared = min(common_length(suffixes), min(map(len, suffixes)) - 1)
    device = setting.checkpoint.model.device
    return _Level(suffixes[0], shared, torch.tensor([suffix[shared] for suffix in suffixes], device=device))


def _probabilities(setting: "Setting", levels: _Level, after: NextToken, parting: int, last: int) -> Tensor:
    """How probable each level's parting token is among them, and the end behind the lowest level, [levels + 1].

    parting, last: after which of the nodes read they come."""
    reads = torch.tensor([parting] * len(levels.parting) + [last], device=after.hidden.device)
    steps = after.logprobs(reads[:-1], levels.parting).softmax(-1)  # renormalised, as all that is measured
    return torch.cat([steps, after.logprobs_of_any(reads[-1:], setting.reader.stops).exp()])


def _by_engine(setting: "Setting", one: Transcript, other: Transcript) -> Tensor:
    """Both answers as branches of one tree, then the first where nothing behind it sees it, [3, levels + 1]."""
    levels, prefix = _levels(setting, one), setting.prefix
    length = prefix.shared_length([one.ids, other.ids])
    both, alone = TokenTree(), TokenTree()
    reads: list[list[int]] = [[], []]
    for tree, text, read in ((both, one, reads[0]), (both, other, reads[0]), (alone, one, reads[1])):
        path = tree.insert(text.ids[length:])
        path += tree.insert(levels.lowest, path[-1])
        read += [path[levels.shared - len(levels.lowest) - 1], path[-1]]
    answer = [position - length for position in one.positions("answer")]
    alone.knockouts.append((tuple(range(answer[-1] + 1, len(alone.tokens))), tuple(answer)))
    found = dict(prefix.logits(length, [both, alone], reads))
    rows = [_probabilities(setting, levels, found[tree], first, first + 1) for tree, first in ((0, 0), (0, 2), (1, 0))]
    return torch.stack(rows)


def _by_model(
    setting: "Setting", texts: Sequence[Transcript], hidden: Sequence[int] = (), *, halves: bool = False
) -> Tensor:
    """The same by the model's own forward pass over whole texts, padded on the right, [texts, levels + 1].

    hidden: positions that no token sees. halves: the second half is read on the model's own cache."""
    levels, device = _levels(setting, texts[0]), setting.checkpoint.model.device
    whole = [(*text.ids, *levels.lowest) for text in texts]
    width = max(map(len, whole))
    ids = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens in whole], device=device)
    seen = torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens in whole], device=device)
    seen[:, list(hidden)] = 0
    places = torch.arange(width, device=device).expand(len(texts), -1)
    start = width // 2 if halves else 0
    with hidden_kept(setting.checkpoint.model) as kept:
        cache = None
        for part in (slice(0, start), slice(start, width)) if halves else (slice(0, width),):
            cache = setting.checkpoint.model(
                input_ids=ids[:, part],
                attention_mask=seen[:, : part.stop],
                position_ids=places[:, part],
                past_key_values=cache,
                use_cache=halves,
            ).past_key_values
    after = following(setting.checkpoint.model, kept[-1])
    ends = [(len(tokens) - len(levels.lowest) - 1 + levels.shared, len(tokens) - 1) for tokens in whole]
    rows = [
        _probabilities(setting, levels, after.of_row(row).of_reads([place - start for place in end]), 0, 1)
        for row, end in enumerate(ends)
    ]
    return torch.stack(rows)
