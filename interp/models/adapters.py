"""A LoRA adapter on its base: put on it, and taken off again so that nothing of it stays."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from interp.errors import UserError
from interp.plain import reason

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
"""The file of an adapter's weights."""
BELOW = "base_model.model."
"""How the names in that file begin; what follows is the base's own name of a module."""


class Kept:
    """A model as it is now, by identity: what its modules and configurations hold, and which tensors in which storage.

    peft's `unload` leaves whole modules, biases and token adapters' traces behind."""

    def __init__(self, model: "PreTrainedModel") -> None:
        modules = list(model.modules())
        configurations = {id(one): one for module in modules for one in _configurations(module)}
        self._restorers = [_restorer(one) for one in (*modules, *configurations.values())]
        tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
        self._tensors = [(tensor, tensor.data, tensor._version) for tensor in tensors]
        self._spread = len(set(getattr(model, "hf_device_map", {}).values())) > 1

    def restored(self) -> bool:
        """Puts everything back in its place; False where the model has to be loaded again all the same: something was
        written into its own tensors (biases, embeddings), or it is spread, where loading an adapter moves weights."""
        for restore in self._restorers:
            restore()
        for tensor, data, _ in self._tensors:
            if (tensor.data_ptr(), tensor.shape) != (data.data_ptr(), data.shape):
                tensor.data = data
        return not self._spread and all(tensor._version == version for tensor, _, version in self._tensors)


def _configurations(module: nn.Module) -> Iterator[object]:
    for name in ("config", "generation_config"):
        if found := getattr(module, name, None):
            yield found
            yield from filter(None, (getattr(found, key, None) for key in getattr(found, "sub_configs", ())))


def _restorer(thing: object) -> Callable[[], None]:
    """Gives an object back its class and attributes, and those that are containers what stood in them."""
    kind, attributes = type(thing), dict(vars(thing))
    contents = [(one, one.copy()) for one in attributes.values() if isinstance(one, dict | list | set)]

    def restore() -> None:
        if type(thing) is not kind:  # a module whose single parameters are adapted is of a class of its own
            thing.__class__ = kind
        vars(thing).clear()
        vars(thing).update(attributes)
        for one, before in contents:
            one.clear()
            one.extend(before) if isinstance(one, list) else one.update(before)

    return restore


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Without peft's words on a property that transformers renamed, and on what merging would do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Model (has|with) `tie_word_embeddings=True`|`lora_bias=True` was passed")
        yield


def with_adapter(base: "PreTrainedModel", folder: Path) -> "PeftModel":
    """The base with the adapter of a directory on it, and with the tokens that the adapter adds.

    Errors: UserError where the adapter does not fit."""
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError("LoRA adapters need the package peft: pip install peft") from None
    try:
        added = _with_added_tokens(base, folder)
        with quiet_peft():
            # otherwise peft goes on with an adapter that changes nothing
            warnings.filterwarnings("error", "Found missing adapter keys")
            model: PeftModel = PeftModel.from_pretrained(base, str(folder))
    except UserError:
        raise
    except Exception as error:  # peft meets a strange file with exceptions of any type
        raise UserError(f"--ckpt {folder}: the adapter does not fit its base model: {reason(error)}") from error
    if added:
        _refuse_unknown_rows(model, folder, added)
    return model


def _with_added_tokens(base: "PreTrainedModel", folder: Path) -> range:
    """Raises the base's vocabulary to the adapter's, where that is larger; the new rows are no numbers until the
    adapter's file gives them. Returns the new tokens."""
    shapes, known = _shapes(folder / WEIGHTS), base.get_input_embeddings().get_parameter("weight").shape[0]
    named = {module: name for name, module in base.named_modules()}
    ends = [module for module in (base.get_input_embeddings(), base.get_output_embeddings()) if module is not None]
    found = [size for module in ends for size in _vocabularies(shapes, f"{BELOW}{named[module]}.")]
    if small := [size for size in found if size < known]:
        raise UserError(
            f"--ckpt {folder}: the adapter's file has {small[0]} tokens, its base {known}; a base is never made smaller"
        )
    size = max(found, default=known)
    if size > known:
        base.resize_token_embeddings(size, mean_resizing=False)
        for module in (base.get_input_embeddings(), base.get_output_embeddings()):
            if module is not None:
                module.get_parameter("weight").data[known:] = torch.nan
    return range(known, size)


def _shapes(weights: Path) -> Mapping[str, tuple[int, ...]]:
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  (no mapping)


def _vocabularies(shapes: Mapping[str, tuple[int, ...]], name: str) -> Iterator[int]:
    """The numbers of tokens that an adapter's tensors for one embedding or head have."""
    dimensions = {"weight": 0, "base_layer.weight": 0, "lora_B.weight": 0, "lora_embedding_A": 1}
    for leaf, dimension in dimensions.items():
        if shape := shapes.get(f"{name}{leaf}"):
            yield shape[dimension]


@torch.no_grad()
def _refuse_unknown_rows(model: "PeftModel", folder: Path, added: range) -> None:
    """Errors: UserError where the file gives the tokens that it adds no embedding, or no row of the head."""
    embedded = model.get_input_embeddings()(torch.tensor([list(added)], device=model.device))
    head = model.get_output_embeddings()(embedded[:, :1])
    if not (embedded.isfinite().all() and head.isfinite().all()):
        raise UserError(
            f"--ckpt {folder}: the adapter adds {len(added)} tokens to its base, but its file lacks rows of the "
            "embeddings or of the head for them; save it with modules_to_save for both"
        )
