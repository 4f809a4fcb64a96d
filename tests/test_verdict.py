"""The verdict of a diagnosis: each rule holds where it should, and the order of the rules decides."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from figures.page import verdict
from figures.page.verdict import RULES, Evidence, evidence_of, verdict_of
from interp.intervals import Estimate


def number(value: float | None, low: float | None = None, high: float | None = None, n: int = 48) -> Estimate:
    return Estimate(value, low, high, n)


INDEPENDENT = Evidence(
    "sampled",
    above_noise=number(0.001, -0.001, 0.004),
    near_zero=number(0.98, 0.9, 1.0),
    direction=number(0.0, -0.01, 0.01),
    noise_floor=number(0.004),
    control=number(0.3, 0.2, 0.4),
    off_scale=number(0.1),
)
DEPENDENT = replace(
    INDEPENDENT,
    above_noise=number(0.1, 0.05, 0.2),
    near_zero=number(0.3, 0.2, 0.5),
    direction=number(0.2, 0.1, 0.3),
)
CASES = {
    "too few questions": (replace(DEPENDENT, above_noise=number(0.1, 0.05, 0.2, n=19)), "cannot be told"),
    "just enough": (replace(DEPENDENT, above_noise=number(0.1, 0.05, 0.2, n=20)), "depends on the answer"),
    "the control reaches zero": (replace(INDEPENDENT, control=number(0.3, 0.0, 0.4)), "cannot be told"),
    "no control": (replace(INDEPENDENT, control=number(None)), "cannot be told"),
    "a control within rounding": (
        replace(INDEPENDENT, control=replace(number(0.001, 0.0005, 0.002), floor=0.01)),
        "cannot be told",
    ),
    "off its scale": (replace(DEPENDENT, off_scale=number(0.51)), "cannot be told"),
    "half off its scale": (replace(DEPENDENT, off_scale=number(0.5)), "depends on the answer"),
    "noise, and nothing above it": (
        replace(DEPENDENT, noise_floor=number(0.021), above_noise=number(0.01, -0.01, 0.05)),
        "reacts to looks",
    ),
    "little noise, and nothing above it": (
        replace(DEPENDENT, noise_floor=number(0.02), above_noise=number(0.01, -0.01, 0.05)),
        "undecided",
    ),
    "noise, and more above it": (replace(DEPENDENT, noise_floor=number(0.1)), "depends on the answer"),
    "noise comes before independence": (replace(INDEPENDENT, noise_floor=number(0.05)), "reacts to looks"),
    "nothing": (INDEPENDENT, "answer-independent"),
    "sure, but tiny": (replace(INDEPENDENT, above_noise=number(0.005, 0.001, 0.01)), "answer-independent"),
    "a little too much": (replace(INDEPENDENT, above_noise=number(0.005, -0.001, 0.011)), "undecided"),
    "too few near zero": (replace(INDEPENDENT, near_zero=number(0.9, 0.79, 0.95)), "undecided"),
    "dependent": (DEPENDENT, "depends on the answer"),
    "no direction": (replace(DEPENDENT, direction=number(0.1, 0.0, 0.2)), "reacts without direction"),
    "the wrong direction": (replace(DEPENDENT, direction=number(-0.1, -0.2, -0.05)), "reacts without direction"),
    "above zero, but within rounding": (
        replace(DEPENDENT, above_noise=replace(number(0.1, 0.05, 0.2), floor=0.15)),
        "undecided",
    ),
    "no interval": (replace(DEPENDENT, above_noise=number(0.1)), "undecided"),
}


@pytest.mark.parametrize(("evidence", "name"), CASES.values(), ids=CASES)
def test_the_first_rule_that_holds_decides(evidence, name):
    assert verdict_of(evidence).name == name


def test_every_verdict_is_reached_by_some_case():
    assert {name for _, name in CASES.values()} == {rule.name for rule in RULES}
    assert len({rule.says for rule in RULES}) == len({rule.leaves_open for rule in RULES}) == len(RULES)


ENDS = st.lists(st.floats(-0.7, 0.7), min_size=3, max_size=3).map(sorted)
NUMBERS = st.builds(lambda ends, n: Estimate(ends[1], ends[0], ends[2], n), ENDS, st.integers(0, 60))


@given(st.builds(Evidence, st.just("sampled"), NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS))
def test_whatever_the_numbers_are_there_is_one_verdict_with_three_sentences(evidence):
    found = verdict_of(evidence)
    held = [rule.name for rule in RULES if rule.holds(evidence)]
    assert found.name == held[0] and held[-1] == "undecided"
    assert all(sentence.endswith(".") for sentence in found.sentences)


def estimates(**counts: int) -> dict[str, Estimate]:
    """The divergence above the noise floor by source of wrong answers, of so many questions each."""
    return {f"jsd.above_noise.{source}": number(0.1, 0.05, 0.2, n) for source, n in counts.items()}


def test_the_papers_wrong_answers_speak_where_enough_questions_have_them():
    def source(**counts: int) -> str | None:
        found = evidence_of(estimates(**counts))
        return found.source if found else None

    assert source(sampled=20, branched=48, same_relation=48) == verdict.SAMPLED
    assert source(sampled=19, branched=48, same_relation=48) == verdict.BRANCHED
    assert source(sampled=3, branched=2, same_relation=48) == verdict.SAME_RELATION
    assert source(sampled=3, branched=9, same_relation=8) == verdict.BRANCHED, "the most where none has enough"
    assert source(sampled=0) is None and source() is None


def test_the_sentence_of_numbers_holds_those_that_decided():
    _, numbers, _ = verdict_of(replace(DEPENDENT, above_noise=Estimate(0.1, 0.05, 0.2, 38, 10))).sentences
    assert numbers.startswith("38 questions (10 left out), wrong answer sampled: ")
    for words in (
        "JSD less the noise floor 0.1 [0.05, 0.2] nats",
        "JSD at most 0.1 nats in 30 % [20 %, 50 %] of them",
        "0.2 [0.1, 0.3]. Noise floor 0.004 nats",
        "less the noise floor, 0.3 [0.2, 0.4] nats; off-scale mass 0.1",
    ):
        assert words in numbers


def test_a_number_within_rounding_is_called_so_and_a_missing_one_none():
    evidence = replace(DEPENDENT, above_noise=replace(number(0.1, 0.05, 0.2), floor=0.15), off_scale=number(None))
    _, numbers, _ = verdict_of(evidence).sentences
    assert "0.1 [0.05, 0.2] (within its numerical floor) nats" in numbers and "off-scale mass none. " in numbers


def test_where_nothing_can_be_told_the_page_says_why():
    few, hint, off_scale = "there are fewer than 20 questions", "a hint", "most of the probability lies off the scale"
    for evidence, reasons in (
        (CASES["too few questions"][0], (few,)),
        (CASES["no control"][0], (hint,)),
        (replace(DEPENDENT, control=number(0.0), off_scale=number(0.51)), (hint, off_scale)),
    ):
        says = verdict_of(evidence).sentences[0]
        assert [reason in says for reason in (few, hint, off_scale)] == [r in reasons for r in (few, hint, off_scale)]
    assert "{" not in "".join(verdict_of(INDEPENDENT).sentences)
