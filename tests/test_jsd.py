"""The divergence itself, the answers that it is measured between, and the numbers made of a question's record."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from interp.datasets.grading import may_be_right
from interp.datasets.words import normalised
from interp.divergence import LIMIT, NEAR_ZERO, divergence, jensen_shannon
from interp.instruments import jsd
from interp.instruments.base import estimates
from interp.instruments.jsd import (
    METRICS,
    distractors,
    hint,
    surface_variants,
    values,
    variants_by_kind,
)
from interp.intervals import estimated
from interp.records import ConfidenceDistribution, Question

LEVELS = st.integers(2, 12)


def rows_that_sum_to_one(count: int, levels: int) -> st.SearchStrategy[np.ndarray]:
    """Distributions with exact zeros, tiny and large probabilities among them."""
    weight = st.sampled_from([0.0, 1e-300, 1e-12]) | st.floats(0, 1)
    return (
        arrays(float, (count, levels), elements=weight)
        .filter(lambda w: (w.sum(-1) > 1e-6).all())
        .map(lambda w: w / w.sum(-1, keepdims=True))
    )


pairs = LEVELS.flatmap(lambda levels: rows_that_sum_to_one(2, levels))


def test_a_value_worked_by_hand():
    # p = (1, 0), q = (1/2, 1/2), their mixture (3/4, 1/4): KL(p, m) = ln 4/3 and KL(q, m) = 1/2 ln 2/3 + 1/2 ln 2
    by_hand = (math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2
    found = jensen_shannon(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    assert found == pytest.approx(by_hand, abs=1e-15) == pytest.approx(0.2157615543388357, abs=1e-15)


def test_distributions_without_a_common_level_are_ln_2_apart_in_nats():
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(math.log(2)) == LIMIT
    assert jensen_shannon(np.array([0.3, 0.7, 0, 0]), np.array([0, 0, 0.6, 0.4])) == pytest.approx(LIMIT)


@given(pairs)
def test_it_lies_between_0_and_ln_2_and_is_0_only_for_equals(pair):
    p, q = pair
    assert 0 <= jensen_shannon(p, q) <= LIMIT + 1e-12
    assert jensen_shannon(p, p) == 0
    if np.abs(p - q).sum() > 1e-3:
        # Pinsker, through the mixture: at least an eighth of the squared L1 distance
        assert jensen_shannon(p, q) >= np.abs(p - q).sum() ** 2 / 8 - 1e-12


def test_the_least_probability_that_a_number_can_hold_does_no_harm():
    least = np.array([5e-324, 1.0])  # its half, in the mixture, is 0
    assert jensen_shannon(least, np.array([0.0, 1.0])) == 0
    assert jensen_shannon(least, np.array([1.0, 0.0])) == pytest.approx(LIMIT)


@given(pairs)
def test_it_is_the_same_both_ways_and_under_any_order_of_the_levels(pair):
    p, q = pair
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p), abs=1e-15)
    assert jensen_shannon(p[::-1], q[::-1]) == pytest.approx(jensen_shannon(p, q), abs=1e-14)


@pytest.mark.slow
@given(pairs)
def test_it_is_the_entropy_of_the_mixture_less_the_mean_entropy(pair):
    p, q = pair
    second = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    assert jensen_shannon(p, q) == pytest.approx(second, abs=1e-12)


@pytest.mark.slow
@given(pairs)
def test_it_is_the_square_of_scipys_distance(pair):
    p, q = pair
    assume(not ((pair > 0) & (pair < 1e-300)).any())  # scipy gives inf where half of a probability is 0
    with np.errstate(invalid="ignore"):  # scipy takes the root of -1e-17 where the two are equal
        distance = np.nan_to_num(jensenshannon(p, q))
    assert jensen_shannon(p, q) == pytest.approx(distance**2, abs=1e-9)


@pytest.mark.slow
@given(LEVELS.flatmap(lambda levels: st.tuples(*[rows_that_sum_to_one(3, levels)] * 2)))
def test_a_batch_is_its_rows_one_by_one(batch):
    p, q = batch
    assert jensen_shannon(p, q).tolist() == [jensen_shannon(a, b) for a, b in zip(p, q, strict=True)]


def said(*probability: float, off_scale: float = 0.0) -> ConfidenceDistribution:
    steps = tuple(i / (len(probability) - 1) for i in range(len(probability)))
    return ConfidenceDistribution(tuple("abcdefghij"[: len(probability)]), steps, probability, off_scale)


def test_of_two_confidence_distributions_it_compares_the_levels_and_not_what_lies_outside():
    assert divergence(said(1.0, 0.0), said(0.5, 0.5)) == pytest.approx(0.2157615543388357)
    assert divergence(said(0.2, 0.8, off_scale=0.1), said(0.2, 0.8, off_scale=0.9)) == 0


def test_a_distribution_knows_what_it_expects_and_what_it_would_state():
    one = said(0.2, 0.5, 0.3, off_scale=0.6)
    assert (one.expected, one.stated, one.flagged) == (pytest.approx(0.55), 1, True)
    assert not said(0.2, 0.5, 0.3, off_scale=0.5).flagged


@pytest.mark.parametrize("probability", [(0.5, 0.4), (1.2, -0.2), (float("nan"), 0.5)])
def test_a_distribution_that_does_not_sum_to_one_cannot_be_made(probability):
    with pytest.raises(ValueError):
        said(*probability)
    for off_scale in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError):
            said(0.5, 0.5, off_scale=off_scale)


# The answers between which it is measured


@given(st.text(min_size=1, max_size=15).filter(lambda text: normalised(text)))
def test_a_surface_variant_differs_in_looks_and_never_in_what_matches(answer):
    for variant in surface_variants(answer):
        assert variant != answer
        assert variant.rstrip(".").casefold() == answer.rstrip(".").casefold() or variant.upper() == answer.upper()


@pytest.mark.parametrize(
    ("answer", "variants"),
    [("Paris", ("PARIS", "Paris.")), ("NASA", ("nasa", "NASA.")), ("79", ("79.",)), ("St. Paul.", ("ST. PAUL.",))],
)
def test_surface_variants_are_another_case_and_a_full_stop(answer, variants):
    assert surface_variants(answer) == variants


@pytest.mark.parametrize(
    ("answer", "variants"),
    [
        (
            "Paris",
            {"letter_case": "PARIS", "full_stop": "Paris.", "quotation_marks": '"Paris"', "article": "the Paris"},
        ),
        (
            "the red planet",
            {
                "letter_case": "THE RED PLANET",
                "full_stop": "the red planet.",
                "quotation_marks": '"the red planet"',
                "title_case": "The Red Planet",
            },
        ),
        ("79", {"full_stop": "79.", "quotation_marks": '"79"', "article": "the 79"}),
    ],
)
def test_each_kind_of_variant_is_made_where_it_changes_the_answer(answer, variants):
    assert variants_by_kind(answer) == variants


def test_the_divergence_of_each_kind_of_variant_is_of_its_own_answer():
    def said(answer, *probability):
        return spoken(*probability) | {"answer": answer}

    numbers = values(
        {
            "right": [said("Oslo", *SURE)],
            "noise": [said("OSLO", *UNSURE), said("Oslo.", *SURE)],
            "variant": [said('"Oslo"', *EVEN)],
        }
    )
    assert numbers["variant_letter_case"] == pytest.approx(LIMIT) and numbers["variant_full_stop"] == 0
    assert numbers["variant_quotation_marks"] == pytest.approx(HALF_WAY) and numbers["variant_article"] is None
    assert numbers["noise_floor"] == pytest.approx(LIMIT / 2), "the other kinds are none of the noise floor"


def test_a_foil_shares_the_relation_and_a_foreign_answer_does_not(open_questions):
    by_answer = {answer: question for question in open_questions for answer in question.answers}
    for question in open_questions:
        found = distractors(question, open_questions, seed=0)
        assert found.keys() == {"foil", "foreign"}
        assert by_answer[found["foil"]].relation == question.relation
        assert by_answer[found["foreign"]].relation != question.relation


def test_neither_foil_nor_foreign_answer_may_be_right():
    asked = Question("q", "Capital?", ("Nashville",), relation="capital")
    spellings = ("Nashville", "nashville.", "Nashville, Tennessee", "Nashvile")
    pool = [
        Question(f"{relation}-{s}", "?", (s,), relation=relation) for s in spellings for relation in ("capital", "x")
    ]
    for seed in range(5):
        assert distractors(asked, pool, seed=seed) == {}
        usable = [*pool, Question("p", "?", ("Paris",), relation="capital"), Question("i", "?", ("Ink",), relation="x")]
        assert distractors(asked, usable, seed=seed) == {"foil": "Paris", "foreign": "Ink"}


def test_foils_depend_on_the_seed_and_the_question_only(open_questions):
    one = open_questions[0]
    seeds = [distractors(one, open_questions, seed=seed) for seed in range(8)]
    assert seeds == [distractors(one, open_questions, seed=seed) for seed in range(8)]
    assert len({tuple(found.values()) for found in seeds}) > 2
    same = [
        distractors(question, open_questions, seed=0)["foreign"]
        for question in open_questions
        if question.relation == "young"
    ]
    assert len(set(same)) > 1, "every question of the relation got the same foreign answer"


def test_without_relations_every_other_answer_is_foreign():
    pool = [Question(f"q{i}", "?", (name,)) for i, name in enumerate(("Milk", "Iron", "Wool"))]
    assert {tuple(distractors(pool[0], pool, seed=seed)) for seed in range(5)} == {("foreign",)}


def test_for_choices_a_foil_is_left_to_the_other_letters(choice_questions):
    metal = choice_questions[0]
    found = [distractors(metal, choice_questions, seed=seed) for seed in range(10)]
    texts = {question.answers[-1] for question in choice_questions if question.relation != metal.relation}
    assert all(kinds.keys() == {"foreign"} and kinds["foreign"] in texts for kinds in found)
    assert not any(may_be_right(metal, kinds["foreign"]) for kinds in found)


def test_the_hint_names_the_answer_and_calls_it_wrong():
    assert hint("Paris") == 'Hint: the answer "Paris" is wrong.'


# The numbers made of a record


def spoken(*probability: float, logprob: float = -1.0, tokens: int = 1, off_scale: float = 0.1) -> dict:
    record = {
        "answer": "x",
        "probability": list(probability),
        "outside": off_scale,
        "logprob": logprob,
        "tokens": tokens,
    }
    return record | {"expected": probability[-1]}


SURE, UNSURE, EVEN = (0.0, 1.0), (1.0, 0.0), (0.5, 0.5)
HALF_WAY = 0.2157615543388357


def test_each_number_compares_the_answers_that_it_names():
    by_role = {
        "right": [spoken(*SURE, logprob=-1.0, tokens=1, off_scale=0.2)],
        "wrong": [spoken(*EVEN, logprob=-3.0, tokens=4), spoken(*UNSURE)],
        "branched": [spoken(*UNSURE, logprob=-5.0, tokens=2), spoken(*EVEN)],
        "noise": [spoken(*SURE), spoken(*EVEN)],
        "foil": [spoken(*UNSURE, logprob=-8.0, tokens=3)],
        "foreign": [spoken(*EVEN)],
        "candidate": [spoken(*SURE), spoken(*UNSURE), spoken(*SURE)],
        "filled": [spoken(*SURE)],
        "hint": [spoken(*UNSURE)],
    }
    expected = {
        "jsd": HALF_WAY,
        "branched": LIMIT,
        "noise_floor": HALF_WAY / 2,  # the mean over both variants
        "wrong_wrong": HALF_WAY,
        "branched_wrong_wrong": HALF_WAY,
        "foreign": HALF_WAY,
        "foil": LIMIT,
        "hint": LIMIT,
        "outside": 0.2,
        "candidates": 2 / 3 * LIMIT,  # of three pairs two differ
        "pairs": 3,
        "near_zero_pairs": 1,
        "filled_candidates": 1 / 2 * LIMIT,  # of six pairs three differ
        "filled_pairs": 6,
        "filled_near_zero_pairs": 3,
        "expected_floor": 0.0,
    }
    expected |= {f"variant_{kind}": None for kind in variants_by_kind(by_role["right"][0]["answer"])}
    apart = {"direction": (0.5, 1.0, 1.0), "likelihood_gap": (2.0, 4.0, 7.0), "length_gap": (3, 1, 2)}
    apart["logprob"] = (-3.0, -5.0, -8.0)
    for name, numbers in apart.items():
        expected |= dict(zip((name, f"branched_{name}", f"foil_{name}"), numbers, strict=True))
    assert values(by_role) == pytest.approx(expected)


def test_a_difference_within_the_numerical_floor_is_not_a_positive_one():
    """A confidence that depends on nothing is higher after one of two answers by rounding alone."""
    (positive,) = (metric for metric in METRICS if metric.key == "jsd.direction.share_positive")

    def higher(after_wrong: float, floor: float) -> float:
        pair = {"right": [spoken(0.5, 0.5)], "wrong": [spoken(1 - after_wrong, after_wrong)]}
        (value,) = positive.values([{"values": values(pair, floor)}])
        return value

    assert higher(0.4, 0.05) == 1.0 and higher(0.6, 0.05) == higher(0.4, 0.11) == higher(0.5, 0.0) == 0.0
    found = positive.values([{"values": {"direction": direction}} for direction in (0.1, -0.1)])
    assert found == [1.0, 0.0], "records of earlier runs know no floor"


def test_what_was_not_asked_has_no_value_rather_than_zero():
    found = values({"right": [spoken(*SURE)]})
    assert {name for name, value in found.items() if value} == {"outside"}
    assert {name for name, value in found.items() if value == 0} == {"expected_floor"} | {
        f"{prefix}{name}" for prefix in ("", "filled_") for name in ("pairs", "near_zero_pairs")
    }
    assert "direction" not in found


@pytest.mark.parametrize(("sampled", "pairs"), [(0, 0), (1, 0), (2, 1), (3, 3)])
def test_pairs_are_made_of_whatever_there_is_with_their_number(sampled, pairs):
    record = {"right": [spoken(*SURE)], "candidate": [spoken(*SURE), spoken(*UNSURE), spoken(*EVEN)][:sampled]}
    found = values(record)
    assert (found["candidates"] is not None) == (pairs > 0) and found["pairs"] == pairs


@pytest.mark.slow
@given(st.integers(2, 6).flatmap(lambda count: rows_that_sum_to_one(count, 5)))
def test_candidates_are_the_mean_over_all_pairs_written_out(rows):
    record = {"right": [spoken(*SURE)], "candidate": [spoken(*row) for row in rows]}
    by_pairs = [entropy((a + b) / 2) - (entropy(a) + entropy(b)) / 2 for a, b in combinations(rows, 2)]
    found = values(record)
    assert found["candidates"] == pytest.approx(np.mean(by_pairs), abs=1e-12)
    assert found["pairs"] == len(by_pairs) and found["near_zero_pairs"] == sum(value <= NEAR_ZERO for value in by_pairs)


def test_the_summary_counts_what_has_no_value_and_takes_the_edge_as_near_zero():
    rows = [{"jsd": v, "direction": d} for v, d in ((0.1, 0.2), (0.1 + 1e-9, -0.2), (0.05, 0.0), (None, None))]
    found = estimates(METRICS, [{"values": row} for row in rows])
    share = found["jsd.near_zero_share"]
    assert (share.value, share.n, share.left_out) == (pytest.approx(2 / 3), 3, 1)
    assert found["jsd.direction.share_positive"].value == pytest.approx(1 / 3), "no difference is not a positive one"
    assert (found["jsd.median"].value, found["jsd.direction.mean"].value) == (0.1, pytest.approx(0.0))
    assert (
        found["jsd.positive_control"].value,
        found["jsd.positive_control"].n,
        found["jsd.positive_control"].left_out,
    ) == (None, 0, 4)


def test_the_share_of_pairs_is_that_of_all_pairs_and_its_interval_counts_questions():
    # by hand: 6 of 6, 0 of 3 and 1 of 1 pairs at most 0.1; a question without a pair is left out
    rows = [{"pairs": pairs, "near_zero_pairs": near} for pairs, near in ((6, 6), (3, 0), (1, 1), (0, 0))]
    found = estimates(METRICS, [{"values": row} for row in rows])
    share = found["jsd.pairs.near_zero_share"]
    assert (share.value, share.n, share.left_out) == (0.7, 3, 1)
    assert found["jsd.pairs.number"].value == 10
    alone = estimated([1.0] * 7 + [0.0] * 3, np.mean, "wilson")
    assert share.high - share.low > 1.3 * (alone.high - alone.low), "pairs of a question were counted on their own"


def test_results_of_each_source_stand_apart():
    rows = [
        {
            "jsd": 0.3,
            "direction": 0.5,
            "branched": 0.02,
            "branched_direction": -0.1,
            "foil": 0.05,
            "foil_direction": 0.2,
        },
        {"jsd": None, "branched": 0.04, "branched_direction": -0.3, "foil": 0.2, "foil_direction": 0.4},
    ]
    found = {key: estimate.value for key, estimate in estimates(METRICS, [{"values": r} for r in rows]).items()}
    assert (found["jsd.median"], found["jsd.branched.median"], found["jsd.same_relation.median"]) == (0.3, 0.03, 0.125)
    keys = ("jsd.near_zero_share", "jsd.branched.near_zero_share", "jsd.same_relation.near_zero_share")
    assert [found[key] for key in keys] == [0.0, 1.0, 0.5]
    keys = ("jsd.direction.mean", "jsd.branched.direction.mean", "jsd.same_relation.direction.mean")
    assert [found[key] for key in keys] == pytest.approx([0.5, -0.2, 0.3])


def test_how_the_divergence_goes_with_the_likelihood_of_the_wrong_answer_is_a_rank_correlation():
    rows = [
        {"branched": jsd, "branched_logprob": logprob} for jsd, logprob in ((0.1, -9), (0.2, -7), (0.4, -3), (0.3, -1))
    ]
    found = estimates(METRICS, [{"values": row} for row in rows])
    assert found["jsd.branched.likelihood_correlation"].value == pytest.approx(0.8)  # 1 - 6 (0+0+1+1) / (4 (16 - 1))
    assert found["jsd.likelihood_correlation"].n == 0


def test_a_run_without_a_source_has_no_number_of_it_and_one_without_sources_is_read_as_before():
    older = {"jsd": 0.2, "wrong_wrong": 0.1, "candidates": 0.3, "direction": 0.1, "outside": 0.1}
    found = estimates(METRICS, [{"values": older}] * 3)
    assert (found["jsd.median"].value, found["jsd.candidates"].value) == (0.2, 0.3)
    assert found["jsd.pairs.near_zero_share"].n == found["jsd.pairs.number"].n == 0
    assert not any("branched" in key or "filled" in key for key in found)


def test_a_pair_at_exactly_a_tenth_is_near_zero(monkeypatch):
    monkeypatch.setattr(jsd, "pairwise_divergences", lambda answers: np.array([0.1, np.nextafter(0.1, 1), 0.0]))
    found = jsd._of_pairs({}, ("candidate",))
    assert (found["pairs"], found["near_zero_pairs"]) == (3, 2)
