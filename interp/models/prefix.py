"""The shared-prefix engine: the tokens that all prompts begin with are read once, their continuations below them.

Continuations are packed into trees of tokens, in which a common beginning stands once, and trees stand side by side in
the rows of a batch; a float mask lets each token see the prefix and its own ancestors only. The module knows token ids,
nodes and masks. It must not know about questions, answers, confidence levels or instruments."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from interp.errors import UserError
from interp.models.head import NextToken, next_token
from interp.models.residual import residual_changed, residual_kept
from interp.models.tree import Standing, TokenTree, batch_sight, common_length, row_layout, rows_of_trees

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Forest:
    """The result of reading some trees."""

    cache: DynamicCache
    """Keys and values of the shared prefix and of all nodes, a row for each row of trees."""
    columns: np.ndarray
    """The position of each column of the cache, [rows, columns]."""
    places: list[tuple[int, np.ndarray]]
    """For each tree its row, and the column of each of its nodes, [nodes]."""
    reads: list[NextToken]
    """For each tree what comes next after the nodes that are read, [reads]."""


class SharedPrefix:
    """A model that has read the shared prefix of all prompts, ready to read any number of continuations."""

    def __init__(
        self, model: "PreTrainedModel | PeftModel", shared_prefix: Sequence[int], *, batch_tokens: int = 2048
    ) -> None:
        """Reads the shared prefix.

        Args:
            model: The model, with its adapter in place.
            shared_prefix: Token ids that prompts begin with; may be empty.
            batch_tokens: How many tokens a batch holds at most, padding included; one long item may exceed it.

        Raises:
            UserError: where a layer's attention is neither full nor over a sliding window.
        """
        self.model = model
        self.batch_tokens = batch_tokens
        self.windows = attention_windows(model)
        self._keys_values: list[tuple[Tensor, Tensor]] = []
        self.shared_prefix: tuple[int, ...] = ()
        self._read(shared_prefix)

    def extended(self, ids: Sequence[int]) -> "SharedPrefix":
        """The same model with a longer shared prefix; only the new tokens are read.

        Args:
            ids: Token ids that begin with the present shared prefix.

        Returns:
            A new object; this one stays as it is.

        Raises:
            ValueError: where `ids` do not begin with the shared prefix.
        """
        if tuple(ids[: len(self.shared_prefix)]) != self.shared_prefix:
            raise ValueError("the longer shared prefix does not begin with the shorter one")
        longer = copy.copy(self)
        longer._read(ids)
        return longer

    def _read(self, ids: Sequence[int]) -> None:
        """Reads the tokens of `ids` beyond the shared prefix.

        Keys and values that were read before are never changed, so that several objects may share them."""
        if len(ids) > len(self.shared_prefix):
            tree = TokenTree()
            path = tree.insert(ids[len(self.shared_prefix) :])
            with torch.no_grad():
                forest = self._forward([len(self.shared_prefix)], [tree], [path[-1:]])
            # one row: keys and values of each layer are [1, heads, tokens, width]
            self._keys_values = [(keys, values) for keys, values, _ in forest.cache]
        self.shared_prefix = tuple(ids)

    def shared_length(self, sequences: Sequence[Sequence[int]]) -> int:
        """How many tokens of the shared prefix all sequences begin with.

        The last token of the shortest sequence is never counted: each sequence has at least one token to feed."""
        shortest = min(map(len, sequences)) - 1
        return min(common_length([self.shared_prefix, *sequences]), shortest)

    def batches(self, sizes: Sequence[int]) -> Iterator[list[int]]:
        """Groups items of similar size into batches, the longest items first.

        Args:
            sizes: How many tokens each item has.

        Yields:
            Indices of the items of one batch, which has at most `batch_tokens` tokens after padding, or one item.
        """
        batch: list[int] = []
        for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
            # batch[0] is the longest item of the batch: all others are padded to its size
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
        """Reads trees batch by batch; the cache of a batch is freed before the next one is read.

        Args:
            lengths: How many tokens of the shared prefix each tree continues, or one number for all trees.
            trees: The trees to read.
            reads: For each tree the nodes after which the next token is wanted.
            embeds: Gives, for the index of a tree, the embeddings to feed in place of its tokens, [nodes, width]. It is
                called when the tree's batch is read, so that only one batch of embeddings is held.

        Yields:
            The index of a tree, and what comes next after its nodes in `reads`, [reads]. Trees come in the order of
            the batches, not in the order given.
        """
        lengths = [lengths] * len(trees) if isinstance(lengths, int) else lengths
        for batch in self.batches([len(tree.tokens) for tree in trees]):
            batch_embeds = [embeds(i) for i in batch] if embeds else None
            batch_lengths = [lengths[i] for i in batch]
            predictions = self._forward(
                batch_lengths, [trees[i] for i in batch], [reads[i] for i in batch], batch_embeds
            ).reads
            while predictions:  # popped, so that nothing here keeps a prediction that the caller has dropped
                yield batch[len(batch) - len(predictions)], predictions.pop(0)

    def path_logits(self, length: int, tree: TokenTree, reads: Sequence[int], embeds: Tensor) -> NextToken:
        """Reads one tree several times, each time with other embeddings, with gradient.

        Args:
            length: How many tokens of the shared prefix the tree continues.
            tree: The tree.
            reads: Its nodes after which the next token is wanted.
            embeds: The embeddings of each step, [steps, nodes, width].

        Returns:
            What comes next, [steps, reads].
        """
        steps = len(embeds)
        predictions = self._forward([length] * steps, [tree] * steps, [reads] * steps, list(embeds)).reads
        return NextToken(predictions[0].head, torch.stack([prediction.hidden for prediction in predictions]))

    @torch.no_grad()
    def residuals(
        self, lengths: int | Sequence[int], trees: Sequence[TokenTree], layers: Sequence[int]
    ) -> Iterator[tuple[int, Tensor]]:
        """The residual stream of trees, batch by batch.

        Args:
            lengths: How many tokens of the shared prefix each tree continues, or one number for all trees.
            trees: The trees to read.
            layers: How many layers the stream has passed: 0 for the embeddings, the model's depth for what enters its
                last norm.

        Yields:
            The index of a tree, and the stream at its nodes, [layers, nodes, width], in the model's precision. Trees
            come in the order of the batches, not in the order given.

        Raises:
            UserError: where the model's layers are not known, or it has no such layer.
        """
        lengths = [lengths] * len(trees) if isinstance(lengths, int) else lengths
        for batch in self.batches([len(tree.tokens) for tree in trees]):
            with residual_kept(self.model, layers) as kept:
                ends = [[len(trees[i].tokens) - 1] for i in batch]  # some node must be read
                forest = self._forward([lengths[i] for i in batch], [trees[i] for i in batch], ends)
            # the columns of the cache that this pass has added, one for each place of its rows
            cached = forest.columns.shape[1] - kept[layers[0]].shape[1]
            for i, (row, nodes) in zip(batch, forest.places, strict=True):
                places = torch.from_numpy(nodes - cached)
                states = [kept[layer][row, places.to(kept[layer].device)].to(self.model.device) for layer in layers]
                yield i, torch.stack(states)  # of each layer [nodes, width]

    @torch.no_grad()
    def embedded(self, tokens: Sequence[int]) -> Tensor:
        """The input embeddings of tokens, [tokens, width], without gradient."""
        embedded: Tensor = self.model.get_input_embeddings()(torch.tensor(tokens, device=self.model.device))
        return embedded

    def fork(self, length: int, rows: int) -> DynamicCache:
        """A cache of the beginning of the shared prefix, the same in every row.

        Args:
            length: How many tokens of the shared prefix it holds.
            rows: How many rows it has.

        Returns:
            Views of the keys and values that were read, which are copied only when the cache grows. Every layer keeps
            all tokens, sliding layers too: windows are in the masks.
        """
        if not length:
            return DynamicCache()
        # each layer: [1, heads, tokens, width] -> [rows, heads, length, width]
        return DynamicCache(
            [
                tuple(states[:, :, :length].expand(rows, -1, -1, -1) for states in keys_values)
                for keys_values in self._keys_values
            ]
        )

    def _forward(
        self,
        lengths: Sequence[int],
        trees: Sequence[TokenTree],
        reads: Sequence[Sequence[int]],
        embeds: Sequence[Tensor] | None = None,
    ) -> "Forest":
        """Reads trees, each below as many of the shared prefix's first tokens as `lengths` says.

        Small trees stand side by side in a row and do not see each other, so that the prefix is copied once for each
        row and not once for each tree."""
        rows = rows_of_trees([len(tree.tokens) for tree in trees])
        prefix_positions = np.arange(max(lengths))  # a column of the prefix holds the token of the same position
        columns = np.broadcast_to(prefix_positions, (len(rows), len(prefix_positions)))
        seen_before = [prefix_positions < length for length in lengths]
        cache = self.fork(len(prefix_positions), len(rows))
        return self.read_on(cache, columns, rows, trees, reads, seen_before, embeds)

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
        """Reads trees below what a cache holds; the cache grows by the trees.

        In a row the nodes to be read stand last, so that the model forms only their logits.

        Args:
            cache: Keys and values of what the trees continue.
            columns: The position of each column of the cache, [rows, columns].
            rows: For each row of the cache the indices of its trees.
            trees: The trees to read.
            reads: For each tree the nodes after which the next token is wanted.
            seen_before: For each tree the columns of the cache that it continues, [columns], bool. Their number is the
                position of the tree's first node.
            embeds: For each tree what to feed in place of its tokens, [nodes, width].

        Returns:
            The grown cache, where each node stands in it, and what comes next.

        Raises:
            UserError: where the model's head cannot be read in float32, or where a layer with a knockout of its own
                does not exist.
        """
        orders = [row_layout(row, trees, reads) for row in rows]  # per row: [nodes], place in the row -> node
        packed = [[(trees[i], seen_before[i]) for i in row] for row in rows]
        positions = _positions(packed, orders)
        places = _places(rows, trees, orders, columns.shape[1])
        most_reads = max(sum(len(reads[i]) for i in row) for row in rows)
        columns = np.concatenate([columns, positions], axis=1)  # [rows, cached + width]: positions of all keys
        cached = columns.shape[1] - positions.shape[1]
        with (
            self._masks_of_layers(packed, orders, positions, columns),
            residual_changed(self.model, _changes(trees, places, cached)),
        ):
            prediction = next_token(
                self.model,
                **self._fed(rows, trees, orders, embeds),
                attention_mask=self.masks(batch_sight(packed, orders), positions, columns),
                position_ids=torch.from_numpy(positions).to(self.model.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=most_reads,
            )
        return Forest(cache, columns, places, _by_tree(prediction, rows, reads, most_reads))

    def _fed(
        self,
        rows: Sequence[Sequence[int]],
        trees: Sequence[TokenTree],
        orders: Sequence[np.ndarray],
        embeds: Sequence[Tensor] | None,
    ) -> dict[str, Tensor]:
        """What the model is fed: token ids [rows, places], or embeddings [rows, places, width]; see `read_on`."""
        device = self.model.device
        longest = max(map(len, orders))
        if embeds is None:
            ids = np.zeros((len(rows), longest), dtype=np.int64)  # [rows, places]
            for row_number, (row, order) in enumerate(zip(rows, orders, strict=True)):
                ids[row_number, longest - len(order) :] = np.concatenate([trees[i].tokens for i in row])[order]
            return {"input_ids": torch.from_numpy(ids).to(device)}
        embed_rows: list[Tensor] = []
        for row, order in zip(rows, orders, strict=True):
            row_embeds = torch.cat([embeds[i] for i in row])[torch.from_numpy(order).to(device)]  # [nodes, width]
            # padding is seen by no node; any embedding will do
            embed_rows.append(torch.cat([row_embeds[:1].expand(longest - len(order), -1), row_embeds]))
        return {"inputs_embeds": torch.stack(embed_rows)}

    def masks(self, seen: np.ndarray, positions: np.ndarray, columns: np.ndarray) -> Tensor | dict[str, Tensor]:
        """The float masks that the model takes: 0 where a token is seen, the lowest number where it is not.

        A window of w lets a token see itself and the w - 1 tokens before it.

        Args:
            seen: Which query sees which key in a layer without a window, [rows, queries, keys], bool.
            positions: The positions of the queries, [rows, queries].
            columns: The positions of the keys, [rows, keys].

        Returns:
            A mask [rows, 1, queries, keys], or one for each kind of layer where the layers differ.
        """
        by_kind = {
            kind: self._additive(
                # [rows, queries, 1] - [rows, 1, keys]: how far each key lies back
                seen if window is None else seen & (positions[:, :, None] - columns[:, None, :] < window)
            )
            for kind, window in self.windows.items()
        }
        return by_kind.get("", by_kind)  # "" is the only kind where layers do not differ (`attention_windows`)

    @contextmanager
    def _masks_of_layers(
        self,
        packed: Sequence[Sequence[Standing]],
        orders: Sequence[np.ndarray],
        positions: np.ndarray,
        columns: np.ndarray,
    ) -> Iterator[None]:
        """While open, layers with knockouts of their own apply them; layers with the same knockouts share a mask."""
        trees = [tree for row in packed for tree, _ in row]
        layers_by_knockouts: dict[object, list[int]] = {}
        for layer in sorted({layer for tree in trees for layer in tree.knockouts_in_layer}):
            knockouts = tuple(tuple(tree.knockouts_in_layer.get(layer, ())) for tree in trees)
            layers_by_knockouts.setdefault(knockouts, []).append(layer)
        masks: dict[int, Tensor] = {}
        for layers in layers_by_knockouts.values():
            shared = self.masks(batch_sight(packed, orders, layers[0]), positions, columns)
            # layers of different kinds (full, sliding) have different masks under the same knockouts
            kinds = getattr(self.model.config.get_text_config(), "layer_types", None) or [""] * (layers[-1] + 1)
            masks |= {layer: shared[kinds[layer]] if isinstance(shared, dict) else shared for layer in layers}
        with masked_layers(self.model, masks):
            yield

    def _additive(self, seen: np.ndarray) -> Tensor:
        """The float mask [rows, 1, queries, keys], the same for all heads, of what is seen, [rows, queries, keys]."""
        dtype = self.model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype)
        return mask.masked_fill_(torch.from_numpy(~seen), torch.finfo(dtype).min)[:, None].to(self.model.device)


@dataclass(frozen=True, eq=False)
class PromptsRead:
    """Prompts that the model has read, side by side in few rows of a cache; each may be continued in many ways."""

    prefix: SharedPrefix
    """The model that read them, with the shared prefix."""
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
        """Reads trees that continue the prompts, batch by batch, as `SharedPrefix.logits` does for the shared prefix.

        Args:
            prompts: For each tree the number of the prompt that it continues.
            lengths: For each tree how many tokens of that prompt it continues.
            trees: The trees to read.
            reads: For each tree the nodes after which the next token is wanted.

        Yields:
            The index of a tree, and what comes next after its nodes in `reads`, [reads].
        """
        rows: list[list[int]] = []  # indices of trees; the trees of a row continue prompts of one row of the cache
        for row in dict.fromkeys(self.rows[prompt] for prompt in prompts):
            members = [i for i, prompt in enumerate(prompts) if self.rows[prompt] == row]
            rows += [[members[k] for k in part] for part in rows_of_trees([len(trees[i].tokens) for i in members])]
        for batch in self.prefix.batches([sum(len(trees[i].tokens) for i in row) for row in rows]):
            members = [i for row in batch for i in rows[row]]  # trees of the batch, row by row
            local = iter(range(len(members)))  # their numbers within the batch
            # the row of the cache that each row continues
            sources = [self.rows[prompts[rows[row][0]]] for row in batch]
            predictions = self.prefix.read_on(
                self._fork(sources),
                self.columns[sources],
                [[next(local) for _ in rows[row]] for row in batch],
                [trees[i] for i in members],
                [reads[i] for i in members],
                [self._first(prompts[i], lengths[i]) for i in members],
            ).reads
            while predictions:  # popped, so that nothing here keeps a prediction that the caller has dropped
                yield members[len(members) - len(predictions)], predictions.pop(0)

    def _fork(self, rows: Sequence[int]) -> DynamicCache:
        """A cache of these rows, copied; a row may be named several times."""
        return DynamicCache(
            [
                tuple(states[torch.tensor(rows, device=states.device)] for states in keys_values)
                for keys_values in self.keys_values
            ]
        )

    def _first(self, prompt: int, length: int) -> np.ndarray:
        """The columns of a prompt's first `length` tokens, [columns], bool."""
        columns: np.ndarray = self.seen[prompt] & (self.columns[self.rows[prompt]] < length)
        return columns


def _positions(packed: Sequence[Sequence[Standing]], orders: Sequence[np.ndarray]) -> np.ndarray:
    """The position of each place of each row, [rows, places]; rows are padded on the left to the longest one.

    A row of two trees a1 - a2 - A3 and b1 - B2. Capitals are nodes that are read. Tree a continues 4 columns of the
    cache, tree b only the first 2:

        cache columns | pad pad a1 a2 b1 A3 B2
        positions     |  0   0  4  5  2  6  3
    """
    longest = max(map(len, orders))
    positions = np.zeros((len(packed), longest), dtype=np.int64)  # padding may have any position
    for row_number, (row, order) in enumerate(zip(packed, orders, strict=True)):
        # a node stands as far behind what its tree continues as it is deep: siblings share a position
        by_node = np.concatenate([seen.sum() + np.array(tree.depths, dtype=np.int64) for tree, seen in row])
        pad = longest - len(order)
        positions[row_number, pad:] = by_node[order]
    return positions


def _places(
    rows: Sequence[Sequence[int]], trees: Sequence[TokenTree], orders: Sequence[np.ndarray], cached: int
) -> list[tuple[int, np.ndarray]]:
    """For each tree its row, and the column of each of its nodes, [nodes], in a cache that had `cached` columns."""
    longest = max(map(len, orders))
    places: dict[int, tuple[int, np.ndarray]] = {}
    for row_number, (row, order) in enumerate(zip(rows, orders, strict=True)):
        first, sizes = cached + longest - len(order), [len(trees[i].tokens) for i in row]
        # argsort inverts the order: node -> place; the new columns come after those of the cache and the padding
        tree_columns = np.split(first + np.argsort(order), np.cumsum(sizes)[:-1])  # per tree: [nodes]
        places |= {i: (row_number, nodes) for i, nodes in zip(row, tree_columns, strict=True)}
    return [places[i] for i in range(len(trees))]


def _changes(
    trees: Sequence[TokenTree], places: Sequence[tuple[int, np.ndarray]], cached: int
) -> dict[int, Callable[[Tensor], Tensor]]:
    """What the trees' swaps and additions do to the residual stream [rows, places, width], by layer.

    places: for each tree its row and the columns of its nodes, in a cache that had `cached` columns before them."""
    swaps: dict[int, list[tuple[int, int, int]]] = {}  # by layer: (row, place, place of the source)
    additions: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {}  # by layer: (row, places, vector)
    for tree, (row, columns) in zip(trees, places, strict=True):
        for layer, node, source in tree.swaps:
            swaps.setdefault(layer, []).append((row, columns[node] - cached, columns[source] - cached))
        for layer, nodes, vector in tree.additions:
            additions.setdefault(layer, []).append((row, columns[list(nodes)] - cached, vector))

    def change(layer: int, stream: Tensor) -> Tensor:
        changed = stream.clone()
        if layer in swaps:
            rows, to, source = torch.tensor(swaps[layer], device=stream.device).unbind(1)
            changed[rows, to] = stream[rows, source]
        for row, at, vector in additions.get(layer, ()):
            changed[row, torch.from_numpy(at).to(stream.device)] += torch.from_numpy(vector).to(stream)
        return changed

    return {layer: partial(change, layer) for layer in swaps.keys() | additions.keys()}


def _by_tree(
    prediction: NextToken, rows: Sequence[Sequence[int]], reads: Sequence[Sequence[int]], most_reads: int
) -> list[NextToken]:
    """For each tree what comes next after its nodes in `reads`, [reads], from what comes next in each row."""
    predictions: dict[int, NextToken] = {}
    for row_number, row in enumerate(rows):
        counts = [len(reads[i]) for i in row]
        # prediction.hidden is [rows, most_reads, width]: a row that reads fewer nodes has them at its end
        parts = prediction.hidden[row_number, most_reads - sum(counts) :].split(counts)  # per tree: [reads, width]
        predictions |= {i: NextToken(prediction.head, part) for i, part in zip(row, parts, strict=True)}
    return [predictions[i] for i in range(len(reads))]


def forest_logits(forest: Forest) -> Tensor:
    """The logits [trees, vocabulary] after the one node that was read in each tree."""
    return forest.reads[0].head.all_of(torch.cat([prediction.hidden for prediction in forest.reads]))


@contextmanager
def masked_layers(model: "PreTrainedModel | PeftModel", masks: Mapping[int, Tensor]) -> Iterator[None]:
    """While open, some layers' attention takes a mask of its own in place of the one that the model was given.

    The hooks are gone afterwards, also after an exception.

    Args:
        model: The model.
        masks: By the layer's index its mask, [rows, 1, queries, keys], 0 where a token is seen.

    Raises:
        UserError: where the model has no such layer.
    """
    hooks = []
    try:
        for layer, mask in masks.items():
            modules = [module for module in model.modules() if getattr(module, "layer_idx", None) == layer]
            if not modules:
                raise UserError(f"{type(model).__name__}: its layers have no numbers, or there is no layer {layer}")
            swap_mask = partial(_with_mask, mask)
            hooks += [module.register_forward_pre_hook(swap_mask, with_kwargs=True) for module in modules]
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _with_mask(mask: Tensor, module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """A forward pre-hook; None leaves the arguments as they are, for modules of the layer that take no mask."""
    return (args, kwargs | {"attention_mask": mask}) if "attention_mask" in kwargs else None


def attention_windows(model: "PreTrainedModel | PeftModel") -> dict[str, int | None]:
    """The sliding window of each kind of layer.

    Returns:
        Tokens by the kind's name in transformers, None for full attention; the one kind "" where layers do not differ.

    Raises:
        UserError: for layers that are neither (linear, chunked, state space).
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return {"": window}
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise UserError(f"{type(model).__name__} has layers of the kind {sorted(unknown)[0]}, which is not supported")
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(set(kinds))}
