"""A run's directory: what is appended stays, what is torn is measured again, what does not belong is refused."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UserError
from interp.run.runs import Run, chunks, nested, read_records, read_run

IDENTITY = {"ckpt": "tiny", "n": 3, "seed": 0}


def record(number: int, measure: str = "jsd", **values) -> dict:
    return {"measure": measure, "set": 0, "id": f"q{number}", "values": values or {"jsd": number / 10}}


def filled(folder: Path, count: int = 3) -> Path:
    with Run(folder, IDENTITY) as run:
        for number in range(count):
            run.append(record(number))
    return folder / "records.jsonl"


# Continuing


def test_a_run_continues_where_it_stopped_and_keeps_the_order(tmp_path):
    filled(tmp_path, 2)
    with Run(tmp_path, IDENTITY) as run:
        assert run.done == {("jsd", 0, "q0"), ("jsd", 0, "q1")}
        run.append(record(2))
        assert [one["id"] for one in run.records("jsd")] == ["q0", "q1", "q2"]
        assert list(run.records("rollout")) == []
    assert list(read_records(tmp_path)) == [record(0), record(1), record(2)]


def test_a_record_is_on_disk_as_soon_as_it_is_appended(tmp_path):
    with Run(tmp_path, IDENTITY) as run:
        run.append(record(0))
        assert list(read_records(tmp_path)) == [record(0)]


def test_accents_and_line_ends_within_a_text_survive(tmp_path):
    odd = record(0) | {"answer": 'Asunción\nand\u2028more\r\x85 日本 "quoted"'}
    with Run(tmp_path, IDENTITY) as run:
        run.append(odd)
        run.append(record(1))
    assert list(read_records(tmp_path)) == [odd, record(1)]


def test_a_torn_last_line_is_dropped_at_every_byte_and_measured_again(tmp_path):
    path = filled(tmp_path)
    whole = path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        assert [one["id"] for one in read_records(tmp_path)] == ["q0", "q1"], cut
        with Run(tmp_path, IDENTITY) as run:
            assert ("jsd", 0, "q2") not in run.done
            run.append(record(2))
        assert path.read_bytes() == whole


def test_a_torn_line_longer_than_one_read_is_dropped(tmp_path):
    path = filled(tmp_path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"measure": "' + b"x" * 200_000)
    with Run(tmp_path, IDENTITY) as run:
        assert run.done == {("jsd", 0, "q0")}
    assert path.read_bytes() == whole


def test_a_file_of_one_torn_line_is_an_empty_run(tmp_path):
    path = filled(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-1])
    assert list(read_records(tmp_path)) == []
    with Run(tmp_path, IDENTITY) as run:
        assert run.done == set()


@pytest.mark.parametrize("line", ["{}", "[]", "7", "not json", '{"measure": "jsd", "set": 0}', '{"measure": "jsd"'])
def test_a_broken_line_in_the_middle_is_named_and_nothing_is_lost(tmp_path, line):
    path = filled(tmp_path)
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[0], line, *lines[1:]]))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"records\.jsonl, line 2: not a record"), Run(tmp_path, IDENTITY):
        pass
    assert path.read_bytes() == before


@pytest.mark.slow
@given(st.lists(st.integers(0, 3), max_size=8), st.integers(0, 400))
@examples(40)
def test_whatever_was_cut_a_continued_run_holds_each_record_once(tmp_path_factory, numbers, cut):
    folder = tmp_path_factory.mktemp("cut")
    wanted = list(dict.fromkeys(numbers))
    path = folder / "records.jsonl"
    for interrupted in (True, False):
        with Run(folder, IDENTITY) as run:
            for number in wanted:
                if ("jsd", 0, f"q{number}") not in run.done:
                    run.append(record(number))
        if interrupted:
            kept = path.read_bytes()
            path.write_bytes(kept[: max(0, len(kept) - cut)])
    assert [one["id"] for one in read_records(folder)] == [f"q{number}" for number in wanted]


# Refusing


def test_another_configuration_is_refused_with_the_difference_and_nothing_changes(tmp_path):
    path = filled(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    other = {"ckpt": "tiny", "n": 5, "top_p": 0.9}
    with pytest.raises(UserError) as raised, Run(tmp_path, other):
        pass
    said = str(raised.value)
    assert "n: 3 there, 5 now" in said and "seed: 0 there, None now" in said and "top_p: None there, 0.9 now" in said
    assert "ckpt" not in said
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    with Run(tmp_path, IDENTITY) as run:
        assert len(run.done) == 3, f"{path} is locked or lost"


def test_a_tuple_and_the_list_that_it_becomes_on_disk_are_the_same_configuration(tmp_path):
    with Run(tmp_path, {"template_args": ("a=1", "b=2")}) as run:
        run.append(record(0))
    assert json.loads((tmp_path / "config.json").read_text())["identity"] == {"template_args": ["a=1", "b=2"]}
    with Run(tmp_path, {"template_args": ("a=1", "b=2")}) as run:
        assert run.done == {("jsd", 0, "q0")}, "it is continued"
    with pytest.raises(UserError, match="template_args"), Run(tmp_path, {"template_args": ("b=2", "a=1")}):
        pass


def _write(folder: str, started, finish, said) -> None:
    try:
        with Run(Path(folder), IDENTITY) as run:
            started.set()
            finish.wait(20)
            run.append(record(0))
        said.put("wrote")
    except UserError as error:
        said.put(str(error))


def test_two_processes_at_once_are_refused_and_the_first_goes_on(tmp_path):
    context = multiprocessing.get_context("fork")
    started, finish, said = context.Event(), context.Event(), context.Queue()
    first = context.Process(target=_write, args=(str(tmp_path), started, finish, said))
    first.start()
    assert started.wait(20)
    with pytest.raises(UserError, match="another process is writing to it"), Run(tmp_path, IDENTITY):
        pass
    finish.set()
    first.join(20)
    assert said.get(timeout=5) == "wrote"
    with Run(tmp_path, IDENTITY) as run:
        assert len(run.done) == 1


def test_the_directory_is_free_again_after_an_exception(tmp_path):
    with pytest.raises(KeyError), Run(tmp_path, IDENTITY) as run:
        run.append(record(0))
        raise KeyError("died")
    with Run(tmp_path, IDENTITY) as run:
        assert run.done == {("jsd", 0, "q0")}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_json_does_not_know_is_refused_and_not_written(tmp_path, number):
    with Run(tmp_path, IDENTITY) as run:
        with pytest.raises(ValueError):
            run.append(record(0, jsd=number))
        run.append(record(1))
        with pytest.raises(ValueError):
            run.write_summary({"jsd": number})
    assert [one["id"] for one in read_records(tmp_path)] == ["q1"]
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "\xff"])
def test_an_unreadable_configuration_is_one_sentence(tmp_path, text):
    filled(tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json"), Run(tmp_path, IDENTITY):
        pass
    assert len(list(read_records(tmp_path))) == 3


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        Run(tmp_path / "file" / "run", IDENTITY)


def as_nobody(folder: Path) -> str:
    """What a user without rights is told who runs in a directory: said in a process of its own."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            if not os.geteuid():
                os.setuid(65534)
            with Run(folder, IDENTITY):
                said = "it can be written to"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as told:
        return told.read()


@pytest.mark.parametrize("begun", [False, True])
def test_a_directory_that_may_only_be_read_is_one_sentence_and_stays_as_it_is(begun):
    with tempfile.TemporaryDirectory(dir="/tmp") as made:  # which every user may enter
        folder = Path(made)
        if begun:
            filled(folder)
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        folder.chmod(0o777)
        assert begun or as_nobody(folder / "made") == "it can be written to"
        shutil.rmtree(folder / "made", ignore_errors=True)
        folder.chmod(0o555)
        assert as_nobody(folder) == f"UserError: --out {folder}: cannot be written to (Permission denied)"
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
        folder.chmod(0o755)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from interp.errors import UserError
from interp.run.runs import Run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
try:
    with Run(folder, {"n": 1}) as run:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
        for number in range(1000):
            run.append({"measure": "jsd", "set": 0, "id": f"q{number}", "text": "x" * 100})
except UserError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, before)  # what measures coverage writes a file at the end
"""


def test_a_full_disk_is_one_sentence_and_keeps_every_whole_record(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.returncode == 0
    assert done.stdout.count("\n") == 1 and "kept" in done.stdout and str(tmp_path) in done.stdout
    kept = list(read_records(tmp_path))
    assert len(kept) > 20 and [one["id"] for one in kept] == [f"q{number}" for number in range(len(kept))]
    with Run(tmp_path, {"n": 1}) as run:  # there is room again: the run goes on, without a torn line in its middle
        run.append(record(999))
    assert [one["id"] for one in read_records(tmp_path)] == [*(one["id"] for one in kept), "q999"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_summary_that_does_not_fit_is_one_sentence_and_the_old_one_stays(tmp_path):
    with Run(tmp_path, IDENTITY) as run:
        run.write_summary({"jsd": 1})
        (tmp_path / "summary.tmp").symlink_to("/dev/full")
        with pytest.raises(UserError, match="No space left"):
            run.write_summary({"jsd": 2})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"jsd": 1}


# Reading


def test_a_finished_run_is_read_whole(tmp_path):
    with Run(tmp_path, IDENTITY) as run:
        run.append(record(0))
        run.write_summary({"jsd": {"median": 0.5}})
    config, summary, records = read_run(tmp_path)
    assert (config["identity"], summary, records) == (IDENTITY, {"jsd": {"median": 0.5}}, [record(0)])
    assert config["made_with"]["versions"]["numpy"] and config["made_with"]["python"]


def test_what_is_no_finished_run_says_what_it_lacks(tmp_path):
    with pytest.raises(UserError, match=r"no readable config\.json"):
        read_run(tmp_path)
    filled(tmp_path)
    with pytest.raises(UserError, match=r"no readable summary\.json"):
        read_run(tmp_path)


def test_other_versions_and_hardware_do_not_forbid_continuing(tmp_path):
    filled(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["made_with"] = {"python": "2.7"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with Run(tmp_path, IDENTITY) as run:
        assert len(run.done) == 3


def test_keys_with_dots_become_levels():
    flat = {"jsd.median": 1, "jsd.direction.mean": 2, "format": "x"}
    assert nested(flat) == {"jsd": {"median": 1, "direction": {"mean": 2}}, "format": "x"}


@given(st.lists(st.integers()), st.integers(1, 7))
def test_chunks_put_together_are_the_items(items, size):
    parts = list(chunks(items, size))
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])
    assert all(0 < len(part) <= size for part in parts)


def test_a_machine_without_git_and_an_installed_package_have_no_commit(tmp_path, monkeypatch):
    from interp.run import runs

    assert runs._commit(tmp_path) is None

    def missing(*_, **__):
        raise FileNotFoundError("git")

    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(runs.subprocess, "run", missing)
    assert runs._commit(tmp_path) is None and runs.surroundings()["commit"] is None


def test_a_run_of_version_0_1_goes_on_under_the_names_of_now(tmp_path):
    before = {"ckpt": "a", "wrong": 4, "turned": 3, "reply_tokens": 64, "seed": 0}
    (tmp_path / "config.json").write_text(json.dumps({"identity": before, "made_with": {}}))
    now = {"n_wrong": 4, "greedy_wrong": 3, "shot_sets": 1, "wordings": 1, "seed": 0}
    with Run(tmp_path, now, kind="triplets"):
        pass
    with pytest.raises(UserError, match=r"greedy_wrong: 3 there, 4 now"):
        Run(tmp_path, now | {"greedy_wrong": 4}, kind="triplets").__enter__()
    for then, today in (({"wrong": "foil"}, {"wrong": "distractor"}), ({"cases": "runs/x"}, {"cases": "ab12"})):
        (tmp_path / "config.json").write_text(json.dumps({"identity": then, "made_with": {}}))
        with Run(tmp_path, today):
            pass
