"""Adapters: a base is the same after each of them, whatever it replaced; what one says does not depend on the others."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp import checkpoints
from interp.checkpoints import Checkpoint, Loading, each_checkpoint, loaded_checkpoint, source_of
from interp.errors import UserError

CPU = Loading(device="cpu")
IDS = torch.arange(5, 45)[None] * 7 % 389
PLAIN = {"r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, "task_type": "CAUSAL_LM"}
KINDS: dict[str, dict] = {
    "lora": {},
    "dora": {"use_dora": True},
    "rank pattern": {"rank_pattern": {"v_proj": 3}, "alpha_pattern": {"q_proj": 5}},
    "head saved": {"modules_to_save": ["lm_head"]},
    "embeddings saved": {"modules_to_save": ["embed_tokens"]},
    "norms saved": {"modules_to_save": ["input_layernorm"]},
    "all biases": {"bias": "all"},
    "its layers' biases": {"bias": "lora_only"},
    "token adapter": {"trainable_token_indices": [5, 12, 19]},
    "head and embeddings": {"target_modules": ["q_proj", "lm_head", "embed_tokens"]},
    "added tokens": {"modules_to_save": ["lm_head", "embed_tokens"]},
}
"""What each kind says beside PLAIN."""
ADDED = ("<added-1>", "<added-2>", "<added-3>")
FAMILIES = ("llama", "gemma2", "qwen2", "gpt_neox")


def _names(family: str, config: dict) -> dict:
    """The configuration in the family's own names of modules."""
    if family != "gpt_neox":
        return config
    ours = {"q_proj": "query_key_value", "v_proj": "dense", "lm_head": "embed_out", "embed_tokens": "embed_in"}

    def renamed(value: object) -> object:
        if isinstance(value, str):
            return ours.get(value, value)
        if isinstance(value, dict):
            return {ours.get(key, key): one for key, one in value.items()}
        return [ours.get(one, one) if isinstance(one, str) else one for one in value] if isinstance(value, list) else value

    return {key: renamed(value) for key, value in config.items()}


def made_adapter(base: Path, folder: Path, family: str, kind: str) -> Path:
    """An adapter of that kind with random weights, each of which changes what the model says."""
    torch.manual_seed(sum(map(ord, kind)))
    model = AutoModelForCausalLM.from_pretrained(base)
    if kind == "added tokens":
        tokenizer = AutoTokenizer.from_pretrained(base)
        tokenizer.add_tokens(list(ADDED))
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        tokenizer.save_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft has a word to say on tied heads and on added tokens
        wrapped = get_peft_model(model, LoraConfig(**_names(family, PLAIN | KINDS[kind])))
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn_like(parameter)
        wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(tiny_checkpoint, tmp_path_factory) -> Callable[[str, str], Path]:
    """adapters(family, kind): the directory of such an adapter on that small checkpoint."""
    made: dict[tuple[str, str], Path] = {}

    def adapter(family: str, kind: str) -> Path:
        if (family, kind) not in made:
            folder = tmp_path_factory.mktemp("adapters") / kind.replace(" ", "-")
            made[family, kind] = made_adapter(tiny_checkpoint(family), folder, family, kind)
        return made[family, kind]

    return adapter


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    with torch.no_grad():
        return checkpoint.model(input_ids=IDS).logits


def alone(ckpt: Path) -> torch.Tensor:
    return logits(loaded_checkpoint(str(ckpt), CPU))


def in_turn(*ckpts: Path) -> list[torch.Tensor]:
    return [logits(checkpoint) for checkpoint in each_checkpoint(list(map(str, ckpts)), CPU)]


def of_family(family: str) -> list[str]:
    lacking = {"norms saved"} if family == "gpt_neox" else set()
    return [kind for kind in KINDS if kind not in lacking]


@pytest.mark.parametrize(("family", "kind"), [(family, kind) for family in FAMILIES for kind in of_family(family)])
def test_a_base_says_the_same_before_and_after_an_adapter_was_on_it(adapters, tiny_checkpoint, family, kind):
    base, adapter = tiny_checkpoint(family), adapters(family, kind)
    before, between, after = in_turn(base, adapter, base)
    assert torch.equal(before, after) and torch.equal(before, alone(base))
    assert torch.equal(between, alone(adapter))
    known = before.shape[-1]
    assert (between[..., :known] - before).abs().max() > 1e-3, "the adapter does something"


@pytest.mark.parametrize("family", FAMILIES)
def test_all_kinds_of_adapters_in_one_process_say_what_each_says_alone(adapters, tiny_checkpoint, family):
    ckpts = [adapters(family, kind) for kind in of_family(family)]
    ckpts = [*ckpts, tiny_checkpoint(family), *ckpts[::-1]]
    for found, ckpt in zip(in_turn(*ckpts), ckpts, strict=True):
        assert torch.equal(found, alone(ckpt)), ckpt.name
