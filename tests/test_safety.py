"""Nothing executes what a checkpoint brings. Every payload is shown to work where it is executed on purpose."""

import copy
import json
import os
import pickle
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from test_embedded import write_tiny_gguf

from interp.errors import UserError
from interp.formats import FORMATS
from interp.models.checkpoints import Loading, loaded_checkpoint, loaded_tokenizer, source_of
from interp.models.embedded import gguf_checkpoint
from interp.models.prompts import Prompter
from interp.records import Question

CLASSES = """
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

class Config(LlamaConfig): pass

class Model(LlamaForCausalLM): config_class = Config

class Tokenizer(PreTrainedTokenizerFast): pass
"""


class Payload:
    """A pickle that makes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path):
    """What a payload makes; the test fails where it is there at the end."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "the payload was executed"


def executed(marker: Path) -> bool:
    """Whether the payload was; it then counts as not."""
    there = marker.exists()
    if there:
        marker.rmdir()
    return there


def pickled(marker: Path, path: Path) -> Path:
    torch.save({"weight": Payload(marker), "state": {}}, path)
    return path


def code(marker: Path, folder: Path, name: str = "own") -> None:
    """A module beside the checkpoint that makes the marker when it is imported, and has classes of its own."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(f"import os\nos.makedirs({str(marker)!r}, exist_ok=True)\n{CLASSES}")


def changed(file: Path, **fields: object) -> None:
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | fields))


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path) -> Path:
    """A whole checkpoint that a test may change."""
    return shutil.copytree(tiny_checkpoint("llama"), tmp_path / "checkpoint")


@pytest.fixture
def adapter(tiny_adapter, tmp_path) -> Path:
    """A whole adapter that a test may change."""
    return shutil.copytree(tiny_adapter("llama"), tmp_path / "adapter")


# Pickles


def test_the_pickle_executes_where_it_is_unpickled(marker, tmp_path):
    torch.load(pickled(marker, tmp_path / "x.pt"), weights_only=False)
    assert executed(marker)
    pickle.loads(pickle.dumps(Payload(marker)))
    assert executed(marker)


PICKLES = ("pytorch_model.bin", "model.pt", "training_args.bin", "optimizer.pt", "rng_state.pth", "adapter_model.bin")


def test_pickles_beside_safetensors_are_not_opened(marker, checkpoint, adapter):
    for name in PICKLES:
        pickled(marker, checkpoint / name), pickled(marker, adapter / name)
    loaded_checkpoint(str(checkpoint), Loading(device="cpu")), loaded_checkpoint(str(adapter), Loading(device="cpu"))
    assert not executed(marker)
    for path in (folder / name for folder in (checkpoint, adapter) for name in PICKLES):
        torch.load(path, weights_only=False)
        assert executed(marker), f"the payload of {path} does not work"


def alone(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    pickled(marker, folder / "pytorch_model.bin")


def among_others(folder: Path, marker: Path) -> None:
    alone(folder, marker)
    (folder / "other.safetensors").touch()


def as_a_shard(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    pickled(marker, folder / "shard.bin")
    shards = {"metadata": {}, "weight_map": {"model.norm.weight": "shard.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))


def by_another_name(folder: Path, marker: Path) -> None:
    pickled(marker, folder / "model.safetensors")


@pytest.mark.parametrize("put", [alone, among_others, as_a_shard, by_another_name])
def test_pickled_weights_are_refused_wherever_they_stand(marker, checkpoint, put):
    put(checkpoint, marker)
    with pytest.raises(UserError) as raised:
        loaded_checkpoint(str(checkpoint), Loading(device="cpu"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors"])
def test_a_pickled_adapter_is_refused(marker, adapter, name):
    (adapter / "adapter_model.safetensors").unlink()
    pickled(marker, adapter / name)
    with pytest.raises(UserError, match=r"pickled weights are not loaded|does not fit"):
        loaded_checkpoint(str(adapter), Loading(device="cpu"))


# Code


def of_the_model(folder: Path) -> None:
    changed(
        folder / "config.json",
        auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    )


def of_the_tokenizer(folder: Path) -> None:
    changed(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "own.Tokenizer"]})


def of_a_tokenizer_without_a_known_class(folder: Path) -> None:
    of_the_tokenizer(folder)
    changed(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer")


@pytest.mark.parametrize("put", [of_the_model, of_the_tokenizer, of_a_tokenizer_without_a_known_class])
def test_code_is_imported_only_where_it_is_asked_for(marker, checkpoint, put, monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    code(marker, checkpoint)
    put(checkpoint)
    try:
        loaded_checkpoint(str(checkpoint), Loading(device="cpu"))
    except UserError as error:
        assert "code" in str(error)
    assert not executed(marker)
    loaded_checkpoint(str(checkpoint), Loading(device="cpu", remote_code=True))
    assert executed(marker), "the payload does not work"


def test_code_of_an_adapters_base_or_tokenizer_is_not_imported_either(marker, checkpoint, adapter):
    code(marker, checkpoint), code(marker, adapter)
    changed(adapter / "adapter_config.json", base_model_name_or_path=str(checkpoint))
    of_a_tokenizer_without_a_known_class(adapter)
    with pytest.raises(UserError, match="code"):
        loaded_tokenizer(str(adapter))
    of_the_model(checkpoint)
    with pytest.raises(UserError, match="code"):
        source_of(str(adapter))


@pytest.mark.slow
def test_code_without_a_word_of_it_is_not_found(marker, checkpoint, open_questions):
    """A way of generating, and modules named like transformers' own."""
    from interp.models.setting import prepared

    code(marker, checkpoint / "custom_generate", "generate")
    changed(checkpoint / "generation_config.json", custom_generate=".")
    for name in ("modeling_llama", "tokenization_llama", "configuration_llama", "conversation"):
        code(marker, checkpoint, name)
    setting = prepared(loaded_checkpoint(str(checkpoint), Loading(device="cpu")), FORMATS["ScoreNumber"])
    (continuation,) = setting.generator.greedy([setting.prompter.transcript(open_questions[0]).ids])
    assert continuation.tokens > 0 and not executed(marker)
    for path in checkpoint.rglob("*.py"):
        runpy.run_path(str(path))
        assert executed(marker), f"the payload of {path} does not work"


PROMPT = {
    **{"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "x"},
    **{"num_virtual_tokens": 2, "tokenizer_name_or_path": ".", "tokenizer_kwargs": {"trust_remote_code": True}},
}
"""An adapter that would have a tokenizer loaded, with the code that it brings."""


@pytest.mark.parametrize(
    ("fields", "loads"),
    [
        ({"auto_mapping": {"base_model_class": "Own", "parent_library": "own"}}, True),
        ({"megatron_config": {"a": 1}, "megatron_core": "own"}, False),
        ({"megatron_config": {"a": 1}, "megatron_core": "megatron.own"}, False),
        (PROMPT, False),
        ({"init_lora_weights": "corda", "corda_config": {"cache_file": "x.pt", "covariance_file": "x.pt"}}, False),
        ({"init_lora_weights": "lora_ga", "lora_ga_config": {"cache_file": "x.pt"}}, True),
    ],
    ids=str,
)
def test_an_adapters_configuration_names_no_module_and_no_pickle_that_is_read(
    marker, adapter, monkeypatch, fields, loads
):
    code(marker, adapter), code(marker, adapter / "megatron")
    pickled(marker, adapter / "x.pt")
    monkeypatch.syspath_prepend(adapter)
    monkeypatch.chdir(adapter)
    changed(adapter / "adapter_config.json", **fields)
    try:
        loaded_checkpoint(str(adapter), Loading(device="cpu"))
    except UserError:
        assert not loads
    assert not executed(marker)
    runpy.run_path(str(adapter / "own.py"))
    assert executed(marker), "the payload does not work"


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("config.json", {"architectures": ["os.system"]}),
        ("config.json", {"architectures": ["NoSuchModel"]}),
        ("tokenizer_config.json", {"tokenizer_class": "NoSuchTokenizer"}),
        ("tokenizer_config.json", {"tokenizer_class": "os.system"}),
        ("config.json", {"attn_implementation": "own/kernel"}),
        ("config.json", {"model_type": "../own"}),
        ("config.json", {"quantization_config": {"quant_method": "own"}}),
    ],
    ids=str,
)
def test_a_class_that_does_not_exist_is_passed_over_or_refused(marker, checkpoint, monkeypatch, file, fields):
    code(marker, checkpoint)
    monkeypatch.chdir(checkpoint)
    changed(checkpoint / file, **fields)
    try:
        loaded_checkpoint(str(checkpoint), Loading(device="cpu"))
    except UserError as error:
        assert "\n" not in str(error)


# Chat templates

REACHES = (
    "{{ cycler.__init__.__globals__.os.mkdir(MARKER) }}",
    "{{ lipsum.__globals__['os'].mkdir(MARKER) }}",
    "{{ joiner.__init__.__globals__['os'].mkdir(MARKER) }}",
    "{{ namespace.__init__.__globals__['os'].mkdir(MARKER) }}",
    "{{ (''.__class__.__mro__[1].__subclasses__() | map(attribute='__init__') | list)[0].__globals__ }}",
    "{{ self.__init__.__globals__['__builtins__']['__import__']('os').mkdir(MARKER) }}",
    "{{ raise_exception.__globals__['os'].mkdir(MARKER) }}",
    "{{ strftime_now.__globals__['os'].mkdir(MARKER) }}",
    "{{ messages | attr('__class__') | attr('__base__') | attr('__subclasses__')() }}",
    "{{ '{0.__class__.__base__}'.format(messages) }}",
    "{% import 'os' as os %}{{ os.mkdir(MARKER) }}",
    "{% include '/etc/passwd' %}",
    "{% extends '/etc/passwd' %}",
)
CHANGES = (
    "{% set _ = messages.append({'role': 'user', 'content': 'x'}) %}",
    "{% set _ = messages.clear() %}",
    "{% set _ = messages[0].update({'content': 'x'}) %}",
    "{% set _ = messages.pop() %}",
    "{% set _ = messages.sort() %}",
)
CHATML = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize("template", [*REACHES, *(change + CHATML for change in CHANGES)])
def test_a_template_that_reaches_out_of_its_sandbox_is_one_error(marker, tiny_tokenizer, template):
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = template.replace("MARKER", repr(str(marker))) + CHATML
    prompter = Prompter(tokenizer, FORMATS["ScoreNumber"])
    with pytest.raises(UserError, match="the chat template cannot render these turns") as raised:
        prompter.transcript(Question("q", "Why?", ("so",)), "so")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("template", REACHES[:4])
def test_the_same_template_executes_outside_of_a_sandbox(marker, template):
    from jinja2 import Environment

    Environment().from_string(template.replace("MARKER", repr(str(marker)))).render(messages=[])
    assert executed(marker)


def test_a_template_may_keep_what_it_has_counted(tiny_tokenizer):
    """A namespace is the template's own: changing it is no way out."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = "{% set n = namespace(i=0) %}{% set n.i = n.i + 1 %}{{ n.i }}" + CHATML
    found = Prompter(tokenizer, FORMATS["ScoreNumber"]).transcript(Question("q", "Why?", ("so",)))
    assert found.text.startswith("1system: ")


def test_the_template_of_a_gguf_file_is_in_the_same_sandbox(marker, tmp_path, monkeypatch):
    monkeypatch.setenv("ADVICE_CACHE", str(tmp_path / "cache"))
    template = REACHES[0].replace("MARKER", repr(str(marker)))
    folder = gguf_checkpoint(write_tiny_gguf(tmp_path / "own.gguf", template=template))
    tokenizer, _ = loaded_tokenizer(str(folder))
    assert tokenizer.chat_template == template
    with pytest.raises(UserError, match="the chat template cannot render these turns"):
        Prompter(tokenizer, FORMATS["ScoreNumber"]).transcript(Question("q", "Why?", ("so",)))


# Training


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt"])
def test_a_payload_in_a_state_of_training_is_refused(marker, tmp_path, name):
    from safetensors.torch import save_file
    from transformers import TrainerState

    from training.loop import refuse_unreadable

    state = tmp_path / "checkpoint-2"
    state.mkdir()
    TrainerState().save_to_json(str(state / "trainer_state.json"))
    save_file({"x": torch.zeros(1)}, state / "adapter_model.safetensors")
    torch.save({"state": torch.zeros(1)}, state / "optimizer.pt")
    pickled(marker, state / "training_args.bin")
    refuse_unreadable(state)
    pickled(marker, state / name)
    with pytest.raises(UserError, match=r"checkpoint-2: cannot be read .*remove it") as raised:
        refuse_unreadable(state)
    assert "\n" not in str(raised.value)
