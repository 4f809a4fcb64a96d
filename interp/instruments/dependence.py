"""One question's dependence on its answer: what knockouts leave of it, what swaps move, and what their controls do.

It turns prompts into the parts of a record. How conditions are read, `pathways` knows; what the numbers of a run are,
`flow` says."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from interp.divergence import divergence
from interp.records import ConfidenceDistribution, Question, Transcript
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.instruments.pathways import Group, Pathways
    from interp.models.setting import Setting

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
DONORS = 30
"""Among so many other questions one is looked for whose answer has as many tokens."""
SINK = 4
"""So many first tokens of the prompt are no control: much attention rests on them whatever they are."""


def answer_lengths(prompts: Mapping[str, Transcript]) -> tuple[int, int]:
    """How many tokens the right and the wrong answer have."""
    right, wrong = (len(prompts[side].positions("answer")) for side in ("right", "wrong"))
    return right, wrong


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


def knocked_out(setting: "Setting", pathways: "Pathways", control: tuple[int, ...], width: int) -> Record:
    """What is left under each knockout, in all layers ("knockouts") and by window of layers ("windows")."""
    from interp.instruments.pathways import SIDES, Knockout, windows
    from interp.models.residual import depth_of

    parts: dict[tuple[str, str], list[Knockout]] = {}
    for name, (looked_at, looking) in edges_between(pathways.places("right")).items():
        for layers in (None, *windows(depth_of(setting.checkpoint.model), width)):
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
    outside = (right.off_scale + wrong.off_scale) / 2
    return {"jsd": divergence(right, wrong), "right": right.expected, "wrong": wrong.expected, "outside": outside}


def instruction_positions(question: "Question", setting: "Setting", pathways: "Pathways") -> tuple[int, ...]:
    """Positions of the control: so many tokens of the instruction, in a row, as the right answer has; drawn."""
    transcript = pathways.prompts["right"]
    count = len(transcript.positions("answer"))
    free = [i for i in transcript.positions("instruction") if SINK <= i < pathways.length]
    if len(free) < count:
        return ()
    start = np.random.default_rng([setting.seed, *question.id.encode()]).integers(len(free) - count + 1)
    return tuple(free[start : start + count])


def swapped(setting: "Setting", pathways: "Pathways", whole: Mapping[str, ConfidenceDistribution], step: int) -> Record:
    """By group and layer the expected confidence after each swap, into the right prompt and into the wrong one.

    Controls, after half of the layers: the same prompt's own stream, and that of a surface-form variant."""
    from interp.instruments.pathways import SIDES, Swap, swap_layers
    from interp.models.residual import depth_of

    if len(set(map(setting.reader.paths, (pathways.prompts[side] for side in SIDES)))) > 1:
        return {"swaps": {}, "swap_controls": {}}  # levels are other tokens after the other answer
    layers = swap_layers(depth_of(setting.checkpoint.model), step)
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


def of_another_question(
    setting: "Setting", question: "Question", pathways: "Pathways", record: Record, step: int
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
    half = _half(swap_layers(depth_of(setting.checkpoint.model), step))
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


def law(setting: "Setting", prompts: Mapping[str, Transcript]) -> tuple[float, int]:
    """(The JSD left where the answer is cut from all later tokens, levels included: 0 but for rounding; tokens fed).

    A law for answers of as many tokens; the shorter one is padded where they differ."""
    from interp.instruments.pathways import SIDES, Knockout, Pathways, padded

    longest = max(answer_lengths(prompts))
    pair: dict[str, Transcript] = {side: padded(prompts[side], longest) for side in SIDES}
    pathways = Pathways(setting, pair)
    results = pathways.under([Knockout(side, "answer") for side in SIDES])
    right, wrong = (results[Knockout(side, "answer")] for side in SIDES)
    return divergence(right, wrong), pathways.fed
