"""Candidate answers to a question: distinct ones that the model gives, by top-p samples and by branching, vetted.

A model that knows its answers hardly ever samples a wrong one. Branching finds one all the same: the likeliest first
tokens, each continued greedily, then second tokens, likeliest beginnings first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.datasets.questions import LETTERS, may_be_right, normalised
from interp.models.elicitation import Branch, Continuation, Start, source_of_chance
from interp.records import Question, Source
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.setting import Setting

SAMPLED: tuple[Source, ...] = ("sampled", "both", "choice")
"""The sources of what stands in the paper's comparison; the letters of a choice stand in for samples."""
ROUNDS = (8, 16, 32, 64)
"""How many branches are followed at a time, until enough is found. More are wanted only by a larger number of
candidates, so that the first branches do not depend on it."""


@dataclass(frozen=True)
class CandidateAnswers:
    """Distinct answers of a model to one question, and how each came about."""

    wrong: tuple[str, ...]
    """Vetted wrong ones: sampled ones in the order in which they came, then those found by branching alone."""
    distinct: tuple[str, ...]
    """All distinct ones, right or wrong, in the same order."""
    sources: tuple[Source, ...]
    """How each distinct one came about."""
    logprobs: tuple[float, ...]
    """The log-probability (nats) of each distinct one and of the end of its line, as a `Reading` has it."""
    branched: tuple[str, ...]
    """Wrong ones found by branching, sampled as well or not: by rounds, and in each the likeliest first."""
    tries: int
    """How many samples were drawn."""
    branches: int
    """How many branches were followed."""
    vetoed: int
    """How many distinct ones were right, too close to right to be used as wrong, or words of the question."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is looked for, and how."""

    wrong: int
    """Usable wrong answers, among samples and again among branches."""
    distinct: int
    """Distinct answers, right or wrong, of both together."""
    seed: int
    """The source of chance."""
    top_p: float
    """The nucleus that samples are drawn from."""
    tries: int
    """Samples drawn for a question, at most."""
    branching: bool = True
    """Branches are followed as well."""


def candidate_answers(setting: "Setting", questions: Sequence[Question], search: Search) -> list[CandidateAnswers]:
    """For each question, top-p samples until `wrong` usable wrong answers and `distinct` distinct ones are found, at
    most `tries`; then branches until `wrong` of them are wrong and there are `distinct` distinct answers in all.

    Every question has at least a round of branches, whatever its samples gave, so that what is measured with them is
    measured on all questions. Choices need neither: the other letters are the wrong answers."""
    if setting.prompter.choices:
        return [_letters(setting, question, search.seed) for question in questions]
    samples = _sampled(setting, questions, search)
    nothing = [_Branches() for _ in questions]
    texts = [said for said, _ in samples]
    branches = _branched(setting, questions, texts, search) if search.branching else nothing
    unlike = [_distinct([*said, *found.texts]) for said, found in zip(texts, branches, strict=True)]
    unread = [
        (question, text)
        for question, found, answers in zip(questions, branches, unlike, strict=True)
        for text in answers
        if text not in found.logprobs
    ]
    logprobs = iter(_logprobs(setting, unread))
    return [
        CandidateAnswers(
            wrong=(usable := tuple(text for text in answers if wrong_for_sure(question, text))),
            distinct=tuple(answers),
            sources=tuple(_source(text, said, found.texts) for text in answers),
            logprobs=tuple(found.logprobs[text] if text in found.logprobs else next(logprobs) for text in answers),
            branched=tuple(text for text in found.texts if wrong_for_sure(question, text)),
            tries=drawn,
            branches=found.followed,
            vetoed=len(answers) - len(usable),
        )
        for question, (said, drawn), found, answers in zip(questions, samples, branches, unlike, strict=True)
    ]


def wrong_for_sure(question: Question, answer: str) -> bool:
    """Not right in other words either, and no word of the question, which is no answer to it."""
    return f" {normalised(answer)} " not in f" {normalised(question.text)} " and not may_be_right(question, answer)


def sampled_wrong(record: Record) -> tuple[str, ...]:
    """The wrong answers of a record that stand in the paper's comparison. Older runs, without sources, sampled all."""
    sources = dict(zip(record["distinct"], record.get("sources", ()), strict=False))
    return tuple(text for text in record["wrong"] if sources.get(text, "sampled") in SAMPLED)


def _distinct(texts: Iterable[str]) -> list[str]:
    """The texts that differ in more than looks, each as it was first written; none without a word."""
    by_words: dict[str, str] = {}
    for text in texts:
        if normalised(text):
            by_words.setdefault(normalised(text), text)
    return list(by_words.values())


def _source(text: str, sampled: Sequence[str], branched: Sequence[str]) -> Source:
    ways = [normalised(text) in map(normalised, said) for said in (sampled, branched)]
    return "both" if all(ways) else "sampled" if ways[0] else "branched"


def _logprobs(setting: "Setting", answers: Sequence[tuple[Question, str]]) -> list[float]:
    return setting.reader.answer_logprobs([setting.prompter.transcript(*one) for one in answers])


def _usable(setting: "Setting", question: Question, said: Continuation) -> bool:
    """It is a whole answer that can be put to the model."""
    return said.finished and bool(normalised(said.text)) and setting.prompter.speakable(question, said.text)


def _sampled(setting: "Setting", questions: Sequence[Question], search: Search) -> list[tuple[list[str], int]]:
    """For each question its distinct samples, and how many were drawn."""
    texts: list[list[str]] = [[] for _ in questions]
    drawn = [0] * len(questions)
    prompts = [setting.prompter.transcript(question).ids for question in questions]
    while True:
        short = [
            i
            for i, question in enumerate(questions)
            if drawn[i] < search.tries and not _enough(question, texts[i], texts[i], search)
        ]
        if not short:
            return list(zip(texts, drawn, strict=True))
        most = {i: search.tries - drawn[i] for i in short}
        wanted = [i for i in short for _ in range(min(_draws(search.distinct - len(texts[i]), drawn[i]), most[i]))]
        draws = []
        for i in wanted:
            draws.append(source_of_chance(search.seed, questions[i], drawn[i]))
            drawn[i] += 1
        samples = setting.generator.sampled([prompts[i] for i in wanted], draws, top_p=search.top_p)
        for i, said in zip(wanted, samples, strict=True):
            if _usable(setting, questions[i], said):
                texts[i] = _distinct([*texts[i], said.text])


def _draws(missing: int, drawn: int) -> int:
    """How many samples to draw next: as many as are missing, and four times that once it is known that some repeat."""
    return max(8, 4 * missing) if drawn else max(4, missing)


def _enough(question: Question, texts: Sequence[str], candidates: Sequence[str], search: Search) -> bool:
    """There are enough wrong ones among the texts, and enough candidates."""
    wrong = sum(wrong_for_sure(question, text) for text in texts)
    return len(candidates) >= search.distinct and wrong >= search.wrong


class _Branches:
    """The beginnings of one question's answers: which were followed, to what, and which are left, likeliest first."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        """The distinct answers that branches led to."""
        self.logprobs: dict[str, float] = {}
        """The log-probability of every answer that a branch led to."""
        self.followed = 0
        """How many branches were."""
        self._known: dict[tuple[int, ...], float] = {}  # every beginning with its log-probability
        self._taken: set[tuple[int, ...]] = set()

    def starts(self, count: int) -> list[Start]:
        """The likeliest beginnings that were not followed yet."""
        self.followed += count
        if not self._known:
            return [Start(rank=rank) for rank in range(count)]
        left = sorted(self._known.keys() - self._taken, key=lambda first: (-self._known[first], first))
        return [Start(first) for first in left[:count]]

    def note(self, branch: Branch, ends: frozenset[int]) -> None:
        """Takes in what else could have stood at the beginning of a branch. ends: tokens that end a line."""
        logprob = 0.0
        for place, likely in enumerate(branch.forks):
            before = branch.first[:place]
            for token, step in likely:
                if place or token not in ends:  # what ends the line at once is no answer
                    self._known.setdefault((*before, token), logprob + step)
            logprob += dict(likely).get(branch.first[place], float("-inf"))
            self._taken.add(branch.first[: place + 1])


def _branched(
    setting: "Setting", questions: Sequence[Question], sampled: Sequence[Sequence[str]], search: Search
) -> list[_Branches]:
    """For each question the answers by branching: a round at least, then until `wrong` of them are wrong and there are
    `distinct` candidates together with what was sampled."""
    found = [_Branches() for _ in questions]
    prompts = [setting.prompter.transcript(question).ids for question in questions]
    ends = frozenset(setting.generator.stops.tolist())
    for count in ROUNDS:
        short = [
            i
            for i, question in enumerate(questions)
            if not found[i].followed
            or not _enough(question, found[i].texts, _distinct([*sampled[i], *found[i].texts]), search)
        ]
        begun = [(i, start) for i in short for start in found[i].starts(count)]
        branches = setting.generator.branched([prompts[i] for i, _ in begun], [start for _, start in begun])
        fresh: list[tuple[int, str]] = []
        for (i, _), branch in zip(begun, branches, strict=True):
            found[i].note(branch, ends)
            if _usable(setting, questions[i], branch.said):
                fresh.append((i, branch.said.text))
        logprobs = _logprobs(setting, [(questions[i], text) for i, text in fresh])
        for (i, text), logprob in sorted(zip(fresh, logprobs, strict=True), key=lambda one: -one[1]):
            found[i].texts = _distinct([*found[i].texts, text])
            found[i].logprobs[text] = logprob
    return found


def _letters(setting: "Setting", question: Question, seed: int) -> CandidateAnswers:
    source: Source = "choice"
    letters = _letter_order(question, seed)
    return CandidateAnswers(
        wrong=tuple(letter for letter in letters if letter != question.answers[0]),
        distinct=letters,
        sources=(source,) * len(letters),
        logprobs=tuple(_logprobs(setting, [(question, letter) for letter in letters])),
        branched=(),
        tries=0,
        branches=0,
        vetoed=1,
    )


def _letter_order(question: Question, seed: int) -> tuple[str, ...]:
    """The letters in an order drawn by chance: the first one would always be the same, and models prefer some."""
    return tuple(LETTERS[i] for i in source_of_chance(seed, question, 0).permutation(len(question.choices)))
