"""One prefix, many continuations: the engine behind every measure.

What prompts have in common is read once. The continuations are packed into trees of tokens, a tree to a row, in which
a common beginning stands once as well; a float mask lets each token see the prefix and its own ancestors only."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from interp.errors import UserError
from interp.models.head import NextToken, next_token
from interp.models.prompts import common_length

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
    knockouts: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    """Pairs of nodes (looking, looked at) between which attention is knocked out in every layer."""
    knockouts_in_layer: dict[int, list[tuple[tuple[int, ...], tuple[int, ...]]]] = field(default_factory=dict)
    """Further pairs, by the one layer in which they are knocked out."""
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def insert(self, tokens: Sequence[int], after: int = -1) -> tuple[int, ...]:
        """Nodes of a path of `tokens` below node `after`, new ones made where the path leaves the tree."""
        path = []
        for token in tokens:
            if (after, token) not in self._children:
                self._children[after, token] = self._added(token, after)
            after = self._children[after, token]
            path.append(after)
        return tuple(path)

    def branch(self, tokens: Sequence[int], after: int = -1) -> tuple[int, ...]:
        """Nodes of a path below node `after`, shared with no other: for other embeddings, or under a knockout."""
        path = []
        for token in tokens:
            after = self._added(token, after)
            path.append(after)
        return tuple(path)

    def _added(self, token: int, after: int) -> int:
        self.tokens.append(token)
        self.parents.append(after)
        self.depths.append(self.depths[after] + 1 if after >= 0 else 0)
        return len(self.tokens) - 1

    def sight(self, layer: int | None = None) -> np.ndarray:
        """Which node sees which: itself and its ancestors, less what is knocked out. Shape [nodes, nodes], bool.

        layer: what is knocked out in this one alone is left out as well."""
        seen = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        for looking, looked_at in self.knockouts + ([] if layer is None else self.knockouts_in_layer.get(layer, [])):
            seen[np.ix_(looking, looked_at)] = False
        return seen


Standing = tuple[TokenTree, np.ndarray]
"""A tree, and which columns of the cache it continues, [columns], bool."""


@dataclass(frozen=True)
class Forest:
    """What reading some trees left behind."""

    cache: DynamicCache
    """Keys and values of the shared prefix and of all nodes, a row for each row of trees."""
    columns: np.ndarray
    """The position of each column of the cache, [rows, columns]."""
    places: list[tuple[int, np.ndarray]]
    """For each tree its row, and the column of each of its nodes."""
    reads: list[NextToken]
    """For each tree what comes next after the nodes that are read."""


class SharedPrefix:
    """A model that has read the shared prefix of all prompts, ready to read any number of continuations."""

    def __init__(
        self, model: "PreTrainedModel | PeftModel", shared_prefix: Sequence[int], *, batch_tokens: int = 2048
    ) -> None:
        self.model = model
        self.batch_tokens = batch_tokens
        self.windows = attention_windows(model)
        self._keys_values: list[tuple[Tensor, Tensor]] = []
        self.shared_prefix: tuple[int, ...] = ()
        self._read(shared_prefix)

    def extended(self, ids: Sequence[int]) -> "SharedPrefix":
        """The same model having read `ids`, which begin with the shared prefix; only what is new is read."""
        if tuple(ids[: len(self.shared_prefix)]) != self.shared_prefix:
            raise ValueError("the longer shared prefix does not begin with the shorter one")
        longer = copy.copy(self)
        longer._read(ids)
        return longer

    def _read(self, ids: Sequence[int]) -> None:
        """Reads what `ids` have beyond the shared prefix; keys and values before are shared with all who read them."""
        if len(ids) > len(self.shared_prefix):
            tree = TokenTree()
            path = tree.insert(ids[len(self.shared_prefix) :])
            with torch.no_grad():
                forest = self._forward([len(self.shared_prefix)], [tree], [path[-1:]])
            self._keys_values = [(keys, values) for keys, values, _ in forest.cache]
        self.shared_prefix = tuple(ids)

    def shared_length(self, sequences: Sequence[Sequence[int]]) -> int:
        """How many tokens of the shared prefix all sequences begin with, leaving each at least one of its own."""
        shortest = min(map(len, sequences)) - 1
        return min(common_length([self.shared_prefix, *sequences]), shortest)

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
        self,
        lengths: int | Sequence[int],
        trees: Sequence[TokenTree],
        reads: Sequence[Sequence[int]],
        embeds: Callable[[int], Tensor] | None = None,
    ) -> Iterator[tuple[int, NextToken]]:
        """(index of the tree, what comes next after its nodes that are read), batch by batch.

        lengths: how much of the shared prefix the trees continue, each as much or one number for all. embeds: what to
        feed a tree instead of its tokens, [nodes, width]; it is asked when the tree's batch is read, so that no others
        are held. The cache of a batch is let go before the next one is read."""
        lengths = [lengths] * len(trees) if isinstance(lengths, int) else lengths
        for batch in self.batches([len(tree.tokens) for tree in trees]):
            fed = [embeds(i) for i in batch] if embeds else None
            below = [lengths[i] for i in batch]
            found = self._forward(below, [trees[i] for i in batch], [reads[i] for i in batch], fed).reads
            while found:
                yield batch[len(batch) - len(found)], found.pop(0)

    def path_logits(self, length: int, tree: TokenTree, reads: Sequence[int], embeds: Tensor) -> NextToken:
        """What comes next, [steps, reads], in one tree fed [steps, nodes, width], with gradient."""
        copies = len(embeds)
        found = self._forward([length] * copies, [tree] * copies, [reads] * copies, list(embeds)).reads
        return NextToken(found[0].head, torch.stack([one.hidden for one in found]))

    @torch.no_grad()
    def embedded(self, tokens: Sequence[int]) -> Tensor:
        """The input embeddings of tokens, [tokens, width], without gradient."""
        embedded: Tensor = self.model.get_input_embeddings()(torch.tensor(tokens, device=self.model.device))
        return embedded

    def fork(self, length: int, rows: int) -> DynamicCache:
        """A cache of the shared prefix's first `length` tokens for `rows` rows; views, copied only when they grow.

        Every layer keeps all tokens, sliding ones too: windows are in the masks."""
        if not length:
            return DynamicCache()
        return DynamicCache([tuple(x[:, :, :length].expand(rows, -1, -1, -1) for x in kv) for kv in self._keys_values])

    def _forward(
        self,
        lengths: Sequence[int],
        trees: Sequence[TokenTree],
        reads: Sequence[Sequence[int]],
        embeds: Sequence[Tensor] | None = None,
    ) -> "Forest":
        """Reads trees, each below the shared prefix's first so many tokens.

        Small trees stand side by side in a row, unseen by each other, so that the prefix is copied once a row and not
        once a tree."""
        rows = _rows([len(tree.tokens) for tree in trees])
        before = np.arange(max(lengths))
        columns = np.broadcast_to(before, (len(rows), len(before)))
        seen_before = [before < length for length in lengths]
        return self.read_on(self.fork(len(before), len(rows)), columns, rows, trees, reads, seen_before, embeds)

    def read_on(
        self,
        cache: DynamicCache,
        columns: np.ndarray,
        rows: Sequence[Sequence[int]],
        trees: Sequence[TokenTree],
        reads: Sequence[Sequence[int]],
        seen_before: Sequence[np.ndarray],
        embeds: Sequence[Tensor] | None = None,
    ) -> "Forest":
        """Reads trees below what a cache holds, which grows by them.

        columns: the position of each column of the cache, [rows, columns]. rows: the trees of each of its rows.
        seen_before: which columns each tree continues, [columns]; its nodes come at the positions after them. In a row
        the nodes to be read stand last: only their logits are made."""
        # A row of trees, padded on the left; capitals are nodes whose logits are read, so that they stand at the end:
        #
        #     cache columns (seen as `seen_before` says) | pad pad a1 a2 b1 A3 B2
        #
        orders = [_layout(row, trees, reads) for row in rows]  # per row: [nodes], place in the row -> node
        width, before = max(map(len, orders)), columns.shape[1]
        device = self.model.device
        positions = np.zeros((len(rows), width), dtype=np.int64)  # [rows, width]; of padding it does not matter
        ids = np.zeros((len(rows), width), dtype=np.int64)  # [rows, width]
        fed_rows: list[Tensor] = []
        places: dict[int, tuple[int, np.ndarray]] = {}
        for number, (row, order) in enumerate(zip(rows, orders, strict=True)):
            pad, sizes = width - len(order), [len(trees[i].tokens) for i in row]
            # a node stands as far behind what its tree continues as it is deep: siblings share a position
            depths = np.concatenate([seen_before[i].sum() + np.array(trees[i].depths, dtype=np.int64) for i in row])
            positions[number, pad:] = depths[order]
            ids[number, pad:] = np.concatenate([trees[i].tokens for i in row])[order]
            # argsort inverts the order: node -> place; the new columns come after those of the cache
            where = np.split(before + pad + np.argsort(order), np.cumsum(sizes)[:-1])
            places |= {i: (number, part) for i, part in zip(row, where, strict=True)}
            if embeds is not None:
                there = torch.cat([embeds[i] for i in row])[torch.from_numpy(order).to(device)]
                fed_rows.append(torch.cat([there[:1].expand(pad, -1), there]))
        columns = np.concatenate([columns, positions], axis=1)  # [rows, before + width]: positions of all keys
        fed = {"inputs_embeds": torch.stack(fed_rows)} if fed_rows else {"input_ids": torch.from_numpy(ids).to(device)}
        most = max(sum(len(reads[i]) for i in row) for row in rows)
        packed = [[(trees[i], seen_before[i]) for i in row] for row in rows]
        with self._masks_of_layers(packed, orders, positions, columns):
            after = next_token(
                self.model,
                **fed,
                attention_mask=self.masks(_sight_of(packed, orders), positions, columns),
                position_ids=torch.from_numpy(positions).to(device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=most,
            )
        found: dict[int, NextToken] = {}
        for number, row in enumerate(rows):
            counts = [len(reads[i]) for i in row]
            # after.hidden is [rows, most, hidden]: a row that reads fewer nodes has them at its end
            parts = after.hidden[number, most - sum(counts) :].split(counts)
            found |= {i: NextToken(after.head, part) for i, part in zip(row, parts, strict=True)}
        every = range(len(trees))
        return Forest(cache, columns, [places[i] for i in every], [found[i] for i in every])

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
        packed: Sequence[Sequence[Standing]],
        orders: Sequence[np.ndarray],
        positions: np.ndarray,
        columns: np.ndarray,
    ) -> Iterator[None]:
        """While open, the layers that have cuts of their own see no more than those allow; layers with the same cuts
        share a mask."""
        trees = [tree for row in packed for tree, _ in row]
        by_cuts: dict[object, list[int]] = {}
        for layer in sorted({layer for tree in trees for layer in tree.knockouts_in_layer}):
            own = tuple(tuple(tree.knockouts_in_layer.get(layer, ())) for tree in trees)
            by_cuts.setdefault(own, []).append(layer)
        masks: dict[int, Tensor] = {}
        for layers in by_cuts.values():
            made = self.masks(_sight_of(packed, orders, layers[0]), positions, columns)
            kinds = getattr(self.model.config.get_text_config(), "layer_types", None) or [""] * (layers[-1] + 1)
            masks |= {layer: made[kinds[layer]] if isinstance(made, dict) else made for layer in layers}
        with masked_layers(self.model, masks):
            yield

    def _additive(self, seen: np.ndarray) -> Tensor:
        dtype = self.model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype)
        return mask.masked_fill_(torch.from_numpy(~seen), torch.finfo(dtype).min)[:, None].to(self.model.device)


@dataclass(frozen=True, eq=False)
class PromptsRead:
    """Prompts as the model has read them, side by side in few rows, to be continued in one way or another."""

    prefix: SharedPrefix
    """What read them."""
    prompts: list[tuple[int, ...]]
    """Their token ids."""
    keys_values: list[tuple[Tensor, Tensor]]
    """Keys and values of each layer, [rows, heads, columns, width]."""
    columns: np.ndarray
    """The position of each of their columns, [rows, columns]."""
    rows: list[int]
    """The row of each prompt."""
    seen: np.ndarray
    """The columns of each prompt, [prompts, columns], bool."""

    @torch.no_grad()
    def logits(
        self,
        prompts: Sequence[int],
        lengths: Sequence[int],
        trees: Sequence[TokenTree],
        reads: Sequence[Sequence[int]],
    ) -> Iterator[tuple[int, NextToken]]:
        """As `SharedPrefix.logits`, each tree below the first `lengths` tokens of one of the prompts."""
        rows: list[list[int]] = []
        for row in dict.fromkeys(self.rows[prompt] for prompt in prompts):
            members = [i for i, prompt in enumerate(prompts) if self.rows[prompt] == row]
            rows += [[members[k] for k in part] for part in _rows([len(trees[i].tokens) for i in members])]
        for batch in self.prefix.batches([sum(len(trees[i].tokens) for i in row) for row in rows]):
            members = [i for b in batch for i in rows[b]]
            local = iter(range(len(members)))
            sources = [self.rows[prompts[rows[b][0]]] for b in batch]
            found = self.prefix.read_on(
                self._fork(sources),
                self.columns[sources],
                [[next(local) for _ in rows[b]] for b in batch],
                [trees[i] for i in members],
                [reads[i] for i in members],
                [self._first(prompts[i], lengths[i]) for i in members],
            ).reads
            while found:
                yield members[len(members) - len(found)], found.pop(0)

    def _fork(self, rows: Sequence[int]) -> DynamicCache:
        """A cache of these rows."""
        return DynamicCache([tuple(x[torch.tensor(rows, device=x.device)] for x in kv) for kv in self.keys_values])

    def _first(self, prompt: int, length: int) -> np.ndarray:
        """The columns of a prompt's first `length` tokens."""
        columns: np.ndarray = self.seen[prompt] & (self.columns[self.rows[prompt]] < length)
        return columns


class Branches:
    """Prompts that grow by a token at a time, in as many copies as wanted, side by side in few rows.

    A copy is not a row of the cache but a set of columns that it sees, so that neither shared prefix nor prompt is
    copied for it, and one that has ended costs nothing."""

    def __init__(
        self, prefix: SharedPrefix, length: int, prompts: Sequence[Sequence[int]], copies: Sequence[int]
    ) -> None:
        """prompts: distinct, continuing the shared prefix's first `length` tokens; copies: the prompt of each."""
        trees = [TokenTree() for _ in prompts]
        ends = [tree.insert(prompt[length:])[-1:] for tree, prompt in zip(trees, prompts, strict=True)]
        self._prefix = prefix
        forest = prefix._forward([length] * len(trees), trees, ends)
        self._cache, self._columns = forest.cache, forest.columns
        seen = np.zeros((len(prompts), forest.columns.shape[1]), dtype=bool)
        seen[:, :length] = True
        for number, (_, nodes) in enumerate(forest.places):
            seen[number, nodes] = True
        rows = [row for row, _ in forest.places]
        self._prompts = [tuple(prompt) for prompt in prompts], rows, seen
        self._row, self._seen = np.array(rows)[list(copies)], seen[list(copies)]
        self.logits = _logits(forest)[torch.tensor(list(copies))]
        """Logits [copies, vocabulary] after each copy's prompt."""

    def read(self) -> PromptsRead:
        """The prompts, before any copy has grown; views, which stay as they are when copies grow."""
        prompts, rows, seen = self._prompts
        keys_values = [(keys, values) for keys, values, _ in self._cache]
        return PromptsRead(self._prefix, prompts, keys_values, self._columns, rows, seen)

    def grown(self, alive: np.ndarray, tokens: Sequence[int]) -> Tensor:
        """Appends a token to each copy in `alive`, and gives the logits [alive, vocabulary] after it."""
        used, row = np.unique(self._row[alive], return_inverse=True)
        if len(used) < len(self._columns):
            self._cache.batch_select_indices(torch.from_numpy(used))  # layers may be on different devices
            self._columns = self._columns[used]
            self._row[alive] = row
        trees = [TokenTree([token], [-1], [0]) for token in tokens]  # a copy's next token is a tree of one node
        rows = [np.flatnonzero(row == number).tolist() for number in range(len(used))]
        ends = [[0]] * len(trees)
        forest = self._prefix.read_on(self._cache, self._columns, rows, trees, ends, list(self._seen[alive]))
        before, self._columns = self._columns.shape[1], forest.columns
        # [copies, columns]: nobody sees the new columns, but each copy that grew its own
        self._seen = np.pad(self._seen, ((0, 0), (0, self._columns.shape[1] - before)))
        self._seen[alive, [node for _, (node,) in forest.places]] = True
        return _logits(forest)


def _logits(forest: Forest) -> Tensor:
    """The logits [trees, vocabulary] after the one node that was read in each tree."""
    return forest.reads[0].head.all_of(torch.cat([after.hidden for after in forest.reads]))


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
    packed: Sequence[Sequence[Standing]], orders: Sequence[np.ndarray], layer: int | None = None
) -> np.ndarray:
    r"""Which node of each row sees what, [rows, width, before + width]: what it continues, itself, its ancestors.

    Rows are padded on the left with nodes that see themselves alone:

        before  pad  nodes
           0     \     0      pad
          1/0    0     \|     nodes"""
    width, before = max(map(len, orders)), len(packed[0][0][1])
    seen = np.zeros((len(packed), width, before + width), dtype=bool)
    for number, (row, order) in enumerate(zip(packed, orders, strict=True)):
        pad = width - len(order)
        seen[number, range(pad), range(before, before + pad)] = True
        continued = np.concatenate([np.tile(columns, (len(tree.tokens), 1)) for tree, columns in row])
        seen[number, pad:, :before] = continued[order]
        seen[number, pad:, before + pad :] = _sight_side_by_side([tree for tree, _ in row], layer)[np.ix_(order, order)]
    return seen


def _sight_side_by_side(trees: Sequence[TokenTree], layer: int | None = None) -> np.ndarray:
    sizes = [len(tree.tokens) for tree in trees]
    seen = np.zeros((sum(sizes), sum(sizes)), dtype=bool)
    before = 0
    for tree, size in zip(trees, sizes, strict=True):
        seen[before : before + size, before : before + size] = tree.sight(layer)
        before += size
    return seen
