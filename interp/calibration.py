"""Calibration measures: how well stated confidences agree with which answers were right. Arrays only, no model.

Every measure takes confidences [..., questions] in [0, 1] and which answers were right [..., questions], and reduces
the last axis, so that all samples without one question, or of a simulation, are computed at once. Further arguments
have the same shape: `bins`, the number of each question's bin, and `group`, the number of its relation or subject."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import compress
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from interp.errors import UserError
from interp.intervals import (
    FEWEST_OF_A_CLASS,
    LEVEL,
    SIGNED,
    UNIT,
    Bounds,
    Ends,
    Estimate,
    IntervalName,
    Null,
    estimated_jointly,
    of_difference,
)
from interp.intervals import difference as paired_difference

NULLS, SMOOTH_NULLS = 2000, 400
"""How often a null is simulated; less often for the smooth calibration error, which takes longer."""
ONE_SIDED = 0.95
"""A calibration error is one where a calibrated speaker shows a smaller one in more than this share of simulations, and
a resolution is one where exchanged outcomes show a smaller one as often."""
SMOOTH_MESH = 256
"""Points of the mesh over [0, 1] on which the smooth calibration error is integrated."""
SMOOTH_WIDTHS = np.concatenate([[0.0005], np.geomspace(0.002, 1, 72)])
"""Kernel widths between which the smooth calibration error is sought."""

Reduced = NDArray[np.floating] | np.floating
"""The result of a measure: one number for each row of a batch, or a single one."""

Rule = Callable[[Sequence[Fraction]], Int[np.ndarray, " questions"]]
"""A rule for binning: exact confidences -> the number of the bin of each."""


def exact(value: float) -> Fraction:
    """The value as the fraction that was meant: 0.7 as 7/10, a third as 1/3; other floats as they are.

    Stated confidences lie on the edges of bins, where rounding in the last bit would decide the bin."""
    near = Fraction(value).limit_denominator(5000)
    return near if abs(float(near) - value) < 1e-12 else Fraction(value)


def equal_width(bins: int, *, closed: str) -> Rule:
    """Bins of equal width over [0, 1].

    Args:
        bins: how many there are.
        closed: the side on which a bin holds its edge. "right": (0.1, 0.2], with 0 in the first bin; "left":
            [0.1, 0.2), with 1 in the last bin.
    """

    def rule(confidences: Sequence[Fraction]) -> Int[np.ndarray, " questions"]:
        if closed == "left":
            return np.array([min(int(c * bins), bins - 1) for c in confidences], dtype=int)
        # -(-x // 1) is x rounded up: 0.2 of ten bins is 2, bin number 1
        return np.array([max(-int(-c * bins // 1) - 1, 0) for c in confidences], dtype=int)

    return rule


def equal_mass(bins: int) -> Rule:
    """Bins of about equally many questions. Equal confidences stay together, in the bin of their middle rank."""

    def rule(confidences: Sequence[Fraction]) -> Int[np.ndarray, " questions"]:
        if not confidences:
            return np.zeros(0, dtype=int)
        _, group, count = np.unique(np.array(confidences), return_inverse=True, return_counts=True)
        middle = 2 * np.cumsum(count) - count  # twice the middle, in questions, so that all is integer
        return (middle * bins // (2 * len(confidences)))[group]

    return rule


def by_level(confidences: Sequence[Fraction]) -> Int[np.ndarray, " questions"]:
    """A bin for each confidence that occurs: one for each level, where only levels can be stated."""
    return np.unique(np.array(confidences), return_inverse=True)[1] if confidences else np.zeros(0, dtype=int)


RULE_FORM = "levels, or a number of bins with its kind: 10-right, 15-right, 15-left, 10-mass"


def rule_named(name: str) -> Rule:
    """The rule of a name: "levels", or a number of bins with their kind as in "10-right".

    Well-known ones: 15-right is that of Guo et al. 2017 (torchmetrics closes bins on the left, with 1 in a bin of its
    own: none of these), 10-left is what numpy's digitize and
    most plotting code does, 15-mass is adaptive calibration error.

    Raises:
        UserError: for another name.
    """
    if name == "levels":
        return by_level
    parts = re.fullmatch(r"([1-9]\d{0,3})-(right|left|mass)", name)
    if not parts:
        raise UserError(f"--rule {name}: write {RULE_FORM}")
    return equal_mass(int(parts[1])) if parts[2] == "mass" else equal_width(int(parts[1]), closed=parts[2])


def over_questions(values: np.ndarray) -> Reduced:
    """The mean over the last axis."""
    mean: Reduced = values.mean(-1)
    return mean


def _sums(bins: np.ndarray, values: np.ndarray | float) -> np.ndarray:
    """The sum of the values in each bin, [..., bins]. bins: [..., questions]; values: likewise, or 1 to count."""
    rows, width = bins.reshape(-1, bins.shape[-1]), int(bins.max(initial=-1)) + 1
    places = rows + width * np.arange(len(rows))[:, None]  # each row has bins of its own: 0 1 1 | 2 3 3
    sums = np.bincount(places.ravel(), np.broadcast_to(values, bins.shape).ravel(), len(rows) * width)
    return sums.reshape(*bins.shape[:-1], width)


def _per_question(terms: np.ndarray, bins: np.ndarray) -> Reduced:
    """The sum over bins of what all questions of a bin add, over the number of questions. terms: [..., bins]."""
    mean: Reduced = terms.sum(-1) / bins.shape[-1]
    return mean


def calibration_error(
    confidence: Float[np.ndarray, "*batch questions"],
    right: Bool[np.ndarray, "*batch questions"],
    bins: Int[np.ndarray, "*batch questions"],
) -> Reduced:
    """Expected calibration error: the mean over questions of |accuracy - mean confidence| of the bin, in [0, 1]."""
    return _per_question(np.abs(_sums(bins, right - confidence)), bins)


def net_calibration_error(
    confidence: Float[np.ndarray, "*batch questions"], right: Bool[np.ndarray, "*batch questions"]
) -> Reduced:
    """Accuracy minus mean confidence, in [-1, 1]; below 0: overconfident. With bins weighted by their questions, the
    net calibration error is the same for every rule."""
    return over_questions(right - confidence)


def brier(confidence: Float[np.ndarray, "*batch questions"], right: Bool[np.ndarray, "*batch questions"]) -> Reduced:
    """Mean squared difference between confidence and outcome, in [0, 1]; lower is better. Brier 1950, two classes."""
    return over_questions((right - confidence) ** 2)


def reliability(
    confidence: Float[np.ndarray, "*batch questions"],
    right: Bool[np.ndarray, "*batch questions"],
    bins: Int[np.ndarray, "*batch questions"],
) -> Reduced:
    """The part of the Brier score that is due to bins whose mean confidence is not their accuracy; at least 0, lower is
    better. Murphy 1973.

    Brier = reliability - resolution + uncertainty; the equation is exact where each bin holds one confidence."""
    # of n questions in a bin: n (accuracy - mean confidence)^2 = (sum of excess)^2 / n
    return _per_question(_sums(bins, right - confidence) ** 2 / np.maximum(_sums(bins, 1.0), 1), bins)


def debiased_squared_error(
    confidence: Float[np.ndarray, "*batch questions"],
    right: Bool[np.ndarray, "*batch questions"],
    bins: Int[np.ndarray, "*batch questions"],
) -> Reduced:
    """The squared calibration error without the part that chance adds (Kumar, Liang and Ma 2019); below 0 by chance.

    In a bin, the mean product of two different questions' excess (outcome minus confidence) estimates the square of
    their mean excess without bias. Bins of a single question say nothing and are left out; NaN where all are."""
    excess = right - confidence
    size = _sums(bins, 1.0)  # [..., bins]
    pairs = _sums(bins, excess) ** 2 - _sums(bins, excess**2)  # twice the sum over pairs
    total = np.where(size > 1, pairs / np.maximum(size - 1, 1), 0).sum(-1)
    paired = np.where(size > 1, size, 0).sum(-1)
    error: np.ndarray = np.divide(total, paired, out=np.full(total.shape, np.nan), where=paired > 0)
    return error


def resolution(right: Bool[np.ndarray, "*batch questions"], bins: Int[np.ndarray, "*batch questions"]) -> Reduced:
    """Mean over questions of the squared difference between the bin's accuracy and the overall one. Murphy 1973.

    Higher is better: bins differ in accuracy, so that the confidence tells right answers from wrong ones. Chance makes
    bins differ, too, the more so the fewer questions they have: where each question has a bin of its own, the
    resolution is the uncertainty, whatever the confidence. Its null says how much of it chance makes."""
    size, overall = _sums(bins, 1.0), np.asarray(over_questions(right))[..., None]
    return _per_question(size * (_sums(bins, right) / np.maximum(size, 1) - overall) ** 2, bins)


def uncertainty(right: Bool[np.ndarray, "*batch questions"]) -> Reduced:
    """Accuracy times error rate: the Brier score of always stating the accuracy."""
    accuracy = over_questions(right)
    return accuracy * (1 - accuracy)


def auroc(
    confidence: Float[np.ndarray, "*batch questions"] | Int[np.ndarray, "*batch questions"],
    right: Bool[np.ndarray, "*batch questions"],
    group: Int[np.ndarray, "*batch questions"] | None = None,
) -> Reduced:
    """Probability that a right answer has a higher confidence than a wrong one, ties counting one half.

    Args:
        confidence: in [0, 1], or the number of its level, whose ties are exact.
        right: which answers were right.
        group: pairs are compared only within one group, such as the questions of one relation, so that it earns nothing
            to know which *kinds* of question are easy. None: all questions are one group.

    Returns:
        A number in [0, 1], 0.5 by chance; NaN where there is no pair to compare.
    """
    from scipy.stats import rankdata

    group = np.zeros(confidence.shape, dtype=int) if group is None else group
    rank = rankdata(confidence + (confidence.max() + 2.0) * group, axis=-1)  # groups lie apart: ranks never mix them
    # above: pairs whose right answer ranks higher. before: questions in earlier groups, whose ranks come first
    above, pairs, before = (np.zeros(confidence.shape[:-1]) for _ in range(3))
    for number in np.unique(group):
        members = group == number
        size, positive = members.sum(-1), (members & right).sum(-1)
        # Mann-Whitney: the ranks of the right answers less those that they would have among themselves
        above += np.where(members & right, rank - before[..., None], 0).sum(-1) - positive * (positive + 1) / 2
        pairs += positive * (size - positive)
        before += size
    share = np.full(pairs.shape, np.nan)
    np.divide(above, pairs, out=share, where=pairs > 0)
    return share


def risk_coverage_area(
    confidence: Float[np.ndarray, "*batch questions"] | Int[np.ndarray, "*batch questions"],
    right: Bool[np.ndarray, "*batch questions"],
) -> Reduced:
    """Mean over all k of the error rate among the k most confident answers, in [0, 1]; lower is better. Geifman and
    El-Yaniv 2017."""
    return over_questions(risk_by_coverage(confidence, right)).reshape(confidence.shape[:-1])


def risk_by_coverage(
    confidence: Float[np.ndarray, "*batch questions"] | Int[np.ndarray, "*batch questions"],
    right: Bool[np.ndarray, "*batch questions"],
) -> Float[np.ndarray, "rows questions"]:
    """The error rate among the k most confident answers for k = 1, 2, ..., in [0, 1].

    It is the expectation over random orders of equal confidences, so that the order of the file does not matter."""
    order = np.argsort(-confidence, axis=-1, kind="stable")
    falling = np.take_along_axis(confidence, order, -1)
    wrong = ~np.take_along_axis(right, order, -1)
    rows = np.atleast_2d(falling)  # [rows, questions]
    fresh = np.diff(rows, axis=-1, prepend=np.inf) != 0
    # the number of each question's tie, counted through all rows: 0.9 0.9 0.5 | 0.8 0.1 0.1 -> 0 0 1 | 2 3 3
    tie = (np.cumsum(fresh.ravel()) - 1).reshape(rows.shape)
    # a random order of a tie has at each of its places the tie's error rate
    rate = np.bincount(tie.ravel(), weights=np.atleast_2d(wrong).ravel()) / np.bincount(tie.ravel())
    risk: np.ndarray = np.cumsum(rate[tie], -1) / np.arange(1, rows.shape[-1] + 1)
    return risk


def smooth_calibration_error(
    confidence: Float[np.ndarray, "*batch questions"], right: Bool[np.ndarray, "*batch questions"]
) -> Reduced:
    """smECE (Blasiok and Nakkiran 2023), in [0, 1]: calibration error without bins.

    Residuals are smoothed with a Gaussian that is reflected at 0 and 1, and their absolute value is integrated over
    [0, 1]. The kernel's width is the one that equals the result; a result below the first of `SMOOTH_WIDTHS` is given
    as that width."""
    shape, count = confidence.shape[:-1], confidence.shape[-1]
    values, place = np.unique(confidence, return_inverse=True)
    if len(values) > SMOOTH_MESH:  # more confidences than points of the mesh: each moves to the nearest point
        values, place = np.linspace(0, 1, SMOOTH_MESH), np.rint(confidence * (SMOOTH_MESH - 1)).astype(int)
    # residuals are summed by row and value: row r and value number v make the bin r * len(values) + v
    rows = place.reshape(-1, count) + len(values) * np.arange(max(1, confidence.size // count))[:, None]
    residual = np.bincount(rows.ravel(), (right - confidence).ravel(), rows.shape[0] * len(values)) / count
    residual = residual.reshape(-1, len(values))  # [rows, values]
    # the error at each width, [widths, rows]
    errors = np.stack([np.abs(residual @ _reflected_gaussian(values, width)).sum(-1) for width in SMOOTH_WIDTHS])
    return _crossing(errors - SMOOTH_WIDTHS[:, None]).reshape(shape)[()]


def _reflected_gaussian(values: Float[np.ndarray, " values"], width: float) -> Float[np.ndarray, "values mesh"]:
    """The kernel's weight for each value at each point of a mesh over [0, 1]; rows sum to 1."""
    mesh = (np.arange(SMOOTH_MESH) + 0.5) / SMOOTH_MESH
    # reflection at 0 and 1 puts images at 2k + value and 2k - value: 7 values of k, 14 images of each value
    images = np.concatenate([values + 2 * k for k in range(-3, 4)] + [2 * k - values for k in range(-3, 4)])
    weights = np.exp(-((mesh - images[:, None]) ** 2) / (2 * width**2)).reshape(14, len(values), SMOOTH_MESH).sum(0)
    shares: np.ndarray = weights / weights.sum(-1, keepdims=True)
    return shares


def _crossing(excess: Float[np.ndarray, "widths rows"]) -> Float[np.ndarray, " rows"]:
    """The width at which each row's excess (error minus width), which falls with the width, is zero.

    Between two of `SMOOTH_WIDTHS` it is interpolated linearly."""
    after = np.clip((excess > 0).sum(0), 1, len(SMOOTH_WIDTHS) - 1)
    rows = np.arange(excess.shape[1])
    high, low = excess[after - 1, rows], excess[after, rows]
    share = np.clip(np.divide(high, high - low, out=np.zeros_like(high), where=high != low), 0, 1)
    width: np.ndarray = SMOOTH_WIDTHS[after - 1] + share * (SMOOTH_WIDTHS[after] - SMOOTH_WIDTHS[after - 1])
    return width


def lowest_possible(accuracy: float, values: Sequence[float]) -> float:
    """The lowest calibration error that is possible with this accuracy where confidences are these values, or means of
    them.

    accuracy and values are in [0, 1]; above 0 where the accuracy lies beyond all values."""
    return max(0.0, accuracy - max(values), min(values) - accuracy)


@dataclass(frozen=True)
class Scored:
    """Confidences in the answers to some questions, and which were right: what a row of the table is computed from."""

    confidence: tuple[float, ...]
    """Confidence in each answer, in [0, 1]."""
    right: tuple[bool, ...]
    """Whether each answer was right."""
    group: tuple[str, ...]
    """The relation or subject of each question; pairs are compared within one."""
    left_out: int = 0
    """Questions without a parsed answer and confidence."""
    fold: tuple[int, ...] = ()
    """The fold of each question, where confidences are cross-fitted; pairs are compared within one. Empty: no folds."""

    def __len__(self) -> int:
        return len(self.confidence)

    def columns(self, rule: Rule) -> tuple[np.ndarray, ...]:
        """(confidence, right, bins, levels, groups, folds, pairs), each [questions]: the arguments of `Measure.of`.

        rule: how the bins are made; levels are the bins of `by_level`. A group whose questions lie in several folds is
        one group in each of them. pairs: the bins in which questions are paired, the levels, or `bins` where most
        questions have a confidence of their own."""
        meant = [exact(c) for c in self.confidence]
        folds = np.array(self.fold or (0,) * len(self), dtype=int)
        groups = np.unique(self.group or ("",) * len(self), return_inverse=True)[1]
        groups = groups * (folds.max(initial=0) + 1) + folds
        bins, level = rule(meant), by_level(meant)
        pairs = level if 2 * len(np.unique(level)) <= len(self) else bins
        return np.array(self.confidence), np.array(self.right, dtype=bool), bins, level, groups, folds, pairs


Outcomes = Callable[[np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]
"""(confidence [questions], right [questions], how often, source of chance) -> right [simulations, questions]."""


def of_calibrated(
    confidence: np.ndarray, right: np.ndarray, count: int, generator: np.random.Generator
) -> Bool[np.ndarray, "simulations questions"]:
    """The outcomes of a calibrated speaker: answers are right as often as the confidences in them say."""
    outcomes: np.ndarray = generator.random((count, len(confidence))) < confidence
    return outcomes


def exchanged(
    confidence: np.ndarray, right: np.ndarray, count: int, generator: np.random.Generator
) -> Bool[np.ndarray, "simulations questions"]:
    """The outcomes in a random order: as many are right, and the confidence says nothing about which."""
    return generator.permuted(np.tile(right, (count, 1)), axis=1)


@dataclass(frozen=True)
class Measure:
    """One number of a calibration table."""

    title: str
    """The head of its column."""
    of: Callable[..., Reduced]
    """(confidence, right, bins, levels, groups, folds, pairs), each [..., questions] -> [...]. Levels are numbered in
    rising order of the exact confidence, so that their ranks have its ties."""
    place: Literal["headline", "listed", "kept"] = "listed"
    """headline: shown on the terminal and in the model card. listed: in the table's files. kept: in summary.json."""
    interval: IntervalName = "t"
    """How its interval is made."""
    bounds: Bounds = UNIT
    """The least and the largest value that it can have, where its intervals end."""
    null: int = 0
    """Of a number that is above zero by chance alone: how often it is simulated where nothing is to be found."""
    outcomes: Outcomes = of_calibrated
    """The outcomes of that simulation."""


QUARTER = (0.0, 0.25)
"""The bounds of a variance of right and wrong, and of its parts."""
MEASURES: dict[str, Measure] = {
    "accuracy": Measure("accuracy", lambda c, r, b, v, g, f, p: over_questions(r), "headline", "wilson"),
    "confidence": Measure("confidence", lambda c, r, b, v, g, f, p: over_questions(c), "headline"),
    "ece": Measure("ECE", lambda c, r, b, v, g, f, p: calibration_error(c, r, b), "headline", null=NULLS),
    "ece_levels": Measure("ECE by level", lambda c, r, b, v, g, f, p: calibration_error(c, r, v), null=NULLS),
    "squared_ce": Measure(
        "squared CE, debiased", lambda c, r, b, v, g, f, p: debiased_squared_error(c, r, p), bounds=SIGNED
    ),
    "nce": Measure("NCE", lambda c, r, b, v, g, f, p: net_calibration_error(c, r), "headline", bounds=SIGNED),
    "nce_abs": Measure("abs NCE", lambda c, r, b, v, g, f, p: np.abs(net_calibration_error(c, r)), "headline"),
    "brier": Measure("Brier", lambda c, r, b, v, g, f, p: brier(c, r), "headline"),
    "reliability": Measure("reliability", lambda c, r, b, v, g, f, p: reliability(c, r, v), "kept", null=NULLS),
    "resolution": Measure(
        "resolution", lambda c, r, b, v, g, f, p: resolution(r, v), "kept", "t", QUARTER, NULLS, exchanged
    ),
    "uncertainty": Measure("uncertainty", lambda c, r, b, v, g, f, p: uncertainty(r), "kept", bounds=QUARTER),
    "auroc": Measure("AUROC", lambda c, r, b, v, g, f, p: auroc(v, r, f), "headline", "logit"),
    "auroc_within": Measure("AUROC within", lambda c, r, b, v, g, f, p: auroc(v, r, g), "headline", "logit"),
    "aurc": Measure("AURC", lambda c, r, b, v, g, f, p: risk_coverage_area(v, r)),
    "smooth_ece": Measure("smooth ECE", lambda c, r, b, v, g, f, p: smooth_calibration_error(c, r), null=SMOOTH_NULLS),
}
"""The measures of a calibration table by their key in summary.json."""
OF_A_RELATION = ("accuracy", "confidence", "brier", "auroc")
"""The measures that are also given for each relation or subject by itself."""


def measures_of(scored: Scored, rule: Rule) -> dict[str, Estimate]:
    """Every measure with its 95 % intervals, by its key; `auroc_within` has no value where no question has a group.

    rule: how the bins are made."""
    measured = {name: measured_by(measure, scored, rule) for name, measure in MEASURES.items()}
    measured["nce_abs"] = _absolute(measured["nce"])
    if not any(scored.group):
        measured["auroc_within"] = Estimate(None, None, None, 0, scored.left_out + len(scored))
    return measured


def measures_of_relations(scored: Scored, rule: Rule, fewest: int) -> dict[str, dict[str, Estimate]]:
    """The measures of `OF_A_RELATION` for each relation or subject by itself, by its name and the measure's key.

    A relation with fewer answers than `fewest`, and answers of no relation, are passed over. rule: how the bins are
    made."""
    found = {}
    for name in sorted(set(scored.group) - {""}):
        kept = [group == name for group in scored.group]
        if sum(kept) >= fewest:
            part = replace(
                scored,
                confidence=tuple(compress(scored.confidence, kept)),
                right=tuple(compress(scored.right, kept)),
                group=tuple(compress(scored.group, kept)),
                left_out=0,
                fold=tuple(compress(scored.fold, kept)),
            )
            found[name] = {key: measured_by(MEASURES[key], part, rule) for key in OF_A_RELATION}
    return found


def measured_by(measure: Measure, scored: Scored, rule: Rule) -> Estimate:
    """One measure with its intervals and, where it has one, its null. rule: how the bins are made."""
    columns = scored.columns(rule)
    named = scored.group if any(scored.group) else ()
    estimate = estimated_jointly(
        columns, measure.of, measure.interval, named, left_out=scored.left_out, bounds=measure.bounds
    )
    if not measure.null or estimate.value is None:
        return estimate
    null = _null(measure, columns, estimate.value)
    # the lower end makes room for what chance adds to an error or a resolution that is 0, the null's median, and is 0
    # where that may be all of it
    return _lowered(replace(estimate, null=null), math.inf if null.p >= 1 - ONE_SIDED else null.value)


def _null(measure: Measure, columns: tuple[np.ndarray, ...], value: float) -> Null:
    """The measure where nothing is to be found: of a calibrated speaker, or of a confidence that tells nothing."""
    confidence, right, *others = columns
    outcomes = measure.outcomes(confidence, right, measure.null, np.random.default_rng(0))  # [simulations, questions]
    repeated = [np.broadcast_to(column, outcomes.shape) if len(column) else column for column in (confidence, *others)]
    drawn = np.asarray(measure.of(repeated[0], outcomes, *repeated[1:]))
    low, middle, high = np.quantile(drawn, (1 - LEVEL, 0.5, LEVEL))
    return Null(float(middle), float(low), float(high), float((1 + (drawn >= value - 1e-12).sum()) / (1 + len(drawn))))


def _lowered(estimate: Estimate, by: float) -> Estimate:
    """The estimate with the lower ends of its intervals moved down, to 0 at most."""
    relations = estimate.relations and replace(estimate.relations, low=max(0.0, estimate.relations.low - by))
    low = None if estimate.low is None else max(0.0, estimate.low - by)
    return replace(estimate, low=low, relations=relations)


def _absolute(estimate: Estimate) -> Estimate:
    """The absolute value of an estimate, whose intervals are folded at 0."""

    def folded(low: float, high: float) -> tuple[float, float]:
        return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))

    if estimate.value is None or estimate.low is None or estimate.high is None:
        return replace(estimate, value=estimate.value and abs(estimate.value))
    low, high = folded(estimate.low, estimate.high)
    across = estimate.relations and Ends(*folded(estimate.relations.low, estimate.relations.high), estimate.relations.n)
    return replace(estimate, value=abs(estimate.value), low=low, high=high, relations=across)


def values_of(scored: Scored, rule: Rule) -> dict[str, float | None]:
    """Every measure without an interval, by its key; None where it is not defined."""
    columns = scored.columns(rule)
    values = {name: float(measure.of(*columns)) if len(scored) else math.nan for name, measure in MEASURES.items()}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def differences_of(ones: Sequence[Scored], other: Scored, rule: Rule) -> dict[str, Estimate]:
    """The difference of each measure between two sides on the same questions, which belong together.

    Args:
        ones: the side that is subtracted from; several stand for seeds of one training, whose mean it is.
        other: the side that is subtracted. Each holds the same questions in the same order.
        rule: how the bins are made.

    Returns:
        The mean over `ones` minus `other` with its 95 % intervals, by the measure's key. Seeds are no further
        questions: the intervals are those of the questions and relations, for the mean of these seeds.

    Raises:
        ValueError: where the sides differ in their number of questions.
    """
    if len({len(side) for side in (*ones, other)}) > 1:
        raise ValueError(f"{' and '.join(str(len(side)) for side in (*ones, other))} questions are not paired")
    sides = [side.columns(rule) for side in (*ones, other)]
    width, named, left_out = len(sides[0]), other.group if any(other.group) else (), ones[0].left_out
    differences = {}
    for name, measure in MEASURES.items():

        def difference(*columns: np.ndarray, of: Callable[..., Reduced] = measure.of) -> Reduced:
            *values, subtracted = (of(*columns[i : i + width]) for i in range(0, len(columns), width))
            return sum(values) / len(values) - subtracted

        differences[name] = estimated_jointly(
            [column for side in sides for column in side],
            difference,
            "t",
            named,
            left_out=left_out,
            bounds=of_difference(measure.bounds),
        )
        if measure.interval == "logit" and min(map(_rarer, (*ones, other))) < FEWEST_OF_A_CLASS:
            differences[name] = replace(differences[name], low=None, high=None, relations=None)
    if len(ones) == 1:
        before, after = ([float(right) for right in side.right] for side in (other, ones[0]))
        accuracy = paired_difference(before, after, np.mean, "wilson", named)
        differences["accuracy"] = replace(accuracy, left_out=left_out)
    if not named:
        differences["auroc_within"] = Estimate(None, None, None, 0, left_out + len(other))
    return differences


def _rarer(scored: Scored) -> int:
    """How many answers the rarer class has, right or wrong."""
    right = sum(scored.right)
    return min(right, len(scored) - right)
