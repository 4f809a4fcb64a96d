"""The form of a text that exact match compares, and TriviaQA's own form.

The module knows characters and words, and nothing of questions, models or files."""

import re
import string
import unicodedata

LONGEST_STACK = 30
"""So many combining marks in a row are read, as in Unicode's stream-safe format (UAX 15); more take minutes."""
MARKED = ("LATIN", "GREEK", "CYRILLIC")
"""The scripts whose letters lose their marks; in others a mark makes another letter (か and が, ก and กา)."""
OPTIONAL = frozenset(
    (
        *(*range(0x0591, 0x05BE), 0x05BF, 0x05C1, 0x05C2, 0x05C4, 0x05C5, 0x05C7),
        *(
            0x0640,
            *range(0x064B, 0x0653),
            0x0670,
            *range(0x06D6, 0x06DD),
            *range(0x06DF, 0x06E9),
            *range(0x06EA, 0x06EE),
        ),
    )
)
"""Code points of Hebrew and Arabic that a writer may leave out: vowel points, cantillation, the Arabic stretch."""
TRADE_MARKS = "\u2120\u2122\u00ae\u00a9"
"""Signs that say who owns a name and are no part of it."""
MINUS = dict.fromkeys(map(ord, "\u2212\u2013\u2010\u2011"), "-")
ALIKE = MINUS | {ord("\u066c"): ",", ord("\u066b"): ".", ord("\u2044"): "/", ord("\u266f"): "#"}
"""Signs that are written in two ways: minus, the separators of Arabic numbers, the stroke of fractions, the sharp."""
SIGNS = "+<=>%\u2030\u00b1\u00d7\u00f7\u221a\u221e\u266d"
"""Signs that always count, each a word of its own."""
CURRENCY = "[$\u00a2-\u00a5\u20a0-\u20cf]"
"""A pattern of one currency sign."""
ARTICLES = ("a", "an", "the")
OFFICIAL_SIGNS = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4`", " "))


def normalised(answer: str) -> str:
    """The form of an answer that exact match compares.

    What does not count: compatible forms of one character (NFKC), letter case, the marks of Latin, Greek and Cyrillic
    letters and the optional points of Hebrew and Arabic, articles, doubled blanks, commas between groups of three
    digits, the script of digits, and punctuation. Single letters in a row are one word: "U.S." is "US". What counts:
    signs that make another number, grade, name or formula of what they stand beside: "-40", "5%", "$5", "1.5", "O-",
    "C#", "C++", "x + 1"."""
    return re.sub(r"(?<=\b[^\W\d_]) (?=[^\W\d_]\b(?![-#]))", "", words_of(answer))


def official(answer: str) -> str:
    """TriviaQA's own form (Joshi et al. 2017): lower case, ASCII punctuation and quotes as blanks, no articles."""
    plain = answer.replace("_", " ").lower().translate(OFFICIAL_SIGNS)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def words_of(answer: str) -> str:
    """`normalised` with single letters left apart: words and signs, a blank between any two."""
    text = _unmarked(_compatible(answer))
    text = re.sub(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+)(?!\d|,\d)", lambda number: number[0].replace(",", ""), text)
    text = re.sub(r"(?<![\w.])\.(?=\d)", "0.", text)
    signs = "".join(text[i] if _counts(text, i) else " " for i in range(len(text)))
    signs = re.sub(f"([{SIGNS}])", r" \1 ", signs)
    # a currency stands before its number: "5 $" and "-$5" are "$ 5" and "$ -5"
    signs = re.sub(
        rf"(-?\d[\d./]*)((?: *{CURRENCY})+)(?! *-?\d)", r" \2 \1", re.sub(rf"-({CURRENCY}+) *(\d)", r"\1-\2", signs)
    )
    signs = re.sub(rf"({CURRENCY})", r" \1 ", signs)
    words = signs.split()
    while words[:1] == ["+"] and words[1:] and (words[1] == "+" or words[1][0].isdigit()):
        del words[0]  # "+5" is "5"
    # an answer of articles alone ("A") keeps them
    return " ".join(word for word in words if word not in ARTICLES) or " ".join(words)


def _compatible(text: str) -> str:
    """The text in NFKC without letter case, long stacks of marks cut, digits of all scripts as ASCII ones."""
    stack, kept = 0, list[str]()
    for character in text:
        stack = stack + 1 if unicodedata.combining(character) else 0
        if stack <= LONGEST_STACK and character not in TRADE_MARKS and unicodedata.category(character) != "Cf":
            # a power or a fraction stays one beside the digits that NFKC makes of it: "10⁵" is "10^5", "5½" is "5 1/2"
            form = unicodedata.decomposition(character)
            number = kept and kept[-1].isdecimal() and character.isnumeric()
            kept += ["^"] if number and form.startswith("<super>") else [" "] if form.startswith("<fraction>") else []
            kept.append(character)
    folded = "".join(kept)
    for _ in range(2):  # folding may undo the normal form, and the normal form may need folding: NFKC_Casefold
        folded = unicodedata.normalize("NFKC", folded.casefold())
    plain = folded.translate(ALIKE)
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in plain)


def _unmarked(text: str) -> str:
    """The text without the marks of Latin, Greek and Cyrillic letters and without optional points, in NFC."""
    kept: list[str] = []
    bare = False  # whether the letter before loses its marks
    for character in unicodedata.normalize("NFD", text):
        if unicodedata.category(character)[0] != "M":
            bare = unicodedata.name(character, "").startswith(MARKED)
        elif bare:
            continue
        if ord(character) not in OPTIONAL:
            kept.append(character)
    return unicodedata.normalize("NFC", "".join(kept))


def _word(character: str) -> bool:
    """Whether the character belongs to a word: a letter, a mark, a number. Python's \\w leaves vowel signs out."""
    return unicodedata.category(character)[0] in "LMN"


def _counts(text: str, i: int) -> bool:
    """Whether a character is part of a word or a sign that makes another answer of what it stands beside."""
    character = text[i]
    before, after = text[i - 1 : i], text[i + 1 : i + 2]
    if _word(character) or character in SIGNS:
        return True
    if re.fullmatch(CURRENCY, character):
        return True
    if character == "-":
        return _is_minus(text, i)
    if character == "#":
        return bool(before) and _word(before)
    if character in "./":
        return before.isdigit() and after.isdigit()
    return character == "^" and bool(before and after) and _word(before) and _word(after)


def _is_minus(text: str, i: int) -> bool:
    """Whether a hyphen is a sign: -40, O- and x - 1, but not 1914-18, well-known, pre- and Paris - Texas."""

    def word(place: int) -> bool:
        return 0 <= place < len(text) and _word(text[place])

    def letter(place: int) -> bool:
        return word(place) and text[place].isalpha() and not word(place - 1) and not word(place + 1)

    negative = re.match(rf"{CURRENCY}*\d", text[i + 1 :]) and not word(i - 1)
    grade = letter(i - 1) and not word(i + 1)
    apart = text[i - 1 : i] == text[i + 1 : i + 2] == " " and word(i - 2) and word(i + 2)
    return bool(negative) or grade or (apart and (letter(i - 2) or letter(i + 2)))
