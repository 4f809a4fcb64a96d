"""The hooked model: read attention, cut it, replace activations. Everything that needs transformer-lens is here.

The model under study is never hooked itself, since hooking edits a model for good: a twin over the same weights is."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, overload, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from interp.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformer_lens.model_bridge import TransformerBridge

PROBE = tuple(range(5, 45))
"""Token ids of the prompt on which twin and original are compared."""
EXACT = {torch.float32: 1e-5, torch.float64: 1e-5}
"""Largest difference of the logits between the hooked model and the same model unhooked, by precision."""
LIKE = {torch.float32: 1e-2, torch.float64: 1e-2}
"""The same between the eager twin with its adapter merged and the model as it is used for scoring (another attention
kernel, adapter beside the weights): measured 1.5e-4 for the embedded model, 0.3 in bfloat16."""
HALF = 1.0


class HookedModel:
    """A transformer-lens bridge over a twin of a model."""

    def __init__(self, model: "PreTrainedModel | PeftModel") -> None:
        """Errors: UserError where transformer-lens does not know the architecture, or where the hooked model's logits
        are not those of the model that it stands for."""
        twin = merged_twin(model)
        vocabulary = len(twin.get_input_embeddings().get_parameter("weight"))
        probe = torch.tensor([PROBE], device=model.device) % vocabulary
        with torch.no_grad():
            scoring = model(probe).logits
            eager = twin(probe).logits
        name = type(twin).__name__
        self.bridge = _bridged(twin, name)
        with torch.no_grad():
            hooked = self.bridge(probe)
        _compare(f"{name}: the twin and the model that scores", eager, scoring, LIKE.get(model.dtype, HALF))
        _compare(f"{name}: the hooked model and the same model unhooked", hooked, eager, EXACT.get(model.dtype, HALF))
        self.layers = int(self.bridge.cfg.n_layers)
        self.device = model.device

    @torch.no_grad()
    def head_means(self, prompts: Sequence[Sequence[int]]) -> list["HeadMeans"]:
        """For each prompt its attention averaged over heads, layer by layer.

        Shorter prompts are padded on the right, where a causal model cannot see. Errors: UserError where rows do not
        sum to 1 (attention sinks outside the sequence) or look ahead, so that rollout has no meaning."""
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        triangles = [np.tril_indices(len(prompt)) for prompt in prompts]
        packed: list[list[np.ndarray]] = [[] for _ in prompts]

        def keep(pattern: Tensor, hook: object) -> None:
            mean = pattern.mean(1).float().cpu()
            _refuse_without_rollout(mean, len(packed[0]))
            for layers, lower, square in zip(packed, triangles, mean.numpy(), strict=True):
                layers.append(square[lower])

        named = (lambda name: name.endswith("attn.hook_pattern"), keep)
        self.bridge.run_with_hooks(ids.to(self.device), fwd_hooks=[named], logits_to_keep=1)
        if len(packed[0]) != self.layers:
            raise UserError(f"only {len(packed[0])} of {self.layers} layers show their attention: no rollout")
        return [HeadMeans(layers, len(prompt)) for layers, prompt in zip(packed, prompts, strict=True)]

    @torch.no_grad()
    def logits(self, prompts: Tensor) -> Tensor:
        """Logits [prompts, tokens, vocabulary] of token ids [prompts, tokens], under whatever is cut or replaced."""
        logits: Tensor = self.bridge(prompts)
        return logits

    @contextmanager
    def attention_cut(
        self, looking: Sequence[int], looked_at: Sequence[int], layers: Sequence[int] | None = None
    ) -> Iterator[None]:
        """While open, tokens at positions `looking` cannot see those at `looked_at`, in the layers given or in all.

        What is left of their attention is renormalised; a token always keeps what is not named."""
        keys = torch.tensor(looked_at)

        def cut(scores: Tensor, hook: object) -> Tensor:
            scores = scores.clone()
            for query in looking:
                scores[:, :, query, keys] = torch.finfo(scores.dtype).min
            return scores

        chosen = range(self.layers) if layers is None else layers
        hooks = [(f"blocks.{layer}.attn.hook_attn_scores", cut) for layer in chosen]
        with self.bridge.hooks(fwd_hooks=hooks):
            yield

    @contextmanager
    def activation_replaced(self, name: str, positions: Sequence[int], values: Tensor) -> Iterator[None]:
        """While open, the activation `name` (such as blocks.3.hook_resid_pre) is `values` at the positions given.

        values: [positions, width]. Names are those of transformer-lens."""

        def replace(activation: Tensor, hook: object) -> Tensor:
            activation = activation.clone()
            activation[:, list(positions)] = values.to(activation)
            return activation

        with self.bridge.hooks(fwd_hooks=[(name, replace)]):
            yield


class HeadMeans(Sequence[np.ndarray]):
    """The attention of one prompt averaged over heads: a matrix [tokens, tokens] for each layer, rows look, columns are
    seen. Only lower triangles are kept, a matrix is made when it is asked for."""

    def __init__(self, packed: Sequence[np.ndarray], tokens: int) -> None:
        self._packed, self._tokens = packed, tokens

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, layer: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, layer: slice) -> "HeadMeans": ...

    def __getitem__(self, layer: int | slice) -> "np.ndarray | HeadMeans":
        if isinstance(layer, slice):
            return HeadMeans(self._packed[layer], self._tokens)
        square = np.zeros((self._tokens, self._tokens), dtype=self._packed[layer].dtype)
        square[np.tril_indices(self._tokens)] = self._packed[layer]
        return square


def _refuse_without_rollout(mean: Tensor, layer: int) -> None:
    gap = (mean.sum(-1) - 1).abs().max().item()
    ahead = mean.triu(1).max().item()
    if gap > 0.02 or ahead > 1e-6:
        raise UserError(
            f"layer {layer}: attention rows differ from 1 by up to {gap:.3g} and look ahead by up to {ahead:.3g}: "
            "rollout is not defined for this model"
        )


@runtime_checkable
class Adapted(Protocol):
    """A layer with adapters that can be merged into its weight."""

    active_adapters: list[str]

    def get_delta_weight(self, adapter: str) -> Tensor:
        """What the adapter adds to the weight."""


def _base_of(model: "PreTrainedModel | PeftModel") -> PreTrainedModel:
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def refuse_without_weights(model: "PreTrainedModel | PeftModel") -> None:
    """Errors: UserError where a twin over the same weights cannot be made: they are quantised, or spread."""
    base = _base_of(model)
    if getattr(base, "is_quantized", False) or len(set(getattr(base, "hf_device_map", {}).values())) > 1:
        raise UserError(
            "rollout needs the weights themselves, on one device, and these are quantised or spread; "
            "--leave-out rollout runs the other instruments"
        )


def merged_twin(model: "PreTrainedModel | PeftModel") -> PreTrainedModel:
    """A second model over the same weight storage, with eager attention; a LoRA adapter is merged into copies of the
    weights that it changes, and only of those."""
    refuse_without_weights(model)
    base = _base_of(model)
    adapted = {name: layer for name, layer in base.named_modules() if isinstance(layer, Adapted)}
    weights = {}
    for key, value in base.state_dict().items():
        if ".lora_" in key:
            continue
        owner, _, leaf = key.rpartition(".")
        if owner.endswith(".base_layer"):
            owner = owner.removesuffix(".base_layer")
            if leaf == "weight":
                for adapter in adapted[owner].active_adapters:
                    value = value + adapted[owner].get_delta_weight(adapter).to(value.dtype)
        weights[f"{owner}.{leaf}"] = value.detach()
    with torch.device("meta"):
        twin: PreTrainedModel = type(base)._from_config(copy.deepcopy(base.config), attn_implementation="eager")
    try:
        twin.load_state_dict(weights, assign=True, strict=True)
    except RuntimeError as error:  # an adapter that brings whole modules, or another kind than LoRA
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"the adapter cannot be merged for rollout ({reason}); leave out rollout") from error
    twin.tie_weights()
    for name, module in base.named_modules():
        if ".lora_" not in name and not name.endswith(".base_layer"):
            for buffer, value in module.named_buffers(recurse=False):
                setattr(twin.get_submodule(name), buffer, value)
    twin.eval().requires_grad_(False)
    return twin


def _bridged(twin: PreTrainedModel, architecture: str) -> "TransformerBridge":
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    logging.set_verbosity(verbosity)  # importing transformer-lens silences the warnings of transformers
    try:
        return build_bridge_from_module(twin, architecture, hf_config=twin.config, tokenizer=None)
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"transformer-lens cannot hook a {architecture} ({reason}); leave out rollout, the other instruments run"
        ) from error


def _compare(what: str, one: Tensor, other: Tensor, most: float) -> None:
    gap = (one.float() - other.float()).abs().max().item()
    if not gap <= most:
        raise UserError(f"{what} differ by {gap:.3g} in their logits, which may differ by {most:.3g} at most")
