"""One packed row for a mini-batch: what its prompts share stands once, right and wrong answers side by side.

The row is a tree of tokens under a mask of its own, as in `interp.prefix`, but read in one pass with gradient: a cache
would be dropped by gradient checkpointing, and instruction and examples are the longest part of every prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.prefix import TokenTree
from interp.records import Transcript

if TYPE_CHECKING:
    from interp.readout import LevelPlan
    from interp.setting import Setting


@dataclass(frozen=True)
class PackedRow:
    """What a model is fed, and where to read what came out."""

    inputs: dict[str, Tensor | dict[str, Tensor]]
    """Arguments of the model's forward pass; its logits are [1, reads, vocabulary]."""
    plans: tuple["LevelPlan", ...]
    """Where each transcript's levels and answer stand in the logits."""
    stops: Tensor
    """Token ids that end a level."""

    def level_logprobs(self, logits: Tensor) -> Tensor:
        """Log-probabilities of the levels, each with its end, after each transcript, [transcripts, levels]."""
        total = logits.logsumexp(-1)
        return torch.stack([plan.level_logprobs(logits, self.stops, total) for plan in self.plans])

    def answer_logprobs(self, logits: Tensor) -> Tensor:
        """Log-probability of each transcript's answer with the end of its line, [transcripts]."""
        total = logits.logsumexp(-1)
        return torch.stack([plan.answer_logprob(logits, total) for plan in self.plans])


def packed_row(setting: "Setting", transcripts: Sequence[Transcript]) -> PackedRow:
    """The row that holds these transcripts, each open at the confidence's slot, with all levels below each."""
    tree = TokenTree()
    reads, plans = setting.reader.planned(tree, transcripts, 0)
    positions = np.array([tree.depths])
    masks = setting.prefix.masks(tree.sight()[None], positions, positions)
    device = setting.prefix.model.device
    inputs = {
        "input_ids": torch.tensor([tree.tokens], device=device),
        "attention_mask": masks,
        "position_ids": torch.from_numpy(positions).to(device),
        "logits_to_keep": torch.tensor(reads, device=device),
    }
    return PackedRow(inputs, tuple(plans), setting.reader.stops)
