"""Calibration from end to end on small models: the table, its costs, and that no way of stopping or batching shows."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from figures.calibration import reliabilities, subject
from figures.report import reported
from interp.answers import asked_for
from interp.calibration import rule_named
from interp.datasets.grading import is_right
from interp.datasets.questions import loaded_questions
from interp.errors import UserError
from interp.instruments import masking
from interp.methods.base import Answered, Draws
from interp.methods.default import answered_and_read, read
from interp.methods.question_only import hidden
from interp.methods.self_consistency import sampled
from interp.models.setting import Case
from interp.options import composed
from interp.pipelines.evaluate import _parts, evaluated
from interp.pipelines.evaluation import APART, SHARED, Evaluate
from interp.run.runs import read_records, read_run

ALL = ("default", "self-consistency", "p-true", "sequence", "question-only", "prompting", "recalibrated")


def options(ckpt, data, out: Path, **more) -> Evaluate:
    ckpts = (ckpt,) if isinstance(ckpt, str | Path) else ckpt
    datas = (data,) if isinstance(data, str | Path) else data
    return composed(
        Evaluate, ckpt=tuple(map(str, ckpts)), data=tuple(map(str, datas)), out=out, **({"device": "cpu"} | more)
    )


def table(folder: Path) -> dict:
    return read_run(folder)[1]["calibration"]


def flat(number: object) -> object:
    """A number's fields with those of its null and its relations beside them, as `pytest.approx` compares them."""
    if not isinstance(number, dict):
        return number
    inner = {f"{key}.{name}": v for key, one in number.items() if isinstance(one, dict) for name, v in one.items()}
    return {key: value for key, value in number.items() if not isinstance(value, dict)} | inner


@pytest.fixture(scope="module")
def data(own_data) -> Path:
    return own_data / "open.jsonl"


@pytest.fixture(scope="module")
def whole(taught_checkpoint, data, tmp_path_factory) -> Path:
    """Every method on the taught model."""
    return evaluated(options(taught_checkpoint, data, tmp_path_factory.mktemp("whole") / "run", methods=ALL))


def test_every_method_stands_in_the_table_with_every_measure(whole):
    of_model = table(whole)["llama"]["open"]
    assert list(of_model) == [
        "default", "default_expected", "self_consistency", "agreement", "p_true", "sequence", "sequence_per_token",
        "question_only", "question_only_expected", "prompting", "prompting_expected", "platt", "isotonic",
    ]  # fmt: skip
    for method, by_format in of_model.items():
        numbers = by_format["ScoreNumber"]
        for name in ("ece", "nce", "brier", "auroc", "accuracy", "smooth_ece", "aurc", "ece_levels", "tokens"):
            null = {"null"} if name in ("ece", "smooth_ece", "ece_levels") else set()
            assert {"value", "low", "high", "n", "left_out"} | null == numbers[name].keys(), (method, name)
        assert numbers["n"] + numbers["unparsed"] == 12
        of_levels = method.removesuffix("_expected") in ("default", "question_only", "prompting")
        assert numbers["floor"] == (0 if of_levels else None), "other confidences are not bound to the levels"


def test_the_table_can_be_recomputed_from_the_records(whole, open_questions):
    records = list(read_records(whole))
    answers = {r["id"]: r for r in records if r["measure"].endswith("|answer")}
    read = [r for r in records if r["measure"].endswith("|read")]
    stated = np.array([r["stated"] / 9 for r in read])
    by_id = {question.id: question for question in open_questions}
    right = np.array([is_right(by_id[r["id"]], answers[r["id"]]["answer"]) for r in read])
    numbers = table(whole)["llama"]["open"]["default"]["ScoreNumber"]
    assert numbers["accuracy"]["value"] == right.mean()
    assert numbers["brier"]["value"] == pytest.approx(((stated - right) ** 2).mean())
    assert numbers["nce"]["value"] == pytest.approx(right.mean() - stated.mean())
    bins = np.clip(np.ceil(np.round(stated * 10, 9)).astype(int) - 1, 0, 9)
    gaps = [abs((right - stated)[bins == b].sum()) for b in range(10)]
    assert numbers["ece"]["value"] == pytest.approx(sum(gaps) / len(read))
    expected = np.array([np.arange(10) @ r["probability"] / 9 for r in read])
    other = table(whole)["llama"]["open"]["default_expected"]["ScoreNumber"]
    assert other["brier"]["value"] == pytest.approx(((expected - right) ** 2).mean())


def test_an_answers_likelihood_is_taken_whole_and_by_the_token_with_the_end_of_its_line(whole):
    read = [r for r in read_records(whole) if r["measure"].endswith("|read")]
    likelihoods = [np.exp(r["logprob"]) for r in read], [np.exp(r["logprob"] / (r["answer_tokens"] + 1)) for r in read]
    for method, found in zip(("sequence", "sequence_per_token"), likelihoods, strict=True):
        numbers = table(whole)["llama"]["open"][method]["ScoreNumber"]
        assert numbers["confidence"]["value"] == pytest.approx(np.mean(found))


def test_question_only_hides_the_answer_as_masking_does(tiny_setting, open_questions):
    setting = tiny_setting("llama")
    put = [(open_questions[0], "Kitten"), (open_questions[7], "Asunción")]
    found = hidden(setting, [Answered(*one) for one in put], Draws())
    for record, masked in zip(found, masking.measured(setting, [Case(*one) for one in put]), strict=True):
        assert record["probability"] == pytest.approx(masked["masked"]["neutral"]["probability"], abs=1e-5)
        assert record["expected"] != pytest.approx(masked["seen"]["expected"], abs=1e-3)


def fed_tokens(model, call) -> tuple[int, object]:
    """How many tokens, padding included, a model is fed during a call; and what the call gives."""
    counts = []
    hook = model.model.register_forward_hook(lambda module, args, out: counts.append(out[0].shape[:2].numel()))
    try:
        result = call()
    finally:
        hook.remove()
    return sum(counts), result


@pytest.mark.slow
@pytest.mark.parametrize("free", [False, True])
def test_a_prompt_is_read_once_for_its_answer_and_the_confidence_in_it(taught_setting, open_questions, free):
    setting, model = taught_setting, taught_setting.checkpoint.model
    both, (told, at_hand) = fed_tokens(model, lambda: answered_and_read(setting, open_questions, free=free))
    asked, told_alone = fed_tokens(model, lambda: asked_for(setting, open_questions, free=free))
    answered = [Answered(q, one["answer"]) for q, one in zip(open_questions, told, strict=True) if one["answer"]]
    read_alone, plain = fed_tokens(model, lambda: read(setting, answered, Draws()))
    assert told == told_alone and len(answered) > 6
    assert list(at_hand) and at_hand.keys() == {one.question.id for one in answered}
    for one, record in zip(answered, plain, strict=True):
        ours = at_hand[one.question.id]
        assert ours["of_answer"] == one.answer and ours["seconds"] > 0
        assert ours["probability"] == pytest.approx(record["probability"], abs=1e-5)
        assert ours["logprob"] == pytest.approx(record["logprob"], abs=1e-4)
        assert {name: ours[name] for name in ("stated", "answer_tokens", "level_tokens")} == {
            name: record[name] for name in ("stated", "answer_tokens", "level_tokens")
        }
    prompts = sum(
        len(setting.prompter.transcript(question).ids) - len(setting.prefix.shared_prefix)
        for question in open_questions
    )
    assert both - asked < read_alone - 0.5 * prompts, "what is read after the answers is fed without their prompts"


def test_samples_are_read_below_their_prompts_to_the_same_numbers(taught_setting, open_questions, monkeypatch):
    put = [Answered(question, "") for question in open_questions[:6]]
    records = sampled(taught_setting, put, Draws(samples=4))
    assert sum(len(record["samples"]) for record in records) > 8
    for one, record in zip(put, records, strict=True):
        answers = [sample["answer"] for sample in record["samples"]]
        plain = read(taught_setting, [Answered(one.question, answer) for answer in answers], Draws())
        for sample, alone in zip(record["samples"], plain, strict=True):
            assert sample["probability"] == pytest.approx(alone["probability"], abs=1e-5)
            assert sample["logprob"] == pytest.approx(alone["logprob"], abs=1e-4)


@pytest.mark.slow
def test_an_answer_on_record_that_nobody_has_at_hand_is_read_by_itself(whole, taught_checkpoint, data, tmp_path):
    cut = tmp_path / "run"
    shutil.copytree(whole, cut)
    (cut / "summary.json").unlink()
    lines = [json.loads(line) for line in (cut / "records.jsonl").read_text().splitlines()]
    kept = [line for line in lines if not line["measure"].endswith("|read")]
    assert 0 < len(kept) < len(lines)
    (cut / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    evaluated(options(taught_checkpoint, data, cut, methods=ALL))
    again, before = ({r["id"]: r for r in read_records(run) if r["measure"].endswith("|read")} for run in (cut, whole))
    assert again.keys() == before.keys()
    for identity, record in again.items():
        assert record.keys() == before[identity].keys() and "of_answer" not in record
        assert record["probability"] == pytest.approx(before[identity]["probability"], abs=1e-5)


def test_the_numerical_floor_is_that_of_the_first_answers_read_twice(whole):
    _, summary, records = read_run(whole)
    cells = [cell for by_data in summary["numerical_floor"].values() for by in by_data.values() for cell in by.values()]
    floors = [record for record in records if record["measure"].endswith("|floor")]
    assert cells and sum(cell["floor.jsd"]["n"] for cell in cells) == len(floors)
    largest = max(abs(record["values"]["expected"]) for record in floors)
    assert max(cell["floor.expected_largest"]["value"] for cell in cells) == largest < 1e-5
    assert "Numerical floor: the same answer read twice differs by at most" in subject(summary)


def test_a_model_that_was_taught_to_know_when_it_is_wrong_ranks_its_answers(whole):
    of_model = table(whole)["llama"]["open"]
    assert of_model["default"]["ScoreNumber"]["accuracy"]["value"] >= 0.4
    assert of_model["default_expected"]["ScoreNumber"]["outside"]["value"] < 0.2


def test_costs_are_those_of_the_words_that_were_written(whole):
    of_model, records = table(whole)["llama"]["open"], list(read_records(whole))
    answers = {r["id"]: r["tokens"] for r in records if r["measure"].endswith("|answer")}
    levels = [answers[r["id"]] + r["level_tokens"] for r in records if r["measure"].endswith("|read")]
    assert of_model["default"]["ScoreNumber"]["tokens"]["value"] == pytest.approx(np.mean(levels))
    assert of_model["sequence"]["ScoreNumber"]["tokens"]["value"] == pytest.approx(np.mean(levels) - 3)
    sampled = of_model["self_consistency"]["ScoreNumber"]["tokens"]["value"]
    assert 3 < sampled / np.mean(levels) < 8, "five samples cost about five times the tokens"


def test_self_consistency_is_the_sum_of_the_largest_groups_confidences_over_all_samples(whole, open_questions):
    by_id = {question.id: question for question in open_questions}
    confidences, rights = [], []
    for record in read_records(whole):
        if record["measure"].endswith("|sampled") and record["samples"]:
            groups = {}
            for sample in record["samples"]:
                groups.setdefault(sample["answer"].lower(), []).append(sample["stated"] / 9)
            answer = max(groups, key=lambda a: (len(groups[a]), sum(groups[a])))
            confidences.append(sum(groups[answer]) / 5)
            rights.append(is_right(by_id[record["id"]], answer))
    numbers = table(whole)["llama"]["open"]["self_consistency"]["ScoreNumber"]
    assert numbers["n"] == len(confidences) > 3
    assert numbers["confidence"]["value"] == pytest.approx(np.mean(confidences))
    assert numbers["accuracy"]["value"] == pytest.approx(np.mean(rights))


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_a_run_cut_off_anywhere_ends_as_if_it_had_not_been(whole, taught_checkpoint, data, tmp_path, share):
    cut = tmp_path / "run"
    shutil.copytree(whole, cut)
    (cut / "summary.json").unlink()
    records = (cut / "records.jsonl").read_bytes()
    (cut / "records.jsonl").write_bytes(records[: int(share * len(records))])
    evaluated(options(taught_checkpoint, data, cut, methods=ALL))
    keys = [[(r["measure"], r["id"]) for r in read_records(folder)] for folder in (cut, whole)]
    assert sorted(keys[0]) == sorted(keys[1])
    for method, by_format in table(whole)["llama"]["open"].items():
        for name, number in by_format["ScoreNumber"].items():
            again = table(cut)["llama"]["open"][method]["ScoreNumber"][name]
            if name != "seconds":
                assert flat(again) == pytest.approx(flat(number), abs=1e-4), (method, name)


@pytest.mark.slow
def test_answers_and_confidences_do_not_depend_on_the_size_of_batches(whole, taught_checkpoint, data, tmp_path):
    small = evaluated(options(taught_checkpoint, data, tmp_path / "run", methods=ALL, batch_tokens=300))
    one, other = ({(r["measure"], r["id"]): r for r in read_records(folder)} for folder in (whole, small))
    assert one.keys() == other.keys()
    for key, record in one.items():
        assert record.get("answer") == other[key].get("answer")
        for said, again in zip(record.get("samples", [record]), other[key].get("samples", [other[key]]), strict=True):
            assert said.get("answer") == again.get("answer")
            assert said.get("probability", []) == pytest.approx(again.get("probability", []), abs=1e-4)


@pytest.mark.slow
def test_several_checkpoints_share_their_base_and_differ_as_they_do_alone(
    tiny_checkpoint, tiny_adapter, data, tmp_path, capsys
):
    base, adapter = tiny_checkpoint("llama"), tiny_adapter("llama")
    answered = tmp_path / "answered.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    answered.write_text("\n".join(json.dumps(row | {"response": row["answers"][0]}) for row in rows[::2]))
    together = evaluated(options((base, adapter), answered, tmp_path / "both"))
    alone = [evaluated(options(one, answered, tmp_path / one.name)) for one in (base, adapter)]
    for folder in alone:
        for name, of_data in table(folder).items():
            for measure, number in of_data["answered"]["default_expected"]["ScoreNumber"].items():
                if measure != "seconds":
                    found = table(together)[name]["answered"]["default_expected"]["ScoreNumber"][measure]
                    assert flat(found) == pytest.approx(flat(number), abs=1e-6), measure
    assert read_run(together)[1]["models"].keys() == {"llama", "llama-adapter"}
    difference = read_run(together)[1]["differences"]["llama-adapter less llama"]["answered"]["default_expected"]
    means = [
        table(together)[name]["answered"]["default_expected"]["ScoreNumber"] for name in ("llama", "llama-adapter")
    ]
    change = means[1]["confidence"]["value"] - means[0]["confidence"]["value"]
    assert difference["ScoreNumber"]["confidence"]["value"] == pytest.approx(change) and abs(change) > 1e-4
    reported(together)
    assert "Differences on the same questions" in capsys.readouterr().out
    with (together / "differences.csv").open() as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert float(rows["Default, expected"]["confidence"]) == pytest.approx(change)


@pytest.mark.slow
def test_lettered_choices_are_evaluated_in_every_format(tiny_checkpoint, own_data, tmp_path):
    forms = ("ScoreLetter", "ScoreNumber", "ScoreText", "ScorePercent", "ScoreFloat")
    rows = [json.loads(line) for line in (own_data / "choices.jsonl").read_text().splitlines()]
    (tmp_path / "choices.jsonl").write_text("\n".join(json.dumps(row | {"response": "B"}) for row in rows))
    folder = evaluated(options(tiny_checkpoint("llama"), tmp_path / "choices.jsonl", tmp_path / "run", formats=forms))
    found = table(folder)["llama"]["choices"]["default"]
    assert tuple(found) == forms
    right = np.mean([row["answer"] == 1 for row in rows])
    assert [found[form]["accuracy"]["value"] for form in forms] == pytest.approx([right] * 5)
    assert found["ScoreLetter"]["floor"] == pytest.approx(max(0, right - 0.9, 0.1 - right))
    means = table(folder)["llama"]["choices"]["default_expected"]["ScoreLetter"]
    assert means["floor"] == found["ScoreLetter"]["floor"] <= means["ece_levels"]["value"] + 1e-9, "means of levels"


def test_the_users_own_confidences_need_no_model(own_data, tmp_path):
    rows = [json.loads(line) for line in (own_data / "open.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {"response": row["answers"][0] if number % 3 else "no idea", "confidence": 0.8 if number % 2 else 1}
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = evaluated(
        composed(Evaluate, data=(str(tmp_path / "own.jsonl"),), methods=("given",), out=tmp_path / "run")
    )
    numbers = table(folder)["given"]["own"]["given"]["given"]
    assert numbers["floor"] is None
    right, confidence = np.arange(12) % 3 > 0, np.where(np.arange(12) % 2, 0.8, 1)
    assert numbers["brier"]["value"] == pytest.approx(((right - confidence) ** 2).mean())
    assert numbers["ece"]["value"] == pytest.approx(
        sum(abs((right - confidence)[confidence == c].sum()) for c in (0.8, 1)) / 12
    )
    rows[5].pop("confidence")
    rows[6]["response"] = "<think>Well"
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fewer = composed(Evaluate, data=(str(tmp_path / "own.jsonl"),), methods=("given",), out=tmp_path / "fewer")
    counts = table(evaluated(fewer))["given"]["own"]["given"]["given"]
    assert (counts["n"], counts["unparsed"]) == (10, 2), "one without a confidence, one whose response holds no answer"
    (tmp_path / "own.jsonl").write_text("\n".join(json.dumps(row | {"confidence": None}) for row in rows))
    with pytest.raises(UserError, match=r"no question of .* has a response and a confidence"):
        evaluated(composed(Evaluate, data=(str(tmp_path / "own.jsonl"),), methods=("given",), out=tmp_path / "other"))


@pytest.mark.slow
def test_questions_that_share_an_answer_with_the_training_data_are_reported_apart(
    whole, taught_checkpoint, data, tmp_path
):
    trained = tmp_path / "trained.jsonl"
    trained.write_text(
        '{"question": "A large dog?", "answers": ["the puppy!"]}\n{"question": "x", "answers": ["belgrade"]}'
    )
    folder = evaluated(options(taught_checkpoint, data, tmp_path / "run", trained_on=str(trained)))
    found = {name: of_data["default"]["ScoreNumber"] for name, of_data in table(folder)["llama"].items()}
    counts = {name: numbers["n"] + numbers["unparsed"] for name, numbers in found.items()}
    assert counts == {"open": 12, f"open{SHARED}": 2, f"open{APART}": 10}
    assert found["open"]["ece"] == table(whole)["llama"]["open"]["default"]["ScoreNumber"]["ece"]


@pytest.mark.slow
def test_relations_are_also_reported_by_themselves(taught_checkpoint, data, tmp_path, capsys):
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    many = [row | {"id": f"{r}-{i}", "relation": r} for r in ("first", "second") for i, row in enumerate(rows * 2)]
    (tmp_path / "many.jsonl").write_text("\n".join(json.dumps(row) for row in [*many, rows[0] | {"relation": "few"}]))
    asked = options(taught_checkpoint, tmp_path / "many.jsonl", tmp_path / "run", n=100, methods=("recalibrated",))
    folder = evaluated(asked)
    found = read_run(folder)[1]["by_relation"]["llama"]["many"]
    assert list(found) == ["platt", "isotonic"] and list(found["platt"]["ScoreNumber"]) == ["first", "second"]
    answers = [r for r in read_records(folder) if r["measure"].endswith("|answer")]
    for relation, numbers in found["platt"]["ScoreNumber"].items():
        right = [r["right"] for r in answers if r["relation"] == relation]
        assert numbers["accuracy"]["n"] == len(right) == 24 and numbers["accuracy"]["value"] == np.mean(right)
    reported(folder)
    table_rows = list(csv.DictReader((folder / "relations.csv").read_text().splitlines()))
    assert [(row["method"], row["relation"]) for row in table_rows[:2]] == [
        ("Platt scaling", "first"), ("Platt scaling", "second"),
    ]  # fmt: skip
    assert "each relation by itself:" in capsys.readouterr().out and "by itself" in (folder / "report.html").read_text()
    few = evaluated(options(taught_checkpoint, data, tmp_path / "few"))
    assert read_run(few)[1]["by_relation"] == {}, "none of them has twenty answers"


@pytest.mark.slow
def test_a_third_of_the_triviaqa_test_questions_shares_an_answer_with_the_training_file(real_data):
    names = [str(real_data / f"triviaqa_{part}.jsonl") for part in ("test", "train")]
    test, train = map(loaded_questions, names)
    letter_for_letter = {answer for question in train for answer in question.answers}
    same = {q.id for q in test if letter_for_letter & set(q.answers)}
    parts = _parts(test, composed(Evaluate, trained_on=names[1]))
    assert list(parts) == ["", SHARED, APART] and parts[""] == test
    assert len(same) == 351 and same <= {q.id for q in parts[SHARED]}
    assert (len(parts[SHARED]), len(parts[APART])) == (352, 661), "one more but for an accent, none for a picture"


@pytest.mark.slow
def test_unparsed_replies_are_counted_and_stand_in_the_worst_case(tiny_checkpoint, taught_checkpoint, data, tmp_path):
    folder = evaluated(options(taught_checkpoint, data, tmp_path / "taught", free=True))
    numbers = table(folder)["llama"]["open"]["default"]["ScoreNumber"]
    told = [r for r in read_records(folder) if r["measure"].endswith("|answer")]
    assert numbers["unparsed"] == sum(not r["parsed"] for r in told) < 12
    read = {r["id"]: (r["stated"], r["level_tokens"]) for r in read_records(folder) if r["measure"].endswith("|read")}
    assert read == {r["id"]: (r["stated"], 0) for r in told if r["answer"]}, "the reply holds the level, and its tokens"
    lost = {r["id"]: r["reply"] for r in told if not r["parsed"]}
    assert read_run(folder)[1]["unparsed"] == ({"llama": {"open": {"ScoreNumber": lost}}} if lost else {})
    random = evaluated(options(tiny_checkpoint("llama"), data, tmp_path / "random", free=True))
    assert len(read_run(random)[1]["unparsed"]["llama"]["open"]["ScoreNumber"]) == 12
    numbers = table(random)["llama"]["open"]["default"]["ScoreNumber"]
    assert (numbers["n"], numbers["unparsed"], numbers["ece"]["value"]) == (0, 12, None)
    assert (numbers["worst"]["n"], numbers["worst"]["ece"]["value"], numbers["worst"]["accuracy"]["value"]) == (
        12,
        1,
        0,
    )


@pytest.mark.slow
def test_sets_of_examples_are_measured_one_by_one_and_their_spread_is_shown(tiny_checkpoint, data, tmp_path, capsys):
    answered = tmp_path / "answered.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    answered.write_text("\n".join(json.dumps(row | {"response": row["answers"][0]}) for row in rows[:4]))
    several = evaluated(options(tiny_checkpoint("llama"), answered, tmp_path / "both", shots=1, shot_sets=2))
    first = evaluated(options(tiny_checkpoint("llama"), answered, tmp_path / "first", shots=1))
    both, one = (table(run)["llama"]["answered"]["default_expected"]["ScoreNumber"] for run in (several, first))
    values = both.pop("shot_sets")["confidence"]
    assert {k: v for k, v in both.items() if k != "seconds"} == {k: v for k, v in one.items() if k != "seconds"}
    assert len(values) == 2 and values[0] == pytest.approx(one["confidence"]["value"]) and values[0] != values[1]
    assert len([r for r in read_records(several) if r["set"] == 1 and r["measure"].endswith("|read")]) == 4
    reported(several)
    assert "Means over sets of worked examples" in capsys.readouterr().out
    with (several / "shot_sets.csv").open() as stream:
        row = next(row for row in csv.DictReader(stream) if row["method"] == "Default, expected")
    assert float(row["confidence"]) == pytest.approx(np.mean(values)) and row["sets"] == "2"


@pytest.mark.slow
def test_wordings_are_measured_one_by_one_and_their_spread_is_shown(tiny_checkpoint, data, tmp_path, capsys):
    answered = tmp_path / "answered.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    answered.write_text("\n".join(json.dumps(row | {"response": row["answers"][0]}) for row in rows[:4]))
    given = {"shots": 1, "shot_sets": 2, "wordings": 2, "methods": ("default", "p-true", "prompting")}
    folder = evaluated(options(tiny_checkpoint("llama"), answered, tmp_path / "run", **given))
    records = list(read_records(folder))
    for asking in ("read", "judged", "cautioned"):
        of_asking = [r for r in records if r["measure"].endswith(f"|{asking}")]
        # [wordings, sets of examples, questions]
        stated = np.array([[r["expected"] for r in of_asking if r["set"] == s] for s in range(4)]).reshape(2, 2, 4)
        assert len({round(value, 9) for value in stated.mean(2).flat}) == 4, asking
        key = {"read": "default_expected", "judged": "p_true", "cautioned": "prompting_expected"}[asking]
        numbers = table(folder)["llama"]["answered"][key]["ScoreNumber"]
        assert numbers["wordings"]["confidence"] == pytest.approx(stated.mean((1, 2)))
        assert numbers["shot_sets"]["confidence"] == pytest.approx(stated.mean((0, 2)))
        assert numbers["confidence"]["value"] == pytest.approx(stated[0, 0].mean())
    reported(folder)
    shown = capsys.readouterr().out
    assert "Means over wordings of the instruction" in shown and "Means over sets of worked examples" in shown
    with (folder / "wordings.csv").open() as stream:
        row = next(row for row in csv.DictReader(stream) if row["method"] == "Default, expected")
    values = table(folder)["llama"]["answered"]["default_expected"]["ScoreNumber"]["wordings"]["confidence"]
    assert float(row["confidence"]) == pytest.approx(np.mean(values)) and row["wordings"] == "2"
    assert (float(row["confidence_low"]), float(row["confidence_high"])) == (min(values), max(values))


@pytest.mark.slow
def test_another_rule_is_another_number_and_is_named(whole, taught_checkpoint, data, tmp_path):
    folder = evaluated(options(taught_checkpoint, data, tmp_path / "run", rule="1-right"))
    summary = read_run(folder)[1]
    numbers = summary["calibration"]["llama"]["open"]["default"]["ScoreNumber"]
    assert summary["rule"] == "1-right" and rule_named("1-right")
    assert numbers["ece"]["value"] == pytest.approx(abs(numbers["nce"]["value"]))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"rule": "10"}, "--rule 10: write levels, or a number of bins"),
        ({"samples": 0}, "--samples 0: must be at least 1"),
        ({"top_p": 0.0}, "--top-p 0.0: must lie in"),
        ({"formats": ("ScoreText", "ScoreText")}, "--formats: names at least one, and none twice"),
        ({"methods": ()}, "--methods: names at least one, and none twice"),
        ({"n": 0}, "--n 0: must be at least 1"),
        ({"shot_sets": 2, "shots": 0}, "--shots 0 has none"),
    ],
)
def test_bad_options_are_one_sentence(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        composed(Evaluate, **wrong)


def test_two_checkpoints_of_one_name_are_refused(tiny_checkpoint, data, tmp_path):
    shutil.copytree(tiny_checkpoint("llama"), tmp_path / "llama")
    with pytest.raises(UserError, match="would both be called 'llama'"):
        evaluated(options((tiny_checkpoint("llama"), tmp_path / "llama"), data, tmp_path / "run"))


# What is shown


@pytest.mark.slow
def test_the_report_prints_the_table_and_writes_it_with_its_figures(whole, capsys):
    reported(whole)
    printed = capsys.readouterr().out
    accuracy = table(whole)["llama"]["open"]["default"]["ScoreNumber"]["accuracy"]["value"]
    row = next(line for line in printed.split("\n") if "Default " in line)
    assert f"{100 * accuracy:.1f} [" in row and "ECE by the rule 10-right" in printed
    with (whole / "table.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["method"] for row in rows][:3] == ["Default", "Default, expected", "Self-Consistency"]
    assert float(rows[0]["accuracy"]) == accuracy and int(rows[0]["n"]) == 12
    assert "\\toprule" in (whole / "table.tex").read_text() and "| Default |" in (whole / "table.md").read_text()
    for name in ("figure_1_confidence", "figure_5_reliability", "ece_tokens"):
        for ending in ("png", "pdf"):
            assert (whole / "figures" / f"{name}.{ending}").stat().st_size > 3000
        assert "How to read it." in (whole / "figures" / f"{name}.txt").read_text()


def test_the_bars_and_dots_count_every_answer_once_at_its_level(whole):
    records = list(read_records(whole))
    (found,) = reliabilities(records, "llama")
    right = {r["id"]: r["right"] for r in records if r["measure"].endswith("|answer")}
    read = [r for r in records if r["measure"].endswith("|read")]
    assert found.count == len(read)
    for level in found.levels:
        there = [right[r["id"]] for r in read if r["stated"] / 9 == level.value]
        assert (level.right, level.wrong) == (sum(there), len(there) - sum(there))


def test_the_worst_case_is_a_table_of_its_own(tiny_checkpoint, data, tmp_path, capsys):
    folder = evaluated(options(tiny_checkpoint("llama"), data, tmp_path / "run", free=True))
    reported(folder)
    assert "With unparsed replies as wrong answers" in capsys.readouterr().out
    with (folder / "table_worst_case.csv").open() as stream:
        (row, _) = csv.DictReader(stream)
    assert (row["n"], row["unparsed"], float(row["ece"])) == ("12", "12", 1.0)


@pytest.mark.slow
def test_a_checkpoint_whose_name_is_a_path_has_figures_too_and_the_next_one_has_its_own(whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for name in ("summary.json", "records.jsonl"):
        text = (run / name).read_text().replace('"llama|', '"hub/llama@1|').replace('"llama": {', '"hub/llama@1": {')
        (run / name).write_text(text)
    with (run / "records.jsonl").open("a") as stream:
        stream.write(text.replace('"hub/llama@1|', '"other|'))
    summary = json.loads((run / "summary.json").read_text())
    summary["models"]["other"] = {"fingerprint": "", "note": "", "dtype": ""}
    summary["calibration"]["other"] = summary["calibration"]["hub/llama@1"]
    (run / "summary.json").write_text(json.dumps(summary))
    reported(run)
    for name in ("hub-llama-1", "other"):
        assert (run / "figures" / f"figure_1_confidence_{name}.png").is_file()
