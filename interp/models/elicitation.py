"""What the model answers: greedily, or sampled from it by top-p, many questions at a time."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp.formats import ConfidenceFormat
from interp.models.prefix import Branches, PromptsRead, SharedPrefix
from interp.models.prompts import REPLY_TOKENS, Prompter
from interp.models.thoughts import THOUGHTS, opens_thought, without_thoughts
from interp.records import Question

ANSWER_TOKENS = 16
"""An answer that is not ended within so many tokens is none: it is counted, and not put to the model."""

TYPICAL_TOKENS = 4
"""What most answers have, for filling batches: in the later steps few of them are still being written."""
NUCLEUS = 1024
"""A nucleus is first looked for among so many tokens, which is much faster than sorting a vocabulary."""

FORKED = 2
"""At so many of an answer's first tokens other tokens are tried by branching."""
FORKS = 32
"""So many of the likeliest tokens are known at each of them."""

Pick = Callable[[Tensor, int, np.ndarray], Tensor]
"""(log-probabilities [rows, vocabulary], step, rows' numbers) -> the next token of each row, [rows]."""


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after one prompt."""

    text: str
    """The text up to the end of the line or turn, without surrounding blanks."""
    tokens: int
    """How many tokens were generated, the ending one included."""
    finished: bool
    """The model ended it by itself; False where it was cut off."""


Heard = Callable[[Sequence[int], Sequence[Continuation], PromptsRead, Sequence[int]], None]
"""Called when a batch is written, while its prompts are still at hand as they were read: (numbers of the continuations,
the continuations, the prompts, the number of each continuation's prompt among them)."""


@dataclass(frozen=True)
class Start:
    """How a branch begins: with some tokens, and where they end with one that need not be the likeliest."""

    tokens: tuple[int, ...] = ()
    """The tokens that it begins with, at most `FORKED`."""
    rank: int = 0
    """After them, which token by likelihood; 0: the likeliest."""


@dataclass(frozen=True)
class Branch:
    """An answer that begins in a given way and goes on greedily, and what else could have been its first tokens."""

    said: Continuation
    """The answer."""
    first: tuple[int, ...]
    """Its first tokens, at most `FORKED`."""
    forks: tuple[tuple[tuple[int, float], ...], ...]
    """For each of them the `FORKS` likeliest tokens in its place, each with its log-probability (nats)."""


@dataclass(frozen=True)
class Reply:
    """What one question was answered with."""

    answer: str | None
    """The answer; None where the reply has none, or was cut off within it."""
    level: int | None
    """Index of the level that the reply states; None where it states none, or where the slot was not reached."""
    text: str
    """The reply as it was written."""
    tokens: int
    """How many tokens were generated."""

    @property
    def parsed(self) -> bool:
        """A free reply held both an answer and a level."""
        return self.answer is not None and self.level is not None


class Generator:
    """Writes the continuations of many prompts at once: the shared prefix read once, like lengths together, rows
    dropped as they finish."""

    def __init__(
        self,
        prefix: SharedPrefix,
        prompter: Prompter,
        stops: Sequence[int],
        turn_ends: Sequence[int] = (),
        eos_ids: Sequence[int] = (),
        *,
        reply_tokens: int = REPLY_TOKENS,
    ) -> None:
        """stops: token ids that end a line or a turn; turn_ends: those that end a turn; eos_ids: those that end it
        within a thought too, which others may only end (gpt-oss). reply_tokens: how long a free reply may get."""
        self.prefix = prefix
        self.tokenizer = prompter.tokenizer
        self.stops = torch.tensor(sorted(stops), device=prefix.model.device)
        self.turn_ends = torch.tensor(sorted(turn_ends), device=prefix.model.device)
        self.eos_ids, self.reply_tokens = frozenset(eos_ids), reply_tokens
        marks = [mark for pair in THOUGHTS for mark in pair]
        silent = [token for token in prompter.chat.control_tokens if not any(token in mark for mark in marks)]
        self._silent = frozenset(self.tokenizer.convert_tokens_to_ids(token) for token in silent)

    def greedy(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        most: int = ANSWER_TOKENS,
        lines: bool = True,
        heard: Heard | None = None,
    ) -> list[Continuation]:
        """The most likely token at every step, for each prompt in the order given; lines False: to the turn's end."""
        return self._written(prompts, lambda logits, step, rows: logits.argmax(-1), most, lines, heard)

    def sampled(
        self,
        prompts: Sequence[Sequence[int]],
        draws: Sequence[np.random.Generator],
        *,
        top_p: float,
        most: int = ANSWER_TOKENS,
        heard: Heard | None = None,
    ) -> list[Continuation]:
        """One top-p sample for each prompt at temperature 1, each with its own source of chance.

        A sample depends on its prompt and its source only, not on what else is in the batch."""
        chances = np.array([draw.random(most) for draw in draws])

        def pick(logits: Tensor, step: int, rows: np.ndarray) -> Tensor:
            return top_p_token(logits, torch.from_numpy(chances[rows, step]).to(logits), top_p)

        return self._written(prompts, pick, most, True, heard)

    def branched(
        self, prompts: Sequence[Sequence[int]], starts: Sequence[Start], *, most: int = ANSWER_TOKENS
    ) -> list[Branch]:
        """Each prompt's answer that begins as its start says and goes on with the likeliest token at every step."""
        forks: list[list[tuple[tuple[int, float], ...]]] = [[] for _ in prompts]
        first: list[list[int]] = [[] for _ in prompts]

        def pick(logits: Tensor, step: int, rows: np.ndarray) -> Tensor:
            if step >= FORKED:
                return logits.argmax(-1)
            logprobs, order = logits.log_softmax(-1).topk(min(FORKS, logits.shape[-1]))
            tokens = order[:, 0].clone()
            for number, row in enumerate(rows):
                start = starts[row]
                if step < len(start.tokens):
                    tokens[number] = start.tokens[step]
                elif step == len(start.tokens):
                    tokens[number] = order[number, start.rank]
                forks[row].append(tuple(zip(order[number].tolist(), logprobs[number].tolist(), strict=True)))
                first[row].append(int(tokens[number]))
            return tokens

        written = self._written(prompts, pick, most, True, None)
        return [Branch(*parts) for parts in zip(written, map(tuple, first), map(tuple, forks), strict=True)]

    @torch.no_grad()
    def _written(
        self, prompts: Sequence[Sequence[int]], pick: Pick, most: int, lines: bool, heard: Heard | None
    ) -> list[Continuation]:
        if not prompts:
            return []
        length = self.prefix.shared_length(prompts)
        found: dict[int, Continuation] = {}
        copies = Counter(map(tuple, prompts))  # which share their prompt
        sizes = [(len(prompt) - length) // copies[tuple(prompt)] + TYPICAL_TOKENS for prompt in prompts]
        for batch in self.prefix.batches(sizes):
            written = self._batch([prompts[i] for i in batch], length, batch, pick, most, lines, heard)
            found |= dict(zip(batch, written, strict=True))
        return [found[i] for i in range(len(prompts))]

    def _batch(
        self,
        prompts: list[Sequence[int]],
        length: int,
        numbers: list[int],
        pick: Pick,
        most: int,
        lines: bool,
        heard: Heard | None,
    ) -> list[Continuation]:
        unlike = {prompt: number for number, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        owners = [unlike[tuple(prompt)] for prompt in prompts]
        branches = Branches(self.prefix, length, list(unlike), owners)
        read = branches.read() if heard else None
        ends = self.stops if lines else self.turn_ends
        written: list[list[int]] = [[] for _ in prompts]
        finished = np.zeros(len(prompts), dtype=bool)
        alive, logits = np.arange(len(prompts)), branches.logits
        for step in range(most):
            tokens = pick(logits, step, np.array(numbers)[alive])
            for row, token, end in zip(alive, tokens.tolist(), torch.isin(tokens, ends).tolist(), strict=True):
                written[row].append(token)
                if lines:
                    finished[row] = end or "\n" in self.tokenizer.decode([token])
                else:
                    finished[row] = end and (token in self.eos_ids or not opens_thought(self._text(written[row])))
            alive = alive[~finished[alive]]
            if not len(alive) or step == most - 1:
                break
            logits = branches.grown(alive, [written[row][-1] for row in alive])
        del branches, logits
        said = [
            Continuation(self._line(ids) if lines else self._text(ids), len(ids), end)
            for ids, end in zip(written, finished.tolist(), strict=True)
        ]
        if heard and read:
            heard(numbers, said, read, owners)
        return said

    def _line(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip().split("\n")[0].strip()

    def _text(self, ids: list[int]) -> str:
        """Several lines, with the control tokens that mark thoughts and no others."""
        return str(self.tokenizer.decode([i for i in ids if i not in self._silent])).strip()


def slot_replies(
    generator: Generator, prompter: Prompter, questions: Sequence[Question], heard: Heard | None = None
) -> list[Reply]:
    """Each question's greedy answer, written into the slot after "Answer:"."""
    written = generator.greedy([prompter.transcript(question).ids for question in questions], heard=heard)
    return [slot_reply(said) for said in written]


def slot_reply(said: Continuation) -> Reply:
    """The answer that was written into the slot; None where it was not ended."""
    return Reply(said.text if said.finished and said.text else None, None, said.text, said.tokens)


def free_replies(
    generator: Generator, prompter: Prompter, questions: Sequence[Question], heard: Heard | None = None
) -> list[Reply]:
    """Each question's whole greedy reply, from its first word to the end of the turn."""
    prompts = [prompter.transcript(question, free=True).ids for question in questions]
    written = generator.greedy(prompts, most=generator.reply_tokens, lines=False, heard=heard)
    return [free_reply(said, prompter) for said in written]


def free_reply(said: Continuation, prompter: Prompter) -> Reply:
    """What a whole reply says."""
    return parsed_reply(
        said.text,
        prompter.confidence,
        tokens=said.tokens,
        finished=said.finished,
        opened=prompter.opens_thought,
    )


def parsed_reply(
    text: str, confidence: ConfidenceFormat, *, tokens: int = 0, finished: bool = True, opened: bool = False
) -> Reply:
    """What the first lines labelled "Answer:" and "Confidence:" say outside of thoughts; None for what is not there.

    finished: False where the reply was cut off, whose last line then says nothing. opened: the prompt has opened a
    thought, in which the reply begins."""
    found: dict[str, str] = {}
    for line in (without_thoughts(text, opened=opened) or "").splitlines()[: None if finished else -1]:
        if labelled := re.match(r"[\s*_#>-]*(answer|confidence)[*_]*\s*[:=][*_]*\s*(\S.*)", line, re.IGNORECASE):
            said = labelled[2].strip()
            bare = said.rstrip("*_")
            found.setdefault(labelled[1].casefold(), bare.strip() if len(said) - len(bare) > 1 else said)
    level = confidence.level_of(found["confidence"]) if "confidence" in found else None
    return Reply(found.get("answer"), level, text, tokens)


def top_p_token(logits: Tensor, chance: Tensor, top_p: float) -> Tensor:
    """The token at quantile `chance` of the nucleus: the fewest most likely tokens with at least top_p of probability.

    logits: [rows, vocabulary]; chance: [rows], uniform in [0, 1). Holtzman et al. 2020."""
    probability = logits.softmax(-1)
    likely, order = probability.topk(min(NUCLEUS, logits.shape[-1]))
    found = _quantile(likely, order, chance, top_p)
    far = likely.sum(-1) <= (chance if top_p == 1 else top_p)  # what is sought may lie beyond: sort the vocabulary
    if far.any():
        found[far] = _quantile(*probability[far].sort(dim=-1, descending=True), chance[far], top_p)
    return found


def _quantile(likely: Tensor, order: Tensor, chance: Tensor, top_p: float) -> Tensor:
    """The token at quantile `chance` of the nucleus among tokens in falling order of probability."""
    before = likely.cumsum(-1) - likely
    nucleus = likely.where(before < top_p, 0)
    reach = nucleus.cumsum(-1)
    whole = torch.ones_like(chance) if top_p == 1 else reach[:, -1]
    place = torch.searchsorted(reach, (chance * whole)[:, None], right=True)
    last = (nucleus > 0).sum(-1, keepdim=True) - 1
    return order.gather(-1, place.minimum(last))[:, 0]


def source_of_chance(seed: int, question: Question, number: int) -> np.random.Generator:
    """The source of the number-th sample for a question: the same whatever else is asked, on every machine."""
    digest = hashlib.sha256(f"{seed}|{question.id}|{number}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))
