"""What counts as one answer written twice, and as two answers."""

import re
import string
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interp.datasets.choices import choice_index
from interp.datasets.grading import is_right
from interp.datasets.words import normalised, official
from interp.records import Question

TWO = [
    ("パリ", "バリ"),
    ("かぎ", "かき"),
    ("กา", "กี"),
    ("की", "का"),
    ("கி", "கு"),
    ("မိ", "မု"),
    ("ខ្មែរ", "ខមរ"),
    ("أ", "ا"),
    ("C", "C#"),
    ("C", "C++"),
    ("C#", "C++"),
    ("5%", "$5"),
    ("5%", "5"),
    ("€5", "$5"),
    ("O+", "O-"),
    ("O", "O\u2212"),
    ("-40", "40"),
    ("-$5", "$5"),
    ("\u221240", "40"),
    ("1.5", "1/5"),
    ("1.5", "15"),
    (".5", "5"),
    ("10\u2075", "105"),
    ("5\u00bd", "51/2"),
    ("1,00", "100"),
    ("12,34", "1234"),
    ("1,000,00", "100000"),
    ("x + 1", "x - 1"),
    ("x < 1", "x > 1"),
    ("B\u266d", "B"),
    ("\u221a2", "2"),
    ("x^2", "x2"),
    ("AB-", "AB"),
    ("-\u00bd", "\u00bd"),
    ("-x", "x"),
    ("\u22645", "\u22655"),
    ("Vitamin A", "vitamin"),
    ("Q&A", "Q"),
    ("A+", "+"),
    ("Plan A", "plan"),
    ("The A-Team", "team"),
    ("The A Team", "the team"),
    ("A-ha", "ha"),
    ("The-Dream", "dream"),
    ("An\u2011Nur", "Nur"),
    ("A'dam", "dam"),
]
ONE = [
    ("1,000", "1000"),
    ("1,234,567", "1234567"),
    ("1,000.5", "1000.5"),
    ("١٢", "12"),
    ("१२", "12"),
    ("１２", "12"),
    ("1٬000", "1000"),
    ("-40", "\u221240"),
    ("\u201340", "-40"),
    ("5 %", "5%"),
    ("5$", "$5"),
    ("-5 $", "-$5"),
    ("$1,000", "$1000"),
    ("+5", "5"),
    ("5\u00bd", "5 1/2"),
    ("F\u266f", "F#"),
    ("#1", "1"),
    ("U.S.A.", "USA"),
    ("u s a", "USA"),
    ("A.A. Milne", "AA Milne"),
    ("A. B. Cole", "ab cole"),
    ("a cat", "the cat"),
    ("A E Housman", "A. E. Housman"),
    ("E=mc\u00b2", "E=mc^2"),
    ("10\u207b\u2075", "10^-5"),
    ("Ｂ", "b"),
    ("ﾊﾟﾘ", "パリ"),
    ("か\u3099ぎ", "がぎ"),
    ("Asunción", "asuncion"),
    ("Ἀθῆναι", "αθηναι"),
    ("Алёша", "алеша"),
    ("مُحَمَّد", "محمد"),
    ("שָׁלוֹם", "שלום"),
    ("Kleenex\u2122", "Kleenex"),
    ("co\u00adoperate", "cooperate"),
    ("well-known", "well known"),
    ("1914\u201318", "1914 18"),
    (".5", "0.5"),
    ("C ++", "C++"),
    ("The A-Team", "A-Team"),
    ("The A-Team", "the \u201cA\u201d Team"),
    ("the \u2018a\u2010team\u2019", "A-Team"),
    ("A.I.", "AI"),
    ("Vis-\u00e0-vis", "vis a vis"),
    ("Jack-in-the-box", "jack in the box"),
    ("The Beatles", "Beatles"),
    ("\u201cThe\u201d Who", "who"),
]


@pytest.mark.parametrize(("one", "other"), TWO)
def test_what_makes_another_answer_counts(one, other):
    assert normalised(one) and normalised(one) != normalised(other)


@pytest.mark.parametrize(("one", "other"), ONE)
def test_what_writes_the_same_answer_otherwise_does_not_count(one, other):
    assert normalised(one) == normalised(other) != ""


@given(st.text(max_size=12))
@example("α\u0345\u0301")
@example("ﬁ\u0323\u0307")
def test_equal_characters_are_equal_answers_in_every_normal_form(text):
    assert len({normalised(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")}) == 1


@given(st.text(alphabet=string.ascii_letters + string.punctuation + " áΩд", max_size=20))
@example("the _A_ cat's ‘hat’")
def test_the_official_form_is_triviaqas_written_out_a_second_way(text):
    signs = re.escape(string.punctuation + "\u2018\u2019\u00b4`")
    words = re.split(rf"[{signs}\s]+", text.lower())
    assert official(text) == " ".join(w for w in words if w and w not in ("a", "an", "the"))


def test_thousands_of_marks_take_no_time_and_two_are_kept():
    assert normalised("e" + "\u0301" * 100_000) == "e"
    assert len(normalised("か" + "\u0301" * 100_000)) <= 31


# Choices

GASES = ("Oxygen", "Carbon dioxide", "Neon", "Helium")


NAMED = """B / b / B. / (B) / B) / B: / [B] / **B** / *B* / `B` / "B" / \\boxed{B} / $\\boxed{\\text{B}}$ / Ｂ / （Ｂ）
The answer is B / The answer is B. / The correct answer is (B). / Option B / option b / Answer: B
**Answer: B** / B - Carbon dioxide / B – Carbon dioxide / B. Carbon dioxide / **B. Carbon dioxide**
(b) carbon dioxide / B: Carbon diox / B. Carbon / B Carbon dioxide / Carbon dioxide
The answer is Carbon dioxide. / Carbon dioxide (B) / **Carbon dioxide** / I choose B / It's B / B is correct.
B is the right answer / B, because plants take it up / B. Carbon dioxide, which plants take up / Choice B / <B>
B - / B! / B? / [[B]] / ((B)) / 'B' / 'B'. / 'B.' / \u2018B\u2019 / \u00abB\u00bb / \u300cB\u300d / \u3010B\u3011 / <B>.
(<B>) / {B} / B... / B\u2026 / ***B*** / \u2022 B
**'B'**! / (Answer: B) / [The answer is B.] / "Answer: B." / The answer is 'B'!
The answer is <B>. / B! Carbon dioxide / 'B' Carbon dioxide / [[B]] Carbon dioxide / 'Carbon dioxide' / <b>B</b>
\\boxed{<B>} / \\(B\\) / \u24b7 / \u00bfB?""".replace("\n", " / ").split(" / ")
UNNAMED = """A or B / A and B / A, B / B or (C) / Not B / B is wrong / B is not correct / not (B) / B. Oxygen / B. Neon
E / Carbon dioxide (A) / E. Argon / none / All of the above / Carbon / a plant takes it / A plant needs as much / Plants
I / B. Carbon dioxide or neon / B, because C is wrong / Bread / The answer is / The answer is not B / Either B or D
B?C / - / ** / I am not sure
A bee / A bee! / 'A' bee / I think so / I think so! / B and C / B or C / (B or C) / (B) (C) / 'B' or 'C' / B? C!
B! or C / 'Not B' / [[B]] [[C]] / BC / (BC) / B# / B+ / <B> <C> / '' / () / ! / E! / A? I am not sure
A. Carbon dioxide / (A) Neon / The answer is A. Neon / B, C / B/C / B C / B & C / B. Carbon dioxide or C""".replace(
    "\n", " / "
).split(" / ")


@pytest.mark.parametrize("reply", NAMED)
def test_one_choice_that_is_clearly_named_is_read(reply):
    assert choice_index(reply, GASES) == 1


PAIRS = """( ) / [ ] / { } / < > / " " / ' ' / ` ` / * * / ** ** / _ _ / __ __ / \\boxed{ } / \\text{ } / \\( \\)
$ $ / \u201c \u201d / \u2018 \u2019 / \u00ab \u00bb / \u3010 \u3011 / \uff08 \uff09
<b> </b> / <answer> </answer>""".replace("\n", " / ")
ENDS = st.sampled_from(("", ".", "!", "?", ",", ":", ";", "...", "\u2026", "!!", "?!", "\u3002"))
LEADS = st.sampled_from(("", "Answer: ", "The answer is ", "Option ", "**Answer:** ", "I choose "))


@st.composite
def decorated(draw: st.DrawFn, letter: str) -> str:
    """A letter within up to three pairs of brackets, quotes or emphasis, each with punctuation behind it."""
    text = letter + draw(ENDS)
    for pair in draw(st.lists(st.sampled_from(PAIRS.split(" / ")), max_size=3)):
        opens, closes = pair.split(" ")
        blank = draw(st.sampled_from(("", "", " ")))
        text = opens + blank + text + blank + closes + draw(ENDS)
    return draw(LEADS) + text


@given(st.sampled_from("ABCDbcd").flatmap(lambda letter: st.tuples(st.just(letter), decorated(letter))))
def test_a_letter_is_read_through_any_decoration(case):
    letter, reply = case
    assert choice_index(reply, GASES) == "ABCD".index(letter.upper())


@given(st.sampled_from("EFGHIQ").flatmap(decorated))
def test_decoration_makes_no_choice_of_a_letter_that_is_none(reply):
    assert choice_index(reply, GASES) is None


@given(st.tuples(*(st.sampled_from("ABCD").flatmap(decorated) for _ in range(2))), st.sampled_from((" ", " or ", ", ")))
def test_two_letters_name_nothing_through_any_decoration(pair, between):
    letters = [{c for c in text.replace("Answer", "").replace("Option", "") if c in "ABCD"} for text in pair]
    if letters[0] != letters[1]:
        assert choice_index(pair[0] + between + pair[1], GASES) is None


@pytest.mark.parametrize("reply", UNNAMED)
def test_a_reply_that_names_no_choice_or_two_names_nothing(reply):
    assert choice_index(reply, GASES) is None


def test_a_cut_text_does_not_hide_that_it_is_anothers():
    assert choice_index("B. Carbon", ("Carbon", "Carbon dioxide")) is None
    assert choice_index("A. Carbon", ("Carbon", "Carbon dioxide")) == 0
    assert choice_index("A", ("B", "A")) == 0, "a letter before a text"
    assert choice_index("A. Carbon dioxide", ("Carbon", "Carbon dioxide")) is None
    assert choice_index("B. Carbon dioxide", ("Carbon", "Carbon dioxide")) == 1
    assert choice_index("A. Red and blue", ("Red", "Red and blue")) is None
    assert choice_index("A car", ("Carbon", "Dog")) is None and choice_index("A man", ("Manager", "Boss")) is None
    assert [choice_index(sign, ("+", "-", "*", "/")) for sign in "+-*/"] == [0, 1, 2, 3]


def test_the_ninth_letter_is_a_letter_and_the_first_person_is_none():
    letters = ("Ada", "Ben", "Cy", "Di", "Eve", "Fay", "Gus", "Hal", "Ivo")
    assert [choice_index(reply, letters) for reply in ("I", "The answer is I.", "Option I", "I. Ivo")] == [8] * 4
    assert choice_index("I, as an AI, cannot answer", letters) is None and choice_index("I choose B", letters) == 1


def test_under_the_official_rule_words_decide_and_signs_do_not():
    question = Question("q", "How much?", ("5%", "the U.S.A."))
    replies = ("5%", "5", "U S A", "usa", "$5")
    assert [is_right(question, reply, "official") for reply in replies] == [True, True, True, False, True]
    assert [is_right(question, reply) for reply in replies] == [True, False, True, True, False]
