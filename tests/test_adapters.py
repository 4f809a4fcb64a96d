"""Adapters: a base is the same after each of them; what one says does not depend on those before it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ADAPTER_KINDS, ADDED_TOKENS
from safetensors.torch import load_file, save_file

from interp.errors import UserError
from interp.formats import FORMATS
from interp.instruments import attribution, jsd, masking, rollout
from interp.models import adapters, checkpoints, hooks
from interp.models.checkpoints import Checkpoint, Loading, each_checkpoint, loaded_checkpoint, source_of
from interp.models.setting import Case, prepared

CPU = Loading(device="cpu")
IDS = torch.arange(5, 45)[None] * 7 % 389
FAMILIES = ("llama", "gemma2", "qwen2", "gpt_neox")


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    with torch.no_grad():
        return checkpoint.model(input_ids=IDS).logits


def alone(ckpt: Path) -> torch.Tensor:
    return logits(loaded_checkpoint(str(ckpt), CPU))


def in_turn(*ckpts: Path) -> list[torch.Tensor]:
    return [logits(checkpoint) for checkpoint in each_checkpoint(list(map(str, ckpts)), CPU)]


def of_family(family: str) -> list[str]:
    lacking = {"norms saved"} if family == "gpt_neox" else set()
    return [kind for kind in ADAPTER_KINDS if kind not in lacking]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind"), [(family, kind) for family in FAMILIES for kind in of_family(family)])
def test_a_base_says_the_same_before_and_after_an_adapter_was_on_it(adapter_of_kind, tiny_checkpoint, family, kind):
    base, adapter = tiny_checkpoint(family), adapter_of_kind(family, kind)
    before, between, after = in_turn(base, adapter, base)
    assert torch.equal(before, after) and torch.equal(before, alone(base))
    assert torch.equal(between, alone(adapter))
    known = before.shape[-1]
    assert (between[..., :known] - before).abs().max() > 1e-3, "the adapter does something"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_all_kinds_of_adapters_in_one_process_say_what_each_says_alone(adapter_of_kind, tiny_checkpoint, family):
    ckpts = [adapter_of_kind(family, kind) for kind in of_family(family)]
    ckpts = [*ckpts, tiny_checkpoint(family), *ckpts[::-1]]
    for found, ckpt in zip(in_turn(*ckpts), ckpts, strict=True):
        assert torch.equal(found, alone(ckpt)), ckpt.name


def written(folder: Path, **changes: object) -> Path:
    """The adapter's folder with changes in its configuration."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


# In half precision, and the order in which a comparison takes them


@pytest.mark.slow
@pytest.mark.parametrize("kind", ADAPTER_KINDS)
def test_in_half_precision_too(adapter_of_kind, tiny_checkpoint, kind):
    half, base, adapter = Loading("cpu", "bfloat16"), tiny_checkpoint("qwen2"), adapter_of_kind("qwen2", kind)
    order = [str(ckpt) for ckpt in (adapter, base, adapter_of_kind("qwen2", "dora"), adapter)]
    found = [logits(checkpoint) for checkpoint in each_checkpoint(order, half)]
    for said, ckpt in zip(found, order, strict=True):
        assert torch.equal(said, logits(loaded_checkpoint(ckpt, half)))


@pytest.mark.slow
def test_what_an_adapter_replaced_is_put_back_and_what_it_wrote_into_is_loaded_again(
    adapter_of_kind, tiny_checkpoint, monkeypatch
):
    loads = []
    honest = checkpoints._base
    monkeypatch.setattr(checkpoints, "_base", lambda *args: loads.append(args) or honest(*args))

    def loaded(kind: str) -> int:
        loads.clear()
        in_turn(tiny_checkpoint("qwen2"), adapter_of_kind("qwen2", kind), tiny_checkpoint("qwen2"))
        return len(loads)

    kinds = {kind: loaded(kind) for kind in ADAPTER_KINDS}
    written_into = {kind for kind, count in kinds.items() if count == 2}
    biases, embeddings = {"all biases", "its layers' biases"}, {"head and embeddings", "added tokens"}
    assert set(kinds.values()) == {1, 2}
    assert written_into == biases | embeddings | {"single parameters"}


def test_a_base_that_is_put_back_holds_the_very_modules_and_tensors_of_before(adapter_of_kind, tiny_checkpoint):
    model = loaded_checkpoint(str(tiny_checkpoint("gemma2")), CPU).model
    modules, config = dict(model.named_modules()), model.config.to_dict()
    places = {name: (id(one), one.data_ptr()) for name, one in model.named_parameters(remove_duplicate=False)}

    def grown(model, folder):
        adapters._with_added_tokens(model, folder)
        model.new = torch.nn.Identity()

    kinds = [(kind, adapters.with_adapter) for kind in ("head saved", "embeddings saved", "token adapter", "dora")]
    for kind, changed in (*kinds, ("added tokens", grown)):
        kept = adapters.Kept(model)
        changed(model, adapter_of_kind("gemma2", kind))
        assert dict(model.named_modules()) != modules
        assert kept.restored()
        assert dict(model.named_modules()) == modules and model.config.to_dict() == config
        assert places == {n: (id(one), one.data_ptr()) for n, one in model.named_parameters(remove_duplicate=False)}
        assert not hasattr(model, "peft_config")


# What instruments say of it


@pytest.mark.slow
@pytest.mark.parametrize("kind", ADAPTER_KINDS)
def test_every_instrument_says_of_an_adapter_in_its_place_what_it_says_of_merged_weights(
    adapter_of_kind, open_questions, kind
):
    checkpoint = loaded_checkpoint(str(adapter_of_kind("qwen2", kind)), CPU)
    merged = replace(checkpoint, model=hooks._merged(hooks.exact_copy(checkpoint.model)))
    merged.model.set_attn_implementation("sdpa")
    base = loaded_checkpoint(source_of(checkpoint.name).base_name, CPU)
    settings = [prepared(one, FORMATS["ScoreNumber"], pool=open_questions) for one in (checkpoint, merged, base)]
    case = Case(open_questions[0], "Kitten", ("Mitten", "Paris"))
    for instrument in (jsd, rollout, masking, attribution):
        there, expected, without = (instrument.measured(setting, [case])[0]["values"] for setting in settings)
        known = {name: value for name, value in expected.items() if value is not None and not name.endswith("rank")}
        assert {name: there[name] for name in known} == pytest.approx(known, abs=2e-4), instrument.__name__
        gaps = [abs(there[name] - without[name]) for name in known if without.get(name) is not None]
        assert max(gaps) > 1e-4, "the adapter changes something"


# Tokens that an adapter adds


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_grows_to_the_adapters_vocabulary_and_back(adapter_of_kind, tiny_checkpoint, family):
    base, adapter = tiny_checkpoint(family), adapter_of_kind(family, "added tokens")
    sizes = []
    for checkpoint in each_checkpoint([str(base), str(adapter), str(base)], CPU):
        sizes.append(logits(checkpoint).shape[-1])
        text = checkpoint.tokenizer(ADDED_TOKENS[1], add_special_tokens=False)["input_ids"]
        assert (len(text) == 1) == (checkpoint.name == str(adapter))
        if checkpoint.name == str(adapter):
            assert logits(checkpoint).isfinite().all() and text[0] < sizes[-1]
            assert sizes[-1] == len(checkpoint.tokenizer)
    assert sizes[0] == sizes[2] < sizes[1]


def test_added_tokens_without_their_rows_are_refused(adapter_of_kind, tmp_path):
    folder = shutil.copytree(adapter_of_kind("llama", "added tokens"), tmp_path / "lacks")
    weights = load_file(folder / "adapter_model.safetensors")
    weights = {name: weight for name, weight in weights.items() if "lm_head" not in name}
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    written(folder, modules_to_save=["embed_tokens"])
    with pytest.raises(UserError, match=r"adds 3 tokens to its base, but its file lacks rows of the embeddings or of"):
        loaded_checkpoint(str(folder), CPU)


def test_a_base_is_never_made_smaller(adapter_of_kind, tmp_path):
    folder = shutil.copytree(adapter_of_kind("llama", "head saved"), tmp_path / "small")
    weights = load_file(folder / "adapter_model.safetensors")
    (head,) = [name for name in weights if "lm_head" in name]
    weights[head] = weights[head][:-5].clone()
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    rows = len(weights[head])
    with pytest.raises(UserError, match=rf"has {rows} tokens, its base {rows + 5}; a base is never made smaller"):
        loaded_checkpoint(str(folder), CPU)


# What stands in a folder


def test_an_adapters_base_is_taken_in_the_revision_that_it_names(adapter_of_kind, tmp_path, tiny_checkpoint):
    folder = shutil.copytree(adapter_of_kind("llama", "lora"), tmp_path / "lora")
    hub = "owner/model"
    source = source_of(str(written(folder, base_model_name_or_path=hub, revision="abc123")))
    assert (source.model, source.revision, source.base_name) == (hub, "abc123", "owner/model@abc123")
    source = source_of(str(written(folder, base_model_name_or_path=f"{hub}@abc123", revision="abc123")))
    assert (source.model, source.revision) == (hub, "abc123")
    source = source_of(str(written(folder, base_model_name_or_path=f"{hub}@v2", revision=None)))
    assert (source.model, source.revision, source.base_name) == (hub, "v2", "owner/model@v2")
    with pytest.raises(UserError, match=r"names owner/model@v2 and the revision 'abc123' of its base"):
        source_of(str(written(folder, revision="abc123")))
    local = str(tiny_checkpoint("llama"))
    assert source_of(str(written(folder, base_model_name_or_path=local, revision="abc123"))).revision is None


def test_a_model_and_an_adapter_in_one_folder_are_refused_and_both_named(adapter_of_kind, tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "both")
    shutil.copytree(adapter_of_kind("llama", "lora"), folder, dirs_exist_ok=True)
    said = r"holds a model \(model\.safetensors\) and an adapter \(adapter_model\.safetensors\); keep one of them there"
    with pytest.raises(UserError, match=said):
        source_of(str(folder))
    (folder / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=said):
        source_of(str(folder))


def test_a_left_over_configuration_of_an_adapter_is_said_and_the_model_loads(
    adapter_of_kind, tiny_checkpoint, tmp_path, capsys
):
    folder = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "left")
    shutil.copy(adapter_of_kind("llama", "lora") / "adapter_config.json", folder)
    assert torch.equal(alone(folder), alone(tiny_checkpoint("llama")))
    (said,) = capsys.readouterr().err.splitlines()
    assert said == f"note: {folder}: its adapter_config.json is not read, there are no weights of an adapter"
