"""Per-sample Jensen-Shannon divergence: does the stated confidence react to the answer? (Figure 2)

`python -m interp.jsd` measures it on its own; `python -m interp.diagnose` beside the other instruments."""

import operator
from collections.abc import Callable, Iterator, Sequence
from string import capwords
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.datasets.grading import may_be_right
from interp.divergence import LIMIT, NEAR_ZERO, jensen_shannon, pairwise_divergences
from interp.instruments.base import Instrument, Metric, Place, Unit, Values
from interp.instruments.floor import READINGS, of_score
from interp.intervals import NOT_NEGATIVE, SIGNED, UNIT, Value, rank_correlation, share_of_sum
from interp.records import Question, Source, Transcript
from interp.run.runs import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from figures.captions import Page, RunData
    from interp.models.readout import Reading
    from interp.models.setting import Case, Setting

CANDIDATE_ROLES: dict[Source, str] = {
    "sampled": "candidate",
    "both": "candidate",
    "choice": "candidate",
    "branched": "filled",
}
"""The role of a candidate answer by its source: sampled, as in the paper, or found by branching alone ("filled")."""


VARIANT_KINDS = {
    "letter_case": "in another letter case",
    "full_stop": "with a full stop",
    "quotation_marks": "in quotation marks",
    "article": "with an article",
    "title_case": "in title case",
}
"""The kinds of surface-form variants in words. The noise floor is made of the first two."""
NOISE_KINDS = ("letter_case", "full_stop")


def variants_by_kind(answer: str) -> dict[str, str]:
    """The surface-form variants of an answer by their kind; a kind that would not change the answer is absent."""
    recased = answer.lower() if answer.isupper() else answer.upper()
    with_article = answer if answer.lower().startswith(("the ", "a ", "an ")) else f"the {answer}"
    made = (recased, answer.rstrip(".") + ".", f'"{answer}"', with_article, capwords(answer))
    return {kind: variant for kind, variant in zip(VARIANT_KINDS, made, strict=True) if variant != answer}


def surface_variants(answer: str) -> tuple[str, ...]:
    """The surface-form variants that the noise floor is made of: in another letter case, and with a full stop."""
    return tuple(variant for kind, variant in variants_by_kind(answer).items() if kind in NOISE_KINDS)


def distractors(question: Question, pool: Sequence[Question], *, seed: int) -> dict[str, str]:
    """Answers that belong to other questions.

    An answer that is, or may be, right here too is passed over.

    Args:
        question: the question that they are put to.
        pool: the questions that they are taken from.
        seed: the source of chance; which answers are taken depends on it and on the question's id.

    Returns:
        Up to two answers by their kind. `foil`: the answer to another question of the same relation, a distractor.
        `foreign`: the answer to a question of another relation. A kind that the pool does not hold is absent.
    """
    order = np.random.default_rng([seed, *question.id.encode()]).permutation(len(pool))
    answers: dict[str, str] = {}
    for donor in (pool[i] for i in order):
        kind = "foil" if donor.relation and donor.relation == question.relation else "foreign"
        answer = donor.answers[-1] if donor.choices else donor.answers[0]  # of a choice the text, not the letter
        fits = kind == "foreign" or not question.choices
        if kind not in answers and fits and donor.id != question.id and not may_be_right(question, answer):
            answers[kind] = answer
        if len(answers) == 2:
            break
    return answers


def hint(answer: str) -> str:
    """The positive control: a sentence in the prompt that gives every reader reason to doubt the answer."""
    return f'Hint: the answer "{answer}" is wrong.'


def measured(setting: "Setting", cases: Sequence["Case"], floor: float = 0.0) -> list[Record]:
    """One record for each case: every answer that is put to the question, with the confidence after it.

    floor: by how much the expected confidence differs when the same text is read twice."""
    plans = [_plan(setting, case) for case in cases]
    # all cases are read in one call, and readings come back in the order of the plans
    transcripts = [transcript for plan in plans for _, _, transcript in plan]
    readings = iter(setting.reader.readings(transcripts))
    records = []
    for plan in plans:
        by_role: dict[str, list[Record]] = {}
        for role, answer, _ in plan:
            by_role.setdefault(role, []).append(_spoken(answer, next(readings)))
        records.append({"answers": by_role, "values": values(by_role, floor)})
    return records


def _plan(setting: "Setting", case: "Case") -> list[tuple[str, str, Transcript]]:
    """(role, answer, transcript) of everything that is put to one question."""
    put = [("right", case.answer)]
    put += [("wrong", answer) for answer in case.wrong[:2]]
    put += [("branched", answer) for answer in case.branched[:2]]
    put += [
        ("noise" if kind in NOISE_KINDS else "variant", variant)
        for kind, variant in variants_by_kind(case.answer).items()
    ]
    put += list(distractors(case.question, setting.pool, seed=setting.seed).items())
    put += [(CANDIDATE_ROLES[source], answer) for answer, source in zip(case.candidates, case.sources, strict=True)]
    prompter = setting.prompter
    plan = [(role, answer, prompter.transcript(case.question, answer)) for role, answer in put]
    hinted = prompter.transcript(case.question, case.answer, hint=hint(case.answer))
    return [*plan, ("hint", case.answer, hinted)]


def _spoken(answer: str, reading: "Reading") -> Record:
    """The record of one answer and the confidence after it."""
    distribution = reading.distribution
    return {
        "answer": answer,
        "probability": list(distribution.probability),
        "outside": distribution.off_scale,
        "expected": distribution.expected,
        "logprob": reading.answer_logprob,
        "tokens": reading.answer_tokens,
    }


WRONG_ROLES = {"wrong": "", "branched": "branched_", "foil": "foil_"}
"""The prefix of the names of numbers by the kind of wrong answer: sampled (in multiple choice another letter), found by
branching, or belonging to another question of the relation. Kinds are never pooled."""
PAIR_ROLES = {"": ("candidate",), "filled_": ("candidate", "filled")}
"""The roles whose answers are paired, by the prefix of the names of their numbers: sampled answers alone, and sampled
answers with branched ones."""


def values(by_role: dict[str, list[Record]], floor: float = 0.0) -> dict[str, float | None]:
    """The numbers of one question, recomputed from the distributions in its record.

    Args:
        by_role: the records of its answers by their role, as in "answers" of the question's record; "right" is needed.
        floor: by how much the expected confidence differs when the same text is read twice.

    Returns:
        The numbers by their names; None for a number that lacks one of its answers.
    """

    def between(first: list[Record], second: list[Record]) -> float | None:
        """The mean divergence of the pairs with one answer from each list."""
        divergences = _divergences([(a, b) for a in first for b in second])
        return float(divergences.mean()) if len(divergences) else None

    right = by_role["right"]
    sampled, branched = by_role.get("wrong", []), by_role.get("branched", [])
    numbers: dict[str, float | None] = {
        "jsd": between(right, sampled[:1]),
        "branched": between(right, branched[:1]),
        "noise_floor": between(right, by_role.get("noise", [])),
        "wrong_wrong": between(sampled[:1], sampled[1:2]),
        "branched_wrong_wrong": between(branched[:1], branched[1:2]),
        "foreign": between(right, by_role.get("foreign", [])),
        "foil": between(right, by_role.get("foil", [])),
        "hint": between(right, by_role.get("hint", [])),
        "outside": right[0]["outside"],
        "expected_floor": floor,
    }
    rewritten = [*by_role.get("noise", []), *by_role.get("variant", [])]
    for kind, text in variants_by_kind(right[0]["answer"]).items():
        numbers[f"variant_{kind}"] = between(right, [record for record in rewritten if record["answer"] == text])
    for role, prefix in WRONG_ROLES.items():
        numbers |= {prefix + name: number for name, number in _against(right, by_role.get(role, [])).items()}
    for prefix, roles in PAIR_ROLES.items():
        numbers |= {prefix + name: number for name, number in _of_pairs(by_role, roles).items()}
    return numbers


def _against(right: list[Record], wrong: list[Record]) -> dict[str, float]:
    """The differences between the right answer and the first wrong one; empty where there is no wrong one."""
    if not wrong:
        return {}
    return {
        "direction": right[0]["expected"] - wrong[0]["expected"],
        "likelihood_gap": right[0]["logprob"] - wrong[0]["logprob"],
        "length_gap": wrong[0]["tokens"] - right[0]["tokens"],
        "logprob": wrong[0]["logprob"],
    }


def _of_pairs(by_role: dict[str, list[Record]], roles: Sequence[str]) -> dict[str, float | None]:
    """The mean divergence over all pairs of answers in these roles, the number of pairs, and how many are near zero."""
    answers = [answer["probability"] for role in roles for answer in by_role.get(role, [])]
    divergences = pairwise_divergences(answers)
    count = len(divergences)
    return {
        "candidates": float(divergences.mean()) if count else None,
        "pairs": count,
        "near_zero_pairs": int((divergences <= NEAR_ZERO).sum()),
    }


def _divergences(pairs: Sequence[tuple[Record, Record]]) -> np.ndarray:
    """The divergence of each pair of answers, [pairs]."""
    if not pairs:
        return np.zeros(0)
    sides = [np.array([pair[i]["probability"] for pair in pairs]) for i in (0, 1)]  # each [pairs, levels]
    return jensen_shannon(*sides)


def _share(name: str, holds: Callable[[float, float], bool], edge: float) -> Callable[[Values], Value]:
    """A function of a question's values: 1 where `holds(value, edge)` for the value of this name, else 0.

    None where the question has no such value."""
    return lambda values: None if (value := values.get(name)) is None else float(holds(value, edge))


def _together(*names: str) -> Callable[[Values], Value]:
    """A function of a question's values: those of these names as a tuple, None where the question lacks one."""

    def together(values: Values) -> Value:
        present = tuple(value for name in names if (value := values.get(name)) is not None)
        return present if len(present) == len(names) else None

    return together


def _higher(name: str) -> Callable[[Values], Value]:
    """A function of a question's values: 1 where the difference of this name exceeds the numerical floor, else 0.

    None where the question has no such difference."""

    def higher(values: Values) -> Value:
        difference = values.get(name)
        return None if difference is None else float(difference > values.get("expected_floor", 0.0))

    return higher


def _above_noise(name: str) -> Callable[[Values], Value]:
    """A function of a question's values: the divergence of this name less the question's own noise floor."""

    def above(values: Values) -> Value:
        divergence, noise = values.get(name), values.get("noise_floor")
        return None if divergence is None or noise is None else divergence - noise

    return above


def _near_zero_pairs(prefix: str) -> Callable[[Values], Value]:
    """A function of a question's values: (pairs at most `NEAR_ZERO`, pairs); None where it has no pair."""
    together = _together(f"{prefix}near_zero_pairs", f"{prefix}pairs")
    return lambda values: together(values) if values.get(f"{prefix}pairs") else None


MEDIANS = "JSD of the confidence, median (nats)"
SHARES = "JSD at most 0.1, share"
PAIRS = "JSD, number of pairs"
ABOVE_NOISE = "JSD less the noise floor of the same question, median (nats)"
CORRELATIONS = "JSD and likelihood of the wrong answer, rank correlation"
OFF_SCALE = "Off-scale mass"
JSD_FLOOR, EXPECTED_FLOOR = "floor.jsd", "floor.expected"


def _median(key: str, of: str, words: str, place: Place = "listed", needs: str = "", *, old: str = "") -> Metric:
    return Metric(
        f"jsd.{key}",
        MEDIANS,
        words,
        "nats",
        of,
        np.median,
        place,
        always=not needs,
        needs=needs,
        old=old,
        floor=JSD_FLOOR,
    )


def _less_noise(key: str, divergence_name: str, words: str, needs: str = "") -> Metric:
    return Metric(
        f"jsd.above_noise.{key}",
        ABOVE_NOISE,
        words,
        "nats",
        _above_noise(divergence_name),
        np.median,
        always=not needs,
        needs=needs,
        floor=JSD_FLOOR,
        bounds=(-LIMIT, LIMIT),
    )


def _of_source(key: str, prefix: str, divergence_name: str, words: str, needs: str = "") -> tuple[Metric, ...]:
    """The metrics of one source of wrong answers, all but the median.

    key: what the keys in summary.json begin with; prefix: what the names of the values begin with; words: the source in
    words; needs: as in `Metric`, "" for metrics that always stand there."""
    section = f"Direction, wrong answer {words}"

    def metric(
        name: str, section: str, words: str, unit: Unit, of: str | Callable[[Values], Value], **more: Any
    ) -> Metric:
        return Metric(f"{key}.{name}", section, words, unit, of, always=not needs, needs=needs, **more)

    def share(name: str, section: str, words: str, of: Callable[[Values], Value], place: Place = "listed") -> Metric:
        return metric(name, section, words, "share", of, interval="wilson", place=place)

    likelier, shorter = (_share(f"{prefix}{name}", operator.gt, 0.0) for name in ("likelihood_gap", "length_gap"))
    direction = _higher(f"{prefix}direction")
    near_zero = _share(divergence_name, operator.le, NEAR_ZERO)
    return (
        share("near_zero_share", SHARES, f"questions, wrong answer {words}", near_zero, "headline"),
        metric(
            "direction.mean",
            section,
            "confidence, right minus wrong",
            "confidence",
            f"{prefix}direction",
            floor=EXPECTED_FLOOR,
            bounds=SIGNED,
        ),
        share("direction.share_positive", section, "higher after the right answer", direction, "headline"),
        share("direction.share_likelier", section, "right answer likelier", likelier),
        share("direction.share_shorter", section, "right answer shorter", shorter),
        metric(
            "likelihood_correlation",
            CORRELATIONS,
            words,
            "correlation",
            _together(f"{prefix}logprob", divergence_name),
            statistic=rank_correlation,
            interval="fisher",
        ),
    )


def _of_all_pairs(key: str, prefix: str, words: str, needs: str = "") -> tuple[Metric, ...]:
    """The number of pairs of answers, and the share of pairs near zero (the paper's Figure 2). Parameters as above."""
    more: dict[str, Any] = {"always": not needs, "needs": needs}
    return (
        Metric(f"{key}.number", PAIRS, f"of {words}", "count", f"{prefix}pairs", np.sum, bounds=NOT_NEGATIVE, **more),
        Metric(
            f"{key}.near_zero_share",
            SHARES,
            f"pairs of {words}",
            "share",
            _near_zero_pairs(prefix),
            share_of_sum,
            interval="wilson",
            **more,
        ),
    )


SAMPLED, BRANCHED, SAME_RELATION = "sampled (the paper's)", "branched", "of the same relation"
METRICS = (
    _median("median", "jsd", f"right and wrong answer, {SAMPLED}", "headline"),
    _median("branched.median", "branched", f"right and wrong answer, {BRANCHED}", "headline", needs="branched"),
    _median("same_relation.median", "foil", f"right and wrong answer, {SAME_RELATION}", "headline", old="jsd.foil"),
    _median("wrong_wrong", "wrong_wrong", "two wrong answers, sampled", "headline"),
    _median("branched.wrong_wrong", "branched_wrong_wrong", "two wrong answers, branched", "headline", "branched"),
    _median("candidates", "candidates", "all pairs of sampled answers (the paper's)"),
    _median("filled.candidates", "filled_candidates", "all pairs, sampled and branched", needs="branched"),
    _median("other_question", "foreign", "right answer and the answer to another question", old="jsd.foreign"),
    _median("noise_floor", "noise_floor", "same answer, surface-form variant (noise floor)", "headline"),
    *(
        _median(f"variants.{kind}", f"variant_{kind}", f"same answer, {words}", needs=f"variant_{kind}")
        for kind, words in VARIANT_KINDS.items()
    ),
    _median("positive_control", "hint", "hint that it is wrong (positive control)", old="jsd.hint"),
    _less_noise("sampled", "jsd", f"right and wrong answer, {SAMPLED}"),
    _less_noise("branched", "branched", f"right and wrong answer, {BRANCHED}", "branched"),
    _less_noise("same_relation", "foil", f"right and wrong answer, {SAME_RELATION}"),
    _less_noise("positive_control", "hint", "hint that it is wrong (positive control)"),
    *_of_source("jsd", "", "jsd", SAMPLED),
    *_of_source("jsd.branched", "branched_", "branched", BRANCHED, "branched"),
    *_of_source("jsd.same_relation", "foil_", "foil", SAME_RELATION),
    *_of_all_pairs("jsd.pairs", "", "sampled answers (the paper's)"),
    *_of_all_pairs("jsd.filled.pairs", "filled_", "sampled and branched answers", "branched"),
    Metric("jsd.off_scale_mass", OFF_SCALE, "mean", "share", "outside", always=True, old="jsd.outside", bounds=UNIT),
    Metric(
        "jsd.flagged_share",
        OFF_SCALE,
        "questions with more than half",
        "share",
        _share("outside", operator.gt, 0.5),
        interval="wilson",
        always=True,
    ),
)
"""Keys that name no source are the paper's: the wrong answer was sampled, or is another letter in multiple choice."""


def pages(run: "RunData") -> "Iterator[Page]":
    """Figure 2, and the scatter of divergence and likelihood."""
    from figures.jsd import figure_2
    from figures.likelihood import likelihood_pages

    yield figure_2(run)
    yield from likelihood_pages(run)


def compared(before: "RunData", after: "RunData") -> "tuple[Figure, str]":
    """Figure 2 of both runs."""
    from figures.jsd import compared_divergences

    return compared_divergences(before, after)


JSD = Instrument(
    name="jsd",
    about="Divergence of the confidences after right and wrong answers, per question.",
    metrics=METRICS,
    measure=lambda setting, cases, options, kept: measured(setting, cases, of_score(kept.repeated, "expected")),
    needs_wrong_answers=True,
    repeated=READINGS,
    pages=pages,
    compared=compared,
)
