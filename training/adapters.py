"""Saves what was trained: one LoRA adapter in half precision that `--ckpt` loads on its base.

An adapter trained on top of another is stacked with it. This module knows nothing of objectives or of examples."""

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
    """Writes the trained adapter in float16 with its configuration.

    Args:
        model: The model with the adapter on it.
        folder: Where the adapter is written.
        base: The value of --ckpt that loads the model without adapters.
        under: The directory of an adapter that the model carries beside the trained one. What is written is then both
            in one, so that it loads on the base itself.

    Raises:
        UserError: where a file cannot be written, or `under` is not plain LoRA.
    """
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
        # one configuration must name the projections of both: by layers and kinds where these agree, else one by one
        places = (below.layers_to_transform, sorted(below.target_modules or ()))
        if places != (config.layers_to_transform, config.target_modules):
            config.target_modules = sorted({name.partition(".lora_")[0].removeprefix(BELOW) for name in state})
            config.layers_to_transform = None
        config.r = config.lora_alpha = config.r + below.r  # alpha / rank = 1: the scales are in the stacked weights
    config.base_model_name_or_path = base
    with told_where(folder):
        config.save_pretrained(str(folder))
        temporary = folder / f"{WEIGHTS}.tmp"
        save_file({name: weight.half().contiguous() for name, weight in state.items()}, temporary, {"format": "pt"})
        temporary.replace(folder / WEIGHTS)


def plain_lora(folder: Path) -> LoraConfig:
    """The configuration of an adapter whose effect is B A alpha / rank in every projection that it names.

    Raises:
        UserError: for any other kind of adapter, which cannot be stacked with a further one.
    """
    config: LoraConfig = LoraConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise _not_plain(folder, f"the kind {config.peft_type}")
    usual = vars(LoraConfig())
    for name, value in vars(config).items():
        # a field that `stacked` does not know must have its default or be off
        plain = value in FIRST_WEIGHTS if name == "init_lora_weights" else value == usual.get(name) or not value
        if name not in (*PLAIN, *ANY) and not plain:
            raise _not_plain(folder, name)
    if isinstance(config.target_modules, str):
        raise _not_plain(folder, f"target_modules {config.target_modules!r}")
    return config


def _not_plain(folder: Path, what: str) -> UserError:
    return UserError(f"--ckpt {folder}: its adapter has {what}; only plain LoRA can be trained on")


def stacked(*adapters: tuple[dict[str, Tensor], LoraConfig]) -> dict[str, Tensor]:
    """The weights of one adapter that changes a model as all of these together do.

    B1 A1 s1 + B2 A2 s2 = [s1 B1, s2 B2] [A1; A2], where s is alpha / rank. An adapter that lacks a projection adds 0.

    Args:
        adapters: For each its weights by name, A [rank, inputs] and B [outputs, rank], and its configuration.

    Returns:
        The weights by name, float32. Rank and alpha of the new adapter are the sum of the ranks.
    """
    names = sorted({name.replace(".lora_B.", ".lora_A.") for state, _ in adapters for name in state})
    weights: dict[str, Tensor] = {}
    for name_in in names:
        name_out = name_in.replace(".lora_A.", ".lora_B.")
        holder = next(state for state, _ in adapters if name_in in state)
        # [1, inputs] and [outputs, 1], expanded to an adapter's rank where it lacks this projection
        blank_in, blank_out = torch.zeros(1, holder[name_in].shape[1]), torch.zeros(holder[name_out].shape[0], 1)
        parts_in, parts_out = [], []
        for state, config in adapters:
            present = name_in in state
            parts_in.append(state[name_in].float().cpu() if present else blank_in.expand(config.r, -1))
            part_out = state[name_out].float().cpu() * config.lora_alpha / config.r if present else None
            parts_out.append(blank_out.expand(-1, config.r) if part_out is None else part_out)
        # [sum of ranks, inputs] and [outputs, sum of ranks]
        weights[name_in], weights[name_out] = torch.cat(parts_in), torch.cat(parts_out, dim=1)
    return weights
