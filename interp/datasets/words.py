"""The form of a text that exact match compares, and TriviaQA's own form.

The module knows characters and words, and nothing of questions, models or files."""

import re
import string
import unicodedata
from functools import lru_cache

import regex

from interp.plain import compatible

WORD = r"\p{L}\p{M}\p{N}"
"""Letters, marks and numbers: what words are made of. Python's \\w leaves out vowel signs."""
CURRENCY = r"\p{Sc}"
SIGNS = (
    r"+<=>%\u2030\u00b1\u00d7\u00f7\u221a\u221e\u266d"
    r"\u2264\u2265\u2260\u2208\u2209\u2227\u2228\u2229\u222a\u2192"
)
"""Signs that always count, each a word of its own."""
COUNTS = rf"""
    [{SIGNS}{CURRENCY}]
    | (?<![{WORD}])-(?={CURRENCY}*\d|[\u221a]|\p{{L}}(?![{WORD}]))  # -40, not 1914-18
    | (?<=(?<![{WORD}])\p{{L}}{{1,2}})-(?![{WORD}])                         # O- and AB-, not well-known and pre-
    | (?<=(?<![{WORD}])\p{{L}}[ ])-(?=[ ][{WORD}]) | (?<=[{WORD}][ ])-(?=[ ]\p{{L}}(?![{WORD}]))  # x - 1, not A1 - B2
    | (?<=[{WORD}])\#                                                    # C#
    | (?<=\d)[./](?=\d)                                                  # 1.5
    | (?<=[{WORD}])\^(?=-?[{WORD}]) | (?<=\^)-                                         # x^2
"""
"""A sign that makes another answer of what it stands beside."""
PUNCTUATION = regex.compile(rf"(?!{COUNTS})[^{WORD}\s]", regex.VERBOSE)
MARKED = regex.compile(rf"([\p{{Latin}}\p{{Greek}}\p{{Cyrillic}}])\p{{M}}+|(?<![{WORD}])\p{{M}}+")
"""A letter of the scripts whose letters lose their marks (in others a mark makes another letter: か and が), and marks
that stand on no letter."""
OPTIONAL = regex.compile(
    r"[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0652\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]"
)
"""What writers of Hebrew and Arabic may leave out: vowel points, cantillation, the Arabic stretch."""
SILENT = regex.compile(r"[\p{Cf}\u2120\u2122\u00ae\u00a9]")
"""Characters that nobody sees, and signs that say who owns a name."""
POWER = regex.compile(r"(?<=[\p{Nd}\p{L}\p{M}])(\u207b?[\u00b2\u00b3\u00b9\u2070\u2074-\u2079])")
FRACTION = regex.compile(r"(?<=\p{Nd})([\u00bc-\u00be\u2150-\u215f\u2189])")
MINUS = dict.fromkeys(map(ord, "\u2212\u2013\u2010\u2011"), "-")
ALIKE = MINUS | {ord("\u066c"): ",", ord("\u066b"): ".", ord("\u2044"): "/", ord("\u266f"): "#"}
"""Signs that are written in two ways: minus, the separators of Arabic numbers, the stroke of fractions, the sharp."""
JOINED = regex.compile(rf"(?<![{WORD}])(?<![{WORD}][-.'\u2019])(?:an?|the)(?=[-.'\u2019][{WORD}])")
"""The beginning of a name that is spelled as an article: "A-Team", "The-Dream", "A.I."; not "jack-in-the-box"."""
ARTICLE = regex.compile(rf"(?<!\S)(?:an|the|(?<!(?<!\S)(?:\p{{L}}|the) )a(?= [{WORD}]{{2}}))(?!\S)")
"""An article. A letter is one only before a longer word, and neither behind an initial nor behind "the": "Vitamin A",
"A. A. Milne" and "the A Team" keep it."""
SMALL = str.maketrans("ANTHE", "anthe")
OFFICIAL_SIGNS = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4`", " "))


def normalised(answer: str) -> str:
    """The form of an answer that exact match compares.

    What does not count: compatible forms of one character (NFKC), letter case, the marks of Latin, Greek and Cyrillic
    letters and the optional points of Hebrew and Arabic, articles (but not that of "A-Team"), doubled blanks, commas
    between groups of three digits, the script of digits, and punctuation. Single letters in a row are one word: "U.S."
    is "US". What counts: signs that make another number, grade, name or formula of what they stand beside: "-40", "5%",
    "$5", "1.5", "O-", "C#", "C++", "x + 1"."""
    return str(regex.sub(r"(?<=(?<!-)\b[^\W\d_]) (?=[^\W\d_]\b(?![-#]))", "", words_of(answer)))


def official(answer: str) -> str:
    """TriviaQA's own form (Joshi et al. 2017): lower case, ASCII punctuation and quotes as blanks, no articles."""
    plain = answer.replace("_", " ").lower().translate(OFFICIAL_SIGNS)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


@lru_cache(maxsize=1024)
def words_of(answer: str) -> str:
    """`normalised` with single letters left apart: words and signs, a blank between any two."""
    text = JOINED.sub(lambda name: name[0].upper(), _unmarked(_compatible(answer)))  # no article: those are small
    text = regex.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)", lambda number: number[0].replace(",", ""), text)
    text = regex.sub(r"(?<![\w.])\.(?=\d)", "0.", text)
    words = regex.sub(f"([{SIGNS}{CURRENCY}])", r" \1 ", PUNCTUATION.sub(" ", text)).split()
    text = " ".join(ARTICLE.sub(" ", " ".join(words)).split() or words)  # "The" alone keeps it
    # a currency stands before its number: "-$5" and "5 $" are "$ -5" and "$ 5"
    text = regex.sub(rf"(?<!\S)- ((?:{CURRENCY} )+)(?=\d)", r"\1-", text)
    words = regex.sub(rf"(?<!\S)(-?\d\S*)((?: {CURRENCY})++)(?! -?\d)", r"\2 \1", text).split()
    plus = next((i for i, word in enumerate(words) if word != "+"), 0)
    if words and words[plus][0].isdigit():
        words = words[plus:]  # "+5" is "5"
    return " ".join(words).translate(SMALL)


def _compatible(text: str) -> str:
    """The text in NFKC without letter case, digits of all scripts as ASCII ones.

    Powers and fractions stay apart from the digits that NFKC makes of them: "10⁵" is "10^5", "5½" is "5 1/2"."""
    if text.isascii():
        return text.casefold()
    text = FRACTION.sub(r" \1", POWER.sub(r"^\1", SILENT.sub("", text)))
    for _ in range(2):  # folding may undo the normal form, and the normal form may need folding
        text = compatible(compatible(text).casefold())
    return str(regex.sub(r"\p{Nd}", lambda digit: str(unicodedata.decimal(digit[0], digit[0])), text.translate(ALIKE)))


def _unmarked(text: str) -> str:
    """The text without the marks of Latin, Greek and Cyrillic letters and without optional points, in NFC."""
    if text.isascii():
        return text
    apart = OPTIONAL.sub("", MARKED.sub(r"\1", unicodedata.normalize("NFD", text)))
    return unicodedata.normalize("NFC", apart)
