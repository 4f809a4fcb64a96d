"""The score at the confidence as a function of what stands in the prompt: tokens replaced, or on their way to it.

It reads the model and knows nothing of integrals, ranks or records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from interp.records import Transcript
from interp.run.runs import chunks

if TYPE_CHECKING:
    from torch import Tensor

    from interp.models.prefix import SharedPrefix
    from interp.models.readout import LevelPlan
    from interp.models.setting import Setting
    from interp.models.tree import TokenTree

PORTION = 64
"""How many replacements have their trees made at a time."""
Score = Callable[["Tensor"], "Tensor"]
"""Level log-probabilities [..., levels] -> the score, [...]."""


@dataclass(frozen=True)
class PathScore:
    """The score at points of a path, by coordinates [points, tokens]: 0 for a token that is replaced, 1 for itself."""

    of: Callable[["Tensor"], "Tensor"]
    """Coordinates [points, tokens] -> scores [points]."""
    width: int
    """How many tokens the model is fed for each point."""
    batch_tokens: int
    """How many tokens it is fed at a time, at most."""

    def __call__(self, coordinates: "Tensor") -> "Tensor":
        return self.of(coordinates)

    def ends(self, tokens: int) -> tuple[float, float]:
        """(score of the tokens themselves, score of their replacement), read side by side as points between them are.

        tokens: how many coordinates a point has."""
        import torch

        with torch.no_grad():
            itself, replacement = self(torch.tensor([[1.0] * tokens, [0.0] * tokens])).tolist()
        return itself, replacement


@dataclass(frozen=True, eq=False)
class Rest:
    """A transcript from one position on, with the levels below it: what is fed where its tokens are replaced."""

    prefix: "SharedPrefix"
    """The model, having read the tokens before that position."""
    start: int
    """The position."""
    tree: "TokenTree"
    """The tokens from that position on and the tokens of the levels."""
    reads: list[int]
    """The nodes after which the levels are read."""
    plan: "LevelPlan"
    """Where the levels stand in what is read."""
    nodes: tuple[int, ...]
    """The node of each of the transcript's tokens, from `start` on."""

    @property
    def embeds(self) -> "Tensor":
        """The embeddings of all nodes, [nodes, width], in the model's dtype; computed on each call, never held."""
        return self.prefix.embedded(self.tree.tokens)

    def at(self, positions: Sequence[int]) -> list[int]:
        """The nodes of the tokens at these positions."""
        return [self.nodes[position - self.start] for position in positions]

    def replaced(self, positions: Sequence[int], replacement: "Tensor") -> "Tensor":
        """The embeddings of all nodes, [nodes, width], with the tokens at some positions replaced.

        replacement: [width], or one embedding for each position, [positions, width]."""
        embeds = self.embeds.clone()  # an embedding layer may return a view of its own weights
        embeds[self.at(positions)] = replacement.to(embeds)
        return embeds


class Scorer:
    """The score of one transcript as a function of the embeddings of some of its tokens, the rest held fixed."""

    def __init__(self, setting: "Setting", transcript: Transcript, score: Score) -> None:
        self.setting = setting
        self.transcript = transcript
        self.score = score

    def replaced(self, replacements: Sequence[tuple[Sequence[int], "Tensor"]]) -> list[float]:
        """The score under each replacement.

        The transcript is read once. For each replacement only its first token and what follows is read again.
        Embeddings are made when a batch is read, and trees for `PORTION` replacements at a time, so that memory does
        not grow with the number of replacements.

        Args:
            replacements: for each of them (positions of the tokens that are replaced, embedding [width] in their
                place); no positions: the score of the transcript as it is.

        Returns:
            One score for each replacement, in the order given.
        """
        return [score for part in chunks(replacements, PORTION) for score in self._replaced(part)]

    def _replaced(self, replacements: Sequence[tuple[Sequence[int], "Tensor"]]) -> list[float]:
        last = len(self.transcript.ids) - 1
        # each tree begins at the first token that is replaced; where none is, the last token alone is fed again
        starts = [min([*positions, last]) for positions, _ in replacements]
        by_start = {start: self._rest(start) for start in set(starts)}
        rests = [by_start[start] for start in starts]
        starts = [rest.start for rest in rests]
        trees, reads = [rest.tree for rest in rests], [rest.reads for rest in rests]
        scores = [0.0] * len(rests)
        for i, after in self._whole.logits(starts, trees, reads, lambda i: rests[i].replaced(*replacements[i])):
            levels = rests[i].plan.level_logprobs(after, self.setting.reader.stops)  # [levels]
            scores[i] = self.score(levels).item()
        return scores

    def along(self, positions: Sequence[int], replacement: "Tensor") -> PathScore:
        """The score along the straight path from the replacement to the tokens at some positions.

        The path is formed in float32 and cast to the model's dtype last, so that its points are as near to the
        straight line as that dtype allows.

        Args:
            positions: of the tokens that move, in the transcript; each has its own coordinate.
            replacement: the embedding where all coordinates are 0, [width].

        Returns:
            The score as a function of coordinates [points, tokens], with gradient.
        """
        rest = self._rest(min(positions))
        dtype, moved, embeds = rest.embeds.dtype, rest.at(positions), rest.embeds.float()  # embeds: [nodes, width]
        origin = replacement.to(embeds)  # [width]
        offset = embeds[moved] - origin  # [moved, width]

        def scored(coordinates: "Tensor") -> "Tensor":
            fed = embeds.expand(len(coordinates), -1, -1).clone()  # [points, nodes, width]
            fed[:, moved] = origin + coordinates[..., None].to(embeds) * offset
            logits = rest.prefix.path_logits(rest.start, rest.tree, rest.reads, fed.to(dtype))
            return self.score(rest.plan.level_logprobs(logits, self.setting.reader.stops))

        return PathScore(scored, len(rest.tree.tokens), rest.prefix.batch_tokens)

    def first_order(self, replacement: "Tensor") -> "np.ndarray":
        """The effect of replacing each token if the score were linear in its embedding, [tokens]."""
        gradient, offset = self._slopes(replacement)
        effects: np.ndarray = (gradient * offset).sum(-1).cpu().numpy()
        return effects

    def first_order_bound(self, replacement: "Tensor") -> "np.ndarray":
        """The largest effect of moving each token's embedding as far as its replacement lies, in any direction, if the
        score were linear in it, [tokens].

        It predicts the effect of replacing the token better than `first_order`, in which directions cancel."""
        gradient, offset = self._slopes(replacement)
        bounds: np.ndarray = (gradient.norm(dim=-1) * offset.norm(dim=-1)).cpu().numpy()
        return bounds

    def _slopes(self, replacement: "Tensor") -> "tuple[Tensor, Tensor]":
        """The score's gradient at each token's embedding, and that embedding minus its replacement.

        Both are [tokens, width]."""
        import torch

        rest = self._rest(0)
        embeds = rest.embeds.detach()
        leaf = embeds.float().requires_grad_()  # [nodes, width], in float32 as in `along`
        after = rest.prefix.path_logits(0, rest.tree, rest.reads, leaf[None].to(embeds.dtype))  # a path of one point
        score = self.score(rest.plan.level_logprobs(after, self.setting.reader.stops)).sum()
        (gradient,) = torch.autograd.grad(score, leaf)
        nodes = list(rest.nodes)
        return gradient[nodes], leaf.detach()[nodes] - replacement.to(leaf)

    @cached_property
    def _whole(self) -> "SharedPrefix":
        """The model, having read the transcript except its last token."""
        return self.setting.prefix.extended(self.transcript.ids[:-1])

    def _rest(self, start: int) -> Rest:
        """What is fed from position `start` on; `_whole` is read only where the shared prefix ends before it."""
        shared_prefix, start = self.setting.prefix, min(start, self.setting.reader.latest_start(self.transcript))
        prefix = shared_prefix if start <= len(shared_prefix.shared_prefix) else self._whole
        tree, reads, plan = self.setting.reader.plan(self.transcript, start)
        nodes = tree.insert(self.transcript.ids[start:])
        return Rest(prefix, start, tree, reads, plan, nodes)
