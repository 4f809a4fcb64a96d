"""Steps side by side: none before those that it needs, no more at a time than wanted, and one that fails is named."""

import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from interp.errors import UserError
from training import schedule
from training.experiment import FILES, Experiment, Step
from training.schedule import arguments_of, run_in_order, run_side_by_side

WAITS = "import time, sys; print('begun', time.time(), flush=True); time.sleep(0.3); print('ended', time.time())"
FAILS = "print('error: the disk is full'); raise SystemExit(2)"


@pytest.fixture
def asked(tmp_path):
    for name in FILES:
        (tmp_path / name).write_text("")
    return Experiment(data=tmp_path, out=tmp_path / "runs", workers=2, seeds=2, updates=7)


@pytest.fixture
def programs(monkeypatch):
    """What each step's process runs, by the step's name."""
    programs: dict[str, str] = {}
    monkeypatch.setattr(schedule, "LOOKED", 0.01)

    def started(name: str, options: Experiment, logs: Path) -> "subprocess.Popen[bytes]":
        with (logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-c", programs.get(name, WAITS)], stdout=log, stderr=log)

    monkeypatch.setattr(schedule, "_started", started)
    return programs


def steps_of(**needs: tuple[str, ...]) -> list[Step]:
    return [Step(name, lambda: None, after) for name, after in needs.items()]


def times(asked: Experiment, name: str) -> tuple[float, float]:
    lines = (asked.out / "logs" / f"{name}.log").read_text().splitlines()
    begun, ended = (float(line.split()[1]) for line in lines)
    return begun, ended


def test_no_step_begins_before_those_that_it_needs_and_two_run_at_a_time(asked, programs, capsys):
    run_side_by_side(steps_of(a=(), b=("a",), c=("a",), d=("a",), e=("b", "c")), asked)
    at = {name: times(asked, name) for name in "abcde"}
    for name, needs in {"b": "a", "c": "a", "d": "a", "e": "bc"}.items():
        assert all(at[need][1] <= at[name][0] for need in needs)
    together = [sum(begun <= moment < ended for begun, ended in at.values()) for moment, _ in at.values()]
    assert max(together) == 2
    said = capsys.readouterr().out
    assert "step: a, begun; its output goes to" in said and said.count(" s\n") == 5


def test_a_step_that_fails_ends_all_with_its_own_sentence(asked, programs):
    programs["b"], programs["c"] = FAILS, "import time; time.sleep(60)"
    with pytest.raises(UserError, match=r"step b: error: the disk is full; see .*b\.log"):
        run_side_by_side(steps_of(a=(), b=("a",), c=("a",), d=("b",)), asked)
    assert not (asked.out / "logs" / "d.log").exists()


def test_a_process_is_asked_for_what_the_experiment_was(asked):
    arguments = arguments_of(asked)
    assert "--workers" not in arguments and "--only" not in arguments and "--triplets" not in arguments
    again = tyro.cli(Experiment, args=[*arguments, "--workers", "2"], config=(tyro.conf.OmitArgPrefixes,))
    assert again == asked


def test_a_step_alone_is_run_by_a_process_of_its_own_with_its_share_of_the_cores(asked, monkeypatch):
    seen: dict[str, object] = {}
    monkeypatch.setattr(schedule.os, "cpu_count", lambda: 8)
    kept = subprocess.Popen

    def popen(command, **more):
        seen.update(command=command, **more)
        return kept([sys.executable, "-c", ""])

    monkeypatch.setattr(schedule.subprocess, "Popen", popen)
    asked.out.mkdir()
    assert schedule._started("advice-0", asked, asked.out).wait() == 0
    assert seen["command"][-2:] == ["--only", "advice-0"] and seen["command"][1:3] == ["-m", "training"]
    assert seen["env"]["OMP_NUM_THREADS"] == "4"


def test_in_order_every_step_is_run_here(capsys):
    done: list[str] = []
    run_in_order([Step("a", lambda: done.append("a")), Step("b", lambda: done.append("b"), ("a",))])
    assert done == ["a", "b"] and "step: b, 0 s" in capsys.readouterr().out
