"""Attribution: complete, equal to an outside oracle, and silent where the integral does not converge."""

import functools
import itertools
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, LayerIntegratedGradients
from conftest import examples, filler_tokens, written_levels
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UserError
from interp.instruments import attribution, gradients, masking
from interp.instruments import scorer as scorers
from interp.instruments.attribution import METRICS, AttributionOptions, Whole, measured, rank_of_best
from interp.instruments.base import estimates
from interp.instruments.gradients import gap_allowed, integrated_gradients, token_by_token
from interp.instruments.masking import neutral_token, replacement_embeddings
from interp.instruments.scorer import Scorer
from interp.measures import AttributionRecord
from interp.models.setting import Case, Setting, named_token
from interp.records import READ_SPANS, Transcript
from interp.run.typed import typed

LONG = "Asunción"
KINDS = [("llama", False), ("mistral", False), ("gemma2", False), ("gemma3", False), ("llama", True)]


def level_logprobs(setting: Setting, transcript, embeds: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [rows, levels] from plain forward passes over whole texts; embeds: the prompt's, [rows, tokens,
    width]. With gradient."""
    model, stops, before = setting.checkpoint.model, list(setting.stops), len(transcript.ids)
    found = []
    for ways in written_levels(setting, transcript):
        stated = []
        for suffix in ways:
            level = model.get_input_embeddings()(torch.tensor([suffix])).expand(len(embeds), -1, -1)
            said = model(inputs_embeds=torch.cat([embeds, level], 1), use_cache=False).logits.log_softmax(-1)
            written = sum(said[:, before - 1 + i, token] for i, token in enumerate(suffix))
            stated.append(written + said[:, -1, stops].logsumexp(-1))
        found.append(torch.stack(stated).logsumexp(0))
    return torch.stack(found, -1)


def plain_score(setting: Setting, transcript, embeds: torch.Tensor, stated: int | None = None) -> torch.Tensor:
    """The expected confidence, or the log-probability of the stated level, for each row of embeds."""
    levels = level_logprobs(setting, transcript, embeds)
    values = torch.tensor(setting.prompter.confidence.values)
    return levels.softmax(-1) @ values if stated is None else levels[:, stated]


def own_embeds(setting: Setting, transcript) -> torch.Tensor:
    return setting.checkpoint.model.get_input_embeddings()(torch.tensor([transcript.ids]))


@torch.no_grad()
def replaced_by_hand(setting: Setting, transcript, positions, replacement, stated: int | None = None) -> float:
    embeds = own_embeds(setting, transcript).clone()
    for position in positions:
        embeds[0, position] = replacement
    return plain_score(setting, transcript, embeds, stated).item()


@pytest.fixture(scope="module")
def llama(tiny_setting) -> Setting:
    return tiny_setting("llama")


@pytest.fixture(scope="module")
def record(llama, open_questions):
    """The attribution of a long answer on a random Llama, from the mean embedding."""
    return measured(llama, [Case(open_questions[0], LONG)])[0]


@pytest.fixture(scope="module")
def transcript(llama, open_questions):
    return llama.prompter.transcript(open_questions[0], LONG)


# Against plain forward passes


@pytest.mark.slow
@pytest.mark.parametrize(("family", "adapter"), KINDS)
def test_the_effect_of_every_span_equals_plain_forward_passes(tiny_setting, open_questions, family, adapter):
    setting = tiny_setting(family, adapter)
    (found,) = measured(setting, [Case(open_questions[0], "Kitten")])
    transcript = setting.prompter.transcript(open_questions[0], "Kitten")
    seen = replaced_by_hand(setting, transcript, (), 0)
    assert found["value"] == pytest.approx(seen, abs=1e-5)
    assert list(found["effects"]) == [span for span in READ_SPANS if span in transcript.spans]
    replacements = replacement_embeddings(setting)
    for span, by_replacement in found["effects"].items():
        for name, effect in by_replacement.items():
            left = replaced_by_hand(setting, transcript, transcript.positions(span), replacements[name])
            assert effect == pytest.approx(seen - left, abs=2e-5)
    assert max(abs(effect) for by_replacement in found["effects"].values() for effect in by_replacement.values()) > 0.01


@pytest.mark.slow
def test_the_effect_of_each_token_equals_a_plain_forward_pass(llama, record, transcript):
    shared_prefix, replacement = len(llama.prefix.shared_prefix), replacement_embeddings(llama)["mean"]
    by_hand = effects_by_hand(llama, transcript, replacement)
    measured_ones = [i for i, effect in enumerate(record["tokens"]) if effect is not None]
    assert set(measured_ones) >= {*transcript.positions("answer"), *transcript.positions("tail")}
    assert any(i < shared_prefix for i in measured_ones)
    assert [record["tokens"][i] for i in measured_ones] == pytest.approx(by_hand[measured_ones].tolist(), abs=2e-5)
    exact, found = rank_of_best(by_hand.tolist(), transcript.positions("answer")), record["values"]["answer.rank"]
    assert found == exact or attribution.COUNTED < found < exact


@functools.cache
def effects_by_hand(setting: Setting, transcript, replacement) -> np.ndarray:
    """What replacing each token takes away from the score, a plain forward pass for each."""
    seen = replaced_by_hand(setting, transcript, (), 0)
    everywhere = range(len(transcript.ids))
    return np.array([seen - replaced_by_hand(setting, transcript, (i,), replacement) for i in everywhere])


SEEN = Whole(1.0, floor=0.0, score_range=1.0)
"""A score as it is, of exact arithmetic."""


class Told(Scorer):
    """A scorer that is told what to say."""

    def __init__(self, transcript, replaced, bound):
        self.transcript, self.replaced, self.first_order_bound = transcript, replaced, lambda replacement: bound


@pytest.mark.parametrize(("larger", "asked_for", "rank"), [((), 44, 1), ((3, 30), 44, 3), (range(20, 44), 24, 25)])
def test_what_may_matter_more_than_the_answer_is_replaced_until_the_rank_lies_beyond_20(larger, asked_for, rank):
    """60 tokens; the answer is 50, the tail 55 to 59; of the others the first 44 may matter more."""
    asked: list[list[int]] = []

    def replaced(replacements):
        asked.append([i for (i,), _ in replacements])
        return [0.0 if i in larger else 0.9 if i == 50 else 0.95 for i in asked[-1]]

    spans = ["special"] * 50 + ["answer"] + ["special"] * 4 + ["tail"] * 5
    transcript = Transcript("", tuple(range(60)), tuple(spans))
    bound = np.where(np.arange(60) < 44, 1.0, 0.039)
    effects = attribution._token_effects(Told(transcript, replaced, bound), None, SEEN)
    assert asked[0] == [50, *range(55, 60)] and rank_of_best(effects, [50]) == rank
    after = [i for part in asked[1:] for i in part]
    assert after == list(range(43, 43 - asked_for, -1)), "of equal bounds the cheapest first"


def test_a_token_that_promises_more_for_what_it_costs_is_replaced_before_others(monkeypatch):
    monkeypatch.setattr(attribution, "AT_ONCE", 1)
    transcript = Transcript("", tuple(range(5)), ("special", "special", "special", "answer", "tail"))
    asked: list[int] = []

    def replaced(replacements):
        asked.extend(i for (i,), _ in replacements)
        return [0.9 for _ in replacements]

    bound = np.array([11.0, 8.1, 6.0, 0.0, 0.0])  # by cost: 2.2, 2.025, 2
    attribution._token_effects(Told(transcript, replaced, bound), None, SEEN)
    assert asked == [3, 4, 0, 1, 2]


def test_where_the_answer_matters_more_than_all_bounds_nothing_but_answer_and_tail_is_replaced():
    transcript = Transcript("", (1, 2, 3, 4), ("instruction", "question", "answer", "tail"))
    bound = np.array([0.39, 0.39, 0.39, 0.39])
    scorer = Told(transcript, lambda replacements: [0.0 for _ in replacements], bound)
    assert attribution._token_effects(scorer, None, SEEN) == [None, None, 1.0, 1.0]
    bound[1] = 0.4
    assert attribution._token_effects(scorer, None, SEEN) == [None, 1.0, 1.0, 1.0]


def test_an_answer_whose_effect_is_within_the_numerical_floor_has_no_rank_and_no_token_is_tried_for_one():
    """All tokens of a confidence that depends on nothing do nothing: none of them is the first."""
    transcript = Transcript("", (1, 2, 3, 4), ("instruction", "question", "answer", "tail"))
    scorer = Told(transcript, lambda replacements: [0.99 for _ in replacements], np.ones(4))
    for floor, tried in ((0.02, 2), (0.0, 4)):
        effects = attribution._token_effects(scorer, None, Whole(1.0, floor, 1.0))
        assert sum(effect is not None for effect in effects) == tried
        assert (rank_of_best(effects, [2], floor) is None) == (floor > 0)


def test_first_order_effects_are_gradients_of_a_plain_forward_pass(llama, transcript):
    replacement = replacement_embeddings(llama)["mean"].float()
    scorer = Scorer(llama, transcript, attribution._score(llama, "expected", transcript))
    embeds = own_embeds(llama, transcript).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(plain_score(llama, transcript, embeds).sum(), embeds)
    away = (embeds[0] - replacement).detach()
    expected = (gradient[0] * away).sum(-1)
    assert abs(expected).max() > 0.001
    assert scorer.first_order(replacement) == pytest.approx(expected.numpy(), abs=1e-5)
    bound = gradient[0].square().sum(-1).sqrt() * away.square().sum(-1).sqrt()
    assert scorer.first_order_bound(replacement) == pytest.approx(bound.numpy(), abs=1e-5)
    assert (bound >= abs(expected)).all(), "no direction does more than the steepest"


# Memory and precision


def test_embeddings_are_made_when_their_batch_is_read(llama, transcript, monkeypatch):
    scorer = Scorer(llama, transcript, attribution._score(llama, "expected", transcript))
    replacement = replacement_embeddings(llama)["mean"]
    held, most = weakref.WeakSet(), []
    made = scorers.Rest.replaced

    def spy(rest, positions, replacement):
        embeds = made(rest, positions, replacement)
        held.add(embeds)
        most.append(len(held))
        return embeds

    monkeypatch.setattr(scorers.Rest, "replaced", spy)
    whole = scorer.replaced([((i,), replacement) for i in range(len(transcript.ids) - 8, len(transcript.ids))] * 4)
    assert len(most) == 32 and max(most) == 32, "one batch holds all"
    monkeypatch.setattr(llama.prefix, "batch_tokens", 64)
    scorer, most[:] = Scorer(llama, transcript, scorer.score), []
    again = scorer.replaced([((i,), replacement) for i in range(len(transcript.ids) - 8, len(transcript.ids))] * 4)
    assert len(most) == 32 and max(most) <= 8, "no batch knows of another's"
    assert again == pytest.approx(whole, abs=1e-5)


def test_in_bfloat16_a_paths_points_lie_on_the_line_as_near_as_the_dtype_allows(tiny_half, transcript):
    scorer = Scorer(tiny_half, transcript, attribution._score(tiny_half, "expected", transcript))
    replacement, answer = replacement_embeddings(tiny_half)["mean"], list(transcript.positions("answer"))
    fed = []
    hook = tiny_half.checkpoint.model.register_forward_pre_hook(
        lambda module, args, inputs: fed.append(inputs.get("inputs_embeds")), with_kwargs=True
    )
    try:
        scorer.along(answer, replacement)(torch.full((1, len(answer)), 0.3))
    finally:
        hook.remove()
    own = tiny_half.prefix.embedded(transcript.ids)[answer].double()
    line = (replacement.double() + 0.3 * (own - replacement.double())).bfloat16()
    points = {tuple(row) for row in fed[-1][0].tolist()}
    assert fed[-1].dtype == torch.bfloat16 and {tuple(row) for row in line.tolist()} <= points


def test_the_floor_is_what_packings_differ_by_and_the_effect_is_that_of_the_paths_own_ends():
    """Read alone: 0.50 as it is and 0.30 replaced. At the path's ends: 0.52 and 0.29; between them on a line that is
    0.004 too steep, as if a node's reading were off."""
    scorer = Told(None, None, None)
    slope = 0.23 + 0.004
    scorer.along = lambda answer, replacement: scorers.PathScore(
        lambda c: torch.where((c == 1).all(-1), 0.52, torch.where((c == 0).all(-1), 0.29, slope * c.mean(-1))), 1, 64
    )
    found = attribution._of_answer(scorer, (3, 4), None, 0.2, attribution.Whole(0.5, 0.001, 1.0), None)
    assert (found.effect, found.floor) == (pytest.approx(0.23), pytest.approx(0.02))
    assert found.gap == pytest.approx(0.004, abs=1e-4) and not found.refused, "within three floors"
    one = attribution._of_answer(scorer, (3,), None, 0.2, attribution.Whole(0.5, 0.001, 1.0), None)
    assert (one.attribution, one.effect, one.gap, one.refused) == ((0.2,), 0.2, 0.0, False)


@pytest.mark.slow
def test_in_bfloat16_readings_differ_and_attributions_are_those_of_float32_within_the_floor(
    tiny_half, open_questions, record
):
    (half,) = measured(tiny_half, [Case(open_questions[0], LONG)])
    spread, exact = half["answer"]["mean"], record["answer"]["mean"]
    assert spread["floor"] > exact["floor"] and exact["floor"] < 1e-5
    assert spread["attribution"] == pytest.approx(exact["attribution"], abs=0.02)


@pytest.fixture(scope="module")
def tiny_half(tiny_checkpoint, open_questions) -> Setting:
    """The random Llama in bfloat16."""
    from interp.formats import FORMATS
    from interp.models.checkpoints import Loading, loaded_checkpoint
    from interp.models.setting import prepared

    checkpoint = loaded_checkpoint(str(tiny_checkpoint("llama")), Loading(device="cpu", dtype="bfloat16"))
    return prepared(checkpoint, FORMATS["ScoreNumber"], pool=open_questions)


# Integrated gradients of the answer


@pytest.mark.slow
def test_the_answers_attribution_equals_captums_on_whole_plain_forward_passes(llama, record, transcript):
    embeds, answer = own_embeds(llama, transcript), transcript.positions("answer")
    baseline = embeds.clone()
    baseline[0, list(answer)] = replacement_embeddings(llama)["mean"].float()
    expected = (
        IntegratedGradients(lambda e: plain_score(llama, transcript, e))
        .attribute(embeds, baseline, n_steps=200, method="riemann_middle", internal_batch_size=8)[0]
        .sum(-1)
    )
    found = record["answer"]["mean"]
    assert len(answer) > 3 and not found["refused"]
    assert found["attribution"] == pytest.approx(expected[list(answer)].tolist(), abs=1e-4)
    assert max(map(abs, found["attribution"])) > 0.01
    others = [i for i in range(len(transcript.ids)) if i not in answer]
    assert expected[others].abs().max() == 0, "what does not move gets nothing"


@pytest.mark.slow
def test_from_a_neutral_token_it_equals_captums_layer_integrated_gradients(llama, open_questions, transcript):
    (found,) = measured(llama, [Case(open_questions[0], LONG)], baseline="neutral")
    model, answer = llama.checkpoint.model, list(transcript.positions("answer"))
    ids = torch.tensor([transcript.ids])
    baseline = ids.clone()
    baseline[0, answer] = neutral_token(llama.checkpoint)
    replacements, stops = filler_tokens(llama.checkpoint.tokenizer), list(llama.stops)
    suffixes = torch.tensor([[*s, one] for s in llama.prompter.level_suffixes(transcript) for one in replacements])
    values, before = torch.tensor(llama.prompter.confidence.values), len(transcript.ids)

    def score(ids):
        whole = torch.cat([ids.repeat_interleave(len(suffixes), 0), suffixes.repeat(len(ids), 1)], 1)
        said = model(whole, use_cache=False).logits.log_softmax(-1)
        tokens = said[:, before - 1 : -1].gather(-1, whole[:, before:, None])[..., 0]
        ends = said[..., stops].logsumexp(-1)  # [rows, tokens]
        at_once = (tokens[:, :-1].sum(-1) + ends[:, -2]).reshape(len(ids), -1, len(replacements))[..., :1]
        later = (tokens.sum(-1) + ends[:, -1]).reshape(len(ids), -1, len(replacements))
        return torch.cat([at_once, later], -1).logsumexp(-1).softmax(-1) @ values

    embedded = LayerIntegratedGradients(score, model.get_input_embeddings())  # its output has a row for each level
    batch = 8 * len(suffixes)
    expected = embedded.attribute(ids, baseline, n_steps=200, method="riemann_middle", internal_batch_size=batch)
    expected = expected.sum((0, -1))
    assert found["answer"]["neutral"]["attribution"] == pytest.approx(expected[answer].tolist(), abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "adapter"), KINDS)
def test_the_answers_attributions_sum_to_what_masking_it_drops(tiny_setting, open_questions, family, adapter):
    setting, case = tiny_setting(family, adapter), Case(open_questions[7], LONG)
    for baseline in ("mean", "neutral"):
        (found,) = measured(setting, [case], baseline=baseline)
        spread = found["answer"][baseline]
        drop = masking.measured(setting, [case])[0]["values"][f"{baseline}.drop"]
        assert found["effects"]["answer"][baseline] == pytest.approx(drop, abs=2e-5)
        assert spread["effect"] == pytest.approx(drop, abs=2e-5) and abs(drop) > 2e-4
        if not spread["refused"]:
            assert sum(spread["attribution"]) == pytest.approx(drop, abs=gap_allowed(drop, 1.0) + 2e-5)
        assert sum(spread["attribution"]) - spread["effect"] == pytest.approx(spread["gap"], abs=1e-7)
        assert found["values"]["answer.completeness_gap"] == abs(spread["gap"])
        assert found["values"]["answer.effect"] == found["effects"]["answer"][baseline]


@pytest.mark.slow
def test_the_stated_levels_logprob_is_another_score(llama, open_questions, transcript):
    (found,) = measured(llama, [Case(open_questions[0], LONG)], score="stated")
    stated = llama.reader.readings([transcript])[0].distribution.stated
    seen = replaced_by_hand(llama, transcript, (), 0, stated)
    assert found["value"] == pytest.approx(seen, abs=1e-4) and found["value"] < 0
    left = replaced_by_hand(
        llama, transcript, transcript.positions("answer"), replacement_embeddings(llama)["mean"], stated
    )
    assert found["effects"]["answer"]["mean"] == pytest.approx(seen - left, abs=1e-3)
    assert abs(seen - left) > 0.1 and (found["score"], found["range"]) == ("stated", 1.0)


# The integral itself


def scored_by(function, width: int = 1):
    return scorers.PathScore(function, width, 2048)


def test_a_value_worked_by_hand():
    """f = x y + x^2 from (0, 0) to (1, 1): x gets the integral of 3a, y that of a."""
    found = integrated_gradients(scored_by(lambda c: c[:, 0] * c[:, 1] + c[:, 0] ** 2), 2, effect=2.0, score_range=1.0)
    assert found.attribution == pytest.approx((1.5, 0.5), abs=1e-5)
    assert (found.nodes, found.refused) == (2 * gradients.FIRST_NODES, False) and abs(found.gap) < 1e-5


@given(st.lists(st.floats(-2, 2), min_size=6, max_size=6), st.integers(1, 200))
@examples(25)
def test_attributions_sum_to_the_effect_whatever_the_batch(weights, width):
    w = torch.tensor(weights)

    def function(c):
        return torch.tanh(c @ w[:3]) * (1 + c @ w[3:]) + (c**3).sum(-1)

    effect = (function(torch.ones(1, 3)) - function(torch.zeros(1, 3))).item()
    found = integrated_gradients(scored_by(function, width), 3, effect=effect, score_range=1.0)
    assert not found.refused
    assert sum(found.attribution) == pytest.approx(effect, abs=gap_allowed(effect, 1.0))


def test_a_path_of_one_token_needs_no_nodes():
    def never(coordinates):
        raise AssertionError("the score was asked for")

    found = integrated_gradients(scored_by(never), 1, effect=-0.25, score_range=1.0)
    assert (found.attribution, found.effect, found.gap, found.nodes, found.refused) == ((-0.25,), -0.25, 0.0, 0, False)


def test_an_integral_that_does_not_converge_is_refused_and_one_lucky_gap_is_not_enough():
    jump = scored_by(lambda c: torch.sigmoid(4000 * (c.sum(-1) - 0.001)))
    found = integrated_gradients(jump, 2, effect=1.0, score_range=1.0)
    assert found.refused and found.nodes == gradients.MOST_NODES
    assert abs(found.gap) > gap_allowed(1.0, 1.0)
    calls = []

    def exact_once(coordinates):
        calls.append(len(coordinates))
        return coordinates.sum(-1) * (1.0 if len(calls) <= math.ceil(gradients.FIRST_NODES / 384) else 3.0)

    lucky = integrated_gradients(scored_by(exact_once), 2, effect=2.0, score_range=1.0, most_nodes=48)
    assert lucky.refused and lucky.nodes == 48


@pytest.mark.slow
def test_a_refused_attribution_is_counted_and_the_exact_effects_stay(llama, record, open_questions):
    (found,) = measured(llama, [Case(open_questions[0], LONG)], steps=gradients.FIRST_NODES)
    assert (found["values"]["refused"], record["values"]["refused"]) == (1.0, 0.0)
    assert found["answer"]["mean"]["refused"] and found["answer"]["mean"]["nodes"] == gradients.FIRST_NODES
    assert found["effects"] == record["effects"] and found["tokens"] == record["tokens"]
    summary = estimates(METRICS, [found, record])
    assert (summary["attribution.refused_share"].value, summary["attribution.refused_share"].n) == (0.5, 2)


@pytest.mark.parametrize(
    ("effect", "score_range", "floor", "allowed"),
    [
        (0.5, 1.0, 0.0, 0.005),
        (-0.5, 1.0, 0.001, 0.005),
        (0.01, 1.0, 0.0, 0.001),
        (0.0, 0.8, 0.0002, 0.0008),
        (0.5, 1.0, 0.002, 0.006),
        (0.0, 1.0, 0.01, 0.03),
    ],
)
def test_a_gap_of_a_hundredth_of_the_effect_a_thousandth_of_the_range_or_three_floors_is_allowed(
    effect, score_range, floor, allowed
):
    assert gap_allowed(effect, score_range, floor) == pytest.approx(allowed)


# Token by token, and the whole prompt


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_token_by_token_telescopes_and_each_leg_is_a_difference_of_plain_forward_passes(
    tiny_setting, open_questions, family
):
    setting = tiny_setting(family)
    transcript = setting.prompter.transcript(open_questions[0], LONG)
    replacement = replacement_embeddings(setting)["neutral"]
    scorer = Scorer(setting, transcript, attribution._score(setting, "expected", transcript))
    for span in ("answer", "question"):
        positions = transcript.positions(span)
        seen = replaced_by_hand(setting, transcript, (), 0)
        found = token_by_token(scorer, positions, replacement, seen)
        by_hand = [replaced_by_hand(setting, transcript, positions[i:], replacement) for i in range(len(positions))] + [
            seen
        ]
        legs = [after - before for before, after in itertools.pairwise(by_hand)]
        assert found.attribution == pytest.approx(legs, abs=2e-5)
        assert sum(found.attribution) == pytest.approx(found.effect, abs=1e-9)
        assert found.effect == pytest.approx(seen - by_hand[0], abs=2e-5)
        assert (found.nodes, found.refused) == (0, False) and max(map(abs, found.attribution)) > 0.002


@pytest.mark.slow
def test_on_the_path_of_tokens_every_spans_tokens_sum_to_its_effect(llama, open_questions, transcript):
    (found,) = measured(llama, [Case(open_questions[0], LONG)], path="tokens")
    assert None not in found["tokens"] and found["path"] == "tokens"
    for span, effects in found["effects"].items():
        total = sum(found["tokens"][i] for i in transcript.positions(span))
        assert total == pytest.approx(effects["mean"], abs=2e-5)
    sizes = [abs(found["tokens"][i]) for i in transcript.positions("answer")]
    assert found["values"]["answer.rank"] == 1 + sum(abs(effect) > max(sizes) for effect in found["tokens"])


@pytest.mark.slow
def test_the_papers_path_reports_its_gap_and_shows_no_token_that_it_refused(
    llama, open_questions, transcript, monkeypatch
):
    monkeypatch.setattr(attribution, "MOST_PROMPT_NODES", 24)
    (found,) = measured(llama, [Case(open_questions[0], LONG)], path="prompt")
    assert list(found["answer"]) == ["pad", "zero"]
    pad = found["answer"]["pad"]
    everywhere = range(len(transcript.ids))
    replacement = llama.prefix.embedded([llama.checkpoint.tokenizer.pad_token_id])[0]
    effect = replaced_by_hand(llama, transcript, (), 0) - replaced_by_hand(llama, transcript, everywhere, replacement)
    assert pad["effect"] == pytest.approx(effect, abs=1e-4)
    assert sum(pad["attribution"]) - pad["effect"] == pytest.approx(pad["gap"], abs=1e-6)
    assert found["values"]["answer.completeness_gap"] == abs(pad["gap"])
    assert pad["refused"] and found["values"]["refused"] == 1.0, "24 nodes are one count, never two"
    assert set(found["tokens"]) == {None} and found["values"]["answer.rank"] is None
    assert found["values"]["answer.effect"] is None and found["values"]["tail.effect"] is None


@pytest.mark.slow
def test_where_the_papers_path_converges_its_tokens_are_shown(llama, open_questions, transcript, monkeypatch):
    monkeypatch.setattr(gradients, "gap_allowed", lambda effect, score_range, floor: math.inf)
    (found,) = measured(llama, [Case(open_questions[0], LONG)], path="prompt")
    assert found["tokens"] == found["answer"]["pad"]["attribution"] and found["values"]["refused"] == 0.0
    answer = transcript.positions("answer")
    assert found["values"]["answer.rank"] == rank_of_best(found["tokens"], answer)
    assert found["values"]["answer.effect"] == pytest.approx(sum(found["tokens"][i] for i in answer))


@pytest.mark.slow
def test_a_refused_number_is_kept_with_its_gap_in_the_record_and_in_no_summary(llama, open_questions, transcript):
    (plain,) = measured(llama, [Case(open_questions[0], LONG)], path="prompt", steps=24)
    (found,) = measured(llama, [Case(open_questions[0], LONG)], path="prompt", steps=24, keep_refused=True)
    assert "kept" not in plain and list(found["kept"]) == ["pad", "zero"]
    assert {key: value for key, value in found.items() if key != "kept"} == plain, "all else is as without it"
    for name, kept in found["kept"].items():
        attribution = found["answer"][name]
        assert kept["refused"] and kept["gap"] == attribution["gap"] and attribution["nodes"] == 24
        assert math.fsum(v for k, v in kept["values"].items() if k != "answer.rank") == pytest.approx(
            attribution["effect"] + attribution["gap"], abs=1e-5
        ), "the spans are the whole prompt"
        answer = transcript.positions("answer")
        assert kept["values"]["answer.effect"] == pytest.approx(sum(attribution["attribution"][i] for i in answer))
        assert kept["values"]["answer.rank"] == rank_of_best(attribution["attribution"], answer)
    typed(AttributionRecord, found | {"measure": "attribution", "id": "q", "set": 0})
    summary = estimates(METRICS, [found])
    assert summary == estimates(METRICS, [plain]) and summary["attribution.refused_share"].value == 1
    assert summary["attribution.answer.effect"].n == 0 and summary["attribution.answer.rank"].value is None


def test_nodes_are_doubled_up_to_the_steps_that_are_asked_for():
    jump = scored_by(lambda c: torch.sigmoid(4000 * (c.sum(-1) - 0.001)))
    asked = integrated_gradients(jump, 2, effect=1.0, score_range=1.0, most_nodes=40)
    assert asked.refused and asked.nodes == 40
    for options, said in (({"steps": 11}, "--steps 11: must be at least 12"), ({"keep_refused": True}, "needs --path")):
        with pytest.raises(UserError, match=said):
            AttributionOptions(**options)


@pytest.mark.slow
def test_the_papers_path_begins_at_the_filler_that_is_named(llama, open_questions, transcript, monkeypatch):
    monkeypatch.setattr(attribution, "MOST_PROMPT_NODES", 1)
    token = named_token(llama.checkpoint, "x")
    (found,) = measured(replace(llama, filler=token), [Case(open_questions[0], LONG)], path="prompt")
    everywhere, filler = range(len(transcript.ids)), llama.prefix.embedded([token])[0]
    effect = replaced_by_hand(llama, transcript, (), 0) - replaced_by_hand(llama, transcript, everywhere, filler)
    assert found["answer"]["pad"]["effect"] == pytest.approx(effect, abs=1e-4)
    answer = transcript.positions("answer")
    hidden = replaced_by_hand(llama, transcript, (), 0) - replaced_by_hand(llama, transcript, answer, filler)
    assert found["effects"]["answer"]["pad"] == pytest.approx(hidden, abs=1e-4)


# Ranks


@pytest.mark.parametrize(
    ("effects", "members", "rank"),
    [
        ([0.1, -0.5, 0.3], [1], 1),
        ([0.1, -0.5, 0.3], [0, 2], 2),
        ([0.1, -0.5, 0.3], [0], 3),
        ([0.2, -0.2, 0.2], [2], 1),
        ([0.4, None, 0.3], [2], 2),
        ([0.4, None, 0.3], [1, 2], 2),
        ([0.4, None, 0.3], [1], None),
        ([0.4], [], None),
        ([0.0, 0.0], [1], None),
    ],
)
def test_the_rank_counts_what_is_larger_in_size_than_the_best_of_the_answer(effects, members, rank):
    assert rank_of_best(effects, members) == rank


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12, unique_by=abs), st.data())
def test_ranks_agree_with_a_sorted_list(effects, data):
    members = data.draw(st.lists(st.sampled_from(range(len(effects))), min_size=1, unique=True))
    order = sorted(range(len(effects)), key=lambda i: -abs(effects[i]))
    there = any(effects[i] for i in members)
    assert rank_of_best(effects, members) == (1 + min(order.index(i) for i in members) if there else None)


def test_the_summary_takes_the_median_rank_and_the_mean_of_everything_else():
    records = [{"values": {"answer.rank": rank, "answer.effect": rank / 10}} for rank in (1, 2, 9)]
    found = estimates(METRICS, [*records, {"values": {"answer.rank": None, "answer.effect": 0.0}}])
    assert (found["attribution.answer.rank"].value, found["attribution.answer.rank"].left_out) == (2.0, 1)
    assert found["attribution.answer.effect"].value == pytest.approx(0.3)


def test_where_memory_is_short_a_path_is_read_in_smaller_batches_to_the_same_attributions():
    import torch

    sizes = []

    def squared(coordinates: torch.Tensor) -> torch.Tensor:
        sizes.append(len(coordinates))
        return (coordinates**2).sum(-1)

    told = {}
    for most in (2048, 30):
        score = scorers.PathScore(squared, 10, most)
        told[most] = attribution.integrated_gradients(score, 2, effect=2.0, score_range=1.0), max(sizes)
        sizes.clear()
    assert told[30][0].attribution == pytest.approx(told[2048][0].attribution, abs=1e-6) == (1.0, 1.0)
    assert told[30][1] <= 3 < told[2048][1]
