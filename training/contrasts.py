"""Which two answers of a triplet are set against each other in a mini-batch, and in which surface form.

By default the paper's: the right answer and a wrong one, as they are. This module knows no model; how many tokens an
answer has is told by a function."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from interp.datasets.grading import may_be_right
from interp.datasets.words import normalised
from training.recipes import Contrast
from training.triplets import Triplet

Item = TypeVar("Item")
DISTRACTORS = 4
"""Distractors that a triplet has at most: more than passes over the triplets."""
SURFACE_FORMS: tuple[Callable[[str], str], ...] = (
    str.upper,
    str.lower,
    lambda answer: f'"{answer}"',
    lambda answer: f"'{answer}'",
)
"""Letter case and quotation marks. A measurement of what training has generalised to takes other forms."""


def rewritten(answer: str, chance: random.Random) -> str:
    """A surface-form variant of an answer: another of `SURFACE_FORMS` than the one it has; one always differs."""
    variants = [variant for form in SURFACE_FORMS if (variant := form(answer)) != answer]
    return chance.choice(variants)


def with_distractors(triplets: Sequence[Triplet], seed: int) -> list[Triplet]:
    """The triplets with right answers to other questions of their relation, which must not be right here as well.

    Args:
        triplets: The triplets; one without a relation gets no distractor.
        seed: Decides which answers are taken.

    Returns:
        The triplets in the order given, each with up to `DISTRACTORS` distractors.
    """
    answers: dict[str, dict[str, str]] = {}  # by relation, each right answer once, by its words
    for triplet in triplets:
        answers.setdefault(triplet.question.relation, {}).setdefault(normalised(triplet.right), triplet.right)

    def taken(triplet: Triplet) -> tuple[str, ...]:
        pool = list(answers[triplet.question.relation].values()) if triplet.question.relation else []
        random.Random(f"{seed}-{triplet.question.id}").shuffle(pool)
        fitting = (answer for answer in pool if not may_be_right(triplet.question, answer))
        return tuple(answer for answer, _ in zip(fitting, range(DISTRACTORS), strict=False))

    return [replace(triplet, distractors=taken(triplet)) for triplet in triplets]


def contrasted(
    triplet: Triplet, contrast: Contrast, epoch: int, chance: random.Random, tokens: Callable[[str], int]
) -> tuple[str, str]:
    """The right and the wrong answer that a pass over the triplets takes.

    Args:
        triplet: The triplet.
        contrast: Says from where wrong answers are taken and how answers are written.
        epoch: Which pass this is, from 0; each takes the next of the wrong answers.
        chance: Decides between wrong answers and distractors, and the surface forms.
        tokens: How many tokens an answer has.

    Returns:
        (right answer, wrong answer), each as it is written.
    """
    greedy = triplet.greedy_wrong  # its wrong answer is the point of it, and stays
    distractor = not greedy and bool(triplet.distractors) and chance.random() < contrast.same_relation
    wrong = triplet.distractors if distractor else (triplet.wrong, *triplet.others)
    if contrast.equal_length:
        gaps = [abs(tokens(answer) - tokens(triplet.right)) for answer in wrong]
        wrong = tuple(answer for answer, gap in zip(wrong, gaps, strict=True) if gap == min(gaps))
    pair = (triplet.right, wrong[epoch % len(wrong)])
    right, wrong_answer = (
        rewritten(answer, chance) if chance.random() < contrast.variants else answer for answer in pair
    )
    return right, wrong_answer


def in_proportion(
    items: Sequence[Item], is_of_kind: Callable[[Item], bool], share: float | None, seed: int
) -> list[Item]:
    """The items with those of one kind repeated or dropped until they have a share of all.

    Args:
        items: All items.
        is_of_kind: Whether an item is of the kind.
        share: In [0, 1); None leaves the items as they are, and so do items of one kind alone.
        seed: Decides which are repeated once more, or dropped.

    Returns:
        The others in the order given, then those of the kind.
    """
    of_kind, others = [item for item in items if is_of_kind(item)], [item for item in items if not is_of_kind(item)]
    if share is None or not of_kind or not others:
        return list(items)
    wanted = round(share / (1 - share) * len(others))
    random.Random(f"in-proportion-{seed}").shuffle(of_kind)
    return others + [of_kind[i % len(of_kind)] for i in range(wanted)]
