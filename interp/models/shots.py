"""The worked examples of a prompt, and how a question is worded.

It knows formats and nothing of tokenizers."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from interp.datasets.choices import LETTERS
from interp.errors import UserError
from interp.formats import ConfidenceFormat

OPEN_SHOTS = (
    ("What do bees make?", "Honey"),
    ("What is frozen water called?", "Ice"),
    ("How many legs does a spider have?", "Eight"),
    ("Which planet is closest to the Sun?", "Mercury"),
    ("Who wrote the play Hamlet?", "William Shakespeare"),
    ("Which instrument measures temperature?", "Thermometer"),
    ("What colour is an emerald?", "Green"),
    ("Which sport is played at Wimbledon?", "Tennis"),
    ("What do we call a young cat?", "Kitten"),
)
CHOICE_SHOTS = (
    ("Which of these is a fruit?", ("Carrot", "Apple", "Potato", "Onion"), 1),
    ("Which animal lays eggs?", ("Hen", "Cow", "Horse", "Dog"), 0),
    ("Which of these is a tool for cutting?", ("Spoon", "Bucket", "Pillow", "Scissors"), 3),
    ("Which season is the coldest?", ("Summer", "Spring", "Winter", "Autumn"), 2),
    ("What is 3 + 4?", ("6", "7", "8", "9"), 1),
    ("Which of these can fly?", ("Snail", "Whale", "Goat", "Eagle"), 3),
)
"""Worked examples, on no relation of the embedded questions: (question, choices, index of the right one).

Their answers are right. Their confidences are drawn independently of that, so that no example teaches that a right
answer deserves a high one."""


@dataclass(frozen=True)
class Shot:
    """One worked example in the prompt."""

    question: str
    """The question as it is shown, choices included."""
    answer: str
    """The answer that the example gives."""
    level: str
    """The confidence level that the example states."""


def shot_set(count: int, confidence: ConfidenceFormat, *, seed: int, choices: bool) -> tuple[Shot, ...]:
    """Draws worked examples whose confidences are spread evenly over the scale, in random order.

    Args:
        count: how many worked examples.
        confidence: the format whose levels they state.
        seed: decides which examples are drawn, their order and their confidences.
        choices: whether they are multiple choice.

    Raises:
        UserError: where `count` is negative or exceeds the number of examples.
    """
    pool = (
        [(asked(text, options), LETTERS[right]) for text, options, right in CHOICE_SHOTS]
        if choices
        else [(asked(text), answer) for text, answer in OPEN_SHOTS]
    )
    if not 0 <= count <= len(pool):
        raise UserError(f"--shots {count}: there are {len(pool)} examples, so 0 to {len(pool)}")
    draw = random.Random(f"shots-{seed}")
    picked = draw.sample(pool, count)
    last = len(confidence.levels) - 1
    # stratified: the scale is cut into `count` equal parts, and each example draws a level from a part of its own
    ranks = [round(last * (i + draw.random()) / max(count, 1)) for i in range(count)]
    draw.shuffle(ranks)
    return tuple(
        Shot(text, answer, confidence.levels[rank]) for (text, answer), rank in zip(picked, ranks, strict=True)
    )


def asked(text: str, choices: Sequence[str] = (), context: str = "") -> str:
    """The question as the prompt shows it: passage, question, lettered choices, each on lines of its own."""
    lines = [context.strip()] if context.strip() else []
    lines.append(f"Question: {text.strip()}")
    lines += [f"{letter}. {choice.strip()}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join(lines)
