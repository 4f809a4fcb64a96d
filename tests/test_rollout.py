"""Attention rollout: one row of the textbook's matrix product, beside its null, by span."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from hypothesis import given
from hypothesis import strategies as st

from figures.captions import RunData, Subject
from figures.table import table_of
from interp.instruments.base import estimates
from interp.instruments.rollout import (
    METRICS,
    measured,
    pages,
    rollout_row,
    sink_mass,
    span_masses,
    uniform_rollout_row,
    without_first,
)
from interp.intervals import estimated
from interp.models.attention import HeadMeans, head_means
from interp.models.setting import Case
from interp.run.runs import nested


def textbook(layers) -> np.ndarray:
    """Abnar and Zuidema 2020, written out: the product of 0.5 W + 0.5 I, last layer leftmost."""
    product = np.eye(layers[0].shape[-1])
    for layer in layers:
        product = (0.5 * layer + 0.5 * np.eye(len(product))) @ product
    return product


def causal(rng: np.random.Generator, tokens: int) -> np.ndarray:
    weights = np.tril(rng.random((tokens, tokens)) + 1e-3)
    return weights / weights.sum(-1, keepdims=True)


def uniform(tokens: int) -> np.ndarray:
    return np.tril(np.ones((tokens, tokens))) / np.arange(1, tokens + 1)[:, None]


STACKS = st.builds(
    lambda seed, tokens, depth: [causal(np.random.default_rng((seed, i)), tokens) for i in range(depth)],
    st.integers(0, 2**32),
    st.integers(1, 12),
    st.integers(1, 6),
)


def test_a_value_worked_by_hand():
    """Token 1 looks 1/4 at token 0; mixed with itself 1/8. Two layers: 1/8 + 7/8 x 1/8 = 15/64."""
    layer = np.array([[1.0, 0.0], [0.25, 0.75]])
    assert rollout_row([layer], 1).tolist() == [1 / 8, 7 / 8]
    assert rollout_row([layer, layer], 1).tolist() == [15 / 64, 49 / 64]
    assert rollout_row([layer, layer], 0).tolist() == [1.0, 0.0]


def test_the_order_of_layers_matters_and_the_last_is_read_first():
    """Token 2 looks at 1 in the last layer, token 1 at 0 in the first: only in that order does 0 reach 2."""
    up = np.array([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    then = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 1.0, 0]])
    assert rollout_row([up, then], 2).tolist() == [0.25, 0.25, 0.5]
    assert rollout_row([then, up], 2).tolist() == [0.0, 0.5, 0.5]


@given(STACKS)
def test_every_row_is_that_of_the_textbooks_matrix_product(layers):
    whole = textbook(layers)
    for row in range(len(whole)):
        assert rollout_row(layers, row) == pytest.approx(whole[row], abs=1e-12)


@given(STACKS)
def test_a_row_is_a_distribution_over_what_came_before(layers):
    for row in range(layers[0].shape[0]):
        weights = rollout_row(layers, row)
        assert weights.sum() == pytest.approx(1) and weights.min() >= 0
        assert not weights[row + 1 :].any()
        assert weights[row] >= 0.5 ** len(layers)


@pytest.mark.slow
@given(st.integers(1, 15), st.integers(1, 8), st.data())
def test_the_null_is_the_rollout_of_uniform_attention(tokens, depth, data):
    row = data.draw(st.integers(0, tokens - 1))
    layers = [uniform(tokens)] * depth
    assert uniform_rollout_row(tokens, depth, row) == pytest.approx(rollout_row(layers, row), abs=1e-12)


@pytest.mark.parametrize(("depth", "mass"), [(8, 0.28), (16, 0.75), (28, 0.98)])
def test_the_null_collapses_onto_the_first_token_with_depth(depth, mass):
    assert uniform_rollout_row(120, depth, 119)[0] == pytest.approx(mass, abs=0.005)
    assert textbook([uniform(120)] * depth)[119, 0] == pytest.approx(mass, abs=0.005)


def test_what_goes_to_a_learned_sink_worked_by_hand():
    """Two tokens, two layers. Token 0 gives half to the sink, token 1 a quarter each to 0, itself twice, and the sink.

    One layer, mixed with the tokens themselves: token 1 holds 1/8 of 0, 3/4 of 1, and 1/8 is lost. Two layers: of 0
    3/4 x 1/8 + 1/8 x 3/4 = 3/16, of 1 9/16; lost 1/8 + 1/8 x 1/4 + 3/4 x 1/8 = 1/4."""
    layer = np.array([[0.5, 0.0], [0.25, 0.5]])
    assert rollout_row([layer], 1).tolist() == [1 / 8, 3 / 4] and sink_mass(rollout_row([layer], 1)) == 1 / 8
    twice = rollout_row([layer, layer], 1)
    assert twice.tolist() == [3 / 16, 9 / 16] and sink_mass(twice) == 1 / 4
    assert sink_mass(rollout_row([layer], 0)) == 1 / 4
    assert sink_mass(np.array([0.4, 0.6])) == 0


@pytest.mark.slow
@given(STACKS, st.integers(0, 2**32))
def test_the_sink_is_a_token_more_that_looks_at_nothing_else(layers, seed):
    """The definition: the same product with a row and a column for the sink, which keeps what it was given."""
    kept = np.random.default_rng(seed).uniform(0.2, 1, (len(layers), len(layers[0]), 1))
    sinking = [layer * share for layer, share in zip(layers, kept, strict=True)]
    tokens = len(layers[0])
    augmented = []
    for layer in sinking:
        whole = np.zeros((tokens + 1, tokens + 1))
        whole[:tokens, :tokens], whole[:tokens, tokens], whole[tokens, tokens] = layer, 1 - layer.sum(-1), 1
        augmented.append(whole)
    product = textbook(augmented)
    for row in range(tokens):
        weights = rollout_row(sinking, row)
        assert weights == pytest.approx(product[row, :tokens], abs=1e-12)
        assert sink_mass(weights) == pytest.approx(product[row, tokens], abs=1e-12)
        assert sink_mass(weights) + weights.sum() == pytest.approx(1)


@given(STACKS)
def test_without_the_first_token_the_rest_keeps_its_proportions_and_sums_to_1(layers):
    weights = rollout_row(layers, layers[0].shape[0] - 1)
    kept = without_first(weights)
    assert kept[0] == 0
    if len(weights) == 1:
        assert kept.tolist() == [0.0], "there is nothing but the sink"
    else:
        assert kept.sum() == pytest.approx(1)
        assert kept[1:] * (1 - weights[0]) == pytest.approx(weights[1:])


def test_span_masses_add_up_to_1_worked_by_hand():
    weights = np.array([0.4, 0.1, 0.2, 0.05, 0.25])
    spans = ("special", "question", "answer", "answer", "tail")
    assert span_masses(weights, spans) == pytest.approx({"special": 0.4, "question": 0.1, "answer": 0.25, "tail": 0.25})
    assert "shots" not in span_masses(weights, spans), "a span that does not occur has no mass, not 0"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_model_it_is_the_textbook_product_of_its_own_attention(tiny_setting, open_questions, family):
    setting, question = tiny_setting(family), open_questions[0]
    (record,) = measured(setting, [Case(question, "Kitten")])
    transcript = setting.prompter.transcript(question, "Kitten")
    blank = setting.checkpoint.tokenizer(" ", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*transcript.ids, *blank]])  # each level of this vocabulary begins with a blank
    model = setting.checkpoint.model
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            attention = model(ids, output_attentions=True, use_cache=False).attentions
    finally:
        model.set_attn_implementation(before)
    layers = [layer[0].mean(0).double().numpy() for layer in attention]
    whole = textbook(layers)
    assert record["layers"] == len(layers) == 3
    assert record["spans"] == [*transcript.spans, "tail"]
    assert record["weights"]["confidence"] == pytest.approx(whole[-1], abs=1e-5)
    end = transcript.positions("answer")[-1]
    assert record["weights"]["answer"] == pytest.approx(whole[end], abs=1e-5)
    assert abs(whole[-1] - whole[end]).max() > 0.1
    no_residual = layers[2] @ layers[1] @ layers[0]
    one_head = textbook([layer[0, 0].double().numpy() for layer in attention])
    for other in (no_residual, one_head):
        assert abs(other[-1] - whole[-1]).max() > 0.001, "a rollout without residual or head mean would be seen"


def test_every_number_by_span_follows_from_the_weights_in_the_record(tiny_setting, open_questions):
    (record,) = measured(tiny_setting("llama"), [Case(open_questions[0], "Kitten")])
    values, spans = record["values"], record["spans"]
    for prefix, row in (("", "confidence"), ("from_answer.", "answer")):
        weights, null = np.array(record["weights"][row]), np.array(record["null"][row])
        for readings, name in ((weights, "mass"), (null, "null")):
            assert sum(values[f"{prefix}{span}.{name}"] for span in set(spans)) == pytest.approx(1, abs=1e-4)
            left = readings[1:] / readings[1:].sum()
            own = "without_first" if name == "mass" else "without_first_null"
            for span in set(spans):
                at = [i for i, s in enumerate(spans) if s == span]
                assert values[f"{prefix}{span}.{name}"] == pytest.approx(readings[at].sum(), abs=1e-4)
                rest = sum(left[i - 1] for i in at if i)
                assert values[f"{prefix}{span}.{own}"] == pytest.approx(rest, abs=1e-4)
        for span in set(spans):
            mean = values[f"{prefix}{span}.mass"] / spans.count(span)
            assert values[f"{prefix}{span}.per_token"] == pytest.approx(mean)
    assert record["null"]["confidence"] == pytest.approx(uniform_rollout_row(len(spans), 3, len(spans) - 1), rel=1e-4)
    last = [i for i, span in enumerate(spans) if span == "answer"][-1]
    assert record["null"]["answer"] == pytest.approx(uniform_rollout_row(len(spans), 3, last), rel=1e-4, abs=1e-9)


def test_windows_cover_each_layer_once_and_are_rollouts_of_their_layers(tiny_setting, open_questions):
    setting = tiny_setting("gemma2")
    (record,) = measured(setting, [Case(open_questions[0], "Kitten")])
    assert list(record["windows"]) == ["0-0", "1-1", "2-2"]
    ids = [*setting.prompter.transcript(open_questions[0], "Kitten").ids]
    ids += setting.checkpoint.tokenizer(" ", add_special_tokens=False)["input_ids"]
    (layers,) = head_means(setting.checkpoint.model, [ids])
    for layer, masses in zip(layers, record["windows"].values(), strict=True):
        row = 0.5 * layer[-1]
        row[-1] += 0.5
        assert masses == pytest.approx(span_masses(row, record["spans"]), abs=1e-5)
        assert sum(masses.values()) == pytest.approx(1, abs=1e-5)
    sees = record["windows"]["1-1"]["instruction"], record["windows"]["0-0"]["instruction"]
    assert sees[0] > 0 == sees[1], "in a sliding layer the slot is too far from the instruction to see it"


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_a_batch_of_unequal_lengths_equals_one_by_one(tiny_setting, open_questions, family):
    setting = tiny_setting(family)
    cases = [
        Case(open_questions[0], "Kitten"),
        Case(open_questions[7], "a much longer answer"),
        Case(open_questions[8], "3"),
    ]
    together = measured(setting, cases)
    assert len({len(record["spans"]) for record in together}) == 3
    for case, record in zip(cases, together, strict=True):
        (alone,) = measured(setting, [case])
        assert record["values"] == pytest.approx(alone["values"], abs=1e-5)
    assert together[0]["values"]["answer.mass"] != pytest.approx(together[2]["values"]["answer.mass"], abs=1e-3)


def test_an_adapter_changes_the_rollout(tiny_setting, open_questions):
    cases = [Case(open_questions[0], "Kitten")]
    (base,), (adapted,) = measured(tiny_setting("llama"), cases), measured(tiny_setting("llama", True), cases)
    change = np.subtract(base["weights"]["confidence"], adapted["weights"]["confidence"])
    assert abs(change).max() > 1e-4 and sum(adapted["weights"]["confidence"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_a_models_learned_sinks_are_a_span_of_their_own(tiny_setting, open_questions):
    from test_attention import own_attention, sinking

    plain = tiny_setting("llama")
    size = plain.checkpoint.model.config.vocab_size
    model = sinking(vocab_size=size, sliding_window=400, num_hidden_layers=3)
    setting = replace(plain, checkpoint=replace(plain.checkpoint, model=model))
    (record,) = measured(setting, [Case(open_questions[0], "Kitten")])
    transcript = plain.prompter.transcript(open_questions[0], "Kitten")
    blank = plain.checkpoint.tokenizer(" ", add_special_tokens=False)["input_ids"]
    layers = [
        own[0].mean(0).double().numpy() for own in own_attention(model, torch.tensor([[*transcript.ids, *blank]]))[0]
    ]
    whole, values, last = textbook(layers), record["values"], transcript.positions("answer")[-1]
    assert values["sink.mass"] == pytest.approx(1 - whole[-1].sum(), abs=1e-5)
    assert values["from_answer.sink.mass"] == pytest.approx(1 - whole[last].sum(), abs=1e-5)
    assert 0.02 < values["sink.mass"] != pytest.approx(values["from_answer.sink.mass"], abs=1e-3)
    for prefix in ("", "from_answer."):
        assert sum(values[f"{prefix}{span}.mass"] for span in {*record["spans"], "sink"}) == pytest.approx(1, abs=1e-6)
        assert sum(values[f"{prefix}{span}.null"] for span in set(record["spans"])) == pytest.approx(1, abs=1e-6)
    assert not any("sink" in name and not name.endswith("sink.mass") for name in values), "a null has no sink"
    for masses in record["windows"].values():
        assert sum(masses.values()) == pytest.approx(1, abs=1e-6) and masses["sink"] > 0.001
    (without,) = measured(plain, [Case(open_questions[0], "Kitten")])
    for one, shown in ((record, True), (without, False)):
        records = [{**one, "measure": "rollout", "set": 0, "id": "a"}]
        subject = Subject("m", None, "d", 1, 1, "ScoreNumber")
        (page,) = pages(RunData(records, estimates(METRICS, records), subject))
        texts = {text.get_text() for ax in page.figure.axes for text in ax.get_yticklabels()}
        said = " ".join(page.caption.split())
        assert ("sink" in texts) == ("confidence to sink: " in said) == ("have learned sinks" in said) == shown
        table = table_of(nested({"rollout.sink.mass": estimated([one["values"].get("sink.mass")]).as_record()}))
        assert [row.name for row in table.rows] == ["confidence to learned sinks"]
    assert "sink.mass" not in without["values"] and not any("sink" in masses for masses in without["windows"].values())


def test_means_of_layers_are_kept_as_lower_triangles():
    square = np.tril(np.arange(9.0).reshape(3, 3))
    means = HeadMeans([square[np.tril_indices(3)]] * 2, 3)
    assert (means[1] == square).all() and len(means) == 2 and len(means[:1]) == 1 and not means.sinks


def test_the_summary_is_the_mean_over_questions_and_counts_what_lacks_a_span():
    records = [{"values": {"answer.mass": 0.2, "shots.mass": 0.5}}, {"values": {"answer.mass": 0.4}}]
    found = estimates(METRICS, records)
    assert (found["rollout.answer.mass"].value, found["rollout.answer.mass"].n) == (pytest.approx(0.3), 2)
    assert (found["rollout.shots.mass"].value, found["rollout.shots.mass"].left_out) == (0.5, 1)
