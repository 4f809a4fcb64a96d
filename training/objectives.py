"""The two objectives on packed rows: what a mini-batch is fed as, what is asked of it, and how learning shows."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor

from interp.calibration import Scored, measures_of, rule_named
from interp.divergence import NEAR_ZERO
from interp.formats import FORMATS
from interp.instruments.attribution import Scorer, rank_of_best
from interp.instruments.masking import replacement_embeddings
from interp.intervals import Estimate, estimated
from interp.models.checkpoints import Checkpoint
from interp.models.head import next_token
from interp.models.prompts import Prompting
from interp.models.setting import Setting, prepared
from interp.records import Question
from interp.run.runs import chunks
from training.batches import AnyExample, MiniBatch
from training.losses import advice_losses, expected, jensen_shannon, tokenized_brier
from training.packing import PackedRow, packed_row
from training.recipes import AdviceRecipe, Recipe
from training.triplets import GradedAnswer, Triplet

Inputs = dict[str, Any]
"""What `terms` needs of a mini-batch: its packed row, and what the losses compare with."""
RANKED = 8
"""Held-out triplets in which the answer's attribution rank is taken."""


class Objective(ABC, Generic[AnyExample]):
    """What is trained. Prompts are rendered, and rows packed, when they are asked for."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        shots: int,
        recipe: Recipe,
        prompting: Prompting | None = None,
    ) -> None:
        """checkpoint: its model carries the adapter that is trained. shots: worked examples in its prompts."""
        self.checkpoint, self.shots, self.recipe = checkpoint, shots, recipe
        self.prompting = prompting
        self.setting = cache(self._setting)

    def _setting(self, form: str, shot_seed: int) -> Setting:
        return prepared(
            self.checkpoint,
            FORMATS[form],
            shots=self.shots,
            shot_seed=shot_seed,
            prompting=self.prompting,
            read_shared_prefix=False,
        )

    @abstractmethod
    def inputs(self, batch: MiniBatch[AnyExample]) -> Inputs:
        """A mini-batch as the model and the losses take it."""

    @abstractmethod
    def terms(self, model: torch.nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        """Each term of the loss and their `total`, one value for each example."""

    def point(self, model: torch.nn.Module, examples: Sequence[AnyExample]) -> dict[str, dict[str, Estimate]]:
        """By format, what the learning curve shows of held-out examples: formats of 5 and of 10 levels do not mix."""
        formats = sorted({example.format for example in examples})
        return {form: self.point_of(model, [e for e in examples if e.format == form]) for form in formats}

    @abstractmethod
    def point_of(self, model: torch.nn.Module, examples: Sequence[AnyExample]) -> dict[str, Estimate]:
        """What it shows of examples of one format, each of a question of its own or nearly so."""

    def row(self, form: str, shot_seed: int, put: Sequence[tuple[Question, str]]) -> Inputs:
        """Questions with answers as one packed row, with the values of its levels."""
        setting = self.setting(form, shot_seed)
        transcripts = [setting.prompter.transcript(question, answer) for question, answer in put]
        values = torch.tensor(setting.prompter.confidence.values, device=setting.prefix.model.device)
        return {"row": packed_row(setting, transcripts), "values": values}


@dataclass(frozen=True)
class RowReading:
    """What a model says after each transcript of a row."""

    levels: Tensor
    """Log-probabilities of the levels, renormalised over them, [transcripts, levels]."""
    mass: Tensor
    """Log-probability that any of them is stated, [transcripts]."""
    answers: Tensor
    """Log-probability of the transcript's answer, [transcripts]."""


def read(model: torch.nn.Module, row: PackedRow) -> RowReading:
    """One pass over a row."""
    levels, answers = row.logprobs(next_token(model, **row.inputs, use_cache=False).of_row(0))
    return RowReading(levels.log_softmax(-1), levels.logsumexp(-1), answers)


def with_mass(terms: dict[str, Tensor], mass: Tensor, weight: float) -> dict[str, Tensor]:
    """The terms with one that keeps the model stating levels at all: the losses, renormalised over them, do not."""
    term = weight * -mass
    return terms | {"mass": term, "total": terms["total"] + term}


class AdviceObjective(Objective[Triplet]):
    """ADVICE: the confidence after a right answer against the one after a wrong answer to the same question."""

    recipe: AdviceRecipe

    def inputs(self, batch: MiniBatch[Triplet]) -> Inputs:
        """Right and wrong answer of each triplet, in turn; every pass takes the next of a triplet's wrong answers."""
        put = [(t.question, answer) for t in batch.examples for answer in (t.right, t.wrong_in(batch.epoch))]
        return self.row(batch.examples[0].format, batch.shot_seed, put)

    def terms(self, model: torch.nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        """lm, jsd, margin, sum, mass and total, [triplets]."""
        said = read(model, inputs["row"])
        terms = advice_losses(said.levels[0::2], said.levels[1::2], said.answers[0::2], inputs["values"], self.recipe)
        return with_mass(terms, (said.mass[0::2] + said.mass[1::2]) / 2, self.recipe.mass)

    def point_of(self, model: torch.nn.Module, examples: Sequence[Triplet]) -> dict[str, Estimate]:
        """How the confidence depends on the answer, and on which of two wrong ones; where the answer ranks."""
        right, wrong, jsd, wrong_wrong, off_scale = [], [], [], [], []
        for part in chunks(examples, self.recipe.batch):
            made = self.row(part[0].format, 0, [(t.question, a) for t in part for a in _three(t)])
            with torch.no_grad():
                said = read(model, made["row"])
            off_scale += (1 - said.mass.exp()).tolist()
            first, second, third = (said.levels[i::3] for i in range(3))
            right += expected(first, made["values"]).tolist()
            wrong += expected(second, made["values"]).tolist()
            jsd += jensen_shannon(first, second).tolist()
            between = jensen_shannon(second, third).tolist()
            wrong_wrong += [value if t.others else None for t, value in zip(part, between, strict=True)]
        return {
            "right": estimated(right),
            "wrong": estimated(wrong),
            "direction": estimated([a - b for a, b in zip(right, wrong, strict=True)]),
            "direction_positive": estimated([float(a > b) for a, b in zip(right, wrong, strict=True)]),
            "jsd": estimated(jsd, np.median),
            "near_zero_share": estimated([float(value <= NEAR_ZERO) for value in jsd]),
            "wrong_wrong": estimated(wrong_wrong, np.median),
            "outside": estimated(off_scale),
            "answer_rank": estimated([self._rank(triplet) for triplet in examples[:RANKED]], np.median),
        }

    def _rank(self, triplet: Triplet) -> int | None:
        """The rank of the right answer's best token by the score's gradient, all tokens of the prompt in the list."""
        setting = self.setting(triplet.format, 0)
        transcript = setting.prompter.transcript(triplet.question, triplet.right)
        values = torch.tensor(setting.prompter.confidence.values, device=setting.prefix.model.device)
        scorer = Scorer(setting, transcript, lambda levels: expected(levels.log_softmax(-1), values))
        effects = scorer.first_order(replacement_embeddings(setting)["mean"])
        return rank_of_best(effects.tolist(), transcript.positions("answer"))


def _three(triplet: Triplet) -> tuple[str, str, str]:
    """The right answer and two wrong ones; where there is one, it stands for the second."""
    return triplet.right, triplet.wrong, (*triplet.others, triplet.wrong)[0]


class ConfTunerObjective(Objective[GradedAnswer]):
    """ConfTuner: the confidence after one answer against whether it is right."""

    def inputs(self, batch: MiniBatch[GradedAnswer]) -> Inputs:
        """Each answer, and whether it is right."""
        made = self.row(batch.examples[0].format, batch.shot_seed, [(e.question, e.answer) for e in batch.examples])
        return made | {"right": torch.tensor([e.right for e in batch.examples], device=made["values"].device)}

    def terms(self, model: torch.nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        """brier, the tokenized Brier score, mass and total, [answers]."""
        said = read(model, inputs["row"])
        score = tokenized_brier(said.levels, inputs["right"], inputs["values"])
        return with_mass({"brier": score, "total": score}, said.mass, self.recipe.mass)

    def point_of(self, model: torch.nn.Module, examples: Sequence[GradedAnswer]) -> dict[str, Estimate]:
        """The confidence after right and after wrong answers, and how well it ranks them."""
        confidence, right, brier, off_scale = [], [], [], []
        for part in chunks(examples, self.recipe.batch):
            made = self.inputs(MiniBatch(tuple(part), 0))
            with torch.no_grad():
                said = read(model, made["row"])
            off_scale += (1 - said.mass.exp()).tolist()
            confidence += expected(said.levels, made["values"]).tolist()
            brier += tokenized_brier(said.levels, made["right"], made["values"]).tolist()
            right += [example.right for example in part]
        measured = measures_of(Scored(tuple(confidence), tuple(right), ("",) * len(right), 0), rule_named("10-right"))
        return {
            "right": estimated([c for c, r in zip(confidence, right, strict=True) if r]),
            "wrong": estimated([c for c, r in zip(confidence, right, strict=True) if not r]),
            "tokenized_brier": estimated(brier),
            "outside": estimated(off_scale),
            "auroc": measured["auroc"],
            "ece": measured["ece"],
        }
