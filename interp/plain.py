"""What others wrote, as it is taken in and as it is shown: JSON without traps, text that no terminal acts on."""

import json
import math
import re
from typing import Any

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, ends of lines, changes of the writing direction, halves of surrogate pairs and what is
no character at all."""
HALF = re.compile("[\ud800-\udfff]")


def plain_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Errors: ValueError, also for what Python's reader takes or stumbles over: numbers that are not finite, half of a
    surrogate pair, nesting deeper than the stack."""
    said = text if isinstance(text, str) else text.decode()
    try:
        found = json.loads(said, parse_float=_finite, parse_constant=_finite)
        halved = HALF.search(said) or ("\\u" in said and HALF.search(json.dumps(found, ensure_ascii=False)))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if halved:
        raise ValueError("half of a surrogate pair, which is no character")
    return found


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is not a finite number")
    return value


def visible(text: str) -> str:
    """The text in one line, each control character written as its escape."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def reason(error: Exception) -> str:
    """The first words of a library's message, in one line; with the error's kind where that says too little."""
    said = visible(" ".join(str(error).split())[:200])
    return said if " " in said else f"{type(error).__name__} {said}".strip()
