"""The training objectives as functions of level log-probabilities; this module knows no model and no tokens.

ADVICE (Seo, Lim and Kim 2026) compares the confidence distribution after a right answer with the one after a wrong
answer to the same question. ConfTuner (Li et al. 2025) scores one distribution against the outcome."""

from functools import reduce

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from training.recipes import Weights


def jensen_shannon(p: Float[Tensor, "*batch levels"], q: Float[Tensor, "*batch levels"]) -> Float[Tensor, "*batch"]:
    """Jensen-Shannon divergence in nats of two distributions given as log-probabilities; from 0 to ln 2."""
    # log((p + q) / 2), [*batch, levels]; then the mean of KL(p || mixture) and KL(q || mixture), [*batch]
    mixture = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=p.dtype))
    return ((p.exp() * (p - mixture)).sum(-1) + (q.exp() * (q - mixture)).sum(-1)) / 2


def kullback_leibler(p: Float[Tensor, "*batch tokens"], q: Float[Tensor, "*batch tokens"]) -> Float[Tensor, "*batch"]:
    """Kullback-Leibler divergence in nats from p to q, given as log-probabilities; at least 0, and 0 where equal."""
    return (p.exp() * (p - q)).sum(-1)


def expected(p: Float[Tensor, "*batch levels"], values: Float[Tensor, " levels"]) -> Float[Tensor, "*batch"]:
    """Mean value of a distribution given as log-probabilities."""
    return p.exp() @ values


def jsd_loss(
    right: Float[Tensor, "*batch levels"], wrong: Float[Tensor, "*batch levels"], wanted: float
) -> Float[Tensor, "*batch"]:
    """max(0, wanted - JSD): 0 once the two distributions are `wanted` nats apart, whichever answer gets more.

    Args:
        right: Log-probabilities of the levels after the right answer, renormalised over the levels.
        wrong: The same after the wrong answer.
        wanted: Divergence in nats from which on the loss is 0; at most ln 2 can be reached.

    Returns:
        From 0 to `wanted`.
    """
    return (wanted - jensen_shannon(right, wrong)).clamp(min=0)


def margin_loss(
    right: Float[Tensor, "*batch levels"],
    wrong: Float[Tensor, "*batch levels"],
    values: Float[Tensor, " levels"],
    wanted: float,
) -> Float[Tensor, "*batch"]:
    """max(0, wanted - (mean after right - mean after wrong)): gives the difference its direction.

    Args:
        right: Log-probabilities of the levels after the right answer, renormalised over the levels.
        wrong: The same after the wrong answer.
        values: The confidence value of each level, in [0, 1].
        wanted: Difference of the means from which on the loss is 0.

    Returns:
        At least 0, on the scale of `values`.
    """
    return (wanted - (expected(right, values) - expected(wrong, values))).clamp(min=0)


def sum_loss(
    right: Float[Tensor, "*batch levels"], wrong: Float[Tensor, "*batch levels"], values: Float[Tensor, " levels"]
) -> Float[Tensor, "*batch"]:
    """|1 - (mean after right + mean after wrong)|: keeps the two means from moving up or down together.

    Args:
        right: Log-probabilities of the levels after the right answer, renormalised over the levels.
        wrong: The same after the wrong answer.
        values: The confidence value of each level, in [0, 1].

    Returns:
        From 0 to 1.
    """
    return (1 - (expected(right, values) + expected(wrong, values))).abs()


def token_mean(answer_logprob: Float[Tensor, "*batch"], tokens: Integer[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The mean log-probability of an answer's tokens: a long answer counts no more than a short one.

    Args:
        answer_logprob: Log-probability of the answer, the sum over its tokens, in nats.
        tokens: How many tokens it has.

    Returns:
        At most 0; the log-probability itself for an answer of one token.
    """
    return answer_logprob / tokens


def advice_losses(
    right: Float[Tensor, "*batch levels"],
    wrong: Float[Tensor, "*batch levels"],
    answer_logprob: Float[Tensor, "*batch"],
    values: Float[Tensor, " levels"],
    weights: Weights,
) -> dict[str, Float[Tensor, "*batch"]]:
    """Each term of ADVICE's objective times its weight, and their `total`.

    Where margin and sum have the same weight and neither is 0, their gradients cancel for one of the two means. While
    both means are low, only the right answer's mean moves; while both are high, only the wrong answer's.

    Args:
        right: Log-probabilities of the levels after the right answer, renormalised over the levels.
        wrong: The same after the wrong answer.
        answer_logprob: Log-probability of the right answer, or its `token_mean`, in nats.
        values: The confidence value of each level, in [0, 1].
        weights: The weight of each term, and the divergence and the margin that are enough.

    Returns:
        `lm`, `jsd`, `margin`, `sum` and `total`, each [*batch].
    """
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

    It is a proper scoring rule only for the mode of the distribution: it is least where all mass lies on the level
    nearest to the probability of being right.

    Args:
        levels: Log-probabilities of the levels, renormalised over the levels.
        right: Whether the answer is right.
        values: The confidence value of each level, in [0, 1].

    Returns:
        From 0 to 1.
    """
    squared = (right.to(values)[..., None] - values) ** 2  # [*batch, levels]
    return (levels.exp() * squared).sum(-1)  # [*batch]
