"""Candidate answers: samples and branches that are what plain forward passes give, vetted, each with its source."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FAMILIES

from interp.datasets.grading import is_right, may_be_right
from interp.datasets.words import normalised
from interp.formats import FORMATS
from interp.models.elicitation import ANSWER_TOKENS, FORKED, FORKS, Continuation, Generator, Start, source_of_chance
from interp.models.prefix import SharedPrefix
from interp.models.setting import Setting, prepared
from interp.pipelines import candidates
from interp.pipelines.candidates import (
    ROUNDS,
    CandidateAnswers,
    Search,
    _distinct,
    _letter_order,
    candidate_answers,
    counts_as_wrong,
    sampled_wrong,
    wrong_for_sure,
)
from interp.records import Question

PASSAGE = Question("passage", "Who left first?", ("Ada",), context="Ada took the early train. Ben came later. " * 3)


def plain_logprobs(setting: Setting, ids) -> torch.Tensor:
    """The definition: log-probabilities of the next token, by one plain forward pass."""
    with torch.no_grad():
        return setting.checkpoint.model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1].log_softmax(-1)


def plain_greedy(setting: Setting, ids, stops, *, most: int) -> list[int]:
    """What `generate` writes after `ids`, up to a token that ends the line or is one of `stops`."""
    tokenizer = setting.checkpoint.tokenizer
    lines = [i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i])]
    if most == 0 or (len(ids) and ids[-1] in {*stops, *lines}):
        return []
    prompt = torch.tensor([list(ids)])
    written = setting.checkpoint.model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=most,
        eos_token_id=sorted({*stops, *lines}),
        pad_token_id=tokenizer.pad_token_id,
    )
    return written[0, len(ids) :].tolist()


def as_text(setting: Setting, ids: list[int]) -> str:
    return setting.checkpoint.tokenizer.decode(ids, skip_special_tokens=True).strip().split("\n")[0].strip()


def plain_branch(setting: Setting, prompt, first, stops, *, most: int = ANSWER_TOKENS) -> tuple[str, int]:
    """A branch written out: the tokens that it begins with, then greedily on; its text and how many tokens it has."""
    ids = [*first, *plain_greedy(setting, [*prompt, *first], stops, most=most - len(first))]
    return as_text(setting, ids), len(ids)


# Branches


@pytest.mark.slow
@pytest.mark.parametrize(("family", "adapter"), [*((family, False) for family in FAMILIES), ("llama", True)])
def test_branches_are_the_likeliest_first_tokens_each_continued_greedily(tiny_setting, open_questions, family, adapter):
    setting, count, most = tiny_setting(family, adapter), 5, 7
    prompts = [
        setting.prompter.transcript(question).ids for question in (open_questions[0], PASSAGE, open_questions[7])
    ]
    stops = sorted({*setting.stops, *range(300, 345)})  # a random model hardly ever ends a line
    likeliest = [plain_logprobs(setting, prompt).topk(FORKS) for prompt in prompts]
    expected = [
        plain_branch(setting, prompt, [token], stops, most=most)
        for prompt, (_, tokens) in zip(prompts, likeliest, strict=True)
        for token in tokens.tolist()[:count]
    ]
    asked = [prompt for prompt in prompts for _ in range(count)]
    starts = [Start(rank=rank) for _ in prompts for rank in range(count)]
    for batch_tokens in (1, 150, 4096):
        prefix = SharedPrefix(setting.checkpoint.model, setting.prefix.shared_prefix, batch_tokens=batch_tokens)
        found = Generator(prefix, setting.prompter, stops).branched(asked, starts, most=most)
        assert [(branch.answer.text, branch.answer.tokens) for branch in found] == expected
        for number, branch in enumerate(found):
            tokens, logprobs = zip(*branch.forks[0], strict=True)
            assert tokens == tuple(likeliest[number // count].indices.tolist())
            assert logprobs == pytest.approx(likeliest[number // count].values.tolist(), abs=2e-4)
            assert branch.first[0] == tokens[number % count]
    assert len(set(expected)) > 2 * len(prompts), "positive control: branches of one prompt differ"


def test_a_branch_that_is_told_two_tokens_begins_with_them_and_tells_what_else_was_likely(tiny_setting, open_questions):
    setting = tiny_setting("llama")
    prompt, first = setting.prompter.transcript(open_questions[3]).ids, (50, 61)
    (alone,) = setting.generator.branched([prompt], [Start(first)])
    others = setting.generator.branched([prompt] * 3, [Start(), Start(first), Start((50,), 2)])
    assert others[1].answer == alone.answer and others[1].first == alone.first == first
    assert (alone.answer.text, alone.answer.tokens) == plain_branch(setting, prompt, first, setting.stops)
    assert len(alone.forks) == FORKED
    second = plain_logprobs(setting, [*prompt, 50]).topk(3)
    assert [token for token, _ in alone.forks[1][:3]] == second.indices.tolist()
    assert [logprob for _, logprob in alone.forks[1][:3]] == pytest.approx(second.values.tolist(), abs=2e-4)
    assert others[2].first == (50, second.indices[2].item())
    assert others[0].answer == setting.generator.greedy([prompt])[0]


def slow_branches(setting: Setting, question: Question, rounds: int) -> list[str]:
    """The definition written out, without a cache and one at a time: rounds of the likeliest beginnings of one or two
    tokens that were not followed, each round's answers by their own likelihood."""
    prompt, stops = setting.prompter.transcript(question).ids, setting.stops
    known: dict[tuple[int, ...], float] = {}
    taken: set[tuple[int, ...]] = set()
    found: list[str] = []

    def look(before: tuple[int, ...], above: float) -> None:
        values, tokens = plain_logprobs(setting, [*prompt, *before]).topk(FORKS)
        for token, logprob in zip(tokens.tolist(), values.tolist(), strict=True):
            if before or token not in stops:
                known.setdefault((*before, token), above + logprob)

    firsts = [(token,) for token in plain_logprobs(setting, prompt).topk(ROUNDS[0]).indices.tolist()]
    look((), 0.0)
    for count in ROUNDS[:rounds]:
        begun = firsts or sorted(known.keys() - taken, key=lambda first: -known[first])[:count]
        firsts, said = [], []
        for first in begun:
            written = [*first, *plain_greedy(setting, [*prompt, *first], stops, most=ANSWER_TOKENS - len(first))]
            taken |= {tuple(written[:1]), tuple(written[:2])}
            if len(written) > 1:
                look(tuple(written[:1]), known[tuple(written[:1])])
            ends = written[-1] in stops or "\n" in setting.checkpoint.tokenizer.decode(written[-1:])
            text = as_text(setting, written)
            if ends and normalised(text) and setting.prompter.speakable(question, text):
                (reading,) = setting.reader.readings([setting.prompter.transcript(question, text)])
                said.append((-reading.answer_logprob, text))
        found = _distinct([*found, *(text for _, text in sorted(said, key=lambda one: one[0]))])
    return found


@pytest.mark.slow
def test_branching_is_the_search_written_out_with_plain_forward_passes(taught_setting, open_questions):
    asked = open_questions[:3]
    for rounds, distinct in ((1, 0), (3, 400)):
        slow = [slow_branches(taught_setting, question, rounds) for question in asked]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(candidates, "ROUNDS", ROUNDS[:rounds])
            found = found_for(taught_setting, asked, wrong=0, distinct=distinct, tries=0)
        for question, texts, answers in zip(asked, slow, found, strict=True):
            assert answers.distinct == tuple(texts)
            assert answers.branched == tuple(text for text in texts if wrong_for_sure(question, text))
            assert answers.branches == sum(ROUNDS[:rounds]) and set(answers.sources) == {"branched"}


@pytest.mark.slow
def test_branches_do_not_depend_on_other_questions_nor_on_how_many_candidates_are_wanted(
    taught_setting, open_questions
):
    together = found_for(taught_setting, open_questions)
    assert same(found_for(taught_setting, open_questions[5:6]), together[5:6])
    assert same(found_for(taught_setting, open_questions[::-1]), together[::-1])
    many = found_for(taught_setting, open_questions, distinct=30, tries=0)
    few = found_for(taught_setting, open_questions, distinct=2, tries=0)
    for more, less in zip(many, few, strict=True):
        assert more.branched[: len(less.branched)] == less.branched and more.branches > less.branches


@pytest.mark.slow
def test_every_question_has_a_wrong_answer_by_branching_where_samples_give_none(taught_setting, open_questions):
    sampled = found_for(taught_setting, open_questions, top_p=1e-6, branching=False)
    found = found_for(taught_setting, open_questions, top_p=1e-6)
    right = [not answers.wrong for answers in sampled]
    assert sum(right) >= 6, "positive control: without branching a model that knows its answer has none that is wrong"
    assert all(len(answers.branched) >= 2 for answers in found)
    assert all(len(answers.distinct) >= 4 for answers in found)
    for before, after in zip(sampled, found, strict=True):
        assert after.distinct[: len(before.distinct)] == before.distinct, "sampled answers come first"
        assert sampled_wrong(vars(after)) == before.wrong == sampled_wrong(vars(before))
        assert after.tries == before.tries and (before.branches, before.branched) == (0, ())


@pytest.mark.slow
def test_the_log_probability_on_record_is_the_one_that_the_readout_gives(taught_setting, open_questions):
    found = found_for(taught_setting, open_questions[:5])
    for question, answers in zip(open_questions, found, strict=False):
        prompt = taught_setting.prompter.transcript(question).ids
        for text, logprob in zip(answers.distinct, answers.logprobs, strict=True):
            transcript = taught_setting.prompter.transcript(question, text)
            (reading,) = taught_setting.reader.readings([transcript])
            assert logprob == pytest.approx(reading.answer_logprob, abs=1e-4)
            end = transcript.positions("answer")[-1] + 1
            steps = [plain_logprobs(taught_setting, transcript.ids[:i])[transcript.ids[i]].item()
                     for i in range(len(prompt), end + 1)]  # fmt: skip
            assert logprob == pytest.approx(sum(steps), abs=1e-3)
    assert {source for answers in found for source in answers.sources} >= {"branched", "both"}


@pytest.mark.slow
def test_in_bfloat16_branches_come_too_and_their_likelihoods_are_near(taught_setting, open_questions):
    checkpoint = copy.copy(taught_setting.checkpoint)
    model = copy.deepcopy(checkpoint.model).to(torch.bfloat16)
    object.__setattr__(checkpoint, "model", model)
    half = prepared(checkpoint, FORMATS["ScoreNumber"], pool=open_questions)
    whole = found_for(taught_setting, open_questions, tries=0)
    found = found_for(half, open_questions, tries=0)
    assert all(answers.branched for answers in found)
    apart = [
        abs(dict(zip(one.distinct, one.logprobs, strict=True))[text] - logprob)
        for one, other in zip(whole, found, strict=True)
        for text, logprob in zip(other.distinct, other.logprobs, strict=True)
        if text in one.distinct
    ]
    assert len(apart) > 40 and np.median(apart) < 0.3


def same(found: list[CandidateAnswers], others: list[CandidateAnswers]) -> bool:
    """Equal but for the rounding of likelihoods, which depends on what is read beside them."""
    close = [one.logprobs == pytest.approx(other.logprobs, abs=1e-3) for one, other in zip(found, others, strict=True)]
    return all(close) and [replace(one, logprobs=()) for one in found] == [replace(one, logprobs=()) for one in others]


# Samples


def found_for(setting: Setting, questions, **options) -> list[CandidateAnswers]:
    search = Search(**{"wrong": 2, "distinct": 4, "seed": 0, "top_p": 0.95, "tries": 24} | options)
    return candidate_answers(setting, questions, search)


@pytest.mark.slow
def test_wrong_answers_are_neither_right_nor_nearly_so_and_all_differ(taught_setting, open_questions):
    for branching in (False, True):
        found = found_for(taught_setting, open_questions, branching=branching)
        for question, answers in zip(open_questions, found, strict=True):
            assert not any(may_be_right(question, wrong) for wrong in (*answers.wrong, *answers.branched))
            said = list(map(normalised, answers.distinct))
            assert len(set(said)) == len(said) and "" not in said
            assert set(answers.wrong) <= set(answers.distinct)
            assert set(map(normalised, answers.branched)) <= set(map(normalised, answers.wrong))
            assert answers.vetoed == len(answers.distinct) - len(answers.wrong)
            left = [text for text in answers.distinct if text not in answers.wrong]
            assert all(may_be_right(question, text) for text in left)
        assert sum(answers.vetoed for answers in found) >= 6, "positive control: the model does say right answers"
        assert all(len(answers.wrong) >= 2 for answers in found)


@pytest.mark.slow
def test_the_source_says_by_which_ways_an_answer_came(taught_setting, open_questions):
    sampled = found_for(taught_setting, open_questions, branching=False)
    branched = found_for(taught_setting, open_questions, tries=0)
    both = found_for(taught_setting, open_questions, distinct=0)
    for one, other, answers in zip(sampled, branched, found_for(taught_setting, open_questions), strict=True):
        ways = [{normalised(text) for text in found.distinct} for found in (one, other)]
        for text, source in zip(answers.distinct, answers.sources, strict=True):
            told = {"sampled": (True, False), "branched": (False, True), "both": (True, True)}[source]
            assert (normalised(text) in ways[0]) == told[0]
            assert normalised(text) in ways[1] or not told[1]
    assert {source for answers in both for source in answers.sources} >= {"both", "branched"}


@pytest.mark.slow
def test_the_seed_decides_what_is_sampled_and_other_questions_do_not(taught_setting, open_questions):
    found = found_for(taught_setting, open_questions[:4], branching=False)
    assert same(found_for(taught_setting, open_questions[:4], branching=False), found)
    assert same(found_for(taught_setting, open_questions[2:3], branching=False), found[2:3])
    assert same(found_for(taught_setting, open_questions[3::-1], branching=False), found[::-1])
    assert not same(found_for(taught_setting, open_questions[:4], seed=1, branching=False), found)


@pytest.mark.parametrize("tries", [1, 7, 24])
def test_tries_are_bounded_and_used_up_before_a_question_is_given_up(taught_setting, open_questions, tries):
    found = found_for(taught_setting, open_questions[:3], distinct=200, tries=tries, branching=False)
    assert [answers.tries for answers in found] == [tries] * 3
    drawn = [
        taught_setting.generator.sampled(
            [taught_setting.prompter.transcript(question).ids] * tries,
            [source_of_chance(0, question, number) for number in range(tries)],
            top_p=0.95,
        )
        for question in open_questions[:3]
    ]
    for answers, said in zip(found, drawn, strict=True):
        texts = [one.text for one in said if one.finished and normalised(one.text)]
        assert list(map(normalised, answers.distinct)) == list(dict.fromkeys(map(normalised, texts)))


def test_no_more_is_drawn_once_enough_is_found(taught_setting, open_questions):
    few = found_for(taught_setting, open_questions[:3], wrong=1, distinct=1, tries=48)
    assert all(answers.tries < 48 and answers.wrong and answers.branches == ROUNDS[0] for answers in few)


def test_the_other_choices_are_the_wrong_answers_without_any_sampling(tiny_loaded, choice_questions, monkeypatch):
    setting = prepared(tiny_loaded("llama"), FORMATS["ScoreNumber"], choices=True)

    def refuse(*arguments):
        raise AssertionError("a choice was sampled")

    monkeypatch.setattr(Generator, "_written", refuse)
    found = found_for(setting, choice_questions, distinct=3, tries=1)
    for question, answers in zip(choice_questions, found, strict=True):
        assert (answers.tries, answers.branches, answers.branched) == (0, 0, ())
        assert set(answers.sources) == {"choice"} and len(answers.distinct) == len(question.choices)
        assert [letter for letter in answers.distinct if not is_right(question, letter)] == list(answers.wrong)
        assert len(answers.wrong) == len(question.choices) - 1
        assert sampled_wrong(vars(answers)) == answers.wrong and all(map(math.isfinite, answers.logprobs))


def test_which_other_choice_comes_first_is_drawn_by_chance(choice_questions):
    question = choice_questions[0]
    firsts = {next(a for a in _letter_order(question, seed) if a != question.answers[0]) for seed in range(40)}
    assert firsts == set("ABCDEF"[: len(question.choices)]) - {question.answers[0]}
    assert _letter_order(question, 3) == _letter_order(question, 3)


def test_a_word_of_the_question_is_no_wrong_answer_to_it():
    question = Question("q", "What is the chemical symbol of radium?", ("Ra",))
    said = _distinct(["Radium", "Rd", "Ra", "...", "radium."])
    assert said == ["Radium", "Rd", "Ra"]
    assert [text for text in said if wrong_for_sure(question, text)] == ["Rd"]


def test_a_word_of_the_question_is_no_answer_to_it_and_so_no_wrong_one():
    question = Question("q", "Which river flows through Lower Austria?", ("Danube",))
    said = ["Lower Austria", "austria.", "Lower", "Low", "Inn"]
    assert not any(may_be_right(question, text) for text in said)
    assert [text for text in said if wrong_for_sure(question, text)] == ["Low", "Inn"]


@pytest.mark.parametrize(
    ("answer", "words", "official"),
    [
        ("nashville, tennessee", (False, True), (False, True)),  # more than was asked: close, and no exact match
        ("Tennessee", (False, True), (False, True)),  # a word of the question
        ("nashville.", (False, False), (False, False)),
        ("Memphis", (True, True), (True, True)),
    ],
)
def test_without_vetting_all_but_an_exact_match_is_wrong(answer, words, official):
    question = Question("q", "What is the capital of Tennessee?", ("Nashville",))
    for match, expected in (("words", words), ("official", official)):
        raw = Search(wrong=1, distinct=0, seed=0, top_p=1.0, tries=1, vetting=False, match=match)
        searches = replace(raw, vetting=True), raw
        assert tuple(counts_as_wrong(question, answer, search) for search in searches) == expected


def test_without_vetting_the_first_sample_that_does_not_match_is_the_wrong_answer_in_its_own_case(
    taught_setting, monkeypatch
):
    said = ["Paris", "capital", "PARIS.", "lyon"]
    question = Question("q", "What is the capital of France?", ("Paris",))
    monkeypatch.setattr(
        Generator, "sampled", lambda self, prompts, draws, top_p: [Continuation(said.pop(0), 2, True) for _ in prompts]
    )
    raw = {"wrong": 1, "distinct": 0, "tries": 4, "branching": False}
    (unvetted,) = found_for(taught_setting, [question], vetting=False, **raw)
    assert unvetted.wrong == ("capital", "lyon") and unvetted.vetoed == 1
    said[:] = ["Paris", "capital", "PARIS.", "lyon"]
    (vetted,) = found_for(taught_setting, [question], **raw)
    assert vetted.wrong == ("lyon",) and vetted.vetoed == 2


def test_a_record_of_an_older_run_has_sampled_all_its_wrong_answers():
    assert sampled_wrong({"wrong": ["b", "c"], "distinct": ["a", "b", "c"]}) == ("b", "c")
    newer = {"wrong": ["b", "c"], "distinct": ["a", "b", "c"], "sources": ["sampled", "both", "branched"]}
    assert sampled_wrong(newer) == ("b",)
