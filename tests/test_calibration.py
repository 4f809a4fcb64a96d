"""Calibration: each measure against a second definition on any input, and the traps that stated confidences set."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import examples
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import t
from sklearn.metrics import brier_score_loss, roc_auc_score

from interp.calibration import (
    MEASURES,
    OF_A_RELATION,
    Scored,
    auroc,
    brier,
    by_level,
    calibration_error,
    debiased_squared_error,
    differences_of,
    equal_mass,
    equal_width,
    exact,
    lowest_possible,
    measured_by,
    measures_of,
    measures_of_relations,
    net_calibration_error,
    reliability,
    resolution,
    risk_coverage_area,
    rule_named,
    smooth_calibration_error,
    uncertainty,
)
from interp.errors import UserError
from interp.formats import FORMATS

SCALES = [form.values for form in FORMATS.values()]
levels = st.sampled_from(SCALES).flatmap(st.sampled_from)
anything = st.one_of(levels, st.sampled_from([0.0, 1.0, 0.1 + 0.2]), st.floats(0, 1))
said = st.lists(st.tuples(anything, st.booleans(), st.integers(0, 3)), min_size=1, max_size=40)


def columns(rows):
    confidence, right, group = zip(*rows, strict=True)
    return np.array(confidence), np.array(right), np.array(group)


def slow_error(confidence, right, bin_of) -> float:
    """Calibration error in exact arithmetic, one bin after the other."""
    bins: dict = {}
    for c, r in zip(map(exact, confidence), right, strict=True):
        bins.setdefault(bin_of(c), []).append((c, int(r)))
    gaps = [abs(sum(r for _, r in one) - sum(c for c, _ in one)) for one in bins.values()]
    return float(sum(gaps) / len(confidence))


# Bins


@pytest.mark.parametrize(
    ("value", "right", "left"),
    [(0.0, 0, 0), (0.1, 0, 1), (0.3, 2, 3), (0.7, 6, 7), (0.1 + 0.2, 2, 3), (0.85, 8, 8), (0.9, 8, 9), (1.0, 9, 9)],
)
def test_a_confidence_on_an_edge_falls_where_the_rule_says(value, right, left):
    assert equal_width(10, closed="right")([exact(value)]) == [right]
    assert equal_width(10, closed="left")([exact(value)]) == [left]


def test_the_levels_of_every_format_are_the_fractions_that_they_mean():
    assert [exact(v) for v in FORMATS["ScoreNumber"].values] == [Fraction(i, 9) for i in range(10)]
    assert [exact(v) for v in FORMATS["ScorePercent"].values] == [Fraction(i, 100) for i in range(101)]
    assert [exact(v) for v in FORMATS["ScoreLetter"].values] == [Fraction(i, 10) for i in (1, 3, 5, 7, 9)]
    assert exact(sum([7 / 9] * 3) / 5) == Fraction(21, 45), "a sum of levels over five samples"
    assert exact(0.123456789) == Fraction(0.123456789)


def test_the_side_on_which_bins_are_closed_alone_changes_the_number():
    rows = [(0.9, i < 12) for i in range(12)] + [(0.8, i < 6) for i in range(10)]
    confidence, right = (np.array(column) for column in zip(*rows, strict=True))
    one, other = (
        calibration_error(confidence, right, rule_named(n)([exact(c) for c in confidence]))
        for n in ("10-right", "5-right")
    )
    assert one == pytest.approx((12 * 0.1 + 2) / 22) and other == pytest.approx((12 * 0.1 + 2) / 22)
    merged = calibration_error(confidence, right, rule_named("5-left")([exact(c) for c in confidence]))
    assert merged == pytest.approx(abs(12 * 0.1 - 2) / 22)


@given(said, st.integers(1, 20), st.sampled_from(["left", "right"]))
def test_equal_width_bins_are_those_of_exact_arithmetic(rows, count, closed):
    confidence, right, _ = columns(rows)
    edges = [Fraction(i, count) for i in range(count + 1)]

    def bin_of(c):
        for i in range(count):
            low, high = edges[i], edges[i + 1]
            if (low <= c < high or c == high == 1) if closed == "left" else (low < c <= high or c == low == 0):
                return i

    bins = equal_width(count, closed=closed)([exact(c) for c in confidence])
    assert bins.tolist() == [bin_of(exact(c)) for c in confidence]
    assert calibration_error(confidence, right, bins) == pytest.approx(slow_error(confidence, right, bin_of), abs=1e-12)


@given(st.lists(anything, min_size=1, max_size=60), st.integers(1, 20))
def test_equal_mass_bins_keep_ties_together_and_rise_with_confidence(confidence, count):
    bins = equal_mass(count)([exact(c) for c in confidence])
    assert bins.min() >= 0 and bins.max() < count
    for (c, b), (d, e) in itertools.combinations(zip(confidence, bins, strict=True), 2):
        assert b == e if exact(c) == exact(d) else (b <= e) == (c < d) or b == e


def test_equal_mass_bins_hold_equally_many_where_nothing_ties():
    bins = equal_mass(5)([Fraction(i, 100) for i in range(20)])
    assert np.bincount(bins).tolist() == [4, 4, 4, 4, 4]
    assert equal_mass(10)([Fraction(1, 2)] * 7).tolist() == [5] * 7, "one confidence only is one bin, and no crash"


def test_rules_have_names_and_others_are_refused():
    tenths = [Fraction(i, 10) for i in range(11)]
    assert rule_named("10-right")(tenths).tolist() == [0, *range(10)]
    assert rule_named("10-left")(tenths).tolist() == [*range(10), 9]
    assert rule_named("levels")(tenths).tolist() == list(range(11))
    assert len(set(rule_named("3-mass")(tenths).tolist())) == 3
    for name in ("10", "ten-right", "0-left", "10-closed", "10-right ", ""):
        with pytest.raises(UserError, match="write levels, or a number of bins"):
            rule_named(name)


# Each measure against a second definition


@given(said)
def test_the_error_by_level_is_that_of_exact_arithmetic_without_bins(rows):
    confidence, right, _ = columns(rows)
    found = calibration_error(confidence, right, by_level([exact(c) for c in confidence]))
    assert found == pytest.approx(slow_error(confidence, right, lambda c: c), abs=1e-12)


@pytest.mark.slow
@given(said)
def test_net_error_is_accuracy_minus_confidence_and_bounds_every_binned_error(rows):
    confidence, right, _ = columns(rows)
    net = net_calibration_error(confidence, right)
    assert net == pytest.approx(right.mean() - confidence.mean())
    for name in ("levels", "10-right", "15-left", "4-mass", "1-right"):
        bins = rule_named(name)([exact(c) for c in confidence])
        by_bin = sum((right - confidence)[bins == b].sum() for b in set(bins.tolist())) / len(rows)
        assert by_bin == pytest.approx(net), "the mass-weighted form does not depend on the bins"
        assert calibration_error(confidence, right, bins) >= abs(net) - 1e-12
    one = rule_named("1-right")([exact(c) for c in confidence])
    assert calibration_error(confidence, right, one) == pytest.approx(abs(net))


@given(said)
def test_the_brier_score_is_scikit_learns_and_its_parts_add_up(rows):
    confidence, right, _ = columns(rows)
    found = brier(confidence, right)
    assert found == pytest.approx(brier_score_loss(right, confidence, pos_label=True))
    bins = by_level([Fraction(c) for c in confidence])
    parts = reliability(confidence, right, bins) - resolution(right, bins) + uncertainty(right)
    assert found == pytest.approx(parts)
    assert 0 <= resolution(right, bins) <= uncertainty(right) + 1e-12


@given(said)
@example([(0.5, True, 0), (0.5, False, 0), (1.0, True, 0), (0.0, False, 0)])
def test_the_auroc_is_scikit_learns_and_undefined_for_one_class(rows):
    confidence, right, _ = columns(rows)
    if right.all() or not right.any():
        assert math.isnan(auroc(confidence, right))
    else:
        confidence = np.round(confidence, 6)  # adding a group's offset costs the last bits of a float
        assert auroc(confidence, right) == pytest.approx(roc_auc_score(right, confidence))


@given(said)
def test_the_auroc_within_groups_counts_pairs_of_one_group_only(rows):
    confidence, right, group = columns(rows)
    confidence = np.round(confidence, 6)
    won = []
    for i, j in itertools.product(range(len(rows)), repeat=2):
        if right[i] and not right[j] and group[i] == group[j]:
            won.append(1.0 if confidence[i] > confidence[j] else 0.5 if confidence[i] == confidence[j] else 0.0)
    found = auroc(confidence, right, group)
    assert math.isnan(found) if not won else found == pytest.approx(np.mean(won))


def test_knowing_which_relation_is_easy_earns_nothing_within_relations():
    confidence = np.array([0.9] * 10 + [0.2] * 10)
    right = np.array([True] * 8 + [False] * 2 + [True] * 2 + [False] * 8)
    group = np.array([0] * 10 + [1] * 10)
    assert auroc(confidence, right) == pytest.approx(0.8)
    assert auroc(confidence, right, group) == 0.5


def test_each_large_relation_is_measured_by_itself_as_if_it_were_all():
    generator = np.random.default_rng(0)
    groups = ("far",) * 21 + ("near",) * 40 + ("small",) * 19 + ("",) * 30
    scored = Scored(
        tuple(generator.integers(0, 10, len(groups)) / 9), tuple((generator.random(len(groups)) < 0.4).tolist()), groups
    )
    rule = rule_named("10-right")
    found = measures_of_relations(scored, rule, 20)
    assert list(found) == ["far", "near"], "not the small one, nor answers of none"
    for name, (first, stop) in {"far": (0, 21), "near": (21, 61)}.items():
        confidence, right = np.array(scored.confidence[first:stop]), np.array(scored.right[first:stop])
        assert found[name].keys() == set(OF_A_RELATION)
        assert found[name]["accuracy"].value == pytest.approx(right.mean())
        assert found[name]["confidence"].value == pytest.approx(confidence.mean())
        assert found[name]["brier"].value == pytest.approx(brier_score_loss(right, confidence))
        assert found[name]["auroc"].value == pytest.approx(roc_auc_score(right, confidence))
        alone = Scored(scored.confidence[first:stop], scored.right[first:stop], groups[first:stop])
        assert found[name]["auroc"] == measured_by(MEASURES["auroc"], alone, rule)
        assert all(estimate.relations is None for estimate in found[name].values()), "it says nothing of others"


def test_confidences_that_were_fitted_in_folds_are_compared_within_folds_in_a_relation_too():
    confidence, right = (0.1, 0.9, 0.2, 0.8), (True, False, False, True)
    scored = Scored(confidence, right, ("one",) * 4, fold=(0, 0, 1, 1))
    found = measures_of_relations(scored, rule_named("levels"), 4)
    assert found["one"]["auroc"].value == 0.5, "one pair of each fold: the first is the wrong way round"
    across = measures_of_relations(replace(scored, fold=()), rule_named("levels"), 4)
    assert across["one"]["auroc"].value == 0.25


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.booleans()), min_size=1, max_size=6))
@examples(40)
def test_the_area_under_risk_and_coverage_is_the_mean_over_all_orders_of_ties(rows):
    confidence, right = np.array([c for c, _ in rows]), np.array([r for _, r in rows])
    areas = []
    for order in itertools.permutations(range(len(rows))):
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order)):
            wrong = [not right[i] for i in order]
            areas.append(np.mean([np.mean(wrong[: k + 1]) for k in range(len(wrong))]))
    assert risk_coverage_area(confidence, right) == pytest.approx(np.mean(areas))


def kernel_error(confidence, right, width: float) -> float:
    """|sum of residuals seen through a reflected Gaussian kernel| integrated over [0, 1]: smECE at one width."""
    t = (np.arange(1000) + 0.5) / 1000
    seen = np.zeros(1000)
    for c, r in zip(confidence, right, strict=True):
        images = [s + 2 * k for k in range(-6, 7) for s in (c, -c)]
        seen += (
            (r - c) * sum(np.exp(-((t - m) ** 2) / (2 * width**2)) for m in images) / (width * math.sqrt(2 * math.pi))
        )
    return float(np.abs(seen).mean() / len(confidence))


def own_width(confidence, right) -> float:
    """The width at which the kernel error is the width itself, by halving."""
    low, high = 0.001, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if kernel_error(confidence, right, middle) > middle else (low, middle)
    return low


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_smooth_error_is_the_width_at_which_it_equals_itself(seed):
    draw = np.random.default_rng(seed)
    confidence = draw.integers(0, 10, 150) / 9
    right = draw.random(150) < confidence ** (1, 3, 0.3, 1)[seed]
    assert smooth_calibration_error(confidence, right) == pytest.approx(own_width(confidence, right), abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize("levels", [(0.6, 0.9), (0.5, 1.0)])
def test_the_smooth_error_is_reflected_at_1_as_it_is_at_0(levels):
    """Residuals of both signs so near to an end that a kernel cut off there would be off by 0.006."""
    confidence, right = np.repeat(levels, 50), np.arange(100) < 75
    found = smooth_calibration_error(confidence, right)
    assert found == pytest.approx(own_width(confidence, right), abs=0.002)
    assert found == pytest.approx(smooth_calibration_error(1 - confidence, ~right), abs=1e-6)


@given(said)
@examples(30)
def test_the_smooth_error_lies_between_the_net_error_and_the_one_by_level(rows):
    confidence, right, _ = columns(rows)
    found, net = smooth_calibration_error(confidence, right), abs(net_calibration_error(confidence, right))
    by_levels = calibration_error(confidence, right, by_level([exact(c) for c in confidence]))
    assert min(net, 1) - 0.005 <= found <= by_levels + 0.005


def test_confidences_of_0_and_1_weigh_no_more_than_others():
    """relplot 1.0.3 counts them about twice: 0.21 at every small width where the residuals sum to 0.175."""
    confidence = np.repeat([0.0, 0.5, 1.0], 100)
    right = np.concatenate([np.arange(100) < 20, np.arange(100) < 50, np.arange(100) < 70])
    assert smooth_calibration_error(confidence, right) == pytest.approx((0.2 + 0 + 0.3) / 3, abs=0.005)


# Laws and traps


@pytest.mark.slow
@given(said)
def test_many_samples_at_once_equal_one_after_the_other(rows):
    confidence, right, group = columns(rows)
    bins = rule_named("10-right")([exact(c) for c in confidence])
    drawn = np.random.default_rng(0).integers(0, len(rows), (5, len(rows)))
    table = (confidence, right, bins, by_level([exact(c) for c in confidence]), group, np.arange(len(rows)) % 2, bins)
    for name, measure in MEASURES.items():
        if name != "smooth_ece":
            together = measure.of(*(column[drawn] for column in table))
            alone = [measure.of(*(column[one] for column in table)) for one in drawn]
            np.testing.assert_allclose(together, alone, atol=1e-12)


def test_a_model_that_states_the_base_rate_is_calibrated_and_useless():
    right = np.array([True] * 7 + [False] * 3)
    confidence, bins = np.full(10, 0.7), np.zeros(10, dtype=int)
    assert calibration_error(confidence, right, bins) == pytest.approx(0)
    assert auroc(confidence, right) == 0.5 and resolution(right, bins) == 0
    assert brier(confidence, right) == pytest.approx(uncertainty(right)) == pytest.approx(0.21)


@pytest.mark.parametrize(("count", "expected"), [(100, 0.043), (500, 0.020), (1000, 0.014)])
def test_a_perfectly_calibrated_model_shows_an_error_that_shrinks_with_the_number_of_questions(count, expected):
    draw = np.random.default_rng(0)
    confidence = draw.choice([0.1, 0.3, 0.5, 0.7, 0.9], (400, count), p=[0.02, 0.03, 0.05, 0.1, 0.8])
    right = draw.random((400, count)) < confidence
    bins = np.round(confidence * 10).astype(int)
    assert calibration_error(confidence, right, bins).mean() == pytest.approx(expected, rel=0.35)


def test_the_floor_of_a_format_that_never_says_more_than_nine_tenths():
    letters, digits = FORMATS["ScoreLetter"].values, FORMATS["ScoreNumber"].values
    assert lowest_possible(0.97, letters) == pytest.approx(0.07) and lowest_possible(0.97, digits) == 0
    assert lowest_possible(0.04, letters) == pytest.approx(0.06) and lowest_possible(0.5, letters) == 0
    right = np.arange(100) < 97
    for value in letters:
        assert calibration_error(np.full(100, value), right, np.zeros(100, dtype=int)) >= 0.07 - 1e-12


def test_torchmetrics_closes_bins_on_the_left_and_leaves_one_apart():
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    confidence = np.repeat([0.0, 0.25, 0.5, 0.75, 1.0], 8)  # edges that floats hold exactly
    right = np.arange(40) % 8 < np.repeat([2, 0, 4, 8, 6], 8)
    theirs = float(torchmetrics.binary_calibration_error(torch.tensor(confidence), torch.tensor(right.astype(int)), 4))
    scored = Scored(tuple(confidence.tolist()), tuple(right.tolist()), ("",) * 40)
    of = {}
    for rule in ("4-left", "4-right", "levels"):
        columns = scored.columns(rule_named(rule))
        of[rule] = float(calibration_error(*columns[:3]))
    assert theirs == pytest.approx(of["levels"]) and min(abs(theirs - of[r]) for r in ("4-left", "4-right")) > 0.01


def test_a_confidence_of_one_is_counted_like_any_other():
    scored = Scored((1.0, 1.0, 0.0, 0.0), (True, False, True, False), ("a",) * 4)
    found = measures_of(scored, rule_named("15-right"))
    assert found["ece"].value == pytest.approx(0.5) and found["brier"].value == pytest.approx(0.5)
    assert found["auroc"].value == 0.5 and found["ece"].n == 4


def test_measures_that_do_not_exist_are_none_and_counted():
    assert measures_of(Scored((), (), (), left_out=3), rule_named("10-right"))["ece"].as_record() == {
        "value": None, "low": None, "high": None, "n": 0, "left_out": 3,
    }  # fmt: skip
    found = measures_of(Scored((0.5, 0.7), (True, True), ("a", "b")), rule_named("10-right"))
    assert found["auroc"].value is None and found["accuracy"].value == 1


@pytest.mark.slow
def test_a_paired_difference_is_narrower_than_two_intervals():
    draw = np.random.default_rng(1)
    right = draw.random(300) < 0.6
    before = np.clip(0.85 + draw.normal(0, 0.05, 300), 0, 1)
    after = np.clip(before - 0.2 + draw.normal(0, 0.01, 300), 0, 1)
    group = ("a",) * 300
    first, second = (Scored(tuple(c.tolist()), tuple(right.tolist()), group) for c in (before, after))
    rule = rule_named("10-right")
    found, alone = differences_of([second], first, rule), measures_of(first, rule)
    assert found["nce"].value == pytest.approx(0.2, abs=0.01)
    assert found["nce"].high - found["nce"].low < 0.2 * (alone["nce"].high - alone["nce"].low)
    same = differences_of([first], first, rule)
    assert all(one.value == 0 for one in same.values())
    assert all((one.low, one.high) == (0, 0) for name, one in same.items() if name != "accuracy")
    with pytest.raises(ValueError, match="not paired"):
        differences_of([first], Scored((0.5,), (True,), ("a",)), rule)


# Chance


def test_float_sums_of_the_same_levels_in_another_order_are_ties():
    sums = {sum(order) for order in itertools.permutations((1 / 9, 2 / 9, 4 / 9, 8 / 9))}
    one, other = min(sums) / 4, max(sums) / 4
    assert one != other and exact(one) == exact(other), "floats that differ in the last bit"
    scored = Scored((one, other) * 20, (True, False) * 20, ("",) * 40)
    measured = measures_of(scored, rule_named("10-right"))
    assert measured["auroc"].value == 0.5
    assert measured["aurc"].value == pytest.approx(0.5)


@given(said)
@examples(40)
def test_the_debiased_squared_error_is_the_mean_product_of_pairs(rows):
    confidence, right, _ = columns(rows)
    level = by_level([exact(c) for c in confidence])
    groups = level
    total = weight = 0.0
    for number in set(groups.tolist()):
        excess = (right - confidence)[groups == number]
        if len(excess) > 1:
            pairs = [a * b for a, b in itertools.permutations(excess, 2)]
            total, weight = total + len(excess) * sum(pairs) / len(pairs), weight + len(excess)
    found = float(debiased_squared_error(confidence, right, level))
    assert found == pytest.approx(total / weight) if weight else math.isnan(found)


def test_a_calibrated_speaker_has_no_error_and_an_overconfident_one_has():
    draw = np.random.default_rng(3)
    stated = draw.integers(0, 10, 200) / 9
    calibrated, overconfident = draw.random(200) < stated, draw.random(200) < stated / 2
    for right, rejected in ((calibrated, False), (overconfident, True)):
        scored = Scored(tuple(stated.tolist()), tuple(right.tolist()), ("",) * 200)
        for name in ("ece", "ece_levels", "smooth_ece", "reliability"):
            estimate = measured_by(MEASURES[name], scored, rule_named("10-right"))
            assert estimate.null.low < estimate.null.value < estimate.null.high
            assert (estimate.null.p < 0.05) == rejected == (estimate.low > 0), name
            assert (estimate.value > estimate.null.high) == rejected


def test_the_null_is_that_of_the_same_confidences_simulated_one_by_one():
    stated, draw = np.repeat([0.1, 0.5, 0.9], 10), np.random.default_rng(1)
    errors = [
        sum(abs((draw.random(10) < c).sum() - 10 * c) for c in (0.1, 0.5, 0.9)) / 30 for _ in range(4000)
    ]  # each confidence is a bin of its own
    scored = Scored(tuple(stated.tolist()), (True,) * 30, ("",) * 30)
    null = measured_by(MEASURES["ece_levels"], scored, rule_named("levels")).null
    assert (null.value, null.low, null.high) == pytest.approx(np.quantile(errors, (0.5, 0.025, 0.975)), abs=0.012)


def squares_between(right, level) -> float:
    """Resolution by the law of total variance: the outcomes' variance less the mean variance within the levels."""
    within = sum(right[level == value].var() * (level == value).sum() for value in set(level.tolist()))
    return float(right.var() - within / len(right))


def test_the_null_of_resolution_is_that_of_outcomes_in_a_random_order():
    draw = np.random.default_rng(5)
    level, right = draw.integers(0, 4, 60), draw.random(60) < 0.7
    scored = Scored(tuple((level / 9).tolist()), tuple(right.tolist()), ("",) * 60)
    estimate = measured_by(MEASURES["resolution"], scored, rule_named("levels"))
    assert estimate.value == pytest.approx(squares_between(right, level))
    orders = [squares_between(draw.permutation(right), level) for _ in range(4000)]
    null = estimate.null
    assert (null.value, null.low, null.high) == pytest.approx(np.quantile(orders, (0.5, 0.025, 0.975)), abs=0.002)
    assert null.p == pytest.approx(np.mean(np.array(orders) >= estimate.value - 1e-12), abs=0.03)
    others = uncertainty(right) / 59 * 3  # its mean under exchange: (levels - 1) / (n - 1) of the uncertainty
    assert np.mean(orders) == pytest.approx(others, rel=0.03)


def test_resolution_is_told_from_chance_and_is_all_chance_where_each_confidence_is_its_own():
    draw = np.random.default_rng(3)
    stated = draw.integers(0, 10, 200) / 9
    for chance, told in ((stated, True), (np.full(200, 0.6), False)):
        right = draw.random(200) < chance
        scored = Scored(tuple(stated.tolist()), tuple(right.tolist()), ("",) * 200)
        estimate = measured_by(MEASURES["resolution"], scored, rule_named("10-right"))
        assert (estimate.low > 0) == (estimate.null.p < 0.05) == (estimate.value > estimate.null.high) == told
    apart = Scored(tuple(np.linspace(0, 1, 200).tolist()), tuple(right.tolist()), ("",) * 200)
    estimate = measured_by(MEASURES["resolution"], apart, rule_named("10-right"))
    assert estimate.value == pytest.approx(uncertainty(right)) == pytest.approx(estimate.null.low)
    assert estimate.null.p == 1 and estimate.low == 0


@given(st.lists(st.tuples(anything, st.booleans(), st.integers(0, 6)), min_size=1, max_size=12))
@examples(40)
@pytest.mark.slow
def test_no_interval_leaves_the_range_of_its_measure_or_loses_its_value(rows):
    confidence, right, group = columns(rows)
    scored = Scored(tuple(confidence.tolist()), tuple(right.tolist()), tuple(map(str, group)))
    for name in MEASURES.keys() - {"smooth_ece"}:
        measure = replace(MEASURES[name], null=min(MEASURES[name].null, 20))
        estimate, (least, most) = measured_by(measure, scored, rule_named("10-right")), measure.bounds
        for ends in filter(None, (estimate, estimate.relations)):
            if estimate.value is not None and ends.low is not None:
                assert least - 1e-12 <= ends.low <= estimate.value + 1e-9, (name, estimate)
                assert estimate.value - 1e-9 <= ends.high <= most + 1e-12, (name, estimate)


def test_seeds_of_one_training_are_pooled_as_the_mean_of_their_differences_and_are_no_further_questions():
    draw, rule = np.random.default_rng(2), rule_named("10-right")
    relations = tuple(f"r{i % 6}" for i in range(240))
    moves = draw.normal(0, 0.3, 6)[np.arange(240) % 6]  # each relation gains, or loses, as a whole

    def speaker(gain: float) -> Scored:
        right = draw.random(240) < 0.5
        level = np.clip(np.round(9 * (0.5 + (gain + moves) * (right - 0.5) + draw.normal(0, 0.3, 240))), 0, 9) / 9
        return Scored(tuple(level.tolist()), tuple(right.tolist()), relations)

    base, *seeds = speaker(0.0), speaker(0.2), speaker(0.4), speaker(0.6)
    alone = [differences_of([seed], base, rule) for seed in seeds]
    pooled, thrice = differences_of(seeds, base, rule), differences_of([seeds[0]] * 3, base, rule)
    for name in ("auroc_within", "brier", "accuracy", "squared_ce"):
        assert pooled[name].value == pytest.approx(np.mean([one[name].value for one in alone])), name
        assert pooled[name].n == 240 and pooled[name].relations.n == 6
    for name in ("auroc_within", "brier"):
        for one, other in ((thrice[name], alone[0][name]), (thrice[name].relations, alone[0][name].relations)):
            assert (one.low, one.high) == pytest.approx((other.low, other.high)), "the same seed thrice says no more"
    within, across = pooled["auroc_within"], pooled["auroc_within"].relations
    assert across.high - across.low > 1.2 * (within.high - within.low)


def test_a_difference_of_measures_ends_where_no_two_can_differ_more():
    wrong = Scored((1.0, 1.0, 0.4), (False,) * 3, ("",) * 3)
    right = Scored((0.0, 0.0, 0.4), (True,) * 3, ("",) * 3)
    differences = differences_of([wrong], right, rule_named("10-right"))
    assert (differences["nce"].low, differences["nce"].value) == (-2, pytest.approx(-5 / 3))
    assert (differences["confidence"].high, differences["confidence"].value) == (1, pytest.approx(2 / 3))


def test_an_auroc_of_fewer_than_ten_of_a_class_has_no_interval():
    for wrong, has in ((9, False), (10, True)):
        right = (True,) * 30 + (False,) * wrong
        scored = Scored(tuple(i / 40 for i in range(30 + wrong)), right, ("",) * (30 + wrong))
        auroc_of = measures_of(scored, rule_named("10-right"))["auroc"]
        assert auroc_of.value is not None and (auroc_of.low is not None) == has


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=30, max_size=60))
@examples(20)
@pytest.mark.slow
def test_an_auroc_has_the_error_of_delong(rows):
    level, right = (np.array(column) for column in zip(*rows, strict=True))
    if not 10 <= right.sum() <= len(rows) - 10:
        return
    above = (level[right][:, None] > level[~right]) + 0.5 * (level[right][:, None] == level[~right])
    by_right, by_wrong = above.mean(1), above.mean(0)  # each answer's share of pairs won, or lost
    variances = by_right.var(ddof=1) / right.sum(), by_wrong.var(ddof=1) / (~right).sum()
    scored = Scored(tuple((level / 9).tolist()), tuple(right.tolist()), ("",) * len(rows))
    estimate = measures_of(scored, rule_named("10-right"))["auroc"]
    assert estimate.value == pytest.approx(above.mean())
    error = math.sqrt(sum(variances))
    if 0 < estimate.value < 1 and error > 1e-9:
        parts = zip(variances, (right.sum(), (~right).sum()), strict=True)
        freedom = sum(variances) ** 2 / sum(part**2 / (size - 1) for part, size in parts)
        reach = t.ppf(0.975, freedom) * error / (estimate.value * (1 - estimate.value))
        ends = [
            1 / (1 + math.exp(-(math.log(estimate.value / (1 - estimate.value)) + sign * reach))) for sign in (-1, 1)
        ]
        assert (estimate.low, estimate.high) == pytest.approx(ends, abs=1e-9)


def test_a_difference_of_accuracies_keeps_its_width_and_an_auroc_without_pairs_has_none():
    stated = tuple(i / 60 for i in range(40))
    all_right = Scored(stated, (True,) * 40, ("",) * 40)
    differences = differences_of([all_right], all_right, rule_named("10-right"))
    assert differences["accuracy"].low < -0.03 and differences["accuracy"].high > 0.03
    mixed = Scored(stated, (True,) * 38 + (False,) * 2, ("",) * 40)
    differences = differences_of([mixed], mixed, rule_named("10-right"))
    assert differences["auroc"].value == 0 and differences["auroc"].low is None, "two wrong answers"
    assert differences["auroc_within"].value is None, "no question has a relation"


def test_an_auroc_of_one_is_not_certain():
    right = (True,) * 20 + (False,) * 20
    scored = Scored((0.9,) * 20 + (0.1,) * 20, right, ())
    measured = measures_of(scored, rule_named("10-right"))
    assert measured["auroc"].value == measured["auroc"].high == 1 and 0.7 < measured["auroc"].low < 0.9
