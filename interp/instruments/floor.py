"""The numerical floor: by how much two readings of the same transcript in different packings differ.

In exact arithmetic it would be 0. In bfloat16 it may be larger than the quantity of interest; a number within it says
nothing at this precision. It is not the noise floor, which is measured with surface-form variants of the answer."""

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from interp.divergence import divergence
from interp.instruments.base import Metric, Repeated
from interp.intervals import SIGNED
from interp.records import Transcript
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.measures import ScoreName
    from interp.models.readout import Reading
    from interp.models.setting import Case, Setting

TINY = 1e-300
"""Stands in for a probability of 0, which has no logarithm."""


def measured(setting: "Setting", cases: Sequence["Case"]) -> list[Record]:
    """One record for each case: the confidence in its right answer, read among others and read alone."""
    transcripts = [setting.prompter.transcript(case.question, case.answer) for case in cases]
    together = setting.reader.readings(transcripts)
    return [
        _record(reading, _alone(setting, transcript)) for reading, transcript in zip(together, transcripts, strict=True)
    ]


def _alone(setting: "Setting", transcript: Transcript) -> "Reading":
    """The reading where all tokens before the answer were read in an earlier pass of their own."""
    reader = copy.copy(setting.reader)
    reader.prefix = setting.prefix.extended(transcript.ids[: transcript.positions("answer")[0]])
    return reader.readings([transcript])[0]


def _record(together: "Reading", alone: "Reading") -> Record:
    """The differences between two readings of one answer, the first minus the second."""
    sides = (together.distribution, alone.distribution)
    level = sides[0].stated
    # probabilities are renormalised over the levels: times the mass on the scale they are the model's own
    stated = [math.log(max(side.probability[level] * (1 - side.off_scale), TINY)) for side in sides]
    values = {
        "jsd": divergence(*sides),
        "expected": sides[0].expected - sides[1].expected,
        "outside": sides[0].off_scale - sides[1].off_scale,
        "logprob": together.answer_logprob - alone.answer_logprob,
        "stated": float(sides[0].stated != sides[1].stated),
        "stated_logprob": stated[0] - stated[1],
    }
    return {"readings": [list(side.probability) for side in sides], "values": values}


def of_score(records: Sequence[Record], score: "ScoreName") -> float:
    """The root mean square difference between two readings of the same answer's score.

    Args:
        records: those of the measure "floor".
        score: which score.

    Returns:
        The root mean square in the score's units; 0 where there are no records.
    """
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
        Metric(
            "floor.expected", SECTION, "expected confidence, mean difference", "confidence", "expected", bounds=SIGNED
        ),
        Metric(
            "floor.expected_largest",
            SECTION,
            "expected confidence, largest difference",
            "confidence",
            lambda values: abs(values["expected"]),
            np.max,
        ),
        Metric(
            "floor.stated", SECTION, "another level is likeliest", "share", "stated", interval="wilson", place="kept"
        ),
        Metric(
            "floor.outside", SECTION, "off-scale mass, mean difference", "share", "outside", place="kept", bounds=SIGNED
        ),
        Metric("floor.logprob", SECTION, "log-probability of the answer", "nats", "logprob", place="kept"),
    ),
)
"""The median of divergences, the signed mean of differences, the largest of each, and the share of answers whose
likeliest level differs between the two readings."""
