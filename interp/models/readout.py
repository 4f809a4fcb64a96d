"""P(C given q, a): the exact distribution over a format's levels, and the likelihood of the answer before it.

Transcripts and their levels become trees of tokens, and what the engine says comes next becomes readings. The module
knows token ids, levels and positions. It must not know how prompts are worded, where answers come from or what the
instruments make of a distribution."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn

from interp.errors import UserError
from interp.models.head import NextToken
from interp.models.prefix import PromptsRead, SharedPrefix
from interp.models.prompts import LevelsRead, Prompter
from interp.models.residual import Steering
from interp.models.tree import ROW_TOKENS, TokenTree, common_length
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
    """Where in a tree's log-probabilities the levels of one transcript stand.

    A row is the place of a node among the nodes that are read in the tree. All tensors hold integers. Example: levels
    "1" and "10", one token a digit, each perhaps followed by the filler f; the row of each node stands before it:

        0:"...Confidence:" -- 1:"1" -+- 2:f        edge_rows    0   0   1       end_rows       1   2   3   4
                                     +- 3:"0"      edge_tokens "1" "1" "0"      filler_rows    1   3
                                          |        edge_levels  0   1   1       filler_tokens  f   f
                                          +- 4:f                                filler_ends    1   3
                                                   level_ends  [[0, 1], [2, 3]]
    """

    edge_rows: Tensor
    """For each token of each level, the row of the read after which it comes, [edges]."""
    edge_tokens: Tensor
    """That token, [edges]."""
    edge_levels: Tensor
    """The level that it belongs to, [edges]."""
    end_rows: Tensor
    """The rows after which a level's line may end: after the level itself, and after each filler that may follow it.
    [ends]."""
    filler_rows: Tensor
    """For each filler, the row of the read after which it comes, [fillers]."""
    filler_tokens: Tensor
    """That token, [fillers]."""
    filler_ends: Tensor
    """Which of `end_rows` is the one after it, [fillers]."""
    level_ends: Tensor
    """For each level, which of `end_rows` are its own, [levels, most ends]; -1 fills up. Without a column levels are
    read without their end."""
    answer_rows: Tensor
    """The rows after which the answer's tokens and the end of its line come, [answer]."""
    answer_tokens: Tensor
    """Those tokens, [answer]."""

    def level_logprobs(self, after: NextToken, stops: Tensor) -> Tensor:
        """Log-probability of each level with its end.

        A level ends where the turn or the line ends, at once or after one filler token f, so that "8" is told
        from "85" and "1" from "10": P(level) = P(tokens) [P(end) + sum over f of P(f) P(end | f)].

        Args:
            after: What comes next after the nodes that are read in the tree, [..., reads].
            stops: The token ids that end a line or a turn, [stops].

        Returns:
            Log-probabilities (nats), [..., levels], not renormalised over the levels.
        """
        edges = after.logprobs(self.edge_rows, self.edge_tokens)  # [..., edges]: a token given all before it
        levels = edges.new_zeros((*edges.shape[:-1], len(self.level_ends))).index_add(-1, self.edge_levels, edges)
        if not self.level_ends.shape[1]:
            return levels  # [..., levels]: the sum of each level's edges
        fillers = after.logprobs(self.filler_rows, self.filler_tokens)  # [..., fillers]
        # [..., ends]: log P(end), or where a filler stands before the end log P(f) + log P(end | f)
        ends = after.logprobs_of_any(self.end_rows, stops).index_add(-1, self.filler_ends, fillers)
        # -1 in `level_ends` picks the last column, which is appended here and adds no probability
        no_end = ends.new_full((*ends.shape[:-1], 1), -math.inf)
        return levels + torch.cat([ends, no_end], -1)[..., self.level_ends].logsumexp(-1)  # [..., levels, most ends]

    def fillers_used(self, after: NextToken, stops: Tensor, share: float) -> list[int]:
        """The fillers without which the probability of some level would be lower by this share of it, or more.

        Args:
            after: What comes next after the nodes that are read in the tree, [reads].
            stops: The token ids that end a line or a turn, [stops].
            share: In [0, 1].

        Returns:
            Their token ids, each once.
        """
        fillers = after.logprobs(self.filler_rows, self.filler_tokens)  # [fillers]
        ends = after.logprobs_of_any(self.end_rows, stops).index_add(-1, self.filler_ends, fillers)  # [ends]
        # [levels, most ends], -inf where a level has fewer ends
        of_level = torch.cat([ends, ends.new_full((1,), -math.inf)])[self.level_ends]
        shares = of_level.softmax(-1)
        used = torch.isin(self.filler_ends, self.level_ends[shares >= share])
        return sorted(set(self.filler_tokens[used].tolist()))

    def answer_logprobs(self, after: NextToken) -> Tensor:
        """Log-probability (nats) of each of `answer_tokens`, [answer], from what comes next after [reads]."""
        return after.logprobs(self.answer_rows, self.answer_tokens)


def one_after_the_other(plans: Sequence[LevelPlan]) -> LevelPlan:
    """The plans of one tree's transcripts as one plan: its levels are those of the first, then of the second, ..."""
    # levels and ends are numbered anew; rows are not, since all plans share the reads of the tree
    level_offsets = np.cumsum([0, *(len(plan.level_ends) for plan in plans)])  # one more than plans: the total
    end_offsets = np.cumsum([0, *(len(plan.end_rows) for plan in plans)])
    most_ends = max(plan.level_ends.shape[1] for plan in plans)
    shifted = [
        replace(
            plan,
            edge_levels=plan.edge_levels + int(level_offset),
            filler_ends=plan.filler_ends + int(end_offset),
            level_ends=_padded(
                plan.level_ends.where(plan.level_ends < 0, plan.level_ends + int(end_offset)), most_ends
            ),
        )
        for plan, level_offset, end_offset in zip(plans, level_offsets, end_offsets, strict=False)
    ]
    return LevelPlan(
        **{column.name: torch.cat([getattr(plan, column.name) for plan in shifted]) for column in fields(LevelPlan)}
    )


def _padded(level_ends: Tensor, width: int) -> Tensor:
    """[levels, ends] -> [levels, width], filled up with -1."""
    return nn.functional.pad(level_ends, (0, width - level_ends.shape[1]), value=-1)


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
    """For each transcript where its levels stand."""


class ConfidenceReader:
    """Reads the confidence of one checkpoint in one format, with or without worked examples."""

    def __init__(
        self,
        prefix: SharedPrefix,
        prompter: Prompter,
        stops: Sequence[int],
        levels: LevelsRead = "whole",
        steering: Steering | None = None,
    ) -> None:
        """Keeps what all readings need; reads nothing.

        Args:
            prefix: The model that has read the shared prefix.
            prompter: Renders the prompts and knows the format of the confidence.
            stops: Token ids that end a level.
            levels: "whole": each level with its end; "token": the first token on which the levels part.
            steering: What is added to the residual stream from the first token after each answer on.
        """
        self.prefix = prefix
        self.steering = steering
        self.prompter = prompter
        self.levels = levels
        self.only_fillers: frozenset[int] | None = None
        """The fillers that are read; None: all of them."""
        self.stops = torch.tensor(sorted(stops), device=prefix.model.device)

    def readings(self, transcripts: Sequence[Transcript]) -> list[Reading]:
        """Reads transcripts below the shared prefix.

        Transcripts with a common beginning are read together: pass those of a question in one call.

        Args:
            transcripts: Transcripts open at the confidence's slot.

        Returns:
            The reading of each transcript, in the order given.

        Raises:
            UserError: where the levels are read by one token and that token does not tell all of them apart.
        """
        length = self.prefix.shared_length([transcript.ids for transcript in transcripts])
        packs = self._packs(range(len(transcripts)), transcripts, length)
        predictions = self.prefix.logits(length, [pack.tree for pack in packs], [pack.reads for pack in packs])
        return self.readings_of(packs, predictions)

    def readings_below(
        self, read: PromptsRead, prompts: Sequence[int], transcripts: Sequence[Transcript]
    ) -> list[Reading]:
        """Reads transcripts that continue prompts which the model has read; only what follows is fed.

        Where an answer changes the last tokens of its prompt, those are fed again. The last token of the prompt is fed
        again in any case: the answer's first token is read after it.

        Args:
            read: The prompts.
            prompts: For each transcript the number of its prompt.
            transcripts: Transcripts open at the confidence's slot.

        Returns:
            The reading of each transcript, in the order given.

        Raises:
            UserError: where the levels are read by one token and that token does not tell all of them apart.
        """
        packs: list[Pack] = []
        lengths: list[int] = []  # for each pack how many tokens of its prompt it continues
        for prompt in dict.fromkeys(prompts):
            members = [i for i, owner in enumerate(prompts) if owner == prompt]
            length = common_length([read.prompts[prompt], *(transcripts[i].ids for i in members)])
            length = min(length, *(transcripts[i].positions("answer")[0] - 1 for i in members))
            packs += self._packs(members, transcripts, length)
            lengths += [length] * (len(packs) - len(lengths))
        pack_prompts = [prompts[pack.owners[0]] for pack in packs]
        return self.readings_of(
            packs, read.logits(pack_prompts, lengths, [pack.tree for pack in packs], [pack.reads for pack in packs])
        )

    def _packs(self, members: Sequence[int], transcripts: Sequence[Transcript], length: int) -> list["Pack"]:
        """Some of the transcripts in trees below their first `length` tokens; members: their numbers."""
        chosen = [transcripts[i] for i in members]
        trees, owners = packed(chosen, [self.paths(transcript) for transcript in chosen], length)
        return [
            Pack(tree, [members[k] for k in owned], *self.planned(tree, [chosen[k] for k in owned], length))
            for tree, owned in zip(trees, owners, strict=True)
        ]

    def readings_of(self, packs: Sequence["Pack"], predictions: Iterable[tuple[int, NextToken]]) -> list[Reading]:
        """The readings in the order of the transcripts' numbers, from what comes next in each pack's tree."""
        readings: dict[int, Reading] = {}
        for index, prediction in predictions:
            for number, plan in zip(packs[index].owners, packs[index].plans, strict=True):
                distribution = self.distribution(plan.level_logprobs(prediction, self.stops))
                answer_logprob = plan.answer_logprobs(prediction).sum().item()
                # the end of the answer's line counts for its likelihood, not for its number of tokens
                readings[number] = Reading(distribution, answer_logprob, max(len(plan.answer_tokens) - 1, 0))
        return [readings[i] for i in sorted(readings)]

    def answer_logprobs(self, transcripts: Sequence[Transcript]) -> list[float]:
        """The `answer_logprob` (nats) of each transcript's reading, without its levels being read."""
        if not transcripts:
            return []
        length = self.prefix.shared_length([transcript.ids for transcript in transcripts])
        trees, owners = packed(transcripts, [()] * len(transcripts), length)
        plans = [
            self.planned(tree, [transcripts[i] for i in owned], length, levels=False)
            for tree, owned in zip(trees, owners, strict=True)
        ]
        logprobs: dict[int, float] = {}
        for index, prediction in self.prefix.logits(length, trees, [reads for reads, _ in plans]):
            for number, plan in zip(owners[index], plans[index][1], strict=True):
                logprobs[number] = plan.answer_logprobs(prediction).sum().item()
        return [logprobs[i] for i in range(len(transcripts))]

    def distribution(self, level_logprobs: Tensor) -> ConfidenceDistribution:
        """The distribution of one transcript from the log-probabilities of its levels.

        Args:
            level_logprobs: Log-probabilities (nats) of the levels, [levels], not renormalised.

        Returns:
            Probabilities renormalised over the levels, and the off-scale mass: the probability of anything else.
        """
        form = self.prompter.confidence
        logprobs = level_logprobs.cpu().double()  # mps has no float64
        mass = logprobs.logsumexp(-1)  # log-probability of all levels together
        probability = (logprobs - mass).exp().tolist()
        return ConfidenceDistribution(form.levels, form.values, tuple(probability), 1 - mass.exp().item())

    def levels_of(self, transcript: Transcript) -> tuple[tuple[int, ...], ...]:
        """The token ids that are read of each level after a transcript open at the confidence's slot.

        Raises:
            UserError: where the first token on which the levels part does not tell all of them apart.
        """
        suffixes = self.prompter.level_suffixes(transcript)
        return suffixes if self.levels == "whole" else parted(suffixes, self.prompter.confidence.levels)

    def fillers_of(self, transcript: Transcript) -> tuple[tuple[int, ...], ...]:
        """For each level the tokens that may stand between it and its end; none where one token is read of each."""
        fillers = self.prompter.level_fillers(transcript)
        if self.levels != "whole":
            return ((),) * len(fillers)
        if (only := self.only_fillers) is not None:
            return tuple(tuple(token for token in of_level if token in only) for of_level in fillers)
        return fillers

    def paths(self, transcript: Transcript) -> tuple[tuple[int, ...], ...]:
        """Token ids of all that a tree holds below a transcript: its levels, and its levels with a filler each."""
        levels = zip(self.levels_of(transcript), self.fillers_of(transcript), strict=True)
        return tuple(path for level, fillers in levels for path in (level, *((*level, filler) for filler in fillers)))

    def plan(self, transcript: Transcript, length: int) -> tuple[TokenTree, list[int], LevelPlan]:
        """Puts one transcript into a tree of its own.

        Args:
            transcript: A transcript open at the confidence's slot.
            length: How many of its first tokens lie in the shared prefix.

        Returns:
            The tree, the nodes to read, and where the levels stand.
        """
        trees, _ = packed([transcript], [self.paths(transcript)], length)
        reads, plans = self.planned(trees[0], [transcript], length)
        return trees[0], reads, plans[0]

    def planned(
        self, tree: TokenTree, transcripts: Sequence[Transcript], length: int, *, levels: bool = True
    ) -> tuple[list[int], list[LevelPlan]]:
        """Plans the reading of the transcripts of one tree.

        Args:
            tree: The tree; transcripts and levels that it does not hold are inserted.
            transcripts: Transcripts open at the confidence's slot.
            length: How many of their first tokens lie before the tree.
            levels: False: only the answers are read.

        Returns:
            The nodes to read, and the plan of each transcript.
        """
        reads: dict[int, int] = {}  # node -> row
        plans = [
            self.plan_at(
                tree,
                tree.insert(transcript.ids[length:]),
                transcript,
                reads,
                spoken_positions(transcript, length),
                levels=levels,
            )
            for transcript in transcripts
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
        """The plan of a transcript whose last tokens are the nodes of a path; inserts its levels below the path.

        Args:
            tree: The tree.
            path: The nodes of the transcript's last tokens.
            transcript: A transcript open at the confidence's slot.
            reads: The nodes to read so far, each with its row; new ones are added.
            spoken: Positions in the transcript whose tokens' likelihood is read too.
            levels: False: only the answer is read.

        Returns:
            Where the levels and the answer stand among the rows of `reads`.
        """
        if self.steering and levels:
            self._steer(tree, path, transcript)
        edges: list[tuple[int, int, int]] = []  # row, token, level
        fillers: list[tuple[int, int, int]] = []  # row, token, place among the ends
        ends: list[int] = []
        level_ends: list[list[int]] = []

        def row(node: int) -> int:  # a node that is not read yet gets the next row
            return reads.setdefault(node, len(reads))

        # Below the last token of the transcript, "...Confidence:", with levels "1" and "10" (f a filler, | the end):
        #     path[-1] -- 1 -+- |        edges: (path[-1], 1), (path[-1], 1), (1, 0)
        #                    +- f -- |   ends: after 1, after 1 f, after 10, after 10 f
        #                    +- 0 -+- |
        #                          +- f -- |
        written = zip(self.levels_of(transcript), self.fillers_of(transcript), strict=True) if levels else ()
        for level, (suffix, may_follow) in enumerate(written):
            # where levels are read by one token, nothing comes after it: it need not be in the tree
            inserted = suffix[:-1] if self.levels == "token" else suffix
            nodes = (path[-1], *tree.insert(inserted, path[-1]))
            # each token of the level comes after the node before it; there may be one node more than tokens
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
        before_path = len(transcript.ids) - len(path)  # position i of the transcript is path[i - before_path]
        answer = [(row(path[i - 1 - before_path]), transcript.ids[i]) for i in spoken]
        return self._in_tensors(edges, fillers, ends, level_ends, answer)

    def latest_start(self, transcript: Transcript) -> int:
        """The last position of a transcript at which a tree may begin: its last token, or the first that is steered."""
        return transcript.positions("tail")[0] if self.steering else len(transcript.ids) - 1

    def _steer(self, tree: TokenTree, path: Sequence[int], transcript: Transcript) -> None:
        """Adds the reader's own vector to the tail of a path and to the levels below it, to each node once.

        Raises:
            ValueError: where a part of the tail lies before the tree, so that nothing could be added there.
        """
        before_path = len(transcript.ids) - len(path)
        if before_path > (start := self.latest_start(transcript)):
            raise ValueError(f"steering begins at token {start}, and the tree at {before_path}")
        assert self.steering is not None
        layer, vector = self.steering.layer, self.steering.vector
        nodes = {*path[start - before_path :]}
        nodes.update(*(tree.insert(below, path[-1]) for below in self.paths(transcript)))
        # transcripts with the same answer share nodes; what an instrument adds has another vector
        nodes -= {node for _, steered, added in tree.additions if added is vector for node in steered}
        if nodes:
            tree.additions.append((layer, tuple(sorted(nodes)), vector))

    def _in_tensors(
        self,
        edges: Sequence[tuple[int, int, int]],
        fillers: Sequence[tuple[int, int, int]],
        ends: Sequence[int],
        level_ends: Sequence[list[int]],
        answer: Sequence[tuple[int, int]],
    ) -> LevelPlan:
        """The plan with its numbers in tensors.

        Args:
            edges: Row, token and level of each token of each level.
            fillers: Row, token and place among the ends of each filler.
            ends: The rows after which a level's line may end.
            level_ends: For each level its places among the ends, as many as it has.
            answer: Row and token of each token of the answer.
        """
        most_ends = max(map(len, level_ends), default=0)
        padded = [ends_of_level + [-1] * (most_ends - len(ends_of_level)) for ends_of_level in level_ends]
        edge_rows, edge_tokens, edge_levels = self._columns(edges, 3)
        filler_rows, filler_tokens, filler_ends = self._columns(fillers, 3)
        answer_rows, answer_tokens = self._columns(answer, 2)
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
        """Tuples of `width` numbers as `width` tensors, [rows] each; empty ones where there are no tuples."""
        return torch.tensor(rows, dtype=torch.long, device=self.stops.device).reshape(-1, width).unbind(1)


def spoken_positions(transcript: Transcript, length: int) -> Sequence[int]:
    """The positions of the answer's tokens and of the end of its line, where the answer lies beyond `length`."""
    answer = transcript.positions("answer")
    return (*answer, answer[-1] + 1) if answer and answer[0] > length else ()


def parted(suffixes: Sequence[tuple[int, ...]], levels: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Each level's tokens up to the first one on which not all levels agree.

    Args:
        suffixes: The token ids of each level.
        levels: The levels' texts, for the message.

    Returns:
        The first tokens of each level, as many for all levels.

    Raises:
        UserError: where two levels still have the same tokens: "1%" and "10%", "very low" and "very high".
    """
    read_length = common_length(suffixes) + 1
    level_by_tokens: dict[tuple[int, ...], str] = {}
    for suffix, level in zip(suffixes, levels, strict=True):
        # a level that all others begin with has no token on which it parts: "1" of "1" and "10" in single digits
        if len(suffix) < read_length or suffix[:read_length] in level_by_tokens:
            clashing = level_by_tokens.get(suffix[:read_length]) or next(name for name in levels if name != level)
            raise UserError(f"--levels token: one token does not tell {clashing!r} from {level!r}; use --levels whole")
        level_by_tokens[suffix[:read_length]] = level
    return tuple(level_by_tokens)


def packed(
    transcripts: Sequence[Transcript], suffixes: Sequence[tuple[tuple[int, ...], ...]], length: int
) -> tuple[list[TokenTree], list[list[int]]]:
    """Packs transcripts into trees of about the same number of nodes.

    Neighbours in the order of their token ids share most tokens, so they are packed in that order.

    Args:
        transcripts: The transcripts.
        suffixes: For each transcript the paths of token ids that its tree holds below it.
        length: How many of the transcripts' first tokens lie before the trees.

    Returns:
        The trees, and for each tree the indices of its transcripts.
    """
    order = sorted(range(len(transcripts)), key=lambda i: transcripts[i].ids)
    trees, owners = _filled(order, transcripts, suffixes, length, ROW_TOKENS)
    if len(trees) > 1:
        # once more with an even size: the last tree of the first pass may be a small one
        even_size = math.ceil(sum(len(tree.tokens) for tree in trees) / len(trees))
        trees, owners = _filled(order, transcripts, suffixes, length, even_size)
    return trees, owners


def _filled(
    order: Sequence[int],
    transcripts: Sequence[Transcript],
    suffixes: Sequence[tuple[tuple[int, ...], ...]],
    length: int,
    size: int,
) -> tuple[list[TokenTree], list[list[int]]]:
    """Trees filled in the order given: a tree of `size` nodes or more takes no further transcript."""
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
