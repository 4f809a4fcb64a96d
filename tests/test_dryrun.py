"""A dry run foresees what its clock would say of the whole, and all that it measured counts in the run that follows."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import close, keys
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

import interp.options
from figures.dryrun import cells, printed_dry_run, sentences, size, span
from interp.errors import UserError
from interp.instruments.registry import INSTRUMENTS, repeated_by
from interp.methods.registry import METHODS
from interp.models.checkpoints import Loading, loaded_checkpoint
from interp.options import composed, dry_run_of, identity_of
from interp.pipelines import elicit, evaluate
from interp.pipelines.compare import Compare, compared
from interp.pipelines.diagnose import diagnosed
from interp.pipelines.diagnosis import Diagnose
from interp.pipelines.evaluate import evaluated
from interp.pipelines.evaluation import Evaluate
from interp.records import Question
from interp.run import dryrun
from interp.run.dryrun import Chunk, DryRun, Part, peak_memory
from interp.run.processes import Processes
from interp.run.recording import recorded
from interp.run.runs import Run, read_records, read_run
from training import advice, conftuner
from training.ablation import ROWS, Ablation, ablated
from training.adapters import WEIGHTS, saved_adapter
from training.advice import Advice
from training.conftuner import ConfTuner
from training.triplets import Triplets, answers_beside, built

FOUR = ("jsd", "rollout", "masking", "attribution")
SETTING = SimpleNamespace(prefix=SimpleNamespace(batch_tokens=64))
"""A setting whose batches are never halved, since memory does not run out."""


class Clock:
    """A clock that stands still but for what is done by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def letters(count: int) -> dict[str, str]:
    return {f"q{number}": f"question {number}" for number in range(count)}


def measured_in(clock: Clock, first: float, each: Callable[[str], float], asked: list[str]):
    """An instrument that takes `first` seconds once, and so many for each item."""

    def measured(chunk: Sequence[str]) -> list[dict]:
        clock.now += sum(map(each, chunk)) + (0.0 if asked else first)
        asked.extend(chunk)
        return [{"x": item} for item in chunk]

    return measured


@pytest.mark.slow
@given(
    st.floats(0, 100),
    st.floats(0.5, 20),
    st.integers(1, 60),
    st.integers(1, 9),
    st.integers(0, 3),
)
def test_what_each_question_takes_and_what_happens_once_are_told_apart(
    tmp_path_factory, first, each, count, at_once, start
):
    """The whole is what the clock would say of it, whatever was measured, where all questions take equally long."""
    clock, asked = Clock(), []
    dry = DryRun(clock)
    clock.now += start
    with Run(tmp_path_factory.mktemp("run"), {}, dry=dry) as run:
        step = measured_in(clock, first, lambda item: each, asked)
        recorded(run, ("jsd", 0), letters(count), at_once, step, SETTING, whole=count)
    part = dry.parts["jsd"]
    assert dry.start == pytest.approx(start) and part.measured == len(asked)
    if len(part.chunks) > 1:
        assert part.seconds == pytest.approx(first + each * count) and part.once == pytest.approx(first)
        left = count - len(asked)
        assert part.left == pytest.approx(first + each * left if left else 0.0)
    elif count > at_once:  # one long chunk of several questions, which is taken for the rate
        assert at_once >= dryrun.FEW and part.chunks[0].seconds >= dryrun.LONG
        assert part.seconds == pytest.approx((first / at_once + each) * count)
    assert dry.seconds == pytest.approx(start + part.seconds)


def test_questions_of_unlike_length_are_extrapolated_by_their_tokens(tmp_path):
    """The first ones are short here: by their number alone the whole would be seven times too little."""
    clock, asked = Clock(), []
    dry, items = DryRun(clock), letters(40)
    tokens = {identity: 2 if number < 12 else 20 for number, identity in enumerate(items)}
    prompter = SimpleNamespace(
        shared_prefix=(0,) * 5, transcript=lambda q: SimpleNamespace(ids=(0,) * (5 + tokens[q.id]))
    )
    dry.know_lengths(prompter, [Question(identity, "?", ("x",)) for identity in items])
    by_text = {text: tokens[identity] for identity, text in items.items()}
    with Run(tmp_path, {}, dry=dry) as run:
        step = measured_in(clock, 3.0, lambda item: 0.1 * by_text[item], asked)
        recorded(run, ("jsd", 0), items, 4, step, SETTING, whole=40)
    assert len(asked) == 12 and dry.parts["jsd"].seconds == pytest.approx(3 + 0.1 * sum(tokens.values()))


@pytest.mark.parametrize(
    ("chunks", "settled"),
    [
        ([], False),
        ([(8, 1.0)], False),  # what happens only once may be most of it
        ([(8, 10.0)], True),
        ([(1, 100.0)], False),  # a single question may be unlike the others
        ([(1, 100.0), (1, 80.0)], True),
        ([(8, 1.0), (8, 0.2)], False),  # too short to tell
        ([(8, 1.0), (8, 0.2), (8, 0.2)], False),
        ([(8, 1.0), (8, 0.2), (8, 0.2), (8, 0.2)], True),
        ([(8, 9.0), (8, 1.0)], True),
    ],
)
def test_a_part_is_settled_where_its_rate_does_not_rest_on_its_first_seconds(chunks, settled):
    part = Part("jsd", 100, chunks=[Chunk(items, items, seconds, 0) for items, seconds in chunks])
    assert part.settled is settled


def test_records_are_extrapolated_by_their_bytes_and_what_is_repeated_counts_so_often():
    part = Part("jsd", 50, kept=4, chunks=[Chunk(4, 4, 6.0, 400), Chunk(4, 4, 2.0, 440)])
    assert (part.rate, part.once, part.written) == (0.5, 4.0, 50 * 105)
    assert (part.seconds, part.left) == (4 + 25, 4 + 0.5 * 38)
    part.times = 2
    assert (part.seconds, part.left, part.written) == (58, 4 + 0.5 * 38 + 29, 100 * 105)
    assert Part("jsd", 8, kept=8, chunks=[]).left == 0 and not Part("jsd", 8, kept=8).unknown
    assert Part("jsd", 9, kept=8).unknown


@pytest.mark.parametrize(
    ("right", "asked", "wanted", "there", "whole", "cases", "enough"),
    [
        (40, 64, 48, 1000, 128, 48, True),  # 77 have to be asked, in chunks of 64
        (40, 64, 500, 1000, 832, 500, True),  # 800
        (40, 64, 500, 640, 640, 400, True),  # only 400 will be right
        (5, 64, 500, 10000, 6400, 500, False),
        (20, 256, 500, 10000, 6400, 500, True),  # it is not asked for ever
        (50, 64, 40, 1000, 64, 40, True),
        (5, 64, 5, 1000, 64, 5, True),
    ],
)
def test_how_many_are_asked_is_foreseen_from_the_share_that_is_right(right, asked, wanted, there, whole, cases, enough):
    dry = DryRun(Clock())
    dry.named("answers").chunks.append(Chunk(64, 64, 1.0, 1))
    known = min(wanted, dryrun.ENOUGH_RIGHT)
    assert dry.foresees(right, asked, 64, enough=known, wanted=wanted, available=there) is enough
    assert (dry.named("answers").whole, dry.cases) == (whole, pytest.approx(cases))
    assert not dry.foresees(0, asked, 64, enough=known, wanted=wanted, available=there)


def test_a_dry_run_measures_first_chunks_which_the_run_takes_up_in_the_same_order(tmp_path):
    clock, asked, items = Clock(), [], letters(30)
    step = measured_in(clock, 1.0, lambda item: 0.5, asked)
    with Run(tmp_path / "run", {}, dry=DryRun(clock)) as run:
        recorded(run, ("jsd", 0), items, 4, step, SETTING, whole=30)
    assert asked == [*items.values()][:8] and [key[2] for key in keys(tmp_path / "run")] == [*items][:8]
    with Run(tmp_path / "run", {}) as run:
        recorded(run, ("jsd", 0), items, 4, step, SETTING, whole=30)
    assert asked == [*items.values()], "each is measured once"
    assert [key[2] for key in keys(tmp_path / "run")] == [*items]


def test_what_is_asked_for_again_is_neither_measured_nor_counted_twice(tmp_path):
    clock, asked, items, dry = Clock(), [], letters(6), DryRun(Clock())
    step = measured_in(clock, 1.0, lambda item: 0.5, asked)
    with Run(tmp_path, {}) as run:
        recorded(run, ("sample", 0), {"q0": items["q0"]}, 4, step, SETTING)
    with Run(tmp_path, {}, dry=dry) as run:
        recorded(run, ("sample", 0), {name: items[name] for name in ("q0", "q1", "q2")}, 4, step, SETTING)
        recorded(run, ("sample", 0), {name: items[name] for name in ("q0", "q1", "q2", "q3")}, 4, step, SETTING)
    part = dry.parts["sample"]
    assert (part.kept, part.measured, part.whole) == (1, 3, 4) and len(asked) == 4


def test_several_processes_are_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(interp.options, "launched", lambda device: Processes(2, 1))
    with pytest.raises(UserError, match="--dry-run measures in one process"):
        dry_run_of(composed(Diagnose, dry_run=True))
    assert dry_run_of(Diagnose()) is None


def test_the_option_is_no_part_of_what_a_run_is():
    for kind in (Diagnose, Evaluate, Triplets, Compare):
        assert identity_of(composed(kind, dry_run=True)) == identity_of(kind())


# On models


@pytest.fixture
def small_steps(monkeypatch):
    """Chunks so small that twelve questions are many: a dry run then measures some of them only."""
    for name, instrument in dict(INSTRUMENTS).items():
        monkeypatch.setitem(INSTRUMENTS._by_name, name, replace(instrument, chunk=1))
    monkeypatch.setattr(elicit, "ASKED_AT_ONCE", 3)
    monkeypatch.setattr(evaluate, "ANSWERED_AT_ONCE", 2)
    for name, method in dict(METHODS).items():
        if method.asking:
            monkeypatch.setitem(METHODS._by_name, name, replace(method, asking=replace(method.asking, chunk=2)))
    for name, value in (("ENOUGH_RIGHT", 2), ("ENOUGH_ASKED", 6), ("MOST_CHUNKS", 2)):
        monkeypatch.setattr(dryrun, name, value)


def by_measure(folder: Path) -> dict[str, list[tuple]]:
    """The keys of a run's records in their order, apart for each measure."""
    found: dict[str, list[tuple]] = {}
    for key in keys(folder):
        found.setdefault(key[0], []).append(key)
    return found


def continued(dry: Path, whole: Path) -> None:
    """The run that followed a dry run is as if that had not been: nothing was measured twice, all numbers are there."""
    assert by_measure(dry) == by_measure(whole) and len({*keys(dry)}) == len(keys(dry))
    assert close(read_run(dry)[1], read_run(whole)[1])


@pytest.mark.slow
def test_a_diagnosis_goes_on_from_its_dry_run_to_the_numbers_of_an_undisturbed_one(
    taught_checkpoint, own_data, tmp_path, small_steps, capsys
):
    given = {"ckpt": str(taught_checkpoint), "data": str(own_data / "open.jsonl"), "device": "cpu"}
    given |= {"n": 5, "candidates": 2, "tries": 32, "n_attribution": 4}
    out = tmp_path / "run"
    dry = DryRun()
    diagnosed(composed(Diagnose, out=out, dry_run=True, **given), FOUR, "diagnose", dry=dry)
    assert {path.name for path in out.iterdir()} == {".lock", "config.json", "records.jsonl"}, "nothing looks finished"
    assert [*dry.parts] == ["answers", "wrong answers", *(one.label for one in repeated_by(FOUR)), *FOUR]
    assert [part.whole for part in dry.parts.values()][1:] == [5, 5, 5, 5, 5, 5, 4]
    assert all(part.measured == 2 for name, part in dry.parts.items() if name in FOUR)
    begun = keys(out)
    printed_dry_run(dry, out)
    assert "for the whole run" in capsys.readouterr().out
    second = DryRun()
    diagnosed(composed(Diagnose, out=out, dry_run=True, **given), FOUR, "diagnose", dry=second)
    assert keys(out)[: len(begun)] == begun and len(keys(out)) > len(begun), "a second one measures further"
    diagnosed(composed(Diagnose, out=out, **given), FOUR, "diagnose")
    continued(out, diagnosed(composed(Diagnose, out=tmp_path / "whole", **given), FOUR, "diagnose"))
    third = DryRun()
    diagnosed(composed(Diagnose, out=out, dry_run=True, **given), FOUR, "diagnose", dry=third)
    assert not any(part.left for part in third.parts.values()) and (out / "summary.json").exists()


@pytest.mark.slow
def test_an_evaluation_goes_on_from_its_dry_run(taught_checkpoint, own_data, tmp_path, small_steps):
    methods = ("default", "self-consistency", "question-only")
    given = {"ckpt": (str(taught_checkpoint),), "data": (str(own_data / "open.jsonl"),), "device": "cpu"}
    dry, out = DryRun(), tmp_path / "run"
    evaluated(composed(Evaluate, out=out, dry_run=True, methods=methods, **given), dry)
    assert not (out / "summary.json").exists()
    measured = {name.rpartition(" ")[2]: part.measured for name, part in dry.parts.items()}
    assert measured == {"answer": 4, "floor": 4, "read": 4, "sampled": 4, "hidden": 4}
    wholes = {name.rpartition(" ")[2]: part.whole for name, part in dry.parts.items()}
    assert wholes["answer"] == wholes["sampled"] == 12 and 0 < wholes["read"] <= 12
    evaluated(composed(Evaluate, out=out, methods=methods, **given))
    continued(out, evaluated(composed(Evaluate, out=tmp_path / "whole", methods=methods, **given)))


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("before", "after"), ("after", "before")])
def test_a_comparison_goes_on_from_its_dry_run_and_no_question_is_answered_by_the_wrong_model(
    taught_checkpoint, own_data, tmp_path, small_steps, first, second
):
    """What the first diagnosed checkpoint has not answered yet is not for the second one to answer."""
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(loaded_checkpoint(str(taught_checkpoint), Loading(device="cpu")).model, config)
    saved_adapter(model, tmp_path / "random", str(taught_checkpoint))
    given = {first: str(taught_checkpoint), second: str(tmp_path / "random"), "data": str(own_data / "open.jsonl")}
    given |= {"answered_by": first, "n": 5, "candidates": 0, "shots": 0, "n_calibration": 12, "device": "cpu"}
    given["leave_out"] = ("rollout", "attribution")
    dry, out = DryRun(), tmp_path / "run"
    compared(composed(Compare, out=out, dry_run=True, **given), dry)
    assert not list(out.rglob("summary.json"))
    assert f"{first}, answers" in dry.parts and f"{second}, answers" not in dry.parts
    for side in ("before", "after"):
        assert (dry.parts[f"{side}, jsd"].whole, dry.parts[f"{side}, jsd"].measured) == (5, 2)
    answers = {side: by_measure(out / side)["answer"] for side in ("before", "after")}
    assert answers["after"] == answers["before"] and len(answers["before"]) < 12
    assert [key for key in dry.parts if key.endswith(", jsd")] == [f"{first}, jsd", f"{second}, jsd"]
    compared(composed(Compare, out=out, **given))
    compared(composed(Compare, out=tmp_path / "whole", **given))
    for run in ("before", "after", "calibration"):
        assert by_measure(out / run) == by_measure(tmp_path / "whole" / run)
    assert close(read_run(out)[1], read_run(tmp_path / "whole")[1])


@pytest.mark.slow
def test_triplets_go_on_from_their_dry_run(taught_checkpoint, own_data, tmp_path, small_steps):
    given = {"ckpt": str(taught_checkpoint), "data": (str(own_data / "open.jsonl"),), "shots": 0, "device": "cpu"}
    dry, out = DryRun(), tmp_path / "t.jsonl"
    built(composed(Triplets, out=out, dry_run=True, **given), dry)
    assert not out.exists() and not answers_beside(out).exists()
    answers, wrong = dry.parts.values()
    assert (answers.measured, answers.whole, wrong.measured) == (6, 12, 2) and 2 < wrong.whole <= 12
    made = built(composed(Triplets, out=out, **given)).read_text()
    assert made == built(composed(Triplets, out=tmp_path / "whole.jsonl", **given)).read_text()
    assert by_measure(tmp_path / "t.jsonl.run") == by_measure(tmp_path / "whole.jsonl.run")


@pytest.fixture
def short(tiny_checkpoint, triplet_file, own_data):
    """Options of a short training with dropout, whose state at an update is more than its weights."""
    given = {"lr": 1e-2, "batch": 5, "accumulation": 2, "epochs": 3, "held_out": 2, "every": 2, "dropout": 0.1}
    given |= {"shots": 0, "shot_sets": 2, "device": "cpu", "diagnose": 0, "report_to": ()}
    return given | {"ckpt": str(tiny_checkpoint("llama")), "diagnose_data": str(own_data / "open.jsonl")}


def same_training(dry: Path, whole: Path) -> None:
    one, other = (load_file(folder / WEIGHTS) for folder in (dry, whole))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert by_measure(dry) == by_measure(whole)
    records = [sorted(read_records(folder), key=lambda one: (one["measure"], one["id"])) for folder in (dry, whole)]
    assert records[0] == records[1] and read_run(dry)[1] == read_run(whole)[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Advice, ConfTuner])
def test_a_training_goes_on_from_its_dry_run_to_the_same_adapter_bit_for_bit(kind, short, triplet_file, tmp_path):
    work = {Advice: advice.trained, ConfTuner: conftuner.trained}[kind]
    file = {"triplets": triplet_file} if kind is Advice else {"answers": answers_beside(triplet_file)}
    dry, out = DryRun(), tmp_path / "run"
    work(composed(kind, out=out, dry_run=True, **file, **short), dry)
    assert not (out / WEIGHTS).exists() and not list(out.rglob("summary.json")) and not (out / "README.md").exists()
    updates, curve = dry.parts["updates"], dry.parts["learning curve"]
    assert (updates.measured, curve.measured) == (3, 2) and updates.whole >= 5
    assert curve.whole == 1 + -(-updates.whole // 2)
    assert (out / "trainer" / "checkpoint-3").exists() and dry.disk["the adapter"] > 0
    again = DryRun()
    work(composed(kind, out=out, dry_run=True, **file, **short), again)
    assert (again.parts["updates"].kept, again.parts["updates"].measured) == (3, min(3, updates.whole - 3))
    work(composed(kind, out=out, **file, **short))
    same_training(out, work(composed(kind, out=tmp_path / "whole", **file, **short)))
    assert dry.disk["the adapter"] == pytest.approx((out / WEIGHTS).stat().st_size, rel=0.2)


@pytest.mark.slow
def test_a_training_with_its_diagnoses_goes_on_from_its_dry_run(
    short, taught_checkpoint, triplet_file, tmp_path, small_steps
):
    given = short | {"ckpt": str(taught_checkpoint), "diagnose": 4, "triplets": triplet_file, "updates": 4}
    dry, out = DryRun(), tmp_path / "run"
    advice.trained(composed(Advice, out=out, dry_run=True, **given), dry)
    assert not list(out.rglob("summary.json")) and not list(out.rglob("*.png"))
    times = {name: part.times for name, part in dry.parts.items()}
    assert times["updates"] == times["before, answers"] == 1 and times["before and after, jsd"] == 2
    assert {part.times for name, part in dry.parts.items() if name.endswith("read")} == {2}
    advice.trained(composed(Advice, out=out, **given))
    whole = advice.trained(composed(Advice, out=tmp_path / "whole" / "run", **given))
    for run in ("before", "after", "calibration"):
        assert by_measure(out / "compare" / run) == by_measure(whole / "compare" / run)
    assert close(read_run(out / "compare" / "before")[1], read_run(whole / "compare" / "before")[1])


@pytest.mark.slow
def test_an_ablation_goes_on_from_its_dry_run(short, triplet_file, own_data, tmp_path):
    given = {name: value for name, value in short.items() if not name.startswith("diagnose")}
    given |= {"updates": 4, "triplets": triplet_file, "data": (str(own_data / "open.jsonl"),), "n": 6}
    dry, out = DryRun(), tmp_path / "run"
    ablated(composed(Ablation, out=out, dry_run=True, **given), dry)
    assert dry.parts["updates"].times == len(ROWS) and dry.parts["updates"].measured == 3
    assert {part.times for name, part in dry.parts.items() if name.endswith("answer")} == {1 + len(ROWS)}
    assert not list(out.rglob("summary.json"))
    summary = read_run(ablated(composed(Ablation, out=out, **given)))[1]
    assert close(
        summary["ablation"], read_run(ablated(composed(Ablation, out=tmp_path / "whole", **given)))[1]["ablation"]
    )


# What is printed


def test_the_table_says_what_is_left_and_that_what_was_not_measured_is_not_known():
    part = Part("jsd", 50, kept=4, chunks=[Chunk(4, 4, 6.0, 400), Chunk(4, 4, 2.0, 440)])
    assert cells(part) == ("jsd", "50", "12", "8", "0.5 s", "29 s", "23 s")
    assert cells(Part("jsd", 9, kept=8, times=2)) == ("jsd (2 times)", "9", "8", "0", "–", "–", "–")
    assert cells(Part("jsd", 8, kept=8))[-1] == "0 s"
    clock = Clock()
    dry = DryRun(clock)
    dry.parts["jsd"], dry.disk["the adapter"] = part, 2e6
    clock.now += 18.0  # of which eight went into the part
    time, memory, disk = sentences(dry)
    assert time == "Time: 39 s for the whole run, 33 s for what is left with another start."
    assert memory.startswith("Memory, at most: ") and memory.endswith(" of main memory.")
    assert disk == "Disk: 5.25 kB for records, 2 MB for the adapter; figures apart."
    dry.parts["rollout"] = Part("rollout", 9)
    assert sentences(dry)[0].startswith("Time: at least 39 s")


def test_quantities_are_read_with_their_unit():
    assert [size(held) for held in (12, 3456, 7.8e6, 1.234e9)] == ["12 B", "3.46 kB", "7.8 MB", "1.23 GB"]
    assert [span(seconds) for seconds in (0.123, 5, 75, 300, 9000)] == ["0.12 s", "5 s", "75 s", "5.0 min", "2.5 h"]


@pytest.mark.slow
def test_the_memory_that_is_told_is_at_least_what_a_large_tensor_takes():
    before = peak_memory()["main memory"]
    held = torch.ones(before // 4 + 10**8)  # four bytes each
    assert peak_memory()["main memory"] >= 4 * held.numel() > 10**8
