"""Top-p sampling: the token at a quantile of the nucleus, exactly."""

import math

import numpy as np
import pytest
import torch
from conftest import examples
from hypothesis import assume, given
from hypothesis import strategies as st

from interp.models import elicitation
from interp.models.elicitation import source_of_chance, top_p_token
from interp.records import Question

WEIGHTS = st.lists(st.integers(0, 8), min_size=2, max_size=9).filter(lambda weights: sum(weights) > 0)


def nucleus(probability: list[float], top_p: float) -> list[int]:
    """Second definition: tokens from the most likely on until they hold top_p, which the last of them may pass."""
    found, held = [], 0.0
    for token in sorted(range(len(probability)), key=lambda i: -probability[i]):
        if held >= top_p:
            break
        found.append(token)
        held += probability[token]
    return found


def quantile(probability: list[float], top_p: float, chance: float) -> int:
    """The first token of the nucleus up to which more than `chance` of the nucleus's probability lies."""
    tokens = nucleus(probability, top_p)
    held, wanted = 0.0, chance * sum(probability[token] for token in tokens)
    for token in tokens:
        held += probability[token]
        if held > wanted:
            return token
    return tokens[-1]


def logits_of(weights) -> torch.Tensor:
    return torch.tensor(np.array([weights], dtype=float)).log()


def drawn(weights, chance: float, top_p: float) -> int:
    return top_p_token(logits_of(weights), torch.tensor([chance], dtype=torch.float64), top_p).item()


@pytest.mark.slow
@given(
    st.lists(st.floats(-6, 6), min_size=2, max_size=12, unique=True),
    st.floats(0, 1, exclude_max=True),
    st.floats(0.01, 1),
)
@examples(300)
def test_it_is_the_quantile_of_the_nucleus_written_out(scores, chance, top_p):
    logits = torch.tensor([scores], dtype=torch.float64)
    probability = logits.softmax(-1)[0].tolist()
    edges = np.cumsum(sorted(probability, reverse=True))
    assume(np.diff(sorted(probability)).min() > 1e-9)
    near = np.abs(edges - top_p).min() < 1e-9 or any(
        abs(chance * sum(probability[t] for t in nucleus(probability, top_p)) - edge) < 1e-9 for edge in edges
    )
    if not near:  # on an edge itself rounding decides
        found = top_p_token(logits, torch.tensor([chance], dtype=torch.float64), top_p).item()
        assert found == quantile(probability, top_p, chance)


@given(WEIGHTS, st.floats(0.01, 1), st.floats(0, 1, exclude_max=True))
def test_no_chance_leads_out_of_the_nucleus_nor_to_an_impossible_token(weights, top_p, chance):
    total = sum(weights)
    found = drawn(weights, chance, top_p)
    likelier = sum(weight for weight in weights if weight > weights[found])
    assert weights[found] > 0
    assert likelier / total < top_p + 1e-9, "the tokens before it held top_p already"


@given(WEIGHTS, st.floats(0.01, 1))
def test_chance_0_gives_the_most_likely_token(weights, top_p):
    assert weights[drawn(weights, 0.0, top_p)] == max(weights)


@pytest.mark.parametrize("chance", [1 - 2**-53, 1 - 2**-24, 1.0])
def test_the_highest_chance_gives_the_last_token_of_the_nucleus(chance):
    assert drawn([4, 3, 2, 1], chance, 0.9) == 2  # 0.4 + 0.3 + 0.2 = 0.9
    assert drawn([4, 3, 2, 1], chance, 0.91) == 3
    single = top_p_token(logits_of([4, 3, 2, 1]).float(), torch.tensor([chance], dtype=torch.float32), 0.95)
    assert single.item() == 3, "in single precision that chance is 1"


def test_a_value_worked_by_hand():
    weights = [1, 5, 4]  # top-p 0.8: tokens 1 and 2 with 5/9 and 4/9
    assert [drawn(weights, chance, 0.8) for chance in (0.0, 0.55, 0.56, 0.99)] == [1, 1, 2, 2]
    assert [drawn(weights, chance, 0.5) for chance in (0.0, 0.99)] == [1, 1]
    assert drawn([1, 1], 0.49, 1.0) == drawn([1, 1], 0.0, 1.0) != drawn([1, 1], 0.5, 1.0), "a quantile is open above"
    assert [drawn(weights, chance, 1.0) for chance in (0.45, 0.55, 0.95)] == [1, 2, 0]


def test_frequencies_are_those_of_the_renormalised_nucleus():
    weights, top_p, draws = np.array([0.4, 0.05, 0.3, 0.15, 0.1]), 0.8, 40_000
    chance = torch.from_numpy(np.random.default_rng(0).random(draws))
    tokens = top_p_token(logits_of(weights).expand(draws, -1), chance, top_p)
    counts = np.bincount(tokens.numpy(), minlength=5)
    expected = np.where([True, False, True, True, False], weights, 0)
    expected = expected / expected.sum() * draws
    assert (counts[expected == 0] == 0).all()
    there = expected > 0
    chi_squared = ((counts[there] - expected[there]) ** 2 / expected[there]).sum()
    assert chi_squared < 13.8  # two degrees of freedom: passed by chance 999 times in 1,000
    whole = np.bincount(top_p_token(logits_of(weights).expand(draws, -1), chance, 1.0).numpy(), minlength=5)
    assert (whole > 0).all(), "positive control: without a nucleus every token comes"


def test_rows_do_not_touch_each_other():
    rows = torch.cat([logits_of([4, 3, 2, 1]), logits_of([1, 2, 3, 4]), logits_of([1, 0, 0, 0])])
    chance = torch.tensor([0.6, 0.6, 0.6], dtype=torch.float64)
    alone = [top_p_token(rows[i : i + 1], chance[i : i + 1], 0.9).item() for i in range(3)]
    assert top_p_token(rows, chance, 0.9).tolist() == alone == [1, 2, 0]


@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
def test_a_nucleus_wider_than_what_is_looked_at_first_changes_nothing(monkeypatch, top_p):
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 50, generator=random, dtype=torch.float64) * 2
    chance = torch.rand(64, generator=random, dtype=torch.float64)
    whole = top_p_token(logits, chance, top_p)
    monkeypatch.setattr(elicitation, "NUCLEUS", 3)
    assert top_p_token(logits, chance, top_p).tolist() == whole.tolist()
    assert len(set(whole.tolist())) > 3


def test_chance_depends_on_seed_question_and_number_and_on_nothing_else():
    one, other = Question("a", "Why?", ("x",)), Question("b", "Why?", ("x",))
    same = [source_of_chance(0, one, 0).random(4).tolist() for _ in range(2)]
    assert same[0] == same[1]
    assert source_of_chance(0, Question("a", "Other?", ("y",)), 0).random(4).tolist() == same[0]
    for seed, question, number in ((1, one, 0), (0, other, 0), (0, one, 1)):
        assert source_of_chance(seed, question, number).random(4).tolist() != same[0]
    firsts = [source_of_chance(0, one, number).random() for number in range(500)]
    assert np.mean(firsts) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 500)), "samples share their chance"
