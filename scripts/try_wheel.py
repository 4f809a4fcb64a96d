"""Build the wheel, look at what it holds, install it into an empty environment and run it there.

    python scripts/try_wheel.py

The environment is new, holds no checkout, and its commands run in a directory of its own."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "interp/data/facts.jsonl",
    "interp/data/FACTS.md",
    "interp/data/NOTICES.md",
    "interp/data/advice/adapter_config.json",
    "interp/data/advice/adapter_model.safetensors",
    "interp/data/advice/README.md",
    "figures/page/report.html.j2",
    "figures/page/report.css",
    "figures/page/report.js",
    "licenses/LICENSE",
)
"""The ends of names that a wheel must hold."""
ROOMS = ("interp", "training", "figures", "benchmarks")


def faults(names: Sequence[str]) -> list[str]:
    """What is wrong with a wheel that holds these names; nothing where it is as it should be."""
    missing = [f"it lacks {name}" for name in NEEDED if not any(one.endswith(name) for one in names)]
    known = [one for one in names if one.split("/")[0] in ROOMS or one.split("/")[0].endswith(".dist-info")]
    strange = [f"it holds {name}" for name in names if name not in known or "test" in Path(name).stem.split("_")]
    return missing + strange


def ran(*command: str | Path, folder: Path) -> str:
    """What the command says on its output, in an environment that names no checkout. Errors: CalledProcessError."""
    away = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(command, cwd=folder, env=away, stdout=subprocess.PIPE, text=True, check=True).stdout


def built(folder: Path) -> Path:
    """The wheel of this tree. Errors: SystemExit with what the build warned of."""
    tree = folder / "tree"  # a copy: in place setuptools would take up what an earlier build left in build/lib
    for room in ROOMS:
        shutil.copytree(ROOT / room, tree / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    command = (
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-v",
        "--disable-pip-version-check",
        "--no-deps",
        "-w",
        folder,
        tree,
    )
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise SystemExit(done.stdout)
    said = [
        line.strip() for line in done.stdout.splitlines() if "Warning:" in line or "warning:" in line
    ]  # not pip's own
    if warned := [line for line in said if "byte-compiling is disabled" not in line]:
        raise SystemExit("\n".join(warned))
    return wheels[0]


def installed(wheel: Path, folder: Path) -> Path:
    """The interpreter of a new environment that holds the wheel and what it depends on, torch at the pinned version."""
    ran(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    python = folder / "venv" / "bin" / "python"
    for what in ("torch", wheel):
        pins = ("-c", ROOT / "constraints.txt")
        ran(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *pins, what, folder=folder)
    ran(python, "-m", "pip", "check", folder=folder)
    return python


def tried(python: Path, folder: Path) -> None:
    """Runs commands there. Errors: CalledProcessError, or SystemExit where what they leave is not what it should be."""
    where = Path(ran(python, "-c", "import interp; print(interp.__file__)", folder=folder).strip())
    if folder not in where.parents:
        raise SystemExit(f"interp comes from {where}, not from the new environment")
    if "--ckpt" not in ran(python, "-m", "interp.rollout", "--help", folder=folder):
        raise SystemExit("interp.rollout --help does not name --ckpt")
    asked = [
        {"question": f"What is {n} plus 1?", "answers": [str(n + 1)], "response": str(n + n % 3), "confidence": 0.5}
        for n in range(12)
    ]
    (folder / "given.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked), encoding="utf-8")
    options = ("--data", "given.jsonl", "--methods", "given", "--out", "out")
    said = ran(python, "-m", "interp.evaluate", *options, folder=folder)
    ran(
        python, "-c", "from interp.datasets.questions import loaded_questions; loaded_questions('facts')", folder=folder
    )
    if not (folder / "out" / "table.csv").is_file() or "33.3" not in said:  # four of twelve are right
        raise SystemExit(f"interp.evaluate left no table, or a wrong one:\n{said}")


def main() -> None:
    """Builds, looks, installs, runs; ends at the first fault."""
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room).resolve()
        wheel = built(folder)
        with ZipFile(wheel) as archive:
            if wrong := faults(archive.namelist()):
                raise SystemExit(f"{wheel.name}: {'; '.join(wrong)}")
        tried(installed(wheel, folder), folder)
        print(f"{wheel.name} holds what it should and runs without this tree")


if __name__ == "__main__":
    main()
