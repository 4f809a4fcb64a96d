"""From a question to tokens: the text is the template's, and every token belongs to exactly one span."""

import copy
import dataclasses
import itertools
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import VOCABULARIES, examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interp.cli.prompts import COLOURS, ShowPrompts, coloured, show
from interp.errors import UserError
from interp.formats import FORMATS
from interp.methods.p_true import TRUTH
from interp.methods.registry import METHODS
from interp.models.prompts import CLOSING, Prompter, instruction
from interp.models.shots import CHOICE_SHOTS, OPEN_SHOTS, asked, shot_set
from interp.models.tree import common_length
from interp.options import composed
from interp.records import SPANS, Question, Transcript

NUMBER, PERCENT = FORMATS["ScoreNumber"], FORMATS["ScorePercent"]
PARIS = Question("paris", "What is the capital of France?", ("Paris",))
TAKEN = ("system", "refuses", "drops", "bos", "thinks")
"""Templates that render contents as they are given."""
SHARED = settings(examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])


def prompter_of(tokenizer, confidence=NUMBER, *, shots: int = 0, **options) -> Prompter:
    made = shot_set(shots, confidence, seed=0, choices=options.get("choices", False))
    return Prompter(tokenizer, confidence, made, **options)


def regions(prompter: Prompter, transcript: Transcript) -> dict[str, str]:
    """The text of each span from its tokens' own characters; the byte tokens of one character count once."""
    offsets = prompter.tokenizer(transcript.text, add_special_tokens=False, return_offsets_mapping=True)
    found, end_before = dict.fromkeys(SPANS, ""), 0
    for span, (start, end) in zip(transcript.spans, offsets["offset_mapping"], strict=True):
        found[span] += transcript.text[max(start, end_before) : end]
        end_before = max(end, end_before)
    assert end_before == len(transcript.text)
    return found


def spoken(prompter: Prompter, turns: list[tuple[str, str]], after: str) -> str:
    """What the template itself makes of the turns, and what the slots add."""
    messages = [{"role": role, "content": content} for role, content in turns]
    return prompter.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) + after


# The rendered text


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_the_text_is_what_the_chat_template_renders_and_then_the_slots(tiny_tokenizer, vocabulary):
    prompter = prompter_of(tiny_tokenizer(vocabulary), shots=2)
    turns = [("system", instruction(NUMBER, choices=False))]
    for shot in prompter.shots:
        turns += [("user", shot.question), ("assistant", f"Answer: {shot.answer}\nConfidence: {shot.level}")]
    turns.append(("user", "Question: What is the capital of France?"))
    assert prompter.transcript(PARIS).text == spoken(prompter, turns, "Answer:")
    assert prompter.transcript(PARIS, "Paris").text == spoken(prompter, turns, "Answer: Paris\nConfidence:")
    assert prompter.transcript(PARIS, " Paris ", level="8").text == spoken(
        prompter, turns, "Answer: Paris\nConfidence: 8"
    )
    turns[-1] = ("user", f"{turns[-1][1]}\nHint: no.")
    assert prompter.transcript(PARIS, hint="Hint: no.").text == spoken(prompter, turns, "Answer:")


@pytest.mark.parametrize("template", ["refuses", "drops"])
@pytest.mark.parametrize("shots", [0, 2])
def test_where_a_system_turn_is_refused_or_dropped_the_instruction_goes_into_the_first_user_turn(
    tiny_tokenizer, template, shots
):
    prompter = prompter_of(tiny_tokenizer(template=template), shots=shots)
    users = [shot.question for shot in prompter.shots] + ["Question: What is the capital of France?"]
    users[0] = f"{instruction(NUMBER, choices=False)}\n\n{users[0]}"
    turns = []
    for shot, user in zip(prompter.shots, users, strict=False):
        turns += [("user", user), ("assistant", f"Answer: {shot.answer}\nConfidence: {shot.level}")]
    turns.append(("user", users[-1]))
    transcript = prompter.transcript(PARIS, "Paris")
    assert transcript.text == spoken(prompter, turns, "Answer: Paris\nConfidence:")
    found = regions(prompter, transcript)
    assert found["instruction"] == instruction(NUMBER, choices=False)
    assert found["question"] == "Question: What is the capital of France?"
    system = prompter_of(tiny_tokenizer(template="system"), shots=shots).transcript(PARIS, "Paris")
    assert "<|start|>system" in system.text and "<|start|>system" not in transcript.text


@pytest.mark.parametrize("template", ["trims", "lowers"])
def test_a_template_that_changes_contents_is_refused_where_it_would_change_them(tiny_tokenizer, template):
    prompter = prompter_of(tiny_tokenizer(template=template))
    changed = Question("q", "Why?\u00a0\u2003X", ("x",))
    with pytest.raises(UserError, match="changes what it is given"):
        prompter.transcript(dataclasses.replace(changed, context=" X ") if template == "trims" else changed, hint=" ")
    unchanged = prompter_of(tiny_tokenizer()).transcript(changed, hint=" ")
    assert unchanged.text.endswith("X\n <|end|>\n<|start|>assistant\nAnswer:")


def test_a_template_that_trims_what_needs_no_trimming_is_taken(tiny_tokenizer):
    trimmed, plain = (prompter_of(tiny_tokenizer(template=template)) for template in ("trims", "system"))
    assert trimmed.transcript(PARIS, "Paris").text == plain.transcript(PARIS, "Paris").text


def test_arguments_reach_the_template(tiny_tokenizer):
    tokenizer = tiny_tokenizer(template="thinks")
    silent = prompter_of(tokenizer, template_args={"enable_thinking": False}).transcript(PARIS)
    thinking = prompter_of(tokenizer, template_args={"enable_thinking": True}).transcript(PARIS)
    assert silent.text == thinking.text.replace("assistant\nAnswer:", "assistant\n<think>\n\n</think>\nAnswer:")
    assert silent.text != thinking.text


def test_a_tokenizer_without_a_chat_template_asks_for_plain(tiny_tokenizer):
    with pytest.raises(UserError, match="no chat template; use --template plain"):
        prompter_of(tiny_tokenizer(template="none"))
    assert prompter_of(tiny_tokenizer(template="none"), template="plain").transcript(PARIS).ids


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("adds_bos", [False, True])
def test_the_plain_template_is_text_alone_with_a_bos_only_where_the_tokenizer_adds_one(
    tiny_tokenizer, vocabulary, adds_bos
):
    tokenizer = tiny_tokenizer(vocabulary, "none", adds_bos)
    prompter = prompter_of(tokenizer, shots=1, template="plain")
    (shot,) = prompter.shots
    body = (
        f"{instruction(NUMBER, choices=False)}\n\n{shot.question}\nAnswer: {shot.answer}\nConfidence: {shot.level}\n\n"
        "Question: What is the capital of France?\nAnswer: Paris\nConfidence:"
    )
    transcript = prompter.transcript(PARIS, "Paris")
    assert transcript.text == ("<bos>" if adds_bos else "") + body
    assert transcript.ids.count(tokenizer.bos_token_id) == adds_bos
    assert (transcript.ids[0] == tokenizer.bos_token_id) == adds_bos
    found = regions(prompter, transcript)
    assert found["shots"] == f"{shot.question}Answer: {shot.answer}\nConfidence: {shot.level}"
    if vocabulary != "pieces":
        assert transcript.ids == tuple(tokenizer(body)["input_ids"])


def test_a_bos_of_the_template_stands_there_once(tiny_tokenizer):
    for vocabulary, adds_bos in itertools.product(VOCABULARIES, (False, True)):
        tokenizer = tiny_tokenizer(vocabulary, "bos", adds_bos)
        transcript = prompter_of(tokenizer).transcript(PARIS)
        assert transcript.ids.count(tokenizer.bos_token_id) == 1 and transcript.ids[0] == tokenizer.bos_token_id
        assert transcript.spans[0] == "special"


# Spans

contents = st.text(
    st.sampled_from("abc Q:9%.é日🙂\n<>|▁_") | st.characters(codec="utf-8", exclude_categories=["Cs", "Co"]),
    max_size=20,
)
worded = st.lists(
    contents
    | st.sampled_from(["Answer:", "Confidence:", "Question: ", "assistant", "user\n", "right", "Reply in two lines"]),
    min_size=1,
    max_size=4,
).map("".join)


def any_prompter(tokenizers, vocabulary: str, template: str) -> Prompter:
    """With one example; plain: a tokenizer without a template."""
    plain = template == "plain"
    tokenizer = tokenizers(vocabulary, "none" if plain else template)
    return prompter_of(tokenizer, shots=1, template="plain" if plain else "chat")


kinds = st.tuples(st.sampled_from(VOCABULARIES), st.sampled_from([*TAKEN, "plain"]))


@given(kind=kinds, text=worded.filter(str.strip), answer=worded.filter(str.strip), hint=contents)
@SHARED
def test_spans_put_together_are_the_regions_of_the_text(tiny_tokenizer, kind, text, answer, hint):
    prompter = any_prompter(tiny_tokenizer, *kind)
    transcript = prompter.transcript(Question("q", text, ("x",)), answer, hint=hint, level="8")
    (shot,) = prompter.shots
    found = regions(prompter, transcript)
    assert sum(map(len, found.values())) == len(transcript.text), "a character belongs to no token or to two"
    del found["special"]
    assert found == {
        "instruction": instruction(NUMBER, choices=False),
        "shots": f"{shot.question}Answer: {shot.answer}\nConfidence: {shot.level}",
        "question": f"{asked(text)}\n{hint}" if hint else asked(text),
        "answer": f" {answer.strip()}",
        "tail": "\nConfidence:",
        "confidence": " 8",
    }


def owners(prompter: Prompter, regions: list[tuple[str, str]]) -> list[str]:
    """A second definition: the span of each token is that of its last character, found by counting."""
    offsets = prompter.tokenizer("".join(t for _, t in regions), add_special_tokens=False, return_offsets_mapping=True)
    borders = list(itertools.accumulate(len(text) for _, text in regions))
    found = []
    for start, end in offsets["offset_mapping"]:
        last = max(end - 1, start)
        found.append(next(name for (name, _), border in zip(regions, borders, strict=True) if last < border))
    return found


@given(vocabulary=st.sampled_from(VOCABULARIES), text=worded.filter(str.strip), answer=worded.filter(str.strip))
@SHARED
def test_the_span_of_a_token_is_that_of_its_last_character(tiny_tokenizer, vocabulary, text, answer):
    prompter = prompter_of(tiny_tokenizer(vocabulary))
    transcript = prompter.transcript(Question("q", text, ("x",)), answer, level="8")
    pieces = [
        ("special", "<|start|>system\n"),
        ("instruction", instruction(NUMBER, choices=False)),
        ("special", "<|end|>\n<|start|>user\n"),
        ("question", asked(text)),
        ("special", "<|end|>\n<|start|>assistant\nAnswer:"),
        ("answer", f" {answer.strip()}"),
        ("tail", "\nConfidence:"),
        ("confidence", " 8"),
    ]
    assert transcript.text == "".join(part for _, part in pieces)
    assert list(transcript.spans) == owners(prompter, pieces)


def test_a_token_that_straddles_two_spans_belongs_to_the_later_one(tiny_tokenizer):
    from tokenizers import AddedToken

    plain = tiny_tokenizer()
    tokenizer = copy.deepcopy(plain)
    tokenizer.add_tokens([AddedToken("s\nConf", normalized=False), AddedToken("?<|end|>", normalized=False)])
    transcript = prompter_of(tokenizer).transcript(PARIS, "Paris")
    by_piece = dict(zip(transcript.pieces, transcript.spans, strict=True))
    assert by_piece["s\nConf"] == "tail" and by_piece["?<|end|>"] == "special"
    assert "".join(transcript.pieces) == transcript.text
    apart = prompter_of(plain).transcript(PARIS, "Paris")
    assert "s\nConf" not in apart.pieces, "positive control: without the merged tokens nothing straddles"
    assert "".join(p for p, s in zip(apart.pieces, apart.spans, strict=True) if s == "answer") == " Paris"


def test_words_of_the_instruction_and_the_template_within_a_question_do_not_move_the_spans(tiny_tokenizer):
    text = f"assistant\nAnswer: 1{CLOSING} 9\nuser\nsystem {instruction(NUMBER, choices=False)} Question: What?"
    answer = "Question: What? Answer: Confidence: 9 user"
    prompter = prompter_of(tiny_tokenizer(), shots=2)
    found = regions(prompter, prompter.transcript(Question("q", text, ("x",)), answer))
    assert found["question"] == f"Question: {text}"
    assert (found["answer"], found["tail"], found["confidence"]) == (f" {answer}", CLOSING, "")
    assert found["instruction"] == instruction(NUMBER, choices=False)


@pytest.mark.parametrize("token", ["<|end|>", "<|start|>", "<bos>", "<pad>", "<eos>"])
@pytest.mark.parametrize("place", ["question", "context", "choice", "hint", "answer"])
@pytest.mark.parametrize("style", ["chat", "plain"])
def test_contents_with_a_control_token_are_refused_wherever_they_stand(tiny_tokenizer, token, place, style):
    put = {"question": "Why?", "context": "", "choice": "One", "hint": "Hint.", "answer": "A"}
    prompter = prompter_of(tiny_tokenizer(), choices=True, template=style)

    def transcript(contents: dict[str, str]) -> Transcript:
        question = Question("q", contents["question"], ("A",), (contents["choice"], "Two"), contents["context"])
        return prompter.transcript(question, contents["answer"], hint=contents["hint"])

    assert transcript(put).ids
    with pytest.raises(UserError, match="control token"):
        transcript(put | {place: f"an {token} in it"})


def test_choices_and_their_passage_stand_in_the_question(tiny_tokenizer, choice_questions):
    prompter = prompter_of(tiny_tokenizer(), choices=True)
    train = next(question for question in choice_questions if question.id == "train")
    found = regions(prompter, prompter.transcript(train, "B"))
    assert found["question"] == (
        "Ada took the early train. Ben took the bus an hour later.\n"
        "Question: Who left first?\nA. Ben\nB. Ada\nC. Both at once\nD. Neither"
    )
    assert "letter of the right choice" in found["instruction"]


def test_the_spans_before_the_slots_do_not_change_with_the_answer(tiny_tokenizer):
    prompter = prompter_of(tiny_tokenizer(), shots=1)
    opened = prompter.transcript(PARIS)
    for answer in ("Paris", "Rome", "x" * 50):
        whole = prompter.transcript(PARIS, answer)
        assert whole.ids[: len(opened.ids)] == opened.ids and whole.spans[: len(opened.ids)] == opened.spans


# What is refused


def test_an_empty_answer_is_refused(tiny_tokenizer):
    prompter = prompter_of(tiny_tokenizer())
    for answer in ("", " ", "\n"):
        with pytest.raises(UserError, match="'paris': an empty answer"):
            prompter.transcript(PARIS, answer)


def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(tiny_tokenizer):
    length = len(prompter_of(tiny_tokenizer()).transcript(PARIS, "Paris").ids)
    assert prompter_of(tiny_tokenizer(), max_length=length).transcript(PARIS, "Paris").ids
    with pytest.raises(UserError, match=f"has {length} tokens, the model reads {length - 1}"):
        prompter_of(tiny_tokenizer(), max_length=length - 1).transcript(PARIS, "Paris")


def test_a_template_that_no_turns_can_pass_is_refused(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer())
    for broken in ("{{ raise_exception('never') }}", "fixed text", "{{ messages[0]['content'] }}{{ nothing.at.all }}"):
        tokenizer.chat_template = broken
        prompter = prompter_of(tokenizer, shots=1)
        for _ in range(2):
            with pytest.raises(UserError, match="cannot render these turns"):
                prompter.transcript(PARIS)


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(UserError, match="no character offsets"):
        Prompter(SimpleNamespace(is_fast=False, name_or_path="slow", chat_template="x"), NUMBER)


# Levels


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("name", FORMATS)
def test_a_levels_suffix_is_what_it_adds_to_the_tokens(tiny_tokenizer, vocabulary, name):
    form = FORMATS[name]
    prompter = prompter_of(tiny_tokenizer(vocabulary), form)
    for answer in ("Paris", "9", "x\u00a0"):
        opened = prompter.transcript(PARIS, answer)
        suffixes = prompter.level_suffixes(opened)
        assert len(suffixes) == len(form.levels)
        for level, suffix in zip(form.levels, suffixes, strict=True):
            whole = prompter.transcript(PARIS, answer, level=level)
            assert whole.ids == opened.ids + suffix
            assert [s for s, _ in itertools.groupby(whole.spans[len(opened.ids) :])] == ["confidence"]
            assert prompter.tokenizer.decode(suffix).strip() == level
    assert len(set(suffixes)) == len(suffixes), "two levels have the same tokens"


def test_the_two_digit_styles_differ_in_the_blank_before_the_digit(tiny_tokenizer):
    def tokens(vocabulary: str, form) -> list[list[str]]:
        prompter = prompter_of(tiny_tokenizer(vocabulary), form)
        suffixes = prompter.level_suffixes(prompter.transcript(PARIS, "Paris"))
        return [prompter.tokenizer.convert_ids_to_tokens(list(suffix)) for suffix in suffixes]

    assert tokens("digits", NUMBER)[9] == ["Ġ", "9"] and tokens("spaced", NUMBER)[9] == ["Ġ9"]
    assert tokens("pieces", NUMBER)[9] == ["▁9"]
    assert tokens("digits", PERCENT)[100] == ["Ġ", "1", "0", "0", "%"]
    assert tokens("spaced", PERCENT)[10] == ["Ġ1", "0", "%"]


def test_a_tokenizer_that_merges_the_slot_with_a_level_is_refused(tiny_tokenizer):
    from tokenizers import AddedToken

    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_tokens([AddedToken(": 9", normalized=False)])
    prompter = prompter_of(tokenizer)
    with pytest.raises(UserError, match=r"merges .* with the level '9'"):
        prompter.level_suffixes(prompter.transcript(PARIS, "Paris"))


# Openings and shots


@pytest.mark.slow
@given(kind=kinds, text=worded.filter(str.strip), context=contents)
@SHARED
def test_the_opening_begins_every_questions_prompt(tiny_tokenizer, kind, text, context):
    prompter = any_prompter(tiny_tokenizer, *kind)
    shared_prefix = prompter.shared_prefix
    questions = [PARIS, Question("q", text, ("x",)), Question("r", text, ("x",), context=context)]
    for question in questions:
        transcript = prompter.transcript(question)
        assert transcript.ids[: len(shared_prefix)] == shared_prefix
        assert transcript.positions("question")[0] == len(shared_prefix), "more could be shared"


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5))
def test_the_common_length_is_the_longest_prefix_that_all_share(sequences):
    length = common_length(sequences)
    shortest = min(map(len, sequences))
    assert all(sequence[:length] == sequences[0][:length] for sequence in sequences)
    assert length == shortest or len({sequence[length] for sequence in sequences}) > 1


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
@pytest.mark.parametrize("choices", [False, True])
def test_confidences_of_a_shot_set_are_spread_over_the_scale_for_every_seed(form, choices):
    last = len(form.levels) - 1
    for seed in range(30):
        shots = shot_set(3, form, seed=seed, choices=choices)
        ranks = sorted(form.levels.index(shot.level) for shot in shots)
        assert all(last * i / 3 - 0.5 <= rank <= last * (i + 1) / 3 + 0.5 for i, rank in enumerate(ranks))
        assert len({shot.question for shot in shots}) == 3


def test_shot_sets_are_the_same_for_a_seed_and_differ_between_seeds_in_questions_and_confidences():
    sets = [shot_set(3, NUMBER, seed=seed, choices=False) for seed in range(20)]
    assert sets == [shot_set(3, NUMBER, seed=seed, choices=False) for seed in range(20)]
    assert len({tuple(shot.level for shot in shots) for shots in sets}) > 12
    assert len({tuple(shot.question for shot in shots) for shots in sets}) > 12
    first = [int(shots[0].level) for shots in sets]
    assert max(first) >= 7 and min(first) <= 2, "the order of the confidences follows the questions"


def test_the_examples_are_right_and_within_reach(open_questions):
    for count in (0, len(OPEN_SHOTS)):
        assert len(shot_set(count, NUMBER, seed=0, choices=False)) == count
    for choices, most in ((False, len(OPEN_SHOTS)), (True, len(CHOICE_SHOTS))):
        with pytest.raises(UserError, match=f"there are {most} examples"):
            shot_set(most + 1, NUMBER, seed=0, choices=choices)
    shots = shot_set(len(CHOICE_SHOTS), NUMBER, seed=0, choices=True)
    apple = next(shot for shot in shots if "fruit" in shot.question)
    assert (apple.question, apple.answer) == (
        "Question: Which of these is a fruit?\nA. Carrot\nB. Apple\nC. Potato\nD. Onion",
        "B",
    )


def test_the_instruction_names_the_slots_and_the_scale():
    for form in FORMATS.values():
        for choices in (False, True):
            text = instruction(form, choices=choices)
            assert form.wording in text and "\nAnswer: " in text and "\nConfidence: " in text
            assert ("letter" in text.split(".")[0]) == choices


STORED = {
    False: (
        "Answer the question as briefly as you can. Then state how confident you are that your answer is right, as one "
        "digit from 0 (surely wrong) to 9 (surely right). Reply in two lines:\nAnswer: <your answer>\n"
        "Confidence: <your confidence>"
    ),
    True: (
        "Answer the question with the letter of the right choice. Then state how confident you are that your answer is "
        "right, as one digit from 0 (surely wrong) to 9 (surely right). Reply in two lines:\nAnswer: <your answer>\n"
        "Confidence: <your confidence>"
    ),
}
"""The instruction of every run so far, by whether the questions are multiple choice."""


@pytest.mark.parametrize("choices", [False, True])
def test_the_first_wording_is_the_stored_one_and_the_second_shares_scale_and_reply_format_alone(choices):
    assert instruction(NUMBER, choices=choices) == instruction(NUMBER, choices=choices, wording=0) == STORED[choices]
    for form in (*FORMATS.values(), TRUTH):
        first, second = (instruction(form, choices=choices, wording=wording) for wording in (0, 1))
        assert f" as {form.wording}. " in second and ("letter" in second.split(".")[0]) == choices
        (opening, *lines), (other, *same_lines) = (text.split("\n") for text in (first, second))
        assert lines == same_lines == ["Answer: <your answer>", "Confidence: <your confidence>"]
        words = [text.replace(form.wording, "").split() for text in (opening, other)]
        fours = [{tuple(part[i : i + 4]) for i in range(len(part) - 3)} for part in words]
        assert all(fours) and not fours[0] & fours[1], "four words in a row are the same"


@pytest.mark.parametrize("wording", [0, 1])
def test_a_sentence_that_a_method_adds_follows_the_scale_in_every_wording(wording):
    (asking,) = (method.asking for method in METHODS.values() if method.asking and method.asking.added)
    text = instruction(asking.format_in(NUMBER), choices=False, wording=wording)
    assert f" as {NUMBER.wording}. {asking.added}. " in text


@pytest.mark.parametrize("template", ["system", "refuses"])
def test_prompts_of_two_wordings_differ_in_the_instruction_alone(tiny_tokenizer, template):
    first, second = (prompter_of(tiny_tokenizer(template=template), shots=1, wording=wording) for wording in (0, 1))
    assert first.frame != second.frame and first.shared_prefix != second.shared_prefix
    assert prompter_of(tiny_tokenizer(template=template), shots=1).frame == first.frame
    texts = [regions(prompter, prompter.transcript(PARIS, "Paris", level="9")) for prompter in (first, second)]
    assert [text.pop("instruction") for text in texts] == [
        instruction(NUMBER, choices=False, wording=wording) for wording in (0, 1)
    ]
    assert texts[0] == texts[1]


def test_a_transcript_whose_tokens_lack_a_span_cannot_be_made():
    with pytest.raises(ValueError, match="2 tokens but 1 spans"):
        Transcript("ab", (1, 2), ("answer",))
    with pytest.raises((ValueError, TypeError), match="prose"):
        Transcript("a", (1,), ("prose",))


@pytest.mark.real_model
def test_the_embedded_models_own_template_renders_spans_without_a_gap():
    from transformers import AutoTokenizer

    from interp.models.embedded import embedded_checkpoint

    prompter = prompter_of(AutoTokenizer.from_pretrained(embedded_checkpoint()), PERCENT, shots=3)
    transcript = prompter.transcript(PARIS, "Paris", level="85%")
    found = regions(prompter, transcript)
    assert found["question"] == "Question: What is the capital of France?"
    assert (found["answer"], found["tail"], found["confidence"]) == (" Paris", CLOSING, " 85%")
    assert prompter.tokenizer.convert_ids_to_tokens(list(transcript.ids[-4:])) == ["Ġ", "8", "5", "%"]
    assert transcript.text.count("<|im_start|>") == 1 + 2 * 3 + 2


def test_blanks_around_a_choice_do_not_reach_the_prompt(tiny_tokenizer):
    prompter = dataclasses.replace(prompter_of(tiny_tokenizer(template="trims")), choices=True)
    question = Question("q", "How much?", ("B", "$16.00 "), choices=("$8 ", "$16.00 "))
    assert "A. $8\nB. $16.00<|end|>" in prompter.transcript(question, "B").text


# What a reader is shown


SHORT = Transcript(
    "Say: Lima 9", (5, 6, 7, 8), ("instruction", "answer", "answer", "confidence"), ("Say:", " Li", "ma", " 9")
)


def test_without_colour_each_run_of_a_span_is_named_once_and_tokens_are_set_apart():
    shown = "[instruction]Say:|[answer] Li|ma|[confidence] 9|\n\ninstruction 1, answer 2, confidence 1: 4 tokens"
    assert coloured(SHORT, colour=False) == shown


def test_with_colour_each_token_stands_in_the_colour_of_its_span_and_nothing_else_is_added():
    painted = coloured(SHORT).split("\n\n")[0]
    pairs = [(COLOURS[span], piece) for span, piece in zip(SHORT.spans, SHORT.pieces, strict=True)]
    assert re.findall(r"\x1b\[([\d;]+)m([^\x1b|]+)\x1b\[0m", painted) == pairs
    assert re.sub(r"\x1b\[[\d;]+m", "", coloured(SHORT)) == re.sub(r"\[\w+\]", "", coloured(SHORT, colour=False))
    assert len(set(COLOURS.values())) == len(SPANS), "two spans would look alike"


@pytest.mark.slow
def test_the_command_shows_a_prompt_for_each_question_and_each_set_of_examples(tiny_checkpoint, own_data):
    options = ("--data", str(own_data / "open.jsonl"), "--n", "2", "--shots", "2", "--shot-sets", "2")
    command = [sys.executable, "-m", "interp.prompts", "--ckpt", str(tiny_checkpoint("llama")), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    *prompts, end = re.split(r"\d+ tokens\n\n", done.stdout)
    assert len(prompts) == 4 and end == "" and "\x1b" not in done.stdout
    questions = [prompt[prompt.index("[question]") : prompt.index("[answer]")] for prompt in prompts]
    assert questions[:2] == questions[2:] and questions[0] != questions[1]
    examples = [prompt[prompt.index("[shots]") : prompt.rindex("[question]")] for prompt in prompts]
    assert examples[0] == examples[1] != examples[2] == examples[3]
    assert all("[confidence] |9|\n\n" in prompt for prompt in prompts)


def test_every_wording_is_shown_with_every_set_of_examples(tiny_checkpoint, own_data, capsys):
    given = {"data": str(own_data / "open.jsonl"), "n": 1, "shots": 1, "shot_sets": 2, "wordings": 2}
    show(composed(ShowPrompts, ckpt=str(tiny_checkpoint("llama")), **given))
    *prompts, _ = re.split(r"\d+ tokens\n\n", capsys.readouterr().out)
    parts = [re.split(r"\[\w+\]", prompt.replace("|", "")) for prompt in prompts]
    told = [instruction(NUMBER, choices=False, wording=wording) for wording in (0, 0, 1, 1)]
    assert all(any(text in part for part in shown) for text, shown in zip(told, parts, strict=True))
    examples = [prompt[prompt.index("[shots]") : prompt.rindex("[question]")] for prompt in prompts]
    assert examples[:2] == examples[2:] and examples[0] != examples[1]
