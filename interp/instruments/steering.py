"""Steering: does adding a direction to the residual stream move the stated confidence, and can it make it truer?

A direction of confidence is added from the first token after the answer on, in several doses, beside random directions
of the same length. In two stages, a probe of the stream sets the dose, so that the model says what a linear readout of
it knows. The module takes a setting and cases and returns records; how directions are fitted, `doses` knows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from interp.instruments.base import Instrument, Kept, Metric, Place, Values
from interp.instruments.doses import (
    PROBE_PLACE,
    Evidence,
    Steered,
    SteeringOptions,
    random_units,
    slope,
    steered,
    steering_layer,
)
from interp.instruments.probe import less, streams_of
from interp.instruments.streams import STREAMS
from interp.intervals import SIGNED, UNIT, Value
from interp.probes import within
from interp.records import PLACES
from interp.run.runs import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from peft import PeftModel
    from transformers import PreTrainedModel

    from figures.captions import Page, RunData
    from interp.models.readout import Reading
    from interp.models.setting import Case, Setting

FILE = "steering.safetensors"
"""The vector in the run's directory, fitted on all of its questions."""
RESPONSES_FILE = "steering_responses_{}.json"
"""The responses to the doses in the run's directory, by the number of the set of worked examples and wording."""
BROKEN = 0.5
"""Above this off-scale mass the format is broken: what is not a level is likelier than all levels together."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the measurement of every question needs."""

    layer: int
    """How many layers the stream has passed where vectors are added."""
    by_id: Mapping[str, Steered]
    """What is added to each question's stream, by its id."""


def prepared(setting: "Setting", cases: "Sequence[Case]", options: SteeringOptions, kept: Kept) -> Prepared:
    """What is added to each question's stream; writes the vector that is fitted on all questions into the run."""
    by_id = {record["id"]: record for record in kept.readings[STREAMS.name]}
    known = [case for case in cases if case.question.id in by_id]  # a dry run lacks some
    if not known:
        return Prepared(0, {})
    streams = streams_of(kept.folder, [by_id[case.question.id] for case in known])
    number = steering_layer(streams.layers, options.steer_layer)
    evidence = Evidence(
        streams.values[:, PLACES.index(PROBE_PLACE)],
        streams.values[:, PLACES.index(options.steer_place), number],
        streams.right,
        streams.expected,
        streams.relations,
    )
    layer = streams.layers[number]
    answered, file = [(case.question, case.answer) for case in known], kept.folder / RESPONSES_FILE.format(kept.number)
    added = steered(setting, answered, evidence, layer, options, file)
    if not kept.number:
        _save(setting, evidence, layer, streams.layers[-1], options, kept.folder)
    return Prepared(layer, dict(zip((case.question.id for case in known), added, strict=True)))


def _save(
    setting: "Setting", evidence: Evidence, layer: int, depth: int, options: SteeringOptions, folder: Path
) -> None:
    """Writes the vector that is fitted on all questions, where they give one."""
    from interp.models.residual import Steering
    from interp.models.steering import Card, SavedSteering, written

    count, right = len(evidence.right), int(evidence.right.sum())
    unit = evidence.unit(np.arange(count), options.direction)
    if unit is None:
        return
    relations = len(set(evidence.relations) - {""})
    card = Card(
        model=setting.checkpoint.name,
        fingerprint=setting.checkpoint.fingerprint,
        direction=options.direction,
        place=options.steer_place,
        unit="one standard deviation of the streams' projections on the direction",
        fitted_on=f"{count} questions of {relations} relations, {right} answered right",
        format=setting.prompter.confidence.name,
    )
    written(SavedSteering(Steering(layer, unit.astype(np.float32)), depth, card), folder / FILE)


def measured(setting: "Setting", cases: "Sequence[Case]", options: SteeringOptions, kept: Kept) -> list[Record]:
    """One record for each case: the confidence at every dose, along random directions, and as the probe sets it."""
    from interp.models.steering import steered_readings

    known: Prepared = kept.prepared
    doses = np.array(options.doses)
    added = [known.by_id.get(case.question.id, Steered(None, None, None, 0, 0)) for case in cases]
    transcripts = [setting.prompter.transcript(case.question, case.answer) for case in cases]
    width = setting.checkpoint.model.config.get_text_config().hidden_size
    drawn = random_units(width, options.random_directions, setting.seed)
    vectors = [_vectors(of_case, doses, drawn) for of_case in added]
    readings = steered_readings(setting.reader, transcripts, known.layer, vectors)
    return [
        {
            "layer": known.layer,
            "place": options.steer_place,
            "direction": options.direction,
            "doses": list(options.doses),
            "values": {
                "right": float(case.right),
                "group": float(of_case.group),
                **_values(of_case, row, doses, options.random_directions),
            },
        }
        for case, of_case, row in zip(cases, added, readings, strict=True)
    ]


def _vectors(added: Steered, doses: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """All that is added to a question, [vectors, width]: each dose, each dose of each random direction, the dose that
    the probe sets. Random directions have no dose of 0."""
    if added.unit is None:
        return np.zeros((0, drawn.shape[1]), dtype=np.float32)
    length = float(np.linalg.norm(added.unit))
    rows = [dose * added.unit for dose in doses]
    rows += [dose * length * direction for direction in drawn for dose in doses[doses != 0]]
    rows += [] if added.dose is None else [added.dose * added.unit]
    return np.array(rows, dtype=np.float32)


def _values(
    added: Steered, readings: "Sequence[Reading]", doses: np.ndarray, directions: int
) -> dict[str, float | None]:
    """The numbers of one question. readings: as it is, then with each of its `_vectors`."""
    count, zero = len(doses), int((doses < 0).sum())  # zero: the place of dose 0
    columns = {
        "expected": [reading.distribution.expected for reading in readings],
        "stated": [reading.distribution.values[reading.distribution.stated] for reading in readings],
        "outside": [reading.distribution.off_scale for reading in readings],
    }
    ends = None if added.dose is None else float(added.dose in (doses[0], doses[-1]))
    values: dict[str, float | None] = {"probe": added.probe, "dose": added.dose, "clipped": ends}
    for name, column in columns.items():
        values[f"unsteered.{name}"] = column[0]
        values[f"two_stage.{name}"] = column[-1] if added.dose is not None else None
        if added.unit is None:
            continue
        by_chance = np.reshape(column[1 + count : 1 + count + directions * (count - 1)], (directions, count - 1))
        rows = {"steered": np.array(column[1 : 1 + count])}
        rows |= {f"random.{number}": np.insert(row, zero, column[0]) for number, row in enumerate(by_chance)}
        for side, row in rows.items():
            values |= {f"{side}.{name}.{dose:g}": float(value) for dose, value in zip(doses, row, strict=True)}
            values |= {f"{side}.{name}.lowest": float(row[0]), f"{side}.{name}.highest": float(row[-1])}
            if name == "expected":
                values[f"{side}.slope"] = slope(doses, row)
    return values


def _change(end: str) -> Callable[[Values], Value]:
    """The change of a question's expected confidence from the unsteered one to that at a largest dose."""

    def change(values: Values) -> Value:
        steered = values.get(f"steered.expected.{end}")
        return None if steered is None else steered - values["unsteered.expected"]

    return change


def _of_random(values: Values, *names: str) -> list[float]:
    """The values of these names, of each random direction; a name stands behind the direction's number."""
    found, number = list[float](), 0
    while f"random.{number}.{names[0]}" in values:
        found += [values[f"random.{number}.{name}"] for name in names]
        number += 1
    return found


def _random_slopes(values: Values) -> Value:
    """The slope along each random direction."""
    return tuple(_of_random(values, "slope")) or None


def _all_slopes(values: Values) -> Value:
    """The slope along the direction, then that along each random one."""
    others = _of_random(values, "slope")
    return (values["steered.slope"], *others) if others else None


def _random_changes(values: Values) -> Value:
    """The change of the expected confidence at both largest doses, of each random direction."""
    ends = _of_random(values, "expected.lowest", "expected.highest")
    return tuple(end - values["unsteered.expected"] for end in ends) or None


def _outside(values: Values) -> Value:
    """The larger off-scale mass of the lowest and the highest dose."""
    ends = [values.get(f"steered.outside.{end}") for end in ("lowest", "highest")]
    return None if None in ends else max(end for end in ends if end is not None)


def _random_outside(values: Values) -> Value:
    """The same, averaged over random directions."""
    ends = np.reshape(_of_random(values, "outside.lowest", "outside.highest"), (-1, 2))
    return float(ends.max(1).mean()) if len(ends) else None


def _broken(values: Values) -> Value:
    """1 where the format is broken at a largest dose."""
    outside = _outside(values)
    return None if outside is None else float(np.max(outside) > BROKEN)


def mean_size(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean over random directions of the absolute value of their mean over questions: their signs mean nothing."""
    return np.asarray(np.mean([np.abs(column.mean(axis)) for column in columns], axis=0))


def beyond_random(steered: np.ndarray, *others: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean along the direction, less the `mean_size` along random ones."""
    return np.asarray(steered.mean(axis) - mean_size(*others, axis=axis))


def _scored(*names: str) -> Callable[[Values], Value]:
    """(first of the names, right, group, the other names) of a question; None where one of them is missing."""

    def scored(values: Values) -> Value:
        numbers = [values.get(name) for name in (names[0], "right", "group", *names[1:])]
        known = tuple(float(number) for number in numbers if number is not None)
        return known if len(known) == len(numbers) else None

    return scored


RESPONSE, LARGEST, OUTSIDE, TRUE, TRUER = (
    "Expected confidence for each dose of 1: slope",
    "Change of the expected confidence at the largest doses",
    "Off-scale mass",
    "Before and after steering by the probe: AUROC within relation",
    "Steering by the probe: difference of AUROCs",
)
SCORES = {
    "unsteered": ("unsteered.stated", "stated confidence, unsteered"),
    "two_stage": ("two_stage.stated", "stated confidence, steered as the probe sets it"),
    "unsteered_expected": ("unsteered.expected", "expected confidence, unsteered"),
    "two_stage_expected": ("two_stage.expected", "expected confidence, steered as the probe sets it"),
    "probe": ("probe", "the probe itself"),
}
"""By key: the value that is compared between right and wrong answers, and its words."""
SHOWN = {
    "steering.auroc.unsteered": "stated, unsteered",
    "steering.auroc.two_stage": "stated, steered",
    "steering.auroc.unsteered_expected": "expected, unsteered",
    "steering.auroc.two_stage_expected": "expected, steered",
    "steering.auroc.probe": "probe",
}
"""The AUROCs that the figure shows, by their keys, in few words."""
DIFFERENCES: tuple[tuple[str, str, str, Place], ...] = (
    ("two_stage", "unsteered", "stated confidence, steered less unsteered", "headline"),
    ("two_stage_expected", "unsteered_expected", "expected confidence, steered less unsteered", "listed"),
    ("two_stage", "probe", "stated confidence, steered, less the probe", "listed"),
    ("two_stage_expected", "probe", "expected confidence, steered, less the probe", "listed"),
)
METRICS = (
    Metric("steering.slope", RESPONSE, "along the direction", "confidence", "steered.slope", place="headline"),
    Metric(
        "steering.random_slope", RESPONSE, "along random directions, absolute", "confidence", _random_slopes, mean_size
    ),
    Metric(
        "steering.beyond_random",
        RESPONSE,
        "the direction less the random ones",
        "confidence",
        _all_slopes,
        beyond_random,
        place="headline",
    ),
    Metric("steering.highest", LARGEST, "highest dose", "confidence", _change("highest"), bounds=SIGNED),
    Metric("steering.lowest", LARGEST, "lowest dose", "confidence", _change("lowest"), bounds=SIGNED),
    Metric(
        "steering.random_change",
        LARGEST,
        "random directions, absolute",
        "confidence",
        _random_changes,
        mean_size,
        bounds=UNIT,
    ),
    Metric("steering.outside", OUTSIDE, "unsteered", "share", "unsteered.outside", bounds=UNIT),
    Metric("steering.steered_outside", OUTSIDE, "at the worse of the largest doses", "share", _outside, bounds=UNIT),
    Metric("steering.random_outside", OUTSIDE, "the same, random directions", "share", _random_outside, bounds=UNIT),
    Metric(
        "steering.broken",
        OUTSIDE,
        "questions in which it is above one half at a largest dose: the format is broken",
        "share",
        _broken,
        interval="wilson",
    ),
    *(
        Metric(f"steering.auroc.{key}", TRUE, words, "AUROC", _scored(name), within, needs=name, interval="logit")
        for key, (name, words) in SCORES.items()
    ),
    *(
        Metric(
            f"steering.{key}_less_{other}",
            TRUER,
            words,
            "AUROC",
            _scored(SCORES[key][0], SCORES[other][0]),
            less,
            place,
            needs="two_stage.stated",
            interval="delong",
        )
        for key, other, words, place in DIFFERENCES
    ),
    Metric(
        "steering.clipped",
        TRUER,
        "questions whose dose is a largest one: the probe asks for more",
        "share",
        "clipped",
        interval="wilson",
    ),
)


def check(model: "PreTrainedModel | PeftModel") -> None:
    """Raises UserError where the model names no list of layers that its residual stream passes."""
    from interp.models.residual import decoder_layers

    decoder_layers(model)


def pages(run: "RunData") -> "Iterator[Page]":
    """The figure of steering."""
    from figures.steering import steering_page

    yield steering_page(run, SHOWN)


def compared(before: "RunData", after: "RunData") -> "tuple[Figure, str]":
    """The responses to doses of both runs."""
    from figures.steering import compared_responses

    return compared_responses(before, after)


STEERING = Instrument(
    name="steering",
    about="How the confidence moves when a direction is added to the residual stream, and whether it gets truer.",
    metrics=METRICS,
    measure=measured,
    chunk=4,
    on_request=True,
    of_all_answers=True,
    needs=(STREAMS,),
    prepare=prepared,
    options=SteeringOptions,
    check=check,
    pages=pages,
    compared=compared,
)
