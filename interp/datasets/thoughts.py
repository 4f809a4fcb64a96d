"""Finds and removes thoughts in a model's text: the text between their marks is not part of the answer.

The module works on plain text and knows no tokenizer and no template."""

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
"""(opening mark, ending mark) of a thought. gpt-oss thinks in separate channels until it opens the final one."""


def opens_thought(text: str) -> bool:
    """Whether the text ends within a thought: its last opening mark is not followed by the ending mark."""
    return any(text.rfind(begin) > text.rfind(end) for begin, end in THOUGHTS)


def without_thoughts(text: str, *, opened: bool = False) -> str | None:
    """The text without its thoughts.

    Args:
        text: a reply of the model.
        opened: whether the text begins within a thought, which its prompt has opened.

    Returns:
        None where a thought is left open, so that the reply holds no answer.
    """
    if opens_thought(text) or (opened and not any(end in text for _, end in THOUGHTS)):
        return None
    for begin, end in THOUGHTS:
        text = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", "", text, flags=re.DOTALL)
        text = text.rpartition(end)[2]  # an ending mark alone ends the thought that the prompt has opened
    return text.strip()
