"""Every command that is documented is one: its options are read by the parser that would read them, and those that are
quick are run, word for word, in a directory that holds what they name."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from interp.options import composed
from interp.pipelines.diagnose import diagnosed
from interp.pipelines.diagnosis import Diagnose
from interp.run.runs import read_run

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "interp/data/*.md", "interp/data/advice/*.md")
"""Where commands are documented: lines of code blocks and spans of code."""
COMMAND = re.compile(r"(python -m|accelerate launch|torchrun|make [a-z]+|pip install)\b")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}


def code_of(page: str) -> Iterator[str]:
    """Each line of the code blocks of a page, and each span of code, on one line."""
    prose = []
    for number, part in enumerate(re.split(r"^```\w*$", page, flags=re.MULTILINE)):
        if number % 2:
            yield from part.splitlines()
        else:
            prose.append(re.sub(r"^    (.*)$", lambda line: f"`{line[1]}`", part, flags=re.MULTILINE))
    for span in re.findall(r"`([^`]+)`", "\n".join(prose)):
        yield " ".join(span.split())


def documented() -> list[str]:
    """Every command in the pages, without its comment and without the dots that stand for further options."""
    found = {}
    for path in sorted(path for page in PAGES for path in ROOT.glob(page)):
        for line in code_of(path.read_text(encoding="utf-8")):
            command = " ".join(line.partition("#")[0].removesuffix("...").split())
            if COMMAND.match(command) and command not in ("accelerate launch", "torchrun"):
                found[command] = None
    return list(found)


ALL = documented()


def of_kind(start: str) -> list[str]:
    return [command for command in ALL if command.startswith(start)]


def test_commands_are_found_in_blocks_in_indented_lines_and_in_spans():
    page = "`make a` and\n\n    make b  # why\n\n```\npython -m c --d   # e\n```\nsome `python -m f\n  ...` and `g`"
    assert [*code_of(page)] == ["", "python -m c --d   # e", "make a", "make b # why", "python -m f ...", "g"]
    assert len(of_kind("python -m interp.diagnose")) >= 4 and len(of_kind("make ")) >= 8 and len(of_kind("acc")) >= 2


class OptionsRead(Exception):  # noqa: N818
    """Options were read: nothing shall be done with them."""


def read_options(module: str, arguments: list[str], monkeypatch) -> object:
    """What the module's own command makes of these arguments; its body is not run."""
    found, real = [], tyro.cli

    def read(*given, **more):
        found.append(real(*given, **more))
        raise OptionsRead

    if module == "benchmarks":  # which reads its options itself
        from benchmarks.__main__ import Benchmarks

        return tyro.cli(Benchmarks, args=arguments)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.setattr(tyro, "cli", read)
    with warnings.catch_warnings(), pytest.raises(OptionsRead):
        warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    return found[0]


def desk(folder: Path) -> Path:
    """A directory in which the files that options must find exist."""
    from training.experiment import FILES

    (folder / "directory").mkdir()
    for name in FILES:
        (folder / "directory" / name).touch()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", [*of_kind("python -m"), *of_kind("accelerate"), *of_kind("torchrun")])
def test_a_documented_command_is_read_by_the_parser_of_its_module(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(desk(tmp_path))
    words = shlex.split(command)
    if words[0] != "python":
        parser = launch_command_parser() if words[0] == "accelerate" else get_args_parser()
        given = parser.parse_args([word for word in words[1:] if word != "launch"])
        assert given.module, "what is launched is a module"
        words = ["python", "-m", given.training_script, *given.training_script_args]
    module, *arguments = words[2:]
    if module in ("training.advice", "training.conftuner", "training.ablation") and not arguments:
        return  # named, not given: its triplets are the user's
    if module == "training" and not arguments:
        arguments = ["--data", "directory"]
    if module in ("figures", "interp.power", "training.examine") and not arguments:
        arguments = ["run"]
    try:
        read_options(module, arguments, monkeypatch)
    except SystemExit as end:
        raise AssertionError(f"{command}: {capsys.readouterr()}") from end


@pytest.mark.parametrize("command", of_kind("make "))
def test_a_documented_target_of_make_exists_and_the_commands_that_it_runs_are_read(command, tmp_path, monkeypatch):
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    given = ["DATA=directory"] if command == "make advice" else []  # which is named there, not given
    done = subprocess.run(
        [*shlex.split(command), *given, "--dry-run", "--always-make"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(desk(tmp_path))
    for module, arguments in re.findall(r"-m ((?:interp|training|figures|benchmarks)[\w.]*)([^\n]*)", done.stdout):
        read_options(module, shlex.split(arguments), monkeypatch)


@pytest.mark.parametrize("command", of_kind("pip install"))
def test_a_documented_installation_names_extras_that_there_are(command):
    extras = {name for extra in re.findall(r"\[([\w,]+)\]", command) for name in extra.split(",")}
    assert extras <= set(PROJECT["optional-dependencies"])
    for given in shlex.split(command)[2:]:
        path, _, _ = given.partition("[")
        assert given.startswith("-") or path in (".", PROJECT["name"]) or (ROOT / path).exists()


# Run as documented


def ran(command: str, folder: Path) -> subprocess.CompletedProcess:
    """The command in that directory, by this Python."""
    start = {"python": [sys.executable], "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"]}
    start["torchrun"] = [sys.executable, "-m", "torch.distributed.run"]
    first, *words = shlex.split(command)
    done = subprocess.run(
        [*start[first], *words],
        env=os.environ | HIDDEN | {"PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def only(start: str, *parts: str) -> str:
    """The one documented command that begins so and holds these parts."""
    (found,) = [command for command in of_kind(start) if all(part in command for part in parts)]
    return found


@pytest.mark.slow
def test_a_prompt_is_shown_as_documented(tiny_adapter, tmp_path):
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "adapter").symlink_to(tiny_adapter("llama"))
    told = ran(only("python -m interp.prompts", "path/to/adapter"), tmp_path).stdout
    assert "[shots]" in told and "[question]" in told


@pytest.mark.slow
def test_given_answers_are_evaluated_and_a_run_is_redrawn_as_documented(taught_checkpoint, own_data, tmp_path):
    rows = [
        {"question": f"Question {number}?", "answers": ["yes"], "response": said, "confidence": sure}
        for number, (said, sure) in enumerate([("yes", 0.9), ("no", 0.4), ("yes", 0.7), ("no", 0.8)])
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran(only("python -m interp.evaluate", "answers.jsonl"), tmp_path)
    assert read_run(tmp_path / "results" / "evaluate")[1]["calibration"]
    given = {"ckpt": str(taught_checkpoint), "data": str(own_data / "open.jsonl"), "device": "cpu"}
    out = tmp_path / "results" / "diagnose"
    diagnosed(composed(Diagnose, n=3, candidates=0, out=out, **given), ("jsd",), "diagnose")
    told = ran(only("python -m figures", "results/diagnose"), tmp_path).stdout
    assert "same answer, surface-form variant" in told and list((out / "figures").glob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize("start", ["accelerate launch --multi_gpu", "torchrun"])
def test_several_processes_on_a_cpu_are_launched_as_documented(start, taught_checkpoint, own_data, tmp_path):
    """The model and the data are ours; the device is the default, as the command says nothing of it."""
    more = f"--ckpt {taught_checkpoint} --data {own_data / 'open.jsonl'} --n 4 --candidates 0"
    ran(f"{only(start)} {more}", tmp_path)
    (summary,) = (tmp_path / "results").glob("*/summary.json")
    assert read_run(summary.parent)[1]["jsd"]["noise_floor"]["n"] == 4


def test_every_link_in_the_pages_leads_to_a_file():
    links = [
        (path, link)
        for page in (*PAGES, "LOG.md")
        for path in ROOT.glob(page)
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    ]
    assert len(links) > 10 and [link for path, link in links if not (path.parent / link).exists()] == []


@pytest.mark.real_model
def test_the_readmes_lines_of_python_run_and_say_what_stands_beside_them(capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.M)
    names: dict[str, object] = {}
    exec(code.replace("n=48", "n=2").replace("n=100", "n=4"), names)
    contrast = names["contrast"]
    assert (f"{contrast.jsd:.2g}", f"{contrast.noise_floor:.2g}") == ("0.0016", "0.0015")
    assert len(names["result"].records("jsd")) == len(names["other"].records("jsd")) == 2
