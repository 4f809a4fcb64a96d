"""What the records of a run hold: one dataclass for each measure, read by figures and summaries.

An object stands for one line of records.jsonl. Instruments hand back plain dicts with the same keys, and
`interp.run.typed` reads a dict as its dataclass. Fields with a default are those that some records lack, those of
version 0.1 among them. The module lies below figures and instruments, so that both can import it."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from interp.errors import UserError
from interp.records import MassSpan, PlaceName, Source, Span

Numbers = dict[str, float | None]
"""The numbers of one question by their names; None for a number that could not be computed."""
ScoreName = Literal["expected", "stated"]
"""What is attributed: the expected confidence, or the log-probability (nats) of the stated level."""
PathName = Literal["answer", "tokens", "prompt"]
"""What moves along the path of integrated gradients: the answer, each span token by token, or the whole prompt."""


@dataclass(frozen=True, kw_only=True)
class QuestionRecord:
    """What the records of every measure hold."""

    measure: ClassVar[str]
    """The name of the measure."""
    id: str
    """The question's id."""
    set: int = 0
    """The number of the set of worked examples and wording of the instruction in the prompt."""


# Answers


@dataclass(frozen=True, kw_only=True)
class TranscriptRecord:
    """A rendered prompt with an answer, cut into tokens."""

    text: str
    """The rendered text, template markers included."""
    ids: tuple[int, ...]
    """Token ids, [tokens]."""
    tokens: tuple[str, ...]
    """The characters that each token stands for, [tokens]."""
    spans: tuple[Span, ...]
    """The span of each token, [tokens]."""


@dataclass(frozen=True, kw_only=True)
class AnswerRecord(QuestionRecord):
    """The model's answer to a question, or the user's own."""

    measure = "answer"
    question: str
    """The question's text."""
    relation: str = ""
    """Its relation or subject; empty where the data has none."""
    accepted: tuple[str, ...] = ()
    """The answers that count as right."""
    answer: str | None
    """The answer; None where there is none that the prompt can hold."""
    right: bool
    """Whether it is right."""
    tokens: int | None = None
    """How many tokens the model generated; None for a user's own answer."""
    reply: str | None = None
    """The reply as it was written; None where it is the answer itself."""
    stated: int | None = None
    """Index of the level that a free reply states; None where it states none."""
    parsed: bool | None = None
    """Whether a free reply held both an answer and a level; None for other replies."""
    transcript: TranscriptRecord | None = None
    """The prompt with the answer; None for a wrong answer."""

    @property
    def prompt(self) -> TranscriptRecord:
        """The transcript of a right answer.

        Raises:
            UserError: where the record holds none.
        """
        if self.transcript is None:
            raise UserError(f"the answer record of question {self.id!r} holds no transcript")
        return self.transcript


# Candidate answers


@dataclass(frozen=True, kw_only=True)
class CandidateAnswers:
    """Distinct answers of a model to one question, and how each came about."""

    wrong: tuple[str, ...]
    """Vetted wrong answers: sampled ones in the order in which they came, then those found by branching alone."""
    distinct: tuple[str, ...]
    """All distinct answers, right or wrong, in the same order."""
    sources: tuple[Source, ...] = ()
    """How each distinct answer came about; empty in runs of version 0.1, where all were sampled."""
    logprobs: tuple[float, ...] = ()
    """The log-probability (nats) of each distinct answer and of the end of its line, as in `Reading.answer_logprob`."""
    branched: tuple[str, ...] = ()
    """Wrong answers found by branching, sampled as well or not: by rounds, and in each round the likeliest first."""
    tries: int
    """How many samples were drawn."""
    branches: int = 0
    """How many branches were followed."""
    vetoed: int
    """How many distinct answers were right, too close to right to be used as wrong, or words of the question."""


@dataclass(frozen=True, kw_only=True)
class SampleRecord(CandidateAnswers, QuestionRecord):
    """The candidate answers to one question."""

    measure = "sample"


# Divergence


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """An answer that was put to a question, and the confidence after it."""

    answer: str
    """The answer."""
    probability: tuple[float, ...]
    """The probability of each level, renormalised over the levels, [levels]; sums to 1."""
    outside: float
    """The off-scale mass, in [0, 1]."""
    expected: float
    """The expected confidence, in [0, 1]."""
    logprob: float
    """The log-probability (nats) of the answer and of the end of its line."""
    tokens: int
    """How many tokens the answer has."""


@dataclass(frozen=True, kw_only=True)
class DivergenceRecord(QuestionRecord):
    """Every answer that was put to a question, and how far the confidences after them lie apart."""

    measure = "jsd"
    answers: dict[str, tuple[Spoken, ...]] = field(default_factory=dict)
    """The answers by their role: right, wrong, branched, noise, foil, foreign, candidate, filled, hint."""
    values: Numbers
    """Divergences (nats) and differences, by the names that `interp.instruments.jsd.values` gives them."""


# Rollout


@dataclass(frozen=True, kw_only=True)
class RolloutRecord(QuestionRecord):
    """Attention rollout from two tokens of one prompt, and the same under uniform attention."""

    measure = "rollout"
    layers: int
    """The depth of the model."""
    spans: tuple[Span, ...]
    """The span of each token, [tokens]: those of the prompt, then those that all levels begin with."""
    weights: dict[str, tuple[float, ...]]
    """The weight of each token's input, [tokens], by where rollout is read: "confidence" or "answer"."""
    null: dict[str, tuple[float, ...]]
    """The same under uniform attention."""
    windows: dict[str, dict[MassSpan, float]]
    """The mass of each span through a window of layers alone, by the first and last layer, as in "0-6"."""
    values: Numbers
    """The mass of each span, in [0, 1], by span and reading, as in "answer.mass"."""


# Masking


@dataclass(frozen=True, kw_only=True)
class MaskedReading:
    """The confidence with the answer in sight, or hidden in one way."""

    probability: tuple[float, ...]
    """The probability of each level, renormalised over the levels, [levels]; sums to 1."""
    outside: float
    """The off-scale mass, in [0, 1]."""
    expected: float
    """The expected confidence, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class MaskingRecord(QuestionRecord):
    """The confidence after a right answer, in sight and hidden."""

    measure = "masking"
    seen: MaskedReading
    """With the answer in sight."""
    masked: dict[str, MaskedReading]
    """With the answer hidden, by the name of the replacement or knockout."""
    values: Numbers
    """Expected confidences and drops, as in "seen", "mean.masked" and "mean.drop"."""


# Attribution


@dataclass(frozen=True)
class Attribution:
    """One score spread over tokens along one path."""

    attribution: tuple[float, ...]
    """What each token contributed, in the score's units."""
    effect: float
    """The difference of the score between the path's ends; the sum of the attributions if the integral were exact."""
    gap: float
    """The sum of the attributions minus the effect."""
    nodes: int
    """How many Gauss-Legendre nodes were used; 0 where the integral is known without any."""
    refused: bool
    """The gap was not within `interp.instruments.gradients.gap_allowed` at two successive counts of nodes."""
    floor: float = 0.0
    """By how much the same score differs when it is read in different packings; 0 in exact arithmetic."""

    def as_record(self) -> dict[str, Any]:
        """Plain fields."""
        return {
            "attribution": list(self.attribution),
            "effect": self.effect,
            "gap": self.gap,
            "nodes": self.nodes,
            "refused": self.refused,
            "floor": self.floor,
        }


@dataclass(frozen=True, kw_only=True)
class KeptNumbers:
    """Numbers of one attribution whatever its completeness gap; no summary takes them."""

    gap: float
    """The sum of the attributions minus the effect, in the score's units."""
    refused: bool
    """The gap is too large for the numbers to be shown."""
    values: Numbers
    """The sum of each span's attributions, as in "answer.effect", and "answer.rank"."""


@dataclass(frozen=True, kw_only=True)
class AttributionRecord(QuestionRecord):
    """What each part of one prompt does to the score at the confidence."""

    measure = "attribution"
    score: ScoreName
    """What is attributed: the expected confidence, or the log-probability (nats) of the stated level."""
    range: float
    """The difference between the format's highest and lowest value; 1 for a log-probability."""
    path: PathName
    """What moves along the path of integrated gradients."""
    value: float
    """The score with nothing replaced."""
    effects: dict[Span, dict[str, float]]
    """What replacing a span takes away from the score, by span and replacement."""
    answer: dict[str, Attribution]
    """By baseline: the attribution of the answer's tokens, or of the whole prompt's where the path moves them all."""
    tokens: tuple[float | None, ...]
    """The effect of each token of the prompt, in the score's units, [tokens]; None for a token that was left out."""
    values: Numbers
    """Effects, the answer's rank and its completeness gap, as in "answer.effect" and "answer.rank"."""
    kept: dict[str, KeptNumbers] = field(default_factory=dict)
    """By baseline, what the path of the whole prompt gives even where it was refused; empty unless asked for."""


# Probe


@dataclass(frozen=True, kw_only=True)
class ProbeRecord(QuestionRecord):
    """What probes that were fitted on other relations say about one answer."""

    measure = "probe"
    place: PlaceName = "answer"
    """The place of the stream that was fixed beforehand."""
    layers: tuple[int, ...] = ()
    """How many layers each kept stream has passed."""
    layer: int = 0
    """How many had passed where the probe was read: chosen on other relations."""
    penalty: float = 1.0
    """C of its logistic regression, likewise."""
    scores: dict[PlaceName, tuple[float | None, ...]] = field(default_factory=dict)
    """The log-odds that the answer is right by place, [layers]; None where nothing could be fitted."""
    values: Numbers
    """Whether the answer is right, its relation's number, out-of-fold scores, and what else tells right from wrong."""


# Steering


@dataclass(frozen=True, kw_only=True)
class SteeringRecord(QuestionRecord):
    """The confidence in one answer while a direction is added to the residual stream after it."""

    measure = "steering"
    layer: int
    """How many layers the stream has passed where the direction is added."""
    place: PlaceName
    """The place whose streams gave the direction."""
    direction: str
    """How it was fitted: stated, probe or means."""
    doses: tuple[float, ...]
    """The doses, in standard deviations of the streams' projections, in rising order."""
    values: Numbers
    """Expected and stated confidence and off-scale mass: "unsteered.expected", at a dose "steered.expected.2", along a
    random direction "random.0.expected.2", steered by the probe "two_stage.expected"; slopes; the probe's probability
    and the dose that it sets; whether the answer is right, and the number of its relation."""


# Flow


@dataclass(frozen=True, kw_only=True)
class Dependence:
    """What is left of the dependence on the answer under a knockout in both prompts."""

    jsd: float
    """The divergence (nats) between the confidences after the right and after the wrong answer."""
    right: float
    """The expected confidence after the right answer."""
    wrong: float
    """The same after the wrong one."""
    outside: float | None = None
    """The off-scale mass, the mean of both prompts; None in runs that did not keep it."""


@dataclass(frozen=True, kw_only=True)
class FlowRecord(QuestionRecord):
    """Knockouts of attention and swaps of the residual stream between a right and a wrong answer."""

    measure = "flow"
    source: str
    """Where the wrong answer comes from: sampled, branched or same_relation."""
    answers: dict[str, str | None]
    """The answers by "right" and "wrong"; None where there is no wrong one, and nothing was measured."""
    whole: dict[str, float] = field(default_factory=dict)
    """The expected confidence after each as it is."""
    knockouts: dict[str, Dependence] = field(default_factory=dict)
    """What is left, by the edge that is cut in all layers."""
    windows: dict[str, dict[str, Dependence]] = field(default_factory=dict)
    """The same by edge and by the first and last layer of a window, as in "0-4"."""
    swaps: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """By the group whose stream is swapped and by how many layers it has passed: the expected confidence after the
    "right" and the "wrong" answer."""
    swap_controls: dict[str, dict[str, float]] = field(default_factory=dict)
    """By group, the change of the expected confidence after the right answer with its own stream ("itself"), with that
    of a surface-form variant ("variant") and with that of another question whose answer is as long ("other")."""
    other_question: str | None = None
    """The id of that other question; None where the data have none."""
    values: Numbers
    """What is left and what moves, as in "answer_to_read.jsd" and "swap.read.half"; see `interp.instruments.flow`."""


# Numerical floor


@dataclass(frozen=True, kw_only=True)
class FloorRecord(QuestionRecord):
    """The confidence after one right answer, read twice in different packings."""

    measure = "floor"
    readings: tuple[tuple[float, ...], ...]
    """The probability of each level in both readings, [readings, levels]."""
    values: Numbers
    """The differences, the first reading minus the second."""
