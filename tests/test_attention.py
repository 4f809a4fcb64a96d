"""The attention that rollout reads is the model's own, adapter in place; nothing of the reading stays on the model."""

import copy

import numpy as np
import pytest
import torch
from conftest import ADAPTER_KINDS, FAMILIES
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPTJConfig,
    GptOssConfig,
    GptOssForCausalLM,
)

from interp.errors import UserError
from interp.models.attention import SHOWN, attention_shown, head_means, refuse_hidden_attention
from interp.models.checkpoints import Loading, loaded_checkpoint
from interp.models.hooks import HookedModel

IDS = torch.arange(5, 45)[None] * 7 % 389
SMALL = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@torch.no_grad()
def own_attention(model, ids: torch.Tensor = IDS):
    """transformers' own word: every layer's weights and the logits under eager attention, adapters as peft has them."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = base.config._attn_implementation
    base.set_attn_implementation("eager")
    try:
        said = model(input_ids=ids, output_attentions=True, use_cache=False)
    finally:
        base.set_attn_implementation(before)
    return said.attentions, said.logits


@torch.no_grad()
def shown_attention(model, ids: torch.Tensor = IDS):
    kept = []
    with attention_shown(model, lambda weights, sinks: kept.append(weights)):
        logits = model(input_ids=ids, use_cache=False).logits
    return kept, logits


def sinking(**options) -> GptOssForCausalLM:
    """A small gpt-oss whose learned sinks take a good part of the attention."""
    torch.manual_seed(0)
    sizes = {"head_dim": 8, "num_key_value_heads": 2, "intermediate_size": 32, "num_local_experts": 2}
    config = GptOssConfig(**SMALL | sizes | {"num_experts_per_tok": 1, "sliding_window": 8} | options)
    model = GptOssForCausalLM(config).eval().requires_grad_(False)
    for layer in model.model.layers:
        layer.self_attn.sinks.data = torch.randn(4)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("family", "adapter"), [*((family, False) for family in FAMILIES), ("llama", True), ("gemma2", True)]
)
def test_the_attention_shown_is_that_of_output_attentions_to_the_bit(
    tiny_checkpoint, tiny_adapter, family, adapter, dtype
):
    ckpt = (tiny_adapter if adapter else tiny_checkpoint)(family)
    model = loaded_checkpoint(str(ckpt), Loading("cpu", str(dtype).removeprefix("torch."))).model
    shown, logits = shown_attention(model)
    own, expected = own_attention(model)
    assert len(shown) == len(own) == 3 and torch.equal(logits, expected)
    assert all(torch.equal(one, other) for one, other in zip(shown, own, strict=True))
    assert (shown[1] - shown[2]).abs().max() > 0.01, "layers differ"
    if adapter:
        with model.disable_adapter():
            assert (own_attention(model)[0][1].float() - own[1].float()).abs().max() > 1e-3, "the adapter is in it"


@pytest.mark.parametrize("kind", ADAPTER_KINDS)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_every_kind_of_adapter_is_read_in_its_place(adapter_of_kind, family, kind):
    model = loaded_checkpoint(str(adapter_of_kind(family, kind)), Loading("cpu")).model
    refuse_hidden_attention(model)
    means = head_means(model, [IDS[0].tolist()])[0]
    for mean, own in zip(means, own_attention(model)[0], strict=True):
        assert np.abs(mean - own[0].mean(0).numpy()).max() < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_head_means_are_the_models_own_attention_averaged_over_heads(tiny_model, family):
    model = tiny_model(family)
    prompts = [IDS[0, :n].tolist() for n in (40, 7, 25)]
    for prompt, layers in zip(prompts, head_means(model, prompts), strict=True):
        own, _ = own_attention(model, torch.tensor([prompt]))
        assert len(layers) == len(own) == model.config.num_hidden_layers and not layers.sinks
        for mean, attention in zip(layers, own, strict=True):
            assert np.abs(mean - attention[0].mean(0).numpy()).max() < 1e-5
            assert np.abs(mean - attention[0, 0].numpy()).max() > 0.01, "one head is not the mean"


@pytest.mark.parametrize("passes", [2, 3])
@pytest.mark.parametrize("family", [*FAMILIES, "sinks"])
def test_head_means_are_the_same_however_many_passes_read_the_prompts(tiny_model, family, passes):
    model = sinking() if family == "sinks" else tiny_model(family)
    prompts = [IDS[0, :n].tolist() for n in (40, 7, 25)]
    for one, other in zip(head_means(model, prompts), head_means(model, prompts, passes=passes), strict=True):
        assert len(one) == len(other) == model.config.num_hidden_layers and one.sinks == other.sinks
        assert max(np.abs(a - b).max() for a, b in zip(one, other, strict=True)) < 1e-6


@pytest.mark.parametrize(
    ("family", "adapter"), [("llama", False), ("mistral", False), ("gemma2", False), ("llama", True)]
)
def test_head_means_are_those_of_transformer_lens(tiny_loaded, family, adapter):
    model = tiny_loaded(family, adapter).model
    _, cache = HookedModel(model).bridge.run_with_cache(
        IDS, names_filter=lambda name: name.endswith("attn.hook_pattern")
    )
    for layer, mean in enumerate(head_means(model, [IDS[0].tolist()])[0]):
        theirs = cache[f"blocks.{layer}.attn.hook_pattern"][0].mean(0).numpy()
        assert np.abs(mean - theirs).max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_in_half_precision_rows_sum_to_1_all_the_same(tiny_model, family):
    model = copy.deepcopy(tiny_model(family)).bfloat16()
    raw = own_attention(model)[0]
    means = head_means(model, [IDS[0].tolist()])[0]
    assert max((layer[0].float().mean(0).sum(-1) - 1).abs().max() for layer in raw) > 1e-4, "they do not by themselves"
    for mean, own in zip(means, raw, strict=True):
        assert mean.sum(-1) == pytest.approx(1, abs=1e-6)
        exact = own[0].double().mean(0)
        assert np.abs(mean - exact.numpy()).max() < 0.005
        assert np.abs(mean - (exact / exact.sum(-1, keepdim=True)).numpy()).max() < 1e-6, (
            "the mean is not rounded again"
        )


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3"])
def test_the_attention_is_what_it_was_after_a_reading_and_after_an_exception(tiny_model, family):
    model = tiny_model(family)
    before = model.config._attn_implementation
    with torch.no_grad():
        said = model(IDS).logits
    head_means(model, [IDS[0].tolist()])
    with pytest.raises(ZeroDivisionError), attention_shown(model, lambda weights, sinks: 1 / 0):
        assert model.config._attn_implementation == SHOWN
        model(IDS)
    assert model.config._attn_implementation == model.model.config._attn_implementation == before
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, said)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (FalconConfig(**SMALL), "FalconForCausalLM"),
        (BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=4), "BloomForCausalLM"),
        (GPTJConfig(vocab_size=400, n_embd=32, n_layer=2, n_head=4, rotary_dim=4), "GPTJForCausalLM"),
    ],
    ids=["falcon", "bloom", "gptj"],
)
def test_a_family_that_hides_its_attention_is_refused_with_the_way_out(config, name):
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UserError, match=rf"{name}.*show.*attention.*; --leave-out rollout runs") as raised:
        refuse_hidden_attention(model)
    assert "\n" not in str(raised.value)


def test_layers_that_are_no_attention_are_counted(tiny_model):
    model = copy.deepcopy(tiny_model("llama"))
    model.config.num_hidden_layers = 5  # as where two of five layers were linear
    with pytest.raises(UserError, match=r"only 3 of 5 layers show their attention.*--leave-out rollout"):
        refuse_hidden_attention(model)


@pytest.mark.parametrize(
    "options", [{}, {"layer_types": ["full_attention", "full_attention"]}], ids=["sliding", "full"]
)
def test_what_goes_to_learned_sinks_is_what_rows_lack(options):
    model = sinking(**options)
    refuse_hidden_attention(model)
    (means,) = head_means(model, [IDS[0].tolist()])
    assert means.sinks and means[:1].sinks
    for mean, own in zip(means, own_attention(model)[0], strict=True):
        assert np.abs(mean - own[0].mean(0).numpy()).max() < 1e-6
        assert 0.02 < (1 - mean.sum(-1)).min() < (1 - mean.sum(-1)).max() < 0.9


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (
            lambda weights: weights * 0.9,
            r"layer 0: attention rows differ from 1 by up to 0\.1 and look ahead by up to 0:",
        ),
        (lambda weights: torch.full_like(weights, 1 / weights.shape[-1]), r"look ahead by up to 0\.025"),
        (lambda weights: weights * torch.nan, r"differ from 1 by up to nan"),
    ],
    ids=["less than 1", "ahead", "no numbers"],
)
def test_attention_that_rollout_cannot_use_is_refused(tiny_model, monkeypatch, spoil, match):
    from transformers.models.llama import modeling_llama

    honest = modeling_llama.eager_attention_forward

    def spoilt(*args, **options):
        output, weights = honest(*args, **options)
        return output, spoil(weights)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", spoilt)
    with pytest.raises(UserError, match=match + r".*--leave-out rollout"):
        refuse_hidden_attention(tiny_model("llama"))


def test_a_familys_subclass_is_read_by_the_function_that_its_attention_calls(tiny_model):
    from transformers import LlamaForCausalLM

    class UnheardOfForCausalLM(LlamaForCausalLM):
        pass

    model = copy.copy(tiny_model("llama"))
    model.__class__ = UnheardOfForCausalLM
    assert len(head_means(model, [IDS[0].tolist()])[0]) == 3
