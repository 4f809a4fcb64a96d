"""The planted changes: each still fits the code, and what the tests say of one is judged rightly."""

import ast

import pytest
from mutants import MUTANTS, ROOT, Mutant, Options, Verdict, chosen, judged, planted, verdict_of, whole

BEFORE = "def half(x):\n    return x / 2\n"
TEST = "from room import half\n\n\ndef test_half_of_four_is_two():\n    assert half(4) == 2\n"


@pytest.fixture
def tree(tmp_path):
    """A project of one room, one test, and a directory that is not to be copied."""
    root = tmp_path / "project"
    (root / "tests").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["real_model: none here"]\n')
    (root / "room.py").write_text(BEFORE)
    (root / "tests" / "test_room.py").write_text(TEST)
    (root / "runs").mkdir()
    (root / "runs" / "test_not_ours.py").write_text("assert False")
    return root


def mutant(before: str, after: str, *, name: str = "toy", tests: tuple[str, ...] = ("tests/test_room.py",)) -> Mutant:
    return Mutant(name, "room.py", "half", before, after, tests)


@pytest.mark.slow
@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: one.name)
def test_every_mutant_fits_its_file_once_and_is_a_program(one):
    text = (ROOT / one.file).read_text(encoding="utf-8")
    changed = one.planted(text)
    compile(changed, one.file, "exec")
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))
    for test in one.tests:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8") or not name, test


def test_there_are_three_dozen_mutants_of_different_names_in_twenty_rooms():
    assert len(MUTANTS) >= 36 and len({one.name for one in MUTANTS}) == len(MUTANTS)
    assert len({one.file for one in MUTANTS}) >= 20
    assert not {one.name for one in MUTANTS} & {one.room for one in MUTANTS}, "a name would be taken for a room"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "outcome", "told"),
    [
        ("x / 3", "killed", "test_half_of_four_is_two"),
        ("x * 0.5", "survived", "all tests passed"),
        ("x / y", "broken", "NameError"),
    ],
)
def test_a_mutant_is_killed_by_a_failed_test_and_by_nothing_else(tree, after, outcome, told):
    verdict = judged(("tests/test_room.py",), tree, mutant("x / 2", after))
    assert verdict.outcome == outcome and told in verdict.told
    assert (tree / "room.py").read_text() == BEFORE, "the tree itself is never edited"


@pytest.mark.slow
def test_tests_that_are_not_there_are_no_kill(tree):
    assert judged(("tests/test_room.py::test_none",), tree).outcome == "broken"


@pytest.mark.parametrize("code", [2, 3, 4, 5, -2])
def test_no_exit_code_but_1_is_a_kill_whatever_pytest_prints(code):
    assert verdict_of(code, "FAILED tests/test_room.py::test_one - assert 1 == 2").outcome == "broken"
    named = "ERROR tests/test_room.py::test_one[with adapter] - assert 1 - 1"
    assert verdict_of(1, named) == Verdict("killed", "test_one[with adapter]")
    assert verdict_of(1, "FAILED tests/test_room.py::test_one").outcome == "killed"
    assert verdict_of(1, "nothing failed by name").outcome == "broken"


@pytest.mark.parametrize(("body", "times"), [("return x", 0), ("return x / 2 + x / 2", 2)])
def test_code_that_does_not_stand_in_its_function_exactly_once_is_refused(body, times):
    elsewhere = "def other(x):\n    return x / 2\n"
    with pytest.raises(ValueError, match=rf"toy: 'x / 2' stands {times} times in half of room.py, not once"):
        mutant("x / 2", "x / 3").planted(f"def half(x):\n    {body}\n{elsewhere}")
    with pytest.raises(ValueError, match="there is no half"):
        mutant("x / 2", "x / 3").planted(elsewhere)


@pytest.mark.parametrize(
    ("function", "before", "after", "changed"),
    [
        ("half", "x/2", "x / 3", "def half(x):\n    y = x / 3\n    return y"),
        ("half", "y = x / 2", "", "def half(x):\n    pass\n    return y"),
        ("half", "return y", "y += 1\nreturn y", "def half(x):\n    y = x / 2\n    y += 1\n    return y"),
        ("", "x / 2", "2", "def half(x):\n    y = 2\n    return y"),
    ],
)
def test_code_is_found_however_it_is_laid_out(function, before, after, changed):
    text = "def half(x):\n    y = (  # a comment\n        x / 2\n    )\n    return y\n"
    assert Mutant("toy", "room.py", function, before, after, ()).planted(text) == changed


def test_a_whole_file_stands_for_its_single_tests():
    tests = (("tests/a.py",), ("tests/a.py::test_1", "tests/b.py::test_2"), ("tests/b.py::test_2",))
    assert whole([mutant("", "", tests=some) for some in tests]) == ("tests/a.py", "tests/b.py::test_2")


def test_mutants_are_chosen_by_name_or_by_room():
    assert chosen(()) == list(MUTANTS)
    assert {one.file for one in chosen(["jsd"])} == {"interp/instruments/jsd.py", "figures/jsd.py"}
    assert [one.name for one in chosen(["bits-instead-of-nats"])] == ["bits-instead-of-nats"]
    with pytest.raises(ValueError, match="'nowhere' is neither a mutant nor a room"):
        chosen(["jsd", "nowhere"])


@pytest.fixture
def plants(monkeypatch):
    """plants(green, outcome, ...): the exit code of a run whose rooms are green or not, and what becomes of each."""

    def code(green: bool, *outcomes: str) -> int:
        mutants = tuple(mutant("x / 2", "x / 3", name=f"toy-{number}") for number in range(len(outcomes)))
        verdicts = iter(
            [Verdict("survived" if green else "killed", "test_one"), *(Verdict(o, "test_two") for o in outcomes)]
        )
        monkeypatch.setattr("mutants.MUTANTS", mutants)
        monkeypatch.setattr("mutants.judged", lambda *_: next(verdicts))
        return planted(Options(at_once=1))

    return code


def test_a_survivor_and_a_broken_mutant_are_no_success(plants, capsys):
    assert plants(True, "killed", "killed") == 0
    assert plants(True, "killed", "survived") == 1
    assert plants(True, "survived", "broken") == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "2/2, 0 min left  killed    room: toy-1 (test_two)"
    assert [line for line in lines if line[0].isdigit() and "/" not in line] == [
        "2 killed, 0 survived, 0 broken",
        "1 killed, 1 survived, 0 broken",
        "0 killed, 1 survived, 1 broken",
    ]


def test_rooms_that_are_not_green_without_a_mutant_and_unknown_names_are_said_so(plants, capsys):
    assert plants(False, "killed") == 2
    assert "error: they are not green without one: test_one" in capsys.readouterr().err
    assert planted(Options(("nowhere",))) == 2
    assert "error: 'nowhere' is neither a mutant nor a room" in capsys.readouterr().err
