"""The objectives: reached where they must be, pulling where they must, equal to the slow loop, exact in gradient."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from interp.errors import UserError
from interp.formats import FORMATS
from training.losses import (
    advice_losses,
    expected,
    jensen_shannon,
    jsd_loss,
    margin_loss,
    sum_loss,
    token_mean,
    tokenized_brier,
)
from training.recipes import Weights

NUMBERS = torch.tensor(FORMATS["ScoreNumber"].values, dtype=torch.float64)
LETTERS = torch.tensor(FORMATS["ScoreLetter"].values, dtype=torch.float64)
scores = st.lists(st.floats(-8, 8), min_size=10, max_size=10)


def spread(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log_softmax(-1)


def at(level: int, count: int = 10) -> torch.Tensor:
    """All but 1e-9 of the mass on one level."""
    p = torch.full((count,), 1e-9 / (count - 1), dtype=torch.float64)
    p[level] = 1 - 1e-9
    return p.log()


@given(scores, scores)
def test_the_divergence_is_the_mixtures_entropy_less_the_mean_entropy_and_within_its_bounds(one, other):
    p, q = spread(one), spread(other)
    found = jensen_shannon(p, q).item()
    mixed = entropy((p.exp() + q.exp()).numpy() / 2)
    assert found == pytest.approx(mixed - (entropy(p.exp().numpy()) + entropy(q.exp().numpy())) / 2, abs=1e-9)
    assert -1e-12 <= found <= math.log(2) + 1e-12 and found == pytest.approx(jensen_shannon(q, p).item())


def test_every_loss_reaches_its_least_value_where_it_must():
    apart = at(9), at(0)
    assert jsd_loss(*apart, 0.6).item() == 0
    assert margin_loss(*apart, NUMBERS, 1.0).item() == pytest.approx(0, abs=1e-8)
    assert sum_loss(*apart, NUMBERS).item() == pytest.approx(0, abs=1e-8)
    letters = at(4, 5), at(0, 5)
    assert margin_loss(*letters, LETTERS, 1.0).item() == pytest.approx(0.2), "their levels span 0.8"
    assert sum_loss(*letters, LETTERS).item() == pytest.approx(0, abs=1e-8)
    same = spread([[0.0] * 10])
    assert jsd_loss(same, same, 0.6).item() == pytest.approx(0.6) and margin_loss(same, same, NUMBERS, 1.0) == 1


def test_only_the_margin_knows_the_direction():
    upside_down = at(0), at(9)
    assert jsd_loss(*upside_down, 0.6).item() == 0 and sum_loss(*upside_down, NUMBERS).item() < 1e-8
    assert margin_loss(*upside_down, NUMBERS, 1.0).item() == pytest.approx(2)


def test_a_step_down_the_gradient_lifts_the_right_and_lowers_the_wrong_answers_confidence():
    raw = torch.zeros(2, 10, dtype=torch.float64)
    raw[0, 4] = 0.1
    raw.requires_grad_()
    p = raw.log_softmax(-1)
    terms = advice_losses(p[:1], p[1:], torch.zeros(1, dtype=torch.float64), NUMBERS, Weights(sum=0.0))
    (gradient,) = torch.autograd.grad(terms["total"].sum(), raw)
    after = (raw - 0.5 * gradient).log_softmax(-1)
    assert expected(after[0], NUMBERS) > expected(p[0], NUMBERS)
    assert expected(after[1], NUMBERS) < expected(p[1], NUMBERS)


def test_margin_and_sum_together_move_one_mean_at_a_time():
    for level, moved, still in ((3, 0, 1), (6, 1, 0)):  # both means below a half: only the right one is pulled up
        raw = torch.zeros(2, 10, dtype=torch.float64)
        raw[:, level] = 2.0
        p = raw.requires_grad_().log_softmax(-1)
        terms = advice_losses(p[:1], p[1:], torch.zeros(1, dtype=torch.float64), NUMBERS, Weights(jsd=0.0))
        (gradient,) = torch.autograd.grad(terms["total"].sum(), raw)
        assert gradient[still].abs().max() < 1e-12 < 0.01 < gradient[moved].abs().max()


@given(st.lists(st.tuples(scores, scores, st.floats(-9, 0)), min_size=1, max_size=4))
def test_the_terms_equal_the_slow_loop_written_out(rows):
    right, wrong = spread([a for a, _, _ in rows]), spread([b for _, b, _ in rows])
    answer = torch.tensor([c for _, _, c in rows], dtype=torch.float64)
    weights = Weights(lm=0.5, jsd=2.0, margin=3.0, sum=0.25, jsd_wanted=0.4, margin_wanted=0.7)
    found = advice_losses(right, wrong, answer, NUMBERS, weights)
    for i, (_, _, logprob) in enumerate(rows):
        p, q, values = right[i].exp().numpy(), wrong[i].exp().numpy(), np.arange(10) / 9
        m = (p + q) / 2
        divergence = sum(a * math.log(a / c) + b * math.log(b / c) for a, b, c in zip(p, q, m, strict=True)) / 2
        high, low = float(p @ values), float(q @ values)
        slow = {
            "lm": 0.5 * -logprob,
            "jsd": 2 * max(0, 0.4 - divergence),
            "margin": 3 * max(0, 0.7 - (high - low)),
            "sum": 0.25 * abs(1 - (high + low)),
        }
        assert {k: found[k][i].item() for k in slow} == pytest.approx(slow, abs=1e-9)
        assert found["total"][i].item() == pytest.approx(sum(slow.values()), abs=1e-9)


@given(st.lists(st.tuples(st.floats(-60, 0), st.integers(1, 30)), min_size=1, max_size=5))
def test_the_mean_over_tokens_is_the_sum_for_one_token_and_else_as_many_times_smaller(answers):
    logprobs, counts = (torch.tensor(column) for column in zip(*answers, strict=True))
    levels = spread([[0.0] * 10] * len(answers))
    summed = advice_losses(levels, levels, logprobs.double(), NUMBERS, Weights())["lm"]
    mean = advice_losses(levels, levels, token_mean(logprobs.double(), counts), NUMBERS, Weights())["lm"]
    for whole, part, count in zip(summed.tolist(), mean.tolist(), counts.tolist(), strict=True):
        assert whole == pytest.approx(count * part) and (count > 1 or whole == part)


@pytest.mark.parametrize("term", ["lm", "jsd", "margin", "sum"])
def test_a_term_with_weight_0_is_off(term):
    right, wrong, answer = spread([[0.1] * 9 + [1.0]]), spread([[0.2] * 10]), torch.tensor([-2.0]).double()
    off = advice_losses(right, wrong, answer, NUMBERS, Weights(**{term: 0.0}))
    on = advice_losses(right, wrong, answer, NUMBERS, Weights())
    assert off[term].item() == 0 < on[term].item()
    assert on["total"].item() - off["total"].item() == pytest.approx(on[term].item())


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    raw = torch.randn(3, 2, 10, dtype=torch.float64, requires_grad=True)
    answer = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def total(raw, answer):
        p = raw.log_softmax(-1)
        return advice_losses(p[:, 0], p[:, 1], answer, NUMBERS, Weights())["total"]

    assert torch.autograd.gradcheck(total, (raw, answer))
    right = torch.tensor([True, False])
    assert torch.autograd.gradcheck(lambda x: tokenized_brier(x.log_softmax(-1), right, NUMBERS), (raw[0],))


def test_the_gradient_stays_finite_where_a_level_has_no_mass():
    raw = torch.tensor([[0.0] * 9 + [60.0], [60.0] + [0.0] * 9], requires_grad=True)
    p = raw.log_softmax(-1)
    loss = advice_losses(p[:1], p[1:], torch.zeros(1), NUMBERS.float(), Weights())["total"].sum()
    (gradient,) = torch.autograd.grad(loss, raw)
    assert gradient.isfinite().all() and loss.isfinite()


@given(scores, st.booleans())
def test_the_tokenized_brier_score_is_the_expected_squared_error(one, outcome):
    p = spread([one])
    found = tokenized_brier(p, torch.tensor([outcome]), NUMBERS).item()
    assert found == pytest.approx(sum(a * (outcome - i / 9) ** 2 for i, a in enumerate(p[0].exp().tolist())))
    assert tokenized_brier(at(9)[None], torch.tensor([True]), NUMBERS).item() == pytest.approx(0, abs=1e-8)


def test_over_the_101_levels_of_conftuners_own_paper_the_score_is_a_sum_worked_by_hand():
    percents = torch.tensor(FORMATS["ScorePercent"].values, dtype=torch.float64)
    assert len(percents) == 101
    even = torch.zeros(2, 101, dtype=torch.float64).log_softmax(-1)
    # (0 + 1 + 4 + ... + 10 000) / (101 * 10 000) = 100 * 101 * 201 / 6 / 1 010 000 = 338 350 / 1 010 000 = 0.335
    assert tokenized_brier(even, torch.tensor([True, False]), percents).tolist() == pytest.approx([0.335, 0.335])
    parts = torch.full((101,), -math.inf, dtype=torch.float64)
    parts[20], parts[85], parts[100] = math.log(0.2), math.log(0.7), math.log(0.1)
    # right: 0.2 * 0.64 + 0.7 * 0.0225 + 0.1 * 0; wrong: 0.2 * 0.04 + 0.7 * 0.7225 + 0.1 * 1
    found = tokenized_brier(parts.expand(2, -1), torch.tensor([True, False]), percents)
    assert found.tolist() == pytest.approx([0.14375, 0.61375])


def test_a_negative_weight_is_refused():
    with pytest.raises(UserError, match="the weight of the term sum is -1"):
        Weights(sum=-1.0)
