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
from interp.instruments.floor import READINGS
from interp.instruments.jsd import distractors, surface_variants
from interp.intervals import NOT_NEGATIVE, UNIT, Value, ratio_of_medians, share_of_sum
from interp.records import ConfidenceDistribution, Question, Transcript
from interp.run.runs import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from peft import PeftModel
    from transformers import PreTrainedModel

    from figures.captions import Page, RunData
    from interp.instruments.pathways import Group, Pathways
    from interp.models.setting import Case, Setting

EDGES: "dict[str, tuple[Group, tuple[Group, ...]]]" = {
    "answer_to_later": ("answer", ("first", "rest", "read")),
    "answer_to_first": ("answer", ("first",)),
    "answer_to_rest": ("answer", ("rest",)),
    "answer_to_read": ("answer", ("read",)),
    "first_to_later": ("first", ("rest", "read")),
    "first_to_rest": ("first", ("rest",)),
    "first_to_read": ("first", ("read",)),
    "rest_to_read": ("rest", ("read",)),
}
"""The edges that are cut, by their names: the group that is looked at, and those that look."""
CONTROL = "instruction_to_later"
"""The control: as many tokens of the instruction as the answer has, cut from all later groups."""
SWAPPED: "tuple[Group, ...]" = ("answer", "first", "rest", "read")
"""The groups whose last token is swapped, all tokens of the last."""
FEWEST = 6
"""Below so many questions whose confidence depends on the answer there is nothing to follow."""
ALLOWED = {"jsd": 1e-6, "expected": 1e-4}
"""By how much rounding alone may break a law in float32: nats, and expected confidence. Where two readings of the same
text differ by more (`LOOSER` times the largest measured difference), by that much."""
LOOSER = 3
DONORS = 30
"""Among so many other questions one is looked for whose answer has as many tokens."""
SINK = 4
"""So many first tokens of the prompt are no control: much attention rests on them whatever they are."""


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
    control = _instruction(case.question, setting, pathways)
    record |= _knocked_out(setting, pathways, control, options) | _swapped(setting, pathways, whole, options)
    law, fed = _law(setting, prompts)
    fed += _of_another_question(setting, case.question, pathways, record, options)
    values = {
        "jsd": divergence(whole["right"], whole["wrong"]),
        "difference": whole["right"].expected - whole["wrong"].expected,
        "noise_floor": float(np.mean(noise)) if noise else 0.0,
        "equal_length": float(_lengths(prompts)[0] == _lengths(prompts)[1]),
        "law.knockout": law,
        "passes": (pathways.fed + fed) / _prompt_tokens(setting, prompts["right"]),
    }
    values |= _values(record, values)
    violated = values["law.knockout"] > allowed["jsd"] or values.get("law.swap", 0.0) > allowed["expected"]
    return record | {"values": values | {"law.violated": float(violated)}}


def wrong_answer(setting: "Setting", case: "Case") -> tuple[str, str | None]:
    """(Its source, the wrong answer): sampled, else branched, else of the same relation; None where there is none."""
    if case.wrong:
        return "sampled", case.wrong[0]
    if case.branched:
        return "branched", case.branched[0]
    return "same_relation", distractors(case.question, setting.pool, seed=setting.seed).get("foil")


def _lengths(prompts: Mapping[str, Transcript]) -> tuple[int, int]:
    """How many tokens the right and the wrong answer have."""
    right, wrong = (len(prompts[side].positions("answer")) for side in ("right", "wrong"))
    return right, wrong


def _prompt_tokens(setting: "Setting", transcript: Transcript) -> int:
    """How many tokens a whole prompt has, with its levels."""
    tree, _, _ = setting.reader.plan(transcript, 0)
    return len(tree.tokens)


def edges_between(standing: "Mapping[Group, Sequence[int]]") -> "dict[str, tuple[Group, tuple[Group, ...]]]":
    """The edges that exist where some groups are empty: a tail of one token has neither a first token nor a rest.

    Args:
        standing: the positions of each group within the prompt; levels are always read, whatever stands there.

    Returns:
        Of `EDGES` those that have someone who looks and something that is looked at, without the empty groups.
    """
    edges: dict[str, tuple[Group, tuple[Group, ...]]] = {}
    for name, (looked_at, groups) in EDGES.items():
        looking = tuple(group for group in groups if group == "read" or standing[group])
        if looking and standing[looked_at]:
            edges[name] = looked_at, looking
    return edges


def _knocked_out(setting: "Setting", pathways: "Pathways", control: tuple[int, ...], options: FlowOptions) -> Record:
    """What is left under each knockout, in all layers ("knockouts") and by window of layers ("windows")."""
    from interp.instruments.pathways import SIDES, Knockout, windows
    from interp.models.residual import depth_of

    parts: dict[tuple[str, str], list[Knockout]] = {}
    for name, (looked_at, looking) in edges_between(pathways.places("right")).items():
        for layers in (None, *windows(depth_of(setting.checkpoint.model), options.flow_window)):
            key = "all" if layers is None else f"{layers[0]}-{layers[-1]}"
            parts[name, key] = [Knockout(side, looked_at, looking, layers) for side in SIDES]
    if control:
        parts[CONTROL, "all"] = [Knockout(side, before=control) for side in SIDES]
    results = pathways.under([condition for both in parts.values() for condition in both])
    left: dict[str, dict[str, Record]] = {}
    for (name, key), (right, wrong) in parts.items():
        left.setdefault(name, {})[key] = _dependence(results[right], results[wrong])
    return {
        "knockouts": {name: by_key["all"] for name, by_key in left.items()},
        "windows": {
            name: {key: each for key, each in by_key.items() if key != "all"}
            for name, by_key in left.items()
            if len(by_key) > 1
        },
    }


def _dependence(right: ConfidenceDistribution, wrong: ConfidenceDistribution) -> Record:
    return {"jsd": divergence(right, wrong), "right": right.expected, "wrong": wrong.expected}


def _instruction(question: "Question", setting: "Setting", pathways: "Pathways") -> tuple[int, ...]:
    """Positions of the control: so many tokens of the instruction, in a row, as the right answer has; drawn."""
    transcript = pathways.prompts["right"]
    count = len(transcript.positions("answer"))
    free = [i for i in transcript.positions("instruction") if SINK <= i < pathways.length]
    if len(free) < count:
        return ()
    start = np.random.default_rng([setting.seed, *question.id.encode()]).integers(len(free) - count + 1)
    return tuple(free[start : start + count])


def _swapped(
    setting: "Setting", pathways: "Pathways", whole: Mapping[str, ConfidenceDistribution], options: FlowOptions
) -> Record:
    """By group and layer the expected confidence after each swap, into the right prompt and into the wrong one.

    Controls, after half of the layers: the same prompt's own stream, and that of a surface-form variant."""
    from interp.instruments.pathways import SIDES, Swap, swap_layers
    from interp.models.residual import depth_of

    if len(set(map(setting.reader.paths, (pathways.prompts[side] for side in SIDES)))) > 1:
        return {"swaps": {}, "swap_controls": {}}  # levels are other tokens after the other answer
    layers = swap_layers(depth_of(setting.checkpoint.model), options.flow_step)
    groups = [group for group in SWAPPED if group == "read" or pathways.places("right")[group]]
    swaps = {
        (group, layer): [Swap(side, group, layer, other) for side, other in zip(SIDES, SIDES[::-1], strict=True)]
        for group in groups
        for layer in layers
        if layer or group == "answer"  # the embeddings of the same tokens are the same
    }
    half = _half(layers)
    variants = [name for name in pathways.prompts if name.startswith("variant")][:1]
    controls = {(group, name): Swap("right", group, half, name) for group in groups for name in ("right", *variants)}
    results = pathways.under([*(swap for both in swaps.values() for swap in both), *controls.values()])
    moved: dict[str, dict[str, Record]] = {}
    for (group, layer), (right, wrong) in swaps.items():
        moved.setdefault(group, {})[str(layer)] = {
            "right": results[right].expected,
            "wrong": results[wrong].expected,
        }
    of_controls: dict[str, Record] = {}
    for (group, name), swap in controls.items():
        kind = "itself" if name == "right" else "variant"
        of_controls.setdefault(group, {})[kind] = results[swap].expected - whole["right"].expected
    return {"swaps": moved, "swap_controls": of_controls}


def _half(layers: Sequence[int]) -> int:
    """Of the layers after which streams are swapped the one nearest to half the depth, where the controls are."""
    return min(layers, key=lambda layer: abs(layer - layers[-1] / 2))


def _of_another_question(
    setting: "Setting", question: "Question", pathways: "Pathways", record: Record, options: FlowOptions
) -> int:
    """Adds to a record what the streams of another question with as long an answer move; gives the tokens fed.

    Nothing is added where the data have no such question near at hand, or where nothing was swapped."""
    from interp.instruments.pathways import Pathways, Swap, swap_layers
    from interp.models.residual import depth_of

    right = pathways.prompts["right"]
    found = another_of_this_length(setting, question, right) if record["swap_controls"] else None
    if found is None:
        return 0
    record["other_question"], prompt = found
    pair = Pathways(setting, {"right": right, "wrong": prompt})
    pair.reader.only_fillers = pathways.reader.only_fillers
    half = _half(swap_layers(depth_of(setting.checkpoint.model), options.flow_step))
    swaps = {group: Swap("right", group, half, "wrong") for group in record["swap_controls"]}
    results = pair.under(list(swaps.values()))
    for group, swap in swaps.items():
        record["swap_controls"][group]["other"] = results[swap].expected - record["whole"]["right"]
    return pair.fed


def another_of_this_length(
    setting: "Setting", question: "Question", transcript: Transcript
) -> tuple[str, Transcript] | None:
    """Another question whose right answer has as many tokens, and after which the same tokens follow.

    Args:
        setting: the model in its format, with the questions of the data.
        question: the question itself.
        transcript: its prompt with the right answer.

    Returns:
        (Its id, its prompt with its right answer), drawn by the setting's seed and the question's id; None where there
        is none among the first `DONORS` drawn.
    """
    reader, count = setting.reader, len(transcript.positions("answer"))
    tail = [transcript.ids[i] for i in transcript.positions("tail")]
    order = np.random.default_rng([setting.seed, *question.id.encode()]).permutation(len(setting.pool))
    for donor in (setting.pool[i] for i in order[:DONORS]):
        if donor.id == question.id:
            continue
        other = setting.prompter.transcript(donor, donor.answers[0])
        same_tail = [other.ids[i] for i in other.positions("tail")] == tail
        if same_tail and len(other.positions("answer")) == count and reader.paths(other) == reader.paths(transcript):
            return donor.id, other
    return None


def _law(setting: "Setting", prompts: Mapping[str, Transcript]) -> tuple[float, int]:
    """(The JSD left where the answer is cut from all later tokens, levels included: 0 but for rounding; tokens fed).

    A law for answers of as many tokens; the shorter one is padded where they differ."""
    from interp.instruments.pathways import SIDES, Knockout, Pathways, padded

    longest = max(_lengths(prompts))
    pair: dict[str, Transcript] = {side: padded(prompts[side], longest) for side in SIDES}
    pathways = Pathways(setting, pair)
    results = pathways.under([Knockout(side, "answer") for side in SIDES])
    right, wrong = (results[Knockout(side, "answer")] for side in SIDES)
    return divergence(right, wrong), pathways.fed


NAMED = {"half": 1 / 2, "late": 5 / 6, "depth": 1.0}
"""The layers of the swaps that the summary names, as shares of the depth; the figure shows all."""


def _values(record: Record, whole: Mapping[str, float]) -> dict[str, float]:
    """The numbers of one question that the knockouts and swaps in its record give.

    Of a knockout: the divergence left ("answer_to_read.jsd") and the difference of expected confidence left, signed as
    the whole one. Of a swap: what moves along, signed likewise ("swap.read.half")."""
    sign = float(np.sign(whole["difference"]))
    values = {"size": abs(whole["difference"])}
    for name, left in record["knockouts"].items():
        values[f"{name}.jsd"] = left["jsd"]
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
    """Whether the confidence of a question depends on its answer by more than its own noise floor."""
    return values.get("jsd") is not None and values["jsd"] > values["noise_floor"]


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
    )


METRICS = (
    Metric(
        "flow.followed",
        DEPENDENCE,
        "questions whose JSD exceeds their own noise floor",
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
        "flow.law.swap", LAWS, "swap after all layers: difference that does not move", "confidence", "law.swap", np.max
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
