"""Integrated gradients: which tokens moved the stated confidence, and how high does the answer rank among them?

The score is a function of the embeddings of some tokens. Spans are replaced, the answer is attributed along a path.
The module takes a setting and cases and returns records; it knows nothing of runs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from interp.errors import UserError
from interp.instruments.base import Instrument, Metric
from interp.instruments.floor import READINGS, of_score
from interp.instruments.masking import REPLACED, replacement_embeddings
from interp.records import READ_SPANS, Span, Transcript
from interp.run.runs import Record, chunks

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

    from figures.captions import Page, RunData
    from interp.models.prefix import SharedPrefix, TokenTree
    from interp.models.readout import LevelPlan
    from interp.models.setting import Case, Setting

ScoreName = Literal["expected", "stated"]
PathName = Literal["answer", "tokens", "prompt"]
BaselineName = Literal["mean", "neutral"]
FIRST_NODES, MOST_NODES = 12, 96
"""Gauss-Legendre nodes are doubled, from the first number on, until the gap is allowed or they are no fewer than the
second."""
MOST_PROMPT_NODES = 96
"""In place of `MOST_NODES` for the path of the whole prompt."""
COUNTED = 20
"""Ranks are counted up to this one; beyond it the exact rank does not matter."""
LEAST_BOUND = 0.4
"""A token whose first-order bound is less than this share of the answer's effect is taken to matter less than it."""
AT_ONCE = 8
"""How many tokens are replaced before the rank is compared with `COUNTED` again."""
PORTION = 64
"""How many replacements have their trees made at a time."""

Score = Callable[["Tensor"], "Tensor"]
"""Level log-probabilities [..., levels] -> the score, [...]."""


def gap_allowed(effect: float, score_range: float, floor: float = 0.0) -> float:
    """The completeness gap up to which an attribution is shown.

    It is the largest of 1 % of the effect, 0.001 of the score's range, and three times the floor. A sum over nodes
    cannot be nearer to the effect than the model's own precision lets two readings be to each other.

    Args:
        effect: the difference of the score between the path's ends.
        score_range: the difference between the format's highest and lowest value; 1 for a log-probability.
        floor: by how much the same score differs when it is read in different packings; 0 in exact arithmetic.

    Returns:
        The gap, at least 0, in the score's units.
    """
    return max(0.01 * abs(effect), 0.001 * score_range, 3 * floor)


def rank_of_best(effects: Sequence[float | None], members: Sequence[int]) -> int | None:
    """The rank of the best of `members` among all tokens, by the size of their effects.

    Args:
        effects: the effect of each token, [tokens]; None for tokens that were not replaced, which are taken to matter
            less.
        members: the positions of the tokens that are ranked, those of the answer.

    Returns:
        1 + how many tokens have a larger effect; 1: no token matters more than the members. None where no member has an
        effect.
    """
    sizes = [abs(effect) for i in members if (effect := effects[i]) is not None]
    if not sizes:
        return None
    return 1 + sum(effect is not None and abs(effect) > max(sizes) for effect in effects)


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
    """The gap was not within `gap_allowed` at two successive counts of nodes."""
    floor: float = 0.0
    """By how much the same score differs when it is read in different packings; 0 in exact arithmetic."""

    def as_record(self) -> Record:
        """Plain fields."""
        return {
            "attribution": list(self.attribution),
            "effect": self.effect,
            "gap": self.gap,
            "nodes": self.nodes,
            "refused": self.refused,
            "floor": self.floor,
        }


@dataclass(frozen=True)
class PathScore:
    """The score at points of a path, by coordinates [points, tokens]: 0 for a token that is replaced, 1 for itself."""

    of: Callable[["Tensor"], "Tensor"]
    """Coordinates [points, tokens] -> scores [points]."""
    width: int
    """How many tokens the model is fed for each point."""
    batch_tokens: int
    """How many tokens it is fed at a time, at most."""

    def __call__(self, coordinates: "Tensor") -> "Tensor":
        return self.of(coordinates)

    def ends(self, tokens: int) -> tuple[float, float]:
        """(score of the tokens themselves, score of their replacement), read side by side as points between them are.

        tokens: how many coordinates a point has."""
        import torch

        with torch.no_grad():
            itself, replacement = self(torch.tensor([[1.0] * tokens, [0.0] * tokens])).tolist()
        return itself, replacement


@dataclass(frozen=True, eq=False)
class Rest:
    """A transcript from one position on, with the levels below it: what is fed where its tokens are replaced."""

    prefix: "SharedPrefix"
    """The model, having read the tokens before that position."""
    start: int
    """The position."""
    tree: "TokenTree"
    """The tokens from that position on and the tokens of the levels."""
    reads: list[int]
    """The nodes after which the levels are read."""
    plan: "LevelPlan"
    """Where the levels stand in what is read."""
    nodes: tuple[int, ...]
    """The node of each of the transcript's tokens, from `start` on."""

    @property
    def embeds(self) -> "Tensor":
        """The embeddings of all nodes, [nodes, width], in the model's dtype; computed on each call, never held."""
        return self.prefix.embedded(self.tree.tokens)

    def at(self, positions: Sequence[int]) -> list[int]:
        """The nodes of the tokens at these positions."""
        return [self.nodes[position - self.start] for position in positions]

    def replaced(self, positions: Sequence[int], replacement: "Tensor") -> "Tensor":
        """The embeddings of all nodes, [nodes, width], with the tokens at some positions replaced.

        replacement: [width], or one embedding for each position, [positions, width]."""
        embeds = self.embeds.clone()  # an embedding layer may return a view of its own weights
        embeds[self.at(positions)] = replacement.to(embeds)
        return embeds


class Scorer:
    """The score of one transcript as a function of the embeddings of some of its tokens, the rest held fixed."""

    def __init__(self, setting: "Setting", transcript: Transcript, score: Score) -> None:
        self.setting = setting
        self.transcript = transcript
        self.score = score

    def replaced(self, replacements: Sequence[tuple[Sequence[int], "Tensor"]]) -> list[float]:
        """The score under each replacement.

        The transcript is read once. For each replacement only its first token and what follows is read again.
        Embeddings are made when a batch is read, and trees for `PORTION` replacements at a time, so that memory does
        not grow with the number of replacements.

        Args:
            replacements: for each of them (positions of the tokens that are replaced, embedding [width] in their
                place); no positions: the score of the transcript as it is.

        Returns:
            One score for each replacement, in the order given.
        """
        return [score for part in chunks(replacements, PORTION) for score in self._replaced(part)]

    def _replaced(self, replacements: Sequence[tuple[Sequence[int], "Tensor"]]) -> list[float]:
        last = len(self.transcript.ids) - 1
        # each tree begins at the first token that is replaced; where none is, the last token alone is fed again
        starts = [min([*positions, last]) for positions, _ in replacements]
        by_start = {start: self._rest(start) for start in set(starts)}
        rests = [by_start[start] for start in starts]
        trees, reads = [rest.tree for rest in rests], [rest.reads for rest in rests]
        scores = [0.0] * len(rests)
        for i, after in self._whole.logits(starts, trees, reads, lambda i: rests[i].replaced(*replacements[i])):
            levels = rests[i].plan.level_logprobs(after, self.setting.reader.stops)  # [levels]
            scores[i] = self.score(levels).item()
        return scores

    def along(self, positions: Sequence[int], replacement: "Tensor") -> PathScore:
        """The score along the straight path from the replacement to the tokens at some positions.

        The path is formed in float32 and cast to the model's dtype last, so that its points are as near to the
        straight line as that dtype allows.

        Args:
            positions: of the tokens that move, in the transcript; each has its own coordinate.
            replacement: the embedding where all coordinates are 0, [width].

        Returns:
            The score as a function of coordinates [points, tokens], with gradient.
        """
        rest = self._rest(min(positions))
        dtype, moved, embeds = rest.embeds.dtype, rest.at(positions), rest.embeds.float()  # embeds: [nodes, width]
        origin = replacement.to(embeds)  # [width]
        offset = embeds[moved] - origin  # [moved, width]

        def scored(coordinates: "Tensor") -> "Tensor":
            fed = embeds.expand(len(coordinates), -1, -1).clone()  # [points, nodes, width]
            fed[:, moved] = origin + coordinates[..., None].to(embeds) * offset
            logits = rest.prefix.path_logits(rest.start, rest.tree, rest.reads, fed.to(dtype))
            return self.score(rest.plan.level_logprobs(logits, self.setting.reader.stops))

        return PathScore(scored, len(rest.tree.tokens), rest.prefix.batch_tokens)

    def first_order(self, replacement: "Tensor") -> "np.ndarray":
        """The effect of replacing each token if the score were linear in its embedding, [tokens]."""
        gradient, offset = self._slopes(replacement)
        effects: np.ndarray = (gradient * offset).sum(-1).cpu().numpy()
        return effects

    def first_order_bound(self, replacement: "Tensor") -> "np.ndarray":
        """The largest effect of moving each token's embedding as far as its replacement lies, in any direction, if the
        score were linear in it, [tokens].

        It predicts the effect of replacing the token better than `first_order`, in which directions cancel."""
        gradient, offset = self._slopes(replacement)
        bounds: np.ndarray = (gradient.norm(dim=-1) * offset.norm(dim=-1)).cpu().numpy()
        return bounds

    def _slopes(self, replacement: "Tensor") -> "tuple[Tensor, Tensor]":
        """The score's gradient at each token's embedding, and that embedding minus its replacement.

        Both are [tokens, width]."""
        import torch

        rest = self._rest(0)
        embeds = rest.embeds.detach()
        leaf = embeds.float().requires_grad_()  # [nodes, width], in float32 as in `along`
        after = rest.prefix.path_logits(0, rest.tree, rest.reads, leaf[None].to(embeds.dtype))  # a path of one point
        score = self.score(rest.plan.level_logprobs(after, self.setting.reader.stops)).sum()
        (gradient,) = torch.autograd.grad(score, leaf)
        nodes = list(rest.nodes)
        return gradient[nodes], leaf.detach()[nodes] - replacement.to(leaf)

    @cached_property
    def _whole(self) -> "SharedPrefix":
        """The model, having read the transcript except its last token."""
        return self.setting.prefix.extended(self.transcript.ids[:-1])

    def _rest(self, start: int) -> Rest:
        """What is fed from position `start` on; `_whole` is read only where the shared prefix ends before it."""
        shared_prefix = self.setting.prefix
        prefix = shared_prefix if start <= len(shared_prefix.shared_prefix) else self._whole
        tree, reads, plan = self.setting.reader.plan(self.transcript, start)
        nodes = tree.insert(self.transcript.ids[start:])
        return Rest(prefix, start, tree, reads, plan, nodes)


def integrated_gradients(
    scored: PathScore,
    tokens: int,
    *,
    effect: float,
    score_range: float,
    floor: float = 0.0,
    most_nodes: int = MOST_NODES,
) -> Attribution:
    """Integrated gradients over the straight path of `Scorer.along` (Sundararajan et al. 2017), by captum.

    Each token's coordinate runs from 0 to 1, so that its attribution is the sum over the embedding's width. Nodes are
    doubled until the gap is allowed at two successive counts. A path of one token needs none: its attribution is the
    effect itself.

    Args:
        scored: the score along the path.
        tokens: how many tokens move.
        effect: the score at the path's end minus that at its beginning.
        score_range: as in `gap_allowed`.
        floor: as in `gap_allowed`.
        most_nodes: nodes are doubled no further once they are at least so many.

    Returns:
        The attribution of each token; `refused` where the gap was not allowed twice in a row.
    """
    if tokens == 1:
        return Attribution((effect,), effect, 0.0, 0, False)
    import torch
    from captum.attr import IntegratedGradients

    from interp.models.prefix import ROW_TOKENS

    most = min(ROW_TOKENS, scored.batch_tokens)  # more at once is slower: a gradient keeps every activation
    batch = max(1, most // scored.width)
    ones, nodes, settled = torch.ones(1, tokens), FIRST_NODES, 0
    while True:
        contributions = IntegratedGradients(scored).attribute(
            ones, torch.zeros_like(ones), n_steps=nodes, method="gausslegendre", internal_batch_size=batch
        )[0]  # [tokens]
        gap = contributions.sum().item() - effect
        # one small gap may be chance: the sum can cross the effect while the integral has not converged
        settled = settled + 1 if abs(gap) <= gap_allowed(effect, score_range, floor) else 0
        if settled == 2 or nodes >= most_nodes:
            return Attribution(tuple(contributions.tolist()), effect, gap, nodes, settled < 2, floor)
        nodes *= 2


def token_by_token(scorer: Scorer, positions: Sequence[int], replacement: "Tensor", seen: float) -> Attribution:
    """Integrated gradients along the path that replaces a span's tokens one after the other, the last one first.

    On each leg one token moves alone, so its attribution is the difference of the score between the leg's ends. It is
    exact for spans of any length, where straight paths through RMSNorm do not converge. It depends on the order.

    Args:
        scorer: the score of the transcript.
        positions: of the span's tokens.
        replacement: the embedding in the place of each of them, [width].
        seen: the score with nothing replaced.

    Returns:
        The attribution of each of the span's tokens, in the order of their positions.
    """
    # of positions (3, 4, 5) the tokens (5), (4, 5) and (3, 4, 5) are replaced, one step after the other
    steps = [positions[i:] for i in range(len(positions) - 1, -1, -1)]
    scores = [seen, *scorer.replaced([(step, replacement) for step in steps])]
    legs = tuple(float(before - after) for before, after in pairwise(scores))[::-1]
    effect = seen - scores[-1]
    return Attribution(legs, effect, sum(legs) - effect, 0, False)


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
    floor: float = 0.0,
) -> list[Record]:
    """Measures the effect of every span, the answer's attributions, and the answer's rank among all tokens.

    Args:
        setting: the model in its format.
        cases: the questions with their right answers.
        score: what is attributed.
        path: what moves along the path of integrated gradients.
        baseline: what tokens are replaced by.
        floor: by how much the score differs when answers are read twice, as far as that is known beforehand.

    Returns:
        One record for each case.

    Raises:
        UserError: as `refuse_without_gradients`.
    """
    refuse_without_gradients(setting.checkpoint.model)
    return [_of_case(setting, case, score, path, baseline, floor) for case in cases]


def _of_case(
    setting: "Setting", case: "Case", score: ScoreName, path: PathName, baseline: BaselineName, floor: float
) -> Record:
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
        return record | _along_prompt(setting, scorer, whole, effects)
    answer = transcript.positions("answer")
    replacement = replacements[baseline]
    attribution = _of_answer(scorer, answer, replacement, effects["answer"][baseline], whole)
    if path == "tokens":
        by_span = {span: token_by_token(scorer, transcript.positions(span), replacement, seen) for span in spans}
        tokens: list[float | None] = [None] * len(transcript.ids)
        for span, along_span in by_span.items():
            for position, contribution in zip(transcript.positions(span), along_span.attribution, strict=True):
                tokens[position] = contribution
    else:
        tokens = _token_effects(scorer, replacement, seen)
    values: dict[str, float | None] = {f"{span}.effect": effects[span][baseline] for span in spans}
    values |= {
        f"{span}.effect_{name}": effects[span][name] for span in spans for name in replacements if name != baseline
    }
    values["answer.rank"] = rank_of_best(tokens, answer)
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
    scorer: Scorer, answer: Sequence[int], replacement: "Tensor", effect: float, whole: Whole
) -> Attribution:
    """The answer's attribution.

    Its effect is measured in the packing of the path's points. Both ends of the path were read in another packing as
    well, and the larger difference between the two readings belongs to the floor."""
    scored, floor = scorer.along(answer, replacement), whole.floor
    if len(answer) > 1:
        itself, replaced = scored.ends(len(answer))
        floor = max(floor, abs(itself - whole.value), abs(replaced - (whole.value - effect)))
        effect = itself - replaced
    return integrated_gradients(scored, len(answer), effect=effect, score_range=whole.score_range, floor=floor)


def _along_prompt(setting: "Setting", scorer: Scorer, whole: Whole, effects: dict[Span, dict[str, float]]) -> Record:
    """The paper's path: every token of the prompt at once, from the pad token's embedding and from zero."""
    ids = scorer.transcript.ids
    pad = setting.checkpoint.tokenizer.pad_token_id
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
            most_nodes=MOST_PROMPT_NODES,
        )
    first = next(iter(by_baseline.values()))  # pad where the tokenizer has it; ranks and tokens are of this baseline
    answer = scorer.transcript.positions("answer")
    values = {
        f"{span}.effect": None
        if first.refused
        else float(sum(first.attribution[i] for i in scorer.transcript.positions(span)))
        for span in READ_SPANS
        if span in scorer.transcript.spans
    }
    values |= {f"{span}.effect_{name}": effect for span, by_name in effects.items() for name, effect in by_name.items()}
    values["answer.completeness_gap"] = abs(first.gap)
    values["answer.rank"] = None if first.refused else rank_of_best(first.attribution, answer)
    values["refused"] = float(first.refused)
    tokens = [None] * len(ids) if first.refused else list(first.attribution)
    answers = {name: attribution.as_record() for name, attribution in by_baseline.items()}
    return {"answer": answers, "tokens": tokens, "values": values}


def _token_effects(scorer: Scorer, replacement: "Tensor", seen: float) -> list[float | None]:
    """The effect of replacing each token alone, [tokens]; None for tokens that are left out.

    The answer and the tail are replaced first. Then come the tokens whose first-order bound is at least `LEAST_BOUND`
    of the answer's effect, in falling order of the bound for each token that is fed again, until the rank lies beyond
    `COUNTED`."""
    transcript = scorer.transcript
    answer, tokens = transcript.positions("answer"), len(transcript.ids)
    effects: list[float | None] = [None] * tokens

    def rank_with(positions: Sequence[int]) -> int:
        """The answer's rank once these tokens are replaced too."""
        scores = scorer.replaced([((position,), replacement) for position in positions])
        for position, replaced_score in zip(positions, scores, strict=True):
            effects[position] = seen - replaced_score
        return rank_of_best(effects, answer) or 1

    rank = rank_with((*answer, *transcript.positions("tail")))
    best = max(abs(effects[i] or 0.0) for i in answer)
    bound = scorer.first_order_bound(replacement)
    worth = bound / (tokens - np.arange(tokens))  # replacing a token with n others after it feeds n + 1 tokens
    candidates = [i for i in np.argsort(-worth).tolist() if bound[i] >= LEAST_BOUND * best and effects[i] is None]
    for part in chunks(candidates, AT_ONCE):
        if rank > COUNTED:
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

    def __post_init__(self) -> None:
        if self.n_attribution < 1:
            raise UserError(f"--n-attribution {self.n_attribution}: must be at least 1")


def _measure(
    setting: "Setting", cases: Sequence["Case"], options: AttributionOptions, repeated: Sequence[Record]
) -> list[Record]:
    floor = of_score(repeated, options.score)
    return measured(setting, cases, score=options.score, path=options.path, baseline=options.baseline, floor=floor)


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
    ),
    Metric("attribution.refused_share", ANSWER, "refused, gap too large", "share", "refused", always=True),
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
