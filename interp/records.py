"""The data types that pass between modules: question, transcript, confidence distribution.

They hold plain values and check them. The module knows nothing of models, tokenizers and files."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Span = Literal["special", "instruction", "shots", "question", "answer", "tail", "confidence"]
SPANS: tuple[Span, ...] = get_args(Span)
"""special: the chat template's own text (BOS, turn markers, role names) and the label "Answer:"; tail: from the end of
the answer to the slot of the confidence."""

READ_SPANS: tuple[Span, ...] = SPANS[:-1]
"""The spans that stand before the confidence and that it can look back at."""

MassSpan = Literal["special", "instruction", "shots", "question", "answer", "tail", "confidence", "sink"]
MASS_SPANS: tuple[MassSpan, ...] = (*READ_SPANS, "sink")
"""Where attention can go. sink: not a token of the prompt but a learned one in the layers of some models (gpt-oss),
which takes part of the attention mass."""


PlaceName = Literal["question", "answer", "tail", "colon", "read"]
"""question: the question's last token. answer: the answer's last token. tail: the first token after the answer. colon:
the last token of "Confidence:". read: the token after which the levels part."""
PLACES: tuple[PlaceName, ...] = get_args(PlaceName)
"""The places of a transcript whose residual stream is kept."""

Source = Literal["sampled", "branched", "both", "choice"]
"""The source of an answer: top-p sampling, as in the paper; branching; both; or the letters of a multiple choice."""


@dataclass(frozen=True)
class Question:
    """A question with the answers that count as right."""

    id: str
    """Unique within its data set."""
    text: str
    """The question itself, without choices."""
    answers: tuple[str, ...] = ()
    """Accepted answers, the canonical one first; for multiple choice the right letter and the right choice's text."""
    choices: tuple[str, ...] = ()
    """The choices' texts in the order of their letters; empty for open questions."""
    context: str = ""
    """A passage that the question is about; empty for most data."""
    relation: str = ""
    """Relation or subject (capital, currency, ...); empty where the data has none."""
    response: str | None = None
    """An answer that the user already has for this question; it replaces the model's greedy one."""
    confidence: float | None = None
    """The confidence in [0, 1] that the user already has for `response`."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError(f"question {self.id!r} has no text")
        if not any(answer.strip() for answer in self.answers):
            raise ValueError(f"question {self.id!r} has no answer")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise ValueError(f"question {self.id!r} has confidence {self.confidence}, which is outside [0, 1]")


@dataclass(frozen=True)
class Transcript:
    """A rendered prompt as the model reads it, each token belonging to exactly one span."""

    text: str
    """The rendered text, template markers included."""
    ids: tuple[int, ...]
    """Token ids of `text`."""
    spans: tuple[Span, ...]
    """The span of each token."""
    pieces: tuple[str, ...] = ()
    """The characters of `text` that each token stands for."""

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.spans):
            raise ValueError(f"{len(self.ids)} tokens but {len(self.spans)} spans")
        if unknown := set(self.spans) - set(SPANS):
            raise ValueError(f"unknown spans {sorted(unknown)}")

    def positions(self, span: Span) -> tuple[int, ...]:
        """Indices of the span's tokens, in order; empty where the prompt has no such span."""
        return tuple(i for i, name in enumerate(self.spans) if name == span)


@dataclass(frozen=True)
class ConfidenceDistribution:
    """P(C given q, a): the probability of each level at the confidence slot, renormalised over the levels."""

    levels: tuple[str, ...]
    """The format's levels in rising order of value."""
    values: tuple[float, ...]
    """The value in [0, 1] of each level."""
    probability: tuple[float, ...]
    """Probability of each level given that one of them is stated; sums to 1."""
    off_scale: float
    """The off-scale mass, in [0, 1]: the probability that the model writes anything but a level."""

    def __post_init__(self) -> None:
        if not len(self.levels) == len(self.values) == len(self.probability):
            raise ValueError("levels, values and probabilities differ in number")
        if not (
            abs(sum(self.probability) - 1) <= 1e-4 and min(self.probability) >= 0
        ):  # in this form NaN is refused too
            raise ValueError(f"the levels' probabilities sum to {sum(self.probability)}, not to 1")
        if not -1e-4 <= self.off_scale <= 1 + 1e-4:
            raise ValueError(f"the mass outside the levels is {self.off_scale}")

    @property
    def expected(self) -> float:
        """Mean value over the levels, in [0, 1]: the expected confidence."""
        return float(np.dot(self.probability, self.values))

    @property
    def stated(self) -> int:
        """Index of the most likely level, which greedy decoding states."""
        return int(np.argmax(self.probability))

    def _repr_html_(self) -> str:
        """Bars for a notebook. Levels come from the confidence formats, so that nothing needs escaping."""
        bars = "".join(
            f'<div style="display:inline-block;text-align:center;margin:0 1px" title="{level}: {p:.3f}">'
            f'<div style="width:14px;height:{40 * p:.1f}px;background:#4c78a8;margin:auto"></div>'
            f"<small>{level}</small></div>"
            for level, p in zip(self.levels, self.probability, strict=True)
        )
        return f"<div>{bars}</div><small>expected {self.expected:.3f}, off the scale {self.off_scale:.1%}</small>"

    @property
    def flagged(self) -> bool:
        """Whether less than half of the probability lies on the levels, so that they say little about the model."""
        return self.off_scale > 0.5
