"""Benchmarks run, on a small model: what they compare says the same both ways."""

import pytest

from benchmarks.__main__ import MEASURED, Benchmarks


@pytest.mark.slow
@pytest.mark.parametrize("name", ["readout", "greedy", "default", "self_consistency", "masking", "rollout"])
def test_both_ways_of_a_benchmark_say_the_same_and_the_share_of_the_machine_is_told(taught_checkpoint, own_data, name):
    options = Benchmarks(ckpt=str(taught_checkpoint), data=str(own_data / "open.jsonl"), n=3, repeats=1)
    found = MEASURED[name](options)
    assert 0 < found["share_of_machine"] < 2
    assert found.get("largest_difference", 0) < 1e-4
    assert found.get("same_answers", 3) == 3
    assert name != "default" or found["tokens_reading_twice"] > 1


@pytest.mark.slow
@pytest.mark.real_model
def test_flow_costs_at_most_25_passes_a_question_and_a_fifth_of_one_a_condition():
    found = MEASURED["flow"](Benchmarks(data="facts:test"))
    assert found["conditions"] > 150
    assert found["passes"] <= 25 and found["passes_a_condition"] <= 0.2
