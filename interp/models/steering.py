"""A vector that is added to the residual stream wherever a confidence is read, and its file.

It is added from the first token after the answer on, so that the answer and its likelihood stay as they are. The module
knows layers, tokens and files. It must not know how a vector is fitted, or what is made of the confidences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.errors import UserError
from interp.models.readout import ConfidenceReader, Pack, Reading, spoken_positions
from interp.models.residual import Change, Steering, decoder_layers, depth_of
from interp.models.tree import TokenTree
from interp.records import Transcript

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

KIND = "steering vector of stated confidence"
"""What the file says that it holds."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """Where a saved vector comes from, in words."""

    model: str
    """The checkpoint that it was fitted on."""
    fingerprint: str
    """The fingerprint of that checkpoint; empty for a model in memory."""
    direction: str
    """How its direction was fitted: stated, probe or means."""
    place: str
    """The token whose streams it was fitted on."""
    unit: str
    """What a dose of 1 is."""
    fitted_on: str
    """The questions that it was fitted on."""
    format: str
    """The confidence format in which they were asked."""


@dataclass(frozen=True, eq=False)
class SavedSteering:
    """A vector from a file, in a dose of 1."""

    steering: Steering
    """Layer and vector."""
    depth: int
    """How many layers the model has that it was fitted on."""
    card: Card
    """Where it comes from."""

    def dosed(self, dose: float, model: "PreTrainedModel | PeftModel", name: str) -> Steering:
        """The vector times a dose, for this model.

        Args:
            dose: how many units are added; below 0 against the direction.
            model: the model that is steered.
            name: what its checkpoint is called in errors.

        Raises:
            UserError: where the model has another depth or width, or its layers are not known.
        """
        width = model.config.get_text_config().hidden_size
        own, theirs = (depth_of(model), width), (self.depth, len(self.steering.vector))
        if own != theirs:
            raise UserError(
                f"--steer: the vector is for {theirs[0]} layers of width {theirs[1]} ({self.card.model}), "
                f"and {name} has {own[0]} of width {own[1]}; give a vector that was fitted on it"
            )
        decoder_layers(model)
        return Steering(self.steering.layer, (dose * self.steering.vector).astype(np.float32))


def written(saved: SavedSteering, path: Path) -> None:
    """Writes a vector as safetensors, its card in the header, and the card once more as Markdown beside it.

    Raises:
        UserError: where the files cannot be written.
    """
    from safetensors.numpy import save_file

    numbers = {"kind": KIND, "layer": str(saved.steering.layer), "depth": str(saved.depth)}
    vector = np.ascontiguousarray(saved.steering.vector, dtype=np.float32)
    temporary = path.with_suffix(".tmp")  # then renamed, so that no reader sees half a file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"vector": vector}, temporary, metadata=numbers | asdict(saved.card))
        temporary.replace(path)
        path.with_suffix(".md").write_text(_in_words(saved, path.name), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the steering vector is not saved") from None


def _in_words(saved: SavedSteering, name: str) -> str:
    """The card as a page."""
    card, length = saved.card, float(np.linalg.norm(saved.steering.vector))
    rows = {
        "model": f"{card.model} ({card.fingerprint or 'in memory'})",
        "added": f"after {saved.steering.layer} of {saved.depth} layers, from the first token after the answer on",
        "direction": f"{card.direction}, fitted at the place {card.place!r}",
        "dose of 1": f"{card.unit}; length {length:.4g} in {len(saved.steering.vector)} dimensions",
        "fitted on": f"{card.fitted_on}, asked in {card.format}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""# A {KIND}

| | |
| --- | --- |
{table}

Load it with `--steer {name} --steer-dose 1`, or from Python with `interp.load(model, steer="{name}", steer_dose=1)`.
The numbers that it gives on the questions that it was fitted on say nothing about others.
"""


def loaded(path: Path) -> SavedSteering:
    """The vector of a file.

    Raises:
        UserError: where the file is missing or holds no such vector.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as opened:
            told = opened.metadata() or {}
            vector = opened.get_tensor("vector") if told.get("kind") == KIND else None
    except (OSError, SafetensorError) as error:
        raise UserError(f"--steer {path}: {error}; give a steering.safetensors of python -m interp.steering") from None
    if vector is None or not _whole(vector, told):
        raise UserError(f"--steer {path}: holds no {KIND}; give a steering.safetensors of python -m interp.steering")
    card = Card(**{part.name: told[part.name] for part in fields(Card)})
    return SavedSteering(Steering(int(told["layer"]), vector.astype(np.float32)), int(told["depth"]), card)


def _whole(vector: np.ndarray, told: Mapping[str, str]) -> bool:
    """Whether the header names all that a vector needs, and the numbers are those of one."""
    if vector.ndim != 1 or not np.isfinite(vector).all() or not {part.name for part in fields(Card)} <= told.keys():
        return False
    layer, depth = (told.get(name, "") for name in ("layer", "depth"))
    return layer.isdecimal() and depth.isdecimal() and int(layer) <= int(depth)


def added_from(steering: Steering | None, positions: Sequence[int], begin: int) -> dict[int, Change]:
    """What steering does to the residual stream of prompts side by side, for `residual_changed`.

    Args:
        steering: what is added; None: nothing.
        positions: for each prompt the first of its tokens that is steered.
        begin: the number of the first token of this pass.

    Returns:
        The change by its layer.
    """
    if steering is None:
        return {}

    def add(stream: Tensor) -> Tensor:  # [prompts, tokens, width]
        numbers = torch.arange(begin, begin + stream.shape[1], device=stream.device)
        steered = numbers >= torch.tensor(positions, device=stream.device)[:, None]  # [prompts, tokens]
        return stream + steered[..., None] * torch.from_numpy(steering.vector).to(stream)

    return {steering.layer: add}


def steered_readings(
    reader: ConfidenceReader,
    transcripts: Sequence[Transcript],
    layer: int,
    vectors: Sequence[np.ndarray],
) -> list[list[Reading]]:
    """What is read of transcripts as they are, and with vectors added: all of a transcript in one tree.

                        ┌ tail ── levels      as it is
    question ── answer ─┼ tail ── levels      with the first vector added to each of these nodes
                        └ tail ── levels      with the second one

    Args:
        reader: reads the confidence; what it adds itself comes on top.
        transcripts: open at the confidence's slot.
        layer: how many layers the stream has passed where the vectors are added.
        vectors: for each transcript what is added to it, one after the other, [doses, width].

    Returns:
        For each transcript its reading as it is, then one with each of its vectors.
    """
    length = reader.prefix.shared_length([transcript.ids for transcript in transcripts])
    packs: list[Pack] = []
    count = 0  # readings so far
    for transcript, added in zip(transcripts, vectors, strict=True):
        tree, ids, spoken = TokenTree(), transcript.ids[length:], spoken_positions(transcript, length)
        start = transcript.positions("tail")[0] - length  # of the tail, in `ids`
        path, reads = tree.insert(ids), dict[int, int]()
        plans = [reader.plan_at(tree, path, transcript, reads, spoken)]
        for vector in added:
            first = len(tree.tokens)
            copied = (*path[:start], *tree.branch(ids[start:], path[start - 1]))
            plans.append(reader.plan_at(tree, copied, transcript, reads, spoken))
            tree.additions.append((layer, tuple(range(first, len(tree.tokens))), vector))
        packs.append(Pack(tree, list(range(count, count + len(plans))), list(reads), plans))
        count += len(plans)
    predictions = reader.prefix.logits(length, [pack.tree for pack in packs], [pack.reads for pack in packs])
    readings = reader.readings_of(packs, predictions)
    return [[readings[number] for number in pack.owners] for pack in packs]
