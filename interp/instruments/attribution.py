"""Integrated gradients: which tokens moved the stated confidence, and how high does the answer rank among them?

The score is a function of the embeddings of some tokens. Spans are replaced, the answer is attributed along a path.
The module takes a setting and cases and returns records; it knows nothing of runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from interp.errors import UserError
from interp.instruments.base import Instrument, Kept, Metric
from interp.instruments.floor import READINGS, of_score
from interp.instruments.gradients import FIRST_NODES, MOST_NODES, integrated_gradients, token_by_token
from interp.instruments.masking import REPLACED, replacement_embeddings
from interp.instruments.scorer import Score, Scorer
from interp.intervals import NOT_NEGATIVE
from interp.measures import Attribution, PathName, ScoreName
from interp.records import READ_SPANS, Span, Transcript
from interp.run.runs import Record, chunks

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

    from figures.captions import Page, RunData
    from interp.models.setting import Case, Setting

BaselineName = Literal["mean", "neutral"]
MOST_PROMPT_NODES = 96
"""In place of `MOST_NODES` for the path of the whole prompt."""
COUNTED = 20
"""Ranks are counted up to this one; beyond it the exact rank does not matter."""
LEAST_BOUND = 0.4
"""A token whose first-order bound is less than this share of the answer's effect is taken to matter less than it."""
AT_ONCE = 8
"""How many tokens are replaced before the rank is compared with `COUNTED` again."""


def rank_of_best(effects: Sequence[float | None], members: Sequence[int], floor: float = 0.0) -> int | None:
    """The rank of the best of `members` among all tokens, by the size of their effects.

    Args:
        effects: the effect of each token, [tokens]; None for tokens that were not replaced, which are taken to matter
            less.
        members: the positions of the tokens that are ranked, those of the answer.
        floor: by how much the score differs when the same text is read twice.

    Returns:
        1 + how many tokens have a larger effect; 1: no token matters more than the members. None where no member has an
        effect beyond the floor: among tokens that do nothing there is no order.
    """
    sizes = [abs(effect) for i in members if (effect := effects[i]) is not None and abs(effect) > floor]
    if not sizes:
        return None
    return 1 + sum(effect is not None and abs(effect) > max(sizes) for effect in effects)


def refuse_without_gradients(model: "PreTrainedModel | PeftModel") -> None:
    """Refuses models whose gradients cannot be trusted.

    Raises:
        UserError: for weights in 4 bits on a CPU, whose gradients would be wrong without any warning.
    """
    if getattr(model, "is_quantized", False) and model.device.type == "cpu":
        raise UserError(
            "attribution needs gradients, which weights in 4 bits do not give on a CPU; "
            "--leave-out attribution runs the other instruments"
        )


def measured(
    setting: "Setting",
    cases: Sequence["Case"],
    *,
    score: ScoreName = "expected",
    path: PathName = "answer",
    baseline: BaselineName = "mean",
    steps: int | None = None,
    keep_refused: bool = False,
    floor: float = 0.0,
) -> list[Record]:
    """Measures the effect of every span, the answer's attributions, and the answer's rank among all tokens.

    Args:
        setting: the model in its format.
        cases: the questions with their right answers.
        score: what is attributed.
        path: what moves along the path of integrated gradients.
        baseline: what tokens are replaced by.
        steps: at most so many nodes of integrated gradients; None: as many as the path takes by default.
        keep_refused: on the path of the whole prompt, numbers whose gap is too large stand in the record under "kept".
        floor: by how much the score differs when answers are read twice, as far as that is known beforehand.

    Returns:
        One record for each case.

    Raises:
        UserError: as `refuse_without_gradients`.
    """
    refuse_without_gradients(setting.checkpoint.model)
    options = AttributionOptions(score=score, path=path, baseline=baseline, steps=steps, keep_refused=keep_refused)
    return [_of_case(setting, case, options, floor) for case in cases]


def _of_case(setting: "Setting", case: "Case", options: "AttributionOptions", floor: float) -> Record:
    score, path, baseline = options.score, options.path, options.baseline
    transcript = setting.prompter.transcript(case.question, case.answer)
    scorer = Scorer(setting, transcript, _score(setting, score, transcript))
    replacements = replacement_embeddings(setting)
    spans = [span for span in READ_SPANS if span in transcript.spans]
    # the score as it is, read alone and then among the replacements: the two differ by how numbers are rounded
    (seen,) = scorer.replaced([((), replacements["mean"])])
    hidden = [(span, name) for span in spans for name in replacements]
    requests = [(transcript.positions(span), replacements[name]) for span, name in hidden]
    seen_again, *masked = scorer.replaced([((), replacements["mean"]), *requests])
    effects: dict[Span, dict[str, float]] = {span: {} for span in spans}
    for (span, name), replaced_score in zip(hidden, masked, strict=True):
        effects[span][name] = seen - replaced_score
    score_range = setting.prompter.confidence.range if score == "expected" else 1.0
    whole = Whole(seen, max(floor, abs(seen - seen_again)), score_range)
    record: Record = {"score": score, "range": score_range, "path": path, "value": seen, "effects": effects}
    if path == "prompt":
        return record | _along_prompt(setting, scorer, whole, effects, options)
    answer = transcript.positions("answer")
    replacement = replacements[baseline]
    attribution = _of_answer(scorer, answer, replacement, effects["answer"][baseline], whole, options.steps)
    if path == "tokens":
        by_span = {span: token_by_token(scorer, transcript.positions(span), replacement, seen) for span in spans}
        tokens: list[float | None] = [None] * len(transcript.ids)
        for span, along_span in by_span.items():
            for position, contribution in zip(transcript.positions(span), along_span.attribution, strict=True):
                tokens[position] = contribution
    else:
        tokens = _token_effects(scorer, replacement, whole)
    values: dict[str, float | None] = {f"{span}.effect": effects[span][baseline] for span in spans}
    values |= {
        f"{span}.effect_{name}": effects[span][name] for span in spans for name in replacements if name != baseline
    }
    values["answer.rank"] = rank_of_best(tokens, answer, whole.floor)
    if len(answer) > 1:  # the attribution of a single token is its effect, without an integral
        values["answer.completeness_gap"] = abs(attribution.gap)
        values["refused"] = float(attribution.refused)
    return record | {
        "answer": {baseline: attribution.as_record()},
        "tokens": tokens,
        "values": values,
    }


@dataclass(frozen=True)
class Whole:
    """The score with nothing replaced, and its precision."""

    value: float
    """The score with nothing replaced."""
    floor: float
    """By how much it differs when it is read among other rows; 0 in exact arithmetic."""
    score_range: float
    """As in `gap_allowed`."""


def _score(setting: "Setting", score: ScoreName, transcript: Transcript) -> Score:
    """The function that makes the score of level log-probabilities [..., levels]."""
    import torch

    values = torch.tensor(setting.prompter.confidence.values, device=setting.checkpoint.model.device)
    if score == "stated":
        stated = setting.reader.readings([transcript])[0].distribution.stated
        return lambda levels: levels[..., stated]
    # softmax renormalises over the levels: the off-scale mass does not count
    return lambda levels: levels.softmax(-1) @ values


def _of_answer(
    scorer: Scorer,
    answer: Sequence[int],
    replacement: "Tensor",
    effect: float,
    whole: Whole,
    steps: int | None,
) -> Attribution:
    """The answer's attribution.

    Its effect is measured in the packing of the path's points. Both ends of the path were read in another packing as
    well, and the larger difference between the two readings belongs to the floor."""
    scored, floor = scorer.along(answer, replacement), whole.floor
    if len(answer) > 1:
        itself, replaced = scored.ends(len(answer))
        floor = max(floor, abs(itself - whole.value), abs(replaced - (whole.value - effect)))
        effect = itself - replaced
    return integrated_gradients(
        scored,
        len(answer),
        effect=effect,
        score_range=whole.score_range,
        floor=floor,
        most_nodes=steps or MOST_NODES,
    )


def _along_prompt(
    setting: "Setting",
    scorer: Scorer,
    whole: Whole,
    effects: dict[Span, dict[str, float]],
    options: "AttributionOptions",
) -> Record:
    """The paper's path: every token of the prompt at once, from the pad token's embedding (that of the filler, where
    one is named) and from zero."""
    ids = scorer.transcript.ids
    pad = setting.checkpoint.tokenizer.pad_token_id if setting.filler is None else setting.filler
    zero = setting.prefix.embedded([0])[0] * 0
    baselines = {"zero": zero} if pad is None else {"pad": setting.prefix.embedded([pad])[0], "zero": zero}
    positions, by_baseline = list(range(len(ids))), {}
    for name, replacement in baselines.items():
        scored = scorer.along(positions, replacement)
        (replaced_score,) = scorer.replaced([(positions, replacement + 1e-6)])  # RMSNorm is undefined at exactly zero
        by_baseline[name] = integrated_gradients(
            scored,
            len(ids),
            effect=whole.value - replaced_score,
            score_range=whole.score_range,
            floor=whole.floor,
            most_nodes=options.steps or MOST_PROMPT_NODES,
        )
    first = next(iter(by_baseline.values()))  # pad where the tokenizer has it; ranks and tokens are of this baseline
    numbers = _by_span(first, scorer.transcript)
    values: dict[str, float | None] = {key: None if first.refused else number for key, number in numbers.items()}
    values |= {f"{span}.effect_{name}": effect for span, by_name in effects.items() for name, effect in by_name.items()}
    values["answer.completeness_gap"] = abs(first.gap)
    values["refused"] = float(first.refused)
    tokens = [None] * len(ids) if first.refused else list(first.attribution)
    answers = {name: attribution.as_record() for name, attribution in by_baseline.items()}
    record: Record = {"answer": answers, "tokens": tokens, "values": values}
    if options.keep_refused:
        record["kept"] = {
            name: {
                "gap": attribution.gap,
                "refused": attribution.refused,
                "values": _by_span(attribution, scorer.transcript),
            }
            for name, attribution in by_baseline.items()
        }
    return record


def _by_span(attribution: Attribution, transcript: Transcript) -> dict[str, float | None]:
    """The sum of each span's attributions, and the rank of the answer's best token, whatever the gap."""
    spans = [span for span in READ_SPANS if span in transcript.spans]
    tokens = attribution.attribution
    numbers: dict[str, float | None] = {
        f"{span}.effect": float(sum(tokens[i] for i in transcript.positions(span))) for span in spans
    }
    return numbers | {"answer.rank": rank_of_best(tokens, transcript.positions("answer"), attribution.floor)}


def _token_effects(scorer: Scorer, replacement: "Tensor", whole: Whole) -> list[float | None]:
    """The effect of replacing each token alone, [tokens]; None for tokens that are left out.

    The answer and the tail are replaced first. Then come the tokens whose first-order bound is at least `LEAST_BOUND`
    of the answer's effect, in falling order of the bound for each token that is fed again, until the rank lies beyond
    `COUNTED`; none where the answer's effect is within the floor, so that it has no rank."""
    transcript = scorer.transcript
    answer, tokens = transcript.positions("answer"), len(transcript.ids)
    effects: list[float | None] = [None] * tokens

    def rank_with(positions: Sequence[int]) -> int | None:
        """The answer's rank once these tokens are replaced too."""
        scores = scorer.replaced([((position,), replacement) for position in positions])
        for position, replaced_score in zip(positions, scores, strict=True):
            effects[position] = whole.value - replaced_score
        return rank_of_best(effects, answer, whole.floor)

    rank = rank_with((*answer, *transcript.positions("tail")))
    best = max(abs(effects[i] or 0.0) for i in answer)
    bound = scorer.first_order_bound(replacement)
    worth = bound / (tokens - np.arange(tokens))  # replacing a token with n others after it feeds n + 1 tokens
    candidates = [i for i in np.argsort(-worth).tolist() if bound[i] >= LEAST_BOUND * best and effects[i] is None]
    for part in chunks(candidates, AT_ONCE):
        if rank is None or rank > COUNTED:
            break
        rank = rank_with(part)
    return effects


@dataclass(frozen=True)
class AttributionOptions:
    """What only attribution is asked."""

    n_attribution: int = 8
    """How many of the questions to attribute, which costs some fifty times more than the rest."""
    score: ScoreName = "expected"
    """What is attributed: the expected confidence, or the log-probability of the stated level."""
    path: PathName = "answer"
    """What moves along the path of integrated gradients: the answer; each span token by token; or, as in the paper, the
    whole prompt."""
    baseline: BaselineName = "mean"
    """What attribution replaces tokens by: the vocabulary's mean embedding, or a neutral token. Spans show both."""
    steps: int | None = None
    """At most so many steps (Gauss-Legendre nodes) of integrated gradients, 96 by default; 1024 in the paper."""
    keep_refused: bool = False
    """With --path prompt, keep a number whose completeness gap is too large, with that gap, in the records alone;
    summaries and comparisons leave it out all the same."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < FIRST_NODES:
            raise UserError(f"--steps {self.steps}: must be at least {FIRST_NODES}")
        if self.keep_refused and self.path != "prompt":
            raise UserError(f"--keep-refused: needs --path prompt, here it is {self.path}")
        if self.n_attribution < 1:
            raise UserError(f"--n-attribution {self.n_attribution}: must be at least 1")


def _measure(setting: "Setting", cases: Sequence["Case"], options: AttributionOptions, kept: Kept) -> list[Record]:
    floor = of_score(kept.repeated, options.score)
    return [_of_case(setting, case, options, floor) for case in cases]


EFFECT, OTHERS, ANSWER = (
    "Effect on the score at the confidence",
    "The same with another replacement",
    "Attribution of the answer",
)


def _effect(span: Span, name: str = "") -> Metric:
    """The metric of a span's effect. name: the replacement, where it is not the baseline."""
    key = f"{span}.effect_{name}" if name else f"{span}.effect"
    return Metric(
        f"attribution.{key}",
        OTHERS if name else EFFECT,
        f"{span}, {REPLACED[name]}" if name else span,
        "score",
        key,
        place="headline" if key == "answer.effect" else "listed",
        floor="floor.expected",
    )


METRICS = (
    *(_effect(span) for span in READ_SPANS),
    *(_effect(span, name) for span in READ_SPANS for name in REPLACED),
    Metric(
        "attribution.answer.rank",
        ANSWER,
        "rank of its best token, median",
        "rank",
        "answer.rank",
        np.median,
        "headline",
        always=True,
    ),
    Metric(
        "attribution.answer.completeness_gap",
        ANSWER,
        "completeness gap",
        "score",
        "answer.completeness_gap",
        always=True,
        bounds=NOT_NEGATIVE,
    ),
    Metric(
        "attribution.refused_share",
        ANSWER,
        "refused, gap too large",
        "share",
        "refused",
        interval="wilson",
        always=True,
    ),
)


def pages(run: "RunData") -> "Iterator[Page]":
    """The attribution figure."""
    from figures.attribution import attribution_page

    yield attribution_page(run, REPLACED)


def compared(before: "RunData", after: "RunData") -> "tuple[Figure, str]":
    """The effect of every span, of both runs."""
    from figures.attribution import compared_effects

    return compared_effects(before, after)


ATTRIBUTION = Instrument(
    name="attribution",
    about="Integrated gradients of the answer, and what replacing each part of the prompt takes away.",
    metrics=METRICS,
    measure=_measure,
    chunk=1,
    options=AttributionOptions,
    most=lambda options: options.n_attribution,
    check=refuse_without_gradients,
    repeated=READINGS,
    has_floor=lambda record: record["score"] == "expected",
    pages=pages,
    compared=compared,
)
