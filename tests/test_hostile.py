"""Whatever bytes come in, the result is a value or one `UserError`, and it comes in time that grows with the input."""

import copy
import json
import math
import resource
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import CHATML, examples
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_embedded import write_tiny_gguf

from interp.cli.prompts import coloured
from interp.datasets.choices import choice_index
from interp.datasets.grading import is_right, may_be_right
from interp.datasets.questions import fingerprint, loaded_questions
from interp.datasets.replies import answer_in
from interp.datasets.words import normalised, official
from interp.errors import UserError
from interp.formats import FORMATS
from interp.models.checkpoints import Loading, Source, loaded_checkpoint, source_of
from interp.models.elicitation import parsed_reply
from interp.models.embedded import gguf_checkpoint
from interp.models.prompts import Prompter
from interp.options import OURS, template_arguments
from interp.plain import CONTROL, plain_json, visible
from interp.records import Question, Transcript
from interp.run.runs import Run, read_records, read_run
from interp.run.shards import KEY
from training.triplets import GradedAnswer, Triplet, loaded_answers, loaded_triplets

IN_ONE_PLACE = [HealthCheck.function_scoped_fixture]
"""Tests that write the same file again for each example."""
DEEP = "[" * 100_000 + "]" * 100_000
ODD_JSON = (DEEP, "1e400", "1" + "0" * 5000, "1" + "0" * 400, "NaN", "-Infinity", '"\\ud800"', '"\\u0000"', "-0.0", '"')
ODD_BYTES = (b"\xff", b"\xef\xbb\xbf{}", b"\0", b"\r", b"\xed\xa0\x80", b'"\xed\xa0\x80"', b"\xff\xfe{\0}\0", b"\x1a")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
).map(json.dumps) | st.sampled_from(ODD_JSON)
"""The JSON text of any value, or what only looks like one."""


def objects(**fields: str) -> st.SearchStrategy[bytes]:
    """The bytes of an object with these fields, up to three of them changed to anything, left out or said twice."""

    def spoilt(changes: list[tuple[str, str | None]]) -> bytes:
        pairs = [(name, text) for name, text in fields.items() if (name, None) not in changes]
        pairs += [(name, text) for name, text in changes if text is not None]
        return ("{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in pairs) + "}").encode()

    change = st.tuples(st.sampled_from(sorted(fields)), st.none() | values)
    return st.lists(change, max_size=3).map(spoilt)


def lines(good: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The bytes of a file of such objects, among others that are none."""
    line = st.one_of(good, good, st.binary(max_size=30), st.sampled_from(ODD_BYTES), values.map(str.encode))
    return st.tuples(st.lists(line, max_size=3), st.sampled_from((b"\n", b"\r\n", b"\r"))).map(
        lambda parts: parts[1].join(parts[0])
    )


# Files of JSON


@given(st.binary() | values.map(str.encode))
@example(DEEP.encode())
@example(b'"\xed\xa0\x80"')
@example(b'{"a": [1e999]}')
def test_json_is_what_it_says_with_whole_characters_and_finite_numbers_or_a_value_error(text):
    try:
        found = plain_json(text)
    except ValueError:
        return
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    json.dumps(found, ensure_ascii=False).encode()


QUESTION = {"id": '"q1"', "question": '"Why?"', "answers": '["so"]', "context": '""', "relation": '"r"', "subject": "0"}
CHOSEN = {"question": '"Which?"', "choices": '["x", "y"]', "answer": "1", "response": '"A"', "confidence": "0.5"}


@given(lines(objects(**QUESTION) | objects(**CHOSEN) | objects(**QUESTION | CHOSEN)))
def test_a_file_of_questions_is_questions_or_one_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "questions.jsonl"
    path.write_bytes(content)
    try:
        found = loaded_questions(str(path))
    except UserError as error:
        assert str(path) in str(error) and len(str(error)) < 10_000
    else:
        assert len({question.id for question in found}) == len(found) > 0
        fingerprint(found)
        for question in found:
            assert all(isinstance(text, str) for text in (question.id, question.context, question.relation))
            assert is_right(question, question.answers[0])
            may_be_right(question, "so"), choice_index("B", question.choices)


TRIPLET = {
    **{"id": '"q1"', "question": '"Why?"', "answers": '["so"]', "relation": '""', "format": '"ScoreLetter"'},
    **{"right": '"so"', "wrong": '"no"', "others": '["oh"]', "model": '"m 1"'},
}


@pytest.mark.slow
@given(lines(objects(**TRIPLET)), lines(objects(**TRIPLET | {"answer": '"so"', "right": "true"})))
def test_files_to_train_on_are_examples_or_one_error(tmp_path_factory, triplets, answers):
    path = tmp_path_factory.getbasetemp() / "examples.jsonl"
    for content, loaded, kind in ((triplets, loaded_triplets, Triplet), (answers, loaded_answers, GradedAnswer)):
        path.write_bytes(content)
        try:
            found = loaded(path)
        except UserError as error:
            assert str(path) in str(error)
        else:
            assert found and all(isinstance(one, kind) and isinstance(one.model, str) for one in found)
            fingerprint(found)


RECORD = {"measure": '"jsd"', "set": "0", "id": '"q1"', "value": "0.5"}


@pytest.mark.slow
@given(lines(objects(**RECORD)), objects(identity='{"a": 1}', made_with="{}") | values.map(str.encode), st.booleans())
def test_the_files_of_a_run_are_read_or_one_error(tmp_path_factory, records, config, as_summary):
    folder = tmp_path_factory.getbasetemp() / "run"
    folder.mkdir(exist_ok=True)
    (folder / "records.jsonl").write_bytes(records + b"\n")
    (folder / "config.json").write_bytes(b"{}" if as_summary else config)
    (folder / "summary.json").write_bytes(config if as_summary else b"{}")
    try:
        parts = read_run(folder)
    except UserError as error:
        assert str(folder) in str(error)
    else:
        assert [type(part) for part in parts] == [dict, dict, list]
        for record in parts[2]:
            assert tuple(type(record[name]) for name in KEY) == (str, int, str)
            json.dumps(record, allow_nan=False).encode()
    try:
        with Run(folder, {"a": 1}) as run:
            assert run.done == {tuple(record[name] for name in KEY) for record in read_records(folder)}
    except UserError as error:
        assert str(folder) in str(error)


# Replies


@given(
    st.text() | st.text(alphabet="answerconfidAC:*_#>-= \n\t\"'.%0123456789"), st.sampled_from(list(FORMATS.values()))
)
def test_any_reply_is_read(text, confidence):
    reply = parsed_reply(text, confidence)
    assert reply.level is None or 0 <= reply.level < len(confidence.levels)
    assert reply.answer is None or reply.answer in text
    normalised(text)
    for question in (Question("q", "?", ("Paris", text or "x")), Question("q", "?", ("B", "y"), ("x", "y"))):
        if is_right(question, text):
            assert may_be_right(question, text)
    named = choice_index(text, ("x", "y"))
    assert named in (None, 0, 1)


@given(st.sampled_from(list(FORMATS.values())), st.data())
def test_a_level_is_read_within_any_frame(confidence, data):
    index = data.draw(st.integers(0, len(confidence.levels) - 1))
    frame = st.text(alphabet=" \t\n\"'*`\u00a0", max_size=4)
    before, after, end = data.draw(frame), data.draw(frame), data.draw(frame)
    assert confidence.level_of(f"{before}{confidence.levels[index].upper()}{after}.{end}") == index


LONG = 100_000
SHAPES = {
    "blanks": f"x{' ' * LONG}x",
    "quotes": f"x{chr(39) * LONG}x",
    "underscores": f"{'_' * LONG}x",
    "stars": f"{'*' * LONG}x*x",
    "stops": f"{'.' * LONG}x",
    "hyphens": f"{'-' * LONG}1",
    "single letters": "a " * LONG,
    "marks out of order": "a" + "\u0315\u0300" * LONG,
    "lines": "\n" * LONG + "x",
    "labels": "Answer: " * (LONG // 8),
    "letters after leads": "the answer is " * (LONG // 14) + "A",
    "open brackets": "(" * LONG + "A",
    "digits and commas": "1,000" + ",000" * (LONG // 4),
    "currencies": "5" + " $" * LONG + "x",
    "confidences": "Answer: x" + " confidence" * (LONG // 11),
    "latex": "\\boxed{" * (LONG // 7),
    "brackets": "(A)." + " " * LONG + "x",
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_a_long_reply_takes_time_in_proportion(shape):
    text = SHAPES[shape]
    begin = time.process_time()
    normalised(text), choice_index(text, ("x", "y"))
    FORMATS["ScoreText"].level_of(text), FORMATS["ScoreFloat"].level_of(f"0.9{'0' * LONG}{text}")
    answer_in(text), official(text)
    parsed_reply(text, FORMATS["ScoreText"]), parsed_reply(f"Answer: {text}\nConfidence: {text}", FORMATS["ScoreText"])
    may_be_right(Question("q", "?", ("Paris",)), text), may_be_right(Question("q", "?", (text,)), "Paris")
    assert time.process_time() - begin < 20, "of processor time; what is quadratic takes minutes"


@pytest.mark.slow
def test_an_id_that_stands_twice_is_found_in_a_long_file(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text("".join(f'{{"id": {i}, "question": "Q?", "answers": ["x"]}}\n' for i in [*range(30_000), 29_999]))
    begin = time.process_time()
    with pytest.raises(UserError, match="the id '29999' stands there twice"):
        loaded_questions(str(path))
    assert time.process_time() - begin < 20, "of processor time; what is quadratic takes minutes"


# Options


@given(st.text() | st.tuples(st.sampled_from((*OURS, "x", "tools")), values).map("=".join))
@example(f"x={DEEP}")
@example("x=1e400")
def test_any_template_argument_is_a_value_or_one_error(argument):
    try:
        found = template_arguments([argument])
    except UserError:
        return
    ((name, value),) = found.items()
    assert name.isidentifier() and name not in OURS and argument.startswith(f"{name}=")
    assert not isinstance(value, float) or math.isfinite(value)


@given(st.text(st.characters(), max_size=20) | st.sampled_from(("~nobody/x", "a" * 300, "/" * 5000, "a/" * 3000, "\0")))
@example("x\ud800.gguf")
@example("~\0")
def test_any_checkpoint_is_a_place_or_one_error(ckpt):
    try:
        assert isinstance(source_of(ckpt), Source)
    except UserError as error:
        assert len(str(error)) < 5000


@pytest.mark.slow
def test_arguments_that_are_not_utf8_and_messages_with_escapes_end_in_one_line(tmp_path):
    for argument, said in (
        (b"\xff.jsonl", r"\udcff.jsonl: not UTF-8 text"),
        (b"\x1b[31m\n.jsonl", r"\x1b[31m\n.jsonl"),
    ):
        command = [sys.executable, "-m", "interp.jsd", "--data", argument]
        root = str(Path(__file__).parents[1])
        done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True, check=False)
        told = done.stderr.decode()
        assert (done.returncode, done.stdout, told.count("\n")) == (2, b"", 1) and said in told and "\x1b" not in told


# Chat templates

PARTS = (
    *(
        "{{ messages }}",
        "{{ m }}",
        "{{ m.content }}",
        "{{ m['role'] }}",
        "{{ messages[0].content }}",
        "{{ messages[1] }}",
    ),
    *("{% for m in messages %}", "{% for m in messages | reverse %}", "{% endfor %}", "{% if m.x %}", "{% else %}"),
    *(
        "{% endif %}",
        "{% set x = 1 / 0 %}",
        "{% set x = [] + 1 %}",
        "{{ nothing.x }}",
        "{{ nothing() }}",
        "{{ 'x' * 99 }}",
    ),
    *("{% for i in range(10 ** 9) %}", "{{ m.content | lower }}", "{{ m.content | trim }}", "{{ m.content[::-1] }}"),
    *(
        "{{ raise_exception('no\n\x1b[31m') }}",
        "{% include 'x' %}",
        "{% import 'os' as o %}",
        "{# x #}",
        "{{ bos_token }}",
    ),
    *("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ strftime_now(5) }}", "{{ strftime_now('%Y') }}", "\ud800"),
    *(
        "{% if 'Why' in m.content %}{{ 1 / 0 }}{% endif %}",
        "{{ m.content | tojson }}",
        "x",
        "\n",
        "<|start|>",
        "{{",
        "%}",
    ),
)


@pytest.fixture
def hostile_tokenizer(tiny_tokenizer):
    """A tokenizer whose template a test may change."""
    return copy.deepcopy(tiny_tokenizer())


@pytest.mark.slow
@given(st.lists(st.sampled_from(PARTS), max_size=8).map("".join) | st.text(alphabet="{%}m '[]|.0x", max_size=30))
@example(CHATML.replace("in messages", "in messages | reverse"))
@example(CHATML + CHATML)
@example(CHATML.replace("m['content']", "m['content'] | replace('Why', 'What')"))
@settings(suppress_health_check=IN_ONE_PLACE)
def test_any_chat_template_renders_all_of_the_question_or_is_one_error(hostile_tokenizer, template):
    hostile_tokenizer.chat_template = template
    question = Question("q", "Why?", ("so",))
    try:
        found = Prompter(hostile_tokenizer, FORMATS["ScoreNumber"]).transcript(question, "so")
    except UserError as error:
        assert "\x1b" not in str(error) and len(str(error)) < 600
        return
    owned = {name: "".join(found.pieces[i] for i in found.positions(name)) for name in ("question", "instruction")}
    assert "Why?" in owned["question"] and "Answer the question" in owned["instruction"]
    assert found.text.count("Question: Why?") == 1 and found.text.endswith(" so\nConfidence:")


@pytest.mark.parametrize("template", [5, [1], {"other": "x"}, "\ud800" + CHATML, CHATML + "{{ '\\ud800' }}"], ids=ascii)
def test_a_template_that_is_no_template_is_one_error(hostile_tokenizer, template):
    hostile_tokenizer.chat_template = template
    with pytest.raises(UserError, match=r"tiny-digits-system: the chat template (cannot render|writes half)"):
        Prompter(hostile_tokenizer, FORMATS["ScoreNumber"]).transcript(Question("q", "Why?", ("so",)))


@given(st.text(min_size=1))
@settings(suppress_health_check=IN_ONE_PLACE)
def test_a_printed_prompt_sends_nothing_but_its_own_colours_to_the_terminal(text):
    transcript = Transcript(text, (1,), ("question",), (text,))
    plain = coloured(transcript, colour=False)
    assert not CONTROL.search(plain.replace("\n", "")) and "\r" not in plain
    assert coloured(transcript).count("\x1b") == 6
    assert plain.startswith("[question]" + "\n".join(map(visible, text.split("\n"))) + "|")


# Checkpoints


numbers = st.sampled_from((None, True, 0, -1, 7, 2**63, 10**30, 0.5, "", "x", "\0", "llama", [], [1], {}, {"a": 1}))
ADDED = ("auto_map", "tokenizer_class", "architectures", "quantization_config", "attn_implementation", "chat_template")


def spoilt(data: st.DataObject, folder: Path) -> None:
    """One file of a checkpoint is cut, overwritten in places, or has another value somewhere in its JSON."""
    file = folder / data.draw(st.sampled_from(sorted(path.name for path in folder.iterdir())))
    content = file.read_bytes()
    way = data.draw(st.sampled_from(("cut", "bytes", "value", "value")))
    if way == "cut":
        content = content[: data.draw(st.integers(0, len(content)))]
    elif way == "value" and file.suffix == ".json":
        found = json.loads(content)
        node, keys = found, sorted(set(found) - {"num_hidden_layers"})
        while data.draw(st.booleans()) and isinstance(inner := node[data.draw(st.sampled_from(keys))], dict) and inner:
            node, keys = inner, sorted(inner)
        node[data.draw(st.sampled_from((*keys, *ADDED)))] = data.draw(numbers)
        content = json.dumps(found).encode()
    else:
        for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=5)):
            content = content[:place] + bytes([byte]) + content[place + 1 :]
    file.write_bytes(content)


@given(st.data())
@settings(examples(12), suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_checkpoint_or_adapter_can_be_asked_or_is_one_error(
    tiny_checkpoint, tiny_adapter, tmp_path_factory, data
):
    import torch

    base = tiny_checkpoint("llama")
    source = data.draw(st.sampled_from((base, tiny_adapter("llama"))))
    folder = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    spoilt(data, folder)
    try:
        checkpoint = loaded_checkpoint(str(folder), Loading(device="cpu"))
        prompter = Prompter(checkpoint.tokenizer, FORMATS["ScoreNumber"], max_length=checkpoint.context)
        transcript = prompter.transcript(Question("q", "Why?", ("so",)), "so")
        assert prompter.shared_prefix and len(prompter.level_suffixes(transcript)) == 10 and checkpoint.eos_ids
        with torch.no_grad():
            checkpoint.model(input_ids=torch.tensor([transcript.ids]))
    except UserError as error:
        assert len(str(error)) < 1000 and "\n" not in str(error)


@pytest.mark.slow
@given(values, values)
def test_any_configuration_names_a_source_or_is_one_error(tmp_path_factory, config, adapter):
    folder = tmp_path_factory.getbasetemp() / "configured"
    for path, name, content in (
        (folder, "config.json", config),
        (folder / "on", "adapter_config.json", f'{{"base_model_name_or_path": {adapter}}}'),
        (folder / "odd", "adapter_config.json", adapter),
    ):
        path.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
        (path / f"{name.split('_')[0].removesuffix('.json')}_model.safetensors").touch()
        try:
            assert isinstance(source_of(str(path)), Source)
        except UserError as error:
            assert "configured" in str(error) or "--ckpt" in str(error)


def test_adapters_in_a_ring_and_on_the_example_are_refused(tmp_path):
    for name, base in (("a", "../b"), ("b", "../a"), ("self", "."), ("example", "smollm2-135m-advice")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").touch()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    for name in ("a", "b", "self", "example"):
        with pytest.raises(UserError, match="is itself an adapter"):
            source_of(str(tmp_path / name))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        *({"peft_type": kind} for kind in ("NONE", "IA3", "LOHA", "PROMPT_TUNING", "XLORA", 5, None, [])),
        *({"r": 0}, {"r": 3}, {"r": "x"}, {"target_modules": ["no"]}, {"target_modules": 5}, {"task_type": "X"}),
        *({"layers_to_transform": [99]}, {"use_dora": True}, {"rank_pattern": {"q_proj": 5}}, {"lora_alpha": "x"}),
        *({"modules_to_save": ["lm_head"]}, {"layer_replication": [[0, 9]]}, {"megatron_config": {"a": 1}}),
    ],
    ids=str,
)
def test_an_adapter_that_would_not_do_what_was_trained_is_refused(tiny_adapter, tmp_path, change):
    """Also one whose weights have other names: peft goes on with an adapter that changes nothing, and a warning."""
    folder = shutil.copytree(tiny_adapter("llama"), tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=r"does not fit its base model|Megatron") as raised:
        loaded_checkpoint(str(folder), Loading(device="cpu"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("end", ["x", [[]], 0.5, {"a": 1}, 10**6, -1, 2**63], ids=str)
def test_a_token_that_does_not_exist_ends_no_turn(tiny_checkpoint, tmp_path, end):
    folder = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "ends")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    with pytest.raises(UserError, match=r"which does not exist|could not be loaded"):
        assert loaded_checkpoint(str(folder), Loading(device="cpu")).eos_ids


def test_a_tokenizer_of_another_model_is_refused(tiny_checkpoint, tmp_path):
    from transformers import AutoTokenizer

    folder = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "larger")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    assert loaded_checkpoint(str(folder), Loading(device="cpu")).eos_ids, "control tokens stand in no text"
    tokenizer.add_tokens(["Why?"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"has 1 tokens that the model lacks, such as 'Why\?'"):
        loaded_checkpoint(str(folder), Loading(device="cpu"))


# GGUF


def headers() -> list[bytes]:
    """Beginnings of GGUF files whose counts and lengths promise far more than there is."""
    huge = (0, 1, 2**16, 2**40, 2**64 - 1)
    plain = [
        b"GGUF" + struct.pack("<IQQ", version, tensors, pairs)
        for version in (1, 3, 2**32 - 1)
        for tensors in huge
        for pairs in huge
    ]
    pair = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    key = pair + struct.pack("<Q", 1) + b"x"
    return [
        *plain,
        pair + struct.pack("<Q", 2**40) + b"x",
        key + struct.pack("<IQ", 8, 2**40),
        key + struct.pack("<IIQ", 9, 4, 2**40),
        key + struct.pack("<IIQ", 9, 9, 2**20) * 1000,
    ]


@given(st.data())
@settings(examples(20), suppress_health_check=IN_ONE_PLACE)
def test_a_damaged_gguf_file_is_a_model_or_one_error(tmp_path, monkeypatch, data):
    monkeypatch.setenv("ADVICE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "whole.gguf"
    content = (path if path.exists() else write_tiny_gguf(path)).read_bytes()
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 255)), max_size=5)):
            content = content[:place] + bytes([byte]) + content[place + 1 :]
    (tmp_path / "damaged.gguf").write_bytes(content)
    try:
        assert (gguf_checkpoint(tmp_path / "damaged.gguf") / "config.json").is_file()
    except UserError as error:
        assert "damaged.gguf" in str(error) and "\n" not in str(error) and len(str(error)) < 700


@pytest.mark.parametrize("field", ["block_count", "embedding_length", "feed_forward_length"])
def test_a_gguf_header_that_names_more_weights_than_the_file_holds_makes_none_of_them(tmp_path, monkeypatch, field):
    monkeypatch.setenv("ADVICE_CACHE", str(tmp_path / "cache"))
    content = write_tiny_gguf(tmp_path / "whole.gguf").read_bytes()
    before = content.index(f"llama.{field}".encode()) + len(f"llama.{field}") + 4  # the name, then the kind of value
    (tmp_path / "damaged.gguf").write_bytes(content[:before] + struct.pack("<I", 2**24) + content[before + 4 :])
    with pytest.raises(UserError, match=r"damaged\.gguf is damaged: its header names .* weights, in a file of"):
        gguf_checkpoint(tmp_path / "damaged.gguf")


@pytest.mark.slow
def test_no_header_of_a_gguf_file_takes_the_memory_that_it_promises(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVICE_CACHE", str(tmp_path / "cache"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, header in enumerate(headers()):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(header)
        with pytest.raises(UserError, match=r"\.gguf"):
            gguf_checkpoint(path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 1e9, f"{grown / 1e9:.1f} GB more at its highest"
