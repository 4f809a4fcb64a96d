"""A wide table says the same in every format, and nothing that a model or a data set is called can break it."""

import csv
import io
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from figures.grid import Column, Grid
from interp.intervals import Ends, Estimate
from interp.plain import visible

NONE = Estimate(None, None, None, 0, 7)
COLUMNS = (Column("ece", "ECE"), Column("tokens", "tokens", 1.0, 2))
names = st.text(st.characters(codec="utf-8"), max_size=20) | st.text("[](){}<>!&;#*_~`$^%\\|-=+:\r\n ab1", max_size=20)
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
LATEX_WORDS = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^"}


def in_a_line(name: str) -> str:
    """What a reader sees of a name in one line."""
    return visible(name.replace("\n", " "))


def grid(*labels: str) -> Grid:
    return Grid(("model",), COLUMNS, tuple(((label,), (Estimate(0.1234, 0.1, 0.15, 40), NONE)) for label in labels))


def test_the_three_formats_worked_by_hand():
    first = Estimate(0.5, 0.25, 0.75, 4, 1, relations=Ends(0.125, 0.875, 5))
    found = Grid(("m",), COLUMNS, ((("a_b",), (first, Estimate(3.0, None, None, 1))),))
    assert found.markdown() == "| m | ECE | tokens |\n| --- | ---: | ---: |\n| a\\_b | 50.0 [25.0, 75.0] | 3.00 |\n"
    assert found.latex() == (
        "\\begin{tabular}{lrr}\n\\toprule\nm & ECE & tokens \\\\\n\\midrule\n"
        "a\\_b & 50.0 [25.0, 75.0] & 3.00 \\\\\n\\bottomrule\n\\end{tabular}\n"
    )
    head, row = csv.reader(io.StringIO(found.csv()))
    assert head[:6] == ["m", "ece", "ece_low", "ece_high", "ece_n", "ece_left_out"]
    assert head[6:8] == ["ece_relations_low", "ece_relations_high"]
    assert row == ["a_b", "0.5", "0.25", "0.75", "4", "1", "0.125", "0.875", "3.0", "", "", "1", "0", "", ""]
    unseen = Grid(("m",), COLUMNS[:1], ((("facts:unseen",), (first,)),))
    assert unseen.shown() == [("facts:unseen", "50.0 [25.0, 75.0] {12.5, 87.5}")], "a claim about other relations"


@given(names)
@example("=cmd|'/c calc'!A0")
@example("\t=1+1")
def test_a_csv_gives_back_every_name_and_the_full_precision_and_starts_no_formula(name):
    rows = list(csv.reader(io.StringIO(grid(name).csv(), newline="")))
    guarded = name[:1] in tuple("=+-@\t")
    assert rows[1][0] == ("'" if guarded else "") + name.replace("\r", r"\r") and float(rows[1][1]) == 0.1234
    assert rows[1][6] == rows[1][8] == "" and rows[1][12] == "7"


@given(names)
@example("a|b\\")
@example("&lt;b&gt; <b>x</b> [x](http://a.b) ![x](y) ~~x~~ `x` $x$ **x**")
@example("a\rb")
@example("[x]: /y")
def test_markdown_gives_back_every_name_as_text_and_nothing_else(name):
    tokens = MARKDOWN.parse(grid(name, "other").markdown())
    cells = [token for token in tokens if token.type == "inline"]
    assert [token.type for token in tokens].count("tr_open") == 3 and len(cells) == 9
    assert {child.type for cell in cells for child in cell.children} <= {"text"}
    shown = ["".join(child.content for child in cell.children) for cell in cells]
    assert shown[3].strip() == in_a_line(name).strip()
    assert shown[4] == "12.3 [10.0, 15.0]" and shown[6] == "other"


@given(names)
@example("[2cm]")
@example("*")
@example(" [2cm]")
def test_latex_gives_back_every_name_and_nothing_else(name):
    """A row's end takes a star and an optional argument, also from the next line."""
    lines = grid(name).latex().split("\n")
    assert len(lines) == 8 and lines[3] == r"\midrule" and lines[4].endswith(r" \\")
    first, *others = re.split(r"(?<!\\) & ", lines[4])
    assert others == ["12.3 [10.0, 15.0]", r"-- \\"]
    assert not first.lstrip().startswith(("[", "*"))
    words = re.findall(r"\\text\w+\{\}|\\[&%$#_{}]|[^\\&%$#_{}~^]", first.removeprefix("{}"))
    assert "".join(words) == first.removeprefix("{}")
    assert "".join(LATEX_WORDS.get(word, word[-1]) for word in words) == in_a_line(name)


def test_what_does_not_exist_is_a_dash_in_print_and_nothing_in_data():
    assert grid("x").shown()[0] == ("x", "12.3 [10.0, 15.0]", "–")
    assert " & -- " in grid("x").latex()


def test_a_row_of_another_width_is_refused():
    with pytest.raises(ValueError, match="1 cells"):
        Grid(("model",), COLUMNS, ((("x",), (NONE,)),))
