"""Saving what was trained: one LoRA adapter in half precision that `--ckpt` loads on its base."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.errors import UserError
from training.loop import told_where

WEIGHTS = "adapter_model.safetensors"


def saved_adapter(model: PeftModel, folder: Path, base: str, under: Path | None = None) -> None:
    """Writes the adapter in float16 with its configuration.

    base: what --ckpt has to say to get the model below. under: the adapter that was merged into that model before
    training; the one written is then both, so that it loads on the base itself."""
    trained, state = model.peft_config["default"], get_peft_model_state_dict(model)
    if not isinstance(trained, LoraConfig):
        raise TypeError(f"{type(trained).__name__} is not LoRA's configuration")
    targets = sorted(trained.target_modules or ())
    config = LoraConfig(
        r=trained.r,
        lora_alpha=trained.lora_alpha,
        lora_dropout=trained.lora_dropout,
        target_modules=targets,
        layers_to_transform=trained.layers_to_transform,
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    if under:
        below = plain_lora(under)
        state = stacked((load_file(under / WEIGHTS), below), (state, config))
        config.target_modules = sorted({*targets, *(below.target_modules or ())})
        layers = [one.layers_to_transform for one in (config, below)]
        some = [set(one) for one in layers if isinstance(one, list)]
        config.layers_to_transform = sorted(set.union(*some)) if len(some) == len(layers) else None
        config.r = config.lora_alpha = config.r + below.r
    config.base_model_name_or_path = base
    with told_where(folder):
        config.save_pretrained(str(folder))
        beside = folder / f"{WEIGHTS}.tmp"
        save_file({name: weight.half().contiguous() for name, weight in state.items()}, beside, {"format": "pt"})
        beside.replace(folder / WEIGHTS)


def plain_lora(folder: Path) -> LoraConfig:
    """The configuration of an adapter whose effect is B A alpha / rank in every projection that it names.

    Errors: UserError for another kind, which cannot be put under a further one."""
    config: LoraConfig = LoraConfig.from_pretrained(str(folder))
    odd = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "bias")
    found = [name for name in odd if getattr(config, name, None) not in (None, False, "none", {}, [])]
    if not isinstance(config, LoraConfig):
        found = [f"the kind {config.peft_type}"]
    if found or isinstance(config.target_modules, str):
        what = found[0] if found else f"target_modules {config.target_modules!r}"
        raise UserError(f"--ckpt {folder}: its adapter has {what}; only plain LoRA can be trained on")
    return config


def stacked(*adapters: tuple[dict[str, Tensor], LoraConfig]) -> dict[str, Tensor]:
    """The weights of one adapter, of rank and alpha the sum of the ranks, that changes a model as all of them do.

    B1 A1 s1 + B2 A2 s2 = [s1 B1, s2 B2] [A1; A2], where s is alpha / rank; where one lacks a projection it adds 0."""
    names = sorted({name.replace(".lora_B.", ".lora_A.") for state, _ in adapters for name in state})
    found: dict[str, Tensor] = {}
    for name in names:
        other = name.replace(".lora_A.", ".lora_B.")
        have = next(state for state, _ in adapters if name in state)
        blank_in, blank_out = torch.zeros(1, have[name].shape[1]), torch.zeros(have[other].shape[0], 1)
        parts_in, parts_out = [], []
        for state, config in adapters:
            here = name in state
            parts_in.append(state[name].float().cpu() if here else blank_in.expand(config.r, -1))
            scaled = state[other].float().cpu() * config.lora_alpha / config.r if here else None
            parts_out.append(blank_out.expand(-1, config.r) if scaled is None else scaled)
        found[name], found[other] = torch.cat(parts_in), torch.cat(parts_out, dim=1)
    return found
