"""`python tests/reached.py`: after a measured run of the tests, the public functions that no test has entered.

A function counts as entered where one line of its body was executed. The body's first string is no line; what is
private, a `Protocol`'s, or there for type checkers only is not asked for."""

import ast
import sys
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("interp", "training", "figures")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(body: Sequence[ast.stmt], owner: str = "") -> Iterator[tuple[str, Function]]:
    """(name, definition) of functions, and of the methods of classes, that stand in `body` without an underscore."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from public_functions([*node.body, *node.orelse], owner)
        elif isinstance(node, ast.ClassDef) and not any("Protocol" in ast.unparse(base) for base in node.bases):
            if not node.name.startswith("_"):
                yield from public_functions(node.body, f"{owner}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield f"{owner}{node.name}", node


def unreached(source: str, executed: Set[int]) -> list[tuple[int, str]]:
    """(line, name) of the public functions of a module none of whose lines is among the executed ones."""
    found = []
    for name, function in public_functions(ast.parse(source).body):
        said = function.body[1:] if ast.get_docstring(function) is not None else function.body
        if said and not executed & set(range(said[0].lineno, function.end_lineno + 1)):
            found.append((function.lineno, name))
    return found


def main() -> int:
    """Prints a line for each function that was not entered. 1 where there is one, else 0."""
    from coverage import Coverage

    measured = Coverage()
    measured.load()
    count = 0
    for path in sorted(path for room in ROOMS for path in (ROOT / room).glob("**/*.py")):
        executed = set(measured.get_data().lines(str(path)) or ())
        for line, name in unreached(path.read_text(encoding="utf-8"), executed):
            print(f"{path.relative_to(ROOT)}:{line}: no test enters {name}")
            count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
