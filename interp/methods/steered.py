"""Steering as a cure without training: a probe of the residual stream sets how much confidence is added to it.

The direction of stated confidence, the probe and the response to doses are fitted on other relations of the same cell,
whose answers are known to be right or wrong; then every question is read once, with its own dose added after the
answer. The answer stays the model's own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from interp.datasets.grading import is_right
from interp.formats import ConfidenceFormat
from interp.instruments.doses import PROBE_PLACE, Evidence, Steered, SteeringOptions, steered, steering_layer
from interp.methods.base import Answered, Asking, Draws, Method, Put, Score, Verdict, expected, stated
from interp.methods.default import confidence_fields
from interp.methods.probe import packed, unpacked
from interp.probes import FOLDS
from interp.records import PLACES
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.setting import Setting

OPTIONS = SteeringOptions()
"""Direction, layer, place and doses are the instrument's by default."""


def kept(setting: "Setting", answered: Sequence[Answered], draws: Draws) -> list[Record]:
    """The streams that probe and direction are fitted on, and the unsteered confidence."""
    from interp.models.streams import layers_kept, streams

    both = [(item.question, item.answer) for item in answered]
    readings = setting.reader.readings([setting.prompter.transcript(*item) for item in both])
    layer = steering_layer(layers_kept(setting), OPTIONS.steer_layer)
    probed, directed = PLACES.index(PROBE_PLACE), PLACES.index(OPTIONS.steer_place)
    return [
        {
            "probed": packed(stream[probed].float().numpy()),
            "directed": packed(stream[directed, layer : layer + 1].float().numpy()),
            "expected": reading.distribution.expected,
        }
        for stream, reading in zip(streams(setting, both), readings, strict=True)
    ]


def prepared(setting: "Setting", answered: Sequence[Answered], records: Sequence[Record], draws: Draws) -> Put:
    """Fits all that is added, and gives what reads the confidences with it.

    records: of `kept`, in the order of `answered`."""
    from interp.models.streams import layers_kept

    layers = layers_kept(setting)
    layer = layers[steering_layer(layers, OPTIONS.steer_layer)]
    added: dict[str, Steered] = {}
    if len(answered) >= FOLDS:
        evidence = Evidence(
            np.stack([unpacked(record["probed"]) for record in records]),
            np.stack([unpacked(record["directed"])[0] for record in records]),
            np.array([is_right(item.question, item.answer) for item in answered]),
            np.array([record["expected"] for record in records], dtype=float),
            [item.question.relation for item in answered],
        )
        found = steered(setting, [(item.question, item.answer) for item in answered], evidence, layer, OPTIONS)
        added = dict(zip((item.question.id for item in answered), found, strict=True))

    def put(setting: "Setting", chunk: Sequence[Answered], draws: Draws) -> list[Record]:
        return _read(setting, chunk, [added.get(item.question.id) for item in chunk], layer)

    return put


def _read(
    setting: "Setting", answered: Sequence[Answered], added: Sequence[Steered | None], layer: int
) -> list[Record]:
    """The confidence in each answer with its dose added; as it is where nothing could be fitted, without a dose."""
    from interp.models.steering import steered_readings

    transcripts = [setting.prompter.transcript(item.question, item.answer) for item in answered]
    width = setting.checkpoint.model.config.get_text_config().hidden_size
    vectors = [
        np.zeros((0, width), dtype=np.float32)
        if each is None or each.unit is None or each.dose is None
        else (each.dose * each.unit[None]).astype(np.float32)
        for each in added
    ]
    readings = steered_readings(setting.reader, transcripts, layer, vectors)
    return [
        confidence_fields(setting, transcript, row[-1].distribution)
        | {
            "dose": each.dose if each and len(row) > 1 else None,
            "probe": each and each.probe,
            "fold": each and each.fold,
        }
        for transcript, each, row in zip(transcripts, added, readings, strict=True)
    ]


def alone(setting: "Setting", answered: Sequence[Answered], draws: Draws) -> list[Record]:
    """Both steps for these questions alone, which are then all that is fitted on."""
    return prepared(setting, answered, kept(setting, answered, draws), draws)(setting, answered, draws)


def _stated(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    """The value of the stated level with its fold; None where nothing could be fitted."""
    verdict = None if record["dose"] is None else stated(record, confidence, answer)
    return verdict and Verdict(verdict.answer, verdict.confidence, record["fold"])


def _expected(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    """The expected confidence, likewise."""
    verdict = None if record["dose"] is None else expected(record, confidence, answer)
    return verdict and Verdict(verdict.answer, verdict.confidence, record["fold"])


STREAMED = Asking(name="steering_stream", put=kept)
STEERED = Method(
    name="steered",
    about="The confidence while a probe, fitted on other relations, sets how much of it is added to the stream.",
    asking=Asking(name="steered", put=alone, needs=STREAMED, prepared=prepared),
    scores=(
        Score("steered", "steered", _stated, within_levels=True),
        Score("steered_expected", "steered, expected", _expected, within_levels=True),
    ),
)
