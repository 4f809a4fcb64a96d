"""A wide table says the same in every format, and nothing that a model or a data set is called can break it."""

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from figures.grid import Column, Grid
from interp.intervals import Estimate

NONE = Estimate(None, None, None, 0, 7)
COLUMNS = (Column("ece", "ECE"), Column("tokens", "tokens", 1.0, 2))
names = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20)


def grid(*labels: str) -> Grid:
    return Grid(("model",), COLUMNS, tuple(((label,), (Estimate(0.1234, 0.1, 0.15, 40), NONE)) for label in labels))


def test_the_three_formats_worked_by_hand():
    found = Grid(("m",), COLUMNS, ((("a_b",), (Estimate(0.5, 0.25, 0.75, 4, 1), Estimate(3.0, None, None, 1))),))
    assert found.markdown() == "| m | ECE | tokens |\n| --- | ---: | ---: |\n| a\\_b | 50.0 [25.0, 75.0] | 3.00 |\n"
    assert found.latex() == (
        "\\begin{tabular}{lrr}\n\\toprule\nm & ECE & tokens \\\\\n\\midrule\n"
        "a\\_b & 50.0 [25.0, 75.0] & 3.00 \\\\\n\\bottomrule\n\\end{tabular}\n"
    )
    head, row = csv.reader(io.StringIO(found.csv()))
    assert head[:6] == ["m", "ece", "ece_low", "ece_high", "ece_n", "ece_left_out"]
    assert row == ["a_b", "0.5", "0.25", "0.75", "4", "1", "3.0", "", "", "1", "0"]


@given(names)
def test_a_csv_gives_back_every_name_and_the_full_precision(name):
    rows = list(csv.reader(io.StringIO(grid(name).csv(), newline="")))
    assert rows[1][0] == name and float(rows[1][1]) == 0.1234
    assert rows[1][6] == "" and rows[1][10] == "7"


@given(names)
def test_no_name_adds_a_row_or_a_cell_to_markdown(name):
    lines = grid(name, "other").markdown().split("\n")
    assert len(lines) == 5 and lines[-1] == ""
    for line in lines[:-1]:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 4, line


@given(names)
def test_no_name_adds_a_row_a_cell_or_a_command_to_latex(name):
    body = grid(name).latex().split("\n")[4]
    plain = body
    for escaped in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}"):
        plain = plain.replace(escaped, "")
    plain = re.sub(r"\\[&%$#_{}]", "", plain)
    assert plain.count("&") == 2 and plain.endswith(r"\\") and plain.count("\\") == 2
    assert not set("%$#_{}~^") & set(plain)


def test_what_does_not_exist_is_a_dash_in_print_and_nothing_in_data():
    assert grid("x").shown()[0] == ("x", "12.3 [10.0, 15.0]", "–")
    assert " & -- " in grid("x").latex()


def test_a_row_of_another_width_is_refused():
    with pytest.raises(ValueError, match="1 cells"):
        Grid(("model",), COLUMNS, ((("x",), (NONE,)),))
