"""The two objectives on packed rows: how a mini-batch is fed to the model, its loss, and the learning curve's numbers.

The formulas are in `training.losses` and the packing in `training.packing`. This module knows nothing of the optimiser,
of records or of files."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Generic

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from interp.calibration import Scored, measures_of, rule_named
from interp.divergence import NEAR_ZERO
from interp.formats import FORMATS
from interp.instruments.attribution import rank_of_best
from interp.instruments.masking import replacement_embeddings
from interp.instruments.scorer import Scorer
from interp.intervals import SIGNED, UNIT, Estimate, estimated
from interp.models.checkpoints import Checkpoint
from interp.models.head import NextToken, base_of, next_token
from interp.models.prompts import Prompting
from interp.models.setting import Setting, prepared
from interp.records import Question
from interp.run.runs import chunks
from training.batches import AnyExample, MiniBatch
from training.contrasts import contrasted, rewritten
from training.losses import advice_losses, expected, jensen_shannon, kullback_leibler, token_mean, tokenized_brier
from training.packing import PackedRow, packed_row
from training.recipes import AdviceRecipe, ConfTunerRecipe, Recipe
from training.triplets import GradedAnswer, Triplet

Inputs = dict[str, Any]
"""What `terms` needs of a mini-batch: its packed row, and what the losses compare with."""
RANKED = 8
"""Held-out triplets of each format for which the answer's attribution rank is measured."""


class Objective(ABC, Generic[AnyExample]):
    """A training objective. Prompts are rendered, and rows packed, when they are asked for."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        shots: int,
        recipe: Recipe,
        prompting: Prompting | None = None,
    ) -> None:
        """Prepares no prompt yet.

        Args:
            checkpoint: The checkpoint, whose model carries the adapter that is trained.
            shots: Number of worked examples in each prompt.
            recipe: The hyperparameters, all decided.
            prompting: How prompts are rendered and levels read; by default as in a measurement without options.
        """
        self.checkpoint, self.shots, self.recipe = checkpoint, shots, recipe
        self.prompting = prompting
        self.setting = cache(self._setting)  # one setting for each format and set of worked examples
        self.lengths: dict[str, int] = {}
        """How many tokens an answer has, of those that were asked for: a prompt is rendered to count them."""

    def _setting(self, form: str, shot_seed: int) -> Setting:
        return prepared(
            self.checkpoint,
            FORMATS[form],
            shots=self.shots,
            shot_seed=shot_seed,
            prompting=self.prompting,
            read_shared_prefix=False,  # it is part of each packed row: kept keys and values are stale after an update
        )

    @abstractmethod
    def inputs(self, batch: MiniBatch[AnyExample]) -> Inputs:
        """The packed row of a mini-batch, and what the losses compare its reading with."""

    @abstractmethod
    def terms(self, model: torch.nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        """Each term of the loss and their `total`, [examples] each, with gradient."""

    def point(self, model: torch.nn.Module, examples: Sequence[AnyExample]) -> dict[str, dict[str, Estimate]]:
        """One point of the learning curve on held-out examples.

        Formats of 5 and of 10 levels have values on different scales and are not pooled.

        Returns:
            By format, the estimates of `point_of` by name.
        """
        formats = sorted({example.format for example in examples})
        return {
            form: self.point_of(model, [example for example in examples if example.format == form]) for form in formats
        }

    @abstractmethod
    def point_of(self, model: torch.nn.Module, examples: Sequence[AnyExample]) -> dict[str, Estimate]:
        """The estimates of one point from examples of one format, about one example for each question."""

    def stated(self, form: str, batch: MiniBatch[AnyExample], count: int) -> list[int]:
        """Levels after which the end of the line is learned, one at random for each of `count` transcripts.

        None where levels are read with their ends."""
        if self.prompting is None or self.prompting.levels != "token":
            return []
        chance = random.Random(f"ends-{batch.shot_seed}-{batch.epoch}-{batch.examples[0].question.id}")
        return [chance.randrange(len(FORMATS[form].values)) for _ in range(count)]

    def row(self, form: str, shot_seed: int, put: Sequence[tuple[Question, str]], stated: Sequence[int] = ()) -> Inputs:
        """Questions with answers as one packed row.

        Args:
            form: Name of the confidence format.
            shot_seed: Which set of worked examples the prompts hold.
            put: Pairs of question and answer, in the order of the row's transcripts.
            stated: For each of them the index of a level after which the end of its line is read; empty: of none.

        Returns:
            `row`, a `PackedRow`, and `values`, the confidence value of each level, [levels].
        """
        setting = self.setting(form, shot_seed)
        transcripts = [setting.prompter.transcript(question, answer) for question, answer in put]
        values = torch.tensor(setting.prompter.confidence.values, device=setting.prefix.model.device)
        return {"row": packed_row(setting, transcripts, stated), "values": values}


@dataclass(frozen=True)
class RowReading:
    """What a model predicts after each transcript of a row."""

    levels: Tensor
    """Log-probabilities of the levels, renormalised over them, [transcripts, levels]."""
    mass: Tensor
    """Log-probability that any level is stated, [transcripts]; the off-scale mass is one minus its exponential."""
    answers: Tensor
    """Log-probability of the transcript's answer, [transcripts]."""
    ends: Tensor
    """Log-probability that the line ends after the row's `stated` level, [transcripts]; [0] where none is read."""
    moved: Tensor
    """Divergence from the model without any adapter to this one, the mean over the tokens of the transcript's answer,
    in nats, [transcripts]; 0 where it is not read."""


def read(model: torch.nn.Module, row: PackedRow, *, divergence: bool = False) -> RowReading:
    """Reads a row in one forward pass, with gradient where it is enabled.

    Args:
        model: The model that is trained.
        row: The row.
        divergence: Whether the model is read without its adapters as well, in a second pass without gradient.
    """
    # of_row(0): the batch holds one row, [1, reads] to [reads]; levels [transcripts, levels], answers [transcripts]
    after = next_token(model, **row.inputs, use_cache=False).of_row(0)
    levels, answers = row.logprobs(after)
    moved = _divergence_from_base(model, row, after) if divergence else torch.zeros_like(answers)
    return RowReading(levels.log_softmax(-1), levels.logsumexp(-1), answers, row.end_logprobs(after), moved)


def _divergence_from_base(model: torch.nn.Module, row: PackedRow, after: NextToken) -> Tensor:
    """The mean over each answer's tokens of the divergence from the base to the trained model, [transcripts]."""
    # answers that begin alike, and all answers to a question at their first token, are read after the same node
    reads, places = torch.unique(row.plan.answer_rows, return_inverse=True)  # [distinct], [answer tokens]
    with torch.no_grad(), _without_adapters(model):
        base = next_token(base_of(model), **row.inputs, use_cache=False).of_row(0)
        base_logprobs = base.of_reads(reads.tolist()).logits().log_softmax(-1)  # [distinct, vocabulary]
    logprobs = after.of_reads(reads.tolist()).logits().log_softmax(-1)
    divergences = kullback_leibler(base_logprobs, logprobs)[places]  # [answer tokens]
    sums = divergences.new_zeros(row.transcripts).index_add(0, row.answer_owners, divergences)
    return token_mean(sums, row.answer_lengths)


@contextmanager
def _without_adapters(model: torch.nn.Module) -> Iterator[None]:
    """While open, no adapter of the model has an effect.

    Which weights have gradients stays as it is: peft's own way gives them to all active adapters afterwards, also to
    one that is frozen below the one that is trained."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled


def with_term(terms: dict[str, Tensor], name: str, value: Tensor, weight: float) -> dict[str, Tensor]:
    """Adds a term to a loss.

    Args:
        terms: The terms of the loss and their `total`, [examples] each.
        name: What the term is called.
        value: The term before it is weighted, [examples].
        weight: Its weight; 0 switches it off.

    Returns:
        The terms with this one, and with a `total` that includes it.
    """
    term = weight * value
    return terms | {name: term, "total": terms["total"] + term}


def kept(
    terms: dict[str, Tensor], reading: RowReading, means: Callable[[Tensor], Tensor], recipe: Recipe
) -> dict[str, Tensor]:
    """Adds the terms that keep a model what it was beside its confidence.

    `mass` keeps it stating levels, since the other losses are renormalised over them, and `end` keeps the end of the
    line after a level, where levels are read without it and the objective has no such term itself; `kl` keeps the
    answers.

    Args:
        terms: The terms of the loss and their `total`, [examples] each.
        reading: What was read.
        means: The mean over the transcripts of each example, [transcripts] to [examples].
        recipe: The weights of the terms; `end` has that of `mass`.

    Returns:
        The terms with these, and with a `total` that includes them.
    """
    terms = with_term(terms, "mass", means(-reading.mass), recipe.mass)
    if len(reading.ends) and "end" not in terms:
        terms = with_term(terms, "end", means(-reading.ends), recipe.mass)
    return with_term(terms, "kl", means(reading.moved), recipe.kl) if recipe.kl else terms


class AdviceObjective(Objective[Triplet]):
    """ADVICE: the confidence after a right answer against the one after a wrong answer to the same question."""

    recipe: AdviceRecipe

    def inputs(self, batch: MiniBatch[Triplet]) -> Inputs:
        """The row of each triplet's right and wrong answer; every epoch takes the next of a triplet's wrong answers.

        Where the recipe has a term `invariance`, a surface-form variant of each of the two follows them."""
        # transcripts: right 1, wrong 1, right 2, wrong 2, ...; `terms` takes them apart as [0::2] and [1::2],
        # with variants right 1, wrong 1, variant of right 1, variant of wrong 1, right 2, ... as [0::4] to [3::4]
        form = batch.examples[0].format
        answers = [self._answers(triplet, batch, form) for triplet in batch.examples]
        pairs = [
            (triplet.question, answer) for triplet, own in zip(batch.examples, answers, strict=True) for answer in own
        ]
        wanted, start = self.recipe.margin_wanted, self.recipe.margin_from
        margin = wanted if start is None else start + (wanted - start) * batch.progress
        inputs = self.row(form, batch.shot_seed, pairs, self.stated(form, batch, len(pairs)))
        plain = [own[0] == triplet.right for triplet, own in zip(batch.examples, answers, strict=True)]
        inputs["plain"] = torch.tensor(plain, device=inputs["values"].device)  # [triplets]
        return inputs | {"weights": replace(self.recipe, margin_wanted=margin)}

    def _answers(self, triplet: Triplet, batch: MiniBatch[Triplet], form: str) -> list[str]:
        """The answers of a triplet that stand in a row."""
        chance = random.Random(f"{batch.shot_seed}-{batch.epoch}-{triplet.question.id}")

        def tokens(answer: str) -> int:
            if answer not in self.lengths:  # whatever the question: it stands on a line of its own
                prompter = self.setting(form, batch.shot_seed).prompter
                self.lengths[answer] = len(prompter.transcript(triplet.question, answer).positions("answer"))
            return self.lengths[answer]

        pair = contrasted(triplet, self.recipe, batch.epoch, chance, tokens)
        return [*pair, *(rewritten(answer, chance) for answer in pair if self.recipe.invariance)]

    def terms(self, model: torch.nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        """lm, jsd, margin, sum, mass and total, and invariance and kl where the recipe has them, [triplets]."""
        row: PackedRow = inputs["row"]
        reading = read(model, row, divergence=self.recipe.kl > 0)
        answers = token_mean(reading.answers, row.answer_lengths) if self.recipe.lm_mean else reading.answers
        per = 4 if self.recipe.invariance else 2  # transcripts of a triplet
        right, wrong = reading.levels[0::per], reading.levels[1::per]  # [triplets, levels]
        # an answer that is rewritten is judged, and not learned: the model is to go on writing as it does
        learned = answers[0::per] * inputs["plain"]
        terms = advice_losses(right, wrong, learned, inputs["values"], inputs["weights"])
        if self.recipe.invariance:
            moved = jensen_shannon(right, reading.levels[2::4]) + jensen_shannon(wrong, reading.levels[3::4])
            terms = with_term(terms, "invariance", moved / 2, self.recipe.invariance)
        return kept(terms, reading, lambda values: values.view(-1, per).mean(1), self.recipe)

    def point_of(self, model: torch.nn.Module, examples: Sequence[Triplet]) -> dict[str, Estimate]:
        """How the confidence depends on the answer: right against wrong, and one wrong answer against another.

        Returns:
            `right`, `wrong`: mean expected confidence after the right and after the wrong answer. `direction`: their
            mean difference. `direction_positive`: share of triplets in which the right answer gets more. `jsd`: median
            divergence of the two, in nats. `near_zero_share`: share of divergences at most `NEAR_ZERO`. `wrong_wrong`:
            median divergence after two wrong answers, where a triplet has two. `outside`: mean off-scale mass.
            `answer_rank`: median attribution rank of the right answer's best token, of the first `RANKED` triplets.
        """
        right, wrong, jsd, wrong_wrong, off_scale = [], [], [], [], []
        for part in chunks(examples, self.recipe.batch):
            inputs = self.row(
                part[0].format, 0, [(triplet.question, answer) for triplet in part for answer in _three(triplet)]
            )
            with torch.no_grad():
                reading = read(model, inputs["row"])
            off_scale += (1 - reading.mass.exp()).tolist()  # of all three answers
            # transcripts: right, wrong, another wrong of each triplet in turn; three tensors [triplets, levels]
            after_right, after_wrong, after_other = (reading.levels[i::3] for i in range(3))
            right += expected(after_right, inputs["values"]).tolist()
            wrong += expected(after_wrong, inputs["values"]).tolist()
            jsd += jensen_shannon(after_right, after_wrong).tolist()
            between_wrong = jensen_shannon(after_wrong, after_other).tolist()
            # None, counted as left out: a triplet with one wrong answer would be compared with itself
            wrong_wrong += [
                value if triplet.others else None for triplet, value in zip(part, between_wrong, strict=True)
            ]
        return {
            "right": estimated(right, bounds=UNIT),
            "wrong": estimated(wrong, bounds=UNIT),
            "direction": estimated([a - b for a, b in zip(right, wrong, strict=True)], bounds=SIGNED),
            "direction_positive": estimated(
                [float(a > b) for a, b in zip(right, wrong, strict=True)], interval="wilson"
            ),
            "jsd": estimated(jsd, np.median),
            "near_zero_share": estimated([float(value <= NEAR_ZERO) for value in jsd], interval="wilson"),
            "wrong_wrong": estimated(wrong_wrong, np.median),
            "outside": estimated(off_scale, bounds=UNIT),
            "answer_rank": estimated([self._rank(triplet) for triplet in examples[:RANKED]], np.median),
        }

    def _rank(self, triplet: Triplet) -> int | None:
        """The rank of the right answer's best token among all tokens of the prompt, by first-order attribution."""
        setting = self.setting(triplet.format, 0)
        transcript = setting.prompter.transcript(triplet.question, triplet.right)
        values = torch.tensor(setting.prompter.confidence.values, device=setting.prefix.model.device)
        scorer = Scorer(setting, transcript, lambda levels: expected(levels.log_softmax(-1), values))
        effects = scorer.first_order(replacement_embeddings(setting)["mean"])  # [tokens of the transcript]
        return rank_of_best(effects.tolist(), transcript.positions("answer"))


def _three(triplet: Triplet) -> tuple[str, str, str]:
    """The right answer and two wrong ones; a triplet with one wrong answer gives it twice."""
    return triplet.right, triplet.wrong, (*triplet.others, triplet.wrong)[0]


class ConfTunerObjective(Objective[GradedAnswer]):
    """ConfTuner: the confidence after one answer against whether it is right."""

    def inputs(self, batch: MiniBatch[GradedAnswer]) -> Inputs:
        """The row of the answers, and `right`: whether each is right, [answers]."""
        form, pairs = batch.examples[0].format, [(example.question, example.answer) for example in batch.examples]
        inputs = self.row(form, batch.shot_seed, pairs, self.stated(form, batch, len(pairs)))
        return inputs | {
            "right": torch.tensor([example.right for example in batch.examples], device=inputs["values"].device)
        }

    recipe: ConfTunerRecipe

    def terms(self, model: torch.nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        """brier (the tokenized score), mass and total, and likelihood and kl where the recipe has them, [answers]."""
        row: PackedRow = inputs["row"]
        reading = read(model, row, divergence=self.recipe.kl > 0)
        score = tokenized_brier(reading.levels, inputs["right"], inputs["values"])
        terms = {"brier": score, "total": score}
        if self.recipe.likelihood:  # of right answers alone: 0 for a wrong one
            likelihood = token_mean(reading.answers, row.answer_lengths) * inputs["right"]
            terms = with_term(terms, "likelihood", -likelihood, self.recipe.likelihood)
        return kept(terms, reading, lambda values: values, self.recipe)

    def point_of(self, model: torch.nn.Module, examples: Sequence[GradedAnswer]) -> dict[str, Estimate]:
        """The confidence after right and after wrong answers, and how well it tells them apart.

        Returns:
            `right`, `wrong`: mean expected confidence after right and after wrong answers. `tokenized_brier`: mean
            loss without weights. `outside`: mean off-scale mass. `auroc`, `ece`: of the expected confidence.
        """
        confidence, right, brier, off_scale = [], [], [], []
        for part in chunks(examples, self.recipe.batch):
            inputs = self.inputs(MiniBatch(tuple(part), 0))
            with torch.no_grad():
                reading = read(model, inputs["row"])
            off_scale += (1 - reading.mass.exp()).tolist()
            confidence += expected(reading.levels, inputs["values"]).tolist()
            brier += tokenized_brier(reading.levels, inputs["right"], inputs["values"]).tolist()
            right += [example.right for example in part]
        measured = measures_of(Scored(tuple(confidence), tuple(right), ("",) * len(right), 0), rule_named("10-right"))
        return {
            "right": estimated([c for c, r in zip(confidence, right, strict=True) if r], bounds=UNIT),
            "wrong": estimated([c for c, r in zip(confidence, right, strict=True) if not r], bounds=UNIT),
            "tokenized_brier": estimated(brier, bounds=UNIT),
            "outside": estimated(off_scale, bounds=UNIT),
            "auroc": measured["auroc"],
            "ece": measured["ece"],
        }
