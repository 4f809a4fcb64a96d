"""The last step of a model, from hidden states to the next token, in float32 whatever the model's own precision is.

In bfloat16 a logit of 20 is a multiple of 0.125: the probabilities of ten levels are then mostly rounding. The model's
own forward pass goes up to the head. From there on only the logits that are read are formed, and their sum over the
vocabulary is taken part by part, so that a vocabulary of 256,000 entries needs little memory. The module knows hidden
states and token ids. It must not know about trees, prompts or levels."""

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
"""How many entries of the vocabulary have their logits in memory at a time."""
LARGE = 40.0
"""The size to which hidden rows are scaled for the comparison, so that a soft cap of 30 or 50 cannot hide."""
COMPARED = 8
"""How many rows of a prompt are compared."""
ROUNDINGS = 2
"""By how many roundings of the model's own precision, as a share of the largest logit, its logits may differ from those
formed here."""
FLOAT32_GAP = 1e-5
"""The difference allowed in any case, as a share of the largest logit: in float32 the order of a sum makes more than
`ROUNDINGS` roundings."""

Rows = slice | Tensor
"""Which entries of the vocabulary: rows of the head's matrix."""


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
        """Logits from the products of hidden states and some rows of the matrix.

        Args:
            products: The products, [..., entries].
            rows: The entries of the vocabulary that they belong to.

        Returns:
            Logits with bias, scale and soft cap applied, [..., entries].
        """
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

        def part_sum(part: slice) -> Tensor:
            return self.of(hidden, part).logsumexp(-1)  # [..., PART] -> [...]

        if torch.is_grad_enabled():  # each part's logits are formed again in the backward pass, not kept
            sums = [checkpoint(part_sum, part, use_reentrant=False, preserve_rng_state=False) for part in self._parts()]
        else:
            sums = [part_sum(part) for part in self._parts()]
        total: Tensor = torch.stack(sums).logsumexp(0)  # [parts, ...] -> [...]
        return total


@dataclass(frozen=True, eq=False)
class NextToken:
    """What comes next after each of some nodes; logits and probabilities are formed only when they are asked for."""

    head: Head
    """The model's last step."""
    hidden: Tensor
    """What enters it after each node that is read, [..., reads, width], float32."""
    with_gradient: bool = field(default_factory=torch.is_grad_enabled)
    """Whether results carry a gradient; by default as gradients were enabled when the nodes were read."""

    @cached_property
    def total(self) -> Tensor:
        """The logsumexp of the logits after each node, [..., reads]."""
        with torch.set_grad_enabled(self.with_gradient):
            return self.head.total(self.hidden)

    def logprobs(self, reads: Tensor, tokens: Tensor) -> Tensor:
        """Log-probability of tokens[i] after the node reads[i].

        Args:
            reads: For each pair the place of its node among those read, [pairs].
            tokens: For each pair the token id, [pairs].

        Returns:
            Log-probabilities (nats), [..., pairs].
        """
        with torch.set_grad_enabled(self.with_gradient):
            matrix = self.head.weight(tokens).to(self.hidden)  # [pairs, width]
            products = (self.hidden[..., reads, :] * matrix).sum(-1)  # [..., pairs]
            return self.head.finished(products, tokens) - self.total[..., reads]

    def logprobs_of_any(self, reads: Tensor, tokens: Tensor) -> Tensor:
        """Log-probability that one of some tokens comes after the node reads[i].

        Args:
            reads: Places of nodes among those read, [reads].
            tokens: The token ids, [tokens].

        Returns:
            Log-probabilities (nats), [..., reads].
        """
        with torch.set_grad_enabled(self.with_gradient):
            return self.head.of(self.hidden[..., reads, :], tokens).logsumexp(-1) - self.total[..., reads]

    def of_row(self, row: int) -> "NextToken":
        """The same for one row of the batch alone, [reads]."""
        return NextToken(self.head, self.hidden[row], self.with_gradient)

    def of_reads(self, reads: Sequence[int]) -> "NextToken":
        """The same for some of the nodes, in the order given, [..., reads]."""
        return NextToken(self.head, self.hidden[..., list(reads), :], self.with_gradient)

    def logits(self) -> Tensor:
        """All logits after each node, [..., reads, vocabulary]."""
        with torch.set_grad_enabled(self.with_gradient):
            return self.head.all_of(self.hidden)


def head_of(model: "PreTrainedModel | PeftModel | nn.Module") -> Head:
    """The head of a model as it is now, active adapters on it included.

    Raises:
        UserError: where it is no matrix that can be read in float32, or where an adapter on it is of an unknown kind.
    """
    base = base_of(model)
    config: Any = base.config.get_text_config()
    # Cohere names a factor (logit_scale), Granite a divisor (logits_scaling)
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
    """A layer's matrix [entries, width].

    Raises:
        UserError: where it has none, or a quantised one.
    """
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.is_meta and (hook := getattr(module, "_hf_hook", None)):
        weight = hook.weights_map["weight"]  # accelerate keeps it in memory or on disk until it is used
    if not isinstance(weight, Tensor) or weight.dim() != 2 or not weight.is_floating_point():
        raise UserError(f"the output embeddings are {type(module).__name__}: their logits cannot be read in float32")
    return weight


def _weight_of(module: Any) -> tuple[Callable[[Rows], Tensor], nn.Module]:
    """The rows of a head's matrix, active adapters included, and the layer at the bottom of whatever wraps it.

    peft puts its wrappers around the layer, perhaps several around each other; each branch below takes one off.

    Raises:
        UserError: for an adapter whose effect on the rows is not known here.
    """
    from peft.tuners.lora import Linear as LoraLinear

    if hasattr(module, "modules_to_save"):  # a trained layer in place of the original one
        active = not module.disable_adapters and module.active_adapters
        return _weight_of(module.modules_to_save[active[0]] if active else module.original_module)
    if hasattr(module, "token_adapter"):  # trained rows for some tokens in place of the original rows
        adapter = module.token_adapter
        weight, bottom = _weight_of(adapter.base_layer)
        if module.disable_adapters:
            return weight, bottom
        return lambda rows: _rows(adapter.get_merged_weights(adapter.active_adapters), rows), bottom
    if isinstance(module, LoraLinear):
        weight, bottom = _weight_of(module.base_layer)
        if module.disable_adapters or module.merged:  # merged: the matrix itself already holds the adapter
            return weight, bottom
        active = [name for name in module.active_adapters if name in module.lora_A]
        if module.training and any(not isinstance(module.lora_dropout[name], nn.Identity) for name in active):
            raise UserError("dropout on the output embeddings: --dropout 0, or leave them out of --targets")
        return lambda rows: _adapted(module, active, weight(rows), rows), bottom
    if hasattr(module, "base_layer"):  # any other wrapper of peft
        raise UserError(f"an adapter of the kind {type(module).__name__} on the output embeddings, which is not read")
    return lambda rows: _rows(_matrix_of(module), rows), module


def _rows(matrix: Tensor, rows: Rows) -> Tensor:
    """Some rows of a matrix in float32, or in the matrix's own precision where that is higher."""
    chosen = matrix[rows if isinstance(rows, slice) else rows.to(matrix.device)]
    return chosen.to(torch.promote_types(chosen.dtype, torch.float32))


def _adapted(module: Any, active: list[str], weight: Tensor, rows: Rows) -> Tensor:
    """Rows of W + s B A, or with DoRA those of m (W + s B A) / |W + s B A|, in float32.

    weight: the rows of W, [entries, width]; A is [rank, width], B is [vocabulary, rank]."""
    for name in active:
        # [rank, width] and [entries, rank]
        down, up = module.lora_A[name].weight.float(), _rows(module.lora_B[name].weight, rows)
        weight = weight + module.scaling[name] * up @ down
        if name in getattr(module, "lora_magnitude_vector", {}):
            norm = weight.norm(dim=1, keepdim=True).detach()  # [entries, 1]; a constant for the gradient, as in peft
            weight = _rows(module.lora_magnitude_vector[name].weight, rows)[:, None] / norm * weight
    return weight


@contextmanager
def hidden_kept(model: "PreTrainedModel | PeftModel | nn.Module") -> Iterator[list[Tensor]]:
    """While open, forward passes of the model stop short of its head.

    The passes are the model's own: adapters, layers spread over devices and wrappers included. While the context is
    open their logits mean nothing. Afterwards the model is as it was, also after an exception.

    Yields:
        A list to which each pass appends what would enter the head, [rows, reads, width].

    Raises:
        UserError: where the model names no output embeddings.
    """
    module: Any = _head_module(base_of(model))
    kept: list[Tensor] = []

    def keep(hidden: Tensor, *_: object, **__: object) -> Tensor:
        kept.append(hidden)
        return hidden[..., :1]  # stands for logits, [rows, reads, 1]

    # an instance may have a forward of its own, such as accelerate's; otherwise the class's one comes back by deletion
    own_forward = vars(module).get("forward")
    module.forward = keep
    try:
        yield kept
    finally:
        if own_forward is None:
            del module.forward
        else:
            module.forward = own_forward


def next_token(model: "PreTrainedModel | PeftModel | nn.Module", **fed: Any) -> NextToken:
    """What comes next after tokens that the model is fed.

    Args:
        model: The model.
        fed: The arguments of its forward pass; logits_to_keep says after how many of the last tokens.

    Returns:
        What comes next, [rows, reads].

    Raises:
        UserError: where the model does not pass its head exactly once, or the head cannot be read in float32.
    """
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
    """Compares the logits formed here with the model's own, after the same hidden rows: as they are, and scaled up.

    Args:
        model: The model.
        ids: A prompt, [1, tokens].

    Raises:
        UserError: where they differ by more than the model's own precision explains.
    """
    base, head = base_of(model), head_of(model)
    kept: list[Tensor] = []

    def doubled(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (hidden,) = args  # [1, tokens, width]
        largest = replace(head, cap=None).all_of(_exact(hidden)).abs().amax()
        # [1, 2 tokens, width]: second come the rows whose largest logit is LARGE before a cap
        kept.append(torch.cat([hidden, hidden * (LARGE / largest).to(hidden)], dim=1))
        return (kept[0],)

    hook = _head_module(base).register_forward_pre_hook(doubled)
    try:
        model_logits = model(ids, use_cache=False, logits_to_keep=COMPARED).logits  # [1, 2 tokens, vocabulary]
    finally:
        hook.remove()
    if len(kept) != 1:
        raise UserError(f"{type(base).__name__} does not pass its head once: it cannot be read in float32")
    head_logits = head.all_of(_exact(kept[0])).to(model_logits.device)
    gap = ((head_logits - model_logits).abs().amax() / head_logits.abs().amax()).item()  # share of the largest logit
    allowed = max(ROUNDINGS * torch.finfo(model.dtype).eps, FLOAT32_GAP)
    if not gap <= allowed:  # so written, NaN is refused as well
        raise UserError(
            f"{type(base).__name__}: its own logits differ from those read in float32 by {gap:.2g} of the largest one, "
            f"{allowed:.2g} are allowed; its head does something that is not known here"
        )
