"""Several processes measure what one does, question by question; one that is killed loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import close, keys
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UserError
from interp.options import composed
from interp.pipelines.evaluate import evaluated
from interp.pipelines.evaluation import Evaluate
from interp.run.processes import Processes, launched
from interp.run.recording import recorded
from interp.run.runs import Run, read_records, read_run
from interp.run.shards import left_shards, shard_of

LAUNCH = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
LAUNCH += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m")
"""accelerate starts several processes on a CPU only where it is told that they are for several GPUs."""
DIAGNOSE = {"n": 5, "candidates": 2, "tries": 32, "n-attribution": 2}
IDENTITY = {"n": 3}


def command(module: str, out: Path, flags: dict, *, together: bool) -> list[str]:
    given = [part for name, value in (flags | {"out": out}).items() for part in (f"--{name}", str(value))]
    return [sys.executable, "-m", *(LAUNCH if together else ()), module, *given]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": ""}


def finished(told: list[str]) -> subprocess.CompletedProcess:
    root = Path(__file__).parents[1]
    done = subprocess.run(told, env=environment(), cwd=root, capture_output=True, text=True, timeout=300, check=False)
    said = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert done.returncode == 0, said or done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def flags(taught_checkpoint, own_data) -> dict:
    return {"ckpt": taught_checkpoint, "data": own_data / "open.jsonl"}


@pytest.fixture(scope="module")
def alone(flags, tmp_path_factory) -> Path:
    """A diagnosis by one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    finished(command("interp.diagnose", out, flags | DIAGNOSE, together=False))
    return out


@pytest.mark.slow
def test_two_processes_diagnose_what_one_does_in_the_same_order(alone, flags, tmp_path):
    done = finished(command("interp.diagnose", tmp_path / "run", flags | DIAGNOSE, together=True))
    assert keys(tmp_path / "run") == keys(alone) and not left_shards(tmp_path / "run")
    assert close(read_run(tmp_path / "run")[1], read_run(alone)[1])
    assert done.stdout.count("JSD at most 0.1, share") == 1, "the table is printed once"


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_processes_without_a_gpu_know_each_other_whatever_device_was_asked_for(device, monkeypatch):
    """Else each takes itself for the first: accelerate counts processes on a CPU only where it is told of one."""
    import accelerate
    import torch

    asked = []

    class State:
        num_processes, process_index, local_process_index = 2, 1, 1

        def __init__(self, cpu: bool, timeout: object) -> None:
            asked.append(cpu)

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(accelerate, "PartialState", State)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert launched(device) == Processes(2, 1, 1) and asked == [True]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert launched(device) == Processes(2, 1, 1) and asked == [True, device == "cpu"]


def test_a_launch_whose_processes_do_not_find_each_other_is_refused(monkeypatch):
    import accelerate

    class State:
        num_processes, process_index, local_process_index = 1, 0, 0

        def __init__(self, cpu: bool, timeout: object) -> None:
            pass

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(accelerate, "PartialState", State)
    with pytest.raises(UserError, match="2 processes were launched and do not find each other"):
        launched("auto")


@pytest.mark.slow
def test_two_processes_evaluate_what_one_does(flags, tmp_path):
    asked = flags | {"n": 12}
    for name, together in (("one", False), ("two", True)):
        told = command("interp.evaluate", tmp_path / name, asked, together=together)
        finished([*told, "--methods", "default", "self-consistency", "question-only"])
    assert close(read_run(tmp_path / "two")[1], read_run(tmp_path / "one")[1])
    assert keys(tmp_path / "two") == keys(tmp_path / "one")


@pytest.mark.slow
def test_two_processes_train_with_their_diagnoses_before_and_after(taught_checkpoint, own_data, triplet_file, tmp_path):
    short = {"lr": 1e-2, "batch": 5, "epochs": 1, "held-out": 2, "every": 2, "diagnose": 4}
    asked = {"ckpt": taught_checkpoint, "triplets": triplet_file, "diagnose-data": own_data / "open.jsonl"}
    told = command("training.advice", tmp_path / "run", asked | short, together=True)
    finished([*told, "--report-to"])
    compared = read_run(tmp_path / "run" / "compare")[1]
    assert compared["comparison"]["masking.seen"]["difference"]["n"] == 4 and compared["calibration"]
    for side in ("before", "after"):
        found = keys(tmp_path / "run" / "compare" / side)
        assert len([key for key in found if key[0] == "jsd"]) == 4 and len({*found}) == len(found)
    assert (tmp_path / "run" / "adapter_model.safetensors").exists() and (tmp_path / "run" / "README.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize("together", [True, False])
def test_a_process_that_is_killed_is_said_and_the_same_command_or_one_process_finishes(
    alone, flags, tmp_path, together
):
    out = tmp_path / "run"
    told = command("interp.diagnose", out, flags | DIAGNOSE, together=True)
    root = Path(__file__).parents[1]
    begun = subprocess.Popen(
        told, env=environment(), cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (shard_of(out, 1).exists() and b'"jsd"' in shard_of(out, 1).read_bytes()):
        assert time.monotonic() < deadline and begun.poll() is None, begun.communicate()[1][-3000:]
        time.sleep(0.02)
    os.kill(worker(begun.pid, "1"), signal.SIGKILL)
    _, errors = begun.communicate(timeout=120)
    assert begun.returncode != 0 and "SIGKILL" in errors and not (out / "summary.json").exists()
    assert left_shards(out), "what was measured is there"
    finished(command("interp.diagnose", out, flags | DIAGNOSE, together=together))
    assert sorted(keys(out)) == sorted(keys(alone)) and len(set(keys(out))) == len(keys(out))
    assert close(read_run(out)[1], read_run(alone)[1])
    assert not left_shards(out)


def worker(launcher: int, rank: str) -> int:
    """The process of that rank below a launcher."""
    for found in Path("/proc").glob("[0-9]*"):
        try:
            variables = dict(pair.split("=", 1) for pair in (found / "environ").read_text().split("\0") if "=" in pair)
            parent = int((found / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, UnicodeDecodeError):
            continue
        if variables.get("RANK") == rank and parent == launcher:
            return int(found.name)
    raise AssertionError(f"no process of rank {rank}")


# Shares


@given(st.lists(st.integers(), max_size=30), st.integers(1, 5))
def test_the_shares_of_all_processes_are_the_items_each_once(items, count):
    shards = [Processes(count, index).shard(items) for index in range(count)]
    assert sorted(item for share in shards for item in share) == sorted(items)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_without_a_launcher_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched("cpu") == Processes(1, 0, 0) and launched("cpu").first
    assert Processes().device("auto") == "auto" and Processes().mean({"a": 2.0}) == {"a": 2.0}


def test_a_process_that_is_gone_is_one_sentence(monkeypatch):
    import accelerate

    class Broken:
        def wait_for_everyone(self):
            raise RuntimeError("[gloo] Connection closed by peer")

    monkeypatch.setattr(accelerate, "PartialState", Broken)
    Processes().wait()
    with pytest.raises(UserError, match="another process of this run is gone; the same command finishes"):
        Processes(2, 0).wait()


def record(identity: str, measure: str = "jsd") -> dict:
    return {"measure": measure, "set": 0, "id": identity, "values": {"jsd": 0.5}}


def write_share(folder: Path, index: int, records: list[dict], torn: str = "") -> None:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(one) + "\n" for one in records)
    shard_of(folder, index).write_text(text + torn)


@pytest.mark.slow
@given(st.permutations("abcdef"), st.integers(0, 6), st.integers(0, 6), st.booleans())
def test_shares_of_a_launch_that_died_are_merged_in_the_questions_order(tmp_path_factory, order, merged, torn_at, torn):
    folder = tmp_path_factory.mktemp("died")
    with Run(folder, IDENTITY) as run:
        for identity in "abcdef"[:merged]:
            run.append(record(identity))
    kept = order[:torn_at]  # among them some that were merged before the launch died
    write_share(folder, 0, [record(i) for i in kept[::2]])
    write_share(folder, 3, [record(i) for i in kept[1::2]], '{"measure": "jsd"' if torn else "")
    with Run(folder, IDENTITY) as run:
        assert {key[2] for key in run.done} == {*"abcdef"[:merged], *kept}
        for identity in "abcdef":
            if ("jsd", 0, identity) not in run.done:
                run.append(record(identity))
        run.gather("jsd", 0, list("abcdef"))
        assert [one["id"] for one in run.records("jsd")] == list("abcdef")
    assert not left_shards(folder) and list(read_records(folder)) == [record(i) for i in "abcdef"]


def test_shares_of_another_measure_wait_for_their_turn(tmp_path):
    with Run(tmp_path, IDENTITY) as run:
        run.append(record("a", "answer"))
    write_share(tmp_path, 1, [record("b"), record("a")])
    with Run(tmp_path, IDENTITY) as run:
        run.gather("answer", 0, ["a"])
        assert not list(run.records("jsd")), "else they would not stand in the questions' order"
    assert left_shards(tmp_path), "nothing is removed that was not merged"
    with Run(tmp_path, IDENTITY) as run:
        run.gather("jsd", 0, ["a", "b"])
    assert [key[::2] for key in keys(tmp_path)] == [("answer", "a"), ("jsd", "a"), ("jsd", "b")]


@pytest.mark.slow
@pytest.mark.parametrize("asking", ["answer", "read"])
def test_a_finished_cell_that_was_not_merged_is_merged_by_the_same_command(flags, tmp_path, asking):
    asked = composed(
        Evaluate, ckpt=(str(flags["ckpt"]),), data=(str(flags["data"]),), n=6, device="cpu", out=tmp_path / "run"
    )
    wanted = read_run(evaluated(asked))[1]
    records = list(read_records(tmp_path / "run"))
    apart = [one for one in records if one["measure"].endswith(asking)]
    assert len(apart) == 6
    (tmp_path / "run" / "records.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in records if one not in apart)
    )
    write_share(tmp_path / "run", 1, apart)
    assert close(read_run(evaluated(asked))[1], wanted)
    assert not left_shards(tmp_path / "run") and sorted(keys(tmp_path / "run")) == sorted(
        (one["measure"], one["set"], one["id"]) for one in records
    )


def test_records_that_do_not_arrive_are_said_and_nothing_is_removed(tmp_path):
    """As where a directory is not shared by all machines, or shows late what another has written."""

    class Deaf(Processes):
        def wait(self) -> None:
            pass

    deaf, setting = Run(tmp_path, IDENTITY, Deaf(2, 0)), SimpleNamespace(prefix=SimpleNamespace(batch_tokens=64))
    with pytest.raises(UserError, match="1 records of other processes do not arrive"), deaf as run:
        recorded(run, ("jsd", 0), {"a": "a", "b": "b"}, 8, lambda items: [{"x": item} for item in items], setting)
    assert [key[2] for key in keys(tmp_path)] == ["a"]
    with Run(tmp_path, IDENTITY, Deaf(2, 0)) as run:
        run.gather("jsd", 0, ["a", "b"])
        assert run.done == {("jsd", 0, "a")}, "what was not seen is not done"
        write_share(tmp_path, 1, [record("b")])
    assert shard_of(tmp_path, 1).exists(), "what came late is not removed"


def test_nobody_writes_before_all_have_seen_what_is_there(tmp_path):
    """Else a slow process would take what a fast one has just written for done, and wait for nobody."""
    seen = []

    class Counted(Processes):
        def wait(self) -> None:
            seen.append(hasattr(run, "done"))

    run = Run(tmp_path, IDENTITY, Counted(2, 0))
    with run:
        assert seen == [False, True]


def test_a_share_that_is_no_share_is_named(tmp_path):
    write_share(tmp_path, 1, [record("a")])
    with shard_of(tmp_path, 1).open("a") as stream:
        stream.write('{"measure": "jsd", "set": 0, "id": ["b"]}\n')
    with pytest.raises(UserError, match=r"records\.1\.jsonl, line 2: not a record"), Run(tmp_path, IDENTITY):
        pass


def test_a_straggler_of_another_launch_is_not_written_over(tmp_path):
    import fcntl

    write_share(tmp_path, 1, [record("a")])
    with shard_of(tmp_path, 1).open("a") as straggler:
        fcntl.flock(straggler, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is writing to it"), Run(tmp_path, IDENTITY):
            pass
    with Run(tmp_path, IDENTITY) as run:
        assert run.done == {("jsd", 0, "a")}
