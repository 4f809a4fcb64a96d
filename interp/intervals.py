"""A number with its 95 % interval, its count, and what was left out."""

import math
from collections.abc import Callable, Sequence
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

    def as_record(self) -> dict[str, float | int | None]:
        """Plain fields for summary.json."""
        return asdict(self)


def estimated(values: Sequence[float | int | None], statistic: Statistic = np.mean, *, seed: int = 0) -> Estimate:
    """The statistic of one value per question, None marking a question that is left out, with its interval.

    Percentile bootstrap over questions (Efron 1979): the interval says how much other questions of the same kind would
    move the number, nothing about other prompts or other samples of the model."""
    from scipy.stats import bootstrap

    there = np.array([v for v in values if v is not None and math.isfinite(v)], dtype=float)
    left_out = len(values) - len(there)
    if not len(there):
        return Estimate(None, None, None, 0, left_out)
    value = float(statistic(there, axis=-1))
    if len(there) < 2:
        return Estimate(value, None, None, 1, left_out)
    found = bootstrap(
        (there,),
        statistic,
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=True,
        batch=max(1, 2_000_000 // len(there)),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high), len(there), left_out)
