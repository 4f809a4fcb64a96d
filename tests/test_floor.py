"""The numerical floor: 0 where arithmetic is exact enough, larger in bfloat16, and what lies within it is marked."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FAMILIES

from figures.captions import NOT_MEASURABLE, in_words, marked
from interp.divergence import jensen_shannon
from interp.formats import FORMATS
from interp.instruments import floor, rollout
from interp.instruments.registry import INSTRUMENTS, floors_of
from interp.intervals import Estimate
from interp.models.checkpoints import Checkpoint
from interp.models.prefix import SharedPrefix
from interp.models.readout import Reading
from interp.models.setting import Case, prepared
from interp.records import ConfidenceDistribution


def repeated(model, tokenizer, questions) -> list[dict]:
    setting = prepared(Checkpoint("tiny", model, tokenizer), FORMATS["ScoreNumber"], shots=2)
    cases = [Case(question, question.answers[0]) for question in questions]
    return [{"measure": "floor", **record} for record in floor.measured(setting, cases)]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_floor_of_float32_is_far_below_that_of_bfloat16(tiny_model, tiny_tokenizer, open_questions, family):
    sizes = {}
    for dtype in (torch.float32, torch.bfloat16):
        records = repeated(copy.deepcopy(tiny_model(family)).to(dtype), tiny_tokenizer(), open_questions)
        found = floors_of(records)
        sizes[dtype] = found["floor.expected_largest"].value
        assert found["floor.jsd"].n == len(open_questions)
        for record in records:
            sides = [np.array(side) for side in record["readings"]]
            assert record["values"]["jsd"] == pytest.approx(float(jensen_shannon(*sides)), abs=1e-15)
            means = [side @ np.arange(10) / 9 for side in sides]
            assert record["values"]["expected"] == pytest.approx(means[0] - means[1], abs=1e-12)
    assert sizes[torch.float32] < 1e-6 < 1e-5 < sizes[torch.bfloat16]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_floor_of_a_rollout_is_what_it_differs_by_alone_and_in_two_passes(
    tiny_model, tiny_tokenizer, open_questions, family
):
    cases, sizes = [Case(question, question.answers[0]) for question in open_questions[:3]], {}
    for dtype in (torch.float32, torch.bfloat16):
        model = copy.deepcopy(tiny_model(family)).to(dtype)
        setting = prepared(Checkpoint("tiny", model, tiny_tokenizer()), FORMATS["ScoreNumber"], shots=2)
        records = rollout.repeated(setting, cases)
        sides = [rollout.measured(setting, cases), [rollout.measured(setting, [one], passes=2)[0] for one in cases]]
        for record, one, other in zip(records, *sides, strict=True):
            assert record["values"] == {
                name: value - other["values"][name] for name, value in one["values"].items() if "null" not in name
            }
        found = floors_of([{"measure": "rollout_floor", **record} for record in records])
        assert found["floor.rollout.answer.mass"].n == 3 and "floor.jsd" not in found
        assert found["floor.rollout.answer.mass"].value == pytest.approx(
            np.mean([record["values"]["answer.mass"] for record in records]), abs=1e-15
        )
        sizes[dtype] = max(abs(value) for record in records for value in record["values"].values())
    assert 0 < sizes[torch.float32] < 1e-5 and sizes[torch.bfloat16] < 0.01


def test_the_second_reading_has_read_all_up_to_the_answer_before(tiny_setting, open_questions, monkeypatch):
    """Read below the same shared prefix as the first one it would share most of its packing, and so of its rounding."""
    setting, shared_prefixes = tiny_setting("llama"), []
    cases = [Case(question, question.answers[0]) for question in open_questions[:3]]
    logits = SharedPrefix.logits

    def seen(self, *given):
        shared_prefixes.append(self.shared_prefix)
        return logits(self, *given)

    monkeypatch.setattr(SharedPrefix, "logits", seen)
    floor.measured(setting, cases)
    prompts = [setting.prompter.transcript(case.question, case.answer) for case in cases]
    assert shared_prefixes == [
        setting.prefix.shared_prefix,
        *(prompt.ids[: prompt.positions("answer")[0]] for prompt in prompts),
    ]


def made(jsd: list[float], expected: list[float]) -> list[dict]:
    names = {"outside": 0.0, "logprob": 0.0, "stated": 0.0}
    values = [names | {"jsd": a, "expected": b} for a, b in zip(jsd, expected, strict=True)]
    return [{"measure": "floor", "values": one} for one in values]


def test_the_floor_of_a_median_is_the_median_and_of_a_mean_the_signed_mean():
    floors = floors_of(made([1e-4, 3e-4, 9e-4], [0.01, -0.01, 0.03]))
    assert floors["floor.jsd"].value == 3e-4 and floors["floor.jsd_largest"].value == 9e-4
    assert floors["floor.expected"].value == pytest.approx(0.01)
    assert floors["floor.expected_largest"].value == pytest.approx(0.03)
    assert not floors_of([{"measure": "jsd"}])


def test_the_stated_levels_log_probability_is_that_among_all_that_the_model_may_say():
    sides = [Reading(ConfidenceDistribution(("0", "1"), (0.0, 1.0), p, off_scale), -1.0, 1) for p, off_scale in SIDES]
    assert floor._record(*sides)["values"]["stated_logprob"] == pytest.approx(math.log(0.4) - math.log(0.2))


SIDES = (((0.5, 0.5), 0.2), ((0.4, 0.6), 0.5))
"""Two readings, each the probabilities of its levels and what lies outside; the first one's likeliest level is "0"."""


def test_the_floor_of_a_score_is_the_root_mean_square_of_its_differences():
    records = made([1e-4, 1e-4], [0.03, -0.01])
    for record, difference in zip(records, (0.1, -0.2), strict=True):
        record["values"]["stated_logprob"] = difference
    assert floor.of_score(records, "expected") == pytest.approx(math.sqrt((0.03**2 + 0.01**2) / 2))
    assert floor.of_score(records, "stated") == pytest.approx(math.sqrt((0.1**2 + 0.2**2) / 2))
    assert floor.of_score([], "expected") == 0


KEYS = {
    "jsd.median": "jsd",
    "jsd.noise_floor": "jsd",
    "jsd.branched.median": "jsd",
    "jsd.same_relation.direction.mean": "expected",
    "jsd.branched.direction.share_positive": None,
    "jsd.filled.candidates": "jsd",
    "jsd.pairs.number": None,
    "jsd.pairs.near_zero_share": None,
    "jsd.likelihood_correlation": None,
    "jsd.branched.likelihood_correlation": None,
    "jsd.near_zero_share": None,
    "jsd.direction.share_positive": None,
    "jsd.off_scale_mass": None,
    "jsd.flagged_share": None,
    "jsd.direction.mean": "expected",
    "masking.seen": None,
    "masking.mean.drop": "expected",
    "masking.later_to_answer.drop": "expected",
    "masking.mean.masked": None,
    "attribution.answer.effect": "expected",
    "attribution.answer.effect_neutral": "expected",
    "attribution.answer.rank": None,
    "rollout.answer.mass": "rollout.answer.mass",
    "rollout.answer.null": None,
}


def estimate(key: str, value: float, floors: dict[str, Estimate], *, floored: bool = True) -> Estimate:
    """A number of one value, by its key, with its floor."""
    instrument = INSTRUMENTS[key.partition(".")[0]]
    (metric,) = (one for one in instrument.metrics if one.key == key)
    alone = replace(instrument, metrics=(replace(metric, of="x", statistic=np.mean, needs=""),))
    return alone.estimates([{"values": {"x": value}}], floors, floored=floored)[key]


@pytest.mark.parametrize("key", KEYS)
def test_each_number_has_the_floor_of_its_kind_or_none(key):
    floors = {"floor.jsd": Estimate(1e-3, 1e-4, 2e-3, 9), "floor.expected": Estimate(-1e-3, -4e-3, 2e-3, 9)}
    floors["floor.rollout.answer.mass"] = Estimate(2e-3, -1e-3, 3e-3, 9)
    sizes = {"jsd": 2e-3, "expected": 4e-3, "rollout.answer.mass": 3e-3, None: None}  # the ends farthest from 0
    for value, measurable in ((0.0015, False), (-0.0015, False), (0.5, True), (-0.5, True)):
        found = estimate(key, value, floors)
        assert found.floor == sizes[KEYS[key]]
        assert found.measurable is (measurable or KEYS[key] is None)
    assert estimate(key, 0.5, floors, floored=False).floor is None


def test_only_the_effects_on_the_expected_confidence_have_a_floor():
    attribution = INSTRUMENTS["attribution"]
    assert attribution.has_floor({"score": "expected"}) and not attribution.has_floor({"score": "stated"})
    assert all(one.has_floor({}) for name, one in INSTRUMENTS.items() if name != "attribution")


def test_a_number_within_its_floor_is_marked_wherever_it_is_shown():
    small = Estimate(0.001, 0.0, 0.002, 9, floor=0.003)
    assert marked(small, "0.001") == f"{NOT_MEASURABLE} 0.001"
    assert in_words(small).endswith("not measurable at this precision (numerical floor 0.003)")
    large = replace(small, value=0.1)
    assert marked(large, "0.1") == "0.1" and "measurable" not in in_words(large)
    assert small.as_record()["floor"] == 0.003 and "floor" not in replace(small, floor=None).as_record()
