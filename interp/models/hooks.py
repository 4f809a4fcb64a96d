"""The hooked model: knocks out attention and replaces activations. Everything that needs transformer-lens is here.

The model under study is never hooked itself, since hooking edits a model for good. A copy in float32 is hooked, into
which an adapter is merged: in float32 merging rounds next to nothing. The module knows positions, layers and
activations. It must not know about questions or what is measured."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.errors import UserError
from interp.models.head import base_of

if TYPE_CHECKING:
    from peft import PeftModel
    from transformer_lens.model_bridge import TransformerBridge

PROBE = tuple(range(5, 45))
"""Token ids of the prompt on which the hooked model and the copy of the model are compared."""
EXACT = 1e-5
"""The largest difference allowed between the logits of the hooked model and of the same model in float32, unhooked."""
MERGED = 1e-3
"""The same where an adapter is merged into the hooked model and not into the other one: measured 6e-5."""


class HookedModel:
    """A transformer-lens bridge over a copy of a model in float32; an adapter is merged into the copy."""

    def __init__(self, model: "PreTrainedModel | PeftModel") -> None:
        """Copies the model, merges its adapter, hooks the copy and compares the two on a short prompt.

        Args:
            model: The model; it stays as it is.

        Raises:
            UserError: where transformer-lens does not know the architecture, where the weights cannot be copied, or
                where the hooked model's logits are not those of the model that it stands for.
        """
        vocabulary = model.config.get_text_config().vocab_size
        probe = torch.tensor([PROBE], device=model.device) % vocabulary  # [1, tokens]
        copied = exact_copy(model)
        adapted = copied is not base_of(copied)
        with torch.no_grad():
            expected = copied(probe).logits  # before merging and hooking, [1, tokens, vocabulary]
        merged = _merged(copied)
        name = type(merged).__name__
        self.bridge = _bridged(merged, name)
        with torch.no_grad():
            hooked = self.bridge(probe)
        gap, allowed = (hooked - expected).abs().max().item(), MERGED if adapted else EXACT
        if not gap <= allowed:  # so written, NaN is refused as well
            raise UserError(
                f"{name}: the hooked model and the same model unhooked differ by {gap:.3g} in their logits, "
                f"which may differ by {allowed:.3g} at most"
            )
        self.layers = int(self.bridge.cfg.n_layers)
        self.device = model.device

    @torch.no_grad()
    def logits(self, prompts: Tensor) -> Tensor:
        """Logits [prompts, tokens, vocabulary] of token ids [prompts, tokens], with knockouts and replacements."""
        logits: Tensor = self.bridge(prompts)
        return logits

    @contextmanager
    def attention_knocked_out(
        self, looking: Sequence[int], looked_at: Sequence[int], layers: Sequence[int] | None = None
    ) -> Iterator[None]:
        """While open, attention from some tokens to others is knocked out.

        Each token's attention to all other tokens is renormalised.

        Args:
            looking: Positions of the tokens that look.
            looked_at: Positions that they cannot see.
            layers: The layers in which they cannot; None: all layers.
        """
        keys = torch.tensor(looked_at)

        def knock_out(scores: Tensor, hook: object) -> Tensor:
            scores = scores.clone()  # [prompts, heads, queries, keys], before the softmax
            for query in looking:
                scores[:, :, query, keys] = torch.finfo(scores.dtype).min
            return scores

        chosen = range(self.layers) if layers is None else layers
        hooks = [(f"blocks.{layer}.attn.hook_attn_scores", knock_out) for layer in chosen]
        with self.bridge.hooks(fwd_hooks=hooks):
            yield

    @contextmanager
    def activation_replaced(self, name: str, positions: Sequence[int], values: Tensor) -> Iterator[None]:
        """While open, an activation is replaced at some positions.

        Args:
            name: The name of the activation in transformer-lens, such as blocks.3.hook_resid_pre.
            positions: The positions of the tokens.
            values: The values that it has there instead, [positions, width].
        """

        def replace(activation: Tensor, hook: object) -> Tensor:
            activation = activation.clone()  # [prompts, tokens, width]
            activation[:, list(positions)] = values.to(activation)
            return activation

        with self.bridge.hooks(fwd_hooks=[(name, replace)]):
            yield


def exact_copy(model: "PreTrainedModel | PeftModel") -> "PreTrainedModel | PeftModel":
    """A copy of the model in float32 with eager attention, adapter in place.

    Args:
        model: The model; it stays as it is.

    Returns:
        The copy. Of a model without an adapter it shares the storage of weights that are float32.

    Raises:
        UserError: where the weights are quantised, or spread over devices.
    """
    base = base_of(model)
    if getattr(base, "is_quantized", False) or len(set(getattr(base, "hf_device_map", {}).values())) > 1:
        raise UserError("transformer-lens needs the weights themselves, on one device: these are quantised or spread")
    shared = base is model  # with an adapter nothing is shared: merging would write into it
    # deepcopy takes the tensors of its copy from the memo, so that it copies none in the model's own precision
    memo: dict[int, object] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        value = tensor.detach() if shared or not tensor.is_floating_point() else tensor.detach().clone()
        value = value.float() if tensor.is_floating_point() else value
        memo[id(tensor)] = nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value
    copied = copy.deepcopy(model, memo).eval()
    for module in copied.modules():
        if isinstance(module, PreTrainedModel):
            module.config.dtype = torch.float32
    base_of(copied).set_attn_implementation("eager")
    return copied


def _merged(copied: "PreTrainedModel | PeftModel") -> PreTrainedModel:
    """The copy with its adapter merged into its own weights."""
    if isinstance(copied, PreTrainedModel):
        return copied
    _untie(copied)
    peft: Any = copied  # PeftModel forwards merge_and_unload to the tuner that it wraps
    try:
        merged: PreTrainedModel = peft.merge_and_unload()
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"the adapter cannot be merged for transformer-lens ({reason})") from error
    merged.eval().requires_grad_(False)
    return merged


def _untie(copied: "PeftModel") -> None:
    """Gives every module its own weights: what is merged into the head must not reach the embeddings."""
    seen = set()
    for module in copied.modules():
        for name, weight in [*module.named_parameters(recurse=False)]:
            if weight in seen:
                setattr(module, name, nn.Parameter(weight.clone(), requires_grad=False))
            seen.add(weight)
    base_of(copied).config.get_text_config().tie_word_embeddings = False
    base_of(copied).config.tie_word_embeddings = False


def _bridged(model: PreTrainedModel, architecture: str) -> "TransformerBridge":
    """The bridge around a model, which it edits for good. Raises UserError for an unknown architecture."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    logging.set_verbosity(verbosity)  # importing transformer-lens silences the warnings of transformers
    try:
        return build_bridge_from_module(model, architecture, hf_config=model.config, tokenizer=None)
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"transformer-lens cannot hook a {architecture} ({reason})") from error
