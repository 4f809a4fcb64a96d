"""How modules depend on each other: downwards only, without a circle.

Imports inside functions and imports for type checkers count as well."""

import ast
import importlib.util
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("interp", "figures", "training")
BOTTOM = (
    *("errors", "plain", "version", "registry", "records", "measures"),
    *("formats", "intervals", "calibration", "divergence", "probes"),
)
DRAWINGS = (
    *("style", "captions", "grid", "forest", "dryrun"),
    *("jsd", "likelihood", "rollout", "masking", "attribution", "flow", "probe", "steering", "tokens", "contrast"),
)
"""They take arrays and estimates and lie below the instruments, which import them to draw."""
LAYERS = (
    tuple(f"interp.{name}" for name in BOTTOM),
    ("interp.datasets", "interp.run"),
    ("interp.models",),
    tuple(f"figures.{name}" for name in DRAWINGS),
    ("interp.instruments", "interp.answers", "interp.methods", "interp.options"),
    ("interp.pipelines",),
    ("figures",),
    ("interp.api",),
    ("interp.cli",),
    ("training",),
)
"""From the bottom up; what is in none of them (`interp.jsd`, ...) is an entry point, above all."""


@cache
def modules() -> dict[str, Path]:
    found = {}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


class Imports(ast.NodeVisitor):
    """Collects what a module imports: at its top, in functions, by name through importlib, and for type checkers."""

    def __init__(self, *, types: bool = True) -> None:
        """types: whether what is imported for type checkers alone counts."""
        self.names: set[str] = set()
        self._types = types

    def visit_If(self, node: ast.If) -> None:
        if self._types or not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.names |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        members = {f"{node.module}.{alias.name}" for alias in node.names}
        self.names |= {name if name in modules() else str(node.module) for name in members}

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and node.func.attr == "import_module":
            start = ast.unparse(node.args[0]).removeprefix("f").strip("'\"").partition("{")[0]
            self.names |= {name for name in modules() if name.startswith(start)}
        self.generic_visit(node)


@cache
def graph(*, types: bool = True) -> dict[str, set[str]]:
    """For each module the modules of ours that it imports. types: also for type checkers alone."""
    found = {}
    for name, path in modules().items():
        imports = Imports(types=types)
        imports.visit(ast.parse(path.read_text(encoding="utf-8")))
        found[name] = (imports.names & modules().keys()) - {name}
    return found


def layer(module: str) -> int:
    if module == "figures.__main__":
        return len(LAYERS)
    for number, members in enumerate(LAYERS):  # figures last: its drawings are named before
        if any(module == member or module.startswith(f"{member}.") for member in members):
            return number
    return len(LAYERS)


@pytest.mark.slow
def test_no_module_imports_itself_by_way_of_others():
    assert len(graph()) > 70 and sum(map(len, graph().values())) > 200
    assert len([*TopologicalSorter(graph()).static_order()]) == len(graph())  # CycleError names a circle


def test_imports_run_downwards_only():
    upward = {
        (name, imported) for name, names in graph().items() for imported in names if layer(imported) > layer(name)
    }
    assert upward == set()


@pytest.mark.slow
def test_below_the_commands_only_instruments_draw_and_only_when_they_are_asked_to():
    drawing = {
        name
        for name, names in graph(types=False).items()
        if layer(name) < layer("figures.report")
        and not name.startswith("figures.")
        and any(imported.startswith("figures") for imported in names)
    }
    assert drawing == {
        f"interp.instruments.{name}"
        for name in ("jsd", "rollout", "masking", "attribution", "flow", "probe", "steering")
    }
    code = "import sys, interp.instruments.registry; print([n for n in sys.modules if n.partition('.')[0] in HEAVY])"
    heavy = ("figures", "matplotlib", "torch")
    done = subprocess.run(
        [sys.executable, "-c", code.replace("HEAVY", repr(heavy))], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module", sorted(name for name in modules() if layer(name) == len(LAYERS) and name.startswith("interp."))
)
def test_an_entry_point_defines_nothing_so_that_it_may_run_beside_what_it_starts(module):
    body = ast.parse(Path(str(importlib.util.find_spec(module).origin)).read_text(encoding="utf-8")).body
    assert [type(node) for node in body] == [ast.Expr, ast.ImportFrom, ast.If], "a docstring, one import, the call"


def test_an_import_inside_a_function_by_name_or_for_types_alone_is_seen():
    assert "figures.report" in graph()["interp.cli.command"]
    assert "figures.jsd" in graph()["interp.instruments.jsd"]
    assert "interp.cli.advice" not in graph()["interp.api"]
    assert "interp.models.setting" in graph()["interp.instruments.base"]
    assert "interp.models.setting" not in graph(types=False)["interp.instruments.base"]
