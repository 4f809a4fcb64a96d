"""Answer masking: does the stated confidence change when the answer is hidden from it?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from interp.intervals import Columns
from interp.records import Span, Transcript
from interp.runs import Record

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from interp.checkpoints import Checkpoint
    from interp.prefix import TokenTree
    from interp.readout import LevelPlan
    from interp.setting import Case, Setting

NEUTRAL = (" ...", "...", " _", "_", " .", ".")
"""Texts for the neutral filler; the first that is a single token is used."""
CUTS = ("confidence_to_answer", "later_to_answer")
"""confidence_to_answer: the tokens whose logits are read cannot see the answer, those in between still can and may pass
it on. later_to_answer: nothing after the answer can see it."""


def neutral_token(checkpoint: "Checkpoint") -> int:
    """A token that says nothing: an ellipsis where the vocabulary has one."""
    tokenizer = checkpoint.tokenizer
    encoded: list[list[int]] = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in NEUTRAL]
    return min(encoded, key=len)[-1]


def padding_token(tokenizer: "PreTrainedTokenizerBase", stops: Sequence[int]) -> int | None:
    """The pad token, None where it means something else as well (begin, end of text, end of turn), so that masking with
    it would change what the text says. stops: token ids that end a turn or a line."""
    pad = tokenizer.pad_token_id
    taken = {*stops, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    return None if pad is None or pad in taken else pad


def filler_embeddings(setting: "Setting") -> dict[str, "Tensor"]:
    """The input embedding [width] of each filler: neutral token, mean of the vocabulary, and pad where it is one."""
    prefix, checkpoint = setting.prefix, setting.checkpoint
    neutral, pad = neutral_token(checkpoint), padding_token(checkpoint.tokenizer, setting.stops)
    fillers = {"neutral": prefix.embedded([neutral])[0], "mean": mean_embedding(checkpoint.model)}
    return fillers if pad is None else fillers | {"pad": prefix.embedded([pad])[0]}


_MEANS: "WeakKeyDictionary[PreTrainedModel | PeftModel, Tensor]" = WeakKeyDictionary()
"""The mean embedding of each model that is still there; a model must not be held for its mean."""


def mean_embedding(model: "PreTrainedModel | PeftModel") -> "Tensor":
    """The mean [width] over the vocabulary of the embeddings as the model receives them."""
    import torch

    if model not in _MEANS:
        table = model.get_input_embeddings()
        count = len(table.get_parameter("weight"))
        parts = torch.split(torch.arange(count, device=model.device), 4096)
        sums = torch.stack([table(part).float().sum(0).cpu().double() for part in parts])
        _MEANS[model] = sums.sum(0) / count
    return _MEANS[model]


def masked_tree(
    setting: "Setting", transcript: Transcript, length: int, filler: "Tensor", span: Span = "answer"
) -> tuple["TokenTree", list[int], "LevelPlan", "Tensor"]:
    """A transcript's tree with the embeddings [nodes, width] of one span replaced by a filler."""
    tree, reads, plan = setting.reader.plan(transcript, length)
    embeds = setting.prefix.embedded(tree.tokens).clone()
    path = tree.insert(transcript.ids[length:])
    embeds[[path[i - length] for i in transcript.positions(span)]] = filler.to(embeds)
    return tree, reads, plan, embeds


def cut_tree(
    setting: "Setting", transcript: Transcript, length: int, cut: str
) -> tuple["TokenTree", list[int], "LevelPlan"]:
    """A transcript's tree in which attention to the answer is cut."""
    tree, reads, plan = setting.reader.plan(transcript, length)
    path = tree.insert(transcript.ids[length:])
    answer = [path[i - length] for i in transcript.positions("answer")]
    levels = [node for node in range(len(tree.tokens)) if node not in path]
    after = [node for node in path if node > answer[-1]]
    looking = [path[-1], *levels] if cut == CUTS[0] else [*after, *levels]
    tree.cuts.append((tuple(looking), tuple(answer)))
    return tree, reads, plan


def measured(setting: "Setting", cases: Sequence["Case"]) -> list[Record]:
    """One record for each case: the confidence as it is, under each filler and under each cut."""
    fillers = filler_embeddings(setting)
    return [_of_case(setting, case, fillers) for case in cases]


def _of_case(setting: "Setting", case: "Case", fillers: dict[str, "Tensor"]) -> Record:
    transcript = setting.prompter.transcript(case.question, case.answer)
    length = transcript.positions("answer")[0]
    prefix = setting.prefix.extended(transcript.ids[:length])
    variants: dict[str, tuple[TokenTree, list[int], LevelPlan, Tensor | None]]
    variants = {"seen": (*setting.reader.plan(transcript, length), None)}
    variants |= {name: masked_tree(setting, transcript, length, filler) for name, filler in fillers.items()}
    variants |= {name: (*cut_tree(setting, transcript, length, name), None) for name in CUTS}
    trees, reads, plans, embeds = zip(*variants.values(), strict=True)
    fed = [prefix.embedded(tree.tokens) if e is None else e for tree, e in zip(trees, embeds, strict=True)]
    found: dict[str, Record] = {}
    for index, logits in prefix.logits(length, trees, reads, fed):
        said = setting.reader.distribution(plans[index].level_logprobs(logits, setting.reader.stops))
        found[list(variants)[index]] = {
            "probability": list(said.probability),
            "outside": said.outside,
            "expected": said.expected,
        }
    return _record({name: found[name] for name in variants})


def _record(found: dict[str, Record]) -> Record:
    seen = found["seen"]
    masked = {name: one for name, one in found.items() if name != "seen"}
    values = {"seen": seen["expected"]}
    for name, one in masked.items():
        values |= {f"{name}.masked": one["expected"], f"{name}.drop": seen["expected"] - one["expected"]}
    return {"seen": seen, "masked": masked, "values": values}


def columns(records: Sequence[Record]) -> Columns:
    """Expected confidence as it is and masked, and the drop, by their key in summary.json."""
    names = list(dict.fromkeys(name for record in records for name in record["values"]))
    return {f"masking.{name}": ([r["values"].get(name) for r in records], np.mean) for name in names}


if __name__ == "__main__":
    from interp.commands import run_as_command
    from interp.diagnose import Diagnose, run_instruments

    run_as_command(Diagnose, run_instruments(("masking",), "masking"), description=__doc__)
