"""Jensen-Shannon divergence between confidence distributions: arrays in, numbers out, no model."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float

from interp.records import ConfidenceDistribution

LIMIT = float(np.log(2))
"""The divergence (nats) of two distributions that share no level."""
NEAR_ZERO = 0.1
"""The paper's threshold (nats): a divergence of at most this is called answer-independent."""


def jensen_shannon(
    p: Float[np.ndarray, "*batch levels"], q: Float[np.ndarray, "*batch levels"]
) -> Float[np.ndarray, "*batch"]:
    """Jensen-Shannon divergence in nats: the mean of the relative entropies of both to their equal mixture (Lin 1991).

    It is not its square root, which is a distance and is what scipy's `jensenshannon` returns. It is not the mean of
    KL(p, q) and KL(q, p), which has no upper bound. It is not comparable between formats with different numbers of
    levels.

    Args:
        p, q: distributions over the same levels, each summing to 1.

    Returns:
        The divergence, in [0, ln 2]. 0: the confidence is distributed the same after either answer. ln 2: the two share
        no level.
    """
    mixture = (p + q) / 2
    # rounding can make the mean slightly negative
    mean: np.ndarray = np.maximum((_relative_entropy(p, mixture) + _relative_entropy(q, mixture)) / 2, 0)[..., 0]
    return mean


def _relative_entropy(p: np.ndarray, m: np.ndarray) -> np.ndarray:
    """KL(p, m) in nats, [..., 1]; levels where p is 0 add nothing."""
    ratio = np.divide(p, m, out=np.ones_like(p), where=(p > 0) & (m > 0))  # m may be 0: half the least float is 0
    entropy: np.ndarray = (p * np.log(ratio)).sum(-1, keepdims=True)
    return entropy


def divergence(a: ConfidenceDistribution, b: ConfidenceDistribution) -> float:
    """`jensen_shannon` of two confidence distributions over the same levels."""
    return float(jensen_shannon(np.array(a.probability), np.array(b.probability)))


def pairwise_divergences(distributions: Sequence[Sequence[float]]) -> Float[np.ndarray, " pairs"]:
    """The divergence of every pair of distributions, in the order of `itertools.combinations`.

    distributions: probabilities over the same levels; of fewer than two the result is empty."""
    if len(distributions) < 2:
        return np.zeros(0)
    first, second = np.array(list(combinations(distributions, 2))).swapaxes(0, 1)  # each [pairs, levels]
    return jensen_shannon(first, second)
