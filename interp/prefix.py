"""One prefix, many continuations: the engine behind every measure.

What prompts have in common is read once. The continuations are packed into trees of tokens, a tree to a row, in which
a common beginning stands once as well; a float mask lets each token see the prefix and its own ancestors only."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from interp.errors import UserError
from interp.head import NextToken, next_token
from interp.prompts import common_length

if TYPE_CHECKING:
    from peft import PeftModel

ROW_TOKENS = 384
"""About how many tokens of packed continuations a row holds: attention within a row costs their square."""


@dataclass
class TokenTree:
    """Continuations of one prefix that share their beginnings."""

    tokens: list[int] = field(default_factory=list)
    """The token of each node, parents before children."""
    parents: list[int] = field(default_factory=list)
    """Index of each node's parent, -1 for a node that follows the prefix itself."""
    depths: list[int] = field(default_factory=list)
    """How many nodes stand between each node and the prefix: its position less the prefix's length."""
    cuts: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    """Pairs of nodes (looking, looked at) between which attention is cut in every layer."""
    cuts_in_layer: dict[int, list[tuple[tuple[int, ...], tuple[int, ...]]]] = field(default_factory=dict)
    """Further pairs, by the one layer in which they are cut."""
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def insert(self, tokens: Sequence[int], after: int = -1) -> tuple[int, ...]:
        """Nodes of a path of `tokens` below node `after`, new ones made where the path leaves the tree."""
        path = []
        for token in tokens:
            if (after, token) not in self._children:
                self._children[after, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(after)
                self.depths.append(self.depths[after] + 1 if after >= 0 else 0)
            after = self._children[after, token]
            path.append(after)
        return tuple(path)

    def sight(self, layer: int | None = None) -> np.ndarray:
        """Which node sees which: itself and its ancestors, less what is cut. Shape [nodes, nodes], bool.

        layer: what is cut in this one alone is cut as well."""
        seen = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        for looking, looked_at in self.cuts + ([] if layer is None else self.cuts_in_layer.get(layer, [])):
            seen[np.ix_(looking, looked_at)] = False
        return seen


@dataclass(frozen=True)
class Forest:
    """What reading some trees left behind."""

    cache: DynamicCache
    """Keys and values of the opening and of all nodes, a row for each row of trees."""
    columns: np.ndarray
    """The position of each column of the cache, [rows, columns]."""
    places: list[tuple[int, np.ndarray]]
    """For each tree its row, and the column of each of its nodes."""
    reads: list[NextToken]
    """For each tree what comes next after the nodes that are read."""


class SharedPrefix:
    """A model that has read the opening of all prompts, ready to read any number of continuations."""

    def __init__(
        self, model: "PreTrainedModel | PeftModel", opening: Sequence[int], *, batch_tokens: int = 2048
    ) -> None:
        self.model = model
        self.batch_tokens = batch_tokens
        self.windows = attention_windows(model)
        self._keys_values: list[tuple[Tensor, Tensor]] = []
        self.opening: tuple[int, ...] = ()
        vars(self).update(vars(self.extended(opening)))

    def extended(self, ids: Sequence[int]) -> "SharedPrefix":
        """The same model having read `ids`, which begin with the opening; only what is new is read."""
        if tuple(ids[: len(self.opening)]) != self.opening:
            raise ValueError("the longer opening does not begin with the shorter one")
        longer = copy.copy(self)
        longer.opening = tuple(ids)
        if len(ids) > len(self.opening):
            tree = TokenTree()
            path = tree.insert(ids[len(self.opening) :])
            with torch.no_grad():
                forest = self._forward(len(self.opening), [tree], [path[-1:]])
            longer._keys_values = [(keys, values) for keys, values, _ in forest.cache]
        return longer

    def shared_length(self, sequences: Sequence[Sequence[int]]) -> int:
        """How many tokens of the opening all sequences begin with, leaving each at least one of its own."""
        shortest = min(map(len, sequences)) - 1
        return min(common_length([self.opening, *sequences]), shortest)

    def batches(self, sizes: Sequence[int]) -> Iterator[list[int]]:
        """Indices of items of like size, each batch at most `batch_tokens` after padding, longest first."""
        batch: list[int] = []
        for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
            if batch and sizes[batch[0]] * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    @torch.no_grad()
    def logits(
        self, length: int, trees: Sequence[TokenTree], reads: Sequence[Sequence[int]], embeds: Sequence[Tensor] = ()
    ) -> Iterator[tuple[int, NextToken]]:
        """(index of the tree, what comes next after its nodes that are read), batch by batch.

        length: how much of the opening the trees continue. embeds: what to feed each tree instead of its tokens; an
        item is asked for when its batch is read. The cache of a batch is let go before the next one is read."""
        for batch in self.batches([len(tree.tokens) for tree in trees]):
            fed = [embeds[i] for i in batch] if embeds else None
            found = self._forward(length, [trees[i] for i in batch], [reads[i] for i in batch], fed).reads
            while found:
                yield batch[len(batch) - len(found)], found.pop(0)

    def path_logits(self, length: int, tree: TokenTree, reads: Sequence[int], embeds: Tensor) -> NextToken:
        """What comes next, [steps, reads], in one tree fed [steps, nodes, width], with gradient."""
        copies = len(embeds)
        found = self._forward(length, [tree] * copies, [reads] * copies, list(embeds)).reads
        return NextToken(found[0].head, torch.stack([one.hidden for one in found]))

    def embedded(self, tokens: Sequence[int]) -> Tensor:
        """The input embeddings of tokens, [tokens, width]."""
        embedded: Tensor = self.model.get_input_embeddings()(torch.tensor(tokens, device=self.model.device))
        return embedded

    def fork(self, length: int, rows: int) -> DynamicCache:
        """A cache of the opening's first `length` tokens for `rows` rows; views, copied only when they grow.

        Every layer keeps all tokens, sliding ones too: windows are in the masks."""
        if not length:
            return DynamicCache()
        return DynamicCache([tuple(x[:, :, :length].expand(rows, -1, -1, -1) for x in kv) for kv in self._keys_values])

    def _forward(
        self,
        length: int,
        trees: Sequence[TokenTree],
        reads: Sequence[Sequence[int]],
        embeds: Sequence[Tensor] | None = None,
    ) -> "Forest":
        """Reads trees below the opening's first `length` tokens.

        Small trees stand side by side in a row, unseen by each other, so that the prefix is copied once a row and not
        once a tree. In a row the nodes to be read stand last: only their logits are made."""
        rows = _rows([len(tree.tokens) for tree in trees])
        orders = [_layout(row, trees, reads) for row in rows]
        width = max(map(len, orders))
        device = self.model.device
        positions = np.zeros((len(rows), width), dtype=np.int64)
        ids = np.zeros((len(rows), width), dtype=np.int64)
        fed_rows, places = [], []
        for number, (row, order) in enumerate(zip(rows, orders, strict=True)):
            pad = width - len(order)
            positions[number, pad:] = length + np.concatenate([trees[i].depths for i in row])[order]
            ids[number, pad:] = np.concatenate([trees[i].tokens for i in row])[order]
            where = length + pad + np.argsort(order)
            places += [(number, part) for part in np.split(where, np.cumsum([len(trees[i].tokens) for i in row])[:-1])]
            if embeds is not None:
                there = torch.cat([embeds[i] for i in row])[torch.from_numpy(order).to(device)]
                fed_rows.append(torch.cat([there[:1].expand(pad, -1), there]))
        columns = np.concatenate([np.broadcast_to(np.arange(length), (len(rows), length)), positions], axis=1)
        fed = {"inputs_embeds": torch.stack(fed_rows)} if fed_rows else {"input_ids": torch.from_numpy(ids).to(device)}
        cache = self.fork(length, len(rows))
        most = max(sum(len(reads[i]) for i in row) for row in rows)
        packed = [[trees[i] for i in row] for row in rows]
        with self._masks_of_layers(packed, orders, length, positions, columns):
            after = next_token(
                self.model,
                **fed,
                attention_mask=self.masks(_sight_of(packed, orders, length), positions, columns),
                position_ids=torch.from_numpy(positions).to(device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=most,
            )
        found: list[NextToken] = []
        for number, row in enumerate(rows):
            sizes = [len(reads[i]) for i in row]
            found += [NextToken(after.head, part) for part in after.hidden[number, most - sum(sizes) :].split(sizes)]
        return Forest(cache, columns, places, found)

    def masks(self, seen: np.ndarray, positions: np.ndarray, columns: np.ndarray) -> Tensor | dict[str, Tensor]:
        """The float masks that the model takes: 0 where a token is seen, the lowest number where it is not.

        seen: [rows, queries, keys]; positions: [rows, queries]; columns: positions of the keys, [rows, keys].
        A window of w lets a token see itself and the w - 1 before it."""
        made = {
            kind: self._additive(
                seen if window is None else seen & (positions[:, :, None] - columns[:, None, :] < window)
            )
            for kind, window in self.windows.items()
        }
        return made.get("", made)

    @contextmanager
    def _masks_of_layers(
        self,
        packed: Sequence[Sequence[TokenTree]],
        orders: Sequence[np.ndarray],
        length: int,
        positions: np.ndarray,
        columns: np.ndarray,
    ) -> Iterator[None]:
        """While open, the layers that have cuts of their own see no more than those allow; layers with the same cuts
        share a mask."""
        trees = [tree for row in packed for tree in row]
        by_cuts: dict[object, list[int]] = {}
        for layer in sorted({layer for tree in trees for layer in tree.cuts_in_layer}):
            own = tuple(tuple(tree.cuts_in_layer.get(layer, ())) for tree in trees)
            by_cuts.setdefault(own, []).append(layer)
        masks: dict[int, Tensor] = {}
        for layers in by_cuts.values():
            made = self.masks(_sight_of(packed, orders, length, layers[0]), positions, columns)
            kinds = getattr(self.model.config.get_text_config(), "layer_types", None) or [""] * (layers[-1] + 1)
            masks |= {layer: made[kinds[layer]] if isinstance(made, dict) else made for layer in layers}
        with masked_layers(self.model, masks):
            yield

    def _additive(self, seen: np.ndarray) -> Tensor:
        dtype = self.model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype)
        return mask.masked_fill_(torch.from_numpy(~seen), torch.finfo(dtype).min)[:, None].to(self.model.device)


class Branches:
    """Prompts that grow by a token at a time, in as many copies as wanted, side by side in few rows.

    A copy is not a row of the cache but a set of columns that it sees, so that neither the opening nor a prompt is
    copied for it, and one that has ended costs nothing."""

    def __init__(
        self, prefix: SharedPrefix, length: int, prompts: Sequence[Sequence[int]], copies: Sequence[int]
    ) -> None:
        """prompts: distinct ones that continue the opening's first `length` tokens; copies: the prompt of each copy."""
        trees = [TokenTree() for _ in prompts]
        ends = [tree.insert(prompt[length:])[-1:] for tree, prompt in zip(trees, prompts, strict=True)]
        self._prefix = prefix
        forest = prefix._forward(length, trees, ends)
        self._cache, self._columns = forest.cache, forest.columns
        self._row = np.array([forest.places[prompt][0] for prompt in copies])
        self._position = np.array([len(prompts[prompt]) for prompt in copies])
        self._seen = np.zeros((len(copies), forest.columns.shape[1]), dtype=bool)
        self._seen[:, :length] = True
        for number, prompt in enumerate(copies):
            self._seen[number, forest.places[prompt][1]] = True
        first = torch.cat([after.hidden for after in forest.reads])  # [prompts, width]
        self.logits = forest.reads[0].head.all_of(first)[torch.tensor(list(copies))]
        """Logits [copies, vocabulary] after each copy's prompt."""

    def grown(self, alive: np.ndarray, tokens: Sequence[int]) -> Tensor:
        """Appends a token to each copy in `alive`, and gives the logits [alive, vocabulary] after it."""
        device = self._prefix.model.device
        used, row = np.unique(self._row[alive], return_inverse=True)
        if len(used) < len(self._columns):
            self._cache.batch_select_indices(torch.from_numpy(used))  # layers may be on different devices
            self._columns = self._columns[used]
            self._row[alive] = row
        slot = np.array([(row[:i] == r).sum() for i, r in enumerate(row)])
        width, before = slot.max() + 1, self._columns.shape[1]
        ids = np.zeros((len(used), width), dtype=np.int64)
        positions = np.zeros_like(ids)
        seen = np.zeros((len(used), width, before + width), dtype=bool)
        seen[:, range(width), range(before, before + width)] = True
        ids[row, slot] = tokens
        positions[row, slot] = self._position[alive]
        seen[row, slot, :before] = self._seen[alive]
        self._columns = np.concatenate([self._columns, positions], axis=1)
        after = next_token(
            self._prefix.model,
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=self._prefix.masks(seen, positions, self._columns),
            position_ids=torch.from_numpy(positions).to(device),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._seen = np.pad(self._seen, ((0, 0), (0, width)))
        self._seen[alive, before + slot] = True
        self._position[alive] += 1
        return after.head.all_of(after.hidden[torch.from_numpy(row), torch.from_numpy(slot)])


@contextmanager
def masked_layers(model: "PreTrainedModel | PeftModel", masks: Mapping[int, Tensor]) -> Iterator[None]:
    """While open, the attention of each layer in `masks` takes that mask in place of the one that all are given.

    masks: by the layer's index, [rows, 1, queries, keys], 0 where a token is seen. Errors: UserError where the model
    has no such layer. The hooks are gone afterwards, also after an exception."""
    hooks = []
    try:
        for layer, mask in masks.items():
            modules = [module for module in model.modules() if getattr(module, "layer_idx", None) == layer]
            if not modules:
                raise UserError(f"{type(model).__name__}: its layers have no numbers, or there is no layer {layer}")
            take = partial(_with_mask, mask)
            hooks += [module.register_forward_pre_hook(take, with_kwargs=True) for module in modules]
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _with_mask(mask: Tensor, module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    return (args, kwargs | {"attention_mask": mask}) if "attention_mask" in kwargs else None


def attention_windows(model: "PreTrainedModel | PeftModel") -> dict[str, int | None]:
    """The sliding window of each kind of layer, None for full attention; the one kind "" where layers do not differ.

    Errors: UserError for layers that are neither (linear, chunked, state space)."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return {"": window}
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise UserError(f"{type(model).__name__} has layers of the kind {sorted(unknown)[0]}, which is not supported")
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(set(kinds))}


def _rows(sizes: Sequence[int]) -> list[list[int]]:
    """Neighbouring trees side by side, in rows of about the same length: `ROW_TOKENS` or somewhat less."""
    target = sum(sizes) / math.ceil(sum(sizes) / ROW_TOKENS)
    rows: list[list[int]] = [[]]
    filled = 0
    for index, size in enumerate(sizes):
        if rows[-1] and filled + size / 2 > target:
            rows.append([])
            filled = 0
        rows[-1].append(index)
        filled += size
    return rows


def _layout(row: Sequence[int], trees: Sequence[TokenTree], reads: Sequence[Sequence[int]]) -> np.ndarray:
    """The order of a row's nodes, numbered through its trees: those to be read last, tree by tree."""
    others, last, before = [], [], 0
    for i in row:
        read = set(reads[i])
        others += [before + node for node in range(len(trees[i].tokens)) if node not in read]
        last += [before + node for node in reads[i]]
        before += len(trees[i].tokens)
    return np.array(others + last)


def _sight_of(
    packed: Sequence[Sequence[TokenTree]], orders: Sequence[np.ndarray], length: int, layer: int | None = None
) -> np.ndarray:
    r"""Which node of each row sees what, [rows, width, length + width]: the opening, itself, its ancestors.

    Rows are padded on the left with nodes that see themselves alone:

        opening  pad  nodes
           0      \     0      pad
           1      0     \|     nodes"""
    width = max(map(len, orders))
    seen = np.zeros((len(packed), width, length + width), dtype=bool)
    for number, (trees, order) in enumerate(zip(packed, orders, strict=True)):
        pad = width - len(order)
        seen[number, range(pad), range(length, length + pad)] = True
        seen[number, pad:, :length] = True
        seen[number, pad:, length + pad :] = _sight_side_by_side(trees, layer)[np.ix_(order, order)]
    return seen


def _sight_side_by_side(trees: Sequence[TokenTree], layer: int | None = None) -> np.ndarray:
    sizes = [len(tree.tokens) for tree in trees]
    seen = np.zeros((sum(sizes), sum(sizes)), dtype=bool)
    before = 0
    for tree, size in zip(trees, sizes, strict=True):
        seen[before : before + size, before : before + size] = tree.sight(layer)
        before += size
    return seen
