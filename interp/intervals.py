"""Estimates over questions: a number with its 95 % interval, its count, and how many questions were left out.

The module computes with arrays of numbers; it does not know what they measure."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 2000

Statistic = Callable[..., np.ndarray]
"""A reduction of one or more arrays with an `axis` argument, such as np.mean or np.median."""


@dataclass(frozen=True)
class Estimate:
    """One number over questions."""

    value: float | None
    """The statistic; None where there was nothing to compute it from."""
    low: float | None
    """Lower end of the 95 % percentile bootstrap interval over questions; None below two questions."""
    high: float | None
    """Upper end of the interval; None below two questions."""
    n: int
    """How many questions the statistic is computed from."""
    left_out: int = 0
    """How many questions were asked but have no value here."""
    floor: float | None = None
    """The numerical floor: the absolute value that rounding alone can produce. None where it was not measured."""

    @property
    def measurable(self) -> bool:
        """Whether the absolute value exceeds the numerical floor; true where there is no value or no floor."""
        return self.value is None or self.floor is None or abs(self.value) > self.floor

    def as_record(self) -> dict[str, float | int | None]:
        """The fields as plain JSON for summary.json, the floor only where there is one."""
        return {name: value for name, value in asdict(self).items() if name != "floor" or value is not None}


Value = float | int | tuple[float | int, ...] | None
"""The value of one question: a number, several numbers that belong together, or None."""
Columns = dict[str, tuple[list[Value], Statistic]]
"""The input of a run's numbers: for each number's key, one value per question and the statistic of these values."""


def estimated(values: Sequence[Value], statistic: Statistic = np.mean, *, seed: int = 0) -> Estimate:
    """The statistic of one value per question, with its interval.

    Args:
        values: one for each question. None, NaN and infinities mark a question that is left out.
        statistic: takes one array [..., questions]; where a value is several numbers, as many arrays, whose questions
            are resampled together.
        seed: the seed of the resampling.
    """
    columns = _fields(v for v in values if v is not None and np.isfinite(v).all())  # each [questions]
    left_out = len(values) - len(columns[0])
    return estimated_jointly(columns, lambda *x: statistic(*x, axis=-1), left_out=left_out, seed=seed)


def _fields(values: Iterable[Value]) -> list[np.ndarray]:
    """The first numbers of all values, the second ones, and so on, each [questions]; one array for plain numbers."""
    rows = np.array(list(values), dtype=float)
    return [rows] if rows.ndim == 1 else list(rows.T)


def share_of_sum(part: np.ndarray, whole: np.ndarray, axis: int = -1) -> np.ndarray:
    """The sum of the parts over the sum of the wholes; NaN where the wholes sum to 0.

    It estimates a share of things that come in clusters, one cluster to a question (the ratio estimator; Cochran 1977,
    chapter 6). The interval resamples clusters, since two pairs of one question are not independent observations.

    Args:
        part: per question, how many things are counted, [..., questions].
        whole: per question, how many things there are, likewise.
        axis: the axis of the questions.
    """
    parts, wholes = part.sum(axis=axis), whole.sum(axis=axis)
    share: np.ndarray = np.divide(parts, wholes, out=np.full(np.shape(parts), np.nan), where=wholes > 0)
    return share


def rank_correlation(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Spearman's rank correlation along an axis, in [-1, 1]; NaN where `x` or `y` has no spread."""
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=axis) for values in (x, y)]
    centred = [rank - rank.mean(axis=axis, keepdims=True) for rank in ranks]
    spread = np.sqrt((centred[0] ** 2).sum(axis=axis) * (centred[1] ** 2).sum(axis=axis))
    product = (centred[0] * centred[1]).sum(axis=axis)
    correlation: np.ndarray = np.divide(product, spread, out=np.full(np.shape(product), np.nan), where=spread > 0)
    return correlation


def estimated_columns(columns: Columns) -> dict[str, Estimate]:
    """Each column's statistic with its interval."""
    return {key: estimated(values, statistic) for key, (values, statistic) in columns.items()}


def difference(
    before: Sequence[Value],
    after: Sequence[Value],
    statistic: Statistic = np.mean,
    *,
    seed: int = 0,
) -> Estimate:
    """statistic(after) minus statistic(before), over the questions that have both; pairs are resampled.

    Args:
        before: one value per question; None where it has none.
        after: the same questions in the same order.
        statistic: as in `estimated`.
        seed: the seed of the resampling.
    """
    both = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    sides = [_fields(pair[i] for pair in both) for i in (0, 1)]
    count = len(sides[0])  # numbers in a value
    return estimated_jointly(
        [*sides[0], *sides[1]],
        lambda *x: statistic(*x[count:], axis=-1) - statistic(*x[:count], axis=-1),
        left_out=len(before) - len(both),
        seed=seed,
    )


def effect_size(estimate: Estimate) -> float | None:
    """A difference in units of its spread from question to question: value / (standard error sqrt(n)).

    The standard error is the interval's width over 2 * 1.96. For a mean of paired differences the result is Cohen's d_z
    (their mean over their standard deviation); it extends the same measure to a median, an error or an AUROC.

    Returns:
        None without a value or without spread.
    """
    if estimate.value is None or estimate.low is None or estimate.high is None or estimate.high <= estimate.low:
        return None
    return estimate.value * 2 * 1.96 / ((estimate.high - estimate.low) * math.sqrt(estimate.n))


def estimated_jointly(
    columns: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray | np.floating],
    *,
    left_out: int = 0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """A statistic of several columns, whose questions are resampled together.

    Percentile bootstrap over questions (Efron 1979). The interval says how much other questions of the same kind would
    move the number, and nothing about other prompts or other samples of the model.

    Args:
        columns: at least one array [questions], all of one length.
        statistic: columns [..., questions] -> [...]; NaN where it is not defined, as with answers that are all right.
        left_out: how many questions have no value here; copied into the estimate.
        resamples: how often the questions are resampled.
        seed: the seed of the resampling.
    """
    from scipy.stats import DegenerateDataWarning, bootstrap

    count = len(columns[0])
    value = float(statistic(*columns)) if count else math.nan
    if math.isnan(value):
        return Estimate(None, None, None, 0, left_out + count)
    if count < 2:
        return Estimate(value, None, None, count, left_out)
    with warnings.catch_warnings():  # scipy warns of resamples with an undefined statistic, which only BCa minds
        warnings.simplefilter("ignore", DegenerateDataWarning)
        drawn = bootstrap(
            columns,
            lambda *drawn, axis: statistic(*drawn),
            n_resamples=resamples,
            method="percentile",
            vectorized=True,
            paired=True,
            batch=max(1, 2_000_000 // count),  # bounds the memory: at most 2 million numbers a column at a time
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution  # [resamples]
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return Estimate(value, float(low), float(high), count, left_out)
