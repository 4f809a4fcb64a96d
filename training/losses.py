"""The training objectives as functions of level log-probabilities: no model, no tokens.

ADVICE (Seo, Lim and Kim 2026) compares the confidence distribution after a right answer with the one after a wrong
answer to the same question; ConfTuner (Li et al. 2025) scores one distribution against the outcome."""

from functools import reduce

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from training.recipes import Weights


def jensen_shannon(p: Float[Tensor, "*batch levels"], q: Float[Tensor, "*batch levels"]) -> Float[Tensor, "*batch"]:
    """Jensen-Shannon divergence in nats of two distributions given as log-probabilities; from 0 to ln 2."""
    mixture = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=p.dtype))
    return ((p.exp() * (p - mixture)).sum(-1) + (q.exp() * (q - mixture)).sum(-1)) / 2


def expected(p: Float[Tensor, "*batch levels"], values: Float[Tensor, " levels"]) -> Float[Tensor, "*batch"]:
    """Mean value of a distribution given as log-probabilities."""
    return p.exp() @ values


def jsd_loss(
    right: Float[Tensor, "*batch levels"], wrong: Float[Tensor, "*batch levels"], wanted: float
) -> Float[Tensor, "*batch"]:
    """max(0, wanted - JSD): 0 once the confidence tells the two answers apart, whichever gets more."""
    return (wanted - jensen_shannon(right, wrong)).clamp(min=0)


def margin_loss(
    right: Float[Tensor, "*batch levels"],
    wrong: Float[Tensor, "*batch levels"],
    values: Float[Tensor, " levels"],
    wanted: float,
) -> Float[Tensor, "*batch"]:
    """max(0, wanted - (mean after right - mean after wrong)): gives the difference its direction."""
    return (wanted - (expected(right, values) - expected(wrong, values))).clamp(min=0)


def sum_loss(
    right: Float[Tensor, "*batch levels"], wrong: Float[Tensor, "*batch levels"], values: Float[Tensor, " levels"]
) -> Float[Tensor, "*batch"]:
    """|1 - (mean after right + mean after wrong)|: keeps the two from moving up or down together."""
    return (1 - (expected(right, values) + expected(wrong, values))).abs()


def advice_losses(
    right: Float[Tensor, "*batch levels"],
    wrong: Float[Tensor, "*batch levels"],
    answer_logprob: Float[Tensor, "*batch"],
    values: Float[Tensor, " levels"],
    weights: Weights,
) -> dict[str, Float[Tensor, "*batch"]]:
    """Each term with its weight, and their `total`.

    Where margin and sum count the same and neither is reached, their pulls on one of the two means cancel: the right
    answer's mean moves alone while both are low, the wrong one's alone while both are high.
    right, wrong: log-probabilities of the levels, renormalised over them. answer_logprob: of the right answer."""
    terms = {
        "lm": weights.lm * -answer_logprob,
        "jsd": weights.jsd * jsd_loss(right, wrong, weights.jsd_wanted),
        "margin": weights.margin * margin_loss(right, wrong, values, weights.margin_wanted),
        "sum": weights.sum * sum_loss(right, wrong, values),
    }
    return terms | {"total": reduce(torch.add, terms.values())}


def tokenized_brier(
    levels: Float[Tensor, "*batch levels"], right: Bool[Tensor, "*batch"], values: Float[Tensor, " levels"]
) -> Float[Tensor, "*batch"]:
    """ConfTuner's loss: the expected squared difference of level and outcome under the distribution over levels.

    A proper scoring rule only in the distribution's mode: it is least where all mass lies on the level nearest to the
    probability of being right."""
    squared = (right.to(values)[..., None] - values) ** 2
    return (levels.exp() * squared).sum(-1)
