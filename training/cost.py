"""`python -m training.cost`: what triplets and a training will take, beside the diagnosis and evaluation before."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interp.commands import at_least, run_as_command
from interp.cost import Cost, Plan, planned, priced, shown
from interp.diagnose import ASKED_AT_ONCE
from interp.errors import UserError
from interp.formats import FormatName
from interp.runs import Record
from training.recipes import ADVICE_RECIPES, Recipe, TrainingOptions, filled_in, preset_for
from training.triplets import FORMATS_TRAINED, Triplets

if TYPE_CHECKING:
    from interp.loads import Architecture, Lengths, Loads


@dataclass(frozen=True, kw_only=True)
class TrainingCost(Cost):
    """Say what a training will take."""

    sample: int = 4000
    """Questions asked for training triplets, from which `training.advice` trains."""
    epochs: int | None = None
    """Passes over the triplets; by default the preset's, like the three that follow."""
    batch: int | None = None
    """Triplets in a mini-batch."""
    accumulation: int | None = None
    """Mini-batches to an update."""
    updates: int | None = None
    """Stop after so many updates."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, "sample", self.sample)

    @property
    def training(self) -> TrainingOptions:
        """The training that is priced."""
        return TrainingOptions(
            epochs=self.epochs, batch=self.batch, accumulation=self.accumulation, updates=self.updates, out=Path()
        )


def training_cost(options: TrainingCost) -> Record:
    """Every part with its price, and all that it rests on. Errors: UserError for multiple choice."""

    def plan_of(lengths: "dict[FormatName, Lengths]", there: int, of: "Architecture", family: str) -> Plan:
        if lengths[options.format].choices:
            raise UserError(f"--data {options.data}: triplets are made of open questions; these have choices")
        return planned(options, lengths, there) | trained(options, lengths, of, family)

    return priced(options, (options.format, *FORMATS_TRAINED), plan_of)


def trained(options: TrainingCost, lengths: "dict[FormatName, Lengths]", of: "Architecture", family: str) -> Plan:
    """Triplets and the training on them."""
    from interp import loads
    from training.objectives import RANKED

    each, plain, size = options.accelerators, lengths["ScoreNumber"], options.batch_tokens
    right = options.sample * options.accuracy
    recipe = filled_in(ADVICE_RECIPES[preset_for(options.training, family, of.parameters)], options.training)
    return {
        "training.triplets": {
            "answers": loads.written(options.sample / each, ASKED_AT_ONCE, 1, plain, size),
            "wrong answers": loads.sampled(right / each, plain, Triplets.wrong, Triplets.tries, size),
        },
        "training.advice": training_loads(
            recipe,
            options.training,
            max(0, right - options.training.held_out),
            [lengths[name] for name in FORMATS_TRAINED],
            layers=of.layers,
            processes=each,
            ranked=RANKED,
        ),
    }


def training_loads(
    recipe: Recipe,
    options: TrainingOptions,
    triplets: int | float,
    lengths: "Sequence[Lengths]",
    *,
    layers: int,
    processes: int,
    ranked: int,
) -> "dict[str, Loads]":
    """`training.advice` on so many triplets in each of the formats whose lengths are given: what one process does.

    Every mini-batch is a row. The curve is measured by one process while the others wait: held-out triplets with two
    wrong answers each, and in `ranked` of them the answer's rank, with gradient."""
    from interp.loads import row_of

    batches = recipe.epochs * len(lengths) * math.ceil(triplets / recipe.batch)
    at_once = recipe.accumulation * processes
    updates = min(recipe.updates or math.inf, math.ceil(batches / at_once))
    back = min(1.0, (recipe.last_layers or layers) / layers)
    each = updates * recipe.accumulation / len(lengths)
    points, held_out = 1 + math.ceil(updates / options.every), options.held_out
    chunks = points * math.ceil(held_out / recipe.batch)
    read = [row_of(min(recipe.batch, held_out), 3, one, chunks) for one in lengths]
    ranks = [row_of(1, 1, one, points * min(ranked, held_out), backward=1.0) for one in lengths]
    rows = [row_of(recipe.batch, 2, one, each, backward=back) for one in lengths]
    return {"updates": tuple(rows), "learning curve": (*read, *ranks)}


if __name__ == "__main__":
    run_as_command(
        TrainingCost,
        lambda options: shown(training_cost(options), options.out),
        description="Say what a training will take.",
    )
