"""Chat templates: the answer's slot, the ends of turns, thoughts, and a date that no clock moves."""

import copy
import datetime as real_datetime
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from conftest import CHATML
from hypothesis import given
from hypothesis import strategies as st
from vocabularies import GPT_OSS, TEMPLATES, real_tokenizer

from interp.datasets.thoughts import without_thoughts
from interp.errors import UserError
from interp.formats import FORMATS
from interp.instruments import jsd, masking, rollout
from interp.instruments.attribution import measured as attributed
from interp.models.checkpoints import Checkpoint
from interp.models.elicitation import Continuation, Generator, free_replies, parsed_reply
from interp.models.prompts import Prompter, Prompting, instruction
from interp.models.setting import Case, notes, prepared, stops, turn_ends
from interp.models.shots import shot_set
from interp.models.templates import DIRECTIVES, ChatTemplate, calendar, refuse_no_day
from interp.options import composed
from interp.pipelines.diagnose import _identity
from interp.pipelines.diagnosis import Diagnose
from interp.records import Question

NUMBER = FORMATS["ScoreNumber"]
WHERE = Question("where", "Where do the Pope and the Curia live?", ("Rome",))
HEADER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
SLOTS = {
    "llama3_1": (HEADER, HEADER, {"<|eot_id|>"}),
    "llama3_2": (HEADER, HEADER, {"<|eot_id|>"}),
    "gemma3": ("<start_of_turn>model\n", "<start_of_turn>model\n", {"<end_of_turn>"}),
    "gemma2": ("<start_of_turn>model\n", "<start_of_turn>model\n", {"<end_of_turn>"}),
    "qwen3": ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_start|>assistant\n", {"<|im_end|>"}),
    "gptoss": (*["<|start|>assistant<|channel|>final<|message|>"] * 2, {"<|end|>", "<|return|>"}),
    "llama2": (" [/INST] ", " [/INST] ", {"</s>"}),
    "mistral": ("[/INST] ", "[/INST] ", {"</s>"}),
}
"""By template what stands before the answer, before an example's answer, and what ends a turn."""


def prompter_of(tokenizer, *, shots: int = 0, **options) -> Prompter:
    return Prompter(tokenizer, NUMBER, shot_set(shots, NUMBER, seed=0, choices=False), **options)


def with_template(tokenizer, template: str):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


# Real vocabularies and templates


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOTS)
def test_the_slot_and_the_examples_are_what_the_template_renders_an_assistants_turn_with(name):
    tokenizer, (slot, before_example, ends) = real_tokenizer(name), SLOTS[name]
    prompter = prompter_of(tokenizer, shots=1)
    (shot,) = prompter.shots
    text = prompter.transcript(WHERE, "Rome", level="9").text
    assert text.count(slot) == (1 if name == "qwen3" else 2), "examples and slot have one form"
    assert re.search(f"{re.escape(before_example)}Answer: {shot.answer}\nConfidence: {shot.level} ?<", text)
    closed = text.partition(WHERE.text)[2]
    assert closed.endswith(f"{slot}Answer: Rome\nConfidence: 9") and closed.count("Answer") == 1
    assert set(tokenizer.convert_ids_to_tokens(list(prompter.turn_ends))) == ends
    assert prompter.chat.notes == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOTS)
@pytest.mark.parametrize("shots", [0, 2])
def test_a_stated_level_is_a_beginning_of_the_whole_conversation_as_the_tokenizer_renders_it(name, shots):
    """The oracle is transformers' own rendering of the conversation with the reply in it."""
    tokenizer = real_tokenizer(name)
    prompter = prompter_of(tokenizer, shots=shots)
    users = [shot.question for shot in prompter.shots] + [f"Question: {WHERE.text}"]
    replies = [f"Answer: {shot.answer}\nConfidence: {shot.level}" for shot in prompter.shots]
    replies.append("Answer: Rome\nConfidence: 9")
    told = instruction(NUMBER, choices=False)
    if name in ("gemma2", "mistral"):
        users[0] = f"{told}\n\n{users[0]}"
        messages = []
    else:
        messages = [{"role": "system", "content": told}]
    for user, reply in zip(users, replies, strict=True):
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False, date_string="01 Jan 2025")
    whole = re.sub(r"Current date: [\d-]+", "Current date: 2025-01-01", whole)
    transcript = prompter.transcript(WHERE, "Rome", level="9")
    assert whole.startswith(transcript.text)
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert tuple(ids[: len(transcript.ids)]) == transcript.ids
    rest = tokenizer.convert_ids_to_tokens(ids[len(transcript.ids) :])
    assert next(token for token in rest if token.strip("▁Ġ")) in SLOTS[name][2], "the turn ends with one of the ends"


@pytest.mark.slow
def test_where_generation_is_asked_for_in_another_form_the_slot_is_the_rendered_one():
    asked = {name: prompter_of(real_tokenizer(name)).transcript(WHERE, free=True).text for name in SLOTS}
    for name, slot in (("mistral", "[/INST]"), ("gptoss", "<|start|>assistant"), ("qwen3", "<|im_start|>assistant\n")):
        assert asked[name].endswith(slot) and not asked[name].endswith(SLOTS[name][0])
    for name in ("llama3_1", "llama3_2", "gemma3", "gemma2"):
        assert asked[name].endswith(SLOTS[name][0])


@pytest.mark.slow
def test_qwen3_has_the_same_slot_with_and_without_the_argument_that_keeps_it_from_thinking():
    tokenizer = real_tokenizer("qwen3")
    usual, quiet = (prompter_of(tokenizer, shots=1, template_args=a) for a in ({}, {"enable_thinking": False}))
    assert usual.transcript(WHERE, "Rome").ids == quiet.transcript(WHERE, "Rome").ids
    assert usual.transcript(WHERE, free=True).ids != quiet.transcript(WHERE, free=True).ids


SIZES = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SIZES | {"num_key_value_heads": 2, "initializer_range": 0.2, "max_position_embeddings": 1024}
KINDS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16, "head_dim": 12}
MODELS = {
    "llama3_1": ("Llama", GROUPED),
    "gemma3": ("Gemma3", GROUPED | KINDS | {"query_pre_attn_scalar": 12}),
    "qwen3": ("Qwen3", GROUPED | {"head_dim": 12}),
    "gptoss": ("GptOss", GROUPED | KINDS | {"num_local_experts": 2, "num_experts_per_tok": 1}),
    "llama2": ("Llama", GROUPED),
}
"""By vocabulary a family and its sizes."""


def random_checkpoint(name: str) -> Checkpoint:
    """A small random model of the family that the vocabulary belongs to, of that vocabulary's size."""
    tokenizer, (family, sizes) = real_tokenizer(name), MODELS[name]
    config = getattr(transformers, f"{family}{'Text' if family == 'Gemma3' else ''}Config")(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        tie_word_embeddings=True,
        **sizes,
    )
    if family == "GptOss":
        config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config)
    return Checkpoint(name, model.eval().requires_grad_(False), tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_small_models_with_real_vocabularies_go_through_the_instruments(name):
    checkpoint = random_checkpoint(name)
    setting = prepared(checkpoint, NUMBER, shots=1, pool=(WHERE,))
    case = Case(WHERE, "Rome", ("Paris", "Milan"))
    (record,) = jsd.measured(setting, [case])
    assert 0 < record["values"]["jsd"] < np.log(2)
    (record,) = rollout.measured(setting, [case])
    assert all(np.isfinite(value) for value in record["values"].values())
    (record,) = masking.measured(setting, [case])
    assert sum(record["seen"]["probability"]) == pytest.approx(1, abs=1e-6)
    (record,) = attributed(setting, [case])
    assert record["values"]
    assert {checkpoint.tokenizer.convert_ids_to_tokens(end) for end in setting.turn_ends} >= SLOTS[name][2]
    (said,) = setting.generator.greedy([setting.prompter.transcript(WHERE).ids], most=2)
    assert isinstance(said, Continuation) and free_replies(setting.generator, setting.prompter, [WHERE])


# Thoughts


def test_a_template_that_opens_a_thought_before_the_answer_is_refused_with_the_remedy(tiny_tokenizer):
    opens, closes = "{% if add_generation_prompt %}<think>\n", "{% if enable_thinking is false %}</think>\n{% endif %}"
    shared_prefix = f"{opens}{closes}{{% endif %}}"
    prompter = prompter_of(with_template(tiny_tokenizer(), CHATML + shared_prefix))
    with pytest.raises(UserError, match=r"opens a thought .*; pass --template-args enable_thinking=false"):
        prompter.transcript(WHERE, "Rome")
    quiet = prompter_of(prompter.tokenizer, template_args={"enable_thinking": False})
    assert quiet.transcript(WHERE).text.endswith("assistant\n<think>\n</think>\nAnswer:")
    stubborn = prompter_of(with_template(tiny_tokenizer(), CHATML + opens + "{% endif %}"))
    with pytest.raises(UserError, match="no argument against that, so use --template plain"):
        stubborn.transcript(WHERE)
    assert stubborn.transcript(WHERE, free=True).text.endswith("assistant\n<think>\n") and stubborn.opens_thought
    assert prompter_of(tiny_tokenizer()).transcript(WHERE).ids and not quiet.opens_thought


@pytest.mark.parametrize(
    ("text", "answer", "level"),
    [
        ("<think>\nAnswer: Lyon\nNo, wait.\n</think>\nAnswer: Paris\nConfidence: 9", "Paris", 9),
        ("<think>Answer: Lyon\nConfidence: 2", None, None),
        ("Answer: Paris\nConfidence: 9\n<think>Or", None, None),
        ("Answer: Paris\n<think>Confidence: 2\n</think>\nConfidence: 9", "Paris", 9),
        ("Answer: Lyon\n</think>\nAnswer: Paris\nConfidence: 9", "Paris", 9),
        ("[THINK]\nAnswer: Lyon\n[/THINK]Answer: Paris\nConfidence: 9", "Paris", 9),
        (
            "<|channel|>analysis<|message|>Answer: Lyon\n<|channel|>final<|message|>Answer: Paris\nConfidence: 9",
            "Paris",
            9,
        ),
        ("<|channel|>analysis<|message|>Answer: Lyon\nConfidence: 2", None, None),
        ("<|channel|>final<|message|>Answer: Paris\nConfidence: 9", "Paris", 9),
    ],
)
def test_what_stands_in_a_thought_is_no_answer(text, answer, level):
    reply = parsed_reply(text, NUMBER)
    assert (reply.answer, reply.level, reply.text) == (answer, level, text)


def test_a_thought_that_the_prompt_has_opened_ends_with_its_mark_or_not_at_all():
    assert parsed_reply("Answer: Lyon\nConfidence: 1", NUMBER, opened=True).answer is None
    said = parsed_reply("Answer: Lyon\n</think>\nAnswer: Paris\nConfidence: 9", NUMBER, opened=True)
    assert (said.answer, said.level) == ("Paris", 9)


@given(st.lists(st.sampled_from(["a", "\n", "<think>", "</think>", "b"]), max_size=8))
def test_nothing_of_a_thought_is_left(pieces):
    aloud, thinking = "", False
    for piece in pieces:
        if piece == "</think>" and not thinking:
            aloud = ""  # it ends what the prompt has opened
        elif piece not in ("<think>", "</think>") and not thinking:
            aloud += piece
        thinking = piece == "<think>" or (thinking and piece != "</think>")
    assert without_thoughts("".join(pieces)) == (None if thinking else aloud.strip())


class Scripted(Generator):
    """Writes what it is told to."""

    def __init__(self, setting, script):
        super().__init__(
            setting.prefix,
            setting.prompter,
            setting.stops,
            setting.turn_ends,
            setting.checkpoint.eos_ids,
            reply_tokens=200,
        )
        self.script = script

    def greedy(self, prompts, *, most, lines, heard=None):
        def pick(logits, step, rows):
            return torch.tensor([self.script[min(step, len(self.script) - 1)] for _ in rows])

        return self._written(prompts, pick, most, lines, heard)


@pytest.mark.slow
def test_the_end_of_a_channel_ends_no_reply_of_gpt_oss():
    checkpoint = random_checkpoint("gptoss")
    setting = prepared(checkpoint, NUMBER)
    thought = "<|channel|>analysis<|message|>Answer: Lyon. Or Paris?<|end|><|start|>assistant"
    final = "<|channel|>final<|message|>Answer: Paris\nConfidence: 9"
    for end in ("<|return|>", "<|end|>"):
        script = checkpoint.tokenizer(f"{thought}{final}{end}", add_special_tokens=False)["input_ids"]
        (reply,) = free_replies(Scripted(setting, script), setting.prompter, [WHERE])
        assert (reply.answer, reply.level, reply.tokens) == ("Paris", 9, len(script))
    cut = checkpoint.tokenizer(thought, add_special_tokens=False)["input_ids"]
    (reply,) = free_replies(Scripted(setting, cut), setting.prompter, [WHERE])
    assert (reply.answer, reply.level, reply.tokens) == (None, None, 200)


@pytest.mark.slow
def test_the_reply_gets_as_long_as_it_was_asked_for(tiny_loaded):
    for tokens in (3, 70):
        setting = prepared(tiny_loaded("llama"), NUMBER, prompting=Prompting(reply_tokens=tokens))
        (reply,) = free_replies(setting.generator, setting.prompter, [WHERE])
        assert reply.tokens == tokens


# Slots and ends of templates that are strange


def test_a_slot_that_differs_from_the_prompt_for_generation_is_the_rendered_one(tiny_tokenizer):
    template = CHATML.replace("{{ m['content'] }}", "{% if m.role == 'assistant' %} {% endif %}{{ m['content'] }}")
    prompter = prompter_of(with_template(tiny_tokenizer(), template), shots=1)
    text = prompter.transcript(WHERE).text
    assert text.count("assistant\n Answer:") == 2 and "assistant\nAnswer:" not in text
    assert prompter.transcript(WHERE, free=True).text.endswith("assistant\n")


def test_a_template_that_ends_no_conversation_with_the_assistant_gives_an_earlier_turns_slot_and_says_so(
    tiny_tokenizer,
):
    refuses = "{% if messages[-1].role == 'assistant' %}{{ raise_exception('no') }}{% endif %}"
    blank = CHATML.replace("{{ m['content'] }}", "{% if m.role == 'assistant' %} {% endif %}{{ m['content'] }}")
    prompter = prompter_of(with_template(tiny_tokenizer(), refuses + blank), shots=1)
    assert prompter.transcript(WHERE).text.count("assistant\n Answer:") == 2
    assert len(prompter.chat.notes) == 1 and "ends no conversation with the assistant" in prompter.chat.notes[0]
    assert prompter.chat.ends == ("<|end|>",)
    assert prompter_of(with_template(tiny_tokenizer(), blank)).chat.notes == ()


def test_a_template_that_drops_the_system_turn_once_the_assistant_has_spoken_is_folded(tiny_tokenizer):
    """As Mistral's third one: the instruction stands in the last turn of the user, and only there."""
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}<|start|>"
        "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}"
        "{{ m.content }}<|start|>{% elif m.role == 'assistant' %} {{ m.content }}<|end|>{% endif %}{% endfor %}"
    )
    text = prompter_of(with_template(tiny_tokenizer(), template)).transcript(WHERE).text
    assert text == f"<|start|>{instruction(NUMBER, choices=False)}\n\nQuestion: {WHERE.text}<|start|> Answer:"


@pytest.mark.parametrize(
    ("after", "earlier", "ends"),
    [
        ("<|end|>\n", "<|end|>\n", ("<|end|>",)),
        (" \n<|end|>", " \n<|end|>", ("<|end|>",)),
        ("<eos>", "<|end|>\n", ("<eos>", "<|end|>")),
        ("\n\nUser:", "\n\nUser:", ()),
        ("", "\n<|start|>user", ("<|start|>",)),
        ("\n### <|end|>", "\n### <|end|>", ()),
    ],
)
def test_a_turn_ends_with_the_first_control_token_after_it(tiny_tokenizer, after, earlier, ends):
    template = (
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{% if loop.last %}"
        f"{{{{ {after!r} }}}}{{% else %}}{{{{ {earlier!r} }}}}{{% endif %}}{{% else %}}\n{{% endif %}}{{% endfor %}}"
    )
    chat = ChatTemplate(with_template(tiny_tokenizer(), template))
    assert chat.ends == tuple(sorted(ends))


def test_an_added_token_that_is_not_marked_as_special_ends_a_turn_too(tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer(), CHATML.replace("<|end|>", "<|im_end|>"))
    tokenizer.add_tokens(["<|im_end|>"])
    prompter = prompter_of(tokenizer)
    assert prompter.chat.ends == ("<|im_end|>",)
    assert prompter.turn_ends == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)


def test_an_end_that_the_configuration_does_not_name_counts_and_is_said(tiny_loaded, tiny_tokenizer):
    checkpoint = tiny_loaded("llama")
    prompter = prompter_of(with_template(tiny_tokenizer(), CHATML.replace("<|end|>", "<eos>")))
    own, more = (checkpoint.tokenizer.convert_tokens_to_ids(token) for token in ("<|end|>", "<eos>"))
    assert checkpoint.eos_ids == (own,) and turn_ends(checkpoint, prompter) == tuple(sorted((own, more)))
    assert {own, more, *checkpoint.line_ends} == set(stops(checkpoint, prompter))
    (note,) = notes(checkpoint, prompter)
    assert "ends turns with '<eos>', its configuration with '<|end|>'" in note
    assert notes(checkpoint, prompter_of(tiny_tokenizer())) == ()
    assert notes(checkpoint, prompter_of(tiny_tokenizer(), template="plain")) == ()


# The date


class Later(real_datetime.datetime):
    """A clock that is some years ahead."""

    @classmethod
    def now(cls, tz=None):
        return cls(2031, 7, 4, 23, 59, 59)


def test_no_clock_enters_a_prompt(tiny_tokenizer, monkeypatch):
    dated = "{{ strftime_now('%d %b %Y, %A') }}" + CHATML
    tokenizer = with_template(tiny_tokenizer(), dated)
    today = prompter_of(tokenizer).transcript(WHERE)
    assert today.text.startswith("01 Jan 2025, Wednesday<|start|>")
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Later)
    assert prompter_of(tokenizer).transcript(WHERE) == today
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert rendered.startswith("04 Jul 2031, Friday"), "positive control: transformers asks the clock"
    other = prompter_of(tokenizer, date="2031-07-04")
    assert other.transcript(WHERE).text.startswith("04 Jul 2031, Friday<|start|>") and other.frame != today.text


def test_the_rendered_prompt_is_part_of_what_a_run_is(tiny_loaded, tiny_tokenizer, monkeypatch):
    template = "{% if date_string %}{{ date_string }}{% endif %}" + CHATML
    dated, plain = (
        replace(tiny_loaded("llama"), tokenizer=with_template(tiny_tokenizer(), t)) for t in (template, CHATML)
    )

    def prompts(checkpoint: Checkpoint, **options) -> str:
        return _identity(composed(Diagnose, **options), [], checkpoint, [WHERE], 0)["prompts"]

    before = prompts(dated)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Later)
    assert prompts(dated) == before
    assert len({before, prompts(dated, date="2024-02-29"), prompts(plain), prompts(plain, format="ScoreText")}) == 4
    assert prompts(plain) == prompts(plain, date="2024-02-29")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama3_2", "gptoss"])
def test_real_templates_that_write_the_date_write_the_constant_one(name, monkeypatch):
    tokenizer = real_tokenizer(name)
    before = prompter_of(tokenizer, shots=1).transcript(WHERE, "Rome")
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Later)
    assert prompter_of(tokenizer, shots=1).transcript(WHERE, "Rome") == before
    assert "01 Jan 2025" in before.text or "2025-01-01" in before.text
    other = prompter_of(tokenizer, date="2024-02-29").transcript(WHERE).text
    assert "29 Feb 2024" in other or "2024-02-29" in other


@pytest.mark.slow
@given(day=st.dates(real_datetime.date(1900, 1, 1)), name=st.sampled_from(DIRECTIVES))
def test_the_calendar_of_a_template_gives_what_strftime_gives(day, name):
    import jinja2

    asked = "{{ strftime_now('" + name + " and ' ~ '" + name + "') }}"
    template = jinja2.Template(calendar(day) + asked, trim_blocks=True, lstrip_blocks=True)
    assert template.render() == day.strftime(f"{name} and {name}")


@pytest.mark.parametrize(
    "head", ["", "\n", "\n\n ", "  {% if true %}x{% endif %}", " {%- if true -%} x{%- endif %}\n\n"]
)
def test_a_template_that_writes_the_date_is_rendered_as_it_stands_otherwise(tiny_tokenizer, head):
    dated, fixed = (
        with_template(tiny_tokenizer(), head + CHATML + end) for end in ("{{ strftime_now('%Y') }}", "2025")
    )
    messages = [{"role": "user", "content": "x"}]
    texts = [ChatTemplate(tokenizer).rendered(messages, generation=False) for tokenizer in (dated, fixed)]
    assert texts[0] == texts[1] and texts[0].endswith("2025")
    assert texts[1] == fixed.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize("text", ["", "today", "2025-13-01", "2025-1-1", "20250101", "01.01.2025"])
def test_what_is_no_day_is_refused(text):
    with pytest.raises(UserError, match=rf"--date {text}: no day; write it as YYYY-MM-DD"):
        refuse_no_day(text)
    refuse_no_day("2025-01-01")


def test_the_templates_of_the_tests_are_those_that_are_looked_at():
    assert set(SLOTS) | {"qwen_thinking", "r1"} == set(TEMPLATES) and "strftime_now" in GPT_OSS
