"""The house itself: its citation, its licences, its pages, what a wheel must hold, and which functions tests enter."""

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
import yaml
from reached import ROOMS, unreached

from interp.version import VERSION

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DATA = ROOT / "interp" / "data"
LICENCES = {"MIT": ("MIT",), "BSD-3-Clause": ("BSD", "Redistribution and use in source and binary forms")}
"""Words of which a package's metadata or licence file holds one, by the licence that they tell of."""


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def sources() -> dict[str, tuple[str, str]]:
    """(version, licence) of each package in the table of FACTS.md."""
    rows = re.findall(
        r"^\| (\w+) \| (\d+\.\d+\.\d+) \| ([\w-]+)", (DATA / "FACTS.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    return {name: (version, licence) for name, version, licence in rows}


def test_the_citation_names_the_version_and_the_licence_of_the_package_and_the_paper():
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert said["cff-version"] == "1.2.0" and said["message"] and said["authors"]
    assert (said["title"], said["version"], said["license"]) == (
        PROJECT["name"],
        VERSION,
        PROJECT["license"],
    )
    paper = said["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Seo", "Lim", "Kim"]
    assert paper["title"] and paper["type"] and "2510.10913" in str(paper["identifiers"])


def test_every_floor_is_the_oldest_version_that_was_tried():
    """One version of each is tried: that of constraints.txt. An older one may run and give other numbers, as Gemma-2
    did under versions of transformers whose kernel left its soft-capping out."""
    pins = dict(
        re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    )
    tried = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    asked = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
    floors = dict(found.groups() for one in asked if (found := re.fullmatch(r"([\w.-]+)>=([\w.]+)", one)))
    assert len(floors) > 20 and floors == {name: tried[name.lower().replace("_", "-")] for name in floors}


def test_the_facts_name_every_package_that_they_are_built_from_at_its_version():
    pinned = dict(pin.split("==") for pin in PROJECT["optional-dependencies"]["facts"])
    assert {name: version for name, (version, _) in sources().items()} == pinned


@pytest.mark.parametrize("package", sorted(sources()))
def test_a_package_of_the_facts_is_under_the_licence_that_is_named(package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; it comes with the extra `facts`")
    told = importlib.metadata.metadata(package)
    fields = [*told.get_all("License-Expression", ()), *told.get_all("License", ()), *told.get_all("Classifier", ())]
    texts = [file for file in importlib.metadata.files(package) if file.name == "LICENSE"]
    said = "\n".join(fields) + "\n".join(file.read_text(encoding="utf-8") for file in texts)
    told_of = {name for name, words in LICENCES.items() if any(re.search(rf"\b{word}\b", said) for word in words)}
    assert told_of == {sources()[package][1]}  # "LIMITED" holds MIT, hence the bounds of words


def test_the_notices_of_the_facts_sources_are_there():
    said = (DATA / "NOTICES.md").read_text(encoding="utf-8")
    for package in set(sources()) - {"babel"}:
        assert re.search(rf"\b{package}\b", said)
    for words in (
        "Copyright © 2004-2025 Unicode, Inc.",
        "Copyright (c) 2014, Sunlight Labs",
        "Permission is hereby granted",
    ):
        assert words in said


def docstrings() -> list[tuple[str, str]]:
    found = []
    for path in sorted(path for room in ROOMS for path in (ROOT / room).glob("**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node.value.value))
    return found


@pytest.mark.slow
def test_no_docstring_holds_what_a_page_would_take_for_a_tag():
    tag = re.compile(r"<[A-Za-z/][^>\n]*>")
    assert tag.search("results/<command>") and len(docstrings()) > 500
    assert [where for where, text in docstrings() if tag.search(re.sub(r"`[^`]*`", "", text))] == []


def test_a_warning_is_an_error_here_and_in_the_commands_that_tests_start():
    with pytest.raises(UserWarning, match="ours"):
        warnings.warn("ours", stacklevel=1)
    warned = [sys.executable, "-c", "import warnings; warnings.warn('ours')"]
    done = subprocess.run(warned, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.endswith("UserWarning: ours\n")


WHEEL = [
    "interp/__init__.py",
    "interp/data/facts.jsonl",
    "interp/data/FACTS.md",
    "interp/data/NOTICES.md",
    "interp/data/advice/adapter_config.json",
    "interp/data/advice/adapter_model.safetensors",
    "interp/data/advice/README.md",
    "figures/style.py",
    "figures/page/report.html.j2",
    "figures/page/report.css",
    "figures/page/report.js",
    "advice_calibration-0.2.0.dist-info/licenses/LICENSE",
]


@pytest.mark.parametrize(
    ("more", "less", "said"),
    (
        ((), (), []),
        ((), ("interp/data/facts.jsonl",), ["it lacks interp/data/facts.jsonl"]),
        (("tests/conftest.py",), (), ["it holds tests/conftest.py"]),
        (("interp/test_style.py",), (), ["it holds interp/test_style.py"]),
    ),
)
def test_a_wheel_holds_its_data_and_no_tests(more, less, said):
    assert script("try_wheel").faults([name for name in (*WHEEL, *more) if name not in less]) == said


TOY = '''"""A module."""
from typing import TYPE_CHECKING, Protocol
if TYPE_CHECKING:
    def seen_by_checkers_only(): return 1
class Named(Protocol):
    def asked(self) -> int:
        raise NotImplementedError
class Thing:
    def entered(self):
        """Words."""
        if self:
            return 1
        return 2
    @property
    def left(self):
        """Words."""
        return (
            3
        )
    def _private(self):
        return 4
    def empty(self):
        """Words alone."""
def alone():
    return 5
class _Hidden:
    def method(self):
        return 6
'''


def line(text: str) -> int:
    return next(number for number, said in enumerate(TOY.splitlines(), 1) if text in said)


def test_a_public_function_is_reached_where_one_line_of_its_body_was_executed():
    assert unreached(TOY, {line("if self")}) == [(line("def left"), "Thing.left"), (line("def alone"), "alone")]
    assert unreached(TOY, {line("return 2"), line("            3"), line("return 5")}) == []


def test_a_functions_own_line_and_its_docstring_do_not_count():
    imported = {number for number, said in enumerate(TOY.splitlines(), 1) if "def " in said or '"""' in said}
    assert [name for _, name in unreached(TOY, imported)] == ["Thing.entered", "Thing.left", "alone"]


def imported(path: Path) -> set[str]:
    """The rooms of ours, and torch, that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
    return found & {"interp", "training", "figures", "torch", "transformers", "peft"}


@pytest.mark.parametrize(
    ("room", "unseen"),
    [("interp", {"training"}), ("figures", {"training", "torch", "transformers", "peft"}), ("training", set())],
)
def test_imports_run_one_way(room, unseen):
    seen = {path: imported(path) for path in (ROOT / room).rglob("*.py")}
    assert not {str(path): found & unseen for path, found in seen.items() if found & unseen}
    assert set.union(*seen.values()) >= {"interp"}, "what is looked for is found where it is"
