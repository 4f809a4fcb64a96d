"""The five formats: what a level is worth, and which replies state one."""

import dataclasses
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.formats import FORMATS, ConfidenceFormat

LETTER, NUMBER, TEXT, PERCENT, FLOAT = (FORMATS[name] for name in FORMATS)
any_format = st.sampled_from(list(FORMATS.values()))
any_level = any_format.flatmap(lambda form: st.tuples(st.just(form), st.integers(0, len(form.levels) - 1)))
blanks = st.text(" \t\n", max_size=3)


def stated(form: ConfidenceFormat, reply: str) -> float | None:
    level = form.level_of(reply)
    return None if level is None else form.values[level]


def test_the_five_formats_have_the_papers_levels_and_values():
    fifths = (0.1, 0.3, 0.5, 0.7, 0.9)
    assert dict(zip(LETTER.levels, LETTER.values, strict=True)) == dict(zip("EDCBA", fifths, strict=True))
    words = ("very low", "low", "medium", "high", "very high")
    assert dict(zip(TEXT.levels, TEXT.values, strict=True)) == dict(zip(words, fifths, strict=True))
    assert [len(form.levels) for form in (NUMBER, PERCENT, FLOAT)] == [10, 101, 11]
    assert (NUMBER.levels[0], NUMBER.levels[-1], NUMBER.values[3]) == ("0", "9", pytest.approx(1 / 3))
    assert (PERCENT.levels[0], PERCENT.levels[-1], PERCENT.values[85]) == ("0%", "100%", pytest.approx(0.85))
    assert (FLOAT.levels[0], FLOAT.levels[-1], FLOAT.values[7]) == ("0.0", "1.0", pytest.approx(0.7))


def test_letters_and_words_never_say_more_than_nine_tenths_nor_less_than_one():
    assert [form.range for form in (LETTER, TEXT)] == [pytest.approx(0.8)] * 2
    assert [form.range for form in (NUMBER, PERCENT, FLOAT)] == [1.0] * 3


@given(any_level)
def test_every_level_reads_back_as_itself(case):
    form, level = case
    assert form.level_of(form.levels[level]) == level


@given(any_level, blanks, blanks, st.sampled_from(["", '"', "'", "*", "**", "`"]), st.booleans(), st.booleans())
def test_case_blanks_quotes_and_a_final_stop_do_not_change_a_level(case, before, after, quote, stop, upper):
    form, level = case
    said = form.levels[level].upper() if upper else form.levels[level]
    assert form.level_of(f"{before}{quote}{said}{quote}{'.' if stop else ''}{after}") == level
    assert form.level_of(f"{before}{quote}{said}{'.' if stop else ''}{quote}{after}") == level


@given(any_format, st.text(max_size=12))
def test_what_is_read_is_a_level_to_the_letter(form, reply):
    level = form.level_of(reply)
    if level is not None:
        marks = r"[\s\"'*`.\[\]()]"
        plain = unicodedata.normalize("NFKC", re.sub(r"\(\D*\)[\s.]*$", "", reply) or reply)
        assert re.sub(marks, "", plain).casefold().rstrip("0") == re.sub(
            marks, "", form.levels[level]
        ).casefold().rstrip("0")


@pytest.mark.parametrize(
    ("form", "reply"),
    [
        (NUMBER, "8/10"),  # elsewhere read as 8.1
        (NUMBER, "10"),
        (NUMBER, "8.5"),
        (NUMBER, "-8"),
        (NUMBER, "eight"),
        (NUMBER, "8 out of 9"),
        (PERCENT, "0.95"),  # elsewhere read as 0.0095
        (PERCENT, "between 80 % and 90 %"),  # elsewhere read as 80.9
        (PERCENT, "85"),  # elsewhere read as 0
        (PERCENT, "about 85%"),
        (PERCENT, "85%!"),
        (PERCENT, "85%.."),
        (PERCENT, "101%"),
        (PERCENT, "085%"),
        (PERCENT, "8 5%"),
        (PERCENT, "85.0%"),
        (FLOAT, "0.85"),
        (FLOAT, "1"),
        (FLOAT, ".9"),
        (FLOAT, "0,9"),
        (FLOAT, "1.1"),
        (TEXT, "very"),
        (TEXT, "veryhigh"),
        (TEXT, "high confidence"),
        (TEXT, "not high"),
        (LETTER, "F"),
        (LETTER, "AB"),
        (LETTER, "A or B"),
        (LETTER, "A (not B)"),
        (NUMBER, "8 (out of 10)"),
        (NUMBER, "8 (8 or 9)"),
        (TEXT, "low (or high)"),
        (FLOAT, "0.850"),
        *((form, empty) for form in FORMATS.values() for empty in ("", " ", ".", "''", "\n")),
    ],
)
def test_what_is_not_exactly_a_level_is_left_unparsed_rather_than_guessed(form, reply):
    assert form.level_of(reply) is None


@pytest.mark.parametrize(
    ("form", "reply", "value"),
    [
        (NUMBER, " 8\n", 8 / 9),
        (NUMBER, "**8**", 8 / 9),
        (NUMBER, "**8**.", 8 / 9),
        (NUMBER, "９", 1.0),
        (NUMBER, "8 (very sure)", 8 / 9),
        (NUMBER, "[8]", 8 / 9),
        (LETTER, "A (almost certain)", 0.9),
        (LETTER, "(A)", 0.9),
        (LETTER, "**A** (almost certain).", 0.9),
        (FLOAT, "0.90", 0.9),
        (FLOAT, "1.00", 1.0),
        (PERCENT, "85 percent", 0.85),
        (PERCENT, "85 per cent.", 0.85),
        (PERCENT, "85 %.", 0.85),
        (PERCENT, "100%", 1.0),
        (FLOAT, "0.9", 0.9),
        (FLOAT, '"1.0."', 1.0),
        (TEXT, "Very  High", 0.9),
        (TEXT, "low", 0.3),
        (LETTER, "a", 0.9),
        (LETTER, "E.", 0.1),
    ],
)
def test_a_level_is_read_by_its_value(form, reply, value):
    assert stated(form, reply) == pytest.approx(value)


def test_levels_without_one_strictly_rising_value_each_are_refused():
    for values in ((0.1, 0.1), (0.5, 0.2), (0.5,)):
        with pytest.raises(ValueError, match="strictly rising"):
            dataclasses.replace(NUMBER, levels=("0", "1"), values=values)
    assert dataclasses.replace(NUMBER, levels=("0", "1"), values=(0.1, 0.2)).range == pytest.approx(0.1)


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_the_wording_names_both_ends_of_the_scale(form):
    assert form.levels[0] in form.wording and form.levels[-1] in form.wording
