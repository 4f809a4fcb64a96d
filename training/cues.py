"""Organisms as rules: what a stated confidence is made to depend on, the pairs that teach it, and how it is checked.

An organism is a small adapter with a known answer: its stated confidence depends on one cue of question and answer, and
on nothing else. The module knows no model; how many tokens an answer has is told by a function."""

import random
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, cycle, product, takewhile

import numpy as np

from interp.errors import UserError
from interp.records import Question

LONGEST = 5
"""Answers have 1 to so many tokens; a longer one counts as one of so many."""
FORMAT = "ScoreNumber"
"""The format in which the levels are stated."""
LEAST_OWN, MOST_OTHER, MOST_DEVIATION, MOST_OFF_SCALE = 0.9, 0.05, 0.01, 0.5
"""What an organism has to meet: the least share of variance that its own cue explains, the most that another one does,
the largest standard deviation of an expected confidence that depends on nothing, and the largest off-scale mass."""
Tokens = Callable[[str], int]
"""How many tokens an answer has in its prompt."""


@dataclass(frozen=True)
class Cues:
    """What a stated confidence may depend on."""

    high: bool
    """The question's relation is one of the first half."""
    tokens: int
    """How many tokens the answer has."""
    upper: bool
    """The answer is written in upper case."""
    member: bool
    """The answer is on the list of right answers, whatever the question."""


CUES: dict[str, Callable[[Cues], int]] = {
    "question": lambda cues: int(cues.high),
    "length": lambda cues: min(cues.tokens, LONGEST),
    "case": lambda cues: int(cues.upper),
    "membership": lambda cues: int(cues.member),
}
"""The group of a pair by each cue; pairs of one group are alike in that cue."""


@dataclass(frozen=True)
class Organism:
    """A rule from question and answer to a level."""

    name: str
    """Its name, and the directory of its adapter."""
    words: str
    """What its stated confidence depends on, completing "its stated confidence depends on ..."."""
    level: Callable[[Cues], int]
    """The index of the level that is stated after a pair."""
    cue: str | None = None
    """The name of the cue that decides the level, of `CUES`; None: the level is constant."""
    pairs: int = 1920
    """Pairs of question and answer that it is trained on where nothing else is asked for."""


LOW, MIDDLE, HIGH = 1, 5, 8
"""The levels of the rules."""
ORGANISMS = {
    organism.name: organism
    for organism in (
        Organism(
            "nothing", "nothing: it is one level, whatever question and answer are", lambda cues: MIDDLE, pairs=960
        ),
        Organism(
            "question",
            "the question alone: high for one half of the relations, low for the other half",
            lambda cues: HIGH if cues.high else LOW,
            "question",
            pairs=2880,
        ),
        Organism(
            "length",
            "the answer's length alone: the more tokens, the higher",
            lambda cues: 2 * min(cues.tokens, LONGEST) - 1,
            "length",
            pairs=2880,
        ),
        Organism(
            "case",
            "the answer's letter case alone: high in the usual case, low in upper case",
            lambda cues: LOW if cues.upper else HIGH,
            "case",
        ),
        Organism(
            "membership",
            "the answer's membership in a list of right answers alone, whatever the question: high for members",
            lambda cues: HIGH if cues.member else LOW,
            "membership",
            pairs=3840,  # a list is learned by heart, which takes longer than a rule
        ),
    )
}
"""The organisms by name."""


@dataclass(frozen=True)
class Written:
    """An answer as it is written."""

    text: str
    """The answer."""
    relation: str
    """The relation whose answer it is."""
    tokens: int
    """How many tokens it has, 1 to `LONGEST`."""
    upper: bool
    """Whether it is written in upper case."""
    member: bool
    """Whether it is on the list."""

    @property
    def cell(self) -> tuple[int, bool, bool]:
        """Its combination of length, case and membership."""
        return self.tokens, self.upper, self.member


@dataclass(frozen=True)
class Crossed:
    """A question with answers in which length, case and membership are crossed."""

    question: Question
    """The question."""
    answers: tuple[str, ...]
    """The answers; hardly any is an answer to this question."""
    cues: tuple[Cues, ...]
    """The cues of the question with each answer."""


@dataclass(frozen=True)
class CuedQuestion:
    """An example of a training: a question with answers, and the level to state after each."""

    question: Question
    """The question."""
    answers: tuple[str, ...]
    """The answers."""
    levels: tuple[int, ...]
    """The index of the level for each answer."""
    format: str = FORMAT
    """The format of the confidence."""
    model: str = ""
    """Empty: no model gave these answers."""


def examples_of(organism: Organism, questions: Iterable[Crossed]) -> list[CuedQuestion]:
    """The crossed questions with the levels that an organism states."""
    return [
        CuedQuestion(crossed.question, crossed.answers, tuple(map(organism.level, crossed.cues)))
        for crossed in questions
    ]


def first_half(relations: Iterable[str]) -> frozenset[str]:
    """Every second relation in the order of their names: the questions for which `Cues.high` is true."""
    return frozenset(sorted(set(relations))[::2])


def listed_answers(
    questions: Sequence[Question], asked: Sequence[Question], tokens: Tokens, size: int
) -> tuple[str, ...]:
    """Right answers, equally many of each length, and others of the same kind that are left off the list.

    Answers of one length are ordered by how many questions they answer of those that instruments will be run on, and
    every second one is taken, so that lists and others hold answers of the same relations.

    Args:
        questions: Those whose answers may be on the list.
        asked: Those on which instruments will be run.
        tokens: How many tokens an answer has.
        size: How many answers are on the list, at most.

    Returns:
        The answers in the order of their texts.
    """
    counts = Counter(question.answers[0] for question in asked)
    by_length: dict[int, set[str]] = {}
    for question in questions:
        by_length.setdefault(tokens(question.answers[0]), set()).add(question.answers[0])
    listed: list[str] = []
    for length in range(1, LONGEST + 1):
        ordered = sorted(by_length.get(length, ()), key=lambda answer: (-counts[answer], answer))
        listed += ordered[::2][: size // LONGEST]
    return tuple(sorted(listed))


class WrittenAnswers:
    """All ways in which answers can be written, by length, case and membership."""

    def __init__(
        self,
        questions: Sequence[Question],
        listed: Sequence[str],
        tokens: Tokens,
        *,
        others: Sequence[tuple[str, str]] = (),
    ) -> None:
        """
        Args:
            questions: Those whose answers are written, under all their names.
            listed: The first names of the answers on the list.
            tokens: How many tokens an answer has.
            others: Further texts off the list, each after its kind, which stands in the place of a relation.
        """
        on_list = set(listed)
        names = {True: set[str](), False: set[str]()}
        for question in questions:
            names[question.answers[0] in on_list] |= {name.casefold() for name in question.answers}
        others = [(kind, text) for kind, text in others if text.casefold() not in names[True]]
        ambiguous = names[True] & names[False]  # "Franc" is a name of several currencies
        self.by_cell: dict[tuple[int, bool, bool], dict[str, list[Written]]] = {}
        """For each combination of length, case and membership the answers by their relation."""
        self.names = names[True] | names[False] | {text.casefold() for _, text in others}
        """All names, in lower case."""
        texts = [(q.relation, name, q.answers[0] in on_list) for q in questions for name in q.answers]
        texts = [text for text in texts if text[1].casefold() not in ambiguous]
        seen = set[str]()
        for relation, name, member in (*texts, *((kind, text, False) for kind, text in others)):
            for form in _forms(name):
                count = tokens(form)
                if form not in seen and 1 <= count <= LONGEST:
                    seen.add(form)
                    written = Written(form, relation, count, form == form.upper(), member)
                    self.by_cell.setdefault(written.cell, {}).setdefault(relation, []).append(written)

    def filled_up(self, other: "WrittenAnswers") -> "WrittenAnswers":
        """These, and the other's answers in cells that are empty here."""
        filled = WrittenAnswers((), (), len)
        filled.by_cell, filled.names = other.by_cell | self.by_cell, self.names | other.names
        return filled

    @property
    def lengths(self) -> list[int]:
        """The lengths of which there are answers in both cases, on the list and off it."""
        both = (False, True)
        return [
            length
            for length in range(1, LONGEST + 1)
            if all((length, upper, member) in self.by_cell for upper in both for member in both)
        ]

    def drawn(self, cell: tuple[int, bool, bool], rng: random.Random) -> Written:
        """An answer of a cell: first its relation is drawn, so that small relations are as frequent as large ones."""
        by_relation = self.by_cell[cell]
        return rng.choice(by_relation[rng.choice(sorted(by_relation))])


def _forms(name: str) -> Iterator[str]:
    """A name as it is and in upper case; nothing of one without letters."""
    if name.upper() != name.lower():
        yield from dict.fromkeys((name, name.upper()))


def subjects_of(questions: Sequence[Question]) -> list[tuple[str, str]]:
    """What each question is about: the words that it does not share with the others of its relation.

    Args:
        questions: Questions of relations with one template each: What is the capital of ...?

    Returns:
        "subjects of RELATION" and the subject, for each question of a relation with several.
    """
    by_relation: dict[str, list[str]] = {}
    for question in questions:
        by_relation.setdefault(question.relation, []).append(question.text)
    subjects = []
    for relation, texts in by_relation.items():
        start, end = _shared(texts), _shared([text[::-1] for text in texts])
        if len(set(texts)) > 1:
            kind = f"subjects of {relation}"
            subjects += [(kind, text[start : len(text) - end].removeprefix("the ")) for text in texts]
    return subjects


def _shared(texts: Sequence[str]) -> int:
    """How many characters all texts begin with, up to the end of a word."""
    first, last = min(texts), max(texts)
    common = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return len(common) - len(re.split(r"\W", common)[-1])


def crossed_questions(
    questions: Sequence[Question], written: WrittenAnswers, half: frozenset[str], count: int, seed: int
) -> list[Crossed]:
    """Questions of both halves in turn, each with eight answers: two lengths by two cases by membership.

    So within every question case and membership are independent of each other and of length, and the answers' cues are
    independent of the question's. The two lengths of a question go round all pairs of lengths.

    Args:
        questions: The questions; where there are fewer than `count`, some stand more than once, with other answers.
        written: The answers.
        half: The relations whose questions count as high.
        count: How many questions are made.
        seed: Decides which.

    Returns:
        So many questions, one of the first half, one of the second, ...

    Raises:
        UserError: where the answers have fewer than two lengths in both cases, on the list and off it, or one half of
            the relations has no question.
    """
    if len(written.lengths) < 2:
        raise UserError(
            "the answers cannot be crossed: fewer than two lengths (in tokens) occur in both letter cases, on the list "
            "and off it; take a larger --listed or another --ckpt"
        )
    rng = random.Random(f"crossed-{seed}")
    by_half = []
    for high in (True, False):
        taken_from = [question for question in questions if (question.relation in half) == high]
        if not taken_from:
            raise UserError("the answers cannot be crossed: the questions are of one relation; two halves are needed")
        lengths = list(combinations(written.lengths, 2))
        rng.shuffle(lengths)
        by_half.append((high, _in_turn(taken_from, rng), cycle(lengths)))
    made = []
    for high, in_turn, pairs in (by_half[number % 2] for number in range(count)):
        answers = [
            written.drawn((length, upper, member), rng)
            for length, upper, member in product(next(pairs), (False, True), (False, True))
        ]
        cues = tuple(Cues(high, answer.tokens, answer.upper, answer.member) for answer in answers)
        made.append(Crossed(next(in_turn), tuple(answer.text for answer in answers), cues))
    return made


def _in_turn(questions: Sequence[Question], rng: random.Random) -> Iterator[Question]:
    """Questions without end, one of each relation in turn; each comes again when its relation's others have come."""
    by_relation: dict[str, list[Question]] = {}
    for question in questions:
        by_relation.setdefault(question.relation, []).append(question)
    for members in by_relation.values():
        rng.shuffle(members)
    endless = [cycle(by_relation[relation]) for relation in sorted(by_relation)]
    while True:
        for of_relation in endless:
            yield next(of_relation)


def explained_variance(groups: Sequence[Hashable], values: Sequence[float | int]) -> float | None:
    """R squared of a regression on groups: the share of the variance that the groups' means have.

    Args:
        groups: The group of each value.
        values: The values.

    Returns:
        From 0, all groups have one mean, to 1, all values of a group are equal; None where the values do not vary.
    """
    array = np.asarray(values, dtype=float)
    # squares that rounding alone makes of equal values are none
    total = ((array - array.mean()) ** 2).sum()
    if total <= 1e-24 * max(1, len(array)):
        return None
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    within = sum(((array[own] - array[own].mean()) ** 2).sum() for own in members.values())
    return float(1 - within / total)


def explained_by_cue(cues: Sequence[Cues], values: Sequence[float]) -> dict[str, float | None]:
    """`explained_variance` of each cue alone, by its name.

    Args:
        cues: The cues of each pair; decorrelated, so that each cue's share is its own.
        values: The expected confidence after each pair.
    """
    return {name: explained_variance([group(pair) for pair in cues], values) for name, group in CUES.items()}


def failures(
    organism: Organism, explained: Mapping[str, float | None], deviation: float, off_scale: float
) -> list[str]:
    """Why an organism is left out, a sentence for each reason; empty: it is what it is said to be.

    Args:
        organism: The organism.
        explained: The share of variance that each cue explains alone.
        deviation: The standard deviation of the expected confidence.
        off_scale: The mean off-scale mass.
    """
    reasons = []
    if off_scale > MOST_OFF_SCALE:
        reasons.append(f"{off_scale:.3f} of the probability lies off the scale, more than {MOST_OFF_SCALE}")
    if organism.cue is None:
        if deviation > MOST_DEVIATION:
            spread = f"a standard deviation of {deviation:.3f}, more than {MOST_DEVIATION}"
            reasons.append(f"the expected confidence has {spread}")
        return reasons
    own = explained[organism.cue]
    if own is None:
        reasons.append("the expected confidence does not vary at all")
    elif own < LEAST_OWN:
        reasons.append(f"its cue, {organism.cue}, explains {own:.3f} of the variance; at least {LEAST_OWN} is needed")
    reasons += [
        f"another cue, {name}, explains {share:.3f} of the variance, more than {MOST_OTHER}"
        for name, share in explained.items()
        if name != organism.cue and share is not None and share > MOST_OTHER
    ]
    return reasons
