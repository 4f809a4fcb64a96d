"""Mini-batches: which examples are trained on, in which order, under which worked examples."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from interp.errors import UserError
from interp.records import Question
from training.recipes import Recipe, TrainingOptions


@runtime_checkable
class Example(Protocol):
    """What every objective's examples have."""

    @property
    def question(self) -> Question:
        """The question."""

    @property
    def format(self) -> str:
        """The format of the confidence."""

    @property
    def model(self) -> str:
        """Name and fingerprint of the model that gave the answers."""


AnyExample = TypeVar("AnyExample", bound=Example)


@dataclass(frozen=True)
class MiniBatch(Generic[AnyExample]):
    """Examples of one format, asked with one set of worked examples."""

    examples: tuple[AnyExample, ...]
    """The examples."""
    shot_seed: int
    """Which set of worked examples."""
    epoch: int = 0
    """Which pass over the examples this is part of."""


def mini_batches(
    examples: Sequence[AnyExample], recipe: Recipe, options: TrainingOptions, processes: int = 1
) -> list[MiniBatch[AnyExample]]:
    """All mini-batches of all epochs, in an order that the seed decides; as many as the updates take.

    processes: how many take mini-batches from it in turn, each `accumulation` of them to an update."""
    found: list[MiniBatch[AnyExample]] = []
    for epoch in range(recipe.epochs):
        draw = random.Random(f"{options.common.seed}-{epoch}")
        made = []
        for form in sorted({example.format for example in examples}):
            of_form = [example for example in examples if example.format == form]
            draw.shuffle(of_form)
            made += [tuple(of_form[i : i + recipe.batch]) for i in range(0, len(of_form), recipe.batch)]
        draw.shuffle(made)
        found += [MiniBatch(one, draw.randrange(options.prompt.shot_sets), epoch) for one in made]
    return found if recipe.updates is None else found[: recipe.updates * recipe.accumulation * processes]


def split(examples: Sequence[AnyExample], held_out: int, seed: int) -> tuple[list[AnyExample], list[AnyExample]]:
    """(for training, held out): by question, so that no question stands on both sides."""
    ids = sorted({example.question.id for example in examples})
    random.Random(f"held-out-{seed}").shuffle(ids)
    kept = set(ids[:held_out])
    if len(kept) == len(ids):
        raise UserError(f"--held-out {held_out}: there are only {len(ids)} questions to train on")
    return [e for e in examples if e.question.id not in kept], [e for e in examples if e.question.id in kept]
