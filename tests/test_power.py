"""How many questions a run needs: what the numbers promise is what such runs then have; and whom selection drops."""

import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, t
from test_figures import SUBJECT, made_records, made_run

from figures.power import plans, printed_power
from figures.report import reported
from figures.table import printed, table_of
from interp.cli.power import Power
from interp.cli.power import run as command
from interp.errors import UserError
from interp.intervals import SIGNED, UNBOUNDED, UNIT, Ends, Estimate, difference, estimated
from interp.pipelines.power import Needed, questions_needed, relations_needed, uncut, wilson_count, wilson_width

Z = float(norm.ppf(0.975))


def width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


def wilson(share: float, count: float, z: float = Z) -> float:
    """The width, from the two ends as Wilson (1927) has them: the roots of (p - x)^2 = z^2 x (1 - x) / n."""
    a, b, c = 1 + z**2 / count, 2 * share + z**2 / count, share**2
    return math.sqrt(b**2 - 4 * a * c) / a


@pytest.mark.parametrize("wished", [0.15, 0.3, 0.6])
def test_as_many_normals_as_are_needed_have_a_mean_whose_interval_is_as_wide_as_wished(wished):
    draw = np.random.default_rng(0)
    pilot = estimated(draw.normal(size=60).tolist())
    needed = questions_needed(pilot, "mean", wished)
    of_pilot = width(pilot) * math.sqrt(60) / (2 * t.ppf(0.975, 59))  # its spread
    widths = [width(estimated(draw.normal(0, of_pilot, needed.number).tolist())) for _ in range(20)]
    assert np.mean(widths) == pytest.approx(wished, rel=0.1)
    assert questions_needed(pilot, "mean", wished / 2).number == pytest.approx(4 * needed.number, abs=4)


shares = st.integers(0, 40).map(lambda right: right / 40)


@given(shares, st.floats(0.01, 0.9))
def test_a_share_needs_the_fewest_questions_whose_wilson_interval_is_narrow_enough(share, wished):
    pilot = estimated([1.0] * round(40 * share) + [0.0] * round(40 * (1 - share)), np.mean, "wilson")
    number = questions_needed(pilot, "share", wished).number
    assert wilson(share, number) <= wished * (1 + 1e-8)
    assert number == 2 or wilson(share, number - 1) > wished


@given(shares, st.floats(1, 1e4), st.floats(1.5, 13))
def test_wilsons_width_is_its_definitions_and_its_count_the_inverse(share, count, quantile):
    found = wilson_width(share, count, quantile)
    assert found == pytest.approx(wilson(share, count, quantile), rel=1e-6)
    assert wilson_count(share, found, quantile) == pytest.approx(count, rel=1e-6)
    assert wilson_count(share, 1.0, quantile) == 0


def test_wilsons_width_is_scipys():
    ends = binomtest(35, 48).proportion_ci(method="wilson")
    assert wilson_width(35 / 48, 48.0, Z) == pytest.approx(ends.high - ends.low, rel=1e-9)


def test_pairs_stay_clustered_within_their_questions():
    pilot = Estimate(0.5, 0.5 - wilson(0.5, 80) / 2, 0.5 + wilson(0.5, 80) / 2, 40)  # two observations to a question
    assert questions_needed(pilot, "share", wilson(0.5, 320)).number == 160


@given(st.integers(5, 20), st.floats(0.05, 2))
def test_a_mean_needs_the_fewest_relations_at_which_students_interval_is_narrow_enough(groups, wished):
    def at(count: int) -> float:
        return 2 * t.ppf(0.975, count - 1) * 0.3 / math.sqrt(count)  # relations' means vary by 0.3

    pilot = Estimate(0.0, -0.1, 0.1, 8 * groups, 0, relations=Ends(-at(groups) / 2, at(groups) / 2, groups))
    needed = relations_needed(pilot, "mean", wished)
    assert at(needed.number) <= wished * (1 + 1e-8) and needed.n == groups
    assert needed.number == 5 or at(needed.number - 1) > wished
    assert needed.low <= needed.number <= needed.high


@given(st.integers(5, 20), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.floats(0.05, 0.8))
def test_a_share_needs_the_fewest_relations_likewise(groups, share, wished):
    def at(count: int) -> float:  # three independent observations to a relation of eight questions
        return wilson(share, 3 * count, float(t.ppf(0.975, count - 1)))

    pilot = Estimate(share, 0.0, 1.0, 8 * groups, 0, relations=Ends(0.0, at(groups), groups))
    needed = relations_needed(pilot, "share", wished)
    assert at(needed.number) <= wished * (1 + 1e-8)
    assert needed.number == 5 or at(needed.number - 1) > wished
    assert (needed.low is None) == (share in (0, 1)), "where relations do not differ nothing is known of their spread"


@pytest.mark.slow
def test_the_range_holds_the_number_that_the_true_spread_needs():
    """300 pilots of 50 each; the truth by theory. Not for shares near 0 or 1, and medians only roughly."""
    draw = np.random.default_rng(5)
    density = norm.pdf(0)
    truths = {
        "mean": (2 * Z / 0.2) ** 2,
        "median": (2 * Z / (2 * density) / 0.2) ** 2,
        "share": wilson_count(0.3, 0.2, Z),
        "pairs": (2 * Z / 0.2) ** 2 * (0.3 - 0.1**2),  # 20 % change one way, 10 % the other
    }
    held = dict.fromkeys(truths, 0)
    for _ in range(300):
        values = draw.normal(size=50).tolist()
        change = draw.choice([1.0, -1.0, 0.0], 50, p=[0.2, 0.1, 0.7])
        pilots = {
            "mean": estimated(values),
            "median": estimated(values, np.median),
            "share": estimated((draw.random(50) < 0.3).astype(float).tolist(), np.mean, "wilson"),
            "pairs": difference([*(change < 0) * 1.0], [*(change > 0) * 1.0], np.mean, "wilson"),
        }
        for kind, pilot in pilots.items():
            needed = questions_needed(pilot, kind, 0.2)
            held[kind] += needed.low - 1 <= truths[kind] <= needed.high
    assert all(0.9 <= count / 300 <= 1.0 for count in held.values()), held


def test_an_interval_that_tells_nothing_gives_no_number():
    for pilot in (estimated([1.0]), estimated([]), estimated([2.0, 2.0, 2.0])):
        assert questions_needed(pilot, "mean", 0.1) is None and relations_needed(pilot, "mean", 0.1) is None
    with pytest.raises(ValueError, match="neither may be 0"):
        Needed(0.1, 0.0, 9, 9, None, None)


@pytest.fixture(scope="module")
def pilot(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("pilot") / "run", questions=24, instruments=("jsd",))


def ended(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["power", *arguments])
    command()


def test_an_interval_that_ends_at_a_bound_is_planned_from_as_if_it_did_not():
    groups = [f"{i}" for i in range(6) for _ in range(4)]
    values = np.random.default_rng(1).beta(0.2, 6, 24).tolist()
    free = estimated(values, groups=groups)
    cut = estimated(values, groups=groups, bounds=UNIT)
    assert free.relations.low < cut.relations.low == 0
    whole = uncut(cut, UNIT)
    assert (whole.relations.low, whole.relations.high) == pytest.approx((free.relations.low, free.relations.high))
    assert relations_needed(whole, "mean", 0.02) == relations_needed(free, "mean", 0.02)
    assert relations_needed(cut, "mean", 0.02).number < relations_needed(free, "mean", 0.02).number
    assert uncut(free, UNBOUNDED) == free and uncut(cut, SIGNED) == cut
    nothing = estimated([0.5], bounds=UNIT)
    assert uncut(nothing, UNIT) == nothing


def test_the_command_prints_a_row_for_each_headline_number(pilot, monkeypatch, capsys):
    ended(monkeypatch, str(pilot))
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 120
    summary = json.loads((pilot / "summary.json").read_text())
    share = summary["jsd"]["near_zero_share"]
    needed = wilson_count(share["value"], (share["high"] - share["low"]) / 2, Z)
    row = next(line for line in told.splitlines() if "questions, wrong answer sampled" in line)
    assert "18 questions" in row and f" {math.ceil(needed)} questions" in row
    assert "Assumed: independent questions" in told and "relations like these" not in told
    ended(monkeypatch, str(pilot), "--key", "jsd.direction.mean", "--width", "0.01")
    told = capsys.readouterr().out
    assert told.count(" questions  ") == 2 and "0.01" in told


def test_relations_like_these_have_a_row_of_their_own(pilot, tmp_path, capsys):
    summary = json.loads((pilot / "summary.json").read_text())
    summary["jsd"]["direction"]["mean"]["relations"] = {"low": -0.2, "high": 0.4, "n": 6}
    for name, content in (("config.json", (pilot / "config.json").read_text()), ("summary.json", json.dumps(summary))):
        (tmp_path / name).write_text(content)
    (tmp_path / "records.jsonl").touch()
    printed_power(tmp_path, key="jsd.direction.mean")
    told = capsys.readouterr().out
    assert (
        "    relations like these" in told and " 6 relations " in told and "17 relations" in told
    )  # t is 2.57 at 6, 2.12 at 17


def test_a_pair_is_planned_by_its_differences(pilot, tmp_path, capsys):
    change = difference([0.0] * 30 + [1.0] * 10, [1.0] * 8 + [0.0] * 24 + [1.0] * 8, np.mean, "wilson")
    one, model = estimated([0.0, 1.0]).as_record(), {"name": "a-model", "note": None}
    row = {"before": one, "after": one, "difference": change.as_record(), "effect_size": None}
    data = {"name": "facts", "asked": 50, "right": 40}
    summary = {"models": {"before": model, "after": model}, "data": data, "format": "ScoreNumber"}
    summary["comparison"] = {"jsd.near_zero_share": row}
    (tmp_path / "config.json").write_text(json.dumps({"kind": "compare", "identity": {}}))
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "records.jsonl").touch()
    printed_power(tmp_path)
    told = capsys.readouterr().out
    assert "paired differences" in told and "40 questions" in told and "160 questions" in told


def test_what_cannot_be_planned_from_is_one_sentence(pilot, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"kind": "evaluate", "identity": {}}))
    (tmp_path / "summary.json").write_text(json.dumps({"calibration": {}}))
    cases = {
        (str(tmp_path / "nowhere"),): "no readable config.json",
        (str(tmp_path),): "holds no finished run of interp.diagnose or interp.compare",
        (str(pilot), "--key", "jsd.mode"): "--key jsd.mode: none of jsd.",
        (str(pilot), "--width", "0"): "--width 0.0: must be a number above 0",
        (str(pilot), "--width", "nan"): "--width nan: must be a number above 0",
    }
    for arguments, sentence in cases.items():
        with pytest.raises(SystemExit) as end:
            ended(monkeypatch, *arguments)
        told = capsys.readouterr().err
        assert end.value.code == 2 and sentence in told and told.count("\n") == 1
    with pytest.raises(UserError, match=r"jsd\.median: no interval with a width"):
        plans({"jsd.median": Estimate(0.1, None, None, 1)}, paired=False, key="jsd.median", width=None)
    with pytest.raises(UserError, match="--width -1"):
        Power(run=pilot, width=-1.0)


def test_the_summary_tells_how_questions_without_a_wrong_answer_differ(pilot):
    summary = json.loads((pilot / "summary.json").read_text())
    rights = [r["answers"]["right"][0] for r in made_records(24) if r["measure"] == "jsd"]
    selection = summary["data"]["selection"]
    assert selection.keys() == {"sampled"}, "branched answers and distractors are there for every question"
    for side, members in (("dropped", rights[3::4]), ("kept", [r for i, r in enumerate(rights) if i % 4 != 3])):
        numbers = selection["sampled"][side]
        assert numbers["count"] == numbers["logprob"]["n"] == numbers["entropy"]["n"] == len(members)
        assert numbers["logprob"]["value"] == pytest.approx(np.mean([r["logprob"] for r in members]))
        entropies = [-sum(p * math.log(p) for p in r["probability"]) for r in members]
        assert numbers["entropy"]["value"] == pytest.approx(np.mean(entropies))
        assert numbers["logprob"]["low"] < numbers["logprob"]["value"] < numbers["logprob"]["high"]


@pytest.mark.parametrize(("dropped", "word"), [(-0.4, "likelier"), (-2.5, "less likely")])
def test_a_sentence_below_the_table_says_so(pilot, capsys, dropped, word):
    summary = json.loads((pilot / "summary.json").read_text())
    for side, value in (("dropped", dropped), ("kept", -1.9)):
        summary["data"]["selection"]["sampled"][side]["logprob"]["value"] = value
    expected = (
        f"6 of 24 questions have no sampled wrong answer: their right answers are {word} ({dropped} nats, kept -1.9)."
    )
    printed(table_of(summary), SUBJECT)
    assert expected in capsys.readouterr().out


@pytest.mark.slow
def test_nothing_is_said_of_selection_where_every_question_is_kept_or_none(tmp_path, capsys):
    folder = made_run(tmp_path / "run", questions=3)  # the fourth is the first without a wrong answer
    summary = json.loads((folder / "summary.json").read_text())
    assert "selection" not in summary["data"] and table_of(summary).notes == ()
    without = made_run(tmp_path / "masking", questions=8, instruments=("masking",))
    assert "selection" not in json.loads((without / "summary.json").read_text())["data"]
    reported(without)
    assert "wrong answer" not in capsys.readouterr().out.partition("Model:")[2]
