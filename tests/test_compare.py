"""Before and after: the numbers are paired, question by question, and both sides have put the same to the model."""

import json
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import close
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from scipy.stats import ttest_rel
from transformers import AutoModelForCausalLM, BloomConfig

from figures.compare import parts
from interp.errors import UserError
from interp.instruments.registry import by_default
from interp.intervals import difference, effect_size, holm
from interp.models.checkpoints import Loading, loaded_checkpoint
from interp.options import changed, composed
from interp.pipelines.compare import (
    PRIMARY,
    SIDES,
    Compare,
    compared,
    comparison,
    diagnosed_before,
    foreseen,
    headline_keys,
    paired_records,
)
from interp.pipelines.diagnose import diagnosed
from interp.pipelines.diagnosis import Diagnose
from interp.run.dryrun import DryRun
from interp.run.runs import read_records, read_run
from training.adapters import saved_adapter
from training.card import _compared

INSTRUMENTS = tuple(by_default())
columns = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=30)


@given(columns)
def test_a_difference_of_means_is_the_mean_of_the_differences(pairs):
    before, after = [list(column) for column in zip(*pairs, strict=True)]
    found = difference([*before, None, 1.0], [*after, 1.0, None])
    assert found.value == pytest.approx(np.subtract(after, before).mean(), abs=1e-9)
    assert found.n == len(pairs) and found.left_out == 2


def test_the_effect_size_of_a_mean_is_its_t_over_the_square_root_of_n():
    source = np.random.default_rng(0)
    before = source.normal(size=200)
    after = before + source.normal(0.3, 0.8, size=200)
    t = ttest_rel(after, before).statistic
    assert effect_size([*before.tolist(), None], [*after.tolist(), 1.0]) == pytest.approx(t / np.sqrt(200), rel=1e-9)
    assert effect_size([], []) is None and effect_size([0.0, 1.0], [1.0, 2.0]) is None


@pytest.fixture(scope="module")
def options(taught_checkpoint, own_data, tmp_path_factory):
    """The taught model against itself under a random adapter, on our own questions."""
    adapter = tmp_path_factory.mktemp("adapters") / "random"
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(loaded_checkpoint(str(taught_checkpoint), Loading(device="cpu")).model, config)
    saved_adapter(model, adapter, str(taught_checkpoint))
    return composed(
        Compare,
        before=str(taught_checkpoint),
        after=str(adapter),
        data=str(own_data / "open.jsonl"),
        n=4,
        n_attribution=2,
        candidates=0,
        shots=0,
        n_calibration=12,
        device="cpu",
        out=tmp_path_factory.mktemp("compare") / "run",
    )


@pytest.fixture(scope="module")
def summary(options):
    diagnosed_before(options)
    return json.loads((compared(options) / "summary.json").read_text())


@pytest.mark.slow
def test_both_sides_put_the_same_answers_to_the_same_questions(options, summary):
    before, after = (list(read_records(options.folder / side)) for side in ("before", "after"))
    for measure in ("answer", "sample"):
        assert [r for r in before if r["measure"] == measure] == [r for r in after if r["measure"] == measure]

    def put(records):
        return {
            (r["id"], role, one["answer"])
            for r in records
            if r["measure"] == "jsd"
            for role, answers in r["answers"].items()
            for one in answers
        }

    assert put(before) == put(after) and len(put(before)) > 8
    assert summary["models"]["before"]["name"] != summary["models"]["after"]["name"]


@pytest.mark.slow
def test_every_number_is_the_runs_own_and_its_difference_that_of_the_pairs(options, summary):
    for side in ("before", "after"):
        run = json.loads((options.folder / side / "summary.json").read_text())
        assert summary["comparison"]["jsd.median"][side] == run["jsd"]["median"]
        assert summary["comparison"]["attribution.answer.rank"][side] == run["attribution"]["answer"]["rank"]
    values = [
        {r["id"]: r["values"]["direction"] for r in read_records(options.folder / side) if r["measure"] == "jsd"}
        for side in ("before", "after")
    ]
    gaps = [values[1][key] - values[0][key] for key in values[0] if values[0][key] is not None]
    found = summary["comparison"]["jsd.direction.mean"]
    assert found["difference"]["value"] == pytest.approx(np.mean(gaps)) and found["difference"]["n"] == len(gaps)
    assert any(abs(gap) > 1e-6 for gap in gaps), "the adapter changes something"
    assert {key.partition(".")[0] for key in summary["comparison"]} == set(INSTRUMENTS)


@pytest.mark.slow
def test_calibration_stands_beside_it_with_its_question_only_control(summary):
    (by_method,) = summary["calibration"].values()
    assert {"default", "question_only"} <= set(by_method)
    measures = by_method["default"]["ScoreNumber"]
    assert {"ece", "nce_abs", "brier", "auroc", "accuracy"} <= set(measures)
    for one in measures.values():
        assert set(one) == {"before", "after", "difference", "effect_size"}


@pytest.mark.slow
def test_the_primary_outcome_has_its_own_p_and_the_others_are_corrected(options, summary):
    rows, headline = summary["comparison"], headline_keys()
    tested = {key for key in headline & rows.keys() if rows[key]["p"] is not None}
    assert summary["primary"] == PRIMARY and "p_holm" not in rows[PRIMARY] and len(tested) > 3
    others = {key: rows[key]["p"] for key in tested - {PRIMARY}}
    assert {key: rows[key]["p_holm"] for key in others} == holm(others)
    assert all("p" not in rows[key] for key in rows.keys() - headline - set(summary["renamed"]))
    both = summary["both_right"]
    assert both.keys() <= headline and summary["both_right_unknown"] == 0
    assert all(row["difference"]["n"] <= rows[key]["difference"]["n"] for key, row in both.items())


@pytest.fixture(scope="module")
def mirrored(options, summary):
    """The two checkpoints in exchanged places, on the questions that the second one answers right."""
    mirror = changed(options, before=options.after, after=options.before, answered_by="after")
    mirror = changed(mirror, out=options.folder.parent / "mirror")
    diagnosed_before(mirror)
    assert not mirror.folder.exists(), "nothing can be measured before the second checkpoint exists"
    return mirror, json.loads((compared(mirror) / "summary.json").read_text())


@pytest.mark.slow
def test_exchanged_checkpoints_have_the_same_questions_and_the_opposite_difference(options, summary, mirrored):
    mirror, exchanged = mirrored
    for side, other in (SIDES, SIDES[::-1]):
        runs = [list(read_records(folder)) for folder in (options.folder / other, mirror.folder / side)]
        for measure in ("answer", "sample", "jsd", "masking"):
            ones, others = ([record["id"] for record in run if record["measure"] == measure] for run in runs)
            assert ones == others and len(ones) >= 4
    assert (summary["answered_by"], exchanged["answered_by"]) == ("before", "after")
    assert exchanged["data"] == summary["data"] and "only_first" not in exchanged
    assert exchanged["models"]["before"]["name"] == summary["models"]["after"]["name"]
    for ours, theirs in (("comparison", "comparison"), ("only_first", "only_second")):
        assert exchanged[theirs].keys() == summary[ours].keys() and len(summary[ours]) > 3
        for key, row in summary[ours].items():
            opposite = exchanged[theirs][key]
            assert close(opposite["before"], row["after"]) and close(opposite["after"], row["before"])
            change, opposed = (numbers["difference"]["value"] for numbers in (row, opposite))
            assert change == opposed if change is None else change == pytest.approx(-opposed, abs=5e-6)
            assert opposite.get("p_holm") == row.get("p_holm")
    assert summary["only_first_questions"] == exchanged["only_second_questions"] == 4, "the adapter answers none right"


@pytest.mark.slow
def test_the_printed_tables_name_the_checkpoint_whose_questions_were_measured(options, summary, mirrored, capsys):
    from figures.report import reported

    given = "answers right; both checkpoints are given its answers"
    for folder, whose, part in ((options.folder, "before", "only_first"), (mirrored[0].folder, "after", "only_second")):
        reported(folder)
        printed = " ".join(capsys.readouterr().out.split())
        assert f"answered right {whose} training" in printed
        assert f"is one that the checkpoint {whose} training {given}" in printed
        assert f"Of these, the 4 questions that only the checkpoint {whose} training answers right:" in printed
        assert "Of these, none is a question that both checkpoints answer right." in printed
        assert (folder / f"{part}.csv").exists() and not (folder / "both_right.csv").exists()
        caption = " ".join((folder / "figures" / "compare_jsd.txt").read_text().split())
        assert f"is one that the checkpoint {whose} training {given}" in caption


@pytest.fixture(params=["before", "after"])
def other_answers(request, tmp_path):
    """other_answers(right, asked): options and summary of a comparison on the questions of one checkpoint. Of the
    questions `asked` the other checkpoint answers just `right` right by itself."""
    request.getfixturevalue("summary")
    options = request.getfixturevalue("options")
    options = options if request.param == "before" else request.getfixturevalue("mirrored")[0]
    names = [Path(name).name for name in (options.before, options.after)]
    other = names[1] if request.param == "before" else names[0]

    def summarised(right, asked):
        folder = tmp_path / "run"
        shutil.copytree(options.folder, folder)
        kept = []
        for record in read_records(folder / "calibration"):
            if record["measure"].endswith("|answer") and record["id"] not in asked:
                continue
            if record["measure"].startswith(f"{other}|") and record["measure"].endswith("|answer"):
                record["right"] = record["id"] in right
            kept.append(json.dumps(record) + "\n")
        (folder / "calibration" / "records.jsonl").write_text("".join(kept))
        moved = changed(options, out=folder)
        return moved, comparison(moved, names, read_run(folder / "calibration")[1])

    return summarised


MEASURED = ("capital-paraguay", "sides-octagon", "young-cat", "young-dog")


@pytest.mark.slow
@pytest.mark.parametrize("count", range(5))
def test_measured_questions_are_split_by_what_the_other_checkpoint_answers(other_answers, count):
    """Any number of them, none and one included, and each table holds the numbers of its own questions."""
    right = set(MEASURED[:count]) | {"young-goat"}  # the last one was not measured
    options, told = other_answers(right, {*MEASURED, "young-goat"})
    only = "only_first" if options.answered_by == "before" else "only_second"
    records = [list(read_records(options.folder / side)) for side in SIDES]
    for part, ids in (("both_right", set(MEASURED[:count])), (only, set(MEASURED[count:]))):
        assert told[f"{part}_questions"] == len(ids) and told[f"{part}_unknown"] == 0
        assert (part in told) == bool(ids or part == "both_right")
        if not ids:
            continue
        rows = told[part]
        assert rows.keys() <= headline_keys() and rows["jsd.noise_floor"]["difference"]["n"] == len(ids)
        alone = paired_records([[r for r in run if r["id"] in ids] for run in records], "masking")["masking.mean.drop"]
        assert close(rows["masking.mean.drop"]["difference"], alone["difference"])
        others = {key: row["p"] for key, row in rows.items() if key != PRIMARY and row["p"] is not None}
        assert {key: rows[key]["p_holm"] for key in others} == holm(others)
        if len(ids) == 1:
            assert rows["masking.mean.drop"]["difference"]["low"] is None
    both, alone = parts(told)
    assert (both.name, alone.name) == ("both_right", only)
    assert ("none is a question that both checkpoints answer right." in both.title) == (count == 0)
    assert ("none is a question that only the checkpoint" in alone.title) == (count == 4)
    assert [part.grid is None for part in (both, alone)] == [count == 0, count == 4]


@pytest.mark.slow
def test_questions_that_the_evaluation_did_not_ask_are_in_neither_part_and_are_counted(other_answers):
    options, told = other_answers({"young-dog"}, {"young-dog", "young-cat", "young-goat"})
    only = "only_first" if options.answered_by == "before" else "only_second"
    assert told["both_right_unknown"] == told[f"{only}_unknown"] == 2
    assert told["both_right_questions"] == told[f"{only}_questions"] == 1
    assert all("the one question that" in part.title for part in parts(told))
    assert all("(2 more were not asked: --n-calibration)" in part.title for part in parts(told))


@pytest.mark.slow
def test_a_run_does_not_go_on_with_the_questions_of_the_other_checkpoint(options, summary):
    with pytest.raises(UserError, match="answered_by: 'before' there, 'after' now"):
        compared(changed(options, answered_by="after"))


@pytest.mark.slow
def test_what_is_foreseen_of_a_checkpoint_to_be_trained_is_not_taken_for_its_own(options, summary, tmp_path):
    """Where the second checkpoint's questions are measured, the first one stands in for it and leaves no record."""
    given = {"n": 2, "n_calibration": 3, "leave_out": ("rollout", "masking", "attribution"), "out": tmp_path / "run"}
    planned = changed(options, after=str(tmp_path / "trained"), answered_by="after", **given)
    dry = DryRun()
    (tmp_path / "trained").mkdir()  # as in a training, which writes its records there
    foreseen(planned, dry)
    assert {path.name for path in planned.folder.iterdir()} == {"calibration"}
    assert {"after, answers", "before and after, jsd"} <= set(dry.parts)
    part = dry.parts["before and after, jsd"]
    assert (part.times, part.whole, part.measured, part.kept + part.measured) == (2, 2, 2, 0)
    assert part.left == pytest.approx(part.seconds)
    shutil.copytree(options.before, tmp_path / "trained", dirs_exist_ok=True)
    told = read_run(compared(planned))[1]
    assert told["answered_by"] == "after" and told["both_right_questions"] == 2


@pytest.mark.slow
def test_the_report_draws_both_sides(options, summary, capsys):
    from figures.report import reported

    reported(options.folder)
    told = capsys.readouterr().out
    assert "higher after the right answer" in told and "effect size" in told
    drawn = {path.stem for path in (options.folder / "figures").glob("*.png")}
    names = ("jsd", "masking", "rollout", "attribution", "tokens_1", "tokens_2")
    assert drawn == {f"compare_{name}" for name in names}
    caption = (options.folder / "figures" / "compare_masking.txt").read_text()
    assert "before 0." in caption and "difference" in caption


SUBSETS = [subset for size in range(1, 5) for subset in combinations(INSTRUMENTS, size)]


def without(folder, summary_key, subset, out):
    """A copy of a run without the records and numbers of the instruments that are not in `subset`."""
    out.mkdir(parents=True)
    shutil.copy(folder / "config.json", out)
    summary = json.loads((folder / "summary.json").read_text())
    within = summary[summary_key] if summary_key else summary
    for key in [key for key in within if key.partition(".")[0] in set(INSTRUMENTS) - set(subset)]:
        del within[key]
    (out / "summary.json").write_text(json.dumps(summary))
    if (folder / "records.jsonl").exists():
        lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
        unmeasured = set(INSTRUMENTS) - set(subset)
        kept = [line for line in lines if json.loads(line)["measure"] not in unmeasured]
        (out / "records.jsonl").write_text("".join(kept))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("subset", SUBSETS, ids="-".join)
def test_every_subset_of_the_instruments_draws(options, summary, subset, tmp_path, capsys):
    from figures.report import reported

    both = without(options.folder, "comparison", subset, tmp_path / "compare")
    for side in ("before", "after"):
        reported(without(options.folder / side, "", subset, both / side))
    reported(both)
    names = {"jsd": "jsd", "masking": "masking", "rollout": "rollout", "attribution": "attribution"}
    drawn = {path.stem for path in (both / "figures").glob("*.png")}
    tokens = {"compare_tokens_1", "compare_tokens_2"} if "attribution" in subset else set()
    assert drawn == {f"compare_{names[name]}" for name in subset} | tokens
    for side in ("before", "after"):
        drawn = {path.stem for path in (both / side / "figures").glob("*.png")}
        assert {name for name in INSTRUMENTS if any(name in figure for figure in drawn)} == set(subset)
    rows = [line for line in _compared(read_run(both)[1]) if line.startswith("| ")]
    assert len(rows) > 1 and (any("rank of its best token" in row for row in rows) == ("attribution" in subset))


@pytest.mark.slow
@pytest.mark.parametrize("left_out", INSTRUMENTS)
def test_a_comparison_without_an_instrument_ends_in_its_figures(options, summary, left_out, tmp_path, capsys):
    from interp.cli.command import drawing

    kept = "masking" if left_out != "masking" else "jsd"
    leave_out = tuple(name for name in INSTRUMENTS if name != kept)
    drawing(compared)(changed(options, leave_out=leave_out, n_calibration=0, n=2, out=tmp_path / "run"))
    told = json.loads((tmp_path / "run" / "summary.json").read_text())["comparison"]
    assert {key.partition(".")[0] for key in told} == {kept}


@pytest.mark.slow
def test_an_adapter_that_brings_whole_modules_leaves_the_other_side_as_it_is_alone(options, tmp_path):
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"], bias="all")
    model = get_peft_model(loaded_checkpoint(options.before, Loading(device="cpu")).model, config)
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            parameter.data += 0.01 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "adapter")
    leave_out = ("masking", "attribution")
    shared = {"n": 2, "leave_out": leave_out, "n_calibration": 0, "out": tmp_path / "run"}
    swapped = changed(options, before=str(tmp_path / "adapter"), after=options.before, **shared)
    compared(swapped)
    alone = diagnosed(changed(swapped.side("after"), out=tmp_path / "alone"), INSTRUMENTS, "compare")
    sides = (list(read_records(folder)) for folder in (swapped.folder / "after", alone))
    one, other = ([r for r in side if r["measure"] in ("jsd", "rollout")] for side in sides)
    assert one == other and len(one) == 4
    before = [r for r in read_records(swapped.folder / "before") if r["measure"] == "jsd"]
    assert [r["values"] for r in before] != [r["values"] for r in one if r["measure"] == "jsd"]


@pytest.mark.parametrize(("answered_by", "second"), [("before", "after"), ("after", "before")])
def test_what_the_second_checkpoint_cannot_do_is_said_before_the_first_is_measured(
    options, tmp_path, tiny_tokenizer, answered_by, second
):
    config = BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "bloom")
    tiny_tokenizer().save_pretrained(tmp_path / "bloom")
    with pytest.raises(UserError, match=r"BloomForCausalLM .* --leave-out rollout runs the other instruments"):
        bloom = {second: str(tmp_path / "bloom"), answered_by: options.before}
        compared(changed(options, **bloom, answered_by=answered_by, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_cases_of_another_configuration_are_refused(options, summary):
    shared = {
        "data": options.asked.data,
        "candidates": 0,
        "shots": 0,
        "device": "cpu",
        "cases": options.folder / "before",
    }
    with pytest.raises(UserError, match=r"--cases .*before: its n: 4, here: 5"):
        diagnosed(composed(Diagnose, ckpt=options.after, n=5, out=options.folder / "no", **shared), ("jsd",), "jsd")
