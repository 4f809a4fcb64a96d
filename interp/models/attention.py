"""The attention weights of a model as it is, adapter in place: those of its own eager function, layer by layer.

The weights are averaged over heads while the model computes, so that no pass keeps all heads of all layers. The module
knows layers, heads and tokens. It must not know what rollout makes of the weights, or which tokens are answers."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.masking_utils import eager_mask

from interp.errors import UserError
from interp.models.head import base_of
from interp.models.residual import Change, residual_changed

if TYPE_CHECKING:
    from peft import PeftModel

Keep = Callable[[Tensor, bool], None]
"""Takes a layer's weights [prompts, heads, queries, keys], and whether the layer has learned sinks."""
SHOWN = "shown_attention"
"""The name under which transformers knows the attention function that hands on its weights."""
PROBE = tuple(range(5, 45))
"""Token ids of the prompt by which it is tested whether a model's attention can be read."""
OFF = 0.02
"""How far the sum of a row may be from what it must be: half precision rounds each of its weights."""
LEAVE_OUT = "--leave-out rollout runs the other instruments"

_keep: ContextVar[Keep] = ContextVar("keep")


def _shown(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: object
) -> tuple[Tensor, None]:
    """The eager attention of the module's own family, soft-capping and sinks included; its weights are handed on."""
    # the modelling file of the family defines its eager function beside its attention classes
    family = inspect.unwrap(type(module).forward).__globals__
    output, weights = family["eager_attention_forward"](module, query, key, value, mask, **options)
    _keep.get()(weights, options.get("s_aux") is not None)
    return output, None


AttentionInterface.register(SHOWN, _shown)
AttentionMaskInterface.register(SHOWN, eager_mask)


@contextmanager
def attention_shown(model: "PreTrainedModel | PeftModel", keep: Keep) -> Iterator[None]:
    """While open, every layer hands its attention weights on; the model computes what it does under "eager".

    Afterwards its attention is what it was, also after an exception.

    Args:
        model: The model.
        keep: Called for each layer of each pass, first layer first.
    """
    base = base_of(model)
    owners = [module for module in base.modules() if isinstance(module, PreTrainedModel)]
    before = [(owner.config, owner.config._attn_implementation) for owner in owners]
    token = _keep.set(keep)
    try:
        base.set_attn_implementation(SHOWN)
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation
        _keep.reset(token)


class HeadMeans(Sequence[np.ndarray]):
    """The attention of one prompt averaged over heads: for each layer a matrix [tokens, tokens].

    Rows look, columns are seen. Only lower triangles are kept, row after row; a matrix is made when it is asked for:

        0 . .
        1 2 .   <-  [0 1 2 3 4 5]
        3 4 5
    """

    def __init__(self, packed: Sequence[np.ndarray], tokens: int, *, sinks: bool = False) -> None:
        """Keeps the triangles.

        Args:
            packed: For each layer its lower triangle, diagonal included, row after row, [tokens (tokens + 1) / 2].
            tokens: How many tokens the prompt has.
            sinks: Whether some layer has learned sinks.
        """
        self._packed, self._tokens = packed, tokens
        self.sinks = sinks
        """True: what a row lacks to 1 went to learned sinks. False: rows sum to 1."""

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, layer: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, layer: slice) -> "HeadMeans": ...

    def __getitem__(self, layer: int | slice) -> "np.ndarray | HeadMeans":
        if isinstance(layer, slice):
            return HeadMeans(self._packed[layer], self._tokens, sinks=self.sinks)
        square = np.zeros((self._tokens, self._tokens), dtype=self._packed[layer].dtype)
        square[np.tril_indices(self._tokens)] = self._packed[layer]
        return square


@torch.no_grad()
def head_means(
    model: "PreTrainedModel | PeftModel",
    prompts: Sequence[Sequence[int]],
    *,
    passes: int = 1,
    changes: Callable[[int], Mapping[int, Change]] = lambda begin: {},
) -> list[HeadMeans]:
    """For each prompt its attention averaged over heads, layer by layer.

    Shorter prompts are padded on the right, where the tokens of a causal model do not look.

    Args:
        model: The model, with its adapter in place.
        prompts: Token ids of the prompts, read as one batch.
        passes: Into how many passes, each continuing the one before, the reading is cut; in exact arithmetic the number
            changes nothing.
        changes: What is done to the residual stream of a pass, as in `residual_changed`, by its first token's number.

    Returns:
        The matrices of each prompt, in the order given.

    Raises:
        UserError: where not every layer shows its attention, or where rows look ahead or do not sum to 1, so that
            rollout has no meaning.
    """
    ids = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    packed: list[list[np.ndarray]] = [[] for _ in prompts]  # per prompt and layer: the triangle as far as it was read
    sunk: list[bool] = []  # for each layer of the present pass whether it has sinks

    def keep(begin: int, weights: Tensor, sinks: bool) -> None:
        layer = len(sunk)  # layers come in order: as many as have come in this pass
        # queries are the tokens of this pass, from number `begin` on; keys are all tokens up to its end
        mean = weights.mean(1, dtype=torch.float32).cpu()  # [prompts, queries, keys]
        _refuse_without_rollout(mean, begin, layer, sinks)
        if not sinks:
            mean /= mean.sum(-1, keepdim=True)  # half precision leaves the sums a little off 1
        sunk.append(sinks)
        for layers, prompt, rows in zip(packed, prompts, mean.numpy(), strict=True):
            # With begin = 2, a prompt of 4 tokens and a key of padding; x is kept:
            #
            #     token 2   x x x . .
            #     token 3   x x x x .
            #
            without_padding = rows[: max(0, len(prompt) - begin)]
            lower = without_padding[np.tril_indices(len(without_padding), begin, without_padding.shape[1])]
            # the slice is empty in the first pass, which adds the layer; later passes append their rows to it
            layers[layer : layer + 1] = [np.concatenate([*layers[layer : layer + 1], lower])]

    cache = DynamicCache() if passes > 1 else None  # keeps all tokens, of sliding layers too: windows are in the masks
    cuts = np.linspace(0, ids.shape[1], passes + 1).astype(int).tolist()
    for begin, end in pairwise(cuts):
        sunk.clear()
        part = ids[:, begin:end].to(model.device)
        with attention_shown(model, partial(keep, begin)), residual_changed(model, changes(begin)):
            model(input_ids=part, past_key_values=cache, use_cache=cache is not None, logits_to_keep=1)
    if len(sunk) != (total := model.config.get_text_config().num_hidden_layers):
        raise UserError(f"only {len(sunk)} of {total} layers show their attention: no rollout; {LEAVE_OUT}")
    return [HeadMeans(layers, len(prompt), sinks=any(sunk)) for layers, prompt in zip(packed, prompts, strict=True)]


def _refuse_without_rollout(mean: Tensor, begin: int, layer: int, sinks: bool) -> None:
    """Refuses rows that look ahead or do not sum to 1; with sinks they may sum to less.

    mean: [prompts, queries, keys]; the first query is token number `begin`."""
    sums = mean.sum(-1)  # [prompts, queries]
    gap = (sums - (sums.clamp(0, 1) if sinks else 1)).abs().max().item()
    ahead = mean.triu(begin + 1).max().item()  # query i is token begin + i: what lies to the right comes after it
    if not (gap <= OFF and ahead <= 1e-6):
        raise UserError(
            f"layer {layer}: attention rows differ from 1 by up to {gap:.3g} and look ahead by up to {ahead:.3g}: "
            f"rollout is not defined for this model; {LEAVE_OUT}"
        )


def refuse_hidden_attention(model: "PreTrainedModel | PeftModel") -> None:
    """Tests on a short prompt whether attention can be read from this model.

    Raises:
        UserError: where it cannot be read: the attention does not go through transformers' interface, or the layers are
            no causal attention.
    """
    base = base_of(model)
    name = type(base).__name__
    if not base._can_set_attn_implementation():
        raise UserError(f"{name} does not show its attention to transformers' interface: no rollout; {LEAVE_OUT}")
    vocabulary = base.config.get_text_config().vocab_size
    try:
        head_means(model, [[token % vocabulary for token in PROBE]])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{name} does not show its attention ({reason}): no rollout; {LEAVE_OUT}") from error
