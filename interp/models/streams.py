"""The residual stream at the places where a confidence may be made, kept in files beside a run's records.

A probe is fitted on it again without a model. The module knows transcripts, places and files. It must not know what is
fitted, or which answers are right."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.models.residual import depth_of
from interp.models.tree import TokenTree, common_length
from interp.records import PLACES, PlaceName, Question, Transcript

if TYPE_CHECKING:
    from interp.models.setting import Setting

STEP = 3
"""Every so many layers the stream is kept."""
FOLDER = "streams"
"""The directory of the files, within that of the run."""
LARGE = 10**9
"""Models with as many parameters or more have their streams kept in half precision."""


def layers_kept(setting: "Setting") -> tuple[int, ...]:
    """How many layers the kept streams have passed: every third number, 0 (the embeddings) and the depth among them."""
    depth = depth_of(setting.checkpoint.model)
    return tuple(sorted({*range(0, depth, STEP), depth}))


def places_of(setting: "Setting", transcript: Transcript) -> tuple[tuple[int, ...], dict[PlaceName, int]]:
    """Where the places stand in a transcript that is open at the confidence's slot.

    Returns:
        The token ids of the transcript with the tokens that all levels begin with, and the position of each place.
        `read` is `colon` where the levels part directly after it.
    """
    levels = setting.reader.levels_of(transcript)
    ids = transcript.ids + levels[0][: min(common_length(levels), min(map(len, levels)) - 1)]
    tail = transcript.positions("tail")
    places: dict[PlaceName, int] = {
        "question": transcript.positions("question")[-1],
        "answer": transcript.positions("answer")[-1],
        "tail": tail[0],
        "colon": tail[-1],
        "read": len(ids) - 1,
    }
    return ids, places


@torch.no_grad()
def streams(setting: "Setting", answered: Sequence[tuple[Question, str]]) -> list[Tensor]:
    """The residual stream at every place, one tensor [places, layers, width] for each question with its answer.

    Layers are those of `layers_kept`; numbers are in the model's own precision."""
    placed = [places_of(setting, setting.prompter.transcript(question, answer)) for question, answer in answered]
    # a place may not lie in the shared prefix: the question's last token does not, since questions differ before it
    first = min(min(places.values()) for _, places in placed)
    length = min(setting.prefix.shared_length([ids for ids, _ in placed]), first)
    trees = [TokenTree() for _ in placed]
    paths = [tree.insert(ids[length:]) for tree, (ids, _) in zip(trees, placed, strict=True)]
    if steering := setting.reader.steering:  # what was steered is what is read
        for tree, path, (_, places) in zip(trees, paths, placed, strict=True):
            tree.additions.append((steering.layer, path[places["tail"] - length :], steering.vector))
    by_tree: dict[int, Tensor] = {}
    for i, stream in setting.prefix.residuals(length, trees, layers_kept(setting)):  # [layers, nodes, width]
        nodes = [paths[i][placed[i][1][place] - length] for place in PLACES]
        by_tree[i] = stream[:, nodes].transpose(0, 1).cpu()
    return [by_tree[i] for i in range(len(placed))]


def written(folder: Path, number: int, by_id: Mapping[str, Tensor], parameters: int) -> str:
    """Writes the streams of some questions into one file.

    Args:
        folder: the run's directory.
        number: that of the set of worked examples.
        by_id: the stream of each question by its id, [places, layers, width].
        parameters: how many the model has. From `LARGE` on streams are divided by their root mean square over the
            width and kept in half precision, with that scale beside them.

    Returns:
        The file's name within the run's directory.

    Raises:
        UserError: where the file cannot be written.
    """
    from safetensors.torch import save_file

    tensors = {}
    for identity, stream in by_id.items():
        exact = stream.float()
        if parameters >= LARGE:
            scale = exact.square().mean(-1, keepdim=True).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
            tensors[f"scale:{identity}"] = scale
            exact = (exact / scale).half()
        tensors[f"stream:{identity}"] = exact.contiguous()
    digest = hashlib.sha256("|".join([str(number), *by_id]).encode()).hexdigest()[:16]
    name = f"{FOLDER}/{number}-{digest}.safetensors"
    path = folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")  # then renamed, so that no reader sees half a file
        save_file(tensors, temporary)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; what was measured so far is kept") from None
    return name


def loaded(folder: Path, files: Mapping[str, str]) -> Float[np.ndarray, "questions places layers width"]:
    """The streams of some questions in float32, in the order given.

    Args:
        folder: the run's directory.
        files: by the question's id the name of its file, as `written` gave it.

    Raises:
        UserError: naming a file that is missing, or does not hold its question.
    """
    from safetensors import SafetensorError, safe_open

    by_id = {}
    for name in dict.fromkeys(files.values()):
        try:
            with safe_open(folder / name, framework="np") as opened:
                for identity in (identity for identity, file in files.items() if file == name):
                    stream = opened.get_tensor(f"stream:{identity}").astype(np.float32)
                    scaled = f"scale:{identity}" in opened.keys()  # noqa: SIM118
                    by_id[identity] = stream * opened.get_tensor(f"scale:{identity}") if scaled else stream
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{folder / name}: {error}; the streams of this run are not whole, so run it anew"
            ) from None
    return np.stack([by_id[identity] for identity in files])
