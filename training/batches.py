"""Mini-batches: which examples are trained on, in which order, under which worked examples.

This module knows nothing of models, prompts or losses; it deals with any example that names its question and format."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    progress: float = 0.0
    """Which share of all mini-batches comes before it, in [0, 1)."""


def mini_batches(
    examples: Sequence[AnyExample], recipe: Recipe, options: TrainingOptions, processes: int = 1
) -> list[MiniBatch[AnyExample]]:
    """All mini-batches of all epochs, in an order that the seed decides.

    Args:
        examples: What is trained on.
        recipe: Says how many examples are in a mini-batch, how many epochs and how many updates there are.
        options: Give the seed and the number of sets of worked examples.
        processes: How many processes take mini-batches from the list in turn, each `accumulation` of them to an update.

    Returns:
        Every example once for each epoch, or the first mini-batches that `recipe.updates` updates take.
    """
    batches: list[MiniBatch[AnyExample]] = []
    for epoch in range(recipe.epochs):
        # a generator for each epoch, so that its order does not depend on what earlier epochs drew
        rng = random.Random(f"{options.common.seed}-{epoch}")
        groups = []
        for form in sorted({example.format for example in examples}):
            same_format = [example for example in examples if example.format == form]
            rng.shuffle(same_format)
            # the last mini-batch of a format may be smaller
            groups += [tuple(same_format[i : i + recipe.batch]) for i in range(0, len(same_format), recipe.batch)]
        rng.shuffle(groups)
        batches += [MiniBatch(group, rng.randrange(options.prompt.shot_sets), epoch) for group in groups]
    if recipe.updates is not None:
        batches = batches[: recipe.updates * recipe.accumulation * processes]
    return [replace(batch, progress=place / len(batches)) for place, batch in enumerate(batches)]


def split(examples: Sequence[AnyExample], held_out: int, seed: int) -> tuple[list[AnyExample], list[AnyExample]]:
    """Splits examples by question, so that no question is both trained on and held out.

    Args:
        examples: All examples.
        held_out: Number of questions that are kept from training.
        seed: Decides which questions.

    Returns:
        (examples for training, held-out examples), each in the order given.

    Raises:
        UserError: where no question is left to train on.
    """
    ids = sorted({example.question.id for example in examples})
    random.Random(f"held-out-{seed}").shuffle(ids)
    kept = set(ids[:held_out])
    if len(kept) == len(ids):
        raise UserError(f"--held-out {held_out}: there are only {len(ids)} questions to train on")
    return [e for e in examples if e.question.id not in kept], [e for e in examples if e.question.id in kept]
