"""Steering: a vector is added from the first token after the answer on, and nothing else is changed."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import written_levels
from test_prefix import IDS, KINDS

from interp.errors import UserError
from interp.models import steering
from interp.models.readout import ConfidenceReader
from interp.models.residual import Steering, residual_changed
from interp.models.steering import Card, SavedSteering, added_from, digest_of, loaded, steered_readings
from interp.models.streams import streams

RNG = np.random.default_rng(0)
VECTORS = np.stack([RNG.normal(size=48), np.zeros(48), RNG.normal(size=48)]).astype(np.float32)
CARD = Card(model="tiny", fingerprint="f", direction="stated", place="read", unit="u", fitted_on="q", format="F")


def by_hand(setting, transcript, layer: int, vector: np.ndarray) -> torch.Tensor:
    """The definition: one plain pass over each whole text, with the vector added from the tail's first token on."""
    first, stops = transcript.positions("tail")[0], list(setting.stops)

    def add(stream):
        changed = stream.clone()
        changed[:, first:] += torch.from_numpy(vector).to(stream)
        return changed

    levels = []
    for ways in written_levels(setting, transcript):
        written = []
        for suffix in ways:
            ids = torch.tensor([[*transcript.ids, *suffix]])
            with torch.no_grad(), residual_changed(setting.checkpoint.model, {layer: add}):
                logprobs = setting.checkpoint.model(ids, use_cache=False).logits[0].double().log_softmax(-1)
            before = len(transcript.ids)
            tokens = sum(logprobs[i - 1, ids[0, i]] for i in range(before, ids.shape[1]))
            written.append(tokens + logprobs[-1, stops].logsumexp(-1))
        levels.append(torch.stack(written).logsumexp(0))
    return torch.stack(levels).softmax(-1)


def with_steering(setting, added: Steering):
    reader = ConfidenceReader(setting.prefix, setting.prompter, setting.stops, steering=added)
    return replace(setting, reader=reader)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize(("family", "adapter"), KINDS, ids=IDS)
def test_an_added_vector_is_that_of_a_hook_by_hand(tiny_setting, open_questions, family, adapter, layer):
    setting = tiny_setting(family, adapter)
    transcripts = [setting.prompter.transcript(open_questions[0], answer) for answer in ("Kitten", "Kid")]
    read = steered_readings(setting.reader, transcripts, layer, [VECTORS, VECTORS[::-1]])
    alone = [setting.reader.readings([transcript])[0] for transcript in transcripts]
    for transcript, readings, plain, vectors in zip(transcripts, read, alone, (VECTORS, VECTORS[::-1]), strict=True):
        for reading, vector in zip(readings[1:], vectors, strict=True):
            expected = by_hand(setting, transcript, layer, vector)
            assert reading.distribution.probability == pytest.approx(expected.tolist(), abs=1e-4)
            assert reading.answer_logprob == pytest.approx(plain.answer_logprob, abs=1e-4), "the answer is untouched"
        unsteered, moved, zero, _ = (reading.distribution for reading in readings)
        assert zero.probability == pytest.approx(unsteered.probability, abs=1e-6), "dose 0 is the unsteered reading"
        assert unsteered.probability == pytest.approx(plain.distribution.probability, abs=1e-5)
        assert np.abs(np.subtract(moved.probability, unsteered.probability)).max() > 0.01, "the vector does something"


@pytest.mark.parametrize(("family", "adapter"), [("llama", False), ("gemma2", True)])
def test_a_reader_that_steers_reads_what_one_vector_at_a_time_gives(tiny_setting, open_questions, family, adapter):
    setting = tiny_setting(family, adapter)
    transcripts = [setting.prompter.transcript(open_questions[0], answer) for answer in ("Kitten", "Kid", "Kitten")]
    steered = with_steering(setting, Steering(2, VECTORS[0]))
    together = steered.reader.readings(transcripts)  # equal answers share their nodes: each is steered once
    by_vector = steered_readings(setting.reader, transcripts, 2, [VECTORS[:1]] * 3)
    for reading, (_, expected) in zip(together, by_vector, strict=True):
        assert reading.distribution.probability == pytest.approx(expected.distribution.probability, abs=1e-5)
        assert reading.answer_logprob == pytest.approx(expected.answer_logprob, abs=1e-5)
    doubled = steered_readings(steered.reader, transcripts[:1], 2, [VECTORS[:1]])[0]
    (expected,) = steered_readings(setting.reader, transcripts[:1], 2, [VECTORS[:1] * np.array([[1], [2]])])
    assert [reading.distribution.expected for reading in doubled] == pytest.approx(
        [reading.distribution.expected for reading in expected[1:]], abs=1e-5
    ), "what an instrument adds comes on top"
    with pytest.raises(ValueError, match="steering begins at token"):
        steered.reader.plan(transcripts[0], len(transcripts[0].ids) - 1)


def test_a_steered_answer_read_below_its_prompt_is_the_same(taught_setting, open_questions):
    from interp.methods.default import answered_and_read, spoken

    setting = with_steering(taught_setting, Steering(2, VECTORS[0]))
    answers, read = answered_and_read(setting, open_questions[:3], free=False)
    plain, unsteered = answered_and_read(taught_setting, open_questions[:3], free=False)
    assert [record["answer"] for record in answers] == [record["answer"] for record in plain], "greedy as before"
    asked = [(q, read[q.id]["of_answer"]) for q in open_questions[:3] if q.id in read]
    assert asked
    for (question, _), record in zip(asked, spoken(setting, asked), strict=True):
        assert read[question.id]["probability"] == pytest.approx(record["probability"], abs=1e-5)
        assert read[question.id]["expected"] != pytest.approx(unsteered[question.id]["expected"], abs=1e-3)


def test_steering_in_bfloat16_is_that_of_a_plain_pass(tiny_setting, open_questions):
    from interp.formats import FORMATS
    from interp.models.checkpoints import Checkpoint
    from interp.models.setting import prepared

    checkpoint = tiny_setting("llama").checkpoint
    half = Checkpoint("half", copy.deepcopy(checkpoint.model).bfloat16(), checkpoint.tokenizer)
    setting = prepared(half, FORMATS["ScoreNumber"], steering=Steering(2, VECTORS[0]))
    assert setting.reader.steering and setting.check
    transcript = setting.prompter.transcript(open_questions[0], "Kitten")
    (reading,) = setting.reader.readings([transcript])
    expected = by_hand(setting, transcript, 2, VECTORS[0])
    assert reading.distribution.probability == pytest.approx(expected.tolist(), abs=0.02)


@pytest.mark.parametrize("layer", [0, 2])
def test_rollout_attribution_and_streams_are_those_of_the_steered_model(tiny_setting, open_questions, layer):
    from interp.instruments import rollout
    from interp.instruments.scorer import Scorer
    from interp.models.setting import Case
    from interp.models.streams import layers_kept

    plain = tiny_setting("llama")
    setting, case = with_steering(plain, Steering(layer, VECTORS[0])), Case(open_questions[0], "Kitten")
    transcript = setting.prompter.transcript(case.question, case.answer)
    # attention reacts in the layers after the addition, in one pass and in two
    whole, again = (rollout.measured(setting, [case], passes=passes)[0] for passes in (1, 2))
    assert whole["values"] == pytest.approx(again["values"], abs=1e-5)
    assert whole["values"] != pytest.approx(rollout.measured(plain, [case])[0]["values"], abs=1e-4)
    # an effect of no replacement is the steered score, whether or not the token lies in the tail
    (reading,) = setting.reader.readings([transcript])
    values = torch.tensor(setting.prompter.confidence.values, dtype=torch.float64)
    scorer = Scorer(setting, transcript, lambda levels: (levels.double().softmax(-1) * values).sum(-1))
    last = len(transcript.ids) - 1
    own = setting.prefix.embedded([transcript.ids[last]])[0]
    unchanged = scorer.replaced([((), own), ((last,), own)])
    assert unchanged == pytest.approx([reading.distribution.expected] * 2, abs=1e-5)
    # streams are kept as they enter a layer, before the vector is added; only those after the answer change
    answered = [(case.question, case.answer)]
    (before,), (after,) = streams(plain, answered), streams(setting, answered)
    assert layers_kept(setting) == (0, 3)
    assert torch.equal(before[:2], after[:2]) and (before[2:, 1] - after[2:, 1]).abs().max() > 0.01
    assert torch.equal(before[:, 0], after[:, 0])


def test_the_change_of_a_pass_begins_at_each_prompts_own_token():
    change = added_from(Steering(1, np.ones(2, np.float32)), [3, 5], 2)[1]
    assert change(torch.zeros(2, 4, 2))[..., 0].tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]  # tokens 2 to 5
    assert added_from(None, [3], 0) == {}


# Files


def test_a_vector_comes_back_from_its_file(tmp_path, tiny_model):
    saved = SavedSteering(Steering(2, VECTORS[0]), 3, CARD)
    path = tmp_path / "new" / "steering.safetensors"
    steering.written(saved, path)
    again = loaded(path)
    assert (again.steering.layer, again.depth, again.card) == (2, 3, CARD)
    assert np.array_equal(again.steering.vector, VECTORS[0])
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    assert "after 2 of 3 layers" in page and "tiny (f)" in page and "--steer steering.safetensors" in page
    dosed = again.dosed(-2.0, tiny_model("llama"), "tiny")
    assert dosed.layer == 2 and np.allclose(dosed.vector, -2 * VECTORS[0])
    assert digest_of(path) == digest_of(path) and len(digest_of(path)) == 12
    before = digest_of(path)
    steering.written(replace(saved, steering=Steering(2, VECTORS[2])), path)
    assert digest_of(path) != before


def test_what_is_no_such_vector_is_one_sentence(tmp_path, tiny_model):
    from safetensors.numpy import save_file

    saved = SavedSteering(Steering(2, VECTORS[0]), 7, CARD)
    with pytest.raises(UserError, match=r"the vector is for 7 layers of width 48 \(tiny\), and mine has 3 of width 48"):
        saved.dosed(1.0, tiny_model("llama"), "mine")
    with pytest.raises(UserError, match="7 layers of width 5 "):
        replace(saved, steering=Steering(2, VECTORS[0, :5])).dosed(1.0, tiny_model("llama"), "mine")
    path = tmp_path / "s.safetensors"
    for metadata, vector in (
        (None, VECTORS[0]),
        ({"kind": steering.KIND}, VECTORS[0]),
        ({"kind": steering.KIND, "layer": "9", "depth": "3"} | vars(CARD), VECTORS[0]),
        ({"kind": steering.KIND, "layer": "2", "depth": "3"} | vars(CARD), VECTORS),
        ({"kind": steering.KIND, "layer": "2", "depth": "3"} | vars(CARD), VECTORS[0] * np.nan),
    ):
        save_file({"vector": vector}, path, metadata=metadata)
        with pytest.raises(UserError, match="holds no steering vector of stated confidence; give"):
            loaded(path)
    path.write_bytes(b"pickle")
    with pytest.raises(UserError, match=r"--steer .*s.safetensors"):
        loaded(path)
    for absent in (loaded, digest_of):
        with pytest.raises(UserError, match=r"--steer .*none"):
            absent(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the steering vector is not saved"):
        steering.written(saved, tmp_path / "file" / "s.safetensors")
