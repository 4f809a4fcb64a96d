"""Puts a LoRA adapter on its base model, and takes it off again without a trace.

`with_adapter` loads one, the tokens that it adds included; `Kept` restores the base for the next adapter. The module
does not know where adapters and bases are found."""

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
"""The prefix of all names in that file; the base's own name of the module follows it."""


class Kept:
    """The state of a model at this moment, to which `restored` brings it back.

    It copies no tensor. It holds references: the attributes of all modules and configurations, and the storage and
    version of all tensors. peft's `unload` would leave whole modules, biases and traces of token adapters behind."""

    def __init__(self, model: "PreTrainedModel") -> None:
        modules = list(model.modules())
        # modules share configurations: by id, each is restored once
        configurations = {id(config): config for module in modules for config in _configurations(module)}
        self._restorers = [_restorer(owner) for owner in (*modules, *configurations.values())]
        tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
        # torch raises a tensor's version with each write into it
        self._tensors = [(tensor, tensor.data, tensor._version) for tensor in tensors]
        self._spread = len(set(getattr(model, "hf_device_map", {}).values())) > 1

    def restored(self) -> bool:
        """Puts everything back in its place.

        Returns:
            False where the model has to be loaded again all the same: something was written into its own tensors
            (biases, embeddings), or it is spread over devices, where loading an adapter moves weights.
        """
        for restore in self._restorers:
            restore()
        for tensor, data, _ in self._tensors:
            if (tensor.data_ptr(), tensor.shape) != (data.data_ptr(), data.shape):
                tensor.data = data
        return not self._spread and all(tensor._version == version for tensor, _, version in self._tensors)


def _configurations(module: nn.Module) -> Iterator[object]:
    """The configurations that a module refers to, those inside them (`text_config`) included."""
    for name in ("config", "generation_config"):
        if config := getattr(module, name, None):
            yield config
            yield from filter(None, (getattr(config, key, None) for key in getattr(config, "sub_configs", ())))


def _restorer(owner: object) -> Callable[[], None]:
    """A function that gives an object its present class and attributes back, and its containers their contents."""
    kind, attributes = type(owner), dict(vars(owner))
    # parameters, buffers and submodules of a torch module are such containers
    contents = [(value, value.copy()) for value in attributes.values() if isinstance(value, dict | list | set)]

    def restore() -> None:
        if type(owner) is not kind:  # peft gives a module whose single parameters it adapts a class of its own
            owner.__class__ = kind
        vars(owner).clear()
        vars(owner).update(attributes)
        for container, before in contents:
            container.clear()
            container.extend(before) if isinstance(container, list) else container.update(before)

    return restore


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silences peft's warnings of a property that transformers renamed, and of what merging would do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Model (has|with) `tie_word_embeddings=True`|`lora_bias=True` was passed")
        yield


def with_adapter(base: "PreTrainedModel", folder: Path) -> "PeftModel":
    """The base with the adapter of a directory on it, and with the tokens that the adapter adds.

    Args:
        base: the model, which is changed in place; `Kept` can restore it.
        folder: holds adapter_config.json and adapter_model.safetensors.

    Raises:
        UserError: where peft is missing or the adapter does not fit the base.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError("LoRA adapters need the package peft: pip install peft") from None
    try:
        added = _with_added_tokens(base, folder)
        with quiet_peft():
            # peft only warns of missing weights, and goes on with an adapter that changes nothing
            warnings.filterwarnings("error", "Found missing adapter keys")
            model: PeftModel = PeftModel.from_pretrained(base, str(folder))
    except UserError:
        raise
    except Exception as error:  # peft answers a damaged file with exceptions of any type
        raise UserError(f"--ckpt {folder}: the adapter does not fit its base model: {reason(error)}") from error
    if added:
        _refuse_unknown_rows(model, folder, added)
    return model


def _with_added_tokens(base: "PreTrainedModel", folder: Path) -> range:
    """Enlarges the base's vocabulary to the adapter's, where that is larger.

    The new rows are NaN until the adapter's file supplies them, so that `_refuse_unknown_rows` finds any that it lacks.

    Returns:
        The ids of the new tokens.

    Raises:
        UserError: where the adapter's vocabulary is smaller than the base's.
    """
    shapes, base_size = _shapes(folder / WEIGHTS), base.get_input_embeddings().get_parameter("weight").shape[0]
    names = {module: name for name, module in base.named_modules()}
    ends = [module for module in (base.get_input_embeddings(), base.get_output_embeddings()) if module is not None]
    sizes = [size for module in ends for size in _vocabularies(shapes, f"{BELOW}{names[module]}.")]
    if smaller := [size for size in sizes if size < base_size]:
        raise UserError(
            f"--ckpt {folder}: the adapter's file has {smaller[0]} tokens, its base {base_size}; "
            "a base is never made smaller"
        )
    size = max(sizes, default=base_size)
    if size > base_size:
        base.resize_token_embeddings(size, mean_resizing=False)
        for module in (base.get_input_embeddings(), base.get_output_embeddings()):
            if module is not None:
                module.get_parameter("weight").data[base_size:] = torch.nan
    return range(base_size, size)


def _shapes(weights: Path) -> Mapping[str, tuple[int, ...]]:
    """The shape of each tensor in a safetensors file, by its name, read from the header alone."""
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  (no mapping)


def _vocabularies(shapes: Mapping[str, tuple[int, ...]], name: str) -> Iterator[int]:
    """The vocabulary sizes that an adapter's tensors for the embedding or head of this name have."""
    # which dimension counts tokens: a whole matrix is [tokens, width], a LoRA factor [tokens, rank] or [rank, tokens]
    dimensions = {"weight": 0, "base_layer.weight": 0, "lora_B.weight": 0, "lora_embedding_A": 1}
    for leaf, dimension in dimensions.items():
        if shape := shapes.get(f"{name}{leaf}"):
            yield shape[dimension]


@torch.no_grad()
def _refuse_unknown_rows(model: "PeftModel", folder: Path, added: range) -> None:
    """Refuses an adapter whose file lacks rows of the embeddings or of the head for the tokens that it adds.

    Raises:
        UserError: where such a row is still NaN.
    """
    embedded = model.get_input_embeddings()(torch.tensor([list(added)], device=model.device))  # [1, added, width]
    logits = model.get_output_embeddings()(embedded[:, :1])  # [1, 1, vocabulary]: a NaN row makes a NaN logit
    if not (embedded.isfinite().all() and logits.isfinite().all()):
        raise UserError(
            f"--ckpt {folder}: the adapter adds {len(added)} tokens to its base, but its file lacks rows of the "
            "embeddings or of the head for them; save it with modules_to_save for both"
        )
