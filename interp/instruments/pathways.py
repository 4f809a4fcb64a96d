"""Two prompts of one question under attention knockouts and swaps, and the confidences after them.

The prompts differ in their answer. What stands before it is read once; each condition is a copy of the tokens that it
can change, and copies stand side by side in trees:

                        ┌ tail ── levels      as it is: the states that swaps take
    ... ── right answer ┤
                        └ tail ── levels      a copy under one condition
    ... ── wrong answer ── tail ── levels

The module knows groups of tokens, trees and distributions. It must not know questions, runs or statistics."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from interp.models.tree import ROW_TOKENS, TokenTree, common_length
from interp.records import ConfidenceDistribution, Transcript

if TYPE_CHECKING:
    from interp.models.head import NextToken
    from interp.models.prefix import SharedPrefix
    from interp.models.readout import ConfidenceReader, LevelPlan
    from interp.models.setting import Setting

Group = Literal["answer", "first", "rest", "read"]
"""answer: the answer's tokens. first: the first token after it. rest: the tokens of "Confidence:". read: all tokens
whose logits are read, the levels' own among them; the colon too where the levels part directly after it."""
GROUPS: tuple[Group, ...] = ("answer", "first", "rest", "read")
Side = Literal["right", "wrong"]
SIDES: tuple[Side, Side] = ("right", "wrong")
RARE = 1e-3
"""A token between a level and the end of its line is left out where it makes less than this share of every level."""


@dataclass(frozen=True)
class Knockout:
    """Attention that is cut: no token of the later groups sees a token of the earlier one."""

    side: Side
    """The prompt in which it is cut."""
    looked_at: Group | None = None
    """The earlier group; None: the tokens before the answer in `before`."""
    looking: tuple[Group, ...] = ("first", "rest", "read")
    """The later groups."""
    layers: tuple[int, ...] | None = None
    """The layers in which it is cut; None: all."""
    before: tuple[int, ...] = ()
    """Positions before the answer."""


@dataclass(frozen=True)
class Swap:
    """The residual stream of one token, or of all that are read, that is replaced by that of another prompt."""

    side: Side
    """The prompt in which it is replaced."""
    group: Group
    """Its last token; of "read" all tokens."""
    layer: int
    """How many layers the stream has passed."""
    source: str
    """The name of the prompt that it is taken from."""


Condition = Knockout | Swap


@dataclass(eq=False)
class _Copy:
    """One prompt, or a copy of its end, in a tree."""

    path: tuple[int, ...]
    """The node of each token from the end of the shared beginning on."""
    levels: tuple[int, ...]
    """The nodes of the levels and of what all levels begin with."""
    plan: "LevelPlan"
    """Where its levels stand."""


@dataclass(eq=False)
class _Grown:
    """A tree with the conditions that it holds."""

    tree: TokenTree = field(default_factory=TokenTree)
    reads: dict[int, int] = field(default_factory=dict)
    """The nodes to read, each with its row."""
    prompts: dict[str, _Copy] = field(default_factory=dict)
    """The prompts as they are, by their names."""
    plans: dict[Condition | str, "LevelPlan"] = field(default_factory=dict)
    """What is read of it: prompts as they are by their names, and conditions."""


class Pathways:
    """The prompts of one question, ready to be read under any condition."""

    def __init__(self, setting: "Setting", prompts: Mapping[str, Transcript]) -> None:
        """Reads what the prompts begin with.

        Args:
            setting: the model in its format.
            prompts: open at the confidence's slot, by their names, "right" and "wrong" among them. They differ in their
                answers.
        """
        self.prompts = dict(prompts)
        every = list(prompts.values())
        starts = [transcript.positions("answer")[0] for transcript in every]
        self.length = min(common_length([transcript.ids for transcript in every]), *starts)
        """How many tokens all prompts begin with."""
        begun = every[0].ids[: self.length]
        self.prefix: SharedPrefix = setting.prefix
        self.fed = 0
        """How many tokens the model has been fed; what all prompts of the setting begin with was read before."""
        if begun[: len(setting.prefix.shared_prefix)] == setting.prefix.shared_prefix:
            self.prefix = setting.prefix.extended(begun)
            self.fed = self.length - len(setting.prefix.shared_prefix)
        else:
            self.length = self.prefix.shared_length([transcript.ids for transcript in every])
        self.reader: ConfidenceReader = copy.copy(setting.reader)

    def as_they_are(self) -> dict[str, ConfidenceDistribution]:
        """The confidence after each prompt, by its name.

        Tokens between a level and its end that add next to nothing after either answer are left out, here and from then
        on, so that no difference between a condition and this comes from what is left out."""
        grown = _Grown()
        for name in self.prompts:
            grown.plans[name] = self._stands(grown, name).plan
        ((_, after),) = self._read([grown])
        used: set[int] = set()
        for side in SIDES:
            used |= set(grown.plans[side].fillers_used(after, self.reader.stops, RARE))
        self.reader.only_fillers = frozenset(used)
        for name, standing in grown.prompts.items():  # their nodes stand in the tree, so that none is added
            grown.plans[name] = self.reader.plan_at(grown.tree, standing.path, self.prompts[name], grown.reads)
        return {str(name): distribution for name, distribution in self._distributions(grown, after).items()}

    def under(self, conditions: Sequence[Condition]) -> dict[Condition | str, ConfidenceDistribution]:
        """The confidence under each condition, and after the prompts as they are by their names."""
        trees = [_Grown()]
        for condition in conditions:
            if len(trees[-1].tree.tokens) >= ROW_TOKENS:
                trees.append(_Grown())
            self._add(trees[-1], condition)
        for side in SIDES:
            trees[0].plans[side] = self._stands(trees[0], side).plan
        results: dict[Condition | str, ConfidenceDistribution] = {}
        for index, after in self._read(trees):
            results |= self._distributions(trees[index], after)
        return results

    def _read(self, trees: Sequence[_Grown]) -> Iterator[tuple[int, "NextToken"]]:
        self.fed += sum(len(grown.tree.tokens) for grown in trees)
        return self.prefix.logits(self.length, [grown.tree for grown in trees], [list(grown.reads) for grown in trees])

    def _distributions(self, grown: _Grown, after: "NextToken") -> dict[Condition | str, ConfidenceDistribution]:
        return {
            key: self.reader.distribution(plan.level_logprobs(after, self.reader.stops))
            for key, plan in grown.plans.items()
        }

    def _stands(self, grown: _Grown, name: str) -> _Copy:
        """A prompt as it is, in this tree."""
        if name not in grown.prompts:
            transcript = self.prompts[name]
            path = grown.tree.insert(transcript.ids[self.length :])
            grown.prompts[name] = self._with_levels(grown, path, transcript)
        return grown.prompts[name]

    def _with_levels(self, grown: _Grown, path: tuple[int, ...], transcript: Transcript) -> _Copy:
        before = len(grown.tree.tokens)
        plan = self.reader.plan_at(grown.tree, path, transcript, grown.reads)
        return _Copy(path, tuple(range(before, len(grown.tree.tokens))), plan)

    def _add(self, grown: _Grown, condition: Condition) -> None:
        """Puts a condition into a tree: a copy of all tokens that it can change, with what is cut or replaced."""
        transcript, whole = self.prompts[condition.side], self._stands(grown, condition.side)
        places = self.places(condition.side)
        # levels hang below the transcript's last token, so that at least this one is copied
        last = len(transcript.ids) - 1
        cut = isinstance(condition, Knockout)
        changed = condition.looking if isinstance(condition, Knockout) else (condition.group,)
        # all tokens of the groups that look, but of a swap only its group's last token
        start = min([last, *(places[group][0 if cut else -1] for group in changed if places[group])])
        kept = whole.path[: start - self.length]
        above = kept[-1] if kept else -1
        copied = self._with_levels(grown, (*kept, *grown.tree.branch(transcript.ids[start:], above)), transcript)
        grown.plans[condition] = copied.plan
        if isinstance(condition, Swap):
            self._swap(grown, condition, copied)
        else:
            self._cut(grown.tree, condition, copied)

    def places(self, name: str) -> dict[Group, tuple[int, ...]]:
        """The positions of each group in a prompt; of "read" those within the prompt: the colon, or none."""
        transcript = self.prompts[name]
        tail = transcript.positions("tail")
        at_colon = common_length(self.reader.levels_of(transcript)) == 0
        return {
            "answer": tuple(transcript.positions("answer")),
            "first": tuple(tail[:1]) if len(tail) > 1 or not at_colon else (),
            "rest": tuple(tail[1:-1] if at_colon else tail[1:]),
            "read": tuple(tail[-1:]) if at_colon else (),
        }

    def _nodes(self, name: str, standing: _Copy, group: Group) -> tuple[int, ...]:
        """The nodes of a group in a prompt or a copy of it."""
        nodes = tuple(standing.path[position - self.length] for position in self.places(name)[group])
        return (*nodes, *standing.levels) if group == "read" else nodes

    def _cut(self, tree: TokenTree, condition: Knockout, copied: _Copy) -> None:
        looking = tuple(node for group in condition.looking for node in self._nodes(condition.side, copied, group))
        if condition.looked_at is None:
            tree.prefix_knockouts.append((looking, condition.before))
            return
        pair = looking, self._nodes(condition.side, copied, condition.looked_at)
        if condition.layers is None:
            tree.knockouts.append(pair)
        for layer in condition.layers or ():
            tree.knockouts_in_layer.setdefault(layer, []).append(pair)

    def _swap(self, grown: _Grown, condition: Swap, copied: _Copy) -> None:
        source = self._stands(grown, condition.source)
        replaced = self._nodes(condition.side, copied, condition.group)
        taken = self._nodes(condition.source, source, condition.group)
        if condition.group != "read":
            replaced, taken = replaced[-1:], taken[-1:]
        # nodes of the levels come in the same order in both, since the same tokens follow both prompts
        grown.tree.swaps += [(condition.layer, node, other) for node, other in zip(replaced, taken, strict=True)]


def padded(shorter: Transcript, count: int) -> Transcript:
    """The transcript with its answer's last token repeated until the answer has `count` tokens.

    It serves a law alone, and is no text that a tokenizer would give."""
    last = shorter.positions("answer")[-1]
    more = count - len(shorter.positions("answer"))
    ids, spans, pieces = (
        (*sequence[: last + 1], *(sequence[last],) * more, *sequence[last + 1 :])
        for sequence in (shorter.ids, shorter.spans, shorter.pieces)
    )
    return Transcript(shorter.text, ids, spans, pieces)


def windows(depth: int, width: int) -> list[tuple[int, ...]]:
    """The layers in windows of this width, the last of which may be narrower."""
    return [tuple(range(first, min(first + width, depth))) for first in range(0, depth, width)]


def swap_layers(depth: int, step: int) -> list[int]:
    """After how many layers streams are swapped: every `step`-th number, and the depth."""
    return sorted({*range(0, depth, step), depth})
