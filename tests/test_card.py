"""The model card: whatever names stand in it, it stays a card, and its command stays one command."""

import shlex

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from interp.intervals import Estimate
from interp.plain import visible
from training.card import _command, _lines

ODD = "`'\"$(){}[]<>|&;#*_~:!-\\\n\r ab1\u0085\ufeff\ufffe"
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20) | st.text(ODD, min_size=1, max_size=20)
ONE = Estimate(0.5, 0.25, 0.75, 4).as_record()


def card_of(name: str) -> str:
    """The card of a run in which everything that has a name of the user's or of a file's has this one."""
    identity = dict.fromkeys(("base", "ckpt"), name)
    identity |= dict.fromkeys(("preset", "template", "dtype", "model", "examples"), "plain")
    identity |= {
        "note": "",
        "triplets": f"dir/{name.replace('/', '')}x.jsonl",
        "recipe": {"targets": [name, "x"], "lr": 0.1},
    }
    identity |= {"held_out": 1, "every": 1, "shots": 0, "shot_sets": 1, "seed": 0}
    made = {"python": "3", "versions": {}, "commit": None, "machine": "m"}
    training = {"examples": 1, "questions": 1, "held_out": 1, "models": [name], "preset": "small", "updates": 1}
    training |= {"recipe": identity["recipe"], "curve": [{"update": 0, "formats": {"ScoreLetter": {"ece": ONE}}}]}
    row = {"before": ONE, "after": ONE, "difference": ONE, "effect_size": 1.0}
    compared = {"data": {"name": name, "right": 1, "asked": 1}, "format": "ScoreNumber", "comparison": {}}
    compared |= {"calibration": {name: {"default": {"ScoreNumber": {"ece": row}}}}}
    return "\n".join(_lines("advice", {"identity": identity, "made_with": made}, training, compared)) + "\n"


@pytest.mark.slow
@given(names)
@example("a: b # c")
@example("`; rm -rf ~ #")
@example("``")
@example("x\n---\n# y")
def test_whatever_a_checkpoint_is_called_its_card_reads_as_one(name):
    """The front matter is YAML, code spans and tables hold the names, and a shell reads one command."""
    card = card_of(name)
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == visible(name)
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    kinds = [token.type for token in tokens]
    assert kinds.count("tr_open") == 3 + 2 + 2 and kinds.count("heading_open") == 4
    assert not {"html_block", "hr", "fence", "blockquote_open"} & set(kinds)
    inline = [child for token in tokens if token.children for child in token.children]
    assert {child.type for child in inline} <= {"text", "softbreak", "code_inline"}
    codes = [child.content for child in inline if child.type == "code_inline"]
    assert len(codes) == 4
    said = shlex.split(codes[-1])
    if visible(name) == name:
        given = {key: said[said.index(f"--{key}") + 1] for key in ("triplets", "ckpt", "targets")}
        file = f"{name.replace('/', '')}x.jsonl"
        assert given == {"triplets": file, "ckpt": name, "targets": name}
        assert codes[0].strip() == name.strip()


def test_the_command_on_a_card_makes_the_prompts_that_were_trained_on():
    given = {
        "template": "chat",
        "template_args": ["enable_thinking=false", "a=x y"],
        "date": "2024-02-29",
        "levels": "token",
    }
    identity = given | {"triplets": "t.jsonl", "ckpt": "x", "shots": 0, "recipe": {"lr": 0.1, "dropout": None}}
    said = shlex.split(_command("advice", identity))
    assert said[said.index("--template-args") + 1 :][:2] == given["template_args"]
    assert [said[said.index(f"--{name}") + 1] for name in ("date", "levels", "shots", "lr")] == [
        "2024-02-29",
        "token",
        "0",
        "0.1",
    ]
    assert "--dropout" not in said and "--template-args" not in _command("advice", identity | {"template_args": []})
