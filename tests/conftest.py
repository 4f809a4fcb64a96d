"""What all tests share: small tokenizers, models and checkpoints made on the spot, questions of our own, real data.

Nothing here needs a network. Each fixture that hands back a function remembers what it made for the whole session:
treat what it gives as read-only."""

import json
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from interp.datasets.questions import loaded_questions
from interp.run.runs import read_records

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from interp.models.checkpoints import Checkpoint
    from interp.models.setting import Setting
    from interp.records import Question, Transcript
    from training.triplets import Triplet

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# for the commands and notebooks that tests start (pytest has its own filters); ipykernel 7.4 warns as it ends
os.environ["PYTHONWARNINGS"] = "error,ignore:For consistency across implementations:PendingDeprecationWarning"

USUAL = 100
settings.register_profile("usual", max_examples=USUAL, deadline=None)
settings.register_profile("soak", max_examples=20 * USUAL, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))


def examples(usual: int) -> settings:
    """A test takes `usual` examples; under HYPOTHESIS_PROFILE=soak as many times more as the others do."""
    return settings(max_examples=max(1, usual * settings.default.max_examples // USUAL))


ROUNDED = ("seconds", "floor", "numerical_floor", "check")
"""What no two runs have in common: times, and what their numbers were rounded by."""


def close(one: object, other: object, within: float = 5e-6) -> bool:
    """The same tree of numbers to 5e-6 (which other questions are in a batch moves the last bits), whatever the seconds
    were that they took, and the last bits that the numerical floor is made of. Ends of intervals to 1e-4, since the
    correction for the skewness of a handful of values enlarges what rounding moves."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            key in ROUNDED or close(one[key], other[key], 1e-4 if key in ("low", "high") else within) for key in one
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(close(a, b, within) for a, b in zip(one, other, strict=True))
    return one == pytest.approx(other, abs=within)


def keys(folder: Path) -> list[tuple]:
    """Measure, set and question of every record of a run, in their order."""
    return [(record["measure"], record["set"], record["id"]) for record in read_records(folder)]


def filler_tokens(tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """The tokens that are a blank or a full stop: by the vocabulary itself, not by writing them."""
    return sorted(index for token, index in tokenizer.get_vocab().items() if token in (" ", "Ġ", "▁", "."))


def written_levels(setting: "Setting", transcript: "Transcript") -> list[list[tuple[int, ...]]]:
    """For each level the tokens that state it: alone, and with each token that may stand before the end of its line."""
    more = [(), *((token,) for token in filler_tokens(setting.checkpoint.tokenizer))]
    return [[(*suffix, *one) for one in more] for suffix in setting.prompter.level_suffixes(transcript)]


HERE = Path(__file__).resolve().parent
FAMILIES = ("llama", "mistral", "gemma2", "qwen2", "gemma3", "gpt_neox")
WINDOW = 16
"""The sliding window of the families that have one; every prompt of ours is longer."""
SPECIAL = ("<pad>", "<bos>", "<eos>", "<|start|>", "<|end|>")
SENTENCES = (
    "Answer the question as briefly as you can. Then state how confident you are that your answer is right.",
    "Question: What is the capital of France?",
    "Answer: Paris",
    "Confidence: 9",
    "Confidence: 1 Confidence: 2 Confidence: 3 Confidence: 4 Confidence: 5 Confidence: 6 Confidence: 7 Confidence: 8",
    "Confidence: 0 Confidence: high Confidence: very low Confidence: medium",
    "The system, the user and the assistant answer in two lines; one of them is surely wrong.",
)
CHATML = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
TEMPLATES = {
    "system": CHATML,
    "refuses": NO_SYSTEM + CHATML,
    "drops": CHATML.replace("in messages", "in messages if m['role'] != 'system'"),
    "bos": "{{ bos_token }}" + CHATML,
    "trims": CHATML.replace("m['content']", "m['content'] | trim"),
    "lowers": CHATML.replace("m['content']", "m['content'] | lower"),
    "thinks": CHATML + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n{% endif %}",
    "none": None,
}
"""What a chat template may do with a system turn and with contents; none: a tokenizer without a template."""
VOCABULARIES = ("digits", "spaced", "pieces")
"""digits: byte-level, each digit a token and the blank before it another. spaced: byte-level, " 9" is one token.
pieces: like sentencepiece, blanks are part of words ("▁9"), a line's end is a byte, and BOS is added by itself."""


PLAIN_LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, "task_type": "CAUSAL_LM"}
ADAPTER_KINDS: dict[str, dict] = {
    "lora": {},
    "dora": {"use_dora": True},
    "rank pattern": {"rank_pattern": {"v_proj": 3}, "alpha_pattern": {"q_proj": 5}},
    "biases of its own": {"lora_bias": True},
    "first weights out of the base's": {"init_lora_weights": "pissa"},
    "single parameters": {"target_modules": [], "target_parameters": ["down_proj.weight"]},
    "head saved": {"modules_to_save": ["lm_head"]},
    "embeddings saved": {"modules_to_save": ["embed_tokens"]},
    "norms saved": {"modules_to_save": ["input_layernorm"]},
    "all biases": {"bias": "all"},
    "its layers' biases": {"bias": "lora_only"},
    "token adapter": {"trainable_token_indices": [5, 12, 19]},
    "head and embeddings": {"target_modules": ["q_proj", "lm_head", "embed_tokens"]},
    "added tokens": {"modules_to_save": ["lm_head", "embed_tokens"]},
}
"""What each kind of adapter says beside PLAIN_LORA."""
ADDED_TOKENS = ("<added-1>", "<added-2>", "<added-3>")


@cache
def _tokenizer(vocabulary: str, template: str, *, adds_bos: bool) -> "PreTrainedTokenizerFast":
    from tokenizers import decoders, processors
    from transformers import PreTrainedTokenizerFast

    backend = _pieces() if vocabulary == "pieces" else _bytes(split_digits=vocabulary == "digits")
    if adds_bos:
        bos = ("<bos>", backend.token_to_id("<bos>"))
        backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    if vocabulary != "pieces":
        backend.decoder = decoders.ByteLevel()
    options = {"bos_token": "<bos>", "eos_token": "<|end|>", "pad_token": "<pad>"}
    # <eos> and <|start|> are special without a role by name, like Llama 3's turn markers
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **options)
    tokenizer.chat_template = TEMPLATES[template]
    tokenizer.name_or_path = f"tiny-{vocabulary}-{template}"
    return tokenizer


def _bytes(*, split_digits: bool):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alone = pre_tokenizers.Digits(individual_digits=True)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([alone, words]) if split_digits else words
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=480, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        ),
    )
    return backend


def _pieces():
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    rule = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learnt = Tokenizer(models.BPE())
    learnt.normalizer = rule
    learnt.train_from_iterator(
        [word for sentence in SENTENCES for word in sentence.split()],
        trainers.BpeTrainer(vocab_size=200, show_progress=False),
    )
    model = json.loads(learnt.to_str())["model"]
    tokens = ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    merges = [tuple(merge) for merge in model["merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = rule
    blank = decoders.Replace("▁", " ")
    backend.decoder = decoders.Sequence([blank, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens(list(SPECIAL))
    return backend


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Callable[..., "PreTrainedTokenizerFast"]:
    """tiny_tokenizer(vocabulary="digits", template="system", adds_bos=None): see VOCABULARIES and TEMPLATES.

    adds_bos: encoding a text puts <bos> before it; by default only in the vocabulary "pieces"."""

    def made(vocabulary: str = "digits", template: str = "system", adds_bos: bool | None = None):
        return _tokenizer(vocabulary, template, adds_bos=vocabulary == "pieces" if adds_bos is None else adds_bos)

    return made


@cache
def _model(family: str) -> "PreTrainedModel":
    import torch
    import transformers

    tokenizer = _tokenizer("digits", "system", adds_bos=False)
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, **ends}
    heads = {"num_attention_heads": 4, "initializer_range": 0.2, "max_position_embeddings": 1024}
    grouped = heads | {"num_key_value_heads": 2}
    window = {"sliding_window": WINDOW}
    kinds = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    gemma = grouped | window | kinds | {"head_dim": 12, "query_pre_attn_scalar": 12}
    name, options = {
        "llama": ("Llama", grouped),
        "mistral": ("Mistral", grouped | window),
        "gemma2": ("Gemma2", gemma | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 20.0}),
        "qwen2": ("Qwen2", grouped),
        "gemma3": ("Gemma3", gemma),
        "gpt_neox": ("GPTNeoX", heads),
    }[family]
    config = getattr(transformers, f"{name}{'Text' if family == 'gemma3' else ''}Config")(**sizes, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FAMILIES.index(family))
        model = getattr(transformers, f"{name}ForCausalLM")(config)
        with torch.no_grad():
            pad = model.get_input_embeddings().weight[tokenizer.pad_token_id]
            pad.copy_(torch.randn(len(pad)) * 0.2)  # random models leave that row at zero, where masking says nothing
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], "PreTrainedModel"]:
    """tiny_model(family): a random model of three layers, fp32, frozen, for the vocabulary "digits"; see FAMILIES."""
    return _model


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """tiny_checkpoint(family): a directory with that model and its tokenizer, for --ckpt."""

    @cache
    def saved(family: str) -> Path:
        folder = tmp_path_factory.mktemp("checkpoints") / family
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        _model(family).save_pretrained(folder)
        _tokenizer("digits", "system", adds_bos=False).save_pretrained(folder)
        return folder

    return saved


@pytest.fixture(scope="session")
def tiny_adapter(tiny_checkpoint: Callable[[str], Path]) -> Callable[[str], Path]:
    """tiny_adapter(family): the directory of a LoRA adapter on that checkpoint that changes its logits, for --ckpt."""

    @cache
    def saved(family: str) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        base = tiny_checkpoint(family)
        layers = ["query_key_value"] if family == "gpt_neox" else ["q_proj", "v_proj"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = LoraConfig(r=2, target_modules=layers, init_lora_weights=False, task_type="CAUSAL_LM")
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        model.save_pretrained(base.parent / f"{family}-adapter")
        return base.parent / f"{family}-adapter"

    return saved


@pytest.fixture(scope="session")
def adapter_of_kind(
    tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """adapter_of_kind(family, kind): the directory of an adapter with random weights on that checkpoint, for --ckpt."""

    @cache
    def saved(family: str, kind: str) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer

        base, folder = tiny_checkpoint(family), tmp_path_factory.mktemp("adapters") / kind.replace(" ", "-")
        model = AutoModelForCausalLM.from_pretrained(base)
        if kind == "added tokens":
            tokenizer = AutoTokenizer.from_pretrained(base)
            tokenizer.add_tokens(list(ADDED_TOKENS))
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            tokenizer.save_pretrained(folder)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft has a word to say on tied heads and on added tokens
            torch.manual_seed(len(kind))
            wrapped = get_peft_model(model, LoraConfig(**_in_names_of(family, PLAIN_LORA | ADAPTER_KINDS[kind])))
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.1 * torch.randn_like(parameter)
            wrapped.save_pretrained(folder)
        return folder

    return saved


def _in_names_of(family: str, config: dict) -> dict:
    """The configuration in the family's own names of modules."""
    ours = {"q_proj": "query_key_value", "v_proj": "dense", "lm_head": "embed_out", "embed_tokens": "embed_in"}
    ours["down_proj.weight"] = "dense_4h_to_h.weight"
    text = json.dumps(config)
    for name, own in ours.items() if family == "gpt_neox" else ():
        text = text.replace(f'"{name}"', f'"{own}"')
    return json.loads(text)


@pytest.fixture(scope="session")
def tiny_loaded(
    tiny_checkpoint: Callable[[str], Path], tiny_adapter: Callable[[str], Path]
) -> Callable[..., "Checkpoint"]:
    """tiny_loaded(family, adapter=False): the `Checkpoint` that --ckpt gives for one of those directories."""

    @cache
    def loaded(family: str, adapter: bool = False) -> "Checkpoint":
        from interp.models.checkpoints import Loading, loaded_checkpoint

        return loaded_checkpoint(str((tiny_adapter if adapter else tiny_checkpoint)(family)), Loading(device="cpu"))

    return loaded


@pytest.fixture(scope="session")
def own_data() -> Path:
    """The directory with our own questions: open.jsonl (12, of 3 relations) and choices.jsonl (6)."""
    return HERE / "data"


@pytest.fixture(scope="session")
def open_questions(own_data: Path) -> tuple["Question", ...]:
    """Twelve open questions of three relations."""
    return tuple(loaded_questions(str(own_data / "open.jsonl")))


@pytest.fixture(scope="session")
def choice_questions(own_data: Path) -> tuple["Question", ...]:
    """Six multiple-choice questions, two of them about a passage."""
    return tuple(loaded_questions(str(own_data / "choices.jsonl")))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The directory of benchmark questions that is not part of the repository; without it the test is skipped."""
    named = os.environ.get("ADVICE_TEST_DATA")
    folder = Path(named) if named else HERE.parent.parent / "shared" / "data"
    if not (folder / "mmlu.jsonl").is_file():
        pytest.skip("no benchmark questions here: set ADVICE_TEST_DATA to a directory that holds mmlu.jsonl")
    return folder


@pytest.fixture(scope="session")
def tiny_setting(tiny_loaded: Callable[..., "Checkpoint"], open_questions: tuple["Question", ...]) -> Callable:
    """tiny_setting(family, adapter=False, format="ScoreNumber"): that checkpoint ready to be asked, without shots."""

    @cache
    def ready(family: str, adapter: bool = False, format: str = "ScoreNumber"):
        from interp.formats import FORMATS
        from interp.models.setting import prepared

        return prepared(tiny_loaded(family, adapter), FORMATS[format], pool=open_questions)

    return ready


@pytest.fixture(scope="session")
def taught_checkpoint(tmp_path_factory: pytest.TempPathFactory, open_questions: tuple["Question", ...]) -> Path:
    """A directory with a small Llama that was taught, in some ten seconds, to answer most of the open questions right,
    some of them wrong, and to state 7 to 9 (ScoreNumber, no shots) after right answers and 0 to 3 after others.

    It learns the easy cue: an answer's length in tokens tells the relation that it belongs to."""
    import random

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from interp.formats import FORMATS
    from interp.models.prompts import Prompter

    disable_progress_bar()
    steps, whole, rows = 170, 45, 12
    tokenizer = _tokenizer("digits", "system", adds_bos=False)
    prompter = Prompter(tokenizer, FORMATS["ScoreNumber"])
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1}
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    answers = [question.answers[0] for question in open_questions]
    chance = random.Random(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ends, max_position_embeddings=1024))
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
        for step in range(steps):
            start = (
                0 if step >= steps - whole else len(prompter.shared_prefix) - 4
            )  # most steps leave the instruction out
            examples = []
            for _ in range(rows):
                question, right = chance.choice(open_questions), chance.random() < 0.6
                answer = question.answers[0] if right else chance.choice(answers)
                level = chance.choice("789" if answer == question.answers[0] else "0123")
                taught = prompter.transcript(question, answer, level=level)
                asked = len(prompter.transcript(question, free=True).ids)
                labels = [-100] * asked + list(taught.ids[asked:])
                examples.append(
                    ([*taught.ids, tokenizer.eos_token_id][start:], [*labels, tokenizer.eos_token_id][start:])
                )
            width = max(len(ids) for ids, _ in examples)
            ids = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in examples])
            labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in examples])
            optimizer.param_groups[0]["lr"] = 4e-3 * min(1, (steps - step) / (0.2 * steps))
            optimizer.zero_grad()
            model(ids, labels=labels).loss.backward()
            optimizer.step()
    folder = tmp_path_factory.mktemp("taught") / "llama"
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def taught_setting(taught_checkpoint: Path, open_questions: tuple["Question", ...]):
    """The taught checkpoint in ScoreNumber, ready to be asked."""
    from interp.formats import FORMATS
    from interp.models.checkpoints import Loading, loaded_checkpoint
    from interp.models.setting import prepared

    return prepared(
        loaded_checkpoint(str(taught_checkpoint), Loading(device="cpu")), FORMATS["ScoreNumber"], pool=open_questions
    )


def triplets_of(questions: Sequence["Question"], form: str = "ScoreNumber") -> list["Triplet"]:
    """Each question with its own answer and the next question's."""
    from training.triplets import Triplet

    return [Triplet(q, q.answers[0], other.answers[0], form) for q, other in pairwise((*questions, questions[0]))]


@pytest.fixture
def triplet_file(tmp_path: Path, open_questions: tuple["Question", ...]) -> Path:
    """A file of triplets over our own questions, and beside it one of answers, as `training.triplets` writes them."""
    from training.triplets import FORMATS_TRAINED, answers_beside

    path = tmp_path / "triplets.jsonl"
    rows = [
        {
            "id": t.question.id,
            "question": t.question.text,
            "answers": t.question.answers,
            "relation": t.question.relation,
        }
        | {"right": t.right, "wrong": t.wrong, "others": ["something else"], "format": form}
        for form in FORMATS_TRAINED
        for t in triplets_of(open_questions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    graded = [row | {"answer": row[side], "right": side == "right"} for row in rows for side in ("right", "wrong")]
    answers_beside(path).write_text("".join(json.dumps(row) + "\n" for row in graded))
    return path
