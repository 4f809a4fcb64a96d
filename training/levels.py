"""The objective of organisms: the cross-entropy of the level that a rule states after each answer.

It reads the model as ADVICE's objective does, from packed rows, and knows nothing of the rules."""

from collections.abc import Sequence

import torch
from torch import Tensor

from interp.intervals import Estimate, estimated
from interp.run.runs import chunks
from training.batches import MiniBatch
from training.cues import CuedQuestion
from training.losses import expected
from training.objectives import Inputs, Objective, read, with_mass


class LevelObjective(Objective[CuedQuestion]):
    """The level that is to be stated after each answer of a question."""

    def inputs(self, batch: MiniBatch[CuedQuestion]) -> Inputs:
        """The row of all answers, and `levels`: the index of the level after each, [answers]."""
        examples = batch.examples
        pairs = [(example.question, answer) for example in examples for answer in example.answers]
        inputs = self.row(examples[0].format, batch.shot_seed, pairs)
        levels = [level for example in examples for level in example.levels]
        device = inputs["values"].device
        owners = [i for i, example in enumerate(examples) for _ in example.answers]
        return inputs | {
            "levels": torch.tensor(levels, device=device),
            "owners": torch.tensor(owners, device=device),
        }

    def terms(self, model: torch.nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        """cross_entropy, mass and total, means over each question's answers, [questions]."""
        reading = read(model, inputs["row"])
        owners: Tensor = inputs["owners"]
        counts = owners.bincount()

        def means(values: Tensor) -> Tensor:  # [answers] to [questions]
            return values.new_zeros(len(counts)).index_add(0, owners, values) / counts

        entropy = means(-reading.levels.gather(1, inputs["levels"][:, None])[:, 0])
        return with_mass({"cross_entropy": entropy, "total": entropy}, means(reading.mass), self.recipe.mass)

    def point_of(self, model: torch.nn.Module, examples: Sequence[CuedQuestion]) -> dict[str, Estimate]:
        """How far the model is from stating the levels.

        Returns:
            `cross_entropy`: mean over the questions, in nats. `off_target`: mean distance of the expected confidence
            from the level's value. `outside`: mean off-scale mass.
        """
        entropies: list[float] = []
        off_target: list[float] = []
        off_scale: list[float] = []
        for part in chunks(examples, self.recipe.batch):
            inputs = self.inputs(MiniBatch(tuple(part), 0))
            with torch.no_grad():
                reading = read(model, inputs["row"])
            levels, values = inputs["levels"], inputs["values"]
            entropies += (-reading.levels.gather(1, levels[:, None])[:, 0]).tolist()
            off_target += (expected(reading.levels, values) - values[levels]).abs().tolist()
            off_scale += (1 - reading.mass.exp()).tolist()
        return {
            "cross_entropy": estimated(entropies),
            "off_target": estimated(off_target),
            "outside": estimated(off_scale),
        }
