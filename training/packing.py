"""One packed row for a mini-batch: tokens that its prompts share are stored once, answers stand side by side.

The row is a tree of tokens under its own attention mask, as in `interp.models.prefix`. It is read in a single forward
pass with gradient, without a cache: gradient checkpointing would drop the cache, and the instruction and the worked
examples are the longest part of every prompt. This module knows nothing of losses or of the optimiser."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.models.head import NextToken
from interp.models.readout import one_after_the_other
from interp.models.tree import TokenTree
from interp.records import Transcript

if TYPE_CHECKING:
    from interp.models.readout import LevelPlan
    from interp.models.setting import Setting


@dataclass(frozen=True)
class PackedRow:
    """The model's inputs, and where to read its outputs."""

    inputs: dict[str, Tensor | dict[str, Tensor]]
    """Arguments of the model's forward pass; its logits are [1, reads, vocabulary]."""
    plan: "LevelPlan"
    """Where the levels and the answers of all transcripts, one transcript after the other, stand among the reads. One
    plan holds all of them, so that each quantity is indexed once: the gradient of every indexing operation is as large
    as the tensor that it indexes."""
    answer_owners: Tensor
    """For each answer token the index of its transcript, [answer tokens of all transcripts]."""
    transcripts: int
    """Number of transcripts."""
    stops: Tensor
    """Token ids that end a level."""
    stated: Tensor
    """For each transcript the read after the last token of one of its levels, [transcripts]; [0] where none is read."""

    @property
    def answer_lengths(self) -> Tensor:
        """How many tokens each transcript's answer has, the end of its line counted, [transcripts]."""
        return torch.bincount(self.answer_owners, minlength=self.transcripts)

    def logprobs(self, after: NextToken) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the levels and of the answers.

        Args:
            after: The model's predictions after the nodes that are read, [reads].

        Returns:
            The log-probability of each level with its end, [transcripts, levels], not renormalised over the levels;
            and of each transcript's answer with the end of its line, [transcripts]. Both in nats.
        """
        levels = self.plan.level_logprobs(after, self.stops).view(self.transcripts, -1)  # [transcripts, levels]
        token_logprobs = self.plan.answer_logprobs(after)  # [answer tokens of all transcripts]
        # the sum over each transcript's own tokens, [transcripts]
        answers = token_logprobs.new_zeros(self.transcripts).index_add(0, self.answer_owners, token_logprobs)
        return levels, answers

    def end_logprobs(self, after: NextToken) -> Tensor:
        """Log-probability (nats) that the line ends after each of the levels in `stated`, [transcripts] or [0]."""
        return after.logprobs_of_any(self.stated, self.stops)


def packed_row(setting: "Setting", transcripts: Sequence[Transcript], stated: Sequence[int] = ()) -> PackedRow:
    """The row that holds these transcripts, with all levels below each of them.

    Args:
        setting: Tokenizer, prompts, reader and model of one confidence format.
        transcripts: Prompts with answers, each open at the confidence's slot.
        stated: For each transcript the index of a level after which the end of its line is read; empty: of none. It is
            for levels that are read by one token: whole ones are read with their ends.

    Returns:
        The row's inputs and the plan by which its levels and answers are read.
    """
    # Two answers R and W to question q1, and one answer V to q2. P is what all prompts share; r, w and v are the levels
    # below each answer. Each letter is one node here (in truth several); a node attends to those marked in its line,
    # itself and its ancestors.
    #
    #                            P q1  R  r  W  w q2  V  v    position = number of ancestors
    #     P -+- q1 -+- R - r  P  x                            0
    #        |      |         q1 x  x                         1
    #        |      |         R  x  x  x                      2
    #        |      |         r  x  x  x  x                   3
    #        |      +- W - w  W  x  x        x                2, as R: each answer stands where it would stand alone
    #        |                w  x  x        x  x             3
    #        +- q2 -+- V - v  q2 x                 x          1
    #                         V  x                 x  x       2
    #                         v  x                 x  x  x    3
    tree = TokenTree()
    reads, plans = setting.reader.planned(tree, transcripts, 0)  # fills the tree; reads: nodes, plans: per transcript
    rows = {node: row for row, node in enumerate(reads)}
    of_stated = []
    for transcript, level in zip(transcripts, stated, strict=False):
        last = tree.insert((*transcript.ids, *setting.prompter.level_suffixes(transcript)[level]))[-1]
        of_stated.append(rows.setdefault(last, len(rows)))
    reads = list(rows)
    positions = np.array([tree.depths])  # [1, nodes]
    # an additive mask [1, 1, nodes, nodes], 0 where a node is seen; one for each kind of layer where windows differ
    masks = setting.prefix.masks(tree.sight()[None], positions, positions)
    device = setting.prefix.model.device
    inputs = {
        "input_ids": torch.tensor([tree.tokens], device=device),  # [1, nodes]
        "attention_mask": masks,
        "position_ids": torch.from_numpy(positions).to(device),  # [1, nodes]
        "logits_to_keep": torch.tensor(reads, device=device),  # [reads]
    }
    owners = torch.tensor([i for i, plan in enumerate(plans) for _ in plan.answer_tokens], device=device)
    return PackedRow(
        inputs,
        one_after_the_other(plans),
        owners.long(),
        len(plans),
        setting.reader.stops,
        torch.tensor(of_stated, device=device).long(),
    )
