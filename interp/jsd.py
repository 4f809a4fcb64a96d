"""Per-sample Jensen-Shannon divergence: does the stated confidence react to the answer? (Figure 2)

`python -m interp.jsd` measures it on its own; `python -m interp.diagnose` beside the other instruments."""

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from interp.intervals import Columns, Statistic
from interp.questions import may_be_right
from interp.records import ConfidenceDistribution, Question, Transcript
from interp.runs import Record

if TYPE_CHECKING:
    from interp.readout import Reading
    from interp.setting import Case, Setting

LIMIT = float(np.log(2))
"""The divergence of two distributions that share no level."""
NEAR_ZERO = 0.1
"""The paper's line: at most this much is called answer-independent."""


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
    for case, plan in zip(cases, plans, strict=True):
        by_role: dict[str, list[Record]] = {}
        for role, answer, _ in plan:
            by_role.setdefault(role, []).append(_spoken(answer, next(readings)))
        records.append({"answers": by_role, "values": values(by_role, case.wanted_candidates)})
    return records


def _plan(setting: "Setting", case: "Case") -> list[tuple[str, str, Transcript]]:
    """(role, answer, transcript) of everything that is put to one question."""
    put = [("right", case.answer)]
    put += [("wrong", answer) for answer in case.wrong[:2]]
    put += [("noise", variant) for variant in surface_variants(case.answer)]
    put += list(foils(case.question, setting.pool, seed=setting.seed).items())
    if len(case.candidates) == case.wanted_candidates:
        put += [("candidate", answer) for answer in case.candidates]
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


def values(by_role: dict[str, list[Record]], candidates: int = 0) -> dict[str, float | None]:
    """The question's numbers, recomputed from the distributions in its record; None for what could not be had.

    candidates: how many distinct sampled answers were asked for; a question with fewer has no value."""

    def between(one: list[Record], other: list[Record]) -> float | None:
        pairs = [(a, b) for a in one for b in other]
        return _mean_divergence(pairs)

    right, wrong = by_role["right"], by_role.get("wrong", [])
    sampled = by_role.get("candidate", [])
    found: dict[str, float | None] = {
        "jsd": between(right, wrong[:1]),
        "noise_floor": between(right, by_role.get("noise", [])),
        "wrong_wrong": between(wrong[:1], wrong[1:2]),
        "foreign": between(right, by_role.get("foreign", [])),
        "foil": between(right, by_role.get("foil", [])),
        "hint": between(right, by_role.get("hint", [])),
        "candidates": _mean_divergence(list(combinations(sampled, 2))) if 1 < candidates <= len(sampled) else None,
    }
    if wrong:
        found["direction"] = right[0]["expected"] - wrong[0]["expected"]
        found["likelihood_gap"] = right[0]["logprob"] - wrong[0]["logprob"]
        found["length_gap"] = wrong[0]["tokens"] - right[0]["tokens"]
    found["outside"] = right[0]["outside"]
    return found


def _mean_divergence(pairs: Sequence[tuple[Record, Record]]) -> float | None:
    if not pairs:
        return None
    sides = [np.array([pair[i]["probability"] for pair in pairs]) for i in (0, 1)]
    return float(jensen_shannon(*sides).mean())


MEDIANS = ("noise_floor", "wrong_wrong", "foreign", "foil", "candidates", "hint")


def columns(records: Sequence[Record]) -> Columns:
    """The columns behind the numbers of a run, by their key in summary.json."""

    def column(name: str) -> list[float | int | None]:
        return [record["values"].get(name) for record in records]

    def share(name: str, holds: "np.ufunc", edge: float) -> tuple[list[float | int | None], Statistic]:
        return [None if v is None else float(holds(v, edge)) for v in column(name)], np.mean

    found: Columns = {"jsd.median": (column("jsd"), np.median)}
    found["jsd.near_zero_share"] = share("jsd", np.less_equal, NEAR_ZERO)
    found |= {f"jsd.{name}": (column(name), np.median) for name in MEDIANS}
    found["jsd.direction.mean"] = column("direction"), np.mean
    found["jsd.direction.share_positive"] = share("direction", np.greater, 0.0)
    found["jsd.direction.share_likelier"] = share("likelihood_gap", np.greater, 0.0)
    found["jsd.direction.share_shorter"] = share("length_gap", np.greater, 0.0)
    found["jsd.outside"] = column("outside"), np.mean
    found["jsd.flagged_share"] = share("outside", np.greater, 0.5)
    return found


if __name__ == "__main__":
    from interp.commands import run_as_command
    from interp.diagnose import Diagnose, run_instruments

    run_as_command(Diagnose, run_instruments(("jsd",), "jsd"), description=__doc__.split("\n")[0])
