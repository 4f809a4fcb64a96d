"""Killed at any moment, by any number of kills, a run ends as if it had not been; `make soak` kills it fifty times."""

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import close, keys
from safetensors.torch import load_file

from interp.options import composed
from interp.pipelines.diagnose import diagnosed
from interp.pipelines.diagnosis import Diagnose
from interp.pipelines.evaluate import evaluated
from interp.pipelines.evaluation import Evaluate
from interp.run.runs import read_run
from training import advice

KILLS, SEED = int(os.environ.get("SOAK_KILLS", "3")), int(os.environ.get("SOAK_SEED", "0"))
FOUR = ("jsd", "rollout", "masking", "attribution")
SECONDS = 240
"""No undisturbed run takes so long."""


def _diagnosed(out: Path, given: dict) -> None:
    diagnosed(composed(Diagnose, out=out, n=6, candidates=2, tries=32, n_attribution=2, **given), FOUR, "diagnose")


def _evaluated(out: Path, given: dict) -> None:
    methods = ("default", "self-consistency", "question-only")
    evaluated(composed(Evaluate, out=out, ckpt=(given["ckpt"],), data=(given["data"],), device="cpu", methods=methods))


def _trained(out: Path, given: dict) -> None:
    short = {
        "lr": 1e-2,
        "batch": 5,
        "accumulation": 2,
        "epochs": 4,
        "held_out": 2,
        "every": 2,
        "shots": 0,
        "diagnose": 0,
    }
    advice.trained(
        composed(advice.Advice, out=out, ckpt=given["ckpt"], triplets=given["triplets"], device="cpu", **short)
    )


def _in_a_process(work: Callable[[Path, dict], None], out: Path, given: dict) -> None:
    """What the process does; its words go nowhere, its exit code tells."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(out.with_suffix(".errors"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    torch.set_num_threads(1)
    work(out, given)


class Process:
    """A command in a process of its own, which starts from one that has everything imported."""

    context = multiprocessing.get_context("forkserver")
    rooms = ("interp.pipelines.diagnose", "interp.pipelines.evaluate", "training.session", "training.loop")
    context.set_forkserver_preload([*rooms])

    def __init__(self, work: Callable[[Path, dict], None], out: Path, given: dict) -> None:
        self.errors = out.with_suffix(".errors")
        self.process = self.context.Process(target=_in_a_process, args=(work, out, given))
        self.process.start()

    def ended(self, within: float) -> bool:
        """It came to its end by itself, well; False where it was killed."""
        self.process.join(within)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            return False
        assert self.process.exitcode == 0, self.errors.read_text()[-3000:]
        return True


def same(found: Path, wanted: Path) -> None:
    """Every record is there, once; the numbers and, after a training, the adapter are the same."""
    assert keys(found) == keys(wanted) and len({*keys(found)}) == len(keys(found))
    assert close(read_run(found)[1], read_run(wanted)[1])
    if (wanted / "adapter_model.safetensors").exists():
        one, other = (load_file(folder / "adapter_model.safetensors") for folder in (found, wanted))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("work", [_diagnosed, _evaluated, _trained], ids=["diagnose", "evaluate", "advice"])
def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(
    work, taught_checkpoint, own_data, triplet_file, tmp_path
):
    given = {"ckpt": str(taught_checkpoint), "data": str(own_data / "open.jsonl"), "device": "cpu"}
    given |= {"triplets": triplet_file} if work is _trained else {}
    assert Process(work, tmp_path / "first", given).ended(SECONDS)  # the imports of the first are not a run's time
    began = time.monotonic()
    assert Process(work, tmp_path / "whole", given).ended(SECONDS)
    took = time.monotonic() - began
    chance, kills, runs = random.Random(SEED), 0, 0
    while kills < KILLS:
        out = tmp_path / f"killed-{runs}"
        while not Process(work, out, given).ended(chance.uniform(0, took) if kills < KILLS else SECONDS):
            kills += 1
            assert len({*keys(out)}) == len(keys(out))
        same(out, tmp_path / "whole")
        runs += 1
    assert kills == KILLS
