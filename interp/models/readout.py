"""P(C given q, a): the exact distribution over a format's levels, and the likelihood of the answer before it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn

from interp.errors import UserError
from interp.models.head import NextToken
from interp.models.prefix import ROW_TOKENS, PromptsRead, SharedPrefix, TokenTree
from interp.models.prompts import LevelsRead, Prompter, common_length
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
    end_rows: Tensor
    """The rows after which a level's line may end: after the level itself, and after each filler that may follow it."""
    filler_rows: Tensor
    """For each filler, the row of the read after which it comes."""
    filler_tokens: Tensor
    """That token."""
    filler_ends: Tensor
    """Which of `end_rows` is the one after it."""
    level_ends: Tensor
    """For each level, which of `end_rows` are its own, [levels, ends]; -1: none. No ends: levels are read without."""
    answer_rows: Tensor
    """The rows after which the answer's tokens and the end of its line come."""
    answer_tokens: Tensor
    """Those tokens."""

    def level_logprobs(self, after: NextToken, stops: Tensor) -> Tensor:
        """Log-probability of each level with its end, [..., levels], from what comes next after [..., reads].

        A level ends where the turn or the line ends (`stops`), at once or after one filler token f, so that "8" is told
        from "85" and "1" from "10": P(level) = P(tokens) [P(end) + sum over f of P(f) P(end | f)]."""
        edges = after.logprobs(self.edge_rows, self.edge_tokens)  # [..., edges]: a token given all before it
        levels = edges.new_zeros((*edges.shape[:-1], len(self.level_ends))).index_add(-1, self.edge_levels, edges)
        if not self.level_ends.shape[1]:
            return levels  # [..., levels]: the sum of each level's edges
        fillers = after.logprobs(self.filler_rows, self.filler_tokens)
        ends = after.logprobs_of_any(self.end_rows, stops).index_add(-1, self.filler_ends, fillers)
        # ends: [..., ends], each with its filler's log-probability; -1 in `level_ends` picks the column that is added
        none = ends.new_full((*ends.shape[:-1], 1), -math.inf)
        return levels + torch.cat([ends, none], -1)[..., self.level_ends].logsumexp(-1)

    def answer_logprobs(self, after: NextToken) -> Tensor:
        """Log-probability of each of `answer_tokens`, from what comes next after [reads]."""
        return after.logprobs(self.answer_rows, self.answer_tokens)


def one_after_the_other(plans: Sequence[LevelPlan]) -> LevelPlan:
    """The plans of one tree's transcripts as one plan: its levels are those of the first, then of the second, ..."""
    levels = np.cumsum([0, *(len(plan.level_ends) for plan in plans)])
    ends = np.cumsum([0, *(len(plan.end_rows) for plan in plans)])
    most = max(plan.level_ends.shape[1] for plan in plans)
    moved = [
        replace(
            plan,
            edge_levels=plan.edge_levels + int(level),
            filler_ends=plan.filler_ends + int(end),
            level_ends=_padded(plan.level_ends.where(plan.level_ends < 0, plan.level_ends + int(end)), most),
        )
        for plan, level, end in zip(plans, levels, ends, strict=False)
    ]
    return LevelPlan(**{one.name: torch.cat([getattr(plan, one.name) for plan in moved]) for one in fields(LevelPlan)})


def _padded(level_ends: Tensor, most: int) -> Tensor:
    return nn.functional.pad(level_ends, (0, most - level_ends.shape[1]), value=-1)


@dataclass(frozen=True)
class Pack:
    """Transcripts in one tree."""

    tree: TokenTree
    """The tree, with all their levels."""
    owners: list[int]
    """The number of each transcript."""
    reads: list[int]
    """The nodes to read."""
    plans: list[LevelPlan]
    """Where each one's levels stand."""


class ConfidenceReader:
    """Reads the confidence of one checkpoint in one format, with or without shots."""

    def __init__(
        self, prefix: SharedPrefix, prompter: Prompter, stops: Sequence[int], levels: LevelsRead = "whole"
    ) -> None:
        """stops: token ids that end a level. levels: whole ones, or the first token on which they part."""
        self.prefix = prefix
        self.prompter = prompter
        self.levels = levels
        self.stops = torch.tensor(sorted(stops), device=prefix.model.device)

    def readings(self, transcripts: Sequence[Transcript]) -> list[Reading]:
        """The reading of each transcript open at the confidence's slot, in the order given.

        Transcripts with a common beginning are read together: pass those of a question in one call."""
        length = self.prefix.shared_length([t.ids for t in transcripts])
        packs = self._packs(range(len(transcripts)), transcripts, length)
        afters = self.prefix.logits(length, [pack.tree for pack in packs], [pack.reads for pack in packs])
        return self._readings(packs, afters)

    def readings_below(
        self, read: PromptsRead, prompts: Sequence[int], transcripts: Sequence[Transcript]
    ) -> list[Reading]:
        """The same of transcripts that go on from prompts which have been read: only what follows is fed.

        prompts: the number of each one's prompt. Where an answer changes the last tokens of its prompt, those are fed
        again, and so is the last one in any case: the answer's first token is read after it."""
        packs: list[Pack] = []
        lengths: list[int] = []
        for prompt in dict.fromkeys(prompts):
            members = [i for i, own in enumerate(prompts) if own == prompt]
            length = common_length([read.prompts[prompt], *(transcripts[i].ids for i in members)])
            length = min(length, *(transcripts[i].positions("answer")[0] - 1 for i in members))
            packs += self._packs(members, transcripts, length)
            lengths += [length] * (len(packs) - len(lengths))
        owners = [prompts[pack.owners[0]] for pack in packs]
        return self._readings(
            packs, read.logits(owners, lengths, [pack.tree for pack in packs], [pack.reads for pack in packs])
        )

    def _packs(self, members: Sequence[int], transcripts: Sequence[Transcript], length: int) -> list["Pack"]:
        ours = [transcripts[i] for i in members]
        trees, owners = packed(ours, [self.paths(t) for t in ours], length)
        return [
            Pack(tree, [members[k] for k in owner], *self.planned(tree, [ours[k] for k in owner], length))
            for tree, owner in zip(trees, owners, strict=True)
        ]

    def _readings(self, packs: Sequence["Pack"], afters: Iterable[tuple[int, NextToken]]) -> list[Reading]:
        """The readings in the order of the transcripts' numbers, from what comes next in each pack's tree."""
        found: dict[int, Reading] = {}
        for index, after in afters:
            for transcript, plan in zip(packs[index].owners, packs[index].plans, strict=True):
                said = self.distribution(plan.level_logprobs(after, self.stops))
                spoken = plan.answer_logprobs(after).sum().item()
                found[transcript] = Reading(said, spoken, max(len(plan.answer_tokens) - 1, 0))
        return [found[i] for i in sorted(found)]

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

    def levels_of(self, transcript: Transcript) -> tuple[tuple[int, ...], ...]:
        """The token ids that are read of each level after a transcript open at the confidence's slot.

        Errors: UserError where the first token on which the levels part does not tell all of them apart."""
        suffixes = self.prompter.level_suffixes(transcript)
        return suffixes if self.levels == "whole" else parted(suffixes, self.prompter.confidence.levels)

    def fillers_of(self, transcript: Transcript) -> tuple[tuple[int, ...], ...]:
        """For each level the tokens that may stand between it and its end."""
        fillers = self.prompter.level_fillers(transcript)
        return fillers if self.levels == "whole" else ((),) * len(fillers)

    def paths(self, transcript: Transcript) -> tuple[tuple[int, ...], ...]:
        """All that a tree holds below a transcript: its levels, and those with fillers."""
        levels = zip(self.levels_of(transcript), self.fillers_of(transcript), strict=True)
        return tuple(path for level, fillers in levels for path in (level, *((*level, one) for one in fillers)))

    def plan(self, transcript: Transcript, length: int) -> tuple[TokenTree, list[int], LevelPlan]:
        """One transcript in a tree of its own: the tree, the nodes to read and where its levels stand."""
        trees, _ = packed([transcript], [self.paths(transcript)], length)
        reads, plans = self.planned(trees[0], [transcript], length)
        return trees[0], reads, plans[0]

    def planned(
        self, tree: TokenTree, transcripts: Sequence[Transcript], length: int, *, levels: bool = True
    ) -> tuple[list[int], list[LevelPlan]]:
        """The nodes to read in a tree that holds these transcripts (put in where missing), and their plans.

        levels: False for the answers alone."""
        reads: dict[int, int] = {}
        plans = [
            self.plan_at(tree, tree.insert(one.ids[length:]), one, reads, _spoken(one, length), levels=levels)
            for one in transcripts
        ]
        return list(reads), plans

    def plan_at(
        self,
        tree: TokenTree,
        path: Sequence[int],
        transcript: Transcript,
        reads: dict[int, int],
        spoken: Sequence[int] = (),
        *,
        levels: bool = True,
    ) -> LevelPlan:
        """The plan of a transcript whose last tokens are the nodes `path`; puts its levels below them.

        reads: the nodes to read so far, each with its row; grows. spoken: positions whose likelihood is read too.
        levels: False for the answers alone."""
        edges: list[tuple[int, int, int]] = []  # row, token, level
        fillers: list[tuple[int, int, int]] = []  # row, token, place among the ends
        ends: list[int] = []
        level_ends: list[list[int]] = []

        def row(node: int) -> int:
            return reads.setdefault(node, len(reads))

        # Below the last token of the transcript, "...Confidence:", with levels "1" and "10" (f a filler, | the end):
        #     path[-1] -- 1 -+- |        edges: (path[-1], 1), (path[-1], 1), (1, 0)
        #                    +- f -- |   ends: after 1, after 1 f, after 10, after 10 f
        #                    +- 0 -+- |
        #                          +- f -- |
        written = zip(self.levels_of(transcript), self.fillers_of(transcript), strict=True) if levels else ()
        for level, (suffix, may_follow) in enumerate(written):
            nodes = (path[-1], *tree.insert(suffix, path[-1]))
            edges += [(row(node), token, level) for node, token in zip(nodes, suffix, strict=False)]
            level_ends.append([])
            if self.levels == "token":
                continue
            level_ends[-1].append(len(ends))
            ends.append(row(nodes[-1]))
            for token in may_follow:
                level_ends[-1].append(len(ends))
                fillers.append((row(nodes[-1]), token, len(ends)))
                ends.append(row(tree.insert((token,), nodes[-1])[-1]))
        most = max(map(len, level_ends), default=0)
        padded = [own + [-1] * (most - len(own)) for own in level_ends]
        edge_rows, edge_tokens, edge_levels = self._columns(edges, 3)
        filler_rows, filler_tokens, filler_ends = self._columns(fillers, 3)
        before = len(transcript.ids) - len(path)
        said = [(row(path[i - 1 - before]), transcript.ids[i]) for i in spoken]
        answer_rows, answer_tokens = self._columns(said, 2)
        return LevelPlan(
            edge_rows,
            edge_tokens,
            edge_levels,
            self._columns([(end,) for end in ends], 1)[0],
            filler_rows,
            filler_tokens,
            filler_ends,
            torch.tensor(padded, dtype=torch.long, device=self.stops.device),
            answer_rows,
            answer_tokens,
        )

    def _columns(self, rows: Sequence[tuple[int, ...]], width: int) -> Sequence[Tensor]:
        return torch.tensor(rows, dtype=torch.long, device=self.stops.device).reshape(-1, width).unbind(1)


def _spoken(transcript: Transcript, length: int) -> Sequence[int]:
    """The positions of the answer's tokens and of the end of its line, where the answer lies beyond `length`."""
    answer = transcript.positions("answer")
    return (*answer, answer[-1] + 1) if answer and answer[0] > length else ()


def parted(suffixes: Sequence[tuple[int, ...]], levels: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Each level's tokens up to the first one on which not all levels agree.

    Errors: UserError where two levels still have the same: "1%" and "10%", "very low" and "very high"."""
    read = common_length(suffixes) + 1
    found: dict[tuple[int, ...], str] = {}
    for suffix, level in zip(suffixes, levels, strict=True):
        if len(suffix) < read or suffix[:read] in found:
            other = found.get(suffix[:read]) or next(one for one in levels if one != level)
            raise UserError(f"--levels token: one token does not tell {other!r} from {level!r}; use --levels whole")
        found[suffix[:read]] = level
    return tuple(found)


def packed(
    transcripts: Sequence[Transcript], suffixes: Sequence[tuple[tuple[int, ...], ...]], length: int
) -> tuple[list[TokenTree], list[list[int]]]:
    """Trees that hold every transcript with all that `suffixes` name below it, and the transcripts in each tree.

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
