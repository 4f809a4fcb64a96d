"""The outcomes of the experiment: each goal is reached by its number alone, and what is not known is not called so."""

import copy

import pytest

from interp.formats import FORMATS
from interp.run.runs import Record
from training.outcomes import DEPENDENCE, Measured, Outcome, ceilings, outcomes

DATA = "facts:final"


def number(value: float | None, low: float | None = None, high: float | None = None, across: float | None = None):
    record = {"value": value, "low": low, "high": high, "n": 99, "left_out": 1}
    return record | ({"relations": {"low": across, "high": 1.0, "n": 6}} if across is not None else {})


def table(numbers: Record, forms=("ScoreNumber",), method="default") -> Record:
    return {DATA: {method: dict.fromkeys(forms, numbers)}}


def measured(**changes: float) -> Measured:
    """An experiment in which every goal is reached, but for what `changes` says."""
    one = {
        "gain": 0.1, "low": 0.02, "seed": 0.05, "accuracy": -0.01, "after": 0.02, "noise": 0.01, "share": 0.2,
        "positive": 0.9, "untrained": -0.1,
    } | changes  # fmt: skip
    names = [f"advice-{seed}" for seed in range(3)]
    plain = {"auroc_within": number(one["gain"]), "accuracy": number(0.5), "brier": number(-0.1)}
    pooled = plain | {
        "auroc_within": number(one["gain"], 0.05, 0.2, one["low"]),
        "accuracy": number(one["accuracy"], -0.03, 0.01),
    }
    final = {
        "calibration": {"base": table({"squared_ce": number(0.1, 0.05, 0.2)})}
        | {name: table({"squared_ce": number(one["after"])}) for name in names},
        "differences": {f"{name} less base": table(plain) for name in names[:2]}
        | {"advice-2 less base": table(plain | {"auroc_within": number(one["seed"])})}
        | {"advice, mean of seeds less base": table(pooled)},
    }
    untrained = {"brier": number(0.0, one["untrained"], 0.2)}
    formats = {"differences": {"advice-0 less base": table(untrained, tuple(FORMATS))}}
    rivals = {"calibration": {"base": table({"auroc_within": number(0.6)}) | {}}}
    rivals["calibration"]["base"][DATA]["sequence"] = {"ScoreNumber": {"auroc_within": number(0.9, 0.8, 0.95)}}
    divergences: Record = {}
    for key, *_ in DEPENDENCE:
        value = one["noise"] if "noise_floor" in key else one["positive"] if "positive" in key else one["share"]
        *path, last = key.split(".")
        place = divergences
        for part in path:
            place = place.setdefault(part, {})
        place[last] = number(value, 0.0, 0.5)
    dependence = {name: copy.deepcopy(divergences) for name in ("base", *names)}
    return Measured(final, formats, rivals, dependence)


def reached(found: Measured) -> dict[str, bool | None]:
    return {one.name: one.reached for one in outcomes(found, "advice") if one.wanted}


def test_every_goal_of_the_protocol_stands_in_the_table_and_is_reached_by_its_number():
    found = reached(measured())
    assert len(found) == 9 and all(value is True for value in found.values()), found


@pytest.mark.parametrize(
    ("change", "begins"),
    [
        ({"low": -0.01}, "primary"),
        ({"seed": -0.01}, "primary"),
        ({"accuracy": -0.03}, "accuracy"),
        ({"after": 0.06}, "squared calibration error"),
        ({"noise": 0.03}, "noise floor"),
        ({"share": 0.4}, "JSD at most 0.1"),
        ({"positive": 0.8}, "confidence higher"),
        ({"untrained": 0.01}, "Brier in"),
    ],
)
def test_a_goal_is_missed_by_its_own_number_alone(change, begins):
    found = reached(measured(**change))
    missed = {name for name, value in found.items() if not value}
    assert missed and all(name.startswith(begins) for name in missed), missed


def test_one_seed_is_enough_to_miss_what_each_seed_has_to_reach():
    found = measured()
    found.dependence["advice-2"]["jsd"]["noise_floor"] = number(0.5)
    assert [name for name, value in reached(found).items() if value is False] == [
        "noise floor (letter case, full stop), median, nats"
    ]


def test_a_kind_of_variant_that_no_answer_has_is_told_without_a_value():
    found = measured()
    for numbers in found.dependence.values():
        del numbers["jsd"]["variants"]["title_case"]
    (row,) = (one for one in outcomes(found, "advice") if one.name.startswith("the same, title case"))
    assert row.number == "–; –; –; base –" and row.reached is None


def test_without_an_interval_over_relations_the_primary_outcome_cannot_be_told():
    found = measured()
    del found.final["differences"]["advice, mean of seeds less base"][DATA]["default"]["ScoreNumber"]["auroc_within"][
        "relations"
    ]
    first = next(outcomes(found, "advice"))
    assert first.reached is None and first.cells()[-1] == "cannot be told"
    assert Outcome("x", "1").cells() == ("x", "1", "–", "–")


def test_the_ceilings_are_of_the_base_and_of_those_methods_that_were_measured():
    found = list(ceilings(measured()))
    assert [one.name.rpartition(": ")[2] for one in found] == ["as stated", "answer's log-probability"]
    assert found[1].number.startswith("0.9 [0.8, 0.95]")
