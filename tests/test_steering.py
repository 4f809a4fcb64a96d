"""Steering: a vector is added from the first token after the answer on, and nothing else is changed."""

import copy
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import written_levels
from test_prefix import IDS, KINDS

import interp
from figures.page.diagnosis import run_data
from interp.errors import UserError
from interp.instruments.base import estimates
from interp.instruments.doses import (
    Evidence,
    SteeringOptions,
    matching_dose,
    random_units,
    slope,
    steered,
    steering_layer,
)
from interp.instruments.steering import STEERING
from interp.measures import SteeringRecord
from interp.methods.base import Answered, Draws, Verdict
from interp.methods.steered import STEERED, alone
from interp.models import steering
from interp.models.readout import ConfidenceReader
from interp.models.residual import Steering, residual_changed
from interp.models.steering import Card, SavedSteering, added_from, loaded, steered_readings
from interp.models.streams import streams
from interp.options import Added, changed, composed
from interp.pipelines.compare import Compare
from interp.pipelines.diagnose import diagnosed
from interp.pipelines.diagnosis import Diagnose
from interp.pipelines.evaluate import evaluated
from interp.pipelines.evaluation import Evaluate
from interp.probes import within
from interp.run.dryrun import DryRun
from interp.run.runs import read_run
from interp.run.typed import typed

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


@pytest.mark.slow
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
    before = Added(steer=path).digest
    assert before == Added(steer=path, steer_dose=3.0).digest and len(before) == 12
    steering.written(replace(saved, steering=Steering(2, VECTORS[2])), path)
    assert Added(steer=path).digest != before and Added().digest is None


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
    for absent in (loaded, lambda path: Added(steer=path).digest):
        with pytest.raises(UserError, match=r"--steer .*none"):
            absent(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the steering vector is not saved"):
        steering.written(saved, tmp_path / "file" / "s.safetensors")


def test_a_planted_direction_raises_the_confidence_and_its_opposite_lowers_it(tiny_setting, open_questions):
    setting = tiny_setting("llama")
    transcript = setting.prompter.transcript(open_questions[0], "Kitten")
    low, *_, high = (suffix[-1] for suffix in setting.prompter.level_suffixes(transcript)[:10])
    head = setting.checkpoint.model.get_output_embeddings().weight.detach().numpy()
    planted = head[high] - head[low]  # what makes "9" likelier than "0", after the last layer
    doses = np.array([-40, -10, 0, 10, 40], dtype=np.float32)
    (read,) = steered_readings(setting.reader, [transcript], 3, [doses[:, None] * planted])
    expected = [reading.distribution.expected for reading in read[1:]]
    assert expected == sorted(expected) and expected[-1] > expected[2] + 0.2 and expected[0] < expected[2] - 0.1
    assert expected[2] == pytest.approx(read[0].distribution.expected, abs=1e-6)
    alone = [steered_readings(setting.reader, [transcript], 3, [dose * planted[None]])[0][1] for dose in doses]
    assert expected == pytest.approx([reading.distribution.expected for reading in alone], abs=1e-5), "one by one"


# What is added, and how much


def test_the_dose_is_where_others_are_as_confident_as_the_probe():
    doses = np.array([-2.0, 0.0, 2.0])
    rising, falling = np.array([0.2, 0.4, 0.8]), np.array([0.8, 0.4, 0.2])
    assert matching_dose(0.6, doses, rising) == pytest.approx(1.0)
    assert matching_dose(0.3, doses, rising) == pytest.approx(-1.0)
    assert matching_dose(0.6, doses, falling) == pytest.approx(-1.0)
    assert [matching_dose(p, doses, rising) for p in (0.05, 0.99)] == [-2.0, 2.0], "no further than the doses go"
    assert [matching_dose(p, doses, falling) for p in (0.05, 0.99)] == [2.0, -2.0]
    assert matching_dose(0.9, doses, np.full(3, 0.5)) == 0.0
    bent = np.array([0.2, 0.5, 0.4])  # made to rise: 0.2, 0.45, 0.45
    assert matching_dose(0.325, doses, bent) == pytest.approx(-1.0)
    assert slope(doses, rising) == pytest.approx(np.polyfit(doses, rising, 1)[0])


def test_the_layer_is_the_kept_one_nearest_to_half_the_depth():
    layers = (0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30)
    assert layers[steering_layer(layers, None)] == 15
    assert steering_layer((0, 3, 4), None) == 1 and steering_layer((0, 3), None) == 1
    assert layers[steering_layer(layers, 21)] == 21
    with pytest.raises(UserError, match=r"--steer-layer 4: streams are kept after 0, 3, 6 layers; name one"):
        steering_layer((0, 3, 6), 4)


def test_options_that_mean_nothing_are_one_sentence():
    for doses in ((1.0, 2.0), (0.0, 1.0), (-1.0, 1.0), (-1.0, 0.0, float("nan"))):
        with pytest.raises(UserError, match=r"--doses .*: must hold 0, a dose below it and one above"):
            SteeringOptions(doses=doses)
    with pytest.raises(UserError, match="names a dose twice"):
        SteeringOptions(doses=(-1.0, 0.0, 1.0, 1.0))
    with pytest.raises(UserError, match="--random-directions -1"):
        SteeringOptions(random_directions=-1)
    assert SteeringOptions(doses=(2.0, 0.0, -2.0)).doses == (-2.0, 0.0, 2.0)


def test_random_directions_have_length_1_and_follow_from_the_seed():
    drawn = random_units(48, 4, 1)
    assert np.linalg.norm(drawn, axis=1) == pytest.approx(1) and np.array_equal(drawn, random_units(48, 4, 1))
    assert np.abs(drawn @ random_units(48, 4, 2).T).max() < 0.9


def planted(questions: int = 60, relations: int = 5):
    """Streams whose first coordinate tells right from wrong and whose second one is the confidence; six are noise."""
    rng = np.random.default_rng(3)
    right, expected = rng.random(questions) < 0.5, rng.random(questions)
    streams = rng.normal(size=(questions, 1, 8))
    streams[:, 0, 0] = np.where(right, 1, -1) + 0.2 * streams[:, 0, 0]
    streams[:, 0, 1] = 4 * expected + 0.05 * streams[:, 0, 1]
    names = [f"relation {i % relations}" for i in range(questions)]
    return Evidence(streams, streams[:, 0], right, expected, names)


def test_a_unit_is_one_standard_deviation_along_the_planted_direction():
    evidence = planted()
    everyone = np.arange(60)
    for kind, axis in (("stated", 1), ("probe", 0), ("means", 0)):
        unit = evidence.unit(everyone, kind)
        length = np.linalg.norm(unit)
        assert length == pytest.approx((evidence.directed @ unit / length).std()), kind
        assert unit[axis] > 0.9 * length, kind
    assert evidence.unit(np.array([0]), "stated") is None
    assert replace(evidence, right=np.ones(60, dtype=bool)).unit(everyone, "means") is None
    same = np.tile(evidence.directed[:1], (60, 1)) + 1e-9 * evidence.directed
    assert replace(evidence, directed=same).unit(everyone, "stated") is None, "rounding is no direction"


class Answering:
    """A setting whose confidence is 0.5 and 0.1 for each unit that is added along the second coordinate."""

    def __init__(self, evidence: Evidence) -> None:
        self.scale = evidence.directed[:, 1].std()
        self.prompter = self
        self.reader = self

    def transcript(self, question, answer):
        return question

    def steered(self, reader, transcripts, layer, vectors):
        def reading(vector):
            return SimpleNamespace(distribution=SimpleNamespace(expected=0.5 + 0.1 * vector[1] / self.scale))

        return [[reading(np.zeros(8)), *(reading(vector) for vector in added)] for added in vectors]


def test_what_is_added_is_fitted_on_other_relations_and_the_dose_is_the_probes(monkeypatch):
    evidence = planted()
    setting = Answering(evidence)
    monkeypatch.setattr(steering, "steered_readings", setting.steered)
    answered = [(f"question {i}", "x") for i in range(60)]
    added = steered(setting, answered, evidence, 7, SteeringOptions())
    assert sorted({each.group for each in added}) == [0, 1, 2, 3, 4]
    assert within(np.array([each.probe for each in added]), evidence.right, np.array([e.group for e in added])) > 0.95
    for each in added:  # 0.5 + dose * what a dose of 1 moves = the probability, as far as the doses go
        moved = 0.1 * each.unit[1] / setting.scale
        assert each.dose == pytest.approx(np.clip((each.probe - 0.5) / moved, -8, 8), abs=1e-6)
    # what belongs to a relation has no part in what is added to it: not in the unit, the probe or the response
    others = [i for i in range(60) if evidence.relations[i] == "relation 2"]
    flipped, moved = evidence.right.copy(), evidence.expected.copy()
    flipped[others], moved[others] = ~flipped[others], 1 - moved[others]
    again = steered(setting, answered, replace(evidence, right=flipped, expected=moved), 7, SteeringOptions())
    for i in others:
        assert again[i].probe == pytest.approx(added[i].probe) and np.allclose(again[i].unit, added[i].unit)
    elsewhere = next(i for i in range(60) if i not in others)
    assert not np.allclose(again[elsewhere].unit, added[elsewhere].unit), "it has one in what is added to others"


def test_without_two_kinds_of_answers_no_probe_sets_a_dose(monkeypatch):
    evidence = planted()
    setting = Answering(evidence)
    monkeypatch.setattr(steering, "steered_readings", setting.steered)
    answered = [(f"question {i}", "x") for i in range(60)]
    all_right = replace(evidence, right=np.ones(60, dtype=bool), relations=[""] * 60)
    added = steered(setting, answered, all_right, 7, SteeringOptions())
    assert all(each.dose is None and each.probe is None and each.unit is not None for each in added)
    assert len({each.group for each in added}) == 5, "without relations answers are compared within a fold"
    added = steered(setting, answered, all_right, 7, SteeringOptions(direction="means"))
    assert all(each.unit is None for each in added)


def test_responses_are_read_once_for_the_same_questions(monkeypatch, tmp_path):
    """A run that is continued finds them; a dry run, which knows fewer questions, has read others."""
    evidence, read = planted(), []
    setting = Answering(evidence)

    def counted(reader, transcripts, layer, vectors):
        read.append(len(transcripts))
        return setting.steered(reader, transcripts, layer, vectors)

    monkeypatch.setattr(steering, "steered_readings", counted)
    answered = [(SimpleNamespace(id=f"question {i}"), "x") for i in range(60)]
    file = tmp_path / "responses.json"
    first = steered(setting, answered, evidence, 7, SteeringOptions(), file)
    assert read and [path.name for path in tmp_path.iterdir()] == [file.name]
    read.clear()
    again = steered(setting, answered, evidence, 7, SteeringOptions(), file)
    assert not read and [each.dose for each in again] == [each.dose for each in first]
    others = [(SimpleNamespace(id=f"other {i}"), "x") for i in range(60)]
    steered(setting, others, evidence, 7, SteeringOptions(), file)
    assert read


# The instrument, the method and the options


VALUES = {
    "right": 1.0,
    "group": 0.0,
    "probe": 0.7,
    "unsteered.expected": 0.5,
    "steered.slope": 0.04,
    "random.0.slope": 0.01,
    "random.1.slope": -0.03,
    "steered.expected.lowest": 0.4,
    "steered.expected.highest": 0.6,
    "random.0.expected.lowest": 0.48,
    "random.0.expected.highest": 0.52,
    "random.1.expected.lowest": 0.56,
    "random.1.expected.highest": 0.44,
    "steered.outside.lowest": 0.6,
    "steered.outside.highest": 0.1,
    "random.0.outside.lowest": 0.1,
    "random.0.outside.highest": 0.2,
    "random.1.outside.lowest": 0.4,
    "random.1.outside.highest": 0.0,
}


def test_random_directions_count_by_their_size_since_their_sign_means_nothing():
    other = VALUES | {"steered.slope": 0.08, "random.0.slope": 0.02, "random.1.slope": -0.05}
    found = estimates(STEERING.metrics, [{"values": VALUES}, {"values": other}])
    assert found["steering.slope"].value == pytest.approx(0.06)
    assert found["steering.random_slope"].value == pytest.approx((0.015 + 0.04) / 2)
    assert found["steering.beyond_random"].value == pytest.approx(0.06 - 0.0275)
    assert found["steering.random_change"].value == pytest.approx((0.02 + 0.02 + 0.06 + 0.06) / 4)
    assert found["steering.highest"].value == pytest.approx(0.1) == -found["steering.lowest"].value
    assert found["steering.steered_outside"].value == pytest.approx(0.6) and found["steering.broken"].value == 1
    assert found["steering.random_outside"].value == pytest.approx((0.2 + 0.4) / 2)
    alone = estimates(STEERING.metrics, [{"values": {k: v for k, v in VALUES.items() if "random" not in k}}])
    assert "steering.random_slope" not in alone and "steering.beyond_random" not in alone


def test_the_aurocs_compare_answers_of_one_relation_and_are_paired():
    rng = np.random.default_rng(0)
    records = []
    for i in range(80):
        right, group = float(rng.random() < 0.5), float(i % 2)
        stated = 0.5 * group + 0.1 * rng.random()  # the relation's level says nothing of one answer
        values = {"right": right, "group": group, "probe": right + 0.1 * rng.random() - 2 * group}
        values |= {"unsteered.stated": stated, "two_stage.stated": values["probe"]}
        records.append({"values": values, "relation": f"r{i % 2}"})
    found = estimates(STEERING.metrics, records)
    assert found["steering.auroc.probe"].value == 1 and abs(found["steering.auroc.unsteered"].value - 0.5) < 0.2
    gain = found["steering.two_stage_less_unsteered"]
    assert gain.value == pytest.approx(1 - found["steering.auroc.unsteered"].value)
    assert gain.low < gain.value and gain.n == 80
    assert found["steering.two_stage_less_probe"].value == 0


@pytest.fixture(scope="module")
def steered_run(taught_checkpoint, own_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("steering") / "run"
    options = composed(
        Diagnose,
        ckpt=str(taught_checkpoint),
        data=str(own_data / "open.jsonl"),
        doses=(-2.0, 0.0, 2.0),
        random_directions=2,
        steer_layer=3,
        device="cpu",
        out=folder,
    )
    return options, diagnosed(options, ["steering"], "steering")


@pytest.mark.slow
def test_a_run_holds_every_dose_and_the_vector(steered_run):
    _, folder = steered_run
    _, summary, records = read_run(folder)
    steered_records = [record for record in records if record["measure"] == "steering"]
    answers = [record for record in records if record["measure"] == "answer" and record["answer"]]
    assert len(steered_records) == len(answers) > sum(record["right"] for record in answers)
    for record in steered_records:
        values = typed(SteeringRecord, record).values
        for name in ("expected", "stated", "outside"):
            assert values[f"steered.{name}.0"] == pytest.approx(values[f"unsteered.{name}"], abs=1e-5), "dose 0"
        by_dose = [values[f"steered.expected.{dose}"] for dose in ("-2", "0", "2")]
        assert values["steered.slope"] == pytest.approx(np.polyfit([-2, 0, 2], by_dose, 1)[0])
        assert {f"random.1.stated.{dose}" for dose in ("-2", "0", "2")} <= values.keys()
    numbers = summary["steering"]
    assert numbers["slope"]["n"] == len(answers) and numbers["auroc"]["unsteered"]["value"] is not None
    saved = loaded(folder / "steering.safetensors")
    assert (saved.steering.layer, saved.depth, saved.card.direction, saved.card.place) == (3, 3, "stated", "read")
    assert f"{len(answers)} questions" in saved.card.fitted_on and (folder / "steering.md").is_file()
    (page,) = STEERING.pages(run_data({"identity": {}}, summary, records))
    assert page.name == "steering" and "dose -2: expected confidence" in page.caption
    figure, how = STEERING.compared(*[run_data({"identity": {}}, summary, records)] * 2)
    assert len(figure.axes) == 2 and "Doses are in each run's own standard deviations" in how


@pytest.mark.slow
def test_what_all_questions_need_is_a_part_of_its_own_in_a_dry_run_and_stays_on_record(steered_run, tmp_path):
    options, folder = steered_run
    dry = DryRun()
    shutil.copytree(folder, tmp_path / "run")
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["measure"] != "steering"]
    (tmp_path / "run" / "records.jsonl").write_text("".join(kept))
    (tmp_path / "run" / "summary.json").unlink()
    before = (tmp_path / "run" / "steering_responses_0.json").stat().st_mtime_ns
    diagnosed(changed(options, out=tmp_path / "run", dry_run=True), ["steering"], "steering", dry=dry)
    part = dry.parts["steering, prepared"]
    assert (part.whole, part.measured) == (1, 1) and dry.parts["steering"].measured
    assert (tmp_path / "run" / "steering_responses_0.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_saved_vector_is_added_by_every_command(steered_run, taught_checkpoint, own_data, tmp_path):
    options, folder = steered_run
    vector = folder / "steering.safetensors"
    masked = changed(options, steer=vector, steer_dose=3.0, cases=folder, out=tmp_path / "masking")
    _, _, records = read_run(diagnosed(masked, ["masking"], "masking"))
    config = json.loads((tmp_path / "masking" / "config.json").read_text())
    assert config["identity"]["steer"] == Added(steer=vector).digest and config["identity"]["steer_dose"] == 3
    seen = {record["id"]: record["values"]["seen"] for record in records if record["measure"] == "masking"}
    plain = interp.load(taught_checkpoint)
    loaded_with = interp.load(taught_checkpoint, steer=vector, steer_dose=3.0)
    questions = {question.id: question for question in interp.questions(str(own_data / "open.jsonl"))}
    answers = {record["id"]: record["answer"] for record in records if record["measure"] == "answer"}
    moved = []
    for identity, expected in seen.items():
        question, answer = questions[identity], answers[identity]
        assert loaded_with.answer(question) == answer, "the answer is the unsteered one"
        assert loaded_with.confidence(question, answer).expected == pytest.approx(expected, abs=1e-5)
        moved.append(expected - plain.confidence(question, answer).expected)
    assert max(map(abs, moved)) > 0.01, "it does something"
    table = loaded_with.evaluate(list(questions.values()), out=tmp_path / "evaluated")
    record = next(r for r in table.all_records if r["measure"].endswith("|read") and r["id"] in seen)
    assert record["expected"] == pytest.approx(seen[record["id"]], abs=1e-4)
    with pytest.raises(UserError, match="the vector that --steer names"):
        diagnosed(changed(masked, steer=None, steer_dose=1.0), ["masking"], "masking")


def test_steering_is_refused_where_nothing_could_be_added(tmp_path, tiny_checkpoint, own_data):
    for kind in (Diagnose, Evaluate, Compare):
        with pytest.raises(UserError, match="--steer adds to where a confidence is read, and with --free"):
            composed(kind, steer=tmp_path / "s.safetensors", free=True)
    with pytest.raises(UserError, match="--steer-dose 2: there is no --steer to add"):
        composed(Evaluate, steer_dose=2.0)
    with pytest.raises(UserError, match="must be a number"):
        Added(steer=tmp_path, steer_dose=float("nan"))
    steering.written(SavedSteering(Steering(2, VECTORS[0]), 7, CARD), tmp_path / "s.safetensors")
    options = composed(
        Diagnose,
        ckpt=str(tiny_checkpoint("llama")),
        data=str(own_data / "open.jsonl"),
        steer=tmp_path / "s.safetensors",
        device="cpu",
        out=tmp_path / "run",
    )
    with pytest.raises(UserError, match="the vector is for 7 layers"):
        diagnosed(options, ["masking"], "masking")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_method_reads_each_question_with_its_own_dose_and_goes_on_where_it_died(
    taught_checkpoint, own_data, tmp_path
):
    options = composed(
        Evaluate,
        ckpt=(str(taught_checkpoint),),
        data=(str(own_data / "open.jsonl"),),
        methods=("default", "steered"),
        device="cpu",
        out=tmp_path / "whole",
    )
    _, summary, records = read_run(evaluated(options))
    ours = {r["id"]: r for r in records if r["measure"].endswith("|steered")}
    streamed = {r["id"]: r for r in records if r["measure"].endswith("|steering_stream")}
    plain = {r["id"]: r for r in records if r["measure"].endswith("|read")}
    assert ours.keys() == streamed.keys() == plain.keys() and len(ours) >= 10
    for identity, record in ours.items():
        assert streamed[identity]["expected"] == pytest.approx(plain[identity]["expected"], abs=1e-4)
        # where the other relations' answers are all right no probe can be fitted: nothing is added, and nothing counted
        assert (record["dose"] is None) == (record["probe"] is None)
    steered_ids = {identity for identity, record in ours.items() if record["dose"] is not None}
    assert 5 < len(steered_ids) < len(ours)
    assert max(abs(ours[i]["expected"] - plain[i]["expected"]) for i in ours) > 0.01
    (of_model,) = summary["calibration"].values()
    (rows,) = of_model.values()
    assert {"default", "steered", "steered_expected"} <= rows.keys()
    assert rows["steered"]["ScoreNumber"]["n"] == len(steered_ids)
    # a run that died goes on with the rest, and fits the same on what is on record
    lines = (tmp_path / "whole" / "records.jsonl").read_text().splitlines()
    lost = [line for line in lines if json.loads(line)["measure"].endswith("|steered")][6:]
    kept = [line for line in lines if line not in lost]
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "records.jsonl").write_text("\n".join(kept) + "\n")
    shutil.copy(tmp_path / "whole" / "config.json", tmp_path / "again")
    _, _, again = read_run(evaluated(changed(options, out=tmp_path / "again")))
    for record in again:
        if record["measure"].endswith("|steered"):
            assert record["expected"] == pytest.approx(ours[record["id"]]["expected"], abs=1e-4)
            assert (record["dose"] or 0) == pytest.approx(ours[record["id"]]["dose"] or 0, abs=1e-3)


def test_fewer_questions_than_folds_have_no_steered_confidence(tiny_setting, open_questions):
    answered = [Answered(question, question.answers[0]) for question in open_questions[:3]]
    for record in alone(tiny_setting("llama"), answered, Draws()):
        assert record["dose"] is None and record["fold"] is None and 0 < record["expected"] < 1
        for score in STEERED.scores:
            assert score.verdict(record, tiny_setting("llama").prompter.confidence, "x") is None
    read = record | {"dose": 1.0, "fold": 2}
    form = tiny_setting("llama").prompter.confidence
    assert STEERED.scores[0].verdict(read, form, "x") == Verdict("x", form.values[record["stated"]], 2)
    assert STEERED.scores[1].verdict(read, form, "x") == Verdict("x", record["expected"], 2)
    assert STEERED.scores[1].verdict(read, form, None) is None
