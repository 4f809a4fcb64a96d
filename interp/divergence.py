"""Jensen-Shannon divergence between confidence distributions: arrays in, numbers out, no model."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float

from interp.records import ConfidenceDistribution

LIMIT = float(np.log(2))
"""The divergence of two distributions that share no level."""
NEAR_ZERO = 0.1
"""The paper's line: at most this much is called answer-independent."""


def jensen_shannon(
    p: Float[np.ndarray, "*batch levels"], q: Float[np.ndarray, "*batch levels"]
) -> Float[np.ndarray, "*batch"]:
    """Jensen-Shannon divergence in nats, the mean of both divergences from the equal mixture (Lin 1991).

    0: the confidence is distributed the same after either answer. ln 2: the two share no level. Not its square root,
    which is a distance and what scipy's `jensenshannon` returns; not the mean of KL(p, q) and KL(q, p), which has no
    upper bound. Not comparable between formats with different numbers of levels."""
    mixture = (p + q) / 2
    found: np.ndarray = np.maximum((_relative_entropy(p, mixture) + _relative_entropy(q, mixture)) / 2, 0)[..., 0]
    return found


def _relative_entropy(p: np.ndarray, m: np.ndarray) -> np.ndarray:
    ratio = np.divide(p, m, out=np.ones_like(p), where=(p > 0) & (m > 0))  # half of the least number is 0
    found: np.ndarray = (p * np.log(ratio)).sum(-1, keepdims=True)
    return found


def divergence(a: ConfidenceDistribution, b: ConfidenceDistribution) -> float:
    """`jensen_shannon` of two confidence distributions."""
    return float(jensen_shannon(np.array(a.probability), np.array(b.probability)))


def pairwise_divergences(distributions: Sequence[Sequence[float]]) -> Float[np.ndarray, " pairs"]:
    """The divergence of every pair of distributions, in the order of `itertools.combinations`; empty below two."""
    if len(distributions) < 2:
        return np.zeros(0)
    first, second = np.array(list(combinations(distributions, 2))).swapaxes(0, 1)  # each [pairs, levels]
    return jensen_shannon(first, second)
