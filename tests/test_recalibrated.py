"""Confidences that are recalibrated on other questions, and those under an instruction that asks for caution."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from interp.calibration import Scored, auroc, brier, differences_of, measures_of, rule_named
from interp.formats import FORMATS
from interp.methods.base import Verdict
from interp.methods.prompting import CAUTION, PROMPTING
from interp.methods.recalibrated import FOLDS, RECALIBRATED, cross_fitted, folds_of, isotonic, platt
from interp.models.setting import prepared
from interp.options import composed
from interp.pipelines.evaluate import evaluated
from interp.pipelines.evaluation import APART, SHARED, Evaluate
from interp.run.runs import read_records, read_run

FITS = pytest.mark.parametrize("fit", [platt, isotonic])
ROWS = pytest.mark.parametrize("score", RECALIBRATED.scores, ids=lambda score: score.key)
RULE = rule_named("10-right")


def speaker(count: int = 200) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(confidence, right, relations) of an overconfident speaker: 20 relations of unlike difficulty."""
    draw = np.random.default_rng(0)
    relation = np.arange(count) % 20
    confidence = draw.choice([0.5, 0.7, 0.9, 1.0], count)
    right = draw.random(count) < confidence**3 * (0.6 + relation / 50)
    return confidence, right, [f"relation {number}" for number in relation]


def recalibrated(score, confidence, right, relations) -> tuple[np.ndarray, np.ndarray]:
    """(confidences, folds) of the verdicts that a row makes."""
    fitted = score.fitted([Verdict("x", float(c)) for c in confidence], [bool(r) for r in right], relations)
    return np.array([verdict.confidence for verdict in fitted]), np.array([verdict.fold for verdict in fitted])


def scored(confidence, right, relations, folds=()) -> Scored:
    return Scored(
        tuple(map(float, confidence)),
        tuple(map(bool, right)),
        tuple(relations),
        fold=tuple(int(fold) for fold in folds),
    )


def negative_log_likelihood(weights, logits, right) -> float:
    """Of a logistic regression whose squared slope is penalised."""
    return np.logaddexp(0, -(weights[0] * logits + weights[1]) * np.where(right, 1, -1)).sum() + weights[0] ** 2 / 2


def test_platt_scaling_is_the_penalised_logistic_regression_on_the_logit():
    confidence, right, _ = speaker()
    clipped = np.clip(confidence, 0.01, 0.99)
    logits = np.log(clipped) - np.log1p(-clipped)
    slope, shift = minimize(negative_log_likelihood, (1, 0), (logits, right), tol=1e-10).x
    found = platt(confidence, right, np.array([0.0, 0.7, 1.0]))
    by_hand = [1 / (1 + math.exp(-slope * math.log(c / (1 - c)) - shift)) for c in (0.01, 0.7, 0.99)]
    assert found == pytest.approx(by_hand, abs=1e-3) and slope > 0.1


def test_isotonic_regression_pools_levels_whose_accuracy_falls_and_is_flat_beyond_them():
    confidence = np.repeat([0.2, 0.5, 0.8], 10)
    right = np.arange(30) % 10 < np.repeat([4, 2, 9], 10)
    found = isotonic(confidence, right, np.array([0.0, 0.2, 0.5, 0.8, 1.0]))
    assert found == pytest.approx([0.3, 0.3, 0.3, 0.9, 0.9]), "4 and 2 of 10 are pooled to 6 of 20"


@ROWS
def test_recalibration_lowers_the_brier_score_of_an_overconfident_speaker(score):
    confidence, right, relations = speaker()
    fitted, _ = recalibrated(score, confidence, right, relations)
    assert brier(fitted, right) < brier(confidence, right) - 0.1
    assert abs(fitted.mean() - right.mean()) < 0.03 < confidence.mean() - right.mean() - 0.2
    assert ((fitted >= 0) & (fitted <= 1)).all()


@ROWS
def test_a_constant_speaker_ranks_by_chance_within_folds_and_below_chance_over_all(score):
    _, right, relations = speaker()
    fitted, folds = recalibrated(score, np.full(200, 0.9), right, relations)
    assert len(set(fitted.tolist())) > 2 and auroc(fitted, right) < 0.45
    measured = measures_of(scored(fitted, right, relations, folds), RULE)
    assert measured["auroc"].value == measured["auroc_within"].value == 0.5
    assert measures_of(scored(fitted, right, relations), RULE)["auroc"].value < 0.45, "what folds are there for"


def test_pairs_are_those_of_one_fold_and_of_one_relation_in_it():
    confidence, right = (0.1, 0.9, 0.8, 0.2, 0.5, 0.6, 0.9, 0.3), (True, False) * 4
    groups, folds = ("a", "a", "b", "a", "b", "b", "b", "a"), (0, 0, 0, 0, 1, 1, 1, 1)
    for by, key in ((folds, "auroc"), (list(zip(folds, groups, strict=True)), "auroc_within")):
        pairs = [
            confidence[i] > confidence[j]
            for i in range(8)
            for j in range(8)
            if right[i] and not right[j] and by[i] == by[j]
        ]
        assert measures_of(scored(confidence, right, groups, folds), RULE)[key].value == pytest.approx(np.mean(pairs))
    assert measures_of(scored(confidence, right, groups), RULE)["auroc"].value != pytest.approx(5 / 8)


@ROWS
def test_the_confidences_of_a_fold_do_not_depend_on_its_own_outcomes(score):
    confidence, right, relations = speaker()
    before, folds = recalibrated(score, confidence, right, relations)
    after, again = recalibrated(score, confidence, np.where(folds == 2, ~right, right), relations)
    assert (folds == again).all() and (before == after)[folds == 2].all()
    assert not (before == after)[folds != 2].any(), "the other folds are fitted on it"


def test_no_relation_is_split_over_folds_and_questions_without_one_are_spread():
    _, right, relations = speaker()
    folds = folds_of(right, relations)
    assert set(folds.tolist()) == set(range(FOLDS)) and (np.bincount(folds) == 40).all()
    assert len(set(zip(relations, folds.tolist(), strict=True))) == 20
    some = folds_of(right, [relation if number < 100 else "" for number, relation in enumerate(relations)])
    assert len(set(zip(relations[:100], some[:100].tolist(), strict=True))) == 20
    assert set(some[100:].tolist()) == set(range(FOLDS))


@pytest.mark.parametrize("relations", [[""] * 60, ["a", "b", "c", "d"] * 15])
def test_without_relations_each_fold_has_its_share_of_wrong_answers(relations):
    right = np.arange(60) >= 7
    folds = folds_of(right, relations)
    assert (np.bincount(folds) == 12).all() and set(np.bincount(folds[~right])) == {1, 2}
    assert (folds == folds_of(right, relations)).all() and (np.diff(folds[right]) % FOLDS != 1).any(), (
        "drawn, and fixed"
    )


@FITS
def test_where_all_other_answers_are_of_one_class_the_accuracy_is_the_confidence(fit):
    confidence, folds = np.array([0.2, 0.9, 0.4, 0.6]), np.array([0, 0, 1, 1])
    found = cross_fitted(fit, confidence, np.array([True, True, False, False]), folds)
    assert found.tolist() == [0, 0, 1, 1]


@FITS
def test_equal_confidences_of_a_fold_stay_equal(fit):
    confidence, right, relations = speaker()
    folds = folds_of(right, relations)
    found = cross_fitted(fit, confidence, right, folds)
    pairs = set(zip(folds.tolist(), confidence.tolist(), found.tolist(), strict=True))
    assert len(pairs) == len({pair[:2] for pair in pairs})


@ROWS
def test_fewer_questions_than_folds_are_left_out(score):
    assert score.fitted([Verdict("x", 0.5)] * 4, [True, False] * 2, [""] * 4) == [None] * 4
    assert None not in score.fitted([Verdict("x", 0.5)] * 5, [True] * 5, [""] * 5)


def test_two_sides_with_other_folds_differ_as_they_do_alone():
    confidence, right, relations = speaker()
    sides = [scored(confidence, right, relations, folds) for folds in (np.arange(200) % 5, np.arange(200) // 40)]
    difference = differences_of(sides[:1], sides[1], RULE)
    values = [measures_of(side, RULE)["auroc"].value for side in sides]
    assert difference["auroc"].value == pytest.approx(values[0] - values[1]) and values[0] != values[1]


# From end to end


def recorded(folder: Path, asking: str) -> dict[str, dict]:
    """The records of an asking by the question's id, in the order in which questions were asked."""
    return {r["id"]: r for r in read_records(folder) if r["measure"].endswith(f"|{asking}")}


def rows_of(folder: Path) -> dict[str, dict]:
    """The numbers of each row of the table."""
    return {key: by["ScoreNumber"] for key, by in read_run(folder)[1]["calibration"]["llama"]["answered"].items()}


@pytest.fixture(scope="module")
def options(tiny_checkpoint, own_data, tmp_path_factory):
    """The options of an evaluation of the open questions with answers, every third of which is wrong."""
    rows = [json.loads(line) for line in (own_data / "open.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["response"] = row["answers"][0] if number % 3 else "no"
    folder = tmp_path_factory.mktemp("answered")
    (folder / "answered.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return lambda name, **more: composed(
        Evaluate,
        ckpt=(str(tiny_checkpoint("llama")),),
        data=(str(folder / "answered.jsonl"),),
        out=folder / name,
        device="cpu",
        **more,
    )


@pytest.fixture(scope="module")
def run(options) -> Path:
    return evaluated(options("run", methods=("default", "prompting", "recalibrated")))


def test_the_recalibrated_rows_follow_from_the_records_of_the_default_method(run, open_questions):
    answers, read, rows = recorded(run, "answer"), recorded(run, "read"), rows_of(run)
    relation = {question.id: question.relation for question in open_questions}
    right = np.array([record["answer"] != "no" for record in answers.values()])
    confidence = np.array([read[identity]["stated"] / 9 for identity in answers])
    folds = folds_of(right, [relation[identity] for identity in answers])
    for key, fit in (("platt", platt), ("isotonic", isotonic)):
        fitted = np.zeros(12)
        for i in range(12):
            others = folds != folds[i]
            fitted[i] = fit(confidence[others], right[others], confidence[i : i + 1])[0]
        assert rows[key]["brier"]["value"] == pytest.approx(((fitted - right) ** 2).mean())
        pairs = [
            (fitted[i] > fitted[j]) + (fitted[i] == fitted[j]) / 2
            for i in np.flatnonzero(right)
            for j in np.flatnonzero(~right & (folds == folds[i]))
        ]
        assert rows[key]["auroc"]["value"] == pytest.approx(np.mean(pairs)) and len(pairs) < 8 * 4
        assert (rows[key]["n"], rows[key]["tokens"]) == (12, rows["default"]["tokens"]), "nothing more is asked"


@pytest.mark.slow
def test_the_parts_of_a_table_have_the_confidences_that_were_fitted_on_all_questions(run, options, tmp_path):
    (tmp_path / "trained.jsonl").write_text('{"question": "A large dog?", "answers": ["the puppy!", "Asunción"]}')
    apart = evaluated(options("apart", methods=("recalibrated",), trained_on=str(tmp_path / "trained.jsonl")))
    by_part = read_run(apart)[1]["calibration"]["llama"]
    parts = [by_part[f"answered{part}"]["platt"]["ScoreNumber"] for part in (SHARED, APART)]
    assert sum(part["n"] for part in parts) == 12 and parts[0]["n"] < FOLDS
    mean = sum(part["n"] * part["confidence"]["value"] for part in parts) / 12
    assert mean == pytest.approx(rows_of(run)["platt"]["confidence"]["value"])


def test_in_the_worst_case_unparsed_replies_are_recalibrated_as_wrong_answers(tiny_checkpoint, own_data, tmp_path):
    file = str(own_data / "open.jsonl")
    free = composed(
        Evaluate,
        ckpt=(str(tiny_checkpoint("llama")),),
        data=(file,),
        out=tmp_path / "run",
        device="cpu",
        methods=("default", "recalibrated"),
        free=True,
    )
    rows = {key: by["ScoreNumber"] for key, by in read_run(evaluated(free))[1]["calibration"]["llama"]["open"].items()}
    assert rows["platt"]["n"] == 0 and rows["platt"]["worst"]["n"] == 12
    assert rows["default"]["worst"]["ece"]["value"] == 1 and rows["platt"]["worst"]["ece"]["value"] == 0


def test_prompting_reads_the_same_answers_below_an_instruction_that_asks_for_caution(run, tiny_setting):
    setting, rows = tiny_setting("llama"), rows_of(run)
    answers, read, cautioned = (recorded(run, asking) for asking in ("answer", "read", "cautioned"))
    asking = PROMPTING.asking
    careful = prepared(setting.checkpoint, asking.format_in(FORMATS["ScoreNumber"]))
    question = setting.pool[0]
    plain, prompt = (one.prompter.transcript(question, answers[question.id]["answer"]) for one in (setting, careful))
    assert prompt.text.replace(f". {CAUTION}", "") == plain.text != prompt.text and prompt.text.count(CAUTION) == 1
    record = cautioned[question.id]
    assert record["probability"] == pytest.approx(
        careful.reader.readings([prompt])[0].distribution.probability, abs=1e-5
    )
    assert record["expected"] != pytest.approx(read[question.id]["expected"], abs=1e-4)
    assert record["prompt_tokens"] == len(prompt.ids) > len(plain.ids)
    assert rows["prompting_expected"]["confidence"]["value"] == pytest.approx(
        np.mean([one["expected"] for one in cautioned.values()])
    )
    costs = [rows[key]["prompt_tokens"]["value"] for key in ("prompting", "default")]
    assert costs[0] - costs[1] == pytest.approx(np.mean([one["prompt_tokens"] for one in cautioned.values()]))


def test_a_sentence_is_added_to_the_formats_wording_alone():
    confidence = FORMATS["ScoreLetter"]
    careful = PROMPTING.asking.format_in(confidence)
    assert careful.wording == f"{confidence.wording}. {CAUTION}" and not CAUTION.endswith(".")
    assert (careful.name, careful.levels, careful.values) == (confidence.name, confidence.levels, confidence.values)
    assert RECALIBRATED.asking.format_in(confidence) is confidence
