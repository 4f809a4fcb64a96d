"""Intervals by hand, by other libraries and by their laws; how often they hold the truth is in test_coverage."""

import math

import numpy as np
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from interp.intervals import (
    NOT_NEGATIVE,
    SIGNED,
    UNIT,
    Estimate,
    difference,
    estimated,
    holm,
    jackknife,
    mcnemar,
    rank_correlation,
    share_of_sum,
    sign_flips,
)

reals = st.floats(-100, 100, allow_subnormal=False)


def by_a_slow_loop(values: list[float], statistic, resamples: int) -> tuple[float, float]:
    """The percentile bootstrap written out: draw as many with replacement, many times, and take the 2.5 % ends."""
    draw = np.random.default_rng(123)
    found = []
    for _ in range(resamples):
        drawn = [values[draw.integers(len(values))] for _ in values]
        found.append(float(statistic(drawn)))
    found.sort()
    return found[round(0.025 * resamples)], found[round(0.975 * resamples) - 1]


@pytest.mark.slow
@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_the_interval_agrees_with_the_bootstrap_written_out(statistic):
    values = np.random.default_rng(7).gamma(1.0, size=60).tolist()
    estimate = estimated(values, statistic)
    low, high = by_a_slow_loop(values, statistic, 4000)
    assert estimate.value == pytest.approx(statistic(values))
    within = 0.1 * (high - low)  # of the ends' own error from 2,000 draws, about three times
    assert estimate.low == pytest.approx(low, abs=within) and estimate.high == pytest.approx(high, abs=within)


def test_the_interval_of_a_mean_covers_it_about_95_times_in_100():
    draw = np.random.default_rng(11)
    trials = 200
    covered = [
        estimate.low <= 0.5 <= estimate.high
        for estimate in (estimated(draw.normal(0.5, 1.0, size=80).tolist(), seed=t) for t in range(trials))
    ]
    assert 0.90 <= np.mean(covered) <= 0.98  # 0.94 expected at n = 80, with a standard error of 0.017
    missed = [e.low <= 1.0 <= e.high for e in (estimated(draw.normal(0.5, 1.0, size=80).tolist()) for _ in range(20))]
    assert np.mean(missed) < 0.2, "the interval would cover anything"


def test_the_width_of_a_means_interval_is_that_of_the_normal_approximation():
    values = np.random.default_rng(3).normal(size=400)
    estimate = estimated(values.tolist())
    normal = 2 * 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert estimate.high - estimate.low == pytest.approx(normal, rel=0.06)


@given(st.lists(reals | st.none(), max_size=12))
@examples(30)
def test_every_question_is_counted_once_and_the_interval_holds_the_mean_of_equals(values):
    estimate = estimated(values)
    there = [v for v in values if v is not None]
    assert (estimate.n, estimate.left_out) == (len(there), len(values) - len(there))
    assert (estimate.value is None) == (not there)
    assert (estimate.low is None) == (estimate.high is None) == (len(there) < 2)
    if len(there) > 1:
        rounding = 1e-9 * max(1, *map(abs, there))
        assert estimate.low - rounding <= estimate.value <= estimate.high + rounding


def test_what_is_no_number_is_left_out_and_counted():
    assert estimated([None, float("nan"), float("inf"), 2.0, 4.0]).as_record()["left_out"] == 3
    assert estimated([None, float("nan"), float("inf"), 2.0, 4.0]).value == 3.0


def test_one_question_has_a_value_and_no_interval_and_none_has_neither():
    assert estimated([0.25, None]) == Estimate(0.25, None, None, 1, 1)
    assert estimated([None, None]) == Estimate(None, None, None, 0, 2)
    assert estimated([]) == Estimate(None, None, None, 0, 0)


def test_a_difference_is_after_less_before_of_the_questions_that_have_both_in_pairs():
    draw = np.random.default_rng(2)
    before = draw.normal(size=100)
    after = before + 0.5 + draw.normal(0, 0.01, size=100)
    change = difference([*before, None, 7.0], [*after, 3.0, None])
    assert change.value == pytest.approx((after - before).mean()) and (change.n, change.left_out) == (100, 2)
    assert 0.49 < change.low < change.high < 0.51, "questions differ by a hundred times as much as their pairs"


def test_equal_values_have_an_interval_of_no_width():
    assert estimated([0.3] * 5).as_record() == pytest.approx(
        {"value": 0.3, "low": 0.3, "high": 0.3, "n": 5, "left_out": 0}
    )


def test_a_bootstrap_is_that_of_its_seed():
    values = np.random.default_rng(0).normal(size=30).tolist()
    assert estimated(values, np.max, seed=1) == estimated(values, np.max, seed=1)
    assert estimated(values, seed=1) == estimated(values, seed=2), "nothing else is drawn"


def test_a_jackknife_in_parts_gives_what_one_part_gives(monkeypatch):
    values = np.random.default_rng(5).gamma(1, size=3000)
    estimate = estimated(values.tolist())
    assert len(values) ** 2 > 2_000_000, "one part would hold all"
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * error, rel=0.01)
    assert jackknife([values], lambda x: x.mean(-1)) == pytest.approx(values - values.mean(), abs=1e-9)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_share_is_scipys_wilson(case):
    from scipy.stats import binomtest

    right, count = case
    ends = binomtest(right, count).proportion_ci(method="wilson")
    estimate = estimated([1.0] * right + [0.0] * (count - right), np.mean, "wilson")
    if count > 1:
        assert (estimate.low, estimate.high) == pytest.approx((ends.low, ends.high), abs=1e-9)


def test_thirty_five_of_thirty_five_is_ninety_per_cent_at_least():
    estimate = estimated([1.0] * 35, np.mean, "wilson")
    assert (round(estimate.low, 2), estimate.high) == (0.90, 1.0)
    never = difference([0.0] * 35, [0.0] * 35, np.mean, "wilson")
    assert never.value == 0 and -0.1 < never.low < -0.03 and 0.03 < never.high < 0.1, "no pair differs, of 35"


def test_student_and_hall_by_hand():
    values = [1.0, 2.0, 4.0]  # mean 7/3, standard deviation 1.5275, t of 2 degrees of freedom 4.3027
    symmetric = estimated([1.0, 2.0, 3.0])
    assert (symmetric.low, symmetric.high) == pytest.approx(
        (2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)), abs=1e-4
    )
    skewed = estimated(values)
    assert skewed.high - skewed.value > skewed.value - skewed.low, "the long tail lies above"


def test_relations_like_these_have_t_of_the_relations_means():
    from scipy.stats import ttest_1samp

    draw = np.random.default_rng(1)
    means = draw.normal(0.5, 0.25, 6)
    values = (means[:, None] + draw.normal(0, 0.1, (6, 8))).ravel()
    groups = [f"relation {i}" for i in range(6) for _ in range(8)]
    estimate = estimated(values.tolist(), groups=groups)
    ends = ttest_1samp(values.reshape(6, 8).mean(1), 0).confidence_interval()
    assert (estimate.relations.low, estimate.relations.high) == pytest.approx((ends.low, ends.high), abs=1e-9)
    assert estimate.relations.n == 6
    assert estimate.high - estimate.low < 0.3 * (ends.high - ends.low), "these relations are known"
    assert estimate.low == pytest.approx(
        estimated((values - np.repeat(means, 8)).tolist(), groups=groups).low + means.mean()
    )
    few = estimated(values[:32].tolist(), groups=groups[:32])
    assert few.relations is None and few.low is not None, "nothing is said below five relations"
    assert estimated(values.tolist()).relations is None


def test_a_share_over_relations_counts_what_its_questions_are_worth():
    groups = [f"{i}" for i in range(8) for _ in range(10)]
    alike = estimated([float(i < 4) for i in range(8) for _ in range(10)], np.mean, "wilson", groups).relations
    mixed = estimated([float(j < 5) for _ in range(8) for j in range(10)], np.mean, "wilson", groups).relations
    assert alike.high - alike.low > 2 * (mixed.high - mixed.low)
    all_right = estimated([1.0] * 80, np.mean, "wilson", groups)
    assert all_right.relations.low < 0.7 < 0.95 < all_right.low, "eight relations, all of them right"


def clusters(draw: np.random.Generator, count: int) -> list[tuple[float, float]]:
    """Questions with 1 to 15 pairs each, all of which are alike: (how many are near zero, how many there are)."""
    sizes = draw.integers(1, 16, size=count)
    return [(float(size * near), float(size)) for size, near in zip(sizes, draw.random(count) < 0.6, strict=True)]


@pytest.mark.slow
def test_the_interval_of_a_share_of_clustered_pairs_covers_it_where_one_over_pairs_does_not():
    draw, trials = np.random.default_rng(4), 200
    covered, too_narrow = [], []
    for _ in range(trials):
        pairs = clusters(draw, 60)
        share = estimated(pairs, share_of_sum, "wilson")
        assert share.value == pytest.approx(sum(part for part, _ in pairs) / sum(whole for _, whole in pairs))
        covered.append(share.low <= 0.6 <= share.high)
        alone = estimated([float(i < part) for part, whole in pairs for i in range(int(whole))])
        too_narrow.append(alone.low <= 0.6 <= alone.high)
    assert 0.89 <= np.mean(covered) <= 0.98
    assert np.mean(too_narrow) < 0.7, "pairs of one question are no independent observations"


def test_numbers_that_belong_together_stay_together_and_are_compared_in_pairs():
    before = [(float(i), 2.0 * i) for i in range(1, 9)]
    assert estimated([*before, None], share_of_sum) == Estimate(0.5, 0.5, 0.5, 8, 1)
    after = [(1.5 * part, whole) for part, whole in before]
    change = difference([*before, None], [*after, (1.0, 1.0)], share_of_sum)
    assert (change.value, change.low, change.high, change.n, change.left_out) == pytest.approx((0.25, 0.25, 0.25, 8, 1))
    assert difference([None], [None], share_of_sum).value is None


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=20))
def test_a_rank_correlation_is_scipys(pairs):
    from scipy.stats import spearmanr

    x, y = np.array(pairs, dtype=float).T
    found = rank_correlation(x, y)
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert found == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
        assert rank_correlation(np.array([x, y]), np.array([y, y])) == pytest.approx(np.array([found, 1.0]))
    else:
        assert math.isnan(found)


@pytest.mark.parametrize("count", [8, 40])
def test_p_values_of_exchanged_sides_are_scipys(count):
    from scipy.stats import permutation_test

    draw = np.random.default_rng(count)
    before = draw.normal(size=count)
    after = before + draw.normal(0.3, 0.8, size=count)
    for statistic in (np.mean, np.median):
        theirs = permutation_test(
            (after, before),
            lambda a, b, axis, of=statistic: of(a, axis=axis) - of(b, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=10_000,
            rng=1,
        ).pvalue
        ours = sign_flips([*before.tolist(), None], [*after.tolist(), 1.0], statistic)
        assert ours == pytest.approx(theirs, abs=1e-12 if count == 8 else 0.015)
    assert sign_flips([None], [1.0]) is None and sign_flips([1.0] * 5, [1.0] * 5) == 1.0


def test_mcnemar_and_holm_worked_by_hand():
    before, after = [0, 0, 0, 0, 0, 1, 1, 0, None], [1, 1, 1, 1, 1, 0, 1, 0, 1]
    # five questions rose and one fell: 2 * (1 + 6) / 2^6
    assert mcnemar(before, after) == pytest.approx(14 / 64)
    assert mcnemar([1, 0], [1, 0]) == 1.0 and mcnemar([None], [1]) is None
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


def test_a_median_of_relations_that_differ_has_the_width_of_its_values():
    values = [0.1, 0.2, 0.3, 0.35, 0.6, 0.7, 0.8, 0.9] * 3
    groups = (["low"] * 4 + ["high"] * 4) * 3
    grouped = estimated(values, np.median, groups=groups)
    assert grouped.high - grouped.low > 0.2, "each relation lies on one side of the median"
    assert (grouped.low, grouped.high) == (estimated(values, np.median).low, estimated(values, np.median).high)
    assert estimated(values[:5], np.median).low is None, "five values cannot hold it in 95 %"


def test_relations_of_unequal_size_count_for_fewer():
    draw = np.random.default_rng(2)
    equal = [f"{i}" for i in range(6) for _ in range(8)]
    unequal = [f"{i}" for i, size in enumerate((12, 10, 9, 8, 6, 3)) for _ in range(size)]
    few = [f"{i}" for i, size in enumerate((30, 10, 4, 2, 1, 1)) for _ in range(size)]
    values = draw.normal(size=48).tolist()
    assert estimated(values, groups=equal).relations is not None
    assert estimated(values, groups=unequal).relations.n == 6
    assert estimated(values, groups=few).relations is None, "two relations hold most of the questions"
    unnamed = ["a", "b", "c", "d"] * 11 + [""] * 4
    assert estimated(values, groups=unnamed).relations is None, "questions without a relation are none"


def test_a_lone_question_of_a_relation_leaves_the_others_apart():
    draw = np.random.default_rng(3)
    means = np.repeat(np.linspace(0, 1, 6), 8)
    values, groups = (means + draw.normal(0, 0.05, 48)).tolist(), [f"{i}" for i in range(6) for _ in range(8)]
    with_one = estimated([*values, 0.5], groups=[*groups, "lone"])
    without = estimated(values, groups=groups)
    assert with_one.high - with_one.low < 5 * (without.high - without.low)


def test_what_has_no_spread_by_chance_has_an_interval_or_none():
    assert estimated([(1.0, 1.0), (2.0, 4.0), (3.0, 9.0)] * 4, rank_correlation, "fisher").low is None
    share = difference([0.5] * 20, [0.0] * 20, np.mean, "wilson")
    assert (share.low, share.high) == pytest.approx((-0.5, -0.5)), "halves are no zeros and ones"
    groups = [f"{i}" for i in range(5) for _ in range(2)]
    down = difference([1.0] * 9 + [0.0], [0.0] * 10, np.mean, "wilson", groups)
    assert -1 <= down.relations.low <= down.value <= down.relations.high <= 1
    assert difference([1.0, float("nan"), 2.0], [1.0, 2.0, 3.0]).left_out == 1
    assert sign_flips([1.0, float("nan"), 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(0.5)


def ends_of(estimate: Estimate) -> list[float]:
    across = estimate.relations
    return [estimate.low, estimate.high, *((across.low, across.high) if across else ())]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from("abcdefg")), min_size=2, max_size=30))
def test_intervals_end_at_the_bounds_hold_their_value_and_are_else_the_same(rows):
    values, others, groups = (list(column) for column in zip(*rows, strict=True))
    signed = [a - b for a, b in zip(values, others, strict=True)]
    for free, bounded, (least, most) in (
        (estimated(values, groups=groups), estimated(values, groups=groups, bounds=UNIT), (0, 1)),
        (estimated(signed, groups=groups), estimated(signed, groups=groups, bounds=SIGNED), (-1, 1)),
        (difference(others, values, groups=groups), difference(others, values, groups=groups, bounds=UNIT), (-1, 1)),
    ):
        assert (free.value, free.n, bounded.relations is None) == (bounded.value, bounded.n, free.relations is None)
        assert ends_of(bounded) == pytest.approx([min(most, max(least, end)) for end in ends_of(free)], abs=1e-12)
        lows, highs = ends_of(bounded)[::2], ends_of(bounded)[1::2]
        rounding = 1e-9
        assert max(lows) - rounding <= bounded.value <= min(highs) + rounding


def test_a_few_confidences_near_one_end_there():
    values = [1.0, 1.0, 0.9, 0.6]
    assert estimated(values).high > 1 and estimated(values, bounds=UNIT).high == 1
    assert estimated([0.0, 0.0, 0.0, 0.2], bounds=UNIT).low == 0 > estimated([0.0, 0.0, 0.0, 0.2]).low
    seconds = estimated([0.0, 0.0, 50.0], bounds=NOT_NEGATIVE)
    assert seconds.low == 0 and seconds.high > 50
    third = [1 / 3 * 3 + 2e-16] * 3  # a mean that rounding has put beyond the bound
    above = estimated(third, bounds=UNIT)
    assert above.value > 1 and above.low <= above.value <= above.high
    apart = difference([1.0, 1.0, 0.9], [0.0, 0.0, 0.6], bounds=UNIT)
    assert apart.low == -1 and -1 < apart.value < apart.high


def test_skewness_is_corrected_for_few_values_too():
    """Six of an exponential: the plain interval of Student's t misses their mean twice as often."""
    draw = np.random.default_rng(1)
    samples = draw.exponential(1, (600, 6))
    ours = [estimated(sample.tolist()) for sample in samples]
    reach = 2.5706 * samples.std(1, ddof=1) / math.sqrt(6)  # Student's t of five degrees of freedom
    plain = np.abs(samples.mean(1) - 1) <= reach
    assert np.mean([e.low <= 1 <= e.high for e in ours]) > plain.mean() + 0.03
    assert plain.mean() < 0.90
