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
from training.objectives import Inputs, Objective, RowReading, kept, read


class LevelObjective(Objective[CuedQuestion]):
    """The level that is to be stated after each answer of a question.

    Where levels are read by one token, the end of the line after the right level is read too: a model that learns the
    first token alone no longer ends the line after it, and states no whole level."""

    def inputs(self, batch: MiniBatch[CuedQuestion]) -> Inputs:
        """The row of all answers; `levels`: the index of the level after each; `owners`: of its question. [answers]."""
        examples = batch.examples
        pairs = [(example.question, answer) for example in examples for answer in example.answers]
        levels = [level for example in examples for level in example.levels]
        by_token = self.setting(examples[0].format, batch.shot_seed).reader.levels == "token"
        inputs = self.row(examples[0].format, batch.shot_seed, pairs, levels if by_token else ())
        device = inputs["values"].device
        owners = [i for i, example in enumerate(examples) for _ in example.answers]
        return inputs | {"levels": torch.tensor(levels, device=device), "owners": torch.tensor(owners, device=device)}

    def terms(self, model: torch.nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        """cross_entropy, end, mass and total, means over each question's answers, [questions].

        `end` is the negative log-probability of the end of the line, 0 where levels are read with their ends."""
        reading = read(model, inputs["row"], divergence=self.recipe.kl > 0)
        owners: Tensor = inputs["owners"]
        counts = owners.bincount()

        def means(values: Tensor) -> Tensor:  # [answers] to [questions]
            return values.new_zeros(len(counts)).index_add(0, owners, values) / counts

        entropy = means(_cross_entropy(reading, inputs["levels"]))
        end = means(-reading.ends) if len(reading.ends) else torch.zeros_like(entropy)
        terms = {"cross_entropy": entropy, "end": end, "total": entropy + end}
        return kept(terms, reading, means, self.recipe)

    def point_of(self, model: torch.nn.Module, examples: Sequence[CuedQuestion]) -> dict[str, Estimate]:
        """How far the model is from stating the levels.

        Returns:
            `cross_entropy`: mean over the answers, in nats. `off_target`: mean distance of the expected confidence from
            the level's value. `outside`: mean off-scale mass; where levels are read by one token, also the mean
            probability that the line does not end after the right level.
        """
        entropies: list[float] = []
        off_target: list[float] = []
        off_scale: list[float] = []
        for part in chunks(examples, self.recipe.batch):
            inputs = self.inputs(MiniBatch(tuple(part), 0))
            with torch.no_grad():
                reading = read(model, inputs["row"])
            levels, values = inputs["levels"], inputs["values"]
            entropies += _cross_entropy(reading, levels).tolist()
            off_target += (expected(reading.levels, values) - values[levels]).abs().tolist()
            stated = reading.mass + reading.ends if len(reading.ends) else reading.mass
            off_scale += (1 - stated.exp()).tolist()
        return {
            "cross_entropy": estimated(entropies),
            "off_target": estimated(off_target),
            "outside": estimated(off_scale),
        }


def _cross_entropy(reading: RowReading, levels: Tensor) -> Tensor:
    """The negative log-probability of each transcript's level among all levels. levels: their indices, [answers]."""
    return -reading.levels.gather(1, levels[:, None])[:, 0]
