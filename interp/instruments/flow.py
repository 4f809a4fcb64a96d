"""Information flow: on which way does the answer reach the stated confidence?

Attention is knocked out between groups of tokens, and the residual stream is swapped between the prompt with the right
answer and the one with a wrong answer (Geva et al. 2023; Geiger et al. 2021). What is left of the dependence on the
answer, or moves along, is reported beside its controls. The module takes a setting and cases and returns records; how
conditions are read, `pathways` knows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from interp.divergence import divergence
from interp.errors import UserError
from interp.instruments.base import Instrument, Kept, Metric, Place, Values
from interp.instruments.dependence import (
    CONTROL,
    EDGES,
    answer_lengths,
    instruction_positions,
    knocked_out,
    law,
    of_another_question,
    swapped,
)
from interp.instruments.floor import READINGS
from interp.instruments.jsd import distractors, surface_variants
from interp.intervals import NOT_NEGATIVE, UNIT, Value, ratio_of_medians, share_of_sum
from interp.records import Transcript
from interp.run.runs import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from peft import PeftModel
    from transformers import PreTrainedModel

    from figures.captions import Page, RunData
    from interp.models.setting import Case, Setting

FEWEST = 6
"""Below so many questions whose confidence depends on the answer there is nothing to follow."""
ALLOWED = {"jsd": 1e-6, "expected": 1e-4}
"""By how much rounding alone may break a law in float32: nats, and expected confidence. Where two readings of the same
text differ by more (`LOOSER` times the largest measured difference), by that much."""
LOOSER = 3


@dataclass(frozen=True, kw_only=True)
class FlowOptions:
    """What only flow is asked."""

    flow_window: int = 5
    """Attention is knocked out in all layers, and in windows of so many."""
    flow_step: int = 3
    """The residual stream is swapped after every so many layers, and after all."""

    def __post_init__(self) -> None:
        for name in ("flow_window", "flow_step"):
            if (value := getattr(self, name)) < 1:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 1")


def measured(setting: "Setting", cases: "Sequence[Case]", options: FlowOptions, kept: Kept) -> list[Record]:
    """One record for each case: the dependence on the answer as it is, under each knockout and after each swap."""
    allowed = allowed_by(kept.repeated)
    return [_of_case(setting, case, options, allowed) for case in cases]


def allowed_by(readings: Sequence[Record]) -> dict[str, float]:
    """What rounding may leave of a law, by "jsd" (nats) and "expected"; readings: of the same text, taken twice."""
    largest = {name: max((abs(each["values"][name]) for each in readings), default=0.0) for name in ALLOWED}
    return {name: max(least, LOOSER * largest[name]) for name, least in ALLOWED.items()}


def _of_case(setting: "Setting", case: "Case", options: FlowOptions, allowed: Mapping[str, float]) -> Record:
    from interp.instruments.pathways import Pathways

    source, wrong = wrong_answer(setting, case)
    record: Record = {"source": source, "answers": {"right": case.answer, "wrong": wrong}, "values": {}}
    if wrong is None:
        return record
    put = {"right": case.answer, "wrong": wrong}
    put |= {f"variant {i}": variant for i, variant in enumerate(surface_variants(case.answer))}
    prompts = {name: setting.prompter.transcript(case.question, answer) for name, answer in put.items()}
    pathways = Pathways(setting, prompts)
    whole = pathways.as_they_are()
    noise = [divergence(whole["right"], whole[name]) for name in put if name.startswith("variant")]
    record["whole"] = {side: whole[side].expected for side in ("right", "wrong")}
    control = instruction_positions(case.question, setting, pathways)
    record |= knocked_out(setting, pathways, control, options.flow_window) | swapped(
        setting, pathways, whole, options.flow_step
    )
    left, fed = law(setting, prompts)
    fed += of_another_question(setting, case.question, pathways, record, options.flow_step)
    values = {
        "jsd": divergence(whole["right"], whole["wrong"]),
        "difference": whole["right"].expected - whole["wrong"].expected,
        "noise_floor": float(np.mean(noise)) if noise else 0.0,
        "rounding": allowed["jsd"],
        "outside": (whole["right"].off_scale + whole["wrong"].off_scale) / 2,
        "equal_length": float(len(set(answer_lengths(prompts))) == 1),
        "law.knockout": left,
        "passes": (pathways.fed + fed) / _prompt_tokens(setting, prompts["right"]),
    }
    values |= _values(record, values)
    if values["equal_length"] and "answer_to_later.jsd" in values:
        values["law.knockout"] = max(left, values["answer_to_later.jsd"])
    violated = values["law.knockout"] > allowed["jsd"] or values.get("law.swap", 0.0) > allowed["expected"]
    return record | {"values": values | {"law.violated": float(violated)}}


def wrong_answer(setting: "Setting", case: "Case") -> tuple[str, str | None]:
    """(Its source, the wrong answer): sampled, else branched, else of the same relation; None where there is none."""
    if case.wrong:
        return "sampled", case.wrong[0]
    if case.branched:
        return "branched", case.branched[0]
    return "same_relation", distractors(case.question, setting.pool, seed=setting.seed).get("foil")


def _prompt_tokens(setting: "Setting", transcript: Transcript) -> int:
    """How many tokens a whole prompt has, with its levels."""
    tree, _, _ = setting.reader.plan(transcript, 0)
    return len(tree.tokens)


NAMED = {"half": 1 / 2, "late": 5 / 6, "depth": 1.0}
"""The layers of the swaps that the summary names, as shares of the depth; the figure shows all."""


def _values(record: Record, whole: Mapping[str, float]) -> dict[str, float]:
    """The numbers of one question that the knockouts and swaps in its record give.

    Of a knockout: the divergence left ("answer_to_read.jsd") and the difference of expected confidence left, signed as
    the whole one. Of a swap: what moves along, signed likewise ("swap.read.half")."""
    sign = float(np.sign(whole["difference"]))
    values = {"size": abs(whole["difference"])}
    for name, left in record["knockouts"].items():
        values |= {f"{name}.jsd": left["jsd"], f"{name}.outside": left["outside"]}
        values[f"{name}.difference"] = sign * (left["right"] - left["wrong"])
    for group, by_layer in record["swaps"].items():
        layers = [int(layer) for layer in by_layer]
        for name, share in NAMED.items():
            nearest = min(layers, key=lambda layer: abs(layer - share * layers[-1]))
            values[f"swap.{group}.{name}"] = moved(by_layer[str(nearest)], record["whole"], sign)
    if "read" in record["swaps"]:
        exchanged, whole_of = list(record["swaps"]["read"].values())[-1], record["whole"]  # after all layers
        values["law.swap"] = max(
            abs(exchanged["right"] - whole_of["wrong"]), abs(exchanged["wrong"] - whole_of["right"])
        )
    for group, changes in record["swap_controls"].items():
        values |= {f"control.{group}.{kind}": abs(change) for kind, change in changes.items()}
        # what moves with the streams of a control, on the scale of what moves with those of the wrong answer
        values |= {f"swap.{group}.{kind}": -sign * change for kind, change in changes.items() if kind != "itself"}
    return values


def moved(swapped: Mapping[str, float], whole: Mapping[str, float], sign: float) -> float:
    """What of the difference of expected confidence moves along with a swap, the mean over both directions.

    Args:
        swapped: the expected confidence after the right and after the wrong answer, each with the other's stream.
        whole: the same without a swap.
        sign: that of the whole difference, right minus wrong.

    Returns:
        The whole difference's size if the confidences are exchanged, 0 if they stay.
    """
    return sign * ((whole["right"] - swapped["right"]) + (swapped["wrong"] - whole["wrong"])) / 2


def followed(values: Values) -> bool:
    """Whether the confidence of a question depends on its answer by more than its noise floor, and than rounding."""
    least = max(values.get("noise_floor", 0.0), values.get("rounding", ALLOWED["jsd"]))
    return values.get("jsd") is not None and values["jsd"] > least


def _left(name: str, whole: str) -> Callable[[Values], Value]:
    """A function of a question's values: (dependence left, whole dependence); None where there is nothing to follow."""

    def left(values: Values) -> Value:
        part = values.get(name)
        return None if part is None or not followed(values) else (part, values[whole])

    return left


def share_left(part: np.ndarray, whole: np.ndarray, axis: int = -1) -> np.ndarray:
    """The ratio of medians; NaN where fewer than `FEWEST` questions are followed."""
    if part.shape[axis] < FEWEST:
        return np.full(np.delete(part.shape, axis), np.nan)
    return ratio_of_medians(part, whole, axis=axis)


def share_moved(part: np.ndarray, whole: np.ndarray, axis: int = -1) -> np.ndarray:
    """The sum of what moves over the sum of all differences, so that large ones weigh more; NaN likewise."""
    if part.shape[axis] < FEWEST:
        return np.full(np.delete(part.shape, axis), np.nan)
    return share_of_sum(part, whole, axis=axis)


def _where(name: str, holds: Callable[[Values], bool]) -> Callable[[Values], Value]:
    """A function of a question's values: the value of this name, where something holds; else None."""
    return lambda values: values.get(name) if values.get(name) is not None and holds(values) else None


EDGE_WORDS = {
    "answer_to_later": "answer to all later tokens",
    "answer_to_first": "answer to the first token after it",
    "answer_to_rest": 'answer to "Confidence:"',
    "answer_to_read": "answer to what is read",
    "first_to_later": "first token after the answer to all later",
    "first_to_rest": 'first token after the answer to "Confidence:"',
    "first_to_read": "first token after the answer to what is read",
    "rest_to_read": '"Confidence:" to what is read',
    CONTROL: "as many tokens of the instruction to all later (control)",
}
"""What is cut, in words."""
GROUP_WORDS = {
    "answer": "answer's last token",
    "first": "first token after it",
    "rest": '"Confidence:", last token',
    "read": "what is read",
}
"""Where streams are swapped, in words."""
LAYER_WORDS = {
    "half": "after half of the layers",
    "late": "after five sixths",
    "depth": "after all (1 by construction)",
    "variant": "after half, of a surface-form variant (control)",
    "other": "after half, of another question with as long an answer (control)",
}
CONTROL_WORDS = {
    "itself": "its own stream",
    "variant": "that of a surface-form variant",
    "other": "that of another question with as long an answer",
}
LEFT, LEFT_DIFFERENCE = "Dependence left without this attention, JSD", "The same, difference of expected confidence"
SWAPS, LAWS = "Difference that moves with a swapped stream", "Laws of flow, largest violation"
DEPENDENCE = "Dependence on the answer that is followed"
OUTSIDE = "Off-scale mass, mean of both prompts"


def _edge(name: str, words: str) -> tuple[Metric, ...]:
    place: Place = "headline" if name in ("answer_to_later", "answer_to_read", CONTROL) else "listed"
    return (
        Metric(
            f"flow.{name}.share_left",
            LEFT,
            words,
            "share",
            _left(f"{name}.jsd", "jsd"),
            share_left,
            place,
            interval="bootstrap",
        ),
        Metric(
            f"flow.{name}.difference_left",
            LEFT_DIFFERENCE,
            words,
            "share",
            _left(f"{name}.difference", "size"),
            share_left,
            interval="bootstrap",
        ),
        Metric(
            f"flow.{name}.outside",
            OUTSIDE,
            f"without {words}",
            "share",
            _where(f"{name}.outside", followed),
            place="kept",
            bounds=UNIT,
        ),
    )


METRICS = (
    Metric(
        "flow.followed",
        DEPENDENCE,
        f"questions whose JSD exceeds their own noise floor (by chance half; fewer than {FEWEST}: nothing to follow)",
        "share",
        lambda values: None if values.get("jsd") is None else float(followed(values)),
        place="headline",
        interval="wilson",
    ),
    Metric("flow.jsd", DEPENDENCE, "JSD of these, median (nats)", "nats", _where("jsd", followed), np.median),
    Metric(
        "flow.size",
        DEPENDENCE,
        "difference of expected confidence, mean",
        "confidence",
        _where("size", followed),
        bounds=UNIT,
    ),
    Metric("flow.outside", OUTSIDE, "as it is", "share", _where("outside", followed), place="kept", bounds=UNIT),
    *(metric for name, words in EDGE_WORDS.items() for metric in _edge(name, words)),
    *(
        Metric(
            f"flow.swap.{group}.{layer}",
            SWAPS,
            f"{words}, {LAYER_WORDS[layer]}",
            "share",
            _left(f"swap.{group}.{layer}", "size"),
            share_moved,
            "headline" if (group, layer) == ("read", "half") else "kept" if layer == "depth" else "listed",
        )
        for group, words in GROUP_WORDS.items()
        for layer in LAYER_WORDS
    ),
    *(
        Metric(
            f"flow.control.{group}.{kind}",
            "Swaps that should move nothing, change of expected confidence",
            f"{words}, {kind_words}",
            "confidence",
            f"control.{group}.{kind}",
            place="kept",
            bounds=UNIT,
        )
        for group, words in GROUP_WORDS.items()
        for kind, kind_words in CONTROL_WORDS.items()
    ),
    Metric(
        "flow.law.knockout",
        LAWS,
        "answer cut from all later: JSD left, answers of as many tokens (nats)",
        "nats",
        _where("law.knockout", lambda values: values["equal_length"] == 1),
        np.max,
    ),
    Metric(
        "flow.law.knockout_padded",
        LAWS,
        "the same, shorter answer padded (nats)",
        "nats",
        _where("law.knockout", lambda values: values["equal_length"] == 0),
        np.max,
    ),
    Metric(
        "flow.law.swap", LAWS, "swap after all layers: gap to the other confidence", "confidence", "law.swap", np.max
    ),
    Metric(
        "flow.law.violated",
        LAWS,
        "questions on which one is broken beyond rounding (should be 0 %)",
        "share",
        "law.violated",
        place="headline",
        interval="wilson",
    ),
    Metric(
        "flow.passes",
        "Cost of flow",
        "passes of the whole prompt, mean",
        "count",
        "passes",
        place="kept",
        bounds=NOT_NEGATIVE,
    ),
)


def _check(model: "PreTrainedModel | PeftModel") -> None:
    """Raises UserError where the model's layers are not known."""
    from interp.models.residual import decoder_layers

    decoder_layers(model)


def pages(run: "RunData") -> "Iterator[Page]":
    """The diagram of the edges, and where swaps move the confidence."""
    from figures.flow import flow_page

    yield flow_page(run, EDGES, EDGE_WORDS, GROUP_WORDS)


def compared(before: "RunData", after: "RunData") -> "tuple[Figure, str]":
    """The swaps of both runs."""
    from figures.flow import compared_swaps

    return compared_swaps(before, after, EDGES)


FLOW = Instrument(
    name="flow",
    about="Where the answer's way to the stated confidence leads: attention knockouts and swaps.",
    metrics=METRICS,
    measure=measured,
    chunk=2,
    on_request=True,
    needs_wrong_answers=True,
    options=FlowOptions,
    check=_check,
    repeated=READINGS,
    pages=pages,
    compared=compared,
)
