"""The numerical floor: what the same transcript, read twice in different packings, differs by.

In exact arithmetic it would be 0. In bfloat16 it may be larger than what is measured; a number within it says nothing
at this precision. It is no noise floor of the model's, which is what other looks of the same answer do to it."""

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from interp.instruments import rollout
from interp.instruments.jsd import divergence
from interp.intervals import Columns, Estimate, Value, estimated_columns
from interp.records import Transcript
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.instruments.attribution import ScoreName
    from interp.models.readout import Reading
    from interp.models.setting import Case, Setting

MOST, MOST_ROLLOUTS = 32, 8
"""How many right answers are read again, and how many rollouts: each of those is a prompt's whole pass."""
TINY = 1e-300
"""In place of a probability of 0, so that it has a logarithm."""
DIVERGENCES = r"jsd\.(?!.*(direction|outside|flagged|share|number|correlation))"
DIFFERENCES = r"jsd\.(.*\.)?direction\.mean|masking\..*\.drop|attribution\.\w+\.effect(_\w+)?"
"""Keys of numbers whose floor is a divergence, and of those whose floor is a difference of expected confidences."""


def measured(setting: "Setting", cases: Sequence["Case"]) -> list[Record]:
    """One record for each case: its right answer's confidence read among others, and read alone."""
    transcripts = [setting.prompter.transcript(case.question, case.answer) for case in cases]
    together = setting.reader.readings(transcripts)
    return [_record(one, _alone(setting, text)) for one, text in zip(together, transcripts, strict=True)]


def rollouts(setting: "Setting", cases: Sequence["Case"]) -> list[Record]:
    """One record for each case: every reading of its rollout among others, less the same where its prompt is alone and
    read in two passes."""
    together = rollout.measured(setting, cases)
    alone = [rollout.measured(setting, [case], passes=2)[0] for case in cases]
    return [
        {"values": {name: value - other["values"][name] for name, value in one["values"].items() if "null" not in name}}
        for one, other in zip(together, alone, strict=True)
    ]


def _alone(setting: "Setting", transcript: Transcript) -> "Reading":
    """The reading where all up to the answer was read before it, in a pass of its own."""
    reader = copy.copy(setting.reader)
    reader.prefix = setting.prefix.extended(transcript.ids[: transcript.positions("answer")[0]])
    return reader.readings([transcript])[0]


def _record(one: "Reading", other: "Reading") -> Record:
    sides = (one.distribution, other.distribution)
    level = sides[0].stated
    stated = [math.log(max(side.probability[level] * (1 - side.outside), TINY)) for side in sides]
    values = {
        "jsd": divergence(*sides),
        "expected": sides[0].expected - sides[1].expected,
        "outside": sides[0].outside - sides[1].outside,
        "logprob": one.answer_logprob - other.answer_logprob,
        "stated": float(sides[0].stated != sides[1].stated),
        "stated_logprob": stated[0] - stated[1],
    }
    return {"readings": [list(side.probability) for side in sides], "values": values}


def columns(records: Sequence[Record]) -> Columns:
    """The columns behind the floors, by their key in summary.json: of a divergence the median, of a difference the
    signed mean; with the largest of each, and the share of answers whose likeliest level is another."""

    def column(name: str, *, size: bool = False) -> list[Value]:
        return [abs(record["values"][name]) if size else record["values"][name] for record in records]

    found: Columns = {"floor.jsd": (column("jsd"), np.median), "floor.stated": (column("stated"), np.mean)}
    found |= {f"floor.{name}": (column(name), np.mean) for name in ("expected", "outside", "logprob")}
    return found | {f"floor.{name}_largest": (column(name, size=True), np.max) for name in ("jsd", "expected")}


def of_score(records: Sequence[Record], score: "ScoreName") -> float:
    """The root mean square of what a score of the same answer differs by when it is read twice; 0 of no records.

    records: those of the measure "floor"."""
    if score == "expected":
        differences = [record["values"]["expected"] for record in records]
    else:
        differences = [record["values"]["stated_logprob"] for record in records]
    return float(np.sqrt(np.mean(np.square(differences)))) if differences else 0.0


def floors_of(records: Sequence[Record]) -> dict[str, Estimate]:
    """The floors by their key in summary.json, from any records of a run; none where it has measured none."""
    ours = [record for record in records if record["measure"] == "floor"]
    flows = [record for record in records if record["measure"] == "rollout_floor"]
    found = columns(ours) if ours else {}
    found |= {f"floor.{key}": column for key, column in rollout.columns(flows).items()}
    return estimated_columns(found)


def with_floors(
    estimates: Mapping[str, Estimate], floors: Mapping[str, Estimate], *, score: str = "expected"
) -> dict[str, Estimate]:
    """The estimates, by their key in summary.json, each with the size of its floor where it has one.

    That is the larger end of the floor's interval: the mean of few signed differences may be 0 by chance. score: what
    was attributed; effects on another one than the expected confidence have no floor here."""
    bare = () if score == "expected" else tuple(key for key in estimates if key.startswith("attribution."))
    return {key: one if key in bare else replace(one, floor=_floor(key, floors)) for key, one in estimates.items()}


def _floor(key: str, floors: Mapping[str, Estimate]) -> float | None:
    name = "jsd" if re.match(DIVERGENCES, key) else "expected" if re.fullmatch(DIFFERENCES, key) else key
    floor = floors.get(f"floor.{name}")
    if floor is None or floor.value is None:
        return None
    return max(abs(end) for end in (floor.value, floor.low, floor.high) if end is not None)
