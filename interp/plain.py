"""Safe input and output of foreign text: JSON without traps, and text without characters that a terminal acts on.

The module knows characters and JSON, and nothing of what a text is about."""

import json
import math
import re
import unicodedata
from typing import Any

import regex

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, ends of lines, changes of the writing direction, halves of surrogate pairs, and code points that
are no characters."""
HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, which UTF-8 cannot encode."""

STACKED = regex.compile(r"(\p{M}{30})\p{M}+")
"""More combining marks in a row than Unicode's stream-safe format (UAX 15) allows."""


def plain_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Args:
        text: the text, or its bytes in UTF-8.

    Raises:
        ValueError: for malformed JSON, and for what Python's reader accepts or fails at: numbers that are not finite,
            half of a surrogate pair, nesting deeper than the stack.
    """
    decoded = text if isinstance(text, str) else text.decode()
    try:
        value = json.loads(decoded, parse_float=_finite, parse_constant=_finite)
        # half a pair stands in the text itself, or comes from an escape, which shows in the value only
        halved = HALF.search(decoded) or ("\\u" in decoded and HALF.search(json.dumps(value, ensure_ascii=False)))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if halved:
        raise ValueError("half of a surrogate pair, which is no character")
    return value


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is not a finite number")
    return value


def compatible(text: str) -> str:
    """The text in NFKC: characters that only look different are equal. Longer stacks of marks are cut, since Unicode's
    normal forms sort them pair by pair."""
    return text if text.isascii() else unicodedata.normalize("NFKC", STACKED.sub(r"\1", text))


def visible(text: str) -> str:
    """The text in one line, each control character written as its escape."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def reason(error: Exception) -> str:
    """The first 200 characters of a library's message, in one line, with the error's type where they are one word."""
    message = visible(" ".join(str(error).split())[:200])
    return message if " " in message else f"{type(error).__name__} {message}".strip()
