"""The residual stream of a model as it is, adapter in place: kept, or changed, while the model computes.

A layer is named by how many layers the stream has passed: 0 stands for the embeddings, the model's depth for what
enters its last norm. The module knows layers and tensors. It must not know trees, prompts or what is measured."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import UserError
from interp.models.head import base_of

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Change = Callable[[Tensor], Tensor]
"""The residual stream [rows, places, width] -> what takes its place, of the same shape."""


@dataclass(frozen=True, eq=False)
class Steering:
    """What is added, and where."""

    layer: int
    """How many layers the stream has passed where the vector is added."""
    vector: Float[np.ndarray, " width"]
    """What is added to the stream of every token from the first one after the answer on."""


def depth_of(model: "PreTrainedModel | PeftModel") -> int:
    """How many layers the model has."""
    return int(base_of(model).config.get_text_config().num_hidden_layers)


def decoder_layers(model: "PreTrainedModel | PeftModel") -> nn.ModuleList:
    """The layers that the residual stream passes one after the other.

    Raises:
        UserError: where the model has no such list, or several.
    """
    base, depth = base_of(model), depth_of(model)
    lists = [
        module
        for module in base.modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == depth
        and all(_numbers(layer) == {number} for number, layer in enumerate(module))
    ]
    if len(lists) != 1:
        raise UserError(
            f"{type(base).__name__} names no list of {depth} layers that its residual stream passes: "
            "flow, probe and steering cannot run on it; --leave-out leaves them out"
        )
    return lists[0]


def _numbers(layer: nn.Module) -> set[int]:
    """The numbers that the parts of a layer say they belong to."""
    numbers = (getattr(module, "layer_idx", None) for module in layer.modules())
    return {number for number in numbers if isinstance(number, int)}


@contextmanager
def residual_changed(model: "PreTrainedModel | PeftModel", changes: Mapping[int, Change]) -> Iterator[None]:
    """While open, the residual stream is changed as it enters layers; the hooks are gone afterwards in any case.

    Args:
        model: The model, with its adapter in place.
        changes: What is done to the stream, by how many layers it has passed.

    Raises:
        UserError: where the model's layers are not known, or the stream is not [rows, places, width].
        ValueError: for more layers than the model has.
    """
    if not changes:
        yield
        return
    layers = decoder_layers(model)
    if outside := [layer for layer in changes if not 0 <= layer <= len(layers)]:
        raise ValueError(f"the model has {len(layers)} layers, so 0 to {len(layers)}; not {outside[0]}")
    hooks = []
    try:
        for passed, change in changes.items():
            if passed < len(layers):
                hooks.append(layers[passed].register_forward_pre_hook(partial(_entering, change), with_kwargs=True))
            else:
                hooks.append(layers[-1].register_forward_hook(partial(_leaving, change)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def residual_kept(model: "PreTrainedModel | PeftModel", layers: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """While open, one forward pass leaves its residual stream behind.

    Args:
        model: The model, with its adapter in place.
        layers: How many layers the stream has passed.

    Yields:
        A dict that the pass fills: by layer the stream, [rows, places, width].

    Raises:
        UserError, ValueError: as `residual_changed`.
    """
    kept: dict[int, Tensor] = {}

    def keep(layer: int, stream: Tensor) -> Tensor:
        kept[layer] = stream.detach().clone()  # a later layer may write into it
        return stream

    with residual_changed(model, {layer: partial(keep, layer) for layer in layers}):
        yield kept


def _entering(
    change: Change, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A forward pre-hook: a layer takes the stream as its first argument, or by name."""
    if args:
        return (_changed(change, module, args[0]), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": _changed(change, module, kwargs.get("hidden_states"))}


def _leaving(change: Change, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """A forward hook: a layer gives the stream back alone, or first in a tuple."""
    if isinstance(output, tuple):
        return (_changed(change, module, output[0]), *output[1:])
    return _changed(change, module, output)


def _changed(change: Change, module: nn.Module, stream: Any) -> Tensor:
    if not isinstance(stream, Tensor) or stream.dim() != 3:
        raise UserError(f"{type(module).__name__} passes no residual stream of [rows, places, width] on")
    return change(stream)
