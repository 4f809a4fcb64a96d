"""Where memory runs out the batches are halved, the run goes on, and the numbers are the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import close, keys

from interp.errors import UserError, ran_out_of_memory
from interp.models import check
from interp.models.prefix import SharedPrefix
from interp.options import composed
from interp.pipelines.diagnose import diagnosed
from interp.pipelines.diagnosis import Diagnose
from interp.run.runs import read_records, read_run

FOUR = ("jsd", "rollout", "masking", "attribution")
SMALL = {"n": 5, "candidates": 2, "tries": 32, "n_attribution": 2, "device": "cpu"}
MESSAGES = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:132] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8"
    ),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"),
    MemoryError(),
)


@pytest.fixture(scope="module")
def options(taught_checkpoint, own_data):
    def made(out: Path, **more) -> Diagnose:
        return composed(
            Diagnose, ckpt=str(taught_checkpoint), data=str(own_data / "open.jsonl"), out=out, **(SMALL | more)
        )

    return made


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory) -> Path:
    return diagnosed(options(tmp_path_factory.mktemp("whole") / "run"), FOUR, "diagnose")


def only(rows_times_width: int, error: Exception, monkeypatch) -> list[int]:
    """Lets the engine read no larger batch; the list fills with the sizes that were refused."""
    refused, read = [], SharedPrefix._forward

    def within(self, length, trees, reads, embeds=None):
        size = sum(len(tree.tokens) for tree in trees)
        if length and size > rows_times_width:
            refused.append(size)
            raise error
        return read(self, length, trees, reads, embeds)

    monkeypatch.setattr(SharedPrefix, "_forward", within)
    return refused


@pytest.mark.slow
@pytest.mark.parametrize("error", MESSAGES, ids=lambda error: type(error).__name__)
def test_a_run_whose_memory_runs_out_goes_on_in_smaller_batches_to_the_same_numbers(
    options, whole, tmp_path, monkeypatch, capsys, error
):
    refused = only(700, error, monkeypatch)
    folder = diagnosed(options(tmp_path / "run", n_attribution=1), ("jsd", "masking"), "diagnose")
    assert refused, "else nothing was tried"
    assert "memory ran out: batches of 1024 tokens from here on" in capsys.readouterr().err
    of_both = ("jsd", "masking")
    assert [key for key in keys(folder) if key[0] in of_both] == [key for key in keys(whole) if key[0] in of_both]
    found, wanted = (read_run(one)[1] for one in (folder, whole))
    assert all(close(found[name], wanted[name]) for name in of_both)


@pytest.mark.slow
def test_another_error_is_not_taken_for_a_lack_of_memory(options, tmp_path, monkeypatch):
    only(500, RuntimeError("mat1 and mat2 shapes cannot be multiplied"), monkeypatch)
    monkeypatch.setattr(check, "REACH", 64)
    with pytest.raises(RuntimeError, match="shapes"):
        diagnosed(options(tmp_path / "run"), ("jsd",), "diagnose")
    assert not ran_out_of_memory(ValueError("no")) and all(map(ran_out_of_memory, MESSAGES))


@pytest.mark.slow
def test_a_question_that_does_not_fit_alone_is_one_sentence_and_what_was_measured_is_kept(
    options, tmp_path, monkeypatch
):
    only(200, MESSAGES[0], monkeypatch)  # what the check at the start needs
    with pytest.raises(UserError, match=r"question '.*' alone does not fit into memory"):
        diagnosed(options(tmp_path / "run"), ("jsd",), "diagnose")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["identity"]["n"] == 5


LIMITED = """
import json, resource, sys
from pathlib import Path
import torch
from transformers import LlamaForCausalLM
from interp.options import composed
from interp.pipelines.diagnose import diagnosed
from interp.pipelines.diagnosis import Diagnose

forward, limited = LlamaForCausalLM.forward, []

def hungry(self, input_ids=None, inputs_embeds=None, **rest):
    fed = input_ids if inputs_embeds is None else inputs_embeds
    torch.ones(fed.shape[0] * fed.shape[1] * 100_000)  # 0.4 MB for each token of the batch
    if not limited and fed.shape[0] * fed.shape[1] > 1:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 400_000_000,) * 2)
        limited.append(True)
    return forward(self, input_ids=input_ids, inputs_embeds=inputs_embeds, **rest)

LlamaForCausalLM.forward = hungry
given = json.loads(sys.argv[1])
diagnosed(composed(Diagnose, **given | {"out": Path(given["out"])}), ("jsd", "masking"), "diagnose")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the size of the process from /proc")
def test_under_a_limit_of_the_system_the_same_command_ends_with_the_same_numbers(options, whole, tmp_path):
    given = {
        "ckpt": options(tmp_path).ckpt,
        "data": options(tmp_path).asked.data,
        "out": str(tmp_path / "run"),
        **SMALL,
    }
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, json.dumps(given)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "memory ran out: batches of" in done.stderr
    found, wanted = (read_run(one)[1] for one in (tmp_path / "run", whole))
    assert all(close(found[name], wanted[name]) for name in ("jsd", "masking"))
    assert len(list(read_records(tmp_path / "run"))) == len({*keys(tmp_path / "run")})
