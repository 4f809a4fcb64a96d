"""The probe as an instrument and as a method: its numbers are those of the streams on record, and each has its null."""

import json
import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from conftest import keys
from hypothesis import given
from hypothesis import strategies as st
from test_processes import command, finished

from figures.captions import RunData, Subject
from figures.probe import compared_probes, known_by_layer, probe_page
from figures.report import reported
from interp.errors import UserError
from interp.formats import FORMATS
from interp.instruments import probe
from interp.instruments.base import Kept, Metric, estimates
from interp.instruments.probe import METRICS, PROBE, SHOWN, ProbeOptions, correlation_within, judging, less, streams_of
from interp.instruments.registry import by_default
from interp.methods.base import Verdict
from interp.methods.p_true import TRUTH
from interp.methods.probe import PROBE as METHOD
from interp.methods.probe import Streamed, packed, unpacked
from interp.methods.self_consistency import share_agreeing
from interp.models.setting import prepared as setting_of
from interp.models.shots import shot_set
from interp.options import composed
from interp.pipelines.diagnose import diagnosed
from interp.pipelines.diagnosis import Diagnose
from interp.pipelines.evaluate import evaluated
from interp.pipelines.evaluation import Evaluate
from interp.probes import PERMUTATIONS, out_of_fold, within
from interp.records import PLACES
from interp.run.runs import read_records, read_run

SUBJECT = Subject("tiny", None, "own", 40, 20, "ScoreNumber")


def values(questions=60, relations=6, seed=0, **known):
    """The values of questions whose probe knows a good deal, and whose stated confidence is noise."""
    generator = np.random.default_rng(seed)
    right = np.arange(questions) // relations % 2
    columns = {
        "right": right,
        "group": np.arange(questions) % relations,
        "probe": right * 1.5 + generator.normal(size=questions),
        "probe_question": right * 0.5 + generator.normal(size=questions),
        "ridge": generator.normal(size=questions),
        **{name: generator.random(questions) for name in ("stated", "expected", "p_true", "agreement")},
        "logprob": right * 1.0 + generator.normal(size=questions),
    }
    for k in range(PERMUTATIONS):
        columns |= {f"{name}.{k}": generator.normal(size=questions) for name in ("shuffled", "ridge_by_chance")}
        columns[f"shuffled_right.{k}"] = generator.permutation(right)
    columns |= known
    return [{name: float(column[i]) for name, column in columns.items()} for i in range(questions)]


def records_of(rows):
    return [{"id": str(i), "values": row, "relation": f"r{row['group']:.0f}"} for i, row in enumerate(rows)]


def test_every_number_is_the_auroc_within_relation_of_its_own_score():
    rows = values()
    found = estimates(METRICS, records_of(rows))
    right, group = (np.array([row[name] for row in rows]) for name in ("right", "group"))
    by_hand = {}
    for name in ("probe", "probe_question", "logprob", "stated"):
        score = [row[name] for row in rows]
        pairs = [
            (score[i] > score[j]) + 0.5 * (score[i] == score[j])
            for i, j in product(range(len(rows)), repeat=2)
            if right[i] and not right[j] and group[i] == group[j]
        ]
        by_hand[name] = float(np.mean(pairs))
    keys = {"probe": "known", "probe_question": "question"}
    for name, expected in by_hand.items():
        estimate = found[f"probe.{keys.get(name, name)}"]
        assert estimate.value == pytest.approx(expected) and estimate.low < expected < estimate.high
        assert (estimate.n, estimate.left_out) == (60, 0)
    unsaid = by_hand["probe"] - max(by_hand["logprob"], by_hand["probe_question"])
    assert found["probe.unsaid"].value == pytest.approx(unsaid)
    assert found["probe.less_stated"].value == pytest.approx(by_hand["probe"] - by_hand["stated"])
    null = found["probe.known"].null
    assert null is not None and null.low < 0.5 < null.high and null.p == pytest.approx(1 / 21)
    assert found["probe.right"].value == 0.5 and set(SHOWN) <= set(found)


def test_below_ten_right_or_wrong_answers_there_is_a_number_and_no_interval():
    right = np.arange(60) < 9
    found = estimates(METRICS, records_of(values(right=right, group=np.zeros(60))))
    for key in ("probe.known", "probe.unsaid", "probe.less_stated", "probe.stated"):
        assert found[key].value is not None and found[key].low is None, key
    none = estimates(METRICS, records_of(values(right=np.ones(60))))
    assert none["probe.known"].value is None and none["probe.known"].left_out == 60
    assert none["probe.known"].null is None


def test_a_question_without_a_score_is_left_out_and_counted():
    rows = values()
    rows[3]["probe"] = rows[7]["logprob"] = None
    found = estimates(METRICS, records_of(rows))
    assert (found["probe.known"].n, found["probe.known"].left_out) == (59, 1)
    assert (found["probe.unsaid"].n, found["probe.unsaid"].left_out) == (58, 2)
    without = [{name: None if name == "agreement" else row[name] for name in row} for row in rows]
    assert "probe.agreement" not in estimates(METRICS, records_of(without)), "--probe-samples 0"


@pytest.mark.slow
def test_the_interval_of_a_difference_holds_the_truth_where_nothing_differs():
    metric = next(metric for metric in METRICS if metric.key == "probe.less_stated")
    held = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        right = generator.random(80) < 0.5
        alike = {name: right + generator.normal(size=80) for name in ("probe", "stated")}
        rows = values(80, 8, right=right.astype(float), **alike)
        estimate = estimates((metric,), records_of(rows))[metric.key]
        held += estimate.low <= 0 <= estimate.high
    assert held >= 53  # 95 % of 60 are 57; fewer than 53 in one of a hundred runs


def test_the_correlation_is_within_relations_and_batched():
    x, y, group = np.array([1.0, 2, 11, 12]), np.array([2.0, 1, 21, 20]), np.array([0, 0, 1, 1])
    right = np.zeros(4)
    assert correlation_within(x, right, group, y) == pytest.approx(-1), "across relations it is nearly 1"
    batch = [np.stack([column, column[::-1]]) for column in (x, right, group, y)]
    assert correlation_within(*batch) == pytest.approx([-1, -1])
    assert math.isnan(correlation_within(np.ones(4), right, group, y))


@given(st.integers(0, 10_000))
def test_less_than_the_best_rival_is_never_more_than_less_than_any(seed):
    generator = np.random.default_rng(seed)
    score, one, other = generator.normal(size=(3, 12))
    right, group = np.arange(12) % 2, np.arange(12) // 4
    both = float(less(score, right, group, one, other))
    assert both == pytest.approx(min(float(less(score, right, group, rival)) for rival in (one, other)))
    assert float(less(score, right, group, score)) == 0


def test_a_null_is_drawn_by_the_metric_and_counts_what_lies_as_high():
    drawn = [0.1, 0.2, 0.3, float("nan")]
    metric = Metric("probe.x", "x", "x", "score", "x", null=lambda questions: drawn[: len(questions) * 4])
    records = [{"id": "0", "values": {"x": 0.2}}]
    (estimate,) = estimates((metric,), records).values()
    assert estimate.null is not None and estimate.null.value == pytest.approx(0.2)
    assert estimate.null.p == pytest.approx(3 / 4), "itself and two of three"
    nothing = replace(metric, null=lambda questions: [])
    assert estimates((nothing,), records)["probe.x"].null is None


def test_agreement_counts_samples_that_give_the_greedy_answer():
    record = {"samples": [{"answer": text} for text in ("Paris", "paris.", "Lyon")], "of": 4, "choices": []}
    assert share_agreeing(record, "Paris") == 0.5 and share_agreeing(record, "Nice") == 0


def test_options_refuse_what_cannot_be(tmp_path):
    with pytest.raises(UserError, match="--probe-samples -1: must be at least 0"):
        ProbeOptions(probe_samples=-1)
    with pytest.raises(UserError, match=r"--probe-from .*: this directory holds no streams"):
        ProbeOptions(probe_from=tmp_path)
    assert PROBE.on_request and "probe" not in by_default()


@pytest.mark.slow
def test_p_true_has_the_examples_and_the_wording_of_the_setting(tiny_loaded, open_questions):
    checkpoint = tiny_loaded("llama")
    for seed in (0, 2):
        setting = setting_of(checkpoint, FORMATS["ScoreNumber"], shots=2, shot_seed=seed, seed=5)
        judge = judging(setting, 2)
        assert judge.prompter.shots == shot_set(2, TRUTH, seed=seed, choices=False)
        assert judge.prompter.confidence == TRUTH and judge.check is setting.check and judge.seed == 5
        assert [shot.answer for shot in judge.prompter.shots] == [shot.answer for shot in setting.prompter.shots]


# the figure


def probe_records(questions=48, layers=(0, 3), relations=4):
    """Records of the probe whose answer's end knows everything at layer 3, and nothing elsewhere."""
    generator = np.random.default_rng(2)
    found = []
    for i, row in enumerate(values(questions, relations)):
        scores = {place: generator.normal(size=len(layers)).tolist() for place in PLACES}
        scores["answer"][1] = row["right"] * 5 + generator.random()
        more = {"place": "answer", "layers": list(layers), "layer": 3, "penalty": 0.1, "scores": scores}
        found.append({"measure": "probe", "set": 0, "id": str(i), "values": row, **more})
    return found


def run_of(records):
    plain = [{**record, "relation": f"r{record['values']['group']:.0f}"} for record in records]
    return RunData(records, estimates(METRICS, plain), SUBJECT)


@pytest.mark.slow
def test_the_map_holds_every_cell_and_marks_what_chance_does_not_reach():
    records = probe_records()
    known = known_by_layer(run_of(records))
    assert known.layers == (0, 3) and known.places == PLACES and (known.right, known.wrong) == (24, 24)
    right, group = (np.array([record["values"][name] for record in records]) for name in ("right", "group"))
    for row, column in product(range(2), range(5)):
        score = np.array([record["scores"][PLACES[column]][row] for record in records])
        assert known.auroc[row, column] == pytest.approx(float(within(score, right, group)))
    beyond = known.auroc > known.limit
    assert known.auroc[1, 1] == 1 and beyond[1, 1] and beyond.sum() == 1
    assert 0.6 < known.limit < 0.9, "the largest of ten cells, by chance"
    page = probe_page(run_of(records), SHOWN)
    printed = {text.get_text() for ax in page.figure.axes for text in ax.texts}
    assert "1.00" in printed and f"{known.auroc[0, 0]:.2f}".lstrip("0") in printed
    assert "24 right, 24 wrong, 4 relations" in page.caption and "by chance" in page.caption
    assert "no relations" not in " ".join(page.caption.split())
    other = probe_records(layers=(0, 3, 6))
    for record in other:
        record["values"]["agreement"] = None
    figure, how = compared_probes(run_of(records), run_of(other), SHOWN)
    rows = [[label.get_text() for label in figure.axes[0].get_yticklabels()], len(figure.axes[2].get_yticks())]
    assert rows == [["0", "3"], len(SHOWN) - 1] and len(figure.axes[3].get_yticks()) == rows[1], "both have those"
    assert "framed" in how


def test_the_figure_says_where_there_are_no_relations_and_draws_where_nothing_is_known():
    records = probe_records(relations=1)
    page = probe_page(run_of(records), SHOWN)
    assert "The data have no relations" in " ".join(page.caption.split())
    for record in records:
        record["scores"] = {place: [None, None] for place in PLACES}
    known = known_by_layer(run_of(records))
    assert np.isnan(known.auroc).all() and math.isnan(known.limit)
    assert probe_page(run_of(records), SHOWN).figure.axes
    assert np.isnan(known_by_layer(RunData((), {}, SUBJECT)).auroc).all()


# from a model to a summary


def options(checkpoint, data, folder, **more):
    given_options = {"shots": 0, "n": 12, "device": "cpu", "probe_samples": 2, **more}
    return composed(Diagnose, ckpt=str(checkpoint), data=str(data / "open.jsonl"), out=folder, **given_options)


@pytest.mark.slow
def test_a_run_keeps_streams_and_its_numbers_are_those_of_probes_of_them(taught_checkpoint, own_data, tmp_path):
    folder = diagnosed(options(taught_checkpoint, own_data, tmp_path / "run"), ("probe",), "probe")
    _, summary, records = read_run(folder)
    answers = [record for record in records if record["measure"] == "answer" and record["answer"]]
    measured = {record["id"]: record for record in records if record["measure"] == "probe"}
    assert list(measured) == [answer["id"] for answer in answers], "right or wrong"
    assert [measured[a["id"]]["values"]["right"] for a in answers] == [float(a["right"]) for a in answers]
    streams = streams_of(folder, [record for record in records if record["measure"] == "streams"])
    assert streams.values.shape == (len(answers), 5, 2, 48) and streams.layers == (0, 3)
    for place, name in enumerate(PLACES):
        again = out_of_fold(streams.values[:, place], streams.right, streams.relations)
        known = [measured[identity]["scores"][name] for identity in streams.ids]
        flat = [math.nan if value is None else value for row in known for value in row]
        assert np.allclose(np.reshape(flat, (-1, 2)).T, again.by_layer, equal_nan=True)
    row = measured[answers[0]["id"]]["values"]
    assert 0 <= row["p_true"] <= 1 and row["agreement"] in (0, 0.5, 1) and row["logprob"] < 0
    assert summary["probe"]["right"]["n"] == len(answers)
    reported(folder)
    assert (folder / "figures" / "probe.png").exists()

    # continued: nothing is measured again. From the same run: the tested relations are left out there as well
    before = (folder / "records.jsonl").read_bytes()
    diagnosed(options(taught_checkpoint, own_data, folder), ("probe",), "probe")
    assert (folder / "records.jsonl").read_bytes() == before
    other = options(taught_checkpoint, own_data, tmp_path / "other", probe_from=folder, probe_samples=0)
    again = {r["id"]: r for r in read_records(diagnosed(other, ("probe",), "probe")) if r["measure"] == "probe"}
    for identity, record in measured.items():
        assert again[identity]["scores"]["answer"] == pytest.approx(record["scores"]["answer"], abs=1e-4)
        assert again[identity]["values"]["agreement"] is None

    # what does not fit is one sentence
    ours = replace(streams, values=streams.values[..., :40])
    with pytest.raises(UserError, match="its streams have the width 48, here: 40"):
        probe.streams_from(folder, 0, ours)
    with pytest.raises(UserError, match=r"its streams have the layers \(0, 3\), here: \(0, 2\)"):
        probe.streams_from(folder, 0, replace(streams, layers=(0, 2)))
    lines = [line for line in before.splitlines() if json.loads(line)["measure"] != "streams"]
    (folder / "records.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(UserError, match=r"this run has no streams; run .* there first"):
        probe.streams_from(folder, 0, streams)


@pytest.mark.slow
def test_a_dry_run_estimates_the_time_of_a_probe(taught_checkpoint, own_data, tmp_path):
    folder = diagnosed(options(taught_checkpoint, own_data, tmp_path / "run", dry_run=True), ("probe",), "probe")
    assert not (folder / "summary.json").exists()


@pytest.mark.slow
def test_two_processes_probe_what_one_does(taught_checkpoint, own_data, tmp_path):
    flags = {"ckpt": taught_checkpoint, "data": own_data / "open.jsonl", "shots": 0, "n": 12, "probe-samples": 0}
    for name, together in (("one", False), ("two", True)):
        finished(command("interp.probe", tmp_path / name, flags, together=together))
    assert keys(tmp_path / "one") == keys(tmp_path / "two")
    records = [
        {r["id"]: r["values"] for r in read_records(tmp_path / name) if r["measure"] == "probe"}
        for name in ("one", "two")
    ]
    assert len(records[0]) > 5
    for identity, known in records[0].items():
        assert records[1][identity] == pytest.approx(known, abs=1e-3)


def test_without_streams_of_a_question_only_what_is_asked_is_known(taught_setting, open_questions, tmp_path):
    from interp.models.setting import Case

    kept = Kept(folder=tmp_path, readings={"streams": ()})
    cases = [Case(open_questions[0], "Kid")]
    kept = replace(kept, prepared=probe.prepared(taught_setting, cases, ProbeOptions(), kept))
    (record,) = probe.measured(taught_setting, cases, ProbeOptions(probe_samples=0), kept)
    assert list(record) == ["values"] and record["values"]["expected"] is None
    assert 0 <= record["values"]["p_true"] <= 1


# the method


@given(st.integers(1, 4), st.integers(1, 9), st.floats(1e-6, 1e6), st.integers(0, 99))
def test_a_packed_stream_comes_back_to_half_precision(layers, width, scale, seed):
    stream = np.random.default_rng(seed).normal(size=(layers, width)) * scale
    record = json.loads(json.dumps(packed(stream)))
    assert np.abs(unpacked(record) - stream).max() <= 1e-3 * np.abs(stream).max()
    assert (unpacked(packed(np.zeros((layers, width)))) == 0).all()


@pytest.mark.slow
def test_the_methods_confidence_is_the_probability_of_the_probe_that_did_not_see_the_relation():
    generator = np.random.default_rng(1)
    relations, right = [f"r{i % 5}" for i in range(40)], np.arange(40) % 3 > 0
    streams = generator.normal(size=(40, 2, 6))
    streams[:, 1, 2] += 4 * right
    fitted = METHOD.scores[0].fitted
    assert fitted is not None
    verdicts = [Streamed(f"answer {i}", 0.5, stream=stream) for i, stream in enumerate(streams)]
    given_verdicts = fitted([*verdicts, Verdict("nothing", 0.0)], [*right.tolist(), False], [*relations, "r0"])
    expected = out_of_fold(streams, right, relations)
    assert given_verdicts[-1] == Verdict("nothing", 0.0), "a reply that could not be parsed stays"
    for i, verdict in enumerate(given_verdicts[:-1]):
        assert verdict is not None and verdict.answer == f"answer {i}" and verdict.fold == expected.fold[i]
        assert verdict.confidence == pytest.approx(1 / (1 + math.exp(-expected.scores[i])))
    assert fitted(verdicts[:4], right[:4].tolist(), relations[:4]) == [None] * 4
    assert fitted(verdicts[:10], [True] * 10, relations[:10]) == [None] * 10


@pytest.mark.slow
def test_an_evaluation_has_a_row_of_the_probe(taught_checkpoint, own_data, tmp_path):
    chosen = composed(
        Evaluate,
        ckpt=(str(taught_checkpoint),),
        data=(str(own_data / "open.jsonl"),),
        methods=("default", "probe"),
        n=12,
        shots=0,
        device="cpu",
        out=tmp_path / "run",
    )
    folder = evaluated(chosen)
    _, summary, records = read_run(folder)
    cell = summary["calibration"]["llama"]["open"]
    kept = [record for record in records if record["measure"].endswith("|stream")]
    answered = [r for r in records if r["measure"].endswith("|answer") and r["answer"]]
    assert len(kept) == len(answered) and unpacked(kept[0]).shape == (2, 48)
    row = cell["probe"]["ScoreNumber"]
    assert row["n"] + row["unparsed"] == 12 and 0 <= row["brier"]["value"] <= 1
