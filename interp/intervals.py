"""A number with its 95 % interval, its count, and what was left out."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 2000

Statistic = Callable[..., np.ndarray]
"""A numpy reduction with an `axis` argument, such as np.mean or np.median."""


@dataclass(frozen=True)
class Estimate:
    """One number over questions."""

    value: float | None
    """The statistic; None where there was nothing to compute it from."""
    low: float | None
    """Lower end of the 95 % percentile bootstrap interval over questions; None below two questions."""
    high: float | None
    """Upper end of it."""
    n: int
    """How many questions it rests on."""
    left_out: int = 0
    """How many questions were asked but have no value here."""
    floor: float | None = None
    """The size up to which it could be a matter of how numbers are rounded; None where that was not measured."""

    @property
    def measurable(self) -> bool:
        """It is larger in size than its numerical floor, or has none."""
        return self.value is None or self.floor is None or abs(self.value) > self.floor

    def as_record(self) -> dict[str, float | int | None]:
        """Plain fields for summary.json; the floor only where there is one."""
        return {name: value for name, value in asdict(self).items() if name != "floor" or value is not None}


Value = float | int | tuple[float | int, ...] | None
"""What one question has: a number, several numbers that belong together, or nothing."""
Columns = dict[str, tuple[list[Value], Statistic]]
"""What a run's numbers are computed from: by the number's key, one value per question, and the statistic of them."""


def estimated(values: Sequence[Value], statistic: Statistic = np.mean, *, seed: int = 0) -> Estimate:
    """The statistic of one value per question, None marking a question that is left out, with its interval.

    Where a value is several numbers the statistic takes as many arrays, whose questions are resampled together."""
    there = _fields(v for v in values if v is not None and np.isfinite(v).all())
    left_out = len(values) - len(there[0])
    return estimated_jointly(there, lambda *x: statistic(*x, axis=-1), left_out=left_out, seed=seed)


def _fields(values: Iterable[Value]) -> list[np.ndarray]:
    """The first numbers of all values, the second ones, and so on; one array where a value is a number."""
    rows = np.array(list(values), dtype=float)
    return [rows] if rows.ndim == 1 else list(rows.T)


def share_of_sum(part: np.ndarray, whole: np.ndarray, axis: int = -1) -> np.ndarray:
    """The sum of the parts over the sum of the wholes; NaN where there is nothing of the whole.

    A share of things that come in clusters, a cluster to a question: its interval resamples the clusters (the ratio
    estimator; Cochran 1977, chapter 6), since two pairs of one question are no two observations."""
    parts, wholes = part.sum(axis=axis), whole.sum(axis=axis)
    share: np.ndarray = np.divide(parts, wholes, out=np.full(np.shape(parts), np.nan), where=wholes > 0)
    return share


def rank_correlation(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Spearman's rank correlation, in [-1, 1]; NaN where one of the two has no spread."""
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=axis) for values in (x, y)]
    apart = [rank - rank.mean(axis=axis, keepdims=True) for rank in ranks]
    spread = np.sqrt((apart[0] ** 2).sum(axis=axis) * (apart[1] ** 2).sum(axis=axis))
    product = (apart[0] * apart[1]).sum(axis=axis)
    found: np.ndarray = np.divide(product, spread, out=np.full(np.shape(product), np.nan), where=spread > 0)
    return found


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
    """statistic(after) less statistic(before) over the questions that have both; the pairs are resampled."""
    both = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    sides = [_fields(pair[i] for pair in both) for i in (0, 1)]
    count = len(sides[0])
    return estimated_jointly(
        [*sides[0], *sides[1]],
        lambda *x: statistic(*x[count:], axis=-1) - statistic(*x[:count], axis=-1),
        left_out=len(before) - len(both),
        seed=seed,
    )


def effect_size(estimate: Estimate) -> float | None:
    """A difference in units of its spread from question to question: value / (standard error sqrt(n)).

    The standard error is the interval's width over 2 * 1.96. Of a mean of paired differences it is Cohen's d_z (their
    mean over their standard deviation), and it says the same of a median, an error or an AUROC; None without spread."""
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
    """A statistic of several columns [questions], whose questions are resampled together.

    statistic: columns [..., questions] -> [...]; NaN where it is not defined, as with answers that are all right.
    Percentile bootstrap over questions (Efron 1979): the interval says how much other questions of the same kind would
    move the number, nothing about other prompts or other samples of the model."""
    from scipy.stats import DegenerateDataWarning, bootstrap

    count = len(columns[0])
    value = float(statistic(*columns)) if count else math.nan
    if math.isnan(value):
        return Estimate(None, None, None, 0, left_out + count)
    if count < 2:
        return Estimate(value, None, None, count, left_out)
    with warnings.catch_warnings():  # it warns of resamples where the statistic is not defined, as if BCa were asked
        warnings.simplefilter("ignore", DegenerateDataWarning)
        drawn = bootstrap(
            columns,
            lambda *drawn, axis: statistic(*drawn),
            n_resamples=resamples,
            method="percentile",
            vectorized=True,
            paired=True,
            batch=max(1, 2_000_000 // count),
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return Estimate(value, float(low), float(high), count, left_out)
