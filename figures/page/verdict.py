"""What a diagnosis says, by rule: does the stated confidence depend on the answer?

The rules stand in the order in which they are tried; the first that holds decides. They take finished estimates."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from figures.captions import Number, digits, interval, percent
from figures.page.content import Verdict
from interp.instruments.jsd import BRANCHED, SAME_RELATION, SAMPLED
from interp.intervals import Estimate

FEWEST = 20
"""With fewer questions nothing is said."""
MOST_OFF_SCALE = 0.5
"""Above this mean off-scale mass the confidence is hardly stated on the scale."""
LOOKS = 0.02
"""Above this noise floor (nats) the confidence reacts to looks: to letter case and a full stop."""
NO_DEPENDENCE = 0.01
"""Up to this (nats) a divergence beyond the noise floor is called none."""
MOSTLY_NEAR_ZERO = 0.8
"""The least share of questions with a divergence of at most 0.1 nats."""


@dataclass(frozen=True)
class Evidence:
    """The numbers that the rules look at, of one source of wrong answers."""

    source: str
    """Where the wrong answers come from, in words."""
    above_noise: Estimate
    """The divergence between right and wrong answer less the question's noise floor: the median, in nats."""
    near_zero: Estimate
    """The share of questions with a divergence of at most 0.1 nats."""
    direction: Estimate
    """The mean difference of expected confidence, right less wrong."""
    noise_floor: Estimate
    """The median divergence between an answer and its surface-form variants, in nats."""
    control: Estimate
    """The divergence to the hinted answer less the noise floor: the median, in nats."""
    off_scale: Estimate
    """The mean off-scale mass, in [0, 1]."""


def obstacles(evidence: Evidence) -> list[str]:
    """Why nothing can be told, in words: few questions, a positive control that is not above the noise floor, or a
    confidence off its scale. Empty where none of these holds."""
    off_scale = evidence.off_scale.value
    reasons = {
        f"there are fewer than {FEWEST} questions": evidence.above_noise.n < FEWEST,
        "a hint that the answer is wrong is not shown to move the confidence beyond the noise floor": not _above_zero(
            evidence.control
        ),
        "most of the probability lies off the scale": off_scale is None or off_scale > MOST_OFF_SCALE,
    }
    return [words for words, holds in reasons.items() if holds]


def reacts_to_looks(evidence: Evidence) -> bool:
    """A noise floor above `LOOKS`, and a divergence that is not above it."""
    noise = evidence.noise_floor.value
    return noise is not None and noise > LOOKS and not _above_zero(evidence.above_noise)


def answer_independent(evidence: Evidence) -> bool:
    """A divergence that is at most `NO_DEPENDENCE` above the noise floor, on at least most questions near zero."""
    high, low = evidence.above_noise.high, evidence.near_zero.low
    return high is not None and high <= NO_DEPENDENCE and low is not None and low >= MOSTLY_NEAR_ZERO


def depends_on_the_answer(evidence: Evidence) -> bool:
    """A divergence above the noise floor, and more confidence after right answers."""
    return _above_zero(evidence.above_noise) and _above_zero(evidence.direction)


def reacts_without_direction(evidence: Evidence) -> bool:
    """A divergence above the noise floor, without more confidence after right answers."""
    return _above_zero(evidence.above_noise) and not _above_zero(evidence.direction)


def _above_zero(estimate: Estimate) -> bool:
    """Whether the whole interval lies above zero, and the value above its numerical floor."""
    return estimate.low is not None and estimate.low > 0 and estimate.measurable


@dataclass(frozen=True)
class Rule:
    """One verdict."""

    name: str
    """What the confidence is called."""
    holds: Callable[[Evidence], bool]
    """Whether the numbers say so."""
    says: str
    """What that means; `{why}` stands for what `obstacles` says."""
    leaves_open: str
    """What it does not mean."""


RULES = (
    Rule(
        "cannot be told",
        lambda evidence: bool(obstacles(evidence)),
        "It cannot be told whether the stated confidence depends on the answer: {why}.",
        "Neither independence nor dependence follows: measure more questions, or another format.",
    ),
    Rule(
        "reacts to looks",
        reacts_to_looks,
        "The stated confidence reacts to how an answer is written, and not beyond that to which answer it is.",
        "A dependence on what the answer says may hide below this noise; it is not shown to be absent.",
    ),
    Rule(
        "answer-independent",
        answer_independent,
        "The stated confidence does not depend on the answer: it is nearly the same after a right and a wrong one.",
        "It holds for these questions, this format and this prompt, and does not say what the model knows.",
    ),
    Rule(
        "depends on the answer",
        depends_on_the_answer,
        "The stated confidence depends on the answer, and is higher after the right one.",
        "It does not say that the confidence is calibrated, nor that it follows the answer's meaning: "
        "likelihood, length and looks differ between right and wrong answers too.",
    ),
    Rule(
        "reacts without direction",
        reacts_without_direction,
        "The stated confidence reacts to the answer, but is not shown to be higher after the right one.",
        "A reaction without direction is no knowledge of which answer is right.",
    ),
    Rule(
        "undecided",
        lambda evidence: True,
        "Whether the stated confidence depends on the answer is undecided: the intervals allow for both.",
        "More questions would make the intervals narrower.",
    ),
)
"""In the order in which they are tried; the last one always holds."""

SOURCES = {
    "sampled": (SAMPLED, "jsd.near_zero_share", "jsd.direction.mean"),
    "branched": (BRANCHED, "jsd.branched.near_zero_share", "jsd.branched.direction.mean"),
    "same_relation": (SAME_RELATION, "jsd.same_relation.near_zero_share", "jsd.same_relation.direction.mean"),
}
"""By source of wrong answers: its words, and the keys of the share near zero and of the direction."""
_NONE = Estimate(None, None, None, 0)


def evidence_of(estimates: Mapping[str, Estimate]) -> Evidence | None:
    """The numbers of the first source of wrong answers that enough questions have; where none has, of the largest.

    Args:
        estimates: A run's numbers by their keys in summary.json.

    Returns:
        None where the run did not measure divergences against the noise floor.
    """
    counts = {source: estimates.get(f"jsd.above_noise.{source}", _NONE).n for source in SOURCES}
    source = next((name for name, count in counts.items() if count >= FEWEST), max(counts, key=lambda key: counts[key]))
    if not counts[source]:
        return None
    words, near_zero, direction = SOURCES[source]
    keys = (
        f"jsd.above_noise.{source}",
        near_zero,
        direction,
        "jsd.noise_floor",
        "jsd.above_noise.positive_control",
        "jsd.off_scale_mass",
    )
    return Evidence(words, *(estimates.get(key, _NONE) for key in keys))


def verdict_of(evidence: Evidence) -> Verdict:
    """What the first rule that holds says, the numbers that it was decided by, and what it leaves open."""
    rule = next(rule for rule in RULES if rule.holds(evidence))
    left_out = f" ({evidence.above_noise.left_out} left out)" if evidence.above_noise.left_out else ""
    numbers = (
        f"{evidence.above_noise.n} questions{left_out}, wrong answer {evidence.source}: "
        f"JSD less the noise floor {_in_words(evidence.above_noise)} nats; "
        f"JSD at most 0.1 nats in {_in_words(evidence.near_zero, percent)} of them; "
        f"confidence after the right answer less that after the wrong one {_in_words(evidence.direction)}. "
        f"Noise floor {_in_words(evidence.noise_floor)} nats; JSD to the hint that the answer is wrong, less the noise "
        f"floor, {_in_words(evidence.control)} nats; off-scale mass {_in_words(evidence.off_scale)}. "
        "In brackets: 95 % intervals for these relations."
    )
    says = rule.says.replace("{why}", "; ".join(obstacles(evidence)))
    return Verdict(rule.name, (says, numbers, rule.leaves_open))


def _in_words(estimate: Estimate, number: Number = digits) -> str:
    """Value and interval, and whether rounding alone may make it."""
    if estimate.value is None:
        return "none"
    text = number(estimate.value) + (f" {interval(estimate, number)}" if estimate.low is not None else "")
    return text if estimate.measurable else f"{text} (within its numerical floor)"
