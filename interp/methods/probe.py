"""The probe: the probability that a linear readout of the residual stream gives the answer, and the model need not say.

It is fitted on other relations of the same cell, whose answers are known to be right or wrong, so that it belongs
beside recalibration and not beside what a model says of itself."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from interp.formats import ConfidenceFormat
from interp.methods.base import Answered, Asking, Draws, Method, Score, Verdict
from interp.probes import FOLDS, out_of_fold
from interp.records import PLACES, PlaceName
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.setting import Setting

PLACE: PlaceName = "answer"
"""Where the stream is read, fixed beforehand: the answer's last token."""


@dataclass(frozen=True, eq=False)
class Streamed(Verdict):
    """The answer to a question with its residual stream; its confidence is not known yet."""

    stream: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    """The stream at `PLACE`, [layers, width]."""


def kept(setting: "Setting", answered: Sequence[Answered], draws: Draws) -> list[Record]:
    """The residual stream at each answer's last token; the asking of the probe."""
    from interp.models.streams import streams

    place = PLACES.index(PLACE)
    read = streams(setting, [(item.question, item.answer) for item in answered])
    return [packed(stream[place].float().numpy()) for stream in read]


def packed(stream: Float[np.ndarray, "layers width"]) -> Record:
    """A stream as a record holds it: each layer's root mean square, and the rest in half precision as base64."""
    scale = np.maximum(np.sqrt((stream.astype(np.float64) ** 2).mean(1)), 1e-30)
    halves = (stream / scale[:, None]).astype("<f2")
    return {"scale": scale.tolist(), "stream": base64.b64encode(halves.tobytes()).decode("ascii")}


def unpacked(record: Record) -> Float[np.ndarray, "layers width"]:
    """The stream that `packed` has packed."""
    scale = np.array(record["scale"])
    halves = np.frombuffer(base64.b64decode(record["stream"]), dtype="<f2").reshape(len(scale), -1)
    stream: np.ndarray = halves.astype(np.float64) * scale[:, None]
    return stream


def _streamed(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    """The answer with its stream."""
    return None if answer is None else Streamed(answer, 0.5, stream=unpacked(record))


def _out_of_fold(verdicts: Sequence[Verdict], right: Sequence[bool], relations: Sequence[str]) -> list[Verdict | None]:
    """The verdicts with the probability of the probe that was fitted on other relations, and with their folds.

    None where there are fewer than `FOLDS`, or the other relations' answers are all right or all wrong. A verdict
    without a stream, of a reply that could not be parsed, stays as it is."""
    places = [i for i, verdict in enumerate(verdicts) if isinstance(verdict, Streamed)]
    fitted: list[Verdict | None] = list(verdicts)
    if len(places) < FOLDS:
        return [None if isinstance(verdict, Streamed) else verdict for verdict in verdicts]
    streams = np.stack([verdict.stream for verdict in verdicts if isinstance(verdict, Streamed)])
    result = out_of_fold(streams, np.array([right[i] for i in places]), [relations[i] for i in places])
    chances = 0.5 * (1 + np.tanh(result.scores / 2))
    for i, chance, fold in zip(places, chances.tolist(), result.fold.tolist(), strict=True):
        fitted[i] = None if np.isnan(chance) else Verdict(verdicts[i].answer, chance, fold)
    return fitted


PROBE = Method(
    name="probe",
    about="The probability of a linear probe of the residual stream, fitted on other relations.",
    asking=Asking(name="stream", put=kept),
    scores=(Score("probe", "probe", _streamed, speaks=False, fitted=_out_of_fold),),
)
