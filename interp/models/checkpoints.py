"""Finds and loads the checkpoint that --ckpt names: the embedded model, a directory, a GGUF file, a hub id, or a LoRA
adapter on any of them.

`source_of` finds the files and refuses unusable ones; `each_checkpoint` loads them. The module knows nothing of
prompts, confidence formats and instruments."""

import hashlib
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from interp.errors import UserError
from interp.models.embedded import EMBEDDED_NAME, EMBEDDED_NOTE, embedded_checkpoint, gguf_checkpoint
from interp.models.precision import exact_products
from interp.plain import reason

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

    AnyModel = TypeVar("AnyModel", PreTrainedModel, PeftModel)

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it; it warns of kernels not needed here
WHOLE_BYTES = 1 << 31
"""Files of weights up to this size are read whole for their fingerprint."""
RUN_FILES = ("config.json", "summary.json")
"""Files that a training run keeps beside its adapter. They do not describe the weights: the fingerprint skips them."""
EXAMPLE_NAME = "smollm2-135m-advice"
EXAMPLE = Path(__file__).parents[1] / "data" / "advice"
"""An ADVICE adapter on the embedded model. Its card says how it was trained and what was measured."""
EMBEDDED_SHOTS = 3
"""The embedded model needs worked examples: without them it states "10" for most answers and answers few questions."""


Quantization = Literal["none", "4bit"]
LINE_END = re.compile(r"[Ġĉč▁ \t\r]*\.?[Ġĉč▁ \t\r]*(\n|Ċ|<0x0A>)")
"""Matches a token, as the vocabulary writes it, that ends a line.

A newline is a plain "\\n", "Ċ" in byte-level BPE, or "<0x0A>" as a byte of sentencepiece. Blanks and one full stop may
stand before it. Byte-level BPE writes a blank, a tab and a carriage return as Ġ, ĉ and č; sentencepiece writes a blank
as ▁."""
QUANTIZED = {"4bit": "weights quantised to 4 bits (NF4) when they were loaded"}
"""The note that every number from a checkpoint quantised in this way must carry."""


@dataclass(frozen=True)
class Loading:
    """How a checkpoint is loaded into memory."""

    device: str = "auto"
    """auto: cuda, else mps, else cpu. Otherwise one of these, or a numbered GPU (cuda:1)."""
    dtype: str = "auto"
    """auto: float32 wherever weights and run fit the device, else bfloat16."""
    training: bool = False
    """Loaded for training, or for the sampling before it: auto is then bfloat16 on every accelerator."""
    device_map: Literal["none", "auto"] = "none"
    """auto: accelerate spreads the layers over all GPUs, then memory, then disk."""
    quantization: Quantization = "none"
    """How bitsandbytes quantises the weights."""
    remote_code: bool = False
    """Whether code that the checkpoint brings may run."""

    def __post_init__(self) -> None:
        if self.device_map == "auto" and self.device not in ("auto", "cuda"):
            raise UserError(f"--device-map auto uses all devices, --device {self.device} only one; give one of them")
        if self.quantization != "none" and not find_spec("bitsandbytes"):
            needed = "the package bitsandbytes: pip install 'advice-calibration[quantization]'"
            raise UserError(f"--quantization {self.quantization} needs {needed}")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded model with everything that the measures need to know of it."""

    name: str
    """The value of --ckpt."""
    model: "PreTrainedModel | PeftModel"
    """In evaluation mode, weights frozen; a PeftModel where the checkpoint is an adapter."""
    tokenizer: "PreTrainedTokenizerBase"
    """The checkpoint's own tokenizer."""
    note: str = ""
    """A note that every number from this checkpoint must carry, such as an earlier quantisation of its weights."""
    shots: int = 0
    """How many worked examples its preset puts into a prompt."""
    fingerprint: str = ""
    """Twelve hex digits over the local files, followed by the hub's commit where there is one."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Token ids that end the text, as the generation configuration and the tokenizer say, in rising order.

        Raises:
            UserError: where the generation configuration names a token that the model does not have.
        """
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        ends = ends if isinstance(ends, list | tuple) else [ends] if ends is not None else []  # one id, several or none
        size = self.model.config.get_text_config().vocab_size
        if unknown := [end for end in ends if type(end) is not int or not 0 <= end < size]:
            raise UserError(f"--ckpt {self.name}: its turns end with the token {unknown[0]!r}, which does not exist")
        tokenizer_ends = [self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else []
        return tuple(sorted({*ends, *tokenizer_ends}))

    @cached_property
    def line_ends(self) -> tuple[int, ...]:
        """Ids of the tokens that end a line; blanks and one full stop may precede the newline (" \\n", ".\\n")."""
        vocabulary = self.tokenizer.get_vocab().items()
        return tuple(sorted(index for token, index in vocabulary if LINE_END.match(token)))

    @cached_property
    def mean_embedding(self) -> "torch.Tensor":
        """The mean [width] over the vocabulary of the embeddings, as the first layer receives them.

        The embedding module is called, not its weight read: some models (Gemma) scale in it. Partial sums are
        added in float64."""
        import torch

        table = self.model.get_input_embeddings()
        count = self.model.config.get_text_config().vocab_size
        parts = torch.split(torch.arange(count, device=self.model.device), 4096)  # bounds the memory of one lookup
        with torch.no_grad():
            sums = torch.stack([table(part).float().sum(0).cpu().double() for part in parts])  # [parts, width]
        mean: torch.Tensor = sums.sum(0) / count
        return mean

    @property
    def context(self) -> int | None:
        """The longest prompt, in tokens, that the model was built for; None where its configuration names no length."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)


@dataclass(frozen=True)
class Source:
    """Where a checkpoint's files are."""

    model: str
    """A directory or a hub id: what transformers loads."""
    revision: str | None = None
    """The hub's revision."""
    adapter: Path | None = None
    """The directory of a LoRA adapter to put on the model."""
    note: str = ""
    """The note that every number must carry; see `Checkpoint.note`."""
    shots: int = 0
    """The preset's number of worked examples."""
    base_name: str = ""
    """The value of --ckpt that names the model without its adapter."""
    oddity: str = ""
    """A harmless oddity of the files that the user is told of; empty where there is none."""


def source_of(ckpt: str, *, remote_code: bool = False) -> Source:
    """Where the files of `ckpt` are. Reads small files only, so that errors are reported before anything is loaded.

    Args:
        ckpt: a value of --ckpt.
        remote_code: whether code that the checkpoint brings may run.

    Raises:
        UserError: for an unknown name, a directory without a model, a pickle-only checkpoint, or a missing base.
    """
    if ckpt == EMBEDDED_NAME:
        return Source(str(embedded_checkpoint()), note=EMBEDDED_NOTE, shots=EMBEDDED_SHOTS, base_name=ckpt)
    path = EXAMPLE if ckpt == EXAMPLE_NAME else _place(ckpt)
    if path.is_dir():
        return _directory(path, remote_code=remote_code)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"--ckpt {ckpt}: there is no such file")
        return Source(str(gguf_checkpoint(path)), note="weights dequantised from GGUF", base_name=str(path.resolve()))
    if path.exists() or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?(@[\w./-]+)?", ckpt):
        raise UserError(
            f"--ckpt {ckpt}: neither a directory, a .gguf file, a hub id, {EMBEDDED_NAME} nor {EXAMPLE_NAME}"
        )
    name, _, revision = ckpt.partition("@")
    return Source(name, revision=revision or None, base_name=ckpt)


def _place(ckpt: str) -> Path:
    """`ckpt` read as a path.

    Raises:
        UserError: where no file system can hold such a path.
    """
    try:
        path = Path(ckpt).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a NUL
        raise UserError(f"--ckpt {ckpt[:200]}: no path ({reason(error)})") from None
    return path


def _directory(path: Path, *, remote_code: bool) -> Source:
    """The source of a directory that holds a model or an adapter.

    Raises:
        UserError: where it holds both or neither, pickled weights only, or code that was not allowed to run.
    """
    adapter_files, model_files = _adapter_weights(path), _model_weights(path)
    loadable = [
        [file.name for file in files if file.suffix == ".safetensors"] for files in (model_files, adapter_files)
    ]
    if all(loadable):  # pickled weights do not count: they are never opened
        both = f"a model ({loadable[0][0]}) and an adapter ({loadable[1][0]})"
        raise UserError(f"--ckpt {path}: holds {both}; keep one of them there")
    if _is_adapter(path):
        return _adapter(path, remote_code=remote_code)
    if not (path / "config.json").is_file():
        raise UserError(f"--ckpt {path}: the directory holds neither config.json nor adapter_config.json")
    config = _json(path / "config.json")
    if "auto_map" in config and not remote_code:
        raise UserError(f"--ckpt {path}: the checkpoint brings code of its own; read it, then pass --trust-remote-code")
    if not any(file.suffix == ".safetensors" for file in model_files):
        kind = (
            f"only pickled weights ({model_files[0].name}); convert them to safetensors"
            if model_files
            else "no weights"
        )
        raise UserError(f"--ckpt {path}: the directory holds {kind}")
    left_over = (path / "adapter_config.json").is_file()
    note = f"{path}: its adapter_config.json is not read, there are no weights of an adapter" if left_over else ""
    return Source(str(path), base_name=str(path.resolve()), oddity=note)


def _is_adapter(path: Path) -> bool:
    has_model = any(file.suffix == ".safetensors" for file in _model_weights(path))
    return (path / "adapter_config.json").is_file() and not has_model


def _adapter_weights(path: Path) -> list[Path]:
    return sorted(path.glob("adapter_model.*"))


def _model_weights(path: Path) -> list[Path]:
    """Files of weights that belong to a model, not to an adapter, safetensors first."""
    weights = [file for kind in ("safetensors", "bin", "pt", "pth") for file in sorted(path.glob(f"*.{kind}"))]
    return [file for file in weights if file not in _adapter_weights(path) and file.name != "training_args.bin"]


def _adapter(path: Path, *, remote_code: bool) -> Source:
    """The source of an adapter's directory: that of its base, with the adapter to put on it.

    Raises:
        UserError: where the adapter is of a kind that is not supported, or its base is missing or itself an adapter.
    """
    if not (path / "adapter_model.safetensors").is_file():
        raise UserError(f"--ckpt {path}: the adapter has no adapter_model.safetensors; pickled weights are not loaded")
    config = _json(path / "adapter_config.json")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"--ckpt {path}: adapter_config.json names no base model")
    if config.get("megatron_config"):  # peft would import a module whose name the adapter gives
        raise UserError(f"--ckpt {path}: an adapter for Megatron, which is not read")
    if config.get("alora_invocation_tokens"):  # its weights would apply only from some token of the prompt on
        raise UserError(f"--ckpt {path}: an activated LoRA, which is not read")
    where = str(path / base) if _place(str(path / base)).is_dir() else base  # a relative path starts at the adapter
    if where == EXAMPLE_NAME or _is_adapter(_place(where)):
        raise UserError(f"--ckpt {path}: its base {base} is itself an adapter; merge that one first")
    try:
        base_source = source_of(where, remote_code=remote_code)
    except UserError as error:
        raise UserError(f"--ckpt {path}: its base model is missing ({error})") from None
    return replace(_at_revision(path, base_source, config.get("revision")), adapter=path)


def _at_revision(path: Path, base: Source, revision: object) -> Source:
    """The base in the revision that the adapter was trained on; only a base from the hub has revisions.

    Raises:
        UserError: where the base's own name asks for another revision, or the revision is not a text.
    """
    if Path(base.model).is_dir() or revision in (None, ""):
        return base
    if not isinstance(revision, str) or base.revision not in (None, revision):
        raise UserError(
            f"--ckpt {path}: adapter_config.json names {base.base_name} and the revision {revision!r} of its base"
        )
    return replace(base, revision=revision, base_name=f"{base.model}@{revision}")


def _json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({reason(error)})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content


def loaded_tokenizer(ckpt: str, *, remote_code: bool = False) -> "tuple[PreTrainedTokenizerBase, int]":
    """The checkpoint's tokenizer and its preset's number of worked examples, without loading the model."""
    source = source_of(ckpt, remote_code=remote_code)
    return _tokenizer(ckpt, source, remote_code), source.shots


def _tokenizer(ckpt: str, source: Source, remote_code: bool) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    # an adapter that adds tokens or changes the chat template brings a tokenizer, which then replaces the base's
    brought = source.adapter if source.adapter and (source.adapter / "tokenizer_config.json").is_file() else None
    where, revision = (str(brought), None) if brought else (source.model, source.revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=remote_code)
        tokenizer("x")  # some configurations load, but fail at the first use
    except Exception as error:  # transformers and tokenizers answer a damaged file with exceptions of any type
        raise _not_loaded(ckpt, source, error) from error
    return tokenizer


def _not_loaded(ckpt: str, source: Source, error: Exception) -> UserError:
    return UserError(f"--ckpt {ckpt}: {source.model} could not be loaded: {reason(error)}")


def loaded_checkpoint(ckpt: str, loading: Loading | None = None) -> Checkpoint:
    """The checkpoint on its device, frozen and in evaluation mode."""
    return next(each_checkpoint([ckpt], loading))


def each_checkpoint(ckpts: Sequence[str], loading: Loading | None = None) -> Iterator[Checkpoint]:
    """Loads the checkpoints one after the other, like `loaded_checkpoint`. Neighbours on one base share it in memory.

    A checkpoint must not be used any more once the next one is asked for: its adapter is then taken off the base.

    Args:
        ckpts: values of --ckpt.
        loading: how they are loaded; by default `Loading()`.

    Yields:
        The checkpoints in this order, on their device, frozen and in evaluation mode.

    Raises:
        UserError: where one of them cannot be found, loaded or run. Missing files of any are reported first.
    """
    from interp.models.adapters import Kept, with_adapter

    loading = loading or Loading()
    sources = [source_of(ckpt, remote_code=loading.remote_code) for ckpt in ckpts]
    place = device_named(loading.device)
    loaded: tuple[Source, PreTrainedModel] | None = None  # the base in memory, and where it came from
    for ckpt, source in zip(ckpts, sources, strict=True):
        if source.oddity:
            print(f"note: {source.oddity}", file=sys.stderr)
        fingerprint, tokenizer = _fingerprint(source), _tokenizer(ckpt, source, loading.remote_code)
        if loaded is None or (loaded[0].model, loaded[0].revision) != (source.model, source.revision):
            loaded = None  # frees the previous base before the next one is loaded
            loaded = source, _placed(_base(ckpt, source, place, loading), place, loading)
        base = loaded[1]
        kept = Kept(base) if source.adapter else None  # the base's state, to be restored after the adapter
        model = _placed(with_adapter(base, source.adapter), place, loading) if source.adapter else base
        model = model.eval().requires_grad_(False)
        _refuse_unknown_tokens(ckpt, model, tokenizer)
        note = "; ".join(filter(None, (source.note, QUANTIZED.get(loading.quantization))))
        yield Checkpoint(ckpt, model, tokenizer, note, source.shots, f"{fingerprint}{_commit(model)}")
        del model, base
        if kept and not kept.restored():
            loaded = None  # the adapter's traces cannot be removed: the next checkpoint loads its base anew
        del kept  # it refers to all tensors of the base


def held_checkpoint(model: "PreTrainedModel | PeftModel", tokenizer: "PreTrainedTokenizerBase") -> Checkpoint:
    """The checkpoint of a model that is in memory already.

    Raises:
        UserError: where the model cannot be measured, as with `each_checkpoint`.
    """
    from interp.models.head import base_of

    base = base_of(model)
    name = str(getattr(base.config, "_name_or_path", "") or type(base).__name__)
    if model is not base:
        name += f" with the adapter {', '.join(active_adapters(model))}"
    exact_products(str(model.device))
    refuse_lacking_kernel(name, base)
    _refuse_unknown_tokens(name, model, tokenizer)
    note = "weights quantised when they were loaded" if getattr(model, "is_quantized", False) else ""
    return Checkpoint(name, model, tokenizer, note)


def active_adapters(model: "PreTrainedModel | PeftModel") -> list[str]:
    """The names of the adapters that are active in a model in memory."""
    return [str(name) for name in getattr(model, "active_adapters", [])] if hasattr(model, "peft_config") else []


def _placed(model: "AnyModel", place: str, loading: Loading) -> "AnyModel":
    """The model moved to its device as a whole, unless transformers has placed its layers already."""
    return model.to(place) if _placement(place, loading) is None else model  # type: ignore[arg-type]  # functools.wraps


def _placement(place: str, loading: Loading) -> str | dict[str, str] | None:
    """The device map for transformers; None where `_placed` moves the model to its device."""
    if loading.device_map == "auto":
        return "auto"
    return None if loading.quantization == "none" else {"": place}  # quantised weights are placed while loading


def _quantized(quantization: Quantization, dtype: "torch.dtype") -> "BitsAndBytesConfig | None":
    from transformers import BitsAndBytesConfig

    if quantization == "none":
        return None
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _dtype(ckpt: str, source: Source, place: str, loading: Loading) -> "torch.dtype":
    """The precision to load in. The weights are counted only where their number decides it."""
    from interp.models.precision import chosen_dtype, free_bytes

    free = free_bytes(place, spread=loading.device_map == "auto")
    decisive = loading.dtype == "auto" and free is not None and not loading.training
    parameters = _parameters(ckpt, source, loading.remote_code) if decisive else 0
    return chosen_dtype(loading.dtype, parameters, free, training=loading.training)


def _parameters(ckpt: str, source: Source, remote_code: bool) -> int:
    """How many weights the model has, from its configuration alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(source.model, revision=source.revision, trust_remote_code=remote_code)
        with torch.device("meta"):  # shapes without memory
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=remote_code)
    except Exception as error:  # transformers answers a damaged file with exceptions of any type
        raise _not_loaded(ckpt, source, error) from error
    return int(model.num_parameters())


def _base(ckpt: str, source: Source, place: str, loading: Loading) -> "PreTrainedModel":
    """The model without its adapter, loaded by transformers.

    Raises:
        UserError: where it cannot be loaded, lacks weights, or its attention kernel leaves something out.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    exact_products(place)
    dtype = _dtype(ckpt, source, place, loading)
    try:
        # transformers declares a model; with output_loading_info it returns the pair (model, information)
        pair: Any = AutoModelForCausalLM.from_pretrained(
            source.model,
            dtype=dtype,
            device_map=_placement(place, loading),
            quantization_config=_quantized(loading.quantization, dtype),
            use_safetensors=True,
            output_loading_info=True,
            revision=source.revision,
            trust_remote_code=loading.remote_code,
            # transformers would also load an adapter from the model's directory; the user asked for the model alone
            adapter_kwargs={"subfolder": "none"} if Path(source.model).is_dir() else {},
        )
    except Exception as error:  # transformers answers a damaged file with exceptions of any type
        raise _not_loaded(ckpt, source, error) from error
    model: PreTrainedModel = pair[0]
    refuse_lacking_kernel(ckpt, model)
    if missing := sorted(pair[1]["missing_keys"]):  # transformers fills missing weights with random numbers
        raise UserError(f"--ckpt {ckpt}: {source.model} lacks the weights {', '.join(missing)[:200]}")
    return model


def refuse_lacking_kernel(ckpt: str, model: "PreTrainedModel") -> None:
    """Refuses an attention kernel that leaves out what the configuration or the weights ask for.

    Some versions of transformers silently ran Gemma-2 under a kernel without its soft-capping. Its logits were off by
    0.3; comparing the model with itself does not show this.

    Raises:
        UserError: where the kernel is sdpa and the attention has soft-capping or sinks.
    """
    kernel = getattr(model.config, "_attn_implementation", None) or "eager"
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    sinks = any(name.endswith(".sinks") for name, _ in model.named_parameters())
    lacking = [word for word, needed in (("soft-capping", capped), ("sinks", sinks)) if needed and kernel == "sdpa"]
    if lacking:
        raise UserError(
            f"--ckpt {ckpt}: its attention has {' and '.join(lacking)}, which the kernel {kernel} leaves out; "
            "install the version of transformers in constraints.txt"
        )


def _refuse_unknown_tokens(
    ckpt: str, model: "PreTrainedModel | PeftModel", tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Refuses a tokenizer that can turn a text into tokens that the model lacks.

    Control tokens do not count: the contents of prompts never hold them.

    Raises:
        UserError: where an ordinary token has an id beyond the model's vocabulary.
    """
    size = model.config.get_text_config().vocab_size
    control = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    if unknown := [token for token, index in tokenizer.get_vocab().items() if index >= size and index not in control]:
        raise UserError(
            f"--ckpt {ckpt}: its tokenizer has {len(unknown)} tokens that the model lacks, such as {unknown[0]!r}"
        )


def device_named(device: str) -> str:
    """The device that a name stands for; auto: cuda, else mps, else cpu.

    Raises:
        UserError: where this machine has no such device, or the name is malformed.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, present in available.items() if present)
    if not available.get(device.partition(":")[0], False):
        devices = ", ".join(name for name, present in available.items() if present)
        raise UserError(f"--device {device}: not available here; there is {devices}")
    if device.startswith("cuda:") and not device.removeprefix("cuda:").isdigit():
        raise UserError(f"--device {device}: write cuda or cuda:0")
    if device.startswith("cuda:") and int(device.removeprefix("cuda:")) >= torch.cuda.device_count():
        raise UserError(f"--device {device}: there are {torch.cuda.device_count()} here, counted from 0")
    return device


def _fingerprint(source: Source) -> str:
    """Twelve hex digits over local weights, configurations and templates.

    Of files above `WHOLE_BYTES` only the first and the last 16 MiB are read, which suffices to tell training runs
    apart. Reading a smaller file whole also brings it into memory in order: mapped weights that are first touched at
    random take many times longer on a cold disk (measured: 18 s against 1 s for 540 MB)."""
    digest = hashlib.sha256()
    for folder in filter(None, (Path(source.model), source.adapter)):
        kinds = (".safetensors", ".json", ".jinja")
        skipped = RUN_FILES if folder == source.adapter else ()
        paths = folder.iterdir() if folder.is_dir() else ()
        for file in sorted(p for p in paths if p.suffix in kinds and p.name not in skipped and p.is_file()):
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 24):
                    digest.update(block)
                    if size > WHOLE_BYTES:  # after the first block, skip to the last one
                        stream.seek(max(stream.tell(), size - (1 << 24)))
    return digest.hexdigest()[:12]


def _commit(model: "PreTrainedModel | PeftModel") -> str:
    """The hub's commit after a blank; nothing for local files."""
    commit = getattr(model.config, "_commit_hash", None)
    return f" {commit}" if commit else ""
