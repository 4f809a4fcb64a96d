"""Sequence probability: the probability of the answer's own tokens, the baseline of stated confidences."""

import math

from interp.formats import ConfidenceFormat
from interp.methods.base import Method, Score, Verdict
from interp.methods.default import READ
from interp.run.runs import Record


def _sequence(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    """The probability of the whole answer and the end of its line."""
    return None if answer is None else Verdict(answer, min(1.0, math.exp(record["logprob"])))


def _per_token(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    """The geometric mean of the tokens' probabilities."""
    mean = record["logprob"] / (record["answer_tokens"] + 1)  # the end of the line is a token too
    return None if answer is None else Verdict(answer, min(1.0, math.exp(mean)))


SEQUENCE = Method(
    name="sequence",
    about="The probability of the answer's own tokens, whole and per token.",
    asking=READ,
    scores=(
        Score("sequence", "sequence probability", _sequence, speaks=False),
        Score("sequence_per_token", "sequence, per token", _per_token, speaks=False),
    ),
)
