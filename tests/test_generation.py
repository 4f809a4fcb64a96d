"""Answers: greedy ones as transformers writes them, sampled ones that depend on prompt and seed alone."""

import numpy as np
import pytest
import torch
from conftest import FAMILIES

from interp.datasets.grading import is_right
from interp.datasets.replies import answer_in
from interp.formats import FORMATS
from interp.models.elicitation import (
    Continuation,
    Generator,
    Reply,
    Start,
    free_replies,
    parsed_reply,
    slot_replies,
    slot_reply,
    source_of_chance,
    top_p_token,
)
from interp.models.prefix import SharedPrefix
from interp.models.setting import Setting
from interp.records import Question

PASSAGE = Question("passage", "Who left first?", ("Ada",), context="Ada took the early train. Ben came later. " * 3)


def ending_tokens(setting: Setting, extra: range) -> list[int]:
    """A random model hardly ever ends a line: some more tokens that end it, so that lengths differ."""
    return sorted({*setting.stops, *extra})


def by_transformers(setting: Setting, prompt, stops, *, most: int) -> list[int]:
    """The oracle: `generate` on one prompt, stopping where a token ends the line or is one of `stops`."""
    tokenizer = setting.checkpoint.tokenizer
    lines = [i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i])]
    ids = torch.tensor([list(prompt)])
    written = setting.checkpoint.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=most,
        eos_token_id=sorted({*stops, *lines}),
        pad_token_id=tokenizer.pad_token_id,
    )
    return written[0, ids.shape[1] :].tolist()


def as_text(setting: Setting, ids: list[int]) -> str:
    return setting.checkpoint.tokenizer.decode(ids, skip_special_tokens=True).strip().split("\n")[0].strip()


@pytest.mark.slow
@pytest.mark.parametrize(("family", "adapter"), [*((family, False) for family in FAMILIES), ("llama", True)])
def test_greedy_answers_are_those_of_transformers_one_by_one(tiny_setting, open_questions, family, adapter):
    setting = tiny_setting(family, adapter)
    prompts = [setting.prompter.transcript(q).ids for q in (*open_questions[:7], PASSAGE, open_questions[0])]
    stops = ending_tokens(setting, range(300, 345))
    expected = [by_transformers(setting, prompt, stops, most=12) for prompt in prompts]
    assert len(set(map(len, prompts))) > 3
    for batch_tokens in (1, 150, 4096):
        prefix = SharedPrefix(setting.checkpoint.model, setting.prefix.shared_prefix, batch_tokens=batch_tokens)
        found = Generator(prefix, setting.prompter, stops).greedy(prompts, most=12)
        assert [(said.text, said.tokens) for said in found] == [(as_text(setting, ids), len(ids)) for ids in expected]
        ended = [ids[-1] in stops or "\n" in setting.checkpoint.tokenizer.decode(ids[-1:]) for ids in expected]
        assert [said.finished for said in found] == ended


def test_the_greedy_answers_of_a_taught_model_end_with_their_line(taught_setting, open_questions):
    setting = taught_setting
    prompts = [setting.prompter.transcript(q).ids for q in (*open_questions, PASSAGE)]
    found = setting.generator.greedy(prompts)
    expected = [by_transformers(setting, prompt, setting.stops, most=16) for prompt in prompts]
    assert [said.text for said in found] == [as_text(setting, ids) for ids in expected]
    assert all(said.finished for said in found[:-1]) and len({said.tokens for said in found}) > 2
    assert sum(is_right(q, said.text) for q, said in zip(open_questions, found, strict=False)) >= 6


def test_a_free_reply_ends_with_the_turn_and_not_with_the_line(taught_setting, open_questions):
    setting = taught_setting
    prompts = [setting.prompter.transcript(q).ids for q in open_questions[:5]]
    found = setting.generator.greedy(prompts, most=20, lines=False)
    for prompt, said in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        written = setting.checkpoint.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20
        )[0, len(prompt) :]
        decoded = setting.checkpoint.tokenizer.decode(written, skip_special_tokens=True)
        assert (said.text, said.tokens) == (decoded.strip(), len(written))
        assert "\nConfidence:" in said.text and said.finished
    cut = setting.generator.greedy(prompts, most=3, lines=False)
    assert not any(said.finished for said in cut) and {said.tokens for said in cut} == {3}


def sampled_slowly(setting: Setting, prompt, draw: np.random.Generator, *, top_p: float, most: int) -> list[int]:
    """The definition: one plain forward pass for each token, the token at the next quantile of its nucleus."""
    ids, chances = list(prompt), draw.random(most)
    for chance in chances:
        with torch.no_grad():
            logits = setting.checkpoint.model(torch.tensor([ids]), use_cache=False).logits[:, -1]
        token = top_p_token(logits, torch.tensor([chance], dtype=torch.float32), top_p).item()
        ids.append(token)
        if token in setting.stops or "\n" in setting.checkpoint.tokenizer.decode([token]):
            break
    return ids[len(prompt) :]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_samples_equal_the_slow_loop_and_do_not_depend_on_the_batch(tiny_setting, open_questions, family):
    setting = tiny_setting(family)
    prompts = [
        setting.prompter.transcript(q).ids for q in (open_questions[0], open_questions[0], PASSAGE, open_questions[8])
    ]

    def sources(seed: int) -> list[np.random.Generator]:
        return [source_of_chance(seed, open_questions[0], number) for number in range(4)]

    slow = [sampled_slowly(setting, p, d, top_p=0.8, most=8) for p, d in zip(prompts, sources(0), strict=True)]
    together = setting.generator.sampled(prompts, sources(0), top_p=0.8, most=8)
    alone = [
        setting.generator.sampled([p], [d], top_p=0.8, most=8)[0] for p, d in zip(prompts, sources(0), strict=True)
    ]
    backwards = setting.generator.sampled(prompts[::-1], sources(0)[::-1], top_p=0.8, most=8)[::-1]
    assert together == alone == backwards
    assert [(said.text, said.tokens) for said in together] == [(as_text(setting, ids), len(ids)) for ids in slow]
    assert setting.generator.sampled(prompts, sources(1), top_p=0.8, most=8) != together
    assert together[0] != together[1], "two samples of one question differ"


def test_a_nucleus_of_nothing_is_greedy(taught_setting, open_questions):
    setting = taught_setting
    prompts = [setting.prompter.transcript(q).ids for q in open_questions[:4]]
    draws = [source_of_chance(0, q, 0) for q in open_questions[:4]]
    assert setting.generator.sampled(prompts, draws, top_p=1e-6) == setting.generator.greedy(prompts)


# Replies


def test_a_branch_begins_with_its_tokens_and_then_with_the_token_of_its_rank(tiny_setting, open_questions):
    setting = tiny_setting("llama")
    ids = setting.prompter.transcript(open_questions[0]).ids
    greedy, second = setting.generator.branched([ids] * 2, [Start(), Start(rank=1)], most=4)
    assert greedy.first[0] == greedy.forks[0][0][0] and second.first[0] == second.forks[0][1][0] != greedy.first[0]
    (third,) = setting.generator.branched([ids], [Start((second.first[0],), rank=2)], most=4)
    assert third.first == (second.first[0], third.forks[1][2][0])
    assert second.forks[0] == greedy.forks[0] and second.forks[0][0][1] > second.forks[0][1][1]


def test_an_answer_that_was_cut_off_or_is_empty_is_no_answer(tiny_setting, open_questions):
    setting = tiny_setting("llama")
    whole = slot_replies(setting.generator, setting.prompter, open_questions)
    written = setting.generator.greedy([setting.prompter.transcript(q).ids for q in open_questions])
    for reply, said in zip(whole, written, strict=True):
        assert reply.answer == (answer_in(said.text) if said.finished else None)
        assert (reply.text, reply.tokens, reply.level) == (said.text, said.tokens, None)
    everything = Generator(setting.prefix, setting.prompter, range(390))
    cut = slot_replies(everything, setting.prompter, open_questions[:3])
    assert [reply.tokens for reply in cut] == [1, 1, 1]
    never = slot_replies(setting.generator, setting.prompter, open_questions[:3])
    assert any(reply.answer is None for reply in never), "this model hardly ever ends a line"


def test_a_taught_model_writes_whole_replies_that_parse(taught_setting, open_questions):
    setting = taught_setting
    for question, reply in zip(
        open_questions[:4], free_replies(setting.generator, setting.prompter, open_questions[:4]), strict=True
    ):
        prompt = setting.prompter.transcript(question, free=True).ids
        (said,) = setting.generator.greedy([prompt], most=64, lines=False)
        assert reply == parsed_reply(said.text, FORMATS["ScoreNumber"], tokens=said.tokens)


@pytest.mark.parametrize(
    ("text", "answer", "level"),
    [
        ("Answer: Paris\nConfidence: 9", "Paris", 9),
        ("answer : Paris \n\nCONFIDENCE= 0.", "Paris", 0),
        ("**Answer:** Paris\n- **Confidence**: 7", "Paris", 7),
        ("I think.\nAnswer: Paris\nAnswer: Rome\nConfidence: 3\nConfidence: 8", "Paris", 3),
        ("Answer: Paris", "Paris", None),
        ("Confidence: 4", None, 4),
        ("Answer:\nConfidence: 4", None, 4),
        ("Answer: Paris\nConfidence: 10", "Paris", None),
        ("Answer: Paris\nConfidence: 8/10", "Paris", None),
        ("The answer: Paris, confidence: 8", None, None),
        ("Answer: Paris. Confidence: 9", "Paris", 9),
        ("**Answer:** Paris (Confidence: 9)", "Paris", 9),
        ("Answer: Paris, confidence = 9.", "Paris", 9),
        ("Answer: O-. Confidence: 9", "O-", 9),
        ("Answer: Paris – Confidence: 9", "Paris", 9),
        ("Answer: Paris. Confidence: 9 (almost sure)", "Paris", 9),
        ("Answer: Paris. Confidence: [9]", "Paris", 9),
        ("Answer: Self-confidence: a guide", "Self-confidence: a guide", None),
        ("Answer: Paris. Confidence: high", "Paris", None),
        ("Answer: Confidence: 4", None, 4),
        ("1. Answer: Paris\n2. Confidence: 9", "Paris", 9),
        ("1.\nConfidence: 9", None, 9),
        ("Answer: 1.\nConfidence: 9", "1.", 9),
        ("Answer: Paris\nＣonfidence：9", "Paris", 9),
        ("<think>Answer: Rome</think>Answer: Paris\nConfidence: 9 (sure)", "Paris", 9),
        ("", None, None),
    ],
)
def test_a_reply_is_read_by_its_labels_and_nothing_is_guessed(text, answer, level):
    reply = parsed_reply(text, FORMATS["ScoreNumber"], tokens=5)
    assert reply == Reply(answer, level, text, 5)
    assert reply.parsed == (answer is not None and level is not None)


def test_a_reply_that_was_cut_off_says_nothing_in_its_last_line():
    form = FORMATS["ScoreNumber"]
    assert parsed_reply("Answer: Par", form, finished=False).answer is None
    cut = parsed_reply("Answer: Paris\nConfidence: 1", form, finished=False)
    assert (cut.answer, cut.level, cut.parsed) == ("Paris", None, False)
    assert parsed_reply("**Answer: B**\n**Confidence: 7**", form).answer == "B"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Lima", "Lima"),
        ("Answer: Lima\nConfidence: 9", "Lima"),
        ("Answer: Lima. Confidence: 9", "Lima"),
        ("Lima. Confidence: 9", "Lima"),
        ("Lima\nConfidence: 9", None),
        ("N'Djamena\nThe city lies on the Chari.", "N'Djamena"),
        ("<think>Laos... Vientiane</think>Vientiane", "Vientiane"),
        ("<think>Laos...", None),
        ("Answer:", None),
        ("Confidence: 9", None),
        ("The capital of Oman is Muscat.", "The capital of Oman is Muscat."),
        ("The confidence interval", "The confidence interval"),
        ("", None),
    ],
)
def test_the_answer_in_a_slot_or_a_response_is_never_a_label_a_thought_or_several_lines(text, answer):
    assert answer_in(text) == answer


def test_a_letter_stands_though_the_text_after_it_was_cut_off(choice_questions, open_questions):
    metal = choice_questions[0]
    cut = Continuation("B. Iron, which is a", 16, finished=False)
    assert slot_reply(cut, metal).answer == cut.text and slot_reply(cut, open_questions[0]).answer is None
    assert slot_reply(Continuation("It is one of", 16, finished=False), metal).answer is None
