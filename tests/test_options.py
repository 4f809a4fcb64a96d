"""Options: each declared once and with one meaning, in groups that commands are composed of; the page is current."""

import importlib.util
from collections import Counter
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from interp.options import Common, Output, Prompt, changed, composed, flat
from interp.pipelines.diagnosis import Diagnose
from interp.pipelines.evaluation import Evaluate
from training.advice import Advice

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "build_options.py"
ONE_OR_SEVERAL = {"ckpt", "data", "n", "top_p", "triplets"}
"""Options that take one thing in some commands and several in others, or have another default; and one without any,
which a group cannot ask for."""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("build_options", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_options_is_what_the_code_declares(script):
    written = script.PAGE.read_text(encoding="utf-8")
    assert written == script.page(), f"run {SCRIPT.name}"
    assert all(f"`--{name.replace('_', '-')}`" in written for name in flat(Diagnose()) | flat(Evaluate()))


def test_no_option_is_declared_twice_and_none_is_hidden(script):
    commands = [kind for kind in script.COMMANDS.values() if kind.__name__ != "Experiment"]
    kinds = {*commands, *(type(group) for kind in commands for group in script.groups_of(kind))}
    declared = Counter(name for kind in kinds for name in script.documented(kind))
    assert {name for name, count in declared.items() if count > 1} == ONE_OR_SEVERAL
    for kind in kinds:
        own = {field.name for field in fields(kind) if not _is_group(field)}
        assert own == script.documented(kind).keys(), f"{kind.__name__} has an option without a word"
        assert "Suppress" not in "".join(map(str, kind.__annotations__.values()))


def _is_group(field) -> bool:
    return callable(field.default_factory) and is_dataclass(field.default_factory())


def test_options_by_their_flat_names_are_those_of_the_groups():
    options = composed(Diagnose, n=3, shots=2, seed=7, n_attribution=1, out=Path("x"))
    assert (options.asked.n, options.prompt, options.common) == (3, Prompt(shots=2), Common(seed=7))
    assert options.of_instruments.attribution.n_attribution == 1 and options.output == Output(out=Path("x"))
    assert flat(options) | {"n": 48} == flat(changed(options, n=48))
    assert composed(Advice, triplets=Path("t"), lm=0.5).terms.lm == 0.5


@pytest.mark.slow
@given(st.integers(1, 99), st.integers(0, 9), st.sampled_from(["whole", "token"]))
def test_the_command_line_and_python_make_the_same_options(n, seed, levels):
    arguments = ["--n", str(n), "--seed", str(seed), "--levels", levels]
    read = tyro.cli(Diagnose, args=arguments, config=(tyro.conf.OmitArgPrefixes,))
    assert flat(read) == flat(composed(Diagnose, n=n, seed=seed, levels=levels))
