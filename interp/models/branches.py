"""Decoding below prompts that have been read: copies grow token by token side by side.

It knows the shared prefix and nothing of prompts or formats."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from interp.models.prefix import PromptsRead, SharedPrefix, forest_logits
from interp.models.tree import TokenTree


class Branches:
    """Prompts that grow by one token at a time, in as many copies as wanted, side by side in few rows.

    A copy is not a row of the cache but a set of columns that it sees. Neither the shared prefix nor the prompt is
    copied for it, and a copy that has ended costs nothing. Example: two copies x, y of a prompt p and one copy z of a
    prompt q, all in one row of the cache, after two further tokens each:

                prefix   p    q     first   second
        x sees  1 1 1   1 1  . . .  1 . .   1 . .
        y sees  1 1 1   1 1  . . .  . 1 .   . 1 .
        z sees  1 1 1   . .  1 1 1  . . 1   . . 1
    """

    def __init__(
        self, prefix: SharedPrefix, length: int, prompts: Sequence[Sequence[int]], copies: Sequence[int]
    ) -> None:
        """Reads the prompts.

        Args:
            prefix: The model with the shared prefix.
            length: How many tokens of the shared prefix the prompts begin with.
            prompts: Token ids of distinct prompts, the shared tokens included.
            copies: For each copy the number of its prompt.
        """
        trees = [TokenTree() for _ in prompts]
        ends = [tree.insert(prompt[length:])[-1:] for tree, prompt in zip(trees, prompts, strict=True)]
        self._prefix = prefix
        forest = prefix._forward([length] * len(trees), trees, ends)
        self._cache, self._columns = forest.cache, forest.columns
        seen = np.zeros((len(prompts), forest.columns.shape[1]), dtype=bool)  # [prompts, columns]
        seen[:, :length] = True
        for prompt_number, (_, nodes) in enumerate(forest.places):
            seen[prompt_number, nodes] = True
        rows = [row for row, _ in forest.places]
        self._prompts = [tuple(prompt) for prompt in prompts], rows, seen
        self._row, self._seen = np.array(rows)[list(copies)], seen[list(copies)]  # [copies] and [copies, columns]
        self.logits = forest_logits(forest)[torch.tensor(list(copies))]
        """Logits [copies, vocabulary] after each copy's prompt."""

    def read(self) -> PromptsRead:
        """The prompts, before any copy has grown; views, which stay as they are when copies grow."""
        prompts, rows, seen = self._prompts
        keys_values = [(keys, values) for keys, values, _ in self._cache]
        return PromptsRead(self._prefix, prompts, keys_values, self._columns, rows, seen)

    def grown(self, alive: np.ndarray, tokens: Sequence[int]) -> Tensor:
        """Appends a token to each copy that goes on.

        Args:
            alive: Indices of the copies that go on; a copy left out must not come back later.
            tokens: The token of each of them.

        Returns:
            The logits after these tokens, [alive, vocabulary].
        """
        # used: the rows of the cache in which a copy goes on; row: for each copy that goes on, its place among them
        used, row = np.unique(self._row[alive], return_inverse=True)
        if len(used) < len(self._columns):
            self._cache.batch_select_indices(torch.from_numpy(used))  # layers may be on different devices
            self._columns = self._columns[used]
            self._row[alive] = row
        trees = [TokenTree([token], [-1], [0]) for token in tokens]  # a copy's next token is a tree of one node
        rows = [np.flatnonzero(row == number).tolist() for number in range(len(used))]
        ends = [[0]] * len(trees)
        forest = self._prefix.read_on(self._cache, self._columns, rows, trees, ends, list(self._seen[alive]))
        cached, self._columns = self._columns.shape[1], forest.columns
        # [copies, columns]: of the new columns a copy that grew sees its own, and no copy sees any other
        self._seen = np.pad(self._seen, ((0, 0), (0, self._columns.shape[1] - cached)))
        self._seen[alive, [node for _, (node,) in forest.places]] = True
        return forest_logits(forest)
