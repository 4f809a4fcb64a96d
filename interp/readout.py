"""P(C given q, a): the exact distribution over a format's levels, and the likelihood of the answer before it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from interp.head import NextToken
from interp.prefix import ROW_TOKENS, SharedPrefix, TokenTree
from interp.prompts import Prompter
from interp.records import ConfidenceDistribution, Transcript


@dataclass(frozen=True)
class Reading:
    """What the model says after one answer."""

    distribution: ConfidenceDistribution
    """Its confidence in that answer."""
    answer_logprob: float
    """Log-probability (nats) of the answer's tokens and of the end of its line, given the question; at most 0."""
    answer_tokens: int
    """How many tokens the answer has."""


@dataclass(frozen=True)
class LevelPlan:
    """Where in a tree's log-probabilities the levels of one transcript stand."""

    edge_rows: Tensor
    """For each token of each level, the row of the read after which it comes."""
    edge_tokens: Tensor
    """That token."""
    edge_levels: Tensor
    """The level that it belongs to."""
    leaf_rows: Tensor
    """For each level, the row of the read after its last token."""
    answer_rows: Tensor
    """The rows after which the answer's tokens and the end of its line come."""
    answer_tokens: Tensor
    """Those tokens."""

    def level_logprobs(self, after: NextToken, stops: Tensor) -> Tensor:
        """Log-probability of each whole level with its end, [..., levels], from what comes next after [..., reads].

        A level ends where the turn or the line ends (`stops`), so that "8" is told from "85" and "1" from "10"."""
        edges = after.logprobs(self.edge_rows, self.edge_tokens)
        ends = after.logprobs_of_any(self.leaf_rows, stops)
        return ends.index_add(-1, self.edge_levels, edges)

    def answer_logprobs(self, after: NextToken) -> Tensor:
        """Log-probability of each of `answer_tokens`, from what comes next after [reads]."""
        return after.logprobs(self.answer_rows, self.answer_tokens)


def one_after_the_other(plans: Sequence[LevelPlan]) -> LevelPlan:
    """The plans of one tree's transcripts as one plan: its levels are those of the first, then of the second, ..."""
    whole = {one.name: torch.cat([getattr(plan, one.name) for plan in plans]) for one in fields(LevelPlan)}
    before = np.cumsum([0, *(len(plan.leaf_rows) for plan in plans)])
    levels = [plan.edge_levels + int(count) for plan, count in zip(plans, before, strict=False)]
    return LevelPlan(**whole | {"edge_levels": torch.cat(levels)})


class ConfidenceReader:
    """Reads the confidence of one checkpoint in one format, with or without shots."""

    def __init__(self, prefix: SharedPrefix, prompter: Prompter, stops: Sequence[int]) -> None:
        self.prefix = prefix
        self.prompter = prompter
        self.stops = torch.tensor(sorted(stops), device=prefix.model.device)

    def readings(self, transcripts: Sequence[Transcript]) -> list[Reading]:
        """The reading of each transcript open at the confidence's slot, in the order given.

        Transcripts with a common beginning are read together: pass those of a question in one call."""
        length = self.prefix.shared_length([t.ids for t in transcripts])
        trees, owners = packed(transcripts, [self.prompter.level_suffixes(t) for t in transcripts], length)
        plans = [
            self.planned(tree, [transcripts[i] for i in owner], length)
            for tree, owner in zip(trees, owners, strict=True)
        ]
        found: dict[int, Reading] = {}
        for index, after in self.prefix.logits(length, trees, [reads for reads, _ in plans]):
            for transcript, plan in zip(owners[index], plans[index][1], strict=True):
                said = self.distribution(plan.level_logprobs(after, self.stops))
                spoken = plan.answer_logprobs(after).sum().item()
                found[transcript] = Reading(said, spoken, max(len(plan.answer_tokens) - 1, 0))
        return [found[i] for i in range(len(transcripts))]

    def answer_logprobs(self, transcripts: Sequence[Transcript]) -> list[float]:
        """The `answer_logprob` of each transcript's reading, without its levels being read."""
        if not transcripts:
            return []
        length = self.prefix.shared_length([t.ids for t in transcripts])
        trees, owners = packed(transcripts, [()] * len(transcripts), length)
        plans = [
            self.planned(tree, [transcripts[i] for i in owner], length, levels=False)
            for tree, owner in zip(trees, owners, strict=True)
        ]
        found: dict[int, float] = {}
        for index, after in self.prefix.logits(length, trees, [reads for reads, _ in plans]):
            for transcript, plan in zip(owners[index], plans[index][1], strict=True):
                found[transcript] = plan.answer_logprobs(after).sum().item()
        return [found[i] for i in range(len(transcripts))]

    def distribution(self, level_logprobs: Tensor) -> ConfidenceDistribution:
        """The distribution of one transcript from the log-probabilities of its levels."""
        form = self.prompter.confidence
        logprobs = level_logprobs.cpu().double()  # mps has no float64
        mass = logprobs.logsumexp(-1)
        probability = (logprobs - mass).exp().tolist()
        return ConfidenceDistribution(form.levels, form.values, tuple(probability), 1 - mass.exp().item())

    def plan(self, transcript: Transcript, length: int) -> tuple[TokenTree, list[int], LevelPlan]:
        """One transcript in a tree of its own: the tree, the nodes to read and where its levels stand."""
        trees, _ = packed([transcript], [self.prompter.level_suffixes(transcript)], length)
        reads, plans = self.planned(trees[0], [transcript], length)
        return trees[0], reads, plans[0]

    def planned(
        self, tree: TokenTree, transcripts: Sequence[Transcript], length: int, *, levels: bool = True
    ) -> tuple[list[int], list[LevelPlan]]:
        """The nodes to read in a tree that holds these transcripts (put in where missing), and their plans.

        levels: False for the answers alone."""
        reads: dict[int, int] = {}
        plans = []
        for transcript in transcripts:
            path = tree.insert(transcript.ids[length:])
            edges, leaves = [], []
            for level, suffix in enumerate(self.prompter.level_suffixes(transcript) if levels else ()):
                nodes = (path[-1], *tree.insert(suffix, path[-1]))
                edges += [
                    (reads.setdefault(n, len(reads)), token, level) for n, token in zip(nodes, suffix, strict=False)
                ]
                leaves.append(reads.setdefault(nodes[-1], len(reads)))
            spoken = transcript.positions("answer")
            spoken = (*spoken, spoken[-1] + 1) if spoken and spoken[0] > length else ()
            answer = [(reads.setdefault(path[i - 1 - length], len(reads)), transcript.ids[i]) for i in spoken]
            device = self.prefix.model.device
            rows, tokens, owners = torch.tensor(edges, device=device, dtype=torch.long).reshape(-1, 3).T
            before, said = torch.tensor(answer, device=device, dtype=torch.long).reshape(-1, 2).T
            leaf_rows = torch.tensor(leaves, device=device, dtype=torch.long)
            plans.append(LevelPlan(rows, tokens, owners, leaf_rows, before, said))
        return list(reads), plans


def packed(
    transcripts: Sequence[Transcript], suffixes: Sequence[tuple[tuple[int, ...], ...]], length: int
) -> tuple[list[TokenTree], list[list[int]]]:
    """Trees that hold every transcript with all its levels, and the transcripts in each tree.

    Neighbours in lexical order share most, so they are packed in that order, into rows of about the same length."""
    order = sorted(range(len(transcripts)), key=lambda i: transcripts[i].ids)
    trees, owners = _filled(order, transcripts, suffixes, length, ROW_TOKENS)
    if len(trees) > 1:
        even = math.ceil(sum(len(tree.tokens) for tree in trees) / len(trees))
        trees, owners = _filled(order, transcripts, suffixes, length, even)
    return trees, owners


def _filled(
    order: Sequence[int],
    transcripts: Sequence[Transcript],
    suffixes: Sequence[tuple[tuple[int, ...], ...]],
    length: int,
    size: int,
) -> tuple[list[TokenTree], list[list[int]]]:
    """Trees of `size` nodes or, the last transcript's included, a little more."""
    trees, owners = [TokenTree()], list[list[int]]([[]])
    for index in order:
        if owners[-1] and len(trees[-1].tokens) >= size:
            trees.append(TokenTree())
            owners.append([])
        last = trees[-1].insert(transcripts[index].ids[length:])[-1]
        for suffix in suffixes[index]:
            trees[-1].insert(suffix, last)
        owners[-1].append(index)
    return trees, owners
