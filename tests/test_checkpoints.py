"""--ckpt: what is meant, what is refused before anything is loaded, and what a loaded checkpoint is."""

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import FAMILIES

from interp.errors import UserError
from interp.formats import FORMATS
from interp.instruments import attribution, jsd, masking, rollout
from interp.models import checkpoints
from interp.models.checkpoints import EXAMPLE_NAME, Checkpoint, Loading, loaded_checkpoint, source_of
from interp.models.embedded import EMBEDDED_NAME, EMBEDDED_NOTE
from interp.models.hooks import HookedModel
from interp.models.setting import Case, prepared


def directory(folder: Path, **files: object) -> Path:
    """A directory with the named files; a dictionary becomes JSON, "__" in a name a full stop."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = json.dumps(content) if isinstance(content, dict) else str(content)
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def adapter(folder: Path, base: object) -> Path:
    return directory(folder, adapter_config__json={"base_model_name_or_path": base}, adapter_model__safetensors="")


def model(folder: Path, **config: object) -> Path:
    return directory(folder, config__json={"model_type": "llama", **config}, model__safetensors="")


# What is meant


@pytest.mark.parametrize(
    ("ckpt", "name", "revision"),
    [
        ("owner/model-7B_v0.1", "owner/model-7B_v0.1", None),
        ("owner/model@main", "owner/model", "main"),
        ("owner/model@refs/pr/3", "owner/model", "refs/pr/3"),
        ("gpt2", "gpt2", None),
        ("gpt2@607a30d", "gpt2", "607a30d"),
    ],
)
def test_a_hub_id_may_carry_a_revision(ckpt, name, revision):
    source = source_of(ckpt)
    assert (source.model, source.revision, source.adapter, source.note, source.shots) == (name, revision, None, "", 0)


@pytest.mark.parametrize(
    "ckpt",
    [
        " ",
        "../missing",
        "./missing",
        "-x/y",
        "a/b/c",
        "owner/",
        "/no/such/place",
        "own er/model",
        "a@",
        "owner/model@",
        "https://x.y/z",
    ],
)
def test_what_is_neither_a_place_nor_a_hub_id_is_refused_by_name(ckpt):
    with pytest.raises(UserError, match=r"neither a directory, a \.gguf file, a hub id, smollm2-135m-instruct nor"):
        source_of(ckpt)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("x")
    with pytest.raises(UserError, match="neither a directory"):
        source_of(str(path))
    with pytest.raises(UserError, match="there is no such file"):
        source_of(str(tmp_path / "missing.gguf"))
    (tmp_path / "fake.gguf").write_text("text")
    with pytest.raises(UserError, match="not a GGUF file"):
        source_of(str(tmp_path / "fake.gguf"))


def test_the_embedded_models_numbers_carry_its_precision_and_its_examples(monkeypatch):
    monkeypatch.setattr(checkpoints, "embedded_checkpoint", lambda: Path("somewhere"))
    source = source_of(EMBEDDED_NAME)
    assert (source.model, source.note, source.shots) == ("somewhere", EMBEDDED_NOTE, 3)


def test_the_example_is_a_small_adapter_on_the_embedded_model_with_its_card(monkeypatch):
    monkeypatch.setattr(checkpoints, "embedded_checkpoint", lambda: Path("somewhere"))
    source = source_of(EXAMPLE_NAME)
    assert (source.model, source.base_name, source.shots) == ("somewhere", EMBEDDED_NAME, 3)
    assert sum(file.stat().st_size for file in source.adapter.iterdir()) < 5_000_000
    card = (source.adapter / "README.md").read_text()
    assert EMBEDDED_NOTE in card and "## Before and after" in card and "python -m training.advice" in card


def test_a_directory_comes_before_a_hub_id_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert source_of("owner/model").model == "owner/model"
    with pytest.raises(UserError, match=r"neither config\.json"):
        source_of(str(directory(tmp_path / "owner" / "model").relative_to(tmp_path)))


# What is refused before anything is loaded


def test_a_directory_without_a_model_says_what_it_lacks(tmp_path):
    with pytest.raises(UserError, match=r"neither config\.json nor adapter_config\.json"):
        source_of(str(directory(tmp_path / "empty", readme="x")))
    with pytest.raises(UserError, match="holds no weights"):
        source_of(str(directory(tmp_path / "bare", config__json={})))
    assert source_of(str(model(tmp_path / "whole"))).model == str(tmp_path / "whole")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_a_checkpoint_of_pickles_alone_is_refused_and_named(tmp_path, name):
    folder = directory(tmp_path / "old", config__json={})
    (folder / name).write_bytes(b"\x80")
    with pytest.raises(UserError, match=f"only pickled weights \\({name}\\); convert them to safetensors"):
        source_of(str(folder))
    (folder / "model.safetensors").write_bytes(b"")
    assert source_of(str(folder)).model == str(folder), "pickles beside safetensors are not read"


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_an_unreadable_configuration_is_one_sentence(tmp_path, text):
    folder = model(tmp_path / "odd")
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json: not"):
        source_of(str(folder))


def test_code_of_a_checkpoint_runs_only_when_it_is_asked_for(tmp_path):
    folder = model(tmp_path / "own", auto_map={"AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(UserError, match="brings code of its own; read it, then pass --trust-remote-code"):
        source_of(str(folder))
    assert source_of(str(folder), remote_code=True).model == str(folder)
    with pytest.raises(UserError, match="brings code of its own"):
        source_of(str(adapter(tmp_path / "on-it", str(folder))))


# Adapters


def test_an_adapter_finds_its_base_by_path_by_a_path_from_itself_and_by_hub_id(tmp_path):
    base = model(tmp_path / "base")
    for named, expected in ((str(base), str(base)), ("../base", str(tmp_path / "lora" / "../base")), ("o/m", "o/m")):
        source = source_of(str(adapter(tmp_path / "lora", named)))
        assert (source.model, source.adapter) == (expected, tmp_path / "lora")
    assert Path(expected := source_of(str(adapter(tmp_path / "lora", "../base"))).model).resolve() == base.resolve(), (
        expected
    )


def test_an_adapter_on_the_embedded_model_keeps_its_note_and_its_examples(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "embedded_checkpoint", lambda: Path("somewhere"))
    source = source_of(str(adapter(tmp_path / "lora", EMBEDDED_NAME)))
    assert (source.model, source.note, source.shots) == ("somewhere", EMBEDDED_NOTE, 3)
    assert source.adapter == tmp_path / "lora"


@pytest.mark.parametrize("base", ["/no/such/base", "../missing", ""])
def test_an_adapter_without_its_base_names_both(tmp_path, base):
    folder = adapter(tmp_path / "lora", base)
    with pytest.raises(UserError) as raised:
        source_of(str(folder))
    assert str(folder) in str(raised.value) and base in str(raised.value)
    assert "base model" in str(raised.value)


@pytest.mark.parametrize("base", [None, 7, ["x"]])
def test_an_adapter_that_names_no_base_is_refused(tmp_path, base):
    with pytest.raises(UserError, match="names no base model"):
        source_of(str(adapter(tmp_path / "lora", base)))


def test_an_adapter_on_an_adapter_and_one_on_itself_are_refused(tmp_path):
    base = model(tmp_path / "base")
    first = adapter(tmp_path / "first", str(base))
    with pytest.raises(UserError, match="is itself an adapter; merge that one first"):
        source_of(str(adapter(tmp_path / "second", str(first))))
    with pytest.raises(UserError, match="is itself an adapter"):
        source_of(str(adapter(tmp_path / "loop", ".")))


def test_a_pickled_adapter_is_refused(tmp_path):
    folder = adapter(tmp_path / "lora", "o/m")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors; pickled weights are not loaded"):
        source_of(str(folder))


# What is loaded


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    ids = checkpoint.tokenizer("Question: What is the capital of France?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return checkpoint.model(input_ids=ids).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_comes_back_frozen_and_bit_for_bit(tiny_loaded, tiny_model, family):
    checkpoint = tiny_loaded(family)
    assert torch.equal(logits(checkpoint), logits(Checkpoint("x", tiny_model(family), checkpoint.tokenizer)))
    assert not checkpoint.model.training and not any(p.requires_grad for p in checkpoint.model.parameters())
    assert checkpoint.model.dtype == torch.float32 and checkpoint.context == 1024


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_an_adapter_is_put_on_its_base_and_changes_what_it_says(tiny_loaded, tiny_adapter, family):
    base, adapted = tiny_loaded(family), loaded_checkpoint(str(tiny_adapter(family)), Loading(device="cpu"))
    assert not adapted.model.training and not any(p.requires_grad for p in adapted.model.parameters())
    assert adapted.context == base.context and adapted.line_ends == base.line_ends
    assert (logits(base) - logits(adapted)).abs().max() > 0.01
    with adapted.model.disable_adapter():
        assert torch.equal(logits(base), logits(adapted))


def test_turns_and_lines_end_a_reply(tiny_loaded):
    checkpoint = tiny_loaded("llama")
    tokens = checkpoint.tokenizer.convert_ids_to_tokens([*checkpoint.eos_ids, *checkpoint.line_ends])
    assert "<|end|>" in tokens and "Ċ" in tokens
    assert all(token == "<|end|>" or token.startswith("Ċ") for token in tokens)


def test_a_blank_or_a_full_stop_within_the_token_of_a_lines_end_ends_it_too(tiny_model):
    vocabulary = [
        "Ċ",
        "ĊĊ",
        "ĠĊ",
        ".Ċ",
        ".ĊĊ",
        "Ġ.Ċ",
        "\n\n",
        " \n",
        "▁\n",
        ".\n",
        "<0x0A>",
        "čĊ",
        "Ġ",
        ".",
        "..Ċ",
        "aĊ",
    ]
    tokenizer = SimpleNamespace(get_vocab=lambda: {token: index for index, token in enumerate(vocabulary)})
    ends = Checkpoint("x", tiny_model("llama"), tokenizer).line_ends
    assert [vocabulary[index] for index in ends] == vocabulary[:12]


def test_sentencepieces_byte_for_a_line_ends_a_reply_too(tiny_model, tiny_tokenizer):
    checkpoint = Checkpoint("x", tiny_model("llama"), tiny_tokenizer("pieces"))
    assert checkpoint.tokenizer.convert_tokens_to_ids("<0x0A>") in checkpoint.line_ends


def test_the_fingerprint_follows_the_weights_and_not_the_place(tiny_checkpoint, tiny_loaded, tmp_path):
    copy = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "copy")
    assert loaded_checkpoint(str(copy), Loading(device="cpu")).fingerprint == tiny_loaded("llama").fingerprint
    weights = copy / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[len(raw) // 2] ^= 1
    weights.write_bytes(raw)
    changed = loaded_checkpoint(str(copy), Loading(device="cpu")).fingerprint
    kinds = {changed, tiny_loaded("llama").fingerprint, tiny_loaded("llama", adapter=True).fingerprint}
    assert len(kinds) == 3


def narrowed(config: Path) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 64}))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}"), "could not be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "could not be loaded"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "never-heard-of"}'), "could not be loaded"),
        (lambda folder: (folder / "config.json").write_text("{}"), "could not be loaded"),
        (lambda folder: narrowed(folder / "config.json"), "could not be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "could not be loaded"),
    ],
    ids=["torn weights", "empty weights", "unknown architecture", "no architecture", "another width", "torn tokenizer"],
)
def test_a_damaged_checkpoint_is_one_sentence(tiny_checkpoint, tmp_path, spoil, reason):
    folder = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "damaged")
    spoil(folder)
    with pytest.raises(UserError, match=reason) as raised:
        loaded_checkpoint(str(folder), Loading(device="cpu"))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


def test_a_checkpoint_without_some_of_its_weights_is_refused(tiny_checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "holed")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks .*model\.layers\.1\.mlp\.up_proj\.weight"):
        loaded_checkpoint(str(folder), Loading(device="cpu"))


def test_an_adapter_of_another_model_is_refused(tiny_adapter, tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_adapter("llama"), tmp_path / "lora")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tiny_checkpoint("gpt_neox"))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="does not fit its base model"):
        loaded_checkpoint(str(folder), Loading(device="cpu"))


def test_a_hub_id_that_cannot_be_reached_is_one_sentence():
    with pytest.raises(UserError, match=r"--ckpt no-such-owner/no-such-model: .* could not be loaded") as raised:
        loaded_checkpoint("no-such-owner/no-such-model", Loading(device="cpu"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("device", ["gpu", "cuda:99" if not torch.cuda.is_available() else "npu", ""])
def test_a_device_that_is_not_there_is_refused_with_what_there_is(tiny_checkpoint, device):
    with pytest.raises(UserError, match=r"not available here; there is .*cpu"):
        loaded_checkpoint(str(tiny_checkpoint("llama")), Loading(device=device))


def test_a_case_without_samples_is_complete(open_questions):
    case = Case(open_questions[0], "Kitten")
    assert (case.wrong, case.branched, case.candidates, case.sources) == ((), (), (), ())


def test_another_chat_template_is_another_checkpoint(tiny_checkpoint, tiny_tokenizer, tiny_loaded, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint("llama"), copy)
    tiny_tokenizer(template="thinks").save_pretrained(copy)
    assert loaded_checkpoint(str(copy), Loading(device="cpu")).fingerprint != tiny_loaded("llama").fingerprint


def test_an_adapter_with_a_tokenizer_of_its_own_is_asked_with_that(tiny_adapter, tiny_tokenizer, tmp_path):
    copy = tmp_path / "adapter"
    shutil.copytree(tiny_adapter("llama"), copy)
    assert "think" not in loaded_checkpoint(str(copy), Loading(device="cpu")).tokenizer.chat_template
    tiny_tokenizer(template="thinks").save_pretrained(copy)
    assert "think" in loaded_checkpoint(str(copy), Loading(device="cpu")).tokenizer.chat_template


@pytest.mark.parametrize("tokens", [[5, 6], "all", 1])
def test_an_activated_lora_is_refused(tiny_adapter, tmp_path, tokens):
    folder = shutil.copytree(tiny_adapter("llama"), tmp_path / "activated")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"alora_invocation_tokens": tokens}))
    with pytest.raises(UserError, match="an activated LoRA, which is not read"):
        source_of(str(folder))


# Models that do not fit


def test_a_model_spread_over_memory_and_disk_says_what_it_says_in_one_place(tiny_checkpoint, tiny_setting, monkeypatch):
    spread = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "cpu"}
    spread |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    whole = tiny_setting("llama")  # before the change, which would spread it, too, and every later test's
    monkeypatch.setattr(checkpoints, "_placement", lambda place, loading: spread)
    checkpoint = loaded_checkpoint(str(tiny_checkpoint("llama")), Loading(device_map="auto"))
    assert checkpoint.model.model.layers[1].mlp.up_proj.weight.device.type == "meta", "its weights are on disk"
    setting = prepared(checkpoint, FORMATS["ScoreNumber"])
    asked = [setting.prompter.transcript(question, question.answers[0]) for question in whole.pool[:3]]
    for one, other in zip(setting.reader.readings(asked), whole.reader.readings(asked), strict=True):
        assert one.distribution.probability == pytest.approx(other.distribution.probability, abs=1e-6)
    case = Case(whole.pool[0], whole.pool[0].answers[0])
    (here,), (there,) = rollout.measured(whole, [case]), rollout.measured(setting, [case])
    assert there["values"] == pytest.approx(here["values"], abs=1e-6)
    with pytest.raises(UserError, match="transformer-lens needs the weights themselves, on one device"):
        HookedModel(checkpoint.model)


def test_auto_on_one_device_is_that_device(tiny_checkpoint, tiny_loaded):
    checkpoint = loaded_checkpoint(str(tiny_checkpoint("llama")), Loading(device_map="auto"))
    ids = torch.arange(5, 25)[None]
    assert torch.allclose(checkpoint.model(ids).logits.cpu(), tiny_loaded("llama").model(ids).logits, atol=1e-4)


def test_a_device_map_beside_a_device_is_refused():
    with pytest.raises(UserError, match="--device-map auto uses all devices, --device cpu only one"):
        Loading(device="cpu", device_map="auto")


def test_quantisation_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(checkpoints, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"--quantization 4bit needs .* pip install 'advice-calibration\[quantization\]'"
    ):
        Loading(quantization="4bit")


def test_a_model_in_four_bits_is_measured_and_its_numbers_say_so(tiny_checkpoint, tiny_model, open_questions, tmp_path):
    pytest.importorskip("bitsandbytes")
    config = copy.deepcopy(tiny_model("llama").config)
    config.hidden_size, config.head_dim, config.intermediate_size = 64, 16, 128  # blocks are of 64 weights
    torch.manual_seed(0)
    whole = type(tiny_model("llama"))(config).eval()
    folder = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "wider")
    whole.save_pretrained(folder)
    checkpoint = loaded_checkpoint(str(folder), Loading(device="cpu", quantization="4bit"))
    assert checkpoint.note == "weights quantised to 4 bits (NF4) when they were loaded"
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        exact, rough = (model(ids).logits.flatten() for model in (whole, checkpoint.model))
    assert (exact - rough).abs().max() > 1e-3 and torch.corrcoef(torch.stack([exact, rough]))[0, 1] > 0.7
    setting = prepared(checkpoint, FORMATS["ScoreNumber"], pool=open_questions)
    case = Case(open_questions[0], open_questions[0].answers[0], (open_questions[1].answers[0],))
    for instrument in (jsd, masking, rollout):
        assert instrument.measured(setting, [case])[0]["values"]
    with pytest.raises(UserError, match="do not give on a CPU"):  # they would be wrong without a word
        attribution.measured(setting, [case])
    with pytest.raises(UserError, match="transformer-lens needs the weights themselves, on one device"):
        HookedModel(checkpoint.model)
