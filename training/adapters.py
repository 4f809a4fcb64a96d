"""Saving what was trained: one LoRA adapter in half precision that `--ckpt` loads on its base."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.errors import UserError
from interp.models.adapters import BELOW, WEIGHTS
from training.loop import told_where, trained_adapter, trained_weights

PLAIN = ("r", "lora_alpha", "lora_dropout", "target_modules", "layers_to_transform")
"""Fields of a configuration whose meaning `stacked` knows."""
ANY = (
    "base_model_name_or_path",
    "revision",
    "task_type",
    "peft_type",
    "inference_mode",
    "peft_version",
    "auto_mapping",
)
"""Fields that say nothing about the effect."""
FIRST_WEIGHTS = (True, False, "gaussian", "orthogonal", "eva")
"""Ways of choosing an adapter's first weights that leave the base as it is."""


def saved_adapter(model: PeftModel, folder: Path, base: str, under: Path | None = None) -> None:
    """Writes the adapter in float16 with its configuration.

    base: what --ckpt has to say to get the model below. under: the adapter that is on that model beside the trained
    one; the one written is then both, so that it loads on the base itself."""
    trained, state = model.peft_config[trained_adapter(model)], trained_weights(model)
    if not isinstance(trained, LoraConfig):
        raise TypeError(f"{type(trained).__name__} is not LoRA's configuration")
    config = LoraConfig(
        r=trained.r,
        lora_alpha=trained.lora_alpha,
        lora_dropout=trained.lora_dropout,
        target_modules=sorted(trained.target_modules or ()),
        layers_to_transform=trained.layers_to_transform,
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    if under:
        below = plain_lora(under)
        state = stacked((load_file(under / WEIGHTS), below), (state, config))
        places = (below.layers_to_transform, sorted(below.target_modules or ()))
        if places != (config.layers_to_transform, config.target_modules):  # each projection that has weights, by name
            config.target_modules = sorted({name.partition(".lora_")[0].removeprefix(BELOW) for name in state})
            config.layers_to_transform = None
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
    if not isinstance(config, LoraConfig):
        raise _not_plain(folder, f"the kind {config.peft_type}")
    usual = vars(LoraConfig())
    for name, value in vars(config).items():
        plain = value in FIRST_WEIGHTS if name == "init_lora_weights" else value == usual.get(name) or not value
        if name not in (*PLAIN, *ANY) and not plain:
            raise _not_plain(folder, name)
    if isinstance(config.target_modules, str):
        raise _not_plain(folder, f"target_modules {config.target_modules!r}")
    return config


def _not_plain(folder: Path, what: str) -> UserError:
    return UserError(f"--ckpt {folder}: its adapter has {what}; only plain LoRA can be trained on")


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
