"""Writes docs/options.md from the code: every group of options once, with the commands that are composed of it."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from interp.cli.power import Power
from interp.cli.prompts import ShowPrompts
from interp.pipelines.compare import Compare
from interp.pipelines.diagnosis import Diagnose
from interp.pipelines.evaluation import Evaluate
from training.ablation import Ablation
from training.advice import Advice
from training.conftuner import ConfTuner
from training.examine import Examine
from training.experiment import Experiment
from training.organisms import Organisms
from training.triplets import Triplets

PAGE = Path(__file__).resolve().parent.parent / "docs" / "options.md"
COMMANDS = {
    "interp.diagnose": Diagnose,
    "interp.evaluate": Evaluate,
    "interp.compare": Compare,
    "interp.power": Power,
    "interp.prompts": ShowPrompts,
    "training.triplets": Triplets,
    "training.advice": Advice,
    "training.conftuner": ConfTuner,
    "training.ablation": Ablation,
    "training.organisms": Organisms,
    "training.examine": Examine,
    "training": Experiment,
}
POSITIONAL = {(Compare, "before"), (Compare, "after"), (Power, "run"), (Examine, "folder")}
"""What is named without its option."""
HEAD = """\
# Options

`scripts/build_options.py` writes this page from the code. An option means the same in every command that has it;
`--help` shows those of one command. Every instrument (`python -m interp.jsd`, `rollout`, `masking`, `attribution`) has
the options of `interp.diagnose`.
"""


def documented(kind: type) -> dict[str, str]:
    """The string under each field of a dataclass, by the field's name."""
    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def groups_of(kind: type) -> Iterator[Any]:
    """The groups of options that a command is composed of, with their values by default; groups within groups too."""
    for field in fields(kind):
        value = field.default_factory() if field.default_factory is not MISSING else field.default
        if is_dataclass(value):
            if field.name != "of_instruments":  # it holds groups only, one for each instrument
                yield value
            yield from groups_of(type(value))


def shown(value: object) -> str:
    """A default as it is written on the command line."""
    if value in (None, (), MISSING):
        return "required" if value is MISSING else ""
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def rows(kind: type, values: object | None) -> Iterator[str]:
    """The rows of the options that a dataclass declares itself."""
    about = documented(kind)
    for field in fields(kind):
        value = getattr(values, field.name) if values is not None else field.default
        if field.default_factory is MISSING and field.name in about:
            name = f"--{field.name.replace('_', '-')}"
            name = field.name.upper() if (kind, field.name) in POSITIONAL else name
            yield f"| `{name}` | {shown(value)} | {about[field.name].replace('|', chr(92) + '|')} |"


def page() -> str:
    """The whole page."""
    commands: dict[type, list[str]] = {}
    for command, kind in COMMANDS.items():
        for values in groups_of(kind):
            if command not in commands.setdefault(type(values), []):
                commands[type(values)].append(command)
    lines = [HEAD]
    head = ["", "| option | by default | |", "| --- | --- | --- |"]
    for command, kind in COMMANDS.items():
        lines += [f"## `python -m {command}`", "", *inspect.getdoc(kind).splitlines(), *head, *rows(kind, None), ""]
    lines += ["## Groups", ""]
    for kind, named in commands.items():
        if own := list(rows(kind, kind())):
            title, taken_by = str(inspect.getdoc(kind)).removesuffix("."), ", ".join(f"`{name}`" for name in named)
            lines += [f"### {title}", "", f"In {taken_by}.", *head, *own, ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
