"""What probes and steering are fitted on: the residual stream of every answer, and what the model says after it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.instruments.base import Kept, Reading
from interp.records import PLACES
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.setting import Case, Setting


def measured(setting: "Setting", cases: Sequence["Case"], kept: Kept) -> list[Record]:
    """One record for each case: the file of its streams, whether it is right, and the confidence that is stated."""
    from interp.models.streams import layers_kept, streams, written

    answered = [(case.question, case.answer) for case in cases]
    by_id = {case.question.id: stream for case, stream in zip(cases, streams(setting, answered), strict=True)}
    model = setting.checkpoint.model
    file = written(kept.folder, kept.number, by_id, sum(weight.numel() for weight in model.parameters()))
    readings = setting.reader.readings([setting.prompter.transcript(*item) for item in answered])
    return [
        {
            "file": file,
            "places": list(PLACES),
            "layers": list(layers_kept(setting)),
            "relation": case.question.relation,
            "right": case.right,
            "stated": reading.distribution.values[reading.distribution.stated],
            "expected": reading.distribution.expected,
            "logprob": reading.answer_logprob,
        }
        for case, reading in zip(cases, readings, strict=True)
    ]


STREAMS = Reading(name="streams", label="residual stream", measure=measured)
