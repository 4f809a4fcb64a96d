"""Candidate answers to a question: distinct answers of the model, found by top-p samples and by branching, and vetted.

A model that knows an answer hardly ever samples a wrong one. Branching finds wrong ones nevertheless: it continues the
likeliest first tokens greedily, then beginnings of two tokens, the likeliest first. The module knows nothing of what is
measured with the answers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.datasets.choices import LETTERS
from interp.datasets.grading import MatchName, is_right, may_be_right
from interp.datasets.words import normalised
from interp.measures import CandidateAnswers
from interp.models.elicitation import Branch, Continuation, Start, source_of_chance
from interp.records import Question, Source
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.setting import Setting

SAMPLED: tuple[Source, ...] = ("sampled", "both", "choice")
"""The sources of answers in the paper's comparison; in multiple choice the letters stand in for samples."""
ROUNDS = (8, 16, 32, 64)
"""How many branches are followed in each round, until enough answers are found. The sizes do not depend on the number
of candidates that is asked for: a larger number only adds rounds, and the first branches stay the same."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """How many answers are looked for, and how."""

    wrong: int
    """How many usable wrong answers are wanted among samples, and again among branches."""
    distinct: int
    """How many distinct answers, right or wrong, are wanted of samples and branches together."""
    seed: int
    """The seed of the samples."""
    top_p: float
    """The probability mass of the nucleus that samples are drawn from."""
    tries: int
    """How many samples are drawn for a question, at most."""
    branching: bool = True
    """Branches are followed as well."""
    vetting: bool = True
    """A wrong answer must be wrong for sure; else whatever does not match is wrong, as in the paper."""
    match: MatchName = "words"
    """When an answer is right; only without vetting, which is stricter than either."""


def candidate_answers(setting: "Setting", questions: Sequence[Question], search: Search) -> list[CandidateAnswers]:
    """The candidate answers to each question.

    Top-p samples are drawn until there are `wrong` usable wrong answers and `distinct` distinct ones, at most `tries`.
    Then branches are followed until `wrong` of their answers are wrong and there are `distinct` distinct answers in
    all. Every question has at least one round of branches, whatever its samples gave, so that numbers that rest on
    branches rest on all questions. Multiple choice needs neither: the other letters are the wrong answers.

    Args:
        setting: the model in its format.
        questions: all of one kind, open or multiple choice.
        search: how many answers are looked for, and how.

    Returns:
        One entry for each question, in the order given.
    """
    if setting.prompter.choices:
        return [_letters(setting, question, search.seed) for question in questions]
    samples = _sampled(setting, questions, search)
    no_branches = [_Branches() for _ in questions]
    sampled = [texts for texts, _ in samples]
    branches = _branched(setting, questions, sampled, search) if search.branching else no_branches
    distinct = [_distinct([*texts, *branched.texts]) for texts, branched in zip(sampled, branches, strict=True)]
    # branches know the log-probabilities of their answers; all others are read in one call and taken in this order
    unread = [
        (question, text)
        for question, branched, answers in zip(questions, branches, distinct, strict=True)
        for text in answers
        if text not in branched.logprobs
    ]
    logprobs = iter(_logprobs(setting, unread))
    return [
        CandidateAnswers(
            wrong=(usable := tuple(text for text in answers if counts_as_wrong(question, text, search))),
            distinct=tuple(answers),
            sources=tuple(_source(text, texts, branched.texts) for text in answers),
            logprobs=tuple(
                branched.logprobs[text] if text in branched.logprobs else next(logprobs) for text in answers
            ),
            branched=tuple(text for text in branched.texts if counts_as_wrong(question, text, search)),
            tries=drawn,
            branches=branched.followed,
            vetoed=len(answers) - len(usable),
        )
        for question, (texts, drawn), branched, answers in zip(questions, samples, branches, distinct, strict=True)
    ]


def wrong_for_sure(question: Question, answer: str) -> bool:
    """Whether an answer can be used as a wrong one.

    It must not be right in other words, and must not be a part of the question, which would be no answer to it."""
    return f" {normalised(answer)} " not in f" {normalised(question.text)} " and not may_be_right(question, answer)


def counts_as_wrong(question: Question, answer: str, search: Search) -> bool:
    """Whether an answer is used as a wrong one: where answers are vetted, if it is wrong for sure; else if it is not an
    exact match of an accepted answer, as in the paper."""
    return wrong_for_sure(question, answer) if search.vetting else not is_right(question, answer, search.match)


def sampled_wrong(record: Record) -> tuple[str, ...]:
    """The wrong answers of a record that belong to the paper's comparison.

    record: a `CandidateAnswers` in plain fields. Records of older runs hold no sources: all answers were sampled."""
    sources = dict(zip(record["distinct"], record.get("sources", ()), strict=False))
    return tuple(text for text in record["wrong"] if sources.get(text, "sampled") in SAMPLED)


def _distinct(texts: Iterable[str]) -> list[str]:
    """The texts that differ in more than surface form, each as it was first written; none without a word."""
    by_words: dict[str, str] = {}
    for text in texts:
        if normalised(text):
            by_words.setdefault(normalised(text), text)
    return list(by_words.values())


def _source(text: str, sampled: Sequence[str], branched: Sequence[str]) -> Source:
    """How an answer came about, given all sampled and all branched answers."""
    ways = [normalised(text) in map(normalised, answers) for answers in (sampled, branched)]
    return "both" if all(ways) else "sampled" if ways[0] else "branched"


def _logprobs(setting: "Setting", answers: Sequence[tuple[Question, str]]) -> list[float]:
    """The log-probability (nats) of each answer to its question."""
    return setting.reader.answer_logprobs(
        [setting.prompter.transcript(question, answer) for question, answer in answers]
    )


def _usable(setting: "Setting", question: Question, continuation: Continuation) -> bool:
    """Whether it is a whole answer that can be put to the model."""
    text = continuation.text
    return continuation.finished and bool(normalised(text)) and setting.prompter.speakable(question, text)


def _sampled(setting: "Setting", questions: Sequence[Question], search: Search) -> list[tuple[list[str], int]]:
    """For each question (its distinct samples, how many samples were drawn)."""
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
        # one entry for each sample to draw: a question's number occurs as often as it gets samples
        wanted = [i for i in short for _ in range(min(_draws(search.distinct - len(texts[i]), drawn[i]), most[i]))]
        draws = []
        for i in wanted:
            draws.append(source_of_chance(search.seed, questions[i], drawn[i]))
            drawn[i] += 1
        samples = setting.generator.sampled([prompts[i] for i in wanted], draws, top_p=search.top_p)
        for i, sample in zip(wanted, samples, strict=True):
            if _usable(setting, questions[i], sample):
                texts[i] = _distinct([*texts[i], sample.text])


def _draws(missing: int, drawn: int) -> int:
    """How many samples to draw next: as many as are missing, at least 4; after the first draws, whose samples repeated,
    four times as many, at least 8."""
    return max(8, 4 * missing) if drawn else max(4, missing)


def _enough(question: Question, texts: Sequence[str], candidates: Sequence[str], search: Search) -> bool:
    """Whether enough of the texts are wrong, and the candidates are enough."""
    wrong = sum(counts_as_wrong(question, text, search) for text in texts)
    return len(candidates) >= search.distinct and wrong >= search.wrong


class _Branches:
    """The search by branching for one question.

    It holds the beginnings of answers that are known, which of them were followed, and the answers that came of it."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        """The distinct answers that branches led to."""
        self.logprobs: dict[str, float] = {}
        """The log-probability of every answer that a branch led to."""
        self.followed = 0
        """How many branches were followed."""
        self._known: dict[tuple[int, ...], float] = {}  # every known beginning with its log-probability
        self._taken: set[tuple[int, ...]] = set()  # the beginnings that were followed

    def starts(self, count: int) -> list[Start]:
        """The `count` likeliest beginnings that were not followed yet; counts them as followed."""
        self.followed += count
        if not self._known:  # the first round: tokens are not known yet, only their ranks
            return [Start(rank=rank) for rank in range(count)]
        # equal ones in the order of their token ids, so that the order is the same in every run
        left = sorted(self._known.keys() - self._taken, key=lambda first: (-self._known[first], first))
        return [Start(first) for first in left[:count]]

    def note(self, branch: Branch, ends: frozenset[int]) -> None:
        """Adds the beginnings that leave a branch at one of its first tokens. ends: tokens that end a line."""
        logprob = 0.0  # of the branch's tokens before `place`
        for place, likely in enumerate(branch.forks):
            before = branch.first[:place]
            for token, step in likely:
                if place or token not in ends:  # a line that ends at once holds no answer
                    self._known.setdefault((*before, token), logprob + step)
            logprob += dict(likely).get(branch.first[place], float("-inf"))
            self._taken.add(branch.first[: place + 1])


def _branched(
    setting: "Setting", questions: Sequence[Question], sampled: Sequence[Sequence[str]], search: Search
) -> list[_Branches]:
    """The branches of each question.

    There is at least one round, then more until `wrong` of their answers are wrong and there are `distinct` candidates
    together with the sampled answers."""
    searches = [_Branches() for _ in questions]
    prompts = [setting.prompter.transcript(question).ids for question in questions]
    ends = frozenset(setting.generator.stops.tolist())
    for count in ROUNDS:
        short = [
            i
            for i, question in enumerate(questions)
            if not searches[i].followed
            or not _enough(question, searches[i].texts, _distinct([*sampled[i], *searches[i].texts]), search)
        ]
        starts = [(i, start) for i in short for start in searches[i].starts(count)]  # (question, start)
        branches = setting.generator.branched([prompts[i] for i, _ in starts], [start for _, start in starts])
        fresh: list[tuple[int, str]] = []  # (question, answer)
        for (i, _), branch in zip(starts, branches, strict=True):
            searches[i].note(branch, ends)
            if _usable(setting, questions[i], branch.answer):
                fresh.append((i, branch.answer.text))
        logprobs = _logprobs(setting, [(questions[i], text) for i, text in fresh])
        for (i, text), logprob in sorted(zip(fresh, logprobs, strict=True), key=lambda pair: -pair[1]):
            searches[i].texts = _distinct([*searches[i].texts, text])
            searches[i].logprobs[text] = logprob
    return searches


def _letters(setting: "Setting", question: Question, seed: int) -> CandidateAnswers:
    """The letters of a multiple choice question as its candidate answers; the right one counts as vetoed."""
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
    """The letters in random order, since the first wrong one is used and models prefer some letters."""
    return tuple(LETTERS[i] for i in source_of_chance(seed, question, 0).permutation(len(question.choices)))
