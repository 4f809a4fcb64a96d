"""Flow: knockouts and swaps are those of plain passes, laws hold on every family, and nothing is followed in vain."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from hypothesis import given
from hypothesis import strategies as st
from test_masking import said_after

from figures.captions import RunData, Subject
from figures.flow import compared_swaps, flow_page, ways
from figures.report import reported
from interp.divergence import divergence
from interp.errors import UserError
from interp.instruments.base import Kept, estimates
from interp.instruments.flow import (
    CONTROL,
    EDGE_WORDS,
    EDGES,
    FEWEST,
    GROUP_WORDS,
    METRICS,
    FlowOptions,
    followed,
    measured,
    moved,
    share_left,
    share_moved,
    wrong_answer,
)
from interp.instruments.pathways import SIDES, Knockout, Pathways, Swap, padded, swap_layers, windows
from interp.instruments.registry import by_default
from interp.intervals import ratio_of_medians
from interp.measures import FlowRecord
from interp.models.hooks import HookedModel
from interp.models.setting import Case
from interp.options import composed
from interp.pipelines.diagnose import diagnosed
from interp.pipelines.diagnosis import Diagnose
from interp.run.runs import read_run
from interp.run.typed import typed

KINDS = [*((family, False) for family in FAMILIES), ("llama", True), ("gemma2", True)]
HOOKED = [("llama", False), ("gemma2", False), ("qwen2", False)]
SUBJECT = Subject("tiny", None, "own", 40, 20, "ScoreNumber")


def pathways_of(setting, question, right="Kid", wrong="Kitten") -> Pathways:
    put = {"right": right, "wrong": wrong, "variant 0": right.upper()}
    return Pathways(setting, {name: setting.prompter.transcript(question, answer) for name, answer in put.items()})


def apart(distribution, expected: torch.Tensor) -> float:
    return (torch.tensor(distribution.probability).double() - expected).abs().max().item()


def positions_of(pathways: Pathways, side: str, groups, length: int) -> list[int]:
    """Positions of groups in a whole text of `length` tokens, level and filler included."""
    transcript = pathways.prompts[side]
    found = [position for group in groups for position in pathways.places(side)[group]]
    return found + (list(range(len(transcript.ids), length)) if "read" in groups else [])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "adapter"), HOOKED)
def test_every_knockout_equals_that_of_transformer_lens(tiny_setting, open_questions, family, adapter):
    setting = tiny_setting(family, adapter)
    pathways = pathways_of(setting, open_questions[0])
    whole = pathways.as_they_are()
    hooked = HookedModel(setting.checkpoint.model)
    conditions = [Knockout("right", *edge, layers) for edge in EDGES.values() for layers in (None, (1,), (0, 2))]
    results = pathways.under(conditions)
    transcript = pathways.prompts["right"]
    for condition in conditions:

        def forward(ids, condition=condition):
            groups = positions_of(pathways, "right", condition.looking, ids.shape[1])
            looked_at = pathways.places("right")[condition.looked_at]
            with hooked.attention_knocked_out(groups, looked_at, condition.layers):
                return hooked.logits(ids)

        assert apart(results[condition], said_after(setting, transcript, forward)) < 1e-5
    assert divergence(whole["right"], results[conditions[0]]) > 1e-5, "the cut does something"


@pytest.mark.slow
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize(("family", "adapter"), HOOKED)
def test_every_swap_equals_that_of_transformer_lens(tiny_setting, open_questions, family, adapter, layer):
    setting = tiny_setting(family, adapter)
    pathways = pathways_of(setting, open_questions[0])
    pathways.as_they_are()
    hooked = HookedModel(setting.checkpoint.model)
    name = f"blocks.{layer}.hook_resid_pre"
    conditions = [Swap("right", group, layer, "wrong") for group in ("answer", "first", "rest", "read")]
    results = pathways.under(conditions)
    before, other = (pathways.prompts[side] for side in SIDES)

    def streams(ids: torch.Tensor) -> torch.Tensor:
        """The stream of the wrong prompt with the same tokens after it, [tokens, width]."""
        level = ids[0, len(before.ids) :]
        kept = []
        with hooked.bridge.hooks(fwd_hooks=[(name, lambda stream, hook: kept.append(stream.clone()))]):
            hooked.logits(torch.cat([torch.tensor(other.ids), level])[None])
        return kept[0][0]

    for condition in conditions:

        def forward(ids, condition=condition):
            levels = list(range(len(before.ids), ids.shape[1]))
            shift = len(other.ids) - len(before.ids)
            own, theirs = (pathways.places(side)[condition.group] for side in SIDES)
            at, source = (
                ([*own, *levels], [*theirs, *(i + shift for i in levels)])
                if condition.group == "read"
                else (
                    [own[-1]],
                    [theirs[-1]],
                )
            )
            if not at:
                return hooked.logits(ids)
            with hooked.activation_replaced(name, at, streams(ids)[source][None]):
                return hooked.logits(ids)

        assert apart(results[condition], said_after(setting, before, forward)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("family", "adapter"), KINDS)
def test_the_laws_hold_on_every_family(tiny_setting, open_questions, family, adapter):
    setting = tiny_setting(family, adapter)
    case = Case(open_questions[0], "Kid", ("Kitten and a cat",))
    (record,) = measured(setting, [case], FlowOptions(flow_window=2, flow_step=2), Kept(folder=Path()))
    values = record["values"]
    assert values["equal_length"] == 0 and values["law.knockout"] < 1e-9, "padded to equal length"
    assert values["law.swap"] < 1e-5 and values["swap.read.depth"] == pytest.approx(values["size"], abs=1e-5)
    assert max(abs(change["itself"]) for change in record["swap_controls"].values()) < 1e-6
    assert list(record["windows"]["answer_to_later"]) == ["0-1", "2-2"]
    assert list(record["swaps"]["read"]) == ["2", "3"] and list(record["swaps"]["answer"]) == ["0", "2", "3"]
    (equal,) = measured(setting, [replace(case, wrong=("Cat",), answer="Kid")], FlowOptions(), Kept(folder=Path()))
    if equal["values"]["equal_length"]:
        assert equal["values"]["answer_to_later.jsd"] < 1e-9


@pytest.mark.slow
def test_flow_in_bfloat16_is_that_of_float32_within_its_precision(tiny_setting, open_questions):
    from interp.models.setting import prepared

    setting = tiny_setting("llama")
    model = copy.deepcopy(setting.checkpoint.model).bfloat16()
    half = prepared(
        replace(setting.checkpoint, model=model), setting.prompter.confidence, pool=open_questions, check=setting.check
    )
    case, options = Case(open_questions[0], "Kid", ("Kitten",)), FlowOptions()
    exact, rounded = (measured(each, [case], options, Kept(folder=Path()))[0]["values"] for each in (setting, half))
    assert rounded["law.knockout"] < 1e-3 and rounded["law.swap"] < 0.02
    for name in ("answer_to_later.jsd", "answer_to_read.jsd", "jsd"):
        assert rounded[name] == pytest.approx(exact[name], rel=0.1, abs=0.01)


def test_windows_as_wide_as_the_model_are_all_layers(tiny_setting, open_questions):
    pathways = pathways_of(tiny_setting("llama"), open_questions[0])
    pathways.as_they_are()
    every, window = (Knockout("right", "answer", layers=layers) for layers in (None, (0, 1, 2)))
    results = pathways.under([every, window])
    assert divergence(results[every], results[window]) < 1e-12


@pytest.mark.slow
def test_the_control_cuts_tokens_of_the_instruction_alone(tiny_setting, open_questions):
    setting = tiny_setting("llama")
    pathways = pathways_of(setting, open_questions[0])
    whole = pathways.as_they_are()
    transcript = pathways.prompts["right"]
    before = tuple(transcript.positions("instruction")[5:8])
    control = Knockout("right", before=before)
    hooked = HookedModel(setting.checkpoint.model)

    def forward(ids):
        looking = positions_of(pathways, "right", control.looking, ids.shape[1])
        with hooked.attention_knocked_out(looking, before):
            return hooked.logits(ids)

    results = pathways.under([control])
    assert apart(results[control], said_after(setting, transcript, forward)) < 1e-5
    assert divergence(results["right"], whole["right"]) < 1e-9


@pytest.mark.slow
def test_cases_alone_equal_cases_together_and_the_hooks_are_gone(tiny_setting, open_questions):
    setting = tiny_setting("llama")
    cases = [Case(question, "Kid", ("Ice",)) for question in open_questions[:2]]
    options, kept = FlowOptions(flow_window=3), Kept(folder=Path())
    together = measured(setting, cases, options, kept)
    alone = [measured(setting, [case], options, kept)[0] for case in cases]
    assert [record["values"] for record in together] == [pytest.approx(record["values"], abs=1e-6) for record in alone]
    before = setting.reader.readings([setting.prompter.transcript(open_questions[0], "Kid")])[0]
    assert setting.reader.only_fillers is None, "the reader of others is as it was"
    with pytest.raises(UserError, match="must be at least 1"):
        FlowOptions(flow_step=0)
    again = setting.reader.readings([setting.prompter.transcript(open_questions[0], "Kid")])[0]
    assert again == before


def test_a_question_without_a_wrong_answer_is_left_out(tiny_setting, open_questions):
    setting = replace(tiny_setting("llama"), pool=())
    assert wrong_answer(setting, Case(open_questions[0], "Kid")) == ("same_relation", None)
    assert wrong_answer(setting, Case(open_questions[0], "Kid", branched=("Ice",))) == ("branched", "Ice")
    assert wrong_answer(setting, Case(open_questions[0], "Kid", ("Cat",), ("Ice",))) == ("sampled", "Cat")
    (record,) = measured(setting, [Case(open_questions[0], "Kid")], FlowOptions(), Kept(folder=Path()))
    assert record == {"source": "same_relation", "answers": {"right": "Kid", "wrong": None}, "values": {}}
    numbers = estimates(METRICS, [{"id": "a", "values": record["values"], "relation": ""}])
    assert all(estimate.value is None for estimate in numbers.values())


def test_padding_repeats_the_last_token_of_the_answer(tiny_setting, open_questions):
    transcript = tiny_setting("llama").prompter.transcript(open_questions[0], "Kid")
    count = len(transcript.positions("answer"))
    longer = padded(transcript, count + 2)
    last = transcript.positions("answer")[-1]
    assert longer.ids == (*transcript.ids[: last + 1], *[transcript.ids[last]] * 2, *transcript.ids[last + 1 :])
    assert len(longer.positions("answer")) == count + 2 and longer.positions("tail")[0] == last + 3
    assert padded(transcript, count) == transcript


@given(st.integers(1, 90), st.integers(1, 40))
def test_windows_hold_every_layer_once_and_swaps_end_at_the_depth(depth, width):
    parts = windows(depth, width)
    assert [layer for part in parts for layer in part] == list(range(depth))
    assert max(map(len, parts)) <= width
    layers = swap_layers(depth, width)
    assert layers[0] == 0 and layers[-1] == depth and len(set(layers)) == len(layers)


def test_what_moves_by_hand():
    whole = {"right": 0.9, "wrong": 0.3}
    assert moved({"right": 0.3, "wrong": 0.9}, whole, 1.0) == pytest.approx(0.6)
    assert moved(whole, whole, 1.0) == 0
    assert moved({"right": 0.6, "wrong": 0.3}, whole, 1.0) == pytest.approx(0.15)
    assert moved({"right": 0.9, "wrong": 0.3}, {"right": 0.3, "wrong": 0.9}, -1.0) == pytest.approx(0.6)


def test_the_ratio_of_medians_by_hand_and_none_for_few():
    assert ratio_of_medians(np.array([1.0, 2, 30]), np.array([4.0, 8, 5])) == pytest.approx(2 / 5)
    assert math.isnan(ratio_of_medians(np.array([1.0]), np.array([0.0])))
    few, enough = np.full(FEWEST - 1, 0.5), np.full(FEWEST, 0.5)
    assert math.isnan(share_left(few, few)) and share_left(enough, 2 * enough) == 0.5
    assert math.isnan(share_moved(few, few)) and share_moved(enough, 2 * enough) == 0.5
    assert np.isnan(share_left(np.ones((3, 2)), np.ones((3, 2)))).all()


def rows(count: int, jsd: float = 0.2, noise: float = 0.01) -> list[dict]:
    """Values as of `count` questions, of which all depend on the answer by way of what is read at half the depth."""
    values = {"jsd": jsd, "noise_floor": noise, "size": 0.5, "difference": 0.5, "equal_length": 1.0}
    values |= {"law.knockout": 1e-12, "law.swap": 1e-7, "passes": 20.0}
    left = {"answer_to_read": 0.1, CONTROL: 1.0, "rest_to_read": 1.5}
    values |= {f"{name}.jsd": left.get(name, 0.9) * jsd for name in EDGE_WORDS}
    values |= {f"{name}.difference": left.get(name, 0.9) * 0.5 for name in EDGE_WORDS}
    values |= {f"swap.{group}.{layer}": 0.5 for group in GROUP_WORDS for layer in ("half", "late", "depth")}
    return [{"id": str(i), "values": dict(values), "relation": ""} for i in range(count)]


def test_only_questions_beyond_their_noise_are_followed():
    questions = [*rows(8), *rows(4, jsd=0.005)]
    assert [followed(question["values"]) for question in questions] == [True] * 8 + [False] * 4
    numbers = estimates(METRICS, questions)
    assert numbers["flow.followed"].value == pytest.approx(8 / 12)
    assert numbers["flow.answer_to_read.share_left"].value == pytest.approx(0.1)
    assert numbers["flow.answer_to_read.share_left"].left_out == 4
    assert numbers["flow.rest_to_read.share_left"].value == pytest.approx(1.5), "shares above 100 % are shown"
    assert numbers["flow.swap.read.half"].value == pytest.approx(1.0)
    assert not any(followed(question["values"]) for question in rows(2, jsd=1e-11, noise=1e-12)), "that is rounding"
    (coarse,) = rows(1)
    assert not followed(coarse["values"] | {"rounding": 0.3}), "in bfloat16 rounding may be more than the noise floor"
    few = estimates(METRICS, [*rows(5), *rows(7, jsd=0.005)])
    assert few["flow.answer_to_read.share_left"].value is None and few["flow.swap.read.half"].value is None
    assert few["flow.followed"].value == pytest.approx(5 / 12)


def run_of(count: int, jsd: float = 0.2) -> RunData:
    """A run of questions of which what is read moves everything from half of the depth on."""
    records = []
    for row in rows(count, jsd):
        swaps = {
            group: {
                str(layer): {"right": 0.2, "wrong": 0.7}
                if group == "read" and layer >= 2
                else {"right": 0.7, "wrong": 0.2}
                for layer in (2, 4)
            }
            for group in GROUP_WORDS
        }
        left = {name: {"jsd": row["values"][f"{name}.jsd"], "right": 0.6, "wrong": 0.4} for name in EDGE_WORDS}
        records.append(
            row
            | {
                "measure": "flow",
                "set": 0,
                "source": "sampled",
                "answers": {"right": "a", "wrong": "b"},
                "whole": {"right": 0.7, "wrong": 0.2},
                "knockouts": left,
                "windows": {name: {"0-1": left[name], "2-3": left[name]} for name in EDGES},
                "swaps": swaps,
            }
        )
    for record in records:
        record.pop("relation")
    return RunData(records, estimates(METRICS, rows(count, jsd)), SUBJECT)


@pytest.mark.slow
def test_the_figure_shows_shares_or_says_that_there_is_nothing():
    run, nothing = run_of(12), run_of(12, jsd=0.005)
    found = ways(run, list(EDGES))
    assert found.swaps[:, found.groups.index("read")] == pytest.approx([1, 1])
    assert found.swaps[:, found.groups.index("rest")] == pytest.approx([0, 0])
    assert found.by_window["answer_to_read"] == pytest.approx([0.1, 0.1])
    assert 0 < found.band < 1
    page = flow_page(run, EDGES, EDGE_WORDS, GROUP_WORDS)
    assert "150 %" in page.caption and "12 of 12" not in page.caption
    texts = [text.get_text() for ax in page.figure.axes for text in ax.texts]
    assert "10 %" in texts and "150 %" in texts
    widths = [patch.get_linewidth() for ax in page.figure.axes for patch in ax.patches]
    assert min(widths) >= 0.6, "no negative width"
    empty = flow_page(nothing, EDGES, EDGE_WORDS, GROUP_WORDS)
    assert "nothing to follow" in " ".join(empty.caption.split())
    assert "nothing to follow:\n0 of 12 questions" in [text.get_text() for ax in empty.figure.axes for text in ax.texts]
    figure, how = compared_swaps(nothing, run, EDGES)
    assert len(figure.axes) == 4 and "Above" in how


@pytest.mark.slow
def test_a_run_holds_flow_where_it_is_named_and_its_records_are_typed(taught_checkpoint, own_data, tmp_path, capsys):
    assert "flow" not in by_default()
    options = composed(
        Diagnose,
        ckpt=str(taught_checkpoint),
        data=str(own_data / "open.jsonl"),
        n=4,
        candidates=0,
        tries=8,
        shots=0,
        device="cpu",
        out=tmp_path,
        flow_window=2,
    )
    folder = diagnosed(options, ["flow"], "flow")
    _, summary, records = read_run(folder)
    assert set(summary["flow"]) >= {"followed", "law", "answer_to_read"} and "jsd" not in summary["flow"]["law"]
    ours = [typed(FlowRecord, record) for record in records if record["measure"] == "flow"]
    assert len(ours) == 4 and all(record.whole for record in ours)
    reported(folder)
    assert list((folder / "figures").glob("flow.*"))
    assert "Dependence on the answer" in capsys.readouterr().out
