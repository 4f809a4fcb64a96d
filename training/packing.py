"""One packed row for a mini-batch: what its prompts share stands once, right and wrong answers side by side.

The row is a tree of tokens under a mask of its own, as in `interp.models.prefix`, but read in one pass with gradient:
a cache would be dropped by gradient checkpointing, and instruction and examples are the longest part of every
prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.models.head import NextToken
from interp.models.prefix import TokenTree
from interp.models.readout import one_after_the_other
from interp.records import Transcript

if TYPE_CHECKING:
    from interp.models.readout import LevelPlan
    from interp.models.setting import Setting


@dataclass(frozen=True)
class PackedRow:
    """What a model is fed, and where to read what came out."""

    inputs: dict[str, Tensor | dict[str, Tensor]]
    """Arguments of the model's forward pass; its logits are [1, reads, vocabulary]."""
    plan: "LevelPlan"
    """Where the levels and the answers of all transcripts, one after the other, stand in the logits. They are taken
    out of the logits at once: the gradient of every taking is as large as the logits themselves."""
    answer_owners: Tensor
    """For each token of an answer the transcript whose it is."""
    transcripts: int
    """How many there are."""
    stops: Tensor
    """Token ids that end a level."""

    def logprobs(self, after: NextToken) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the levels after each transcript, each with its end, [transcripts, levels]; and of
        each transcript's answer with the end of its line, [transcripts]. after: what comes next after [reads]."""
        levels = self.plan.level_logprobs(after, self.stops).view(self.transcripts, -1)
        spoken = self.plan.answer_logprobs(after)
        return levels, spoken.new_zeros(self.transcripts).index_add(0, self.answer_owners, spoken)


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
    owners = torch.tensor([i for i, plan in enumerate(plans) for _ in plan.answer_tokens], device=device)
    return PackedRow(inputs, one_after_the_other(plans), owners.long(), len(plans), setting.reader.stops)
