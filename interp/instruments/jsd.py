"""Per-sample Jensen-Shannon divergence: does the stated confidence react to the answer? (Figure 2)

`python -m interp.jsd` measures it on its own; `python -m interp.diagnose` beside the other instruments."""

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.datasets.questions import may_be_right
from interp.intervals import Columns, Statistic, Value, rank_correlation, share_of_sum
from interp.records import ConfidenceDistribution, Question, Source, Transcript
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.readout import Reading
    from interp.models.setting import Case, Setting

LIMIT = float(np.log(2))
"""The divergence of two distributions that share no level."""
NEAR_ZERO = 0.1
"""The paper's line: at most this much is called answer-independent."""
CANDIDATE_ROLES: dict[Source, str] = {
    "sampled": "candidate",
    "both": "candidate",
    "choice": "candidate",
    "branched": "filled",
}
"""The role of a candidate answer by its source: sampled, as in the paper, or found by branching alone."""


def jensen_shannon(
    p: Float[np.ndarray, "*batch levels"], q: Float[np.ndarray, "*batch levels"]
) -> Float[np.ndarray, "*batch"]:
    """Jensen-Shannon divergence in nats, the mean of both divergences from the equal mixture (Lin 1991).

    0: the confidence is distributed the same after either answer. ln 2: the two share no level. Not its square root,
    which is a distance and what scipy's `jensenshannon` returns; not the mean of KL(p, q) and KL(q, p), which has no
    upper bound. Not comparable between formats with different numbers of levels."""
    mixture = (p + q) / 2
    found: np.ndarray = np.maximum((_relative_entropy(p, mixture) + _relative_entropy(q, mixture)) / 2, 0)[..., 0]
    return found


def _relative_entropy(p: np.ndarray, m: np.ndarray) -> np.ndarray:
    ratio = np.divide(p, m, out=np.ones_like(p), where=(p > 0) & (m > 0))  # half of the least number is 0
    found: np.ndarray = (p * np.log(ratio)).sum(-1, keepdims=True)
    return found


def divergence(a: ConfidenceDistribution, b: ConfidenceDistribution) -> float:
    """`jensen_shannon` of two confidence distributions."""
    return float(jensen_shannon(np.array(a.probability), np.array(b.probability)))


def surface_variants(answer: str) -> tuple[str, ...]:
    """The same answer in another letter case and with a full stop: what differs is its looks alone."""
    recased = answer.lower() if answer.isupper() else answer.upper()
    return tuple(v for v in (recased, answer.rstrip(".") + ".") if v != answer)


def foils(question: Question, pool: Sequence[Question], *, seed: int) -> dict[str, str]:
    """Answers that belong to other questions: `foil` of the same relation, `foreign` of any other.

    An answer that is, or may be, right here too is passed over; a kind that the pool does not hold is absent."""
    order = np.random.default_rng([seed, *question.id.encode()]).permutation(len(pool))
    found: dict[str, str] = {}
    for other in (pool[i] for i in order):
        kind = "foil" if other.relation and other.relation == question.relation else "foreign"
        answer = other.answers[-1] if other.choices else other.answers[0]
        fits = kind == "foreign" or not question.choices
        if kind not in found and fits and other.id != question.id and not may_be_right(question, answer):
            found[kind] = answer
        if len(found) == 2:
            break
    return found


def hint(answer: str) -> str:
    """The positive control: a sentence in the prompt that makes any reader of it doubt the answer."""
    return f'Hint: the answer "{answer}" is wrong.'


def measured(setting: "Setting", cases: Sequence["Case"]) -> list[Record]:
    """One record for each case: every answer put to the question with the confidence stated after it."""
    plans = [_plan(setting, case) for case in cases]
    transcripts = [transcript for plan in plans for _, _, transcript in plan]
    readings = iter(setting.reader.readings(transcripts))
    records = []
    for plan in plans:
        by_role: dict[str, list[Record]] = {}
        for role, answer, _ in plan:
            by_role.setdefault(role, []).append(_spoken(answer, next(readings)))
        records.append({"answers": by_role, "values": values(by_role)})
    return records


def _plan(setting: "Setting", case: "Case") -> list[tuple[str, str, Transcript]]:
    """(role, answer, transcript) of everything that is put to one question."""
    put = [("right", case.answer)]
    put += [("wrong", answer) for answer in case.wrong[:2]]
    put += [("branched", answer) for answer in case.branched[:2]]
    put += [("noise", variant) for variant in surface_variants(case.answer)]
    put += list(foils(case.question, setting.pool, seed=setting.seed).items())
    put += [(CANDIDATE_ROLES[source], answer) for answer, source in zip(case.candidates, case.sources, strict=True)]
    prompter = setting.prompter
    plan = [(role, answer, prompter.transcript(case.question, answer)) for role, answer in put]
    told = prompter.transcript(case.question, case.answer, hint=hint(case.answer))
    return [*plan, ("hint", case.answer, told)]


def _spoken(answer: str, reading: "Reading") -> Record:
    said = reading.distribution
    return {
        "answer": answer,
        "probability": list(said.probability),
        "outside": said.outside,
        "expected": said.expected,
        "logprob": reading.answer_logprob,
        "tokens": reading.answer_tokens,
    }


WRONG_ROLES = {"wrong": "", "branched": "branched_", "foil": "foil_"}
"""What begins the names of the numbers of each kind of wrong answer: sampled (of multiple choice another letter), found
by branching, belonging to another question of the relation. They are never pooled."""
PAIR_ROLES = {"": ("candidate",), "filled_": ("candidate", "filled")}
"""What begins the names of the numbers of pairs: of sampled answers alone, and of those with branched ones."""


def values(by_role: dict[str, list[Record]]) -> dict[str, float | None]:
    """The question's numbers, recomputed from the distributions in its record; None for what could not be had."""

    def between(one: list[Record], other: list[Record]) -> float | None:
        divergences = _divergences([(a, b) for a in one for b in other])
        return float(divergences.mean()) if len(divergences) else None

    right = by_role["right"]
    sampled, branched = by_role.get("wrong", []), by_role.get("branched", [])
    found: dict[str, float | None] = {
        "jsd": between(right, sampled[:1]),
        "branched": between(right, branched[:1]),
        "noise_floor": between(right, by_role.get("noise", [])),
        "wrong_wrong": between(sampled[:1], sampled[1:2]),
        "branched_wrong_wrong": between(branched[:1], branched[1:2]),
        "foreign": between(right, by_role.get("foreign", [])),
        "foil": between(right, by_role.get("foil", [])),
        "hint": between(right, by_role.get("hint", [])),
        "outside": right[0]["outside"],
    }
    for role, prefix in WRONG_ROLES.items():
        found |= {prefix + name: number for name, number in _against(right, by_role.get(role, [])).items()}
    for prefix, roles in PAIR_ROLES.items():
        found |= {prefix + name: number for name, number in _of_pairs(by_role, roles).items()}
    return found


def _against(right: list[Record], wrong: list[Record]) -> dict[str, float]:
    """How the right answer compares with the first wrong one; empty where there is none."""
    if not wrong:
        return {}
    return {
        "direction": right[0]["expected"] - wrong[0]["expected"],
        "likelihood_gap": right[0]["logprob"] - wrong[0]["logprob"],
        "length_gap": wrong[0]["tokens"] - right[0]["tokens"],
        "logprob": wrong[0]["logprob"],
    }


def _of_pairs(by_role: dict[str, list[Record]], roles: Sequence[str]) -> dict[str, float | None]:
    """The mean divergence over all pairs of answers in these roles, how many they are, and how many at most 0.1."""
    divergences = pair_divergences(by_role, roles)
    count = len(divergences)
    return {
        "candidates": float(divergences.mean()) if count else None,
        "pairs": count,
        "near_zero_pairs": int((divergences <= NEAR_ZERO).sum()),
    }


def pair_divergences(by_role: dict[str, list[Record]], roles: Sequence[str]) -> np.ndarray:
    """The divergence of every pair of answers to one question in these roles, [pairs]."""
    return _divergences(list(combinations([answer for role in roles for answer in by_role.get(role, [])], 2)))


def _divergences(pairs: Sequence[tuple[Record, Record]]) -> np.ndarray:
    if not pairs:
        return np.zeros(0)
    sides = [np.array([pair[i]["probability"] for pair in pairs]) for i in (0, 1)]
    return jensen_shannon(*sides)


MEDIANS = ("noise_floor", "wrong_wrong", "foreign", "foil", "candidates", "hint")
BRANCHED_MEDIANS = {
    "branched": "branched.median",
    "branched_wrong_wrong": "branched.wrong_wrong",
    "filled_candidates": "filled.candidates",
}
"""Medians of what branching found, by their name in a record: their key."""


def columns(records: Sequence[Record]) -> Columns:
    """The columns behind the numbers of a run, by their key in summary.json.

    Keys that name no source are the paper's: the wrong answer was sampled, or is another letter of multiple choice.
    What branching found is absent where no question has any."""
    found: Columns = {"jsd.median": (_column(records, "jsd"), np.median)}
    found |= {f"jsd.{name}": (_column(records, name), np.median) for name in MEDIANS}
    found |= _of_source(records, "", "jsd", "jsd") | _of_all_pairs(records, "", "jsd.pairs")
    found |= _of_source(records, "foil_", "foil", "jsd.same_relation")
    if any(record["values"].get("branched") is not None for record in records):
        found |= {f"jsd.{key}": (_column(records, name), np.median) for name, key in BRANCHED_MEDIANS.items()}
        found |= _of_source(records, "branched_", "branched", "jsd.branched")
        found |= _of_all_pairs(records, "filled_", "jsd.filled.pairs")
    found["jsd.outside"] = _column(records, "outside"), np.mean
    found["jsd.flagged_share"] = _share(records, "outside", np.greater, 0.5)
    return found


def _column(records: Sequence[Record], name: str) -> list[Any]:
    return [record["values"].get(name) for record in records]


def _share(records: Sequence[Record], name: str, holds: "np.ufunc", edge: float) -> tuple[list[Value], Statistic]:
    return [None if v is None else float(holds(v, edge)) for v in _column(records, name)], np.mean


def _together(records: Sequence[Record], one: str, other: str) -> list[Value]:
    """Two numbers of each question; None where it lacks one."""
    pairs = zip(_column(records, one), _column(records, other), strict=True)
    return [None if a is None or b is None else (a, b) for a, b in pairs]


def _of_source(records: Sequence[Record], prefix: str, divergence_name: str, key: str) -> Columns:
    """What is said of every kind of wrong answer."""
    return {
        f"{key}.near_zero_share": _share(records, divergence_name, np.less_equal, NEAR_ZERO),
        f"{key}.direction.mean": (_column(records, f"{prefix}direction"), np.mean),
        f"{key}.direction.share_positive": _share(records, f"{prefix}direction", np.greater, 0.0),
        f"{key}.direction.share_likelier": _share(records, f"{prefix}likelihood_gap", np.greater, 0.0),
        f"{key}.direction.share_shorter": _share(records, f"{prefix}length_gap", np.greater, 0.0),
        f"{key}.likelihood_correlation": (_together(records, f"{prefix}logprob", divergence_name), rank_correlation),
    }


def _of_all_pairs(records: Sequence[Record], prefix: str, key: str) -> Columns:
    """How many pairs of answers there are, and the share of them at most 0.1: the paper's Figure 2."""
    near, counts = (_column(records, f"{prefix}{name}") for name in ("near_zero_pairs", "pairs"))
    shares: list[Value] = [(a, b) if a is not None and b else None for a, b in zip(near, counts, strict=True)]
    return {f"{key}.number": (counts, np.sum), f"{key}.near_zero_share": (shares, share_of_sum)}
