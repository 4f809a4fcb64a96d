"""Trees of tokens that share beginnings, how they are packed into rows, and which token sees which.

It knows arrays and nothing of models."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

ROW_TOKENS = 384
"""About how many tokens of packed continuations a row holds: attention within a row costs their square."""


@dataclass
class TokenTree:
    """Continuations of one prefix that share their beginnings.

    The continuations a b c, a b d and e make five nodes. On the right is what each node sees (`sight`):

        prefix -+- 0:a -- 1:b -+- 2:c     tokens    a  b  c  d  e           0 1 2 3 4
                |              +- 3:d     parents  -1  0  1  1 -1       0   1 . . . .
                +- 4:e                    depths    0  1  2  2  0       1   1 1 . . .
                                                                        2   1 1 1 . .
                                                                        3   1 1 . 1 .
                                                                        4   . . . . 1
    """

    tokens: list[int] = field(default_factory=list)
    """The token of each node, parents before children."""
    parents: list[int] = field(default_factory=list)
    """Index of each node's parent, -1 for a node that follows the prefix itself."""
    depths: list[int] = field(default_factory=list)
    """How many nodes stand between each node and the prefix: its position less the prefix's length."""
    knockouts: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    """Pairs of groups of nodes (looking, looked at) between which attention is knocked out in every layer."""
    knockouts_in_layer: dict[int, list[tuple[tuple[int, ...], tuple[int, ...]]]] = field(default_factory=dict)
    """Further pairs, by the one layer in which they are knocked out."""
    prefix_knockouts: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    """Pairs (nodes that look, positions in the prefix) between which attention is knocked out in every layer."""
    swaps: list[tuple[int, int, int]] = field(default_factory=list)
    """Triples (layer, node, source): what has passed so many layers at a node is replaced by what has at the source."""
    additions: list[tuple[int, tuple[int, ...], np.ndarray]] = field(default_factory=list)
    """Triples (layer, nodes, vector [width]): the vector is added to what has passed so many layers at the nodes."""
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def insert(self, tokens: Sequence[int], after: int = -1) -> tuple[int, ...]:
        """Adds a path of tokens, which shares the nodes that earlier calls inserted.

        Args:
            tokens: The token ids of the path.
            after: The node below which the path begins; -1: directly after the prefix.

        Returns:
            The node of each token. Nodes are new from where the path leaves the tree.
        """
        path = []
        for token in tokens:
            if (after, token) not in self._children:
                self._children[after, token] = self._added(token, after)
            after = self._children[after, token]
            path.append(after)
        return tuple(path)

    def branch(self, tokens: Sequence[int], after: int = -1) -> tuple[int, ...]:
        """Adds a path of new nodes, which no other path shares: for replaced embeddings, or under a knockout.

        Args:
            tokens: The token ids of the path.
            after: The node below which the path begins; -1: directly after the prefix.

        Returns:
            The node of each token.
        """
        path = []
        for token in tokens:
            after = self._added(token, after)
            path.append(after)
        return tuple(path)

    def _added(self, token: int, parent: int) -> int:
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1 if parent >= 0 else 0)
        return len(self.tokens) - 1

    def sight(self, layer: int | None = None) -> np.ndarray:
        """Which node sees which: itself and its ancestors, without what is knocked out.

        Args:
            layer: Also applies the knockouts of this layer alone; None: only those of every layer.

        Returns:
            True where a node (row) sees a node (column), [nodes, nodes].
        """
        seen = np.eye(len(self.tokens), dtype=bool)
        # parents stand before children: a parent's row is complete when its children take it over
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        for looking, looked_at in self.knockouts + ([] if layer is None else self.knockouts_in_layer.get(layer, [])):
            seen[np.ix_(looking, looked_at)] = False
        return seen


Standing = tuple[TokenTree, np.ndarray]
"""A tree, and which columns of the cache it continues, [columns], bool."""


def rows_of_trees(sizes: Sequence[int]) -> list[list[int]]:
    """Neighbouring trees side by side, in rows of about the same length: `ROW_TOKENS` or somewhat less.

    sizes: the nodes of each tree. Gives the indices of the trees of each row."""
    target = sum(sizes) / math.ceil(sum(sizes) / ROW_TOKENS)
    rows: list[list[int]] = [[]]
    filled = 0
    for index, size in enumerate(sizes):
        if rows[-1] and filled + size / 2 > target:  # more than half of the tree would lie beyond the target
            rows.append([])
            filled = 0
        rows[-1].append(index)
        filled += size
    return rows


def row_layout(row: Sequence[int], trees: Sequence[TokenTree], reads: Sequence[Sequence[int]]) -> np.ndarray:
    """The order of a row's nodes, [nodes]: nodes that are not read, then those that are, each group tree by tree.

    Nodes are numbered through the trees of the row. Trees of 3 and 2 nodes, each read after its last node:

        tree a: 0 1 [2]   tree b: 3 [4]   ->   0 1 3 [2] [4]
    """
    unread, read_last, offset = [], [], 0
    for i in row:
        read = set(reads[i])
        unread += [offset + node for node in range(len(trees[i].tokens)) if node not in read]
        read_last += [offset + node for node in reads[i]]
        offset += len(trees[i].tokens)
    return np.array(unread + read_last)


def batch_sight(
    packed: Sequence[Sequence[Standing]], orders: Sequence[np.ndarray], layer: int | None = None
) -> np.ndarray:
    """Which node of each row sees what, [rows, width, cached + width]: what it continues, its ancestors and itself.

    Rows are padded on the left with nodes that see themselves alone. Two trees a1 - A2 and b1 - B2, of which the nodes
    in capitals are read; a continues all of four cached columns, b the first two:

               cached    pad a1 b1 A2 B2
        pad    . . . .    1  .  .  .  .
        a1     1 1 1 1    .  1  .  .  .
        b1     1 1 . .    .  .  1  .  .
        A2     1 1 1 1    .  1  .  1  .
        B2     1 1 . .    .  .  1  .  1
    """
    width, cached = max(map(len, orders)), len(packed[0][0][1])
    seen = np.zeros((len(packed), width, cached + width), dtype=bool)
    for row_number, (row, order) in enumerate(zip(packed, orders, strict=True)):
        pad = width - len(order)
        seen[row_number, range(pad), range(cached, cached + pad)] = True
        continued = np.concatenate([_continued(tree, columns) for tree, columns in row])
        seen[row_number, pad:, :cached] = continued[order]  # [nodes, cached]
        sight = row_sight([tree for tree, _ in row], layer)  # [nodes, nodes], in the order of the trees
        seen[row_number, pad:, cached + pad :] = sight[np.ix_(order, order)]
    return seen


def _continued(tree: TokenTree, columns: np.ndarray) -> np.ndarray:
    """Which columns of the cache each node of a tree sees, [nodes, columns], bool; columns: those that it continues.

    The k-th column that a tree continues holds the token at position k of its prefix."""
    seen = np.tile(columns, (len(tree.tokens), 1))
    for looking, positions in tree.prefix_knockouts:
        seen[np.ix_(np.array(looking), np.flatnonzero(columns)[list(positions)])] = False
    return seen


def row_sight(trees: Sequence[TokenTree], layer: int | None = None) -> np.ndarray:
    """Which node of some trees sees which, [nodes, nodes], bool: one block on the diagonal for each tree."""
    sizes = [len(tree.tokens) for tree in trees]
    seen = np.zeros((sum(sizes), sum(sizes)), dtype=bool)
    offset = 0
    for tree, size in zip(trees, sizes, strict=True):
        seen[offset : offset + size, offset : offset + size] = tree.sight(layer)
        offset += size
    return seen


def common_length(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the longest common token prefix: that of the least and the greatest sequence in lexical order."""
    first, last = min(map(tuple, sequences)), max(map(tuple, sequences))
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
