"""P(C given q, a): the tree's distribution is the slow loop's, level by level, for every format and vocabulary."""

import dataclasses
import math
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import filler_tokens
from transformers import LlamaConfig, LlamaForCausalLM

from interp.errors import UserError
from interp.formats import FORMATS, ConfidenceFormat
from interp.models.checkpoints import Checkpoint
from interp.models.head import Head, NextToken
from interp.models.prefix import SharedPrefix
from interp.models.prompts import Prompting
from interp.models.readout import ConfidenceReader, LevelPlan, one_after_the_other, packed
from interp.models.setting import Setting, prepared


def following(logits: torch.Tensor) -> NextToken:
    """What comes next where the logits are these, [..., reads, vocabulary]."""
    entries = logits.shape[-1]
    return NextToken(Head(lambda rows: torch.eye(entries)[rows], entries), logits.clamp(min=-100))


ONES = ConfidenceFormat("Ones", ("1", "10", "100"), (0.1, 0.5, 1.0), "1, 10 or 100")
"""Levels that begin one another."""
ANSWERS = ("Kitten", "Asunción", "8")


@torch.no_grad()
def log_probabilities(model, ids) -> torch.Tensor:
    """[tokens, vocabulary] after each token, from one plain forward pass."""
    return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].double().log_softmax(-1)


def slow_loop(setting: Setting, transcript) -> list[float]:
    """The definition: for each level one forward pass over the whole text, the product of its tokens' probabilities,
    times the probability that the turn or the line ends after it, at once or after a blank or a full stop. As
    log-probabilities."""
    tokenizer, stops = setting.checkpoint.tokenizer, list(setting.stops)
    found, before = [], len(transcript.ids)
    for level in setting.prompter.confidence.levels:
        stated = tokenizer(f"{transcript.text} {level}", add_special_tokens=False)["input_ids"]
        assert tuple(stated[:before]) == transcript.ids
        ways = []
        for ids in (stated, *([*stated, filler] for filler in filler_tokens(tokenizer))):
            said = log_probabilities(setting.checkpoint.model, ids)
            written = sum(said[i - 1, ids[i]].item() for i in range(before, len(ids)))
            ways.append(math.exp(written + said[-1, stops].logsumexp(-1).item()))
        found.append(math.log(sum(ways)))
    return found


def level_logprobs(setting: Setting, transcript) -> torch.Tensor:
    """What the reader's plan makes of one transcript, before it is renormalised."""
    length = len(setting.prefix.shared_prefix)
    tree, reads, plan = setting.reader.plan(transcript, length)
    ((_, logits),) = setting.prefix.logits(length, [tree], [reads])
    return plan.level_logprobs(logits, setting.reader.stops)


def setting_of(tokenizer, name: str, **prompting) -> Setting:
    """A random model for that tokenizer, whatever its vocabulary."""
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, initializer_range=0.2))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return prepared(
        Checkpoint("random", model.eval().requires_grad_(False), tokenizer),
        FORMATS[name],
        prompting=Prompting(**prompting),
    )


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", ["digits", "spaced", "pieces"])
@pytest.mark.parametrize("name", FORMATS)
def test_the_distribution_equals_the_slow_loop(tiny_tokenizer, open_questions, name, vocabulary):
    setting = setting_of(tiny_tokenizer(vocabulary), name)
    transcript = setting.prompter.transcript(open_questions[0], "Kitten")
    slow = slow_loop(setting, transcript)
    assert level_logprobs(setting, transcript).tolist() == pytest.approx(slow, abs=2e-4)
    (reading,) = setting.reader.readings([transcript])
    mass = sum(map(math.exp, slow))
    expected = [math.exp(one) / mass for one in slow]
    assert reading.distribution.probability == pytest.approx(expected, rel=1e-3)
    assert max(expected) > 2 * min(expected), "the levels are not all the same"
    assert reading.distribution.off_scale == pytest.approx(1 - mass, abs=1e-6)
    assert reading.distribution.levels == FORMATS[name].levels


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mistral", "gemma2", "qwen2", "gemma3"])
def test_it_does_so_for_every_family_beyond_the_sliding_window(tiny_setting, open_questions, family):
    setting = tiny_setting(family, format="ScoreFloat")
    transcript = setting.prompter.transcript(open_questions[0], "Kitten")
    assert level_logprobs(setting, transcript).tolist() == pytest.approx(slow_loop(setting, transcript), abs=2e-4)


@pytest.mark.slow
def test_a_model_that_states_levels_has_its_mass_on_them_and_the_rest_outside(taught_setting, open_questions):
    setting = taught_setting
    for answer in ANSWERS:
        transcript = setting.prompter.transcript(open_questions[0], answer)
        (reading,) = setting.reader.readings([transcript])
        slow = [math.exp(one) for one in slow_loop(setting, transcript)]
        assert 0.5 < sum(slow) < 0.999
        assert reading.distribution.off_scale == pytest.approx(1 - sum(slow), abs=1e-5)
        assert reading.distribution.probability == pytest.approx([one / sum(slow) for one in slow], abs=1e-5)
        values = FORMATS["ScoreNumber"].values
        expected = sum(value * one for value, one in zip(values, slow, strict=True)) / sum(slow)
        assert reading.distribution.expected == pytest.approx(expected, abs=1e-5)
        assert reading.distribution.stated == slow.index(max(slow))


def test_8_is_told_from_85_and_1_from_10_worked_by_hand():
    """Vocabulary: 0 "1", 1 "0", 2 newline, 3 end of turn, 4 anything else. Levels "1" and "10"."""
    after = torch.tensor(
        [
            [0.6, 0.1, 0.1, 0.0, 0.2],  # after the slot
            [0.1, 0.5, 0.2, 0.1, 0.1],  # after "1"
            [0.1, 0.1, 0.1, 0.4, 0.3],  # after "10"
        ]
    ).log()
    none = torch.tensor([], dtype=torch.long)
    edges = torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    plan = LevelPlan(*edges, torch.tensor([1, 2]), none, none, none, torch.tensor([[0], [1]]), none, none)
    found = plan.level_logprobs(following(after + 5), torch.tensor([2, 3])).exp()  # logits may be shifted
    assert found.tolist() == pytest.approx([0.6 * 0.3, 0.6 * 0.5 * 0.5])
    reader = SimpleNamespace(
        prompter=SimpleNamespace(confidence=SimpleNamespace(levels=("1", "10"), values=(0.1, 1.0)))
    )
    said = ConfidenceReader.distribution(reader, found.log())
    assert said.off_scale == pytest.approx(1 - 0.18 - 0.15)
    assert said.probability == pytest.approx((0.18 / 0.33, 0.15 / 0.33))
    both = plan.level_logprobs(following(torch.stack([after, after.roll(1, 0)])), torch.tensor([2, 3])).exp()
    assert both[0].tolist() == pytest.approx([0.18, 0.15]) and both[1, 0].item() == pytest.approx(0.1 * 0.1)


def test_a_blank_or_a_full_stop_before_the_end_is_worked_by_hand():
    """Vocabulary: 0 "A", 1 "B", 2 a blank, 3 a full stop, 4 newline. Level "A" may be followed by either filler."""
    after = torch.tensor(
        [
            [0.6, 0.3, 0.05, 0.03, 0.02],  # after the slot
            [0.1, 0.1, 0.4, 0.2, 0.2],  # after "A"
            [0.1, 0.1, 0.0, 0.1, 0.7],  # after "A "
            [0.1, 0.3, 0.0, 0.1, 0.5],  # after "A."
            [0.1, 0.4, 0.2, 0.2, 0.1],  # after "B"
        ]
    ).log()
    none = torch.tensor([], dtype=torch.long)
    plan = LevelPlan(
        torch.tensor([0, 0]),
        torch.tensor([0, 1]),
        torch.tensor([0, 1]),
        torch.tensor([1, 2, 3, 4]),
        torch.tensor([1, 1]),
        torch.tensor([2, 3]),
        torch.tensor([1, 2]),
        torch.tensor([[0, 1, 2], [3, -1, -1]]),
        none,
        none,
    )
    found = plan.level_logprobs(following(after), torch.tensor([4])).exp()
    assert found.tolist() == pytest.approx([0.6 * (0.2 + 0.4 * 0.7 + 0.2 * 0.5), 0.3 * 0.1])
    twice = one_after_the_other([plan, plan]).level_logprobs(following(after), torch.tensor([4])).exp()
    assert twice.tolist() == pytest.approx([*found.tolist(), *found.tolist()])


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", ["digits", "spaced", "pieces"])
def test_whole_levels_hold_all_texts_that_state_them_and_no_others(tiny_tokenizer, open_questions, vocabulary):
    """Brute force over the vocabulary: all continuations of up to two tokens after "1" by their text."""
    setting = setting_of(tiny_tokenizer(vocabulary), "ScorePercent")
    setting = dataclasses.replace(setting, prompter=dataclasses.replace(setting.prompter, confidence=ONES))
    transcript = setting.prompter.transcript(open_questions[0], "Kitten")
    reader = ConfidenceReader(setting.prefix, setting.prompter, setting.stops)
    tree, reads, plan = reader.plan(transcript, 0)
    ((_, after),) = SharedPrefix(setting.checkpoint.model, ()).logits(0, [tree], [reads])
    found = plan.level_logprobs(after, reader.stops).exp().tolist()
    names = setting.checkpoint.tokenizer.convert_ids_to_tokens(list(range(len(setting.checkpoint.tokenizer))))
    blank, end = re.compile(r"[Ġ▁ .]"), re.compile(r"[Ġ▁ ]*\.?[Ġ▁ ]*(Ċ|\n|<0x0A>)")
    expected = []
    for suffix in setting.prompter.level_suffixes(transcript):
        said = log_probabilities(setting.checkpoint.model, [*transcript.ids, *suffix]).exp()
        before = len(transcript.ids)
        stated = math.prod(said[before - 1 + i, token].item() for i, token in enumerate(suffix))
        total = 0.0
        for token, name in enumerate(names):
            if end.match(name) or token == setting.checkpoint.tokenizer.eos_token_id:
                total += said[-1, token].item()
            elif blank.fullmatch(name):
                then = log_probabilities(setting.checkpoint.model, [*transcript.ids, *suffix, token])[-1].exp()
                ends = [i for i, more in enumerate(names) if end.match(more)]
                total += (
                    said[-1, token].item()
                    * then[sorted({*ends, setting.checkpoint.tokenizer.eos_token_id})].sum().item()
                )
        expected.append(stated * total)
    assert found == pytest.approx(expected, rel=2e-4)
    assert min(found) > 0 and sum(found) < 1


@pytest.mark.slow
@pytest.mark.parametrize(("vocabulary", "name"), [("digits", "ScoreNumber"), ("spaced", "ScoreLetter")])
def test_the_papers_way_reads_the_first_token_on_which_the_levels_part(
    tiny_tokenizer, open_questions, vocabulary, name
):
    setting = setting_of(tiny_tokenizer(vocabulary), name, levels="token")
    transcript = setting.prompter.transcript(open_questions[0], "Kitten")
    expected = []
    for suffix in setting.prompter.level_suffixes(transcript):
        said = log_probabilities(setting.checkpoint.model, [*transcript.ids, *suffix])[len(transcript.ids) - 1 :]
        expected.append(sum(said[i, token].item() for i, token in enumerate(suffix)))
    assert level_logprobs(setting, transcript).tolist() == pytest.approx(expected, abs=2e-4)
    (reading,) = setting.reader.readings([transcript])
    assert reading.distribution.off_scale == pytest.approx(1 - sum(map(math.exp, expected)), abs=1e-4)
    whole = setting_of(tiny_tokenizer(vocabulary), name)
    assert level_logprobs(whole, transcript).tolist() < expected, "positive control: an end costs probability"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vocabulary", "name", "pair"),
    [
        ("digits", "ScorePercent", "'1%' from '10%'"),
        ("digits", "ScoreFloat", "'0.0' from '0.1'"),
        ("pieces", "ScoreText", "'very low' from 'very high'"),
    ],
)
def test_the_papers_way_is_refused_where_one_token_does_not_tell_the_levels_apart(
    tiny_tokenizer, vocabulary, name, pair
):
    with pytest.raises(UserError, match=f"--levels token: one token does not tell {pair}; use --levels whole"):
        setting_of(tiny_tokenizer(vocabulary), name, levels="token")
    assert setting_of(tiny_tokenizer(vocabulary), name).reader.levels == "whole"


@pytest.mark.slow
def test_levels_that_begin_alike_share_no_probability(tiny_setting, open_questions):
    """Were "8" read without its end it would hold all of "8%" and "80%" to "89%"; with it the levels are disjoint."""
    setting = tiny_setting("llama", format="ScorePercent")
    transcript = setting.prompter.transcript(open_questions[0], "Kitten")
    found = level_logprobs(setting, transcript).exp()
    begin = setting.checkpoint.tokenizer(f"{transcript.text} 8", add_special_tokens=False)["input_ids"]
    said = log_probabilities(setting.checkpoint.model, begin)
    before = len(transcript.ids)
    opened = math.exp(sum(said[i - 1, begin[i]].item() for i in range(before, len(begin))))
    starting_with_8 = found[[8, *range(80, 90)]]
    assert 0 < starting_with_8.sum() < opened
    assert found.sum() < 1
    assert (starting_with_8.max() / starting_with_8.min()).item() > 2


def test_the_answers_logprob_is_the_sum_over_its_tokens_and_the_end_of_its_line(taught_setting, open_questions):
    setting, model = taught_setting, taught_setting.checkpoint.model
    found = {}
    for answer in ("Kitten", "Asunción", "a very long answer 12345"):
        transcript = setting.prompter.transcript(open_questions[0], answer)
        said = log_probabilities(model, transcript.ids)
        spoken = transcript.positions("answer")
        with_end = [*spoken, spoken[-1] + 1]
        assert "\n" in transcript.pieces[with_end[-1]] and "\n" not in "".join(transcript.pieces[i] for i in spoken)
        expected = sum(said[i - 1, transcript.ids[i]].item() for i in with_end)
        (reading,) = setting.reader.readings([transcript])
        assert reading.answer_logprob == pytest.approx(expected, abs=1e-3)
        assert reading.answer_tokens == len(spoken)
        found[answer] = reading.answer_logprob
    assert found["Kitten"] > -2 > -20 > found["a very long answer 12345"]


@pytest.mark.slow
@pytest.mark.parametrize("row_tokens", [1, 200, 384])
def test_a_reading_does_not_depend_on_what_is_read_beside_it(taught_setting, open_questions, monkeypatch, row_tokens):
    setting = taught_setting
    transcripts = [setting.prompter.transcript(q, answer) for q in open_questions[:4] for answer in ANSWERS]
    transcripts.append(transcripts[2])
    alone = [setting.reader.readings([transcript])[0] for transcript in transcripts]
    monkeypatch.setattr("interp.models.readout.ROW_TOKENS", row_tokens)
    together = setting.reader.readings(transcripts)
    backwards = setting.reader.readings(transcripts[::-1])[::-1]
    for one, other, third in zip(alone, together, backwards, strict=True):
        for found in (other, third):
            assert found.distribution.probability == pytest.approx(one.distribution.probability, abs=1e-5)
            assert found.distribution.off_scale == pytest.approx(one.distribution.off_scale, abs=1e-5)
            assert (found.answer_logprob, found.answer_tokens) == (
                pytest.approx(one.answer_logprob, abs=1e-4),
                one.answer_tokens,
            )
    first, second = (reading.distribution.expected for reading in together[:2])
    assert abs(first - second) > 0.05, "positive control: another answer is another reading"


@pytest.mark.slow
def test_the_readings_of_shots_and_of_the_plain_template_equal_the_slow_loop(tiny_loaded, choice_questions):
    for options in ({"shots": 2, "shot_seed": 3}, {"prompting": Prompting("plain")}):
        setting = prepared(tiny_loaded("llama"), FORMATS["ScoreLetter"], choices=True, **options)
        for question in choice_questions[:2]:
            transcript = setting.prompter.transcript(question, "B")
            found = level_logprobs(setting, transcript).tolist()
            assert found == pytest.approx(slow_loop(setting, transcript), abs=2e-4)


def test_packed_trees_hold_every_transcript_with_all_its_levels_once(taught_setting, open_questions):
    setting = taught_setting
    transcripts = [setting.prompter.transcript(q, answer) for q in open_questions[:3] for answer in ANSWERS]
    suffixes = [setting.prompter.level_suffixes(transcript) for transcript in transcripts]
    length = setting.prefix.shared_length([transcript.ids for transcript in transcripts])
    trees, owners = packed(transcripts, suffixes, length)
    assert sorted(i for owner in owners for i in owner) == list(range(len(transcripts)))
    for tree, owner in zip(trees, owners, strict=True):
        nodes = len(tree.tokens)
        for i in owner:
            for suffix in suffixes[i]:
                tree.insert((*transcripts[i].ids[length:], *suffix))
        assert len(tree.tokens) == nodes, "nothing was missing"
    apart = sum(len(t.ids) - length + sum(map(len, s)) for t, s in zip(transcripts, suffixes, strict=True))
    assert sum(len(tree.tokens) for tree in trees) < 0.7 * apart


def test_plans_put_one_after_the_other_read_what_each_reads_by_itself(tiny_setting, tiny_tokenizer, open_questions):
    setting = tiny_setting("llama")
    questions, length = open_questions[:3], len(setting.prefix.shared_prefix)
    transcripts = [setting.prompter.transcript(q, answer) for q, answer in zip(questions, ANSWERS, strict=True)]
    trees, _ = packed(transcripts, [setting.reader.paths(transcript) for transcript in transcripts], length)
    reads, plans = setting.reader.planned(trees[0], transcripts, length)
    ((_, after),) = setting.prefix.logits(length, trees[:1], [reads])
    each = [plan.level_logprobs(after, setting.reader.stops) for plan in plans]
    spoken = [plan.answer_logprobs(after) for plan in plans]
    joint = one_after_the_other(plans)
    assert torch.allclose(joint.level_logprobs(after, setting.reader.stops), torch.cat(each), atol=1e-6)
    assert torch.allclose(joint.answer_logprobs(after), torch.cat(spoken), atol=1e-6)
    assert (each[0] - each[1]).abs().max() > 0.01, "positive control: the transcripts differ"
