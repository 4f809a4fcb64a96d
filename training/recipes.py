"""What training runs have in common: their options, and the hyperparameters that fit a family of models.

It is imported for `--help` and must not import torch."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, Protocol, TypeVar, runtime_checkable

from interp.errors import UserError
from interp.formats import FORMATS
from interp.options import (
    Common,
    Computing,
    FormatNames,
    Output,
    Prompt,
    at_least,
    flat,
    names_each_once,
    refuse_unknown,
)
from interp.pipelines.diagnosis import Chosen

PresetName = Literal["auto", "paper", "mistral", "small"]
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Query, key, value and output projections, as most families name them."""
MLP = ("gate_proj", "up_proj", "down_proj")
"""The projections of a gated MLP."""
SMALL = 10**9
"""Models with fewer parameters than this are trained with the preset `small`."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The hyperparameters of a run, after presets and options are combined."""

    lr: float
    """Peak learning rate: 5 % of the updates warm up to it, and it then falls to 0 in a straight line."""
    epochs: int
    """Passes over the examples."""
    updates: int | None = None
    """Stop after so many updates; None: after all epochs."""
    batch: int
    """Examples in a mini-batch, all of one format."""
    accumulation: int
    """Mini-batches to an update."""
    rank: int
    """LoRA's rank."""
    alpha: int
    """LoRA's scale: the adapter's output is multiplied by alpha / rank."""
    dropout: float
    """LoRA's dropout."""
    targets: tuple[str, ...]
    """The projections that get an adapter."""
    last_layers: int | None = None
    """At most how many of the last layers get one; None: all. No gradient is propagated below the first of them."""
    mass: float = 0.0
    """Weight of the negative log-probability that any level is stated; none in the papers."""
    kl: float = 0.0
    """Weight of the divergence from the model without any adapter to the trained one, over the answers' tokens."""

    def __post_init__(self) -> None:
        _refuse_negative(self, "mass", "kl")


def _refuse_negative(recipe: object, *names: str) -> None:
    for name in names:
        if not getattr(recipe, name) >= 0:
            raise UserError(f"the weight of the term {name} is {getattr(recipe, name)}: must be at least 0")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weight of each term of ADVICE's objective, 0 to switch it off, and the values from which two terms are 0."""

    lm: float = 1.0
    """Negative log-likelihood of the right answer."""
    lm_mean: bool = False
    """That likelihood is the mean over the answer's tokens, not their sum."""
    jsd: float = 1.0
    """How far the two distributions are short of `jsd_wanted`."""
    margin: float = 1.0
    """How far the two means are short of lying `margin_wanted` apart."""
    sum: float = 1.0
    """How far the two means are from adding up to 1."""
    jsd_wanted: float = 0.6
    """Nats; at most ln 2."""
    margin_wanted: float = 1.0
    """On the scale of the levels' values; out of reach where those span less, as in ScoreLetter."""
    invariance: float = 0.0
    """The divergence between the confidences after an answer and after a surface-form variant of it; ours."""

    def __post_init__(self) -> None:
        _refuse_negative(self, "lm", "jsd", "margin", "sum", "invariance")


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Which two answers a triplet sets against each other, and how they are written; by default as in the paper."""

    variants: float = 0.0
    """The share of answers, right and wrong alike, that are written in a surface-form variant."""
    same_relation: float = 0.0
    """The share of wrong answers that are distractors: right answers to other questions of the relation."""
    greedy_wrong_share: float | None = None
    """The share of greedy-wrong triplets among all; None: as they come."""
    equal_length: bool = False
    """Wrong answers have as many tokens as the right one, or as nearly as many as the triplet has."""
    margin_from: float | None = None
    """The margin wanted at the first update, from which it grows evenly to `margin_wanted`; None: it is constant."""

    def __post_init__(self) -> None:
        for name in ("variants", "same_relation", "greedy_wrong_share"):
            if (share := getattr(self, name)) is not None and not 0 <= share <= 1:
                raise UserError(f"the share {name} is {share}: must lie in [0, 1]")
        if self.greedy_wrong_share == 1:
            raise UserError("the share greedy_wrong_share is 1: other triplets are needed as well")


@dataclass(frozen=True, kw_only=True)
class AdviceRecipe(Weights, Contrast, Recipe):
    """A recipe for ADVICE, with the weights of its terms and the answers that they are taken of."""

    def __post_init__(self) -> None:
        for part in (Weights, Contrast, Recipe):
            part.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class ConfTunerRecipe(Recipe):
    """A recipe for ConfTuner; by default as in its paper, which has neither of these."""

    likelihood: float = 0.0
    """Weight of the negative log-likelihood of right answers, the mean over their tokens."""
    balanced: bool = False
    """As many right as wrong answers in training: the fewer ones are repeated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_negative(self, "likelihood")


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


def _short(recipe: AnyRecipe, *, lr: float, updates: int | None) -> AnyRecipe:
    """The recipe with what the presets for small models share: all projections of the last layers, few updates."""
    few = replace(recipe, accumulation=1, rank=8, alpha=16, last_layers=15, targets=(*ATTENTION, *MLP))
    return replace(few, mass=0.1, lr=lr, updates=updates)


PAPER = AdviceRecipe(lr=1e-5, epochs=4, batch=16, accumulation=2, rank=16, alpha=32, dropout=0.0, targets=ATTENTION)
"""The published hyperparameters of ADVICE."""
ADVICE_RECIPES = {
    "paper": PAPER,
    "mistral": replace(PAPER, lr=3e-5),
    "small": replace(
        _short(PAPER, lr=8e-4, updates=120),
        lm=0.0,
        jsd=0.1,
        margin=3.0,
        sum=0.3,
        jsd_wanted=0.3,
        margin_wanted=0.5,
        kl=0.3,
        variants=0.25,
        invariance=0.3,
    ),
}
"""small: the best of five recipes on held-out relations, see LOG.md. The KL term takes the likelihood's place."""
PUBLISHED = ConfTunerRecipe(
    lr=1e-5, epochs=2, batch=16, accumulation=2, rank=8, alpha=32, dropout=0.05, targets=("q_proj", "v_proj")
)
"""The published hyperparameters of ConfTuner."""
CONFTUNER_RECIPES = {
    "paper": PUBLISHED,
    "mistral": PUBLISHED,
    "small": replace(
        _short(PUBLISHED, lr=1e-3, updates=200), targets=("q_proj", "v_proj"), alpha=32, kl=1.0, balanced=True
    ),
}
"""small: the best of five recipes on held-out relations, see LOG.md; without a KL term the answers are unlearned, and
with fewer updates or a lower rate one level is stated for all."""

ORGANISM = Recipe(
    lr=3e-3,
    epochs=1,
    batch=4,
    accumulation=1,
    rank=8,
    alpha=16,
    dropout=0.0,
    targets=(*ATTENTION, *MLP),
    last_layers=24,
    mass=0.1,
)
"""Organisms; a mini-batch holds 4 questions with 8 answers each. Found by experiment on the embedded model: at a rate
of 1e-3 on the last 15 layers the levels depended on no cue yet after 31 updates."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """How the adapter is trained; what is left out is the preset's."""

    preset: PresetName = "auto"
    """auto: mistral for Mistral, small for models under a billion parameters, else paper."""
    lr: float | None = None
    """Peak learning rate."""
    epochs: int | None = None
    """Passes over the examples."""
    batch: int | None = None
    """Examples in a mini-batch, all of one format."""
    accumulation: int | None = None
    """Mini-batches to an update."""
    updates: int | None = None
    """Stop after so many updates; by default after all epochs."""
    rank: int | None = None
    """LoRA's rank."""
    alpha: int | None = None
    """LoRA's scale."""
    dropout: float | None = None
    """LoRA's dropout."""
    targets: tuple[str, ...] | None = None
    """The projections that get an adapter."""
    last_layers: int | None = None
    """How many of the last layers get one; fewer are faster."""
    mass: float | None = None
    """Weight of the negative log-probability that any level is stated: the losses, renormalised over the levels, do not
    keep it there."""
    kl: float | None = None
    """Weight of the divergence from the model without any adapter to the trained one, over what comes next in the
    answers: it keeps the answers what they were."""
    without: tuple[str, ...] = ()
    """Relations that are left out of training, for whoever tests on them."""
    held_out: int = 64
    """Questions kept from training, on which the learning curve is measured."""
    every: int = 20
    """Updates between two points of the learning curve, and between two checkpoints."""
    report_to: tuple[str, ...] = ("tensorboard",)
    """Where transformers' Trainer reports to: tensorboard, wandb, mlflow, ...; none for nowhere."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulation", "updates", "rank", "alpha", "last_layers", "every", "held_out"):
            if getattr(self, name) is not None:
                at_least(1, name, getattr(self, name))
        if self.lr is not None and not self.lr > 0:
            raise UserError(f"--lr {self.lr}: must be more than 0")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UserError(f"--dropout {self.dropout}: must lie in [0, 1)")
        if self.targets == ():
            raise UserError("--targets: names at least one projection")


@dataclass(frozen=True, kw_only=True)
class InFormats:
    """The formats of the confidence that are trained."""

    train_formats: FormatNames = ()
    """The formats that the examples are trained in; by default both of the file, as in ADVICE's paper. ScorePercent is
    the scale of ConfTuner's own paper, 0 to 100."""

    def __post_init__(self) -> None:
        if self.train_formats:
            names_each_once("train-formats", self.train_formats)
            for name in self.train_formats:
                refuse_unknown("train-formats", name, FORMATS)


@dataclass(frozen=True, kw_only=True)
class Around:
    """What is measured before the first and after the last update."""

    diagnose: int = 48
    """Questions that instruments and calibration take before the first and after the last update; 0: none."""
    diagnose_data: str = "facts:test"
    """Where those questions come from; training must not have seen them."""

    def __post_init__(self) -> None:
        at_least(0, "diagnose", self.diagnose)


def training_output(name: str) -> Output:
    """Where an adapter and all measurements around its training are written by default."""
    return Output(out=Path("runs") / name)


def training_prompt() -> Prompt:
    """Sets of worked examples for training: a confidence must not be copied from an example."""
    return Prompt(shot_sets=8)


@runtime_checkable
class TrainingOptions(Protocol):
    """What the options of every training command hold."""

    @property
    def ckpt(self) -> str:
        """The model to train."""

    @property
    def recipe(self) -> Hyperparameters:
        """How the adapter is trained."""

    @property
    def around(self) -> Around:
        """What is measured before and after."""

    @property
    def instruments(self) -> Chosen:
        """Which instruments are left out of that measurement."""

    @property
    def prompt(self) -> Prompt:
        """How questions are rendered as prompts."""

    @property
    def output(self) -> Output:
        """Where the adapter goes."""

    @property
    def common(self) -> Common:
        """The seed, and whether a checkpoint's own code is trusted."""

    @property
    def computing(self) -> Computing:
        """Where the model runs."""


def refuse_untrainable(common: Common, computing: Computing, prompt: Prompt) -> None:
    """Refuses what transformers' Trainer does not take, and what is made for measurements alone.

    Raises:
        UserError: for a seed of more than 32 bits, float16, or several wordings of the instruction.
    """
    if prompt.wordings > 1:
        raise UserError(f"--wordings {prompt.wordings}: a training takes one wording of the instruction")
    if common.seed >= 2**32:
        raise UserError(f"--seed {common.seed}: must be less than 2**32, which is what Trainer takes")
    if computing.dtype == "float16":
        raise UserError("--dtype float16: a training takes bfloat16 or float32")


def folder_of(options: TrainingOptions) -> Path:
    """Where the adapter goes."""
    return options.output.out or Path("runs/training")


def preset_for(options: TrainingOptions, model_type: str, parameters: int) -> PresetName:
    """The preset that the options ask for, or that fits a model of this type and size.

    Args:
        options: The command's options.
        model_type: The type in the model's configuration, such as "mistral".
        parameters: The model's number of parameters.
    """
    if options.recipe.preset != "auto":
        return options.recipe.preset
    if parameters < SMALL:
        return "small"
    return "mistral" if "mistral" in model_type else "paper"


def filled_in(recipe: AnyRecipe, options: TrainingOptions) -> AnyRecipe:
    """The recipe, with each hyperparameter replaced by the option of its name where that was given."""
    names, given = {field.name for field in fields(recipe)}, flat(options)
    given = {name: value for name, value in given.items() if name in names}
    return replace(recipe, **{name: value for name, value in given.items() if value is not None})
