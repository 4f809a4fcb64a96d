"""The main job from end to end on small models: all that it promises on disk, and that no way of stopping it shows."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import close, keys
from scipy.spatial.distance import jensenshannon

from interp.errors import UserError
from interp.options import composed
from interp.pipelines.diagnose import diagnosed
from interp.pipelines.diagnosis import Diagnose
from interp.run.runs import read_records, read_run

FOUR = ("jsd", "rollout", "masking", "attribution")
SMALL = {"n": 5, "candidates": 2, "tries": 32, "n_attribution": 2, "device": "cpu"}
SPANS = ("special", "instruction", "question", "answer", "tail")
NUMBERS = (
    [f"jsd.{name}" for name in ("median", "near_zero_share", "noise_floor", "wrong_wrong", "foreign", "foil")]
    + [f"jsd.{name}" for name in ("candidates", "hint", "direction.mean", "direction.share_positive", "outside")]
    + [f"jsd.branched.{name}" for name in ("median", "wrong_wrong", "near_zero_share", "direction.mean")]
    + [f"jsd.same_relation.{name}" for name in ("near_zero_share", "direction.mean", "likelihood_correlation")]
    + ["jsd.pairs.number", "jsd.pairs.near_zero_share", "jsd.filled.candidates", "jsd.filled.pairs.near_zero_share"]
    + [f"rollout.{span}.{kind}" for span in SPANS for kind in ("mass", "per_token", "null")]
    + [f"rollout.{span}.{kind}" for span in SPANS for kind in ("without_first", "without_first_null")]
    + [f"attribution.{span}.effect" for span in SPANS]
    + ["attribution.answer.completeness_gap", "attribution.answer.rank", "attribution.refused_share"]
    + ["masking.seen"]
    + [f"masking.{replacement}.{kind}" for replacement in ("neutral", "mean") for kind in ("drop", "masked")]
    + [f"masking.{cut}.drop" for cut in ("confidence_to_answer", "later_to_answer")]
)
"""What other programs may look for in summary.json."""


def options(ckpt: Path, data: Path, out: Path, **more) -> Diagnose:
    return composed(Diagnose, ckpt=str(ckpt), data=str(data), out=out, **(SMALL | more))


def at(summary: dict, key: str):
    for name in key.split("."):
        summary = summary[name]
    return summary


@pytest.fixture(scope="module")
def data(own_data) -> Path:
    return own_data / "open.jsonl"


@pytest.fixture(scope="module")
def whole(taught_checkpoint, data, tmp_path_factory) -> Path:
    """An undisturbed run of all four instruments."""
    return diagnosed(options(taught_checkpoint, data, tmp_path_factory.mktemp("whole") / "run"), FOUR, "diagnose")


@pytest.fixture
def answered(tmp_path, open_questions, choice_questions):
    """answered(choices=False): a data file whose questions carry right responses, so that any model can be measured."""

    def written(choices: bool = False) -> Path:
        path = tmp_path / "answered.jsonl"
        rows = []
        for question in choice_questions if choices else open_questions:
            right = question.answers[0]
            row = {"id": question.id, "question": question.text, "context": question.context, "response": right}
            truth = {"choices": question.choices, "answer": "ABCDEF".index(right)} if choices else {"answers": [right]}
            rows.append(json.dumps(row | truth))
        path.write_text("\n".join(rows))
        return path

    return written


# What a run leaves behind


STORED = Path(__file__).parent / "data" / "summary.json"
"""What version 0.1 wrote for the undisturbed run, without the names of the model and the data."""


def unlike(now: object, then: object, where: str = "") -> list[str]:
    """Where a summary lacks a key of a stored one, or has another number there: to 1 %, since two kinds of processor
    round a trained model's numbers differently. Intervals have other ends than in 0.1, or none."""
    if where.endswith((".low", ".high")):
        return []
    if isinstance(then, dict):
        lost = [f"{where}.{key}" for key in then if key not in now]
        return lost + [one for key in then.keys() & now.keys() for one in unlike(now[key], then[key], f"{where}.{key}")]
    if isinstance(then, float):
        return [] if now == pytest.approx(then, rel=1e-2, abs=1e-3) else [where]
    return [] if now == then else [where]


def test_what_is_called_otherwise_now_stands_in_the_summary_under_both_names(whole):
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["renamed"].keys() == {"jsd.foil", "jsd.foreign", "jsd.hint", "jsd.outside"}
    for old, new in summary["renamed"].items():
        assert at(summary, old) == at(summary, new) and at(summary, new)["n"]


def test_a_summary_has_the_keys_and_numbers_that_version_0_1_wrote(whole):
    now, then = (json.loads(path.read_text()) for path in (whole / "summary.json", STORED))
    assert unlike(now, then) == [] and all(at(then, key) for key in NUMBERS)


def test_every_promised_number_stands_in_the_summary_with_interval_and_count(whole):
    _, summary, _ = read_run(whole)
    for key in NUMBERS:
        number = at(summary, key)
        assert {"value", "low", "high", "n", "left_out"} == number.keys() - {"floor"}, key
        asked = SMALL["n_attribution"] if key.startswith("attribution") else SMALL["n"]
        assert number["n"] + number["left_out"] == asked, key
        assert number["n"] == 0 or number["value"] is not None, key
    for key in ("jsd.median", "rollout.answer.mass", "masking.mean.drop", "attribution.answer.effect"):
        assert 0 < at(summary, key)["floor"] < 1e-4, f"{key} has a numerical floor"
    assert at(summary, "floor.rollout.answer.mass")["n"] == SMALL["n"]
    assert summary["data"]["asked"] == 12 and summary["data"]["right"] >= SMALL["n"]
    assert summary["jsd"]["median"]["n"] == SMALL["n"] - summary["data"]["without_sampled_wrong_answer"]
    assert summary["jsd"]["branched"]["median"]["n"] == SMALL["n"], "a question has no wrong answer"
    assert (summary["data"]["wrong_answers"], summary["data"]["without_wrong_answer"]) == ("branched", 0)


def test_the_summary_can_be_recomputed_from_the_distributions_on_disk(whole):
    _, summary, records = read_run(whole)
    pairs = []
    for record in (r for r in records if r["measure"] == "jsd" and r["answers"].get("wrong")):
        right, wrong = record["answers"]["right"][0], record["answers"]["wrong"][0]
        levels = np.arange(10) / 9
        expected = [levels @ said["probability"] for said in (right, wrong)]
        assert [right["expected"], wrong["expected"]] == pytest.approx(expected)
        pairs.append((jensenshannon(right["probability"], wrong["probability"]) ** 2, expected[0] - expected[1]))
    divergences, directions = np.array(pairs).T
    assert summary["jsd"]["median"]["value"] == pytest.approx(np.median(divergences), abs=1e-7)
    assert summary["jsd"]["near_zero_share"]["value"] == np.mean(divergences <= 0.1)
    assert summary["jsd"]["direction"]["mean"]["value"] == pytest.approx(directions.mean(), abs=1e-9)
    assert summary["jsd"]["direction"]["share_positive"]["value"] == np.mean(directions > 0)
    drops = [r["seen"]["expected"] - r["masked"]["mean"]["expected"] for r in records if r["measure"] == "masking"]
    assert summary["masking"]["mean"]["drop"]["value"] == pytest.approx(np.mean(drops), abs=1e-9)


def test_a_record_holds_the_prompt_as_tokens_and_spans(whole):
    told = [record for record in read_records(whole) if record["measure"] == "answer"]
    assert {record["id"] for record in told} == {key[2] for key in keys(whole) if key[0] == "answer"}
    for record in told:
        assert ("transcript" in record) == record["right"]
        if record["right"]:
            prompt = record["transcript"]
            assert len(prompt["ids"]) == len(prompt["tokens"]) == len(prompt["spans"])
            answer = "".join(t for t, s in zip(prompt["tokens"], prompt["spans"], strict=True) if s == "answer")
            assert answer.strip().replace("óó", "ó") == record["answer"]  # two tokens hold one byte each of that letter


def test_a_taught_dependence_on_the_answer_is_found_with_its_direction(whole):
    _, summary, _ = read_run(whole)
    assert summary["jsd"]["median"]["value"] > 0.3
    assert summary["jsd"]["direction"]["mean"]["value"] > 0.3
    assert summary["jsd"]["noise_floor"]["value"] < summary["jsd"]["median"]["value"]


def test_the_configuration_says_how_to_repeat_it(whole, taught_checkpoint, data):
    config, _, _ = read_run(whole)
    identity = config["identity"]
    assert (identity["ckpt"], identity["data"], identity["seed"]) == (str(taught_checkpoint), str(data), 0)
    assert len(identity["questions"]) == 12 and identity["model"] and identity["dtype"] == "float32"
    assert {"torch", "transformers"} <= config["made_with"]["versions"].keys()


# Stopping and going on


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.03, 0.35, 0.7, 0.97])
def test_a_run_cut_off_anywhere_ends_as_if_it_had_not_been(whole, taught_checkpoint, data, tmp_path, share):
    cut = tmp_path / "run"
    shutil.copytree(whole, cut)
    (cut / "summary.json").unlink()
    records = (cut / "records.jsonl").read_bytes()
    (cut / "records.jsonl").write_bytes(records[: int(share * len(records))])
    diagnosed(options(taught_checkpoint, data, cut), FOUR, "diagnose")
    assert sorted(keys(cut)) == sorted(keys(whole)), "a record was lost or doubled"
    assert close(read_run(cut)[1], read_run(whole)[1])


@pytest.mark.slow
def test_a_killed_command_is_finished_by_the_same_command(whole, taught_checkpoint, data, tmp_path):
    out = tmp_path / "run"
    told = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    command = [sys.executable, "-m", "interp.diagnose", "--ckpt", taught_checkpoint, "--data", data, "--out", out]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, *told], cwd=tmp_path, stdout=log, stderr=log, env=os.environ)
        deadline = time.monotonic() + 240
        while len(keys(out)) < 14 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(keys(out)) >= 14, (tmp_path / "log").read_text()
    assert not (out / "summary.json").exists()
    diagnosed(options(taught_checkpoint, data, out), FOUR, "diagnose")
    assert sorted(keys(out)) == sorted(keys(whole))
    assert close(read_run(out)[1], read_run(whole)[1])


@pytest.mark.slow
def test_a_finished_run_measures_nothing_again(whole, taught_checkpoint, data):
    before = (whole / "records.jsonl").read_bytes()
    diagnosed(options(taught_checkpoint, data, whole), FOUR, "diagnose")
    assert (whole / "records.jsonl").read_bytes() == before


def test_another_configuration_is_refused_with_the_difference(whole, taught_checkpoint, data):
    with pytest.raises(UserError, match=r"another configuration \(seed: 0 there, 1 now\)"):
        diagnosed(options(taught_checkpoint, data, whole, seed=1), FOUR, "diagnose")


@pytest.mark.slow
def test_what_only_fits_the_run_to_the_machine_may_change(whole, taught_checkpoint, data):
    diagnosed(options(taught_checkpoint, data, whole, batch_tokens=777), FOUR, "diagnose")
    with pytest.raises(UserError, match="n: 5 there, 4 now"):
        diagnosed(options(taught_checkpoint, data, whole, n=4), FOUR, "diagnose")


# Every way of asking


def test_sets_of_examples_are_averaged_by_question_and_their_spread_is_shown(tiny_checkpoint, answered, tmp_path):
    chosen = options(tiny_checkpoint("llama"), answered(), tmp_path / "run", n=2, shots=1, shot_sets=2, candidates=0)
    folder = diagnosed(chosen, ("masking",), "masking")
    _, summary, records = read_run(folder)
    seen = [[r["values"]["seen"] for r in records if r["measure"] == "masking" and r["set"] == s] for s in (0, 1)]
    assert np.shape(seen) == (2, 2) and seen[0] != seen[1]
    assert summary["shot_sets"]["masking.seen"]["values"] == pytest.approx([np.mean(one) for one in seen])
    assert summary["masking"]["seen"]["value"] == pytest.approx(np.mean(seen)) and summary["masking"]["seen"]["n"] == 2


@pytest.mark.slow
def test_wordings_are_averaged_by_question_and_their_spread_is_shown(tiny_checkpoint, answered, tmp_path):
    given = {"n": 2, "shots": 1, "shot_sets": 2, "candidates": 0}
    chosen = options(tiny_checkpoint("llama"), answered(), tmp_path / "run", wordings=2, **given)
    folder = diagnosed(chosen, ("masking",), "masking")
    config, summary, records = read_run(folder)
    measured = [r for r in records if r["measure"] == "masking"]
    # [wordings, sets of examples, questions]: a set's number is wording * 2 + the number of its examples
    seen = np.array([[r["values"]["seen"] for r in measured if r["set"] == s] for s in range(4)]).reshape(2, 2, 2)
    assert len({round(value, 9) for value in seen.mean(2).flat}) == 4
    assert {r["set"] for r in records if r["measure"] in ("answer", "floor")} == {0}
    assert summary["masking"]["seen"]["value"] == pytest.approx(seen.mean()) and summary["masking"]["seen"]["n"] == 2
    assert summary["wordings"]["masking.seen"]["values"] == pytest.approx(seen.mean((1, 2)))
    assert summary["shot_sets"]["masking.seen"]["values"] == pytest.approx(seen.mean((0, 2)))
    assert config["identity"]["wordings"] == 2
    today = diagnosed(
        options(tiny_checkpoint("llama"), answered(), tmp_path / "today", **given), ("masking",), "masking"
    )
    _, without, first = read_run(today)
    assert close(first, [r for r in records if r["set"] < 2]) and "wordings" not in without


@pytest.mark.slow
def test_a_run_with_two_wordings_and_no_examples_goes_on_where_it_was_cut_off(tiny_checkpoint, answered, tmp_path):
    chosen = options(tiny_checkpoint("llama"), answered(), tmp_path / "run", n=2, wordings=2, candidates=0)
    folder = diagnosed(chosen, ("masking",), "masking")
    whole, summary = keys(folder), read_run(folder)[1]
    assert "shot_sets" not in summary and len(summary["wordings"]["masking.seen"]["values"]) == 2
    assert [key for key in whole if key[1]] == [key for key in whole if key[1] == 1 and key[0] == "masking"]
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    (folder / "records.jsonl").write_text("".join(lines[:-1]))
    diagnosed(chosen, ("masking",), "masking")
    assert keys(folder) == whole and close(read_run(folder)[1], summary)
    with pytest.raises(UserError, match="wordings: 2 there, 1 now"):
        diagnosed(options(tiny_checkpoint("llama"), answered(), folder, n=2, candidates=0), ("masking",), "masking")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ScoreLetter", "ScoreNumber", "ScoreText", "ScorePercent", "ScoreFloat"])
def test_every_format_is_measured_by_every_instrument(tiny_checkpoint, answered, tmp_path, name):
    few = {"n": 2, "n_attribution": 1, "candidates": 0, "tries": 4, "format": name}
    folder = diagnosed(options(tiny_checkpoint("llama"), answered(), tmp_path / "run", **few), FOUR, "diagnose")
    _, summary, records = read_run(folder)
    levels = {"ScoreLetter": 5, "ScoreNumber": 10, "ScoreText": 5, "ScorePercent": 101, "ScoreFloat": 11}[name]
    said = [r["seen"]["probability"] for r in records if r["measure"] == "masking"]
    assert np.shape(said) == (2, levels) and np.sum(said, axis=1) == pytest.approx(1)
    assert summary["masking"]["seen"]["n"] == 2 and summary["rollout"]["answer"]["mass"]["n"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mistral", "gemma2", "qwen2", "gemma3"])
def test_every_family_is_measured_by_every_instrument(tiny_checkpoint, answered, tmp_path, family):
    few = {"n": 2, "n_attribution": 1, "candidates": 0, "tries": 4}
    folder = diagnosed(options(tiny_checkpoint(family), answered(), tmp_path / "run", **few), FOUR, "diagnose")
    _, summary, _ = read_run(folder)
    assert [at(summary, key)["n"] for key in ("jsd.hint", "rollout.answer.mass", "masking.seen")] == [2, 2, 2]
    assert summary["attribution"]["answer"]["effect"]["n"] == 1


@pytest.mark.slow
def test_an_adapter_is_another_model_than_its_base(tiny_checkpoint, tiny_adapter, answered, tmp_path):
    few = {"n": 2, "n_attribution": 1, "candidates": 0, "tries": 4}
    found = []
    for name, ckpt in (("base", tiny_checkpoint("llama")), ("adapter", tiny_adapter("llama"))):
        folder = diagnosed(options(ckpt, answered(), tmp_path / name, **few), FOUR, "diagnose")
        config, summary, _ = read_run(folder)
        found.append((config["identity"]["model"], summary["masking"]["seen"]["value"]))
    assert found[0][0] != found[1][0] and found[0][1] != pytest.approx(found[1][1], abs=1e-4)


@pytest.mark.slow
def test_without_a_chat_template_the_plain_one_serves(tiny_checkpoint, tiny_tokenizer, answered, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_checkpoint("llama"), base, ignore=shutil.ignore_patterns("chat_template*", "tokenizer*"))
    tiny_tokenizer(template="none").save_pretrained(base)
    few = {"n": 2, "candidates": 0, "tries": 4}
    with pytest.raises(UserError, match="--template plain"):
        diagnosed(options(base, answered(), tmp_path / "chat", **few), ("jsd",), "jsd")
    folder = diagnosed(options(base, answered(), tmp_path / "plain", template="plain", **few), ("jsd",), "jsd")
    _, summary, records = read_run(folder)
    assert summary["jsd"]["hint"]["n"] == 2
    assert "assistant" not in next(r for r in records if r["measure"] == "answer")["transcript"]["text"]


def test_lettered_choices_put_another_letter_in_place_of_the_right_one(tiny_checkpoint, answered, tmp_path):
    chosen = options(tiny_checkpoint("llama"), answered(choices=True), tmp_path / "run", n=3, candidates=2)
    folder = diagnosed(chosen, ("jsd", "masking"), "diagnose")
    _, summary, records = read_run(folder)
    for record in (r for r in records if r["measure"] == "jsd"):
        right, wrong = record["answers"]["right"][0]["answer"], record["answers"]["wrong"][0]["answer"]
        assert right in "ABCD" and wrong in "ABCD" and right != wrong
    assert summary["jsd"]["median"]["n"] == 3 and summary["jsd"]["foil"]["n"] == 0


def test_the_users_own_responses_stand_in_for_the_models_answers(tiny_checkpoint, data, tmp_path):
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["response"] = row["answers"][0].upper() if number % 2 else "Nonsense"
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    chosen = options(tiny_checkpoint("llama"), tmp_path / "own.jsonl", tmp_path / "run", n=99, candidates=0, tries=4)
    folder = diagnosed(chosen, ("masking",), "masking")
    _, summary, records = read_run(folder)
    told = {r["id"]: r for r in records if r["measure"] == "answer"}
    assert {key: r["answer"] for key, r in told.items()} == {row["id"]: row["response"] for row in rows}
    assert all(r["tokens"] is None for r in told.values()), "the model was asked all the same"
    assert (summary["data"]["asked"], summary["data"]["right"], summary["masking"]["seen"]["n"]) == (12, 6, 6)


@pytest.mark.slow
def test_free_replies_are_parsed_kept_and_counted(taught_checkpoint, data, tmp_path):
    folder = diagnosed(options(taught_checkpoint, data, tmp_path / "run", free=True, candidates=0), ("jsd",), "jsd")
    _, summary, records = read_run(folder)
    told = [r for r in records if r["measure"] == "answer"]
    assert all(r["reply"] and r["parsed"] == (r["answer"] is not None and r["stated"] is not None) for r in told)
    assert summary["data"]["unparsed"] == sum(not r["parsed"] for r in told)
    assert all(f"Answer: {r['answer']}" in r["reply"] for r in told if r["right"])
    stated = {r["id"]: r["stated"] for r in told if r["right"] and r["parsed"]}
    assert stated and all(level >= 7 for level in stated.values()), "it was taught to state 7 to 9 after right answers"


@pytest.mark.slow
def test_what_was_cut_off_or_does_not_parse_is_counted(tiny_checkpoint, data, tmp_path):
    """A random model hardly ever ends a line, and never fills in the two lines that are asked for."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for row in rows[:3]:
        row["response"] = row["answers"][0]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for free in (False, True):
        few = {"n": 99, "candidates": 0, "free": free, "out": tmp_path / str(free)}
        folder = diagnosed(options(tiny_checkpoint("llama"), tmp_path / "own.jsonl", **few), ("masking",), "masking")
        _, summary, records = read_run(folder)
        silent = sum(r["measure"] == "answer" and r["answer"] is None for r in records)
        found = [summary["data"][name] for name in ("asked", "right", "unanswered", "unparsed")]
        assert found == [12, 3, silent, 9 if free else 0] and 6 <= silent <= 9


# What cannot be measured


def test_a_model_that_is_never_right_is_one_sentence(tiny_checkpoint, data, tmp_path):
    with pytest.raises(UserError, match=r"answers none of 12 questions of .*open.jsonl right: nothing to measure"):
        diagnosed(options(tiny_checkpoint("llama"), data, tmp_path / "run"), ("jsd",), "jsd")


@pytest.mark.slow
def test_where_hardly_any_question_has_as_many_answers_as_asked_for_the_run_stops_and_says_so(
    taught_checkpoint, data, tmp_path, capsys
):
    chosen = options(taught_checkpoint, data, tmp_path / "run", candidates=30, tries=30, wrong="sampled")
    said = r"--candidates 30: 0 of the first 5 questions have 30 distinct answers or more \(the most is \d+\)"
    with pytest.raises(UserError, match=said + r".*leave out --wrong sampled"):
        diagnosed(chosen, ("jsd",), "jsd")
    assert "0 of the first 5 questions have 30 distinct answers or more" in capsys.readouterr().err


@pytest.mark.slow
def test_branching_gives_as_many_candidates_as_are_asked_for_where_samples_do_not(
    taught_checkpoint, data, tmp_path, capsys
):
    chosen = options(taught_checkpoint, data, tmp_path / "run", candidates=20, tries=20)
    _, summary, records = read_run(diagnosed(chosen, ("jsd",), "jsd"))
    assert "5 of the first 5 questions have 20 distinct answers or more" in capsys.readouterr().err
    assert summary["jsd"]["filled"]["pairs"]["number"]["value"] == 5 * 190
    assert 0 < summary["jsd"]["pairs"]["number"]["value"] < 5 * 190
    for record in (r for r in records if r["measure"] == "sample"):
        assert len(record["distinct"]) == len(record["sources"]) == len(record["logprobs"]) >= 20
    for record in (r for r in records if r["measure"] == "jsd"):
        rows = [np.array(a["probability"]) for role in ("candidate", "filled") for a in record["answers"][role]]
        apart = [jensenshannon(one, other) ** 2 for number, one in enumerate(rows) for other in rows[number + 1 :]]
        assert len(rows) == 20 and record["values"]["filled_candidates"] == pytest.approx(np.mean(apart), abs=1e-6)
        assert record["values"]["filled_near_zero_pairs"] == sum(value <= 0.1 for value in apart)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["branched", "sampled", "distractor"])
def test_wrong_answers_come_from_where_the_option_says(taught_checkpoint, data, tmp_path, wrong):
    chosen = options(taught_checkpoint, data, tmp_path / "run", wrong=wrong, candidates=0)
    _, summary, records = read_run(diagnosed(chosen, ("jsd",), "jsd"))
    counts = {"sampled": summary["jsd"]["median"]["n"], "foil": summary["jsd"]["foil"]["n"]}
    there = {name for name, count in counts.items() if count} | summary["jsd"].keys() & {"branched"}
    expected = {"branched": {"branched", "sampled", "foil"}, "sampled": {"sampled", "foil"}, "distractor": {"foil"}}
    assert there == expected[wrong]
    assert any(r["measure"] == "sample" for r in records) == (wrong != "distractor")
    assert summary["data"]["wrong_answers"] == wrong
    with pytest.raises(UserError, match="--wrong distractor asks the model for no answers"):
        composed(Diagnose, wrong="distractor", candidates=4)


@pytest.mark.slow
def test_an_older_run_whose_answers_were_all_sampled_gives_its_cases_to_a_run_that_samples(
    taught_checkpoint, data, tmp_path
):
    few = {"candidates": 2, "tries": 8}
    before = diagnosed(options(taught_checkpoint, data, tmp_path / "a", wrong="sampled", **few), ("jsd",), "jsd")
    config = json.loads((before / "config.json").read_text())
    del config["identity"]["wrong"]
    (before / "config.json").write_text(json.dumps(config))
    rows = [json.loads(line) for line in (before / "records.jsonl").read_text().splitlines()]
    for row in (row for row in rows if row["measure"] == "sample"):
        for name in ("sources", "logprobs", "branched", "branches"):
            del row[name]
    (before / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"--cases .*: its wrong: 'sampled', here: 'branched'"):
        diagnosed(options(taught_checkpoint, data, tmp_path / "b", cases=before, **few), ("jsd",), "jsd")
    same = options(taught_checkpoint, data, tmp_path / "c", cases=before, wrong="sampled", **few)
    after = diagnosed(same, ("jsd",), "jsd")
    assert close(read_run(after)[1], read_run(before)[1])


@pytest.mark.slow
def test_cases_of_a_run_that_vetted_its_wrong_answers_are_not_those_of_one_that_does_not(
    taught_checkpoint, data, tmp_path
):
    few = {"candidates": 2, "tries": 8}
    before = diagnosed(options(taught_checkpoint, data, tmp_path / "a", **few), ("jsd",), "jsd")
    config = json.loads((before / "config.json").read_text())
    assert config["identity"].pop("vetting") == "on"
    (before / "config.json").write_text(json.dumps(config))  # as a run older than the option left it
    with pytest.raises(UserError, match=r"--cases .*: its vetting.* 'on', here.* 'off'"):
        diagnosed(options(taught_checkpoint, data, tmp_path / "b", cases=before, vetting="off", **few), ("jsd",), "jsd")
    after = diagnosed(options(taught_checkpoint, data, tmp_path / "c", cases=before, **few), ("jsd",), "jsd")
    assert close(read_run(after)[1], read_run(before)[1])


def test_more_candidates_than_choices_are_refused(tiny_checkpoint, answered, tmp_path):
    with pytest.raises(UserError, match=r"--candidates 9: a question of .* has \d choices"):
        diagnosed(
            options(tiny_checkpoint("llama"), answered(choices=True), tmp_path / "run", candidates=9), ("jsd",), "jsd"
        )


def test_open_and_lettered_questions_do_not_mix(tiny_checkpoint, own_data, tmp_path):
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text((own_data / "open.jsonl").read_text() + (own_data / "choices.jsonl").read_text())
    with pytest.raises(UserError, match="open questions and multiple choice are mixed"):
        diagnosed(options(tiny_checkpoint("llama"), mixed, tmp_path / "run"), ("jsd",), "jsd")


def test_a_prompt_longer_than_the_context_is_refused(tiny_checkpoint, open_questions, tmp_path):
    long = {"question": "Why? " * 600, "answers": ["so"], "response": "so"}
    (tmp_path / "long.jsonl").write_text(json.dumps(long))
    with pytest.raises(UserError, match="1024"):
        diagnosed(
            options(tiny_checkpoint("llama"), tmp_path / "long.jsonl", tmp_path / "run", candidates=0), ("jsd",), "jsd"
        )


def test_sets_of_examples_need_examples(tiny_checkpoint, data, tmp_path):
    with pytest.raises(UserError, match="--shots 0 has none"):
        diagnosed(options(tiny_checkpoint("llama"), data, tmp_path / "run", shot_sets=3), ("jsd",), "jsd")


@pytest.mark.slow
def test_an_instrument_that_needs_no_wrong_answers_samples_none(taught_checkpoint, data, tmp_path):
    folder = diagnosed(options(taught_checkpoint, data, tmp_path / "run", candidates=8), ("masking",), "masking")
    assert {measure for measure, *_ in keys(folder)} == {"answer", "floor", "masking"}


def test_a_choice_named_in_many_words_is_put_to_the_model_as_its_letter(tiny_checkpoint, own_data, tmp_path):
    row = json.loads((own_data / "choices.jsonl").read_text().splitlines()[0])
    said = f"{'ABCDEF'[row['answer']]}. {row['choices'][row['answer']]}"
    (tmp_path / "own.jsonl").write_text(json.dumps(row | {"response": said}))
    chosen = options(tiny_checkpoint("llama"), tmp_path / "own.jsonl", tmp_path / "run", candidates=0)
    told = next(r for r in read_records(diagnosed(chosen, ("masking",), "masking")) if r["measure"] == "answer")
    assert told["answer"] == "ABCDEF"[row["answer"]] and told["right"]


@pytest.mark.slow
def test_instruments_can_be_left_out_and_what_cannot_run_is_said_before_anything_is_measured(
    taught_checkpoint, data, tmp_path, monkeypatch
):
    from interp.models import attention

    def refused(model: object) -> None:
        raise UserError("no rollout; --leave-out rollout runs the other instruments")

    monkeypatch.setattr(attention, "refuse_hidden_attention", refused)
    with pytest.raises(UserError, match="--leave-out rollout runs"):
        diagnosed(options(taught_checkpoint, data, tmp_path / "run"), FOUR, "diagnose")
    assert not (tmp_path / "run").exists()
    left = ("rollout", "attribution", "jsd")
    folder = diagnosed(options(taught_checkpoint, data, tmp_path / "run", leave_out=left), FOUR, "diagnose")
    assert {key[0] for key in keys(folder)} == {"answer", "floor", "masking"}
    assert "masking" in read_run(folder)[1] and "jsd" not in read_run(folder)[1]
    with pytest.raises(UserError, match=r"--leave-out .* no instrument is left"):
        diagnosed(options(taught_checkpoint, data, tmp_path / "no", leave_out=FOUR), FOUR, "diagnose")
