"""Thoughts in a model's text: what stands between their marks is said to nobody, and is no answer."""

import re

CHANNEL = "<|channel|>final<|message|>"
THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis", CHANNEL),
    ("<|channel|>commentary", CHANNEL),
)
"""What opens a thought and what ends it. gpt-oss thinks in channels of their own until it opens the final one."""


def opens_thought(text: str) -> bool:
    """A thought that the text opens is not ended by its end."""
    return any(text.rfind(begin) > text.rfind(end) for begin, end in THOUGHTS)


def without_thoughts(text: str, *, opened: bool = False) -> str | None:
    """What is said aloud; None where a thought is left open, after which nothing has been said.

    opened: the text begins within a thought, which its prompt has opened."""
    if opens_thought(text) or (opened and not any(end in text for _, end in THOUGHTS)):
        return None
    for begin, end in THOUGHTS:
        text = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", "", text, flags=re.DOTALL)
        text = text.rpartition(end)[2]  # an end alone ends what the prompt has opened
    return text.strip()
