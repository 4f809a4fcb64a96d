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
from interp.prefix import Branches, SharedPrefix
from interp.prompts import REPLY_TOKENS, Prompter
from interp.questions import LETTERS, may_be_right, normalised
from interp.records import Question
from interp.thoughts import THOUGHTS, opens_thought, without_thoughts

ANSWER_TOKENS = 16
"""An answer that is not ended within so many tokens is none: it is counted, and not put to the model."""

TYPICAL_TOKENS = 4
"""What most answers have, for filling batches: in the later steps few of them are still being written."""
NUCLEUS = 1024
"""A nucleus is first looked for among so many tokens, which is much faster than sorting a vocabulary."""

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
    """Writes the continuations of many prompts at once: the opening read once, like lengths together, finished rows
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
        self, prompts: Sequence[Sequence[int]], *, most: int = ANSWER_TOKENS, lines: bool = True
    ) -> list[Continuation]:
        """The most likely token at every step, for each prompt in the order given; lines False: to the turn's end."""
        return self._written(prompts, lambda logits, step, rows: logits.argmax(-1), most, lines)

    def sampled(
        self,
        prompts: Sequence[Sequence[int]],
        draws: Sequence[np.random.Generator],
        *,
        top_p: float,
        most: int = ANSWER_TOKENS,
    ) -> list[Continuation]:
        """One top-p sample for each prompt at temperature 1, each with its own source of chance.

        A sample depends on its prompt and its source only, not on what else is in the batch."""
        chances = np.array([draw.random(most) for draw in draws])

        def pick(logits: Tensor, step: int, rows: np.ndarray) -> Tensor:
            return top_p_token(logits, torch.from_numpy(chances[rows, step]).to(logits), top_p)

        return self._written(prompts, pick, most, lines=True)

    @torch.no_grad()
    def _written(self, prompts: Sequence[Sequence[int]], pick: Pick, most: int, lines: bool) -> list[Continuation]:
        if not prompts:
            return []
        length = self.prefix.shared_length(prompts)
        found: dict[int, Continuation] = {}
        copies = Counter(map(tuple, prompts))  # which share their prompt
        sizes = [(len(prompt) - length) // copies[tuple(prompt)] + TYPICAL_TOKENS for prompt in prompts]
        for batch in self.prefix.batches(sizes):
            for index, (ids, finished) in zip(
                batch, self._batch([prompts[i] for i in batch], length, batch, pick, most, lines), strict=True
            ):
                found[index] = Continuation(self._line(ids) if lines else self._text(ids), len(ids), finished)
        return [found[i] for i in range(len(prompts))]

    def _batch(
        self, prompts: list[Sequence[int]], length: int, numbers: list[int], pick: Pick, most: int, lines: bool
    ) -> list[tuple[list[int], bool]]:
        unlike = {prompt: number for number, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        branches = Branches(self.prefix, length, list(unlike), [unlike[tuple(prompt)] for prompt in prompts])
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
        return list(zip(written, finished.tolist(), strict=True))

    def _line(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip().split("\n")[0].strip()

    def _text(self, ids: list[int]) -> str:
        """Several lines, with the control tokens that mark thoughts and no others."""
        return str(self.tokenizer.decode([i for i in ids if i not in self._silent])).strip()


def slot_replies(generator: Generator, prompter: Prompter, questions: Sequence[Question]) -> list[Reply]:
    """Each question's greedy answer, written into the slot after "Answer:"."""
    written = generator.greedy([prompter.transcript(question).ids for question in questions])
    return [Reply(said.text if said.finished and said.text else None, None, said.text, said.tokens) for said in written]


def free_replies(generator: Generator, prompter: Prompter, questions: Sequence[Question]) -> list[Reply]:
    """Each question's whole greedy reply, from its first word to the end of the turn."""
    prompts = [prompter.transcript(question, free=True).ids for question in questions]
    written = generator.greedy(prompts, most=generator.reply_tokens, lines=False)
    return [
        parsed_reply(
            said.text,
            prompter.confidence,
            tokens=said.tokens,
            finished=said.finished,
            opened=prompter.opens_thought,
        )
        for said in written
    ]


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


@dataclass(frozen=True)
class WrongAnswers:
    """Distinct answers that a model gives, sampled, to one question, and how they were found."""

    wrong: tuple[str, ...]
    """Vetted wrong ones, in the order in which they came."""
    distinct: tuple[str, ...]
    """All distinct ones, right or wrong."""
    tries: int
    """How many samples were drawn."""
    vetoed: int
    """How many distinct ones were right, too close to right to be used as wrong, or words of the question."""


def source_of_chance(seed: int, question: Question, number: int) -> np.random.Generator:
    """The source of the number-th sample for a question: the same whatever else is asked, on every machine."""
    digest = hashlib.sha256(f"{seed}|{question.id}|{number}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def sampled_answers(
    generator: Generator,
    prompter: Prompter,
    questions: Sequence[Question],
    *,
    wrong: int,
    distinct: int,
    seed: int,
    top_p: float,
    tries: int,
) -> list[WrongAnswers]:
    """For each question, top-p samples until `wrong` usable wrong answers and `distinct` distinct ones are found.

    At most `tries` samples a question. Choices need no sampling: the other letters are the wrong answers."""
    if prompter.choices:
        return [_other_choices(question, seed) for question in questions]
    texts: list[list[str]] = [[] for _ in questions]
    drawn = [0] * len(questions)
    prompts = [prompter.transcript(question).ids for question in questions]
    found = [_sorted_out(question, said, 0) for question, said in zip(questions, texts, strict=True)]
    while True:
        short = [
            i
            for i, have in enumerate(found)
            if (len(have.wrong) < wrong or len(have.distinct) < distinct) and drawn[i] < tries
        ]
        if not short:
            return found
        wanted = [
            i for i in short for _ in range(min(_draws(distinct - len(found[i].distinct), drawn[i]), tries - drawn[i]))
        ]
        draws = []
        for i in wanted:
            draws.append(source_of_chance(seed, questions[i], drawn[i]))
            drawn[i] += 1
        for i, said in zip(wanted, generator.sampled([prompts[i] for i in wanted], draws, top_p=top_p), strict=True):
            if said.finished and said.text and prompter.speakable(questions[i], said.text):
                texts[i].append(said.text)
        for i in short:
            found[i] = _sorted_out(questions[i], texts[i], drawn[i])


def _draws(missing: int, drawn: int) -> int:
    """How many samples to draw next: as many as are missing, and four times that once it is known that some repeat."""
    return max(8, 4 * missing) if drawn else max(4, missing)


def wrong_for_sure(question: Question, answer: str) -> bool:
    """Not right in other words either, and no word of the question, which is no answer to it."""
    return f" {normalised(answer)} " not in f" {normalised(question.text)} " and not may_be_right(question, answer)


def _sorted_out(question: Question, said: Sequence[str], tries: int) -> WrongAnswers:
    distinct: dict[str, str] = {}
    for text in said:
        if normalised(text):
            distinct.setdefault(normalised(text), text)
    wrong = tuple(text for text in distinct.values() if wrong_for_sure(question, text))
    return WrongAnswers(wrong, tuple(distinct.values()), tries, len(distinct) - len(wrong))


def _other_choices(question: Question, seed: int) -> WrongAnswers:
    """The other letters in an order drawn by chance: the first one would always be the same, and models prefer some."""
    letters = tuple(LETTERS[i] for i in source_of_chance(seed, question, 0).permutation(len(question.choices)))
    wrong = tuple(letter for letter in letters if letter != question.answers[0])
    return WrongAnswers(wrong, letters, 0, 1)
