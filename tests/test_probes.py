"""A probe finds what is in the stream about an answer, and nothing where nothing is: planted directions and nulls."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from interp import probes
from interp.probes import (
    PENALTIES,
    STATED,
    Source,
    cells,
    components,
    direction,
    folds,
    largest_by_chance,
    logistic,
    out_of_fold,
    permuted_within,
    ridge,
    shuffled,
    within,
)


def noise(questions, layers, width, seed=0):
    return np.random.default_rng(seed).normal(size=(questions, layers, width)).astype(np.float32)


def labels(questions, seed=1):
    return np.random.default_rng(seed).random(questions) < 0.5


def named(questions, relations=8):
    return [f"relation {number % relations}" for number in range(questions)]


def together(questions):
    return np.zeros(questions, dtype=int)


@pytest.mark.slow
def test_a_planted_direction_is_found_at_its_layer_and_nearly_as_well_as_can_be():
    questions, gap = 320, 2.0
    right, streams, groups = labels(questions), noise(questions, 4, 40), named(questions)
    axis = np.random.default_rng(5).normal(size=40)
    axis /= np.linalg.norm(axis)
    streams[:, 2] += gap * right[:, None] * axis
    result = out_of_fold(streams, right, groups)
    best = norm.cdf(gap / np.sqrt(2))  # the Bayes value: two normals whose means lie `gap` apart
    relation = cells(groups, together(questions))
    assert set(result.layer) == {2}
    assert best - 0.06 < within(result.scores, right, relation) < best + 0.04
    others = [within(result.by_layer[layer], right, relation) for layer in (0, 1, 3)]
    assert max(abs(np.array(others) - 0.5)) < 0.12
    for kind in ("means", "probe"):
        found = direction(streams[:, 2], right, groups, kind)
        assert found is not None and found @ axis > 0.85 and np.linalg.norm(found) == pytest.approx(1)
    chance = shuffled(result, streams, right, groups)
    nulls = [within(score, label, relation) for score, label in zip(chance.scores, chance.right, strict=True)]
    assert abs(np.mean(nulls) - 0.5) < 0.04 and len(nulls) == probes.PERMUTATIONS


@pytest.mark.slow
def test_knowing_which_relations_are_easy_earns_nothing():
    questions = 240
    groups = named(questions)
    easy = np.array([int(group.split()[1]) < 4 for group in groups])
    right = np.random.default_rng(3).random(questions) < np.where(easy, 0.9, 0.1)
    streams = noise(questions, 2, 16)
    streams[:, :, 0] += 8 * easy[:, None]  # the base rate of its relation, plain to see
    scores = out_of_fold(streams, right, groups).scores
    assert within(scores, right, together(questions)) > 0.75  # it is found...
    assert abs(within(scores, right, cells(groups, together(questions))) - 0.5) < 0.12  # ... and earns nothing


@pytest.mark.slow
def test_what_tells_questions_apart_but_follows_no_rule_earns_nothing():
    questions = 96
    streams = np.zeros((questions, 1, questions), dtype=np.float32)
    streams[np.arange(questions), 0, np.arange(questions)] = 10.0  # a number of its own for each question
    right = labels(questions)
    fitted = logistic(components(streams[:, 0]).scores(streams[:, 0]), right, [PENALTIES[-1]])
    assert fitted is not None
    weights, intercept = fitted[0]
    seen = components(streams[:, 0]).scores(streams[:, 0]) @ weights + intercept
    assert within(seen, right, together(questions)) > 0.9  # a probe learns its own questions by heart
    for groups in (named(questions), [""] * questions):
        scores = out_of_fold(streams, right, groups).scores
        assert abs(within(scores, right, cells(groups, folds(groups, right, 20))) - 0.5) < 0.15


def test_a_probe_is_that_of_scikit_learns_own_pipeline():
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    for questions, width in ((30, 12), (12, 30)):
        rows, right = noise(questions, 1, width)[:, 0].astype(float), labels(questions)
        scores = make_pipeline(StandardScaler(), PCA(5)).fit_transform(rows)
        scores /= np.sqrt((scores**2).mean())
        ours = components(rows, 5).scores(rows)
        assert np.abs(np.abs(ours) - np.abs(scores)).max() < 1e-8  # components have no sign
        fitted, ridges = logistic(ours, right, PENALTIES), ridge(ours, rows[:, 0], PENALTIES)
        assert fitted is not None and ridges is not None
        for penalty, pair, ridge_pair in zip(PENALTIES, fitted, ridges, strict=True):
            theirs = LogisticRegression(C=penalty, tol=1e-10, max_iter=10_000).fit(scores, right)
            assert np.abs(ours @ pair[0] + pair[1] - theirs.decision_function(scores)).max() < 1e-3
            other = Ridge(alpha=4 / penalty).fit(scores, rows[:, 0])
            assert np.abs(ours @ ridge_pair[0] + ridge_pair[1] - other.predict(scores)).max() < 1e-8


def test_out_of_fold_scores_are_those_of_a_loop_over_relations():
    questions = 40
    streams, right, groups = noise(questions, 1, 6), labels(questions), named(questions, 4)
    result = out_of_fold(streams, right, groups)
    for number, name in ((result.fold[groups.index(name)], name) for name in sorted(set(groups))):
        inside = np.array([group == name for group in groups])
        parts = components(streams[~inside, 0])
        (weights, intercept), *_ = logistic(
            parts.scores(streams[~inside, 0]), right[~inside], [result.penalty[number][0]]
        ) or [(np.zeros(0), 0.0)]
        expected = parts.scores(streams[inside, 0]) @ weights + intercept
        assert np.abs(result.scores[inside] - expected).max() < 1e-6
        linear = parts.linear(weights, intercept)
        assert np.abs(linear.scores(streams[inside, 0]) - expected).max() < 1e-8


def test_a_dimension_a_thousand_times_larger_hides_no_other():
    questions = 60
    streams, right, groups = noise(questions, 1, 80).astype(float), labels(questions), named(questions, 3)
    loud = streams.copy()
    loud[:, :, 3] = 1000 * loud[:, :, 3] + 5
    assert np.abs(out_of_fold(loud, right, groups).scores - out_of_fold(streams, right, groups).scores).max() < 1e-6


@pytest.mark.slow
def test_the_stated_confidence_is_found_by_its_own_direction():
    questions = 240
    streams, groups = noise(questions, 3, 20), named(questions)
    stated = 0.6 + 0.1 * streams[:, 1, 4].astype(float) + 0.02 * noise(questions, 1, 1, 7)[:, 0, 0]
    result = out_of_fold(streams, stated, groups, STATED)
    assert set(result.layer) == {1} and np.corrcoef(result.scores, stated)[0, 1] > 0.9
    found = direction(streams[:, 1], stated, groups, "stated")
    assert found is not None and found[4] > 0.9


@pytest.mark.slow
def test_a_probe_of_other_data_never_saw_the_tested_relation_nor_the_question():
    questions = 60
    streams, right, groups = noise(questions, 2, 8), labels(questions), named(questions, 6)
    ids = [str(number) for number in range(questions)]
    source = Source(streams.copy(), right, groups, ids)
    again = out_of_fold(streams, right, groups, source=source, ids=ids)
    assert np.abs(again.scores - out_of_fold(streams, right, groups).scores).max() < 1e-6
    elsewhere = out_of_fold(streams, right, ["another"] * questions, source=source, ids=[f"x{i}" for i in ids])
    assert all(len(train) == questions for train in elsewhere.trained)
    same = out_of_fold(streams, right, [""] * questions, source=source, ids=ids)
    assert all(set(train).isdisjoint(np.flatnonzero(same.fold == n)) for n, train in enumerate(same.trained))
    assert np.isfinite(shuffled(same, streams, right, [""] * questions).scores).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("questions", "relations", "rights"),
    [(0, 1, 0), (1, 1, 1), (3, 1, 1), (8, 2, 8), (8, 2, 1), (6, 6, 3), (9, 1, 4)],
)
def test_where_there_is_too_little_nothing_crashes(questions, relations, rights):
    streams, groups = noise(questions, 2, 5), named(questions, relations)
    right = np.arange(questions) < rights
    for relation in (groups, [""] * questions):
        result = out_of_fold(streams, right, relation)
        assert result.scores.shape == (questions,) and result.by_layer.shape == (2, questions)
        assert shuffled(result, streams, right, relation).scores.shape == (probes.PERMUTATIONS, questions)
        stated = out_of_fold(streams, right.astype(float), relation, STATED)
        assert stated.scores.shape == (questions,)
    if rights == questions:
        assert np.isnan(result.scores).all()
        assert questions == 0 or direction(streams[:, 0], right, groups, "means") is None
        assert questions == 0 or direction(streams[:, 0], right, groups, "probe") is None


def test_streams_without_any_spread_give_the_same_score_to_all():
    right, groups = labels(20), named(20, 4)
    result = out_of_fold(np.ones((20, 1, 6), dtype=np.float32), right, groups)
    assert all(len(set(result.scores[result.fold == number])) == 1 for number in range(4))
    assert components(np.ones((20, 6))).basis.shape == (6, 0)
    assert direction(np.ones((20, 6)), right, groups, "probe") is None


@given(st.integers(0, 60), st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=60)
def test_folds_hold_relations_whole_and_every_question_once(questions, relations, seed):
    generator = np.random.default_rng(seed)
    groups = [f"{number}" for number in generator.integers(0, relations, questions)]
    fold = folds(groups, generator.random(questions), 20)
    assert len(fold) == questions and (not questions or fold.min() == 0)
    distinct = len(set(groups))
    if distinct >= 2:
        assert all(len({fold[i] for i, group in enumerate(groups) if group == name}) == 1 for name in set(groups))
        assert len(set(fold.tolist())) == min(20, distinct)
    else:
        assert len(set(fold.tolist())) == min(5, questions)


def test_labels_are_shuffled_within_relations_alone():
    values, cell = np.arange(12.0), np.array([0, 1, 2] * 4)
    orders = list(permuted_within(values, [str(number) for number in cell], 30))
    assert len({tuple(order) for order in orders}) > 20
    for order in orders:
        assert all(sorted(order[cell == number]) == sorted(values[cell == number]) for number in range(3))


def test_scores_below_zero_are_ranked_within_relations_too():
    score, right = np.array([-5.0, 5.0, -3.0, 4.0]), np.array([True, False, False, True])
    assert within(score, right, np.array([0, 0, 1, 1])) == pytest.approx(0.5)
    assert within(score, right, np.zeros(4, dtype=int)) == pytest.approx(1 / 4)


@pytest.mark.slow
def test_the_largest_of_many_scores_lies_above_one_half_by_chance_alone():
    right, groups = labels(120), named(120, 4)
    cell = cells(groups, together(120))
    scores = noise(120, 1, 30)[:, 0].T.astype(float)  # [scores, questions]
    alone, many = largest_by_chance(scores[:1], right, groups, 200), largest_by_chance(scores, right, groups, 200)
    slow = [max(float(within(score, order, cell)) for score in scores) for order in permuted_within(right, groups, 200)]
    assert many == pytest.approx(slow) and abs(alone.mean() - 0.5) < 0.02 and many.mean() > 0.58
    assert np.isnan(largest_by_chance(scores, np.ones(120, dtype=bool), groups, 3)).all()
