"""The model's answers: greedy, sampled by top-p or branched, for many questions at a time.

Prompts grow by one token at a time in the rows of one batch, and texts become replies. The module knows prompts, tokens
and the format of a reply. It must not know which answers are right, or what is read of them afterwards."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp.datasets.choices import choice_index
from interp.datasets.replies import answer_in, labelled
from interp.datasets.thoughts import THOUGHTS, opens_thought
from interp.formats import ConfidenceFormat
from interp.models.branches import Branches
from interp.models.prefix import PromptsRead, SharedPrefix
from interp.models.prompts import REPLY_TOKENS, Prompter
from interp.records import Question

ANSWER_TOKENS = 16
"""An answer that has not ended after so many tokens is not one: it is counted, and its confidence is not read."""

TYPICAL_TOKENS = 4
"""How many tokens most answers have, for filling batches: few answers are still being written in the later steps."""
NUCLEUS = 1024
"""A nucleus is first looked for among so many of the likeliest tokens: much faster than sorting a vocabulary."""

FORKED = 2
"""Branching tries other tokens at so many of an answer's first tokens."""
FORKS = 32
"""How many of the likeliest tokens are recorded at each of these."""

Pick = Callable[[Tensor, int, np.ndarray], Tensor]
"""(logits [rows, vocabulary], step, numbers of the rows' prompts [rows]) -> the next token of each row, [rows]."""


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after one prompt."""

    text: str
    """The text up to the end of the line or turn, without surrounding blanks."""
    tokens: int
    """How many tokens were generated, the ending one included."""
    finished: bool
    """Whether the model ended it; False where it was cut off."""


Heard = Callable[[Sequence[int], Sequence[Continuation], PromptsRead, Sequence[int]], None]
"""Called when a batch has been written, while the cache of its prompts is still held. Arguments: the numbers of the
continuations, the continuations, the prompts as they were read, the number of each continuation's prompt among them."""


@dataclass(frozen=True)
class Start:
    """How a branch begins: with some given tokens, then with a token of a given rank."""

    tokens: tuple[int, ...] = ()
    """The tokens that it begins with, at most `FORKED`."""
    rank: int = 0
    """The rank by likelihood of the token after them; 0: the likeliest."""


@dataclass(frozen=True)
class Branch:
    """An answer that begins in a given way and goes on greedily, and the alternatives to its first tokens."""

    answer: Continuation
    """The answer as it was written."""
    first: tuple[int, ...]
    """Its first tokens, at most `FORKED`."""
    forks: tuple[tuple[tuple[int, float], ...], ...]
    """For each of them the `FORKS` likeliest tokens in its place, each with its log-probability (nats)."""


@dataclass(frozen=True)
class Reply:
    """The model's reply to one question."""

    answer: str | None
    """The answer; None where the reply has none, or where it was cut off within the answer."""
    level: int | None
    """Index of the level that the reply states; None where it states none, or where the slot was not reached."""
    text: str
    """The reply as it was written."""
    tokens: int
    """How many tokens were generated."""

    @property
    def parsed(self) -> bool:
        """Whether a free reply held both an answer and a level."""
        return self.answer is not None and self.level is not None


class Generator:
    """Writes the continuations of many prompts at once.

    The shared prefix is read once, prompts of similar length are batched together, and a continuation that has ended
    leaves its batch."""

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
        """Keeps what all continuations need; reads nothing.

        Args:
            prefix: The model that has read the shared prefix.
            prompter: Gives the tokenizer and the control tokens of the chat template.
            stops: Token ids that end a line or a turn.
            turn_ends: Token ids that end a turn.
            eos_ids: Token ids that end a turn within a thought, too; a token of `turn_ends` alone may end only the
                thought there (gpt-oss).
            reply_tokens: How many tokens a free reply has at most.
        """
        self.prefix = prefix
        self.tokenizer = prompter.tokenizer
        self.stops = torch.tensor(sorted(stops), device=prefix.model.device)
        self.turn_ends = torch.tensor(sorted(turn_ends), device=prefix.model.device)
        self.eos_ids, self.reply_tokens = frozenset(eos_ids), reply_tokens
        # control tokens are left out of texts, except those that are marks of thoughts or parts of such marks
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
        """Continues each prompt with the most likely token at every step.

        Args:
            prompts: Token ids of the prompts; equal ones are allowed.
            most: How many tokens a continuation has at most.
            lines: True: up to the end of the line or the turn; False: up to the end of the turn.
            heard: Called for each batch that has been written.

        Returns:
            The continuation of each prompt, in the order given.
        """
        return self._written(prompts, lambda logits, step, numbers: logits.argmax(-1), most, lines, heard)

    def sampled(
        self,
        prompts: Sequence[Sequence[int]],
        draws: Sequence[np.random.Generator],
        *,
        top_p: float,
        most: int = ANSWER_TOKENS,
        heard: Heard | None = None,
    ) -> list[Continuation]:
        """Draws one top-p sample for each prompt at temperature 1.

        A sample depends on its prompt and its random generator only, not on what else is in the batch.

        Args:
            prompts: Token ids of the prompts; equal ones are allowed.
            draws: For each prompt its own random generator.
            top_p: The probability of the nucleus, in (0, 1].
            most: How many tokens a sample has at most.
            heard: Called for each batch that has been written.

        Returns:
            The sample of each prompt, in the order given.
        """
        # [prompts, most]: all numbers are drawn beforehand, so that they do not depend on when a sample ends
        chances = np.array([draw.random(most) for draw in draws])

        def pick(logits: Tensor, step: int, numbers: np.ndarray) -> Tensor:
            return top_p_token(logits, torch.from_numpy(chances[numbers, step]).to(logits), top_p)

        return self._written(prompts, pick, most, True, heard)

    def branched(
        self, prompts: Sequence[Sequence[int]], starts: Sequence[Start], *, most: int = ANSWER_TOKENS
    ) -> list[Branch]:
        """Continues each prompt with a given start, then with the likeliest token at every step.

        Args:
            prompts: Token ids of the prompts; equal ones are allowed.
            starts: For each prompt how its answer begins.
            most: How many tokens an answer has at most.

        Returns:
            The branch of each prompt, in the order given.
        """
        forks: list[list[tuple[tuple[int, float], ...]]] = [[] for _ in prompts]
        first: list[list[int]] = [[] for _ in prompts]

        def pick(logits: Tensor, step: int, numbers: np.ndarray) -> Tensor:
            if step >= FORKED:
                return logits.argmax(-1)
            logprobs, order = logits.log_softmax(-1).topk(min(FORKS, logits.shape[-1]))  # [rows, FORKS] each
            tokens = order[:, 0].clone()
            for row, number in enumerate(numbers):  # row of the logits, number of its prompt
                start = starts[number]
                if step < len(start.tokens):
                    tokens[row] = start.tokens[step]
                elif step == len(start.tokens):
                    tokens[row] = order[row, start.rank]
                forks[number].append(tuple(zip(order[row].tolist(), logprobs[row].tolist(), strict=True)))
                first[number].append(int(tokens[row]))
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
        continuations: dict[int, Continuation] = {}
        copies = Counter(map(tuple, prompts))
        # equal prompts are read once: each copy is charged its share of the prompt and its own tokens
        sizes = [(len(prompt) - length) // copies[tuple(prompt)] + TYPICAL_TOKENS for prompt in prompts]
        for batch in self.prefix.batches(sizes):
            written = self._batch([prompts[i] for i in batch], length, batch, pick, most, lines, heard)
            continuations |= dict(zip(batch, written, strict=True))
        return [continuations[i] for i in range(len(prompts))]

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
        """The continuations of one batch of prompts; numbers: those of the prompts among all prompts."""
        distinct = {prompt: place for place, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        owners = [distinct[tuple(prompt)] for prompt in prompts]
        branches = Branches(self.prefix, length, list(distinct), owners)
        read = branches.read() if heard else None
        ends = self.stops if lines else self.turn_ends
        written: list[list[int]] = [[] for _ in prompts]
        finished = np.zeros(len(prompts), dtype=bool)
        alive, logits = np.arange(len(prompts)), branches.logits  # rows that go on, [alive]; [alive, vocabulary]
        for step in range(most):
            tokens = pick(logits, step, np.array(numbers)[alive])
            for row, token, end in zip(alive, tokens.tolist(), torch.isin(tokens, ends).tolist(), strict=True):
                written[row].append(token)
                if lines:
                    finished[row] = end or "\n" in self.tokenizer.decode([token])
                else:  # within a thought only `eos_ids` end the turn
                    finished[row] = end and (token in self.eos_ids or not opens_thought(self._text(written[row])))
            alive = alive[~finished[alive]]
            if not len(alive) or step == most - 1:
                break
            logits = branches.grown(alive, [written[row][-1] for row in alive])
        del branches, logits  # frees the grown cache; `read` still holds the prompts
        continuations = [
            Continuation(self._line(ids) if lines else self._text(ids), len(ids), end)
            for ids, end in zip(written, finished.tolist(), strict=True)
        ]
        if heard and read:
            heard(numbers, continuations, read, owners)
        return continuations

    def _line(self, ids: list[int]) -> str:
        """The first line, without control tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip().split("\n")[0].strip()

    def _text(self, ids: list[int]) -> str:
        """Several lines, with the control tokens that mark thoughts and no others."""
        return str(self.tokenizer.decode([token for token in ids if token not in self._silent])).strip()


def slot_replies(
    generator: Generator, prompter: Prompter, questions: Sequence[Question], heard: Heard | None = None
) -> list[Reply]:
    """Each question's greedy answer, written into the slot after "Answer:"."""
    continuations = generator.greedy([prompter.transcript(question).ids for question in questions], heard=heard)
    return [slot_reply(written, question) for written, question in zip(continuations, questions, strict=True)]


def slot_reply(written: Continuation, question: Question) -> Reply:
    """The reply that was written into the slot.

    Its answer is None where it holds none, and where it was cut off: unless the choice that it names stands already."""
    answer = answer_in(written.text)
    whole = written.finished or (answer and question.choices and choice_index(answer, question.choices) is not None)
    return Reply(answer if whole else None, None, written.text, written.tokens)


def free_replies(
    generator: Generator, prompter: Prompter, questions: Sequence[Question], heard: Heard | None = None
) -> list[Reply]:
    """Each question's whole greedy reply, from its first word to the end of the turn."""
    prompts = [prompter.transcript(question, free=True).ids for question in questions]
    continuations = generator.greedy(prompts, most=generator.reply_tokens, lines=False, heard=heard)
    return [free_reply(continuation, prompter) for continuation in continuations]


def free_reply(continuation: Continuation, prompter: Prompter) -> Reply:
    """The answer and the level that a whole reply states."""
    return parsed_reply(
        continuation.text,
        prompter.confidence,
        tokens=continuation.tokens,
        finished=continuation.finished,
        opened=prompter.opens_thought,
    )


def parsed_reply(
    text: str, confidence: ConfidenceFormat, *, tokens: int = 0, finished: bool = True, opened: bool = False
) -> Reply:
    """The reply that a text states outside of thoughts, by its first lines labelled "Answer:" and "Confidence:".

    Args:
        text: The text as the model wrote it.
        confidence: The format of the confidence.
        tokens: How many tokens were generated.
        finished: False where the reply was cut off; its last line is then left out.
        opened: Whether the prompt has opened a thought, in which the reply begins.

    Returns:
        The reply. Its answer or level is None where the text has no such line, its level also where the line names none
        of the format's levels.
    """
    values = labelled(text, finished=finished, opened=opened)
    level = confidence.level_of(values["confidence"]) if "confidence" in values else None
    return Reply(values.get("answer"), level, text, tokens)


def top_p_token(logits: Tensor, chance: Tensor, top_p: float) -> Tensor:
    """Draws a token from the nucleus: the fewest most likely tokens with at least top_p of probability.

    Holtzman et al. 2020.

    Args:
        logits: Logits, [rows, vocabulary].
        chance: The quantile of the nucleus at which the token lies, uniform in [0, 1), [rows].
        top_p: The probability of the nucleus, in (0, 1]; 1: the nucleus is the whole vocabulary.

    Returns:
        The token of each row, [rows].
    """
    probability = logits.softmax(-1)
    likely, order = probability.topk(min(NUCLEUS, logits.shape[-1]))  # [rows, NUCLEUS] each
    tokens = _quantile(likely, order, chance, top_p)
    # rows whose nucleus, or whose quantile of the whole vocabulary, may lie beyond `likely`: sort the vocabulary
    beyond = likely.sum(-1) <= (chance if top_p == 1 else top_p)
    if beyond.any():
        tokens[beyond] = _quantile(*probability[beyond].sort(dim=-1, descending=True), chance[beyond], top_p)
    return tokens


def _quantile(likely: Tensor, order: Tensor, chance: Tensor, top_p: float) -> Tensor:
    """The token at quantile `chance` of the nucleus among tokens in falling order of probability.

    likely: probabilities, [rows, tokens]; order: the tokens, [rows, tokens]; chance: [rows]. Gives [rows]. Example with
    top_p = 0.8:

        likely     0.5  0.25  0.125  0.0625 ...
        before     0    0.5   0.75   0.875      probability of all likelier tokens
        nucleus    0.5  0.25  0.125  0          a token belongs to it where `before` is less than top_p
        reach      0.5  0.75  0.875  0.875      chance 0.6 looks for 0.6 * 0.875 = 0.525: the second token
    """
    before = likely.cumsum(-1) - likely
    nucleus = likely.where(before < top_p, 0)
    reach = nucleus.cumsum(-1)
    # with top_p 1 the nucleus is the whole vocabulary, of which `likely` may hold a part only
    whole = torch.ones_like(chance) if top_p == 1 else reach[:, -1]
    place = torch.searchsorted(reach, (chance * whole)[:, None], right=True)  # [rows, 1]
    last = (nucleus > 0).sum(-1, keepdim=True) - 1  # rounding must not lead beyond the nucleus
    return order.gather(-1, place.minimum(last))[:, 0]


def source_of_chance(seed: int, question: Question, number: int) -> np.random.Generator:
    """The random generator of one sample for a question: the same whatever else is asked, on every machine.

    Args:
        seed: The seed of the run.
        question: The question, known by its id.
        number: Which sample of the question it is.
    """
    digest = hashlib.sha256(f"{seed}|{question.id}|{number}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))
