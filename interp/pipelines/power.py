"""How many questions, or relations, an interval of a wished width needs, from the estimate of a pilot run.

The module computes from finished estimates. It reads no records and asks no model."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from interp.intervals import FEWEST_RELATIONS, LEVEL, Bounds, Ends, Estimate

ShrinkName = Literal["mean", "median", "share", "pairs"]
"""How an interval's width shrinks, and how well a pilot knows it. mean: with one over the root of the count; the
pilot's variance has the interval of a chi-square. median: likewise, but the width comes from the gaps between the
values next to the median, which are few. share: as Wilson's interval does. pairs: of paired shares, likewise with one
over the root of the count; the pilot knows the spread from the pairs that changed."""


@dataclass(frozen=True)
class Needed:
    """How many questions, or relations, an interval of a wished width needs."""

    width: float
    """The width of the pilot's interval, in the number's unit; one that ends at a bound counts as if it did not."""
    wished: float
    """The wished width, in the same unit."""
    n: int
    """How many questions, or relations, the pilot has."""
    number: int
    """How many are needed, all of them: the pilot's own may be among them."""
    low: int | None
    """The lower end of the 95 % interval of `number`: the pilot knows its spread only so well. None: not known."""
    high: int | None
    """The upper end; likewise."""

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.wished > 0):
            raise ValueError(f"an interval is {self.width} wide and should be {self.wished}: neither may be 0")


def wilson_width(share: float, count: float, quantile: float) -> float:
    """The width of Wilson's (1927) interval of a share. count: of independent observations. quantile: of the normal."""
    squared = quantile**2 / count
    return 2 * math.sqrt(share * (1 - share) * squared + squared**2 / 4) / (1 + squared)


def wilson_count(share: float, width: float, quantile: float) -> float:
    """The count at which Wilson's interval of a share has this width; 0 where no interval is as wide.

    With s = quantile²/count and v = 4 share (1 - share), width² (1 + s)² = v s + s² is a quadratic equation for s. The
    width grows with s, from 0 to 1, so that one root is positive."""
    if width >= 1:
        return 0.0
    a, b, c = 1 - width**2, 4 * share * (1 - share) - 2 * width**2, -(width**2)
    squared = (-b + math.sqrt(b**2 - 4 * a * c)) / (2 * a)
    return quantile**2 / squared


def questions_needed(pilot: Estimate, shrinks: ShrinkName, wished: float) -> Needed | None:
    """How many questions of these relations give an interval of the wished width for these relations.

    Of a share of pairs the clustering of pairs within questions stays as it is in the pilot. Student's t makes the
    interval of a mean wider than that where fewer than about 20 questions are needed.

    Args:
        pilot: the estimate of a pilot run.
        shrinks: how its interval does.
        wished: the width, in the number's unit, above 0.

    Returns:
        None where the pilot has no interval, or one without a width, which tells nothing.
    """
    if pilot.value is None or pilot.low is None or pilot.high is None or pilot.high <= pilot.low:
        return None
    width = pilot.high - pilot.low
    if shrinks == "share":
        from scipy.stats import norm

        quantile = float(norm.ppf(LEVEL))
        questions_each = pilot.n / wilson_count(pilot.value, width, quantile)  # questions to an independent observation
        shares = [pilot.value, pilot.low, pilot.high, *([0.5] if pilot.low < 0.5 < pilot.high else [])]
        needed = [questions_each * wilson_count(min(1.0, max(0.0, p)), wished, quantile) for p in shares]
        number, low, high = needed[0], min(needed), max(needed)
    else:
        number = pilot.n * (width / wished) ** 2
        low, high = (number * ratio for ratio in _variance_ratios(pilot, width, shrinks))
    return Needed(width, wished, pilot.n, *(_whole(count, 2) for count in (number, low, high)))


def uncut(pilot: Estimate, bounds: Bounds) -> Estimate:
    """The pilot's estimate with intervals whose width tells the spread, where they end at the bounds of the number.

    An end at a bound is put as far from the value as the other one. bounds: the least and the largest value that the
    number can have."""

    def opened(value: float, low: float, high: float) -> tuple[float, float]:
        reach = max(value - low, high - value)
        return (value - reach if low <= bounds[0] else low), (value + reach if high >= bounds[1] else high)

    if pilot.value is None or pilot.low is None or pilot.high is None:
        return pilot
    low, high = opened(pilot.value, pilot.low, pilot.high)
    across = pilot.relations
    if across:
        across = Ends(*opened(pilot.value, across.low, across.high), across.n)
    return replace(pilot, low=low, high=high, relations=across)


def relations_needed(pilot: Estimate, shrinks: ShrinkName, wished: float) -> Needed | None:
    """How many relations give an interval of the wished width for relations like these.

    Their number decides, at as many questions per relation as in the pilot: the standard error shrinks with its root,
    and Student's t has one degree of freedom less. Of shares the effective number of questions grows with it.

    Args:
        pilot: the estimate of a pilot run.
        shrinks: how its interval does.
        wished: the width, in the number's unit, above 0.

    Returns:
        At least `FEWEST_RELATIONS`; None where the pilot has no interval for relations like these, or one without a
        width.
    """
    if pilot.value is None or pilot.relations is None or pilot.relations.high <= pilot.relations.low:
        return None
    groups, width = pilot.relations.n, pilot.relations.high - pilot.relations.low
    width_at = _means_width(groups, width) if shrinks != "share" else _shares_width(groups, width, pilot)
    number = _fewest(width_at, 1.0, wished)
    if shrinks == "share" and pilot.value in (0, 1):  # no relation differs from another: their spread is not known
        return Needed(width, wished, groups, number, None, None)
    low, high = (_fewest(width_at, ratio, wished) for ratio in _chi_square(groups - 1))
    return Needed(width, wished, groups, number, low, high)


WidthAt = Callable[[int, float], float]
"""(number of relations, true variance over the pilot's) -> the width of the interval for relations like these."""


def _means_width(groups: int, width: float) -> WidthAt:
    """What the pilot's `width` at `groups` relations becomes at other numbers of them."""
    error = width / (2 * _student(groups))

    def width_at(count: int, ratio: float) -> float:
        return 2 * _student(count) * error * math.sqrt(ratio * groups / count)

    return width_at


def _shares_width(groups: int, width: float, pilot: Estimate) -> WidthAt:
    """As `_means_width`, of a share: Wilson's width with the number of questions divided by the design effect."""
    share = pilot.value or 0.0
    effective = wilson_count(share, width, _student(groups))

    def width_at(count: int, ratio: float) -> float:
        # a design effect below 1 is not counted, as in the interval itself
        return wilson_width(share, min(effective / ratio, pilot.n) * count / groups, _student(count))

    return width_at


def _student(groups: int) -> float:
    """The quantile of Student's t that an interval over so many relations has."""
    from scipy.stats import t

    return float(t.ppf(LEVEL, groups - 1))


def _fewest(width_at: WidthAt, ratio: float, wished: float) -> int:
    """The smallest number of relations whose interval is at most `wished` wide; more relations make it narrower."""
    few, many = FEWEST_RELATIONS - 1, FEWEST_RELATIONS
    while width_at(many, ratio) > wished:
        few, many = many, 2 * many
    while many - few > 1:  # at `few` it is too wide, or nothing is said; at `many` it is not
        middle = (few + many) // 2
        few, many = (middle, many) if width_at(middle, ratio) > wished else (few, middle)
    return many


def _variance_ratios(pilot: Estimate, width: float, shrinks: ShrinkName) -> tuple[float, float]:
    """The ends of the 95 % interval of the true variance, over the pilot's."""
    from scipy.stats import norm

    quantile = float(norm.ppf(LEVEL))
    if shrinks == "median":
        # the interval spans quantile * sqrt(n) gaps between ordered values. Gaps are exponential, which is a chi-square
        # with two degrees of freedom, and their sum is a width, not a variance
        low, high = _chi_square(max(1, round(2 * quantile * math.sqrt(pilot.n))))
        return low**2, high**2
    if shrinks == "pairs":
        # a changed pair counts as one event of a Poisson process, which has two degrees of freedom
        spread = (pilot.n + 2) * (width / (2 * quantile)) ** 2  # as in the interval of Agresti and Min
        changed = pilot.n * (spread + (pilot.value or 0.0) ** 2)
        return _chi_square(min(pilot.n - 1, max(1, round(2 * changed))))
    return _chi_square(pilot.n - 1)


def _chi_square(freedom: int) -> tuple[float, float]:
    """The ends of the 95 % interval of a true variance over the one estimated with so many degrees of freedom."""
    from scipy.stats import chi2

    return float(freedom / chi2.ppf(LEVEL, freedom)), float(freedom / chi2.ppf(1 - LEVEL, freedom))


def _whole(count: float, least: int) -> int:
    """The next whole number; one that is missed by rounding alone is met."""
    return max(least, math.ceil(count * (1 - 1e-9)))
