"""What steering adds to each question's stream: directions that were fitted on other relations, and their doses.

A dose of 1 is the standard deviation of the projections of the streams that the direction was fitted on. In two stages,
a probe reads whether the answer is right, and the dose is the one at which other relations are as confident as that."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

from interp.errors import UserError
from interp.plain import plain_json
from interp.probes import Kind, OutOfFold, cells, direction, out_of_fold
from interp.records import PlaceName

if TYPE_CHECKING:
    from interp.models.setting import Setting
    from interp.records import Question

RESPONSES = 96
"""On about so many readings the responses of all folds together are measured, on `FEWEST_RESPONSES` at least."""
FEWEST_RESPONSES = 6
"""On so many questions the response of a fold is measured, where it has as many."""
ROUNDING = 1e-6
"""Streams that vary by less, next to their largest number, do not vary."""
PROBE_PLACE: PlaceName = "answer"
"""Where the probe that sets the dose is read: where the probe's own instrument reads it by default."""


@dataclass(frozen=True, kw_only=True)
class SteeringOptions:
    """What only steering is asked."""

    steer_layer: int | None = None
    """After so many layers the vector is added: every third one is possible, and the depth. By default the one nearest
    to half the depth."""
    steer_place: PlaceName = "read"
    """Where the streams are taken that give the direction: the last token of the question or of the answer, the first
    token after the answer, the colon of "Confidence:", or the token after which the levels part."""
    direction: Kind = "stated"
    """stated: of rising confidence, by ridge regression. probe: of right answers, by logistic regression. means: from
    the mean of wrong answers to that of right ones, within relations."""
    doses: tuple[float, ...] = (-8.0, -4.0, 0.0, 4.0, 8.0)
    """How much is added, in standard deviations of the streams' projections on the direction."""
    random_directions: int = 4
    """So many random directions of the same length are added as a control."""

    def __post_init__(self) -> None:
        doses, words = np.array(self.doses, dtype=float), " ".join(f"{dose:g}" for dose in self.doses)
        if not np.isfinite(doses).all() or 0 not in doses or not doses.min() < 0 < doses.max():
            raise UserError(f"--doses {words}: must hold 0, a dose below it and one above")
        if len(set(self.doses)) < len(doses):
            raise UserError(f"--doses {words}: names a dose twice")
        if self.random_directions < 0:
            raise UserError(f"--random-directions {self.random_directions}: must be at least 0")
        object.__setattr__(self, "doses", tuple(sorted(self.doses)))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What directions and probes are fitted on: the streams of some questions, and what is known about each."""

    probed: Shaped[np.ndarray, "questions layers width"]
    """The streams at `PROBE_PLACE`."""
    directed: Shaped[np.ndarray, "questions width"]
    """The streams at the place and layer of the direction."""
    right: Shaped[np.ndarray, " questions"]
    """Whether each answer is right."""
    expected: Float[np.ndarray, " questions"]
    """The expected confidence in each answer."""
    relations: Sequence[str]
    """Each question's relation; "" where it has none."""

    def unit(self, questions: np.ndarray, kind: Kind) -> "Float[np.ndarray, ' width'] | None":
        """What a dose of 1 adds, fitted on some of the questions; None where they give no direction."""
        if len(questions) < 2:
            return None
        streams = self.directed[questions].astype(np.float64)
        target = self.expected if kind == "stated" else self.right
        found = direction(streams, target[questions], [self.relations[i] for i in questions], kind)
        if found is None:
            return None
        spread = float((streams @ found).std())
        # a stream that is the same for all questions, such as the embedding of one token, varies by rounding alone
        return spread * found if spread > ROUNDING * float(np.abs(streams).max()) else None


@dataclass(frozen=True, eq=False)
class Steered:
    """What is added to one question's stream."""

    unit: "Float[np.ndarray, ' width'] | None"
    """A dose of 1, fitted on other relations; None where they give no direction."""
    probe: float | None
    """The probability that the answer is right, by a probe that was fitted on other relations."""
    dose: float | None
    """The dose that the probe sets."""
    fold: int
    """The fold in which it was left out."""
    group: int
    """The number of its relation, within which answers are compared; of its fold, where there are no relations."""


def steering_layer(layers: Sequence[int], asked: int | None) -> int:
    """The place among the kept layers of the one at which vectors are added.

    Args:
        layers: how many layers the kept streams have passed; the last one is the depth.
        asked: the layer that was asked for; None: the one nearest to half the depth, the later of two.

    Raises:
        UserError: where its streams are not kept.
    """
    if asked is None:
        return min(range(len(layers)), key=lambda place: (abs(layers[place] - layers[-1] / 2), -place))
    if asked not in layers:
        raise UserError(f"--steer-layer {asked}: streams are kept after {', '.join(map(str, layers))} layers; name one")
    return list(layers).index(asked)


def matching_dose(chance: float, doses: Float[np.ndarray, " doses"], response: Float[np.ndarray, " doses"]) -> float:
    """The dose at which the mean expected confidence is a probability, between the doses by straight lines.

    Args:
        chance: the probability; beyond the response it gives the dose of its nearest end.
        doses: in rising order, 0 among them.
        response: the mean expected confidence at each dose; made to rise or to fall throughout, as its slope does.

    Returns:
        0 where the response does not move.
    """
    from sklearn.isotonic import IsotonicRegression

    rising = slope(doses, response) >= 0
    curve = IsotonicRegression(increasing=bool(rising)).fit_transform(doses, response)
    if not rising:
        doses, curve = doses[::-1], curve[::-1]
    return float(np.interp(chance, curve, doses)) if curve[-1] - curve[0] > 1e-9 else 0.0


def slope(doses: Float[np.ndarray, " doses"], confidences: Float[np.ndarray, " doses"]) -> float:
    """The least-squares slope of the confidence on the dose."""
    centred = doses - doses.mean()
    return float((centred * confidences).sum() / (centred**2).sum())


def random_units(width: int, count: int, seed: int) -> Float[np.ndarray, "directions width"]:
    """Random directions of length 1, the same for all questions."""
    drawn = np.random.default_rng(seed).normal(size=(count, width))
    units: np.ndarray = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return units


def steered(
    setting: "Setting",
    answered: "Sequence[tuple[Question, str]]",
    evidence: Evidence,
    layer: int,
    options: SteeringOptions,
    file: Path | None = None,
) -> list[Steered]:
    """What is added to each question's stream, fitted on other relations; without relations, on other folds.

    Args:
        setting: the model, which reads the responses to the doses.
        answered: the questions with their answers.
        evidence: their streams, and what is known about each, in the same order.
        layer: how many layers the stream has passed where vectors are added.
        options: which direction, and the doses.
        file: keeps the responses, which take minutes to read, for a run that is continued; None: nothing does.
    """
    found = out_of_fold(evidence.probed, evidence.right, evidence.relations)
    group, doses = cells(evidence.relations, found.fold), np.array(options.doses)
    units = [evidence.unit(train, options.direction) for train in found.trained]
    read = partial(_responses, setting, answered, found, units, layer, doses)
    responses = _kept_in(file, [question.id for question, _ in answered], read) if file else read()
    added = []
    for i, fold in enumerate(found.fold):
        response, score = responses[fold], found.scores[i]
        chance = float(0.5 * (1 + np.tanh(score / 2))) if np.isfinite(score) else None
        dose = None if chance is None or response is None else matching_dose(chance, doses, response)
        added.append(Steered(units[fold], chance, dose, int(fold), int(group[i])))
    return added


Responses = list[Float[np.ndarray, " doses"] | None]
"""For each fold the mean expected confidence at each dose; None where it has no direction."""


def _kept_in(file: Path, ids: Sequence[str], read: Callable[[], Responses]) -> Responses:
    """The responses that the file holds of these questions; else those that are read now, which it then holds.

    A dry run has read those of other questions."""
    try:
        known = plain_json(file.read_bytes())
        if known["questions"] == list(ids):
            return [None if row is None else np.array(row) for row in known["responses"]]
    except FileNotFoundError:
        pass
    responses = read()
    rows = [None if row is None else row.tolist() for row in responses]
    temporary = file.with_suffix(f".{os.getpid()}.tmp")  # then renamed, so that no process reads half a file
    temporary.write_text(json.dumps({"questions": list(ids), "responses": rows}), encoding="utf-8")
    temporary.replace(file)
    return responses


def _responses(
    setting: "Setting",
    answered: "Sequence[tuple[Question, str]]",
    found: OutOfFold,
    units: "Sequence[Float[np.ndarray, ' width'] | None]",
    layer: int,
    doses: Float[np.ndarray, " doses"],
) -> Responses:
    """For each fold the mean expected confidence at each dose over some of the questions outside of it."""
    from interp.models.steering import steered_readings

    most, responses = max(FEWEST_RESPONSES, RESPONSES // max(1, len(units))), list[np.ndarray | None]()
    for train, unit in zip(found.trained, units, strict=True):
        if unit is None:
            responses.append(None)
            continue
        chosen = train[np.unique(np.linspace(0, len(train) - 1, most).astype(int))]
        transcripts = [setting.prompter.transcript(*answered[i]) for i in chosen]
        vectors = (doses[doses != 0, None] * unit).astype(np.float32)
        readings = steered_readings(setting.reader, transcripts, layer, [vectors] * len(transcripts))
        expected = np.array([[reading.distribution.expected for reading in row] for row in readings]).mean(0)
        responses.append(np.insert(expected[1:], int((doses < 0).sum()), expected[0]))  # the first is as it is: dose 0
    return responses
