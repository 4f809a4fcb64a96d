"""Flow against plain passes with hooks set by hand, on every family; its controls, and that a broken law is told."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_flow import KINDS, SUBJECT, apart, pathways_of, positions_of, rows, run_of
from test_masking import said_after

from benchmarks.__main__ import tokens_fed
from figures.captions import RunData, percent
from figures.flow import flow_page, ways
from interp.instruments import pathways as pathways_module
from interp.instruments.base import Kept, estimates
from interp.instruments.dependence import (
    EDGES,
    another_of_this_length,
    answer_lengths,
    edges_between,
    instruction_positions,
)
from interp.instruments.flow import (
    ALLOWED,
    EDGE_WORDS,
    GROUP_WORDS,
    LOOSER,
    METRICS,
    FlowOptions,
    allowed_by,
    measured,
)
from interp.instruments.pathways import SIDES, Knockout, Pathways, Swap
from interp.models.residual import decoder_layers
from interp.models.setting import Case

KEPT = Kept(folder=Path())


@contextmanager
def cut_by_hand(model, looking: Sequence[int], looked_at: Sequence[int], layers: Sequence[int]) -> Iterator[None]:
    """Plain passes in which the mask of these layers, made by transformers, loses what is cut."""

    def hook(module, args, kwargs):
        mask, length = kwargs["attention_mask"], (args[0] if args else kwargs["hidden_states"]).shape[1]
        mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril() if mask is None else mask.clone()
        mask[..., torch.tensor(looking)[:, None], torch.tensor(looked_at)] = (
            False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        )
        return args, kwargs | {"attention_mask": mask}

    parts = [getattr(layer, "self_attn", None) or layer.attention for layer in decoder_layers(model)]
    hooks = [parts[i].register_forward_pre_hook(hook, with_kwargs=True) for i in layers]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def plain(setting, ids) -> torch.Tensor:
    with torch.no_grad():
        return setting.checkpoint.model(ids, use_cache=False).logits


def swapped_by_hand(setting, ids, source, at: Sequence[int], taken: Sequence[int], layer: int) -> torch.Tensor:
    """Logits of a plain pass in which what leaves a layer at some places is what left it in another pass."""
    last = decoder_layers(setting.checkpoint.model)[layer - 1]
    streams: list[torch.Tensor] = []

    def keep(module, args, output):
        streams.append((output[0] if isinstance(output, tuple) else output).clone())

    def put(module, args, output):
        stream = (output[0] if isinstance(output, tuple) else output).clone()
        stream[:, list(at)] = streams[0][:, list(taken)]
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    for hook, text in ((keep, source), (put, ids)):
        handle = last.register_forward_hook(hook)
        try:
            logits = plain(setting, text)
        finally:
            handle.remove()
    return logits


def by_hand(setting, pathways: Pathways, condition) -> torch.Tensor:
    """The probabilities of the levels under a condition, from plain passes over each whole text."""
    transcript, model = pathways.prompts[condition.side], setting.checkpoint.model

    def under_knockout(ids):
        looking = positions_of(pathways, condition.side, condition.looking, ids.shape[1])
        looked_at = condition.before or pathways.places(condition.side)[condition.looked_at]
        with cut_by_hand(model, looking, looked_at, condition.layers or range(len(decoder_layers(model)))):
            return plain(setting, ids)

    def after_swap(ids):
        other = pathways.prompts[condition.source]
        levels = range(len(transcript.ids), ids.shape[1])
        own, theirs = (pathways.places(name)[condition.group] for name in (condition.side, condition.source))
        shift = len(other.ids) - len(transcript.ids)
        at, taken = own[-1:], theirs[-1:]
        if condition.group == "read":
            at, taken = [*own, *levels], [*theirs, *(i + shift for i in levels)]
        source = torch.cat([torch.tensor(other.ids), ids[0, len(transcript.ids) :]])[None]
        return swapped_by_hand(setting, ids, source, at, taken, condition.layer) if at else plain(setting, ids)

    return said_after(setting, transcript, under_knockout if isinstance(condition, Knockout) else after_swap)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "adapter"), KINDS)
def test_conditions_are_those_of_plain_passes_with_hooks_on_every_family(tiny_setting, open_questions, family, adapter):
    setting = tiny_setting(family, adapter)
    pathways = pathways_of(setting, open_questions[0])
    whole = pathways.as_they_are()
    conditions = [
        Knockout("right", *EDGES["answer_to_later"]),
        Knockout("wrong", *EDGES["first_to_read"], (1,)),
        Knockout("right", before=instruction_positions(open_questions[0], setting, pathways)),
        Swap("right", "answer", 2, "wrong"),
        Swap("wrong", "rest", 1, "right"),
        Swap("right", "read", 3, "wrong"),
    ]
    results = pathways.under(conditions)
    for condition in conditions:
        assert apart(results[condition], by_hand(setting, pathways, condition)) < 1e-5, condition
    changed = [apart(results[each], torch.tensor(whole[each.side].probability)) for each in conditions]
    assert min(changed[0], changed[3], changed[5]) > 1e-5, "the conditions do something"


@pytest.mark.slow
def test_what_is_left_out_after_a_level_is_left_out_of_both_sides(tiny_setting, open_questions, monkeypatch):
    monkeypatch.setattr(pathways_module, "RARE", 0.3)
    pathways = pathways_of(tiny_setting("llama"), open_questions[0])
    every = len(pathways.reader.fillers_of(pathways.prompts["right"])[0])
    whole = pathways.as_they_are()
    assert len(pathways.reader.fillers_of(pathways.prompts["right"])[0]) < every, "something is left out"
    again = pathways.under([])
    for side in ("right", "wrong"):
        assert apart(whole[side], torch.tensor(again[side].probability).double()) < 1e-6
        assert whole[side].off_scale == pytest.approx(again[side].off_scale, abs=1e-6)


@pytest.mark.slow
def test_the_control_swaps_with_another_question_of_the_same_answer_length(tiny_setting, open_questions):
    setting = tiny_setting("llama")
    question = open_questions[0]
    right = setting.prompter.transcript(question, "Kid")
    donor, prompt = another_of_this_length(setting, question, right)
    assert donor != question.id and donor in {each.id for each in open_questions}
    assert answer_lengths({"right": right, "wrong": prompt})[0] == answer_lengths({"right": right, "wrong": prompt})[1]
    (record,) = measured(setting, [Case(question, "Kid", ("Kitten",))], FlowOptions(flow_step=2), KEPT)
    assert record["other_question"] == donor
    pair = Pathways(setting, {"right": right, "wrong": prompt})
    values = np.array(setting.prompter.confidence.values)
    for group in ("answer", "rest"):
        expected = by_hand(setting, pair, Swap("right", group, 2, "wrong")).numpy() @ values
        change = record["swap_controls"][group]["other"]
        assert change == pytest.approx(expected - record["whole"]["right"], abs=2e-4)  # rare ends are left out
        sign = np.sign(record["values"]["difference"])
        assert record["values"][f"swap.{group}.other"] == pytest.approx(-sign * change)
    assert another_of_this_length(replace(setting, pool=(question,)), question, right) is None
    (without,) = measured(replace(setting, pool=()), [Case(question, "Kid", ("Kitten",))], FlowOptions(), KEPT)
    assert "other_question" not in without and "other" not in without["swap_controls"]["read"]


@pytest.mark.slow
def test_a_broken_law_is_counted_and_said(tiny_setting, open_questions, monkeypatch):
    setting, case = tiny_setting("llama"), Case(open_questions[0], "Kid", ("Kitten",))
    (sound,) = measured(setting, [case], FlowOptions(), KEPT)
    assert sound["values"]["law.violated"] == 0
    whole_nodes = Pathways._nodes
    with monkeypatch.context() as patch:  # an engine in which levels still see what is cut
        patch.setattr(Pathways, "_nodes", lambda self, name, copied, group: whole_nodes(self, name, copied, group)[:1])
        (broken,) = measured(setting, [case], FlowOptions(), KEPT)
    assert broken["values"]["law.violated"] == 1
    questions = rows(12)
    for i, question in enumerate(questions):
        question["values"]["law.violated"] = float(i < 2)
    numbers = estimates(METRICS, questions)
    assert numbers["flow.law.violated"].value == pytest.approx(2 / 12)
    told = flow_page(RunData(run_of(12).records, numbers, SUBJECT), EDGES, EDGE_WORDS, GROUP_WORDS).caption
    assert "A LAW IS BROKEN beyond rounding on 2 of 12 questions" in " ".join(told.split())
    assert "LAW IS BROKEN" not in flow_page(run_of(12), EDGES, EDGE_WORDS, GROUP_WORDS).caption


def test_laws_allow_what_two_readings_of_one_text_differ_by():
    assert allowed_by([]) == ALLOWED
    readings = [{"values": {"jsd": 2e-4, "expected": -0.01}}, {"values": {"jsd": 1e-9, "expected": 0.002}}]
    assert allowed_by(readings) == pytest.approx({"jsd": LOOSER * 2e-4, "expected": LOOSER * 0.01})


def test_a_tail_of_one_token_has_no_edges_to_and_from_what_it_lacks():
    standing = {"answer": (7, 8), "first": (), "rest": (), "read": (9,)}
    assert edges_between(standing) == {
        "answer_to_later": ("answer", ("read",)),
        "answer_to_read": ("answer", ("read",)),
    }
    standing = {"answer": (7, 8), "first": (9,), "rest": (10, 11), "read": ()}
    assert edges_between(standing) == EDGES, "levels are always read"


@pytest.mark.slow
def test_every_token_that_is_fed_is_counted(tiny_setting, open_questions):
    setting, case = tiny_setting("llama"), Case(open_questions[0], "Kid", ("Kitten",))
    records = []
    fed = tokens_fed(setting, lambda: records.extend(measured(setting, [case], FlowOptions(), KEPT)))
    tree, _, _ = setting.reader.plan(setting.prompter.transcript(case.question, "Kid"), 0)
    counted = records[0]["values"]["passes"] * len(tree.tokens)
    assert 0.8 * fed < counted < fed + 0.5, "all but the padding of rows"


@pytest.mark.slow
def test_the_figure_holds_questions_after_which_nothing_could_be_swapped():
    some, none = run_of(12), run_of(12)
    some.records[0]["swaps"] = {}
    for record in none.records:
        record["swaps"] = {}
    assert ways(some, list(EDGES)).swaps == pytest.approx(ways(run_of(12), list(EDGES)).swaps)
    assert ways(none, list(EDGES)).groups == () and np.isnan(ways(none, list(EDGES)).band)
    assert "12 sampled" in flow_page(none, EDGES, EDGE_WORDS, GROUP_WORDS).caption


@pytest.mark.slow
def test_the_off_scale_mass_under_a_knockout_is_kept_and_said(tiny_setting, open_questions):
    setting = tiny_setting("llama")
    (record,) = measured(setting, [Case(open_questions[0], "Kid", ("Kitten",))], FlowOptions(), KEPT)
    pathways = Pathways(
        setting, {s: setting.prompter.transcript(open_questions[0], record["answers"][s]) for s in SIDES}
    )
    pathways.as_they_are()
    both = [Knockout(side, *EDGES["rest_to_read"]) for side in SIDES]
    results = pathways.under(both)
    expected = np.mean([results[each].off_scale for each in both])
    assert record["knockouts"]["rest_to_read"]["outside"] == pytest.approx(expected, abs=1e-5)
    assert record["values"]["rest_to_read.outside"] == record["knockouts"]["rest_to_read"]["outside"]
    questions = rows(12)
    for question in questions:
        question["values"] |= {"outside": 0.1} | {f"{name}.outside": 0.2 for name in EDGE_WORDS}
        question["values"]["rest_to_read.outside"] = 0.75
    told = flow_page(
        RunData(run_of(12).records, estimates(METRICS, questions), SUBJECT), EDGES, EDGE_WORDS, GROUP_WORDS
    ).caption
    assert "off-scale mass as it is: 10 %" in told
    assert f"largest, without: {EDGE_WORDS['rest_to_read']}: 75 %" in " ".join(told.split())
    assert percent(-0.001) == "0 %" and percent(-0.01) == "-1 %"
