"""The last step of a model, from hidden states to the next token, in float32 whatever the model's own precision is.

In bfloat16 a logit of 20 is a multiple of 0.125: what a model says of ten levels is then mostly rounding. The model's
own forward pass goes up to the head; from there on only the logits that somebody reads are formed, and their sum over
the vocabulary is taken part by part, so that a vocabulary of 256,000 entries costs no memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from interp.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel

PART = 16384
"""Entries of the vocabulary whose logits are in memory at a time."""
LARGE = 40.0
"""The size to which hidden rows are scaled for the comparison, so that a soft cap of 30 or 50 cannot hide."""
COMPARED = 8
"""How many rows of a prompt are compared."""
ROUNDINGS = 2
"""By how many roundings of the model's own precision its largest logit may differ from ours."""
FLOAT32_GAP = 1e-5
"""The same in float32, where the order of a sum counts, as a share of the largest logit."""

Rows = slice | Tensor
"""Which entries of the vocabulary."""


@dataclass(frozen=True, eq=False)
class Head:
    """Hidden states to logits: a matrix, perhaps a bias, and what the architecture does to each logit afterwards."""

    weight: Callable[[Rows], Tensor]
    """The matrix's rows [entries, width] in float32, with whatever adapters are active on them."""
    size: int
    """How many entries the vocabulary has."""
    bias: Tensor | None = None
    """Added to the logits, [vocabulary]."""
    cap: float | None = None
    """Soft cap: a logit x becomes cap tanh(x / cap) (Gemma-2)."""
    scale: float = 1.0
    """What logits are multiplied by (Cohere, Granite)."""

    def finished(self, products: Tensor, rows: Rows) -> Tensor:
        """Logits from the products of hidden states and the matrix's `rows`, [..., entries]."""
        logits = products if self.bias is None else products + self.bias[rows].float()
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def of(self, hidden: Tensor, rows: Rows) -> Tensor:
        """Logits [..., entries] of some entries of the vocabulary after hidden states [..., width]."""
        return self.finished(hidden @ self.weight(rows).to(hidden).T, rows)

    def all_of(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] after hidden states [..., width]."""
        return torch.cat([self.of(hidden, part) for part in self._parts()], dim=-1)

    def _parts(self) -> list[slice]:
        return [slice(start, start + PART) for start in range(0, self.size, PART)]

    def total(self, hidden: Tensor) -> Tensor:
        """The logsumexp [...] over the whole vocabulary after hidden states [..., width]."""

        def of_part(part: slice) -> Tensor:
            return self.of(hidden, part).logsumexp(-1)

        if torch.is_grad_enabled():  # each part's logits are formed again on the way back
            sums = [checkpoint(of_part, part, use_reentrant=False, preserve_rng_state=False) for part in self._parts()]
        else:
            sums = [of_part(part) for part in self._parts()]
        total: Tensor = torch.stack(sums).logsumexp(0)
        return total


@dataclass(frozen=True, eq=False)
class NextToken:
    """What a model says comes next, after each of some nodes; formed where it is asked for."""

    head: Head
    """The model's last step."""
    hidden: Tensor
    """What enters it after each node that is read, [..., reads, width], float32."""
    with_gradient: bool = field(default_factory=torch.is_grad_enabled)
    """Whether what is formed can be traced back; as it was when the nodes were read."""

    @cached_property
    def total(self) -> Tensor:
        """The logsumexp of the logits after each node, [..., reads]."""
        with torch.set_grad_enabled(self.with_gradient):
            return self.head.total(self.hidden)

    def logprobs(self, reads: Tensor, tokens: Tensor) -> Tensor:
        """Log-probability of tokens[i] after the node reads[i], [..., pairs]."""
        with torch.set_grad_enabled(self.with_gradient):
            matrix = self.head.weight(tokens).to(self.hidden)  # [pairs, width]
            products = (self.hidden[..., reads, :] * matrix).sum(-1)
            return self.head.finished(products, tokens) - self.total[..., reads]

    def logprobs_of_any(self, reads: Tensor, tokens: Tensor) -> Tensor:
        """Log-probability that one of `tokens` comes after the node reads[i], [..., reads]."""
        with torch.set_grad_enabled(self.with_gradient):
            return self.head.of(self.hidden[..., reads, :], tokens).logsumexp(-1) - self.total[..., reads]

    def of_row(self, row: int) -> "NextToken":
        """The same of one row, [reads]."""
        return NextToken(self.head, self.hidden[row], self.with_gradient)

    def of_reads(self, reads: Sequence[int]) -> "NextToken":
        """The same of some of the nodes, [..., reads]."""
        return NextToken(self.head, self.hidden[..., list(reads), :], self.with_gradient)

    def logits(self) -> Tensor:
        """All logits after each node, [..., reads, vocabulary]."""
        with torch.set_grad_enabled(self.with_gradient):
            return self.head.all_of(self.hidden)


def head_of(model: "PreTrainedModel | PeftModel | nn.Module") -> Head:
    """The head of a model as it is now, active adapters on it included.

    Errors: UserError where it is no matrix that can be read in float32."""
    base = base_of(model)
    config: Any = base.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    cap = getattr(config, "final_logit_softcapping", None)
    weight, bottom = _weight_of(_head_module(base))
    bias = getattr(bottom, "bias", None)
    return Head(weight, len(_matrix_of(bottom)), bias if isinstance(bias, Tensor) else None, cap, float(scale))


def base_of(model: "PreTrainedModel | PeftModel | nn.Module") -> PreTrainedModel:
    """The transformers model within whatever wraps it."""
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def _head_module(base: PreTrainedModel) -> nn.Module:
    module = base.get_output_embeddings()
    if not isinstance(module, nn.Module):
        raise UserError(f"{type(base).__name__} names no output embeddings: its logits cannot be read in float32")
    return module


def _matrix_of(module: nn.Module) -> Tensor:
    """A layer's matrix [entries, width]. Errors: UserError where it has none, or a quantised one."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.is_meta and (hook := getattr(module, "_hf_hook", None)):
        weight = hook.weights_map["weight"]  # accelerate keeps it in memory or on disk until it is used
    if not isinstance(weight, Tensor) or weight.dim() != 2 or not weight.is_floating_point():
        raise UserError(f"the output embeddings are {type(module).__name__}: their logits cannot be read in float32")
    return weight


def _weight_of(module: Any) -> tuple[Callable[[Rows], Tensor], nn.Module]:
    """The rows of a head's matrix, active adapters included, and the layer at the bottom of whatever wraps it.

    Errors: UserError for an adapter whose effect on them is not known here."""
    from peft.tuners.lora import Linear as LoraLinear

    if hasattr(module, "modules_to_save"):  # a layer in place of another
        active = not module.disable_adapters and module.active_adapters
        return _weight_of(module.modules_to_save[active[0]] if active else module.original_module)
    if hasattr(module, "token_adapter"):  # some tokens' rows in place of others
        adapter = module.token_adapter
        weight, bottom = _weight_of(adapter.base_layer)
        if module.disable_adapters:
            return weight, bottom
        return lambda rows: _rows(adapter.get_merged_weights(adapter.active_adapters), rows), bottom
    if isinstance(module, LoraLinear):
        weight, bottom = _weight_of(module.base_layer)
        if module.disable_adapters or module.merged:
            return weight, bottom
        active = [name for name in module.active_adapters if name in module.lora_A]
        if module.training and any(not isinstance(module.lora_dropout[name], nn.Identity) for name in active):
            raise UserError("dropout on the output embeddings: --dropout 0, or leave them out of --targets")
        return lambda rows: _adapted(module, active, weight(rows), rows), bottom
    if hasattr(module, "base_layer"):
        raise UserError(f"an adapter of the kind {type(module).__name__} on the output embeddings, which is not read")
    return lambda rows: _rows(_matrix_of(module), rows), module


def _rows(matrix: Tensor, rows: Rows) -> Tensor:
    found = matrix[rows if isinstance(rows, slice) else rows.to(matrix.device)]
    return found.to(torch.promote_types(found.dtype, torch.float32))


def _adapted(module: Any, active: list[str], weight: Tensor, rows: Rows) -> Tensor:
    """Rows of W + s B A, or with DoRA those of m (W + s B A) / |W + s B A|, in float32."""
    for name in active:
        down, up = module.lora_A[name].weight.float(), _rows(module.lora_B[name].weight, rows)
        weight = weight + module.scaling[name] * up @ down
        if name in getattr(module, "lora_magnitude_vector", {}):
            norm = weight.norm(dim=1, keepdim=True).detach()
            weight = _rows(module.lora_magnitude_vector[name].weight, rows)[:, None] / norm * weight
    return weight


@contextmanager
def hidden_kept(model: "PreTrainedModel | PeftModel | nn.Module") -> Iterator[list[Tensor]]:
    """While open, forward passes of the model stop short of its head: what would enter it is appended to the list.

    The passes are the model's own, adapters, spread layers and wrapping processes included; their logits mean nothing
    while it is open. Afterwards the model is as it was, also after an exception."""
    module: Any = _head_module(base_of(model))
    kept: list[Tensor] = []

    def keep(hidden: Tensor, *_: object, **__: object) -> Tensor:
        kept.append(hidden)
        return hidden[..., :1]

    own = vars(module).get("forward")
    module.forward = keep
    try:
        yield kept
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def next_token(model: "PreTrainedModel | PeftModel | nn.Module", **fed: Any) -> NextToken:
    """What comes next after each token that the model was fed, [rows, reads].

    fed: the arguments of the forward pass; logits_to_keep says which tokens are read. Errors: UserError."""
    with hidden_kept(model) as kept:
        model(**fed)
    if len(kept) != 1:
        raise UserError(f"{type(base_of(model)).__name__} does not pass its head once: it cannot be read in float32")
    return following(model, kept[0])


def following(model: "PreTrainedModel | PeftModel | nn.Module", hidden: Tensor) -> NextToken:
    """What comes next where hidden states [..., reads, width] enter the model's head."""
    return NextToken(head_of(model), _exact(hidden))


def _exact(hidden: Tensor) -> Tensor:
    return hidden.to(torch.promote_types(hidden.dtype, torch.float32))


@torch.no_grad()
def refuse_unlike_head(model: "PreTrainedModel | PeftModel", ids: Tensor) -> None:
    """Compares our logits with the model's own, after the same hidden rows: as they are, and scaled up.

    ids: a prompt, [1, tokens]. Errors: UserError where they differ by more than the model's own precision explains."""
    base, head = base_of(model), head_of(model)
    kept: list[Tensor] = []

    def doubled(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (hidden,) = args  # [1, tokens, width]
        largest = replace(head, cap=None).all_of(_exact(hidden)).abs().amax()
        kept.append(torch.cat([hidden, hidden * (LARGE / largest).to(hidden)], dim=1))
        return (kept[0],)

    hook = _head_module(base).register_forward_pre_hook(doubled)
    try:
        own = model(ids, use_cache=False, logits_to_keep=COMPARED).logits
    finally:
        hook.remove()
    if len(kept) != 1:
        raise UserError(f"{type(base).__name__} does not pass its head once: it cannot be read in float32")
    ours = head.all_of(_exact(kept[0])).to(own.device)
    gap = ((ours - own).abs().amax() / ours.abs().amax()).item()
    allowed = max(ROUNDINGS * torch.finfo(model.dtype).eps, FLOAT32_GAP)
    if not gap <= allowed:
        raise UserError(
            f"{type(base).__name__}: its own logits differ from those read in float32 by {gap:.2g} of the largest one, "
            f"{allowed:.2g} are allowed; its head does something that is not known here"
        )
