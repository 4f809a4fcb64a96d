"""How well stated confidences agree with what turned out right: arrays only, no model.

Every measure takes confidences [..., questions] in [0, 1] and which answers were right [..., questions], and reduces
the last axis, so that all resamples of a bootstrap are computed at once."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from interp.errors import UserError
from interp.intervals import RESAMPLES, Estimate, estimated_jointly

SMOOTH_RESAMPLES = 400
"""Resamples for the interval of the smooth calibration error, which takes longer than the others."""
SMOOTH_MESH = 256
SMOOTH_WIDTHS = np.concatenate([[0.0005], np.geomspace(0.002, 1, 72)])
"""Widths between which the smooth calibration error is sought; an error below the first is called that."""

Reduced = NDArray[np.floating] | np.floating
"""What is left when the last axis is reduced: one number for each row of a batch, or a single one."""

Rule = Callable[[Sequence[Fraction]], Int[np.ndarray, " questions"]]
"""Exact confidences -> the number of the bin that each belongs to."""


def exact(value: float) -> Fraction:
    """The value as the fraction that was meant: 0.7 as 7/10, a third as 1/3; other floats as they are.

    Stated confidences sit on the edges of bins, where a last bit would decide."""
    near = Fraction(value).limit_denominator(5000)
    return near if abs(float(near) - value) < 1e-12 else Fraction(value)


def equal_width(bins: int, *, closed: str) -> Rule:
    """Bins of equal width. closed "right": (0.1, 0.2], with 0 in the first; "left": [0.1, 0.2), with 1 in the last."""

    def rule(confidences: Sequence[Fraction]) -> Int[np.ndarray, " questions"]:
        if closed == "left":
            return np.array([min(int(c * bins), bins - 1) for c in confidences], dtype=int)
        return np.array([max(-int(-c * bins // 1) - 1, 0) for c in confidences], dtype=int)

    return rule


def equal_mass(bins: int) -> Rule:
    """Bins of equally many questions, equal confidences kept together: a group goes where its middle falls."""

    def rule(confidences: Sequence[Fraction]) -> Int[np.ndarray, " questions"]:
        if not confidences:
            return np.zeros(0, dtype=int)
        _, group, count = np.unique(np.array(confidences), return_inverse=True, return_counts=True)
        middle = 2 * np.cumsum(count) - count  # twice the middle, in questions, so that all is integer
        return (middle * bins // (2 * len(confidences)))[group]

    return rule


def by_level(confidences: Sequence[Fraction]) -> Int[np.ndarray, " questions"]:
    """Each confidence that occurs is a bin of its own: no bins at all where only levels can be stated."""
    return np.unique(np.array(confidences), return_inverse=True)[1] if confidences else np.zeros(0, dtype=int)


RULE_FORM = "levels, or a number of bins with its kind: 10-right, 15-right, 15-left, 10-mass"


def rule_named(name: str) -> Rule:
    """ "levels", or bins and kind as in "10-right". Well-known ones: 15-right is Guo et al. 2017 and torchmetrics'
    default, 10-left is what numpy's digitize and most plotting code does, 15-mass is adaptive calibration error.

    Errors: UserError for another name."""
    if name == "levels":
        return by_level
    said = re.fullmatch(r"([1-9]\d{0,3})-(right|left|mass)", name)
    if not said:
        raise UserError(f"--rule {name}: write {RULE_FORM}")
    return equal_mass(int(said[1])) if said[2] == "mass" else equal_width(int(said[1]), closed=said[2])


def over_questions(values: np.ndarray) -> Reduced:
    """Their mean over the last axis."""
    mean: Reduced = values.mean(-1)
    return mean


def _over_bins(bins: np.ndarray, of_bin: Callable[[np.ndarray], np.ndarray]) -> Reduced:
    """The sum over bins of what `of_bin` makes of the questions in one, for each question."""
    total, questions = np.zeros(bins.shape[:-1]), int(bins.shape[-1])
    for number in np.unique(bins):
        total += of_bin(bins == number)
    return total / questions


def calibration_error(
    confidence: Float[np.ndarray, "*batch questions"],
    right: Bool[np.ndarray, "*batch questions"],
    bins: Int[np.ndarray, "*batch questions"],
) -> Reduced:
    """Expected calibration error: the mean over questions of |accuracy - mean confidence| of the bin, in [0, 1]."""
    excess = right - confidence
    return _over_bins(bins, lambda there: np.abs(np.where(there, excess, 0).sum(-1)))


def net_calibration_error(
    confidence: Float[np.ndarray, "*batch questions"], right: Bool[np.ndarray, "*batch questions"]
) -> Reduced:
    """Accuracy minus mean confidence, in [-1, 1]; below 0: overconfident. The mass-weighted form, whatever the bins."""
    return over_questions(right - confidence)


def brier(confidence: Float[np.ndarray, "*batch questions"], right: Bool[np.ndarray, "*batch questions"]) -> Reduced:
    """Mean squared difference of confidence and outcome, in [0, 1]; lower is better. Brier 1950, two classes."""
    return over_questions((right - confidence) ** 2)


def reliability(
    confidence: Float[np.ndarray, "*batch questions"],
    right: Bool[np.ndarray, "*batch questions"],
    bins: Int[np.ndarray, "*batch questions"],
) -> Reduced:
    """The part of the Brier score that comes from bins whose confidence is not their accuracy. Murphy 1973.

    Brier = reliability - resolution + uncertainty, exactly where each bin holds one confidence."""
    excess = right - confidence
    return _over_bins(bins, lambda there: np.where(there, excess, 0).sum(-1) ** 2 / np.maximum(there.sum(-1), 1))


def resolution(right: Bool[np.ndarray, "*batch questions"], bins: Int[np.ndarray, "*batch questions"]) -> Reduced:
    """How far the bins' accuracies lie from the overall one, squared; what confidence knows. Murphy 1973."""
    overall = over_questions(right)
    return _over_bins(
        bins,
        lambda there: there.sum(-1) * ((there & right).sum(-1) / np.maximum(there.sum(-1), 1) - overall) ** 2,
    )


def uncertainty(right: Bool[np.ndarray, "*batch questions"]) -> Reduced:
    """Accuracy times error rate: the Brier score of always stating the accuracy."""
    accuracy = over_questions(right)
    return accuracy * (1 - accuracy)


def auroc(
    confidence: Float[np.ndarray, "*batch questions"],
    right: Bool[np.ndarray, "*batch questions"],
    group: Int[np.ndarray, "*batch questions"] | None = None,
) -> Reduced:
    """Probability that a right answer has a higher confidence than a wrong one, ties counting one half.

    group: only pairs within one group are compared, such as the questions of one relation, so that knowing which
    *kinds* of question are easy earns nothing. NaN where there is no pair to compare."""
    from scipy.stats import rankdata

    group = np.zeros(confidence.shape, dtype=int) if group is None else group
    rank = rankdata(confidence + 2.0 * group, axis=-1)  # groups lie two apart, so that ranks never mix them
    above, pairs, before = (np.zeros(confidence.shape[:-1]) for _ in range(3))
    for number in np.unique(group):
        there = group == number
        size, positive = there.sum(-1), (there & right).sum(-1)
        above += np.where(there & right, rank - before[..., None], 0).sum(-1) - positive * (positive + 1) / 2
        pairs += positive * (size - positive)
        before += size
    share = np.full(pairs.shape, np.nan)
    np.divide(above, pairs, out=share, where=pairs > 0)
    return share


def risk_coverage_area(
    confidence: Float[np.ndarray, "*batch questions"], right: Bool[np.ndarray, "*batch questions"]
) -> Reduced:
    """Mean error rate among the k most confident answers, over all k; lower is better. Geifman and El-Yaniv 2017.

    Equal confidences are taken in random order, in expectation: no order of the file can help or harm."""
    order = np.argsort(-confidence, axis=-1, kind="stable")
    sure = np.take_along_axis(confidence, order, -1)
    wrong = ~np.take_along_axis(right, order, -1)
    rows = np.atleast_2d(sure)
    fresh = np.diff(rows, axis=-1, prepend=np.inf) != 0
    tie = (np.cumsum(fresh.ravel()) - 1).reshape(rows.shape)
    rate = np.bincount(tie.ravel(), weights=np.atleast_2d(wrong).ravel()) / np.bincount(tie.ravel())
    risk = np.cumsum(rate[tie], -1) / np.arange(1, rows.shape[-1] + 1)
    return over_questions(risk).reshape(confidence.shape[:-1])


def smooth_calibration_error(
    confidence: Float[np.ndarray, "*batch questions"], right: Bool[np.ndarray, "*batch questions"]
) -> Reduced:
    """smECE, in [0, 1]: calibration error without bins, smoothed by a kernel as wide as the error that it finds.

    Blasiok and Nakkiran 2023: residuals seen through a Gaussian reflected at 0 and 1, integrated in size over [0, 1];
    the width is the one that equals the result."""
    shape, count = confidence.shape[:-1], confidence.shape[-1]
    values, place = np.unique(confidence, return_inverse=True)
    if len(values) > SMOOTH_MESH:  # many confidences of any size: to the nearest point of the mesh
        values, place = np.linspace(0, 1, SMOOTH_MESH), np.rint(confidence * (SMOOTH_MESH - 1)).astype(int)
    rows = place.reshape(-1, count) + len(values) * np.arange(max(1, confidence.size // count))[:, None]
    residual = np.bincount(rows.ravel(), (right - confidence).ravel(), rows.shape[0] * len(values)) / count
    residual = residual.reshape(-1, len(values))
    seen = np.stack([np.abs(residual @ _reflected_gaussian(values, width)).sum(-1) for width in SMOOTH_WIDTHS])
    return _crossing(seen - SMOOTH_WIDTHS[:, None]).reshape(shape)[()]


def _reflected_gaussian(values: Float[np.ndarray, " values"], width: float) -> Float[np.ndarray, "values mesh"]:
    """How much of each value is seen at each point of a mesh over [0, 1]; rows sum to 1."""
    mesh = (np.arange(SMOOTH_MESH) + 0.5) / SMOOTH_MESH
    images = np.concatenate([values + 2 * k for k in range(-3, 4)] + [2 * k - values for k in range(-3, 4)])
    seen = np.exp(-((mesh - images[:, None]) ** 2) / (2 * width**2)).reshape(14, len(values), SMOOTH_MESH).sum(0)
    shares: np.ndarray = seen / seen.sum(-1, keepdims=True)
    return shares


def _crossing(excess: Float[np.ndarray, "widths rows"]) -> Float[np.ndarray, " rows"]:
    """The width at which each row's falling excess is zero, between two widths by the secant."""
    after = np.clip((excess > 0).sum(0), 1, len(SMOOTH_WIDTHS) - 1)
    rows = np.arange(excess.shape[1])
    high, low = excess[after - 1, rows], excess[after, rows]
    share = np.clip(np.divide(high, high - low, out=np.zeros_like(high), where=high != low), 0, 1)
    width: np.ndarray = SMOOTH_WIDTHS[after - 1] + share * (SMOOTH_WIDTHS[after] - SMOOTH_WIDTHS[after - 1])
    return width


def lowest_possible(accuracy: float, values: Sequence[float]) -> float:
    """The calibration error below which no one with this accuracy can come who states these values only."""
    return max(0.0, accuracy - max(values), min(values) - accuracy)


@dataclass(frozen=True)
class Scored:
    """What was said about some questions, and what was right: a column of a calibration table before its measures."""

    confidence: tuple[float, ...]
    """Confidence in each answer, in [0, 1]."""
    right: tuple[bool, ...]
    """Whether it was right."""
    group: tuple[str, ...]
    """The relation or subject of each question; pairs are compared within one."""
    left_out: int = 0
    """Questions without a parsed answer and confidence."""

    def __len__(self) -> int:
        return len(self.confidence)

    def columns(self, rule: Rule) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(confidence, right, bins, levels, groups), each [questions]."""
        meant = [exact(c) for c in self.confidence]
        groups = np.unique(self.group, return_inverse=True)[1] if self.group else np.zeros(0, dtype=int)
        return np.array(self.confidence), np.array(self.right, dtype=bool), rule(meant), by_level(meant), groups


@dataclass(frozen=True)
class Measure:
    """One number of a calibration table."""

    title: str
    """What it is called at the head of a column."""
    of: Callable[..., Reduced]
    """(confidence, right, bins, levels, groups), each [..., questions] -> [...]."""
    place: Literal["headline", "listed", "kept"] = "listed"
    """headline: shown on the terminal and in the model card. listed: in the table's files. kept: in summary.json."""
    resamples: int = RESAMPLES
    """Resamples for its interval."""


MEASURES: dict[str, Measure] = {
    "accuracy": Measure("accuracy", lambda c, r, b, v, g: over_questions(r), "headline"),
    "confidence": Measure("confidence", lambda c, r, b, v, g: over_questions(c), "headline"),
    "ece": Measure("ECE", lambda c, r, b, v, g: calibration_error(c, r, b), "headline"),
    "ece_levels": Measure("ECE by level", lambda c, r, b, v, g: calibration_error(c, r, v)),
    "nce": Measure("NCE", lambda c, r, b, v, g: net_calibration_error(c, r), "headline"),
    "nce_abs": Measure("abs NCE", lambda c, r, b, v, g: np.abs(net_calibration_error(c, r)), "headline"),
    "brier": Measure("Brier", lambda c, r, b, v, g: brier(c, r), "headline"),
    "reliability": Measure("reliability", lambda c, r, b, v, g: reliability(c, r, v), "kept"),
    "resolution": Measure("resolution", lambda c, r, b, v, g: resolution(r, v), "kept"),
    "uncertainty": Measure("uncertainty", lambda c, r, b, v, g: uncertainty(r), "kept"),
    "auroc": Measure("AUROC", lambda c, r, b, v, g: auroc(c, r), "headline"),
    "auroc_within": Measure("AUROC within", lambda c, r, b, v, g: auroc(c, r, g), "headline"),
    "aurc": Measure("AURC", lambda c, r, b, v, g: risk_coverage_area(c, r)),
    "smooth_ece": Measure(
        "smooth ECE", lambda c, r, b, v, g: smooth_calibration_error(c, r), resamples=SMOOTH_RESAMPLES
    ),
}
"""The measures of a calibration table by their key in summary.json."""


def measures_of(scored: Scored, rule: Rule) -> dict[str, Estimate]:
    """Every measure with its 95 % interval over questions; `auroc_within` has none where no question has a group."""
    columns = scored.columns(rule)
    return {
        name: estimated_jointly(columns, measure.of, left_out=scored.left_out, resamples=measure.resamples)
        if name != "auroc_within" or any(scored.group)
        else Estimate(None, None, None, 0, scored.left_out + len(scored))
        for name, measure in MEASURES.items()
    }


def values_of(scored: Scored, rule: Rule) -> dict[str, float | None]:
    """Every measure without an interval; None where it is not defined."""
    columns = scored.columns(rule)
    found = {name: float(measure.of(*columns)) if len(scored) else math.nan for name, measure in MEASURES.items()}
    return {name: None if math.isnan(value) else value for name, value in found.items()}


def differences_of(one: Scored, other: Scored, rule: Rule) -> dict[str, Estimate]:
    """Each measure of `one` minus that of `other` on the same questions, in the same order, resampled together."""
    if len(one) != len(other):
        raise ValueError(f"{len(one)} and {len(other)} questions are not paired")
    first, second = one.columns(rule), other.columns(rule)
    found = {}
    for name, measure in MEASURES.items():

        def difference(*both: np.ndarray, of: Callable[..., Reduced] = measure.of) -> Reduced:
            return of(*both[: len(first)]) - of(*both[len(first) :])

        columns = (*first, *second)
        found[name] = estimated_jointly(columns, difference, left_out=one.left_out, resamples=measure.resamples)
    return found
