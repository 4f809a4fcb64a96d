"""Running the steps of an experiment: one after the other, or several side by side in processes of their own.

A step that was cut off goes on with the same command. This module knows steps by their names and needs alone."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from interp.errors import UserError
from training.experiment import Experiment, Step

LOOKED = 0.5
"""Seconds between two looks at the processes."""
LOGS = "logs"
"""Where in the experiment's directory each step's output goes where several run side by side."""


def run_in_order(steps: Iterable[Step]) -> None:
    """Runs every step, and prints how long each took."""
    for step in steps:
        began = time.perf_counter()
        step.body()
        _ended(step.name, began)


def run_side_by_side(steps: Sequence[Step], options: Experiment) -> None:
    """Runs steps as soon as those that they need are finished, `options.workers` of them at a time.

    Args:
        steps: All steps.
        options: The experiment's options, with which every process is started.

    Raises:
        UserError: where a step fails; those that run beside it are stopped, and go on with the next call.
    """
    logs = options.out / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    waiting, finished = list(steps), set[str]()
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    try:
        while waiting or running:
            ready = [step for step in waiting if finished.issuperset(step.needs)]
            for step in ready[: options.workers - len(running)]:
                waiting.remove(step)
                print(f"step: {step.name}, begun; its output goes to {logs / step.name}.log", flush=True)
                running[step.name] = _started(step.name, options, logs), time.perf_counter()
            time.sleep(LOOKED)
            for name, (process, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                if process.returncode:
                    raise UserError(f"step {name}: {_last_line(logs / f'{name}.log')}; see {logs / name}.log")
                _ended(name, began)
                finished.add(name)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()


def _ended(name: str, began: float) -> None:
    print(f"step: {name}, {time.perf_counter() - began:.0f} s", flush=True)


def _started(name: str, options: Experiment, logs: Path) -> "subprocess.Popen[bytes]":
    """A process that runs this step alone. Its threads are its share of the cores: more would fight over them."""
    threads = str(max(1, (os.cpu_count() or 1) // options.workers))
    command = [sys.executable, "-m", "training", *arguments_of(options), "--only", name]
    with (logs / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": threads})


def arguments_of(options: Experiment) -> list[str]:
    """The options as they stand on the command line, but for those that say how steps are run."""
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    kept = {name: value for name, value in given.items() if value is not None and name not in ("workers", "only")}
    return [text for name, value in kept.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def _last_line(log: Path) -> str:
    """The last line that a step has written: the sentence in which it says what is wrong."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it wrote nothing"
