"""Attention rollout by span: how much the position that decides the confidence has gathered from each span (Figure 3).

The functions on rows take arrays alone; `measured` reads a model's attention. The module knows nothing of runs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from interp.instruments.base import Instrument, Metric, Repeated, Values, without_options
from interp.instruments.floor import SECTION
from interp.intervals import SIGNED, UNIT, Value
from interp.models.tree import common_length
from interp.records import MASS_SPANS, READ_SPANS, MassSpan, Span, Transcript
from interp.run.runs import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from peft import PeftModel
    from transformers import PreTrainedModel

    from figures.captions import Page, RunData
    from interp.models.attention import HeadMeans
    from interp.models.setting import Case, Setting

WINDOWS = 4
"""How many equal windows the layers are divided into for the reading by depth."""


def rollout_row(layers: Sequence[Float[np.ndarray, "tokens tokens"]], row: int) -> Float[np.ndarray, " tokens"]:
    """One row of attention rollout (Abnar and Zuidema 2020): how much of each token's input the token `row` holds.

    Each layer is mixed as (W + I) / 2. The product's row is computed from the last layer backwards, so that no matrices
    are multiplied. Rollout is no measure of influence: it ignores values and MLPs.

    Args:
        layers: attention averaged over heads, first layer first.
        row: index of the token after these layers.

    Returns:
        The weight of each token's input, in [0, 1]; 0: nothing flows from that token by attention. The weights sum to
        1, or to less where layers have learned sinks, which received the rest.
    """
    weights = np.zeros(layers[0].shape[-1])
    weights[row] = 1
    for layer in reversed(layers):
        weights = (weights + weights @ layer) / 2
    return weights


def uniform_rollout_row(tokens: int, depth: int, row: int) -> Float[np.ndarray, " tokens"]:
    """The null: rollout where every token attends equally to itself and to all tokens before it, whatever they say.

    Even so mass gathers at the first tokens as depth grows; raw rollout is therefore never read without the null.

    Args:
        tokens: how many tokens there are.
        depth: how many layers there are.
        row: index of the token after these layers.

    Returns:
        The weight of each token's input, summing to 1.
    """
    weights = np.zeros(tokens)
    weights[row] = 1
    for _ in range(depth):
        # token i gives each of the tokens 0 ... i the share 1 / (i + 1); the reversed sum collects them at each token
        per_seen = weights / np.arange(1, tokens + 1)
        weights = (weights + per_seen[::-1].cumsum()[::-1]) / 2
    return weights


def without_first(weights: Float[np.ndarray, " tokens"]) -> Float[np.ndarray, " tokens"]:
    """The weights without the first token, where attention sinks; the others are renormalised to sum to 1."""
    kept = weights.copy()
    kept[0] = 0
    total = kept.sum()
    return kept / total if total > 0 else kept


def sink_mass(weights: Float[np.ndarray, " tokens"]) -> float:
    """The mass of a row of rollout that went to learned sinks, in [0, 1].

    A sink acts like an additional token that every token can attend to and that attends to nothing itself. Mass that
    went there stays there through all layers, so it is 1 minus the sum of the tokens' weights."""
    return float(np.clip(1 - weights.sum(), 0, 1))


def span_masses(weights: Float[np.ndarray, " tokens"], spans: Sequence[Span]) -> dict[MassSpan, float]:
    """The sum of the weights over each span that occurs. spans: the span of each token."""
    return {
        name: float(sum(weights[i] for i, span in enumerate(spans) if span == name))
        for name in READ_SPANS
        if name in spans
    }


def measured(setting: "Setting", cases: Sequence["Case"], *, passes: int = 1) -> list[Record]:
    """Measures rollout from the last token before the levels differ, and from the answer's last token.

    Args:
        setting: the model in its format.
        cases: the questions with their right answers.
        passes: in how many passes, one continuing the other, the prompts are read; the result differs by rounding only.

    Returns:
        One record for each case.
    """
    from interp.models.attention import head_means
    from interp.models.steering import added_from

    prompts = [setting.prompter.transcript(case.question, case.answer) for case in cases]
    rows = [_reading_row(setting, prompt) for prompt in prompts]
    steered = [prompt.positions("tail")[0] for prompt in prompts]  # with --steer a vector is added from there on
    changes = partial(added_from, setting.reader.steering, steered)
    means = head_means(setting.checkpoint.model, [ids for ids, _ in rows], passes=passes, changes=changes)
    records = []
    for prompt, (ids, spans), layers in zip(prompts, rows, means, strict=True):
        records.append(_record(layers, spans, len(ids) - 1, prompt.positions("answer")[-1]))
    return records


def _reading_row(setting: "Setting", prompt: Transcript) -> tuple[tuple[int, ...], tuple[Span, ...]]:
    """(ids, spans) of the prompt and of the tokens that all levels begin with (a blank, in some vocabularies).

    The logits of its last row are the first that separate the levels."""
    suffixes = setting.prompter.level_suffixes(prompt)
    shared = suffixes[0][: common_length(suffixes)]
    tail: Sequence[Span] = ["tail"] * len(shared)
    return (*prompt.ids, *shared), (*prompt.spans, *tail)


def _record(layers: "HeadMeans", spans: Sequence[Span], row: int, answer_row: int) -> Record:
    """The record of one prompt. row: its last token; answer_row: the answer's last token."""
    depth, tokens = len(layers), len(spans)
    weights = {"confidence": rollout_row(layers, row), "answer": rollout_row(layers, answer_row)}
    null = {
        "confidence": uniform_rollout_row(tokens, depth, row),
        "answer": uniform_rollout_row(tokens, depth, answer_row),
    }
    values = _span_values(weights["confidence"], null["confidence"], spans)
    from_answer = _span_values(weights["answer"], null["answer"], spans)
    values |= {f"from_answer.{key}": value for key, value in from_answer.items()}
    if layers.sinks:
        values |= {"sink.mass": sink_mass(weights["confidence"]), "from_answer.sink.mass": sink_mass(weights["answer"])}
    windows = {}  # by first and last layer, as in "0-6": masses through these layers alone
    for part in np.array_split(np.arange(depth), min(WINDOWS, depth)):
        first, last = int(part[0]), int(part[-1])
        windows[f"{first}-{last}"] = _masses(layers[first : last + 1], row, spans)
    return {
        "layers": depth,
        "spans": list(spans),
        "weights": {key: _rounded(from_token) for key, from_token in weights.items()},
        "null": {key: _rounded(from_token) for key, from_token in null.items()},
        "windows": windows,
        "values": values,
    }


def _masses(layers: "HeadMeans", row: int, spans: Sequence[Span]) -> dict[MassSpan, float]:
    """The mass of each span through these layers alone, and that of the sinks where layers have them."""
    weights = rollout_row(layers, row)
    masses = span_masses(weights, spans)
    return masses | {"sink": sink_mass(weights)} if layers.sinks else masses


def _rounded(weights: np.ndarray) -> list[float]:
    """Six significant digits, so that records stay small."""
    return [float(f"{weight:.6g}") for weight in weights]


def _span_values(weights: np.ndarray, null: np.ndarray, spans: Sequence[Span]) -> dict[str, float]:
    """The values of each span by their names, as in "answer.mass". weights, null: [tokens]."""
    readings = {
        "mass": span_masses(weights, spans),
        "null": span_masses(null, spans),
        "without_first": span_masses(without_first(weights), spans),
        "without_first_null": span_masses(without_first(null), spans),
    }
    values = {f"{span}.{name}": mass for name, masses in readings.items() for span, mass in masses.items()}
    per_token = {f"{span}.per_token": mass / spans.count(span) for span, mass in readings["mass"].items()}
    return values | per_token


def repeated(setting: "Setting", cases: Sequence["Case"]) -> list[Record]:
    """One record for each case: its rollout read among the other cases, minus the same read alone and in two passes."""
    together = [record["values"] for record in measured(setting, cases)]
    alone = [measured(setting, [case], passes=2)[0]["values"] for case in cases]
    return [
        {"values": {name: value - again[name] for name, value in values.items() if "null" not in name}}
        for values, again in zip(together, alone, strict=True)
    ]


def _per_token_null(span: MassSpan, prefix: str) -> Callable[[Values], Value]:
    """A function that gives the null's mean over a span's tokens.

    Records hold no number of tokens, but mass / mass per token is that number."""

    def per_token_null(values: Values) -> Value:
        mass, null, per_token = (values.get(f"{prefix}{span}.{name}") for name in ("mass", "null", "per_token"))
        return float(null * per_token / mass) if mass and null is not None and per_token is not None else None

    return per_token_null


READINGS = {
    "mass": ("Rollout mass", ""),
    "null": ("Rollout mass", ", uniform attention"),
    "without_first": ("Rollout mass, first token left out", ""),
    "without_first_null": ("Rollout mass, first token left out", ", uniform attention"),
    "per_token": ("Rollout mass per token", ""),
    "per_token_null": ("Rollout mass per token", ", uniform attention"),
}
"""Heading, and the words after those for the direction of flow, by the last part of the key."""
ASKED_FIRST = {
    *(f"rollout.{span}.{reading}" for span in READ_SPANS for reading in ("mass", "null")),
    *(f"rollout.{span}.{reading}" for span in ("question", "answer") for reading in READINGS),
    *("rollout.sink.mass", "rollout.from_answer.question.mass", "rollout.from_answer.question.null"),
}
"""The keys of the numbers in the printed table."""


def _metrics() -> Iterator[Metric]:
    """Every reading of every span, by heading; each stands beside its null."""
    sections = dict.fromkeys(section for section, _ in READINGS.values())
    for section in sections:
        readings = {reading: words for reading, (of, words) in READINGS.items() if of == section}
        for prefix, where in (("", "confidence"), ("from_answer.", "answer")):
            for span in MASS_SPANS:
                for reading, words in readings.items():
                    if span == "sink" and reading != "mass":  # uniform attention has no sinks, and sinks are no tokens
                        continue
                    name, to = f"{prefix}{span}.{reading}", "learned sinks" if span == "sink" else span
                    yield Metric(
                        f"rollout.{name}",
                        section,
                        f"{where} to {to}{words}",
                        "mass",
                        _per_token_null(span, prefix) if reading == "per_token_null" else name,
                        place="listed" if f"rollout.{name}" in ASKED_FIRST else "kept",
                        floor=None if "null" in reading else f"floor.rollout.{name}",
                        bounds=UNIT,
                    )


METRICS = tuple(_metrics())
REPEATED = Repeated(
    name="rollout_floor",
    label="numerical floor of rollout",
    measure=repeated,
    most=8,
    chunk=4,
    metrics=tuple(
        replace(
            metric,
            key=metric.floor,
            section=SECTION,
            words=f"rollout, {metric.words}, mean difference",
            place="listed" if metric.key == "rollout.answer.mass" else "kept",
            floor=None,
            bounds=SIGNED,
        )
        for metric in METRICS
        if metric.floor
    ),
)


def pages(run: "RunData") -> "Iterator[Page]":
    """Figure 3."""
    from figures.rollout import figure_3

    yield figure_3(run)


def compared(before: "RunData", after: "RunData") -> "tuple[Figure, str]":
    """Masses and their nulls, of both runs."""
    from figures.rollout import compared_masses

    return compared_masses(before, after)


def _check(model: "PreTrainedModel | PeftModel") -> None:
    from interp.models.attention import refuse_hidden_attention

    refuse_hidden_attention(model)


ROLLOUT = Instrument(
    name="rollout",
    about="Attention rollout by span: where the confidence has gathered what it rests on.",
    metrics=METRICS,
    measure=without_options(measured),
    chunk=4,
    check=_check,
    repeated=REPEATED,
    pages=pages,
    compared=compared,
)
