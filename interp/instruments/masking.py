"""Answer masking: does the stated confidence change when the answer is hidden from it?

The answer is hidden by replacement of its tokens and by attention knockout; all variants of a transcript are read in
one tree. The module takes a setting and cases and returns records; it knows nothing of runs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.instruments.base import Instrument, Metric, without_options
from interp.instruments.floor import READINGS
from interp.intervals import SIGNED, UNIT
from interp.records import ConfidenceDistribution, Transcript
from interp.run.runs import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from figures.captions import Page, RunData
    from interp.models.checkpoints import Checkpoint
    from interp.models.readout import LevelPlan
    from interp.models.setting import Case, Setting
    from interp.models.tree import TokenTree

NEUTRAL = (" ...", "...", " _", "_", " .", ".")
"""Texts for the neutral replacement; the first that is a single token is used."""
KNOCKOUTS = ("confidence_to_answer", "later_to_answer")
"""confidence_to_answer: the tokens whose logits are read cannot see the answer; those in between can, and may pass it
on. later_to_answer: no token after the answer can see it."""


def neutral_token(checkpoint: "Checkpoint") -> int:
    """A token that says nothing: an ellipsis where the vocabulary has one as a single token."""
    tokenizer = checkpoint.tokenizer
    encoded: list[list[int]] = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in NEUTRAL]
    return min(encoded, key=len)[-1]


def padding_token(tokenizer: "PreTrainedTokenizerBase", stops: Sequence[int]) -> int | None:
    """The pad token, where it is good for replacement.

    Args:
        tokenizer: of the checkpoint.
        stops: token ids that end a turn or a line.

    Returns:
        Its id; None where there is none, or where it means something else as well (begin or end of the text, unknown
        token, end of a turn or line), so that replacing tokens by it would change what the text says.
    """
    pad = tokenizer.pad_token_id
    taken = {*stops, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    return None if pad is None or pad in taken else pad


def replacement_embeddings(setting: "Setting") -> dict[str, "Tensor"]:
    """The input embedding [width] of each replacement by its name: "neutral", "mean" of the vocabulary, and "pad" where
    the user has named a filler or `padding_token` gives one."""
    prefix, checkpoint, pad = setting.prefix, setting.checkpoint, setting.filler
    neutral = neutral_token(checkpoint)
    if pad is None:
        pad = padding_token(checkpoint.tokenizer, setting.stops)
    replacements = {"neutral": prefix.embedded([neutral])[0], "mean": checkpoint.mean_embedding}
    return replacements if pad is None else replacements | {"pad": prefix.embedded([pad])[0]}


@dataclass(frozen=True, eq=False)
class Variants:
    """One transcript in several variants in one tree, in which their common beginnings stand once."""

    tree: "TokenTree"
    """The transcript's tokens and levels, once for each variant in which they differ, with the attention knockouts."""
    reads: list[int]
    """The nodes after which levels are read."""
    plans: dict[str, "LevelPlan"]
    """Where each variant's levels stand."""
    hidden: dict[str, tuple[int, ...]]
    """The nodes that are fed a replacement's embedding, by the replacement's name."""

    def embeds(self, setting: "Setting", replacements: dict[str, "Tensor"]) -> "Tensor":
        """What the tree is fed, [nodes, width]. replacements: the embedding of each, [width]."""
        embeds = setting.prefix.embedded(self.tree.tokens).clone()  # the layer may return its own weights
        for name, nodes in self.hidden.items():
            embeds[list(nodes)] = replacements[name].to(embeds)
        return embeds


def variants(
    setting: "Setting",
    transcript: Transcript,
    length: int,
    *,
    replacements: Iterable[str] = (),
    knockouts: Sequence[str] = (),
    seen: bool = True,
) -> Variants:
    """The transcript as it is ("seen"), with the answer replaced, and under attention knockouts, in one tree.

                    ┌ answer ─ tail ─┬ last ─ levels      seen
    question ───────┤        │       └ last ─ levels      confidence_to_answer: these do not see the answer
                    │        └ tail ── last ─ levels      later_to_answer: none of these does
                    └ replacement ─ tail ── last ─ levels      for each replacement

    Args:
        setting: the model in its format.
        transcript: open at the confidence's slot.
        length: how many of its first tokens belong to the shared prefix and are not in the tree.
        replacements: the names of the replacements.
        knockouts: the names of the knockouts, of `KNOCKOUTS`; they need `seen`.
        seen: the transcript as it is is among the variants.

    Returns:
        The variants by the names "seen", those of the replacements and those of the knockouts.
    """
    from interp.models.tree import TokenTree

    tree, ids = TokenTree(), transcript.ids[length:]
    positions = [i - length for i in transcript.positions("answer")]  # of the answer, in `ids`
    first, after = positions[0], positions[-1] + 1
    path = tree.insert(ids if seen else ids[:first])  # the node of each token
    paths = {"seen": path} if seen else {}
    hidden = {}
    for name in replacements:
        paths[name] = (*path[:first], *tree.branch(ids[first:], path[first - 1] if first else -1))
        hidden[name] = tuple(paths[name][i] for i in positions)
    for name in knockouts:
        # the tokens from `start` on stand once more, since their hidden states differ from those of "seen"
        start = len(ids) - 1 if name == KNOCKOUTS[0] else after
        paths[name] = (*path[:start], *tree.branch(ids[start:], path[start - 1]))
    reads: dict[int, int] = {}
    plans = {}
    for name, variant_path in paths.items():
        before = len(tree.tokens)
        plans[name] = setting.reader.plan_at(tree, variant_path, transcript, reads)
        if name in knockouts:
            levels = range(before, len(tree.tokens))  # the nodes that `plan_at` has just added
            looking = [node for node in variant_path if node not in path]
            tree.knockouts.append(((*looking, *levels), tuple(path[i] for i in positions)))
    return Variants(tree, list(reads), plans, hidden)


def distributions(
    setting: "Setting", length: int, of_each: Sequence[Variants], replacements: dict[str, "Tensor"]
) -> list[dict[str, ConfidenceDistribution]]:
    """The confidence under each variant of each transcript.

    Args:
        setting: the model in its format.
        length: how many tokens of the shared prefix the variants continue.
        of_each: the variants of each transcript.
        replacements: the embedding of each replacement, [width].

    Returns:
        For each transcript, the distributions by the name of the variant.
    """
    by_transcript: dict[int, dict[str, ConfidenceDistribution]] = {}
    trees, reads = [member.tree for member in of_each], [member.reads for member in of_each]
    # trees are read in batches of like size, hence in another order
    for i, after in setting.prefix.logits(length, trees, reads, lambda i: of_each[i].embeds(setting, replacements)):
        by_transcript[i] = {
            name: setting.reader.distribution(plan.level_logprobs(after, setting.reader.stops))
            for name, plan in of_each[i].plans.items()
        }
    return [by_transcript[i] for i in range(len(of_each))]


def measured(setting: "Setting", cases: Sequence["Case"]) -> list[Record]:
    """One record for each case: the confidence as it is, under each replacement and under each knockout."""
    replacements = replacement_embeddings(setting)
    transcripts = [setting.prompter.transcript(case.question, case.answer) for case in cases]
    length = setting.prefix.shared_length([transcript.ids for transcript in transcripts])
    by_transcript = [
        variants(setting, transcript, length, replacements=replacements, knockouts=KNOCKOUTS)
        for transcript in transcripts
    ]
    return [_record(by_variant) for by_variant in distributions(setting, length, by_transcript, replacements)]


def _record(by_variant: dict[str, ConfidenceDistribution]) -> Record:
    """The record of one transcript."""
    readings: dict[str, Record] = {
        name: {
            "probability": list(distribution.probability),
            "outside": distribution.off_scale,
            "expected": distribution.expected,
        }
        for name, distribution in by_variant.items()
    }
    seen = readings["seen"]
    masked = {name: reading for name, reading in readings.items() if name != "seen"}
    values = {"seen": seen["expected"]}
    for name, reading in masked.items():
        values |= {f"{name}.masked": reading["expected"], f"{name}.drop": seen["expected"] - reading["expected"]}
    return {"seen": seen, "masked": masked, "values": values}


REPLACED = {"neutral": "neutral token", "mean": "mean embedding", "pad": "pad token"}
"""The replacements of the answer's tokens by their names in the records, in words."""
KNOCKED_OUT = {
    "confidence_to_answer": "attention knockout, confidence to answer",
    "later_to_answer": "attention knockout, all later to answer",
}
HIDDEN = REPLACED | KNOCKED_OUT
"""All ways of hiding the answer by their names in the records, in words."""
CONFIDENCE, DROP = "Expected confidence", "Its drop when the answer is hidden"
METRICS = (
    Metric("masking.seen", CONFIDENCE, "answer seen", "confidence", "seen", bounds=UNIT),
    *(
        Metric(
            f"masking.{name}.masked",
            CONFIDENCE,
            f"answer hidden: {words}",
            "confidence",
            f"{name}.masked",
            bounds=UNIT,
        )
        for name, words in HIDDEN.items()
    ),
    *(
        Metric(
            f"masking.{name}.drop",
            DROP,
            words,
            "confidence",
            f"{name}.drop",
            place="headline" if name == "mean" else "listed",
            floor="floor.expected",
            bounds=SIGNED,
        )
        for name, words in HIDDEN.items()
    ),
)


def pages(run: "RunData") -> "Iterator[Page]":
    """The masking figure."""
    from figures.masking import masking_page

    yield masking_page(run, HIDDEN)


def compared(before: "RunData", after: "RunData") -> "tuple[Figure, str]":
    """The confidence with the answer in sight and hidden, of both runs."""
    from figures.masking import compared_levels

    return compared_levels(before, after, HIDDEN)


MASKING = Instrument(
    name="masking",
    about="Expected confidence with the answer hidden from it.",
    metrics=METRICS,
    measure=without_options(measured),
    repeated=READINGS,
    pages=pages,
    compared=compared,
)
