"""The numerical floor: what the same transcript, read twice in different packings, differs by.

In exact arithmetic it would be 0. In bfloat16 it may be larger than what is measured; a number within it says nothing
at this precision. It is no noise floor of the model's, which is what other looks of the same answer do to it."""

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from interp.divergence import divergence
from interp.instruments.base import Metric, Repeated
from interp.records import Transcript
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.instruments.attribution import ScoreName
    from interp.models.readout import Reading
    from interp.models.setting import Case, Setting

TINY = 1e-300
"""In place of a probability of 0, so that it has a logarithm."""


def measured(setting: "Setting", cases: Sequence["Case"]) -> list[Record]:
    """One record for each case: its right answer's confidence read among others, and read alone."""
    transcripts = [setting.prompter.transcript(case.question, case.answer) for case in cases]
    together = setting.reader.readings(transcripts)
    return [_record(one, _alone(setting, text)) for one, text in zip(together, transcripts, strict=True)]


def _alone(setting: "Setting", transcript: Transcript) -> "Reading":
    """The reading where all up to the answer was read before it, in a pass of its own."""
    reader = copy.copy(setting.reader)
    reader.prefix = setting.prefix.extended(transcript.ids[: transcript.positions("answer")[0]])
    return reader.readings([transcript])[0]


def _record(one: "Reading", other: "Reading") -> Record:
    sides = (one.distribution, other.distribution)
    level = sides[0].stated
    stated = [math.log(max(side.probability[level] * (1 - side.off_scale), TINY)) for side in sides]
    values = {
        "jsd": divergence(*sides),
        "expected": sides[0].expected - sides[1].expected,
        "outside": sides[0].off_scale - sides[1].off_scale,
        "logprob": one.answer_logprob - other.answer_logprob,
        "stated": float(sides[0].stated != sides[1].stated),
        "stated_logprob": stated[0] - stated[1],
    }
    return {"readings": [list(side.probability) for side in sides], "values": values}


def of_score(records: Sequence[Record], score: "ScoreName") -> float:
    """The root mean square of what a score of the same answer differs by when it is read twice; 0 of no records.

    records: those of the measure "floor"."""
    if score == "expected":
        differences = [record["values"]["expected"] for record in records]
    else:
        differences = [record["values"]["stated_logprob"] for record in records]
    return float(np.sqrt(np.mean(np.square(differences)))) if differences else 0.0


SECTION = "Numerical floor: the same answer read twice"
READINGS = Repeated(
    name="floor",
    label="numerical floor",
    measure=measured,
    most=32,
    chunk=8,
    metrics=(
        Metric("floor.jsd", SECTION, "JSD, median (nats)", "nats", "jsd", np.median),
        Metric("floor.jsd_largest", SECTION, "JSD, largest (nats)", "nats", "jsd", np.max),
        Metric("floor.expected", SECTION, "expected confidence, mean difference", "confidence", "expected"),
        Metric(
            "floor.expected_largest",
            SECTION,
            "expected confidence, largest difference",
            "confidence",
            lambda values: abs(values["expected"]),
            np.max,
        ),
        Metric("floor.stated", SECTION, "another level is likeliest", "share", "stated", place="kept"),
        Metric("floor.outside", SECTION, "off-scale mass, mean difference", "share", "outside", place="kept"),
        Metric("floor.logprob", SECTION, "log-probability of the answer", "nats", "logprob", place="kept"),
    ),
)
"""Of a divergence the median, of a difference the signed mean; with the largest of each, and the share of answers whose
likeliest level is another."""
