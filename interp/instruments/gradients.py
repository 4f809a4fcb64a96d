"""Integrated gradients of a score along a path, with their completeness gap.

It knows scores and paths, and nothing of questions or records."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from interp.instruments.scorer import PathScore, Scorer
from interp.measures import Attribution

if TYPE_CHECKING:
    from torch import Tensor

FIRST_NODES, MOST_NODES = 12, 96
"""Gauss-Legendre nodes are doubled, from the first number on, until the gap is allowed or they are no fewer than the
second."""


def gap_allowed(effect: float, score_range: float, floor: float = 0.0) -> float:
    """The completeness gap up to which an attribution is shown.

    It is the largest of 1 % of the effect, 0.001 of the score's range, and three times the floor. A sum over nodes
    cannot be nearer to the effect than the model's own precision lets two readings be to each other.

    Args:
        effect: the difference of the score between the path's ends.
        score_range: the difference between the format's highest and lowest value; 1 for a log-probability.
        floor: by how much the same score differs when it is read in different packings; 0 in exact arithmetic.

    Returns:
        The gap, at least 0, in the score's units.
    """
    return max(0.01 * abs(effect), 0.001 * score_range, 3 * floor)


def integrated_gradients(
    scored: PathScore,
    tokens: int,
    *,
    effect: float,
    score_range: float,
    floor: float = 0.0,
    most_nodes: int = MOST_NODES,
) -> Attribution:
    """Integrated gradients over the straight path of `Scorer.along` (Sundararajan et al. 2017), by captum.

    Each token's coordinate runs from 0 to 1, so that its attribution is the sum over the embedding's width. Nodes are
    doubled until the gap is allowed at two successive counts. A path of one token needs none: its attribution is the
    effect itself.

    Args:
        scored: the score along the path.
        tokens: how many tokens move.
        effect: the score at the path's end minus that at its beginning.
        score_range: as in `gap_allowed`.
        floor: as in `gap_allowed`.
        most_nodes: the last count of nodes, where the gap was never allowed twice in a row; `FIRST_NODES` at least.

    Returns:
        The attribution of each token; `refused` where the gap was not allowed twice in a row.
    """
    if tokens == 1:
        return Attribution((effect,), effect, 0.0, 0, False)
    import torch
    from captum.attr import IntegratedGradients

    from interp.models.tree import ROW_TOKENS

    most = min(ROW_TOKENS, scored.batch_tokens)  # more at once is slower: a gradient keeps every activation
    batch = max(1, most // scored.width)
    ones, nodes, settled = torch.ones(1, tokens), FIRST_NODES, 0
    while True:
        contributions = IntegratedGradients(scored).attribute(
            ones, torch.zeros_like(ones), n_steps=nodes, method="gausslegendre", internal_batch_size=batch
        )[0]  # [tokens]
        gap = contributions.sum().item() - effect
        # one small gap may be chance: the sum can cross the effect while the integral has not converged
        settled = settled + 1 if abs(gap) <= gap_allowed(effect, score_range, floor) else 0
        if settled == 2 or nodes >= most_nodes:
            return Attribution(tuple(contributions.tolist()), effect, gap, nodes, settled < 2, floor)
        nodes = min(2 * nodes, most_nodes)


def token_by_token(scorer: Scorer, positions: Sequence[int], replacement: "Tensor", seen: float) -> Attribution:
    """Integrated gradients along the path that replaces a span's tokens one after the other, the last one first.

    On each leg one token moves alone, so its attribution is the difference of the score between the leg's ends. It is
    exact for spans of any length, where straight paths through RMSNorm do not converge. It depends on the order.

    Args:
        scorer: the score of the transcript.
        positions: of the span's tokens.
        replacement: the embedding in the place of each of them, [width].
        seen: the score with nothing replaced.

    Returns:
        The attribution of each of the span's tokens, in the order of their positions.
    """
    # of positions (3, 4, 5) the tokens (5), (4, 5) and (3, 4, 5) are replaced, one step after the other
    steps = [positions[i:] for i in range(len(positions) - 1, -1, -1)]
    scores = [seen, *scorer.replaced([(step, replacement) for step in steps])]
    legs = tuple(float(before - after) for before, after in pairwise(scores))[::-1]
    effect = seen - scores[-1]
    return Attribution(legs, effect, sum(legs) - effect, 0, False)
